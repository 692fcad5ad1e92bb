//! What the parameters say about the SQL backend.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use super::{SqlSink, check_table, is_foreign, validate_url};
use crate::accounting::extras::{Extras, Family};
use crate::accounting::fields::Fields;
use crate::backend::{Settings, Sink};
use crate::declaration::{CORE_COLUMNS, default_of};
use crate::params::{ConfigError, Draft, bad};

/// The time zone in which times are written to SQL (parameter `db_time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbTime {
    /// Local time, according to `TZ` or else the machine.
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
    /// `db_table_calls`.
    pub table_calls: Arc<str>,
    /// The value of `node` in that table, which names this server (`stream_node`).
    pub node: Arc<str>,
    /// Column names.
    pub columns: Columns,
    /// `db_time`.
    pub time: DbTime,
    /// Decimals of the seconds (`db_time_digits`).
    pub digits: u8,
    /// CDRs of Kamailio's dialogs (`cdrs_table`).
    pub cdrs: Option<CdrsTable>,
}

/// The table of the CDRs of dialogs, with all its columns: start, end, duration, extras.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdrsTable {
    /// Its name.
    pub name: Arc<str>,
    /// Names of columns, in record order.
    pub columns: Vec<Arc<str>>,
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

impl Settings for Db {
    fn sink(&self, fields: &Fields) -> Result<Box<dyn Sink>, String> {
        Ok(Box::new(SqlSink::new(self, fields)?))
    }
}

/// Where SQL records go, if anywhere: `db_url`, otherwise the server's own default.
pub fn read(draft: &Draft) -> Result<Option<Arc<dyn Settings>>, ConfigError> {
    Ok(Db::of(draft)?.map(|db| Arc::new(db) as Arc<dyn Settings>))
}

impl Db {
    /// As [`read`].
    pub fn of(draft: &Draft) -> Result<Option<Db>, ConfigError> {
        let Some(url) = draft.text("db_url").or(draft.default_db_url.as_deref().filter(|u| !u.is_empty())) else { return Ok(None) };
        validate_url(url).map_err(|e| bad("db_url", e))?;
        Db::at(draft, url).map(Some)
    }

    /// Tables and columns, for any database: the URL is empty.
    pub fn of_tables(draft: &Draft) -> Result<Db, ConfigError> {
        Db::at(draft, "")
    }

    fn at(draft: &Draft, url: &str) -> Result<Db, ConfigError> {
        let core = [
            draft.identifier("acc_method_column")?,
            draft.identifier("acc_from_tag_column")?,
            draft.identifier("acc_to_tag_column")?,
            draft.identifier("acc_callid_column")?,
            draft.identifier("acc_sip_code_column")?,
            draft.identifier("acc_sip_reason_column")?,
        ];
        let time = draft.choice("db_time", &DbTime::NAMES)?;
        if time == DbTime::Utc && is_foreign(url) {
            return Err(bad("db_time", "utc works only with sqlite:, mysql: and postgres:: the server's own database modules write local time".into()));
        }
        let digits = draft.number("db_time_digits") as u8;
        if digits > 0 && is_foreign(url) {
            return Err(bad("db_time_digits", "works only with sqlite:, mysql: and postgres:: the server's own database modules write whole seconds".into()));
        }
        let table = |name| {
            // A name with variables is evaluated for each record.
            let v = Some(draft.word(name)).filter(|v| draft.family != Family::Kamailio || !v.contains('$')).unwrap_or(default_of(name));
            check_table(url, v).map_err(|e| bad(name, e))?;
            Ok(Arc::from(v))
        };
        Ok(Db {
            url: url.into(),
            table_acc: table("db_table_acc")?,
            table_missed: table("db_table_missed_calls")?,
            table_calls: table("db_table_calls")?,
            node: crate::backend::stream::node(draft)?.into(),
            columns: Columns { core, time: draft.identifier("acc_time_column")? },
            time,
            cdrs: Db::cdrs(draft, url)?,
            digits,
        })
    }

    fn cdrs(draft: &Draft, url: &str) -> Result<Option<CdrsTable>, ConfigError> {
        let Some(name) = draft.text("cdrs_table").filter(|_| draft.family == Family::Kamailio && draft.number("cdr_enable") != 0) else { return Ok(None) };
        check_table(url, name).map_err(|e| bad("cdrs_table", e))?;
        let extra = draft.text("cdr_extra").map_or(Ok(Vec::new()), |list| Extras::default().list(list, true, Family::Kamailio));
        let extra = extra.map_err(|e| bad("cdr_extra", e.to_string()))?;
        let own = [draft.identifier("cdr_start_id")?, draft.identifier("cdr_end_id")?, draft.identifier("cdr_duration_id")?];
        Ok(Some(CdrsTable { name: name.into(), columns: own.into_iter().chain(extra.into_iter().map(|n| n.name)).collect() }))
    }
}
