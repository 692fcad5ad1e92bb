//! The accounting core: what is accounted, when, and with which values. It uses no host types.
#![forbid(unsafe_code)]

pub mod call_key;
pub mod clock;
pub mod context;
pub mod decide;
pub mod dialog_cdr;
pub mod extras;
pub mod fields;
pub mod flags;
pub(crate) mod identity;
pub mod limited;
pub mod marks;
pub mod names;
pub(crate) mod order;
pub mod reason;
pub mod record;
pub mod rules;
pub mod stock;
pub mod visible;
pub(crate) mod wire;
