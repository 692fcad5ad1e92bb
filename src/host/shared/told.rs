//! What the journal is told about changes of a context.

use std::sync::atomic::Ordering;

use once_cell::sync::OnceCell;

use super::error::SharedError;
use super::parts::Parts;
use super::read::arena;
use super::reference::SharedContext;
use crate::accounting::context::{Base, Change, Facts, Taken, call_key_of};
use crate::accounting::marks::Flag;
use crate::host::arena::Arena;
use crate::host::pid::locked;
use crate::host::values::Directory;
use crate::stats;
use crate::worker;

/// Called for every change of a context, while its lock is held; returns what the journal wrote.
type OnChange = fn(&Change<'_>) -> Taken;

static ON_CHANGE: OnceCell<OnChange> = OnceCell::new();

/// Sets the function that is told about changes; once, before the fork.
pub fn on_change(f: OnChange) {
    let _ = ON_CHANGE.set(f);
}

/// Bytes that are compared in one step.
pub(super) const COMPARED: usize = 256;

/// How many bytes are the same: compared by chunks as long as these are equal, then one by one.
pub(super) fn same<'a>(chunks: impl Iterator<Item = (&'a [u8], &'a [u8])>, bytes: impl Iterator<Item = (&'a u8, &'a u8)>) -> u32 {
    let whole = chunks.take_while(|(a, b)| a.len() == COMPARED && a == b).count() * COMPARED;
    (whole + bytes.skip(whole).take_while(|(a, b)| a == b).count()) as u32
}

impl SharedContext {
    /// Is the journal told about a change? If another server made it, only if the journal has the call.
    pub(super) fn is_told(&self, is_ours: bool, was_open: bool, now: &Facts) -> bool {
        (now.is_open_call() || was_open && !now.closed) && (is_ours || self.was_in_journal())
    }

    /// Key of the call, if it was asked for since the context last changed; for the holder of the lock.
    pub(super) fn known_call(&self, arena: &Arena) -> Option<u128> {
        let [low, high] = self.marked(arena).call.each_ref().map(|word| word.load(Ordering::Acquire));
        (low != 0).then(|| u128::from(low) | u128::from(high) << 64)
    }

    /// Key of the call with these parts; `kept`: they were stored here as they are.
    fn call_key(&self, arena: &Arena, parts: &Parts, kept: bool) -> Result<u128, SharedError> {
        if let Some(call) = self.known_call(arena).filter(|_| kept) {
            return Ok(call);
        }
        let is_of_dialog = self.directory(arena).is_some_and(Directory::is_of_dialog);
        let call = call_key_of(&parts.bytes, is_of_dialog).ok_or(SharedError::Damaged)?;
        if kept {
            let place = &self.marked(arena).call;
            // The word that makes it valid comes last.
            place[1].store((call >> 64) as u64, Ordering::Relaxed);
            place[0].store(call as u64, Ordering::Release);
        }
        Ok(call)
    }

    /// Tells the journal about a change; `kept`: there was room for all of it here.
    pub(super) fn tell(&self, arena: &Arena, was_open: bool, facts: &Facts, parts: &Parts, base: Option<Base>, kept: bool) -> Result<(), SharedError> {
        let Some(tell) = ON_CHANGE.get() else { return Ok(()) };
        let call = self.call_key(arena, parts, kept)?;
        self.was_told(tell(&Change { call, was_open, facts, parts: &parts.bytes, base, is_claim: false }), parts, kept);
        Ok(())
    }

    fn was_told(&self, taken: Taken, parts: &Parts, kept: bool) {
        match taken {
            Taken::Nothing => {}
            Taken::Whole(at) => {
                // Later states can be compared with this one only if it was stored here as well. Small ones are not compared.
                self.set_base(if kept && parts.bytes.len() >= worker::LARGE { at } else { 0 }, parts.bytes.len());
                self.set_in_journal();
            }
            Taken::Change => self.set_in_journal(),
        }
    }

    /// Which part of the last whole state in the journal is still valid when `before` becomes `now`.
    pub(super) fn base(&self, before: &[u8], now: &[u8]) -> Option<Base> {
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
        // In this order, a process that is killed here leaves no base, or a whole one.
        slot.base.store(0, Ordering::Release);
        for place in [&slot.base_rest, &slot.base_prefix, &slot.base_suffix] {
            place.store(rest as u32, Ordering::Release);
        }
        slot.base.store(monotonic, Ordering::Release);
    }

    /// A dialog has claimed a call in progress of an earlier start: the journal gets its state again.
    pub fn restate(&self) -> Result<(), SharedError> {
        let (arena, Some(tell)) = (arena()?, ON_CHANGE.get()) else { return Ok(()) };
        let _locked = locked(&self.slot().lock);
        let facts = self.facts_now(arena)?;
        if facts.is_open_call() {
            let mut parts = self.head_parts(arena);
            self.add_values(arena, &mut parts)?;
            let call = self.call_key(arena, &parts, true)?;
            let claim = Change { call, was_open: true, facts: &facts, parts: &parts.bytes, base: None, is_claim: true };
            self.was_told(tell(&claim), &parts, true);
        }
        Ok(())
    }

    /// Another server had the call first: from now on this server's journal has it too, if it is one in
    /// progress.
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
}
