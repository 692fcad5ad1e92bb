//! A Kamailio of our own with the module, and what it wrote.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use std::{fs, iter};

use super::common;
pub use super::common::servers::free_port as port;
use super::common::servers::{self, PASSWORD};

fn is_installed(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).chain([PathBuf::from("/usr/sbin")]).any(|d| d.join(program).is_file())
}

/// Says why a test does nothing.
pub fn skipped() -> bool {
    match ["kamailio", "kamcmd", "sipp", "sqlite3"].into_iter().find(|p| !is_installed(p)) {
        Some(p) => {
            eprintln!("skipped: {p} is not installed");
            true
        }
        None => false,
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The module as it was built together with this test.
pub fn module() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().map(|d| d.join("libacc.so")).find(|p| p.is_file()).expect("libacc.so beside the test")
}

/// The argument that defines a name in the configuration, as a text.
pub fn define(name: &str, text: impl std::fmt::Display) -> String {
    format!("-A{name}=\"{text}\"")
}

/// The command that starts a server, with further arguments.
pub fn kamailio(config: &Path, dir: &Path, port: u16, children: u32, more: &[String]) -> Command {
    let mut c = Command::new("kamailio");
    c.env("PATH", "/usr/sbin:/usr/bin:/bin").arg("-f").arg(config).args(["-DD", "-E", "-m", "256", "-w"]).arg(dir).arg("-Y").arg(dir);
    let definitions = [
        format!("-ALISTEN=udp:127.0.0.1:{port}"),
        format!("-ACHILDREN={children}"),
        define("ACC_MODULE", module().display()),
        define("CTL", format_args!("unix:{}", dir.join("ctl").display())),
        define("JOURNAL", dir.join("journal").display()),
    ];
    c.args(definitions).args(more);
    c
}

/// Where SQL records go.
pub enum Database {
    /// A file of the server's directory.
    Sqlite,
    /// A file that several servers write to.
    Shared(PathBuf),
    /// MariaDB or PostgreSQL, with its URL.
    Private(servers::Server, String),
}

/// Tag and column of the fields that the configuration declares for SQL.
const EXTRAS: &str = "caller; callee; agent; answered_by; ended_by; end_cause; end_side; attempts; pdd_ms; ring_ms; end_reason";
const LEGS: &str = "target";

impl Database {
    pub fn mariadb() -> Option<Database> {
        let server = servers::mariadb()?;
        let url = format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", server.port);
        Some(Database::Private(server, url).with_tables())
    }

    pub fn postgres() -> Option<Database> {
        let server = servers::postgres()?;
        let url = format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/postgres", server.port);
        Some(Database::Private(server, url).with_tables())
    }

    /// Makes the tables as README.md says.
    fn with_tables(self) -> Database {
        if let Database::Private(_, url) = &self {
            let made = Command::new(env!("CARGO_BIN_EXE_accctl")).args(["schema", "--apply", "--url", url, "--extra", EXTRAS, "--leg", LEGS]).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        self
    }

    fn url(&self, dir: &Path) -> String {
        match self {
            Database::Sqlite => format!("sqlite:///{}", dir.join("acc.sqlite").display()),
            Database::Shared(file) => format!("sqlite:///{}", file.display()),
            Database::Private(_, url) => url.clone(),
        }
    }

    /// The answer, a line for each row, its values between tabs; empty while a table is not there.
    fn ask(&self, dir: &Path, sql: &str) -> String {
        match self {
            Database::Sqlite => common::sqlite(&dir.join("acc.sqlite"), sql).unwrap_or_default(),
            Database::Shared(file) => common::sqlite(file, sql).unwrap_or_default(),
            Database::Private(server, _) => server.sql(&format!("{sql};")),
        }
    }
}

/// A row by its columns; what is not set is "NULL".
pub type Row = BTreeMap<&'static str, String>;

/// Columns of both tables, and those that only `acc` has.
const COLUMNS: [&str; 20] = [
    "method",
    "from_tag",
    "to_tag",
    "callid",
    "sip_code",
    "sip_reason",
    "time",
    "setuptime",
    "created",
    "caller",
    "callee",
    "agent",
    "answered_by",
    "ended_by",
    "end_cause",
    "end_side",
    "attempts",
    "pdd_ms",
    "ring_ms",
    "target",
];
const OF_CALLS: [&str; 2] = ["duration", "ms_duration"];

/// How a server ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// By SIGTERM.
    Orderly,
    /// All its processes by SIGKILL.
    Killed,
}

pub struct Server {
    pub child: Child,
    pub dir: tempfile::TempDir,
    pub port: u16,
    database: Database,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- server log\n{}", &log[log.floor_char_boundary(log.len().saturating_sub(20_000))..]);
            for file in fs::read_dir(self.dir.path()).into_iter().flatten().flatten().filter(|f| f.path().extension().is_some_and(|e| e == "err")) {
                eprintln!("--- {}\n{:.3000}", file.path().display(), fs::read_to_string(file.path()).unwrap_or_default());
            }
        }
    }
}

impl Server {
    /// With records in SQLite.
    pub fn start(children: u32, more: &[String]) -> Server {
        Server::start_with(Database::Sqlite, children, more)
    }

    pub fn start_with(database: Database, children: u32, more: &[String]) -> Server {
        Server::start_in(tempfile::tempdir().unwrap(), database, port(), children, more)
    }

    pub fn start_in(dir: tempfile::TempDir, database: Database, port: u16, children: u32, more: &[String]) -> Server {
        Server::start_config("kamailio.cfg", dir, database, port, children, more)
    }

    /// With another configuration of this directory.
    pub fn start_config(config: &str, dir: tempfile::TempDir, database: Database, port: u16, children: u32, more: &[String]) -> Server {
        let log = fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        let more: Vec<_> = iter::once(define("DB_URL", database.url(dir.path()))).chain(more.iter().cloned()).collect();
        let mut command = kamailio(&root().join("tests/kamailio").join(config), dir.path(), port, children, &more);
        let child = command.process_group(0).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = Server { child, dir, port, database };
        server.wait("the server's start", || server.status("panics").is_some());
        server
    }

    pub fn log(&self) -> String {
        let log = fs::read(self.dir.path().join("log")).unwrap_or_default();
        // The last line may be on its way.
        let whole = log.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        String::from_utf8_lossy(&log[..whole]).into_owned()
    }

    /// Waits for what must come.
    pub fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() {
            assert!(begin.elapsed() < Duration::from_secs(120), "{what} took too long");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What an RPC command answers; nothing while it does not.
    pub fn rpc(&self, command: &[&str]) -> String {
        let socket = format!("unix:{}", self.dir.path().join("ctl").display());
        Command::new("kamcmd").args(["-s", &socket]).args(command).output().map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).into_owned())
    }

    /// A counter of the RPC acc.status.
    pub fn status(&self, counter: &str) -> Option<u64> {
        self.rpc(&["acc.status"]).lines().find_map(|l| l.trim().strip_prefix(&format!("{counter}: "))?.parse().ok())
    }

    /// The delivery process: a child of a child of the server's main process.
    pub fn delivery_process(&self) -> Option<u32> {
        let parent = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(") ")?.1.split(' ').nth(1).map(str::to_string);
        fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid = entry.file_name().into_string().ok()?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (name.trim_end() == "acc delivery" && parent(&parent(&pid)?)? == self.child.id().to_string()).then(|| pid.parse().ok())?
        })
    }

    /// Ends the server and starts it again; its directory, port and definitions stay.
    pub fn end_and_restart(mut self, end: End, more: &[String]) -> Server {
        self.end(end);
        self.restart(more)
    }

    pub fn end(&mut self, end: End) {
        match end {
            End::Orderly => self.stop(),
            End::Killed => {
                let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
                let _ = self.child.wait();
            }
        }
    }

    /// As [`Server::end_and_restart`], with another configuration.
    pub fn end_and_restart_config(mut self, config: &str, end: End, more: &[String]) -> Server {
        self.end(end);
        self.restart_config(config, more)
    }

    /// Starts a server that was ended.
    pub fn restart(self, more: &[String]) -> Server {
        self.restart_config("kamailio.cfg", more)
    }

    fn restart_config(mut self, config: &str, more: &[String]) -> Server {
        let _ = fs::remove_file(self.dir.path().join("ctl"));
        let (dir, port) = (std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()), self.port);
        let database = std::mem::replace(&mut self.database, Database::Sqlite);
        drop(self);
        Server::start_config(config, dir, database, port, 4, more)
    }

    pub fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begin.elapsed() > Duration::from_secs(15) {
                let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Lines of that kind whose call-id begins so, as their pairs.
    pub fn lines(&self, kind: &str, call: &str) -> Vec<Vec<(String, String)>> {
        let beginning = format!("ACC: {kind}: ");
        let log = self.log();
        let pairs = |l: &str| l.split(';').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>();
        log.lines()
            .filter_map(|l| l.split_once(&beginning))
            .map(|(_, l)| pairs(l))
            .filter(|p| p.iter().any(|(k, v)| k == "call_id" && v.starts_with(call)))
            .collect()
    }

    /// Rows of a table whose call-id begins so, in the order of their making for each code.
    pub fn rows(&self, table: &str, call: &str) -> Vec<Row> {
        let columns: Vec<&'static str> = COLUMNS.into_iter().chain(OF_CALLS.into_iter().filter(|_| table == "acc")).collect();
        let sql = format!("SELECT {} FROM {table} WHERE callid LIKE '{call}%' ORDER BY sip_code, id", columns.join(", "));
        let answer = self.database.ask(self.dir.path(), &sql);
        answer.lines().map(|l| columns.iter().copied().zip(l.split('\t').map(str::to_string)).collect()).collect()
    }

    /// The answer of the database.
    pub fn ask(&self, sql: &str) -> String {
        self.database.ask(self.dir.path(), sql)
    }

    /// Everything accepted is delivered.
    pub fn settle(&self) {
        for sink in ["db", "aaa"] {
            self.wait("delivery", || self.status(&format!("{sink}_accepted")) == self.status(&format!("{sink}_delivered")));
        }
    }
}

/// The value of a pair of a log line.
pub fn get<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs.iter().find(|(k, _)| k == name).map_or("(absent)", |(_, v)| v)
}

/// Kinds and codes of the lines of a call, and kinds and codes of its rows.
pub fn summary(server: &Server, call: &str) -> String {
    let mut out = Vec::new();
    for kind in ["request accounted", "call missed", "transaction answered", "call ended"] {
        out.extend(server.lines(kind, call).iter().map(|l| format!("{kind} {}", get(l, "code"))));
    }
    for table in ["missed_calls", "acc"] {
        out.extend(server.rows(table, call).iter().map(|r| {
            let cdr = if r.get("ms_duration").is_some_and(|d| d != "0") { " cdr" } else { "" };
            format!("{table} {}{cdr}", r["sip_code"])
        }));
    }
    out.join(", ")
}

/// The wall clock as SQL has it.
fn local(seconds: &str) -> String {
    let moment = chrono::DateTime::from_timestamp(seconds.parse().unwrap(), 0).unwrap();
    moment.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// The row that belongs to a log line, and to its n-th leg: line and row are made of one record each,
/// and must say the same. What is not set is empty in the line and NULL in the row.
pub fn row_of(line: &[(String, String)], leg: usize, is_missed: bool) -> Row {
    let or_null = |v: &str| if v.is_empty() { "NULL".to_string() } else { v.to_string() };
    let mut row: Row =
        [("callid", "call_id"), ("sip_code", "code"), ("sip_reason", "reason")].map(|(column, pair)| (column, get(line, pair).to_string())).into();
    for name in ["method", "from_tag", "to_tag", "setuptime"] {
        row.insert(name, get(line, name).to_string());
    }
    for name in ["caller", "callee", "agent", "answered_by", "ended_by", "end_cause", "end_side", "attempts", "pdd_ms", "ring_ms"] {
        row.insert(name, or_null(get(line, name)));
    }
    let is_cdr = get(line, "call_start_time") != "(absent)";
    row.insert("time", local(get(line, if is_cdr { "call_start_time" } else { "timestamp" })));
    row.insert("created", local(get(line, "created")));
    row.insert("target", or_null(line.iter().filter(|(k, _)| k == "target").nth(leg).map_or("(absent)", |(_, v)| v)));
    if !is_missed {
        for name in OF_CALLS {
            row.insert(name, if is_cdr { get(line, name).to_string() } else { "0".into() });
        }
    }
    row
}
