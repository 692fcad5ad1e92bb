//! The accounting client of the delivery process: pipelined, with retransmission, a server list
//! and a check of every answer.
//!
//! A record is *in flight* at one server at a time. It is sent again with growing pauses
//! (RFC 5080 §2.2.1) up to `radius_retries` times; then, if the server answered nothing else in
//! the meantime, the server counts as down for `radius_deadtime` and everything in flight there
//! goes to the next server of the list. A server that is due again gets one record to prove
//! itself. A record that no server acknowledges is the delivery's again ([`Fate::Retry`]).
//!
//! Each transmission carries the Acct-Delay-Time of its moment. While that is the same the
//! packet is repeated byte for byte, so that the server can tell a repetition; when it changes,
//! identifier and authenticator change too (RFC 2866 §3 and §5.2). An answer to the attempt
//! before counts as well: the server has stored the record.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, sleep_until};

use super::Radius;
use super::conf::{Conf, Secret};
use super::packet::{self, Avp, Encoder, HEADER, MAX_PACKET, Refused};
use crate::acc::clock::Moment;
use crate::acc::record::{Record, Wall};
use crate::backend::{Fate, LocalFuture, RecordSender, SENDER_BATCH};
use crate::stats::{self, Counter};

/// Sockets for each address family: an identifier is one byte, so that each gives 256 of them.
const SOURCE_PORTS: usize = 4;
/// Identifiers of one server.
const SLOTS: usize = SOURCE_PORTS * 256;
/// Most records in flight at one server: each may hold two identifiers, this and the last one.
const WINDOW_MAX: f64 = (SLOTS / 2) as f64;
/// Records in flight at first. A server's receive buffer of the usual 208 KiB holds some 160
/// packets of half a kilobyte; what overflows it is lost and costs a retransmission pause.
const WINDOW_START: f64 = 128.0;
/// The window is never halved below this.
const WINDOW_MIN: f64 = 8.0;
/// After a loss the window soon grows again to this part of what was too much, and then hardly
/// any more: each overflow of the server's buffer would stall the end of a batch for a pause.
const WINDOW_KEPT: f64 = 0.75;
/// Pause between two looks for answers when no other batch waits: a server sends them one after the
/// other, and waking up for each costs more than the rest of its record does.
const REPLIES: Duration = Duration::from_millis(1);
/// Longest pause between two transmissions, MRT of RFC 5080 §2.2.1.
const LONGEST_WAIT: Duration = Duration::from_secs(16);
/// RAND of RFC 5080 §2.2.1: pauses differ by up to a tenth, so that clients do not march in step.
const JITTER: f64 = 0.1;

/// NAS-IP-Address (RFC 2865 §5.4).
const NAS_IP_ADDRESS: u8 = 4;
/// NAS-Port (RFC 2865 §5.5).
const NAS_PORT: u8 = 5;
/// NAS-Identifier (RFC 2865 §5.32).
const NAS_IDENTIFIER: u8 = 32;
/// Acct-Delay-Time (RFC 2866 §5.2).
const ACCT_DELAY_TIME: u8 = 41;
/// NAS-IPv6-Address (RFC 3162 §2.1).
const NAS_IPV6_ADDRESS: u8 = 95;

/// What the host knows and the configuration file does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Sent as NAS-Port; `None` = not sent.
    pub nas_port: Option<u16>,
    /// Parameter `aaa_retry`: how often a record is offered to the server list before it is given
    /// up; `None` = forever. An offer is one [`RadiusClient::send_all`] in which the record was
    /// sent; waiting for a server that is down is none. Counted anew in a new process.
    pub retry: Option<u32>,
}

/// An identifier in use.
#[derive(Clone, Copy)]
struct Attempt {
    record: usize,
    authenticator: [u8; 16],
}

/// A server and how it fares.
struct Peer {
    addr: SocketAddr,
    secret: Secret,
    /// The first of its family's sockets.
    first_socket: usize,
    /// The attribute that names this client to it.
    nas: Option<Avp>,
    /// By slot: socket `slot % SOURCE_PORTS`, identifier `slot / SOURCE_PORTS`.
    slots: Vec<Option<Attempt>>,
    next_slot: usize,
    in_flight: usize,
    window: f64,
    /// Up to where the window grows fast.
    ceiling: f64,
    narrowed: Option<Instant>,
    /// Down, and when it is due again; `None` = up.
    down_until: Option<Instant>,
    /// It went down in this call, or proved in it to be still down.
    failed: bool,
    last_reply: Option<Instant>,
    last_error: Option<String>,
    told_forged: bool,
}

impl Peer {
    /// Takes a free identifier, the longest unused one, so that a late answer finds no new owner.
    fn take_slot(&mut self, attempt: Attempt) -> Option<usize> {
        let slot = (0..SLOTS).map(|i| (self.next_slot + i) % SLOTS).find(|&s| self.slots[s].is_none())?;
        self.next_slot = (slot + 1) % SLOTS;
        self.slots[slot] = Some(attempt);
        Some(slot)
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.window as usize
    }

    /// A packet was lost: half as many, once for all packets lost together.
    fn narrow(&mut self, now: Instant, timeout: Duration) {
        if self.narrowed.is_none_or(|t| now - t >= timeout) {
            self.narrowed = Some(now);
            self.ceiling = (self.window * WINDOW_KEPT).max(WINDOW_START / 2.0);
            self.window = (self.window / 2.0).max(WINDOW_MIN);
        }
    }

    fn answered(&mut self, now: Instant) {
        self.last_reply = Some(now);
        self.last_error = None;
        if self.down_until.take().is_some() {
            log::info!("RADIUS server {}: answers again", self.addr);
        }
        // One more for each window that is answered, above the ceiling for each window of windows.
        let step = if self.window < self.ceiling { 1.0 / self.window } else { 1.0 / (self.window * self.window) };
        self.window = (self.window + step).min(WINDOW_MAX);
    }
}

/// A record on its way.
struct Flight {
    attributes: Vec<Avp>,
    /// The server it is in flight at.
    server: Option<usize>,
    /// Servers that did not acknowledge it, one bit each (`conf::MAX_SERVERS` is below 32).
    tried: u32,
    /// First transmission to this server.
    started: Instant,
    /// Transmissions to this server.
    sent: u32,
    /// Present pause and its end.
    wait: Duration,
    deadline: Instant,
    /// The last packet, its Acct-Delay-Time and its slot.
    packet: Vec<u8>,
    delay: u32,
    slot: Option<usize>,
    /// Slot of the packet before, still good for an answer.
    previous: Option<usize>,
}

/// The records of one call.
struct Batch<'a> {
    records: &'a [(&'a Record, Wall)],
    fates: Vec<Option<Fate>>,
    flights: Vec<Option<Flight>>,
    /// First record that was not sent yet.
    next: usize,
    /// Records that a server did not acknowledge and that are on their way to the next.
    moved: VecDeque<usize>,
    timers: BTreeSet<(Instant, usize)>,
    /// Records without a fate.
    open: usize,
}

impl Batch<'_> {
    fn finish(&mut self, i: usize, fate: Fate) {
        if self.fates[i].replace(fate).is_none() {
            self.open -= 1;
        }
        self.flights[i] = None;
    }
}

/// Where a record goes next.
enum Choice {
    To(usize),
    /// To a server that has no room now.
    Wait,
    /// No server is left for it.
    Nowhere,
}

/// The client. It lives as long as the delivery process: windows, dead timers and offers are
/// kept from call to call.
pub struct RadiusClient {
    conf: Conf,
    encoder: Encoder,
    options: Options,
    peers: Vec<Peer>,
    sockets: Vec<UdpSocket>,
    /// Offers of records that were not acknowledged, by record id; empty with `retry: None`.
    offers: HashMap<u128, u32>,
}

impl RadiusClient {
    /// Opens the sockets; must be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// No socket can be bound to `bindaddr`, with the file that says so.
    pub fn new(radius: Radius, options: Options) -> Result<RadiusClient, String> {
        let Radius { conf, encoder } = radius;
        let mut sockets = Vec::new();
        let mut first = [None; 2];
        let mut peers = Vec::with_capacity(conf.servers.len());
        for server in &conf.servers {
            let local = conf.bind.unwrap_or_else(|| unspecified(&server.addr));
            let family = &mut first[usize::from(server.addr.is_ipv6())];
            if family.is_none() {
                *family = Some(sockets.len());
                for _ in 0..SOURCE_PORTS {
                    sockets.push(
                        bind(local).map_err(|e| {
                            format!("{}: no UDP socket on {local} ({e}); set bindaddr to an address of this machine or '*'", conf.file.display())
                        })?,
                    );
                }
            }
            peers.push(Peer {
                addr: server.addr,
                secret: server.secret.clone(),
                first_socket: family.unwrap_or(0),
                nas: None,
                slots: vec![None; SLOTS],
                next_slot: fastrand::usize(..SLOTS),
                in_flight: 0,
                window: WINDOW_START,
                ceiling: WINDOW_MAX,
                narrowed: None,
                down_until: None,
                failed: false,
                last_reply: None,
                last_error: None,
                told_forged: false,
            });
        }
        Ok(RadiusClient { conf, encoder, options, peers, sockets, offers: HashMap::new() })
    }

    /// Sends records, each with the time it was made, and waits until each is acknowledged or
    /// the server list is exhausted; the fates are in the order of the records.
    ///
    /// Takes at worst the retransmission times of every server of the list. If the future is
    /// dropped, records in flight may be stored by a server all the same.
    pub async fn send_all(&mut self, records: &[(&Record, Wall)]) -> Vec<Fate> {
        self.begin();
        let n = records.len();
        let mut batch = Batch {
            records,
            fates: vec![None; n],
            flights: std::iter::repeat_with(|| None).take(n).collect(),
            next: 0,
            moved: VecDeque::new(),
            timers: BTreeSet::new(),
            open: n,
        };
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            // Before receiving: a flood of datagrams does not hold up the timers.
            self.expire(&mut batch).await;
            self.dispatch(&mut batch).await;
            // Something is in flight whenever a record is open: dispatch sends or gives up.
            let Some(&(deadline, _)) = batch.timers.first() else { break };
            tokio::select! {
                biased;
                (socket, length, from) = receive(&self.sockets, &mut buffer) => {
                    self.reply(&mut batch, socket, &buffer[..length], from);
                    self.take_more(&mut batch, &mut buffer);
                    if n < SENDER_BATCH && batch.open > 0 {
                        sleep(REPLIES).await;
                    }
                }
                () = sleep_until(deadline) => {}
            }
        }
        batch.fates.into_iter().map(|f| f.unwrap_or_else(|| Fate::Retry("not sent to any RADIUS server".to_owned()))).collect()
    }

    /// Forgets the last call, which may have been dropped half-way.
    fn begin(&mut self) {
        for peer in &mut self.peers {
            peer.slots.fill(None);
            peer.in_flight = 0;
            peer.failed = false;
            if peer.nas.is_none() {
                let address = self.conf.nas_ip.or_else(|| local_address(self.conf.bind, &peer.addr).ok());
                peer.nas = address.map(|a| match a {
                    IpAddr::V4(a) => Avp { code: NAS_IP_ADDRESS, value: a.octets().to_vec() },
                    IpAddr::V6(a) => Avp { code: NAS_IPV6_ADDRESS, value: a.octets().to_vec() },
                });
            }
        }
        // With every server down the caller's own pause is over: the one that is due first is
        // asked now.
        if self.peers.iter().all(|p| p.down_until.is_some()) {
            let due = self.peers.iter_mut().filter_map(|p| p.down_until.as_mut()).min();
            let now = Instant::now();
            if let Some(due) = due {
                *due = (*due).min(now);
            }
        }
    }

    /// The first server of the list that may have the record: load is not spread, the list is
    /// an order of preference.
    fn choose(&self, tried: u32, now: Instant) -> Choice {
        let mut nothing = Choice::Nowhere;
        for (s, peer) in self.peers.iter().enumerate() {
            if peer.failed || tried & (1 << s) != 0 {
                continue;
            }
            match peer.down_until {
                None if peer.has_room() => return Choice::To(s),
                None => return Choice::Wait,
                Some(due) if due > now => {}
                Some(_) if peer.in_flight == 0 => return Choice::To(s),
                Some(_) => nothing = Choice::Wait,
            }
        }
        nothing
    }

    /// Sends what may be sent.
    async fn dispatch(&mut self, batch: &mut Batch<'_>) {
        for _ in 0..batch.moved.len() {
            let Some(i) = batch.moved.pop_front() else { break };
            let tried = batch.flights[i].as_ref().map_or(0, |f| f.tried);
            match self.choose(tried, Instant::now()) {
                Choice::To(s) => self.start(batch, i, s).await,
                Choice::Wait => batch.moved.push_back(i),
                Choice::Nowhere => self.give_up(batch, i, tried),
            }
        }
        while batch.next < batch.records.len() {
            let (i, now) = (batch.next, Instant::now());
            match self.choose(0, now) {
                Choice::To(s) => {
                    // Room for what the sender adds: two numbers, the longer kind of address, a name.
                    let own = 2 * 6 + 18 + 2 + self.conf.nas_identifier.as_ref().map_or(0, String::len);
                    let attributes = self.encoder.attributes(batch.records[i].0, MAX_PACKET - HEADER - own);
                    batch.flights[i] = Some(Flight {
                        attributes,
                        server: None,
                        tried: 0,
                        started: now,
                        sent: 0,
                        wait: Duration::ZERO,
                        deadline: now,
                        packet: Vec::new(),
                        delay: 0,
                        slot: None,
                        previous: None,
                    });
                    self.start(batch, i, s).await;
                }
                Choice::Wait => return,
                Choice::Nowhere => batch.finish(i, Fate::Retry(self.silence(u32::MAX))),
            }
            batch.next += 1;
        }
    }

    /// First transmission to a server.
    async fn start(&mut self, batch: &mut Batch<'_>, i: usize, server: usize) {
        if let Some(flight) = &mut batch.flights[i] {
            let now = Instant::now();
            (flight.server, flight.started, flight.sent, flight.wait) = (Some(server), now, 0, Duration::ZERO);
            self.peers[server].in_flight += 1;
        }
        self.transmit(batch, i).await;
    }

    /// Sends a record to its server, as the same packet while the packet is unchanged.
    async fn transmit(&mut self, batch: &mut Batch<'_>, i: usize) {
        let made = batch.records[i].1;
        let Some(flight) = &mut batch.flights[i] else { return };
        let Some(server) = flight.server else { return };
        let peer = &mut self.peers[server];
        let delay = seconds_since(made);
        if flight.sent == 0 || flight.delay != delay {
            if let Some(old) = flight.previous.take() {
                peer.slots[old] = None;
            }
            flight.previous = flight.slot.take();
            // Two identifiers for each record of the largest window: there is one.
            let Some(slot) = peer.take_slot(Attempt { record: i, authenticator: [0; 16] }) else { return };
            let own = own_attributes(&flight.attributes, &self.options, delay, peer.nas.as_ref(), self.conf.nas_identifier.as_deref());
            let packet = match packet::request((slot / SOURCE_PORTS) as u8, &peer.secret, flight.attributes.iter().chain(&own)) {
                Ok(p) => p,
                Err(e) => {
                    peer.slots[slot] = None;
                    self.land(batch, i);
                    return batch.finish(i, Fate::Dead(format!("not a RADIUS packet: {e}")));
                }
            };
            let mut authenticator = [0; 16];
            authenticator.copy_from_slice(&packet[4..HEADER]);
            peer.slots[slot] = Some(Attempt { record: i, authenticator });
            (flight.slot, flight.packet, flight.delay) = (Some(slot), packet, delay);
        }
        flight.sent += 1;
        flight.wait = next_wait(flight.wait, self.conf.timeout);
        flight.deadline = Instant::now() + flight.wait;
        batch.timers.insert((flight.deadline, i));
        let socket = &self.sockets[peer.first_socket + flight.slot.unwrap_or(0) % SOURCE_PORTS];
        // A packet that cannot be sent (no route, no buffer) is like a lost one: sent again later.
        if let Err(e) = socket.send_to(&flight.packet, peer.addr).await {
            peer.last_error = Some(e.to_string());
        }
    }

    /// Takes a record off its server: timer, identifiers, room.
    fn land(&mut self, batch: &mut Batch<'_>, i: usize) {
        let Some(flight) = &mut batch.flights[i] else { return };
        batch.timers.remove(&(flight.deadline, i));
        if let Some(server) = flight.server.take() {
            let peer = &mut self.peers[server];
            for slot in [flight.slot.take(), flight.previous.take()].into_iter().flatten() {
                peer.slots[slot] = None;
            }
            peer.in_flight -= 1;
            flight.tried |= 1 << server;
        }
    }

    /// Handles the pauses that are over.
    async fn expire(&mut self, batch: &mut Batch<'_>) {
        let now = Instant::now();
        while let Some(&(deadline, i)) = batch.timers.first() {
            if deadline > now {
                return;
            }
            batch.timers.pop_first();
            let Some((server, sent, started)) = batch.flights[i].as_ref().and_then(|f| Some((f.server?, f.sent, f.started))) else { continue };
            let peer = &mut self.peers[server];
            if sent <= self.conf.retries {
                peer.narrow(now, self.conf.timeout);
                stats::add(Counter::AaaRetransmits, 1);
                self.transmit(batch, i).await;
            } else if peer.last_reply.is_some_and(|t| t >= started) {
                // It answers others: this record alone goes to the next server.
                self.land(batch, i);
                batch.moved.push_back(i);
            } else {
                self.down(batch, server, now);
            }
        }
    }

    /// A server that answered nothing while a record was sent to it again and again.
    fn down(&mut self, batch: &mut Batch<'_>, server: usize, now: Instant) {
        let peer = &mut self.peers[server];
        let why = peer.last_error.as_deref().unwrap_or("no answer");
        if peer.down_until.is_none() {
            log::warn!(
                "RADIUS server {}: {why}; passed over for {} s. Is it running, does it know this client, and is the shared secret in {} the same?",
                peer.addr,
                self.conf.deadtime.as_secs(),
                self.conf.file.display()
            );
        } else {
            log::debug!("RADIUS server {}: {why} yet", peer.addr);
        }
        peer.down_until = Some(now + self.conf.deadtime);
        peer.failed = true;
        (peer.window, peer.ceiling) = (WINDOW_START, WINDOW_MAX);
        for i in 0..batch.next {
            if batch.flights[i].as_ref().is_some_and(|f| f.server == Some(server)) {
                self.land(batch, i);
                batch.moved.push_back(i);
            }
        }
    }

    /// The list is exhausted for a record that was sent.
    fn give_up(&mut self, batch: &mut Batch<'_>, i: usize, tried: u32) {
        let reason = self.silence(tried);
        let fate = match self.options.retry {
            None => Fate::Retry(reason),
            Some(most) => {
                let id = batch.records[i].0.id;
                let offers = self.offers.entry(id).or_insert(0);
                *offers += 1;
                if *offers >= most {
                    let offers = *offers;
                    self.offers.remove(&id);
                    Fate::Dead(format!("{reason}; offered {offers} times (aaa_retry)"))
                } else {
                    Fate::Retry(reason)
                }
            }
        };
        batch.finish(i, fate);
    }

    /// Why the servers in `tried` did not do, for people.
    fn silence(&self, tried: u32) -> String {
        let asked = self.peers.iter().enumerate().filter(|(s, _)| tried & (1 << s) != 0);
        let said: Vec<_> = asked.map(|(_, p)| format!("{}: {}", p.addr, p.last_error.as_deref().unwrap_or("no answer"))).collect();
        format!("no RADIUS server acknowledged the record ({})", said.join(", "))
    }

    /// Takes the datagrams that have come in, but no more than answers can be due, so that a flood
    /// does not hold up the timers.
    fn take_more(&mut self, batch: &mut Batch<'_>, buffer: &mut [u8]) {
        let mut left = SLOTS;
        for socket in 0..self.sockets.len() {
            while left > 0
                && let Ok((length, from)) = self.sockets[socket].try_recv_from(buffer)
            {
                self.reply(batch, socket, &buffer[..length], from);
                left -= 1;
            }
        }
    }

    /// A datagram came in.
    fn reply(&mut self, batch: &mut Batch<'_>, socket: usize, reply: &[u8], from: SocketAddr) {
        let found = self.peers.iter().position(|p| p.addr.ip() == from.ip() && p.addr.port() == from.port());
        let attempt = found.and_then(|server| {
            let peer = &self.peers[server];
            let port = socket.checked_sub(peer.first_socket).filter(|p| *p < SOURCE_PORTS)?;
            let slot = usize::from(*reply.get(1)?) * SOURCE_PORTS + port;
            peer.slots[slot].map(|attempt| (server, attempt))
        });
        let Some((server, attempt)) = attempt else {
            return stats::add(Counter::AaaIgnored, 1);
        };
        let peer = &mut self.peers[server];
        match packet::verify(reply, &attempt.authenticator, &peer.secret) {
            Ok(()) => {
                peer.answered(Instant::now());
                self.offers.remove(&batch.records[attempt.record].0.id);
                self.land(batch, attempt.record);
                batch.finish(attempt.record, Fate::Delivered);
            }
            Err(refused) => {
                // RFC 2866 §3: silently discarded, and the request stays open.
                stats::add(Counter::AaaIgnored, 1);
                if refused == Refused::Forged && !std::mem::replace(&mut peer.told_forged, true) {
                    log::warn!(
                        "RADIUS server {}: an answer has a wrong authenticator and is ignored; is the shared secret in {} the server's? Further ones are counted, not logged",
                        peer.addr,
                        self.conf.file.display()
                    );
                }
            }
        }
    }
}

/// The attributes that the sender adds, after the record's, unless the record has them.
fn own_attributes(record: &[Avp], options: &Options, delay: u32, nas: Option<&Avp>, identifier: Option<&str>) -> Vec<Avp> {
    let port = options.nas_port.map(|p| Avp::integer(NAS_PORT, p.into()));
    let delay = Avp::integer(ACCT_DELAY_TIME, delay);
    let identifier = identifier.map(|i| Avp { code: NAS_IDENTIFIER, value: i.as_bytes().to_vec() });
    let own = port.into_iter().chain([delay]).chain(nas.cloned()).chain(identifier);
    own.filter(|a| record.iter().all(|r| r.code != a.code)).collect()
}

/// RFC 5080 §2.2.1: the first pause is IRT, each further one twice the last, at most MRT, each
/// with jitter.
fn next_wait(last: Duration, first: Duration) -> Duration {
    let base = if last.is_zero() { first } else { last * 2 };
    let jitter = |d: Duration| d.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0));
    jitter(base.min(LONGEST_WAIT.max(first)))
}

/// Acct-Delay-Time of a record made at `made`: whole seconds, 0 if the clock was set back.
fn seconds_since(made: Wall) -> u32 {
    u32::try_from((Moment::wall_now().0.saturating_sub(made.0) / 1_000_000).max(0)).unwrap_or(u32::MAX)
}

fn unspecified(server: &SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn bind(local: IpAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((local, 0))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// The address that the kernel sends from to `server`; nothing is sent.
fn local_address(bind: Option<IpAddr>, server: &SocketAddr) -> io::Result<IpAddr> {
    let socket = std::net::UdpSocket::bind((bind.unwrap_or_else(|| unspecified(server)), 0))?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

/// The next datagram of any socket: which socket, how long, from where.
async fn receive(sockets: &[UdpSocket], buffer: &mut [u8]) -> (usize, usize, SocketAddr) {
    poll_fn(|cx| {
        for (i, socket) in sockets.iter().enumerate() {
            let mut read = ReadBuf::new(buffer);
            match socket.poll_recv_from(cx, &mut read) {
                Poll::Ready(Ok(from)) => return Poll::Ready((i, read.filled().len(), from)),
                // An error of an earlier send, reported once: look again.
                Poll::Ready(Err(_)) => cx.waker().wake_by_ref(),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}

impl RecordSender for RadiusClient {
    fn send_all<'a>(&'a mut self, records: &'a [(&'a Record, Wall)]) -> LocalFuture<'a, Vec<Fate>> {
        Box::pin(RadiusClient::send_all(self, records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_rfc_5080() {
        for first in [1, 2, 10, 30] {
            let first = Duration::from_secs(first);
            let most = LONGEST_WAIT.max(first).mul_f64(1.0 + JITTER);
            let mut wait = Duration::ZERO;
            for n in 0..8 {
                let last = wait;
                wait = next_wait(wait, first);
                let base = if n == 0 { first } else { (last * 2).min(LONGEST_WAIT.max(first)) };
                assert!(wait >= base.mul_f64(1.0 - JITTER) && wait <= base.mul_f64(1.0 + JITTER) && wait <= most, "{first:?} {n}: {wait:?}");
            }
        }
    }

    #[test]
    fn own_attributes_follow_the_records_and_give_way_to_them() {
        let options = Options { nas_port: Some(5060), retry: None };
        let nas = Avp { code: NAS_IP_ADDRESS, value: vec![127, 0, 0, 1] };
        let codes = |record: &[Avp]| -> Vec<u8> { own_attributes(record, &options, 3, Some(&nas), Some("proxy")).iter().map(|a| a.code).collect() };
        assert_eq!(codes(&[]), [5, 41, 4, 32]);
        assert_eq!(codes(&[Avp::integer(5, 1), Avp::integer(32, 1)]), [41, 4]);
    }

    #[test]
    fn delay_is_never_negative() {
        assert_eq!(seconds_since(Wall(i64::MAX)), 0);
        assert_eq!(seconds_since(Wall(i64::MIN)), u32::MAX);
    }
}
