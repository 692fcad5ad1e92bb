//! What the functions of the script need to know about the current message.

use super::contexts::{self, Current, Slot};
use super::state::{DIALOGS, message, ready};
use super::{dialogs, transactions, values};
use crate::accounting::clock::{Moment, Wall};
use crate::accounting::flags::Taken;
use crate::accounting::marks::Types;
use crate::accounting::record::{Backend, Core};
use crate::config::Config;
use crate::host::script::{AtHand, Place};
use crate::host::shared::SharedContext;

impl AtHand for Current {
    fn get(self, place: Place) -> Option<SharedContext> {
        contexts::get(self.server, self.api, self.slot(place)?)
    }

    fn put(self, place: Place, ctx: &SharedContext) {
        if let Some(slot) = self.slot(place) {
            contexts::put(self.server, self.api, slot, Some(ctx.duplicate()));
        }
    }

    fn offer(self, ctx: &SharedContext) -> Option<SharedContext> {
        contexts::offer(self.api, self.api.tm.current()?, self.api.there, ctx)
    }

    fn of_dialog(self) -> Option<SharedContext> {
        if self.is_of_server() && self.core().is_none_or(|core| core.to_tag.is_empty()) {
            // The dialog is that of the message that is being processed.
            return None;
        }
        let dialogs = DIALOGS.get()?;
        dialogs.context(dialogs.current()?)
    }

    fn is_there(self) -> bool {
        self.api.tm.current().is_some() || self.server.symbols.has_processing_context()
    }

    fn core(self) -> Option<Core> {
        message(self.raw).map(|m| m.core())
    }

    /// Arrival of the request whose transaction is being processed, otherwise of the current message.
    fn arrival(self) -> Moment {
        let now = Moment::now();
        // A transaction without one is of a request that the server is making now, while it processes another one.
        let came = match self.api.tm.current() {
            Some(t) => self.api.tm.get(t, self.api.there_arrival),
            None => self.server.symbols.processing_get(self.api.here_arrival),
        };
        let mono = came as i64 & !contexts::COUNTED;
        if mono == 0 {
            return now;
        }
        Moment { wall: Wall(now.wall.0 - (now.mono - mono)), mono, boot: now.boot }
    }

    fn is_upstream(self) -> bool {
        self.api.rr.as_ref().is_some_and(|rr| rr.is_upstream(self.raw))
    }

    fn has_dialogs(self) -> bool {
        DIALOGS.get().is_some()
    }

    fn is_of_server(self) -> bool {
        Current::is_of_server(self)
    }

    fn follow(self, ctx: &SharedContext, is_watched: bool) -> Result<bool, String> {
        let is_new = dialogs::follow(self, ctx)?;
        if is_new && is_watched {
            self.api.tm.register(self.raw, transactions::ANSWER, Some(transactions::on_answer), ctx.duplicate())?;
        }
        Ok(is_new && !is_watched)
    }

    fn taken(self, config: &Config, backend: Backend) -> Taken {
        values::of_message(self, config, Types(1 << backend as u8))
    }

    fn watch(self, ctx: SharedContext, answers: bool) -> Result<(), String> {
        if let Some(t) = self.api.tm.current().filter(|_| self.is_of_server())
            && let Some((_, _, instance)) = ready()
        {
            transactions::see_replies(self.api, instance, t)?;
        }
        let answer = if answers { transactions::ANSWER } else { 0 };
        self.api.tm.register(self.raw, transactions::TRANSACTION_EVENTS | answer, Some(transactions::on_transaction), ctx)
    }

    fn load(self) -> Result<(), String> {
        let symbols = &self.server.symbols;
        if !symbols.processing_get(self.api.here_loaded).is_null() {
            return Err("a context is loaded already: call acc_unload_ctx_from_dlg() first".into());
        }
        let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded: load dialog.so")?;
        let dlg = dialogs.current().ok_or("there is no dialog here: match it first, with loose_route() or match_dialog()")?;
        let ctx = dialogs.context(dlg).ok_or("this dialog is not accounted")?;
        if !symbols.processing_put(self.api.here_loaded, contexts::YES) {
            return Err("no message is being processed here".into());
        }
        let current = self.current_slot();
        contexts::put(self.server, self.api, Slot::Here(self.api.here_replaced), contexts::get(self.server, self.api, current));
        contexts::put(self.server, self.api, current, Some(ctx));
        Ok(())
    }

    fn unload(self) -> Result<(), String> {
        let (server, api) = (self.server, self.api);
        if server.symbols.processing_get(api.here_loaded).is_null() {
            return Err("no context is loaded: call acc_load_ctx_from_dlg() first".into());
        }
        server.symbols.processing_put(api.here_loaded, std::ptr::null_mut());
        let replaced = Slot::Here(api.here_replaced);
        contexts::put(server, api, self.current_slot(), contexts::get(server, api, replaced));
        contexts::put(server, api, replaced, None);
        Ok(())
    }

    fn changed(self) {
        dialogs::changed(self);
    }
}
