//! Layout of a context in the arena.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::accounting::call_key::TAG_IN_KEY;
use crate::accounting::clock::{Moment, Wall};
use crate::accounting::context::{Facts, Part, after_rang};
use crate::host::arena::OBJECT;
use crate::interprocess::{Content, Flags, Lock};

/// A context; its [`Instants`] are in the next block, its [`Marked`] in the one after that.
#[repr(C)]
pub(super) struct Slot {
    pub refs: AtomicU32,
    pub lock: Lock,
    /// By [`Part`]; the part of the values is a [`super::super::values::Directory`].
    pub parts: [Content; 3],
    /// Room of [`SPARE`] bytes for the answer's [`Part::Reply`], while a call is ringing.
    pub spare: Content,
    /// Block of the context whose values are written for this one (D13), with a reference; 0 = itself.
    pub call: AtomicU32,
    /// Bytes of [`Slot::base`] after its head.
    pub base_rest: AtomicU32,
    /// Flags and the cause of the end; see [`flags_of`].
    pub flags: Flags,
    /// The last whole state in the journal, by the time at which it was written; 0 = none. For the holder of
    /// the lock, like the three numbers about it.
    pub base: AtomicU64,
    /// How many of these bytes are still the same, at the beginning and at the end.
    pub base_prefix: AtomicU32,
    pub base_suffix: AtomicU32,
}

/// What is accounted where, in the block after the [`Instants`].
#[repr(C)]
pub(super) struct Marked {
    pub marks: [AtomicU64; 2],
    /// [`crate::accounting::context::Change::call`], once it was asked for: it is valid if the first word is not 0.
    pub call: [AtomicU64; 2],
    /// All parts take at most this many bytes, encoded; 0 = unknown. For the holder of the lock.
    pub bound: AtomicU64,
}

#[repr(C)]
pub(super) struct Instants {
    pub answered: [AtomicU64; 3],
    pub ended: [AtomicU64; 3],
    pub revision: AtomicU64,
}

const _: () = assert!(size_of::<Slot>() <= OBJECT && size_of::<Instants>() <= OBJECT && size_of::<Marked>() <= OBJECT);

/// Four blocks: for a To tag and a reason of some 220 bytes together. Longer ones are clipped, but only
/// if the arena is full.
pub(super) const SPARE: usize = 236;
const _: () = assert!(SPARE >= Part::Reply.empty_len() + "200".len() + TAG_IN_KEY);

/// In [`Slot::flags`], above the flags of the encoding and the cause of the end: a dialog of the host
/// has this call.
pub(super) const CLAIMED: u64 = 1 << 16;
/// In [`Slot::flags`]: the journal had this call as one in progress.
pub(super) const IN_JOURNAL: u64 = 1 << 17;
/// In [`Slot::flags`]: another server has said that it has the call.
pub(super) const ELSEWHERE: u64 = 1 << 18;
/// In [`Slot::flags`]: statistics count the call through another context.
pub(super) const UNCOUNTED: u64 = 1 << 19;
/// In [`Slot::flags`]: it is counted among the contexts that will make records for the journal.
pub(super) const OWING: u64 = 1 << 20;
/// Where the number of attempts is, and above it the time until the request rang.
pub(super) const ATTEMPTS: u32 = 24;
pub(super) const RANG: u32 = 32;
/// The bits that are facts of the context, without the five flags above.
pub(super) const FACTS: u64 = !(CLAIMED | IN_JOURNAL | ELSEWHERE | UNCOUNTED | OWING);

pub(super) fn flags_of(facts: &Facts) -> u64 {
    let cause = facts.ended.map_or(0, |(_, cause)| cause as u8);
    u64::from(after_rang(facts.rang)) << RANG | u64::from(facts.attempts) << ATTEMPTS | u64::from(cause) << 8 | u64::from(facts.flags())
}

pub(super) fn store(place: &[AtomicU64; 3], m: Moment) {
    for (word, value) in place.iter().zip([m.wall.0 as u64, m.mono as u64, m.boot]) {
        word.store(value, Ordering::Relaxed);
    }
}

pub(super) fn load(place: &[AtomicU64; 3]) -> Moment {
    let [wall, mono, boot] = place.each_ref().map(|w| w.load(Ordering::Relaxed));
    Moment { wall: Wall(wall as i64), mono: mono as i64, boot }
}
