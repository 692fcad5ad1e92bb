//! Debian's rabbitmq-server.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use acc::journal::{Dir, SinkId};
use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::Value;

use super::tls::Certificates;
use super::*;
use crate::common::brokers::RabbitMq;
use crate::common::servers::free_port;

/// Lines of the configuration: it takes TLS at this port, with certificates of its clients.
fn tls(certificates: &Certificates, port: u16) -> String {
    let file = |name: &str| certificates.file(name).display().to_string();
    format!(
        "listeners.ssl.default = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
         ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
        file("ca.pem"),
        file("server.pem"),
        file("server.key")
    )
}

fn on_channel<T>(port: u16, work: impl AsyncFnOnce(Channel) -> T) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let connection = Connection::connect(&format!("amqp://guest:guest@127.0.0.1:{port}/%2f"), ConnectionProperties::default()).await.unwrap();
        let done = work(connection.create_channel().await.unwrap()).await;
        let _ = connection.close(200, "bye".into()).await;
        done
    })
}

fn declare_exchange(port: u16) {
    on_channel(port, async |channel| {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel.exchange_declare("acc".into(), ExchangeKind::Topic, options, FieldTable::default()).await.unwrap();
    });
}

fn declare_queue(port: u16) {
    on_channel(port, async |channel| {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare("cdr".into(), options, FieldTable::default()).await.unwrap();
    });
    bind_queue(port, "cdr.*");
}

fn bind_queue(port: u16, key: &str) {
    on_channel(port, async |channel| {
        channel.queue_bind("cdr".into(), "acc".into(), key.into(), QueueBindOptions::default(), FieldTable::default()).await.unwrap();
    });
}

fn waiting(port: u16) -> u32 {
    on_channel(port, async |channel| {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        channel.queue_declare("cdr".into(), options, FieldTable::default()).await.unwrap().message_count()
    })
}

/// Every message of the queue, which has so many: its properties and its body.
fn taken(port: u16) -> Vec<(BasicProperties, Value)> {
    let all = waiting(port);
    on_channel(port, async |channel| {
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut consumer = channel.basic_consume("cdr".into(), "test".into(), options, FieldTable::default()).await.unwrap();
        let mut messages = Vec::new();
        for _ in 0..all {
            let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.unwrap().unwrap().unwrap();
            messages.push((delivery.properties.clone(), serde_json::from_slice(&delivery.data).unwrap()));
        }
        messages
    })
}

fn killed_in_the_middle(records_in_all: u32) {
    listen();
    let (tls_port, certificates) = (free_port(), Certificates::make());
    let Some(mut broker) = RabbitMq::start(&tls(&certificates, tls_port)) else { return };
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    let mut w = records(&dir);
    const RABBIT: SinkId = SinkId::Stream3;
    let turn = Turn::with(RABBIT);
    let url = format!("amqp://guest:guest@127.0.0.1:{}/?exchange=acc&name=stream3", broker.port);

    // No exchange, then no queue: nothing is lost, and the cure is said. There are so many records that the broker closes
    // the channel before all are sent.
    const FIRST: u32 = 400;
    append(&mut w, RABBIT, 0..FIRST);
    let running = Running::start(streaming(&url, &journal), &dir);
    wait_until("the first cure", || !said(&["stream3: ", "there is no exchange acc: rabbitmqadmin"]).is_empty());
    declare_exchange(broker.port);
    wait_until("the second cure", || !said(&["stream3: ", "no queue receives cdr.proxy1_example_org from exchange acc"]).is_empty());
    assert_eq!(turn.delivered(), 0);
    declare_queue(broker.port);
    wait_until("the records", || turn.delivered() == u64::from(FIRST));
    let first = taken(broker.port);
    // A batch during which the queue came has left its first messages behind, and may have sent others twice.
    assert_eq!(first.iter().map(|(_, body)| body["acc_id"].clone()).collect::<HashSet<_>>().len() as u32, FIRST);
    let (properties, _) = first.iter().find(|(_, body)| body["acc_id"] == id_of(0)).unwrap();
    let headers: BTreeMap<String, String> = properties
        .headers()
        .as_ref()
        .unwrap()
        .inner()
        .iter()
        .map(|(name, value)| match value {
            AMQPValue::LongString(text) => (name.to_string(), text.to_string()),
            other => panic!("{name}: {other:?}"),
        })
        .collect();
    assert_eq!((properties.message_id().as_ref().unwrap().as_str(), *properties.delivery_mode()), (&*id_of(0), Some(2)));
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!((&*headers["cloudEvents:type"], &*headers["cloudEvents:subject"]), ("opensips.acc.cdr.v1", "call-0@h"));

    // Some messages of a batch are returned: these wait, and no other one in their place.
    for n in FIRST..FIRST + 40 {
        let kind = if n % 3 == 0 { Kind::Missed } else { Kind::Cdr };
        w.append_record(RABBIT, &Record { kind, ..numbered(n) }).unwrap();
    }
    wait_until("the third cure", || !said(&["stream3: ", "no queue receives missed.proxy1_example_org from exchange acc"]).is_empty());
    bind_queue(broker.port, "missed.*");
    wait_until("both kinds", || turn.delivered() == u64::from(FIRST + 40));

    // The broker is killed in the middle.
    append(&mut w, RABBIT, FIRST + 40..records_in_all / 2);
    wait_until("a part", || turn.delivered() >= u64::from(records_in_all / 8));
    broker.kill();
    wait_until("an outage", || RABBIT.state().outage_seconds().is_some());
    broker.start_again();
    wait_until("all records", || turn.delivered() == u64::from(records_in_all / 2));
    running.stop();

    // The delivery is killed, twice.
    append(&mut w, RABBIT, records_in_all / 2..records_in_all);
    drop((w, dir));
    let before = waiting(broker.port);
    let mut killed = 0;
    for part in [8, 4] {
        let mut child = deliver(&journal, &url).spawn().unwrap();
        wait_until("a part", || waiting(broker.port) >= before + records_in_all / 2 / part);
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
    }
    assert_eq!(killed, 2);
    let out = deliver(&journal, &url).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // RabbitMQ stores copies; every record is there.
    let ids: BTreeSet<_> = taken(broker.port).iter().map(|(properties, _)| properties.message_id().as_ref().unwrap().to_string()).collect();
    assert_eq!(ids, (FIRST..records_in_all).map(id_of).collect());

    // What is wrong is told without the login.
    let dir = Dir::open(&journal).unwrap();
    append(&mut records(&dir), SinkId::Stream, 0..1);
    drop(dir);
    let secure = |options: String| format!("amqps://guest:guest@127.0.0.1:{}/?exchange=acc&{options}", tls_port);
    let place = format!("127.0.0.1:{}", broker.port);
    for (url, part) in [
        (format!("amqp://guest:s3cret@{place}/?exchange=acc"), "refuses the login"),
        (format!("amqp://guest:guest@{place}/nowhere?exchange=acc"), "has no vhost nowhere"),
        (format!("amqps://guest:s3cret@{place}/?exchange=acc"), "RabbitMQ at 127.0.0.1"),
        ("amqp://guest:s3cret@127.0.0.1:1/?exchange=acc".to_owned(), "cannot be reached"),
        (secure(certificates.wrong_options()), "invalid peer certificate: UnknownIssuer"),
        (secure(certificates.options_of_nobody()), "RabbitMQ at 127.0.0.1"),
    ] {
        let out = deliver(&journal, &url).args(["--seconds", "10"]).output().unwrap();
        let text = String::from_utf8_lossy(&[&*out.stdout, &out.stderr].concat()).into_owned();
        assert!(!out.status.success() && text.contains(part) && !text.contains("s3cret"), "{part}: {text}");
    }

    // With a certificate of each side, of which the other one knows the authority.
    let out = deliver(&journal, &secure(certificates.options())).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let ids: Vec<_> = taken(broker.port).iter().map(|(properties, _)| properties.message_id().as_ref().unwrap().to_string()).collect();
    assert_eq!(ids, [id_of(0)]);
}

#[test]
fn every_record_arrives_whoever_is_killed() {
    killed_in_the_middle(10_000);
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_thousand_records() {
    killed_in_the_middle(100_000);
}
