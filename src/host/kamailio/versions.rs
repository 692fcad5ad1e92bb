//! The Kamailio versions this module is for.

use crate::host::server::versions::{Number, Series, Versions, number};

/// Compared with `scripts/check-abi-kamailio`. Before 5.6.2, the dialog module had no functions to get
/// a dialog and give it back.
const VERSIONS: Versions = Versions {
    server: "Kamailio",
    series: &[
        Series { from: (5, 6, 2), tested: 6 },
        Series { from: (5, 7, 0), tested: 7 },
        Series { from: (5, 8, 0), tested: 8 },
        Series { from: (6, 0, 0), tested: 7 },
        Series { from: (6, 1, 0), tested: 4 },
    ],
};

/// The first version that this module works with.
pub const OLDEST: Number = VERSIONS.series[0].from;

/// See [`Versions::judge`].
pub fn judge(name: &str, version: &str, arch: &str, os: &str) -> Result<Option<String>, String> {
    let found = number(version).filter(|_| (name, arch, os) == ("kamailio", "x86_64", "linux"));
    VERSIONS.judge(&format!("{name} {version} ({arch}/{os})"), found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tested_releases_are_taken_and_later_ones_with_a_word() {
        for (version, is_tested) in [
            ("5.6.2", true),
            ("5.6.3", true),
            ("5.6.7", false),
            ("5.7.0", true),
            ("5.8.8", true),
            ("6.0.7", true),
            ("6.1.4", true),
            ("6.1.5", false),
            ("6.1.0-rc1", true),
            ("6.2.0-dev0", false),
            ("7.0.0", false),
        ] {
            let said = judge("kamailio", version, "x86_64", "linux").unwrap();
            assert_eq!(said.is_none(), is_tested, "{version}: {said:?}");
            assert!(said.is_none_or(|s| s.contains(version) && s.contains("6.1.0 to 6.1.4")));
        }
    }

    #[test]
    fn others_are_refused_with_both_sides_named() {
        for (name, version, arch) in
            [("kamailio", "5.6.1", "x86_64"), ("kamailio", "5.5.9", "x86_64"), ("kamailio", "5.6.3", "aarch64"), ("ser", "5.6.3", "x86_64"), ("", "", "")]
        {
            let e = judge(name, version, arch, "linux").unwrap_err();
            assert!(e.contains(version) && e.contains("5.6.2 and later"), "{e}");
        }
    }
}
