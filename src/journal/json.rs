//! Entries as JSON, for the dead-letter files and `accctl dump`.
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use crate::accounting::record::{Backend, EndCause, Field, Record};
use crate::accounting::visible::is_control;
use crate::journal::Payload;

/// Bytes as text; those that are not UTF-8 as `{"hex": "..."}`, so that nothing is changed.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(s) => Value::from(s),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

/// A value as one line. JSON leaves most control characters beyond ASCII unescaped; here all of them are escaped,
/// which does not change the value.
pub fn line(value: &Value) -> String {
    let text = value.to_string();
    if !text.chars().any(is_control) {
        return text;
    }
    text.chars().fold(String::with_capacity(text.len() + 16), |mut out, c| {
        if is_control(c) {
            out.push_str(&format!("\\u{:04x}", c as u32));
        } else {
            out.push(c);
        }
        out
    })
}

/// Two hexadecimal digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reverses [`hex`]; `None` for anything but pairs of hexadecimal digits.
pub fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let nibble = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    digits.chunks(2).map(|pair| if let [a, b] = pair { Some(nibble(*a)? << 4 | nibble(*b)?) } else { None }).collect()
}

fn fields(fields: &[Field]) -> Value {
    Value::Object(fields.iter().map(|f| (f.name.to_string(), f.value.as_deref().map_or(Value::Null, text))).collect::<Map<_, _>>())
}

/// A record with all its values. Times are µs since 1970, durations are milliseconds.
pub fn record(r: &Record) -> Value {
    let mut out = json!({
        "id": format!("{:032x}", r.id),
        "kind": r.kind.name(),
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
        "end_reason": Some(&r.signalling.end_reason).filter(|reason| !reason.is_empty()).map(|reason| text(reason)),
        "attempts": Some(r.signalling.attempts).filter(|n| *n > 0),
        "pdd_ms": r.signalling.pdd_ms,
        "ring_ms": r.ring_ms(),
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
        assert_eq!(unhex(hex(&[0, 1, 0xfe, 0xff]).as_bytes()), Some(vec![0, 1, 0xfe, 0xff]));
        assert_eq!(unhex(b"0"), None);
        assert_eq!(unhex(b"zz"), None);
    }

    #[test]
    fn no_control_character_stands_in_a_line() {
        let value = json!({ "a": "\u{1b}\u{7f}\u{85}\u{9b}31m gpj\u{202e} Zoë\u{2028}" });
        let line = line(&value);
        assert_eq!(line, "{\"a\":\"\\u001b\\u007f\\u0085\\u009b31m gpj\\u202e Zoë\\u2028\"}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }

    #[test]
    fn bytes_that_are_no_text_are_kept() {
        assert_eq!(payload(&Payload::LogLine(b"a\nb".to_vec())), json!({"line": "a\nb"}));
        assert_eq!(payload(&Payload::LogLine(vec![0xff])), json!({"line": {"hex": "ff"}}));
    }
}
