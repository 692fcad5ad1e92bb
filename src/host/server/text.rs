//! The string that both servers pass around.

use std::ffi::{c_char, c_int};
use std::ptr;

/// A string with a length, not necessarily terminated.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// Its bytes; null for an empty one.
    pub s: *mut c_char,
    /// How many; negative for none.
    pub len: c_int,
}

// As `os_str` and `km_str` of the headers, which the scripts compare with the servers'.
const _: () = assert!(size_of::<Text>() == 16 && std::mem::offset_of!(Text, len) == 8);

impl Default for Text {
    fn default() -> Text {
        Text { s: ptr::null_mut(), len: 0 }
    }
}

impl Text {
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

    /// The bytes of a text that may be missing.
    ///
    /// # Safety
    /// `p` is null or points to a text as for [`Text::bytes`].
    pub unsafe fn bytes_at<'a>(p: *const Text) -> &'a [u8] {
        // SAFETY: the caller's promise.
        unsafe { p.as_ref().map_or(&[], |t| t.bytes()) }
    }

    /// A string that borrows `bytes`; the server only reads it.
    pub const fn borrow(bytes: &[u8]) -> Text {
        Text { s: bytes.as_ptr().cast_mut().cast(), len: bytes.len() as c_int }
    }
}
