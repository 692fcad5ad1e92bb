//! Messages between nodes, as bytes.

use crate::accounting::wire::Reader;

/// What one node tells others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// These calls have their CDRs.
    Settled = 1,
    /// What is known about these calls? They were in progress here when this server last stopped.
    Ask = 2,
    /// These calls go on here, or wait here to be claimed.
    Here = 3,
    /// These calls have CDRs, but their ends are not known for sure: a node that has one of them, or knows its end, lets it go on.
    Guessed = 4,
    /// That is all that is known about the calls that were asked for.
    Answered = 5,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Settled, Kind::Ask, Kind::Here, Kind::Guessed, Kind::Answered];
}

const VERSION: u8 = 1;

/// A call in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// See [`crate::accounting::context::Context::call_key`].
    pub call: u128,
    /// The host's name of its dialog, the same on every node.
    pub dialog: Vec<u8>,
}

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub kind: Kind,
    /// The node that sends it.
    pub node: i32,
    /// Number of its journal.
    pub journal: u64,
    pub calls: Vec<Named>,
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.kind as u8];
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.journal.to_le_bytes());
        for named in &self.calls {
            // A dialog's name has some 20 characters.
            let Ok(length) = u8::try_from(named.dialog.len()) else { continue };
            out.extend_from_slice(&named.call.to_le_bytes());
            out.push(length);
            out.extend_from_slice(&named.dialog);
        }
        out
    }

    /// `None` if the bytes are not a message of this version.
    pub fn decode(input: &[u8]) -> Option<Message> {
        let mut r = Reader(input);
        if r.u8()? != VERSION {
            return None;
        }
        let number = r.u8()?;
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == number)?;
        let node = r.u32()? as i32;
        let journal = r.u64()?;
        let mut calls = Vec::new();
        while !r.0.is_empty() {
            let call = u128::from_le_bytes(*r.take(16)?.first_chunk()?);
            let length = r.u8()?;
            calls.push(Named { call, dialog: r.take(usize::from(length))?.to_vec() });
        }
        Some(Message { kind, node, journal, calls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn message()(kind in 0..Kind::ALL.len(), node in any::<i32>(), journal in any::<u64>(),
                     calls in proptest::collection::vec((any::<u128>(), proptest::collection::vec(any::<u8>(), 0..256)), 0..5)) -> Message {
            let kind = Kind::ALL[kind];
            Message { kind, node, journal, calls: calls.into_iter().map(|(call, dialog)| Named { call, dialog }).collect() }
        }
    }

    proptest! {
        #[test]
        fn decode_reverses_encode(m in message()) {
            prop_assert_eq!(Message::decode(&m.encode()), Some(m));
        }

        #[test]
        fn hostile_bytes_never_panic(mut b in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::decode(&b);
            if let [version, kind, ..] = &mut b[..] {
                (*version, *kind) = (VERSION, Kind::Ask as u8);
            }
            let _ = Message::decode(&b);
        }
    }
}
