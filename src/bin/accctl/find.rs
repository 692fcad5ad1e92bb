//! `accctl find`: where the records of a call are, and what they say.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use acc::accounting::context::Context;
use acc::accounting::visible::visible;
use acc::backend::sql::{Access, Conn, Db, parse};
use acc::declaration::default_of;
use acc::journal::{Dir, Item, Payload, Positions, SinkId, calls, json as to_json, merge, parking};
use chrono::{DateTime, Local, NaiveDateTime};
use serde_json::{Value, json};

use crate::Outcome;
use crate::params::{Given, Params};
use crate::place::walk;
use crate::reached::positions;
use crate::rows::{Between, Row, Source, Span, Wanted, Where, each, is_utc, table_of};
use crate::sql::Sql;

#[derive(clap::Args)]
pub struct Find {
    /// The Call-ID
    #[arg(value_name = "CALLID", required_unless_present = "conditions")]
    callid: Option<String>,
    /// A column or field that has this value: caller=alice; may be repeated
    #[arg(long = "where", value_name = "FIELD=VALUE")]
    conditions: Vec<String>,
    #[command(flatten)]
    span: Span,
    /// The journal_dir of the server; not needed with --config
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Files of a stream (JSONL); may be repeated
    #[arg(long, value_name = "FILE")]
    stream: Vec<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sql: Sql,
    #[command(flatten)]
    params: Params,
}

/// What was found: where it is, and its values.
struct Found {
    place: String,
    values: Value,
}

pub fn run(o: &Find) -> Outcome {
    let mut wheres: Vec<Where> = Vec::new();
    for condition in &o.conditions {
        let (name, value) = condition.split_once('=').ok_or_else(|| format!("--where {condition}: write FIELD=VALUE"))?;
        wheres.push((name.trim().into(), value.into()));
    }
    let given = o.params.read(o.sql.aliases())?;
    let db = given.database()?;
    let journal = journal(o, &given)?;
    if db.is_none() && journal.is_none() && o.stream.is_empty() {
        return Err("nowhere to look: give --config FILE, or some of --url, --journal and --stream".into());
    }
    let utc = db.as_ref().is_some_and(is_utc);
    let between = o.span.read(utc)?;
    let mut all = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let open = |db: Db| runtime.block_on(async { Ok::<_, String>((Conn::open_for(Access::Read, &parse(&db.url)?).await.map_err(|e| e.text)?, db)) });
    let mut database = db.map(open).transpose()?;
    if let Some(dir) = &journal {
        // Rows come with their positions, which are in no file of the journal.
        let reached = database.as_mut().map(|(conn, _)| runtime.block_on(positions(conn, dir.id())));
        in_journal(dir, o, &wheres, (between, utc), reached.as_ref(), &mut all)?;
    }
    if let Some((conn, db)) = database {
        runtime.block_on(in_database(conn, &db, o, &wheres, between, &mut all))?;
    }
    if !o.stream.is_empty() {
        let mut wheres = wheres;
        wheres.extend(o.callid.iter().map(|callid| ("callid".to_string(), callid.clone())));
        let names: Vec<String> = wheres.iter().map(|(name, _)| name.clone()).collect();
        let between = o.span.read(true)?;
        for missed in [false, true] {
            let mut add = |row: Row<'_>| all.push(Found { place: "delivered to the stream".into(), values: of_row(&row, &names) });
            runtime.block_on(each(Source::Files(&o.stream), Wanted { missed, between, wheres: &wheres, fields: &names }, &mut add))?;
        }
    }
    let mut out = String::new();
    for found in &all {
        if o.json {
            let mut object = found.values.clone();
            object["place"] = found.place.as_str().into();
            let _ = writeln!(out, "{}", to_json::line(&object));
        } else {
            let values = found.values.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null() && value.as_str() != Some(""));
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
            let shown: Vec<_> = values.map(|(name, value)| format!("{name}={}", visible(&text(value)))).collect();
            let _ = writeln!(out, "{}: {}", found.place, shown.join(" "));
        }
    }
    Ok((out, if all.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }))
}

/// The journal that was named; with a configuration, that of the server, if it has one.
fn journal(o: &Find, given: &Given) -> Result<Option<Dir>, String> {
    let named = o.journal.is_some();
    let of_server = || given.draft.journal_dir().or_else(|| given.of_a_server.then(|| default_of("journal_dir").into()));
    let Some(path) = o.journal.clone().or_else(of_server) else { return Ok(None) };
    if !named && !path.exists() {
        return Ok(None);
    }
    Dir::open_to_read(&path).map(Some).map_err(|e| e.to_string())
}

fn of_row(row: &Row<'_>, names: &[String]) -> Value {
    let mut out = json!({
        "time": row.time.to_string(), "method": row.method, "callid": row.callid, "from_tag": row.tags[0], "to_tag": row.tags[1], "sip_code": row.code,
        "duration_ms": row.duration_ms, "setup_ms": row.setup_ms, "end_cause": row.end_cause,
    });
    for (name, value) in names.iter().zip(&row.fields) {
        if out.get(name).is_none() {
            out[name] = value.clone().into();
        }
    }
    out
}

async fn in_database(mut conn: Conn, db: &Db, o: &Find, wheres: &[Where], between: Between, all: &mut Vec<Found>) -> Result<(), String> {
    let mut wheres = wheres.to_vec();
    wheres.extend(o.callid.iter().map(|callid| (db.columns.core[3].to_string(), callid.clone())));
    let done = in_tables(&mut conn, db, &wheres, between, all).await;
    conn.close().await;
    done
}

/// Looks in each table that has the columns of all conditions.
async fn in_tables(conn: &mut Conn, db: &Db, wheres: &[Where], between: Between, all: &mut Vec<Found>) -> Result<(), String> {
    let mut lacking = Vec::new();
    let tables = [(false, &db.table_acc), (true, &db.table_missed)];
    for (missed, name) in tables {
        let table = table_of(conn, name).await?;
        if let Some((column, _)) = wheres.iter().find(|(column, _)| table.column(column).is_none()) {
            lacking.push(format!("table {name} has no column {column}"));
            continue;
        }
        // `of_row` has the others.
        let [.., reason] = &db.columns.core;
        let is_shown =
            |column: &str| column != "id" && *column != *db.columns.time && (*column == **reason || !db.columns.core.iter().any(|core| **core == *column));
        let fields: Vec<String> = table.columns.into_iter().map(|column| column.name).filter(|column| is_shown(column)).collect();
        let mut add = |row: Row<'_>| all.push(Found { place: format!("delivered to {name}"), values: of_row(&row, &fields) });
        each(Source::Sql(conn, db), Wanted { missed, between, wheres, fields: &fields }, &mut add).await?;
    }
    if lacking.len() == tables.len() { Err(lacking.join("; ")) } else { Ok(()) }
}

/// Whether the object that a journal has for a record is one that is looked for.
fn matches(record: &Value, o: &Find, wheres: &[Where], between: Between, utc: bool) -> bool {
    let value = |name: &str| record.get(name).or_else(|| record["extras"].get(name)).filter(|v| !v.is_null());
    let is = |name: &str, wanted: &str| {
        let shown = value(name).map(|v| v.as_str().map_or_else(|| v.to_string(), String::from));
        shown.as_deref() == Some(wanted)
    };
    let time = record["time"].as_i64().and_then(DateTime::from_timestamp_micros);
    let local: Option<NaiveDateTime> = time.map(|t| if utc { t.naive_utc() } else { t.with_timezone(&Local).naive_local() });
    o.callid.as_deref().is_none_or(|callid| is("callid", callid))
        && wheres.iter().all(|(name, wanted)| is(name, wanted))
        && local.is_none_or(|t| between.has(t))
}

fn in_journal(dir: &Dir, o: &Find, wheres: &[Where], (between, utc): (Between, bool), reached: Option<&Positions>, all: &mut Vec<Found>) -> Result<(), String> {
    let failed = |e: std::io::Error| e.to_string();
    let segments = dir.segments().map_err(failed)?;
    let mut cursors = SinkId::ALL.map(|s| dir.cursor(s).unwrap_or_default());
    if let Some(reached) = reached {
        merge(&mut cursors[SinkId::Db.index()], reached.iter().map(|(segment, position)| (*segment, *position)));
    }
    let moved = SinkId::ALL.map(|sink| parking::moved(dir, sink, &segments));
    walk(dir, |name, item| {
        let Item::Frame(frame) = item else { return };
        let Some(sink) = frame.sink_id() else { return };
        if frame.offset < cursors[sink.index()].get(&name).copied().unwrap_or(0) || moved[sink.index()].contains(&(name, frame.offset)) {
            return;
        }
        let Some(Ok(entry)) = frame.entry(name) else { return };
        let Payload::Record(record) = &entry.payload else { return };
        let values = to_json::record(record);
        if matches(&values, o, wheres, between, utc) {
            let unless = if sink == SinkId::Db && reached.is_none() { ", unless the database has it" } else { "" };
            let place = match &entry.parked {
                Some(parked) => format!("waits apart for {}{unless}, refused {} times: {}", sink.name(), parked.offers, visible(&parked.reason)),
                None => format!("waits for {}{unless}", sink.name()),
            };
            all.push(Found { place, values });
        }
    })?;
    for sink in SinkId::ALL {
        dir.dead_letters(sink, |line| {
            let Ok(line) = serde_json::from_slice::<Value>(line) else { return };
            if matches(&line["record"], o, wheres, between, utc) {
                let reason = line["reason"].as_str().unwrap_or_default();
                all.push(Found { place: format!("given up for {}: {}", sink.name(), visible(reason)), values: line["record"].clone() });
            }
        })
        .map_err(failed)?;
    }
    for call in calls::scan(dir).map_err(failed)?.calls.values() {
        let Some(context) = Context::decode(&call.state) else { continue };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let values = json!({
            "method": text(&context.core.method), "callid": text(&context.core.callid), "from_tag": text(&context.core.from_tag),
            "to_tag": text(&context.core.to_tag), "time": context.answered.map(|t| t.wall.0),
        });
        if matches(&values, o, wheres, between, utc) {
            all.push(Found { place: "in progress".into(), values });
        }
    }
    Ok(())
}
