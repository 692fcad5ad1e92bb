//! Calls in progress when the server crashes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::phones::begin;
use super::server::{Database, Server, get, port, quoted, skipped, summary};

#[test]
fn a_crash_ends_calls_without_a_dialog() {
    if skipped() {
        return;
    }
    let server = Server::start(4, &[]);
    let (_callee, _caller) = begin(&server, "lost");
    let server = server.crash_and_restart(&[]);
    server.wait("the CDR", || server.rows("acc", "lost").len() == 1);
    // Nothing was heard of the server after the answer: it ends there.
    assert_eq!(summary(&server, "lost"), "call ended 200, acc 200");
    let line = &server.lines("call ended", "lost")[0];
    assert_eq!((get(line, "caller"), get(line, "answered_by")), ("caller1", "200"));
    assert!((0..6000).contains(&get(line, "ms_duration").parse::<i64>().unwrap()), "{line:?}");
}

#[test]
fn a_crash_loses_no_call_that_the_dialog_module_keeps() {
    if skipped() {
        return;
    }
    let tables = Path::new("/usr/share/kamailio/db_sqlite");
    if !tables.join("dialog-create.sql").is_file() || !Path::new("/usr/lib/x86_64-linux-gnu/kamailio/modules/db_sqlite.so").is_file() {
        eprintln!("skipped: kamailio-sqlite-modules is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("dialog.sqlite");
    for script in ["standard-create.sql", "dialog-create.sql"] {
        let input = std::fs::File::open(tables.join(script)).unwrap();
        assert!(Command::new("sqlite3").arg(&database).stdin(input).status().unwrap().success());
    }
    let more = [format!("DIALOG_DB={}", quoted(format_args!("sqlite:///{}", database.display())))];
    let server = Server::start_in(dir, Database::Sqlite, port(), 4, &more);
    let (_callee, mut caller) = begin(&server, "kept");
    let server = server.crash_and_restart(&more);
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
