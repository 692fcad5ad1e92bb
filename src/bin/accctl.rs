//! accctl: looks after a journal without a SIP server.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use acc::acc::fields::Fields;
use acc::acc::record::Record;
use acc::backend::radius;
use acc::backend::sql::{Conn, Dialect, Target, parse, schema};
use acc::backend::syslog::DEV_LOG;
use acc::backend::{Payload, SinkId};
use acc::config::{Aaa, Columns, Config, Db, DbTime, Draft, JournalSync, aaa_names};
use acc::delivery::{self, Delivery, MakeSender};
use acc::journal::limit::Limits;
use acc::journal::{DeadLetters, Dir, Item, KIND_LOG_LINE, KIND_RECORD, REQUEUE_RANK, SegmentName, Writer, json};
use acc::module::default_of;
use rustix::process::geteuid;

const USAGE: &str = "\
usage: accctl COMMAND [OPTIONS] [DIR]
DIR is the journal_dir of the server.

  status DIR                what waits, what is dead, what is damaged
  dump [--json] DIR         every entry of the segments, one a line
  verify DIR                reads everything: damage, doubles, gaps; exit status 1 for the first two
  deliver DIR [--url URL] [--db-time local|utc] [--aaa-url radius:FILE]
      [--log-socket PATH] [--seconds N]
                            delivers what a stopped server left: SQL records with --url, RADIUS
                            records with --aaa-url, log lines
  requeue --sink db|aaa|log DIR
                            puts dead entries back for delivery
  schema --url URL [--apply]
                            SQL for the tables and columns that are missing; with --apply runs it
  schema --dialect mysql|postgres|sqlite
                            SQL for a database that has nothing yet

For deliver and schema:
  --extra 'tag->column; ...'  --leg 'tag->column; ...'   as in extra_fields and leg_fields, without \"db:\"
  --table-acc NAME  --table-missed NAME
For deliver with --aaa-url:
  --aaa-extra 'tag->attribute; ...'  --aaa-leg 'tag->attribute; ...'   without \"aaa:\"
  --service-type N  --aaa-retry N   as in the parameters";

/// How long `deliver` tries when not told: enough for a large backlog.
const SECONDS: u64 = 600;

/// What the library has to say goes to standard error.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("acc")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let _ = writeln!(std::io::stderr(), "accctl: {}", record.args());
        }
    }

    fn flush(&self) {}
}

#[derive(Default)]
struct Options {
    dir: Option<PathBuf>,
    json: bool,
    apply: bool,
    url: Option<String>,
    aaa_url: Option<String>,
    service_type: Option<u32>,
    aaa_retry: Option<u32>,
    dialect: Option<Dialect>,
    sink: Option<SinkId>,
    log_socket: Option<PathBuf>,
    seconds: Option<u64>,
    fields: Fields,
    table_acc: Option<String>,
    table_missed: Option<String>,
    db_time: Option<DbTime>,
}

fn main() -> ExitCode {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    match run(std::env::args_os().skip(1)) {
        Ok((text, code)) => {
            // A closed pipe is the reader's wish, no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            code
        }
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "accctl: {text}");
            ExitCode::from(2)
        }
    }
}

fn run(args: impl Iterator<Item = OsString> + 'static) -> Result<(String, ExitCode), String> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut command = None;
    let mut o = Options::default();
    let text =
        |value: Result<OsString, lexopt::Error>| value.map_err(|e| e.to_string())?.into_string().map_err(|_| "an option's value is not UTF-8".to_string());
    while let Some(arg) = parser.next().map_err(|e| e.to_string())? {
        use lexopt::Arg::{Long, Short, Value};
        match arg {
            Long("help") | Short('h') => return Ok((format!("{USAGE}\n"), ExitCode::SUCCESS)),
            Long("json") => o.json = true,
            Long("apply") => o.apply = true,
            Long("url") => o.url = Some(text(parser.value())?),
            Long("dialect") => {
                let name = text(parser.value())?;
                o.dialect = Some(Dialect::ALL.into_iter().find(|d| d.name() == name).ok_or("--dialect is mysql, postgres or sqlite")?);
            }
            Long("sink") => {
                let name = text(parser.value())?;
                o.sink = Some(SinkId::ALL.into_iter().find(|s| s.name() == name).ok_or("--sink is db, aaa or log")?);
            }
            Long("log-socket") => o.log_socket = Some(parser.value().map_err(|e| e.to_string())?.into()),
            Long("seconds") => o.seconds = Some(text(parser.value())?.parse().map_err(|_| "--seconds needs a number")?),
            Long("extra") => drop(o.fields.extra.add(&format!("db:{}", text(parser.value())?)).map_err(|e| format!("--extra: {e}"))?),
            Long("leg") => drop(o.fields.leg.add(&format!("db:{}", text(parser.value())?)).map_err(|e| format!("--leg: {e}"))?),
            Long("aaa-url") => o.aaa_url = Some(text(parser.value())?),
            Long("aaa-extra") => drop(o.fields.extra.add(&format!("aaa:{}", text(parser.value())?)).map_err(|e| format!("--aaa-extra: {e}"))?),
            Long("aaa-leg") => drop(o.fields.leg.add(&format!("aaa:{}", text(parser.value())?)).map_err(|e| format!("--aaa-leg: {e}"))?),
            Long("service-type") => o.service_type = Some(text(parser.value())?.parse().map_err(|_| "--service-type needs a number")?),
            Long("aaa-retry") => {
                o.aaa_retry = Some(text(parser.value())?.parse().ok().filter(|n| *n > 0).ok_or("--aaa-retry needs a number from 1 on")?);
            }
            Long("table-acc") => o.table_acc = Some(text(parser.value())?),
            Long("db-time") => {
                let name = text(parser.value())?;
                o.db_time = Some(DbTime::NAMES.into_iter().find(|(n, _)| *n == name).ok_or("--db-time is local or utc")?.1);
            }
            Long("table-missed") => o.table_missed = Some(text(parser.value())?),
            Value(word) if command.is_none() => command = Some(word.into_string().map_err(|_| "unknown command")?),
            Value(dir) if o.dir.is_none() => o.dir = Some(dir.into()),
            other => return Err(format!("{}\n{USAGE}", other.unexpected())),
        }
    }
    match command.as_deref() {
        Some("status") => status(&o),
        Some("dump") => dump(&o),
        Some("verify") => verify(&o),
        Some("deliver") => deliver(o),
        Some("requeue") => requeue(&o),
        Some("schema") => schema_command(&o),
        Some(other) => Err(format!("unknown command \"{other}\"\n{USAGE}")),
        None => Err(USAGE.into()),
    }
}

impl Options {
    fn open(&self) -> Result<Dir, String> {
        Dir::open_to_read(self.dir.as_deref().ok_or("which journal directory?")?).map_err(|e| e.to_string())
    }

    /// Opens the directory for a command that makes files in it, which the server must be able to read.
    fn open_to_write(&self) -> Result<Dir, String> {
        let dir = self.open()?;
        let path = dir.path().display();
        match dir.owner().map_err(|e| format!("{path}: {e}"))? {
            Some(owner) if owner != geteuid().as_raw() => Err(match user_name(owner) {
                Some(name) => format!("the files in {path} belong to the user {name}: run accctl as that user, as in: runuser -u {name} -- accctl ..."),
                None => format!("the files in {path} belong to the user with the number {owner}: run accctl as that user"),
            }),
            _ => Ok(dir),
        }
    }

    fn db(&self) -> Result<Db, String> {
        self.tables(self.url.clone().ok_or("--url is missing: give the server's db_url")?)
    }

    fn tables(&self, url: String) -> Result<Db, String> {
        let table = |name: &Option<String>, parameter: &str| -> Result<Arc<str>, String> {
            let name = name.as_deref().unwrap_or(default_of(parameter));
            if schema::is_table_name(name) { Ok(name.into()) } else { Err(format!("\"{name}\" is no table name")) }
        };
        Ok(Db {
            url,
            table_acc: table(&self.table_acc, "db_table_acc")?,
            table_missed: table(&self.table_missed, "db_table_missed_calls")?,
            columns: Columns::default(),
            time: self.db_time.unwrap_or(DbTime::Local),
        })
    }
}

/// Name of a user of this machine.
fn user_name(number: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut users = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    users.find(|user| user.get(2).is_some_and(|n| *n == number.to_string())).map(|user| user[0].to_string())
}

/// Calls `each` for all items of all segments.
fn walk(dir: &Dir, mut each: impl FnMut(SegmentName, &Item<'_>)) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.path().display());
    for segment in dir.segments().map_err(failed)? {
        let mut reader = match dir.read(segment.name, 0) {
            // Delivered and removed meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(failed)?,
        };
        loop {
            let item = reader.read().map_err(failed)?;
            each(segment.name, &item);
            if matches!(item, Item::End | Item::Torn { .. }) {
                break;
            }
        }
    }
    Ok(())
}

fn status(o: &Options) -> Result<(String, ExitCode), String> {
    let dir = o.open()?;
    let segments = dir.segments().map_err(|e| e.to_string())?;
    let mut out = format!("segments {} bytes {}\n", segments.len(), segments.iter().map(|s| s.size).sum::<u64>());
    let cursors = SinkId::ALL.map(|s| dir.cursor(s).unwrap_or_default());
    let mut waiting = [0u64; SinkId::ALL.len()];
    let mut damaged = 0;
    walk(&dir, |name, item| match item {
        Item::Frame(f) => {
            if let Some(sink) = f.sink_id()
                && f.offset >= cursors[sink as usize].get(&name).copied().unwrap_or(0)
            {
                waiting[sink as usize] += 1;
            }
        }
        Item::Corrupt { .. } => damaged += 1,
        Item::Torn { .. } | Item::End => {}
    })?;
    for sink in SinkId::ALL {
        let dead = lines(&dir.content(&DeadLetters::file_name(sink)).map_err(|e| e.to_string())?).count();
        // The database itself knows which of its records it has.
        let most = if sink == SinkId::Db && cursors[sink as usize].is_empty() { "at most " } else { "" };
        let _ = writeln!(out, "{}: {most}{} waiting, {dead} dead", sink.name(), waiting[sink as usize]);
    }
    let _ = writeln!(out, "damaged places in segments: {damaged}");
    Ok((out, ExitCode::SUCCESS))
}

fn dump(o: &Options) -> Result<(String, ExitCode), String> {
    let dir = o.open()?;
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let mut failed = None;
    walk(&dir, |name, item| {
        let Item::Frame(f) = item else { return };
        let sink = f.sink_id().map_or_else(|| f.sink.to_string(), |s| s.name().to_string());
        let payload = f.decode();
        let text = if o.json {
            let mut line = match &payload {
                Some(Ok(payload)) => json::payload(payload),
                _ => serde_json::json!({ "kind_number": f.kind, "payload": json::hex(f.payload) }),
            };
            line["sink"] = sink.into();
            line["segment"] = name.to_string().into();
            line["offset"] = f.offset.into();
            line["wall"] = f.wall.0.into();
            line.to_string()
        } else {
            let body = match payload {
                Some(Ok(Payload::LogLine(l))) => String::from_utf8_lossy(&l).escape_debug().to_string(),
                Some(Ok(Payload::Record(r))) => {
                    let core: Vec<_> = r.core.values().iter().map(|v| String::from_utf8_lossy(v).escape_debug().to_string()).collect();
                    core.join(" ")
                }
                _ => format!("kind {} of {} bytes", f.kind, f.payload.len()),
            };
            format!("{} {sink} {body}", f.wall.0)
        };
        if failed.is_none()
            && let Err(e) = writeln!(out, "{text}")
        {
            failed = Some(e);
        }
    })?;
    let _ = out.flush();
    match failed {
        Some(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.to_string()),
        _ => Ok((String::new(), ExitCode::SUCCESS)),
    }
}

fn verify(o: &Options) -> Result<(String, ExitCode), String> {
    let dir = o.open()?;
    let mut out = String::new();
    let (mut entries, mut bad, mut doubles) = (0u64, 0u64, 0u64);
    // Where each record stands, by destination and id.
    let mut seen: HashMap<(u8, u128), (SegmentName, u64)> = HashMap::new();
    walk(&dir, |name, item| match item {
        Item::Frame(f) => {
            entries += 1;
            match f.decode() {
                Some(Err(())) => {
                    bad += 1;
                    let _ = writeln!(out, "{name}: the entry at {} cannot be decoded", f.offset);
                }
                // What was put back stands, dead, in its first segment as well.
                Some(Ok(Payload::Record(record))) if name.rank != REQUEUE_RANK => {
                    if let Some((other, offset)) = seen.insert((f.sink, record.id), (name, f.offset)) {
                        doubles += 1;
                        let _ = writeln!(out, "{name}: the record at {} stands in {other} at {offset} too", f.offset);
                    }
                }
                _ => {}
            }
        }
        Item::Corrupt { offset, end } => {
            bad += 1;
            let _ = writeln!(out, "{name}: damaged from {offset} to {end}");
        }
        Item::Torn { offset, end } => {
            let _ = writeln!(out, "{name}: the last entry, from {offset} to {end}, is not complete");
        }
        Item::End => {}
    })?;
    let segments = dir.segments().map_err(|e| e.to_string())?;
    for pair in segments.windows(2) {
        let (a, b) = (pair[0].name, pair[1].name);
        // A writer numbers its segments; they go when they are delivered, not always in their order.
        if (a.boot, a.rank, a.pid) == (b.boot, b.rank, b.pid) && b.seq > a.seq + 1 {
            let _ = writeln!(out, "{} segments between {a} and {b} are gone: delivered before it, or taken away", b.seq - a.seq - 1);
        }
    }
    let _ = writeln!(out, "{entries} entries, {bad} damaged, {doubles} doubled");
    Ok((out, if bad + doubles == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn deliver(o: Options) -> Result<(String, ExitCode), String> {
    let path = o.dir.clone().ok_or("which journal directory?")?;
    if !path.is_dir() {
        return Err(format!("{} is no directory", path.display()));
    }
    o.open_to_write()?;
    let db = match o.url {
        Some(_) => Some(o.db()?),
        None => None,
    };
    let aaa = o.aaa_url.clone().map(|url| Aaa { url, service_type: o.service_type, retry: o.aaa_retry });
    if let Some(aaa) = &aaa {
        radius::validate(aaa, &aaa_names(&o.fields))?;
    }
    let make_client = aaa.clone().map(|aaa| {
        let fields = o.fields.clone();
        Box::new(move || radius::sender(&aaa, &fields)) as MakeSender
    });
    let dir = Dir::open(&path).map_err(|e| e.to_string())?;
    let journal = dir.clone();
    let config = Config {
        fields: o.fields.clone(),
        db,
        aaa,
        journal_dir: path,
        journal_sync: JournalSync::Os,
        limits: Limits::default(),
        delivery_retry_max: 1,
        ..Draft::default().finish(None).map_err(|e| e.to_string())?
    };
    delivery::run(Delivery {
        log_socket: o.log_socket.clone().unwrap_or_else(|| DEV_LOG.into()),
        aaa: make_client,
        only_what_is_there: Some(Duration::from_secs(o.seconds.unwrap_or(SECONDS))),
        ..Delivery::new(config, dir)
    })
    .map_err(|e| e.to_string())?;
    let mut out = String::new();
    for sink in SinkId::ALL {
        let [delivered, dead] = [sink.delivered(), sink.dead()].map(acc::stats::get);
        let _ = writeln!(out, "{}: {delivered} delivered, {dead} dead", sink.name());
    }
    let left = journal.segments().map_err(|e| e.to_string())?.len();
    let _ = writeln!(out, "segments with entries still waiting: {left}");
    Ok((out, if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn requeue(o: &Options) -> Result<(String, ExitCode), String> {
    let sink = o.sink.ok_or("--sink is missing: db, aaa or log")?;
    let dir = o.open_to_write()?;
    let failed = |e: std::io::Error| format!("{}: {e}", dir.path().display());
    let file = DeadLetters::file_name(sink);
    // Taken away first: the server begins a new file for what dies meanwhile.
    let taken = format!("requeued-{}-{:016x}.jsonl", sink.name(), dir.boot());
    match dir.rename(&file, &taken) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(("0 entries put back\n".into(), ExitCode::SUCCESS)),
        other => other.map_err(failed)?,
    }
    let mut writer = Writer::new(&dir, REQUEUE_RANK, std::process::id(), JournalSync::Always, Limits::default().segment_max());
    let mut seen = HashSet::new();
    let (mut back, mut unreadable) = (0, 0);
    // A second run would find nothing to put back: say where the rest is.
    let stopped = |e, back: u64| format!("{}: {back} entries were put back, the others are still in {taken}", failed(e));
    for line in lines(&DeadLetters::taken_away(&dir, &taken).map_err(|e| stopped(e, 0))?) {
        let Some((place, payload)) = dead_entry(line) else {
            unreadable += 1;
            continue;
        };
        // A crash may have written a line twice.
        if seen.insert(place) {
            writer.append(sink, &payload).map_err(|e| stopped(e, back))?;
            back += 1;
        }
    }
    let mut out = format!("{back} entries put back; their dead letters are kept in {taken}\n");
    if let Some(e) = writer.unsynced() {
        let _ = writeln!(out, "they could not be synced ({e}) and may be lost in a power cut: check the disk");
    }
    if unreadable > 0 {
        let _ = writeln!(out, "{unreadable} lines could not be read and are only there");
    }
    Ok((out, if unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

/// The lines of a dead-letter file. One that was cut off may be no text.
fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn dead_entry(line: &[u8]) -> Option<((String, u64), Payload)> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    let bytes = json::unhex(value["payload"].as_str()?)?;
    let payload = match u8::try_from(value["kind_number"].as_u64()?).ok()? {
        KIND_RECORD => Payload::Record(Box::new(Record::decode(&bytes)?)),
        KIND_LOG_LINE => Payload::LogLine(bytes),
        _ => return None,
    };
    Some(((value["segment"].as_str()?.to_string(), value["offset"].as_u64()?), payload))
}

fn schema_command(o: &Options) -> Result<(String, ExitCode), String> {
    let text = |statements: Vec<String>| statements.iter().map(|s| format!("{s}\n")).collect::<String>();
    if let Some(dialect) = o.dialect {
        let db = o.tables(String::new())?;
        return Ok((text(schema::create_all(&db, &o.fields, dialect)), ExitCode::SUCCESS));
    }
    let db = o.db()?;
    let target = parse(&db.url)?;
    if let Target::Sqlite(path) = &target
        && !o.apply
        && !path.exists()
    {
        return Err(format!("{} does not exist: --apply makes it", path.display()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let mut conn = Conn::open(&target).await.map_err(|e| e.text)?;
        let text = text(schema::missing(&mut conn, &db, &o.fields).await.map_err(|e| e.text)?);
        if o.apply && !text.is_empty() {
            conn.run(text.as_str()).await.map_err(|e| e.text)?;
        }
        Ok((text, ExitCode::SUCCESS))
    })
}
