//! What goes wrong with MariaDB and PostgreSQL, on private servers: every record is stored exactly
//! once when it is over, and nothing else is.
#![forbid(unsafe_code)]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acc::accounting::record::Kind;
use acc::backend::sql::Db;
use acc::journal::{Dir, SinkId, Writer};
use common::servers::{Server, mariadb, postgres};
use common::*;

/// How the two servers say the same.
struct Dialect {
    name: &'static str,
    /// Quotes a name.
    quote: char,
    scheme: &'static str,
    database: &'static str,
    make_user: &'static str,
    /// What the user is to own.
    as_user: &'static str,
    password: fn(&str) -> String,
    refuses: &'static str,
    lock_table: &'static str,
    /// Two rows locks in the other order than the delivery takes them.
    cross: &'static str,
    short_waits: &'static str,
    read_only: [&'static str; 2],
}

const MARIADB: Dialect = Dialect {
    name: "m",
    quote: '`',
    scheme: "mysql",
    database: "acc",
    make_user: "CREATE USER biller@'127.0.0.1' IDENTIFIED BY 'pw'; GRANT ALL ON acc.* TO biller@'127.0.0.1';",
    as_user: "",
    password: |p| format!("ALTER USER biller@'127.0.0.1' IDENTIFIED BY '{p}'"),
    refuses: "CONSTRAINT `noted` failed",
    lock_table: "LOCK TABLES {t} WRITE; SELECT SLEEP(3); UNLOCK TABLES;",
    cross: "BEGIN; SELECT * FROM {t} WHERE id > 0 FOR UPDATE; SELECT SLEEP(1); SELECT * FROM acc_delivery FOR UPDATE; SELECT SLEEP(1); COMMIT;",
    short_waits: "SET GLOBAL innodb_lock_wait_timeout = 1; SET GLOBAL lock_wait_timeout = 1",
    read_only: ["SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"],
};

const POSTGRES: Dialect = Dialect {
    name: "p",
    quote: '"',
    scheme: "postgres",
    database: "postgres",
    make_user: "CREATE ROLE biller LOGIN PASSWORD 'pw'; GRANT ALL ON SCHEMA public TO biller;",
    as_user: "SET ROLE biller; ",
    password: |p| format!("ALTER ROLE biller PASSWORD '{p}'"),
    refuses: "violates check constraint",
    lock_table: "BEGIN; LOCK TABLE {t}; SELECT pg_sleep(3); COMMIT;",
    cross: "BEGIN; LOCK TABLE {t}; SELECT pg_sleep(1); SELECT * FROM acc_delivery FOR UPDATE; SELECT pg_sleep(1); COMMIT;",
    short_waits: "ALTER ROLE biller SET lock_timeout = '500ms'",
    read_only: ["ALTER ROLE biller SET default_transaction_read_only = on", "ALTER ROLE biller RESET default_transaction_read_only"],
};

/// Refuses some rows.
const NOTED: &str = "ALTER TABLE {t} ADD CONSTRAINT noted CHECK (x_note <> 'none')";

/// A table, a journal, and the records written into it.
struct Case<'a> {
    d: &'a Dialect,
    table: String,
    url: String,
    tmp: tempfile::TempDir,
    dir: Dir,
    writer: Writer,
    written: BTreeSet<String>,
    running: Option<Running>,
}

impl<'a> Case<'a> {
    /// With the table as accctl makes it, unless `made` says no.
    fn new(d: &'a Dialect, name: &str, port: u16, made: bool) -> Case<'a> {
        let table = format!("{}_{name}", d.name);
        let url = format!("{}://biller:pw@127.0.0.1:{port}/{}", d.scheme, d.database);
        if made {
            accctl_in_zone(&["schema", "--apply", "--url", &url, "--table-acc", &table, "--extra", "a->caller_uri; b->x_note"]);
        }
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        Case { d, table, url, writer: writer(&dir, 1), tmp, dir, written: BTreeSet::new(), running: None }
    }

    fn through(mut self, port: u16) -> Case<'a> {
        self.url = format!("{}://biller:pw@127.0.0.1:{port}/{}", self.d.scheme, self.d.database);
        self
    }

    fn start(&mut self) {
        let mut config = config(Some(&self.url), self.tmp.path());
        let db = Db { table_acc: self.table.as_str().into(), ..config.db().unwrap().clone() };
        config.destinations.set(SinkId::Db, db);
        // One table for each case is enough.
        config.rules.fields.leg = Default::default();
        self.running = Some(Running::start(config, &self.dir));
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }

    fn write(&mut self, count: usize) {
        for _ in 0..count {
            let callid = format!("{}-{}", self.table, self.written.len());
            let mut r = record(Kind::Cdr, &callid);
            r.extras[1].value = Some(b"x".to_vec());
            // Two cases may share a table; their calls are others.
            r.id ^= u128::from(self.dir.id()) << 64;
            self.writer.append_record(SinkId::Db, &r).unwrap();
            self.written.insert(callid);
        }
    }

    fn count(&self, server: &Server) -> usize {
        server.count(&self.table)
    }

    /// Nothing more than what was there came meanwhile.
    fn is_held(&self, server: &Server, count: usize) {
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(self.count(server), count, "{}", self.table);
    }

    /// Every record comes, each once, and none is dead.
    fn all_come_once(&mut self, server: &Server) {
        let (table, all) = (self.table.clone(), self.written.len());
        wait_until(&format!("all rows of {table}"), || server.count(&table) >= all);
        self.stop();
        let rows = server.sql(&format!("SELECT callid FROM {table}"));
        let rows: Vec<&str> = rows.lines().collect();
        assert_eq!(rows.len(), all, "{table}: a row more than once");
        assert_eq!(rows.into_iter().map(String::from).collect::<BTreeSet<_>>(), self.written, "{table}");
        assert!(!self.tmp.path().join("dead-db.jsonl").exists(), "{table}");
    }

    fn statement(&self, text: &str) -> String {
        text.replace("{t}", &self.table)
    }

    fn quoted(&self) -> String {
        format!("{0}{1}{0}", self.d.quote, self.table)
    }

    /// The statement in the one message that names the table, after these words.
    fn advice(&self, before: &str) -> String {
        let table = format!("table {} ", self.table);
        wait_until("the message", || !said(&[&table, before]).is_empty());
        let messages = said(&[&table, before]);
        assert_eq!(messages.len(), 1, "{messages:?}");
        let rest = messages[0].split(before).nth(1).unwrap();
        rest.split(". Its records wait").next().unwrap().to_string()
    }
}

/// Passes bytes on, half a round trip late each way, and breaks its connections when told to.
struct Relay {
    port: u16,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    passed: Arc<AtomicUsize>,
    /// What has this in it is swallowed, once, with all that follows on its connection.
    swallows: Arc<Mutex<Option<&'static str>>>,
}

impl Relay {
    fn start(to: u16, delay: Duration) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, passed, swallows) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)), Arc::default());
        let relay = Relay { port, connections: connections.clone(), passed: passed.clone(), swallows: Arc::clone(&swallows) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                connections.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                for (from, into) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                    let (passed, swallows) = (passed.clone(), swallows.clone());
                    std::thread::spawn(move || pass(from, into, delay, &passed, &swallows));
                }
            }
        });
        relay
    }

    fn cut(&self) {
        for stream in self.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass(mut from: TcpStream, mut into: TcpStream, delay: Duration, passed: &AtomicUsize, swallows: &Mutex<Option<&str>>) {
    let mut buffer = [0; 65536];
    let mut silent = false;
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        std::thread::sleep(delay);
        silent |= swallows.lock().unwrap().take_if(|word| buffer[..n].windows(word.len()).any(|w| w == word.as_bytes())).is_some();
        if silent {
            continue;
        }
        if into.write_all(&buffer[..n]).is_err() {
            break;
        }
        passed.fetch_add(n, Ordering::Relaxed);
    }
    let _ = into.shutdown(Shutdown::Both);
}

fn all_faults(d: &Dialect, mut server: Server) {
    let port = server.port;
    server.sql(d.make_user);

    // A table, then a column, that is not there: the message has the statement.
    let mut c = Case::new(d, "schema", port, false);
    c.write(30);
    c.start();
    let create = c.advice("create it: ");
    assert!(create.contains(&format!("CREATE TABLE {}", c.quoted())), "{create}");
    c.is_held(&server, 0);
    server.sql(&format!("{}{create}", d.as_user));
    c.all_come_once(&server);
    server.sql(&c.statement("ALTER TABLE {t} DROP COLUMN x_note"));
    c.start();
    c.write(30);
    let add = c.advice("add it: ");
    c.is_held(&server, 30);
    server.sql(&add);
    c.all_come_once(&server);

    // Stopped, and started again.
    let mut c = Case::new(d, "stopped", port, true);
    c.start();
    c.write(60);
    wait_until("the first rows", || c.count(&server) == 60);
    server.stop();
    c.write(60);
    std::thread::sleep(Duration::from_millis(500));
    server.start();
    c.all_come_once(&server);

    // Stopped where it is, for a while.
    let mut c = Case::new(d, "paused", port, true);
    c.start();
    c.write(10);
    wait_until("the first rows", || c.count(&server) == 10);
    server.pause();
    c.write(100);
    std::thread::sleep(Duration::from_secs(2));
    server.resume();
    c.all_come_once(&server);

    // Killed in the middle of the batches.
    let mut c = Case::new(d, "killed", port, true);
    c.write(3000);
    c.start();
    wait_until("some rows", || c.count(&server) > 0);
    server.kill();
    server.start();
    c.all_come_once(&server);

    // Far away, and the line is cut again and again: the answer to a COMMIT gets lost too.
    let relay = Relay::start(port, Duration::from_millis(10));
    let mut c = Case::new(d, "far", port, true).through(relay.port);
    c.write(1500);
    c.start();
    for _ in 0..8 {
        let before = relay.passed.load(Ordering::Relaxed);
        wait_until("something passes", || relay.passed.load(Ordering::Relaxed) > before + 30_000 || c.count(&server) == 1500);
        relay.cut();
    }
    c.all_come_once(&server);

    // The password is not the right one any more.
    server.sql(&(d.password)("other"));
    let mut c = Case::new(d, "schema", port, false);
    let before = c.count(&server);
    c.write(5);
    c.start();
    c.is_held(&server, before);
    server.sql(&(d.password)("pw"));
    wait_until("the rows", || c.count(&server) == before + 5);
    c.stop();

    // A row that the table refuses is found among the others.
    let mut c = Case::new(d, "refused", port, true);
    server.sql(&c.statement(NOTED));
    c.write(40);
    let mut bad = record(Kind::Cdr, "refused");
    bad.extras[1].value = Some(b"none".to_vec());
    c.writer.append_record(SinkId::Db, &bad).unwrap();
    c.write(40);
    c.start();
    wait_until("the others", || c.count(&server) == 80);
    c.stop();
    let dead = std::fs::read_to_string(c.tmp.path().join("dead-db.jsonl")).unwrap();
    assert_eq!(dead.lines().count(), 1);
    assert!(dead.contains("refused") && dead.contains(d.refuses), "{dead}");

    // To find many of them takes longer than the server may for one answer.
    let relay = Relay::start(port, Duration::from_millis(50));
    let mut c = Case::new(d, "sorted", port, true).through(relay.port);
    server.sql(&c.statement(NOTED));
    for n in 0..25 {
        c.write(1);
        let mut bad = record(Kind::Cdr, &format!("refused {n}"));
        bad.extras[1].value = Some(b"none".to_vec());
        c.writer.append_record(SinkId::Db, &bad).unwrap();
    }
    c.start();
    wait_until("the first rows", || c.count(&server) > 0);
    relay.cut();
    wait_until("some more", || c.count(&server) > 5);
    c.stop();
    let mut c = c.through(port);
    c.start();
    wait_until("the others", || c.count(&server) >= 25);
    c.stop();
    assert_eq!(server.sql(&c.statement("SELECT count(*), count(DISTINCT callid) FROM {t}")).trim(), "25\t25");
    // The one in hand when it was stopped may be there twice.
    let dead = std::fs::read_to_string(c.tmp.path().join("dead-db.jsonl")).unwrap();
    assert!((0..25).all(|n| dead.contains(&format!("\"refused {n}\""))), "{dead}");

    // Longer than its column: clipped, and said once.
    let mut c = Case::new(d, "clipped", port, true);
    for callid in ["long-1", "long-2"] {
        let mut long = record(Kind::Cdr, callid);
        long.core.reason = b"r".repeat(100);
        c.writer.append_record(SinkId::Db, &long).unwrap();
    }
    c.start();
    wait_until("the rows", || c.count(&server) == 2);
    c.stop();
    assert_eq!(server.sql(&c.statement("SELECT DISTINCT sip_reason FROM {t}")).trim(), "r".repeat(32));
    assert_eq!(said(&[&format!("column sip_reason of table {} are clipped", c.table)]).len(), 1);

    // Somebody else's locks: on the table, on the cursor's rows, and both in the other order.
    server.sql(d.short_waits);
    for (name, theirs) in [("locked", d.lock_table), ("crossed", d.cross)] {
        let mut c = Case::new(d, name, port, true);
        c.start();
        c.write(10);
        wait_until("the first rows", || c.count(&server) == 10);
        let theirs = c.statement(theirs);
        std::thread::scope(|s| {
            let lock = s.spawn(|| server.try_sql(&theirs));
            std::thread::sleep(Duration::from_millis(300));
            c.write(100);
            // Its own end may be that it was the victim of the deadlock.
            let _ = lock.join().unwrap();
        });
        c.all_come_once(&server);
    }

    // Read-only.
    let mut c = Case::new(d, "readonly", port, true);
    server.sql(d.read_only[0]);
    c.write(20);
    c.start();
    c.is_held(&server, 0);
    server.sql(d.read_only[1]);
    c.all_come_once(&server);
}

#[test]
fn tables_without_transactions_are_named_and_cost_no_record() {
    listen();
    let Some(server) = mariadb() else { return skip("MariaDB") };
    server.sql(MARIADB.make_user);
    let mut c = Case::new(&MARIADB, "engine", server.port, true);
    server.sql(&c.statement(NOTED));
    server.sql("ALTER TABLE acc_delivery ENGINE=MyISAM");
    // A refused row undoes its transaction, but would not undo the move of such a cursor.
    c.write(20);
    let mut bad = record(Kind::Cdr, "refused");
    bad.extras[1].value = Some(b"none".to_vec());
    c.writer.append_record(SinkId::Db, &bad).unwrap();
    c.write(20);
    c.start();
    wait_until("the others", || c.count(&server) == 40);
    c.stop();
    assert_eq!(std::fs::read_to_string(c.tmp.path().join("dead-db.jsonl")).unwrap().lines().count(), 1);
    assert_eq!(said(&["ALTER TABLE acc_delivery ENGINE=InnoDB;"]).len(), 1);

    std::fs::remove_file(c.tmp.path().join("dead-db.jsonl")).unwrap();
    server.sql(&c.statement("ALTER TABLE acc_delivery ENGINE=InnoDB; ALTER TABLE {t} ENGINE=Aria"));
    c.start();
    c.write(10);
    wait_until("the rows", || c.count(&server) == 50);
    c.write(10);
    c.all_come_once(&server);
    assert_eq!(said(&["ALTER TABLE acc_delivery ENGINE=InnoDB;"]).len(), 1);
    assert_eq!(said(&["engine Aria", &format!("ALTER TABLE `{}` ENGINE=InnoDB;", c.table)]).len(), 1);
}

#[test]
fn a_server_that_falls_silent_while_the_cursor_is_read_is_asked_again() {
    let Some(server) = postgres() else { return skip("PostgreSQL") };
    server.sql(POSTGRES.make_user);
    let relay = Relay::start(server.port, Duration::ZERO);
    let mut c = Case::new(&POSTGRES, "silent", server.port, true).through(relay.port);
    *relay.swallows.lock().unwrap() = Some("acc_delivery");
    c.write(10);
    c.start();
    wait_until("the question", || relay.swallows.lock().unwrap().is_none());
    // It waits for as long as a transaction may take.
    std::thread::sleep(Duration::from_secs(15));
    c.all_come_once(&server);
}

#[test]
fn mariadb_and_postgresql_lose_and_double_nothing() {
    listen();
    std::thread::scope(|s| {
        for (dialect, start, name) in [(&MARIADB, mariadb as fn() -> Option<Server>, "MariaDB"), (&POSTGRES, postgres, "PostgreSQL")] {
            s.spawn(move || match start() {
                Some(server) => all_faults(dialect, server),
                None => skip(name),
            });
        }
    });
}
