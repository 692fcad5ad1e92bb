//! The consumers of examples/scale-out, as they stand there: what they store has each record once, although they are killed
//! and get records twice.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use acc::journal::{Dir, SinkId};
use async_nats::jetstream::consumer::{self, PullConsumer};
use serde_json::Value;

use super::nats::{context, make_stream, runtime};
use super::*;
use crate::common::brokers::Nats;
use crate::common::servers::{PASSWORD, mariadb};

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

#[test]
fn a_consumer_stores_each_record_in_sql_once() {
    const ALL: u32 = 20_000;
    const NATS: SinkId = SinkId::Stream3;
    const PAUSE: Duration = Duration::from_millis(500);
    if !has_python("nats, pymysql") {
        return;
    }
    let (Some(database), Some(mut server)) = (mariadb(), Nats::start(&["-js"])) else { return };
    let port = server.port;
    runtime().block_on(async {
        make_stream(port, "acc.>").await;
        // As nats.sh makes it, but what is not acknowledged comes again sooner.
        let config = consumer::pull::Config { durable_name: Some("sql".into()), ack_wait: Duration::from_secs(2), max_ack_pending: 1000, ..Default::default() };
        context(port).await.get_stream("ACC").await.unwrap().create_consumer(config).await.unwrap();
    });
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let turn = Turn::with(NATS);
    append(&mut records(&dir), NATS, 0..ALL);
    let delivery = crate::common::Running::start(streaming(&format!("nats://127.0.0.1:{port}/acc?stream=ACC&name=stream3"), tmp.path()), &dir);
    wait_until("all records", || turn.delivered() == u64::from(ALL));
    delivery.stop();

    let info = || {
        runtime().block_on(async {
            let stream = context(port).await.get_stream("ACC").await.unwrap();
            let mut consumer: PullConsumer = stream.get_consumer("sql").await.unwrap();
            consumer.info().await.unwrap().clone()
        })
    };
    let rows = || database.count("cdr") as u32;
    let start = || {
        let url = format!("mysql://acc:{}@127.0.0.1:{}/acc", PASSWORD.replace('@', "%40").replace(':', "%3A").replace('/', "%2F"), database.port);
        let mut command = Command::new("python3");
        command.arg(example("nats-to-sql.py")).arg(format!("nats://127.0.0.1:{port}")).arg(url).stdin(Stdio::null());
        Running(command.spawn().unwrap())
    };
    // A database that is stopped where it is leaves the consumer with records that it has got, and has not stored.
    let stop_in_the_middle = || {
        database.pause();
        std::thread::sleep(PAUSE);
        wait_until("records under way", || info().num_ack_pending > 0);
    };
    let mut reads = start();
    wait_until("the first rows", || rows() > 0);
    stop_in_the_middle();
    drop(reads);
    database.resume();
    reads = start();
    let before = rows();
    wait_until("more rows", || rows() > before);
    stop_in_the_middle();
    // NATS dies without the acknowledgements of records that are stored.
    server.pause();
    database.resume();
    let mut stored = rows();
    wait_until("no more rows", || {
        std::thread::sleep(PAUSE);
        std::mem::replace(&mut stored, rows()) == stored
    });
    assert!(stored < ALL);
    server.kill();
    server.start_again();
    wait_until("all rows", || {
        // As systemd does.
        if reads.0.try_wait().unwrap().is_some() {
            reads = start();
        }
        rows() == ALL
    });
    wait_until("all is acknowledged", || info().num_ack_pending == 0 && info().num_pending == 0);
    let ids: BTreeSet<_> = database.sql("SELECT acc_id FROM acc.cdr").lines().map(str::to_owned).collect();
    assert_eq!((rows(), ids), (ALL, (0..ALL).map(id_of).collect()));
    let handed_out = info().delivered.consumer_sequence;
    assert!(handed_out > u64::from(ALL), "nothing came twice: {handed_out}");
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
