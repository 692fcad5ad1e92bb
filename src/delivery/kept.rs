//! What happens to a segment that every sink is past: it is kept for a while, in case a database is restored
//! from a backup, and is then removed.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Delivery;
use super::runner::Needed;
use crate::accounting::clock::{Moment, Wall};
use crate::backend::sql::is_foreign;
use crate::journal::calls::CARRY_RANK;
use crate::journal::limit::Limits;
use crate::journal::{Dir, Kept, Segment, SegmentName};

/// How often expired segments are looked for: `journal_keep` counts hours.
const LOOK: Duration = Duration::from_secs(60);

/// The segments in the directory `kept`.
pub struct KeptSegments {
    dir: Dir,
    /// How long they are kept.
    keep: Duration,
    /// A tool removes none: it may not know how long they must be kept.
    only_adds: bool,
    kept: Vec<Kept>,
    /// The same, for other tasks.
    segments: Arc<Vec<Segment>>,
    /// Those that the database may still need.
    pub needed: Needed,
    looked: Option<Instant>,
    /// The journal would be nearly full even without them.
    no_room: bool,
    /// It was logged that one could not be removed.
    remove_failed: bool,
    /// It was logged that removals could not be noted.
    note_failed: bool,
}

impl KeptSegments {
    /// Lists the kept segments. Reports at once if no more can be kept, not only when the first one is due.
    pub fn new(delivery: &Delivery) -> KeptSegments {
        // The progress of other databases is unknown.
        let is_used = delivery.config.db().is_some_and(|db| !is_foreign(&db.url));
        let keep = if is_used { delivery.config.journal_keep } else { Duration::ZERO };
        let only_adds = delivery.only_what_is_there.is_some();
        let kept = delivery.dir.kept().unwrap_or_else(|e| {
            log::error!("{}/kept cannot be read ({e}): the segments kept there cannot be used, and no more are added", delivery.dir.path().display());
            Vec::new()
        });
        if !keep.is_zero()
            && !only_adds
            && let Err(e) = delivery.dir.try_to_keep()
        {
            log::error!("{}", not_kept(&delivery.dir, "journal segments", &e));
        }
        KeptSegments {
            dir: delivery.dir.clone(),
            keep,
            only_adds,
            segments: Arc::new(kept.iter().map(|k| k.segment).collect()),
            kept,
            needed: Needed::default(),
            looked: None,
            no_room: false,
            remove_failed: false,
            note_failed: false,
        }
    }

    /// The segments, oldest start first.
    pub fn segments(&self) -> Arc<Vec<Segment>> {
        self.segments.clone()
    }

    /// Their size in bytes.
    pub fn bytes(&self) -> u64 {
        self.kept.iter().map(|k| k.segment.size).sum()
    }

    /// Every sink is past this segment, and its calls in progress were carried over.
    ///
    /// # Errors
    /// Why it is still there, and what to do.
    pub fn take(&mut self, name: SegmentName) -> Result<(), String> {
        let path = self.dir.path().display();
        let not_removed = |e| format!("journal segment {name} is delivered, but cannot be removed ({e}): restore the permissions of journal_dir {path}");
        // Segments of carried-over calls contain no records.
        if name.rank == CARRY_RANK {
            return self.dir.remove(name).map_err(not_removed);
        }
        let dir = self.dir.clone();
        let not_kept = |e| not_kept(&dir, &format!("journal segment {name}"), &e);
        // It was moved, but the move could not be synced.
        if self.kept.iter().any(|k| k.segment.name == name) {
            return self.dir.sync_kept().map_err(not_kept);
        }
        let keeps = !self.keep.is_zero() || (self.only_adds && !self.kept.is_empty());
        // There is no room for it: it would be the first to be removed.
        if !keeps || self.no_room {
            let now = Moment::wall_now();
            // Noted before the removal, in case the process ends in between: logging too much is better than
            // logging nothing. But on a full disk there is room for the note only afterwards.
            let noted = self.are_gone(now);
            self.dir.remove(name).map_err(not_removed)?;
            let noted = noted.or_else(|_| self.are_gone(now));
            self.say_not_noted(noted);
            return Ok(());
        }
        // Somebody else removed it.
        if self.dir.modified(name).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        let kept = self.dir.keep(name).map_err(not_kept)?;
        let at = self.kept.partition_point(|k| k.segment.name < name);
        self.kept.insert(at, kept);
        self.changed();
        self.dir.sync_kept().map_err(not_kept)
    }

    /// Removes expired segments, and the oldest ones if the journal, with `bytes` in its other segments, is
    /// nearly full. Returns whether any was removed.
    pub fn leave_room(&mut self, limits: Limits, bytes: u64, free: Option<u64>) -> bool {
        if self.only_adds {
            return false;
        }
        self.no_room = limits.excess_kept(bytes, free.map(|free| free + self.bytes())) > 0;
        if self.kept.is_empty() {
            return false;
        }
        let mut gone: Vec<Kept> = Vec::new();
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            match self.dir.kept() {
                Ok(kept) => self.kept = kept,
                Err(e) => return self.say(&e),
            }
            let now = Moment::wall_now();
            gone.extend(self.removable().filter(|k| Duration::from_micros(now.0.saturating_sub(k.passed.0).max(0).unsigned_abs()) >= self.keep));
        }
        let mut excess = limits.excess_kept(bytes + self.bytes(), free);
        excess = excess.saturating_sub(gone.iter().map(|k| k.segment.size).sum());
        let mut oldest: Vec<_> = self.removable().filter(|k| !gone.contains(k)).collect();
        oldest.sort_by_key(|k| k.passed);
        for kept in oldest {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(kept.segment.size);
            gone.push(kept);
        }
        if gone.is_empty() {
            return false;
        }
        // As in [`KeptSegments::take`].
        let until = gone.iter().map(|k| k.passed).max().unwrap_or_default();
        let noted = self.are_gone(until);
        let removed = gone.iter().try_for_each(|k| self.dir.remove_kept(k.segment.name)).and_then(|()| self.dir.sync_kept());
        let noted = noted.or_else(|_| self.are_gone(until));
        self.say_not_noted(noted);
        self.kept.retain(|k| !gone.contains(k));
        self.changed();
        match removed {
            Ok(()) => self.remove_failed = false,
            Err(e) => return self.say(&e),
        }
        true
    }

    fn removable(&self) -> impl Iterator<Item = Kept> + '_ {
        let needed = self.needed.borrow();
        self.kept.iter().filter(move |k| !needed.contains(&k.segment.name)).copied()
    }

    fn are_gone(&self, until: Wall) -> io::Result<()> {
        match self.dir.gone_until()? {
            Some(known) if known >= until => Ok(()),
            _ => self.dir.set_gone_until(until),
        }
    }

    fn changed(&mut self) {
        self.segments = Arc::new(self.kept.iter().map(|k| k.segment).collect());
    }

    /// Logs a failure once, until it works again: nothing else depends on it.
    fn say_not_noted(&mut self, noted: io::Result<()>) {
        match noted {
            Ok(()) => self.note_failed = false,
            Err(e) if !std::mem::replace(&mut self.note_failed, true) => {
                log::warn!(
                    "{}/gone cannot be written ({e}): if the database is restored from a backup, the log may not mention all missing records; check the free space and permissions of journal_dir",
                    self.dir.path().display()
                );
            }
            Err(_) => {}
        }
    }

    /// Logs a failure once, until it works again.
    fn say(&mut self, e: &io::Error) -> bool {
        if !std::mem::replace(&mut self.remove_failed, true) {
            log::error!("segments kept in {}/kept cannot be removed ({e}): restore the permissions of the directory", self.dir.path().display());
        }
        false
    }
}

/// Why `what` stays where it is, and what to do.
fn not_kept(dir: &Dir, what: &str, e: &io::Error) -> String {
    let path = dir.path().display();
    format!(
        "journal_keep: {what} cannot be moved to {path}/kept ({e}): delivered segments stay in journal_dir until then, or until their space is needed; make {path}/kept a directory of the server's user on the same file system, not a link or a mount point, or set journal_keep to 0"
    )
}
