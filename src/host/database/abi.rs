//! Declarations made by bindgen from `include/database_abi.h`.
#![allow(non_camel_case_types, missing_docs, dead_code, clippy::all, clippy::undocumented_unsafe_blocks)]

use crate::host::server::Text as os_str;

include!(concat!(env!("OUT_DIR"), "/database_abi.rs"));
