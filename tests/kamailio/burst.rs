//! A stranger fills the memory of contexts with huge requests, and then with small ones: calls that
//! are up end with their records, and when the stranger's requests are over there is room for anything.

use std::cell::Cell;

use super::server::{Row, Server, skipped};
use super::wire::{Phone, Transport, header, headers, reply};

/// A caller, its callee, and what stands in every request of theirs.
struct Call {
    caller: Phone,
    callee: Phone,
    callid: String,
    agent: String,
    /// Contact and routes of the answer.
    contact: String,
    routes: String,
}

impl Call {
    fn new(server: &Server, callid: &str, agent: String) -> Call {
        let (caller, callee) = (Phone::new(Transport::Udp, server.port), Phone::new(Transport::Udp, server.port));
        Call { caller, callee, callid: callid.into(), agent, contact: String::new(), routes: String::new() }
    }

    fn say(&mut self, method: &str, cseq: u32, from_tag: &str) {
        let inside = !self.contact.is_empty();
        // "d": a CDR for the log and, of the BYE, a row.
        let (user, port) = (format!("d{}", self.callee.port), self.caller.port);
        let (uri, to_tag) = if inside { (self.contact.clone(), ";tag=callee") } else { (format!("sip:{user}@127.0.0.1"), "") };
        let (callid, agent, routes) = (&self.callid, &self.agent, &self.routes);
        self.caller.send(&format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{method}{callid}\r\n{routes}\
             From: <sip:caller@127.0.0.1>;tag={from_tag}\r\nTo: <sip:{user}@127.0.0.1>{to_tag}\r\nCall-ID: {callid}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:caller@127.0.0.1:{port}>\r\nMax-Forwards: 70\r\nUser-Agent: {agent}\r\nContent-Length: 0\r\n\r\n"
        ));
    }

    fn answer(&mut self, request: &str) {
        let contact = format!("sip:callee@127.0.0.1:{}", self.callee.port);
        self.callee.send(&reply(request, "200 OK", "callee", &contact));
    }

    /// The call is up.
    fn begin(&mut self) {
        self.say("INVITE", 1, "caller");
        let request = self.callee.wait(&["INVITE"], "INVITE");
        self.answer(&request);
        let answer = self.caller.wait(&["SIP/2.0 200"], "INVITE");
        self.contact = header(&answer, "Contact").trim_matches(['<', '>']).to_string();
        self.routes = headers(&answer, "Record-Route").rev().map(|r| format!("Route: {r}\r\n")).collect();
        self.say("ACK", 1, "caller");
        self.callee.wait(&["ACK"], "ACK");
    }

    fn end(&mut self) {
        self.say("BYE", 2, "caller");
        let request = self.callee.wait(&["BYE"], "BYE");
        self.answer(&request);
        self.caller.wait(&["SIP/2.0 200"], "BYE");
    }
}

#[test]
fn a_burst_of_huge_requests_costs_no_record() {
    costs_no_record(16, (27_000, 25_000), &[]);
}

/// The default. The server keeps each request several times, for as long as the memory takes to fill.
#[test]
#[ignore = "takes 4 GB of memory and some minutes"]
fn a_burst_that_fills_the_default_memory_costs_no_record() {
    // The From tag is in two headers of what the server sends on: a datagram that is longer than they may be is not sent,
    // and its transaction does not stay.
    costs_no_record(1024, (30_000, 14_000), &["-m".into(), "4096".into(), "-APATIENCE=60000".into()]);
}

/// `huge`: bytes of the User-Agent and the From tag of the stranger's huge requests.
fn costs_no_record(arena: usize, huge: (usize, usize), more: &[String]) {
    if skipped() {
        return;
    }
    let arguments: Vec<_> = more.iter().cloned().chain([format!("-AARENA={arena}")]).collect();
    let server = Server::start(4, &arguments);
    let status = |counter| server.status(counter).unwrap();
    let mut up: Vec<_> = (0..10).map(|i| Call::new(&server, &format!("up-{i}"), format!("agent {i}"))).collect();
    up.iter_mut().for_each(Call::begin);

    // Nobody answers the stranger.
    let flood = |name: &str, agent: usize, tag: usize, each: usize| {
        let refused = status("arena_full");
        let sent = Cell::new(0);
        let stranger = std::cell::RefCell::new(Call::new(&server, "", "x".repeat(agent)));
        server.wait(&format!("a {name} request refused"), || {
            for _ in 0..each {
                let mut stranger = stranger.borrow_mut();
                stranger.callid = format!("{name}-{}", sent.replace(sent.get() + 1));
                let from_tag = format!("{}{}", "t".repeat(tag), sent.get());
                stranger.say("INVITE", 1, &from_tag);
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
            status("arena_full") > refused
        });
    };
    flood("huge", huge.0, huge.1, 20 * arena / 16);
    flood("small", 1500, 1500, 200 * arena / 16);
    let full = status("contexts_bytes");
    assert!(full > (arena as u64) << 19, "{full} bytes");
    eprintln!("arena_size {arena}: {full} bytes of contexts, {} refused", status("arena_full"));

    up.iter_mut().for_each(Call::end);
    let cdrs = |name: &str| server.lines("call ended", name);
    server.wait("the CDRs of the calls that were up", || cdrs("up-").len() >= 10);
    for i in 0..10 {
        let [line] = &cdrs(&format!("up-{i}"))[..] else { panic!("call {i}: {:?}", cdrs(&format!("up-{i}"))) };
        let pairs: Row = line
            .iter()
            .map(|(k, v)| (&**k, v.clone()))
            .filter_map(|(k, v)| ["agent", "ended_by", "end_side"].into_iter().find(|n| *n == k).map(|n| (n, v)))
            .collect();
        assert_eq!(pairs, [("agent", format!("agent {i}")), ("ended_by", "caller".into()), ("end_side", "caller".into())].into());
    }
    assert!(cdrs("huge-").is_empty() && cdrs("small-").is_empty());
    // One line a second in each process, with a Call-ID.
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|l| l.contains("shared memory for calls in progress is full")).collect();
    assert!(!lines.is_empty() && lines.len() < 200 && lines.iter().all(|l| l.contains("(Call-ID ")), "{} lines, {:?}", lines.len(), lines.first());

    // The huge ones came first.
    server.wait("the end of most of the stranger's requests", || status("contexts_bytes") < full / 2);
    server.wait("the end of the stranger's requests", || status("contexts_bytes") == 0);
    let mut again: Vec<_> = [10, 700, 5000, 20_000].map(|n| Call::new(&server, &format!("again-{n}"), "y".repeat(n))).into();
    again.iter_mut().for_each(Call::begin);
    again.iter_mut().for_each(Call::end);
    server.wait("the CDRs of the calls afterwards", || cdrs("again-").len() >= 4);
    let mut agents: Vec<_> = cdrs("again-").iter().map(|l| super::server::get(l, "agent").len()).collect();
    agents.sort();
    assert_eq!(agents, [10, 700, 5000, 20_000]);
    assert_eq!((status("panics"), status("journal_lost"), status("clipped")), (0, 0, 0));
    server.wait("the end of all transactions", || status("contexts_bytes") == 0);
}
