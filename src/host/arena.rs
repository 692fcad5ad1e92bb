//! Memory shared by all processes of the server: one anonymous shared mapping made before the
//! fork, so every process sees it at the same address. Size classes with lock-free free lists: a
//! worker that is killed anywhere in here holds nothing up.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use once_cell::sync::OnceCell;

use super::interprocess::{FreeList, Lock};
use crate::stats::{self, Counter};

/// Blocks are cut in multiples of this, and named by their number in free lists (32 bits of it
/// reach 128 GiB).
const GRANULE: usize = 32;
/// Two sizes for each power of two from 64 bytes to 256 MiB: at most a third of a block is idle.
const CLASSES: usize = 45;
/// Room for the header of a block.
const HEADER: usize = 16;
const MAGIC: u32 = 0x41cc_b10c;

/// Length of the table of SQL tables known to exist ([`Head::tables`]).
pub(super) const KNOWN_TABLES: usize = 256;

/// Each is held for some nanoseconds: enough that two transactions seldom share one.
pub(super) const TRANSACTION_LOCKS: usize = 64;

#[repr(C)]
pub(super) struct Head {
    bump: AtomicU64,
    free: [FreeList; CLASSES],
    /// For what hangs on transactions, by their address.
    pub(super) transactions: [Lock; TRANSACTION_LOCKS],
    live_blocks: AtomicU64,
    live_bytes: AtomicU64,
    stats: stats::Shared,
    /// Hashes of the names of existing SQL tables, filled by the delivery process.
    pub(super) tables: [AtomicU64; KNOWN_TABLES],
    /// How many of `tables` are valid, plus 1; 0 = not known yet.
    pub(super) tables_len: AtomicU32,
    /// Monotonic time in microseconds at which they were listed.
    pub(super) tables_time: AtomicU64,
    /// For the references of `revival`.
    pub(super) revival: Lock,
    /// 1 once they are given up.
    pub(super) revival_over: AtomicU32,
}

#[repr(C)]
struct Block {
    class: u32,
    magic: u32,
    /// Granule number of the next free block while in a free list.
    next: AtomicU32,
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

const fn class_size(class: usize) -> usize {
    let power = 64usize << (class / 2);
    if class.is_multiple_of(2) { power } else { power + power / 2 }
}

fn class_for(len: usize) -> Option<usize> {
    (0..CLASSES).find(|c| class_size(*c) >= len + HEADER)
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
        let first = size_of::<Head>().next_multiple_of(GRANULE);
        arena.head().bump.store(first as u64, Ordering::Relaxed);
        Ok(arena)
    }

    pub(super) fn head(&self) -> &Head {
        // SAFETY: the mapping is larger than Head (at least 16 MiB), page aligned, zeroed by the
        // kernel, and zero is a valid value of every field.
        unsafe { self.base.cast::<Head>().as_ref() }
    }

    fn block(&self, granule: u32) -> &Block {
        // SAFETY: granule numbers come only from `allocate`, which keeps them inside the mapping.
        unsafe { self.base.add(granule as usize * GRANULE).cast::<Block>().as_ref() }
    }

    /// Takes a block with room for `len` bytes; `None` when the arena is full, which is counted.
    pub fn allocate(&self, len: usize) -> Option<NonNull<u8>> {
        let block = self.take(len);
        if block.is_none() {
            stats::add(Counter::ArenaFull, 1);
        }
        block
    }

    fn take(&self, len: usize) -> Option<NonNull<u8>> {
        let class = class_for(len)?;
        let bytes = class_size(class) as u64;
        let granule = match self.head().free[class].pop(|g| &self.block(g).next) {
            Some(g) => g,
            None => {
                let bump = &self.head().bump;
                let at = bump.fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| (at + bytes <= self.size as u64).then_some(at + bytes)).ok()?;
                let granule = (at / GRANULE as u64) as u32;
                // SAFETY: `fetch_update` gave these bytes to this caller alone, inside the mapping.
                unsafe { self.base.add(at as usize).cast::<Block>().write(Block { class: class as u32, magic: MAGIC, next: AtomicU32::new(0) }) };
                granule
            }
        };
        let head = self.head();
        head.live_blocks.fetch_add(1, Ordering::Relaxed);
        head.live_bytes.fetch_add(bytes, Ordering::Relaxed);
        // SAFETY: header and room behind it lie inside the block.
        Some(unsafe { self.base.add(granule as usize * GRANULE + HEADER) })
    }

    /// Gives a block back.
    ///
    /// # Safety
    /// `p` came from [`Arena::allocate`] of this arena and is not used any more.
    pub unsafe fn release(&self, p: NonNull<u8>) {
        let offset = p.as_ptr() as usize - self.base.as_ptr() as usize - HEADER;
        let granule = (offset / GRANULE) as u32;
        let block = self.block(granule);
        assert!(block.magic == MAGIC, "arena: this is no block");
        let class = block.class as usize;
        let head = self.head();
        head.live_blocks.fetch_sub(1, Ordering::Relaxed);
        head.live_bytes.fetch_sub(class_size(class) as u64, Ordering::Relaxed);
        head.free[class].push(granule, &block.next);
    }

    /// Blocks in use.
    pub fn live_blocks(&self) -> u64 {
        self.head().live_blocks.load(Ordering::Relaxed)
    }

    /// Bytes of the blocks in use.
    pub fn live_bytes(&self) -> u64 {
        self.head().live_bytes.load(Ordering::Relaxed)
    }
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

    #[test]
    fn classes_waste_at_most_a_third() {
        for len in [1usize, 48, 49, 100, 1000, 5000, 100_000, 40_000_000] {
            let size = class_size(class_for(len).unwrap());
            assert!(size >= len + HEADER && (size <= 64 || size * 2 <= (len + HEADER) * 3), "{len}: {size}");
        }
        assert_eq!(class_for(usize::MAX / 2), None);
    }

    #[test]
    fn blocks_come_back() {
        let arena = Arena::new(16).unwrap();
        let all: Vec<_> = (0..1000).map(|i| arena.allocate(i).unwrap()).collect();
        assert_eq!(arena.live_blocks(), 1000);
        let mut seen: Vec<_> = all.iter().map(|p| p.as_ptr() as usize).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
        for p in all {
            // SAFETY: each came from allocate and is used no more.
            unsafe { arena.release(p) };
        }
        assert_eq!((arena.live_blocks(), arena.live_bytes()), (0, 0));
        let bump = arena.head().bump.load(Ordering::Relaxed);
        arena.allocate(500).unwrap();
        assert_eq!(arena.head().bump.load(Ordering::Relaxed), bump, "a free block is used before new memory");
    }

    #[test]
    fn a_full_arena_says_so() {
        let arena = Arena::new(16).unwrap();
        assert!(arena.allocate(20 << 20).is_none());
        let mut n = 0;
        while arena.allocate(1 << 20).is_some() {
            n += 1;
        }
        assert!((8..16).contains(&n), "{n}");
        assert!(arena.allocate(10).is_some(), "small blocks still fit");
    }

    #[test]
    fn threads_never_share_a_block() {
        let arena = Arena::new(64).unwrap();
        std::thread::scope(|s| {
            for t in 0..4u8 {
                let arena = &arena;
                s.spawn(move || {
                    for round in 0..20_000usize {
                        let p = arena.allocate(round % 300 + 8).unwrap();
                        // SAFETY: the block is ours until released.
                        unsafe {
                            p.write(t);
                            std::hint::spin_loop();
                            assert_eq!(p.read(), t);
                            arena.release(p);
                        }
                    }
                });
            }
        });
        assert_eq!(arena.live_blocks(), 0);
    }
}
