//! How far a database has come in a journal.
#![forbid(unsafe_code)]

use acc::backend::sql::{Conn, Value, cursor_of};
use acc::journal::{Positions, SegmentName};

/// Its own positions; empty if it has no such table.
pub async fn positions(conn: &mut Conn, journal: u64) -> Positions {
    let rows = conn.query(cursor_of(conn.dialect()), 2, &[Value::Text(format!("{journal:016x}").into_bytes())]).await.unwrap_or_default();
    let position = |row: Vec<Option<String>>| {
        let [segment, reached] = <[_; 2]>::try_from(row).ok()?;
        Some((segment?.parse::<SegmentName>().ok()?, reached?.trim().parse().ok()?))
    };
    rows.into_iter().filter_map(position).collect()
}
