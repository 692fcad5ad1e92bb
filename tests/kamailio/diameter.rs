//! Calls that are up, over Diameter to freeDiameter and to Erlang/OTP at the same time, while the delivery process and both
//! servers are killed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use super::common::diameter::{self, Noted, Taken, freediameter, of_freediameter, of_otp, otp};
use super::phones::Sipp;
use super::server::{Server, define, port, skipped};

const CALLS: usize = 40;
/// The shortest one, in seconds.
const INTERVAL: u32 = 60;
/// Each call has two interim records, 54 to 66 s and 114 to 126 s after its answer.
const ROUNDS: u32 = 2;
const DURATION: Duration = Duration::from_secs(140);

/// Accounting-Record-Type.
const START: u32 = 2;
const INTERIM: u32 = 3;
const STOP: u32 = 4;

/// The destinations, as the configuration has them.
const NAMES: [&str; 2] = ["diameter", "aaa"];
const OF: [fn(&diameter::Server) -> Vec<Taken>; 2] = [of_freediameter, of_otp];

/// Seconds of the wall clock.
fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

/// Who is killed, when a server has taken so many records of a type: by its number, or the delivery process.
struct Kill {
    at: usize,
    kind: u32,
    taken: usize,
    servers: &'static [usize],
    delivery: bool,
}

/// While calls begin, in each round of interim records, and while they end.
const KILLS: [Kill; 9] = [
    Kill { at: 0, kind: START, taken: 10, servers: &[], delivery: true },
    Kill { at: 0, kind: START, taken: 25, servers: &[0], delivery: false },
    Kill { at: 0, kind: INTERIM, taken: 3, servers: &[], delivery: true },
    Kill { at: 0, kind: INTERIM, taken: 14, servers: &[0], delivery: false },
    Kill { at: 1, kind: INTERIM, taken: 26, servers: &[1], delivery: false },
    Kill { at: 0, kind: INTERIM, taken: 45, servers: &[0], delivery: true },
    Kill { at: 1, kind: INTERIM, taken: 40, servers: &[1], delivery: true },
    Kill { at: 0, kind: STOP, taken: 5, servers: &[0], delivery: true },
    Kill { at: 1, kind: STOP, taken: 10, servers: &[1], delivery: true },
];

/// When something was away that interim records of this destination need.
type Gaps = [Vec<(f64, f64)>; 2];

struct Place {
    server: Server,
    peers: RefCell<[diameter::Server; 2]>,
}

impl Place {
    fn taken(&self, i: usize) -> Vec<Taken> {
        OF[i](&self.peers.borrow()[i])
    }

    fn count(&self, i: usize, kind: u32) -> usize {
        self.taken(i).iter().filter(|t| t.kind == kind).map(|t| &t.name).collect::<BTreeSet<_>>().len()
    }

    fn delivered(&self, i: usize) -> u64 {
        self.server.status(&format!("{}_delivered", NAMES[i])).unwrap_or(0)
    }

    /// Waits for what comes at a time of its own.
    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() {
            assert!(begin.elapsed() < 3 * DURATION, "{what} did not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns when it was, for each destination that interim records may be missing of.
    fn carry_out(&self, kill: &Kill) -> Vec<(usize, (f64, f64))> {
        self.wait("so many records", || self.count(kill.at, kill.kind) >= kill.taken);
        let begin = now();
        let pid = self.server.delivery_process().expect("a delivery process");
        kill.servers.iter().for_each(|i| self.peers.borrow_mut()[*i].kill());
        if kill.delivery {
            assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
            self.server.wait("its successor", || self.server.delivery_process().is_some_and(|p| p != pid));
        }
        kill.servers.iter().for_each(|i| self.peers.borrow_mut()[*i].run());
        let hit: Vec<usize> = if kill.delivery { vec![0, 1] } else { kill.servers.to_vec() };
        // It is over when something is delivered again. There is something: requests are in hand, or the next ones come.
        hit.into_iter()
            .map(|i| {
                let before = self.delivered(i);
                let all = CALLS * (2 + ROUNDS as usize);
                self.server.wait("a delivery after the kill", || self.delivered(i) > before || before >= all as u64 || self.is_done(i));
                (i, (begin - 2.0, now() + 2.0))
            })
            .collect()
    }

    fn is_done(&self, i: usize) -> bool {
        self.count(i, STOP) == CALLS && self.server.status(&format!("{}_accepted", NAMES[i])) == Some(self.delivered(i))
    }
}

/// Numbers of the interim records of a session by round, and that of its STOP.
struct Session {
    interims: BTreeMap<u32, u32>,
    stop: u32,
}

/// What a destination has of each call, after checks that need no other one's.
fn sessions(name: &str, taken: &[Taken]) -> BTreeMap<String, Session> {
    let mut all: BTreeMap<&str, BTreeMap<u32, u32>> = BTreeMap::new();
    let mut over = BTreeSet::new();
    let mut doubled = 0;
    for one in taken {
        let (session, number) = &one.name;
        match all.entry(session).or_default().insert(*number, one.kind) {
            Some(kind) => {
                doubled += 1;
                assert!(one.repeats && kind == one.kind, "{name}: {one:?} came again without T, or as another record");
            }
            None => assert!(one.kind == STOP || !over.contains(session), "{name}: {one:?} is new behind the end"),
        }
        if one.kind == STOP {
            over.insert(session.clone());
        }
    }
    eprintln!("{name}: {} requests, {doubled} of them again with T", taken.len());
    assert_eq!(all.len(), CALLS, "{name}: a session for each call");
    let session = |(session, numbers): (&str, BTreeMap<u32, u32>)| {
        let of = |kind: u32| numbers.iter().filter(move |(_, k)| **k == kind).map(|(n, _)| *n).collect::<Vec<_>>();
        let (starts, stops, interims) = (of(START), of(STOP), of(INTERIM));
        assert!(starts == [0] && stops.len() == 1 && numbers.keys().next_back() == Some(&stops[0]), "{name}: {session}: {numbers:?}");
        // A record is made when it is due, or when somebody has time for it.
        let rounds: BTreeMap<u32, u32> = interims.iter().map(|n| ((n + INTERVAL / 10) / INTERVAL, *n)).collect();
        assert!(rounds.len() == interims.len() && rounds.keys().all(|k| (1..=ROUNDS).contains(k)), "{name}: {session}: {numbers:?}");
        (session.to_owned(), Session { interims: rounds, stop: stops[0] })
    };
    all.into_iter().map(session).collect()
}

/// The part of a Session-Id that is the call's.
fn call(session: &str) -> &str {
    session.rsplit(';').next().unwrap()
}

#[test]
#[ignore = "takes minutes: see CONTRIBUTING.md"]
fn kills_neither_lose_nor_double_records_of_calls_that_are_up() {
    if skipped() {
        return;
    }
    // Slow, so that requests are in hand whenever something is killed.
    let Some(free) = freediameter("AppServThreads = 1;", &[("ACCT_DELAY_US", "100000")], None) else { return };
    let Some(otp) = otp() else { return };
    let dir = tempfile::tempdir().unwrap();
    let peers = [free, otp];
    let files = [0, 1].map(|i| {
        let file = dir.path().join(NAMES[i]);
        fs::write(&file, format!("Identity = \"sip{i}.acc.test\"; Realm = \"acc.test\";\n{}", peers[i].line())).unwrap();
        file
    });
    let urls = [define("DIAMETER_URL", files[0].display()), define("DIAMETER_AAA", format_args!("diameter:{}", files[1].display()))];
    let more: Vec<_> = urls.into_iter().chain([format!("-AINTERIMS={INTERVAL}")]).collect();
    let place = Place { server: Server::start(4, &more), peers: RefCell::new(peers) };
    let server = &place.server;
    let callee = port();
    let _callee = Sipp::start(server, "callee", callee, &[]);
    std::thread::sleep(Duration::from_millis(300));
    let (target, user, calls, pause) = (format!("127.0.0.1:{}", server.port), format!("l{callee}"), CALLS.to_string(), DURATION.as_millis().to_string());
    let mut caller = Sipp::start(server, "caller", port(), &[&target, "-s", &user, "-m", &calls, "-r", "10", "-d", &pause, "-cid_str", "up-%u-%p@%s"]);
    let mut gaps: Gaps = Default::default();
    for kill in &KILLS {
        for (i, gap) in place.carry_out(kill) {
            gaps[i].push(gap);
        }
    }
    caller.wait("the calls", 2 * DURATION);
    for i in 0..2 {
        place.wait("the records", || place.is_done(i));
    }
    let dead: u64 = NAMES.iter().map(|n| server.status(&format!("{n}_dead")).unwrap()).sum();
    assert_eq!((server.status("delivery_restarts"), dead), (Some(KILLS.iter().filter(|k| k.delivery).count() as u64), 0));

    // When each call was answered, by any of its interim records.
    let answered: BTreeMap<String, f64> = {
        let noted = place.peers.borrow()[0].lines().iter().filter_map(|l| Noted::of(l)).filter(|n| n.number(480) == Some(INTERIM)).collect::<Vec<_>>();
        let at = |n: &Noted| f64::from(n.number(55).unwrap()) - 2_208_988_800.0 - f64::from(n.number(485).unwrap());
        noted.iter().map(|n| (call(&n.text(263)).to_owned(), at(n))).collect()
    };
    let all = [0, 1].map(|i| sessions(NAMES[i], &place.taken(i)));
    // Both destinations have the same calls, which end at the same second.
    let stops = |i: usize| all[i].iter().map(|(session, s)| (call(session), s.stop)).collect::<BTreeMap<_, _>>();
    assert_eq!(stops(0), stops(1));
    let of_call = |i: usize, name: &str| all[i].iter().find(|(session, _)| call(session) == name).map(|(_, s)| &s.interims).unwrap();
    for i in 0..2 {
        let mut missing = 0;
        for name in stops(i).into_keys() {
            for round in (1..=ROUNDS).filter(|round| !of_call(i, name).contains_key(round)) {
                missing += 1;
                // Known from its neighbours: the other destination's, or that of the other round.
                let elsewhere = [0, 1].into_iter().flat_map(|i| of_call(i, name)).map(|(k, n)| n + (round * INTERVAL) - k * INTERVAL).next();
                let (Some(after), Some(begin)) = (elsewhere, answered.get(name)) else { continue };
                let due = begin + f64::from(after);
                assert!(gaps[i].iter().any(|(from, to)| (*from..=*to).contains(&due)), "{}: round {round} of {name}, due at {due}: {:?}", NAMES[i], gaps[i]);
            }
        }
        let came: usize = all[i].values().map(|s| s.interims.len()).sum();
        eprintln!("{}: {came} interim records of {}, {missing} left out while something was away", NAMES[i], CALLS * ROUNDS as usize);
        assert!(came > CALLS / 2);
    }
}
