//! The OpenSIPS versions this module is for.

use crate::host::server::versions::{Number, Series, Versions, number};

/// Compared with `scripts/check-abi`. Before 3.4.7, dialog callbacks had different parameters.
const VERSIONS: Versions = Versions {
    server: "OpenSIPS",
    series: &[
        Series { from: (3, 4, 7), tested: 18 },
        Series { from: (3, 5, 0), tested: 9 },
        Series { from: (3, 6, 0), tested: 8 },
        Series { from: (4, 0, 0), tested: 1 },
    ],
};

/// Compile flags that do not affect this module: structures that it reads have the same layout with all of
/// them. Any other word means a server that it was never tried with.
const FLAGS: [&str; 22] = [
    "STATS: On",
    "SHM_EXTRA_STATS",
    "EXTRA_DEBUG",
    "DISABLE_NAGLE",
    "USE_MCAST",
    "NO_DEBUG",
    "NO_LOG",
    "SHM_MMAP",
    "PKG_MALLOC",
    "Q_MALLOC",
    "F_MALLOC",
    "HP_MALLOC",
    "F_PARALLEL_MALLOC",
    "DBG_MALLOC",
    "CC_O0",
    "QM_JOIN_FREE",
    "FAST_LOCK-FUTEX-ADAPTIVE_WAIT",
    "FAST_LOCK-FUTEX",
    "FAST_LOCK-BUSY_WAIT",
    "FAST_LOCK-ADAPTIVE_WAIT",
    "FAST_LOCK",
    "USE_PTHREAD_MUTEX",
];

/// The first version that this module works with.
pub const OLDEST: Number = VERSIONS.series[0].from;

/// See [`Versions::judge`].
pub fn judge(version: &str, compile_flags: &str) -> Result<Option<String>, String> {
    let found = version.strip_prefix("opensips ").and_then(|v| v.strip_suffix(" (x86_64/linux)"));
    let untested = VERSIONS.judge(version, found.and_then(number))?;
    match compile_flags.split(", ").find(|f| !FLAGS.contains(f)) {
        None => Ok(untested),
        Some(f) => Err(format!("this server was compiled with \"{f}\" (in \"{compile_flags}\"), and this acc module supports only: {}", FLAGS.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "STATS: On, DISABLE_NAGLE, USE_MCAST, SHM_MMAP, PKG_MALLOC, Q_MALLOC, F_MALLOC, HP_MALLOC, DBG_MALLOC, FAST_LOCK-ADAPTIVE_WAIT";

    #[test]
    fn tested_releases_are_taken_and_later_ones_with_a_word() {
        for (version, is_tested) in [
            ("3.4.7", true),
            ("3.4.18", true),
            ("3.4.19", false),
            ("3.5.9", true),
            ("3.6.0", true),
            ("3.6.8", true),
            ("3.6.9", false),
            ("4.0.0-rc2", true),
            ("4.0.1", true),
            ("4.0.2", false),
            ("4.1.0-dev", false),
            ("5.0.0", false),
        ] {
            let said = judge(&format!("opensips {version} (x86_64/linux)"), DEFAULT).unwrap();
            assert_eq!(said.is_none(), is_tested, "{version}: {said:?}");
            assert!(said.is_none_or(|s| s.contains(version) && s.contains("3.6.0 to 3.6.8")));
        }
    }

    #[test]
    fn others_are_refused_with_both_sides_named() {
        for (version, flags, part) in [
            ("opensips 3.4.6 (x86_64/linux)", DEFAULT, "3.4.7 and later"),
            ("opensips 3.3.9 (x86_64/linux)", DEFAULT, "opensips 3.3.9"),
            ("opensips 3.6.8 (aarch64/linux)", DEFAULT, "x86_64/linux"),
            ("kamailio 5.6.3 (x86_64/linux)", DEFAULT, "for OpenSIPS"),
            ("", DEFAULT, "for OpenSIPS"),
            ("opensips 3.6.8 (x86_64/linux)", "STATS: Off, SHM_MMAP", "STATS: Off"),
            ("opensips 3.6.8 (x86_64/linux)", "STATS: On, NEW_THING", "NEW_THING"),
        ] {
            let e = judge(version, flags).unwrap_err();
            assert!(e.contains(part), "{version}: {e}");
        }
    }
}
