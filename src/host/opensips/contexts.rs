//! Which accounting context is in force: the processing context's, else the transaction's, else
//! the dialog's (docs/ARCHITECTURE.md, "Look-up order").

use std::ffi::c_void;

use super::abi::os_cell;
use super::state::{Api, DIALOGS, DOING, Server};
use crate::acc::clock::Moment;
use crate::acc::context::Context;
use crate::acc::record::Wall;
use crate::host::guard;
use crate::host::shared::{SharedContext, SharedError};

/// A place in the host that holds one of our references.
#[derive(Clone, Copy)]
pub enum Place {
    /// The processing context.
    Here(i32),
    /// A transaction.
    There(*mut os_cell, i32),
}

/// The context a place holds.
pub fn get(server: &Server, api: &Api, place: Place) -> Option<SharedContext> {
    let raw = match place {
        Place::Here(slot) => server.symbols.processing_get(slot),
        Place::There(t, slot) => api.tm.get(t, slot),
    };
    // SAFETY: only `put` fills these places, with references that the place owns (promise 3, 5).
    unsafe { SharedContext::borrow_raw(raw) }
}

/// Replaces what a place holds. False when there is no processing context.
pub fn put(server: &Server, api: &Api, place: Place, ctx: Option<SharedContext>) -> bool {
    let new = ctx.map_or(std::ptr::null_mut(), SharedContext::into_raw);
    let (old, done) = match place {
        Place::Here(slot) => (server.symbols.processing_get(slot), server.symbols.processing_put(slot, new)),
        Place::There(t, slot) => {
            let old = api.tm.get(t, slot);
            api.tm.put(t, slot, new);
            (old, true)
        }
    };
    // SAFETY: the reference taken out of the place, or the one that found no place.
    drop(unsafe { SharedContext::from_raw(if done { old } else { new }) });
    done
}

/// The context in force.
pub fn find(server: &Server, api: &Api) -> Option<SharedContext> {
    get(server, api, Place::Here(api.here)).or_else(|| api.tm.current().and_then(|t| get(server, api, Place::There(t, api.there)))).or_else(|| {
        let dialogs = DIALOGS.get()?;
        dialogs.context(dialogs.current()?)
    })
}

/// Arrival of the request whose transaction is being processed; now, when there is none.
pub fn arrival(api: &Api) -> Moment {
    let now = Moment::now();
    let mono = api.tm.current().map_or(0, |t| api.tm.get(t, api.there_arrival) as i64);
    if mono == 0 {
        return now;
    }
    Moment { wall: Wall(now.wall.0 - (now.mono - mono)), mono, boot: now.boot }
}

/// Why no context can be had.
#[derive(Debug, thiserror::Error)]
pub enum NoContext {
    /// Nothing to attach it to.
    #[error("no message is being processed here, so there is nothing to account")]
    NoMessage,
    /// The arena.
    #[error(transparent)]
    Shared(#[from] SharedError),
}

/// Attaches a new context to the message and its transaction.
pub fn make(server: &Server, api: &Api, has_leg_fields: bool) -> Result<SharedContext, NoContext> {
    let t = api.tm.current();
    if t.is_none() && !server.symbols.has_processing_context() {
        return Err(NoContext::NoMessage);
    }
    let ctx = SharedContext::new(&Context::new(arrival(api), has_leg_fields))?;
    put(server, api, Place::Here(api.here), Some(ctx.duplicate()));
    if let Some(t) = t
        && get(server, api, Place::There(t, api.there)).is_none()
    {
        put(server, api, Place::There(t, api.there), Some(ctx.duplicate()));
    }
    Ok(ctx)
}

/// The call `call` is known now: what the script set on this message before goes into it (D22),
/// and marks made before stay with the request alone (D13).
pub fn join(server: &Server, api: &Api, call: &SharedContext) {
    let here = Place::Here(api.here);
    let before = get(server, api, here);
    if before.as_ref().is_some_and(|c| c.same(call)) {
        return;
    }
    let t = api.tm.current();
    if let Some(own) = before {
        let joined = own.read(Context::clone).and_then(|values| {
            let marks = call.update(|c| {
                c.merge_values(&values);
                c.marks
            })?;
            if values.marked {
                own.set_call(call);
                own.update(|c| c.marks = c.marks.without_cdr().outside_cdr_of(marks))?;
                put(server, api, Place::Here(api.here_own), Some(own.duplicate()));
            }
            Ok(())
        });
        if let Err(e) = joined {
            log::error!("values set before the dialog was matched are lost: {e}");
        }
        if let Some(t) = t
            && get(server, api, Place::There(t, api.there)).is_some_and(|c| c.same(&own))
        {
            put(server, api, Place::There(t, api.there), Some(call.duplicate()));
        }
    }
    put(server, api, here, Some(call.duplicate()));
}

/// The host gives up a reference in a transaction or dialog.
pub unsafe extern "C" fn release(p: *mut c_void) {
    // SAFETY: the host hands over the reference that its place owned (promise 5, 6).
    guard::entry("release of a context", (), || drop(unsafe { SharedContext::from_raw(p) }));
}

/// The message is done: its context goes. A BYE that got no transaction is answered by now, so
/// its call's CDR is written; a context loaded from the dialog and not unloaded is put right.
pub unsafe extern "C" fn message_done(p: *mut c_void) {
    guard::entry("end of a message", (), || {
        // SAFETY: as in `release` (promise 3).
        let Some(ctx) = (unsafe { SharedContext::from_raw(p) }) else { return };
        let (bye, loaded) = DOING.with(|d| {
            let mut d = d.borrow_mut();
            (d.bye.take_if(|(raw, _)| *raw == p as usize), d.loaded.take_if(|(raw, _)| *raw == p as usize))
        });
        if let Some((_, replaced)) = loaded {
            log::warn!("acc_load_ctx_from_dlg() without acc_unload_ctx_from_dlg() at the end of the message: unloaded now");
            // SAFETY: acc_load_ctx_from_dlg took this reference out of its place.
            drop(unsafe { SharedContext::from_raw(replaced as *mut c_void) });
        }
        if let Some((_, false)) = bye {
            crate::host::outcome::write_cdr(&ctx);
        }
    });
}
