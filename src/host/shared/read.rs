//! Reading a context.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use super::error::{CallId, SharedError};
use super::parts::Parts;
use super::reference::SharedContext;
use super::slot::{ATTEMPTS, RANG, load};
use crate::accounting::context::{Context, Facts, Head, Part, Values, rang_of};
use crate::accounting::marks::Marks;
use crate::accounting::record::EndCause;
use crate::host::arena::{self, Arena};
use crate::host::pid::locked;
use crate::host::values::{Directory, Named, NoLeg};

thread_local! {
    /// Buffer for a head that is read or changed: a process handles one after the other, and their values are of similar size.
    pub(super) static HEAD: Cell<Option<Box<Head>>> = const { Cell::new(None) };
}

/// The arena that contains the contexts.
pub(super) fn arena() -> Result<&'static Arena, SharedError> {
    arena::get().ok_or_else(|| SharedError::Full(CallId::default()))
}

impl SharedContext {
    /// The facts; for the holder of the lock.
    pub(super) fn facts_now(&self, arena: &Arena) -> Result<Facts, SharedError> {
        let instants = self.instants(arena);
        let flags = self.flags();
        let cause = EndCause::from_index((flags >> 8) as u8).ok_or(SharedError::Damaged)?;
        let revision = instants.revision.load(Ordering::Relaxed);
        let marks = self.marks_now(arena);
        Ok(Facts {
            attempts: (flags >> ATTEMPTS) as u8,
            rang: rang_of((flags >> RANG) as u32),
            ..Facts::new(flags as u8, revision, marks, load(&instants.answered), (load(&instants.ended), cause))
        })
    }

    fn marks_now(&self, arena: &Arena) -> Marks {
        Marks::of_words(self.marked(arena).marks.each_ref().map(|word| word.load(Ordering::Relaxed)))
    }

    /// What is accounted at this moment, read without the lock: all marks of a backend are in one word.
    pub fn marks(&self) -> Result<Marks, SharedError> {
        Ok(self.marks_now(arena()?))
    }

    /// The parts of the head; for the holder of the lock.
    pub(super) fn head_parts(&self, arena: &Arena) -> Parts {
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
    pub(super) fn directory<'a>(&self, arena: &'a Arena) -> Option<Directory<'a>> {
        // SAFETY: only `publish` puts a directory there, and only under the lock, which the caller holds.
        unsafe { Directory::at(arena, self.slot().parts[Part::Values as usize].get()) }
    }

    /// Adds the values to the parts of the head; for the holder of the lock.
    pub(super) fn add_values(&self, arena: &Arena, parts: &mut Parts) -> Result<(), SharedError> {
        match self.directory(arena) {
            None => parts.bytes.resize(parts.bytes.len() + Part::Values.empty_len(), 0),
            Some(values) => values.encode(&mut parts.bytes).then_some(()).ok_or(SharedError::Damaged)?,
        }
        parts.ends[Part::Values as usize] = parts.bytes.len();
        Ok(())
    }

    /// The head, from these parts; for the holder of the lock.
    pub(super) fn head_now(&self, facts: Facts, parts: &Parts) -> Result<Head, SharedError> {
        Head::of_parts(facts, &parts.bytes[..parts.ends[Part::Reply as usize]]).ok_or(SharedError::Damaged)
    }

    /// All of it; for the holder of the lock.
    pub(super) fn context_now(&self, arena: &Arena) -> Result<Context, SharedError> {
        let head = self.head_now(self.facts_now(arena)?, &self.head_parts(arena))?;
        let (extra, legs) = self.values_now(arena)?;
        Ok(Context { head, extra, legs })
    }

    pub(super) fn values_now(&self, arena: &Arena) -> Result<(Values, Vec<Values>), SharedError> {
        self.directory(arena).map_or_else(|| Some(Default::default()), Directory::load).ok_or(SharedError::Damaged)
    }

    /// A copy of the context as it is now.
    pub fn copy(&self) -> Result<Context, SharedError> {
        let arena = arena()?;
        let _locked = locked(&self.slot().lock);
        self.context_now(arena)
    }

    /// Lets `f` read the context.
    pub fn read<R>(&self, f: impl FnOnce(&Context) -> R) -> Result<R, SharedError> {
        self.copy().map(|ctx| f(&ctx))
    }

    /// Lets `f` read the context except for the values of the script.
    pub fn read_head<R>(&self, f: impl FnOnce(&Head) -> R) -> Result<R, SharedError> {
        let arena = arena()?;
        let mut head = HEAD.take().unwrap_or_default();
        {
            let _locked = locked(&self.slot().lock);
            if !head.become_parts(self.facts_now(arena)?, &self.head_parts(arena).bytes) {
                return Err(SharedError::Damaged);
            }
        }
        let r = f(&head);
        HEAD.set(Some(head));
        Ok(r)
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

    /// Its revision, see [`Facts::revision`].
    pub fn revision(&self) -> Result<u64, SharedError> {
        Ok(self.instants(arena()?).revision.load(Ordering::Relaxed))
    }
}
