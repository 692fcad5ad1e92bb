//! Answers that wait for their ACK (parameter `report_ack`): an ACK may reach any process, after the
//! transaction is gone. They are kept in the arena, but no longer than a caller repeats anything.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use once_cell::sync::OnceCell;

use super::arena::{self, Arena, OBJECT, Room};
use super::pid::locked;
use super::shared::SharedContext;
use crate::accounting::clock::Moment;
use crate::accounting::identity::Identity;
use crate::accounting::record::Core;
use crate::interprocess::Lock;

/// Number of lists; enough of them keep each one short.
const LISTS: usize = 1024;

/// After this many microseconds no ACK comes any more: 64 times T1 (RFC 3261, 13.3.1.4), and a moment.
const PATIENCE: i64 = 40_000_000;

/// Seconds between two searches for answers that nobody acknowledged.
pub const LOOK: u32 = 10;

#[repr(C)]
struct List {
    lock: Lock,
    /// Number of the first entry, 0 = none.
    first: AtomicU32,
}

/// All answers that wait.
#[repr(C)]
struct Waiting([List; LISTS]);

static WAITING: OnceCell<&'static Waiting> = OnceCell::new();

/// Makes the lists; once, before the fork. False if there is no room.
pub fn install(arena: &'static Arena) -> bool {
    // SAFETY: a list of zeroes is an empty one, whose lock is free.
    WAITING.get_or_try_init(|| unsafe { arena.shared() }.ok_or(())).is_ok()
}

/// Changed only under the lock of its list.
#[repr(C)]
struct Entry {
    key: Key,
    /// When it came, by the monotonic clock.
    since: i64,
    /// Number of the context, with a reference.
    context: u32,
    next: AtomicU32,
}

const _: () = assert!(size_of::<Entry>() <= OBJECT && align_of::<Entry>() <= 8);

/// Identifies an answer and its ACK.
pub type Key = [u64; 2];

/// The key of an answer or an ACK: from the core values that both have, and the number of the INVITE.
pub fn key(core: &Core, cseq: &[u8]) -> Key {
    let mut id = Identity::new();
    for part in [&core.callid[..], &core.from_tag, &core.to_tag, cseq] {
        id.eat(part);
    }
    let id = id.finish();
    [id as u64, (id >> 64) as u64]
}

fn list(key: Key) -> Option<&'static List> {
    Some(&WAITING.get()?.0[key[0] as usize % LISTS])
}

/// Removes entries from a list.
fn remove(arena: &Arena, list: &List, is_over: impl Fn(&Entry) -> bool) -> Vec<SharedContext> {
    let mut taken = Vec::new();
    let _locked = locked(&list.lock);
    let mut place = &list.first;
    loop {
        let number = place.load(Ordering::Relaxed);
        if number == 0 {
            return taken;
        }
        let at = arena.object(number);
        // SAFETY: `put` made the entry, which stays until it is taken out under this lock.
        let entry = unsafe { at.cast::<Entry>().as_ref() };
        if !is_over(entry) {
            place = &entry.next;
            continue;
        }
        place.store(entry.next.load(Ordering::Relaxed), Ordering::Relaxed);
        taken.extend(SharedContext::of_number(entry.context));
        // SAFETY: taken out of the list, and nobody else knows it.
        unsafe { arena.release_objects(at) };
    }
}

/// An answer waits for its ACK, with `ctx`. If there is no memory for it, there will be no record of the ACK.
pub fn put(key: Key, ctx: SharedContext) -> bool {
    let (Some(arena), Some(list)) = (arena::get(), list(key)) else { return false };
    let Some([at]) = arena.objects::<1>(Room::New) else {
        arena::count_full();
        return false;
    };
    // The same answer again.
    drop(remove(arena, list, |e| e.key == key));
    write(at, Entry { key, since: Moment::now().mono, context: ctx.into_number(), next: AtomicU32::new(0) });
    let _locked = locked(&list.lock);
    // SAFETY: just written, and known to nobody else.
    let entry = unsafe { at.cast::<Entry>().as_ref() };
    entry.next.store(list.first.load(Ordering::Relaxed), Ordering::Relaxed);
    list.first.store(arena.number_of(at), Ordering::Release);
    true
}

fn write(at: NonNull<u8>, entry: Entry) {
    // SAFETY: a fresh object, large enough, as asserted above.
    unsafe { at.cast::<Entry>().write(entry) };
}

/// The answer that an ACK belongs to; further ACKs of it find none.
pub fn take(key: Key) -> Option<SharedContext> {
    remove(arena::get()?, list(key)?, |e| e.key == key).pop()
}

/// Forgets answers that nobody acknowledged.
pub fn forget() {
    let (Some(arena), Some(waiting)) = (arena::get(), WAITING.get()) else { return };
    let now = Moment::now().mono;
    for list in &waiting.0 {
        if list.first.load(Ordering::Relaxed) != 0 {
            drop(remove(arena, list, |e| now - e.since > PATIENCE));
        }
    }
}
