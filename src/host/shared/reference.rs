//! References to contexts, and what can be read or changed without the lock.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::slot::{ATTEMPTS, CLAIMED, ELSEWHERE, IN_JOURNAL, Instants, Marked, OWING, RANG, Slot, UNCOUNTED};
use crate::accounting::context::{Progress, after_rang};
use crate::host::arena::{self, Arena, Room};
use crate::host::guard;
use crate::host::pid::locked;
use crate::host::values::Directory;
use crate::interprocess::{Content, Flags, Lock};
use crate::stats::{self, Counter};

/// A reference to a shared context.
#[derive(Debug)]
pub struct SharedContext(NonNull<Slot>);

impl SharedContext {
    /// An empty context in blocks of its own; `None` if there is no room.
    pub(super) fn empty(arena: &Arena, room: Room) -> Option<SharedContext> {
        let [slot, instants, marked] = arena.objects::<3>(room)?;
        let slot = slot.cast::<Slot>();
        let zero = || AtomicU64::new(0);
        let new = Slot {
            refs: AtomicU32::new(1),
            lock: Lock::free(),
            parts: [Content::none(), Content::none(), Content::none()],
            spare: Content::none(),
            call: AtomicU32::new(0),
            base_rest: AtomicU32::new(0),
            flags: Flags::new(0),
            base: AtomicU64::new(0),
            base_prefix: AtomicU32::new(0),
            base_suffix: AtomicU32::new(0),
        };
        // SAFETY: the blocks are fresh, large enough (as `slot` asserts) and aligned to 8 bytes.
        unsafe {
            slot.write(new);
            instants.cast::<Instants>().write(Instants { answered: [zero(), zero(), zero()], ended: [zero(), zero(), zero()], revision: zero() });
            marked.cast::<Marked>().write(Marked { marks: [zero(), zero()], call: [zero(), zero()], bound: zero() });
        }
        arena.head().contexts.fetch_add(1, Ordering::Relaxed);
        Some(SharedContext(slot))
    }

    pub(super) fn slot(&self) -> &Slot {
        // SAFETY: this reference keeps the block alive, and `empty` initialised it.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn instants(&self, arena: &Arena) -> &Instants {
        // SAFETY: `empty` initialised the block after the slot's, which lives as long.
        unsafe { arena.behind(self.0.cast()).cast::<Instants>().as_ref() }
    }

    pub(super) fn marked(&self, arena: &Arena) -> &Marked {
        // SAFETY: `empty` initialised the second block after the slot's, which lives as long.
        unsafe { arena.behind(arena.behind(self.0.cast())).cast::<Marked>().as_ref() }
    }

    pub(super) fn flags(&self) -> u64 {
        self.slot().flags.get()
    }

    /// The progress of its call, without reading more than that.
    pub fn progress(&self) -> Progress {
        Progress::of(self.flags() as u8)
    }

    /// The request was sent to one more target.
    pub fn count_attempt(&self) {
        let _locked = locked(&self.slot().lock);
        let now = self.flags() >> ATTEMPTS & 0xff;
        if now < 0xff {
            self.slot().flags.set(0xff << ATTEMPTS, (now + 1) << ATTEMPTS);
        }
    }

    /// Has it rung already?
    pub fn has_rung(&self) -> bool {
        self.flags() >> RANG != 0
    }

    /// The first 18x went to the caller, this many milliseconds after the request came; later ones do not count.
    pub fn ring(&self, ms: i64) {
        let _locked = locked(&self.slot().lock);
        if !self.has_rung() {
            let ms = ms.clamp(0, i64::from(u32::MAX - 1)) as u32;
            self.slot().flags.set(u64::from(u32::MAX) << RANG, u64::from(after_rang(Some(ms))) << RANG);
        }
    }

    /// The context whose values are written for this one, if it is not itself.
    pub fn call(&self) -> Option<SharedContext> {
        Self::at(self.slot().call.load(Ordering::Acquire)).map(|call| std::mem::ManuallyDrop::new(call).duplicate())
    }

    /// A borrowed reference to the context in this block; 0 is none.
    fn at(block: u32) -> Option<SharedContext> {
        let arena = arena::get().filter(|_| block != 0)?;
        Some(SharedContext(arena.object(block).cast()))
    }

    /// A number for this reference, which [`SharedContext::of_number`] takes back.
    pub(in crate::host) fn into_number(self) -> u32 {
        let held = std::mem::ManuallyDrop::new(self);
        arena::get().map_or(0, |arena| arena.number_of(held.0.cast()))
    }

    /// The reference that a number stands for.
    pub(in crate::host) fn of_number(number: u32) -> Option<SharedContext> {
        Self::at(number)
    }

    /// Sets `call` as the context whose values are written for this one; only the first call of this counts.
    pub fn set_call(&self, call: &SharedContext) {
        let Some(arena) = arena::get() else { return };
        let mine = std::mem::ManuallyDrop::new(call.duplicate());
        if self.slot().call.compare_exchange(0, arena.number_of(mine.0.cast()), Ordering::AcqRel, Ordering::Relaxed).is_err() {
            drop(std::mem::ManuallyDrop::into_inner(mine));
        }
    }

    /// From now on, until it ends, the journal has this call as one in progress.
    pub fn set_in_journal(&self) {
        if !self.was_in_journal() {
            self.slot().flags.set(IN_JOURNAL, IN_JOURNAL);
        }
    }

    /// Did the journal have it?
    pub fn was_in_journal(&self) -> bool {
        self.flags() & IN_JOURNAL != 0
    }

    /// From now on, a dialog of the host has this call.
    pub fn claim(&self) {
        self.slot().flags.set(CLAIMED, CLAIMED);
    }

    /// That dialog is gone.
    pub fn give_back(&self) {
        self.slot().flags.set(CLAIMED, 0);
    }

    /// Does a dialog have it?
    pub fn is_claimed(&self) -> bool {
        self.flags() & CLAIMED != 0
    }

    /// Another server has said that it has the call.
    pub fn set_elsewhere(&self) {
        self.slot().flags.set(ELSEWHERE, ELSEWHERE);
    }

    /// Has a server said so since this was last asked?
    pub fn take_elsewhere(&self) -> bool {
        let said = self.flags() & ELSEWHERE != 0;
        if said {
            self.slot().flags.set(ELSEWHERE, 0);
        }
        said
    }

    /// Do statistics count the call through this context?
    pub fn is_counted(&self) -> bool {
        self.flags() & UNCOUNTED == 0
    }

    /// Statistics count the call through another context.
    pub fn set_uncounted(&self) {
        let Some(arena) = arena::get() else { return };
        let _locked = locked(&self.slot().lock);
        if self.is_counted() {
            self.slot().flags.set(UNCOUNTED, UNCOUNTED);
            if self.facts_now(arena).is_ok_and(|facts| facts.is_open_call()) {
                stats::sub(Counter::CallsOpen, 1);
            }
        }
    }

    /// Will it make records for the journal? For the holder of the lock.
    pub(super) fn set_owing(&self, arena: &Arena, owing: bool) {
        if owing != (self.flags() & OWING != 0) {
            self.slot().flags.set(OWING, if owing { OWING } else { 0 });
            let count = &arena.head().owing;
            if owing {
                count.fetch_add(1, Ordering::Relaxed)
            } else {
                count.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }

    /// Its records are made: no room in the journal is reserved for it any more, although it may be there for a while.
    pub fn owes_no_more(&self) {
        let Some(arena) = arena::get().filter(|_| self.flags() & OWING != 0) else { return };
        let _locked = locked(&self.slot().lock);
        self.set_owing(arena, false);
    }

    /// One more reference.
    pub fn duplicate(&self) -> SharedContext {
        SharedContext(self.0).share()
    }

    /// Adds the reference for a copy of the pointer just made.
    fn share(self) -> SharedContext {
        self.slot().refs.fetch_add(1, Ordering::Relaxed);
        self
    }

    /// Is it the same context?
    pub fn same(&self, other: &SharedContext) -> bool {
        self.0 == other.0
    }

    /// Identifies it among all live contexts.
    pub fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// Hands this reference to the host.
    pub fn into_raw(self) -> *mut c_void {
        std::mem::ManuallyDrop::new(self).0.as_ptr().cast()
    }

    /// Takes back a reference that the host held; `None` for a null pointer.
    ///
    /// # Safety
    /// `p` is null or came from [`SharedContext::into_raw`], and the host gives it up.
    pub unsafe fn from_raw(p: *mut c_void) -> Option<SharedContext> {
        NonNull::new(p.cast()).map(SharedContext)
    }

    /// A new reference to what the host still holds.
    ///
    /// # Safety
    /// `p` is null or came from [`SharedContext::into_raw`], and the host holds it meanwhile.
    pub unsafe fn borrow_raw(p: *mut c_void) -> Option<SharedContext> {
        NonNull::new(p.cast()).map(|p| SharedContext(p).share())
    }
}

/// Callback: the host gives up a reference in a transaction, a dialog, a callback or a processing context.
///
/// # Safety
/// As [`SharedContext::from_raw`].
pub unsafe extern "C" fn release(p: *mut c_void) {
    // SAFETY: the host hands over the reference that its place owned (promise 3, 5, 6).
    guard::entry("release of a context", (), || drop(unsafe { SharedContext::from_raw(p) }));
}

impl Drop for SharedContext {
    fn drop(&mut self) {
        let slot = self.slot();
        if slot.refs.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        drop(Self::at(slot.call.swap(0, Ordering::AcqRel)));
        let Some(arena) = arena::get() else { return };
        self.set_owing(arena, false);
        arena.head().contexts.fetch_sub(1, Ordering::Relaxed);
        // Nobody follows the call any more.
        let Progress { answered, closed, .. } = self.progress();
        if answered && !closed && self.is_counted() && self.facts_now(arena).is_ok_and(|facts| facts.is_open_call()) {
            stats::sub(Counter::CallsOpen, 1);
        }
        // SAFETY: the last reference is gone, nobody else knows the blocks.
        unsafe {
            let [request, reply, values] = &slot.parts;
            if let Some(values) = Directory::at(arena, values.replace(0)) {
                values.release();
            }
            [request, reply, &slot.spare].into_iter().for_each(|place| arena.release(place.replace(0)));
            arena.release_objects(self.0.cast());
        }
    }
}

// SAFETY: the contents are reached only under the slot's own lock, the rest is atomic.
unsafe impl Send for SharedContext {}
