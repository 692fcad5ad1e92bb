//! The same rows in MariaDB and PostgreSQL, on private servers.
#![forbid(unsafe_code)]

mod common;

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use acc::acc::record::Kind;
use acc::backend::SinkId;
use acc::journal::Dir;
use common::*;

const PASSWORD: &str = "s3cr@t:/word";

/// Tells why a test did nothing, where the harness does not swallow it.
fn skip(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what} is not installed");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A database server that ends with its test, also when that panics.
struct Server {
    child: Child,
    tmp: tempfile::TempDir,
    port: u16,
    sql: fn(&Server, &str) -> Result<String, String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGINT: both servers end at once, and take their children along.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn sql(&self, text: &str) -> String {
        (self.sql)(self, text).unwrap()
    }

    fn count(&self, table: &str) -> usize {
        (self.sql)(self, &format!("SELECT count(*) FROM {table}")).ok().and_then(|s| s.trim().parse().ok()).unwrap_or(0)
    }
}

fn output(command: &mut Command, input: &str) -> Result<String, String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).map_err(|e| e.to_string())?;
    let out = child.wait_with_output().map_err(|e| e.to_string())?;
    if out.status.success() { Ok(String::from_utf8_lossy(&out.stdout).into_owned()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn which(names: &[&str]) -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect::<Vec<_>>()).unwrap_or_default();
    dirs.into_iter().chain(["/usr/sbin".into(), "/usr/lib/postgresql/15/bin".into()]).flat_map(|d| names.iter().map(move |n| d.join(n))).find(|p| p.exists())
}

fn mariadb() -> Option<Server> {
    let (daemon, install) = (which(&["mariadbd"])?, which(&["mariadb-install-db"])?);
    which(&["mariadb"])?;
    let tmp = tempfile::tempdir().unwrap();
    let (data, port) = (tmp.path().join("data"), free_port());
    let user = if is_root() { vec!["--user=root"] } else { vec![] };
    let installed = quiet(Command::new(install).arg("--no-defaults").arg(format!("--datadir={}", data.display())))
        .args(["--skip-test-db", "--auth-root-authentication-method=normal"])
        .args(&user)
        .env("TMPDIR", tmp.path())
        .status()
        .unwrap();
    assert!(installed.success());
    let child = quiet(Command::new(daemon).arg("--no-defaults").arg(format!("--datadir={}", data.display())))
        .arg(format!("--socket={}", tmp.path().join("sock").display()))
        .arg(format!("--port={port}"))
        .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-buffer-pool-size=32M"])
        .args(&user)
        .env("TMPDIR", tmp.path())
        .spawn()
        .unwrap();
    let server = Server {
        child,
        tmp,
        port,
        sql: |s, text| {
            let socket = s.tmp.path().join("sock");
            output(
                Command::new("mariadb")
                    .args(["--no-defaults", "-uroot", "-N", "-B", "--default-character-set=utf8mb4", "-S"])
                    .arg(socket)
                    .arg("-Dacc")
                    .arg("-f"),
                text,
            )
        },
    };
    wait_until("MariaDB runs", || {
        let socket = server.tmp.path().join("sock");
        output(Command::new("mariadb").args(["--no-defaults", "-uroot", "-S"]).arg(socket), "CREATE DATABASE IF NOT EXISTS acc CHARACTER SET utf8mb4").is_ok()
    });
    server.sql(&format!("CREATE USER acc@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON acc.* TO acc@'127.0.0.1';"));
    Some(server)
}

fn postgres() -> Option<Server> {
    let (daemon, initdb) = (which(&["postgres"])?, which(&["initdb"])?);
    which(&["psql"])?;
    let tmp = tempfile::tempdir().unwrap();
    let port = free_port();
    // The server refuses to run as root.
    let as_user = |program: &Path| {
        if is_root() {
            let mut c = Command::new("runuser");
            c.args(["-u", "postgres", "--"]).arg(program);
            c
        } else {
            Command::new(program)
        }
    };
    std::fs::set_permissions(tmp.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let data = tmp.path().join("data");
    std::fs::write(tmp.path().join("pw"), PASSWORD).unwrap();
    std::fs::set_permissions(tmp.path().join("pw"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let made = quiet(
        as_user(&initdb).arg("-D").arg(&data).args(["-U", "acc", "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--pwfile"]).arg(tmp.path().join("pw")),
    )
    .current_dir(tmp.path())
    .status()
    .unwrap();
    assert!(made.success());
    let child = quiet(as_user(&daemon).arg("-D").arg(&data).arg("-p").arg(port.to_string()).args(["-c", "listen_addresses=127.0.0.1", "-k"]).arg(tmp.path()))
        .current_dir(tmp.path())
        .spawn()
        .unwrap();
    let server = Server {
        child,
        tmp,
        port,
        sql: |s, text| {
            let mut psql = Command::new("psql");
            psql.args(["-h", "127.0.0.1", "-U", "acc", "-d", "postgres", "-A", "-t", "-q", "-F", "\t", "-p"])
                .arg(s.port.to_string())
                .env("PGPASSWORD", PASSWORD);
            output(psql.args(["-v", "ON_ERROR_STOP=1", "-P", "null=NULL"]), text)
        },
    };
    wait_until("PostgreSQL runs", || (server.sql)(&server, "SELECT 1").is_ok());
    Some(server)
}

/// Core columns with their widths, as in the host's schema.
const COLUMNS: &str = "method VARCHAR(16) DEFAULT '' NOT NULL, from_tag VARCHAR(64) DEFAULT '' NOT NULL, to_tag VARCHAR(64) DEFAULT '' NOT NULL, \
    callid VARCHAR(64) DEFAULT '' NOT NULL, sip_code VARCHAR(3) DEFAULT '' NOT NULL, sip_reason VARCHAR(32) DEFAULT '' NOT NULL";

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
    assert_eq!(server.sql("SELECT count(*) FROM acc_delivery").trim(), "1");
    let dead = std::fs::read_to_string(journal.join("dead-db.jsonl")).unwrap();
    let mut dead: Vec<String> =
        dead.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["record"]["callid"].as_str().unwrap().to_string()).collect();
    dead.sort();
    assert_eq!(dead, ["lost", "poison"]);
}

#[test]
fn mariadb_gets_every_record_once() {
    let Some(server) = mariadb() else { return skip("MariaDB") };
    let url = format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", server.port);
    exercise(&server, &url, "id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY", "DATETIME");

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
}

#[test]
fn postgresql_gets_every_record_once() {
    let Some(server) = postgres() else { return skip("PostgreSQL") };
    let url = format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/postgres", server.port);
    exercise(&server, &url, "id BIGSERIAL PRIMARY KEY", "TIMESTAMP");
}
