//! Records as JSON, one object each, for log collectors (`log_format` json).
#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{MAX_LINE, say_cut};
use crate::accounting::clock::Wall;
use crate::accounting::record::{ACC_ID, ATTEMPTS, END_CAUSE, END_REASON, END_SIDE, Field, Kind, PDD_MS, RING_MS, Record, Shape};
use crate::accounting::visible::whole;
use crate::declaration::CORE_COLUMNS;
use crate::journal::json;

/// The members of an object.
#[derive(Default)]
struct Members {
    all: Vec<(String, String)>,
    /// Values that are not UTF-8, under their names.
    raw: Vec<(String, String)>,
}

impl Members {
    fn put(&mut self, name: &str, value: String) {
        // Collectors treat a repeated name in different ways.
        let is_taken = |name: &str| self.all.iter().any(|(n, _)| n == name);
        let free = (2..).map(|n| format!("{name}_{n}"));
        let name = if is_taken(name) { free.into_iter().find(|n| !is_taken(n)).unwrap_or_default() } else { name.to_owned() };
        self.all.push((name, value));
    }

    fn put_bytes(&mut self, name: &str, of: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if matches!(text, std::borrow::Cow::Owned(_)) {
            self.raw.push((format!("{of}{name}"), quoted(&STANDARD.encode(bytes))));
        }
        self.put(name, quoted(&text));
    }

    fn put_field(&mut self, of: &str, field: &Field) {
        match field.value.as_deref() {
            None => self.put(&field.name, "null".into()),
            Some(bytes) => self.put_bytes(&field.name, of, bytes),
        }
    }

    fn object(members: &[(String, String)]) -> String {
        let members: Vec<_> = members.iter().map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
        format!("{{{}}}", members.join(","))
    }
}

fn quoted(text: &str) -> String {
    json::line(&Value::from(text))
}

fn moment(wall: Wall) -> String {
    let shown = |t: DateTime<Utc>| quoted(&t.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
    DateTime::<Utc>::from_timestamp_micros(wall.0).map_or_else(|| "null".into(), shown)
}

fn object(record: &Record) -> String {
    let mut members = Members::default();
    members.put("kind", quoted(record.kind.name()));
    for own in [ACC_ID, END_CAUSE, END_SIDE, END_REASON] {
        if let Some(value) = record.own_value(own) {
            members.put_bytes(own, "", &value);
        }
    }
    for number in [PDD_MS, RING_MS, ATTEMPTS] {
        if let Some(value) = record.own_value(number) {
            members.put(number, String::from_utf8_lossy(&value).into_owned());
        }
    }
    if record.shape != Shape::Dialog {
        members.put("time", moment(record.time));
        for (name, value) in CORE_COLUMNS.iter().zip(record.core.values()) {
            members.put_bytes(name, "", value);
        }
        if let Some(times) = record.times {
            members.put("setuptime", record.setup_seconds().to_string());
            members.put("created", moment(times.created));
        }
        if let (Kind::Cdr, Some(ms)) = (record.kind, record.duration_ms) {
            members.put("duration", record.duration_seconds().to_string());
            members.put("ms_duration", ms.to_string());
        }
    }
    for field in &record.extras {
        members.put_field("", field);
    }
    if !record.legs.is_empty() {
        let mut legs = Vec::with_capacity(record.legs.len());
        for (n, fields) in record.legs.iter().enumerate() {
            let mut leg = Members::default();
            for field in fields {
                leg.put_field(&format!("legs.{n}."), field);
            }
            members.raw.append(&mut leg.raw);
            legs.push(Members::object(&leg.all));
        }
        members.put("legs", format!("[{}]", legs.join(",")));
    }
    if !members.raw.is_empty() {
        let raw = Members::object(&members.raw);
        members.put("raw", raw);
    }
    Members::object(&members.all)
}

/// Every value that can be long.
fn values(record: &mut Record) -> impl Iterator<Item = &mut Vec<u8>> {
    let core = &mut record.core;
    let core = [&mut core.method, &mut core.from_tag, &mut core.to_tag, &mut core.callid, &mut core.code, &mut core.reason];
    let fields = record.extras.iter_mut().chain(record.legs.iter_mut().flatten());
    core.into_iter().chain(fields.filter_map(|f| f.value.as_mut()))
}

/// A value this short is not what makes a line long.
const SHORT: usize = 64;

/// The line of a record. If it would be too long, it remains an object: its longest values are cut, then legs and
/// extras are left out.
pub fn line(record: &Record) -> String {
    let mut line = object(record);
    if line.len() <= MAX_LINE {
        return line;
    }
    say_cut(line.len(), record);
    let mut record = record.clone();
    while line.len() > MAX_LINE {
        let longest = values(&mut record).max_by_key(|v| v.len()).filter(|v| v.len() > SHORT);
        if let Some(value) = longest {
            let most = whole(value, value.len() / 2);
            value.truncate(most);
        } else if record.legs.len() > 1 {
            record.legs.truncate(record.legs.len() / 2);
        } else if record.extras.is_empty() {
            break;
        } else {
            record.extras.truncate(record.extras.len() / 2);
        }
        line = object(&record);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::record::{Backend, Core, EndCause, Signalling, Times};

    fn record() -> Record {
        let field = |name: &str, value: Option<&[u8]>| Field { name: name.into(), value: value.map(<[u8]>::to_vec) };
        Record {
            kind: Kind::Cdr,
            shape: Shape::Context,
            backend: Backend::Log,
            table: "".into(),
            core: Core { method: b"INVITE".into(), callid: b"c\r\n\"1\"".into(), code: b"200".into(), reason: b"OK".into(), ..Core::default() },
            time: Wall(1_700_000_000_042_000),
            times: Some(Times { created: Wall(1_699_999_998_000_000), setup_ms: 2042 }),
            duration_ms: Some(1001),
            end: Some(EndCause::Callee),
            in_dialog: false,
            extras: vec![field("caller", Some("ä\u{85}".as_bytes())), field("callid", Some(b"\xff")), field("none", None)],
            legs: vec![vec![field("src", Some(b"1"))], vec![field("src", None)]],
            id: 0x2a,
            signalling: Signalling::default(),
            reported: false,
        }
    }

    #[test]
    fn an_object_has_the_names_of_columns() {
        let want = concat!(
            r#"{"kind":"cdr","acc_id":"0000000000000000000000000000002a","end_cause":"bye","end_side":"callee","time":"2023-11-14T22:13:20.042000Z","#,
            r#""method":"INVITE","from_tag":"","to_tag":"","callid":"c\r\n\"1\"","sip_code":"200","sip_reason":"OK","setuptime":2,"#,
            r#""created":"2023-11-14T22:13:18.000000Z","duration":2,"ms_duration":1001,"caller":"ä\u0085","callid_2":""#,
            "\u{fffd}",
            r#"","none":null,"legs":[{"src":"1"},{"src":null}],"raw":{"callid":"/w=="}}"#
        );
        assert_eq!(line(&record()), want);
        assert!(serde_json::from_str::<Value>(want).is_ok());
        let dialog =
            Record { shape: Shape::Dialog, extras: vec![Field { name: "start_time".into(), value: Some(b"1.5".into()) }], legs: Vec::new(), ..record() };
        assert!(line(&dialog).ends_with(r#""end_side":"callee","start_time":"1.5"}"#));
    }

    #[test]
    fn a_line_that_is_too_long_stays_an_object() {
        let long = |value: &[u8]| {
            let mut r = record();
            r.extras[0].value = Some(value.to_vec());
            line(&r)
        };
        let mut many = record();
        many.legs = vec![many.legs[0].clone(); 20_000];
        for line in [long(&[b'x'; 70_000]), long(&[1; 70_000]), long("ä".repeat(70_000).as_bytes()), line(&many)] {
            assert!(line.len() <= MAX_LINE && line.len() > MAX_LINE / 4, "{}", line.len());
            let value: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["sip_code"], "200");
        }
    }
}
