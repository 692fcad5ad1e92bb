//! Values of a message, read through the host's own pseudo-variables while it is private.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::*;
use super::symbols::Symbols;
use crate::host::proof::{self, Probe};
use crate::host::server::message::{self, Readable};
use crate::host::server::{Room, Text};

/// A variable's value in the form of this server.
type Value = Room<64>;

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

/// Does the number in a value have eight bytes, as since 5.7? [`prove_variables`] finds out, before there is
/// any value.
static LONG_NUMBERS: AtomicBool = AtomicBool::new(false);

/// Compares what the host makes of `$$`, whose value is known, with the two forms that values have had, and
/// remembers which one it is.
pub fn prove_variables(symbols: &Symbols) -> Result<(), String> {
    let refused = || format!("values of variables in this server are not those of the known versions: {}", proof::CURE);
    let spec = symbols.variable(b"$$").ok_or_else(refused)?;
    let mut value = Probe::<256>::new();
    // This variable has its value without a message, but the host wants an address: one with
    // nothing in it.
    let got = symbols.read([0usize; 4096].as_mut_ptr().cast(), spec, value.place());
    let form = |flags: usize| flags + size_of::<c_int>();
    let long_numbers = match value.written() {
        n if n == form(offset_of!(km_pv_value_5_6, flags)) => false,
        n if (form(offset_of!(km_pv_value_5_7, flags))..=size_of::<Value>()).contains(&n) => true,
        _ => return Err(refused()),
    };
    // SAFETY: the probe has these bytes, and any bytes are numbers and addresses.
    let (rs, ri, flags) = unsafe {
        if long_numbers {
            let v = value.place().cast::<km_pv_value_5_7>().read();
            (v.rs, v.ri, v.flags)
        } else {
            let v = value.place().cast::<km_pv_value_5_6>().read();
            (v.rs, i64::from(v.ri), v.flags)
        }
    };
    let has = (KM_PV_VAL_STR | KM_PV_VAL_INT) as i32;
    let is_marker = got
        && ri == i64::from(b'$')
        && flags & has == has
        && rs.len == 1
        && proof::is_readable((rs.s as usize & !(align_of::<usize>() - 1)) as *const c_void)
        // SAFETY: one byte of a word that can be read.
        && unsafe { rs.bytes() } == b"$";
    if !is_marker {
        return Err(refused());
    }
    LONG_NUMBERS.store(long_numbers, Ordering::Relaxed);
    Ok(())
}

/// Reads a value of the host.
///
/// # Safety
/// `p` is null or a value of this server, whose string, if it has one, is valid.
pub unsafe fn content(p: *const c_void) -> Content {
    // SAFETY: the caller's promise; which of the two forms it has was proved (promise 7).
    unsafe {
        let (rs, ri, flags) = match (p.is_null(), LONG_NUMBERS.load(Ordering::Relaxed)) {
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
pub unsafe fn answer(out: *mut c_void, rs: Text, number: Option<i64>, null: bool) {
    let flags = if null {
        KM_PV_VAL_NULL
    } else if number.is_some() {
        KM_PV_VAL_INT | KM_PV_VAL_STR | KM_PV_TYPE_INT
    } else {
        KM_PV_VAL_STR
    } as i32;
    let n = number.unwrap_or(0);
    // SAFETY: the caller's promise; which of the two forms it has was proved (promise 7).
    unsafe {
        if LONG_NUMBERS.load(Ordering::Relaxed) {
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
    pub fn parse(symbols: &Symbols, name: &[u8]) -> Option<Spec> {
        symbols.variable(name).map(Spec)
    }

    /// Its present value.
    pub fn value(self, symbols: &Symbols, msg: *mut km_sip_msg) -> Content {
        let mut room = Value::default();
        let p = room.place();
        if !symbols.read(msg, self.0, p) {
            return Content::Null;
        }
        // SAFETY: the host just filled it, and nothing else is read before it is copied.
        unsafe { content(p) }
    }
}

/// The variables that snapshots are made of.
pub type Specs = message::Specs<Spec>;

/// Parses them once.
pub fn specs(symbols: &Symbols) -> Result<Specs, String> {
    Specs::new(|name| Spec::parse(symbols, name.as_bytes()).ok_or_else(|| format!("the host does not know the variable {name}: load pv.so")))
}

impl Readable for Spec {
    type Symbols = Symbols;
    type Raw = km_sip_msg;

    fn bytes(&self, symbols: &Symbols, raw: *mut km_sip_msg) -> Option<Vec<u8>> {
        bytes_of(self.value(symbols, raw))
    }
}

/// A message of this server.
pub type Message<'a> = message::Message<'a, Spec>;
