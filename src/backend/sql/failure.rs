//! What a database's errors mean for another attempt.
#![forbid(unsafe_code)]

use sqlx::mysql::MySqlDatabaseError;

/// What an error means for another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same row will always be refused.
    Permanent,
    /// A table or column does not exist.
    Schema,
    /// A column is not what it was.
    Changed,
    /// The user may not do that.
    Denied,
    /// The table has no partition for the row.
    Partition,
    /// Refused with a code that says nothing about the database, such as a trigger's own.
    Refused,
    /// Lock, connection, space: to be tried later.
    Later,
}

/// A failed statement.
#[derive(Debug)]
pub struct Failure {
    /// Its class.
    pub class: Class,
    /// A uniqueness constraint refused it.
    pub unique: bool,
    /// The message of the database; never contains parts of the URL.
    pub text: String,
}

impl Class {
    /// Does the table not match what this process knows about it?
    pub fn is_of_table(self) -> bool {
        matches!(self, Class::Schema | Class::Changed | Class::Denied)
    }
}

impl Failure {
    /// The same.
    pub fn copy(&self) -> Failure {
        Failure { class: self.class, unique: self.unique, text: self.text.clone() }
    }
}

/// Result of a statement.
pub type Outcome<T> = Result<T, Failure>;

impl From<sqlx::Error> for Failure {
    fn from(e: sqlx::Error) -> Failure {
        let Some(db) = e.as_database_error() else { return Failure { class: Class::Later, unique: false, text: e.to_string() } };
        let code = db.code().unwrap_or_default();
        let class = if let Some(mysql) = db.try_downcast_ref::<MySqlDatabaseError>() {
            mysql_class(mysql.number(), &code)
        } else {
            sqlite_class(code.parse().unwrap_or(0), db.message())
        };
        Failure { class, unique: db.is_unique_violation(), text: db.message().to_string() }
    }
}

fn sqlite_class(extended: i32, message: &str) -> Class {
    // https://www.sqlite.org/rescode.html; the low byte is the primary code.
    match extended & 0xff {
        // TOOBIG, CONSTRAINT, MISMATCH, RANGE
        18 | 19 | 20 | 25 => Class::Permanent,
        1 if message.contains("no such table") || message.contains("no column named") || message.contains("no such column") => Class::Schema,
        // PERM, READONLY, AUTH
        3 | 8 | 23 => Class::Denied,
        // ERROR: raised by a trigger, for example.
        1 => Class::Refused,
        _ => Class::Later,
    }
}

/// Errors of the server itself only have to be told from the rest as far as that saves work: a row that
/// seems to be refused is parked only if others are accepted.
fn mysql_class(number: u16, sqlstate: &str) -> Class {
    match number {
        // No such table, unknown column.
        1146 | 1054 => Class::Schema,
        // The column has become a generated one, in MariaDB and in MySQL.
        1906 | 3105 => Class::Changed,
        // Denied: database, table, column, command; CREATE not allowed.
        1044 | 1142 | 1143 | 1227 | 1370 => Class::Denied,
        // No partition for the value.
        1526 => Class::Partition,
        // These have a misleading state, unlike lock wait timeout and deadlock (40001/HY000):
        // truncated, no default for a field, incorrect string, CHECK, SIGNAL of a trigger.
        1265 | 1364 | 1366 | 3819 | 4025 | 1644 => Class::Permanent,
        _ if sqlstate.starts_with("22") || sqlstate.starts_with("23") => Class::Permanent,
        // Too many connections, packets and the network, shutdown, host blocked, deadlock and lock wait,
        // resource limits, interrupted and timed out, killed, a cluster that is not ready.
        1040..=1043 | 1047 | 1053 | 1077..=1081 | 1129 | 1130 | 1152..=1161 | 1184 | 1203 | 1205 | 1206 | 1213 | 1226 | 1317 | 1927 | 1969 | 3024 => {
            Class::Later
        }
        // Disk and memory full, files of a table, storage engine, crashed table, table full, COMMIT.
        1004..=1006 | 1014..=1016 | 1021 | 1023..=1030 | 1034..=1039 | 1114 | 1180 | 1194 | 1195 => Class::Later,
        // Read only; prepared statements and table definitions that changed.
        1223 | 1290 | 1792 | 1836 | 1243 | 1412 | 1461 | 1615 => Class::Later,
        _ if sqlstate.starts_with("08") || sqlstate.starts_with("40") || sqlstate.starts_with("70") => Class::Later,
        _ => Class::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_to_try_again() {
        assert_eq!(sqlite_class(5, ""), Class::Later);
        assert_eq!(sqlite_class(517, "database is locked"), Class::Later);
        assert_eq!(sqlite_class(1299, ""), Class::Permanent);
        assert_eq!(sqlite_class(1, "table acc has no column named x"), Class::Schema);
        assert_eq!(mysql_class(1213, "40001"), Class::Later);
        assert_eq!(mysql_class(1062, "23000"), Class::Permanent);
        assert_eq!(mysql_class(1406, "22001"), Class::Permanent);
        assert_eq!(mysql_class(1146, "42S02"), Class::Schema);
        assert_eq!(mysql_class(1526, "HY000"), Class::Partition);
        assert_eq!([1906, 3105].map(|n| mysql_class(n, "HY000")), [Class::Changed; 2]);
        assert_eq!(mysql_class(31001, "HY000"), Class::Refused);
    }
}
