//! Log lines: `ACC: <text>: ` + head + pairs, and the syslog datagram around one.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::Local;
use syslog::{Facility, Formatter3164, LogFormat};

use crate::acc::record::{Kind, Record};
use crate::stats::{self, Counter};

/// Longest line: 64 KiB less one, what the original's buffer holds and datagram sockets take
/// everywhere. What is longer is cut there, counted and said (D19).
pub const MAX_LINE: usize = 65_535;

/// A cut line was logged by this process.
static SAID: AtomicBool = AtomicBool::new(false);

const fn text(kind: Kind) -> &'static str {
    match kind {
        Kind::Transaction => "transaction answered",
        Kind::Missed => "call missed",
        Kind::Manual => "request accounted",
        Kind::Cdr => "call ended",
    }
}

const CORE_NAMES: [&str; 6] = ["method", "from_tag", "to_tag", "call_id", "code", "reason"];

/// Control characters never break a line: they are written `\xNN` (D9).
fn put_escaped(out: &mut Vec<u8>, value: &[u8]) {
    for b in value {
        match b {
            0..=0x1f | 0x7f => out.extend_from_slice(format!("\\x{b:02x}").as_bytes()),
            _ => out.push(*b),
        }
    }
}

/// The line of a record, without the host's prefix.
pub fn line(record: &Record) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let head = match (record.kind, record.times) {
        (Kind::Cdr, times) => format!(
            "created={};call_start_time={};duration={};ms_duration={};setuptime={}",
            times.map_or(0, |t| t.created.seconds()),
            record.time.seconds(),
            record.duration_seconds(),
            record.duration_ms.unwrap_or(0),
            record.setup_seconds()
        ),
        (_, Some(t)) => format!("timestamp={};created={};setuptime={}", record.time.seconds(), t.created.seconds(), record.setup_seconds()),
        (_, None) => format!("timestamp={}", record.time.seconds()),
    };
    out.extend_from_slice(format!("ACC: {}: {head}", text(record.kind)).as_bytes());
    let mut pair = |name: &str, value: &[u8]| {
        out.push(b';');
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        put_escaped(&mut out, value);
    };
    for (name, value) in CORE_NAMES.iter().zip(record.core.values()) {
        pair(name, value);
    }
    for f in record.extras.iter().chain(record.legs.iter().flatten()) {
        pair(&f.name, f.value.as_deref().unwrap_or_default());
    }
    if out.len() > MAX_LINE {
        stats::add(Counter::Clipped, 1);
        if !SAID.swap(true, Ordering::Relaxed) {
            log::warn!(
                "a log line of {} bytes was cut at {MAX_LINE}: call-id {}; further ones are counted, not logged",
                out.len(),
                String::from_utf8_lossy(&record.core.callid[..record.core.callid.len().min(100)]).escape_debug()
            );
        }
        out.truncate(MAX_LINE);
    }
    out
}

/// Name of a host level, as it stands before the text of a line.
pub const fn level_name(level: i32) -> &'static str {
    match level {
        ..=-3 => "ALERT",
        -2 => "CRITICAL",
        -1 | 0 => "ERROR",
        1 => "WARNING",
        2 => "NOTICE",
        3 => "INFO",
        4.. => "DBG",
    }
}

/// Head of a datagram: up to the message, with room for the time.
struct Head {
    of: (i32, i32, String, u32),
    text: Vec<u8>,
    /// Where the time stands.
    stamp: usize,
}

thread_local! {
    /// Of the last line: the next one mostly differs in the time alone.
    static HEAD: RefCell<Option<Head>> = const { RefCell::new(None) };
}

impl Head {
    fn new(level: i32, facility: i32, name: &str, pid: u32) -> Head {
        let mut formatter = Formatter3164 { facility: facility_of(facility), hostname: None, process: name.into(), pid };
        let mut text = Vec::with_capacity(64);
        // Writing to a Vec cannot fail.
        let _ = match level {
            ..=-3 => formatter.alert(&mut text, ""),
            -2 => formatter.crit(&mut text, ""),
            -1 | 0 => formatter.err(&mut text, ""),
            1 => formatter.warning(&mut text, ""),
            2 => formatter.notice(&mut text, ""),
            3 => formatter.info(&mut text, ""),
            4.. => formatter.debug(&mut text, ""),
        };
        let stamp = text.iter().position(|b| *b == b'>').map_or(0, |p| p + 1);
        Head { of: (level, facility, name.into(), pid), text, stamp }
    }

    fn is_of(&self, level: i32, facility: i32, name: &str, pid: u32) -> bool {
        (self.of.0, self.of.1, &*self.of.2, self.of.3) == (level, facility, name, pid)
    }
}

/// A syslog datagram (RFC 3164) for `message`, which may hold any bytes. `facility` as in
/// `<syslog.h>`.
pub fn datagram(level: i32, facility: i32, name: &str, pid: u32, message: &[u8]) -> Vec<u8> {
    HEAD.with(|h| {
        let mut kept = h.borrow_mut();
        let head = match &mut *kept {
            Some(head) if head.is_of(level, facility, name, pid) => head,
            other => other.insert(Head::new(level, facility, name, pid)),
        };
        // The formatter stamps UTC with a zero before a short day; RFC 3164 §4.1.2 wants local time
        // and a blank.
        let stamp = Local::now().format("%b %e %H:%M:%S").to_string();
        if let Some(place) = head.text.get_mut(head.stamp..head.stamp + stamp.len()) {
            place.copy_from_slice(stamp.as_bytes());
        }
        [&head.text, message].concat()
    })
}

fn facility_of(facility: i32) -> Facility {
    let name = crate::config::facility_name(facility);
    name.to_ascii_lowercase().parse().unwrap_or(Facility::LOG_DAEMON)
}

/// The line as it is printed on stderr: time, process, prefix, level, text.
pub fn stderr_line(level: i32, prefix: &str, pid: u32, message: &[u8]) -> Vec<u8> {
    let mut out = format!("{} [{pid}] {prefix}{}:", Local::now().format("%b %e %H:%M:%S"), level_name(level)).into_bytes();
    out.extend_from_slice(message);
    out.push(b'\n');
    out
}

/// A message of the module's own with control characters made visible.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        let mut out = Vec::new();
        put_escaped(&mut out, text.as_bytes());
        Cow::Owned(String::from_utf8_lossy(&out).into_owned())
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acc::record::{Backend, Core, Field, Times, Wall};

    fn record(kind: Kind) -> Record {
        Record {
            kind,
            backend: Backend::Log,
            table: "".into(),
            core: Core {
                method: b"INVITE".into(),
                from_tag: b"f".into(),
                to_tag: b"t".into(),
                callid: b"c\r\n1".into(),
                code: b"200".into(),
                reason: b"OK".into(),
            },
            time: Wall(1_700_000_003_900_000),
            times: Some(Times { created: Wall(1_700_000_000_000_000), setup_ms: 3900 }),
            duration_ms: (kind == Kind::Cdr).then_some(1001),
            end: None,
            in_dialog: false,
            extras: vec![Field { name: "x".into(), value: Some(b"\x1b\x7f;=\"".into()) }, Field { name: "y".into(), value: None }],
            legs: vec![vec![Field { name: "l".into(), value: Some(b"1".into()) }], vec![Field { name: "l".into(), value: None }]],
            id: 0,
        }
    }

    #[test]
    fn lines_have_the_documented_shape() {
        let tail = ";method=INVITE;from_tag=f;to_tag=t;call_id=c\\x0d\\x0a1;code=200;reason=OK;x=\\x1b\\x7f;=\";y=;l=1;l=";
        let cases = [
            (Kind::Transaction, "ACC: transaction answered: timestamp=1700000003;created=1700000000;setuptime=3"),
            (Kind::Missed, "ACC: call missed: timestamp=1700000003;created=1700000000;setuptime=3"),
            (Kind::Cdr, "ACC: call ended: created=1700000000;call_start_time=1700000003;duration=2;ms_duration=1001;setuptime=3"),
        ];
        for (kind, head) in cases {
            assert_eq!(String::from_utf8(line(&record(kind))).unwrap(), format!("{head}{tail}"));
        }
        let mut manual = record(Kind::Manual);
        manual.times = None;
        assert!(String::from_utf8(line(&manual)).unwrap().starts_with("ACC: request accounted: timestamp=1700000003;method=INVITE;"));
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_counted() {
        let before = stats::get(Counter::Clipped);
        let mut r = record(Kind::Cdr);
        r.extras[0].value = Some(vec![b'x'; 70_000]);
        assert_eq!(line(&r).len(), MAX_LINE);
        assert!(stats::get(Counter::Clipped) > before);
    }

    #[test]
    fn datagrams_carry_facility_level_name_and_process() {
        let d = String::from_utf8(datagram(2, 3 << 3, "opensips", 42, b"NOTICE:ACC: x")).unwrap();
        assert!(d.starts_with("<29>") && d.ends_with(" opensips[42]: NOTICE:ACC: x"), "{d}");
        assert!(String::from_utf8(datagram(-1, 21 << 3, "o", 1, b"")).unwrap().starts_with("<171>"));
        assert_eq!(d.as_bytes()[19], b' ', "the stamp takes 15 characters: {d}");
        let again = String::from_utf8(datagram(2, 3 << 3, "opensips", 42, b"NOTICE:other")).unwrap();
        assert!(again.starts_with("<29>") && again.ends_with(" opensips[42]: NOTICE:other"), "{again}");
        let other = String::from_utf8(datagram(2, 3 << 3, "opensips", 43, b"x")).unwrap();
        assert!(other.ends_with(" opensips[43]: x"), "{other}");
    }
}
