//! Two proxies with the configurations of examples/scale-out, into one JetStream and one MariaDB: a Kamailio and the OpenSIPS
//! of OPENSIPS_PREFIX, or two of the first. Then `accctl audit` over both journals.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use super::nats::{count, make_stream, stored};
use super::*;
use crate::common::brokers::Nats;
use crate::common::servers::{PASSWORD, free_port, mariadb};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The module as it was built together with this test.
fn module() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().map(|d| d.join("libacc.so")).find(|p| p.is_file()).expect("libacc.so beside the test")
}

/// Killed if the test fails.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// As an operator does; waits for its end.
    fn stop(&mut self) {
        assert!(Command::new("kill").arg(self.0.id().to_string()).status().unwrap().success());
        self.ended("the end of the server");
    }

    fn ended(&mut self, what: &str) -> ExitStatus {
        let mut ended = None;
        wait_until(what, || {
            ended = self.0.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

/// Programs of both servers, and the modules of OpenSIPS.
enum Host {
    Kamailio(PathBuf),
    OpenSips(PathBuf, PathBuf),
}

fn kamailio() -> Option<Host> {
    let program = PathBuf::from("/usr/sbin/kamailio");
    program.exists().then_some(Host::Kamailio(program))
}

fn opensips() -> Option<Host> {
    let prefix = PathBuf::from(std::env::var_os("OPENSIPS_PREFIX").filter(|prefix| !prefix.is_empty())?);
    let modules = ["lib64", "lib"].map(|lib| prefix.join(lib).join("opensips/modules")).into_iter().find(|path| path.is_dir())?;
    Some(Host::OpenSips(prefix.join("sbin/opensips"), modules))
}

/// A server with the configuration of examples/scale-out for it.
struct Proxy {
    program: Program,
    dir: tempfile::TempDir,
    port: u16,
    callee: u16,
}

impl Proxy {
    fn start(host: &Host, node: &str, nats: u16, db_url: &str) -> Proxy {
        let (dir, port, callee) = (tempfile::tempdir().unwrap(), free_port(), free_port());
        let (name, path) = match host {
            Host::Kamailio(path) => ("kamailio.cfg", path),
            Host::OpenSips(path, _) => ("opensips.cfg", path),
        };
        let mut text = fs::read_to_string(root().join("examples/scale-out").join(name)).unwrap();
        let mut put = |old: &str, new: &str| {
            assert!(text.contains(old), "{name} has no {old}");
            text = text.replace(old, new);
        };
        put("udp:127.0.0.1:5060", &format!("udp:127.0.0.1:{port}"));
        put("sip:127.0.0.1:5070", &format!("sip:127.0.0.1:{callee}"));
        put("/usr/lib/opensips-acc/acc.so", module().to_str().unwrap());
        put("/var/lib/opensips-acc", dir.path().to_str().unwrap());
        put("/var/spool/acc", dir.path().to_str().unwrap());
        put("nats1.example.org,nats2.example.org,nats3.example.org", &format!("127.0.0.1:{nats}"));
        put("\"proxy1\"", &format!("\"{node}\""));
        // The same records go into SQL as well.
        let fields = "modparam(\"acc\", \"extra_fields\", \"stream: caller; callee; account\")";
        put(fields, &format!("{fields}\n{}\nmodparam(\"acc\", \"db_url\", \"{db_url}\")", fields.replace("stream:", "db:")));
        put("do_accounting(\"stream\"", "do_accounting(\"stream|db\"");
        if let Host::OpenSips(_, modules) = host {
            put("/usr/lib/x86_64-linux-gnu/opensips/modules/", &format!("{}/", modules.display()));
        }
        let (file, log) = (dir.path().join("config"), fs::File::create(dir.path().join("log")).unwrap());
        fs::write(&file, text).unwrap();
        let mut command = Command::new(path);
        command.args(["-m", "64", "-f"]).arg(&file).arg("-w").arg(dir.path());
        match host {
            Host::OpenSips(..) => command.arg("-F"),
            Host::Kamailio(_) => command.args(["-DD", "-E", "-Y"]).arg(dir.path()),
        };
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut proxy = Proxy { program: Program(child), dir, port, callee };
        wait_until("the proxy's start", || {
            assert!(proxy.program.0.try_wait().unwrap().is_none(), "{}", proxy.log());
            proxy.listens()
        });
        proxy
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn listens(&self) -> bool {
        fs::read_to_string("/proc/net/udp").unwrap().contains(&format!(":{:04X} ", self.port))
    }

    fn sipp(&self, scenario: &str, port: u16, arguments: &[&str]) -> Program {
        let out = fs::File::create(self.dir.path().join(scenario)).unwrap();
        let mut command = Command::new("sipp");
        command.arg("-sf").arg(root().join("tests/kamailio/sipp").join(scenario)).args(["-i", "127.0.0.1", "-p", &port.to_string(), "-nostdin"]);
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        Program(command.spawn().unwrap())
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    /// The files of its second stream.
    fn lines(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect()
    }
}

/// What `accctl audit` says of both journals, and whether nothing is missing.
fn audit(arguments: &[&str], proxies: &[Proxy]) -> (bool, String) {
    let out = accctl_command().arg("audit").args(arguments).args(proxies.iter().map(Proxy::journal)).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

#[test]
fn two_proxies_fill_one_stream_and_one_database() {
    /// Of each proxy.
    const CALLS: usize = 40;
    const ALL: usize = 2 * CALLS;
    let sipp = Command::new("sipp").arg("-v").output().is_ok();
    let Some(first) = kamailio().filter(|_| sipp) else { return skip("kamailio or sipp") };
    let (Some(database), Some(mut nats)) = (mariadb(), Nats::start(&["-js"])) else { return };
    make_stream(nats.port, "acc.>");
    let db_url = format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", database.port);
    let made = accctl_command().args(["schema", "--apply", "--url", &db_url, "--extra", "caller; callee; account; acc_id"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let second = opensips().or_else(kamailio).unwrap();
    let mut proxies = [(first, "proxy1"), (second, "proxy2")].map(|(host, node)| Proxy::start(&host, node, nats.port, &db_url));

    // Calls through both, during which the broker dies.
    let callees: Vec<_> = proxies.iter().map(|p| p.sipp("callee.xml", p.callee, &[])).collect();
    let rows = || database.count("acc");
    let call = |(i, p): (usize, &Proxy)| {
        let (target, name, calls) = (format!("127.0.0.1:{}", p.port), format!("proxy{i}-%u-%p@%s"), CALLS.to_string());
        p.sipp("caller.xml", free_port(), &[&target, "-s", "b", "-m", &calls, "-r", "10", "-d", "500", "-cid_str", &name])
    };
    let mut callers: Vec<_> = proxies.iter().enumerate().map(call).collect();
    wait_until("the first calls", || count(nats.port) > 0);
    nats.kill();
    // All calls may already be over.
    let more = (rows() + 10).min(ALL);
    wait_until("more calls", || rows() >= more);
    nats.start_again();
    for (caller, proxy) in callers.iter_mut().zip(&proxies) {
        assert!(caller.ended("the end of the calls").success(), "{}", proxy.log());
    }
    drop(callees);
    wait_until("all rows", || rows() == ALL);
    wait_until("all messages", || count(nats.port) == ALL as u64);
    for proxy in &mut proxies {
        proxy.program.stop();
    }

    // Everything that both journals have accepted is in SQL, in the stream, and in the files.
    let complete = |arguments: &[&str]| {
        let (complete, text) = audit(arguments, &proxies);
        let line = text.lines().find(|line| line.starts_with("all")).unwrap_or_default();
        let counts: Vec<usize> = line.split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
        // Accepted, stored, waiting, dead, missing, doubled.
        assert!(complete && counts == [ALL, ALL, 0, 0, 0, 0], "{text}");
    };
    complete(&["--url", &db_url]);
    let messages = proxies[0].dir.path().join("messages");
    let mut file = fs::File::create(&messages).unwrap();
    for node in ["proxy1", "proxy2"] {
        let of_node: Vec<_> = stored(nats.port).into_iter().filter(|m| m.body["node"] == node).collect();
        assert_eq!(of_node.len(), CALLS, "{node}");
        of_node.iter().for_each(|m| file.write_all(&[&*m.payload, b"\n"].concat()).unwrap());
    }
    complete(&["--file", messages.to_str().unwrap()]);
    let files: Vec<_> = proxies.iter().flat_map(Proxy::lines).map(|path| path.display().to_string()).collect();
    let files: Vec<_> = files.iter().flat_map(|path| ["--file", path]).collect();
    complete(&[&["--sink", "stream2"], &files[..]].concat());

    // One row less is missed.
    database.sql("DELETE FROM acc ORDER BY id LIMIT 1");
    let (complete, text) = audit(&["--url", &db_url], &proxies);
    assert!(!complete && text.lines().filter(|line| line.starts_with("missing: ")).count() == 1, "{text}");
}
