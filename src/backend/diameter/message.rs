//! Messages of the base protocol and of accounting: a record as an Accounting-Request, what an
//! answer says, and the few messages that peers exchange among themselves.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::Counters;
use super::codec::{Attribute, Avp, Avps, ERROR, Header, MAX_MESSAGE, PROXIABLE, REQUEST, Writer, padded};
use super::dictionary::{Definition, Dictionary, TGPP, Type, address, readable, time};
use crate::accounting::identity::Identity;
use crate::accounting::record::{Field, Kind, Record};
use crate::accounting::visible::{is_control, whole};
use crate::backend::radius::packet::{StatusType, method_bit, status_type};
use crate::stats::{self, Counter};

/// Capabilities-Exchange (RFC 6733 §5.3).
pub const CAPABILITIES: u32 = 257;
/// Accounting (RFC 6733 §9.7).
pub const ACCOUNTING: u32 = 271;
/// Device-Watchdog (RFC 6733 §5.5).
pub const WATCHDOG: u32 = 280;
/// Disconnect-Peer (RFC 6733 §5.4).
pub const DISCONNECT: u32 = 282;
/// The application of base accounting.
pub const BASE_ACCOUNTING: u32 = 3;

/// DIAMETER_SUCCESS.
pub const SUCCESS: u32 = 2001;
/// DIAMETER_COMMAND_UNSUPPORTED.
const COMMAND_UNSUPPORTED: u32 = 3001;
/// Disconnect-Cause REBOOTING.
const REBOOTING: u32 = 0;

const INTERIM_INTERVAL: u32 = 85;
const SESSION_ID: u32 = 263;
const ORIGIN_HOST: u32 = 264;
const VENDOR_ID: u32 = 266;
const RESULT_CODE: u32 = 268;
const DISCONNECT_CAUSE: u32 = 273;
const FAILED_AVP: u32 = 279;
const ERROR_MESSAGE: u32 = 281;
const DESTINATION_REALM: u32 = 283;
const ORIGIN_REALM: u32 = 296;
const EXPERIMENTAL_RESULT: u32 = 297;
const EXPERIMENTAL_RESULT_CODE: u32 = 298;

/// Service-Type of a record when no parameter says otherwise: Sip-Session.
const SIP_SESSION: u32 = 15;
/// A longer value is clipped: nobody reads so much, and it may be repeated in each leg.
const MAX_VALUE: usize = 65535;

/// Parameter `diameter_records`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// Each record is an EVENT, as OpenSIPS sends them.
    Event,
    /// A call is a session: START, INTERIM, STOP.
    Session,
}

/// Parameter `diameter_service`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// None.
    None,
    /// Rf of 3GPP (TS 32.299): Service-Information with what IMS charging needs.
    Rf,
}

/// What every request says about itself and its sender.
#[derive(Clone, Debug)]
pub struct Options {
    /// Own Origin-Host.
    pub identity: String,
    /// Own Origin-Realm.
    pub realm: String,
    /// Destination-Realm.
    pub destination: String,
    /// See [`Records`].
    pub records: Records,
    /// See [`Service`].
    pub service: Service,
    /// The AVPs of OpenSIPS have the M bit.
    pub mandatory: bool,
    /// Service-Type, if a parameter gives it.
    pub service_type: Option<u32>,
}

/// Fields that have a place in the Service-Information of Rf, by their names in TS 32.299.
const RF_NAMES: [(&str, u32); 9] = [
    ("Calling-Party-Address", CALLING),
    ("Called-Party-Address", CALLED),
    ("Requested-Party-Address", REQUESTED),
    ("Subscription-Id-Data", SUBSCRIPTION_DATA),
    ("Originating-IOI", ORIGINATING_IOI),
    ("Terminating-IOI", TERMINATING_IOI),
    ("IMS-Charging-Identifier", CHARGING_ID),
    ("Incoming-Trunk-Group-Id", INCOMING_TRUNK),
    ("Outgoing-Trunk-Group-Id", OUTGOING_TRUNK),
];
const SUBSCRIPTION: u32 = 443;
const SUBSCRIPTION_DATA: u32 = 444;
const SUBSCRIPTION_TYPE: u32 = 450;
const SERVICE_CONTEXT: u32 = 461;
const EVENT_TYPE: u32 = 823;
const SIP_METHOD: u32 = 824;
const ROLE_OF_NODE: u32 = 829;
const USER_SESSION: u32 = 830;
const CALLING: u32 = 831;
const CALLED: u32 = 832;
const TIME_STAMPS: u32 = 833;
const REQUEST_TIME: u32 = 834;
const RESPONSE_TIME: u32 = 835;
const INTER_OPERATOR: u32 = 838;
const ORIGINATING_IOI: u32 = 839;
const TERMINATING_IOI: u32 = 840;
const CHARGING_ID: u32 = 841;
const TRUNK_GROUP: u32 = 851;
const INCOMING_TRUNK: u32 = 852;
const OUTGOING_TRUNK: u32 = 853;
const CAUSE_CODE: u32 = 861;
const NODE_FUNCTIONALITY: u32 = 862;
const SERVICE_INFORMATION: u32 = 873;
const IMS_INFORMATION: u32 = 876;
const REQUESTED: u32 = 1251;
const REQUEST_FRACTION: u32 = 2301;
const RESPONSE_FRACTION: u32 = 2302;
/// The release of Service-Context-Id does not matter to base accounting.
const IMS_CONTEXT: &[u8] = b"32260@3gpp.org";
/// Role-Of-Node: a proxy.
const PROXY_ROLE: u32 = 2;
/// Node-Functionality: an application server.
const APPLICATION_SERVER: u32 = 6;

/// Where a field goes.
#[derive(Clone)]
enum Place {
    /// An AVP of the message.
    Own(Definition),
    /// The AVP of this number inside Service-Information.
    Rf(u32),
}

/// Makes requests from records.
pub struct Encoder {
    options: Options,
    dictionary: Dictionary,
    counters: Counters,
    /// Names of fields; `None` = an unknown one, from a record that an earlier configuration left
    /// behind.
    names: HashMap<String, Option<Place>>,
    /// What has been logged, so that it is logged only once.
    told: HashSet<(String, &'static str)>,
}

impl Encoder {
    /// Resolves `names`, the AVPs of extra and leg fields.
    ///
    /// # Errors
    /// A name that is not known, or that no field can be written to, and what to add.
    pub fn new(options: Options, dictionary: Dictionary, counters: Counters, names: &[&str]) -> Result<Encoder, String> {
        let mut encoder = Encoder { options, dictionary, counters, names: HashMap::new(), told: HashSet::new() };
        for name in names {
            let d = &encoder.dictionary;
            let place = encoder.place(name).ok_or_else(|| {
                let rf = RF_NAMES.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
                if rf {
                    format!("no AVP '{name}' outside of Service-Information: set diameter_service to rf, or define it in the extra-avps-file")
                } else {
                    format!("{d}: no AVP '{name}' (extra_fields or leg_fields); correct the name, write its number as CODE or CODE@VENDOR, or add a line 'ATTRIBUTE {name} NUMBER TYPE' to the extra-avps-file")
                }
            })?;
            if let Place::Own(Definition { kind: Type::Grouped, .. }) = place {
                return Err(format!("{d}: AVP '{name}' (extra_fields or leg_fields) is grouped, and a value cannot be written to it; use one of its members"));
            }
            encoder.names.insert((*name).to_owned(), Some(place));
        }
        Ok(encoder)
    }

    fn place(&self, name: &str) -> Option<Place> {
        let rf = RF_NAMES.iter().find(|(n, _)| self.options.service == Service::Rf && n.eq_ignore_ascii_case(name));
        rf.map(|(_, code)| Place::Rf(*code)).or_else(|| self.dictionary.find(name).map(Place::Own))
    }

    /// The Accounting-Request of a record. Its identifiers are not set yet.
    ///
    /// Empty and unset values are left out, and so are values that their AVP cannot hold (counted
    /// as omitted). A value over 65 535 bytes is clipped; if the message would still be too long, the
    /// last fields are left out.
    pub fn request(&mut self, record: &Record) -> Option<Vec<u8>> {
        let (mut own, mut rf) = (Vec::new(), Vec::new());
        for field in record.extras.iter().chain(record.legs.iter().flatten()) {
            match self.field(field) {
                Some((Place::Own(definition), value)) => own.push((field, definition.attribute, value)),
                Some((Place::Rf(code), value)) => rf.push((code, value)),
                None => {}
            }
        }
        let mut w = self.standard(record);
        let tail = if self.options.service == Service::Rf { self.service(record, &rf) } else { Vec::new() };
        for (field, attribute, value) in &own {
            if w.size() + padded(attribute.header() + value.len()) + tail.len() <= MAX_MESSAGE {
                w.put(attribute, value);
            } else {
                self.omit(&field.name, "left out because the message would be longer than 16 MB");
            }
        }
        w.append(&tail);
        w.finish()
    }

    /// Is nothing sent for this record?
    pub fn leaves_out(&self, record: &Record) -> bool {
        record.kind == Kind::Start && self.options.records == Records::Event
    }

    /// A field's value, unless it is unset, empty or cannot be written.
    fn field(&mut self, field: &Field) -> Option<(Place, Vec<u8>)> {
        let value = field.value.as_deref().filter(|v| !v.is_empty())?;
        if !self.names.contains_key(&*field.name) {
            let place = self.place(&field.name);
            self.names.insert(field.name.to_string(), place);
        }
        let place = self.names.get(&*field.name).cloned().flatten();
        let written = place.and_then(|place| {
            let bytes = match &place {
                Place::Own(definition) => self.dictionary.write(definition, value)?,
                Place::Rf(_) => readable(value),
            };
            Some((place, bytes))
        });
        let Some((place, mut bytes)) = written else {
            self.omit(&field.name, "left out: the AVP is unknown or its type cannot hold the value");
            return None;
        };
        if bytes.len() > MAX_VALUE {
            bytes.truncate(whole(&bytes, MAX_VALUE));
            stats::add(Counter::Clipped, 1);
        }
        Some((place, bytes))
    }

    fn omit(&mut self, name: &str, what: &'static str) {
        stats::add(self.counters.omitted, 1);
        if self.told.insert((name.to_owned(), what)) {
            log::warn!("Diameter AVP {name}: a value was {what}; further ones are counted, not logged");
        }
    }

    /// What every record has, in the order of OpenSIPS.
    fn standard(&self, record: &Record) -> Writer {
        let o = &self.options;
        let shape = shape(record, o.records);
        let mut w = Writer::new(&Header { flags: REQUEST | PROXIABLE, command: ACCOUNTING, application: BASE_ACCOUNTING, hop_by_hop: 0, end_to_end: 0 });
        let session = format!("{};{};{};{:032x}", o.identity, (shape.session >> 96) as u32, (shape.session >> 64) as u32, shape.session);
        w.put(&Attribute::base(SESSION_ID), session.as_bytes());
        w.put(&Attribute::base(ORIGIN_HOST), o.identity.as_bytes());
        w.put(&Attribute::base(ORIGIN_REALM), o.realm.as_bytes());
        w.put(&Attribute::base(DESTINATION_REALM), o.destination.as_bytes());
        w.number(&Attribute::base(480), shape.kind as u32);
        w.number(&Attribute::base(485), shape.number);
        w.number(&Attribute::base(259), BASE_ACCOUNTING);
        if let Some(time) = time(record.timestamp().seconds()) {
            w.put(&Attribute::base(55), &time);
        }
        let core = &record.core;
        let sip = |code: u32| Attribute { code, vendor: None, mandatory: o.mandatory };
        let status = match status_type(record) {
            StatusType::Start => 1,
            StatusType::Stop => 2,
            StatusType::Alive => 3,
            StatusType::Failed => 15,
        };
        w.number(&sip(40), status);
        w.number(&Attribute { code: 6, vendor: None, mandatory: false }, o.service_type.unwrap_or(SIP_SESSION));
        w.number(&sip(205), core.code_number().into());
        w.number(&sip(204), method_bit(&core.method, record.shape));
        for (code, value) in [(206, &core.from_tag), (207, &core.to_tag)] {
            text(&mut w, &sip(code), value);
        }
        text(&mut w, &Attribute::base(44), &core.callid);
        let has_duration = matches!(record.kind, Kind::Cdr | Kind::Interim);
        if has_duration {
            w.number(&sip(227), unsigned(record.duration_seconds()));
        }
        if let Some(times) = record.times {
            w.number(&sip(228), unsigned(record.setup_seconds()));
            w.number(&sip(229), unsigned(times.created.seconds()));
        }
        if has_duration {
            w.number(&sip(230), unsigned(record.duration_ms.unwrap_or(0)));
        }
        w
    }

    /// Service-Context-Id and Service-Information (TS 32.299), for an application server next to a proxy.
    fn service(&self, record: &Record, fields: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let tgpp = |code: u32| Attribute { code, vendor: Some(TGPP), mandatory: true };
        let all = |code: u32| fields.iter().filter(move |(c, _)| *c == code).map(|(_, v)| v.as_slice());
        let put = |w: &mut Writer, code: u32| all(code).for_each(|v| w.put(&tgpp(code), v));
        let has = |codes: &[u32]| fields.iter().any(|(c, _)| codes.contains(c));
        let mut w = Writer::part();
        w.put(&Attribute::base(SERVICE_CONTEXT), IMS_CONTEXT);
        w.nest(&tgpp(SERVICE_INFORMATION), |w| {
            for id in all(SUBSCRIPTION_DATA) {
                w.nest(&Attribute::base(SUBSCRIPTION), |w| {
                    w.number(&Attribute::base(SUBSCRIPTION_TYPE), subscription_type(id));
                    w.put(&Attribute::base(SUBSCRIPTION_DATA), id);
                });
            }
            w.nest(&tgpp(IMS_INFORMATION), |w| {
                w.nest(&tgpp(EVENT_TYPE), |w| text(w, &tgpp(SIP_METHOD), &record.core.method));
                w.number(&tgpp(ROLE_OF_NODE), PROXY_ROLE);
                w.number(&tgpp(NODE_FUNCTIONALITY), APPLICATION_SERVER);
                text(w, &tgpp(USER_SESSION), &record.core.callid);
                [CALLING, CALLED, REQUESTED].into_iter().for_each(|code| put(w, code));
                w.nest(&tgpp(TIME_STAMPS), |w| stamps(w, record));
                if has(&[ORIGINATING_IOI, TERMINATING_IOI]) {
                    w.nest(&tgpp(INTER_OPERATOR), |w| [ORIGINATING_IOI, TERMINATING_IOI].into_iter().for_each(|code| put(w, code)));
                }
                put(w, CHARGING_ID);
                if has(&[INCOMING_TRUNK, OUTGOING_TRUNK]) {
                    w.nest(&tgpp(TRUNK_GROUP), |w| [INCOMING_TRUNK, OUTGOING_TRUNK].into_iter().for_each(|code| put(w, code)));
                }
                if let Some(cause) = cause_code(record) {
                    w.put(&tgpp(CAUSE_CODE), &cause.to_be_bytes());
                }
            });
        });
        w.into_part()
    }
}

/// Text, unless it is empty.
fn text(w: &mut Writer, attribute: &Attribute, value: &[u8]) {
    if !value.is_empty() {
        let value = readable(value);
        w.put(attribute, &value[..whole(&value, MAX_VALUE)]);
    }
}

/// Request and response of Time-Stamps, with milliseconds.
fn stamps(w: &mut Writer, record: &Record) {
    let tgpp = |code: u32| Attribute { code, vendor: Some(TGPP), mandatory: true };
    let (request, response) = match record.times {
        Some(t) => (t.created.0, t.created.0.saturating_add(t.setup_ms.saturating_mul(1000))),
        None => (record.time.0, record.time.0),
    };
    for (at, code, fraction) in [(request, REQUEST_TIME, REQUEST_FRACTION), (response, RESPONSE_TIME, RESPONSE_FRACTION)] {
        if let Some(seconds) = time(at.div_euclid(1_000_000)) {
            w.put(&tgpp(code), &seconds);
            w.number(&tgpp(fraction), (at.rem_euclid(1_000_000) / 1000) as u32);
        }
    }
}

/// Subscription-Id-Type of a value (RFC 8506 §8.47): E.164, SIP URI, else private.
fn subscription_type(id: &[u8]) -> u32 {
    let number = id.strip_prefix(b"tel:").unwrap_or(id);
    let digits = number.strip_prefix(b"+").unwrap_or(number);
    match id {
        _ if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => 0,
        id if id.starts_with(b"sip:") || id.starts_with(b"sips:") => 2,
        _ => 4,
    }
}

/// Cause-Code (TS 32.299 §7.2.35): 0 for the normal end of a session, negative for other successes, the
/// code for a failure; none when a session begins.
fn cause_code(record: &Record) -> Option<i32> {
    let code = i32::from(record.core.code_number());
    match (record.kind, record.core.method.as_slice(), code) {
        (Kind::Start | Kind::Interim, _, _) => None,
        (Kind::Cdr, _, _) | (_, b"BYE", 200..=299) => Some(0),
        (_, b"INVITE", 200..=299) | (_, _, 0) => None,
        (_, _, 200) => Some(-1),
        (_, _, 201..=399) => Some(-code),
        _ => Some(code),
    }
}

/// Accounting-Record-Type (RFC 6733 §9.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum RecordType {
    Event = 1,
    Start = 2,
    Interim = 3,
    Stop = 4,
}

/// What identifies a record to its server.
struct Shape {
    kind: RecordType,
    number: u32,
    /// Last part of Session-Id.
    session: u128,
}

fn shape(record: &Record, records: Records) -> Shape {
    match (records, record.kind) {
        // Above the number of any interim record, which is the seconds elapsed until then.
        (Records::Session, Kind::Cdr) => Shape { kind: RecordType::Stop, number: unsigned(record.duration_seconds()).saturating_add(1), session: call(record) },
        (Records::Session, Kind::Start) => Shape { kind: RecordType::Start, number: 0, session: call(record) },
        (Records::Session, Kind::Interim) => Shape { kind: RecordType::Interim, number: elapsed(record), session: call(record) },
        _ => Shape { kind: RecordType::Event, number: 0, session: record.id },
    }
}

/// Whole seconds of a call that is up: above 0, the number of its START, and below that of its STOP.
fn elapsed(record: &Record) -> u32 {
    unsigned(record.duration_ms.unwrap_or(0).div_euclid(1000)).max(1)
}

/// The name of a record's call: the same in all records of a call, whoever writes them, at any time.
fn call(record: &Record) -> u128 {
    let Some(times) = record.times else { return record.id };
    let mut name = Identity::new();
    name.eat(&record.core.callid);
    name.eat(&record.core.from_tag);
    name.eat(&times.created.0.to_le_bytes());
    name.finish()
}

fn unsigned(n: i64) -> u32 {
    n.clamp(0, u32::MAX.into()) as u32
}

/// What this node tells its peers about itself.
#[derive(Clone, Debug)]
pub struct Node {
    /// Origin-Host.
    pub identity: String,
    /// Origin-Realm.
    pub realm: String,
    /// Does it send AVPs of 3GPP?
    pub tgpp: bool,
}

impl Node {
    fn origin(&self, w: &mut Writer) {
        w.put(&Attribute::base(ORIGIN_HOST), self.identity.as_bytes());
        w.put(&Attribute::base(ORIGIN_REALM), self.realm.as_bytes());
    }

    fn message(&self, flags: u8, command: u32, ids: (u32, u32), write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut w = Writer::new(&Header { flags, command, application: 0, hop_by_hop: ids.0, end_to_end: ids.1 });
        write(&mut w);
        w.finish().unwrap_or_default()
    }

    /// Capabilities-Exchange-Request.
    pub fn capabilities(&self, ids: (u32, u32), local: IpAddr) -> Vec<u8> {
        self.message(REQUEST, CAPABILITIES, ids, |w| {
            self.origin(w);
            w.put(&Attribute::base(257), &address(local));
            w.number(&Attribute::base(VENDOR_ID), 0);
            w.put(&Attribute { code: 269, vendor: None, mandatory: false }, b"opensips-acc");
            if self.tgpp {
                w.number(&Attribute::base(265), TGPP);
            }
            w.number(&Attribute::base(259), BASE_ACCOUNTING);
        })
    }

    /// Device-Watchdog-Request.
    pub fn watchdog(&self, ids: (u32, u32)) -> Vec<u8> {
        self.message(REQUEST, WATCHDOG, ids, |w| self.origin(w))
    }

    /// Disconnect-Peer-Request, with the cause that this node may be back soon.
    pub fn disconnect(&self, ids: (u32, u32)) -> Vec<u8> {
        self.message(REQUEST, DISCONNECT, ids, |w| {
            self.origin(w);
            w.number(&Attribute::base(DISCONNECT_CAUSE), REBOOTING);
        })
    }

    /// The answer to a peer's request: success for those of the base protocol, otherwise that the command is not supported.
    pub fn answer(&self, request: &Header, avps: Avps<'_>) -> Vec<u8> {
        let known = request.application == 0 && [WATCHDOG, DISCONNECT].contains(&request.command);
        let flags = if known { 0 } else { request.flags & PROXIABLE | ERROR };
        let mut w = Writer::new(&Header { flags, ..*request });
        if let Some(session) = avps.flatten().find(|a| a.is(SESSION_ID)) {
            w.put(&Attribute::base(SESSION_ID), session.value);
        }
        w.number(&Attribute::base(RESULT_CODE), if known { SUCCESS } else { COMMAND_UNSUPPORTED });
        self.origin(&mut w);
        w.finish().unwrap_or_default()
    }
}

/// Disconnect-Cause of a Disconnect-Peer-Request; REBOOTING if it gives none.
pub fn disconnect_cause(avps: Avps<'_>) -> u32 {
    avps.flatten().find(|a| a.is(DISCONNECT_CAUSE)).and_then(|a| a.number()).unwrap_or(REBOOTING)
}

/// What an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Result-Code or Experimental-Result-Code; 0 = it has neither.
    pub code: u32,
    /// Who answered.
    pub host: String,
    /// Its Error-Message.
    pub text: String,
    /// The AVP that it rejects (Failed-AVP).
    pub failed: Option<(u32, Option<u32>)>,
    /// Its Acct-Interim-Interval: seconds between two records of the session (RFC 6733 §9.8.2); 0 is none.
    pub interval: Option<u32>,
}

impl Verdict {
    /// Reads an answer; malformed parts are ignored.
    pub fn of(avps: Avps<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        let member = |group: &Avp<'_>, code: u32| group.members().flatten().find(|a| a.is(code)).and_then(|a| a.number());
        for avp in avps.flatten() {
            match avp.attribute.code {
                _ if avp.attribute.vendor.is_some() => {}
                RESULT_CODE => verdict.code = avp.number().unwrap_or(0),
                EXPERIMENTAL_RESULT if verdict.code == 0 => verdict.code = member(&avp, EXPERIMENTAL_RESULT_CODE).unwrap_or(0),
                INTERIM_INTERVAL => verdict.interval = avp.number().filter(|n| *n > 0),
                ORIGIN_HOST => verdict.host = avp.text(),
                ERROR_MESSAGE => verdict.text = avp.text().chars().filter(|c| !is_control(*c)).take(200).collect(),
                FAILED_AVP => verdict.failed = avp.members().flatten().next().map(|a| (a.attribute.code, a.attribute.vendor)),
                _ => {}
            }
        }
        verdict
    }

    /// For people: who said what about which AVP.
    pub fn describe(&self, peer: &str) -> String {
        let mut out = format!("Diameter peer {peer} answered with Result-Code {}", self.code);
        if let Some(name) = result_name(self.code) {
            out += &format!(" ({name})");
        }
        match self.failed {
            Some((code, Some(vendor))) => out += &format!(", Failed-AVP {code} of vendor {vendor}"),
            Some((code, None)) => out += &format!(", Failed-AVP {code}"),
            None => {}
        }
        if !self.text.is_empty() {
            out += &format!(", \"{}\"", self.text);
        }
        out
    }
}

/// Result-Codes of RFC 6733 §7.1 that an accounting client may meet.
fn result_name(code: u32) -> Option<&'static str> {
    const NAMES: [(u32, &str); 24] = [
        (3001, "COMMAND_UNSUPPORTED"),
        (3002, "UNABLE_TO_DELIVER"),
        (3003, "REALM_NOT_SERVED"),
        (3004, "TOO_BUSY"),
        (3005, "LOOP_DETECTED"),
        (3006, "REDIRECT_INDICATION"),
        (3007, "APPLICATION_UNSUPPORTED"),
        (3008, "INVALID_HDR_BITS"),
        (3009, "INVALID_AVP_BITS"),
        (3010, "UNKNOWN_PEER"),
        (4002, "OUT_OF_SPACE"),
        (4003, "ELECTION_LOST"),
        (5001, "AVP_UNSUPPORTED"),
        (5002, "UNKNOWN_SESSION_ID"),
        (5003, "AUTHORIZATION_REJECTED"),
        (5004, "INVALID_AVP_VALUE"),
        (5005, "MISSING_AVP"),
        (5008, "AVP_NOT_ALLOWED"),
        (5009, "AVP_OCCURS_TOO_MANY_TIMES"),
        (5010, "NO_COMMON_APPLICATION"),
        (5011, "UNSUPPORTED_VERSION"),
        (5012, "UNABLE_TO_COMPLY"),
        (5014, "INVALID_AVP_LENGTH"),
        (5017, "NO_COMMON_SECURITY"),
    ];
    NAMES.iter().find(|(c, _)| *c == code).map(|(_, name)| *name)
}

/// What a person can do about an answer that concerns all records.
pub fn cure(code: u32) -> Option<&'static str> {
    Some(match code {
        3001 | 3007 | 5010 => "make the server take base accounting (application 3)",
        3002 | 3003 => "make diameter_realm a realm that the server serves",
        3006 => "name the server itself as a peer: redirects are not followed",
        3010 => "make the server accept this node's Identity",
        5017 => "use TLS, or make the server accept this node without it",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::clock::Wall;
    use crate::accounting::record::{Backend, Core, Shape as RecordShape, Signalling, Times};
    use crate::backend::diameter::codec::decode;
    use crate::declaration::SinkId;

    const COUNTERS: Counters = Counters { retransmits: Counter::AaaRetransmits, ignored: Counter::AaaIgnored, omitted: Counter::AaaOmitted, sink: SinkId::Aaa };

    fn options(records: Records, service: Service, mandatory: bool) -> Options {
        Options {
            identity: "sip1.acc.test".into(),
            realm: "acc.test".into(),
            destination: "billing.test".into(),
            records,
            service,
            mandatory,
            service_type: None,
        }
    }

    fn encoder(options: Options, names: &[&str]) -> Encoder {
        Encoder::new(options.clone(), Dictionary::built_in(options.mandatory), COUNTERS, names).unwrap()
    }

    fn cdr() -> Record {
        Record {
            kind: Kind::Cdr,
            backend: Backend::Aaa,
            table: "".into(),
            core: Core {
                method: "INVITE".into(),
                from_tag: "ft".into(),
                to_tag: "tt".into(),
                callid: b"c\xff1".to_vec(),
                code: "200".into(),
                reason: "OK".into(),
            },
            time: Wall(1_700_000_003_500_000),
            times: Some(Times { created: Wall(1_700_000_000_900_000), setup_ms: 2600 }),
            duration_ms: Some(1203),
            end: None,
            signalling: Signalling::default(),
            reported: false,
            in_dialog: false,
            extras: vec![],
            legs: vec![],
            shape: RecordShape::Context,
            id: 0x0000_0001_0000_0002_0000_0003_0000_0004,
        }
    }

    fn field(name: &str, value: &[u8]) -> Field {
        Field { name: name.into(), value: Some(value.into()) }
    }

    /// Number, M bit and value of each AVP; text as text, the rest in hexadecimal digits.
    fn shown(avps: Avps<'_>) -> Vec<String> {
        let one = |a: Avp<'_>| {
            let printable = !a.value.is_empty() && a.value.iter().all(|b| (b' '..0x7f).contains(b));
            let value = if printable { a.text() } else { a.value.iter().map(|b| format!("{b:02x}")).collect() };
            format!("{}{} {value}", a.attribute.code, if a.attribute.mandatory { "M" } else { "" })
        };
        avps.map(|a| one(a.unwrap())).collect()
    }

    #[test]
    fn a_cdr_has_the_avps_of_opensips_and_their_values() {
        let mut record = cdr();
        record.extras = vec![field("User-Name", b"alice"), field("7846", b"gw"), Field { name: "Class".into(), value: None }, field("31", b"")];
        record.legs = vec![vec![field("Sip-Uri-User", b"bob")], vec![field("Sip-Uri-User", b"eve")]];
        let bytes = encoder(options(Records::Event, Service::None, false), &["User-Name", "7846"]).request(&record).unwrap();
        let (header, avps) = decode(&bytes).unwrap();
        assert_eq!((header.flags, header.command, header.application), (0xc0, 271, 3));
        let want = [
            "263M sip1.acc.test;1;2;00000001000000020000000300000004",
            "264M sip1.acc.test",
            "296M acc.test",
            "283M billing.test",
            "480M 00000001",
            "485M 00000000",
            "259M 00000003",
            "55M e8fe6f83",
            "40 00000002",
            "6 0000000f",
            "205 000000c8",
            "204 00000001",
            "206 ft",
            "207 tt",
            "44M c?1",
            "227 00000002",
            "228 00000002",
            "229 6553f100",
            "230 000004b3",
            "1M alice",
            "7846 gw",
            "208 bob",
            "208 eve",
        ];
        assert_eq!(shown(avps), want);
        let bytes = encoder(options(Records::Event, Service::None, true), &[]).request(&record).unwrap();
        let mandatory = shown(decode(&bytes).unwrap().1)
            .into_iter()
            .filter(|a| ["40M", "204M", "205M", "206M", "207M", "227M", "228M", "229M", "230M", "208M"].iter().any(|m| a.starts_with(&format!("{m} "))));
        assert_eq!(mandatory.count(), 11);
    }

    /// All records of a call are one session, whose last number is the largest.
    #[test]
    fn a_session_stops_with_its_call() {
        let avps = |record: &Record| shown(decode(&encoder(options(Records::Session, Service::None, false), &[]).request(record).unwrap()).unwrap().1);
        let (mut other, mut failed) = (cdr(), cdr());
        other.id += 1;
        other.duration_ms = Some(5000);
        let (one, two) = (avps(&cdr()), avps(&other));
        assert_eq!((&one[4][..], &one[5][..], &two[5][..]), ("480M 00000004", "485M 00000003", "485M 00000006"));
        assert_eq!(one[0], two[0]);
        other.times.as_mut().unwrap().created.0 += 1;
        assert_ne!(avps(&other)[0], one[0]);
        failed.kind = Kind::Missed;
        assert_eq!(avps(&failed)[4..6], ["480M 00000001", "485M 00000000"]);
        assert!(avps(&failed)[0].ends_with("00000001000000020000000300000004"));
    }

    /// The number is the seconds of the call: it always rises, and the last one is the largest.
    #[test]
    fn a_session_starts_and_goes_on() {
        let of = |records: Records, kind: Kind, duration_ms: i64| {
            let mut encoder = encoder(options(records, Service::None, false), &[]);
            let record = Record { kind, duration_ms: Some(duration_ms), reported: true, end: None, ..cdr() };
            let avps = shown(decode(&encoder.request(&record).unwrap()).unwrap().1);
            (encoder.leaves_out(&record), avps[0].clone(), avps[4..6].join(" "))
        };
        let stop = of(Records::Session, Kind::Cdr, 60_000);
        for (kind, ms, want) in [
            (Kind::Start, 0, "480M 00000002 485M 00000000"),
            (Kind::Interim, 400, "480M 00000003 485M 00000001"),
            (Kind::Interim, 60_000, "480M 00000003 485M 0000003c"),
            (Kind::Cdr, 60_000, "480M 00000004 485M 0000003d"),
        ] {
            assert_eq!(of(Records::Session, kind, ms), (false, stop.1.clone(), want.into()));
        }
        assert!(of(Records::Event, Kind::Start, 0).0, "nobody waits for the session");
        let event = of(Records::Event, Kind::Interim, 60_000);
        assert_eq!((event.0, &event.2[..]), (false, "480M 00000001 485M 00000000"));
    }

    #[test]
    fn a_server_says_how_often_it_wants_to_hear() {
        for (seconds, want) in [(900, Some(900)), (0, None)] {
            let mut w = Writer::new(&Header { flags: PROXIABLE, command: ACCOUNTING, application: BASE_ACCOUNTING, hop_by_hop: 1, end_to_end: 2 });
            w.number(&Attribute::base(RESULT_CODE), SUCCESS);
            w.number(&Attribute::base(INTERIM_INTERVAL), seconds);
            let answer = w.finish().unwrap();
            assert_eq!(Verdict::of(decode(&answer).unwrap().1).interval, want);
        }
    }

    #[test]
    fn rf_has_what_ts_32_299_wants() {
        let mut record = cdr();
        record.extras = vec![
            field("Calling-Party-Address", b"sip:a@acc.test"),
            field("called-party-address", b"tel:+4912"),
            field("Subscription-Id-Data", b"+4930"),
            field("Originating-IOI", b"home"),
            field("IMS-Charging-Identifier", b"icid"),
            field("Outgoing-Trunk-Group-Id", b"tg1"),
        ];
        let bytes = encoder(options(Records::Session, Service::Rf, false), &["Calling-Party-Address"]).request(&record).unwrap();
        let avps: Vec<Avp<'_>> = decode(&bytes).unwrap().1.map(Result::unwrap).collect();
        let [context, information] = avps[avps.len() - 2..] else { panic!() };
        assert_eq!((context.attribute.code, context.value), (461, IMS_CONTEXT));
        assert_eq!(information.attribute, Attribute { code: 873, vendor: Some(10415), mandatory: true });
        let parts: Vec<Avp<'_>> = information.members().map(Result::unwrap).collect();
        assert_eq!(shown(parts[0].members()), ["450M 00000000", "444M +4930"]);
        let ims: Vec<Avp<'_>> = parts[1].members().map(Result::unwrap).collect();
        assert!(ims.iter().all(|a| a.attribute.vendor == Some(10415) && a.attribute.mandatory));
        let inner = |code: u32| shown(ims.iter().find(|a| a.attribute.code == code).unwrap().members());
        assert_eq!(ims.iter().map(|a| a.attribute.code).collect::<Vec<_>>(), [823, 829, 862, 830, 831, 832, 833, 838, 841, 851, 861]);
        assert_eq!(inner(823), ["824M INVITE"]);
        assert_eq!(inner(833), ["834M e8fe6f80", "2301M 00000384", "835M e8fe6f83", "2302M 000001f4"]);
        assert_eq!((inner(838), inner(851)), (vec!["839M home".to_owned()], vec!["853M tg1".to_owned()]));
        assert_eq!(ims.last().unwrap().number(), Some(0));
    }

    #[test]
    fn cause_codes_are_those_of_the_standard() {
        for (kind, method, code, want) in [
            (Kind::Cdr, "INVITE", "200", Some(0)),
            (Kind::Transaction, "INVITE", "200", None),
            (Kind::Transaction, "INVITE", "486", Some(486)),
            (Kind::Transaction, "INVITE", "302", Some(-302)),
            (Kind::Transaction, "MESSAGE", "200", Some(-1)),
            (Kind::Transaction, "MESSAGE", "202", Some(-202)),
            (Kind::Transaction, "BYE", "200", Some(0)),
            (Kind::Manual, "INVITE", "", None),
        ] {
            let mut record = cdr();
            (record.kind, record.core.method, record.core.code) = (kind, method.into(), code.into());
            assert_eq!(cause_code(&record), want, "{kind:?} {method} {code}");
        }
        for (id, want) in [("+49", 0), ("tel:49", 0), ("sip:a@b", 2), ("alice", 4), ("", 4)] {
            assert_eq!(subscription_type(id.as_bytes()), want);
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_or_clipped() {
        let mut e = encoder(options(Records::Event, Service::None, false), &[]);
        let mut record = cdr();
        record.extras = vec![field("Acct-Delay-Time", b"soon"), field("No-Such", b"x"), field("Class", &[b'x'; 70_000])];
        let omitted = stats::get(Counter::AaaOmitted);
        let bytes = e.request(&record).unwrap();
        assert!(stats::get(Counter::AaaOmitted) >= omitted + 2);
        let last = decode(&bytes).unwrap().1.map(Result::unwrap).last().unwrap();
        assert_eq!((last.attribute.code, last.value.len()), (25, MAX_VALUE));
        // 300 legs of 64 KiB are more than a message can hold.
        record.legs = vec![vec![field("Sip-Uri-User", &[b'y'; 65_000])]; 300];
        let bytes = e.request(&record).unwrap();
        assert!(bytes.len() <= MAX_MESSAGE && bytes.len() > MAX_MESSAGE - 66_000);
    }

    #[test]
    fn names_that_nothing_knows_stop_the_start() {
        let new = |service, name: &str| Encoder::new(options(Records::Event, service, false), Dictionary::built_in(false), COUNTERS, &[name]).map(drop);
        assert!(new(Service::None, "No-Such").unwrap_err().starts_with("the built-in AVPs: no AVP 'No-Such'"));
        assert!(new(Service::None, "Calling-Party-Address").unwrap_err().contains("set diameter_service to rf"));
        assert_eq!(new(Service::Rf, "Calling-Party-Address"), Ok(()));
    }

    #[test]
    fn a_verdict_names_the_avp() {
        let mut w = Writer::new(&Header { flags: 0, command: 271, application: 3, hop_by_hop: 0, end_to_end: 0 });
        w.number(&Attribute::base(RESULT_CODE), 5001);
        w.put(&Attribute::base(ORIGIN_HOST), b"srv");
        w.put(&Attribute::base(ERROR_MESSAGE), b"what\nis it");
        w.nest(&Attribute::base(FAILED_AVP), |w| w.put(&Attribute { code: 7846, vendor: Some(9), mandatory: true }, b"x"));
        let bytes = w.finish().unwrap();
        let verdict = Verdict::of(decode(&bytes).unwrap().1);
        assert_eq!(verdict.describe("srv"), "Diameter peer srv answered with Result-Code 5001 (AVP_UNSUPPORTED), Failed-AVP 7846 of vendor 9, \"whatis it\"");
        let mut w = Writer::new(&Header { flags: 0, command: 271, application: 3, hop_by_hop: 0, end_to_end: 0 });
        w.nest(&Attribute::base(EXPERIMENTAL_RESULT), |w| {
            w.number(&Attribute::base(VENDOR_ID), 10415);
            w.number(&Attribute::base(EXPERIMENTAL_RESULT_CODE), 5030);
        });
        assert_eq!(Verdict::of(decode(&w.finish().unwrap()).unwrap().1).code, 5030);
    }

    #[test]
    fn requests_of_peers_are_answered() {
        let node = Node { identity: "me.acc.test".into(), realm: "acc.test".into(), tgpp: true };
        let cer = node.capabilities((1, 2), "127.0.0.1".parse().unwrap());
        let (header, avps) = decode(&cer).unwrap();
        assert_eq!(header, Header { flags: 0x80, command: 257, application: 0, hop_by_hop: 1, end_to_end: 2 });
        assert_eq!(
            shown(avps),
            ["264M me.acc.test", "296M acc.test", "257M 00017f000001", "266M 00000000", "269 opensips-acc", "265M 000028af", "259M 00000003"]
        );
        for (request, want) in [
            (node.watchdog((3, 4)), &["268M 000007d1", "264M me.acc.test", "296M acc.test"][..]),
            (node.disconnect((3, 4)), &["268M 000007d1", "264M me.acc.test", "296M acc.test"]),
        ] {
            let (header, avps) = decode(&request).unwrap();
            let answer = node.answer(&header, avps);
            let (answered, avps) = decode(&answer).unwrap();
            assert_eq!((answered.flags, answered.command, answered.hop_by_hop, answered.end_to_end), (0, header.command, 3, 4));
            assert_eq!(shown(avps), want);
        }
        let mut w = Writer::new(&Header { flags: REQUEST | PROXIABLE, command: 274, application: 3, hop_by_hop: 5, end_to_end: 6 });
        w.put(&Attribute::base(SESSION_ID), b"s;1");
        let asr = w.finish().unwrap();
        let (header, avps) = decode(&asr).unwrap();
        let answer = node.answer(&header, avps);
        let (answered, avps) = decode(&answer).unwrap();
        assert_eq!((answered.flags, answered.application), (PROXIABLE | ERROR, 3));
        assert_eq!(shown(avps), ["263M s;1", "268M 00000bb9", "264M me.acc.test", "296M acc.test"]);
        let bytes = node.disconnect((3, 4));
        assert_eq!(disconnect_cause(decode(&bytes).unwrap().1), REBOOTING);
    }
}
