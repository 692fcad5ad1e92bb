//! Callbacks of transactions and dialogs. They run in any process of the host, on messages that
//! may be shared: only the reply (while it is private), the code and the context are used.

use std::ffi::{c_int, c_void};

use super::abi::*;
use super::contexts::{self, Current, Slot};
use super::state::{Api, BYE, DIALOGS, Server, message, ready};
use crate::acc::clock::Moment;
use crate::acc::context::{Context, EndCause, Reply};
use crate::acc::{decide, stock};
use crate::host::outcome::{say, write_cdr};
use crate::host::revival::{self, Claim};
use crate::host::shared::{SharedContext, SharedError, release};
use crate::host::{guard, outcome, script};
use crate::journal::Dir;
use crate::worker::{self, Module};

/// The dialog module's end reason of a dialog whose lifetime ran out.
const LIFETIME_OVER: &[u8] = b"Lifetime Timeout";
/// Dialog value that holds our state.
const STATE: &str = "acc_state";

/// Events of a transaction that a marked request follows.
pub const TRANSACTION_EVENTS: u32 = OS_TMCB_RESPONSE_OUT | OS_TMCB_LOCAL_COMPLETED | OS_TMCB_ON_FAILURE;

/// The context that a callback was registered with.
///
/// # Safety
/// `param` is the callback's own parameter place.
unsafe fn parameter(param: *mut *mut c_void) -> Option<SharedContext> {
    // SAFETY: the host keeps our pointer there while the callback is registered (promise 5, 6).
    unsafe { SharedContext::borrow_raw(*param) }
}

/// A request came: note when. Its route may wait for something before it makes a transaction.
pub unsafe extern "C" fn on_request(_msg: *mut os_sip_msg, _param: *mut c_void) -> c_int {
    const GO_ON: c_int = OS_SCB_RUN_ALL as c_int;
    guard::entry("script callback", GO_ON, || {
        if let Some((server, api, _)) = ready() {
            server.symbols.processing_put(api.here_arrival, Moment::now().mono as *mut c_void);
        }
        GO_ON
    })
}

/// A new transaction: note its arrival, give it the contexts of its message.
pub unsafe extern "C" fn on_request_in(t: *mut os_cell, _kind: c_int, _params: *mut os_tmcb_params) {
    guard::entry("new transaction", (), || {
        let Some((server, api, _)) = ready() else { return };
        let came = server.symbols.processing_get(api.here_arrival);
        api.tm.put(t, api.there_arrival, if came.is_null() { Moment::now().mono as *mut c_void } else { came });
        for (here, there) in [(api.here, api.there), (api.here_own, api.there_own)] {
            if let Some(ctx) = contexts::get(server, api, Slot::Here(here))
                && contexts::get(server, api, Slot::There(t, there)).is_none()
            {
                contexts::put(server, api, Slot::There(t, there), Some(ctx));
            }
        }
        if let Err(e) = api.tm.register_replies(t, Some(on_any_reply)) {
            log::error!("{e}");
        }
        BYE.set(BYE.get().map(|(raw, _)| (raw, true)));
    });
}

/// A message of any transaction came in. The script may mark a request only in its failure route,
/// and change the values of one that is not marked.
pub unsafe extern "C" fn on_any_reply(t: *mut os_cell, _kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("any reply", (), || {
        // SAFETY: as in `on_transaction`.
        let (rpl, code) = unsafe { ((*params).rpl, (*params).code as u16) };
        say("values set on a reply are lost", reply_came(t, rpl, code));
    });
}

/// A message of the transaction came in. A reply is private still: the host may copy it and have
/// any process go on with the copy, so what records read of it is parsed now; and what a global
/// reply route set on it, before its transaction was known, goes to the request's context.
fn reply_came(t: *mut os_cell, rpl: *mut os_sip_msg, code: u16) -> Result<(), SharedError> {
    let (Some((server, api, module)), Some(msg)) = (ready(), message(rpl)) else { return Ok(()) };
    if outcome::matters(module, code) {
        msg.reply(code);
    }
    let here = Slot::Here(api.here);
    match (contexts::get(server, api, here), contexts::get(server, api, Slot::There(t, api.there))) {
        (Some(set_before), Some(ctx)) => outcome::take_values(&ctx, &set_before, |values| contexts::put(server, api, here, Some(values))),
        _ => Ok(()),
    }
}

/// The reply that a transaction callback is about. It may be a copy that all processes share, so
/// nothing is read of it but what `reply_came` had parsed.
fn reply_of(rpl: *mut os_sip_msg, code: u16) -> Reply {
    message(rpl).map_or_else(|| decide::local_reply(code), |msg| msg.reply(code))
}

/// Events of a marked request's transaction.
pub unsafe extern "C" fn on_transaction(_t: *mut os_cell, kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("transaction callback", (), || {
        // SAFETY: the host passes its parameters and keeps them through the call (promise 5).
        let (rpl, code, ctx) = unsafe { ((*params).rpl, (*params).code as u16, parameter((*params).param)) };
        let (Some((_, _, module)), Some(ctx)) = (ready(), ctx) else { return };
        let result = match kind as u32 {
            OS_TMCB_ON_FAILURE => outcome::attempt_failed(module, &ctx, &reply_of(rpl, code)),
            _ => outcome::reply_went(module, &ctx, code, || reply_of(rpl, code)),
        };
        say("a transaction could not be accounted", result);
    });
}

/// The 2xx of a call with CDR is about to leave: the call starts, before anybody can hang up.
pub unsafe extern "C" fn on_answer(_t: *mut os_cell, _kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("answer", (), || {
        // SAFETY: as in `on_transaction`.
        let (rpl, code, ctx) = unsafe { ((*params).rpl, (*params).code as u16, parameter((*params).param)) };
        let (Some((_, _, module)), Some(ctx)) = (ready(), ctx) else { return };
        say("the answer of a call could not be noted", outcome::reply_leaves(module, &ctx, code, || reply_of(rpl, code)));
    });
}

/// The reply of a BYE that ended a call.
unsafe extern "C" fn on_bye_reply(_t: *mut os_cell, _kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("reply of a BYE", (), || {
        // SAFETY: as in `on_transaction`.
        let (code, ctx) = unsafe { ((*params).code, parameter((*params).param)) };
        if let (200.., Some(ctx)) = (code, ctx) {
            write_cdr(&ctx);
        }
    });
}

/// The BYE's transaction is gone: when no reply completed it, the CDR is written now.
unsafe extern "C" fn on_bye_gone(param: *mut c_void) {
    guard::entry("end of a BYE", (), || {
        // SAFETY: the host hands its reference back (promise 5).
        if let Some(ctx) = unsafe { SharedContext::from_raw(param) } {
            write_cdr(&ctx);
        }
    });
}

/// Ties a call to its dialog: the dialog is made if need be, holds the context, and its events
/// come here from now on, so that no end of the call can be missed.
pub fn follow(msg: *mut os_sip_msg, api: &Api, ctx: &SharedContext) -> Result<(), String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    let dlg = dialogs.create(msg)?;
    if dialogs.context(dlg).is_some_and(|c| c.same(ctx)) {
        return Ok(());
    }
    let name = dialogs.name(dlg);
    ctx.update(|c| c.dialog = name).map_err(|e| e.to_string())?;
    attach(dlg, ctx)?;
    api.tm.register(msg, OS_TMCB_RESPONSE_PRE_OUT, Some(on_answer), ctx.duplicate(), Some(release))
}

fn attach(dlg: *mut os_dlg_cell, ctx: &SharedContext) -> Result<(), String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    let events = OS_DLGCB_REQ_WITHIN | OS_DLGCB_TERMINATED | OS_DLGCB_EXPIRED | OS_DLGCB_WRITE_VP | OS_DLGCB_PROCESS_VARS;
    dialogs.register(dlg, events, Some(on_dialog), ctx.duplicate(), Some(release))?;
    dialogs.set_context(dlg, ctx.duplicate());
    Ok(())
}

fn follow_restored(dlg: *mut os_dlg_cell, ctx: &SharedContext) {
    if let Err(e) = attach(dlg, ctx) {
        log::error!("a restored call cannot be followed: {e}");
    }
}

/// Events of a call's dialog.
unsafe extern "C" fn on_dialog(dlg: *mut os_dlg_cell, kind: c_int, params: *mut os_dlg_cb_params) {
    guard::entry("dialog callback", (), || {
        // SAFETY: the host passes its parameters and keeps them through the call (promise 6).
        let (p, ctx) = unsafe { (&*params, parameter((*params).param)) };
        let (Some((server, api, module)), Some(ctx)) = (ready(), ctx) else { return };
        match kind as u32 {
            OS_DLGCB_REQ_WITHIN => script::join(Current { server, api, raw: p.msg }, &ctx),
            OS_DLGCB_WRITE_VP => persist(dlg, &ctx),
            OS_DLGCB_PROCESS_VARS => take_over(dlg, &ctx),
            kind => ended(server, api, module, &ctx, p, kind == OS_DLGCB_EXPIRED),
        }
    });
}

/// The dialog is over. A BYE from the wire completes the call with its reply, so that values set
/// meanwhile are in the CDR; any other end completes it at once.
fn ended(server: &'static Server, api: &'static Api, module: &Module, ctx: &SharedContext, p: &os_dlg_cb_params, expired: bool) {
    if p.is_active == 0 {
        // Another node of the cluster owns this call and writes its CDR.
        let closed = ctx.update(decide::close).map(|end| worker::emit_end(module, &end));
        say("a call owned by another node could not be closed", closed);
        return;
    }
    let (cause, from_wire) = match p.direction {
        OS_DLG_DIR_DOWNSTREAM => (EndCause::Caller, true),
        OS_DLG_DIR_UPSTREAM => (EndCause::Callee, true),
        // With BYEs sent on timeout the dialog ends as by any other order of the server.
        _ if expired || message(p.msg).is_some_and(|m| m.dialog_end_reason() == LIFETIME_OVER) => (EndCause::Timeout, false),
        _ => (EndCause::Proxy, false),
    };
    let now = Moment::now();
    say("the end of a call could not be noted", ctx.update(|c| decide::on_end(c, cause, now)));
    if !from_wire {
        write_cdr(ctx);
        return;
    }
    script::join(Current { server, api, raw: p.msg }, ctx);
    let has_transaction = api.tm.current().is_some();
    let registered = api.tm.register(p.msg, OS_TMCB_RESPONSE_OUT, Some(on_bye_reply), ctx.duplicate(), Some(on_bye_gone));
    let waits = registered.is_ok() && server.symbols.has_processing_context();
    if !waits {
        write_cdr(ctx);
    } else if !has_transaction {
        let raw = server.symbols.processing_get(api.here) as usize;
        BYE.set(Some((raw, false)));
    }
}

/// Number of our journal; 0 = there is none.
fn our_journal() -> u64 {
    worker::module().and_then(|m| m.journal.as_ref()).map_or(0, Dir::id)
}

/// Puts the state into the dialog's values, which the host saves and replicates: the number of the
/// journal that has the call, 0 = none, and the context.
fn persist(dlg: *mut os_dlg_cell, ctx: &SharedContext) {
    let Some(dialogs) = DIALOGS.get() else { return };
    let journal = if ctx.was_in_journal() { our_journal() } else { 0 };
    let mut state = journal.to_le_bytes().to_vec();
    match ctx.read(|c| c.encode(&mut state)) {
        Ok(()) if dialogs.store(dlg, STATE, &state) => {}
        Ok(()) => log::error!("the accounting state of a call could not be kept in its dialog: it would be lost by a restart"),
        read => say("the accounting state of a call could not be kept in its dialog", read),
    }
}

/// What [`persist`] put there.
fn persisted(state: &[u8]) -> Option<(u64, Context)> {
    let (journal, context) = state.split_first_chunk()?;
    Some((u64::from_le_bytes(*journal), Context::decode(context)?))
}

/// The dialog's values were changed on another node: take them over.
fn take_over(dlg: *mut os_dlg_cell, ctx: &SharedContext) {
    let Some(dialogs) = DIALOGS.get() else { return };
    let Some((_, remote)) = dialogs.fetch(dlg, STATE).and_then(|v| persisted(&v)) else { return };
    say("values set on another node could not be taken over", ctx.take_over(|c| *c = Context { closed: c.closed, ..remote }));
}

/// The host restored a dialog: ours or the original module's state becomes a context again.
pub unsafe extern "C" fn on_loaded(dlg: *mut os_dlg_cell, _kind: c_int, _params: *mut os_dlg_cb_params) {
    guard::entry("restored dialog", (), || {
        let (Some((_, _, module)), Some(dialogs)) = (ready(), DIALOGS.get()) else { return };
        if dialogs.context(dlg).is_some() {
            return;
        }
        let name = dialogs.name(dlg);
        // The journal's state is the latest: every change went there.
        match revival::claim(&name) {
            Some(Claim::Open(ctx)) => return follow_restored(dlg, &ctx),
            Some(Claim::Over) => return,
            None => {}
        }
        let state = match dialogs.fetch(dlg, STATE) {
            Some(v) => {
                let state = persisted(&v);
                if state.is_none() {
                    log::error!("the accounting state of a restored dialog cannot be read: no CDR can be written for this call");
                }
                state
            }
            None => stock::import(&module.config.fields, |name| dialogs.fetch(dlg, name)).map(|ctx| (0, ctx)),
        };
        let Some((journal, mut ctx)) = state else { return };
        if ctx.closed {
            return;
        }
        // What our journal had and has no more is over: the server was killed before the dialog
        // module removed the dialog from its database. After a power cut the journal may know less.
        let since_boot = ctx.answered.is_some_and(|m| m.boot == Moment::now().boot);
        if journal != 0 && journal == our_journal() && since_boot {
            log::info!("a restored dialog is of a call that is over for the journal: nothing more is accounted");
            return;
        }
        // The original's state has no name: the journal is to find the call again under this one.
        ctx.dialog = name;
        say("a restored call cannot be followed", SharedContext::new(&ctx).map(|shared| follow_restored(dlg, &shared)));
    });
}
