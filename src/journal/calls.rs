//! Calls in progress, so that a crash of the server costs no CDR.
//!
//! At the answer, and at every later change, a worker appends the call's state; at the end its
//! records and the end itself in one write. A call whose last state is followed by no end is open:
//! after a restart it is given back to its dialog, or reported as lost.
//!
//! A frame of kind [`super::KIND_CALL`] has the payload `op u8 | call u128 | state`. A segment may
//! go only when nothing in it is needed any more; [`Tracker`] knows, and carries the rest over.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use super::{Dir, Item, KIND_CALL, Reader, Segment, SegmentName, Writer};
use crate::acc::record::Wall;

/// Stands where other frames name their sink: no sink reads it.
pub const NO_SINK: u8 = u8::MAX;

const OP_OPEN: u8 = 1;
const OP_CLOSED: u8 = 2;

pub(super) fn put_open(out: &mut Vec<u8>, call: u128, state: &[u8]) {
    out.push(OP_OPEN);
    out.extend_from_slice(&call.to_le_bytes());
    out.extend_from_slice(state);
}

pub(super) fn put_closed(out: &mut Vec<u8>, call: u128) {
    out.push(OP_CLOSED);
    out.extend_from_slice(&call.to_le_bytes());
}

/// What a frame says of a call.
enum Said<'a> {
    Open(u128, &'a [u8]),
    Closed(u128),
}

fn read_payload(payload: &[u8]) -> Option<Said<'_>> {
    let (op, rest) = payload.split_first()?;
    let (call, state) = rest.split_first_chunk::<16>()?;
    let call = u128::from_le_bytes(*call);
    match *op {
        OP_OPEN => Some(Said::Open(call, state)),
        OP_CLOSED => Some(Said::Closed(call)),
        _ => None,
    }
}

/// What a journal knows of calls in progress.
#[derive(Debug, Default)]
pub struct OpenCalls {
    /// Last state of each open call, by its key.
    pub calls: HashMap<u128, Vec<u8>>,
    /// The server was alive then: time of the last entry of any kind, or of the last sign of life
    /// of its delivery process.
    pub last_seen: Option<Wall>,
}

/// Reads all segments of earlier starts.
pub fn scan(dir: &Dir) -> io::Result<OpenCalls> {
    let mut open: HashMap<u128, (Wall, Vec<u8>)> = HashMap::new();
    let mut closed = HashSet::new();
    let mut last_seen = dir.last_alive().ok();
    for segment in dir.segments()? {
        let mut reader = dir.read(segment.name, 0)?;
        loop {
            match reader.read()? {
                Item::Frame(f) => {
                    last_seen = last_seen.max(Some(f.wall));
                    if f.kind != KIND_CALL {
                        continue;
                    }
                    match read_payload(f.payload) {
                        Some(Said::Open(call, state)) => {
                            let newer = open.get(&call).is_none_or(|(wall, _)| *wall <= f.wall);
                            if newer {
                                open.insert(call, (f.wall, state.to_vec()));
                            }
                        }
                        // An end is final, wherever it stands.
                        Some(Said::Closed(call)) => drop(closed.insert(call)),
                        None => {}
                    }
                }
                Item::Corrupt { .. } => {}
                Item::Torn { .. } | Item::End => break,
            }
        }
    }
    let calls = open.into_iter().filter(|(call, _)| !closed.contains(call)).map(|(call, (_, state))| (call, state)).collect();
    Ok(OpenCalls { calls, last_seen })
}

/// Where things said of one call stand.
#[derive(Default)]
struct Call {
    /// Segment, offset and length of the last state.
    last: Option<(Wall, SegmentName, u64, u64)>,
    opened_in: HashSet<SegmentName>,
    closed_in: HashSet<SegmentName>,
}

/// Follows the call frames of all segments, to keep what is still needed when a segment goes.
pub struct Tracker {
    dir: Dir,
    readers: BTreeMap<SegmentName, Reader>,
    calls: HashMap<u128, Call>,
}

impl Tracker {
    /// Knows nothing yet; the first [`Tracker::follow`] reads everything.
    pub fn new(dir: &Dir) -> Tracker {
        Tracker { dir: dir.clone(), readers: BTreeMap::new(), calls: HashMap::new() }
    }

    /// Reads what was appended since the last time.
    pub fn follow(&mut self, segments: &[Segment]) -> io::Result<()> {
        self.readers.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
        for segment in segments {
            let name = segment.name;
            let reader = match self.readers.entry(name) {
                std::collections::btree_map::Entry::Occupied(o) => o.into_mut(),
                std::collections::btree_map::Entry::Vacant(v) => match self.dir.read(name, 0) {
                    Ok(reader) => v.insert(reader),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                },
            };
            loop {
                match reader.read()? {
                    Item::Frame(f) if f.kind == KIND_CALL => match read_payload(f.payload) {
                        Some(Said::Open(call, _)) => {
                            let known = self.calls.entry(call).or_default();
                            known.opened_in.insert(name);
                            if known.last.is_none_or(|(wall, ..)| wall <= f.wall) {
                                known.last = Some((f.wall, name, f.offset, f.end - f.offset));
                            }
                        }
                        Some(Said::Closed(call)) => drop(self.calls.entry(call).or_default().closed_in.insert(name)),
                        None => {}
                    },
                    Item::Frame(_) | Item::Corrupt { .. } => {}
                    Item::Torn { .. } | Item::End => break,
                }
            }
        }
        Ok(())
    }

    /// The segment is about to go: what is still needed of it is appended through `writer`, and
    /// synced, because its removal may reach the disk first. On `Err` it must stay.
    pub fn release(&mut self, gone: SegmentName, writer: &mut Writer) -> io::Result<()> {
        let mut carried = false;
        for (call, known) in &self.calls {
            let (opened_here, closed_here) = (known.opened_in.contains(&gone), known.closed_in.contains(&gone));
            if known.closed_in.is_empty() {
                if let Some((_, segment, offset, _)) = known.last
                    && segment == gone
                {
                    self.copy(*call, segment, offset, writer)?;
                    carried = true;
                }
            } else if closed_here && known.closed_in.len() == 1 && known.opened_in.len() > usize::from(opened_here) {
                // States of the call stand elsewhere: the end must stay as long as they do.
                writer.append_end(*call, &[])?;
                carried = true;
            }
        }
        if carried {
            writer.sync()?;
        }
        self.readers.remove(&gone);
        self.calls.retain(|_, known| {
            known.opened_in.remove(&gone);
            known.closed_in.remove(&gone);
            if known.last.is_some_and(|(_, segment, ..)| segment == gone) {
                known.last = None;
            }
            !known.opened_in.is_empty() || !known.closed_in.is_empty()
        });
        Ok(())
    }

    /// Bytes of a segment that [`Tracker::release`] would append again.
    pub fn needed(&self, name: SegmentName) -> u64 {
        let open = self.calls.values().filter(|c| c.closed_in.is_empty());
        open.filter_map(|c| c.last).filter(|(_, segment, ..)| *segment == name).map(|(.., length)| length).sum()
    }

    fn copy(&self, call: u128, segment: SegmentName, offset: u64, writer: &mut Writer) -> io::Result<()> {
        match self.dir.read(segment, offset)?.read()? {
            Item::Frame(f) => match read_payload(f.payload) {
                Some(Said::Open(_, state)) => writer.append_call(call, state),
                _ => Err(io::ErrorKind::InvalidData.into()),
            },
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Calls in progress, as far as the journal tells.
    pub fn open_calls(&self) -> usize {
        self.calls.values().filter(|c| c.closed_in.is_empty()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::JournalSync;

    fn writer(dir: &Dir, pid: u32) -> Writer {
        Writer::new(dir, 1, pid, JournalSync::Os, 1 << 20)
    }

    fn open(dir: &Dir) -> Vec<(u128, Vec<u8>)> {
        let mut calls: Vec<_> = scan(dir).unwrap().calls.into_iter().collect();
        calls.sort();
        calls
    }

    #[test]
    fn the_last_state_counts_until_the_end() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let (mut a, mut b) = (writer(&dir, 1), writer(&dir, 2));
        a.append_call(1, b"first").unwrap();
        a.append_call(2, b"other").unwrap();
        b.append_call(1, b"second").unwrap();
        assert_eq!(open(&dir), [(1, b"second".to_vec()), (2, b"other".to_vec())]);
        b.append_end(1, &[]).unwrap();
        assert_eq!(open(&dir), [(2, b"other".to_vec())]);
        // An end is final even for a state with a later time.
        a.append_call(1, b"late").unwrap();
        assert_eq!(open(&dir), [(2, b"other".to_vec())]);
        assert!(scan(&dir).unwrap().last_seen.is_some());
    }

    /// Segments go in any order, one by one: open calls stay open, ended ones stay ended.
    #[test]
    fn removing_segments_changes_nothing() {
        for order in [[0usize, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
            let tmp = tempfile::tempdir().unwrap();
            let dir = Dir::open(tmp.path()).unwrap();
            {
                let mut w: Vec<_> = (1..4).map(|pid| writer(&dir, pid)).collect();
                w[0].append_call(1, b"open").unwrap();
                w[0].append_call(2, b"old").unwrap();
                w[1].append_call(2, b"new").unwrap();
                w[2].append_end(2, &[]).unwrap();
                w[1].append_call(3, b"three").unwrap();
            }
            let names: Vec<_> = dir.segments().unwrap().iter().map(|s| s.name).collect();
            let want = [(1, b"open".to_vec()), (3, b"three".to_vec())];
            let mut tracker = Tracker::new(&dir);
            let mut carry = writer(&dir, 9);
            for i in order {
                tracker.follow(&dir.segments().unwrap()).unwrap();
                tracker.release(names[i], &mut carry).unwrap();
                dir.remove(names[i]).unwrap();
                assert_eq!(open(&dir), want, "{order:?} after {i}");
            }
            tracker.follow(&dir.segments().unwrap()).unwrap();
            assert_eq!(tracker.open_calls(), 2);
        }
    }
}
