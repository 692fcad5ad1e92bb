//! Streams into brokers and web servers, on the way that records take: journal, delivery, broker. Each is killed in the
//! middle, and so is the delivery; every record is there in the end.
//!
//! Tests with the same stream run one after the other, because its counters belong to the whole process.
#![forbid(unsafe_code)]
#![cfg(any(feature = "amqp", feature = "http", feature = "kafka", feature = "nats"))]

#[cfg(feature = "amqp")]
mod amqp;
#[cfg(feature = "nats")]
mod cluster;
#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "nats")]
mod consumers;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "nats")]
mod proxies;
mod tls;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use acc::accounting::record::{Backend, Core, Kind, Record};
use acc::config::Config;
use acc::journal::{Dir, JournalSync, SinkId, Writer};
use acc::params::{Draft, RawValue};
use acc::stats;
use common::*;

/// A test's turn with a stream, with its counters as they were.
pub struct Turn {
    sink: SinkId,
    delivered: u64,
    dead: u64,
    _alone: MutexGuard<'static, ()>,
}

impl Turn {
    /// Waits for it.
    pub fn with(sink: SinkId) -> Turn {
        static TURNS: [Mutex<()>; SinkId::COUNT] = [const { Mutex::new(()) }; SinkId::COUNT];
        let alone = TURNS[sink.index()].lock().unwrap_or_else(PoisonError::into_inner);
        Turn { sink, delivered: stats::get(sink.delivered()), dead: stats::get(sink.dead()), _alone: alone }
    }

    /// Records delivered in this turn.
    pub fn delivered(&self) -> u64 {
        stats::get(self.sink.delivered()) - self.delivered
    }

    /// Those given up.
    pub fn dead(&self) -> u64 {
        stats::get(self.sink.dead()) - self.dead
    }
}

/// A configuration with a stream to this URL.
pub fn streaming(url: &str, journal: &Path) -> Config {
    let mut draft = Draft::default();
    draft.set("stream_url", RawValue::Str(url.into())).unwrap();
    draft.set("stream_node", RawValue::Str("proxy1.example.org".into())).unwrap();
    Config { destinations: draft.finish(None).unwrap().destinations, delivery_batch: 500, ..config(None, journal) }
}

/// A record for a stream whose Call-ID and identity are its number.
pub fn numbered(n: u32) -> Record {
    Record { backend: Backend::Stream, id: u128::from(n) + 1, ..record(Kind::Cdr, &format!("call-{n}@h")) }
}

/// One that no server takes.
pub fn spoilt(n: u32) -> Record {
    let record = numbered(n);
    Record { core: Core { callid: b"spoilt".to_vec(), ..record.core.clone() }, ..record }
}

/// Its identity in messages.
pub fn id_of(n: u32) -> String {
    format!("{:032x}", n + 1)
}

/// A writer with segments of which a test has several.
pub fn records(dir: &Dir) -> Writer {
    Writer::new(dir, 1, std::process::id(), JournalSync::Os, 256 << 10)
}

/// Appends numbered records for a sink.
pub fn append(w: &mut Writer, sink: SinkId, numbers: std::ops::Range<u32>) {
    for n in numbers {
        w.append_record(sink, &numbered(n)).unwrap();
    }
}

/// `accctl deliver` of a journal to this URL.
pub fn deliver(journal: &Path, url: &str) -> Command {
    let mut command = accctl_command();
    command.args(["deliver", "--set", &format!("stream_url={url}"), "--set", "stream_node=proxy1.example.org", "--log-socket", "/nonexistent"]);
    command.arg(journal).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
