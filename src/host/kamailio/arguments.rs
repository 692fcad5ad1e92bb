//! Arguments of script functions: plain texts, or texts with variables that are evaluated at each call.
//! Kamailio hands over raw texts; what is fixed up once stays for ever.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::*;
use super::state::Server;
use crate::host::guard;

/// Routes are running: a text that is fixed up from here on is a value (of an expression used as an
/// argument), and a '$' in it means nothing.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// The configuration is read; before the fork.
pub fn running() {
    RUNNING.store(true, Ordering::Relaxed);
}

/// What a failed fixup returns to the host.
pub const REFUSED: c_int = -1;

enum Kind {
    Constant(Vec<u8>),
    Variable(*mut km_pv_elem),
}

/// A fixed-up argument.
pub struct Argument {
    kind: Kind,
    /// What the host handed over.
    text: *mut c_void,
}

fn refused(what: &str, e: &str) -> c_int {
    log::error!("{what}: {e}");
    REFUSED
}

/// Replaces the text that `param` points to with an argument; constants are checked.
///
/// # Safety
/// `param` is the place of a terminated text, as the host passes it.
pub unsafe fn fixup(server: Option<&Server>, what: &'static str, param: *mut *mut c_void, check: impl FnOnce(&[u8]) -> Result<(), String>) -> c_int {
    guard::entry(what, REFUSED, || {
        // SAFETY: the caller's promise.
        let (place, text) = unsafe { (*param, if (*param).is_null() { c"" } else { CStr::from_ptr((*param).cast::<c_char>()) }) };
        let bytes = text.to_bytes().to_vec();
        let kind = if bytes.contains(&b'$') && !RUNNING.load(Ordering::Relaxed) {
            let Some(format) = server.and_then(|s| s.symbols.parse_format(Box::leak(bytes.into_boxed_slice()))) else {
                return refused(what, &format!("\"{}\" has a variable that the host does not know", text.to_string_lossy().escape_debug()));
            };
            Kind::Variable(format)
        } else {
            match check(&bytes) {
                Ok(()) => Kind::Constant(bytes),
                Err(e) => return refused(what, &e),
            }
        };
        // SAFETY: the host keeps what we put there and hands it back.
        unsafe { *param = Box::into_raw(Box::new(Argument { kind, text: place })).cast() };
        0
    })
}

/// Undoes `fixup` for an argument that was made for one call.
pub unsafe extern "C" fn free(param: *mut *mut c_void, _n: c_int) -> c_int {
    guard::entry("argument", REFUSED, || {
        // SAFETY: the place holds what `fixup` put there, and gets back what stood there before.
        unsafe {
            if let Some(p) = std::ptr::NonNull::new((*param).cast::<Argument>()) {
                *param = Box::from_raw(p.as_ptr()).text;
            }
        }
        0
    })
}

/// The argument's present value; `None` if it was left out.
pub fn value(server: &Server, msg: *mut km_sip_msg, p: *mut c_char) -> Result<Option<Vec<u8>>, String> {
    // SAFETY: a script function gets what `fixup` made, or null for what was left out (promise 9).
    let Some(argument) = (unsafe { p.cast::<Argument>().as_ref() }) else { return Ok(None) };
    match &argument.kind {
        Kind::Constant(text) => Ok(Some(text.clone())),
        Kind::Variable(format) => server.symbols.print(msg, *format).map(Some).ok_or_else(|| "an argument's variables cannot be evaluated here".into()),
    }
}
