//! A writer whose file cannot grow: the limit on file sizes stands in for a full disk, because it
//! too lets a write succeed in part. And a journal that has reached its own limit.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::Command;

mod common;

use acc::accounting::record::Kind;
use acc::journal::limit::{Append, Limits, WhenFull};
use acc::journal::{Dir, End, Item, JournalSync, Payload, SinkId, Writer};
use acc::stats::{self, Counter, Snapshot};
use common::*;

fn line(length: usize) -> Payload {
    Payload::LogLine(vec![b'x'; length])
}

fn lengths(dir: &Dir) -> Vec<usize> {
    let mut out = Vec::new();
    for segment in dir.segments().unwrap() {
        let mut reader = dir.read(segment.name, 0).unwrap();
        loop {
            match reader.read().unwrap() {
                Item::Frame(f) => out.push(f.payload.len()),
                Item::End => break,
                other => panic!("{other:?}"),
            }
        }
    }
    out
}

/// Not a test: what the next one runs under a limit.
#[test]
fn writer_under_a_limit() {
    let Some(path) = std::env::var_os("ACC_TEST_FULL").map(PathBuf::from) else { return };
    let dir = Dir::open(&path).unwrap();
    let mut w = Writer::new(&dir, 1, std::process::id(), JournalSync::Os, 1 << 30);
    let mut want = Vec::new();
    while w.append(SinkId::Log, &line(1000)).is_ok() {
        want.push(1000);
        assert!(want.len() < 1000, "there is no limit");
    }
    assert!(want.len() > 1);
    // A reader of that moment may stand behind what is left of it: what comes goes to a new segment.
    w.append(SinkId::Log, &line(1)).unwrap();
    want.push(1);
    assert_eq!(dir.segments().unwrap().iter().map(|s| s.sealed).collect::<Vec<_>>(), [true, false]);
    // What does not even fit in a new one leaves none.
    for _ in 0..3 {
        assert!(w.append(SinkId::Log, &line(20_000)).is_err());
    }
    assert_eq!(dir.segments().unwrap().len(), 2);
    assert_eq!(lengths(&dir), want);
    assert_eq!(stats::get(SinkId::Log.accepted()), want.len() as u64);

    // Of several records those that were written whole stay, for they may be delivered already.
    let many = vec![(SinkId::Db, record(Kind::Manual, "many")); 100];
    let records = many.iter().map(|(sink, record)| (*sink, record));
    let kept = w.append_all(records.clone(), None).unwrap_err().kept;
    assert!((1..100).contains(&kept), "{kept}");
    assert_eq!(lengths(&dir).len(), want.len() + kept);
    // With the end of a call, it is all or nothing.
    assert_eq!(w.append_all(records, Some(End::seen(1))).unwrap_err().kept, 0);
    assert_eq!(lengths(&dir).len(), want.len() + kept);
    assert_eq!(stats::get(SinkId::Db.accepted()), kept as u64);
}

#[test]
fn a_failed_append_is_taken_back_and_later_ones_are_found() {
    let tmp = tempfile::tempdir().unwrap();
    let out = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 20; exec \"$0\" --exact writer_under_a_limit"])
        .arg(std::env::current_exe().unwrap())
        .env("ACC_TEST_FULL", tmp.path().join("journal"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(tmp.path().join("journal").is_dir());
}

fn size(dir: &Dir) -> u64 {
    dir.segments().unwrap().iter().map(|s| s.size).sum()
}

/// Not a test: what the next one runs, because counters belong to the whole process.
#[test]
fn the_oldest_are_dropped_in_a_process_of_its_own() {
    let Some(path) = std::env::var_os("ACC_TEST_OLDEST").map(PathBuf::from) else { return };
    const MIB: u64 = 1 << 20;
    let journal = path.join("journal");
    let url = format!("sqlite://{}", path.join("later/acc.sqlite").display());
    let limits = Limits { max_bytes: MIB, min_free: 0, when_full: WhenFull::DropOldest };
    let start = |dir: &Dir| {
        let mut config = config(Some(&url), &journal);
        config.limits = limits;
        Running::start(config, dir)
    };
    let sum = || {
        let all = Snapshot::take();
        assert_eq!(
            all.get(SinkId::Db.counters().accepted),
            all.get(SinkId::Db.counters().delivered) + all.get(SinkId::Db.counters().dead) + all.get(SinkId::Db.counters().pending)
        );
        all
    };
    let big = |n: u32| {
        let mut r = record(Kind::Cdr, &format!("call-{n:05}"));
        r.extras = vec![field("caller_uri", Some(&[b'x'; 4000]))];
        r
    };
    let dir = Dir::open(&journal).unwrap();
    let mut w = Writer::new(&dir, 1, std::process::id(), JournalSync::Os, limits.segment_max());
    let running = start(&dir);
    // A call in progress since the beginning, and five times as many records as there is room for.
    w.append_call(7, b"state").unwrap();
    for n in 0..1000 {
        w.append_record(SinkId::Db, &big(n)).unwrap();
        if n % 20 == 0 {
            wait_until("there is room", || {
                sum();
                size(&dir) < MIB - 100_000 && limits.admits(Append::Record)
            });
        }
    }
    wait_until("enough is dropped", || sum().get(Counter::JournalBytes) < MIB);
    assert!(sum().get(Counter::JournalDropped) >= 700, "{}", stats::get(Counter::JournalDropped));
    // The server is started again while the database is still away: it drops what is left over, too.
    running.stop();
    drop((w, dir));
    let [accepted, dropped] = [SinkId::Db.counters().accepted, SinkId::Db.counters().dead].map(stats::get);
    stats::set(SinkId::Db.counters().accepted, 0);
    stats::set(SinkId::Db.counters().dead, 0);
    let dir = Dir::open(&journal).unwrap();
    let mut w = Writer::new(&dir, 1, std::process::id(), JournalSync::Os, limits.segment_max());
    let running = start(&dir);
    wait_until("what is left over counts", || sum().get(SinkId::Db.counters().pending) == accepted - dropped);
    for n in 1000..1400 {
        w.append_record(SinkId::Db, &big(n)).unwrap();
        if n % 20 == 0 {
            wait_until("there is room", || size(&dir) < MIB - 100_000 && limits.admits(Append::Record));
        }
    }
    wait_until("enough is dropped", || sum().get(Counter::JournalBytes) < MIB);
    // The database comes and gets exactly the newest.
    std::fs::create_dir(path.join("later")).unwrap();
    wait_until("all is delivered", || sum().get(SinkId::Db.counters().pending) == 0);
    drop(w);
    running.stop();
    assert_eq!(stats::get(SinkId::Db.counters().accepted) + dropped, 1400);
    let delivered = stats::get(SinkId::Db.counters().delivered);
    assert!((100..250).contains(&delivered), "{delivered}");
    let rows = sqlite(&path.join("later/acc.sqlite"), "SELECT count(*), min(callid), max(callid) FROM acc").unwrap();
    assert_eq!(rows, format!("{delivered}\tcall-{:05}\tcall-01399\n", 1400 - delivered));
    let calls = acc::journal::calls::scan(&dir).unwrap().calls;
    assert_eq!(calls.into_iter().map(|(id, call)| (id, call.state)).collect::<Vec<_>>(), [(7, b"state".to_vec())], "the call in progress is kept");
}

#[test]
fn a_full_journal_keeps_the_newest() {
    let tmp = tempfile::tempdir().unwrap();
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_oldest_are_dropped_in_a_process_of_its_own"])
        .env("ACC_TEST_OLDEST", tmp.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(tmp.path().join("later/acc.sqlite").is_file());
}
