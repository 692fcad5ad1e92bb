//! Storage for structures of the server that stay opaque.

use std::ffi::c_void;

/// `N` bytes, more than the structure has in any version, aligned for whatever it contains.
#[repr(C, align(16))]
pub struct Room<const N: usize>([u8; N]);

/// Storage filled with zeros.
impl<const N: usize> Default for Room<N> {
    fn default() -> Room<N> {
        Room([0; N])
    }
}

impl<const N: usize> Room<N> {
    /// The address that the server writes to.
    pub const fn place(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    /// The same, for functions of the server that only read.
    pub const fn written(&self) -> *mut c_void {
        (&raw const self.0).cast_mut().cast()
    }

    /// The address that is stored at `offset`.
    pub fn address_at(&self, offset: usize) -> *mut c_void {
        let mut word = [0; size_of::<usize>()];
        word.copy_from_slice(&self.0[offset..offset + size_of::<usize>()]);
        usize::from_ne_bytes(word) as *mut c_void
    }
}
