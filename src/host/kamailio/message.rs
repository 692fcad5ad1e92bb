//! Values of a message, read through the host's own pseudo-variables while it is private.

use std::ffi::c_void;

use super::abi::*;
use super::state::Server;
use crate::acc::context::Reply;

/// A variable's value in the form of this server.
#[repr(C, align(16))]
pub struct Value([u8; 64]);

/// What a value holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// `$null`.
    Null,
    /// A string.
    Text(Vec<u8>),
    /// A number.
    Number(i64),
}

/// Reads a value of the host.
///
/// # Safety
/// `p` is null or a value of this server, whose string, if it has one, is valid.
pub unsafe fn content(long_numbers: bool, p: *const c_void) -> Content {
    // SAFETY: the caller's promise; the row says which of the two forms it has (promise 7).
    unsafe {
        let (rs, ri, flags) = match (p.is_null(), long_numbers) {
            (true, _) => return Content::Null,
            (_, false) => {
                let v = &*p.cast::<km_pv_value_5_6>();
                (v.rs, i64::from(v.ri), v.flags)
            }
            (_, true) => {
                let v = &*p.cast::<km_pv_value_5_7>();
                (v.rs, v.ri, v.flags)
            }
        };
        let has = |flag: u32| flags & flag as i32 != 0;
        if has(KM_PV_VAL_NULL) {
            Content::Null
        } else if has(KM_PV_VAL_INT) && (has(KM_PV_TYPE_INT) || !has(KM_PV_VAL_STR)) {
            Content::Number(ri)
        } else if has(KM_PV_VAL_STR) {
            Content::Text(rs.bytes().to_vec())
        } else {
            Content::Null
        }
    }
}

/// Fills the host's place for a value. The string stays the caller's and must outlive its use.
///
/// # Safety
/// `out` is the host's place for a value.
pub unsafe fn answer(long_numbers: bool, out: *mut c_void, rs: km_str, number: Option<i64>, null: bool) {
    let flags = if null {
        KM_PV_VAL_NULL
    } else if number.is_some() {
        KM_PV_VAL_INT | KM_PV_VAL_STR | KM_PV_TYPE_INT
    } else {
        KM_PV_VAL_STR
    } as i32;
    let n = number.unwrap_or(0);
    // SAFETY: the caller's promise; the row says which of the two forms it has (promise 7).
    unsafe {
        if long_numbers {
            *out.cast::<km_pv_value_5_7>() = km_pv_value_5_7 { rs, ri: n, flags };
        } else {
            *out.cast::<km_pv_value_5_6>() = km_pv_value_5_6 { rs, ri: n as i32, flags };
        }
    }
}

/// Text as it is, numbers in decimal with their sign (D17), null as none.
pub fn bytes_of(content: Content) -> Option<Vec<u8>> {
    match content {
        Content::Null => None,
        Content::Text(t) => Some(t),
        Content::Number(n) => Some(n.to_string().into_bytes()),
    }
}

/// A variable by its specification.
#[derive(Clone, Copy)]
pub struct Spec(*mut km_pv_spec);

// SAFETY: specifications are made before the fork, live for ever and are only read.
unsafe impl Send for Spec {}
// SAFETY: as above.
unsafe impl Sync for Spec {}

impl Spec {
    /// Looks a variable up by its name.
    pub fn parse(server: &Server, name: &[u8]) -> Option<Spec> {
        server.symbols.variable(name).map(Spec)
    }

    /// Its present value.
    pub fn value(self, server: &Server, msg: *mut km_sip_msg) -> Content {
        let mut room = Value([0; 64]);
        let p = (&raw mut room).cast::<c_void>();
        if !server.symbols.read(msg, self.0, p) {
            return Content::Null;
        }
        // SAFETY: the host just filled it, and nothing else is read before it is copied.
        unsafe { content(server.row.long_numbers, p) }
    }
}

/// The variables that snapshots are made of.
pub struct Specs {
    method: Spec,
    from_tag: Spec,
    to_tag: Spec,
    callid: Spec,
    reason: Spec,
    content_length: Spec,
}

impl Specs {
    /// Parses them once.
    pub fn new(server: &Server) -> Result<Specs, String> {
        let parse = |name: &str| Spec::parse(server, name.as_bytes()).ok_or_else(|| format!("the host does not know the variable {name}: load pv.so"));
        Ok(Specs {
            method: parse("$rm")?,
            from_tag: parse("$ft")?,
            to_tag: parse("$tt")?,
            callid: parse("$ci")?,
            reason: parse("$rr")?,
            content_length: parse("$cl")?,
        })
    }
}

/// A message that is private to this process, or a reply that was read as such before
/// it was copied: what is read twice is parsed once.
pub struct Message<'a> {
    pub raw: *mut km_sip_msg,
    pub server: &'a Server,
    pub specs: &'a Specs,
}

impl Message<'_> {
    fn get(&self, spec: Spec) -> Vec<u8> {
        bytes_of(spec.value(self.server, self.raw)).unwrap_or_default()
    }

    /// SIP method.
    pub fn method(&self) -> Vec<u8> {
        self.get(self.specs.method)
    }

    /// Tag of the To header.
    pub fn to_tag(&self) -> Vec<u8> {
        self.get(self.specs.to_tag)
    }

    /// Call-ID.
    pub fn callid(&self) -> Vec<u8> {
        self.get(self.specs.callid)
    }

    /// Core values of a request.
    pub fn core(&self) -> crate::acc::record::Core {
        crate::acc::record::Core {
            method: self.method(),
            from_tag: self.get(self.specs.from_tag),
            to_tag: self.to_tag(),
            callid: self.callid(),
            ..Default::default()
        }
    }

    /// What a record needs of a reply with this code. Whether it has a body matters of provisional
    /// ones only.
    pub fn reply(&self, code: u16) -> Reply {
        let has_body = code < 200 && self.get(self.specs.content_length).iter().any(|b| *b != b'0');
        Reply { code, reason: self.get(self.specs.reason), to_tag: self.to_tag(), has_body }
    }
}
