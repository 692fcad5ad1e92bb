//! Private database servers, on directories and ports of their own.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::wait_until;

/// Of the user `acc`, with characters that need care in a URL.
pub const PASSWORD: &str = "s3cr@t:/word";

/// A port of five digits that nobody has, for TCP and UDP, which this process gets again only after 2000 others. It is
/// below those that the system gives to sockets that do not ask for one (from 32768 on): a server that starts slowly, or
/// again, still finds it free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + ((std::process::id() * 97) % 10_000) as u16 + n % 2000;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A database server that ends with its test, also when that panics.
pub struct Server {
    child: Child,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    tmp: tempfile::TempDir,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    sql: fn(&Server, &str) -> Result<String, String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.resume();
        self.stop();
    }
}

/// A process and all below it.
fn family(pid: u32) -> Vec<u32> {
    let parent = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok();
    let all: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, signal);
    }
}

impl Server {
    /// Runs statements with the server's own client.
    pub fn sql(&self, text: &str) -> String {
        (self.sql)(self, text).unwrap()
    }

    /// The same for statements that may fail.
    pub fn try_sql(&self, text: &str) -> Result<String, String> {
        (self.sql)(self, text)
    }

    /// Stops the server in good order.
    pub fn stop(&mut self) {
        // SIGINT: both servers end at once, and take their children along.
        signal(self.child.id(), Signal::INT);
        signal(self.child.id(), Signal::TERM);
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.kill();
    }

    /// Kills all its processes.
    pub fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            for pid in family(self.child.id()) {
                signal(pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }

    /// Starts it again, on the same data and port.
    pub fn start(&mut self) {
        // What was killed may still be going.
        wait_until("the server runs again", || {
            if !matches!(self.child.try_wait(), Ok(None)) {
                self.child = (self.command)().spawn().unwrap();
            }
            std::thread::sleep(Duration::from_millis(200));
            (self.sql)(self, "SELECT 1").is_ok()
        });
    }

    /// Stops all its processes where they are, until [`Server::resume`].
    pub fn pause(&self) {
        family(self.child.id()).into_iter().for_each(|pid| signal(pid, Signal::STOP));
    }

    /// Undoes [`Server::pause`].
    pub fn resume(&self) {
        family(self.child.id()).into_iter().for_each(|pid| signal(pid, Signal::CONT));
    }

    /// Directory that the server can read.
    pub fn dir(&self) -> &Path {
        self.tmp.path()
    }

    /// Rows of a table; 0 when it is not there.
    pub fn count(&self, table: &str) -> usize {
        (self.sql)(self, &format!("SELECT count(*) FROM {table}")).ok().and_then(|s| s.trim().parse().ok()).unwrap_or(0)
    }
}

fn output(command: &mut Command, input: &str) -> Result<String, String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).map_err(|e| e.to_string())?;
    let out = child.wait_with_output().map_err(|e| e.to_string())?;
    if out.status.success() { Ok(String::from_utf8_lossy(&out.stdout).into_owned()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

/// Without input and output.
pub fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn which(names: &[&str]) -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect::<Vec<_>>()).unwrap_or_default();
    dirs.into_iter().chain(["/usr/sbin".into(), "/usr/lib/postgresql/15/bin".into()]).flat_map(|d| names.iter().map(move |n| d.join(n))).find(|p| p.exists())
}

/// With a database `acc`; `None` where it is not installed.
pub fn mariadb() -> Option<Server> {
    mariadb_with(vec![])
}

/// The same with more options.
pub fn mariadb_with(options: Vec<String>) -> Option<Server> {
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
    let dir = tmp.path().to_path_buf();
    let command = Box::new(move || {
        let mut c = Command::new(&daemon);
        quiet(c.arg("--no-defaults").arg(format!("--datadir={}", data.display())))
            .arg(format!("--socket={}", dir.join("sock").display()))
            .arg(format!("--port={port}"))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-buffer-pool-size=32M"])
            .args(&user)
            .args(&options)
            .env("TMPDIR", &dir);
        c
    });
    let server = Server {
        child: command().spawn().unwrap(),
        command,
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

/// For servers that refuse to run as root.
fn as_user(program: &Path) -> Command {
    if is_root() {
        let mut c = Command::new("runuser");
        c.args(["-u", "postgres", "--"]).arg(program);
        c
    } else {
        Command::new(program)
    }
}

/// With a database `postgres`; `None` where it is not installed.
pub fn postgres() -> Option<Server> {
    postgres_with(vec![])
}

/// The same with more options.
pub fn postgres_with(options: Vec<String>) -> Option<Server> {
    let (daemon, initdb) = (which(&["postgres"])?, which(&["initdb"])?);
    which(&["psql"])?;
    let tmp = tempfile::tempdir().unwrap();
    let port = free_port();
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
    let dir = tmp.path().to_path_buf();
    let command = Box::new(move || {
        let mut c = as_user(&daemon);
        quiet(c.arg("-D").arg(&data).arg("-p").arg(port.to_string()).args(["-c", "listen_addresses=127.0.0.1", "-k"]).arg(&dir))
            .args(&options)
            .current_dir(&dir);
        c
    });
    let server = Server {
        child: command().spawn().unwrap(),
        command,
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

/// A PgBouncer that ends with its test.
pub struct Pooler {
    child: Child,
    _tmp: tempfile::TempDir,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // It is its own child where another user runs it.
        family(self.child.id()).into_iter().for_each(|pid| signal(pid, Signal::KILL));
        let _ = self.child.wait();
    }
}

/// Before a PostgreSQL: a pool of two connections, handed on after every transaction, all else as it comes.
pub fn pgbouncer(server: &Server) -> Option<Pooler> {
    let daemon = which(&["pgbouncer"])?;
    let (tmp, port) = (tempfile::tempdir().unwrap(), free_port());
    let users = tmp.path().join("users");
    std::fs::write(&users, format!("\"acc\" \"{PASSWORD}\"\n")).unwrap();
    let config = tmp.path().join("ini");
    let text = format!(
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 2\n",
        server.port,
        users.display()
    );
    std::fs::write(&config, text).unwrap();
    for (path, mode) in [(tmp.path(), 0o755), (&users, 0o644), (&config, 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let child = quiet(as_user(&daemon).arg(&config)).spawn().unwrap();
    let pooler = Pooler { child, _tmp: tmp, port };
    wait_until("PgBouncer runs", || pooler.sql("SELECT 1").is_ok());
    Some(pooler)
}

impl Pooler {
    /// Runs statements through it, as one client; what fails does not stop it.
    pub fn sql(&self, text: &str) -> Result<String, String> {
        let mut psql = Command::new("psql");
        psql.args(["-h", "127.0.0.1", "-U", "acc", "-d", "postgres", "-A", "-t", "-q", "-p"]).arg(self.port.to_string()).env("PGPASSWORD", PASSWORD);
        output(&mut psql, text)
    }
}

/// Core columns with their widths, as in the host's schema.
pub const COLUMNS: &str = "method VARCHAR(16) DEFAULT '' NOT NULL, from_tag VARCHAR(64) DEFAULT '' NOT NULL, to_tag VARCHAR(64) DEFAULT '' NOT NULL, \
    callid VARCHAR(64) DEFAULT '' NOT NULL, sip_code VARCHAR(3) DEFAULT '' NOT NULL, sip_reason VARCHAR(32) DEFAULT '' NOT NULL";
