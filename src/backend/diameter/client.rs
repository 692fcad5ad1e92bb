//! The accounting client of the delivery process: pipelined over several peers, with failover and
//! failback, and a fate for each record.
//!
//! A record goes to the first peer of the list that takes requests; what is in flight at a peer that
//! fails goes to the next one, with the same End-to-End identifier and the T flag (RFC 6733 §5.5.4). T
//! is set whenever the record may have been sent before without an answer, possibly by an earlier
//! process: so on every record that was made before this process began.
//!
//! After an answer of success, the record is delivered. After one that says that the peer is in trouble, it
//! goes to the next peer. After one that finds fault with the record, its fate is open until it is known
//! whether others are accepted: if so, the record itself was refused ([`Fate::Refused`]; if that happens
//! again when it is retried separately, it is dead). If nothing is accepted, the server is at fault.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::message::{ACCOUNTING, BASE_ACCOUNTING, Encoder, Verdict, cure};
use super::peer::{Event, Ids, Order, PeerTask, first_end_to_end};
use super::{Counters, Diameter, codec};
use crate::accounting::clock::Moment;
use crate::accounting::clock::Wall;
use crate::backend::{Fate, Hold, LocalFuture, Offer, REFUSED_IN_A_ROW, RecordSender, SENDER_BATCH};
use crate::stats;

/// Most requests in flight at one peer.
pub const WINDOW: usize = 128;
/// A record that was sent this long ago keeps no other waiting.
const YOUNG: Duration = Duration::from_millis(200);
/// Records that may be in flight when a call returns although more are waiting, so that the peer is never idle.
const LOW_WATER: usize = 32;
/// How long a record with which a peer found fault waits for others to be accepted.
const PATIENCE: Duration = Duration::from_secs(3);
/// A peer that is down is called again after this time at the earliest.
const NUDGE: Duration = Duration::from_secs(1);
/// For at least this many records it is remembered whether they were answered.
const REMEMBERED: usize = 1000;
/// How long an orderly end may take.
const LEAVE: Duration = Duration::from_secs(1);

/// Identifies a record: its id, and when it was made.
type Key = (u128, Wall);

/// The state of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It may take requests soon.
    Trying,
    Open,
    /// It may answer, or break.
    Doubtful,
    Down,
}

struct Link {
    name: String,
    state: State,
    /// Why it is down.
    reason: String,
    down_since: Instant,
    orders: UnboundedSender<Order>,
    ids: Arc<Ids>,
    in_flight: usize,
    /// It takes no requests, and another peer has taken its place, or it never took any.
    failed_over: bool,
    /// When the last one of the answered records was sent.
    answered_to: Option<Instant>,
}

/// A record on its way.
struct Flight {
    key: Key,
    message: Vec<u8>,
    end_to_end: u32,
    /// It may have been sent before without an answer.
    repeats: bool,
    /// See [`Offer::parked`].
    parked: bool,
    /// The call that is up, if this is a start or interim record.
    up: Option<u128>,
    /// The last call of [`DiameterClient`] that asked for it.
    call: u64,
    peer: Option<usize>,
    /// Its identifiers on connections, by peer.
    hops: Vec<(usize, u32)>,
    /// Peers that do not want it or do not answer, one bit each ([`stats::MAX_PEERS`] is below 32).
    tried: u32,
    begun: Option<Instant>,
    sent: Instant,
    /// How often it was sent to this peer without an answer.
    sendings: u32,
    deadline: Instant,
    /// What a peer said about its own trouble.
    trouble: Option<String>,
    /// With what a peer found fault, and when.
    fault: Option<(String, Instant)>,
    /// It was sent as a new request because a peer does not accept repetitions.
    anew: bool,
    fate: Option<Fate>,
}

/// What is known about a record that was offered and is not settled.
enum Memory {
    /// How often it was sent and not answered.
    Unanswered { end_to_end: u32, offers: u32 },
    /// It was answered, though not with success.
    Answered,
}

/// Where a record goes next.
enum Choice {
    To(usize),
    /// To a peer that may take it soon.
    Wait,
    /// No peer is left for it.
    Nowhere,
}

/// The client. It lives as long as the delivery process.
pub struct DiameterClient {
    encoder: Encoder,
    counters: Counters,
    timeout: Duration,
    retry: Option<u32>,
    /// Records that were made before this time may be repetitions.
    started: Wall,
    links: Vec<Link>,
    events: UnboundedReceiver<(usize, Event)>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    by_key: HashMap<Key, usize>,
    by_hop: HashMap<(usize, u32), usize>,
    call: u64,
    fresh: VecDeque<usize>,
    /// Records that go to another peer, or again to the same one.
    moved: VecDeque<usize>,
    timers: BTreeSet<(Instant, usize)>,
    memory: HashMap<Key, Memory>,
    /// When a record was last accepted, and with how many a peer has found fault since.
    taken: Option<Instant>,
    faults: u32,
    /// See [`RecordSender::intervals`].
    intervals: Vec<(u128, u32)>,
}

impl DiameterClient {
    /// Starts connecting; must be called inside a tokio runtime with I/O and time.
    pub fn new(diameter: Diameter) -> DiameterClient {
        let (tell, events) = unbounded_channel();
        let started = Moment::wall_now();
        let end_to_end = Arc::new(AtomicU32::new(first_end_to_end(started.seconds())));
        let mut links = Vec::with_capacity(diameter.conf.peers.len());
        for (index, peer) in diameter.conf.peers.into_iter().enumerate() {
            let (orders, obey) = unbounded_channel();
            let ids = Arc::new(Ids::new(end_to_end.clone()));
            links.push(Link {
                name: peer.id.clone(),
                state: State::Trying,
                reason: String::new(),
                down_since: Instant::now(),
                orders,
                ids: ids.clone(),
                in_flight: 0,
                failed_over: true,
                answered_to: None,
            });
            let (sink, connector) = (diameter.counters.sink, diameter.connector.clone());
            let task = PeerTask { index, sink, peer, connector, ids, orders: obey, events: tell.clone() };
            tokio::spawn(task.run());
        }
        DiameterClient {
            encoder: diameter.encoder,
            counters: diameter.counters,
            timeout: diameter.timeout,
            retry: diameter.retry,
            started,
            links,
            events,
            flights: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            by_hop: HashMap::new(),
            call: 0,
            fresh: VecDeque::new(),
            moved: VecDeque::new(),
            timers: BTreeSet::new(),
            memory: HashMap::new(),
            taken: None,
            faults: 0,
            intervals: Vec::new(),
        }
    }

    /// Sends records; the fates are in the order of the records. Returns once all records without a known fate were
    /// sent a while ago, or, if more are waiting after a full batch, once few of them were sent just now. Records that
    /// are still under way must be given again in the next call; those that are not are forgotten.
    ///
    /// The future may be dropped at any time; then, too, what was sent must be given again in the next call.
    pub async fn send_all(&mut self, offers: &[Offer<'_>]) -> Vec<Fate> {
        let (mine, new) = self.begin(offers);
        let low_water = if new < SENDER_BATCH { 0 } else { LOW_WATER };
        loop {
            while let Ok((peer, event)) = self.events.try_recv() {
                self.hear(peer, event);
            }
            self.expire(Instant::now());
            self.dispatch();
            let (known, young, next) = self.survey(&mine);
            if known == mine.len() || known > 0 && young <= low_water {
                break;
            }
            let deadline = [self.timers.first().map(|t| t.0), next.filter(|_| known > 0)].into_iter().flatten().min();
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some((peer, event)) => self.hear(peer, event),
                    // The tasks live as long as the client, so one of them has panicked.
                    None => break,
                },
                () = until(deadline) => {}
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

    /// Disconnects from all peers in an orderly way, so that they answer the next process at once.
    pub async fn leave(&mut self) {
        let leaving: Vec<_> = self
            .links
            .iter()
            .filter_map(|link| {
                let (done, left) = oneshot::channel();
                link.orders.send(Order::Leave(done)).ok().map(|()| left)
            })
            .collect();
        let all = async {
            for left in leaving {
                let _ = left.await;
            }
        };
        let _ = timeout(LEAVE, all).await;
    }

    /// How many of these records have a fate, how many were sent just now, and when the first of the latter no longer was.
    fn survey(&self, mine: &[usize]) -> (usize, usize, Option<Instant>) {
        let now = Instant::now();
        let (mut known, mut young, mut next) = (0, 0, None::<Instant>);
        for flight in mine.iter().filter_map(|i| self.flights[*i].as_ref()) {
            let grown = flight.begun.map(|b| b + YOUNG);
            if flight.fate.is_some() {
                known += 1;
            } else if grown.is_none_or(|g| g > now) {
                young += 1;
                next = [next, grown].into_iter().flatten().min();
            }
        }
        (known, young, next)
    }

    /// The flights of these records, and how many of them are new. Flights of other records are forgotten.
    fn begin(&mut self, offers: &[Offer<'_>]) -> (Vec<usize>, usize) {
        self.call += 1;
        let (mut mine, mut new) = (Vec::with_capacity(offers.len()), 0);
        for offer in offers {
            let i = match self.by_key.get(&(offer.record.id, offer.made)) {
                Some(i) => *i,
                None => {
                    new += 1;
                    self.add(offer)
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
        if self.memory.len() > 2 * REMEMBERED.max(offers.len()) {
            let keys: HashSet<Key> = self.by_key.keys().copied().collect();
            self.memory.retain(|key, _| keys.contains(key));
        }
        // All peers are down, but the caller's own pause is over: all are called now.
        let now = Instant::now();
        if self.links.iter().all(|l| l.state == State::Down) {
            for link in self.links.iter_mut().filter(|l| l.down_since + NUDGE <= now) {
                if link.orders.send(Order::Connect).is_ok() {
                    link.state = State::Trying;
                }
            }
        }
        (mine, new)
    }

    fn add(&mut self, offer: &Offer<'_>) -> usize {
        let key = (offer.record.id, offer.made);
        let now = Instant::now();
        let message = self.encoder.request(offer.record);
        // Start records are for sessions, which are not in use here.
        let is_needless = self.encoder.leaves_out(offer.record);
        let (end_to_end, repeats) = match self.memory.get(&key) {
            Some(Memory::Unanswered { end_to_end, .. }) => (*end_to_end, true),
            Some(Memory::Answered) => (self.end_to_end(), false),
            // If many records are parked, it is forgotten why one is: better one T too many.
            None => (self.end_to_end(), offer.parked || offer.made <= self.started),
        };
        let fate = match &message {
            _ if is_needless => Some(Fate::Delivered),
            None => Some(Fate::Dead("longer than a Diameter message can be".into())),
            Some(_) => None,
        };
        let flight = Flight {
            key,
            message: message.unwrap_or_default(),
            end_to_end,
            repeats,
            parked: offer.parked,
            up: offer.record.kind.is_report().then(|| offer.record.call_key()),
            call: self.call,
            peer: None,
            hops: Vec::new(),
            tried: 0,
            begun: None,
            sent: now,
            sendings: 0,
            deadline: now,
            trouble: None,
            fault: None,
            anew: false,
            fate,
        };
        let sends = flight.fate.is_none();
        let i = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        self.flights[i] = Some(flight);
        self.by_key.insert(key, i);
        if sends {
            self.fresh.push_back(i);
        }
        i
    }

    fn end_to_end(&self) -> u32 {
        // There is always a peer.
        self.links.first().map_or(0, |l| l.ids.end_to_end())
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

    /// Takes a record off its peer: timer and room are freed, and late answers still count.
    fn unload(&mut self, i: usize) {
        let Some(flight) = &mut self.flights[i] else { return };
        self.timers.remove(&(flight.deadline, i));
        flight.sendings = 0;
        if let Some(peer) = flight.peer.take() {
            self.links[peer].in_flight -= 1;
        }
    }

    /// The same, but answers no longer count.
    fn land(&mut self, i: usize) {
        self.unload(i);
        let Some(flight) = &mut self.flights[i] else { return };
        for hop in flight.hops.drain(..) {
            self.by_hop.remove(&hop);
        }
    }

    fn finish(&mut self, i: usize, fate: Fate) {
        self.land(i);
        let Some(flight) = &mut self.flights[i] else { return };
        if matches!(fate, Fate::Delivered | Fate::Dead(_)) {
            self.memory.remove(&flight.key);
        }
        flight.fate.get_or_insert(fate);
        flight.message = Vec::new();
    }

    /// The first peer of the list that may get the record: the list is an order of preference, load is not spread.
    fn choose(&self, tried: u32) -> Choice {
        let mut nothing = Choice::Nowhere;
        for (p, link) in self.links.iter().enumerate().filter(|(p, _)| tried & (1 << p) == 0) {
            match link.state {
                State::Open if link.in_flight < WINDOW => return Choice::To(p),
                State::Open => return Choice::Wait,
                State::Trying | State::Doubtful => nothing = Choice::Wait,
                State::Down => {}
            }
        }
        nothing
    }

    /// Sends what may be sent.
    fn dispatch(&mut self) {
        for _ in 0..self.moved.len() {
            let Some(i) = self.moved.pop_front() else { break };
            match self.choose(self.flights[i].as_ref().map_or(0, |f| f.tried)) {
                Choice::To(p) => self.transmit(i, p),
                Choice::Wait => self.moved.push_back(i),
                Choice::Nowhere => self.give_up(i),
            }
        }
        while let Some(i) = self.fresh.front().copied() {
            match self.choose(0) {
                Choice::To(p) => self.transmit(i, p),
                Choice::Wait => return,
                Choice::Nowhere => {
                    let reason = self.nobody();
                    self.finish(i, Fate::Retry(reason));
                }
            }
            self.fresh.pop_front();
        }
    }

    fn transmit(&mut self, i: usize, peer: usize) {
        let link = &mut self.links[peer];
        let Some(flight) = &mut self.flights[i] else { return };
        let now = Instant::now();
        if flight.peer.replace(peer) != Some(peer) {
            link.in_flight += 1;
        }
        let hop = link.ids.hop_by_hop();
        codec::address(&mut flight.message, hop, flight.end_to_end, flight.repeats);
        if flight.repeats {
            stats::add(self.counters.retransmits, 1);
        }
        flight.hops.push((peer, hop));
        self.by_hop.insert((peer, hop), i);
        flight.begun.get_or_insert(now);
        (flight.sent, flight.repeats, flight.deadline) = (now, true, now + self.timeout);
        flight.sendings += 1;
        self.timers.insert((flight.deadline, i));
        match self.memory.get(&flight.key) {
            Some(Memory::Unanswered { .. }) => {}
            _ => drop(self.memory.insert(flight.key, Memory::Unanswered { end_to_end: flight.end_to_end, offers: 0 })),
        }
        // If the task is gone or its connection down, the client is told, or the answer is missing.
        let _ = link.orders.send(Order::Send(flight.message.clone()));
    }

    /// Handles pauses that have ended.
    fn expire(&mut self, now: Instant) {
        // There is no other record, so nothing can tell whose fault it is.
        let open = || self.flights.iter().flatten().filter(|f| f.fate.is_none());
        let hopeless = open().count() > 1 && open().all(|f| f.fault.is_some() && !f.parked);
        if hopeless {
            for i in 0..self.flights.len() {
                self.blame_the_server(i);
            }
        }
        while let Some(&(deadline, i)) = self.timers.first() {
            if deadline > now {
                return;
            }
            self.timers.pop_first();
            let Some(flight) = &mut self.flights[i] else { continue };
            if flight.fault.is_some() {
                self.blame_the_server(i);
                continue;
            }
            let Some(peer) = flight.peer else { continue };
            if self.links[peer].state != State::Open {
                // The watchdog is about to find out.
                flight.deadline = now + self.timeout;
                self.timers.insert((flight.deadline, i));
            } else if flight.sendings < 2 {
                self.transmit(i, peer);
            } else {
                flight.tried |= 1 << peer;
                self.unload(i);
                self.moved.push_back(i);
            }
        }
    }

    /// Nothing has been accepted since a peer found fault with this record.
    fn blame_the_server(&mut self, i: usize) {
        let fault = self.flights[i].as_ref().filter(|f| f.fate.is_none()).and_then(|f| f.fault.as_ref());
        if let Some((reason, _)) = fault {
            let reason = format!("{reason}; no other record is taken either: does the server know the AVPs of these records?");
            self.finish(i, Fate::Retry(reason));
        }
    }

    /// No peer is left for a record that was sent.
    fn give_up(&mut self, i: usize) {
        let Some(flight) = &self.flights[i] else { return };
        let silent: Vec<_> = self.links.iter().enumerate().filter(|(p, _)| flight.tried & (1 << p) != 0).map(|(_, l)| l).collect();
        if let Some(reason) = flight.trouble.clone() {
            return self.finish(i, Fate::Retry(reason));
        }
        if silent.is_empty() {
            let reason = self.nobody();
            return self.finish(i, Fate::Retry(reason));
        }
        let names: Vec<_> = silent.iter().map(|l| l.name.as_str()).collect();
        let reason = format!("no answer from Diameter peer {}", names.join(", "));
        let overtaken = silent.iter().any(|l| l.answered_to > flight.begun);
        let mut offers = 0;
        if let Some(Memory::Unanswered { offers: so_far, .. }) = self.memory.get_mut(&flight.key) {
            *so_far += 1;
            offers = *so_far;
        }
        let fate = match self.retry {
            Some(most) if offers >= most => Fate::Dead(format!("{reason}; offered {offers} times (aaa_retry)")),
            _ if overtaken => Fate::Refused(reason),
            // No other record was answered meanwhile, so this one may not be at fault.
            _ if flight.parked => Fate::Held(Hold { queue: "".into(), reason, all: false }),
            _ => Fate::Retry(reason),
        };
        self.finish(i, fate);
    }

    /// Why no peer takes records, for people.
    fn nobody(&self) -> String {
        let said: Vec<_> = self.links.iter().map(|l| format!("{}: {}", l.name, l.reason)).collect();
        format!("no Diameter peer takes records ({})", said.join("; "))
    }

    /// Handles an event of a peer.
    fn hear(&mut self, peer: usize, event: Event) {
        match event {
            Event::Answer(message) => self.answer(peer, &message),
            Event::Trying => self.links[peer].state = State::Trying,
            Event::Open => (self.links[peer].state, self.links[peer].failed_over) = (State::Open, false),
            Event::Closing => {
                self.links[peer].state = State::Doubtful;
                self.fails_over(peer);
            }
            Event::Suspect => {
                self.links[peer].state = State::Doubtful;
                self.fails_over(peer);
                // What no other peer can take stays: it may be answered after all.
                if self.links.iter().any(|l| l.state == State::Open) {
                    self.move_all(peer);
                }
            }
            Event::Down(reason) => {
                let link = &mut self.links[peer];
                (link.state, link.reason, link.down_since) = (State::Down, reason, Instant::now());
                self.fails_over(peer);
                self.move_all(peer);
                self.by_hop.retain(|(p, _), _| *p != peer);
                self.flights.iter_mut().flatten().for_each(|f| f.hops.retain(|(p, _)| *p != peer));
            }
        }
    }

    /// A peer no longer takes requests: counts that as a failover if it got the new records and another one gets them now.
    fn fails_over(&mut self, peer: usize) {
        let is_open = |link: &Link| link.state == State::Open;
        let (before, behind) = (self.links[..peer].iter().any(is_open), self.links[peer + 1..].iter().any(is_open));
        if !before && behind && !std::mem::replace(&mut self.links[peer].failed_over, true) {
            self.counters.sink.state().count_failover(peer);
        }
    }

    /// Everything in flight at a peer goes elsewhere, in the order in which it was sent.
    fn move_all(&mut self, peer: usize) {
        let mut all: Vec<_> = (0..self.flights.len()).filter(|i| self.flights[*i].as_ref().is_some_and(|f| f.peer == Some(peer))).collect();
        all.sort_by_key(|i| self.flights[*i].as_ref().map(|f| f.sent));
        for i in all {
            self.unload(i);
            self.moved.push_back(i);
        }
    }

    fn answer(&mut self, peer: usize, message: &[u8]) {
        let known = codec::decode(message).ok().filter(|(h, _)| h.command == ACCOUNTING && h.application == BASE_ACCOUNTING).and_then(|(header, avps)| {
            let i = *self.by_hop.get(&(peer, header.hop_by_hop))?;
            let same = self.flights[i].as_ref().is_some_and(|f| f.end_to_end == header.end_to_end && f.fate.is_none());
            same.then(|| (i, Verdict::of(avps)))
        });
        let Some((i, verdict)) = known else {
            return stats::add(self.counters.ignored, 1);
        };
        let Some(flight) = &mut self.flights[i] else { return };
        let (sent, key, parked, up, repeated) = (flight.sent, flight.key, flight.parked, flight.up, flight.message[4] & codec::RETRANSMITTED != 0);
        let link = &mut self.links[peer];
        link.answered_to = link.answered_to.max(Some(sent));
        // It may be waiting to go elsewhere.
        self.moved.retain(|m| *m != i);
        self.land(i);
        if (2000..3000).contains(&verdict.code) {
            self.intervals.extend(up.zip(verdict.interval));
            self.finish(i, Fate::Delivered);
            return self.one_is_taken(parked);
        }
        self.memory.insert(key, Memory::Answered);
        let reason = verdict.describe(&self.links[peer].name);
        let fresh = self.end_to_end();
        let Some(flight) = &mut self.flights[i] else { return };
        (flight.end_to_end, flight.repeats) = (fresh, false);
        match verdict.code {
            // It does not accept a repetition, and may not have got the first one.
            5012 if repeated && !flight.anew => {
                flight.anew = true;
                self.moved.push_back(i);
            }
            3001..=3007 | 3010 | 4000..=4999 | 5010 | 5017 => {
                flight.tried |= 1 << peer;
                flight.trouble = Some(cure(verdict.code).map_or(reason.clone(), |cure| format!("{reason}: {cure}")));
                self.moved.push_back(i);
            }
            _ => self.find_fault(i, reason),
        }
    }

    /// A record was accepted: so those with which a peer found fault are themselves at fault.
    fn one_is_taken(&mut self, parked: bool) {
        self.taken = Some(Instant::now());
        if !parked {
            self.faults = 0;
        }
        for i in 0..self.flights.len() {
            let fault = self.flights[i].as_ref().filter(|f| f.fate.is_none() && !f.parked).and_then(|f| f.fault.as_ref());
            if let Some((reason, _)) = fault {
                let reason = reason.clone();
                self.finish(i, Fate::Refused(reason));
            }
        }
    }

    /// A peer finds fault with a record.
    fn find_fault(&mut self, i: usize, reason: String) {
        let Some(flight) = &mut self.flights[i] else { return };
        self.faults += 1;
        if flight.parked {
            // It was refused before while others were accepted. Are others accepted now? A process that has just begun does not know.
            let others_are_taken = self.taken.is_some() && self.faults <= REFUSED_IN_A_ROW;
            let fate = if others_are_taken { Fate::Dead(reason) } else { Fate::Held(Hold { queue: "".into(), reason, all: false }) };
            return self.finish(i, fate);
        }
        if self.taken >= flight.begun {
            return self.finish(i, Fate::Refused(reason));
        }
        let now = Instant::now();
        flight.fault = Some((reason, now));
        flight.deadline = now + PATIENCE;
        self.timers.insert((flight.deadline, i));
    }
}

/// Waits until this time; for ever if there is none.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl RecordSender for DiameterClient {
    fn send_all<'a>(&'a mut self, offers: &'a [Offer<'a>]) -> LocalFuture<'a, Vec<Fate>> {
        Box::pin(DiameterClient::send_all(self, offers))
    }

    fn intervals(&mut self) -> Vec<(u128, u32)> {
        std::mem::take(&mut self.intervals)
    }

    fn close(&mut self) -> LocalFuture<'_, ()> {
        Box::pin(self.leave())
    }
}
