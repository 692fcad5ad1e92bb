//! SQL: rows of records in SQLite, MySQL/MariaDB and PostgreSQL, each exactly once; in other
//! databases through the server ([`ForeignSink`]).
//!
//! Rows and the cursor (table `acc_delivery`) are committed in one transaction. The cursor moves
//! only from where this process left it, so that a transaction whose outcome was never heard
//! cannot count twice.
#![forbid(unsafe_code)]

mod calls;
mod conn;
mod failure;
mod file;
mod foreign;
mod postgres;
mod rows;
pub mod schema;
mod search;
mod seen;
mod settings;
mod stamp;
mod url;
mod value;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use conn::{Access, Conn, Dialect};
pub use failure::{Class, Failure};
pub use foreign::ForeignSink;
pub use rows::{rows_of, table_of};
pub use settings::{COLUMN_CREATED, COLUMN_DURATION, COLUMN_MS_DURATION, COLUMN_SETUPTIME, CdrsTable, Columns, Db, DbTime, read};
pub use url::{Target, is_foreign, parse, scheme, validate_url};
pub use value::Value;

use super::{Aside, Commit, Fate, Hold, LocalFuture, NOT_A_RECORD, Sink, Trouble};
use crate::accounting::extras::Family;
use crate::accounting::fields::Fields;
use crate::accounting::record::Kind;
use crate::journal::{Entry, Payload, Positions, SegmentName, Stamp};
use failure::Outcome;
use rows::{Group, Layout};
use schema::{CURSOR_TABLE, Role, Table};
use search::{SAVEPOINT, Search};
use seen::{Elsewhere, Seen};

/// Most rows in one INSERT. More make no measurable difference, and SQLite's parser takes time for each row.
const ROWS: usize = 64;
/// Cursor rows moved by one UPDATE: there is one for every worker that wrote since the last batch.
const MOVED_AT_ONCE: usize = 16;
/// Most bytes of values in one INSERT: far below the least `max_allowed_packet` in use (4 MiB).
const INSERT_BYTES: usize = 1 << 20;
/// Most bound values: SQLite's limit, the least of the three.
const BINDS: usize = 32_766;
/// How long a server may take to give the cursor, or for a transaction; a hung one is an outage. SQLite has its own timeout.
const ANSWER: Duration = Duration::from_secs(30);

/// Longest pause before a SQLite file is tried again: others may write to it all the time, and a file
/// costs no more than a look.
const SQLITE_PAUSE: Duration = Duration::from_millis(250);

/// Can a statement for the database of `url` name this table?
pub fn check_table(url: &str, name: &str) -> Result<(), String> {
    if !schema::is_table_name(name) {
        return Err(format!(
            "\"{name}\" is not a valid table name: use letters, digits and '_', not beginning with a digit, optionally after the name of a database or schema and a dot"
        ));
    }
    match name.split_once('.') {
        Some((space, plain)) if !space.eq_ignore_ascii_case("main") && matches!(parse(url), Ok(Target::Sqlite(_))) => {
            Err(format!("\"{name}\" is not a valid table name: an SQLite file has no database {space}, write {plain}"))
        }
        _ => Ok(()),
    }
}
/// A table that could not take rows is not looked at again for rows of the stream before this time is over.
const SHUT: Duration = Duration::from_secs(1);
/// So long after a refused row each statement gets a savepoint: to repeat the whole batch for the next one
/// costs more.
const CAREFUL: Duration = Duration::from_secs(60);
/// How long a transaction searches for refused rows: far below [`ANSWER`]. The next one uses what it found.
const SEARCH: Duration = Duration::from_secs(5);
/// Number of records that must be refused one by one, with none accepted, to show that they are not at fault.
const ALL_REFUSED: usize = 2;
/// A batch that fails so often, with a code of the database's own trouble, is tried record by record: the
/// trouble may be that of one row.
const STUBBORN: u32 = 3;

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
    db: Arc<Db>,
    fields: Fields,
    conn: Option<Conn>,
    /// Device and inode of the connected SQLite file.
    file: Option<(u64, u64)>,
    journal: String,
    cursor: Cursor,
    seen: Seen,
    /// The server is a node of a cluster.
    clustered: bool,
    /// The cursor rows as last committed.
    stored: Positions,
    /// And what the database says of itself.
    stamp: Option<Stamp>,
    /// Tables as they were when last looked at; asked again after any trouble.
    tables: HashMap<Arc<str>, Arc<Table>>,
    announce: Option<fn(&[String])>,
    announced: Option<Instant>,
    /// Columns whose clipping was logged.
    clipped: HashSet<(Arc<str>, Arc<str>)>,
    /// Messages already logged about tables.
    said: HashSet<String>,
    /// Tables that could not take rows a moment ago, and why.
    shut: HashMap<Arc<str>, (Instant, String)>,
    /// When a row was last refused.
    refused: Option<Instant>,
    /// The first entry of a batch that fails, and how often it did.
    stuck: Option<(SegmentName, u64, u32)>,
    /// The database says how far a statement came that failed.
    tells_rows: bool,
}

impl From<Failure> for Trouble {
    fn from(f: Failure) -> Trouble {
        Trouble::Outage(format!("db_url: {}", f.text))
    }
}

/// Reads the rows of a journal in the table of the cursor: names of segments, and how far they are delivered.
pub fn cursor_of(dialect: Dialect) -> String {
    format!("SELECT segment, {} FROM {CURSOR_TABLE} WHERE journal = {}", dialect.as_text("reached"), dialect.text_place(1))
}

/// Adds a row to it: position, journal and name.
fn into_cursor(dialect: Dialect) -> Arc<str> {
    let [reached, journal, segment] = [dialect.place(1), dialect.text_place(2), dialect.text_place(3)];
    format!("INSERT INTO {CURSOR_TABLE} (reached, journal, segment) VALUES ({reached}, {journal}, {segment})").into()
}

/// A missing cursor table (another file, a dropped table) is created again when the cursor is read.
fn cursor_trouble(f: Failure) -> Trouble {
    if f.class == Class::Schema { Trouble::Stale } else { f.into() }
}

/// What to do with the records of a table that cannot take them.
enum Usable {
    Yes(Arc<Table>),
    /// Only a script names it: its records are dead, for this reason.
    Never(String),
    /// An operator has to repair it: its records wait.
    NotYet(String),
}

/// Why a transaction failed.
enum Failed {
    /// An INSERT for the table of this group.
    Insert(usize, Failure),
    /// The COMMIT, which may check constraints.
    Commit(Failure),
    /// To find the refused rows took too long: those found, with what the database says, of the entries before this one.
    Slow(Vec<(usize, Failure)>, usize),
    /// The calls of some entries have their CDRs already.
    Elsewhere(Elsewhere),
    /// So they may have: that is to be looked at first.
    Known,
    /// Something that no row is to blame for.
    Trouble(Trouble),
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Failed {
        Failed::Trouble(trouble)
    }
}

impl From<Failure> for Failed {
    fn from(f: Failure) -> Failed {
        Failed::Trouble(f.into())
    }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Trouble {
        match failed {
            Failed::Trouble(trouble) => trouble,
            Failed::Insert(_, f) | Failed::Commit(f) => f.into(),
            Failed::Known => Trouble::Outage("db_url: other servers write CDRs of the same calls all the time".into()),
            Failed::Slow(..) | Failed::Elsewhere(_) => Trouble::Outage(format!("db_url: no row was inserted within {} s", SEARCH.as_secs())),
        }
    }
}

/// How often the tables of the database are listed while rows come: a new table is known to the
/// script's functions after this time.
const ANNOUNCE: Duration = Duration::from_secs(10);

impl SqlSink {
    /// A sink for the database of the configuration; connects later.
    pub fn new(db: &Db, fields: &Fields) -> Result<SqlSink, String> {
        Ok(SqlSink {
            target: parse(&db.url)?,
            db: Arc::new(db.clone()),
            fields: fields.clone(),
            conn: None,
            file: None,
            journal: String::new(),
            cursor: Cursor::Unknown,
            seen: Seen::Unknown,
            clustered: false,
            stored: Positions::new(),
            stamp: None,
            tables: HashMap::new(),
            clipped: HashSet::new(),
            said: HashSet::new(),
            shut: HashMap::new(),
            refused: None,
            stuck: None,
            tells_rows: true,
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

    /// The server may be a node of a cluster: then a call that has its CDR may come back, with another one of the same
    /// journal.
    #[must_use]
    pub fn in_cluster(mut self, clustered: bool) -> SqlSink {
        self.clustered = clustered;
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

    fn is_sqlite(&self) -> bool {
        matches!(self.target, Target::Sqlite(_))
    }

    async fn connect(&mut self) -> Outcome<()> {
        if let Target::Sqlite(path) = &self.target {
            // The file may have been moved: rows must not go into one that nobody can find.
            let file = std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
            if self.conn.is_some() && file != self.file {
                log::warn!("db_url: the SQLite file was moved or replaced; continuing with a new one");
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
        self.conn.as_mut().ok_or_else(not_connected)
    }

    async fn load_cursor(&mut self) -> Outcome<Option<Positions>> {
        self.connect().await?;
        self.announce().await?;
        self.load_seen().await?;
        self.look().await?;
        let journal = self.journal.clone();
        let conn = self.conn()?;
        let sql = cursor_of(conn.dialect());
        let key = [Value::Text(journal.clone().into_bytes())];
        let rows = match conn.query(sql.as_str(), 2, &key).await {
            Ok(rows) => rows,
            Err(e) if e.class == Class::Later => return Err(e),
            Err(_) => {
                let create = schema::create_cursor(conn.dialect());
                match conn.query_made(&create, &sql, 2, &key).await {
                    Ok(rows) => rows,
                    Err(e) if e.class == Class::Later => return Err(e),
                    Err(e) => {
                        if self.cursor != Cursor::File {
                            log::warn!(
                                "db_url: table acc_delivery cannot be used ({}): a record may now be written twice after a crash; grant access to it or repair it, using: {create};",
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
                "db_url: table {CURSOR_TABLE} has the engine {engine}, which has no transactions, and is not used: a record may now be written twice after a crash; change it, and start the server again: ALTER TABLE {CURSOR_TABLE} ENGINE=InnoDB;"
            );
        }
        self.cursor = if lasting.is_some() { Cursor::File } else { Cursor::Table };
        self.stamp = if self.cursor == Cursor::Table { self.read_stamp(&rows).await? } else { None };
        self.stored = rows.iter().filter_map(|row| Some((row.first()?.as_deref()?.trim().parse().ok()?, row.get(1)?.as_deref()?.parse().ok()?))).collect();
        Ok(Some(self.stored.clone()))
    }

    /// The table if it can take records of this configuration.
    async fn usable(&mut self, name: &Arc<str>, wanted: &[Arc<str>], may_make: bool) -> Result<Usable, Trouble> {
        let role = Role::of(&self.db, name);
        let of_calls = *name == self.db.table_calls;
        let configured = role.is_some() || of_calls;
        let known = self.tables.get(name).filter(|t| wanted.iter().all(|c| t.column(c).is_some())).cloned();
        if let Some(table) = known {
            return Ok(Usable::Yes(table));
        }
        if let Err(reason) = check_table(&self.db.url, name) {
            return Ok(Usable::Never(reason));
        }
        let mut found = schema::probe(self.conn()?, name).await?;
        if found.is_none() && of_calls && self.conn()?.dialect() == Dialect::Sqlite {
            let create = schema::create_calls(&self.db, &self.fields, Dialect::Sqlite);
            let conn = self.conn()?;
            conn.run(create).await?;
            found = schema::probe(conn, name).await?;
        }
        if found.is_none() && (configured || may_make) && self.conn()?.dialect() == Dialect::Sqlite {
            let mut db = Db::clone(&self.db);
            if !configured {
                db.table_acc = name.clone();
            }
            let fields = self.fields.clone();
            let conn = self.conn()?;
            schema::prepare_sqlite(conn, &db, &fields).await?;
            found = schema::probe(conn, name).await?;
        }
        let dialect = self.conn()?.dialect();
        let exists = found.is_some();
        let reason = match (found, role) {
            (None, _) if of_calls => {
                let create = schema::create_calls(&self.db, &self.fields, dialect).replace("\n", " ").replace("    ", "");
                format!("table {name} does not exist in the database of db_url, but calls have the flag start; create it: {create}")
            }
            (None, Some(role)) => {
                let create = schema::create(&self.db, &self.fields, role, dialect, Family::OpenSips).join(" ").replace("\n", " ").replace("    ", "");
                format!("table {name} does not exist in the database of db_url; create it: {create}")
            }
            (None, None) => format!("table {name}, named in the script, does not exist in the database of db_url: create it and requeue the record"),
            (Some(table), _) => {
                let missing: Vec<_> = wanted.iter().filter(|c| table.column(c).is_none()).cloned().collect();
                if missing.is_empty() {
                    self.remark(name, &table, dialect);
                    let table = Arc::new(table);
                    self.tables.insert(name.clone(), table.clone());
                    return Ok(Usable::Yes(table));
                }
                let alter = match role {
                    _ if of_calls => schema::alter_calls(&self.db, &table, &missing, dialect),
                    role => schema::alter(&self.db, role.unwrap_or(Role::Acc), &table, &missing, dialect),
                };
                format!("table {name} lacks {}; add it: {alter}", missing.join(", "))
            }
        };
        Ok(if configured || exists { Usable::NotYet(reason) } else { Usable::Never(reason) })
    }

    /// Logs once what the operator should know about a table.
    fn remark(&mut self, name: &str, table: &Table, dialect: Dialect) {
        for remark in table.remarks(name, &self.db, &self.fields, dialect) {
            if self.said.insert(remark.clone()) {
                log::warn!("{remark}");
            }
        }
    }

    /// Looks at the configured tables before the first record comes: who has set up a server looks at
    /// its log then.
    async fn look(&mut self) -> Outcome<()> {
        if let Some(remark) = self.target.remark()
            && self.said.insert(remark.clone())
        {
            log::warn!("{remark}");
        }
        let names: Vec<_> = schema::tables_of(&self.db).map(|(_, name)| name.clone()).collect();
        for name in names {
            let conn = self.conn()?;
            let dialect = conn.dialect();
            match schema::probe(conn, &name).await {
                Ok(Some(table)) => self.remark(&name, &table, dialect),
                Err(e) if e.class == Class::Later => return Err(e),
                // Logged when there are records for it.
                Ok(None) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Rows of the batch, from the entry `from` on, by table and columns. Entries that can have none have
    /// another fate already.
    async fn groups(&mut self, batch: &[Entry], from: usize, fates: &mut [Fate]) -> Result<Vec<Group>, Trouble> {
        let dialect = self.conn()?.dialect();
        let mut groups: Vec<Group> = Vec::new();
        let mut none: HashMap<Arc<str>, Fate> = HashMap::new();
        let later = calls::replaced(batch);
        for (index, entry) in batch.iter().enumerate().skip(from) {
            if fates[index] != Fate::Delivered || later.contains(&index) {
                continue;
            }
            let Payload::Record(record) = &entry.payload else {
                fates[index] = Fate::Dead(NOT_A_RECORD.into());
                continue;
            };
            let table_name = &rows::table_of(record, &self.db).clone();
            if entry.parked.is_none()
                && let Some((since, reason)) = self.shut.get(table_name)
                && since.elapsed() < SHUT
            {
                none.insert(table_name.clone(), held(table_name, reason));
            }
            if let Some(fate) = none.get(table_name) {
                fates[index] = fate.clone();
                continue;
            }
            let (columns, layout) = (rows::columns_of(record, &self.db), Layout::of(record, &self.db));
            // Records in a row mostly go where the one before went.
            let known = groups.iter().rposition(|g| g.name == *table_name && g.wanted == columns && g.layout == layout);
            let at = match known {
                Some(at) => at,
                None => {
                    let optional = rows::optional_columns(record, table_name, &self.db);
                    let required = &columns[..columns.len() - optional];
                    // A script names a table for its calls as it names the file; a manual record's
                    // function has been told whether the table exists.
                    let may_make = record.kind != Kind::Manual;
                    match self.usable(table_name, required, may_make).await? {
                        Usable::Yes(table) => groups.push(Group::new(table_name.clone(), columns, layout, table, dialect, &self.db)),
                        Usable::Never(reason) => {
                            fates[index] = Fate::Dead(reason);
                            none.insert(table_name.clone(), fates[index].clone());
                            continue;
                        }
                        Usable::NotYet(reason) => {
                            fates[index] = self.shut(table_name, reason);
                            none.insert(table_name.clone(), fates[index].clone());
                            continue;
                        }
                    }
                    groups.len() - 1
                }
            };
            groups[at].add(index, record);
        }
        Ok(groups)
    }

    /// Counts values that were clipped.
    fn count_clipped(&mut self, groups: &[Group]) {
        for group in groups {
            for column in group.take_clipped() {
                crate::stats::add(crate::stats::Counter::Clipped, 1);
                if self.clipped.insert((group.name.clone(), column.clone())) {
                    log::warn!("db_url: values longer than column {column} of table {} are clipped to its width (logged once): widen the column", group.name);
                }
            }
        }
    }

    /// Moves the cursor. `Stale` when it is not where it was left.
    async fn move_cursor(&mut self, positions: &Positions, retired: &[SegmentName]) -> Result<(), Trouble> {
        let journal = Value::Text(self.journal.clone().into_bytes());
        let stored = std::mem::take(&mut self.stored);
        let result = async {
            let conn = self.conn()?;
            let dialect = conn.dialect();
            let insert = into_cursor(dialect);
            let delete: Arc<str> = format!("DELETE FROM acc_delivery WHERE journal = {} AND segment = {}", dialect.text_place(1), dialect.text_place(2)).into();
            let text = |segment: &SegmentName| Value::Text(segment.to_string().into_bytes());
            let (known, new): (Vec<(SegmentName, u64)>, Vec<_>) =
                positions.iter().map(|(name, position)| (*name, *position)).partition(|(segment, _)| stored.contains_key(segment));
            for moved in known.chunks(MOVED_AT_ONCE) {
                // One statement for all of them: `reached` goes from where it was to where it is.
                let (mut cases, mut places, mut values) = (String::new(), String::new(), Vec::new());
                for (segment, position) in moved {
                    let n = values.len();
                    cases.push_str(&format!(" WHEN {} THEN {}", dialect.text_place(n + 1), dialect.place(n + 2)));
                    values.extend([text(segment), Value::Int(*position as i64)]);
                }
                let n = values.len() + 1;
                values.push(journal.clone());
                for (segment, _) in moved {
                    let n = values.len();
                    places.push_str(&format!(
                        "{}segment = {} AND reached = {}",
                        if places.is_empty() { "" } else { " OR " },
                        dialect.text_place(n + 1),
                        dialect.place(n + 2)
                    ));
                    values.extend([text(segment), Value::Int(stored[segment] as i64)]);
                }
                let update = format!("UPDATE acc_delivery SET reached = CASE segment{cases} END WHERE journal = {} AND ({places})", dialect.text_place(n));
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

    /// The table accepts no rows, for this reason, until it is examined again.
    fn shut(&mut self, table: &Arc<str>, reason: String) -> Fate {
        let fate = held(table, &reason);
        self.shut.insert(table.clone(), (Instant::now(), reason));
        fate
    }

    /// The fate of an entry if the database refuses only its rows.
    fn verdict(&self, groups: &[Group], batch: &[Entry], index: usize, failure: &Failure) -> Fate {
        let Some(group) = groups.iter().find(|g| !g.rows_of(&(index..index + 1)).is_empty()) else { return Fate::Retry(failure.text.clone()) };
        let table = &group.name;
        match failure.class {
            Class::Permanent => Fate::Dead(format!("table {table} refuses it: {}", failure.text)),
            Class::Partition => {
                let day = match &batch[index].payload {
                    Payload::Record(record) => group.day(record),
                    Payload::LogLine(_) => String::new(),
                };
                let reason = format!("table {table} has no partition for a record of {day}; add it: {}", group.partition_advice());
                Fate::Held(Hold { queue: table.clone(), reason, all: false })
            }
            Class::Schema | Class::Changed | Class::Denied => {
                Fate::Held(Hold { queue: table.clone(), reason: format!("table {table}: {}", failure.text), all: false })
            }
            Class::Refused | Class::Later => Fate::Refused(format!("table {table} refuses it: {}", failure.text)),
        }
    }

    /// Rolls back a failed transaction; returns whether the database could be told.
    async fn roll_back(&mut self) -> bool {
        let sqlite = self.is_sqlite();
        if let Some(conn) = &mut self.conn
            && answered(sqlite, conn.roll_back()).await.is_err()
        {
            self.conn = None;
        }
        self.conn.is_some()
    }

    /// One transaction, with some entries of the batch; `how` it deals with refused rows.
    async fn transact(&mut self, work: &mut Work<'_>, entries: &Range<usize>, how: How, commit: &mut Commit<'_>) -> Result<(), Failed> {
        // A refused row can cost the connection: SQLite may have ended the transaction by itself.
        self.connect().await?;
        let (positions, retired) = work.reached(entries, commit);
        self.conn()?.begin(matches!(how, How::Each { .. }).then_some(SAVEPOINT)).await?;
        if self.cursor == Cursor::Table {
            self.move_cursor(&positions, retired).await?;
        }
        self.put_rows(work, entries, how).await?;
        self.remove_calls(&work.batch[entries.clone()], &work.fates[entries.clone()]).await?;
        if self.cursor == Cursor::Table {
            work.set_aside(entries, commit.aside)?;
        }
        let stamp = match self.cursor {
            Cursor::Table => Some(self.put_stamp(work.taken(entries) as u64).await?),
            Cursor::Unknown | Cursor::File => None,
        };
        // A constraint may be checked only here.
        self.conn()?.commit().await.map_err(Failed::Commit)?;
        if self.cursor == Cursor::Table {
            self.stamp = stamp;
            self.stored.extend(positions.iter());
            for segment in retired {
                self.stored.remove(segment);
            }
            commit.stored = true;
        }
        Ok(())
    }

    /// Inserts the rows of those entries that are to be delivered, and decides what becomes of refused ones.
    async fn put_rows(&mut self, work: &mut Work<'_>, entries: &Range<usize>, how: How) -> Result<(), Failed> {
        let mut inserted = Ok(());
        if work.taken(entries) > 0 {
            let sight = self.see(&work.batch[entries.clone()], &work.fates[entries.clone()], work.looks).await?;
            if !sight.elsewhere.is_empty() {
                return Err(Failed::Elsewhere(sight.elsewhere));
            }
            inserted = match how {
                How::Whole => self.insert(&work.groups, work.batch, entries).await,
                How::Each { alone, stubborn } => {
                    let mut search = Search::new(self.conn()?.dialect(), alone, stubborn, work.looked_again);
                    match self.insert_each(&work.groups, work.batch, entries, &mut search).await {
                        Ok(refused) => {
                            self.judge_refused(work, entries, stubborn, refused, &sight.replaced).await?;
                            Ok(())
                        }
                        Err(failed) => Err(failed),
                    }
                }
            };
        }
        self.count_clipped(&work.groups);
        inserted
    }

    /// All rows are in but those of `refused` entries: gives these their fates, unless the transaction has to be
    /// given up for them.
    async fn judge_refused(
        &mut self,
        work: &mut Work<'_>,
        entries: &Range<usize>,
        stubborn: bool,
        refused: Vec<(usize, Failure)>,
        replaced: &[usize],
    ) -> Result<(), Failed> {
        if !refused.is_empty() {
            self.refused = Some(Instant::now());
        }
        if work.is_the_tables_trouble(entries, &refused, stubborn) {
            return Err(Failed::Insert(0, Failure { class: Class::Later, ..refused[0].1.copy() }));
        }
        if refused.iter().any(|(index, _)| replaced.contains(&(index - entries.start))) {
            // The rows it was to replace must stay.
            return Err(Failed::Slow(refused, entries.end));
        }
        let records: Vec<_> = refused.iter().map(|(index, _)| &work.batch[*index]).collect();
        self.unsee(&records).await?;
        for (index, failure) in &refused {
            work.fates[*index] = self.verdict(&work.groups, work.batch, *index, failure);
        }
        Ok(())
    }

    /// Delivers a batch, in one transaction if that can be. What the database refuses is found between savepoints;
    /// only what it refuses at the COMMIT is halved until it is alone. Each part is a transaction then, in
    /// order; `settled` is how many entries are.
    async fn deliver_parts(&mut self, batch: &[Entry], fates: &mut [Fate], settled: &mut usize, commit: &mut Commit<'_>) -> Result<(), Trouble> {
        let sqlite = self.is_sqlite();
        let mut work = self.begin(batch, fates).await?;
        while let Some((entries, how)) = work.todo.pop() {
            if work.stays_apart() {
                return Ok(());
            }
            match answered(sqlite, self.transact(&mut work, &entries, how, commit)).await {
                Ok(()) => {
                    let known = work.elsewhere.extract_if(|index| entries.contains(index)).count();
                    crate::stats::add(crate::stats::Counter::DbElsewhere, known as u64);
                    (*settled, work.looks) = (entries.end, 0);
                }
                Err(failed) => self.go_on(failed, &mut work, entries, how).await?,
            }
        }
        self.stuck = None;
        Ok(())
    }

    /// Connects, sorts the rows of the batch, and chooses how they are inserted.
    async fn begin<'a>(&mut self, batch: &'a [Entry], fates: &'a mut [Fate]) -> Result<Work<'a>, Trouble> {
        let groups = answered(self.is_sqlite(), async {
            self.connect().await?;
            self.announce().await?;
            self.groups(batch, 0, fates).await
        })
        .await?;
        let first = batch.first().map(|e| (e.segment, e.offset));
        let stubborn = self.stuck.is_some_and(|(segment, offset, times)| Some((segment, offset)) == first && times >= STUBBORN);
        // Those that were refused before are expected to be again.
        let alone = batch.first().and_then(|e| e.parked.as_ref()).is_some_and(|p| p.queue.is_empty());
        let careful = How::Each { alone, stubborn };
        let expected = stubborn || alone || self.refused.is_some_and(|at| at.elapsed() < CAREFUL);
        let how = if expected { careful } else { How::Whole };
        let todo = seen::parts(batch).into_iter().map(|entries| (entries, how)).collect();
        Ok(Work { batch, fates, groups, todo, careful, looked_again: false, aside: HashSet::new(), elsewhere: HashSet::new(), looks: 0 })
    }

    /// What to do after a failed transaction: what is left of it is to be done again, in another way; or the
    /// batch has to wait.
    async fn go_on(&mut self, failed: Failed, work: &mut Work<'_>, entries: Range<usize>, how: How) -> Result<(), Trouble> {
        match failed {
            Failed::Trouble(trouble) => return Err(trouble),
            Failed::Insert(_, f) if f.class == Class::Later => {
                self.note_stuck(work.batch).await;
                return Err(f.into());
            }
            Failed::Insert(_, f) if matches!(f.class, Class::Schema | Class::Changed) && !work.looked_again => {
                self.look_again(work, entries.start).await?;
                work.todo.push((entries, how));
            }
            Failed::Insert(at, f) if f.class.is_of_table() && f.class != Class::Changed => {
                self.roll_back().await;
                self.hold_table(work, at, entries.start, &f);
                work.todo.push((entries, how));
            }
            Failed::Insert(..) => {
                self.roll_back().await;
                self.refused = Some(Instant::now());
                work.todo.push((entries, work.careful));
            }
            Failed::Commit(f) if matches!(f.class, Class::Later | Class::Denied) => return Err(f.into()),
            Failed::Commit(f) => {
                self.roll_back().await;
                // What was found refused waits apart by now: a row that went in after all would be there twice.
                self.group_again(work, entries.start).await?;
                self.split(work, entries, how, f)?;
            }
            Failed::Slow(refused, end) => {
                let only_refused = end == entries.start || refused.len() == end - entries.start && !work.is_apart();
                if only_refused {
                    return Err(Failed::Slow(refused, end).into());
                }
                self.leave_out(work, entries, refused, end).await?;
            }
            Failed::Elsewhere(known) => {
                self.roll_back().await;
                work.elsewhere.extend(known.iter().map(|(i, _)| entries.start + i));
                for (i, reason) in known {
                    work.fates[entries.start + i] = Fate::Dead(reason);
                }
                self.group_again(work, entries.start).await?;
                work.todo.push((entries, how));
            }
            Failed::Known if work.looks > seen::LOOKS => return Err(Failed::Known.into()),
            Failed::Known => {
                self.roll_back().await;
                work.looks += 1;
                work.todo.push((entries, how));
            }
        }
        Ok(())
    }

    /// A row may be ending the connection: if the database can be reached, it was no trouble of the connection, and
    /// counts against this batch.
    async fn note_stuck(&mut self, batch: &[Entry]) {
        let sqlite = self.is_sqlite();
        if (self.roll_back().await || answered(sqlite, self.connect()).await.is_ok())
            && let Some(Entry { segment, offset, .. }) = batch.first()
        {
            let times = self.stuck.filter(|s| (s.0, s.1) == (*segment, *offset)).map_or(0, |s| s.2);
            self.stuck = Some((*segment, *offset, times + 1));
        }
    }

    /// The tables may have changed: looks at them again for the entries from `start` on.
    async fn look_again(&mut self, work: &mut Work<'_>, start: usize) -> Result<(), Trouble> {
        self.roll_back().await;
        work.looked_again = true;
        self.tables.clear();
        for (index, fate) in work.fates.iter_mut().enumerate().skip(start) {
            // What a refused COMMIT has left aside stays there.
            if !work.aside.contains(&index) {
                *fate = Fate::Delivered;
            }
        }
        work.elsewhere.retain(|index| *index < start || work.aside.contains(index));
        self.group_again(work, start).await
    }

    /// Connects if need be, and sorts the rows from the entry `start` on anew.
    async fn group_again(&mut self, work: &mut Work<'_>, start: usize) -> Result<(), Trouble> {
        work.groups = answered(self.is_sqlite(), async {
            self.connect().await?;
            self.groups(work.batch, start, work.fates).await
        })
        .await?;
        Ok(())
    }

    /// The table of a group takes nothing: entries with rows for it wait, from `start` on.
    fn hold_table(&mut self, work: &mut Work<'_>, group: usize, start: usize, f: &Failure) {
        let group = work.groups.remove(group);
        let fate = self.shut(&group.name, format!("table {}: {}", group.name, f.text));
        for (index, of_entry) in work.fates.iter_mut().enumerate().skip(start) {
            if !group.rows_of(&(index..index + 1)).is_empty() {
                *of_entry = fate.clone();
            }
        }
    }

    /// The COMMIT was refused: each half has a transaction of its own, and an entry that is alone a verdict.
    fn split(&self, work: &mut Work<'_>, entries: Range<usize>, how: How, f: Failure) -> Result<(), Trouble> {
        if entries.len() > 1 {
            let middle = entries.start + entries.len() / 2;
            work.todo.extend([(middle..entries.end, how), (entries.start..middle, how)]);
            return Ok(());
        }
        if work.fates[entries.start] != Fate::Delivered {
            return Err(f.into());
        }
        work.fates[entries.start] = self.verdict(&work.groups, work.batch, entries.start, &f);
        work.todo.push((entries, how));
        Ok(())
    }

    /// The search for refused rows came as far as `end`: what is before it goes without those found, and the search goes
    /// on behind it.
    async fn leave_out(&mut self, work: &mut Work<'_>, entries: Range<usize>, refused: Vec<(usize, Failure)>, end: usize) -> Result<(), Trouble> {
        self.roll_back().await;
        for (index, failure) in refused {
            work.fates[index] = self.verdict(&work.groups, work.batch, index, &failure);
        }
        work.groups = answered(self.is_sqlite(), self.groups(work.batch, entries.start, work.fates)).await?;
        if end < entries.end {
            work.todo.push((end..entries.end, work.careful));
        }
        work.todo.push((entries.start..end, How::Whole));
        Ok(())
    }
}

/// A batch on its way into the database.
struct Work<'a> {
    batch: &'a [Entry],
    fates: &'a mut [Fate],
    /// Its rows.
    groups: Vec<Group>,
    /// What is left, the next transaction last.
    todo: Vec<(Range<usize>, How)>,
    /// How refused rows are found.
    careful: How,
    /// A table that did not fit was looked at again already.
    looked_again: bool,
    /// Entries that were kept aside, whatever became of the transaction.
    aside: HashSet<usize>,
    /// Entries whose calls have their CDRs already; counted when the cursor has passed them.
    elsewhere: HashSet<usize>,
    /// How often the next transaction was given up because calls had CDRs already.
    looks: u32,
}

impl Work<'_> {
    /// Is it of entries that wait apart?
    fn is_apart(&self) -> bool {
        self.batch.first().is_some_and(|e| e.parked.is_some())
    }

    /// Do all of them stay where they wait?
    fn stays_apart(&self) -> bool {
        self.is_apart() && self.fates.iter().all(|f| matches!(f, Fate::Held(hold) if hold.all))
    }

    /// How many of these are to be inserted, or have been.
    fn taken(&self, entries: &Range<usize>) -> usize {
        self.fates[entries.clone()].iter().filter(|f| **f == Fate::Delivered).count()
    }

    /// Where the cursor is behind these entries, and segments that go from it.
    fn reached<'c>(&self, entries: &Range<usize>, commit: &Commit<'c>) -> (Cow<'c, Positions>, &'c [SegmentName]) {
        if entries.end == self.batch.len() {
            return (Cow::Borrowed(commit.positions), commit.retired);
        }
        // Entries of one segment are in order.
        (Cow::Owned(self.batch[entries.clone()].iter().map(|e| (e.segment, e.end)).collect()), &[])
    }

    /// Was so much refused, and nothing taken, that it may be the table's own trouble, which takes no code to tell? A record
    /// that waits apart was compared with others before.
    fn is_the_tables_trouble(&self, entries: &Range<usize>, refused: &[(usize, Failure)], stubborn: bool) -> bool {
        let odd = refused.iter().filter(|(_, f)| matches!(f.class, Class::Refused | Class::Later)).count();
        let most = if stubborn { 1 } else { ALL_REFUSED };
        // What has no row of its own, as a later one of the batch has it, is never refused.
        let has_row = |index: &usize| self.groups.iter().any(|g| !g.rows_of(&(*index..*index + 1)).is_empty());
        let with_rows = entries.clone().filter(|index| self.fates[*index] == Fate::Delivered && has_row(index)).count();
        refused.len() == with_rows && odd >= most && self.batch[entries.clone()].iter().all(|e| e.parked.is_none())
    }

    /// Keeps those that are not delivered, before the cursor passes them.
    fn set_aside(&mut self, entries: &Range<usize>, aside: &mut Aside) -> Result<(), Trouble> {
        for index in entries.clone() {
            let fate = &mut self.fates[index];
            aside.take(&self.batch[index], fate).map_err(Trouble::Outage)?;
            if matches!(fate, Fate::Dead(_) | Fate::Refused(_) | Fate::Held(_)) {
                self.aside.insert(index);
            }
        }
        aside.sync().map_err(Trouble::Outage)
    }
}

fn not_connected() -> Failure {
    Failure { class: Class::Later, unique: false, text: "not connected".into() }
}

/// How a transaction deals with refused rows.
#[derive(Clone, Copy)]
enum How {
    /// The first one ends it.
    Whole,
    /// It finds them, trying some records at once or each alone; also for codes of the database's own trouble.
    Each { alone: bool, stubborn: bool },
}

/// The fate of records whose table accepts none.
fn held(table: &Arc<str>, reason: &str) -> Fate {
    Fate::Held(Hold { queue: table.clone(), reason: reason.to_string(), all: true })
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
    fn open(&mut self, journal: u64) -> LocalFuture<'_, Result<Option<Positions>, String>> {
        Box::pin(self.connect_for(journal))
    }

    fn deliver<'a>(&'a mut self, batch: &'a [Entry], commit: &'a mut Commit<'_>) -> LocalFuture<'a, Result<Vec<Fate>, Trouble>> {
        Box::pin(self.deliver_batch(batch, commit))
    }

    fn stores_cursor(&self) -> bool {
        self.cursor == Cursor::Table
    }

    fn pause_max(&self) -> Option<Duration> {
        self.is_sqlite().then_some(SQLITE_PAUSE)
    }

    fn stamp(&self) -> Option<Stamp> {
        self.stamp.filter(|_| self.stores_cursor())
    }

    fn close(&mut self) -> LocalFuture<'_, ()> {
        Box::pin(async {
            if let Some(conn) = self.conn.take() {
                conn.close().await;
            }
        })
    }
}

impl SqlSink {
    async fn connect_for(&mut self, journal: u64) -> Result<Option<Positions>, String> {
        self.journal = format!("{journal:016x}");
        match answered(self.is_sqlite(), self.load_cursor()).await {
            Ok(positions) => Ok(positions),
            Err(e) => {
                self.conn = None;
                Err(format!("db_url: {}", e.text))
            }
        }
    }

    async fn deliver_batch(&mut self, batch: &[Entry], commit: &mut Commit<'_>) -> Result<Vec<Fate>, Trouble> {
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
