//! One record that is refused, or a table that is not there, holds nothing else up: on real servers.
#![forbid(unsafe_code)]

mod common;

use std::path::Path;
use std::sync::Mutex;

use acc::accounting::record::Kind;
use acc::config::Config;
use acc::journal::limit::{Append, Limits, WhenFull};
use acc::journal::{Dir, JournalSync, SinkId, Writer};
use acc::stats::{self, Counter};
use common::servers::{COLUMNS, PASSWORD, Server, mariadb, mariadb_with, pgbouncer, postgres};
use common::*;

/// Counters and messages belong to the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());
fn alone() -> std::sync::MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    listen();
    forget_what_was_said();
    guard
}

fn parked() -> u64 {
    stats::get(SinkId::Db.counters().parked)
}

/// accepted = delivered + dead + pending + parked, now.
fn adds_up() {
    let counters = stats::Snapshot::take();
    let c = SinkId::Db.counters();
    let [accepted, delivered, dead, pending, parked] = [c.accepted, c.delivered, c.dead, c.pending, c.parked].map(|c| counters.get(c));
    assert_eq!(accepted, delivered + dead + pending + parked);
}

/// A journal, what goes into it, and its delivery.
struct Place {
    tmp: tempfile::TempDir,
    dir: Dir,
    writer: Writer,
}

impl Place {
    fn new() -> Place {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        Place { writer: writer(&dir, 1), tmp, dir }
    }

    fn start(&self, url: &str, change: impl FnOnce(&mut Config)) -> Running {
        let mut config = config(Some(url), self.tmp.path());
        change(&mut config);
        Running::start(config, &self.dir)
    }

    fn write(&mut self, kind: Kind, callids: &[&str]) {
        for callid in callids {
            self.writer.append_record(SinkId::Db, &record(kind, callid)).unwrap();
        }
    }

    /// Call-IDs and reasons of the dead letters.
    fn dead(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.tmp.path().join("dead-db.jsonl")).unwrap_or_default();
        let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        lines.map(|l| (l["record"]["callid"].as_str().unwrap().into(), l["reason"].as_str().unwrap().into())).collect()
    }

    fn path(&self) -> &Path {
        self.tmp.path()
    }
}

fn rows(server: &Server, table: &str) -> Vec<String> {
    server.sql(&format!("SELECT callid FROM {table} ORDER BY callid")).lines().map(String::from).collect()
}

/// How the two servers say the same.
struct Dialect {
    url: fn(u16) -> String,
    id: &'static str,
    time: &'static str,
    /// Refuses a row with a code of the operator's own.
    trigger: &'static [&'static str],
    drop_trigger: &'static str,
    says: &'static str,
    /// Grows with the statements that change something.
    statements: &'static str,
    /// The note of a missed call is a number from now on.
    another_type: &'static str,
    /// The database makes it.
    generated: &'static str,
    partitioned: &'static str,
    add_partition: &'static str,
}

const MARIADB: Dialect = Dialect {
    url: |port| format!("mysql://acc:{PASSWORD}@127.0.0.1:{port}/acc"),
    id: "id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY NOT NULL",
    time: "DATETIME",
    trigger: &[
        "DELIMITER //",
        "CREATE TRIGGER rating BEFORE INSERT ON acc FOR EACH ROW BEGIN IF NEW.callid LIKE 'bad%' THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 31001, \
         MESSAGE_TEXT = 'no tariff'; END IF; END//",
    ],
    drop_trigger: "DROP TRIGGER rating",
    says: "no tariff",
    statements: "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'COM_INSERT'",
    another_type: "UPDATE missed_calls SET x_note = NULL; ALTER TABLE missed_calls MODIFY x_note INT",
    generated: "ALTER TABLE missed_calls DROP x_note; ALTER TABLE missed_calls ADD x_note VARCHAR(8) AS ('made') PERSISTENT",
    partitioned: " PARTITION BY RANGE (TO_DAYS(time)) (PARTITION old VALUES LESS THAN (TO_DAYS('2020-01-01')))",
    add_partition: "ALTER TABLE acc ADD PARTITION (PARTITION now VALUES LESS THAN (MAXVALUE))",
};

const POSTGRES: Dialect = Dialect {
    url: |port| format!("postgres://acc:{PASSWORD}@127.0.0.1:{port}/postgres"),
    id: "id BIGSERIAL NOT NULL",
    time: "TIMESTAMP",
    trigger: &[
        "CREATE FUNCTION rating() RETURNS trigger AS $$ BEGIN IF NEW.callid LIKE 'bad%' THEN RAISE EXCEPTION 'no tariff' USING ERRCODE = 'BILL1'; END IF; \
         RETURN NEW; END $$ LANGUAGE plpgsql;",
        "CREATE TRIGGER rating BEFORE INSERT ON acc FOR EACH ROW EXECUTE FUNCTION rating();",
    ],
    drop_trigger: "DROP TRIGGER rating ON acc",
    says: "no tariff",
    // A savepoint behind which something was inserted takes a number, too.
    statements: "SELECT txid_current()",
    another_type: "ALTER TABLE missed_calls ALTER x_note TYPE INT USING NULL",
    generated: "ALTER TABLE missed_calls DROP x_note; ALTER TABLE missed_calls ADD x_note VARCHAR(8) GENERATED ALWAYS AS ('made') STORED",
    partitioned: " PARTITION BY RANGE (time)",
    add_partition: "CREATE TABLE acc_now PARTITION OF acc FOR VALUES FROM ('2020-01-01') TO ('2100-01-01')",
};

impl Dialect {
    fn create(&self, table: &str, columns: &str, end: &str) -> String {
        let id = if end.is_empty() { self.id.to_string() } else { self.id.replace(" PRIMARY KEY", "").replace(" AUTO_INCREMENT", "").replace(" NOT NULL", "") };
        let time = self.time;
        format!(
            "CREATE TABLE {table} ({id}, {COLUMNS}, time {time} NOT NULL, duration INT DEFAULT 0 NOT NULL, ms_duration INT DEFAULT 0 NOT NULL, \
             setuptime INT DEFAULT 0 NOT NULL, created {time} DEFAULT NULL{columns}){end};"
        )
    }
}

const EXTRAS: &str = ", caller_uri VARCHAR(64), x_note VARCHAR(64)";

/// A trigger that refuses one of seven with a code of its own.
fn refused_by_a_trigger(d: &Dialect, server: &mut Server) {
    let url = (d.url)(server.port);
    server.sql(&d.create("acc", EXTRAS, ""));
    server.sql(&d.trigger.join("\n"));
    let mut place = Place::new();
    let calls = ["a", "b", "c", "bad", "d", "e", "f"];
    place.write(Kind::Cdr, &calls);
    let running = place.start(&url, |c| c.delivery_give_up = Some(3));
    let others = ["a", "b", "c", "d", "e", "f"];
    wait_until("the others", || rows(server, "acc") == others);
    assert_eq!(said(&["outage"]).len(), 0);
    adds_up();
    wait_until("a dead letter", || place.dead().len() == 1);
    let (callid, reason) = place.dead().remove(0);
    assert!(callid == "bad" && reason.contains(d.says) && reason.contains("refused 3 times") && reason.contains("delivery_give_up"), "{reason}");
    wait_until("nothing waits apart", || parked() == 0);
    wait_until("the segments go", || place.dir.segments().unwrap().iter().all(|s| !s.sealed));
    running.stop();

    // Alone, and stopped in between: repaired in time it goes in, once.
    place.write(Kind::Cdr, &["bad-2"]);
    let running = place.start(&url, |_| {});
    wait_until("it waits apart", || parked() == 1);
    adds_up();
    running.stop();
    let out = accctl_in_zone(&["status", place.path().to_str().unwrap()]);
    assert!(out.contains("at most 1 parked"), "{out}");
    let out = accctl_in_zone(&["dump", place.path().to_str().unwrap()]);
    assert!(out.contains("bad-2") && out.contains("(parked, refused 1 times: ") && out.contains(d.says), "{out}");
    let out = accctl_in_zone(&["verify", place.path().to_str().unwrap()]);
    assert!(out.contains("0 damaged, 0 duplicates"), "{out}");
    server.sql(d.drop_trigger);
    let running = place.start(&url, |_| {});
    wait_until("it goes in", || rows(server, "acc").contains(&"bad-2".to_string()));
    place.write(Kind::Cdr, &["last"]);
    wait_until("and others", || rows(server, "acc").contains(&"last".to_string()));
    running.stop();
    assert_eq!(rows(server, "acc").iter().filter(|c| *c == "bad-2").count(), 1);
    assert_eq!((place.dead().len(), parked()), (1, 0));
    server.sql("DROP TABLE acc");

    // All of them: that is an outage, and nothing is given up.
    let mut place = Place::new();
    server.sql(&d.create("acc", EXTRAS, ""));
    server.sql(&d.trigger.iter().filter(|t| !t.contains("FUNCTION rating() ")).copied().collect::<Vec<_>>().join("\n"));
    place.write(Kind::Cdr, &["bad-3", "bad-4", "bad-5"]);
    // Not 1: the trigger may go between the first row and the others, and then that one is refused alone.
    let running = place.start(&url, |c| c.delivery_give_up = Some(3));
    wait_until("the outage", || !said(&["db: ", d.says, "are retried"]).is_empty());
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!((parked(), place.dead().len()), (0, 0));
    server.sql(d.drop_trigger);
    wait_until("all of them", || rows(server, "acc") == ["bad-3", "bad-4", "bad-5"]);
    running.stop();
    server.sql("DROP TABLE acc");
}

/// What is refused among 500 records is found without trying many parts of them.
fn few_statements(d: &Dialect, server: &Server, port: u16) {
    let url = (d.url)(port);
    let done = || server.sql(d.statements).trim().parse::<u64>().unwrap();
    server.sql(&d.create("acc", EXTRAS, ""));
    server.sql(&d.trigger.iter().filter(|t| !t.contains("FUNCTION rating() ")).copied().collect::<Vec<_>>().join("\n"));
    let mut place = Place::new();
    let callids: Vec<String> = (0..500).map(|n| if n % 33 == 20 { format!("bad-{n}") } else { format!("c{n}") }).collect();
    let refused = callids.iter().filter(|c| c.starts_with("bad")).count();
    // Two of them stand next to each other, and legs make two rows of each.
    for callid in callids.iter().chain([&"bad-500".into(), &"bad-501".into()]) {
        let mut r = record(Kind::Cdr, callid);
        r.legs = vec![vec![field("leg_src", Some(b"a"))], vec![field("leg_src", Some(b"b"))]];
        place.writer.append_record(SinkId::Db, &r).unwrap();
    }
    server.sql("ALTER TABLE acc ADD COLUMN leg_src VARCHAR(16)");
    let before = done();
    let running = place.start(&url, |c| (c.delivery_batch, c.delivery_give_up) = (600, Some(1)));
    wait_until("the dead letters", || place.dead().len() == refused + 2);
    wait_until("the others", || rows(server, "acc").len() == 2 * (500 - refused));
    running.stop();
    let statements = done() - before;
    // Without a refused one these are 35.
    assert!(statements < 100, "{statements} for {refused}");
    assert!(place.dead().iter().all(|(callid, reason)| callid.starts_with("bad") && reason.contains(d.says)), "{:?}", place.dead());
    server.sql("DROP TABLE acc; DELETE FROM acc_seen");
}

/// A column of one table gets another type, or is generated, while the delivery runs. The database refuses the whole statement:
/// the table is looked at again, rows that fit go in, and no row of the other table goes with those that do not.
fn another_column(d: &Dialect, server: &Server) {
    let url = (d.url)(server.port);
    server.sql(&d.create("acc", EXTRAS, ""));
    server.sql(&d.create("missed_calls", EXTRAS, ""));
    let outages = || said(&["are retried"]).len();
    let before = outages();
    let mut place = Place::new();
    let missed = |writer: &mut Writer, callid: &str, note: &str| {
        let mut r = record(Kind::Missed, callid);
        r.extras = vec![field("caller_uri", Some(b"sip:a")), field("x_note", Some(note.as_bytes()))];
        writer.append_record(SinkId::Db, &r).unwrap();
    };
    missed(&mut place.writer, "m-known", "text");
    place.write(Kind::Cdr, &["a-known"]);
    let running = place.start(&url, |c| c.delivery_give_up = Some(1));
    wait_until("both tables are known", || rows(server, "acc").len() == 1 && rows(server, "missed_calls").len() == 1);
    server.sql(d.another_type);
    for n in 0..400 {
        match n % 9 {
            3 => missed(&mut place.writer, &format!("m{n}"), "text"),
            4 => missed(&mut place.writer, &format!("n{n}"), "12"),
            _ => place.write(Kind::Cdr, &[&format!("a{n}")]),
        }
    }
    let refused = (0..400).filter(|n| n % 9 == 3).count();
    let fitting = (0..400).filter(|n| n % 9 == 4).count();
    wait_until("the dead letters", || place.dead().len() == refused);
    wait_until("nothing waits apart", || parked() == 0);
    wait_until("the others", || rows(server, "acc").len() == 1 + 400 - refused - fitting && rows(server, "missed_calls").len() == 1 + fitting);
    adds_up();
    assert!(place.dead().iter().all(|(callid, _)| callid.starts_with('m')), "{:?}", place.dead());

    server.sql(d.generated);
    missed(&mut place.writer, "g", "text");
    place.write(Kind::Cdr, &["a-last"]);
    wait_until("both rows", || rows(server, "missed_calls").contains(&"g".into()) && rows(server, "acc").contains(&"a-last".into()));

    // A trigger says the same of one row: looking at the table again does not help, and the table is not held for it.
    let trigger = d.trigger.join("\n").replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION");
    server.sql(&trigger.replace("31001", "1906").replace("BILL1", "42804"));
    place.write(Kind::Cdr, &["bad", "a-behind"]);
    wait_until("the row behind", || rows(server, "acc").contains(&"a-behind".into()));
    wait_until("its dead letter", || place.dead().len() == refused + 1);
    running.stop();
    assert_eq!((parked(), outages()), (0, before));
    assert_eq!(server.sql("SELECT x_note FROM missed_calls WHERE callid = 'g'").trim(), "made");
    // Other tests use the function as it was.
    server.sql(&format!("{};\n{trigger}", d.drop_trigger));
    server.sql("DROP TABLE acc; DROP TABLE missed_calls; DELETE FROM acc_seen");
}

/// A column that only the table of missed calls lacks, then the table itself.
fn a_tables_trouble(d: &Dialect, server: &mut Server) {
    let url = (d.url)(server.port);
    server.sql(&d.create("acc", EXTRAS, ""));
    server.sql(&d.create("missed_calls", ", caller_uri VARCHAR(64)", ""));
    let mut place = Place::new();
    let missed = |writer: &mut Writer, callid: &str| {
        writer.append_record(SinkId::Db, &record(Kind::Missed, callid)).unwrap();
    };
    missed(&mut place.writer, "m1");
    place.write(Kind::Cdr, &["a1"]);
    missed(&mut place.writer, "m2");
    place.write(Kind::Cdr, &["a2"]);
    let running = place.start(&url, |c| c.delivery_give_up = Some(1));
    wait_until("the rows of the other table", || rows(server, "acc") == ["a1", "a2"]);
    wait_until("the message", || said(&["table missed_calls lacks x_note; add it: ALTER TABLE", "other tables are not affected"]).len() == 1);
    wait_until("its rows wait apart", || parked() == 2);
    adds_up();
    for n in 3..60 {
        missed(&mut place.writer, &format!("m{n}"));
    }
    place.write(Kind::Cdr, &["a3"]);
    wait_until("more rows of the other table", || rows(server, "acc").len() == 3);
    server.sql("ALTER TABLE missed_calls ADD COLUMN x_note VARCHAR(64)");
    wait_until("its rows come", || rows(server, "missed_calls").len() == 59);
    let order = server.sql("SELECT callid FROM missed_calls ORDER BY id");
    assert_eq!(order.lines().take(2).collect::<Vec<_>>(), ["m1", "m2"], "{order}");
    wait_until("nothing waits apart", || parked() == 0);

    // The table is away, over a restart.
    server.sql("ALTER TABLE missed_calls RENAME TO away");
    for n in 60..70 {
        missed(&mut place.writer, &format!("m{n}"));
    }
    wait_until("its rows wait apart", || parked() == 10);
    running.stop();
    let running = place.start(&url, |_| {});
    place.write(Kind::Cdr, &["a4"]);
    wait_until("the other table", || rows(server, "acc").len() == 4);
    assert_eq!(parked(), 10);
    server.sql("ALTER TABLE away RENAME TO missed_calls");
    wait_until("its rows come", || rows(server, "missed_calls").len() == 69);
    running.stop();
    assert!(place.dead().is_empty(), "{:?}", place.dead());
    server.sql("DROP TABLE acc");
    server.sql("DROP TABLE missed_calls");
}

/// The month's partition is missing.
fn a_missing_partition(d: &Dialect, server: &mut Server) {
    let url = (d.url)(server.port);
    server.sql(&d.create("acc", EXTRAS, d.partitioned));
    server.sql(&d.create("missed_calls", EXTRAS, ""));
    let mut place = Place::new();
    let callids: Vec<String> = (10..30).map(|n| format!("p{n}")).collect();
    place.write(Kind::Cdr, &callids.iter().map(String::as_str).collect::<Vec<_>>());
    place.write(Kind::Missed, &["m"]);
    let running = place.start(&url, |c| (c.delivery_give_up, c.delivery_retry_max) = (Some(1), 3600));
    wait_until("the other table", || rows(server, "missed_calls") == ["m"]);
    wait_until("they wait apart", || parked() == 20);
    // Each offer makes new copies, of some 500 bytes: with pauses that double there are few, however long this takes.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let copied: u64 = place.dir.segments().unwrap().iter().filter(|s| s.name.parks_for().is_some()).map(|s| s.size).sum();
    assert!(copied < 100_000, "{copied}");
    assert!(!said(&["table acc has no partition for a record of 2023-11-1", "add it: ", "PARTITION"]).is_empty());
    adds_up();
    server.sql(d.add_partition);
    stats::flush();
    wait_until("the rows", || rows(server, "acc") == callids);
    running.stop();
    assert!(place.dead().is_empty(), "{:?}", place.dead());
    server.sql("DROP TABLE acc");
    server.sql("DROP TABLE missed_calls");
}

/// A part of those that wait for a table went in, then the dead letters could not be written, and then the
/// table was as before: the rest waits on.
#[test]
fn the_rest_of_a_part_waits_on() {
    let _alone = alone();
    let mut place = Place::new();
    let database = place.path().join("acc.sqlite");
    let run = |sql: &str| {
        let status = std::process::Command::new("sqlite3").args(["-bail", "-cmd", ".timeout 10000"]).arg(&database).arg(sql).status();
        assert!(status.unwrap().success(), "{sql}");
    };
    let callids = || sqlite(&database, "SELECT callid FROM acc ORDER BY callid").unwrap_or_default();
    run(&MARIADB.create("acc", ", caller_uri VARCHAR(64)", "").replace(MARIADB.id, "id INTEGER PRIMARY KEY"));
    place.write(Kind::Cdr, &["a", "bad"]);
    let running = place.start(&format!("sqlite:///{}", database.display()), |_| {});
    wait_until("they wait apart", || parked() == 2);
    std::fs::create_dir(place.path().join("dead-db.jsonl")).unwrap();
    run("BEGIN IMMEDIATE; ALTER TABLE acc ADD COLUMN x_note TEXT; \
         CREATE TRIGGER rating BEFORE INSERT ON acc WHEN NEW.callid = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no tariff'); END; COMMIT");
    wait_until("the first", || callids().trim() == "a");
    wait_until("no dead letter", || said(&["dead-db.jsonl in journal_dir cannot be written"]).len() == 1);
    run("ALTER TABLE acc DROP COLUMN x_note");
    wait_until("the table's trouble", || said(&["table acc lacks x_note"]).len() == 2);
    adds_up();
    std::fs::remove_dir(place.path().join("dead-db.jsonl")).unwrap();
    run("BEGIN IMMEDIATE; DROP TRIGGER rating; ALTER TABLE acc ADD COLUMN x_note TEXT; COMMIT");
    wait_until("both", || callids().lines().eq(["a", "bad"]));
    wait_until("nothing waits apart", || parked() == 0);
    running.stop();
    assert!(place.dead().is_empty());
}

/// A full journal gives up the oldest of those that wait apart, each of them once.
#[test]
fn a_full_journal_drops_what_waits_apart() {
    const MIB: u64 = 1 << 20;
    let _alone = alone();
    let mut place = Place::new();
    let database = place.path().join("acc.sqlite");
    let run = |sql: &str| {
        let status = std::process::Command::new("sqlite3").args(["-bail", "-cmd", ".timeout 10000"]).arg(&database).arg(sql).status();
        assert!(status.unwrap().success(), "{sql}");
    };
    for (table, columns) in [("acc", EXTRAS), ("missed_calls", ", caller_uri TEXT")] {
        run(&MARIADB.create(table, columns, "").replace(MARIADB.id, "id INTEGER PRIMARY KEY"));
    }
    let limits = Limits { max_bytes: MIB, min_free: 0, when_full: WhenFull::DropOldest };
    place.writer = Writer::new(&place.dir, 1, std::process::id(), JournalSync::Os, limits.segment_max());
    let counted = || {
        let (all, c) = (stats::Snapshot::take(), SinkId::Db.counters());
        [c.accepted, c.delivered, c.dead, c.pending, c.parked, Counter::JournalDropped].map(|c| all.get(c))
    };
    let before = counted();
    let running = place.start(&format!("sqlite:///{}", database.display()), |c| c.limits = limits);
    for n in 0..1000 {
        let mut r = record(Kind::Missed, &format!("m-{n:05}"));
        r.extras[0] = field("caller_uri", Some(&[b'x'; 4000]));
        place.writer.append_record(SinkId::Db, &r).unwrap();
        place.write(Kind::Cdr, &[&format!("c-{n:05}")]);
        if n % 20 == 0 {
            let size = || place.dir.segments().unwrap().iter().map(|s| s.size).sum::<u64>();
            wait_until("there is room", || size() < MIB - 100_000 && limits.admits(Append::Record));
        }
    }
    wait_until("what is dropped counts once", || {
        let now = counted();
        let [accepted, delivered, dead, pending, parked, dropped] = std::array::from_fn(|i| now[i] - before[i]);
        (accepted, pending, dead) == (2000, 0, dropped) && delivered + dead + parked == 2000 && (1..300).contains(&parked) && dead > 500
    });
    run("ALTER TABLE missed_calls ADD COLUMN x_note TEXT");
    wait_until("the newest", || parked() == 0);
    running.stop();
    let [accepted, delivered, dead, ..] = counted();
    assert_eq!(accepted - before[0], delivered - before[1] + dead - before[2]);
    let rows = sqlite(&database, "SELECT (SELECT count(*) FROM acc) + count(*), max(callid) FROM missed_calls").unwrap();
    assert_eq!(rows, format!("{}\tm-00999\n", delivered - before[1]));
}

fn all(d: &Dialect, mut server: Server) {
    refused_by_a_trigger(d, &mut server);
    few_statements(d, &server, server.port);
    another_column(d, &server);
    a_tables_trouble(d, &mut server);
    a_missing_partition(d, &mut server);
}

#[test]
fn mariadb_takes_the_others() {
    let _alone = alone();
    if let Some(server) = mariadb() {
        all(&MARIADB, server);
    }
}

/// Several servers of a cluster are started on a new database: each makes what is missing.
#[test]
fn tables_that_another_server_is_making_are_used() {
    let _alone = alone();
    let Some(server) = postgres() else { return };
    server.sql(&POSTGRES.create("acc", EXTRAS, ""));
    let schema = include_str!("../scripts/schema/postgres.sql");
    for (n, table) in ["acc_seen", "acc_delivery"].into_iter().enumerate() {
        server.sql("DROP TABLE IF EXISTS acc_seen, acc_delivery");
        let create = schema.lines().find(|l| l.starts_with(&format!("CREATE TABLE IF NOT EXISTS {table} "))).unwrap();
        let mut place = Place::new();
        place.write(Kind::Cdr, &[&format!("c{n}")]);
        std::thread::scope(|scope| {
            let made = scope.spawn(|| server.sql(&format!("BEGIN; {create} SELECT pg_sleep(4); COMMIT")));
            std::thread::sleep(std::time::Duration::from_secs(1));
            let running = place.start(&(POSTGRES.url)(server.port), |_| {});
            made.join().unwrap();
            wait_until("its row", || rows(&server, "acc").len() == n + 1);
            running.stop();
        });
        assert_eq!(said(&["cannot be used"]).len(), 0, "{table}");
    }
}

/// Longer than the server takes, a row ends the connection.
#[test]
fn a_row_that_ends_the_connection_holds_none_up() {
    let _alone = alone();
    let Some(server) = mariadb_with(vec!["--max-allowed-packet=4M".into()]) else { return };
    server.sql(&MARIADB.create("acc", ", caller_uri VARCHAR(64), x_note LONGTEXT", ""));
    let mut place = Place::new();
    place.write(Kind::Cdr, &["a", "b"]);
    let mut long = record(Kind::Cdr, "long");
    long.extras[1] = field("x_note", Some(&vec![b'x'; 5 << 20]));
    place.writer.append_record(SinkId::Db, &long).unwrap();
    place.write(Kind::Cdr, &["c", "d"]);
    let running = place.start(&(MARIADB.url)(server.port), |_| {});
    wait_until("the others", || rows(&server, "acc") == ["a", "b", "c", "d"]);
    wait_until("it waits apart", || parked() == 1);
    adds_up();
    // Nor when it is offered again.
    std::thread::sleep(std::time::Duration::from_secs(2));
    place.write(Kind::Cdr, &["e"]);
    wait_until("more", || rows(&server, "acc").len() == 5);
    running.stop();
    assert_eq!((parked(), place.dead().len()), (1, 0));
    // Repaired, it goes in.
    server.sql("SET GLOBAL max_allowed_packet = 64 * 1024 * 1024");
    let running = place.start(&(MARIADB.url)(server.port), |_| {});
    stats::flush();
    wait_until("it goes in", || rows(&server, "acc").len() == 6);
    running.stop();
}

/// A telephone's emoji in a database that has no such character costs neither the record nor its other values.
#[test]
fn what_a_databases_encoding_lacks_is_escaped() {
    let _alone = alone();
    let Some(server) = postgres() else { return };
    server.sql("CREATE DATABASE western ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
    let western = |sql: &str| server.sql(&format!("\\connect western\n{sql}"));
    western(&POSTGRES.create("acc", EXTRAS, ""));
    let mut place = Place::new();
    let mut r = record(Kind::Cdr, "caf\u{e9}");
    r.extras[0] = field("caller_uri", Some("\u{1f600} M\u{fc}ller".as_bytes()));
    place.writer.append_record(SinkId::Db, &r).unwrap();
    let running = place.start(&(POSTGRES.url)(server.port).replace("/postgres", "/western"), |_| {});
    let row = || western("SET client_encoding TO 'UTF8'; SELECT callid, caller_uri FROM acc").trim().to_string();
    wait_until("the row", || !row().is_empty());
    assert_eq!(row(), "caf\u{e9}\t\\xf0\\x9f\\x98\\x80 M\u{fc}ller");
    running.stop();
    assert_eq!((parked(), place.dead().len()), (0, 0));
}

/// A row is refused, and then the COMMIT is, for another one. In the meantime the trigger has changed its mind: the row, which
/// waits apart, goes in from there, and not with the others as well.
fn refused_before_a_refused_commit(server: &Server) {
    server.sql(&POSTGRES.create("acc", EXTRAS, ""));
    server.sql(
        "CREATE SEQUENCE looks; CREATE FUNCTION moody() RETURNS trigger AS $$ BEGIN IF NEW.callid = 'moody' AND nextval('looks') <= 2 THEN \
         RAISE EXCEPTION 'not now' USING ERRCODE = 'BILL1'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql; \
         CREATE TRIGGER moody BEFORE INSERT ON acc FOR EACH ROW EXECUTE FUNCTION moody(); \
         ALTER TABLE acc ADD UNIQUE (callid) DEFERRABLE INITIALLY DEFERRED",
    );
    let mut place = Place::new();
    place.write(Kind::Cdr, &["a", "moody", "b", "twin"]);
    // Another call with that Call-ID.
    let mut other = record(Kind::Cdr, "twin");
    other.core.from_tag = b"other".to_vec();
    other.id = 7;
    place.writer.append_record(SinkId::Db, &other).unwrap();
    let running = place.start(&(POSTGRES.url)(server.port), |c| c.delivery_give_up = Some(3));
    wait_until("a dead letter", || !place.dead().is_empty());
    wait_until("all are settled", || stats::Snapshot::take().get(SinkId::Db.counters().pending) == 0 && parked() == 0);
    adds_up();
    running.stop();
    assert_eq!(rows(server, "acc"), ["a", "b", "moody", "twin"]);
    let dead = place.dead();
    assert!(dead.len() == 1 && dead[0].0 == "twin", "{dead:?}");
    server.sql("DROP TABLE acc; DELETE FROM acc_seen; DROP FUNCTION moody; DROP SEQUENCE looks");
}

/// An interim record is refused, and then the COMMIT is, for a CDR: it is left out of each transaction that follows, and
/// counted once.
fn an_interim_record_before_a_refused_commit(server: &Server) {
    server.sql(&POSTGRES.create("acc", EXTRAS, ""));
    server.sql(
        "CREATE TABLE acc_calls (call_id VARCHAR(32) PRIMARY KEY, node VARCHAR(64), callid VARCHAR(64), from_tag VARCHAR(64), to_tag VARCHAR(64), \
         time TIMESTAMP, updated TIMESTAMP, duration INT, caller_uri VARCHAR(64), x_note VARCHAR(64)); \
         CREATE FUNCTION full_house() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'no more' USING ERRCODE = 'BILL1'; END $$ LANGUAGE plpgsql; \
         CREATE TRIGGER full_house BEFORE INSERT ON acc_calls FOR EACH ROW EXECUTE FUNCTION full_house(); \
         ALTER TABLE acc ADD UNIQUE (callid) DEFERRABLE INITIALLY DEFERRED",
    );
    let mut place = Place::new();
    place.write(Kind::Cdr, &["a"]);
    place.write(Kind::Interim, &["up"]);
    place.write(Kind::Cdr, &["b", "twin"]);
    // Another call with that Call-ID.
    let mut other = record(Kind::Cdr, "twin");
    other.core.from_tag = b"other".to_vec();
    other.id = 7;
    place.writer.append_record(SinkId::Db, &other).unwrap();
    let superseded = stats::get(Counter::InterimSuperseded);
    let running = place.start(&(POSTGRES.url)(server.port), |_| {});
    wait_until("a dead letter", || !place.dead().is_empty());
    wait_until("all are settled", || stats::Snapshot::take().get(SinkId::Db.counters().pending) == 0 && parked() == 0);
    adds_up();
    running.stop();
    assert_eq!((rows(server, "acc"), rows(server, "acc_calls")), (["a", "b", "twin"].map(String::from).to_vec(), Vec::new()));
    assert_eq!(stats::get(Counter::InterimSuperseded) - superseded, 1);
    server.sql("DROP TABLE acc, acc_calls; DELETE FROM acc_seen; DROP FUNCTION full_house");
}

#[test]
fn postgresql_takes_the_others() {
    let _alone = alone();
    if let Some(server) = postgres() {
        refused_before_a_refused_commit(&server);
        an_interim_record_before_a_refused_commit(&server);
        // Through a pooler the statements of such a transaction have names, too.
        if let Some(pooler) = pgbouncer(&server) {
            server.sql(POSTGRES.trigger[0]);
            few_statements(&POSTGRES, &server, pooler.port);
            server.sql("DROP FUNCTION rating");
        }
        all(&POSTGRES, server);
    }
}
