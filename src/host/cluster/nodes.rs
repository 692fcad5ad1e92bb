//! The nodes of the cluster: who they are, and what they are told.

use once_cell::sync::OnceCell;

use super::message::{Kind, Message, Named};
use super::remembered::{memory, now, remember};
use crate::accounting::context::CallEnd;
use crate::journal::Dir;
use crate::worker;

/// What was said so long before a node was found to be away may not have come there, in microseconds.
const UNHEARD: u64 = 60_000_000;
/// Most calls in one message, so that it fits in any of the host's packets.
pub const MOST: usize = 256;

/// The cluster as a host family offers it.
pub trait Nodes: Sync {
    /// Number of this node.
    fn node(&self) -> i32;

    /// Sends to one node, or to all others; could it be sent to any? Who cannot be reached is asked, or
    /// asks, later.
    fn send(&self, to: Option<i32>, message: &[u8]) -> bool;

    /// The call goes on in a dialog here.
    fn goes_on(&self, named: &Named) -> bool;

    /// Another node has written the CDR of the call, which may still have its dialog here.
    fn close(&self, named: &Named);
}

static NODES: OnceCell<&'static dyn Nodes> = OnceCell::new();

/// The cluster is there; once, before the fork.
pub fn join(nodes: &'static dyn Nodes) {
    let _ = NODES.set(nodes);
}

/// The cluster, once joined.
pub(super) fn nodes() -> Option<&'static dyn Nodes> {
    NODES.get().copied()
}

/// This server is a node of a cluster, and tells and hears of calls.
pub fn is_joined() -> bool {
    NODES.get().is_some()
}

/// Sends as many messages as it takes; could all be sent?
pub(super) fn send(nodes: &dyn Nodes, to: Option<i32>, kind: Kind, calls: &[Named]) -> bool {
    let journal = worker::instance().and_then(|m| m.journal.as_ref()).map_or(0, Dir::id);
    let mut sent = true;
    for part in calls.chunks(MOST) {
        sent &= nodes.send(to, &Message { kind, node: nodes.node(), journal, calls: part.to_vec() }.encode());
    }
    sent
}

/// The call has its CDR, or none is due: the other nodes hear of it.
pub fn settled(end: &CallEnd) {
    let Some(nodes) = NODES.get() else { return };
    if end.answered.is_some() {
        remember(end.call);
        let named = Named { call: end.call, dialog: end.dialog.clone() };
        if let Some(memory) = memory() {
            memory.note_told(&named, now());
        }
        send(*nodes, None, Kind::Settled, &[named]);
    }
}

/// The host cannot reach a node any more.
pub fn lost(node: i32) {
    if let Some(memory) = memory() {
        memory.lost(node, now());
    }
}

/// The host can reach a node.
pub fn found(node: i32) {
    if let Some(memory) = memory() {
        memory.found(node);
    }
}

/// Tells the nodes that are back what was settled while they were away. Not when that is found: the host
/// has its locks then.
pub fn tell_returned() {
    let (Some(nodes), Some(memory)) = (NODES.get(), memory()) else { return };
    while let Some((node, since)) = memory.take_back() {
        let calls = memory.told_since(since.saturating_sub(UNHEARD));
        if !send(*nodes, Some(node), Kind::Settled, &calls) {
            memory.lost(node, since);
        }
    }
}

/// May calls that nobody knows of end now? While no other node has answered, one more round is waited
/// for: after a start it takes the nodes some time to find each other. A node that can be reached is
/// waited for longer.
pub fn may_end_orphans() -> bool {
    memory().is_none_or(|memory| !is_joined() || memory.may_end_orphans())
}
