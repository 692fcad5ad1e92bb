//! Memory shared by all processes of the server: one anonymous shared mapping made before the
//! fork, so every process sees it at the same address. It is cut into blocks of one size; what is
//! longer is a chain of them, so that free memory serves every size. Free blocks form a lock-free
//! list: a worker that is killed anywhere in here holds nothing up, and keeps no more than what it was
//! taking or giving back.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use once_cell::sync::OnceCell;

use crate::interprocess::{Chain, Content, FreeList, Lock, Used};
use crate::stats::{self, Counter};

/// A cache line, which most values fit in; block numbers (32 bits) reach 256 GiB.
const BLOCK: usize = 64;
/// The room for an object in a block: after the number of the next block and the length of a content.
pub(super) const OBJECT: usize = 56;
/// Bytes before an object, and before a content in its first block.
const FIRST: usize = BLOCK - OBJECT;
/// Bytes before the rest of a content in each further block: the number of the next one.
const NEXT: usize = size_of::<u32>();
/// How many words that name contents a block holds.
const WORDS: usize = OBJECT / size_of::<Content>();
/// Most blocks that are taken from the list at once. To take them, a process reads as many cache
/// lines, and begins again if another one was faster.
const PORTION: u32 = 32;
/// Rounds after which a process stops looking for blocks that were granted to it. They exist, although
/// another process may hold them for a few instructions.
const ROUNDS: u32 = 1000;

/// From this many blocks on, a content is not one of a usual call: 4 KiB, ten times what most have.
const LARGE: u64 = 64;

/// Each is held for some nanoseconds; with so many, two transactions seldom share one.
pub(super) const TRANSACTION_LOCKS: usize = 64;

#[repr(C)]
pub(super) struct Head {
    /// Number of the first block that was never used.
    bump: AtomicU64,
    /// How many blocks there are for contexts.
    total: AtomicU64,
    used: Used,
    free: FreeList,
    /// Locks for what is attached to transactions, by their address.
    pub(super) transactions: [Lock; TRANSACTION_LOCKS],
    stats: stats::Shared,
    /// Lock for the references of `revival`.
    pub(super) revival: Lock,
    /// How many contexts there are, and how many of them will make records for the journal.
    pub(super) contexts: AtomicU64,
    pub(super) owing: AtomicU64,
    /// 1 once these references have been given up.
    pub(super) revival_over: AtomicU32,
    /// 1 once the server turned out to differ from what was proved: nothing is accounted any more.
    pub(super) stopped: AtomicU32,
}

/// Who asks for memory. Calls that are up take precedence over new ones: they need little more memory, and
/// a lost change of theirs is lost money, while a new request can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// A request, or a call that is not answered yet.
    New,
    /// What finds the contexts of a transaction or dialog: small, and also needed by the BYE of a call.
    Attached,
    /// An answered call whose CDR is still to be written.
    CallUp,
}

impl Room {
    /// How many of `total` blocks may be in use, including `n` new ones. An eighth is kept for calls that are
    /// up and the transactions that end them, half of that for the calls alone: at the default size, 4 KiB for
    /// each of 16 000 calls. Another eighth is for what is not [`LARGE`], so that huge requests, which stay
    /// until their transactions are freed, do not keep usual ones out.
    const fn of(self, total: u64, n: u64) -> u64 {
        match self {
            Room::New if n > LARGE => total - total / 4,
            Room::New => total - total / 8,
            Room::Attached => total - total / 16,
            Room::CallUp => total,
        }
    }
}

/// The mapping.
pub struct Arena {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: the mapping lives until the process ends (it is never unmapped), and everything in it is
// reached through atomics or under a lock of `shared`.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

static ARENA: OnceCell<Arena> = OnceCell::new();

/// How many blocks a content of this length takes.
fn blocks_for(len: usize) -> Option<u32> {
    u32::try_from(1 + len.saturating_sub(OBJECT).div_ceil(BLOCK - NEXT)).ok()
}

impl Arena {
    /// Reserves `mib` MiB of address space; memory is taken page by page as it is first used.
    pub fn new(mib: u32) -> io::Result<Arena> {
        let size = mib as usize * 1024 * 1024;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing.
        let p = unsafe {
            libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0)
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(p.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
        let arena = Arena { base, size };
        let first = size_of::<Head>().div_ceil(BLOCK);
        let head = arena.head();
        head.bump.store(first as u64, Ordering::Relaxed);
        head.total.store((size / BLOCK - first) as u64, Ordering::Relaxed);
        Ok(arena)
    }

    pub(super) fn head(&self) -> &Head {
        // SAFETY: the mapping is larger than Head (at least 16 MiB), page aligned, zeroed by the
        // kernel, and zero is a valid value of every field.
        unsafe { self.base.cast::<Head>().as_ref() }
    }

    /// Where a block begins.
    fn block(&self, number: u32) -> NonNull<u8> {
        let offset = number as usize * BLOCK;
        assert!(offset < self.size, "arena: there is no block {number}");
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.base.add(offset) }
    }

    /// Where a block keeps the number of the next one, whether it is in use or not.
    fn next(&self, number: u32) -> &AtomicU32 {
        // SAFETY: a block begins with this number, which is only ever used as an atomic.
        unsafe { self.block(number).cast::<AtomicU32>().as_ref() }
    }

    /// Takes memory for good, in one piece; once, before the fork. `None` if there is not that much.
    pub(super) fn carve(&self, len: usize) -> Option<NonNull<u8>> {
        let (head, blocks) = (self.head(), len.div_ceil(BLOCK) as u64);
        head.total.fetch_update(Ordering::AcqRel, Ordering::Acquire, |total| total.checked_sub(blocks)).ok()?;
        let first = head.bump.fetch_add(blocks, Ordering::AcqRel);
        Some(self.block(first as u32))
    }

    /// A permanent value that all processes share; once, before the fork. `None` if there is no room.
    ///
    /// # Safety
    /// Zeroes are a valid value.
    pub(super) unsafe fn shared<T: Sync>(&'static self) -> Option<&'static T> {
        const { assert!(align_of::<T>() <= BLOCK) };
        // SAFETY: as large as the type and aligned to a block, zeroed by the kernel and never used before; the arena is
        // never unmapped.
        self.carve(size_of::<T>()).map(|p| unsafe { p.cast::<T>().as_ref() })
    }

    /// Takes blocks that were never used, up to `most`, in a chain.
    fn unused(&self, most: u32) -> Option<Chain> {
        let end = (self.size / BLOCK) as u64;
        let after = |at: u64| (at + u64::from(most)).min(end);
        let at = self.head().bump.fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| (at < end).then(|| after(at))).ok()?;
        let (first, last) = (at as u32, after(at) as u32 - 1);
        for number in first..last {
            self.next(number).store(number + 1, Ordering::Relaxed);
        }
        Some(Chain { first, last, len: last - first + 1 })
    }

    /// Takes `n` blocks in a chain, and returns the first one; `None` if there is no room.
    fn take(&self, n: u32, room: Room) -> Option<u32> {
        let head = self.head();
        if !head.used.claim(n.into(), room.of(head.total.load(Ordering::Relaxed), n.into())) {
            return None;
        }
        let (mut first, mut taken) = (0, 0);
        for _ in 0..ROUNDS + n {
            let Some(chain) = head.free.pop((n - taken).min(PORTION), |b| self.next(b)).or_else(|| self.unused(n - taken)) else { continue };
            self.next(chain.last).store(first, Ordering::Relaxed);
            (first, taken) = (chain.first, taken + chain.len);
            if taken == n {
                return Some(first);
            }
        }
        self.give_back(first);
        head.used.give(u64::from(n - taken));
        None
    }

    /// Gives back a chain; its last block has 0 as the number of the next one.
    fn give_back(&self, first: u32) {
        if first == 0 {
            return;
        }
        let (mut last, mut n) = (first, 1);
        loop {
            match self.next(last).load(Ordering::Relaxed) {
                0 => break,
                next => (last, n) = (next, n + 1),
            }
        }
        let head = self.head();
        head.free.push(first, self.next(last));
        head.used.give(n);
    }

    /// Room for `N` objects of up to 56 bytes, aligned to 8; `None` if there is none. Giving back the first
    /// one gives back all.
    pub(super) fn objects<const N: usize>(&self, room: Room) -> Option<[NonNull<u8>; N]> {
        let mut number = self.take(N as u32, room)?;
        Some(std::array::from_fn(|_| {
            let p = self.object(number);
            number = self.next(number).load(Ordering::Relaxed);
            p
        }))
    }

    /// The room for an object in this block.
    pub(super) fn object(&self, number: u32) -> NonNull<u8> {
        // SAFETY: inside the block.
        unsafe { self.block(number).add(FIRST) }
    }

    /// Number of the block that an object is in.
    pub(super) fn number_of(&self, object: NonNull<u8>) -> u32 {
        ((object.as_ptr() as usize - self.base.as_ptr() as usize) / BLOCK) as u32
    }

    /// The room for an object in the block after the one of this object.
    pub(super) fn behind(&self, object: NonNull<u8>) -> NonNull<u8> {
        self.object(self.next(self.number_of(object)).load(Ordering::Relaxed))
    }

    /// Gives back objects.
    ///
    /// # Safety
    /// `first` is the first that one call of [`Arena::objects`] returned; none is used any more.
    pub(super) unsafe fn release_objects(&self, first: NonNull<u8>) {
        self.give_back(self.number_of(first));
    }

    /// Reserves a content of `len` bytes, which is not written yet; its first block, or `None` if there is no room.
    pub(super) fn reserve(&self, len: usize, room: Room) -> Option<u32> {
        self.take(blocks_for(len)?, room)
    }

    /// Reserves and writes a content; `None` if there is no room.
    pub(super) fn store(&self, content: &[u8], room: Room) -> Option<u32> {
        let first = self.reserve(content.len(), room)?;
        // SAFETY: just reserved for it.
        unsafe { self.write(first, content) };
        Some(first)
    }

    /// Reserves `n` words, all 0; the first block, or `None` if there is no room.
    pub(super) fn reserve_words(&self, n: usize, room: Room) -> Option<u32> {
        let first = self.take(u32::try_from(n.div_ceil(WORDS)).ok()?.max(1), room)?;
        let mut number = first;
        while number != 0 {
            // SAFETY: inside a block of the chain, which is the caller's.
            unsafe { self.object(number).cast::<[u8; OBJECT]>().write([0; OBJECT]) };
            number = self.next(number).load(Ordering::Relaxed);
        }
        Some(first)
    }

    /// The words from `from` on.
    ///
    /// # Safety
    /// `first` came from [`Arena::reserve_words`], and the blocks stay meanwhile.
    pub(super) unsafe fn words(&self, first: u32, from: usize) -> impl Iterator<Item = &Content> {
        let (mut number, mut at) = (first, from);
        let mut words = self.object(first).cast::<Content>();
        std::iter::from_fn(move || {
            while at >= WORDS {
                (number, at) = (self.next(number).load(Ordering::Relaxed), at - WORDS);
                if number == 0 {
                    return None;
                }
                words = self.object(number).cast();
            }
            at += 1;
            // SAFETY: inside a block of the chain; its words are only ever used as atomics.
            Some(unsafe { words.add(at - 1).as_ref() })
        })
    }

    /// Length of a content, in bytes.
    ///
    /// # Safety
    /// As [`Arena::read`].
    pub(super) unsafe fn length(&self, first: u32) -> usize {
        // SAFETY: `write` put the length there.
        unsafe { self.block(first).add(NEXT).cast::<u32>().read() as usize }
    }

    /// Does the content consist of these bytes?
    ///
    /// # Safety
    /// As [`Arena::read`].
    pub(super) unsafe fn equals(&self, first: u32, content: &[u8]) -> bool {
        // SAFETY: the caller's promise.
        if unsafe { self.length(first) } != content.len() {
            return false;
        }
        let (mut number, mut head, mut rest) = (first, FIRST, content);
        loop {
            let (here, behind) = rest.split_at(rest.len().min(BLOCK - head));
            // SAFETY: this block holds this many bytes of the content.
            let is_same = unsafe { std::slice::from_raw_parts(self.block(number).add(head).as_ptr(), here.len()) } == here;
            if !is_same || behind.is_empty() {
                return is_same;
            }
            (number, head, rest) = (self.next(number).load(Ordering::Relaxed), NEXT, behind);
        }
    }

    /// Writes a content.
    ///
    /// # Safety
    /// `first` came from [`Arena::reserve`] for at least as many bytes; only the caller knows it.
    pub(super) unsafe fn write(&self, first: u32, content: &[u8]) {
        // SAFETY: the length follows the number of the next block; the block is the caller's.
        unsafe { self.block(first).add(NEXT).cast::<u32>().write(content.len() as u32) };
        let (mut number, mut head, mut rest) = (first, FIRST, content);
        loop {
            let (here, behind) = rest.split_at(rest.len().min(BLOCK - head));
            // SAFETY: inside a block of the chain, which is the caller's.
            unsafe { self.block(number).add(head).copy_from_nonoverlapping(NonNull::from(here).cast(), here.len()) };
            if behind.is_empty() {
                return;
            }
            (number, head, rest) = (self.next(number).load(Ordering::Relaxed), NEXT, behind);
        }
    }

    /// Appends a content to `out`.
    ///
    /// # Safety
    /// [`Arena::write`] wrote it, and it stays meanwhile.
    pub(super) unsafe fn read(&self, first: u32, out: &mut Vec<u8>) {
        // SAFETY: the caller's promise.
        unsafe { self.read_of(first, self.length(first), out) };
    }

    /// [`Arena::read`] of a content with this [`Arena::length`].
    ///
    /// # Safety
    /// As [`Arena::read`].
    pub(super) unsafe fn read_of(&self, first: u32, length: usize, out: &mut Vec<u8>) {
        let mut rest = length;
        if rest > OBJECT {
            out.reserve(rest);
        }
        let (mut number, mut head) = (first, FIRST);
        loop {
            let here = rest.min(BLOCK - head);
            // SAFETY: this block holds this many bytes of the content.
            out.extend_from_slice(unsafe { std::slice::from_raw_parts(self.block(number).add(head).as_ptr(), here) });
            rest -= here;
            if rest == 0 {
                return;
            }
            (number, head) = (self.next(number).load(Ordering::Relaxed), NEXT);
        }
    }

    /// Gives a content back; 0 stands for none.
    ///
    /// # Safety
    /// `first` came from [`Arena::reserve`] and is not used any more.
    pub(super) unsafe fn release(&self, first: u32) {
        self.give_back(first);
    }

    /// Can this be the address of an object? Any address may be given.
    pub(super) fn is_object(&self, address: *const c_void) -> bool {
        let offset = (address as usize).wrapping_sub(self.base.as_ptr() as usize);
        let in_use = size_of::<Head>()..self.head().bump.load(Ordering::Acquire) as usize * BLOCK;
        in_use.contains(&offset) && offset % BLOCK == FIRST
    }

    /// Blocks in use.
    pub fn live_blocks(&self) -> u64 {
        self.head().used.get()
    }

    /// Bytes of the blocks in use.
    pub fn live_bytes(&self) -> u64 {
        self.live_blocks() * BLOCK as u64
    }

    /// Bytes of the contexts that will make records for the journal, taking each for as large as the average: requests that were
    /// refused, or never accounted, have contexts like the others, until their transactions are freed.
    pub fn owing_bytes(&self) -> u64 {
        let (contexts, owing) = (self.head().contexts.load(Ordering::Relaxed), self.head().owing.load(Ordering::Relaxed));
        (u128::from(self.live_bytes()) * u128::from(owing.min(contexts)) / u128::from(contexts.max(1))) as u64
    }
}

/// Counts something that was refused or not kept for lack of memory.
pub(super) fn count_full() {
    stats::add(Counter::ArenaFull, 1);
}

/// Makes the process-wide arena; once, before the fork. Counters move into it.
pub fn install(mib: u32) -> io::Result<&'static Arena> {
    let arena = ARENA.get_or_try_init(|| Arena::new(mib))?;
    stats::use_shared(&arena.head().stats);
    Ok(arena)
}

/// The process-wide arena, once installed.
pub fn get() -> Option<&'static Arena> {
    ARENA.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Arena {
        fn content(&self, first: u32) -> Vec<u8> {
            let mut out = Vec::new();
            // SAFETY: tests read what they wrote and did not release.
            unsafe { self.read(first, &mut out) };
            out
        }

        fn drop_content(&self, first: u32) {
            // SAFETY: tests release what they reserved, once.
            unsafe { self.release(first) };
        }
    }

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn contents_of_any_length_are_read_back() {
        let arena = Arena::new(16).unwrap();
        let lengths = [0, 1, 55, 56, 57, 115, 116, 117, 176, 1000, 65_536, 1 << 20];
        let all = lengths.map(|n| arena.store(&bytes(n), Room::New).unwrap());
        for (first, n) in all.into_iter().zip(lengths) {
            assert!(arena.content(first) == bytes(n), "{n}");
            let before = arena.live_blocks();
            arena.drop_content(first);
            let blocks = (before - arena.live_blocks()) as usize;
            assert!(n + 4 <= blocks * 60 && (n == 0 || n + 4 > (blocks - 1) * 60), "{n} bytes took {blocks} blocks");
        }
        assert_eq!((arena.live_blocks(), arena.live_bytes()), (0, 0));
    }

    #[test]
    fn blocks_come_back() {
        let arena = Arena::new(16).unwrap();
        let all: Vec<_> = (0..1000).map(|_| arena.objects::<1>(Room::New).unwrap()[0]).collect();
        assert_eq!(arena.live_blocks(), 1000);
        let mut seen: Vec<_> = all.iter().map(|p| p.as_ptr() as usize).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
        let address = |p: &NonNull<u8>, n: isize| p.as_ptr().wrapping_offset(n).cast::<c_void>().cast_const();
        assert!(all.iter().all(|p| arena.is_object(address(p, 0)) && ![-8, 1, 8, 16].iter().any(|n| arena.is_object(address(p, *n)))));
        assert!(![std::ptr::null(), 16 as *const c_void, arena.base.as_ptr().cast(), usize::MAX as *const c_void].iter().any(|p| arena.is_object(*p)));
        for p in all {
            // SAFETY: each came from `objects` and is used no more.
            unsafe { arena.release_objects(p) };
        }
        assert_eq!((arena.live_blocks(), arena.live_bytes()), (0, 0));
        let bump = arena.head().bump.load(Ordering::Relaxed);
        arena.store(&bytes(5000), Room::New).unwrap();
        assert_eq!(arena.head().bump.load(Ordering::Relaxed), bump, "free blocks are used before new memory");
    }

    /// Whatever sizes were in use, and in whatever order they were given back: all memory serves any size.
    #[test]
    fn memory_of_one_size_serves_every_other() {
        let arena = Arena::new(16).unwrap();
        let fill = |n: usize| std::iter::from_fn(|| arena.store(&bytes(n), Room::CallUp)).collect::<Vec<_>>();
        let total = arena.head().total.load(Ordering::Relaxed);
        for n in [52_000, 10, 700, 1 << 20, 57, 52_000] {
            let mut all = fill(n);
            let need = u64::from(blocks_for(n).unwrap());
            assert_eq!(all.len() as u64, total / need, "{n}");
            // Every second one first.
            let rest = all.split_off(all.len() / 2);
            for pair in [all, rest].map(|half| half.into_iter().enumerate().partition::<Vec<_>, _>(|(i, _)| i % 2 == 0)) {
                pair.0.into_iter().chain(pair.1).for_each(|(_, first)| arena.drop_content(first));
            }
            assert_eq!(arena.live_blocks(), 0);
        }
    }

    #[test]
    fn calls_that_are_up_have_room_before_new_ones() {
        let arena = Arena::new(16).unwrap();
        assert!(arena.store(&bytes(20 << 20), Room::CallUp).is_none());
        assert_eq!(arena.live_blocks(), 0, "what was refused takes no memory");
        let total = arena.head().total.load(Ordering::Relaxed);
        while arena.store(&bytes(50_000), Room::New).is_some() {}
        assert!(total - arena.live_blocks() >= total / 4, "usual requests have room before huge ones");
        while arena.store(&bytes(10), Room::New).is_some() {}
        assert_eq!(total - arena.live_blocks(), total / 8);
        while arena.objects::<1>(Room::Attached).is_some() {}
        assert!(arena.store(&bytes(10), Room::New).is_none());
        let mut n = 0;
        while arena.store(&bytes(1000), Room::CallUp).is_some() {
            n += 1;
        }
        assert!(n >= 16 << 20 >> 4 >> 11, "{n}");
    }

    #[test]
    fn threads_never_share_a_block() {
        let arena = Arena::new(64).unwrap();
        std::thread::scope(|s| {
            for t in 0..4usize {
                let arena = &arena;
                s.spawn(move || {
                    for round in 0..20_000usize {
                        let want = vec![t as u8; round * (t + 1) % 3000 + 8];
                        let first = arena.store(&want, Room::New).unwrap();
                        std::hint::spin_loop();
                        assert!(arena.content(first) == want);
                        arena.drop_content(first);
                    }
                });
            }
        });
        assert_eq!(arena.live_blocks(), 0);
    }

    /// Processes that are killed at any instruction leave a usable arena, and keep no more than what they were
    /// taking or giving back.
    #[test]
    fn killed_processes_hold_nothing_up() {
        let arena = Arena::new(16).unwrap();
        for round in 0..40u64 {
            // SAFETY: the child uses the arena alone, takes no memory of its own, and never returns.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let content = [7; 5000];
                loop {
                    if let Some(first) = arena.store(&content, Room::New) {
                        arena.drop_content(first);
                    }
                }
            }
            assert!(child > 0);
            for i in 0..200 {
                let want = bytes(i * 37);
                let first = arena.store(&want, Room::New).unwrap();
                assert!(arena.content(first) == want);
                arena.drop_content(first);
            }
            std::thread::sleep(std::time::Duration::from_micros(round * 50));
            // SAFETY: ends the child just made, and waits for it.
            unsafe {
                assert_eq!(libc::kill(child, libc::SIGKILL), 0);
                assert_eq!(libc::waitpid(child, std::ptr::null_mut(), 0), child);
            }
            let most = (round + 1) * u64::from(blocks_for(5000).unwrap());
            assert!(arena.live_blocks() <= most, "{} blocks of at most {most}", arena.live_blocks());
        }
    }
}
