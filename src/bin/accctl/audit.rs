//! `accctl audit`: compares what journals have accepted with what is stored.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acc::accounting::clock::Wall;
use acc::accounting::record::{Kind, Record, Shape};
use acc::backend::sql::{Access, Conn, Db, parse, rows_of, table_of};
use acc::backend::stream::body::{Columns, Format, shown};
use acc::journal::{Dir, Item, Payload, Positions, SinkId, merge, parking};
use chrono::DateTime;
use clap::builder::PossibleValuesParser;

use crate::Outcome;
use crate::params::Params;
use crate::reached::positions;
use crate::sql::Sql;
use crate::times::TimeColumn;

/// How many records are shown one by one.
const SHOWN: usize = 20;
/// How long before the earliest record the search for rows begins, in µs: time zones differ by up to this much.
const MARGIN: i64 = 2 * 86_400_000_000;
/// Microseconds of an hour.
const HOUR: i64 = 3_600_000_000;

#[derive(clap::Args)]
pub struct Audit {
    /// Journal directories of all nodes: those of the servers, or copies
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// Look for the records in this file of a stream, .jsonl or .csv, instead of SQL; may be repeated
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    file: Vec<PathBuf>,
    /// Which stream the files are of
    #[arg(long, default_value = SinkId::Stream.name(), value_parser = PossibleValuesParser::new(["stream", "stream2", "stream3", "stream4"]))]
    sink: String,
    #[command(flatten)]
    sql: Sql,
    #[command(flatten)]
    params: Params,
}

/// A record that a journal accepted.
struct Accepted {
    /// When.
    at: Wall,
    /// The value in its column of the time.
    time: Wall,
    table: String,
    /// How many rows or lines it makes.
    makes: u32,
    kind: Kind,
    callid: Vec<u8>,
    /// Nothing says that it is stored.
    waits: bool,
    dead: bool,
}

/// Counts of an hour.
#[derive(Default)]
struct Hour {
    accepted: u64,
    stored: u64,
    waiting: u64,
    dead: u64,
    missing: u64,
    doubled: u64,
}

impl Hour {
    fn add(&mut self, other: &Hour) {
        for (mine, more) in [
            (&mut self.accepted, other.accepted),
            (&mut self.stored, other.stored),
            (&mut self.waiting, other.waiting),
            (&mut self.dead, other.dead),
            (&mut self.missing, other.missing),
            (&mut self.doubled, other.doubled),
        ] {
            *mine += more;
        }
    }

    fn line(&self, name: &str) -> String {
        let Hour { accepted, stored, waiting, dead, missing, doubled } = self;
        format!("{name:<14} {accepted:>10} {stored:>10} {waiting:>10} {dead:>10} {missing:>10} {doubled:>10}\n")
    }
}

pub fn run(o: &Audit) -> Outcome {
    let mut found: HashMap<u128, Accepted> = HashMap::new();
    let stored = if o.file.is_empty() {
        let given = o.params.read(o.sql.aliases())?;
        let db =
            given.database()?.ok_or("--url is missing: give the server's db_url, its configuration with --config FILE, or files of a stream with --file")?;
        let target = parse(&db.url)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        runtime.block_on(async {
            let mut conn = Conn::open_for(Access::Read, &target).await.map_err(|e| e.text)?;
            let mut read = async || {
                for path in &o.dirs {
                    let dir = Dir::open_to_read(path).map_err(|e| e.to_string())?;
                    let mut reached = dir.cursor(SinkId::Db).map_err(|e| e.to_string())?;
                    merge(&mut reached, positions(&mut conn, dir.id()).await);
                    accepted(&dir, SinkId::Db, &reached, &db, &mut found)?;
                }
                rows(&mut conn, &db, &found).await
            };
            let read = read().await;
            conn.close().await;
            read
        })?
    } else {
        let sink = SinkId::ALL.into_iter().find(|s| s.name() == o.sink).ok_or("--sink is not a stream")?;
        let db = Db::of_tables(&o.params.read([])?.draft).map_err(|e| e.to_string())?;
        for path in &o.dirs {
            let dir = Dir::open_to_read(path).map_err(|e| e.to_string())?;
            let reached = dir.cursor(sink).map_err(|e| e.to_string())?;
            accepted(&dir, sink, &reached, &db, &mut found)?;
        }
        let mut ids = HashMap::new();
        for file in &o.file {
            lines_of(file, &mut ids)?;
        }
        ids
    };
    Ok(report(&found, &stored))
}

/// Adds the records of a journal, with what became of them as far as the journal knows.
fn accepted(dir: &Dir, sink: SinkId, reached: &Positions, db: &Db, found: &mut HashMap<u128, Accepted>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.path().display());
    let segments = dir.segments().map_err(failed)?;
    let moved = parking::moved(dir, sink, &segments);
    let kept: Vec<_> = dir.kept().map_err(failed)?.into_iter().map(|k| k.segment).collect();
    let there = segments.iter().map(|s| (s.name, true));
    for (name, open) in there.chain(kept.iter().map(|s| (s.name, false))) {
        let mut reader = match dir.read_also_kept(name, 0) {
            // Delivered and removed meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            reader => reader.map_err(|e| format!("{}: {name}: {e}", dir.path().display()))?,
        };
        loop {
            let item = reader.read().map_err(|e| format!("{}: {name}: {e}", dir.path().display()))?;
            let frame = match item {
                Item::End | Item::Torn { .. } => break,
                Item::Corrupt { offset, .. } => {
                    log::warn!("{}: {name} is damaged at {offset}: what was there is not counted", dir.path().display());
                    continue;
                }
                Item::Frame(frame) => frame,
            };
            if frame.sink_id() != Some(sink) {
                continue;
            }
            let Some(Ok(entry)) = frame.entry(name) else { continue };
            let Payload::Record(record) = &entry.payload else { continue };
            // These are replaced by a later record of the call, or by its end, and their tables have no ids.
            if record.is_interim() || sink == SinkId::Db && (record.kind.is_report() || record.shape == Shape::Dialog) {
                continue;
            }
            // A parked copy is the entry; its old place no longer counts.
            let waits = open && !moved.contains(&(name, frame.offset)) && frame.offset >= reached.get(&name).copied().unwrap_or(0);
            found.entry(record.id).and_modify(|known| known.waits |= waits).or_insert_with(|| of(record, entry.wall, sink, db, waits));
        }
    }
    dir.dead_letters(sink, |line| {
        let entry = serde_json::from_slice::<serde_json::Value>(line).ok();
        let id = entry.as_ref().and_then(|e| u128::from_str_radix(e["record"]["id"].as_str()?, 16).ok());
        if let Some(record) = id.and_then(|id| found.get_mut(&id)) {
            record.dead = true;
        }
    })
    .map_err(failed)
}

fn of(record: &Record, at: Wall, sink: SinkId, db: &Db, waits: bool) -> Accepted {
    // One row for each leg, one line for each record.
    let makes = if sink == SinkId::Db { rows_of(record) as u32 } else { 1 };
    Accepted {
        at,
        time: record.time,
        table: table_of(record, db).to_string(),
        makes,
        kind: record.kind,
        callid: record.core.callid.clone(),
        waits,
        dead: false,
    }
}

/// How many rows each id has, in the tables of these records.
async fn rows(conn: &mut Conn, db: &Db, found: &HashMap<u128, Accepted>) -> Result<HashMap<u128, u32>, String> {
    let tables: BTreeSet<_> = found.values().map(|r| &*r.table).collect();
    let mut ids = HashMap::new();
    let earliest = found.values().map(|r| r.time.0).min().unwrap_or_default().saturating_sub(MARGIN);
    let since = DateTime::from_timestamp_micros(earliest).map(|t| t.naive_utc());
    let dialect = conn.dialect();
    let id = dialect.as_text("acc_id");
    let since = TimeColumn::new(dialect.quote(&db.columns.time), dialect, true).within(since, None);
    for table in tables {
        let name = table.split('.').map(|part| dialect.quote(part)).collect::<Vec<_>>().join(".");
        let sql = format!("SELECT {id} FROM {name} WHERE acc_id IS NOT NULL{since}");
        let rows =
            conn.query(sql, 1, &[]).await.map_err(|e| format!("table {table} cannot be read ({}): the column acc_id is needed, see accctl schema", e.text))?;
        for text in rows.into_iter().flatten().flatten() {
            if let Ok(id) = u128::from_str_radix(text.trim(), 16) {
                *ids.entry(id).or_default() += 1;
            }
        }
    }
    Ok(ids)
}

/// Counts the lines of each id.
fn lines_of(path: &Path, ids: &mut HashMap<u128, u32>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = BufReader::new(std::fs::File::open(path).map_err(failed)?);
    let mut line = Vec::new();
    let mut format = Format::Json;
    if path.extension().is_some_and(|e| e == "csv") {
        file.read_until(b'\n', &mut line).map_err(failed)?;
        let names = String::from_utf8_lossy(&line);
        format = Format::Csv(Columns::read(names.trim_end()).map_err(|e| format!("{}: its first line has no names: {e}", path.display()))?);
    }
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            return Ok(());
        }
        match format.id_of(&line) {
            Some(id) => *ids.entry(id).or_default() += 1,
            None => log::warn!("{}: a line has no acc_id, and is not counted", path.display()),
        }
    }
}

fn report(found: &HashMap<u128, Accepted>, stored: &HashMap<u128, u32>) -> (String, ExitCode) {
    let mut hours: BTreeMap<i64, Hour> = BTreeMap::new();
    let mut missing = Vec::new();
    for (id, record) in found {
        let hour = hours.entry(record.at.0.div_euclid(HOUR)).or_default();
        hour.accepted += 1;
        let has = stored.get(id).copied().unwrap_or(0);
        hour.doubled += u64::from(has > record.makes);
        if has >= record.makes {
            hour.stored += 1;
        } else if record.dead {
            hour.dead += 1;
        } else if record.waits {
            hour.waiting += 1;
        } else {
            hour.missing += 1;
            missing.push((record.at, *id));
        }
    }
    let mut out = format!("{:<14} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "hour (UTC)", "accepted", "stored", "waiting", "dead", "missing", "doubled");
    let mut all = Hour::default();
    for (hour, counts) in &hours {
        let name = shown(Wall(hour * HOUR)).map_or_else(String::new, |t| t[..13].replace('T', " "));
        out.push_str(&counts.line(&name));
        all.add(counts);
    }
    out.push_str(&all.line("all"));
    missing.sort_unstable_by_key(|(at, id)| (at.0, *id));
    for (at, id) in missing.iter().take(SHOWN) {
        let record = &found[id];
        let callid = String::from_utf8_lossy(&record.callid);
        let _ = writeln!(
            out,
            "missing: {id:032x}, {:?} accepted {}, callid {}",
            record.kind,
            shown(*at).unwrap_or_default(),
            acc::accounting::visible::visible(&callid)
        );
    }
    if missing.len() > SHOWN {
        let _ = writeln!(out, "missing: {} more", missing.len() - SHOWN);
    }
    (out, if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
