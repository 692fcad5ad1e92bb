//! A writer whose file cannot grow: the limit on file sizes stands in for a full disk, because it
//! too lets a write succeed in part.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::Command;

use acc::backend::{Payload, SinkId};
use acc::config::JournalSync;
use acc::journal::{Dir, Item, Writer};
use acc::stats;

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
    assert!(w.append(SinkId::Log, &line(1000)).is_err());
    // A smaller one still fits, right behind the last whole one.
    w.append(SinkId::Log, &line(1)).unwrap();
    want.push(1);
    assert_eq!(lengths(&dir), want);
    assert_eq!(stats::get(SinkId::Log.accepted()), want.len() as u64);
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
