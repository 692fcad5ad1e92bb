//! Management: RPCs, answered with structures of the host.

use std::ffi::{CString, c_char, c_long, c_void};

use super::abi::*;
use crate::declaration::COMMANDS;
use crate::host::guard;
use crate::host::management::{BODIES, Fields, Value};
use crate::host::server::numbered::numbered;
use crate::stats::{self, Counter};
use crate::worker;

type Entry = unsafe extern "C" fn(*mut km_rpc, *mut c_void);

/// The entry point of every command.
pub fn entries() -> impl Iterator<Item = Entry> {
    numbered!(command as Entry, COMMANDS.len())
}

/// The host runs `COMMANDS[I]`.
unsafe extern "C" fn command<const I: usize>(rpc: *mut km_rpc, ctx: *mut c_void) {
    // SAFETY: the host's arguments.
    unsafe { run(I, rpc, ctx) }
}

/// Answers a command: the answer is a structure, its list one more for each element.
///
/// # Safety
/// `rpc` is the host's table and `ctx` the request.
#[inline(never)]
unsafe fn run(i: usize, rpc: *mut km_rpc, ctx: *mut c_void) {
    guard::entry(COMMANDS[i].rpc, (), || {
        let Some(instance) = worker::instance() else { return };
        // SAFETY: the host passes its table and the request (promise 8).
        let rpc = unsafe { &*rpc };
        let answer = match BODIES[i](instance) {
            Ok(answer) => answer,
            Err(e) => {
                log::error!("{}: {e}", COMMANDS[i].rpc);
                let text = CString::new(e).unwrap_or_default();
                if let Some(fault) = rpc.fault {
                    // SAFETY: a format and its only argument (promise 8).
                    unsafe { fault(ctx, 500, c"%s".as_ptr(), text.as_ptr()) };
                }
                return;
            }
        };
        for fields in [&answer.fields].into_iter().chain(answer.list.iter().flat_map(|(_, rows)| rows)) {
            // SAFETY: as above.
            unsafe { add(rpc, ctx, fields) };
        }
    });
}

/// # Safety
/// `rpc` is the host's table and `ctx` the request.
unsafe fn add(rpc: &km_rpc, ctx: *mut c_void, fields: &Fields) {
    let (Some(add), Some(struct_add)) = (rpc.add, rpc.struct_add) else { return };
    let mut structure: *mut c_void = std::ptr::null_mut();
    // SAFETY: "{" gives a structure, "j" adds an unsigned long by name, "s" a terminated text, which
    // the host copies (promise 8).
    unsafe {
        if add(ctx, c"{".as_ptr(), &raw mut structure) < 0 || structure.is_null() {
            return;
        }
        for (name, value) in fields {
            let Ok(name) = CString::new(*name) else { continue };
            match value {
                Value::Number(n) => struct_add(structure, c"j".as_ptr(), name.as_ptr(), *n),
                Value::Text(t) => {
                    let text = CString::new(t.as_str()).unwrap_or_default();
                    struct_add(structure, c"s".as_ptr(), name.as_ptr(), text.as_ptr())
                }
            };
        }
    }
}

/// The host reads one of our counters, which `param` numbers.
pub unsafe extern "C" fn counter(_handle: km_counter_handle, param: *mut c_void) -> c_long {
    guard::entry("counter", 0, || Counter::ALL.get(param as usize).map_or(0, |c| stats::answer(*c) as c_long))
}

/// Group of our counters.
pub const GROUP: *const c_char = c"acc".as_ptr();
