//! The accounting core: what is accounted, when, and with which values. It knows no host type.
#![forbid(unsafe_code)]

pub mod clock;
pub mod context;
pub mod decide;
pub mod fields;
pub(crate) mod identity;
pub mod marks;
pub mod reason;
pub mod record;
pub mod stock;
mod wire;
