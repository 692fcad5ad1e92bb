//! The nodes of the cluster: who they are, and what they are told.

use once_cell::sync::OnceCell;

use super::message::{Kind, Message, Named};
use super::remembered::{Known, memory, now, remember};
use crate::accounting::context::CallEnd;
use crate::accounting::record::EndCause;
use crate::journal::Dir;
use crate::worker;

/// What was sent up to this long before a node was found to be away may not have arrived there, in microseconds.
const UNHEARD: u64 = 60_000_000;
/// How long after its return a node is told new values, in microseconds: first the host sends it the dialogs that it lacks.
const SYNCED: u64 = 5_000_000;
/// Most changes per second that nodes are told again: each is a packet of its own.
const AGAIN: u64 = 500;
/// Most calls in one message, so that it fits in any of the host's packets.
pub const MOST: usize = 256;

/// The cluster as a host family offers it.
pub trait Nodes: Sync {
    /// Number of this node.
    fn node(&self) -> i32;

    /// Sends to one node, or to all others. Returns whether it could be sent to any node; one that cannot be reached is asked, or
    /// asks, later.
    fn send(&self, to: Option<i32>, message: &[u8]) -> bool;

    /// Does the call go on in a dialog here?
    fn goes_on(&self, named: &Named) -> bool;

    /// Another node has written the CDR of the call, which may still have its dialog here.
    fn close(&self, named: &Named);

    /// Sends the values of the call to all others once more, if it goes on here.
    fn tell_again(&self, named: &Named);
}

static NODES: OnceCell<&'static dyn Nodes> = OnceCell::new();

/// Sets the cluster; once, before the fork.
pub fn join(nodes: &'static dyn Nodes) {
    let _ = NODES.set(nodes);
}

/// The cluster, once joined.
pub(super) fn nodes() -> Option<&'static dyn Nodes> {
    NODES.get().copied()
}

/// Is this server a node of a cluster, exchanging messages about calls?
pub fn is_joined() -> bool {
    NODES.get().is_some()
}

/// Sends as many messages as necessary; returns whether all could be sent.
pub(super) fn send(nodes: &dyn Nodes, to: Option<i32>, kind: Kind, calls: &[Named]) -> bool {
    let journal = worker::instance().and_then(|m| m.journal.as_ref()).map_or(0, Dir::id);
    let mut sent = true;
    for part in calls.chunks(MOST) {
        sent &= nodes.send(to, &Message { kind, node: nodes.node(), journal, calls: part.to_vec() }.encode());
    }
    sent
}

/// The call has its CDR, or none is due: tells the other nodes. Nodes that hear it now also know that a lifetime is over; nodes
/// that were away may have gone on with the call.
pub fn settled(end: &CallEnd) {
    let Some(nodes) = NODES.get() else { return };
    if end.answered.is_some() {
        let cause = end.records.first().and_then(|record| record.end);
        let known = Known::of(end.is_guess());
        remember(end.call, known);
        let named = Named { call: end.call, dialog: end.dialog.clone() };
        if let Some(memory) = memory() {
            memory.note_told(&named, known, now());
        }
        send(*nodes, None, if cause == Some(EndCause::Orphan) { Kind::Guessed } else { Kind::Settled }, &[named]);
    }
}

/// The end of a call is known here and its dialog is gone, but its CDR is still to come: the BYE waits for its reply, or the
/// journal has no room.
pub fn ends(call: u128) {
    if let Some(memory) = memory().filter(|_| is_joined()) {
        memory.ending.insert(call, 0);
    }
}

/// It no longer has to wait.
pub fn ended(call: u128) {
    if let Some(memory) = memory().filter(|_| is_joined()) {
        memory.ending.remove(call);
    }
}

/// The script has changed values of a call that goes on: nodes that cannot be reached are told later.
pub fn changed(named: &Named) {
    if let Some(memory) = memory().filter(|_| is_joined()) {
        memory.note_changed(named, now());
    }
}

/// The host can no longer reach a node.
pub fn lost(node: i32) {
    if let Some(memory) = memory() {
        memory.lost(node, now());
    }
}

/// The host can reach a node again.
pub fn found(node: i32) {
    if let Some(memory) = memory() {
        memory.found(node);
    }
}

/// Tells the nodes that are back what was settled and changed while they were away. Not done when the host reports them as
/// back, because it holds its locks then.
pub fn tell_returned() {
    let (Some(nodes), Some(memory)) = (NODES.get(), memory()) else { return };
    while let Some((node, since)) = memory.take_back() {
        let told = memory.told_since(since.saturating_sub(UNHEARD));
        let of = |how| told.iter().filter(|(_, known)| *known == how).map(|(named, _)| named.clone()).collect::<Vec<_>>();
        let all = [(Kind::Settled, of(Known::Settled)), (Kind::Guessed, of(Known::Guessed))];
        if all.iter().all(|(kind, calls)| send(*nodes, Some(node), *kind, calls)) {
            memory.tell_changed_since(since.saturating_sub(UNHEARD), now() + SYNCED);
        } else {
            memory.lost(node, since);
        }
    }
    memory.take_changed(AGAIN, now()).iter().for_each(|named| nodes.tell_again(named));
}

/// May calls that nobody knows end now? If no other node has answered, another round is waited for, since
/// after a start the nodes need some time to find each other. A node that can be reached is waited for
/// longer.
pub fn may_end_orphans() -> bool {
    memory().is_none_or(|memory| !is_joined() || memory.may_end_orphans())
}
