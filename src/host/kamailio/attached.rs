//! What is attached to the host's transactions and dialogs. Kamailio has no place of ours in them,
//! so a table in shared memory finds it by their address, from their making to their end (the
//! host's DESTROY callbacks). Answered calls are also found by their Call-ID, until they end.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use once_cell::sync::OnceCell;

use crate::acc::clock::Moment;
use crate::acc::identity::Identity;
use crate::acc::record::Wall;
use crate::host::arena::{self, Arena};
use crate::host::interprocess::{Lock, Locked};
use crate::host::shared::{SharedContext, locked};

/// Chains of the table: with 100 000 transactions and dialogs at a time a chain has three.
const CHAINS: usize = 1 << 15;

#[repr(C)]
struct Chain {
    lock: Lock,
    first: AtomicU64,
}

#[repr(C)]
struct Node {
    key: u64,
    next: AtomicU64,
    /// Raw references to contexts, 0 = none: one in force, one of the request's own (D13).
    contexts: [AtomicU64; 2],
    arrived_wall: AtomicI64,
    /// 0 = not known.
    arrived_mono: AtomicI64,
}

/// Where an answered call is found by its Call-ID. Odd, as no address is.
pub fn key_of_call(callid: &[u8]) -> *const c_void {
    let mut id = Identity::new();
    id.eat(callid);
    (id.finish() as u64 | 1) as *const c_void
}

/// Which of the two contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one in force.
    InForce = 0,
    /// The marks of an in-dialog request of its own (D13).
    Own = 1,
}

/// The table.
pub struct Attached {
    chains: NonNull<Chain>,
    arena: &'static Arena,
}

// SAFETY: the chains lie in the arena, which is never unmapped, and are used under their locks.
unsafe impl Send for Attached {}
// SAFETY: as above.
unsafe impl Sync for Attached {}

static TABLE: OnceCell<Attached> = OnceCell::new();

/// Makes the table; once, before the fork.
pub fn install() -> Result<(), String> {
    let arena = arena::get().ok_or("there is no arena")?;
    TABLE.get_or_try_init(|| Attached::new(arena)).map(|_| ())
}

/// The table, once installed.
pub fn table() -> Option<&'static Attached> {
    TABLE.get()
}

/// A chain that this process may use: its lock goes with it.
struct Held<'a>(&'a Chain, #[expect(dead_code, reason = "dropped to unlock")] Locked<'a>);

impl Attached {
    fn new(arena: &'static Arena) -> Result<Attached, String> {
        let room = arena.allocate(CHAINS * size_of::<Chain>()).ok_or("parameter arena_size: too small for the table of transactions")?;
        let chains = room.cast::<Chain>();
        for i in 0..CHAINS {
            // SAFETY: the fresh block has room for all chains and is aligned to 16 bytes.
            unsafe { chains.add(i).write(Chain { lock: Lock::free(), first: AtomicU64::new(0) }) };
        }
        Ok(Attached { chains, arena })
    }

    /// Locks the chain of an address. Chains are whole after every single step, so that the lock
    /// of a killed process can be taken over.
    fn lock(&self, key: u64) -> Held<'_> {
        // Addresses of the host's blocks differ little in their low bits.
        let i = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % CHAINS;
        // SAFETY: i is inside the table, which `new` has written.
        let chain = unsafe { self.chains.add(i).as_ref() };
        Held(chain, locked(&chain.lock))
    }

    fn node(address: u64) -> Option<&'static Node> {
        // SAFETY: the address is 0 or that of a node of a chain whose lock the caller holds.
        NonNull::new(address as *mut Node).map(|p| unsafe { p.as_ref() })
    }

    fn find(chain: &Chain, key: u64) -> Option<&'static Node> {
        let mut at = chain.first.load(Ordering::Acquire);
        while let Some(node) = Self::node(at) {
            if node.key == key {
                return Some(node);
            }
            at = node.next.load(Ordering::Acquire);
        }
        None
    }

    /// The context attached to a transaction or dialog.
    pub fn get(&self, key: *const c_void, which: Which) -> Option<SharedContext> {
        let chain = self.lock(key as u64);
        let raw = Self::find(chain.0, key as u64)?.contexts[which as usize].load(Ordering::Relaxed);
        // SAFETY: the node owns the reference and cannot go while its chain is locked.
        unsafe { SharedContext::borrow_raw(raw as *mut c_void) }
    }

    /// When the request of a transaction arrived.
    pub fn arrival(&self, key: *const c_void) -> Option<Moment> {
        let chain = self.lock(key as u64);
        let node = Self::find(chain.0, key as u64)?;
        let mono = node.arrived_mono.load(Ordering::Relaxed);
        (mono != 0).then(|| Moment { wall: Wall(node.arrived_wall.load(Ordering::Relaxed)), mono, boot: Moment::now().boot })
    }

    /// Is there an entry?
    #[cfg(test)]
    fn knows(&self, key: *const c_void) -> bool {
        Self::find(self.lock(key as u64).0, key as u64).is_some()
    }

    /// Begins an entry; true when it is new and its end is to be reported through `forget`. A full
    /// arena makes none.
    pub fn add(&self, key: *const c_void, arrived: Option<Moment>) -> bool {
        let chain = self.lock(key as u64);
        if Self::find(chain.0, key as u64).is_some() {
            return false;
        }
        let Some(room) = self.arena.allocate(size_of::<Node>()) else { return false };
        let arrived = arrived.unwrap_or_default();
        let node = Node {
            key: key as u64,
            next: AtomicU64::new(chain.0.first.load(Ordering::Relaxed)),
            contexts: [const { AtomicU64::new(0) }; 2],
            arrived_wall: AtomicI64::new(arrived.wall.0),
            arrived_mono: AtomicI64::new(arrived.mono),
        };
        // SAFETY: the fresh block has room for a node and is aligned to 16 bytes.
        unsafe { room.cast::<Node>().write(node) };
        // Complete for whoever sees it: this process may be killed before it unlocks.
        chain.0.first.store(room.as_ptr() as u64, Ordering::Release);
        true
    }

    /// Replaces a context of an entry; false when there is no entry.
    pub fn put(&self, key: *const c_void, which: Which, ctx: Option<SharedContext>) -> bool {
        let old = {
            let chain = self.lock(key as u64);
            let Some(node) = Self::find(chain.0, key as u64) else { return false };
            node.contexts[which as usize].swap(ctx.map_or(0, |c| c.into_raw() as u64), Ordering::Relaxed)
        };
        // SAFETY: the reference just taken out of the node.
        drop(unsafe { SharedContext::from_raw(old as *mut c_void) });
        true
    }

    /// Gives an entry a context in force unless it has one, which is then the answer.
    pub fn offer(&self, key: *const c_void, ctx: &SharedContext) -> Option<SharedContext> {
        let chain = self.lock(key as u64);
        let place = &Self::find(chain.0, key as u64)?.contexts[Which::InForce as usize];
        let raw = place.load(Ordering::Relaxed);
        if raw == 0 {
            place.store(ctx.duplicate().into_raw() as u64, Ordering::Relaxed);
        }
        // SAFETY: as in `get`.
        unsafe { SharedContext::borrow_raw(raw as *mut c_void) }
    }

    /// The transaction or dialog ends.
    pub fn forget(&self, key: *const c_void) {
        let contexts = {
            let chain = self.lock(key as u64);
            let mut place = &chain.0.first;
            let node = loop {
                let Some(node) = Self::node(place.load(Ordering::Acquire)) else { return };
                if node.key == key as u64 {
                    break node;
                }
                place = &node.next;
            };
            place.store(node.next.load(Ordering::Acquire), Ordering::Release);
            let contexts = [node.contexts[0].load(Ordering::Relaxed), node.contexts[1].load(Ordering::Relaxed)];
            // SAFETY: the node came from `allocate` and is in no chain any more.
            unsafe { self.arena.release(NonNull::from(node).cast()) };
            contexts
        };
        for raw in contexts {
            // SAFETY: the references that the node owned.
            drop(unsafe { SharedContext::from_raw(raw as *mut c_void) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_address_until_forgotten() {
        let arena: &'static Arena = Box::leak(Box::new(Arena::new(16).unwrap()));
        let table = Attached::new(arena).unwrap();
        let idle = arena.live_blocks();
        let keys: Vec<_> = (1..=5000u64).map(|i| (i * 64) as *const c_void).collect();
        for (i, key) in keys.iter().enumerate() {
            let at = Moment { wall: Wall(i as i64), mono: i as i64 + 1, boot: 0 };
            assert!(!table.knows(*key));
            assert!(!table.put(*key, Which::Own, None));
            assert!(table.add(*key, Some(at)) && !table.add(*key, None));
        }
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(table.arrival(*key).map(|m| (m.wall.0, m.mono)), Some((i as i64, i as i64 + 1)));
            assert!(table.get(*key, Which::InForce).is_none());
        }
        for key in keys.iter().step_by(2).chain(keys.iter().skip(1).step_by(2)) {
            table.forget(*key);
            table.forget(*key);
            assert!(!table.knows(*key));
        }
        assert_eq!(arena.live_blocks(), idle);
    }
}
