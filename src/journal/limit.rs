//! What happens to records when the journal may not grow any more. This is decided here, both for the
//! delivery process, which watches, and for the workers, which ask before they append.
#![forbid(unsafe_code)]

use super::SegmentName;
use crate::accounting::clock::Moment;
use crate::params::{ConfigError, Draft};
use crate::stats;

/// Size at which a segment is closed and a new one begun: small enough that a delivered one frees
/// its space soon, large enough that the cost of creating files does not matter (about 50 000 records).
const SEGMENT_MAX: u64 = 16 << 20;
/// Least such size: below it, opening files costs more than writing them.
const SEGMENT_MIN: u64 = 64 << 10;
/// Segments in a full journal: enough that dropping the oldest costs few records.
const SEGMENTS: u64 = 64;

/// What to do when the journal is full (parameter `journal_full`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest segments go, whether delivered or not.
    DropOldest,
    /// New records are dropped.
    #[default]
    DropNew,
    /// New requests are not accounted; those accepted before are.
    Refuse,
}

impl WhenFull {
    /// Values of the parameter.
    pub const NAMES: [(&str, WhenFull); 3] = [("drop-oldest", WhenFull::DropOldest), ("drop-new", WhenFull::DropNew), ("refuse", WhenFull::Refuse)];

    /// What happens, for the log.
    pub const fn told(self) -> &'static str {
        match self {
            WhenFull::DropOldest => "the oldest records are dropped",
            WhenFull::DropNew => "new records are dropped and counted in journal_lost",
            WhenFull::Refuse => "do_accounting() refuses new requests",
        }
    }
}

/// What a worker wants to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// A record of a request or call.
    Record,
    /// A line that syslog did not accept.
    Line,
    /// The state of a call in progress.
    State,
    /// The end of a call, with the moment of its answer.
    End(Option<Moment>),
}

/// How much the journal may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of its segments in bytes (parameter `journal_max_size`); 0 = no limit.
    pub max_bytes: u64,
    /// Least free bytes of its disk (parameter `journal_min_free`); 0 = not watched.
    pub min_free: u64,
    /// See [`WhenFull`].
    pub when_full: WhenFull,
}

/// What the delivery process has measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Bytes of all segments.
    pub bytes: u64,
    /// Free bytes on the disk; `None` if unknown.
    pub free: Option<u64>,
    /// Bytes that records of requests and calls already accepted may still take.
    pub owed: u64,
}

/// The result of [`Limits`] for a measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// There is no room for new records.
    pub full: bool,
    /// Bytes of the oldest segments to remove.
    pub excess: u64,
}

impl Limits {
    /// The limits that the parameters set.
    pub fn of(draft: &Draft) -> Result<Limits, ConfigError> {
        Ok(Limits {
            max_bytes: draft.mib("journal_max_size"),
            min_free: draft.mib("journal_min_free"),
            when_full: draft.choice("journal_full", &WhenFull::NAMES)?,
        })
    }

    /// Size at which a segment is closed.
    pub fn segment_max(&self) -> u64 {
        match self.max_bytes {
            0 => SEGMENT_MAX,
            max => (max / SEGMENTS).clamp(SEGMENT_MIN, SEGMENT_MAX),
        }
    }

    /// Judges a measurement. A journal that was full counts as full until a sixteenth of it is free,
    /// so that the result does not change with every measurement.
    pub fn judge(&self, found: Found, was_full: bool) -> Verdict {
        let owed = if self.when_full == WhenFull::Refuse { found.owed } else { 0 };
        let margin = |n: u64| if was_full { n / 16 } else { 0 };
        let bytes = found.bytes + owed;
        let free = found.free.map_or(u64::MAX, |free| free.saturating_sub(owed));
        let over = |max: u64| self.max_bytes > 0 && bytes >= max;
        let short = |least: u64| self.min_free > 0 && free < least;
        if self.when_full != WhenFull::DropOldest {
            return Verdict { full: over(self.max_bytes - margin(self.max_bytes)) || short(self.min_free + margin(self.min_free)), excess: 0 };
        }
        // Dropping begins early, so that there is room for new records in the meantime. New records
        // are only dropped if dropping old ones cannot keep up.
        let high = self.max_bytes / 8 * 7;
        let excess = if over(high) { bytes - high } else { 0 }.max(if short(self.min_free) { self.min_free - free } else { 0 });
        Verdict { full: over(self.max_bytes - margin(self.max_bytes)) || short(self.min_free / 2 + margin(self.min_free)), excess }
    }

    /// Is it time to close segments that their writers would still append to, so that they can go as soon as they are delivered?
    /// They have `open` bytes, all segments `all`. A writer closes its segment when it is large enough, which may never be, and
    /// hundreds of writers fill a small journal with what is long delivered.
    ///
    /// Not for less than a full journal needs to have room again; and not while most of it waits for its destinations, because
    /// more and more small files would wait then.
    pub fn wants_closed(&self, found: Found, all: u64, open: u64) -> bool {
        let owed = if self.when_full == WhenFull::Refuse { found.owed } else { 0 };
        let near = self.max_bytes > 0 && all + owed >= self.max_bytes / 2 && open >= self.max_bytes / 16;
        let free = found.free.map_or(u64::MAX, |free| free.saturating_sub(owed));
        let short = self.min_free > 0 && free < self.min_free.saturating_mul(2) && open >= self.min_free / 16;
        (near || short) && open > 0 && open >= all / 4
    }

    /// How many bytes of kept segments to remove, so that the journal, with `bytes` in all of
    /// its segments and `free` bytes on its disk, is not nearly full.
    pub fn excess_kept(&self, bytes: u64, free: Option<u64>) -> u64 {
        let high = self.max_bytes / 8 * 7;
        let over = if self.max_bytes > 0 { bytes.saturating_sub(high) } else { 0 };
        let wanted = self.min_free + self.min_free / 8;
        over.max(free.map_or(0, |free| wanted.saturating_sub(free)))
    }

    /// May a worker append this now?
    pub fn admits(&self, what: Append) -> bool {
        let Some(since) = stats::full_since() else { return true };
        match (self.when_full, what) {
            // It belongs to a request that was accepted, and room was reserved for it.
            (WhenFull::Refuse, Append::Record | Append::State | Append::End(_)) => true,
            // If the journal knows the call, it must get its end, or the next start of the server would treat
            // the call as cut off by a crash.
            (_, Append::End(answered)) => is_known(answered, Moment { mono: since, ..Moment::now() }),
            (_, Append::Record | Append::Line | Append::State) => false,
        }
    }

    /// Are new requests refused now?
    pub fn refuses(&self) -> bool {
        self.when_full == WhenFull::Refuse && stats::full_since().is_some()
    }
}

/// Does the journal know a call that was answered at `answered`, if it became full at `since`? It is taken to
/// know a call from an earlier boot of the machine, whose monotonic clock cannot be compared.
fn is_known(answered: Option<Moment>, since: Moment) -> bool {
    answered.is_none_or(|a| a.boot != since.boot || a.mono < since.mono)
}

/// Which segments to remove: the oldest (each with the time of its last append and its size), until they add up to `excess`
/// bytes.
pub fn oldest(mut dated: Vec<(i64, SegmentName, u64)>, excess: u64) -> Vec<SegmentName> {
    dated.sort_unstable();
    let mut got = 0;
    dated
        .into_iter()
        .take_while(|(_, _, size)| {
            let more = got < excess;
            got += size;
            more
        })
        .map(|(_, name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits(when_full: WhenFull) -> Limits {
        Limits { max_bytes: 64 * MIB, min_free: 16 * MIB, when_full }
    }

    fn found(bytes: u64, free: u64, owed: u64) -> Found {
        Found { bytes: bytes * MIB, free: Some(free * MIB), owed: owed * MIB }
    }

    #[test]
    fn without_limits_nothing_is_full() {
        assert_eq!(Limits::default().judge(found(1 << 20, 0, 1 << 20), false), Verdict::default());
    }

    #[test]
    fn full_is_full_until_there_is_some_room() {
        for policy in [WhenFull::DropNew, WhenFull::Refuse] {
            let full = |f, was| limits(policy).judge(f, was).full;
            assert!(!full(found(63, 16, 0), false) && full(found(64, 16, 0), false) && full(found(0, 15, 0), false));
            assert!(full(found(61, 100, 0), true) && !full(found(59, 100, 0), true));
            assert!(full(found(0, 16, 0), true) && !full(found(0, 17, 0), true));
            assert!(!full(Found { bytes: 0, free: None, owed: 0 }, false));
            // Room for accepted requests is reserved only if it is promised.
            assert_eq!(full(found(60, 100, 5), false), policy == WhenFull::Refuse);
            assert_eq!(full(found(0, 20, 5), false), policy == WhenFull::Refuse);
        }
    }

    #[test]
    fn the_oldest_go_before_it_is_full() {
        let judge = |f| limits(WhenFull::DropOldest).judge(f, false);
        assert_eq!(judge(found(55, 100, 50)), Verdict { full: false, excess: 0 });
        assert_eq!(judge(found(60, 100, 0)), Verdict { full: false, excess: 4 * MIB });
        assert_eq!(judge(found(64, 100, 0)), Verdict { full: true, excess: 8 * MIB });
        assert_eq!(judge(found(1, 10, 0)), Verdict { full: false, excess: 6 * MIB });
        assert_eq!(judge(found(1, 7, 0)), Verdict { full: true, excess: 9 * MIB });
        let name = |seq| SegmentName { boot: 1, rank: 1, pid: 1, seq };
        let sealed = vec![(30, name(1), 10), (10, name(2), 10), (20, name(3), 10)];
        assert_eq!(oldest(sealed.clone(), 0), []);
        assert_eq!(oldest(sealed.clone(), 11), [name(2), name(3)]);
        assert_eq!(oldest(sealed, 1000).len(), 3);
    }

    #[test]
    fn segments_are_closed_early_if_that_makes_room() {
        let wants = |all, open, free, owed| limits(WhenFull::Refuse).wants_closed(found(0, free, owed), all * MIB, open * MIB);
        // By size, by what calls may yet write, and by the disk.
        assert!(!wants(31, 31, 100, 0) && wants(32, 32, 100, 0) && wants(4, 4, 100, 28) && !wants(3, 3, 100, 60));
        assert!(!wants(1, 1, 32, 0) && wants(1, 1, 31, 0) && wants(1, 1, 40, 9) && !wants(0, 0, 1, 0));
        // Most of it waits for a destination.
        assert!(wants(60, 15, 100, 0) && !wants(60, 14, 100, 0));
        assert!(!limits(WhenFull::DropNew).wants_closed(found(0, 100, 60), 4 * MIB, 4 * MIB), "room is reserved only if it is promised");
        assert!(!Limits::default().wants_closed(found(0, 0, 0), 1 << 40, 1 << 40));
    }

    #[test]
    fn kept_segments_go_before_it_is_full() {
        let excess = |bytes, free| limits(WhenFull::DropNew).excess_kept(bytes * MIB, Some(free * MIB));
        assert_eq!([excess(56, 18), excess(57, 18), excess(64, 100), excess(0, 17)], [0, MIB, 8 * MIB, MIB]);
        assert_eq!(Limits::default().excess_kept(1 << 50, Some(0)), 0);
        assert_eq!(limits(WhenFull::DropNew).excess_kept(0, None), 0);
    }

    #[test]
    fn calls_answered_before_the_journal_was_full_are_known() {
        let at = |mono, boot| Moment { mono, boot, ..Moment::default() };
        assert!(is_known(None, at(100, 1)));
        assert!(is_known(Some(at(99, 1)), at(100, 1)) && !is_known(Some(at(100, 1)), at(100, 1)));
        // Restored after a reboot, or taken over from the original module (no boot).
        assert!(is_known(Some(at(5000, 7)), at(100, 1)) && is_known(Some(at(5000, 0)), at(100, 1)));
    }

    #[test]
    fn segments_are_small_in_a_small_journal() {
        let max = |mib: u64| Limits { max_bytes: mib * MIB, ..Limits::default() }.segment_max();
        assert_eq!([max(0), max(1), max(64), max(1 << 20)], [16 * MIB, 64 << 10, MIB, 16 * MIB]);
    }
}
