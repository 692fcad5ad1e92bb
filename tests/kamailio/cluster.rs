//! Two servers whose dialog modules tell each other of dialogs over DMQ, one database for both. The phones take
//! their calls from one server to the other as they do when an address moves.

use std::path::Path;
use std::time::Duration;

use super::forks::Leg;
use super::server::{Database, End, Server, define, get, port, skipped};
use super::wire::Transport;

/// Calls in each situation.
const CALLS: usize = 4;

/// Server A has the calls first, server B takes them over.
struct Pair {
    a: Server,
    b: Server,
    of_a: Vec<String>,
    of_b: Vec<String>,
}

impl Pair {
    fn start(more: &[String]) -> Option<Pair> {
        if skipped() {
            return None;
        }
        if !Path::new("/usr/lib/x86_64-linux-gnu/kamailio/modules/dmq.so").is_file() {
            eprintln!("skipped: Kamailio's module dmq is not installed");
            return None;
        }
        let (a, b) = (port(), port());
        let address = |name, port| define(name, format_args!("sip:127.0.0.1:{port}"));
        let node = |own, other| [address("DMQ_SELF", own), address("DMQ_PEER", other)].into_iter().chain(more.iter().cloned()).collect::<Vec<_>>();
        let (of_a, of_b) = (node(a, b), node(b, a));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("acc.sqlite");
        let a = Server::start_in(dir, Database::Shared(file.clone()), a, 4, &of_a);
        let b = Server::start_in(tempfile::tempdir().unwrap(), Database::Shared(file), b, 4, &of_b);
        let pair = Pair { a, b, of_a, of_b };
        pair.meet();
        Some(pair)
    }

    /// Waits until each knows the other.
    fn meet(&self) {
        for (server, other) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let is_active = |node: &str| node.contains(&format!("port: {}", other.port)) && node.contains("status: active");
            server.wait("the other node", || server.rpc(&["dmq.list_nodes"]).split('{').any(is_active));
        }
    }

    /// Calls in progress that came by A. B knows of each before it is answered: DMQ does not keep the order of its
    /// messages, and what comes before its dialog is lost.
    fn dial(&self, name: &str) -> Vec<Leg> {
        let call = |n| {
            let callid = format!("{name}-{n}-end");
            let mut call = Leg::new(Transport::Udp, self.a.port, &callid, 'A', 'a');
            call.play('i');
            self.b.wait("the dialog", || !dialogs(&self.b, &callid).is_empty());
            "ra".chars().for_each(|step| call.play(step));
            call
        };
        (0..CALLS).map(call).collect()
    }

    fn both_know(&self, name: &str) {
        for server in [&self.a, &self.b] {
            server.wait("the answered dialogs", || dialogs(server, name) == [ANSWERED; CALLS]);
        }
    }

    /// Waits for the CDRs of the calls of that name, and for whatever might come beside them: A wrote each, once, with
    /// this cause of the end. B, which has the dialog and none of its accounting, wrote nothing.
    fn written_by_a(&self, name: &str, cause: &str) {
        self.a.wait("the CDRs", || self.a.rows("acc", name).len() >= CALLS);
        std::thread::sleep(Duration::from_secs(3));
        for server in [&self.a, &self.b] {
            server.settle();
        }
        assert_eq!(causes(&self.a, name), [cause; CALLS], "{name}: in the log of A");
        assert_eq!(causes(&self.b, name), [""; 0], "{name}: in the log of B");
        let rows: Vec<_> = self.a.rows("acc", name).iter().map(|r| r["end_cause"].clone()).collect();
        assert_eq!(rows, [cause; CALLS], "{name}: in SQL");
    }

    fn nothing_is_written(&self, name: &str) {
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!((causes(&self.a, name), causes(&self.b, name)), (vec![], vec![]), "{name}");
    }
}

/// As Kamailio numbers the states of a dialog.
const ANSWERED: &str = "4";

/// States of the dialogs whose Call-ID begins so.
fn dialogs(server: &Server, call: &str) -> Vec<String> {
    let all = server.rpc(&["dlg.list"]);
    let value = |dialog: &str, name: &str| dialog.lines().find_map(|l| l.trim().strip_prefix(name).map(|v| v.trim().to_string()));
    let of_call = all.split("h_entry").filter(|d| value(d, "call-id:").is_some_and(|v| v.starts_with(call)));
    of_call.filter_map(|d| value(d, "state:")).collect()
}

/// Causes of the end in the CDRs that a server wrote to its log.
fn causes(server: &Server, call: &str) -> Vec<String> {
    server.lines("call ended", call).iter().map(|l| get(l, "end_cause").to_string()).collect()
}

fn hang_up(calls: &mut [Leg], at: &Server) {
    for call in calls {
        call.move_to(at.port);
        call.play('h');
    }
}

#[test]
fn a_call_that_comes_back_to_its_server_has_its_cdr() {
    let Some(mut pair) = Pair::start(&[]) else { return };
    let mut calls = pair.dial("same");
    pair.both_know("same");
    hang_up(&mut calls, &pair.a);
    pair.written_by_a("same", "bye");

    let mut calls = pair.dial("kept");
    pair.both_know("kept");
    for end in [End::Killed, End::Orderly] {
        pair.b = pair.b.end_and_restart(end, &pair.of_b);
        pair.both_know("kept");
        pair.nothing_is_written("kept");
    }
    hang_up(&mut calls, &pair.a);
    pair.written_by_a("kept", "bye");
}

#[test]
fn a_call_that_ends_at_the_other_server_is_written_by_its_own() {
    let Some(pair) = Pair::start(&[]) else { return };
    let mut calls = pair.dial("moved");
    pair.both_know("moved");
    hang_up(&mut calls, &pair.b);
    // Without a word of who hung up: DMQ does not say.
    pair.written_by_a("moved", "orphan");
}

#[test]
fn a_call_that_outlives_its_server_is_written_when_that_is_back() {
    let Some(mut pair) = Pair::start(&[]) else { return };
    for (name, end) in [("killed", End::Killed), ("stopped", End::Orderly)] {
        let mut calls = pair.dial(name);
        pair.both_know(name);
        pair.a.end(end);
        hang_up(&mut calls, &pair.b);
        pair.b.wait("the end of the dialogs", || !dialogs(&pair.b, name).iter().any(|state| state == ANSWERED));
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(causes(&pair.b, name), [""; 0], "{name}");
        pair.a = pair.a.restart(&pair.of_a);
        pair.written_by_a(name, "orphan");
        pair.meet();
    }
}

#[test]
fn a_call_whose_dialog_comes_back_over_dmq_ends_with_its_server() {
    let Some(mut pair) = Pair::start(&[]) else { return };
    let mut calls = pair.dial("back");
    pair.both_know("back");
    pair.a = pair.a.end_and_restart(End::Killed, &pair.of_a);
    pair.both_know("back");
    // The dialog module does not say that it has them again.
    pair.written_by_a("back", "orphan");
    hang_up(&mut calls, &pair.a);
    pair.written_by_a("back", "orphan");
}

#[test]
fn a_lifetime_that_is_over_on_both_servers_is_written_once() {
    let Some(pair) = Pair::start(&[define("SHORT_LIVES", "")]) else { return };
    pair.dial("life");
    pair.written_by_a("life", "timeout");
    // Requests in the call prolong its life on A; B has it end on both.
    for mut call in pair.dial("longer") {
        std::thread::sleep(Duration::from_secs(1));
        call.play('u');
    }
    pair.written_by_a("longer", "timeout");
}
