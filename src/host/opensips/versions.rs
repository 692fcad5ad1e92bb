//! The OpenSIPS versions this module has layouts for, one row each.

use super::abi;

/// What differs between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// As the table of supported versions shows it.
    pub name: &'static str,
    /// First release, inclusive.
    from: (u16, u16, u16),
    /// Last release, inclusive.
    to: (u16, u16, u16),
    /// Offset of `t_ctx_register_ptr` in tm's table.
    pub t_ctx_register_ptr: usize,
}

impl Row {
    /// Size of a management command's export.
    pub fn mi_export(&self) -> usize {
        if self.from < (4, 0, 0) { abi::OS_MI_EXPORT_SIZE_3_4_7 as usize } else { abi::OS_MI_EXPORT_SIZE_4_0_0 as usize }
    }
}

const LAST: u16 = u16::MAX;

/// Every supported row.
pub const ROWS: [Row; 5] = [
    Row { name: "3.4.7 to 3.4.x", from: (3, 4, 7), to: (3, 4, LAST), t_ctx_register_ptr: abi::OS_TM_T_CTX_REGISTER_PTR_3_4_7 as usize },
    Row { name: "3.5.x", from: (3, 5, 0), to: (3, 5, LAST), t_ctx_register_ptr: abi::OS_TM_T_CTX_REGISTER_PTR_3_4_7 as usize },
    Row { name: "3.6.0 to 3.6.6", from: (3, 6, 0), to: (3, 6, 6), t_ctx_register_ptr: abi::OS_TM_T_CTX_REGISTER_PTR_3_4_7 as usize },
    Row { name: "3.6.7 to 3.6.x", from: (3, 6, 7), to: (3, 6, LAST), t_ctx_register_ptr: abi::OS_TM_T_CTX_REGISTER_PTR_3_6_7 as usize },
    Row { name: "4.0.x", from: (4, 0, 0), to: (4, 0, LAST), t_ctx_register_ptr: abi::OS_TM_T_CTX_REGISTER_PTR_3_6_7 as usize },
];

/// Compile flags that change nothing this module touches. Structures it reads have the same
/// layout under all of them; another word means a server it was never tried with.
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

fn supported() -> String {
    ROWS.map(|r| r.name).join(", ")
}

fn numbers(version: &str) -> Option<(u16, u16, u16)> {
    let number = version.strip_prefix("opensips ")?.split([' ', '-']).next()?;
    let mut parts = number.split('.').map(str::parse);
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        (Ok(a), Ok(b), Ok(c), None) => Some((a, b, c)),
        _ => None,
    }
}

/// The row of a server, or one sentence that says what was found and what is supported.
pub fn row_of(version: &str, compile_flags: &str) -> Result<Row, String> {
    let found = numbers(version).and_then(|n| ROWS.into_iter().find(|r| r.from <= n && n <= r.to));
    let row = found.ok_or_else(|| {
        format!(
            "this server is \"{version}\", and this acc module supports OpenSIPS {} on x86_64/linux: use one of these, or an acc module made for yours",
            supported()
        )
    })?;
    if !version.contains("(x86_64/linux)") {
        return Err(format!("this server is \"{version}\", and this acc module is for x86_64/linux"));
    }
    match compile_flags.split(", ").find(|f| !FLAGS.contains(f)) {
        None => Ok(row),
        Some(f) => Err(format!("this server was compiled with \"{f}\" (in \"{compile_flags}\"), and this acc module supports only: {}", FLAGS.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "STATS: On, DISABLE_NAGLE, USE_MCAST, SHM_MMAP, PKG_MALLOC, Q_MALLOC, F_MALLOC, HP_MALLOC, DBG_MALLOC, FAST_LOCK-ADAPTIVE_WAIT";

    #[test]
    fn every_release_finds_its_row() {
        for (version, name) in [
            ("3.4.7", "3.4.7 to 3.4.x"),
            ("3.4.18", "3.4.7 to 3.4.x"),
            ("3.5.3", "3.5.x"),
            ("3.6.0", "3.6.0 to 3.6.6"),
            ("3.6.6", "3.6.0 to 3.6.6"),
            ("3.6.7", "3.6.7 to 3.6.x"),
            ("3.6.8", "3.6.7 to 3.6.x"),
            ("4.0.1", "4.0.x"),
            ("4.0.0-rc2", "4.0.x"),
        ] {
            assert_eq!(row_of(&format!("opensips {version} (x86_64/linux)"), DEFAULT).unwrap().name, name);
        }
    }

    #[test]
    fn others_are_refused_with_both_sides_named() {
        for (version, flags, part) in [
            ("opensips 3.4.6 (x86_64/linux)", DEFAULT, "3.4.7 to 3.4.x"),
            ("opensips 3.3.9 (x86_64/linux)", DEFAULT, "opensips 3.3.9"),
            ("opensips 4.1.0-dev (x86_64/linux)", DEFAULT, "4.0.x"),
            ("opensips 3.6.8 (aarch64/linux)", DEFAULT, "x86_64/linux"),
            ("kamailio 5.6.3 (x86_64/linux)", DEFAULT, "supports OpenSIPS"),
            ("", DEFAULT, "supports OpenSIPS"),
            ("opensips 3.6.8 (x86_64/linux)", "STATS: Off, SHM_MMAP", "STATS: Off"),
            ("opensips 3.6.8 (x86_64/linux)", "STATS: On, NEW_THING", "NEW_THING"),
        ] {
            let e = row_of(version, flags).unwrap_err();
            assert!(e.contains(part), "{version}: {e}");
        }
    }
}
