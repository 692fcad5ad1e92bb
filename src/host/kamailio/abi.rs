//! Declarations made by bindgen from `include/kamailio_abi.h`.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, missing_docs, dead_code, clippy::all, clippy::undocumented_unsafe_blocks)]

use crate::host::server::Text as km_str;

include!(concat!(env!("OUT_DIR"), "/kamailio_abi.rs"));

/// The reply of a transaction that ended without one on the wire.
pub const FAKED_REPLY: *mut km_sip_msg = usize::MAX as *mut km_sip_msg;
/// A transaction that nobody has looked for yet.
pub const T_UNDEFINED: *mut km_cell = usize::MAX as *mut km_cell;
