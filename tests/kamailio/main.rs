//! Real calls through a real Kamailio: SIPp plays both ends, the module writes its log lines and
//! SQLite rows, and each record is compared field by field. Skipped with a word when kamailio,
//! sipp or sqlite3 is not installed.
#![allow(clippy::print_stderr)]

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

fn is_installed(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).chain([PathBuf::from("/usr/sbin")]).any(|d| d.join(program).is_file())
}

/// Says why a test does nothing.
fn skipped() -> bool {
    match ["kamailio", "kamcmd", "sipp", "sqlite3"].into_iter().find(|p| !is_installed(p)) {
        Some(p) => {
            eprintln!("skipped: {p} is not installed");
            true
        }
        None => false,
    }
}

/// A UDP port that nobody has, of five digits, never given twice in this process.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + ((std::process::id() * 97) % 20_000) as u16 + n % 2000;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The module as it was built together with this test.
fn module() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().map(|d| d.join("libacc.so")).find(|p| p.is_file()).expect("libacc.so beside the test")
}

struct Server {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("--- server log\n{}", self.log());
            for file in fs::read_dir(self.dir.path()).into_iter().flatten().flatten().filter(|f| f.path().extension().is_some_and(|e| e == "err")) {
                eprintln!("--- {}\n{:.3000}", file.path().display(), fs::read_to_string(file.path()).unwrap_or_default());
            }
        }
    }
}

fn quoted(p: &Path) -> String {
    format!("\"{}\"", p.display())
}

fn definitions(dir: &Path, port: u16, children: u32) -> Vec<String> {
    vec![
        format!("LISTEN=udp:127.0.0.1:{port}"),
        format!("CHILDREN={children}"),
        format!("ACC_MODULE={}", quoted(&module())),
        format!("CTL=\"unix:{}\"", dir.join("ctl").display()),
        format!("DB_URL=\"sqlite:///{}\"", dir.join("acc.sqlite").display()),
        format!("JOURNAL={}", quoted(&dir.join("journal"))),
    ]
}

fn kamailio(config: &Path, dir: &Path, port: u16, children: u32) -> Command {
    let mut c = Command::new("kamailio");
    c.env("PATH", "/usr/sbin:/usr/bin:/bin").arg("-f").arg(config).args(["-DD", "-E", "-m", "128", "-w"]).arg(dir).arg("-Y").arg(dir);
    for d in definitions(dir, port, children) {
        c.args(["-A", &d]);
    }
    c
}

impl Server {
    fn start(children: u32) -> Server {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("journal")).unwrap();
        Server::start_in(dir, port(), children, &[])
    }

    fn start_in(dir: tempfile::TempDir, port: u16, children: u32, more: &[String]) -> Server {
        let log = fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        let mut command = kamailio(&root().join("tests/kamailio/kamailio.cfg"), dir.path(), port, children);
        for d in more {
            command.args(["-A", d]);
        }
        let child = command.process_group(0).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = Server { child, dir, port };
        server.wait("the server's start", || server.status("panics").is_some());
        server
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("log")).unwrap_or_default()).into_owned()
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() {
            assert!(begin.elapsed() < Duration::from_secs(30), "{what} took too long");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A counter of the RPC acc.status.
    fn status(&self, counter: &str) -> Option<u64> {
        let out = Command::new("kamcmd").arg("-s").arg(format!("unix:{}", self.dir.path().join("ctl").display())).arg("acc.status").output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.lines().find_map(|l| l.trim().strip_prefix(&format!("{counter}: "))?.parse().ok())
    }

    /// Kills the server and starts it again; its directory, port and definitions stay.
    fn crash_and_restart(mut self, more: &[String]) -> Server {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
        let _ = fs::remove_file(self.dir.path().join("ctl"));
        let (dir, port) = (std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()), self.port);
        drop(self);
        Server::start_in(dir, port, 4, more)
    }

    fn stop(&mut self) {
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
    fn lines(&self, kind: &str, call: &str) -> Vec<Vec<(String, String)>> {
        let beginning = format!("ACC: {kind}: ");
        let log = self.log();
        let pairs = |l: &str| l.split(';').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>();
        log.lines()
            .filter_map(|l| l.split_once(&beginning))
            .map(|(_, l)| pairs(l))
            .filter(|p| p.iter().any(|(k, v)| k == "call_id" && v.starts_with(call)))
            .collect()
    }

    /// Rows of a table whose call-id begins so.
    fn rows(&self, table: &str, call: &str) -> Vec<BTreeMap<String, Value>> {
        let out = Command::new("sqlite3")
            .args(["-json", "-readonly"])
            .arg(self.dir.path().join("acc.sqlite"))
            .arg(format!("select * from {table} where callid like '{call}%' order by sip_code, id"))
            .output()
            .unwrap();
        serde_json::from_slice(&out.stdout).unwrap_or_default()
    }

    /// Everything accepted is delivered.
    fn settle(&self) {
        self.wait("delivery", || self.status("db_accepted") == self.status("db_delivered"));
    }
}

struct Sipp(Child);

impl Drop for Sipp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Sipp {
    fn start(server: &Server, scenario: &str, port: u16, arguments: &[&str]) -> Sipp {
        let file = root().join("tests/kamailio/sipp").join(format!("{scenario}.xml"));
        let out = fs::File::create(server.dir.path().join(format!("sipp-{scenario}-{port}"))).unwrap();
        let child = Command::new("sipp")
            .arg("-sf")
            .arg(file)
            .args(["-i", "127.0.0.1", "-p", &port.to_string(), "-nostdin", "-trace_err", "-error_file"])
            .arg(server.dir.path().join(format!("sipp-{scenario}-{port}.err")))
            .args(arguments)
            .current_dir(server.dir.path())
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Sipp(child)
    }

    fn wait(&mut self, what: &str, limit: Duration) {
        assert!(self.succeeds(what, limit), "{what}: sipp failed");
    }

    fn succeeds(&mut self, what: &str, limit: Duration) -> bool {
        let begin = Instant::now();
        loop {
            match self.0.try_wait().unwrap() {
                Some(status) => return status.success(),
                None => assert!(begin.elapsed() < limit, "{what}: sipp hangs"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Plays one call named `name`: the user part is `how` and the ports of the callees.
fn play(server: &Server, name: &str, how: &str, caller: &str, callees: &[&str]) -> Vec<u16> {
    let ports: Vec<_> = callees.iter().map(|_| port()).collect();
    let _callees: Vec<_> =
        callees.iter().zip(&ports).filter(|(c, _)| !c.is_empty()).map(|(c, p)| Sipp::start(server, c, *p, &["-d", "1200", "-m", "1"])).collect();
    std::thread::sleep(Duration::from_millis(300));
    let user = ports.iter().fold(how.to_string(), |u, p| u + &p.to_string());
    let target = format!("127.0.0.1:{}", server.port);
    let mut sipp = Sipp::start(server, caller, port(), &[&target, "-s", &user, "-m", "1", "-d", "1200", "-cid_str", &format!("{name}-%u-%p@%s")]);
    sipp.wait(name, Duration::from_secs(20));
    std::thread::sleep(Duration::from_millis(300));
    ports
}

fn get<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs.iter().find(|(k, _)| k == name).map_or("(absent)", |(_, v)| v)
}

/// Kinds and codes of the lines of a call, and kinds and codes of its rows.
fn summary(server: &Server, call: &str) -> String {
    let mut out = Vec::new();
    for kind in ["request accounted", "call missed", "transaction answered", "call ended"] {
        out.extend(server.lines(kind, call).iter().map(|l| format!("{kind} {}", get(l, "code"))));
    }
    for table in ["missed_calls", "acc"] {
        out.extend(server.rows(table, call).iter().map(|r| {
            let cdr = if r.get("duration").and_then(Value::as_i64).is_some_and(|d| d > 0) { " cdr" } else { "" };
            format!("{table} {}{cdr}", r["sip_code"].as_str().unwrap_or_default())
        }));
    }
    out.join(", ")
}

#[test]
fn every_kind_of_call_has_its_records() {
    if skipped() {
        return;
    }
    let server = Server::start(4);
    let mut ports = BTreeMap::new();
    std::thread::scope(|s| {
        let calls: Vec<(&str, &str, &str, &[&str])> = vec![
            ("answered", "a", "caller", &["callee"]),
            ("calleebye", "a", "caller_waits", &["callee_hangs_up"]),
            ("busy", "a", "caller_refused", &["callee_486"]),
            ("notfound", "a", "caller_refused", &["callee_404"]),
            ("cancelled", "a", "caller_cancels", &["callee_rings"]),
            ("timeout", "t", "caller_refused", &[""]),
            ("serial", "s", "caller", &["callee_486", "callee"]),
            ("serialbusy", "s", "caller_refused", &["callee_486", "callee_404"]),
            ("parallel", "f", "caller", &["callee_486", "callee"]),
            ("reinvite", "a", "caller_reinvites", &["callee_reinvited"]),
            ("message", "a", "caller_message", &["callee_message"]),
            ("events", "e", "caller", &["callee"]),
            ("eventbusy", "e", "caller_refused", &["callee_486"]),
        ];
        let server = &server;
        let running: Vec<_> = calls.into_iter().map(|(name, how, caller, callees)| (name, s.spawn(move || play(server, name, how, caller, callees)))).collect();
        for (name, call) in running {
            ports.insert(name, call.join().unwrap_or_else(|_| panic!("{name}\n{}", server.log())));
        }
    });
    server.settle();

    for (call, expected) in [
        ("answered", "call ended 200, acc 200 cdr"),
        ("calleebye", "call ended 200, acc 200 cdr"),
        ("busy", "call missed 486, transaction answered 486, missed_calls 486, acc 486"),
        ("notfound", "call missed 404, transaction answered 404, missed_calls 404, acc 404"),
        ("cancelled", "call missed 487, transaction answered 487, missed_calls 487, acc 487"),
        ("timeout", "call missed 408, transaction answered 408, missed_calls 408, acc 408"),
        ("serial-", "call missed 486, call ended 200, missed_calls 486, acc 200 cdr, acc 200 cdr"),
        ("serialbusy", "call missed 486, call missed 404, transaction answered 404, missed_calls 404, missed_calls 404, missed_calls 486, acc 404, acc 404"),
        ("parallel", "call ended 200, acc 200 cdr"),
        ("reinvite", "call ended 200, acc 200 cdr"),
        ("message", "request accounted 100, transaction answered 200, acc 200"),
    ] {
        assert_eq!(summary(&server, call), expected, "{call}");
    }

    // Field by field: the log line and the row say the same, and what the call was.
    for (call, ended_by) in [("answered", "caller1"), ("calleebye", ""), ("serial-", "caller1"), ("parallel", "caller1"), ("reinvite", "caller1")] {
        let line = &server.lines("call ended", call)[0];
        let rows = server.rows("acc", call);
        let row = &rows[0];
        assert_eq!(get(line, "method"), "INVITE");
        assert!(get(line, "from_tag").starts_with('f') && get(line, "to_tag").starts_with('t'), "{line:?}");
        assert_eq!((get(line, "reason"), get(line, "caller"), get(line, "answered_by")), ("OK", "caller1", "200"), "{call}");
        if !ended_by.is_empty() {
            assert_eq!(get(line, "ended_by"), ended_by, "{call}: set on the BYE");
        }
        let agent = get(line, "from_tag").replacen('f', "ua-", 1);
        assert_eq!(get(line, "agent"), agent, "{call}");
        let duration: i64 = get(line, "ms_duration").parse().unwrap();
        assert!((1000..6000).contains(&duration), "{call}: {duration}");
        for (column, pair) in [
            ("from_tag", "from_tag"),
            ("to_tag", "to_tag"),
            ("callid", "call_id"),
            ("sip_code", "code"),
            ("sip_reason", "reason"),
            ("caller", "caller"),
            ("agent", "agent"),
            ("answered_by", "answered_by"),
            ("ended_by", "ended_by"),
        ] {
            assert_eq!(row[column].as_str().unwrap_or_default(), get(line, pair), "{call}: {column}");
        }
        assert_eq!(row["ms_duration"].as_i64(), Some(duration), "{call}");
        assert_eq!(row["duration"].as_i64(), Some((duration + 999) / 1000), "{call}");
        let targets: Vec<_> = rows.iter().map(|r| r["target"].as_str().unwrap_or_default().to_string()).collect();
        let legs: Vec<_> = line.iter().filter(|(k, _)| k == "target").map(|(_, v)| v.clone()).collect();
        assert_eq!(targets, legs, "{call}: one row for each leg");
        assert_eq!(legs[0], ports[call.trim_end_matches('-')][0].to_string(), "{call}");
        assert_eq!(legs.len(), if call == "serial-" { 2 } else { 1 }, "{call}");
    }
    let busy = &server.lines("call missed", "busy")[0];
    assert_eq!((get(busy, "reason"), get(busy, "answered_by")), ("Busy Here", ""));
    assert!(get(busy, "to_tag").starts_with('t'), "the reply's: {busy:?}");
    let timeout = &server.lines("call missed", "timeout")[0];
    assert_eq!((get(timeout, "reason"), get(timeout, "to_tag")), ("Request Timeout", ""), "made by the server itself");
    assert_eq!(get(&server.lines("request accounted", "message")[0], "reason"), "MESSAGE of caller1");

    let log = server.log();
    let event = log.lines().find(|l| l.contains("EVENT cdr callid=events-")).unwrap_or_else(|| panic!("no event"));
    assert!(event.contains(";caller=caller1;agent=ua-") && event.contains(";none=<null>") && !event.contains("duration=<null>"), "{event}");
    assert!(log.lines().any(|l| l.contains("EVENT missed callid=eventbusy-") && l.contains("code=486")));
    assert_eq!(server.status("panics"), Some(0));
    assert_eq!(server.status("evi_raised"), Some(2));
    assert!(!log.contains("CRITICAL") && !log.contains(" ERROR:"), "{log}");
}

#[test]
fn four_workers_never_mix_calls() {
    if skipped() {
        return;
    }
    let calls: usize = std::env::var("ACC_TEST_CALLS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let server = Server::start(4);
    let idle = server.status("contexts_bytes").unwrap();
    let callee = port();
    let refusing = port();
    let _callee = Sipp::start(&server, "callee", callee, &[]);
    let _refusing = Sipp::start(&server, "callee_486", refusing, &[]);
    std::thread::sleep(Duration::from_millis(300));
    let target = format!("127.0.0.1:{}", server.port);
    let start = |scenario, name: &str, port_of_callee: u16| {
        let user = format!("a{port_of_callee}");
        Sipp::start(
            &server,
            scenario,
            port(),
            &[&target, "-s", &user, "-m", &calls.to_string(), "-r", "100", "-l", "200", "-d", "500", "-cid_str", &format!("{name}-%u-%p@%s")],
        )
    };
    let mut answered = start("caller", "many", callee);
    let mut refused = start("caller_refused", "none", refusing);
    // On a machine that is busy with other things SIPp itself gives up calls whose messages are
    // repeated and overtake each other: then not every call has its record, but each record is right.
    let all = answered.succeeds("answered", Duration::from_secs(600)) & refused.succeeds("refused", Duration::from_secs(600));
    if all {
        server.wait("the records", || server.status("db_accepted") == Some(calls as u64 * 3));
    } else {
        eprintln!("SIPp gave up calls: this machine is busy");
        std::thread::sleep(Duration::from_secs(3));
    }
    server.settle();

    for (table, call, code) in [("acc", "many", "200"), ("acc", "none", "486"), ("missed_calls", "none", "486")] {
        let rows = server.rows(table, call);
        assert!(rows.len() == calls || !all && rows.len() >= calls * 9 / 10, "{table} {call}: {}", rows.len());
        let mut seen = std::collections::HashSet::new();
        for r in &rows {
            // SIPp's n-th call: many-n-pid@..., caller n, tag fpid-n, agent ua-pid-n.
            let text = |c: &str| r[c].as_str().unwrap_or_default();
            let mut parts = text("callid").split(['-', '@']);
            let (n, pid) = (parts.nth(1).unwrap(), parts.next().unwrap());
            assert_eq!(
                (text("caller"), text("agent"), text("from_tag"), text("sip_code")),
                (format!("caller{n}").as_str(), format!("ua-{pid}-{n}").as_str(), format!("f{pid}-{n}").as_str(), code),
                "{r:?}"
            );
            assert!(seen.insert(text("callid").to_string()), "twice: {r:?}");
        }
    }
    // Every line says the same of its call as well.
    for l in server.lines("call ended", "many") {
        let n = get(&l, "call_id").split('-').nth(1).unwrap().to_string();
        assert_eq!(get(&l, "caller"), format!("caller{n}"));
        assert!(get(&l, "agent").ends_with(&format!("-{n}")) && get(&l, "from_tag").ends_with(&format!("-{n}")));
    }
    assert_eq!(server.status("panics"), Some(0));
    if !all {
        return;
    }
    server.wait("the end of all transactions", || server.status("contexts_bytes").unwrap() <= idle + 4096);
}

/// Starts a call and leaves it in progress.
fn begin(server: &Server, name: &str) -> (Sipp, Sipp) {
    let (callee, target) = (port(), format!("127.0.0.1:{}", server.port));
    let answers = Sipp::start(server, "callee", callee, &["-m", "1"]);
    std::thread::sleep(Duration::from_millis(300));
    let calls =
        Sipp::start(server, "caller", port(), &[&target, "-s", &format!("a{callee}"), "-m", "1", "-d", "6000", "-cid_str", &format!("{name}-%u-%p@%s")]);
    std::thread::sleep(Duration::from_millis(1500));
    (answers, calls)
}

#[test]
fn a_crash_ends_calls_without_a_dialog() {
    if skipped() {
        return;
    }
    let server = Server::start(4);
    let (_callee, _caller) = begin(&server, "lost");
    let server = server.crash_and_restart(&[]);
    server.wait("the CDR", || server.rows("acc", "lost").len() == 1);
    // Nothing was heard of the server after the answer: it ends there.
    assert_eq!(summary(&server, "lost"), "call ended 200, acc 200");
    let line = &server.lines("call ended", "lost")[0];
    assert_eq!((get(line, "caller"), get(line, "answered_by")), ("caller1", "200"));
    assert!((0..6000).contains(&get(line, "ms_duration").parse::<i64>().unwrap()), "{line:?}");
}

#[test]
fn a_crash_loses_no_call_that_the_dialog_module_keeps() {
    if skipped() {
        return;
    }
    let tables = Path::new("/usr/share/kamailio/db_sqlite");
    if !tables.join("dialog-create.sql").is_file() || !Path::new("/usr/lib/x86_64-linux-gnu/kamailio/modules/db_sqlite.so").is_file() {
        eprintln!("skipped: kamailio-sqlite-modules is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("journal")).unwrap();
    let database = dir.path().join("dialog.sqlite");
    for script in ["standard-create.sql", "dialog-create.sql"] {
        let input = fs::File::open(tables.join(script)).unwrap();
        assert!(Command::new("sqlite3").arg(&database).stdin(input).status().unwrap().success());
    }
    let more = [format!("DIALOG_DB=\"sqlite:///{}\"", database.display())];
    let server = Server::start_in(dir, port(), 4, &more);
    let (_callee, mut caller) = begin(&server, "kept");
    let server = server.crash_and_restart(&more);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(summary(&server, "kept"), "", "not ended: its dialog is back");
    caller.wait("the call", Duration::from_secs(20));
    server.wait("the CDR", || server.rows("acc", "kept").len() == 1);
    assert_eq!(summary(&server, "kept"), "call ended 200, acc 200 cdr");
    let line = &server.lines("call ended", "kept")[0];
    assert_eq!((get(line, "caller"), get(line, "ended_by")), ("caller1", "caller1"));
    let duration: i64 = get(line, "ms_duration").parse().unwrap();
    assert!((5900..9000).contains(&duration), "the whole call: {duration}");
}

/// Reads a configuration without starting, or starts it in the hope that it fails.
fn check(config: &str, dir: &Path, only_read: bool) -> (bool, String) {
    let file = dir.join("config");
    fs::write(&file, config).unwrap();
    let _ = fs::create_dir(dir.join("journal"));
    let mut command = Command::new("timeout");
    let server = kamailio(&file, dir, port(), 2);
    command.env("PATH", "/usr/sbin:/usr/bin:/bin").args(["-k", "10", "10"]).arg(server.get_program()).args(server.get_args());
    if only_read {
        command.arg("-c");
    }
    let out = command.output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout))
}

#[test]
fn the_example_loads() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (ok, said) = check(&fs::read_to_string(root().join("examples/kamailio.cfg")).unwrap(), dir.path(), true);
    assert!(ok, "{said}");
}

#[test]
fn mistakes_are_named_at_startup() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read_to_string(root().join("tests/kamailio/kamailio.cfg")).unwrap();
    assert!(check(&good, dir.path(), true).0);
    let param = |line: &str| good.replace("modparam(\"rr\",", &format!("{line}\nmodparam(\"rr\","));
    for (config, said) in [
        (param("modparam(\"acc\", \"log_flag\", 1)"), "parameter log_flag belongs to Kamailio's own acc module: call do_accounting(\"log\")"),
        (param("modparam(\"acc\", \"db_extra\", \"a=b\")"), "parameter db_extra belongs to Kamailio's own acc module: use the parameter extra_fields"),
        (param("modparam(\"acc\", \"cdr_enable\", 1)"), "do_accounting(\"...\", \"cdr\")"),
        (param("modparam(\"acc\", \"report_ack\", 0)"), "an ACK has no reply"),
        (param("modparam(\"acc\", \"early_media\", \"yes\")"), "parameter early_media: a number expected"),
        (good.replace("do_accounting(\"log|db|evi\"", "do_accounting(\"log|dbx\""), "\"dbx\" is no accounting backend"),
        (good.replace("\"cdr|missed|failed\"", "\"cdr|mist\""), "\"mist\" is no accounting flag"),
        (good.replace("\"log|db|evi\"", "\"aaa\""), "set the parameter aaa_url"),
        (good.replace("$acc_extra(agent)", "$acc_extra(nobody)"), "the tag \"nobody\" is not declared"),
        (
            "loadmodule \"pv.so\"\nloadmodule ACC_MODULE\nloadmodule \"tm.so\"\nmodparam(\"acc\", \"journal_dir\", JOURNAL)\nrequest_route { exit; }\n".into(),
            "put loadmodule \"tm.so\" above loadmodule \"acc.so\"",
        ),
    ] {
        let (ok, out) = check(&config, dir.path(), false);
        assert!(!ok && out.contains(said), "expected \"{said}\", got {ok}: {out}");
    }
}
