//! What processes do with shared memory beside each other: locks, replacing a content, free lists,
//! and a bell.
//! A process may be killed between any two steps; the others go on.
//!
//! No unsafe code and nothing of this crate is used here: `tests/loom` compiles this file with
//! loom's atomics and tries every order of the steps.
#![forbid(unsafe_code)]

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Rounds of spinning before the scheduler is asked: a lock is held for about a microsecond.
const SPINS: u32 = if cfg!(loom) { 0 } else { 200 };
/// Rounds of yielding between looks whether the holder is still alive.
const YIELDS: u32 = if cfg!(loom) { 1 } else { 1000 };

fn pause() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::thread::yield_now();
}

/// A lock between processes. Zeroed memory is a free one.
#[repr(transparent)]
pub struct Lock(AtomicU32);

/// The lock is held until this is dropped.
pub struct Locked<'a>(&'a Lock);

impl Lock {
    /// A free lock.
    pub fn free() -> Lock {
        Lock(AtomicU32::new(0))
    }

    /// Waits for the lock as process `me`. The lock of a holder that is not `alive` any more is
    /// taken over: what it protects must be whole after every single step.
    pub fn lock(&self, me: u32, alive: impl Fn(u32) -> bool) -> Locked<'_> {
        let mut round = 0u32;
        loop {
            match self.0.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Locked(self),
                Err(holder) => {
                    round = round.wrapping_add(1);
                    if round < SPINS {
                        std::hint::spin_loop();
                        continue;
                    }
                    pause();
                    // Of several that see the holder dead, one frees the lock; the others' exchange fails.
                    if round.is_multiple_of(YIELDS) && !alive(holder) {
                        let _ = self.0.compare_exchange(holder, 0, Ordering::Acquire, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

#[cfg(any(test, loom))]
impl Locked<'_> {
    /// As a process that is killed: the lock stays taken.
    pub fn killed(self) {
        std::mem::forget(self);
    }
}

#[cfg(test)]
impl Lock {
    /// The process that holds it, 0 = none.
    pub fn holder(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Release);
    }
}

/// Names the present content of something, 0 = none: its length stands with the content, so that
/// one exchange replaces both.
#[repr(transparent)]
pub struct Content(AtomicU64);

impl Content {
    /// No content.
    pub fn none() -> Content {
        Content(AtomicU64::new(0))
    }

    /// The present content, complete. The lock alone does not say so: who wrote it may have been
    /// killed before unlocking.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Puts a complete content in the place of the present one, which is returned.
    pub fn replace(&self, with: u64) -> u64 {
        self.0.swap(with, Ordering::AcqRel)
    }
}

/// Tells one listener that something is there, without waking it while it will look anyway: waking
/// a process costs both sides more than anything else that is done for a record.
#[repr(transparent)]
pub struct Bell(AtomicU64);

impl Bell {
    const QUIET: u64 = 0;
    const RUNG: u64 = 1;
    const WAITED_FOR: u64 = 2;

    /// One that nobody rang.
    #[cfg(not(loom))]
    pub const fn quiet() -> Bell {
        Bell(AtomicU64::new(Bell::QUIET))
    }

    /// One that nobody rang.
    #[cfg(loom)]
    pub fn quiet() -> Bell {
        Bell(AtomicU64::new(Bell::QUIET))
    }

    /// Something is there. True when the listener waits and has to be woken.
    #[must_use]
    pub fn ring(&self) -> bool {
        self.0.swap(Bell::RUNG, Ordering::AcqRel) == Bell::WAITED_FOR
    }

    /// The listener is about to wait until woken. False when the bell was rung and not heard yet:
    /// then it must not wait.
    #[must_use]
    pub fn wait(&self) -> bool {
        self.0.compare_exchange(Bell::QUIET, Bell::WAITED_FOR, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The listener is about to look. Returns whether the bell was rung since it last looked.
    pub fn hear(&self) -> bool {
        self.0.swap(Bell::QUIET, Ordering::AcqRel) == Bell::RUNG
    }
}

/// Free blocks of a kind: the number of the first one, 0 = none, below a tag that changes with
/// every exchange, so that a process which was overtaken notices.
#[repr(transparent)]
pub struct FreeList(AtomicU64);

impl FreeList {
    /// An empty list.
    #[cfg(any(test, loom))]
    pub fn empty() -> FreeList {
        FreeList(AtomicU64::new(0))
    }

    /// Takes a block; `next` is where a block keeps the number of the next one.
    pub fn pop<'a>(&self, next: impl Fn(u32) -> &'a AtomicU32) -> Option<u32> {
        let mut top = self.0.load(Ordering::Acquire);
        loop {
            let block = top as u32;
            if block == 0 {
                return None;
            }
            // The block may be taken by another process meanwhile; then the tag in `top` has
            // moved on and the exchange fails.
            let after = next(block).load(Ordering::Relaxed);
            match self.exchange(top, after) {
                Ok(_) => return Some(block),
                Err(now) => top = now,
            }
        }
    }

    /// Gives a block back.
    pub fn push(&self, block: u32, next: &AtomicU32) {
        let mut top = self.0.load(Ordering::Acquire);
        loop {
            next.store(top as u32, Ordering::Relaxed);
            match self.exchange(top, block) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    fn exchange(&self, top: u64, first: u32) -> Result<u64, u64> {
        let new = (top >> 32).wrapping_add(1) << 32 | u64::from(first);
        self.0.compare_exchange(top, new, Ordering::AcqRel, Ordering::Acquire)
    }
}
