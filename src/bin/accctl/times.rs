//! The column with the time of a record, in conditions and in results.
#![forbid(unsafe_code)]

use acc::backend::sql::Dialect;
use acc::backend::sql::schema::DAYS_EARLY;
use chrono::NaiveDateTime;

/// Such a column. In SQLite each row has a text or, if Kamailio wrote it, a number of days; numbers sort before texts.
pub struct TimeColumn {
    quoted: String,
    dialect: Dialect,
    utc: bool,
}

impl TimeColumn {
    /// The column with this quoted name. `utc`: its texts are times in UTC, not in local time; numbers of days always are in UTC.
    pub fn new(quoted: String, dialect: Dialect, utc: bool) -> TimeColumn {
        TimeColumn { quoted, dialect, utc }
    }

    /// Its time as a text; numbers of days are converted to the time zone of the texts.
    pub fn text(&self) -> String {
        let column = &self.quoted;
        match self.dialect {
            Dialect::MySql | Dialect::Postgres => self.dialect.as_text(column),
            Dialect::Sqlite => {
                let zone = if self.utc { "" } else { ", 'localtime'" };
                let days = format!("strftime('%Y-%m-%d %H:%M:%f', {column} + {DAYS_EARLY}{zone})");
                format!("CASE WHEN {} THEN {days} ELSE {} END", self.is_days(), self.dialect.as_text(column))
            }
        }
    }

    /// A condition, to be appended to others, that it is between these times of its zone.
    pub fn within(&self, since: Option<NaiveDateTime>, until: Option<NaiveDateTime>) -> String {
        if since.is_none() && until.is_none() {
            return String::new();
        }
        let bounds = |value: &dyn Fn(NaiveDateTime) -> String| {
            let bound = |sign: &str, time: Option<NaiveDateTime>| time.map(|time| format!("{} {sign} {}", self.quoted, value(time)));
            [bound(">=", since), bound("<", until)].into_iter().flatten().collect::<Vec<_>>().join(" AND ")
        };
        let texts = bounds(&text);
        if self.dialect != Dialect::Sqlite {
            return format!(" AND {texts}");
        }
        let zone = if self.utc { "" } else { ", 'utc'" };
        // SQLite counts milliseconds: half of one covers how others round.
        let days = bounds(&|time| format!("julianday({}{zone}) - {DAYS_EARLY} - 0.0005 / 86400", text(time)));
        format!(" AND (({texts} AND typeof({}) = 'text') OR ({days} AND {}))", self.quoted, self.is_days())
    }

    /// The number of days is an integer at noon.
    fn is_days(&self) -> String {
        format!("typeof({}) IN ('real', 'integer')", self.quoted)
    }
}

fn text(time: NaiveDateTime) -> String {
    format!("'{}'", time.format("%Y-%m-%d %H:%M:%S"))
}
