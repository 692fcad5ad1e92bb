//! Which calls have their CDRs, and of which the other nodes were told, in memory that all processes share.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use once_cell::sync::OnceCell;

use super::message::Named;
use crate::accounting::clock::Moment;

/// Calls remembered as settled: 2^20 of them, which is some hours of a busy server.
const BUCKETS: usize = 1 << 17;
/// Places of one bucket: the next call in a full one takes the place of another.
const PLACES: usize = 8;
/// Calls of which the other nodes were told last: for those that did not hear it.
const TOLD: usize = 1 << 16;
/// Words for the name of a dialog, which is 17 bytes at most, behind its length.
const NAME: usize = 3;
/// Most nodes that can be away at a time and be told of it all when they are back.
const AWAY: usize = 32;
/// Rounds without an answer after which no more is waited for, when nobody can be reached.
const ROUNDS_ALONE: u64 = 1;
/// And when the host could send what was asked: that node hears and should answer. The host may be in
/// a state where the link works in one direction only.
const ROUNDS_UNANSWERED: u64 = 9;

/// Calls that have their CDRs, in memory that all processes share: zero is no call. Two halves of a key
/// that do not belong together are no call either, and a call that is not found is asked for again.
#[repr(C)]
pub(super) struct Settled {
    next: AtomicU64,
    /// Another node has answered since the last round.
    pub(super) heard: AtomicU64,
    /// Rounds that went by without.
    silent: AtomicU64,
    /// The last question could be sent.
    pub(super) reached: AtomicU64,
    calls: [[[AtomicU64; 2]; PLACES]; BUCKETS],
    told_next: AtomicU64,
    told: [Told; TOLD],
    away: [Away; AWAY],
}

/// A call of which the other nodes were told.
#[repr(C)]
struct Told {
    /// Its place in the order of all, from 1, or 0: it is just being written.
    number: AtomicU64,
    /// When, in microseconds of the monotonic clock.
    at: AtomicU64,
    call: [AtomicU64; 2],
    dialog: [AtomicU64; NAME],
}

/// A node that could not be reached.
#[repr(C)]
struct Away {
    /// Its number and 1, or 0: none.
    node: AtomicU64,
    /// When that was found, as [`Told::at`].
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

fn bucket(memory: &Settled, call: u128) -> &[[AtomicU64; 2]; PLACES] {
    // Keys are hashes.
    &memory.calls[call as usize % BUCKETS]
}

/// The call has its CDR.
pub fn remember(call: u128) {
    let Some(memory) = SETTLED.get() else { return };
    if is_settled(call) {
        return;
    }
    let places = bucket(memory, call);
    let free = places.iter().find(|p| p[0].load(Ordering::Relaxed) == 0 && p[1].load(Ordering::Relaxed) == 0);
    let place = free.unwrap_or_else(|| &places[memory.next.fetch_add(1, Ordering::Relaxed) as usize % PLACES]);
    for (half, value) in place.iter().zip(halves(call)) {
        half.store(value, Ordering::Relaxed);
    }
}

/// Has the call its CDR, as far as this node knows?
pub fn is_settled(call: u128) -> bool {
    SETTLED.get().is_some_and(|memory| bucket(memory, call).iter().any(|p| p.each_ref().map(|half| half.load(Ordering::Relaxed)) == halves(call)))
}

impl Settled {
    /// See [`super::may_end_orphans`].
    pub(super) fn may_end_orphans(&self) -> bool {
        if self.heard.swap(0, Ordering::Relaxed) != 0 {
            self.silent.store(0, Ordering::Relaxed);
            return true;
        }
        let silent = self.silent.fetch_add(1, Ordering::Relaxed);
        if self.reached.load(Ordering::Relaxed) == 0 {
            return silent >= ROUNDS_ALONE;
        }
        if silent == ROUNDS_ALONE {
            log::warn!(
                "calls that were in progress when this server last ended wait for another node, which can be reached and does not answer: see the link_state of all nodes in clusterer_list on each of them"
            );
        }
        silent >= ROUNDS_UNANSWERED
    }

    /// The other nodes were told of a call.
    pub(super) fn note_told(&self, named: &Named, at: u64) {
        let Some(name) = packed(&named.dialog) else { return };
        let number = self.told_next.fetch_add(1, Ordering::Relaxed) + 1;
        let place = &self.told[number as usize % TOLD];
        place.number.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        place.at.store(at, Ordering::Relaxed);
        let words = halves(named.call).into_iter().chain(name);
        place.call.iter().chain(&place.dialog).zip(words).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        place.number.store(number, Ordering::Release);
    }

    /// What was told since, as far as it is remembered.
    pub(super) fn told_since(&self, since: u64) -> Vec<Named> {
        let read = |place: &Told| {
            let number = place.number.load(Ordering::Acquire);
            let (at, [low, high]) = (place.at.load(Ordering::Relaxed), place.call.each_ref().map(|w| w.load(Ordering::Relaxed)));
            let name = place.dialog.each_ref().map(|w| w.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let is_whole = number != 0 && number == place.number.load(Ordering::Relaxed);
            (is_whole && at >= since).then(|| Named { call: u128::from(high) << 64 | u128::from(low), dialog: unpacked(name) })
        };
        self.told.iter().filter_map(read).collect()
    }

    /// A node cannot be reached any more.
    pub(super) fn lost(&self, node: i32, now: u64) {
        let id = u64::from(node as u32) + 1;
        let known = self.away.iter().find(|a| a.node.load(Ordering::Acquire) == id);
        if let Some(away) = known {
            // Away again before it was told: since the first time.
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

    /// A node can be reached: since this server's start, if it was not lost since then.
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

/// The name of a dialog behind its length, in words.
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
        let names = |calls: Vec<Named>| calls.into_iter().filter(|n| n.call >> 64 == n.call & u128::from(u64::MAX)).collect::<Vec<_>>();
        memory.note_told(&named(1), 100);
        memory.note_told(&named(2), 200);
        memory.note_told(&Named { call: 3, dialog: vec![b'x'; 200] }, 200);
        assert_eq!((names(memory.told_since(0)), names(memory.told_since(150))), (vec![named(1), named(2)], vec![named(2)]));
        // Since it was lost first, although it came and went again meanwhile.
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
    fn a_node_that_can_be_reached_is_waited_for() {
        let memory = fresh().unwrap();
        assert_eq!([memory.may_end_orphans(), memory.may_end_orphans()], [false, true]);
        let memory = fresh().unwrap();
        memory.reached.store(1, Ordering::Relaxed);
        assert_eq!((0..ROUNDS_UNANSWERED).filter(|_| memory.may_end_orphans()).count(), 0);
        assert!(memory.may_end_orphans());
        memory.heard.store(1, Ordering::Relaxed);
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
        (1..=PLACES as u128).for_each(|n| remember(call(n)));
        assert!((1..=PLACES as u128).all(|n| is_settled(call(n))) && !is_settled(call(99)) && !is_settled(0x17));
        remember(call(99));
        assert!(is_settled(call(99)));
        assert_eq!((1..=PLACES as u128).filter(|n| is_settled(call(*n))).count(), PLACES - 1);
    }
}
