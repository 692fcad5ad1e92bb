//! One record that the server never acknowledges holds nothing else up: with FreeRADIUS and its own MySQL
//! schema, and with a responder that refuses one in a hundred.

use std::sync::Mutex;
use std::time::Instant;

use acc::backend::one_by_one;
use acc::journal::{Dir, SinkId};
use acc::stats;

use super::common::freeradius::{FreeRadius, SECRET, mysql};
use super::common::servers::{PASSWORD, mariadb_with};
use super::common::{Running, config, wait_until, writer};
use super::faults::{Answer, Responder, Seen};
use super::*;

/// Counters belong to the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn start(dir: &Dir, lines: String, give_up: u32, retries: u32) -> Running {
    let mut config = config(None, dir.path());
    config.delivery_give_up = Some(give_up);
    Running::start_with(dir, move |delivery| {
        delivery.config = config;
        delivery.makers.push(one_by_one(SinkId::Aaa, move || {
            let mut radius = open(&lines);
            (radius.conf.timeout, radius.conf.retries) = (Duration::from_secs(1), retries);
            Ok(Box::new(RadiusClient::new(radius, Options::default())?))
        }));
    })
}

fn dead(dir: &Dir) -> Vec<String> {
    std::fs::read_to_string(dir.path().join("dead-aaa.jsonl")).unwrap_or_default().lines().map(String::from).collect()
}

/// `aaa_retry` is forever.
#[test]
fn what_the_servers_database_refuses_is_dead_and_the_others_are_stored() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let strict = "--sql-mode=STRICT_ALL_TABLES";
    let Some(database) = mariadb_with(vec![strict.into()]) else { return };
    let Some((schema, modules)) = mysql(database.port, "acc", PASSWORD) else { return };
    database.sql(&schema);
    let accounting = "update request {\n &Acct-Unique-Session-Id := \"%{md5:%{Acct-Session-Id}}\"\n}\nsql";
    let Some(server) = FreeRadius::start_with("", &format!("expr {{ }}\n{modules}"), accounting) else { return };
    wait_until("FreeRADIUS runs", || server.log().contains("Ready to process requests"));
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir, 1);
    let mut write = |n: usize| {
        let mut r = record(n);
        if n == 3 {
            r.core.callid = "x".repeat(72).into();
        }
        w.append_record(SinkId::Aaa, &r).unwrap();
    };
    (0..12).for_each(&mut write);
    let running = start(&dir, server.line(SECRET), 2, 1);
    let stored = || database.sql("SELECT count(*) FROM radacct").trim().parse::<usize>().unwrap();
    wait_until("the others", || stored() == 11);
    let counters = SinkId::Aaa.counters();
    wait_until("the refused one waits apart", || stats::get(counters.parked) == 1);
    let outages = stats::get(counters.outages);
    let mut n = 12;
    wait_until("a dead letter", || {
        write(n);
        n += 1;
        std::thread::sleep(Duration::from_millis(200));
        dead(&dir).len() == 1
    });
    let dead = dead(&dir);
    assert!(dead[0].contains(&"x".repeat(72)) && dead[0].contains("refused 2 times") && dead[0].contains("no RADIUS server acknowledged"), "{dead:?}");
    wait_until("all others", || stored() == n - 1);
    assert_eq!((stats::get(counters.parked), stats::get(counters.outages)), (0, outages));
    running.stop();
}

/// One in a hundred, and no other waits for it.
#[tokio::test]
async fn one_in_a_hundred_keeps_none_waiting() {
    const MANY: usize = 3000;
    let refused = |n: usize| n % 100 == 50;
    let server = Responder::start("127.0.0.1", move |s, _| {
        let n: usize = s.callid()[5..].parse().unwrap();
        if refused(n) { vec![] } else { vec![Answer::Good] }
    })
    .await;
    let line = server.line();
    let waited = tokio::task::spawn_blocking(move || {
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let counters = SinkId::Aaa.counters();
        let before = stats::get(counters.delivered);
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let mut w = writer(&dir, 1);
        for n in 0..MANY {
            w.append_record(SinkId::Aaa, &record(n)).unwrap();
        }
        let begin = Instant::now();
        let running = start(&dir, line, 1000, 1);
        wait_until("the others", || stats::get(counters.delivered) >= before + (MANY - MANY / 100) as u64);
        let waited = begin.elapsed();
        wait_until("the refused ones wait apart", || stats::get(counters.parked) == (MANY / 100) as u64);
        assert!(dead(&dir).is_empty());
        running.stop();
        // Another process finds them there.
        let running = start(&dir, String::from("acctserver 127.0.0.1:9:nobody\n"), 1000, 1);
        wait_until("they wait still", || stats::get(counters.parked) == (MANY / 100) as u64);
        running.stop();
        waited
    })
    .await
    .unwrap();
    let taken = server.seen().iter().map(Seen::callid).collect::<std::collections::HashSet<_>>();
    assert_eq!(taken.len(), MANY, "{waited:?}");
}
