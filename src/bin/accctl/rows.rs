//! Records where they were delivered: rows of SQL tables, and lines of stream files.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use acc::accounting::record::PDD_MS;
use acc::backend::sql::{COLUMN_DURATION, COLUMN_MS_DURATION, COLUMN_SETUPTIME, Conn, Db, DbTime, Dialect, schema};
use chrono::{Duration, Local, NaiveDate, NaiveDateTime, Utc};
use clap::Args;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::progress::Bar;
use crate::times::TimeColumn;

/// How many rows are in memory at a time.
const PAGE: u32 = 10_000;

/// From when to when. Times are those of the table (`db_time`), of streams UTC.
#[derive(Args)]
pub struct Span {
    /// Not before this time: "2026-11-29", "2026-11-29 12:00", or so long ago: 90m, 24h, 7d
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// [`Span`], as times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Between {
    since: Option<NaiveDateTime>,
    until: Option<NaiveDateTime>,
}

impl Span {
    /// The times that they stand for. `utc`: "now" is in UTC.
    pub fn read(&self, utc: bool) -> Result<Between, String> {
        let now = if utc { Utc::now().naive_utc() } else { Local::now().naive_local() };
        let time = |option: &str, text: &Option<String>| {
            text.as_deref()
                .map(|text| moment(text, now).ok_or(format!("{option} {text}: write 2026-11-29, \"2026-11-29 12:00:00\", 90m, 24h or 7d")))
                .transpose()
        };
        Ok(Between { since: time("--since", &self.since)?, until: time("--until", &self.until)? })
    }
}

fn moment(text: &str, now: NaiveDateTime) -> Option<NaiveDateTime> {
    let text = text.trim();
    let number = || text.get(..text.len().checked_sub(1)?)?.parse().ok();
    let ago = match text.chars().last()? {
        'm' => Duration::try_minutes(number()?),
        'h' => Duration::try_hours(number()?),
        'd' => Duration::try_days(number()?),
        _ => None,
    };
    if let Some(ago) = ago {
        return now.checked_sub_signed(ago);
    }
    parse_time(text)
}

/// A time as databases print it: with fractions, without seconds, or only a date.
fn parse_time(text: &str) -> Option<NaiveDateTime> {
    if let Some(time) = usual_time(text.as_bytes()) {
        return Some(time);
    }
    let text = text.trim_end_matches('Z').get(..text.len().min(26)).unwrap_or(text);
    let text = text.split_once('+').map_or(text, |(time, _)| time);
    for format in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(time);
        }
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0)
}

/// `2026-11-29 12:00:00`, the form of nearly all times: interpreting a format would cost more than counting the call.
fn usual_time(text: &[u8]) -> Option<NaiveDateTime> {
    let text: &[u8; 19] = text.try_into().ok()?;
    let number = |at: std::ops::Range<usize>| text[at].iter().try_fold(0u32, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')));
    if [text[4], text[7], text[10], text[13], text[16]] != *b"-- ::" {
        return None;
    }
    let date = NaiveDate::from_ymd_opt(number(0..4)?.try_into().ok()?, number(5..7)?, number(8..10)?)?;
    date.and_hms_opt(number(11..13)?, number(14..16)?, number(17..19)?)
}

impl Between {
    /// Whether a time is between them.
    pub fn has(&self, time: NaiveDateTime) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

/// A record. Its texts borrow from the page or line that it is from, because a report has millions of rows.
#[derive(Debug, Default)]
pub struct Row<'a> {
    /// Completion of the request; for a CDR, the answer.
    pub time: NaiveDateTime,
    /// SIP method.
    pub method: Cow<'a, str>,
    /// Call-ID.
    pub callid: Cow<'a, str>,
    /// From tag and To tag.
    pub tags: [Cow<'a, str>; 2],
    /// Code of the reply; 0: none.
    pub code: u16,
    /// Milliseconds from the answer to the end; 0 if it is not a CDR.
    pub duration_ms: i64,
    /// Milliseconds from the arrival to the reply; in SQL, whole seconds.
    pub setup_ms: Option<i64>,
    /// Milliseconds from the arrival to the first 18x, if the table has this column.
    pub pdd_ms: Option<i64>,
    /// How the call ended.
    pub end_cause: Option<Cow<'a, str>>,
    /// Values of the fields that were asked for, in their order.
    pub fields: Vec<Option<Cow<'a, str>>>,
}

/// Where rows come from.
pub enum Source<'a> {
    /// A database.
    Sql(&'a mut Conn, &'a Db),
    /// Files of a stream, JSONL.
    Files(&'a [PathBuf]),
}

/// A condition on a field: its name and value.
pub type Where = (String, String);

/// Which records are read, and which of their values.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Whether to read missed calls, which have a table of their own.
    pub missed: bool,
    pub between: Between,
    pub wheres: &'a [Where],
    /// Fields to read besides the core values.
    pub fields: &'a [String],
}

/// Passes each wanted record to `each`; if a call has several legs, the first one.
pub async fn each(source: Source<'_>, wanted: Wanted<'_>, each: &mut dyn FnMut(Row<'_>)) -> Result<(), String> {
    match source {
        Source::Sql(conn, db) => of_sql(conn, db, wanted, each).await,
        Source::Files(files) => files.iter().try_for_each(|file| of_file(file, wanted, each)),
    }
}

/// Whether times of a table are UTC.
pub fn is_utc(db: &Db) -> bool {
    db.time == DbTime::Utc
}

/// A table that must be there.
pub async fn table_of(conn: &mut Conn, name: &str) -> Result<schema::Table, String> {
    schema::probe(conn, name).await.map_err(|e| e.text)?.ok_or_else(|| format!("there is no table {name}"))
}

async fn of_sql(conn: &mut Conn, db: &Db, wanted: Wanted<'_>, each: &mut dyn FnMut(Row<'_>)) -> Result<(), String> {
    let Wanted { missed, between, wheres, fields } = wanted;
    let dialect = conn.dialect();
    let name = if missed { &db.table_missed } else { &db.table_acc };
    let failed = |e: acc::backend::sql::Failure| e.text;
    let table = table_of(conn, name).await?;
    let real = |column: &str| table.column(column).map(|c| dialect.quote(&c.name));
    let need = |column: &str| real(column).ok_or_else(|| format!("table {name} has no column {column}"));
    let text = |column: String| dialect.as_text(&column);
    let (id, time) = (need("id")?, TimeColumn::new(need(&db.columns.time)?, dialect, is_utc(db)));
    let mut columns = vec![text(id.clone()), time.text()];
    for core in [0usize, 1, 2, 3, 4] {
        columns.push(text(need(&db.columns.core[core])?));
    }
    let mut optional = |column: &str| columns.push(real(column).map_or("NULL".into(), text));
    // Milliseconds, if the table has them.
    let (duration, factor) = if table.column(COLUMN_MS_DURATION).is_some() { (COLUMN_MS_DURATION, 1) } else { (COLUMN_DURATION, 1000) };
    optional(duration);
    optional(COLUMN_SETUPTIME);
    optional("end_cause");
    optional(PDD_MS);
    for field in fields {
        columns.push(text(need(field)?));
    }
    let quote = |value: &str| format!("'{}'", if dialect == Dialect::MySql { value.replace('\\', "\\\\") } else { value.to_string() }.replace('\'', "''"));
    let mut condition = time.within(between.since, between.until);
    for (field, value) in wheres {
        condition += &format!(" AND {} = {}", text(need(field)?), quote(value));
    }
    // The span is selected by its index, then pages by the key, so that nothing needs to be sorted.
    let bounds = format!("SELECT {}, {} FROM {} WHERE 1 = 1{condition}", text(format!("MIN({id})")), text(format!("MAX({id})")), table.quoted);
    let found = conn.query(bounds, 2, &[]).await.map_err(failed)?.pop().unwrap_or_default();
    let bound = |i: usize| found.get(i).cloned().flatten().and_then(|n| n.parse::<i64>().ok());
    let (Some(first), Some(end)) = (bound(0), bound(1)) else { return Ok(()) };
    let mut legs = Legs::default();
    let bar = Bar::of((end - first).unsigned_abs() + 1);
    let those = |last: i64| format!("WHERE {id} > {last} AND {id} <= {end}{condition} ORDER BY {id} LIMIT {PAGE}");
    let select = Select { table: table.quoted, columns, last: text(format!("MAX({id})")) };
    let mut page = select.page(conn, &those(first - 1)).await?;
    while let Some(last) = page.last() {
        let last = last.parse().map_err(|_| format!("table {name}: its column id holds no numbers"))?;
        // The database reads the next page while this one is counted.
        let next = those(last);
        let (next, done) = tokio::join!(select.page(conn, &next), async { page.rows(factor, &mut legs, each) });
        done.map_err(|e| format!("SQLite returned rows of table {name} that are not JSON: {e}"))?;
        bar.set((last - first).unsigned_abs());
        page = next?;
    }
    Ok(())
}

/// Some rows, their columns in the order of [`of_sql`].
enum Page {
    /// For SQLite: the last id, and all rows in one text, because row by row the driver takes more time than everything else together.
    Json(Option<String>, String),
    /// For the other databases.
    Rows(Vec<Vec<Option<String>>>),
}

/// What is asked for.
struct Select {
    table: String,
    columns: Vec<String>,
    last: String,
}

impl Select {
    async fn page(&self, conn: &mut Conn, those: &str) -> Result<Page, String> {
        let (table, all) = (&self.table, self.columns.join(", "));
        if conn.dialect() != Dialect::Sqlite {
            return conn.query(format!("SELECT {all} FROM {table} {those}"), self.columns.len(), &[]).await.map(Page::Rows).map_err(|e| e.text);
        }
        let sql = format!("SELECT {}, json_group_array(json_array({all})) FROM (SELECT * FROM {table} NOT INDEXED {those})", self.last);
        let mut found = conn.query(sql, 2, &[]).await.map_err(|e| e.text)?.pop().unwrap_or_default();
        Ok(Page::Json(found.first_mut().and_then(Option::take), found.pop().flatten().unwrap_or_default()))
    }
}

impl Page {
    fn last(&self) -> Option<&str> {
        match self {
            Page::Json(last, _) => last.as_deref(),
            Page::Rows(rows) => rows.last()?[0].as_deref(),
        }
    }

    fn rows(&self, factor: i64, legs: &mut Legs, each: &mut dyn FnMut(Row<'_>)) -> Result<(), serde_json::Error> {
        match self {
            Page::Json(_, text) => {
                for row in serde_json::from_str::<Vec<Vec<&RawValue>>>(text)? {
                    row_of(row.into_iter().map(|value| unquoted(value.get())), factor, legs, each);
                }
            }
            Page::Rows(rows) => {
                for row in rows {
                    row_of(row.iter().map(|value| value.as_deref().map(Cow::Borrowed)), factor, legs, each);
                }
            }
        }
        Ok(())
    }
}

/// A JSON string, which mostly needs no unescaping; empty for null.
fn unquoted(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(json).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

fn row_of<'a>(values: impl Iterator<Item = Option<Cow<'a, str>>>, factor: i64, legs: &mut Legs, each: &mut dyn FnMut(Row<'_>)) {
    let mut values = values.skip(1);
    let mut next = || values.next().flatten().unwrap_or_default();
    let Some(time) = parse_time(&next()) else { return };
    let (method, from, to, callid, code) = (next(), next(), next(), next(), next());
    let duration: i64 = next().parse().unwrap_or(0);
    let setup: Option<i64> = next().parse().ok();
    let cause = Some(next()).filter(|cause| !cause.is_empty());
    let pdd_ms = next().parse().ok();
    let row = Row {
        time,
        method,
        callid,
        tags: [from, to],
        code: code.trim().parse().unwrap_or(0),
        duration_ms: duration.saturating_mul(factor),
        setup_ms: setup.map(|seconds| seconds.saturating_mul(1000)),
        pdd_ms,
        end_cause: cause,
        fields: values.collect(),
    };
    if legs.is_first(&row) {
        each(row);
    }
}

/// The rows of a call's legs follow each other.
#[derive(Default)]
struct Legs {
    time: NaiveDateTime,
    code: u16,
    /// Call-ID, From tag, To tag, method.
    texts: [String; 4],
}

impl Legs {
    fn is_first(&mut self, row: &Row<'_>) -> bool {
        let texts = [&row.callid, &row.tags[0], &row.tags[1], &row.method];
        if (self.time, self.code) == (row.time, row.code) && self.texts.iter().zip(texts).all(|(last, this)| *last == **this) {
            return false;
        }
        (self.time, self.code) = (row.time, row.code);
        for (last, this) in self.texts.iter_mut().zip(texts) {
            last.clear();
            last.push_str(this);
        }
        true
    }
}

fn of_file(path: &Path, wanted: Wanted<'_>, each: &mut dyn FnMut(Row<'_>)) -> Result<(), String> {
    let Wanted { missed, between, wheres, fields } = wanted;
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    for (line, number) in BufReader::new(file).lines().zip(1..) {
        let line = line.map_err(|e| format!("{}:{number}: {e}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        let object: Value = serde_json::from_str(&line).map_err(|e| format!("{}:{number}: this is not a line of a stream: {e}", path.display()))?;
        let kind = object["kind"].as_str().unwrap_or_default();
        if kind == "manual" || (kind == "missed") != missed {
            continue;
        }
        let value = |name: &str| text_of(&object, name);
        let text = |name: &str| Cow::Owned(value(name).unwrap_or_default());
        let Some(time) = parse_time(&text("time")) else { continue };
        if !between.has(time) || wheres.iter().any(|(name, wanted)| value(name).as_deref() != Some(wanted)) {
            continue;
        }
        each(Row {
            time,
            method: text("method"),
            callid: text("callid"),
            tags: [text("from_tag"), text("to_tag")],
            code: object["sip_code"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(0),
            duration_ms: object["duration_ms"].as_i64().unwrap_or(0),
            setup_ms: object["setup_ms"].as_i64(),
            pdd_ms: object[PDD_MS].as_i64(),
            end_cause: value("end_cause").map(Cow::Owned),
            fields: fields.iter().map(|name| value(name).map(Cow::Owned)).collect(),
        });
    }
    Ok(())
}

/// A field of the record, or one of `extra_fields`.
fn text_of(object: &Value, name: &str) -> Option<String> {
    let value = object.get(name).or_else(|| object["extra"].get(name))?;
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_databases_write_them() {
        let now = parse_time("2026-11-29 12:00:00").unwrap();
        for (text, want) in [
            ("2026-11-29", "2026-11-29 00:00:00"),
            ("2026-11-29 07:30", "2026-11-29 07:30:00"),
            ("2026-11-29 07:30:01", "2026-11-29 07:30:01"),
            ("2026-11-29T07:30:01.250000Z", "2026-11-29 07:30:01.250"),
            ("2026-11-29 07:30:01.25+00", "2026-11-29 07:30:01.250"),
            ("90m", "2026-11-29 10:30:00"),
            ("24h", "2026-11-28 12:00:00"),
            ("7d", "2026-11-22 12:00:00"),
        ] {
            assert_eq!(moment(text, now).unwrap().to_string(), want, "{text}");
        }
        for text in ["", "yesterday", "2026-02-30 00:00:00", "2026-11-29 24:00:00", "1y", "m", "99999999999999999999d", "9999999999999999d", "2026-13-01", "ä"]
        {
            assert_eq!(moment(text, now), None, "{text}");
        }
    }
}
