//! A record: what one backend writes about one event, and its journal encoding.
//!
//! The encoding is little-endian with explicit lengths, so that a journal written by one
//! build is readable by the next.

use std::sync::Arc;

pub use crate::declaration::Backend;

use super::call_key::call_key;
use super::clock::{Moment, Wall};
use super::identity::Identity;
use super::visible::whole;
use super::wire::{Reader, put_bytes, put_len};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A transaction got its final reply ("transaction answered").
    Transaction = 0,
    /// An attempt failed ("call missed").
    Missed = 1,
    /// The script asked for a record ("request accounted").
    Manual = 2,
    /// A call ended ("call ended").
    Cdr = 3,
    /// The ACK for the answer of an INVITE arrived ("request acknowledged").
    Ack = 4,
    /// A call began that will have a CDR.
    Start = 5,
    /// Such a call is up.
    Interim = 6,
}

impl Kind {
    /// Its name in JSON objects.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Transaction => "transaction",
            Kind::Missed => "missed",
            Kind::Manual => "manual",
            Kind::Cdr => "cdr",
            Kind::Ack => "ack",
            Kind::Start => "start",
            Kind::Interim => "interim",
        }
    }

    /// It says that a call goes on, and means nothing once that call has ended.
    pub const fn is_report(self) -> bool {
        matches!(self, Kind::Start | Kind::Interim)
    }

    const fn from_index(n: u8) -> Option<Kind> {
        match n {
            0 => Some(Kind::Transaction),
            1 => Some(Kind::Missed),
            2 => Some(Kind::Manual),
            3 => Some(Kind::Cdr),
            4 => Some(Kind::Ack),
            5 => Some(Kind::Start),
            6 => Some(Kind::Interim),
            _ => None,
        }
    }
}

/// Which values a record has besides its core, and in which order a backend writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    /// For `do_accounting()`: both times with every context, and the duration also in milliseconds.
    #[default]
    Context = 0,
    /// For message flags: times only in CDRs and in missed records of calls with a CDR.
    Flags = 1,
    /// As `Flags`; the first extra is another time field, which follows the time.
    Stamped = 2,
    /// As `Flags`, with the methods numbered as Kamailio does.
    Kamailio = 3,
    /// The CDR of a Kamailio dialog: it has only extras, of which the first three are start, end and duration.
    Dialog = 4,
}

impl Shape {
    const fn from_index(n: u8) -> Option<Shape> {
        match n {
            0 => Some(Shape::Context),
            1 => Some(Shape::Flags),
            2 => Some(Shape::Stamped),
            3 => Some(Shape::Kamailio),
            4 => Some(Shape::Dialog),
            _ => None,
        }
    }
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
    /// The lifetime of the dialog expired.
    Timeout = 3,
    /// Unknown: the server lost track of the call.
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

/// The core values, in the order every backend writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Core {
    /// SIP method of the request.
    pub method: Vec<u8>,
    /// Tag of the From header.
    pub from_tag: Vec<u8>,
    /// Tag of the To header: the reply's if it has one, else the request's.
    pub to_tag: Vec<u8>,
    /// Call-ID.
    pub callid: Vec<u8>,
    /// Three-digit code of the reply, empty if there is none.
    pub code: Vec<u8>,
    /// Reason phrase.
    pub reason: Vec<u8>,
}

impl Core {
    /// Takes the values of another one, reusing its own memory.
    pub fn copy(&mut self, other: &Core) {
        let Core { method, from_tag, to_tag, callid, code, reason } = self;
        [method, from_tag, to_tag, callid, code, reason].into_iter().zip(other.values()).for_each(|(to, from)| {
            to.clear();
            to.extend_from_slice(from);
        });
    }

    /// The values in record order.
    pub fn values(&self) -> [&[u8]; 6] {
        [&self.method, &self.from_tag, &self.to_tag, &self.callid, &self.code, &self.reason]
    }

    /// The reply code as a number, 0 if there is none.
    pub fn code_number(&self) -> u16 {
        std::str::from_utf8(&self.code).ok().and_then(|s| s.parse().ok()).unwrap_or(0)
    }
}

/// One extra or leg value, under the name used by the backend (column, attribute, pair, parameter).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in the backend.
    pub name: Arc<str>,
    /// Value; `None` is unset (SQL NULL, empty pair, omitted attribute, null parameter).
    pub value: Option<Vec<u8>>,
}

/// The times of the accounting context; records without a context have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Arrival of the initial request that was marked (D1).
    pub created: Wall,
    /// Milliseconds from `created` to the answer or final reply, by the monotonic clock.
    pub setup_ms: i64,
}

/// Identity of the record, 32 hexadecimal digits: the same in every copy.
pub const ACC_ID: &str = "acc_id";
/// Why the call ended: bye, proxy, timeout or orphan (CDR only).
pub const END_CAUSE: &str = "end_cause";
/// Who ended the call: caller, callee or proxy (CDR only).
pub const END_SIDE: &str = "end_side";
/// Milliseconds from the arrival of an INVITE to the first 18x that went to the caller (post-dial delay).
pub const PDD_MS: &str = "pdd_ms";
/// Milliseconds from that 18x to the final reply.
pub const RING_MS: &str = "ring_ms";
/// Value of the Reason header (RFC 3326) of the BYE that ended the call, or of the reply that refused the request.
pub const END_REASON: &str = "end_reason";
/// Number of targets that an INVITE has been sent to so far.
pub const ATTEMPTS: &str = "attempts";

/// Most bytes of a Reason header that are kept.
const REASON_MAX: usize = 255;

/// What was seen of the signalling of a request, besides its final reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signalling {
    /// See [`PDD_MS`]; `None` if no 18x went to the caller.
    pub pdd_ms: Option<u32>,
    /// See [`ATTEMPTS`]; 0 if it was not sent anywhere, or is not an INVITE that begins a call.
    pub attempts: u8,
    /// See [`END_REASON`]; empty if there was none.
    pub end_reason: Vec<u8>,
}

impl Signalling {
    /// As much of a Reason header as is kept.
    pub fn clipped(reason: &[u8]) -> &[u8] {
        &reason[..whole(reason, REASON_MAX)]
    }
}

/// What one backend writes about one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub kind: Kind,
    /// See [`Shape`].
    pub shape: Shape,
    /// Where it is written.
    pub backend: Backend,
    /// SQL table (`Backend::Db` only, else empty).
    pub table: Arc<str>,
    /// Method, tags, Call-ID, code, reason.
    pub core: Core,
    /// Completion of the request; for a CDR the answer (call start).
    pub time: Wall,
    /// Creation and setup; `None` for a record without an accounting context.
    pub times: Option<Times>,
    /// Milliseconds from the answer to the end, or to this record if the call is up, by the monotonic clock.
    pub duration_ms: Option<i64>,
    /// How the call ended (CDR only). In an interim record: the call is no longer accounted here.
    pub end: Option<EndCause>,
    /// See [`Signalling`].
    pub signalling: Signalling,
    /// The call has start and interim records as well, and this one follows them.
    pub reported: bool,
    /// The request had a To tag (RADIUS uses this to choose between Start, Stop, Alive and Failed).
    pub in_dialog: bool,
    /// Extra values in declaration order.
    pub extras: Vec<Field>,
    /// Leg values, one list per leg; empty if the backend declares no leg field.
    pub legs: Vec<Vec<Field>>,
    /// Identity of the record: the same for every copy of it, see [`super::decide`].
    pub id: u128,
}

impl Record {
    /// Whole seconds of setup time.
    pub fn setup_seconds(&self) -> i64 {
        self.times.map_or(0, |t| t.setup_ms.div_euclid(1000))
    }

    /// Milliseconds from the first 18x to the final reply; `None` if there was no 18x.
    pub fn ring_ms(&self) -> Option<i64> {
        Some(self.times?.setup_ms.saturating_sub(i64::from(self.signalling.pdd_ms?)).max(0))
    }

    /// Call duration in seconds, rounded up.
    pub fn duration_seconds(&self) -> i64 {
        let ms = self.duration_ms.unwrap_or(0).max(0);
        ms / 1000 + i64::from(ms % 1000 != 0)
    }

    /// Number of rows: one per leg, and at least one for every record.
    pub fn rows(&self) -> usize {
        self.legs.len().max(1)
    }

    /// Values built into every record: a field whose tag is one of these names gets them
    /// unless the script sets it, and SQL writes them if the table has such a column.
    pub fn own_value(&self, name: &str) -> Option<Vec<u8>> {
        match name {
            ACC_ID => Some(format!("{:032x}", self.id).into_bytes()),
            END_CAUSE => self.end.map(|e| e.cause().as_bytes().to_vec()),
            END_SIDE => self.end.map(|e| e.side().as_bytes().to_vec()),
            PDD_MS => self.signalling.pdd_ms.map(|ms| ms.to_string().into_bytes()),
            RING_MS => self.ring_ms().map(|ms| ms.to_string().into_bytes()),
            END_REASON => Some(self.signalling.end_reason.clone()).filter(|reason| !reason.is_empty()),
            ATTEMPTS => Some(self.signalling.attempts).filter(|n| *n > 0).map(|n| n.to_string().into_bytes()),
            _ => None,
        }
    }

    /// It says that a call is up, and nothing that a later record does not say as well.
    pub fn is_interim(&self) -> bool {
        self.kind == Kind::Interim && self.end.is_none()
    }

    /// The moment it describes: for a call that is up the time of the record, for a CDR the answer.
    pub fn timestamp(&self) -> Wall {
        let later = if self.kind == Kind::Interim { self.duration_ms.unwrap_or(0).saturating_mul(1000) } else { 0 };
        Wall(self.time.0.saturating_add(later))
    }

    /// Key of the record's call, see [`super::context::Context::call_key`].
    pub fn call_key(&self) -> u128 {
        let created = self.times.map_or(self.time, |t| t.created);
        call_key(&self.core.callid, &self.core.from_tag, &self.core.to_tag, created)
    }

    /// Identity of the CDR of the call that a start or interim record belongs to.
    pub fn id_of_cdr(&self) -> u128 {
        let moment = |wall| Moment { wall, ..Moment::default() };
        of_event(Kind::Cdr, &self.core, moment(self.times.map_or(self.time, |t| t.created)), moment(self.time))
    }

    /// The call of an encoded start or interim record; `None` for any other record.
    pub fn report_of(encoded: &[u8]) -> Option<Box<Record>> {
        let kind = match encoded {
            [ENCODING_WITH_SHAPE, _, kind, ..] => Kind::from_index(*kind)?,
            _ => return None,
        };
        if kind.is_report() { Record::decode(encoded).map(Box::new) } else { None }
    }

    /// Appends the journal encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let version = version_of(self.shape, self.kind);
        out.push(version);
        if version == ENCODING_WITH_SHAPE {
            out.push(self.shape as u8);
        }
        out.push(self.kind as u8);
        out.push(self.backend as u8);
        let has_signalling = self.signalling != Signalling::default();
        let flags = [
            (self.in_dialog, IN_DIALOG),
            (self.times.is_some(), TIMES),
            (self.duration_ms.is_some(), DURATION),
            (self.end.is_some(), END),
            (has_signalling, SIGNALLING),
            (self.reported, REPORTED),
        ];
        out.push(flags.iter().filter(|(on, _)| *on).fold(0, |f, (_, bit)| f | bit));
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.time.0.to_le_bytes());
        if let Some(t) = self.times {
            out.extend_from_slice(&t.created.0.to_le_bytes());
            out.extend_from_slice(&t.setup_ms.to_le_bytes());
        }
        if let Some(d) = self.duration_ms {
            out.extend_from_slice(&d.to_le_bytes());
        }
        if let Some(e) = self.end {
            out.push(e as u8);
        }
        if has_signalling {
            // 0 is none.
            let pdd = self.signalling.pdd_ms.map_or(0, |ms| ms.saturating_add(1));
            out.extend_from_slice(&pdd.to_le_bytes());
            out.push(self.signalling.attempts);
            put_bytes(out, &self.signalling.end_reason);
        }
        put_bytes(out, self.table.as_bytes());
        for v in self.core.values() {
            put_bytes(out, v);
        }
        put_fields(out, &self.extras);
        put_len(out, self.legs.len());
        for leg in &self.legs {
            put_fields(out, leg);
        }
    }

    /// Reads what [`Record::encode`] wrote; `None` for anything else.
    pub fn decode(input: &[u8]) -> Option<Record> {
        let mut r = Reader(input);
        let version = r.u8()?;
        let shape = match version {
            ENCODING => Shape::Context,
            ENCODING_WITH_SHAPE => Shape::from_index(r.u8()?)?,
            _ => return None,
        };
        let kind = Kind::from_index(r.u8()?)?;
        if version != version_of(shape, kind) {
            return None;
        }
        let backend = Backend::from_number(r.u8()?)?;
        let flags = r.u8()?;
        let id = u128::from_le_bytes(r.array()?);
        let time = Wall(r.i64()?);
        let times = match flags & TIMES {
            0 => None,
            _ => Some(Times { created: Wall(r.i64()?), setup_ms: r.i64()? }),
        };
        let duration_ms = match flags & DURATION {
            0 => None,
            _ => Some(r.i64()?),
        };
        let end = match flags & END {
            0 => None,
            _ => Some(EndCause::from_index(r.u8()?)?),
        };
        let signalling = match flags & SIGNALLING {
            0 => Signalling::default(),
            _ => Some(Signalling { pdd_ms: r.u32()?.checked_sub(1), attempts: r.u8()?, end_reason: r.bytes()?.to_vec() })
                .filter(|s| *s != Signalling::default())?,
        };
        let table = Arc::from(r.text()?);
        let core = Core {
            method: r.bytes()?.to_vec(),
            from_tag: r.bytes()?.to_vec(),
            to_tag: r.bytes()?.to_vec(),
            callid: r.bytes()?.to_vec(),
            code: r.bytes()?.to_vec(),
            reason: r.bytes()?.to_vec(),
        };
        let extras = fields(&mut r)?;
        let n = r.len()?;
        // Each leg takes at least the bytes of its count, so a hostile count cannot reserve memory.
        let mut legs: Vec<Vec<Field>> = Vec::with_capacity(n.min(r.0.len() / 4));
        for _ in 0..n {
            let leg = fields(&mut r)?;
            // A leg without values is not a row, and all rows have the same columns.
            if leg.is_empty() || legs.first().is_some_and(|first| first.len() != leg.len()) {
                return None;
            }
            legs.push(leg);
        }
        if !r.0.is_empty() {
            return None;
        }
        let (in_dialog, reported) = (flags & IN_DIALOG != 0, flags & REPORTED != 0);
        Some(Record { kind, shape, backend, table, core, time, times, duration_ms, end, signalling, reported, in_dialog, extras, legs, id })
    }
}

/// Version of the encoding, its first byte.
const ENCODING: u8 = 1;
/// Version of the encoding of a record with a [`Shape`], which is the second byte.
const ENCODING_WITH_SHAPE: u8 = 2;
const IN_DIALOG: u8 = 1;
const TIMES: u8 = 2;
const DURATION: u8 = 4;
const END: u8 = 8;
const SIGNALLING: u8 = 16;
const REPORTED: u8 = 32;
/// A length that stands for "no value".
const UNSET: u32 = u32::MAX;

/// A build without shapes reads version 1 and skips version 2; every record has one of the two.
fn version_of(shape: Shape, kind: Kind) -> u8 {
    if shape == Shape::Context && kind != Kind::Ack && !kind.is_report() { ENCODING } else { ENCODING_WITH_SHAPE }
}

fn put_fields(out: &mut Vec<u8>, fields: &[Field]) {
    put_len(out, fields.len());
    for f in fields {
        put_bytes(out, f.name.as_bytes());
        match &f.value {
            Some(v) => put_bytes(out, v),
            None => out.extend_from_slice(&UNSET.to_le_bytes()),
        }
    }
}

fn fields(r: &mut Reader<'_>) -> Option<Vec<Field>> {
    let n = r.len()?;
    // Each field takes at least its two lengths, so a hostile count cannot reserve memory.
    let mut out = Vec::with_capacity(n.min(r.0.len() / 8));
    for _ in 0..n {
        let name = Arc::from(r.text()?);
        let value = match r.u32()? {
            UNSET => None,
            len => Some(r.take(len as usize)?.to_vec()),
        };
        out.push(Field { name, value });
    }
    Some(out)
}

/// The same event always gets the same identity, in every process, after a restart, and in a copy.
pub(crate) fn of_event(kind: Kind, core: &Core, created: Moment, time: Moment) -> u128 {
    begin_event(kind, core, created, time).finish()
}

/// The same for an event that is told from others by more than these values.
pub(crate) fn begin_event(kind: Kind, core: &Core, created: Moment, time: Moment) -> Identity {
    let mut id = Identity::new();
    id.eat(&[kind as u8]);
    for part in [&core.method, &core.from_tag, &core.to_tag, &core.callid] {
        id.eat(part);
    }
    id.eat(&created.wall.0.to_le_bytes());
    id.eat(&time.wall.0.to_le_bytes());
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field() -> impl Strategy<Value = Field> {
        ("[a-z_]{1,12}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40))).prop_map(|(name, value)| Field { name: Arc::from(name), value })
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..50)
    }

    prop_compose! {
        fn signalling()(pdd_ms in proptest::option::of(0..u32::MAX), attempts in any::<u8>(), end_reason in bytes()) -> Signalling {
            Signalling { pdd_ms, attempts, end_reason }
        }
    }

    prop_compose! {
        fn record()(kind in 0u8..7, shape in 0u8..5, backend in 0u8..5, table in "[a-z]{0,8}", core in (bytes(), bytes(), bytes(), bytes(), bytes(), bytes()),
                    time in any::<i64>(), times in proptest::option::of((any::<i64>(), any::<i64>())), duration_ms in proptest::option::of(any::<i64>()),
                    end in proptest::option::of(0u8..5), in_dialog in any::<bool>(), signalling in signalling(), reported in any::<bool>(), extras in proptest::collection::vec(field(), 0..5),
                    legs in (1usize..3).prop_flat_map(|n| proptest::collection::vec(proptest::collection::vec(field(), n), 0..4)), id in any::<u128>()) -> Record {
            Record {
                kind: Kind::from_index(kind).unwrap(), shape: Shape::from_index(shape).unwrap(), backend: Backend::from_number(backend).unwrap(), table: Arc::from(table),
                core: Core { method: core.0, from_tag: core.1, to_tag: core.2, callid: core.3, code: core.4, reason: core.5 },
                time: Wall(time), times: times.map(|(c, s)| Times { created: Wall(c), setup_ms: s }), duration_ms, end: end.and_then(EndCause::from_index), signalling, reported, in_dialog, extras, legs, id,
            }
        }
    }

    proptest! {
        #[test]
        fn decode_reverses_encode(r in record()) {
            let mut out = Vec::new();
            r.encode(&mut out);
            prop_assert_eq!(Record::decode(&out), Some(r));
        }

        #[test]
        fn every_proper_prefix_is_refused(r in record(), cut in any::<prop::sample::Index>()) {
            let mut out = Vec::new();
            r.encode(&mut out);
            let cut = cut.index(out.len());
            prop_assert_eq!(Record::decode(&out[..cut]), None);
        }

        #[test]
        fn hostile_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::decode(&b);
        }
    }

    /// A frame of 16 MiB like this would otherwise become millions of rows.
    #[test]
    fn legs_have_values_and_all_the_same_ones() {
        let field = |name: &str| Field { name: name.into(), value: None };
        for legs in [vec![vec![], vec![]], vec![vec![field("a")], vec![]], vec![vec![field("a")], vec![field("a"), field("b")]]] {
            let mut out = Vec::new();
            Record { legs, ..of_nothing() }.encode(&mut out);
            assert_eq!(Record::decode(&out), None);
        }
    }

    fn of_nothing() -> Record {
        Record {
            kind: Kind::Cdr,
            shape: Shape::Context,
            backend: Backend::Log,
            table: "".into(),
            core: Core::default(),
            time: Wall(0),
            times: None,
            duration_ms: Some(1400),
            end: None,
            signalling: Signalling::default(),
            reported: false,
            in_dialog: false,
            extras: vec![],
            legs: vec![],
            id: 0,
        }
    }

    #[test]
    fn duration_is_rounded_up() {
        let mut r = of_nothing();
        for (ms, s) in [(0, 0), (1, 1), (1000, 1), (1001, 2), (1400, 2), (1600, 2)] {
            r.duration_ms = Some(ms);
            assert_eq!(r.duration_seconds(), s, "{ms} ms");
        }
    }

    proptest! {
        #[test]
        fn impossible_times_ring_for_no_time(mut r in record()) {
            r.signalling.pdd_ms = Some(5);
            for (setup_ms, rings) in [(i64::MIN, 0), (3, 0), (7, 2), (i64::MAX, i64::MAX - 5)] {
                r.times = Some(Times { created: Wall(0), setup_ms });
                prop_assert_eq!(r.ring_ms(), Some(rings));
            }
        }
    }
}
