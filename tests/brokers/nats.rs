//! Debian's nats-server with JetStream.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command};
use std::time::Duration;

use acc::journal::{Dir, SinkId};
use acc::stats::{self, Counter};
use async_nats::ConnectOptions;
use async_nats::jetstream::{self, consumer, stream};
use futures_util::{Stream, StreamExt as _};
use serde_json::Value;

use super::*;
use crate::common::servers::{free_port, quiet};

/// A server that ends with its test.
struct Server {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
    options: Vec<String>,
}

impl Server {
    fn start(options: &[&str]) -> Option<Server> {
        if Command::new("nats-server").arg("--version").output().is_err() {
            skip("nats-server");
            return None;
        }
        let (directory, port, options) = (tempfile::tempdir().unwrap(), free_port(), options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        let server = Server { child: run(directory.path(), port, &options), directory, port, options };
        wait_until("nats-server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(server)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = run(self.directory.path(), self.port, &self.options);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(directory: &Path, port: u16, options: &[String]) -> Child {
    let mut command = Command::new("nats-server");
    command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(directory).args(options);
    quiet(&mut command).spawn().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn context(port: u16) -> jetstream::Context {
    let client = ConnectOptions::new().retry_on_initial_connect().connect(format!("127.0.0.1:{port}")).await.unwrap();
    jetstream::new(client)
}

async fn make_stream(port: u16, subjects: &str) {
    let config = stream::Config { name: "ACC".into(), subjects: vec![subjects.into()], duplicate_window: Duration::from_secs(3600), ..Default::default() };
    let jetstream = context(port).await;
    // JetStream may not be ready at once.
    for _ in 0..100 {
        if jetstream.create_stream(config.clone()).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("there is no stream");
}

async fn next<S: Stream>(messages: &mut Pin<Box<S>>) -> S::Item {
    tokio::time::timeout(PATIENCE, messages.next()).await.expect("no message").expect("no more messages")
}

/// A message of the stream.
struct Stored {
    subject: String,
    headers: BTreeMap<String, String>,
    body: Value,
}

/// How many messages the stream has.
fn count(port: u16) -> u64 {
    runtime().block_on(async { context(port).await.get_stream("ACC").await.map_or(0, |s| s.cached_info().state.messages) })
}

/// Every message of the stream, in its order.
fn stored(port: u16) -> Vec<Stored> {
    runtime().block_on(async {
        let stream = context(port).await.get_stream("ACC").await.unwrap();
        let consumer = stream.create_consumer(consumer::pull::OrderedConfig::default()).await.unwrap();
        let mut messages = Box::pin(consumer.messages().await.unwrap());
        let mut all = Vec::new();
        for _ in 0..stream.cached_info().state.messages {
            let message = next(&mut messages).await.unwrap();
            let headers = message.headers.as_ref().unwrap().iter().map(|(name, values)| (name.to_string(), values[0].to_string())).collect();
            all.push(Stored { subject: message.subject.to_string(), headers, body: serde_json::from_slice(&message.payload).unwrap() });
        }
        all
    })
}

/// Each record is there once: in the stream, and under its own id.
fn each_is_there_once(port: u16, sent: u32) -> Vec<Stored> {
    let all = stored(port);
    let ids: std::collections::BTreeSet<_> = all.iter().map(|m| m.body["acc_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((all.len(), ids.len()), (sent as usize, sent as usize));
    for n in 0..sent {
        assert!(ids.contains(&id_of(n)), "call-{n} is lost");
    }
    all
}

fn killed_in_the_middle(records_in_all: u32) {
    listen();
    let Some(mut server) = Server::start(&["-js"]) else { return };
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    let mut w = records(&dir);
    let url = format!("nats://127.0.0.1:{}", server.port);
    append(&mut w, SinkId::Stream, 0..10);

    // There is no stream: nothing is lost, and the cure is said.
    let running = Running::start(streaming(&url, &journal), &dir);
    wait_until("the cure", || !said(&["stream: ", "no stream listens on acc.>: nats stream add ACC --subjects 'acc.>'"]).is_empty());
    runtime().block_on(make_stream(server.port, "acc.>"));
    wait_until("the records", || stats::get(SinkId::Stream.delivered()) == 10);
    let first = &each_is_there_once(server.port, 10)[0];
    assert_eq!(first.subject, "acc.cdr.proxy1_example_org");
    let header = |name: &str| first.headers.get(name).map(String::as_str);
    assert_eq!(header("Nats-Msg-Id"), Some(&*id_of(0)));
    assert_eq!(
        ["specversion", "id", "source", "type", "subject", "time", "datacontenttype"].map(|name| header(&format!("ce-{name}")).unwrap_or_default()),
        ["1.0", &id_of(0), "/opensips-acc/proxy1.example.org", "opensips.acc.cdr.v1", "call-0@h", "2023-11-14T22:13:23.500000Z", "application/json"]
    );
    assert_eq!((&first.body["callid"], &first.body["node"]), (&"call-0@h".into(), &"proxy1.example.org".into()));

    // The server is killed in the middle, twice.
    append(&mut w, SinkId::Stream, 10..records_in_all / 2);
    for part in [4, 3] {
        wait_until("a part", || stats::get(SinkId::Stream.delivered()) >= u64::from(records_in_all / 2 / part));
        server.kill();
        wait_until("an outage", || SinkId::Stream.state().outage_seconds().is_some());
        server.start_again();
        wait_until("its end", || SinkId::Stream.state().outage_seconds().is_none());
    }
    wait_until("all records", || stats::get(SinkId::Stream.delivered()) == u64::from(records_in_all / 2));
    each_is_there_once(server.port, records_in_all / 2);
    running.stop();

    // The delivery is killed, twice.
    append(&mut w, SinkId::Stream, records_in_all / 2..records_in_all);
    drop((w, dir));
    let mut killed = 0;
    for part in [8, 4] {
        let mut child = deliver(&journal, &url).spawn().unwrap();
        wait_until("a part", || count(server.port) >= u64::from(records_in_all / 2 + records_in_all / 2 / part));
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
    }
    assert_eq!(killed, 2);
    let out = deliver(&journal, &url).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    each_is_there_once(server.port, records_in_all);
}

#[test]
fn every_record_is_stored_once_whoever_is_killed() {
    killed_in_the_middle(20_000);
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_thousand_records() {
    killed_in_the_middle(100_000);
}

fn openssl(dir: &Path, args: &str) {
    assert!(quiet(Command::new("openssl").args(args.split(' '))).current_dir(dir).status().unwrap().success(), "openssl {args}");
}

/// No word of ours.
const HIDDEN: &str = "zw1Tschern-Geheim77";

#[test]
fn servers_are_verified_and_logins_are_not_told() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, key) = (tmp.path(), "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes");
    for name in ["ca", "other"] {
        openssl(dir, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -days 3650 -subj /CN={name}"));
    }
    openssl(dir, &format!("req {key} -keyout server.key -out server.csr -subj /CN=nats"));
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    openssl(dir, "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile ext -out server.pem");
    let file = |name: &str| dir.join(name).display().to_string();
    let options = ["-js", "--tls", "--tlscert", &file("server.pem"), "--tlskey", &file("server.key"), "--user", "acc", "--pass", HIDDEN];
    let Some(server) = Server::start(&options) else { return };
    std::fs::write(dir.join("password"), HIDDEN).unwrap();
    let journal = dir.join("journal");
    let place = format!("127.0.0.1:{}/acc.eu?tls=verify&ca=", server.port);
    let try_url = |url: &str| {
        let out = deliver(&journal, url).args(["--seconds", "2"]).output().unwrap();
        let text = String::from_utf8_lossy(&[&*out.stdout, &out.stderr].concat()).into_owned();
        assert!(!text.contains(HIDDEN), "{text}");
        (out.status.success(), text)
    };
    let journal_dir = Dir::open(&journal).unwrap();
    append(&mut records(&journal_dir), SinkId::Stream, 0..3);
    drop(journal_dir);
    for (url, part) in [
        (format!("nats://acc:{HIDDEN}@{place}{}", file("other.pem")), "no TLS with NATS"),
        (format!("nats://acc:{HIDDEN}x@{place}{}", file("ca.pem")), "refuses the login"),
        (format!("nats://{HIDDEN}@{place}{}", file("ca.pem")), "refuses the login"),
        (format!("nats://acc:{HIDDEN}@{place}{}", file("ca.pem")), "no stream listens on acc.eu.>"),
    ] {
        let (delivered, text) = try_url(&url);
        assert!(!delivered && text.contains(part), "{part}: {text}");
    }
    runtime().block_on(async {
        let mut options = ConnectOptions::new().add_root_certificates(dir.join("ca.pem")).require_tls(true);
        options = options.user_and_password("acc".into(), HIDDEN.into());
        let jetstream = jetstream::new(options.connect(format!("127.0.0.1:{}", server.port)).await.unwrap());
        jetstream.create_stream(stream::Config { name: "ACC".into(), subjects: vec!["acc.eu.>".into()], ..Default::default() }).await.unwrap();
    });
    let (delivered, text) = try_url(&format!("nats://acc:{HIDDEN}@{place}{}&stream=OTHER", file("ca.pem")));
    assert!(!delivered && text.contains("another stream than OTHER has the subjects acc.eu.>"), "{text}");
    let (delivered, text) = try_url(&format!("nats://{place}{}&stream=ACC&user=acc&password-file={}", file("ca.pem"), file("password")));
    assert!(delivered && text.contains("stream: 3 delivered, 0 dead"), "{text}");
    // Without a word the server's wish for TLS is followed, and it is verified.
    let journal_dir = Dir::open(&journal).unwrap();
    append(&mut records(&journal_dir), SinkId::Stream, 3..4);
    drop(journal_dir);
    let (delivered, text) = try_url(&format!("nats://acc:{HIDDEN}@127.0.0.1:{}/acc.eu", server.port));
    assert!(!delivered && text.contains("no TLS with NATS"), "{text}");
    let (delivered, text) = try_url(&format!("nats://acc:{HIDDEN}@127.0.0.1:{}/acc.eu?tls=require", server.port));
    assert!(delivered, "{text}");
}

/// What was stored and not acknowledged in time is not stored again.
#[test]
fn duplicates_are_counted() {
    let Some(server) = Server::start(&["-js"]) else { return };
    runtime().block_on(make_stream(server.port, "acc.>"));
    let tmp = tempfile::tempdir().unwrap();
    let url = format!("nats://127.0.0.1:{}?name=stream4", server.port);
    for journal in ["one", "two"] {
        let dir = Dir::open(&tmp.path().join(journal)).unwrap();
        append(&mut records(&dir), SinkId::Stream4, 0..50);
        let turn = Turn::with(SinkId::Stream4);
        let running = Running::start(streaming(&url, &tmp.path().join(journal)), &dir);
        wait_until("all records", || turn.delivered() == 50);
        running.stop();
    }
    assert!(stats::get(Counter::StreamDuplicates) >= 50);
    each_is_there_once(server.port, 50);
}
