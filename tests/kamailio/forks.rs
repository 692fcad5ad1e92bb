//! Requests with one Call-ID and From tag: a proxy before us that forks, a stranger who knows both, and
//! requests beside a call. Each has the records of its own, in whatever order they are answered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::restarts::keeping_dialogs;
use super::server::{End, Server, define, get, port, skipped};
use super::wire::{Phone, Transport, header, headers, reply};

/// One request, its caller, its callee, and what became of it.
pub struct Leg {
    caller: Phone,
    callee: Phone,
    letter: char,
    callid: String,
    /// User of the request URI; its first letter is what kamailio.cfg does.
    user: String,
    method: &'static str,
    /// As the callee got it.
    request: String,
    /// Contact and routes of the answer.
    contact: String,
    routes: String,
    /// Final replies that came, and what must be recorded.
    due: Vec<(&'static str, String)>,
    /// The call lasted longer than from the second to the third instant, and less than from the first to the last.
    instants: Vec<Instant>,
}

impl Leg {
    pub fn new(transport: Transport, server: u16, callid: &str, letter: char, how: char) -> Leg {
        let (caller, callee) = (Phone::new(transport, server), Phone::new(transport, server));
        let method = match letter {
            'M' | 'N' => "MESSAGE",
            'O' | 'P' => "OPTIONS",
            _ => "INVITE",
        };
        let user = format!("{how}{}", callee.port);
        let (request, contact, routes) = (String::new(), String::new(), String::new());
        Leg { caller, callee, letter, callid: callid.into(), user, method, request, contact, routes, due: Vec::new(), instants: Vec::new() }
    }

    fn to_tag(&self) -> String {
        format!("t{}-{}", self.letter, self.callid)
    }

    /// From now on another server has the address of the one that both phones talk to.
    pub fn move_to(&mut self, server: u16) {
        let address = |port: u16| format!("127.0.0.1:{port};");
        self.routes = self.routes.replace(&address(self.caller.server), &address(server));
        (self.caller.server, self.callee.server) = (server, server);
    }

    /// A request of the caller's. Those of all legs have one Call-ID and one From tag.
    fn say(&mut self, method: &str, inside: bool, branch: &str) {
        let (uri, to_tag) = if inside { (self.contact.clone(), format!(";tag={}", self.to_tag())) } else { (self.uri(), String::new()) };
        let routes = if inside { self.routes.as_str() } else { "" };
        let cseq = if inside && method != "ACK" { 2 } else { 1 };
        let (letter, callid, user, port, transport) = (self.letter, &self.callid, &self.user, self.caller.port, self.caller.transport());
        let message = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} 127.0.0.1:{port};branch=z9hG4bK{branch}{letter}{callid}\r\n{routes}\
             From: <sip:caller{letter}@127.0.0.1>;tag=f-{callid}\r\nTo: <sip:{user}@127.0.0.1>{to_tag}\r\nCall-ID: {callid}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:caller{letter}@127.0.0.1:{port};transport={transport}>\r\nMax-Forwards: 70\r\nUser-Agent: agent{letter}\r\nContent-Length: 0\r\n\r\n"
        );
        self.caller.send(&message);
    }

    fn uri(&self) -> String {
        format!("sip:{}@127.0.0.1;transport={}", self.user, self.caller.transport())
    }

    fn answer_with(&mut self, request: &str, status: &str) {
        let contact = format!("sip:callee@127.0.0.1:{};transport={}", self.callee.port, self.callee.transport());
        let message = reply(request, status, &self.to_tag(), &contact);
        self.callee.send(&message);
    }

    pub fn play(&mut self, step: char) {
        let method = self.method;
        match step {
            // An INVITE, or a whole MESSAGE or OPTIONS.
            'i' => {
                self.say(method, false, "");
                self.request = self.callee.wait(&[method], method);
                if method != "INVITE" {
                    self.answer_with(&self.request.clone(), "200 OK");
                    self.caller.wait(&["SIP/2.0 200"], method);
                    self.due.push(("transaction answered", "200".into()));
                }
            }
            'r' => {
                self.answer_with(&self.request.clone(), "180 Ringing");
                self.caller.wait(&["SIP/2.0 180"], method);
            }
            // Answered, without the ACK.
            's' => {
                self.instants.push(Instant::now());
                self.answer_with(&self.request.clone(), "200 OK");
                let answer = self.caller.wait(&["SIP/2.0 200"], method);
                self.contact = header(&answer, "Contact").trim_matches(['<', '>']).to_string();
                self.routes = headers(&answer, "Record-Route").flat_map(|v| v.split(',')).map(|v| format!("Route: {}\r\n", v.trim())).rev().collect();
            }
            'k' => {
                self.say("ACK", true, "ack");
                self.callee.wait(&["ACK"], "ACK");
                self.instants.push(Instant::now());
            }
            'a' => "sk".chars().for_each(|s| self.play(s)),
            'x' => {
                self.answer_with(&self.request.clone(), "486 Busy Here");
                self.failed("486");
            }
            // The call is still wanted.
            'u' => {
                self.say("INFO", true, "info");
                let request = self.callee.wait(&["INFO"], "INFO");
                self.answer_with(&request, "200 OK");
                self.caller.wait(&["SIP/2.0 200"], "INFO");
            }
            // A stranger who was never in a call hangs up, or sends an INFO, with a To tag of his own.
            'y' | 'f' => {
                let (method, branch) = if step == 'y' { ("BYE", "bye") } else { ("INFO", "info") };
                let (callee, transport) = (self.callee.port, self.callee.transport());
                self.contact = format!("sip:callee@127.0.0.1:{callee};transport={transport}");
                self.routes = format!("Route: <sip:127.0.0.1:{};lr;transport={transport}>\r\n", self.caller.server);
                self.say(method, true, branch);
                let request = self.callee.wait(&[method], method);
                self.answer_with(&request, "200 OK");
                self.caller.wait(&["SIP/2.0 200"], method);
                if step == 'y' {
                    self.due.push(("bye", "200".into()));
                }
            }
            // Busy, then answered after all.
            'e' => {
                self.play('x');
                self.play('a');
            }
            'c' => {
                self.say("CANCEL", false, "");
                let cancel = self.callee.wait(&["CANCEL"], "CANCEL");
                self.answer_with(&cancel, "200 OK");
                self.answer_with(&self.request.clone(), "487 Request Terminated");
                self.failed("487");
            }
            // Hangs up, and is refused.
            'q' => {
                let routes = format!("X-Refuse: yes\r\n{}", self.routes);
                let routes = std::mem::replace(&mut self.routes, routes);
                self.say("BYE", true, "refused");
                self.caller.wait(&["SIP/2.0 403"], "BYE");
                self.routes = routes;
            }
            'h' => {
                self.instants.push(Instant::now());
                self.say("BYE", true, "bye");
                let bye = self.callee.wait(&["BYE"], "BYE");
                self.answer_with(&bye, "200 OK");
                self.caller.wait(&["SIP/2.0 200"], "BYE");
                self.instants.push(Instant::now());
                self.due.push(("call ended", "200".into()));
            }
            other => panic!("no such step: {other}"),
        }
    }

    fn failed(&mut self, code: &str) {
        self.callee.wait(&["ACK"], "ACK");
        self.caller.wait(&[&format!("SIP/2.0 {code}")], "INVITE");
        self.say("ACK", false, "");
        self.due.extend(["call missed", "transaction answered"].map(|kind| (kind, code.into())));
    }
}

/// A play: its name, what the script does with each leg, and the steps: leg and what happens, or a pause.
type Play = (&'static str, &'static str, &'static str);

/// In all orders: one, the other, both, none.
const ORDERS: [(&str, &str); 22] = [
    ("first-cancels", "Ai Ar Bi Br Aa Bc p Ah"),
    ("second-cancels", "Ai Ar Bi Br Ba Ac p Bh"),
    ("first-refuses", "Ai Ar Bi Br Aa Bx p Ah"),
    ("refused-second", "Ai Ar Bi Br Ax Ba p Bh"),
    ("stranger-refused", "Ai Ar Bi Br Bx p Aa p Ah"),
    ("both-12-12", "Ai Ar Bi Br Aa Ba p Ah p Bh"),
    ("both-21-12", "Ai Ar Bi Br Ba Aa p Ah p Bh"),
    ("both-12-21", "Ai Ar Bi Br Aa Ba p Bh p Ah"),
    ("both-21-21", "Ai Ar Bi Br Ba Aa p Bh p Ah"),
    ("none-12", "Ai Ar Bi Br Ax Bx"),
    ("none-21", "Ai Ar Bi Br Bx Ax"),
    ("none-cancelled", "Ai Ar Bi Br Ac Bc"),
    ("cancelled-ringing", "Ai Ar Bi Br Ac Br Ba p Bh"),
    ("without-ringing", "Ai Bi Ba p Aa p Ah Bh"),
    ("stranger-answered", "Ai Ar Bi Ba p Bh p Aa p Ah"),
    ("stranger-before-ack", "Ai Ar As Bi Bx Ak p Ah"),
    ("stranger-in-call", "Ai Ar Aa Bi Ba p Bh p Ah"),
    ("one-after-the-other", "Ai Ar Ax Bi Br Ba p Bh"),
    ("after-all", "Ai Ar Ae p Ah"),
    ("after-all-beside", "Ai Ar Bi Br Ae p Ba p Bh Ah"),
    ("stranger-hangs-up", "Ai Ar Zy p Aa Xf Yy p Ah"),
    ("beside", "Ai Ar Mi Oi Aa Pi p Ni Ah"),
];

/// Plays on a server, all at the same time; what must have been recorded.
fn play(server: &Server, transport: Transport, to: u16, plays: &[Play]) {
    std::thread::scope(|scope| {
        for (name, how, steps) in plays {
            scope.spawn(move || {
                let callid = format!("{name}-{how}-{transport:?}-end");
                let mut legs: BTreeMap<char, Leg> = BTreeMap::new();
                let ways: Vec<char> = how.chars().collect();
                for step in steps.split(' ') {
                    let mut letters = step.chars();
                    let (who, what) = (letters.next().unwrap(), letters.next());
                    let Some(what) = what else {
                        std::thread::sleep(Duration::from_millis(600));
                        continue;
                    };
                    // The first leg is the script's first way, all others its second.
                    let way = ways[usize::from(who != 'A').min(ways.len() - 1)];
                    legs.entry(who).or_insert_with(|| Leg::new(transport, to, &callid, who, way)).play(what);
                }
                check(server, &callid, &legs);
            });
        }
    });
}

/// Kind, code, method, To tag, caller, callee and agent of a line.
type Seen = (String, String, String, String, String, String, String);

fn check(server: &Server, callid: &str, legs: &BTreeMap<char, Leg>) {
    let mut due: Vec<Seen> = Vec::new();
    for leg in legs.values() {
        let transactions = leg.user.starts_with(['w', 'n']);
        for (kind, code) in &leg.due {
            let line = |kind: &str, method: &str| {
                let (letter, tag) = (leg.letter, leg.to_tag());
                (kind.to_string(), code.clone(), method.to_string(), tag, format!("caller{letter}"), leg.user.clone(), format!("agent{letter}"))
            };
            let bye = |code: &String| ("transaction answered".into(), code.clone(), "BYE".into(), leg.to_tag(), String::new(), String::new(), String::new());
            match *kind {
                "call ended" if transactions => {
                    // Kamailio says of the first final reply only that it went.
                    if !leg.due.iter().any(|(_, code)| code == "486") {
                        due.push(line("transaction answered", "INVITE"));
                    }
                    due.push(bye(code));
                }
                "bye" if transactions => due.push(bye(code)),
                "call missed" if transactions => {}
                "bye" => {}
                kind => due.push(line(kind, leg.method)),
            }
        }
    }
    due.sort();
    let lines = || -> Vec<_> {
        let of = |kind: &'static str| server.lines(kind, callid).into_iter().map(move |l| (kind, l));
        ["call ended", "call missed", "transaction answered"].into_iter().flat_map(of).collect()
    };
    server.wait(&format!("the records of {callid}"), || lines().len() >= due.len());
    let lines = lines();
    let text = |line: &[(String, String)], name| get(line, name).to_string();
    let seen = |(kind, l): &(&str, Vec<(String, String)>)| {
        (kind.to_string(), text(l, "code"), text(l, "method"), text(l, "to_tag"), text(l, "caller"), text(l, "callee"), text(l, "agent"))
    };
    let mut seen: Vec<_> = lines.iter().map(seen).collect();
    seen.sort();
    assert_eq!(seen, due, "{callid}");
    for (_, line) in lines.iter().filter(|(kind, _)| *kind == "call ended") {
        let leg = legs.values().find(|l| l.user == get(line, "callee")).unwrap();
        let [first, second, third, last] = leg.instants[..] else { panic!("{callid}: not a whole call") };
        let duration = Duration::from_millis(get(line, "ms_duration").parse().unwrap());
        // Both are rounded.
        let rounding = Duration::from_millis(2);
        assert!(third - second <= duration + rounding && duration <= last - first + rounding, "{callid}: {duration:?}, {:?}", leg.instants);
        assert_eq!((get(line, "end_cause"), get(line, "end_side")), ("bye", "caller"), "{callid}");
        assert_eq!(get(line, "from_tag"), format!("f-{callid}"));
    }
}

/// Rows of all plays, each like a line.
fn rows_are_like_lines(server: &Server) {
    server.settle();
    for (table, kinds) in [("acc", &["call ended", "transaction answered"][..]), ("missed_calls", &["call missed"][..])] {
        let mut lines: Vec<_> = kinds
            .iter()
            .flat_map(|kind| server.lines(kind, ""))
            .map(|l| (get(&l, "call_id").to_string(), get(&l, "to_tag").to_string(), get(&l, "method").to_string(), get(&l, "code").to_string()))
            .collect();
        let mut rows: Vec<_> =
            server.rows(table, "").into_iter().map(|r| (r["callid"].clone(), r["to_tag"].clone(), r["method"].clone(), r["sip_code"].clone())).collect();
        lines.sort();
        rows.sort();
        assert_eq!(rows, lines, "{table}");
    }
}

/// With CDRs, as transactions, mixed, and in dialogs that the script made before.
const WAYS: [&str; 8] = ["a", "w", "aw", "wa", "m", "ma", "am", "n"];

/// All orders, in these ways.
fn plays(ways: &[&'static str]) -> Vec<Play> {
    ways.iter().flat_map(|how| ORDERS.into_iter().map(move |(name, steps)| (name, *how, steps))).collect()
}

fn of_each_request(transport: Transport, plays: &[Play], more: &[String]) {
    if skipped() {
        return;
    }
    let tcp = port();
    let server = Server::start(4, &[&[format!("-ALISTEN_TOO=tcp:127.0.0.1:{tcp}"), define("PATIENT", "")], more].concat());
    let idle = server.status("contexts_bytes").unwrap();
    let to = if transport == Transport::Tcp { tcp } else { server.port };
    play(&server, transport, to, plays);
    rows_are_like_lines(&server);
    assert_eq!((server.status("db_dead"), server.status("panics")), (Some(0), Some(0)));
    let log = server.log();
    let errors: Vec<_> = log.lines().filter(|l| l.contains("ERROR:acc:")).collect();
    assert!(errors.is_empty(), "{errors:?}");
    server.wait("the end of all transactions", || server.status("contexts_bytes").unwrap() <= idle + 4096);
}

#[test]
fn each_request_has_its_own_records_over_udp() {
    of_each_request(Transport::Udp, &plays(&WAYS), &[]);
}

#[test]
fn each_request_has_its_own_records_over_tcp() {
    of_each_request(Transport::Tcp, &plays(&WAYS), &[]);
}

/// The dialog module tells of a new dialog only with the transaction, and finds calls by their tags
/// where the route does not name them.
#[test]
fn each_request_has_its_own_records_whatever_the_dialog_module_does() {
    of_each_request(Transport::Udp, &plays(&["a", "wa", "m", "am"]), &[define("OTHER_DIALOGS", "")]);
}

/// Nobody hangs up: both calls end with the lifetimes of their dialogs.
#[test]
fn each_answered_fork_has_a_lifetime() {
    if skipped() {
        return;
    }
    let server = Server::start(4, &[define("SHORT_LIVES", "")]);
    let mut legs: Vec<_> = ['A', 'B'].map(|letter| Leg::new(Transport::Udp, server.port, "lifetime", letter, 'a')).into();
    for step in ['i', 'r', 'a'] {
        legs.iter_mut().for_each(|leg| leg.play(step));
    }
    server.wait("two CDRs", || server.lines("call ended", "lifetime").len() == 2);
    for leg in &legs {
        let line = server.lines("call ended", "lifetime").into_iter().find(|l| get(l, "callee") == leg.user).unwrap();
        assert_eq!((get(&line, "end_cause"), get(&line, "to_tag")), ("timeout", leg.to_tag().as_str()));
    }
}

/// Both hang up without a transaction; a BYE that the script refuses ends no call.
#[test]
fn each_answered_fork_ends_with_its_stateless_bye() {
    if skipped() {
        return;
    }
    let server = Server::start(4, &[]);
    let mut legs: Vec<_> = ['A', 'B'].map(|letter| Leg::new(Transport::Udp, server.port, "stateless", letter, 'z')).into();
    for step in ['i', 'r', 'a', 'q'] {
        legs.iter_mut().for_each(|leg| leg.play(step));
    }
    assert_eq!(server.lines("call ended", "stateless").len(), 0);
    for (n, leg) in legs.iter_mut().enumerate() {
        leg.play('h');
        server.wait("the CDR", || server.lines("call ended", "stateless").len() == n + 1);
        let line = server.lines("call ended", "stateless").into_iter().find(|l| get(l, "callee") == leg.user).unwrap();
        let values = ["end_cause", "end_side", "to_tag", "ended_by"].map(|name| get(&line, name));
        assert_eq!(values, ["bye", "caller", leg.to_tag().as_str(), format!("caller{}", leg.letter).as_str()]);
    }
    server.settle();
    assert_eq!(server.rows("acc", "stateless").len(), 2);
}

/// The first fork has the host's dialog, which comes back after a crash; the other ends with the server.
#[test]
fn of_two_answered_forks_each_has_one_record_after_a_crash() {
    let Some((server, more)) = keeping_dialogs() else { return };
    let mut legs: Vec<_> = ['A', 'B'].map(|letter| Leg::new(Transport::Udp, server.port, "crash", letter, 'a')).into();
    for step in ['i', 'r', 'a'] {
        legs.iter_mut().for_each(|leg| leg.play(step));
    }
    let server = server.end_and_restart(End::Killed, &more);
    server.wait("the orphan", || server.lines("call ended", "crash").len() == 1);
    legs[0].play('h');
    server.wait("the CDR", || server.lines("call ended", "crash").len() == 2);
    for (leg, cause) in legs.iter().zip(["bye", "orphan"]) {
        let line = server.lines("call ended", "crash").into_iter().find(|l| get(l, "callee") == leg.user).unwrap();
        assert_eq!((get(&line, "end_cause"), get(&line, "to_tag")), (cause, leg.to_tag().as_str()));
    }
    server.settle();
    assert_eq!(server.rows("acc", "crash").len(), 2);
}

/// Its BYE ends the calls of both requests, of which the first one has the host's dialog.
#[test]
fn a_call_that_goes_round_has_two_records() {
    if skipped() {
        return;
    }
    let server = Server::start(4, &[]);
    let mut leg = Leg::new(Transport::Udp, server.port, "round", 'A', 'g');
    for step in ['i', 'r', 'a', 'h'] {
        leg.play(step);
    }
    server.wait("both CDRs", || server.lines("call ended", "round").len() == 2);
    server.settle();
    let lines = server.lines("call ended", "round");
    for line in &lines {
        let values = ["end_cause", "end_side", "to_tag", "callee", "code"].map(|name| get(line, name));
        assert_eq!(values, ["bye", "caller", leg.to_tag().as_str(), leg.user.as_str(), "200"]);
    }
    let mut ended_by: Vec<_> = lines.iter().map(|line| get(line, "ended_by")).collect();
    ended_by.sort_unstable();
    assert_eq!((ended_by, server.rows("acc", "round").len()), (vec!["", "callerA"], 2));
}
