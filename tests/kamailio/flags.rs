//! Accounting by message flags through four workers: every record has the values of its own call, of every
//! class of variables.

use std::collections::{BTreeMap, VecDeque};
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::common;
use super::fake::{Fake, Reply};
use super::server::{Database, End, Server, define, get, port, skipped};
use super::statistics;

/// The tables of Debian's Kamailio, and a column for each extra and leg.
const TABLES: &str = "
CREATE TABLE acc (id INTEGER PRIMARY KEY NOT NULL, method VARCHAR(16) DEFAULT '' NOT NULL, from_tag VARCHAR(128) DEFAULT '' NOT NULL,
    to_tag VARCHAR(128) DEFAULT '' NOT NULL, callid VARCHAR(255) DEFAULT '' NOT NULL, sip_code VARCHAR(3) DEFAULT '' NOT NULL,
    sip_reason VARCHAR(128) DEFAULT '' NOT NULL, time TIMESTAMP NOT NULL, note VARCHAR(64) NOT NULL, leg VARCHAR(64) NOT NULL);
CREATE TABLE missed_calls (id INTEGER PRIMARY KEY NOT NULL, method VARCHAR(16) DEFAULT '' NOT NULL, from_tag VARCHAR(128) DEFAULT '' NOT NULL,
    to_tag VARCHAR(128) DEFAULT '' NOT NULL, callid VARCHAR(255) DEFAULT '' NOT NULL, sip_code VARCHAR(3) DEFAULT '' NOT NULL,
    sip_reason VARCHAR(128) DEFAULT '' NOT NULL, time TIMESTAMP NOT NULL, note VARCHAR(64) NOT NULL, leg VARCHAR(64) NOT NULL);
CREATE TABLE acc_cdrs (id INTEGER PRIMARY KEY NOT NULL, start_time TIMESTAMP DEFAULT '2000-01-01 00:00:00' NOT NULL,
    end_time TIMESTAMP DEFAULT '2000-01-01 00:00:00' NOT NULL, duration REAL(10,3) DEFAULT 0 NOT NULL,
    note VARCHAR(64), method VARCHAR(16), header VARCHAR(64));";

/// A header's value in a message.
fn header<'a>(message: &'a str, name: &str) -> &'a str {
    message.lines().find_map(|l| l.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name))).map_or("", |(_, v)| v.trim())
}

/// The lines of a header, as they stand there.
fn all<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    message.lines().filter(|l| l.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name))).collect()
}

/// Answers everything: calls to a user that begins with `b` or `s` with 486, others with 200.
pub struct Callee {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    pub port: u16,
}

impl Callee {
    pub fn start() -> Callee {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !ended.load(Ordering::Relaxed) {
                let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
                let request = String::from_utf8_lossy(&buffer[..n]).into_owned();
                if request.starts_with("ACK") || request.starts_with("SIP/2.0") {
                    continue;
                }
                let user = request.split(['@', ' ']).nth(1).unwrap_or_default();
                let refuses = request.starts_with("INVITE") && (user.starts_with("sip:b") || user.starts_with("sip:s"));
                let status = if refuses { "486 Busy Here" } else { "200 OK" };
                let to = header(&request, "To");
                let tag = if to.contains(";tag=") { "" } else { ";tag=callee" };
                let copied =
                    [all(&request, "Via"), all(&request, "Record-Route"), all(&request, "From"), all(&request, "Call-ID"), all(&request, "CSeq")].concat();
                let call = header(&request, "Call-ID");
                let reply = format!(
                    "SIP/2.0 {status}\r\n{}\r\nTo: {to}{tag}\r\nServer: {call}\r\nContact: <sip:callee@127.0.0.1:{port}>\r\nContent-Length: 0\r\n\r\n",
                    copied.join("\r\n")
                );
                let _ = socket.send_to(reply.as_bytes(), from);
            }
        });
        Callee { ends, thread: Some(thread), port }
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// How long a call lasts.
const TALK: Duration = Duration::from_millis(100);

/// Plays calls, so many at the same time.
pub fn play(port: u16, users: &[String], at_a_time: usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(TALK / 4)).unwrap();
    let here = socket.local_addr().unwrap();
    let request = |method: &str, cseq: u32, call: &str, uri: &str, to: &str, more: &str| {
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{call}{method}{cseq}\r\nMax-Forwards: 70\r\n\
             From: <sip:caller@example.com>;tag=from-{call}\r\nTo: {to}\r\nCall-ID: {call}\r\nCSeq: {cseq} {method}\r\nX-Call: {call}\r\n\
             Contact: <sip:caller@{here}>\r\n{more}Content-Length: 0\r\n\r\n"
        )
    };
    let send = |text: String| assert!(socket.send_to(text.as_bytes(), ("127.0.0.1", port)).unwrap() > 0);
    let invite = |call: &str| request("INVITE", 1, call, &format!("sip:{call}@127.0.0.1:{port}"), &format!("<sip:{call}@example.com>"), "");
    let bye = |call: &str, (uri, to, route): &(String, String, String)| request("BYE", 2, call, uri, to, route);
    // What a call waits for: the answer of its INVITE, or, with Contact, To and Route, of its BYE.
    let mut open: BTreeMap<String, Option<(String, String, String)>> = BTreeMap::new();
    let mut waiting = users.iter();
    let mut buffer = [0; 65_536];
    let (mut lost, mut heard) = (0, Instant::now());
    // Calls to be hung up, in the order of their answers.
    let mut talking: VecDeque<(Instant, String)> = VecDeque::new();
    loop {
        while talking.front().is_some_and(|(answered, _)| answered.elapsed() > TALK)
            && let Some((_, call)) = talking.pop_front()
        {
            if let Some(Some(up)) = open.get(&call) {
                send(bye(&call, up));
            }
        }
        while open.len() < at_a_time
            && let Some(call) = waiting.next()
        {
            send(invite(call));
            open.insert(call.clone(), None);
        }
        if open.is_empty() {
            return;
        }
        let Ok(n) = socket.recv(&mut buffer) else {
            if !talking.is_empty() || heard.elapsed() < Duration::from_secs(2) {
                continue;
            }
            // Lost, or too much for this machine.
            (lost, heard) = (lost + 1, Instant::now());
            assert!(lost < 60, "calls have no end: {open:?}");
            open.iter().for_each(|(call, up)| send(up.as_ref().map_or_else(|| invite(call), |up| bye(call, up))));
            continue;
        };
        heard = Instant::now();
        let reply = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let (call, cseq, to) = (header(&reply, "Call-ID").to_string(), header(&reply, "CSeq"), header(&reply, "To").to_string());
        if reply.starts_with("BYE") {
            // The server hangs up.
            let copied = ["Via", "From", "To", "Call-ID", "CSeq"].map(|name| all(&reply, name).join("\r\n")).join("\r\n");
            send(format!("SIP/2.0 200 OK\r\n{copied}\r\nContent-Length: 0\r\n\r\n"));
            open.remove(&call);
            continue;
        }
        if reply.starts_with("SIP/2.0 1") || !open.contains_key(&call) {
            continue;
        }
        if cseq.ends_with("BYE") {
            open.remove(&call);
        } else if reply.starts_with("SIP/2.0 2") {
            let route: String = all(&reply, "Record-Route").iter().map(|l| format!("{}\r\n", l.replacen("Record-Route", "Route", 1))).collect();
            let contact = header(&reply, "Contact").trim_matches(['<', '>']).to_string();
            send(request("ACK", 1, &call, &contact, &to, &route));
            if open[&call].is_none() {
                talking.push_back((Instant::now(), call.clone()));
            }
            open.insert(call, Some((contact, to, route)));
        } else if open[&call].is_none() {
            send(request("ACK", 1, &call, &format!("sip:{call}@127.0.0.1:{port}"), &to, "").replace("ACK1\r\n", "INVITE1\r\n"));
            open.remove(&call);
        }
    }
}

fn start(callee: &Callee) -> Server {
    start_with(callee, &[])
}

pub fn start_with(callee: &Callee, definitions: &[String]) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("sqlite3").arg(dir.path().join("acc.sqlite")).arg(TABLES).status().unwrap();
    assert!(made.success());
    Server::start_config("flags.cfg", dir, Database::Sqlite, port(), 4, &[&more(callee)[..], definitions].concat())
}

fn more(callee: &Callee) -> [String; 1] {
    [define("PHONE", format_args!("127.0.0.1:{}", callee.port))]
}

/// What is wrong with the records of some calls, and how many there are.
#[derive(Debug, Default)]
struct Figures {
    /// Lines, rows and CDRs that were due.
    due: usize,
    missing: usize,
    /// That nobody expects.
    surplus: usize,
    /// A value that is not the call's own.
    wrong: usize,
    /// Some of them.
    told: Vec<String>,
}

impl Figures {
    /// Compares sorted texts of one sort of record, each with its call.
    fn compare(&mut self, what: &str, mut due: Vec<String>, mut found: Vec<String>) {
        self.due += due.len();
        due.sort();
        found.sort();
        let lacking: Vec<_> = due.iter().filter(|d| found.binary_search(d).is_err()).cloned().collect();
        let others: Vec<_> = found.iter().filter(|f| due.binary_search(f).is_err()).cloned().collect();
        // One that is there, but with another value, is wrong.
        let wrong = lacking.len().min(others.len());
        self.wrong += wrong;
        self.missing += due.len().saturating_sub(found.len());
        self.surplus += found.len().saturating_sub(due.len());
        self.told.extend(lacking.iter().take(3).map(|l| format!("{what}: not there: {l}")));
        self.told.extend(others.iter().take(3).map(|l| format!("{what}: not due: {l}")));
    }
}

/// Calls are answered, refused, answered by a second target, and refused by the server, in turn.
fn calls(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("{}{n}x", ["a", "b", "s", "l"][n % 4])).collect()
}

/// Every value that a line shows, in the order of the configuration; one made by the server has none of a reply.
fn line_due(call: &str, method: &str, code: &str, branch: &str, port: u16, has_reply: bool) -> String {
    let reply = if has_reply { if code == "404" { ";reply=".into() } else { format!(";reply={call}") } } else { String::new() };
    let of_invite = |v: &str| if method == "INVITE" { v.to_owned() } else { String::new() };
    let legs = if method == "INVITE" { format!(";leg={call}-2;leg={call}-1") } else { ";leg=".into() };
    let first = if method == "INVITE" { format!("sip:{call}@127.0.0.1:{port}") } else { "*".into() };
    format!(
        "{method} {code} from-{call} {call} header={call};moment={};xavp={};dialog={call};branch={branch};var={};first={first}{reply};code={code}{legs}",
        of_invite(call),
        of_invite(call),
        of_invite(call)
    )
}

/// Looks at every record of these calls; `of_kamailio`: of the server's own module, which has no `/reply`.
fn figures(log: &str, database: &Path, calls: &[String], port: u16, of_kamailio: bool) -> Figures {
    let mut figures = Figures::default();
    let shown = |kind: &str| {
        let beginning = format!("ACC: {kind}: ");
        let lines = log.lines().filter_map(|l| l.split_once(&beginning)).map(|(_, l)| {
            let pairs: Vec<_> = l.split(';').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_string(), v.to_string())).collect();
            let method = get(&pairs, "method");
            let extras = pairs.iter().skip_while(|(k, _)| k != "header").filter(|(k, _)| k != "reply" || method == "INVITE");
            // Of a request inside a call nothing was set, and its first target is the callee's own.
            let value = |k: &str, v: &str| match k {
                "var" | "first" if method == "BYE" => {
                    if k == "var" {
                        String::new()
                    } else {
                        "*".into()
                    }
                }
                "branch" if method == "BYE" => "callee".into(),
                _ => v.to_owned(),
            };
            let extras: Vec<_> = extras.map(|(k, v)| format!("{k}={}", value(k, v))).collect();
            format!("{method} {} {} {} {}", get(&pairs, "code"), get(&pairs, "from_tag"), get(&pairs, "call_id"), extras.join(";"))
        });
        lines.collect::<Vec<_>>()
    };
    let code = |call: &str| if call.starts_with(['b', 's']) { "486" } else { "404" };
    let is_refused = |call: &str| call.starts_with(['b', 'l']);
    let has_reply = !of_kamailio;
    let mut answered = Vec::new();
    for call in calls {
        if is_refused(call) {
            answered.push(line_due(call, "INVITE", code(call), call, port, has_reply));
        } else {
            let branch = if call.starts_with('s') { format!("again-{call}") } else { call.clone() };
            answered.push(line_due(call, "INVITE", "200", &branch, port, has_reply));
            answered.push(line_due(call, "BYE", "200", "callee", port, false));
        }
    }
    figures.compare("answered", answered, shown("transaction answered"));
    let missed = calls.iter().filter(|c| !c.starts_with('a')).map(|call| line_due(call, "INVITE", code(call), call, port, has_reply));
    figures.compare("missed", missed.collect(), shown("call missed"));

    let rows = |sql: &str| common::sqlite(database, sql).unwrap_or_default().lines().map(|l| l.trim_end_matches('\t').to_string()).collect::<Vec<_>>();
    let of_invite = |call: &str, code: &str| [2, 1].map(|leg| format!("{call}\tINVITE\t{code}\t{call}\t{call}-{leg}"));
    let due = calls.iter().flat_map(|call| {
        let invite = of_invite(call, if is_refused(call) { code(call) } else { "200" });
        invite.into_iter().chain((!is_refused(call)).then(|| format!("{call}\tBYE\t200")))
    });
    figures.compare("acc", due.collect(), rows("SELECT callid, method, sip_code, coalesce(note, ''), coalesce(leg, '') FROM acc"));
    let due = calls.iter().filter(|c| !c.starts_with('a')).flat_map(|call| of_invite(call, code(call)));
    figures.compare("missed_calls", due.collect(), rows("SELECT callid, method, sip_code, coalesce(note, ''), coalesce(leg, '') FROM missed_calls"));
    // Of a call that a callee refused, its reply is looked at, which has no such header.
    let due = calls.iter().map(|call| {
        let (method, header) = (if is_refused(call) { "INVITE" } else { "BYE" }, if call.starts_with('b') { "" } else { call });
        format!("{call}\t{method}\t1\t{header}").trim_end_matches('\t').to_string()
    });
    let cdrs = "SELECT coalesce(note, ''), coalesce(method, ''), duration >= 0 AND start_time <= end_time, coalesce(header, '') FROM acc_cdrs";
    figures.compare("acc_cdrs", due.collect(), rows(cdrs));
    figures
}

/// So many calls through four workers; every class of variables is unique for each call.
fn every_record_is_of_its_own_call(n: usize) {
    let callee = Callee::start();
    let server = start(&callee);
    let calls = calls(n);
    play(server.port, &calls, 80);
    let of = |first: &[char]| calls.iter().filter(|c| c.starts_with(first)).count();
    let [answered, failed, busy, missed] = [of(&['a', 's']), of(&['b', 'l']), of(&['b']), of(&['b', 's', 'l'])];
    let due = format!("answered {answered}, ended {answered}, failed_4xx {failed}, failed_user {busy}, missed {missed}");
    // A phone has its reply before the last records are made.
    server.wait("all calls are counted", || statistics::counted(&server) == due);
    server.settle();
    let figures = figures(&server.log(), &server.dir.path().join("acc.sqlite"), &calls, server.port, false);
    eprintln!("{n} calls: {} records due, {} missing, {} too many, {} wrong", figures.due, figures.missing, figures.surplus, figures.wrong);
    assert_eq!((figures.missing, figures.surplus, figures.wrong), (0, 0, 0), "{:#?}", figures.told);
    assert_eq!((server.status("panics"), server.status("db_dead")), (Some(0), Some(0)));
    assert_eq!(statistics::counted(&server), due);
    // Which tag has which reply.
    for call in calls.iter().take(8) {
        for line in server.lines("transaction answered", call) {
            assert_eq!(get(&line, "to_tag") == "callee", !call.starts_with('l'), "{line:?}");
        }
    }
}

#[test]
fn every_record_has_the_values_of_its_own_call() {
    if !skipped() {
        every_record_is_of_its_own_call(500);
    }
}

/// Prints what this module makes of 10 000 calls, and what Kamailio's own does.
#[test]
#[ignore = "takes minutes: see CONTRIBUTING.md"]
fn ten_thousand_calls_by_flags() {
    assert!(!skipped(), "this test was asked for");
    every_record_is_of_its_own_call(10_000);
    let (callee, dir, port, calls) = (Callee::start(), tempfile::tempdir().unwrap(), port(), calls(10_000));
    let database = dir.path().join("acc.sqlite");
    assert!(Command::new("sqlite3").arg(&database).arg(TABLES).status().unwrap().success());
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let config = super::server::root().join("tests/kamailio/flags.cfg");
    let definitions = [
        format!("-ALISTEN=udp:127.0.0.1:{port}"),
        "-ACHILDREN=4".into(),
        "-AOF_KAMAILIO".into(),
        define("ACC_MODULE", "acc.so"),
        define("CTL", format_args!("unix:{}", dir.path().join("ctl").display())),
        define("DB_URL", format_args!("sqlite:///{}", database.display())),
        define("PHONE", format_args!("127.0.0.1:{}", callee.port)),
    ];
    let mut own = Command::new("kamailio");
    own.env("PATH", "/usr/sbin:/usr/bin:/bin").arg("-f").arg(&config).args(["-DD", "-E", "-m", "256", "-w"]).arg(dir.path()).arg("-Y").arg(dir.path());
    let mut own = own.args(definitions).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(own.try_wait().unwrap().is_none(), "Kamailio's own module does not start");
    play(port, &calls, 80);
    std::thread::sleep(Duration::from_secs(3));
    let _ = Command::new("kill").arg(own.id().to_string()).status();
    let _ = own.wait();
    let log = String::from_utf8_lossy(&std::fs::read(dir.path().join("log")).unwrap()).into_owned();
    let figures = figures(&log, &database, &calls, port, true);
    eprintln!("Kamailio's own: {} records due, {} missing, {} too many, {} wrong", figures.due, figures.missing, figures.surplus, figures.wrong);
    figures.told.iter().for_each(|t| eprintln!("{t}"));
}

/// The CDR of a dialog survives what the server does not, once its dialog comes back from the database.
#[test]
fn a_cdr_of_a_dialog_whose_server_was_killed_is_not_written_without_its_end() {
    if skipped() {
        return;
    }
    let callee = Callee::start();
    let server = start(&callee);
    let cdrs = |server: &Server| common::sqlite(&server.dir.path().join("acc.sqlite"), "SELECT note FROM acc_cdrs ORDER BY id").unwrap_or_default();
    play(server.port, &["a1".to_string()], 1);
    // The phone has the reply to its BYE a moment before the CDR is written.
    server.wait("the CDR", || !cdrs(&server).is_empty());
    let server = server.end_and_restart_config("flags.cfg", End::Killed, &more(&callee));
    play(server.port, &["a2".to_string()], 1);
    server.wait("the next one", || cdrs(&server).contains("a2"));
    assert_eq!(cdrs(&server).split_whitespace().collect::<Vec<_>>(), ["a1", "a2"], "each once");
}

/// Copies of the module under the names of Kamailio's companions hand their parameters over; flags account over Diameter
/// and to streams as to the log, whose lines are objects.
#[test]
fn companions_streams_and_lines_of_json() {
    if skipped() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let peer = runtime.block_on(Fake::start("peer.acc.test", |_| Reply::Code(2001)));
    let callee = Callee::start();
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_owned();
    let write = |name: &str, text: String| std::fs::write(place.join(name), text).unwrap();
    write("peers", format!("Identity = \"sip.acc.test\"; Realm = \"acc.test\";\n{}", peer.line()));
    write("avps", "ATTRIBUTE leg 7847 string\n".into());
    let copy = |name: &str| {
        let file = place.join(name);
        std::fs::copy(super::server::module(), &file).unwrap();
        file.display().to_string()
    };
    let definitions = [
        define("PHONE", format_args!("127.0.0.1:{}", callee.port)),
        define("DIAMETER_MODULE", copy("acc_diameter.so")),
        define("RADIUS_MODULE", copy("acc_radius.so")),
        define("JSON_MODULE", copy("acc_json.so")),
        define("DIAMETER_PEERS", format_args!("{0}/peers;extra-avps-file:{0}/avps", place.display())),
        define("STREAM", format_args!("file://{}/stream.jsonl", place.display())),
    ];
    let made = Command::new("sqlite3").arg(place.join("acc.sqlite")).arg(TABLES).status().unwrap();
    assert!(made.success());
    let server = Server::start_config("flags.cfg", dir, Database::Sqlite, port(), 2, &definitions);
    play(server.port, &["a1".to_string(), "b2".into(), "l3".into()], 3);
    for sink in ["db", "diameter", "stream"] {
        server.wait("delivery", || server.status(&format!("{sink}_accepted")) == server.status(&format!("{sink}_delivered")));
    }

    let objects = |text: String| text.lines().filter(|l| l.starts_with('{')).map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<serde_json::Value>>();
    let text = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let summary = |all: &[serde_json::Value], of: &dyn Fn(&serde_json::Value) -> String| {
        let mut all: Vec<_> = all
            .iter()
            .filter(|o| o["callid"].is_string())
            .map(|o| format!("{} {} {} {}", text(&o["kind"]), text(&o["method"]), text(&o["sip_code"]), of(o)))
            .collect();
        all.sort();
        all
    };
    let due = [
        "missed INVITE 404 l3 l3-2",
        "missed INVITE 486 b2 b2-2",
        "transaction BYE 200 null null",
        "transaction INVITE 200 a1 a1-2",
        "transaction INVITE 404 l3 l3-2",
        "transaction INVITE 486 b2 b2-2",
    ];
    let lines = objects(server.log());
    assert_eq!(summary(&lines, &|o| format!("{} {}", text(&o["moment"]), text(&o["legs"][0]["leg"]))), due);
    let answered = lines.iter().find(|o| o["sip_code"] == "200" && o["method"] == "INVITE").unwrap();
    assert_eq!((text(&answered["header"]), text(&answered["from_tag"]), &answered["setuptime"]), ("a1".into(), "from-a1".into(), &serde_json::Value::Null));
    let cdrs: Vec<_> = lines.iter().filter(|o| o["kind"] == "cdr").collect();
    assert_eq!(cdrs.len(), 3, "of each dialog");
    for cdr in cdrs {
        let (start, duration) = (text(&cdr["start_time"]), text(&cdr["duration"]));
        let has_micros = |n: &str| n.split_once('.').is_some_and(|(_, digits)| digits.len() == 6);
        // Of a call that failed it is 0, as in Kamailio's own module.
        assert!(has_micros(&start) && (has_micros(&duration) || duration == "0"), "cdr_duration_mode 2: {start} {duration}");
    }
    let stream = objects(std::fs::read_to_string(place.join("stream.jsonl")).unwrap());
    assert_eq!(summary(&stream, &|o| format!("{} {}", text(&o["extra"]["moment"]), text(&o["legs"][0]["leg"]))), due);

    let value = |v: Option<&[u8]>| String::from_utf8(v.unwrap_or(b"null").to_vec()).unwrap();
    let mut seen: Vec<_> = peer
        .seen()
        .iter()
        .map(|r| format!("{} {} {} {} {}", r.number(40).unwrap(), r.number(204).unwrap(), r.number(205).unwrap(), value(r.value(7846)), value(r.value(7847))))
        .collect();
    seen.sort();
    let failed = ["15 1 404 l3 l3-2"; 3].into_iter().chain(["15 1 486 b2 b2-2"; 2]);
    assert_eq!(seen, ["1 1 200 a1 a1-2"].into_iter().chain(failed).chain(["2 8 200 null null"]).collect::<Vec<_>>(), "one of the 404 is by hand");
}
