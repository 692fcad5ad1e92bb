//! Time: wall clock for display, monotonic clock for durations (D5).
#![forbid(unsafe_code)]

use once_cell::sync::Lazy;
use rustix::time::{ClockId, clock_gettime};

/// Wall clock time in microseconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wall(pub i64);

impl Wall {
    /// Whole seconds since 1970, rounded towards the past.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Wall clock.
    pub wall: Wall,
    /// Microseconds of the monotonic clock, in the machine's boot `boot`.
    pub mono: i64,
    /// Which boot of the machine `mono` belongs to; 0 = none, only the wall clock is known.
    pub boot: u64,
}

static BOOT: Lazy<u64> = Lazy::new(|| {
    // Without the file (a container may hide it) the monotonic clock is only valid within this
    // run of the server, which its start time identifies.
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .map_or_else(|| Moment::wall_now().0 as u64, |id| id.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)))
});

/// What a clock shows, in microseconds.
fn micros(clock: ClockId) -> i64 {
    let t = clock_gettime(clock);
    t.tv_sec * 1_000_000 + t.tv_nsec / 1000
}

impl Moment {
    /// The current moment.
    pub fn now() -> Moment {
        Moment { wall: Moment::wall_now(), mono: micros(ClockId::Monotonic), boot: *BOOT }
    }

    /// The wall clock.
    pub fn wall_now() -> Wall {
        Wall(micros(ClockId::Realtime))
    }

    /// Microseconds from `earlier` to this moment, never negative. Within one boot of the
    /// machine a stepped wall clock does not matter.
    pub fn micros_since(self, earlier: Moment) -> i64 {
        let d = if self.boot == earlier.boot && self.boot != 0 { self.mono - earlier.mono } else { self.wall.0 - earlier.wall.0 };
        d.max(0)
    }

    /// Milliseconds from `earlier`, rounded to the nearest.
    pub fn millis_since(self, earlier: Moment) -> i64 {
        (self.micros_since(earlier) + 500) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(wall_s: i64, mono_s: i64, boot: u64) -> Moment {
        Moment { wall: Wall(wall_s * 1_000_000), mono: mono_s * 1_000_000, boot }
    }

    #[test]
    fn a_stepped_wall_clock_does_not_change_a_duration() {
        assert_eq!(at(5, 107, 1).millis_since(at(1000, 100, 1)), 7000);
        assert_eq!(at(9_000_000, 107, 1).millis_since(at(1000, 100, 1)), 7000);
    }

    #[test]
    fn after_a_reboot_the_wall_clock_counts_and_is_never_negative() {
        assert_eq!(at(1010, 3, 2).millis_since(at(1000, 100, 1)), 10_000);
        assert_eq!(at(990, 3, 2).millis_since(at(1000, 100, 1)), 0);
    }

    #[test]
    fn without_a_boot_the_wall_clock_counts() {
        assert_eq!(at(1010, 0, 0).millis_since(at(1000, 0, 0)), 10_000);
        assert_eq!(at(1010, 5, 1).millis_since(at(1000, 0, 0)), 10_000);
    }

    #[test]
    fn time_goes_on() {
        let a = Moment::now();
        let b = Moment::now();
        assert!(b.micros_since(a) >= 0 && a.boot == b.boot);
    }
}
