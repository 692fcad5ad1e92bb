//! CDRs that every dialog has (Kamailio's `cdr_enable`), whatever is accounted otherwise: start, end, duration,
//! and extras.
#![forbid(unsafe_code)]

use std::sync::Arc;

use chrono::DateTime;

use super::clock::{Moment, Wall};
use super::context::{CallEnd, Context, DIALOG};
use super::marks::{Flag, Marks, Types};
use super::record::{Backend, Core, EndCause, Field, Kind, Record, Shape, of_event};
use super::rules::{DialogCdrs, Precision, Rules};

/// Start, end and duration of a call, in microseconds. The end is the start and the duration: a clock that was set
/// meanwhile changes neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Since 1970.
    pub start: i64,
    /// Since 1970.
    pub end: i64,
    /// Between them.
    pub duration: i64,
}

impl Span {
    /// That from a moment on. As in the original, the duration lies between the two moments as they are shown.
    pub fn new(precision: Precision, start: Moment, micros: i64) -> Span {
        let (from, to) = (precision.cut(start.wall.0), precision.cut(start.wall.0.saturating_add(micros.max(0))));
        Span { start: from, end: to, duration: to - from }
    }
}

/// The dialog has the variable of `cdr_skip`.
const SKIPPED: &[u8] = b"#skipped";
/// As above, of `json_cdr_skip`.
const JSON_SKIPPED: &[u8] = b"#jsonskipped";

/// Where such CDRs go.
fn types(cdrs: &DialogCdrs) -> Types {
    let on = [(Backend::Log, cdrs.log), (Backend::Db, cdrs.table.is_some()), (Backend::Json, cdrs.json.is_some())];
    Types(on.iter().filter(|(_, on)| *on).fold(0, |types, (b, _)| types | Types::one(*b).0))
}

/// A dialog begins with this request.
pub fn begin(cdrs: &DialogCdrs, core: Core, now: Moment) -> Context {
    let mut ctx = Context::new(now, false);
    (ctx.marked, ctx.core, ctx.marks) = (true, core, Marks::default().add(types(cdrs), Flag::Cdr.only()));
    ctx.put_extra(DIALOG, Some(b"1"), usize::MAX);
    ctx
}

/// It has no CDR if a dialog variable says so, as long as it is there: `has` tells which there are.
pub fn skip(cdrs: &DialogCdrs, ctx: &mut Context, has: impl Fn(&str) -> bool) {
    let of_json = cdrs.json.as_ref().and_then(|j| j.skip.as_ref());
    for (key, variable) in [(SKIPPED, cdrs.skip.as_ref()), (JSON_SKIPPED, of_json)] {
        let is_there = variable.is_some_and(|v| has(v));
        if is_there || ctx.extra.has(key) {
            ctx.put_extra(key, is_there.then_some(b"1"), usize::MAX);
        }
    }
}

/// When it starts, for its CDR.
pub fn start(cdrs: &DialogCdrs, ctx: &Context) -> Moment {
    ctx.answered.filter(|_| cdrs.from_answer).unwrap_or(ctx.arrived)
}

/// The end of an answered dialog that is not closed: its CDRs.
pub fn end(rules: &Rules, ctx: &Context) -> Option<CallEnd> {
    let (Some(answered), Some((ended, cause)), false) = (ctx.answered, ctx.ended, ctx.closed) else { return None };
    let cdrs = rules.dialog_cdrs.as_ref();
    let is_silent = matches!(cause, EndCause::Timeout | EndCause::Orphan);
    let records = cdrs.map_or_else(Vec::new, |cdrs| {
        let start = start(cdrs, ctx);
        let mut all = records(rules, cdrs, ctx, start, ended.micros_since(start), Some(cause));
        all.retain(|r| !is_silent || !cdrs.is_silent(r.backend));
        all
    });
    Some(CallEnd { call: ctx.call_key(), dialog: ctx.dialog.clone(), answered: Some(answered), duration_ms: Some(ended.millis_since(answered)), records })
}

/// The CDRs of a dialog that was never answered, once: no time is between its beginning and its end.
pub fn failed(rules: &Rules, ctx: &mut Context) -> Vec<Record> {
    let Some(cdrs) = rules.dialog_cdrs.as_ref().filter(|c| c.failed && !ctx.closed) else { return Vec::new() };
    ctx.closed = true;
    records(rules, cdrs, ctx, ctx.arrived, 0, None)
}

fn records(rules: &Rules, cdrs: &DialogCdrs, ctx: &Context, start: Moment, micros: i64, end: Option<EndCause>) -> Vec<Record> {
    let id = of_event(Kind::Cdr, &ctx.core, ctx.arrived, start);
    let span = Span::new(cdrs.precision, start, micros);
    let utc = |micros: i64| DateTime::from_timestamp_micros(micros).unwrap_or_default().format("%Y-%m-%d %H:%M:%S").to_string().into_bytes();
    let record = |backend: Backend| {
        let is_db = backend == Backend::Db;
        // In SQL they are dates, which SQL writes in local time.
        let instant = |micros: i64| if is_db && cdrs.utc { utc(micros) } else { cdrs.precision.text(micros) };
        // As the original has it, which sets this one at the beginning of a dialog.
        let duration = if end.is_some() { cdrs.precision.text(span.duration) } else { b"0".to_vec() };
        let own = [instant(span.start), instant(span.end), duration];
        let mut extras: Vec<_> = cdrs.names.iter().zip(own).map(|(name, value)| Field { name: Arc::clone(name), value: Some(value) }).collect();
        let extra = cdrs.json.as_ref().filter(|_| backend == Backend::Json).map_or(&cdrs.extra, |j| &j.extra);
        extras.extend(extra.iter().map(|named| {
            let key = rules.fields.flags.variables[named.value].key.as_bytes();
            let value = ctx.extra.get(key).map(<[u8]>::to_vec);
            Field { name: Arc::clone(&named.name), value: if is_db && !cdrs.nullable { Some(value.unwrap_or_default()) } else { value } }
        }));
        Record {
            kind: Kind::Cdr,
            shape: Shape::Dialog,
            backend,
            table: cdrs.table.clone().filter(|_| is_db).unwrap_or_else(|| "".into()),
            core: ctx.core.clone(),
            time: Wall(span.start),
            times: None,
            duration_ms: Some(span.duration / 1000),
            end,
            signalling: ctx.signalling(),
            reported: false,
            in_dialog: false,
            extras,
            legs: Vec::new(),
            id,
        }
    };
    let is_due = |b: &Backend| ctx.extra.get(if *b == Backend::Json { JSON_SKIPPED } else { SKIPPED }).is_none();
    types(cdrs).iter().filter(is_due).map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_gone_skips_nothing() {
        let cdrs = DialogCdrs {
            json: None,
            log: true,
            facility: 0,
            table: None,
            names: ["s", "e", "d"].map(Arc::from),
            from_answer: false,
            expired: false,
            failed: true,
            skip: Some("no".into()),
            extra: Vec::new(),
            nullable: false,
            utc: false,
            precision: Precision::default(),
        };
        let written = |seen: &[bool]| {
            let mut ctx = begin(&cdrs, Core::default(), Moment::now());
            seen.iter().for_each(|is_there| skip(&cdrs, &mut ctx, |name| *is_there && name == "no"));
            failed(&Rules { dialog_cdrs: Some(cdrs.clone()), ..Rules::default() }, &mut ctx).len()
        };
        assert_eq!([written(&[false]), written(&[true]), written(&[true, false]), written(&[false, true])], [1, 0, 1, 0]);
    }

    #[test]
    fn spans_are_as_exact_as_they_are_shown() {
        let start = Moment { wall: Wall(1_700_000_000_999_900), ..Moment::default() };
        for (precision, want) in [
            (Precision::Seconds, ["1700000000.0", "1700000002.0", "2.0"]),
            (Precision::Millis, ["1700000000.999", "1700000002.100", "1.101"]),
            (Precision::Micros, ["1700000000.999900", "1700000002.100123", "1.100223"]),
        ] {
            let span = Span::new(precision, start, 1_100_223);
            let shown = [span.start, span.end, span.duration].map(|n| String::from_utf8(precision.text(n)).unwrap());
            assert_eq!(shown, want, "{precision:?}");
        }
        assert_eq!(Span::new(Precision::Millis, start, -5).duration, 0);
    }
}
