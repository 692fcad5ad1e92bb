//! Records as rows.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, Local};
use once_cell::sync::Lazy;

use super::conn::{Bound, Dialect, Outcome, Value, escape_invalid};
use super::schema::Table;
use super::{BINDS, INSERT_BYTES, ROWS};
use crate::acc::record::{ACC_ID, END_CAUSE, END_SIDE, Field, Kind, Record, Wall};
use crate::config::{COLUMN_CREATED, COLUMN_DURATION, COLUMN_MS_DURATION, COLUMN_SETUPTIME, Db, DbTime};

static SETUPTIME: Lazy<Arc<str>> = Lazy::new(|| COLUMN_SETUPTIME.into());
static CREATED: Lazy<Arc<str>> = Lazy::new(|| COLUMN_CREATED.into());
static DURATION: Lazy<Arc<str>> = Lazy::new(|| COLUMN_DURATION.into());
static MS_DURATION: Lazy<Arc<str>> = Lazy::new(|| COLUMN_MS_DURATION.into());
/// Columns for values that a record has of its own; those of its end only when it has one.
static OWN: Lazy<[Arc<str>; 3]> = Lazy::new(|| [ACC_ID, END_CAUSE, END_SIDE].map(Arc::from));

/// Date, time and zone.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S%:z";
/// Length of the zone in it.
const ZONE: usize = "+00:00".len();
/// PostgreSQL's type of a time that holds its zone; text without one would count in the session's.
const TYPE_WITH_ZONE: &str = "timestamp with time zone";

/// Rows that go in one INSERT of just this length, where each is a round trip: on a server with a few
/// hundred calls a second a batch is one statement.
const ANY_LENGTH: usize = 32;
/// Greatest number that every database's INT takes.
const INT_MAX: i64 = i32::MAX as i64;

/// The table a record goes to.
pub fn table_of<'a>(record: &'a Record, db: &'a Db) -> &'a Arc<str> {
    match record.kind {
        _ if !record.table.is_empty() => &record.table,
        Kind::Missed => &db.table_missed,
        Kind::Transaction | Kind::Manual | Kind::Cdr => &db.table_acc,
    }
}

/// A manual or transaction record says nothing with its durations (they are 0), and in the table
/// of missed calls there is no place for them: such columns are written only where they exist, and
/// so are a record's own values.
pub fn optional_columns(record: &Record, table: &Arc<str>, db: &Db) -> usize {
    let durations = match record.kind {
        Kind::Transaction | Kind::Manual if *table != db.table_missed => 2,
        _ => 0,
    };
    if record.times.is_some() { durations + own_columns(record).len() } else { 0 }
}

/// Columns for values that a record has of its own.
fn own_columns(record: &Record) -> &'static [Arc<str>] {
    if record.end.is_some() { &OWN[..] } else { &OWN[..1] }
}

/// Columns of a record's rows, in order.
pub fn columns_of(record: &Record, db: &Db) -> Vec<Arc<str>> {
    let mut columns: Vec<Arc<str>> = Vec::with_capacity(11 + record.extras.len() + record.legs.first().map_or(0, Vec::len));
    columns.extend(db.columns.core.iter().cloned());
    columns.push(db.columns.time.clone());
    if record.times.is_none() {
        return columns;
    }
    columns.extend(record.extras.iter().map(|f| f.name.clone()));
    // All legs of a record have the same fields.
    columns.extend(record.legs.first().into_iter().flatten().map(|f| f.name.clone()));
    columns.extend([SETUPTIME.clone(), CREATED.clone()]);
    if has_durations(record, db) {
        columns.extend([DURATION.clone(), MS_DURATION.clone()]);
    }
    columns.extend(own_columns(record).iter().cloned());
    columns
}

/// Durations have no place in the table of missed calls.
fn has_durations(record: &Record, db: &Db) -> bool {
    match record.kind {
        Kind::Cdr => true,
        Kind::Transaction | Kind::Manual => *table_of(record, db) != db.table_missed,
        Kind::Missed => false,
    }
}

/// Columns at the end of [`columns_of`] for values that a record has of its own; a table need not
/// have them.
pub fn own_count(record: &Record) -> usize {
    if record.times.is_some() { own_columns(record).len() } else { 0 }
}

/// How many rows a record makes. Without context there are no legs, and no columns for them.
pub fn rows_of(record: &Record) -> usize {
    if record.times.is_some() { record.rows() } else { 1 }
}

/// A value of a row, before the rules of any database.
pub enum Cell<'a> {
    /// No value.
    Null,
    /// Bytes of text.
    Text(Cow<'a, [u8]>),
    /// A moment.
    Time(Wall),
    /// A number that every database's INT takes.
    Number(i64),
}

/// Values of one of a record's rows, in the order of [`columns_of`].
pub fn cells_of<'a>(record: &'a Record, leg: usize, db: &Db) -> Vec<Cell<'a>> {
    let text = |v: &'a [u8]| Cell::Text(Cow::Borrowed(v));
    let field = |f: &'a Field| f.value.as_deref().map_or(Cell::Null, text);
    let number = |n: i64| Cell::Number(n.clamp(0, INT_MAX));
    let mut cells = Vec::with_capacity(16 + record.extras.len());
    cells.extend(record.core.values().map(text));
    cells.push(Cell::Time(record.time));
    let Some(times) = record.times else { return cells };
    cells.extend(record.extras.iter().map(field));
    cells.extend(record.legs.get(leg).into_iter().flatten().map(field));
    cells.push(number(record.setup_seconds()));
    cells.push(Cell::Time(times.created));
    if has_durations(record, db) {
        cells.push(number(record.duration_seconds()));
        cells.push(number(record.duration_ms.unwrap_or(0)));
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
    quoted: String,
    name: Arc<str>,
    chars: Option<usize>,
    bytes: Option<usize>,
    cast: Option<String>,
    last_char: Option<char>,
    number: bool,
    /// It holds a zone with its times, so they bring their own.
    zoned: bool,
}

/// Rows of one table with the same columns.
pub struct Group {
    /// The table.
    pub name: Arc<str>,
    /// Columns of the records, as [`columns_of`] gave them.
    pub wanted: Vec<Arc<str>>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
    /// Which rows are which record's, in the order of the batch.
    records: Vec<Place>,
    table: Arc<Table>,
    dialect: Dialect,
    targets: Vec<Target>,
    inserts: std::cell::RefCell<HashMap<usize, Arc<str>>>,
    rows_max: usize,
    clock: Clock,
}

/// Writes times.
struct Clock {
    shows: DbTime,
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
        let text = &self.last.1;
        if zoned { text.clone() } else { text[..text.len() - ZONE].to_vec() }
    }
}

impl Group {
    /// A group without rows. Columns that the table lacks are left out: the caller has seen to it
    /// that these are only optional ones.
    pub fn new(name: Arc<str>, wanted: Vec<Arc<str>>, table: Arc<Table>, dialect: Dialect, db: &Db) -> Group {
        let mut targets: Vec<Target> = Vec::new();
        for (source, column) in wanted.iter().enumerate() {
            let Some(found) = table.column(column) else { continue };
            // A field that bears the name of another column: the first counts.
            if targets.iter().any(|t| t.name.eq_ignore_ascii_case(column)) {
                continue;
            }
            let number = [&*SETUPTIME, &*DURATION, &*MS_DURATION].contains(&column);
            targets.push(Target {
                source,
                quoted: dialect.quote(&found.name),
                name: column.clone(),
                chars: found.chars,
                bytes: found.bytes,
                cast: found.cast.clone(),
                last_char: found.last_char,
                number,
                zoned: found.cast.as_deref() == Some(TYPE_WITH_ZONE),
            });
        }
        let rows_max = ROWS.min(BINDS / targets.len().max(1)).max(1);
        Group {
            name,
            wanted,
            rows: Vec::new(),
            records: Vec::new(),
            table,
            dialect,
            targets,
            inserts: Default::default(),
            rows_max,
            clock: Clock { shows: db.time, last: (i64::MIN, Vec::new()) },
        }
    }

    /// Adds a record's rows; returns the columns whose values were clipped.
    pub fn add(&mut self, entry: usize, record: &Record, db: &Db) -> Vec<Arc<str>> {
        self.records.push(Place { entry, first: self.rows.len() });
        let mut clipped = Vec::new();
        for leg in 0..rows_of(record) {
            let cells = cells_of(record, leg, db);
            let mut row = Vec::with_capacity(self.targets.len());
            for target in &self.targets {
                let mut value = match cells.get(target.source) {
                    None | Some(Cell::Null) => Value::Null,
                    Some(Cell::Number(n)) => Value::Int(*n),
                    Some(Cell::Time(at)) => Value::Text(self.clock.text(*at, target.zoned)),
                    Some(Cell::Text(bytes)) => Value::Text(bytes.to_vec()),
                };
                if let Value::Text(bytes) = &mut value {
                    if let Some(last) = target.last_char {
                        escape_above(bytes, last);
                    }
                    if (target.chars.is_some() || target.bytes.is_some()) && clip(bytes, target, self.dialect) {
                        clipped.push(target.name.clone());
                    }
                }
                row.push(value);
            }
            self.rows.push(row);
        }
        clipped
    }

    /// Rows of some entries of the batch.
    pub fn rows_of(&self, entries: &Range<usize>) -> Range<usize> {
        let first = |entry| {
            let record = self.records.partition_point(|p| p.entry < entry);
            self.records.get(record).map_or(self.rows.len(), |p| p.first)
        };
        first(entries.start)..first(entries.end)
    }

    /// Ranges of rows that fit in one INSERT. Lengths over [`ANY_LENGTH`] are powers of two, so that
    /// a handful of prepared statements serves every batch; in SQLite all are, because nothing waits
    /// for an answer there, and a prepared statement of 32 rows takes 68 KB.
    pub fn parts(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let any_length = if self.dialect == Dialect::Sqlite { 0 } else { ANY_LENGTH };
        let most = 1 << self.rows_max.ilog2();
        let mut parts = Vec::new();
        let mut at = rows.start;
        while at < rows.end {
            let left = rows.end - at;
            let mut length = most.min(if left <= any_length { left } else { 1 << left.ilog2() });
            while length > 1 && bytes_of(&self.rows[at..at + length]) > INSERT_BYTES {
                length /= 2;
            }
            parts.push(at..at + length);
            at += length;
        }
        parts
    }

    /// Values of some rows, for the statement that [`Group::insert`] makes for as many.
    pub fn bound(&self, rows: Range<usize>) -> Outcome<Bound> {
        Bound::new(self.dialect, self.rows[rows].iter().flatten())
    }

    /// The INSERT for a number of rows.
    pub fn insert(&self, rows: usize) -> Arc<str> {
        self.inserts.borrow_mut().entry(rows).or_insert_with(|| self.build(rows).into()).clone()
    }

    fn build(&self, rows: usize) -> String {
        let columns: Vec<_> = self.targets.iter().map(|t| t.quoted.as_str()).collect();
        let mut sql = format!("INSERT INTO {} ({}) VALUES ", self.table.quoted, columns.join(", "));
        let mut n = 0;
        for row in 0..rows {
            sql.push_str(if row == 0 { "(" } else { ", (" });
            for (i, target) in self.targets.iter().enumerate() {
                n += 1;
                if i > 0 {
                    sql.push_str(", ");
                }
                match (self.dialect, &target.cast) {
                    (Dialect::Sqlite, _) if !target.number => sql.push_str("CAST(? AS TEXT)"),
                    (Dialect::Sqlite | Dialect::MySql, _) => sql.push('?'),
                    (Dialect::Postgres, Some(cast)) if !target.number => sql.push_str(&format!("CAST(${n} AS {cast})")),
                    (Dialect::Postgres, _) => sql.push_str(&format!("${n}")),
                }
            }
            sql.push(')');
        }
        sql
    }
}

/// Bytes of the text in some rows.
fn bytes_of(rows: &[Vec<Value>]) -> usize {
    let bytes = |value: &Value| if let Value::Text(bytes) = value { bytes.len() } else { 0 };
    rows.iter().flatten().map(bytes).sum()
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
            bytes.extend(utf8.iter().flat_map(|b| format!("\\x{b:02x}").into_bytes()));
        }
    }
}

/// Cuts text to the width of its column, between characters.
fn clip(bytes: &mut Vec<u8>, target: &Target, dialect: Dialect) -> bool {
    let text = escape_invalid(bytes, dialect == Dialect::Postgres);
    let mut end = text.len();
    if let Some(chars) = target.chars.filter(|chars| end > *chars) {
        end = text.char_indices().nth(chars).map_or(end, |(at, _)| at);
    }
    if let Some(most) = target.bytes {
        end = end.min(text.floor_char_boundary(most));
    }
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
        Column { name: name.into(), chars, bytes, last_char: None, cast: None }
    }

    fn group(dialect: Dialect, columns: Vec<Column>) -> Group {
        let wanted = columns.iter().map(|c| Arc::from(c.name.to_ascii_lowercase())).collect();
        let table = Arc::new(Table { quoted: dialect.quote("acc"), columns, lasting: None });
        let mut draft = crate::config::Draft::default();
        draft.set("db_url", crate::config::RawValue::Str("sqlite:x".into())).unwrap();
        Group::new("acc".into(), wanted, table, dialect, &draft.finish(None).unwrap().db.unwrap())
    }

    #[test]
    fn text_is_clipped_between_characters_and_only_when_too_long() {
        let g = group(Dialect::MySql, vec![column("a", Some(3), Some(4))]);
        for (text, want, clipped) in
            [("abc", "abc", false), ("abcd", "abc", true), ("éé", "éé", false), ("ééé", "éé", true), ("aéb", "aéb", false), ("", "", false)]
        {
            let mut bytes = text.as_bytes().to_vec();
            assert_eq!((clip(&mut bytes, &g.targets[0], g.dialect), std::str::from_utf8(&bytes)), (clipped, Ok(want)), "{text}");
        }
    }

    #[test]
    fn statements_name_columns_as_the_database_spells_them() {
        let mut columns = vec![column("Method", None, None), column("setuptime", None, None)];
        columns[0].cast = Some("integer".into());
        assert_eq!(
            &*group(Dialect::Postgres, columns.clone()).insert(2),
            "INSERT INTO \"acc\" (\"Method\", \"setuptime\") VALUES (CAST($1 AS integer), $2), (CAST($3 AS integer), $4)"
        );
        assert_eq!(&*group(Dialect::MySql, columns.clone()).insert(1), "INSERT INTO `acc` (`Method`, `setuptime`) VALUES (?, ?)");
        assert_eq!(&*group(Dialect::Sqlite, columns).insert(1), "INSERT INTO \"acc\" (\"Method\", \"setuptime\") VALUES (CAST(? AS TEXT), ?)");
    }

    #[test]
    fn parts_cover_all_rows_in_few_lengths() {
        for (dialect, lengths) in [(Dialect::MySql, vec![64, 32, 5]), (Dialect::Sqlite, vec![64, 32, 4, 1])] {
            let mut g = group(dialect, vec![column("a", None, None)]);
            g.rows = vec![vec![Value::Null]; 3 + 64 + 32 + 5];
            let parts = g.parts(3..3 + 64 + 32 + 5);
            assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), lengths);
            assert!(parts.windows(2).all(|w| w[0].end == w[1].start) && parts[0].start == 3);
            assert!(g.parts(5..5).is_empty());
        }
    }

    #[test]
    fn long_rows_among_short_ones_are_spread_over_statements() {
        for dialect in Dialect::ALL {
            let mut g = group(dialect, vec![column("a", None, None)]);
            // As many that the average says nothing, and one that is too long for any statement.
            let lengths = std::iter::repeat_n(100, 436).chain([64 << 10; 64]).chain([2 * INSERT_BYTES, 100]);
            g.rows = lengths.map(|n| vec![Value::Text(vec![b'x'; n])]).collect();
            let parts = g.parts(0..g.rows.len());
            assert!(parts.windows(2).all(|w| w[0].end == w[1].start) && parts[0].start == 0 && parts.last().unwrap().end == g.rows.len());
            let sizes: Vec<_> = parts.iter().map(|p| (p.len(), bytes_of(&g.rows[p.clone()]))).collect();
            assert!(sizes.iter().all(|(rows, bytes)| *bytes <= INSERT_BYTES || *rows == 1), "{sizes:?}");
            assert_eq!(sizes.iter().filter(|(rows, _)| *rows == 64).count(), 7, "{sizes:?}");
        }
    }

    #[test]
    fn characters_outside_the_columns_set_are_escaped() {
        let mut bytes = "aé中".as_bytes().to_vec();
        escape_above(&mut bytes, '\u{ff}');
        assert_eq!(bytes, "aé\\xe4\\xb8\\xad".as_bytes());
    }
}
