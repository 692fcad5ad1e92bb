//! Records as JSON, one object each, like those of Kamailio's acc_json module: to syslog, or into a queue of the
//! script. Workers write them.
#![forbid(unsafe_code)]

use chrono::Local;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::accounting::record::{Field, Record, Shape};
use crate::declaration::CORE_COLUMNS;

/// Where objects of one kind go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// To syslog.
    pub syslog: bool,
    /// Severity there, in syslog's numbers.
    pub severity: i32,
    /// Facility (already shifted, as in `<syslog.h>`).
    pub facility: i32,
    /// Queue of the module mqueue.
    pub queue: Option<String>,
    /// Values of names with this prefix are JSON already.
    pub encoded_prefix: Option<String>,
}

/// Everything that the parameters say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json {
    /// Of transactions.
    pub records: Output,
    /// Of CDRs.
    pub cdrs: Output,
    /// The time includes a fraction.
    pub fraction: bool,
}

impl Json {
    /// Where a record goes.
    pub fn output(&self, record: &Record) -> &Output {
        if record.shape == Shape::Dialog { &self.cdrs } else { &self.records }
    }
}

/// Key of the object in its queue.
pub fn key(record: &Record) -> &'static str {
    if record.shape == Shape::Dialog { "cdr" } else { "acc" }
}

/// Names of start, end and duration in the object of a CDR; the parameters do not change them.
const CDR_NAMES: [&str; 3] = ["start_time", "end_time", "duration"];

/// A value, as it is written in an object.
fn text(value: &[u8]) -> String {
    let text = std::str::from_utf8(value).unwrap_or("NON-UTF8");
    ascii(&Value::from(text).to_string())
}

/// Characters beyond ASCII occur only inside strings, where they can be escaped.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && c != '\x7f' {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// A value that is JSON already: an object or a list.
fn encoded(value: &[u8]) -> Option<String> {
    let raw: &RawValue = serde_json::from_slice(value).ok()?;
    let raw = raw.get();
    // Line ends can only occur between its parts.
    raw.starts_with(['{', '[']).then(|| ascii(&raw.replace(['\r', '\n'], " ")))
}

/// The object of a record.
pub fn object(record: &Record, json: &Json) -> String {
    let mut members: Vec<(String, String)> = Vec::with_capacity(8 + record.extras.len());
    // As in the original's objects, the last value of a name counts.
    let mut put = |name: &str, value: String| match members.iter_mut().find(|(n, _)| n == name) {
        Some((_, v)) => *v = value,
        None => members.push((name.into(), value)),
    };
    let prefix = json.output(record).encoded_prefix.as_deref();
    let value = |f: &Field| {
        let bytes = f.value.as_deref().unwrap_or_default();
        if bytes.is_empty() || !prefix.is_some_and(|p| f.name.starts_with(p)) {
            return text(bytes);
        }
        encoded(bytes).unwrap_or_else(|| text(b"INVALID_JSON"))
    };
    let mut extras = record.extras.iter();
    if record.shape == Shape::Dialog {
        for (name, f) in CDR_NAMES.iter().zip(extras.by_ref()) {
            put(name, text(f.value.as_deref().unwrap_or_default()));
        }
    } else {
        let seconds = record.time.seconds();
        let time = match extras.as_slice().first().filter(|_| record.shape == Shape::Stamped) {
            Some(f) => {
                extras.next();
                text(f.value.as_deref().unwrap_or_default())
            }
            None if json.fraction => format!("{seconds}.{:06}", record.time.0.rem_euclid(1_000_000)),
            None => seconds.to_string(),
        };
        put("time", time);
        for (name, v) in CORE_COLUMNS.iter().zip(record.core.values()) {
            put(name, text(v));
        }
    }
    for f in extras {
        put(&f.name, value(f));
    }
    for f in record.legs.first().into_iter().flatten() {
        put(&f.name, text(f.value.as_deref().unwrap_or_default()));
    }
    let members: Vec<_> = members.iter().map(|(name, value)| format!("{}: {value}", text(name.as_bytes()))).collect();
    format!("{{{}}}", members.join(", "))
}

/// The datagram that syslog gets.
pub fn datagram(output: &Output, pid: u32, object: &str) -> Vec<u8> {
    let stamp = Local::now().format("%b %e %H:%M:%S");
    format!("<{}>{stamp} json_acc[{pid}]: {object}", output.facility | output.severity & 7).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::clock::Wall;
    use crate::accounting::record::{Backend, Core, Kind, Signalling};

    fn json(prefix: Option<&str>, fraction: bool) -> Json {
        let output = Output { syslog: true, severity: 1, facility: 24, queue: None, encoded_prefix: prefix.map(Into::into) };
        Json { records: output.clone(), cdrs: output, fraction }
    }

    fn record(shape: Shape, extras: &[(&str, Option<&[u8]>)]) -> Record {
        let field = |(name, value): &(&str, Option<&[u8]>)| Field { name: (*name).into(), value: value.map(<[u8]>::to_vec) };
        Record {
            kind: Kind::Transaction,
            shape,
            backend: Backend::Json,
            table: "".into(),
            core: Core { method: b"INVITE".into(), code: b"200".into(), reason: b"OK \"x\"".into(), ..Core::default() },
            time: Wall(1_700_000_000_042_000),
            times: None,
            duration_ms: None,
            end: None,
            signalling: Signalling::default(),
            reported: false,
            in_dialog: false,
            extras: extras.iter().map(field).collect(),
            legs: vec![vec![field(&("leg", Some(b"1")))], vec![field(&("leg", Some(b"2")))]],
            id: 0,
        }
    }

    const CORE: &str = r#""method": "INVITE", "from_tag": "", "to_tag": "", "callid": "", "sip_code": "200", "sip_reason": "OK \"x\"""#;

    #[test]
    fn objects_have_time_core_extras_and_the_first_leg() {
        let extras: [(&str, Option<&[u8]>); 4] = [("a", Some("ü\u{1f600}\u{85}".as_bytes())), ("b", None), ("c", Some(b"\xff")), ("a2", Some(b"x\r\n"))];
        let o = object(&record(Shape::Flags, &extras), &json(None, false));
        let expected = format!(r#"{{"time": 1700000000, {CORE}, "a": "\u00fc\ud83d\ude00\u0085", "b": "", "c": "NON-UTF8", "a2": "x\r\n", "leg": "1"}}"#);
        assert_eq!(o, expected);
        assert!(object(&record(Shape::Flags, &[]), &json(None, true)).starts_with(r#"{"time": 1700000000.042000, "#));
        assert!(object(&record(Shape::Stamped, &[("t", Some(b"noon"))]), &json(None, false)).starts_with(r#"{"time": "noon", "method""#));
        let cdr = object(&record(Shape::Dialog, &[("s", Some(b"1.5")), ("e", Some(b"2.5")), ("d", Some(b"1.0")), ("x", Some(b"y"))]), &json(None, false));
        assert!(cdr.starts_with(r#"{"start_time": "1.5", "end_time": "2.5", "duration": "1.0", "x": "y""#), "{cdr}");
    }

    #[test]
    fn what_is_json_already_is_taken_if_it_is() {
        let values: [(&str, Option<&[u8]>); 4] =
            [("j_a", Some("{\"k\":\n[1,\"ü\"]}".as_bytes())), ("j_b", Some(b"{broken")), ("j_c", Some(b"7")), ("other", Some(b"{}"))];
        let o = object(&record(Shape::Flags, &values), &json(Some("j_"), false));
        assert!(o.contains(r#""j_a": {"k": [1,"\u00fc"]}, "j_b": "INVALID_JSON", "j_c": "INVALID_JSON", "other": "{}""#), "{o}");
        assert!(serde_json::from_str::<Value>(&o).is_ok());
    }

    #[test]
    fn datagrams_have_their_own_name() {
        let d = String::from_utf8(datagram(&json(None, false).records, 7, "{}")).unwrap();
        assert!(d.starts_with("<25>") && d.ends_with(" json_acc[7]: {}"), "{d}");
    }
}
