//! Imports the state that the original module stores in a dialog's values, so that calls in
//! progress survive the swap.
//!
//! | value | layout (little-endian) |
//! |---|---|
//! | `accX_created` | seconds since 1970, i64 |
//! | `accX_flags` | u64: one byte per backend; bits on, cdr, missed, failed |
//! | `accX_table` | the table's name |
//! | `accX_core` | six times u16 length and bytes, then u16 16 and the answer as i64 seconds, i64 µs |
//! | `accX_extra` | u16 count, then for each value u16 length and bytes, by position |
//! | `accX_leg` | u16 fields, u16 legs, then for each leg its fields as in `accX_extra` |
#![forbid(unsafe_code)]

use super::clock::{Moment, Wall};
use super::context::{Context, Facts, Head, Values};
use super::fields::Fields;
use super::marks::{Flag, Marks};
use super::record::{Backend, Core};
use super::wire::Reader;

/// Names of the original's dialog values.
pub const FLAGS: &str = "accX_flags";
/// Arrival time.
pub const CREATED: &str = "accX_created";
/// SQL table.
pub const TABLE: &str = "accX_table";
/// Core values and answer time.
pub const CORE: &str = "accX_core";
/// Extra values.
pub const EXTRA: &str = "accX_extra";
/// Leg values.
pub const LEG: &str = "accX_leg";

/// Rebuilds a context; `fetch` returns a dialog value by name. `None` when the dialog was not
/// accounted by the original, or its state cannot be read.
pub fn import(fields: &Fields, mut fetch: impl FnMut(&str) -> Option<Vec<u8>>) -> Option<Context> {
    let flags = u64::from_le_bytes(fetch(FLAGS)?.try_into().ok()?);
    let created = i64::from_le_bytes(fetch(CREATED)?.try_into().ok()?);
    let (core, answered) = core(&fetch(CORE)?)?;
    Some(Context {
        head: Head {
            facts: Facts { marks: marks(flags), marked: true, answered: Some(answered), ..Facts::default() },
            table: fetch(TABLE).unwrap_or_default(),
            arrived: wall_moment(created.saturating_mul(1_000_000)),
            core,
            dialog: Vec::new(),
        },
        extra: fetch(EXTRA).and_then(|v| extra(fields, &v)).unwrap_or_default(),
        legs: fetch(LEG).and_then(|v| legs(fields, &v)).unwrap_or_default(),
    })
}

/// The original only has the wall clock; boot 0 makes durations use it.
const fn wall_moment(micros: i64) -> Moment {
    Moment { wall: Wall(micros), mono: 0, boot: 0 }
}

/// One byte for each backend; events are byte 3, in 3.4 byte 4. In the original a CDR anywhere
/// is a CDR everywhere.
fn marks(flags: u64) -> Marks {
    let bytes = flags.to_le_bytes();
    let mut out = Marks::default();
    let sources = [(Backend::Log, bytes[0]), (Backend::Aaa, bytes[1]), (Backend::Db, bytes[2]), (Backend::Evi, bytes[3] | bytes[4])];
    for (backend, byte) in sources {
        let on = byte & 1;
        let missed_failed = byte & (1 << Flag::Missed as u8 | 1 << Flag::Failed as u8);
        out = out.with(backend, on * (missed_failed | 1 << Flag::On as u8 | 1 << Flag::Cdr as u8));
    }
    out
}

fn short_bytes(r: &mut Reader<'_>) -> Option<Vec<u8>> {
    let n = usize::from(r.u16()?);
    Some(r.take(n)?.to_vec())
}

fn core(v: &[u8]) -> Option<(Core, Moment)> {
    let mut r = Reader(v);
    let core = Core {
        method: short_bytes(&mut r)?,
        from_tag: short_bytes(&mut r)?,
        to_tag: short_bytes(&mut r)?,
        callid: short_bytes(&mut r)?,
        code: short_bytes(&mut r)?,
        reason: short_bytes(&mut r)?,
    };
    if r.u16()? != 16 {
        return None;
    }
    let (seconds, micros) = (r.i64()?, r.i64()?);
    Some((core, wall_moment(seconds.saturating_mul(1_000_000).saturating_add(micros))))
}

/// The original stores by position: values are assigned to tags in the order they are declared now;
/// values without a tag are left out.
fn positional(r: &mut Reader<'_>, tags: &[std::sync::Arc<str>], n: usize) -> Option<Values> {
    let mut out = Values::default();
    for i in 0..n {
        let v = short_bytes(r)?;
        if let (Some(tag), false) = (tags.get(i), v.is_empty()) {
            out.set(tag.as_bytes(), Some(&v));
        }
    }
    Some(out)
}

fn extra(fields: &Fields, v: &[u8]) -> Option<Values> {
    let mut r = Reader(v);
    let n = usize::from(r.u16()?);
    positional(&mut r, &fields.extra.tags, n)
}

fn legs(fields: &Fields, v: &[u8]) -> Option<Vec<Values>> {
    let mut r = Reader(v);
    let (per_leg, n) = (usize::from(r.u16()?), usize::from(r.u16()?));
    // Legs without fields take no bytes: a damaged count could make 65 535 rows of nothing.
    if per_leg == 0 {
        return Some(Vec::new());
    }
    let mut out = Vec::with_capacity(n.min(r.0.len() / 2));
    for _ in 0..n {
        out.push(positional(&mut r, &fields.leg.tags, per_leg)?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn fields() -> Fields {
        let mut f = Fields::default();
        f.extra.add("log:a;b;c").unwrap();
        f.leg.add("log:x;y").unwrap();
        f
    }

    fn strings(items: &[&str]) -> Vec<u8> {
        items.iter().flat_map(|s| (s.len() as u16).to_le_bytes().into_iter().chain(s.bytes())).collect()
    }

    fn state() -> HashMap<&'static str, Vec<u8>> {
        let mut core = strings(&["INVITE", "ft", "tt", "call-1", "200", "OK"]);
        core.extend(16u16.to_le_bytes());
        core.extend(1_700_000_003i64.to_le_bytes());
        core.extend(250_000i64.to_le_bytes());
        let mut extra = 3u16.to_le_bytes().to_vec();
        extra.extend(strings(&["1", "", "3"]));
        let mut leg = [2u16.to_le_bytes(), 2u16.to_le_bytes()].concat();
        leg.extend(strings(&["x0", "y0", "", "y1"]));
        HashMap::from([
            (FLAGS, 0x0000_0000_0105_0003_u64.to_le_bytes().to_vec()),
            (CREATED, 1_700_000_000i64.to_le_bytes().to_vec()),
            (TABLE, b"acc_alt".to_vec()),
            (CORE, core),
            (EXTRA, extra),
            (LEG, leg),
        ])
    }

    #[test]
    fn a_call_of_the_original_is_taken_over() {
        let s = state();
        let c = import(&fields(), |name| s.get(name).cloned()).unwrap();
        assert_eq!(c.marks.cdr().collect::<Vec<_>>(), [Backend::Db, Backend::Log, Backend::Evi]);
        assert!(c.marks.has(Backend::Db, Flag::Missed) && !c.marks.has(Backend::Log, Flag::Missed));
        assert_eq!(c.table, b"acc_alt");
        assert_eq!(c.arrived.wall, Wall(1_700_000_000_000_000));
        assert_eq!(c.answered.unwrap().wall, Wall(1_700_000_003_250_000));
        assert_eq!((&c.core.callid[..], &c.core.code[..]), (&b"call-1"[..], &b"200"[..]));
        assert_eq!((c.extra.get(b"a"), c.extra.get(b"b"), c.extra.get(b"c")), (Some(&b"1"[..]), None, Some(&b"3"[..])));
        assert_eq!(c.legs.len(), 2);
        assert_eq!((c.legs[0].get(b"x"), c.legs[1].get(b"x"), c.legs[1].get(b"y")), (Some(&b"x0"[..]), None, Some(&b"y1"[..])));
    }

    #[test]
    fn events_of_3_4_are_found_in_their_own_byte() {
        assert_eq!(marks(0x0000_0001_0000_0000).cdr().collect::<Vec<_>>(), [Backend::Evi]);
    }

    #[test]
    fn a_dialog_without_accounting_is_none() {
        assert_eq!(import(&fields(), |_| None), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(flags in any::<[u8; 8]>(), created in any::<[u8; 8]>(), core in proptest::collection::vec(any::<u8>(), 0..80),
                                       extra in proptest::collection::vec(any::<u8>(), 0..40), leg in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut s = state();
            s.insert(FLAGS, flags.to_vec());
            s.insert(CREATED, created.to_vec());
            s.insert(EXTRA, extra);
            s.insert(LEG, leg);
            let _ = import(&fields(), |name| s.get(name).cloned());
            s.insert(CORE, core);
            let _ = import(&fields(), |name| s.get(name).cloned());
        }
    }
}
