//! A record as a line: a JSON object, the same for every scheme, or CSV with chosen columns. The object is described in
//! docs/guide/streams.md; its schema is docs/reference/stream.schema.json.
#![forbid(unsafe_code)]

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use crate::accounting::call_key::call_key;
use crate::accounting::clock::Wall;
use crate::accounting::record::{Core, EndCause, Field, Kind, Record};
use crate::accounting::visible::{is_control, put_visible, whole};
use crate::journal::json;
use crate::stats::{self, Counter};

/// Version of the object: within one version, fields may be added, and no field changes its type.
const VERSION: i64 = 1;

/// Names of the plain fields, in their order.
const NAMES: [&str; LEGS + 1] = [
    "v",
    "kind",
    "acc_id",
    "call_id",
    "node",
    "method",
    "from_tag",
    "to_tag",
    "callid",
    "sip_code",
    "sip_reason",
    "time",
    "time_ms",
    "created",
    "created_ms",
    "end_time",
    "end_ms",
    "setup_ms",
    "duration_ms",
    "duration",
    "end_cause",
    "end_side",
    "end_reason",
    "attempts",
    "pdd_ms",
    "ring_ms",
    "in_dialog",
    "legs",
];
/// Position of the identity in [`NAMES`].
const ACC_ID: usize = 2;
/// Position of the legs in [`NAMES`]; in the object they follow the extras.
const LEGS: usize = 27;
/// Prefix of the name of an extra that is a column.
const EXTRA: &str = "extra.";

/// Values are not cut to less than this, in bytes: shorter pieces would be useless.
const LEAST_CLIPPED: usize = 64;

/// How a record is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object.
    Json,
    /// Values between commas.
    Csv(Columns),
}

/// Columns of CSV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    columns: Vec<Column>,
    /// Which of them is the identity.
    acc_id: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Column {
    /// A plain field, by its position in [`NAMES`].
    Plain(usize),
    /// An extra, by its name.
    Extra(String),
}

/// One value.
enum Value<'a> {
    Null,
    /// As it came.
    Bytes(&'a [u8]),
    /// Without control characters and quotes.
    Plain(String),
    Number(i64),
    Bool(bool),
    /// Those of all legs.
    Legs(&'a [Vec<Field>]),
}

/// Values that are not UTF-8, under their names.
type Raw<'a> = Vec<(String, &'a [u8])>;

fn value<'a>(record: &'a Record, node: &'a str, place: usize) -> Value<'a> {
    let text = |bytes: &'a [u8]| if bytes.is_empty() { Value::Null } else { Value::Bytes(bytes) };
    let number = |n: Option<i64>| n.map_or(Value::Null, Value::Number);
    let moment = |wall: Option<Wall>| wall.and_then(shown).map_or(Value::Null, Value::Plain);
    let millis = |wall: Option<Wall>| number(wall.map(|w| w.0.div_euclid(1000)));
    let created = record.times.map(|t| t.created);
    let end = record.duration_ms.filter(|_| record.kind == Kind::Cdr).map(|ms| Wall(record.time.0.saturating_add(ms.saturating_mul(1000))));
    match place {
        0 => Value::Number(VERSION),
        1 => Value::Plain(kind(record.kind).into()),
        ACC_ID => Value::Plain(format!("{:032x}", record.id)),
        3 => call_id(record).map_or(Value::Null, |id| Value::Plain(format!("{id:032x}"))),
        4 => Value::Bytes(node.as_bytes()),
        5 => text(&record.core.method),
        6 => text(&record.core.from_tag),
        7 => text(&record.core.to_tag),
        8 => text(&record.core.callid),
        9 => number(Some(i64::from(record.core.code_number())).filter(|n| *n != 0)),
        // A reason may be empty, but is never absent.
        10 => Value::Bytes(&record.core.reason),
        11 => moment(Some(record.time)),
        12 => millis(Some(record.time)),
        13 => moment(created),
        14 => millis(created),
        15 => moment(end),
        16 => millis(end),
        17 => number(record.times.map(|t| t.setup_ms)),
        18 => number(record.duration_ms),
        19 => number(record.duration_ms.map(|_| record.duration_seconds())),
        20 => record.end.map_or(Value::Null, |e| Value::Plain(EndCause::cause(e).into())),
        21 => record.end.map_or(Value::Null, |e| Value::Plain(EndCause::side(e).into())),
        22 => text(&record.signalling.end_reason),
        23 => number(Some(i64::from(record.signalling.attempts)).filter(|n| *n != 0)),
        24 => number(record.signalling.pdd_ms.map(i64::from)),
        25 => number(record.ring_ms()),
        26 => Value::Bool(record.in_dialog),
        LEGS => Value::Legs(&record.legs),
        _ => Value::Null,
    }
}

/// What happened, in a word.
pub const fn kind(kind: Kind) -> &'static str {
    match kind {
        // An ACK completes its transaction, as for events.
        Kind::Ack => Kind::Transaction.name(),
        kind => kind.name(),
    }
}

/// Key of the call that the record belongs to, or would have begun; it cannot be told from requests inside a call.
fn call_id(record: &Record) -> Option<u128> {
    let times = record.times.filter(|_| !record.in_dialog)?;
    Some(call_key(&record.core.callid, &record.core.from_tag, &record.core.to_tag, times.created))
}

/// A time in the format of RFC 3339, in UTC.
pub fn shown(wall: Wall) -> Option<String> {
    Some(DateTime::<Utc>::from_timestamp_micros(wall.0)?.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

impl Format {
    /// Appends a record's line, with its end.
    pub fn write(&self, record: &Record, node: &str, out: &mut Vec<u8>) {
        match self {
            Format::Json => put_object(record, node, out),
            Format::Csv(columns) => columns.write(record, node, out),
        }
        out.push(b'\n');
    }

    /// What a file begins with.
    pub fn header(&self) -> Vec<u8> {
        match self {
            Format::Json => Vec::new(),
            Format::Csv(columns) => columns.header(),
        }
    }

    /// The identity of the record in a line.
    pub fn id_of(&self, line: &[u8]) -> Option<u128> {
        const BEFORE: &[u8] = b",\"acc_id\":\"";
        let digits = match self {
            Format::Json => {
                // It follows version and kind, so later names and values do not matter.
                let at = line.windows(BEFORE.len()).take(64).position(|w| w == BEFORE)? + BEFORE.len();
                line.get(at..at + 32)?
            }
            Format::Csv(columns) => nth(line, columns.acc_id)?,
        };
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.len() == 32)?;
        u128::from_str_radix(digits, 16).ok()
    }
}

/// The line of a record whose values are cut so that it has at most `max` bytes; `None` if that is impossible.
pub fn clipped(record: &Record, node: &str, max: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut most = max / 2;
    while most >= LEAST_CLIPPED {
        let cut = |bytes: &mut Vec<u8>| bytes.truncate(whole(bytes, most));
        let mut shorter = record.clone();
        let Core { method, from_tag, to_tag, callid, code, reason } = &mut shorter.core;
        [method, from_tag, to_tag, callid, code, reason].into_iter().for_each(cut);
        shorter.extras.iter_mut().chain(shorter.legs.iter_mut().flatten()).filter_map(|f| f.value.as_mut()).for_each(cut);
        out.clear();
        Format::Json.write(&shorter, node, &mut out);
        if out.len() <= max {
            stats::add(Counter::Clipped, 1);
            return Some(out);
        }
        most /= 2;
    }
    None
}

fn put_object(record: &Record, node: &str, out: &mut Vec<u8>) {
    let mut raw = Raw::new();
    out.push(b'{');
    for (place, name) in NAMES.iter().enumerate().filter(|(place, _)| *place != LEGS) {
        put_name(name, out);
        put_value(name, &value(record, node, place), &mut raw, out);
        out.push(b',');
    }
    put_name("extra", out);
    put_fields("extra", &record.extras, &mut raw, out);
    out.push(b',');
    put_name(NAMES[LEGS], out);
    put_legs(&record.legs, &mut raw, out);
    out.push(b',');
    put_name("raw", out);
    if raw.is_empty() {
        out.extend_from_slice(b"null}");
        return;
    }
    for (i, (name, bytes)) in raw.iter().enumerate() {
        out.push(if i == 0 { b'{' } else { b',' });
        put_text(name, out);
        out.push(b':');
        put_text(&STANDARD.encode(bytes), out);
    }
    out.extend_from_slice(b"}}");
}

fn put_value<'a>(name: &str, value: &Value<'a>, raw: &mut Raw<'a>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bytes(bytes) => put_bytes(|| name.into(), bytes, raw, out),
        Value::Plain(text) => put_text(text, out),
        // Writing to a Vec cannot fail.
        Value::Number(n) => drop(write!(out, "{n}")),
        Value::Bool(b) => drop(write!(out, "{b}")),
        Value::Legs(legs) => put_legs(legs, raw, out),
    }
}

fn put_legs<'a>(legs: &'a [Vec<Field>], raw: &mut Raw<'a>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, leg) in legs.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        put_fields(&format!("legs.{i}"), leg, raw, out);
    }
    out.push(b']');
}

/// An object of these fields; if a name occurs twice, the first one counts.
fn put_fields<'a>(of: &str, fields: &'a [Field], raw: &mut Raw<'a>, out: &mut Vec<u8>) {
    out.push(b'{');
    let begin = out.len();
    for (i, f) in fields.iter().enumerate() {
        if fields[..i].iter().any(|earlier| earlier.name == f.name) {
            continue;
        }
        if out.len() > begin {
            out.push(b',');
        }
        put_text(&f.name, out);
        out.push(b':');
        match f.value.as_deref() {
            None => out.extend_from_slice(b"null"),
            Some(bytes) => put_bytes(|| format!("{of}.{}", f.name), bytes, raw, out),
        }
    }
    out.push(b'}');
}

fn put_name(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn put_bytes<'a>(name: impl FnOnce() -> String, bytes: &'a [u8], raw: &mut Raw<'a>, out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(bytes);
    if matches!(text, std::borrow::Cow::Owned(_)) {
        raw.push((name(), bytes));
    }
    put_text(&text, out);
}

/// A string. Most need no escapes.
fn put_text(text: &str, out: &mut Vec<u8>) {
    if text.contains(['"', '\\']) || text.chars().any(is_control) {
        out.extend_from_slice(json::line(&Json::from(text)).as_bytes());
    } else {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }
}

impl Columns {
    /// Reads names joined by commas.
    ///
    /// # Errors
    /// What is wrong, and the names there are.
    pub fn read(list: &str) -> Result<Columns, String> {
        let column = |name: &str| match (NAMES.iter().position(|n| *n == name), name.strip_prefix(EXTRA)) {
            (Some(place), _) => Some(Column::Plain(place)),
            (None, Some(extra)) if !extra.is_empty() => Some(Column::Extra(extra.into())),
            _ => None,
        };
        let columns: Option<Vec<_>> = list.split(',').map(column).collect();
        let columns = columns.ok_or_else(|| format!("a name in columns is not a column: use {}, and extra.NAME, joined by commas", NAMES.join(", ")))?;
        // Without it, nobody (this module included) could tell a record from its copy.
        let acc_id = columns.iter().position(|c| *c == Column::Plain(ACC_ID)).ok_or("acc_id has to be among the columns: it tells a record from its copy")?;
        Ok(Columns { columns, acc_id })
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (i, column) in self.columns.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            match column {
                Column::Plain(place) => out.extend_from_slice(NAMES[*place].as_bytes()),
                Column::Extra(name) => put_cell(format!("{EXTRA}{name}").as_bytes(), &mut out),
            }
        }
        out.push(b'\n');
        out
    }

    fn write(&self, record: &Record, node: &str, out: &mut Vec<u8>) {
        for (i, column) in self.columns.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            let value = match column {
                Column::Plain(place) => value(record, node, *place),
                Column::Extra(name) => {
                    let found = record.extras.iter().find(|f| *f.name == **name);
                    found.and_then(|f| f.value.as_deref()).map_or(Value::Null, Value::Bytes)
                }
            };
            match value {
                Value::Null => {}
                Value::Bytes(bytes) => put_cell(bytes, out),
                Value::Plain(text) => out.extend_from_slice(text.as_bytes()),
                Value::Number(n) => drop(write!(out, "{n}")),
                Value::Bool(b) => drop(write!(out, "{b}")),
                Value::Legs(legs) => {
                    let mut text = Vec::new();
                    put_legs(legs, &mut Raw::new(), &mut text);
                    put_cell(&text, out);
                }
            }
        }
    }
}

/// A cell: control characters are written as `\xNN`, so that it stays in its line, and it is quoted if necessary. A value
/// that is empty is quoted as well, to tell it from an absent one.
fn put_cell(bytes: &[u8], out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = Vec::with_capacity(text.len());
    put_visible(&mut shown, text.as_bytes());
    let plain = !shown.is_empty() && !shown.iter().any(|b| matches!(b, b',' | b'"')) && !shown.starts_with(b" ") && !shown.ends_with(b" ");
    if plain {
        out.extend_from_slice(&shown);
        return;
    }
    out.push(b'"');
    for b in shown {
        if b == b'"' {
            out.push(b'"');
        }
        out.push(b);
    }
    out.push(b'"');
}

/// Cell `n` of a line, unchanged.
fn nth(line: &[u8], n: usize) -> Option<&[u8]> {
    let mut quoted = false;
    line.split(|b| {
        quoted ^= *b == b'"';
        *b == b',' && !quoted
    })
    .nth(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::record::{Backend, Core, Shape, Signalling, Times};
    use proptest::prelude::*;

    fn field(name: &str, value: Option<&[u8]>) -> Field {
        Field { name: name.into(), value: value.map(<[u8]>::to_vec) }
    }

    fn record() -> Record {
        Record {
            kind: Kind::Cdr,
            shape: Shape::Context,
            backend: Backend::Stream,
            table: "".into(),
            core: Core { method: b"INVITE".into(), from_tag: b"f".into(), to_tag: vec![], callid: b"c@h".into(), code: b"200".into(), reason: vec![] },
            time: Wall(1_700_000_003_900_001),
            times: Some(Times { created: Wall(1_700_000_000_000_000), setup_ms: 3900 }),
            duration_ms: Some(1001),
            end: Some(EndCause::Callee),
            signalling: Signalling::default(),
            reported: false,
            in_dialog: false,
            extras: vec![],
            legs: vec![],
            id: 0x1f,
        }
    }

    fn line(format: &Format, record: &Record) -> Vec<u8> {
        let mut out = Vec::new();
        format.write(record, "node", &mut out);
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(out.pop(), Some(b'\n'));
        out
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_beside_it() {
        let extras = vec![field("a", Some(b"x\xff\0\"")), field("b", Some(b"")), field("a", Some(b"second")), field("c", None)];
        let r = Record { core: Core { reason: b"\xc3".to_vec(), ..record().core }, extras, legs: vec![vec![field("l", Some(b"\xfe"))]], ..record() };
        let value: Json = serde_json::from_slice(&line(&Format::Json, &r)).unwrap();
        assert_eq!(value["extra"], serde_json::json!({"a": "x\u{fffd}\0\"", "b": "", "c": null}));
        assert_eq!(value["raw"], serde_json::json!({"sip_reason": "ww==", "extra.a": "eP8AIg==", "legs.0.l": "/g=="}));
        assert_eq!((&value["to_tag"], &value["sip_reason"], &value["legs"][0]["l"]), (&Json::Null, &"\u{fffd}".into(), &"\u{fffd}".into()));
    }

    #[test]
    fn records_of_one_call_have_its_key() {
        let cdr = record();
        let key = |r: &Record| serde_json::from_slice::<Json>(&line(&Format::Json, r)).unwrap()["call_id"].clone();
        assert_eq!(key(&Record { kind: Kind::Transaction, id: 3, ..cdr.clone() }), key(&cdr));
        assert_eq!(key(&cdr).as_str().unwrap().len(), 32);
        assert_eq!(key(&Record { in_dialog: true, ..cdr.clone() }), Json::Null);
        assert_eq!(key(&Record { times: None, ..cdr }), Json::Null);
    }

    #[test]
    fn csv_has_a_header_and_cells_that_stay_in_their_line() {
        let columns = Columns::read("callid,extra.a,acc_id,sip_reason,to_tag,time,duration,in_dialog,legs").unwrap();
        let format = Format::Csv(columns);
        assert_eq!(String::from_utf8(format.header()).unwrap(), "callid,extra.a,acc_id,sip_reason,to_tag,time,duration,in_dialog,legs\n");
        let legs = vec![vec![field("l", Some(b"1"))], vec![field("l", None)]];
        let r = Record { extras: vec![field("a", Some(b"x,\"y\"\r\n\xff"))], legs, ..record() };
        let want = "c@h,\"x,\"\"y\"\"\\x0d\\x0a\u{fffd}\",0000000000000000000000000000001f,\"\",,2023-11-14T22:13:23.900001Z,2,false,\"[{\"\"l\"\":\"\"1\"\"},{\"\"l\"\":null}]\"";
        let got = line(&format, &r);
        assert_eq!(String::from_utf8_lossy(&got), want);
        assert_eq!(format.id_of(&got), Some(0x1f));
        assert_eq!(format.id_of(b"a,\"b"), None);
        assert_eq!(format.id_of(&format.header()), None);
    }

    proptest! {
        #[test]
        fn every_line_is_read_back(value in proptest::collection::vec(any::<u8>(), 0..40), name in "[ -~]{1,10}", id in any::<u128>(), time in any::<i64>(), duration in any::<i64>()) {
            let r = Record {
                core: Core { callid: value.clone(), reason: value.clone(), ..record().core },
                extras: vec![field(&name, Some(&value))], time: Wall(time), duration_ms: Some(duration), id, ..record()
            };
            let line_of = line(&Format::Json, &r);
            let parsed: Json = serde_json::from_slice(&line_of).unwrap();
            prop_assert_eq!(Format::Json.id_of(&line_of), Some(id));
            prop_assert_eq!(parsed["acc_id"].as_str(), Some(&*format!("{id:032x}")));
            let kept = match parsed["raw"][format!("extra.{name}")].as_str() {
                Some(raw) => STANDARD.decode(raw).unwrap(),
                None => parsed["extra"][&*name].as_str().unwrap().as_bytes().to_vec(),
            };
            prop_assert_eq!(kept, value);
            let csv = Format::Csv(Columns::read("sip_reason,acc_id,callid").unwrap());
            prop_assert_eq!(csv.id_of(&line(&csv, &r)), Some(id));
        }

        #[test]
        fn no_line_makes_the_reader_panic(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Format::Json.id_of(&text);
            let _ = Format::Csv(Columns::read("v,acc_id").unwrap()).id_of(&text);
        }
    }
}
