//! What the delivery tests share.
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "every test file uses a part of it")]

pub mod brokers;
pub mod diameter;
pub mod freeradius;
pub mod host;
pub mod servers;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use acc::accounting::clock::Wall;
use acc::accounting::fields::Fields;
use acc::accounting::record::{Backend, Core, Field, Kind, Record, Shape, Signalling, Times};
use acc::accounting::rules::Tables;
use acc::backend::log::syslog;
use acc::backend::sql::{Columns, Db, DbTime};
use acc::backend::{Fate, Offer, RecordSender};
use acc::config::Config;
use acc::delivery::{self, Delivery, DeliveryError};
use acc::journal::limit::Limits;
use acc::journal::{Dir, JournalSync, SinkId, Writer};
use acc::params::Draft;

/// Longest wait for something that must come; a bound for failures, no measurement.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A configuration that writes to `url`, with two extra and two leg fields.
pub fn config(url: Option<&str>, journal: &Path) -> Config {
    let mut fields = Fields::default();
    fields.extra.add("db: caller->caller_uri; note->x_note").unwrap();
    fields.leg.add("db: src->leg_src; dst->leg_dst").unwrap();
    let mut config =
        Config { journal_dir: journal.into(), limits: Limits::default(), delivery_batch: 50, delivery_retry_max: 1, ..Draft::default().finish(None).unwrap() };
    config.rules.fields = fields;
    if let Some(url) = url {
        let db = Db {
            url: url.to_string(),
            table_acc: "acc".into(),
            table_missed: "missed_calls".into(),
            table_calls: "acc_calls".into(),
            node: "proxy1".into(),
            columns: Columns::default(),
            time: DbTime::Local,
            cdrs: None,
            digits: 0,
        };
        config.rules.tables = Some(Tables { acc: db.table_acc.clone(), missed: db.table_missed.clone(), calls: db.table_calls.clone() });
        config.destinations.set(SinkId::Db, db);
    }
    config
}

/// A field under its backend name.
pub fn field(name: &str, value: Option<&[u8]>) -> Field {
    Field { name: name.into(), value: value.map(<[u8]>::to_vec) }
}

/// A record with all values set.
pub fn record(kind: Kind, callid: &str) -> Record {
    Record {
        kind,
        shape: Shape::Context,
        backend: Backend::Db,
        table: "".into(),
        core: Core {
            method: b"INVITE".to_vec(),
            from_tag: b"ft".to_vec(),
            to_tag: b"tt".to_vec(),
            callid: callid.as_bytes().to_vec(),
            code: b"200".to_vec(),
            reason: b"OK".to_vec(),
        },
        time: Wall(1_700_000_003_500_000),
        times: Some(Times { created: Wall(1_700_000_000_900_000), setup_ms: 2600 }),
        duration_ms: (kind == Kind::Cdr).then_some(1203),
        end: None,
        signalling: Signalling::default(),
        reported: false,
        in_dialog: false,
        extras: vec![field("caller_uri", Some(b"sip:a@example.com")), field("x_note", None)],
        legs: vec![],
        id: callid.bytes().fold(1, |id, byte| id << 8 | u128::from(byte)),
    }
}

/// A delivery process, as a thread.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), DeliveryError>>>,
}

impl Running {
    /// With sinks as configured; no RADIUS.
    pub fn start(config: Config, dir: &Dir) -> Running {
        Running::start_with(dir, move |delivery| delivery.config = config)
    }

    /// With whatever `change` makes of an empty configuration, in the delivery's own thread.
    pub fn start_with(dir: &Dir, change: impl FnOnce(&mut Delivery) + Send + 'static) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let (dir, flag) = (dir.clone(), stop.clone());
        let socket = dir.path().join("no-syslog-here");
        let thread = std::thread::spawn(move || {
            let mut delivery = Delivery { stop: flag, makers: vec![syslog::at(socket)], ..Delivery::new(config(None, dir.path()), dir) };
            change(&mut delivery);
            delivery::run(delivery)
        });
        Running { stop, thread: Some(thread) }
    }

    /// As SIGTERM does; returns when it has ended.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The CDR of an answered call for `aaa_url`, told apart by its Call-ID.
pub fn answered_call(n: usize) -> Record {
    Record {
        kind: Kind::Cdr,
        shape: Shape::Context,
        backend: Backend::Aaa,
        table: "".into(),
        core: Core {
            method: "INVITE".into(),
            from_tag: "alice-1".into(),
            to_tag: "bob-1".into(),
            callid: format!("call-{n}").into(),
            code: "200".into(),
            reason: "OK".into(),
        },
        time: Wall(1_700_000_001_500_000),
        times: Some(Times { created: Wall(1_700_000_000_700_000), setup_ms: 1800 }),
        duration_ms: Some(1204),
        end: None,
        signalling: Signalling::default(),
        reported: false,
        in_dialog: false,
        extras: vec![],
        legs: vec![],
        id: n as u128,
    }
}

/// What the program sqlite3 answers: a line for each row, its values between tabs; or what it
/// complains of. Waits for a lock: the delivery's connection is closed by a thread of its own, which
/// may still be putting the write-ahead log into the database when the delivery has ended.
pub fn sqlite(database: &Path, sql: &str) -> Result<String, String> {
    let mut command = Command::new("sqlite3");
    command.args(["-readonly", "-cmd", ".timeout 10000", "-separator", "\t", "-nullvalue", "NULL"]).arg(database).arg(sql);
    let out = command.output().expect("the program sqlite3");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

/// What the module said, by all tests of this program.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("acc")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            SAID.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Hears what the module says from now on.
pub fn listen() {
    let _ = log::set_logger(&Log).map(|()| log::set_max_level(log::LevelFilter::Info));
}

/// Messages up to now count no more.
pub fn forget_what_was_said() {
    SAID.lock().unwrap().clear();
}

/// Messages with all of these words.
pub fn said(words: &[&str]) -> Vec<String> {
    SAID.lock().unwrap().iter().filter(|m| words.iter().all(|w| m.contains(w))).cloned().collect()
}

/// Says that a test cannot play here.
pub fn skip(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what} is not installed");
}

/// Waits for what must come.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            let said = SAID.lock().unwrap().clone();
            panic!("never: {what}; said last: {:#?}", &said[said.len().saturating_sub(20)..]);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Offers records to a client as the delivery does, until the fate of each is known.
pub async fn offer(client: &mut dyn RecordSender, records: &[Record], made: Wall, parked: bool) -> Vec<Fate> {
    let mut fates = vec![Fate::UnderWay; records.len()];
    loop {
        let open: Vec<usize> = (0..records.len()).filter(|i| fates[*i] == Fate::UnderWay).collect();
        if open.is_empty() {
            return fates;
        }
        let offers: Vec<_> = open.iter().map(|i| Offer { record: &records[*i], made, parked }).collect();
        for (i, fate) in open.into_iter().zip(client.send_all(&offers).await) {
            fates[i] = fate;
        }
    }
}

/// A writer with small segments.
pub fn writer(dir: &Dir, rank: i32) -> Writer {
    Writer::new(dir, rank, std::process::id(), JournalSync::Batch, 16 << 10)
}

/// Segments in a journal.
pub fn segments(journal: &Path) -> usize {
    std::fs::read_dir(journal).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".seg")).count()
}

/// accctl, as it was built together with this test.
pub fn accctl_command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_accctl"))
}

/// Runs accctl in a zone five and a half hours ahead of UTC; its output.
pub fn accctl_in_zone(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).args(args).env("TZ", "IST-5:30").output().unwrap();
    assert!(out.status.success(), "{args:?}: {}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// With `TZ` ahead of UTC, one record into the table `table`; what else is to be said comes in `args`.
pub fn deliver_in_zone(url: &str, table: &str, args: &[&str]) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut zoned = record(Kind::Cdr, "zoned");
    // Of a call that the database does not know yet.
    zoned.id ^= u128::from(dir.id()) << 64;
    writer(&dir, 1).append_record(SinkId::Db, &zoned).unwrap();
    drop(dir);
    accctl_in_zone(&[&["deliver", "--url", url, "--table-acc", table], args, &[tmp.path().to_str().unwrap()]].concat());
}

/// Times of [`record`] where [`deliver_in_zone`] is, and in UTC.
pub const ZONE_TIMES: [(&str, [&str; 2]); 2] =
    [("local", ["2023-11-15 03:43:23", "2023-11-15 03:43:20"]), ("utc", ["2023-11-14 22:13:23", "2023-11-14 22:13:20"])];

/// The committed schema for a dialect.
pub fn schema_file(dialect: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/schema").join(dialect).with_extension("sql")
}
