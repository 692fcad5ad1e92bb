//! `accctl report` and `accctl find`, on three databases, on files of a stream, and on a journal.
#![forbid(unsafe_code)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use acc::accounting::clock::Wall;
use acc::accounting::record::Kind;
use acc::journal::{DeadLetters, Dir, Entry, Payload, SegmentName, SinkId};
use common::servers::{self, PASSWORD};
use common::{record, skip, writer};
use serde_json::{Value, json};

fn accctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_accctl")).args(args).output().unwrap()
}

fn text(out: &Output) -> String {
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout.clone()).unwrap()
}

/// Two answered calls (one with two legs), a busy one, a refused one; a BYE and a call on another day, which do not count.
fn rows(name: &str) -> String {
    let row = |method: &str, callid: &str, code: u16, time: &str, setup: u32, ms: u32, cause: &str, trunk: &str| {
        let cause = if cause.is_empty() { "NULL".to_string() } else { format!("'{cause}'") };
        format!(
            "('{method}', 'a', 'b', '{callid}', '{code}', 'x', '2026-11-29 {time}', {setup}, {}, {ms}, {cause}, '{trunk}', NULLIF({}, 0))",
            ms.div_ceil(1000),
            setup * 500
        )
    };
    let all = [
        row("INVITE", "one", 200, "10:00:00", 2, 60_500, "bye", "north"),
        row("INVITE", "one", 200, "10:00:00", 2, 60_500, "bye", "north"),
        row("INVITE", "two", 200, "10:00:30", 4, 3000, "timeout", "south"),
        row("INVITE", "three", 486, "11:00:00", 1, 0, "", "north"),
        row("INVITE", "it''s", 503, "11:00:01", 0, 0, "", "north"),
        row("BYE", "one", 200, "10:01:00", 0, 0, "", "north"),
        row("INVITE", "later", 200, "23:59:59", 0, 1000, "bye", "north"),
    ];
    format!(
        "INSERT INTO {name} (method, from_tag, to_tag, callid, sip_code, sip_reason, time, setuptime, duration, ms_duration, end_cause, trunk, pdd_ms) VALUES {}",
        all.join(", ")
    )
}

const SPAN: [&str; 4] = ["--since", "2026-11-29", "--until", "2026-11-29 12:00"];

/// What it says of [`rows`].
fn report_is_right(source: &[&str]) {
    let report = |more: &[&str]| text(&accctl(&[&["report"], source, &SPAN, more].concat()));
    let found: Value = serde_json::from_str(&report(&["--json", "--by", "trunk"])).unwrap();
    let total = |key: &str| found[key].clone();
    assert_eq!(
        json!([total("attempts"), total("answered"), total("failed"), total("asr"), total("ner"), total("short"), total("concurrent_max")]),
        json!([4, 2, 2, 0.5, 0.75, 1, 2]),
        "{found}"
    );
    assert_eq!(json!([total("acd_ms"), total("setup_p50_ms"), total("setup_p95_ms")]), json!([31_750, 2000, 4000]));
    // Also of those that rang in vain.
    assert_eq!(json!([total("pdd_p50_ms"), total("pdd_p95_ms")]), json!([1000, 2000]));
    assert_eq!(json!([total("codes"), total("end_causes")]), json!([{ "200": 2, "486": 1, "503": 1 }, { "bye": 1, "timeout": 1 }]));
    assert_eq!(json!([found["hours"][10], found["hours"][11], found["hours"][23]]), json!([2, 2, 0]));
    let groups: Vec<_> = found["groups"].as_array().unwrap().iter().map(|g| json!([g["value"], g["attempts"], g["answered"]])).collect();
    assert_eq!(json!(groups), json!([["north", 3, 1], ["south", 1, 1]]));
    let said = report(&["--by", "trunk"]);
    assert!(said.contains("ASR                   50.0 %") && said.contains("NER                   75.0 %") && said.contains("1:00"), "{said}");
    let csv = report(&["--csv", "--by", "trunk"]);
    let lines: Vec<_> = csv.lines().collect();
    assert!(lines.len() == 4 && lines[1].starts_with("north,3,1,2,0.3333,0.6667,1.0,60.5,0,") && lines[3].starts_with(",4,2,2,"), "{csv}");
}

/// Where `it's` and the calls of the south are.
fn find_is_right(source: &[&str], place: &str) {
    let find = |args: &[&str]| -> Vec<Value> {
        let out = accctl(&[&["find", "--json"], source, args].concat());
        String::from_utf8(out.stdout.clone()).unwrap().lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {out:?}"))).collect()
    };
    let one = find(&["it's"]);
    assert!(one.len() == 1 && one[0]["place"] == place && one[0]["sip_code"] == 503, "{one:?}");
    let south = find(&["--where", "trunk=south"]);
    assert!(south.len() == 1 && south[0]["callid"] == "two" && south[0]["trunk"] == "south" && south[0]["duration_ms"] == 3000, "{south:?}");
    let late = find(&["--where", "trunk=north", "--since", "2026-11-29 12:00"]);
    assert!(late.len() == 1 && late[0]["callid"] == "later", "{late:?}");
    assert_eq!(accctl(&[&["find"], source, &["nobody"]].concat()).status.code(), Some(1));
}

fn database_is_right(url: &str, run: impl Fn(&str)) {
    let made = accctl(&["schema", "--url", url, "--apply", "--extra", "trunk; end_cause; pdd_ms"]);
    assert!(made.status.success(), "{made:?}");
    run(&rows("acc"));
    // Nothing failed, as far as the records tell.
    let source = ["--url", url];
    report_is_right(&source);
    page_is_right(&source);
    find_is_right(&source, "delivered to acc");
    let out = accctl(&["report", "--url", url, "--since", "2026-11-29 23:00"]);
    assert!(text(&out).contains("ASR, NER              there is no failed call"), "{out:?}");
    let out = accctl(&["report", "--url", url, "--by", "nothing"]);
    assert!(out.status.code() == Some(2) && String::from_utf8_lossy(&out.stderr).contains("table acc has no column nothing"), "{out:?}");
    assert_eq!(text(&accctl(&["report", "--url", url, "--since", "2030-01-01"])), "no calls\n");
}

/// The page says what the figures say, and brings nothing that runs or comes from elsewhere.
fn page_is_right(source: &[&str]) {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("report.html");
    let out = accctl(&[&["report", "--html", file.to_str().unwrap(), "--by", "trunk"], source, &SPAN].concat());
    assert!(out.status.success(), "{out:?}");
    let page = std::fs::read_to_string(&file).unwrap();
    for part in [
        "<title>Calls, 2026-11-29 10:00:00 to 2026-11-29 11:00:01</title>",
        "<dt>ASR</dt><dd>50.0 %</dd>",
        "<td>north</td><td>3</td>",
        "<td>486 Busy Here</td><td>1</td>",
        "default-src 'none'",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert_eq!(page.matches("<svg").count(), 2);
    // 24 hours on the axis.
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("\n23\n"), "{page}");
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    for part in ["<script", "http://", "https://", "javascript:", "url(", "@import"] {
        assert!(!outside.contains(part), "{part}");
    }
}

fn sqlite3(database: &Path, sql: &str) {
    assert!(Command::new("sqlite3").arg(database).arg(sql).status().unwrap().success());
}

#[test]
fn sqlite_is_reported() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("acc.sqlite");
    database_is_right(&format!("sqlite://{}", file.display()), |sql| sqlite3(&file, sql));
}

/// Kamailio's db_sqlite writes times as numbers of days, half a second early; a column may hold both sorts.
#[test]
fn days_in_sqlite_are_reported() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("acc.sqlite");
    let url = format!("sqlite://{}", file.display());
    assert!(accctl(&["schema", "--url", &url, "--apply", "--extra", "trunk; end_cause; pdd_ms"]).status.success());
    sqlite3(&file, &rows("acc"));
    let source = ["--url", &url, "--set", "db_time=utc"];
    // Our own days among texts, then days alone, in Kamailio's way to count them.
    for days in ["julianday(time) - 0.5 / 86400 WHERE id % 2 = 0", "(strftime('%s', time) - 0.5) / 86400 + 2440587.5 WHERE typeof(time) = 'text'"] {
        sqlite3(&file, &format!("UPDATE acc SET time = {days}"));
        report_is_right(&source);
        page_is_right(&source);
        find_is_right(&source, "delivered to acc");
        let found: Value = serde_json::from_str(&text(&accctl(&[&["report", "--json", "--since", "2026-11-29 10:00:30"], &source[..]].concat()))).unwrap();
        assert_eq!(json!([found["attempts"], found["from"]]), json!([4, "2026-11-29 10:00:30"]));
    }
    // A span and its times are local where the texts are.
    let zoned = common::accctl_in_zone(&["report", "--json", "--url", &url, "--since", "2026-11-29 15:30:30", "--until", "2026-11-29 16:30:01"]);
    let found: Value = serde_json::from_str(&zoned).unwrap();
    assert_eq!(json!([found["attempts"], found["from"], found["to"]]), json!([2, "2026-11-29 15:30:30", "2026-11-29 16:30:00"]));
}

/// What is on the page for somebody who looks at it in a browser.
#[test]
fn a_browser_shows_the_page() {
    let tmp = tempfile::tempdir().unwrap();
    let place = |name: &str| tmp.path().join(name);
    let url = format!("sqlite://{}", place("acc.sqlite").display());
    assert!(accctl(&["schema", "--url", &url, "--apply", "--extra", "trunk; end_cause; pdd_ms"]).status.success());
    sqlite3(&place("acc.sqlite"), &rows("acc"));
    let made = accctl(&["report", "--html", place("report.html").to_str().unwrap(), "--by", "trunk", "--url", &url, "--since", SPAN[1], "--until", SPAN[3]]);
    assert!(made.status.success(), "{made:?}");
    std::fs::write(place("look.html"), include_str!("common/look.html")).unwrap();
    let look = |scheme: &str| {
        let mut browser = Command::new("chromium");
        browser.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--allow-file-access-from-files",
            "--virtual-time-budget=20000",
            "--dump-dom",
        ]);
        browser.arg(format!("--user-data-dir={}", place("profile").display())).arg(format!("--blink-settings=preferredColorScheme={scheme}"));
        let out = browser.arg(format!("file://{}", place("look.html").display())).output().ok()?;
        let page = String::from_utf8_lossy(&out.stdout).into_owned();
        let seen = page.split_once("<pre id=\"seen\">").and_then(|(_, rest)| rest.split_once("</pre>"));
        let seen = seen.unwrap_or_else(|| panic!("{page} {}", String::from_utf8_lossy(&out.stderr))).0;
        Some(serde_json::from_str::<Value>(seen).unwrap_or_else(|e| panic!("{e}: {page}")))
    };
    let Some(seen) = look("1") else { return skip("chromium is not installed") };
    assert_eq!(seen["title"], "Calls, 2026-11-29 10:00:00 to 2026-11-29 11:00:01");
    let tiles: Vec<_> = seen["tiles"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for tile in ["attempts 4", "answered 2", "ASR 50.0 %", "NER 75.0 %"] {
        assert!(tiles.contains(&tile), "{tile}: {tiles:?}");
    }
    assert_eq!(
        seen["rows"],
        json!([
            "trunk|attempts||answered|ASR|NER|minutes|ACD",
            "north|3||1|33.3 %|66.7 %|1.0|0:01:00",
            "south|1||1|100.0 %|100.0 %|0.1|0:00:03",
            "200 OK|2|",
            "486 Busy Here|1|",
            "503 Service Unavailable|1|",
            "bye|1|",
            "timeout|1|",
        ])
    );
    let bars: Vec<_> = seen["bars"].as_array().unwrap().iter().map(|w| w.as_u64().unwrap()).collect();
    assert!(bars.len() == 7 && bars.iter().all(|w| *w > 30) && bars[0] > 2 * bars[1] && bars[2] > bars[3], "{bars:?}");
    assert_eq!((&seen["wide"], &seen["color"]), (&json!(false), &json!("rgb(31, 111, 181)")));
    let plots = seen["plots"].as_array().unwrap();
    // An area, and a bar for each hour; round times below the first.
    assert_eq!(plots.iter().map(|p| p["shapes"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 24], "{plots:?}");
    assert!(plots.iter().all(|p| p["width"].as_u64() > Some(800)), "{plots:?}");
    let labels: Vec<_> = plots[0]["labels"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(labels.contains(&"11-29 10:15") && labels.contains(&"11-29 10:45"), "{labels:?}");
    // Dark, the bars are brighter.
    assert_eq!(look("0").unwrap()["color"], "rgb(88, 166, 232)");
}

/// Large numbers can be read at a glance, in tiles, tables and beside the plots.
#[test]
fn thousands_stand_apart_on_the_page() {
    let tmp = tempfile::tempdir().unwrap();
    let (file, stream) = (tmp.path().join("report.html"), tmp.path().join("a.jsonl"));
    let line = |n: usize| {
        let time = "2026-11-29T10:00:00.000000Z";
        let one = json!({
            "kind": "cdr", "method": "INVITE", "acc_id": format!("{n:032x}"), "callid": format!("c{n}"), "sip_code": 200, "time": time, "setup_ms": 1000,
            "pdd_ms": 500, "duration_ms": 600_000, "end_cause": "bye", "extra": { "trunk": "north" },
        });
        format!("{one}\n")
    };
    std::fs::write(&stream, (0..2500).map(line).collect::<String>()).unwrap();
    let out = accctl(&["report", "--html", file.to_str().unwrap(), "--by", "trunk", "--stream", stream.to_str().unwrap()]);
    assert!(out.status.success(), "{out:?}");
    let page = std::fs::read_to_string(&file).unwrap();
    for part in ["<dd>2\u{202f}500</dd>", "<td>2\u{202f}500</td>", "<td>25\u{202f}000.0</td>", "\n1\u{202f}000\n"] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn mariadb_is_reported() {
    let Some(server) = servers::mariadb() else { return skip("MariaDB") };
    database_is_right(&format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", server.port), |sql| drop(server.sql(sql)));
}

#[test]
fn postgres_is_reported() {
    let Some(server) = servers::postgres() else { return skip("PostgreSQL") };
    database_is_right(&format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/postgres", server.port), |sql| drop(server.sql(sql)));
}

#[test]
fn streams_are_reported() {
    let tmp = tempfile::tempdir().unwrap();
    let line = |kind: &str, callid: &str, code: u16, time: &str, setup: u32, ms: Option<u32>, cause: Option<&str>, trunk: &str| {
        json!({
            "v": 1, "kind": kind, "method": if kind == "transaction" && callid == "one" { "BYE" } else { "INVITE" }, "from_tag": "a", "to_tag": "b", "callid": callid,
            "sip_code": code, "time": format!("2026-11-29T{time}.000000Z"), "setup_ms": setup, "pdd_ms": Some(setup / 2).filter(|ms| *ms > 0), "duration_ms": ms, "end_cause": cause, "extra": { "trunk": trunk },
        })
    };
    let all = [
        line("cdr", "one", 200, "10:00:00", 2000, Some(60_500), Some("bye"), "north"),
        line("cdr", "two", 200, "10:00:30", 4000, Some(3000), Some("timeout"), "south"),
        line("transaction", "three", 486, "11:00:00", 1000, None, None, "north"),
        line("transaction", "it's", 503, "11:00:01", 0, None, None, "north"),
        line("missed", "three", 486, "11:00:00", 1000, None, None, "north"),
        line("manual", "by hand", 403, "11:00:02", 0, None, None, "north"),
        line("transaction", "one", 200, "10:01:00", 0, None, None, "north"),
        line("cdr", "later", 200, "23:59:59", 0, Some(1000), Some("bye"), "north"),
    ];
    let (first, second) = (tmp.path().join("1.jsonl"), tmp.path().join("2.jsonl"));
    let text = |lines: &[Value]| lines.iter().map(|l| format!("{l}\n")).collect::<String>();
    std::fs::write(&first, text(&all[..3])).unwrap();
    std::fs::write(&second, text(&all[3..])).unwrap();
    let source = ["--stream", first.to_str().unwrap(), "--stream", second.to_str().unwrap()];
    report_is_right(&source);
    find_is_right(&source, "delivered to the stream");
    std::fs::write(&first, "nothing\n").unwrap();
    let out = accctl(&["report", "--stream", first.to_str().unwrap()]);
    assert!(out.status.code() == Some(2) && String::from_utf8_lossy(&out.stderr).contains("1.jsonl:1: this is not a line of a stream"), "{out:?}");
}

#[test]
fn old_files_and_rows_are_pruned_and_nothing_else() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    drop(writer(&Dir::open(&journal).unwrap(), 1));
    let names =
        ["requeued-db-0000000000000001.jsonl", "0000000000000001-000001-00000001-00000001-20.bad", "dead-db.jsonl", "requeued-aaa-0000000000000002.jsonl"];
    for name in names {
        std::fs::write(journal.join(name), "").unwrap();
    }
    // All but the last are old.
    let touched = Command::new("touch").args(["-d", "100 days ago"]).args(names[..3].iter().map(|name| journal.join(name))).status().unwrap();
    assert!(touched.success());
    let file = tmp.path().join("acc.sqlite");
    let url = format!("sqlite://{}", file.display());
    assert!(accctl(&["schema", "--url", &url, "--apply"]).status.success());
    sqlite3(
        &file,
        "INSERT INTO acc (time) VALUES ('2020-01-01 00:00:00'), ('2020-01-02 00:00:00'), (datetime('now')); INSERT INTO missed_calls (time) VALUES ('2020-01-01 00:00:00')",
    );
    let prune = |args: &[&str]| text(&accctl(&[&["prune", "--url", &url, "--older", "90d"], args, &[journal.to_str().unwrap()]].concat()));
    let there = || names.map(|name| journal.join(name).exists());
    let shown = prune(&["--dry-run"]);
    assert_eq!(shown, format!("would remove {}\nwould remove {}\nwould remove 2 rows of acc\nwould remove 1 rows of missed_calls\n", names[1], names[0]));
    assert_eq!(there(), [true; 4]);
    assert_eq!(prune(&[]), shown.replace("would remove", "removed"));
    assert_eq!(there(), [false, false, true, true]);
    assert_eq!(common::sqlite(&file, "SELECT count(*) FROM acc UNION ALL SELECT count(*) FROM missed_calls").unwrap(), "1\n0\n");
    assert_eq!(prune(&["--only-files"]), "nothing is that old\n");
    assert_eq!(accctl(&["prune", "--older", "0d", journal.to_str().unwrap()]).status.code(), Some(2));
}

/// Calls of the tool that only read a database.
fn readers<'a>(url: &'a str, journal: &'a str) -> [Vec<&'a str>; 4] {
    [
        vec!["report", "--url", url],
        vec!["find", "one", "--url", url],
        vec!["audit", "--url", url, journal],
        vec!["prune", "--dry-run", "--older", "90d", "--url", url],
    ]
}

#[test]
fn a_missing_database_is_an_error_and_is_not_created() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    drop(Dir::open(&journal).unwrap());
    let old = journal.join("0000000000000001-000001-00000001-00000001-20.bad");
    std::fs::write(&old, "").unwrap();
    assert!(Command::new("touch").args(["-d", "100 days ago"]).arg(&old).status().unwrap().success());
    let journal = journal.to_str().unwrap();
    let file = tmp.path().join("missing.sqlite");
    let url = format!("sqlite://{}", file.display());
    for args in readers(&url, journal).into_iter().chain([vec!["prune", "--older", "90d", "--url", &url, journal]]) {
        let out = accctl(&args);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(&format!("{}: No such file", file.display())), "{args:?}: {out:?}");
        assert!(!file.exists(), "{args:?}");
    }
    assert!(old.exists(), "nothing is removed when a part of the call cannot be done");
}

/// The files of a directory, with what is in them.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    files.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn who_only_reads_leaves_the_file_as_it_is() {
    let (tmp, journal) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(Dir::open(journal.path()).unwrap());
    let file = tmp.path().join("acc.sqlite");
    let url = format!("sqlite://{}", file.display());
    assert!(accctl(&["schema", "--url", &url, "--apply", "--extra", "trunk; end_cause; pdd_ms"]).status.success());
    sqlite3(&file, &rows("acc"));
    let read = |when: &str, attempts: &str| {
        let before = contents(tmp.path());
        for args in readers(&url, journal.path().to_str().unwrap()) {
            let out = accctl(&args);
            assert!(text(&out).contains(if args[0] == "report" { attempts } else { "" }), "{when}: {args:?}: {out:?}");
            assert!(contents(tmp.path()) == before, "{when}: {args:?}: {:?} before, then {:?}", before.keys(), contents(tmp.path()).keys());
        }
    };
    read("at rest", "attempts              5\n");
    sqlite3(&file, "PRAGMA journal_mode = WAL");
    read("at rest with write-ahead logging", "attempts              5\n");
    // A writer that has the file open, and a row that is in its log alone.
    let mut writer = Command::new("sqlite3").arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(writer.stdin.as_mut().unwrap(), "{};\nSELECT 'done';", rows("acc")).unwrap();
    let mut said = String::new();
    BufReader::new(writer.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "done\n");
    let kept = |name: &str| std::fs::read(tmp.path().join(name)).unwrap();
    let before = [kept("acc.sqlite"), kept("acc.sqlite-wal")];
    for args in readers(&url, journal.path().to_str().unwrap()) {
        let out = accctl(&args);
        assert!(text(&out).contains(if args[0] == "report" { "attempts              10\n" } else { "" }), "{args:?}: {out:?}");
        assert!([kept("acc.sqlite"), kept("acc.sqlite-wal")] == before, "{args:?}");
    }
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());
}

/// Whoever may write neither to the file nor beside it can read it, also while a server has it open.
#[test]
fn a_reader_needs_no_right_to_write() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    /// Nobody, on Debian.
    const NOBODY: u32 = 65_534;
    let (tmp, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let program = programs.path().join("accctl");
    std::fs::copy(env!("CARGO_BIN_EXE_accctl"), &program).unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(programs.path(), 0o755);
    let file = tmp.path().join("acc.sqlite");
    let url = format!("sqlite://{}", file.display());
    assert!(accctl(&["schema", "--url", &url, "--apply", "--extra", "trunk; end_cause; pdd_ms"]).status.success());
    mode(&file, 0o444);
    let report = || {
        let mut command = Command::new(&program);
        command.args(["report", "--url", &url]);
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        mode(tmp.path(), 0o555);
        let out = command.output().unwrap();
        mode(tmp.path(), 0o755);
        text(&out)
    };
    assert_eq!(report(), "no calls\n");
    mode(&file, 0o644);
    sqlite3(&file, "PRAGMA journal_mode = WAL");
    mode(&file, 0o444);
    assert_eq!(report(), "no calls\n");
    mode(&file, 0o644);
    let mut writer = Command::new("sqlite3").arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(writer.stdin.as_mut().unwrap(), "{};\nSELECT 'done';", rows("acc")).unwrap();
    BufReader::new(writer.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    assert!(report().contains("attempts              5\n"));
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());
}

/// Letters that tell what must not come again from a segment, and lines that are nowhere else.
#[test]
fn letters_that_are_still_needed_are_not_pruned() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    writer(&dir, 1).append_record(SinkId::Db, &record(Kind::Cdr, "there")).unwrap();
    let there = dir.segments().unwrap()[0].name;
    let payload = Payload::Record(Box::new(record(Kind::Cdr, "dead")));
    let add = |dir: &Dir, segment| {
        let entry = Entry { segment, offset: 8, end: 9, wall: Wall(0), payload: payload.clone(), parked: None };
        DeadLetters::new(dir, SinkId::Db).add(&entry, "refused").unwrap();
    };
    let old = |name: &str| assert!(Command::new("touch").args(["-d", "100 days ago"]).arg(tmp.path().join(name)).status().unwrap().success());
    // Of a segment that is there, of one that is kept, of one that is gone; and a part of a line.
    std::fs::create_dir(tmp.path().join("kept")).unwrap();
    let (kept, gone) = (SegmentName { seq: 7, ..there }, SegmentName { seq: 8, ..there });
    std::fs::copy(tmp.path().join(there.to_string()), tmp.path().join("kept").join(kept.to_string())).unwrap();
    let names: Vec<_> = (1..=4).map(|n| format!("requeued-db-{n:016x}.jsonl")).collect();
    for (name, segment) in names.iter().zip([there, kept, gone, gone]) {
        add(&dir, segment);
        std::fs::rename(tmp.path().join("dead-db.jsonl"), tmp.path().join(name)).unwrap();
        old(name);
    }
    std::fs::write(tmp.path().join(&names[3]), "{\"kind_number\":1,\n").unwrap();
    old(&names[3]);
    let prune = || text(&accctl(&["prune", "--older", "90d", tmp.path().to_str().unwrap()]));
    let stays = |name: &str, segment: SegmentName| format!("{name} stays: its entries are still in segment {segment} as well\n");
    let cut = format!("{} stays: 1 lines of it cannot be read, and were not put back: look at them, and remove it yourself\n", names[3]);
    assert_eq!(prune(), format!("{}{}{cut}removed {}\n", stays(&names[0], there), stays(&names[1], kept), names[2]));
    // What was put back today is not old, whenever its letters were written.
    add(&dir, gone);
    old("dead-db.jsonl");
    assert!(text(&accctl(&["requeue", "--sink", "db", tmp.path().to_str().unwrap()])).starts_with("1 entries put back"));
    assert!(!prune().contains("removed"));
}

/// To SQLite every number is less than every text.
#[test]
fn rows_with_days_are_pruned_by_their_time() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("acc.sqlite");
    let url = format!("sqlite://{}", file.display());
    assert!(accctl(&["schema", "--url", &url, "--apply"]).status.success());
    let days = |when: &str| format!("(julianday({when}) - 0.5 / 86400)");
    sqlite3(
        &file,
        &format!(
            "INSERT INTO acc (time) VALUES {}, {}, {}, ('2020-01-01 00:00:00'), (datetime('now')), (2458850), {}",
            days("'2020-01-01'"),
            days("'now', '-91 days'"),
            days("'now', '-89 days'"),
            days("'now'")
        ),
    );
    assert_eq!(text(&accctl(&["prune", "--url", &url, "--older", "90d"])), "removed 4 rows of acc\n");
    assert_eq!(common::sqlite(&file, "SELECT typeof(time) FROM acc ORDER BY id").unwrap(), "real\ntext\nreal\n");
}

#[test]
fn what_waits_in_a_journal_is_found() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Aaa, &record(Kind::Cdr, "waiting")).unwrap();
    w.append_record(SinkId::Db, &record(Kind::Cdr, "other")).unwrap();
    drop(w);
    let dead = json!({ "reason": "no such\u{1b}column", "record": { "callid": "dead", "extras": { "caller": "alice" }, "time": 1_795_305_938_766_000_i64 } });
    std::fs::write(tmp.path().join("dead-db.jsonl"), format!("{dead}\n")).unwrap();
    let journal = tmp.path().to_str().unwrap();
    let find = |args: &[&str]| text(&accctl(&[&["find", "--journal", journal], args].concat()));
    let waits = find(&["waiting"]);
    assert!(waits.starts_with("waits for aaa: ") && waits.contains("callid=waiting") && waits.lines().count() == 1, "{waits}");
    assert!(find(&["other"]).starts_with("waits for db, unless the database has it: "));
    // The database knows how far it is, and the journal does not.
    let database = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", database.path().join("acc.sqlite").display());
    assert!(accctl(&["schema", "--url", &url, "--apply", "--extra", "caller->caller_uri; note->x_note"]).status.success());
    assert!(find(&["other", "--url", &url]).starts_with("waits for db: "));
    drop(dir);
    let _ = accctl(&["deliver", "--url", &url, "--extra", "caller->caller_uri; note->x_note", journal]);
    assert!(find(&["other", "--url", &url]).starts_with("delivered to acc: "));
    let dead = find(&["--where", "caller=alice"]);
    assert!(dead.starts_with("given up for db: no such\\x1bcolumn: ") && dead.contains("callid=dead"), "{dead}");
    assert_eq!(accctl(&["find", "--journal", journal, "nobody"]).status.code(), Some(1));
    assert_eq!(accctl(&["find", "nobody"]).status.code(), Some(2));
}
