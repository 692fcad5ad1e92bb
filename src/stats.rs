//! Counters, named once here. They live in the shared arena, so every process adds to the
//! same ones; host statistics, MI and `accctl` are made from this list.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::sync::OnceCell;

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
    /// SQL records in the dead-letter file.
    DbDead = "db_dead";
    /// Records handed to the journal for RADIUS.
    AaaAccepted = "aaa_accepted";
    /// RADIUS records acknowledged.
    AaaDelivered = "aaa_delivered";
    /// RADIUS records in the dead-letter file.
    AaaDead = "aaa_dead";
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
    /// Bytes in journal segments not yet removed.
    JournalBytes = "journal_bytes";
    /// Damaged places found in journal segments; their bytes are kept in `.bad` files.
    JournalCorrupt = "journal_corrupt";
    /// Context writes refused because the shared arena is full.
    ArenaFull = "arena_full";
    /// Times the delivery process had to be started again.
    DeliveryRestarts = "delivery_restarts";
}

/// Number of counters.
pub const COUNTERS: usize = Counter::ALL.len();
/// Number of slots: the counters, and for each what [`add_once`] was last done for.
pub const SLOTS: usize = 2 * COUNTERS;

static LOCAL: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];
static SHARED: OnceCell<&'static [AtomicU64]> = OnceCell::new();

/// Moves the counters into memory shared by all processes; called once, before the fork.
pub fn use_shared(slots: &'static [AtomicU64]) {
    if slots.len() >= SLOTS {
        let _ = SHARED.set(slots);
    }
}

fn slots() -> &'static [AtomicU64] {
    SHARED.get().copied().unwrap_or(&LOCAL)
}

fn slot(c: Counter) -> &'static AtomicU64 {
    &slots()[c as usize]
}

/// Adds `n`, unless that was done for `start`, a start of the server, already.
pub fn add_once(c: Counter, start: u64, n: u64) {
    if slots()[COUNTERS + c as usize].swap(start, Ordering::Relaxed) != start {
        add(c, n);
    }
}

/// Adds `n`.
pub fn add(c: Counter, n: u64) {
    slot(c).fetch_add(n, Ordering::Relaxed);
}

/// Subtracts `n` (for the few that are levels).
pub fn sub(c: Counter, n: u64) {
    slot(c).fetch_sub(n, Ordering::Relaxed);
}

/// Sets the value (for the few that are levels).
pub fn set(c: Counter, n: u64) {
    slot(c).store(n, Ordering::Relaxed);
}

/// The present value.
pub fn get(c: Counter) -> u64 {
    slot(c).load(Ordering::Relaxed)
}
