//! Records as rows.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, Local};
use once_cell::sync::Lazy;

use super::conn::{Bound, Dialect};
use super::failure::Outcome;
use super::postgres::Param;
use super::schema::{CALL_COLUMNS, Column, DAYS_EARLY, Holds, Table, Unset};
use super::value::{Value, escape_invalid};
use super::{BINDS, COLUMN_CREATED, COLUMN_DURATION, COLUMN_MS_DURATION, COLUMN_SETUPTIME, Db, DbTime, INSERT_BYTES, ROWS};
use crate::accounting::clock::Wall;
use crate::accounting::dialog_cdr;
use crate::accounting::record::{ACC_ID, ATTEMPTS, END_CAUSE, END_REASON, END_SIDE, Field, Kind, PDD_MS, RING_MS, Record, Shape};
use crate::accounting::visible::{put_escape, whole};
use crate::journal::{Entry, Payload};

static SETUPTIME: Lazy<Arc<str>> = Lazy::new(|| COLUMN_SETUPTIME.into());
static CREATED: Lazy<Arc<str>> = Lazy::new(|| COLUMN_CREATED.into());
static DURATION: Lazy<Arc<str>> = Lazy::new(|| COLUMN_DURATION.into());
static MS_DURATION: Lazy<Arc<str>> = Lazy::new(|| COLUMN_MS_DURATION.into());
/// Columns for values that a record has of its own: those of the signalling only if it is of an INVITE, those
/// of its end only when it has one.
static OWN: Lazy<[Arc<str>; 7]> = Lazy::new(|| [ACC_ID, END_REASON, ATTEMPTS, PDD_MS, RING_MS, END_CAUSE, END_SIDE].map(Arc::from));
/// How many of them a request other than INVITE has.
const OWN_OF_ANY: usize = 2;
/// How many an INVITE has that did not end a call.
const OWN_OF_INVITE: usize = 5;

/// Date, time and zone.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S%:z";
/// Length of the zone in it.
const ZONE: usize = "+00:00".len();
/// Longest fraction of a second, with its point.
const FRACTION: usize = ".000000".len();

/// Most rows in one INSERT of PostgreSQL, whose values are one array for each column: it is read anew each
/// time, which takes it as long as to insert some 30 rows.
const ROWS_IN_ARRAYS: usize = 256;
/// Rows that go in one INSERT of just this length, where each is a round trip: on a server with a few
/// hundred calls a second a batch is one statement.
const ANY_LENGTH: usize = 32;
/// Start and end of a dialog's CDR.
const DIALOG_TIMES: usize = 2;
/// Greatest number that every database's INT can hold.
const INT_MAX: i64 = i32::MAX as i64;

static OF_CALL: Lazy<[Arc<str>; CALL_COLUMNS.len()]> = Lazy::new(|| CALL_COLUMNS.map(Arc::from));
/// Of these, what tells a call from all others, and how long it is up.
const CALL_ID: usize = 0;
const CALL_DURATION: usize = 7;

/// A call as the table of calls names it.
pub fn call_id(record: &Record) -> String {
    format!("{:032x}", record.call_key())
}

/// The table a record goes to.
pub fn table_of<'a>(record: &'a Record, db: &'a Db) -> &'a Arc<str> {
    match record.kind {
        _ if !record.table.is_empty() => &record.table,
        Kind::Missed => &db.table_missed,
        Kind::Start | Kind::Interim => &db.table_calls,
        Kind::Transaction | Kind::Manual | Kind::Cdr | Kind::Ack => &db.table_acc,
    }
}

/// A manual or transaction record says nothing with its durations (they are 0), and in the table
/// of missed calls there is no place for them: such columns are written only where they exist, and
/// so are a record's own values.
pub fn optional_columns(record: &Record, table: &Arc<str>, db: &Db) -> usize {
    let durations = match record.kind {
        Kind::Transaction | Kind::Manual if record.shape == Shape::Context && *table != db.table_missed => 2,
        _ => 0,
    };
    if record.shape == Shape::Dialog || record.kind.is_report() {
        0
    } else if has_values(record) {
        durations + own_columns(record).len()
    } else {
        0
    }
}

/// It has more than its core.
fn has_values(record: &Record) -> bool {
    record.times.is_some() || record.shape != Shape::Context
}

/// Columns for values that a record has of its own.
fn own_columns(record: &Record) -> &'static [Arc<str>] {
    match record {
        Record { end: Some(_), .. } => &OWN[..],
        Record { kind: Kind::Manual, .. } => &OWN[..1],
        Record { core, .. } if core.method == b"INVITE" => &OWN[..OWN_OF_INVITE],
        _ => &OWN[..OWN_OF_ANY],
    }
}

/// Columns of a record's rows, in order.
pub fn columns_of(record: &Record, db: &Db) -> Vec<Arc<str>> {
    if record.shape == Shape::Dialog {
        return record.extras.iter().map(|f| f.name.clone()).collect();
    }
    if record.kind.is_report() {
        return OF_CALL.iter().chain(record.extras.iter().map(|f| &f.name)).cloned().collect();
    }
    let mut columns: Vec<Arc<str>> = Vec::with_capacity(11 + record.extras.len() + record.legs.first().map_or(0, Vec::len));
    columns.extend(db.columns.core.iter().cloned());
    columns.push(db.columns.time.clone());
    if !has_values(record) {
        return columns;
    }
    columns.extend(record.extras.iter().map(|f| f.name.clone()));
    // All legs of a record have the same fields.
    columns.extend(record.legs.first().into_iter().flatten().map(|f| f.name.clone()));
    if record.times.is_some() {
        columns.extend([SETUPTIME.clone(), CREATED.clone()]);
    }
    if has_durations(record, db) {
        columns.push(DURATION.clone());
        if record.shape == Shape::Context {
            columns.push(MS_DURATION.clone());
        }
    }
    columns.extend(own_columns(record).iter().cloned());
    columns
}

/// Durations have no place in the table of missed calls.
fn has_durations(record: &Record, db: &Db) -> bool {
    match record.kind {
        Kind::Cdr => true,
        Kind::Transaction | Kind::Manual => record.shape == Shape::Context && *table_of(record, db) != db.table_missed,
        Kind::Missed | Kind::Ack | Kind::Start | Kind::Interim => false,
    }
}

/// Columns at the end of [`columns_of`] for values that a record has of its own; a table need not
/// have them.
pub fn own_count(record: &Record) -> usize {
    if has_values(record) && record.shape != Shape::Dialog && !record.kind.is_report() { own_columns(record).len() } else { 0 }
}

/// How many rows a record makes. Without a context there are no legs, and no columns for them.
pub fn rows_of(record: &Record) -> usize {
    if has_values(record) && !record.kind.is_report() { record.rows() } else { 1 }
}

/// A value of a row, before the rules of any database.
pub enum Cell<'a> {
    /// No value.
    Null,
    /// Bytes of text.
    Text(Cow<'a, [u8]>),
    /// A moment.
    Time(Wall),
    /// A number that every database's INT can hold.
    Number(i64),
}

/// Values of one of a record's rows, in the order of [`columns_of`].
pub fn cells_of<'a>(record: &'a Record, leg: usize, db: &'a Db) -> Vec<Cell<'a>> {
    let text = |v: &'a [u8]| Cell::Text(Cow::Borrowed(v));
    let field = |f: &'a Field| f.value.as_deref().map_or(Cell::Null, text);
    let number = |n: i64| Cell::Number(n.clamp(0, INT_MAX));
    if record.shape == Shape::Dialog {
        // A start or end in UTC is written out already.
        let moment = |f: &Field| f.value.as_deref().and_then(dialog_cdr::instant).map(|at| Cell::Time(at.wall));
        let cell = |(i, f): (usize, &'a Field)| moment(f).filter(|_| i < DIALOG_TIMES).unwrap_or_else(|| field(f));
        return record.extras.iter().enumerate().map(cell).collect();
    }
    if record.kind.is_report() {
        let up = record.duration_ms.unwrap_or(0);
        let mut cells = vec![Cell::Text(Cow::Owned(call_id(record).into_bytes())), text(db.node.as_bytes())];
        cells.extend([&record.core.callid, &record.core.from_tag, &record.core.to_tag].map(|v| text(v)));
        cells.extend([Cell::Time(record.time), Cell::Time(Wall(record.time.0.saturating_add(up.saturating_mul(1000)))), number(record.duration_seconds())]);
        cells.extend(record.extras.iter().map(field));
        return cells;
    }
    let mut cells = Vec::with_capacity(16 + record.extras.len());
    cells.extend(record.core.values().map(text));
    cells.push(Cell::Time(record.time));
    if !has_values(record) {
        return cells;
    }
    cells.extend(record.extras.iter().map(field));
    cells.extend(record.legs.get(leg).into_iter().flatten().map(field));
    if let Some(times) = record.times {
        cells.push(number(record.setup_seconds()));
        cells.push(Cell::Time(times.created));
    }
    if has_durations(record, db) {
        cells.push(number(record.duration_seconds()));
        if record.shape == Shape::Context {
            cells.push(number(record.duration_ms.unwrap_or(0)));
        }
    }
    cells.extend(own_columns(record).iter().map(|c| record.own_value(c).map_or(Cell::Null, |v| Cell::Text(Cow::Owned(v)))));
    cells
}

/// Rows of one record in a group.
struct Place {
    /// Index of its entry in the batch.
    entry: usize,
    /// First of its rows.
    first: usize,
}

/// One column as it is written.
struct Target {
    /// Index among the record's columns.
    source: usize,
    name: Arc<str>,
    column: Column,
    /// It gets numbers, not text.
    number: bool,
    /// A record may have nothing for it.
    optional: bool,
}

impl Target {
    /// Text for it, as its column takes it; whether some was cut off.
    fn fit(&self, mut bytes: Vec<u8>, dialect: Dialect) -> (Value, bool) {
        // No number and no time is empty text.
        if bytes.is_empty() && matches!(self.column.holds, Holds::Numbers | Holds::Times) {
            return (self.unset(), false);
        }
        if let Some(last) = self.column.last_char {
            escape_above(&mut bytes, last);
        }
        // SQLite stores values longer than the type says.
        let limited = dialect != Dialect::Sqlite && (self.column.chars.is_some() || self.column.bytes.is_some());
        let clipped = limited && clip(&mut bytes, &self.column, dialect);
        (Value::Text(bytes), clipped)
    }

    fn unset(&self) -> Value {
        // Statements have the default where they find NULL.
        if self.column.unset() == Unset::Empty { Value::Text(Vec::new()) } else { Value::Null }
    }

    /// The expression for a value that the statement calls `value`.
    fn expression(&self, value: &str, dialect: Dialect) -> String {
        let kind = &self.column.kind;
        let typed = match dialect {
            Dialect::Sqlite if self.column.days => format!("julianday(CAST({value} AS TEXT)) - {DAYS_EARLY}"),
            Dialect::Sqlite if !self.number => format!("CAST({value} AS TEXT)"),
            // The text itself, not what an escaped one may stand for.
            Dialect::Postgres if !self.number && kind == "bytea" => format!("convert_to({value}, 'UTF8')"),
            Dialect::Postgres if !self.number && self.column.cast => format!("CAST({value} AS {kind})"),
            Dialect::Postgres if self.number && !matches!(self.column.holds, Holds::Numbers | Holds::Text) => format!("CAST(CAST({value} AS text) AS {kind})"),
            _ => value.to_owned(),
        };
        match &self.column.default {
            Some(default) if self.optional && self.column.unset() == Unset::Default => format!("COALESCE({typed}, {default})"),
            _ => typed,
        }
    }
}

/// What the columns of [`columns_of`] are, by index: fields may bear the names of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    fields: Range<usize>,
    numbers: Vec<usize>,
    /// Values that a record has of its own, to the end.
    own: usize,
    /// There is one row for each call, which a later record replaces.
    replaces: bool,
}

impl Layout {
    /// That of a record.
    pub fn of(record: &Record, db: &Db) -> Layout {
        if record.shape == Shape::Dialog {
            // Start and end are never unset; all others may be.
            return Layout { fields: DIALOG_TIMES.min(record.extras.len())..record.extras.len(), own: record.extras.len(), ..Layout::default() };
        }
        if record.kind.is_report() {
            let own = CALL_COLUMNS.len() + record.extras.len();
            return Layout { fields: CALL_COLUMNS.len()..own, numbers: vec![CALL_DURATION], own, replaces: true };
        }
        let first = db.columns.core.len() + 1;
        if !has_values(record) {
            return Layout { own: first, ..Layout::default() };
        }
        let mut own = first + record.extras.len() + record.legs.first().map_or(0, Vec::len);
        let (fields, mut numbers) = (first..own, Vec::new());
        if record.times.is_some() {
            // The time of creation follows it.
            numbers.push(own);
            own += 2;
        }
        if has_durations(record, db) {
            let durations = if record.shape == Shape::Context { 2 } else { 1 };
            numbers.extend(own..own + durations);
            own += durations;
        }
        Layout { fields, numbers, own, replaces: false }
    }
}

/// Rows of one table with the same columns. A record may have far more legs than a statement takes:
/// rows are made only for the next statement.
pub struct Group {
    /// The table.
    pub name: Arc<str>,
    /// Columns of the records, as [`columns_of`] gave them.
    pub wanted: Vec<Arc<str>>,
    /// The kinds of these columns.
    pub layout: Layout,
    /// How many rows there are.
    rows: usize,
    /// Which rows are which record's, in the order of the batch.
    records: Vec<Place>,
    table: Arc<Table>,
    dialect: Dialect,
    targets: Vec<Target>,
    inserts: RefCell<HashMap<(usize, bool), Arc<str>>>,
    rows_max: usize,
    clock: RefCell<Clock>,
    clipped: RefCell<Clipped>,
}

/// Clipped columns not logged yet.
#[derive(Default)]
struct Clipped {
    columns: Vec<Arc<str>>,
    /// Rows before this one were looked at: a statement may be made again.
    seen: usize,
}

/// Writes times.
struct Clock {
    shows: DbTime,
    /// Digits behind the second.
    digits: u8,
    /// Seconds and text, with zone, of the time last written: most rows of a batch share it.
    last: (i64, Vec<u8>),
}

impl Clock {
    /// A time as text. Local time honours `TZ` like everything else in the host.
    fn text(&mut self, wall: Wall, zoned: bool) -> Vec<u8> {
        let seconds = wall.seconds();
        if self.last.0 != seconds {
            let utc = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
            let text = match self.shows {
                DbTime::Local => utc.with_timezone(&Local).format(TIME_FORMAT).to_string(),
                DbTime::Utc => utc.format(TIME_FORMAT).to_string(),
            };
            self.last = (seconds, text.into_bytes());
        }
        let (text, zone) = self.last.1.split_at(self.last.1.len() - ZONE);
        let mut out = Vec::with_capacity(text.len() + FRACTION + ZONE);
        out.extend_from_slice(text);
        if self.digits > 0 {
            let fraction = format!(".{:06}", wall.0.rem_euclid(1_000_000));
            out.extend_from_slice(&fraction.as_bytes()[..=usize::from(self.digits)]);
        }
        if zoned {
            out.extend_from_slice(zone);
        }
        out
    }
}

fn utc(wall: Wall) -> Vec<u8> {
    DateTime::from_timestamp(wall.seconds(), 0).unwrap_or_default().format("%Y-%m-%d %H:%M:%S").to_string().into_bytes()
}

impl Group {
    /// A group without rows. Columns that the table lacks are left out: the caller has seen to it
    /// that these are only optional ones. So are those that the database fills itself.
    pub fn new(name: Arc<str>, wanted: Vec<Arc<str>>, layout: Layout, table: Arc<Table>, dialect: Dialect, db: &Db) -> Group {
        let mut targets: Vec<Target> = Vec::new();
        for (source, column) in wanted.iter().enumerate() {
            let Some(found) = table.column(column) else { continue };
            // A field that bears the name of another column: the first counts.
            let again = targets.iter().any(|t| t.name.eq_ignore_ascii_case(column));
            if again || found.generated || source >= layout.own && !found.takes_own(column) {
                continue;
            }
            let number = layout.numbers.contains(&source);
            // A core value may be empty, which only text can be.
            let optional = !number && (layout.fields.contains(&source) || found.holds != Holds::Text);
            targets.push(Target { source, name: column.clone(), column: found.clone(), number, optional });
        }
        let rows_max = match dialect {
            Dialect::Postgres => ROWS_IN_ARRAYS,
            Dialect::Sqlite | Dialect::MySql => ROWS.min(BINDS / targets.len().max(1)).max(1),
        };
        Group {
            name,
            wanted,
            layout,
            rows: 0,
            records: Vec::new(),
            table,
            dialect,
            targets,
            inserts: RefCell::default(),
            rows_max,
            clock: RefCell::new(Clock { shows: db.time, digits: db.digits, last: (i64::MIN, Vec::new()) }),
            clipped: RefCell::default(),
        }
    }

    /// Adds a record's rows.
    pub fn add(&mut self, entry: usize, record: &Record) {
        self.records.push(Place { entry, first: self.rows });
        self.rows += rows_of(record);
    }

    /// The day of a record, as its row says it.
    pub fn day(&self, record: &Record) -> String {
        let time = self.clock.borrow_mut().text(record.time, false);
        String::from_utf8_lossy(time.split(|b| *b == b' ').next().unwrap_or_default()).into_owned()
    }

    /// How a partition is added to its table; only the operator knows by what the rows are divided.
    pub fn partition_advice(&self) -> String {
        let table = &self.table.quoted;
        match self.dialect {
            Dialect::MySql => format!("ALTER TABLE {table} ADD PARTITION (PARTITION ... VALUES LESS THAN (...));"),
            Dialect::Sqlite | Dialect::Postgres => format!("CREATE TABLE ... PARTITION OF {table} FOR VALUES FROM (...) TO (...);"),
        }
    }

    /// Rows of some entries of the batch.
    pub fn rows_of(&self, entries: &Range<usize>) -> Range<usize> {
        let first = |entry| {
            let record = self.records.partition_point(|p| p.entry < entry);
            self.records.get(record).map_or(self.rows, |p| p.first)
        };
        first(entries.start)..first(entries.end)
    }

    /// Rows of some entries of the batch without those of `skip`.
    pub fn rows_but(&self, entries: &Range<usize>, skip: &[usize]) -> Vec<usize> {
        let skipped: Vec<_> = skip.iter().map(|entry| self.rows_of(&(*entry..*entry + 1))).collect();
        self.rows_of(entries).filter(|row| !skipped.iter().any(|rows| rows.contains(row))).collect()
    }

    /// The entry that a row belongs to.
    pub fn entry_of(&self, row: usize) -> Option<usize> {
        Some(self.records.get(self.records.partition_point(|p| p.first <= row).checked_sub(1)?)?.entry)
    }

    /// Its table as statements name it.
    pub fn quoted(&self) -> &str {
        &self.table.quoted
    }

    /// The first of these rows of the batch, as many as fit in one INSERT. Numbers over [`ANY_LENGTH`]
    /// are powers of two, so that a handful of prepared statements serves every batch; in SQLite all
    /// are, because nothing waits for an answer there, and a prepared statement of 32 rows takes 68 KB.
    /// In PostgreSQL one statement serves all.
    pub fn portion(&self, batch: &[Entry], rows: &[usize], db: &Db) -> Vec<Vec<Value>> {
        let any_length = match self.dialect {
            Dialect::Sqlite => 0,
            Dialect::MySql => ANY_LENGTH,
            Dialect::Postgres => usize::MAX,
        };
        let most = 1 << self.rows_max.ilog2();
        let mut length = match rows.len() {
            left if left <= any_length => left,
            left => 1 << left.ilog2(),
        }
        .min(most);
        let mut clipped = Vec::new();
        let (mut made, mut bytes, mut fit) = (Vec::with_capacity(length), 0, 0);
        while made.len() < length && bytes <= INSERT_BYTES {
            let at = rows[made.len()];
            let Some(row) = self.row(batch, at, db, |column| clipped.push((at, column))) else { break };
            bytes += bytes_of(&row);
            made.push(row);
            fit += usize::from(bytes <= INSERT_BYTES);
        }
        while length > fit.max(1) {
            length /= 2;
        }
        made.truncate(length);
        if let Some(last) = made.len().checked_sub(1) {
            self.clipped.borrow_mut().add(rows[last], clipped);
        }
        made
    }

    /// Columns of which values were clipped since this was last asked, one for each value.
    pub fn take_clipped(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.clipped.borrow_mut().columns)
    }

    /// One of the rows of the batch; `clipped` is told of columns that are too narrow.
    fn row(&self, batch: &[Entry], row: usize, db: &Db, mut clipped: impl FnMut(Arc<str>)) -> Option<Vec<Value>> {
        let place = self.records.get(self.records.partition_point(|p| p.first <= row).checked_sub(1)?)?;
        let Payload::Record(record) = &batch.get(place.entry)?.payload else { return None };
        let cells = cells_of(record, row - place.first, db);
        let mut values = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let (value, cut) = match cells.get(target.source) {
                None | Some(Cell::Null) => (target.unset(), false),
                Some(Cell::Number(n)) => (Value::Int(*n), false),
                // Days are counted in universal time.
                Some(Cell::Time(at)) if target.column.days => (Value::Text(utc(*at)), false),
                Some(Cell::Time(at)) => target.fit(self.clock.borrow_mut().text(*at, target.column.zoned), self.dialect),
                Some(Cell::Text(bytes)) => target.fit(bytes.to_vec(), self.dialect),
            };
            if cut {
                clipped(target.name.clone());
            }
            values.push(value);
        }
        Some(values)
    }

    /// Values of some rows, for the statement that [`Group::insert`] makes for as many.
    pub fn bound(&self, rows: Vec<Vec<Value>>) -> Outcome<Bound> {
        if self.dialect == Dialect::Postgres {
            let mut columns: Vec<Vec<Value>> = self.targets.iter().map(|_| Vec::with_capacity(rows.len())).collect();
            for row in rows {
                columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
            }
            let param = |(values, target): (Vec<Value>, &Target)| Param::Column { values, numbers: target.number };
            return Ok(Bound::Postgres(columns.into_iter().zip(&self.targets).map(param).collect()));
        }
        Bound::new(self.dialect, rows.iter().flatten())
    }

    /// The INSERT for a number of rows. `numbered`: the server can tell which of them it does not take, see
    /// [`super::search`].
    pub fn insert(&self, rows: usize, numbered: bool) -> Arc<str> {
        let numbered = numbered && self.dialect == Dialect::MySql;
        let rows = if self.dialect == Dialect::Postgres { 0 } else { rows };
        self.inserts.borrow_mut().entry((rows, numbered)).or_insert_with(|| self.build(rows, numbered).into()).clone()
    }

    fn build(&self, rows: usize, numbered: bool) -> String {
        let columns: Vec<_> = self.targets.iter().map(|t| self.dialect.quote(&t.column.name)).collect();
        let alias = if self.layout.replaces && self.dialect != Dialect::MySql { " AS old" } else { "" };
        let into = format!("INSERT INTO {}{alias} ({})", self.table.quoted, columns.join(", "));
        let end = if self.layout.replaces { self.replacement() } else { String::new() };
        if self.dialect == Dialect::Postgres {
            // An array for each column: the server takes longer to read a list of all values than to insert them.
            let values: Vec<_> = self.targets.iter().enumerate().map(|(i, t)| t.expression(&format!("v.c{i}"), self.dialect)).collect();
            let arrays: Vec<_> = self.targets.iter().enumerate().map(|(i, t)| format!("${}::{}[]", i + 1, if t.number { "int8" } else { "text" })).collect();
            let names: Vec<_> = (0..self.targets.len()).map(|i| format!("c{i}")).collect();
            return format!("{into} SELECT {} FROM unnest({}) AS v({}){end}", values.join(", "), arrays.join(", "), names.join(", "));
        }
        let values: Vec<_> = self.targets.iter().map(|t| t.expression("?", self.dialect)).collect();
        let row = |n: usize| match values.split_first() {
            Some((first, others)) if numbered => {
                let first = format!("IF((@acc_row := {n}) < 0, NULL, {first})");
                format!("({})", std::iter::once(&first).chain(others).map(String::as_str).collect::<Vec<_>>().join(", "))
            }
            _ => format!("({})", values.join(", ")),
        };
        format!("{into} VALUES {}{end}", (0..rows).map(row).collect::<Vec<_>>().join(", "))
    }

    /// What an INSERT does where the call has a row: an older record, which may come later, changes nothing.
    fn replacement(&self) -> String {
        let quote = |name: &str| self.dialect.quote(name);
        let (id, duration) = (quote(CALL_COLUMNS[CALL_ID]), quote(CALL_COLUMNS[CALL_DURATION]));
        let names = self.targets.iter().map(|t| quote(&t.column.name)).filter(|name| *name != id);
        if self.dialect != Dialect::MySql {
            let set: Vec<_> = names.map(|name| format!("{name} = excluded.{name}")).collect();
            return format!(" ON CONFLICT ({id}) DO UPDATE SET {} WHERE excluded.{duration} >= old.{duration}", set.join(", "));
        }
        // The duration comes last: MySQL assigns one after the other.
        let others = names.filter(|name| *name != duration).map(|name| format!("{name} = IF(VALUES({duration}) >= {duration}, VALUES({name}), {name})"));
        let last = format!("{duration} = GREATEST({duration}, VALUES({duration}))");
        format!(" ON DUPLICATE KEY UPDATE {}", others.chain([last]).collect::<Vec<_>>().join(", "))
    }
}

impl Clipped {
    /// Of rows up to `last`; each with its row.
    fn add(&mut self, last: usize, columns: Vec<(usize, Arc<str>)>) {
        let new = columns.into_iter().filter(|(row, _)| *row <= last && *row >= self.seen);
        self.columns.extend(new.map(|(_, column)| column));
        self.seen = self.seen.max(last + 1);
    }
}

/// Bytes of the text in a row.
fn bytes_of(row: &[Value]) -> usize {
    row.iter().map(|value| if let Value::Text(bytes) = value { bytes.len() } else { 0 }).sum()
}

/// Characters that the column's character set lacks, as `\xNN`: a telephone with an emoji in its
/// name must not cost a record.
fn escape_above(bytes: &mut Vec<u8>, last: char) {
    if bytes.is_ascii() {
        return;
    }
    let text = std::mem::take(bytes);
    for c in escape_invalid(&text, false).chars() {
        let mut utf8 = [0; 4];
        let utf8 = c.encode_utf8(&mut utf8).as_bytes();
        if c <= last {
            bytes.extend_from_slice(utf8);
        } else {
            utf8.iter().for_each(|b| put_escape(bytes, *b));
        }
    }
}

/// Cuts text to the width of its column, between characters and escapes.
fn clip(bytes: &mut Vec<u8>, column: &Column, dialect: Dialect) -> bool {
    let text = escape_invalid(bytes, dialect == Dialect::Postgres);
    let mut end = text.len();
    if let Some(chars) = column.chars.filter(|chars| end > *chars) {
        end = text.char_indices().nth(chars).map_or(end, |(at, _)| at);
    }
    if let Some(most) = column.bytes {
        end = end.min(most);
    }
    end = whole(text.as_bytes(), end);
    let clipped = end < text.len();
    if let Cow::Owned(escaped) = text {
        *bytes = escaped.into_bytes();
    }
    bytes.truncate(end);
    clipped
}

#[cfg(test)]
mod tests {
    use super::super::schema::Column;
    use super::*;

    fn column(name: &str, chars: Option<usize>, bytes: Option<usize>) -> Column {
        let holds = Holds::Text;
        let kind = "varchar".into();
        Column {
            name: name.into(),
            kind,
            holds,
            chars,
            bytes,
            last_char: None,
            cast: false,
            zoned: false,
            nullable: true,
            default: None,
            generated: false,
            days: false,
        }
    }

    fn group(dialect: Dialect, columns: Vec<Column>) -> Group {
        let wanted: Vec<Arc<str>> = columns.iter().map(|c| Arc::from(c.name.to_ascii_lowercase())).collect();
        let numbers = wanted.iter().enumerate().filter(|(_, c)| **c == *SETUPTIME).map(|(i, _)| i).collect();
        let layout = Layout { numbers, own: wanted.len(), ..Layout::default() };
        let table = Arc::new(Table { quoted: dialect.quote("acc"), columns, lasting: None });
        let mut draft = crate::params::Draft::default();
        draft.set("db_url", crate::params::RawValue::Str("sqlite:x".into())).unwrap();
        Group::new("acc".into(), wanted, layout, table, dialect, draft.finish(None).unwrap().db().unwrap())
    }

    #[test]
    fn text_is_clipped_between_characters_and_only_when_too_long() {
        let g = group(Dialect::MySql, vec![column("a", Some(3), Some(4))]);
        for (text, want, clipped) in
            [("abc", "abc", false), ("abcd", "abc", true), ("éé", "éé", false), ("ééé", "éé", true), ("aéb", "aéb", false), ("", "", false)]
        {
            let mut bytes = text.as_bytes().to_vec();
            assert_eq!((clip(&mut bytes, &g.targets[0].column, g.dialect), std::str::from_utf8(&bytes)), (clipped, Ok(want)), "{text}");
        }
        // A byte that is not UTF-8 is escaped, and the escape either fits or is left out.
        for (width, want) in [(1, "a"), (2, "a"), (4, "a"), (5, "a\\xe9"), (6, "a\\xe9b")] {
            for column in [column("a", Some(width), None), column("a", None, Some(width))] {
                let g = group(Dialect::MySql, vec![column]);
                let mut bytes = b"a\xe9bcdef".to_vec();
                assert!(clip(&mut bytes, &g.targets[0].column, g.dialect));
                assert_eq!(std::str::from_utf8(&bytes), Ok(want), "{width}");
            }
        }
    }

    #[test]
    fn a_dialog_has_the_times_that_its_fields_show() {
        let mut draft = crate::params::Draft::default();
        draft.set("db_url", crate::params::RawValue::Str("sqlite:x".into())).unwrap();
        let db = draft.finish(None).unwrap().db().unwrap().clone();
        let (entries, _) = batch(Dialect::Sqlite, &[1], |_| 1);
        let Payload::Record(record) = &entries[0].payload else { unreachable!() };
        let cells = |start: &str, end: &str| -> Vec<String> {
            let extras = [("s", start), ("e", end), ("d", "1.000")].map(|(name, value)| Field { name: name.into(), value: Some(value.into()) });
            let record = Record { shape: Shape::Dialog, time: Wall(200_000_000), duration_ms: Some(0), extras: extras.into(), ..(**record).clone() };
            let shown = |cell| match cell {
                Cell::Time(wall) => wall.0.to_string(),
                Cell::Text(text) => String::from_utf8(text.into_owned()).unwrap(),
                _ => String::new(),
            };
            cells_of(&record, 0, &db).into_iter().map(shown).collect()
        };
        assert_eq!(cells("200.500", "190.250"), ["200500000", "190250000", "1.000"], "a script may give it an end before its start");
        assert_eq!(cells("200.000900", "202.000400"), ["200000900", "202000400", "1.000"]);
        assert_eq!(cells("200.0", "202.0"), ["200000000", "202000000", "1.000"]);
        let written = ["2023-11-14 22:13:20", "2023-11-14 22:13:21", "1.000"];
        assert_eq!(cells(written[0], written[1]), written);
    }

    #[test]
    fn statements_name_columns_as_the_database_spells_them() {
        let mut columns = vec![column("Method", None, None), column("setuptime", None, None)];
        (columns[0].cast, columns[0].kind, columns[0].holds) = (true, "integer".into(), Holds::Numbers);
        assert_eq!(
            &*group(Dialect::Postgres, columns.clone()).insert(2, false),
            "INSERT INTO \"acc\" (\"Method\", \"setuptime\") SELECT CAST(v.c0 AS integer), v.c1 FROM unnest($1::text[], $2::int8[]) AS v(c0, c1)"
        );
        assert_eq!(&*group(Dialect::MySql, columns.clone()).insert(2, false), "INSERT INTO `acc` (`Method`, `setuptime`) VALUES (?, ?), (?, ?)");
        assert_eq!(&*group(Dialect::Sqlite, columns).insert(1, false), "INSERT INTO \"acc\" (\"Method\", \"setuptime\") VALUES (CAST(? AS TEXT), ?)");
    }

    /// A batch with records of so many legs, whose field has so many bytes, and their group.
    fn batch(dialect: Dialect, legs: &[usize], bytes: impl Fn(usize) -> usize) -> (Vec<Entry>, Group) {
        let mut g = group(dialect, vec![column("method", None, None), column("a", None, None)]);
        let mut draft = crate::params::Draft::default();
        draft.set("db_url", crate::params::RawValue::Str("sqlite:x".into())).unwrap();
        let db = draft.finish(None).unwrap().db().unwrap().clone();
        let mut n = 0;
        let mut entries = Vec::new();
        for (index, legs) in legs.iter().enumerate() {
            let first = n;
            n += legs;
            let leg = |n| vec![Field { name: "a".into(), value: Some(vec![b'x'; bytes(n)]) }];
            let record = Record {
                kind: Kind::Cdr,
                shape: Shape::Context,
                backend: crate::accounting::record::Backend::Db,
                table: "acc".into(),
                core: crate::accounting::record::Core::default(),
                time: Wall(0),
                times: Some(crate::accounting::record::Times { created: Wall(0), setup_ms: 0 }),
                duration_ms: None,
                end: None,
                signalling: crate::accounting::record::Signalling::default(),
                reported: false,
                in_dialog: false,
                extras: vec![],
                legs: (first..n).map(leg).collect(),
                id: 0,
            };
            if index == 0 {
                let columns = columns_of(&record, &db);
                g = Group::new("acc".into(), columns, Layout::of(&record, &db), g.table.clone(), dialect, &db);
            }
            g.add(index, &record);
            let segment = crate::journal::SegmentName { boot: 1, rank: 1, pid: 1, seq: 1 };
            entries.push(Entry {
                segment,
                offset: index as u64,
                end: index as u64 + 1,
                wall: Wall(0),
                payload: Payload::Record(Box::new(record)),
                parked: None,
            });
        }
        (entries, g)
    }

    /// Lengths and bytes of the portions of these rows.
    fn portions(entries: &[Entry], g: &Group, rows: Range<usize>) -> Vec<(usize, usize)> {
        let rows: Vec<usize> = rows.collect();
        let mut rows = &rows[..];
        let mut draft = crate::params::Draft::default();
        draft.set("db_url", crate::params::RawValue::Str("sqlite:x".into())).unwrap();
        let db = draft.finish(None).unwrap().db().unwrap().clone();
        let mut portions = Vec::new();
        while !rows.is_empty() {
            let made = g.portion(entries, rows, &db);
            assert!(!made.is_empty() && made.iter().all(|row| row.len() == 2));
            rows = &rows[made.len()..];
            portions.push((made.len(), made.iter().map(|row| bytes_of(row)).sum()));
        }
        portions
    }

    #[test]
    fn portions_cover_all_rows_in_few_lengths() {
        for (dialect, lengths) in [(Dialect::MySql, vec![64, 32, 5]), (Dialect::Sqlite, vec![64, 32, 4, 1])] {
            let (entries, g) = batch(dialect, &[3, 50, 51], |n| n);
            let made = portions(&entries, &g, 3..3 + 64 + 32 + 5);
            assert_eq!(made.iter().map(|(rows, _)| *rows).collect::<Vec<_>>(), lengths);
            assert_eq!(made.iter().map(|(_, bytes)| *bytes).sum::<usize>(), (3..3 + 64 + 32 + 5).sum::<usize>());
            assert!(portions(&entries, &g, 5..5).is_empty());
            assert_eq!(g.rows_of(&(1..3)), 3..104);
        }
    }

    #[test]
    fn long_rows_among_short_ones_are_spread_over_statements() {
        for dialect in Dialect::ALL {
            // As many that the average says nothing, and one that is too long for any statement.
            let lengths: Vec<_> = std::iter::repeat_n(100, 436).chain([64 << 10; 64]).chain([2 * INSERT_BYTES, 100]).collect();
            let (entries, g) = batch(dialect, &[lengths.len()], |n| lengths[n]);
            let sizes = portions(&entries, &g, 0..lengths.len());
            assert!(sizes.iter().all(|(rows, bytes)| *bytes <= INSERT_BYTES || *rows == 1), "{sizes:?}");
            assert_eq!(sizes.iter().map(|(_, bytes)| *bytes).sum::<usize>(), lengths.iter().sum::<usize>());
            let most = if dialect == Dialect::Postgres { ROWS_IN_ARRAYS } else { ROWS };
            assert!(sizes.iter().filter(|(rows, _)| *rows == most).count() >= 400 / most, "{sizes:?}");
        }
    }

    #[test]
    fn times_have_as_many_digits_as_asked_for() {
        for (digits, want) in [(0, "2023-11-14 22:13:20"), (3, "2023-11-14 22:13:20.999"), (6, "2023-11-14 22:13:20.999999")] {
            let mut clock = Clock { shows: DbTime::Utc, digits, last: (i64::MIN, Vec::new()) };
            let mut text = |zoned| String::from_utf8(clock.text(Wall(1_700_000_000_999_999), zoned)).unwrap();
            assert_eq!((text(false), text(true)), (want.to_owned(), format!("{want}+00:00")));
            // The second is kept, what follows is not.
            assert_eq!(clock.text(Wall(1_700_000_000_000_001), false), &b"2023-11-14 22:13:20.000001"[..want.len()]);
        }
    }

    #[test]
    fn characters_outside_the_columns_set_are_escaped() {
        let mut bytes = "aé中".as_bytes().to_vec();
        escape_above(&mut bytes, '\u{ff}');
        assert_eq!(bytes, "aé\\xe4\\xb8\\xad".as_bytes());
    }
}
