//! Callbacks of the script, of transactions and of dialogs. Those of transactions and dialogs run
//! in any process of the host, on messages that may be shared: only the reply (while it is
//! private), the code and the context are used.

use std::ffi::{c_int, c_uint, c_void};

use super::abi::*;
use super::attached::{self, Which};
use super::contexts::{self, Current};
use super::present;
use super::state::{Api, DIALOGS, message, ready};
use crate::acc::clock::Moment;
use crate::acc::context::{EndCause, Reply};
use crate::acc::decide;
use crate::host::outcome::{say, write_cdr};
use crate::host::revival::{self, Claim};
use crate::host::shared::{SharedContext, SharedError};
use crate::host::{guard, outcome, script};

/// Dialog variable that holds the call's name, to find it again after a restart.
const CALL: &str = "acc_call";

/// Events of a transaction that a marked request follows.
pub const TRANSACTION_EVENTS: u32 = KM_TMCB_RESPONSE_READY | KM_TMCB_RESPONSE_OUT | KM_TMCB_LOCAL_COMPLETED | KM_TMCB_ON_FAILURE;

/// Script callbacks go on to the route.
const GO_ON: c_int = 1;

/// The context that a callback was registered with.
///
/// # Safety
/// `param` is the callback's own parameter place.
unsafe fn parameter(param: *mut *mut c_void) -> Option<SharedContext> {
    // SAFETY: the host keeps our pointer there while the callback is registered (promise 5, 6).
    unsafe { SharedContext::borrow_raw(*param) }
}

/// Before and after a request, reply, failure or branch failure route.
pub unsafe extern "C" fn on_script(msg: *mut km_sip_msg, flags: c_uint, _param: *mut c_void) -> c_int {
    guard::entry("script callback", GO_ON, || {
        if flags & KM_PRE_SCRIPT_CB != 0 {
            present::begin(msg);
            return GO_ON;
        }
        let left = present::end(msg);
        if left.loaded {
            log::warn!("acc_load_ctx_from_dlg() without acc_unload_ctx_from_dlg() at the end of the message: unloaded now");
        }
        if let Some(call) = left.call {
            write_cdr(&call);
        }
        GO_ON
    })
}

/// A new transaction: note its arrival, give it the contexts of its message, which is private
/// still.
pub unsafe extern "C" fn on_request_in(t: *mut km_cell, _kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("new transaction", (), || {
        let Some((_, api, _)) = ready() else { return };
        // SAFETY: the host passes its parameters and keeps them through the call (promise 5).
        let msg = unsafe { (*params).req };
        api.tm.attach(t, present::arrived(msg).or_else(|| Some(Moment::now())));
        for which in [Which::InForce, Which::Own] {
            if let Some(ctx) = present::get(msg, which)
                && contexts::there(t, which).is_none()
            {
                api.tm.put(t, which, ctx);
            }
        }
        present::got_transaction(msg);
        say("the end of a call could not be noted", bye_without_dialog(api, t, msg));
    });
}

/// A BYE of a call whose dialog is gone. That happens when a repeated INVITE overtakes the first
/// copy, whose worker was held up between do_accounting() and t_relay(): the host's dialog belongs to
/// the first, and goes with it when it finds that the transaction exists.
fn bye_without_dialog(api: &'static Api, t: *mut km_cell, msg: *mut km_sip_msg) -> Result<(), SharedError> {
    let Some(bye) = message(msg).filter(|m| m.method() == b"BYE").map(|m| m.core()) else { return Ok(()) };
    let Some(ctx) = attached::table().and_then(|table| table.get(attached::key_of_call(&bye.callid), Which::InForce)) else { return Ok(()) };
    let (caller, callee) = ctx.read(|c| (c.core.from_tag.clone(), c.core.to_tag.clone()))?;
    // A caller may hang up on one of several phones that answered: only the first one's is the call.
    let cause = match (&bye.from_tag, &bye.to_tag) {
        (from, to) if *from == caller && *to == callee => EndCause::Caller,
        (from, to) if *to == caller && *from == callee => EndCause::Callee,
        _ => return Ok(()),
    };
    if ctx.progress()?.ended || DIALOGS.get().is_some_and(|dialogs| dialogs.of(msg).is_some()) {
        return Ok(());
    }
    let now = Moment::now();
    ctx.update(|c| decide::on_end(c, cause, now))?;
    script::join(Current { api, raw: msg }, &ctx);
    if api.tm.register_to(t, KM_TMCB_RESPONSE_OUT | KM_TMCB_DESTROY, on_bye, ctx.duplicate()).is_err() {
        write_cdr(&ctx);
    }
    over(&ctx)
}

/// A call is found by its Call-ID once it is answered.
fn be_found_by_id(ctx: &SharedContext) -> Result<(), SharedError> {
    let progress = ctx.progress()?;
    if progress.answered
        && !progress.ended
        && let Some(table) = attached::table()
    {
        let key = attached::key_of_call(&ctx.read(|c| c.core.callid.clone())?);
        table.add(key, None);
        table.offer(key, ctx);
    }
    Ok(())
}

/// The call has ended: it need not be found any more.
fn over(ctx: &SharedContext) -> Result<(), SharedError> {
    let key = attached::key_of_call(&ctx.read(|c| c.core.callid.clone())?);
    if let Some(table) = attached::table()
        && table.get(key, Which::InForce).is_some_and(|c| c.same(ctx))
    {
        table.forget(key);
    }
    Ok(())
}

/// The reply that a transaction callback is about. It may be a copy that all processes share, so
/// nothing is read of it but what `on_any_transaction` had parsed.
fn reply_of(rpl: *mut km_sip_msg, code: u16) -> Reply {
    message(rpl).map_or_else(|| decide::local_reply(code), |msg| msg.reply(code))
}

/// A reply of any transaction, and its end. The reply is private still: the host may copy it and
/// have any process go on with the copy, so what records read of it is parsed now; and what a global
/// reply route set on it goes to the request's context.
pub unsafe extern "C" fn on_any_transaction(t: *mut km_cell, kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("any transaction", (), || {
        if kind as u32 == KM_TMCB_DESTROY {
            if let Some(table) = attached::table() {
                table.forget(t.cast());
            }
            return;
        }
        // SAFETY: as in `on_transaction`.
        let (rpl, code) = unsafe { ((*params).rpl, (*params).code as u16) };
        let (Some((_, _, module)), Some(msg)) = (ready(), message(rpl)) else { return };
        if outcome::matters(module, code) {
            msg.reply(code);
        }
        if let Some(set_before) = present::get(rpl, Which::InForce)
            && let Some(ctx) = contexts::there(t, Which::InForce)
        {
            let taken = outcome::take_values(&ctx, &set_before, |values| present::put(rpl, Which::InForce, Some(values)));
            say("values set on a reply are lost", taken);
        }
    });
}

/// Events of a marked request's transaction.
pub unsafe extern "C" fn on_transaction(_t: *mut km_cell, kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("transaction callback", (), || {
        // SAFETY: the host passes its parameters and keeps them through the call (promise 5).
        let (rpl, code, ctx) = unsafe { ((*params).rpl, (*params).code, parameter((*params).param)) };
        let (Some((_, _, module)), Some(ctx), Ok(code)) = (ready(), ctx, u16::try_from(code)) else { return };
        let result = match kind as u32 {
            KM_TMCB_RESPONSE_READY => outcome::reply_leaves(module, &ctx, code, || reply_of(rpl, code)).and_then(|()| be_found_by_id(&ctx)),
            KM_TMCB_ON_FAILURE => outcome::attempt_failed(module, &ctx, &reply_of(rpl, code)),
            _ => outcome::reply_went(module, &ctx, code, || reply_of(rpl, code)),
        };
        say("a transaction could not be accounted", result);
    });
}

/// The transaction of a BYE that ended a call: its final reply completes the CDR; when there was
/// none, its end does.
unsafe extern "C" fn on_bye(_t: *mut km_cell, kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("BYE", (), || {
        // SAFETY: as in `on_transaction`.
        let (code, ctx) = unsafe { ((*params).code, parameter((*params).param)) };
        if let Some(ctx) = ctx
            && (code >= 200 || kind as u32 == KM_TMCB_DESTROY)
        {
            write_cdr(&ctx);
        }
    });
}

/// Ties a call to its dialog: the dialog is made if need be, holds the context, and its events
/// come here from now on, so that no end of the call can be missed.
pub fn follow(msg: *mut km_sip_msg, ctx: &SharedContext) -> Result<(), String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    let dialog = dialogs.create(msg)?;
    if dialogs.context(dialog.raw).is_some_and(|c| c.same(ctx)) {
        return Ok(());
    }
    let name = ctx
        .update(|c| {
            c.dialog = format!("{:032x}", c.call_key()).into_bytes();
            c.dialog.clone()
        })
        .map_err(|e| e.to_string())?;
    attach(dialog.raw, ctx)?;
    if !dialogs.store(dialog.raw, CALL, &name) {
        log::error!("the name of a call could not be kept in its dialog: a restart would end its accounting");
    }
    Ok(())
}

fn attach(dlg: *mut km_dlg_cell, ctx: &SharedContext) -> Result<(), String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    let events =
        KM_DLGCB_FAILED | KM_DLGCB_REQ_WITHIN | KM_DLGCB_CONFIRMED | KM_DLGCB_TERMINATED | KM_DLGCB_TERMINATED_CONFIRMED | KM_DLGCB_EXPIRED | KM_DLGCB_DESTROY;
    dialogs.register(dlg, events, on_dialog, ctx.duplicate())
}

/// Events of a call's dialog.
unsafe extern "C" fn on_dialog(dlg: *mut km_dlg_cell, kind: c_int, params: *mut km_dlg_cb_params) {
    guard::entry("dialog callback", (), || {
        // SAFETY: the host passes its parameters, which are good until its next callback (promise 6).
        let (msg, direction, ctx) = unsafe { ((*params).req, (*params).direction, parameter((*params).param)) };
        let (Some((_, api, _)), Some(ctx)) = (ready(), ctx) else { return };
        match kind as u32 {
            KM_DLGCB_REQ_WITHIN | KM_DLGCB_CONFIRMED if !msg.is_null() => script::join(Current { api, raw: msg }, &ctx),
            // The server said so before its own BYE was sent, which it does not do while the call rings.
            KM_DLGCB_TERMINATED if msg.is_null() && !is_answered(&ctx) => {}
            KM_DLGCB_TERMINATED | KM_DLGCB_EXPIRED => {
                ended(api, msg, direction, &ctx, kind as u32 == KM_DLGCB_EXPIRED);
                say("a call that has ended could not be read", over(&ctx));
            }
            // The BYE has its reply. The end is known, unless the server sent it to one side only.
            KM_DLGCB_TERMINATED_CONFIRMED => say("the end of a call could not be noted", ended_by_server(&ctx)),
            // The host finds a failed dialog until its transaction is gone, also for the caller's next
            // INVITE with this Call-ID.
            KM_DLGCB_FAILED | KM_DLGCB_DESTROY => {
                if let Some(table) = attached::table() {
                    table.forget(dlg.cast());
                }
            }
            _ => {}
        }
    });
}

fn is_answered(ctx: &SharedContext) -> bool {
    ctx.progress().is_ok_and(|p| p.answered)
}

/// The server's own BYE ended the call, unless something else did before.
fn ended_by_server(ctx: &SharedContext) -> Result<(), SharedError> {
    let progress = ctx.progress()?;
    if progress.answered && !progress.ended {
        let now = Moment::now();
        ctx.update(|c| decide::on_end(c, EndCause::Proxy, now))?;
        write_cdr(ctx);
        over(ctx)?;
    }
    Ok(())
}

/// The dialog is over. A BYE from the wire completes the call with its reply, so that values set
/// meanwhile are in the CDR; any other end completes it at once.
fn ended(api: &'static Api, msg: *mut km_sip_msg, direction: u32, ctx: &SharedContext, expired: bool) {
    let cause = match direction {
        KM_DLG_DIR_DOWNSTREAM => EndCause::Caller,
        KM_DLG_DIR_UPSTREAM => EndCause::Callee,
        _ if expired => EndCause::Timeout,
        _ => EndCause::Proxy,
    };
    let now = Moment::now();
    say("the end of a call could not be noted", ctx.update(|c| decide::on_end(c, cause, now)));
    if msg.is_null() || !matches!(cause, EndCause::Caller | EndCause::Callee) {
        write_cdr(ctx);
        return;
    }
    script::join(Current { api, raw: msg }, ctx);
    let has_transaction = api.tm.current().is_some();
    match api.tm.register(msg, KM_TMCB_RESPONSE_OUT | KM_TMCB_DESTROY, on_bye, ctx.duplicate()) {
        Ok(()) => present::ends_call(msg, ctx, has_transaction),
        Err(_) => write_cdr(ctx),
    }
}

/// The host restored a dialog: the call that the journal kept goes on.
pub unsafe extern "C" fn on_loaded(dlg: *mut km_dlg_cell, _kind: c_int, _params: *mut km_dlg_cb_params) {
    guard::entry("restored dialog", (), || {
        let Some(dialogs) = DIALOGS.get() else { return };
        if dialogs.context(dlg).is_some() {
            return;
        }
        let Some(name) = dialogs.fetch(dlg, CALL) else { return };
        match revival::claim(&name) {
            Some(Claim::Open(ctx)) => {
                if let Err(e) = attach(dlg, &ctx) {
                    log::error!("a restored call cannot be followed: {e}");
                }
            }
            Some(Claim::Over) => {}
            None => log::error!("a restored dialog has an accounted call that the journal does not know: no CDR can be written for it"),
        }
    });
}
