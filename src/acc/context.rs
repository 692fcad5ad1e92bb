//! The accounting context: everything known about one marked request or call.
//!
//! One encoding serves the shared arena, the values kept in a dialog (restart, replication) and
//! the journal: versioned, values named by tag (D10), unknown tags kept.
#![forbid(unsafe_code)]

use super::clock::Moment;
use super::marks::Marks;
use super::record::{Core, Wall};
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

/// Values by tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(Vec<(Box<[u8]>, Value)>);

impl Values {
    /// The value of a tag, if assigned and not cleared.
    pub fn get(&self, tag: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|(t, _)| **t == *tag).and_then(|(_, v)| v.get())
    }

    /// Assigns; `None` clears. An empty value clears too, as in the original.
    pub fn set(&mut self, tag: &[u8], value: Option<&[u8]>) {
        let value = match value {
            Some(v) if !v.is_empty() => Value::Set(v.to_vec()),
            _ => Value::Cleared,
        };
        match self.0.iter_mut().find(|(t, _)| **t == *tag) {
            Some((_, v)) => *v = value,
            None => self.0.push((tag.into(), value)),
        }
    }

    /// Takes over every assignment made in `other`.
    pub fn merge(&mut self, other: &Values) {
        for (tag, value) in &other.0 {
            if *value != Value::Unset {
                self.set(tag, value.get());
            }
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.0.len() as u16).to_le_bytes());
        for (tag, value) in &self.0 {
            out.extend_from_slice(&(tag.len() as u16).to_le_bytes());
            out.extend_from_slice(tag);
            match value {
                Value::Unset => out.extend_from_slice(&UNSET.to_le_bytes()),
                Value::Cleared => out.extend_from_slice(&CLEARED.to_le_bytes()),
                Value::Set(v) => put_bytes(out, v),
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Option<Values> {
        let n = usize::from(r.u16()?);
        let mut out = Vec::with_capacity(n.min(r.0.len() / 6));
        for _ in 0..n {
            let len = usize::from(r.u16()?);
            let tag = r.take(len)?.into();
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

/// A reply as its record needs it, taken while the message was private.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Status code.
    pub code: u16,
    /// Reason phrase.
    pub reason: Vec<u8>,
    /// Tag of the To header, empty when it has none.
    pub to_tag: Vec<u8>,
    /// It carries a body.
    pub has_body: bool,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndCause {
    /// The caller sent the BYE.
    Caller = 0,
    /// The callee sent the BYE.
    Callee = 1,
    /// The server ended it (MI, script).
    Proxy = 2,
    /// The lifetime of the dialog ran out.
    Timeout = 3,
    /// Nothing is known but that the server lost sight of it.
    Orphan = 4,
}

impl EndCause {
    /// `end_cause` in records.
    pub const fn cause(self) -> &'static str {
        match self {
            EndCause::Caller | EndCause::Callee => "bye",
            EndCause::Proxy => "proxy",
            EndCause::Timeout => "timeout",
            EndCause::Orphan => "orphan",
        }
    }

    /// `end_side` in records.
    pub const fn side(self) -> &'static str {
        match self {
            EndCause::Caller => "caller",
            EndCause::Callee => "callee",
            EndCause::Proxy | EndCause::Timeout | EndCause::Orphan => "proxy",
        }
    }

    pub(crate) const fn from_index(n: u8) -> Option<EndCause> {
        match n {
            0 => Some(EndCause::Caller),
            1 => Some(EndCause::Callee),
            2 => Some(EndCause::Proxy),
            3 => Some(EndCause::Timeout),
            4 => Some(EndCause::Orphan),
            _ => None,
        }
    }
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// See [`Context::answered`].
    pub answered: bool,
    /// See [`Context::ended`].
    pub ended: bool,
    /// See [`Context::closed`].
    pub closed: bool,
}

impl Progress {
    /// Its CDR is due: answered, ended, and not closed.
    pub const fn is_due(self) -> bool {
        self.answered && self.ended && !self.closed
    }
}

/// What a context knows. Its parts come in the order of a call's life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// What is accounted where.
    pub marks: Marks,
    /// SQL table named by the script, empty = the default one.
    pub table: Vec<u8>,
    /// A request was marked: `core` and `arrived` are its own.
    pub marked: bool,
    /// The marked request had a To tag.
    pub in_dialog: bool,
    /// From and To swap: sent by the callee (`detect_direction`).
    pub upstream: bool,
    /// Arrival of the request (D1).
    pub arrived: Moment,
    /// Core values: the request's, after the answer those of the call.
    pub core: Core,
    /// The host's name of the call's dialog, once it has one: finds the call again after a crash.
    pub dialog: Vec<u8>,
    /// The 2xx of a call with CDR (D5).
    pub answered: Option<Moment>,
    /// The end of the call, and who ended it.
    pub ended: Option<(Moment, EndCause)>,
    /// The CDR is written or was dropped: never again.
    pub closed: bool,
    /// Extra values.
    pub extra: Values,
    /// Leg values.
    pub legs: Vec<Values>,
}

const VERSION: u8 = 1;
const UNSET: u32 = u32::MAX;
const CLEARED: u32 = u32::MAX - 1;

const MARKED: u8 = 1;
const IN_DIALOG: u8 = 2;
const UPSTREAM: u8 = 4;
const ANSWERED: u8 = 8;
const ENDED: u8 = 16;
const CLOSED: u8 = 32;

impl Context {
    /// A context as a script makes it: with the first leg when leg fields are declared.
    pub fn new(arrived: Moment, has_leg_fields: bool) -> Context {
        Context { arrived, legs: if has_leg_fields { vec![Values::default()] } else { Vec::new() }, ..Context::default() }
    }

    /// A call in progress: answered, its CDR still owed.
    pub fn is_open_call(&self) -> bool {
        self.answered.is_some() && !self.closed && self.marks.any_cdr()
    }

    /// Name of the call in the journal: the same for every state of it.
    pub fn call_key(&self) -> u128 {
        let mut id = super::identity::Identity::new();
        id.eat(&self.core.callid);
        id.eat(&self.core.from_tag);
        id.eat(&self.arrived.wall.0.to_le_bytes());
        id.finish()
    }

    /// Takes over values and legs set in `other`, index by index (D22).
    pub fn merge_values(&mut self, other: &Context) {
        self.extra.merge(&other.extra);
        for (i, leg) in other.legs.iter().enumerate() {
            if i == self.legs.len() {
                self.legs.push(Values::default());
            }
            self.legs[i].merge(leg);
        }
    }

    /// How far the call is, of an encoded context; `None` for what is none.
    pub fn progress_of(encoded: &[u8]) -> Option<Progress> {
        match encoded {
            [VERSION, flags, ..] => Some(Progress { answered: flags & ANSWERED != 0, ended: flags & ENDED != 0, closed: flags & CLOSED != 0 }),
            _ => None,
        }
    }

    /// Index of a leg: `None` = the current one, negative = from the end; `None` when out of range.
    pub fn leg_index(&self, index: Option<i64>) -> Option<usize> {
        let n = self.legs.len() as i64;
        let i = match index {
            None => n - 1,
            Some(i) if i < 0 => n + i,
            Some(i) => i,
        };
        (0..n).contains(&i).then_some(i as usize)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        let flags = [
            (self.marked, MARKED),
            (self.in_dialog, IN_DIALOG),
            (self.upstream, UPSTREAM),
            (self.answered.is_some(), ANSWERED),
            (self.ended.is_some(), ENDED),
            (self.closed, CLOSED),
        ];
        out.push(flags.iter().filter(|(on, _)| *on).fold(0, |f, (_, bit)| f | bit));
        out.extend_from_slice(&self.marks.0.to_le_bytes());
        put_moment(out, self.arrived);
        if let Some(m) = self.answered {
            put_moment(out, m);
        }
        if let Some((m, cause)) = self.ended {
            put_moment(out, m);
            out.push(cause as u8);
        }
        put_bytes(out, &self.table);
        put_bytes(out, &self.dialog);
        for v in self.core.values() {
            put_bytes(out, v);
        }
        self.extra.encode(out);
        out.extend_from_slice(&(self.legs.len() as u32).to_le_bytes());
        for leg in &self.legs {
            leg.encode(out);
        }
    }

    /// Reads what [`Context::encode`] wrote; `None` for anything else.
    pub fn decode(input: &[u8]) -> Option<Context> {
        let mut r = Reader(input);
        if r.u8()? != VERSION {
            return None;
        }
        let flags = r.u8()?;
        let marks = Marks(r.u32()?);
        let arrived = moment(&mut r)?;
        let answered = if flags & ANSWERED != 0 { Some(moment(&mut r)?) } else { None };
        let ended = if flags & ENDED != 0 { Some((moment(&mut r)?, EndCause::from_index(r.u8()?)?)) } else { None };
        let table = r.bytes()?.to_vec();
        let dialog = r.bytes()?.to_vec();
        let core = Core {
            method: r.bytes()?.to_vec(),
            from_tag: r.bytes()?.to_vec(),
            to_tag: r.bytes()?.to_vec(),
            callid: r.bytes()?.to_vec(),
            code: r.bytes()?.to_vec(),
            reason: r.bytes()?.to_vec(),
        };
        let extra = Values::decode(&mut r)?;
        let n = r.len()?;
        let mut legs = Vec::with_capacity(n.min(r.0.len() / 2));
        for _ in 0..n {
            legs.push(Values::decode(&mut r)?);
        }
        if !r.0.is_empty() {
            return None;
        }
        Some(Context {
            marks,
            table,
            marked: flags & MARKED != 0,
            in_dialog: flags & IN_DIALOG != 0,
            upstream: flags & UPSTREAM != 0,
            arrived,
            core,
            dialog,
            answered,
            ended,
            closed: flags & CLOSED != 0,
            extra,
            legs,
        })
    }
}

fn put_moment(out: &mut Vec<u8>, m: Moment) {
    out.extend_from_slice(&m.wall.0.to_le_bytes());
    out.extend_from_slice(&m.mono.to_le_bytes());
    out.extend_from_slice(&m.boot.to_le_bytes());
}

fn moment(r: &mut Reader<'_>) -> Option<Moment> {
    Some(Moment { wall: Wall(r.i64()?), mono: r.i64()?, boot: r.u64()? })
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
        proptest::collection::vec((bytes(10).prop_map(Vec::into_boxed_slice), value), 0..5).prop_map(Values)
    }

    fn any_moment() -> impl Strategy<Value = Moment> {
        any::<(i64, i64, u64)>().prop_map(|(w, mono, boot)| Moment { wall: Wall(w), mono, boot })
    }

    prop_compose! {
        fn context()(marks in any::<u32>(), flags in any::<(bool, bool, bool, bool)>(), table in bytes(9), arrived in any_moment(),
                     core in (bytes(9), bytes(9), bytes(9), bytes(9), bytes(4), bytes(9)), answered in proptest::option::of(any_moment()),
                     ended in proptest::option::of((any_moment(), 0u8..5)), extra in values(), legs in proptest::collection::vec(values(), 0..4)) -> Context {
            Context {
                marks: Marks(marks), table, marked: flags.0, in_dialog: flags.1, upstream: flags.2, closed: flags.3, arrived,
                core: Core { method: core.0, from_tag: core.1, to_tag: core.2, callid: core.3, code: core.4, reason: core.5 },
                dialog: b"1.2".to_vec(), answered, ended: ended.map(|(m, c)| (m, EndCause::from_index(c).unwrap())), extra, legs,
            }
        }
    }

    proptest! {
        #[test]
        fn decode_reverses_encode(c in context()) {
            let mut out = Vec::new();
            c.encode(&mut out);
            prop_assert_eq!(
                Context::progress_of(&out),
                Some(Progress { answered: c.answered.is_some(), ended: c.ended.is_some(), closed: c.closed })
            );
            let decoded = Context::decode(&out);
            prop_assert_eq!(decoded.as_ref(), Some(&c));
            // Equal bytes are equal contexts: changes are found by comparing bytes.
            let mut again = Vec::new();
            decoded.unwrap().encode(&mut again);
            prop_assert_eq!(again, out);
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
        call.merge_values(&script);
        assert_eq!(call.extra.get(b"a"), None);
        assert_eq!(call.extra.get(b"b"), Some(&b"2"[..]));
        assert_eq!(call.legs.len(), 9);
        assert_eq!((call.legs[0].get(b"l"), call.legs[0].get(b"m")), (Some(&b"old"[..]), Some(&b"new"[..])));
        assert_eq!(call.legs[8].get(b"l"), Some(&b"leg7"[..]));
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
