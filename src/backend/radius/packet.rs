//! Encodes a record as an Accounting-Request (RFC 2866 §4.1), and checks the response.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use radius::core::avp::AVP;
use radius::core::code::Code;
use radius::core::packet::{Packet, PacketError};
use subtle::ConstantTimeEq;

use super::conf::Secret;
use super::dictionary::{Attribute, Dictionary, Type};
use crate::accounting::record::{Field, Kind, Record, Shape};
use crate::journal::json::unhex;
use crate::stats::{self, Counter};

/// Longest packet (RFC 2865 §3).
pub const MAX_PACKET: usize = 4096;
/// Code, identifier, length and authenticator (RFC 2865 §3).
pub const HEADER: usize = 20;
/// Longest value: the length field is one byte and counts type and itself (RFC 2865 §5).
pub const MAX_VALUE: usize = 253;
/// Type and length of an attribute.
const AVP_HEADER: usize = 2;
/// In a full packet, values are not clipped to less than this: shorter pieces would be useless.
const SHORTEST: usize = 16;
/// Vendor-Specific (RFC 2865 §5.26).
const VENDOR_SPECIFIC: u8 = 26;
/// Acct-Session-Time (RFC 2866 §5.7).
const SESSION_TIME: &str = "Acct-Session-Time";
/// Message-Authenticator (RFC 3579 §3.2).
const MESSAGE_AUTHENTICATOR: u8 = 80;
/// Service-Type when neither parameter nor dictionary says otherwise: Sip-Session.
const SIP_SESSION: u32 = 15;

/// An attribute as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Avp {
    /// Type field.
    pub code: u8,
    /// Value, at most [`MAX_VALUE`] bytes.
    pub value: Vec<u8>,
}

impl Avp {
    /// A 32-bit number.
    pub fn integer(code: u8, value: u32) -> Avp {
        Avp { code, value: value.to_be_bytes().to_vec() }
    }

    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        AVP_HEADER + self.value.len()
    }
}

/// The attributes of every record, resolved once.
struct Standard {
    status: Attribute,
    service: Attribute,
    code: Attribute,
    method: Attribute,
    timestamp: Attribute,
    from_tag: Attribute,
    to_tag: Attribute,
    session: Attribute,
    duration: Attribute,
    setup: Attribute,
    created: Attribute,
    ms_duration: Attribute,
    session_time: Attribute,
}

/// Acct-Status-Type values (RFC 2866 §5.1).
struct Status {
    start: i64,
    stop: i64,
    alive: i64,
    failed: i64,
}

/// A value before its attribute decides how it is written.
enum Value<'a> {
    Number(i64),
    Bytes(&'a [u8]),
}

/// An attribute with its value, not yet packed.
struct Item {
    attribute: Attribute,
    value: Vec<u8>,
    /// It is of an extra or leg, and so is clipped first when the packet is full.
    optional: bool,
}

impl Item {
    /// Bytes of the item without its value.
    fn overhead(&self) -> usize {
        AVP_HEADER + vendor_overhead(&self.attribute)
    }

    fn size(&self) -> usize {
        self.overhead() + self.value.len()
    }

    /// May the value be clipped? Part of an address or number would be a wrong one; part of a text is still a text.
    fn can_clip(&self) -> bool {
        self.optional && matches!(self.attribute.kind, Type::Text | Type::Octets)
    }
}

/// Makes attribute lists from records.
pub struct Encoder {
    dictionary: Dictionary,
    standard: Standard,
    status: Status,
    service_type: u32,
    /// Names of extra and leg fields; `None` = a name the dictionary does not know, met in a
    /// record that an earlier configuration left behind.
    names: HashMap<String, Option<Attribute>>,
    /// Attributes already logged, so that each is logged once.
    told: HashSet<(String, &'static str)>,
}

impl Encoder {
    /// Resolves the standard attributes and `names`, the attributes of extra and leg fields.
    ///
    /// # Errors
    /// A name that the dictionary lacks or whose type no field can be written to, with the
    /// dictionary's file and what to add.
    pub fn new(dictionary: Dictionary, service_type: Option<u32>, names: &[&str]) -> Result<Encoder, String> {
        let find = |name: &str, what: &str| -> Result<Attribute, String> {
            let a = dictionary.attribute(name).ok_or_else(|| {
                format!("{dictionary}: no attribute '{name}' ({what}); correct the name or add a line 'ATTRIBUTE {name} NUMBER TYPE' to the dictionary")
            })?;
            match &a.kind {
                Type::Unusable(kind) => {
                    Err(format!("{dictionary}: attribute '{name}' ({what}) is of type {kind}, which cannot hold a value; use another attribute"))
                }
                _ => Ok(a.clone()),
            }
        };
        let own = |name: &str| find(name, "part of every record");
        let standard = Standard {
            status: own("Acct-Status-Type")?,
            service: own("Service-Type")?,
            code: own("Sip-Response-Code")?,
            method: own("Sip-Method")?,
            timestamp: own("Event-Timestamp")?,
            from_tag: own("Sip-From-Tag")?,
            to_tag: own("Sip-To-Tag")?,
            session: own("Acct-Session-Id")?,
            duration: own("Sip-Call-Duration")?,
            setup: own("Sip-Call-Setuptime")?,
            created: own("Sip-Call-Created")?,
            ms_duration: own("Sip-Call-MSDuration")?,
            // Only calls with start and interim records need it, so it may be missing in a dictionary.
            session_time: own(SESSION_TIME).unwrap_or_else(|_| Attribute { name: SESSION_TIME.into(), code: 46, kind: Type::Integer(4), vendor: None }),
        };
        let mut resolved = HashMap::with_capacity(names.len());
        for name in names {
            resolved.insert((*name).to_owned(), Some(find(name, "an extra or leg of backend aaa")?));
        }
        let value = |name: &str, default: i64| dictionary.value("Acct-Status-Type", name).and_then(|v| i64::try_from(v).ok()).unwrap_or(default);
        let status = Status { start: value("Start", 1), stop: value("Stop", 2), alive: value("Alive", 3), failed: value("Failed", 15) };
        let in_dictionary = dictionary.value("Service-Type", "Sip-Session").and_then(|v| u32::try_from(v).ok());
        let service_type = service_type.or(in_dictionary).unwrap_or(SIP_SESSION);
        Ok(Encoder { dictionary, standard, status, service_type, names: resolved, told: HashSet::new() })
    }

    /// The attributes of a record in at most `room` bytes, in the order of the original.
    ///
    /// Empty and unset values are left out, and so are values that their attribute cannot hold
    /// (counted in `aaa_omitted`). A value too long for its attribute is clipped to
    /// [`MAX_VALUE`] bytes; if the packet would still be too long, the longest extra and leg
    /// values are clipped further, down to 16 bytes, and then the last ones left out (D19). All
    /// of it is counted, in `clipped` and `aaa_omitted`, and logged once for each attribute.
    pub fn attributes(&mut self, record: &Record, room: usize) -> Vec<Avp> {
        let mut items = Vec::with_capacity(12 + record.extras.len());
        let core = &record.core;
        let bytes = |v: &'_ [u8]| -> Option<Vec<u8>> { (!v.is_empty()).then(|| v.to_vec()) };
        let s = &self.standard;
        let mut own = |attribute: &Attribute, value: Value<'_>| {
            let value = match value {
                Value::Bytes(v) => bytes(v),
                number => write(&self.dictionary, attribute, &number),
            };
            items.extend(value.map(|value| Item { attribute: attribute.clone(), value, optional: false }));
        };
        own(&s.status, Value::Number(self.status.of(record)));
        own(&s.service, Value::Number(self.service_type.into()));
        own(&s.code, Value::Number(core.code_number().into()));
        own(&s.method, Value::Number(method_bit(&core.method, record.shape).into()));
        own(&s.timestamp, Value::Number(unsigned(record.timestamp().seconds())));
        own(&s.from_tag, Value::Bytes(&core.from_tag));
        own(&s.to_tag, Value::Bytes(&core.to_tag));
        own(&s.session, Value::Bytes(&core.callid));
        if record.shape == Shape::Context {
            self.times(record, &mut items);
        }
        for field in &record.extras {
            items.extend(self.field(field));
        }
        if record.shape != Shape::Context {
            self.times(record, &mut items);
        }
        for field in record.legs.iter().flatten() {
            items.extend(self.field(field));
        }
        for item in &mut items {
            let most = MAX_VALUE - vendor_overhead(&item.attribute);
            if clip(item, most) {
                stats::add(Counter::Clipped, 1);
                once(&mut self.told, &item.attribute.name, "clipped to what an attribute can hold (RFC 2865 §5)");
            }
        }
        self.shrink(&mut items, room);
        items.iter().map(pack).collect()
    }

    /// The record's times, in the form of its shape.
    fn times(&self, record: &Record, items: &mut Vec<Item>) {
        let s = &self.standard;
        let is_cdr = record.kind == Kind::Cdr;
        let has_duration = is_cdr || record.kind == Kind::Interim;
        let mut own = |attribute: &Attribute, n: i64| {
            let value = write(&self.dictionary, attribute, &Value::Number(unsigned(n)));
            items.extend(value.map(|value| Item { attribute: attribute.clone(), value, optional: false }));
        };
        if has_duration && record.reported {
            own(&s.session_time, record.duration_seconds());
        }
        if has_duration {
            own(&s.duration, record.duration_seconds());
        }
        if let Some(times) = record.times {
            own(&s.setup, record.setup_seconds());
            if record.shape == Shape::Context || !is_cdr {
                own(&s.created, times.created.seconds());
            }
        }
        if has_duration && record.shape == Shape::Context {
            own(&s.ms_duration, record.duration_ms.unwrap_or(0));
        }
    }

    /// An extra or leg value, unless it is unset, empty or cannot be written.
    fn field(&mut self, field: &Field) -> Option<Item> {
        let value = field.value.as_deref().filter(|v| !v.is_empty())?;
        if !self.names.contains_key(&*field.name) {
            let known = self.dictionary.attribute(&field.name).filter(|a| !matches!(a.kind, Type::Unusable(_))).cloned();
            self.names.insert(field.name.to_string(), known);
        }
        let attribute = self.names.get(&*field.name).cloned().flatten();
        let written =
            attribute.and_then(|attribute| write(&self.dictionary, &attribute, &Value::Bytes(value)).map(|value| Item { attribute, value, optional: true }));
        if written.is_none() {
            stats::add(Counter::AaaOmitted, 1);
            once(&mut self.told, &field.name, "left out: the attribute is unknown or its type cannot hold the value");
        }
        written
    }

    /// Clips the longest optional values until the items take no more than `room` bytes.
    fn shrink(&mut self, items: &mut Vec<Item>, room: usize) {
        let total =
            |items: &[Item], most: usize| -> usize { items.iter().map(|i| if i.can_clip() { i.overhead() + i.value.len().min(most) } else { i.size() }).sum() };
        if total(items, MAX_VALUE) <= room {
            return;
        }
        // The size falls with the limit, so the first limit that fits clips least.
        let most = (SHORTEST..MAX_VALUE).rev().find(|&most| total(items, most) <= room).unwrap_or(SHORTEST);
        for item in items.iter_mut() {
            if item.can_clip() && clip(item, most) {
                stats::add(Counter::Clipped, 1);
                once(&mut self.told, &item.attribute.name, "clipped because the packet would exceed 4096 bytes (RFC 2865 §3)");
            }
        }
        // There are hundreds of legs: the last values are left out.
        let mut size: usize = items.iter().map(Item::size).sum();
        while size > room {
            let Some(last) = items.pop() else { break };
            size -= last.size();
            stats::add(Counter::AaaOmitted, 1);
            once(&mut self.told, &last.attribute.name, "left out because the packet would exceed 4096 bytes (RFC 2865 §3)");
        }
    }
}

/// Logs once per attribute what happened to a value, without the value.
fn once(told: &mut HashSet<(String, &'static str)>, attribute: &str, what: &'static str) {
    if told.insert((attribute.to_owned(), what)) {
        log::warn!("RADIUS attribute {attribute}: a value was {what}; further ones are counted, not logged");
    }
}

impl Status {
    fn of(&self, record: &Record) -> i64 {
        match status_type(record) {
            StatusType::Start => self.start,
            StatusType::Stop => self.stop,
            StatusType::Alive => self.alive,
            StatusType::Failed => self.failed,
        }
    }
}

/// Acct-Status-Type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusType {
    /// A call begins.
    Start,
    /// A call ends.
    Stop,
    /// A call goes on.
    Alive,
    /// There is no call.
    Failed,
}

/// What a record says about its call.
pub fn status_type(record: &Record) -> StatusType {
    let answered = (200..300).contains(&record.core.code_number());
    match record.core.method.as_slice() {
        _ if record.kind == Kind::Cdr => StatusType::Stop,
        _ if record.kind == Kind::Start => StatusType::Start,
        _ if record.kind == Kind::Interim => StatusType::Alive,
        b"BYE" | b"CANCEL" => StatusType::Stop,
        b"INVITE" if answered && !record.in_dialog => StatusType::Start,
        _ if record.in_dialog => StatusType::Alive,
        _ => StatusType::Failed,
    }
}

/// The host's number for a method, which Sip-Method carries: one bit for each method.
pub fn method_bit(method: &[u8], shape: Shape) -> u32 {
    let known = match shape {
        Shape::Kamailio => METHODS_OF_KAMAILIO,
        _ => METHODS_OF_OPENSIPS,
    };
    let at = known.iter().position(|m| m.as_bytes() == method).unwrap_or(known.len());
    1 << at
}

const METHODS_OF_OPENSIPS: &[&str] =
    &["INVITE", "CANCEL", "ACK", "BYE", "INFO", "OPTIONS", "UPDATE", "REGISTER", "MESSAGE", "SUBSCRIBE", "NOTIFY", "PRACK", "REFER", "PUBLISH"];
const METHODS_OF_KAMAILIO: &[&str] =
    &["INVITE", "CANCEL", "ACK", "BYE", "INFO", "REGISTER", "SUBSCRIBE", "NOTIFY", "MESSAGE", "OPTIONS", "PRACK", "UPDATE", "REFER", "PUBLISH"];

/// A time or duration in the 32 unsigned bits of its attribute.
fn unsigned(n: i64) -> i64 {
    n.clamp(0, u32::MAX.into())
}

/// A value in the form of its attribute; `None` if the attribute cannot hold it.
fn write(dictionary: &Dictionary, attribute: &Attribute, value: &Value<'_>) -> Option<Vec<u8>> {
    let text = || match value {
        Value::Number(_) => None,
        Value::Bytes(b) => std::str::from_utf8(b).ok().map(str::trim),
    };
    let number = |bytes: u8| -> Option<Vec<u8>> {
        let n: i128 = match value {
            Value::Number(n) => (*n).into(),
            // A number, or the name of a VALUE of the dictionary.
            Value::Bytes(_) => text().and_then(|t| t.parse().ok().or_else(|| dictionary.value(&attribute.name, t).map(i128::from)))?,
        };
        let bits = u32::from(bytes) * 8;
        // Negative numbers are sent as two's complement: integers of the dictionaries have no sign (D17).
        let fits = (-(1i128 << (bits - 1))..1i128 << bits).contains(&n);
        fits.then(|| n.to_be_bytes()[16 - usize::from(bytes)..].to_vec())
    };
    match (&attribute.kind, value) {
        (Type::Text | Type::Octets, Value::Number(n)) => Some(n.to_string().into_bytes()),
        (Type::Octets, Value::Bytes(b)) => Some(b.strip_prefix(b"0x").and_then(unhex).unwrap_or_else(|| b.to_vec())),
        (Type::Text, Value::Bytes(b)) => Some(b.to_vec()),
        (Type::Integer(bytes), _) => number(*bytes),
        (Type::Date, _) => number(4),
        (Type::Ipv4, _) => text()?.parse::<Ipv4Addr>().ok().map(|a| a.octets().to_vec()),
        (Type::Ipv6, _) => text()?.parse::<Ipv6Addr>().ok().map(|a| a.octets().to_vec()),
        (Type::Ip, _) => text()?.parse::<IpAddr>().ok().map(|a| match a {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        }),
        (Type::Unusable(_), _) => None,
    }
}

/// Shortens a value to `most` bytes, not in the middle of a UTF-8 character of a text; true if
/// something was cut.
fn clip(item: &mut Item, most: usize) -> bool {
    if item.value.len() <= most {
        return false;
    }
    let mut end = most;
    if item.attribute.kind == Type::Text && std::str::from_utf8(&item.value).is_ok() {
        // 0b10xxxxxx continues a character; one has at most four bytes.
        while end > 0 && item.value[end] & 0xC0 == 0x80 {
            end -= 1;
        }
    }
    item.value.truncate(end);
    true
}

/// Bytes that the vendor's header takes from an attribute's value.
fn vendor_overhead(attribute: &Attribute) -> usize {
    attribute.vendor.map_or(0, |v| 4 + usize::from(v.type_size) + usize::from(v.length_size) + usize::from(v.continuation))
}

fn pack(item: &Item) -> Avp {
    let Some(vendor) = item.attribute.vendor else {
        // Numbers above 255 are unusable to the dictionary: the low byte is the number.
        return Avp { code: item.attribute.code as u8, value: item.value.clone() };
    };
    let mut value = Vec::with_capacity(vendor_overhead(&item.attribute) + item.value.len());
    value.extend(vendor.id.to_be_bytes());
    value.extend(&item.attribute.code.to_be_bytes()[4 - usize::from(vendor.type_size)..]);
    let length = vendor_overhead(&item.attribute) - 4 + item.value.len();
    value.extend(&(length as u16).to_be_bytes()[2 - usize::from(vendor.length_size)..]);
    if vendor.continuation {
        // No more parts follow.
        value.push(0);
    }
    value.extend(&item.value);
    Avp { code: VENDOR_SPECIFIC, value }
}

/// The packet with its Request Authenticator: MD5 over the packet with a zero authenticator
/// and the secret (RFC 2866 §3).
///
/// # Errors
/// The attributes are too long for a packet; those of [`Encoder::attributes`] never are.
pub fn request<'a>(identifier: u8, secret: &Secret, attributes: impl Iterator<Item = &'a Avp>) -> Result<Vec<u8>, PacketError> {
    let mut packet = Packet::new_with_identifier(Code::AccountingRequest, secret.bytes(), identifier);
    packet.extend(attributes.map(|a| AVP::from_bytes(a.code, &a.value)).collect());
    packet.encode()
}

/// Why a datagram is not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not a well-formed Accounting-Response.
    Malformed,
    /// Response Authenticator or Message-Authenticator does not match this request and secret.
    Forged,
}

/// Checks an Accounting-Response against the authenticator of its request, in constant time.
///
/// The radius crate's own check compares byte by byte and takes bytes after the packet's
/// length into the digest, although RFC 2865 §3 calls them padding.
///
/// # Errors
/// See [`Refused`].
pub fn verify(reply: &[u8], request_authenticator: &[u8; 16], secret: &Secret) -> Result<(), Refused> {
    let length = reply.get(2..4).map_or(0, |l| usize::from(u16::from_be_bytes([l[0], l[1]])));
    let reply = reply.get(..length).filter(|r| (HEADER..=MAX_PACKET).contains(&r.len())).ok_or(Refused::Malformed)?;
    if reply[0] != Code::AccountingResponse as u8 {
        return Err(Refused::Malformed);
    }
    let mut signed_at = None;
    let mut at = HEADER;
    while at < length {
        let size = usize::from(*reply.get(at + 1).ok_or(Refused::Malformed)?);
        if size < AVP_HEADER || at + size > length {
            return Err(Refused::Malformed);
        }
        if reply[at] == MESSAGE_AUTHENTICATOR {
            if size != AVP_HEADER + 16 || signed_at.is_some() {
                return Err(Refused::Malformed);
            }
            signed_at = Some(at + AVP_HEADER);
        }
        at += size;
    }
    let expected =
        Md5::new().chain_update(&reply[..4]).chain_update(request_authenticator).chain_update(&reply[HEADER..]).chain_update(secret.bytes()).finalize();
    if !bool::from(expected.as_slice().ct_eq(&reply[4..HEADER])) {
        return Err(Refused::Forged);
    }
    let Some(signed_at) = signed_at else { return Ok(()) };
    // RFC 3579 §3.2 puts the request's authenticator into the header; FreeRADIUS puts zeros
    // there for accounting. The secret keys both.
    let signed_by = |authenticator: &[u8; 16]| {
        Hmac::<Md5>::new_from_slice(secret.bytes()).is_ok_and(|mut mac| {
            mac.update(&reply[..4]);
            mac.update(authenticator);
            mac.update(&reply[HEADER..signed_at]);
            mac.update(&[0; 16]);
            mac.update(&reply[signed_at + 16..]);
            mac.verify_slice(&reply[signed_at..signed_at + 16]).is_ok()
        })
    };
    if signed_by(request_authenticator) || signed_by(&[0; 16]) { Ok(()) } else { Err(Refused::Forged) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::accounting::clock::Wall;
    use crate::accounting::record::{Backend, Core, Signalling, Times};

    /// The attributes that the tests' extra and leg fields name.
    const EXTRA: &str = "ATTRIBUTE Acc-Caller 240 string\nATTRIBUTE Acc-Note 243 string\nATTRIBUTE Acc-Leg-Src 245 string\nATTRIBUTE Acc-Leg-Dst 246 string\n\
        ATTRIBUTE Acc-Int 247 integer\nVALUE Acc-Int Seven 7\nATTRIBUTE Acc-Ip 248 ipaddr\nATTRIBUTE Acc-Ip6 249 ipv6addr\nATTRIBUTE Acc-Raw 250 octets\n\
        ATTRIBUTE Acc-Big 251 integer64\nATTRIBUTE Acc-Any 252 combo-ip\nATTRIBUTE Acc-Tlv 253 tlv\nVENDOR Ours 99\nVENDOR Wide 98 format=2,2\nVENDOR Wim 97 format=1,1,c\n\
        ATTRIBUTE Ours-Text 1 string Ours\nATTRIBUTE Ours-Int 2 integer Ours\nATTRIBUTE Wide-Text 0x1234 string Wide\nATTRIBUTE Wim-Text 5 string Wim\n";

    fn encoder(names: &[&str]) -> Result<Encoder, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dict");
        std::fs::write(&file, EXTRA).unwrap();
        Encoder::new(Dictionary::read(&file)?, None, names).map_err(|e| e.replace(&format!("{}/", dir.path().display()), ""))
    }

    fn fields(list: &[(&str, Option<&str>)]) -> Vec<Field> {
        list.iter().map(|(n, v)| Field { name: Arc::from(*n), value: v.map(|v| v.as_bytes().to_vec()) }).collect()
    }

    fn record(kind: Kind, method: &str, code: &str, in_dialog: bool) -> Record {
        Record {
            kind,
            shape: Shape::Context,
            backend: Backend::Aaa,
            table: "".into(),
            core: Core {
                method: method.into(),
                from_tag: "alice-1".into(),
                to_tag: "bob-1".into(),
                callid: "1@sipp".into(),
                code: code.into(),
                reason: "OK".into(),
            },
            time: Wall(1_000_001_500_000),
            times: Some(Times { created: Wall(1_000_000_700_000), setup_ms: 1800 }),
            duration_ms: (kind == Kind::Cdr).then_some(1204),
            end: None,
            signalling: Signalling::default(),
            reported: false,
            in_dialog,
            extras: vec![],
            legs: vec![],
            id: 1,
        }
    }

    /// Attributes as `number=value`, numbers in decimal.
    fn show(avps: &[Avp]) -> String {
        let one = |a: &Avp| match a.code {
            6 | 40 | 55 | 204 | 205 | 227..=230 | 247 => format!("{}={}", a.code, u32::from_be_bytes(a.value.as_slice().try_into().unwrap())),
            c => format!("{c}={}", String::from_utf8_lossy(&a.value)),
        };
        avps.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    const ROOM: usize = MAX_PACKET - HEADER;

    #[test]
    fn a_transaction_in_the_order_of_the_original() {
        let mut r = record(Kind::Transaction, "INVITE", "200", false);
        r.extras = fields(&[("Acc-Caller", Some("sip:alice")), ("Acc-Int", Some("42")), ("Acc-Note", None), ("Acc-Raw", Some(""))]);
        r.legs = vec![
            fields(&[("Acc-Leg-Src", Some("a")), ("Acc-Leg-Dst", Some("b"))]),
            fields(&[("Acc-Leg-Src", Some("c")), ("Acc-Leg-Dst", None)]),
            fields(&[("Acc-Leg-Src", None), ("Acc-Leg-Dst", Some("d"))]),
        ];
        assert_eq!(
            show(&encoder(&[]).unwrap().attributes(&r, ROOM)),
            "40=1 6=15 205=200 204=1 55=1000001 206=alice-1 207=bob-1 44=1@sipp 228=1 229=1000000 240=sip:alice 247=42 245=a 246=b 245=c 246=d"
        );
    }

    #[test]
    fn a_cdr_has_durations_around_setup_and_created() {
        assert_eq!(
            show(&encoder(&[]).unwrap().attributes(&record(Kind::Cdr, "INVITE", "200", false), ROOM)),
            "40=2 6=15 205=200 204=1 55=1000001 206=alice-1 207=bob-1 44=1@sipp 227=2 228=1 229=1000000 230=1204"
        );
    }

    #[test]
    fn calls_with_interim_records_have_their_time_in_them_and_in_the_stop() {
        let mut e = encoder(&[]).unwrap();
        let mut of = |kind, duration_ms| {
            let r = Record { reported: true, duration_ms, ..record(kind, "INVITE", "200", false) };
            e.attributes(&r, ROOM).iter().map(|a| (a.code, a.value.clone())).filter(|(code, _)| [40, 46, 55, 227, 230].contains(code)).collect::<Vec<_>>()
        };
        let number = |code: u8, n: u32| (code, n.to_be_bytes().to_vec());
        assert_eq!(of(Kind::Start, Some(0)), [number(40, 1), number(55, 1_000_001)]);
        assert_eq!(of(Kind::Interim, Some(60_400)), [number(40, 3), number(55, 1_000_061), number(46, 61), number(227, 61), number(230, 60_400)]);
        assert_eq!(of(Kind::Cdr, Some(60_401)), [number(40, 2), number(55, 1_000_001), number(46, 61), number(227, 61), number(230, 60_401)]);
    }

    #[test]
    fn without_context_there_are_no_times_and_empty_values_are_left_out() {
        let mut r = record(Kind::Manual, "INVITE", "", false);
        (r.times, r.core.to_tag) = (None, vec![]);
        assert_eq!(show(&encoder(&[]).unwrap().attributes(&r, ROOM)), "40=15 6=15 205=0 204=1 55=1000001 206=alice-1 44=1@sipp");
    }

    #[test]
    fn status_and_method() {
        let mut e = encoder(&[]).unwrap();
        for (kind, method, code, in_dialog, status, bit) in [
            (Kind::Transaction, "INVITE", "200", false, 1, 1),
            (Kind::Transaction, "INVITE", "299", false, 1, 1),
            (Kind::Transaction, "INVITE", "183", false, 15, 1),
            (Kind::Transaction, "INVITE", "200", true, 3, 1),
            (Kind::Transaction, "INVITE", "488", true, 3, 1),
            (Kind::Missed, "INVITE", "486", false, 15, 1),
            (Kind::Manual, "INVITE", "403", false, 15, 1),
            (Kind::Transaction, "BYE", "200", true, 2, 8),
            (Kind::Transaction, "BYE", "481", true, 2, 8),
            (Kind::Transaction, "CANCEL", "200", false, 2, 2),
            (Kind::Cdr, "INVITE", "200", false, 2, 1),
            (Kind::Start, "INVITE", "200", false, 1, 1),
            (Kind::Interim, "INVITE", "200", false, 3, 1),
            (Kind::Transaction, "ACK", "200", true, 3, 4),
            (Kind::Transaction, "INFO", "200", true, 3, 16),
            (Kind::Transaction, "OPTIONS", "200", false, 15, 32),
            (Kind::Transaction, "UPDATE", "200", true, 3, 64),
            (Kind::Transaction, "REGISTER", "200", false, 15, 128),
            (Kind::Transaction, "MESSAGE", "200", false, 15, 256),
            (Kind::Transaction, "SUBSCRIBE", "200", false, 15, 512),
            (Kind::Transaction, "NOTIFY", "200", true, 3, 1024),
            (Kind::Transaction, "PRACK", "200", true, 3, 2048),
            (Kind::Transaction, "REFER", "202", true, 3, 4096),
            (Kind::Transaction, "PUBLISH", "200", false, 15, 8192),
            (Kind::Transaction, "FOOBAR", "200", false, 15, 16384),
        ] {
            let shown = show(&e.attributes(&record(kind, method, code, in_dialog), ROOM));
            assert!(shown.starts_with(&format!("40={status} 6=15 205={code} 204={bit} ")), "{kind:?} {method} {code} {in_dialog}: {shown}");
        }
    }

    #[test]
    fn service_type_comes_from_the_parameter_then_the_dictionary() {
        let r = record(Kind::Cdr, "INVITE", "200", false);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dict");
        std::fs::write(&file, "VALUE Service-Type Sip-Session 16\n").unwrap();
        for (parameter, want) in [(Some(5), "6=5"), (None, "6=16")] {
            let shown = show(&Encoder::new(Dictionary::read(&file).unwrap(), parameter, &[]).unwrap().attributes(&r, ROOM));
            assert!(shown.contains(&format!(" {want} ")), "{shown}");
        }
    }

    #[test]
    fn values_in_the_form_of_their_attribute() {
        let mut e = encoder(&[]).unwrap();
        for (name, value, want) in [
            ("Acc-Note", " 7 ", Some(&b"\xf3\x05 7 "[..])),
            ("Acc-Int", "42", Some(b"\xf7\x06\0\0\0\x2a")),
            ("Acc-Int", " 42 ", Some(b"\xf7\x06\0\0\0\x2a")),
            ("Acc-Int", "-7", Some(b"\xf7\x06\xff\xff\xff\xf9")),
            ("Acc-Int", "4294967295", Some(b"\xf7\x06\xff\xff\xff\xff")),
            ("Acc-Int", "4294967296", None),
            ("Acc-Int", "-2147483649", None),
            ("Acc-Int", "seven", Some(b"\xf7\x06\0\0\0\x07")),
            ("Acc-Int", "forty-two", None),
            ("Acc-Big", "18446744073709551615", Some(b"\xfb\x0a\xff\xff\xff\xff\xff\xff\xff\xff")),
            ("Acc-Ip", "192.0.2.1", Some(b"\xf8\x06\xc0\0\x02\x01")),
            ("Acc-Ip", "::1", None),
            ("Acc-Ip6", "::1", Some(b"\xf9\x12\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01")),
            ("Acc-Any", "192.0.2.1", Some(b"\xfc\x06\xc0\0\x02\x01")),
            ("Acc-Raw", "0x00ff", Some(b"\xfa\x04\0\xff")),
            ("Acc-Raw", "0x0", Some(b"\xfa\x050x0")),
            ("Acc-Raw", "plain", Some(b"\xfa\x07plain")),
            ("Ours-Text", "hi", Some(b"\x1a\x0a\0\0\0\x63\x01\x04hi")),
            ("Ours-Int", "1", Some(b"\x1a\x0c\0\0\0\x63\x02\x06\0\0\0\x01")),
            ("Wide-Text", "hi", Some(b"\x1a\x0c\0\0\0\x62\x12\x34\0\x06hi")),
            ("Wim-Text", "hi", Some(b"\x1a\x0b\0\0\0\x61\x05\x05\0hi")),
            ("Gone-Since", "x", None),
            ("Acc-Tlv", "x", None),
        ] {
            let mut r = record(Kind::Cdr, "INVITE", "200", false);
            let plain = e.attributes(&r, ROOM).len();
            r.extras = fields(&[(name, Some(value))]);
            let omitted = stats::get(Counter::AaaOmitted);
            let got = e.attributes(&r, ROOM);
            let bytes = got.get(plain).map(|a| [&[a.code, a.size() as u8], a.value.as_slice()].concat());
            assert_eq!(bytes.as_deref(), want, "{name} {value}");
            assert!(want.is_some() || stats::get(Counter::AaaOmitted) > omitted, "{name} {value} is counted");
        }
    }

    #[test]
    fn long_values_are_clipped_and_counted() {
        let mut e = encoder(&[]).unwrap();
        for (name, value, length) in [
            ("Acc-Note", "x".repeat(253), 253),
            ("Acc-Note", "x".repeat(512), 253),
            ("Acc-Note", "é".repeat(200), 252),
            ("Acc-Raw", "é".repeat(200), 253),
            ("Ours-Text", "x".repeat(300), 253),
        ] {
            let clipped = stats::get(Counter::Clipped);
            let mut r = record(Kind::Cdr, "INVITE", "200", false);
            r.extras = fields(&[(name, Some(&value))]);
            assert_eq!(e.attributes(&r, ROOM).last().unwrap().value.len(), length, "{name}");
            assert!(value.len() == length || stats::get(Counter::Clipped) > clipped, "{name} is counted");
        }
        let mut r = record(Kind::Cdr, "INVITE", "200", false);
        r.core.callid = vec![b'c'; 33_000];
        assert_eq!(e.attributes(&r, ROOM)[7], Avp { code: 44, value: vec![b'c'; 253] });
    }

    #[test]
    fn a_packet_never_exceeds_4096_bytes() {
        let mut e = encoder(&[]).unwrap();
        let mut r = record(Kind::Cdr, "INVITE", "200", false);
        let short = ("Acc-Caller", Some("short"));
        let long = "x".repeat(400);
        for legs in [0, 1, 15, 40, 3000] {
            r.extras = fields(&[short]);
            r.legs = (0..legs).map(|_| fields(&[("Acc-Leg-Src", Some(&long)), ("Acc-Int", Some("1"))])).collect();
            let got = e.attributes(&r, ROOM);
            let packet = request(0, &Secret::new("s"), got.iter()).unwrap();
            assert!(packet.len() <= MAX_PACKET, "{legs}: {}", packet.len());
            assert_eq!(got[12], Avp { code: 240, value: b"short".to_vec() }, "{legs}: short values stay whole");
            if legs <= 40 {
                assert_eq!(got.len(), 13 + 2 * legs, "{legs}: nothing is left out");
            }
            if legs == 40 {
                // 4076 - 40 * (2 + 6) - 80 of the core - 7 of the short one, over 40 values
                assert!(got[13].value.len() > 80 && packet.len() > MAX_PACKET - 40, "clipped no more than needed: {}", packet.len());
            }
        }
    }

    proptest! {
        #[test]
        fn every_record_is_one_authentic_packet(
            values in proptest::collection::vec((0usize..9, proptest::collection::vec(any::<u8>(), 0..700)), 0..60),
            callid in proptest::collection::vec(any::<u8>(), 0..400), room in 1000usize..ROOM, ms in any::<i64>(),
        ) {
            let names = ["Acc-Caller", "Acc-Int", "Acc-Raw", "Acc-Ip", "Acc-Big", "Ours-Text", "Wide-Text", "Wim-Text", "Gone"];
            let mut r = record(Kind::Cdr, "INVITE", "200", false);
            (r.core.callid, r.duration_ms, r.time) = (callid, Some(ms), Wall(ms));
            r.extras = values.into_iter().map(|(n, v)| Field { name: Arc::from(names[n]), value: Some(v) }).collect();
            let attributes = encoder(&[]).unwrap().attributes(&r, room);
            prop_assert!(attributes.iter().map(Avp::size).sum::<usize>() <= room);
            prop_assert!(attributes.iter().all(|a| !a.value.is_empty()));
            let packet = request(7, &Secret::new("s"), attributes.iter()).unwrap();
            prop_assert!(Packet::is_authentic_request(&packet, b"s") && Packet::decode(&packet, b"s").is_ok());
        }

        #[test]
        fn hostile_answers_never_pass(mut reply in proptest::collection::vec(any::<u8>(), 0..80)) {
            if reply.len() >= HEADER {
                (reply[0], reply[2], reply[3]) = (5, 0, reply.len() as u8);
            }
            prop_assert!(verify(&reply, &[7; 16], &Secret::new("testing123")).is_err());
        }
    }

    #[test]
    fn unknown_names_are_errors_at_load() {
        assert!(encoder(&["Acc-Note", "ours-text", "Acct-Session-Time"]).is_ok());
        let e = encoder(&["Acc-Nope"]).err().unwrap();
        assert!(e.starts_with("dict: no attribute 'Acc-Nope' (an extra or leg of backend aaa); correct the name or add"), "{e}");
        let e = encoder(&["Acc-Tlv"]).err().unwrap();
        assert!(e.starts_with("dict: attribute 'Acc-Tlv' (an extra or leg of backend aaa) is of type tlv"), "{e}");
    }

    /// The digests below were computed by hand with md5 and hmac of another implementation.
    const REQUEST: &[u8] = b"\x04\x2a\x00\x20AUTHENTICATOR_..\x28\x06\0\0\0\x01\x05\x06\0\0\x13\xc4";

    #[test]
    fn the_bytes_of_a_request() {
        let attributes = [Avp::integer(40, 1), Avp::integer(5, 5060)];
        let packet = request(42, &Secret::new("testing123"), attributes.iter()).unwrap();
        assert_eq!((&packet[..4], &packet[HEADER..]), (&REQUEST[..4], &REQUEST[HEADER..]));
        assert_eq!(packet[4..HEADER], REQUEST_MD5);
    }

    #[test]
    fn answers() {
        let secret = Secret::new("testing123");
        let request = [7u8; 16];
        let good = [b"\x05\x2a\x00\x14".as_slice(), &PLAIN_MD5].concat();
        assert_eq!(verify(&good, &request, &secret), Ok(()));
        let padded = [good.as_slice(), b"padding"].concat();
        assert_eq!(verify(&padded, &request, &secret), Ok(()), "bytes after the length are padding");
        for (what, reply, authenticator, secret, want) in [
            ("other request", good.clone(), [8; 16], "testing123", Refused::Forged),
            ("other secret", good.clone(), request, "testing124", Refused::Forged),
            ("other identifier", [b"\x05\x2b".as_slice(), &good[2..]].concat(), request, "testing123", Refused::Forged),
            ("other code", [b"\x02".as_slice(), &good[1..]].concat(), request, "testing123", Refused::Malformed),
            ("empty", vec![], request, "testing123", Refused::Malformed),
            ("cut", good[..19].to_vec(), request, "testing123", Refused::Malformed),
            ("longer than the datagram", [b"\x05\x2a\x00\x15".as_slice(), &good[4..]].concat(), request, "testing123", Refused::Malformed),
            ("length below the header", [b"\x05\x2a\x00\x13".as_slice(), &good[4..]].concat(), request, "testing123", Refused::Malformed),
            ("attribute of length 0", [b"\x05\x2a\x00\x16".as_slice(), &good[4..], b"\x19\0"].concat(), request, "testing123", Refused::Malformed),
            ("attribute beyond the end", [b"\x05\x2a\x00\x16".as_slice(), &good[4..], b"\x19\x03"].concat(), request, "testing123", Refused::Malformed),
            ("half an attribute", [b"\x05\x2a\x00\x15".as_slice(), &good[4..], b"\x19"].concat(), request, "testing123", Refused::Malformed),
        ] {
            assert_eq!(verify(&reply, &authenticator, &Secret::new(secret)), Err(want), "{what}");
        }
    }

    /// A reply with a Message-Authenticator, correctly signed by its Response Authenticator.
    fn signed(code: u8, message_authenticator: &[u8]) -> Vec<u8> {
        let mut reply = vec![code, 42, 0, (HEADER + 2 + message_authenticator.len()) as u8];
        reply.extend([7; 16]);
        reply.extend([80, 2 + message_authenticator.len() as u8]);
        reply.extend(message_authenticator);
        let digest = Md5::digest([reply.as_slice(), b"testing123"].concat());
        reply[4..HEADER].copy_from_slice(&digest);
        reply
    }

    #[test]
    fn message_authenticators() {
        let secret = Secret::new("testing123");
        for (what, ma, want) in [
            ("RFC 3579", HMAC_RFC.as_slice(), Ok(())),
            ("FreeRADIUS", &HMAC_ZERO, Ok(())),
            ("wrong", &[1; 16], Err(Refused::Forged)),
            ("short", &[1; 15], Err(Refused::Malformed)),
        ] {
            assert_eq!(verify(&signed(5, ma), &[7; 16], &secret), want, "{what}");
        }
    }

    const REQUEST_MD5: [u8; 16] = [0x1b, 0x64, 0x0d, 0x8b, 0xf0, 0xb9, 0x2f, 0xb9, 0x84, 0x32, 0xc3, 0x98, 0x63, 0xb2, 0xde, 0xd5];
    const PLAIN_MD5: [u8; 16] = [0xe9, 0x4d, 0xef, 0x87, 0x7b, 0x7a, 0xe1, 0xa5, 0x89, 0x19, 0x1b, 0xc6, 0x41, 0xf8, 0x4c, 0x7b];
    const HMAC_RFC: [u8; 16] = [0xc7, 0xd6, 0x4b, 0x74, 0x3d, 0x4c, 0x6a, 0xa8, 0x74, 0xaf, 0x1d, 0x2d, 0x10, 0xfe, 0x1c, 0x5d];
    const HMAC_ZERO: [u8; 16] = [0x8b, 0x90, 0xdf, 0xc1, 0x79, 0x78, 0x8f, 0x01, 0x13, 0x6d, 0x0d, 0x17, 0x43, 0x2b, 0x81, 0x65];
}
