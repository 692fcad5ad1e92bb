//! The accounting core: what is accounted, when, and with which values. It knows no host type.
#![forbid(unsafe_code)]

pub mod fields;
pub mod record;
