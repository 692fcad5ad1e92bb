//! Names of the SQL tables that exist, published by the delivery process for the workers, so that
//! a script which names a table in vain is told at once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;

use crate::acc::clock::Moment;

use super::arena::{self, KNOWN_TABLES};

/// Hashes are compared between processes of one server, which run the same code.
fn hash(name: &str) -> u64 {
    let mut h = DefaultHasher::new();
    name.to_ascii_lowercase().hash(&mut h);
    h.finish()
}

/// Seconds for which the list counts. Without rows it is not renewed, and a table made meanwhile
/// must not be refused: the record is then taken, and answered for by the delivery process.
const VALID: i64 = 30;

/// Publishes the present tables; more than the arena has room for cannot be told apart, so then
/// nothing is known.
pub fn publish(names: &[String]) {
    let Some(head) = arena::get().map(arena::Arena::head) else { return };
    if names.len() > KNOWN_TABLES {
        head.tables_len.store(0, Ordering::Release);
        return;
    }
    head.tables_len.store(0, Ordering::Release);
    for (slot, name) in head.tables.iter().zip(names) {
        slot.store(hash(name), Ordering::Relaxed);
    }
    head.tables_time.store(Moment::now().mono as u64, Ordering::Relaxed);
    head.tables_len.store(names.len() as u32 + 1, Ordering::Release);
}

/// Does the table exist, as far as is known? Yes while the database was not reached lately: the
/// record then waits in the journal. Yes, too, for a table of another schema or database.
pub fn may_exist(name: &str) -> bool {
    let Some(head) = arena::get().map(arena::Arena::head) else { return true };
    let age = Moment::now().mono - head.tables_time.load(Ordering::Relaxed) as i64;
    match head.tables_len.load(Ordering::Acquire) {
        0 => true,
        _ if age > VALID * 1_000_000 || name.contains('.') => true,
        n => {
            let name = hash(name);
            head.tables.iter().take(n as usize - 1).any(|t| t.load(Ordering::Relaxed) == name)
        }
    }
}
