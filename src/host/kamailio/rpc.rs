//! Management: `acc.status` shows the counters.

use std::ffi::{CString, c_char, c_void};

use super::abi::*;
use crate::host::{arena, guard};
use crate::stats::{Counter, Snapshot};

pub static STATUS_DOC: [Doc; 2] =
    [Doc(c"Counters of accounting: records accepted, delivered and given up by sink, and what went wrong".as_ptr()), Doc(std::ptr::null())];

/// A line of documentation.
#[repr(transparent)]
pub struct Doc(#[allow(dead_code)] *const c_char);

// SAFETY: constant texts.
unsafe impl Sync for Doc {}

/// `acc.status`.
pub unsafe extern "C" fn status(rpc: *mut km_rpc, ctx: *mut c_void) {
    guard::entry("acc.status", (), || {
        // SAFETY: the host passes its table and the request; "{" gives a structure, "j" adds an
        // unsigned long by name (promise 8).
        unsafe {
            let (Some(add), Some(struct_add)) = ((*rpc).add, (*rpc).struct_add) else { return };
            let mut structure: *mut c_void = std::ptr::null_mut();
            if add(ctx, c"{".as_ptr(), &raw mut structure) < 0 || structure.is_null() {
                return;
            }
            let arena = arena::get();
            let more = [("contexts_blocks", arena.map_or(0, arena::Arena::live_blocks)), ("contexts_bytes", arena.map_or(0, arena::Arena::live_bytes))];
            let counters = Snapshot::take();
            for (name, value) in Counter::ALL.iter().map(|c| (c.name(), counters.get(*c))).chain(more) {
                if let Ok(name) = CString::new(name) {
                    struct_add(structure, c"j".as_ptr(), name.as_ptr(), value);
                }
            }
        }
    });
}
