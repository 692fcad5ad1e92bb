//! One CDR for each call, whichever servers write to the database: the table `acc_seen` has the call's
//! `acc_id`, the same on every node of a cluster, and the journal that its CDR came from. It changes in
//! the transaction of the rows.
//!
//! A second CDR is dead, unless it knows more of the end than the one that is there, which it then replaces: an
//! orphan is a guess, and a lifetime may be over on a node that missed the BYE. It may be of the same journal, too: a
//! call that ended here comes back when a node that did not hear of that brings its dialog.
//!
//! In a SQLite file the ids, which are spread as hashes are, would cost as much as the rows: each changes another
//! page of their index. So there the table has no index while one journal alone writes to the file, which
//! `acc_delivery` tells, and its server is in no cluster. It gets it in the first transaction that finds that otherwise.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::conn::{Bound, Conn, Dialect};
use super::failure::{Class, Failure, Outcome};
use super::postgres::Param;
use super::schema::{SEEN_TABLE, create_seen, index_seen, lasting_engine};
use super::value::Value;
use super::{Cursor, Failed, SqlSink, rows};
use crate::accounting::record::{ACC_ID, EndCause, Kind, Record, Shape};
use crate::backend::{Fate, Trouble};
use crate::journal::{Entry, Payload};

/// So often a transaction looks what is there before it enters its calls: it is given up each time another server has
/// entered one of them meanwhile.
pub(super) const LOOKS: u32 = 5;

/// Most calls in one statement: two values each, far below what any database binds.
const CALLS: usize = 256;

/// Is the table used?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Not looked yet.
    Unknown,
    /// Yes.
    Used,
    /// Yes; without its index as long as nobody else writes.
    Unindexed,
    /// It cannot be: each server for itself.
    Unusable,
}

/// CDRs of a batch whose calls have one already, by their place in it, with the reason.
pub(super) type Elsewhere = Vec<(usize, String)>;

/// What was seen of the CDRs of a batch.
#[derive(Default)]
pub(super) struct Sight {
    /// These may not be inserted.
    pub elsewhere: Elsewhere,
    /// These take the place of others, by their place in the batch.
    pub replaced: Vec<usize>,
}

/// The CDR that a call has.
struct First {
    journal: String,
    cause: String,
}

/// What becomes of another one.
enum Second {
    /// It is inserted.
    Added,
    /// It is inserted, in the place of the first.
    Instead,
    /// It is not, for more than one reason.
    Dead(String),
    /// That has to be looked at again.
    Unknown,
}

/// How much an end says; more wins.
fn weight(cause: &str) -> u8 {
    match cause {
        _ if cause == EndCause::Orphan.cause() => 0,
        _ if cause == EndCause::Timeout.cause() => 1,
        _ => 2,
    }
}

fn cause_of(record: &Record) -> &'static str {
    record.end.unwrap_or(EndCause::Orphan).cause()
}

fn id_of(record: &Record) -> String {
    record.own_value(ACC_ID).map(|id| String::from_utf8_lossy(&id).into_owned()).unwrap_or_default()
}

fn text(s: &str) -> Value {
    Value::Text(s.as_bytes().to_vec())
}

/// Has the table of a SQLite file an index?
async fn is_indexed(conn: &mut Conn) -> Outcome<bool> {
    let list = format!("SELECT name FROM pragma_index_list('{SEEN_TABLE}') WHERE \"unique\" = 1");
    Ok(!conn.query(list, 1, &[]).await?.is_empty())
}

/// The parts of a batch, the last one first, in none of which a call has two CDRs: a second one is compared with what was
/// committed.
pub(super) fn parts(batch: &[Entry]) -> Vec<Range<usize>> {
    let (mut parts, mut start, mut seen) = (Vec::new(), 0, HashSet::new());
    for (i, entry) in batch.iter().enumerate() {
        let Payload::Record(record) = &entry.payload else { continue };
        if record.kind == Kind::Cdr && record.shape != Shape::Dialog && !seen.insert(record.id) {
            parts.push(start..i);
            (start, seen) = (i, HashSet::from([record.id]));
        }
    }
    parts.push(start..batch.len());
    parts.reverse();
    parts
}

impl SqlSink {
    /// Finds out whether the table can be used, and makes it.
    pub(super) async fn load_seen(&mut self) -> Outcome<()> {
        let conn = self.conn()?;
        let look = format!("SELECT acc_id, journal, cause FROM {SEEN_TABLE} WHERE 1 = 0");
        let mut found = conn.query(look.clone(), 3, &[]).await;
        if found.as_ref().is_err_and(|e| e.class != Class::Later) {
            found = conn.query_made(&create_seen(conn.dialect()), &look, 3, &[]).await;
        }
        let why = match found {
            Ok(_) => lasting_engine(conn, SEEN_TABLE).await?.map(|engine| format!("it has the engine {engine}, which has no transactions")),
            Err(e) if e.class == Class::Later => return Err(e),
            Err(e) => Some(e.text),
        };
        match why {
            None => {
                let indexed = conn.dialect() != Dialect::Sqlite || is_indexed(conn).await?;
                self.seen = if indexed { Seen::Used } else { Seen::Unindexed };
            }
            Some(why) => self.warn_unusable(&why),
        }
        Ok(())
    }

    fn warn_unusable(&mut self, why: &str) {
        let was_usable = self.seen != Seen::Unusable;
        if let (true, Ok(conn)) = (was_usable, self.conn()) {
            let create = create_seen(conn.dialect());
            log::warn!(
                "db_url: table {SEEN_TABLE} cannot be used ({why}): a call accounted by two nodes of a cluster gets two CDRs; grant access to it or repair it, using: {create};"
            );
        }
        self.seen = Seen::Unusable;
    }

    /// What a failure of a statement with the table means. A table that is gone is looked for again with
    /// the cursor; one that takes no rows is given up, and the batch tried without it.
    fn trouble(&mut self, f: Failure) -> Trouble {
        match f.class {
            Class::Schema => return Trouble::Stale,
            Class::Changed | Class::Permanent | Class::Denied | Class::Partition | Class::Refused => self.warn_unusable(&f.text),
            Class::Later => {}
        }
        f.into()
    }

    /// Enters the calls of the CDRs that are to be inserted. In the transaction of their rows, which is to be given up
    /// for what may not be inserted, and if some have a CDR already ([`Failed::Known`]). For that it `looks` before it
    /// enters: afterwards what this transaction has entered could not be told from what was there.
    pub(super) async fn see(&mut self, batch: &[Entry], fates: &[Fate], looks: u32) -> Result<Sight, Failed> {
        let mut sight = Sight::default();
        let Some(unique) = self.is_unique().await? else { return Ok(sight) };
        let cdr = |(i, (entry, fate)): (usize, (&Entry, &Fate))| match &entry.payload {
            Payload::Record(record) if record.kind == Kind::Cdr && *fate == Fate::Delivered => Some((id_of(record), i)),
            _ => None,
        };
        let mut calls: Vec<(String, usize)> = batch.iter().zip(fates).enumerate().filter_map(cdr).collect();
        // In one order on every server, so that none waits for another that waits for it.
        calls.sort();
        for part in calls.chunks(CALLS) {
            let mut new = if looks > 0 { self.judge_known(part, batch, &mut sight).await? } else { part.to_vec() };
            new.dedup_by(|a, b| a.0 == b.0);
            if new.is_empty() {
                continue;
            }
            let entered = self.enter(&new, batch).await.map_err(|e| self.trouble(e))?;
            if unique && entered != new.len() as u64 && looks < LOOKS {
                return Err(Failed::Known);
            }
        }
        Ok(sight)
    }

    /// Can an id be found in the table? `None`: there is no table to look into.
    async fn is_unique(&mut self) -> Result<Option<bool>, Trouble> {
        match self.seen {
            Seen::Unknown | Seen::Unusable => Ok(None),
            Seen::Used => Ok(Some(true)),
            Seen::Unindexed => {
                let indexed = self.index_for_others().await;
                indexed.map(Some).map_err(|e| self.trouble(e))
            }
        }
    }

    /// Decides about the CDRs whose calls have one; returns the others.
    async fn judge_known(&mut self, calls: &[(String, usize)], batch: &[Entry], sight: &mut Sight) -> Result<Vec<(String, usize)>, Failed> {
        let there = self.there(calls).await.map_err(|e| self.trouble(e))?;
        let mut new = Vec::new();
        for (id, i) in calls {
            let (Some(first), Payload::Record(record)) = (there.get(id), &batch[*i].payload) else {
                new.push((id.clone(), *i));
                continue;
            };
            match self.judge(id, record, first).await.map_err(|e| self.trouble(e))? {
                Second::Added => {}
                Second::Instead => sight.replaced.push(*i),
                Second::Dead(why) => sight.elsewhere.push((*i, format!("the call already has a CDR, from journal {}{why}", first.journal))),
                // Another server was faster.
                Second::Unknown => return Err(Failed::Known),
            }
        }
        Ok(new)
    }

    /// Which of these calls, by the ids of their CDRs, are over for whoever wrote to the database. An orphan is a guess: the
    /// call may go on where it was not restarted. What a journal knows itself it does not ask.
    pub(super) async fn are_over(&mut self, calls: &[(String, usize)]) -> Result<Vec<usize>, Trouble> {
        let mut over = Vec::new();
        if calls.is_empty() || self.is_unique().await? != Some(true) {
            return Ok(over);
        }
        for part in calls.chunks(CALLS) {
            let there = self.there(part).await.map_err(|e| self.trouble(e))?;
            let is_over = |id: &String| there.get(id).is_some_and(|first| first.cause != EndCause::Orphan.cause());
            over.extend(part.iter().filter(|(id, _)| is_over(id)).map(|(_, i)| *i));
        }
        Ok(over)
    }

    /// Takes the calls of CDRs out again whose rows were refused, in the same transaction: another node's may be taken.
    pub(super) async fn unsee(&mut self, entries: &[&Entry]) -> Result<(), Trouble> {
        let cdr = |entry: &&Entry| match &entry.payload {
            Payload::Record(record) if record.kind == Kind::Cdr => Some(text(&id_of(record))),
            _ => None,
        };
        let ids: Vec<Value> = entries.iter().filter_map(cdr).collect();
        if matches!(self.seen, Seen::Unknown | Seen::Unusable) {
            return Ok(());
        }
        for part in ids.chunks(CALLS) {
            let journal = self.journal.clone();
            let conn = self.conn()?;
            let places: Vec<_> = (1..=part.len()).map(|n| conn.dialect().text_place(n)).collect();
            // The journal's number has nothing to quote.
            let delete = format!("DELETE FROM {SEEN_TABLE} WHERE acc_id IN ({}) AND journal = '{journal}'", places.join(", "));
            let deleted = conn.execute(delete.into(), part).await;
            deleted.map_err(|e| self.trouble(e))?;
        }
        Ok(())
    }

    /// Makes the index if another journal writes to the database, or a call may come back; whether it is there. Nobody
    /// else writes while this transaction lasts, and should it be given up, so is the index.
    async fn index_for_others(&mut self) -> Outcome<bool> {
        let journal = text(&self.journal);
        let known = self.cursor == Cursor::Table && !self.clustered;
        let conn = self.conn()?;
        // Only what keeps its cursor in the database is found there.
        if known && conn.query("SELECT journal FROM acc_delivery WHERE journal <> CAST(? AS TEXT) LIMIT 1", 1, &[journal]).await?.is_empty() {
            return Ok(false);
        }
        if !is_indexed(conn).await? {
            conn.run(format!("DELETE FROM {SEEN_TABLE} WHERE rowid NOT IN (SELECT min(rowid) FROM {SEEN_TABLE} GROUP BY acc_id)")).await?;
            conn.run(index_seen()).await?;
        }
        Ok(true)
    }

    /// How many of the calls were not there yet.
    async fn enter(&mut self, calls: &[(String, usize)], batch: &[Entry]) -> Outcome<u64> {
        let journal = self.journal.clone();
        let conn = self.conn()?;
        let dialect = conn.dialect();
        let entered = calls.iter().filter_map(|(id, i)| match &batch[*i].payload {
            Payload::Record(record) => Some([text(id), text(cause_of(record))]),
            Payload::LogLine(_) => None,
        });
        // The journal's number has nothing to quote.
        if dialect == Dialect::Postgres {
            let (ids, causes) = entered.map(|[id, cause]| (id, cause)).unzip();
            let sql = format!(
                "INSERT INTO {SEEN_TABLE} (acc_id, journal, cause) SELECT id, '{journal}', cause FROM unnest($1::text[], $2::text[]) AS v(id, cause) ON CONFLICT DO NOTHING"
            );
            let params = [ids, causes].map(|values| Param::Column { values, numbers: false });
            return conn.execute_bound(sql.into(), Bound::Postgres(params.into())).await;
        }
        let (verb, end) = if dialect == Dialect::MySql { ("INSERT IGNORE", "") } else { ("INSERT", " ON CONFLICT DO NOTHING") };
        let row = format!("({}, '{journal}', {})", dialect.text_place(1), dialect.text_place(2));
        let values: Vec<_> = entered.flatten().collect();
        let rows = vec![row; values.len() / 2].join(", ");
        conn.execute(format!("{verb} INTO {SEEN_TABLE} (acc_id, journal, cause) VALUES {rows}{end}").into(), &values).await
    }

    /// Those that are there.
    async fn there(&mut self, calls: &[(String, usize)]) -> Outcome<HashMap<String, First>> {
        let conn = self.conn()?;
        let places: Vec<_> = (1..=calls.len()).map(|n| conn.dialect().text_place(n)).collect();
        let sql = format!("SELECT acc_id, journal, cause FROM {SEEN_TABLE} WHERE acc_id IN ({})", places.join(", "));
        let ids: Vec<_> = calls.iter().map(|(id, _)| text(id)).collect();
        let trimmed = |v: Option<String>| v.unwrap_or_default().trim_end().to_string();
        let row = |row: Vec<Option<String>>| {
            let mut values = row.into_iter().map(trimmed);
            Some((values.next()?, First { journal: values.next()?, cause: values.next()? }))
        };
        Ok(conn.query(sql, 3, &ids).await?.into_iter().filter_map(row).collect())
    }

    /// What becomes of a CDR whose call has one. The rows of that are taken out if this one is to replace them.
    async fn judge(&mut self, id: &str, record: &Record, first: &First) -> Outcome<Second> {
        let ours = first.journal == self.journal;
        if ours && record.shape == Shape::Dialog {
            // A restored dialog may be known by its beginning alone: two of them that began at once are no repetition.
            return Ok(Second::Added);
        }
        let cause = cause_of(record);
        let again = ours && cause == first.cause;
        let is_better = weight(cause) > weight(&first.cause);
        if !is_better && !again {
            return Ok(Second::Dead(String::new()));
        }
        let cursor_in_file = self.cursor != Cursor::Table;
        let name: Arc<str> = rows::table_of(record, &self.db).clone();
        let column = self.tables.get(&name).and_then(|t| Some((t.quoted.clone(), t.column(ACC_ID).filter(|c| c.takes_own(ACC_ID))?.name.clone())));
        let dialect = self.conn()?.dialect();
        let Some((table, column)) = column else {
            return Ok(match again {
                // A batch of which nobody heard whether it was taken.
                true if cursor_in_file => Second::Added,
                true => Second::Dead(String::new()),
                false => Second::Dead(format!(" ({}); it cannot be replaced, because table {name} has no column {ACC_ID}", first.cause)),
            });
        };
        let column = dialect.quote(&column);
        let rows = format!("FROM {table} WHERE {column} = {}", dialect.text_place(1));
        let conn = self.conn()?;
        if again && !cursor_in_file {
            // This journal delivers nothing twice. The rows may be gone: a table was restored without the others.
            let is_there = !conn.query(format!("SELECT {column} {rows} LIMIT 1"), 1, &[text(id)]).await?.is_empty();
            return Ok(if is_there { Second::Dead(String::new()) } else { Second::Added });
        }
        if !again && !self.take_over(id, cause, first).await? {
            return Ok(Second::Unknown);
        }
        self.conn()?.execute(format!("DELETE {rows}").into(), &[text(id)]).await?;
        if !again {
            let who = if ours { "this server" } else { "another node of the cluster" };
            log::info!("db_url: the CDR {id} ({}) of {who} is replaced: the end was seen ({cause})", first.cause);
        }
        Ok(Second::Instead)
    }

    /// Makes the call that of this journal's CDR; false if it has changed meanwhile. Whoever else wants that waits for
    /// this transaction.
    async fn take_over(&mut self, id: &str, cause: &str, first: &First) -> Outcome<bool> {
        let journal = self.journal.clone();
        let conn = self.conn()?;
        let p = |n| conn.dialect().text_place(n);
        let update =
            format!("UPDATE {SEEN_TABLE} SET journal = {}, cause = {} WHERE acc_id = {} AND journal = {} AND cause = {}", p(1), p(2), p(3), p(4), p(5));
        let values = [&journal, cause, id, &first.journal, &first.cause].map(text);
        Ok(conn.execute(update.into(), &values).await? == 1)
    }
}
