//! The rows of a transaction, and which of them the database refuses while it takes the others.
//!
//! A refused row fails its statement. To repeat the rows in ever smaller parts until it is alone costs more than
//! all the others. So the database is asked how far it came: MySQL by a variable that the statement sets from
//! row to row, PostgreSQL by its count of the rows that this transaction has inserted, which no savepoint takes
//! back. The statement is then tried without that row; when it goes in, that row was the one. Where the answer does
//! not help (a trigger behind the statement, a partitioned table), and in SQLite, the rows are halved.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::conn::{Bound, Conn, Dialect};
use super::failure::{Class, Failure, Outcome};
use super::rows::Group;
use super::value::Value;
use super::{Db, Failed, SEARCH, SqlSink};
use crate::journal::Entry;

/// Records that are tried without some of them, before they are halved.
const SUSPECTS: usize = 4;
/// Goes back to before the rows that were tried.
const BACK: &str = "ROLLBACK TO SAVEPOINT acc_rows";
/// Begins to try rows. For [`MYSQL_ROW`] there has to be one from the beginning of the transaction.
pub(super) const SAVEPOINT: &str = "SAVEPOINT acc_rows";
/// The row that MySQL was at; fails where the transaction is not there any more.
const MYSQL_ROW: &str = "RELEASE SAVEPOINT acc_rows; SAVEPOINT acc_rows; SELECT CAST(@acc_row AS CHAR)";
/// The same, when statements before the failed one are to be undone.
const MYSQL_BACK_AND_ROW: &str = "ROLLBACK TO SAVEPOINT acc_rows; SELECT CAST(@acc_row AS CHAR)";
/// Rows that PostgreSQL has inserted into a table in this transaction, whatever became of them.
const POSTGRES_ROWS: &str = "SELECT CAST(pg_stat_get_xact_tuples_inserted(CAST(CAST($1 AS text) AS regclass)) AS text)";

/// Records tried together where some are expected to be refused: half of them are in vain then, and each statement costs
/// as much as some rows (MariaDB: 70 µs, and 15 µs for a row that goes in and is taken back). With one refused in a hundred
/// a third more or less makes no difference.
const fn at_once(dialect: Dialect) -> usize {
    match dialect {
        Dialect::Sqlite => 64,
        // Each takes a savepoint, too.
        Dialect::Postgres => 48,
        Dialect::MySql => 24,
    }
}

/// An INSERT for the table of a group.
struct Statement {
    group: usize,
    rows: Vec<usize>,
    sql: Arc<str>,
    bound: Outcome<Bound>,
}

/// The statements that insert the rows of some entries without those of `skip`, each made when it is asked for.
fn statements<'a>(
    groups: &'a [Group],
    batch: &'a [Entry],
    entries: &Range<usize>,
    skip: &[usize],
    numbered: bool,
    db: Arc<Db>,
) -> impl Iterator<Item = Statement> + use<'a> {
    let mut left: Vec<_> = groups.iter().enumerate().map(|(at, group)| (at, group.rows_but(entries, skip))).rev().collect();
    std::iter::from_fn(move || {
        while left.last().is_some_and(|(_, rows)| rows.is_empty()) {
            left.pop();
        }
        let (at, rows) = left.last_mut()?;
        let group = &groups[*at];
        let made = group.portion(batch, rows, &db);
        if made.is_empty() {
            return None;
        }
        let behind = rows.split_off(made.len());
        let rows = std::mem::replace(rows, behind);
        Some(Statement { group: *at, sql: group.insert(rows.len(), numbered), bound: group.bound(made), rows })
    })
}

/// A statement that failed.
struct NotInserted {
    group: usize,
    rows: Vec<usize>,
    failure: Failure,
    /// What it left is undone by going back to the savepoint.
    behind_savepoint: bool,
}

impl From<NotInserted> for Failed {
    fn from(n: NotInserted) -> Failed {
        Failed::Insert(n.group, n.failure)
    }
}

/// How refused rows are looked for.
pub(super) struct Search {
    /// Also for codes of the database's own trouble.
    pub stubborn: bool,
    /// The tables were looked at in this batch: a column that does not fit now is the trouble of a row, or of its trigger.
    pub looked_again: bool,
    /// Records tried together.
    pub at_once: usize,
    /// Rows that PostgreSQL has inserted, by table.
    inserted: HashMap<String, i64>,
    /// The savepoint stands before what is tried next.
    saved: bool,
}

impl Search {
    /// Some records at once, or each alone.
    pub fn new(dialect: Dialect, alone: bool, stubborn: bool, looked_again: bool) -> Search {
        Search { stubborn, looked_again, at_once: if alone { 1 } else { at_once(dialect) }, inserted: HashMap::new(), saved: false }
    }
}

fn lost(failure: Failure) -> Failed {
    Failed::Insert(0, failure)
}

impl SqlSink {
    /// Inserts the rows of some entries: the first refused row fails the whole. While the database works
    /// on one statement, the next is made.
    pub(super) async fn insert(&mut self, groups: &[Group], batch: &[Entry], entries: &Range<usize>) -> Result<(), Failed> {
        let mut statements = statements(groups, batch, entries, &[], false, self.db.clone());
        let conn = self.conn().map_err(lost)?;
        let mut next = statements.next();
        while let Some(Statement { group, sql, bound, .. }) = next {
            let failed = |f| Failed::Insert(group, f);
            let following = async {
                // What talks to the server takes its turn first.
                tokio::task::yield_now().await;
                statements.next()
            };
            let (inserted, following) = tokio::join!(biased; conn.execute_bound(sql, bound.map_err(failed)?), following);
            inserted.map_err(failed)?;
            next = following;
        }
        Ok(())
    }

    /// The statements of some entries without those of `skip`, numbered where the database tells by that how far it came.
    fn part<'a>(&self, groups: &'a [Group], batch: &'a [Entry], entries: &Range<usize>, skip: &[usize]) -> Peekable<impl Iterator<Item = Statement> + use<'a>> {
        statements(groups, batch, entries, skip, entries.len() > 1 && self.tells_rows, self.db.clone()).peekable()
    }

    /// Runs the statements of a part, behind a savepoint where one is needed. While the database works on one, the
    /// following one is made, which may be the first of `next`.
    /// Fails as a whole when there is no savepoint to go back to: the one before would take rows that are in.
    async fn insert_part<I: Iterator<Item = Statement>>(
        &mut self,
        groups: &[Group],
        mut part: Peekable<I>,
        search: &mut Search,
        mut next: Option<&mut Peekable<I>>,
    ) -> Outcome<Result<(), NotInserted>> {
        let conn = self.conn()?;
        let mut following = part.next();
        // MySQL undoes a statement that failed; a deadlock costs all.
        let behind_savepoint = conn.dialect() != Dialect::MySql || search.stubborn || part.peek().is_some();
        let saved = std::mem::take(&mut search.saved);
        let mut begins = behind_savepoint && !saved;
        while let Some(Statement { group, rows, sql, bound }) = following {
            let execution = async {
                match bound {
                    Ok(bound) if behind_savepoint => conn.execute_behind(begins.then_some(SAVEPOINT), sql, bound).await,
                    Ok(bound) => Ok(conn.execute_bound(sql, bound).await),
                    Err(failure) if begins => conn.run(SAVEPOINT).await.map(|()| Err(failure)),
                    Err(failure) => Ok(Err(failure)),
                }
            };
            let making = async {
                // What talks to the server takes its turn first.
                tokio::task::yield_now().await;
                let following = part.next();
                if let (None, Some(next)) = (&following, &mut next) {
                    next.peek();
                }
                following
            };
            let (executed, made) = tokio::join!(biased; execution, making);
            if let Err(failure) = executed? {
                return Ok(Err(NotInserted { group, rows, failure, behind_savepoint }));
            }
            if let Some(inserted) = search.inserted.get_mut(groups[group].quoted()) {
                *inserted += rows.len() as i64;
            }
            (following, begins) = (made, false);
        }
        Ok(Ok(()))
    }

    /// [`SqlSink::try_part`] of these entries without those of `skip`.
    async fn try_insert(
        &mut self,
        groups: &[Group],
        batch: &[Entry],
        entries: &Range<usize>,
        skip: &[usize],
        search: &mut Search,
    ) -> Result<Option<(Failure, Option<usize>)>, Failed> {
        let part = self.part(groups, batch, entries, skip);
        self.try_part(groups, entries, part, search, None).await
    }

    /// [`SqlSink::insert_part`] of what it can; undoes a failure, unless that is no row's own. The entry that the
    /// database was at comes with it, if it tells.
    async fn try_part<I: Iterator<Item = Statement>>(
        &mut self,
        groups: &[Group],
        entries: &Range<usize>,
        part: Peekable<I>,
        search: &mut Search,
        next: Option<&mut Peekable<I>>,
    ) -> Result<Option<(Failure, Option<usize>)>, Failed> {
        let inserted = self.insert_part(groups, part, search, next).await;
        let Err(mut not) = inserted.map_err(|f| lost(Failure { class: Class::Later, ..f }))? else { return Ok(None) };
        if search.looked_again && not.failure.class == Class::Changed {
            not.failure.class = Class::Refused;
        }
        if not.failure.class == Class::Later && !search.stubborn || not.failure.class.is_of_table() {
            return Err(not.into());
        }
        let asked = self.tells_rows && entries.len() > 1;
        let conn = self.conn().map_err(lost)?;
        let at = match conn {
            Conn::Postgres(session) if asked && search.inserted.contains_key(groups[not.group].quoted()) => {
                let table = groups[not.group].quoted();
                session.back_and_ask(BACK, POSTGRES_ROWS, &[Value::Text(table.into())]).await.map(|now| {
                    let before = now.and_then(|now| search.inserted.insert(table.to_owned(), now));
                    // What an index refuses was in the table already.
                    now.zip(before).map(|(now, before)| now - before - i64::from(not.failure.unique))
                })
            }
            Conn::MySql(_) if !not.behind_savepoint => conn.ask(MYSQL_ROW).await,
            Conn::MySql(_) if asked => conn.ask(MYSQL_BACK_AND_ROW).await,
            _ => conn.run(BACK).await.map(|()| None),
        };
        match at {
            Ok(at) => {
                search.saved = true;
                let row = at.filter(|_| asked).and_then(|at| not.rows.get(usize::try_from(at).ok()?));
                let entry = row.and_then(|row| groups[not.group].entry_of(*row));
                Ok(Some((not.failure, entry)))
            }
            Err(_) if not.failure.class == Class::Later => {
                // A row may end the connection, by its length for one. The others get transactions of their own.
                if (search.stubborn || search.at_once == 1) && !self.roll_back().await && self.connect().await.is_ok() {
                    return Err(Failed::Commit(Failure { class: Class::Refused, ..not.failure }));
                }
                // What a deadlock costs is all of it.
                Err(lost(not.failure))
            }
            // A trigger has ended the whole transaction: as if it were refused at its end.
            Err(_) => Err(Failed::Commit(not.failure)),
        }
    }

    /// Prepares to be told where a statement fails.
    async fn begin_search(&mut self, groups: &[Group], search: &mut Search) -> Result<(), Failed> {
        let tells = self.tells_rows && search.at_once > 1;
        let conn = self.conn().map_err(lost)?;
        match conn {
            Conn::Sqlite(..) | Conn::MySql(_) => {}
            Conn::Postgres(session) if tells => {
                for table in groups.iter().map(Group::quoted) {
                    match session.query(POSTGRES_ROWS, 1, &[Value::Text(table.into())]).await {
                        Ok(found) => {
                            let count = found.into_iter().next().and_then(|mut row| row.pop().flatten()?.parse().ok());
                            search.inserted.extend(count.map(|n| (table.to_owned(), n)));
                        }
                        Err(e) => {
                            // Another database that speaks PostgreSQL's protocol.
                            self.tells_rows = false;
                            return Err(lost(Failure { class: Class::Later, ..e }));
                        }
                    }
                }
            }
            Conn::Postgres(_) => {}
        }
        Ok(())
    }

    /// Inserts the rows of the entries that are taken, and finds the others: which, and why not.
    pub(super) async fn insert_each(
        &mut self,
        groups: &[Group],
        batch: &[Entry],
        entries: &Range<usize>,
        search: &mut Search,
    ) -> Result<Vec<(usize, Failure)>, Failed> {
        self.begin_search(groups, search).await?;
        let mut refused = Vec::new();
        let end = Instant::now() + SEARCH;
        let at_once = search.at_once;
        let parts = entries.clone().step_by(at_once).map(|start| start..(start + at_once).min(entries.end));
        let mut parts = parts.filter(|part| groups.iter().any(|g| !g.rows_of(part).is_empty())).peekable();
        let mut ahead = None;
        while let Some(part) = parts.next() {
            if end < Instant::now() {
                return Err(Failed::Slow(refused, part.start));
            }
            let statements = ahead.take().unwrap_or_else(|| self.part(groups, batch, &part, &[]));
            ahead = parts.peek().map(|next| self.part(groups, batch, next, &[]));
            let mut tried = self.try_part(groups, &part, statements, search, ahead.as_mut()).await?;
            let mut suspects: Vec<(usize, Failure)> = Vec::new();
            let found = loop {
                match tried {
                    None => break true,
                    Some((failure, _)) if part.len() == 1 => {
                        suspects.push((part.start, failure));
                        break true;
                    }
                    Some((failure, Some(entry))) if suspects.len() < SUSPECTS && suspects.iter().all(|(known, _)| *known != entry) => {
                        suspects.push((entry, failure));
                    }
                    Some(_) => break false,
                }
                let skip: Vec<_> = suspects.iter().map(|(entry, _)| *entry).collect();
                tried = self.try_insert(groups, batch, &part, &skip, search).await?;
            };
            match suspects.len() {
                _ if !found => self.halve(groups, batch, part, search, end, &mut refused).await?,
                0 => {}
                // The others went in as soon as it was left out; of what may end by itself that is no proof.
                1 if suspects[0].1.class != Class::Later => refused.append(&mut suspects),
                // One of them may be there by mistake.
                _ => {
                    suspects.sort_by_key(|(entry, _)| *entry);
                    for (entry, _) in suspects {
                        if let Some((failure, _)) = self.try_insert(groups, batch, &(entry..entry + 1), &[], search).await? {
                            refused.push((entry, failure));
                        }
                    }
                }
            }
        }
        Ok(refused)
    }

    /// Finds the refused ones of a part that was tried as a whole, by trying its halves.
    async fn halve(
        &mut self,
        groups: &[Group],
        batch: &[Entry],
        part: Range<usize>,
        search: &mut Search,
        end: Instant,
        refused: &mut Vec<(usize, Failure)>,
    ) -> Result<(), Failed> {
        // What is known to hold a refused one is not tried as a whole.
        let mut todo = vec![(part, true)];
        while let Some((part, known)) = todo.pop() {
            if groups.iter().all(|g| g.rows_of(&part).is_empty()) {
                continue;
            }
            if end < Instant::now() {
                return Err(Failed::Slow(std::mem::take(refused), part.start));
            }
            if !known || part.len() == 1 {
                match self.try_insert(groups, batch, &part, &[], search).await? {
                    None => continue,
                    Some((failure, _)) if part.len() == 1 => {
                        refused.push((part.start, failure));
                        continue;
                    }
                    Some(_) => {}
                }
            }
            let middle = part.start + part.len() / 2;
            let (first, second) = (part.start..middle, middle..part.end);
            match self.try_insert(groups, batch, &first, &[], search).await? {
                None => todo.push((second, true)),
                Some((failure, _)) => {
                    todo.push((second, false));
                    if first.len() == 1 {
                        refused.push((first.start, failure));
                    } else {
                        todo.push((first, true));
                    }
                }
            }
        }
        Ok(())
    }
}
