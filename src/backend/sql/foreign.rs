//! Databases that this module does not speak to itself, through the server's own database modules:
//! one row after another, each record at least once.
//!
//! Such a module only says whether a row was accepted. So a refused row is told from a database in
//! trouble by what happens to the other rows.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Db;
use super::rows::{self, Cell};
use crate::accounting::clock::{Moment, Wall};
use crate::accounting::record::Record;
use crate::backend::{Commit, Fate, Hold, HostDatabase, HostValue, LocalFuture, NOT_A_RECORD, Sink, Trouble};
use crate::journal::{Entry, Payload, Positions};

/// How many refusals in a row end a pass: so many point to the database, not to the records, and each
/// attempt may cost a time-out.
const REFUSALS: usize = 16;
/// How long a batch of which nothing is accepted waits before its first record is parked. That record says
/// nothing about those after it, and must not hold them up for ever; in an outage, no more than one record
/// in this time is parked.
const STUCK: Duration = Duration::from_secs(300);
/// One in this many attempts at a refused row with NULL begins with empty text.
const EMPTY_FIRST: usize = 4;
/// Reason for a record that was refused, or that may have been.
const REFUSED: &str = "the server's database module refuses it: see its own message in the server's log";

/// Identifies an entry, wherever it is in the journal: the id of its record, and when it was first
/// appended.
type Key = (u128, Wall);

/// The rows of one journal entry; each is made when it is stored.
struct Job {
    key: Key,
    /// It was refused before, and has been parked since.
    parked: Option<Wall>,
    table: Arc<str>,
    columns: Vec<Arc<str>>,
    record: Record,
    db: Arc<Db>,
}

impl Job {
    fn rows(&self) -> usize {
        rows::rows_of(&self.record)
    }

    fn row(&self, n: usize) -> Vec<HostValue> {
        let cells = rows::cells_of(&self.record, n, &self.db).into_iter().take(self.columns.len());
        cells
            .map(|cell| match cell {
                Cell::Null => HostValue::Null,
                Cell::Text(bytes) => HostValue::Text(bytes.into_owned()),
                Cell::Time(at) => HostValue::Time(at.seconds()),
                Cell::Number(n) => HostValue::Int(n as i32),
            })
            .collect()
    }
}

/// Result of an attempt to store a job.
enum Stored {
    Yes,
    Refused,
    NoConnection(String),
}

/// The part that calls the server's module, which blocks: it runs in a separate thread.
struct Writer {
    database: Box<dyn HostDatabase>,
    connected: bool,
    /// Rows of a refused record that are stored already.
    begun: HashMap<Key, usize>,
    /// Tables that accept empty text, but not NULL.
    without_null: HashSet<Arc<str>>,
    /// Rows refused in a row, with NULL and with empty text.
    refusals: usize,
    /// The table of the last row, if it was accepted with empty text before NULL was tried.
    emptied: Option<Arc<str>>,
    /// The first record of a batch of which nothing is accepted, and since when.
    stuck: Option<(Key, Instant)>,
    /// When a row was last accepted.
    taken: Wall,
}

impl Writer {
    fn store(&mut self, job: &Job) -> Stored {
        let first = self.begun.get(&job.key).copied().unwrap_or(0);
        for n in first..job.rows() {
            if !self.connected {
                if let Err(e) = self.database.connect() {
                    return Stored::NoConnection(e);
                }
                self.connected = true;
            }
            if !self.insert(job, &job.row(n)) {
                // The connection itself may be at fault: the next attempt gets another one.
                self.connected = false;
                self.begun.insert(job.key, n);
                return Stored::Refused;
            }
        }
        self.begun.remove(&job.key);
        self.taken = Moment::wall_now();
        Stored::Yes
    }

    fn insert(&mut self, job: &Job, row: &[HostValue]) -> bool {
        let Job { table, columns, .. } = job;
        if !row.contains(&HostValue::Null) {
            return self.database.insert(table, columns, row);
        }
        // The original writes empty text for a value that is not set, so columns may forbid NULL.
        let empty: Vec<_> = row.iter().map(|v| if *v == HostValue::Null { HostValue::Text(Vec::new()) } else { v.clone() }).collect();
        if self.without_null.contains(table) {
            return self.database.insert(table, columns, &empty);
        }
        // A module such as db_virtual drops its connection after a refused row, so the second attempt fails as
        // well. So from time to time empty text is tried first. A table that then refuses NULL accepts no NULL.
        let empty_first = self.refusals % EMPTY_FIRST == EMPTY_FIRST - 1;
        let emptied = self.emptied.take().is_some_and(|last| last == *table);
        let (first, second) = if empty_first { (&empty[..], row) } else { (row, &empty[..]) };
        let mut taken = self.database.insert(table, columns, first);
        if taken {
            self.emptied = empty_first.then(|| table.clone());
        } else {
            taken = self.database.insert(table, columns, second);
            if emptied || taken && !empty_first {
                self.without_null.insert(table.clone());
            }
        }
        self.refusals = if taken { 0 } else { self.refusals + 1 };
        taken
    }

    /// One pass over a batch, and a second one over what was refused while others were accepted: a record that
    /// is refused twice is at fault.
    fn store_all(&mut self, jobs: &[Job]) -> Vec<Fate> {
        let mut fates = vec![Fate::Retry(REFUSED.into()); jobs.len()];
        let (mut taken, mut refused, mut in_a_row) = (false, Vec::new(), 0);
        for (i, job) in jobs.iter().enumerate() {
            match self.store(job) {
                Stored::Yes => {
                    fates[i] = Fate::Delivered;
                    (taken, in_a_row) = (true, 0);
                }
                Stored::Refused => {
                    refused.push(i);
                    in_a_row += 1;
                    if in_a_row == REFUSALS {
                        refused.truncate(refused.len() - REFUSALS);
                        break;
                    }
                }
                Stored::NoConnection(reason) => {
                    fates[i..].fill(Fate::Retry(reason));
                    return fates;
                }
            }
        }
        if !taken {
            // Parked records were compared with others, or will be when others come.
            for (fate, since) in fates.iter_mut().zip(jobs).filter_map(|(f, j)| Some((f, j.parked?))) {
                *fate = if self.taken > since { Fate::Refused(REFUSED.into()) } else { not_compared() };
            }
            if let Some(first) = jobs.first().filter(|job| job.parked.is_none())
                && self.stuck_since(first.key).elapsed() > STUCK
            {
                fates[0] = not_compared();
            }
            return fates;
        }
        self.stuck = None;
        for i in refused {
            fates[i] = match self.store(&jobs[i]) {
                Stored::Yes => Fate::Delivered,
                Stored::Refused => Fate::Refused(REFUSED.into()),
                Stored::NoConnection(reason) => Fate::Retry(reason),
            };
        }
        fates
    }

    fn stuck_since(&mut self, first: Key) -> Instant {
        match self.stuck {
            Some((key, since)) if key == first => since,
            _ => self.stuck.insert((first, Instant::now())).1,
        }
    }
}

/// The fate of a record that was refused while no other was accepted: it is parked, which does not count as a refusal.
fn not_compared() -> Fate {
    Fate::Held(Hold { queue: "".into(), reason: REFUSED.into(), all: false })
}

/// The SQL sink for such a database.
pub struct ForeignSink {
    db: Arc<Db>,
    /// `None` while it works in its thread.
    writer: Option<Writer>,
    noticed: bool,
}

impl ForeignSink {
    /// A sink for the database that the server's module serves; connects later.
    pub fn new(db: &Db, database: Box<dyn HostDatabase>) -> ForeignSink {
        let writer = Writer {
            database,
            connected: false,
            begun: HashMap::new(),
            without_null: HashSet::new(),
            refusals: 0,
            emptied: None,
            stuck: None,
            taken: Wall::default(),
        };
        ForeignSink { db: Arc::new(db.clone()), writer: Some(writer), noticed: false }
    }

    fn job(&self, entry: &Entry, record: &Record) -> Job {
        let mut columns = rows::columns_of(record, &self.db);
        // Such a database does not tell whether it has a column: only what is declared is written.
        columns.truncate(columns.len() - rows::own_count(record));
        let parked = entry.parked.as_ref().map(|p| p.since);
        Job { key: (record.id, entry.wall), parked, table: rows::table_of(record, &self.db).clone(), columns, record: record.clone(), db: self.db.clone() }
    }
}

impl Sink for ForeignSink {
    fn open(&mut self, _journal: u64) -> LocalFuture<'_, Result<Option<Positions>, String>> {
        if !std::mem::replace(&mut self.noticed, true) {
            log::warn!("db_url: rows go through the server's own database module, without transactions: a crash may write a record twice");
        }
        Box::pin(std::future::ready(Ok(None)))
    }

    fn deliver<'a>(&'a mut self, batch: &'a [Entry], _commit: &'a mut Commit<'_>) -> LocalFuture<'a, Result<Vec<Fate>, Trouble>> {
        Box::pin(self.store(batch))
    }
}

impl ForeignSink {
    async fn store(&mut self, batch: &[Entry]) -> Result<Vec<Fate>, Trouble> {
        let mut writer = self.writer.take().ok_or_else(|| Trouble::Outage("db_url: the server's database module has not returned from an insert".into()))?;
        let mut fates = vec![Fate::Dead(NOT_A_RECORD.into()); batch.len()];
        let (mut jobs, mut indices) = (Vec::new(), Vec::new());
        for (i, entry) in batch.iter().enumerate() {
            if let Payload::Record(record) = &entry.payload {
                // From a time when another db_url was set: the server's module can neither replace nor remove such rows.
                if record.kind.is_report() {
                    fates[i] = Fate::Delivered;
                    continue;
                }
                jobs.push(self.job(entry, record));
                indices.push(i);
            }
        }
        let working = tokio::task::spawn_blocking(move || {
            let stored = writer.store_all(&jobs);
            (writer, stored)
        });
        let (writer, stored) = match working.await {
            Ok(done) => done,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        };
        self.writer = Some(writer);
        for (i, fate) in indices.into_iter().zip(stored) {
            fates[i] = fate;
        }
        Ok(fates)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::accounting::clock::{Moment, Wall};
    use crate::accounting::context::Context;
    use crate::accounting::decide::{self, Request};
    use crate::accounting::record::{Backend, Core};
    use crate::backend::Aside;
    use crate::journal::{DeadLetters, Dir, Parking};

    /// Takes as many rows as it has room for, but none of the Call-ID "bad".
    #[derive(Clone, Default)]
    struct Database {
        room: Arc<AtomicUsize>,
        attempts: Arc<AtomicUsize>,
        /// Like db_virtual with a table that does not allow NULL: a row with NULL ends its connection for a while.
        hands_on: bool,
        away: usize,
    }

    impl HostDatabase for Database {
        fn connect(&mut self) -> Result<(), String> {
            self.away = self.away.saturating_sub(1);
            if self.away == 0 { Ok(()) } else { Err("away".into()) }
        }

        fn insert(&mut self, _table: &str, _columns: &[Arc<str>], values: &[HostValue]) -> bool {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            if self.hands_on && (self.away > 0 || values.contains(&HostValue::Null)) {
                self.away = 2;
                return false;
            }
            !values.contains(&HostValue::Text(b"bad".into())) && self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
        }
    }

    /// A sink, and what it delivers to.
    struct Setup {
        _tmp: tempfile::TempDir,
        aside: Aside,
        config: crate::config::Config,
        database: Database,
        sink: ForeignSink,
    }

    impl Setup {
        fn new() -> Setup {
            Setup::of(Database::default())
        }

        fn of(database: Database) -> Setup {
            let tmp = tempfile::tempdir().unwrap();
            let (dir, sink) = (Dir::open(tmp.path()).unwrap(), crate::journal::SinkId::Db);
            let aside = Aside { dead: DeadLetters::new(&dir, sink), parking: Parking::new(&dir, sink, 1 << 20), give_up: None };
            let mut draft = crate::params::Draft::default();
            draft.set("db_url", crate::params::RawValue::Str("text:x".into())).unwrap();
            let config = draft.finish(None).unwrap();
            let sink = ForeignSink::new(config.db().unwrap(), Box::new(database.clone()));
            Setup { _tmp: tmp, aside, config, database, sink }
        }

        fn entry(&self, offset: u64, callid: &str) -> Entry {
            let core = Core { callid: callid.into(), ..Core::default() };
            let request = Request { core, in_dialog: false, arrived: Moment::now(), upstream: false };
            let record = decide::manual(&self.config.rules, Backend::Db, None, &request, b"403", b"refused", Moment::now());
            let segment = "0000000000000001-1-1-00000001.seg".parse().unwrap();
            Entry { segment, offset, end: offset + 1, wall: Wall(offset as i64), payload: Payload::Record(Box::new(record)), parked: None }
        }

        async fn deliver(&mut self, batch: &[Entry]) -> Vec<Fate> {
            let mut commit = Commit { positions: &Positions::new(), retired: &[], aside: &mut self.aside, stored: false };
            self.sink.deliver(batch, &mut commit).await.unwrap()
        }

        /// As if a stuck record had been stuck for too long.
        fn wait(&mut self) {
            let stuck = &mut self.sink.writer.as_mut().unwrap().stuck;
            *stuck = stuck.map(|(key, since)| (key, since.checked_sub(STUCK).unwrap()));
        }
    }

    fn waits() -> Fate {
        Fate::Retry(REFUSED.into())
    }

    fn refused() -> Fate {
        Fate::Refused(REFUSED.into())
    }

    #[tokio::test]
    async fn refused_records_do_not_hold_the_others_up_for_ever() {
        let mut setup = Setup::new();
        setup.database.room.store(usize::MAX, Ordering::Relaxed);
        let two = [setup.entry(8, "bad"), setup.entry(9, "bad")];
        assert_eq!(setup.deliver(&two).await, [waits(), waits()]);
        assert_eq!(setup.deliver(&two).await, [waits(), waits()]);
        setup.wait();
        assert_eq!(setup.deliver(&two).await, [not_compared(), waits()]);
        // The next one gets its full time again.
        assert_eq!(setup.deliver(&two[1..]).await, [waits()]);
        setup.wait();
        assert_eq!(setup.deliver(&two[1..]).await, [not_compared()]);
        assert_eq!(setup.deliver(&[setup.entry(10, "good")]).await, [Fate::Delivered]);
        assert_eq!(setup.sink.writer.as_ref().unwrap().stuck, None);
        // A parked record counts as refused if others have been accepted since.
        let mut apart = setup.entry(11, "bad");
        for (since, fate) in [(Wall(0), refused()), (Wall(i64::MAX), not_compared())] {
            let from = (apart.segment, 8);
            apart.parked = Some(crate::journal::Parked { from, offers: 1, tries: 0, queue: "".into(), reason: String::new(), since });
            assert_eq!(setup.deliver(&[apart.clone()]).await, [fate]);
        }
    }

    #[tokio::test]
    async fn a_module_that_hands_rows_on_is_asked_without_null() {
        let mut setup = Setup::of(Database { hands_on: true, ..Database::default() });
        setup.database.room.store(usize::MAX, Ordering::Relaxed);
        setup.config.rules.fields.extra.add("db: note").unwrap();
        let values = Context::new(Moment::now(), false);
        let entry = |offset| {
            let mut entry = setup.entry(offset, "good");
            let Payload::Record(record) = &mut entry.payload else { unreachable!() };
            let request = Request { core: record.core.clone(), in_dialog: false, arrived: Moment::now(), upstream: false };
            **record = decide::manual(&setup.config.rules, Backend::Db, Some(&values), &request, b"403", b"refused", Moment::now());
            entry
        };
        let batches: Vec<_> = (8..12).map(|offset| [entry(offset)]).collect();
        let mut attempts = Vec::new();
        for batch in &batches {
            attempts.push(1);
            while setup.deliver(batch).await[0] != Fate::Delivered {
                *attempts.last_mut().unwrap() += 1;
                assert!(attempts.iter().sum::<usize>() < 50);
            }
        }
        // Each refusal costs another attempt, which finds no connection. The first row shows that the table
        // accepts empty text, the second that it does not accept NULL.
        assert_eq!(attempts, [2 * EMPTY_FIRST - 1, 3, 1, 1]);
    }

    #[tokio::test]
    async fn an_outage_inside_a_batch_leaves_the_rest_waiting() {
        let mut setup = Setup::new();
        setup.database.room.store(3, Ordering::Relaxed);
        let batch: Vec<_> = (0..40).map(|n| setup.entry(n, if n == 1 { "bad" } else { "good" })).collect();
        let mut expected = vec![waits(); batch.len()];
        expected[..4].fill(Fate::Delivered);
        // Others were accepted after it.
        expected[1] = refused();
        assert_eq!(setup.deliver(&batch).await, expected);
        assert_eq!(setup.database.attempts.load(Ordering::Relaxed), 4 + REFUSALS + 1);
        assert_eq!(setup.deliver(&batch[4..]).await, vec![waits(); 36]);
        setup.database.room.store(usize::MAX, Ordering::Relaxed);
        assert_eq!(setup.deliver(&batch[4..]).await, vec![Fate::Delivered; 36]);
    }
}
