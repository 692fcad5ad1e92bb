//! Where contexts of the message at hand are kept in this family.

use std::ffi::c_void;

use super::abi::{os_cell, os_sip_msg};
use super::state::{Api, BYE, DIALOGS, Server, message, ready};
use super::{calls, flags};
use crate::accounting::clock::{Moment, Wall};
use crate::accounting::flags::Taken;
use crate::accounting::marks::Types;
use crate::accounting::record::{Backend, Core};
use crate::config::Config;
use crate::host::script::{AtHand, Place};
use crate::host::shared::{SharedContext, locked, release};
use crate::host::tally::Once;
use crate::host::{arena, guard};

/// Stands in `here_loaded`: anything but null.
const LOADED: usize = 1;

/// A place in the host that holds one of our references.
#[derive(Clone, Copy)]
pub enum Slot {
    /// The processing context.
    Here(i32),
    /// A transaction.
    There(*mut os_cell, i32),
}

/// Runs `f` while no other process looks at the places of the transaction or changes them. The
/// host runs reply routes of several branches at the same time, with no lock on the transaction.
fn alone<R>(t: *mut os_cell, f: impl FnOnce() -> R) -> R {
    let Some(arena) = arena::get() else { return f() };
    let locks = &arena.head().transactions;
    // Transactions are some KiB apart.
    let _locked = locked(&locks[(t as usize >> 10) % locks.len()]);
    f()
}

/// Where the bits of [`Once`] stand in the arrival of a transaction. No machine runs for so many microseconds.
const ONCE: u32 = 60;
/// All of them.
const COUNTED: i64 = 3 << ONCE;

/// Is a transaction counted for this for the first time?
pub fn is_first(api: &Api, t: *mut os_cell, what: Once) -> bool {
    let bit = (what.bit() as usize) << ONCE;
    alone(t, || {
        let arrival = api.tm.get(t, api.there_arrival) as usize;
        api.tm.put(t, api.there_arrival, (arrival | bit) as *mut c_void);
        arrival & bit == 0
    })
}

/// The context a place holds.
pub fn get(server: &Server, api: &Api, slot: Slot) -> Option<SharedContext> {
    // SAFETY: only `put` and `offer` fill these places, with references that the place owns
    // (promise 3, 5); that of a transaction stays while this process is alone with it.
    let borrow = |raw| unsafe { SharedContext::borrow_raw(raw) };
    match slot {
        Slot::Here(n) => borrow(server.symbols.processing_get(n)),
        Slot::There(t, n) => alone(t, || borrow(api.tm.get(t, n))),
    }
}

/// Replaces what a place holds. Without a processing context there is none to hold it.
pub fn put(server: &Server, api: &Api, slot: Slot, ctx: Option<SharedContext>) {
    let new = ctx.map_or(std::ptr::null_mut(), SharedContext::into_raw);
    let (old, done) = match slot {
        Slot::Here(n) => (server.symbols.processing_get(n), server.symbols.processing_put(n, new)),
        Slot::There(t, n) => alone(t, || {
            let old = api.tm.get(t, n);
            api.tm.put(t, n, new);
            (old, true)
        }),
    };
    // SAFETY: the reference taken out of the place, or the one that found no place.
    drop(unsafe { SharedContext::from_raw(if done { old } else { new }) });
}

/// The message at hand. What it needs of the message itself is asked of a message only.
#[derive(Clone, Copy)]
pub struct Current {
    pub server: &'static Server,
    pub api: &'static Api,
    pub raw: *mut os_sip_msg,
}

impl Current {
    fn slot(self, place: Place) -> Option<Slot> {
        let there = |n| Some(Slot::There(self.api.tm.current()?, n));
        match place {
            Place::Here => Some(Slot::Here(self.api.here)),
            Place::HereOwn => Some(Slot::Here(self.api.here_own)),
            Place::There => there(self.api.there),
            Place::ThereOwn => there(self.api.there_own),
        }
    }
}

impl AtHand for Current {
    fn get(self, place: Place) -> Option<SharedContext> {
        get(self.server, self.api, self.slot(place)?)
    }

    fn put(self, place: Place, ctx: &SharedContext) {
        if let Some(slot) = self.slot(place) {
            put(self.server, self.api, slot, Some(ctx.duplicate()));
        }
    }

    fn offer(self, ctx: &SharedContext) -> Option<SharedContext> {
        let (tm, t, n) = (&self.api.tm, self.api.tm.current()?, self.api.there);
        alone(t, || {
            let raw = tm.get(t, n);
            if raw.is_null() {
                tm.put(t, n, ctx.duplicate().into_raw());
            }
            // SAFETY: as in `get`.
            unsafe { SharedContext::borrow_raw(raw) }
        })
    }

    fn of_dialog(self) -> Option<SharedContext> {
        let dialogs = DIALOGS.get()?;
        dialogs.context(dialogs.current()?)
    }

    fn is_there(self) -> bool {
        self.api.tm.current().is_some() || self.server.symbols.has_processing_context()
    }

    fn core(self) -> Option<Core> {
        message(self.raw).map(|m| m.core())
    }

    /// Arrival of the request whose transaction is being processed, else of the message at hand.
    fn arrival(self) -> Moment {
        let now = Moment::now();
        // A transaction that has none is of a request that the server makes now, in the middle of another.
        let came = match self.api.tm.current() {
            Some(t) => self.api.tm.get(t, self.api.there_arrival),
            None => self.server.symbols.processing_get(self.api.here_arrival),
        };
        let mono = came as i64 & !COUNTED;
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

    fn follow(self, ctx: &SharedContext, is_watched: bool) -> Result<bool, String> {
        calls::follow(self.raw, self.api, ctx, is_watched)
    }

    fn taken(self, config: &Config, backend: Backend) -> Taken {
        flags::of_message(self, config, Types(1 << backend as u8))
    }

    fn watch(self, ctx: SharedContext, answers: bool) -> Result<(), String> {
        // The server does not announce the transactions of its own requests (`calls::on_request_in`).
        if let Some(t) = self.api.tm.current().filter(|t| self.api.tm.get(*t, self.api.there_arrival).is_null())
            && let Some((_, _, instance)) = ready()
        {
            calls::see_replies(self.api, instance, t)?;
        }
        let answer = if answers { calls::ANSWER } else { 0 };
        self.api.tm.register(self.raw, calls::TRANSACTION_EVENTS | answer, Some(calls::on_transaction), ctx, Some(release))
    }

    fn load(self) -> Result<(), String> {
        let symbols = &self.server.symbols;
        if !symbols.processing_get(self.api.here_loaded).is_null() {
            return Err("a context is loaded already: call acc_unload_ctx_from_dlg() first".into());
        }
        let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded: load dialog.so")?;
        let dlg = dialogs.current().ok_or("there is no dialog here: match it first, with loose_route() or match_dialog()")?;
        let ctx = dialogs.context(dlg).ok_or("this dialog is not accounted")?;
        if !symbols.processing_put(self.api.here_loaded, LOADED as *mut c_void) {
            return Err("no message is being processed here".into());
        }
        let here = Slot::Here(self.api.here);
        put(self.server, self.api, Slot::Here(self.api.here_replaced), get(self.server, self.api, here));
        put(self.server, self.api, here, Some(ctx));
        Ok(())
    }

    fn unload(self) -> Result<(), String> {
        let (server, api) = (self.server, self.api);
        if server.symbols.processing_get(api.here_loaded).is_null() {
            return Err("no context is loaded: call acc_load_ctx_from_dlg() first".into());
        }
        server.symbols.processing_put(api.here_loaded, std::ptr::null_mut());
        let replaced = Slot::Here(api.here_replaced);
        put(server, api, Slot::Here(api.here), get(server, api, replaced));
        put(server, api, replaced, None);
        Ok(())
    }

    fn changed(self) {
        calls::changed(self);
    }
}

/// The message is done: its context goes. A BYE that got no transaction is answered by now, so
/// its call's CDR is written.
pub unsafe extern "C" fn message_done(p: *mut c_void) {
    guard::entry("end of a message", (), || {
        calls::tell_cluster();
        // SAFETY: as in `release` (promise 3).
        let Some(ctx) = (unsafe { SharedContext::from_raw(p) }) else { return };
        if let Some((server, api, _)) = ready()
            && !server.symbols.processing_get(api.here_loaded).is_null()
        {
            log::warn!("acc_load_ctx_from_dlg() without acc_unload_ctx_from_dlg() at the end of the message: unloaded now");
        }
        if let Some((raw, has_transaction)) = BYE.get()
            && raw == p as usize
        {
            BYE.set(None);
            if !has_transaction {
                crate::host::outcome::write_cdr(&ctx);
            }
        }
    });
}
