//! Settings of log lines.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use super::syslog::{DEV_LOG, SyslogSink};
use crate::accounting::fields::Fields;
use crate::backend::{Settings, Sink};
use crate::params::{ConfigError, Draft, bad};

/// The format of a line (`log_format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineFormat {
    /// As the original writes it.
    #[default]
    Text,
    /// A JSON object; nothing of the host's precedes it.
    Json,
}

/// How record lines are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLines {
    /// Level of the host.
    pub level: i32,
    /// Syslog facility (already shifted, as in `<syslog.h>`).
    pub facility: i32,
    /// Their format.
    pub format: LineFormat,
}

impl Settings for LogLines {
    fn sink(&self, _fields: &Fields) -> Result<Box<dyn Sink>, String> {
        Ok(Box::new(SyslogSink::new(Path::new(DEV_LOG))))
    }
}

/// Reads the settings. The log is always on, since any line may have to wait for syslog.
pub fn read(draft: &Draft) -> Result<Option<Arc<dyn Settings>>, ConfigError> {
    Ok(Some(Arc::new(LogLines::of(draft)?)))
}

impl LogLines {
    /// As [`read`].
    pub fn of(draft: &Draft) -> Result<LogLines, ConfigError> {
        let name = draft.word("log_facility");
        let facility =
            facility(name).ok_or_else(|| bad("log_facility", format!("\"{name}\" is not a syslog facility: use LOG_DAEMON, LOG_LOCAL0 to LOG_LOCAL7, ...")))?;
        let format = draft.choice("log_format", &[("text", LineFormat::Text), ("json", LineFormat::Json)])?;
        Ok(LogLines { level: draft.number("log_level"), facility, format })
    }
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

/// Name of a facility number; "LOG_DAEMON" for an unknown one.
pub fn facility_name(number: i32) -> &'static str {
    FACILITIES.iter().find(|(_, n)| n << 3 == number).map_or("LOG_DAEMON", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facilities_are_those_of_syslog_h() {
        assert_eq!((facility("LOG_LOCAL5"), facility("local5"), facility("LOG_DAEMON")), (Some(21 << 3), Some(21 << 3), Some(3 << 3)));
    }
}
