//! Log lines of one kind, limited so that a flood of events does not become a flood of lines.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::accounting::clock::Moment;

/// Time between two lines: often enough to follow a problem, seldom enough for any disk.
pub const BETWEEN: Duration = Duration::from_secs(1);
/// The same in microseconds.
const BETWEEN_MICROS: i64 = BETWEEN.as_micros() as i64;

/// Lines of one kind: each process logs one per second, with the number of what it left out.
pub struct Lines {
    /// Monotonic time of the last line.
    last: AtomicI64,
    left_out: AtomicU64,
}

impl Lines {
    /// None so far.
    pub const fn none() -> Lines {
        Lines { last: AtomicI64::new(0), left_out: AtomicU64::new(0) }
    }

    /// If a line about `n` things is due now, how many were left out since the last one.
    fn due(&self, now: i64, n: u64) -> Option<u64> {
        let last = self.last.load(Ordering::Relaxed);
        let is_due = (last == 0 || now - last >= BETWEEN_MICROS) && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(n, Ordering::Relaxed);
        None
    }

    /// For what comes in numbers: if a line about these `n` is due now, how many it is about, with those left out. The
    /// caller asks again with 0 while [`Lines::is_behind`], so that no number is left out for ever.
    pub fn sum(&self, n: u64) -> Option<u64> {
        if n == 0 && !self.is_behind() {
            return None;
        }
        self.due(Moment::now().mono, n).map(|left_out| left_out + n)
    }

    /// How many were left out since the last line. The next one no longer counts them.
    pub fn rest(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }

    /// Was anything left out since the last line?
    pub fn is_behind(&self) -> bool {
        self.left_out.load(Ordering::Relaxed) > 0
    }

    /// An error.
    pub fn error(&self, text: impl Display) {
        match self.due(Moment::now().mono, 1) {
            Some(0) => log::error!("{text}"),
            Some(n) => log::error!("{text} ({n} more of this kind since the last such line)"),
            None => {}
        }
    }

    /// A warning.
    pub fn warn(&self, text: impl Display) {
        match self.due(Moment::now().mono, 1) {
            Some(0) => log::warn!("{text}"),
            Some(n) => log::warn!("{text} ({n} more of this kind since the last such line)"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second_and_a_number() {
        let lines = Lines::none();
        assert_eq!([5, 6, 7].map(|now| lines.due(now, 1)), [Some(0), None, None]);
        assert_eq!([BETWEEN_MICROS + 4, BETWEEN_MICROS + 5, BETWEEN_MICROS + 6].map(|now| lines.due(now, 1)), [None, Some(3), None]);
        assert_eq!(lines.due(2 * BETWEEN_MICROS + 5, 1), Some(1));
    }

    #[test]
    fn numbers_add_up() {
        let lines = Lines::none();
        assert_eq!((lines.sum(0), lines.sum(50), lines.sum(30), lines.sum(0), lines.is_behind()), (None, Some(50), None, None, true));
        assert_eq!((lines.due(i64::MAX, 20), lines.is_behind()), (Some(30), false));
        assert_eq!((lines.sum(7), lines.rest(), lines.rest()), (None, 7, 0));
    }
}
