//! Debian's nats-server with JetStream.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use acc::journal::{Dir, SinkId};
use acc::stats::{self, Counter};
use async_nats::ConnectOptions;
use async_nats::jetstream::{self, consumer, stream};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::{Stream, StreamExt as _};
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::tls::Certificates;
use super::*;
use crate::common::brokers::Nats;

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub async fn context(port: u16) -> jetstream::Context {
    let client = ConnectOptions::new().retry_on_initial_connect().connect(format!("127.0.0.1:{port}")).await.unwrap();
    jetstream::new(client)
}

pub fn make_stream(port: u16, subjects: &str) {
    let config = stream::Config { name: "ACC".into(), subjects: vec![subjects.into()], duplicate_window: Duration::from_secs(3600), ..Default::default() };
    // JetStream may not be ready at once.
    wait_until("the stream", || runtime().block_on(async { context(port).await.create_stream(config.clone()).await.is_ok() }));
}

async fn next<S: Stream>(messages: &mut Pin<Box<S>>) -> S::Item {
    tokio::time::timeout(PATIENCE, messages.next()).await.expect("no message").expect("no more messages")
}

/// A message of the stream.
pub struct Stored {
    subject: String,
    headers: BTreeMap<String, String>,
    pub body: Value,
    /// The body as it came.
    pub payload: Vec<u8>,
}

/// How many messages the stream has.
pub fn count(port: u16) -> u64 {
    runtime().block_on(async { context(port).await.get_stream("ACC").await.map_or(0, |s| s.cached_info().state.messages) })
}

/// Every message of the stream, in its order.
pub fn stored(port: u16) -> Vec<Stored> {
    let mut all = None;
    // A cluster that has just lost a server makes no consumer before it has elected who does.
    common::wait_until("what the stream has", || {
        all = runtime().block_on(read(port));
        all.is_some()
    });
    all.unwrap()
}

async fn read(port: u16) -> Option<Vec<Stored>> {
    let stream = context(port).await.get_stream("ACC").await.ok()?;
    let consumer = stream.create_consumer(consumer::pull::OrderedConfig::default()).await.ok()?;
    let mut messages = Box::pin(consumer.messages().await.ok()?);
    let mut all = Vec::new();
    for _ in 0..stream.cached_info().state.messages {
        let message = next(&mut messages).await.ok()?;
        let headers = message.headers.as_ref().unwrap().iter().map(|(name, values)| (name.to_string(), values[0].to_string())).collect();
        all.push(Stored {
            subject: message.subject.to_string(),
            headers,
            body: serde_json::from_slice(&message.payload).unwrap(),
            payload: message.payload.to_vec(),
        });
    }
    Some(all)
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
    let Some(mut server) = Nats::start(&["-js"]) else { return };
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    let mut w = records(&dir);
    let url = format!("nats://127.0.0.1:{}", server.port);
    append(&mut w, SinkId::Stream, 0..10);

    // There is no stream: nothing is lost, and the cure is said.
    let running = Running::start(streaming(&url, &journal), &dir);
    wait_until("the cure", || !said(&["stream: ", "no stream listens on acc.>: nats stream add ACC --subjects 'acc.>'"]).is_empty());
    make_stream(server.port, "acc.>");
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

/// No word of ours.
const HIDDEN: &str = "zw1Tschern-Geheim77";

#[test]
fn servers_are_verified_and_logins_are_not_told() {
    let certificates = Certificates::make();
    let dir = certificates.dir();
    let file = |name: &str| dir.join(name).display().to_string();
    let options = ["-js", "--tls", "--tlscert", &file("server.pem"), "--tlskey", &file("server.key"), "--user", "acc", "--pass", HIDDEN];
    let Some(server) = Nats::start(&options) else { return };
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
    let Some(server) = Nats::start(&["-js"]) else { return };
    make_stream(server.port, "acc.>");
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

/// The server learns of it first.
#[test]
fn a_password_that_is_replaced_is_read_again() {
    listen();
    const NATS: SinkId = SinkId::Stream2;
    let turn = Turn::with(NATS);
    let tmp = tempfile::tempdir().unwrap();
    let (conf, password, journal) = (tmp.path().join("conf"), tmp.path().join("password"), tmp.path().join("journal"));
    let [old, new] = [HIDDEN.to_owned(), format!("{HIDDEN}-2")];
    let takes = |password: &str| {
        let users = format!("{{user: acc, password: \"{password}\"}}, {{user: test, password: test}}");
        std::fs::write(&conf, format!("no_auth_user: test\nauthorization {{ users: [{users}] }}\n")).unwrap();
    };
    takes(&old);
    std::fs::write(&password, &old).unwrap();
    let Some(mut server) = Nats::start(&["-js", "-c", conf.to_str().unwrap()]) else { return };
    make_stream(server.port, "acc.>");
    let dir = Dir::open(&journal).unwrap();
    let mut w = records(&dir);
    append(&mut w, NATS, 0..10);
    let url = format!("nats://acc@127.0.0.1:{}?name=stream2&password-file={}", server.port, password.display());
    let running = Running::start(streaming(&url, &journal), &dir);
    wait_until("records with the old password", || turn.delivered() == 10);
    takes(&new);
    server.kill();
    server.start_again();
    append(&mut w, NATS, 10..20);
    wait_until("the cause", || !said(&["stream2: ", "authorization violation"]).is_empty());
    assert_eq!(turn.delivered(), 10);
    std::fs::write(&password, &new).unwrap();
    wait_until("records with the new password", || turn.delivered() == 20);
    running.stop();
    each_is_there_once(server.port, 20);
    assert!(said(&[HIDDEN]).is_empty());
}

/// A token as nsc makes it.
fn token(issuer: &KeyPair, subject: &KeyPair, what: Value) -> String {
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"jti": "test", "iat": seconds, "iss": issuer.public_key(), "name": "test", "sub": subject.public_key(), "nats": what});
    let text = format!("{}.{}", part(json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

/// Of a user of the account, as a file.
fn creds(account: &KeyPair, user: &KeyPair) -> String {
    let jwt = token(account, user, json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}));
    let seed = user.seed().unwrap();
    format!("-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n")
}

/// The account takes back the first one while the server is away.
#[test]
fn creds_that_are_replaced_are_read_again() {
    listen();
    const NATS: SinkId = SinkId::Stream3;
    let turn = Turn::with(NATS);
    let tmp = tempfile::tempdir().unwrap();
    let (conf, file, journal) = (tmp.path().join("conf"), tmp.path().join("creds"), tmp.path().join("journal"));
    let (operator, account, system) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let [first, second, reader] = [(); 3].map(|()| KeyPair::new_user());
    let takes_back = |revoked: Value| {
        let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1});
        let none = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1});
        let of = |key: &KeyPair, limits: &Value, revoked: &Value| {
            let what = json!({"type": "account", "version": 2, "limits": limits, "revocations": revoked, "default_permissions": {"pub": {}, "sub": {}}});
            format!("{}: {}", key.public_key(), token(&operator, key, what))
        };
        let of_operator = token(&operator, &operator, json!({"type": "operator", "version": 2}));
        let accounts = format!("{}\n{}", of(&account, &limits, &revoked), of(&system, &none, &json!({})));
        let text = format!("operator: {of_operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n{accounts}\n}}\n", system.public_key());
        std::fs::write(&conf, text).unwrap();
    };
    takes_back(json!({}));
    std::fs::write(&file, creds(&account, &first)).unwrap();
    let Some(mut server) = Nats::start(&["-js", "-c", conf.to_str().unwrap()]) else { return };
    let reader = creds(&account, &reader);
    let place = format!("127.0.0.1:{}", server.port);
    let in_stream = |makes: bool| {
        runtime().block_on(async {
            let options = ConnectOptions::with_credentials(&reader).unwrap().retry_on_initial_connect();
            let jetstream = jetstream::new(options.connect(&place).await.unwrap());
            if makes {
                jetstream.create_stream(stream::Config { name: "ACC".into(), subjects: vec!["acc.>".into()], ..Default::default() }).await.unwrap();
            }
            jetstream.get_stream("ACC").await.unwrap().cached_info().state.messages
        })
    };
    in_stream(true);
    let dir = Dir::open(&journal).unwrap();
    let mut w = records(&dir);
    append(&mut w, NATS, 0..10);
    let url = format!("nats://127.0.0.1:{}?name=stream3&creds={}", server.port, file.display());
    let running = Running::start(streaming(&url, &journal), &dir);
    wait_until("records of the first user", || turn.delivered() == 10);
    takes_back(json!({(first.public_key()): 4_000_000_000u32}));
    server.kill();
    server.start_again();
    append(&mut w, NATS, 10..20);
    wait_until("the cause", || !said(&["stream3: ", "authorization violation"]).is_empty());
    assert_eq!(turn.delivered(), 10);
    std::fs::write(&file, creds(&account, &second)).unwrap();
    wait_until("records of the second user", || turn.delivered() == 20);
    running.stop();
    assert_eq!(in_stream(false), 20);
    assert!(said(&[&first.seed().unwrap()]).is_empty());
}
