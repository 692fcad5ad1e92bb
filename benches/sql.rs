//! Rows from the journal into databases, against what a program without a journal could do.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use acc::accounting::extras::Family;
use acc::accounting::record::{Kind, Record};
use acc::backend::log::syslog;
use acc::backend::sql::schema::Role;
use acc::backend::sql::{Conn, Dialect, Value, parse, schema};
use acc::config::Config;
use acc::delivery::{self, Delivery};
use acc::journal::{Dir, JournalSync, SinkId, Writer};
use acc::stats;
use sqlx::{Arguments as _, AssertSqlSafe};
use tokio::runtime::Runtime;

use super::common::servers::{PASSWORD, mariadb, postgres};
use super::common::{self, field};
use super::{ROUNDS, median, rate, row, say, table};

/// Records delivered, and rows of the bare loop.
const N: usize = 100_000;
/// Rows inserted and committed one by one.
const SINGLE: usize = 2_000;
/// As the module's own.
pub const SEGMENT: u64 = 16 << 20;
/// Rows in one INSERT of the bare loop, as in the module.
const ROWS: usize = 64;
/// The default of `delivery_batch`: rows in one transaction, of the module and of the bare loop.
pub const BATCH: usize = 500;

/// A CDR with two extras, as long as real ones are.
pub fn record(n: usize) -> Record {
    let mut r = common::record(Kind::Cdr, &format!("{n:08x}-4f0a4f6d9f7b@192.0.2.17"));
    // Spread as a hash is.
    r.id = (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    r.core.from_tag = b"gK0c9d8f2a".to_vec();
    r.core.to_tag = b"as58f4d0e1".to_vec();
    r.extras = vec![field("caller_uri", Some(b"sip:+4930123456789@example.com")), field("x_note", None)];
    r
}

/// A journal of sealed segments with `n` records.
pub fn fill(dir: &Dir, sink: SinkId, n: usize, record: fn(usize) -> Record) {
    let mut writer = Writer::new(dir, 1, std::process::id(), JournalSync::Batch, SEGMENT);
    for i in 0..n {
        writer.append_record(sink, &record(i)).unwrap();
    }
}

pub fn config(url: Option<&str>, journal: &Path) -> Config {
    let mut config = common::config(url, journal);
    config.delivery_batch = BATCH;
    config
}

/// The delivery of everything in the journal.
pub fn delivery(config: Config, dir: &Dir) -> Delivery {
    Delivery {
        makers: vec![syslog::at(dir.path().join("no-syslog-here"))],
        only_what_is_there: Some(Duration::from_secs(600)),
        ..Delivery::new(config, dir.clone())
    }
}

fn deliver(url: &str) -> f64 {
    deliver_most(url, record, N)
}

/// Rows a second until `due` records are in. The others are offered again behind them.
fn deliver_most(url: &str, record: fn(usize) -> Record, due: usize) -> f64 {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    fill(&dir, SinkId::Db, N, record);
    let config = config(Some(url), tmp.path());
    let delivered = || stats::get(SinkId::Db.delivered());
    let before = delivered();
    let begin = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| delivery::run(delivery(config, &dir)).unwrap());
        while delivered() < before + due as u64 {
            std::thread::sleep(Duration::from_millis(1));
        }
        rate(due, begin.elapsed())
    })
}

/// One in a hundred that the trigger refuses.
fn refused(n: usize) -> Record {
    let mut r = record(n);
    if n % 100 == 50 {
        r.core.from_tag = b"refused".to_vec();
    }
    r
}

/// One in a hundred for a table that lacks a column.
fn held(n: usize) -> Record {
    let mut r = record(n);
    if n % 100 == 50 {
        (r.kind, r.duration_ms) = (Kind::Missed, None);
    }
    r
}

/// A database as at the first start, with these statements.
async fn begin(conn: &mut Conn, config: &Config, more: &[&str]) {
    // With what the delivery makes: in a SQLite file that another journal has written to, acc_seen has an index.
    for table in ["acc", schema::SEEN_TABLE, "acc_delivery"] {
        conn.run(format!("DROP TABLE IF EXISTS {table}")).await.unwrap();
    }
    for sql in schema::create(config.db().unwrap(), &config.rules.fields, Role::Acc, conn.dialect(), Family::OpenSips) {
        conn.run(sql).await.unwrap();
    }
    for sql in more {
        conn.run(*sql).await.unwrap();
    }
}

/// Rows a second while one record in a hundred has to wait apart.
fn measure_parked(name: &str, url: &str, trigger: &[&str]) {
    let runtime = Runtime::new().unwrap();
    let mut conn = runtime.block_on(Conn::open(&parse(url).unwrap())).unwrap();
    let place = tempfile::tempdir().unwrap();
    let config = config(Some(url), place.path());
    let columns = "id INT, method VARCHAR(16), callid VARCHAR(64)";
    runtime.block_on(conn.run(format!("CREATE TABLE missed_calls ({columns})"))).unwrap();
    let [mut plain, mut some_refused, mut some_held] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let others = N - N / 100;
        for (record, due, rates) in [(record as fn(usize) -> Record, N, &mut plain), (refused, others, &mut some_refused), (held, others, &mut some_held)] {
            runtime.block_on(begin(&mut conn, &config, trigger));
            rates.push(deliver_most(url, record, due));
        }
    }
    let ratio = |other: &[f64]| format!("{:.0} %", 100.0 * median(other.iter().zip(&plain).map(|(a, b)| a / b).collect()));
    row(&[
        name.to_owned(),
        format!("{:.0}", median(plain.clone())),
        format!("{:.0}", median(some_refused.clone())),
        ratio(&some_refused),
        format!("{:.0}", median(some_held.clone())),
        ratio(&some_held),
    ]);
}

/// Refuses a row with a code of the operator's own.
const MARIADB_TRIGGER: [&str; 1] = [
    "CREATE TRIGGER rating BEFORE INSERT ON acc FOR EACH ROW IF NEW.from_tag = 'refused' THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 31001, MESSAGE_TEXT = 'no tariff'; END IF",
];
const POSTGRES_TRIGGER: [&str; 2] = [
    "CREATE OR REPLACE FUNCTION rating() RETURNS trigger AS $$ BEGIN IF NEW.from_tag = 'refused' THEN RAISE EXCEPTION 'no tariff' USING ERRCODE = 'BILL1'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql",
    "CREATE TRIGGER rating BEFORE INSERT ON acc FOR EACH ROW EXECUTE FUNCTION rating()",
];

const COLUMNS: [&str; 13] =
    ["method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason", "time", "caller_uri", "x_note", "setuptime", "created", "duration", "ms_duration"];

/// An INSERT of so many rows, as a program would write it for this database.
fn insert(dialect: Dialect, rows: usize) -> Arc<str> {
    let place = |n: usize| match dialect {
        Dialect::Postgres if matches!(COLUMNS[n % COLUMNS.len()], "time" | "created") => format!("CAST(${} AS timestamp)", n + 1),
        Dialect::Postgres => format!("${}", n + 1),
        Dialect::Sqlite | Dialect::MySql => "?".to_owned(),
    };
    let row = |r: usize| format!("({})", (0..COLUMNS.len()).map(|c| place(r * COLUMNS.len() + c)).collect::<Vec<_>>().join(", "));
    let rows: Vec<_> = (0..rows).map(row).collect();
    format!("INSERT INTO acc ({}) VALUES {}", COLUMNS.join(", "), rows.join(", ")).into()
}

/// Inserts rows `at..at + rows` with a prepared statement.
macro_rules! execute {
    ($conn:expr, $args:ty, $sql:expr, $at:expr, $rows:expr) => {{
        let mut args = <$args>::default();
        for n in $at..$at + $rows {
            let callid = format!("{n:08x}-4f0a4f6d9f7b@192.0.2.17");
            for text in ["INVITE", "gK0c9d8f2a", "as58f4d0e1"] {
                args.add(text).unwrap();
            }
            args.add(callid).unwrap();
            for text in ["200", "OK", "2023-11-14 22:13:23", "sip:+4930123456789@example.com"] {
                args.add(text).unwrap();
            }
            args.add(None::<&str>).unwrap();
            args.add(2i64).unwrap();
            args.add("2023-11-14 22:13:20").unwrap();
            args.add(2i64).unwrap();
            args.add(1203i64).unwrap();
        }
        sqlx::query_with(AssertSqlSafe($sql), args).execute($conn).await.map(drop).unwrap();
    }};
}

async fn put(conn: &mut Conn, sql: Arc<str>, at: usize, rows: usize) {
    match conn {
        Conn::Sqlite(c, _) => execute!(c, sqlx::sqlite::SqliteArguments, sql, at, rows),
        Conn::MySql(c) => execute!(c, sqlx::mysql::MySqlArguments, sql, at, rows),
        Conn::Postgres(_) => {
            let text = |text: &str| Value::Text(text.into());
            let row = |n: usize| {
                let callid = format!("{n:08x}-4f0a4f6d9f7b@192.0.2.17");
                let texts = ["INVITE", "gK0c9d8f2a", "as58f4d0e1", &callid, "200", "OK", "2023-11-14 22:13:23", "sip:+4930123456789@example.com"];
                texts.map(text).into_iter().chain([Value::Null, Value::Int(2), text("2023-11-14 22:13:20"), Value::Int(2), Value::Int(1203)])
            };
            let values: Vec<_> = (at..at + rows).flat_map(row).collect();
            conn.execute(sql, &values).await.map(drop).unwrap();
        }
    }
}

/// Rows a second of a loop that has all values at hand: `ROWS` in an INSERT, `BATCH` in a transaction.
async fn bare(conn: &mut Conn) -> f64 {
    let (full, rest) = (insert(conn.dialect(), ROWS), insert(conn.dialect(), BATCH % ROWS));
    let begin = Instant::now();
    for batch in (0..N).step_by(BATCH) {
        conn.run("BEGIN").await.unwrap();
        let mut at = batch;
        while at + ROWS <= batch + BATCH {
            put(conn, full.clone(), at, ROWS).await;
            at += ROWS;
        }
        put(conn, rest.clone(), at, BATCH % ROWS).await;
        conn.run("COMMIT").await.unwrap();
    }
    rate(N, begin.elapsed())
}

/// Rows a second when each is inserted for itself by a prepared statement, as the original module
/// does without the server's own buffering.
async fn single(conn: &mut Conn) -> f64 {
    let sql = insert(conn.dialect(), 1);
    put(conn, sql.clone(), 0, 1).await;
    let begin = Instant::now();
    for n in 0..SINGLE {
        put(conn, sql.clone(), n, 1).await;
    }
    rate(SINGLE, begin.elapsed())
}

/// One database: medians of the rates, and of their ratios in the same round.
fn measure(name: &str, url: &str) {
    let (mut ours, mut loops, mut singles) = (Vec::new(), Vec::new(), Vec::new());
    let runtime = Runtime::new().unwrap();
    let target = parse(url).unwrap();
    let place = tempfile::tempdir().unwrap();
    let config = config(Some(url), place.path());
    for _ in 0..ROUNDS {
        let mut conn = runtime.block_on(Conn::open(&target)).unwrap();
        runtime.block_on(begin(&mut conn, &config, &[]));
        ours.push(deliver(url));
        let rows = runtime.block_on(conn.query("SELECT callid FROM acc", 1, &[])).unwrap().len();
        assert_eq!(rows, N, "{name}: every record once");
        runtime.block_on(begin(&mut conn, &config, &[]));
        loops.push(runtime.block_on(bare(&mut conn)));
        singles.push(runtime.block_on(single(&mut conn)));
    }
    let ratios = |other: &[f64]| median(ours.iter().zip(other).map(|(a, b)| a / b).collect());
    let (to_single, to_loop) = (ratios(&singles), ratios(&loops));
    row(&[
        name.to_owned(),
        format!("{:.0}", median(ours.clone())),
        format!("{:.0}", median(loops.clone())),
        format!("{:.0}", median(singles.clone())),
        format!("{to_single:.1}"),
        format!("{:.0} %", to_loop * 100.0),
    ]);
}

fn mysql_url(port: u16) -> String {
    format!("mysql://acc:{PASSWORD}@127.0.0.1:{port}/acc")
}

fn postgres_url(port: u16) -> String {
    format!("postgres://acc:{PASSWORD}@127.0.0.1:{port}/postgres")
}

pub fn run() {
    table(
        &format!("SQL, {N} records, rows a second"),
        &["database", "delivery", "bare multi-row INSERT", "one-row prepared INSERT", "delivery ÷ one-row", "delivery ÷ bare"],
    );
    let tmp = tempfile::tempdir().unwrap();
    measure("SQLite", &format!("sqlite://{}", tmp.path().join("acc.sqlite").display()));
    match mariadb() {
        Some(server) => measure("MariaDB", &mysql_url(server.port)),
        None => say("MariaDB is not installed"),
    }
    match postgres() {
        Some(server) => {
            measure("PostgreSQL", &postgres_url(server.port));
            measure("PostgreSQL, direct=yes", &format!("{}?direct=yes", postgres_url(server.port)));
        }
        None => say("PostgreSQL is not installed"),
    }
}

/// What refused rows cost the others.
pub fn run_refused() {
    table(
        &format!("SQL with a trigger, {N} records, others a second while some have to wait apart"),
        &["database", "all taken", "1 in 100 refused", "ratio", "1 in 100 for a table without a column", "ratio"],
    );
    if let Some(server) = mariadb() {
        measure_parked("MariaDB", &mysql_url(server.port), &MARIADB_TRIGGER);
    }
    if let Some(server) = postgres() {
        measure_parked("PostgreSQL", &postgres_url(server.port), &POSTGRES_TRIGGER);
    }
}
