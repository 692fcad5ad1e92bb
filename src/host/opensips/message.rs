//! Values of a message, read through the host's own pseudo-variables while it is private.

use super::abi::*;
use super::symbols::Symbols;
use crate::acc::context::Reply;

/// Room for a variable specification of any version.
#[repr(C, align(16))]
pub struct Spec([u8; OS_PV_SPEC_ROOM as usize]);

impl Spec {
    /// Parses a variable's name.
    pub fn parse(symbols: &Symbols, name: &[u8]) -> Option<Box<Spec>> {
        let mut spec = Box::new(Spec([0; OS_PV_SPEC_ROOM as usize]));
        let text = os_str::borrow(name);
        // SAFETY: the room is larger than a specification of any supported version (promise 7).
        let end = unsafe { (symbols.pv_parse_spec)(&raw const text, (&raw mut *spec).cast()) };
        (!end.is_null()).then_some(spec)
    }

    /// The raw value; the host's buffer is good until the next reading.
    pub fn value(&self, symbols: &Symbols, msg: *mut os_sip_msg) -> Option<os_pv_value> {
        let mut value = os_pv_value::default();
        // SAFETY: msg is private to this process (promise 5); the host does not change the
        // specification (promise 7).
        let rc = unsafe { (symbols.pv_get_spec_value)(msg, (&raw const *self).cast_mut().cast(), &raw mut value) };
        (rc == 0).then_some(value)
    }
}

/// A variable's value as bytes: text as it is, numbers in decimal with their sign (D17), null as none.
///
/// # Safety
/// The string of the value, if it has one, is valid.
pub unsafe fn bytes_of(value: &os_pv_value) -> Option<Vec<u8>> {
    let has = |flag: u32| value.flags & flag as i32 != 0;
    if has(OS_PV_VAL_NULL) {
        None
    } else if has(OS_PV_VAL_INT) && (has(OS_PV_TYPE_INT) || !has(OS_PV_VAL_STR)) {
        Some(value.ri.to_string().into_bytes())
    } else if has(OS_PV_VAL_STR) {
        // SAFETY: the caller's promise.
        Some(unsafe { value.rs.bytes() }.to_vec())
    } else {
        None
    }
}

/// The variables that snapshots are made of.
pub struct Specs {
    method: Box<Spec>,
    from_tag: Box<Spec>,
    to_tag: Box<Spec>,
    callid: Box<Spec>,
    reason: Box<Spec>,
    content_length: Box<Spec>,
    end_reason: Option<Box<Spec>>,
}

impl Specs {
    /// Parses them once.
    pub fn new(symbols: &Symbols, has_dialogs: bool) -> Result<Specs, String> {
        let parse = |name: &str| {
            Spec::parse(symbols, name.as_bytes()).ok_or_else(|| format!("the host does not know the variable {name}, which this acc module needs"))
        };
        Ok(Specs {
            method: parse("$rm")?,
            from_tag: parse("$ft")?,
            to_tag: parse("$tt")?,
            callid: parse("$ci")?,
            reason: parse("$rr")?,
            content_length: parse("$cl")?,
            end_reason: if has_dialogs { Some(parse("$DLG_end_reason")?) } else { None },
        })
    }
}

/// A message that is private to this process, or a reply that was read as such before
/// it was copied: what is read twice is parsed once.
pub struct Message<'a> {
    pub raw: *mut os_sip_msg,
    pub symbols: &'a Symbols,
    pub specs: &'a Specs,
}

impl Message<'_> {
    fn get(&self, spec: &Spec) -> Vec<u8> {
        // SAFETY: the value was just read and nothing else is read before it is copied.
        spec.value(self.symbols, self.raw).and_then(|v| unsafe { bytes_of(&v) }).unwrap_or_default()
    }

    /// SIP method.
    pub fn method(&self) -> Vec<u8> {
        self.get(&self.specs.method)
    }

    /// Tag of the To header.
    pub fn to_tag(&self) -> Vec<u8> {
        self.get(&self.specs.to_tag)
    }

    /// Core values of a request.
    pub fn core(&self) -> crate::acc::record::Core {
        crate::acc::record::Core {
            method: self.method(),
            from_tag: self.get(&self.specs.from_tag),
            to_tag: self.to_tag(),
            callid: self.get(&self.specs.callid),
            ..Default::default()
        }
    }

    /// Why the dialog at hand ended, in the dialog module's words. It does not look at the message.
    pub fn dialog_end_reason(&self) -> Vec<u8> {
        self.specs.end_reason.as_ref().map_or_else(Vec::new, |spec| self.get(spec))
    }

    /// What a record needs of a reply with this code. Whether it has a body matters of provisional
    /// ones only.
    pub fn reply(&self, code: u16) -> Reply {
        let has_body = code < 200 && self.get(&self.specs.content_length).iter().any(|b| *b != b'0');
        Reply { code, reason: self.get(&self.specs.reason), to_tag: self.to_tag(), has_body }
    }
}
