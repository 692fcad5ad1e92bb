//! Every sink has a queue of its own: dead ones delay nobody, and every record is accounted for.
#![forbid(unsafe_code)]

mod common;

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acc::accounting::record::Kind;
use acc::backend::log::syslog;
use acc::backend::radius::Aaa;
use acc::backend::{Fate, LocalFuture, Offer, RecordSender, one_by_one};
use acc::journal::{Dir, Payload, SinkId};
use acc::stats;
use common::*;

/// Takes records as its list of answers says, then all.
struct Sender {
    answers: Vec<Fate>,
    got: Arc<Mutex<Vec<String>>>,
}

impl RecordSender for Sender {
    fn send_all<'a>(&'a mut self, records: &'a [Offer<'a>]) -> LocalFuture<'a, Vec<Fate>> {
        let fates = records
            .iter()
            .map(|Offer { record: r, .. }| {
                let fate = if self.answers.is_empty() { Fate::Delivered } else { self.answers.remove(0) };
                if fate == Fate::Delivered {
                    self.got.lock().unwrap().push(String::from_utf8(r.core.callid.clone()).unwrap());
                }
                fate
            })
            .collect();
        Box::pin(async move { fates })
    }
}

/// accepted = delivered + dead + pending, for each sink.
fn check(sink: SinkId, delivered: u64, dead: u64, pending: u64) {
    assert_eq!((stats::get(sink.delivered()), stats::get(sink.dead())), (delivered, dead), "{}", sink.name());
    assert_eq!(stats::get(sink.accepted()), delivered + dead + pending, "{}", sink.name());
}

// One test: the counters belong to the whole process.
#[test]
fn sinks_do_not_wait_for_each_other_and_nothing_is_unaccounted_for() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    let got = Arc::new(Mutex::new(Vec::new()));
    let socket = tmp.path().join("log");
    let daemon = UnixDatagram::bind(&socket).unwrap();
    daemon.set_read_timeout(Some(PATIENCE)).unwrap();
    let wake = Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK).unwrap());

    let start = |dir: &Dir, url: String, answers: Vec<Fate>| {
        let (got, socket, wake, journal) = (got.clone(), socket.clone(), wake.try_clone().unwrap(), journal.clone());
        Running::start_with(dir, move |delivery| {
            let config = config(Some(&url), &journal);
            delivery.config = config;
            delivery.makers = vec![syslog::at(socket)];
            delivery.wake = Some(wake);
            delivery.makers.push(one_by_one(SinkId::Aaa, move || Ok(Box::new(Sender { answers, got }))));
        })
    };
    // The database's directory does not exist, and RADIUS refuses the first twice and one for ever.
    let retry = || Fate::Retry("no answer from any server".into());
    let dead_url = format!("sqlite://{}", tmp.path().join("nowhere/acc.sqlite").display());
    let running = start(&dir, dead_url.clone(), vec![retry(), retry(), Fate::Dead("no such attribute".into())]);
    for n in 0..3 {
        w.append_record(SinkId::Db, &record(Kind::Cdr, &format!("db-{n}"))).unwrap();
        w.append_record(SinkId::Aaa, &record(Kind::Cdr, &format!("aaa-{n}"))).unwrap();
        w.append(SinkId::Log, &Payload::LogLine(format!("<29>line {n}").into_bytes())).unwrap();
        rustix::io::write(&*wake, &1u64.to_ne_bytes()).unwrap();
    }
    let mut buffer = [0; 100];
    for n in 0..3 {
        let length = daemon.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], format!("<29>line {n}").as_bytes());
    }
    wait_until("RADIUS has its records", || got.lock().unwrap().len() == 2);
    wait_until("the counters", || stats::get(SinkId::Aaa.dead()) == 1 && stats::get(SinkId::Log.delivered()) == 3);
    check(SinkId::Aaa, 2, 1, 0);
    check(SinkId::Log, 3, 0, 0);
    check(SinkId::Db, 0, 0, 3);
    assert_eq!(stats::get(SinkId::Db.counters().outages), 1);
    assert_eq!(stats::get(SinkId::Aaa.counters().outages), 1);
    wait_until("size of the journal", || stats::get(stats::Counter::JournalBytes) > 0);
    running.stop();
    drop(w);
    assert_eq!(segments(&journal), 1, "what the database has not got is kept");

    // A new start: nothing goes to RADIUS or syslog again, the database gets its records.
    drop(dir);
    let dir = Dir::open(&journal).unwrap();
    let database = tmp.path().join("acc.sqlite");
    let running = start(&dir, format!("sqlite://{}", database.display()), vec![]);
    wait_until("the segment is removed", || segments(&journal) == 0);
    running.stop();
    assert_eq!(got.lock().unwrap().len(), 2);
    daemon.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(daemon.recv(&mut buffer).is_err(), "a line was sent twice");
    // Accepted by the earlier start and again, as pending, by this one.
    assert_eq!((stats::get(SinkId::Db.accepted()), stats::get(SinkId::Db.delivered())), (6, 3));
    assert_eq!(stats::get(SinkId::Aaa.accepted()), 3);
    let dead = std::fs::read_to_string(journal.join("dead-aaa.jsonl")).unwrap();
    assert_eq!(dead.lines().count(), 1);
    assert!(dead.contains("no such attribute"));

    // Without aaa_url its records do not hold the journal for ever, and are not dropped either.
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Aaa, &record(Kind::Cdr, "late")).unwrap();
    drop(w);
    let running = Running::start(config(None, &journal), &dir);
    wait_until("the segment is removed", || segments(&journal) == 0);
    running.stop();
    let dead = std::fs::read_to_string(journal.join("dead-aaa.jsonl")).unwrap();
    assert!(dead.lines().nth(1).unwrap().contains("aaa_url is no longer set"));
}

/// The file was there when the server checked it.
#[test]
fn aaa_url_without_its_file_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut config = config(None, tmp.path());
    let url = format!("radius:{}", tmp.path().join("gone").display());
    config.destinations.set(SinkId::Aaa, Aaa { url, service_type: None, retry: None });
    let delivery = acc::delivery::Delivery::new(config, dir);
    assert!(acc::delivery::run(delivery).unwrap_err().to_string().starts_with("aaa_url cannot be used"));
}
