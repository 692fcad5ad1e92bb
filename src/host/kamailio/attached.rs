//! What is attached to the host's transactions and dialogs. Kamailio has no place for our pointers in
//! them, so a table in shared memory finds it by their address, from their creation to their end (the
//! host's DESTROY callbacks). Answered calls are also found by Call-ID and tags, until they end.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use once_cell::sync::OnceCell;

use crate::accounting::clock::{Moment, Wall};
use crate::accounting::identity::Identity;
use crate::accounting::record::{Core, EndCause};
use crate::host::arena::{self, Arena, OBJECT, Room};
use crate::host::pid::locked;
use crate::host::shared::SharedContext;
use crate::host::tally::Once;
use crate::interprocess::{Lock, Locked};

/// Number of chains in the table: with 100 000 transactions and dialogs at a time, a chain has three entries.
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
    /// Raw references to contexts, 0 = none: the current one, and the request's own (D13).
    contexts: [AtomicU64; 2],
    /// Arrival of a request, or answer of a call.
    arrived_wall: i64,
    /// 0 = not known.
    arrived_mono: i64,
    /// Address of the dialog that the request made, 0 = none. The lowest bit is set if the request is an initial
    /// one; bits from [`ONCE`] on say what the transaction was counted for ([`Once::bit`]).
    dialog: AtomicUsize,
}

/// Where the bits of [`Once`] are in [`Node::dialog`].
const ONCE: u32 = 1;
/// The bits that are not part of an address.
const BITS: usize = 7;

const _: () = assert!(size_of::<Node>() <= OBJECT);

/// What is known about the request of a transaction from the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Its arrival, if known.
    pub arrived: Option<Moment>,
    /// It has no To tag, so it belongs to no dialog except one that it makes.
    pub is_initial: bool,
    /// Address of the dialog that it made, 0 = none.
    pub dialog: usize,
}

/// Key of an answered call, from Call-ID and tags, whichever side sends. Odd, as no address is.
pub fn key_of_call(core: &Core) -> *const c_void {
    let mut id = Identity::new();
    id.eat(&core.callid);
    id.eat((&core.from_tag).min(&core.to_tag));
    id.eat((&core.from_tag).max(&core.to_tag));
    (id.finish() as u64 | 1) as *const c_void
}

/// The key of an answered call with this Call-ID and these tags, whichever side sends.
pub fn call(core: &Core) -> Option<SharedContext> {
    table()?.calls(key_of_call(core)).into_iter().find(|ctx| ctx.read_head(|c| side(&c.core, core).is_some()).unwrap_or(false))
}

/// Which side of the call has sent a message; `None` if the message belongs to another call.
pub fn side(call: &Core, message: &Core) -> Option<EndCause> {
    let tags = (&message.from_tag, &message.to_tag);
    if call.callid != message.callid {
        None
    } else if tags == (&call.from_tag, &call.to_tag) {
        Some(EndCause::Caller)
    } else {
        (tags == (&call.to_tag, &call.from_tag)).then_some(EndCause::Callee)
    }
}

/// Which of the two contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The current one.
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

/// A chain that this process has locked; dropping it unlocks it.
struct Held<'a>(&'a Chain, #[expect(dead_code, reason = "dropped to unlock")] Locked<'a>);

impl Attached {
    fn new(arena: &'static Arena) -> Result<Attached, String> {
        let room = arena.carve(CHAINS * size_of::<Chain>()).ok_or("parameter arena_size: too small for the table of transactions")?;
        let chains = room.cast::<Chain>();
        for i in 0..CHAINS {
            // SAFETY: the fresh memory has room for all chains and is aligned to 64 bytes.
            unsafe { chains.add(i).write(Chain { lock: Lock::free(), first: AtomicU64::new(0) }) };
        }
        Ok(Attached { chains, arena })
    }

    /// Locks the chain of an address. Chains are consistent after every single step, so the lock of a killed
    /// process can be taken over.
    fn lock(&self, key: u64) -> Held<'_> {
        // Addresses of the host's blocks differ little in their low bits.
        let i = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % CHAINS;
        // SAFETY: i is inside the table, which `new` has written.
        let chain = unsafe { self.chains.add(i).as_ref() };
        Held(chain, locked(&chain.lock))
    }

    /// # Safety
    /// The address is 0 or that of a node of a chain whose lock is held while the node is used.
    unsafe fn node<'a>(address: u64) -> Option<&'a Node> {
        // SAFETY: the caller's promise.
        NonNull::new(address as *mut Node).map(|p| unsafe { p.as_ref() })
    }

    fn find<'a>(chain: &'a Held<'_>, key: u64) -> Option<&'a Node> {
        Self::all(chain, key).next()
    }

    /// The context attached to a transaction or dialog.
    pub fn get(&self, key: *const c_void, which: Which) -> Option<SharedContext> {
        let chain = self.lock(key as u64);
        let raw = Self::find(&chain, key as u64)?.contexts[which as usize].load(Ordering::Relaxed);
        // SAFETY: the node owns the reference and cannot go while its chain is locked.
        unsafe { SharedContext::borrow_raw(raw as *mut c_void) }
    }

    /// What is known about the request of a transaction.
    pub fn request(&self, key: *const c_void) -> Option<Request> {
        let chain = self.lock(key as u64);
        let node = Self::find(&chain, key as u64)?;
        let arrived = (node.arrived_mono != 0).then(|| Moment { wall: Wall(node.arrived_wall), mono: node.arrived_mono, boot: Moment::now().boot });
        let dialog = node.dialog.load(Ordering::Relaxed);
        Some(Request { arrived, is_initial: dialog & 1 != 0, dialog: dialog & !BITS })
    }

    /// Was a transaction counted for this?
    pub fn was_counted(&self, key: *const c_void, what: Once) -> bool {
        let chain = self.lock(key as u64);
        let bit = (what.bit() as usize) << ONCE;
        Self::find(&chain, key as u64).is_some_and(|node| node.dialog.load(Ordering::Relaxed) & bit != 0)
    }

    /// Is a transaction counted for this for the first time? Always true for an unknown one.
    pub fn is_first(&self, key: *const c_void, what: Once) -> bool {
        let chain = self.lock(key as u64);
        let bit = (what.bit() as usize) << ONCE;
        Self::find(&chain, key as u64).is_none_or(|node| node.dialog.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    /// Is there an entry?
    #[cfg(test)]
    fn knows(&self, key: *const c_void) -> bool {
        Self::find(&self.lock(key as u64), key as u64).is_some()
    }

    /// Begins an entry; true if it is new and its end has to be reported through `forget`. If the arena is full,
    /// there is no entry.
    pub fn add(&self, key: *const c_void, request: Request) -> bool {
        let chain = self.lock(key as u64);
        Self::find(&chain, key as u64).is_none() && self.add_to(chain.0, key as u64, request, None)
    }

    fn add_to(&self, chain: &Chain, key: u64, request: Request, ctx: Option<SharedContext>) -> bool {
        let room = if ctx.is_some() { Room::CallUp } else { Room::Attached };
        let Some([room]) = self.arena.objects(room) else { return false };
        let arrived = request.arrived.unwrap_or_default();
        let node = Node {
            key,
            next: AtomicU64::new(chain.first.load(Ordering::Relaxed)),
            contexts: [AtomicU64::new(ctx.map_or(0, |c| c.into_raw() as u64)), AtomicU64::new(0)],
            arrived_wall: arrived.wall.0,
            arrived_mono: arrived.mono,
            dialog: AtomicUsize::new(request.dialog | usize::from(request.is_initial)),
        };
        // SAFETY: the fresh block has room for a node (as asserted above) and is aligned to 8 bytes.
        unsafe { room.cast::<Node>().write(node) };
        // It must be complete as soon as it is visible: this process may be killed before it unlocks.
        chain.first.store(room.as_ptr() as u64, Ordering::Release);
        true
    }

    /// The nodes of a chain with this key: one for a transaction or dialog, any number for a call.
    fn all<'a>(chain: &'a Held<'_>, key: u64) -> impl Iterator<Item = &'a Node> {
        Self::each(chain).filter(move |node| node.key == key)
    }

    fn each<'a>(chain: &'a Held<'_>) -> impl Iterator<Item = &'a Node> {
        // SAFETY: both are links of this chain, whose lock is held as long as its nodes are used.
        let follow = |link: &AtomicU64| unsafe { Self::node(link.load(Ordering::Acquire)) };
        std::iter::successors(follow(&chain.0.first), move |node| follow(&node.next))
    }

    /// From now on, an answered call is found by its key.
    pub fn add_call(&self, key: *const c_void, ctx: &SharedContext, answered: Option<Moment>) {
        let chain = self.lock(key as u64);
        if !Self::all(&chain, key as u64).any(|node| Self::is_of(node, ctx)) {
            self.add_to(chain.0, key as u64, Request { arrived: answered, ..Request::default() }, Some(ctx.duplicate()));
        }
    }

    /// The answered calls with this key.
    pub fn calls(&self, key: *const c_void) -> Vec<SharedContext> {
        let chain = self.lock(key as u64);
        Self::all(&chain, key as u64)
            .filter_map(|node| {
                // SAFETY: as in `get`.
                unsafe { SharedContext::borrow_raw(node.contexts[Which::InForce as usize].load(Ordering::Relaxed) as *mut c_void) }
            })
            .collect()
    }

    /// The calls that were answered at least this many seconds before `now`.
    pub fn calls_older_than(&self, now: Moment, seconds: u32) -> Vec<SharedContext> {
        let before = now.mono - i64::from(seconds) * 1_000_000;
        let mut out = Vec::new();
        for i in 0..CHAINS {
            // SAFETY: i is inside the table, which `new` has written.
            let chain = unsafe { self.chains.add(i).as_ref() };
            if chain.first.load(Ordering::Acquire) == 0 {
                continue;
            }
            let held = Held(chain, locked(&chain.lock));
            let old = Self::each(&held).filter(|node| node.key & 1 == 1 && node.arrived_mono <= before);
            // SAFETY: as in `get`.
            out.extend(
                old.filter_map(|node| unsafe { SharedContext::borrow_raw(node.contexts[Which::InForce as usize].load(Ordering::Relaxed) as *mut c_void) }),
            );
        }
        out
    }

    /// From now on, the call is no longer found.
    pub fn forget_call(&self, key: *const c_void, ctx: &SharedContext) {
        self.remove(key, |node| Self::is_of(node, ctx));
    }

    fn is_of(node: &Node, ctx: &SharedContext) -> bool {
        node.contexts[Which::InForce as usize].load(Ordering::Relaxed) == ctx.address()
    }

    /// Replaces a context of an entry; false if there is no entry.
    pub fn put(&self, key: *const c_void, which: Which, ctx: Option<SharedContext>) -> bool {
        let old = {
            let chain = self.lock(key as u64);
            let Some(node) = Self::find(&chain, key as u64) else { return false };
            node.contexts[which as usize].swap(ctx.map_or(0, |c| c.into_raw() as u64), Ordering::Relaxed)
        };
        // SAFETY: the reference just taken out of the node.
        drop(unsafe { SharedContext::from_raw(old as *mut c_void) });
        true
    }

    /// Gives an entry a current context unless it has one, which is then returned.
    pub fn offer(&self, key: *const c_void, ctx: &SharedContext) -> Option<SharedContext> {
        let chain = self.lock(key as u64);
        let place = &Self::find(&chain, key as u64)?.contexts[Which::InForce as usize];
        let raw = place.load(Ordering::Relaxed);
        if raw == 0 {
            place.store(ctx.duplicate().into_raw() as u64, Ordering::Relaxed);
        }
        // SAFETY: as in `get`.
        unsafe { SharedContext::borrow_raw(raw as *mut c_void) }
    }

    /// The transaction or dialog ends.
    pub fn forget(&self, key: *const c_void) {
        self.remove(key, |_| true);
    }

    /// Removes one entry with this key for which `is_meant` is true.
    fn remove(&self, key: *const c_void, is_meant: impl Fn(&Node) -> bool) {
        let contexts = {
            let chain = self.lock(key as u64);
            let mut place = &chain.0.first;
            let node = loop {
                // SAFETY: a link of this chain, whose lock is held until the node is out of it.
                let Some(node) = (unsafe { Self::node(place.load(Ordering::Acquire)) }) else { return };
                if node.key == key as u64 && is_meant(node) {
                    break node;
                }
                place = &node.next;
            };
            place.store(node.next.load(Ordering::Acquire), Ordering::Release);
            let contexts = [node.contexts[0].load(Ordering::Relaxed), node.contexts[1].load(Ordering::Relaxed)];
            // SAFETY: the node came from `objects` and is in no chain any more.
            unsafe { self.arena.release_objects(NonNull::from(node).cast()) };
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
            let request = Request { arrived: Some(at), is_initial: i % 2 == 0, dialog: i * 64 };
            assert!(table.add(*key, request) && !table.add(*key, Request::default()));
        }
        for (i, key) in keys.iter().enumerate() {
            let request = table.request(*key).unwrap();
            assert_eq!(request.arrived.map(|m| (m.wall.0, m.mono)), Some((i as i64, i as i64 + 1)));
            assert_eq!((request.is_initial, request.dialog), (i % 2 == 0, i * 64));
            assert!(table.get(*key, Which::InForce).is_none());
            assert_eq!([Once::Outcome, Once::Missed, Once::Outcome, Once::Missed].map(|what| table.is_first(*key, what)), [true, true, false, false]);
            assert_eq!(table.request(*key), Some(request));
        }
        for key in keys.iter().step_by(2).chain(keys.iter().skip(1).step_by(2)) {
            table.forget(*key);
            table.forget(*key);
            assert!(!table.knows(*key));
        }
        assert_eq!(arena.live_blocks(), idle);
    }

    #[test]
    fn calls_with_the_same_tags_are_all_found() {
        let core = |from: &str, to: &str| Core { callid: b"c".to_vec(), from_tag: from.into(), to_tag: to.into(), ..Core::default() };
        assert_eq!(key_of_call(&core("a", "b")), key_of_call(&core("b", "a")));
        assert_ne!(key_of_call(&core("a", "b")), key_of_call(&core("a", "c")));
    }
}
