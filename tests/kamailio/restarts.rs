//! Calls in progress when the server ends or crashes, and a delivery process that is killed.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::common;
use super::phones::{Sipp, begin, begin_for};
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
pub fn keeping_dialogs() -> Option<(Server, Vec<String>)> {
    keeping_dialogs_with(&[])
}

/// The file with the dialogs.
const DIALOGS: &str = "dialog.sqlite";

/// The same with more definitions.
fn keeping_dialogs_with(further: &[String]) -> Option<(Server, Vec<String>)> {
    if skipped() {
        return None;
    }
    let tables = Path::new("/usr/share/kamailio/db_sqlite");
    if !tables.join("dialog-create.sql").is_file() || !Path::new("/usr/lib/x86_64-linux-gnu/kamailio/modules/db_sqlite.so").is_file() {
        eprintln!("skipped: kamailio-sqlite-modules is not installed");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join(DIALOGS);
    for script in ["standard-create.sql", "dialog-create.sql"] {
        let input = std::fs::File::open(tables.join(script)).unwrap();
        assert!(Command::new("sqlite3").arg(&database).stdin(input).status().unwrap().success());
    }
    let more = [&[define("DIALOG_DB", format_args!("sqlite:///{}", database.display()))], further].concat();
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

/// The dialog module takes a dialog out of its database when the transaction of the BYE goes, some seconds behind the end of the
/// call. Whoever starts meanwhile gets it back, as one that is up, and so do the starts behind that one.
#[test]
fn a_call_that_is_over_has_no_second_cdr_when_its_dialog_comes_back() {
    let Some((mut server, more)) = keeping_dialogs_with(&["-ACDRS".into()]) else { return };
    let (_callee, mut caller) = begin_for(&server, "over", Duration::from_secs(1));
    caller.wait("the call", Duration::from_secs(60));
    let cdrs = |server: &Server| server.log().lines().filter(|l| l.contains("; end_time=")).count();
    let dialogs = |server: &Server, sql: &str| common::sqlite(&server.dir.path().join(DIALOGS), sql).unwrap_or_default().trim().to_string();
    server.wait("the CDR", || cdrs(&server) == 1 && server.rows("acc", "over").len() == 1);
    for end in [End::Orderly, End::Killed, End::Orderly, End::Killed] {
        server.end(end);
        assert_eq!(dialogs(&server, "SELECT count(*), max(state) FROM dialog"), "1\t4", "it is there, and confirmed");
        server = server.restart(&more);
        assert!(server.rpc(&["dlg.list"]).contains("over-"));
    }
    // Its lifetime is over, too.
    server.end(End::Orderly);
    let file = server.dir.path().join(DIALOGS);
    assert!(Command::new("sqlite3").arg(file).arg("UPDATE dialog SET timeout = 1").status().unwrap().success());
    let server = server.restart(&more);
    // Whoever looks into the file meanwhile may keep the server from it.
    server.wait("the end of the dialog", || server.log().contains("dlg timeout - callid: 'over-"));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((cdrs(&server), server.rows("acc", "over").len()), (1, 1));
    assert!(!server.log().contains("that the journal does not know"));
}
