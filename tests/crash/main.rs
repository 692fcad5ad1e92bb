//! Every call that changes a file goes wrong once: with EIO, on a full disk, for good, by the death
//! of the process before it or in the middle of it, or by a loss of power. Afterwards nothing is
//! lost that was acknowledged (without power: and synced), and nothing stands twice in SQLite.
//!
//! A recorded run (`play`) is repeated in a process of its own with `shim.c` preloaded, once for
//! each call it makes; then this process recovers as the next start of the server does.
#![forbid(unsafe_code)]

#[path = "../common/mod.rs"]
mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use acc::accounting::clock::Moment;
use acc::accounting::context::CallEnd;
use acc::accounting::record::{Backend, Kind, Record};
use acc::backend::log::syslog;
use acc::backend::{Fate, LocalFuture, Offer, RecordSender, one_by_one};
use acc::config::Config;
use acc::delivery::{self, Delivery, DeliveryError};
use acc::host;
use acc::host::cluster::{self, Named, Nodes};
use acc::journal::{DeadLetters, Dir, Entry, Item, JournalSync, KIND_CALL, Payload, SegmentName, SinkId, Writer, calls};
use acc::params::{Draft, RawValue};
use acc::stats::Counter;
use acc::worker::{self, Instance};
use sqlx::{Connection, SqliteConnection};

use common::PATIENCE;
use common::host::NoServer;

/// Small, so that a few records fill a segment.
const SEGMENT: u64 = 1500;
/// Set in the process that plays the run.
const PLAY: &str = "CRASH_PLAY";

/// Tells the outside what was acknowledged, at once: the next call may be the last. A closed pipe
/// means that nobody listens any more.
fn say(what: &str) {
    let _ = std::io::stdout().write_all(format!("\n@{what}\n").as_bytes());
    let _ = std::io::stdout().flush();
}

/// A RADIUS server that takes everything, and tells what; while `refuses` says so, but for some.
struct Sender<F> {
    told: F,
    refuses: bool,
}

impl<F: Fn(&str)> RecordSender for Sender<F> {
    fn send_all<'a>(&'a mut self, records: &'a [Offer<'a>]) -> LocalFuture<'a, Vec<Fate>> {
        let fate = |offer: &Offer<'_>| {
            let id = std::str::from_utf8(&offer.record.core.callid).unwrap();
            if self.refuses && id.starts_with("late-") {
                return Fate::Refused("not acknowledged".into());
            }
            (self.told)(id);
            Fate::Delivered
        };
        let fates = records.iter().map(fate).collect();
        Box::pin(async move { fates })
    }
}

struct Place {
    _tmp: tempfile::TempDir,
    /// Everything below it is under observation.
    dir: PathBuf,
    /// The syslog daemon's socket; outside.
    log: PathBuf,
}

impl Place {
    fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }
}

/// Delivers all that can be delivered now.
fn deliver(dir: &Dir, below: &Path, log: &Path, refuses: bool, told: impl Fn(&str) + 'static) -> Result<(), DeliveryError> {
    let config = common::config(Some(&format!("sqlite://{}", below.join("acc.sqlite").display())), dir.path());
    delivery::run(Delivery {
        makers: vec![syslog::at(log.into()), one_by_one(SinkId::Aaa, move || Ok(Box::new(Sender { told, refuses })))],
        only_what_is_there: Some(PATIENCE),
        ..Delivery::new(config, dir.clone())
    })
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// A script that names a table that is not there: a dead letter.
fn poison(callid: &str) -> Record {
    let mut r = common::record(Kind::Manual, callid);
    r.table = "no_such_table".into();
    r
}

/// A trigger that refuses two records with a code that says nothing: one until the run's last row is there, one as
/// long as it is there.
const TRIGGER: &str = "CREATE TRIGGER odd BEFORE INSERT ON acc WHEN new.callid LIKE 'odd-always-%' \
    OR new.callid LIKE 'odd-first-%' AND NOT EXISTS (SELECT 1 FROM acc WHERE callid = 'db-synced-end') BEGIN SELECT gone(); END";

/// Runs a statement; what fails is the run's.
fn execute(database: &Path, sql: &'static str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if let Ok(mut conn) = SqliteConnection::connect(&format!("sqlite://{}", database.display())).await {
            let _ = sqlx::query(sql).execute(&mut conn).await;
            let _ = conn.close().await;
        }
    });
}

/// The run: two workers with records for every sink, calls in progress, a segment change, and the
/// delivery in between, which removes segments and carries calls over.
fn play(below: &Path, log: &Path) {
    let Ok(dir) = Dir::open(&below.join("journal")) else { return };
    let alone = threads();
    let deliver = || {
        let _ = deliver(&dir, below, log, true, |id| say(&format!("sent {id}")));
        // SQLite's connection is closed by a thread of its own. Were the process stopped in that one, this one
        // would go on for a moment, and might acknowledge what is lost already.
        common::wait_until("SQLite is closed", || threads() <= alone);
    };
    let mut workers =
        [(1, "os", JournalSync::Os), (2, "synced", JournalSync::Always)].map(|(rank, n, sync)| (n, Writer::new(&dir, rank, std::process::id(), sync, SEGMENT)));
    let tried = |what: String, result: std::io::Result<()>| say(&format!("{} {what}", if result.is_ok() { "ok" } else { "failed" }));
    for round in 0..2 {
        for (n, w) in &mut workers {
            for i in 0..3 {
                let id = format!("db-{n}-{round}-{i}");
                say(&format!("try {id}"));
                let result = w.append_record(SinkId::Db, &common::record(Kind::Transaction, &id));
                tried(id, result);
            }
            let id = format!("aaa-{n}-{round}");
            let result = w.append_record(SinkId::Aaa, &common::record(Kind::Transaction, &id));
            tried(id, result);
            let id = format!("log-{n}-{round}");
            let result = w.append_line(SinkId::Log, id.as_bytes());
            tried(id, result);
            // In one write, of which a full disk takes a part.
            let pair = [(SinkId::Db, format!("db-{n}-{round}-pair")), (SinkId::Aaa, format!("aaa-{n}-{round}-pair"))];
            say(&format!("try {}", pair[0].1));
            let records = pair.clone().map(|(sink, id)| (sink, common::record(Kind::Transaction, &id)));
            let kept = w.append_all(records.iter().map(|(sink, r)| (*sink, r)), None).map_or_else(|e| e.kept, |()| pair.len());
            for (at, (_, id)) in pair.iter().enumerate() {
                say(&format!("{} {id}", if at < kept { "ok" } else { "failed" }));
            }
            for kind in ["odd-first", "odd-always"] {
                let id = format!("{kind}-{n}-{round}");
                say(&format!("try {id}"));
                let result = w.append_record(SinkId::Db, &common::record(Kind::Transaction, &id));
                tried(id, result);
            }
            let id = format!("late-{n}-{round}");
            let result = w.append_record(SinkId::Aaa, &common::record(Kind::Transaction, &id));
            tried(id, result);
            let id = format!("poison-{n}-{round}");
            let result = w.append_record(SinkId::Db, &poison(&id));
            tried(id, result);
        }
        for call in 0..3u128 {
            let state = format!("{round}");
            say(&format!("try call {call} {state}"));
            let result = workers[(call % 2) as usize].1.append_call(call, state.as_bytes()).map(drop);
            tried(format!("call {call} {state}"), result);
        }
        deliver();
        execute(&below.join("acc.sqlite"), TRIGGER);
        common::wait_until("SQLite is closed", || threads() <= alone);
    }
    // The first call ends, with two records in one write, in the other process than it began in.
    let ids = ["db-synced-end", "aaa-synced-end"];
    say("try db-synced-end");
    say("try call 0 end");
    let records = [(SinkId::Db, common::record(Kind::Cdr, ids[0])), (SinkId::Aaa, common::record(Kind::Cdr, ids[1]))];
    let result = workers[1].1.append_end(0, &records);
    let ok = if result.is_ok() { "ok" } else { "failed" };
    for id in ["db-synced-end", "aaa-synced-end", "call 0 end"] {
        say(&format!("{ok} {id}"));
    }
    drop(workers);
    deliver();
    // What was refused is offered again, and what was so then is copied again.
    deliver();
    say("done");
}

/// Not a test of its own: the process that `play`s. Without the environment it has nothing to do.
#[test]
fn player() {
    if let (Some(below), Some(log)) = (std::env::var_os(PLAY), std::env::var_os("CRASH_LOG")) {
        play(Path::new(&below), Path::new(&log));
    }
}

/// The shim, compiled once.
fn shim() -> &'static Path {
    static SHIM: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    SHIM.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-shim-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/shim.c");
        let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let status =
            Command::new(cc).args(["-std=gnu17", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"]).arg(&out).arg(source).arg("-ldl").status();
        assert!(status.expect("a C compiler, which the build needs as well").success());
        out
    })
}

/// What the run said.
#[derive(Default)]
struct Said {
    lines: Vec<String>,
}

impl Said {
    fn with<'a>(&'a self, word: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let word = format!("{word} ");
        self.lines.iter().filter_map(move |l| l.strip_prefix(&word))
    }

    fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|l| l == line)
    }
}

fn rows(database: &Path) -> BTreeMap<String, usize> {
    if !database.exists() {
        return BTreeMap::new();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut conn = SqliteConnection::connect(&format!("sqlite://{}", database.display())).await.unwrap();
        let rows: Vec<(String,)> = sqlx::query_as("SELECT callid FROM acc").fetch_all(&mut conn).await.unwrap_or_default();
        conn.close().await.unwrap();
        let mut count = BTreeMap::new();
        for (id,) in rows {
            *count.entry(id).or_default() += 1;
        }
        count
    })
}

/// A test of this file in a process of its own, whose k-th call below `watched` goes wrong as `mode` says.
fn goes_wrong(test: &str, mode: &str, k: usize, watched: &Path, hit: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).stdin(Stdio::null());
    command.env("LD_PRELOAD", shim()).env("CRASH_DIR", watched).env("CRASH_HIT", hit).env("CRASH_MODE", mode).env("CRASH_AT", k.to_string());
    command
}

/// Plays with the k-th call going wrong as `mode` says, recovers, and checks. Returns which call it
/// was; `None` when there were not so many.
fn crash(mode: &str, k: usize) -> Option<String> {
    // Memory does what is tested here as well as a disk, and a sync costs nothing.
    let memory = Path::new("/dev/shm");
    let tmp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let place = Place { dir: tmp.path().join("below"), log: tmp.path().join("log"), _tmp: tmp };
    std::fs::create_dir(&place.dir).unwrap();
    let daemon = UnixDatagram::bind(&place.log).unwrap();
    daemon.set_nonblocking(true).unwrap();
    // What SQLite does in all of these ways is its own, and takes its time: it gets those that the
    // others are part of.
    let watched = if matches!(mode, "full" | "gone" | "die") { place.journal() } else { place.dir.clone() };
    let hit = place.log.with_file_name("hit");

    let mut command = goes_wrong("player", mode, k, &watched, &hit);
    command.env(PLAY, &place.dir).env("CRASH_LOG", &place.log).env("CRASH_LOSE", place.journal());
    let out = command.stderr(Stdio::null()).output().unwrap();
    let said = Said { lines: String::from_utf8_lossy(&out.stdout).lines().filter_map(|l| l.strip_prefix('@')).map(String::from).collect() };
    let call = std::fs::read_to_string(&hit).ok();
    let dies = matches!(mode, "die" | "cut" | "power");
    // Without power only what its writer synced is still there.
    let kept = |what: &str| mode != "power" || what.contains("-synced-") || what.starts_with("call 1 ") || what == "call 0 end";
    let about = || format!("{mode} {k} ({}): {:?}", call.as_deref().unwrap_or("none"), said.lines);
    assert!(call.is_some() || said.has("done"), "{}", about());
    assert!(call.is_none() || dies != out.status.success(), "{}", about());

    // A delivery process may have seen what the disk took its time to sync: it is not taken back.
    let refused = said.with("failed").next().is_some();
    assert!(mode != "eio" || call.as_deref() != Some("fdatasync") || !refused, "{}", about());

    // The next start of the server.
    let dir = Dir::open(&place.journal()).unwrap();
    let open = calls::scan(&dir).unwrap();
    for call in 0..3u128 {
        let states: Vec<&str> = said.with("try").filter_map(|t| t.strip_prefix(&format!("call {call} "))).collect();
        let acknowledged = states.iter().rposition(|s| said.has(&format!("ok call {call} {s}")) && kept(&format!("call {call} {s}")));
        let found = open.calls.get(&call).map_or("end", |c| std::str::from_utf8(&c.state).unwrap());
        match states.iter().position(|s| *s == found) {
            Some(at) => assert!(acknowledged.is_none_or(|a| a <= at), "call {call} went back to {found}: {}", about()),
            None => assert!(acknowledged.is_none(), "call {call} is lost: {}", about()),
        }
    }
    execute(&place.dir.join("acc.sqlite"), "DROP TRIGGER IF EXISTS odd");
    let sent = Rc::new(RefCell::new(said.with("sent").map(String::from).collect::<BTreeSet<_>>()));
    let collect = sent.clone();
    deliver(&dir, &place.dir, &place.log, false, move |id| collect.borrow_mut().extend([id.to_string()])).unwrap();

    let rows = rows(&place.dir.join("acc.sqlite"));
    // A line that was cut off is none.
    let dead = std::fs::read_to_string(place.journal().join("dead-db.jsonl")).unwrap_or_default();
    let dead = dead.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let dead: BTreeSet<_> = dead.filter_map(|l| l["record"]["callid"].as_str().map(String::from)).collect();
    let mut lines = BTreeSet::new();
    let mut buffer = [0; 100];
    while let Ok(n) = daemon.recv(&mut buffer) {
        lines.insert(String::from_utf8_lossy(&buffer[..n]).into_owned());
    }
    for (id, n) in &rows {
        assert_eq!(*n, 1, "{id} is there {n} times: {}", about());
        assert!(said.with("try").any(|t| t == id), "{id} comes from nowhere: {}", about());
        // A failure that was told is none that comes true later; only a disk that also refuses to
        // take the bytes back may keep them.
        assert!(mode == "gone" || !said.has(&format!("failed {id}")), "{id} was refused: {}", about());
    }
    for id in said.with("ok").filter(|id| kept(id)) {
        let there = match id.split_once('-').map(|(kind, _)| kind) {
            Some("db" | "odd") => rows.contains_key(id),
            Some("aaa" | "late") => sent.borrow().contains(id),
            Some("log") => lines.contains(id),
            Some("poison") => !rows.contains_key(id) && dead.contains(id),
            _ => continue,
        };
        assert!(there, "{id} was acknowledged and is lost: {}", about());
    }
    // What is delivered goes; only calls in progress stay.
    for segment in dir.segments().unwrap() {
        let mut reader = dir.read(segment.name, 0).unwrap();
        while let Item::Frame(f) = reader.read().unwrap() {
            assert_eq!(f.kind, KIND_CALL, "{}: {}", segment.name, about());
        }
    }
    let states = |open: calls::OpenCalls| -> BTreeMap<_, _> { open.calls.into_iter().map(|(id, call)| (id, call.state)).collect() };
    assert_eq!(states(calls::scan(&dir).unwrap()), states(open), "{}", about());
    call
}

/// Every call of the run once; what `at_least` names is known to be among them.
fn every_call(mode: &str, at_least: &[&str]) {
    let mut seen = BTreeMap::<String, usize>::new();
    // Two threads take part, so that one run may make some calls more than another.
    let mut missed = 0;
    for k in 1.. {
        match crash(mode, k) {
            Some(call) => {
                *seen.entry(call).or_default() += 1;
            }
            None if missed < 3 => missed += 1,
            None => break,
        }
    }
    for call in at_least {
        assert!(seen.contains_key(*call), "no {call} among {seen:?}");
    }
}

/// What the journal and SQLite do when nothing is wrong.
const USUAL: [&str; 7] = ["create", "fdatasync", "fsync", "pwrite", "rename", "unlink", "write"];
/// The same of the journal alone.
const JOURNAL: [&str; 6] = ["create", "fdatasync", "fsync", "rename", "unlink", "write"];

#[test]
fn a_call_that_fails_loses_nothing() {
    every_call("eio", &USUAL);
}

#[test]
fn a_full_disk_loses_nothing() {
    every_call("full", &JOURNAL);
}

#[test]
fn a_disk_that_fails_for_good_loses_nothing() {
    every_call("gone", &JOURNAL);
}

#[test]
fn death_before_a_call_loses_nothing() {
    every_call("die", &JOURNAL);
}

#[test]
fn death_in_the_middle_of_a_call_loses_nothing() {
    every_call("cut", &USUAL);
}

#[test]
fn a_power_cut_loses_nothing_that_was_synced() {
    every_call("power", &USUAL);
}

/// Set in the process that plays a stream.
const STREAM: &str = "CRASH_STREAM";

/// Delivers what waits for a stream into files that take two lines each.
fn deliver_stream(dir: &Dir, out: &Path) {
    let mut draft = Draft::default();
    draft.set("stream_url", RawValue::Str(format!("file://{}/cdr.jsonl?max_size=2K", out.display()))).unwrap();
    let config = Config { destinations: draft.finish(None).unwrap().destinations, delivery_batch: 5, ..common::config(None, dir.path()) };
    delivery::run(Delivery { only_what_is_there: Some(PATIENCE), ..Delivery::new(config, dir.clone()) }).unwrap();
}

/// Not a test of its own: a delivery into files. Without the environment it has nothing to do.
#[test]
fn stream_player() {
    let Some(place) = std::env::var_os(STREAM).map(PathBuf::from) else { return };
    deliver_stream(&Dir::open(&place.join("journal")).unwrap(), &place.join("out"));
    say("done");
}

#[test]
fn lines_of_a_stream_are_whole_and_there_once() {
    for mode in ["eio", "full", "gone", "die", "cut", "power"] {
        let mut seen = BTreeSet::new();
        for k in 1.. {
            let memory = Path::new("/dev/shm");
            let tmp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
            let (journal, out, hit) = (tmp.path().join("journal"), tmp.path().join("out"), tmp.path().join("hit"));
            std::fs::create_dir(&out).unwrap();
            let records: Vec<_> =
                (0..9u128).map(|n| Record { backend: Backend::Stream, id: n + 1, ..common::record(Kind::Cdr, &format!("call-{n}")) }).collect();
            let dir = Dir::open(&journal).unwrap();
            let mut w = Writer::new(&dir, 1, std::process::id(), JournalSync::Always, 1 << 20);
            records.iter().for_each(|r| w.append_record(SinkId::Stream, r).unwrap());
            drop((w, dir));
            let played = goes_wrong("stream_player", mode, k, &out, &hit).env(STREAM, tmp.path()).env("CRASH_LOSE", &out).output().unwrap();
            let call = std::fs::read_to_string(&hit).ok();
            let about = format!("{mode} {k} {call:?}: {}", String::from_utf8_lossy(&played.stdout));
            assert!(call.is_some() || about.contains("@done"), "{about}");
            deliver_stream(&Dir::open(&journal).unwrap(), &out);
            let mut found = Vec::new();
            for file in std::fs::read_dir(&out).unwrap() {
                let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
                assert!(text.len() <= 2048 && (text.is_empty() || text.ends_with('\n')), "{about}: {text}");
                let ids = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap_or_else(|e| panic!("{about}: {e}: {l}")));
                found.extend(ids.map(|l| l["callid"].as_str().unwrap().to_owned()));
            }
            found.sort();
            assert_eq!(found, (0..9).map(|n| format!("call-{n}")).collect::<Vec<_>>(), "{about}");
            let Some(call) = call else { break };
            seen.insert(call);
        }
        for call in ["create", "fdatasync", "fsync", "write"] {
            assert!(seen.contains(call), "{mode}: no {call} among {seen:?}");
        }
    }
}

/// Set in the process that puts dead letters back.
const REQUEUE: &str = "CRASH_REQUEUE";

/// Puts dead letters back, as accctl does; each makes a segment.
fn put_back(journal: &Path) -> std::io::Result<()> {
    Dir::open_to_read(journal).unwrap().put_back(SinkId::Db, 1, |_, _| {}).map(drop)
}

/// Not a test of its own: such a process. Without the environment it has nothing to do.
#[test]
fn requeue_player() {
    let Some(journal) = std::env::var_os(REQUEUE).map(PathBuf::from) else { return };
    let _ = put_back(&journal);
    say("done");
}

/// A run that is stopped anywhere and those behind it put each letter back once, also when what is back is delivered in between.
#[test]
fn dead_letters_are_put_back_once() {
    for mode in ["eio", "full", "gone", "die", "cut", "power"] {
        let mut seen = BTreeSet::new();
        for k in 1.. {
            let memory = Path::new("/dev/shm");
            let tmp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
            let (journal, hit) = (tmp.path().join("journal"), tmp.path().join("hit"));
            let dir = Dir::open(&journal).unwrap();
            let segment = SegmentName { boot: 1, rank: 1, pid: 1, seq: 0 };
            let mut dead = DeadLetters::new(&dir, SinkId::Db);
            for n in 0..3 {
                let payload = Payload::Record(Box::new(common::record(Kind::Cdr, &format!("call-{n}"))));
                dead.add(&Entry { segment, offset: 8 + n, end: 9 + n, wall: Moment::wall_now(), payload, parked: None }, "refused").unwrap();
            }
            drop((dead, dir));
            let mut found = Vec::new();
            let mut deliver = || {
                for segment in Dir::open_to_read(&journal).unwrap().segments().unwrap() {
                    let mut reader = Dir::open_to_read(&journal).unwrap().read(segment.name, 0).unwrap();
                    while let Item::Frame(f) = reader.read().unwrap() {
                        let Some(Ok(Payload::Record(record))) = f.decode() else { panic!("{segment:?}") };
                        found.push(String::from_utf8(record.core.callid).unwrap());
                    }
                    std::fs::remove_file(journal.join(segment.name.to_string())).unwrap();
                }
            };
            let played = goes_wrong("requeue_player", mode, k, &journal, &hit).env(REQUEUE, &journal).env("CRASH_LOSE", &journal).output().unwrap();
            let call = std::fs::read_to_string(&hit).ok();
            let about = format!("{mode} {k} {call:?}: {}", String::from_utf8_lossy(&played.stdout));
            assert!(call.is_some() || about.contains("@done"), "{about}");
            deliver();
            put_back(&journal).unwrap_or_else(|e| panic!("{about}: {e}"));
            deliver();
            found.sort();
            assert_eq!(found, ["call-0", "call-1", "call-2"], "{about}");
            let left: Vec<_> = std::fs::read_dir(&journal).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            assert!(left.iter().all(|name| !name.starts_with("requeueing") && !name.starts_with("dead")), "{about}: {left:?}");
            let Some(call) = call else { break };
            seen.insert(call);
        }
        for call in ["create", "fdatasync", "fsync", "rename", "unlink", "write"] {
            assert!(seen.contains(call), "{mode}: no {call} among {seen:?}");
        }
    }
}

/// Prints errors.
const SERVER: &NoServer = &NoServer { stderr: Some(0) };

/// A cluster that says when it hears that a call has its CDR.
struct Cluster;

impl Nodes for Cluster {
    fn node(&self) -> i32 {
        1
    }

    fn send(&self, _to: Option<i32>, _message: &[u8]) -> bool {
        say("settled");
        true
    }

    fn goes_on(&self, _named: &Named) -> bool {
        false
    }

    fn close(&self, _named: &Named) {}

    fn tell_again(&self, _named: &Named) {}
}

/// Not a test of its own: a worker that hands over two records, and two with the end of a call. Without the environment it has
/// nothing to do.
#[test]
fn worker_of_four_records() {
    let Some(journal) = std::env::var_os(WORK) else { return };
    // Without what a start of the server does: the worker alone makes calls.
    let dir = Dir::open_to_read(Path::new(&journal)).unwrap();
    host::process::log_to(SERVER);
    let config = Config { journal_sync: JournalSync::Always, ..common::config(None, dir.path()) };
    let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    let instance = worker::install(Instance { config, host: SERVER, journal: Some(dir), wake });
    let two = |n: &str| {
        let record = |backend, id: &str| Record { backend, ..common::record(Kind::Transaction, &format!("{id}-{n}")) };
        vec![record(Backend::Db, "db"), record(Backend::Aaa, "aaa")]
    };
    cluster::join(&Cluster);
    worker::emit(instance, &two("request"));
    worker::emit_end(instance, &CallEnd { call: 1, dialog: Vec::new(), records: two("end"), answered: Some(Moment::now()), duration_ms: Some(0) });
    say(&format!("lost {}", acc::stats::get(Counter::JournalLost)));
    say("done");
}

/// Set in the process of such a worker.
const WORK: &str = "CRASH_WORK";

#[test]
fn a_worker_writes_each_record_once_or_says_that_it_is_lost() {
    for mode in ["eio", "full", "gone", "stuck"] {
        let mut seen = BTreeSet::new();
        for k in 1.. {
            let tmp = tempfile::tempdir().unwrap();
            let (journal, hit) = (tmp.path().join("journal"), tmp.path().join("hit"));
            drop(Dir::open(&journal).unwrap());
            let out = goes_wrong("worker_of_four_records", mode, k, &journal, &hit).env(WORK, &journal).output().unwrap();
            let (told, lines) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            assert!(told.contains("@done"), "{mode} {k}: {told}{lines}");
            let dir = Dir::open_to_read(&journal).unwrap();
            let mut found = Vec::new();
            for segment in dir.segments().unwrap() {
                let mut reader = dir.read(segment.name, 0).unwrap();
                while let Item::Frame(f) = reader.read().unwrap() {
                    if let Some(Ok(Payload::Record(record))) = f.decode() {
                        found.push((record.backend, record.core.callid));
                    }
                }
            }
            // Other nodes close a call only when its CDR is kept here.
            let kept = found.iter().filter(|(_, id)| id.ends_with(b"-end")).count();
            assert_eq!(told.contains("@settled"), kept == 2, "{mode} {k}: {lines}");
            let once: BTreeSet<_> = found.iter().map(|(_, id)| id).collect();
            assert_eq!(once.len(), found.len(), "{mode} {k}: {lines}");
            // All are counted; a line a second says it.
            assert!(told.contains(&format!("@lost {}\n", 4 - found.len())), "{mode} {k}: {told}{lines}");
            for backend in [Backend::Db, Backend::Aaa] {
                let is_lost = found.iter().filter(|(b, _)| *b == backend).count() < 2;
                assert_eq!(lines.contains(&format!("a {} record could not be written", backend.name())), is_lost, "{mode} {k}: {lines}");
            }
            let Ok(call) = std::fs::read_to_string(&hit) else { break };
            assert!(call != "fdatasync" || lines.contains("cannot be synced"), "{mode} {k}: {lines}");
            seen.insert(call);
        }
        for call in ["create", "fdatasync", "fsync", "write"] {
            assert!(seen.contains(call), "no {call} among {seen:?}");
        }
    }
}
