//! Tables: what they have, what they need, how they are made.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::conn::{Conn, Dialect, Outcome, Value};
use crate::acc::fields::{Fields, is_identifier};
use crate::acc::record::Backend;
use crate::config::{COLUMN_CREATED, COLUMN_DURATION, COLUMN_MS_DURATION, COLUMN_SETUPTIME, Db};

/// Versions of the tables' shape in the host's `version` table.
const VERSION_ACC: u32 = 7;
const VERSION_MISSED: u32 = 5;

/// The table of cursors.
pub const CURSOR_TABLE: &str = "acc_delivery";

/// A column of an existing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name as the database spells it.
    pub name: String,
    /// Most characters it holds.
    pub chars: Option<usize>,
    /// Most bytes it holds.
    pub bytes: Option<usize>,
    /// Last character of its character set, where that lacks some.
    pub last_char: Option<char>,
    /// PostgreSQL does not put text into it without a cast to this type.
    pub cast: Option<String>,
}

/// An existing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, quoted.
    pub quoted: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its storage engine, if that has no transactions: a part of a batch may stay behind a failure.
    pub lasting: Option<String>,
}

impl Table {
    /// The column of this name, whatever its case: SQL folds names that were not quoted.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name).or_else(|| self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name)))
    }
}

/// A table name that needs no quoting tricks: an identifier, perhaps behind the name of a database or schema.
pub fn is_table_name(name: &str) -> bool {
    name.split('.').count() <= 2 && name.split('.').all(is_identifier)
}

/// Names of the tables and views that statements of this connection can name.
pub async fn tables(conn: &mut Conn) -> Outcome<Vec<String>> {
    let sql = match conn.dialect() {
        Dialect::Sqlite => "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')",
        Dialect::MySql => "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = DATABASE()",
        Dialect::Postgres => {
            "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'v', 'p', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND pg_table_is_visible(c.oid)"
        }
    };
    Ok(conn.query(sql, 1, &[]).await?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

/// The table as it stands in the database; `None` when it does not exist.
pub async fn probe(conn: &mut Conn, name: &str) -> Outcome<Option<Table>> {
    let dialect = conn.dialect();
    let quote = |name: &str| name.split('.').map(|part| dialect.quote(part)).collect::<Vec<_>>().join(".");
    let (space, plain) = name.split_once('.').map_or((None, name), |(s, p)| (Some(s), p));
    let mut quoted = quote(name);
    let rows = match dialect {
        Dialect::Sqlite => {
            let sql = "SELECT name, NULL, NULL, NULL, NULL FROM pragma_table_info(CAST(?1 AS TEXT), CAST(?2 AS TEXT))";
            conn.query(sql, 5, &[text(plain), text(space.unwrap_or("main"))]).await?
        }
        Dialect::MySql => {
            let sql = "SELECT CAST(column_name AS CHAR), CAST(character_maximum_length AS CHAR), CAST(character_octet_length AS CHAR), NULL, CAST(character_set_name AS CHAR) \
                       FROM information_schema.columns WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE()) ORDER BY ordinal_position";
            conn.query(sql, 5, &[text(plain), space.map_or(Value::Null, text)]).await?
        }
        Dialect::Postgres => {
            let sql = "SELECT a.attname::text, \
                         CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4 THEN (a.atttypmod - 4)::text END, \
                         NULL::text, \
                         CASE WHEN t.typcategory = 'S' THEN NULL ELSE format_type(a.atttypid, NULL) END, NULL::text \
                       FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
                       WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
            let mut rows = conn.query(sql, 5, &[text(&quoted)]).await?;
            if rows.is_empty() {
                // CREATE TABLE Acc without quotes makes a table "acc".
                quoted = quote(&name.to_ascii_lowercase());
                rows = conn.query(sql, 5, &[text(&quoted)]).await?;
            }
            rows
        }
    };
    if rows.is_empty() {
        return Ok(None);
    }
    let number = |v: &Option<String>| v.as_deref().and_then(|s| s.parse().ok());
    let columns = rows
        .into_iter()
        .filter_map(|row| {
            Some(Column {
                name: row.first()?.clone()?,
                chars: number(row.get(1)?),
                bytes: number(row.get(2)?),
                cast: row.get(3)?.clone(),
                last_char: last_char(row.get(4)?.as_deref()),
            })
        })
        .collect();
    Ok(Some(Table { quoted, columns, lasting: lasting_engine(conn, name).await? }))
}

/// The storage engine of a table, if what is written to it cannot be undone: one of MySQL's without
/// transactions.
pub async fn lasting_engine(conn: &mut Conn, name: &str) -> Outcome<Option<String>> {
    if conn.dialect() != Dialect::MySql {
        return Ok(None);
    }
    let (space, plain) = name.split_once('.').map_or((None, name), |(s, p)| (Some(s), p));
    let sql = "SELECT CAST(t.engine AS CHAR) FROM information_schema.tables t JOIN information_schema.engines e ON e.engine = t.engine \
               WHERE t.table_name = ? AND t.table_schema = COALESCE(?, DATABASE()) AND e.transactions = 'NO'";
    Ok(conn.query(sql, 1, &[text(plain), space.map_or(Value::Null, text)]).await?.into_iter().next().and_then(|mut row| row.pop().flatten()))
}

/// The last character of MySQL's character sets that lack some; the rest take all or are rare.
fn last_char(charset: Option<&str>) -> Option<char> {
    match charset? {
        "utf8" | "utf8mb3" | "ucs2" => Some('\u{ffff}'),
        "latin1" => Some('\u{ff}'),
        "ascii" => Some('\u{7f}'),
        _ => None,
    }
}

fn text(s: &str) -> Value {
    Value::Text(s.as_bytes().to_vec())
}

/// Type of a column that this module writes, with default. `name` is what the record calls it.
fn column_type(db: &Db, name: &str, dialect: Dialect) -> &'static str {
    let core = ["CHAR(16)", "CHAR(64)", "CHAR(64)", "CHAR(64)", "CHAR(3)", "CHAR(32)"];
    // VARCHAR in PostgreSQL, whose CHAR would give the values back padded.
    let varying = ["VARCHAR(16)", "VARCHAR(64)", "VARCHAR(64)", "VARCHAR(64)", "VARCHAR(3)", "VARCHAR(32)"];
    if let Some(i) = db.columns.core.iter().position(|c| &**c == name) {
        return if dialect == Dialect::Postgres { varying[i] } else { core[i] };
    }
    let time = if dialect == Dialect::Postgres { "TIMESTAMP" } else { "DATETIME" };
    match name {
        _ if name == &*db.columns.time => time,
        COLUMN_CREATED => time,
        COLUMN_SETUPTIME | COLUMN_DURATION | COLUMN_MS_DURATION => {
            if dialect == Dialect::MySql {
                "INT(11) UNSIGNED"
            } else {
                "INTEGER"
            }
        }
        _ => "VARCHAR(255)",
    }
}

fn column_definition(db: &Db, name: &str, dialect: Dialect) -> String {
    let kind = column_type(db, name, dialect);
    let default = match name {
        _ if name == &*db.columns.time => "NOT NULL",
        _ if db.columns.core.iter().any(|c| &**c == name) => "DEFAULT '' NOT NULL",
        COLUMN_SETUPTIME | COLUMN_DURATION | COLUMN_MS_DURATION => "DEFAULT 0 NOT NULL",
        _ => "DEFAULT NULL",
    };
    format!("{} {kind} {default}", dialect.quote(name))
}

/// The statement that adds missing columns.
pub fn alter(db: &Db, table: &Table, missing: &[Arc<str>], dialect: Dialect) -> String {
    let one = |name: &Arc<str>| {
        // A column that is added to rows already there needs no NOT NULL without default.
        let definition =
            column_definition(db, name, dialect).replace("DATETIME NOT NULL", "DATETIME DEFAULT NULL").replace("TIMESTAMP NOT NULL", "TIMESTAMP DEFAULT NULL");
        format!("ALTER TABLE {} ADD COLUMN {definition};", table.quoted)
    };
    missing.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Columns that the configuration needs in a table, in record order.
pub fn needed(db: &Db, fields: &Fields, missed: bool) -> Vec<Arc<str>> {
    let mut columns: Vec<Arc<str>> = db.columns.core.to_vec();
    columns.push(db.columns.time.clone());
    columns.extend(fields.extra.of(Backend::Db).iter().chain(fields.leg.of(Backend::Db)).map(|d| d.name.clone()));
    columns.extend([COLUMN_SETUPTIME, COLUMN_CREATED].map(Arc::from));
    if !missed {
        columns.extend([COLUMN_DURATION, COLUMN_MS_DURATION].map(Arc::from));
    }
    let mut seen = Vec::new();
    columns.retain(|c| {
        let lower = c.to_ascii_lowercase();
        !seen.contains(&lower) && {
            seen.push(lower);
            true
        }
    });
    columns
}

/// Statements that make one of the two configured tables, with its index.
pub fn create(db: &Db, fields: &Fields, missed: bool, dialect: Dialect) -> Vec<String> {
    let name = if missed { &db.table_missed } else { &db.table_acc };
    let quoted = name.split('.').map(|p| dialect.quote(p)).collect::<Vec<_>>().join(".");
    let id = match dialect {
        Dialect::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL",
        Dialect::MySql => "INT(10) UNSIGNED AUTO_INCREMENT PRIMARY KEY NOT NULL",
        Dialect::Postgres => "BIGSERIAL PRIMARY KEY NOT NULL",
    };
    let columns = needed(db, fields, missed);
    let mut lines = vec![format!("{} {id}", dialect.quote("id"))];
    lines.extend(columns.iter().map(|c| column_definition(db, c, dialect)));
    let plain = name.rsplit('.').next().unwrap_or(name);
    vec![
        format!("CREATE TABLE {quoted} (\n    {}\n){};", lines.join(",\n    "), if dialect == Dialect::MySql { " ENGINE=InnoDB" } else { "" }),
        format!("CREATE INDEX {} ON {quoted} ({});", dialect.quote(&format!("{plain}_callid_idx")), dialect.quote(&db.columns.core[3])),
    ]
}

/// The statement that makes the table of cursors.
pub fn create_cursor(dialect: Dialect) -> String {
    let end = if dialect == Dialect::MySql { " ENGINE=InnoDB" } else { "" };
    format!(
        "CREATE TABLE IF NOT EXISTS {CURSOR_TABLE} (journal CHAR(16) NOT NULL, segment VARCHAR(80) NOT NULL, reached BIGINT NOT NULL, PRIMARY KEY (journal, segment)){end}"
    )
}

/// The two configured tables: whether it is that of missed calls, name, version of its shape.
fn tables_of(db: &Db) -> [(bool, &Arc<str>, u32); 2] {
    [(false, &db.table_acc, VERSION_ACC), (true, &db.table_missed, VERSION_MISSED)]
}

/// The host's table of versions, which its modules look into before they use a table.
fn create_version(dialect: Dialect) -> String {
    let (name, number, end) = match dialect {
        Dialect::Sqlite => ("CHAR(32)", "INTEGER", ""),
        Dialect::MySql => ("CHAR(32)", "INT UNSIGNED", " ENGINE=InnoDB"),
        Dialect::Postgres => ("VARCHAR(32)", "INTEGER", ""),
    };
    format!(
        "CREATE TABLE IF NOT EXISTS version (\n    table_name {name} NOT NULL,\n    table_version {number} DEFAULT 0 NOT NULL,\n    \
         CONSTRAINT version_t_name_idx UNIQUE (table_name)\n){end};"
    )
}

fn insert_version(table: &str, version: u32) -> String {
    format!("INSERT INTO version (table_name, table_version) VALUES ('{table}', {version});")
}

/// Statements for a database that has nothing yet.
pub fn create_all(db: &Db, fields: &Fields, dialect: Dialect) -> Vec<String> {
    let mut statements = vec![create_version(dialect)];
    for (missed, table, version) in tables_of(db) {
        statements.push(insert_version(table, version));
        statements.extend(create(db, fields, missed, dialect));
    }
    statements.push(format!("{};", create_cursor(dialect)));
    statements
}

/// Statements for what the database lacks; none when it has all.
pub async fn missing(conn: &mut Conn, db: &Db, fields: &Fields) -> Outcome<Vec<String>> {
    let dialect = conn.dialect();
    let mut statements = Vec::new();
    let mut versions = None;
    for (missed, name, version) in tables_of(db) {
        let Some(table) = probe(conn, name).await? else {
            let known = match &versions {
                Some(known) => known,
                None => versions.insert(match probe(conn, "version").await? {
                    Some(_) => conn.query("SELECT table_name FROM version", 1, &[]).await?.into_iter().filter_map(|mut row| row.pop().flatten()).collect(),
                    None => {
                        statements.push(create_version(dialect));
                        Vec::new()
                    }
                }),
            };
            if !known.iter().any(|k: &String| k.trim_end() == &**name) {
                statements.push(insert_version(name, version));
            }
            statements.extend(create(db, fields, missed, dialect));
            continue;
        };
        let lacks: Vec<_> = needed(db, fields, missed).into_iter().filter(|c| table.column(c).is_none()).collect();
        if !lacks.is_empty() {
            statements.push(alter(db, &table, &lacks, dialect));
        }
    }
    if probe(conn, CURSOR_TABLE).await?.is_none() {
        statements.push(format!("{};", create_cursor(dialect)));
    }
    Ok(statements)
}

/// Makes what a SQLite file lacks: everything in a new one, else the tables.
pub async fn prepare_sqlite(conn: &mut Conn, db: &Db, fields: &Fields) -> Outcome<()> {
    let empty = conn.query("SELECT name FROM sqlite_master LIMIT 1", 1, &[]).await?.is_empty();
    let mut statements = Vec::new();
    if empty {
        statements = create_all(db, fields, Dialect::Sqlite);
    } else {
        for (missed, table, _) in tables_of(db) {
            if probe(conn, table).await?.is_none() {
                statements.extend(create(db, fields, missed, Dialect::Sqlite));
            }
        }
    }
    if statements.is_empty() {
        return Ok(());
    }
    conn.run("BEGIN IMMEDIATE").await?;
    let result = conn.run(statements.join("\n")).await;
    conn.run(if result.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    result
}
