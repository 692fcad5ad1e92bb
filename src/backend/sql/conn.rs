//! One connection of any of the three databases.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlSslMode};
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Connection, MySqlConnection, Row, SqliteConnection};

use super::failure::{Class, Failure, Outcome};
use super::file;
use super::postgres::{self, Param, Session};
use super::url::{Server, Target, TlsMode};
use super::value::{Value, escape_invalid};

/// How long a writer waits inside SQLite for the lock of another one, before the batch is tried again later.
/// Short, so that the process still ends in time.
const SQLITE_BUSY: Duration = Duration::from_secs(1);
/// How long SQLite waits in each of several turns. By itself it makes pauses of up to 100 ms, and if others write
/// all the time, the lock is hardly ever free at these moments.
const SQLITE_TURN: Duration = Duration::from_millis(10);
/// Pause between two turns.
const SQLITE_PAUSE: Duration = Duration::from_millis(2);
/// How SQLite says it, without the file and the cause.
const CANNOT_OPEN: &str = "unable to open database file";
/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Sockets that `localhost` stands for in MySQL's own client.
const MYSQL_SOCKETS: [&str; 3] = ["/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"];

/// Which SQL a database speaks.
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

    /// Name, as in URLs and in the names of the files in scripts/schema.
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

    /// A value of any type as a text.
    pub fn as_text(self, value: &str) -> String {
        format!("CAST({value} AS {})", if self == Dialect::MySql { "CHAR" } else { "TEXT" })
    }

    /// The placeholder of the n-th value of a statement, from 1. Each value is used once, in order.
    pub fn place(self, n: usize) -> String {
        match self {
            Dialect::Sqlite | Dialect::MySql => "?".into(),
            Dialect::Postgres => format!("${n}"),
        }
    }

    /// The placeholder of the n-th value if it is a text: SQLite would take the bytes that it is given for a BLOB.
    pub fn text_place(self, n: usize) -> String {
        match self {
            Dialect::Sqlite => "CAST(? AS TEXT)".into(),
            Dialect::MySql | Dialect::Postgres => self.place(n),
        }
    }
}

/// What somebody who opens a database wants with it. Only SQLite can tell: a server always has its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it. The file stays as it is, byte by byte.
    Read,
    /// To change it. A missing file is an error.
    Change,
    /// To write to it. A missing file is created.
    Create,
}

/// An open connection.
pub enum Conn {
    /// To a file.
    Sqlite(SqliteConnection, Access),
    /// To MySQL or MariaDB.
    MySql(MySqlConnection),
    /// To PostgreSQL.
    Postgres(Session),
}

/// Values of a statement, as the driver of one dialect sends them.
pub enum Bound {
    /// For SQLite.
    Sqlite(SqliteArguments),
    /// For MySQL and MariaDB.
    MySql(MySqlArguments),
    /// For PostgreSQL.
    Postgres(Vec<Param>),
}

impl Bound {
    /// Binds values, in order.
    pub fn new<'a>(dialect: Dialect, values: impl Iterator<Item = &'a Value>) -> Outcome<Bound> {
        Ok(match dialect {
            Dialect::Sqlite => Bound::Sqlite(all(values)?),
            Dialect::MySql => Bound::MySql(all(values)?),
            Dialect::Postgres => Bound::Postgres(values.cloned().map(Param::One).collect()),
        })
    }
}

impl Conn {
    /// Connects, and creates a missing file of SQLite. Errors hold no password.
    pub async fn open(target: &Target) -> Outcome<Conn> {
        Conn::open_for(Access::Create, target).await
    }

    /// [`Conn::open`] for this purpose.
    pub async fn open_for(access: Access, target: &Target) -> Outcome<Conn> {
        let connecting = async {
            Ok::<_, Failure>(match target {
                Target::Sqlite(path) => Conn::Sqlite(open_file(path, access).await?, access),
                Target::MySql(server) => Conn::MySql(MySqlConnection::connect_with(&mysql_options(server)).await?),
                Target::Postgres(server) => Conn::Postgres(Session::open(server).await?),
            })
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(result) => result,
            Err(_) => Err(Failure { class: Class::Later, unique: false, text: format!("no connection within {} s", CONNECT.as_secs()) }),
        }
    }

    /// Its SQL dialect.
    pub fn dialect(&self) -> Dialect {
        match self {
            Conn::Sqlite(..) => Dialect::Sqlite,
            Conn::MySql(_) => Dialect::MySql,
            Conn::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Begins a transaction that may write; in MySQL together with this savepoint.
    pub async fn begin(&mut self, savepoint: Option<&str>) -> Outcome<()> {
        match self {
            Conn::Sqlite(c, _) => Ok(insist(async || sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *c).await.map(drop)).await?),
            Conn::MySql(_) => self.run(savepoint.map_or("BEGIN".into(), |savepoint| format!("BEGIN; {savepoint}"))).await,
            Conn::Postgres(session) => session.begin().await,
        }
    }

    /// Closes it. The database may still refuse what was written.
    pub async fn commit(&mut self) -> Outcome<()> {
        match self {
            Conn::Sqlite(c, _) => Ok(insist(async || sqlx::raw_sql("COMMIT").execute(&mut *c).await.map(drop)).await?),
            Conn::MySql(_) => self.run("COMMIT").await,
            Conn::Postgres(session) => session.end("COMMIT").await,
        }
    }

    /// Ends the transaction without a trace.
    pub async fn roll_back(&mut self) -> Outcome<()> {
        match self {
            Conn::Sqlite(..) | Conn::MySql(_) => self.run("ROLLBACK").await,
            Conn::Postgres(session) => session.end("ROLLBACK").await,
        }
    }

    /// Runs a statement that creates something; names in it mean what they mean in a transaction.
    pub async fn make(&mut self, sql: &str) -> Outcome<()> {
        match self {
            Conn::Sqlite(..) | Conn::MySql(_) => self.run(sql).await,
            Conn::Postgres(session) => session.run(&format!("{}; {sql}", postgres::HOME)).await,
        }
    }

    /// [`Conn::query`] of a table that is created with `create` if it is missing; another server may be creating it as well.
    pub async fn query_made(&mut self, create: &str, sql: &str, columns: usize, values: &[Value]) -> Outcome<Vec<Vec<Option<String>>>> {
        let made = self.make(create).await;
        match (self.query(sql, columns, values).await, made) {
            (Err(e), Err(why)) if e.class != Class::Later => Err(why),
            (found, _) => found,
        }
    }

    /// Closes the connection in an orderly way.
    pub async fn close(self) {
        match self {
            Conn::Sqlite(c, Access::Read) => drop(c.close().await),
            Conn::Sqlite(mut c, _) => {
                // A user who may only read cannot open a file with write-ahead logging. It stays that way
                // while others have it open.
                let _ = sqlx::raw_sql("PRAGMA journal_mode = DELETE").execute(&mut c).await;
                let _ = c.close().await;
            }
            Conn::MySql(c) => drop(c.close().await),
            Conn::Postgres(session) => drop(session),
        }
    }

    /// Runs statements without values.
    pub async fn run(&mut self, sql: impl Into<String>) -> Outcome<()> {
        let sql = sql.into();
        match self {
            Conn::Sqlite(c, _) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(c).await.map(drop)?,
            Conn::MySql(c) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(c).await.map(drop)?,
            Conn::Postgres(session) => session.run(&sql).await?,
        }
        Ok(())
    }

    /// Runs one statement with values; returns how many rows it changed.
    pub async fn execute(&mut self, sql: Arc<str>, values: &[Value]) -> Outcome<u64> {
        let bound = Bound::new(self.dialect(), values.iter())?;
        self.execute_bound(sql, bound).await
    }

    /// [`Conn::execute`] with values that are bound already.
    pub async fn execute_bound(&mut self, sql: Arc<str>, bound: Bound) -> Outcome<u64> {
        Ok(match (self, bound) {
            (Conn::Sqlite(c, _), Bound::Sqlite(args)) => sqlx::query_with(AssertSqlSafe(sql), args).execute(c).await?.rows_affected(),
            (Conn::MySql(c), Bound::MySql(args)) => sqlx::query_with(AssertSqlSafe(sql), args).execute(c).await?.rows_affected(),
            (Conn::Postgres(session), Bound::Postgres(params)) => session.execute(&sql, &params).await?,
            _ => return Err(Failure { class: Class::Later, unique: false, text: "values bound for another database".into() }),
        })
    }

    /// [`Conn::execute_bound`] after a savepoint, unless that is already set; a statement that is repeated in a transaction
    /// is not parsed again.
    pub async fn execute_behind(&mut self, savepoint: Option<&str>, sql: Arc<str>, bound: Bound) -> Outcome<Outcome<u64>> {
        match (self, bound) {
            (Conn::Postgres(session), Bound::Postgres(params)) => session.execute_behind(savepoint, &sql, &params).await,
            (conn, bound) => {
                if let Some(savepoint) = savepoint {
                    conn.run(savepoint).await?;
                }
                Ok(conn.execute_bound(sql, bound).await)
            }
        }
    }

    /// Runs statements in one message to the server; the last one returns a number.
    pub async fn ask(&mut self, sql: &str) -> Outcome<Option<i64>> {
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
        Ok(match self {
            Conn::MySql(c) => {
                let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_string())).fetch_all(c).await?;
                number(rows.last().map(|row| row.try_get_unchecked(0)).transpose()?.flatten())
            }
            conn => conn.query(sql, 1, &[]).await?.pop().and_then(|mut row| number(row.pop().flatten())),
        })
    }

    /// Runs a query whose columns are all text; `None` is NULL.
    pub async fn query(&mut self, sql: impl Into<String>, columns: usize, values: &[Value]) -> Outcome<Vec<Vec<Option<String>>>> {
        let sql = sql.into();
        macro_rules! texts {
            ($fetched:expr) => {{
                let rows = $fetched?;
                rows.iter().map(|row| (0..columns).map(|i| row.try_get_unchecked(i)).collect()).collect::<Result<_, _>>()?
            }};
        }
        Ok(match self {
            Conn::Sqlite(c, _) => {
                let args: SqliteArguments = all(values.iter())?;
                texts!(insist(async || sqlx::query_with(AssertSqlSafe(sql.as_str()), args.clone()).fetch_all(&mut *c).await).await)
            }
            Conn::MySql(c) => texts!(sqlx::query_with(AssertSqlSafe(sql), all::<MySqlArguments>(values.iter())?).fetch_all(c).await),
            Conn::Postgres(session) => session.query(&sql, columns, values).await?,
        })
    }
}

async fn open_file(path: &Path, access: Access) -> Outcome<SqliteConnection> {
    let mut options = SqliteConnectOptions::new().filename(path).busy_timeout(SQLITE_TURN).disable_statement_logging();
    if access == Access::Create {
        file::make(path);
        options = options.create_if_missing(true);
    } else if let Err(e) = path.metadata() {
        // SQLite says of every such error that the file cannot be opened.
        return Err(Failure { class: Class::Later, unique: false, text: format!("{}: {e}", path.display()) });
    }
    if access == Access::Read {
        // To read a file with write-ahead logging that nobody has open, SQLite creates two files beside it and leaves them
        // there. If they are another user's, the server can no longer write. Without them nobody writes, so no locks are needed.
        let is_at_rest = file::has_write_ahead_log(path) && !file::is_write_ahead_log_there(path);
        return Ok(SqliteConnection::connect_with(&options.read_only(true).immutable(is_at_rest)).await?);
    }
    let mut conn = SqliteConnection::connect_with(&options).await.map_err(|e| {
        let failure = Failure::from(e);
        if !failure.text.contains(CANNOT_OPEN) {
            return failure;
        }
        let text = format!("the SQLite file {} cannot be opened: the server's user needs to read and write it, and to write its directory", path.display());
        Failure { text, ..failure }
    })?;
    // With this, readers do not block the delivery. Another open connection may prevent it,
    // which is no reason not to write. Synchronous stays FULL, because the journal segment of a
    // committed row is removed.
    let _ = sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut conn).await;
    Ok(conn)
}

/// Attempts at a file that others are writing to.
async fn insist<T>(mut attempt: impl AsyncFnMut() -> Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
    let end = Instant::now() + SQLITE_BUSY;
    loop {
        match attempt().await {
            Err(e) if is_busy(&e) && Instant::now() < end => tokio::time::sleep(SQLITE_PAUSE).await,
            result => return result,
        }
    }
}

/// SQLITE_BUSY in the low byte (<https://www.sqlite.org/rescode.html>).
fn is_busy(e: &sqlx::Error) -> bool {
    e.as_database_error().and_then(|e| e.code()?.parse::<i32>().ok()).is_some_and(|code| code & 0xff == 5)
}

/// Arguments for one of sqlx's drivers.
fn all<'a, A: AddValue + Default>(values: impl Iterator<Item = &'a Value>) -> Outcome<A> {
    let mut args = A::default();
    for value in values {
        args.add_value(value).map_err(|e| Failure { class: Class::Permanent, unique: false, text: e.to_string() })?;
    }
    Ok(args)
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

fn mysql_options(server: &Server) -> MySqlConnectOptions {
    // sql_mode and time zone stay as the server's administrator set them.
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
