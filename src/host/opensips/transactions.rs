//! Callbacks of the script and of transactions.

use std::ffi::{c_int, c_void};

use super::abi::*;
use super::contexts::{self, Slot};
use super::events::{Event, is_answered_by_module, reply_of, say_answered_by_module};
use super::message::keep_memory_apart;
use super::state::{Api, BYE, message, ready};
use super::{dialogs, flags};
use crate::accounting::clock::Moment;
use crate::accounting::marks::Flag;
use crate::host::full::say;
use crate::host::shared::{SharedContext, SharedError};
use crate::host::{guard, outcome, proof};
use crate::worker::Instance;

/// Events of a transaction that a marked request follows.
pub const TRANSACTION_EVENTS: u32 = OS_TMCB_RESPONSE_OUT | OS_TMCB_LOCAL_COMPLETED | OS_TMCB_ON_FAILURE | OS_TMCB_REQUEST_FWDED;

/// A reply is about to be sent, which may be the answer of a call.
pub const ANSWER: u32 = OS_TMCB_RESPONSE_PRE_OUT;

/// A request came: notes when. Its route may wait for something before it makes a transaction.
pub unsafe extern "C" fn on_request(msg: *mut os_sip_msg, _param: *mut c_void) -> c_int {
    const GO_ON: c_int = OS_SCB_RUN_ALL as c_int;
    guard::entry("script callback", GO_ON, || {
        if let Some((server, api, instance)) = ready() {
            server.symbols.processing_put(api.here_arrival, Moment::now().mono as *mut c_void);
            flags::request_came(server, api, instance, msg);
        }
        GO_ON
    })
}

/// A reply came, which is still private: the host may copy it and let any process go on with the copy, so what records
/// read from it is parsed now.
pub unsafe extern "C" fn on_reply(msg: *mut os_sip_msg, _param: *mut c_void) -> c_int {
    const GO_ON: c_int = OS_SCB_RUN_ALL as c_int;
    guard::entry("script callback of replies", GO_ON, || {
        if let (Some((_, _, instance)), Some(reply)) = (ready(), message(msg)) {
            reply.parse_reply(|code| outcome::matters(instance, code));
        }
        GO_ON
    })
}

/// Do replies have to be seen when their transactions are known? Message flags may read them, and a global reply route may
/// have set values of declared fields.
fn needs_matched(api: &Api, instance: &Instance) -> bool {
    let fields = &instance.config.rules.fields;
    !fields.extra.tags.is_empty() || !fields.leg.tags.is_empty() || flags::need_replies(api)
}

/// Makes [`on_any_reply`] get the replies of a transaction, if necessary.
pub fn see_replies(api: &Api, instance: &Instance, t: *mut os_cell) -> Result<(), String> {
    if needs_matched(api, instance) { api.tm.register_replies(t, Some(on_any_reply)) } else { Ok(()) }
}

/// A new transaction: notes its arrival, and gives it the contexts of its message.
pub unsafe extern "C" fn on_request_in(t: *mut os_cell, _kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("new transaction", (), || {
        // SAFETY: the host's parameters.
        let (Some((server, api, instance)), Some(event)) = (ready(), unsafe { Event::of(params) }) else { return };
        let came = server.symbols.processing_get(api.here_arrival);
        if !api.tm.begin(t, api.there_arrival, if came.is_null() { Moment::now().mono as *mut c_void } else { came }) {
            return proof::stop("transactions of this server do not keep what is put into them");
        }
        for (here, there) in [(api.here, api.there), (api.here_own, api.there_own)] {
            if let Some(ctx) = contexts::get(server, api, Slot::Here(here))
                && contexts::get(server, api, Slot::There(t, there)).is_none()
            {
                contexts::put(server, api, Slot::There(t, there), Some(ctx));
            }
        }
        if let Err(e) = see_replies(api, instance, t) {
            log::error!("{e}");
        }
        BYE.set(BYE.get().map(|(raw, _)| (raw, true)));
        flags::on_request_in(server, api, instance, t, event.req);
        keep_memory_apart(&server.symbols);
    });
}

/// A message of any transaction came in. The script may mark a request only in its failure route,
/// and change the values of one that is not marked.
unsafe extern "C" fn on_any_reply(t: *mut os_cell, _kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("any reply", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        say("values set on a reply are lost", reply_came(t, event.rpl, event.code));
    });
}

/// A message of the transaction came in. What a global reply route set on a reply, before its transaction was
/// known, goes to the request's context.
fn reply_came(t: *mut os_cell, rpl: *mut os_sip_msg, code: u16) -> Result<(), SharedError> {
    let (Some((server, api, instance)), Some(msg)) = (ready(), message(rpl)) else { return Ok(()) };
    if outcome::matters(instance, code) {
        flags::reply_came(server, api, instance, t, rpl, &msg.reply(code))?;
    }
    let here = Slot::Here(api.here);
    match (contexts::get(server, api, here), contexts::get(server, api, Slot::There(t, api.there))) {
        (Some(set_before), Some(ctx)) => outcome::take_values(&ctx, &set_before, |values| contexts::put(server, api, here, Some(values))),
        _ => Ok(()),
    }
}

/// Events of a marked request's transaction.
pub unsafe extern "C" fn on_transaction(t: *mut os_cell, kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("transaction callback", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        let (Some((_, api, instance)), Some(ctx)) = (ready(), event.context()) else { return };
        if kind as u32 == OS_TMCB_REQUEST_FWDED {
            if !flags::is_watched(t, &ctx) {
                ctx.count_attempt();
            }
            return;
        }
        if kind as u32 == ANSWER {
            return answer_leaves(api, t, &ctx, &event);
        }
        let joined = flags::joined(t, kind as u32, &event);
        let is_first = |what| contexts::is_first(api, t, what);
        let result = match kind as u32 {
            OS_TMCB_ON_FAILURE => outcome::attempt_failed(instance, &ctx, &reply_of(event.rpl, event.code), joined.as_ref(), is_first),
            _ => outcome::reply_went(instance, &ctx, event.code, || reply_of(event.rpl, event.code), joined.as_ref(), is_first),
        };
        say("a transaction could not be accounted", result);
    });
}

/// The 2xx of a call with a CDR is about to be sent: the call starts, before anybody can hang up.
fn answer_leaves(api: &Api, t: *mut os_cell, ctx: &SharedContext, event: &Event) {
    let noted = if is_answered_by_module(api, t, event, ctx) {
        say_answered_by_module();
        ctx.update_head(|c| c.marks = c.marks.without(Flag::Cdr))
    } else {
        outcome::reply_leaves(ctx, event.code, || reply_of(event.rpl, event.code))
    };
    say("the answer of a call could not be noted", noted);
}

/// [`answer_leaves`] of a request that was marked without the flag `cdr` before.
pub unsafe extern "C" fn on_answer(t: *mut os_cell, _kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("answer", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        let (Some((_, api, _)), Some(ctx)) = (ready(), event.context()) else { return };
        answer_leaves(api, t, &ctx, &event);
    });
}

/// The message is done, and the script has changed a call.
pub unsafe extern "C" fn changes_done(_p: *mut c_void) {
    guard::entry("end of a message", (), dialogs::tell_cluster);
}

/// The message is done, and its context is released. A BYE without a transaction has been answered by now,
/// so the CDR of its call is written.
pub unsafe extern "C" fn message_done(p: *mut c_void) {
    guard::entry("end of a message", (), || {
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
                outcome::write_cdr(&ctx);
            }
        }
    });
}
