//! Entries as JSON, for the dead-letter files and `accctl dump`.
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use crate::acc::context::EndCause;
use crate::acc::record::{Backend, Field, Kind, Record};
use crate::backend::Payload;

/// Bytes as text; those that are not UTF-8 as `{"hex": "..."}`, so that nothing is changed.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(s) => Value::from(s),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

/// Two hexadecimal digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reverses [`hex`].
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    digits.as_bytes().chunks(2).map(|pair| if let [a, b] = pair { Some(nibble(*a)? << 4 | nibble(*b)?) } else { None }).collect()
}

fn fields(fields: &[Field]) -> Value {
    Value::Object(fields.iter().map(|f| (f.name.to_string(), f.value.as_deref().map_or(Value::Null, text))).collect::<Map<_, _>>())
}

/// A record with all its values. Times are µs since 1970, spans are milliseconds.
pub fn record(r: &Record) -> Value {
    let kind = match r.kind {
        Kind::Transaction => "transaction",
        Kind::Missed => "missed",
        Kind::Manual => "manual",
        Kind::Cdr => "cdr",
    };
    let mut out = json!({
        "id": format!("{:032x}", r.id),
        "kind": kind,
        "backend": r.backend.name(),
        "method": text(&r.core.method),
        "from_tag": text(&r.core.from_tag),
        "to_tag": text(&r.core.to_tag),
        "callid": text(&r.core.callid),
        "sip_code": text(&r.core.code),
        "sip_reason": text(&r.core.reason),
        "time": r.time.0,
        "created": r.times.map(|t| t.created.0),
        "setup_ms": r.times.map(|t| t.setup_ms),
        "duration_ms": r.duration_ms,
        "end_cause": r.end.map(EndCause::cause),
        "end_side": r.end.map(EndCause::side),
        "extras": fields(&r.extras),
        "legs": r.legs.iter().map(|l| fields(l)).collect::<Vec<_>>(),
    });
    if r.backend == Backend::Db {
        out["table"] = Value::from(&*r.table);
    }
    out
}

/// Any entry.
pub fn payload(p: &Payload) -> Value {
    match p {
        Payload::Record(r) => json!({ "record": record(r) }),
        Payload::LogLine(line) => json!({ "line": text(line) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_reversible_and_checked() {
        assert_eq!(unhex(&hex(&[0, 1, 0xfe, 0xff])), Some(vec![0, 1, 0xfe, 0xff]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }

    #[test]
    fn bytes_that_are_no_text_are_kept() {
        assert_eq!(payload(&Payload::LogLine(b"a\nb".to_vec())), json!({"line": "a\nb"}));
        assert_eq!(payload(&Payload::LogLine(vec![0xff])), json!({"line": {"hex": "ff"}}));
    }
}
