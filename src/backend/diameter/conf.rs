//! The file with the peers, in the grammar of freeDiameter's own configuration, which
//! `aaa_diameter` of OpenSIPS uses.
//!
//! Keys that a client does not need are skipped; what would matter and cannot be honoured stops the start.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::stats::MAX_PEERS;

/// Diameter over TCP (RFC 6733 §2.1).
pub const PORT: u16 = 3868;
/// The default of freeDiameter for TLS; 5658 is the registered one.
pub const TLS_PORT: u16 = 5868;
/// Maximum depth of nested files, as in freeDiameter.
const MAX_DEPTH: usize = 5;
/// Pause before a connection is tried again (RFC 6733 §2.1), and the watchdog's (RFC 3539 §3.4.1), in seconds.
const TIMER: u64 = 30;
/// The watchdog must not be faster than this (RFC 3539 §3.4.1).
const TW_MIN: u64 = 6;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its Origin-Host.
    pub id: String,
    /// Where it listens: a name or an address, resolved at each connection.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TLS from the first byte on (RFC 6733 §2.1).
    pub tls: bool,
    /// Its realm, if the file gives it.
    pub realm: Option<String>,
    /// Pause before a connection is tried again.
    pub tc: Duration,
    /// After this much silence, the watchdog asks.
    pub tw: Duration,
}

/// Files of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// This node's certificate chain and its key.
    pub cred: Option<(PathBuf, PathBuf)>,
    /// Authorities; none: those of the system.
    pub ca: Option<PathBuf>,
}

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    /// The file it was read from; `None` if parameters name the peer.
    pub file: Option<PathBuf>,
    /// This node's Origin-Host.
    pub identity: String,
    /// This node's Origin-Realm.
    pub realm: String,
    /// Servers in order of preference, 1 to [`MAX_PEERS`].
    pub peers: Vec<Peer>,
    /// For peers with TLS.
    pub tls: Tls,
    /// Local address of connections; none: the kernel's choice.
    pub source: Option<IpAddr>,
}

impl Conf {
    /// Reads the file and what it includes.
    ///
    /// # Errors
    /// One line that names the file, its line where there is one, and what to change.
    pub fn read(file: &Path) -> Result<Conf, String> {
        let mut tokens = Vec::new();
        tokenize(file, "the parameter names", &mut tokens, 0)?;
        let mut raw = Raw::default();
        let mut statements = Statements { tokens: &tokens };
        while let Some(statement) = statements.next()? {
            raw.take(&statement)?;
        }
        raw.finish(file)
    }

    /// One peer without TLS and without a file.
    ///
    /// # Errors
    /// This machine has no full name, which the peer needs.
    pub fn of_host(host: &str, port: u16) -> Result<Conf, String> {
        let (identity, realm) = own_name(None, None, "diameter_client_host: name the peers in a file (diameter_url) with a line Identity = \"...\";")?;
        let second = Duration::from_secs(TIMER);
        let peer = Peer { id: host.to_owned(), host: host.to_owned(), port, tls: false, realm: None, tc: second, tw: second };
        Ok(Conf { file: None, identity, realm, peers: vec![peer], tls: Tls::default(), source: None })
    }

    /// Destination-Realm, unless a parameter sets it.
    pub fn destination_realm(&self) -> &str {
        self.peers.first().and_then(|p| p.realm.as_deref()).unwrap_or(&self.realm)
    }

    /// Name of this configuration in messages.
    pub fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "diameter_client_host".to_owned(), |f| f.display().to_string())
    }
}

/// A file's text; `why` says who wants it.
pub(super) fn read_text(file: &Path, why: &str) -> Result<String, String> {
    // A FIFO or a device could block the start, or never end.
    let regular = || if file.metadata()?.is_file() { std::fs::read(file) } else { Err(io::Error::other("it is not a regular file")) };
    match regular() {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) => Err(format!("{}: {why} this file, which cannot be read: {e}", file.display())),
    }
}

/// Identity and realm: as given, otherwise the machine's full name, and what follows its first dot.
fn own_name(identity: Option<String>, realm: Option<String>, cure: &str) -> Result<(String, String), String> {
    let identity = match identity {
        Some(identity) => identity,
        None => std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
    };
    let realm = realm.or_else(|| identity.split_once('.').map(|(_, realm)| realm.to_owned()).filter(|r| !r.is_empty()));
    match realm {
        Some(realm) => Ok((identity, realm)),
        None => Err(format!("{cure} the name of this machine, '{identity}', has no dot, and a Diameter node needs a full name and a realm")),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Number(u64),
    Sign(char),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(w) => write!(f, "'{w}'"),
            Token::Quoted(q) => write!(f, "\"{q}\""),
            Token::Number(n) => write!(f, "{n}"),
            Token::Sign(c) => write!(f, "'{c}'"),
        }
    }
}

/// A token and its place.
struct Placed {
    token: Token,
    file: std::rc::Rc<Path>,
    line: usize,
}

impl Placed {
    fn at(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// Appends the tokens of a file, with those of included files where these are included.
fn tokenize(file: &Path, why: &str, out: &mut Vec<Placed>, depth: usize) -> Result<(), String> {
    let text = read_text(file, why)?;
    let name: std::rc::Rc<Path> = file.into();
    for (i, line) in text.lines().enumerate() {
        let at = || format!("{}:{}", file.display(), i + 1);
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            let word = |rest: &str| rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (token, length) = match c {
                '#' => break,
                c if c.is_whitespace() => {
                    rest = rest.trim_start();
                    continue;
                }
                '"' => {
                    let end = rest[1..].find('"').ok_or_else(|| format!("{}: a '\"' without another one on the line; add it", at()))?;
                    (Token::Quoted(rest[1..=end].to_owned()), end + 2)
                }
                '=' | ',' | ':' | ';' | '{' | '}' => (Token::Sign(c), 1),
                c if c.is_ascii_digit() => {
                    let n = word(rest);
                    (Token::Number(rest[..n].parse().map_err(|_| format!("{}: '{}' is not a number", at(), &rest[..n]))?), n)
                }
                c if c.is_ascii_alphanumeric() || c == '_' => {
                    let n = word(rest);
                    (Token::Word(rest[..n].to_owned()), n)
                }
                c => return Err(format!("{}: '{}' means nothing here; put names and addresses in \"quotes\"", at(), c.escape_default())),
            };
            rest = &rest[length..];
            let included = match (&token, out.last()) {
                (Token::Quoted(path), Some(Placed { token: Token::Word(w), .. })) if w.eq_ignore_ascii_case("include") => Some(path.clone()),
                _ => None,
            };
            let Some(path) = included else {
                out.push(Placed { token, file: name.clone(), line: i + 1 });
                continue;
            };
            out.pop();
            if depth >= MAX_DEPTH {
                return Err(format!("{}: more than {MAX_DEPTH} files inside one another; include fewer levels", at()));
            }
            for file in matching(&beside(file, &path)) {
                tokenize(&file, &format!("{} includes", at()), out, depth + 1)?;
            }
        }
    }
    Ok(())
}

/// `path`, relative to the directory of the file that names it.
fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// The files that match a name with '*', in the order of their names; without a '*', the name itself.
fn matching(path: &Path) -> Vec<PathBuf> {
    let pattern = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let Some((begin, end)) = pattern.split_once('*') else { return vec![path.to_owned()] };
    let directory = path.parent().unwrap_or(Path::new(""));
    let fits = |name: &str| name.len() + 1 >= pattern.len() && name.starts_with(begin) && name.ends_with(end) && !name.starts_with('.');
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|e| e.path()).filter(|p| p.file_name().is_some_and(|n| fits(&n.to_string_lossy()))).collect();
    files.sort();
    files
}

/// `Key;`, `Key = value;`, `Key = value, value;`, `Key = value : value;` or a peer with its block.
struct Statement<'a> {
    key: String,
    at: String,
    values: Vec<&'a Token>,
    /// The block of a peer.
    block: Vec<Statement<'a>>,
}

struct Statements<'a> {
    tokens: &'a [Placed],
}

impl<'a> Statements<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.first().map(|p| &p.token)
    }

    /// The next statement; `None` at the end of the file or of a block.
    fn next(&mut self) -> Result<Option<Statement<'a>>, String> {
        self.statement(false)
    }

    fn statement(&mut self, inside: bool) -> Result<Option<Statement<'a>>, String> {
        let tokens = self.tokens;
        let Some((first, rest)) = tokens.split_first() else { return Ok(None) };
        if inside && first.token == Token::Sign('}') {
            return Ok(None);
        }
        let Token::Word(key) = &first.token else { return Err(format!("{}: a key was expected, not {}", first.at(), first.token)) };
        let mut statement = Statement { key: key.clone(), at: first.at(), values: Vec::new(), block: Vec::new() };
        self.tokens = rest;
        let mut separators: &[char] = &['='];
        loop {
            let wrong = |place: &Placed| Err(format!("{}: {key}: ';' was expected before {}", place.at(), place.token));
            let Some((place, rest)) = self.tokens.split_first() else { return Err(format!("{}: {key}: the statement is never ended; add ';'", statement.at)) };
            self.tokens = rest;
            match &place.token {
                Token::Sign(';') => return Ok(Some(statement)),
                Token::Sign(c) if separators.contains(c) => {
                    let Some((value, rest)) = self.tokens.split_first() else { continue };
                    if !matches!(value.token, Token::Quoted(_) | Token::Number(_)) {
                        return Err(format!("{}: {key}: a value was expected, not {}", value.at(), value.token));
                    }
                    statement.values.push(&value.token);
                    self.tokens = rest;
                    separators = &[',', ':'];
                }
                Token::Sign('{') if !inside && statement.block.is_empty() => {
                    while let Some(member) = self.statement(true)? {
                        statement.block.push(member);
                    }
                    match self.peek() {
                        Some(Token::Sign('}')) => self.tokens = &self.tokens[1..],
                        _ => return Err(format!("{}: {key}: its block is never ended; add '}};'", statement.at)),
                    }
                }
                _ => return wrong(place),
            }
        }
    }
}

impl Statement<'_> {
    fn text(&self) -> Result<String, String> {
        match self.values[..] {
            [Token::Quoted(text)] if !text.is_empty() => Ok(text.clone()),
            _ => Err(format!("{}: {}: one value in quotes was expected: {} = \"...\";", self.at, self.key, self.key)),
        }
    }

    /// A name of a node or realm.
    fn identity(&self) -> Result<String, String> {
        let text = self.text()?;
        let plain = text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic() && b != b';');
        if plain {
            Ok(text)
        } else {
            Err(format!(
                "{}: {}: \"{}\" is not the name of a Diameter node: at most 255 letters, digits, '-' and '.'",
                self.at,
                self.key,
                text.escape_default()
            ))
        }
    }

    fn number(&self, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
        match self.values[..] {
            [Token::Number(n)] if range.contains(n) => Ok(*n),
            _ => Err(format!("{}: {}: a number from {} to {} was expected", self.at, self.key, range.start(), range.end())),
        }
    }

    fn seconds(&self, least: u64) -> Result<Duration, String> {
        self.number(least..=86400).map(Duration::from_secs)
    }

    fn files(&self) -> Result<Vec<PathBuf>, String> {
        let here = self.at.rsplit_once(':').map_or("", |(file, _)| file);
        let paths: Option<Vec<_>> = self.values.iter().map(|v| if let Token::Quoted(q) = v { Some(beside(Path::new(here), q)) } else { None }).collect();
        let paths = paths.ok_or_else(|| format!("{}: {}: the names of files are put in quotes", self.at, self.key))?;
        for path in &paths {
            std::fs::File::open(path).map_err(|e| format!("{}: {}: {} cannot be read: {e}", self.at, self.key, path.display()))?;
        }
        Ok(paths)
    }
}

/// A peer as the file has it; what it leaves out comes from the whole file.
struct RawPeer {
    id: String,
    at: String,
    host: Option<String>,
    port: Option<u16>,
    tls: bool,
    realm: Option<String>,
    tc: Option<Duration>,
    tw: Option<Duration>,
}

/// The keys as they are met.
#[derive(Default)]
struct Raw {
    identity: Option<String>,
    realm: Option<String>,
    peers: Vec<RawPeer>,
    tls: Tls,
    source: Option<IpAddr>,
    tc: Option<Duration>,
    tw: Option<Duration>,
    ignored: Vec<String>,
}

impl Raw {
    fn take(&mut self, s: &Statement<'_>) -> Result<(), String> {
        match s.key.to_ascii_lowercase().as_str() {
            "identity" => self.identity = Some(s.identity()?),
            "realm" => self.realm = Some(s.identity()?),
            "tctimer" => self.tc = Some(s.seconds(1)?),
            "twtimer" => self.tw = Some(s.seconds(TW_MIN)?),
            "listenon" => {
                let address = s.text()?.parse().map_err(|_| format!("{}: ListenOn: an IPv4 or IPv6 address was expected", s.at))?;
                // Several are of both families, or of SCTP.
                self.source.get_or_insert(address);
            }
            "connectpeer" => {
                let peer = peer(s)?;
                // A peer listed twice would be asked twice before the next one is.
                if self.peers.iter().any(|p| p.id.eq_ignore_ascii_case(&peer.id)) {
                    return Err(format!("{}: ConnectPeer \"{}\" is there twice; remove one", s.at, peer.id));
                }
                self.peers.push(peer);
                if self.peers.len() > MAX_PEERS {
                    return Err(format!("{}: more than {MAX_PEERS} peers; remove some", s.at));
                }
            }
            "tls_cred" => match &s.files()?[..] {
                [cert, key] => self.tls.cred = Some((cert.clone(), key.clone())),
                _ => return Err(format!("{}: TLS_Cred: a certificate and a key were expected: TLS_Cred = \"cert.pem\", \"key.pem\";", s.at)),
            },
            "tls_ca" => match &s.files()?[..] {
                [ca] => self.tls.ca = Some(ca.clone()),
                _ => return Err(format!("{}: TLS_CA: one file was expected", s.at)),
            },
            "port"
            | "secport"
            | "no_sctp"
            | "no_ip"
            | "no_ipv6"
            | "prefer_tcp"
            | "sctp_streams"
            | "appservthreads"
            | "norelay"
            | "loadextension"
            | "tls_prio"
            | "tls_dh_bits"
            | "tls_dh_file"
            | "processingpeerspattern"
            | "processingpeersminimum"
            | "routinginthreads"
            | "routingoutthreads"
            | "qinlimit"
            | "qoutlimit"
            | "qlocallimit" => self.ignored.push(s.key.clone()),
            "no_tcp" => return Err(format!("{}: No_TCP: only TCP is spoken here; remove the line", s.at)),
            "tls_old_method" => return Err(format!("{}: TLS_old_method: TLS after the capabilities exchange is not supported; remove the line", s.at)),
            "tls_crl" => return Err(format!("{}: TLS_CRL: revocation lists are not read, and ignoring them would not be safe; remove the line", s.at)),
            _ => return Err(format!("{}: '{}' is not a key of freeDiameter's configuration; correct or remove the line", s.at, s.key)),
        }
        Ok(())
    }

    fn finish(self, file: &Path) -> Result<Conf, String> {
        if self.peers.is_empty() {
            return Err(format!("{}: no ConnectPeer; add a line ConnectPeer = \"NAME\" {{ ConnectTo = \"ADDRESS\"; No_TLS; }};", file.display()));
        }
        let cure = format!("{}: no Identity and Realm: add the lines Identity = \"NAME\"; and Realm = \"REALM\";,", file.display());
        let (identity, realm) = own_name(self.identity, self.realm, &cure)?;
        let timer = Duration::from_secs(TIMER);
        let mut peers = Vec::with_capacity(self.peers.len());
        for p in self.peers {
            if p.id.eq_ignore_ascii_case(&identity) {
                return Err(format!("{}: ConnectPeer \"{}\" is this node itself; give it another Identity", p.at, p.id));
            }
            peers.push(Peer {
                host: p.host.unwrap_or_else(|| p.id.clone()),
                id: p.id,
                port: p.port.unwrap_or(if p.tls { TLS_PORT } else { PORT }),
                tls: p.tls,
                realm: p.realm,
                tc: p.tc.or(self.tc).unwrap_or(timer),
                tw: p.tw.or(self.tw).unwrap_or(timer),
            });
        }
        if !self.ignored.is_empty() {
            log::info!("{}: {} do not concern a client over TCP and are ignored", file.display(), self.ignored.join(", "));
        }
        Ok(Conf { file: Some(file.to_owned()), identity, realm, peers, tls: self.tls, source: self.source })
    }
}

fn peer(s: &Statement<'_>) -> Result<RawPeer, String> {
    let mut peer = RawPeer { id: s.identity()?, at: s.at.clone(), host: None, port: None, tls: true, realm: None, tc: None, tw: None };
    for m in &s.block {
        match m.key.to_ascii_lowercase().as_str() {
            // The first of several addresses.
            "connectto" => {
                let host = m.identity()?;
                peer.host.get_or_insert(host);
            }
            "port" => peer.port = Some(m.number(1..=65535)? as u16),
            "no_tls" => peer.tls = false,
            "realm" => peer.realm = Some(m.identity()?),
            "tctimer" => peer.tc = Some(m.seconds(1)?),
            "twtimer" => peer.tw = Some(m.seconds(TW_MIN)?),
            "no_ip" | "no_ipv6" | "no_sctp" | "prefer_tcp" | "tls_prio" => {}
            "no_tcp" => return Err(format!("{}: No_TCP: only TCP is spoken here; remove the line", m.at)),
            "tls_old_method" => return Err(format!("{}: TLS_old_method: TLS after the capabilities exchange is not supported; remove the line", m.at)),
            _ => return Err(format!("{}: '{}' is not a key of a ConnectPeer; correct or remove the line", m.at, m.key)),
        }
    }
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Conf, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let at = format!("{}/", dir.path().display());
        Conf::read(&dir.path().join(files[0].0)).map_err(|e| e.replace(&at, "")).map(|mut c| {
            let short = |p: &mut PathBuf| *p = p.strip_prefix(dir.path()).unwrap().to_owned();
            c.file.iter_mut().chain(&mut c.tls.ca).for_each(short);
            c.tls.cred.iter_mut().for_each(|(a, b)| [a, b].into_iter().for_each(short));
            c
        })
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// The configuration of the original's tutorial, with a second peer and every key that is read.
    #[test]
    fn a_file_of_freediameter_is_read() {
        let conf = read(&[
            (
                "c.conf",
                "# a comment\nIdentity = \"sip1.acc.test\";\nrealm=\"acc.test\"; Port = 3866; SecPort = 3867;\nNo_SCTP; No_IPv6;\nTLS_Cred = \"cert\" , \"key\";\nTLS_CA = \"ca\";\n\
                 AppServThreads = 4; NoRelay;\nLoadExtension = \"dict_sip.fdx\";\nLoadExtension = \"acl_wl.fdx\" : \"acl.conf\";\nListenOn = \"127.0.0.1\";\nTcTimer = 20;\n\
                 include \"more.*\"\n",
            ),
            ("more.b", "ConnectPeer = \"two.acc.test\";\n"),
            ("more.a", "ConnectPeer = \"one.acc.test\" { ConnectTo = \"127.0.0.1\"; No_TLS; port = 3868; Realm = \"elsewhere\"; TwTimer = 6; TcTimer = 5; No_SCTP; };\n"),
            ("cert", ""),
            ("key", ""),
            ("ca", ""),
        ])
        .unwrap();
        let one = Peer {
            id: "one.acc.test".into(),
            host: "127.0.0.1".into(),
            port: 3868,
            tls: false,
            realm: Some("elsewhere".into()),
            tc: seconds(5),
            tw: seconds(6),
        };
        let two = Peer { id: "two.acc.test".into(), host: "two.acc.test".into(), port: TLS_PORT, tls: true, realm: None, tc: seconds(20), tw: seconds(30) };
        assert_eq!(conf.destination_realm(), "elsewhere");
        let want = Conf {
            file: Some("c.conf".into()),
            identity: "sip1.acc.test".into(),
            realm: "acc.test".into(),
            peers: vec![one, two],
            tls: Tls { cred: Some(("cert".into(), "key".into())), ca: Some("ca".into()) },
            source: Some("127.0.0.1".parse().unwrap()),
        };
        assert_eq!(conf, want);
    }

    #[test]
    fn what_a_file_leaves_out_has_a_default() {
        let conf = read(&[("c", "Identity = \"a.b.c\"; ConnectPeer = \"p\" { No_TLS; };")]).unwrap();
        assert_eq!((conf.identity.as_str(), conf.realm.as_str(), conf.destination_realm()), ("a.b.c", "b.c", "b.c"));
        assert_eq!((conf.peers[0].host.as_str(), conf.peers[0].port, conf.peers[0].tw), ("p", PORT, seconds(30)));
    }

    #[test]
    fn errors_name_the_line_and_the_cure() {
        let peer = "Identity=\"a.b\"; ConnectPeer=\"p\";";
        for (text, want) in [
            ("", "c: no ConnectPeer; add a line ConnectPeer"),
            ("\nIdentity = x;", "c:2: Identity: a value was expected, not 'x'"),
            ("Identity = \"x", "c:1: a '\"' without another one"),
            ("Identity = \"a b\";", "c:1: Identity: \"a b\" is not the name"),
            ("Identity \"a\";", "c:1: Identity: ';' was expected before \"a\""),
            ("Identity = \"a.b\"", "c:1: Identity: the statement is never ended"),
            ("Identity = 5;", "c:1: Identity: one value in quotes was expected"),
            ("Identity = 99999999999999999999;", "c:1: '99999999999999999999' is not a number"),
            ("Nonsense;", "c:1: 'Nonsense' is not a key of freeDiameter"),
            ("Identity = \"a\";\n%", "c:2: '%' means nothing here"),
            ("= 1;", "c:1: a key was expected, not '='"),
            ("TwTimer = 5;", "c:1: TwTimer: a number from 6 to 86400"),
            ("No_TCP;", "c:1: No_TCP: only TCP is spoken here"),
            ("TLS_CRL = \"x\";", "c:1: TLS_CRL: revocation lists are not read"),
            ("TLS_CA = \"gone\";", "c:1: TLS_CA: gone cannot be read"),
            ("ListenOn = \"here\";", "c:1: ListenOn: an IPv4 or IPv6 address"),
            ("ConnectPeer = \"p\" { Port = 0; };", "c:1: Port: a number from 1 to 65535"),
            ("ConnectPeer = \"p\" { Colour; };", "c:1: 'Colour' is not a key of a ConnectPeer"),
            ("ConnectPeer = \"p\" { No_TLS;", "c:1: ConnectPeer: its block is never ended"),
            ("ConnectPeer = \"p\" { No_TLS; } }", "c:1: ConnectPeer: ';' was expected before '}'"),
            ("Identity=\"p.q\"; ConnectPeer=\"P.q\";", "c:1: ConnectPeer \"P.q\" is this node itself"),
            (&format!("{peer} {}", &peer[16..]), "c:1: ConnectPeer \"p\" is there twice"),
            ("include \"gone\"", "gone: c:1 includes this file, which cannot be read"),
            ("include \"c\"", "c:1: more than 5 files inside one another"),
            ("Identity = \"nodot\"; ConnectPeer=\"p\";", "c: no Identity and Realm"),
        ] {
            let e = read(&[("c", text)]).unwrap_err();
            assert!(e.starts_with(want), "wanted {want:?}, got {e:?}");
        }
    }
}
