//! Following the segments for one sink.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};
use std::io;

use crate::acc::record::Wall;
use crate::backend::{Entry, Positions, SinkId};
use crate::journal::{Dir, Item, Reader, Segment, SegmentName};
use crate::stats::{self, Counter};

/// Most bytes of payload in one batch: bounds memory when every value has its greatest length.
const BATCH_BYTES: usize = 8 << 20;

/// An entry that this build cannot decode.
pub struct Unreadable {
    pub segment: SegmentName,
    pub offset: u64,
    pub wall: Wall,
    pub kind: u8,
    pub bytes: Vec<u8>,
}

/// What one round of reading yields.
#[derive(Default)]
pub struct Batch {
    pub entries: Vec<Entry>,
    pub unreadable: Vec<Unreadable>,
    /// Bytes of their payloads.
    bytes: usize,
    /// Where the cursor is once the batch is settled.
    pub positions: Positions,
    /// Segments of which nothing is left once the batch is settled.
    pub ended: Vec<SegmentName>,
}

impl Batch {
    /// Nothing has to be settled.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.unreadable.is_empty()
    }

    /// It holds as much as it may, of `max` entries at most.
    pub fn is_full(&self, max: usize) -> bool {
        self.entries.len() >= max || self.bytes >= BATCH_BYTES
    }

    /// When the oldest entry was appended.
    pub fn oldest(&self) -> Option<Wall> {
        self.entries.iter().map(|e| e.wall).chain(self.unreadable.iter().map(|u| u.wall)).min()
    }
}

/// Reads the entries of one sink from all segments.
pub struct Tail {
    dir: Dir,
    sink: SinkId,
    /// Last settled positions, of all segments that the cursor knows.
    settled: Positions,
    /// How far it was read beyond that, and segments read to their end: what is in hand.
    read: Positions,
    read_out: HashSet<SegmentName>,
    open: BTreeMap<SegmentName, Reader>,
    ended: HashSet<SegmentName>,
    /// Segments of which the rest was given up.
    given_up: HashSet<SegmentName>,
    /// Live segment to begin with, so that a busy writer does not starve the others.
    turn: usize,
    /// How far entries that accctl put back are counted as accepted.
    put_back: BTreeMap<SegmentName, u64>,
}

impl Tail {
    /// Begins at the stored positions; `segments` is what is in the directory.
    pub fn new(dir: &Dir, sink: SinkId, settled: Positions, segments: &[Segment]) -> Tail {
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
        };
        tail.restart(settled, segments);
        tail
    }

    /// Counts what is still to be delivered of these segments.
    pub fn count<'a>(&self, segments: impl Iterator<Item = &'a Segment>) -> io::Result<u64> {
        let mut count = 0;
        for segment in segments.filter(|s| !self.is_given_up(s.name)) {
            count += self.count_from(segment.name, None)?;
        }
        Ok(count)
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

    /// The rest of the segment must go: this sink will not read it. `in_hand` is where the batch
    /// being settled ends in it. Returns how many entries that costs behind it.
    pub fn give_up(&mut self, name: SegmentName, in_hand: Option<u64>) -> io::Result<u64> {
        let count = self.count_from(name, in_hand)?;
        self.open.remove(&name);
        self.read.remove(&name);
        self.given_up.insert(name);
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

    /// When the oldest entry that is not settled was appended; entries of one segment stand in
    /// their order.
    pub fn oldest(&self, segments: &[Segment]) -> io::Result<Option<Wall>> {
        let mut oldest: Option<Wall> = None;
        for segment in segments.iter().filter(|s| !self.is_given_up(s.name)) {
            self.look_at(segment.name, None, |wall| {
                oldest = Some(oldest.map_or(wall, |o| o.min(wall)));
                false
            })?;
        }
        Ok(oldest)
    }

    /// Calls `each` with the time of every entry from `position` on, or of those that are not
    /// settled, until it returns false.
    fn look_at(&self, name: SegmentName, position: Option<u64>, mut each: impl FnMut(Wall) -> bool) -> io::Result<()> {
        let position = position.or_else(|| self.settled.get(&name).copied()).unwrap_or(0);
        let mut reader = match self.dir.read(name, position) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        loop {
            match reader.read()? {
                Item::Frame(f) if f.sink_id() == Some(self.sink) && f.decode().is_some() => {
                    if !each(f.wall) {
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
        let (before, after) = live.split_at(self.turn.checked_rem(live.len()).unwrap_or(0));
        for segment in old.iter().chain(after).chain(before) {
            if self.ended.contains(&segment.name) || self.read_out.contains(&segment.name) || self.is_given_up(segment.name) {
                continue;
            }
            if batch.is_full(max) {
                break;
            }
            self.read_segment(segment, max, batch)?;
        }
        Ok(batch.is_full(max))
    }

    fn read_segment(&mut self, segment: &Segment, max: usize, batch: &mut Batch) -> io::Result<()> {
        let name = segment.name;
        let position = self.read.get(&name).or_else(|| self.settled.get(&name)).copied().unwrap_or(0);
        let reader = match self.open.entry(name) {
            std::collections::btree_map::Entry::Occupied(o) => o.into_mut(),
            std::collections::btree_map::Entry::Vacant(v) => match self.dir.read(name, position) {
                Ok(reader) => v.insert(reader),
                // Removed since the scan, which happens only when nothing was left in it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            },
        };
        // It has not grown since it was read to its end.
        if !segment.sealed && reader.position() >= segment.size {
            return Ok(());
        }
        let mut taken = false;
        let mut ended = false;
        while !batch.is_full(max) {
            match reader.read()? {
                Item::Frame(frame) => {
                    if frame.sink_id() != Some(self.sink) {
                        continue;
                    }
                    let Some(decoded) = frame.decode() else { continue };
                    taken = true;
                    if name.boot > self.dir.boot() && self.put_back.get(&name).is_none_or(|counted| *counted < frame.end) {
                        // Put back by accctl while the server runs; no worker counted it.
                        self.put_back.insert(name, frame.end);
                        stats::add(self.sink.accepted(), 1);
                    }
                    batch.bytes += frame.payload.len();
                    match decoded {
                        Ok(payload) => batch.entries.push(Entry { segment: name, offset: frame.offset, end: frame.end, wall: frame.wall, payload }),
                        Err(()) => batch.unreadable.push(Unreadable {
                            segment: name,
                            offset: frame.offset,
                            wall: frame.wall,
                            kind: frame.kind,
                            bytes: frame.payload.to_vec(),
                        }),
                    }
                }
                Item::Corrupt { offset, end } => {
                    if self.dir.keep_aside(name, offset, &reader.bytes(offset, end)?)? {
                        stats::add(Counter::JournalCorrupt, 1);
                        log::error!(
                            "journal segment {name} is damaged from byte {offset} to {end}: these bytes are kept in a .bad file beside it, the rest is delivered"
                        );
                    }
                }
                Item::Torn { offset, end } => {
                    if segment.sealed {
                        let tail = reader.bytes(offset, end)?;
                        if tail.iter().any(|b| *b != 0) && self.dir.keep_aside(name, offset, &tail)? {
                            log::warn!(
                                "journal segment {name} ends in the middle of an entry at byte {offset}: its writer was stopped there; the piece is kept in a .bad file beside it"
                            );
                        }
                        ended = true;
                    }
                    break;
                }
                Item::End => {
                    ended = segment.sealed;
                    break;
                }
            }
        }
        if taken {
            batch.positions.insert(name, reader.position());
            self.read.insert(name, reader.position());
        }
        if ended {
            // Thousands of segments may wait: their files do not stay open.
            self.open.remove(&name);
            self.read_out.insert(name);
            batch.ended.push(name);
        }
        Ok(())
    }

    /// The batch is settled: delivered or dead, and the cursor durable.
    pub fn settle(&mut self, batch: &Batch) {
        self.settled.extend(&batch.positions);
        self.ended.extend(&batch.ended);
        self.read.retain(|name, read| self.settled.get(name).is_none_or(|settled| settled < read));
        self.read_out.retain(|name| !self.ended.contains(name));
    }

    /// What was read behind the batch in hand is read again later.
    pub fn unread(&mut self, in_hand: &Batch) {
        self.open.clear();
        self.read = in_hand.positions.clone();
        self.read_out = in_hand.ended.iter().copied().collect();
    }

    /// Begins again at these positions.
    pub fn restart(&mut self, settled: Positions, segments: &[Segment]) {
        // Segments that are gone had been read to their end by every sink.
        self.ended = settled.keys().filter(|name| segments.binary_search_by_key(*name, |s| s.name).is_err()).copied().collect();
        self.settled = settled;
        self.unread(&Batch::default());
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

    /// Their positions need not be kept any more.
    pub fn forget(&mut self, retired: &[SegmentName]) {
        for name in retired {
            self.settled.remove(name);
            self.ended.remove(name);
        }
    }

    fn forget_removed(&mut self, segments: &[Segment]) {
        self.given_up.retain(|name| segments.binary_search_by_key(name, |s| s.name).is_ok());
        self.put_back.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
        self.open.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
        let settled = &self.settled;
        self.ended.retain(|name| settled.contains_key(name) || segments.binary_search_by_key(name, |s| s.name).is_ok());
    }
}
