//! Runs in the copy of the project that has the destination `toy`: what a script asks for, a parameter turns on and the
//! delivery process brings there.
#![forbid(unsafe_code)]

#[path = "common/mod.rs"]
mod common;

use acc::accounting::record::{Backend, Kind, Record};
use acc::config::Config;
use acc::journal::{Dir, JournalSync, SinkId, Writer};
use acc::params::{Draft, RawValue};
use acc::stats;
use common::*;

#[test]
fn the_toy_gets_its_lines() {
    assert_eq!(Backend::ALL.map(Backend::name).into_iter().filter(|n| *n == "toy").count(), 1);
    let tmp = tempfile::tempdir().unwrap();
    let (journal, file) = (tmp.path().join("journal"), tmp.path().join("lines"));
    let dir = Dir::open(&journal).unwrap();
    let mut writer = Writer::new(&dir, 1, std::process::id(), JournalSync::Os, 64 << 10);
    for n in 0..3 {
        let record = Record { backend: Backend::Toy, id: n + 1, ..record(Kind::Cdr, &format!("call-{n}")) };
        writer.append_record(SinkId::Toy, &record).unwrap();
    }
    let mut draft = Draft::default();
    draft.set("toy_file", RawValue::Str(file.to_str().unwrap().into())).unwrap();
    draft.set("extra_fields", RawValue::Str("toy: account".into())).unwrap();
    let config = Config { destinations: draft.finish(None).unwrap().destinations, ..config(None, &journal) };
    let running = Running::start(config, &dir);
    wait_until("the lines", || std::fs::read_to_string(&file).is_ok_and(|text| text == "call-0\ncall-1\ncall-2\n"));
    running.stop();
    assert!(stats::Counter::ALL.iter().any(|c| c.name() == "toy_delivered"));
}
