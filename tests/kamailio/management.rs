//! RPC commands, counters and the event of a backlog.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::common;
use super::common::diameter::freediameter;
use super::common::servers::free_port;
use super::phones::{begin, call, play};
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
        server.wait("the call is up", || server.rpc(&["acc.open_calls"]).contains("count: 1"));
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

/// What `acc.status` tells of each Diameter peer, by its name: state, whether it is active, and failovers.
fn peers(server: &Server) -> BTreeMap<String, (String, bool, u64)> {
    let text = server.rpc(&["acc.status"]);
    let of = |part: &str, name: &str| part.lines().find_map(|l| Some(l.trim().strip_prefix(name)?.strip_prefix(": ")?.to_owned())).unwrap();
    let parts = text.split("destination: diameter").skip(1);
    parts.map(|part| (of(part, "peer"), (of(part, "state"), of(part, "active") == "1", of(part, "failovers").parse().unwrap()))).collect()
}

/// The second peer takes records as long as it is there; there is never a first one.
#[test]
fn diameter_peers_have_their_states() {
    if skipped() {
        return;
    }
    let Some(mut taker) = freediameter("", &[], None) else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("peers.conf");
    let nobody = taker.line().replace("srv.acc.test", "away.acc.test").replace(&taker.port.to_string(), &free_port().to_string());
    std::fs::write(&file, format!("Identity = \"sip1.acc.test\"; Realm = \"acc.test\";\n{nobody}{}", taker.line())).unwrap();
    let server = Server::start(2, &[define("TYPES", "log|diameter"), define("DIAMETER_URL", file.display())]);
    let are = |away: (&str, bool), srv: (&str, bool)| {
        let of = |(state, active): (&str, bool)| (state.to_owned(), active, 0);
        peers(&server) == BTreeMap::from([("away.acc.test".into(), of(away)), ("srv.acc.test".into(), of(srv))])
    };
    server.wait("a peer takes records", || are(("down", false), ("okay", true)));
    play(&server, vec![call("told", "a", "caller", &["callee"])]);
    server.wait("its record", || server.status("diameter_delivered") == Some(1));
    assert_eq!(taker.lines().len(), 1);
    taker.kill();
    server.wait("the peer is down", || are(("down", false), ("down", false)));
    taker.run();
    server.wait("it is back", || are(("down", false), ("okay", true)));
}
