//! One task for each peer: it connects, keeps the connection alive, and carries messages.
//!
//! It knows nothing of records. The client tells it what to send ([`Order`]); it tells whether
//! requests may be sent, and what came back ([`Event`]).
//!
//! A server whose last connection broke takes requests on the new one, but does not answer any
//! until three of its own watchdog requests were answered (RFC 3539 §3.4.1, REOPEN). It sends the
//! first one right after its Capabilities-Exchange-Answer. As an earlier process may have been killed,
//! each new connection waits a moment for this sign, and if it comes, until the server is satisfied.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::codec::{self, Header};
use super::conf::{Conf, Peer, Tls};
use super::message::{CAPABILITIES, DISCONNECT, Node, Verdict, WATCHDOG, cure, disconnect_cause};
use super::prompt::Prompt;
use super::watchdog::{Alarm, Watchdog};
use crate::declaration::SinkId;
use crate::stats::PeerState;

/// Longest for a connection with TLS, and for the answer to the capabilities.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The first pause after a connection failed or broke.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Pause after a peer has said that it is busy, or does not want to talk to this node.
const LONG_PAUSE: Duration = Duration::from_secs(300);
/// A server that wants its watchdogs answered first sends one within this time.
const SIGN: Duration = Duration::from_millis(300);
/// How many of its watchdogs it wants answered.
const PROOFS: u32 = 3;
/// How long after the last of them, in addition to two watchdog pauses, it is taken to be satisfied anyway.
const SLACK: Duration = Duration::from_secs(5);
/// How long answers are waited for after a peer has disconnected.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the answer to this node's own disconnect is waited for: the process is ending.
const LEAVE: Duration = Duration::from_millis(500);

/// What the client wants from a peer.
#[derive(Debug)]
pub enum Order {
    /// Send this request.
    Send(Vec<u8>),
    /// Try to connect now.
    Connect,
    /// Disconnect and end; reports when that is done.
    Leave(oneshot::Sender<()>),
}

/// What a peer tells the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It tries to connect.
    Trying,
    /// It takes requests.
    Open,
    /// It does not answer watchdogs: requests go elsewhere.
    Suspect,
    /// It is disconnecting: it takes no new requests, but may still answer old ones.
    Closing,
    /// There is no connection, for this reason. Nothing that was sent will be answered.
    Down(String),
    /// An answer came.
    Answer(Bytes),
}

/// Identifiers of requests.
#[derive(Debug)]
pub struct Ids {
    /// Hop-by-Hop, for the connections of one peer.
    hop_by_hop: AtomicU32,
    /// End-to-End, for this node.
    end_to_end: Arc<AtomicU32>,
}

impl Ids {
    /// The identifiers of one peer.
    pub fn new(end_to_end: Arc<AtomicU32>) -> Ids {
        Ids { hop_by_hop: AtomicU32::new(fastrand::u32(..)), end_to_end }
    }

    /// The next Hop-by-Hop identifier.
    pub fn hop_by_hop(&self) -> u32 {
        self.hop_by_hop.fetch_add(1, Ordering::Relaxed)
    }

    /// The next End-to-End identifier.
    pub fn end_to_end(&self) -> u32 {
        self.end_to_end.fetch_add(1, Ordering::Relaxed)
    }

    fn both(&self) -> (u32, u32) {
        (self.hop_by_hop(), self.end_to_end())
    }
}

/// The first End-to-End identifier of a process: low bits of the time above random ones, so that identifiers
/// of an earlier process do not come again for some minutes (RFC 6733 §3).
pub fn first_end_to_end(seconds: i64) -> u32 {
    (seconds as u32 & 0xfff) << 20 | fastrand::u32(..1 << 20)
}

/// A connection's bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How connections are made, the same for all peers.
#[derive(Clone)]
pub struct Connector {
    node: Node,
    tls: Option<TlsConnector>,
    source: Option<IpAddr>,
}

impl Connector {
    /// For the peers of a configuration.
    ///
    /// # Errors
    /// TLS files that cannot be used.
    pub fn new(conf: &Conf, node: Node) -> Result<Connector, String> {
        let uses_tls = conf.peers.iter().any(|p| p.tls);
        let tls = if uses_tls { Some(tls(&conf.tls).map_err(|e| format!("{}: {e}", conf.name()))?) } else { None };
        Ok(Connector { node, tls, source: conf.source })
    }

    /// A connection, and this side's address.
    async fn connect(&self, peer: &Peer) -> io::Result<(Box<dyn Stream>, IpAddr)> {
        let mut failed = io::Error::other("the name has no address");
        for address in lookup_host((peer.host.as_str(), peer.port)).await? {
            match self.reach(address).await {
                Ok(tcp) => return self.secure(peer, tcp).await,
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    async fn reach(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source.filter(|s| s.is_ipv4() == address.is_ipv4() && !s.is_unspecified()) {
            socket.bind((source, 0).into())?;
        }
        let tcp = socket.connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    async fn secure(&self, peer: &Peer, tcp: TcpStream) -> io::Result<(Box<dyn Stream>, IpAddr)> {
        let local = tcp.local_addr()?.ip();
        let tcp = Prompt::new(tcp);
        match &self.tls {
            Some(tls) if peer.tls => {
                let name = ServerName::try_from(peer.id.clone()).map_err(io::Error::other)?;
                Ok((Box::new(tls.connect(name, tcp).await?), local))
            }
            _ => Ok((Box::new(tcp), local)),
        }
    }

    /// Connects and exchanges capabilities; also returns what was read after the answer.
    async fn open(&self, peer: &Peer, ids: &Ids) -> Result<(Box<dyn Stream>, BytesMut), String> {
        let late = |what: &str| format!("{what} within {} s", HANDSHAKE.as_secs());
        let connected = timeout(HANDSHAKE, self.connect(peer)).await.map_err(|_| late("no connection"))?;
        let (mut stream, local) = connected.map_err(|e| format!("no connection to {} port {}: {e}", peer.host, peer.port))?;
        let input = timeout(HANDSHAKE, self.introduce(peer, ids, &mut stream, local)).await.map_err(|_| late("no answer to the capabilities exchange"))??;
        Ok((stream, input))
    }

    async fn introduce(&self, peer: &Peer, ids: &Ids, stream: &mut Box<dyn Stream>, local: IpAddr) -> Result<BytesMut, String> {
        let broken = |e: io::Error| {
            format!("the connection broke during the capabilities exchange ({e}): does the server know this node's Identity, and expect TLS or not?")
        };
        stream.write_all(&self.node.capabilities(ids.both(), local)).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let mut input = BytesMut::with_capacity(4096);
        let answer = loop {
            if let Some(message) = split(&mut input)? {
                break message;
            }
            if stream.read_buf(&mut input).await.map_err(broken)? == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let (header, avps) = codec::decode(&answer).map_err(|e| e.to_string())?;
        let verdict = Verdict::of(avps);
        if header.command != CAPABILITIES || header.is_request() {
            return Err("it sent something other than an answer to the capabilities exchange".into());
        }
        if !(2000..3000).contains(&verdict.code) {
            let cure = cure(verdict.code).map(|c| format!(": {c}")).unwrap_or_default();
            return Err(format!("{}{cure}", verdict.describe("itself")));
        }
        if !verdict.host.eq_ignore_ascii_case(&peer.id) {
            return Err(format!("it calls itself {}: correct the name in ConnectPeer", verdict.host.escape_default()));
        }
        Ok(input)
    }
}

/// TLS as configured: the authorities of a file or of the system, and a certificate of this node.
fn tls(files: &Tls) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(file) => {
            let failed = |e: &dyn std::fmt::Display| format!("TLS_CA: {}: {e}", file.display());
            for certificate in CertificateDer::pem_file_iter(file).map_err(|e| failed(&e))? {
                roots.add(certificate.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
            }
            if roots.is_empty() {
                return Err(failed(&"there is no certificate in it"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let config = match &files.cred {
        Some((cert, key)) => {
            let chain: Vec<_> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|e| format!("TLS_Cred: {}: {e}", cert.display()))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("TLS_Cred: {}: {e}", key.display()))?;
            config.with_client_auth_cert(chain, key).map_err(|e| format!("TLS_Cred: {e}"))?
        }
        None => config.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes a whole message from what was read.
fn split(input: &mut BytesMut) -> Result<Option<Bytes>, String> {
    match codec::length(input).map_err(|e| format!("it sent {e}"))? {
        Some(n) if n <= input.len() => Ok(Some(input.split_to(n).freeze())),
        _ => Ok(None),
    }
}

/// How a connection ended.
enum End {
    /// This node disconnected.
    Left,
    /// It was never there.
    Never(String),
    /// It broke.
    Lost(String),
    /// The peer disconnected; it must not be called again for this long.
    Dismissed(String, Duration),
}

/// The task of a peer.
pub struct PeerTask {
    /// Its place in the list.
    pub index: usize,
    /// The destination that it is a peer of.
    pub sink: SinkId,
    /// What the file says of it.
    pub peer: Peer,
    /// How to connect.
    pub connector: Connector,
    /// Identifiers.
    pub ids: Arc<Ids>,
    /// From the client.
    pub orders: UnboundedReceiver<Order>,
    /// To the client.
    pub events: UnboundedSender<(usize, Event)>,
}

impl PeerTask {
    /// Runs until the client disconnects or is gone.
    pub async fn run(mut self) {
        let (mut pause, mut broken, mut told) = (FIRST_PAUSE, false, false);
        self.show(PeerState::Initial);
        loop {
            self.tell(Event::Trying);
            let (reason, wait) = match self.connection(broken).await {
                End::Left => return,
                End::Never(reason) => (reason, std::mem::replace(&mut pause, self.peer.tc)),
                End::Lost(reason) => {
                    (pause, broken, told) = (FIRST_PAUSE, true, false);
                    (reason, FIRST_PAUSE)
                }
                End::Dismissed(reason, wait) => {
                    (pause, broken, told) = (FIRST_PAUSE, false, false);
                    (reason, wait)
                }
            };
            if std::mem::replace(&mut told, true) {
                log::debug!("Diameter peer {}: still down: {reason}", self.peer.id);
            } else {
                log::warn!("Diameter peer {}: {reason}", self.peer.id);
            }
            self.tell(Event::Down(reason));
            let pause = sleep(wait);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    order = self.orders.recv() => match order {
                        // Requests for the connection that is gone are dropped: the client has been told.
                        Some(Order::Send(_)) => {}
                        Some(Order::Connect) => break,
                        Some(Order::Leave(_)) | None => return,
                    },
                }
            }
        }
    }

    /// Notes its state for `acc_status`, even while there are no records.
    fn show(&self, state: PeerState) {
        self.sink.state().set_peer(self.index, &self.peer.id, state);
    }

    fn tell(&self, event: Event) {
        match event {
            Event::Open => self.show(PeerState::Okay),
            Event::Suspect => self.show(PeerState::Suspect),
            Event::Closing => self.show(PeerState::Closing),
            Event::Down(_) => self.show(PeerState::Down),
            Event::Trying | Event::Answer(_) => {}
        }
        // If the client is gone, there is nobody to tell.
        let _ = self.events.send((self.index, event));
    }

    /// One connection from its beginning to its end.
    async fn connection(&mut self, broken: bool) -> End {
        let opened = {
            let opening = self.connector.open(&self.peer, &self.ids);
            tokio::pin!(opening);
            loop {
                tokio::select! {
                    opened = &mut opening => break opened,
                    order = self.orders.recv() => if let None | Some(Order::Leave(_)) = order { return End::Left },
                }
            }
        };
        match opened {
            Ok((stream, input)) => Session::new(self, stream, input, broken).run().await,
            Err(reason) => End::Never(reason),
        }
    }
}

/// The server may want its watchdogs answered before it answers requests.
struct Hold {
    answered: u32,
    until: Instant,
}

/// An open connection.
struct Session<'a> {
    task: &'a mut PeerTask,
    reader: tokio::io::ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    input: BytesMut,
    output: BytesMut,
    /// Something was written that may not have been sent yet.
    unsent: bool,
    watchdog: Watchdog,
    hold: Option<Hold>,
    /// The client knows that requests may be sent.
    usable: bool,
    /// The peer is disconnecting: until when its answers are waited for, why, and how long not to call it again.
    dismissed: Option<(Instant, String, Duration)>,
    /// This node is disconnecting: until when the answer is waited for.
    leaving: Option<(Instant, Option<oneshot::Sender<()>>)>,
}

impl<'a> Session<'a> {
    fn new(task: &'a mut PeerTask, stream: Box<dyn Stream>, input: BytesMut, broken: bool) -> Session<'a> {
        let (reader, writer) = tokio::io::split(stream);
        let now = Instant::now();
        let watchdog = Watchdog::new(task.peer.tw, broken, now);
        Session {
            task,
            reader,
            writer,
            input,
            output: BytesMut::new(),
            unsent: false,
            watchdog,
            hold: Some(Hold { answered: 0, until: now + SIGN }),
            usable: false,
            dismissed: None,
            leaving: None,
        }
    }

    async fn run(mut self) -> End {
        if !self.watchdog.is_okay() {
            self.task.show(PeerState::Reopen);
        }
        let end = self.exchange().await;
        if matches!(end, End::Left | End::Dismissed(..)) {
            let _ = timeout(LEAVE, self.writer.shutdown()).await;
        }
        if let Some((_, Some(done))) = self.leaving.take() {
            let _ = done.send(());
        }
        end
    }

    async fn exchange(&mut self) -> End {
        loop {
            if let Some(end) = self.read() {
                return end;
            }
            self.tell_usable();
            let mut due = self.watchdog.due();
            let others = [self.hold.as_ref().map(|h| h.until), self.dismissed.as_ref().map(|d| d.0), self.leaving.as_ref().map(|l| l.0)];
            others.into_iter().flatten().for_each(|other| due = due.min(other));
            let came = tokio::select! {
                biased;
                order = self.task.orders.recv(), if self.leaving.is_none() => {
                    self.obey(order);
                    continue;
                }
                sent = push(&mut self.writer, &mut self.output), if self.unsent => {
                    self.unsent = false;
                    sent.map(|()| 1)
                }
                came = self.reader.read_buf(&mut self.input) => came,
                () = sleep_until(due) => {
                    if let Some(end) = self.expire(Instant::now()) {
                        return end;
                    }
                    continue;
                }
            };
            match came {
                Ok(0) => return self.broken("it closed the connection"),
                Ok(_) => {}
                Err(e) => return self.broken(&format!("the connection broke: {e}")),
            }
        }
    }

    fn broken(&mut self, reason: &str) -> End {
        match self.dismissed.take() {
            _ if self.leaving.is_some() => End::Left,
            Some((_, reason, pause)) => End::Dismissed(reason, pause),
            None => End::Lost(reason.to_owned()),
        }
    }

    fn send(&mut self, message: &[u8]) {
        self.output.extend_from_slice(message);
        self.unsent = true;
    }

    fn obey(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Send(message)) => self.send(&message),
            Some(Order::Connect) => {}
            Some(Order::Leave(done)) => self.leave(Some(done)),
            None => self.leave(None),
        }
    }

    fn leave(&mut self, done: Option<oneshot::Sender<()>>) {
        let farewell = self.task.connector.node.disconnect(self.task.ids.both());
        self.send(&farewell);
        self.leaving = Some((Instant::now() + LEAVE, done));
    }

    /// Tells the client of a change.
    fn tell_usable(&mut self) {
        if self.leaving.is_some() {
            return;
        }
        let usable = self.hold.is_none() && self.watchdog.is_okay() && self.dismissed.is_none();
        if std::mem::replace(&mut self.usable, usable) != usable {
            if usable {
                log::info!("Diameter peer {}: takes records", self.task.peer.id);
            } else if self.dismissed.is_none() {
                log::warn!("Diameter peer {}: no answer to a watchdog in {} s; records go elsewhere", self.task.peer.id, self.task.peer.tw.as_secs());
            }
            let event = match (usable, &self.dismissed) {
                (true, _) => Event::Open,
                (false, Some(_)) => Event::Closing,
                (false, None) => Event::Suspect,
            };
            self.task.tell(event);
        }
    }

    /// Handles the messages that have arrived.
    fn read(&mut self) -> Option<End> {
        loop {
            let message = match split(&mut self.input) {
                Ok(Some(message)) => message,
                Ok(None) => return None,
                Err(reason) => return Some(self.broken(&reason)),
            };
            let Ok((header, avps)) = codec::decode(&message) else { continue };
            let is = |command: u32| header.application == 0 && header.command == command;
            self.watchdog.heard(is(WATCHDOG) && !header.is_request(), Instant::now());
            if header.is_request() {
                let answer = self.task.connector.node.answer(&header, avps.clone());
                self.send(&answer);
                self.requested(&header, disconnect_cause(avps));
            } else if is(DISCONNECT) && self.leaving.is_some() {
                return Some(End::Left);
            } else if !is(WATCHDOG) {
                self.task.tell(Event::Answer(message));
            }
        }
    }

    /// Handles a request of the peer that has been answered.
    fn requested(&mut self, header: &Header, cause: u32) {
        let now = Instant::now();
        match (header.application, header.command) {
            (0, WATCHDOG) => {
                if let Some(hold) = &mut self.hold {
                    hold.answered += 1;
                    hold.until = if hold.answered >= PROOFS { now } else { now + 2 * self.task.peer.tw + SLACK };
                    if hold.answered == 1 {
                        log::info!("Diameter peer {}: wants its watchdogs answered before it answers requests", self.task.peer.id);
                        self.task.show(PeerState::Reopen);
                    }
                }
            }
            (0, DISCONNECT) => {
                let (why, pause) = match cause {
                    0 => ("it is rebooting", self.task.peer.tc),
                    1 => ("it is busy", LONG_PAUSE),
                    _ => ("it does not want to talk to this node", LONG_PAUSE),
                };
                self.dismissed.get_or_insert((now + FAREWELL, format!("it disconnected: {why}"), pause));
            }
            _ => log::debug!("Diameter peer {}: request {} is not supported", self.task.peer.id, header.command),
        }
    }

    /// Handles what is due.
    fn expire(&mut self, now: Instant) -> Option<End> {
        if self.leaving.as_ref().is_some_and(|l| l.0 <= now) {
            return Some(End::Left);
        }
        if self.dismissed.as_ref().is_some_and(|d| d.0 <= now) {
            return Some(self.broken(""));
        }
        if self.hold.as_ref().is_some_and(|h| h.until <= now) {
            self.hold = None;
        }
        if self.watchdog.due() <= now {
            match self.watchdog.expire(now) {
                Alarm::Ask => {
                    let request = self.task.connector.node.watchdog(self.task.ids.both());
                    self.send(&request);
                }
                Alarm::Suspect => {}
                Alarm::Close => return Some(self.broken("it does not answer watchdogs")),
            }
        }
        None
    }
}

/// Writes what is waiting. The future may be dropped at any time: the rest is written the next time.
async fn push(writer: &mut WriteHalf<Box<dyn Stream>>, output: &mut BytesMut) -> io::Result<()> {
    while !output.is_empty() {
        if writer.write_buf(output).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    writer.flush().await
}
