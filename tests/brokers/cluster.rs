//! A JetStream cluster of three servers, as examples/scale-out/nats.sh has it.

use std::collections::BTreeSet;
use std::time::Duration;

use acc::journal::{Dir, SinkId};
use async_nats::jetstream::stream;

use super::nats::{context, runtime, stored};
use super::*;
use crate::common::brokers::Nats;
use crate::common::servers::free_port;

/// Three servers that know each other; the second number of each is its name.
fn three() -> Option<Vec<Nats>> {
    let ports = [(); 3].map(|()| (free_port(), free_port()));
    let place = |port: u16| format!("nats://127.0.0.1:{port}");
    let routes = ports.map(|(_, of_cluster)| place(of_cluster)).join(",");
    let start = |(i, (port, of_cluster)): (usize, (u16, u16))| {
        let (name, of_cluster) = (name_of(i), place(of_cluster));
        Nats::start_at(port, &["-js", "-n", &name, "--cluster_name", "acc", "--cluster", &of_cluster, "--routes", &routes])
    };
    ports.into_iter().enumerate().map(start).collect()
}

fn name_of(i: usize) -> String {
    format!("n{i}")
}

/// The name of the server that leads the stream, and how many of the others have all of it; `None` while nobody knows.
fn leader(port: u16) -> Option<(String, usize)> {
    let asked = async {
        let mut stream = context(port).await.get_stream("ACC").await.ok()?;
        let cluster = stream.info().await.ok()?.cluster.clone()?;
        Some((cluster.leader?, cluster.replicas.iter().filter(|r| r.current && !r.offline).count()))
    };
    runtime().block_on(async { tokio::time::timeout(Duration::from_secs(10), asked).await.ok()? })
}

#[test]
fn a_record_is_stored_once_when_the_leader_dies() {
    const ALL: u32 = 2000;
    const NATS: SinkId = SinkId::Stream2;
    let Some(mut servers) = three() else { return };
    let turn = Turn::with(NATS);
    let config = stream::Config {
        name: "ACC".into(),
        subjects: vec!["acc.>".into()],
        duplicate_window: Duration::from_secs(3600),
        num_replicas: 3,
        ..Default::default()
    };
    // They find each other first, and elect one.
    wait_until("the stream", || runtime().block_on(async { context(servers[0].port).await.create_stream(config.clone()).await.is_ok() }));
    wait_until("its leader", || leader(servers[0].port).is_some_and(|(_, current)| current == 2));

    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = records(&dir);
    append(&mut w, NATS, 0..ALL / 2);
    let hosts = servers.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect::<Vec<_>>().join(",");
    let running = Running::start(streaming(&format!("nats://{hosts}/acc?stream=ACC&name=stream2"), tmp.path()), &dir);
    wait_until("a part", || turn.delivered() > 0);
    let mut name = String::new();
    wait_until("who leads it", || leader(servers[0].port).map(|(now, _)| name = now).is_some());
    let led = (0..3).find(|i| name_of(*i) == name).unwrap();
    servers[led].kill();
    append(&mut w, NATS, ALL / 2..ALL);
    let other = servers[(led + 1) % 3].port;
    wait_until("another leader", || leader(other).is_some_and(|(now, _)| now != name));
    wait_until("all records", || turn.delivered() == u64::from(ALL));
    running.stop();
    let ids = || {
        let all = stored(other);
        (all.len(), all.iter().map(|m| m.body["acc_id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>())
    };
    assert_eq!(ids(), (ALL as usize, (0..ALL).map(id_of).collect()));

    // The one that was away gets what it has missed, and then it may be the only one of those that were there.
    servers[led].start_again();
    wait_until("three copies", || leader(other).is_some_and(|(_, current)| current == 2));
    servers[(led + 1) % 3].kill();
    let third = servers[(led + 2) % 3].port;
    wait_until("a leader of the two", || leader(third).is_some_and(|(_, current)| current >= 1));
    assert_eq!(stored(third).len(), ALL as usize);
}
