//! Calls in progress, so that a crash of the server costs no CDR.
//!
//! At the answer, and at every later change, a worker appends the call's state, whole or as a change of
//! one ([`Base`]); at the end its records and the end itself in one write. A call without an end after
//! its last state is open: after a restart it is given back to its dialog, or reported as lost.
//!
//! The contents of these frames are described in [`super::said`]. A segment may be removed only when
//! nothing in it is needed any more; [`Tracker`] knows what is, and carries it over.
#![forbid(unsafe_code)]

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;

use super::said::{Changed, End, Order, Said, read_payload};
use super::{Dir, Frame, Item, KIND_CALL, KIND_PARKED, KIND_RECORD, Parked, Reader, Segment, SegmentName, Writer};
use crate::accounting::clock::{Moment, Wall};
use crate::accounting::context::{Context, Facts};
use crate::accounting::record::Record;

/// Used in place of the host's process number in the names of segments with carried-over calls.
pub const CARRY_RANK: i32 = -3;

/// The same for segments with interim records, which the delivery process writes.
pub const INTERIM_RANK: i32 = -4;

/// What a journal knows about calls in progress.
#[derive(Debug, Default)]
pub struct OpenCalls {
    /// The open calls, by their keys.
    pub calls: HashMap<u128, OpenCall>,
    /// Calls whose end is still in the journal, and whether nobody saw that end: see [`End::guessed`].
    pub ended: HashMap<u128, bool>,
    /// [`dialog_key`](crate::accounting::call_key::dialog_key) of each dialog that may come back although its call is over.
    pub dialogs: HashSet<u128>,
    /// When the server was last alive: the later of the last state and the last sign of life of its delivery
    /// process, by their order. The clock may have been set back since; this time is never later than now.
    pub last_seen: Option<Moment>,
}

/// An open call.
#[derive(Debug)]
pub struct OpenCall {
    /// Its last known state.
    pub state: Vec<u8>,
    /// The last start of the server in which it was followed.
    start: u64,
    /// When the server was last seen alive in that start. If no dialog claimed the call in later starts, it ended then.
    pub last_seen: Option<Moment>,
}

impl OpenCalls {
    /// For [`Dir::keep_ends`].
    pub(crate) fn ends(&self) -> BTreeMap<u64, Moment> {
        self.calls.values().filter_map(|call| Some((call.start, call.last_seen?))).collect()
    }
}

/// The last sign of life found so far.
#[derive(Clone, Copy, Default)]
struct LastSeen {
    order: Order,
    wall: Wall,
}

impl LastSeen {
    fn add(&mut self, order: Order, wall: Wall) {
        if order >= self.order {
            *self = LastSeen { order, wall };
        }
    }

    /// As a moment, by both clocks if it is known which boot of the machine it was.
    fn moment(self, alive: Option<(u64, Moment)>) -> Option<Moment> {
        let boot = alive.filter(|(start, _)| *start == self.order.start).map_or(0, |(_, m)| m.boot);
        let wall = self.wall.min(Moment::wall_now());
        (self.order != Order::default()).then_some(Moment { wall, mono: self.order.monotonic as i64 / 1000, boot })
    }
}

/// A frame that was read: when it was first written, where it is, and what it says about its call.
type Read = (Order, SegmentName, Vec<u8>);

/// The last whole state of a call, and the last change.
#[derive(Default)]
struct LastState {
    whole: Option<Read>,
    change: Option<Read>,
}

impl LastState {
    /// The latest state, from the frames that are still there, and the start in which it was written. `None` if there are none.
    fn state(self, is_there: impl Fn(&SegmentName) -> bool) -> Option<(u64, Vec<u8>)> {
        let change = self.change.filter(|(_, name, _)| is_there(name));
        let Some((order, _, whole)) = self.whole.filter(|(_, name, _)| is_there(name)) else {
            // Damage destroyed the state that the change belongs to: there is a call, but nothing is known about it.
            return change.map(|(order, ..)| (order.start, Vec::new()));
        };
        let later = change.filter(|(changed, ..)| *changed > order);
        let start = later.as_ref().map_or(order, |(changed, ..)| *changed).start;
        let changed = later.and_then(|(changed, _, payload)| {
            let change = Changed::read(&payload)?;
            let is_its_base = (Order { start: changed.start, monotonic: change.base.monotonic }) == order;
            is_its_base.then(|| change.of(&whole)).flatten()
        });
        Some((start, changed.unwrap_or(whole)))
    }
}

/// Most passes over the directory in one [`scan`]; each reads only what is new since the one before.
const LOOKS: usize = 20;

/// Reads all segments. A delivery process may remove some of them meanwhile: what is still needed is then
/// read from where it was carried to.
pub fn scan(dir: &Dir) -> io::Result<OpenCalls> {
    scan_with(dir, || dir.segments(), |name, from| dir.read(name, from))
}

/// [`scan`], with functions that list the segments and open one.
fn scan_with(
    dir: &Dir,
    mut list: impl FnMut() -> io::Result<Vec<Segment>>,
    mut read: impl FnMut(SegmentName, u64) -> io::Result<Reader>,
) -> io::Result<OpenCalls> {
    let mut open: HashMap<u128, LastState> = HashMap::new();
    let (mut closed, mut dialogs): (HashMap<u128, bool>, _) = (HashMap::new(), HashSet::new());
    let alive = dir.last_alive();
    let mut last_seen = LastSeen::default();
    if let Some((start, m)) = alive {
        last_seen.add(Order { start, monotonic: (m.mono.max(0) as u64).saturating_mul(1000) }, m.wall);
    }
    // How far each segment was read, and in which pass.
    let mut read_to: HashMap<SegmentName, (usize, u64)> = HashMap::new();
    for look in 0..LOOKS {
        let mut all_there = true;
        for Segment { name, .. } in list()? {
            // Segments of carried-over calls are read again from the beginning: a state may have been removed elsewhere since.
            let known = if name.rank == CARRY_RANK { 0 } else { read_to.get(&name).map_or(0, |(_, position)| *position) };
            let mut reader = match read(name, known) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    all_there = false;
                    continue;
                }
                Err(e) => {
                    dir.pass_over(name, &e);
                    read_to.insert(name, (look, known));
                    continue;
                }
                Ok(reader) => reader,
            };
            // Carried-over states have the time when they were carried over.
            let is_carried = name.rank == CARRY_RANK;
            let read = each_call(&mut reader, |f, said| {
                if let Some(order) = said.order().filter(|_| !is_carried) {
                    last_seen.add(order, f.wall);
                }
                let (place, order, bytes) = match said {
                    Said::Open(call, order, state) => (&mut open.entry(call).or_default().whole, order, state),
                    Said::Changed(call, order, change) => (&mut open.entry(call).or_default().change, order, change),
                    // An end is final, wherever it is.
                    Said::Closed(End { call, guessed, dialog }, _) => {
                        *closed.entry(call).or_insert(true) &= guessed;
                        dialogs.extend(dialog);
                        return;
                    }
                };
                if place.as_ref().is_none_or(|(known, ..)| *known <= order) {
                    *place = Some((order, name, bytes.to_vec()));
                }
            });
            if let Err(e) = read {
                dir.pass_over(name, &e);
            }
            read_to.insert(name, (look, reader.position()));
        }
        // Nothing was carried over to a place that this pass did not see.
        let same = |s: &Segment| s.name.rank != CARRY_RANK || read_to.get(&s.name).is_some_and(|(seen, _)| *seen == look);
        if all_there && list()?.iter().all(same) {
            // A state that was removed with its segment and not carried over belongs to a call that has ended.
            let is_there = |name: &SegmentName| read_to.get(name).is_some_and(|(seen, _)| *seen == look);
            let (ends, last_seen) = (dir.ends(), last_seen.moment(alive));
            let mut found = OpenCalls { ended: closed, dialogs, last_seen, ..OpenCalls::default() };
            for (call, last) in open.into_iter().filter(|(call, _)| !found.ended.contains_key(call)) {
                let Some((start, state)) = last.state(is_there) else { continue };
                let of_earlier = ends.get(&start).map(|m| Moment { wall: m.wall.min(Moment::wall_now()), mono: m.mono.max(0), ..*m });
                found.calls.insert(call, OpenCall { state, start, last_seen: of_earlier.or(last_seen) });
            }
            return Ok(found);
        }
    }
    Err(io::Error::other("segments are removed faster than they can be read"))
}

/// What a frame says about a call that is up, for those who follow such calls.
pub enum Heard {
    /// A state that was written in this start of the server.
    Up {
        /// Key of the call.
        call: u128,
        /// Where the state is.
        at: Standing,
        /// It is only a change to a whole one.
        is_change: bool,
        /// What is accounted where, and since when the call has been up.
        facts: Facts,
    },
    /// The end of the call of this key.
    Over(u128),
}

/// Where a state is, and since when.
///
/// There may be a hundred thousand of these, so what all states of one start have in common is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    rank: i32,
    pid: u32,
    seq: u32,
    /// 0 = nowhere: offset 0 is the header of a segment.
    offset: u32,
    monotonic: u64,
}

/// The latest state of a call that is up: the last whole one, and the last change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latest {
    whole: Standing,
    change: Standing,
}

impl Latest {
    /// Takes a state into account. Returns whether it is the latest.
    pub fn hear(&mut self, at: Standing, is_change: bool) -> bool {
        let is_latest = [self.whole, self.change].iter().all(|known| known.monotonic <= at.monotonic);
        let place = if is_change { &mut self.change } else { &mut self.whole };
        if place.monotonic <= at.monotonic {
            *place = at;
        }
        is_latest
    }

    /// Reads the state; `None` if it is no longer there.
    pub fn read(&self, dir: &Dir) -> Option<Context> {
        let read = |at: Standing| -> Option<Read> {
            let segment = SegmentName { boot: dir.boot(), rank: at.rank, pid: at.pid, seq: at.seq };
            let mut reader = dir.read(segment, Some(u64::from(at.offset)).filter(|offset| *offset > 0)?).ok()?;
            let Ok(Item::Frame(frame)) = reader.read() else { return None };
            match read_payload(frame.payload)? {
                Said::Open(_, order, bytes) | Said::Changed(_, order, bytes) => Some((order, segment, bytes.to_vec())),
                Said::Closed(..) => None,
            }
        };
        let last = LastState { whole: Some(read(self.whole)?), change: read(self.change) };
        Context::decode(&last.state(|_| true)?.1)
    }
}

/// How many frames of one call are in the journal.
#[derive(Clone, Copy, Default)]
struct Frames {
    opened: u32,
    closed: u32,
}

impl Frames {
    fn count(&mut self, said: &Said<'_>) {
        match said {
            Said::Open(..) | Said::Changed(..) => self.opened += 1,
            Said::Closed(..) => self.closed += 1,
        }
    }
}

/// What is in a segment of carried-over calls.
#[derive(Default)]
struct Carried {
    /// Short key and length of each state.
    states: Vec<(u64, u64)>,
    /// Bytes of ends that are remembered for some time, and when the last of these was.
    ends: (u64, Order),
    /// Bytes of ends that are remembered throughout the start of the segment.
    lasting: u64,
}

impl Carried {
    fn add(&mut self, said: &Said<'_>, length: u64, start: u64) {
        match said {
            Said::Closed(_, None) => {}
            Said::Closed(_, Some(order)) if *order == Order::throughout(start) => self.lasting += length,
            Said::Closed(_, Some(order)) if order.monotonic == u64::MAX => {}
            Said::Closed(_, Some(order)) => self.ends = (self.ends.0 + length, self.ends.1.max(*order)),
            Said::Open(..) | Said::Changed(..) => self.states.push((short(said.call()), length)),
        }
    }
}

/// What a segment that is about to go says of calls.
#[derive(Default)]
struct Leaving {
    frames: HashMap<u128, Frames>,
    /// Calls whose end somebody saw.
    seen: HashSet<u128>,
    /// For each call without an end, its last whole state and last change. The state that the change refers to may be elsewhere.
    states: HashMap<u128, [Option<(Order, u64)>; 2]>,
    /// The end of each call whose dialog may come back.
    remembered: HashMap<u128, ((bool, Order), u64)>,
}

impl Leaving {
    fn add(&mut self, said: &Said<'_>, offset: u64, is_open: bool, alive: Option<(u64, Moment)>) {
        let call = said.call();
        self.frames.entry(call).or_default().count(said);
        if let Said::Closed(end, order) = said {
            if !end.guessed {
                self.seen.insert(call);
            }
            // An end that somebody saw counts more than one that nobody saw.
            if let Some(order) = order.filter(|order| order.is_remembered(alive)).map(|order| (!end.guessed, order))
                && self.remembered.get(&call).is_none_or(|(known, _)| *known <= order)
            {
                self.remembered.insert(call, (order, offset));
            }
        }
        if let Some(order) = said.order().filter(|_| is_open) {
            let last = &mut self.states.entry(call).or_default()[usize::from(matches!(said, Said::Changed(..)))];
            if last.is_none_or(|(known, _)| known <= order) {
                *last = Some((order, offset));
            }
        }
    }
}

/// A segment from which nothing is needed any more.
#[must_use = "its states count until the tracker forgets it"]
pub struct Released {
    name: SegmentName,
    appended: bool,
    frames: HashMap<u128, Frames>,
}

impl Released {
    /// Something from it was appended elsewhere: [`Tracker::follow`] has to see that before another segment is removed.
    pub fn has_appended(&self) -> bool {
        self.appended
    }
}

/// Follows the call frames of all segments, to keep what is still needed when a segment is removed.
///
/// During a long outage of a sink it knows every call of the outage, so it only counts frames: a call takes
/// 16 bytes and a share of the table, about 40 MB for 10^6 calls.
pub struct Tracker {
    dir: Dir,
    /// Up to where each segment was read.
    positions: BTreeMap<SegmentName, u64>,
    /// Frames of every call, by [`short`] key.
    frames: HashMap<u64, Frames>,
    /// What is in the segments of carried-over calls.
    carried: BTreeMap<SegmentName, Carried>,
    /// Segments that were released and are still there.
    released: BTreeSet<SegmentName>,
    /// A segment could not be read: what it says about calls is unknown, so every end is still needed.
    unseen: bool,
}

/// Half of a call's key, which is a hash: two calls of one journal do not share it in practice.
const fn short(call: u128) -> u64 {
    call as u64
}

impl Tracker {
    /// A tracker that knows nothing yet; the first [`Tracker::follow`] reads everything.
    pub fn new(dir: &Dir) -> Tracker {
        Tracker { dir: dir.clone(), positions: BTreeMap::new(), frames: HashMap::new(), carried: BTreeMap::new(), released: BTreeSet::new(), unseen: false }
    }

    /// Has the call ended? Its end is known as long as anything else about it is in the journal.
    pub fn has_ended(&self, call: u128) -> bool {
        self.frames.get(&short(call)).is_some_and(|all| all.closed > 0)
    }

    /// Reads what has been appended since the last time, and tells `hear` what it says about calls that are up.
    pub fn follow(&mut self, segments: &[Segment], mut hear: impl FnMut(Heard)) {
        self.unseen = false;
        self.positions.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
        for segment in segments {
            let known = self.positions.get(&segment.name).copied().unwrap_or(0);
            if known >= segment.size {
                continue;
            }
            let mut reader = match self.dir.read(segment.name, known) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => {
                    self.dir.pass_over(segment.name, &e);
                    self.unseen = true;
                    continue;
                }
                Ok(reader) => reader,
            };
            let (frames, carried, boot) = (&mut self.frames, &mut self.carried, self.dir.boot());
            let result = each_of_call(&mut reader, |f, said| {
                let said = match said {
                    Ok(said) => said,
                    Err(call) => {
                        // Before such a record is delivered, it has to be known whether its call has ended.
                        frames.entry(short(call)).or_default().opened += 1;
                        return;
                    }
                };
                frames.entry(short(said.call())).or_default().count(&said);
                // `Standing` is only for what was written in this start.
                if said.order().is_none_or(|order| order.start == boot && segment.name.boot == boot)
                    && let Some(heard) = heard(segment.name, f, &said)
                {
                    hear(heard);
                }
                if segment.name.rank == CARRY_RANK {
                    carried.entry(segment.name).or_default().add(&said, f.end - f.offset, segment.name.boot);
                }
            });
            // Even after an error: nothing may be counted twice.
            self.positions.insert(segment.name, reader.position());
            if let Err(e) = result {
                self.dir.pass_over(segment.name, &e);
                self.unseen = true;
            }
        }
    }

    /// The segment is about to go: what is still needed of it is appended through `writer`, and
    /// synced, because its removal may reach the disk first. On `Err` it must stay. Once it has gone,
    /// [`Tracker::forget`] must be told. Until then it may be released again, which appends nothing more.
    pub fn release(&mut self, name: SegmentName, writer: &mut Writer) -> io::Result<Released> {
        if self.released.contains(&name) {
            return Ok(Released { name, appended: false, frames: self.leaving(name)?.frames });
        }
        let leaving = self.leaving(name)?;
        let appended = self.carry_over(name, &leaving, writer)?;
        // Nobody may rely on its ends from now on. States elsewhere that need them stay until the segment is gone.
        self.uncount(leaving.frames.iter().map(|(call, here)| (*call, Frames { opened: 0, ..*here })));
        self.released.insert(name);
        Ok(Released { name, appended, frames: leaving.frames })
    }

    /// A segment that was released has gone.
    pub fn forget(&mut self, gone: Released) {
        self.uncount(gone.frames.into_iter().map(|(call, here)| (call, Frames { closed: 0, ..here })));
        self.positions.remove(&gone.name);
        self.carried.remove(&gone.name);
        self.released.remove(&gone.name);
        if self.frames.capacity() > 4 * self.frames.len() {
            self.frames.shrink_to_fit();
        }
    }

    /// Reads what a segment says about calls, as far as it was followed. A segment that no longer exists says nothing.
    fn leaving(&self, name: SegmentName) -> io::Result<Leaving> {
        let mut leaving = Leaving::default();
        let known_to = self.positions.get(&name).copied().unwrap_or(0);
        let alive = self.dir.last_alive();
        let mut reader = match self.dir.read_also_kept(name, 0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(leaving),
            other => other?,
        };
        each_of_call(&mut reader, |f, said| match said {
            _ if f.end > known_to => {}
            Err(call) => leaving.frames.entry(call).or_default().opened += 1,
            Ok(said) => {
                let is_open = self.frames.get(&short(said.call())).is_none_or(|all| all.closed == 0);
                leaving.add(&said, f.offset, is_open, alive);
            }
        })?;
        Ok(leaving)
    }

    /// Appends what is still needed of a segment, and syncs it. Returns whether there was anything.
    fn carry_over(&self, name: SegmentName, leaving: &Leaving, writer: &mut Writer) -> io::Result<bool> {
        let mut appended = !leaving.states.is_empty();
        for [whole, change] in leaving.states.values().copied() {
            let later = change.filter(|(order, _)| whole.is_none_or(|(of_whole, _)| *order > of_whole));
            for (_, offset) in whole.into_iter().chain(later) {
                self.copy(name, offset, writer)?;
            }
        }
        for (call, here) in &leaving.frames {
            let all = self.frames.get(&short(*call)).copied().unwrap_or_default();
            if all.closed == 0 || all.closed != here.closed {
                continue;
            }
            if let Some((_, offset)) = leaving.remembered.get(call) {
                self.copy(name, *offset, writer)?;
                appended = true;
            } else if all.opened > here.opened || self.unseen {
                // Other segments have states of the call: the end must stay as long as they do.
                writer.append_closed(End { call: *call, guessed: !leaving.seen.contains(call), dialog: None })?;
                appended = true;
            }
        }
        if appended {
            writer.sync()?;
        }
        Ok(appended)
    }

    /// Removes frames from the count.
    fn uncount(&mut self, frames: impl Iterator<Item = (u128, Frames)>) {
        for (call, here) in frames {
            if let Entry::Occupied(mut known) = self.frames.entry(short(call)) {
                let left = known.get_mut();
                left.opened = left.opened.saturating_sub(here.opened);
                left.closed = left.closed.saturating_sub(here.closed);
                if left.opened == 0 && left.closed == 0 {
                    known.remove();
                }
            }
        }
    }

    /// How many bytes of a segment of carried-over calls [`Tracker::release`] would append again.
    pub fn needed(&self, name: SegmentName) -> u64 {
        if self.unseen {
            // The ends in it, too.
            return u64::MAX;
        }
        let Some(carried) = self.carried.get(&name) else { return 0 };
        let states = carried.states.iter().filter(|(call, _)| self.frames.get(call).is_some_and(|all| all.closed == 0));
        let bytes = |(bytes, order): (u64, Order)| if bytes > 0 && order.is_remembered(self.dir.last_alive()) { bytes } else { 0 };
        states.map(|(_, length)| length).sum::<u64>() + bytes(carried.ends) + bytes((carried.lasting, Order::throughout(name.boot)))
    }

    /// The state keeps its place in the order: a newer one may be elsewhere, or may be appended at this moment.
    fn copy(&self, segment: SegmentName, offset: u64, writer: &mut Writer) -> io::Result<()> {
        match self.dir.read(segment, offset)?.read()? {
            Item::Frame(f) => writer.append_about_call(f.payload),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// What a frame says, for those who follow calls that are up.
fn heard(segment: SegmentName, frame: &Frame<'_>, said: &Said<'_>) -> Option<Heard> {
    let (call, order, head, is_change) = match said {
        Said::Open(call, order, state) => (*call, *order, *state, false),
        Said::Changed(call, order, payload) => (*call, *order, Changed::read(payload)?.head, true),
        Said::Closed(end, _) => return Some(Heard::Over(end.call)),
    };
    let (facts, _) = Facts::decode(head)?;
    let at = Standing { rank: segment.rank, pid: segment.pid, seq: segment.seq, offset: u32::try_from(frame.offset).ok()?, monotonic: order.monotonic };
    Some(Heard::Up { call, at, is_change, facts })
}

/// Reads to the present end, and passes on every frame of a call, and the calls of start and interim records.
fn each_of_call(reader: &mut Reader, mut f: impl FnMut(&Frame<'_>, Result<Said<'_>, u128>)) -> io::Result<()> {
    reader.each_frame(|frame| match frame.kind {
        KIND_CALL => {
            if let Some(said) = read_payload(frame.payload) {
                f(frame, Ok(said));
            }
        }
        KIND_RECORD => {
            if let Some(record) = Record::report_of(frame.payload) {
                f(frame, Err(record.call_key()));
            }
        }
        // A record that waits separately, for its table for instance, must find the end of its call as well.
        KIND_PARKED => {
            if let Some((_, KIND_RECORD, _, payload)) = Parked::decode(frame.payload, frame.wall)
                && let Some(record) = Record::report_of(payload)
            {
                f(frame, Err(record.call_key()));
            }
        }
        _ => {}
    })
}

/// Reads to the present end, and passes on every frame of a call.
fn each_call(reader: &mut Reader, mut f: impl FnMut(&Frame<'_>, Said<'_>)) -> io::Result<()> {
    reader.each_frame(|frame| {
        if frame.kind == KIND_CALL
            && let Some(said) = read_payload(frame.payload)
        {
            f(frame, said);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::context::Base;
    use crate::journal::said::REMEMBERED;
    use crate::journal::{JournalSync, REQUEUE_RANK, SinkId, frame};

    fn writer(dir: &Dir, pid: u32) -> Writer {
        Writer::new(dir, 1, pid, JournalSync::Os, 1 << 20)
    }

    /// Removes a segment. Returns whether anything from it was appended.
    fn go(tracker: &mut Tracker, name: SegmentName, carry: &mut Writer) -> bool {
        let released = tracker.release(name, carry).unwrap();
        let appended = released.has_appended();
        tracker.dir.remove(name).unwrap();
        tracker.forget(released);
        appended
    }

    fn open(dir: &Dir) -> Vec<(u128, Vec<u8>)> {
        let mut calls: Vec<_> = scan(dir).unwrap().calls.into_iter().map(|(id, call)| (id, call.state)).collect();
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
        step(&dir, old, 3_600_000_000);
        assert_eq!(open(&dir), [(1, b"second".to_vec())]);

        // Nor for a copy.
        let mut tracker = Tracker::new(&dir);
        tracker.follow(&dir.segments().unwrap(), |_| {});
        go(&mut tracker, old, &mut Writer::new(&dir, CARRY_RANK, 9, JournalSync::Os, 1 << 20));
        assert_eq!(open(&dir), [(1, b"second".to_vec())]);

        // The last start was in an hour, and has left no segment that says so.
        let ahead = dir.boot() + (3_600_000_000 << 12);
        std::fs::write(tmp.path().join("start"), format!("{ahead:016x}\n")).unwrap();
        drop((a, b, tracker, dir));
        let next = Dir::open(tmp.path()).unwrap();
        assert!(next.boot() > ahead);
        writer(&next, 3).append_call(1, b"third").unwrap();
        assert_eq!(open(&next), [(1, b"third".to_vec())]);
        // A tool puts entries back while the server runs; the server must not take them for entries of an earlier start.
        assert!(Dir::open_to_read(tmp.path()).unwrap().boot() > next.boot());
        // A segment shows it as well as the file.
        let name = SegmentName { boot: next.boot() + (3_600_000_000 << 12), rank: 1, pid: 1, seq: 0 };
        std::fs::write(tmp.path().join(name.to_string()), frame::HEADER).unwrap();
        drop(next);
        assert!(Dir::open(tmp.path()).unwrap().boot() > name.boot);
    }

    /// Adds microseconds to the time of the only frame of a segment.
    fn step(dir: &Dir, name: SegmentName, micros: i64) {
        let path = dir.path().join(name.to_string());
        let mut bytes = std::fs::read(&path).unwrap();
        let (header, frame) = bytes.split_at_mut(frame::HEADER.len());
        assert_eq!(header, frame::HEADER);
        let wall = &mut frame[frame::PREFIX + 2..frame::PREFIX + frame::BODY_MIN];
        let stepped = i64::from_le_bytes(wall.try_into().unwrap()) + micros;
        wall.copy_from_slice(&stepped.to_le_bytes());
        let crc = frame::crc(*frame.first_chunk().unwrap(), &frame[frame::PREFIX..]);
        frame[4..frame::PREFIX].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(path, &bytes).unwrap();
    }

    /// The clock was an hour ahead for the first state, and is right now.
    #[test]
    fn the_last_sign_of_life_is_the_last_one_whatever_the_time_was() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let begin = Moment::now();
        writer(&dir, 1).append_call(1, b"ahead").unwrap();
        let first = dir.segments().unwrap()[0].name;
        step(&dir, first, 3_600_000_000);
        // Only that: it is no later than now, and by the other clock when it was.
        let seen = scan(&dir).unwrap().last_seen.unwrap();
        assert!(seen.wall <= Moment::wall_now() && seen.wall >= begin.wall, "{seen:?}");
        assert!((begin.mono..=Moment::now().mono).contains(&seen.mono) && seen.boot == 0, "{seen:?}");

        writer(&dir, 2).append_call(2, b"right").unwrap();
        let then = Moment::now();
        let seen = scan(&dir).unwrap().last_seen.unwrap();
        assert!((begin.wall..=then.wall).contains(&seen.wall) && (begin.mono..=then.mono).contains(&seen.mono), "{seen:?}");

        // A sign of life of the delivery process tells the boot of the machine, too: durations need no wall clock.
        dir.still_alive().unwrap();
        let seen = scan(&dir).unwrap().last_seen.unwrap();
        assert!(seen.mono >= then.mono && seen.boot == then.boot, "{seen:?}");
        let answered = Moment { wall: Wall(seen.wall.0 + 400 * 86_400_000_000), ..then };
        assert!(seen.millis_since(answered) < 60_000, "{seen:?}");

        // A later start counts, with whatever is known about it.
        drop(dir);
        let next = Dir::open(tmp.path()).unwrap();
        writer(&next, 3).append_call(3, b"next").unwrap();
        let last = scan(&next).unwrap().last_seen.unwrap();
        assert!(last.mono >= seen.mono && last.boot == 0, "{last:?}");
        // The file may hold anything.
        for text in ["", "0", "ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff", "x 1 2 3"] {
            std::fs::write(tmp.path().join("lock"), text).unwrap();
            assert!(scan(&next).unwrap().last_seen.is_some());
        }
    }

    /// The server ends again, any number of times, before a dialog has claimed its calls.
    #[test]
    fn a_call_that_nobody_claimed_ended_with_the_last_server_that_followed_it() {
        let tmp = tempfile::tempdir().unwrap();
        let start = || {
            let dir = Dir::open(tmp.path()).unwrap();
            dir.keep_ends(&scan(&dir).unwrap().ends()).unwrap();
            dir
        };
        let until =
            |dir: &Dir| -> BTreeMap<u128, Moment> { scan(dir).unwrap().calls.into_iter().filter_map(|(id, call)| Some((id, call.last_seen?))).collect() };
        let last_seen = |dir: &Dir| {
            dir.still_alive().unwrap();
            scan(dir).unwrap().last_seen.unwrap()
        };
        let first = start();
        let mut w = writer(&first, 1);
        w.append_call(1, b"never claimed").unwrap();
        let whole = w.append_call(2, b"claimed").unwrap();
        w.append_change(2, Base { monotonic: whole, rest: 7, prefix: 7, suffix: 0 }, b"", b"").unwrap();
        let first_seen = last_seen(&first);
        assert_eq!(until(&first), BTreeMap::from([(1, first_seen), (2, first_seen)]));
        drop((w, first));
        // A server that ends at once, and one that ends before its first sign of life.
        drop(start());
        let second = start();
        writer(&second, 2).append_again(2, |out| out.extend_from_slice(b"claimed")).unwrap();
        let claimed = until(&second);
        assert_eq!(claimed[&1], first_seen);
        assert!((first_seen.mono..=Moment::now().mono).contains(&claimed[&2].mono) && claimed[&2] != first_seen, "{claimed:?}");
        writer(&second, 3).append_call(3, b"new").unwrap();
        let second_seen = last_seen(&second);
        let want = BTreeMap::from([(1, first_seen), (2, second_seen), (3, second_seen)]);
        assert_eq!(until(&second), want);
        drop(second);

        // Nobody claims one any more, and their segments go.
        for pid in [4, 5] {
            let later = start();
            assert!(last_seen(&later).mono > second_seen.mono);
            let (mut tracker, mut carry) = (Tracker::new(&later), Writer::new(&later, CARRY_RANK, pid, JournalSync::Os, 1 << 20));
            for segment in later.segments().unwrap() {
                tracker.follow(&later.segments().unwrap(), |_| {});
                go(&mut tracker, segment.name, &mut carry);
            }
            assert_eq!((until(&later), open(&later).len()), (want.clone(), 3));
        }
        // Calls from before this file existed have no line, and the file may contain anything: then the last sign of life of all counts.
        let last = start();
        let at_last = last_seen(&last);
        let hostile = format!("{}\n{}", "0 0 0", ["ffffffffffffffff"; 4].join(" "));
        for text in ["", "x 1 2 3\n", &hostile] {
            std::fs::write(tmp.path().join("ends"), text).unwrap();
            assert!(until(&last).values().all(|m| *m == at_last));
        }
        std::fs::remove_file(tmp.path().join("ends")).unwrap();
        std::fs::create_dir(tmp.path().join("ends")).unwrap();
        assert!(until(&last).values().all(|m| *m == at_last) && last.keep_ends(&scan(&last).unwrap().ends()).is_err());
    }

    /// `accctl deliver` and `accctl requeue` write while no server runs.
    #[test]
    fn what_accctl_writes_is_no_sign_of_life_of_the_server() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        writer(&dir, 1).append_call(1, b"state").unwrap();
        let name = dir.segments().unwrap()[0].name;
        dir.still_alive().unwrap();
        let seen = scan(&dir).unwrap().last_seen.unwrap();
        let mut tracker = Tracker::new(&dir);
        tracker.follow(&dir.segments().unwrap(), |_| {});
        go(&mut tracker, name, &mut Writer::new(&dir, CARRY_RANK, 9, JournalSync::Os, 1 << 20));
        Writer::new(&dir, REQUEUE_RANK, 9, JournalSync::Os, 1 << 20).append_line(SinkId::Log, b"line").unwrap();
        assert_eq!(open(&dir), [(1, b"state".to_vec())]);
        assert_eq!(scan(&dir).unwrap().last_seen, Some(seen));
    }

    /// A delivery process removes segments while another process reads them all.
    #[test]
    fn reading_while_segments_go_finds_every_open_call_and_no_ended_one() {
        let orders = [vec![0], vec![1], vec![2], vec![0, 1], vec![1, 0], vec![2, 0], vec![0, 2], vec![0, 1, 2], vec![2, 1, 0]];
        // The steps of the scan (a listing or an opening) before which the first is carried over, and before which they are removed.
        let steps = (0..6).flat_map(|at| (0..4).map(move |later| (at, at + later)));
        // They may be removed in the middle of a listing.
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
            let delivery = std::cell::RefCell::new((Tracker::new(&dir), carry, 0, Vec::new()));
            let step = || {
                let (tracker, carry, steps, released) = &mut *delivery.borrow_mut();
                for (n, i) in gone.iter().enumerate() {
                    if *steps == if n == 0 { at } else { then } {
                        tracker.follow(&dir.segments().unwrap(), |_| {});
                        released.push(tracker.release(names[*i], carry).unwrap());
                        *carry = new_carry();
                    }
                    if *steps == then {
                        dir.remove(names[*i]).unwrap();
                    }
                }
                if *steps == then {
                    released.drain(..).for_each(|gone| tracker.forget(gone));
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
            let mut calls: Vec<_> = scan_with(&dir, list, read).unwrap().calls.into_iter().map(|(id, call)| (id, call.state)).collect();
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
                tracker.follow(&dir.segments().unwrap(), |_| {});
                go(&mut tracker, names[i], &mut carry);
                assert_eq!(open(&dir), want, "{order:?} after {i}");
            }
        }
    }

    /// An end that nobody saw is known as one wherever it is carried to, until somebody has seen one.
    #[test]
    fn a_guessed_end_stays_one() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let (mut states, mut ends) = (writer(&dir, 1), writer(&dir, 2));
        for call in [1, 2, 3] {
            states.append_call(call, b"state").unwrap();
        }
        let guess = |call| End { guessed: true, ..End::seen(call) };
        ends.append_closed(guess(1)).unwrap();
        ends.append_end(2, &[]).unwrap();
        ends.append_closed(guess(3)).unwrap();
        ends.append_end(3, &[]).unwrap();
        let want = HashMap::from([(1, true), (2, false), (3, false)]);
        assert_eq!(scan(&dir).unwrap().ended, want);
        let gone = dir.segments().unwrap()[1].name;
        let mut tracker = Tracker::new(&dir);
        tracker.follow(&dir.segments().unwrap(), |_| {});
        assert!(go(&mut tracker, gone, &mut writer(&dir, 9)));
        let open = scan(&dir).unwrap();
        assert_eq!((open.ended, open.calls.len()), (want, 0));
    }

    /// Whole states and changes of them, by three workers, while segments go in any order.
    #[test]
    fn changes_find_their_state_wherever_it_stands() {
        let base = |monotonic, prefix, suffix| Base { monotonic, rest: 8, prefix, suffix };
        for order in [[0usize, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [0, 2, 1], [2, 0, 1]] {
            let tmp = tempfile::tempdir().unwrap();
            let dir = Dir::open(tmp.path()).unwrap();
            {
                let mut w: Vec<_> = (1..4).map(|pid| writer(&dir, pid)).collect();
                // Changed twice by others: the last counts, which is of the whole state too.
                let first = w[0].append_call(1, b"head:abcdefgh").unwrap();
                w[1].append_change(1, base(first, 2, 3), b"HEAD:", b"--").unwrap();
                w[2].append_change(1, base(first, 1, 3), b"H:", b"***").unwrap();
                // Changed, and whole once more.
                let first = w[2].append_call(2, b"head:abcdefgh").unwrap();
                w[0].append_change(2, base(first, 8, 0), b"", b"").unwrap();
                w[1].append_call(2, b"whole").unwrap();
                // The change is of the second whole state; an end comes after a change.
                w[0].append_call(3, b"first").unwrap();
                let second = w[1].append_call(3, b"second:12345678").unwrap();
                w[0].append_change(3, base(second, 0, 0), b"none", b"").unwrap();
                let first = w[1].append_call(4, b"12345678").unwrap();
                w[2].append_change(4, base(first, 8, 0), b"head", b"").unwrap();
                w[0].append_end(4, &[]).unwrap();
            }
            let names: Vec<_> = dir.segments().unwrap().iter().map(|s| s.name).collect();
            let want = [(1, b"H:a***fgh".to_vec()), (2, b"whole".to_vec()), (3, b"none".to_vec())];
            assert_eq!(open(&dir), want);
            let (mut tracker, mut carry) = (Tracker::new(&dir), writer(&dir, 9));
            for i in order {
                tracker.follow(&dir.segments().unwrap(), |_| {});
                go(&mut tracker, names[i], &mut carry);
                assert_eq!(open(&dir), want, "{order:?} after {i}");
            }
        }
    }

    /// Damage took the whole state, or it is another one: what is left is given back.
    #[test]
    fn a_change_without_its_state_is_not_taken_for_one() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let mut w = writer(&dir, 1);
        let known = w.append_call(1, b"old").unwrap();
        w.append_change(1, Base { monotonic: known + 1, rest: 3, prefix: 3, suffix: 0 }, b"", b"").unwrap();
        w.append_change(2, Base { monotonic: 7, rest: 0, prefix: 0, suffix: 0 }, b"", b"").unwrap();
        for (call, rest, prefix, suffix) in [(3, 4, 0, 0), (4, 3, 4, 0), (5, 3, 0, 4), (6, 3, 2, 2), (7, u32::MAX, u32::MAX, u32::MAX)] {
            let monotonic = w.append_call(call, b"old").unwrap();
            w.append_change(call, Base { monotonic, rest, prefix, suffix }, b"head", b"middle").unwrap();
        }
        let old = |call| (call, b"old".to_vec());
        assert_eq!(open(&dir), [old(1), (2, Vec::new()), old(3), old(4), old(5), old(6), old(7)]);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_a_reader_of_changes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), whole in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20)) {
            let _ = Changed::read(&bytes).map(|c| c.of(&whole));
            let _ = read_payload(&bytes);
        }
    }

    /// The host may restore a dialog although its call is over: the next start has to know, whichever segments were removed meanwhile.
    #[test]
    fn the_end_of_a_call_is_remembered_while_its_dialog_may_come_back() {
        let tmp = tempfile::tempdir().unwrap();
        let remembered = |dir: &Dir| {
            let mut dialogs: Vec<_> = scan(dir).unwrap().dialogs.into_iter().collect();
            dialogs.sort();
            dialogs
        };
        // Every segment goes, and what is needed of it into those of one more writer. Returns how much of that is needed.
        let all_go = |dir: &Dir, pid: u32| {
            let mut carry = Writer::new(dir, CARRY_RANK, pid, JournalSync::Os, 1 << 20);
            let mut tracker = Tracker::new(dir);
            for name in dir.segments().unwrap().iter().map(|s| s.name) {
                tracker.follow(&dir.segments().unwrap(), |_| {});
                go(&mut tracker, name, &mut carry);
            }
            tracker.follow(&dir.segments().unwrap(), |_| {});
            dir.segments().unwrap().iter().map(|s| tracker.needed(s.name)).sum::<u64>()
        };
        let alive = |dir: &Dir, later: u64| {
            let now = Moment::now();
            let line = format!("{:016x} {:016x} {:016x} {:016x}\n", dir.boot(), now.mono as u64 + later, now.wall.0, now.boot);
            std::fs::write(tmp.path().join("lock"), line).unwrap();
        };

        let dir = Dir::open(tmp.path()).unwrap();
        let mut w = writer(&dir, 1);
        w.append_call(1, b"state").unwrap();
        w.append_all(std::iter::empty(), Some(End { dialog: Some(11), ..End::seen(1) })).unwrap();
        w.append_end(2, &[]).unwrap();
        w.append_restored_over(13).unwrap();
        w.append_all(std::iter::empty(), Some(End { call: 4, guessed: true, dialog: Some(14) })).unwrap();
        drop(w);
        assert_eq!(remembered(&dir), [11, 13, 14]);
        // Nobody knows when the server was last alive, then a moment ago, and so long ago that the dialog is gone.
        assert!(all_go(&dir, 1) > 0);
        assert_eq!(remembered(&dir), [11, 13, 14]);
        alive(&dir, REMEMBERED / 2);
        let needed = all_go(&dir, 2);
        assert_eq!(remembered(&dir), [11, 13, 14]);
        // Nobody saw this end, wherever it stands now.
        let ended = scan(&dir).unwrap().ended;
        assert_eq!([1, 4].map(|call| ended.get(&call).copied()), [Some(false), Some(true)]);
        alive(&dir, REMEMBERED + 1);
        assert!((1..needed).contains(&all_go(&dir, 3)));
        assert_eq!(remembered(&dir), [13]);
        assert!(open(&dir).is_empty());

        // A tool delivers between two starts.
        drop(dir);
        let tool = Dir::open(tmp.path()).unwrap();
        all_go(&tool, 4);
        assert_eq!(remembered(&tool), [13]);
        // The next start finds it, and forgets it unless that dialog is still there.
        drop(tool);
        let next = Dir::open(tmp.path()).unwrap();
        assert_eq!(remembered(&next), [13]);
        next.still_alive().unwrap();
        assert_eq!((all_go(&next, 5), remembered(&next).len(), next.segments().unwrap().len()), (0, 0, 0));
    }

    /// A segment may have to wait for its removal, while others go, and calls end.
    #[test]
    fn a_released_segment_that_stays_is_carried_over_once() {
        // The end is in a segment that goes meanwhile, that stays as well, or that comes later.
        for (end_first, end_goes) in [(true, true), (true, false), (false, true), (false, false)] {
            let tmp = tempfile::tempdir().unwrap();
            let dir = Dir::open(tmp.path()).unwrap();
            let new_carry = |pid| Writer::new(&dir, CARRY_RANK, pid, JournalSync::Os, 1 << 20);
            let (mut tracker, mut carry) = (Tracker::new(&dir), new_carry(8));
            let mut states = writer(&dir, 1);
            for call in [1, 2] {
                states.append_call(call, b"state").unwrap();
            }
            let end = |dir: &Dir| writer(dir, 2).append_end(1, &[]).unwrap();
            if end_first {
                end(&dir);
            }
            let of = |dir: &Dir, pid| dir.segments().unwrap().iter().map(|s| s.name).find(|n| n.pid == pid).unwrap();
            let follow = |tracker: &mut Tracker| tracker.follow(&dir.segments().unwrap(), |_| {});
            let stays = of(&dir, 1);
            follow(&mut tracker);
            assert!(tracker.release(stays, &mut carry).unwrap().has_appended());
            if !end_first {
                end(&dir);
            }
            let want = [(2, b"state".to_vec())];
            for _ in 0..3 {
                follow(&mut tracker);
                assert!(!tracker.release(stays, &mut carry).unwrap().has_appended());
                assert_eq!(open(&dir), want);
            }
            let end = of(&dir, 2);
            if end_goes {
                // The state is still there.
                assert!(go(&mut tracker, end, &mut carry));
            } else {
                drop(tracker.release(end, &mut carry).unwrap());
            }
            follow(&mut tracker);
            assert_eq!(open(&dir), want);
            for name in [stays, end] {
                go(&mut tracker, name, &mut carry);
                follow(&mut tracker);
                assert_eq!(open(&dir), want);
            }
            // Nothing is left of it when the other call has ended.
            drop(carry);
            writer(&dir, 3).append_end(2, &[]).unwrap();
            let mut last = new_carry(9);
            for pid in [8, 3] {
                follow(&mut tracker);
                go(&mut tracker, of(&dir, pid), &mut last);
            }
            drop(last);
            follow(&mut tracker);
            for segment in dir.segments().unwrap() {
                go(&mut tracker, segment.name, &mut new_carry(10));
            }
            assert_eq!((dir.segments().unwrap().len(), tracker.frames.len()), (0, 0));
        }
    }

    /// A worker changes a call while its segment is removed: the change must be kept.
    #[test]
    fn a_state_kept_for_a_segment_that_goes_is_no_newer_than_it_was() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let (mut a, mut b, mut carry) = (writer(&dir, 1), writer(&dir, 2), writer(&dir, 9));
        a.append_call(1, b"old").unwrap();
        let gone = dir.segments().unwrap()[0].name;
        let mut tracker = Tracker::new(&dir);
        tracker.follow(&dir.segments().unwrap(), |_| {});
        b.append_call(1, b"new").unwrap();
        go(&mut tracker, gone, &mut carry);
        assert_eq!(open(&dir), [(1, b"new".to_vec())]);
        assert_eq!(dir.segments().unwrap().len(), 2);
    }
}
