//! The parameters that decide what goes into a record.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::extras::Named;
use super::fields::Fields;
use super::record::{Backend, Kind};

/// The parameters that decide what goes into a record.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Extra and leg fields of every backend.
    pub fields: Fields,
    /// Provisional replies with a body count as answers for transaction records.
    pub early_media: bool,
    /// Default tables for SQL records; `None` = SQL is off.
    pub tables: Option<Tables>,
    /// CDRs of every dialog (Kamailio).
    pub dialog_cdrs: Option<DialogCdrs>,
}

impl Rules {
    /// Table for the records of a backend; only SQL has one.
    pub fn table_of(&self, backend: Backend, kind: Kind, named: &[u8]) -> Arc<str> {
        match (backend, &self.tables) {
            (Backend::Db, Some(tables)) if kind == Kind::Missed => Arc::clone(&tables.missed),
            (Backend::Db, Some(tables)) if kind.is_report() => Arc::clone(&tables.calls),
            (Backend::Db, Some(tables)) if named.is_empty() => Arc::clone(&tables.acc),
            (Backend::Db, Some(_)) => Arc::from(String::from_utf8_lossy(named)),
            _ => Arc::from(""),
        }
    }
}

/// Names of SQL tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// For transactions and CDRs, unless the script names a table.
    pub acc: Arc<str>,
    /// For missed calls.
    pub missed: Arc<str>,
    /// For calls that are up.
    pub calls: Arc<str>,
}

/// CDRs of every dialog (`cdr_enable`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialogCdrs {
    /// A line in the log.
    pub log: bool,
    /// Its facility.
    pub facility: i32,
    /// The SQL table.
    pub table: Option<Arc<str>>,
    /// Dialog variables, and names, of start, end and duration.
    pub names: [Arc<str>; 3],
    /// Calls start with their answer, not with their dialog.
    pub from_answer: bool,
    /// Calls whose lifetime is over have one.
    pub expired: bool,
    /// Calls that were never answered have one.
    pub failed: bool,
    /// A dialog with this variable has none.
    pub skip: Option<Arc<str>>,
    /// The extras, which follow start, end and duration.
    pub extra: Vec<Named>,
    /// Extras without a value are NULL.
    pub nullable: bool,
    /// In SQL start and end are in UTC.
    pub utc: bool,
    /// Decimals of the seconds in start, end and duration.
    pub precision: Precision,
    /// JSON objects.
    pub json: Option<JsonCdrs>,
}

/// How exact start, end and duration are (`cdr_duration_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Whole seconds, with one zero after the point.
    Seconds,
    /// Three digits.
    #[default]
    Millis,
    /// Six digits.
    Micros,
}

impl Precision {
    /// Seconds as dialog variables have them, of microseconds.
    pub fn text(self, micros: i64) -> Vec<u8> {
        let (seconds, rest) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
        match self {
            Precision::Seconds => format!("{seconds}.0"),
            Precision::Millis => format!("{seconds}.{:03}", rest / 1000),
            Precision::Micros => format!("{seconds}.{rest:06}"),
        }
        .into_bytes()
    }

    /// Microseconds, as exact as the text shows them.
    pub const fn cut(self, micros: i64) -> i64 {
        let unit = match self {
            Precision::Seconds => 1_000_000,
            Precision::Millis => 1000,
            Precision::Micros => 1,
        };
        micros - micros.rem_euclid(unit)
    }
}

/// CDRs of every dialog as JSON (`json_cdr_enable`), beside the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonCdrs {
    /// The extras, which follow start, end and duration.
    pub extra: Vec<Named>,
    /// Calls whose lifetime is over have one.
    pub expired: bool,
    /// A dialog with this variable has none.
    pub skip: Option<Arc<str>>,
}

impl DialogCdrs {
    /// Indices of the variables that are read, each once.
    pub fn variables(&self) -> impl Iterator<Item = usize> {
        let json = self.json.iter().flat_map(|j| &j.extra);
        let mut all: Vec<_> = self.extra.iter().chain(json).map(|n| n.value).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }

    /// No backend has CDRs of a call that ended without a BYE.
    pub fn is_silent(&self, backend: Backend) -> bool {
        if backend == Backend::Json { !self.json.as_ref().is_some_and(|j| j.expired) } else { !self.expired }
    }
}
