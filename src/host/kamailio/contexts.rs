//! Where contexts of the message at hand are kept in this family.

use super::abi::{km_cell, km_sip_msg};
use super::attached::{self, Request, Which};
use super::state::Api;
use crate::host::shared::SharedContext;
use crate::host::tally::Once;

/// The context attached to a transaction.
pub fn there(t: *mut km_cell, which: Which) -> Option<SharedContext> {
    attached::table()?.get(t.cast(), which)
}

/// Was a transaction counted for this?
pub fn was_counted(t: *mut km_cell, what: Once) -> bool {
    attached::table().is_some_and(|table| table.was_counted(t.cast(), what))
}

/// Is a transaction counted for this for the first time?
pub fn is_first(t: *mut km_cell, what: Once) -> bool {
    attached::table().is_none_or(|table| table.is_first(t.cast(), what))
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
