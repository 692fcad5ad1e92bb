//! Events of the host's event interface: which one, and its parameters in order.
#![forbid(unsafe_code)]

use crate::accounting::record::{Field, Kind, Record, Shape};
use crate::declaration::CORE_COLUMNS;
pub use crate::declaration::Event;
use crate::journal::SinkId;
use crate::stats::{self, Counter, Snapshot};

/// Value of an event's parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventValue<'a> {
    /// A string; `None` is null.
    Text(Option<&'a [u8]>),
    /// A number.
    Int(i32),
}

/// The event that reports a record.
pub fn event_of(record: &Record) -> Event {
    match record.kind {
        Kind::Transaction | Kind::Ack => Event::Acc,
        Kind::Missed => Event::Missed,
        Kind::Cdr => Event::Cdr,
        Kind::Start => Event::Start,
        Kind::Interim => Event::Interim,
        Kind::Manual if record.core.code_number() < 300 => Event::Acc,
        Kind::Manual => Event::Missed,
    }
}

/// Numbers of the event interface have 32 bits: a time beyond 2038 wraps, and is right until 2106 for
/// consumers that read it as unsigned.
const fn int(v: i64) -> EventValue<'static> {
    EventValue::Int(v as i32)
}

/// A duration, clipped to what such a number can hold (24.8 days in milliseconds), as in SQL.
fn duration(v: i64) -> EventValue<'static> {
    if v > i32::MAX.into() {
        stats::add(Counter::Clipped, 1);
    }
    int(v.clamp(0, i32::MAX.into()))
}

/// The parameter lists of a record: one for each leg.
pub fn params(record: &Record) -> Vec<Vec<(&str, EventValue<'_>)>> {
    let no_leg: &[Field] = &[];
    let legs: Vec<&[Field]> = if record.legs.is_empty() { vec![no_leg] } else { record.legs.iter().map(Vec::as_slice).collect() };
    legs.into_iter().map(|leg| params_of(record, leg)).collect()
}

/// The parameters of [`Event::Backlog`]: which sink, how many entries wait for it, for how many
/// seconds the oldest has been waiting, and whether the backlog begins or is over.
pub fn backlog_params(sink: SinkId, counters: &Snapshot, begins: bool) -> [(&'static str, EventValue<'static>); 4] {
    let number = |c| int(i64::try_from(counters.get(c)).unwrap_or(i64::MAX).min(i32::MAX.into()));
    [
        ("sink", EventValue::Text(Some(sink.name().as_bytes()))),
        ("pending", number(sink.counters().pending)),
        ("oldest_age", number(sink.counters().oldest_age)),
        ("state", EventValue::Text(Some(if begins { b"begins" } else { b"over" }))),
    ]
}

fn params_of<'a>(record: &'a Record, leg: &'a [Field]) -> Vec<(&'a str, EventValue<'a>)> {
    let mut out = Vec::with_capacity(11 + record.extras.len() + leg.len());
    // An absent core value is null, as an unset extra is. A reason is never absent, but may be empty.
    let is_there = |name, value: &[u8]| !value.is_empty() || name == CORE_COLUMNS[5];
    out.extend(CORE_COLUMNS.into_iter().zip(record.core.values()).map(|(n, v)| (n, EventValue::Text(is_there(n, v).then_some(v)))));
    out.push(("time", int(record.time.seconds())));
    out.extend(record.extras.iter().chain(leg).map(|f| (&*f.name, EventValue::Text(f.value.as_deref()))));
    let event = event_of(record);
    if matches!(event, Event::Cdr | Event::Interim) {
        out.push(("duration", duration(record.duration_seconds())));
        if record.shape == Shape::Context {
            out.push(("ms_duration", duration(record.duration_ms.unwrap_or(0))));
        }
    }
    if event != Event::Acc && (record.shape == Shape::Context || record.times.is_some()) {
        out.push(("setuptime", duration(record.setup_seconds())));
        out.push(("created", int(record.times.map_or(0, |t| t.created.seconds()))));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::clock::Wall;
    use crate::accounting::record::{Backend, Core, Signalling, Times};

    fn record(kind: Kind, code: &[u8]) -> Record {
        Record {
            kind,
            shape: Shape::Context,
            backend: Backend::Evi,
            table: "".into(),
            core: Core { method: b"INVITE".into(), from_tag: b"f".into(), code: code.into(), ..Core::default() },
            time: Wall(1_700_000_000_000_000),
            times: Some(Times { created: Wall(1_699_999_999_000_000), setup_ms: 1000 }),
            duration_ms: Some(2500),
            end: None,
            signalling: Signalling::default(),
            reported: false,
            in_dialog: false,
            extras: vec![Field { name: "x".into(), value: None }],
            legs: vec![vec![Field { name: "l".into(), value: Some(b"0".into()) }], vec![Field { name: "l".into(), value: Some(b"1".into()) }]],
            id: 0,
        }
    }

    #[test]
    fn only_the_reason_of_core_values_may_be_empty() {
        let r = record(Kind::Transaction, b"486");
        let nulls: Vec<_> = params(&r)[0][..6].iter().filter(|(_, v)| matches!(v, EventValue::Text(None))).map(|(n, _)| *n).collect();
        assert_eq!(nulls, ["to_tag", "callid"]);
    }

    #[test]
    fn what_an_event_cannot_hold_is_clipped_and_counted() {
        let largest = i64::from(i32::MAX);
        for (ms, shown) in [(largest, largest), (largest + 1, largest), (30 * 86_400_000, largest), (-1, 0)] {
            let before = stats::get(Counter::Clipped);
            let mut r = record(Kind::Cdr, b"200");
            r.duration_ms = Some(ms);
            let all = params(&r);
            let number = |wanted: &str| all[0].iter().find_map(|(name, v)| if let (true, EventValue::Int(n)) = (*name == wanted, v) { Some(*n) } else { None });
            assert_eq!(number("ms_duration").map(i64::from), Some(shown), "{ms}");
            assert_eq!(number("duration").map(i64::from), Some(r.duration_seconds()), "{ms}");
            // Other tests count, too.
            assert!(ms <= largest || stats::get(Counter::Clipped) > before, "{ms}");
        }
    }

    #[test]
    fn manual_requests_choose_the_event_by_code() {
        for (code, event) in [("", Event::Acc), ("200", Event::Acc), ("299", Event::Acc), ("300", Event::Missed), ("486", Event::Missed)] {
            assert_eq!(event_of(&record(Kind::Manual, code.as_bytes())), event, "{code}");
        }
    }

    #[test]
    fn every_leg_is_an_event_with_all_parameters_in_order() {
        let r = record(Kind::Cdr, b"200");
        let all = params(&r);
        assert_eq!(all.len(), 2);
        let names: Vec<_> = all[1].iter().map(|(n, _)| *n).collect();
        assert_eq!(
            names,
            ["method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason", "time", "x", "l", "duration", "ms_duration", "setuptime", "created"]
        );
        assert_eq!(all[1][8].1, EventValue::Text(Some(b"1")));
        assert_eq!(all[1][2].1, EventValue::Text(None));
        assert_eq!(all[1][9].1, EventValue::Int(3));
        let r = record(Kind::Missed, b"486");
        let missed: Vec<_> = params(&r)[0].iter().map(|(n, _)| *n).collect();
        assert_eq!(missed[9..], ["setuptime", "created"]);
        assert_eq!(params(&record(Kind::Transaction, b"200"))[0].len(), 9);
    }
}
