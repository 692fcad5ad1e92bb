//! Several servers write to one database: each call has one CDR, that of the server which knows most of
//! its end.
#![forbid(unsafe_code)]

mod common;

use std::ops::Range;
use std::path::Path;

use acc::accounting::record::{EndCause, Kind};
use acc::backend::sql::SqlSink;
use acc::journal::{Dir, SinkId};
use acc::stats::{self, Counter};
use common::servers::{PASSWORD, Server, mariadb, postgres};
use common::*;

/// One server: its journal, and a delivery while it is wanted.
struct Node {
    tmp: tempfile::TempDir,
    dir: Dir,
    url: String,
    /// Each writer has segments of its own.
    writers: std::cell::Cell<i32>,
    clustered: bool,
}

impl Node {
    fn new(url: &str) -> Node {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        Node { tmp, dir, url: url.into(), writers: std::cell::Cell::new(0), clustered: false }
    }

    /// CDRs with two legs, so two rows each, for some calls.
    fn writes(&self, calls: Range<usize>, end: EndCause) {
        self.writes_all(&[(calls, end)]);
    }

    /// The same, one after the other.
    fn writes_all(&self, ends: &[(Range<usize>, EndCause)]) {
        self.writers.set(self.writers.get() + 1);
        let mut w = writer(&self.dir, self.writers.get());
        for (n, end) in ends.iter().flat_map(|(calls, end)| calls.clone().map(move |n| (n, *end))) {
            let mut cdr = record(Kind::Cdr, &format!("c-{n}"));
            cdr.end = Some(end);
            cdr.legs = vec![vec![field("leg_src", Some(b"a")), field("leg_dst", Some(b"b"))]; 2];
            w.append_record(SinkId::Db, &cdr).unwrap();
        }
    }

    fn start(&self) -> Running {
        let (config, clustered) = (config(Some(&self.url), self.tmp.path()), self.clustered);
        Running::start_with(&self.dir, move |delivery| {
            let (db, fields) = (config.db().unwrap().clone(), config.rules.fields.clone());
            delivery.makers.push((SinkId::Db, Box::new(move || Ok(Box::new(SqlSink::new(&db, &fields)?.in_cluster(clustered))))));
            delivery.config = config;
        })
    }

    /// Delivers all, and waits for it.
    fn delivers(&self) {
        let running = self.start();
        wait_until("the end of the delivery", || segments(self.tmp.path()) == 0);
        running.stop();
    }

    fn dead(&self) -> Vec<String> {
        let lines = std::fs::read_to_string(self.tmp.path().join("dead-db.jsonl")).unwrap_or_default();
        lines.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["reason"].as_str().unwrap().to_string()).collect()
    }

    fn journal(&self) -> String {
        format!("{:016x}", self.dir.id())
    }
}

fn make_tables(url: &str) {
    let made = accctl_in_zone(&[
        "schema",
        "--apply",
        "--url",
        url,
        "--extra",
        "caller->caller_uri; note->x_note; acc_id; end_cause",
        "--leg",
        "src->leg_src; dst->leg_dst",
    ]);
    assert!(made.contains("acc_seen"), "{made}");
}

/// What has to be the same in every database; `sql` answers with a line for each row.
fn exercise(url: &str, sql: &dyn Fn(&str) -> String, indexes: &dyn Fn() -> usize) {
    make_tables(url);
    let rows = |calls: &str| sql(&format!("SELECT end_cause, count(*), count(DISTINCT callid) FROM acc WHERE {calls} GROUP BY end_cause ORDER BY 1"));

    // B ended the calls; A, cut off meanwhile, comes back with guesses, and with calls of its own.
    let (a, b) = (Node::new(url), Node::new(url));
    b.writes(0..300, EndCause::Caller);
    b.delivers();
    let alone = indexes();
    a.writes(0..305, EndCause::Orphan);
    let before = stats::get(Counter::DbElsewhere);
    a.delivers();
    assert_eq!((alone, indexes()), (usize::from(!url.starts_with("sqlite")), 1));
    assert_eq!(rows("1 = 1").lines().collect::<Vec<_>>(), ["bye\t600\t300", "orphan\t10\t5"]);
    assert_eq!(a.dead(), vec![format!("the call already has a CDR, from journal {}", b.journal()); 300]);
    assert!(stats::get(Counter::DbElsewhere) >= before + 300);

    // The other way round: guesses and ends of the lifetime give way to who saw the end.
    a.writes(400..420, EndCause::Orphan);
    a.writes(420..440, EndCause::Timeout);
    a.delivers();
    b.writes(400..440, EndCause::Callee);
    b.delivers();
    a.writes(500..510, EndCause::Orphan);
    a.delivers();
    b.writes(500..510, EndCause::Timeout);
    b.delivers();
    let of = "callid LIKE 'c-4__' OR callid LIKE 'c-50_'";
    assert_eq!(rows(of).lines().collect::<Vec<_>>(), ["bye\t80\t40", "timeout\t20\t10"]);
    assert_eq!(b.dead(), Vec::<String>::new());
    assert_eq!(sql(&format!("SELECT count(*) FROM acc_seen WHERE journal = '{}'", b.journal())).trim(), "350");

    // Both saw an end, at the same time.
    a.writes(1000..1500, EndCause::Timeout);
    b.writes(1000..1500, EndCause::Caller);
    let (dead_a, running) = (a.dead().len(), [a.start(), b.start()]);
    wait_until("the end of both deliveries", || segments(a.tmp.path()) + segments(b.tmp.path()) == 0);
    running.into_iter().for_each(Running::stop);
    assert_eq!(rows("callid LIKE 'c-1___'").trim(), "bye\t1000\t500");
    assert!(a.dead().len() >= dead_a && b.dead().is_empty());

    come_back(&a, sql);

    // A table that cannot show which rows are whose keeps those it has.
    sql("ALTER TABLE acc DROP COLUMN acc_id");
    a.writes(600..602, EndCause::Orphan);
    a.delivers();
    b.writes(600..602, EndCause::Caller);
    b.delivers();
    assert_eq!(rows("callid LIKE 'c-60_'").trim(), "orphan\t4\t2");
    assert!(b.dead().len() == 2 && b.dead()[0].contains("because table acc has no column acc_id"), "{:?}", b.dead());

    // The table goes while the delivery runs; then something else has its name.
    sql("DROP TABLE acc_seen");
    let running = a.start();
    a.writes(700..710, EndCause::Caller);
    wait_until("the rows", || rows("callid LIKE 'c-70_'").trim() == "bye\t20\t10");
    running.stop();
    assert_eq!(sql("SELECT count(*) FROM acc_seen").trim(), "10");
    sql("DROP TABLE acc_seen");
    sql("CREATE VIEW acc_seen AS SELECT 1 AS something_else");
    for node in [&a, &b] {
        node.writes(800..805, EndCause::Caller);
        node.delivers();
    }
    assert_eq!(rows("callid LIKE 'c-80_'").trim(), "bye\t20\t5", "each server for itself");
}

/// Calls that have a CDR from this journal have another one from it: they ended, and another node's dialog brought them
/// back later.
fn come_back(a: &Node, sql: &dyn Fn(&str) -> String) {
    use EndCause::*;
    let rows = |calls: &str| sql(&format!("SELECT end_cause, count(*) FROM acc WHERE callid LIKE '{calls}' GROUP BY end_cause ORDER BY 1")).trim().to_string();
    let (dead, known) = (a.dead().len(), stats::get(Counter::DbElsewhere));
    for (calls, ends) in [(2000..2010, [Orphan, Caller]), (2010..2020, [Caller, Timeout]), (2020..2030, [Orphan, Orphan]), (2030..2040, [Caller, Callee])] {
        for end in ends {
            a.writes(calls.clone(), end);
            a.delivers();
        }
    }
    assert_eq!(["c-200_", "c-201_", "c-202_", "c-203_"].map(&rows), ["bye\t20", "bye\t20", "orphan\t20", "bye\t20"]);
    assert_eq!(a.dead()[dead..], vec![format!("the call already has a CDR, from journal {}", a.journal()); 30]);
    assert!(stats::get(Counter::DbElsewhere) >= known + 30);
    // All in one batch, among others.
    a.writes_all(&[(2100..2110, Orphan), (2110..2120, Callee), (2095..2125, Proxy), (2100..2130, Timeout)]);
    a.delivers();
    assert_eq!(["c-209_", "c-210_", "c-211_", "c-212_"].map(&rows), ["proxy\t10", "proxy\t20", "bye\t20", "proxy\t10\ntimeout\t10"]);
    assert_eq!(a.dead().len(), dead + 30 + 10 + 25);
    // What was restored without its rows gets them again.
    sql("DELETE FROM acc WHERE callid LIKE 'c-209_'");
    a.writes(2095..2100, Proxy);
    a.delivers();
    assert_eq!(rows("c-209_"), "proxy\t10");
    // Of a batch that comes again nothing is written twice, and nothing is dead.
    sql("ALTER TABLE acc_delivery RENAME TO aside");
    sql("CREATE VIEW acc_delivery AS SELECT 1 AS something_else");
    for end in [Caller, Caller] {
        a.writes(2200..2210, end);
        a.delivers();
    }
    assert_eq!((rows("c-220_"), a.dead().len()), ("bye\t20".into(), dead + 65));
    sql("DROP VIEW acc_delivery");
    sql("ALTER TABLE aside RENAME TO acc_delivery");
}

#[test]
fn sqlite_has_one_cdr_for_each_call() {
    let tmp = tempfile::tempdir().unwrap();
    let database = tmp.path().join("acc.db");
    exercise(&format!("sqlite://{}", database.display()), &|sql| write_sqlite(&database, sql), &|| {
        write_sqlite(&database, "SELECT count(*) FROM pragma_index_list('acc_seen')").trim().parse().unwrap()
    });
}

/// Where one journal writes to a file, and its server is a node of a cluster.
#[test]
fn a_call_that_comes_back_has_one_cdr_in_a_file_of_its_own() {
    let tmp = tempfile::tempdir().unwrap();
    let database = tmp.path().join("acc.db");
    let url = format!("sqlite://{}", database.display());
    make_tables(&url);
    let node = Node::new(&url);
    node.writes(1..10, EndCause::Caller);
    node.delivers();
    come_back(&Node { clustered: true, ..node }, &|sql| write_sqlite(&database, sql));
}

/// As [`sqlite`], also for what changes the file.
fn write_sqlite(database: &Path, sql: &str) -> String {
    let mut command = std::process::Command::new("sqlite3");
    let out = command.args(["-cmd", ".timeout 10000", "-separator", "\t"]).arg(database).arg(sql).output().expect("the program sqlite3");
    assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn on(server: &Server, scheme: &str, database: &str) {
    exercise(&format!("{scheme}://acc:{PASSWORD}@127.0.0.1:{}/{database}", server.port), &|sql| server.sql(sql), &|| 1);
}

#[test]
fn mariadb_has_one_cdr_for_each_call() {
    match mariadb() {
        Some(server) => on(&server, "mysql", "acc"),
        None => skip("MariaDB"),
    }
}

#[test]
fn postgres_has_one_cdr_for_each_call() {
    match postgres() {
        Some(server) => on(&server, "postgres", "postgres"),
        None => skip("PostgreSQL"),
    }
}
