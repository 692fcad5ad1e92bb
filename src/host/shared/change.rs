//! Changes of a context, each stored as a whole, or as far as necessary.

use std::sync::atomic::Ordering;

use super::error::{CallId, SharedError, not_kept};
use super::parts::Parts;
use super::read::{HEAD, arena};
use super::reference::SharedContext;
use super::slot::{FACTS, SPARE, flags_of, store};
use crate::accounting::clock::Moment;
use crate::accounting::context::{Context, Facts, Head, Part, entry_len};
use crate::accounting::decide;
use crate::accounting::record::EndCause;
use crate::host::arena::{self, Arena, Room};
use crate::host::pid::locked;
use crate::host::values::{self, Built, Directory, Named, NoLeg};
use crate::stats::{self, Counter};

/// What a change does when there is no memory for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unless {
    /// Nothing is changed.
    Kept,
    /// What needs no new memory is changed: it has happened, whether there is memory or not.
    Happened,
}

/// Who asks for memory, given the facts before and now.
fn room_of(before: &Facts, now: &Facts) -> Room {
    if before.is_open_call() || now.is_open_call() { Room::CallUp } else { Room::New }
}

/// Will records for the journal be made of it? Without marks, those that message flags ask for.
fn owes(facts: &Facts) -> bool {
    !facts.closed && if facts.marks.is_empty() { facts.marked } else { facts.marks.on_in_journal() }
}

impl SharedContext {
    /// Puts a context into the arena.
    pub fn new(ctx: &Context) -> Result<SharedContext, SharedError> {
        let arena = arena()?;
        let room = room_of(&Facts::default(), &ctx.facts);
        let Some(shared) = SharedContext::empty(arena, room) else {
            arena::count_full();
            return Err(SharedError::Full(CallId(ctx.core.callid.clone())));
        };
        let has_values = ctx.legs.iter().chain([&ctx.extra]).any(|values| values.iter().next().is_some());
        let values = match (has_values, ctx.legs.len()) {
            (false, 0) => Ok(None),
            (false, legs) => Built::unset(arena, legs, room).map(Some).ok_or(()),
            _ => Built::new(arena, None, ctx, room).map(Some).ok_or(()),
        };
        shared.store(arena, ctx, (&Facts::default(), &Parts::default()), &Parts::of_head(ctx), values, Unless::Kept)?;
        Ok(shared)
    }

    /// Replaces `before` by what `head` is now, and the values if `values` are new ones; an error if there was no memory for the
    /// values. Without memory for the head, does nothing, or as much as possible, depending on `unless`; an error in any case.
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
        // A ringing call has room for its answer.
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
                // SAFETY: it was reserved for this many bytes, and has just been taken out of the slot.
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

    /// Replaces contents and facts, in an order in which every step leaves a consistent context: contents,
    /// then marks and instants, then the flags that make these valid.
    fn publish(&self, arena: &Arena, fresh: [Option<u32>; 3], facts: &Facts, before: &Facts) {
        let slot = self.slot();
        if fresh.iter().any(Option::is_some) {
            let marked = self.marked(arena);
            marked.call[0].store(0, Ordering::Release);
            marked.bound.store(0, Ordering::Release);
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
        let marks_changed = facts.marks != before.marks;
        if marks_changed {
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
        if marks_changed || (facts.marked, facts.closed) != (before.marked, before.closed) {
            let owing = owes(facts);
            if owes(before) != owing {
                self.set_owing(arena, owing);
            }
        }
        match (before.is_open_call(), facts.is_open_call()) {
            (false, true) if self.is_counted() => stats::add(Counter::CallsOpen, 1),
            (true, false) if self.is_counted() => stats::sub(Counter::CallsOpen, 1),
            _ => {}
        }
    }

    /// Assigns a value of the script; nothing changes if there is no memory. See [`Context::set_extra`]. `most` is the
    /// greatest length of the whole context; false if not all of the value fits.
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

    /// [`SharedContext::set`] by one exchange. `None` if there is no place for the value yet, or if the journal has to be told
    /// which part of a large state has changed.
    fn set_in_place(&self, arena: &Arena, named: Named, tag: &[u8], value: Option<&[u8]>, most: usize) -> Result<Option<Result<bool, NoLeg>>, SharedError> {
        let slot = self.slot();
        let Some(values) = self.directory(arena).filter(|_| slot.base.load(Ordering::Relaxed) == 0) else { return Ok(None) };
        let word = match values.find(named) {
            Ok(Some(word)) => word,
            Ok(None) => return Ok(None),
            Err(no_leg) => return Ok(Some(Err(no_leg))),
        };
        // The known bound of the length suffices for most values; the length is counted only if a value may not fit.
        let bound = &self.marked(arena).bound;
        let mut used = bound.load(Ordering::Relaxed) as usize;
        let mut fit = if used == 0 { None } else { values.fit(word, tag, value, used, most) };
        if !fit.as_ref().is_some_and(|fit| fit.whole) {
            used = self.parts_len(arena, values);
            fit = values.fit(word, tag, value, used, most);
        }
        let Some(fit) = fit else { return Ok(Some(Ok(false))) };
        if values.is(word, fit.value) {
            return Ok(Some(Ok(fit.whole)));
        }
        // Before the value is there: if this process is killed, the bound is too large, never too small.
        bound.store((used + entry_len(tag) + fit.value.map_or(0, <[u8]>::len)) as u64, Ordering::Relaxed);
        // It is a call in progress, which the journal has.
        let open = if self.progress().answered { Some(self.facts_now(arena)?).filter(Facts::is_open_call) } else { None };
        if !values.put(word, fit.value, if open.is_some() { Room::CallUp } else { Room::New }) {
            arena::count_full();
            let callid = self.head_now(self.facts_now(arena)?, &self.head_parts(arena)).map(|head| head.core.callid);
            return Err(SharedError::Full(CallId(callid.unwrap_or_default())));
        }
        let place = &self.instants(arena).revision;
        let revision = place.load(Ordering::Relaxed).saturating_add(1);
        place.store(revision, Ordering::Relaxed);
        if let Some(facts) = open {
            let mut parts = self.head_parts(arena);
            self.add_values(arena, &mut parts)?;
            self.tell(arena, true, &Facts { revision, ..facts }, &parts, None, true)?;
        }
        Ok(Some(Ok(fit.whole)))
    }

    /// Length of all parts, encoded; for the holder of the lock.
    fn parts_len(&self, arena: &Arena, values: Directory<'_>) -> usize {
        let head = [Part::Request, Part::Reply].map(|part| match self.slot().parts[part as usize].get() {
            0 => part.empty_len(),
            // SAFETY: `publish` put a content there, and the lock is held.
            first => unsafe { arena.length(first) },
        });
        head.iter().sum::<usize>() + values.encoded_len()
    }

    /// Changes the context because somebody wants it; what `f` did is kept only if it could be stored as a
    /// whole.
    pub fn update<R>(&self, f: impl FnOnce(&mut Context) -> R) -> Result<R, SharedError> {
        let (r, kept) = self.change(f, true, Unless::Kept)?;
        kept.map(|()| r)
    }

    /// Changes the context because something has happened: marks, flags and instants are kept in any case. If
    /// there was no room for values that came with it, that is logged here, and what `f` made of them is
    /// returned nevertheless, because a record must be written.
    pub fn happen<R>(&self, f: impl FnOnce(&mut Context) -> R) -> Result<R, SharedError> {
        let (r, kept) = self.change(f, true, Unless::Happened)?;
        if let Err(e) = kept {
            not_kept(&e);
        }
        Ok(r)
    }

    /// [`SharedContext::update`] for what another server did with the call; the state has the revision that
    /// it has there. The journal is told only if it has the call too.
    pub fn take_over(&self, f: impl FnOnce(&mut Context)) -> Result<(), SharedError> {
        self.change(f, false, Unless::Kept)?.1
    }

    /// [`SharedContext::update`] for what is not a value of the script.
    pub fn update_head<R>(&self, f: impl FnOnce(&mut Head) -> R) -> Result<R, SharedError> {
        let (r, kept) = self.change_head(f, Unless::Kept)?;
        kept.map(|()| r)
    }

    /// [`SharedContext::happen`] for what is not a value of the script.
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
        let before = self.facts_now(arena)?;
        let mut facts = before;
        decide::on_end(&mut facts, cause, now);
        self.change_facts(arena, before, facts)
    }

    /// Closes the context if `f` returns something for it; `f` gets a copy of all of it, and the key of its call if that
    /// is known.
    pub fn conclude<R>(&self, f: impl FnOnce(Context, Option<u128>) -> Option<R>) -> Result<Option<R>, SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        let ctx = self.context_now(arena)?;
        let before = ctx.facts;
        let Some(r) = f(ctx, self.known_call(arena)) else { return Ok(None) };
        self.change_facts(arena, before, Facts { closed: true, ..before })?;
        Ok(Some(r))
    }

    /// Sets these facts, which differ only in the end and what follows from it; for the holder of the lock.
    fn change_facts(&self, arena: &Arena, before: Facts, mut facts: Facts) -> Result<(), SharedError> {
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
        // Contexts are equal exactly if their bytes are.
        if ctx.facts == facts && parts.bytes == before.bytes {
            return Ok((r, Ok(())));
        }
        if is_ours {
            ctx.revision = ctx.revision.saturating_add(1);
        }
        let was_open = facts.is_open_call();
        let room = room_of(&facts, &ctx.facts);
        // Before anything is stored: if this process is killed, too little is marked as unchanged, which is never wrong.
        let base = self.base(&before.bytes, &parts.bytes);
        let values = if parts.get(Part::Values) == before.get(Part::Values) {
            Ok(None)
        } else {
            Built::new(arena, self.directory(arena), &ctx, room).map(Some).ok_or(())
        };
        let kept = self.store(arena, &ctx, (&facts, &before), &parts, values, unless);
        if (kept.is_ok() || unless == Unless::Happened) && self.is_told(is_ours, was_open, &ctx.facts) {
            // The journal gets all of it, including what there was no room for here.
            self.tell(arena, was_open, &ctx.facts, &parts, base, kept.is_ok())?;
        }
        Ok((r, kept))
    }

    /// [`SharedContext::change`] for what is not a value of the script.
    fn change_head<R>(&self, f: impl FnOnce(&mut Head) -> R, unless: Unless) -> Result<(R, Result<(), SharedError>), SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        let facts = self.facts_now(arena)?;
        let mut before = self.head_parts(arena);
        let mut head = HEAD.take().unwrap_or_default();
        if !head.become_parts(facts, &before.bytes) {
            return Err(SharedError::Damaged);
        }
        let r = f(&mut head);
        let mut parts = Parts::of_head(&head);
        if head.facts == facts && parts.bytes == before.bytes {
            HEAD.set(Some(head));
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
        HEAD.set(Some(head));
        Ok((r, kept))
    }
}
