//! RPC commands, counters and the event of a backlog.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::common;
use super::phones::begin;
use super::server::{Server, define, skipped};

/// The counters of the server's own group `acc`.
fn counters(server: &Server) -> BTreeMap<String, i64> {
    let text = server.rpc(&["cnt.grp_get_all", "acc"]);
    text.lines().filter_map(|l| l.trim().split_once(": ")).filter_map(|(n, v)| Some((n.to_string(), v.parse().ok()?))).collect()
}

#[test]
fn commands_and_counters_tell_what_goes_on() {
    if skipped() {
        return;
    }
    // The database is away at first.
    let dir = tempfile::tempdir().unwrap();
    let away = dir.path().join("later");
    let more = [define("DB_AWAY", format_args!("sqlite:///{}", away.join("acc.sqlite").display()))];
    let server = Server::start(4, &more);
    let asked = AtomicBool::new(false);
    std::thread::scope(|s| {
        let asker = s.spawn(|| {
            let mut times = 0;
            while !asked.load(Ordering::Relaxed) {
                let c = counters(&server);
                for sink in ["db", "aaa", "log"] {
                    let of = |what: &str| c[&format!("{sink}_{what}")];
                    assert_eq!(of("accepted"), of("delivered") + of("dead") + of("pending") + of("parked"), "{sink}: {c:?}");
                }
                times += 1;
            }
            times
        });
        let (_callee, mut caller) = begin(&server, "open");
        let open = server.rpc(&["acc.open_calls"]);
        assert!(open.contains("count: 1") && open.contains("callid: open-") && open.contains("start: ") && open.contains("age: "), "{open}");
        caller.wait("the call", std::time::Duration::from_secs(60));
        server.wait("the record waits", || server.status("db_pending") == Some(1));
        let status = server.rpc(&["acc.status"]);
        for part in ["version: ", "db_state: outage", "aaa_state: off", "log_state: ok", "db_accepted: 1", "panics: 0"] {
            assert!(status.contains(part), "{part}: {status}");
        }
        std::fs::create_dir(&away).unwrap();
        assert!(server.rpc(&["acc.flush"]).contains("db_pending: "));
        server.wait("delivery", || server.status("db_pending") == Some(0));
        assert!(server.rpc(&["acc.open_calls"]).contains("count: 0"));
        asked.store(true, Ordering::Relaxed);
        assert!(asker.join().unwrap() > 10);
    });
    assert_eq!((counters(&server)["db_delivered"], server.status("db_delivered")), (1, Some(1)));
    assert_eq!(common::sqlite(&away.join("acc.sqlite"), "SELECT count(*) FROM acc").unwrap(), "1\n");
    drop(dir);
}

/// A full journal refuses new requests here as it does elsewhere.
#[test]
fn a_full_journal_refuses_requests() {
    if skipped() {
        return;
    }
    let server = Server::start(2, &["-AMIN_FREE=1048576".into()]);
    server.wait("the journal is full", || server.status("journal_full") == Some(1));
    let (_callee, mut caller) = begin(&server, "refused");
    caller.wait("the call", std::time::Duration::from_secs(60));
    assert_eq!(server.status("db_accepted"), Some(0));
    assert!(server.status("journal_refused") >= Some(1));
    assert!(server.log().contains("do_accounting(): the journal in"), "{}", server.log());
}
