//! Following the segments for one sink.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accounting::clock::{Moment, Wall};
use crate::journal::parking::{self, Moved};
use crate::journal::{Dir, Entry, Frame, Item, Parked, Positions, Reader, Segment, SegmentName, SinkId};
use crate::stats::{self, Counter};

/// Most bytes of payload in one batch: limits memory if every value has its greatest length.
const BATCH_BYTES: usize = 8 << 20;

/// Pause before an unreadable segment is tried again: a broken disk takes seconds for each attempt.
pub const AGAIN: Duration = Duration::from_secs(5);

/// An entry that this build cannot decode.
pub struct Unreadable {
    pub segment: SegmentName,
    pub offset: u64,
    pub wall: Wall,
    pub kind: u8,
    pub bytes: Vec<u8>,
}

/// Result of one round of reading.
#[derive(Default)]
pub struct Batch {
    pub entries: Vec<Entry>,
    pub unreadable: Vec<Unreadable>,
    /// Bytes of their payloads.
    bytes: usize,
    /// Where the cursor is once the batch is settled.
    pub positions: Positions,
    /// Segments that have nothing left once the batch is settled.
    pub ended: Vec<SegmentName>,
    /// Entries that were moved elsewhere have been skipped: the cursor has to pass them as well.
    passed: bool,
    /// The table that these entries wait for, if they are parked for one.
    pub queue: Option<Arc<str>>,
}

impl Batch {
    /// Nothing has to be settled.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.unreadable.is_empty() && !self.passed
    }

    /// Is it full: does it have `max` entries, or as many bytes as a batch may have?
    pub fn is_full(&self, max: usize) -> bool {
        self.entries.len() >= max || self.bytes >= BATCH_BYTES
    }

    /// Are these entries of the stream, which wait only for their turn?
    pub fn of_stream(&self) -> bool {
        self.entries.first().is_none_or(|e| e.parked.is_none())
    }

    /// When the oldest entry was appended.
    pub fn oldest(&self) -> Option<Wall> {
        self.entries.iter().map(|e| e.wall).chain(self.unreadable.iter().map(|u| u.wall)).min()
    }

    /// Adds the entry in a frame.
    fn add(&mut self, frame: &Frame<'_>, segment: SegmentName, entry: Result<Entry, ()>) {
        self.bytes += frame.payload.len();
        match entry {
            Ok(entry) => self.entries.push(entry),
            Err(()) => self.unreadable.push(Unreadable { segment, offset: frame.offset, wall: frame.wall, kind: frame.kind, bytes: frame.payload.to_vec() }),
        }
    }
}

/// What to do with a frame.
enum Turn {
    /// It is for another sink, or of a kind that this build does not know.
    NotOurs,
    /// It is parked for longer; nothing after it may be offered either.
    NotDue,
    /// It was moved elsewhere.
    Moved,
    /// It is a dead letter already.
    DeadLetter,
    /// It goes into the batch; `Err` if it cannot be decoded.
    Now(Result<Entry, ()>),
}

/// Why reading a segment stops.
enum Stop {
    /// The batch is full.
    Full,
    /// There is nothing more, for now.
    End,
    /// There will never be more.
    Ended,
    /// The entry at this place has to wait.
    NotDue(u64),
    /// It cannot be read.
    Unreadable(io::Error),
}

/// Reads the entries of one sink from all segments.
pub struct Tail {
    dir: Dir,
    sink: SinkId,
    /// Last settled positions in all segments that the cursor knows.
    settled: Positions,
    /// How far beyond that the batch in hand was read, and which segments were read to their end.
    read: Positions,
    read_out: HashSet<SegmentName>,
    open: BTreeMap<SegmentName, Reader>,
    ended: HashSet<SegmentName>,
    /// Segments whose rest was given up.
    given_up: HashSet<SegmentName>,
    /// The live segment to begin with, so that a busy writer does not starve the others.
    turn: usize,
    /// How far entries that accctl put back are counted as accepted.
    put_back: BTreeMap<SegmentName, u64>,
    /// Segments that could not be read, and when that was tried.
    passed_over: BTreeMap<SegmentName, Instant>,
    /// Places whose entries are dead letters already.
    dead: HashSet<(SegmentName, u64)>,
    /// Places whose entries have been moved elsewhere.
    moved: Moved,
    /// The first entry in each segment of parked entries.
    heads: BTreeMap<SegmentName, Head>,
    waits: Waits,
}

/// The first entry of a segment of parked entries.
struct Head {
    /// Its place.
    at: u64,
    parked: Parked,
}

/// When parked entries are offered again.
#[derive(Default)]
struct Waits {
    /// By table that entries wait for: when it is tried next, and the pause before that.
    tables: HashMap<Arc<str>, (Instant, Duration)>,
    /// Entries copied before this time need not wait any longer; wall clock in µs.
    now: i64,
}

impl Waits {
    /// What is left of an entry's pause at this time. An entry that waits for a table has no pause of its own.
    fn left_of(&self, parked: &Parked, wall: i64) -> Duration {
        // A clock that was set back must not make a pause longer.
        let since = parked.since.0.min(wall);
        if !parked.queue.is_empty() || since <= self.now {
            return Duration::ZERO;
        }
        parking::pause(parked.tries).saturating_sub(Duration::from_micros(wall.saturating_sub(since).unsigned_abs()))
    }
}

/// First pause of a table that accepts nothing; each further one doubles up to `delivery_retry_max`.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// Number of entries with which a failing table is tried: a refused one costs two statements.
const PROBE: usize = 8;

impl Tail {
    /// Starts at the stored positions; `segments` are the ones in the directory.
    pub fn new(dir: &Dir, sink: SinkId, settled: Positions, segments: &[Segment], moved: Moved) -> Tail {
        let mut tail = Tail {
            dir: dir.clone(),
            sink,
            settled: Positions::new(),
            read: Positions::new(),
            read_out: HashSet::new(),
            open: BTreeMap::new(),
            ended: HashSet::new(),
            given_up: HashSet::new(),
            turn: 0,
            put_back: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            dead: HashSet::new(),
            moved,
            heads: BTreeMap::new(),
            waits: Waits::default(),
        };
        tail.restart(settled, segments);
        tail
    }

    /// Counts the undelivered entries of these segments.
    pub fn count<'a>(&self, segments: impl Iterator<Item = &'a Segment>) -> u64 {
        let mut count = 0;
        for segment in segments.filter(|s| !self.is_given_up(s.name)) {
            match self.count_from(segment.name, None) {
                Ok(n) => count += n,
                Err(e) => self.dir.pass_over(segment.name, &e),
            }
        }
        count
    }

    /// Counts the entries of a segment from `position` on, or those that are not settled.
    fn count_from(&self, name: SegmentName, position: Option<u64>) -> io::Result<u64> {
        let mut count = 0;
        self.look_at(name, position, |_| {
            count += 1;
            true
        })?;
        Ok(count)
    }

    /// Gives up the rest of the segment: this sink will not read it. `in_hand` is where the batch being
    /// settled ends in it. Returns how many entries are lost after that.
    pub fn give_up(&mut self, name: SegmentName, in_hand: Option<u64>) -> io::Result<u64> {
        let count = self.count_from(name, in_hand)?;
        self.open.remove(&name);
        self.read.remove(&name);
        self.given_up.insert(name);
        // All that is left are the copies made of it.
        self.moved.borrow_mut().retain(|(segment, _)| *segment != name);
        Ok(count)
    }

    /// Was the rest of the segment given up?
    pub fn is_given_up(&self, name: SegmentName) -> bool {
        self.given_up.contains(&name)
    }

    /// Is the sink past the end of the segment?
    pub fn has_ended(&self, name: SegmentName) -> bool {
        self.ended.contains(&name)
    }

    /// When the oldest entry that is not settled was appended; entries of one segment are in the order of
    /// their times.
    pub fn oldest(&self, segments: &[Segment]) -> Option<Wall> {
        let mut oldest: Option<Wall> = None;
        for segment in segments.iter().filter(|s| s.name.parks_for().is_none() && !self.is_given_up(s.name)) {
            let looked = self.look_at(segment.name, None, |wall| {
                oldest = Some(oldest.map_or(wall, |o| o.min(wall)));
                false
            });
            if let Err(e) = looked {
                self.dir.pass_over(segment.name, &e);
            }
        }
        oldest
    }

    /// Calls `each` with the time of every entry from `position` on, or of those that are not
    /// settled, until it returns false.
    fn look_at(&self, name: SegmentName, position: Option<u64>, mut each: impl FnMut(Wall) -> bool) -> io::Result<()> {
        let position = position.or_else(|| self.settled.get(&name).copied()).unwrap_or(0);
        let mut reader = match self.dir.read_also_kept(name, position) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        loop {
            match reader.read()? {
                Item::Frame(f)
                    if f.sink_id() == Some(self.sink) && !self.dead.contains(&(name, f.offset)) && !self.moved.borrow().contains(&(name, f.offset)) =>
                {
                    let wall = match f.entry(name) {
                        None => continue,
                        Some(entry) => entry.map_or(f.wall, |e| e.wall),
                    };
                    if !each(wall) {
                        return Ok(());
                    }
                }
                Item::Frame(_) | Item::Corrupt { .. } => {}
                Item::Torn { .. } | Item::End => return Ok(()),
            }
        }
    }

    /// The next entries, at most `max`. Those of earlier starts come first.
    pub fn next_batch(&mut self, segments: &[Segment], max: usize) -> io::Result<Batch> {
        let mut batch = self.new_batch(segments);
        self.read_into(&mut batch, segments, max)?;
        Ok(batch)
    }

    /// An empty batch, for [`Tail::read_into`].
    pub fn new_batch(&mut self, segments: &[Segment]) -> Batch {
        self.forget_removed(segments);
        self.turn = self.turn.wrapping_add(1);
        Batch::default()
    }

    /// Reads more entries into the batch, until it has `max`. Returns whether it is full.
    pub fn read_into(&mut self, batch: &mut Batch, segments: &[Segment], max: usize) -> io::Result<bool> {
        let live = segments.partition_point(|s| s.name.boot < self.dir.boot());
        let (old, live) = segments.split_at(live);
        // The writers take turns; the segments of one writer are read in order, which is that of its records.
        let writer = |at: usize| (live[at].name.boot, live[at].name.rank, live[at].name.pid);
        let first: Vec<_> = (0..live.len()).filter(|at| *at == 0 || writer(*at) != writer(at - 1)).collect();
        let turn = self.turn.checked_rem(first.len()).map_or(0, |n| first[n]);
        let (before, after) = live.split_at(turn);
        for segment in old.iter().chain(after).chain(before) {
            if segment.name.parks_for().is_some() || self.is_done_with(segment.name) {
                continue;
            }
            if batch.is_full(max) {
                break;
            }
            self.read_one(segment, max, batch, None)?;
        }
        Ok(batch.is_full(max))
    }

    /// Are there segments that could not be read, and are to be tried again?
    pub fn passes_over(&self) -> bool {
        !self.passed_over.is_empty()
    }

    /// Continues reading a segment, unless it could not be read a moment ago.
    fn read_one(&mut self, segment: &Segment, max: usize, batch: &mut Batch, due: Option<i64>) -> io::Result<()> {
        if self.passed_over.get(&segment.name).is_some_and(|tried| tried.elapsed() < AGAIN) {
            return Ok(());
        }
        match self.read_segment(segment, max, batch, due)? {
            Ok(()) if self.passed_over.remove(&segment.name).is_some() => self.dir.is_read_again(segment.name),
            Ok(()) => {}
            Err(e) => {
                self.open.remove(&segment.name);
                self.passed_over.insert(segment.name, Instant::now());
                self.dir.pass_over(segment.name, &e);
            }
        }
        Ok(())
    }

    fn is_done_with(&self, name: SegmentName) -> bool {
        self.ended.contains(&name) || self.read_out.contains(&name) || self.is_given_up(name)
    }

    /// Parked entries that are to be offered now: from one segment, at most `max`. Also segments that have
    /// nothing left. The second value is when to look again, if there is nothing now.
    pub fn parked_batch(&mut self, segments: &[Segment], max: usize) -> io::Result<(Batch, Option<Instant>)> {
        let (now, wall) = (Instant::now(), Moment::wall_now().0);
        let mut next: Option<Instant> = None;
        // Of the entries that wait for one table, the oldest come first.
        let mut tables = HashSet::new();
        let sink = self.sink;
        let mut over = Vec::new();
        for segment in segments.iter().filter(|s| s.name.parks_for() == Some(sink)) {
            let name = segment.name;
            if self.is_done_with(name) {
                continue;
            }
            let at = self.settled.get(&name).copied().unwrap_or(0);
            if self.heads.get(&name).is_none_or(|h| h.at < at) {
                let mut first = Batch::default();
                self.read_one(segment, 1, &mut first, Some(i64::MAX))?;
                let Some(entry) = first.entries.first() else {
                    over.append(&mut first.ended);
                    if !first.is_empty() {
                        first.ended = over;
                        return Ok((first, None));
                    }
                    continue;
                };
                // Anything else is not a copy, but is settled like one.
                let Some(parked) = entry.parked.clone() else { return Ok((first, None)) };
                self.heads.insert(name, Head { at: entry.offset, parked });
                self.forget_read(name, &first);
            }
            let Some(Head { parked, .. }) = self.heads.get(&name) else { continue };
            // The copy does not count before the cursor has passed the place of the original.
            if self.moved.borrow().contains(&parked.from) {
                continue;
            }
            let queue = parked.queue.clone();
            let due = if queue.is_empty() {
                now + self.waits.left_of(parked, wall)
            } else if tables.insert(queue.clone()) {
                self.waits.tables.get(&queue).map_or(now, |(next, _)| *next)
            } else {
                continue;
            };
            if due > now {
                next = Some(next.map_or(due, |n| n.min(due)));
                continue;
            }
            let mut batch = Batch::default();
            let max = if self.waits.tables.contains_key(&queue) { PROBE.min(max) } else { max };
            self.read_one(segment, max, &mut batch, Some(wall))?;
            batch.queue = (!queue.is_empty()).then_some(queue);
            over.append(&mut batch.ended);
            if !batch.is_empty() {
                batch.ended = over;
                return Ok((batch, None));
            }
        }
        Ok((Batch { ended: over, ..Batch::default() }, next))
    }

    /// All parked entries are to be offered now.
    pub fn wait_no_more(&mut self) {
        self.waits = Waits { now: Moment::wall_now().0, ..Waits::default() };
    }

    /// The table accepts nothing: it is tried again after a pause of at most this length.
    pub fn wait_for_table(&mut self, table: &Arc<str>, longest: Duration) {
        let (next, pause) = self.waits.tables.entry(table.clone()).or_insert((Instant::now(), FIRST_LOOK / 2));
        *pause = (*pause * 2).min(longest);
        *next = Instant::now() + *pause;
    }

    /// It accepts rows again.
    pub fn table_works(&mut self, table: &Arc<str>) -> bool {
        self.waits.tables.remove(table).is_some()
    }

    /// Continues reading a segment; of parked entries only those that may be offered at `due` (wall clock in µs). The inner
    /// error is a read error: what was read before it counts.
    fn read_segment(&mut self, segment: &Segment, max: usize, batch: &mut Batch, due: Option<i64>) -> io::Result<io::Result<()>> {
        let name = segment.name;
        let mut reader = match self.take_reader(name) {
            Ok(reader) => reader,
            // Removed since the scan, which happens only if nothing was left in it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ok(())),
            Err(e) => return Ok(Err(e)),
        };
        // It has not grown since it was read to its end.
        if !segment.sealed && reader.position() >= segment.size {
            self.open.insert(name, reader);
            return Ok(Ok(()));
        }
        let mut taken = false;
        let stop = loop {
            if batch.is_full(max) {
                break Stop::Full;
            }
            match reader.read() {
                Ok(Item::Frame(frame)) => match self.turn_of(&frame, name, due) {
                    Turn::NotOurs => {}
                    Turn::NotDue => break Stop::NotDue(frame.offset),
                    Turn::Moved => (taken, batch.passed) = (true, true),
                    Turn::DeadLetter => taken = true,
                    Turn::Now(entry) => {
                        taken = true;
                        self.count_put_back(&frame, name);
                        batch.add(&frame, name, entry);
                    }
                },
                Ok(Item::Corrupt { offset, end }) => self.keep_damaged(&reader, name, offset, end)?,
                Ok(Item::Torn { .. } | Item::End) if !segment.sealed => break Stop::End,
                Ok(Item::Torn { offset, end }) => {
                    self.keep_torn(&reader, name, offset, end)?;
                    break Stop::Ended;
                }
                Ok(Item::End) => break Stop::Ended,
                Err(e) => break Stop::Unreadable(e),
            }
        };
        if taken {
            let position = if let Stop::NotDue(offset) = stop { offset } else { reader.position() };
            batch.positions.insert(name, position);
            self.read.insert(name, position);
        }
        match stop {
            Stop::Full | Stop::End => drop(self.open.insert(name, reader)),
            // It is read again when its time has come.
            Stop::NotDue(_) => {}
            // Thousands of segments may be waiting: their files do not stay open.
            Stop::Ended => {
                self.read_out.insert(name);
                batch.ended.push(name);
            }
            Stop::Unreadable(e) => return Ok(Err(e)),
        }
        Ok(Ok(()))
    }

    /// The reader of a segment, where it was left or at the cursor. A caller that still needs it puts it back into `open`.
    fn take_reader(&mut self, name: SegmentName) -> io::Result<Reader> {
        if let Some(reader) = self.open.remove(&name) {
            return Ok(reader);
        }
        let position = self.read.get(&name).or_else(|| self.settled.get(&name)).copied().unwrap_or(0);
        self.dir.read_also_kept(name, position)
    }

    /// What to do with a frame of the segment; `due` as for [`Tail::read_segment`].
    fn turn_of(&self, frame: &Frame<'_>, name: SegmentName, due: Option<i64>) -> Turn {
        if frame.sink_id() != Some(self.sink) {
            return Turn::NotOurs;
        }
        let Some(decoded) = frame.entry(name) else { return Turn::NotOurs };
        let moved = self.moved.borrow();
        if moved.contains(&(name, frame.offset)) {
            return Turn::Moved;
        }
        if let (Some(due), Ok(Entry { parked: Some(parked), .. })) = (due, &decoded)
            && (!self.waits.left_of(parked, due).is_zero() || moved.contains(&parked.from))
        {
            return Turn::NotDue;
        }
        if self.dead.contains(&(name, frame.offset)) { Turn::DeadLetter } else { Turn::Now(decoded) }
    }

    /// What accctl puts back while the server runs has been counted by no worker, so it is counted as accepted now, once.
    fn count_put_back(&mut self, frame: &Frame<'_>, name: SegmentName) {
        if name.boot > self.dir.boot() && self.put_back.get(&name).is_none_or(|counted| *counted < frame.end) {
            self.put_back.insert(name, frame.end);
            stats::add(self.sink.accepted(), 1);
        }
    }

    /// Copies damaged bytes to a file beside the segment, unless that was done before.
    fn keep_damaged(&self, reader: &Reader, name: SegmentName, offset: u64, end: u64) -> io::Result<()> {
        if self.dir.keep_aside(name, offset, |file| reader.copy(offset, end, file))? {
            stats::add(Counter::JournalCorrupt, 1);
            log::error!(
                "journal segment {name} is damaged from byte {offset} to {end}: these bytes are copied to a .bad file beside it, and the rest is delivered"
            );
        }
        Ok(())
    }

    /// The same for an entry that was never written completely, unless others follow it: then its length is damaged.
    fn keep_torn(&self, reader: &Reader, name: SegmentName, offset: u64, end: u64) -> io::Result<()> {
        if reader.hides_frames(offset, end)? {
            return self.keep_damaged(reader, name, offset, end);
        }
        if !reader.is_blank(offset, end)? && self.dir.keep_aside(name, offset, |file| reader.copy(offset, end, file))? {
            log::warn!(
                "journal segment {name} ends in the middle of an entry at byte {offset}: its writer was stopped there; the incomplete entry is copied to a .bad file beside it"
            );
        }
        Ok(())
    }

    /// The batch is settled: delivered or dead, and the cursor durable.
    pub fn settle(&mut self, batch: &Batch) {
        self.settled.extend(&batch.positions);
        self.ended.extend(&batch.ended);
        self.read.retain(|name, read| self.settled.get(name).is_none_or(|settled| settled < read));
        self.read_out.retain(|name| !self.ended.contains(name));
        self.forget_moved();
    }

    /// Entries that the cursor has passed are not read again.
    fn forget_moved(&self) {
        let mut moved = self.moved.borrow_mut();
        if !moved.is_empty() {
            moved.retain(|(name, offset)| !self.ended.contains(name) && self.settled.get(name).is_none_or(|settled| settled <= offset));
        }
    }

    /// The batch, of one segment, was not settled: it is read again.
    pub fn put_back(&mut self, batch: &Batch) {
        for name in batch.positions.keys().chain(&batch.ended) {
            self.forget_read(*name, batch);
        }
    }

    fn forget_read(&mut self, name: SegmentName, batch: &Batch) {
        self.open.remove(&name);
        self.read.remove(&name);
        if batch.ended.contains(&name) {
            self.read_out.remove(&name);
        }
    }

    /// Entries read after the batch in hand are read again later.
    pub fn unread(&mut self, in_hand: &Batch) {
        self.open.clear();
        self.read = in_hand.positions.clone();
        self.read_out = in_hand.ended.iter().copied().collect();
    }

    /// Starts again at these positions.
    pub fn restart(&mut self, settled: Positions, segments: &[Segment]) {
        // Segments that are gone had been read to their end by every sink.
        self.ended = settled.keys().filter(|name| segments.binary_search_by_key(*name, |s| s.name).is_err()).copied().collect();
        self.settled = settled;
        self.heads.clear();
        self.forget_moved();
        self.unread(&Batch::default());
    }

    /// Entries at these places are skipped.
    pub fn pass(&mut self, dead: HashSet<(SegmentName, u64)>) {
        self.dead = dead;
    }

    /// Dead letters that the cursor has not passed.
    pub fn dead_ahead(&self, segments: &[Segment]) -> u64 {
        let there = |name: &SegmentName| segments.binary_search_by_key(name, |s| s.name).is_ok();
        self.dead.iter().filter(|(name, offset)| there(name) && self.settled.get(name).is_none_or(|settled| settled <= offset)).count() as u64
    }

    /// Is all of the segment settled up to there?
    pub fn is_settled_to(&self, name: SegmentName, end: u64) -> bool {
        self.settled.get(&name).is_some_and(|settled| *settled >= end)
    }

    /// The settled positions.
    pub fn settled(&self) -> &Positions {
        &self.settled
    }

    /// Positions of segments that are gone, at most `max`.
    pub fn retired(&self, segments: &[Segment], max: usize) -> Vec<SegmentName> {
        let gone = |name: &&SegmentName| segments.binary_search_by_key(*name, |s| s.name).is_err() && self.ended.contains(name);
        self.settled.keys().filter(gone).copied().take(max).collect()
    }

    /// Their positions need no longer be kept.
    pub fn forget(&mut self, retired: &[SegmentName]) {
        for name in retired {
            self.settled.remove(name);
            self.ended.remove(name);
        }
    }

    fn forget_removed(&mut self, segments: &[Segment]) {
        self.given_up.retain(|name| segments.binary_search_by_key(name, |s| s.name).is_ok());
        self.passed_over.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
        self.put_back.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
        self.open.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
        self.heads.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
        let settled = &self.settled;
        self.ended.retain(|name| settled.contains_key(name) || segments.binary_search_by_key(name, |s| s.name).is_ok());
    }
}
