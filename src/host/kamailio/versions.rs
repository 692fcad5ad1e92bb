//! The Kamailio versions this module has layouts for, one row each.

/// What differs between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// As the table of supported versions shows it.
    pub name: &'static str,
    /// First release, inclusive.
    from: (u16, u16, u16),
    /// Last release, inclusive.
    to: (u16, u16, u16),
    /// The number in a variable's value has eight bytes.
    pub long_numbers: bool,
}

const LAST: u16 = u16::MAX;

/// Every supported row.
pub const ROWS: [Row; 5] = [
    Row { name: "5.6.2 to 5.6.x", from: (5, 6, 2), to: (5, 6, LAST), long_numbers: false },
    Row { name: "5.7.x", from: (5, 7, 0), to: (5, 7, LAST), long_numbers: true },
    Row { name: "5.8.x", from: (5, 8, 0), to: (5, 8, LAST), long_numbers: true },
    Row { name: "6.0.x", from: (6, 0, 0), to: (6, 0, LAST), long_numbers: true },
    Row { name: "6.1.x", from: (6, 1, 0), to: (6, 1, LAST), long_numbers: true },
];

fn numbers(version: &str) -> Option<(u16, u16, u16)> {
    // A pre-release ("5.7.0-rc1", "6.2.0-dev0") may have either layout.
    let mut parts = version.split('.').map(str::parse);
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        (Ok(a), Ok(b), Ok(c), None) => Some((a, b, c)),
        _ => None,
    }
}

/// The row of a server, or one sentence that says what was found and what is supported.
pub fn row_of(name: &str, version: &str, arch: &str, os: &str) -> Result<Row, String> {
    let found = numbers(version).filter(|_| name == "kamailio" && arch == "x86_64" && os == "linux");
    found.and_then(|n| ROWS.into_iter().find(|r| r.from <= n && n <= r.to)).ok_or_else(|| {
        let supported = ROWS.map(|r| r.name).join(", ");
        format!("this server is \"{name} {version} ({arch}/{os})\", and this acc module supports Kamailio {supported} on x86_64/linux: use one of these, or an acc module made for yours")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_finds_its_row() {
        for (version, name, long) in [
            ("5.6.2", "5.6.2 to 5.6.x", false),
            ("5.6.3", "5.6.2 to 5.6.x", false),
            ("5.7.0", "5.7.x", true),
            ("5.8.8", "5.8.x", true),
            ("6.0.7", "6.0.x", true),
            ("6.1.4", "6.1.x", true),
        ] {
            let row = row_of("kamailio", version, "x86_64", "linux").unwrap();
            assert_eq!((row.name, row.long_numbers), (name, long));
        }
    }

    #[test]
    fn others_are_refused_with_both_sides_named() {
        for (name, version, arch) in [
            ("kamailio", "5.6.1", "x86_64"),
            ("kamailio", "5.5.9", "x86_64"),
            ("kamailio", "6.2.0", "x86_64"),
            ("kamailio", "6.1.0-rc1", "x86_64"),
            ("kamailio", "5.6.3", "aarch64"),
            ("ser", "5.6.3", "x86_64"),
            ("", "", ""),
        ] {
            let e = row_of(name, version, arch, "linux").unwrap_err();
            assert!(e.contains(version) && e.contains("5.6.2 to 5.6.x"), "{e}");
        }
    }
}
