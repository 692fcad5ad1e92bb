//! Every configuration in the documents and in examples/, as it stands, on real servers: Kamailio where it is installed,
//! OpenSIPS where OPENSIPS_PREFIX names one. A server counts as started when its delivery process runs. Then accctl has to
//! find its way by the same configuration.
//!
//! What is a configuration is said by the documents themselves: a fenced block marked `opensips`, `kamailio`, or `script`
//! (for both). Other code may hold none, but for `**Example**: ...` and `modparam(...)` inside a line, which are for both.
//!
//! - A block that loads several modules is complete. Only ports and paths are changed (see `Place::put`), and a line for the
//!   directory of the journal is added where there is none.
//! - All others of a server stand together in one frame: its modules, all `modparam` lines, and a request route with the
//!   statements, one after the other.
#![forbid(unsafe_code)]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use acc::declaration::{Hosts, PARAMS, Param, ParamType};
use common::{skip, wait_until};

/// Its parameters are Kamailio's.
const KAMAILIO_ONLY: &str = "docs/reference/kamailio.md";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Host {
    OpenSips,
    Kamailio,
}

/// A piece of a configuration, and where it stands.
#[derive(Debug)]
struct Piece {
    at: String,
    hosts: Vec<Host>,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Words that only a configuration has.
fn is_configuration(text: &str) -> bool {
    ["loadmodule ", "modparam(", "do_accounting(", "$acc_", "event_route["].iter().any(|word| text.contains(word))
}

/// The code inside lines: between backticks.
fn inline(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Every configuration of a document.
fn pieces_of(document: &str) -> Vec<Piece> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let both = || match document {
        KAMAILIO_ONLY => vec![Host::Kamailio],
        _ => vec![Host::OpenSips, Host::Kamailio],
    };
    let mut pieces = Vec::new();
    let mut lines = text.lines().zip(1..).peekable();
    while let Some((line, number)) = lines.next() {
        let at = format!("{document}:{number}");
        if let Some(mark) = line.strip_prefix("```") {
            let text: String = lines.by_ref().map(|(line, _)| line).take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            let hosts = match mark {
                "opensips" => vec![Host::OpenSips],
                "kamailio" => vec![Host::Kamailio],
                "script" => both(),
                _ => {
                    assert!(!is_configuration(&text), "{at}: mark the block opensips, kamailio or script: {text}");
                    continue;
                }
            };
            pieces.push(Piece { at, hosts, text });
        } else if line.starts_with("    ") {
            assert!(!is_configuration(line), "{at}: put it into a block marked opensips, kamailio or script: {line}");
        } else if let Some(example) = line.strip_prefix("**Example**: ") {
            pieces.push(Piece { at, hosts: both(), text: example.trim_matches('`').to_string() });
        } else {
            // With a value, not the name of one.
            let whole = inline(line).filter(|code| code.starts_with("modparam(\"") && code.ends_with(')') && code.split('"').count() > 4);
            pieces.extend(whole.map(|code| Piece { at: at.clone(), hosts: both(), text: code.to_string() }));
        }
    }
    pieces
}

/// The files of a folder that end so, and of the folders in it.
fn files(folder: &str, end: &str) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap().map(Result::unwrap) {
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            all.extend(files(&path, end));
        } else if path.ends_with(end) {
            all.push(path);
        }
    }
    all.sort();
    all
}

fn all_pieces() -> Vec<Piece> {
    let mut documents = vec!["README.md".to_string(), "CONTRIBUTING.md".into(), "SUPPORT.md".into()];
    documents.extend(files("docs", ".md"));
    let mut pieces: Vec<_> = documents.iter().flat_map(|document| pieces_of(document)).collect();
    for file in files("examples", ".cfg") {
        let host = if file.contains("kamailio") { Host::Kamailio } else { Host::OpenSips };
        pieces.push(Piece { text: fs::read_to_string(root().join(&file)).unwrap(), at: file, hosts: vec![host] });
    }
    // Some are shown on two pages.
    let mut seen = BTreeSet::new();
    pieces.retain(|piece| seen.insert((piece.text.clone(), piece.hosts.contains(&Host::OpenSips), piece.hosts.contains(&Host::Kamailio))));
    pieces
}

impl Piece {
    fn is_complete(&self) -> bool {
        self.text.lines().filter(|line| line.starts_with("loadmodule ")).count() > 1
    }

    /// The line that names our module, by itself: every frame has it.
    fn is_our_line(&self) -> bool {
        !self.is_complete() && self.text.starts_with("loadmodule ")
    }

    /// As this server says it: in Kamailio flags have numbers instead of names.
    fn text_for(&self, host: Host) -> String {
        let flag = self.parameter().filter(|p| host == Host::Kamailio && p.kind == ParamType::Flag).and_then(|_| self.text.split('"').nth(5));
        match flag {
            Some(name) => {
                // aaa_flag and radius_flag are one.
                let number = match name {
                    "AAA_ACC" => 5,
                    "AAA_MISSED" => 6,
                    other => other.len(),
                };
                self.text.replace(&format!("\"{name}\")"), &format!("{number})"))
            }
            None => self.text.clone(),
        }
    }

    fn parameter(&self) -> Option<&'static Param> {
        let name = self.text.split('"').nth(3).filter(|_| self.text.starts_with("modparam(\"acc\","))?;
        PARAMS.iter().find(|p| p.name == name)
    }

    /// Whether this server has what it sets, by the declaration.
    fn is_for(&self, host: Host) -> bool {
        let has = self.parameter().is_none_or(|p| match p.hosts {
            Hosts::Both => true,
            Hosts::OpenSips(_) => host == Host::OpenSips,
            Hosts::Kamailio(_) => host == Host::Kamailio,
        });
        has && self.hosts.contains(&host)
    }

    fn is_parameter(&self) -> bool {
        self.text.starts_with("modparam(")
    }

    /// Routes of its own, not statements.
    fn is_route(&self) -> bool {
        self.text.starts_with("event_route[")
    }
}

/// A server that is installed.
struct Server {
    host: Host,
    program: PathBuf,
    /// Its modules, with ours for `acc.so`.
    modules: tempfile::TempDir,
}

/// The module as it was built together with this test.
fn module() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().map(|d| d.join("libacc.so")).find(|p| p.is_file()).expect("libacc.so beside the test")
}

impl Server {
    fn find(host: Host) -> Option<Server> {
        let (program, modules) = match host {
            Host::Kamailio => (PathBuf::from("/usr/sbin/kamailio"), PathBuf::from("/usr/lib/x86_64-linux-gnu/kamailio/modules")),
            Host::OpenSips => {
                let prefix = PathBuf::from(std::env::var_os("OPENSIPS_PREFIX").filter(|prefix| !prefix.is_empty())?);
                let lib = ["lib64", "lib"].map(|lib| prefix.join(lib).join("opensips/modules")).into_iter().find(|path| path.is_dir());
                (prefix.join("sbin/opensips"), lib.expect("modules of OpenSIPS under OPENSIPS_PREFIX"))
            }
        };
        if !program.exists() {
            return None;
        }
        let own = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(modules).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            if name != "acc.so" {
                std::os::unix::fs::symlink(&path, own.path().join(name)).unwrap();
            }
        }
        std::os::unix::fs::symlink(module(), own.path().join("acc.so")).unwrap();
        Some(Server { host, program, modules: own })
    }

    /// The modules that an incomplete piece may use.
    fn frame(&self) -> String {
        let mut modules = vec!["tm", "sl", "rr", "dialog"];
        modules.extend(match self.host {
            Host::OpenSips => ["proto_udp", "signaling", "sipmsgops"].as_slice(),
            Host::Kamailio => ["mqueue", "pv", "siputils", "textops", "xlog"].as_slice(),
        });
        let mut text = match self.host {
            Host::OpenSips => format!("stderror_enabled=yes\nsyslog_enabled=no\nmpath=\"{}/\"\n", self.modules.path().display()),
            Host::Kamailio => format!("#!KAMAILIO\nmpath=\"{}/\"\n", self.modules.path().display()),
        };
        for module in modules.into_iter().chain(["acc"]) {
            let _ = writeln!(text, "loadmodule \"{module}.so\"");
        }
        text
    }

    /// Starts it with this configuration, waits for its delivery process, and stops it in an orderly way.
    fn loads(&self, at: &str, text: &str) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { server: self, dir: dir.path(), port: common::servers::free_port() };
        let file = dir.path().join("config");
        fs::write(&file, place.put(text)).unwrap();
        let mut command = Command::new(&self.program);
        command.args(["-m", "64", "-f"]).arg(&file).arg("-w").arg(dir.path()).args(["-l", &format!("udp:127.0.0.1:{}", place.port)]);
        match self.host {
            Host::OpenSips => command.arg("-F"),
            Host::Kamailio => command.args(["-DD", "-E", "-Y"]).arg(dir.path()),
        };
        let said = dir.path().join("said");
        let log = fs::File::create(&said).unwrap();
        let mut running = Running(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let told = || {
            let mut told = String::new();
            fs::File::open(&said).unwrap().read_to_string(&mut told).unwrap();
            format!("{at} in {:?}:\n{}\n{told}", self.host, place.put(text))
        };
        let mut ended = None;
        wait_until(&format!("{at}: the server starts or ends"), || {
            ended = running.0.try_wait().unwrap();
            ended.is_some() || delivers(running.0.id())
        });
        assert!(ended.is_none(), "{}", told());
        assert!(Command::new("kill").arg(running.0.id().to_string()).status().unwrap().success());
        wait_until(&format!("{at}: the server ends"), || {
            ended = running.0.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.unwrap().success(), "{}", told());
        // The tool reads it as the server does: the journal is where the server made it, and nothing is left.
        let out = Command::new(env!("CARGO_BIN_EXE_accctl")).args(["deliver", "--config"]).arg(&file).output().unwrap();
        assert!(out.status.success(), "{}\n{}", told(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()));
    }
}

/// Killed if the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a delivery process descends from this one.
fn delivers(server: u32) -> bool {
    let children = |pid: &str| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut open = vec![server.to_string()];
    while let Some(pid) = open.pop() {
        if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "acc delivery") {
            return true;
        }
        open.extend(children(&pid).split_whitespace().map(String::from));
    }
    false
}

/// Where a configuration runs.
struct Place<'a> {
    server: &'a Server,
    dir: &'a Path,
    port: u16,
}

impl Place<'_> {
    /// The text with this test's ports and paths.
    fn put(&self, text: &str) -> String {
        let dir = self.dir.display();
        let radius = self.dir.join("radius.conf");
        if !radius.exists() {
            // Legs of message flags go to every backend: RADIUS needs attributes of their names.
            let dictionary = self.dir.join("dictionary");
            fs::write(&dictionary, "ATTRIBUTE leg_src 240 string\nATTRIBUTE leg_dst 241 string\nATTRIBUTE leg_end 242 string\n").unwrap();
            fs::write(&radius, format!("acctserver 127.0.0.1:{}:secret\ndictionary {}\n", self.port, dictionary.display())).unwrap();
        }
        let peers = self.dir.join("diameter.conf");
        let avps = self.dir.join("dictionary.opensips");
        if !peers.exists() {
            let peer = format!("ConnectPeer = \"peer.example.org\" {{ ConnectTo = \"127.0.0.1\"; Port = {}; No_TLS; }};\n", self.port);
            fs::write(&peers, format!("Identity = \"sip.example.org\";\n{peer}")).unwrap();
            fs::write(&avps, "ATTRIBUTE out_gw 232 string\nATTRIBUTE leg_src 240 string\nATTRIBUTE leg_dst 241 string\nATTRIBUTE leg_end 242 string\n")
                .unwrap();
        }
        let changes = [
            ("/etc/opensips/diameter.conf", peers.display().to_string()),
            ("/etc/opensips/dictionary.opensips", avps.display().to_string()),
            ("/usr/lib/opensips-acc/acc.so", module().display().to_string()),
            ("/usr/lib/x86_64-linux-gnu/opensips/modules", self.server.modules.path().display().to_string()),
            ("/var/lib/opensips-acc", dir.to_string()),
            ("/var/spool/acc", format!("{dir}/spool")),
            ("/etc/radcli/radiusclient.conf", radius.display().to_string()),
            ("127.0.0.1:5566", format!("127.0.0.1:{}", common::servers::free_port())),
            ("127.0.0.1:5060", format!("127.0.0.1:{}", self.port)),
        ];
        let mut text = changes.iter().fold(text.to_string(), |text, (from, to)| text.replace(from, to));
        if !text.contains("\"journal_dir\"") {
            let _ = writeln!(text, "\nmodparam(\"acc\", \"journal_dir\", \"{dir}/journal\")");
        }
        text
    }
}

/// All that is not complete, in one configuration.
fn together(server: &Server, pieces: &[&Piece]) -> String {
    let mut text = server.frame();
    let parameters: BTreeSet<_> = pieces.iter().filter(|p| p.is_parameter()).map(|p| p.text_for(server.host)).collect();
    for line in parameters {
        let _ = writeln!(text, "{line}");
    }
    // Tags of the examples that no example declares.
    let _ = writeln!(text, "modparam(\"acc\", \"extra_fields\", \"log: note\")");
    let name = if server.host == Host::Kamailio { "request_route" } else { "route" };
    let _ = writeln!(text, "{name} {{");
    for piece in pieces.iter().filter(|p| !p.is_parameter() && !p.is_route() && !p.is_our_line()) {
        let _ = writeln!(text, "# {}\n{}", piece.at, piece.text);
    }
    let _ = writeln!(text, "exit;\n}}");
    for piece in pieces.iter().filter(|p| p.is_route()) {
        let _ = writeln!(text, "{}", piece.text);
    }
    text
}

/// The line that loads acc.so goes before those of all other modules.
fn acc_first(text: &str) -> String {
    let line = text.lines().find(|line| line.starts_with("loadmodule ") && line.ends_with("/acc.so\"")).unwrap_or_else(|| panic!("no acc.so in {text}"));
    let others = text.replace(&format!("{line}\n"), "");
    let first = others.find("loadmodule ").unwrap();
    format!("{}{line}\n{}", &others[..first], &others[first..])
}

fn every_configuration_loads(host: Host) {
    let Some(server) = Server::find(host) else { return skip(&format!("{host:?}")) };
    let all = all_pieces();
    let (complete, parts): (Vec<_>, Vec<_>) = all.iter().filter(|p| p.is_for(host)).partition(|p| p.is_complete());
    assert!(complete.len() >= 2 && parts.len() > 30, "{} and {}", complete.len(), parts.len());
    for piece in complete {
        server.loads(&piece.at, &piece.text);
        // A call that gets no CDR is not let through by mistake.
        let unheard = piece.text.lines().find(|line| line.trim_start().starts_with("do_accounting(") && line.contains("\"cdr"));
        assert_eq!(unheard, None, "{}: what it returns is not looked at", piece.at);
        // docs/reference/versions.md says that OpenSIPS does not mind.
        if host == Host::OpenSips {
            server.loads(&format!("{}, acc.so first", piece.at), &acc_first(&piece.text));
        }
    }
    // The peers of Diameter have one of two names.
    let (clients, parts): (Vec<_>, Vec<_>) = parts.into_iter().partition(|p| p.text.starts_with("modparam(\"acc\", \"diameter_client_"));
    // A node of Diameter is named by a full name, which the peers' file of the others has.
    if fs::read_to_string("/proc/sys/kernel/hostname").unwrap().contains('.') {
        server.loads("a server of Diameter", &together(&server, &clients));
    }
    // Each line is one more stream, of which there are four at most.
    let (streams, mut parts): (Vec<_>, Vec<_>) = parts.into_iter().partition(|p| p.is_parameter() && p.text.contains("\"stream_url\""));
    for some in streams.chunks(3) {
        server.loads("streams", &together(&server, some));
    }
    parts.extend(streams.first());
    server.loads("the others together", &together(&server, &parts));
}

#[test]
fn kamailio_loads_every_configuration_of_the_documents() {
    every_configuration_loads(Host::Kamailio);
}

#[test]
fn opensips_loads_every_configuration_of_the_documents() {
    every_configuration_loads(Host::OpenSips);
}

/// What accctl makes of the example with message flags.
fn what_is_converted_loads(host: Host, example: &str) {
    let Some(server) = Server::find(host) else { return skip(&format!("{host:?}")) };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flags.cfg");
    fs::copy(root().join("examples").join(example), &file).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).arg("convert").arg(&file).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    fs::write(dir.path().join("diff"), out.stdout).unwrap();
    let patched = Command::new("patch").arg("--quiet").arg(&file).stdin(fs::File::open(dir.path().join("diff")).unwrap()).status().unwrap();
    assert!(patched.success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("do_accounting(") && !text.contains("_flag\""), "{text}");
    server.loads(&format!("{example}, converted"), &text);
}

#[test]
fn kamailio_loads_what_flags_are_converted_to() {
    what_is_converted_loads(Host::Kamailio, "kamailio-flags.cfg");
}

#[test]
fn opensips_loads_what_flags_are_converted_to() {
    what_is_converted_loads(Host::OpenSips, "opensips-flags.cfg");
}
