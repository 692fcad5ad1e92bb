//! Calls that came back with no dialog, with `orphan_cdr` hold: their CDRs are kept as dead letters, and can be put back.
#![forbid(unsafe_code)]

mod common;

use std::path::Path;

use acc::accounting::clock::Moment;
use acc::accounting::context::CallEnd;
use acc::accounting::record::{Backend, Kind, Record};
use acc::journal::{DeadLetters, Dir, calls};
use acc::stats::{self, Counter};
use acc::worker::{self, Instance};
use common::host::NoServer;
use common::{accctl_command, config, record, writer};
use serde_json::{Value, json};

const SERVER: &NoServer = &NoServer { stderr: None };

/// A worker that found calls in the journal.
fn instance(dir: &Dir) -> Instance {
    let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    Instance { config: config(None, dir.path()), host: SERVER, journal: Some(dir.clone()), wake }
}

/// The end of such a call, for SQL and RADIUS.
fn end(call: u128, duration_ms: i64) -> CallEnd {
    let record = |backend| Record { backend, id: call, duration_ms: Some(duration_ms), ..record(Kind::Cdr, &format!("call-{call}")) };
    let records = vec![record(Backend::Db), record(Backend::Aaa)];
    CallEnd { call, dialog: Vec::new(), records, answered: Some(Moment::now()), duration_ms: Some(duration_ms) }
}

fn accctl(args: &[&str], journal: &Path) -> String {
    let out = accctl_command().args(args).arg(journal).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// The writer of a process stays with its journal, so this is one test.
#[test]
fn held_calls_are_put_back_each_once() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let instance = instance(&dir);
    let text = |sink: &str| std::fs::read_to_string(tmp.path().join(format!("dead-{sink}.jsonl"))).unwrap();

    // A call stays open if not all of its letters can be written.
    writer(&dir, 2).append_call(1, b"up").unwrap();
    let open = || calls::scan(&dir).unwrap().calls.into_keys().collect::<Vec<_>>();
    std::fs::create_dir(tmp.path().join("dead-aaa.jsonl")).unwrap();
    worker::hold(&instance, &end(1, 1000));
    assert_eq!((open(), stats::get(Counter::OrphansHeld)), (vec![1], 0));
    // The next start, which knows a later end.
    std::fs::remove_dir(tmp.path().join("dead-aaa.jsonl")).unwrap();
    worker::hold(&instance, &end(1, 1000));
    assert_eq!((open(), stats::get(Counter::OrphansHeld)), (vec![], 1));
    assert_eq!([text("db").lines().count(), text("aaa").lines().count()], [2, 1]);

    // They have no place: that of another entry would be passed over, or counted as dead.
    let segment = dir.segments().unwrap()[0].name;
    let letter = text("aaa");
    assert_eq!(DeadLetters::place(letter.as_bytes()), None);
    let of_segment = letter.replacen('{', &format!("{{\"segment\":\"{segment}\",\"offset\":0,"), 1);
    assert_eq!(DeadLetters::place(of_segment.as_bytes()), None);
    assert_eq!(DeadLetters::place(of_segment.replace("\"offset\":0", "\"offset\":8").as_bytes()), Some((segment, 8)));

    (2..=50).for_each(|call| worker::hold(&instance, &end(call, 1000)));
    // A crash before the call was closed.
    worker::hold(&instance, &end(7, 9000));
    for sink in ["db", "aaa"] {
        assert!(accctl(&["requeue", "--sink", sink], tmp.path()).starts_with("50 entries put back"));
    }
    let dump = accctl(&["dump", "--json"], tmp.path());
    let records = dump.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).filter(|l| !l["record"].is_null());
    let mut found: Vec<_> = records.map(|l| json!([l["sink"], l["record"]["callid"], l["record"]["duration_ms"]]).to_string()).collect();
    found.sort();
    let mut wanted: Vec<_> = ["aaa", "db"].iter().flat_map(|sink| (1..=50).map(move |n| json!([sink, format!("call-{n}"), 1000]).to_string())).collect();
    wanted.sort();
    assert_eq!(found, wanted);

    // A start that could not keep all letters, whose letters were put back before the next one.
    worker::hold(&instance, &end(7, 9000));
    for sink in ["db", "aaa"] {
        assert!(accctl(&["requeue", "--sink", sink], tmp.path()).starts_with("0 entries put back"));
    }
}
