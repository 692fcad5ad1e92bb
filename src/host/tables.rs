//! Names of the existing SQL tables, published by the delivery process for the workers, so that a script
//! that names a missing table is told at once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use once_cell::sync::OnceCell;

use super::arena::Arena;
use crate::accounting::clock::Moment;
use crate::interprocess::Sequence;

/// Maximum number of tables in the list.
const MOST: usize = 256;

/// For how many seconds the list is valid. Without rows it is not renewed, and a table that was created
/// meanwhile must not be refused: then the record is accepted, and the delivery process deals with it.
const VALID: i64 = 30;

/// The list, in shared memory. Zeroed memory is a list from which nothing is known.
#[repr(C)]
struct Known {
    /// Protects the rest, which is read as a unit.
    sequence: Sequence,
    /// How many of `hashes` are valid, plus 1; 0 = not known yet.
    len: AtomicU32,
    /// Monotonic time in microseconds at which they were listed.
    time: AtomicU64,
    hashes: [AtomicU64; MOST],
}

static KNOWN: OnceCell<&'static Known> = OnceCell::new();

/// Makes the list; once, before the fork. False if there is no room.
pub fn install(arena: &'static Arena) -> bool {
    // SAFETY: zeroes are the list of which nothing is known.
    KNOWN.get_or_try_init(|| unsafe { arena.shared() }.ok_or(())).is_ok()
}

/// Hashes are compared between processes of one server, which run the same code.
fn hash(name: &str) -> u64 {
    let mut h = DefaultHasher::new();
    name.to_ascii_lowercase().hash(&mut h);
    h.finish()
}

impl Known {
    /// Only the delivery process does this. If there are more tables than there is room for, nothing is
    /// known.
    fn publish(&self, names: &[String]) {
        self.sequence.write(|| {
            for (slot, name) in self.hashes.iter().zip(names) {
                slot.store(hash(name), Ordering::Relaxed);
            }
            self.time.store(Moment::now().mono as u64, Ordering::Relaxed);
            let len = if names.len() > MOST { 0 } else { names.len() as u32 + 1 };
            self.len.store(len, Ordering::Relaxed);
        });
    }

    fn may_exist(&self, name: &str) -> bool {
        let wanted = hash(name);
        let exists = self.sequence.read(|| {
            let known = (self.len.load(Ordering::Relaxed) as usize).checked_sub(1)?;
            let age = Moment::now().mono - self.time.load(Ordering::Relaxed) as i64;
            (age <= VALID * 1_000_000).then(|| self.hashes.iter().take(known).any(|h| h.load(Ordering::Relaxed) == wanted))
        });
        // While it is being published nothing is known.
        exists.flatten().unwrap_or(true)
    }
}

/// Publishes the present tables.
pub fn publish(names: &[String]) {
    if let Some(known) = KNOWN.get() {
        known.publish(names);
    }
}

/// Does the table exist, as far as is known? Yes if the database has not been reached lately, since the
/// record then waits in the journal; and yes for a table of another schema or database.
pub fn may_exist(name: &str) -> bool {
    name.contains('.') || KNOWN.get().is_none_or(|known| known.may_exist(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_exists_is_never_missed_while_the_list_changes() {
        let known = Known { sequence: Sequence::unchanged(), len: AtomicU32::new(0), time: AtomicU64::new(0), hashes: [const { AtomicU64::new(0) }; MOST] };
        assert!(known.may_exist("never_made"), "nothing is known yet");
        let (one, mut other): (Vec<_>, Vec<_>) = (0..100).map(|n| (format!("t{n}"), format!("t{}", 99 - n))).unzip();
        other.truncate(98);
        known.publish(&one);
        assert!(known.may_exist("T50") && !known.may_exist("never_made"));
        std::thread::scope(|scope| {
            let publisher = scope.spawn(|| {
                for _ in 0..2000 {
                    known.publish(&one);
                    known.publish(&other);
                }
            });
            while !publisher.is_finished() {
                assert!(known.may_exist("t2") && known.may_exist("t97"));
            }
        });
        let many: Vec<_> = (0..=MOST).map(|n| format!("t{n}")).collect();
        known.publish(&many);
        assert!(known.may_exist("never_made"));
    }
}
