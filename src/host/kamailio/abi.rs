//! Declarations made by bindgen from `include/kamailio_abi.h`.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, missing_docs, dead_code, clippy::all, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/kamailio_abi.rs"));

/// The reply of a transaction that ended without one on the wire.
pub const FAKED_REPLY: *mut km_sip_msg = usize::MAX as *mut km_sip_msg;
/// A transaction nobody looked for yet.
pub const T_UNDEFINED: *mut km_cell = usize::MAX as *mut km_cell;

impl km_str {
    /// The bytes, empty for a null pointer.
    ///
    /// # Safety
    /// `s` is null or points to `len` bytes that stay valid while the result is used.
    pub unsafe fn bytes<'a>(&self) -> &'a [u8] {
        match (self.s.is_null(), usize::try_from(self.len)) {
            // SAFETY: the caller's promise.
            (false, Ok(len)) => unsafe { std::slice::from_raw_parts(self.s.cast(), len) },
            _ => &[],
        }
    }

    /// A string of the host that borrows `bytes`; the host only reads it.
    pub fn borrow(bytes: &[u8]) -> km_str {
        km_str { s: bytes.as_ptr().cast_mut().cast(), len: bytes.len() as i32 }
    }
}
