//! The mock cluster of librdkafka, which fails as it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;

use acc::accounting::record::{Core, Field};
use acc::journal::{DeadLetters, Dir, SinkId};
use acc::stats::{self, Counter};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::UnknownTopicHandling;
use serde_json::Value;

use super::tls::Certificates;
use super::*;
use crate::common::brokers::MockKafka;

/// A record as it is in the topic.
struct Stored {
    key: Vec<u8>,
    headers: BTreeMap<String, Vec<u8>>,
    body: Value,
}

/// What each partition holds.
fn stored(brokers: &str) -> Vec<Vec<Stored>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let client = ClientBuilder::new(vec![brokers.to_owned()]).build().await.unwrap();
        let mut all = Vec::new();
        for number in 0..4 {
            let partition = client.partition_client("acc", number, UnknownTopicHandling::Retry).await.unwrap();
            let (mut records, mut offset) = (Vec::new(), 0);
            loop {
                let (batch, end) = partition.fetch_records(offset, 1..4_000_000, 1000).await.unwrap();
                for r in batch {
                    offset = r.offset + 1;
                    let body = serde_json::from_slice(&r.record.value.unwrap()).unwrap();
                    records.push(Stored { key: r.record.key.unwrap(), headers: r.record.headers, body });
                }
                if offset >= end {
                    break;
                }
            }
            all.push(records);
        }
        all
    })
}

#[test]
fn records_stay_in_order_in_their_partition_whatever_fails() {
    listen();
    let Some(mut cluster) = MockKafka::start() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    let mut w = records(&dir);
    const ALL: u32 = 6000;
    const KAFKA: SinkId = SinkId::Stream4;
    let turn = Turn::with(KAFKA);
    // Twenty calls, whose records are spread over all partitions.
    let of_call = |n: u32| {
        let record = numbered(n);
        Record { core: Core { callid: format!("call-{}@h", n % 20).into_bytes(), ..record.core.clone() }, ..record }
    };
    for n in 0..ALL {
        w.append_record(KAFKA, &of_call(n)).unwrap();
    }
    // Not the leader (the library looks for it), timed out, too few replicas, an error of the broker.
    cluster.answer(&[0, 6, 0, 7, 0, 19, 0, 0, 65_535, 0, 6, 19, 0, 0, 7]);
    let url = format!("kafka://{}/acc?name=stream4", cluster.brokers);
    let running = Running::start(streaming(&url, &journal), &dir);
    wait_until("all records", || turn.delivered() == u64::from(ALL));
    assert!(!said(&["stream4: ", "too few replicas in step"]).is_empty());
    let all = stored(&cluster.brokers);
    let mut ids = BTreeSet::new();
    for partition in &all {
        assert!(partition.len() > 100, "the keys are not spread");
        let mut last: BTreeMap<&[u8], u32> = BTreeMap::new();
        for r in partition {
            let id = r.body["acc_id"].as_str().unwrap();
            let n = u32::from_str_radix(&id[24..], 16).unwrap();
            assert_eq!((r.body["callid"].as_str().unwrap().as_bytes(), &*r.headers["ce_id"]), (&*r.key, id.as_bytes()));
            // A copy is no step back.
            if ids.insert(id.to_owned()) {
                assert!(last.insert(&r.key, n).is_none_or(|before| before < n), "{id} came late");
            }
        }
    }
    assert_eq!(ids, (0..ALL).map(id_of).collect());
    // A call's records are in one partition.
    let of_one = all.iter().filter(|partition| partition.iter().any(|r| r.key == b"call-7@h")).count();
    assert_eq!(of_one, 1);
    let first = &all.iter().flatten().next().unwrap().headers;
    assert_eq!((&*first["content-type"], &*first["ce_type"]), (&b"application/json"[..], &b"opensips.acc.cdr.v1"[..]));

    // Too large: in halves until it is alone, then dead. What is larger than a broker takes at all is clipped.
    cluster.answer(&[10, 10, 10]);
    for n in ALL..ALL + 3 {
        w.append_record(KAFKA, &Record { core: Core { callid: b"one".to_vec(), ..of_call(n).core }, ..of_call(n) }).unwrap();
    }
    wait_until("one is dead", || turn.dead() == 1);
    wait_until("the others are there", || turn.delivered() == u64::from(ALL) + 2);
    let dead = std::fs::read_to_string(journal.join(DeadLetters::file_name(KAFKA))).unwrap();
    assert!(dead.contains("the broker refuses it: MessageTooLarge"), "{dead}");
    let clipped = stats::get(Counter::Clipped);
    let long = Field { name: "long".into(), value: Some(vec![b'x'; 2_000_000]) };
    w.append_record(KAFKA, &Record { extras: vec![long], ..of_call(ALL + 3) }).unwrap();
    wait_until("a long one", || turn.delivered() == u64::from(ALL) + 3);
    assert_eq!(stats::get(Counter::Clipped), clipped + 1);
    let all = stored(&cluster.brokers);
    let long = all.iter().flatten().find(|r| r.body["acc_id"] == id_of(ALL + 3)).unwrap();
    assert!((100_000..900_000).contains(&long.body["extra"]["long"].as_str().unwrap().len()));
    running.stop();

    // No such topic, and nobody there.
    drop((w, dir));
    let dir = Dir::open(&journal).unwrap();
    append(&mut records(&dir), SinkId::Stream, ALL + 10..ALL + 11);
    drop(dir);
    for (url, part) in [
        (format!("kafka://{}/other", cluster.brokers), "there is no topic other, or the user may not see it: kafka-topics.sh --create --topic other"),
        ("kafka://127.0.0.1:1/acc".to_owned(), "Kafka at 127.0.0.1:1 cannot be used"),
    ] {
        let out = deliver(&journal, &url).args(["--seconds", "15"]).output().unwrap();
        let text = String::from_utf8_lossy(&[&*out.stdout, &out.stderr].concat()).into_owned();
        assert!(!out.status.success() && text.contains(part), "{part}: {text}");
    }
}

/// With a certificate of each side, of which the other one knows the authority. The mock cluster has no TLS: it is in front.
#[test]
fn records_go_over_tls() {
    let guard = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = guard.local_addr().unwrap().port();
    let Some(cluster) = MockKafka::behind(Some(port)) else { return };
    assert_eq!(cluster.brokers, format!("127.0.0.1:{port}"));
    let certificates = Certificates::make();
    certificates.guard(guard, cluster.port);
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    append(&mut records(&dir), SinkId::Stream, 0..300);
    drop(dir);
    for (options, cause) in [
        (certificates.wrong_options(), Some("invalid peer certificate: UnknownIssuer")),
        (certificates.options_of_nobody(), Some("CertificateRequired")),
        (certificates.options(), None),
    ] {
        let out = deliver(tmp.path(), &format!("kafka://{}/acc?{options}", cluster.brokers)).args(["--seconds", "15"]).output().unwrap();
        let text = String::from_utf8_lossy(&[&*out.stdout, &out.stderr].concat()).into_owned();
        assert!(out.status.success() == cause.is_none() && text.contains(cause.unwrap_or("stream: 300 delivered, 0 dead")), "{text}");
    }
}
