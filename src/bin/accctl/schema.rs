//! `accctl schema`: prints the SQL for tables and columns.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use acc::accounting::extras::Family;
use acc::backend::sql::{Access, Conn, Db, Dialect, Target, parse, schema};
use clap::builder::PossibleValuesParser;

use crate::Outcome;
use crate::params::Params;
use crate::sql::Sql;

#[derive(clap::Args)]
pub struct Schema {
    /// Also run the SQL
    #[arg(long)]
    apply: bool,
    /// Assume an empty database, without connecting to one
    #[arg(long, conflicts_with_all = ["url", "apply"], value_parser = PossibleValuesParser::new(Dialect::ALL.map(Dialect::name)))]
    dialect: Option<String>,
    /// Whose tables: those of kamailio lack the columns that only do_accounting() fills, unless it has fields for SQL
    #[arg(long = "for", value_name = "SERVER", default_value = "opensips", value_parser = PossibleValuesParser::new(["opensips", "kamailio"]))]
    server: String,
    #[command(flatten)]
    sql: Sql,
    #[command(flatten)]
    params: Params,
}

pub fn run(o: &Schema) -> Outcome {
    let text = |statements: Vec<String>| statements.iter().map(|s| format!("{s}\n")).collect::<String>();
    let mut given = o.params.read(o.sql.aliases())?;
    let shape = if o.server == "kamailio" { Family::Kamailio } else { Family::OpenSips };
    if shape == Family::Kamailio {
        given.draft.family = shape;
    }
    let fields = &given.draft.all_fields().map_err(|e| e.to_string())?;
    if let Some(dialect) = Dialect::ALL.into_iter().find(|d| Some(d.name()) == o.dialect.as_deref()) {
        let db = Db::of_tables(&given.draft).map_err(|e| e.to_string())?;
        return Ok((text(schema::create_all(&db, fields, dialect, shape)), ExitCode::SUCCESS));
    }
    let db = given.database()?.ok_or("--url is missing: give the server's db_url, or its configuration with --config FILE")?;
    let target = parse(&db.url)?;
    if let Target::Sqlite(path) = &target
        && !o.apply
        && !path.exists()
    {
        return Err(format!("{} does not exist: --apply creates it", path.display()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let access = if o.apply { Access::Create } else { Access::Read };
        let mut conn = Conn::open_for(access, &target).await.map_err(|e| e.text)?;
        let missing = schema::missing(&mut conn, &db, fields, shape).await.map(text);
        let made = match missing {
            Ok(text) if o.apply && !text.is_empty() => conn.make(&text).await.map(|()| text),
            missing => missing,
        };
        conn.close().await;
        Ok((made.map_err(|e| e.text)?, ExitCode::SUCCESS))
    })
}
