//! Memory of a delivery process with the CDRs of a million calls, each with its state in progress; and with a hundred
//! thousand calls that are up and have interim records, whose clock goes faster than the machine's.

use std::io::{BufRead as _, BufReader};
#[cfg(feature = "nats")]
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use acc::accounting::clock::{Moment, Wall};
use acc::accounting::context::Context;
use acc::accounting::marks::{Flags, Marks, Types};
use acc::accounting::record::Core;
use acc::config::Config;
use acc::delivery;
use acc::journal::{Dir, JournalSync, SinkId, Writer};
use acc::params::{Draft, RawValue};
use acc::stats;
use sqlx::{Connection as _, SqliteConnection};

#[cfg(feature = "nats")]
use super::common::brokers::Nats;
use super::common::diameter::freediameter;
use super::common::servers::free_port;
use super::common::wait_until;
#[cfg(feature = "nats")]
use super::stream::Engine as _;
use super::{row, say, sql, stream, table};

const N: usize = 1_000_000;
/// Bytes of a call's state with a few values.
const STATE: usize = 300;
/// Longer than reading all segments takes.
const WATCH: Duration = Duration::from_secs(10);

/// A delivery process of its own, as the host forks it.
pub fn deliver(journal: &Path, url: &str) {
    let dir = Dir::open(journal).unwrap();
    let config = if url.starts_with("nats:") { stream::config(url, journal) } else { sql::config(Some(url), journal) };
    let mut delivery = sql::delivery(config, &dir);
    delivery.only_what_is_there = None;
    delivery::run(delivery).unwrap();
}

struct Deliverer(Child);

impl Drop for Deliverer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Deliverer {
    fn start(journal: &Path, url: &str) -> Deliverer {
        Deliverer::with(&["--deliver", &journal.display().to_string(), url])
    }

    fn with(args: &[&str]) -> Deliverer {
        let me = std::env::current_exe().unwrap();
        // As the module sets them in its delivery process.
        let threshold = delivery::HEAP_THRESHOLD.to_string();
        let set = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"].map(|name| (name, &threshold));
        Deliverer(Command::new(me).args(args).envs(set).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// The next line that it says.
    fn says(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line
    }

    /// Seconds of processor time, which Linux counts in hundredths.
    fn processor(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    /// A line of its status, in MB of 1024 · 1024 bytes.
    fn memory(&self, what: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(what)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() / 1024.0
    }

    /// Watches for a while: resident at the end, and at most.
    fn watch(&mut self, case: &str) {
        let end = Instant::now() + WATCH;
        while Instant::now() < end {
            assert!(matches!(self.0.try_wait(), Ok(None)), "the delivery process ended");
            std::thread::sleep(Duration::from_millis(100));
        }
        row(&[case.to_owned(), format!("{:.1}", self.memory("VmRSS")), format!("{:.1}", self.memory("VmHWM"))]);
    }
}

/// Calls that are up.
const UP: usize = 100_000;
/// Seconds between two interim records of a call.
const INTERVAL: i64 = 600;
/// How much faster than the machine's the clock of the delivery process goes.
const SPEED: i64 = 20;

/// The clock of interim records.
fn fast() -> Moment {
    static BEGIN: OnceLock<Moment> = OnceLock::new();
    let now = Moment::now();
    let ahead = (now.mono - BEGIN.get_or_init(|| now).mono) * (SPEED - 1);
    Moment { wall: Wall(now.wall.0 + ahead), mono: now.mono + ahead, boot: now.boot }
}

/// A delivery process that knows of so many calls with these flags, for a database or for Diameter: `url` is
/// `diameter:FILE` then.
pub fn deliver_up(journal: &Path, url: &str, flags: &str) {
    let dir = Dir::open(journal).unwrap();
    let (backend, base) = match url.strip_prefix("diameter:") {
        None => ("db", sql::config(Some(url), journal)),
        Some(file) => {
            let mut draft = Draft::default();
            draft.set("diameter_url", RawValue::Str(file.to_owned())).unwrap();
            draft.set("diameter_records", RawValue::Str("session".into())).unwrap();
            ("diameter", Config { destinations: draft.finish(None).unwrap().destinations, ..sql::config(None, journal) })
        }
    };
    let marks = Marks::default().add(Types::parse(backend.as_bytes()).unwrap(), Flags::parse(flags.as_bytes()).unwrap());
    // So that states and ends of calls are followed in either case, as they are where segments are removed.
    stats::expect_reports();
    // One segment, which is never finished: nothing has to be carried over, which would need memory for a moment.
    let mut worker = Writer::new(&dir, 1, std::process::id(), JournalSync::Batch, 1 << 30);
    let mut state = Vec::new();
    for n in 0..UP {
        let now = Moment::now();
        let mut ctx = Context::new(now, false);
        (ctx.marks, ctx.marked, ctx.answered) = (marks, true, Some(now));
        ctx.core = Core {
            method: b"INVITE".into(),
            from_tag: b"gK0c9d8f2a".into(),
            to_tag: b"as58f4d0e1".into(),
            callid: format!("{n:08x}-4f0a4f6d9f7b@192.0.2.17").into_bytes(),
            code: b"200".into(),
            reason: b"OK".into(),
        };
        ctx.set_extra(b"caller", Some(b"sip:+4930123456789@example.com"), usize::MAX);
        state.clear();
        ctx.encode(&mut state);
        worker.append_call(ctx.call_key(), &state).unwrap();
    }
    // From here on the clock is fast, and somebody looks.
    fast();
    say("filled");
    let config = Config { interim_interval: INTERVAL as u32, ..base };
    let mut delivery = sql::delivery(config, &dir);
    (delivery.only_what_is_there, delivery.clock) = (None, fast);
    delivery.owed = Some(|| 0);
    delivery::run(delivery).unwrap();
}

/// Memory once all calls are known and have had a record; processor time of the interval after that.
fn up(case: &str, url: &str, flags: &str, floor: Option<&(f64, f64)>) -> (f64, f64) {
    let tmp = tempfile::tempdir().unwrap();
    let mut child = Deliverer::with(&["--up", &tmp.path().join("journal").display().to_string(), url, flags]);
    assert_eq!(child.says(), "filled\n");
    let mut watch = |seconds: i64| {
        std::thread::sleep(Duration::from_millis((seconds * 1000 / SPEED) as u64));
        assert!(matches!(child.0.try_wait(), Ok(None)), "the delivery process ended");
        child.processor()
    };
    // The first records come in a fifth of an interval around the first one, then one an interval.
    let begin = watch(INTERVAL * 5 / 4);
    let took = watch(INTERVAL) - begin;
    let (resident, own) = (child.memory("VmRSS"), child.memory("RssAnon"));
    let records = (UP as f64, UP as f64 / INTERVAL as f64);
    let (more, each) = floor.map_or((0.0, 0.0), |(m, t)| (own - m, (took - t) / records.0));
    let cells = match floor {
        None => ["-".to_owned(), "-".to_owned(), "-".to_owned()],
        Some(_) => [format!("{more:.1}"), format!("{:.1}", each * 1e6), format!("{:.2} %", each * records.1 * 100.0)],
    };
    row(&[&[case.to_owned(), format!("{resident:.1}"), format!("{own:.1}")], &cells[..]].concat());
    (own, took)
}

pub fn run_up() {
    table(
        &format!("Delivery process, {UP} calls that are up, an interim record of each in {INTERVAL} s"),
        &["destination", "resident MB", "without code MB", "more than with no interim records MB", "µs of processor a record", "of a core"],
    );
    let tmp = tempfile::tempdir().unwrap();
    let sqlite = |name: &str| format!("sqlite://{}", tmp.path().join(name).display());
    let floor = up("SQLite, no interim records", &sqlite("none"), "cdr", None);
    up("SQLite", &sqlite("up"), "cdr|interim", Some(&floor));
    up("a database that refuses connections", &format!("mysql://acc:secret@127.0.0.1:{}/acc", free_port()), "cdr|interim", Some(&floor));
    let Some(server) = freediameter("", &[("ACCT_FILE", "/dev/null")], None) else { return say("freeDiameter is not installed") };
    let file = tmp.path().join("peers.conf");
    std::fs::write(&file, format!("Identity = \"sip1.acc.test\"; Realm = \"acc.test\";\n{}", server.line())).unwrap();
    let url = format!("diameter:{}", file.display());
    let floor = up("Diameter, no interim records", &url, "cdr", None);
    up("Diameter", &url, "cdr|interim", Some(&floor));
}

pub fn run() {
    table(&format!("Delivery process, CDRs of {N} calls in the journal"), &["destination", "resident MB", "most MB"]);
    #[cfg(feature = "nats")]
    streams(tempfile::tempdir().unwrap().path());
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    // Closed before the process opens it: a server that was started anew, with all of it to count.
    fill(&Dir::open(&journal).unwrap(), SinkId::Db);

    Deliverer::start(&journal, &format!("mysql://acc:secret@127.0.0.1:{}/acc", free_port())).watch("a database that refuses connections from the beginning");

    // It works at first, then somebody locks it.
    let database = tmp.path().join("acc.sqlite");
    let url = format!("sqlite://{}", database.display());
    let mut child = Deliverer::start(&journal, &url);
    wait_until("the first rows", || rows(&database) > 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut lock = runtime.block_on(SqliteConnection::connect(&url)).unwrap();
    wait_until("the lock", || runtime.block_on(sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut lock)).is_ok());
    let there = rows(&database);
    child.watch("a database that fails after the first rows");
    assert_eq!(rows(&database), there);
    assert!(there < N as i64 / 2, "{there} rows came before the lock");
}

/// The same with a broker.
#[cfg(feature = "nats")]
fn streams(journal: &Path) {
    fill(&Dir::open(journal).unwrap(), SinkId::Stream);
    let url = |port| format!("nats://127.0.0.1:{port}/acc?stream=ACC");
    Deliverer::start(journal, &url(free_port())).watch("a broker that refuses connections from the beginning");
    let Some(server) = Nats::start(&["-js"]) else { return say("nats-server is not installed") };
    let mut broker = stream::nats::JetStream::of(server);
    broker.clear();
    let mut child = Deliverer::start(journal, &url(broker.server.port));
    wait_until("the first records", || broker.stored() > 0);
    broker.server.pause();
    child.watch("a broker that freezes after the first records");
    broker.server.kill();
    broker.server.start_again();
    let port = broker.server.port;
    wait_until("its port", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    wait_until("what it has stored", || broker.stored() > 0);
    let there = broker.stored();
    assert!(there < N / 2, "{there} records came before it froze");
}

/// What two workers leave: one answers the calls, the other ends them.
fn fill(dir: &Dir, sink: SinkId) {
    let mut workers = [1, 2].map(|rank| Writer::new(dir, rank, std::process::id(), JournalSync::Batch, sql::SEGMENT));
    for i in 0..N {
        let call = (i as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        workers[0].append_call(call, &[b'x'; STATE]).unwrap();
        workers[1].append_end(call, &[(sink, sql::record(i))]).unwrap();
    }
}

fn rows(database: &Path) -> i64 {
    if !database.exists() {
        return 0;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let Ok(mut conn) = SqliteConnection::connect(&format!("sqlite://{}", database.display())).await else { return 0 };
        sqlx::query_scalar("SELECT count(*) FROM acc").fetch_one(&mut conn).await.unwrap_or(0)
    })
}
