//! Tables as operators have them: what is written where a value is not set, or a column is not what a
//! record would have there.
#![forbid(unsafe_code)]

mod common;

use std::path::Path;
use std::process::Command;

use acc::accounting::record::{EndCause, Kind, Record};
use acc::backend::sql::Db;
use acc::config::Config;
use acc::journal::{Dir, SinkId};
use common::servers::{COLUMNS, PASSWORD, Server, mariadb, postgres};
use common::*;

/// Fields, some of which bear the names of columns that a record fills by itself.
const FIELDS: [&str; 8] = ["note", "class", "bare", "rate", "due", "duration", "setuptime", "ms_duration"];
const EXTRAS: &str = "db: a->note; b->class; c->bare; d->rate; e->due; f->duration; g->setuptime; h->ms_duration";
/// What these columns show, and those that somebody made for something else.
const SHOWN: &str = "note, class, bare, rate, due, setuptime, duration, ms_duration, acc_id, end_cause, end_side";

/// A database by its client, and the table in it: what is said names it.
struct Client<'a> {
    run: &'a dyn Fn(&str) -> String,
    url: String,
    table: &'a str,
}

impl Client<'_> {
    fn rows(&self, sql: &str) -> Vec<String> {
        (self.run)(sql).lines().map(String::from).collect()
    }
}

fn table(name: &str, id: &str, time: &str, generated: &str, fields: &str) -> String {
    format!(
        "CREATE TABLE {name} ({id}, {COLUMNS}, time {time} NOT NULL, created {time} DEFAULT NULL, setuptime INTEGER DEFAULT 0 NOT NULL, \
         duration INTEGER DEFAULT 0 NOT NULL, ms_duration INTEGER DEFAULT 0 NOT NULL, acc_id INTEGER NULL, end_cause VARCHAR(2), end_side {generated}{fields});"
    )
}

fn call(callid: &str, values: [Option<&str>; 8]) -> Record {
    let mut r = record(Kind::Cdr, callid);
    r.end = Some(EndCause::Caller);
    r.extras = FIELDS.iter().zip(values).map(|(name, value)| field(name, value.map(str::as_bytes))).collect();
    r
}

fn extended(client: &Client, journal: &Path) -> Config {
    let mut config = config(Some(&client.url), journal);
    let db = Db { table_acc: client.table.into(), ..config.db().unwrap().clone() };
    config.destinations.set(SinkId::Db, db);
    config.rules.fields = Default::default();
    config.rules.fields.extra.add(EXTRAS).unwrap();
    config
}

fn deliver(client: &Client, records: &[Record]) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir, 1);
    for r in records {
        w.append_record(SinkId::Db, r).unwrap();
    }
    let running = Running::start(extended(client, tmp.path()), &dir);
    wait_until("the rows", || client.rows(&format!("SELECT count(*) FROM {}", client.table)) == [records.len().to_string()]);
    running.stop();
    assert!(!tmp.path().join("dead-db.jsonl").exists());
}

/// Everything that is the same everywhere. `missing` adds a number that takes no NULL and has no default.
fn exercise(client: &Client, made: &str, missing: &str) {
    let table = client.table;
    listen();
    let fields = ", note VARCHAR(64) NOT NULL DEFAULT '', class VARCHAR(64) NOT NULL DEFAULT 'it''s', bare VARCHAR(64) NOT NULL, \
                  rate INTEGER NOT NULL DEFAULT 7, due DATE NULL";
    (client.run)(&made.replace("{fields}", fields));
    let set = [Some("x"), Some("y"), Some("z"), Some("12"), Some("2024-02-29"), Some("61"), Some("3"), Some("61500")];
    let records = [call("unset", [None; 8]), call("set", set), call("empty", [Some(""); 8])];
    deliver(client, &records);
    let rows = client.rows(&format!("SELECT callid, {SHOWN} FROM {table} ORDER BY callid"));
    assert_eq!(
        rows,
        [
            "empty\t\t\t\t7\tNULL\t0\t0\t0\tNULL\tNULL\tmade",
            "set\tx\ty\tz\t12\t2024-02-29\t3\t61\t61500\tNULL\tNULL\tmade",
            "unset\t\tit's\t\t7\tNULL\t0\t0\t0\tNULL\tNULL\tmade",
        ]
    );

    // What cannot be right is said before the first record, with the cure.
    (client.run)(&format!("DROP TABLE {table}"));
    (client.run)(&made.replace("{fields}", &format!("{fields}, hard {missing}")));
    let tmp = tempfile::tempdir().unwrap();
    let mut config = extended(client, tmp.path());
    config.rules.fields.extra.add("db: i->hard").unwrap();
    let running = Running::start(config, &Dir::open(tmp.path()).unwrap());
    for words in [
        ["column hard of", ") does not allow NULL and has no default"],
        ["column acc_id of", ") cannot hold a text of 32 characters"],
        ["column end_cause of", ") cannot hold a text of 8 characters"],
        ["column end_side of", ") cannot hold a text of 8 characters"],
        ["column duration of", ") gets the value of a field instead of the record's own duration"],
    ] {
        let words = [words[0], &format!(" table {table} ("), words[1]];
        // Once by each that was started since there is such a column.
        let times = if words[0].contains("hard") { 1 } else { 2 };
        wait_until(words[0], || said(&words).len() >= times);
        assert_eq!(said(&words).len(), times, "{words:?}");
    }
    running.stop();
}

fn cure(client: &Client) {
    let said = said(&["column hard", client.table, "to allow NULL: "]);
    (client.run)(said[0].split_once("to allow NULL: ").unwrap().1);
    (client.run)(&format!("INSERT INTO {} (time, bare, hard) VALUES ('2024-02-29', '', NULL)", client.table));
}

fn client_of(server: &Server) -> impl Fn(&str) -> String + '_ {
    |sql: &str| server.sql(sql)
}

#[test]
fn mariadb_has_its_defaults() {
    let Some(server) = mariadb() else { return skip("MariaDB") };
    let url = format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", server.port);
    let run = client_of(&server);
    let client = Client { run: &run, url, table: "m_acc" };
    let made = table("m_acc", "id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY", "DATETIME", "VARCHAR(32) AS ('made') STORED", "{fields}");
    exercise(&client, &made, "INT NOT NULL");
    cure(&client);

    // Its socket, as OpenSIPS writes it, and tables of another database.
    server.sql(&format!(
        "CREATE USER acc@localhost IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON acc.* TO acc@localhost; CREATE DATABASE billing; GRANT ALL ON billing.* TO acc@localhost;"
    ));
    let url = format!("mysql://acc:{PASSWORD}@unix({})/acc?tls_domain=dom1", server.dir().join("sock").display());
    elsewhere(&server, &url, "write ssl-mode=verify_identity");
}

#[test]
fn postgresql_has_its_defaults() {
    let Some(server) = postgres() else { return skip("PostgreSQL") };
    let url = format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/postgres", server.port);
    let run = client_of(&server);
    let client = Client { run: &run, url, table: "p_acc" };
    let made = table("p_acc", "id BIGSERIAL PRIMARY KEY", "TIMESTAMP", "VARCHAR(32) GENERATED ALWAYS AS ('made') STORED", "{fields}");
    exercise(&client, &made, "INT NOT NULL");
    cure(&client);

    server.sql("CREATE SCHEMA billing");
    elsewhere(&server, &format!("{}?tls_domain=dom1", client.url), "write sslmode=verify-full");

    // Types that text goes into only when somebody says so.
    server.sql(
        "DROP TABLE p_acc; CREATE DOMAIN word AS VARCHAR(3); CREATE DOMAIN moment AS TIMESTAMPTZ; CREATE TYPE tariff AS ENUM ('day', 'night');
         CREATE TABLE p_acc (id INT GENERATED ALWAYS AS IDENTITY, method TEXT, from_tag TEXT, to_tag TEXT, callid TEXT, sip_code SMALLINT, sip_reason BYTEA,
           time moment, created TIMESTAMP(0), setuptime INTERVAL, duration VARCHAR(9), ms_duration BOOLEAN DEFAULT true NOT NULL, note word, class tariff,
           bare JSONB, rate INET, due DATE)",
    );
    let mut r = call("typed", [Some("wörtlich"), Some("night"), Some("{\"a\": 1}"), Some("192.0.2.1"), Some("2024-02-29"), Some("x"), None, None]);
    r.core.reason = b"a\\b".to_vec();
    deliver(&client, &[r]);
    let row = server.sql(
        "SELECT id, sip_code, convert_from(sip_reason, 'UTF8'), time = '2023-11-14 22:13:23Z', setuptime, duration, ms_duration, note, class, bare, rate, due FROM p_acc",
    );
    assert_eq!(row.trim(), "1\t200\ta\\b\tt\tNULL\tx\tt\twör\tnight\t{\"a\": 1}\t192.0.2.1\t2024-02-29");
}

/// Tables of another schema, by the parameters and in accctl. What the server's own modules have in such a URL, and is of
/// no use here, is said once, with the `cure`.
fn elsewhere(server: &Server, url: &str, cure: &str) {
    let tables = ["--table-acc", "billing.acc", "--table-missed", "billing.missed_calls", "--set", "db_table_calls=billing.acc_calls"];
    let schema = |more: &[&str]| accctl_in_zone(&[&["schema", "--url", url, "--extra", "a->caller_uri; b->x_note"], &tables[..], more].concat());
    let made = schema(&["--apply"]);
    assert!(made.contains("('acc', 7)") && made.contains("('missed_calls', 5)"), "{made}");
    assert_eq!(schema(&[]), "");
    deliver_in_zone(url, "billing.acc", &[]);
    assert_eq!(server.count("billing.acc"), 1);

    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir, 1);
    for (callid, kind) in [("missed", Kind::Missed), ("up", Kind::Start)] {
        let r = Record { kind, ..record(Kind::Cdr, callid) };
        w.append_record(SinkId::Db, &Record { duration_ms: None, end: None, ..r }).unwrap();
    }
    let mut config = config(Some(url), tmp.path());
    let names = ["acc", "missed_calls", "acc_calls"].map(|name| format!("billing.{name}").into());
    let [table_acc, table_missed, table_calls] = names;
    let db = Db { table_acc, table_missed, table_calls, ..config.db().unwrap().clone() };
    config.destinations.set(SinkId::Db, db);
    let running = Running::start(config, &dir);
    for table in ["billing.missed_calls", "billing.acc_calls"] {
        wait_until(table, || server.count(table) == 1);
    }
    running.stop();
    assert_eq!(said(&["tls_domain", cure]).len(), 1);
}

#[test]
fn sqlite_has_its_defaults() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("acc.sqlite");
    let run = |sql: &str| {
        let mut command = Command::new("sqlite3");
        let out = command.args(["-cmd", ".timeout 10000", "-separator", "\t", "-nullvalue", "NULL"]).arg(&file).arg(sql).output().unwrap();
        assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let url = format!("sqlite://{}", file.display());
    let client = Client { run: &run, url, table: "s_acc" };
    let made = table("s_acc", "id INTEGER PRIMARY KEY AUTOINCREMENT", "DATETIME", "VARCHAR(32) AS ('made')", "{fields}");
    exercise(&client, &made, "INT NOT NULL");
    assert!(!said(&["column hard", "recreate the table with \"hard\" INT DEFAULT NULL"]).is_empty());

    // Defaults that only a column definition takes, and bytes that are no text.
    run("DROP TABLE s_acc");
    run(&table(
        "s_acc",
        "id INTEGER PRIMARY KEY",
        "DATETIME",
        "TEXT",
        ", note TEXT NOT NULL DEFAULT word, class TEXT NOT NULL DEFAULT \"two words\", bare, rate BLOB, due TEXT NOT NULL DEFAULT CURRENT_DATE",
    ));
    let r = call("typed", [None, None, Some("b"), Some("r"), None, Some("x"), Some("1"), None]);
    deliver(&client, &[r]);
    let row = run("SELECT note, class, typeof(bare), typeof(rate), due = date(), typeof(duration), typeof(setuptime), ms_duration, end_side FROM s_acc");
    assert_eq!(row, "word\ttwo words\ttext\ttext\t1\ttext\tinteger\t0\tcaller\n");
}
