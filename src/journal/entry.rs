//! The entries of the journal for the delivery process, and their sinks.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{KIND_LOG_LINE, KIND_RECORD, SegmentName};
use crate::accounting::clock::Wall;
use crate::accounting::record::Record;
use crate::accounting::wire::{Reader, put_bytes};
pub use crate::declaration::SinkId;

/// What a journal entry asks a sink to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Deliver this record.
    Record(Box<Record>),
    /// Send this finished datagram to the syslog socket.
    LogLine(Vec<u8>),
}

impl Payload {
    /// Kind and payload of its frame in the journal.
    pub fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Payload::Record(r) => {
                let mut bytes = Vec::new();
                r.encode(&mut bytes);
                (KIND_RECORD, bytes)
            }
            Payload::LogLine(line) => (KIND_LOG_LINE, line.clone()),
        }
    }
}

/// A journal entry on its way to a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Segment that contains it.
    pub segment: SegmentName,
    /// Byte offset of its frame; with the segment its identity.
    pub offset: u64,
    /// Offset after its frame.
    pub end: u64,
    /// When it was appended.
    pub wall: Wall,
    /// What to deliver.
    pub payload: Payload,
    /// It has left the stream, and this is its copy.
    pub parked: Option<Parked>,
}

impl Entry {
    /// It is a record of a call that is up, see [`Record::is_interim`].
    pub fn is_interim(&self) -> bool {
        matches!(&self.payload, Payload::Record(r) if r.is_interim())
    }
}

/// Place of an entry.
pub type Place = (SegmentName, u64);

/// What is known about a parked entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Where it was before.
    pub from: Place,
    /// How often it was refused while the destination accepted others.
    pub offers: u32,
    /// How often it was copied before this copy.
    pub tries: u32,
    /// The table that it waits for; empty: it only waits for its next attempt.
    pub queue: Arc<str>,
    /// Why.
    pub reason: String,
    /// When the copy was made.
    pub since: Wall,
}

impl Parked {
    pub(super) fn encode(&self, kind: u8, wall: Wall, payload: &[u8], out: &mut Vec<u8>) {
        out.push(kind);
        out.extend_from_slice(&wall.0.to_le_bytes());
        let (from, offset) = self.from;
        out.extend_from_slice(&from.boot.to_le_bytes());
        out.extend_from_slice(&from.rank.to_le_bytes());
        out.extend_from_slice(&from.pid.to_le_bytes());
        out.extend_from_slice(&from.seq.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&self.offers.to_le_bytes());
        out.extend_from_slice(&self.tries.to_le_bytes());
        put_bytes(out, self.queue.as_bytes());
        put_bytes(out, self.reason.as_bytes());
        out.extend_from_slice(payload);
    }

    /// Reads the payload of a frame that was appended at `since`: with kind, time and payload of the entry.
    pub(super) fn decode(payload: &[u8], since: Wall) -> Option<(Parked, u8, Wall, &[u8])> {
        let mut r = Reader(payload);
        let kind = r.u8()?;
        let wall = Wall(r.i64()?);
        let from = SegmentName { boot: r.u64()?, rank: r.u32()?.cast_signed(), pid: r.u32()?, seq: r.u32()? };
        let (offset, offers, tries) = (r.u64()?, r.u32()?, r.u32()?);
        let (queue, reason) = (r.text()?.into(), r.text()?.into());
        Some((Parked { from: (from, offset), offers, tries, queue, reason, since }, kind, wall, r.0))
    }
}

/// How far a sink has come in each segment, in bytes.
pub type Positions = BTreeMap<SegmentName, u64>;

/// Adds other positions: what is before either of two is delivered.
pub fn merge(positions: &mut Positions, others: impl IntoIterator<Item = (SegmentName, u64)>) {
    for (segment, other) in others {
        let own = positions.entry(segment).or_insert(other);
        *own = other.max(*own);
    }
}
