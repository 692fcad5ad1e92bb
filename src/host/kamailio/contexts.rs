//! Where contexts of the message at hand are kept in this family.

use super::abi::{km_cell, km_sip_msg};
use super::attached::{self, Request, Which};
use super::state::Api;
use crate::host::shared::SharedContext;

/// The context attached to a transaction.
pub fn there(t: *mut km_cell, which: Which) -> Option<SharedContext> {
    attached::table()?.get(t.cast(), which)
}

/// What is known of a transaction's request.
pub fn request_of(t: *mut km_cell) -> Option<Request> {
    attached::table()?.request(t.cast())
}

/// The message at hand.
#[derive(Clone, Copy)]
pub struct Current {
    pub api: &'static Api,
    pub raw: *mut km_sip_msg,
}
