//! Streams into files, on the way that records take: journal, delivery, file. The line of each kind is that of its golden
//! file and of the schema; a delivery that is killed again and again leaves every line there once and whole.
#![forbid(unsafe_code)]

#[path = "../common/mod.rs"]
mod common;
mod schema;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use acc::accounting::clock::Wall;
use acc::accounting::record::{Backend, Core, EndCause, Kind, Record, Times};
use acc::backend::stream::body::Format;
use acc::config::Config;
use acc::journal::{Dir, JournalSync, SinkId, Writer};
use acc::params::{Draft, RawValue};
use acc::stats;
use common::*;
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A record of each kind, as calls make them.
fn samples() -> [(&'static str, Record); 6] {
    let base = Record {
        backend: Backend::Stream,
        core: Core {
            method: b"INVITE".to_vec(),
            from_tag: b"a1".to_vec(),
            to_tag: b"b1".to_vec(),
            callid: b"1-1866@192.0.2.1".to_vec(),
            code: b"200".to_vec(),
            reason: b"OK".to_vec(),
        },
        time: Wall(1_795_305_877_260_000),
        times: Some(Times { created: Wall(1_795_305_874_110_000), setup_ms: 3150 }),
        extras: vec![],
        id: 0x3f1c_9a52_07de_4b68_8d10_55aa_61c4_e2f7,
        ..record(Kind::Transaction, "1")
    };
    let cdr = Record {
        kind: Kind::Cdr,
        duration_ms: Some(61_506),
        end: Some(EndCause::Caller),
        extras: vec![field("account", Some(b"0042")), field("note", None)],
        legs: vec![
            vec![field("src", Some(b"sip:alice@example.org")), field("dst", Some(b"sip:1001@example.org"))],
            vec![field("src", Some(b"sip:1001@example.org")), field("dst", None)],
        ],
        ..base.clone()
    };
    let missed = Record {
        kind: Kind::Missed,
        // Latin-1, a NUL, quotes, and what would end the line.
        core: Core { to_tag: vec![], code: b"486".to_vec(), reason: b"Busy \"Here\"\r\n".to_vec(), ..base.core.clone() },
        extras: vec![field("caller", Some(b"J\xfcrgen\0"))],
        ..base.clone()
    };
    let manual = Record {
        kind: Kind::Manual,
        in_dialog: true,
        core: Core { method: b"OPTIONS".to_vec(), code: vec![], reason: vec![], ..base.core.clone() },
        times: None,
        ..base.clone()
    };
    let up = |kind, duration_ms| Record { kind, duration_ms: Some(duration_ms), end: None, reported: true, ..cdr.clone() };
    let (start, interim) = (up(Kind::Start, 0), up(Kind::Interim, 60_213));
    [("transaction", base), ("missed", missed), ("manual", manual), ("start", start), ("interim", interim), ("cdr", cdr)]
}

fn line_of(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    Format::Json.write(record, "proxy1", &mut out);
    out
}

fn golden(kind: &str) -> PathBuf {
    root().join("tests/stream/golden").join(kind).with_extension("jsonl")
}

#[test]
fn the_line_of_each_kind_is_its_golden_file() {
    for (kind, record) in samples() {
        let want = fs::read(golden(kind)).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(String::from_utf8(line_of(&record)).unwrap(), String::from_utf8(want).unwrap(), "{kind}: -- --ignored writes it");
    }
}

#[test]
#[ignore = "writes the golden files"]
fn write_the_golden_files() {
    for (kind, record) in samples() {
        fs::write(golden(kind), line_of(&record)).unwrap();
    }
}

fn shipped() -> Value {
    serde_json::from_str(&fs::read_to_string(root().join("docs/reference/stream.schema.json")).unwrap()).unwrap()
}

#[test]
fn every_kind_is_as_the_schema_says() {
    let schema = shipped();
    for (kind, record) in samples() {
        let value: Value = serde_json::from_slice(&line_of(&record)).unwrap();
        schema::check(&schema, &value, "").unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(value["kind"], kind);
        for name in value.as_object().unwrap().keys() {
            let mut less = value.clone();
            less.as_object_mut().unwrap().remove(name);
            assert!(schema::check(&schema, &less, "").is_err(), "{name} may be left out");
            let mut other = value.clone();
            other[name] = json!([[]]);
            assert!(schema::check(&schema, &other, "").is_err(), "{name} may be anything");
        }
        let mut more = value.clone();
        more["unknown"] = json!(1);
        assert!(schema::check(&schema, &more, "").is_err());
        more = value.clone();
        more["extra"] = json!({"a": 1});
        assert!(schema::check(&schema, &more, "").is_err(), "an extra is a number");
    }
}

/// A configuration with a stream to this URL.
fn streaming(url: &str, journal: &Path) -> Config {
    let mut draft = Draft::default();
    draft.set("stream_url", RawValue::Str(url.into())).unwrap();
    draft.set("stream_node", RawValue::Str("proxy1".into())).unwrap();
    Config { destinations: draft.finish(None).unwrap().destinations, delivery_batch: 7, ..config(None, journal) }
}

/// A record for the stream whose Call-ID and identity are its number.
fn numbered(n: u32) -> Record {
    Record { backend: Backend::Stream, id: u128::from(n) + 1, ..record(Kind::Cdr, &format!("call-{n}")) }
}

/// Every file of a directory, by its name.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read_to_string(e.path()).unwrap())).collect()
}

/// How many lines there are.
fn lines(dir: &Path) -> usize {
    files(dir).values().map(|text| text.lines().count()).sum()
}

/// Every line is whole and there once; returns how many there are.
fn whole_and_once(dir: &Path, numbers: std::ops::Range<u32>) -> usize {
    let mut seen = BTreeMap::<String, usize>::new();
    for (name, text) in files(dir) {
        assert!(text.is_empty() || text.ends_with('\n'), "{name} ends with a torn line");
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e}: {line}"));
            *seen.entry(value["callid"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    let twice: Vec<_> = seen.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "there twice: {twice:?}");
    for n in numbers {
        assert!(seen.contains_key(&format!("call-{n}")), "call-{n} is lost");
    }
    seen.len()
}

/// One test: the counters belong to the whole process.
#[test]
fn records_go_from_the_journal_into_files() {
    listen();
    let tmp = tempfile::tempdir().unwrap();
    let (journal, out) = (tmp.path().join("journal"), tmp.path().join("out"));
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    let mut append = |from: u32, to: u32| (from..to).for_each(|n| w.append_record(SinkId::Stream, &numbered(n)).unwrap());
    append(0, 10);

    // The directory comes later: nothing is lost, and the cure is said.
    let url = format!("file://{}/cdr.jsonl?max_size=4K", out.display());
    let running = Running::start(streaming(&url, &journal), &dir);
    wait_until("an outage", || stats::get(SinkId::Stream.counters().outages) == 1);
    wait_until("its reason", || !said(&["stream", &out.display().to_string(), "it needs its directory"]).is_empty());
    fs::create_dir(&out).unwrap();
    wait_until("the records", || stats::get(SinkId::Stream.delivered()) == 10);
    wait_until("its end", || SinkId::Stream.state().outage_seconds().is_none());
    assert_eq!(whole_and_once(&out, 0..10), 10);
    let there = files(&out);
    assert!(there.contains_key("cdr.jsonl") && there.contains_key("cdr.1.jsonl"), "{:?}", there.keys());
    assert!(there.values().all(|text| text.len() <= 4096 && !text.is_empty()));
    for name in there.keys() {
        assert_eq!(fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o7777, 0o640, "{name}");
    }
    // Who takes the files away may do so at any time.
    let taken = tmp.path().join("taken");
    fs::create_dir(&taken).unwrap();
    for name in there.keys() {
        fs::rename(out.join(name), taken.join(name)).unwrap();
    }
    append(10, 13);
    wait_until("more records", || lines(&out) == 3);
    assert_eq!(whole_and_once(&out, 10..13), 3);
    assert_eq!(whole_and_once(&taken, 0..10), 10);
    running.stop();

    // Another process has the file: its lines stay alone.
    let mine = fs::File::open(out.join("cdr.jsonl")).unwrap();
    rustix::fs::flock(&mine, rustix::fs::FlockOperation::LockExclusive).unwrap();
    append(13, 14);
    let running = Running::start(streaming(&url, &journal), &dir);
    wait_until("what is wrong", || !said(&["another process writes it: give each server a file of its own"]).is_empty());
    drop(mine);
    wait_until("the record", || lines(&out) == 4);
    running.stop();

    // CSV with a time in its name.
    let csv = tmp.path().join("csv");
    fs::create_dir(&csv).unwrap();
    append(14, 16);
    let url = format!("file://{}/cdr-%Y%m%d.csv?columns=acc_id,node,callid,duration_ms,extra.caller_uri,extra.x_note&sync=os", csv.display());
    let before = chrono::Local::now();
    let running = Running::start(streaming(&url, &journal), &dir);
    wait_until("the rows", || lines(&csv) == 3);
    running.stop();
    let there = files(&csv);
    let today = [before, chrono::Local::now()].map(|t| t.format("cdr-%Y%m%d.csv").to_string());
    assert!(there.keys().all(|name| today.contains(name)), "{:?}", there.keys());
    let text: Vec<_> = there.values().flat_map(|t| t.lines()).collect();
    let row = |n: u32| format!("{:032x},proxy1,call-{n},1203,sip:a@example.com,", n + 1);
    assert_eq!(text, ["acc_id,node,callid,duration_ms,extra.caller_uri,extra.x_note".to_owned(), row(14), row(15)]);
}

/// Two streams of one server: what one waits for does not concern the other.
#[test]
fn each_stream_has_its_own_cursor() {
    listen();
    let tmp = tempfile::tempdir().unwrap();
    let (journal, one, two) = (tmp.path().join("journal"), tmp.path().join("one"), tmp.path().join("two"));
    fs::create_dir(&one).unwrap();
    let dir = Dir::open(&journal).unwrap();
    let mut draft = Draft::default();
    for (to, name) in [(&one, "stream2"), (&two, "stream3")] {
        draft.set("stream_url", RawValue::Str(format!("file://{}/cdr.jsonl?name={name}", to.display()))).unwrap();
    }
    let destinations = draft.finish(None).unwrap().destinations;
    let sinks: Vec<_> = destinations.sinks_of(Backend::Stream).collect();
    assert_eq!(sinks, [SinkId::Stream2, SinkId::Stream3]);
    let mut w = writer(&dir, 1);
    // They fill several segments of the journal.
    for n in 0..400 {
        let record = numbered(n);
        w.append_all(sinks.iter().map(|sink| (*sink, &record)), None).unwrap();
    }
    let running = Running::start(Config { destinations, delivery_batch: 7, ..config(None, &journal) }, &dir);
    wait_until("one is written", || stats::get(SinkId::Stream2.delivered()) == 400);
    wait_until("what the other waits for", || !said(&["stream3: ", "it needs its directory"]).is_empty());
    assert_eq!((whole_and_once(&one, 0..400), stats::get(SinkId::Stream3.delivered())), (400, 0));
    fs::create_dir(&two).unwrap();
    wait_until("the other is written", || stats::get(SinkId::Stream3.delivered()) == 400);
    assert_eq!((whole_and_once(&two, 0..400), files(&one)), (400, files(&two)));
    let mut text = files(&one).into_values();
    let lines: Vec<Value> = text.next().unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(
        lines.iter().map(|l| &l["callid"]).eq((0..400).map(|n| Value::from(format!("call-{n}"))).collect::<Vec<_>>().iter()),
        "they are not in their order"
    );
    running.stop();
    let there: Vec<_> = fs::read_dir(&journal).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    for cursor in ["cursor-stream2", "cursor-stream3"] {
        assert!(there.iter().any(|name| name.starts_with(cursor)), "{cursor}: {there:?}");
    }
}

/// Kills of the delivery.
const KILLS: u32 = 220;

/// Appends records, as a server does that runs meanwhile.
fn append(journal: &Path, numbers: std::ops::Range<u32>) {
    let dir = Dir::open(journal).unwrap();
    let mut w = Writer::new(&dir, 1, std::process::id(), JournalSync::Os, 64 << 10);
    for n in numbers {
        w.append_record(SinkId::Stream, &numbered(n)).unwrap();
    }
}

fn written(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().filter_map(|e| Some(e.ok()?.metadata().ok()?.len())).sum()
}

fn deliver(journal: &Path, url: &str) -> Command {
    let mut command = accctl_command();
    command.args(["deliver", "--set", &format!("stream_url={url}"), "--set", "delivery_batch=5", "--log-socket", "/nonexistent"]).arg(journal);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn killed(name: &str, options: &str, kills: u32) {
    let tmp = tempfile::tempdir().unwrap();
    let (journal, out) = (tmp.path().join("journal"), tmp.path().join("out"));
    fs::create_dir(&out).unwrap();
    let url = format!("file://{}/{name}?{options}", out.display());
    let (mut sent, mut in_the_middle, mut dice) = (0, 0, fastrand::Rng::with_seed(7));
    // A delivery that ends before its kill does not count. On a busy machine the kill comes late: then there is more to write.
    let mut burst = 40;
    while in_the_middle < kills {
        append(&journal, sent..sent + burst);
        sent += burst;
        let before = written(&out);
        let mut child = deliver(&journal, &url).spawn().unwrap();
        // Not before it has written, but at any moment from then on.
        wait_until("it writes", || written(&out) > before || child.try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_micros(dice.u64(0..4000)));
        child.kill().unwrap();
        match child.wait().unwrap().success() {
            true => burst += burst / 4,
            false => in_the_middle += 1,
        }
        if dice.u8(0..4) == 0 {
            // What a kill in the middle of a long write, or a loss of power, leaves at the end of the newest file.
            let newest = fs::read_dir(&out).unwrap().map(|e| e.unwrap()).max_by_key(|e| e.metadata().unwrap().modified().unwrap()).unwrap();
            let torn = line_of(&numbered(sent));
            let mut file = fs::OpenOptions::new().append(true).open(newest.path()).unwrap();
            file.write_all(&torn[..dice.usize(1..torn.len() - 1)]).unwrap();
        }
    }
    assert!(deliver(&journal, &url).args(["--set", "delivery_batch=500"]).status().unwrap().success());
    assert_eq!(whole_and_once(&out, 0..sent), sent as usize);
}

#[test]
fn a_delivery_that_is_killed_leaves_each_line_once_and_whole() {
    killed("cdr.jsonl", "", KILLS / 2);
    killed("cdr-%H%M%S.jsonl", "max_size=16K&sync=os", KILLS / 2);
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_kills() {
    killed("cdr.jsonl", "", 500);
    killed("cdr-%H%M%S.jsonl", "max_size=16K&sync=os", 500);
}
