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

/// A journal of 1 MiB, and 24 writers of which each has a segment open.
struct Crowd {
    path: PathBuf,
    dir: Dir,
    limits: Limits,
    writers: Vec<Writer>,
    count: u32,
}

const MIB: u64 = 1 << 20;

impl Crowd {
    fn new(path: PathBuf, when_full: WhenFull) -> Crowd {
        let limits = Limits { max_bytes: MIB, min_free: 0, when_full };
        let dir = Dir::open(&path.join("journal")).unwrap();
        let writers = (0..24).map(|rank| Writer::new(&dir, rank, std::process::id(), JournalSync::Os, limits.segment_max())).collect();
        Crowd { path, dir, limits, writers, count: 0 }
    }

    fn start(&self) -> Running {
        let mut config = config(Some(&format!("sqlite://{}", self.database().display())), self.dir.path());
        config.limits = self.limits;
        config.delivery_retry_max = 1;
        Running::start(config, &self.dir)
    }

    fn database(&self) -> PathBuf {
        self.path.join("later/acc.sqlite")
    }

    fn database_comes(&self) {
        std::fs::create_dir(self.path.join("later")).unwrap();
    }

    /// As a worker does: false if there is no room.
    fn append(&mut self, writer: usize) -> bool {
        if !self.limits.admits(Append::Record) {
            return false;
        }
        let mut big = record(Kind::Cdr, &format!("call-{:05}", self.count));
        big.extras = vec![field("caller_uri", Some(&[b'x'; 2000]))];
        self.writers[writer].append_record(SinkId::Db, &big).unwrap();
        self.count += 1;
        true
    }

    /// Everybody appends until the journal is full.
    fn fill(&mut self) {
        wait_until("it is full", || !(0..24).all(|writer| self.append(writer)));
    }

    /// All that was accepted is in the database, once; or, if the oldest were dropped, the rest is.
    fn check(&self) {
        wait_until("all is delivered", || stats::get(SinkId::Db.counters().pending) == 0);
        let dropped = stats::get(SinkId::Db.dead());
        assert_eq!((dropped, stats::get(SinkId::Db.accepted())), (stats::get(Counter::JournalDropped), self.count.into()));
        let rows = sqlite(&self.database(), "SELECT count(*), count(DISTINCT callid) FROM acc").unwrap();
        let left = u64::from(self.count) - dropped;
        assert_eq!(rows, format!("{left}\t{left}\n"));
    }
}

/// Runs one of the tests below, which are marked by a variable, in a process of its own: counters belong to the whole process.
fn in_a_process_of_its_own(test: &str) {
    let tmp = tempfile::tempdir().unwrap();
    let out = Command::new(std::env::current_exe().unwrap()).args(["--exact", test]).env("ACC_TEST_CROWD", tmp.path()).output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(tmp.path().join("journal").is_dir());
}

fn of_its_own() -> Option<PathBuf> {
    std::env::var_os("ACC_TEST_CROWD").map(PathBuf::from)
}

/// Not a test, like the others of this kind below.
#[test]
fn many_writers_and_a_healthy_database() {
    let Some(path) = of_its_own() else { return };
    let mut crowd = Crowd::new(path, WhenFull::DropNew);
    crowd.database_comes();
    let running = crowd.start();
    // A call in progress since the beginning: its state goes with a segment that its writer has open.
    crowd.writers[7].append_call(7, b"state").unwrap();
    // Each may have 64 KiB open, which are 1.5 MiB.
    for round in 0..40 {
        for writer in 0..24 {
            assert!(crowd.append(writer), "full in round {round} of 40, and all is delivered");
        }
        wait_until("the round is delivered", || stats::get(SinkId::Db.counters().pending) == 0);
    }
    crowd.check();
    wait_until("what is delivered goes", || size(&crowd.dir) < MIB / 2);
    running.stop();
    let calls = acc::journal::calls::scan(&crowd.dir).unwrap().calls;
    assert_eq!(calls.into_iter().map(|(id, call)| (id, call.state)).collect::<Vec<_>>(), [(7, b"state".to_vec())], "the call in progress is kept");
}

#[test]
fn what_is_delivered_does_not_fill_the_journal() {
    in_a_process_of_its_own("many_writers_and_a_healthy_database");
}

#[test]
fn many_writers_and_an_outage() {
    let Some(path) = of_its_own() else { return };
    let mut crowd = Crowd::new(path, WhenFull::DropNew);
    let running = crowd.start();
    crowd.fill();
    // Those that come after another delivery process know what it has closed.
    running.stop();
    let running = crowd.start();
    assert!(!crowd.append(0));
    // No writer appends anything now.
    crowd.database_comes();
    wait_until("there is room again", || stats::full_since().is_none());
    crowd.check();
    // Removed files take no room, although their writers have them open.
    let removed = || -> Vec<u64> {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        let removed = fds.filter_map(|fd| {
            let fd = fd.ok()?.path();
            let name = std::fs::read_link(&fd).ok()?;
            name.to_string_lossy().ends_with(".seg (deleted)").then(|| std::fs::metadata(fd).unwrap().len())
        });
        removed.collect()
    };
    wait_until("what writers have open is removed", || {
        (0..24).for_each(|writer| assert!(crowd.append(writer)));
        crowd.check();
        std::thread::sleep(std::time::Duration::from_millis(500));
        !removed().is_empty()
    });
    assert_eq!(removed().iter().max(), Some(&0));
    for writer in 0..24 {
        assert!(crowd.append(writer));
    }
    crowd.check();
    running.stop();
}

#[test]
fn after_an_outage_there_is_room_although_no_writer_appends() {
    in_a_process_of_its_own("many_writers_and_an_outage");
}

#[test]
fn many_writers_and_only_one_goes_on() {
    let Some(path) = of_its_own() else { return };
    let mut crowd = Crowd::new(path, WhenFull::DropOldest);
    let running = crowd.start();
    // 23 writers have some 40 KiB open, and append nothing more; one goes on, for twice the room there is.
    for _ in 0..20 {
        (1..24).for_each(|writer| assert!(crowd.append(writer)));
    }
    let idle = crowd.count;
    for n in 0..1000 {
        wait_until("there is room", || crowd.append(0));
        if n % 20 == 0 {
            wait_until("the oldest go", || size(&crowd.dir) < MIB - 60_000);
        }
    }
    assert!(stats::get(Counter::JournalDropped) > u64::from(idle), "what the idle ones have open goes, too");
    crowd.database_comes();
    crowd.check();
    let oldest = sqlite(&crowd.database(), "SELECT min(callid) FROM acc").unwrap();
    assert!(oldest.trim_end() > format!("call-{idle:05}").as_str(), "{oldest}");
    running.stop();
}

#[test]
fn the_oldest_are_dropped_also_from_segments_that_are_open() {
    in_a_process_of_its_own("many_writers_and_only_one_goes_on");
}

#[test]
fn writers_that_append_while_their_segments_are_closed() {
    let Some(path) = of_its_own() else { return };
    let mut crowd = Crowd::new(path, WhenFull::DropNew);
    // In the time between two looks, about a half of what there is room for is written.
    crowd.database_comes();
    let running = crowd.start();
    let limits = crowd.limits;
    let writers: Vec<_> = std::mem::take(&mut crowd.writers);
    let threads: Vec<_> = writers
        .into_iter()
        .enumerate()
        .map(|(writer, mut w)| {
            std::thread::spawn(move || {
                let mut appended = 0;
                for n in 0..800 {
                    let mut small = record(Kind::Cdr, &format!("call-{writer}-{n}"));
                    small.extras = vec![field("caller_uri", Some(&[b'x'; 200]))];
                    if limits.admits(Append::Record) {
                        w.append_record(SinkId::Db, &small).unwrap();
                        appended += 1;
                    }
                    if n % 4 == 0 {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                }
                (appended, w)
            })
        })
        .collect();
    for thread in threads {
        let (appended, w) = thread.join().unwrap();
        crowd.count += appended;
        crowd.writers.push(w);
    }
    crowd.check();
    (0..24).for_each(|writer| assert!(crowd.append(writer)));
    let last = crowd.dir.segments().unwrap().iter().map(|s| s.name.seq).max().unwrap();
    assert!(last > 6, "hardly any segment was closed before it was full: {last}");
    running.stop();
}

#[test]
fn a_segment_that_is_closed_loses_and_repeats_nothing() {
    in_a_process_of_its_own("writers_that_append_while_their_segments_are_closed");
}
