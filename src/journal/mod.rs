//! The journal: what workers hand to the delivery process, as files that survive both.
//!
//! A directory holds segments. Every segment has one writer, which only appends; the delivery
//! process only reads, and removes a segment once every sink is past its end. Nothing is shared
//! between writers, so that an append takes one `write` and no lock.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held by the server that uses the directory (flock, inherited by its children); its time is the last sign of life |
//! | `start` | number of the last start of the server, 16 hexadecimal digits |
//! | `ends` | the last signs of life of earlier servers whose calls were open at the last start, a line each, as in `lock` |
//! | `id` | random name of this journal, 16 hexadecimal digits; keeps servers apart in `acc_delivery` |
//! | `BOOT-RANK-PID-SEQ.seg` | a segment, see `frame` |
//! | `BOOT-RANK-PID-SEQ-OFFSET.bad` | bytes of a segment that are not an entry |
//! | such a segment of rank -16 or less | entries of the destination with the number -16 - rank that wait separately, see `parking` |
//! | `cursor-SINK` | how far a sink has come, if the sink cannot store that itself |
//! | `committed-db` | what the database last reported about itself, to recognise an older one |
//! | `kept/` | segments that every sink has passed, see `kept` |
//! | `gone` | up to which time kept segments are gone |
//! | `dead-SINK.jsonl` | entries that can never be delivered, with the reason |
//! | `requeued-SINK-BOOT.jsonl` | those that were put back; `requeueing-...` while that is under way |
#![forbid(unsafe_code)]

pub mod calls;
mod committed;
pub mod counts;
mod cursor;
mod dead;
mod dir;
mod entry;
mod frame;
pub mod json;
mod kept;
pub mod limit;
mod owner;
pub mod parking;
mod passed_over;
mod reader;
mod requeue;
mod said;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use committed::{Committed, Stamp};
pub use dead::{DeadLetters, Letter};
pub use dir::{Dir, JournalError};
pub(crate) use dir::{free_removed, random};
pub use entry::{Entry, Parked, Payload, Positions, SinkId, merge};
pub(crate) use frame::HEADER_LENGTH;
pub use frame::{FRAME_MAX, KIND_CALL, KIND_LOG_LINE, KIND_PARKED, KIND_RECORD};
pub use kept::Kept;
pub use parking::Parking;
pub use reader::{Frame, Item, Reader};
pub use requeue::PutBack;
pub use said::End;
pub use segment::{REQUEUE_RANK, Segment, SegmentName};
pub use writer::{AppendError, JournalSync, Writer};
