//! The process that the host forks for us.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::abi::*;
use crate::declaration::DELIVERY_SUPERVISOR;
use crate::host::exported;

/// The table of our extra process, kept to turn it off if there is nothing to deliver.
static PROCESSES: AtomicPtr<os_proc_export> = AtomicPtr::new(ptr::null_mut());

/// Makes the table; called inside dlopen.
pub fn table(function: unsafe extern "C" fn(c_int)) -> *mut os_proc_export {
    let table = exported::table([os_proc_export { name: DELIVERY_SUPERVISOR.as_ptr(), function: Some(function), no: 1, ..Default::default() }]);
    PROCESSES.store(table, Ordering::Relaxed);
    table
}

/// How many delivery processes the host is to fork; called in initialisation, before it counts.
pub fn set_number(n: u32) {
    let p = PROCESSES.load(Ordering::Relaxed);
    if !p.is_null() {
        // SAFETY: our own leaked table; the host reads it later, in this same process (promise 2).
        unsafe { (*p).no = n };
    }
}

/// Makes the modules' child_init run in the delivery process, which will use one of them.
pub fn use_modules() {
    let p = PROCESSES.load(Ordering::Relaxed);
    if !p.is_null() {
        // SAFETY: as above.
        unsafe { (*p).flags |= OS_PROC_FLAG_INITCHILD };
    }
}
