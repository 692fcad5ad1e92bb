//! A web server of the test's own that cuts, delays, and answers 500, 429 and 400.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acc::journal::{DeadLetters, Dir, SinkId};
use serde_json::Value;

use super::tls::Certificates;
use super::*;

/// What a server got.
#[derive(Default)]
struct Got {
    /// Identities of records it said yes to.
    accepted: Mutex<BTreeSet<String>>,
    /// Headers and first object of a request it accepted.
    sample: Mutex<Option<(BTreeMap<String, String>, Value)>>,
    requests: AtomicU32,
    /// It fails now and then.
    fails: AtomicBool,
}

struct Server {
    got: Arc<Got>,
    port: u16,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (got, port) = (Arc::<Got>::default(), listener.local_addr().unwrap().port());
        let shared = got.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let got = shared.clone();
                std::thread::spawn(move || while answer(&stream, &got).is_some() {});
            }
        });
        Server { got, port }
    }
}

/// Answers one request; `None` when the connection ends.
fn answer(stream: &TcpStream, got: &Got) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    assert!(line.starts_with("POST "), "{line}");
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).unwrap();
    let objects: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut out = stream;
    let mut say = |status: &str, text: &str| write!(out, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{text}", text.len()).ok();
    if path == "/moved" {
        write!(&mut &*stream, "HTTP/1.1 308 Moved\r\nLocation: /cdr\r\nContent-Length: 0\r\n\r\n").ok()?;
        return Some(());
    }
    if headers.get("authorization").map(String::as_str) != Some("Basic YWNjOnMzY3JldA==") {
        return say("401 Unauthorized", "who are you?\n");
    }
    let number = got.requests.fetch_add(1, Ordering::Relaxed);
    let trouble = if got.fails.load(Ordering::Relaxed) { number % 23 } else { 0 };
    match trouble {
        3 => return say("500 Internal Server Error", "no database\nat line 5\n"),
        7 => return say("429 Too Many Requests", ""),
        // Cut before anything is done, and in the middle of the answer after all is done.
        11 => return None,
        19 => std::thread::sleep(Duration::from_millis(120)),
        _ => {}
    }
    if objects.iter().any(|o| o["callid"] == "spoilt") {
        return say("400 Bad Request", "\nno such customer\nsecond line\n");
    }
    got.accepted.lock().unwrap().extend(objects.iter().map(|o| o["acc_id"].as_str().unwrap().to_owned()));
    *got.sample.lock().unwrap() = Some((headers, objects[0].clone()));
    if trouble == 15 {
        let _ = (&mut &*stream).write_all(b"HTTP/1.1 200 O");
        return None;
    }
    say("200 OK", "thank you\n")
}

/// Sends 600 records, of which three are refused.
fn exercise(sink: SinkId, path: &str, options: &str) -> (BTreeMap<String, String>, Value) {
    listen();
    let turn = Turn::with(sink);
    let server = Server::start();
    server.got.fails.store(true, Ordering::Relaxed);
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    let mut w = records(&dir);
    const ALL: u32 = 600;
    let bad = [5, 300, 599];
    for n in 0..ALL {
        w.append_record(sink, &if bad.contains(&n) { spoilt(n) } else { numbered(n) }).unwrap();
    }
    let url = format!("http://acc:s3cret@127.0.0.1:{}{path}#name={}{options}", server.port, sink.name());
    let running = Running::start(streaming(&url, &journal), &dir);
    wait_until("the good ones", || server.got.accepted.lock().unwrap().len() == (ALL as usize) - bad.len());
    server.got.fails.store(false, Ordering::Relaxed);
    wait_until("the others are dead", || turn.dead() == bad.len() as u64);
    assert_eq!(turn.delivered(), u64::from(ALL) - bad.len() as u64);
    let got: BTreeSet<_> = server.got.accepted.lock().unwrap().clone();
    assert_eq!(got, (0..ALL).filter(|n| !bad.contains(n)).map(id_of).collect());
    running.stop();
    let dead = std::fs::read_to_string(journal.join(DeadLetters::file_name(sink))).unwrap();
    let reasons: Vec<Value> = dead.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["reason"].clone()).collect();
    assert_eq!(reasons, vec![Value::from("400: no such customer"); bad.len()]);
    assert!(!said(&[sink.name(), "answers 500: no database"]).is_empty());
    assert!(said(&["s3cret"]).is_empty() && said(&["at line 5"]).is_empty());
    server.got.sample.lock().unwrap().take().unwrap()
}

#[test]
fn each_record_is_an_object_of_its_own() {
    let (headers, object) = exercise(SinkId::Stream2, "/cdr", "");
    let id = object["acc_id"].as_str().unwrap();
    let header = |name: &str| headers[name].as_str();
    assert_eq!(["idempotency-key", "ce-id"].map(header), [id; 2]);
    assert_eq!(
        (header("content-type"), header("ce-type"), header("ce-subject")),
        ("application/json", "opensips.acc.cdr.v1", object["callid"].as_str().unwrap())
    );
}

#[test]
fn records_are_lines_of_a_request() {
    let (headers, object) = exercise(SinkId::Stream3, "/moved", "&batch=50");
    assert_eq!(headers["content-type"], "application/x-ndjson");
    // Of the records in it, the first, the last and the number; or of the one that is left of those halved.
    let key: Vec<_> = headers["idempotency-key"].split('-').collect();
    assert!(key[0] == object["acc_id"].as_str().unwrap() && matches!(key.len(), 1 | 3), "{key:?}");
}

#[test]
fn trouble_of_the_server_is_told_without_the_login() {
    let server = Server::start();
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    append(&mut records(&dir), SinkId::Stream, 0..3);
    drop(dir);
    let try_url = |url: &str| {
        let out = deliver(tmp.path(), url).args(["--seconds", "20"]).output().unwrap();
        let text = String::from_utf8_lossy(&[&*out.stdout, &out.stderr].concat()).into_owned();
        assert!(!text.contains("s3cret") && !text.contains("t0ken"), "{text}");
        (out.status.success(), text)
    };
    for (url, part) in [
        (format!("http://acc:s3cretx@127.0.0.1:{}/cdr", server.port), "answers 401: who are you?; correct user and password"),
        (format!("http://127.0.0.1:{}/cdr?key=t0ken", server.port), "answers 401"),
        (format!("https://acc:s3cret@127.0.0.1:{}/cdr", server.port), "cannot be reached"),
        ("http://acc:s3cret@127.0.0.1:1/cdr?key=t0ken".to_owned(), "http://127.0.0.1 cannot be reached"),
    ] {
        let (delivered, text) = try_url(&url);
        assert!(!delivered && text.contains(part), "{part}: {text}");
    }
    let (delivered, text) = try_url(&format!("http://acc:s3cret@127.0.0.1:{}/cdr", server.port));
    assert!(delivered && text.contains("stream: 3 delivered, 0 dead"), "{text}");
}

/// With a certificate of each side, of which the other one knows the authority.
#[test]
fn records_go_over_tls() {
    let (server, certificates) = (Server::start(), Certificates::make());
    let guard = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = guard.local_addr().unwrap().port();
    certificates.guard(guard, server.port);
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    append(&mut records(&dir), SinkId::Stream, 0..30);
    drop(dir);
    for (options, cause) in [
        (certificates.wrong_options(), Some("invalid peer certificate: UnknownIssuer")),
        (certificates.options_of_nobody(), Some("CertificateRequired")),
        (certificates.options(), None),
    ] {
        let out = deliver(tmp.path(), &format!("https://acc:s3cret@127.0.0.1:{port}/cdr#batch=10&{options}")).args(["--seconds", "20"]).output().unwrap();
        let text = String::from_utf8_lossy(&[&*out.stdout, &out.stderr].concat()).into_owned();
        assert!(out.status.success() == cause.is_none() && text.contains(cause.unwrap_or("stream: 30 delivered, 0 dead")), "{text}");
        assert_eq!(server.got.accepted.lock().unwrap().len(), if cause.is_none() { 30 } else { 0 });
    }
}
