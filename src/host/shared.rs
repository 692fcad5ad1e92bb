//! Contexts in the arena: reference counted, one lock each, content in [`Context`]'s encoding.
//!
//! The host keeps raw pointers to them in its transactions, dialogs and processing contexts; each
//! such pointer owns one reference.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use once_cell::sync::OnceCell;

use super::arena::{self, Arena};
use super::interprocess::{Content, Lock, Locked};
use super::{guard, process};
use crate::acc::context::{Context, Progress};

#[repr(C)]
struct Slot {
    refs: AtomicU32,
    lock: Lock,
    /// Address of the encoded content (the same in every process) behind its length.
    content: Content,
    /// A dialog claimed this call after a restart.
    claimed: AtomicU32,
    /// The journal had this call as one in progress.
    in_journal: AtomicU32,
    /// The context whose values are written for this one (D13), with a reference; 0 = itself.
    call: AtomicU64,
}

/// A reference to a shared context.
#[derive(Debug)]
pub struct SharedContext(NonNull<Slot>);

/// A context was changed.
pub struct Change<'a> {
    /// It was a call in progress before, see [`Context::is_open_call`].
    pub was_open: bool,
    /// What it is now.
    pub now: &'a Context,
    /// The same, encoded.
    pub encoded: &'a [u8],
}

/// Told of every change of a context, while its lock is held; whether the journal now has the call
/// as one in progress.
type OnChange = fn(&Change<'_>) -> bool;

static ON_CHANGE: OnceCell<OnChange> = OnceCell::new();

/// Sets who is told of changes; once, before the fork.
pub fn on_change(f: OnChange) {
    let _ = ON_CHANGE.set(f);
}

/// Why a context could not be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharedError {
    /// No room for the content.
    #[error("shared memory for calls in progress is full: raise the parameter arena_size")]
    Full,
    /// The content cannot be read: its last writer died half way.
    #[error("the accounting context is damaged: the process that changed it last died")]
    Damaged,
}

/// Room for the encoding of a common call.
const CONTENT: usize = 512;
/// Bytes of the length before a content.
const LENGTH: usize = size_of::<u32>();

/// A content as it stands in the arena, behind its length.
struct Encoded(Vec<u8>);

impl Encoded {
    fn of(ctx: &Context) -> Encoded {
        let mut bytes = Vec::with_capacity(CONTENT);
        bytes.extend_from_slice(&[0; LENGTH]);
        ctx.encode(&mut bytes);
        let length = (bytes.len() - LENGTH) as u32;
        bytes[..LENGTH].copy_from_slice(&length.to_ne_bytes());
        Encoded(bytes)
    }

    fn content(&self) -> &[u8] {
        &self.0[LENGTH..]
    }
}

/// Takes a lock of the arena, if need be from a process that was killed.
pub(super) fn locked(lock: &Lock) -> Locked<'_> {
    lock.lock(process::id(), is_alive)
}

fn is_alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH) && !is_zombie(pid)
}

/// Killed, and its parent has not asked yet how it ended.
fn is_zombie(pid: rustix::process::Pid) -> bool {
    let stat = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The name, which may hold anything, ends at the last parenthesis.
    let state = stat.iter().rposition(|b| *b == b')').and_then(|at| stat.get(at + 2));
    state == Some(&b'Z')
}

fn arena() -> Result<&'static Arena, SharedError> {
    arena::get().ok_or(SharedError::Full)
}

impl SharedContext {
    /// Puts a context into the arena.
    pub fn new(ctx: &Context) -> Result<SharedContext, SharedError> {
        let arena = arena()?;
        let p = arena.allocate(size_of::<Slot>()).ok_or(SharedError::Full)?.cast::<Slot>();
        let slot = Slot {
            refs: AtomicU32::new(1),
            lock: Lock::free(),
            content: Content::none(),
            claimed: AtomicU32::new(0),
            in_journal: AtomicU32::new(0),
            call: AtomicU64::new(0),
        };
        // SAFETY: the block is fresh, large enough and aligned to 16 bytes.
        unsafe { p.write(slot) };
        let shared = SharedContext(p);
        shared.store(&Encoded::of(ctx))?;
        Ok(shared)
    }

    fn slot(&self) -> &Slot {
        // SAFETY: this reference keeps the block alive, and `new` initialised it.
        unsafe { self.0.as_ref() }
    }

    /// The encoded content; for the holder of the lock, until it stores another.
    fn content(&self) -> Result<&[u8], SharedError> {
        let p = NonNull::new(self.slot().content.get() as *mut u8).ok_or(SharedError::Damaged)?;
        // SAFETY: `store` put a block there that begins with its length and has so many bytes; it
        // stays until it is replaced under the lock, which the caller holds.
        Ok(unsafe { std::slice::from_raw_parts(p.add(LENGTH).as_ptr(), p.cast::<u32>().read() as usize) })
    }

    fn load(&self) -> Result<Context, SharedError> {
        Context::decode(self.content()?).ok_or(SharedError::Damaged)
    }

    fn store(&self, encoded: &Encoded) -> Result<(), SharedError> {
        let bytes = &encoded.0;
        let arena = arena()?;
        let p = arena.allocate(bytes.len()).ok_or(SharedError::Full)?;
        // SAFETY: the fresh block has room for the bytes.
        unsafe { p.copy_from_nonoverlapping(NonNull::from(&bytes[..]).cast(), bytes.len()) };
        let old = self.slot().content.replace(p.as_ptr() as u64);
        self.release_content(old);
        Ok(())
    }

    fn release_content(&self, address: u64) {
        if let (Some(p), Ok(arena)) = (NonNull::new(address as *mut u8), arena()) {
            // SAFETY: the address came from `allocate` and was just taken out of the slot.
            unsafe { arena.release(p) };
        }
    }

    /// The context as it is now.
    pub fn copy(&self) -> Result<Context, SharedError> {
        let _locked = locked(&self.slot().lock);
        self.load()
    }

    /// Looks at the context.
    pub fn read<R>(&self, f: impl FnOnce(&Context) -> R) -> Result<R, SharedError> {
        self.copy().map(|ctx| f(&ctx))
    }

    /// How far its call is, without reading more than that.
    pub fn progress(&self) -> Result<Progress, SharedError> {
        let _locked = locked(&self.slot().lock);
        Context::progress_of(self.content()?).ok_or(SharedError::Damaged)
    }

    /// Changes the context; what `f` did is kept only when it could be stored.
    pub fn update<R>(&self, f: impl FnOnce(&mut Context) -> R) -> Result<R, SharedError> {
        self.change(f, ON_CHANGE.get())
    }

    /// [`SharedContext::update`] by what another server did with a call of its own: it is not told,
    /// because this server's journal does not owe the CDR.
    pub fn take_over(&self, f: impl FnOnce(&mut Context)) -> Result<(), SharedError> {
        self.change(f, None)
    }

    fn change<R>(&self, f: impl FnOnce(&mut Context) -> R, tell: Option<&OnChange>) -> Result<R, SharedError> {
        let _locked = locked(&self.slot().lock);
        let mut ctx = self.load()?;
        let was_open = ctx.is_open_call();
        let r = f(&mut ctx);
        let encoded = Encoded::of(&ctx);
        // Equal contexts have equal bytes, and others have others.
        if encoded.content() != self.content()? {
            self.store(&encoded)?;
            if tell.is_some_and(|tell| tell(&Change { was_open, now: &ctx, encoded: encoded.content() })) {
                self.set_in_journal();
            }
        }
        Ok(r)
    }

    /// The context whose values are written for this one, if it is not itself.
    pub fn call(&self) -> Option<SharedContext> {
        NonNull::new(self.slot().call.load(Ordering::Acquire) as *mut Slot).map(|p| SharedContext(p).share())
    }

    /// Makes `call` the context whose values are written for this one; only the first counts.
    pub fn set_call(&self, call: &SharedContext) {
        let mine = std::mem::ManuallyDrop::new(call.duplicate());
        if self.slot().call.compare_exchange(0, mine.0.as_ptr() as u64, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            drop(std::mem::ManuallyDrop::into_inner(mine));
        }
    }

    /// The journal has this call as one in progress, until it ends.
    pub fn set_in_journal(&self) {
        self.slot().in_journal.store(1, Ordering::Release);
    }

    /// Did the journal have it?
    pub fn was_in_journal(&self) -> bool {
        self.slot().in_journal.load(Ordering::Acquire) != 0
    }

    /// A restored dialog takes this call over.
    pub fn claim(&self) {
        self.slot().claimed.store(1, Ordering::Release);
    }

    /// Did a dialog take it over?
    pub fn is_claimed(&self) -> bool {
        self.slot().claimed.load(Ordering::Acquire) != 0
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

    /// A reference of one's own to what the host still holds.
    ///
    /// # Safety
    /// `p` is null or came from [`SharedContext::into_raw`], and the host holds it meanwhile.
    pub unsafe fn borrow_raw(p: *mut c_void) -> Option<SharedContext> {
        NonNull::new(p.cast()).map(|p| SharedContext(p).share())
    }
}

/// The host gives up a reference in a transaction, a dialog, a callback or a processing context.
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
        self.release_content(slot.content.replace(0));
        if let Some(call) = NonNull::new(slot.call.swap(0, Ordering::AcqRel) as *mut Slot) {
            drop(SharedContext(call));
        }
        if let Ok(arena) = arena() {
            // SAFETY: the last reference is gone, nobody else knows the block.
            unsafe { arena.release(self.0.cast()) };
        }
    }
}

// SAFETY: the content is reached only under the slot's own lock, the rest is atomic.
unsafe impl Send for SharedContext {}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::acc::clock::Moment;

    fn call(extras: usize, legs: usize) -> Context {
        let mut c = Context::new(Moment::now(), true);
        c.core.callid = vec![b'c'; 40];
        c.core.from_tag = vec![b'f'; 20];
        c.core.to_tag = vec![b't'; 20];
        c.core.method = b"INVITE".to_vec();
        for i in 0..extras {
            c.extra.set(format!("extra_tag_{i}").as_bytes(), Some(&[b'v'; 32]));
        }
        c.legs.resize(legs, Default::default());
        for leg in &mut c.legs {
            leg.set(b"leg_source", Some(&[b's'; 32]));
            leg.set(b"leg_destination", Some(&[b'd'; 32]));
        }
        c
    }

    // One test for everything that counts live blocks: they share the process-wide arena.
    #[test]
    fn contexts_are_small_shared_and_freed() {
        let arena = arena::install(64).unwrap();
        let (blocks, bytes) = (arena.live_blocks(), arena.live_bytes());
        let a = SharedContext::new(&call(5, 2)).unwrap();
        let used = arena.live_bytes() - bytes;
        assert!(used <= 2048, "5 extras and 2 legs of 32 bytes take {used} bytes");

        let b = a.duplicate();
        a.update(|c| c.extra.set(b"k", Some(b"v"))).unwrap();
        assert_eq!(b.read(|c| c.extra.get(b"k").map(<[u8]>::to_vec)), Ok(Some(b"v".to_vec())));

        let request = SharedContext::new(&call(0, 1)).unwrap();
        request.set_call(&a);
        assert!(request.call().unwrap().same(&b));

        // SAFETY: the raw pointer is the one just made.
        let back = unsafe { SharedContext::from_raw(a.into_raw()) };
        drop((back, b));
        assert!(request.call().is_some(), "the request keeps the call alive");
        drop(request);
        assert_eq!(arena.live_blocks(), blocks);

        // What another server did is not told, what this one does is.
        static TOLD: AtomicU32 = AtomicU32::new(0);
        on_change(|_| TOLD.fetch_add(1, Ordering::Relaxed) < u32::MAX);
        let a = SharedContext::new(&call(1, 1)).unwrap();
        a.take_over(|c| c.extra.set(b"k", Some(b"theirs"))).unwrap();
        assert_eq!((a.read(|c| c.extra.get(b"k").map(<[u8]>::to_vec)), TOLD.load(Ordering::Relaxed)), (Ok(Some(b"theirs".to_vec())), 0));
        assert!(!a.was_in_journal());
        a.update(|c| c.extra.set(b"k", Some(b"ours"))).unwrap();
        assert!(TOLD.load(Ordering::Relaxed) == 1 && a.was_in_journal());
        drop(a);

        // A context too large for what is left is refused and the old state stays.
        let c = SharedContext::new(&call(1, 1)).unwrap();
        let r = c.update(|c| c.extra.set(b"big", Some(&vec![b'x'; 100 << 20])));
        assert_eq!(r, Err(SharedError::Full));
        assert_eq!(c.read(|c| c.extra.get(b"big").is_some()), Ok(false));
        // A lock whose holder is gone is taken over: no process has the largest number there is.
        c.slot().lock.lock(i32::MAX as u32, |_| true).killed();
        assert_eq!(c.read(|c| c.legs.len()), Ok(1));
        // So is that of a process which was killed and is still to be waited for.
        // SAFETY: the child takes one lock, without memory of its own, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            locked(&c.slot().lock).killed();
            // SAFETY: ends the child at once, without anything of the parent's.
            unsafe { libc::_exit(0) };
        }
        assert!(child > 0);
        let held = Instant::now();
        while c.slot().lock.holder() == 0 && held.elapsed() < Duration::from_secs(30) {
            std::thread::yield_now();
        }
        assert_eq!(c.slot().lock.holder(), child as u32);
        assert_eq!(c.read(|c| c.legs.len()), Ok(1));
        // SAFETY: waits for the child just made.
        assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
        drop(c);
        assert_eq!(arena.live_blocks(), blocks);
    }
}
