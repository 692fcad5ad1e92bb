//! What Kamailio's own module does with few parameters.

use super::phones::{call, play};
use super::server::{Database, Server, get, port, skipped};

#[test]
fn records_by_hand_and_cdrs_need_no_flags() {
    if skipped() {
        return;
    }
    let server = Server::start_config("plain.cfg", tempfile::tempdir().unwrap(), Database::Sqlite, port(), 2, &[]);
    // The second phone of the other call is not there, and its 408 comes last: the 404 before it is what the caller gets.
    play(&server, vec![call("answered", "a", "caller", &["callee"]), call("refused", "f", "caller_refused", &["callee_404", ""])]);
    let cdrs = || {
        let log = server.log();
        let mut all: Vec<_> = log.lines().filter_map(|line| Some(line.split_once("; call=")?.1.to_string())).collect();
        all.sort();
        all
    };
    server.wait("the CDRs", || cdrs().len() == 2);
    let shown: Vec<_> = cdrs().iter().map(|cdr| cdr.split_once("; ").unwrap().1.to_string()).collect();
    assert_eq!(shown, ["code=; phrase=; user=sent-on", "code=404; phrase=Not Found; user="], "{:?}", cdrs());

    for name in ["answered", "refused"] {
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
