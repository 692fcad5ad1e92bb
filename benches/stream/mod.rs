//! Streams: records a second from the journal into files, brokers and a web server, beside what a program reaches that has
//! the bodies at hand and the same client library.

#[cfg(feature = "amqp")]
mod amqp;
mod file;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
pub mod nats;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use acc::accounting::record::{Backend, Record};
use acc::backend::stream::body::Format;
use acc::config::Config;
use acc::delivery;
use acc::journal::{Dir, SinkId};
use acc::params::{Draft, RawValue};
use acc::stats;
use tokio::runtime::Runtime;

use super::{ROUNDS, common, median, rate, row, sql, table};

/// Records delivered, and of the loop that pipelines.
const N: usize = 20_000;
/// Those sent one at a time.
const SINGLE: usize = 1_000;

/// A record as a program has it that knows nothing of journals.
pub struct Body {
    pub id: String,
    pub json: Vec<u8>,
}

/// A server, or a directory, for a while.
pub trait Engine {
    /// What publishes, connected.
    type Client;

    fn name(&self) -> String;

    /// Of `stream_url`.
    fn url(&self) -> String;

    /// Forgets what it has.
    fn clear(&mut self);

    /// How many records it has since.
    fn stored(&self) -> usize;

    /// Connects.
    async fn client(&self) -> Self::Client;

    /// Publishes, so many at once, and waits for the server's word on each.
    async fn publish(&self, client: &Self::Client, bodies: &[Body], at_once: usize);

    /// How many at once when it is not one: as many as in the module.
    fn window(&self) -> usize;
}

/// Rounds up to now: brokers drop what has the identity of a record of an earlier one.
static ROUND: AtomicU32 = AtomicU32::new(0);

fn record(n: usize) -> Record {
    let mut r = sql::record(n);
    r.backend = Backend::Stream;
    r.id ^= u128::from(ROUND.load(Ordering::Relaxed)) << 64;
    r
}

fn bodies(n: usize) -> Vec<Body> {
    let body = |r: Record| {
        let mut json = Vec::new();
        Format::Json.write(&r, "proxy1", &mut json);
        json.pop();
        Body { id: format!("{:032x}", r.id), json }
    };
    (0..n).map(|n| body(record(n))).collect()
}

/// A configuration with a stream to this URL.
pub fn config(url: &str, journal: &Path) -> Config {
    let mut draft = Draft::default();
    draft.set("stream_url", RawValue::Str(url.into())).unwrap();
    draft.set("stream_node", RawValue::Str("proxy1".into())).unwrap();
    Config { destinations: draft.finish(None).unwrap().destinations, ..sql::config(None, journal) }
}

/// Records a second from the journal.
fn deliver(url: &str) -> f64 {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    sql::fill(&dir, SinkId::Stream, N, record);
    let delivered = || stats::get(SinkId::Stream.delivered());
    let before = delivered();
    let begin = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| delivery::run(sql::delivery(config(url, tmp.path()), &dir)).unwrap());
        while delivered() < before + N as u64 {
            std::thread::sleep(Duration::from_millis(1));
        }
        rate(N, begin.elapsed())
    })
}

/// Records a second that a simple program publishes, so many at once. It is connected before.
fn publish(engine: &impl Engine, n: usize, at_once: usize) -> f64 {
    let bodies = bodies(n);
    Runtime::new().unwrap().block_on(async {
        let client = engine.client().await;
        let begin = Instant::now();
        engine.publish(&client, &bodies, at_once).await;
        rate(n, begin.elapsed())
    })
}

/// A line of the table, once everything that was sent has been found there.
fn measure<E: Engine>(mut engine: E) {
    let [mut ours, mut loops, mut singles] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let mut turn = |n: usize, send: &dyn Fn(&E) -> f64, rates: &mut Vec<f64>| {
            ROUND.fetch_add(1, Ordering::Relaxed);
            engine.clear();
            rates.push(send(&engine));
            common::wait_until("every record is there", || engine.stored() == n);
        };
        turn(N, &|engine| deliver(&engine.url()), &mut ours);
        turn(N, &|engine| publish(engine, N, engine.window()), &mut loops);
        turn(SINGLE, &|engine| publish(engine, SINGLE, 1), &mut singles);
    }
    let ratios = |other: &[f64]| median(ours.iter().zip(other).map(|(a, b)| a / b).collect());
    let (to_single, to_loop) = (ratios(&singles), ratios(&loops));
    row(&[
        engine.name(),
        format!("{:.0}", median(ours.clone())),
        format!("{:.0}", median(loops.clone())),
        format!("{:.0}", median(singles.clone())),
        format!("{to_single:.1}"),
        format!("{:.0} %", to_loop * 100.0),
    ]);
}

pub fn run() {
    table(
        &format!("Streams, {N} records, records a second"),
        &["engine", "delivery", "bare loop, pipelined", "one at a time", "delivery ÷ one at a time", "delivery ÷ bare"],
    );
    measure(file::Files::new());
    #[cfg(feature = "nats")]
    nats::run();
    #[cfg(feature = "amqp")]
    amqp::run();
    #[cfg(feature = "kafka")]
    kafka::run();
    #[cfg(feature = "http")]
    http::run();
}
