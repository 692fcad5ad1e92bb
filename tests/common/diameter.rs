//! Diameter servers of our own: freeDiameter with an extension that answers, and the one of Erlang/OTP. What they took is
//! in a file.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use acc::backend::diameter::codec::{self, RETRANSMITTED};

use super::servers::free_port;
use super::{skip, wait_until};

/// Its program.
const FREEDIAMETER: &str = "/usr/bin/freeDiameterd";
/// Where Debian keeps its extensions.
pub const EXTENSIONS: &str = "/usr/lib/freeDiameter";
const HEADERS: &str = "/usr/include/freeDiameter/extension.h";

/// A server that may be killed and started again; what it took stays in its file.
pub struct Server {
    dir: tempfile::TempDir,
    /// Where it listens.
    pub port: u16,
    command: Vec<String>,
    environment: Vec<(&'static str, String)>,
    child: Option<Child>,
}

impl Server {
    /// Starts it, again after it was killed.
    pub fn run(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .envs(self.environment.iter().map(|(k, v)| (*k, v.as_str())))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let address = format!("127.0.0.1:{}", self.port);
        wait_until("the server listens", || std::net::TcpStream::connect(&address).is_ok());
    }

    /// Ends it without a farewell.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It was not killed.
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// What it took, a line for each request.
    pub fn lines(&self) -> Vec<String> {
        let file = self.dir.path().join("requests");
        std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Of a file with peers.
    pub fn line(&self) -> String {
        peer(self.port)
    }
}

/// A request as freeDiameter noted it.
pub struct Noted {
    pub flags: u8,
    pub avps: HashMap<u32, Vec<u8>>,
}

impl Noted {
    pub fn of(line: &str) -> Option<Noted> {
        let bytes: Option<Vec<u8>> = (0..line.len() / 2).map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).ok()).collect();
        let bytes = bytes?;
        let (header, avps) = codec::decode(&bytes).ok()?;
        let avps = avps.flatten().map(|a| (a.attribute.code, a.value.to_vec())).collect();
        Some(Noted { flags: header.flags, avps })
    }

    pub fn number(&self, code: u32) -> Option<u32> {
        self.avps.get(&code).map(|v| u32::from_be_bytes(v[..].try_into().unwrap()))
    }

    pub fn text(&self, code: u32) -> String {
        String::from_utf8(self.avps[&code].clone()).unwrap()
    }
}

/// A request that a server took: which record, and whether it is a repetition.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Session-Id and number.
    pub name: (String, u32),
    /// Accounting-Record-Type.
    pub kind: u32,
    /// The T flag.
    pub repeats: bool,
}

/// What freeDiameter took, in its order.
pub fn of_freediameter(server: &Server) -> Vec<Taken> {
    let noted = server.lines().into_iter().filter_map(|l| Noted::of(&l));
    noted.map(|n| Taken { name: (n.text(263), n.number(485).unwrap()), kind: n.number(480).unwrap(), repeats: n.flags & RETRANSMITTED != 0 }).collect()
}

/// What Erlang/OTP took, in its order.
pub fn of_otp(server: &Server) -> Vec<Taken> {
    let lines = server.lines();
    let words = lines.iter().map(|l| l.split(' ').collect::<Vec<_>>()).filter(|w| w.len() == 5);
    words.map(|w| Taken { name: (w[0].to_owned(), w[1].parse().unwrap()), kind: w[4].parse().unwrap(), repeats: w[2] == "true" }).collect()
}

/// The line of a server at a port, in a file with peers.
pub fn peer(port: u16) -> String {
    format!("ConnectPeer = \"srv.acc.test\" {{ ConnectTo = \"127.0.0.1\"; Port = {port}; No_TLS; TwTimer = 6; TcTimer = 1; }};\n")
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// freeDiameter with more lines in its configuration; `None` where it is not installed.
pub fn freediameter(lines: &str, environment: &[(&'static str, &str)], tls: Option<&Path>) -> Option<Server> {
    for needed in [FREEDIAMETER, HEADERS, "/usr/lib/freeDiameter/acl_wl.fdx"] {
        if !Path::new(needed).exists() {
            skip(needed);
            return None;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let extension = dir.path().join("acct_echo.fdx");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/diameter/acct_echo.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&extension).arg(source).status().unwrap();
    assert!(built.success());
    let port = free_port();
    let (ports, acl) = match tls {
        None => (format!("Port = {port}; SecPort = 0;"), "ALLOW_IPSEC *.acc.test\n"),
        Some(d) => {
            let d = d.display();
            (format!("Port = 0; SecPort = {port}; TLS_Cred = \"{d}/srv.pem\", \"{d}/srv.key\"; TLS_CA = \"{d}/ca.pem\";"), "*.acc.test\n")
        }
    };
    std::fs::write(dir.path().join("acl.conf"), acl).unwrap();
    let conf = format!(
        "Identity = \"srv.acc.test\"; Realm = \"acc.test\"; {ports} No_SCTP; No_IPv6; NoRelay; TwTimer = 6;\n{lines}\n\
         LoadExtension = \"{}\";\nLoadExtension = \"{EXTENSIONS}/acl_wl.fdx\" : \"{}\";\n",
        extension.display(),
        dir.path().join("acl.conf").display()
    );
    std::fs::write(dir.path().join("server.conf"), conf).unwrap();
    let file = ("ACCT_FILE", dir.path().join("requests").display().to_string());
    let environment = [file].into_iter().chain(environment.iter().map(|(k, v)| (*k, (*v).to_owned()))).collect();
    let command = vec![FREEDIAMETER.to_owned(), "-c".to_owned(), dir.path().join("server.conf").display().to_string()];
    let mut server = Server { dir, port, command, environment, child: None };
    server.run();
    Some(server)
}

/// Erlang/OTP; `None` where it is not installed.
pub fn otp() -> Option<Server> {
    let library = std::fs::read_dir("/usr/lib/erlang/lib").into_iter().flatten().flatten().any(|e| e.file_name().to_string_lossy().starts_with("diameter-"));
    if !library || Command::new("erlc").arg("-help").output().is_err() {
        skip("erlang-diameter");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/diameter/acct_srv.erl");
    let built = Command::new("erlc").arg("-o").arg(dir.path()).arg(source).status().unwrap();
    assert!(built.success());
    let port = free_port();
    let file = dir.path().join("requests").display().to_string();
    let pa = dir.path().display().to_string();
    let command = ["erl", "-noshell", "-pa", &pa, "-s", "acct_srv", "main", "-extra", &port.to_string(), &file].map(str::to_owned).to_vec();
    let mut server = Server { dir, port, command, environment: vec![], child: None };
    server.run();
    Some(server)
}
