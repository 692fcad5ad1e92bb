//! Streams of records for other programs: up to four lines of `stream_url`, each a sink of its own.
//!
//! ```text
//!  delivery process
//!  FileSink ──── body: Record -> line ──────── file: Writer ── write, fdatasync, on a thread of its own
//!  EngineSink ── body: Record -> message ───── Engine: nats, http, ... ── one fate for each message
//! ```
//! The cursor is a file in the journal. Lines written after the cursor was last stored are recognised by their `acc_id` at
//! the end of the files, so no line is written twice, whenever the process dies. To brokers they are sent again, with the
//! same `acc_id`.
#![forbid(unsafe_code)]

#[cfg(any(feature = "amqp", feature = "http", feature = "kafka", feature = "nats"))]
mod address;
#[cfg(feature = "amqp")]
mod amqp;
pub mod body;
pub mod file;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "kafka")]
mod kafka;
mod message;
#[cfg(feature = "nats")]
mod nats;
mod settings;
#[cfg(any(feature = "amqp", feature = "http", feature = "kafka", feature = "nats"))]
mod tls;
mod url;

use std::sync::Arc;

use super::{Commit, Fate, LocalFuture, NOT_A_RECORD, Sink, Trouble};
use crate::journal::{Entry, Payload, Positions};
use file::{Lines, Writer};

pub use message::{Engine, EngineSink, Message};
pub use settings::{node, read, read_further};

/// What the parameters say about a stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// From `stream_url`.
    target: Target,
    /// `stream_node`: who writes, in each record.
    node: Arc<str>,
}

/// Where a stream goes.
#[derive(Clone, Debug)]
enum Target {
    File(Arc<file::Target>),
    #[cfg(feature = "amqp")]
    Amqp(amqp::Target),
    #[cfg(feature = "http")]
    Http(http::Target),
    #[cfg(feature = "kafka")]
    Kafka(kafka::Target),
    #[cfg(feature = "nats")]
    Nats(nats::Target),
}

/// The sink of a stream into files.
pub struct FileSink {
    target: Arc<file::Target>,
    node: Arc<str>,
    /// `None` after an error: then the contents of the files are looked at again.
    writer: Option<Writer>,
}

impl FileSink {
    /// Opens nothing yet.
    fn new(target: Arc<file::Target>, node: Arc<str>) -> FileSink {
        FileSink { target, node, writer: None }
    }

    async fn writer(&mut self) -> Result<Writer, String> {
        match self.writer.take() {
            Some(writer) => Ok(writer),
            None => {
                let target = self.target.clone();
                blocking(move || Writer::open(target)).await?
            }
        }
    }

    async fn write(&mut self, batch: &[Entry]) -> Result<(), String> {
        let mut writer = self.writer().await?;
        let mut lines = Lines::default();
        for entry in batch {
            if let Payload::Record(record) = &entry.payload
                && !writer.has(record.id)
            {
                lines.add(|out| self.target.format.write(record, &self.node, out));
            }
        }
        // On an error the writer is dropped: the next one finds out what the file contains.
        self.writer = Some(blocking(move || writer.write(&lines).map(|()| writer)).await??);
        Ok(())
    }
}

/// Runs `work` in a thread where it may wait for a disk without delaying other destinations.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|_| "the thread that writes stream_url ended unexpectedly".into())
}

impl Sink for FileSink {
    fn open(&mut self, _journal: u64) -> LocalFuture<'_, Result<Option<Positions>, String>> {
        Box::pin(async move {
            self.writer = Some(self.writer().await?);
            Ok(None)
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a [Entry], _commit: &'a mut Commit<'_>) -> LocalFuture<'a, Result<Vec<Fate>, Trouble>> {
        Box::pin(async move {
            self.write(batch).await.map_err(Trouble::Outage)?;
            let fate = |entry: &Entry| match entry.payload {
                Payload::Record(_) => Fate::Delivered,
                Payload::LogLine(_) => Fate::Dead(NOT_A_RECORD.into()),
            };
            Ok(batch.iter().map(fate).collect())
        })
    }
}
