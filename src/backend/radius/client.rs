//! The accounting client of the delivery process: pipelined, with retransmission, a server list
//! and a check of every answer.
//!
//! A record is *in flight* at one server at a time. It is sent again with growing pauses
//! (RFC 5080 §2.2.1) up to `radius_retries` times; then, if the server answered nothing else in
//! the meantime, the server counts as down for `radius_deadtime` and everything in flight there
//! goes to the next server of the list. A server that is due again gets one record to prove
//! itself, a different one each time. A record that no server acknowledges goes back to the delivery
//! ([`Fate::Retry`]).
//!
//! A server does not acknowledge what it cannot store (RFC 2866 §2), and then the record itself is at fault.
//! So a record that is not acknowledged within [`PATIENCE`], while one that was sent later is, was refused
//! ([`Fate::Refused`]). Until then it delays no other: records stay in flight from one call to the next.
//!
//! Each transmission carries its current Acct-Delay-Time. While that stays the same, the packet is
//! repeated byte for byte, so that the server recognises a repetition; when it changes, identifier
//! and authenticator change too (RFC 2866 §3 and §5.2). An answer to the attempt before counts as
//! well: the server has stored the record.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use super::Radius;
use super::conf::{Conf, Secret};
use super::packet::{self, Avp, Encoder, HEADER, MAX_PACKET, Refused};
use crate::accounting::clock::{Moment, Wall};
use crate::backend::{Fate, Hold, LocalFuture, Offer, RecordSender, SENDER_BATCH};
use crate::stats::{self, Counter};

/// Sockets for each address family. An identifier is one byte, so each socket has 256 of them.
const SOURCE_PORTS: usize = 8;
/// Identifiers of one server.
const SLOTS: usize = SOURCE_PORTS * 256;
/// Most records in flight at one server: each may hold two identifiers, the current and the last one. Those without
/// an answer stay in flight for [`PATIENCE`].
const IN_FLIGHT_MAX: usize = SLOTS / 2;
/// Most of them that take room in the window.
const WINDOW_MAX: f64 = 512.0;
/// Records in flight at first. A server's receive buffer of the usual 208 KiB holds some 160
/// packets of half a kilobyte; what overflows it is lost and costs a retransmission pause.
const WINDOW_START: f64 = 128.0;
/// The window is never halved below this.
const WINDOW_MIN: f64 = 8.0;
/// After a loss the window soon grows again to this part of what was too much, and then hardly
/// any further: each overflow of the server's buffer would stall the end of a batch for a pause.
const WINDOW_KEPT: f64 = 0.75;
/// Pause between two looks for answers when no other batch is waiting: a server sends them one by one,
/// and waking up for each costs more than everything else that is done for its record.
const REPLIES: Duration = Duration::from_millis(1);
/// A record that is not acknowledged within this time, while one that was sent later is, was refused. Even a server
/// with a slow database answers within it, and reorders its answers by less.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// A record that was sent this long ago and has been overtaken no longer takes room in the window.
const YOUNG: Duration = Duration::from_millis(200);
/// How long the others wait for a record without an answer.
const AWAITED: Duration = Duration::from_millis(50);
/// Records that may be in flight when a call returns although more are waiting, so that the server is never idle.
const LOW_WATER: usize = 32;
/// Longest pause between two transmissions, MRT of RFC 5080 §2.2.1.
const LONGEST_WAIT: Duration = Duration::from_secs(16);
/// For at least this many records it is remembered that they were not acknowledged.
const UNANSWERED_MAX: usize = 1000;
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

/// Settings that are not in the configuration file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Sent as NAS-Port; `None` = not sent.
    pub nas_port: Option<u16>,
    /// Parameter `aaa_retry`: how often a record is offered to the server list before it is given
    /// up; `None` = forever. An offer counts when the list is exhausted; waiting for a server that is down
    /// is not an offer. A new process starts counting at 0.
    pub retry: Option<u32>,
}

/// An identifier in use.
#[derive(Clone, Copy)]
struct Attempt {
    flight: usize,
    authenticator: [u8; 16],
}

/// A server and its state.
struct Peer {
    addr: SocketAddr,
    secret: Secret,
    /// Index of the first socket of its address family.
    first_socket: usize,
    /// The attribute that identifies this client to it.
    nas: Option<Avp>,
    /// By slot: socket `slot % SOURCE_PORTS`, identifier `slot / SOURCE_PORTS`.
    slots: Vec<Option<Attempt>>,
    next_slot: usize,
    in_flight: usize,
    /// How many of them take no room in the window.
    overtaken: usize,
    window: f64,
    /// Up to this size the window grows fast.
    ceiling: f64,
    narrowed: Option<Instant>,
    /// When it is due again; `None` = it is up.
    down_until: Option<Instant>,
    /// In this call it went down, or turned out to be still down.
    failed: bool,
    last_reply: Option<Instant>,
    /// The latest first transmission of all acknowledged records.
    answered_to: Option<Instant>,
    last_error: Option<String>,
    told_forged: bool,
}

impl Peer {
    /// Takes the free identifier that has been unused for longest, so that a late answer does not match a new packet.
    fn take_slot(&mut self, attempt: Attempt) -> Option<usize> {
        let slot = (0..SLOTS).map(|i| (self.next_slot + i) % SLOTS).find(|&s| self.slots[s].is_none())?;
        self.next_slot = (slot + 1) % SLOTS;
        self.slots[slot] = Some(attempt);
        Some(slot)
    }

    fn has_room(&self) -> bool {
        self.in_flight - self.overtaken < self.window as usize && self.in_flight < IN_FLIGHT_MAX
    }

    /// Was a record acknowledged that was first sent after this moment?
    fn answered_later_than(&self, sent: Instant) -> bool {
        self.answered_to.is_some_and(|later| later > sent)
    }

    /// A packet was lost: halves the window, once for all packets lost together.
    fn narrow(&mut self, now: Instant, timeout: Duration) {
        if self.narrowed.is_none_or(|t| now - t >= timeout) {
            self.narrowed = Some(now);
            self.ceiling = (self.window * WINDOW_KEPT).max(WINDOW_START / 2.0);
            self.window = (self.window / 2.0).max(WINDOW_MIN);
        }
    }

    fn answered(&mut self, now: Instant, sent: Instant) {
        self.last_reply = Some(now);
        self.answered_to = self.answered_to.max(Some(sent));
        self.last_error = None;
        if self.down_until.take().is_some() {
            log::info!("RADIUS server {}: answers again", self.addr);
        }
        // One more for each answered window; above the ceiling, for each window of windows.
        let step = if self.window < self.ceiling { 1.0 / self.window } else { 1.0 / (self.window * self.window) };
        self.window = (self.window + step).min(WINDOW_MAX);
    }
}

/// Identifies a record: its id, and when it was made.
type Key = (u128, Wall);

/// A record on its way to a server.
struct Flight {
    key: Key,
    attributes: Vec<Avp>,
    /// See [`Offer::parked`].
    parked: bool,
    /// The last call of [`RadiusClient`] that asked for it.
    call: u64,
    /// The server it is in flight at.
    server: Option<usize>,
    /// Servers that did not acknowledge it, one bit each (`conf::MAX_SERVERS` is below 32).
    tried: u32,
    /// One of these servers has acknowledged other records in the meantime.
    refused: bool,
    /// First transmission to any server, and to this one.
    begun: Option<Instant>,
    started: Instant,
    /// Transmissions to this server.
    sent: u32,
    /// The current pause and its end; when to check whether the record was overtaken; the earlier of the two times.
    wait: Duration,
    resend: Instant,
    look: Instant,
    deadline: Instant,
    /// It takes no room in the window.
    overtaken: bool,
    /// The last packet, its Acct-Delay-Time and its slot.
    packet: Vec<u8>,
    delay: u32,
    slot: Option<usize>,
    /// Slot of the previous packet, an answer to which still counts.
    previous: Option<usize>,
    fate: Option<Fate>,
}

/// A record that was offered and not acknowledged.
struct Unanswered {
    /// When it was first sent.
    first: Instant,
    offers: u32,
}

/// Where a record goes next.
enum Choice {
    To(usize),
    /// To a server that has no room now.
    Wait,
    /// No server is left for it.
    Nowhere,
}

/// The client. It lives as long as the delivery process: records in flight, windows, dead timers and
/// offers are kept from call to call.
pub struct RadiusClient {
    conf: Conf,
    encoder: Encoder,
    options: Options,
    peers: Vec<Peer>,
    sockets: Vec<UdpSocket>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    by_key: HashMap<Key, usize>,
    call: u64,
    /// Records that were not sent yet.
    fresh: VecDeque<usize>,
    /// Records that a server did not acknowledge and that go to the next one.
    moved: VecDeque<usize>,
    timers: BTreeSet<(Instant, usize)>,
    unanswered: HashMap<Key, Unanswered>,
}

impl RadiusClient {
    /// Opens the sockets; must be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// No socket can be bound to `bindaddr`; names the file with this key.
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
                overtaken: 0,
                window: WINDOW_START,
                ceiling: WINDOW_MAX,
                narrowed: None,
                down_until: None,
                failed: false,
                last_reply: None,
                answered_to: None,
                last_error: None,
                told_forged: false,
            });
        }
        Ok(RadiusClient {
            conf,
            encoder,
            options,
            peers,
            sockets,
            flights: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            call: 0,
            fresh: VecDeque::new(),
            moved: VecDeque::new(),
            timers: BTreeSet::new(),
            unanswered: HashMap::new(),
        })
    }

    /// Sends records; the fates are in the order of the records. Returns once all records without a known fate were sent
    /// a while ago, or, if more are waiting after a full batch, once few of them were sent just now. Records that are still
    /// under way must be given again in the next call; those that are not are forgotten.
    ///
    /// The future may be dropped at any time; then, too, what was sent must be given again in the next call.
    pub async fn send_all(&mut self, offers: &[Offer<'_>]) -> Vec<Fate> {
        let (mine, new) = self.begin(offers);
        let low_water = if new < SENDER_BATCH { 0 } else { LOW_WATER };
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            // Before receiving, so that a flood of datagrams does not hold up the timers.
            self.expire(&mut buffer).await;
            self.dispatch().await;
            let (known, young, next) = self.survey(&mine);
            if known == mine.len() || known > 0 && young <= low_water {
                break;
            }
            // Whenever a record is open, something is in flight: dispatch either sends or gives up.
            let Some(&(deadline, _)) = self.timers.first() else { break };
            let deadline = if known > 0 { next.map_or(deadline, |next| next.min(deadline)) } else { deadline };
            tokio::select! {
                biased;
                (socket, length, from) = receive(&self.sockets, &mut buffer) => {
                    self.reply(socket, &buffer[..length], from);
                    self.take_more(&mut buffer);
                    if new < SENDER_BATCH && !self.timers.is_empty() {
                        sleep(REPLIES).await;
                    }
                }
                () = sleep_until(deadline) => {}
            }
        }
        let fates = mine.iter().map(|i| self.flights[*i].as_ref().and_then(|f| f.fate.clone()).unwrap_or(Fate::UnderWay)).collect();
        for i in mine {
            if self.flights[i].as_ref().is_some_and(|f| f.fate.is_some()) {
                self.forget(i);
            }
        }
        fates
    }

    /// How many of these records have a fate, how many were sent just now, and when the first of the latter no longer was.
    fn survey(&self, mine: &[usize]) -> (usize, usize, Option<Instant>) {
        let now = Instant::now();
        let (mut known, mut young, mut next) = (0, 0, None::<Instant>);
        for flight in mine.iter().filter_map(|i| self.flights[*i].as_ref()) {
            let grown = flight.started + AWAITED;
            if flight.fate.is_some() {
                known += 1;
            } else if flight.begun.is_none() {
                young += 1;
            } else if grown > now {
                young += 1;
                next = Some(next.map_or(grown, |n| n.min(grown)));
            }
        }
        (known, young, next)
    }

    /// The flights of these records, and how many of them are new. Flights of other records are forgotten.
    fn begin(&mut self, offers: &[Offer<'_>]) -> (Vec<usize>, usize) {
        self.call += 1;
        let (mut mine, mut new) = (Vec::with_capacity(offers.len()), 0);
        for offer in offers {
            let key = (offer.record.id, offer.made);
            let i = match self.by_key.get(&key) {
                Some(i) => *i,
                None => {
                    new += 1;
                    self.add(key, offer)
                }
            };
            if let Some(flight) = &mut self.flights[i] {
                flight.call = self.call;
            }
            mine.push(i);
        }
        let abandoned = |f: &Option<Flight>| f.as_ref().is_some_and(|f| f.call != self.call);
        for i in (0..self.flights.len()).filter(|i| abandoned(&self.flights[*i])).collect::<Vec<_>>() {
            self.land(i);
            self.forget(i);
        }
        if self.unanswered.len() > 2 * UNANSWERED_MAX.max(offers.len()) {
            let keys: HashSet<Key> = self.by_key.keys().copied().collect();
            self.unanswered.retain(|key, _| keys.contains(key));
        }
        for peer in &mut self.peers {
            peer.failed = false;
            if peer.nas.is_none() {
                let address = self.conf.nas_ip.or_else(|| local_address(self.conf.bind, &peer.addr).ok());
                peer.nas = address.map(|a| match a {
                    IpAddr::V4(a) => Avp { code: NAS_IP_ADDRESS, value: a.octets().to_vec() },
                    IpAddr::V6(a) => Avp { code: NAS_IPV6_ADDRESS, value: a.octets().to_vec() },
                });
            }
        }
        // All servers are down, but the caller's own pause is over: the one that is due first is asked
        // now.
        if self.peers.iter().all(|p| p.down_until.is_some() && p.in_flight == 0) {
            let due = self.peers.iter_mut().filter_map(|p| p.down_until.as_mut()).min();
            let now = Instant::now();
            if let Some(due) = due {
                *due = (*due).min(now);
            }
        }
        (mine, new)
    }

    fn add(&mut self, key: Key, offer: &Offer<'_>) -> usize {
        // Room for what the sender adds: two numbers, the longer kind of address, a name.
        let own = 2 * 6 + 18 + 2 + self.conf.nas_identifier.as_ref().map_or(0, String::len);
        let now = Instant::now();
        let flight = Flight {
            key,
            attributes: self.encoder.attributes(offer.record, MAX_PACKET - HEADER - own),
            parked: offer.parked,
            call: self.call,
            server: None,
            tried: 0,
            refused: false,
            begun: None,
            started: now,
            sent: 0,
            wait: Duration::ZERO,
            resend: now,
            look: now,
            deadline: now,
            overtaken: false,
            packet: Vec::new(),
            delay: 0,
            slot: None,
            previous: None,
            fate: None,
        };
        let i = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        self.flights[i] = Some(flight);
        self.by_key.insert(key, i);
        self.fresh.push_back(i);
        i
    }

    /// The fate of a flight that has ended.
    fn forget(&mut self, i: usize) {
        if let Some(flight) = self.flights[i].take() {
            self.by_key.remove(&flight.key);
            self.free.push(i);
            self.fresh.retain(|f| *f != i);
            self.moved.retain(|m| *m != i);
        }
    }

    fn finish(&mut self, i: usize, fate: Fate) {
        let Some(flight) = &mut self.flights[i] else { return };
        // Only the count for `aaa_retry` goes on.
        let comes_again = match fate {
            Fate::Retry(_) => true,
            Fate::Refused(_) | Fate::Held(_) => self.options.retry.is_some(),
            Fate::Delivered | Fate::Superseded(_) | Fate::Dead(_) | Fate::UnderWay => false,
        };
        if !comes_again {
            self.unanswered.remove(&flight.key);
        }
        flight.fate.get_or_insert(fate);
        (flight.attributes, flight.packet) = (Vec::new(), Vec::new());
    }

    /// The first server of the list that may get the record: the list is an order of preference, load is not
    /// spread.
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
    async fn dispatch(&mut self) {
        for _ in 0..self.moved.len() {
            let Some(i) = self.moved.pop_front() else { break };
            let tried = self.flights[i].as_ref().map_or(0, |f| f.tried);
            match self.choose(tried, Instant::now()) {
                Choice::To(s) => self.start(i, s).await,
                Choice::Wait => self.moved.push_back(i),
                Choice::Nowhere => self.give_up(i),
            }
        }
        while !self.fresh.is_empty() {
            match self.choose(0, Instant::now()) {
                Choice::To(s) => {
                    // A record that was not acknowledged before would prove nothing.
                    let at = if self.peers[s].down_until.is_some() { self.least_offered() } else { 0 };
                    let Some(i) = self.fresh.remove(at) else { return };
                    self.start(i, s).await;
                }
                Choice::Wait => return,
                Choice::Nowhere => {
                    let Some(i) = self.fresh.pop_front() else { return };
                    self.finish(i, Fate::Retry(self.silence(u32::MAX)));
                }
            }
        }
    }

    /// Which of the records that were not sent yet was offered least often.
    fn least_offered(&self) -> usize {
        let offers = |i: usize| self.flights[i].as_ref().map(|f| (f.parked, self.unanswered.get(&f.key).map_or(0, |u| u.offers)));
        self.fresh.iter().enumerate().min_by_key(|(_, i)| offers(**i)).map_or(0, |(at, _)| at)
    }

    /// First transmission to a server.
    async fn start(&mut self, i: usize, server: usize) {
        if let Some(flight) = &mut self.flights[i] {
            let now = Instant::now();
            flight.begun.get_or_insert(now);
            (flight.server, flight.started, flight.sent, flight.wait, flight.look) = (Some(server), now, 0, Duration::ZERO, now + YOUNG);
            self.peers[server].in_flight += 1;
        }
        self.transmit(i).await;
    }

    /// Sends a record to its server; the same packet as before if nothing in it changes.
    async fn transmit(&mut self, i: usize) {
        let Some(flight) = &mut self.flights[i] else { return };
        let Some(server) = flight.server else { return };
        let peer = &mut self.peers[server];
        let delay = seconds_since(flight.key.1);
        if flight.sent == 0 || flight.delay != delay {
            if let Some(old) = flight.previous.take() {
                peer.slots[old] = None;
            }
            flight.previous = flight.slot.take();
            // There are two identifiers for each record of the largest window, so one is free.
            let Some(slot) = peer.take_slot(Attempt { flight: i, authenticator: [0; 16] }) else { return };
            let own = own_attributes(&flight.attributes, &self.options, delay, peer.nas.as_ref(), self.conf.nas_identifier.as_deref());
            let packet = match packet::request((slot / SOURCE_PORTS) as u8, &peer.secret, flight.attributes.iter().chain(&own)) {
                Ok(p) => p,
                Err(e) => {
                    peer.slots[slot] = None;
                    self.land(i);
                    return self.finish(i, Fate::Dead(format!("not a RADIUS packet: {e}")));
                }
            };
            let mut authenticator = [0; 16];
            authenticator.copy_from_slice(&packet[4..HEADER]);
            peer.slots[slot] = Some(Attempt { flight: i, authenticator });
            (flight.slot, flight.packet, flight.delay) = (Some(slot), packet, delay);
        }
        flight.sent += 1;
        flight.wait = next_wait(flight.wait, self.conf.timeout);
        flight.resend = Instant::now() + flight.wait;
        flight.deadline = flight.resend.min(flight.look);
        self.timers.insert((flight.deadline, i));
        let socket = &self.sockets[peer.first_socket + flight.slot.unwrap_or(0) % SOURCE_PORTS];
        // A packet that cannot be sent (no route, no buffer) is treated as lost: it is sent again later.
        if let Err(e) = socket.send_to(&flight.packet, peer.addr).await {
            peer.last_error = Some(e.to_string());
        }
    }

    /// Takes a record off its server: timer, identifiers, room.
    fn land(&mut self, i: usize) {
        let Some(flight) = &mut self.flights[i] else { return };
        self.timers.remove(&(flight.deadline, i));
        if let Some(server) = flight.server.take() {
            let peer = &mut self.peers[server];
            for slot in [flight.slot.take(), flight.previous.take()].into_iter().flatten() {
                peer.slots[slot] = None;
            }
            peer.in_flight -= 1;
            peer.overtaken -= usize::from(std::mem::take(&mut flight.overtaken));
            flight.tried |= 1 << server;
        }
    }

    /// Handles pauses that have ended.
    async fn expire(&mut self, buffer: &mut [u8]) {
        if self.timers.first().is_some_and(|(deadline, _)| *deadline <= Instant::now()) {
            // This process may not have run for a while, although answers came in time. The runtime looks at the
            // sockets only while this function waits.
            yield_now().await;
            self.take_more(buffer);
        }
        let now = Instant::now();
        while let Some(&(deadline, i)) = self.timers.first() {
            if deadline > now {
                return;
            }
            self.timers.pop_first();
            let Some(flight) = &mut self.flights[i] else { continue };
            let Some(server) = flight.server else { continue };
            let peer = &mut self.peers[server];
            let overtaken = peer.answered_later_than(flight.started);
            if overtaken && !std::mem::replace(&mut flight.overtaken, overtaken) {
                peer.overtaken += 1;
            }
            // A parked record delays no other.
            let patience_ends = !flight.parked && overtaken && flight.started + PATIENCE <= now;
            let exhausted = flight.resend <= now && flight.sent > self.conf.retries;
            if patience_ends || exhausted {
                let first = self.unanswered.get(&flight.key).map(|u| u.first).or(flight.begun).unwrap_or(flight.started);
                let answers = peer.last_reply.is_some_and(|t| t >= flight.started) || peer.answered_later_than(first);
                if answers || flight.parked {
                    // Only this record goes to the next server.
                    flight.refused |= answers;
                    self.land(i);
                    self.moved.push_back(i);
                } else {
                    self.down(server, now);
                }
            } else if flight.resend <= now {
                // A record that was overtaken may be one that the server refuses. If its packet was only lost, its next answer will show it.
                if !overtaken {
                    peer.narrow(now, self.conf.timeout);
                }
                stats::add(Counter::AaaRetransmits, 1);
                flight.look = flight.look.max(now + YOUNG);
                self.transmit(i).await;
            } else {
                flight.look = now + YOUNG;
                flight.deadline = flight.resend.min(flight.look);
                self.timers.insert((flight.deadline, i));
            }
        }
    }

    /// A server answered nothing while a record was sent to it repeatedly: it is down.
    fn down(&mut self, server: usize, now: Instant) {
        let peer = &mut self.peers[server];
        let why = peer.last_error.as_deref().unwrap_or("no answer");
        if peer.down_until.is_none() {
            log::warn!(
                "RADIUS server {}: {why}; not used for {} s. Is it running, does it know this client, and does it have the shared secret in {}?",
                peer.addr,
                self.conf.deadtime.as_secs(),
                self.conf.file.display()
            );
        } else {
            log::debug!("RADIUS server {}: still {why}", peer.addr);
        }
        peer.down_until = Some(now + self.conf.deadtime);
        peer.failed = true;
        (peer.window, peer.ceiling) = (WINDOW_START, WINDOW_MAX);
        for i in 0..self.flights.len() {
            if self.flights[i].as_ref().is_some_and(|f| f.server == Some(server)) {
                self.land(i);
                self.moved.push_back(i);
            }
        }
    }

    /// The list is exhausted for a record that was sent: its fate.
    fn give_up(&mut self, i: usize) {
        let Some(flight) = &self.flights[i] else { return };
        let reason = self.silence(flight.tried);
        let first = flight.begun.unwrap_or(flight.started);
        let unanswered = self.unanswered.entry(flight.key).or_insert(Unanswered { first, offers: 0 });
        unanswered.offers += 1;
        let offers = unanswered.offers;
        let fate = match self.options.retry {
            Some(most) if offers >= most => Fate::Dead(format!("{reason}; offered {offers} times (aaa_retry)")),
            _ if flight.refused => Fate::Refused(reason),
            // No other record was acknowledged in the meantime, so this one may not be at fault.
            _ if flight.parked => Fate::Held(Hold { queue: "".into(), reason, all: false }),
            _ => Fate::Retry(reason),
        };
        self.finish(i, fate);
    }

    /// Why the servers in `tried` did not accept a record, for people.
    fn silence(&self, tried: u32) -> String {
        let asked = self.peers.iter().enumerate().filter(|(s, _)| tried & (1 << s) != 0);
        let said: Vec<_> = asked.map(|(_, p)| format!("{}: {}", p.addr, p.last_error.as_deref().unwrap_or("no answer"))).collect();
        format!("no RADIUS server acknowledged the record ({})", said.join(", "))
    }

    /// Handles the datagrams that have arrived, but no more than there can be answers due, so that a flood
    /// does not hold up the timers.
    fn take_more(&mut self, buffer: &mut [u8]) {
        let mut left = SLOTS;
        for socket in 0..self.sockets.len() {
            while left > 0
                && let Ok((length, from)) = self.sockets[socket].try_recv_from(buffer)
            {
                self.reply(socket, &buffer[..length], from);
                left -= 1;
            }
        }
    }

    /// Handles a datagram.
    fn reply(&mut self, socket: usize, reply: &[u8], from: SocketAddr) {
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
                let now = Instant::now();
                let flight = self.flights[attempt.flight].as_ref();
                if flight.is_some_and(|f| f.sent > 1 && f.overtaken) {
                    peer.narrow(now, self.conf.timeout);
                }
                peer.answered(now, flight.map_or(now, |f| f.started));
                self.land(attempt.flight);
                self.finish(attempt.flight, Fate::Delivered);
            }
            Err(refused) => {
                // RFC 2866 §3: silently discarded, and the request stays open.
                stats::add(Counter::AaaIgnored, 1);
                if refused == Refused::Forged && !std::mem::replace(&mut peer.told_forged, true) {
                    log::warn!(
                        "RADIUS server {}: an answer has a wrong authenticator and is ignored; does the server have the shared secret in {}? Further ones are counted, not logged",
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
    fn send_all<'a>(&'a mut self, offers: &'a [Offer<'a>]) -> LocalFuture<'a, Vec<Fate>> {
        Box::pin(RadiusClient::send_all(self, offers))
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
