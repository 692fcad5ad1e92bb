//! What is said about a configuration.

use crate::script::lexer::At;

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Records will be wrong or missing.
    Warning,
    /// It may be meant.
    Note,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// Something that was found.
#[derive(Debug)]
pub struct Finding {
    /// Its number, as in ACC001.
    pub code: u8,
    /// How sure it is.
    pub severity: Severity,
    /// Where.
    pub at: At,
    /// What is wrong, and what the consequence is.
    pub text: String,
    /// What to do.
    pub help: String,
}

impl Finding {
    pub fn name(&self) -> String {
        format!("ACC{:03}", self.code)
    }
}
