//! Tables: their columns, what is missing, and how to create them.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::sync::Arc;

use super::conn::{Conn, Dialect};
use super::failure::{Class, Outcome};
use super::value::Value;
use super::{COLUMN_CREATED, COLUMN_DURATION, COLUMN_MS_DURATION, COLUMN_SETUPTIME, CdrsTable, Db};
use crate::accounting::extras::Family;
use crate::accounting::fields::Fields;
use crate::accounting::names::is_identifier;
use crate::accounting::record::{ACC_ID, ATTEMPTS, Backend, END_CAUSE, END_REASON, END_SIDE, PDD_MS, RING_MS};

/// Columns of the table of calls that are up, before the fields.
pub const CALL_COLUMNS: [&str; 8] = ["call_id", "node", "callid", "from_tag", "to_tag", "time", "updated", "duration"];

/// The configured tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Transactions, and CDRs of `do_accounting()` and `cdr_flag`.
    Acc,
    /// Missed calls.
    Missed,
    /// CDRs of Kamailio's dialogs.
    Cdrs,
}

impl Role {
    /// Version of the table's structure in the host's `version` table.
    const fn version(self, shape: Family) -> u32 {
        match (self, shape) {
            (Role::Acc, Family::OpenSips) => 7,
            (Role::Missed, Family::OpenSips) => 5,
            (Role::Acc, Family::Kamailio) => 5,
            (Role::Missed, Family::Kamailio) => 4,
            (Role::Cdrs, _) => 2,
        }
    }

    /// Its name.
    pub fn name(self, db: &Db) -> Option<&Arc<str>> {
        match self {
            Role::Acc => Some(&db.table_acc),
            Role::Missed => Some(&db.table_missed),
            Role::Cdrs => db.cdrs.as_ref().map(|c| &c.name),
        }
    }

    /// The one with this name.
    pub fn of(db: &Db, name: &str) -> Option<Role> {
        tables_of(db).find(|(_, n)| &***n == name).map(|(role, _)| role)
    }
}

/// The table of cursors.
pub const CURSOR_TABLE: &str = "acc_delivery";

/// The table of calls that have their CDR.
pub const SEEN_TABLE: &str = "acc_seen";

/// What the type of a column can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Text.
    Text,
    /// Numbers.
    Numbers,
    /// Dates or times.
    Times,
    /// Anything else.
    Other,
}

/// Half a second, in days: numbers of days are early by this much, as Kamailio's db_sqlite writes them.
pub const DAYS_EARLY: &str = "0.5 / 86400";

/// A column of an existing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name as the database spells it.
    pub name: String,
    /// Its type as the database spells it.
    pub kind: String,
    /// What that type can hold.
    pub holds: Holds,
    /// Most characters it holds.
    pub chars: Option<usize>,
    /// Most bytes it holds.
    pub bytes: Option<usize>,
    /// Last character of its character set, if that lacks some.
    pub last_char: Option<char>,
    /// PostgreSQL needs a cast to its type for text.
    pub cast: bool,
    /// Its type includes a time zone, so times are written with theirs.
    pub zoned: bool,
    /// It allows NULL.
    pub nullable: bool,
    /// What an INSERT writes to get the default.
    pub default: Option<String>,
    /// The database fills it, and accepts no other value.
    pub generated: bool,
    /// Its times are numbers of days, as Kamailio's db_sqlite writes them (SQLite only).
    pub days: bool,
}

/// What is written to a column for a value that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// NULL; also where the database will refuse it.
    Null,
    /// Empty text.
    Empty,
    /// The column's default.
    Default,
}

impl Column {
    /// What is written for a value that is not set.
    pub fn unset(&self) -> Unset {
        match self {
            Column { nullable: true, .. } => Unset::Null,
            Column { default: Some(_), .. } => Unset::Default,
            Column { holds: Holds::Text, .. } => Unset::Empty,
            _ => Unset::Null,
        }
    }

    /// Can this column take the record's own value of this name, without a declared field? The operator may use a
    /// column of this name for something else.
    pub fn takes_own(&self, name: &str) -> bool {
        let width = own_width(name);
        let holds = match self.holds {
            Holds::Text => self.chars.is_none_or(|n| n >= width) && self.bytes.is_none_or(|n| n >= width),
            Holds::Numbers => is_own_number(name),
            _ => false,
        };
        holds && !self.generated
    }
}

/// Maximum number of characters of a record's own value.
fn own_width(name: &str) -> usize {
    match name {
        ACC_ID => 32,
        // A longer one is clipped.
        END_REASON => 16,
        _ => 8,
    }
}

/// Is a record's own value of this name a number?
fn is_own_number(name: &str) -> bool {
    [ATTEMPTS, PDD_MS, RING_MS].contains(&name)
}

/// An existing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, quoted.
    pub quoted: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its storage engine, if that has no transactions: after a failure, a part of a batch may remain.
    pub lasting: Option<String>,
}

impl Table {
    /// The column of this name, regardless of case: SQL folds names that are not quoted.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name).or_else(|| self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name)))
    }

    /// What the operator should know about the columns before the first record arrives. `name` is the
    /// table's name.
    pub fn remarks(&self, name: &str, db: &Db, fields: &Fields, dialect: Dialect) -> Vec<String> {
        let mut said = Vec::new();
        let declared: Vec<&Arc<str>> = fields.names(Backend::Db, true).collect();
        if let Some(engine) = &self.lasting {
            said.push(format!(
                "db_url: table {name} has the engine {engine}, which has no transactions: after a failure some rows may be written twice; change it: ALTER TABLE {} ENGINE=InnoDB;",
                self.quoted
            ));
        }
        let of = |column: &Column| format!("db_url: column {} of table {name} ({})", column.name, column.kind);
        for column in declared.iter().filter_map(|field| self.column(field)) {
            if column.generated {
                said.push(format!("{} is filled by the database itself, so the field is not written there; use another column for the field", of(column)));
            } else if !column.nullable && column.default.is_none() && column.holds != Holds::Text {
                said.push(format!(
                    "{} does not allow NULL and has no default: records without this field are refused; to allow NULL: {}",
                    of(column),
                    self.nullable(column, dialect)
                ));
            }
            if let Some(own) = OWN_NUMBERS.iter().chain([&COLUMN_CREATED]).find(|own| own.eq_ignore_ascii_case(&column.name)) {
                said.push(format!("{} gets the value of a field instead of the record's own {own}; use another column for the field", of(column)));
            }
        }
        for column in [&*db.columns.time, COLUMN_CREATED].into_iter().filter_map(|own| self.column(own)) {
            if column.holds == Holds::Numbers || column.generated {
                said.push(format!("{} cannot hold a date and time, but records have one for it; change its type", of(column)));
            }
        }
        for own in [ACC_ID, END_CAUSE, END_SIDE, END_REASON, ATTEMPTS, PDD_MS, RING_MS] {
            if let Some(column) = self.column(own)
                && !declared.iter().any(|field| field.eq_ignore_ascii_case(own))
                && !column.takes_own(own)
            {
                let holds = if is_own_number(own) { "a number".into() } else { format!("a text of {} characters", own_width(own)) };
                said.push(format!(
                    "{} cannot hold {holds}, so the record's own {own} is not written there; to have it written, change the column's type",
                    of(column)
                ));
            }
        }
        said
    }

    /// The statement that lets a column take NULL.
    fn nullable(&self, column: &Column, dialect: Dialect) -> String {
        let name = dialect.quote(&column.name);
        match dialect {
            Dialect::Sqlite => format!("recreate the table with {name} {} DEFAULT NULL", column.kind),
            Dialect::MySql => format!("ALTER TABLE {} MODIFY {name} {} DEFAULT NULL;", self.quoted, column.kind),
            Dialect::Postgres => format!("ALTER TABLE {} ALTER {name} DROP NOT NULL;", self.quoted),
        }
    }
}

/// Columns of a record's own numbers.
pub const OWN_NUMBERS: [&str; 3] = [COLUMN_SETUPTIME, COLUMN_DURATION, COLUMN_MS_DURATION];

/// Is this a table name that needs no quoting tricks: an identifier, perhaps after the name of a database or schema?
pub fn is_table_name(name: &str) -> bool {
    name.split('.').count() <= 2 && name.split('.').all(is_identifier)
}

/// The name of a table without its database or schema.
fn plain(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Names of the tables and views that statements of this connection can use.
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

/// The table as it is in the database; `None` if it does not exist.
pub async fn probe(conn: &mut Conn, name: &str) -> Outcome<Option<Table>> {
    let dialect = conn.dialect();
    let quote = |name: &str| name.split('.').map(|part| dialect.quote(part)).collect::<Vec<_>>().join(".");
    let (space, plain) = name.split_once('.').map_or((None, name), |(s, p)| (Some(s), p));
    let mut quoted = quote(name);
    let space = [text(plain), space.map_or(Value::Null, text)];
    let columns = match dialect {
        Dialect::Sqlite => {
            // Hidden (1) ones are not columns; 2 and 3 are generated.
            let sql = "SELECT name, type, CAST(\"notnull\" AS TEXT), dflt_value, CAST(hidden AS TEXT) \
                       FROM pragma_table_xinfo(CAST(?1 AS TEXT), COALESCE(CAST(?2 AS TEXT), 'main')) WHERE hidden != 1";
            let mut columns = conn.query(sql, 5, &space).await?.into_iter().filter_map(sqlite_column).collect::<Vec<_>>();
            for column in columns.iter_mut().filter(|c| c.holds == Holds::Times) {
                column.days = holds_days(conn, &quoted, &column.name).await?;
            }
            columns
        }
        Dialect::MySql => {
            let sql = "SELECT CAST(column_name AS CHAR), CAST(column_type AS CHAR), CAST(data_type AS CHAR), CAST(character_maximum_length AS CHAR), \
                         CAST(character_octet_length AS CHAR), CAST(character_set_name AS CHAR), CAST(is_nullable AS CHAR), CAST(column_default AS CHAR), \
                         CAST(extra AS CHAR) \
                       FROM information_schema.columns WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE()) ORDER BY ordinal_position";
            conn.query(sql, 9, &space).await?.into_iter().filter_map(mysql_column).collect()
        }
        Dialect::Postgres => {
            // Some columns of pg_attribute came with later versions; the information schema has always had these.
            let sql = "SELECT a.attname::text, format_type(a.atttypid, NULL), t.typcategory::text, format_type(b.oid, NULL), \
                         CASE WHEN b.typname IN ('varchar', 'bpchar') AND m.typmod > 4 THEN (m.typmod - 4)::text END, \
                         (a.attnotnull OR t.typnotnull)::text, \
                         COALESCE(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(t.typdefaultbin, 0)), \
                         (COALESCE(i.is_generated, 'NEVER') <> 'NEVER' OR COALESCE(i.identity_generation, '') = 'ALWAYS')::text, \
                         current_setting('server_encoding') \
                       FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
                       JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END \
                       CROSS JOIN LATERAL (SELECT CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END AS typmod) m \
                       JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                       LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
                       LEFT JOIN information_schema.columns i ON i.table_schema = n.nspname AND i.table_name = c.relname AND i.column_name = a.attname \
                       WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
            let mut rows = conn.query(sql, 9, &[text(&quoted)]).await?;
            if rows.is_empty() {
                // CREATE TABLE Acc without quotes makes a table "acc".
                quoted = quote(&name.to_ascii_lowercase());
                rows = conn.query(sql, 9, &[text(&quoted)]).await?;
            }
            rows.into_iter().filter_map(postgres_column).collect()
        }
    };
    if columns.is_empty() {
        return Ok(None);
    }
    Ok(Some(Table { quoted, columns, lasting: lasting_engine(conn, name).await? }))
}

/// The fields of a row of [`probe`].
fn fields<const N: usize>(row: Vec<Option<String>>) -> Option<[Option<String>; N]> {
    row.try_into().ok()
}

fn number(field: Option<String>) -> Option<usize> {
    field.and_then(|s| s.parse().ok())
}

fn sqlite_column(row: Vec<Option<String>>) -> Option<Column> {
    let [name, kind, not_null, default, hidden] = fields(row)?;
    let kind = kind.unwrap_or_default();
    Some(Column {
        name: name?,
        holds: sqlite_holds(&kind),
        // SQLite would not mind, but a column that is too short was made for something else.
        chars: kind.split_once('(').and_then(|(_, n)| n.trim_end().strip_suffix(')')?.trim().parse().ok()),
        kind,
        bytes: None,
        last_char: None,
        cast: false,
        zoned: false,
        nullable: not_null? == "0",
        default: default.map(sqlite_default),
        generated: hidden? != "0",
        days: false,
    })
}

/// Times of both kinds in one column would not sort, so new ones are of the same kind as in the newest row.
async fn holds_days(conn: &mut Conn, table: &str, column: &str) -> Outcome<bool> {
    let sql = format!("SELECT typeof({}) FROM {table} ORDER BY rowid DESC LIMIT 1", Dialect::Sqlite.quote(column));
    match conn.query(&sql, 1, &[]).await {
        Ok(rows) => Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some("real")),
        Err(e) if e.class == Class::Later => Err(e),
        // A view, or a table without row numbers.
        Err(_) => Ok(false),
    }
}

/// By SQLite's own rules for the affinity of a type (<https://www.sqlite.org/datatype3.html>).
fn sqlite_holds(kind: &str) -> Holds {
    let kind = kind.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|w| kind.contains(w));
    if has(&["INT"]) {
        Holds::Numbers
    // Without a type it stores any value.
    } else if kind.trim().is_empty() || has(&["CHAR", "CLOB", "TEXT"]) {
        Holds::Text
    } else if has(&["DATE", "TIME"]) {
        Holds::Times
    } else if has(&["REAL", "FLOA", "DOUB", "NUM", "DEC"]) {
        Holds::Numbers
    } else {
        Holds::Other
    }
}

/// A default as an expression: only in a default does SQLite take a word, quoted or not, for text.
fn sqlite_default(text: String) -> String {
    let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).map(|t| t.replace("\"\"", "\""));
    let keyword = ["NULL", "TRUE", "FALSE", "CURRENT_TIME", "CURRENT_DATE", "CURRENT_TIMESTAMP"].iter().any(|k| k.eq_ignore_ascii_case(&text));
    match quoted {
        Some(word) => format!("'{}'", word.replace('\'', "''")),
        None if is_identifier(&text) && !keyword => format!("'{text}'"),
        None => format!("({text})"),
    }
}

fn mysql_column(row: Vec<Option<String>>) -> Option<Column> {
    let [name, kind, data_type, chars, bytes, charset, nullable, default, extra] = fields(row)?;
    let (name, extra) = (name?, extra.unwrap_or_default().to_ascii_uppercase());
    let default = default.map(|expression| {
        // MySQL 8 does not name a default that is an expression.
        if extra.contains("DEFAULT_GENERATED") { format!("({expression})") } else { format!("DEFAULT({})", Dialect::MySql.quote(&name)) }
    });
    Some(Column {
        kind: kind?,
        holds: match data_type?.to_ascii_lowercase().as_str() {
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => Holds::Text,
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "float" | "double" | "bit" | "year" => Holds::Numbers,
            "date" | "datetime" | "timestamp" | "time" => Holds::Times,
            _ => Holds::Other,
        },
        chars: number(chars),
        bytes: number(bytes),
        last_char: last_char(charset.as_deref()),
        cast: false,
        zoned: false,
        // An AUTO_INCREMENT column accepts NULL and uses its next number.
        nullable: nullable? == "YES" || extra.contains("AUTO_INCREMENT"),
        default,
        generated: ["VIRTUAL GENERATED", "STORED GENERATED", "PERSISTENT"].iter().any(|word| extra.contains(word)),
        days: false,
        name,
    })
}

fn postgres_column(row: Vec<Option<String>>) -> Option<Column> {
    let [name, kind, category, base, chars, not_null, default, generated, encoding] = fields(row)?;
    let category = category?;
    Some(Column {
        name: name?,
        kind: kind?,
        holds: match category.as_str() {
            "S" => Holds::Text,
            "N" => Holds::Numbers,
            "D" => Holds::Times,
            _ => Holds::Other,
        },
        chars: number(chars),
        bytes: None,
        last_char: last_char(encoding.as_deref()),
        cast: category != "S",
        zoned: base? == "timestamp with time zone",
        nullable: not_null? == "false",
        default,
        generated: generated? == "true",
        days: false,
    })
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

/// The last character of those character sets of MySQL and PostgreSQL that lack some; the others have all or are rare.
fn last_char(charset: Option<&str>) -> Option<char> {
    match charset? {
        "utf8" | "utf8mb3" | "ucs2" => Some('\u{ffff}'),
        "latin1" | "LATIN1" => Some('\u{ff}'),
        "ascii" => Some('\u{7f}'),
        _ => None,
    }
}

fn text(s: &str) -> Value {
    Value::Text(s.as_bytes().to_vec())
}

/// Type of a column that this module writes. `name` is what the record calls it. In the shape of Kamailio, texts are
/// as wide as in its own tables.
fn column_type(db: &Db, name: &str, dialect: Dialect, shape: Family) -> Cow<'static, str> {
    if let Some(i) = db.columns.core.iter().position(|c| &**c == name) {
        let width = match shape {
            Family::OpenSips => [16, 64, 64, 64, 3, 32],
            Family::Kamailio => [16, 128, 128, 255, 3, 128],
        }[i];
        // VARCHAR in PostgreSQL, whose CHAR would return padded values.
        let kind = if dialect == Dialect::Postgres || shape == Family::Kamailio { "VARCHAR" } else { "CHAR" };
        return format!("{kind}({width})").into();
    }
    if name == &*db.columns.time || name == COLUMN_CREATED {
        return match dialect {
            Dialect::Postgres => "TIMESTAMP".into(),
            // Without a number MySQL rounds to whole seconds.
            Dialect::MySql if db.digits > 0 => format!("DATETIME({})", db.digits).into(),
            _ => "DATETIME".into(),
        };
    }
    let kind = match name {
        COLUMN_SETUPTIME | COLUMN_DURATION | COLUMN_MS_DURATION => {
            if dialect == Dialect::MySql {
                "INT(11) UNSIGNED"
            } else {
                "INTEGER"
            }
        }
        _ => "VARCHAR(255)",
    };
    kind.into()
}

/// The same for the table of calls that are up.
fn call_column(db: &Db, name: &str, dialect: Dialect) -> String {
    let kind: Cow<'_, str> = match (name, dialect) {
        ("call_id", Dialect::Postgres) => "VARCHAR(32) NOT NULL PRIMARY KEY".into(),
        ("call_id", _) => "CHAR(32) NOT NULL PRIMARY KEY".into(),
        ("node" | "callid" | "from_tag" | "to_tag", _) => "VARCHAR(255) DEFAULT '' NOT NULL".into(),
        ("time" | "updated", _) => format!("{} DEFAULT NULL", column_type(db, COLUMN_CREATED, dialect, Family::OpenSips)).into(),
        (COLUMN_DURATION, _) => format!("{} DEFAULT 0 NOT NULL", column_type(db, COLUMN_DURATION, dialect, Family::OpenSips)).into(),
        _ => "VARCHAR(255) DEFAULT NULL".into(),
    };
    format!("{} {kind}", dialect.quote(name))
}

/// Is the table of calls that are up needed? Only `do_accounting()` writes to it.
fn has_calls(fields: &Fields, shape: Family) -> bool {
    shape == Family::OpenSips || !fields.extra.of(Backend::Db).is_empty()
}

/// Columns that the configuration needs in the table of calls that are up.
fn needed_of_calls(fields: &Fields) -> Vec<Arc<str>> {
    let extras = fields.extra.of(Backend::Db).iter().map(|d| &d.name).filter(|name| !CALL_COLUMNS.iter().any(|c| c.eq_ignore_ascii_case(name)));
    CALL_COLUMNS.iter().map(|c| Arc::from(*c)).chain(extras.cloned()).collect()
}

/// The statement that makes the table of calls that are up.
pub fn create_calls(db: &Db, fields: &Fields, dialect: Dialect) -> String {
    let quoted = db.table_calls.split('.').map(|p| dialect.quote(p)).collect::<Vec<_>>().join(".");
    let lines: Vec<_> = needed_of_calls(fields).iter().map(|c| call_column(db, c, dialect)).collect();
    format!("CREATE TABLE {quoted} (\n    {}\n){};", lines.join(",\n    "), if dialect == Dialect::MySql { " ENGINE=InnoDB" } else { "" })
}

/// The statement that adds missing columns to it.
pub fn alter_calls(db: &Db, table: &Table, missing: &[Arc<str>], dialect: Dialect) -> String {
    missing.iter().map(|name| format!("ALTER TABLE {} ADD COLUMN {};", table.quoted, call_column(db, name, dialect))).collect::<Vec<_>>().join(" ")
}

/// Such a column, with type and default.
fn column_definition(db: &Db, name: &str, dialect: Dialect, shape: Family) -> String {
    let kind = column_type(db, name, dialect, shape);
    let default = match name {
        _ if name == &*db.columns.time => "NOT NULL",
        _ if db.columns.core.iter().any(|c| &**c == name) => "DEFAULT '' NOT NULL",
        COLUMN_SETUPTIME | COLUMN_DURATION | COLUMN_MS_DURATION => "DEFAULT 0 NOT NULL",
        _ => "DEFAULT NULL",
    };
    format!("{} {kind} {default}", dialect.quote(name))
}

/// A column of the table of CDRs of dialogs.
fn cdr_definition(cdrs: &CdrsTable, name: &str, dialect: Dialect) -> String {
    let quoted = dialect.quote(name);
    let time = if dialect == Dialect::Postgres { "TIMESTAMP" } else { "DATETIME" };
    let number = match dialect {
        Dialect::Sqlite => "REAL",
        // FLOAT has no room for the milliseconds of a long call.
        Dialect::MySql => "DOUBLE",
        Dialect::Postgres => "DOUBLE PRECISION",
    };
    match cdrs.columns.iter().position(|c| &**c == name) {
        Some(0 | 1) => format!("{quoted} {time} DEFAULT '2000-01-01 00:00:00' NOT NULL"),
        Some(2) => format!("{quoted} {number} DEFAULT 0 NOT NULL"),
        _ => format!("{quoted} VARCHAR(255) DEFAULT NULL"),
    }
}

fn definition(db: &Db, role: Role, name: &str, dialect: Dialect, shape: Family) -> String {
    match db.cdrs.as_ref().filter(|_| role == Role::Cdrs) {
        Some(cdrs) => cdr_definition(cdrs, name, dialect),
        None => column_definition(db, name, dialect, shape),
    }
}

/// The statement that adds missing columns.
pub fn alter(db: &Db, role: Role, table: &Table, missing: &[Arc<str>], dialect: Dialect) -> String {
    let one = |name: &Arc<str>| {
        // A column that is added to rows already there needs no NOT NULL without default.
        let mut definition = definition(db, role, name, dialect, Family::OpenSips);
        if *name == db.columns.time {
            definition = definition.replace(" NOT NULL", " DEFAULT NULL");
        }
        format!("ALTER TABLE {} ADD COLUMN {definition};", table.quoted)
    };
    missing.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Columns that the configuration needs in a table, in record order. In the shape of Kamailio, those of
/// `do_accounting()` are needed only if it has fields for SQL.
pub fn needed(db: &Db, fields: &Fields, role: Role, shape: Family) -> Vec<Arc<str>> {
    let mut columns: Vec<Arc<str>> = Vec::new();
    if let Some(cdrs) = db.cdrs.as_ref().filter(|_| role == Role::Cdrs) {
        columns.extend(cdrs.columns.iter().cloned());
    } else {
        let is_missed = role == Role::Missed;
        columns.extend(db.columns.core.iter().cloned());
        columns.push(db.columns.time.clone());
        columns.extend(fields.names(Backend::Db, !is_missed).cloned());
        if shape == Family::OpenSips || !fields.extra.of(Backend::Db).is_empty() || !fields.leg.of(Backend::Db).is_empty() {
            columns.extend([COLUMN_SETUPTIME, COLUMN_CREATED].map(Arc::from));
            if !is_missed {
                columns.extend([COLUMN_DURATION, COLUMN_MS_DURATION].map(Arc::from));
            }
        }
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

/// Statements that make one of the configured tables, with its indices.
pub fn create(db: &Db, fields: &Fields, role: Role, dialect: Dialect, shape: Family) -> Vec<String> {
    let Some(name) = role.name(db) else { return Vec::new() };
    let quoted = name.split('.').map(|p| dialect.quote(p)).collect::<Vec<_>>().join(".");
    let id = match dialect {
        Dialect::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL",
        Dialect::MySql => "INT(10) UNSIGNED AUTO_INCREMENT PRIMARY KEY NOT NULL",
        Dialect::Postgres => "BIGSERIAL PRIMARY KEY NOT NULL",
    };
    let columns = needed(db, fields, role, shape);
    let mut lines = vec![format!("{} {id}", dialect.quote("id"))];
    lines.extend(columns.iter().map(|c| definition(db, role, c, dialect, shape)));
    let index = |what: &str, column: &str| {
        let mut index = dialect.quote(&format!("{}_{what}_idx", plain(name)));
        let mut indexed = quoted.clone();
        if dialect == Dialect::Sqlite {
            // In SQLite the name of the database precedes that of the index.
            indexed = dialect.quote(plain(name));
            index = name.split_once('.').map_or(index.clone(), |(space, _)| format!("{}.{index}", dialect.quote(space)));
        }
        format!("CREATE INDEX {index} ON {indexed} ({});", dialect.quote(column))
    };
    let table = format!("CREATE TABLE {quoted} (\n    {}\n){};", lines.join(",\n    "), if dialect == Dialect::MySql { " ENGINE=InnoDB" } else { "" });
    match db.cdrs.as_ref().filter(|_| role == Role::Cdrs).and_then(|c| c.columns.first()) {
        Some(start) => vec![table, index("start", start)],
        // Viewers and reports select by time.
        None => vec![table, index("callid", &db.columns.core[3]), index("time", &db.columns.time)],
    }
}

/// The statement that makes the table of cursors.
pub fn create_cursor(dialect: Dialect) -> String {
    let end = if dialect == Dialect::MySql { " ENGINE=InnoDB" } else { "" };
    format!(
        "CREATE TABLE IF NOT EXISTS {CURSOR_TABLE} (journal CHAR(16) NOT NULL, segment VARCHAR(80) NOT NULL, reached BIGINT NOT NULL, PRIMARY KEY (journal, segment)){end}"
    )
}

/// The statement that makes the table of calls that have their CDR.
pub fn create_seen(dialect: Dialect) -> String {
    let end = if dialect == Dialect::MySql { " ENGINE=InnoDB" } else { "" };
    let key = if dialect == Dialect::Sqlite { "" } else { " PRIMARY KEY" };
    // VARCHAR: PostgreSQL does not look text up in an index of CHAR.
    format!(
        "CREATE TABLE IF NOT EXISTS {SEEN_TABLE} (acc_id VARCHAR(32) NOT NULL{key}, journal VARCHAR(16) NOT NULL, cause VARCHAR(8) NOT NULL, \
         seen TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL){end}"
    )
}

/// What an SQLite file gets instead of that table's key, once several servers write to it.
pub fn index_seen() -> String {
    format!("CREATE UNIQUE INDEX {SEEN_TABLE}_id ON {SEEN_TABLE} (acc_id)")
}

/// The configured tables with their names.
pub fn tables_of(db: &Db) -> impl Iterator<Item = (Role, &Arc<str>)> {
    [Role::Acc, Role::Missed, Role::Cdrs].into_iter().filter_map(|role| Some((role, role.name(db)?)))
}

/// The host's table of versions, which its modules read before they use a table.
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
    let table = plain(table);
    format!("INSERT INTO version (table_name, table_version) VALUES ('{table}', {version});")
}

/// Statements for an empty database.
pub fn create_all(db: &Db, fields: &Fields, dialect: Dialect, shape: Family) -> Vec<String> {
    let mut statements = vec![create_version(dialect)];
    for (role, table) in tables_of(db) {
        statements.push(insert_version(table, role.version(shape)));
        statements.extend(create(db, fields, role, dialect, shape));
    }
    if has_calls(fields, shape) {
        statements.push(create_calls(db, fields, dialect));
    }
    statements.push(format!("{};", create_cursor(dialect)));
    statements.push(format!("{};", create_seen(dialect)));
    statements
}

/// Statements for missing tables and columns; empty if nothing is missing.
pub async fn missing(conn: &mut Conn, db: &Db, fields: &Fields, shape: Family) -> Outcome<Vec<String>> {
    let dialect = conn.dialect();
    let mut statements = Vec::new();
    let mut versions = None;
    for (role, name) in tables_of(db) {
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
            if !known.iter().any(|k: &String| k.trim_end() == plain(name)) {
                statements.push(insert_version(name, role.version(shape)));
            }
            statements.extend(create(db, fields, role, dialect, shape));
            continue;
        };
        let lacks: Vec<_> = needed(db, fields, role, shape).into_iter().filter(|c| table.column(c).is_none()).collect();
        if !lacks.is_empty() {
            statements.push(alter(db, role, &table, &lacks, dialect));
        }
    }
    match probe(conn, &db.table_calls).await? {
        None if has_calls(fields, shape) => statements.push(create_calls(db, fields, dialect)),
        None => {}
        Some(table) => {
            let lacks: Vec<_> = needed_of_calls(fields).into_iter().filter(|c| table.column(c).is_none()).collect();
            if !lacks.is_empty() {
                statements.push(alter_calls(db, &table, &lacks, dialect));
            }
        }
    }
    if probe(conn, CURSOR_TABLE).await?.is_none() {
        statements.push(format!("{};", create_cursor(dialect)));
    }
    if probe(conn, SEEN_TABLE).await?.is_none() {
        statements.push(format!("{};", create_seen(dialect)));
    }
    Ok(statements)
}

/// Statements for what is missing in an SQLite file: everything in a new one, otherwise the tables.
async fn missing_in_file(conn: &mut Conn, db: &Db, fields: &Fields) -> Outcome<Vec<String>> {
    if conn.query("SELECT name FROM sqlite_master LIMIT 1", 1, &[]).await?.is_empty() {
        return Ok(create_all(db, fields, Dialect::Sqlite, Family::OpenSips));
    }
    let mut statements = Vec::new();
    for (role, table) in tables_of(db) {
        if probe(conn, table).await?.is_none() {
            statements.extend(create(db, fields, role, Dialect::Sqlite, Family::OpenSips));
        }
    }
    Ok(statements)
}

/// Creates what is missing in an SQLite file.
pub async fn prepare_sqlite(conn: &mut Conn, db: &Db, fields: &Fields) -> Outcome<()> {
    if missing_in_file(conn, db, fields).await?.is_empty() {
        return Ok(());
    }
    conn.begin(None).await?;
    let made = async {
        // Another server may have been faster.
        let statements = missing_in_file(conn, db, fields).await?;
        conn.run(statements.join("\n")).await?;
        conn.commit().await
    }
    .await;
    if made.is_err() {
        conn.roll_back().await?;
    }
    made
}
