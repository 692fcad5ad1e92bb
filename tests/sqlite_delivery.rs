//! From the workers' appends to rows in a SQLite file.
#![forbid(unsafe_code)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use acc::accounting::record::Kind;
use acc::backend::sql::{Conn, parse};
use acc::backend::{Fate, LocalFuture, Offer, RecordSender, one_by_one};
use acc::config::Config;
use acc::journal::{Dir, Item, JournalSync, SinkId, Writer};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use common::servers::is_root;
use common::*;

fn config(database: &Path, journal: &Path) -> Config {
    common::config(Some(&format!("sqlite://{}", database.display())), journal)
}

/// Rows of a query, every column as text; NULL is "NULL".
fn query(database: &Path, sql: &str) -> Vec<Vec<String>> {
    if !database.exists() {
        return vec![];
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut conn = SqliteConnection::connect(&format!("sqlite://{}", database.display())).await.unwrap();
        let rows = sqlx::query(AssertSqlSafe(sql.to_string())).fetch_all(&mut conn).await.unwrap_or_default();
        let text = |row: &sqlx::sqlite::SqliteRow, i: usize| -> String {
            if let Ok(Some(s)) = row.try_get_unchecked::<Option<String>, _>(i) { s } else { "NULL".into() }
        };
        let out = rows.iter().map(|r| (0..r.len()).map(|i| text(r, i)).collect()).collect();
        conn.close().await.unwrap();
        out
    })
}

fn execute(database: &Path, sql: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = format!("sqlite://{}?mode=rwc", database.display());
        let mut conn = SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_string())).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    });
}

fn count(database: &Path, table: &str) -> usize {
    query(database, &format!("SELECT count(*) FROM {table}")).first().map_or(0, |r| r[0].parse().unwrap())
}

struct Place {
    _tmp: tempfile::TempDir,
    journal: PathBuf,
    database: PathBuf,
}

fn place() -> Place {
    let tmp = tempfile::tempdir().unwrap();
    Place { journal: tmp.path().join("journal"), database: tmp.path().join("acc.sqlite"), _tmp: tmp }
}

#[test]
fn every_value_stands_in_its_column() {
    let p = place();
    let dir = Dir::open(&p.journal).unwrap();
    let running = Running::start(config(&p.database, &p.journal), &dir);
    let mut w = writer(&dir, 1);
    let mut cdr = record(Kind::Cdr, "cdr");
    cdr.legs = vec![vec![field("leg_src", Some(b"a")), field("leg_dst", Some(b"b"))], vec![field("leg_src", Some(b"c")), field("leg_dst", None)]];
    let mut manual = record(Kind::Manual, "manual");
    manual.times = None;
    manual.extras = vec![];
    let mut nasty = record(Kind::Transaction, "nasty");
    nasty.extras = vec![field("caller_uri", Some(b"a;b'c\"%s\\ \xff\n\x01")), field("x_note", Some(b""))];
    for r in [&cdr, &record(Kind::Transaction, "trans"), &record(Kind::Missed, "missed"), &manual, &nasty] {
        w.append_record(SinkId::Db, r).unwrap();
    }
    wait_until("six rows", || count(&p.database, "acc") == 5 && count(&p.database, "missed_calls") == 1);
    running.stop();

    let local = |seconds| chrono::DateTime::from_timestamp(seconds, 0).unwrap().with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string();
    let (time, created) = (local(1_700_000_003), local(1_700_000_000));
    let columns = "callid, method, from_tag, to_tag, sip_code, sip_reason, time, caller_uri, x_note";
    let core = |callid: &str| -> Vec<String> { [callid, "INVITE", "ft", "tt", "200", "OK", &time].map(String::from).to_vec() };
    let row = |callid: &str, rest: &[&str]| core(callid).into_iter().chain(rest.iter().map(|s| s.to_string())).collect::<Vec<_>>();
    let number = |column: &str| format!("CAST({column} AS TEXT)");
    let sql = format!(
        "SELECT {columns}, leg_src, leg_dst, {}, created, {}, {} FROM acc WHERE callid != 'nasty' ORDER BY id",
        number("setuptime"),
        number("duration"),
        number("ms_duration")
    );
    assert_eq!(
        query(&p.database, &sql),
        [
            row("cdr", &["sip:a@example.com", "NULL", "a", "b", "2", &created, "2", "1203"]),
            row("cdr", &["sip:a@example.com", "NULL", "c", "NULL", "2", &created, "2", "1203"]),
            row("trans", &["sip:a@example.com", "NULL", "NULL", "NULL", "2", &created, "0", "0"]),
            row("manual", &["NULL", "NULL", "NULL", "NULL", "0", "NULL", "0", "0"]),
        ]
    );
    let sql = format!("SELECT {columns}, leg_src, leg_dst, {}, created FROM missed_calls", number("setuptime"));
    assert_eq!(query(&p.database, &sql), [row("missed", &["sip:a@example.com", "NULL", "NULL", "NULL", "2", &created])]);
    let types = "SELECT typeof(caller_uri), hex(CAST(caller_uri AS BLOB)), typeof(x_note), typeof(setuptime), typeof(time), typeof(created) FROM acc WHERE callid = 'nasty'";
    // The bytes as they came, not even the one that is not UTF-8 changed.
    let hex: String = b"a;b'c\"%s\\ \xff\n\x01".iter().map(|b| format!("{b:02X}")).collect();
    assert_eq!(query(&p.database, types), [["text", &hex, "text", "integer", "text", "text"]]);
    assert_eq!(query(&p.database, "SELECT table_name, CAST(table_version AS TEXT) FROM version ORDER BY 1"), [["acc", "7"], ["missed_calls", "5"]]);
}

/// Kamailio's db_sqlite stores days as numbers, half a second early; both sorts in one column would not sort.
#[test]
fn times_are_of_the_sort_that_the_newest_row_has() {
    let p = place();
    let of_kamailio = |t: &str| format!("INSERT INTO acc (method, callid, time) VALUES ('INVITE', '{t}', ({t} - 0.5) / 86400 + 2440587.5);");
    let url = format!("sqlite://{}", p.database.display());
    deliver_in_zone(&url, "acc", &["--extra", "a->caller_uri; b->x_note"]);
    assert_eq!(query(&p.database, "SELECT typeof(time), typeof(created) FROM acc"), [["text", "text"]]);
    execute(&p.database, &of_kamailio("1700000000"));
    deliver_in_zone(&url, "acc", &["--extra", "a->caller_uri; b->x_note"]);
    let newest = query(&p.database, "SELECT typeof(time), typeof(created), datetime(time + 0.5 / 86400) FROM acc ORDER BY id DESC LIMIT 1");
    let utc = ZONE_TIMES.iter().find(|(clock, _)| *clock == "utc").unwrap().1[0];
    assert_eq!(newest, [["real", "text", utc]], "days of universal time");
}

#[test]
fn the_file_is_for_its_owner_or_for_the_group_of_its_directory() {
    use std::os::unix::fs::PermissionsExt;
    for (directory, before, wanted) in [(0o755, None, 0o600), (0o2750, None, 0o640), (0o755, Some(0o660), 0o660)] {
        let p = place();
        let folder = p.database.parent().unwrap();
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(directory)).unwrap();
        if let Some(mode) = before {
            std::fs::File::create(&p.database).unwrap().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let dir = Dir::open(&p.journal).unwrap();
        writer(&dir, 1).append_record(SinkId::Db, &record(Kind::Cdr, "a")).unwrap();
        let running = Running::start(config(&p.database, &p.journal), &dir);
        wait_until("the row", || p.database.exists() && count(&p.database, "acc") == 1);
        for suffix in ["", "-wal", "-shm"] {
            let path = format!("{}{suffix}", p.database.display());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, wanted, "{path}");
        }
        running.stop();
    }
}

#[test]
fn times_are_local_or_universal() {
    let p = place();
    for (clock, times) in ZONE_TIMES {
        let table = format!("zoned_{clock}");
        deliver_in_zone(&format!("sqlite://{}", p.database.display()), &table, &["--extra", "a->caller_uri; b->x_note", "--db-time", clock]);
        assert_eq!(query(&p.database, &format!("SELECT time, created FROM {table}")), [times]);
    }
}

#[test]
fn several_writers_and_restarts_give_each_record_once() {
    let p = place();
    const EACH: usize = 400;
    for round in 0..3 {
        let dir = Dir::open(&p.journal).unwrap();
        let running = Running::start(config(&p.database, &p.journal), &dir);
        let threads: Vec<_> = (0..3)
            .map(|rank| {
                let dir = dir.clone();
                std::thread::spawn(move || {
                    let mut w = writer(&dir, rank);
                    for n in 0..EACH {
                        w.append_record(SinkId::Db, &record(Kind::Cdr, &format!("{round}-{rank}-{n}"))).unwrap();
                    }
                })
            })
            .collect();
        // The first two rounds end while there is still something to do.
        if round < 2 {
            running.stop();
        }
        for t in threads {
            t.join().unwrap();
        }
        if round == 2 {
            wait_until("all rows", || count(&p.database, "acc") >= 3 * 3 * EACH);
            wait_until("segments are removed", || segments(&p.journal) == 0);
        }
    }
    assert_eq!(count(&p.database, "acc"), 3 * 3 * EACH);
    assert_eq!(query(&p.database, "SELECT count(DISTINCT callid) || '' FROM acc"), [[(3 * 3 * EACH).to_string()]]);
}

/// Runs `f` while somebody else writes to a database that the delivery has written to.
fn while_locked(database: &Path, f: impl FnOnce()) {
    wait_until("the first row", || count(database, "acc") == 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut other = SqliteConnection::connect(&format!("sqlite://{}", database.display())).await.unwrap();
        sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
        f();
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    });
}

/// As a dialog module that writes to the same file, whose every transaction takes a slow disk its time:
/// the file is free only for moments.
#[test]
fn rows_find_the_moments_between_another_writers_transactions() {
    let p = place();
    let dir = Dir::open(&p.journal).unwrap();
    let mut config = config(&p.database, &p.journal);
    config.delivery_retry_max = 30;
    let running = Running::start(config, &dir);
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "first")).unwrap();
    wait_until("the first row", || count(&p.database, "acc") == 1);
    let over = Arc::new(AtomicBool::new(false));
    let (file, ended) = (p.database.clone(), over.clone());
    let other = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut other = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
            sqlx::raw_sql("CREATE TABLE dialog (n)").execute(&mut other).await.unwrap();
            while !ended.load(Ordering::Relaxed) {
                sqlx::raw_sql("BEGIN IMMEDIATE; INSERT INTO dialog VALUES (1)").execute(&mut other).await.unwrap();
                std::thread::sleep(Duration::from_millis(1200));
                sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
                std::thread::sleep(Duration::from_millis(10));
            }
            other.close().await.unwrap();
        });
    });
    // One transaction after another.
    wait_until("all rows", || {
        let rows = count(&p.database, "acc");
        if rows < 11 && segments(&p.journal) == 1 {
            w.append_record(SinkId::Db, &record(Kind::Cdr, &format!("call-{rows}"))).unwrap();
            wait_until("its row", || count(&p.database, "acc") > rows);
        }
        rows >= 11
    });
    over.store(true, Ordering::Relaxed);
    other.join().unwrap();
    running.stop();
    assert_eq!(query(&p.database, "SELECT count(*) || '/' || count(DISTINCT callid) FROM acc"), [["11/11"]]);
}

/// The directory or the file belongs to somebody else, for one.
#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let url = "sqlite:///dev/null/acc.sqlite";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let failure = runtime.block_on(Conn::open(&parse(url).unwrap())).err().unwrap();
    assert_eq!(failure.text, "the SQLite file /dev/null/acc.sqlite cannot be opened: the server's user needs to read and write it, and to write its directory");
}

/// `db_url` is taken out, and put back later: only what waited was given up, and nothing comes twice.
#[test]
fn without_a_database_only_what_waits_is_given_up() {
    for hours in [0, 1] {
        let p = place();
        let dir = Dir::open(&p.journal).unwrap();
        let kept = |config: Config| Config { journal_keep: Duration::from_secs(hours * 3600), ..config };
        let mut w = writer(&dir, 1);
        let append = |w: &mut Writer, n: usize| w.append_record(SinkId::Db, &record(Kind::Transaction, &format!("call-{n}"))).unwrap();
        (0..10).for_each(|n| append(&mut w, n));
        // One segment has ended, and goes or is kept; the next one stays open.
        drop(std::mem::replace(&mut w, writer(&dir, 2)));
        (10..20).for_each(|n| append(&mut w, n));
        let running = Running::start(kept(config(&p.database, &p.journal)), &dir);
        wait_until("the rows", || count(&p.database, "acc") == 20 && segments(&p.journal) == 1);
        running.stop();
        (20..23).for_each(|n| append(&mut w, n));
        drop(w);

        let letters = || std::fs::read_to_string(p.journal.join("dead-db.jsonl")).unwrap_or_default().lines().count();
        let running = Running::start(kept(common::config(None, &p.journal)), &dir);
        wait_until("the letters", || letters() >= 3 && segments(&p.journal) == 0);
        running.stop();
        assert_eq!(letters(), 3, "{hours} h");
        drop(dir);

        let accctl = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_accctl")).args(args).arg(&p.journal).output().unwrap();
        let url = format!("sqlite://{}", p.database.display());
        for args in [&["requeue", "--sink", "db"][..], &["deliver", "--url", &url]] {
            let out = accctl(args);
            assert!(out.status.success(), "{out:?}");
        }
        assert_eq!(query(&p.database, "SELECT count(*) || '/' || count(DISTINCT callid) FROM acc"), [["23/23"]], "{hours} h");
    }
}

/// As nodes of a cluster do that start at the same time, with a file that nobody has written to.
#[test]
fn servers_make_a_new_file_together() {
    let p = place();
    listen();
    execute(&p.database, "PRAGMA journal_mode = WAL");
    let others: Vec<_> = (0..3).map(|n| Dir::open(&p.journal.with_extension(n.to_string())).unwrap()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let running: Vec<_> = runtime.block_on(async {
        let mut other = SqliteConnection::connect(&format!("sqlite://{}", p.database.display())).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        let start = |(n, dir): (usize, &Dir)| {
            writer(dir, 1).append_record(SinkId::Db, &record(Kind::Cdr, &format!("call-{n}"))).unwrap();
            Running::start(config(&p.database, dir.path()), dir)
        };
        let running = others.iter().enumerate().map(start).collect();
        // Now all of them have seen it empty, and wait for their turn.
        std::thread::sleep(Duration::from_millis(500));
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        running
    });
    wait_until("all rows", || count(&p.database, "acc") == 3);
    running.into_iter().for_each(Running::stop);
    assert_eq!(said(&["UNIQUE constraint failed"]), [""; 0]);
}

/// Whoever may write neither to the file nor beside it can read it when the server has ended.
#[test]
fn a_stopped_server_leaves_a_file_that_others_can_read() {
    let p = place();
    std::fs::create_dir(&p.journal).unwrap();
    let dir = Dir::open(&p.journal).unwrap();
    let running = Running::start(config(&p.database, &p.journal), &dir);
    writer(&dir, 1).append_record(SinkId::Db, &record(Kind::Cdr, "read")).unwrap();
    wait_until("the row", || count(&p.database, "acc") == 1);
    assert_eq!(query(&p.database, "PRAGMA journal_mode"), [["wal"]]);
    running.stop();
    let place = p.database.parent().unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&p.database, 0o444);
    mode(place, 0o555);
    let mut reader = if is_root() { Command::new("runuser") } else { Command::new("sqlite3") };
    if is_root() {
        reader.args(["-u", "nobody", "--", "sqlite3"]);
    }
    let out = reader.arg(&p.database).arg("SELECT callid FROM acc").output().unwrap();
    mode(place, 0o755);
    assert_eq!((String::from_utf8_lossy(&out.stdout).trim(), String::from_utf8_lossy(&out.stderr).trim()), ("read", ""));
}

#[test]
fn another_writers_lock_loses_nothing() {
    let p = place();
    let dir = Dir::open(&p.journal).unwrap();
    let running = Running::start(config(&p.database, &p.journal), &dir);
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "first")).unwrap();
    while_locked(&p.database, || {
        for n in 0..200 {
            w.append_record(SinkId::Db, &record(Kind::Cdr, &format!("locked-{n}"))).unwrap();
        }
        // Longer than SQLite's own busy timeout of the sink.
        std::thread::sleep(Duration::from_millis(1500));
    });
    wait_until("all rows", || count(&p.database, "acc") == 201);
    running.stop();
    assert_eq!(count(&p.database, "acc"), 201);
}

#[test]
fn what_comes_while_a_full_batch_is_delivered_does_not_wait_for_more() {
    let p = place();
    let dir = Dir::open(&p.journal).unwrap();
    let configuration = config(&p.database, &p.journal);
    let batch: Vec<_> = (0..configuration.delivery_batch).map(|n| record(Kind::Cdr, &format!("batch-{n}"))).collect();
    let running = Running::start(configuration, &dir);
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "first")).unwrap();
    while_locked(&p.database, || {
        w.append_all(batch.iter().map(|r| (SinkId::Db, r)), None).unwrap();
        // The delivery has seen that nothing is behind the batch, and waits for the lock.
        std::thread::sleep(Duration::from_millis(400));
        w.append_record(SinkId::Db, &record(Kind::Cdr, "last")).unwrap();
        // The directory has been looked at again.
        std::thread::sleep(Duration::from_millis(400));
    });
    wait_until("all rows", || count(&p.database, "acc") == 1 + batch.len() + 1);
    running.stop();
}

#[test]
fn a_state_is_not_carried_over_behind_the_end_of_its_call() {
    let p = place();
    let dir = Dir::open(&p.journal).unwrap();
    // Segments that all go at once, in whatever order: of each call the state in one, the end in another.
    for call in 0..8 {
        writer(&dir, 2 * call).append_call(call as u128, b"state").unwrap();
        writer(&dir, 2 * call + 1).append_end(call as u128, &[(SinkId::Db, record(Kind::Cdr, &format!("call-{call}")))]).unwrap();
    }
    let running = Running::start(config(&p.database, &p.journal), &dir);
    wait_until("all rows", || count(&p.database, "acc") == 8);
    wait_until("the segments are removed", || dir.segments().unwrap().iter().all(|s| s.name.rank < 0));
    running.stop();
    let mut carried = Vec::new();
    for segment in dir.segments().unwrap() {
        let mut reader = dir.read(segment.name, 0).unwrap();
        while let Item::Frame(frame) = reader.read().unwrap() {
            carried.push(frame.payload[0]);
        }
    }
    assert!(carried.iter().all(|kind| *kind == 2), "ends only: {carried:?}");
}

#[test]
fn a_missing_column_holds_the_records_until_it_is_added() {
    let p = place();
    execute(
        &p.database,
        "CREATE TABLE acc (id INTEGER PRIMARY KEY, method TEXT, from_tag TEXT, to_tag TEXT, callid TEXT, sip_code TEXT, sip_reason TEXT, time DATETIME, \
         duration INTEGER, ms_duration INTEGER, setuptime INTEGER, created DATETIME, caller_uri TEXT)",
    );
    let dir = Dir::open(&p.journal).unwrap();
    let running = Running::start(config(&p.database, &p.journal), &dir);
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "waits")).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(count(&p.database, "acc"), 0);
    // In its own segment, and among those that wait for their table.
    assert_eq!(segments(&p.journal), 2);
    assert!(!p.journal.join("dead-db.jsonl").exists());
    execute(&p.database, "ALTER TABLE acc ADD COLUMN x_note VARCHAR(255) DEFAULT NULL");
    wait_until("the row", || count(&p.database, "acc") == 1);
    running.stop();
}

#[test]
fn poison_rows_and_unknown_script_tables_are_dead_and_the_rest_goes_on() {
    let p = place();
    let dir = Dir::open(&p.journal).unwrap();
    let mut w = writer(&dir, 1);
    let first = Running::start(config(&p.database, &p.journal), &dir);
    wait_until("the file", || query(&p.database, "SELECT name FROM sqlite_master WHERE name = 'acc_delivery'").len() == 1);
    first.stop();
    execute(&p.database, "CREATE TRIGGER t BEFORE INSERT ON acc WHEN new.callid LIKE 'poison%' BEGIN SELECT RAISE(ABORT, 'no poison'); END");
    for n in 0..120 {
        let mut r = record(Kind::Cdr, &if n % 40 == 7 { format!("poison-{n}") } else { format!("good-{n}") });
        if n == 60 {
            // A manual record's table must exist; one that a script names for its calls is made.
            r = record(Kind::Manual, "good-60");
            r.table = "no_such_table".into();
        }
        if n == 61 {
            r.table = "my_calls".into();
        }
        w.append_record(SinkId::Db, &r).unwrap();
    }
    let running = Running::start(config(&p.database, &p.journal), &dir);
    wait_until("the good rows", || count(&p.database, "acc") == 115);
    running.stop();
    assert_eq!((count(&p.database, "acc"), count(&p.database, "my_calls")), (115, 1));
    let dead = std::fs::read_to_string(p.journal.join("dead-db.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = dead.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for line in &lines {
        let (callid, reason) = (line["record"]["callid"].as_str().unwrap(), line["reason"].as_str().unwrap());
        if callid == "good-60" {
            assert!(reason.contains("no_such_table") && reason.contains("create it"), "{reason}");
        } else {
            assert!(callid.starts_with("poison-") && reason.contains("no poison"), "{callid}: {reason}");
        }
    }
}

#[test]
fn rows_refused_at_the_end_of_their_transaction_are_dead_and_the_rest_goes_on() {
    let p = place();
    let dir = Dir::open(&p.journal).unwrap();
    let mut w = writer(&dir, 1);
    execute(
        &p.database,
        "CREATE TABLE callers (uri TEXT PRIMARY KEY); INSERT INTO callers VALUES ('sip:a@example.com'); \
         CREATE TABLE acc (id INTEGER PRIMARY KEY, method TEXT, from_tag TEXT, to_tag TEXT, callid TEXT, sip_code TEXT, sip_reason TEXT, time DATETIME, \
         duration INTEGER, ms_duration INTEGER, setuptime INTEGER, created DATETIME, x_note TEXT, \
         caller_uri TEXT REFERENCES callers (uri) DEFERRABLE INITIALLY DEFERRED); \
         CREATE TRIGGER t BEFORE INSERT ON acc WHEN new.callid LIKE 'ends%' BEGIN SELECT RAISE(ROLLBACK, 'no more'); END",
    );
    for n in 0..120 {
        let mut r = record(Kind::Cdr, &if n % 30 == 11 { format!("ends-{n}") } else { format!("call-{n}") });
        if n % 30 == 12 {
            r.core.callid = format!("unknown-{n}").into_bytes();
            r.extras[0].value = Some(b"sip:nobody@example.com".to_vec());
        }
        w.append_record(SinkId::Db, &r).unwrap();
    }
    let running = Running::start(config(&p.database, &p.journal), &dir);
    wait_until("the good rows", || count(&p.database, "acc") >= 112);
    running.stop();
    assert_eq!(query(&p.database, "SELECT count(*) || ' ' || count(DISTINCT callid) FROM acc WHERE callid LIKE 'call-%'"), [["112 112"]]);
    // Each transaction has counted its own.
    assert_eq!(query(&p.database, "SELECT CAST(reached AS TEXT) FROM acc_delivery WHERE segment = 'records'"), [["112"]]);
    let dead = std::fs::read_to_string(p.journal.join("dead-db.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = dead.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let reason = |line: &serde_json::Value| [&line["record"]["callid"], &line["reason"]].map(|v| v.as_str().unwrap().to_string());
    let mut dead: Vec<_> = lines.iter().map(reason).collect();
    dead.sort();
    let ends = [101, 11, 41, 71].map(|n| [format!("ends-{n}"), "table acc refuses it: no more".into()]);
    let unknown = [102, 12, 42, 72].map(|n| [format!("unknown-{n}"), "table acc refuses it: FOREIGN KEY constraint failed".into()]);
    assert_eq!(dead, [ends, unknown].concat());
}

#[test]
fn without_its_cursor_table_the_rows_come_and_the_cursor_is_a_file() {
    let p = place();
    execute(&p.database, "CREATE VIEW acc_delivery AS SELECT 1 AS something_else");
    let dir = Dir::open(&p.journal).unwrap();
    let mut w = writer(&dir, 1);
    for round in 1..=2 {
        let running = Running::start(config(&p.database, &p.journal), &dir);
        for n in 0..100 {
            w.append_record(SinkId::Db, &record(Kind::Cdr, &format!("{round}-{n}"))).unwrap();
        }
        wait_until("the rows", || count(&p.database, "acc") == round * 100);
        running.stop();
        assert!(std::fs::read_to_string(p.journal.join("cursor-db")).unwrap().contains(".seg "));
    }
    assert_eq!(query(&p.database, "SELECT count(*) || ' ' || count(DISTINCT callid) FROM acc"), [["200 200"]]);
}

#[test]
fn the_cursor_goes_on_when_it_moves_from_the_file_into_the_table() {
    let p = place();
    let dir = Dir::open(&p.journal).unwrap();
    let mut writers: Vec<_> = (0..3).map(|rank| writer(&dir, rank)).collect();
    // Of one record of each writer: the rows that are there then, in order.
    let mut deliver = |round: &str, ranks: &[usize], count_then: usize| {
        for rank in ranks {
            writers[*rank].append_record(SinkId::Db, &record(Kind::Cdr, &format!("{round}-{rank}"))).unwrap();
        }
        let running = Running::start(config(&p.database, &p.journal), &dir);
        wait_until("the rows", || count(&p.database, "acc") >= count_then);
        running.stop();
        query(&p.database, "SELECT group_concat(callid, ' ') FROM (SELECT callid FROM acc ORDER BY callid)").concat().concat()
    };
    let file = || std::fs::read_to_string(p.journal.join("cursor-db")).unwrap();
    let no_table = "CREATE VIEW acc_delivery AS SELECT 1 AS something_else";
    execute(&p.database, no_table);
    assert_eq!(deliver("a", &[0, 1, 2], 3), "a-0 a-1 a-2");
    assert_eq!(file().lines().count(), 3);
    // The first batch is of one segment only; the positions in the others come along.
    execute(&p.database, "DROP VIEW acc_delivery");
    assert_eq!(deliver("b", &[0], 4), "a-0 a-1 a-2 b-0");
    assert_eq!(deliver("c", &[1], 5), "a-0 a-1 a-2 b-0 c-1");
    assert_eq!(count(&p.database, "acc_delivery WHERE segment LIKE '%.seg'"), 3);
    assert_eq!(file(), "");

    // A table that was away meanwhile is behind the file.
    execute(&p.database, &format!("DELETE FROM acc; ALTER TABLE acc_delivery RENAME TO away; {no_table}"));
    assert_eq!(deliver("d", &[0], 6), "a-0 a-1 a-2 b-0 c-1 d-0", "with no position known, all comes again");
    execute(&p.database, "DROP VIEW acc_delivery; ALTER TABLE away RENAME TO acc_delivery");
    assert_eq!(deliver("e", &[2], 7), "a-0 a-1 a-2 b-0 c-1 d-0 e-2");
    assert_eq!(deliver("f", &[1], 8), "a-0 a-1 a-2 b-0 c-1 d-0 e-2 f-1");
}

/// Somebody deleted one of the two rows that tell the state of the database.
#[test]
fn half_a_stamp_is_made_whole_and_nothing_comes_twice() {
    listen();
    for row in ["committed", "records"] {
        let p = place();
        let dir = Dir::open(&p.journal).unwrap();
        let running = Running::start(config(&p.database, &p.journal), &dir);
        writer(&dir, 1).append_record(SinkId::Db, &record(Kind::Cdr, "before")).unwrap();
        wait_until("the first row", || count(&p.database, "acc") == 1 && segments(&p.journal) == 0);
        running.stop();
        // Nor is any position left.
        execute(&p.database, &format!("DELETE FROM acc_delivery WHERE segment = '{row}' OR segment LIKE '%.seg'"));
        let running = Running::start(config(&p.database, &p.journal), &dir);
        for part in ["after", "later"] {
            writer(&dir, 2).append_record(SinkId::Db, &record(Kind::Cdr, part)).unwrap();
            wait_until("the next row", || query(&p.database, &format!("SELECT 1 FROM acc WHERE callid = '{part}'")).len() == 1);
        }
        running.stop();
        assert_eq!(query(&p.database, "SELECT callid FROM acc ORDER BY id"), [["before"], ["after"], ["later"]]);
        let records = query(&p.database, "SELECT reached FROM acc_delivery WHERE segment = 'records'");
        assert_eq!(records, [[if row == "records" { "2" } else { "3" }]]);
        assert_eq!(count(&p.database, "acc_delivery WHERE segment = 'committed'"), 1);
        assert_eq!(said(&[&format!("no row \"{row}\""), &format!("{:016x}", dir.id())]).len(), 1);
    }
}

/// Delivers from a journal that has the record "before", whose row is there.
fn started(p: &Place) -> (Running, Writer) {
    let dir = Dir::open(&p.journal).unwrap();
    let running = Running::start(config(&p.database, &p.journal), &dir);
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "before")).unwrap();
    wait_until("the first row", || count(&p.database, "acc") == 1);
    (running, w)
}

/// Another process, with a copy of the journal, would move it in the same way.
#[test]
fn a_cursor_that_somebody_else_keeps_moving_is_named() {
    listen();
    let p = place();
    let (running, mut w) = started(&p);
    execute(&p.database, "CREATE TRIGGER theirs BEFORE UPDATE ON acc_delivery BEGIN SELECT RAISE(IGNORE); END");
    w.append_record(SinkId::Db, &record(Kind::Cdr, "after")).unwrap();
    let named = ["cursor in table acc_delivery is never where this server left it", "journal_dir"];
    wait_until("a word", || !said(&named).is_empty());
    execute(&p.database, "DROP TRIGGER theirs");
    wait_until("the row", || count(&p.database, "acc") == 2);
    running.stop();
    assert_eq!(said(&named).len(), 1);
    assert_eq!(query(&p.database, "SELECT callid FROM acc ORDER BY id"), [["before"], ["after"]]);
}

#[test]
fn a_database_file_moved_away_is_made_anew() {
    let p = place();
    let (running, mut w) = started(&p);
    let moved = p.database.with_extension("old");
    for suffix in ["", "-wal", "-shm"] {
        let with = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        let _ = std::fs::rename(with(&p.database), with(&moved));
    }
    w.append_record(SinkId::Db, &record(Kind::Cdr, "after")).unwrap();
    wait_until("the row in the new file", || query(&p.database, "SELECT callid FROM acc WHERE callid = 'after'").len() == 1);
    running.stop();
    assert_eq!(query(&moved, "SELECT callid FROM acc"), [["before"]]);
    // Its segment is still there, and the new file does not say that it was read.
    assert_eq!(query(&p.database, "SELECT callid FROM acc ORDER BY id"), [["before"], ["after"]]);
}

/// Runs a command line, with a path as `$1`.
fn sh(command: &str, path: &Path) -> bool {
    std::process::Command::new("sh").args(["-c", command, "sh"]).arg(path).output().unwrap().status.success()
}

#[test]
fn permission_lost_while_the_server_runs_costs_only_what_is_refused() {
    /// Gives it back, however the test ends.
    struct Undo<'a>(&'a str, &'a Path);
    impl Drop for Undo<'_> {
        fn drop(&mut self) {
            sh(self.0, self.1);
        }
    }
    let p = place();
    std::fs::create_dir(&p.journal).unwrap();
    // No mode forbids anything to root.
    let (close, open) =
        if rustix::process::geteuid().is_root() { ("chattr +i \"$1\"", "chattr -i \"$1\"") } else { ("chmod 0500 \"$1\"", "chmod 0700 \"$1\"") };
    let _undo = Undo(open, &p.journal);
    if !sh(close, &p.journal) || std::fs::write(p.journal.join("x"), "").is_ok() {
        return skip("chattr");
    }
    assert!(sh(open, &p.journal));
    let dir = Dir::open(&p.journal).unwrap();
    let (mut w, mut other) = (writer(&dir, 1), writer(&dir, 2));
    for n in 0..200 {
        w.append_record(SinkId::Db, &record(Kind::Cdr, &format!("before-{n}"))).unwrap();
    }
    let made = segments(&p.journal);
    assert!(made > 1, "some are sealed");
    assert!(sh(close, &p.journal));
    // The database is somewhere else: it gets what was accepted.
    let running = Running::start(config(&p.database, &p.journal), &dir);
    wait_until("the rows", || count(&p.database, "acc") == 200);
    // A writer that needs a file is refused, one that has one goes on.
    assert!(other.append_record(SinkId::Db, &record(Kind::Cdr, "refused")).is_err());
    w.append_record(SinkId::Db, &record(Kind::Cdr, "meanwhile")).unwrap();
    wait_until("the next row", || count(&p.database, "acc") == 201);
    assert_eq!(segments(&p.journal), made, "none can be removed");
    assert!(sh(open, &p.journal));
    other.append_record(SinkId::Db, &record(Kind::Cdr, "after")).unwrap();
    drop((w, other));
    wait_until("the segments go", || segments(&p.journal) == 0);
    running.stop();
    assert_eq!(query(&p.database, "SELECT count(*), count(DISTINCT callid), sum(callid = 'refused') FROM acc"), [["202", "202", "0"]]);
}

/// A RADIUS server that answers when it may.
struct Radius {
    answers: Arc<AtomicBool>,
    got: Arc<AtomicUsize>,
}

impl RecordSender for Radius {
    fn send_all<'a>(&'a mut self, records: &'a [Offer<'a>]) -> LocalFuture<'a, Vec<Fate>> {
        let answers = self.answers.load(Ordering::Relaxed);
        if answers {
            self.got.fetch_add(records.len(), Ordering::Relaxed);
        }
        Box::pin(async move { vec![if answers { Fate::Delivered } else { Fate::Retry("no answer".into()) }; records.len()] })
    }
}

#[test]
fn an_older_database_gets_what_it_lacks_of_segments_that_others_are_past() {
    const ALONE: &str = "ACC_TEST_OLDER";
    if std::env::var_os(ALONE).is_none() {
        // Whether there is an outage is known for the whole process.
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let out = alone.args(["--exact", "an_older_database_gets_what_it_lacks_of_segments_that_others_are_past"]).env(ALONE, "1").output().unwrap();
        assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        return;
    }
    let p = place();
    let dir = Dir::open(&p.journal).unwrap();
    let (answers, got) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let start = || {
        let (config, answers, got) = (config(&p.database, &p.journal), answers.clone(), got.clone());
        Running::start_with(&dir, move |delivery| {
            delivery.config = config;
            delivery.makers.push(one_by_one(SinkId::Aaa, || Ok(Box::new(Radius { answers, got }))));
        })
    };
    let mut live = writer(&dir, 1);
    let running = start();
    live.append_record(SinkId::Db, &record(Kind::Cdr, "first")).unwrap();
    wait_until("the first row", || count(&p.database, "acc") == 1);
    running.stop();
    // An older database, and one that takes nothing for now.
    let (older, newer) = (p.database.with_extension("older"), p.database.with_extension("newer"));
    std::fs::copy(&p.database, &older).unwrap();
    execute(&older, "CREATE TRIGGER t BEFORE INSERT ON acc BEGIN SELECT gone(); END");

    // A segment that is more than one batch.
    const MANY: usize = 200;
    let mut sealed = Writer::new(&dir, 2, std::process::id(), JournalSync::Batch, 1 << 20);
    sealed.append_record(SinkId::Aaa, &record(Kind::Cdr, "for RADIUS")).unwrap();
    for n in 0..MANY {
        sealed.append_record(SinkId::Db, &record(Kind::Cdr, &format!("sealed-{n}"))).unwrap();
    }
    drop(sealed);
    let running = start();
    wait_until("the rows", || count(&p.database, "acc") == 1 + MANY);
    live.append_record(SinkId::Db, &record(Kind::Cdr, "second")).unwrap();
    wait_until("the next row", || count(&p.database, "acc") == 1 + MANY + 1);
    for suffix in ["-wal", "-shm", ""] {
        let with = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        let _ = std::fs::rename(with(&p.database), with(&newer));
    }
    std::fs::rename(&older, &p.database).unwrap();
    live.append_record(SinkId::Db, &record(Kind::Cdr, "third")).unwrap();
    wait_until("the outage", || SinkId::Db.state().outage_seconds().is_some());
    // Now the other one is past its end.
    answers.store(true, Ordering::Relaxed);
    wait_until("the answer of RADIUS", || got.load(Ordering::Relaxed) == 1);
    // The directory has been looked at again.
    std::thread::sleep(Duration::from_millis(500));
    execute(&p.database, "DROP TRIGGER t");
    wait_until("the rows again", || count(&p.database, "acc") >= 3 + MANY);
    wait_until("the segment goes", || segments(&p.journal) == 1);
    running.stop();
    assert_eq!(query(&p.database, "SELECT count(*) || ' ' || count(DISTINCT callid) FROM acc"), [[format!("{0} {0}", 3 + MANY)]]);
}

/// Not a test: the process that the next one kills.
#[test]
fn a_delivery_process_to_be_killed() {
    let Some(base) = std::env::var_os("ACC_TEST_KILLED").map(PathBuf::from) else { return };
    let journal = base.join("journal");
    let config = config(&base.join("acc.sqlite"), &journal);
    // The parent holds the lock, as a server does for its children.
    let running = Running::start(config, &Dir::open_to_read(&journal).unwrap());
    std::thread::sleep(PATIENCE);
    running.stop();
}

#[test]
fn a_killed_delivery_process_repeats_nothing_and_loses_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let (journal, database) = (tmp.path().join("journal"), tmp.path().join("acc.sqlite"));
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    const ROUNDS: usize = 6;
    const EACH: usize = 300;
    for round in 0..ROUNDS {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_delivery_process_to_be_killed"])
            .env("ACC_TEST_KILLED", tmp.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        for n in 0..EACH {
            w.append_record(SinkId::Db, &record(Kind::Cdr, &format!("{round}-{n}"))).unwrap();
        }
        // Killed at once when there is something new, wherever that is in its work; the last may finish.
        let enough = if round + 1 < ROUNDS { round * EACH + 1 } else { ROUNDS * EACH };
        wait_until("rows", || count(&database, "acc") >= enough);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(query(&database, "SELECT count(*) || ' ' || count(DISTINCT callid) FROM acc"), [[format!("{0} {0}", ROUNDS * EACH)]]);
}
