//! Where this family keeps contexts of the current message.

use super::abi::{km_cell, km_sip_msg};
use super::attached::{self, Request, Which};
use super::state::{Api, Server, ready};
use crate::host::shared::SharedContext;
use crate::host::tally::Once;
use crate::worker::Instance;

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

/// What is known about a transaction's request.
pub fn request_of(t: *mut km_cell) -> Option<Request> {
    attached::table()?.request(t.cast())
}

/// The current message. Values of the message itself are only asked for if there is one.
#[derive(Clone, Copy)]
pub struct Current {
    pub server: &'static Server,
    pub api: &'static Api,
    pub raw: *mut km_sip_msg,
}

impl Current {
    /// With this module; not before initialisation.
    pub fn at(raw: *mut km_sip_msg) -> Result<(Current, &'static Instance), String> {
        let (server, api, instance) = ready().ok_or("the module is not initialised")?;
        Ok((Current { server, api, raw }, instance))
    }
}
