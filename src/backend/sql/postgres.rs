//! A session with PostgreSQL, direct or through a pooler such as PgBouncer that may hand every
//! transaction to another one of its connections. So nothing outlives a transaction here: no prepared
//! statement, no setting; and a statement goes out as one message, which no pooler takes apart. Prepared statements
//! outlive a transaction only if the URL says that the connection is direct.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::task::AbortHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure::{Class, Failure, Outcome};
use super::url::{Server, Tls, TlsMode};
use super::value::{Value, escape_invalid};
use crate::backend::verifier::Verifier;

/// Makes names in this transaction mean what the administrator has set: another client of the pooler may have
/// left its own search path.
pub const HOME: &str = "SET LOCAL search_path TO DEFAULT";
/// Begins such a transaction.
pub const BEGIN: &str = "BEGIN; SET LOCAL search_path TO DEFAULT";

/// How many prepared statements a direct connection keeps: those with lists of segments or calls differ from batch to batch.
const PREPARED: usize = 64;

/// An open session.
pub struct Session {
    client: Client,
    /// The task that talks to the server.
    link: AbortHandle,
    /// A transaction is open.
    begun: bool,
    /// There is no pooler in between.
    direct: bool,
    /// Prepared statements for repeated use; they are dropped before the transaction ends, unless the connection is direct.
    prepared: HashMap<Arc<str>, Statement>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A server that hangs would keep the task alive.
        self.link.abort();
    }
}

impl Session {
    /// Connects. The initial settings of the session, above all its time zone, are the administrator's.
    pub async fn open(server: &Server) -> Outcome<Session> {
        let config = config(server);
        if server.tls.mode == TlsMode::Off {
            let (client, connection) = config.connect(NoTls).await?;
            return Ok(Session { client, link: tokio::spawn(connection).abort_handle(), begun: false, direct: server.direct, prepared: HashMap::new() });
        }
        let (client, connection) = config.connect(MakeRustlsConnect::new(tls(&server.tls).map_err(later)?)).await?;
        Ok(Session { client, link: tokio::spawn(connection).abort_handle(), begun: false, direct: server.direct, prepared: HashMap::new() })
    }

    /// Begins a transaction.
    pub async fn begin(&mut self) -> Outcome<()> {
        self.run(BEGIN).await?;
        self.begun = true;
        Ok(())
    }

    /// Ends it, by COMMIT or ROLLBACK.
    pub async fn end(&mut self, sql: &str) -> Outcome<()> {
        self.begun = false;
        // Dropping each one tells the server, before the transaction ends.
        if !self.direct || self.prepared.len() > PREPARED {
            self.prepared.clear();
        }
        self.run(sql).await
    }

    /// Runs statements without values.
    pub async fn run(&self, sql: &str) -> Outcome<()> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// Runs one statement; returns how many rows it changed.
    pub async fn execute(&mut self, sql: &Arc<str>, values: &[Param]) -> Outcome<u64> {
        let params = typed(values);
        if !self.direct {
            return Ok(self.client.execute_typed(sql, &params).await?);
        }
        self.prepare(sql, &params).await?;
        let values: Vec<_> = params.iter().map(|(value, _)| *value).collect();
        Ok(self.client.execute(&self.prepared[sql], &values).await?)
    }

    async fn prepare(&mut self, sql: &Arc<str>, params: &[(&(dyn ToSql + Sync), Type)]) -> Outcome<()> {
        if !self.prepared.contains_key(sql) {
            let kinds: Vec<_> = params.iter().map(|(_, kind)| kind.clone()).collect();
            self.prepared.insert(sql.clone(), self.client.prepare_typed(sql, &kinds).await?);
        }
        Ok(())
    }

    /// [`Session::execute`] of a statement that is repeated in this transaction, after a savepoint, so that only the
    /// statement fails. Messages go out together where possible; the savepoint first, unless it is already set.
    pub async fn execute_behind(&mut self, savepoint: Option<&str>, sql: &Arc<str>, values: &[Param]) -> Outcome<Outcome<u64>> {
        let params = typed(values);
        let save = async {
            match savepoint {
                Some(savepoint) => self.run(savepoint).await,
                None => Ok(()),
            }
        };
        let (values, kinds): (Vec<_>, Vec<_>) = params.iter().cloned().unzip();
        let Some(statement) = self.prepared.get(sql) else {
            let (saved, prepared) = tokio::join!(biased; save, self.client.prepare_typed(sql, &kinds));
            saved?;
            let statement = match prepared {
                Ok(statement) => statement,
                Err(e) => return Ok(Err(e.into())),
            };
            let changed = self.client.execute(&statement, &values).await;
            self.prepared.insert(sql.clone(), statement);
            return Ok(changed.map_err(Failure::from));
        };
        let (saved, changed) = tokio::join!(biased; save, self.client.execute(statement, &values));
        saved?;
        Ok(changed.map_err(Failure::from))
    }

    /// Goes back to a savepoint and asks for a number. Both go out together.
    pub async fn back_and_ask(&self, back: &str, sql: &str, values: &[Value]) -> Outcome<Option<i64>> {
        let (back, found) = tokio::join!(biased; self.run(back), self.query(sql, 1, values));
        back?;
        Ok(found?.into_iter().next().and_then(|mut row| row.pop().flatten()?.parse().ok()))
    }

    /// Runs a query whose columns are all text; outside of a transaction, in one of its own.
    pub async fn query(&self, sql: &str, columns: usize, values: &[Value]) -> Outcome<Vec<Vec<Option<String>>>> {
        let values: Vec<_> = values.iter().cloned().map(Param::One).collect();
        let params = typed(&values);
        let query = self.client.query_typed(sql, &params);
        let rows = if self.begun {
            query.await?
        } else {
            // All three go out together. If the query fails, COMMIT rolls back.
            let (begun, rows, ended) = tokio::join!(biased; self.run(BEGIN), query, self.run("COMMIT"));
            begun?;
            ended?;
            rows?
        };
        let row = |row: &tokio_postgres::Row| (0..columns).map(|i| row.try_get(i)).collect::<Result<Vec<_>, _>>();
        Ok(rows.iter().map(row).collect::<Result<_, _>>()?)
    }
}

/// A value of a statement.
#[derive(Debug)]
pub enum Param {
    /// One.
    One(Value),
    /// An array: the values of one column in several rows.
    Column {
        /// From row to row.
        values: Vec<Value>,
        /// They are numbers.
        numbers: bool,
    },
}

fn typed(params: &[Param]) -> Vec<(&(dyn ToSql + Sync), Type)> {
    let kind = |param: &Param| match param {
        Param::One(Value::Int(_)) => Type::INT8,
        Param::One(_) => Type::TEXT,
        Param::Column { numbers: true, .. } => Type::INT8_ARRAY,
        Param::Column { .. } => Type::TEXT_ARRAY,
    };
    params.iter().map(|param| (param as &(dyn ToSql + Sync), kind(param))).collect()
}

type Encoded = Result<IsNull, Box<dyn std::error::Error + Sync + Send>>;

impl ToSql for Value {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Encoded {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Text(bytes) => (&*escape_invalid(bytes, true)).to_sql(kind, out),
            Value::Int(n) => n.to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl ToSql for Param {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Encoded {
        match self {
            Param::One(value) => value.to_sql(kind, out),
            Param::Column { values, .. } => values.to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl From<tokio_postgres::Error> for Failure {
    fn from(e: tokio_postgres::Error) -> Failure {
        match e.as_db_error() {
            Some(db) => Failure {
                class: class(db.code().code(), db.constraint().is_none() && db.table().is_some(), db.where_().is_some()),
                unique: *db.code() == SqlState::UNIQUE_VIOLATION,
                text: db.message().into(),
            },
            // The underlying error says more.
            None => later(e.source().map_or_else(|| e.to_string(), |cause| format!("{e}: {cause}"))),
        }
    }
}

fn later(text: String) -> Failure {
    Failure { class: Class::Later, unique: false, text }
}

/// Errors of the server itself only have to be told from the rest as far as that saves work, see
/// `failure::mysql_class`. `table_only`: the server names a table and no constraint; `inside`: it happened inside a
/// function, such as a trigger's.
fn class(sqlstate: &str, table_only: bool, inside: bool) -> Class {
    match sqlstate {
        "42P01" | "42703" | "3F000" => Class::Schema,
        // The type of the column has changed, or it has become a generated one. A trigger's error counts against the row.
        "42804" | "428C9" if !inside => Class::Changed,
        "42501" => Class::Denied,
        // A check that names only the table is that of its partitions; an error raised by a trigger names no table.
        "23514" if table_only => Class::Partition,
        // Data exception, integrity constraint, RAISE of a trigger, value too large for an index.
        "P0001" | "54000" => Class::Permanent,
        _ if sqlstate.starts_with("22") || sqlstate.starts_with("23") => Class::Permanent,
        // A plan or a prepared statement that is no longer valid.
        "0A000" | "26000" | "42P05" => Class::Later,
        // Connection, state of the transaction, serialization, resources, limits, locks, operator, system, internal.
        _ if ["08", "25", "40", "53", "54", "55", "57", "58", "XX"].iter().any(|class| sqlstate.starts_with(class)) => Class::Later,
        _ => Class::Refused,
    }
}

fn config(server: &Server) -> Config {
    let mut config = Config::new();
    config.dbname(&server.database).application_name("acc").ssl_mode(match server.tls.mode {
        TlsMode::Off => SslMode::Disable,
        TlsMode::Preferred => SslMode::Prefer,
        TlsMode::Required | TlsMode::VerifyCa | TlsMode::VerifyHost => SslMode::Require,
    });
    match &server.socket {
        Some(path) => config.host_path(path),
        None => config.host(server.host.as_deref().unwrap_or("localhost")),
    };
    if !server.user.is_empty() {
        config.user(&server.user);
    }
    if let Some(password) = &server.password {
        config.password(password);
    }
    if let Some(port) = server.port {
        config.port(port);
    }
    config
}

fn tls(tls: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match tls.mode {
        TlsMode::VerifyCa | TlsMode::VerifyHost => {
            let roots = Arc::new(roots(tls)?);
            Some(WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build().map_err(|e| e.to_string())?)
        }
        TlsMode::Off | TlsMode::Preferred | TlsMode::Required => None,
    };
    let verifier = Verifier { verifier, any_name: tls.mode != TlsMode::VerifyHost, provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else { return Ok(config.with_no_client_auth()) };
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|e| format!("sslcert: {e}"))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("sslkey: {e}"))?;
    config.with_client_auth_cert(chain, key).map_err(|e| format!("sslcert, sslkey: {e}"))
}

/// Authorities of the system, and those of the file.
fn roots(tls: &Tls) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = &tls.ca {
        let failed = |e: &dyn std::fmt::Display| format!("sslrootcert: {e}");
        for certificate in CertificateDer::pem_file_iter(file).map_err(|e| failed(&e))? {
            roots.add(certificate.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_to_try_again() {
        assert_eq!(class("40P01", false, false), Class::Later);
        assert_eq!(class("23502", false, false), Class::Permanent);
        assert_eq!(class("57P01", false, false), Class::Later);
        assert_eq!(class("42703", false, false), Class::Schema);
        assert_eq!(["42804", "428C9"].map(|code| class(code, false, false)), [Class::Changed; 2]);
        assert_eq!([false, true].map(|table_only| class("23514", table_only, false)), [Class::Permanent, Class::Partition]);
        assert_eq!(["BILL1", "42804"].map(|code| class(code, false, true)), [Class::Refused; 2]);
    }
}
