//! Calls in progress when the server ends or crashes, and a delivery process that is killed.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::phones::{Sipp, begin};
use super::server::{Database, End, Server, define, get, port, skipped, summary};

#[test]
fn a_killed_delivery_process_is_started_again() {
    if skipped() {
        return;
    }
    const CALLS: usize = 300;
    let server = Server::start(4, &[]);
    let callee = port();
    let _callee = Sipp::start(&server, "callee", callee, &[]);
    std::thread::sleep(Duration::from_millis(300));
    let (target, user, calls) = (format!("127.0.0.1:{}", server.port), format!("a{callee}"), CALLS.to_string());
    let mut caller = Sipp::start(&server, "caller", port(), &[&target, "-s", &user, "-m", &calls, "-r", "50", "-d", "300", "-cid_str", "killed-%u-%p@%s"]);
    for kills in 1..=3 {
        std::thread::sleep(Duration::from_millis(700));
        let pid = server.delivery_process().expect("a delivery process");
        assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
        server.wait("its successor", || server.delivery_process().is_some_and(|p| p != pid));
        assert_eq!(server.status("delivery_restarts"), Some(kills));
    }
    caller.wait("the calls", Duration::from_secs(120));
    server.wait("the records", || server.rows("acc", "killed").len() >= CALLS);
    server.settle();

    let rows = server.rows("acc", "killed");
    let calls: HashSet<_> = rows.iter().map(|r| &r["callid"]).collect();
    assert_eq!((rows.len(), calls.len()), (CALLS, CALLS), "one row for each call");
    assert_eq!((server.status("db_accepted"), server.status("db_delivered")), (Some(CALLS as u64), Some(CALLS as u64)));
    assert!(server.log().contains("the delivery process was ended by signal 9; it is started again in 100 ms"));
}

fn calls_end_without_a_dialog(end: End) {
    if skipped() {
        return;
    }
    let server = Server::start(4, &[]);
    let (_callee, _caller) = begin(&server, "lost");
    let server = server.end_and_restart(end, &[]);
    server.wait("the CDR", || server.rows("acc", "lost").len() == 1);
    // It ends when the server was last heard of: at the answer, or when it stopped.
    let once = summary(&server, "lost");
    assert_eq!(once.trim_end_matches(" cdr"), "call ended 200, acc 200");
    let line = &server.lines("call ended", "lost")[0];
    assert_eq!((get(line, "caller"), get(line, "answered_by"), get(line, "end_cause")), ("caller1", "200", "orphan"));
    assert!((0..6000).contains(&get(line, "ms_duration").parse::<i64>().unwrap()), "{line:?}");
    // A later start does not report it again.
    let server = server.end_and_restart(end, &[]);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(summary(&server, "lost"), once);
}

#[test]
fn a_crash_ends_calls_without_a_dialog() {
    calls_end_without_a_dialog(End::Killed);
}

#[test]
fn calls_up_at_an_orderly_stop_end_at_the_next_start() {
    calls_end_without_a_dialog(End::Orderly);
}

/// A server whose dialogs are kept in a database, and what it was started with.
pub fn keeping_dialogs() -> Option<(Server, [String; 1])> {
    if skipped() {
        return None;
    }
    let tables = Path::new("/usr/share/kamailio/db_sqlite");
    if !tables.join("dialog-create.sql").is_file() || !Path::new("/usr/lib/x86_64-linux-gnu/kamailio/modules/db_sqlite.so").is_file() {
        eprintln!("skipped: kamailio-sqlite-modules is not installed");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("dialog.sqlite");
    for script in ["standard-create.sql", "dialog-create.sql"] {
        let input = std::fs::File::open(tables.join(script)).unwrap();
        assert!(Command::new("sqlite3").arg(&database).stdin(input).status().unwrap().success());
    }
    let more = [define("DIALOG_DB", format_args!("sqlite:///{}", database.display()))];
    Some((Server::start_in(dir, Database::Sqlite, port(), 4, &more), more))
}

fn calls_go_on_with_their_dialogs(end: End) {
    let Some((server, more)) = keeping_dialogs() else { return };
    let (_callee, mut caller) = begin(&server, "kept");
    let server = server.end_and_restart(end, &more);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(summary(&server, "kept"), "", "not ended: its dialog is back");
    caller.wait("the call", Duration::from_secs(60));
    server.wait("the CDR", || server.rows("acc", "kept").len() == 1);
    assert_eq!(summary(&server, "kept"), "call ended 200, acc 200 cdr");
    let line = &server.lines("call ended", "kept")[0];
    assert_eq!((get(line, "caller"), get(line, "ended_by")), ("caller1", "caller1"));
    let duration: i64 = get(line, "ms_duration").parse().unwrap();
    assert!((5900..9000).contains(&duration), "the whole call: {duration}");
}

#[test]
fn a_crash_loses_no_call_that_the_dialog_module_keeps() {
    calls_go_on_with_their_dialogs(End::Killed);
}

#[test]
fn calls_that_come_back_after_an_orderly_stop_are_written_once() {
    calls_go_on_with_their_dialogs(End::Orderly);
}
