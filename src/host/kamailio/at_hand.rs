//! What the functions of the script need to know about the current message.

use super::attached::{self, Which};
use super::contexts::{Current, request_of, there};
use super::state::{DIALOGS, message};
use super::{dialogs, flags, present, transactions};
use crate::accounting::clock::Moment;
use crate::accounting::flags::Taken;
use crate::accounting::marks::Types;
use crate::accounting::record::{Backend, Core};
use crate::config::Config;
use crate::host::script::{AtHand, Place};
use crate::host::shared::SharedContext;

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

    /// The host attributes a request to any unanswered dialog with its Call-ID and From tag, even if another INVITE
    /// made that dialog. So an initial request only has its own call, and a request with a To tag only an answered
    /// one; a request inside a ringing call is announced by the host when it has matched it. In a failure route of
    /// the timer process, the host's dialog may be that of the transaction that timed out before. Routes of the
    /// dialog module have the right dialog, no transaction, and a message made by the host itself.
    fn of_dialog(self) -> Option<SharedContext> {
        let dialogs = DIALOGS.get()?;
        let core = self.core()?;
        let of_host = dialogs.of(self.raw).and_then(|d| dialogs.context(d.raw));
        if let Some(ctx) = &of_host
            && ctx.read_head(|c| c.core.callid != core.callid).ok()?
        {
            return of_host.filter(|_| self.api.tm.current().is_none());
        }
        if core.to_tag.is_empty() || self.api.tm.current().and_then(request_of).is_some_and(|r| r.is_initial) {
            return None;
        }
        of_host.filter(|ctx| ctx.progress().answered).or_else(|| attached::call(&core))
    }

    fn is_there(self) -> bool {
        true
    }

    fn core(self) -> Option<Core> {
        message(self.raw).map(|m| m.core())
    }

    /// Arrival of the request whose transaction is being processed, otherwise of the current message.
    fn arrival(self) -> Moment {
        let of_transaction = || request_of(self.api.tm.current()?)?.arrived;
        of_transaction().or_else(|| present::arrived(self.raw)).unwrap_or_else(Moment::now)
    }

    fn is_upstream(self) -> bool {
        self.api.rr.as_ref().is_some_and(|rr| rr.is_upstream(self.raw))
    }

    fn has_dialogs(self) -> bool {
        DIALOGS.get().is_some()
    }

    fn follow(self, ctx: &SharedContext, _is_watched: bool) -> Result<bool, String> {
        dialogs::follow(self, ctx)
    }

    fn taken(self, config: &Config, backend: Backend) -> Taken {
        flags::of_message(self, config, Types::one(backend))
    }

    /// Answers are among these events.
    fn watch(self, ctx: SharedContext, _answers: bool) -> Result<(), String> {
        self.api.tm.register(self.raw, transactions::TRANSACTION_EVENTS, transactions::on_transaction, ctx)
    }

    fn load(self) -> Result<(), String> {
        let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded: load dialog.so")?;
        let dialog = dialogs.of(self.raw).ok_or("there is no dialog here: match it first, with loose_route() or dlg_manage()")?;
        let ctx = dialogs.context(dialog.raw).ok_or("this dialog is not accounted")?;
        if present::load(self.raw, ctx) { Ok(()) } else { Err("a context is loaded already: call acc_unload_ctx_from_dlg() first".into()) }
    }

    fn unload(self) -> Result<(), String> {
        if present::unload(self.raw) { Ok(()) } else { Err("no context is loaded: call acc_load_ctx_from_dlg() first".into()) }
    }
}
