//! What Kamailio's own module does with few parameters.

use super::phones::{call, play};
use super::server::{Database, Server, get, port, skipped};

#[test]
fn records_by_hand_and_cdrs_need_no_flags() {
    if skipped() {
        return;
    }
    let server = Server::start_config("plain.cfg", tempfile::tempdir().unwrap(), Database::Sqlite, port(), 2, &[]);
    // Of the phones that ring at once, the 404 is what the caller gets, whenever it comes. A phone that is not there makes a 408.
    let forks: [(_, &[_]); 3] = [("first", &["callee_404", ""]), ("before", &["callee_404", "callee_486_late"]), ("after", &["callee_486", "callee_404_late"])];
    let mut calls = vec![call("answered", "a", "caller", &["callee"])];
    calls.extend(forks.map(|(name, callees)| call(name, "f", "caller_refused", callees)));
    let ports = play(&server, calls);
    let log = || server.log();
    server.wait("the CDRs", || log().matches("; call=").count() == 4);
    let cdr = |name: &str| {
        let log = log();
        let line = log.lines().find_map(|line| line.split_once(&format!("; call={name}-"))).unwrap_or_else(|| panic!("{name}")).1;
        line.split_once("; ").unwrap().1.to_string()
    };
    assert!(cdr("answered").starts_with("code=; phrase=; user=sent-on; agent=ua-"), "{}", cdr("answered"));
    for (name, winner) in [("first", 0), ("before", 0), ("after", 1)] {
        assert_eq!(cdr(name), format!("code=404; phrase=Not Found; user=; agent=phone; port={}", ports[name][winner]), "{name}");
    }

    for name in ["answered", "first"] {
        let lines = server.lines("request accounted", name);
        let line = &lines[0];
        let names: Vec<_> = line.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["timestamp", "time_attr", "method", "from_tag", "to_tag", "call_id", "code", "reason"]);
        assert_eq!((get(line, "code"), get(line, "reason")), ("404", ""));
        assert_eq!((get(&lines[1], "code"), get(&lines[1], "reason")), ("405", "Both"));
    }
}

/// The dialog of a refused INVITE is there for some seconds; the next one has its Call-ID and From tag, and a dialog of its own.
#[test]
fn dialog_variables_are_those_of_the_attempt() {
    if skipped() {
        return;
    }
    let server = Server::start_config("plain.cfg", tempfile::tempdir().unwrap(), Database::Sqlite, port(), 2, &["-AFLAG".into()]);
    play(&server, vec![call("again", "a", "caller_again", &["callee_407"])]);
    let shown: Vec<_> = server.lines("transaction answered", "again").iter().map(|l| [get(l, "code"), get(l, "attempt")].join(" ")).collect();
    assert_eq!(shown, ["407 1", "200 2"]);
}
