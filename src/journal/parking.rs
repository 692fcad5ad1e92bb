//! Entries that wait separately from the others of their sink.
//!
//! An entry that is refused on its own, or whose table cannot accept rows, would hold up everything after
//! it. It is copied to a segment of parked entries, which is synced before the cursor passes the entry. As
//! soon as the copy can be read, it *is* the entry: readers skip the place where the entry was before. So
//! a crash at any point leaves exactly one of the two.
//!
//! All entries of such a segment wait equally long, or for the same table. So it is read in order, with a
//! position like any other segment, and an entry that is refused again goes to the end of another one.
//!
//! A frame of kind [`super::KIND_PARKED`] has the payload `kind u8 | wall i64 | boot u64 | rank i32 |
//! pid u32 | seq u32 | offset u64 | offers u32 | tries u32 | queue | reason | payload`: kind, time and
//! payload of the entry, where it was, how often it was refused, how often it was copied, the table that it
//! waits for (empty: none), and why; queue and reason are preceded by their lengths (u32).
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::{Parked, Place};
use super::segment::PARKED_RANK;
use super::{Dir, Segment, SegmentName, Writer};
use crate::accounting::clock::Wall;
use crate::journal::{Entry, JournalSync, SinkId};
use crate::stats;

/// Pause after the first refusal, long enough for an overloaded server or a locked row. Each further
/// pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How often it doubles, up to 68 min: by then somebody has to repair something, and another hour loses no record.
const DOUBLINGS: u32 = 12;
/// A segment gets no more entries after this time: only a segment without a writer can be dropped from a full journal.
const OPEN_FOR: Duration = Duration::from_secs(300);

/// Places whose entries have been moved elsewhere; shared by the writer and the reader.
pub type Moved = Rc<RefCell<HashSet<Place>>>;

/// How long an entry waits that was copied this often before. An entry that waits for a table has no pause of its own.
pub fn pause(tries: u32) -> Duration {
    FIRST_PAUSE * (1 << tries.min(DOUBLINGS))
}

/// Places in these segments whose entries were copied to a segment of `sink`. What cannot be read is skipped:
/// better that its entries are delivered twice than that all others are not delivered at all.
pub fn moved(dir: &Dir, sink: SinkId, segments: &[Segment]) -> HashSet<Place> {
    let mut places = HashSet::new();
    for segment in segments.iter().filter(|s| s.name.parks_for() == Some(sink)) {
        let read = make_last(dir, segment.name).and_then(|()| dir.read_also_kept(segment.name, 0)).and_then(|mut reader| {
            reader.each_frame(|f| {
                if f.kind == super::KIND_PARKED
                    && let Some((parked, ..)) = Parked::decode(f.payload, f.wall)
                    && let Ok(at) = segments.binary_search_by_key(&parked.from.0, |s| s.name)
                    // A power failure may have destroyed the original, and not the copy.
                    && parked.from.1 < segments[at].size
                {
                    places.insert(parked.from);
                }
            })
        });
        if let Err(e) = read
            && e.kind() != io::ErrorKind::NotFound
        {
            dir.pass_over(segment.name, &e);
        }
    }
    places
}

/// The writer of the segment may have been killed before it was synced. Then a power failure would destroy
/// the copies, whose originals are skipped from now on.
fn make_last(dir: &Dir, name: SegmentName) -> io::Result<()> {
    match dir.open_segment(name) {
        // Kept or removed in the meantime.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        file => file?.sync_data().and_then(|()| dir.sync()),
    }
}

/// Entries that share a segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Class {
    /// Those that wait this long.
    Pause(Duration),
    /// Those that wait for this table.
    Table(Arc<str>),
}

/// A segment being written.
struct Open {
    writer: Writer,
    since: Instant,
    /// Its length when it was last synced, and what was copied to it since: from where, and whether
    /// for the first time.
    synced: u64,
    behind: Vec<(Place, bool)>,
}

/// Copies the entries of one sink.
pub struct Parking {
    dir: Dir,
    sink: SinkId,
    segment_max: u64,
    seq: u32,
    open: HashMap<Class, Open>,
    moved: Moved,
}

impl Parking {
    /// For the entries of `sink`.
    pub fn new(dir: &Dir, sink: SinkId, segment_max: u64) -> Parking {
        Parking { dir: dir.clone(), sink, segment_max, seq: 0, open: HashMap::new(), moved: Moved::default() }
    }

    /// No new segment gets one of these names: the cursor may still have a segment that is gone.
    pub fn avoid<'a>(&mut self, names: impl Iterator<Item = &'a SegmentName>) {
        let mine = |n: &&SegmentName| n.parks_for() == Some(self.sink) && n.boot == self.dir.boot() && n.pid == std::process::id();
        let next = names.filter(mine).map(|n| n.seq.wrapping_add(1)).max().unwrap_or(0);
        self.seq = self.seq.max(next);
    }

    /// Places that a reader skips.
    pub fn moved(&self) -> Moved {
        self.moved.clone()
    }

    /// Was the entry copied, and is the cursor not known to have passed it?
    pub fn holds(&self, entry: &Entry) -> bool {
        self.moved.borrow().contains(&(entry.segment, entry.offset))
    }

    /// Copies an entry, refused `offers` times by now; to wait for the table `queue`, unless that is
    /// empty. It counts once it is synced.
    pub fn put(&mut self, entry: &Entry, queue: &Arc<str>, offers: u32, reason: &str) -> io::Result<()> {
        let from = (entry.segment, entry.offset);
        if self.holds(entry) {
            return Ok(());
        }
        let tries = entry.parked.as_ref().map_or(0, |p| p.tries.saturating_add(1));
        let class = if queue.is_empty() { Class::Pause(pause(tries)) } else { Class::Table(queue.clone()) };
        let parked = Parked { from, offers, tries, queue: queue.clone(), reason: reason.into(), since: Wall::default() };
        let (kind, payload) = entry.payload.encode();
        if self.open.get(&class).is_some_and(|o| o.writer.length() > self.segment_max) {
            self.sync()?;
            self.open.remove(&class);
        }
        let (dir, sink, seq) = (&self.dir, self.sink, &mut self.seq);
        let open = self.open.entry(class.clone()).or_insert_with(|| {
            // Names are unique, whatever the segment is for: a name is never used again.
            let writer = Writer::new(dir, PARKED_RANK - sink as i32, std::process::id(), JournalSync::Os, u64::MAX).syncing_at_end().beginning_at(*seq);
            *seq += 1;
            Open { writer, since: Instant::now(), synced: 0, behind: Vec::new() }
        });
        if let Err(e) = open.writer.append_parked(sink, |out| parked.encode(kind, entry.wall, &payload, out)) {
            // The segment may have been ended after the earlier entries, and synced.
            if open.writer.segment().is_none()
                && let Some(mut ended) = self.open.remove(&class)
                && let Some(e) = ended.writer.unsynced().or_else(|| self.dir.sync().err())
            {
                self.not_there(&ended);
                return Err(e);
            }
            return Err(e);
        }
        let first = entry.parked.is_none();
        open.behind.push((from, first));
        self.moved.borrow_mut().insert(from);
        if first {
            stats::add(sink.counters().parked, 1);
        }
        Ok(())
    }

    /// Makes what was copied survive a power failure: then the cursor may pass it. On `Err`, what was copied
    /// since the last call is not there.
    pub fn sync(&mut self) -> io::Result<()> {
        let mut failed = Vec::new();
        for (class, open) in self.open.iter_mut().filter(|(_, open)| !open.behind.is_empty()) {
            match open.writer.sync_from(open.synced) {
                Ok(length) => {
                    open.synced = length;
                    open.behind.clear();
                }
                Err(e) => failed.push((class.clone(), e)),
            }
        }
        let mut result = Ok(());
        for (class, e) in failed {
            // The kernel reports a failure of a file only once, so nothing more is written to this one.
            if let Some(mut open) = self.open.remove(&class) {
                open.writer.cut(open.synced);
                self.not_there(&open);
            }
            result = Err(e);
        }
        result
    }

    /// Discards what was last copied there.
    fn not_there(&self, open: &Open) {
        let mut moved = self.moved.borrow_mut();
        for (place, first) in &open.behind {
            moved.remove(place);
            if *first {
                stats::sub(self.sink.counters().parked, 1);
            }
        }
    }

    /// Closes segments that are old or have nothing left, so that they can be removed.
    pub fn close(&mut self, is_done: impl Fn(SegmentName, u64) -> bool) {
        self.open.retain(|_, open| {
            let done = open.writer.segment().is_some_and(|name| is_done(name, open.writer.length()));
            !open.behind.is_empty() || !(done || open.since.elapsed() > OPEN_FOR)
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::{Item, Payload};

    fn entry(dir: &Dir, offset: u64) -> Entry {
        let segment = SegmentName { boot: dir.boot(), rank: 1, pid: 1, seq: 0 };
        Entry { segment, offset, end: offset + 1, wall: Wall(offset as i64), payload: Payload::LogLine(vec![b'x'; 50]), parked: None }
    }

    fn all(dir: &Dir) -> Vec<Entry> {
        let mut entries = Vec::new();
        for segment in dir.segments().unwrap() {
            let mut reader = dir.read(segment.name, 0).unwrap();
            while let Item::Frame(f) = reader.read().unwrap() {
                entries.push(f.entry(segment.name).unwrap().unwrap());
            }
        }
        entries
    }

    #[test]
    fn entries_come_back_by_how_long_they_wait() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let mut parking = Parking::new(&dir, SinkId::Log, 1 << 20);
        for offset in [8, 9] {
            parking.put(&entry(&dir, offset), &"".into(), 1, "no").unwrap();
        }
        parking.put(&entry(&dir, 10), &"acc".into(), 0, "no table").unwrap();
        parking.sync().unwrap();
        // An entry that has been copied is not copied again.
        parking.put(&entry(&dir, 8), &"".into(), 1, "no").unwrap();
        let found = all(&dir);
        let told: Vec<_> =
            found.iter().map(|e| (e.segment.seq, e.wall.0, e.parked.as_ref().map(|p| (p.from.1, p.offers, &*p.queue, &*p.reason)).unwrap())).collect();
        assert_eq!(told, [(0, 8, (8, 1, "", "no")), (0, 9, (9, 1, "", "no")), (1, 10, (10, 0, "acc", "no table"))]);
        assert!(found.iter().all(|e| e.segment.parks_for() == Some(SinkId::Log) && e.payload == Payload::LogLine(vec![b'x'; 50])));
        parking.put(&found[0], &"".into(), 2, "no").unwrap();
        let again = all(&dir).pop().unwrap();
        assert_eq!(
            (again.segment.seq, again.parked.as_ref().unwrap().from, pause(again.parked.unwrap().tries)),
            (2, (found[0].segment, found[0].offset), FIRST_PAUSE * 2)
        );
        // Those that are done get no more.
        parking.sync().unwrap();
        assert!(dir.segments().unwrap().iter().all(|s| !s.sealed));
        parking.close(|name, _| name.seq == 1);
        let sealed = || dir.segments().unwrap().iter().map(|s| s.sealed).collect::<Vec<_>>();
        // A process that another test is about to start has all open files until it runs, and with them this lock.
        for _ in 0..500 {
            if sealed() == [false, true, false] {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(sealed(), [false, true, false]);
    }

    #[test]
    fn every_pause_is_bounded() {
        assert_eq!([0, 1, 12, u32::MAX].map(|n| pause(n).as_secs()), [1, 2, 4096, 4096]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Parked::decode(&bytes, Wall(0));
        }
    }
}
