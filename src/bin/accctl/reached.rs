//! How far a database is in a journal.
#![forbid(unsafe_code)]

use acc::backend::sql::{Conn, Dialect, Value};
use acc::journal::{Positions, SegmentName};

/// How far it says that it is; nothing where it has no such table.
pub async fn positions(conn: &mut Conn, journal: u64) -> Positions {
    let sql = match conn.dialect() {
        Dialect::Sqlite => "SELECT segment, CAST(reached AS TEXT) FROM acc_delivery WHERE journal = CAST(? AS TEXT)",
        Dialect::MySql => "SELECT segment, CAST(reached AS CHAR) FROM acc_delivery WHERE journal = ?",
        Dialect::Postgres => "SELECT segment, CAST(reached AS TEXT) FROM acc_delivery WHERE journal = $1",
    };
    let rows = conn.query(sql, 2, &[Value::Text(format!("{journal:016x}").into_bytes())]).await.unwrap_or_default();
    let position = |row: Vec<Option<String>>| {
        let [segment, reached] = <[_; 2]>::try_from(row).ok()?;
        Some((segment?.parse::<SegmentName>().ok()?, reached?.trim().parse().ok()?))
    };
    rows.into_iter().filter_map(position).collect()
}

/// Adds these to the positions of the cursor's file: what either is past is delivered.
pub fn merge(of_file: &mut Positions, of_database: &Positions) {
    for (segment, position) in of_database {
        let own = of_file.entry(*segment).or_insert(*position);
        *own = (*own).max(*position);
    }
}
