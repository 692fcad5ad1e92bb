//! RADIUS: many requests in flight against one at a time, with FreeRADIUS near and far; and with
//! records that it never acknowledges among the others.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use acc::accounting::record::{Backend, Record};
use acc::backend::one_by_one;
use acc::backend::radius::client::{Options, RadiusClient};
use acc::backend::radius::{Aaa, Radius, conf};
use acc::delivery;
use acc::journal::{Dir, SinkId};
use acc::stats;
use tokio::runtime::Runtime;

use super::common::freeradius::{FreeRadius, SECRET};
use super::common::wait_until;
use super::{ROUNDS, median, rate, row, say, send_all, sql, table, way};

/// Added to the way there and back together.
const DELAY: Duration = Duration::from_millis(20);

/// Sends each datagram on when it is old enough.
fn delayed(socket: UdpSocket) -> Sender<(Instant, Vec<u8>, SocketAddr)> {
    let (to, from) = channel::<(Instant, Vec<u8>, SocketAddr)>();
    std::thread::spawn(move || {
        for (due, datagram, to) in from {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let _ = socket.send_to(&datagram, to);
        }
    });
    to
}

/// A network of `delay` before the server, half on the way there and half on the way back, which
/// loses every request that is `lost`.
fn relay(server: u16, delay: Duration, lost: fn(&[u8]) -> bool) -> u16 {
    let front = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = front.local_addr().unwrap().port();
    let server = SocketAddr::from(([127, 0, 0, 1], server));
    std::thread::spawn(move || {
        let mut clients = HashMap::new();
        let answers = delayed(front.try_clone().unwrap());
        let mut buffer = [0; 4096];
        while let Ok((n, client)) = front.recv_from(&mut buffer) {
            let requests = clients.entry(client).or_insert_with(|| {
                let back = UdpSocket::bind("127.0.0.1:0").unwrap();
                let (socket, answers) = (back.try_clone().unwrap(), answers.clone());
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok((n, _)) = back.recv_from(&mut buffer) {
                        let _ = answers.send((Instant::now() + delay / 2, buffer[..n].to_vec(), client));
                    }
                });
                delayed(socket)
            });
            if !lost(&buffer[..n]) {
                let _ = requests.send((Instant::now() + delay / 2, buffer[..n].to_vec(), server));
            }
        }
    });
    port
}

fn record(n: usize) -> Record {
    let mut r = sql::record(n);
    r.backend = Backend::Aaa;
    r.extras = vec![];
    r.id = n as u128;
    r
}

fn open(port: u16) -> Radius {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("client.conf");
    std::fs::write(&file, format!("acctserver 127.0.0.1:{port}:{SECRET}\nradius_timeout 1\nradius_retries 5\n")).unwrap();
    let mut radius = Radius::open(&Aaa { url: format!("radius:{}", file.display()), service_type: None, retry: None }, &[]).unwrap();
    let conf: &mut conf::Conf = &mut radius.conf;
    conf.deadtime = Duration::ZERO;
    radius
}

/// Records a second, so many at once.
fn send(port: u16, n: usize, at_once: usize) -> f64 {
    let runtime = Runtime::new().unwrap();
    let records: Vec<_> = (0..n).map(record).collect();
    runtime.block_on(async {
        let mut client = RadiusClient::new(open(port), Options::default()).unwrap();
        let begin = Instant::now();
        for batch in records.chunks(at_once) {
            send_all(&mut client, batch).await;
        }
        rate(n, begin.elapsed())
    })
}

/// Records a second from the journal.
fn deliver(port: u16, n: usize) -> f64 {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    sql::fill(&dir, SinkId::Aaa, n, record);
    let config = sql::config(None, tmp.path());
    let mut delivery = sql::delivery(config, &dir);
    delivery.makers.push(one_by_one(SinkId::Aaa, move || Ok(Box::new(RadiusClient::new(open(port), Options::default())?))));
    let begin = Instant::now();
    delivery::run(delivery).unwrap();
    rate(n, begin.elapsed())
}

/// One in a hundred is the request of a record that the server could not store, so it never answers.
fn is_refused(request: &[u8]) -> bool {
    let at = request.windows(BEHIND_NUMBER.len()).position(|w| w == BEHIND_NUMBER);
    let number = at.and_then(|at| std::str::from_utf8(request.get(at.checked_sub(8)?..at)?).ok());
    number.and_then(|n| usize::from_str_radix(n, 16).ok()).is_some_and(|n| n % 100 == 50)
}

/// In a Call-ID, behind the eight digits of the record's number.
const BEHIND_NUMBER: &[u8] = b"-4f0a4f6d9f7b@";

/// Records a second until `due` of `n` are acknowledged.
fn deliver_most(port: u16, n: usize, due: usize) -> f64 {
    let delivered = || stats::get(SinkId::Aaa.delivered());
    let before = delivered();
    let begin = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| deliver(port, n));
        while delivered() < before + due as u64 {
            std::thread::sleep(Duration::from_millis(1));
        }
        rate(due, begin.elapsed())
    })
}

fn measure_refused(server: u16, n: usize) {
    let (whole, lossy) = (relay(server, Duration::ZERO, |_| false), relay(server, Duration::ZERO, is_refused));
    let rounds: Vec<_> = (0..ROUNDS).map(|_| (deliver_most(whole, n, n), deliver_most(lossy, n, n - n / 100))).collect();
    let of = |what: fn(&(f64, f64)) -> f64| median(rounds.iter().map(what).collect());
    row(&[format!("{:.0}", of(|r| r.0)), format!("{:.0}", of(|r| r.1)), format!("{:.2}", of(|r| r.1 / r.0))]);
}

pub fn run() {
    let Some(server) = FreeRadius::start("", "") else { return say("FreeRADIUS is not installed") };
    wait_until("FreeRADIUS runs", || server.log().contains("Ready to process requests"));
    table("RADIUS, FreeRADIUS on this machine, records a second", &["way", "one at a time", "pipelined client", "ratio", "journal to server", "ratio"]);
    way("loopback", 20_000, 5_000, |n, at_once| send(server.port, n, at_once), |n| deliver(server.port, n));
    let far = relay(server.port, DELAY, |_| false);
    way(&format!("{} ms away", DELAY.as_millis()), 20_000, 200, |n, at_once| send(far, n, at_once), |n| deliver(far, n));
    table("RADIUS, the others of 20 000 records, a second", &["all are acknowledged", "1 in 100 never is", "ratio"]);
    measure_refused(server.port, 20_000);
}
