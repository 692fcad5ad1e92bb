//! The phones: SIPp with the scenarios of the directory `sipp`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::server::{Server, port, root};

pub struct Sipp {
    child: Child,
    /// What it complains of.
    errors: PathBuf,
}

impl Drop for Sipp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sipp {
    pub fn start(server: &Server, scenario: &str, port: u16, arguments: &[&str]) -> Sipp {
        let file = root().join("tests/kamailio/sipp").join(format!("{scenario}.xml"));
        let out = fs::File::create(server.dir.path().join(format!("sipp-{scenario}-{port}"))).unwrap();
        let errors = server.dir.path().join(format!("sipp-{scenario}-{port}.err"));
        let child = Command::new("sipp")
            .arg("-sf")
            .arg(file)
            .args(["-i", "127.0.0.1", "-p", &port.to_string(), "-nostdin", "-trace_err", "-error_file"])
            .arg(&errors)
            .args(arguments)
            .current_dir(server.dir.path())
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Sipp { child, errors }
    }

    /// Whether all calls went as the scenario says; `None` while some go on.
    pub fn ended(&mut self) -> Option<bool> {
        self.child.try_wait().unwrap().map(|status| status.success())
    }

    pub fn wait(&mut self, what: &str, limit: Duration) {
        let begin = Instant::now();
        while self.ended().is_none() {
            assert!(begin.elapsed() < limit, "{what}: sipp hangs");
            std::thread::sleep(Duration::from_millis(20));
        }
        let said = fs::read_to_string(&self.errors).unwrap_or_default();
        assert_eq!(self.ended(), Some(true), "{what}: sipp failed: {said}");
    }
}

/// A call to play: its name is the beginning of its Call-ID; `how` the first letter of the called
/// user, see kamailio.cfg.
pub struct Call {
    pub name: &'static str,
    pub how: &'static str,
    pub caller: &'static str,
    /// Scenarios; nobody is there where it is empty.
    pub callees: &'static [&'static str],
}

pub const fn call(name: &'static str, how: &'static str, caller: &'static str, callees: &'static [&'static str]) -> Call {
    Call { name, how, caller, callees }
}

/// Calls played at the same time. A SIPp takes two of the hundred ports that it tries for its media: fifty of
/// them have room, those of other programs included, and a call needs two or three.
const AT_A_TIME: usize = 12;

/// Plays calls, many at the same time, until all that they make is delivered; ports of the callees by
/// name.
pub fn play(server: &Server, calls: Vec<Call>) -> BTreeMap<&'static str, Vec<u16>> {
    let mut ports = BTreeMap::new();
    for some in calls.chunks(AT_A_TIME) {
        std::thread::scope(|s| {
            let running: Vec<_> = some.iter().map(|c| (c.name, s.spawn(move || play_one(server, c)))).collect();
            ports.extend(running.into_iter().map(|(name, call)| (name, call.join().unwrap_or_else(|_| panic!("{name}\n{}", server.log())))));
        });
    }
    server.settle();
    ports
}

fn play_one(server: &Server, call: &Call) -> Vec<u16> {
    let ports: Vec<_> = call.callees.iter().map(|_| port()).collect();
    let _callees: Vec<_> =
        call.callees.iter().zip(&ports).filter(|(c, _)| !c.is_empty()).map(|(c, p)| Sipp::start(server, c, *p, &["-d", "1200", "-m", "1"])).collect();
    std::thread::sleep(Duration::from_millis(300));
    let user = ports.iter().fold(call.how.to_string(), |u, p| u + &p.to_string());
    let (target, name) = (format!("127.0.0.1:{}", server.port), format!("{}-%u-%p@%s", call.name));
    let mut sipp = Sipp::start(server, call.caller, port(), &[&target, "-s", &user, "-m", "1", "-d", "1200", "-cid_str", &name]);
    sipp.wait(call.name, Duration::from_secs(60));
    std::thread::sleep(Duration::from_millis(300));
    ports
}

/// Starts a call and leaves it in progress.
pub fn begin(server: &Server, name: &str) -> (Sipp, Sipp) {
    begin_for(server, name, Duration::from_secs(6))
}

/// The same for a call that lasts so long.
pub fn begin_for(server: &Server, name: &str, pause: Duration) -> (Sipp, Sipp) {
    let (callee, target) = (port(), format!("127.0.0.1:{}", server.port));
    let answers = Sipp::start(server, "callee", callee, &["-m", "1"]);
    std::thread::sleep(Duration::from_millis(300));
    let (user, pause, call_id) = (format!("a{callee}"), pause.as_millis().to_string(), format!("{name}-%u-%p@%s"));
    let calls = Sipp::start(server, "caller", port(), &[&target, "-s", &user, "-m", "1", "-d", &pause, "-cid_str", &call_id]);
    std::thread::sleep(Duration::from_millis(1500));
    (answers, calls)
}
