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

/// Records refused one after another that end a pass: so many speak of the database, not of
/// themselves, and each attempt may cost its time-out.
const REFUSALS: usize = 16;
/// How long a batch of which nothing is taken waits before its first record is given up. It shows
/// nothing about what is behind it, and must not hold that up for ever; an outage costs no more
/// than one dead letter in this time.
const STUCK: Duration = Duration::from_secs(300);
/// Of so many attempts at a row with NULL that is refused, one begins with empty text.
const EMPTY_FIRST: usize = 4;
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
    /// Rows refused in a row, with NULL and with empty text.
    refusals: usize,
    /// The table of the last row, if it was taken with empty text before NULL was tried.
    emptied: Option<Arc<str>>,
    /// The first record of a batch of which nothing is taken, and since when.
    stuck: Option<(Place, Instant)>,
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
        let Job { table, columns, .. } = job;
        if !row.contains(&HostValue::Null) {
            return self.database.insert(table, columns, row);
        }
        // The original writes empty text for a value that is not set, so columns may forbid NULL.
        let empty: Vec<_> = row.iter().map(|v| if *v == HostValue::Null { HostValue::Text(Vec::new()) } else { v.clone() }).collect();
        if self.without_null.contains(table) {
            return self.database.insert(table, columns, &empty);
        }
        // A module such as db_virtual gives up its connection for a refused row, and with it the second
        // attempt: now and then that comes first. A table that then refuses NULL takes none.
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

    /// One pass over a batch, and a second over what was refused while others were taken: refused
    /// twice, it is dead.
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
            if let Some(first) = jobs.first()
                && self.stuck_since(first.place).elapsed() > STUCK
            {
                fates[0] = self.give_up(first.place);
            }
            return fates;
        }
        self.stuck = None;
        for i in refused {
            fates[i] = match self.store(&jobs[i]) {
                Stored::Yes => Fate::Delivered,
                Stored::Refused => self.give_up(jobs[i].place),
                Stored::NoConnection(reason) => Fate::Retry(reason),
            };
        }
        fates
    }

    fn stuck_since(&mut self, first: Place) -> Instant {
        match self.stuck {
            Some((place, since)) if place == first => since,
            _ => self.stuck.insert((first, Instant::now())).1,
        }
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
    noticed: bool,
}

impl ForeignSink {
    /// A sink for the database that the server's module serves; connects later.
    pub fn new(db: &Db, database: Box<dyn HostDatabase>) -> ForeignSink {
        let writer = Writer { database, connected: false, begun: HashMap::new(), without_null: HashSet::new(), refusals: 0, emptied: None, stuck: None };
        ForeignSink { db: db.clone(), writer: Some(writer), noticed: false }
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
    use crate::acc::clock::Moment;
    use crate::acc::context::Context;
    use crate::acc::decide::{self, Request};
    use crate::acc::record::{Backend, Core, Wall};
    use crate::journal::{DeadLetters, Dir};

    /// Takes as many rows as it has room for, but none of the Call-ID "bad".
    #[derive(Clone, Default)]
    struct Database {
        room: Arc<AtomicUsize>,
        attempts: Arc<AtomicUsize>,
        /// As db_virtual before a table without NULL: a row with one ends its connection for a while.
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
        dead: DeadLetters,
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
            let dead = DeadLetters::new(&Dir::open(tmp.path()).unwrap(), crate::backend::SinkId::Db);
            let mut draft = crate::config::Draft::default();
            draft.set("db_url", crate::config::RawValue::Str("text:x".into())).unwrap();
            let config = draft.finish(None).unwrap();
            let sink = ForeignSink::new(config.db.as_ref().unwrap(), Box::new(database.clone()));
            Setup { _tmp: tmp, dead, config, database, sink }
        }

        fn entry(&self, offset: u64, callid: &str) -> Entry {
            let core = Core { callid: callid.into(), ..Core::default() };
            let request = Request { core, in_dialog: false, arrived: Moment::now(), upstream: false };
            let record = decide::manual(&self.config, Backend::Db, None, &request, b"403", b"refused", Moment::now());
            let segment = "0000000000000001-1-1-00000001.seg".parse().unwrap();
            Entry { segment, offset, end: offset + 1, wall: Wall(0), payload: Payload::Record(Box::new(record)) }
        }

        async fn deliver(&mut self, batch: &[Entry]) -> Vec<Fate> {
            let mut commit = Commit { positions: &Positions::new(), retired: &[], dead: &mut self.dead, stored: false };
            self.sink.deliver(batch, &mut commit).await.unwrap()
        }

        /// As if what is stuck were so for longer than it may.
        fn wait(&mut self) {
            let stuck = &mut self.sink.writer.as_mut().unwrap().stuck;
            *stuck = stuck.map(|(place, since)| (place, since.checked_sub(STUCK).unwrap()));
        }
    }

    fn waits() -> Fate {
        Fate::Retry(REFUSED.into())
    }

    fn dead() -> Fate {
        Fate::Dead(REFUSED.into())
    }

    #[tokio::test]
    async fn refused_records_do_not_hold_the_others_up_for_ever() {
        let mut setup = Setup::new();
        setup.database.room.store(usize::MAX, Ordering::Relaxed);
        let two = [setup.entry(8, "bad"), setup.entry(9, "bad")];
        assert_eq!(setup.deliver(&two).await, [waits(), waits()]);
        assert_eq!(setup.deliver(&two).await, [waits(), waits()]);
        setup.wait();
        assert_eq!(setup.deliver(&two).await, [dead(), waits()]);
        // The next one has a time of its own.
        assert_eq!(setup.deliver(&two[1..]).await, [waits()]);
        setup.wait();
        assert_eq!(setup.deliver(&two[1..]).await, [dead()]);
        assert_eq!(setup.deliver(&[setup.entry(10, "good")]).await, [Fate::Delivered]);
        assert_eq!(setup.sink.writer.unwrap().stuck, None);
    }

    #[tokio::test]
    async fn a_module_that_hands_rows_on_is_asked_without_null() {
        let mut setup = Setup::of(Database { hands_on: true, ..Database::default() });
        setup.database.room.store(usize::MAX, Ordering::Relaxed);
        setup.config.fields.extra.add("db: note").unwrap();
        let values = Context::new(Moment::now(), false);
        let entry = |offset| {
            let mut entry = setup.entry(offset, "good");
            let Payload::Record(record) = &mut entry.payload else { unreachable!() };
            let request = Request { core: record.core.clone(), in_dialog: false, arrived: Moment::now(), upstream: false };
            **record = decide::manual(&setup.config, Backend::Db, Some(&values), &request, b"403", b"refused", Moment::now());
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
        // Each refusal costs one more attempt, which finds no connection. The first row shows that the
        // table takes empty text, the second that it takes no NULL.
        assert_eq!(attempts, [2 * EMPTY_FIRST - 1, 3, 1, 1]);
    }

    #[tokio::test]
    async fn an_outage_inside_a_batch_leaves_the_rest_waiting() {
        let mut setup = Setup::new();
        setup.database.room.store(3, Ordering::Relaxed);
        let batch: Vec<_> = (0..40).map(|n| setup.entry(n, if n == 1 { "bad" } else { "good" })).collect();
        let mut expected = vec![waits(); batch.len()];
        expected[..4].fill(Fate::Delivered);
        // Others were taken behind it.
        expected[1] = dead();
        assert_eq!(setup.deliver(&batch).await, expected);
        assert_eq!(setup.database.attempts.load(Ordering::Relaxed), 4 + REFUSALS + 1);
        assert_eq!(setup.deliver(&batch[4..]).await, vec![waits(); 36]);
        setup.database.room.store(usize::MAX, Ordering::Relaxed);
        assert_eq!(setup.deliver(&batch[4..]).await, vec![Fate::Delivered; 36]);
    }
}
