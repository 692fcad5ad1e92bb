//! Memory of a delivery process with the CDRs of a million calls, each with its state in progress.

#[cfg(feature = "nats")]
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use acc::delivery;
use acc::journal::{Dir, JournalSync, SinkId, Writer};
use sqlx::{Connection as _, SqliteConnection};

#[cfg(feature = "nats")]
use super::common::brokers::Nats;
use super::common::servers::free_port;
use super::common::wait_until;
#[cfg(feature = "nats")]
use super::say;
#[cfg(feature = "nats")]
use super::stream::Engine as _;
use super::{row, sql, stream, table};

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
        let me = std::env::current_exe().unwrap();
        Deliverer(Command::new(me).arg("--deliver").arg(journal).arg(url).stdin(Stdio::null()).spawn().unwrap())
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
