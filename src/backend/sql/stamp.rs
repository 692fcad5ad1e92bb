//! What the database reports about its own state: two rows in the table of cursors, which every transaction
//! changes from their old values to new ones. An older copy of the database has lower values.
#![forbid(unsafe_code)]

use super::conn::Dialect;
use super::failure::Outcome;
use super::value::Value;
use super::{SqlSink, cursor_trouble, into_cursor, not_connected};
use crate::accounting::clock::{Moment, Wall};
use crate::backend::Trouble;
use crate::journal::Stamp;

/// In the column of segment names: the row with the time of the last transaction, in µs since 1970, and the row
/// with the number of accepted records.
const AT: &str = "committed";
const RECORDS: &str = "records";

/// The number in the row of this name.
fn number(rows: &[Vec<Option<String>>], wanted: &str) -> Option<i64> {
    let row = rows.iter().find(|row| row.first().and_then(|name| name.as_deref()).is_some_and(|name| name.trim() == wanted))?;
    row.get(1)?.as_deref()?.parse().ok()
}

impl SqlSink {
    /// Reads it from the rows of the cursor. If somebody deleted one of its two rows, that is added again.
    pub(super) async fn read_stamp(&mut self, rows: &[Vec<Option<String>>]) -> Outcome<Option<Stamp>> {
        // It must not look like an older database, or what that would lack would be written twice.
        let (at, records, missing) = match (number(rows, AT), number(rows, RECORDS)) {
            (None, None) => return Ok(None),
            (Some(at), Some(records)) => (Wall(at), records, None),
            (None, Some(records)) => {
                let now = Moment::wall_now();
                (now, records, Some((AT, now.0)))
            }
            (Some(at), None) => (Wall(at), 0, Some((RECORDS, 0))),
        };
        if let Some((name, value)) = missing {
            let values = [Value::Int(value), Value::Text(self.journal.clone().into_bytes()), Value::Text(name.into())];
            let conn = self.conn.as_mut().ok_or_else(not_connected)?;
            conn.execute(into_cursor(conn.dialect()), &values).await?;
            log::warn!(
                "db_url: table acc_delivery has no row \"{name}\" for journal {}: it is added again; this time it cannot be told whether the database was restored from a backup. Delete rows of acc_delivery only together with the journal",
                self.journal
            );
        }
        Ok(Some(Stamp { at, records: records.unsigned_abs() }))
    }

    /// Writes it, in the transaction with this many records. `Stale` if it is not what was written last: somebody
    /// has replaced the database by another one.
    pub(super) async fn put_stamp(&mut self, records: u64) -> Result<Stamp, Trouble> {
        let before = self.stamp;
        let Stamp { at, records: had } = before.unwrap_or_default();
        let stamp = Stamp { at: Moment::wall_now().max(Wall(at.0 + 1)), records: had + records };
        let journal = Value::Text(self.journal.clone().into_bytes());
        let conn = self.conn.as_mut().ok_or_else(not_connected)?;
        let number = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
        let now = [number(stamp.at.0.unsigned_abs()), number(stamp.records)];
        if before.is_some() {
            let update = match conn.dialect() {
                Dialect::Sqlite => {
                    "UPDATE acc_delivery SET reached = CASE segment WHEN 'committed' THEN ? ELSE ? END WHERE journal = CAST(? AS TEXT) \
                     AND (segment = 'committed' AND reached = ? OR segment = 'records' AND reached = ?)"
                }
                Dialect::MySql => {
                    "UPDATE acc_delivery SET reached = CASE segment WHEN 'committed' THEN ? ELSE ? END WHERE journal = ? \
                     AND (segment = 'committed' AND reached = ? OR segment = 'records' AND reached = ?)"
                }
                Dialect::Postgres => {
                    "UPDATE acc_delivery SET reached = CASE segment WHEN 'committed' THEN CAST($1 AS BIGINT) ELSE CAST($2 AS BIGINT) END WHERE journal = $3 \
                     AND (segment = 'committed' AND reached = $4 OR segment = 'records' AND reached = $5)"
                }
            };
            let [at_now, records_now] = now;
            let values = [at_now, records_now, journal, number(at.0.unsigned_abs()), number(had)];
            // Both rows, or another process has changed them.
            return if conn.execute(update.into(), &values).await.map_err(cursor_trouble)? == 2 { Ok(stamp) } else { Err(Trouble::Stale) };
        }
        let insert = into_cursor(conn.dialect());
        for (name, n) in [AT, RECORDS].into_iter().zip(now) {
            match conn.execute(insert.clone(), &[n, journal.clone(), Value::Text(name.into())]).await {
                Ok(_) => {}
                Err(e) if e.unique => return Err(Trouble::Stale),
                Err(e) => return Err(cursor_trouble(e)),
            }
        }
        Ok(stamp)
    }
}
