//! Callbacks of the script, of transactions and of dialogs. Those of transactions and dialogs run
//! in any process of the host, on messages that may be shared: only the reply (while it is
//! private), the code and the context are used.

use std::ffi::{c_int, c_uint, c_void};

use super::abi::*;
use super::attached::{self, Request, Which};
use super::contexts::{self, Current};
use super::state::{Api, DIALOGS, Kamailio, message, ready, server};
use super::{cdrs, flags, present};
use crate::accounting::clock::Moment;
use crate::accounting::context::Reply;
use crate::accounting::decide;
use crate::accounting::record::EndCause;
use crate::host::full::say;
use crate::host::outcome::write_cdr;
use crate::host::proof::{self, Once};
use crate::host::revival::{self, Claim};
use crate::host::server::Text;
use crate::host::shared::{SharedContext, SharedError};
use crate::host::{guard, outcome, script};
use crate::worker::port::Host as _;

/// Dialog variable that holds the call's name, to find it again after a restart.
const CALL: &str = "acc_call";

/// Events of a transaction that a marked request follows.
pub const TRANSACTION_EVENTS: u32 = KM_TMCB_RESPONSE_READY | KM_TMCB_RESPONSE_OUT | KM_TMCB_LOCAL_COMPLETED | KM_TMCB_ON_FAILURE | KM_TMCB_REQUEST_FWDED;

/// Script callbacks go on to the route.
const GO_ON: c_int = 1;

/// What a callback of tm is about.
pub struct Event {
    /// The request, which may be shared.
    pub req: *mut km_sip_msg,
    /// The reply, if the event is about one.
    pub rpl: *mut km_sip_msg,
    /// Its code.
    pub code: u16,
    param: *mut c_void,
    sent: Text,
}

impl Event {
    /// Reads the parameters of a callback, in the first call only after a proof that they are what
    /// they were in the known versions.
    ///
    /// # Safety
    /// `params` comes from the host.
    pub unsafe fn of(params: *mut km_tmcb_params) -> Option<Event> {
        static PROOF: Once = Once::new();
        // SAFETY: the host passes its parameters and keeps them through the call, our pointer in the
        // place of the parameter (promise 5).
        unsafe {
            let p = params.as_ref()?;
            let is_known = || {
                proof::is_ours(p.param)
                    && proof::is_message(p.req.cast(), FAKED_REPLY.cast())
                    && proof::is_message(p.rpl.cast(), FAKED_REPLY.cast())
                    && (p.rpl.is_null() || proof::is_code(p.code))
            };
            PROOF.proved("callbacks of tm in this server have other parameters than in the known versions", is_known).then(|| Event {
                req: p.req,
                rpl: p.rpl,
                code: u16::try_from(p.code).unwrap_or_default(),
                param: *p.param,
                sent: p.send_buf,
            })
        }
    }

    /// The context that the callback was registered with.
    pub fn context(&self) -> Option<SharedContext> {
        // SAFETY: the host holds our reference while the callback is registered (promise 5).
        unsafe { SharedContext::borrow_raw(self.param) }
    }
}

impl Event {
    /// What went out, where the event is about that.
    pub fn sent(&self) -> Option<&[u8]> {
        let can_be_read =
            usize::try_from(self.sent.len).is_ok_and(|n| (1..=LONGEST).contains(&n)) && proof::is_readable((self.sent.s as usize & !7) as *const c_void);
        // SAFETY: the host keeps the buffer through the call (promise 5).
        can_be_read.then(|| unsafe { self.sent.bytes() })
    }
}

/// Longest message that the host takes or makes.
const LONGEST: usize = 1 << 20;

/// What a callback of dialogs is about.
pub struct DialogEvent {
    /// The request, if there is one.
    pub req: *mut km_sip_msg,
    /// The reply, if the event is about one.
    pub rpl: *mut km_sip_msg,
    /// Who sent the request.
    pub direction: u32,
    /// What the callback was registered with.
    pub param: *mut c_void,
}

/// The parameters of a callback of dialogs: read as [`Event::of`] does.
///
/// # Safety
/// `params` comes from the host.
pub unsafe fn dialog_event(params: *mut km_dlg_cb_params) -> Option<DialogEvent> {
    static PROOF: Once = Once::new();
    // SAFETY: the host passes its parameters, which are good until its next callback (promise 6).
    unsafe {
        let p = params.as_ref()?;
        let is_known =
            || proof::is_ours(p.param) && p.direction <= KM_DLG_DIR_UPSTREAM && [p.req, p.rpl].iter().all(|m| proof::is_message(m.cast(), FAKED_REPLY.cast()));
        let what = "callbacks of dialogs in this server have other parameters than in the known versions";
        PROOF.proved(what, is_known).then(|| DialogEvent { req: p.req, rpl: p.rpl, direction: p.direction, param: *p.param })
    }
}

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
            && let Some((_, api, _)) = ready()
        {
            say("the end of a call could not be noted", bye_without_dialog(api, None, msg));
        }
        let left = present::end(msg);
        if left.loaded {
            log::warn!("acc_load_ctx_from_dlg() without acc_unload_ctx_from_dlg() at the end of the message: unloaded now");
        }
        left.calls.iter().for_each(write_cdr);
        GO_ON
    })
}

/// A new transaction: note its arrival, give it the contexts of its message, which is private
/// still.
pub unsafe extern "C" fn on_request_in(t: *mut km_cell, _kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("new transaction", (), || {
        // SAFETY: the host's parameters.
        let (Some((_, api, _)), Some(Event { req: msg, .. })) = (ready(), unsafe { Event::of(params) }) else { return };
        let request = Request {
            arrived: present::arrived(msg).or_else(|| Some(Moment::now())),
            is_initial: message(msg).is_some_and(|m| m.to_tag().is_empty()),
            dialog: present::dialog(msg),
        };
        api.tm.attach(t, request);
        for which in [Which::InForce, Which::Own] {
            if let Some(ctx) = present::get(msg, which)
                && contexts::there(t, which).is_none()
            {
                api.tm.put(t, which, ctx);
            }
        }
        present::got_transaction(msg);
        if let (Some((_, _, instance)), Some(request)) = (ready(), message(msg)) {
            flags::on_request_in(api, instance, t, &request);
        }
        say("the end of a call could not be noted", bye_without_dialog(api, Some(t), msg));
    });
}

/// A request follows its routes. A script may forward a BYE without a transaction, or answer it so; one that
/// it refuses before does not come here, nor does the dialog module hear of it.
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

/// A BYE of calls that have no dialog of the host's, with its transaction if there is one. That is so of an INVITE that came while the host
/// had a dialog with the same Call-ID and From tag, made by another one (see [`follow`]), and of one that
/// was answered after it had been refused: the host's dialog went with the refusal.
fn bye_without_dialog(api: &'static Api, t: Option<*mut km_cell>, msg: *mut km_sip_msg) -> Result<(), SharedError> {
    let Some(bye) = message(msg).filter(|m| m.method() == b"BYE").map(|m| m.core()) else { return Ok(()) };
    let Some(table) = attached::table() else { return Ok(()) };
    let mut in_dialog = None;
    for ctx in table.calls(attached::key_of_call(&bye)) {
        let call = ctx.copy()?;
        // A caller may hang up on one of several phones that answered: only the first one's is the call.
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
        script::join(Current { api, raw: msg }, &ctx);
        // Without a reply to wait for the CDR is due.
        if t.is_none_or(|t| api.tm.register_to(t, KM_TMCB_RESPONSE_OUT | KM_TMCB_DESTROY, on_bye, ctx.duplicate()).is_err()) {
            write_cdr(&ctx);
        }
        over(&ctx)?;
    }
    Ok(())
}

/// A call is found by its Call-ID and tags once it is answered.
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

/// Timer: a call without a dialog of the host's has the lifetime that dialogs have.
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

/// The call has ended: it need not be found any more.
fn over(ctx: &SharedContext) -> Result<(), SharedError> {
    if let Some(table) = attached::table() {
        table.forget_call(ctx.read_head(|c| attached::key_of_call(&c.core))?, ctx);
    }
    Ok(())
}

/// The reply that a transaction callback is about. It may be a copy that all processes share, so
/// nothing is read of it but what `on_any_transaction` had parsed.
fn reply_of(rpl: *mut km_sip_msg, code: u16) -> Reply {
    message(rpl).map_or_else(|| local_reply(code), |msg| msg.reply(code))
}

/// A reply of the host's own, with its phrase.
pub fn local_reply(code: u16) -> Reply {
    let mut reply = decide::local_reply(code);
    if let Some(server) = server() {
        reply.reason = server.symbols.phrase(code).to_vec();
    }
    reply
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
        // SAFETY: the host's parameters.
        let Some(Event { rpl, code, .. }) = (unsafe { Event::of(params) }) else { return };
        let (Some((_, _, module)), Some(msg)) = (ready(), message(rpl)) else { return };
        if outcome::matters(module, code) {
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

/// The code of a reply that is about to leave. Of a 2xx that comes after a refusal has gone, the host
/// names the code of the refusal.
pub fn leaving(rpl: *mut km_sip_msg, code: u16) -> u16 {
    if code < 300 {
        return code;
    }
    message(rpl).map(|m| m.status()).filter(|own| (200..300).contains(own)).unwrap_or(code)
}

/// Events of a marked request's transaction.
pub unsafe extern "C" fn on_transaction(t: *mut km_cell, kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("transaction callback", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        let (Some((_, _, module)), Some(ctx)) = (ready(), event.context()) else { return };
        let rpl = event.rpl;
        if kind as u32 == KM_TMCB_REQUEST_FWDED {
            return ctx.count_attempt();
        }
        let code = if kind as u32 == KM_TMCB_RESPONSE_READY { leaving(rpl, event.code) } else { event.code };
        let result = match kind as u32 {
            KM_TMCB_RESPONSE_READY => outcome::reply_leaves(&ctx, code, || reply_of(rpl, code)).and_then(|()| be_found(&ctx)),
            KM_TMCB_ON_FAILURE => outcome::attempt_failed(module, &ctx, &reply_of(rpl, code), None, |what| contexts::is_first(t, what)),
            _ => outcome::reply_went(module, &ctx, code, || reply_of(rpl, code), None, |what| contexts::is_first(t, what)),
        };
        say("a transaction could not be accounted", result);
    });
}

/// The transaction of a BYE that ended a call: its final reply completes the CDR; when there was
/// none, its end does.
unsafe extern "C" fn on_bye(_t: *mut km_cell, kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("BYE", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        if let Some(ctx) = event.context()
            && (event.code >= 200 || kind as u32 == KM_TMCB_DESTROY)
        {
            write_cdr(&ctx);
        }
    });
}

/// Ties a call to its dialog: the dialog is made if need be, holds the context, and its events
/// come here from now on, so that no end of the call can be missed.
///
/// While the host has a dialog with this Call-ID and From tag it makes no other: what comes then is a fork
/// of a proxy before us, or a stranger's, and that dialog is none of its own. Such a call ends with its BYE.
pub fn follow(at: Current, ctx: &SharedContext) -> Result<(), String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    if own_dialog(at) == 0 {
        dialogs.create(at.raw);
    }
    // In the journal a call without a dialog has a name of its own, too.
    let name = ctx
        .update(|c| {
            if c.dialog.is_empty() {
                c.dialog = format!("{:032x}{:x}", c.call_key(), ctx.address()).into_bytes();
            }
            c.dialog.clone()
        })
        .map_err(|e| e.to_string())?;
    let none = "the dialog module made no dialog for this call (see its own message above): no CDR can be written";
    let dialog = dialogs.of(at.raw).ok_or(none)?;
    if dialog.raw as usize == own_dialog(at) { tie(dialog.raw, ctx, &name) } else { Ok(()) }
}

/// Address of the dialog that the host made for the request at hand, 0 = none.
fn own_dialog(at: Current) -> usize {
    let of_transaction = || contexts::request_of(at.api.tm.current()?).map(|r| r.dialog);
    Some(present::dialog(at.raw)).filter(|d| *d != 0).or_else(of_transaction).unwrap_or(0)
}

fn tie(dlg: *mut km_dlg_cell, ctx: &SharedContext, name: &[u8]) -> Result<(), String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    if dialogs.context(dlg).is_some_and(|c| c.same(ctx)) {
        return Ok(());
    }
    attach(dlg, ctx)?;
    if !dialogs.store(dlg, CALL, name) {
        log::error!("the name of a call could not be kept in its dialog: a restart would end its accounting");
    }
    Ok(())
}

/// The host made a dialog for the INVITE at hand. With its `initial_cbs_inscript` 0 it says so only when
/// the transaction is made: then the call may wait for it.
pub unsafe extern "C" fn on_created(dlg: *mut km_dlg_cell, _kind: c_int, params: *mut km_dlg_cb_params) {
    guard::entry("new dialog", (), || {
        // SAFETY: the host's parameters.
        let Some(DialogEvent { req: msg, .. }) = (unsafe { dialog_event(params) }).filter(|e| !e.req.is_null()) else { return };
        present::made_dialog(msg, dlg as usize);
        if let Some(request) = message(msg) {
            cdrs::on_created(dlg, &request);
        }
        let Some(ctx) = present::get(msg, Which::InForce) else { return };
        match ctx.read_head(|c| (decide::is_cdr_call(c), c.dialog.clone())) {
            Ok((true, name)) if !name.is_empty() => {
                if let Err(e) = tie(dlg, &ctx, &name) {
                    log::error!("a call cannot be followed: {e}");
                }
            }
            _ => {}
        }
    });
}

fn attach(dlg: *mut km_dlg_cell, ctx: &SharedContext) -> Result<(), String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    let events =
        KM_DLGCB_FAILED | KM_DLGCB_REQ_WITHIN | KM_DLGCB_CONFIRMED | KM_DLGCB_TERMINATED | KM_DLGCB_TERMINATED_CONFIRMED | KM_DLGCB_EXPIRED | KM_DLGCB_DESTROY;
    dialogs.register(dlg, events, on_dialog, ctx.duplicate())?;
    ctx.claim();
    Ok(())
}

/// Events of a call's dialog.
unsafe extern "C" fn on_dialog(dlg: *mut km_dlg_cell, kind: c_int, params: *mut km_dlg_cb_params) {
    guard::entry("dialog callback", (), || {
        // SAFETY: the host's parameters.
        let Some(DialogEvent { req: msg, direction, param, .. }) = (unsafe { dialog_event(params) }) else { return };
        // SAFETY: the host holds our reference while the callback is registered (promise 6).
        let ctx = unsafe { SharedContext::borrow_raw(param) };
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
            // The host finds a failed dialog until its transaction is gone.
            KM_DLGCB_FAILED | KM_DLGCB_DESTROY => {
                if kind as u32 == KM_DLGCB_DESTROY {
                    say("the end of a call could not be noted", ended_elsewhere(&ctx));
                }
                if let Some(table) = attached::table() {
                    table.forget(dlg.cast());
                }
                ctx.give_back();
            }
            _ => {}
        }
    });
}

fn is_answered(ctx: &SharedContext) -> bool {
    ctx.progress().answered
}

/// The server's own BYE ended the call, unless something else did before.
fn ended_by_server(ctx: &SharedContext) -> Result<(), SharedError> {
    let progress = ctx.progress();
    if progress.answered && !progress.ended {
        let now = Moment::now();
        ctx.end(EndCause::Proxy, now)?;
        write_cdr(ctx);
        over(ctx)?;
    }
    Ok(())
}

/// The dialog goes, and the host has not said that it ended: another server saw the end, and DMQ brings no
/// more of it. Nobody else writes the CDR.
fn ended_elsewhere(ctx: &SharedContext) -> Result<(), SharedError> {
    let progress = ctx.progress();
    let is_in_progress = progress.answered && !progress.ended && ctx.is_claimed();
    // At an orderly stop the main process has all dialogs go: their calls go on.
    let is_stopping = Kamailio.process_number() == 0;
    if is_in_progress && !is_stopping && DIALOGS.get().is_some_and(|d| d.replicated) {
        let now = Moment::now();
        ctx.happen(|c| {
            // Timers of dialogs run once a second, so a lifetime may be over a little early.
            let lived = c.answered.map_or(0, |answered| now.millis_since(answered)) + 1000;
            let is_expired = DIALOGS.get().is_some_and(|d| lived >= i64::from(d.lifetime) * 1000);
            decide::on_end(c, if is_expired { EndCause::Timeout } else { EndCause::Orphan }, now);
        })?;
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
    let reason = message(msg).filter(|_| matches!(cause, EndCause::Caller | EndCause::Callee)).map(|m| m.cause()).unwrap_or_default();
    say("the end of a call could not be noted", outcome::end(ctx, cause, &reason, now));
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
        cdrs::on_loaded(dlg);
        if dialogs.context(dlg).is_some() {
            return;
        }
        let Some(name) = dialogs.fetch(dlg, CALL) else { return };
        match revival::claim(&name, None) {
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
