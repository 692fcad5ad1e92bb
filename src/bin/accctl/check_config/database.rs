//! Compares a configuration with the tables of a database.

use acc::accounting::extras::Family;
use acc::backend::sql::schema::Role;
use acc::backend::sql::{Access, Conn, Db, Dialect, Target, parse, schema};
use acc::params::{Draft, RawValue};

use crate::script::lexer::At;

use super::finding::{Finding, Severity};
use super::model::{Host, Model};

/// 013, 014 and 028. `at` is where the module is loaded.
pub fn compare(model: &Model, url: &str, at: At) -> Result<Vec<Finding>, String> {
    let mut draft = Draft::default();
    for line in model.lines.iter().filter(|line| crate::server_config::is_of(&line.module, "acc")) {
        if let Some(value) = &line.value {
            // What the server would refuse is not for this comparison.
            let _ = draft.set(&line.name, value.clone());
        }
    }
    draft.set("db_url", RawValue::Str(url.into())).map_err(|e| format!("--url: {e}"))?;
    let fields = draft.all_fields().map_err(|e| e.to_string())?;
    let db = Db::of(&draft).map_err(|e| e.to_string())?.ok_or("--url: the URL is empty")?;
    let target = parse(&db.url)?;
    if let Target::Sqlite(path) = &target
        && !path.exists()
    {
        return Err(format!("{} does not exist", path.display()));
    }
    let line = model.line("acc", "db_url").map_or(at, |line| line.at);
    let finding = |code, text: String, help: String| Finding { code, severity: Severity::Warning, at: line, text, help };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let mut conn = Conn::open_for(Access::Read, &target).await.map_err(|e| e.text)?;
        let found = async {
            let mut found = Vec::new();
            let dialect = conn.dialect();
            let shape = if model.host == Host::Kamailio { Family::Kamailio } else { Family::OpenSips };
            for (role, name) in schema::tables_of(&db) {
                let Some(table) = schema::probe(&mut conn, name).await? else {
                    found.push(finding(13, format!("there is no table {name}"), "accctl schema prints the SQL for it".into()));
                    continue;
                };
                let lacks: Vec<_> = schema::needed(&db, &fields, role, shape).into_iter().filter(|column| table.column(column).is_none()).collect();
                if !lacks.is_empty() {
                    let text = format!("table {name} has no column {}", lacks.join(", "));
                    found.push(finding(13, text, schema::alter(&db, role, &table, &lacks, dialect)));
                }
                let declared: Vec<_> = fields.names(acc::accounting::record::Backend::Db, role != Role::Missed).cloned().collect();
                for column in declared.iter().filter_map(|field| table.column(field)) {
                    if matches!(column.holds, schema::Holds::Numbers | schema::Holds::Times) {
                        let text = format!(
                            "the field {} goes to a column of type {}: the database refuses text that is not a number or a time, and with it the whole record",
                            column.name, column.kind
                        );
                        found.push(finding(14, text, "let the column be a VARCHAR, or let the script set nothing else".into()));
                    } else if !column.nullable && column.default.is_none() && (model.stock || column.holds != schema::Holds::Text) {
                        let text = format!("the column {} does not allow NULL and has no default: a call without the value has no record", column.name);
                        found.push(finding(14, text, format!("let the column {} be NULL", column.name)));
                    }
                }
                if let Some(engine) = &table.lasting {
                    let text = format!("table {name} has the engine {engine}, which has no transactions: after a failure rows are written twice or not at all");
                    found.push(finding(28, text, format!("ALTER TABLE {} ENGINE=InnoDB;", table.quoted)));
                }
                let time = &*db.columns.time;
                if role != Role::Cdrs && table.column(time).is_some() && !is_indexed(&mut conn, dialect, name, time).await? {
                    let text = format!("table {name} has no index over {time}: whatever shows or counts calls reads all of it");
                    let index = format!("CREATE INDEX {}_{time}_idx ON {} ({time});", name.rsplit('.').next().unwrap_or(name), table.quoted);
                    found.push(finding(28, text, index));
                }
            }
            Ok::<_, acc::backend::sql::Failure>(found)
        }
        .await;
        conn.close().await;
        found.map_err(|e| e.text)
    })
}

/// Whether an index begins with this column.
async fn is_indexed(conn: &mut Conn, dialect: Dialect, table: &str, column: &str) -> Result<bool, acc::backend::sql::Failure> {
    let quote = |text: &str| text.replace('\'', "''");
    let (schema, plain) = table.split_once('.').map_or((None, table), |(schema, plain)| (Some(schema), plain));
    let (plain, column) = (quote(plain), quote(column));
    let sql = match dialect {
        Dialect::Sqlite => format!(
            "SELECT CAST(COUNT(*) AS TEXT) FROM pragma_index_list('{plain}') AS l JOIN pragma_index_info(l.name) AS i ON i.seqno = 0 WHERE lower(i.name) = lower('{column}')"
        ),
        Dialect::MySql => {
            let schema = schema.map_or("DATABASE()".into(), |schema| format!("'{}'", quote(schema)));
            format!(
                "SELECT COUNT(*) FROM information_schema.statistics WHERE table_schema = {schema} AND table_name = '{plain}' AND column_name = '{column}' AND seq_in_index = 1"
            )
        }
        Dialect::Postgres => {
            let name = schema.map_or(plain.clone(), |schema| format!("{}.{plain}", quote(schema)));
            format!(
                "SELECT CAST(COUNT(*) AS TEXT) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] WHERE i.indrelid = to_regclass('{name}') AND lower(a.attname) = lower('{column}')"
            )
        }
    };
    Ok(conn.ask(&sql).await?.is_some_and(|count| count > 0))
}
