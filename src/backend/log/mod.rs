//! Log lines: `ACC: <text>: `, head and pairs, or a JSON object; and the syslog datagrams around them.
#![forbid(unsafe_code)]

mod envelope;
pub mod object;
mod settings;
pub mod syslog;

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use ::syslog::{Facility, Formatter3164, LogFormat};
use chrono::{DateTime, Local};

use crate::accounting::clock::Moment;
use crate::accounting::record::{Kind, Record, Shape};
use crate::accounting::visible::{put_visible, whole};
use crate::stats::{self, Counter};

pub use envelope::{Form, Writer, level_name};
pub use settings::{LineFormat, LogLines, facility, read};

/// Longest line: 64 KiB less one byte, which the original's buffer holds and datagram sockets accept
/// everywhere. A longer line is cut, counted and reported (D19).
pub const MAX_LINE: usize = 65_535;

/// This process has already logged that a line was cut.
static SAID: AtomicBool = AtomicBool::new(false);

const fn text(kind: Kind) -> &'static str {
    match kind {
        Kind::Transaction => "transaction answered",
        Kind::Missed => "call missed",
        Kind::Manual => "request accounted",
        Kind::Cdr => "call ended",
        Kind::Ack => "request acknowledged",
        Kind::Start => "call begun",
        Kind::Interim => "call up",
    }
}

const CORE_NAMES: [&str; 6] = ["method", "from_tag", "to_tag", "call_id", "code", "reason"];

/// The line of a record, without the host's prefix.
pub fn line(record: &Record) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    if record.shape == Shape::Dialog {
        for f in &record.extras {
            out.extend_from_slice(if out.is_empty() { b"" } else { b"; " });
            out.extend_from_slice(f.name.as_bytes());
            out.push(b'=');
            put_visible(&mut out, f.value.as_deref().unwrap_or_default());
        }
        return cut(out, record);
    }
    // Writing to a Vec cannot fail.
    let _ = head(&mut out, record);
    let (stamp, extras) = record.extras.split_at(usize::from(record.shape == Shape::Stamped).min(record.extras.len()));
    let mut pair = |name: &str, value: &[u8]| {
        out.push(b';');
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        put_visible(&mut out, value);
    };
    for f in stamp {
        pair(&f.name, f.value.as_deref().unwrap_or_default());
    }
    for (name, value) in CORE_NAMES.iter().zip(record.core.values()) {
        pair(name, value);
    }
    for f in extras.iter().chain(record.legs.iter().flatten()) {
        pair(&f.name, f.value.as_deref().unwrap_or_default());
    }
    cut(out, record)
}

/// What precedes the pairs that all lines have.
fn head(out: &mut Vec<u8>, record: &Record) -> io::Result<()> {
    let (time, setup) = (record.time.seconds(), record.setup_seconds());
    write!(out, "ACC: {}: ", text(record.kind))?;
    match (record.kind, record.times) {
        (Kind::Cdr, times) => {
            write!(out, "created={};call_start_time={time};duration={};", times.map_or(0, |t| t.created.seconds()), record.duration_seconds())?;
            if record.shape == Shape::Context {
                write!(out, "ms_duration={};", record.duration_ms.unwrap_or(0))?;
            }
            write!(out, "setuptime={setup}")
        }
        (_, Some(t)) => write!(out, "timestamp={time};created={};setuptime={setup}", t.created.seconds()),
        (_, None) => write!(out, "timestamp={time}"),
    }
}

/// Cuts a line to [`MAX_LINE`].
fn cut(mut out: Vec<u8>, record: &Record) -> Vec<u8> {
    if out.len() > MAX_LINE {
        say_cut(out.len(), record);
        out.truncate(whole(&out, MAX_LINE));
    }
    out
}

/// A line of this many bytes was cut: counts it, and logs that once.
fn say_cut(length: usize, record: &Record) {
    stats::add(Counter::Clipped, 1);
    if !SAID.swap(true, Ordering::Relaxed) {
        log::warn!(
            "a log line of {length} bytes was cut at {MAX_LINE}: call-id {}; further ones are counted, not logged",
            String::from_utf8_lossy(&record.core.callid[..record.core.callid.len().min(100)]).escape_debug()
        );
    }
}

/// Head of a datagram: up to the message, with room for the time.
struct Head {
    of: (i32, i32, String, u32),
    text: Vec<u8>,
    /// Where the time is.
    stamp: usize,
    /// The time that is there, in seconds since 1970.
    second: Option<i64>,
}

thread_local! {
    /// The head of the last line: the next one usually differs only in the time.
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
        Head { of: (level, facility, name.into(), pid), text, stamp, second: None }
    }

    /// Sets its time, in seconds since 1970.
    fn set_time(&mut self, second: i64) {
        if self.second == Some(second) {
            return;
        }
        // The formatter writes UTC, and days below 10 with a zero; RFC 3164 §4.1.2 wants local time
        // and a blank.
        let now = DateTime::from_timestamp(second, 0).unwrap_or_default().with_timezone(&Local);
        let stamp = now.format("%b %e %H:%M:%S").to_string();
        if let Some(place) = self.text.get_mut(self.stamp..self.stamp + stamp.len()) {
            place.copy_from_slice(stamp.as_bytes());
        }
        self.second = Some(second);
    }

    fn is_of(&self, level: i32, facility: i32, name: &str, pid: u32) -> bool {
        (self.of.0, self.of.1, &*self.of.2, self.of.3) == (level, facility, name, pid)
    }
}

/// A syslog datagram (RFC 3164) for a message of these parts, which may contain any bytes. `facility` is as in
/// `<syslog.h>`.
pub fn datagram(level: i32, facility: i32, name: &str, pid: u32, message: &[&[u8]]) -> Vec<u8> {
    HEAD.with(|h| {
        let mut kept = h.borrow_mut();
        let head = match &mut *kept {
            Some(head) if head.is_of(level, facility, name, pid) => head,
            other => other.insert(Head::new(level, facility, name, pid)),
        };
        head.set_time(Moment::wall_now().seconds());
        let mut out = Vec::with_capacity(head.text.len() + message.iter().map(|part| part.len()).sum::<usize>());
        out.extend_from_slice(&head.text);
        message.iter().for_each(|part| out.extend_from_slice(part));
        out
    })
}

/// [`datagram`] for a line in this format of the host's log.
pub fn host_datagram(form: Form, level: i32, facility: i32, writer: Writer<'_>, text: &[u8]) -> Vec<u8> {
    let of = |message: &[&[u8]]| datagram(level, facility, writer.name, writer.pid, message);
    match form.syslog_object(level, writer, text) {
        None => of(&[writer.prefix.as_bytes(), level_name(level).as_bytes(), b":", text]),
        Some(object) => of(&[object.as_bytes()]),
    }
}

fn facility_of(facility: i32) -> Facility {
    let name = settings::facility_name(facility);
    name.to_ascii_lowercase().parse().unwrap_or(Facility::LOG_DAEMON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::clock::Wall;
    use crate::accounting::record::{Backend, Core, Field, Signalling, Times};

    fn record(kind: Kind) -> Record {
        Record {
            kind,
            shape: Shape::Context,
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
            signalling: Signalling::default(),
            reported: false,
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
        // Nor is an escape cut in two.
        for before in 0..4 {
            r.extras[0].value = Some([vec![b'x'; before], vec![0x1b; 70_000]].concat());
            let line = line(&r);
            assert!(line.len() > MAX_LINE - 4 && line.ends_with(b"\\x1b"), "{before}");
        }
        assert!(stats::get(Counter::Clipped) > before);
    }

    #[test]
    fn datagrams_carry_facility_level_name_and_process() {
        let writer = Writer { prefix: "edge:", name: "opensips", pid: 42 };
        let d = String::from_utf8(host_datagram(Form::Plain, 2, 3 << 3, writer, b"ACC: x")).unwrap();
        assert!(d.ends_with("]: edge:NOTICE:ACC: x"), "{d}");
        let d = String::from_utf8(host_datagram(Form::Cee, 2, 3 << 3, writer, b"ACC: x")).unwrap();
        assert!(d.contains("]: @cee: {\"time\": "), "{d}");
        let d = String::from_utf8(datagram(2, 3 << 3, "opensips", 42, &[b"NOTICE:", b"ACC: x"])).unwrap();
        assert!(d.starts_with("<29>") && d.ends_with(" opensips[42]: NOTICE:ACC: x"), "{d}");
        assert!(String::from_utf8(datagram(-1, 21 << 3, "o", 1, &[])).unwrap().starts_with("<171>"));
        assert_eq!(d.as_bytes()[19], b' ', "the stamp takes 15 characters: {d}");
        let again = String::from_utf8(datagram(2, 3 << 3, "opensips", 42, &[b"NOTICE:other"])).unwrap();
        assert!(again.starts_with("<29>") && again.ends_with(" opensips[42]: NOTICE:other"), "{again}");
        let other = String::from_utf8(datagram(2, 3 << 3, "opensips", 43, &[b"x"])).unwrap();
        assert!(other.ends_with(" opensips[43]: x"), "{other}");
        // The time is written again only if the second has changed.
        let mut head = Head::new(2, 3 << 3, "opensips", 42);
        let mut stamp = |second| {
            head.set_time(second);
            String::from_utf8(head.text[head.stamp..head.stamp + 15].to_vec()).unwrap()
        };
        let [a, again, b] = [1_700_000_000, 1_700_000_000, 1_700_000_061].map(&mut stamp);
        assert!(a == again && a.starts_with("Nov 1") && (a.ends_with(":20"), b.ends_with(":21")) == (true, true), "{a} {b}");
    }
}
