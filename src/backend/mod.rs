//! Where records go. `log` and `event` are used by the workers, `sql` and `radius` by the
//! delivery process through [`Sink`].
#![forbid(unsafe_code)]

pub mod event;
pub mod log;
pub mod radius;
pub mod sql;
pub mod syslog;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::acc::record::{Backend, Record, Wall};
use crate::journal::{DeadLetters, SegmentName};
use crate::stats::{self, Counter, SinkCounters, SinkState};

/// The destinations the delivery process serves, each with a cursor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SinkId {
    /// The SQL database of `db_url`.
    Db = 0,
    /// The RADIUS servers of `aaa_url`.
    Aaa = 1,
    /// The syslog socket: lines that it did not take at once.
    Log = 2,
}

impl SinkId {
    /// Every sink.
    pub const ALL: [SinkId; 3] = [SinkId::Db, SinkId::Aaa, SinkId::Log];

    /// Name in counters, files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            SinkId::Db => "db",
            SinkId::Aaa => "aaa",
            SinkId::Log => "log",
        }
    }

    /// The sink whose number is `n`.
    pub const fn from_index(n: u8) -> Option<SinkId> {
        match n {
            0 => Some(SinkId::Db),
            1 => Some(SinkId::Aaa),
            2 => Some(SinkId::Log),
            _ => None,
        }
    }

    /// The sink of a backend's records; `None` when workers write them themselves.
    pub const fn of(backend: Backend) -> Option<SinkId> {
        match backend {
            Backend::Db => Some(SinkId::Db),
            Backend::Aaa => Some(SinkId::Aaa),
            Backend::Log | Backend::Evi => None,
        }
    }
}

impl SinkId {
    /// All its counters.
    pub const fn counters(self) -> &'static SinkCounters {
        &stats::SINKS[self as usize]
    }

    /// Counts the entries accepted for it.
    pub const fn accepted(self) -> Counter {
        self.counters().accepted
    }

    /// Counts the entries delivered by it.
    pub const fn delivered(self) -> Counter {
        self.counters().delivered
    }

    /// Counts the entries it gave up.
    pub const fn dead(self) -> Counter {
        self.counters().dead
    }

    /// What its delivery keeps beside the counters.
    pub fn state(self) -> &'static SinkState {
        stats::sink(self as usize)
    }
}

/// What a journal entry asks a sink to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Deliver this record.
    Record(Box<Record>),
    /// Send this finished datagram to the syslog socket.
    LogLine(Vec<u8>),
}

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is stored or acknowledged.
    Delivered,
    /// It can never be delivered: dead-letter file, with this reason.
    Dead(String),
    /// Not now: try again later, for this reason.
    Retry(String),
}

/// A journal entry on its way to a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Segment it stands in.
    pub segment: SegmentName,
    /// Byte offset of its frame; with the segment its identity.
    pub offset: u64,
    /// Offset behind its frame.
    pub end: u64,
    /// When it was appended.
    pub wall: Wall,
    /// What it asks for.
    pub payload: Payload,
}

/// How far a sink is in each segment, in bytes.
pub type Positions = BTreeMap<SegmentName, u64>;

/// What has to become durable together with a batch.
pub struct Commit<'a> {
    /// New positions of the cursor.
    pub positions: &'a Positions,
    /// Removed segments whose positions are not needed any more.
    pub retired: &'a [SegmentName],
    /// Where entries with [`Fate::Dead`] go.
    pub dead: &'a mut DeadLetters,
    /// Set by a sink that stored the positions itself; it has then also written the dead letters,
    /// before the positions. Otherwise the caller does both.
    pub stored: bool,
}

/// Why nothing of a batch was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The sink does not take entries now, for this reason: the same batch is tried again later.
    Outage(String),
    /// The stored cursor is not where this process left it: it has to be read again.
    Stale,
}

/// A destination, as the delivery process sees it. One task owns it, so it needs no lock.
#[expect(async_fn_in_trait, reason = "implemented and called in this crate only, on one thread")]
pub trait Sink {
    /// Connects, and returns the stored cursor for the journal of this number; `None`: the sink
    /// keeps none, the caller keeps it in a file.
    async fn open(&mut self, journal: u64) -> Result<Option<Positions>, String>;

    /// Delivers a batch: one fate for each entry, in order, or nothing at all.
    async fn deliver(&mut self, batch: &[Entry], commit: &mut Commit<'_>) -> Result<Vec<Fate>, Trouble>;
}

/// A future of this crate's single-threaded runtime.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Most records given to a [`RecordSender`] at once: an identifier has one byte, and a batch that
/// is interrupted is sent again. In a smaller batch nothing else waits to be sent.
pub const SENDER_BATCH: usize = 100;

/// A sink that takes records one by one and acknowledges each, such as a RADIUS client. It keeps
/// no cursor: after a crash the last batch is sent again.
pub trait RecordSender {
    /// Sends records; one fate for each, in order.
    fn send_all<'a>(&'a mut self, records: &'a [(&'a Record, Wall)]) -> LocalFuture<'a, Vec<Fate>>;
}

/// A value for a row of a [`HostDatabase`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostValue {
    /// No value.
    Null,
    /// Bytes of text.
    Text(Vec<u8>),
    /// A moment, in seconds since 1970.
    Time(i64),
    /// A number.
    Int(i32),
}

/// A database behind one of the host's own database modules. Its functions block.
pub trait HostDatabase: Send {
    /// Connects, after giving up an earlier connection.
    fn connect(&mut self) -> Result<(), String>;

    /// Stores one row; false when it is refused, for whatever reason.
    fn insert(&mut self, table: &str, columns: &[Arc<str>], values: &[HostValue]) -> bool;
}
