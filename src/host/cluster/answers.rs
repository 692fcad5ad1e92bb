//! What this node asks the others about calls that wait here for their dialogs, and what it answers them.

use std::sync::atomic::Ordering;

use super::message::{Kind, Message, Named};
use super::nodes::{MOST, Nodes, nodes, send};
use super::remembered::{Known, is_ending, known, memory, remember};
use crate::accounting::limited::Lines;
use crate::host::revival;
use crate::journal::{Dir, End};
use crate::worker::{self, Instance};

/// Asks for the calls that wait for their dialogs.
pub fn ask() {
    let (Some(nodes), Some(memory)) = (nodes(), memory()) else { return };
    let waiting = revival::waiting();
    if !waiting.is_empty() {
        memory.asks(waiting.len().div_ceil(MOST) as u64);
        memory.reached.store(send(nodes, None, Kind::Ask, &waiting).into(), Ordering::Relaxed);
    }
}

/// A message of another node came.
pub fn heard(instance: &Instance, message: &[u8]) {
    // A node with a newer version sends one for each call that ends.
    static UNREADABLE: Lines = Lines::none();
    let Some(nodes) = nodes() else { return };
    let Some(message) = Message::decode(message) else {
        UNREADABLE.warn("parameter cluster_id: a message of another node cannot be read: run the same version of this module on all nodes");
        return;
    };
    match message.kind {
        Kind::Settled => {
            message.calls.iter().filter(|named| known(named.call) != Some(Known::Settled)).for_each(|named| close(nodes, instance, named, Known::Settled));
        }
        Kind::Guessed => {
            let stays = |named: &Named| known(named.call).is_some() || goes_on(nodes, named) || revival::answers_for(named, false);
            message.calls.iter().filter(|named| !stays(named)).for_each(|named| close(nodes, instance, named, Known::Guessed));
        }
        Kind::Answered => {
            if let Some(memory) = memory() {
                memory.heard.fetch_add(1, Ordering::Relaxed);
            }
        }
        Kind::Here => message.calls.iter().for_each(revival::is_elsewhere),
        Kind::Ask => {
            let ours = instance.journal.as_ref().map_or(0, Dir::id);
            let (settled, others): (Vec<_>, Vec<_>) = message.calls.into_iter().partition(|named| known(named.call) == Some(Known::Settled));
            let (guessed, unknown): (Vec<_>, Vec<_>) = others.into_iter().partition(|named| known(named.call) == Some(Known::Guessed));
            // If two nodes wait for a call, the one with the greater journal number answers for it.
            let here = |named: &Named| goes_on(nodes, named) || revival::answers_for(named, ours > message.journal);
            let here: Vec<_> = unknown.into_iter().filter(here).collect();
            for (kind, calls) in [(Kind::Settled, settled), (Kind::Guessed, guessed), (Kind::Here, here)] {
                send(nodes, Some(message.node), kind, &calls);
            }
            // If one cannot be sent, the other node will ask again.
            let end = Message { kind: Kind::Answered, node: nodes.node(), journal: ours, calls: Vec::new() };
            let _ = nodes.send(Some(message.node), &end.encode());
        }
    }
}

/// Does the call have a dialog here, or is its end known here and its CDR still to come?
fn goes_on(nodes: &dyn Nodes, named: &Named) -> bool {
    is_ending(named.call) || nodes.goes_on(named)
}

/// Another node has written the CDR of a call: nothing is left to do for it here.
fn close(nodes: &dyn Nodes, instance: &Instance, named: &Named, how: Known) {
    remember(named.call, how);
    revival::settled(named);
    nodes.close(named);
    worker::forget(instance, End { guessed: how == Known::Guessed, ..End::seen(named.call) });
}
