//! The symbols a host looks for after dlopen, and building blocks of its tables.

use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;
use std::ptr;

/// Room for the export table of either family.
const ROOM: usize = 184;

/// An export table, as the family lays it out.
#[repr(C, align(16))]
pub struct Exports([MaybeUninit<u8>; ROOM]);

/// The table that both families call `exports`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut exports: Exports = Exports([MaybeUninit::new(0); ROOM]);

/// Kamailio compares it with its own version.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut module_version: *const c_char = c"unknown".as_ptr();

/// Kamailio compares it with its own compile flags.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut module_flags: *const c_char = c"unknown".as_ptr();

/// Leaks a name: the host keeps the address for ever.
pub fn name(s: &str) -> *const c_char {
    CString::new(s).map_or(ptr::null(), |c| c.into_raw().cast_const())
}

/// Leaks a table with an end mark: the host keeps its address for ever.
pub fn table<T: Default>(items: impl IntoIterator<Item = T>) -> *mut T {
    let mut all: Vec<T> = items.into_iter().collect();
    all.push(T::default());
    Box::leak(all.into_boxed_slice()).as_mut_ptr()
}

/// Fills the symbol with a family's table.
///
/// # Safety
/// Nobody else knows the symbol yet.
pub(super) unsafe fn fill<T>(table: T) {
    const { assert!(size_of::<T>() <= ROOM && align_of::<T>() <= align_of::<Exports>()) };
    // SAFETY: the table fits, and the caller's promise.
    unsafe { (&raw mut exports).cast::<T>().write(table) };
}
