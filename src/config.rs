//! Module parameters as a validated configuration.
//!
//! `module.rs` declares the parameters; here their raw values become a [`Config`], and every
//! error names the parameter and the cure.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use crate::acc::fields::Fields;

/// When a journal append counts as safe (parameter `journal_sync`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalSync {
    /// Written to the kernel: survives the death of every process, not of the machine.
    Os,
    /// As `Os`, and fdatasync by the delivery process at most every 100 ms.
    Batch,
    /// fdatasync before the append returns.
    Always,
}

/// What `drop_accounting(type, flags)` does to a backend's normal accounting (D15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropMode {
    /// Only the flags go, as the documentation of the original says.
    Documented,
    /// A backend whose last flag is dropped goes off, as the original does since 3.4.3.
    Stock,
}

/// Names of tables and columns of the SQL backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Db {
    /// Where the rows go, as given in `db_url`.
    pub url: String,
    /// `db_table_acc`: transaction rows and CDRs without a table of their own.
    pub table_acc: Arc<str>,
    /// `db_table_missed_calls`.
    pub table_missed: Arc<str>,
    /// Column names.
    pub columns: Columns,
}

/// Column names of the core values, in record order, and of the times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// method, from_tag, to_tag, callid, sip_code, sip_reason.
    pub core: [Arc<str>; 6],
    /// `acc_time_column`.
    pub time: Arc<str>,
}

/// Column of the setup time; not configurable, as in the original.
pub const COLUMN_SETUPTIME: &str = "setuptime";
/// Column of the arrival time.
pub const COLUMN_CREATED: &str = "created";
/// Column of the duration in seconds (CDR rows only).
pub const COLUMN_DURATION: &str = "duration";
/// Column of the duration in milliseconds (CDR rows only).
pub const COLUMN_MS_DURATION: &str = "ms_duration";

/// RADIUS accounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aaa {
    /// `aaa_url`.
    pub url: String,
    /// `service_type`; `None` = the dictionary's `Sip-Session`, else 15.
    pub service_type: Option<u32>,
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Provisional replies with a body count as answers for transaction records.
    pub early_media: bool,
    /// CANCEL requests are accounted.
    pub report_cancels: bool,
    /// From and To swap in records of requests sent by the callee.
    pub detect_direction: bool,
    /// Extra and leg fields of every backend.
    pub fields: Fields,
    /// Host log level of record lines.
    pub log_level: i32,
    /// Syslog facility of record lines (already shifted, as in `<syslog.h>`).
    pub log_facility: i32,
    /// SQL; `None` = off.
    pub db: Option<Db>,
    /// RADIUS; `None` = off.
    pub aaa: Option<Aaa>,
    /// Directory of the journal.
    pub journal_dir: PathBuf,
    /// Durability of appends.
    pub journal_sync: JournalSync,
    /// See [`DropMode`].
    pub drop_mode: DropMode,
    /// Most records in one SQL transaction (parameter `delivery_batch`).
    pub delivery_batch: usize,
    /// Longest pause between two attempts at a failing sink, in seconds (parameter `delivery_retry_max`).
    pub delivery_retry_max: u32,
}
