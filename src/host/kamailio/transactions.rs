//! Callbacks of the script and of transactions.

use std::ffi::{c_int, c_uint, c_void};

use super::abi::*;
use super::attached::{self, Request, Which};
use super::contexts::{self, Current};
use super::dialogs::{on_bye, over};
use super::events::{Event, leaving, reply_of};
use super::state::{Api, DIALOGS, Server, message, ready};
use super::{cdrs, flags, present};
use crate::accounting::clock::Moment;
use crate::accounting::record::EndCause;
use crate::host::full::say;
use crate::host::outcome::write_cdr;
use crate::host::proof::{self, Once};
use crate::host::script::{self, AtHand, Place};
use crate::host::server::Text;
use crate::host::shared::{SharedContext, SharedError};
use crate::host::{guard, outcome};

/// Events of a transaction that a marked request follows.
pub const TRANSACTION_EVENTS: u32 = KM_TMCB_RESPONSE_READY | KM_TMCB_RESPONSE_OUT | KM_TMCB_LOCAL_COMPLETED | KM_TMCB_ON_FAILURE | KM_TMCB_REQUEST_FWDED;

/// Script callbacks go on to the route.
const GO_ON: c_int = 1;

/// Before and after a request, reply, failure or branch failure route.
pub unsafe extern "C" fn on_script(msg: *mut km_sip_msg, flags: c_uint, param: *mut c_void) -> c_int {
    static PROOF: Once = Once::new();
    guard::entry("script callback", GO_ON, || {
        let is_known = || param == proof::witness() && proof::is_readable(msg.cast());
        if !PROOF.proved("callbacks of the script in this server have other parameters than in the known versions", is_known) {
            return GO_ON;
        }
        if flags & KM_PRE_SCRIPT_CB != 0 {
            present::begin(msg);
            return GO_ON;
        }
        if present::is_stateless_bye(msg)
            && let Some((server, api, _)) = ready()
        {
            say("the end of a call could not be noted", bye_without_dialog(server, api, None, msg));
        }
        let left = present::end(msg);
        if left.loaded {
            log::warn!("acc_load_ctx_from_dlg() without acc_unload_ctx_from_dlg() at the end of the message: unloaded now");
        }
        left.calls.iter().for_each(cdrs::ended_without_transaction);
        GO_ON
    })
}

/// A new transaction: notes its arrival, and gives it the contexts of its message, which is still private.
pub unsafe extern "C" fn on_request_in(t: *mut km_cell, _kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("new transaction", (), || {
        // SAFETY: the host's parameters.
        let (Some((server, api, instance)), Some(Event { req: msg, .. })) = (ready(), unsafe { Event::of(params) }) else { return };
        let request = Request {
            arrived: present::arrived(msg).or_else(|| Some(Moment::now())),
            is_initial: message(msg).is_some_and(|m| m.to_tag().is_empty()),
            dialog: present::dialog(msg),
        };
        api.tm.begin(t, request);
        if request.dialog != 0
            && let Some(invite) = message(msg)
        {
            cdrs::on_transaction(request.dialog as *mut km_dlg_cell, t, &invite);
        }
        for which in [Which::InForce, Which::Own] {
            if let Some(ctx) = present::get(msg, which)
                && contexts::there(t, which).is_none()
            {
                api.tm.put(t, which, ctx);
            }
        }
        let ended = present::got_transaction(msg, t);
        if let Some(request) = message(msg) {
            ended.iter().for_each(|call| cdrs::on_transaction_of_bye(call, &request));
            flags::on_request_in(api, instance, t, &request);
        }
        say("the end of a call could not be noted", bye_without_dialog(server, api, Some(t), msg));
    });
}

/// A request follows its routes. A script may forward or answer a BYE without a transaction. A BYE that the script
/// refuses before that does not come here, nor does the dialog module hear of it.
pub unsafe extern "C" fn on_routed(msg: *mut km_sip_msg, _params: *mut Text, param: *mut c_void) {
    static PROOF: Once = Once::new();
    guard::entry("routed request", (), || {
        let is_known = || param == proof::witness() && proof::is_readable(msg.cast());
        if PROOF.proved("callbacks of rr in this server have other parameters than in the known versions", is_known)
            && message(msg).is_some_and(|m| m.method() == b"BYE")
        {
            present::routed_bye(msg);
        }
    });
}

/// A BYE of calls without a dialog of the host, with its transaction if there is one. There is no dialog if the INVITE came
/// while the host had a dialog with the same Call-ID and From tag, made by another INVITE (see [`super::dialogs::follow`]), or
/// if the INVITE was answered after it had been refused: the host's dialog ended with the refusal.
fn bye_without_dialog(server: &'static Server, api: &'static Api, t: Option<*mut km_cell>, msg: *mut km_sip_msg) -> Result<(), SharedError> {
    let Some(bye) = message(msg).filter(|m| m.method() == b"BYE").map(|m| m.core()) else { return Ok(()) };
    let Some(table) = attached::table() else { return Ok(()) };
    let mut in_dialog = None;
    for ctx in table.calls(attached::key_of_call(&bye)) {
        let call = ctx.copy()?;
        // A caller may hang up on one of several phones that answered: only the first one has the call.
        let Some(cause) = attached::side(&call.core, &bye) else { continue };
        let of_dialog = in_dialog.get_or_insert_with(|| {
            let dialogs = DIALOGS.get()?;
            dialogs.context(dialogs.of(msg)?.raw)
        });
        if call.ended.is_some() || of_dialog.as_ref().is_some_and(|c| c.same(&ctx)) {
            continue;
        }
        let now = Moment::now();
        let reason = message(msg).map(|m| m.cause()).unwrap_or_default();
        outcome::end(&ctx, cause, &reason, now)?;
        // An INVITE that came back to us made two calls, which one BYE ends: the first of them gets its values, and keeps its marks.
        let at = Current { server, api, raw: msg };
        if at.get(Place::Here).is_none_or(|values| !values.progress().answered) {
            script::join(at, &ctx);
        }
        // There is no reply to wait for, so the CDR is due.
        if t.is_none_or(|t| api.tm.register_on(t, KM_TMCB_RESPONSE_OUT | KM_TMCB_DESTROY, on_bye, ctx.duplicate()).is_err()) {
            write_cdr(&ctx);
        }
        over(&ctx)?;
    }
    Ok(())
}

/// Makes an answered call findable by its Call-ID and tags.
fn be_found(ctx: &SharedContext) -> Result<(), SharedError> {
    let progress = ctx.progress();
    if progress.answered
        && !progress.ended
        && let Some(table) = attached::table()
    {
        let (key, answered) = ctx.read_head(|c| (attached::key_of_call(&c.core), c.answered))?;
        table.add_call(key, ctx, answered);
    }
    Ok(())
}

/// Timer: ends calls without a dialog of the host after the lifetime of dialogs.
pub extern "C" fn end_lost(_ticks: c_uint, _param: *mut c_void) {
    guard::entry("lifetime timer", (), || {
        let (Some(_), Some(table), Some(dialogs)) = (ready(), attached::table(), DIALOGS.get()) else { return };
        let now = Moment::now();
        for ctx in table.calls_older_than(now, dialogs.lifetime) {
            if ctx.is_claimed() {
                continue;
            }
            let ended = ctx.end(EndCause::Timeout, now).and_then(|()| {
                write_cdr(&ctx);
                over(&ctx)
            });
            say("the end of a call could not be noted", ended);
        }
    });
}

/// A reply of any transaction, and its end. The reply is still private: the host may copy it and let any process
/// go on with the copy, so what records read from it is parsed now; and values that a global reply route set on it
/// go into the request's context.
pub unsafe extern "C" fn on_any_transaction(t: *mut km_cell, kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("any transaction", (), || {
        if kind as u32 == KM_TMCB_DESTROY {
            if let Some(table) = attached::table() {
                table.forget(t.cast());
            }
            return;
        }
        // SAFETY: the host's parameters.
        let Some(Event { rpl, code, .. }) = (unsafe { Event::of(params) }) else { return };
        let (Some((_, _, instance)), Some(msg)) = (ready(), message(rpl)) else { return };
        if outcome::matters(instance, code) {
            msg.reply(code);
        }
        cdrs::reply_came(rpl);
        if let Some(set_before) = present::get(rpl, Which::InForce)
            && let Some(ctx) = contexts::there(t, Which::InForce)
        {
            let taken = outcome::take_values(&ctx, &set_before, |values| present::put(rpl, Which::InForce, Some(values)));
            say("values set on a reply are lost", taken);
        }
    });
}

/// Events of a marked request's transaction.
pub unsafe extern "C" fn on_transaction(t: *mut km_cell, kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("transaction callback", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        let (Some((_, _, instance)), Some(ctx)) = (ready(), event.context()) else { return };
        let rpl = event.rpl;
        if kind as u32 == KM_TMCB_REQUEST_FWDED {
            return ctx.count_attempt();
        }
        let code = if kind as u32 == KM_TMCB_RESPONSE_READY { leaving(rpl, event.code) } else { event.code };
        let result = match kind as u32 {
            KM_TMCB_RESPONSE_READY => outcome::reply_leaves(&ctx, code, || reply_of(rpl, code)).and_then(|()| be_found(&ctx)),
            KM_TMCB_ON_FAILURE => outcome::attempt_failed(instance, &ctx, &reply_of(rpl, code), None, |what| contexts::is_first(t, what)),
            _ => outcome::reply_went(instance, &ctx, code, || reply_of(rpl, code), None, |what| contexts::is_first(t, what)),
        };
        say("a transaction could not be accounted", result);
    });
}
