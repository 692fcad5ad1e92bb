//! What processes do with shared memory side by side: locks, replacing a content, flags, free
//! blocks, and a bell.
//! A process may be killed between any two steps; the others go on.
//!
//! No unsafe code and nothing else of this crate is used here: `tests/loom` compiles this file with
//! loom's atomics and tries every order of the steps.
#![forbid(unsafe_code)]

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
use loom::sync::{Condvar, Mutex};
#[cfg(not(loom))]
use rustix::thread::futex;

/// Rounds of spinning before a process sleeps, some 5 µs: a context's lock is mostly held for less,
/// and a sleep with its wake-up costs about as much.
const SPINS: u32 = if cfg!(loom) { 0 } else { 200 };
/// Nanoseconds of sleep before a check whether the holder is still alive. A live holder wakes the sleepers,
/// so this is only how long the lock of a killed one stays taken: well below the 500 ms after which SIP
/// repeats a message, and far above the cost of the check (a file of /proc is read).
#[cfg(not(loom))]
const LOOK: i64 = 10_000_000;
/// Set beside the process id of a lock's holder: somebody may be sleeping until it is free. Process ids are
/// less than 2^22.
const WAITED_FOR: u32 = 1 << 31;

/// A lock between processes. Zeroed memory is a free lock.
#[cfg_attr(not(loom), repr(transparent))]
pub struct Lock {
    /// Process id of the holder, 0 = none, and [`WAITED_FOR`].
    word: AtomicU32,
    /// Stands for the kernel, which compares the word and puts the caller to sleep in one step.
    #[cfg(loom)]
    kernel: (Mutex<()>, Condvar),
}

/// The lock is held until this is dropped.
pub struct Locked<'a>(&'a Lock);

impl Lock {
    /// A free lock.
    pub fn free() -> Lock {
        Lock {
            word: AtomicU32::new(0),
            #[cfg(loom)]
            kernel: (Mutex::new(()), Condvar::new()),
        }
    }

    /// Waits for the lock as process `me`: for a short time awake, then asleep, since a holder may be
    /// writing to a disk. The lock of a holder that is no longer `alive` is taken over: what it
    /// protects must be consistent after every single step.
    pub fn lock(&self, me: u32, alive: impl Fn(u32) -> bool) -> Locked<'_> {
        for _ in 0..=SPINS {
            if self.exchange(0, me) {
                return Locked(self);
            }
            std::hint::spin_loop();
        }
        loop {
            let word = self.word.load(Ordering::Relaxed);
            let holder = word & !WAITED_FOR;
            if holder == 0 {
                // Only one of several sleepers is woken: it wakes the next one.
                if self.exchange(word, me | WAITED_FOR) {
                    return Locked(self);
                }
                continue;
            }
            let waited_for = holder | WAITED_FOR;
            if word != waited_for && !self.exchange(word, waited_for) {
                continue;
            }
            let woken = self.sleep(waited_for, || alive(holder));
            // If several find the holder dead, one of them takes over; the exchange of the others fails.
            if !woken && !alive(holder) && self.exchange(waited_for, me | WAITED_FOR) {
                return Locked(self);
            }
        }
    }

    fn exchange(&self, from: u32, to: u32) -> bool {
        self.word.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Sleeps while the word is `word`. False if nobody has woken this process within [`LOOK`].
    #[cfg(not(loom))]
    fn sleep(&self, word: u32, _alive: impl Fn() -> bool) -> bool {
        let look = futex::Timespec { tv_sec: 0, tv_nsec: LOOK };
        matches!(futex::wait(&self.word, futex::Flags::empty(), word, Some(&look)), Ok(()) | Err(rustix::io::Errno::AGAIN))
    }

    #[cfg(not(loom))]
    fn wake(&self) {
        let _ = futex::wake(&self.word, futex::Flags::empty(), 1);
    }

    /// Here, time passes only in [`Lock::time_passes`].
    #[cfg(loom)]
    fn sleep(&self, word: u32, alive: impl Fn() -> bool) -> bool {
        let kernel = self.kernel.0.lock().unwrap();
        if self.word.load(Ordering::Relaxed) == word && alive() {
            drop(self.kernel.1.wait(kernel).unwrap());
        }
        alive()
    }

    #[cfg(loom)]
    fn wake(&self) {
        let _kernel = self.kernel.0.lock().unwrap();
        self.kernel.1.notify_one();
    }

    /// Lets enough time pass for every sleeper to check again.
    #[cfg(loom)]
    pub fn time_passes(&self) {
        let _kernel = self.kernel.0.lock().unwrap();
        self.kernel.1.notify_all();
    }
}

#[cfg(any(test, loom))]
impl Locked<'_> {
    /// What the death of the process does: the lock stays taken.
    pub fn killed(self) {
        std::mem::forget(self);
    }
}

#[cfg(test)]
impl Lock {
    /// The process that holds it, 0 = none.
    pub fn holder(&self) -> u32 {
        self.word.load(Ordering::Relaxed) & !WAITED_FOR
    }

    /// Is somebody sleeping until it is free?
    #[cfg(not(loom))]
    pub fn is_waited_for(&self) -> bool {
        self.word.load(Ordering::Relaxed) & WAITED_FOR != 0
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.0.word.swap(0, Ordering::Release) & WAITED_FOR != 0 {
            self.0.wake();
        }
    }
}

/// Names the first block of the present content of something, 0 = none. The length is stored with the
/// content, so that one exchange replaces both.
#[repr(transparent)]
pub struct Content(AtomicU32);

impl Content {
    /// No content.
    pub fn none() -> Content {
        Content(AtomicU32::new(0))
    }

    /// The present content, complete. The lock alone does not guarantee that: the process that wrote it may
    /// have been killed before unlocking.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Replaces the present content by a complete one, and returns the old one.
    pub fn replace(&self, with: u32) -> u32 {
        self.0.swap(with, Ordering::AcqRel)
    }
}

/// Lets one process change several numbers that others read as a unit: it is odd while they change.
/// Zeroed memory is a new one.
#[repr(transparent)]
pub struct Sequence(AtomicU32);

impl Sequence {
    /// Nothing has changed yet.
    #[cfg(any(test, loom))]
    pub fn unchanged() -> Sequence {
        Sequence(AtomicU32::new(0))
    }

    /// Runs `f`, which changes the numbers. If a process is killed meanwhile, its successor writes all of
    /// them again.
    pub fn write(&self, f: impl FnOnce()) {
        let during = self.0.load(Ordering::Relaxed) | 1;
        self.0.store(during, Ordering::Relaxed);
        fence(Ordering::Release);
        f();
        self.0.store(during.wrapping_add(1), Ordering::Release);
    }

    /// Runs `f`, which reads the numbers. `None` if they did not all come from the same change.
    pub fn read<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        let before = self.0.load(Ordering::Acquire);
        if !before.is_multiple_of(2) {
            return None;
        }
        let result = f();
        fence(Ordering::Acquire);
        (self.0.load(Ordering::Relaxed) == before).then_some(result)
    }
}

/// Facts in one word. What a flag says about other memory was written before the flag.
#[repr(transparent)]
pub struct Flags(AtomicU64);

impl Flags {
    /// With these.
    pub fn new(flags: u64) -> Flags {
        Flags(AtomicU64::new(flags))
    }

    /// All of them.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Replaces those of `mask`, in one step; others may change meanwhile.
    pub fn set(&self, mask: u64, flags: u64) {
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(now & !mask | flags & mask));
    }
}

/// Tells one listener that something is there, without waking it if it is going to look anyway: waking
/// a process costs both sides more than anything else that is done for a record.
#[repr(transparent)]
pub struct Bell(AtomicU64);

impl Bell {
    const QUIET: u64 = 0;
    const RUNG: u64 = 1;
    const WAITED_FOR: u64 = 2;

    /// A bell that nobody has rung.
    #[cfg(not(loom))]
    pub const fn quiet() -> Bell {
        Bell(AtomicU64::new(Bell::QUIET))
    }

    /// A bell that nobody has rung.
    #[cfg(loom)]
    pub fn quiet() -> Bell {
        Bell(AtomicU64::new(Bell::QUIET))
    }

    /// Something is there. True if the listener is waiting and has to be woken.
    #[must_use]
    pub fn ring(&self) -> bool {
        self.0.swap(Bell::RUNG, Ordering::AcqRel) == Bell::WAITED_FOR
    }

    /// The listener is about to wait until woken. False if the bell was rung and not heard yet:
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

/// Whether the writer of a file may still append to it. The writer holds it during each append; between two appends another
/// process may close the file for good, and need not wait for a writer that may never come back. It is one word: a mark that
/// stands for the file, whose two lowest bits are 0, and in these what is going on. Zeroed memory belongs to no file.
#[repr(transparent)]
pub struct Pen(AtomicU64);

impl Pen {
    const IDLE: u64 = 1;
    const HELD: u64 = 2;
    const CLOSED: u64 = 3;
    /// The bits of what is going on.
    pub const STATE: u64 = 3;

    /// Belongs to no file.
    #[cfg(not(loom))]
    pub const fn of_none() -> Pen {
        Pen(AtomicU64::new(0))
    }

    /// Belongs to no file.
    #[cfg(loom)]
    pub fn of_none() -> Pen {
        Pen(AtomicU64::new(0))
    }

    /// A writer begins with a file, and holds the pen. False if this one belongs to another file.
    pub fn begin(&self, mark: u64) -> bool {
        self.exchange(0, mark | Pen::HELD)
    }

    /// The writer is about to append. False if the file was closed meanwhile: then it must not.
    pub fn hold(&self, mark: u64) -> bool {
        self.exchange(mark | Pen::IDLE, mark | Pen::HELD)
    }

    /// It has appended. What it wrote is there for whoever closes the file after this.
    pub fn rest(&self, mark: u64) {
        self.exchange(mark | Pen::HELD, mark | Pen::IDLE);
    }

    /// Another process closes the file: nothing more is appended. False if its writer is just appending, or the pen belongs to
    /// another file.
    pub fn close(&self, mark: u64) -> bool {
        self.exchange(mark | Pen::IDLE, mark | Pen::CLOSED) || self.is_closed(mark)
    }

    /// Was this file closed by another process, and has its writer not noticed yet?
    pub fn is_closed(&self, mark: u64) -> bool {
        self.0.load(Ordering::Acquire) == mark | Pen::CLOSED
    }

    /// Does it belong to this file?
    pub fn is_of(&self, mark: u64) -> bool {
        self.0.load(Ordering::Acquire) & !Pen::STATE == mark
    }

    /// The file has no writer any more: the pen is free for another one.
    pub fn give_back(&self, mark: u64) {
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| (word & !Pen::STATE == mark).then_some(0));
    }

    fn exchange(&self, from: u64, to: u64) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// How many blocks are in use. Blocks are claimed here before they are taken, and released here after they
/// are given back, so a granted claim always finds its blocks.
#[repr(transparent)]
pub struct Used(AtomicU64);

impl Used {
    /// None.
    #[cfg(any(test, loom))]
    pub fn none() -> Used {
        Used(AtomicU64::new(0))
    }

    /// Claims `n` more; false if there would then be more than `limit`.
    pub fn claim(&self, n: u64, limit: u64) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| Some(used + n).filter(|all| *all <= limit)).is_ok()
    }

    /// `n` blocks are free again.
    pub fn give(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::AcqRel);
    }

    /// The number of blocks in use.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Blocks in a chain: each has the number of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Number of the first block.
    pub first: u32,
    /// Number of the last one.
    pub last: u32,
    /// How many there are.
    pub len: u32,
}

/// Free blocks, in a chain: the number of the first one, 0 = none, below a tag that changes with
/// every exchange, so that a process that was overtaken notices.
#[repr(transparent)]
pub struct FreeList(AtomicU64);

impl FreeList {
    /// An empty list.
    #[cfg(any(test, loom))]
    pub fn empty() -> FreeList {
        FreeList(AtomicU64::new(0))
    }

    /// Takes up to `most` blocks; `None` if there are none. `next` is where a block keeps the number of the
    /// next one, whether it is in use or not. In the last block taken it need not be 0.
    pub fn pop<'a>(&self, most: u32, next: impl Fn(u32) -> &'a AtomicU32) -> Option<Chain> {
        let mut top = self.0.load(Ordering::Acquire);
        loop {
            let first = top as u32;
            if first == 0 {
                return None;
            }
            // Another process may take these blocks meanwhile, and then their numbers may lead anywhere; but
            // then the tag in `top` has changed, and the exchange fails.
            let (mut last, mut len, mut after) = (first, 1, next(first).load(Ordering::Relaxed));
            while len < most && after != 0 {
                (last, len, after) = (after, len + 1, next(after).load(Ordering::Relaxed));
            }
            match self.exchange(top, after) {
                Ok(_) => return Some(Chain { first, last, len }),
                Err(now) => top = now,
            }
        }
    }

    /// Gives a chain of blocks back, which begins with `first`; `next` is where the last one keeps its number.
    pub fn push(&self, first: u32, next: &AtomicU32) {
        let mut top = self.0.load(Ordering::Acquire);
        loop {
            next.store(top as u32, Ordering::Relaxed);
            match self.exchange(top, first) {
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
