//! The table of calls that are up: a row for each, from its start or interim record to its CDR.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::slice;
use std::sync::Arc;

use super::conn::Dialect;
use super::failure::{Class, Outcome};
use super::value::Value;
use super::{SqlSink, Trouble, rows, schema};
use crate::accounting::record::{EndCause, Kind, Record};
use crate::backend::Fate;
use crate::journal::{Entry, Payload};

/// How many calls one statement removes.
const AT_ONCE: usize = 100;

/// Removes the call from the table.
fn ends(record: &Record) -> bool {
    match record.kind {
        Kind::Cdr => record.reported,
        Kind::Interim => record.end.is_some(),
        _ => false,
    }
}

/// Is its end unknown, so that a person decides about its CDR? Another server may have the call.
fn is_withheld(record: &Record) -> bool {
    record.kind == Kind::Interim && record.end == Some(EndCause::Orphan)
}

/// Entries whose call has a later one in the batch: a statement may name a row only once.
pub fn replaced(batch: &[Entry]) -> HashSet<usize> {
    let mut last: HashMap<u128, (usize, (bool, i64))> = HashMap::new();
    let mut replaced = HashSet::new();
    for (index, entry) in batch.iter().enumerate() {
        let Payload::Record(record) = &entry.payload else { continue };
        if !record.kind.is_report() {
            continue;
        }
        let says = (record.end.is_some(), record.duration_ms.unwrap_or(0));
        if record.end.is_some() {
            // It has no row of its own.
            replaced.insert(index);
        }
        match last.insert(record.call_key(), (index, says)) {
            Some((other, more)) if more > says => {
                replaced.insert(index);
                last.insert(record.call_key(), (other, more));
            }
            Some((other, _)) => drop(replaced.insert(other)),
            None => {}
        }
    }
    replaced
}

impl SqlSink {
    /// Removes the calls from the table whose CDRs are among these entries, in the transaction of their rows. Such a call
    /// is over whatever becomes of its CDR, unless the CDR comes again.
    pub(super) async fn remove_calls(&mut self, entries: &[Entry], fates: &[Fate]) -> Result<(), Trouble> {
        let (mut over, mut withheld) = (Vec::new(), Vec::new());
        for (entry, fate) in entries.iter().zip(fates) {
            if let (Payload::Record(record), false) = (&entry.payload, matches!(fate, Fate::Retry(_) | Fate::UnderWay))
                && ends(record)
            {
                let calls = if is_withheld(record) { &mut withheld } else { &mut over };
                calls.push(Value::Text(rows::call_id(record).into_bytes()));
            }
        }
        over.extend(self.ended_elsewhere(entries, fates).await?);
        self.remove(&over, None).await?;
        // The server that has reported such a call since then has it.
        let node = Value::Text(self.db.node.as_bytes().to_vec());
        self.remove(&withheld, Some(&node)).await
    }

    /// Removes calls from the table; with a `node`, only those that this node was the last to report.
    async fn remove(&mut self, calls: &[Value], node: Option<&Value>) -> Result<(), Trouble> {
        if calls.is_empty() {
            return Ok(());
        }
        let Some(table) = self.table_of_calls().await? else { return Ok(()) };
        for part in calls.chunks(AT_ONCE) {
            let conn = self.conn()?;
            let dialect = conn.dialect();
            let places: Vec<_> = (1..=part.len()).map(|n| dialect.text_place(n)).collect();
            let of_node = node.map_or_else(String::new, |_| format!(" AND node = {}", dialect.text_place(part.len() + 1)));
            let delete = format!("DELETE FROM {table} WHERE call_id IN ({}){of_node}", places.join(", "));
            let values = match node {
                None => Cow::Borrowed(part),
                Some(node) => [part, slice::from_ref(node)].concat().into(),
            };
            // What PostgreSQL refuses would end the transaction of the CDRs.
            let guarded = dialect == Dialect::Postgres;
            if guarded {
                conn.execute("SAVEPOINT acc_up".into(), &[]).await?;
            }
            match conn.execute(delete.into(), &values).await {
                Ok(_) => {}
                Err(e) if e.class == Class::Later => return Err(e.into()),
                Err(e) => {
                    if guarded {
                        conn.execute("ROLLBACK TO SAVEPOINT acc_up".into(), &[]).await?;
                    }
                    let remark = format!("db_url: calls that have ended stay in table {}: {}", self.db.table_calls, e.text);
                    if self.said.insert(remark.clone()) {
                        log::error!("{remark}");
                    }
                }
            }
        }
        Ok(())
    }

    /// Calls that are up according to these entries, but have their CDRs: another server has written them while these entries
    /// waited, or could not tell this server. Their rows have just been inserted, and nobody has seen them.
    async fn ended_elsewhere(&mut self, entries: &[Entry], fates: &[Fate]) -> Result<Vec<Value>, Trouble> {
        let report = |(i, (entry, fate)): (usize, (&Entry, &Fate))| match &entry.payload {
            Payload::Record(record) if record.kind.is_report() && *fate == Fate::Delivered => Some((format!("{:032x}", record.id_of_cdr()), i)),
            _ => None,
        };
        let up: Vec<_> = entries.iter().zip(fates).enumerate().filter_map(report).collect();
        let over = self.are_over(&up).await?.into_iter();
        Ok(over
            .filter_map(|i| match &entries[i].payload {
                Payload::Record(record) => Some(Value::Text(rows::call_id(record).into_bytes())),
                Payload::LogLine(_) => None,
            })
            .collect())
    }

    /// The table, quoted, if there is one that can hold a call.
    async fn table_of_calls(&mut self) -> Outcome<Option<String>> {
        let name: Arc<str> = self.db.table_calls.clone();
        if let Some(known) = self.tables.get(&name) {
            return Ok(Some(known.quoted.clone()));
        }
        let Some(found) = schema::probe(self.conn()?, &name).await?.filter(|table| table.column("call_id").is_some()) else { return Ok(None) };
        let quoted = found.quoted.clone();
        self.tables.insert(name, Arc::new(found));
        Ok(Some(quoted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::clock::Wall;
    use crate::accounting::record::{Backend, Core, EndCause, Shape, Signalling, Times};

    fn entry(n: u64, kind: Kind, callid: &str, duration_ms: i64, end: Option<EndCause>) -> Entry {
        let record = Record {
            kind,
            shape: Shape::Context,
            backend: Backend::Db,
            table: "".into(),
            core: Core { callid: callid.into(), ..Core::default() },
            time: Wall(5),
            times: Some(Times { created: Wall(1), setup_ms: 0 }),
            duration_ms: Some(duration_ms),
            end,
            signalling: Signalling::default(),
            reported: true,
            in_dialog: false,
            extras: vec![],
            legs: vec![],
            id: n.into(),
        };
        let segment = crate::journal::SegmentName { boot: 1, rank: 1, pid: 1, seq: 1 };
        Entry { segment, offset: n, end: n + 1, wall: Wall(0), payload: Payload::Record(Box::new(record)), parked: None }
    }

    #[test]
    fn a_batch_says_one_thing_about_a_call() {
        let gone = Some(EndCause::Proxy);
        let batch = [
            entry(0, Kind::Interim, "a", 60_000, None),
            entry(1, Kind::Start, "a", 0, None),
            entry(2, Kind::Start, "b", 0, None),
            entry(3, Kind::Interim, "b", 60_000, None),
            entry(4, Kind::Interim, "c", 5, gone),
            entry(5, Kind::Start, "c", 0, None),
            entry(6, Kind::Cdr, "d", 9, gone),
        ];
        let mut replaced: Vec<_> = replaced(&batch).into_iter().collect();
        replaced.sort_unstable();
        assert_eq!(replaced, [1, 2, 4, 5]);
        let over = |e: &Entry| if let Payload::Record(r) = &e.payload { ends(r) } else { false };
        assert_eq!(batch.iter().map(over).collect::<Vec<_>>(), [false, false, false, false, true, false, true]);
    }
}
