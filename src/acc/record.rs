//! A record: what one backend has to write about one event, and its journal encoding.
//!
//! The encoding is little-endian with explicit lengths, so that a journal written by one
//! build is readable by the next.

use std::sync::Arc;

use super::context::EndCause;
use super::wire::{Reader, put_bytes, put_len};

/// The backends a call can be accounted to, in the order their marks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Backend {
    /// Lines in the host's log.
    Log = 0,
    /// RADIUS Accounting-Requests (RFC 2866).
    Aaa = 1,
    /// Rows in a SQL table.
    Db = 2,
    /// Events of the host's event interface.
    Evi = 3,
}

impl Backend {
    /// Every backend.
    pub const ALL: [Backend; 4] = [Backend::Log, Backend::Aaa, Backend::Db, Backend::Evi];

    /// The name used in scripts and parameters.
    pub const fn name(self) -> &'static str {
        match self {
            Backend::Log => "log",
            Backend::Aaa => "aaa",
            Backend::Db => "db",
            Backend::Evi => "evi",
        }
    }

    /// The backend whose number is `n`.
    pub const fn from_index(n: u8) -> Option<Backend> {
        match n {
            0 => Some(Backend::Log),
            1 => Some(Backend::Aaa),
            2 => Some(Backend::Db),
            3 => Some(Backend::Evi),
            _ => None,
        }
    }
}

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
}

impl Kind {
    const fn from_index(n: u8) -> Option<Kind> {
        match n {
            0 => Some(Kind::Transaction),
            1 => Some(Kind::Missed),
            2 => Some(Kind::Manual),
            3 => Some(Kind::Cdr),
            _ => None,
        }
    }
}

/// Wall clock time in microseconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall(pub i64);

impl Wall {
    /// Whole seconds since 1970, rounded towards the past.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

/// The core values, in the order in which every backend writes them.
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
    /// Three digits of the reply, empty when there is none.
    pub code: Vec<u8>,
    /// Reason phrase.
    pub reason: Vec<u8>,
}

impl Core {
    /// The values in record order.
    pub fn values(&self) -> [&[u8]; 6] {
        [&self.method, &self.from_tag, &self.to_tag, &self.callid, &self.code, &self.reason]
    }

    /// The reply code as a number, 0 when there is none.
    pub fn code_number(&self) -> u16 {
        std::str::from_utf8(&self.code).ok().and_then(|s| s.parse().ok()).unwrap_or(0)
    }
}

/// One extra or leg value under the name its backend uses (column, attribute, pair, parameter).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in the backend.
    pub name: Arc<str>,
    /// Value; `None` is unset (SQL NULL, empty pair, omitted attribute, null parameter).
    pub value: Option<Vec<u8>>,
}

/// The accounting context's part of a record; records without context have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Arrival of the initial request that was marked (D1).
    pub created: Wall,
    /// Milliseconds from `created` to the answer or final reply, by the monotonic clock.
    pub setup_ms: i64,
}

/// Identity of the record, 32 hexadecimal digits: the same for every copy of it.
pub const ACC_ID: &str = "acc_id";
/// Why the call ended: bye, proxy, timeout or orphan (CDR only).
pub const END_CAUSE: &str = "end_cause";
/// Who ended the call: caller, callee or proxy (CDR only).
pub const END_SIDE: &str = "end_side";

/// What one backend writes about one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub kind: Kind,
    /// Where it is written.
    pub backend: Backend,
    /// SQL table (`Backend::Db` only, else empty).
    pub table: Arc<str>,
    /// Method, tags, Call-ID, code, reason.
    pub core: Core,
    /// Completion of the request; for a CDR the answer (call start).
    pub time: Wall,
    /// Creation and setup; `None` for a record without accounting context.
    pub times: Option<Times>,
    /// Milliseconds from the answer to the end, monotonic (CDR only).
    pub duration_ms: Option<i64>,
    /// How the call ended (CDR only).
    pub end: Option<EndCause>,
    /// The request had a To tag (RADIUS tells Start, Stop, Alive and Failed by it).
    pub in_dialog: bool,
    /// Extra values in declaration order.
    pub extras: Vec<Field>,
    /// Leg values, one list for each leg; empty when the backend declares no leg field.
    pub legs: Vec<Vec<Field>>,
    /// Identity of the record: the same for every copy of it, see [`super::decide`].
    pub id: u128,
}

impl Record {
    /// Whole seconds of setup time.
    pub fn setup_seconds(&self) -> i64 {
        self.times.map_or(0, |t| t.setup_ms.div_euclid(1000))
    }

    /// Call duration in seconds, rounded up.
    pub fn duration_seconds(&self) -> i64 {
        let ms = self.duration_ms.unwrap_or(0).max(0);
        ms / 1000 + i64::from(ms % 1000 != 0)
    }

    /// Length of one leg's row set: at least one row is written for every record.
    pub fn rows(&self) -> usize {
        self.legs.len().max(1)
    }

    /// Values that every record has of its own: a field whose tag is one of these names gets them
    /// unless the script set it, and SQL writes them where the table has such a column.
    pub fn own_value(&self, name: &str) -> Option<Vec<u8>> {
        match name {
            ACC_ID => Some(format!("{:032x}", self.id).into_bytes()),
            END_CAUSE => self.end.map(|e| e.cause().as_bytes().to_vec()),
            END_SIDE => self.end.map(|e| e.side().as_bytes().to_vec()),
            _ => None,
        }
    }

    /// Appends the journal encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(ENCODING);
        out.push(self.kind as u8);
        out.push(self.backend as u8);
        out.push(
            u8::from(self.in_dialog) | u8::from(self.times.is_some()) << 1 | u8::from(self.duration_ms.is_some()) << 2 | u8::from(self.end.is_some()) << 3,
        );
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
        if r.u8()? != ENCODING {
            return None;
        }
        let kind = Kind::from_index(r.u8()?)?;
        let backend = Backend::from_index(r.u8()?)?;
        let flags = r.u8()?;
        let id = u128::from_le_bytes(r.array()?);
        let time = Wall(r.i64()?);
        let times = match flags & 2 {
            0 => None,
            _ => Some(Times { created: Wall(r.i64()?), setup_ms: r.i64()? }),
        };
        let duration_ms = match flags & 4 {
            0 => None,
            _ => Some(r.i64()?),
        };
        let end = match flags & 8 {
            0 => None,
            _ => Some(EndCause::from_index(r.u8()?)?),
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
        // Each leg takes at least its own count: a hostile count cannot reserve memory.
        let mut legs = Vec::with_capacity(n.min(r.0.len() / 4));
        for _ in 0..n {
            legs.push(fields(&mut r)?);
        }
        if !r.0.is_empty() {
            return None;
        }
        Some(Record { kind, backend, table, core, time, times, duration_ms, end, in_dialog: flags & 1 != 0, extras, legs, id })
    }
}

/// Version of the encoding, its first byte.
const ENCODING: u8 = 1;
/// A length that stands for "no value".
const UNSET: u32 = u32::MAX;

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
    // Each field takes at least its two lengths: a hostile count cannot reserve memory.
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
        fn record()(kind in 0u8..4, backend in 0u8..4, table in "[a-z]{0,8}", core in (bytes(), bytes(), bytes(), bytes(), bytes(), bytes()),
                    time in any::<i64>(), times in proptest::option::of((any::<i64>(), any::<i64>())), duration_ms in proptest::option::of(any::<i64>()),
                    end in proptest::option::of(0u8..5), in_dialog in any::<bool>(), extras in proptest::collection::vec(field(), 0..5),
                    legs in proptest::collection::vec(proptest::collection::vec(field(), 0..3), 0..4), id in any::<u128>()) -> Record {
            Record {
                kind: Kind::from_index(kind).unwrap(), backend: Backend::from_index(backend).unwrap(), table: Arc::from(table),
                core: Core { method: core.0, from_tag: core.1, to_tag: core.2, callid: core.3, code: core.4, reason: core.5 },
                time: Wall(time), times: times.map(|(c, s)| Times { created: Wall(c), setup_ms: s }), duration_ms, end: end.and_then(EndCause::from_index), in_dialog, extras, legs, id,
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

    #[test]
    fn duration_is_rounded_up() {
        let mut r = Record {
            kind: Kind::Cdr,
            backend: Backend::Log,
            table: "".into(),
            core: Core::default(),
            time: Wall(0),
            times: None,
            duration_ms: Some(1400),
            end: None,
            in_dialog: false,
            extras: vec![],
            legs: vec![],
            id: 0,
        };
        for (ms, s) in [(0, 0), (1, 1), (1000, 1), (1001, 2), (1400, 2), (1600, 2)] {
            r.duration_ms = Some(ms);
            assert_eq!(r.duration_seconds(), s, "{ms} ms");
        }
    }
}
