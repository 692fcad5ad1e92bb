//! Where records go. `log` and `event` are used by the workers, `sql` and `radius` by the
//! delivery process through [`Sink`].
#![forbid(unsafe_code)]

pub mod radius;

use crate::acc::record::Record;

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
