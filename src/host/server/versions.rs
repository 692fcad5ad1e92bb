//! Versions of servers. A version is only a hint: what the module uses of a server is proved
//! ([`crate::host::proof`]), so a server newer than this module starts as well, and is merely logged.

/// Major, minor, patch.
pub type Number = (u16, u16, u16);

/// Releases of one series, from the first one that this module works with to the last one that it was
/// tested with.
pub struct Series {
    /// The first.
    pub from: Number,
    /// Patch of the last.
    pub tested: u16,
}

/// The name of a family's servers, and its series in order.
pub struct Versions {
    /// Name of the server.
    pub server: &'static str,
    /// Its series.
    pub series: &'static [Series],
}

/// The number of a version; what follows a hyphen is ignored.
pub fn number(version: &str) -> Option<Number> {
    let mut parts = version.split('-').next()?.split('.').map(str::parse);
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        (Ok(a), Ok(b), Ok(c), None) => Some((a, b, c)),
        _ => None,
    }
}

impl Versions {
    /// The tested versions, for messages.
    fn tested(&self) -> String {
        let all: Vec<_> = self.series.iter().map(|Series { from: (a, b, c), tested }| format!("{a}.{b}.{c} to {a}.{b}.{tested}")).collect();
        all.join(", ")
    }

    /// Judges the server, which calls itself `full`: `None` if this module was tested with it, or what to log about a
    /// later one. The error is one sentence that says what was found and what is supported. `found`: its number, if
    /// server and machine are right.
    pub fn judge(&self, full: &str, found: Option<Number>) -> Result<Option<String>, String> {
        let (Some(found), Some(oldest)) = (found, self.series.first().map(|s| s.from)) else { return Err(self.refusal(full)) };
        if found < oldest {
            return Err(self.refusal(full));
        }
        let is_tested = self.series.iter().any(|Series { from: (a, b, c), tested }| (found.0, found.1) == (*a, *b) && (*c..=*tested).contains(&found.2));
        Ok((!is_tested).then(|| {
            format!(
                "this server is \"{full}\", which is not among the tested versions ({}); all that this acc module uses of it was checked and is as in those",
                self.tested()
            )
        }))
    }

    fn refusal(&self, full: &str) -> String {
        let (a, b, c) = self.series.first().map_or((0, 0, 0), |s| s.from);
        format!(
            "this server is \"{full}\", and this acc module is for {} {a}.{b}.{c} and later on x86_64/linux (tested: {}): use one of these, or an acc module made for yours",
            self.server,
            self.tested()
        )
    }
}
