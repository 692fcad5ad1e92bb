//! A database that is restored from a backup gets again what it lacks, each record once.
#![forbid(unsafe_code)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use acc::accounting::record::Kind;
use acc::backend::{Fate, LocalFuture, RecordSender, one_by_one};
use acc::config::Config;
use acc::journal::calls::CARRY_RANK;
use acc::journal::{Dir, Item, SinkId, Writer};
use common::servers::{COLUMNS, PASSWORD, Server, mariadb, postgres};
use common::*;

/// What the library said, in all tests of this file.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Listener;

impl log::Log for Listener {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("acc") {
            SAID.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// Lines with all of these parts.
fn said(parts: &[&str]) -> usize {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|line| parts.iter().all(|p| line.contains(p))).count()
}

/// A database, with a copy of it.
trait Database {
    fn url(&self) -> String;
    /// How many rows, and how many Call-IDs in them.
    fn rows(&self) -> (usize, usize);
    fn back_up(&self);
    fn restore(&self);
}

struct Sqlite(PathBuf);

impl Database for Sqlite {
    fn url(&self) -> String {
        format!("sqlite:///{}", self.0.display())
    }

    fn rows(&self) -> (usize, usize) {
        let answer = sqlite(&self.0, "SELECT count(*), count(DISTINCT callid) FROM acc").unwrap_or_default();
        two(&answer)
    }

    fn back_up(&self) {
        let out = Command::new("sqlite3").arg(&self.0).arg(format!(".backup '{}'", self.0.with_extension("backup").display())).output().unwrap();
        assert!(out.status.success());
    }

    fn restore(&self) {
        // A thread of the delivery closes the old file, and removes what is beside it, by name.
        std::thread::sleep(Duration::from_millis(500));
        for suffix in ["-wal", "-shm", ""] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
        std::fs::copy(self.0.with_extension("backup"), &self.0).unwrap();
    }
}

fn two(answer: &str) -> (usize, usize) {
    let mut numbers = answer.split_whitespace().map(|n| n.parse().unwrap());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// A server, and the commands that copy its database to standard output and from standard input.
struct Served {
    server: Server,
    url: String,
    dump: fn(&Server) -> Command,
    load: fn(&Server) -> Command,
}

impl Served {
    fn copy(&self) -> PathBuf {
        self.server.dir().join("backup.sql")
    }
}

impl Database for Served {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn rows(&self) -> (usize, usize) {
        two(&self.server.try_sql("SELECT count(*), count(DISTINCT callid) FROM acc").unwrap_or_default())
    }

    fn back_up(&self) {
        let out = (self.dump)(&self.server).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        std::fs::write(self.copy(), out.stdout).unwrap();
    }

    fn restore(&self) {
        let out = (self.load)(&self.server).stdin(std::fs::File::open(self.copy()).unwrap()).stdout(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

const NUMBERS: &str = "duration INT DEFAULT 0 NOT NULL, ms_duration INT DEFAULT 0 NOT NULL, setuptime INT DEFAULT 0 NOT NULL";

fn with_table(server: &Server, id: &str, time: &str) {
    server.sql(&format!(
        "CREATE TABLE acc ({id}, {COLUMNS}, time {time} NOT NULL, {NUMBERS}, created {time} DEFAULT NULL, caller_uri VARCHAR(64), x_note VARCHAR(64))"
    ));
}

fn in_mariadb() -> Option<Served> {
    let server = mariadb()?;
    with_table(&server, "id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY NOT NULL", "DATETIME");
    let url = format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", server.port);
    fn dump(server: &Server) -> Command {
        let mut command = Command::new("mysqldump");
        command.args(["--no-defaults", "-uroot", "-S"]).arg(server.dir().join("sock")).args(["--single-transaction", "acc"]);
        command
    }
    fn load(server: &Server) -> Command {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "-uroot", "-S"]).arg(server.dir().join("sock")).arg("acc");
        command
    }
    Some(Served { server, url, dump, load })
}

fn in_postgres() -> Option<Served> {
    let server = postgres()?;
    with_table(&server, "id SERIAL PRIMARY KEY", "TIMESTAMP WITHOUT TIME ZONE");
    let url = format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/postgres", server.port);
    fn client(server: &Server, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-U", "acc", "-d", "postgres", "-p"]).arg(server.port.to_string()).env("PGPASSWORD", PASSWORD);
        command
    }
    fn dump(server: &Server) -> Command {
        let mut command = client(server, "pg_dump");
        command.args(["--clean", "--if-exists"]);
        command
    }
    fn load(server: &Server) -> Command {
        let mut command = client(server, "psql");
        command.args(["-q", "-v", "ON_ERROR_STOP=1"]);
        command
    }
    Some(Served { server, url, dump, load })
}

/// A RADIUS server that answers.
struct Radius(Arc<AtomicUsize>);

impl RecordSender for Radius {
    fn send_all<'a>(&'a mut self, records: &'a [acc::backend::Offer<'a>]) -> LocalFuture<'a, Vec<Fate>> {
        self.0.fetch_add(records.len(), Ordering::Relaxed);
        Box::pin(async move { vec![Fate::Delivered; records.len()] })
    }
}

/// A journal and its delivery.
struct Setup {
    journal: PathBuf,
    config: Config,
    radius: Arc<AtomicUsize>,
}

impl Setup {
    fn new(database: &dyn Database, tmp: &Path, keep: u64) -> Setup {
        let _ = log::set_logger(&Listener);
        log::set_max_level(log::LevelFilter::Warn);
        let journal = tmp.join("journal");
        let mut config = config(Some(&database.url()), &journal);
        config.journal_keep = Duration::from_secs(3600 * keep);
        Setup { journal, config, radius: Arc::default() }
    }

    fn open(&self) -> Dir {
        Dir::open(&self.journal).unwrap()
    }

    fn start(&self, dir: &Dir) -> Running {
        let (config, got) = (self.config.clone(), self.radius.clone());
        Running::start_with(dir, move |delivery| {
            delivery.config = config;
            delivery.makers.push(one_by_one(SinkId::Aaa, || Ok(Box::new(Radius(got)))));
        })
    }

    fn kept(&self) -> usize {
        std::fs::read_dir(self.journal.join("kept")).map_or(0, Iterator::count)
    }

    fn dead(&self) -> usize {
        std::fs::read_to_string(self.journal.join("dead-db.jsonl")).unwrap_or_default().lines().count()
    }
}

/// So many records for SQL and RADIUS, and one that SQL can never take.
fn append(writer: &mut Writer, name: &str, count: usize) {
    for n in 0..count {
        let callid = format!("{name}-{n}");
        writer.append_record(SinkId::Db, &record(Kind::Cdr, &callid)).unwrap();
        writer.append_record(SinkId::Aaa, &record(Kind::Cdr, &callid)).unwrap();
        if n == count / 2 {
            let mut never = record(Kind::Manual, &format!("{name}-never"));
            never.table = "no_such_table".into();
            never.times = None;
            writer.append_record(SinkId::Db, &never).unwrap();
        }
    }
}

/// Backup, more calls, restore; `stopped`: the server is, meanwhile.
fn exercise(database: &dyn Database, more: usize, stopped: bool) {
    let tmp = tempfile::tempdir().unwrap();
    let s = Setup::new(database, tmp.path(), 1);
    let mut dir = s.open();
    let mut writers = [writer(&dir, 1), writer(&dir, 2)];
    let mut running = s.start(&dir);
    append(&mut writers[0], "before", 100);
    append(&mut writers[1], "also-before", 50);
    wait_until("the rows before", || database.rows() == (150, 150) && s.dead() == 2);
    database.back_up();
    append(&mut writers[0], "after", more);
    append(&mut writers[1], "also-after", 20);
    let all = 150 + more + 20;
    wait_until("all rows", || database.rows() == (all, all) && s.dead() == 4);
    wait_until("all of RADIUS", || s.radius.load(Ordering::Relaxed) == all);
    drop(writers);
    wait_until("the segments are passed", || segments(&s.journal) == 0);
    assert!(s.kept() > 2);
    running.stop();
    running = if stopped {
        database.restore();
        drop(dir);
        dir = s.open();
        s.start(&dir)
    } else {
        let running = s.start(&dir);
        // It is connected when it delivers.
        writer(&dir, 3).append_record(SinkId::Db, &record(Kind::Cdr, "between")).unwrap();
        wait_until("the row between", || database.rows().0 == all + 1);
        database.restore();
        running
    };
    let late = if stopped { 1 } else { 2 };
    writer(&dir, 4).append_record(SinkId::Db, &record(Kind::Cdr, "last")).unwrap();
    wait_until("the rows again", || database.rows().0 >= all + late);
    wait_until("the segments are passed again", || segments(&s.journal) == 0);
    running.stop();
    assert_eq!(database.rows(), (all + late, all + late));
    assert_eq!((s.radius.load(Ordering::Relaxed), s.dead()), (all, 4), "nobody else gets anything again");
    let again = format!("the {} records it accepted since then", more + 20 + late - 1);
    assert_eq!(said(&["WARN db: the database is as it was at 20", &again]), 1, "{:?}", SAID.lock().unwrap_or_else(PoisonError::into_inner));
    // Nothing is said or done again.
    drop(dir);
    let dir = s.open();
    let running = s.start(&dir);
    writer(&dir, 1).append_record(SinkId::Db, &record(Kind::Cdr, "very last")).unwrap();
    wait_until("one more row", || database.rows().0 > all + late);
    running.stop();
    assert_eq!(database.rows(), (all + late + 1, all + late + 1));
    assert_eq!(said(&["WARN db: the database is as it was at 20", &again]), 1);
    // The backup can be restored once more.
    database.restore();
    let running = s.start(&dir);
    wait_until("the rows once more", || database.rows().0 > all + late);
    running.stop();
    assert_eq!(database.rows(), (all + late + 1, all + late + 1));
    assert_eq!(said(&["ERROR", "that the database accepted"]), 0);
}

#[test]
fn an_sqlite_file_copied_back_is_filled_up() {
    let tmp = tempfile::tempdir().unwrap();
    exercise(&Sqlite(tmp.path().join("acc.sqlite")), 1000, true);
    let tmp = tempfile::tempdir().unwrap();
    exercise(&Sqlite(tmp.path().join("acc.sqlite")), 1100, false);
}

#[test]
fn a_restored_mariadb_is_filled_up() {
    let Some(database) = in_mariadb() else { return skip("MariaDB") };
    exercise(&database, 1200, true);
    database.server.sql("DELETE FROM acc; DELETE FROM acc_delivery; DELETE FROM acc_seen");
    exercise(&database, 1300, false);
}

#[test]
fn a_restored_postgresql_is_filled_up() {
    let Some(database) = in_postgres() else { return skip("PostgreSQL") };
    exercise(&database, 1400, true);
    database.server.sql("DELETE FROM acc; DELETE FROM acc_delivery; DELETE FROM acc_seen");
    exercise(&database, 1500, false);
}

/// In a process of its own, where nobody else counts.
fn alone(test: &str, f: impl FnOnce()) {
    const ALONE: &str = "ACC_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return f();
    }
    let out = Command::new(std::env::current_exe().unwrap()).args(["--exact", test]).env(ALONE, "1").output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

fn counters() -> [u64; 3] {
    [SinkId::Db.accepted(), SinkId::Db.delivered(), SinkId::Db.dead()].map(acc::stats::get)
}

/// Text of `accctl status`.
fn status(journal: &Path) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).arg("status").arg(journal).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn what_is_not_kept_is_named() {
    alone("what_is_not_kept_is_named", || {
        let tmp = tempfile::tempdir().unwrap();
        let database = Sqlite(tmp.path().join("acc.sqlite"));
        // As ever: nothing is kept.
        let mut s = Setup::new(&database, tmp.path(), 0);
        let dir = s.open();
        let running = s.start(&dir);
        let mut w = writer(&dir, 1);
        append(&mut w, "before", 100);
        wait_until("the rows before", || database.rows() == (100, 100));
        database.back_up();
        append(&mut w, "gone", 300);
        drop(w);
        wait_until("the rows", || database.rows() == (400, 400) && segments(&s.journal) == 0);
        running.stop();
        assert_eq!(s.kept(), 0);
        assert!(status(&s.journal).contains("kept: 0 segments, 0 bytes; a restored database gets back what it accepted since 20"), "{}", status(&s.journal));
        // From here on all is kept.
        s.config.journal_keep = Duration::from_secs(3600);
        let running = s.start(&dir);
        append(&mut writer(&dir, 2), "kept", 200);
        wait_until("more rows", || database.rows() == (600, 600) && segments(&s.journal) == 0);
        running.stop();
        database.restore();
        let running = s.start(&dir);
        wait_until("the rows again", || database.rows().0 >= 300);
        wait_until("that they are counted", || {
            let [accepted, delivered, dead] = counters();
            accepted == delivered + dead
        });
        running.stop();
        assert_eq!(database.rows(), (300, 300));
        assert_eq!(said(&["WARN db: the database is as it was at 20", "the 200 records it accepted since then"]), 1);
        assert_eq!(
            said(&["ERROR db: 300 records that the database accepted from 20", " to 20", "no longer in it or in the journal"]),
            1,
            "{:?}",
            SAID.lock().unwrap()
        );

        // A new database gets all that is kept.
        std::fs::remove_file(&database.0).unwrap();
        let running = s.start(&dir);
        wait_until("the rows in a new file", || database.rows().0 >= 200);
        running.stop();
        assert_eq!(database.rows(), (200, 200));
        let new =
            "WARN db: the database has nothing from this journal, as if it were new: the 200 records still in the journal are sent again; 100 earlier ones";
        assert_eq!(said(&[new]), 1, "{:?}", SAID.lock().unwrap());
    });
}

#[test]
fn kept_segments_go_first_when_there_is_no_room_and_when_their_time_is_over() {
    alone("kept_segments_go_first_when_there_is_no_room_and_when_their_time_is_over", || {
        let tmp = tempfile::tempdir().unwrap();
        let database = Sqlite(tmp.path().join("acc.sqlite"));
        let mut s = Setup::new(&database, tmp.path(), 1);
        s.config.limits.max_bytes = 1 << 20;
        let dir = s.open();
        let running = s.start(&dir);
        for part in 0..10 {
            append(&mut writer(&dir, part as i32), &format!("part-{part}"), 500);
            wait_until("the rows", || database.rows().0 == 500 * (part + 1) && segments(&s.journal) == 0);
        }
        let bytes = || std::fs::read_dir(s.journal.join("kept")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
        wait_until("there is room", || bytes() < 1 << 20);
        assert!(bytes() > 1 << 19, "no more than need be");
        assert_eq!(said(&["is full"]), 0);
        running.stop();
        let text = status(&s.journal);
        assert!(text.contains(&format!("kept: {} segments, {} bytes", s.kept(), bytes())), "{text}");
        // Their time is over.
        for entry in std::fs::read_dir(s.journal.join("kept")).unwrap() {
            let file = std::fs::File::open(entry.unwrap().path()).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3601)).unwrap();
        }
        let running = s.start(&dir);
        wait_until("they go", || s.kept() == 0);
        running.stop();
        assert_eq!(database.rows(), (5000, 5000));
        assert_eq!(s.radius.load(Ordering::Relaxed), 5000);
    });
}

/// One that was refused waits apart, and is delivered behind the backup: its copy is needed then.
#[test]
fn a_record_that_waited_apart_comes_again_once() {
    let tmp = tempfile::tempdir().unwrap();
    let database = Sqlite(tmp.path().join("acc.sqlite"));
    let s = Setup::new(&database, tmp.path(), 1);
    let dir = s.open();
    let running = s.start(&dir);
    let mut w = writer(&dir, 1);
    append(&mut w, "before", 10);
    wait_until("the rows before", || database.rows() == (10, 10));
    let change = |sql: &str| {
        let out = Command::new("sqlite3").args(["-cmd", ".timeout 10000"]).arg(&database.0).arg(sql).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    // A table that only a script names, and that lacks a column, holds its own records.
    change("CREATE TABLE other (callid)");
    let mut apart = record(Kind::Cdr, "apart");
    apart.table = "other".into();
    w.append_record(SinkId::Db, &apart).unwrap();
    append(&mut w, "behind", 10);
    wait_until("the rows behind it", || database.rows() == (20, 20));
    database.back_up();
    change("DROP TABLE other");
    let others = || sqlite(&database.0, "SELECT count(*) FROM other").unwrap_or_default().trim().to_string();
    wait_until("its row", || others() == "1");
    append(&mut w, "after", 7);
    drop(w);
    wait_until("the rows after", || database.rows() == (27, 27) && segments(&s.journal) == 0);
    running.stop();
    database.restore();
    change("DROP TABLE other");
    let running = s.start(&dir);
    wait_until("the rows again", || database.rows() == (27, 27) && others() == "1");
    running.stop();
    assert_eq!((database.rows(), others().as_str()), ((27, 27), "1"));
    assert_eq!(said(&["WARN db: the database is as it was at 20", "the 8 records it accepted since then"]), 1, "{:?}", SAID.lock().unwrap());
    assert_eq!(said(&["ERROR db: 1 records that the database accepted"]), 0);
}

/// `kept` leads elsewhere: segments stay where they are, once each, until it does not.
#[test]
fn segments_that_cannot_be_kept_stay_and_nothing_is_copied_again() {
    let tmp = tempfile::tempdir().unwrap();
    let database = Sqlite(tmp.path().join("acc.sqlite"));
    let s = Setup::new(&database, tmp.path(), 1);
    let dir = s.open();
    std::os::unix::fs::symlink(tmp.path(), s.journal.join("kept")).unwrap();
    let states = |carried: bool| {
        let mut states = 0;
        for segment in dir.segments().unwrap().iter().filter(|s| (s.name.rank == CARRY_RANK) == carried) {
            let mut reader = dir.read(segment.name, 0).unwrap();
            while let Item::Frame(frame) = reader.read().unwrap() {
                states += usize::from(frame.payload.ends_with(b"a state"));
            }
        }
        states
    };
    let running = s.start(&dir);
    let mut w = writer(&dir, 1);
    for call in 0..100 {
        w.append_call(call, b"a state").unwrap();
    }
    append(&mut w, "up", 100);
    drop(w);
    wait_until("the states are copied", || database.rows() == (100, 100) && states(true) == 100);
    // The directory is looked at again and again.
    for n in 0..10 {
        let callid = format!("later-{n}");
        writer(&dir, 2).append_record(SinkId::Db, &record(Kind::Cdr, &callid)).unwrap();
        wait_until("one more row", || database.rows().0 == 101 + n);
    }
    assert_eq!((states(true), states(false)), (100, 100));
    let path = s.journal.display().to_string();
    assert_eq!(said(&["ERROR journal_keep: journal segment ", &path, "set journal_keep to 0"]), 1, "{:?}", SAID.lock().unwrap());
    running.stop();
    // The next start says so at once, delivers nothing again, and goes on when the link is gone.
    let running = s.start(&dir);
    wait_until("a word", || said(&["ERROR journal_keep: journal segments cannot be moved", &path]) == 2);
    std::fs::remove_file(s.journal.join("kept")).unwrap();
    wait_until("they are kept", || dir.segments().unwrap().iter().all(|s| s.name.rank == CARRY_RANK));
    assert!(s.kept() > 10);
    assert_eq!(acc::journal::calls::scan(&dir).unwrap().calls.len(), 100);
    let mut w = writer(&dir, 3);
    for call in 0..100 {
        w.append_end(call, &[]).unwrap();
    }
    drop(w);
    wait_until("the ends go", || dir.segments().unwrap().iter().all(|s| s.name.rank == CARRY_RANK));
    running.stop();
    let running = s.start(&dir);
    wait_until("nothing is left", || dir.segments().unwrap().is_empty());
    running.stop();
    assert_eq!((database.rows(), s.radius.load(Ordering::Relaxed)), ((110, 110), 100));
}

/// Without `journal_keep`, too, a segment that is delivered goes.
#[test]
fn segments_go_although_that_cannot_be_noted() {
    let tmp = tempfile::tempdir().unwrap();
    let database = Sqlite(tmp.path().join("acc.sqlite"));
    let s = Setup::new(&database, tmp.path(), 0);
    let dir = s.open();
    std::fs::create_dir(s.journal.join("gone.new")).unwrap();
    let running = s.start(&dir);
    for part in 0..3 {
        append(&mut writer(&dir, part), &format!("part-{part}"), 10);
    }
    wait_until("they go", || database.rows() == (30, 30) && segments(&s.journal) == 0);
    let path = s.journal.display().to_string();
    wait_until("a word", || said(&["WARN", &path, "/gone cannot be written"]) > 0);
    append(&mut writer(&dir, 4), "last", 10);
    wait_until("the last goes", || database.rows() == (40, 40) && segments(&s.journal) == 0);
    running.stop();
    assert_eq!(said(&["WARN", &path, "/gone cannot be written"]), 1);
    assert_eq!(said(&["cannot be removed"]), 0);
}
