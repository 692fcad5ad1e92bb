//! The same rows in MariaDB and PostgreSQL, on private servers.
#![forbid(unsafe_code)]

mod common;

use std::time::Duration;

use acc::accounting::record::Kind;
use acc::journal::{Dir, JournalSync, SinkId, Writer};
use common::servers::{COLUMNS, PASSWORD, Server, mariadb, postgres};
use common::*;

/// Tells why a test did nothing, where the harness does not swallow it.
/// Everything that has to be the same on both servers.
fn exercise(server: &Server, url: &str, id: &str, time: &str) {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);

    // Nothing is there yet: the records wait, the operator makes the table, a column too few.
    let running = Running::start(config(Some(url), &journal), &dir);
    for n in 0..300 {
        w.append_record(SinkId::Db, &record(Kind::Cdr, &format!("call-{n}"))).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    let numbers = "duration INT DEFAULT 0 NOT NULL, ms_duration INT DEFAULT 0 NOT NULL, setuptime INT DEFAULT 0 NOT NULL";
    server.sql(&format!("CREATE TABLE acc ({id}, {COLUMNS}, time {time} NOT NULL, {numbers}, created {time} DEFAULT NULL, caller_uri VARCHAR(20))"));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.count("acc"), 0);
    server.sql("ALTER TABLE acc ADD COLUMN x_note INT DEFAULT NULL");
    wait_until("the rows", || server.count("acc") == 300);
    running.stop();
    assert_eq!(server.sql("SELECT count(DISTINCT callid) FROM acc").trim(), "300");

    // Odd values, poison, a table that only the script knows.
    let mut odd = record(Kind::Cdr, "odd");
    odd.core.reason = "é".repeat(40).into_bytes();
    odd.core.to_tag = b"a\xffb".to_vec();
    odd.extras = vec![field("caller_uri", Some(b"'\"\\;--%s")), field("x_note", Some(b"42"))];
    let mut poison = record(Kind::Cdr, "poison");
    poison.extras[1].value = Some(b"not a number".to_vec());
    let mut lost = record(Kind::Cdr, "lost");
    lost.table = "no_such_table".into();
    let mut manual = record(Kind::Manual, "manual");
    manual.times = None;
    for r in [&odd, &poison, &lost, &manual, &record(Kind::Transaction, "last")] {
        w.append_record(SinkId::Db, r).unwrap();
    }
    let running = Running::start(config(Some(url), &journal), &dir);
    wait_until("the good rows", || server.count("acc") == 303);
    running.stop();
    let local = |seconds| chrono::DateTime::from_timestamp(seconds, 0).unwrap().with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string();
    let (time, created) = (local(1_700_000_003), local(1_700_000_000));
    let rows = server.sql(
        "SELECT callid, to_tag, sip_reason, time, caller_uri, x_note, setuptime, created, duration, ms_duration FROM acc WHERE callid NOT LIKE 'call-%' ORDER BY callid",
    );
    let want = [
        format!("last\ttt\tOK\t{time}\tsip:a@example.com\tNULL\t2\t{created}\t0\t0"),
        format!("manual\ttt\tOK\t{time}\tNULL\tNULL\t0\tNULL\t0\t0"),
        // The client doubles the backslash on output in MariaDB's batch mode.
        format!("odd\ta\\xffb\t{}\t{time}\t'\"\\;--%s\t42\t2\t{created}\t2\t1203", "é".repeat(32)),
    ];
    assert_eq!(rows.replace("\\\\", "\\").lines().collect::<Vec<_>>(), want);
    // Cursors of removed segments do not pile up.
    assert!(["1", "2"].contains(&server.sql("SELECT count(*) FROM acc_delivery WHERE segment LIKE '%.seg'").trim()));
    let dead = std::fs::read_to_string(journal.join("dead-db.jsonl")).unwrap();
    let mut dead: Vec<String> =
        dead.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["record"]["callid"].as_str().unwrap().to_string()).collect();
    dead.sort();
    assert_eq!(dead, ["lost", "poison"]);

    for (clock, times) in ZONE_TIMES {
        let table = format!("zoned_{clock}");
        let made = accctl_in_zone(&["schema", "--apply", "--url", url, "--extra", "a->caller_uri; b->x_note", "--table-acc", &table]);
        assert!(made.contains(&table), "{made}");
        deliver_in_zone(url, &table, &["--db-time", clock]);
        assert_eq!(server.sql(&format!("SELECT time, created FROM {table}")).trim(), times.join("\t"), "{clock}");
    }
}

/// The committed schema makes a database (which the client enters by `enter`) that lacks nothing.
fn install(server: &Server, dialect: &str, enter: &str, url: &str) {
    server.sql("CREATE DATABASE fresh");
    let file = std::fs::read_to_string(schema_file(dialect)).unwrap();
    server.sql(&format!("{enter}\n{file}"));
    assert_eq!(accctl_in_zone(&["schema", "--url", url]), "");
    let fields = accctl_in_zone(&["schema", "--apply", "--url", url, "--extra", "a->caller_uri; b->x_note"]);
    assert_eq!(fields.matches("ALTER TABLE").count(), 6, "{fields}");
    deliver_in_zone(url, "acc", &[]);
    let rows = server.sql(&format!("{enter}\nSELECT callid FROM acc; SELECT table_name, table_version FROM version ORDER BY 1"));
    assert_eq!(rows.lines().collect::<Vec<_>>(), ["zoned", "acc\t7", "missed_calls\t5"]);
    // Where the host's own table of versions is, only what is missing comes.
    server.sql(&format!("{enter}\nDROP TABLE acc; DROP TABLE acc_delivery;"));
    let missing = accctl_in_zone(&["schema", "--apply", "--url", url, "--extra", "ip"]);
    assert!(missing.contains("CREATE TABLE") && missing.contains("acc_delivery") && !missing.contains("version"), "{missing}");
    assert_eq!(accctl_in_zone(&["schema", "--url", url, "--extra", "ip"]), "");
}

#[test]
fn mariadb_gets_every_record_once() {
    let Some(server) = mariadb() else { return skip("MariaDB") };
    let url = format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", server.port);
    exercise(&server, &url, "id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY", "DATETIME");

    server.sql("GRANT ALL ON fresh.* TO acc@'127.0.0.1'");
    install(&server, "mysql", "USE fresh;", &format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/fresh", server.port));

    // A character that a column's set lacks costs no record.
    server.sql("ALTER TABLE acc MODIFY from_tag VARCHAR(64) CHARACTER SET latin1, MODIFY sip_reason VARCHAR(32) CHARACTER SET utf8mb3");
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let running = Running::start(config(Some(&url), tmp.path()), &dir);
    let mut emoji = record(Kind::Cdr, "emoji");
    emoji.core.from_tag = "é中".into();
    emoji.core.reason = "中😀".into();
    writer(&dir, 1).append_record(SinkId::Db, &emoji).unwrap();
    wait_until("the row", || server.sql("SELECT count(*) FROM acc WHERE callid = 'emoji'").trim() == "1");
    running.stop();
    assert_eq!(
        server.sql("SELECT from_tag, sip_reason FROM acc WHERE callid = 'emoji'").replace("\\\\", "\\").trim(),
        "é\\xe4\\xb8\\xad\t中\\xf0\\x9f\\x98\\x80"
    );

    // Long values in a row, of more than the server takes at once, among many short ones.
    server.sql("SET GLOBAL max_allowed_packet = 4194304; ALTER TABLE acc MODIFY x_note TEXT; DELETE FROM acc");
    let mut w = Writer::new(&dir, 2, std::process::id(), JournalSync::Batch, 16 << 20);
    let records: Vec<_> = (0..500)
        .map(|n| {
            let mut r = record(Kind::Cdr, &format!("long-{n}"));
            r.extras[1].value = Some(vec![b'x'; if n < 64 { 65_535 } else { 100 }]);
            r
        })
        .collect();
    w.append_all(records.iter().map(|r| (SinkId::Db, r)), None).unwrap();
    let mut config = config(Some(&url), tmp.path());
    config.delivery_batch = records.len();
    let running = Running::start(config, &dir);
    wait_until("the rows", || server.count("acc") == records.len());
    running.stop();
    assert_eq!(server.sql("SELECT sum(length(x_note)) FROM acc").trim(), (436 * 100 + 64 * 65_535).to_string());
}

#[test]
fn postgresql_gets_every_record_once() {
    let Some(server) = postgres() else { return skip("PostgreSQL") };
    let url = format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/postgres", server.port);
    exercise(&server, &url, "id BIGSERIAL PRIMARY KEY", "TIMESTAMP");

    install(&server, "postgres", "\\c fresh", &format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/fresh", server.port));

    // Columns that hold a zone get the instant, whichever clock the others show.
    server.sql("ALTER TABLE zoned_local ALTER time TYPE timestamptz, ALTER created TYPE timestamptz; DELETE FROM zoned_local");
    for clock in ["local", "utc"] {
        deliver_in_zone(&url, "zoned_local", &["--db-time", clock]);
    }
    assert_eq!(
        server.sql("SELECT DISTINCT time AT TIME ZONE 'UTC', created AT TIME ZONE 'UTC' FROM zoned_local").trim(),
        "2023-11-14 22:13:23\t2023-11-14 22:13:20"
    );
    assert_eq!(server.count("zoned_local"), 2);

    // What is refused only at the end of the transaction is found among the others.
    server.sql("DELETE FROM acc; DELETE FROM acc_seen; ALTER TABLE acc ADD UNIQUE (callid) DEFERRABLE INITIALLY DEFERRED");
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir, 1);
    for n in 0..40 {
        let mut cdr = record(Kind::Cdr, &format!("call-{n}"));
        if n == 25 {
            cdr.core.callid = "call-5".into();
        }
        w.append_record(SinkId::Db, &cdr).unwrap();
    }
    let running = Running::start(config(Some(&url), tmp.path()), &dir);
    wait_until("the others", || server.count("acc") == 39);
    running.stop();
    assert_eq!(server.count("acc"), 39);
    let dead = std::fs::read_to_string(tmp.path().join("dead-db.jsonl")).unwrap();
    assert!(dead.lines().count() == 1 && dead.contains("violates unique constraint") && dead.contains("\"callid\":\"call-5\""), "{dead}");
}
