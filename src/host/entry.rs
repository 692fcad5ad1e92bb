//! The constructor that fills the symbols a host looks for: it runs inside dlopen and finds out which family the
//! host belongs to, so that one object serves all of them.

use std::ffi::CStr;

use super::exported::{fill, module_flags, module_version};
use super::{guard, kamailio, opensips};

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

fn program_has(symbol: &CStr) -> bool {
    // SAFETY: only asks whether the program has this symbol.
    unsafe { !libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()).is_null() }
}

extern "C" fn constructor() {
    guard::entry("constructor", (), || {
        // SAFETY: we are inside dlopen; nobody else knows the symbols yet.
        unsafe {
            if program_has(c"core_scm_ver") {
                fill(opensips::fill());
            } else if program_has(c"ver_name") {
                let kamailio::Export { exports: table, version, flags } = kamailio::fill();
                fill(table);
                module_version = version;
                module_flags = flags;
            }
            // Clears dlerror(): a failed look-up must not look like an error of the host.
            libc::dlerror();
        }
    });
}
