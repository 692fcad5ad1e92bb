//! Module parameters as a validated configuration.
//!
//! `module.rs` declares the parameters; here their raw values become a [`Config`], and every
//! error names the parameter and the cure.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::acc::fields::{Fields, is_identifier};
use crate::acc::record::Backend;
use crate::journal::limit::{Limits, WhenFull};
use crate::module::{CORE_COLUMNS, PARAMS, ParamType, default_of};

/// When a journal append counts as safe (parameter `journal_sync`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalSync {
    /// Written to the kernel: survives the death of every process, not of the machine.
    Os,
    /// As `Os`, and fdatasync by the delivery process at most every 200 ms.
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

/// In which clock times are written to SQL (parameter `db_time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbTime {
    /// Local time: that of `TZ`, or of the machine.
    Local,
    /// Universal time.
    Utc,
}

impl DbTime {
    /// What the parameter may be.
    pub const NAMES: [(&str, DbTime); 2] = [("local", DbTime::Local), ("utc", DbTime::Utc)];
}

/// Names of tables and columns of the SQL backend.
#[derive(Clone, PartialEq, Eq)]
pub struct Db {
    /// Where the rows go, as given in `db_url`.
    pub url: String,
    /// `db_table_acc`: transaction rows and CDRs without a table of their own.
    pub table_acc: Arc<str>,
    /// `db_table_missed_calls`.
    pub table_missed: Arc<str>,
    /// Column names.
    pub columns: Columns,
    /// `db_time`.
    pub time: DbTime,
}

/// The URL may hold a password.
impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("table_acc", &self.table_acc).field("table_missed", &self.table_missed).finish_non_exhaustive()
    }
}

/// Column names of the core values, in record order, and of the times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// method, from_tag, to_tag, callid, sip_code, sip_reason.
    pub core: [Arc<str>; 6],
    /// `acc_time_column`.
    pub time: Arc<str>,
}

impl Default for Columns {
    fn default() -> Columns {
        Columns { core: CORE_COLUMNS.map(Arc::from), time: default_of("acc_time_column").into() }
    }
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
    /// `aaa_retry`: how often a record is offered before it is given up; `None` = for ever.
    pub retry: Option<u32>,
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
    /// How much the journal may hold, and what happens then.
    pub limits: Limits,
    /// See [`DropMode`].
    pub drop_mode: DropMode,
    /// `E_ACC_BACKLOG` is raised when more records than this wait for a sink; 0 = never (parameter `backlog_threshold`).
    pub backlog_threshold: u32,
    /// Most records in one SQL transaction (parameter `delivery_batch`).
    pub delivery_batch: usize,
    /// Longest pause between two attempts at a failing sink, in seconds (parameter `delivery_retry_max`).
    pub delivery_retry_max: u32,
    /// Seconds after a start in which dialogs may come back for their calls (parameter `orphan_timeout`).
    pub orphan_timeout: u32,
    /// Most memory that contexts of calls in progress may take, in MiB (parameter `arena_size`).
    pub arena_mib: u32,
}

/// Value of one `modparam` line.
#[derive(Clone, PartialEq, Eq)]
pub enum RawValue {
    /// A number.
    Int(i32),
    /// A string.
    Str(String),
}

/// One of them may be a URL with a password.
impl fmt::Debug for RawValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RawValue::Int(n) => write!(f, "Int({n})"),
            RawValue::Str(_) => f.write_str("Str(..)"),
        }
    }
}

/// What was wrong with the parameters.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such parameter.
    #[error("there is no parameter \"{0}\"")]
    Unknown(String),
    /// A string for a number or the other way round.
    #[error("parameter {name}: {expected} expected, {got} given: write modparam(\"acc\", \"{name}\", {example})")]
    Type {
        /// Which parameter.
        name: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What it got.
        got: &'static str,
        /// A value of the right type.
        example: &'static str,
    },
    /// The value cannot be used.
    #[error("parameter {name}: {reason}")]
    Value {
        /// Which parameter.
        name: &'static str,
        /// What is wrong and what to write instead.
        reason: String,
    },
}

/// Parameters as they come in, line by line.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    values: Vec<(&'static str, RawValue)>,
    /// Fields declared so far: variables in the script are checked against them while it is read.
    pub fields: Fields,
    /// Things to say once logging works.
    pub warnings: Vec<String>,
}

/// Syslog facilities by name, and their numbers in `<syslog.h>`.
const FACILITIES: [(&str, i32); 20] = [
    ("LOG_AUTH", 4),
    ("LOG_AUTHPRIV", 10),
    ("LOG_CRON", 9),
    ("LOG_DAEMON", 3),
    ("LOG_FTP", 11),
    ("LOG_KERN", 0),
    ("LOG_LOCAL0", 16),
    ("LOG_LOCAL1", 17),
    ("LOG_LOCAL2", 18),
    ("LOG_LOCAL3", 19),
    ("LOG_LOCAL4", 20),
    ("LOG_LOCAL5", 21),
    ("LOG_LOCAL6", 22),
    ("LOG_LOCAL7", 23),
    ("LOG_LPR", 6),
    ("LOG_MAIL", 2),
    ("LOG_NEWS", 7),
    ("LOG_SYSLOG", 5),
    ("LOG_USER", 1),
    ("LOG_UUCP", 8),
];

/// Number of a syslog facility as in `<syslog.h>` (already shifted).
pub fn facility(name: &str) -> Option<i32> {
    let with_prefix = |n: &str| name.eq_ignore_ascii_case(n) || n.strip_prefix("LOG_").is_some_and(|short| name.eq_ignore_ascii_case(short));
    FACILITIES.iter().find(|(n, _)| with_prefix(n)).map(|(_, number)| number << 3)
}

/// Name of a facility number, "LOG_DAEMON" for one that has none.
pub fn facility_name(number: i32) -> &'static str {
    FACILITIES.iter().find(|(_, n)| n << 3 == number).map_or("LOG_DAEMON", |(name, _)| name)
}

const fn bad(name: &'static str, reason: String) -> ConfigError {
    ConfigError::Value { name, reason }
}

impl Draft {
    /// Takes one `modparam` line.
    pub fn set(&mut self, name: &str, value: RawValue) -> Result<(), ConfigError> {
        let param = PARAMS.iter().find(|p| p.name == name).ok_or_else(|| ConfigError::Unknown(name.into()))?;
        match (param.kind, &value) {
            (ParamType::Int, RawValue::Str(_)) => return Err(ConfigError::Type { name: param.name, expected: "a number", got: "a string", example: "1" }),
            (ParamType::Str, RawValue::Int(_)) => {
                return Err(ConfigError::Type { name: param.name, expected: "a string", got: "a number", example: "\"...\"" });
            }
            _ => {}
        }
        match (param.name, &value) {
            ("extra_fields", RawValue::Str(s)) => {
                let said = self.fields.extra.add(s).map_err(|e| bad("extra_fields", e.to_string()))?;
                self.warnings.extend(said.into_iter().map(|w| format!("parameter extra_fields: {w}")));
            }
            ("leg_fields", RawValue::Str(s)) => {
                let said = self.fields.leg.add(s).map_err(|e| bad("leg_fields", e.to_string()))?;
                self.warnings.extend(said.into_iter().map(|w| format!("parameter leg_fields: {w}")));
            }
            ("db_table_avp", _) => self.warnings.push("parameter db_table_avp has no effect: the module has no such table, remove the line".into()),
            _ => {
                self.values.retain(|(n, _)| *n != param.name);
                self.values.push((param.name, value));
            }
        }
        Ok(())
    }

    fn int(&self, name: &'static str) -> Option<i32> {
        self.values.iter().find_map(|(n, v)| match v {
            RawValue::Int(i) if *n == name => Some(*i),
            _ => None,
        })
    }

    fn text(&self, name: &'static str) -> Option<&str> {
        self.values.iter().find_map(|(n, v)| match v {
            RawValue::Str(s) if *n == name && !s.is_empty() => Some(s.as_str()),
            _ => None,
        })
    }

    /// As given, else its default, which is a number.
    fn number(&self, name: &'static str) -> i32 {
        self.int(name).unwrap_or_else(|| default_of(name).parse().unwrap_or_default())
    }

    /// As given, else its default, which is a value.
    fn word(&self, name: &'static str) -> &str {
        self.text(name).unwrap_or(default_of(name))
    }

    fn ranged(&self, name: &'static str, range: std::ops::RangeInclusive<i32>) -> Result<i32, ConfigError> {
        let v = self.number(name);
        if range.contains(&v) {
            return Ok(v);
        }
        Err(bad(name, format!("{v} is outside {} to {}", range.start(), range.end())))
    }

    /// A number of MiB, in bytes.
    fn mib(&self, name: &'static str) -> Result<u64, ConfigError> {
        Ok((self.ranged(name, 0..=MIB_MAX)? as u64) << 20)
    }

    fn identifier(&self, name: &'static str) -> Result<Arc<str>, ConfigError> {
        let v = self.word(name);
        if is_identifier(v) {
            return Ok(Arc::from(v));
        }
        Err(bad(name, format!("\"{v}\" is no name of a table or column: use letters, digits and '_', not beginning with a digit")))
    }

    fn choice<T: Copy>(&self, name: &'static str, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let v = self.word(name);
        choices.iter().find(|(n, _)| n.eq_ignore_ascii_case(v)).map(|(_, c)| *c).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(n, _)| *n).collect();
            bad(name, format!("\"{v}\" is none of {}", names.join(", ")))
        })
    }

    /// The whole, checked. `default_db_url` is the host's own default database.
    pub fn finish(&self, default_db_url: Option<&str>) -> Result<Config, ConfigError> {
        let log_facility = self.word("log_facility");
        let log_facility = facility(log_facility)
            .ok_or_else(|| bad("log_facility", format!("\"{log_facility}\" is no syslog facility: use LOG_DAEMON, LOG_LOCAL0 to LOG_LOCAL7, ...")))?;
        let db = match self.text("db_url").or(default_db_url.filter(|u| !u.is_empty())) {
            None => None,
            Some(url) => {
                crate::backend::sql::validate_url(url).map_err(|e| bad("db_url", e))?;
                Some(self.db(url)?)
            }
        };
        let uses = |backend| !self.fields.extra.of(backend).is_empty() || !self.fields.leg.of(backend).is_empty();
        if db.is_none() && uses(Backend::Db) {
            return Err(bad("db_url", "extra_fields or leg_fields name columns for db, but there is no database: set db_url or remove them".into()));
        }
        let aaa = self.text("aaa_url").map(|url| self.aaa(url)).transpose()?;
        if aaa.is_none() && uses(Backend::Aaa) {
            return Err(bad("aaa_url", "extra_fields or leg_fields name attributes for aaa, but there is no RADIUS: set aaa_url or remove them".into()));
        }
        Ok(Config {
            early_media: self.number("early_media") != 0,
            report_cancels: self.number("report_cancels") != 0,
            detect_direction: self.number("detect_direction") != 0,
            fields: self.fields.clone(),
            log_level: self.number("log_level"),
            log_facility,
            db,
            aaa,
            journal_dir: PathBuf::from(self.word("journal_dir")),
            journal_sync: self.choice("journal_sync", &[("os", JournalSync::Os), ("batch", JournalSync::Batch), ("always", JournalSync::Always)])?,
            limits: Limits {
                max_bytes: self.mib("journal_max_size")?,
                min_free: self.mib("journal_min_free")?,
                when_full: self.choice("journal_full", &WhenFull::NAMES)?,
            },
            drop_mode: self.choice("drop_accounting_mode", &[("documented", DropMode::Documented), ("stock", DropMode::Stock)])?,
            backlog_threshold: self.ranged("backlog_threshold", 0..=i32::MAX)? as u32,
            delivery_batch: self.ranged("delivery_batch", 1..=BATCH_MAX)? as usize,
            delivery_retry_max: self.ranged("delivery_retry_max", 1..=3600)? as u32,
            orphan_timeout: self.ranged("orphan_timeout", 1..=86_400)? as u32,
            arena_mib: self.ranged("arena_size", 16..=65_536)? as u32,
        })
    }

    fn aaa(&self, url: &str) -> Result<Aaa, ConfigError> {
        let retry = match self.word("aaa_retry") {
            "forever" => None,
            n => Some(n.parse().ok().filter(|n| *n > 0).ok_or_else(|| bad("aaa_retry", format!("\"{n}\" is neither \"forever\" nor a number from 1 on")))?),
        };
        let aaa = Aaa { url: url.into(), service_type: self.int("service_type").and_then(|v| u32::try_from(v).ok()), retry };
        crate::backend::radius::validate(&aaa, &aaa_names(&self.fields)).map_err(|e| bad("aaa_url", e))?;
        Ok(aaa)
    }

    fn db(&self, url: &str) -> Result<Db, ConfigError> {
        let core = [
            self.identifier("acc_method_column")?,
            self.identifier("acc_from_tag_column")?,
            self.identifier("acc_to_tag_column")?,
            self.identifier("acc_callid_column")?,
            self.identifier("acc_sip_code_column")?,
            self.identifier("acc_sip_reason_column")?,
        ];
        let time = self.choice("db_time", &DbTime::NAMES)?;
        if time == DbTime::Utc && crate::backend::sql::is_foreign(url) {
            return Err(bad("db_time", "utc is for sqlite:, mysql: and postgres: only: the server's own database modules write local time".into()));
        }
        Ok(Db {
            url: url.into(),
            table_acc: self.identifier("db_table_acc")?,
            table_missed: self.identifier("db_table_missed_calls")?,
            columns: Columns { core, time: self.identifier("acc_time_column")? },
            time,
        })
    }
}

/// Attribute names of the extra and leg fields of RADIUS.
pub fn aaa_names(fields: &Fields) -> Vec<&str> {
    fields.extra.of(Backend::Aaa).iter().chain(fields.leg.of(Backend::Aaa)).map(|d| &*d.name).collect()
}

/// Most records of one sink in memory at a time.
const BATCH_MAX: i32 = 5000;
/// Greatest size in MiB: a TiB is more than a disk of records anybody keeps.
const MIB_MAX: i32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(lines: &[(&str, RawValue)]) -> Result<Config, ConfigError> {
        let mut d = Draft::default();
        for (name, value) in lines {
            d.set(name, value.clone())?;
        }
        d.finish(None)
    }

    fn s(v: &str) -> RawValue {
        RawValue::Str(v.into())
    }

    #[test]
    fn defaults_need_no_line() {
        let c = draft(&[]).unwrap();
        assert_eq!((c.log_level, c.log_facility), (2, 24));
        assert!(c.db.is_none() && c.aaa.is_none() && !c.early_media);
        assert_eq!(c.journal_sync, JournalSync::Batch);
        let db = Draft::default().finish(Some("sqlite:x")).unwrap().db.unwrap();
        assert_eq!((&*db.table_acc, &*db.table_missed, db.columns), ("acc", "missed_calls", Columns::default()));
    }

    /// What the documentation gives as the default is the value without a line.
    #[test]
    fn a_default_set_explicitly_changes_nothing() {
        let text = |d: &Draft| {
            let config = d.finish(Some("sqlite:x")).unwrap();
            format!("{config:?} {:?}", config.db.as_ref().map(|db| (&db.table_missed, &db.columns, db.time)))
        };
        let mut all = Draft::default();
        let without = text(&all);
        // These have none: what happens without a line depends on what else there is.
        let none = ["extra_fields", "leg_fields", "aaa_url", "service_type", "db_url", "db_table_avp"];
        for p in PARAMS.iter().filter(|p| !none.contains(&p.name)) {
            let value = default_of(p.name);
            let value = match p.kind {
                ParamType::Int => RawValue::Int(value.parse().unwrap_or_else(|_| panic!("{}: {value}", p.name))),
                ParamType::Str => RawValue::Str(value.into()),
            };
            all.set(p.name, value).unwrap();
        }
        assert_eq!(text(&all), without);
    }

    #[test]
    fn the_hosts_default_database_is_used() {
        let c = Draft::default().finish(Some("sqlite:///tmp/x.sqlite")).unwrap();
        assert_eq!(c.db.unwrap().url, "sqlite:///tmp/x.sqlite");
    }

    #[test]
    fn errors_name_the_parameter_and_the_cure() {
        for (lines, parts) in [
            (vec![("early_media", s("yes"))], ["parameter early_media", "a number expected"]),
            (vec![("db_url", RawValue::Int(1))], ["parameter db_url", "a string expected"]),
            (vec![("no_such", RawValue::Int(1))], ["no parameter", "no_such"]),
            (vec![("log_facility", s("LOG_NOWHERE"))], ["parameter log_facility", "LOG_LOCAL0"]),
            (vec![("extra_fields", s("foo:bar"))], ["parameter extra_fields", "log, db, aaa or evi"]),
            (vec![("leg_fields", s("log"))], ["parameter leg_fields", "backend and a colon"]),
            (vec![("extra_fields", s("db:a"))], ["parameter db_url", "set db_url"]),
            (vec![("extra_fields", s("aaa:a"))], ["parameter aaa_url", "set aaa_url"]),
            (vec![("journal_sync", s("sometimes"))], ["parameter journal_sync", "os, batch, always"]),
            (vec![("journal_full", s("burst"))], ["parameter journal_full", "drop-oldest, drop-new, refuse"]),
            (vec![("journal_max_size", RawValue::Int(-1))], ["parameter journal_max_size", "0 to 1048576"]),
            (vec![("journal_min_free", RawValue::Int(-1))], ["parameter journal_min_free", "0 to 1048576"]),
            (vec![("delivery_batch", RawValue::Int(0))], ["parameter delivery_batch", "1 to 5000"]),
            (vec![("db_url", s("sqlite:x")), ("db_table_acc", s("a;b"))], ["parameter db_table_acc", "no name of a table"]),
            (vec![("db_url", s("sqlite:x")), ("acc_time_column", s("1t"))], ["parameter acc_time_column", "no name of a table"]),
            (vec![("db_url", s("sqlite:x")), ("db_time", s("Mars"))], ["parameter db_time", "local, utc"]),
            (vec![("db_url", s("text:/x")), ("db_time", s("utc"))], ["parameter db_time", "local time"]),
            (vec![("db_url", s("nonsense"))], ["parameter db_url", "sqlite:"]),
        ] {
            let e = draft(&lines).unwrap_err().to_string();
            for p in parts {
                assert!(e.contains(p), "{lines:?}: {e}");
            }
        }
    }

    #[test]
    fn facilities_are_those_of_syslog_h() {
        assert_eq!((facility("LOG_LOCAL5"), facility("local5"), facility("LOG_DAEMON")), (Some(21 << 3), Some(21 << 3), Some(3 << 3)));
    }
}
