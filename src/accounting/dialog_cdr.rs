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
    /// The one that begins at `start`. As in the original, the duration is the difference of the two times as they are shown.
    pub fn new(precision: Precision, start: Moment, micros: i64) -> Span {
        let (from, to) = (precision.cut(start.wall.0), precision.cut(start.wall.0.saturating_add(micros.max(0))));
        Span { start: from, end: to, duration: to - from }
    }
}

/// The dialog has the variable that `cdr_skip` names.
const SKIPPED: &[u8] = b"#skipped";
/// The dialog has the variable that `json_cdr_skip` names.
const JSON_SKIPPED: &[u8] = b"#jsonskipped";

/// What the script made of the dialog variables of start, end and duration.
const CHANGED: [&[u8]; 3] = [b"#start", b"#end", b"#duration"];

/// The year 10000 in seconds since 1970: dates in SQL end before it.
const END_OF_DATES: i64 = 253_402_300_800;

/// A moment from a dialog variable: seconds since 1970 with one to six decimals. Only its wall clock is known.
pub fn instant(text: &[u8]) -> Option<Moment> {
    let (seconds, digits) = std::str::from_utf8(text).ok()?.split_once('.')?;
    if !matches!(digits.len(), 1..=6) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{digits:0<6}").parse().ok()?;
    let seconds = seconds.parse::<i64>().ok().filter(|seconds| (0..END_OF_DATES).contains(seconds))?;
    Some(Moment { wall: Wall(seconds * 1_000_000 + micros), ..Moment::default() })
}

/// A script may give a call another start, and once it has ended (`is_over`) another end and duration, by setting the
/// dialog's variables, which `variable` reads.
pub fn change(cdrs: &DialogCdrs, ctx: &mut Context, is_over: bool, variable: impl Fn(&str) -> Option<Vec<u8>>) {
    let is_span = |text: &[u8]| std::str::from_utf8(text).is_ok_and(|t| t.parse().is_ok_and(f64::is_finite));
    let keep = |n: usize, own: &[u8], ctx: &mut Context| {
        // A dialog that is being removed has no variables any more: what they said before counts.
        let Some(text) = variable(&cdrs.names[n]) else { return };
        let is_number = if n < 2 { instant(&text).is_some() } else { is_span(&text) };
        let other = Some(text).filter(|text| text != own && is_number);
        if other.is_some() || ctx.extra.has(CHANGED[n]) {
            ctx.put_extra(CHANGED[n], other.as_deref(), usize::MAX);
        }
    };
    keep(0, &cdrs.precision.text(own_start(cdrs, ctx).wall.0), ctx);
    if is_over {
        let start = start(cdrs, ctx);
        let span = Span::new(cdrs.precision, start, ctx.ended.map_or(0, |(ended, _)| ended.micros_since(start)));
        let duration = if ctx.ended.is_some() { cdrs.precision.text(span.duration) } else { b"0".to_vec() };
        keep(1, &cdrs.precision.text(span.end), ctx);
        keep(2, &duration, ctx);
    }
}

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

/// The dialog has no CDR as long as it has a certain variable; `has` says whether it has one of this name.
pub fn skip(cdrs: &DialogCdrs, ctx: &mut Context, has: impl Fn(&str) -> bool) {
    let of_json = cdrs.json.as_ref().and_then(|j| j.skip.as_ref());
    for (key, variable) in [(SKIPPED, cdrs.skip.as_ref()), (JSON_SKIPPED, of_json)] {
        let is_there = variable.is_some_and(|v| has(v));
        if is_there || ctx.extra.has(key) {
            ctx.put_extra(key, is_there.then_some(b"1"), usize::MAX);
        }
    }
}

/// The start of the call in its CDR.
pub fn start(cdrs: &DialogCdrs, ctx: &Context) -> Moment {
    ctx.extra.get(CHANGED[0]).and_then(instant).unwrap_or_else(|| own_start(cdrs, ctx))
}

/// When it really started, whatever the script says.
fn own_start(cdrs: &DialogCdrs, ctx: &Context) -> Moment {
    ctx.answered.filter(|_| cdrs.from_answer).unwrap_or(ctx.arrived)
}

/// The end of an answered dialog that is not yet closed, with its CDRs.
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

/// The CDRs of a dialog that was never answered, once. They begin and end at the same time.
pub fn failed(rules: &Rules, ctx: &mut Context) -> Vec<Record> {
    let Some(cdrs) = rules.dialog_cdrs.as_ref().filter(|c| c.failed && !ctx.closed) else { return Vec::new() };
    ctx.closed = true;
    records(rules, cdrs, ctx, start(cdrs, ctx), 0, None)
}

fn records(rules: &Rules, cdrs: &DialogCdrs, ctx: &Context, start: Moment, micros: i64, end: Option<EndCause>) -> Vec<Record> {
    let id = of_event(Kind::Cdr, &ctx.core, ctx.arrived, start);
    let span = Span::new(cdrs.precision, start, micros);
    let utc = |micros: i64| DateTime::from_timestamp_micros(micros).unwrap_or_default().format("%Y-%m-%d %H:%M:%S").to_string().into_bytes();
    let record = |backend: Backend| {
        let is_db = backend == Backend::Db;
        // In SQL they are dates, which SQL writes in local time.
        let shown = |micros: i64| if is_db && cdrs.utc { utc(micros) } else { cdrs.precision.text(micros) };
        // As the original has it, which sets this one at the beginning of a dialog.
        let duration = if end.is_some() { cdrs.precision.text(span.duration) } else { b"0".to_vec() };
        let changed = |n: usize| ctx.extra.get(CHANGED[n]);
        let ends = changed(1).and_then(instant).map_or(span.end, |end| cdrs.precision.cut(end.wall.0));
        let own = [shown(span.start), shown(ends), changed(2).map_or(duration, <[u8]>::to_vec)];
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
            duration_ms: Some((ends - span.start).max(0) / 1000),
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

    fn cdrs() -> DialogCdrs {
        DialogCdrs {
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
        }
    }

    #[test]
    fn a_variable_that_is_gone_skips_nothing() {
        let cdrs = cdrs();
        let written = |seen: &[bool]| {
            let mut ctx = begin(&cdrs, Core::default(), Moment::now());
            seen.iter().for_each(|is_there| skip(&cdrs, &mut ctx, |name| *is_there && name == "no"));
            failed(&Rules { dialog_cdrs: Some(cdrs.clone()), ..Rules::default() }, &mut ctx).len()
        };
        assert_eq!([written(&[false]), written(&[true]), written(&[true, false]), written(&[false, true])], [1, 0, 1, 0]);
    }

    /// A call from 100 s on, answered at 105 s, ended at 160 s.
    fn ended_call(cdrs: &DialogCdrs) -> Context {
        let at = |seconds: i64| Moment { wall: Wall(seconds * 1_000_000), ..Moment::default() };
        let mut ctx = begin(cdrs, Core::default(), at(100));
        (ctx.answered, ctx.ended) = (Some(at(105)), Some((at(160), EndCause::Caller)));
        ctx
    }

    /// Its CDR in the log.
    fn cdr_of(cdrs: &DialogCdrs, ctx: &Context) -> Record {
        let rules = Rules { dialog_cdrs: Some(cdrs.clone()), ..Rules::default() };
        end(&rules, ctx).unwrap().records.swap_remove(0)
    }

    fn shown(cdr: Record) -> Vec<String> {
        cdr.extras.into_iter().map(|f| String::from_utf8(f.value.unwrap()).unwrap()).collect()
    }

    #[test]
    fn a_script_may_change_start_end_and_duration() {
        let cdrs = cdrs();
        let ended = |changes: &[(&str, &str)]| {
            let mut ctx = ended_call(&cdrs);
            let variables = [("s", "100.000"), ("e", "160.000"), ("d", "60.000")];
            change(&cdrs, &mut ctx, true, |name| {
                let said = changes.iter().chain(&variables).find(|(n, _)| *n == name)?.1;
                Some(said.as_bytes().to_vec())
            });
            shown(cdr_of(&cdrs, &ctx))
        };
        assert_eq!(ended(&[]), ["100.000", "160.000", "60.000"]);
        assert_eq!(ended(&[("s", "105.500"), ("d", "54.500")]), ["105.500", "160.000", "54.500"]);
        assert_eq!(ended(&[("e", "170.000")]), ["100.000", "170.000", "60.000"]);
        assert_eq!(ended(&[("s", "soon"), ("e", ""), ("d", "inf")]), ["100.000", "160.000", "60.000"], "text that is not a number changes nothing");
    }

    #[test]
    fn what_a_script_has_changed_stays_when_the_dialog_goes() {
        let cdrs = cdrs();
        let mut ctx = ended_call(&cdrs);
        change(&cdrs, &mut ctx, false, |name| (name == "s").then(|| b"105.500".to_vec()));
        change(&cdrs, &mut ctx, true, |_| None);
        assert_eq!(shown(cdr_of(&cdrs, &ctx)), ["105.500", "160.000", "54.500"]);
    }

    #[test]
    fn no_time_of_a_script_makes_a_call_shorter_than_nothing() {
        let cdrs = cdrs();
        for (start, ends) in [("100.000", "90.000"), ("-9000000000000.5", "9000000000000.5")] {
            let mut ctx = ended_call(&cdrs);
            change(&cdrs, &mut ctx, true, |name| match name {
                "s" => Some(start.into()),
                "e" => Some(ends.into()),
                _ => None,
            });
            assert!(cdr_of(&cdrs, &ctx).duration_ms.unwrap() >= 0, "{start} {ends}");
        }
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

    #[test]
    fn instants_of_dialog_variables_are_read() {
        for (text, wall) in [("1700000000.042", 1_700_000_000_042_000), ("1700000000.0", 1_700_000_000_000_000), ("1.000042", 1_000_042)] {
            assert_eq!(instant(text.as_bytes()).map(|m| m.wall), Some(Wall(wall)), "{text}");
        }
        for text in ["", "1", "1.", "x.123", "1.1234567", "1.-12", "-1.000", "253402300800.000", "99999999999999999.000"] {
            assert_eq!(instant(text.as_bytes()), None, "{text}");
        }
    }
}
