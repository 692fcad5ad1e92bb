//! One connection of any of the three databases, and what their errors mean.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlDatabaseError, MySqlSslMode};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgSslMode};
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Connection, MySqlConnection, PgConnection, Row, SqliteConnection};

use super::url::{Server, Target, TlsMode};

/// How long a writer waits for another one's lock inside SQLite, before the batch is tried again
/// later. Short, so that the process still ends in time.
const SQLITE_BUSY: Duration = Duration::from_secs(1);
/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Sockets that `localhost` stands for in MySQL's own client.
const MYSQL_SOCKETS: [&str; 3] = ["/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];

/// Which SQL is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite 3.
    Sqlite,
    /// MySQL and MariaDB.
    MySql,
    /// PostgreSQL.
    Postgres,
}

impl Dialect {
    /// Every one.
    pub const ALL: [Dialect; 3] = [Dialect::Sqlite, Dialect::MySql, Dialect::Postgres];

    /// Name, as in URLs and of the files in scripts/schema.
    pub const fn name(self) -> &'static str {
        match self {
            Dialect::Sqlite => "sqlite",
            Dialect::MySql => "mysql",
            Dialect::Postgres => "postgres",
        }
    }

    /// An identifier, quoted; the caller has checked its characters.
    pub fn quote(self, name: &str) -> String {
        match self {
            Dialect::MySql => format!("`{name}`"),
            Dialect::Sqlite | Dialect::Postgres => format!("\"{name}\""),
        }
    }
}

/// A value to bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// NULL in a text column.
    Null,
    /// Bytes of text.
    Text(Vec<u8>),
    /// A number.
    Int(i64),
}

/// What an error says about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same row will be refused for ever.
    Permanent,
    /// A table or column is not there.
    Schema,
    /// The user may not do that.
    Denied,
    /// Lock, connection, space: later.
    Later,
}

/// A failed statement.
#[derive(Debug)]
pub struct Failure {
    /// What it means.
    pub class: Class,
    /// A uniqueness constraint refused it.
    pub unique: bool,
    /// What the database said; holds no values of the URL.
    pub text: String,
}

/// Result of a statement.
pub type Outcome<T> = Result<T, Failure>;

impl From<sqlx::Error> for Failure {
    fn from(e: sqlx::Error) -> Failure {
        let Some(db) = e.as_database_error() else { return Failure { class: Class::Later, unique: false, text: e.to_string() } };
        let code = db.code().unwrap_or_default();
        let class = if let Some(mysql) = db.try_downcast_ref::<MySqlDatabaseError>() {
            mysql_class(mysql.number(), &code)
        } else if db.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
            sqlite_class(code.parse().unwrap_or(0), db.message())
        } else {
            postgres_class(&code)
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
        _ => Class::Later,
    }
}

fn mysql_class(number: u16, sqlstate: &str) -> Class {
    match number {
        // No such table, unknown column.
        1146 | 1054 => Class::Schema,
        // Denied: database, table, column, command; CREATE not allowed.
        1044 | 1142 | 1143 | 1227 | 1370 => Class::Denied,
        // Lock wait timeout and deadlock carry a 40001/HY000 state, but these a misleading one:
        // truncated, no default for a field, incorrect string, CHECK, SIGNAL of a trigger.
        1265 | 1364 | 1366 | 3819 | 4025 | 1644 => Class::Permanent,
        _ if sqlstate.starts_with("22") || sqlstate.starts_with("23") => Class::Permanent,
        _ => Class::Later,
    }
}

fn postgres_class(sqlstate: &str) -> Class {
    match sqlstate {
        "42P01" | "42703" | "3F000" => Class::Schema,
        "42501" => Class::Denied,
        // Data exception, integrity constraint, RAISE of a trigger, value too large for an index.
        "P0001" | "54000" => Class::Permanent,
        _ if sqlstate.starts_with("22") || sqlstate.starts_with("23") => Class::Permanent,
        _ => Class::Later,
    }
}

/// An open connection.
pub enum Conn {
    /// To a file.
    Sqlite(SqliteConnection),
    /// To MySQL or MariaDB.
    MySql(MySqlConnection),
    /// To PostgreSQL.
    Postgres(PgConnection),
}

/// The same statement on whatever connection it is, with the values bound for its driver.
macro_rules! on_conn {
    ($conn:expr, $bound:expr, $c:ident, $args:ident => $body:expr) => {
        match ($conn, $bound) {
            (Conn::Sqlite($c), Bound::Sqlite($args)) => $body,
            (Conn::MySql($c), Bound::MySql($args)) => $body,
            (Conn::Postgres($c), Bound::Postgres($args)) => $body,
            _ => return Err(Failure { class: Class::Later, unique: false, text: "values bound for another database".into() }),
        }
    };
}

/// Values of a statement, as the driver of one dialect sends them.
pub enum Bound {
    /// For SQLite.
    Sqlite(SqliteArguments),
    /// For MySQL and MariaDB.
    MySql(MySqlArguments),
    /// For PostgreSQL.
    Postgres(PgArguments),
}

impl Bound {
    /// Binds values, in order.
    pub fn new<'a>(dialect: Dialect, values: impl Iterator<Item = &'a Value>) -> Outcome<Bound> {
        fn all<'a, A: AddValue + Default>(values: impl Iterator<Item = &'a Value>) -> Outcome<A> {
            let mut args = A::default();
            for value in values {
                args.add_value(value).map_err(|e| Failure { class: Class::Permanent, unique: false, text: e.to_string() })?;
            }
            Ok(args)
        }
        Ok(match dialect {
            Dialect::Sqlite => Bound::Sqlite(all(values)?),
            Dialect::MySql => Bound::MySql(all(values)?),
            Dialect::Postgres => Bound::Postgres(all(values)?),
        })
    }
}

impl Conn {
    /// Connects. Errors hold no password.
    pub async fn open(target: &Target) -> Outcome<Conn> {
        let connecting = async {
            Ok::<_, sqlx::Error>(match target {
                Target::Sqlite(path) => {
                    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true).busy_timeout(SQLITE_BUSY).disable_statement_logging();
                    let mut conn = SqliteConnection::connect_with(&options).await?;
                    // Readers then do not block the delivery. Another open connection may hold that
                    // off, which is no reason not to write. Synchronous stays FULL: a committed row's
                    // journal segment is removed.
                    let _ = sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut conn).await;
                    Conn::Sqlite(conn)
                }
                Target::MySql(server) => Conn::MySql(MySqlConnection::connect_with(&mysql_options(server)).await?),
                Target::Postgres(server) => Conn::Postgres(PgConnection::connect_with(&postgres_options(server)).await?),
            })
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Failure { class: Class::Later, unique: false, text: format!("no connection within {} s", CONNECT.as_secs()) }),
        }
    }

    /// What it speaks.
    pub fn dialect(&self) -> Dialect {
        match self {
            Conn::Sqlite(_) => Dialect::Sqlite,
            Conn::MySql(_) => Dialect::MySql,
            Conn::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Runs statements without values.
    pub async fn run(&mut self, sql: impl Into<String>) -> Outcome<()> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.into()));
        match self {
            Conn::Sqlite(c) => sql.execute(c).await.map(drop)?,
            Conn::MySql(c) => sql.execute(c).await.map(drop)?,
            Conn::Postgres(c) => sql.execute(c).await.map(drop)?,
        }
        Ok(())
    }

    /// Runs one statement with values; returns how many rows it changed.
    pub async fn execute(&mut self, sql: Arc<str>, values: &[Value]) -> Outcome<u64> {
        let bound = Bound::new(self.dialect(), values.iter())?;
        self.execute_bound(sql, bound).await
    }

    /// [`Conn::execute`] of values that are bound already.
    pub async fn execute_bound(&mut self, sql: Arc<str>, bound: Bound) -> Outcome<u64> {
        let sql = AssertSqlSafe(sql);
        Ok(on_conn!(self, bound, c, args => sqlx::query_with(sql, args).execute(c).await.map(|r| r.rows_affected()))?)
    }

    /// Runs a query whose columns are all text; `None` is NULL.
    pub async fn query(&mut self, sql: impl Into<String>, columns: usize, values: &[Value]) -> Outcome<Vec<Vec<Option<String>>>> {
        let sql = AssertSqlSafe(sql.into());
        let bound = Bound::new(self.dialect(), values.iter())?;
        Ok(on_conn!(self, bound, c, args => {
            let rows = sqlx::query_with(sql, args).fetch_all(c).await?;
            rows.iter().map(|row| (0..columns).map(|i| row.try_get_unchecked::<Option<String>, _>(i)).collect()).collect::<Result<_, _>>()
        })?)
    }
}

trait AddValue {
    fn add_value(&mut self, value: &Value) -> Result<(), sqlx::error::BoxDynError>;
}

impl AddValue for SqliteArguments {
    fn add_value(&mut self, value: &Value) -> Result<(), sqlx::error::BoxDynError> {
        match value {
            Value::Null => self.add(None::<i64>),
            // The statement casts it to TEXT, which keeps bytes that are not UTF-8 as they are.
            Value::Text(bytes) => self.add(bytes.clone()),
            Value::Int(n) => self.add(*n),
        }
    }
}

impl AddValue for MySqlArguments {
    fn add_value(&mut self, value: &Value) -> Result<(), sqlx::error::BoxDynError> {
        match value {
            Value::Null => self.add(None::<&str>),
            Value::Text(bytes) => self.add(&*escape_invalid(bytes, false)),
            Value::Int(n) => self.add(*n),
        }
    }
}

impl AddValue for PgArguments {
    fn add_value(&mut self, value: &Value) -> Result<(), sqlx::error::BoxDynError> {
        match value {
            Value::Null => self.add(None::<&str>),
            Value::Text(bytes) => self.add(&*escape_invalid(bytes, true)),
            Value::Int(n) => self.add(*n),
        }
    }
}

/// Text that the server takes: bytes that are not UTF-8 (and, for PostgreSQL, NUL) as `\xNN`.
pub fn escape_invalid(bytes: &[u8], escape_nul: bool) -> Cow<'_, str> {
    let escaped = |b: &u8| format!("\\x{b:02x}");
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => bytes.utf8_chunks().flat_map(|chunk| std::iter::once(chunk.valid().to_string()).chain(chunk.invalid().iter().map(escaped))).collect(),
    };
    if escape_nul && text.contains('\0') { Cow::Owned(text.replace('\0', "\\x00")) } else { text }
}

fn mysql_options(server: &Server) -> MySqlConnectOptions {
    // The server's own sql_mode and time zone stay as its administrator set them.
    let mut options = MySqlConnectOptions::new()
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .username(&server.user)
        .database(&server.database)
        .ssl_mode(match server.tls.mode {
            TlsMode::Off => MySqlSslMode::Disabled,
            TlsMode::Preferred => MySqlSslMode::Preferred,
            TlsMode::Required => MySqlSslMode::Required,
            TlsMode::VerifyCa => MySqlSslMode::VerifyCa,
            TlsMode::VerifyHost => MySqlSslMode::VerifyIdentity,
        })
        .disable_statement_logging();
    if let Some(ca) = &server.tls.ca {
        options = options.ssl_ca(ca);
    }
    if let (Some(cert), Some(key)) = (&server.tls.cert, &server.tls.key) {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
    }
    if let Some(password) = &server.password {
        options = options.password(password);
    }
    if let Some(port) = server.port {
        options = options.port(port);
    }
    let local = server.host.as_deref().is_none_or(|h| h == "localhost");
    let socket = server
        .socket
        .clone()
        .or_else(|| (local && server.port.is_none()).then(|| MYSQL_SOCKETS.iter().map(std::path::PathBuf::from).find(|p| p.exists())).flatten());
    match socket {
        Some(path) => options.socket(path),
        None => options.host(server.host.as_deref().unwrap_or("localhost")),
    }
}

fn postgres_options(server: &Server) -> PgConnectOptions {
    let mut options = PgConnectOptions::new_without_pgpass()
        .database(&server.database)
        .application_name("acc")
        .host(server.host.as_deref().unwrap_or("localhost"))
        .ssl_mode(match server.tls.mode {
            TlsMode::Off => PgSslMode::Disable,
            TlsMode::Preferred => PgSslMode::Prefer,
            TlsMode::Required => PgSslMode::Require,
            TlsMode::VerifyCa => PgSslMode::VerifyCa,
            TlsMode::VerifyHost => PgSslMode::VerifyFull,
        })
        .disable_statement_logging();
    if let Some(ca) = &server.tls.ca {
        options = options.ssl_root_cert(ca);
    }
    if let (Some(cert), Some(key)) = (&server.tls.cert, &server.tls.key) {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
    }
    if !server.user.is_empty() {
        options = options.username(&server.user);
    }
    if let Some(password) = &server.password {
        options = options.password(password);
    }
    if let Some(port) = server.port {
        options = options.port(port);
    }
    match &server.socket {
        Some(path) => options.socket(path),
        None => options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_not_utf8_is_escaped_visibly() {
        assert_eq!(escape_invalid(b"a\xffb\xc3\xa9\xc3", false), "a\\xffbé\\xc3");
        assert_eq!(escape_invalid(b"a\0b", true), "a\\x00b");
        assert_eq!(escape_invalid(b"a\0b", false), "a\0b");
    }

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
        assert_eq!(postgres_class("40P01"), Class::Later);
        assert_eq!(postgres_class("23502"), Class::Permanent);
        assert_eq!(postgres_class("57P01"), Class::Later);
        assert_eq!(postgres_class("42703"), Class::Schema);
    }
}
