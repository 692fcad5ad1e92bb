//! Where this family keeps contexts of the current message.

use std::ffi::c_void;

use super::abi::{os_cell, os_sip_msg};
use super::state::{Api, Server, ready};
use crate::host::arena;
use crate::host::pid::locked;
use crate::host::script::Place;
use crate::host::shared::SharedContext;
use crate::host::tally::Once;
use crate::worker::Instance;

/// For places that only say yes: anything but null.
pub const YES: *mut c_void = std::ptr::without_provenance_mut(1);

/// A place in the host that holds one of our references.
#[derive(Clone, Copy)]
pub enum Slot {
    /// The processing context.
    Here(i32),
    /// A transaction.
    There(*mut os_cell, i32),
}

/// Runs `f` while no other process reads or changes the places of the transaction. The host runs reply
/// routes of several branches at the same time, without a lock on the transaction.
fn alone<R>(t: *mut os_cell, f: impl FnOnce() -> R) -> R {
    let Some(arena) = arena::get() else { return f() };
    let locks = &arena.head().transactions;
    // Addresses of transactions are some KiB apart.
    let _locked = locked(&locks[(t as usize >> 10) % locks.len()]);
    f()
}

/// Where the bits of [`Once`] are in the arrival of a transaction. No machine runs for that many microseconds.
const ONCE: u32 = 60;
/// All of them.
pub const COUNTED: i64 = 3 << ONCE;

/// Was a transaction counted for this?
pub fn was_counted(api: &Api, t: *mut os_cell, what: Once) -> bool {
    let bit = (what.bit() as usize) << ONCE;
    alone(t, || api.tm.get(t, api.there_arrival) as usize & bit != 0)
}

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

/// Replaces what a place holds. Without a processing context, its places hold nothing.
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

/// Puts a context into a place of a transaction unless there is one, which is then returned.
pub fn offer(api: &Api, t: *mut os_cell, n: i32, ctx: &SharedContext) -> Option<SharedContext> {
    alone(t, || {
        let raw = api.tm.get(t, n);
        if raw.is_null() {
            api.tm.put(t, n, ctx.duplicate().into_raw());
        }
        // SAFETY: as in `get`.
        unsafe { SharedContext::borrow_raw(raw) }
    })
}

/// The current message. Values of the message itself are only asked for if there is one.
#[derive(Clone, Copy)]
pub struct Current {
    pub server: &'static Server,
    pub api: &'static Api,
    pub raw: *mut os_sip_msg,
}

impl Current {
    /// With this module; not before initialisation.
    pub fn at(raw: *mut os_sip_msg) -> Result<(Current, &'static Instance), String> {
        let (server, api, instance) = ready().ok_or("the module is not initialised")?;
        Ok((Current { server, api, raw }, instance))
    }

    /// Is the current transaction that of a request which the server sends itself? Such a transaction is not announced
    /// (`transactions::on_request_in`). The server may make it while it processes another message.
    ///
    /// A dummy belongs to no transaction, although tm may still have one: the route of a dialog's end (`dlg_on_hangup()`) runs when
    /// the server's own BYE has its reply, in a processing context of its own, which has the dialog.
    pub fn is_of_server(self) -> bool {
        let is_own = |t| self.api.tm.get(t, self.api.there_arrival) as i64 & !COUNTED == 0;
        self.api.tm.current().is_some_and(is_own) && !self.server.symbols.is_dummy(self.raw)
    }

    /// The place in the host; `None` for places of a transaction if there is none, and for those of the processing context if
    /// that is of another message.
    pub fn slot(self, place: Place) -> Option<Slot> {
        let there = |n| Some(Slot::There(self.api.tm.current()?, n));
        match place {
            Place::Here | Place::HereOwn if self.is_of_server() => None,
            Place::Here => Some(Slot::Here(self.api.here)),
            Place::HereOwn => Some(Slot::Here(self.api.here_own)),
            Place::There => there(self.api.there),
            Place::ThereOwn => there(self.api.there_own),
        }
    }

    /// The place of the current context.
    pub fn current_slot(self) -> Slot {
        self.slot(Place::Here).or_else(|| self.slot(Place::There)).unwrap_or(Slot::Here(self.api.here))
    }
}
