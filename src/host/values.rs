//! Values of the script in the arena: each has a content, which is found by the number of its tag. A
//! directory of words names the contents; a value is changed by exchanging its word.
//!
//! Words of a directory: the number of legs, the content with all values of tags that are not declared
//! (0 = none), one word for each declared extra, then for each leg one word for each declared leg field.

use std::borrow::Cow;

use once_cell::sync::OnceCell;

use super::arena::{Arena, Room};
use crate::accounting::context::{Context, Value, Values, entry_len, fitting, is_mark_of_dialog, leg_index, put_cleared, put_count, put_tag};
use crate::accounting::fields::Fields;
use crate::accounting::wire::{Reader, put_len};
use crate::interprocess::Content;

/// A value that was never assigned.
const UNSET: u32 = 0;
/// A value that was cleared; no content begins in this block.
const CLEARED: u32 = 1;

/// Index of the word with the number of legs.
const LEGS: usize = 0;
/// Index of the word for values whose tags are not declared.
const OTHERS: usize = 1;
/// Index of the word of the first extra.
const EXTRAS: usize = 2;

/// A declared tag, in its encoded form, because every state of every call contains all of them.
#[derive(Debug)]
struct Tag(Box<[u8]>);

impl Tag {
    fn of(name: &str) -> Tag {
        let mut encoded = Vec::new();
        put_tag(&mut encoded, name.as_bytes());
        Tag(encoded.into())
    }

    fn name(&self) -> &[u8] {
        // After its length.
        &self.0[size_of::<u16>()..]
    }
}

/// Declared tags, by number.
#[derive(Debug, Default)]
struct Tags {
    extra: Vec<Tag>,
    leg: Vec<Tag>,
}

static TAGS: OnceCell<Tags> = OnceCell::new();

/// Sets the declared fields; once, before the first context and before the fork.
pub fn declare(fields: &Fields) {
    let all = |tags: &[std::sync::Arc<str>]| tags.iter().map(|tag| Tag::of(tag)).collect();
    let _ = TAGS.set(Tags { extra: all(&fields.extra.tags), leg: all(&fields.leg.tags) });
}

fn tags() -> &'static Tags {
    TAGS.get_or_init(Tags::default)
}

fn number(tags: &[Tag], tag: &[u8]) -> Option<usize> {
    tags.iter().position(|t| *t.name() == *tag)
}

/// Puts declared tags in the order in which the arena keeps them.
pub(super) fn arrange(ctx: &mut Context) {
    let tags = tags();
    ctx.extra.arrange(|tag| number(&tags.extra, tag));
    ctx.legs.iter_mut().for_each(|leg| leg.arrange(|tag| number(&tags.leg, tag)));
}

/// A value of the script, by the number of its tag in the declarations.
#[derive(Clone, Copy, Debug)]
pub enum Named {
    /// An extra.
    Extra(usize),
    /// A leg field: of the leg with this index (negative: counted from the last one; `None`: the last one).
    Leg(usize, Option<i64>),
}

impl Named {
    /// Its tag.
    pub(super) fn tag(self) -> Option<&'static [u8]> {
        let tags = tags();
        match self {
            Named::Extra(n) => tags.extra.get(n),
            Named::Leg(n, _) => tags.leg.get(n),
        }
        .map(Tag::name)
    }
}

/// Error: there is no leg with this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLeg {
    /// How many legs there are.
    pub legs: usize,
}

/// The values of a context.
#[derive(Clone, Copy)]
pub(super) struct Directory<'a> {
    arena: &'a Arena,
    first: u32,
    tags: &'static Tags,
}

/// What [`Directory::fit`] found.
pub(super) struct Fit<'v> {
    /// The part of the value that fits; `None` clears.
    pub value: Option<&'v [u8]>,
    /// Whether that is all of it.
    pub whole: bool,
}

impl<'a> Directory<'a> {
    /// The directory that begins in this block; `None` for 0.
    ///
    /// # Safety
    /// The number is 0 or from a [`Built`], and only the caller changes the directory meanwhile.
    pub(super) unsafe fn at(arena: &'a Arena, first: u32) -> Option<Directory<'a>> {
        (first != 0).then(|| Directory { arena, first, tags: tags() })
    }

    fn words(self, from: usize) -> impl Iterator<Item = &'a Content> {
        // SAFETY: the promise of `at`.
        unsafe { self.arena.words(self.first, from) }
    }

    fn word(self, number: usize) -> u32 {
        self.words(number).next().map_or(0, Content::get)
    }

    /// How many legs there are.
    pub(super) fn legs(self) -> usize {
        self.word(LEGS) as usize
    }

    /// Adds a content to `out`.
    fn read(self, content: u32, out: &mut Vec<u8>) {
        // SAFETY: a word of the directory names it (the promise of `at`).
        unsafe { self.arena.read(content, out) };
    }

    /// The same, for a content of known length.
    fn read_of(self, content: u32, length: usize, out: &mut Vec<u8>) {
        // SAFETY: as above.
        unsafe { self.arena.read_of(content, length, out) };
    }

    fn length(self, content: u32) -> usize {
        // SAFETY: as above.
        unsafe { self.arena.length(content) }
    }

    fn equals(self, content: u32, value: &[u8]) -> bool {
        // SAFETY: as above.
        unsafe { self.arena.equals(content, value) }
    }

    /// The word of a value; `None` if no such tag is declared.
    pub(super) fn find(self, named: Named) -> Result<Option<&'a Content>, NoLeg> {
        let (extras, fields) = (self.tags.extra.len(), self.tags.leg.len());
        let at = match named {
            Named::Extra(n) => Some(EXTRAS + n).filter(|_| n < extras),
            Named::Leg(n, index) => {
                let legs = self.legs();
                let leg = leg_index(legs, index).ok_or(NoLeg { legs })?;
                Some(EXTRAS + extras + leg * fields + n).filter(|_| n < fields)
            }
        };
        Ok(at.and_then(|at| self.words(at).next()))
    }

    /// Appends a value to `out`; false if it is not assigned, or cleared.
    pub(super) fn get(self, word: &Content, out: &mut Vec<u8>) -> bool {
        match word.get() {
            UNSET | CLEARED => false,
            content => {
                self.read(content, out);
                true
            }
        }
    }

    /// How much of a new value fits if the whole context, which takes `used` bytes, may take `most`. `None` if
    /// not even its tag fits. An empty value clears.
    pub(super) fn fit<'v>(self, word: &Content, tag: &[u8], value: Option<&'v [u8]>, used: usize, most: usize) -> Option<Fit<'v>> {
        let old = match word.get() {
            UNSET => None,
            CLEARED => Some(0),
            content => Some(self.length(content)),
        };
        let (value, whole) = fitting(tag, old, value, most.saturating_sub(used))?;
        Some(Fit { value: value.filter(|v| !v.is_empty()), whole })
    }

    /// Is this its present value?
    pub(super) fn is(self, word: &Content, value: Option<&[u8]>) -> bool {
        match (word.get(), value) {
            (UNSET, _) => false,
            (CLEARED, value) => value.is_none(),
            (content, value) => value.is_some_and(|v| self.equals(content, v)),
        }
    }

    /// Exchanges a value; false if there is no room.
    pub(super) fn put(self, word: &Content, value: Option<&[u8]>, room: Room) -> bool {
        let new = match value {
            Some(value) => self.arena.store(value, room),
            None => Some(CLEARED),
        };
        let Some(new) = new else { return false };
        let old = word.replace(new);
        if old > CLEARED {
            // SAFETY: just taken out of the directory.
            unsafe { self.arena.release(old) };
        }
        true
    }

    /// Values of tags that are not declared.
    fn others(self) -> Option<(Values, Vec<Values>)> {
        match self.word(OTHERS) {
            0 => Some(Default::default()),
            content => {
                let mut bytes = Vec::new();
                self.read(content, &mut bytes);
                let mut r = Reader(&bytes);
                let extra = Values::decode(&mut r)?;
                let legs = (0..self.legs()).map(|_| Values::decode(&mut r)).collect::<Option<_>>()?;
                Some((extra, legs))
            }
        }
    }

    /// Is this the context of a dialog's own CDR?
    pub(super) fn is_of_dialog(self) -> bool {
        self.word(OTHERS) != 0 && self.others().is_some_and(|(extra, _)| is_mark_of_dialog(&extra))
    }

    /// All values; `None` if they cannot be read.
    pub(super) fn load(self) -> Option<(Values, Vec<Values>)> {
        let (mut extra, mut legs) = match self.word(OTHERS) {
            0 => (Values::default(), Vec::with_capacity(self.legs())),
            _ => self.others()?,
        };
        legs.resize_with(self.legs(), Values::default);
        let mut words = self.words(EXTRAS);
        let mut row = |tags: &'static [Tag], others: &mut Values| {
            let mut values = Values::with_capacity(tags.len() + others.iter().count());
            for (tag, word) in tags.iter().zip(words.by_ref()) {
                let value = match word.get() {
                    UNSET => continue,
                    CLEARED => Value::Cleared,
                    content => {
                        let length = self.length(content);
                        let mut value = Vec::with_capacity(length);
                        self.read_of(content, length, &mut value);
                        Value::Set(value)
                    }
                };
                values.push(Cow::Borrowed(tag.name()), value);
            }
            values.append(std::mem::take(others));
            *others = values;
        };
        row(&self.tags.extra, &mut extra);
        legs.iter_mut().for_each(|leg| row(&self.tags.leg, leg));
        Some((extra, legs))
    }

    /// Appends the encoding of what [`Directory::load`] returns; false if they cannot be read.
    pub(super) fn encode(self, out: &mut Vec<u8>) -> bool {
        let Some((other_extra, other_legs)) = self.others() else { return false };
        let mut words = self.words(EXTRAS);
        let mut row = |tags: &[Tag], others: Option<&Values>, out: &mut Vec<u8>| {
            let at = out.len();
            put_count(out, 0);
            let mut count = others.map_or(0, |o| o.iter().count());
            for (tag, word) in tags.iter().zip(words.by_ref()) {
                match word.get() {
                    UNSET => continue,
                    CLEARED => {
                        out.extend_from_slice(&tag.0);
                        put_cleared(out);
                    }
                    content => {
                        out.extend_from_slice(&tag.0);
                        let length = self.length(content);
                        put_len(out, length);
                        self.read_of(content, length, out);
                    }
                }
                count += 1;
            }
            if let Some(others) = others {
                others.encode_entries(out);
            }
            out[at..at + 2].copy_from_slice(&(count as u16).to_le_bytes());
        };
        row(&self.tags.extra, Some(&other_extra), out);
        let legs = self.legs();
        put_len(out, legs);
        for i in 0..legs {
            row(&self.tags.leg, other_legs.get(i), out);
        }
        true
    }

    /// Length of this encoding, in bytes.
    pub(super) fn encoded_len(self) -> usize {
        let legs = self.legs();
        let mut words = self.words(EXTRAS);
        let mut row = |tags: &[Tag]| {
            let lengths = tags.iter().zip(words.by_ref()).map(|(tag, word)| match word.get() {
                UNSET => 0,
                CLEARED => entry_len(tag.name()),
                content => entry_len(tag.name()) + self.length(content),
            });
            lengths.sum::<usize>()
        };
        let mut all = row(&self.tags.extra);
        for _ in 0..legs {
            all += row(&self.tags.leg);
        }
        let counts = 2 * (1 + legs);
        let others = match self.word(OTHERS) {
            0 => counts,
            content => self.length(content),
        };
        all + others + size_of::<u32>()
    }

    /// Every content.
    fn contents(self) -> impl Iterator<Item = u32> {
        self.words(OTHERS).map(Content::get).filter(|word| *word > CLEARED)
    }

    /// Gives back the directory with all values.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub(super) unsafe fn release(self) {
        for content in self.contents() {
            // SAFETY: the caller's promise.
            unsafe { self.arena.release(content) };
        }
        // SAFETY: as above.
        unsafe { self.arena.release(self.first) };
    }
}

/// A new directory that is not in use yet.
pub(super) struct Built {
    /// Its first block; 0 = there are no values.
    pub first: u32,
    /// Contents that it does not share with the old directory.
    fresh: Vec<u32>,
    /// Contents of the old directory that it does not share, and the blocks of the old one.
    replaced: Vec<u32>,
}

impl Built {
    /// A directory for this many legs, without any values yet. `None` if there is no room.
    pub(super) fn unset(arena: &Arena, legs: usize, room: Room) -> Option<Built> {
        let tags = tags();
        let first = arena.reserve_words(EXTRAS + tags.extra.len() + legs * tags.leg.len(), room)?;
        // SAFETY: the blocks were just reserved, for this many words.
        let mut words = unsafe { arena.words(first, LEGS) };
        words.next()?.replace(legs as u32);
        Some(Built { first, fresh: Vec::new(), replaced: Vec::new() })
    }

    /// A directory for these values. Values that `old` also has are shared with it. `None` if there is no room.
    pub(super) fn new(arena: &Arena, old: Option<Directory<'_>>, ctx: &Context, room: Room) -> Option<Built> {
        let tags = tags();
        let old_legs = old.map_or(0, Directory::legs);
        let mut built = Built { first: 0, fresh: Vec::new(), replaced: Vec::new() };
        let mut old_words = old.map(|old| old.words(EXTRAS));
        let mut words = Vec::with_capacity(EXTRAS + tags.extra.len() + ctx.legs.len() * tags.leg.len());
        words.extend([ctx.legs.len() as u32, 0]);
        let mut missing = false;
        let mut row = |built: &mut Built, words: &mut Vec<u32>, declared: &[Tag], values: &Values, in_old: bool| {
            for tag in declared {
                let before = if in_old { old_words.as_mut().and_then(Iterator::next).map_or(UNSET, Content::get) } else { UNSET };
                let word = match values.value(tag.name()) {
                    Value::Unset => UNSET,
                    Value::Cleared => CLEARED,
                    Value::Set(v) if before > CLEARED && old.is_some_and(|old| old.equals(before, v)) => before,
                    Value::Set(v) => match arena.store(v, room) {
                        Some(content) => {
                            built.fresh.push(content);
                            content
                        }
                        None => {
                            missing = true;
                            UNSET
                        }
                    },
                };
                if before > CLEARED && word != before {
                    built.replaced.push(before);
                }
                words.push(word);
            }
        };
        row(&mut built, &mut words, &tags.extra, &ctx.extra, true);
        for (i, leg) in ctx.legs.iter().enumerate() {
            row(&mut built, &mut words, &tags.leg, leg, i < old_legs);
        }
        for _ in ctx.legs.len()..old_legs {
            row(&mut built, &mut Vec::new(), &tags.leg, &Values::default(), true);
        }
        let before = old.map_or(0, |old| old.word(OTHERS));
        let rows = || std::iter::once((&ctx.extra, &tags.extra)).chain(ctx.legs.iter().map(|leg| (leg, &tags.leg)));
        if rows().any(|(values, declared)| values.iter().any(|(tag, value)| *value != Value::Unset && number(declared, tag).is_none())) {
            let mut bytes = Vec::new();
            rows().for_each(|(values, declared)| values.filtered(|tag| number(declared, tag).is_none()).encode(&mut bytes));
            if before != 0 && old.is_some_and(|old| old.equals(before, &bytes)) {
                words[OTHERS] = before;
            } else if let Some(content) = arena.store(&bytes, room) {
                built.fresh.push(content);
                words[OTHERS] = content;
            } else {
                missing = true;
            }
        }
        if before != 0 && words[OTHERS] != before {
            built.replaced.push(before);
        }
        if words.iter().any(|word| *word != 0) {
            built.first = arena.reserve_words(words.len(), room).unwrap_or(0);
            missing |= built.first == 0;
        }
        if missing {
            built.release(arena);
            return None;
        }
        if built.first != 0 {
            // SAFETY: the blocks were just reserved, for this many words.
            let places = unsafe { arena.words(built.first, 0) };
            for (place, word) in places.zip(words) {
                place.replace(word);
            }
        }
        built.replaced.extend(old.map(|old| old.first));
        Some(built)
    }

    /// Gives it back unused.
    pub(super) fn release(self, arena: &Arena) {
        for first in self.fresh.into_iter().chain(Some(self.first)) {
            // SAFETY: made above, and known to nobody else.
            unsafe { arena.release(first) };
        }
    }

    /// It has taken the place of the old one.
    pub(super) fn replaces(self, arena: &Arena) {
        for first in self.replaced {
            // SAFETY: nothing names it any more.
            unsafe { arena.release(first) };
        }
    }
}
