//! What goes wrong for every record is one log line a second, and still counted record by record.
#![forbid(unsafe_code)]

mod common;

use std::path::PathBuf;
use std::process::Command;

use acc::accounting::clock::Moment;
use acc::accounting::context::{Change, Context, Taken};
use acc::accounting::marks::{Flags, Marks, Types};
use acc::accounting::record::{Backend, Kind, Record};
use acc::backend::{Fate, LocalFuture, Offer, RecordSender, one_by_one};
use acc::journal::{Dir, SinkId};
use acc::stats::{self, Counter};
use acc::worker::{self, Instance};
use common::host::NoServer;
use common::{Running, config, listen, record, wait_until, writer};

const SERVER: &NoServer = &NoServer { stderr: None };

/// Not a test: what the next one runs under a limit, which stands in for a full disk.
#[test]
fn worker_under_a_limit() {
    let Some(path) = std::env::var_os("ACC_TEST_FLOOD").map(PathBuf::from) else { return };
    listen();
    let dir = Dir::open(&path).unwrap();
    let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    let instance = worker::install(Instance { config: config(Some("sqlite:///nowhere"), &path), host: SERVER, journal: Some(dir), wake });

    // More than one frame under the limit on files.
    let large = |n: u32| Record { backend: Backend::Db, table: "x".repeat(30_000).into(), ..record(Kind::Cdr, &format!("large-{n}")) };
    (0..200).for_each(|n| worker::emit(instance, &[large(n)]));
    assert_eq!(stats::get(Counter::JournalLost), 200);
    let told = common::said(&["a db record could not be written to the journal in", "and is lost"]);
    assert!((1..=3).contains(&told.len()) && told[0].ends_with("(Call-ID large-0)"), "{told:#?}");

    let mut context = Context::new(Moment::now(), false);
    context.core.callid = b"state@large".to_vec();
    context.table = vec![b'x'; 30_000];
    context.marked = true;
    context.answered = Some(Moment::now());
    context.marks = Marks::default().add(Types::parse(b"db").unwrap(), Flags::parse(b"cdr").unwrap());
    let mut state = Vec::new();
    context.encode(&mut state);
    let mut head = Vec::new();
    context.facts.encode(&mut head);
    let change = Change { call: context.call_key(), was_open: true, facts: &context.facts, parts: &state[head.len()..], base: None, is_claim: false };
    (0..200).for_each(|_| assert_eq!(worker::call_changed(&change), Taken::Nothing));
    assert_eq!(stats::get(Counter::JournalLost), 400);
    let told = common::said(&["the state of a call could not be written"]);
    assert!((1..=3).contains(&told.len()) && told[0].ends_with("(Call-ID state@large)"), "{told:#?}");
}

#[test]
fn records_that_cannot_be_written_make_a_line_a_second() {
    let tmp = tempfile::tempdir().unwrap();
    let out = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 20; exec \"$0\" --exact worker_under_a_limit"])
        .arg(std::env::current_exe().unwrap())
        .env("ACC_TEST_FLOOD", tmp.path().join("journal"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(tmp.path().join("journal").is_dir());
}

/// Takes nothing.
struct Refuses;

impl RecordSender for Refuses {
    fn send_all<'a>(&'a mut self, records: &'a [Offer<'a>]) -> LocalFuture<'a, Vec<Fate>> {
        let fates = records.iter().map(|_| Fate::Dead("no such attribute".into())).collect();
        Box::pin(async move { fates })
    }
}

#[test]
fn dead_letters_make_a_line_a_second_with_their_sum() {
    listen();
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    let running = Running::start_with(&dir, |delivery| delivery.makers = vec![one_by_one(SinkId::Aaa, || Ok(Box::new(Refuses)))]);
    (0..1000).for_each(|n| w.append_record(SinkId::Aaa, &record(Kind::Cdr, &format!("dead-{n}"))).unwrap());
    // Also without another batch, and before the end.
    let told = || common::said(&["entries for aaa can never be delivered"]);
    let sum = || told().iter().map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>();
    wait_until("the lines", || sum() == 1000);
    assert!(told().len() <= 5, "{:#?}", told());
    // What comes right before the end is told at the end.
    (0..100).for_each(|n| w.append_record(SinkId::Aaa, &record(Kind::Cdr, &format!("last-{n}"))).unwrap());
    drop(w);
    running.stop();
    assert_eq!((sum(), stats::get(SinkId::Aaa.dead())), (1100, 1100));
}
