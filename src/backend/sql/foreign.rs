//! Databases that this module does not speak to itself, through the server's own database modules:
//! one row after another, each record at least once.
//!
//! Such a module only says whether a row was taken. So a refused row is told from a database in
//! trouble by what becomes of the others.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rows::{self, Cell};
use crate::acc::record::Record;
use crate::backend::{Commit, Entry, Fate, HostDatabase, HostValue, Payload, Positions, Sink, Trouble};
use crate::config::Db;
use crate::journal::SegmentName;

/// Refused records after which a pass in which none was taken ends: the database is in trouble,
/// and each attempt may cost its time-out.
const REFUSALS: usize = 16;
/// How long a record that waits all alone is refused before it is given up. Alone it shows nothing
/// about the others, and must not hold them up for ever; an outage that begins with it costs no
/// more than this one dead letter.
const ALONE: Duration = Duration::from_secs(300);
/// Reason of a record that is given up, and of one that is not yet.
const REFUSED: &str = "the server's database module refuses it: see its own message in the server's log";

/// Where an entry stands in the journal.
type Place = (SegmentName, u64);

/// The rows of one journal entry.
struct Job {
    place: Place,
    table: Arc<str>,
    columns: Vec<Arc<str>>,
    rows: Vec<Vec<HostValue>>,
}

/// What came of the attempt to store a job.
enum Stored {
    Yes,
    Refused,
    NoConnection(String),
}

/// The part that calls the server's module, which blocks: it works in a thread of its own.
struct Writer {
    database: Box<dyn HostDatabase>,
    connected: bool,
    /// Rows of a refused record that are stored already.
    begun: HashMap<Place, usize>,
    /// Tables that take empty text, but not NULL.
    without_null: HashSet<Arc<str>>,
}

impl Writer {
    fn store(&mut self, job: &Job) -> Stored {
        let first = self.begun.get(&job.place).copied().unwrap_or(0);
        for (n, row) in job.rows.iter().enumerate().skip(first) {
            if !self.connected {
                if let Err(e) = self.database.connect() {
                    return Stored::NoConnection(e);
                }
                self.connected = true;
            }
            if !self.insert(job, row) {
                // The connection itself may be what is wrong: the next attempt gets another one.
                self.connected = false;
                self.begun.insert(job.place, n);
                return Stored::Refused;
            }
        }
        self.begun.remove(&job.place);
        Stored::Yes
    }

    fn insert(&mut self, job: &Job, row: &[HostValue]) -> bool {
        let without_null = self.without_null.contains(&job.table);
        if !without_null && self.database.insert(&job.table, &job.columns, row) {
            return true;
        }
        if !without_null && !row.contains(&HostValue::Null) {
            return false;
        }
        // The original writes empty text for a value that is not set, so columns may forbid NULL.
        let row: Vec<_> = row.iter().map(|v| if *v == HostValue::Null { HostValue::Text(Vec::new()) } else { v.clone() }).collect();
        let taken = self.database.insert(&job.table, &job.columns, &row);
        if taken {
            self.without_null.insert(job.table.clone());
        }
        taken
    }

    /// One pass over a batch, and a second over what was refused while others were taken: refused
    /// twice, it is dead.
    fn store_all(&mut self, jobs: &[Job]) -> Vec<Fate> {
        let mut fates = vec![Fate::Retry(REFUSED.into()); jobs.len()];
        let (mut taken, mut refused) = (0, Vec::new());
        for (i, job) in jobs.iter().enumerate() {
            match self.store(job) {
                Stored::Yes => {
                    fates[i] = Fate::Delivered;
                    taken += 1;
                }
                Stored::Refused => {
                    refused.push(i);
                    if taken == 0 && refused.len() >= REFUSALS {
                        return fates;
                    }
                }
                Stored::NoConnection(reason) => {
                    fates[i..].fill(Fate::Retry(reason));
                    return fates;
                }
            }
        }
        for i in refused.into_iter().filter(|_| taken > 0) {
            fates[i] = match self.store(&jobs[i]) {
                Stored::Yes => Fate::Delivered,
                Stored::Refused => self.give_up(jobs[i].place),
                Stored::NoConnection(reason) => Fate::Retry(reason),
            };
        }
        fates
    }

    fn give_up(&mut self, place: Place) -> Fate {
        self.begun.remove(&place);
        Fate::Dead(REFUSED.into())
    }
}

/// The SQL sink for such a database.
pub struct ForeignSink {
    db: Db,
    /// Away while it works.
    writer: Option<Writer>,
    /// The record that waits alone, and since when.
    alone: Option<(Place, Instant)>,
    noticed: bool,
}

impl ForeignSink {
    /// A sink for the database that the server's module serves; connects later.
    pub fn new(db: &Db, database: Box<dyn HostDatabase>) -> ForeignSink {
        let writer = Writer { database, connected: false, begun: HashMap::new(), without_null: HashSet::new() };
        ForeignSink { db: db.clone(), writer: Some(writer), alone: None, noticed: false }
    }

    fn job(&self, entry: &Entry, record: &Record) -> Job {
        let mut columns = rows::columns_of(record, &self.db);
        // Such a database does not tell whether it has a column: only what is declared is written.
        columns.truncate(columns.len() - rows::own_count(record));
        let row = |leg| {
            let cells = rows::cells_of(record, leg, &self.db).into_iter().take(columns.len());
            cells
                .map(|cell| match cell {
                    Cell::Null => HostValue::Null,
                    Cell::Text(bytes) => HostValue::Text(bytes.into_owned()),
                    Cell::Time(at) => HostValue::Time(at.seconds()),
                    Cell::Number(n) => HostValue::Int(n as i32),
                })
                .collect()
        };
        let rows = (0..rows::rows_of(record)).map(row).collect();
        Job { place: (entry.segment, entry.offset), table: rows::table_of(record, &self.db).clone(), columns, rows }
    }
}

impl Sink for ForeignSink {
    async fn open(&mut self, _journal: u64) -> Result<Option<Positions>, String> {
        if !std::mem::replace(&mut self.noticed, true) {
            log::warn!("db_url: rows go through the server's own database module, without transactions: a crash may write a record twice");
        }
        Ok(None)
    }

    async fn deliver(&mut self, batch: &[Entry], _commit: &mut Commit<'_>) -> Result<Vec<Fate>, Trouble> {
        let mut writer = self.writer.take().ok_or_else(|| Trouble::Outage("db_url: the server's database module has not come back from an insert".into()))?;
        let mut fates = vec![Fate::Dead("a line stands where a record belongs".into()); batch.len()];
        let (mut jobs, mut indices) = (Vec::new(), Vec::new());
        for (i, entry) in batch.iter().enumerate() {
            if let Payload::Record(record) = &entry.payload {
                jobs.push(self.job(entry, record));
                indices.push(i);
            }
        }
        let working = tokio::task::spawn_blocking(move || {
            let stored = writer.store_all(&jobs);
            (writer, stored)
        });
        let (mut writer, mut stored) = match working.await {
            Ok(done) => done,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        };
        match (batch, &mut stored[..]) {
            ([entry], [fate @ Fate::Retry(_)]) if writer.begun.contains_key(&(entry.segment, entry.offset)) => {
                let place = (entry.segment, entry.offset);
                let since = self.alone.filter(|(p, _)| *p == place).map_or_else(Instant::now, |(_, since)| since);
                self.alone = Some((place, since));
                if since.elapsed() > ALONE {
                    *fate = writer.give_up(place);
                }
            }
            _ => self.alone = None,
        }
        self.writer = Some(writer);
        for (i, fate) in indices.into_iter().zip(stored) {
            fates[i] = fate;
        }
        Ok(fates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acc::clock::Moment;
    use crate::acc::decide::{self, Request};
    use crate::acc::record::{Backend, Core, Wall};
    use crate::journal::{DeadLetters, Dir};

    struct Refusing;

    impl HostDatabase for Refusing {
        fn connect(&mut self) -> Result<(), String> {
            Ok(())
        }

        fn insert(&mut self, _table: &str, _columns: &[Arc<str>], _values: &[HostValue]) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn a_record_refused_all_alone_does_not_hold_the_others_up_for_ever() {
        let tmp = tempfile::tempdir().unwrap();
        let mut dead = DeadLetters::new(&Dir::open(tmp.path()).unwrap(), crate::backend::SinkId::Db);
        let mut draft = crate::config::Draft::default();
        draft.set("db_url", crate::config::RawValue::Str("text:x".into())).unwrap();
        let config = draft.finish(None).unwrap();
        let mut sink = ForeignSink::new(config.db.as_ref().unwrap(), Box::new(Refusing));
        let request = Request { core: Core::default(), in_dialog: false, arrived: Moment::now(), upstream: false };
        let record = decide::manual(&config, Backend::Db, None, &request, b"403", b"refused", Moment::now());
        let segment = "0000000000000001-1-1-00000001.seg".parse().unwrap();
        let entry = |offset| Entry { segment, offset, end: offset + 1, wall: Wall(0), payload: Payload::Record(Box::new(record.clone())) };
        let mut commit = Commit { positions: &[], retired: &[], dead: &mut dead, stored: false };
        let (two, one) = ([entry(8), entry(9)], [entry(8)]);
        let waits = Fate::Retry(REFUSED.into());
        assert_eq!(sink.deliver(&one, &mut commit).await.unwrap(), std::slice::from_ref(&waits));
        sink.alone = sink.alone.map(|(place, since)| (place, since.checked_sub(ALONE).unwrap()));
        assert_eq!(sink.deliver(&one, &mut commit).await.unwrap(), [Fate::Dead(REFUSED.into())]);
        // Refused together with others they may wait for the database.
        assert_eq!(sink.deliver(&two, &mut commit).await.unwrap(), [waits.clone(), waits]);
        assert_eq!(sink.alone, None);
    }
}
