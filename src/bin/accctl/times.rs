//! The column with the time of a record, in conditions and in results.
#![forbid(unsafe_code)]

use acc::backend::sql::Dialect;
use acc::backend::sql::schema::DAYS_EARLY;
use chrono::NaiveDateTime;

/// Such a column. In SQLite each row has a text or, as Kamailio writes them, a number of days; every number sorts before every text.
pub struct TimeColumn {
    quoted: String,
    dialect: Dialect,
    utc: bool,
}

impl TimeColumn {
    /// The column with this quoted name. `utc`: its texts are times of UTC, and not of this machine; numbers of days always are.
    pub fn new(quoted: String, dialect: Dialect, utc: bool) -> TimeColumn {
        TimeColumn { quoted, dialect, utc }
    }

    /// Its time as a text; also of days in the zone of the texts.
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

    /// The condition that it is between these times of its zone, for the end of others.
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

    /// A day that begins at noon makes its number an integer.
    fn is_days(&self) -> String {
        format!("typeof({}) IN ('real', 'integer')", self.quoted)
    }
}

fn text(time: NaiveDateTime) -> String {
    format!("'{}'", time.format("%Y-%m-%d %H:%M:%S"))
}
