//! Where contexts of the message at hand are kept in this family.

use super::abi::{km_cell, km_sip_msg};
use super::attached::{self, Which};
use super::state::{Api, DIALOGS, message};
use super::{calls, present};
use crate::acc::clock::Moment;
use crate::acc::record::Core;
use crate::host::script::{AtHand, Place};
use crate::host::shared::SharedContext;

/// The context attached to a transaction.
pub fn there(t: *mut km_cell, which: Which) -> Option<SharedContext> {
    attached::table()?.get(t.cast(), which)
}

/// The message at hand.
#[derive(Clone, Copy)]
pub struct Current {
    pub api: &'static Api,
    pub raw: *mut km_sip_msg,
}

/// Which context, and whether it is the message's.
fn split(place: Place) -> (Which, bool) {
    match place {
        Place::Here => (Which::InForce, true),
        Place::HereOwn => (Which::Own, true),
        Place::There => (Which::InForce, false),
        Place::ThereOwn => (Which::Own, false),
    }
}

impl AtHand for Current {
    fn get(self, place: Place) -> Option<SharedContext> {
        match split(place) {
            (which, true) => present::get(self.raw, which),
            (which, false) => there(self.api.tm.current()?, which),
        }
    }

    fn put(self, place: Place, ctx: &SharedContext) {
        match (split(place), self.api.tm.current()) {
            ((which, true), _) => present::put(self.raw, which, Some(ctx.duplicate())),
            ((which, false), Some(t)) => self.api.tm.put(t, which, ctx.duplicate()),
            ((_, false), None) => {}
        }
    }

    fn offer(self, ctx: &SharedContext) -> Option<SharedContext> {
        self.api.tm.offer(self.api.tm.current()?, ctx)
    }

    /// In a failure route of the timer process the host's dialog may be that of the transaction that
    /// timed out before. Routes of the dialog module have the right one, and no transaction, but a message
    /// of the host's own making.
    fn of_dialog(self) -> Option<SharedContext> {
        let dialogs = DIALOGS.get()?;
        let ctx = dialogs.context(dialogs.of(self.raw)?.raw)?;
        if self.api.tm.current().is_none() {
            return Some(ctx);
        }
        let callid = message(self.raw)?.callid();
        ctx.read(|c| c.core.callid == callid).ok()?.then_some(ctx)
    }

    fn is_there(self) -> bool {
        true
    }

    fn core(self) -> Option<Core> {
        message(self.raw).map(|m| m.core())
    }

    /// Arrival of the request whose transaction is being processed, else of the message at hand.
    fn arrival(self) -> Moment {
        let of_transaction = || attached::table()?.arrival(self.api.tm.current()?.cast());
        of_transaction().or_else(|| present::arrived(self.raw)).unwrap_or_else(Moment::now)
    }

    fn is_upstream(self) -> bool {
        self.api.rr.as_ref().is_some_and(|rr| rr.is_upstream(self.raw))
    }

    fn has_dialogs(self) -> bool {
        DIALOGS.get().is_some()
    }

    fn follow(self, ctx: &SharedContext) -> Result<(), String> {
        calls::follow(self.raw, ctx)
    }

    fn watch(self, ctx: SharedContext) -> Result<(), String> {
        self.api.tm.register(self.raw, calls::TRANSACTION_EVENTS, calls::on_transaction, ctx)
    }
}
