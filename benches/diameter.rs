//! Diameter: many requests in flight against one at a time, with freeDiameter near and far.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use acc::accounting::record::{Backend, Record};
use acc::backend::diameter::{Diameter, DiameterClient, DiameterSettings, Place};
use acc::backend::one_by_one;
use acc::delivery;
use acc::journal::{Dir, SinkId};
use acc::params::Draft;
use acc::stats;
use tokio::runtime::Runtime;

use super::common::diameter::{freediameter, peer};
use super::{rate, say, send_all, sql, table, way};

/// Added to the way there and back together.
const DELAY: Duration = Duration::from_millis(20);

/// Carries bytes one way, each when it is old enough.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (old, young) = channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        for (due, bytes) in young {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            // As the module does: the end that reads is this one now.
            let _ = rustix::net::sockopt::set_tcp_quickack(&from, true);
            if old.send((Instant::now() + delay, buffer[..n].to_vec())).is_err() {
                break;
            }
        }
    });
}

/// A network of `delay` before the server, half on the way there and half on the way back.
fn relay(server: u16, delay: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            carry(client.try_clone().unwrap(), server.try_clone().unwrap(), delay / 2);
            carry(server, client, delay / 2);
        }
    });
    port
}

fn record(n: usize) -> Record {
    let mut r = sql::record(n);
    r.backend = Backend::Aaa;
    r.extras = vec![];
    r
}

fn client(port: u16) -> DiameterClient {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("peers.conf");
    std::fs::write(&file, format!("Identity = \"sip1.acc.test\"; Realm = \"acc.test\";\n{}", peer(port))).unwrap();
    let settings = DiameterSettings::of(&Draft::default(), Backend::Aaa, Place::Url(file.display().to_string())).unwrap();
    DiameterClient::new(Diameter::open(&settings, &[]).unwrap())
}

/// Records a second, so many at once. The connection is there before.
fn send(port: u16, n: usize, at_once: usize) -> f64 {
    let records: Vec<_> = (0..=n).map(record).collect();
    Runtime::new().unwrap().block_on(async {
        let mut client = client(port);
        send_all(&mut client, &records[n..]).await;
        let begin = Instant::now();
        for batch in records[..n].chunks(at_once) {
            send_all(&mut client, batch).await;
        }
        let rate = rate(n, begin.elapsed());
        client.leave().await;
        rate
    })
}

/// Records a second from the journal, once the first ones are delivered.
fn deliver(port: u16, n: usize) -> f64 {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    sql::fill(&dir, SinkId::Aaa, n, record);
    let before = stats::get(SinkId::Aaa.delivered());
    let delivered = || (stats::get(SinkId::Aaa.delivered()) - before) as usize;
    std::thread::scope(|s| {
        let running = s.spawn(|| {
            let mut delivery = sql::delivery(sql::config(None, tmp.path()), &dir);
            delivery.makers.push(one_by_one(SinkId::Aaa, move || Ok(Box::new(client(port)))));
            delivery::run(delivery).unwrap();
        });
        while delivered() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (first, begin) = (delivered(), Instant::now());
        while delivered() < n {
            std::thread::sleep(Duration::from_millis(1));
        }
        let rate = rate(n - first, begin.elapsed());
        running.join().unwrap();
        rate
    })
}

pub fn run() {
    let Some(server) = freediameter("", &[("ACCT_FILE", "/dev/null")], None) else { return say("freeDiameter is not installed") };
    table("Diameter, freeDiameter on this machine, records a second", &["way", "one at a time", "pipelined client", "ratio", "journal to server", "ratio"]);
    way("loopback", 20_000, 5_000, |n, at_once| send(server.port, n, at_once), |n| deliver(server.port, n));
    let far = relay(server.port, DELAY);
    way(&format!("{} ms away", DELAY.as_millis()), 20_000, 200, |n, at_once| send(far, n, at_once), |n| deliver(far, n));
}
