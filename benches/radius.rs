//! RADIUS: many requests in flight against one at a time, with FreeRADIUS near and far.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use acc::acc::clock::Moment;
use acc::acc::record::{Backend, Record};
use acc::backend::radius::client::{Options, RadiusClient};
use acc::backend::radius::{Radius, conf};
use acc::backend::{Fate, RecordSender, SinkId};
use acc::config::Aaa;
use acc::delivery;
use acc::journal::Dir;
use tokio::runtime::Runtime;

use super::common::freeradius::{FreeRadius, SECRET};
use super::common::wait_until;
use super::{median, rate, row, say, sql, table};

/// Added to the way there and back together.
const DELAY: Duration = Duration::from_millis(20);
/// Records at once, as the delivery gives them to the client.
const BATCH: usize = 100;
const ROUNDS: usize = 3;

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

/// A network of `DELAY` before the server: half on the way there, half on the way back.
fn relay(server: u16) -> u16 {
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
                        let _ = answers.send((Instant::now() + DELAY / 2, buffer[..n].to_vec(), client));
                    }
                });
                delayed(socket)
            });
            let _ = requests.send((Instant::now() + DELAY / 2, buffer[..n].to_vec(), server));
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
            let list: Vec<_> = batch.iter().map(|r| (r, Moment::wall_now())).collect();
            let fates = client.send_all(&list).await;
            assert!(fates.iter().all(|f| *f == Fate::Delivered), "{fates:?}");
        }
        rate(n, begin.elapsed())
    })
}

/// Records a second from the journal.
fn deliver(port: u16, n: usize) -> f64 {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    sql::fill(&dir, SinkId::Aaa, n, record);
    let mut config = sql::config(None, tmp.path());
    config.aaa = Some(Aaa { url: String::new(), service_type: None, retry: None });
    let mut delivery = sql::delivery(config, &dir);
    delivery.aaa = Some(Box::new(move || Ok(Box::new(RadiusClient::new(open(port), Options::default())?) as Box<dyn RecordSender>)));
    let begin = Instant::now();
    delivery::run(delivery).unwrap();
    rate(n, begin.elapsed())
}

fn measure(name: &str, port: u16, many: usize, few: usize) {
    let [mut pipelined, mut delivered, mut alone] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        pipelined.push(send(port, many, BATCH));
        delivered.push(deliver(port, many));
        alone.push(send(port, few, 1));
    }
    let ratios = |of: &[f64]| median(of.iter().zip(&alone).map(|(a, b)| a / b).collect());
    let (pipelined_ratio, delivered_ratio) = (ratios(&pipelined), ratios(&delivered));
    row(&[
        name.to_owned(),
        format!("{:.0}", median(alone.clone())),
        format!("{:.0}", median(pipelined)),
        format!("{pipelined_ratio:.1}"),
        format!("{:.0}", median(delivered)),
        format!("{delivered_ratio:.1}"),
    ]);
}

pub fn run() {
    let Some(server) = FreeRadius::start("", "") else { return say("FreeRADIUS is not installed") };
    wait_until("FreeRADIUS runs", || server.log().contains("Ready to process requests"));
    table("RADIUS, FreeRADIUS on this machine, records a second", &["way", "one at a time", "pipelined client", "ratio", "journal to server", "ratio"]);
    measure("loopback", server.port, 20_000, 5_000);
    measure(&format!("{} ms away", DELAY.as_millis()), relay(server.port), 20_000, 200);
}
