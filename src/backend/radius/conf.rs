//! Reader of the client configuration that `aaa_url` names: the file of radcli,
//! radiusclient-ng and freeradius-client, which operators already have.
//!
//! One `key value` a line, `#` starts a comment. Keys that accounting over UDP does not need
//! are ignored, as those libraries do.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Registered accounting port (RFC 2866 §3), used when a server is named without one.
pub const ACCOUNTING_PORT: u16 = 1813;

/// Initial retransmission time of RFC 5080 §2.2.1 in seconds, when `radius_timeout` is absent.
const DEFAULT_TIMEOUT: u64 = 2;

/// Retransmissions before the next server, when `radius_retries` is absent: the value that the
/// configuration file of radcli comes with.
const DEFAULT_RETRIES: u32 = 3;

/// Seconds for which a silent server is skipped when `radius_deadtime` is absent: short enough that the
/// first server of the list soon gets its work back, long enough that trying it costs little.
const DEFAULT_DEADTIME: u64 = 60;

/// Most servers of a list; the libraries stop at 8.
pub const MAX_SERVERS: usize = 16;

/// A shared secret. It never appears in a log or an error: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Keeps the bytes. They must not be empty (RFC 2865 §3); the reader makes sure of that.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(bytes.into())
    }

    /// The bytes, for the digests.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// One accounting server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Secret shared with it.
    pub secret: Secret,
}

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    /// The file it was read from.
    pub file: PathBuf,
    /// Accounting servers in order of preference, 1 to [`MAX_SERVERS`].
    pub servers: Vec<Server>,
    /// Dictionary file; `None` = the built-in attributes only.
    pub dictionary: Option<PathBuf>,
    /// `radius_timeout`: wait before the first retransmission (1 s to 1 h in the file).
    pub timeout: Duration,
    /// `radius_retries`: retransmissions before the next server, 0 to 100.
    pub retries: u32,
    /// `radius_deadtime`: how long a silent server is skipped, up to one day.
    pub deadtime: Duration,
    /// `nas-identifier`: sent as NAS-Identifier (RFC 2865 §5.32), at most 253 bytes.
    pub nas_identifier: Option<String>,
    /// `nas-ip`: sent as NAS-IP-Address or NAS-IPv6-Address instead of the local address.
    pub nas_ip: Option<IpAddr>,
    /// `bindaddr`: local address of the sockets; `None` (or `*` in the file) = the kernel's choice.
    pub bind: Option<IpAddr>,
}

impl Conf {
    /// Reads `file`, the secrets file it names, and resolves the servers' names.
    ///
    /// Names are resolved here, once, because the caller is still a single process without SIP traffic.
    ///
    /// # Errors
    /// One line that names the file, its line where there is one, and what to change. It never
    /// contains a secret.
    pub fn read(file: &Path) -> Result<Conf, String> {
        let text = read_text(file, "aaa_url names")?;
        let mut raw = Raw::default();
        for (number, line) in lines(&text) {
            let (key, value) = line.split_once(char::is_whitespace).map_or((line, ""), |(k, v)| (k, v.trim()));
            raw.set(key, value, &Place { file, line: number })?;
        }
        raw.finish(file)
    }
}

/// A line of a file, for errors.
struct Place<'a> {
    file: &'a Path,
    line: usize,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A file's text; `why` says who wants it.
pub(super) fn read_text(file: &Path, why: &str) -> Result<String, String> {
    // A FIFO or a device could block the start, or never end.
    let regular = || if file.metadata()?.is_file() { std::fs::read(file) } else { Err(io::Error::other("it is not a regular file")) };
    match regular() {
        // Comments in old files may be Latin-1, so invalid UTF-8 there is accepted.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) => Err(format!("{}: {why} this file, which cannot be read: {e}", file.display())),
    }
}

/// `path`, relative to the directory of the file that names it.
pub(super) fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// Numbered lines without blanks around and without comment lines.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())).filter(|(_, l)| !l.is_empty() && !l.starts_with('#'))
}

/// A server as `acctserver` names it, before the secrets file is read.
struct Named {
    host: String,
    addr: SocketAddr,
    secret: Option<Secret>,
    line: usize,
}

/// The keys as they are met.
#[derive(Default)]
struct Raw {
    servers: Vec<Named>,
    secrets: Option<(PathBuf, usize)>,
    dictionary: Option<PathBuf>,
    timeout: Option<u64>,
    retries: Option<u64>,
    deadtime: Option<u64>,
    nas_identifier: Option<String>,
    nas_ip: Option<IpAddr>,
    bind: Option<IpAddr>,
}

impl Raw {
    fn set(&mut self, key: &str, value: &str, at: &Place<'_>) -> Result<(), String> {
        match key {
            "acctserver" => {
                for item in need(key, value, at)?.split(',').map(str::trim).filter(|s| !s.is_empty()) {
                    let server = server(item, at)?;
                    // A server listed twice would be asked twice before it counts as silent.
                    if self.servers.iter().all(|s| s.addr != server.addr) {
                        self.servers.push(server);
                    }
                }
                if self.servers.len() > MAX_SERVERS {
                    return Err(format!("{at}: acctserver: more than {MAX_SERVERS} servers; shorten the list"));
                }
            }
            "servers" => self.secrets = Some((beside(at.file, need(key, value, at)?), at.line)),
            "dictionary" => self.dictionary = Some(beside(at.file, need(key, value, at)?)),
            "radius_timeout" => self.timeout = Some(number(key, value, 1..=3600, at)?),
            "radius_retries" => self.retries = Some(number(key, value, 0..=100, at)?),
            "radius_deadtime" => self.deadtime = Some(number(key, value, 0..=86400, at)?),
            "nas-identifier" | "nas_identifier" => {
                if need(key, value, at)?.len() > 253 {
                    return Err(format!("{at}: {key}: longer than the 253 bytes that an attribute can hold; shorten it"));
                }
                self.nas_identifier = Some(value.to_owned());
            }
            "nas-ip" => self.nas_ip = Some(need(key, value, at)?.parse().map_err(|_| format!("{at}: nas-ip: '{value}' is not an IPv4 or IPv6 address"))?),
            "bindaddr" => self.bind = if need(key, value, at)? == "*" { None } else { Some(resolve(value, 0, "bindaddr", at)?.ip()) },
            // TLS and DTLS would be sent in the clear, and TCP would not be answered: better to refuse the start.
            "serv-type" | "serv-auth-type" if !value.eq_ignore_ascii_case("udp") => {
                return Err(format!("{at}: {key}: transport '{value}' is not supported; use udp, or a RADIUS proxy on this machine"));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self, file: &Path) -> Result<Conf, String> {
        if self.servers.is_empty() {
            return Err(format!("{}: no acctserver; add a line 'acctserver HOST[:PORT]'", file.display()));
        }
        let mut servers = Vec::with_capacity(self.servers.len());
        let mut secrets = None;
        for named in self.servers {
            let at = Place { file, line: named.line };
            if self.bind.is_some_and(|b| b.is_ipv4() != named.addr.is_ipv4()) {
                return Err(format!(
                    "{at}: acctserver {}: bindaddr is of the other address family; use a local address of the same family, or '*'",
                    named.host
                ));
            }
            let secret = match named.secret {
                Some(s) => s,
                None => {
                    let Some((path, line)) = &self.secrets else {
                        return Err(format!(
                            "{at}: acctserver {}: no secret; write it as HOST:PORT:SECRET or name a file of secrets with 'servers FILE'",
                            named.host
                        ));
                    };
                    if secrets.is_none() {
                        secrets = Some(read_secrets(path, &Place { file, line: *line })?);
                    }
                    // First as written, because a name that does not resolve would delay the start.
                    let find = |resolve| secrets.iter().flatten().find(|s| s.is_for(&named, resolve));
                    find(false).or_else(|| find(true)).map(|s| s.secret.clone()).ok_or_else(|| {
                        format!("{at}: acctserver {}: {} has no secret for it; add a line '{} SECRET'", named.host, path.display(), named.host)
                    })?
                }
            };
            servers.push(Server { addr: named.addr, secret });
        }
        Ok(Conf {
            file: file.to_owned(),
            servers,
            dictionary: self.dictionary,
            timeout: Duration::from_secs(self.timeout.unwrap_or(DEFAULT_TIMEOUT)),
            retries: self.retries.map_or(DEFAULT_RETRIES, |n| n as u32),
            deadtime: Duration::from_secs(self.deadtime.unwrap_or(DEFAULT_DEADTIME)),
            nas_identifier: self.nas_identifier,
            nas_ip: self.nas_ip,
            bind: self.bind,
        })
    }
}

fn need<'a>(key: &str, value: &'a str, at: &Place<'_>) -> Result<&'a str, String> {
    if value.is_empty() { Err(format!("{at}: {key} has no value; give one or remove the line")) } else { Ok(value) }
}

fn number(key: &str, value: &str, range: std::ops::RangeInclusive<u64>, at: &Place<'_>) -> Result<u64, String> {
    match value.parse() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => Err(format!("{at}: {key}: '{value}' is not a number from {} to {}", range.start(), range.end())),
    }
}

/// `host`, `host:port`, `host:port:secret`; an IPv6 address is in brackets, or bare without a port.
fn server(item: &str, at: &Place<'_>) -> Result<Named, String> {
    // The item may hold a secret: errors quote the host only.
    let (host, rest) = if let Some(inner) = item.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or_else(|| format!("{at}: acctserver: '[' without ']'; write an IPv6 address as [ADDRESS]:PORT"))?;
        (host, rest)
    } else if item.parse::<Ipv6Addr>().is_ok() {
        (item, "")
    } else {
        item.find(':').map_or((item, ""), |i| item.split_at(i))
    };
    let host_error = || format!("{at}: acctserver: '{host}' is followed by something other than :PORT or :PORT:SECRET");
    let (port, secret) = match rest.strip_prefix(':') {
        None if rest.is_empty() => (None, None),
        None => return Err(host_error()),
        Some(r) => match r.split_once(':') {
            None => (Some(r), None),
            Some((port, secret)) => (Some(port), Some(secret)),
        },
    };
    if host.is_empty() {
        return Err(format!("{at}: acctserver: a server without a name; write HOST[:PORT[:SECRET]]"));
    }
    let port = match port {
        // An empty port (host::secret) is the default one, as in radcli.
        None | Some("") => ACCOUNTING_PORT,
        Some(p) => p.parse().ok().filter(|&n| n != 0).ok_or_else(|| format!("{at}: acctserver {host}: the port is not a number from 1 to 65535"))?,
    };
    if secret == Some("") {
        return Err(format!("{at}: acctserver {host}: the secret is empty; write one or remove the last colon"));
    }
    Ok(Named { host: host.to_owned(), addr: resolve(host, port, "acctserver", at)?, secret: secret.map(Secret::new), line: at.line })
}

/// The first address of `host`: the order is the resolver's (RFC 6724).
fn resolve(host: &str, port: u16, key: &str, at: &Place<'_>) -> Result<SocketAddr, String> {
    let cure = "correct the name, or write the address";
    match socket_addrs(host, port) {
        Ok(mut found) => found.next().ok_or_else(|| format!("{at}: {key}: '{host}' has no address; {cure}")),
        Err(e) => Err(format!("{at}: {key}: '{host}' cannot be resolved ({e}); {cure}")),
    }
}

/// A line of the secrets file: `server secret` or `host/host secret`.
struct SecretLine {
    hosts: (String, Option<String>),
    secret: Secret,
}

impl SecretLine {
    /// In the form with two hosts, one is the server and the other one this machine, in either order.
    fn is_for(&self, server: &Named, resolve: bool) -> bool {
        match &self.hosts {
            (host, None) => names(host, server, resolve),
            (a, Some(b)) => (names(b, server, resolve) && is_local(a)) || (names(a, server, resolve) && is_local(b)),
        }
    }
}

/// Is `host` the server: by name, by address or, if names may be resolved, by one of its addresses?
fn names(host: &str, server: &Named, resolve: bool) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match literal {
        Ok(ip) => ip == server.addr.ip(),
        Err(_) => host.eq_ignore_ascii_case(&server.host) || (resolve && addresses(host).any(|ip| ip == server.addr.ip())),
    }
}

/// Is `host` an address of this machine, so that a socket can be bound to it?
fn is_local(host: &str) -> bool {
    addresses(host).any(|ip| UdpSocket::bind((ip, 0)).is_ok())
}

fn addresses(host: &str) -> impl Iterator<Item = IpAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    socket_addrs(host, 0).into_iter().flatten().map(|a| a.ip())
}

/// Asks the resolver, except in a fuzz target, whose names are random.
fn socket_addrs(host: &str, port: u16) -> io::Result<std::vec::IntoIter<SocketAddr>> {
    if cfg!(fuzzing) {
        let ip = host.parse::<IpAddr>().map_err(io::Error::other)?;
        return Ok(vec![SocketAddr::new(ip, port)].into_iter());
    }
    (host, port).to_socket_addrs()
}

fn read_secrets(file: &Path, named_at: &Place<'_>) -> Result<Vec<SecretLine>, String> {
    let text = read_text(file, &format!("{named_at} ('servers') names"))?;
    let mut out = Vec::new();
    for (line, l) in lines(&text) {
        let mut words = l.split_whitespace();
        let (Some(hosts), Some(secret)) = (words.next(), words.next()) else {
            return Err(format!("{}: a host without a secret; write 'HOST SECRET'", Place { file, line }));
        };
        let hosts = hosts.split_once('/').map_or_else(|| (hosts.to_owned(), None), |(a, b)| (a.to_owned(), Some(b.to_owned())));
        out.push(SecretLine { hosts, secret: Secret::new(secret) });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(conf: &str, secrets: &str) -> Result<Conf, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.conf");
        std::fs::write(&file, conf).unwrap();
        std::fs::write(dir.path().join("servers"), secrets).unwrap();
        // The directory is different each time: errors are compared without it.
        Conf::read(&file).map_err(|e| e.replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn the_usual_file() {
        let c = read(
            "# comment\nauthserver 127.0.0.1\nacctserver\t127.0.0.1:1899 , [::1]:1900\nservers servers\ndictionary dict\ndefault_realm\n\
             radius_timeout 5\nradius_retries 1\nradius_deadtime 7\nnas_identifier proxy one\nbindaddr *\nmapfile x\nlogin_tries 4\n",
            "127.0.0.1  one\n::1 two # trailing\n",
        )
        .unwrap();
        assert_eq!(
            c.servers.iter().map(|s| (s.addr.to_string(), s.secret.bytes().to_vec())).collect::<Vec<_>>(),
            [("127.0.0.1:1899".to_owned(), b"one".to_vec()), ("[::1]:1900".to_owned(), b"two".to_vec())]
        );
        assert!(c.dictionary.unwrap().ends_with("dict"));
        assert_eq!((c.timeout.as_secs(), c.retries, c.deadtime.as_secs()), (5, 1, 7));
        assert_eq!((c.nas_identifier.as_deref(), c.bind), (Some("proxy one"), None));
    }

    #[test]
    fn servers_ports_and_secrets() {
        for (line, secrets, want) in [
            ("127.0.0.1", "127.0.0.1 s", "127.0.0.1:1813=s"),
            ("127.0.0.1:1:in:line", "", "127.0.0.1:1=in:line"),
            ("127.0.0.1::inline", "", "127.0.0.1:1813=inline"),
            ("::1", "::1 s", "[::1]:1813=s"),
            ("[::1]", "[::1] s", "[::1]:1813=s"),
            ("[::1]:7:x", "", "[::1]:7=x"),
            ("127.0.0.1:5:a,127.0.0.2:6:b", "", "127.0.0.1:5=a 127.0.0.2:6=b"),
            ("127.0.0.1:5:a\nacctserver 127.0.0.2:6:b", "", "127.0.0.1:5=a 127.0.0.2:6=b"),
            ("127.0.0.1:5:a,127.0.0.1:5:b", "", "127.0.0.1:5=a"),
            // Of two lines for one server, the one whose other half is this machine counts.
            ("203.0.113.9", "192.0.2.1/203.0.113.9 theirs\n127.0.0.1/203.0.113.9 ours", "203.0.113.9:1813=ours"),
            ("203.0.113.9", "203.0.113.9/127.0.0.1 ours", "203.0.113.9:1813=ours"),
            ("127.0.0.1", "localhost s", "127.0.0.1:1813=s"),
            ("127.0.0.1", "no-such-host.invalid x\nlocalhost s", "127.0.0.1:1813=s"),
            ("127.0.0.1", "198.51.100.1 other\n127.0.0.1 first\n127.0.0.1 second", "127.0.0.1:1813=first"),
        ] {
            let c = read(&format!("acctserver {line}\nservers servers\n"), secrets).unwrap_or_else(|e| panic!("{line}: {e}"));
            let got: Vec<_> = c.servers.iter().map(|s| format!("{}={}", s.addr, String::from_utf8_lossy(s.secret.bytes()))).collect();
            assert_eq!(got.join(" "), want, "{line}");
        }
    }

    #[test]
    fn names_are_resolved() {
        let c = read("acctserver localhost:1813:s\n", "").unwrap();
        assert!(c.servers[0].addr.ip().is_loopback());
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let c = read("acctserver 127.0.0.1:1813:s\n", "").unwrap();
        assert_eq!((c.timeout.as_secs(), c.retries, c.deadtime.as_secs(), c.dictionary), (2, 3, 60, None));
    }

    #[test]
    fn errors_name_file_line_and_cure_but_no_secret() {
        for (conf, secrets, want) in [
            ("", "", "client.conf: no acctserver; add a line"),
            ("\nacctserver\n", "", "client.conf:2: acctserver has no value"),
            ("acctserver 127.0.0.1\n", "", "client.conf:1: acctserver 127.0.0.1: no secret; write it as"),
            (
                "acctserver 127.0.0.1\nservers servers\n",
                "127.0.0.9 hidden",
                "client.conf:1: acctserver 127.0.0.1: servers has no secret for it; add a line '127.0.0.1 SECRET'",
            ),
            ("acctserver 127.0.0.1\nservers servers\n", "# c\n127.0.0.1\n", "servers:2: a host without a secret"),
            ("acctserver 127.0.0.1\nservers gone\n", "", "gone: client.conf:2 ('servers') names this file, which cannot be read"),
            ("acctserver 127.0.0.1:http:hidden\n", "", "client.conf:1: acctserver 127.0.0.1: the port is not a number"),
            ("acctserver 127.0.0.1:0:hidden\n", "", "client.conf:1: acctserver 127.0.0.1: the port is not a number"),
            ("acctserver 127.0.0.1:1:\n", "", "client.conf:1: acctserver 127.0.0.1: the secret is empty"),
            ("acctserver :1:hidden\n", "", "client.conf:1: acctserver: a server without a name"),
            ("acctserver [::1\n", "", "client.conf:1: acctserver: '[' without ']'"),
            ("acctserver [::1]x:hidden\n", "", "client.conf:1: acctserver: '::1' is followed by something other"),
            ("acctserver no-such-host.invalid:1:hidden\n", "", "client.conf:1: acctserver: 'no-such-host.invalid' cannot be resolved"),
            ("acctserver 127.0.0.1:1:hidden\nradius_timeout 0\n", "", "client.conf:2: radius_timeout: '0' is not a number from 1 to 3600"),
            ("acctserver 127.0.0.1:1:hidden\nradius_retries -1\n", "", "client.conf:2: radius_retries: '-1' is not a number from 0 to 100"),
            ("acctserver 127.0.0.1:1:hidden\nradius_deadtime x\n", "", "client.conf:2: radius_deadtime: 'x' is not a number"),
            ("acctserver 127.0.0.1:1:hidden\nbindaddr ::1\n", "", "client.conf:1: acctserver 127.0.0.1: bindaddr is of the other address family"),
            ("acctserver 127.0.0.1:1:hidden\nnas-ip here\n", "", "client.conf:2: nas-ip: 'here' is not"),
            ("acctserver 127.0.0.1:1:hidden\nserv-type tls\n", "", "client.conf:2: serv-type: transport 'tls' is not supported"),
        ] {
            let e = read(conf, secrets).unwrap_err();
            assert!(e.starts_with(want), "{conf:?} gave {e:?}");
            assert!(!e.contains("hidden"), "{e}");
        }
        let many: Vec<_> = (1..=17).map(|n| format!("127.0.0.{n}:1:s")).collect();
        assert!(read(&format!("acctserver {}\n", many.join(",")), "").unwrap_err().contains("more than 16 servers"));
        let e = Conf::read(Path::new("/nonexistent/radius.conf")).unwrap_err();
        assert!(e.starts_with("/nonexistent/radius.conf: aaa_url names this file, which cannot be read"), "{e}");
    }

    #[test]
    fn debug_hides_the_secret() {
        assert!(!format!("{:?}", read("acctserver 127.0.0.1:1813:s3cr3t\n", "").unwrap()).contains("s3cr3t"));
    }
}
