//! Declarations made by bindgen from `include/opensips_abi.h`.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, missing_docs, dead_code, clippy::all, clippy::undocumented_unsafe_blocks)]

use crate::host::server::Text as os_str;

include!(concat!(env!("OUT_DIR"), "/opensips_abi.rs"));

/// The reply of a transaction that ended without one on the wire.
pub const FAKED_REPLY: *mut os_sip_msg = usize::MAX as *mut os_sip_msg;
/// A transaction that nobody has looked for yet.
pub const T_UNDEFINED: *mut os_cell = usize::MAX as *mut os_cell;
