//! PostgreSQL behind PgBouncer, which hands a connection on after every transaction, and whose other clients
//! leave on it what they like; and the session's time zone, with and without it.
#![forbid(unsafe_code)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use acc::accounting::record::Kind;
use acc::journal::{Dir, SinkId};
use acc::stats;
use common::servers::{PASSWORD, pgbouncer, postgres, postgres_with};
use common::*;

/// Of each server.
const CALLS: usize = 60;
/// What another client leaves behind: statements under the names that drivers use, a search path where
/// there is a table `acc` as well, and a clock.
const LEFT: &str = "PREPARE s0 AS SELECT 1; PREPARE s1 AS SELECT 2; PREPARE sqlx_s_1 AS SELECT 3; PREPARE sqlx_s_2 AS SELECT 4; PREPARE sqlx_s_3 AS SELECT 5;
    SET search_path TO elsewhere; SET TIME ZONE 'Asia/Tokyo';";

/// Stops the other clients, whatever comes of the test.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn two_servers_share_a_pool_of_two_with_others() {
    let Some(server) = postgres() else { return skip("PostgreSQL") };
    let Some(pooler) = pgbouncer(&server) else { return skip("PgBouncer") };
    let url = format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/postgres", pooler.port);
    accctl_in_zone(&["schema", "--apply", "--url", &url, "--extra", "a->caller_uri; b->x_note"]);
    server.sql(
        "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.acc (LIKE acc INCLUDING ALL); CREATE TABLE elsewhere.acc_delivery (LIKE acc_delivery INCLUDING ALL)",
    );
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = pooler.sql(LEFT);
                }
            });
        }
        let stop = Stop(&over);
        wait_until("what others leave", || server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%Tokyo%'").trim() != "0");
        let outages = stats::get(SinkId::Db.counters().outages);
        let mut servers: Vec<_> = (0..2)
            .map(|_| {
                let tmp = tempfile::tempdir().unwrap();
                let dir = Dir::open(tmp.path()).unwrap();
                let running = Running::start(config(Some(&url), tmp.path()), &dir);
                (tmp, writer(&dir, 1), running)
            })
            .collect();
        for call in 0..CALLS {
            for (n, (_, writer, _)) in servers.iter_mut().enumerate() {
                writer.append_record(SinkId::Db, &record(Kind::Cdr, &format!("{n}-{call}"))).unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        wait_until("the rows", || server.count("acc") == 2 * CALLS);
        drop(stop);
        servers.into_iter().for_each(|(_, _, running)| running.stop());
        assert_eq!(stats::get(SinkId::Db.counters().outages), outages);
    });
    assert_eq!(server.sql("SELECT count(*), count(DISTINCT callid) FROM acc").trim(), "120\t120");
    assert_eq!(server.count("elsewhere.acc") + server.count("elsewhere.acc_delivery"), 0);
}

#[test]
fn the_time_zone_is_the_administrators() {
    let Some(server) = postgres_with(vec!["-c".into(), "timezone=America/New_York".into()]) else { return skip("PostgreSQL") };
    let url = |port| format!("postgres://acc:{PASSWORD}@127.0.0.1:{port}/postgres");
    accctl_in_zone(&["schema", "--apply", "--url", &url(server.port), "--extra", "a->caller_uri; b->x_note"]);
    server.sql(
        "ALTER TABLE acc ADD made TIMESTAMP DEFAULT now(), ADD touched TIMESTAMP, ADD instant TIMESTAMPTZ DEFAULT now(), ALTER created TYPE TIMESTAMPTZ;
         CREATE FUNCTION touch() RETURNS trigger AS 'BEGIN NEW.touched = localtimestamp; RETURN NEW; END' LANGUAGE plpgsql;
         CREATE TRIGGER touch BEFORE INSERT ON acc FOR EACH ROW EXECUTE FUNCTION touch()",
    );
    // The server's own, and then that of the database.
    for zone in ["America/New_York", "Europe/Berlin"] {
        if zone == "Europe/Berlin" {
            server.sql("ALTER DATABASE postgres SET timezone TO 'Europe/Berlin'");
        }
        // A pooler's connections keep what they began with.
        let pooler = pgbouncer(&server);
        for url in [Some(server.port), pooler.as_ref().map(|p| p.port)].into_iter().flatten().map(url) {
            for (clock, [time, _]) in ZONE_TIMES {
                server.sql("DELETE FROM acc");
                deliver_in_zone(&url, "acc", &["--db-time", clock]);
                let sql =
                    format!("SELECT time, created AT TIME ZONE 'UTC', made - instant AT TIME ZONE '{zone}', touched - instant AT TIME ZONE '{zone}' FROM acc");
                assert_eq!(server.sql(&sql).trim(), format!("{time}\t2023-11-14 22:13:20\t00:00:00\t00:00:00"), "{url} {zone}");
            }
        }
    }
}
