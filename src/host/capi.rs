//! The C interface of the module itself (`include/acc.h`): what a test host or a tool that has
//! loaded the module may ask. Everything else goes through the server's export tables.

use std::ffi::{CStr, c_char};

use super::{arena, guard};
use crate::stats::{self, Counter};

/// Version of the module, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn acc_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Value of a counter; 0 if there is no counter of this name. `name` must be a terminated string or null.
///
/// # Safety
/// `name` is null or terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn acc_counter(name: *const c_char) -> u64 {
    guard::entry("acc_counter", 0, || {
        if name.is_null() {
            return 0;
        }
        // SAFETY: the caller's promise.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        Counter::ALL.iter().find(|c| c.name().as_bytes() == name).map_or(0, |c| stats::get(*c))
    })
}

/// Blocks in use in the shared memory for calls in progress, 0 before initialisation.
#[unsafe(no_mangle)]
pub extern "C" fn acc_live_blocks() -> u64 {
    guard::entry("acc_live_blocks", 0, || arena::get().map_or(0, arena::Arena::live_blocks))
}

/// Size of these blocks in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn acc_live_bytes() -> u64 {
    guard::entry("acc_live_bytes", 0, || arena::get().map_or(0, arena::Arena::live_bytes))
}
