//! Callbacks of dialogs: for calls that are followed, for their BYEs, and for dialogs that are made or restored.

use std::ffi::c_int;

use super::abi::*;
use super::attached::{self, Which};
use super::contexts::{self, Current};
use super::events::{DialogEvent, Event};
use super::state::{DIALOGS, Kamailio, message, ready};
use super::{cdrs, present};
use crate::accounting::clock::Moment;
use crate::accounting::decide;
use crate::accounting::record::EndCause;
use crate::host::full::say;
use crate::host::outcome::write_cdr;
use crate::host::revival::{self, Claim};
use crate::host::shared::{SharedContext, SharedError};
use crate::host::{guard, outcome, script};
use crate::worker::port::Host as _;

/// Dialog variable that holds the call's name, to find it again after a restart.
const CALL: &str = "acc_call";

/// The call has ended, and need not be found any more.
pub fn over(ctx: &SharedContext) -> Result<(), SharedError> {
    if let Some(table) = attached::table() {
        table.forget_call(ctx.read_head(|c| attached::key_of_call(&c.core))?, ctx);
    }
    Ok(())
}

/// The transaction of a BYE that ended a call: its final reply completes the CDR; if there was none, the
/// end of the transaction does.
pub unsafe extern "C" fn on_bye(_t: *mut km_cell, kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("BYE", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        match event.context() {
            Some(ctx) if kind as u32 == KM_TMCB_DESTROY => outcome::write_cdr_without_reply(&ctx),
            Some(ctx) if event.code >= 200 => write_cdr(&ctx),
            _ => {}
        }
    });
}

/// Ties a call to its dialog: the dialog is made if necessary, holds the context, and reports its events
/// here from now on, so that no end of the call can be missed. False if it already does.
///
/// While the host has a dialog with this Call-ID and From tag, it makes no other one: a second INVITE is then a
/// fork made by a proxy before us, or a stranger's, and that dialog is not its own. Such a call ends with its BYE.
pub fn follow(at: Current, ctx: &SharedContext) -> Result<bool, String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    if own_dialog(at) == 0 {
        dialogs.create(at.raw);
    }
    // In the journal, a call without a dialog also has a name.
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
    if dialog.raw as usize == own_dialog(at) { tie(dialog.raw, ctx, &name) } else { Ok(true) }
}

/// Address of the dialog that the host made for the current request, 0 = none.
fn own_dialog(at: Current) -> usize {
    let of_transaction = || contexts::request_of(at.api.tm.current()?).map(|r| r.dialog);
    Some(present::dialog(at.raw)).filter(|d| *d != 0).or_else(of_transaction).unwrap_or(0)
}

fn tie(dlg: *mut km_dlg_cell, ctx: &SharedContext, name: &[u8]) -> Result<bool, String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    if dialogs.context(dlg).is_some_and(|c| c.same(ctx)) {
        return Ok(false);
    }
    attach(dlg, ctx)?;
    if !dialogs.store(dlg, CALL, name) {
        log::error!("the name of a call could not be kept in its dialog: a restart would end its accounting");
    }
    Ok(true)
}

/// The host made a dialog for the current INVITE. With its parameter `initial_cbs_inscript` set to 0, it says so
/// only when the transaction is made: then the call may be waiting for it.
pub unsafe extern "C" fn on_created(dlg: *mut km_dlg_cell, _kind: c_int, params: *mut km_dlg_cb_params) {
    guard::entry("new dialog", (), || {
        // SAFETY: the host's parameters.
        let Some(DialogEvent { req: msg, .. }) = (unsafe { DialogEvent::of(params) }).filter(|e| !e.req.is_null()) else { return };
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
        let Some(event) = (unsafe { DialogEvent::of(params) }) else { return };
        let (Some((server, api, _)), Some(ctx)) = (ready(), event.context()) else { return };
        let at = Current { server, api, raw: event.req };
        let msg = event.req;
        match kind as u32 {
            KM_DLGCB_REQ_WITHIN | KM_DLGCB_CONFIRMED if !msg.is_null() => script::join(at, &ctx),
            // The server reported this before its own BYE was sent, which it does not send while the call is ringing.
            KM_DLGCB_TERMINATED if msg.is_null() && !is_answered(&ctx) => {}
            KM_DLGCB_TERMINATED | KM_DLGCB_EXPIRED => {
                ended(at, event.direction, &ctx, kind as u32 == KM_DLGCB_EXPIRED);
                say("a call that has ended could not be read", over(&ctx));
            }
            // The BYE has its reply. The end is known already, unless the server sent the BYE to one side only.
            KM_DLGCB_TERMINATED_CONFIRMED => say("the end of a call could not be noted", ended_by_server(&ctx)),
            // The host still finds a failed dialog until its transaction is gone.
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

/// The server's own BYE ended the call, unless something else has done so before.
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

/// The dialog is removed, and the host has not reported its end: another server saw the end, and DMQ reports
/// nothing more. Nobody else writes the CDR.
fn ended_elsewhere(ctx: &SharedContext) -> Result<(), SharedError> {
    let progress = ctx.progress();
    let is_in_progress = progress.answered && !progress.ended && ctx.is_claimed();
    // At an orderly stop, the main process removes all dialogs, but their calls go on.
    let is_stopping = Kamailio.process_number() == 0;
    if is_in_progress && !is_stopping && DIALOGS.get().is_some_and(|d| d.replicated) {
        let now = Moment::now();
        ctx.happen(|c| {
            // Timers of dialogs run once a second, so a lifetime may end a little early.
            let lived = c.answered.map_or(0, |answered| now.millis_since(answered)) + 1000;
            let is_expired = DIALOGS.get().is_some_and(|d| lived >= i64::from(d.lifetime) * 1000);
            decide::on_end(c, if is_expired { EndCause::Timeout } else { EndCause::Orphan }, now);
        })?;
        write_cdr(ctx);
        over(ctx)?;
    }
    Ok(())
}

/// The dialog has ended. A BYE from the wire completes the call with its reply, so that values set
/// meanwhile are in the CDR; any other end completes it at once.
fn ended(at: Current, direction: u32, ctx: &SharedContext, expired: bool) {
    let cause = match direction {
        KM_DLG_DIR_DOWNSTREAM => EndCause::Caller,
        KM_DLG_DIR_UPSTREAM => EndCause::Callee,
        _ if expired => EndCause::Timeout,
        _ => EndCause::Proxy,
    };
    let msg = at.raw;
    let now = Moment::now();
    let reason = message(msg).filter(|_| matches!(cause, EndCause::Caller | EndCause::Callee)).map(|m| m.cause()).unwrap_or_default();
    say("the end of a call could not be noted", outcome::end(ctx, cause, &reason, now));
    if msg.is_null() || !matches!(cause, EndCause::Caller | EndCause::Callee) {
        write_cdr(ctx);
        return;
    }
    script::join(at, ctx);
    let has_transaction = at.api.tm.current().is_some();
    match at.api.tm.register(msg, KM_TMCB_RESPONSE_OUT | KM_TMCB_DESTROY, on_bye, ctx.duplicate()) {
        Ok(()) => present::ends_call(msg, ctx, 0, has_transaction),
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
