//! accepted = delivered + dead + pending + parked at every instant, whoever is at work and however it ends.
#![forbid(unsafe_code)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use acc::accounting::record::Kind;
use acc::backend::log::syslog;
use acc::backend::{Fate, LocalFuture, Offer, RecordSender, one_by_one};
use acc::config::Config;
use acc::delivery;
use acc::journal::{Dir, Payload, SinkId};
use acc::stats::{self, Counter, Snapshot};
use common::*;

const WRITERS: usize = 3;
const EACH: usize = 400;

/// Takes most records, gives some up, and panics once.
struct Moody {
    calls: Arc<AtomicUsize>,
}

impl RecordSender for Moody {
    fn send_all<'a>(&'a mut self, records: &'a [Offer<'a>]) -> LocalFuture<'a, Vec<Fate>> {
        Box::pin(async move {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            assert!(call != 3, "a defect in the client");
            let fate = |n: usize| match (n + call) % 7 {
                0 => Fate::Retry("not now".into()),
                1 => Fate::Dead("never".into()),
                2 => Fate::Refused("not this one".into()),
                _ => Fate::Delivered,
            };
            (0..records.len()).map(fate).collect()
        })
    }
}

fn delivery(dir: &Dir, config: Config, calls: &Arc<AtomicUsize>, stop: &Arc<AtomicBool>) -> delivery::Delivery {
    let calls = calls.clone();
    delivery::Delivery {
        makers: vec![syslog::at(dir.path().join("no-syslog-here")), one_by_one(SinkId::Aaa, move || Ok(Box::new(Moody { calls })))],
        stop: stop.clone(),
        ..delivery::Delivery::new(config, dir.clone())
    }
}

/// Panics when the sum of a sink is wrong.
fn check(of: impl Fn(Counter) -> u64) {
    for sink in SinkId::ALL {
        let c = sink.counters();
        let [accepted, delivered, dead, pending, parked] = [c.accepted, c.delivered, c.dead, c.pending, c.parked].map(&of);
        assert_eq!(accepted, delivered + dead + pending + parked, "{}", sink.name());
    }
}

/// Tells the threads to end, also when the test fails.
struct End<'a>([&'a AtomicBool; 2]);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|flag| flag.store(true, Ordering::Relaxed));
    }
}

// One test: the counters belong to the whole process.
#[test]
fn the_sum_is_right_whenever_asked() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let nowhere = tmp.path().join("later");
    let url = format!("sqlite://{}", nowhere.join("acc.sqlite").display());
    // Left over from an earlier start, while the database is away.
    let earlier = Dir::open(&journal).unwrap();
    let mut w = writer(&earlier, 1);
    for n in 0..50 {
        w.append_record(SinkId::Db, &record(Kind::Cdr, &format!("old-{n}"))).unwrap();
    }
    drop((w, earlier));
    // A server that starts counts from 0.
    stats::set(SinkId::Db.counters().accepted, 0);

    let dir = Dir::open(&journal).unwrap();
    let (calls, stop, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    std::thread::scope(|s| {
        let config = config(Some(&url), &journal);
        let (dir, calls, stop, asked) = (&dir, &calls, &stop, &asked);
        let end = End([stop, asked]);
        // Again and again, as the host does after an unexpected end.
        s.spawn(move || {
            while delivery::run(delivery(dir, config.clone(), calls, stop)).is_err() {
                stats::add(Counter::DeliveryRestarts, 1);
            }
        });
        let asker = s.spawn(move || {
            let mut times = 0;
            while !asked.load(Ordering::Relaxed) {
                let all = Snapshot::take();
                check(|c| all.get(c));
                // As a host does, one counter after the other.
                check(stats::answer);
                times += 1;
            }
            times
        });
        wait_until("the left over ones are counted", || stats::get(SinkId::Db.counters().accepted) == 50);
        let workers: Vec<_> = (0..WRITERS)
            .map(|rank| {
                s.spawn(move || {
                    let mut w = writer(dir, rank as i32 + 2);
                    for n in 0..EACH {
                        for sink in [SinkId::Db, SinkId::Aaa] {
                            w.append_record(sink, &record(Kind::Cdr, &format!("{rank}-{n}"))).unwrap();
                        }
                        w.append(SinkId::Log, &Payload::LogLine(b"<29>line".to_vec())).unwrap();
                        if n % 50 == 0 {
                            std::thread::sleep(Duration::from_millis(20));
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        // Nothing can be delivered to the database and syslog; RADIUS ends, having panicked once.
        let total = (WRITERS * EACH) as u64;
        wait_until("RADIUS has what it takes", || stats::get(SinkId::Aaa.counters().pending) == 0);
        assert_eq!(stats::get(Counter::DeliveryRestarts), 1);
        assert_eq!(stats::get(SinkId::Db.counters().pending), 50 + total);
        assert_eq!(stats::get(SinkId::Log.counters().pending), total);
        wait_until("the oldest is getting old", || stats::get(SinkId::Db.counters().oldest_age) > 1 && stats::get(SinkId::Log.counters().oldest_age) > 1);
        // The database comes.
        std::fs::create_dir(&nowhere).unwrap();
        wait_until("the database has all", || stats::get(SinkId::Db.counters().pending) == 0);
        assert_eq!((stats::get(SinkId::Db.counters().accepted), stats::get(SinkId::Db.counters().delivered)), (50 + total, 50 + total));
        assert_eq!(stats::get(SinkId::Db.counters().oldest_age), 0);
        drop(end);
        assert!(asker.join().unwrap() > 100);
    });
    // What syslog has not got counts again at the next start, and RADIUS got no more than was accepted.
    assert_eq!(stats::get(SinkId::Log.counters().pending), (WRITERS * EACH) as u64);
    assert_eq!(
        stats::get(SinkId::Aaa.counters().delivered) + stats::get(SinkId::Aaa.counters().dead) + stats::get(SinkId::Aaa.counters().parked),
        stats::get(SinkId::Aaa.counters().accepted)
    );
}
