//! The accounting context: everything known about one marked request or call.
//!
//! One encoding is used for dialog values (restart, replication) and the journal. It is versioned,
//! names values by tag (D10) and keeps unknown tags. The shared arena keeps values by the number of
//! their tag instead, see `host::values`.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

use super::call_key::{begun, finished};
use super::clock::{Moment, Wall};
use super::marks::Marks;
use super::record::{Core, EndCause, Record, Signalling};
use super::wire::{Reader, put_bytes};

/// Value of a tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Value {
    /// Never assigned.
    #[default]
    Unset,
    /// Assigned `$null` or an empty string: overrides an earlier value when contexts merge.
    Cleared,
    /// Assigned.
    Set(Vec<u8>),
}

impl Value {
    /// What a script or a backend reads.
    pub fn get(&self) -> Option<&[u8]> {
        match self {
            Value::Set(v) => Some(v),
            Value::Unset | Value::Cleared => None,
        }
    }
}

/// Name of a value; that of a declared one is not copied.
pub type Tag = Cow<'static, [u8]>;

/// Marks the context of a dialog's own CDR; no variable has such a key.
pub(super) const DIALOG: &[u8] = b"#dialog";

/// Are these the extras of such a context? Declared tags cannot tell.
pub fn is_mark_of_dialog(extra: &Values) -> bool {
    extra.get(DIALOG).is_some()
}

/// Values by tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(Vec<(Tag, Value)>);

impl Values {
    /// The value of a tag, if assigned and not cleared.
    pub fn get(&self, tag: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|(t, _)| **t == *tag).and_then(|(_, v)| v.get())
    }

    /// Is the tag assigned, even if cleared?
    pub fn has(&self, tag: &[u8]) -> bool {
        self.0.iter().any(|(t, value)| **t == *tag && *value != Value::Unset)
    }

    /// Assigns; `None` clears. An empty value clears too, as in the original.
    pub fn set(&mut self, tag: &[u8], value: Option<&[u8]>) {
        let value = match value {
            Some(v) if !v.is_empty() => Value::Set(v.to_vec()),
            _ => Value::Cleared,
        };
        match self.0.iter_mut().find(|(t, _)| **t == *tag) {
            Some((_, v)) => *v = value,
            None => self.0.push((tag.to_vec().into(), value)),
        }
    }

    /// Position of a declared tag. If all before it are assigned too, that is its number.
    fn place(&self, number: usize, tag: &[u8]) -> Option<usize> {
        let is_it = |(t, _): &(Tag, Value)| **t == *tag;
        if self.0.get(number).is_some_and(is_it) { Some(number) } else { self.0.iter().position(is_it) }
    }

    /// [`Values::get`] of the declared tag with this number.
    pub(crate) fn declared(&self, number: usize, tag: &[u8]) -> Option<&[u8]> {
        self.0[self.place(number, tag)?].1.get()
    }

    /// Takes the value of the declared tag with this number, and leaves it unset.
    pub(crate) fn take(&mut self, number: usize, tag: &[u8]) -> Option<Vec<u8>> {
        let place = self.place(number, tag)?;
        match std::mem::take(&mut self.0[place].1) {
            Value::Set(v) => Some(v),
            Value::Unset | Value::Cleared => None,
        }
    }

    /// No values yet, with room for `n`.
    pub(crate) fn with_capacity(n: usize) -> Values {
        Values(Vec::with_capacity(n))
    }

    /// The state of the tag.
    pub(crate) fn value(&self, tag: &[u8]) -> &Value {
        self.0.iter().find(|(t, _)| **t == *tag).map_or(&Value::Unset, |(_, value)| value)
    }

    /// The assigned values whose tags `f` accepts.
    pub(crate) fn filtered(&self, f: impl Fn(&[u8]) -> bool) -> Values {
        Values(self.0.iter().filter(|(tag, value)| *value != Value::Unset && f(tag)).cloned().collect())
    }

    /// Adds values whose tags are not there yet.
    pub(crate) fn append(&mut self, mut others: Values) {
        self.0.append(&mut others.0);
    }

    /// Adds a value whose tag is not there yet.
    pub(crate) fn push(&mut self, tag: Tag, value: Value) {
        self.0.push((tag, value));
    }

    /// The values, in the order of the encoding.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Value)> {
        self.0.iter().map(|(tag, value)| (&**tag, value))
    }

    /// Leaves out what is not assigned, and puts declared tags first, in their order: `number` tells the
    /// number of a tag.
    pub(crate) fn arrange(&mut self, number: impl Fn(&[u8]) -> Option<usize>) {
        self.0.retain(|(_, value)| *value != Value::Unset);
        self.0.sort_by_key(|(tag, _)| number(tag).unwrap_or(usize::MAX));
    }

    /// Like [`Values::set`], but an empty value does not clear.
    fn put(&mut self, tag: &[u8], value: Option<&[u8]>) {
        let value = value.map_or(Value::Cleared, |v| Value::Set(v.to_vec()));
        match self.0.iter_mut().find(|(t, _)| **t == *tag) {
            Some((_, v)) => *v = value,
            None => self.0.push((tag.to_vec().into(), value)),
        }
    }

    /// How many bytes of a value fit in its present place plus `room` bytes, and whether that is all of
    /// it; `None` if not even the tag fits.
    fn fitting<'a>(&self, tag: &[u8], value: Option<&'a [u8]>, room: usize) -> Option<(Option<&'a [u8]>, bool)> {
        let old = self.0.iter().find(|(t, _)| **t == *tag).map(|(_, old)| old.get().map_or(0, <[u8]>::len));
        fitting(tag, old, value, room)
    }

    /// Assigns as much of the value as fits if `room` more bytes may be used. False if that
    /// is not all of it.
    fn set_within(&mut self, tag: &[u8], value: Option<&[u8]>, room: usize) -> bool {
        self.fitting(tag, value, room).is_some_and(|(value, whole)| {
            self.set(tag, value);
            whole
        })
    }

    /// The assignments.
    fn assigned(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.iter().filter(|(_, value)| *value != Value::Unset).map(|(tag, value)| (&**tag, value.get()))
    }

    fn encoded_len(&self) -> usize {
        COUNT + self.0.iter().map(|(tag, value)| entry_len(tag) + value.get().map_or(0, <[u8]>::len)).sum::<usize>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_count(out, self.0.len());
        self.encode_entries(out);
    }

    /// The encoding without the count in front of it.
    pub(crate) fn encode_entries(&self, out: &mut Vec<u8>) {
        for (tag, value) in &self.0 {
            put_tag(out, tag);
            match value {
                Value::Unset => out.extend_from_slice(&UNSET.to_le_bytes()),
                Value::Cleared => put_cleared(out),
                Value::Set(v) => put_bytes(out, v),
            }
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Option<Values> {
        let n = usize::from(r.u16()?);
        let mut out = Vec::with_capacity(n.min(r.0.len() / 6));
        for _ in 0..n {
            let len = usize::from(r.u16()?);
            let tag = r.take(len)?.to_vec().into();
            let value = match r.u32()? {
                UNSET => Value::Unset,
                CLEARED => Value::Cleared,
                len => Value::Set(r.take(len as usize)?.to_vec()),
            };
            out.push((tag, value));
        }
        Some(Values(out))
    }
}

/// Bytes that a tag takes in the encoding, without its value.
pub(crate) const fn entry_len(tag: &[u8]) -> usize {
    COUNT + tag.len() + LENGTH
}

/// Appends a number of tags.
pub(crate) fn put_count(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(&(n as u16).to_le_bytes());
}

/// Appends a tag; its value follows.
pub(crate) fn put_tag(out: &mut Vec<u8>, tag: &[u8]) {
    put_count(out, tag.len());
    out.extend_from_slice(tag);
}

/// Appends the value of a cleared tag.
pub(crate) fn put_cleared(out: &mut Vec<u8>) {
    out.extend_from_slice(&CLEARED.to_le_bytes());
}

/// How much of a value fits if it may take the `old` bytes of the present value plus `room` bytes, and whether that
/// is all of it. A tag without an `old` value needs room as well; `None` if not even the tag fits.
pub(crate) fn fitting<'a>(tag: &[u8], old: Option<usize>, value: Option<&'a [u8]>, room: usize) -> Option<(Option<&'a [u8]>, bool)> {
    let room = match old {
        Some(old) => room + old,
        None => room.checked_sub(entry_len(tag))?,
    };
    Some(match value {
        Some(v) if v.len() > room => {
            let end = std::str::from_utf8(v).map_or(room, |text| text.floor_char_boundary(room));
            (Some(&v[..end]), false)
        }
        _ => (value, true),
    })
}

/// What a record needs of a reply, read while the message was private.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Status code.
    pub code: u16,
    /// Reason phrase.
    pub reason: Vec<u8>,
    /// Tag of the To header, empty when it has none.
    pub to_tag: Vec<u8>,
    /// It has a body.
    pub has_body: bool,
    /// It came from elsewhere. The server adds the tag of its own replies later.
    pub received: bool,
    /// Its Reason header, of a failure; empty when it has none.
    pub cause: Vec<u8>,
}

/// Progress of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// See [`Facts::answered`].
    pub answered: bool,
    /// See [`Facts::ended`].
    pub ended: bool,
    /// See [`Facts::closed`].
    pub closed: bool,
}

impl Progress {
    /// Its CDR is due: answered, ended, and not closed.
    pub const fn is_due(self) -> bool {
        self.answered && self.ended && !self.closed
    }
}

/// The part of a context with a fixed size: the arena changes it in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Grows with every change, on any node of a cluster: of two states of a call the one with
    /// the greater number is newer.
    pub revision: u64,
    /// What is accounted where.
    pub marks: Marks,
    /// A request was marked: the core values and the arrival are from it.
    pub marked: bool,
    /// The marked request had a To tag.
    pub in_dialog: bool,
    /// From and To swap: sent by the callee (`detect_direction`).
    pub upstream: bool,
    /// When the 2xx of a call with a CDR was sent (D5).
    pub answered: Option<Moment>,
    /// When and how the call ended.
    pub ended: Option<(Moment, EndCause)>,
    /// The CDR has been written or dropped: it must not be written again.
    pub closed: bool,
    /// Only message flags marked the request, no script function did.
    pub by_flags: bool,
    /// Number of targets that the request was sent to, at most 255.
    pub attempts: u8,
    /// Milliseconds from its arrival to the first 18x that went to the caller, less than `u32::MAX`.
    pub rang: Option<u32>,
}

impl Facts {
    /// A call in progress: answered, CDR not yet written.
    pub const fn is_open_call(&self) -> bool {
        self.answered.is_some() && !self.closed && self.marks.any_cdr()
    }

    /// These facts as the flags of the encoding.
    pub const fn flags(&self) -> u8 {
        const fn bit(on: bool, bit: u8) -> u8 {
            if on { bit } else { 0 }
        }
        bit(self.marked, MARKED)
            | bit(self.in_dialog, IN_DIALOG)
            | bit(self.upstream, UPSTREAM)
            | bit(self.answered.is_some(), ANSWERED)
            | bit(self.ended.is_some(), ENDED)
            | bit(self.closed, CLOSED)
            | bit(self.by_flags, BY_FLAGS)
            | bit(self.was_sent(), SENT)
    }

    /// Something is known of how it was sent on.
    const fn was_sent(&self) -> bool {
        self.attempts != 0 || self.rang.is_some()
    }

    /// Appends the head of an encoded context; all its parts follow.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.push(self.flags());
        out.extend_from_slice(&self.revision.to_le_bytes());
        self.marks.encode(out);
        if let Some(m) = self.answered {
            put_moment(out, m);
        }
        if let Some((m, cause)) = self.ended {
            put_moment(out, m);
            out.push(cause as u8);
        }
        if self.was_sent() {
            out.push(self.attempts);
            out.extend_from_slice(&after_rang(self.rang).to_le_bytes());
        }
    }

    /// Reads what [`Facts::encode`] wrote, and what follows it; `None` for anything else.
    pub fn decode(input: &[u8]) -> Option<(Facts, &[u8])> {
        let mut r = Reader(input);
        if r.u8()? != VERSION {
            return None;
        }
        let flags = r.u8()?;
        let revision = r.u64()?;
        let marks = Marks::decode(&mut r)?;
        let answered = if flags & ANSWERED != 0 { moment(&mut r)? } else { Moment::default() };
        let ended = if flags & ENDED != 0 { (moment(&mut r)?, EndCause::from_index(r.u8()?)?) } else { (Moment::default(), EndCause::Orphan) };
        let mut facts = Facts::new(flags, revision, marks, answered, ended);
        if flags & SENT != 0 {
            (facts.attempts, facts.rang) = (r.u8()?, rang_of(r.u32()?));
            if !facts.was_sent() {
                return None;
            }
        }
        Some((facts, r.0))
    }

    /// Built from flags, marks, and times that only count if their flag is set.
    pub fn new(flags: u8, revision: u64, marks: Marks, answered: Moment, ended: (Moment, EndCause)) -> Facts {
        let on = |bit| flags & bit != 0;
        Facts {
            revision,
            marks,
            marked: on(MARKED),
            in_dialog: on(IN_DIALOG),
            upstream: on(UPSTREAM),
            answered: on(ANSWERED).then_some(answered),
            ended: on(ENDED).then_some(ended),
            closed: on(CLOSED),
            by_flags: on(BY_FLAGS),
            attempts: 0,
            rang: None,
        }
    }
}

impl Progress {
    /// Built from the flags of the encoding.
    pub const fn of(flags: u8) -> Progress {
        Progress { answered: flags & ANSWERED != 0, ended: flags & ENDED != 0, closed: flags & CLOSED != 0 }
    }
}

/// The rest of a context, besides its [`Facts`], by when it changes: values of the request when it is
/// marked, values of the reply with the answer, values of the script at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Arrival, table, dialog, method, From tag, Call-ID.
    Request = 0,
    /// To tag, code, reason.
    Reply = 1,
    /// Extras and legs.
    Values = 2,
}

impl Part {
    /// In encoding order.
    pub const ALL: [Part; 3] = [Part::Request, Part::Reply, Part::Values];

    /// Length of an empty part: a moment, and lengths and counts of 0.
    pub const fn empty_len(self) -> usize {
        match self {
            Part::Request => MOMENT + 5 * LENGTH,
            Part::Reply => 3 * LENGTH,
            Part::Values => COUNT + LENGTH,
        }
    }
}

/// A context without the values of the script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Marks, times, flags.
    pub facts: Facts,
    /// SQL table named by the script, empty = the default one.
    pub table: Vec<u8>,
    /// Arrival of the request (D1).
    pub arrived: Moment,
    /// Core values: the request's, after the answer those of the call.
    pub core: Core,
    /// The host's name of the call's dialog, if any: finds the call again after a crash.
    pub dialog: Vec<u8>,
}

impl Deref for Head {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl DerefMut for Head {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }
}

/// An accounting context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// All but the values of the script.
    pub head: Head,
    /// Extra values.
    pub extra: Values,
    /// Leg values.
    pub legs: Vec<Values>,
}

impl Deref for Context {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl DerefMut for Context {
    fn deref_mut(&mut self) -> &mut Head {
        &mut self.head
    }
}

/// A change to a context.
pub struct Change<'a> {
    /// Key of the call, see [`Context::call_key`].
    pub call: u128,
    /// It was a call in progress before, see [`Facts::is_open_call`].
    pub was_open: bool,
    /// What it is now.
    pub facts: &'a Facts,
    /// All its parts, encoded.
    pub parts: &'a [u8],
    /// Which part of the last whole state in the journal is still valid, apart from its head (the facts).
    pub base: Option<Base>,
    /// Nothing has changed: a dialog has claimed the call of an earlier start of the server.
    pub is_claim: bool,
}

/// What the journal wrote for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing: it does not need the change, or could not write it.
    Nothing,
    /// The whole state; later changes refer to it by this time. 0: they do not.
    Whole(u64),
    /// The change relative to [`Change::base`].
    Change,
}

/// What a change keeps of the whole state that was written at `monotonic` in the same start. The head
/// of that state is replaced; of the rest, only bytes in the middle are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// When the whole state was written, see `journal::Writer::append_call`.
    pub monotonic: u64,
    /// Bytes after its head.
    pub rest: u32,
    /// How many of them are kept at the beginning.
    pub prefix: u32,
    /// How many are kept at the end.
    pub suffix: u32,
}

/// Bytes of a length.
const LENGTH: usize = size_of::<u32>();
/// Bytes of a moment.
const MOMENT: usize = 3 * size_of::<u64>();
/// Bytes of the number of tags, and of the length of a tag.
const COUNT: usize = size_of::<u16>();
const VERSION: u8 = 2;
const UNSET: u32 = u32::MAX;
const CLEARED: u32 = u32::MAX - 1;

const MARKED: u8 = 1;
const IN_DIALOG: u8 = 2;
const UPSTREAM: u8 = 4;
const ANSWERED: u8 = 8;
const ENDED: u8 = 16;
const CLOSED: u8 = 32;
const BY_FLAGS: u8 = 64;
const SENT: u8 = 128;

/// [`Facts::rang`] as a number: 0 is none.
pub const fn after_rang(rang: Option<u32>) -> u32 {
    match rang {
        Some(ms) => ms.saturating_add(1),
        None => 0,
    }
}

/// Reverses [`after_rang`].
pub const fn rang_of(number: u32) -> Option<u32> {
    number.checked_sub(1)
}

/// Key of the BYE's Reason header. No field tag and no variable begins with `#`.
const END_REASON: &[u8] = b"#reason";

/// Offset of the revision, so that it can be read without the rest.
const REVISION: std::ops::Range<usize> = 2..2 + size_of::<u64>();

/// [`Context::call_key`] of encoded parts; `None` if they are not those of a context.
pub(crate) fn call_key_of(parts: &[u8], is_of_dialog: bool) -> Option<u128> {
    let mut r = Reader(parts);
    let arrived = moment(&mut r)?;
    let [_, _, _, from_tag, callid, to_tag] = [r.bytes()?, r.bytes()?, r.bytes()?, r.bytes()?, r.bytes()?, r.bytes()?];
    Some(finished(begun(callid, from_tag, to_tag, arrived.wall), is_of_dialog))
}

impl Head {
    /// Rebuilds it from the first two parts of the encoding.
    pub(crate) fn of_parts(facts: Facts, parts: &[u8]) -> Option<Head> {
        let mut head = Head::default();
        head.become_parts(facts, parts).then_some(head)
    }

    /// [`Head::of_parts`] into this one, reusing its memory; false if these are not such parts.
    pub(crate) fn become_parts(&mut self, facts: Facts, parts: &[u8]) -> bool {
        let mut r = Reader(parts);
        self.read(facts, &mut r).is_some() && r.0.is_empty()
    }

    fn read(&mut self, facts: Facts, r: &mut Reader<'_>) -> Option<()> {
        (self.facts, self.arrived) = (facts, moment(r)?);
        let Core { method, from_tag, to_tag, callid, code, reason } = &mut self.core;
        for value in [&mut self.table, &mut self.dialog, method, from_tag, callid, to_tag, code, reason] {
            let bytes = r.bytes()?;
            if bytes.len() <= value.capacity() {
                value.clear();
                value.extend_from_slice(bytes);
            } else {
                *value = bytes.to_vec();
            }
        }
        Some(())
    }

    /// Appends [`Part::Request`].
    pub(crate) fn encode_request(&self, out: &mut Vec<u8>) {
        put_moment(out, self.arrived);
        let c = &self.core;
        [&self.table, &self.dialog, &c.method, &c.from_tag, &c.callid].into_iter().for_each(|v| put_bytes(out, v));
    }

    /// Appends [`Part::Reply`].
    pub(crate) fn encode_reply(&self, out: &mut Vec<u8>) {
        let c = &self.core;
        [&c.to_tag, &c.code, &c.reason].into_iter().for_each(|v| put_bytes(out, v));
    }

    /// [`Part::Reply`] in no more than `most` bytes: the reason is clipped first, then the To tag.
    pub fn encode_reply_within(&self, most: usize) -> Vec<u8> {
        let c = &self.core;
        let room = most.saturating_sub(Part::Reply.empty_len() + c.code.len());
        let to_tag = &c.to_tag[..c.to_tag.len().min(room)];
        let reason = &c.reason[..c.reason.len().min(room - to_tag.len())];
        let mut out = Vec::with_capacity(most);
        [to_tag, &c.code, reason].into_iter().for_each(|v| put_bytes(&mut out, v));
        out
    }
}

impl Context {
    /// A new context for a script: with the first leg if leg fields are declared.
    pub fn new(arrived: Moment, has_leg_fields: bool) -> Context {
        let legs = if has_leg_fields { vec![Values::default()] } else { Vec::new() };
        Context { head: Head { arrived, ..Head::default() }, extra: Values::default(), legs }
    }

    /// Is this the context of a dialog's own CDR (Kamailio's `cdr_enable`)?
    pub fn is_of_dialog(&self) -> bool {
        is_mark_of_dialog(&self.extra)
    }

    /// Key of the call in the journal, the same for all its states. It includes the To tag of the
    /// answer, so two forks that arrive in the same microsecond have different keys.
    pub fn call_key(&self) -> u128 {
        let id = begun(&self.core.callid, &self.core.from_tag, &self.core.to_tag, self.arrived.wall);
        finished(id, self.is_of_dialog())
    }

    /// Takes over values and legs set in `other`, index by index (D22), up to a total length of `most`
    /// bytes. Returns a tag whose value was clipped, if any.
    pub fn merge_values(&mut self, other: &Context, most: usize) -> Option<Vec<u8>> {
        let mut clipped = None;
        for (tag, value) in other.extra.assigned() {
            if !self.set_extra(tag, value, most) {
                clipped = Some(tag.to_vec());
            }
        }
        for (i, leg) in other.legs.iter().enumerate() {
            if i == self.legs.len() && !self.add_leg(most) {
                return leg.0.first().map(|(tag, _)| tag.to_vec()).or(clipped);
            }
            for (tag, value) in leg.assigned() {
                if !self.set_leg(i, tag, value, most) {
                    clipped = Some(tag.to_vec());
                }
            }
        }
        clipped
    }

    /// Encoded length of its parts, in bytes.
    pub fn encoded_len(&self) -> usize {
        let bytes = self.table.len() + self.dialog.len() + self.core.values().map(<[u8]>::len).iter().sum::<usize>();
        let values = self.legs.iter().chain([&self.extra]).map(Values::encoded_len).sum::<usize>();
        Part::Request.empty_len() + Part::Reply.empty_len() + bytes + values + LENGTH
    }

    /// Assigns an extra value, or as much of it as fits in a context of `most` bytes; false if
    /// that is not all.
    pub fn set_extra(&mut self, tag: &[u8], value: Option<&[u8]>, most: usize) -> bool {
        let room = most.saturating_sub(self.encoded_len());
        self.extra.set_within(tag, value, room)
    }

    /// Like [`Context::set_extra`], but an empty value does not clear.
    pub fn put_extra(&mut self, tag: &[u8], value: Option<&[u8]>, most: usize) -> bool {
        let room = most.saturating_sub(self.encoded_len());
        self.extra.fitting(tag, value, room).is_some_and(|(value, whole)| {
            self.extra.put(tag, value);
            whole
        })
    }

    /// Like [`Context::set_extra`], for the leg with that index, which must exist.
    pub fn set_leg(&mut self, leg: usize, tag: &[u8], value: Option<&[u8]>, most: usize) -> bool {
        let room = most.saturating_sub(self.encoded_len());
        self.legs[leg].set_within(tag, value, room)
    }

    /// Adds a leg; false if it does not fit in a context of `most` bytes.
    pub fn add_leg(&mut self, most: usize) -> bool {
        let has_room = self.encoded_len() + COUNT <= most;
        if has_room {
            self.legs.push(Values::default());
        }
        has_room
    }

    /// Keeps the Reason header of the message that ended the call, in a context of at most `most` bytes.
    pub fn set_end_reason(&mut self, reason: &[u8], most: usize) {
        if !reason.is_empty() {
            self.put_extra(END_REASON, Some(Signalling::clipped(reason)), most);
        }
    }

    /// What is known of the signalling of the request so far.
    pub fn signalling(&self) -> Signalling {
        Signalling { pdd_ms: self.rang, attempts: self.attempts, end_reason: self.extra.get(END_REASON).unwrap_or_default().to_vec() }
    }

    /// The revision of an encoded context; `None` if the bytes are not a context.
    pub fn revision_of(encoded: &[u8]) -> Option<u64> {
        let bytes = encoded.get(REVISION).filter(|_| encoded[0] == VERSION)?;
        Some(u64::from_le_bytes(*bytes.first_chunk()?))
    }

    /// Index of a leg: `None` = the current one, negative = from the end; `None` when out of range.
    pub fn leg_index(&self, index: Option<i64>) -> Option<usize> {
        leg_index(self.legs.len(), index)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.facts.encode(out);
        for part in Part::ALL {
            self.encode_part(part, out);
        }
    }

    /// Appends a part of the encoding.
    pub fn encode_part(&self, part: Part, out: &mut Vec<u8>) {
        match part {
            Part::Request => self.encode_request(out),
            Part::Reply => self.encode_reply(out),
            Part::Values => {
                self.extra.encode(out);
                out.extend_from_slice(&(self.legs.len() as u32).to_le_bytes());
                for leg in &self.legs {
                    leg.encode(out);
                }
            }
        }
    }

    /// Reads what [`Context::encode`] wrote; `None` for anything else.
    pub fn decode(input: &[u8]) -> Option<Context> {
        let (facts, parts) = Facts::decode(input)?;
        Context::of_parts(facts, parts)
    }

    /// Rebuilds a context from all its `parts`, in encoding order.
    pub fn of_parts(facts: Facts, parts: &[u8]) -> Option<Context> {
        let mut r = Reader(parts);
        let mut head = Head::default();
        head.read(facts, &mut r)?;
        let extra = Values::decode(&mut r)?;
        let n = r.len()?;
        let mut legs = Vec::with_capacity(n.min(r.0.len() / 2));
        for _ in 0..n {
            legs.push(Values::decode(&mut r)?);
        }
        if !r.0.is_empty() {
            return None;
        }
        Some(Context { head, extra, legs })
    }
}

/// [`Context::leg_index`] of a context with this many legs.
pub(crate) fn leg_index(legs: usize, index: Option<i64>) -> Option<usize> {
    let n = legs as i64;
    let i = match index {
        None => n - 1,
        Some(i) if i < 0 => n + i,
        Some(i) => i,
    };
    (0..n).contains(&i).then_some(i as usize)
}

fn put_moment(out: &mut Vec<u8>, m: Moment) {
    out.extend_from_slice(&m.wall.0.to_le_bytes());
    out.extend_from_slice(&m.mono.to_le_bytes());
    out.extend_from_slice(&m.boot.to_le_bytes());
}

fn moment(r: &mut Reader<'_>) -> Option<Moment> {
    Some(Moment { wall: Wall(r.i64()?), mono: r.i64()?, boot: r.u64()? })
}

/// The end of a call: its records, and its key in the journal.
pub struct CallEnd {
    /// See [`Context::call_key`].
    pub call: u128,
    /// The host's name of its dialog.
    pub dialog: Vec<u8>,
    /// When it was answered.
    pub answered: Option<Moment>,
    /// How long it was up; `None` if another server has ended it.
    pub duration_ms: Option<i64>,
    /// The CDRs; none if accounting was dropped during the call.
    pub records: Vec<Record>,
}

impl CallEnd {
    /// Nobody saw this end: a server lost the call, or its lifetime ended there. Elsewhere it may go on.
    pub fn is_guess(&self) -> bool {
        matches!(self.records.first().and_then(|record| record.end), Some(EndCause::Orphan | EndCause::Timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(n: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..n)
    }

    fn values() -> impl Strategy<Value = Values> {
        let value = prop_oneof![Just(Value::Unset), Just(Value::Cleared), bytes(40).prop_map(Value::Set)];
        proptest::collection::vec((bytes(10).prop_map(Cow::Owned), value), 0..5).prop_map(Values)
    }

    fn any_moment() -> impl Strategy<Value = Moment> {
        any::<(i64, i64, u64)>().prop_map(|(w, mono, boot)| Moment { wall: Wall(w), mono, boot })
    }

    prop_compose! {
        fn context()(revision in any::<u64>(), marks in any::<[u64; 2]>(), flags in any::<(bool, bool, bool, bool, bool)>(), table in bytes(9), arrived in any_moment(),
                     core in (bytes(9), bytes(9), bytes(9), bytes(9), bytes(4), bytes(9)), answered in proptest::option::of(any_moment()),
                     ended in proptest::option::of((any_moment(), 0u8..5)), sent in (any::<u8>(), proptest::option::of(0..u32::MAX)), extra in values(), legs in proptest::collection::vec(values(), 0..4)) -> Context {
            let ended = ended.map(|(m, c)| (m, EndCause::from_index(c).unwrap()));
            let (marked, in_dialog, upstream, closed, by_flags) = flags;
            let facts = Facts { revision, marks: Marks::of_words(marks), marked, in_dialog, upstream, answered, ended, closed, by_flags, attempts: sent.0, rang: sent.1 };
            let core = Core { method: core.0, from_tag: core.1, to_tag: core.2, callid: core.3, code: core.4, reason: core.5 };
            Context { head: Head { facts, table, arrived, core, dialog: b"1.2".to_vec() }, extra, legs }
        }
    }

    proptest! {
        #[test]
        fn decode_reverses_encode(c in context()) {
            let mut out = Vec::new();
            c.encode(&mut out);
            prop_assert_eq!(
                Progress::of(c.facts.flags()),
                Progress { answered: c.answered.is_some(), ended: c.ended.is_some(), closed: c.closed }
            );
            let decoded = Context::decode(&out);
            prop_assert_eq!(decoded.as_ref(), Some(&c));
            prop_assert_eq!(Context::revision_of(&out), Some(c.revision));
            // Changes are found by comparing bytes, so equal contexts must have equal bytes.
            let mut again = Vec::new();
            decoded.unwrap().encode(&mut again);
            prop_assert_eq!(again, out);
        }

        #[test]
        fn a_clipped_reply_keeps_the_to_tag_as_long_as_it_can(mut c in context(), most in 16usize..80) {
            c.core.code.truncate(4);
            let reply = c.encode_reply_within(most);
            prop_assert!(reply.len() <= most);
            let mut parts = Vec::new();
            c.encode_part(Part::Request, &mut parts);
            parts.extend_from_slice(&reply);
            c.encode_part(Part::Values, &mut parts);
            let read = Context::of_parts(c.facts, &parts).unwrap().head.core;
            prop_assert!(c.core.to_tag.starts_with(&read.to_tag) && c.core.reason.starts_with(&read.reason) && c.core.code == read.code);
            prop_assert!(read.reason.is_empty() || read.to_tag == c.core.to_tag);
        }

        #[test]
        fn truncated_bytes_are_refused(c in context(), cut in any::<prop::sample::Index>()) {
            let mut out = Vec::new();
            c.encode(&mut out);
            prop_assert_eq!(Context::decode(&out[..cut.index(out.len())]), None);
        }

        #[test]
        fn hostile_bytes_never_panic(mut b in bytes(200)) {
            let _ = Context::decode(&b);
            if let Some(first) = b.first_mut() { *first = VERSION; }
            let _ = Context::decode(&b);
        }
    }

    #[test]
    fn a_merge_adds_legs_and_lets_cleared_values_win() {
        let mut call = Context::new(Moment::default(), true);
        call.extra.set(b"a", Some(b"1"));
        call.extra.set(b"b", Some(b"2"));
        call.legs[0].set(b"l", Some(b"old"));
        let mut script = Context::new(Moment::default(), true);
        script.extra.set(b"a", None);
        script.legs[0].set(b"m", Some(b"new"));
        for i in 0..8 {
            script.legs.push(Values::default());
            script.legs[i + 1].set(b"l", Some(format!("leg{i}").as_bytes()));
        }
        assert_eq!(call.merge_values(&script, usize::MAX), None);
        assert_eq!(call.extra.get(b"a"), None);
        assert_eq!(call.extra.get(b"b"), Some(&b"2"[..]));
        assert_eq!(call.legs.len(), 9);
        assert_eq!((call.legs[0].get(b"l"), call.legs[0].get(b"m")), (Some(&b"old"[..]), Some(&b"new"[..])));
        assert_eq!(call.legs[8].get(b"l"), Some(&b"leg7"[..]));
    }

    #[test]
    fn a_context_takes_no_more_than_it_may() {
        let mut c = Context::new(Moment::default(), true);
        c.core.callid = vec![b'c'; 100];
        assert!(c.set_extra(b"a", Some(&[b'x'; 300]), 1000));
        assert!(c.set_leg(0, b"l", Some(&[b'y'; 300]), 1000));
        // A clipped value must not end inside a character.
        assert!(!c.set_extra(b"long", Some("\u{e9}".repeat(300).as_bytes()), 1000));
        assert!((999..=1000).contains(&c.encoded_len()), "{}", c.encoded_len());
        assert!(std::str::from_utf8(c.extra.get(b"long").unwrap()).unwrap().chars().all(|x| x == '\u{e9}'));
        // A present value may change within the room it already has.
        assert!(c.set_extra(b"a", Some(&[b'z'; 300]), 1000) && !c.set_extra(b"a", Some(&[b'z'; 302]), 1000));
        assert!(!c.set_extra(b"b", Some(b"1"), 1000) && c.extra.get(b"b").is_none());
        while c.add_leg(1000) {}
        assert!(c.set_extra(b"a", None, 1000) && c.encoded_len() <= 701);
        // A merge takes over only as much as fits.
        let mut other = Context::new(Moment::default(), true);
        assert!(other.set_extra(b"long", None, 1000) && other.set_leg(0, b"m", Some(&[b'm'; 2000]), usize::MAX));
        assert_eq!(c.merge_values(&other, 1000), Some(b"m".to_vec()));
        assert_eq!((c.extra.get(b"long"), c.encoded_len()), (None, 1000));
        let mut parts = Vec::new();
        Part::ALL.iter().for_each(|p| c.encode_part(*p, &mut parts));
        assert_eq!(parts.len(), c.encoded_len());
    }

    #[test]
    fn leg_indexes_count_from_both_ends() {
        let mut c = Context::new(Moment::default(), true);
        c.legs.resize(3, Values::default());
        for (index, want) in [
            (None, Some(2)),
            (Some(0), Some(0)),
            (Some(2), Some(2)),
            (Some(3), None),
            (Some(-1), Some(2)),
            (Some(-3), Some(0)),
            (Some(-4), None),
            (Some(i64::MIN + 3), None),
        ] {
            assert_eq!(c.leg_index(index), want, "{index:?}");
        }
        assert_eq!(Context::new(Moment::default(), false).leg_index(None), None);
    }
}
