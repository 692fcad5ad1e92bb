//! Contexts in the arena: reference counted, one lock each. Marks, flags and instants stand in place,
//! values of the script each in a content of its own ([`super::values`]); the rest in two contents
//! ([`Part`]), each replaced as a whole.
//!
//! The host keeps raw pointers to them in its transactions, dialogs and processing contexts; each
//! such pointer owns one reference.

use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use once_cell::sync::OnceCell;

use super::arena::{self, Arena, OBJECT, Room};
use super::limited::Lines;
use super::values::{self, Built, Directory, Named, NoLeg};
use super::{guard, process};
use crate::accounting::clock::{Moment, Wall};
use crate::accounting::context::{Base, Change, Context, Facts, Head, Part, Progress, TAG_IN_KEY, Taken, Values, after_rang, call_key_of, rang_of};
use crate::accounting::decide;
use crate::accounting::marks::{Flag, Marks};
use crate::accounting::record::EndCause;
use crate::interprocess::{Content, Flags, Lock, Locked};
use crate::stats::{self, Counter};
use crate::worker;

/// A context; its [`Instants`] are in the block behind its own, its [`Marked`] behind these.
#[repr(C)]
struct Slot {
    refs: AtomicU32,
    lock: Lock,
    /// By [`Part`]; that of the values is a [`Directory`].
    parts: [Content; 3],
    /// Room of [`SPARE`] bytes for the answer's [`Part::Reply`], while a call rings.
    spare: Content,
    /// Block of the context whose values are written for this one (D13), with a reference; 0 = itself.
    call: AtomicU32,
    /// Bytes of [`Slot::base`] behind its head.
    base_rest: AtomicU32,
    /// Flags and the cause of the end; see [`flags_of`].
    flags: Flags,
    /// The last whole state in the journal, by the time it was written; 0 = none. For the holder of the
    /// lock, as the three numbers about it.
    base: AtomicU64,
    /// So many bytes behind its head are as they are now, at the beginning and at the end.
    base_prefix: AtomicU32,
    base_suffix: AtomicU32,
}

/// What is accounted where, in the block behind the [`Instants`].
#[repr(C)]
struct Marked {
    marks: [AtomicU64; 2],
    /// [`Change::call`], once it was asked for: it counts if the first word is not 0.
    call: [AtomicU64; 2],
}

#[repr(C)]
struct Instants {
    answered: [AtomicU64; 3],
    ended: [AtomicU64; 3],
    revision: AtomicU64,
}

const _: () = assert!(size_of::<Slot>() <= OBJECT && size_of::<Instants>() <= OBJECT && size_of::<Marked>() <= OBJECT);

/// Four blocks: a To tag and a reason of some 220 bytes together. Longer ones are clipped, and only
/// if the arena is full.
const SPARE: usize = 236;
const _: () = assert!(SPARE >= Part::Reply.empty_len() + "200".len() + TAG_IN_KEY);

/// In [`Slot::flags`], above the flags of the encoding and the cause of the end: a dialog of the
/// host's has this call.
const CLAIMED: u64 = 1 << 16;
/// As above: the journal had this call as one in progress.
const IN_JOURNAL: u64 = 1 << 17;
/// As above: another server says that it has the call.
const ELSEWHERE: u64 = 1 << 18;
/// As above: another context of the same call is the one that statistics count.
const UNCOUNTED: u64 = 1 << 19;
/// Where the number of attempts stands, and behind it when the request rang.
const ATTEMPTS: u32 = 24;
const RANG: u32 = 32;
/// The bits that say what a context is.
const FACTS: u64 = !(CLAIMED | IN_JOURNAL | ELSEWHERE | UNCOUNTED);

fn flags_of(facts: &Facts) -> u64 {
    let cause = facts.ended.map_or(0, |(_, cause)| cause as u8);
    u64::from(after_rang(facts.rang)) << RANG | u64::from(facts.attempts) << ATTEMPTS | u64::from(cause) << 8 | u64::from(facts.flags())
}

fn store(place: &[AtomicU64; 3], m: Moment) {
    for (word, value) in place.iter().zip([m.wall.0 as u64, m.mono as u64, m.boot]) {
        word.store(value, Ordering::Relaxed);
    }
}

fn load(place: &[AtomicU64; 3]) -> Moment {
    let [wall, mono, boot] = place.each_ref().map(|w| w.load(Ordering::Relaxed));
    Moment { wall: Wall(wall as i64), mono: mono as i64, boot }
}

/// A reference to a shared context.
#[derive(Debug)]
pub struct SharedContext(NonNull<Slot>);

/// Told of every change of a context, while its lock is held; what the journal took.
type OnChange = fn(&Change<'_>) -> Taken;

static ON_CHANGE: OnceCell<OnChange> = OnceCell::new();

/// Sets who is told of changes; once, before the fork.
pub fn on_change(f: OnChange) {
    let _ = ON_CHANGE.set(f);
}

/// The Call-ID of a request, for a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallId(pub Vec<u8>);

/// Most bytes of it that a message shows.
const SHOWN: usize = 256;

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..self.0.len().min(SHOWN)] {
            [] => f.write_str("of a request that is not marked yet"),
            id => write!(f, "Call-ID {}", id.escape_ascii()),
        }
    }
}

/// What the messages about a full arena begin with.
pub const FULL: &str = "shared memory for calls in progress is full: raise the parameter arena_size";

/// Why a context could not be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharedError {
    /// No room for the content.
    #[error("{FULL} ({0})")]
    Full(CallId),
    /// The content cannot be read.
    #[error("the accounting context is damaged")]
    Damaged,
}

/// Room for the parts of a common call.
const PARTS: usize = 768;

/// The first parts of a context, encoded, or all three.
struct Parts {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: [usize; 3],
}

impl Parts {
    fn none() -> Parts {
        Parts { bytes: Vec::with_capacity(PARTS), ends: [0; 3] }
    }

    /// Those of a head; those of the values do not follow yet.
    fn of_head(head: &Head) -> Parts {
        let mut parts = Parts::none();
        head.encode_request(&mut parts.bytes);
        parts.ends[Part::Request as usize] = parts.bytes.len();
        head.encode_reply(&mut parts.bytes);
        parts.end_here();
        parts
    }

    fn of(ctx: &Context) -> Parts {
        let mut parts = Parts::of_head(ctx);
        ctx.encode_part(Part::Values, &mut parts.bytes);
        parts.ends[Part::Values as usize] = parts.bytes.len();
        parts
    }

    /// The reply ends here, and with it the head.
    fn end_here(&mut self) {
        self.ends[Part::Reply as usize] = self.bytes.len();
        self.ends[Part::Values as usize] = self.bytes.len();
    }

    fn get(&self, part: Part) -> &[u8] {
        let i = part as usize;
        let begin = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[begin..self.ends[i]]
    }
}

/// Bytes that are compared in one step.
const COMPARED: usize = 256;

/// How many bytes are the same: by chunks as far as these are, then one by one.
fn same<'a>(chunks: impl Iterator<Item = (&'a [u8], &'a [u8])>, bytes: impl Iterator<Item = (&'a u8, &'a u8)>) -> u32 {
    let whole = chunks.take_while(|(a, b)| a.len() == COMPARED && a == b).count() * COMPARED;
    (whole + bytes.skip(whole).take_while(|(a, b)| a == b).count()) as u32
}

/// Lines about what happened to a call and could not be kept, of which each is one too many.
static NOT_KEPT: Lines = Lines::none();

fn not_kept(e: &SharedError) {
    NOT_KEPT.error(format_args!("a call goes on, but values that came with what happened to it are lost for its later records: {e}"));
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
    arena::get().ok_or_else(|| SharedError::Full(CallId::default()))
}

/// What a change does when there is no memory for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unless {
    /// Nothing is changed.
    Kept,
    /// What has its place already is changed: it happened, whether there is memory or not.
    Happened,
}

/// Who asks for memory if these were the facts and those are.
fn room_of(before: &Facts, now: &Facts) -> Room {
    if before.is_open_call() || now.is_open_call() { Room::CallUp } else { Room::New }
}

impl SharedContext {
    /// Puts a context into the arena.
    pub fn new(ctx: &Context) -> Result<SharedContext, SharedError> {
        let arena = arena()?;
        let room = room_of(&Facts::default(), &ctx.facts);
        let Some([slot, instants, marked]) = arena.objects::<3>(room) else {
            arena::count_full();
            return Err(SharedError::Full(CallId(ctx.core.callid.clone())));
        };
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
        // SAFETY: the blocks are fresh, large enough (as asserted above) and aligned to 8 bytes.
        unsafe {
            slot.write(new);
            instants.cast::<Instants>().write(Instants { answered: [zero(), zero(), zero()], ended: [zero(), zero(), zero()], revision: zero() });
            marked.cast::<Marked>().write(Marked { marks: [zero(), zero()], call: [zero(), zero()] });
        }
        let shared = SharedContext(slot);
        let values = if ctx.legs.is_empty() && ctx.extra.iter().next().is_none() { Ok(None) } else { Built::new(arena, None, ctx, room).map(Some).ok_or(()) };
        shared.store(arena, ctx, (&Facts::default(), &Parts::of_head(&Head::default())), &Parts::of_head(ctx), values, Unless::Kept)?;
        Ok(shared)
    }

    fn slot(&self) -> &Slot {
        // SAFETY: this reference keeps the block alive, and `new` initialised it.
        unsafe { self.0.as_ref() }
    }

    fn instants(&self, arena: &Arena) -> &Instants {
        // SAFETY: `new` initialised the block behind the slot's, which lives as long.
        unsafe { arena.behind(self.0.cast()).cast::<Instants>().as_ref() }
    }

    fn marked(&self, arena: &Arena) -> &Marked {
        // SAFETY: `new` initialised the second block behind the slot's, which lives as long.
        unsafe { arena.behind(arena.behind(self.0.cast())).cast::<Marked>().as_ref() }
    }

    fn flags(&self) -> u64 {
        self.slot().flags.get()
    }

    /// What it is, but for its contents; for the holder of the lock.
    fn facts_now(&self, arena: &Arena) -> Result<Facts, SharedError> {
        let instants = self.instants(arena);
        let flags = self.flags();
        let cause = EndCause::from_index((flags >> 8) as u8).ok_or(SharedError::Damaged)?;
        let revision = instants.revision.load(Ordering::Relaxed);
        let marks = Marks::of_words(self.marked(arena).marks.each_ref().map(|word| word.load(Ordering::Relaxed)));
        Ok(Facts {
            attempts: (flags >> ATTEMPTS) as u8,
            rang: rang_of((flags >> RANG) as u32),
            ..Facts::new(flags as u8, revision, marks, load(&instants.answered), (load(&instants.ended), cause))
        })
    }

    /// The parts of the head; for the holder of the lock.
    fn head_parts(&self, arena: &Arena) -> Parts {
        let mut parts = Parts::none();
        for part in [Part::Request, Part::Reply] {
            match self.slot().parts[part as usize].get() {
                0 => parts.bytes.resize(parts.bytes.len() + part.empty_len(), 0),
                // SAFETY: `publish` put a content there; it stays until it is replaced under the lock,
                // which the caller holds.
                first => unsafe { arena.read(first, &mut parts.bytes) },
            }
            parts.ends[part as usize] = parts.bytes.len();
        }
        parts.end_here();
        parts
    }

    /// The values; for the holder of the lock.
    fn directory<'a>(&self, arena: &'a Arena) -> Option<Directory<'a>> {
        // SAFETY: only `publish` puts a directory there, and only under the lock, which the caller holds.
        unsafe { Directory::at(arena, self.slot().parts[Part::Values as usize].get()) }
    }

    /// Adds the values to the parts of the head; for the holder of the lock.
    fn add_values(&self, arena: &Arena, parts: &mut Parts) -> Result<(), SharedError> {
        match self.directory(arena) {
            None => parts.bytes.resize(parts.bytes.len() + Part::Values.empty_len(), 0),
            Some(values) => values.encode(&mut parts.bytes).then_some(()).ok_or(SharedError::Damaged)?,
        }
        parts.ends[Part::Values as usize] = parts.bytes.len();
        Ok(())
    }

    /// The head, of these parts; for the holder of the lock.
    fn head_now(&self, facts: Facts, parts: &Parts) -> Result<Head, SharedError> {
        Head::of_parts(facts, &parts.bytes[..parts.ends[Part::Reply as usize]]).ok_or(SharedError::Damaged)
    }

    /// All of it; for the holder of the lock.
    fn context_now(&self, arena: &Arena) -> Result<Context, SharedError> {
        let head = self.head_now(self.facts_now(arena)?, &self.head_parts(arena))?;
        let (extra, legs) = self.values_now(arena)?;
        Ok(Context { head, extra, legs })
    }

    fn values_now(&self, arena: &Arena) -> Result<(Values, Vec<Values>), SharedError> {
        self.directory(arena).map_or_else(|| Some(Default::default()), Directory::load).ok_or(SharedError::Damaged)
    }

    /// Keeps what `head` is now instead of `before`, and `values` if they are new ones; an error if there was no
    /// memory for these. Without memory, does nothing or as much as can be, as `unless` says; an error in any case.
    fn store(
        &self,
        arena: &Arena,
        head: &Head,
        before: (&Facts, &Parts),
        parts: &Parts,
        values: Result<Option<Built>, ()>,
        unless: Unless,
    ) -> Result<(), SharedError> {
        let (slot, room) = (self.slot(), room_of(before.0, &head.facts));
        let mut missing = values.is_err();
        let values = values.unwrap_or_default();
        let mut fresh = [None; 2];
        for part in [Part::Request, Part::Reply] {
            let content = parts.get(part);
            if content == before.1.get(part) {
                continue;
            }
            fresh[part as usize] = if content.len() == part.empty_len() { Some(0) } else { arena.store(content, room) };
            missing |= fresh[part as usize].is_none();
        }
        // While a call rings it has room for its answer.
        let rings = decide::is_cdr_call(head) && head.answered.is_none();
        let spare = slot.spare.get();
        let fresh_spare = if rings && spare == 0 { arena.reserve(SPARE, room) } else { None };
        missing |= rings && spare == 0 && fresh_spare.is_none();
        if missing && unless == Unless::Kept {
            for first in fresh.into_iter().chain([fresh_spare]).flatten() {
                // SAFETY: just reserved, and known to nobody else.
                unsafe { arena.release(first) };
            }
            if let Some(values) = values {
                values.release(arena);
            }
            arena::count_full();
            return Err(SharedError::Full(CallId(head.core.callid.clone())));
        }
        if let Some(first) = fresh_spare {
            slot.spare.replace(first);
        } else if !rings && spare != 0 {
            slot.spare.replace(0);
            let reply = Part::Reply as usize;
            if fresh[reply].is_none() && parts.get(Part::Reply) != before.1.get(Part::Reply) {
                let content = head.encode_reply_within(SPARE);
                // SAFETY: it was reserved for so many bytes, and has just been taken out of the slot.
                unsafe { arena.write(spare, &content) };
                fresh[reply] = Some(spare);
            } else {
                // SAFETY: just taken out of the slot.
                unsafe { arena.release(spare) };
            }
        }
        let [request, reply] = fresh;
        self.publish(arena, [request, reply, values.as_ref().map(|v| v.first)], &head.facts, before.0);
        if let Some(values) = values {
            values.replaces(arena);
        }
        if missing {
            arena::count_full();
            return Err(SharedError::Full(CallId(head.core.callid.clone())));
        }
        Ok(())
    }

    /// Replaces contents and facts, in an order in which every step leaves a whole context: contents,
    /// then marks and instants, then the flags that say that these count.
    fn publish(&self, arena: &Arena, fresh: [Option<u32>; 3], facts: &Facts, before: &Facts) {
        let slot = self.slot();
        if fresh.iter().any(Option::is_some) {
            self.marked(arena).call[0].store(0, Ordering::Release);
        }
        for (part, first) in Part::ALL.into_iter().zip(fresh) {
            let Some(first) = first else { continue };
            let old = slot.parts[part as usize].replace(first);
            // An old directory shares contents with the new one: `Built::replaces` gives it back.
            if part != Part::Values {
                // SAFETY: just taken out of the slot.
                unsafe { arena.release(old) };
            }
        }
        if facts == before {
            return;
        }
        if facts.marks != before.marks {
            for (word, marks) in self.marked(arena).marks.iter().zip(facts.marks.words()) {
                word.store(marks, Ordering::Relaxed);
            }
        }
        let instants = self.instants(arena);
        if let Some(m) = facts.answered.filter(|_| facts.answered != before.answered) {
            store(&instants.answered, m);
        }
        if let Some((m, _)) = facts.ended.filter(|_| facts.ended != before.ended) {
            store(&instants.ended, m);
        }
        instants.revision.store(facts.revision, Ordering::Relaxed);
        slot.flags.set(FACTS, flags_of(facts));
        match (before.is_open_call(), facts.is_open_call()) {
            (false, true) if self.is_counted() => stats::add(Counter::CallsOpen, 1),
            (true, false) if self.is_counted() => stats::sub(Counter::CallsOpen, 1),
            _ => {}
        }
    }

    /// Do statistics count the call by this context?
    pub fn is_counted(&self) -> bool {
        self.flags() & UNCOUNTED == 0
    }

    /// Another context of the same call is the one that statistics count.
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

    /// The context as it is now.
    pub fn copy(&self) -> Result<Context, SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        self.context_now(arena)
    }

    /// Looks at the context.
    pub fn read<R>(&self, f: impl FnOnce(&Context) -> R) -> Result<R, SharedError> {
        self.copy().map(|ctx| f(&ctx))
    }

    /// Looks at the context, but for the values of the script.
    pub fn read_head<R>(&self, f: impl FnOnce(&Head) -> R) -> Result<R, SharedError> {
        let arena = arena()?;
        let head = {
            let _locked = locked(&self.slot().lock);
            self.head_now(self.facts_now(arena)?, &self.head_parts(arena))?
        };
        Ok(f(&head))
    }

    /// Marks, times and flags.
    pub fn facts(&self) -> Result<Facts, SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        self.facts_now(arena)
    }

    /// How many legs there are.
    pub fn legs(&self) -> Result<usize, SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        Ok(self.directory(arena).map_or(0, Directory::legs))
    }

    /// Appends a value of the script to `out`; false if it is not assigned, or cleared.
    pub fn get(&self, named: Named, out: &mut Vec<u8>) -> Result<Result<bool, NoLeg>, SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        Ok(match (self.directory(arena), named) {
            (Some(values), named) => values.find(named).map(|word| word.is_some_and(|word| values.get(word, out))),
            (None, Named::Extra(_)) => Ok(false),
            (None, Named::Leg(..)) => Err(NoLeg { legs: 0 }),
        })
    }

    /// Assigns a value of the script as a wish: see [`Context::set_extra`]. `most` is the greatest length of the whole
    /// context; false if not all of the value fits.
    pub fn set(&self, named: Named, value: Option<&[u8]>, most: usize) -> Result<Result<bool, NoLeg>, SharedError> {
        let arena = arena()?;
        let Some(tag) = named.tag() else { return Ok(Ok(false)) };
        {
            let _locked = locked(&self.slot().lock);
            if let Some(done) = self.set_in_place(arena, named, tag, value, most)? {
                return Ok(done);
            }
        }
        self.update(|c| match named {
            Named::Extra(_) => Ok(c.set_extra(tag, value, most)),
            Named::Leg(_, index) => {
                let leg = c.leg_index(index).ok_or(NoLeg { legs: c.legs.len() })?;
                Ok(c.set_leg(leg, tag, value, most))
            }
        })
    }

    /// [`SharedContext::set`] by one exchange. `None` if there is no place for the value yet, or if the journal has to
    /// be told what of a large state has changed.
    fn set_in_place(&self, arena: &Arena, named: Named, tag: &[u8], value: Option<&[u8]>, most: usize) -> Result<Option<Result<bool, NoLeg>>, SharedError> {
        let slot = self.slot();
        let Some(values) = self.directory(arena).filter(|_| slot.base.load(Ordering::Relaxed) == 0) else { return Ok(None) };
        let word = match values.find(named) {
            Ok(Some(word)) => word,
            Ok(None) => return Ok(None),
            Err(no_leg) => return Ok(Some(Err(no_leg))),
        };
        let head: usize = [Part::Request, Part::Reply]
            .into_iter()
            .map(|part| match slot.parts[part as usize].get() {
                0 => part.empty_len(),
                // SAFETY: `publish` put a content there, and the lock is held.
                first => unsafe { arena.length(first) },
            })
            .sum();
        let Some(fit) = values.fit(word, tag, value, head + values.encoded_len(), most) else { return Ok(Some(Ok(false))) };
        if values.is(word, fit.value) {
            return Ok(Some(Ok(fit.whole)));
        }
        let mut facts = self.facts_now(arena)?;
        let is_open = facts.is_open_call();
        if !values.put(word, fit.value, if is_open { Room::CallUp } else { Room::New }) {
            arena::count_full();
            let callid = self.head_now(facts, &self.head_parts(arena)).map(|head| head.core.callid);
            return Err(SharedError::Full(CallId(callid.unwrap_or_default())));
        }
        facts.revision = facts.revision.saturating_add(1);
        self.instants(arena).revision.store(facts.revision, Ordering::Relaxed);
        if is_open {
            let mut parts = self.head_parts(arena);
            self.add_values(arena, &mut parts)?;
            self.tell(arena, true, &facts, &parts, None, true)?;
        }
        Ok(Some(Ok(fit.whole)))
    }

    /// Its revision, see [`Facts::revision`].
    pub fn revision(&self) -> Result<u64, SharedError> {
        Ok(self.instants(arena()?).revision.load(Ordering::Relaxed))
    }

    /// How far its call is, without reading more than that.
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

    /// The first 18x went to the caller, so many milliseconds after the request came; later ones do not count.
    pub fn ring(&self, ms: i64) {
        let _locked = locked(&self.slot().lock);
        if !self.has_rung() {
            let ms = ms.clamp(0, i64::from(u32::MAX - 1)) as u32;
            self.slot().flags.set(u64::from(u32::MAX) << RANG, u64::from(after_rang(Some(ms))) << RANG);
        }
    }

    /// Changes the context as somebody wants it; what `f` did is kept only when it could be stored as
    /// a whole.
    pub fn update<R>(&self, f: impl FnOnce(&mut Context) -> R) -> Result<R, SharedError> {
        let (r, kept) = self.change(f, true, Unless::Kept)?;
        kept.map(|()| r)
    }

    /// Changes the context as something happened to it: marks, flags and instants are kept in any case.
    /// That values which came with it found no room is said here, and what `f` made of them is returned
    /// all the same: a record must go out.
    pub fn happen<R>(&self, f: impl FnOnce(&mut Context) -> R) -> Result<R, SharedError> {
        let (r, kept) = self.change(f, true, Unless::Happened)?;
        if let Err(e) = kept {
            not_kept(&e);
        }
        Ok(r)
    }

    /// [`SharedContext::update`] by what another server did with the call, which has given the state
    /// its revision. It is told only when this server's journal has the call too.
    pub fn take_over(&self, f: impl FnOnce(&mut Context)) -> Result<(), SharedError> {
        self.change(f, false, Unless::Kept)?.1
    }

    /// [`SharedContext::update`] of what is not a value of the script.
    pub fn update_head<R>(&self, f: impl FnOnce(&mut Head) -> R) -> Result<R, SharedError> {
        let (r, kept) = self.change_head(f, Unless::Kept)?;
        kept.map(|()| r)
    }

    /// [`SharedContext::happen`] to what is not a value of the script.
    pub fn happen_head<R>(&self, f: impl FnOnce(&mut Head) -> R) -> Result<R, SharedError> {
        let (r, kept) = self.change_head(f, Unless::Happened)?;
        if let Err(e) = kept {
            not_kept(&e);
        }
        Ok(r)
    }

    /// The dialog ended; the first end counts.
    pub fn end(&self, cause: EndCause, now: Moment) -> Result<(), SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        let mut facts = self.facts_now(arena)?;
        decide::on_end(&mut facts, cause, now);
        self.change_facts(arena, facts)
    }

    /// Closes the context if `f`, which looks at all of it, makes something of it.
    pub fn conclude<R>(&self, f: impl FnOnce(&Context) -> Option<R>) -> Result<Option<R>, SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        let ctx = self.context_now(arena)?;
        let Some(r) = f(&ctx) else { return Ok(None) };
        self.change_facts(arena, Facts { closed: true, ..ctx.facts })?;
        Ok(Some(r))
    }

    /// Makes these the facts, which differ in the end and what follows from it; for the holder of the lock.
    fn change_facts(&self, arena: &Arena, mut facts: Facts) -> Result<(), SharedError> {
        let before = self.facts_now(arena)?;
        if facts == before {
            return Ok(());
        }
        facts.revision = facts.revision.saturating_add(1);
        self.publish(arena, [None; 3], &facts, &before);
        let was_open = before.is_open_call();
        if self.is_told(true, was_open, &facts) {
            let mut parts = self.head_parts(arena);
            self.add_values(arena, &mut parts)?;
            let base = self.base(&parts.bytes, &parts.bytes);
            self.tell(arena, was_open, &facts, &parts, base, true)?;
        }
        Ok(())
    }

    /// What `f` returned, and whether all of what it did is kept.
    fn change<R>(&self, f: impl FnOnce(&mut Context) -> R, is_ours: bool, unless: Unless) -> Result<(R, Result<(), SharedError>), SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        let facts = self.facts_now(arena)?;
        let mut before = self.head_parts(arena);
        let head = self.head_now(facts, &before)?;
        let (extra, legs) = self.values_now(arena)?;
        self.add_values(arena, &mut before)?;
        let mut ctx = Context { head, extra, legs };
        let r = f(&mut ctx);
        values::arrange(&mut ctx);
        let parts = Parts::of(&ctx);
        // Equal contexts have equal bytes, and others have others.
        if ctx.facts == facts && parts.bytes == before.bytes {
            return Ok((r, Ok(())));
        }
        if is_ours {
            ctx.revision = ctx.revision.saturating_add(1);
        }
        let was_open = facts.is_open_call();
        let room = room_of(&facts, &ctx.facts);
        // Before anything is stored: should this process be killed, what it says is too little, never wrong.
        let base = self.base(&before.bytes, &parts.bytes);
        let values = if parts.get(Part::Values) == before.get(Part::Values) {
            Ok(None)
        } else {
            Built::new(arena, self.directory(arena), &ctx, room).map(Some).ok_or(())
        };
        let kept = self.store(arena, &ctx, (&facts, &before), &parts, values, unless);
        if (kept.is_ok() || unless == Unless::Happened) && self.is_told(is_ours, was_open, &ctx.facts) {
            // The journal gets all of it, also what found no room here.
            self.tell(arena, was_open, &ctx.facts, &parts, base, kept.is_ok())?;
        }
        Ok((r, kept))
    }

    /// [`SharedContext::change`] of what is not a value of the script.
    fn change_head<R>(&self, f: impl FnOnce(&mut Head) -> R, unless: Unless) -> Result<(R, Result<(), SharedError>), SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        let facts = self.facts_now(arena)?;
        let mut before = self.head_parts(arena);
        let mut head = self.head_now(facts, &before)?;
        let r = f(&mut head);
        let mut parts = Parts::of_head(&head);
        if head.facts == facts && parts.bytes == before.bytes {
            return Ok((r, Ok(())));
        }
        head.revision = head.revision.saturating_add(1);
        let was_open = facts.is_open_call();
        let is_told = self.is_told(true, was_open, &head.facts);
        if is_told {
            self.add_values(arena, &mut parts)?;
        }
        let mut base = None;
        if self.slot().base.load(Ordering::Relaxed) != 0 {
            self.add_values(arena, &mut before)?;
            if !is_told {
                self.add_values(arena, &mut parts)?;
            }
            base = self.base(&before.bytes, &parts.bytes);
        }
        let kept = self.store(arena, &head, (&facts, &before), &parts, Ok(None), unless);
        if is_told && (kept.is_ok() || unless == Unless::Happened) {
            self.tell(arena, was_open, &head.facts, &parts, base, kept.is_ok())?;
        }
        Ok((r, kept))
    }

    /// Is the journal told of a change? Of one that another server made only if it has the call.
    fn is_told(&self, is_ours: bool, was_open: bool, now: &Facts) -> bool {
        (now.is_open_call() || was_open && !now.closed) && (is_ours || self.was_in_journal())
    }

    /// Key of the call of these parts, which are `kept` as they are here, or not.
    fn call_key(&self, arena: &Arena, parts: &Parts, kept: bool) -> Result<u128, SharedError> {
        let place = &self.marked(arena).call;
        match place.each_ref().map(|word| word.load(Ordering::Acquire)) {
            [low, high] if low != 0 && kept => return Ok(u128::from(low) | u128::from(high) << 64),
            _ => {}
        }
        let is_of_dialog = self.directory(arena).is_some_and(Directory::is_of_dialog);
        let call = call_key_of(&parts.bytes, is_of_dialog).ok_or(SharedError::Damaged)?;
        if kept {
            // The word that makes it count comes last.
            place[1].store((call >> 64) as u64, Ordering::Relaxed);
            place[0].store(call as u64, Ordering::Release);
        }
        Ok(call)
    }

    /// Tells the journal of a change; `kept` if all of it found room here.
    fn tell(&self, arena: &Arena, was_open: bool, facts: &Facts, parts: &Parts, base: Option<Base>, kept: bool) -> Result<(), SharedError> {
        let Some(tell) = ON_CHANGE.get() else { return Ok(()) };
        let call = self.call_key(arena, parts, kept)?;
        match tell(&Change { call, was_open, facts, parts: &parts.bytes, base }) {
            Taken::Nothing => {}
            Taken::Whole(at) => {
                // Later states can be compared with this one only if it is kept here too. Small ones are not.
                self.set_base(if kept && parts.bytes.len() >= worker::LARGE { at } else { 0 }, parts.bytes.len());
                self.set_in_journal();
            }
            Taken::Change => self.set_in_journal(),
        }
        Ok(())
    }

    /// What of the last whole state in the journal holds when `before` becomes `now`.
    fn base(&self, before: &[u8], now: &[u8]) -> Option<Base> {
        let slot = self.slot();
        let monotonic = slot.base.load(Ordering::Relaxed);
        if monotonic == 0 {
            return None;
        }
        let prefix = same(before.chunks(COMPARED).zip(now.chunks(COMPARED)), before.iter().zip(now));
        let suffix = same(before.rchunks(COMPARED).zip(now.rchunks(COMPARED)), before.iter().rev().zip(now.iter().rev()));
        let prefix = slot.base_prefix.load(Ordering::Relaxed).min(prefix);
        let suffix = slot.base_suffix.load(Ordering::Relaxed).min(suffix);
        slot.base_prefix.store(prefix, Ordering::Relaxed);
        slot.base_suffix.store(suffix, Ordering::Relaxed);
        let rest = slot.base_rest.load(Ordering::Relaxed);
        // Bytes that were equal at both ends may be the same ones in the shorter of the two.
        let room = rest.min(now.len() as u32);
        let prefix = prefix.min(room);
        Some(Base { monotonic, rest, prefix, suffix: suffix.min(room - prefix) })
    }

    fn set_base(&self, monotonic: u64, rest: usize) {
        let slot = self.slot();
        // One after the other: whoever is killed here leaves no base, or a whole one.
        slot.base.store(0, Ordering::Release);
        for place in [&slot.base_rest, &slot.base_prefix, &slot.base_suffix] {
            place.store(rest as u32, Ordering::Release);
        }
        slot.base.store(monotonic, Ordering::Release);
    }

    /// The context whose values are written for this one, if it is not itself.
    pub fn call(&self) -> Option<SharedContext> {
        Self::at(self.slot().call.load(Ordering::Acquire)).map(|call| std::mem::ManuallyDrop::new(call).duplicate())
    }

    /// The reference that stands for a context in this block; 0 is none.
    fn at(block: u32) -> Option<SharedContext> {
        let arena = arena::get().filter(|_| block != 0)?;
        Some(SharedContext(arena.object(block).cast()))
    }

    /// A number for this reference, which [`SharedContext::of_number`] takes back.
    pub(super) fn into_number(self) -> u32 {
        let held = std::mem::ManuallyDrop::new(self);
        arena::get().map_or(0, |arena| arena.number_of(held.0.cast()))
    }

    /// The reference that a number stands for.
    pub(super) fn of_number(number: u32) -> Option<SharedContext> {
        Self::at(number)
    }

    /// Makes `call` the context whose values are written for this one; only the first counts.
    pub fn set_call(&self, call: &SharedContext) {
        let Some(arena) = arena::get() else { return };
        let mine = std::mem::ManuallyDrop::new(call.duplicate());
        if self.slot().call.compare_exchange(0, arena.number_of(mine.0.cast()), Ordering::AcqRel, Ordering::Relaxed).is_err() {
            drop(std::mem::ManuallyDrop::into_inner(mine));
        }
    }

    /// The journal has this call as one in progress, until it ends.
    pub fn set_in_journal(&self) {
        if !self.was_in_journal() {
            self.slot().flags.set(IN_JOURNAL, IN_JOURNAL);
        }
    }

    /// Did the journal have it?
    pub fn was_in_journal(&self) -> bool {
        self.flags() & IN_JOURNAL != 0
    }

    /// A dialog of the host's has this call from now on.
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

    /// Another server says that it has the call.
    pub fn set_elsewhere(&self) {
        self.slot().flags.set(ELSEWHERE, ELSEWHERE);
    }

    /// Did one say so since this was last asked?
    pub fn take_elsewhere(&self) -> bool {
        let said = self.flags() & ELSEWHERE != 0;
        if said {
            self.slot().flags.set(ELSEWHERE, 0);
        }
        said
    }

    /// The journal gets the state of a call in progress again, if `wanted`.
    pub fn restate(&self, wanted: impl FnOnce(&Facts) -> bool) -> Result<(), SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        let facts = self.facts_now(arena)?;
        if facts.is_open_call() && wanted(&facts) {
            let mut parts = self.head_parts(arena);
            self.add_values(arena, &mut parts)?;
            self.tell(arena, true, &facts, &parts, None, true)?;
        }
        Ok(())
    }

    /// Another server had the call first: this server's journal has it from now on, too, if it is one
    /// in progress.
    pub fn adopt(&self) -> Result<(), SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        let facts = self.facts_now(arena)?;
        if facts.is_open_call() && !self.was_in_journal() {
            if !facts.marks.reported(Flag::Start).is_empty() {
                stats::expect_reports();
            }
            let mut parts = self.head_parts(arena);
            self.add_values(arena, &mut parts)?;
            // The journal knows no earlier state of it.
            self.tell(arena, false, &facts, &parts, None, true)?;
        }
        Ok(())
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

    /// What tells it from every other one that is alive.
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
        drop(Self::at(slot.call.swap(0, Ordering::AcqRel)));
        let Some(arena) = arena::get() else { return };
        // Nobody follows the call any more.
        if self.is_counted() && self.facts_now(arena).is_ok_and(|facts| facts.is_open_call()) {
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::accounting::context::Reply;
    use crate::accounting::fields::Fields;
    use crate::accounting::marks::{Flags as ByCall, Types};
    use crate::accounting::record::Core;
    use crate::host::acks;

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

    #[test]
    fn equal_bytes_are_counted_from_both_ends() {
        let count = |a: &[u8], b: &[u8]| {
            let first = same(a.chunks(COMPARED).zip(b.chunks(COMPARED)), a.iter().zip(b));
            (first, same(a.rchunks(COMPARED).zip(b.rchunks(COMPARED)), a.iter().rev().zip(b.iter().rev())))
        };
        let mut b = vec![b'a'; 1000];
        assert_eq!(count(&b, &b), (1000, 1000));
        b[600] = b'b';
        assert_eq!(count(&[b'a'; 1000], &b), (600, 399));
        assert_eq!(count(&[b'a'; 300], &b), (300, 300));
        assert_eq!(count(b"", &b), (0, 0));
    }

    // One test for everything that counts live blocks: they share the process-wide arena.
    #[test]
    fn contexts_are_small_shared_and_freed() {
        let mut fields = Fields::default();
        fields.extra.add("log: extra_tag_0; extra_tag_1; extra_tag_2; extra_tag_3; extra_tag_4").unwrap();
        fields.leg.add("log: leg_source; leg_destination").unwrap();
        values::declare(&fields);
        let arena = arena::install(64).unwrap();
        let (blocks, bytes) = (arena.live_blocks(), arena.live_bytes());
        let a = SharedContext::new(&call(5, 2)).unwrap();
        let used = arena.live_bytes() - bytes;
        assert!(used <= 1536, "5 extras and 2 legs of 32 bytes take {used} bytes");

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

        // What another server did with its call is not told and keeps its revision; what this one does
        // is told and gets a new one; from then on this server's journal hears of both.
        static TOLD: AtomicU32 = AtomicU32::new(0);
        on_change(|change| {
            TOLD.fetch_add(1, Ordering::Relaxed);
            *LAST.lock().unwrap() = Context::of_parts(*change.facts, change.parts).map(|ctx| (change.call, ctx));
            Taken::Whole(1)
        });
        let mut up = call(1, 1);
        up.marks = up.marks.add(Types::parse(b"log").unwrap(), ByCall::parse(b"cdr").unwrap());
        up.answered = Some(Moment::now());
        let a = SharedContext::new(&up).unwrap();
        a.take_over(|c| c.extra.set(b"k", Some(b"theirs"))).unwrap();
        assert_eq!((a.read(|c| c.extra.get(b"k").map(<[u8]>::to_vec)), TOLD.load(Ordering::Relaxed)), (Ok(Some(b"theirs".to_vec())), 0));
        assert!(!a.was_in_journal());
        a.update(|c| c.extra.set(b"k", Some(b"ours"))).unwrap();
        assert!(TOLD.load(Ordering::Relaxed) == 1 && a.was_in_journal());
        assert_eq!(a.revision(), Ok(1));
        a.update(|c| c.extra.set(b"k", Some(b"ours"))).unwrap();
        assert_eq!((a.revision(), TOLD.load(Ordering::Relaxed)), (Ok(1), 1), "nothing was changed");
        a.take_over(|c| (c.revision, c.table) = (7, b"theirs".to_vec())).unwrap();
        assert_eq!((a.revision(), TOLD.load(Ordering::Relaxed)), (Ok(7), 2));
        a.take_over(|c| (c.revision, c.closed) = (8, true)).unwrap();
        assert_eq!((a.revision(), TOLD.load(Ordering::Relaxed)), (Ok(8), 2), "who closes a call writes its end");
        drop(a);

        // An answer waits for one ACK, and no more than its own entry is left of a forgotten one.
        let waiting = |tag: &str| {
            let ctx = call(1, 0);
            let core = Core { to_tag: tag.into(), ..ctx.core.clone() };
            let key = acks::key(&core, b"1");
            assert!(acks::put(key, SharedContext::new(&ctx).unwrap()));
            key
        };
        let keys = [waiting("a"), waiting("b"), waiting("a")];
        assert!(keys[0] == keys[2] && keys[0] != keys[1]);
        acks::forget();
        assert!(keys.map(|key| acks::take(key).is_some()) == [true, true, false]);
        assert_eq!(arena.live_blocks(), blocks);

        // A context too large for what is left is refused and the old state stays.
        let c = SharedContext::new(&call(1, 1)).unwrap();
        let r = c.update(|c| c.extra.set(b"big", Some(&vec![b'x'; 100 << 20])));
        assert_eq!(r, Err(SharedError::Full(CallId(vec![b'c'; 40]))));
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

        a_full_arena_loses_no_end();
        assert_eq!(arena.live_blocks(), blocks);
        every_way_to_change_a_context_gives_the_same();
        assert_eq!(arena.live_blocks(), blocks);
        a_killed_writer_leaves_the_old_value_or_the_new_one();
    }

    /// What the journal was told last.
    static LAST: Mutex<Option<(u128, Context)>> = Mutex::new(None);

    /// Values changed in place, or with the whole context, of declared tags and of others: what is read, what goes into
    /// a dialog and what the journal is told is what a context in the memory of one process has.
    fn every_way_to_change_a_context_gives_the_same() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..60 {
            let mut model = call(round % 6, round % 4);
            model.ended = None;
            if round % 3 == 0 {
                model.marks = model.marks.add(Types::parse(b"log").unwrap(), ByCall::parse(b"cdr").unwrap());
                model.answered = Some(Moment::now());
            }
            let shared = SharedContext::new(&model).unwrap();
            *LAST.lock().unwrap() = None;
            let most = if round % 2 == 0 { usize::MAX } else { 1500 };
            for _ in 0..60 {
                let len = random.usize(..[3, 60, 200, 2000][round % 4]);
                let value: Vec<u8> = std::iter::repeat_with(|| random.alphanumeric() as u8).take(len).collect();
                let value = Some(&*value).filter(|_| random.u8(..4) > 0);
                let (tag, index) = (random.usize(..5), random.i64(-3..3));
                let name = format!("extra_tag_{tag}");
                match random.u8(..8) {
                    0..=2 => assert_eq!(shared.set(Named::Extra(tag), value, most), Ok(Ok(model.set_extra(name.as_bytes(), value, most)))),
                    3 | 4 => {
                        let field: &[u8] = [&b"leg_source"[..], b"leg_destination"][tag % 2];
                        let legs = model.legs.len();
                        let want = model.leg_index(Some(index)).map(|i| model.set_leg(i, field, value, most)).ok_or(NoLeg { legs });
                        assert_eq!(shared.set(Named::Leg(tag % 2, Some(index)), value, most), Ok(want));
                    }
                    5 => {
                        let change = |c: &mut Context| (c.set_extra(b"undeclared", value, most), c.set_extra(name.as_bytes(), value, most));
                        assert_eq!(shared.update(change), Ok(change(&mut model)));
                    }
                    6 => {
                        let change = |c: &mut Context| if c.legs.len() < 4 { c.add_leg(most) } else { c.legs.pop().is_some() };
                        assert_eq!(shared.update(change), Ok(change(&mut model)));
                    }
                    _ => {
                        let change = |c: &mut Head| c.table = value.unwrap_or_default().iter().take(9).copied().collect();
                        shared.update_head(change).unwrap();
                        change(&mut model);
                    }
                }
                let mut now = shared.copy().unwrap();
                values::arrange(&mut model);
                model.revision = now.revision;
                assert_eq!(now, model);
                let mut read = Vec::new();
                assert_eq!(shared.get(Named::Extra(tag), &mut read), Ok(Ok(model.extra.get(name.as_bytes()).is_some())));
                assert_eq!(model.extra.get(name.as_bytes()).unwrap_or_default(), read);
                assert_eq!((shared.legs(), shared.facts(), shared.read_head(Head::clone)), (Ok(model.legs.len()), Ok(model.facts), Ok(model.head.clone())));
                if let Some((call, told)) = LAST.lock().unwrap().take() {
                    assert_eq!((call, told), (now.call_key(), now.clone()));
                }
                values::arrange(&mut now);
                assert_eq!(now, model, "the order is that of the arena already");
            }
            let ended = Moment::now();
            shared.end(EndCause::Caller, ended).unwrap();
            let told = LAST.lock().unwrap().take().map(|(_, told)| told);
            assert_eq!(told, model.is_open_call().then(|| shared.copy().unwrap()));
            assert_eq!(shared.conclude(|c| (c.ended == Some((ended, EndCause::Caller))).then_some(1)), Ok(Some(1)));
            assert_eq!((shared.conclude(|_| None::<u8>), shared.progress().closed), (Ok(None), true));
        }
    }

    fn a_killed_writer_leaves_the_old_value_or_the_new_one() {
        let shared = SharedContext::new(&call(5, 2)).unwrap();
        let values = [[b'a'; 40].to_vec(), [b'b'; 200].to_vec()];
        for round in 0..40 {
            // SAFETY: the child changes the value, without memory of its own, and never returns.
            let child = unsafe { libc::fork() };
            if child == 0 {
                loop {
                    for value in &values {
                        let _ = shared.set(Named::Extra(2), Some(value), usize::MAX);
                    }
                }
            }
            assert!(child > 0);
            std::thread::sleep(Duration::from_micros(round * 50));
            // SAFETY: ends the child just made, and waits for it.
            unsafe {
                assert_eq!(libc::kill(child, libc::SIGKILL), 0);
                assert_eq!(libc::waitpid(child, std::ptr::null_mut(), 0), child);
            }
            let mut read = Vec::new();
            assert_eq!(shared.get(Named::Extra(2), &mut read), Ok(Ok(true)));
            assert!(read == [b'v'; 32] || values.contains(&read), "{read:?}");
            assert_eq!(shared.read(|c| (c.extra.get(b"extra_tag_2") == Some(&read), c.legs.len())), Ok((true, 2)));
        }
    }

    fn config() -> crate::config::Config {
        crate::params::Draft::default().finish(None).unwrap()
    }

    /// A call that rings and one that is up, and then a full arena: both are answered, end, and are
    /// written once.
    fn a_full_arena_loses_no_end() {
        let mark = |c: &mut Context| {
            c.marked = true;
            c.marks = c.marks.add(Types::parse(b"log").unwrap(), ByCall::parse(b"cdr").unwrap());
        };
        let answer = |to_tag: &str| Reply { code: 200, reason: b"OK then".to_vec(), to_tag: to_tag.into(), has_body: true, ..Reply::default() };
        let (config, mut ctx) = (config(), call(1, 1));
        ctx.core.to_tag.clear();
        let calls: Vec<_> = (0..3).map(|_| SharedContext::new(&ctx).unwrap()).collect();
        calls.iter().for_each(|c| c.update(mark).unwrap());
        assert!(calls[0].happen(|c| decide::on_answer(c, &answer("up"), Moment::now())).unwrap());

        // New ones are refused first. Calls that are up have room left.
        let big = vec![b'x'; 50_000];
        let full = |n: usize| {
            let mut ctx = call(1, 0);
            ctx.extra.set(b"big", Some(&big[..n]));
            std::iter::from_fn(move || SharedContext::new(&ctx).ok()).collect::<Vec<_>>()
        };
        let burst = [full(50_000), full(1)];
        assert!(burst[0].len() > 48 << 20 >> 16, "{}", burst[0].len());
        assert_eq!(calls[1].update(|c| c.extra.set(b"k", Some(&big))), Err(SharedError::Full(CallId(vec![b'c'; 40]))));
        calls[0].update(|c| c.extra.set(b"k", Some(&big))).unwrap();
        // And then there is no room at all.
        let arena = arena().unwrap();
        let rest: Vec<_> = std::iter::from_fn(|| arena.objects::<1>(Room::CallUp)).collect();
        let refused = stats::get(Counter::ArenaFull);
        assert!(calls[0].update(|c| c.extra.set(b"more", Some(&big))).is_err());
        assert_eq!(stats::get(Counter::ArenaFull), refused + 1);

        let long = "t".repeat(1000);
        for (i, to_tag) in [(1, "rang"), (2, &long)] {
            // What came with the answer goes into the record, kept or not.
            let happened = calls[i].happen(|c| {
                c.extra.set(b"lost", Some(&big));
                (decide::on_answer(c, &answer(to_tag), Moment::now()), c.extra.get(b"lost").is_some(), c.call_key())
            });
            // The journal gets all of the To tag: the end must close the call that it knows.
            assert_eq!(happened, Ok((true, true, calls[i].read(Context::call_key).unwrap())));
            let core = calls[i].read(|c| c.core.clone()).unwrap();
            assert!(to_tag.as_bytes().starts_with(&core.to_tag) && core.to_tag.len() >= to_tag.len().min(220), "{core:?}");
            assert_eq!((core.code, core.reason.len()), (b"200".to_vec(), if i == 1 { 7 } else { 0 }));
            assert_eq!(calls[i].read(|c| c.extra.get(b"lost").is_some()), Ok(false));
        }
        assert_eq!(stats::get(Counter::ArenaFull), refused + 3);
        for call in &calls {
            let ended = Moment::now();
            call.happen(|c| decide::on_end(c, EndCause::Callee, ended)).unwrap();
            assert!(call.progress().is_due());
            assert_eq!(call.read(|c| c.ended), Ok(Some((ended, EndCause::Callee))));
            let end = || call.happen(|c| decide::cdr(&config.rules, c)).unwrap();
            assert_eq!((end().map(|e| e.records.len()), end().is_none()), (Some(1), true));
        }
        drop((burst, calls));
        // SAFETY: each was made above, and is used no more.
        rest.into_iter().for_each(|[p]| unsafe { arena.release_objects(p) });
        // All of it serves other sizes again.
        let small = full(1);
        assert!(small.len() > 64 << 20 >> 10, "{}", small.len());
    }

    /// Who waits for a lock that is held long sleeps meanwhile.
    #[test]
    fn a_lock_that_is_held_long_costs_nothing() {
        let lock = Lock::free();
        let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        std::thread::scope(|s| {
            let held = locked(&lock);
            let waiter = s.spawn(|| {
                let before = cpu();
                drop(locked(&lock));
                let after = cpu();
                (after.tv_sec - before.tv_sec) * 1_000_000_000 + after.tv_nsec - before.tv_nsec
            });
            while !lock.is_waited_for() {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(500));
            drop(held);
            let burnt = waiter.join().unwrap();
            assert!(burnt < 250_000_000, "{burnt} ns of CPU in 500 ms of waiting");
        });
    }
}
