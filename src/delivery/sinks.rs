//! The kinds of sinks behind one type.
#![forbid(unsafe_code)]

use crate::backend::sql::{ForeignSink, SqlSink};
use crate::backend::syslog::SyslogSink;
use crate::backend::{Commit, Entry, Fate, Payload, Positions, RecordSender, Sink, Trouble};

/// Any sink. An enum, because a trait with async functions has no trait objects.
pub enum AnySink {
    /// `db_url`.
    Sql(Box<SqlSink>),
    /// `db_url` through the server's own database module.
    Foreign(Box<ForeignSink>),
    /// A sender of single records: RADIUS.
    Records(Box<dyn RecordSender>),
    /// The syslog socket.
    Syslog(SyslogSink),
    /// Not configured (any more): entries of an earlier configuration go to the dead letters,
    /// where they can be seen and put back, instead of holding their segments for ever.
    Off(&'static str),
    /// Not served by this process; its entries stay.
    Held(&'static str),
}

impl AnySink {
    /// The sink keeps its cursor itself, in one transaction with what it delivers.
    pub fn stores_cursor(&self) -> bool {
        matches!(self, AnySink::Sql(s) if s.stores_cursor())
    }
}

impl Sink for AnySink {
    async fn open(&mut self, journal: u64) -> Result<Option<Positions>, String> {
        match self {
            AnySink::Sql(s) => s.open(journal).await,
            AnySink::Foreign(s) => s.open(journal).await,
            AnySink::Syslog(s) => s.open(journal).await,
            AnySink::Records(_) | AnySink::Off(_) | AnySink::Held(_) => Ok(None),
        }
    }

    async fn deliver(&mut self, batch: &[Entry], commit: &mut Commit<'_>) -> Result<Vec<Fate>, Trouble> {
        match self {
            AnySink::Sql(s) => s.deliver(batch, commit).await,
            AnySink::Foreign(s) => s.deliver(batch, commit).await,
            AnySink::Syslog(s) => s.deliver(batch, commit).await,
            AnySink::Records(sender) => {
                let records: Vec<_> = batch
                    .iter()
                    .filter_map(|e| match &e.payload {
                        Payload::Record(r) => Some((&**r, e.wall)),
                        Payload::LogLine(_) => None,
                    })
                    .collect();
                let mut fates = sender.send_all(&records).await.into_iter();
                Ok(batch
                    .iter()
                    .map(|e| match &e.payload {
                        Payload::Record(_) => fates.next().unwrap_or_else(|| Fate::Retry("no answer for the record".into())),
                        Payload::LogLine(_) => Fate::Dead("a line stands where a record belongs".into()),
                    })
                    .collect())
            }
            AnySink::Off(parameter) => Ok(batch.iter().map(|_| Fate::Dead(format!("{parameter} is not set any more"))).collect()),
            AnySink::Held(parameter) => Err(Trouble::Outage(format!("{parameter} is not given here"))),
        }
    }
}
