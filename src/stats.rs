//! Counters, named once here. They live in the shared arena, so every process adds to the
//! same ones; host statistics, MI and `accctl` are made from this list.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use crate::acc::clock::Moment;
use crate::acc::record::Wall;
use crate::host::interprocess::Bell;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $id:ident = $name:literal;)+) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter { $($(#[doc = $doc])+ $id,)+ }

        impl Counter {
            /// Every counter, in the order of its slot.
            pub const ALL: &'static [Counter] = &[$(Counter::$id,)+];

            /// The exported name.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$id => $name,)+ }
            }
        }
    };
}

counters! {
    /// Entry points that panicked and were caught.
    Panics = "panics";
    /// Records handed to the journal for SQL.
    DbAccepted = "db_accepted";
    /// SQL records committed.
    DbDelivered = "db_delivered";
    /// SQL records given up: in the dead-letter file, or dropped.
    DbDead = "db_dead";
    /// SQL records not delivered yet.
    DbPending = "db_pending";
    /// Seconds that the oldest of them has been waiting; 0 while none was read.
    DbOldestAge = "db_oldest_age";
    /// Records handed to the journal for RADIUS.
    AaaAccepted = "aaa_accepted";
    /// RADIUS records acknowledged.
    AaaDelivered = "aaa_delivered";
    /// RADIUS records given up: in the dead-letter file, or dropped.
    AaaDead = "aaa_dead";
    /// RADIUS records not delivered yet.
    AaaPending = "aaa_pending";
    /// Seconds that the oldest of them has been waiting; 0 while none was read.
    AaaOldestAge = "aaa_oldest_age";
    /// RADIUS packets sent again because no answer came.
    AaaRetransmits = "aaa_retransmits";
    /// Datagrams that were no valid answer to a RADIUS request in flight: forged, late, repeated, malformed.
    AaaIgnored = "aaa_ignored";
    /// Values left out of RADIUS packets because their attribute cannot hold them.
    AaaOmitted = "aaa_omitted";
    /// Log lines that the syslog socket did not take and that went to the journal.
    LogAccepted = "log_accepted";
    /// Those sent later.
    LogDelivered = "log_delivered";
    /// Those given up.
    LogDead = "log_dead";
    /// Such lines not delivered yet.
    LogPending = "log_pending";
    /// Seconds that the oldest of them has been waiting; 0 while none was read.
    LogOldestAge = "log_oldest_age";
    /// Times the SQL database stopped taking records.
    DbOutages = "db_outages";
    /// Times no RADIUS server took records.
    AaaOutages = "aaa_outages";
    /// Times the syslog socket stopped taking lines.
    LogOutages = "log_outages";
    /// Log lines written at once.
    LogWritten = "log_written";
    /// Events raised.
    EviRaised = "evi_raised";
    /// Events the host refused.
    EviFailed = "evi_failed";
    /// Values clipped to what a destination can hold.
    Clipped = "clipped";
    /// Records lost because the journal could not be written.
    JournalLost = "journal_lost";
    /// Records dropped with the oldest segments of a full journal; counted as dead, too.
    JournalDropped = "journal_dropped";
    /// Requests refused because the journal was full.
    JournalRefused = "journal_refused";
    /// 1 while the journal is full.
    JournalFull = "journal_full";
    /// Bytes in journal segments not yet removed.
    JournalBytes = "journal_bytes";
    /// Damaged places found in journal segments; their bytes are kept in `.bad` files.
    JournalCorrupt = "journal_corrupt";
    /// Context writes refused because the shared arena is full.
    ArenaFull = "arena_full";
    /// Times the delivery process had to be started again.
    DeliveryRestarts = "delivery_restarts";
}

/// Number of counter slots.
pub const COUNTERS: usize = Counter::ALL.len();

/// The counters of one sink. At any instant `accepted = delivered + dead + pending`.
pub struct SinkCounters {
    /// Entries handed to the journal; with those left over from earlier starts.
    pub accepted: Counter,
    /// Entries delivered.
    pub delivered: Counter,
    /// Entries given up.
    pub dead: Counter,
    /// Entries waiting; derived from the three above.
    pub pending: Counter,
    /// How long the oldest has been waiting, in seconds; derived from the time of its append.
    pub oldest_age: Counter,
    /// Times the sink stopped taking entries.
    pub outages: Counter,
}

/// Of every sink, by its number.
pub const SINKS: [SinkCounters; 3] = [
    SinkCounters {
        accepted: Counter::DbAccepted,
        delivered: Counter::DbDelivered,
        dead: Counter::DbDead,
        pending: Counter::DbPending,
        oldest_age: Counter::DbOldestAge,
        outages: Counter::DbOutages,
    },
    SinkCounters {
        accepted: Counter::AaaAccepted,
        delivered: Counter::AaaDelivered,
        dead: Counter::AaaDead,
        pending: Counter::AaaPending,
        oldest_age: Counter::AaaOldestAge,
        outages: Counter::AaaOutages,
    },
    SinkCounters {
        accepted: Counter::LogAccepted,
        delivered: Counter::LogDelivered,
        dead: Counter::LogDead,
        pending: Counter::LogPending,
        oldest_age: Counter::LogOldestAge,
        outages: Counter::LogOutages,
    },
];

/// What the delivery of one sink keeps beside its counters.
#[repr(C)]
pub struct SinkState {
    /// When the oldest entry in hand was appended, µs since 1970; 0 = none.
    oldest: AtomicU64,
    /// Start of the server whose left over entries are counted.
    counted: AtomicU64,
    /// Monotonic time in µs since which it takes no entries; 0 = it does.
    outage: AtomicU64,
    /// 1 while more entries wait than `backlog_threshold`.
    backlog: AtomicU64,
}

impl SinkState {
    const fn new() -> SinkState {
        SinkState { oldest: AtomicU64::new(0), counted: AtomicU64::new(0), outage: AtomicU64::new(0), backlog: AtomicU64::new(0) }
    }

    /// Sets the time of the oldest entry in hand.
    pub fn set_oldest(&self, wall: Option<Wall>) {
        self.oldest.store(wall.map_or(0, |w| w.0.max(1) as u64), Ordering::Relaxed);
    }

    /// An oldest entry is known.
    pub fn has_oldest(&self) -> bool {
        self.oldest.load(Ordering::Relaxed) != 0
    }

    /// It takes no entries since then, or takes them again.
    pub fn set_outage(&self, since: Option<Moment>) {
        self.outage.store(since.map_or(0, |m| m.mono.max(1) as u64), Ordering::Relaxed);
    }

    /// Seconds for which it has taken no entries.
    pub fn outage_seconds(&self) -> Option<u64> {
        let since = Some(self.outage.load(Ordering::Relaxed)).filter(|t| *t != 0)?;
        Some((Moment::now().mono as u64).saturating_sub(since) / 1_000_000)
    }

    /// Notes how many entries wait. Returns whether that is a change to be told: that there are more
    /// than `threshold`, or at most half of it again.
    pub fn backlog_changes(&self, pending: u64, threshold: u64) -> Option<bool> {
        let was = self.backlog.load(Ordering::Relaxed) != 0;
        let is = if was { pending > threshold / 2 } else { pending > threshold };
        self.backlog.store(u64::from(is), Ordering::Relaxed);
        (is != was).then_some(is)
    }

    /// Is this the first delivery of this start of the server? True once for each.
    pub fn begins(&self, boot: u64) -> bool {
        self.counted.swap(boot, Ordering::Relaxed) != boot
    }
}

/// All counters, as they lie in memory that every process shares.
#[repr(C)]
pub struct Shared {
    counters: [AtomicU64; COUNTERS],
    sinks: [SinkState; SINKS.len()],
    /// Monotonic time in µs since which the journal is full; 0 = it is not.
    full_since: AtomicU64,
    /// How often somebody asked for delivery at once.
    flushes: AtomicU64,
    /// Rung by workers, heard by the delivery process.
    bell: Bell,
}

static LOCAL: Shared = Shared {
    counters: [const { AtomicU64::new(0) }; COUNTERS],
    sinks: [const { SinkState::new() }; SINKS.len()],
    full_since: AtomicU64::new(0),
    flushes: AtomicU64::new(0),
    bell: Bell::quiet(),
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
    &shared().counters[c as usize]
}

/// The state of the sink of this number.
pub fn sink(number: usize) -> &'static SinkState {
    &shared().sinks[number]
}

/// Adds `n`.
pub fn add(c: Counter, n: u64) {
    slot(c).fetch_add(n, Ordering::AcqRel);
}

/// Subtracts `n` (for the few that are levels).
pub fn sub(c: Counter, n: u64) {
    slot(c).fetch_sub(n, Ordering::AcqRel);
}

/// Sets the value (for the few that are levels).
pub fn set(c: Counter, n: u64) {
    slot(c).store(n, Ordering::Release);
}

/// The journal is full since then, by the monotonic clock in µs.
pub fn full_since() -> Option<i64> {
    Some(shared().full_since.load(Ordering::Acquire)).filter(|t| *t != 0).map(|t| t as i64)
}

/// The journal is full since then, or not any more.
pub fn set_full_since(since: Option<Moment>) {
    shared().full_since.store(since.map_or(0, |m| m.mono.max(1) as u64), Ordering::Release);
}

/// Asks for delivery at once, without the rest of any pause.
pub fn flush() {
    shared().flushes.fetch_add(1, Ordering::AcqRel);
}

/// How often that was asked for.
pub fn flushes() -> u64 {
    shared().flushes.load(Ordering::Acquire)
}

/// Tells the delivery process that there is something for it.
pub fn bell() -> &'static Bell {
    &shared().bell
}

/// The present value.
pub fn get(c: Counter) -> u64 {
    Snapshot::take().get(c)
}

/// All counters at one instant.
pub struct Snapshot([u64; COUNTERS]);

impl Snapshot {
    /// Reads them.
    pub fn take() -> Snapshot {
        let mut values = [0; COUNTERS];
        // Backwards: what was accepted is declared before what was delivered and dead, and read
        // after it, so that it is never less.
        for c in Counter::ALL.iter().rev() {
            values[*c as usize] = slot(*c).load(Ordering::Acquire);
        }
        let now = Moment::wall_now().0;
        for (c, state) in SINKS.iter().zip(&shared().sinks) {
            let [accepted, delivered, dead] = [c.accepted, c.delivered, c.dead].map(|c| values[c as usize]);
            let pending = accepted.saturating_sub(delivered + dead);
            let oldest = state.oldest.load(Ordering::Relaxed);
            values[c.pending as usize] = pending;
            values[c.oldest_age as usize] = if pending == 0 || oldest == 0 { 0 } else { (now - oldest as i64).max(0) as u64 / 1_000_000 };
        }
        values[Counter::JournalFull as usize] = u64::from(full_since().is_some());
        Snapshot(values)
    }

    /// One of them.
    pub fn get(&self, c: Counter) -> u64 {
        self.0[c as usize]
    }
}

/// Hosts ask for one counter after the other; those asked for with less time between them belong
/// to one question. Longer than a busy machine keeps a process waiting in the middle of it.
const ONE_QUESTION: Duration = Duration::from_millis(100);

struct Question {
    values: Snapshot,
    asked: [bool; COUNTERS],
    last: Instant,
}

thread_local! {
    static QUESTION: RefCell<Option<Question>> = const { RefCell::new(None) };
}

/// The value for a host that asks for one counter after the other: all that it asks for together,
/// each once, is of one instant.
pub fn answer(c: Counter) -> u64 {
    QUESTION.with(|q| {
        let mut q = q.borrow_mut();
        let now = Instant::now();
        let same = q.as_ref().is_some_and(|q| !q.asked[c as usize] && now.duration_since(q.last) < ONE_QUESTION);
        if !same {
            *q = None;
        }
        let q = q.get_or_insert_with(|| Question { values: Snapshot::take(), asked: [false; COUNTERS], last: now });
        q.asked[c as usize] = true;
        q.last = now;
        q.values.get(c)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that goes through the counters sees one instant; asked again, another one.
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
