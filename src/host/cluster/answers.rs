//! What this node asks others of the calls that wait here for their dialogs, and what it answers them.

use std::sync::atomic::Ordering;

use super::message::{Kind, Message, Named};
use super::nodes::{nodes, send};
use super::remembered::{is_settled, memory, remember};
use crate::host::revival;
use crate::journal::Dir;
use crate::worker::{self, Instance};

/// Asks for the calls that wait for their dialogs.
pub fn ask() {
    let (Some(nodes), Some(memory)) = (nodes(), memory()) else { return };
    let waiting = revival::waiting();
    if !waiting.is_empty() {
        memory.reached.store(send(nodes, None, Kind::Ask, &waiting).into(), Ordering::Relaxed);
    }
}

/// A message of another node came.
pub fn heard(instance: &Instance, message: &[u8]) {
    let (Some(nodes), Some(message)) = (nodes(), Message::decode(message)) else {
        log::warn!("parameter cluster_id: a message of another node cannot be read: let all nodes have the same version of this module");
        return;
    };
    // A node that only asks has not answered yet.
    if let (Some(memory), Kind::Settled | Kind::Here) = (memory(), message.kind) {
        memory.heard.store(1, Ordering::Relaxed);
    }
    match message.kind {
        Kind::Settled => {
            for named in message.calls.iter().filter(|named| !is_settled(named.call)) {
                remember(named.call);
                revival::settled(named);
                nodes.close(named);
                worker::forget(instance, named.call);
            }
        }
        Kind::Here => message.calls.iter().for_each(revival::is_elsewhere),
        Kind::Ask => {
            let ours = instance.journal.as_ref().map_or(0, Dir::id);
            let (known, unknown): (Vec<_>, Vec<_>) = message.calls.into_iter().partition(|named| is_settled(named.call));
            // Where two nodes wait for a call, the one with the greater journal answers for it.
            let here = |named: &Named| nodes.goes_on(named) || revival::answers_for(named, ours > message.journal);
            let here: Vec<_> = unknown.into_iter().filter(here).collect();
            send(nodes, Some(message.node), Kind::Settled, &known);
            send(nodes, Some(message.node), Kind::Here, &here);
            if known.is_empty() && here.is_empty() {
                // That is an answer, too. One that cannot be sent is asked for again.
                let nothing = Message { kind: Kind::Settled, node: nodes.node(), journal: ours, calls: Vec::new() };
                let _ = nodes.send(Some(message.node), &nothing.encode());
            }
        }
    }
}
