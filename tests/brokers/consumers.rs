//! The consumers of examples/scale-out, as they stand there: what they store has each record once, although they are killed
//! and get records twice.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use acc::journal::{Dir, SinkId};
use async_nats::jetstream::consumer::{self, PullConsumer};
use serde_json::Value;

use super::nats::{context, make_stream, runtime};
use super::*;
use crate::common::brokers::Nats;
use crate::common::servers::{PASSWORD, Server, mariadb};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scale-out").join(name)
}

/// Says so where Python lacks one of these.
fn has_python(modules: &str) -> bool {
    let found = Command::new("python3").arg("-c").arg(format!("import {modules}")).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !found {
        skip(&format!("{modules} for python3 (of PyPI)"));
    }
    found
}

/// Killed if the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A session that lets nobody write into the table of records, until it is dropped.
struct Lock {
    _session: Running,
}

impl Lock {
    fn take(database: &Server) -> Lock {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "-uroot", "-N", "-n", "-Dacc", "-S"]).arg(database.dir().join("sock"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It stays as long as its input.
        writeln!(child.stdin.as_mut().unwrap(), "LOCK TABLES cdr READ; SELECT 'locked';").unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said.trim(), "locked");
        Lock { _session: Running(child) }
    }
}

#[test]
fn a_consumer_stores_each_record_in_sql_once() {
    /// Records of each of three portions.
    const PART: u32 = 1000;
    const ALL: u32 = 3 * PART;
    const NATS: SinkId = SinkId::Stream3;
    const FOREIGN: &str = "neither JSON nor ours";
    if !has_python("nats, pymysql") {
        return;
    }
    let (Some(database), Some(mut server)) = (mariadb(), Nats::start(&["-js"])) else { return };
    let port = server.port;
    make_stream(port, "acc.>");
    runtime().block_on(async {
        // As nats.sh makes it, but what is not acknowledged comes again sooner.
        let config = consumer::pull::Config { durable_name: Some("sql".into()), ack_wait: Duration::from_secs(2), max_ack_pending: 1000, ..Default::default() };
        context(port).await.get_stream("ACC").await.unwrap().create_consumer(config).await.unwrap();
    });
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = records(&dir);
    let turn = Turn::with(NATS);
    let delivery = crate::common::Running::start(streaming(&format!("nats://127.0.0.1:{port}/acc?stream=ACC&name=stream3"), tmp.path()), &dir);

    let info = || {
        let mut told = None;
        wait_until("JetStream", || {
            told = runtime().block_on(async {
                let stream = context(port).await.get_stream("ACC").await.ok()?;
                let mut consumer: PullConsumer = stream.get_consumer("sql").await.ok()?;
                Some(consumer.info().await.ok()?.clone())
            });
            told.is_some()
        });
        told.unwrap()
    };
    // Messages that are not acknowledged.
    let left = || {
        let told = info();
        told.num_pending + told.num_ack_pending as u64
    };
    let rows = || database.count("cdr") as u32;
    let start = || {
        let password = PASSWORD.replace('@', "%40").replace(':', "%3A").replace('/', "%2F");
        let mut command = Command::new("python3");
        command.arg(example("nats-to-sql.py")).env("ACC_NATS", format!("nats://127.0.0.1:{port}"));
        command.env("ACC_DATABASE", format!("mysql://acc:{password}@127.0.0.1:{}/acc", database.port));
        Running(command.stdin(Stdio::null()).spawn().unwrap())
    };
    // It has ended by itself if it had to wait for too long: started again, as systemd does.
    let wait_for = |reads: &mut Running, what: &str, condition: &dyn Fn() -> bool| {
        wait_until(what, || {
            if reads.0.try_wait().unwrap().is_some() {
                *reads = start();
            }
            condition()
        });
    };
    let all_of = |reads: &mut Running, number: u32| {
        wait_for(reads, "the rows", &|| rows() == number);
        wait_for(reads, "their acknowledgement", &|| left() == 0);
    };
    let waits =
        || database.sql("SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'INSERT INTO cdr %' AND state LIKE 'Waiting%'").trim() != "0";

    let of_callid = |n: u32, callid: Vec<u8>| Record { core: Core { callid, ..numbered(n).core }, ..numbered(n) };
    append(&mut w, NATS, 0..PART - 2);
    w.append_record(NATS, &of_callid(PART - 2, vec![b'c'; 300])).unwrap();
    w.append_record(NATS, &of_callid(PART - 1, vec![])).unwrap();
    let mut reads = start();
    all_of(&mut reads, PART);

    // It dies with records that it has got, and has not stored.
    let lock = Lock::take(&database);
    append(&mut w, NATS, PART..2 * PART);
    wait_for(&mut reads, "rows under way", &waits);
    reads.0.kill().unwrap();
    assert_eq!(reads.0.wait().unwrap().signal(), Some(9));
    let not_stored = info().num_ack_pending as u64;
    assert!(rows() == PART && not_stored > 0, "{not_stored}");
    drop(lock);
    reads = start();
    all_of(&mut reads, 2 * PART);
    let handed_out = info().delivered.consumer_sequence;
    assert!(handed_out >= u64::from(2 * PART) + not_stored, "{not_stored} did not come again: {handed_out}");

    // NATS dies without the acknowledgements of messages that are stored. The first is the one that cannot be a row.
    drop(reads);
    runtime().block_on(async { context(port).await.publish("acc.x", FOREIGN.into()).await.unwrap().await.unwrap() });
    append(&mut w, NATS, 2 * PART..ALL);
    wait_until("all records", || turn.delivered() == u64::from(ALL));
    delivery.stop();
    let lock = Lock::take(&database);
    reads = start();
    wait_for(&mut reads, "rows under way", &waits);
    server.pause();
    drop(lock);
    wait_until("their commit", || rows() > 2 * PART);
    server.kill();
    wait_until("the consumer's end", || reads.0.try_wait().unwrap().is_some());
    let refused = || database.sql("SELECT IFNULL(acc_id, '-'), message FROM acc.cdr_refused");
    assert_eq!(refused().trim(), format!("-\t{FOREIGN}"));
    server.start_again();
    assert!(left() > u64::from(PART), "some were acknowledged: {}", left());
    reads = start();
    all_of(&mut reads, ALL);

    let ids: BTreeSet<_> = database.sql("SELECT acc_id FROM acc.cdr").lines().map(str::to_owned).collect();
    assert_eq!((rows(), ids), (ALL, (0..ALL).map(id_of).collect()));
    assert_eq!(database.sql("SELECT sum(char_length(callid) = 300), sum(callid IS NULL) FROM acc.cdr").trim(), "1\t1");
    assert_eq!(refused().trim(), format!("-\t{FOREIGN}"));
}

/// Statements of a file, without its comments.
fn statements(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(example(file)).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("--")).collect();
    lines.join("\n").split(';').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

/// Runs statements in ClickHouse's engine, a line of standard input each, and prints what the last one answers.
const CLICKHOUSE: &str = "
import json, sys, chdb.session
session = chdb.session.Session(sys.argv[1])
for line in sys.stdin:
    answer = session.query(json.loads(line), 'TSV')
print(answer)
";

fn clickhouse(statements: &[String], want: &str) {
    let tmp = tempfile::tempdir().unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", CLICKHOUSE]).arg(tmp.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for statement in statements {
        writeln!(input, "{}", Value::from(statement.as_str())).unwrap();
    }
    drop(input);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), want);
}

/// What the file makes, but its first table takes what it is given: ClickHouse's engine of PyPI reads no brokers.
fn tables(file: &str) -> Vec<String> {
    let mut all = statements(file);
    let engine = all[0].find("ENGINE = ").unwrap();
    all[0].replace_range(engine.., "ENGINE = Null");
    all
}

/// Rows, their identities, and what they hold of the call.
const QUESTION: &str = "SELECT count(), uniqExact(acc_id), uniqExact(callid), sum(duration_ms), any(extra['caller_uri']), any(time) FROM acc FINAL";

#[test]
fn clickhouse_keeps_one_row_of_each_record() {
    const ALL: u32 = 500;
    if !has_python("chdb") {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let (journal, file) = (tmp.path().join("journal"), tmp.path().join("cdr.jsonl"));
    append(&mut records(&Dir::open(&journal).unwrap()), SinkId::Stream, 0..ALL);
    let out = deliver(&journal, &format!("file://{}", file.display())).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines = std::fs::read_to_string(&file).unwrap();
    let mut statements = [tables("nats-clickhouse.sql"), tables("kafka-clickhouse.sql")].concat();
    statements.push("SET input_format_skip_unknown_fields = 1".into());
    // Each record comes from both.
    statements.extend(["acc_nats", "acc_kafka"].map(|table| format!("INSERT INTO {table} FORMAT JSONEachRow\n{lines}")));
    statements.push(QUESTION.into());
    clickhouse(&statements, &format!("{ALL}\t{ALL}\t{ALL}\t{}\tsip:a@example.com\t2023-11-14 22:13:23.500", 1203 * ALL));
}
