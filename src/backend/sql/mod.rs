//! SQL: rows of records in SQLite, MySQL/MariaDB and PostgreSQL, each exactly once; in other
//! databases through the server ([`ForeignSink`]).
//!
//! Rows and the cursor (table `acc_delivery`) are committed in one transaction. The cursor moves
//! only from where this process left it, so that a transaction whose outcome was never heard
//! cannot count twice.
#![forbid(unsafe_code)]

mod conn;
mod foreign;
mod rows;
pub mod schema;
mod url;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use conn::{Class, Conn, Dialect, Failure};
pub use foreign::ForeignSink;
pub use url::{Target, is_foreign, parse, scheme, validate_url};

use super::{Commit, Entry, Fate, Payload, Positions, Sink, Trouble};
use crate::acc::fields::Fields;
use crate::acc::record::Kind;
use crate::config::Db;
use crate::journal::SegmentName;
use conn::{Outcome, Value};
use rows::Group;
use schema::{CURSOR_TABLE, Table};

/// Most rows in one INSERT. More gain nothing measurable, and SQLite's parser takes time by the row.
const ROWS: usize = 64;
/// Cursor rows moved by one UPDATE: there is one for every worker that wrote since the last batch.
const MOVED_AT_ONCE: usize = 16;
/// Most bytes of values in one INSERT: far below the least `max_allowed_packet` in use (4 MiB).
const INSERT_BYTES: usize = 1 << 20;
/// Most bound values: SQLite's limit, the least of the three.
const BINDS: usize = 32_766;
/// How long a server may take to give the cursor, or for a transaction; a hung one is an outage. SQLite has its own timeout.
const ANSWER: Duration = Duration::from_secs(30);

/// How the cursor is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// Not looked yet.
    Unknown,
    /// In `acc_delivery`.
    Table,
    /// The table cannot be used: in a file, which makes delivery at least once.
    File,
}

/// The SQL sink.
pub struct SqlSink {
    target: Target,
    db: Db,
    fields: Fields,
    conn: Option<Conn>,
    /// Device and inode of the connected SQLite file.
    file: Option<(u64, u64)>,
    journal: String,
    cursor: Cursor,
    /// The cursor rows as last committed.
    stored: Positions,
    /// Tables as they were when last looked at; asked again after any trouble.
    tables: HashMap<Arc<str>, Arc<Table>>,
    announce: Option<fn(&[String])>,
    announced: Option<Instant>,
    /// Columns whose clipping was logged.
    clipped: HashSet<(Arc<str>, Arc<str>)>,
    /// Tables whose lack of transactions was logged.
    lasting: HashSet<Arc<str>>,
}

impl From<Failure> for Trouble {
    fn from(f: Failure) -> Trouble {
        Trouble::Outage(format!("db_url: {}", f.text))
    }
}

/// A cursor table that is gone (another file, a table dropped) is made anew when the cursor is read.
fn cursor_trouble(f: Failure) -> Trouble {
    if f.class == Class::Schema { Trouble::Stale } else { f.into() }
}

/// What to do with the records of a table that cannot take them.
enum Usable {
    Yes(Arc<Table>),
    /// Only a script names it: its records are dead, for this reason.
    Never(String),
}

/// How often the tables of the database are listed while rows come: a new table is known to the
/// script's functions after this time.
const ANNOUNCE: Duration = Duration::from_secs(10);

impl SqlSink {
    /// A sink for the database of the configuration; connects later.
    pub fn new(db: &Db, fields: &Fields) -> Result<SqlSink, String> {
        Ok(SqlSink {
            target: parse(&db.url)?,
            db: db.clone(),
            fields: fields.clone(),
            conn: None,
            file: None,
            journal: String::new(),
            cursor: Cursor::Unknown,
            stored: Positions::new(),
            tables: HashMap::new(),
            clipped: HashSet::new(),
            lasting: HashSet::new(),
            announce: None,
            announced: None,
        })
    }

    /// Tells `announce` which tables the database has: at every connection, and while rows come
    /// no more often than every 10 s.
    #[must_use]
    pub fn announcing(mut self, announce: Option<fn(&[String])>) -> SqlSink {
        self.announce = announce;
        self
    }

    async fn announce(&mut self) -> Outcome<()> {
        let Some(announce) = self.announce else { return Ok(()) };
        if self.announced.is_some_and(|at| at.elapsed() < ANNOUNCE) {
            return Ok(());
        }
        announce(&schema::tables(self.conn()?).await?);
        self.announced = Some(Instant::now());
        Ok(())
    }

    /// The cursor is kept in the database.
    pub fn stores_cursor(&self) -> bool {
        self.cursor == Cursor::Table
    }

    fn is_sqlite(&self) -> bool {
        matches!(self.target, Target::Sqlite(_))
    }

    async fn connect(&mut self) -> Outcome<()> {
        if let Target::Sqlite(path) = &self.target {
            // Somebody may move the file away: rows must not go into one that nobody can find.
            let file = std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
            if self.conn.is_some() && file != self.file {
                log::warn!("db_url: the SQLite file was moved or replaced; going on with a new one");
                self.conn = None;
            }
        }
        if self.conn.is_none() {
            let mut conn = Conn::open(&self.target).await?;
            self.tables.clear();
            self.announced = None;
            if conn.dialect() == Dialect::Sqlite {
                schema::prepare_sqlite(&mut conn, &self.db, &self.fields).await?;
            }
            self.conn = Some(conn);
            if let Target::Sqlite(path) = &self.target {
                self.file = std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
            }
        }
        Ok(())
    }

    fn conn(&mut self) -> Outcome<&mut Conn> {
        self.conn.as_mut().ok_or(Failure { class: Class::Later, unique: false, text: "not connected".into() })
    }

    async fn load_cursor(&mut self) -> Outcome<Option<Positions>> {
        self.connect().await?;
        self.announce().await?;
        let journal = self.journal.clone();
        let conn = self.conn()?;
        let sql = match conn.dialect() {
            Dialect::Sqlite => "SELECT segment, CAST(reached AS TEXT) FROM acc_delivery WHERE journal = CAST(? AS TEXT)",
            Dialect::MySql => "SELECT segment, CAST(reached AS CHAR) FROM acc_delivery WHERE journal = ?",
            Dialect::Postgres => "SELECT segment, CAST(reached AS TEXT) FROM acc_delivery WHERE journal = $1",
        };
        let key = [Value::Text(journal.clone().into_bytes())];
        let rows = match conn.query(sql, 2, &key).await {
            Ok(rows) => rows,
            Err(e) if e.class == Class::Later => return Err(e),
            Err(_) => {
                let create = schema::create_cursor(conn.dialect());
                let mut made = conn.run(create.clone()).await.map(|()| Vec::new());
                if made.is_ok() {
                    made = conn.query(sql, 2, &key).await;
                }
                match made {
                    Ok(rows) => rows,
                    Err(e) if e.class == Class::Later => return Err(e),
                    Err(e) => {
                        if self.cursor != Cursor::File {
                            log::warn!(
                                "db_url: table acc_delivery cannot be used ({}): a crash may now write a record twice; allow or repair it, as made by: {create};",
                                e.text
                            );
                        }
                        self.cursor = Cursor::File;
                        return Ok(None);
                    }
                }
            }
        };
        let lasting = schema::lasting_engine(conn, CURSOR_TABLE).await?;
        if let Some(engine) = &lasting
            && self.cursor != Cursor::File
        {
            // A cursor that stays where a failed transaction put it would lose rows.
            log::warn!(
                "db_url: table {CURSOR_TABLE} has the engine {engine}, without transactions, and is not used: a crash may now write a record twice; change it, and start the server again: ALTER TABLE {CURSOR_TABLE} ENGINE=InnoDB;"
            );
        }
        self.cursor = if lasting.is_some() { Cursor::File } else { Cursor::Table };
        self.stored = rows.iter().filter_map(|row| Some((row.first()?.as_deref()?.trim().parse().ok()?, row.get(1)?.as_deref()?.parse().ok()?))).collect();
        Ok(Some(self.stored.clone()))
    }

    /// The table if it can take records of this configuration. `Err` waits for the operator.
    async fn usable(&mut self, name: &Arc<str>, wanted: &[Arc<str>], may_make: bool) -> Result<Usable, Trouble> {
        let configured = *name == self.db.table_acc || *name == self.db.table_missed;
        let known = self.tables.get(name).filter(|t| wanted.iter().all(|c| t.column(c).is_some())).cloned();
        if let Some(table) = known {
            return Ok(Usable::Yes(table));
        }
        if !schema::is_table_name(name) {
            return Ok(Usable::Never(format!("\"{name}\" is no table name: use letters, digits and '_', not beginning with a digit")));
        }
        let mut found = schema::probe(self.conn()?, name).await?;
        if found.is_none() && (configured || may_make) && self.conn()?.dialect() == Dialect::Sqlite {
            let mut db = self.db.clone();
            if !configured {
                db.table_acc = name.clone();
            }
            let fields = self.fields.clone();
            let conn = self.conn()?;
            schema::prepare_sqlite(conn, &db, &fields).await?;
            found = schema::probe(conn, name).await?;
        }
        let dialect = self.conn()?.dialect();
        let reason = match found {
            None if configured => {
                let create = schema::create(&self.db, &self.fields, *name == self.db.table_missed, dialect).join(" ").replace("\n", " ").replace("    ", "");
                format!("table {name} does not exist in the database of db_url; create it: {create}")
            }
            None => format!("table {name}, named in the script, does not exist in the database of db_url: create it and requeue the record"),
            Some(table) => {
                let missing: Vec<_> = wanted.iter().filter(|c| table.column(c).is_none()).cloned().collect();
                if missing.is_empty() {
                    if let Some(engine) = &table.lasting
                        && self.lasting.insert(name.clone())
                    {
                        log::warn!(
                            "db_url: table {name} has the engine {engine}, without transactions: after a failure some of its rows are written twice; change it: ALTER TABLE {} ENGINE=InnoDB;",
                            table.quoted
                        );
                    }
                    let table = Arc::new(table);
                    self.tables.insert(name.clone(), table.clone());
                    return Ok(Usable::Yes(table));
                }
                format!("table {name} lacks {}; add it: {}", missing.join(", "), schema::alter(&self.db, &table, &missing, dialect))
            }
        };
        if configured { Err(Trouble::Outage(reason)) } else { Ok(Usable::Never(reason)) }
    }

    /// Rows of the batch by table and columns. Entries that can have none are dead already.
    async fn groups(&mut self, batch: &[Entry], fates: &mut [Fate]) -> Result<Vec<Group>, Trouble> {
        let dialect = self.conn()?.dialect();
        let mut groups: Vec<Group> = Vec::new();
        let mut never: HashMap<Arc<str>, String> = HashMap::new();
        for (index, entry) in batch.iter().enumerate() {
            let Payload::Record(record) = &entry.payload else {
                fates[index] = Fate::Dead("a line stands where a record belongs".into());
                continue;
            };
            let table_name = &rows::table_of(record, &self.db).clone();
            if let Some(reason) = never.get(table_name) {
                fates[index] = Fate::Dead(reason.clone());
                continue;
            }
            let columns = rows::columns_of(record, &self.db);
            // Records in a row mostly go where the one before went.
            let known = groups.iter().rposition(|g| g.name == *table_name && g.wanted == columns);
            let at = match known {
                Some(at) => at,
                None => {
                    let optional = rows::optional_columns(record, table_name, &self.db);
                    let required = &columns[..columns.len() - optional];
                    // A script names a table for its calls as it names the file; a manual record's
                    // function has been told whether the table exists.
                    let may_make = record.kind != Kind::Manual;
                    match self.usable(table_name, required, may_make).await? {
                        Usable::Yes(table) => groups.push(Group::new(table_name.clone(), columns, table, dialect, &self.db)),
                        Usable::Never(reason) => {
                            fates[index] = Fate::Dead(reason.clone());
                            never.insert(table_name.clone(), reason);
                            continue;
                        }
                    }
                    groups.len() - 1
                }
            };
            let clipped = groups[at].add(index, record, &self.db);
            for column in clipped {
                crate::stats::add(crate::stats::Counter::Clipped, 1);
                if self.clipped.insert((table_name.clone(), column.clone())) {
                    log::warn!("db_url: values longer than column {column} of table {table_name} are clipped to it (said once): widen the column");
                }
            }
        }
        Ok(groups)
    }

    /// Moves the cursor. `Stale` when it is not where it was left.
    async fn move_cursor(&mut self, positions: &Positions, retired: &[SegmentName]) -> Result<(), Trouble> {
        let journal = Value::Text(self.journal.clone().into_bytes());
        let stored = std::mem::take(&mut self.stored);
        let result = async {
            let conn = self.conn()?;
            let dialect = conn.dialect();
            let p = |n: usize, text: bool| match (dialect, text) {
                (Dialect::Sqlite, true) => "CAST(? AS TEXT)".to_string(),
                (Dialect::Postgres, _) => format!("${n}"),
                _ => "?".to_string(),
            };
            let insert: Arc<str> =
                format!("INSERT INTO acc_delivery (reached, journal, segment) VALUES ({}, {}, {})", p(1, false), p(2, true), p(3, true)).into();
            let delete: Arc<str> = format!("DELETE FROM acc_delivery WHERE journal = {} AND segment = {}", p(1, true), p(2, true)).into();
            let text = |segment: &SegmentName| Value::Text(segment.to_string().into_bytes());
            let (known, new): (Vec<(SegmentName, u64)>, Vec<_>) =
                positions.iter().map(|(name, position)| (*name, *position)).partition(|(segment, _)| stored.contains_key(segment));
            for moved in known.chunks(MOVED_AT_ONCE) {
                // One statement for all of them: `reached` goes from where it was to where it is.
                let (mut cases, mut places, mut values) = (String::new(), String::new(), Vec::new());
                for (segment, position) in moved {
                    let n = values.len();
                    cases.push_str(&format!(" WHEN {} THEN {}", p(n + 1, true), p(n + 2, false)));
                    values.extend([text(segment), Value::Int(*position as i64)]);
                }
                let n = values.len() + 1;
                values.push(journal.clone());
                for (segment, _) in moved {
                    let n = values.len();
                    places.push_str(&format!("{}segment = {} AND reached = {}", if places.is_empty() { "" } else { " OR " }, p(n + 1, true), p(n + 2, false)));
                    values.extend([text(segment), Value::Int(stored[segment] as i64)]);
                }
                let update = format!("UPDATE acc_delivery SET reached = CASE segment{cases} END WHERE journal = {} AND ({places})", p(n, true));
                if conn.execute(update.into(), &values).await.map_err(cursor_trouble)? != moved.len() as u64 {
                    return Err(Trouble::Stale);
                }
            }
            for (segment, position) in &new {
                match conn.execute(insert.clone(), &[Value::Int(*position as i64), journal.clone(), text(segment)]).await {
                    Ok(_) => {}
                    Err(e) if e.unique => return Err(Trouble::Stale),
                    Err(e) => return Err(cursor_trouble(e)),
                }
            }
            for segment in retired {
                conn.execute(delete.clone(), &[journal.clone(), text(segment)]).await?;
            }
            Ok(())
        }
        .await;
        self.stored = stored;
        result
    }

    /// Inserts the rows of some entries: the first refused row fails the whole. While the database works
    /// on one statement, the next is made.
    async fn insert(&mut self, groups: &[Group], entries: &Range<usize>) -> Outcome<()> {
        let conn = self.conn()?;
        let parts = groups.iter().flat_map(|g| g.parts(g.rows_of(entries)).into_iter().map(move |part| (g, part)));
        let mut statements = parts.map(|(group, part)| (group.insert(part.len()), group.bound(part)));
        let mut next = statements.next();
        while let Some((sql, bound)) = next {
            let (inserted, following) = tokio::join!(biased; conn.execute_bound(sql, bound?), async { statements.next() });
            inserted?;
            next = following;
        }
        Ok(())
    }

    /// Ends a transaction that failed.
    async fn roll_back(&mut self) {
        let sqlite = self.is_sqlite();
        if let Some(conn) = &mut self.conn
            && answered(sqlite, conn.run("ROLLBACK")).await.is_err()
        {
            self.conn = None;
        }
    }

    /// One transaction, with some entries of the batch. The inner error is what the database says to
    /// their rows.
    async fn transact(
        &mut self,
        groups: &[Group],
        batch: &[Entry],
        entries: &Range<usize>,
        fates: &[Fate],
        commit: &mut Commit<'_>,
    ) -> Result<Outcome<()>, Trouble> {
        // A refused row can cost the connection: SQLite may have ended the transaction by itself.
        self.connect().await?;
        let is_last = entries.end == batch.len();
        let (batch, fates) = (&batch[entries.clone()], &fates[entries.clone()]);
        let of_part: Positions;
        let (positions, retired) = if is_last {
            (commit.positions, commit.retired)
        } else {
            // Entries of one segment stand in their order.
            of_part = batch.iter().map(|e| (e.segment, e.end)).collect();
            (&of_part, &[][..])
        };
        let conn = self.conn()?;
        let begin = if conn.dialect() == Dialect::Sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        conn.run(begin).await?;
        if self.cursor == Cursor::Table {
            self.move_cursor(positions, retired).await?;
        }
        if fates.contains(&Fate::Delivered)
            && let Err(e) = self.insert(groups, entries).await
        {
            return Ok(Err(e));
        }
        if self.cursor == Cursor::Table {
            for (entry, fate) in batch.iter().zip(fates) {
                if let Fate::Dead(reason) = fate {
                    commit
                        .dead
                        .add(entry, reason)
                        .map_err(|e| Trouble::Outage(format!("dead-db.jsonl in journal_dir cannot be written ({e}): give it space and permissions")))?;
                }
            }
        }
        // A constraint may be checked only here.
        if let Err(e) = self.conn()?.run("COMMIT").await {
            return Ok(Err(e));
        }
        if self.cursor == Cursor::Table {
            self.stored.extend(positions);
            for segment in retired {
                self.stored.remove(segment);
            }
            commit.stored = true;
        }
        Ok(Ok(()))
    }

    /// Delivers a batch. What the database refuses is halved, until what it refuses is alone and dead.
    /// Each part is a transaction, in order; `settled` is how many entries are.
    async fn deliver_parts(&mut self, batch: &[Entry], fates: &mut [Fate], settled: &mut usize, commit: &mut Commit<'_>) -> Result<(), Trouble> {
        let sqlite = self.is_sqlite();
        let groups = answered(sqlite, async {
            self.connect().await?;
            self.announce().await?;
            self.groups(batch, fates).await
        })
        .await?;
        let all: Range<usize> = 0..batch.len();
        let mut todo = vec![all];
        while let Some(entries) = todo.pop() {
            let refused = match answered(sqlite, self.transact(&groups, batch, &entries, fates, commit)).await? {
                Ok(()) => {
                    *settled = entries.end;
                    continue;
                }
                Err(e) if e.class == Class::Permanent => e,
                Err(e) => return Err(e.into()),
            };
            let Some(group) = groups.iter().find(|g| !g.rows_of(&entries).is_empty()) else { return Err(refused.into()) };
            self.roll_back().await;
            if entries.len() > 1 {
                let middle = entries.start + entries.len() / 2;
                todo.extend([middle..entries.end, entries.start..middle]);
            } else if fates[entries.start] == Fate::Delivered {
                fates[entries.start] = Fate::Dead(format!("table {} refuses it: {}", group.name, refused.text));
                todo.push(entries);
            } else {
                return Err(refused.into());
            }
        }
        Ok(())
    }
}

/// What a server answers within its time; SQLite has its own.
async fn answered<T, E: From<Failure>>(sqlite: bool, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    if sqlite {
        return work.await;
    }
    let late = |_| Failure { class: Class::Later, unique: false, text: format!("no answer within {} s", ANSWER.as_secs()) };
    tokio::time::timeout(ANSWER, work).await.map_err(late)?
}

impl Sink for SqlSink {
    async fn open(&mut self, journal: u64) -> Result<Option<Positions>, String> {
        self.journal = format!("{journal:016x}");
        match answered(self.is_sqlite(), self.load_cursor()).await {
            Ok(positions) => Ok(positions),
            Err(e) => {
                self.conn = None;
                Err(format!("db_url: {}", e.text))
            }
        }
    }

    async fn deliver(&mut self, batch: &[Entry], commit: &mut Commit<'_>) -> Result<Vec<Fate>, Trouble> {
        let mut fates = vec![Fate::Delivered; batch.len()];
        let mut settled = 0;
        if let Err(trouble) = self.deliver_parts(batch, &mut fates, &mut settled, commit).await {
            self.tables.clear();
            if self.is_sqlite() {
                self.roll_back().await;
            } else {
                // A new connection is cheap, and never in the middle of something.
                self.conn = None;
            }
            match trouble {
                Trouble::Outage(reason) if settled > 0 => fates[settled..].fill(Fate::Retry(reason)),
                trouble => return Err(trouble),
            }
        }
        Ok(fates)
    }
}
