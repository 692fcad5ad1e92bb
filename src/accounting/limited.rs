//! Log lines of one kind, limited so that a flood of events does not become a flood of lines.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::accounting::clock::Moment;

/// Microseconds between two lines: often enough to follow a problem, seldom enough for any disk.
const BETWEEN: i64 = 1_000_000;

/// Lines of one kind: each process logs one per second, with the number of those that it left out.
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

    /// If a line is due now, how many were left out since the last one.
    fn due(&self, now: i64) -> Option<u64> {
        let last = self.last.load(Ordering::Relaxed);
        let is_due = (last == 0 || now - last >= BETWEEN) && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// An error.
    pub fn error(&self, text: impl Display) {
        match self.due(Moment::now().mono) {
            Some(0) => log::error!("{text}"),
            Some(n) => log::error!("{text} ({n} more of this kind since the last such line)"),
            None => {}
        }
    }

    /// A warning.
    pub fn warn(&self, text: impl Display) {
        match self.due(Moment::now().mono) {
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
        assert_eq!([5, 6, 7].map(|now| lines.due(now)), [Some(0), None, None]);
        assert_eq!([BETWEEN + 4, BETWEEN + 5, BETWEEN + 6].map(|now| lines.due(now)), [None, Some(3), None]);
        assert_eq!(lines.due(2 * BETWEEN + 5), Some(1));
    }
}
