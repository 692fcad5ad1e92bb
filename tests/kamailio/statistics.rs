//! Calls are counted, each once, however it branches and whatever accounts it.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use super::flags;
use super::phones::{begin_for, call, play};
use super::server::{End, Server, skipped};

/// What the server counts of calls; what is 0 is left out.
pub fn counted(server: &Server) -> String {
    let text = server.rpc(&["acc.status"]);
    let all: BTreeMap<_, _> = text.lines().filter_map(|l| l.trim().strip_prefix("calls_")?.split_once(": ")).collect();
    assert!(all.len() > 8, "{text}");
    let shown = all.into_iter().filter(|(name, n)| *name != "seconds" && *n != "0");
    shown.map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}

/// The same, as `accctl metrics` has it from the journal.
fn kept(server: &Server) -> BTreeMap<String, u64> {
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).arg("metrics").arg(server.dir.path().join("journal")).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().filter_map(|l| l.strip_prefix("acc_calls_")?.split_once(' ')).map(|(name, n)| (name.to_string(), n.parse().unwrap())).collect()
}

#[test]
fn calls_are_counted_once_each() {
    if skipped() {
        return;
    }
    let server = Server::start(4, &[]);
    play(
        &server,
        vec![
            call("answered", "a", "caller", &["callee"]),
            call("calleebye", "a", "caller_waits", &["callee_hangs_up"]),
            // Accounted without a CDR, and so is its BYE.
            call("asis", "w", "caller_waits", &["callee_hangs_up"]),
            call("busy", "a", "caller_refused", &["callee_486"]),
            call("notfound", "a", "caller_refused", &["callee_404"]),
            call("cancelled", "c", "caller_cancels", &["callee_rings"]),
            call("timeout", "t", "caller_refused", &[""]),
            // One missed record, then an answer.
            call("serial", "s", "caller", &["callee_486", "callee"]),
            // Two missed records of one call.
            call("serialbusy", "s", "caller_refused", &["callee_486", "callee_404"]),
            call("parallel", "f", "caller", &["callee_486", "callee"]),
            call("reinvite", "a", "caller_reinvites", &["callee_reinvited"]),
            call("message", "a", "caller_message", &["callee_message"]),
        ],
    );
    let due = "answered 6, ended 5, failed_4xx 5, failed_user 3, missed 6";
    assert_eq!(counted(&server), due);
    // Five of some 1.2 s; every one is counted to the millisecond.
    let seconds = server.status("calls_seconds").unwrap();
    let of_rows: u64 = server.ask("SELECT sum(ms_duration) FROM (SELECT DISTINCT callid, ms_duration FROM acc)").trim().parse().unwrap();
    assert_eq!(seconds, of_rows / 1000);

    // It is up until the server is killed, however slow the machine is.
    let (_callee, mut caller) = begin_for(&server, "open", Duration::from_secs(120));
    server.wait("a call is up", || server.status("calls_open") == Some(1));
    // Within a second they are in the journal directory; there they stay when the server is killed.
    server.wait("the counters are kept", || kept(&server).get("answered_total") == Some(&7));
    assert_eq!(kept(&server)["failed_total{class=\"4xx\"}"], 5);
    let server = server.end_and_restart(End::Killed, &[]);
    // The dialog is gone with the server: the call ends as an orphan.
    server.wait("the orphan's CDR", || server.status("calls_ended") == Some(1));
    assert_eq!(counted(&server), "ended 1");
    let _ = caller.ended();
    drop(caller);
    std::thread::sleep(Duration::from_millis(10));
}

/// Message flags, `cdr_enable` and `do_accounting()` account the same calls: all of them are counted once.
#[test]
fn surfaces_side_by_side_count_a_call_once() {
    if skipped() {
        return;
    }
    let callee = flags::Callee::start();
    let server = flags::start_with(&callee, &["-ABESIDE".into()]);
    let calls: Vec<_> = ["a1", "a2", "a3", "b1", "b2", "s1", "l1"].map(String::from).into();
    flags::play(server.port, &calls, 2);
    // A phone has its reply before the last records are made.
    server.wait("do_accounting() had the calls, too", || server.lines("call ended", "").len() == 4);
    server.wait("and so had cdr_enable", || server.ask("SELECT count(*) FROM acc_cdrs").trim() == "7");
    let due = "answered 4, ended 4, failed_4xx 3, failed_user 2, missed 4";
    server.wait("all are counted", || counted(&server) == due);
    server.settle();
    assert_eq!(counted(&server), due);
}

/// Dialogs with CDRs of their own count as well, also where the dialog module tells of them with the transaction only.
#[test]
fn dialogs_with_their_own_cdrs_are_counted() {
    if skipped() {
        return;
    }
    for more in [None, Some("-ALATE_DIALOGS")] {
        let callee = flags::Callee::start();
        let definitions: Vec<String> = ["-ACDRS_ALONE"].into_iter().chain(more).map(String::from).collect();
        let server = flags::start_with(&callee, &definitions);
        let calls: Vec<_> = ["a1", "a2", "b1", "s1", "l1"].map(String::from).into();
        flags::play(server.port, &calls, 2);
        server.wait("the CDRs", || server.ask("SELECT count(*) FROM acc_cdrs").trim() == "5");
        server.wait("all are counted", || counted(&server) == "answered 3, ended 3, failed_4xx 2, failed_user 1");
    }
}
