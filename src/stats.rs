//! Counters, all declared here. They are in the shared arena, so every process adds to the same
//! ones. Server statistics, management commands and `accctl` use this list.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::accounting::clock::{Moment, Wall};
use crate::accounting::identity::Identity;
use crate::declaration::{SinkId, destinations};
use crate::interprocess::{Bell, Pen};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $id:ident = $name:literal;)+) => {
        enum General { $($id,)+ }

        /// Counters that belong to no sink, or to only one.
        #[allow(non_upper_case_globals, reason = "they are used like variants of an enum")]
        impl Counter {
            $($(#[doc = $doc])+ pub const $id: Counter = Counter(General::$id as u16);)+
        }

        const GENERAL: &[&str] = &[$($name,)+];

        const GENERAL_HELP: &[&str] = &[$(concat!($($doc),+),)+];
    };
}

/// A counter, by its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(u16);

counters! {
    /// Calls (INVITEs without To tag) that are accounted and were answered.
    CallsAnswered = "calls_answered";
    /// Calls that are accounted and got a final 3xx.
    CallsFailed3xx = "calls_failed_3xx";
    /// Calls that are accounted and got a final 4xx.
    CallsFailed4xx = "calls_failed_4xx";
    /// Calls that are accounted and got a final 5xx.
    CallsFailed5xx = "calls_failed_5xx";
    /// Calls that are accounted and got a final 6xx.
    CallsFailed6xx = "calls_failed_6xx";
    /// Failed calls that a person refused or gave up, by their code (408, 480, 486, 487, 600, 603); NER counts them with the answered.
    CallsFailedUser = "calls_failed_user";
    /// Calls with at least one record of a missed call.
    CallsMissed = "calls_missed";
    /// Calls followed to their end: their CDRs are made.
    CallsEnded = "calls_ended";
    /// Sum of the durations of these, in seconds.
    CallsSeconds = "calls_seconds";
    /// Calls in progress whose CDR is still to be made.
    CallsOpen = "calls_open";
    /// Entry points that panicked and were caught.
    Panics = "panics";
    /// CDRs not written to SQL because the call has one, mostly from another server; also counted as dead.
    DbElsewhere = "db_elsewhere";
    /// RADIUS packets sent again because no answer came.
    AaaRetransmits = "aaa_retransmits";
    /// Datagrams that were not a valid answer to a pending RADIUS request.
    AaaIgnored = "aaa_ignored";
    /// Values left out of RADIUS packets because the attribute cannot hold them.
    AaaOmitted = "aaa_omitted";
    /// Diameter requests sent with the T flag.
    DiameterRetransmits = "diameter_retransmits";
    /// Diameter answers to no request under way.
    DiameterIgnored = "diameter_ignored";
    /// Values left out of Diameter requests because their AVP cannot hold them.
    DiameterOmitted = "diameter_omitted";
    /// Log lines written at once.
    LogWritten = "log_written";
    /// Events raised.
    EviRaised = "evi_raised";
    /// Events the server refused.
    EviFailed = "evi_failed";
    /// Values clipped to what a destination, or `context_max`, can hold.
    Clipped = "clipped";
    /// Records lost because the journal could not be written, and lines too long for a datagram.
    JournalLost = "journal_lost";
    /// Records dropped with the oldest segments of a full journal; also counted as dead.
    JournalDropped = "journal_dropped";
    /// Requests refused because the journal was full.
    JournalRefused = "journal_refused";
    /// Stream messages that the broker already had, from an attempt whose result was not seen.
    StreamDuplicates = "stream_duplicates";
    /// 1 while the journal is full.
    JournalFull = "journal_full";
    /// Bytes in journal segments not yet removed.
    JournalBytes = "journal_bytes";
    /// Damaged places found in journal segments.
    JournalCorrupt = "journal_corrupt";
    /// Changes to a context that were refused, or not kept for later records, because shared memory was full.
    ArenaFull = "arena_full";
    /// Interim records not sent because their call had ended, or a later one was there.
    InterimSuperseded = "interim_superseded";
    /// Calls with no dialog after a restart whose CDRs went to the dead letters (`orphan_cdr`).
    OrphansHeld = "orphans_held";
    /// Times the delivery process ended unexpectedly and was restarted.
    DeliveryRestarts = "delivery_restarts";
}

/// Declares the counters that every sink has, one row each: field, end of its name, and help as a text before and a text
/// after the name of the sink. `$d` is a dollar sign, for the macros that are made here.
macro_rules! sink_counters {
    ($d:tt $($(#[doc = $doc:literal])+ $field:ident = $end:literal, $before:literal, $after:literal;)+) => {
        /// How many counters every sink has.
        const OF_A_SINK: usize = [$($end),+].len();

        /// Names of a sink's counters.
        macro_rules! names_of {
            ($d name:literal) => { [$(concat!($d name, $end)),+] };
        }

        /// What a sink's counters count.
        macro_rules! help_of {
            ($d name:literal) => { [$(concat!($before, $d name, $after)),+] };
        }

        /// The counters of one sink. At any instant `accepted = delivered + dead + pending + parked`.
        pub struct SinkCounters { $($(#[doc = $doc])+ pub $field: Counter,)+ }

        impl SinkCounters {
            const fn of([$($field),+]: [Counter; OF_A_SINK]) -> SinkCounters {
                SinkCounters { $($field),+ }
            }
        }
    };
}

sink_counters! { $
    /// Entries handed to the journal, including those left from earlier starts.
    accepted = "_accepted", "Records for ", " handed to the journal.";
    /// Entries set aside to be retried separately.
    parked = "_parked", "Records for ", " refused while others were accepted, or waiting for a repair; they are retried separately.";
    /// Entries delivered.
    delivered = "_delivered", "Records for ", " delivered.";
    /// Entries given up.
    dead = "_dead", "Records for ", " given up: written to the dead-letter file, or dropped.";
    /// Entries waiting, derived from the four above.
    pending = "_pending", "Records for ", " waiting in the journal.";
    /// Age of the oldest waiting entry in seconds, derived from the time of its append.
    oldest_age = "_oldest_age", "Seconds that the oldest record for ", " has been waiting; 0 if none is waiting or none has been read yet.";
    /// Times the sink stopped accepting entries.
    outages = "_outages", "Times ", " stopped accepting records.";
}

/// Names of the values that tell the state of a sink.
macro_rules! states_of {
    ($name:literal) => {
        [concat!($name, "_state"), concat!($name, "_outage")]
    };
}

macro_rules! names {
    ($($(#[doc = $doc:literal])+ $id:ident = $number:literal, $name:literal, names $names:ident, by $by:ident
       $(, sink $folder:ident $parameter:literal $(then $($further:ident = $its_number:literal $its_name:literal),+)?)?;)+) => {
        /// Names of the counters by sink.
        const SINK_NAMES: [[&str; OF_A_SINK]; SinkId::COUNT] = [$($(names_of!($name), $($(names_of!($its_name),)+)?)?)+];

        /// Help texts of the counters by sink.
        const SINK_HELP: [[&str; OF_A_SINK]; SinkId::COUNT] = [$($(help_of!($name), $($(help_of!($its_name),)+)?)?)+];

        /// Names of the values that tell the state of each sink, and for how many seconds it has accepted nothing.
        const STATE_NAMES: [[&str; 2]; SinkId::COUNT] = [$($(states_of!($name), $($(states_of!($its_name),)+)?)?)+];
    };
}
destinations!(names);

/// Number of counter slots.
pub const COUNTERS: usize = GENERAL.len() + SinkId::COUNT * OF_A_SINK;

static ALL: [Counter; COUNTERS] = {
    let mut all = [Counter(0); COUNTERS];
    let mut i = 0;
    while i < COUNTERS {
        all[i] = Counter(i as u16);
        i += 1;
    }
    all
};

impl Counter {
    /// Every counter, in slot order.
    pub const ALL: &'static [Counter] = &ALL;

    /// Index in [`Counter::ALL`].
    pub const fn slot(self) -> u16 {
        self.0
    }

    /// The exported name.
    pub const fn name(self) -> &'static str {
        let slot = self.0 as usize;
        match slot.checked_sub(GENERAL.len()) {
            None => GENERAL[slot],
            Some(n) => SINK_NAMES[n / OF_A_SINK][n % OF_A_SINK],
        }
    }

    /// What it counts, in one sentence.
    pub fn help(self) -> &'static str {
        let slot = self.0 as usize;
        match slot.checked_sub(GENERAL.len()) {
            None => GENERAL_HELP[slot].trim_start(),
            Some(n) => SINK_HELP[n / OF_A_SINK][n % OF_A_SINK],
        }
    }
}

/// For every sink, in the order of [`SinkId::ALL`].
static SINKS: [SinkCounters; SinkId::COUNT] = {
    let mut sinks = [const { SinkCounters::of([Counter(0); OF_A_SINK]) }; SinkId::COUNT];
    let mut i = 0;
    while i < SinkId::COUNT {
        let (mut own, mut n) = ([Counter(0); OF_A_SINK], 0);
        while n < OF_A_SINK {
            own[n] = Counter((GENERAL.len() + i * OF_A_SINK + n) as u16);
            n += 1;
        }
        sinks[i] = SinkCounters::of(own);
        i += 1;
    }
    sinks
};

/// Most peers of a destination.
pub const MAX_PEERS: usize = 16;

/// State of a Diameter peer: a state of the watchdog (RFC 3539 §3.4.1), or one of the connection (RFC 6733 §5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// There was no connection yet.
    Initial,
    /// It takes requests.
    Okay,
    /// It does not answer watchdogs.
    Suspect,
    /// It is disconnecting, or this node is.
    Closing,
    /// There is no connection.
    Down,
    /// It is connected again, and takes requests once some watchdogs are answered.
    Reopen,
}

impl PeerState {
    const ALL: [PeerState; 6] = [PeerState::Initial, PeerState::Okay, PeerState::Suspect, PeerState::Closing, PeerState::Down, PeerState::Reopen];

    /// Its name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            PeerState::Initial => "initial",
            PeerState::Okay => "okay",
            PeerState::Suspect => "suspect",
            PeerState::Closing => "closing",
            PeerState::Down => "down",
            PeerState::Reopen => "reopen",
        }
    }
}

/// What is known about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its state.
    pub state: PeerState,
    /// Seconds for which it has been in this state.
    pub seconds: u64,
    /// How often another peer took its place.
    pub failovers: u64,
}

/// A peer in shared memory.
#[repr(C)]
struct SharedPeer {
    /// Hash of its name: the file that the delivery process has read may differ from its parent's.
    name: AtomicU64,
    /// Its state, below the monotonic time in µs since which it has been in it.
    state: AtomicU64,
    failovers: AtomicU64,
}

/// Bits of a peer's state.
const STATE_BITS: u32 = 3;

impl SharedPeer {
    const fn new() -> SharedPeer {
        SharedPeer { name: AtomicU64::new(0), state: AtomicU64::new(0), failovers: AtomicU64::new(0) }
    }
}

fn hash(name: &str) -> u64 {
    let mut identity = Identity::new();
    identity.eat(name.as_bytes());
    identity.finish() as u64
}

/// What the delivery of one sink shares besides its counters.
#[repr(C)]
pub struct SinkState {
    /// When the oldest entry in hand was appended, µs since 1970; 0 = there is none.
    oldest: AtomicU64,
    /// The server start for which leftover entries have been counted.
    counted: AtomicU64,
    /// Monotonic time in µs since which it has accepted no entries; 0 = it accepts them.
    outage: AtomicU64,
    /// 1 while more entries wait than `backlog_threshold`.
    backlog: AtomicU64,
    /// Its peers, in the order of the configured list.
    peers: [SharedPeer; MAX_PEERS],
}

impl SinkState {
    const fn new() -> SinkState {
        SinkState {
            oldest: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            outage: AtomicU64::new(0),
            backlog: AtomicU64::new(0),
            peers: [const { SharedPeer::new() }; MAX_PEERS],
        }
    }

    /// Sets the time of the oldest entry in hand.
    pub fn set_oldest(&self, wall: Option<Wall>) {
        self.oldest.store(wall.map_or(0, |w| w.0.max(1) as u64), Ordering::Relaxed);
    }

    /// Is the oldest entry known?
    pub fn has_oldest(&self) -> bool {
        self.oldest.load(Ordering::Relaxed) != 0
    }

    /// Notes since when it has accepted no entries, or that it accepts them again.
    pub fn set_outage(&self, since: Option<Moment>) {
        self.outage.store(since.map_or(0, |m| m.mono.max(1) as u64), Ordering::Relaxed);
    }

    /// Seconds for which it has accepted no entries.
    pub fn outage_seconds(&self) -> Option<u64> {
        let since = Some(self.outage.load(Ordering::Relaxed)).filter(|t| *t != 0)?;
        Some((Moment::now().mono as u64).saturating_sub(since) / 1_000_000)
    }

    /// Notes how many entries wait. Returns a change worth reporting: that there are now more
    /// than `threshold`, or no more than half of it again.
    pub fn backlog_changes(&self, pending: u64, threshold: u64) -> Option<bool> {
        let was = self.backlog.load(Ordering::Relaxed) != 0;
        let is = if was { pending > threshold / 2 } else { pending > threshold };
        self.backlog.store(u64::from(is), Ordering::Relaxed);
        (is != was).then_some(is)
    }

    /// Notes the state of a peer.
    pub fn set_peer(&self, index: usize, name: &str, state: PeerState) {
        let Some(peer) = self.peers.get(index) else { return };
        let since = Moment::now().mono.max(1) as u64;
        if peer.name.swap(hash(name), Ordering::Relaxed) != hash(name) {
            peer.failovers.store(0, Ordering::Relaxed);
        }
        peer.state.store(since << STATE_BITS | state as u64, Ordering::Release);
    }

    /// Another peer took the place of this one.
    pub fn count_failover(&self, index: usize) {
        if let Some(peer) = self.peers.get(index) {
            peer.failovers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The state of the peer of this name; `None` if the delivery has not begun with it.
    pub fn peer(&self, name: &str) -> Option<PeerStatus> {
        let peer = self.peers.iter().find(|p| p.name.load(Ordering::Relaxed) == hash(name))?;
        let word = peer.state.load(Ordering::Acquire);
        let state = *PeerState::ALL.get((word & ((1 << STATE_BITS) - 1)) as usize)?;
        let seconds = (Moment::now().mono as u64).saturating_sub(word >> STATE_BITS) / 1_000_000;
        Some(PeerStatus { state, seconds, failovers: peer.failovers.load(Ordering::Relaxed) })
    }

    /// Is this the first delivery process of this start of the server? True once for each start.
    pub fn begins(&self, boot: u64) -> bool {
        self.counted.swap(boot, Ordering::Relaxed) != boot
    }
}

/// How many delivery processes of one start of the server events can tell apart: it is restarted when it dies, which
/// hardly ever happens.
const DELIVERIES: usize = 64;

/// How many segments can be closed by another process than their writer: more than a server has processes. What else is being
/// written is closed by its writer alone.
const PENS: usize = 1024;

/// All counters, in the layout of the shared memory.
#[repr(C)]
pub struct Shared {
    counters: [AtomicU64; COUNTERS],
    sinks: [SinkState; SinkId::COUNT],
    /// Monotonic time in µs since which the journal has been full; 0 = it is not.
    full_since: AtomicU64,
    /// How often immediate delivery was requested.
    flushes: AtomicU64,
    /// 1 once a call may have start or interim records.
    reports: AtomicU64,
    /// For each delivery process that has made interim records: its id, and the place of the last record that was raised as
    /// an event.
    raised: [[AtomicU64; 2]; DELIVERIES],
    /// Rung by workers to wake the delivery process.
    bell: Bell,
    /// Of the segments that are being written.
    pens: [Pen; PENS],
}

static LOCAL: Shared = Shared {
    counters: [const { AtomicU64::new(0) }; COUNTERS],
    sinks: [const { SinkState::new() }; SinkId::COUNT],
    full_since: AtomicU64::new(0),
    flushes: AtomicU64::new(0),
    reports: AtomicU64::new(0),
    raised: [const { [const { AtomicU64::new(0) }; 2] }; DELIVERIES],
    bell: Bell::quiet(),
    pens: [const { Pen::of_none() }; PENS],
};
static SHARED: OnceCell<&'static Shared> = OnceCell::new();

/// Moves the counters into memory shared by all processes; called once, before the fork.
pub fn use_shared(memory: &'static Shared) {
    let _ = SHARED.set(memory);
}

fn shared() -> &'static Shared {
    SHARED.get().copied().unwrap_or(&LOCAL)
}

fn slot(c: Counter) -> &'static AtomicU64 {
    &shared().counters[usize::from(c.0)]
}

impl SinkId {
    /// All its counters.
    pub const fn counters(self) -> &'static SinkCounters {
        &SINKS[self.index()]
    }

    /// Counter of entries accepted for it.
    pub const fn accepted(self) -> Counter {
        self.counters().accepted
    }

    /// Counter of entries it delivered.
    pub const fn delivered(self) -> Counter {
        self.counters().delivered
    }

    /// Counter of entries it gave up.
    pub const fn dead(self) -> Counter {
        self.counters().dead
    }

    /// Name of the value that says whether it accepts entries.
    pub const fn state_name(self) -> &'static str {
        STATE_NAMES[self.index()][0]
    }

    /// Name of the value that says for how many seconds it has not accepted any.
    pub const fn outage_name(self) -> &'static str {
        STATE_NAMES[self.index()][1]
    }

    /// What its delivery shares besides the counters.
    pub fn state(self) -> &'static SinkState {
        &shared().sinks[self.index()]
    }
}

/// [`Counter::CallsSeconds`] is kept in milliseconds, because a second is no small part of a call.
const MILLIS: u64 = 1000;

/// Counts a call that was followed to its end.
pub fn add_ended(duration_ms: u64) {
    add(Counter::CallsEnded, 1);
    add(Counter::CallsSeconds, duration_ms);
}

/// Adds `n`.
pub fn add(c: Counter, n: u64) {
    slot(c).fetch_add(n, Ordering::AcqRel);
}

/// Subtracts `n`, but not below 0 (for the few counters that are levels).
pub fn sub(c: Counter, n: u64) {
    let _ = slot(c).fetch_update(Ordering::AcqRel, Ordering::Acquire, |level| Some(level.saturating_sub(n)));
}

/// Sets the value (for the few counters that are levels).
pub fn set(c: Counter, n: u64) {
    slot(c).store(n, Ordering::Release);
}

/// Does this process raise the interim record that ends at this place, in a segment with this number of the delivery
/// process `pid`? True for one process only; records of a segment are asked for in order.
pub fn claim_interim(pid: u32, seq: u32, end: u64) -> bool {
    let pid = u64::from(pid);
    let is_its = |slot: &&[AtomicU64; 2]| slot[0].compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire).map_or_else(|of| of == pid, |_| true);
    let place = u64::from(seq) << 32 | end.min(u64::from(u32::MAX));
    shared().raised.iter().find(is_its).is_some_and(|slot| slot[1].fetch_max(place, Ordering::AcqRel) < place)
}

/// Since when the journal has been full, by the monotonic clock in µs.
pub fn full_since() -> Option<i64> {
    Some(shared().full_since.load(Ordering::Acquire)).filter(|t| *t != 0).map(|t| t as i64)
}

/// Notes since when the journal has been full, or that it no longer is.
pub fn set_full_since(since: Option<Moment>) {
    shared().full_since.store(since.map_or(0, |m| m.mono.max(1) as u64), Ordering::Release);
}

/// Requests immediate delivery, ending any pause.
pub fn flush() {
    shared().flushes.fetch_add(1, Ordering::AcqRel);
}

/// How often immediate delivery was requested.
pub fn flushes() -> u64 {
    shared().flushes.load(Ordering::Acquire)
}

/// From now on calls may have start and interim records: the delivery process follows them.
pub fn expect_reports() {
    let reports = &shared().reports;
    if reports.load(Ordering::Relaxed) == 0 {
        reports.store(1, Ordering::Release);
    }
}

/// Has any call start or interim records?
pub fn has_reports() -> bool {
    shared().reports.load(Ordering::Acquire) != 0
}

/// Tells the delivery process that there is work.
pub fn bell() -> &'static Bell {
    &shared().bell
}

/// A pen for a new file with this mark, held by its writer. `None` if there is none left.
pub fn begin_writing(mark: u64) -> Option<&'static Pen> {
    // Each file begins elsewhere, so that the first one is mostly free.
    let pens = &shared().pens;
    let (before, after) = pens.split_at((mark >> 2) as usize % PENS);
    after.iter().chain(before).find(|pen| pen.begin(mark))
}

/// The pen of the file with this mark, if it has one.
pub fn pen_of(mark: u64) -> Option<&'static Pen> {
    shared().pens.iter().find(|pen| pen.is_of(mark))
}

/// The current value.
pub fn get(c: Counter) -> u64 {
    Snapshot::take().get(c)
}

/// All counters at one instant.
pub struct Snapshot([u64; COUNTERS]);

impl Snapshot {
    /// Reads them.
    pub fn take() -> Snapshot {
        let mut values = [0; COUNTERS];
        // Read backwards: `accepted` is declared before `parked`, `delivered` and `dead`, so it is read after
        // them and is never less than their sum. A parked entry that leaves is subtracted before it is counted
        // elsewhere, so nothing is seen twice.
        for c in Counter::ALL.iter().rev() {
            values[usize::from(c.0)] = slot(*c).load(Ordering::Acquire);
        }
        let now = Moment::wall_now().0;
        for (c, state) in SINKS.iter().zip(&shared().sinks) {
            let [accepted, parked, delivered, dead] = [c.accepted, c.parked, c.delivered, c.dead].map(|c| values[usize::from(c.0)]);
            let pending = accepted.saturating_sub(parked + delivered + dead);
            let oldest = state.oldest.load(Ordering::Relaxed);
            values[usize::from(c.pending.0)] = pending;
            values[usize::from(c.oldest_age.0)] = if pending == 0 || oldest == 0 { 0 } else { (now - oldest as i64).max(0) as u64 / 1_000_000 };
        }
        values[usize::from(Counter::CallsSeconds.0)] /= MILLIS;
        values[usize::from(Counter::JournalFull.0)] = u64::from(full_since().is_some());
        Snapshot(values)
    }

    /// The value of one counter.
    pub fn get(&self, c: Counter) -> u64 {
        self.0[usize::from(c.0)]
    }
}

/// Hosts read one counter after the other. Reads with less time between them belong to one query.
/// This is longer than a busy machine delays a process in the middle of a query.
const ONE_QUESTION: Duration = Duration::from_millis(100);

struct Question {
    values: Snapshot,
    asked: [bool; COUNTERS],
    last: Instant,
}

thread_local! {
    static QUESTION: RefCell<Option<Question>> = const { RefCell::new(None) };
}

/// The value for a host that reads one counter after the other: all values of one query,
/// each read once, are from the same instant.
pub fn answer(c: Counter) -> u64 {
    QUESTION.with(|q| {
        let mut q = q.borrow_mut();
        let now = Instant::now();
        let same = q.as_ref().is_some_and(|q| !q.asked[usize::from(c.0)] && now.duration_since(q.last) < ONE_QUESTION);
        if !same {
            *q = None;
        }
        let q = q.get_or_insert_with(|| Question { values: Snapshot::take(), asked: [false; COUNTERS], last: now });
        q.asked[usize::from(c.0)] = true;
        q.last = now;
        q.values.get(c)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that reads all counters sees one instant; the next time, another one.
    #[test]
    fn counters_asked_for_together_are_of_one_instant() {
        add(Counter::EviRaised, 1);
        let before = answer(Counter::EviRaised);
        add(Counter::EviFailed, 5);
        add(Counter::EviRaised, 1);
        let failed = answer(Counter::EviFailed);
        assert_eq!(answer(Counter::EviFailed), failed + 5);
        assert_eq!(answer(Counter::EviRaised), before + 1);
    }
}
