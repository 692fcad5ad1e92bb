//! `accctl prune`: removes what is old and no longer needed.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use acc::backend::sql::{Access, Conn, Db, parse, schema};
use chrono::{Local, Utc};

use crate::Outcome;
use crate::params::Params;
use crate::place::{Place, open_to_write};
use crate::progress::Bar;
use crate::rows::is_utc;
use crate::sql::Sql;
use crate::times::TimeColumn;

/// How many keys one statement covers, so that no lock is held for long.
const STEP: i64 = 5000;

#[derive(clap::Args)]
pub struct Prune {
    /// Remove what is older than this, in days or hours: 90d, 48h
    #[arg(long, value_name = "AGE", value_parser = age)]
    older: Duration,
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Remove no rows of the tables, even where the configuration has a database
    #[arg(long)]
    only_files: bool,
    #[command(flatten)]
    sql: Sql,
    #[command(flatten)]
    params: Params,
    #[command(flatten)]
    place: Place,
}

/// `90d`, `48h`: at least an hour, so that today's data are not removed by a slip.
fn age(text: &str) -> Result<Duration, String> {
    let wrong = || "write 90d or 48h".to_string();
    let (number, hours) = match (text.strip_suffix('d'), text.strip_suffix('h')) {
        (Some(number), _) => (number, 24),
        (_, Some(number)) => (number, 1),
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(hours * 3600).filter(|s| *s <= 100 * 366 * 86_400).ok_or_else(wrong)?;
    if seconds == 0 { Err("it must be more than 0".into()) } else { Ok(Duration::from_secs(seconds)) }
}

pub fn run(o: &Prune) -> Outcome {
    let given = o.params.read(o.sql.aliases())?;
    let mut out = String::new();
    let verb = if o.dry_run { "would remove" } else { "removed" };
    let db = given.database()?.filter(|_| !o.only_files);
    let path = match (o.place.path(&given), &db) {
        (Ok(path), _) => Some(path),
        // Rows alone.
        (Err(_), Some(_)) => None,
        (Err(e), None) => return Err(e),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    // Before anything is removed: a mistake in the call removes nothing.
    let access = if o.dry_run { Access::Read } else { Access::Change };
    let conn = match &db {
        Some(db) => Some(runtime.block_on(Conn::open_for(access, &parse(&db.url)?)).map_err(|e| e.text)?),
        None => None,
    };
    if let Some(path) = path {
        let dir = open_to_write(&path)?;
        let before = SystemTime::now().checked_sub(o.older).ok_or("--older: there was no such time")?;
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let (mut names, mut spared) = (Vec::new(), Vec::new());
        // In this order, because the server moves segments to the kept ones.
        let mut there: HashSet<_> = dir.segments().map_err(failed)?.into_iter().map(|s| s.name).collect();
        there.extend(dir.kept().map_err(failed)?.into_iter().map(|k| k.segment.name));
        for entry in std::fs::read_dir(dir.path()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Records that were put back, and bytes that were no records.
            let letters = name.starts_with("requeued-") && name.ends_with(".jsonl");
            if !letters && !name.ends_with(".bad") {
                continue;
            }
            let about = entry.metadata().map_err(failed)?;
            if !about.is_file() || about.modified().map_err(failed)? >= before {
                continue;
            }
            match if letters { dir.is_needed(&name, &there).map_err(failed)? } else { None } {
                Some(why) => spared.push(format!("{name} stays: {why}\n")),
                None => names.push(name),
            }
        }
        spared.sort();
        out.extend(spared);
        names.sort();
        for name in names {
            if !o.dry_run {
                std::fs::remove_file(dir.path().join(&name)).map_err(failed)?;
            }
            let _ = writeln!(out, "{verb} {name}");
        }
    }
    if let (Some(db), Some(conn)) = (&db, conn) {
        runtime.block_on(rows(conn, db, o, verb, &mut out))?;
    }
    if out.is_empty() {
        out = "nothing is that old\n".into();
    }
    Ok((out, ExitCode::SUCCESS))
}

async fn rows(mut conn: Conn, db: &Db, o: &Prune, verb: &str, out: &mut String) -> Result<(), String> {
    let mut done = Ok(());
    for table in [&db.table_acc, &db.table_missed] {
        if done.is_ok() {
            done = of_table(&mut conn, db, table, o, verb, out).await;
        }
    }
    conn.close().await;
    done
}

async fn of_table(conn: &mut Conn, db: &Db, name: &str, o: &Prune, verb: &str, out: &mut String) -> Result<(), String> {
    let failed = |e: acc::backend::sql::Failure| e.text;
    let Some(table) = schema::probe(conn, name).await.map_err(failed)? else { return Ok(()) };
    let dialect = conn.dialect();
    let need = |column: &str| table.column(column).map(|c| dialect.quote(&c.name)).ok_or_else(|| format!("table {name} has no column {column}"));
    let (id, time) = (need("id")?, TimeColumn::new(need(&db.columns.time)?, dialect, is_utc(db)));
    let text = |what: &str| dialect.as_text(what);
    let age = chrono::Duration::from_std(o.older).map_err(|e| e.to_string())?;
    let now = if is_utc(db) { Utc::now().naive_utc() } else { Local::now().naive_local() };
    let before = now.checked_sub_signed(age).ok_or("--older: there was no such time")?;
    let condition = time.within(None, Some(before));
    let sql =
        format!("SELECT {}, {}, {} FROM {} WHERE 1 = 1{condition}", text("COUNT(*)"), text(&format!("MIN({id})")), text(&format!("MAX({id})")), table.quoted);
    let found = conn.query(sql, 3, &[]).await.map_err(failed)?.pop().unwrap_or_default();
    let number = |i: usize| found.get(i).cloned().flatten().and_then(|n| n.parse::<i64>().ok());
    let (Some(count), Some(first), Some(last)) = (number(0), number(1), number(2)) else { return Ok(()) };
    let mut removed = count;
    if !o.dry_run {
        let bar = Bar::of(count.unsigned_abs());
        removed = 0;
        let mut from = first;
        while from <= last {
            let to = from.saturating_add(STEP - 1);
            let sql = format!("DELETE FROM {} WHERE {id} BETWEEN {from} AND {to}{condition}", table.quoted);
            removed += i64::try_from(conn.execute(sql.into(), &[]).await.map_err(failed)?).unwrap_or(0);
            bar.set(removed.unsigned_abs());
            from = to.saturating_add(1);
        }
    }
    let _ = writeln!(out, "{verb} {removed} rows of {name}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read() {
        assert_eq!(age("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(age("48h"), Ok(Duration::from_secs(48 * 3600)));
        for text in ["", "90", "d", "0d", "-1d", "1y", "99999999999999999999d", "99999999d"] {
            assert!(age(text).is_err(), "{text}");
        }
    }
}
