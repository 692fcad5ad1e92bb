//! Which calls have their CDRs, and which of them the other nodes were told, in memory that all processes share.

use std::collections::HashSet;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use once_cell::sync::OnceCell;

use super::message::Named;
use crate::accounting::clock::Moment;

/// How many settled calls are remembered: 2^20, which is some hours of a busy server.
const BUCKETS: usize = 1 << 17;
/// How many calls at a time may have a BYE that waits for its reply: 2^13.
const ENDING: usize = 1 << 10;
/// Places in a bucket; in a full one, a new call replaces another.
const PLACES: usize = 8;
/// How many calls that the other nodes were last told, and calls whose values were last changed, are kept for nodes that did not
/// hear it.
const TOLD: usize = 1 << 16;
/// Words for the name of a dialog (at most 17 bytes), after its length.
const NAME: usize = 3;
/// Most nodes that can be away at a time and still be told everything when they are back.
const AWAY: usize = 32;
/// How many rounds without an answer are waited for if nobody can be reached.
const ROUNDS_ALONE: u64 = 1;
/// The same if the host could send the question: that node hears it and should answer. But the link may work
/// in one direction only.
const ROUNDS_UNANSWERED: u64 = 9;

/// How the end of a call with a CDR is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Somebody ended it.
    Settled,
    /// A node concluded it, because it had lost the call or the lifetime was over there.
    Guessed,
}

impl Known {
    /// [`Known`] for an end that nobody saw (`guessed`), or that somebody saw.
    pub const fn of(guessed: bool) -> Known {
        if guessed { Known::Guessed } else { Known::Settled }
    }
}

/// This bit of a key's upper half, or of an instant, says [`Known::Guessed`].
const GUESSED: u64 = 1 << 63;

/// A set of calls, each with a bit. Zero is not a call. Two halves that do not belong together are not a call either: under
/// concurrent changes, a call may be missed.
#[repr(C)]
pub(super) struct Calls<const N: usize> {
    next: AtomicU64,
    places: [[[AtomicU64; 2]; PLACES]; N],
}

impl<const N: usize> Calls<N> {
    fn bucket(&self, call: u128) -> &[[AtomicU64; 2]; PLACES] {
        // Keys are hashes.
        &self.places[call as usize % N]
    }

    fn find(&self, call: u128) -> Option<&[AtomicU64; 2]> {
        let [low, high] = halves(call);
        self.bucket(call).iter().find(|p| p[0].load(Ordering::Relaxed) == low && (p[1].load(Ordering::Relaxed) ^ high) & !GUESSED == 0)
    }

    /// Adds a call; in a full bucket it replaces another one.
    pub(super) fn insert(&self, call: u128, bit: u64) {
        let places = self.bucket(call);
        let free = || places.iter().find(|p| p.iter().all(|half| half.load(Ordering::Relaxed) == 0));
        let place = self.find(call).or_else(free).unwrap_or_else(|| &places[self.next.fetch_add(1, Ordering::Relaxed) as usize % PLACES]);
        let [low, high] = halves(call);
        place[0].store(low, Ordering::Relaxed);
        place[1].store(high & !GUESSED | bit, Ordering::Relaxed);
    }

    /// The bit of a call; `None` if it is not in the set.
    fn get(&self, call: u128) -> Option<u64> {
        self.find(call).map(|p| p[1].load(Ordering::Relaxed) & GUESSED)
    }

    /// Removes a call.
    pub(super) fn remove(&self, call: u128) {
        if let Some(place) = self.find(call) {
            place.iter().for_each(|half| half.store(0, Ordering::Relaxed));
        }
    }
}

/// What the nodes know about calls, in memory that all processes share. A call that is not found is asked for again.
#[repr(C)]
pub(super) struct Settled {
    /// Answers to the last question.
    pub(super) heard: AtomicU64,
    /// How many messages the question took, because many calls do not fit into one.
    asked: AtomicU64,
    /// Since the last round, an earlier question was answered.
    answered: AtomicU64,
    /// Rounds that passed without an answer.
    silent: AtomicU64,
    /// The last question could be sent.
    pub(super) reached: AtomicU64,
    /// Calls that have their CDRs.
    calls: Calls<BUCKETS>,
    /// Calls whose dialogs are gone and whose CDRs are still to come; see [`super::ends`].
    pub(super) ending: Calls<ENDING>,
    /// Calls that were settled.
    told: Ring,
    /// Calls that go on and whose values were changed.
    changed: Ring,
    /// Number of the first of these that nodes are to be told again; 0 = none.
    again: AtomicU64,
    /// Number of the last one: later changes went to all.
    again_until: AtomicU64,
    /// When to start telling them, as [`Told::at`].
    again_from: AtomicU64,
    away: [Away; AWAY],
}

/// The last calls that the other nodes were told.
#[repr(C)]
struct Ring {
    /// How many there have been.
    count: AtomicU64,
    /// The one with the number n is in the place n % TOLD.
    places: [Told; TOLD],
}

/// A call that the other nodes were told.
#[repr(C)]
struct Told {
    /// Its number in the order of all of them, from 1; 0 while it is being written.
    number: AtomicU64,
    /// When, in microseconds of the monotonic clock, with [`GUESSED`].
    at: AtomicU64,
    call: [AtomicU64; 2],
    dialog: [AtomicU64; NAME],
}

/// A node that could not be reached.
#[repr(C)]
struct Away {
    /// Its number plus 1; 0: none.
    node: AtomicU64,
    /// When that was found out, as [`Told::at`].
    since: AtomicU64,
    /// It is back.
    back: AtomicU64,
}

static SETTLED: OnceCell<&'static Settled> = OnceCell::new();

/// Makes the memory; once, before the fork.
pub fn install() -> std::io::Result<()> {
    let _ = SETTLED.set(fresh()?);
    Ok(())
}

/// The memory, once made.
pub(super) fn memory() -> Option<&'static Settled> {
    SETTLED.get().copied()
}

fn fresh() -> std::io::Result<&'static Settled> {
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing. Pages are
    // taken as they are used.
    let p = unsafe {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), size_of::<Settled>(), prot, libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0)
    };
    let p = NonNull::new(p.cast::<Settled>()).filter(|_| p != libc::MAP_FAILED).ok_or_else(std::io::Error::last_os_error)?;
    // SAFETY: as large as the type, page aligned, never unmapped, zeroed by the kernel, and zero is a value of
    // every field.
    Ok(unsafe { p.as_ref() })
}

fn halves(call: u128) -> [u64; 2] {
    [call as u64, (call >> 64) as u64]
}

/// The call has its CDR. An end that is known for sure stays so.
pub fn remember(call: u128, how: Known) {
    let Some(memory) = SETTLED.get() else { return };
    match how {
        Known::Settled => memory.calls.insert(call, 0),
        Known::Guessed if known(call).is_none() => memory.calls.insert(call, GUESSED),
        Known::Guessed => {}
    }
}

/// How this node knows that the call has its CDR, if it does.
pub fn known(call: u128) -> Option<Known> {
    SETTLED.get()?.calls.get(call).map(|bit| if bit == 0 { Known::Settled } else { Known::Guessed })
}

/// Is the end of this call known here, and its CDR still to come?
pub(super) fn is_ending(call: u128) -> bool {
    SETTLED.get().is_some_and(|memory| memory.ending.get(call).is_some())
}

impl Settled {
    /// See [`super::may_end_orphans`].
    pub(super) fn may_end_orphans(&self) -> bool {
        self.asks(self.asked.load(Ordering::Relaxed));
        if self.answered.swap(0, Ordering::Relaxed) != 0 {
            self.silent.store(0, Ordering::Relaxed);
            return true;
        }
        let silent = self.silent.fetch_add(1, Ordering::Relaxed);
        if self.reached.load(Ordering::Relaxed) == 0 {
            return silent >= ROUNDS_ALONE;
        }
        if silent == ROUNDS_ALONE {
            log::warn!(
                "calls that were in progress when this server last ended wait for another node, which can be reached but does not answer: see the link_state of all nodes in clusterer_list on each of them"
            );
        }
        silent >= ROUNDS_UNANSWERED
    }

    /// A question of this many messages is about to be sent; there are several in a round. Answers to earlier ones no longer count.
    pub(super) fn asks(&self, messages: u64) {
        if self.heard.swap(0, Ordering::Relaxed) >= self.asked.swap(messages, Ordering::Relaxed).max(1) {
            self.answered.store(1, Ordering::Relaxed);
        }
    }

    /// The other nodes were told about a call.
    pub(super) fn note_told(&self, named: &Named, how: Known, at: u64) {
        self.told.note(named, how, at);
    }

    /// What the nodes were told since then, as far as it is remembered.
    pub(super) fn told_since(&self, since: u64) -> Vec<(Named, Known)> {
        self.told.places.iter().filter_map(Told::read).filter(|told| told.at >= since).map(|told| (told.named, told.how)).collect()
    }

    /// The other nodes were told new values of a call.
    pub(super) fn note_changed(&self, named: &Named, at: u64) {
        self.changed.note(named, Known::Settled, at);
    }

    /// Nodes are to be told again the values that were changed since then, but not before `from`.
    pub(super) fn tell_changed_since(&self, since: u64, from: u64) {
        let told = self.changed.places.iter().filter_map(Told::read).filter(|told| told.at >= since);
        let again = told.map(|told| told.number).chain(Some(self.again.load(Ordering::Relaxed)).filter(|n| *n != 0)).min();
        self.again_from.store(from, Ordering::Relaxed);
        self.again_until.store(self.changed.count.load(Ordering::Relaxed), Ordering::Relaxed);
        self.again.store(again.unwrap_or(0), Ordering::Relaxed);
    }

    /// The next of these calls, out of at most this many changes.
    pub(super) fn take_changed(&self, most: u64, now: u64) -> Vec<Named> {
        let again = self.again.load(Ordering::Relaxed);
        if again == 0 || now < self.again_from.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let (last, until) = (self.changed.count.load(Ordering::Relaxed), self.again_until.load(Ordering::Relaxed));
        // Older ones have been overwritten by later ones.
        let first = again.max((last + 1).saturating_sub(TOLD as u64));
        let last = until.min(last);
        let next = (first + most).min(last + 1);
        self.again.store(if next > last { 0 } else { next }, Ordering::Relaxed);
        let mut calls = HashSet::new();
        let of_number = |n: u64| self.changed.places[n as usize % TOLD].read().filter(|told| told.number == n);
        (first..next).filter_map(of_number).map(|told| told.named).filter(|named| calls.insert(named.call)).collect()
    }

    /// A node cannot be reached any more.
    pub(super) fn lost(&self, node: i32, now: u64) {
        let id = u64::from(node as u32) + 1;
        let known = self.away.iter().find(|a| a.node.load(Ordering::Acquire) == id);
        if let Some(away) = known {
            // Away again before it was told: then it counts as away since the first time.
            away.back.store(0, Ordering::Release);
            return;
        }
        for away in &self.away {
            // `back` is 0 in a free place.
            if away.node.compare_exchange(0, id, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                away.since.store(now, Ordering::Release);
                return;
            }
        }
    }

    /// A node can be reached. If it was not lost since this server's start, it counts as away since then.
    pub(super) fn found(&self, node: i32) {
        let id = u64::from(node as u32) + 1;
        let known = self.away.iter().find(|a| a.node.load(Ordering::Acquire) == id);
        let place = known.or_else(|| self.away.iter().find(|a| a.node.compare_exchange(0, id, Ordering::AcqRel, Ordering::Relaxed).is_ok()));
        if let Some(away) = place {
            away.back.store(1, Ordering::Release);
        }
    }

    /// A node that is back, and since when it was away.
    pub(super) fn take_back(&self) -> Option<(i32, u64)> {
        self.away.iter().find(|a| a.back.swap(0, Ordering::AcqRel) != 0).map(|away| {
            let since = away.since.swap(0, Ordering::AcqRel);
            ((away.node.swap(0, Ordering::AcqRel) as u32).wrapping_sub(1) as i32, since)
        })
    }
}

impl Ring {
    fn note(&self, named: &Named, how: Known, at: u64) {
        let Some(name) = packed(&named.dialog) else { return };
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let place = &self.places[number as usize % TOLD];
        place.number.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        place.at.store(if how == Known::Guessed { at | GUESSED } else { at }, Ordering::Relaxed);
        let words = halves(named.call).into_iter().chain(name);
        place.call.iter().chain(&place.dialog).zip(words).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        place.number.store(number, Ordering::Release);
    }
}

/// The contents of a [`Told`].
struct Read {
    number: u64,
    at: u64,
    named: Named,
    how: Known,
}

impl Told {
    /// `None` while it is being written, or if it is empty.
    fn read(&self) -> Option<Read> {
        let number = self.number.load(Ordering::Acquire);
        let (at, [low, high]) = (self.at.load(Ordering::Relaxed), self.call.each_ref().map(|w| w.load(Ordering::Relaxed)));
        let name = self.dialog.each_ref().map(|w| w.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let is_whole = number != 0 && number == self.number.load(Ordering::Relaxed);
        let how = Known::of(at & GUESSED != 0);
        let named = || Named { call: u128::from(high) << 64 | u128::from(low), dialog: unpacked(name) };
        is_whole.then(|| Read { number, at: at & !GUESSED, named: named(), how })
    }
}

/// The length and name of a dialog, in words.
fn packed(dialog: &[u8]) -> Option<[u64; NAME]> {
    let mut bytes = [0; NAME * 8];
    bytes.get_mut(1..=dialog.len())?.copy_from_slice(dialog);
    bytes[0] = dialog.len() as u8;
    let (words, _) = bytes.as_chunks::<8>();
    Some([u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]), u64::from_le_bytes(words[2])])
}

fn unpacked(name: [u64; NAME]) -> Vec<u8> {
    let bytes = name.map(u64::to_le_bytes).concat();
    bytes[1..].get(..usize::from(bytes[0])).unwrap_or_default().to_vec()
}

/// Microseconds of the monotonic clock.
pub(super) fn now() -> u64 {
    Moment::now().mono.max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> &'static Settled {
        install().unwrap();
        SETTLED.get().unwrap()
    }

    #[test]
    fn a_node_that_is_back_is_told_what_it_missed() {
        let memory = memory();
        let named = |n: u128| Named { call: n << 64 | n, dialog: format!("1a2b3c4d.{n:08x}").into_bytes() };
        let names = |calls: Vec<(Named, Known)>| calls.into_iter().filter(|(n, _)| n.call >> 64 == n.call & u128::from(u64::MAX)).collect::<Vec<_>>();
        memory.note_told(&named(1), Known::Settled, 100);
        memory.note_told(&named(2), Known::Guessed, 200);
        memory.note_told(&Named { call: 3, dialog: vec![b'x'; 200] }, Known::Settled, 200);
        let (first, second) = ((named(1), Known::Settled), (named(2), Known::Guessed));
        assert_eq!((names(memory.told_since(0)), names(memory.told_since(150))), (vec![first, second.clone()], vec![second]));
        // Away since it was first lost, although it came and went again meanwhile.
        memory.lost(7, 1000);
        assert_eq!(memory.take_back(), None);
        memory.found(7);
        memory.lost(7, 2000);
        assert_eq!(memory.take_back(), None);
        memory.found(7);
        assert_eq!((memory.take_back(), memory.take_back()), (Some((7, 1000)), None));
        // Never lost: since the start. Node 0 is one, too.
        memory.found(0);
        assert_eq!((memory.take_back(), memory.take_back()), (Some((0, 0)), None));
    }

    #[test]
    fn a_node_that_is_back_hears_of_new_values_some_at_a_time() {
        let memory = fresh().unwrap();
        let named = |n: u128| Named { call: n << 64 | n, dialog: format!("1a2b3c4d.{n:08x}").into_bytes() };
        let take = |most| memory.take_changed(most, 1000).into_iter().map(|n| n.call as u64).collect::<Vec<_>>();
        memory.tell_changed_since(0, 0);
        assert!(take(9).is_empty());
        for (n, at) in [(1, 100), (2, 200), (3, 300), (2, 400), (4, 500), (4, 600)] {
            memory.note_changed(&named(n), at);
        }
        assert!(take(9).is_empty());
        memory.tell_changed_since(200, 1001);
        assert!(take(9).is_empty());
        memory.tell_changed_since(200, 1000);
        assert_eq!([take(2), take(2), take(2), take(2)], [vec![2, 3], vec![2, 4], vec![4], vec![]]);
        memory.tell_changed_since(500, 0);
        // What changes meanwhile goes to all nodes that are there. Another node was away for longer.
        memory.note_changed(&named(5), 700);
        memory.tell_changed_since(400, 0);
        memory.tell_changed_since(600, 0);
        assert_eq!([take(9), take(9)], [vec![2, 4, 5], vec![]]);
        memory.tell_changed_since(700, 0);
        memory.note_changed(&named(6), 750);
        assert_eq!([take(9), take(9)], [vec![5], vec![]]);
        // More than it can remember: the last ones.
        (0..TOLD as u128).for_each(|n| memory.note_changed(&named(n + 10), 800));
        memory.tell_changed_since(100, 0);
        let all = take(2 * TOLD as u64);
        assert_eq!((all.len(), all[0], all.last().copied()), (TOLD, 10, Some(TOLD as u64 + 9)));
    }

    #[test]
    fn a_node_that_can_be_reached_is_waited_for() {
        let memory = fresh().unwrap();
        assert_eq!([memory.may_end_orphans(), memory.may_end_orphans()], [false, true]);
        let memory = fresh().unwrap();
        memory.reached.store(1, Ordering::Relaxed);
        assert_eq!((0..ROUNDS_UNANSWERED).filter(|_| memory.may_end_orphans()).count(), 0);
        assert!(memory.may_end_orphans());
        memory.heard.store(1, Ordering::Relaxed);
        assert!(memory.may_end_orphans());
        // Each of several questions is to be answered.
        memory.asks(2);
        memory.heard.store(1, Ordering::Relaxed);
        assert!(!memory.may_end_orphans());
        memory.heard.store(2, Ordering::Relaxed);
        assert!(memory.may_end_orphans());
        // And away again: each answer counts for one round.
        memory.reached.store(0, Ordering::Relaxed);
        assert_eq!([memory.may_end_orphans(), memory.may_end_orphans()], [false, true]);
    }

    #[test]
    fn settled_calls_are_remembered_while_there_is_room() {
        memory();
        // All in one bucket.
        let call = |n: u128| (n << 64) | 7;
        (1..=PLACES as u128).for_each(|n| remember(call(n), Known::Settled));
        assert!((1..=PLACES as u128).all(|n| known(call(n)) == Some(Known::Settled)) && known(call(99)).is_none() && known(0x17).is_none());
        remember(call(99), Known::Guessed);
        assert_eq!(known(call(99)), Some(Known::Guessed));
        assert_eq!((1..=PLACES as u128).filter(|n| known(call(*n)).is_some()).count(), PLACES - 1);
    }

    #[test]
    fn what_is_known_for_sure_stays_so() {
        memory();
        // The bit is that of a key, too.
        for call in [(1 << 127) | 8, 8 << 64 | 8] {
            remember(call, Known::Guessed);
            assert_eq!(known(call), Some(Known::Guessed));
            remember(call, Known::Settled);
            remember(call, Known::Guessed);
            assert_eq!(known(call), Some(Known::Settled));
        }
    }

    #[test]
    fn a_bye_that_waits_is_known_until_it_is_over() {
        let memory = memory();
        memory.ending.insert(77, 0);
        assert!(is_ending(77) && !is_ending(78));
        memory.ending.remove(77);
        assert!(!is_ending(77));
    }
}
