//! What becomes of a segment that every sink is past: it stays for a while, for a database that is restored
//! from a backup, and then goes.
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

/// How often those whose time is over are looked for: `journal_keep` counts hours.
const LOOK: Duration = Duration::from_secs(60);

/// The segments in the directory `kept`.
pub struct KeptSegments {
    dir: Dir,
    /// How long they stay.
    keep: Duration,
    /// A tool removes none: it may not know how long they have to be kept.
    only_adds: bool,
    kept: Vec<Kept>,
    /// The same, as others see them.
    segments: Arc<Vec<Segment>>,
    /// Those that the database may need now.
    pub needed: Needed,
    looked: Option<Instant>,
    /// That one could not be removed was logged.
    remove_failed: bool,
}

impl KeptSegments {
    /// What there is.
    pub fn new(delivery: &Delivery) -> KeptSegments {
        // The progress of other databases is unknown.
        let is_used = delivery.config.db().is_some_and(|db| !is_foreign(&db.url));
        let kept = delivery.dir.kept().unwrap_or_else(|e| {
            log::error!("{}/kept cannot be read ({e}): the segments kept there cannot be used, and no more are added", delivery.dir.path().display());
            Vec::new()
        });
        KeptSegments {
            dir: delivery.dir.clone(),
            keep: if is_used { delivery.config.journal_keep } else { Duration::ZERO },
            only_adds: delivery.only_what_is_there.is_some(),
            segments: Arc::new(kept.iter().map(|k| k.segment).collect()),
            kept,
            needed: Needed::default(),
            looked: None,
            remove_failed: false,
        }
    }

    /// The segments, oldest start first.
    pub fn segments(&self) -> Arc<Vec<Segment>> {
        self.segments.clone()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.kept.iter().map(|k| k.segment.size).sum()
    }

    /// Every sink is past this segment, and its calls in progress were carried over.
    pub fn take(&mut self, name: SegmentName) -> io::Result<()> {
        // Calls that were carried over are no records.
        if name.rank == CARRY_RANK {
            return self.dir.remove(name);
        }
        // It is there, but that could not be synced.
        if self.kept.iter().any(|k| k.segment.name == name) {
            return self.dir.sync_kept();
        }
        let keeps = !self.keep.is_zero() || (self.only_adds && !self.kept.is_empty());
        if !keeps {
            self.dir.remove(name)?;
            return self.are_gone(Moment::wall_now());
        }
        let kept = self.dir.keep(name)?;
        let at = self.kept.partition_point(|k| k.segment.name < name);
        self.kept.insert(at, kept);
        self.changed();
        self.dir.sync_kept()
    }

    /// Removes those whose time is over, and the oldest when the journal, with `bytes` in its other
    /// segments, is nearly full. Returns whether any was removed.
    pub fn leave_room(&mut self, limits: Limits, bytes: u64, free: Option<u64>) -> bool {
        if self.kept.is_empty() || self.only_adds {
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
        // If the process ends in between, logging too much is better than logging nothing.
        let until = gone.iter().map(|k| k.passed).max().unwrap_or_default();
        let removed = self.are_gone(until).and_then(|()| gone.iter().try_for_each(|k| self.dir.remove_kept(k.segment.name)));
        let removed = removed.and_then(|()| self.dir.sync_kept());
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

    /// Once, until it works again.
    fn say(&mut self, e: &io::Error) -> bool {
        if !std::mem::replace(&mut self.remove_failed, true) {
            log::error!("segments kept in {}/kept cannot be removed ({e}): restore the permissions of the directory", self.dir.path().display());
        }
        false
    }
}
