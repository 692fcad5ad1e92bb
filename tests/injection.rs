//! What callers send is a value and nothing else: in every column, line, packet and object, byte by
//! byte as documented. On the real databases, a real FreeRADIUS, a syslog socket, and `accctl`.
#![forbid(unsafe_code)]

mod common;

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use acc::accounting::record::{Backend, Kind, Record};
use acc::backend::event::EventValue;
use acc::backend::log::syslog::{Sent, SyslogSocket};
use acc::backend::radius::client::{Options, RadiusClient};
use acc::backend::radius::{Aaa, Radius};
use acc::backend::{Fate, Offer, event, log as line};
use acc::journal::{Dir, SinkId, json};
use common::freeradius::{FreeRadius, SECRET};
use common::servers::{PASSWORD, Server, mariadb, postgres};
use common::*;

/// A value, and what becomes of it where text must be UTF-8 (MariaDB, PostgreSQL).
struct Case {
    bytes: &'static [u8],
    text: &'static str,
}

/// As they are.
const fn plain(text: &'static str) -> Case {
    Case { bytes: text.as_bytes(), text }
}

const CASES: &[Case] = &[
    plain("'; DROP TABLE acc; --"),
    plain("\" OR \"\"=\""),
    plain("\\"),
    plain("\\'; DROP TABLE acc; -- "),
    plain("%s%n%x%%"),
    plain("$1 ? :name @x $acc_extra(a)"),
    plain("/* */ # ` [x] {\"a\":1}"),
    plain("a\nb\r\n<29>ACC: call ended: x"),
    plain("ACC: call ended: created=1;x_caller="),
    plain("\u{1b}[2J\t\u{7}\u{7f}"),
    plain("é中\u{202e}\u{0}after"),
    plain("a\u{9b}31m\u{85}ACC: x"),
    Case { bytes: b"a\x9b31m", text: "a\\x9b31m" },
    Case { bytes: b"\xff\xfe\xc3(\x80", text: "\\xff\\xfe\\xc3(\\x80" },
    Case { bytes: b"\xe2\x28\xa1'", text: "\\xe2(\\xa1'" },
    plain(""),
    plain("NULL"),
];

/// A record with the value in every place that a caller or a called party can write to.
fn nasty(n: usize, kind: Kind) -> Record {
    let bytes = CASES[n].bytes;
    // Each is an event of its own.
    let mut r = record(kind, &n.to_string());
    r.core.callid = [format!("{n}-").as_bytes(), bytes].concat();
    (r.core.from_tag, r.core.to_tag, r.core.reason) = (bytes.to_vec(), bytes.to_vec(), bytes.to_vec());
    r.extras = vec![field("caller_uri", Some(bytes)), field("x_note", Some(bytes))];
    r.legs = vec![vec![field("leg_src", Some(bytes)), field("leg_dst", Some(bytes))]];
    r
}

fn hex(bytes: &[u8]) -> String {
    json::hex(bytes)
}

/// The rows of table acc in hexadecimal digits, in order, and no other table's.
fn expect_rows(rows: &str, text: impl Fn(&Case) -> Vec<u8>) {
    let mut want: Vec<String> = (0..CASES.len())
        .map(|n| {
            let value = text(&CASES[n]);
            let callid = [format!("{n}-").as_bytes(), &value].concat();
            let [value, callid] = [hex(&value), hex(&callid)];
            // The leg stands in the same row.
            format!("{callid}|{value}|{value}|{value}|{value}|{value}|{value}")
        })
        .collect();
    want.sort();
    let mut got: Vec<_> = rows.lines().map(|l| l.trim().to_lowercase()).collect();
    got.sort();
    assert_eq!(got, want);
}

const VALUES: [&str; 7] = ["callid", "from_tag", "to_tag", "sip_reason", "caller_uri", "x_note", "leg_src"];

/// Delivers all cases to the database at `url`.
fn deliver(url: &str, done: impl FnMut() -> bool) {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    for n in 0..CASES.len() {
        w.append_record(SinkId::Db, &nasty(n, Kind::Cdr)).unwrap();
    }
    let running = Running::start(config(Some(url), &journal), &dir);
    wait_until("the rows", done);
    running.stop();
    assert!(!journal.join("dead-db.jsonl").exists());
}

/// A server and the URL that leads to it.
struct Reached {
    server: Server,
    url: String,
}

impl Reached {
    /// Delivers, and reads the rows back as `hex_of` a column.
    fn rows(&self, hex_of: fn(&str) -> String) -> String {
        let texts = ["from_tag", "to_tag", "callid", "sip_code", "sip_reason", "method", "caller_uri", "x_note", "leg_src", "leg_dst"];
        let texts = texts.map(|c| format!("{c} VARCHAR(255)")).join(", ");
        let numbers = "duration INT, ms_duration INT, setuptime INT, time TIMESTAMP NULL, created TIMESTAMP NULL";
        self.server.sql(&format!("CREATE TABLE acc ({texts}, {numbers}); CREATE TABLE witness (n INT)"));
        deliver(&self.url, || self.server.count("acc") >= CASES.len());
        assert_eq!(self.server.sql("SELECT count(*) FROM witness").trim(), "0");
        let list = VALUES.map(hex_of).join(", '|', ");
        self.server.sql(&format!("SELECT CONCAT({list}) FROM acc"))
    }
}

#[test]
fn sqlite_stores_the_bytes() {
    let tmp = tempfile::tempdir().unwrap();
    let database = tmp.path().join("acc.sqlite");
    // No table yet: no rows yet.
    let count = || sqlite(&database, "SELECT count(*) FROM acc").map_or(0, |n| n.trim().parse().unwrap());
    deliver(&format!("sqlite://{}", database.display()), || count() >= CASES.len());
    let list = VALUES.map(|c| format!("hex(CAST({c} AS BLOB))")).join(" || '|' || ");
    expect_rows(&sqlite(&database, &format!("SELECT {list} FROM acc")).unwrap(), |c| c.bytes.to_vec());
}

#[test]
fn mariadb_stores_the_text() {
    let Some(server) = mariadb() else { return skip("MariaDB") };
    let server = Reached { url: format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", server.port), server };
    expect_rows(&server.rows(|c| format!("HEX({c})")), |c| c.text.as_bytes().to_vec());
}

#[test]
fn postgresql_stores_the_text() {
    let Some(server) = postgres() else { return skip("PostgreSQL") };
    let server = Reached { url: format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/postgres", server.port), server };
    // It has no NUL in text.
    expect_rows(&server.rows(|c| format!("encode(convert_to({c}, 'UTF8'), 'hex')")), |c| c.text.replace('\0', "\\x00").into_bytes());
}

/// The documented form in a log line: control characters as `\xNN`.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    // Beyond ASCII: CSI and NEL, in UTF-8 and as in 8-bit sets, and one that turns the order of letters.
    let beyond = ["\u{85}".as_bytes(), "\u{9b}".as_bytes(), "\u{202e}".as_bytes(), b"\x80", b"\x9b"];
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let control = beyond.into_iter().find(|c| rest.starts_with(c)).map_or(usize::from(*first < 0x20 || *first == 0x7f), <[u8]>::len);
        let (taken, behind) = rest.split_at(control.max(1));
        if control > 0 {
            out.extend(taken.iter().flat_map(|b| format!("\\x{b:02x}").into_bytes()));
        } else {
            out.extend_from_slice(taken);
        }
        rest = behind;
    }
    out
}

#[test]
fn the_syslog_socket_gets_one_line() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("log");
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_nonblocking(true).unwrap();
    let mut socket = SyslogSocket::new(&path);
    for (n, case) in CASES.iter().enumerate() {
        let r = nasty(n, Kind::Cdr);
        assert_eq!(socket.try_send(&line::datagram(2, 24, "proxy", 1, &[&line::line(&r)])), Sent::Taken);
        let mut buffer = vec![0; 70_000];
        let length = daemon.recv(&mut buffer).unwrap();
        let got = &buffer[..length];
        assert!(daemon.recv(&mut [0; 10]).is_err(), "one datagram");
        assert!(got.iter().all(|b| *b >= 0x20 && *b != 0x7f), "{}", String::from_utf8_lossy(got));
        let mut want = Vec::new();
        let value = escaped(case.bytes);
        for (name, value) in [
            ("method", b"INVITE".to_vec()),
            ("from_tag", value.clone()),
            ("to_tag", value.clone()),
            ("call_id", [format!("{n}-").as_bytes(), &value].concat()),
            ("code", b"200".to_vec()),
            ("reason", value.clone()),
            ("caller_uri", value.clone()),
            ("x_note", value.clone()),
            ("leg_src", value.clone()),
            ("leg_dst", value.clone()),
        ] {
            want.extend_from_slice(format!(";{name}=").as_bytes());
            want.extend_from_slice(&value);
        }
        assert!(got.ends_with(&want), "{}", String::from_utf8_lossy(got));
    }
}

#[test]
fn events_carry_the_bytes() {
    for (n, case) in CASES.iter().enumerate() {
        let mut r = nasty(n, Kind::Cdr);
        r.backend = Backend::Evi;
        let raised = event::params(&r);
        assert_eq!(raised.len(), 1);
        for name in ["from_tag", "to_tag", "sip_reason", "caller_uri", "x_note", "leg_src", "leg_dst"] {
            let found: Vec<_> = raised[0].iter().filter(|(n, _)| *n == name).collect();
            // An empty core value is null.
            assert!(matches!(found[..], [(_, EventValue::Text(v))] if v.unwrap_or_default() == case.bytes), "{name} {found:?}");
        }
    }
}

/// Bytes of a value in JSON.
fn bytes(value: &serde_json::Value) -> Vec<u8> {
    match value.as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => json::unhex(value["hex"].as_str().unwrap().as_bytes()).unwrap(),
    }
}

fn expect_json(text: &[u8]) {
    let lines: Vec<serde_json::Value> = text.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
    assert_eq!(lines.len(), CASES.len());
    for (n, object) in lines.iter().enumerate() {
        let (r, value) = (&object["record"], CASES[n].bytes);
        assert_eq!(bytes(&r["callid"]), [format!("{n}-").as_bytes(), value].concat());
        for place in [&r["from_tag"], &r["to_tag"], &r["sip_reason"], &r["extras"]["caller_uri"], &r["legs"][0]["leg_dst"]] {
            assert_eq!(bytes(place), value);
        }
    }
}

/// Nothing in it does something to a terminal: no control character but the end of a line, and none that turns the text
/// around or ends a line in Unicode.
fn expect_plain(text: &[u8]) {
    let text = std::str::from_utf8(text).unwrap();
    let hostile = |c: &char| c.is_control() && *c != '\n' || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert_eq!(text.chars().find(hostile), None, "{text}");
}

#[test]
fn json_is_one_object_a_line_in_dump_and_dead_letters() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let accctl = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_accctl")).args(args).arg(&journal).output().unwrap();
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    for n in 0..CASES.len() {
        let mut r = nasty(n, Kind::Manual);
        r.table = "no_such_table".into();
        w.append_record(SinkId::Db, &r).unwrap();
    }
    drop(w);
    let json = accctl(&["dump", "--json"]).stdout;
    expect_json(&json);
    expect_plain(&json);
    // The form for people is one line a record as well, and shows control characters.
    let people = accctl(&["dump"]).stdout;
    expect_plain(&people);
    assert_eq!(people.iter().filter(|b| **b == b'\n').count(), CASES.len());
    drop(dir);

    let url = format!("sqlite://{}", tmp.path().join("acc.sqlite").display());
    let out = accctl(&["deliver", "--url", &url]);
    assert!(String::from_utf8_lossy(&out.stdout).contains(&format!("db: 0 delivered, {} dead", CASES.len())), "{out:?}");
    let letters = std::fs::read(journal.join("dead-db.jsonl")).unwrap();
    expect_json(&letters);
    expect_plain(&letters);
    for form in [&["find", "--where", "sip_code=200", "--journal"][..], &["find", "--json", "--where", "sip_code=200", "--journal"]] {
        let found = accctl(form).stdout;
        assert!(!found.is_empty());
        expect_plain(&found);
    }
    // What is put back is what it was.
    assert!(accctl(&["requeue", "--sink", "db"]).status.success());
    expect_json(&accctl(&["dump", "--json"]).stdout);
}

/// Reverses how FreeRADIUS writes a string: `\` before quotes, letters for some bytes, three octal digits for the rest.
fn unquoted(text: &str) -> Vec<u8> {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    let mut out = Vec::new();
    let mut rest = inner.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let digits = rest.get(..3).filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
        if let Some(digits) = digits {
            out.push(digits.iter().fold(0u32, |n, d| n * 8 + u32::from(d - b'0')) as u8);
            rest = &rest[3..];
        } else {
            out.push(match rest[0] {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                other => other,
            });
            rest = &rest[1..];
        }
    }
    out
}

#[test]
fn freeradius_gets_one_packet_with_the_bytes() {
    const DICTIONARY: &str = "ATTRIBUTE Acc-Caller 240 string\nATTRIBUTE Acc-Note 243 string\n";
    let Some(server) = FreeRadius::start(DICTIONARY, "") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("client.conf");
    std::fs::write(&file, format!("{}dictionary dictionary\n", server.line(SECRET))).unwrap();
    std::fs::write(tmp.path().join("dictionary"), DICTIONARY).unwrap();
    // Values that would be attributes of their own, and the longest one that is sent whole.
    let long = [&b"\x01\x06root\x28\x06\0\0\0\x07"[..], &[b'x'; 253 - 12]].concat();
    let mut records: Vec<Record> = (0..CASES.len()).map(|n| nasty(n, Kind::Cdr)).collect();
    let mut last = record(Kind::Cdr, "last");
    last.core.from_tag = long.clone();
    records.push(last);
    for r in &mut records {
        r.backend = Backend::Aaa;
        r.legs = vec![];
        let value = r.core.from_tag.clone();
        r.extras = vec![field("Acc-Caller", Some(&value)), field("Acc-Note", Some(&value))];
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let aaa = Aaa { url: format!("radius:{}", file.display()), service_type: None, retry: None };
        let radius = Radius::open(&aaa, &["Acc-Caller", "Acc-Note"]).unwrap();
        let mut client = RadiusClient::new(radius, Options::default()).unwrap();
        for r in &records {
            let until = std::time::Instant::now() + PATIENCE;
            while client.send_all(&[Offer { record: r, made: r.time, parked: false }]).await != [Fate::Delivered] {
                assert!(std::time::Instant::now() < until, "{}", server.log());
            }
        }
    });
    // One entry for each record; a slow start of the server may have written the first one twice.
    let mut entries = server.entries();
    entries.dedup();
    assert_eq!(entries.len(), records.len(), "{entries:#?}");
    for (entry, r) in entries.iter().zip(&records) {
        let all = |name: &str| entry.iter().filter_map(|l| l.strip_prefix(name)?.strip_prefix(" = ")).map(unquoted).collect::<Vec<_>>();
        let value = &r.core.from_tag;
        let sent = if value.is_empty() { vec![] } else { vec![value.clone()] };
        assert_eq!(all("Acct-Session-Id"), std::slice::from_ref(&r.core.callid), "{entry:#?}");
        for name in ["Sip-From-Tag", "Acc-Caller", "Acc-Note"] {
            assert_eq!(all(name), sent, "{name}: {entry:#?}");
        }
        assert!(all("User-Name").is_empty() && all("Acct-Status-Type") == [b"Stop".to_vec()], "{entry:#?}");
    }
}
