//! `nats:`, messages in a stream of NATS JetStream: subject `PREFIX.KIND.NODE`, acknowledged by the stream.
//!
//! The client library connects, and reconnects, to the servers of the URL and those of their cluster. The `acc_id` is the
//! message id: within its duplicate window, the stream does not store a message again.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use async_nats::{Auth, AuthError, Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, HeaderMap};
use bytes::Bytes;
use nkeys::KeyPair;
use tokio::sync::watch;

use super::address::{Address, Credentials};
use super::message::{Engine, Message};
use super::tls::{Mode, Tls};
use super::url::{Options, encoded};
use crate::backend::{Fate, LocalFuture};
use crate::stats::{self, Counter};

/// What the URL looks like, for messages.
pub const EXAMPLE: &str = "nats://user:password@host:4222/acc";
/// Port of NATS.
const PORT: u16 = 4222;
/// Subjects begin with this, unless the URL says otherwise.
const PREFIX: &str = "acc";
/// Most messages that wait for their acknowledgement.
const WINDOW: usize = 256;
/// Longest for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest for an acknowledgement.
const ACK: Duration = Duration::from_secs(5);
/// How long the acknowledgements of others are waited for once one has not come.
const REST: Duration = Duration::from_millis(50);
/// How long an orderly end may take.
const LEAVE: Duration = Duration::from_millis(100);
/// Part of the maximum size that is reserved for headers.
const HEADERS: usize = 8 << 10;
/// Codes of JetStream: the message is larger than the stream's limit; another stream has the subject.
const TOO_LARGE: u64 = 10_054;
const OTHER_STREAM: u64 = 10_060;

/// What the URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    address: Address,
    prefix: String,
    /// The stream that has to accept it.
    stream: Option<String>,
    /// A file with a token and a key.
    creds: Option<PathBuf>,
    tls: Tls,
}

impl Target {
    /// Reads what follows the scheme.
    ///
    /// # Errors
    /// What is wrong, and what to write; nothing of the URL is quoted.
    pub fn read(rest: &str, mut options: Options<'_>) -> Result<Target, String> {
        let mut address = Address::read(rest, EXAMPLE)?;
        address.login.options(&mut options)?;
        let prefix = if address.path.is_empty() { PREFIX.to_owned() } else { address.path.clone() };
        let is_token = |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'*' | b'>'));
        if !prefix.split('.').all(is_token) {
            return Err("after the host, write a slash and the prefix of the subjects: words joined by dots, without blanks, * and >".into());
        }
        let stream = options.take("stream").map(str::to_owned);
        let creds = options.take("creds").map(PathBuf::from);
        if creds.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("creds must be the absolute path of a file made by nsc".into());
        }
        let tls = Tls::read(&mut options)?;
        options.end("stream, creds, user, password-file, tls, ca, cert, key and name")?;
        Ok(Target { address, prefix, stream, creds, tls })
    }

    /// The login for a server that has sent this nonce; `None` if there is no login. Reads the files.
    ///
    /// # Errors
    /// A file that cannot be used.
    fn auth(&self, nonce: &[u8]) -> Result<Option<Auth>, String> {
        let mut auth = Auth::new();
        match self.address.login.credentials()? {
            Credentials::None if self.creds.is_none() => return Ok(None),
            Credentials::None => {}
            Credentials::Token(token) => auth.token = Some(token),
            Credentials::Password(user, password) => (auth.username, auth.password) = (Some(user), Some(password)),
        }
        if let Some(file) = &self.creds {
            let failed = |e: &dyn std::fmt::Display| format!("stream_url: creds={} cannot be used ({e})", file.display());
            let text = std::fs::read_to_string(file).map_err(|e| failed(&e))?;
            let (jwt, seed) = creds(&text).ok_or_else(|| failed(&"it does not contain both a token and a seed"))?;
            let key = KeyPair::from_seed(seed).map_err(|e| failed(&e))?;
            auth.signature = Some(key.sign(nonce).map_err(|e| failed(&e))?);
            auth.jwt = Some(jwt.to_owned());
        }
        Ok(Some(auth))
    }
}

/// Publishes into JetStream.
pub struct Nats {
    target: Target,
    node: Arc<str>,
    /// `node` as the end of a subject.
    token: String,
    connection: Option<Connection>,
}

struct Connection {
    client: Client,
    context: Context,
    /// How often it broke, and the last error.
    breaks: watch::Receiver<(u64, Option<String>)>,
}

impl Nats {
    /// Connects nothing yet.
    pub fn new(target: Target, node: Arc<str>) -> Nats {
        let token = encoded(node.as_bytes(), |b| b.is_ascii_graphic()).replace(['.', ' ', '*', '>'], "_");
        let token = if token.is_empty() { "_".into() } else { token };
        Nats { target, node, token, connection: None }
    }

    fn hosts(&self) -> String {
        self.target.address.with_port(PORT).join(", ")
    }

    async fn connect(&mut self) -> Result<&Connection, String> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connected().await?,
        };
        let connection = self.connection.insert(connection);
        if connection.client.connection_state() == State::Connected {
            return Ok(connection);
        }
        let why = connection.breaks.borrow().1.clone().map_or(String::new(), |why| format!(" ({why})"));
        let hosts = self.target.address.with_port(PORT).join(", ");
        Err(format!("stream_url: the connection to NATS at {hosts} is broken{why}: it is restored as soon as a server answers"))
    }

    async fn connected(&self) -> Result<Connection, String> {
        let t = &self.target;
        let (told, breaks) = watch::channel((0, None));
        // Logged here with its cause, which the library hides.
        let options = match t.auth(&[])? {
            None => ConnectOptions::new(),
            // Read again for each connection, so that a password can be replaced without a restart.
            Some(_) => {
                let target = t.clone();
                ConnectOptions::with_auth_callback(move |nonce| std::future::ready(target.auth(&nonce).map(Option::unwrap_or_default).map_err(AuthError::new)))
            }
        };
        let options = options
            .name(format!("opensips-acc {}", self.node))
            .connection_timeout(CONNECT)
            .require_tls(matches!(t.tls.mode, Some(Mode::Require | Mode::Verify)))
            .tls_client_config(t.tls.config()?)
            .event_callback(move |event| {
                match event {
                    Event::Disconnected => told.send_modify(|(breaks, _)| *breaks += 1),
                    Event::ServerError(e) => told.send_modify(|(_, why)| *why = Some(e.to_string())),
                    Event::ClientError(e) => told.send_modify(|(_, why)| *why = Some(e.to_string())),
                    _ => {}
                }
                std::future::ready(())
            });
        let servers: Result<Vec<async_nats::ServerAddr>, _> = t.address.with_port(PORT).iter().map(|host| format!("nats://{host}").parse()).collect();
        let servers = servers.map_err(|_| format!("stream_url: a host is neither a name nor an address: write {EXAMPLE}"))?;
        let client = options.connect(servers).await.map_err(|e| self.not_connected(&e))?;
        let context = ContextBuilder::new().timeout(ACK).max_ack_inflight(2 * WINDOW).build(client.clone());
        Ok(Connection { client, context, breaks })
    }

    fn not_connected(&self, e: &ConnectError) -> String {
        let hosts = self.hosts();
        match e.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                format!("stream_url: NATS at {hosts} refuses the login: correct user and password, the token, or the file of creds=")
            }
            // The library reports other failures of a handshake as I/O errors.
            kind if kind == ConnectErrorKind::Tls || is_of_tls(e) => format!("stream_url: no TLS with NATS at {hosts} ({e}): check tls=, ca=, cert= and key="),
            _ => format!("stream_url: NATS at {hosts} cannot be reached ({e}): check host and port, and whether nats-server runs there"),
        }
    }

    fn subject(&self, message: &Message) -> String {
        format!("{}.{}.{}", self.target.prefix, message.kind, self.token)
    }

    fn request(&self, message: &Message) -> PublishMessage {
        let mut headers = HeaderMap::new();
        for (name, value) in message.attributes(&self.node) {
            let value = encoded(&value, |b| b.is_ascii_graphic() && !matches!(b, b'"' | b'%'));
            headers.insert(format!("ce-{name}"), &*value);
        }
        headers.insert("ce-datacontenttype", "application/json");
        // The headers are set first, because they would replace the message id.
        let request = PublishMessage::build().headers(headers).payload(Bytes::copy_from_slice(&message.body)).message_id(&message.id);
        match &self.target.stream {
            Some(stream) => request.expected_stream(stream),
            None => request,
        }
    }

    fn fate(&self, e: &PublishError) -> Fate {
        let subjects = format!("{}.>", self.target.prefix);
        let code = e.source().and_then(|s| s.downcast_ref::<jetstream::Error>());
        match (e.kind(), code.map(|c| c.error_code().0)) {
            (PublishErrorKind::MaxPayloadExceeded, _) => Fate::Dead("it is larger than the max_payload of nats-server".into()),
            (_, Some(TOO_LARGE)) => Fate::Dead("it is larger than messages of the stream may be (nats stream edit --max-msg-size)".into()),
            (PublishErrorKind::StreamNotFound, _) => Fate::Retry(format!(
                "stream_url: no stream listens on {subjects}: nats stream add ACC --subjects '{subjects}' --dupe-window 1h --defaults (nats-server has to run with -js)"
            )),
            (_, Some(OTHER_STREAM)) => Fate::Retry(format!(
                "stream_url: another stream than {} has the subjects {subjects}: correct stream=, or the subjects of the streams",
                self.target.stream.as_deref().unwrap_or_default()
            )),
            (PublishErrorKind::TimedOut, _) => Fate::Retry(format!("stream_url: NATS at {} acknowledges nothing within {} s", self.hosts(), ACK.as_secs())),
            _ => Fate::Retry(match code {
                Some(c) => format!("stream_url: the stream accepts nothing ({c}): see nats stream info, and its limits"),
                None => format!("stream_url: NATS at {}: {e}", self.hosts()),
            }),
        }
    }

    async fn publish_all(&mut self, messages: &[Message]) -> Result<Vec<Fate>, String> {
        let connection = self.connect().await?;
        let (context, mut breaks) = (connection.context.clone(), connection.breaks.clone());
        breaks.mark_unchanged();
        let before = breaks.borrow().0;
        let mut fates = Vec::with_capacity(messages.len());
        let mut window = VecDeque::with_capacity(WINDOW);
        let mut failed: Option<String> = None;
        for message in messages {
            if window.len() == WINDOW
                && let Some(first) = window.pop_front()
            {
                fates.push(self.settled(first, &mut breaks, before, &mut failed).await);
            }
            if let Some(reason) = &failed {
                window.push_back(Slot::Known(Fate::Retry(reason.clone())));
                continue;
            }
            window.push_back(match context.send_publish(self.subject(message), self.request(message)).await {
                Ok(ack) => Slot::Waits(ack),
                Err(e) => {
                    let fate = self.fate(&e);
                    if let Fate::Retry(reason) = &fate {
                        failed = Some(reason.clone());
                    }
                    Slot::Known(fate)
                }
            });
        }
        for slot in window {
            fates.push(self.settled(slot, &mut breaks, before, &mut failed).await);
        }
        Ok(fates)
    }

    /// What became of a message. Once one is not acknowledged, the others are not waited for.
    async fn settled(&self, slot: Slot, breaks: &mut watch::Receiver<(u64, Option<String>)>, before: u64, failed: &mut Option<String>) -> Fate {
        let ack = match slot {
            Slot::Known(fate) => return fate,
            Slot::Waits(ack) => ack.into_future(),
        };
        let broken = async {
            // The sender ends with the client: then the connection is broken as well.
            let _ = breaks.wait_for(|(n, _)| *n != before).await;
        };
        let rest = async {
            match &failed {
                Some(_) => tokio::time::sleep(REST).await,
                None => std::future::pending().await,
            }
        };
        let fate = tokio::select! {
            biased;
            said = ack => match said {
                Ok(ack) => {
                    if ack.duplicate {
                        stats::add(Counter::StreamDuplicates, 1);
                    }
                    return Fate::Delivered;
                }
                Err(e) => self.fate(&e),
            },
            () = broken => Fate::Retry(format!("stream_url: the connection to NATS at {} broke", self.hosts())),
            () = rest => Fate::Retry(failed.clone().unwrap_or_default()),
        };
        if let Fate::Retry(reason) = &fate {
            failed.get_or_insert_with(|| reason.clone());
        }
        fate
    }
}

/// The token and the seed in a file made by nsc: each is below a line that begins its part.
fn creds(text: &str) -> Option<(&str, &str)> {
    let part = |name: &str| {
        let mut lines = text.lines().map(str::trim).skip_while(|line| !(line.contains("BEGIN") && line.contains(name)));
        lines.nth(1).filter(|line| !line.is_empty() && !line.starts_with('-'))
    };
    Some((part("JWT")?, part("SEED")?))
}

/// Did the handshake of TLS fail?
fn is_of_tls(e: &ConnectError) -> bool {
    let io = e.source().and_then(|s| s.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>())
}

/// A message of the window.
enum Slot {
    Waits(PublishAckFuture),
    Known(Fate),
}

impl Engine for Nats {
    fn open(&mut self) -> LocalFuture<'_, Result<(), String>> {
        Box::pin(async move { self.connect().await.map(drop) })
    }

    fn max_body(&self) -> Option<usize> {
        self.connection.as_ref().map(|c| c.client.max_payload().saturating_sub(HEADERS))
    }

    fn publish<'a>(&'a mut self, messages: &'a [Message]) -> LocalFuture<'a, Result<Vec<Fate>, String>> {
        Box::pin(self.publish_all(messages))
    }

    fn close(&mut self) -> LocalFuture<'_, ()> {
        Box::pin(async move {
            if let Some(c) = self.connection.take() {
                let _ = tokio::time::timeout(LEAVE, c.client.drain()).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Target, String> {
        let (rest, options) = url.split_once('?').unwrap_or((url, ""));
        Target::read(rest, Options::read(options).unwrap())
    }

    #[test]
    fn a_url_names_servers_and_subjects() {
        let t = of("//u:p@a,b:4333/acc.eu?stream=ACC&tls=verify").unwrap();
        assert_eq!((t.address.with_port(PORT), &*t.prefix, t.stream.as_deref()), (vec!["a:4222".to_owned(), "b:4333".into()], "acc.eu", Some("ACC")));
        assert_eq!(of("//h").unwrap().prefix, "acc");
        for (url, part) in
            [("//h/a..b", "joined by dots"), ("//h/a.*", "joined by dots"), ("//h/a?creds=x", "absolute path"), ("//h/a?x=1", "an option is unknown")]
        {
            assert!(of(url).unwrap_err().contains(part), "{url}");
        }
        let nats = Nats::new(of("//h").unwrap(), "proxy1.example.org \u{e4}".into());
        assert_eq!(nats.token, "proxy1_example_org%20%C3%A4");
        let file = "-----BEGIN NATS USER JWT-----\r\nabc.d-e_f\r\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\nSU1\n------END\n";
        assert_eq!(creds(file), Some(("abc.d-e_f", "SU1")));
        assert_eq!(creds(&file.replace("SU1\n", "")), None);
        assert_eq!(creds("abc"), None);
    }
}
