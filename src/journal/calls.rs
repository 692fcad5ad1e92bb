//! Calls in progress, so that a crash of the server costs no CDR.
//!
//! At the answer, and at every later change, a worker appends the call's state; at the end its
//! records and the end itself in one write. A call whose last state is followed by no end is open:
//! after a restart it is given back to its dialog, or reported as lost.
//!
//! A frame of kind [`super::KIND_CALL`] has the payload `op u8 | call u128`, and for a state also
//! `start u64 | monotonic u64 | state`. A segment may go only when nothing in it is needed any more;
//! [`Tracker`] knows, and carries the rest over.
#![forbid(unsafe_code)]

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use rustix::time::{ClockId, clock_gettime};

use super::{Dir, Frame, Item, KIND_CALL, REQUEUE_RANK, Reader, Segment, SegmentName, Writer};
use crate::acc::record::Wall;

/// Stands where other frames name their sink: no sink reads it.
pub const NO_SINK: u8 = u8::MAX;

/// Stands for the host's process number in the names of segments with carried over calls.
pub const CARRY_RANK: i32 = -3;

const OP_OPEN: u8 = 1;
const OP_CLOSED: u8 = 2;

/// When a state was first written, by what no change of the machine's time touches: states of one
/// call are written under its lock, so that a later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    /// Start of the server, see [`Dir::boot`].
    start: u64,
    /// Nanoseconds of the monotonic clock: it begins again only when the machine does, and then the
    /// server does too.
    monotonic: u64,
}

impl Order {
    /// Now, in the server that was started at `start`.
    pub(super) fn now(start: u64) -> Order {
        let t = clock_gettime(ClockId::Monotonic);
        Order { start, monotonic: t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64 }
    }
}

pub(super) fn put_open(out: &mut Vec<u8>, call: u128, order: Order, state: &[u8]) {
    out.push(OP_OPEN);
    out.extend_from_slice(&call.to_le_bytes());
    out.extend_from_slice(&order.start.to_le_bytes());
    out.extend_from_slice(&order.monotonic.to_le_bytes());
    out.extend_from_slice(state);
}

pub(super) fn put_closed(out: &mut Vec<u8>, call: u128) {
    out.push(OP_CLOSED);
    out.extend_from_slice(&call.to_le_bytes());
}

/// What a frame says of a call.
enum Said<'a> {
    Open(u128, Order, &'a [u8]),
    Closed(u128),
}

impl Said<'_> {
    const fn call(&self) -> u128 {
        match self {
            Said::Open(call, ..) | Said::Closed(call) => *call,
        }
    }
}

fn read_payload(payload: &[u8]) -> Option<Said<'_>> {
    let (op, rest) = payload.split_first()?;
    let (call, rest) = rest.split_first_chunk::<16>()?;
    let call = u128::from_le_bytes(*call);
    match *op {
        OP_OPEN => {
            let (start, rest) = rest.split_first_chunk::<8>()?;
            let (monotonic, state) = rest.split_first_chunk::<8>()?;
            Some(Said::Open(call, Order { start: u64::from_le_bytes(*start), monotonic: u64::from_le_bytes(*monotonic) }, state))
        }
        OP_CLOSED => Some(Said::Closed(call)),
        _ => None,
    }
}

/// What a journal knows of calls in progress.
#[derive(Debug, Default)]
pub struct OpenCalls {
    /// Last state of each open call, by its key.
    pub calls: HashMap<u128, Vec<u8>>,
    /// The server was alive then: time of the last entry of its workers, or of the last sign of life
    /// of its delivery process.
    pub last_seen: Option<Wall>,
}

/// Most looks at the directory in one [`scan`]; each reads only what is new since the one before.
const LOOKS: usize = 20;

/// Reads all segments. A delivery process may remove some meanwhile: what is still needed of them is
/// then read where it was carried to.
pub fn scan(dir: &Dir) -> io::Result<OpenCalls> {
    scan_with(dir, || dir.segments(), |name, from| dir.read(name, from))
}

/// [`scan`], with its ways to list the segments and to open one.
fn scan_with(
    dir: &Dir,
    mut list: impl FnMut() -> io::Result<Vec<Segment>>,
    mut read: impl FnMut(SegmentName, u64) -> io::Result<Reader>,
) -> io::Result<OpenCalls> {
    let mut open: HashMap<u128, (Order, SegmentName, Vec<u8>)> = HashMap::new();
    let mut closed = HashSet::new();
    let mut last_seen = dir.last_alive().ok();
    // Up to where each segment was read, at which look.
    let mut read_to: HashMap<SegmentName, (usize, u64)> = HashMap::new();
    for look in 0..LOOKS {
        let mut all_there = true;
        for Segment { name, .. } in list()? {
            // Those of carried over calls are read again as a whole: a state may have gone from elsewhere since.
            let known = if name.rank == CARRY_RANK { 0 } else { read_to.get(&name).map_or(0, |(_, position)| *position) };
            let mut reader = match read(name, known) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    all_there = false;
                    continue;
                }
                other => other?,
            };
            // accctl writes the others while no server runs.
            let by_worker = ![CARRY_RANK, REQUEUE_RANK].contains(&name.rank);
            each_frame(&mut reader, |f| {
                last_seen = last_seen.max(by_worker.then_some(f.wall));
                match if f.kind == KIND_CALL { read_payload(f.payload) } else { None } {
                    Some(Said::Open(call, order, state)) if open.get(&call).is_none_or(|(known, ..)| *known <= order) => {
                        drop(open.insert(call, (order, name, state.to_vec())))
                    }
                    // An end is final, wherever it stands.
                    Some(Said::Closed(call)) => drop(closed.insert(call)),
                    Some(Said::Open(..)) | None => {}
                }
            })?;
            read_to.insert(name, (look, reader.position()));
        }
        // Nothing was carried to where this look did not see it.
        let same = |s: &Segment| s.name.rank != CARRY_RANK || read_to.get(&s.name).is_some_and(|(seen, _)| *seen == look);
        if all_there && list()?.iter().all(same) {
            // A state that went with its segment, and was not carried, is one of a call that ended.
            let is_open = |call: &u128, name: &SegmentName| !closed.contains(call) && read_to.get(name).is_some_and(|(seen, _)| *seen == look);
            let calls = open.into_iter().filter(|(call, (_, name, _))| is_open(call, name)).map(|(call, (_, _, state))| (call, state)).collect();
            return Ok(OpenCalls { calls, last_seen });
        }
    }
    Err(io::Error::other("segments are removed faster than they can be read"))
}

/// How many frames of one call stand in the journal.
#[derive(Clone, Copy, Default)]
struct Frames {
    opened: u32,
    closed: u32,
}

impl Frames {
    fn count(&mut self, said: &Said<'_>) {
        match said {
            Said::Open(..) => self.opened += 1,
            Said::Closed(_) => self.closed += 1,
        }
    }
}

/// Follows the call frames of all segments, to keep what is still needed when a segment goes.
///
/// During a long outage of a sink it knows every call of the outage, so it only counts: 16 bytes
/// and their share of the table for a call, about 40 MB for 10^6.
pub struct Tracker {
    dir: Dir,
    /// Up to where each segment was read.
    positions: BTreeMap<SegmentName, u64>,
    /// Frames of every call, by [`short`] key.
    frames: HashMap<u64, Frames>,
    /// Short key and length of each state in the segments of carried over calls.
    carried: BTreeMap<SegmentName, Vec<(u64, u64)>>,
}

/// Half of a call's key, which is a hash: two calls of one journal do not share it in practice.
const fn short(call: u128) -> u64 {
    call as u64
}

impl Tracker {
    /// Knows nothing yet; the first [`Tracker::follow`] reads everything.
    pub fn new(dir: &Dir) -> Tracker {
        Tracker { dir: dir.clone(), positions: BTreeMap::new(), frames: HashMap::new(), carried: BTreeMap::new() }
    }

    /// Reads what was appended since the last time.
    pub fn follow(&mut self, segments: &[Segment]) -> io::Result<()> {
        self.positions.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
        for segment in segments {
            let known = self.positions.get(&segment.name).copied().unwrap_or(0);
            if known >= segment.size {
                continue;
            }
            let mut reader = match self.dir.read(segment.name, known) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let (frames, carried) = (&mut self.frames, &mut self.carried);
            let result = each_call(&mut reader, |f, said| {
                frames.entry(short(said.call())).or_default().count(&said);
                if segment.name.rank == CARRY_RANK && matches!(said, Said::Open(..)) {
                    carried.entry(segment.name).or_default().push((short(said.call()), f.end - f.offset));
                }
            });
            // Also after an error: nothing may be counted twice.
            self.positions.insert(segment.name, reader.position());
            result?;
        }
        Ok(())
    }

    /// The segment is about to go: what is still needed of it is appended through `writer`, and
    /// synced, because its removal may reach the disk first. On `Err` it must stay. Returns whether
    /// anything was appended: [`Tracker::follow`] has to see it before another segment goes.
    pub fn release(&mut self, gone: SegmentName, writer: &mut Writer) -> io::Result<bool> {
        let known_to = self.positions.get(&gone).copied().unwrap_or(0);
        let mut here: HashMap<u128, Frames> = HashMap::new();
        // Last state here of each call without an end.
        let mut states: HashMap<u128, (Order, u64)> = HashMap::new();
        each_call(&mut self.dir.read(gone, 0)?, |f, said| {
            if f.end > known_to {
                return;
            }
            let call = said.call();
            here.entry(call).or_default().count(&said);
            let Said::Open(_, order, _) = said else { return };
            let open = self.frames.get(&short(call)).is_none_or(|all| all.closed == 0);
            if open && states.get(&call).is_none_or(|(known, _)| *known <= order) {
                states.insert(call, (order, f.offset));
            }
        })?;
        let mut carried = !states.is_empty();
        for (call, (_, offset)) in states {
            self.copy(call, gone, offset, writer)?;
        }
        for (call, here) in &here {
            let all = self.frames.get(&short(*call)).copied().unwrap_or_default();
            // States of the call stand elsewhere: the end must stay as long as they do.
            if all.closed > 0 && all.closed == here.closed && all.opened > here.opened {
                writer.append_end(*call, &[])?;
                carried = true;
            }
        }
        if carried {
            writer.sync()?;
        }
        for (call, here) in here {
            if let Entry::Occupied(mut known) = self.frames.entry(short(call)) {
                let left = known.get_mut();
                left.opened = left.opened.saturating_sub(here.opened);
                left.closed = left.closed.saturating_sub(here.closed);
                if left.opened == 0 && left.closed == 0 {
                    known.remove();
                }
            }
        }
        self.positions.remove(&gone);
        self.carried.remove(&gone);
        if self.frames.capacity() > 4 * self.frames.len() {
            self.frames.shrink_to_fit();
        }
        Ok(carried)
    }

    /// Bytes of a segment of carried over calls that [`Tracker::release`] would append again.
    pub fn needed(&self, name: SegmentName) -> u64 {
        let states = self.carried.get(&name).into_iter().flatten();
        states.filter(|(call, _)| self.frames.get(call).is_some_and(|all| all.closed == 0)).map(|(_, length)| length).sum()
    }

    /// The state keeps its order: a newer one may stand elsewhere, or be appended at this moment.
    fn copy(&self, call: u128, segment: SegmentName, offset: u64, writer: &mut Writer) -> io::Result<()> {
        match self.dir.read(segment, offset)?.read()? {
            Item::Frame(f) => match read_payload(f.payload) {
                Some(Said::Open(_, order, state)) => writer.append_call_of(order, call, state),
                _ => Err(io::ErrorKind::InvalidData.into()),
            },
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Reads to the end of what is there now, and shows every frame of a call.
fn each_call(reader: &mut Reader, mut f: impl FnMut(&Frame<'_>, Said<'_>)) -> io::Result<()> {
    each_frame(reader, |frame| {
        if frame.kind == KIND_CALL
            && let Some(said) = read_payload(frame.payload)
        {
            f(frame, said);
        }
    })
}

fn each_frame(reader: &mut Reader, mut f: impl FnMut(&Frame<'_>)) -> io::Result<()> {
    loop {
        match reader.read()? {
            Item::Frame(frame) => f(&frame),
            Item::Corrupt { .. } => {}
            Item::Torn { .. } | Item::End => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acc::clock::Moment;
    use crate::backend::SinkId;
    use crate::config::JournalSync;
    use crate::journal::frame;

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

    /// The time was set back an hour between two states, and before the next start.
    #[test]
    fn the_time_of_day_does_not_decide_which_state_is_the_last() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let (mut a, mut b) = (writer(&dir, 1), writer(&dir, 2));
        a.append_call(1, b"first").unwrap();
        b.append_call(1, b"second").unwrap();
        // The frame of the first state says a later time than that of the second.
        let old = dir.segments().unwrap()[0].name;
        let mut later = std::fs::read(tmp.path().join(old.to_string())).unwrap();
        let (header, frame) = later.split_at_mut(frame::HEADER.len());
        assert_eq!(header, frame::HEADER);
        frame[frame::PREFIX + 2..frame::PREFIX + frame::BODY_MIN].copy_from_slice(&(Moment::wall_now().0 + 3_600_000_000).to_le_bytes());
        let crc = frame::crc(*frame.first_chunk().unwrap(), &frame[frame::PREFIX..]);
        frame[4..frame::PREFIX].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(tmp.path().join(old.to_string()), &later).unwrap();
        assert_eq!(open(&dir), [(1, b"second".to_vec())]);

        // Nor for a copy.
        let mut tracker = Tracker::new(&dir);
        tracker.follow(&dir.segments().unwrap()).unwrap();
        tracker.release(old, &mut Writer::new(&dir, CARRY_RANK, 9, JournalSync::Os, 1 << 20)).unwrap();
        dir.remove(old).unwrap();
        assert_eq!(open(&dir), [(1, b"second".to_vec())]);

        // The last start was in an hour, and has left no segment that says so.
        let ahead = dir.boot() + (3_600_000_000 << 12);
        std::fs::write(tmp.path().join("start"), format!("{ahead:016x}\n")).unwrap();
        drop((a, b, tracker, dir));
        let next = Dir::open(tmp.path()).unwrap();
        assert!(next.boot() > ahead);
        writer(&next, 3).append_call(1, b"third").unwrap();
        assert_eq!(open(&next), [(1, b"third".to_vec())]);
        // A tool beside the server puts entries back, which the server must not take for those of an earlier start.
        assert!(Dir::open_to_read(tmp.path()).unwrap().boot() > next.boot());
        // A segment tells as well as the file.
        let name = SegmentName { boot: next.boot() + (3_600_000_000 << 12), rank: 1, pid: 1, seq: 0 };
        std::fs::write(tmp.path().join(name.to_string()), frame::HEADER).unwrap();
        drop(next);
        assert!(Dir::open(tmp.path()).unwrap().boot() > name.boot);
    }

    /// `accctl deliver` and `accctl requeue` write while no server runs.
    #[test]
    fn what_accctl_writes_is_no_sign_of_life_of_the_server() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        writer(&dir, 1).append_call(1, b"state").unwrap();
        let name = dir.segments().unwrap()[0].name;
        assert!(scan(&dir).unwrap().last_seen > Some(dir.last_alive().unwrap()));
        let mut tracker = Tracker::new(&dir);
        tracker.follow(&dir.segments().unwrap()).unwrap();
        tracker.release(name, &mut Writer::new(&dir, CARRY_RANK, 9, JournalSync::Os, 1 << 20)).unwrap();
        dir.remove(name).unwrap();
        Writer::new(&dir, REQUEUE_RANK, 9, JournalSync::Os, 1 << 20).append_line(SinkId::Log, b"line").unwrap();
        assert_eq!(open(&dir), [(1, b"state".to_vec())]);
        assert_eq!(scan(&dir).unwrap().last_seen, Some(dir.last_alive().unwrap()));
    }

    /// A delivery process removes segments while somebody reads them all.
    #[test]
    fn reading_while_segments_go_finds_every_open_call_and_no_ended_one() {
        let orders = [vec![0], vec![1], vec![2], vec![0, 1], vec![1, 0], vec![2, 0], vec![0, 2], vec![0, 1, 2], vec![2, 1, 0]];
        // Before which step of the scan, a listing or an opening, the first is carried over, and before which they go.
        let steps = (0..6).flat_map(|at| (0..4).map(move |later| (at, at + later)));
        // A listing may be in the middle when they go.
        for (gone, (at, then), middle) in orders.iter().flat_map(|o| steps.clone().flat_map(move |s| [(o, s, false), (o, s, true)])) {
            let tmp = tempfile::tempdir().unwrap();
            let dir = Dir::open(tmp.path()).unwrap();
            let mut w: Vec<_> = (1..4).map(|pid| writer(&dir, pid)).collect();
            for call in [1, 2, 3] {
                w[0].append_call(call, b"old").unwrap();
            }
            w[1].append_call(2, b"new").unwrap();
            w[2].append_end(3, &[]).unwrap();
            drop(w);
            let names: Vec<_> = dir.segments().unwrap().iter().map(|s| s.name).collect();
            let new_carry = || Writer::new(&dir, CARRY_RANK, 9, JournalSync::Os, 1 << 20);
            let mut carry = new_carry();
            // The first segment is carried over to one that was there before, the others to new ones.
            carry.append_call(4, b"carried").unwrap();
            let delivery = std::cell::RefCell::new((Tracker::new(&dir), carry, 0));
            let step = || {
                let (tracker, carry, steps) = &mut *delivery.borrow_mut();
                for (n, i) in gone.iter().enumerate() {
                    if *steps == if n == 0 { at } else { then } {
                        tracker.follow(&dir.segments().unwrap()).unwrap();
                        tracker.release(names[*i], carry).unwrap();
                        *carry = new_carry();
                    }
                    if *steps == then {
                        dir.remove(names[*i]).unwrap();
                    }
                }
                *steps += 1;
            };
            let list = || {
                let before = dir.segments()?;
                step();
                let mut now = dir.segments()?;
                if middle {
                    now.retain(|s| before.iter().any(|b| b.name == s.name));
                }
                Ok(now)
            };
            let read = |name, from| {
                step();
                dir.read(name, from)
            };
            let mut calls: Vec<_> = scan_with(&dir, list, read).unwrap().calls.into_iter().collect();
            calls.sort();
            let want = [(1, "old"), (2, "new"), (4, "carried")].map(|(call, state)| (call, state.as_bytes().to_vec()));
            assert_eq!(calls, want, "{gone:?} at steps {at} and {then}, {middle}");
        }
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
        }
    }

    /// A worker changes a call while its segment goes: the change is what stays.
    #[test]
    fn a_state_kept_for_a_segment_that_goes_is_no_newer_than_it_was() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let (mut a, mut b, mut carry) = (writer(&dir, 1), writer(&dir, 2), writer(&dir, 9));
        a.append_call(1, b"old").unwrap();
        let gone = dir.segments().unwrap()[0].name;
        let mut tracker = Tracker::new(&dir);
        tracker.follow(&dir.segments().unwrap()).unwrap();
        b.append_call(1, b"new").unwrap();
        tracker.release(gone, &mut carry).unwrap();
        dir.remove(gone).unwrap();
        assert_eq!(open(&dir), [(1, b"new".to_vec())]);
        assert_eq!(dir.segments().unwrap().len(), 2);
    }
}
