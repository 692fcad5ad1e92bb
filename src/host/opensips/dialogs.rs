//! Callbacks of dialogs: for calls that are followed, for their BYEs, and for dialogs that are restored.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::*;
use super::api::Dialogs;
use super::contexts::{self, Current};
use super::events::{DialogEvent, Event};
use super::state::{BYE, DIALOGS, Server, message, ready};
use super::values;
use crate::accounting::clock::Moment;
use crate::accounting::context::Context;
use crate::accounting::marks::Types;
use crate::accounting::record::EndCause;
use crate::accounting::{decide, stock};
use crate::host::cluster::{self, Known, Named};
use crate::host::full::say;
use crate::host::outcome::write_cdr;
use crate::host::revival::{self, Claim};
use crate::host::shared::{CallId, SharedContext};
use crate::host::{full, guard, outcome, proof, script};
use crate::journal::{Dir, End};
use crate::worker::{self, Instance};

/// The end reason that the dialog module gives if the lifetime of a dialog is over.
const LIFETIME_OVER: &[u8] = b"Lifetime Timeout";
/// Dialog value that holds our state.
const STATE: &str = "acc_state";

/// Have all dialogs of the server's own database been restored? Later ones come from another node.
static RESTORED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The calls whose values the current message has changed. One thread per process runs SIP.
    static CHANGED: RefCell<Vec<SharedContext>> = const { RefCell::new(Vec::new()) };
}

/// The reply of a BYE that ended a call.
unsafe extern "C" fn on_bye_reply(_t: *mut os_cell, _kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("reply of a BYE", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        if let (200.., Some(ctx)) = (event.code, event.context()) {
            write_cdr(&ctx);
            waits_no_more(&ctx);
        }
    });
}

/// The BYE's transaction is gone: if no reply has completed it, the CDR is written now.
unsafe extern "C" fn on_bye_gone(param: *mut c_void) {
    guard::entry("end of a BYE", (), || {
        // SAFETY: the host hands its reference back (promise 5).
        if let Some(ctx) = unsafe { SharedContext::from_raw(param) } {
            outcome::write_cdr_without_reply(&ctx);
            waits_no_more(&ctx);
        }
    });
}

/// The key of a call, for the nodes of a cluster.
fn key(ctx: &SharedContext) -> Option<u128> {
    if cluster::is_joined() { ctx.read(Context::call_key).ok() } else { None }
}

fn waits_no_more(ctx: &SharedContext) {
    if let Some(call) = key(ctx) {
        cluster::ended(call);
    }
}

/// Ties a call to its dialog: the dialog is made if necessary, holds the context, and reports its events
/// here from now on, so that no end of the call can be missed. False if it already does.
pub fn follow(at: Current, ctx: &SharedContext) -> Result<bool, String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    let dlg = dialogs.create(at.raw)?;
    if dialogs.context(dlg).is_some_and(|c| c.same(ctx)) {
        return Ok(false);
    }
    tie(dialogs, dlg, ctx)?;
    Ok(true)
}

/// The context of the dialog, which is made if necessary and gets `ctx` if it has no context yet.
pub fn call_of(at: Current, ctx: &SharedContext) -> Result<SharedContext, String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    let dlg = dialogs.create(at.raw)?;
    if let Some(call) = dialogs.context(dlg) {
        return Ok(call);
    }
    tie(dialogs, dlg, ctx)?;
    Ok(ctx.duplicate())
}

fn tie(dialogs: &Dialogs, dlg: *mut os_dlg_cell, ctx: &SharedContext) -> Result<(), String> {
    let name = dialogs.name(dlg);
    ctx.update_head(|c| c.dialog = name).map_err(|e| e.to_string())?;
    attach(dlg, ctx)
}

fn attach(dlg: *mut os_dlg_cell, ctx: &SharedContext) -> Result<(), String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    let events = OS_DLGCB_REQ_WITHIN | OS_DLGCB_TERMINATED | OS_DLGCB_EXPIRED | OS_DLGCB_WRITE_VP | OS_DLGCB_PROCESS_VARS | OS_DLGCB_DESTROY;
    dialogs.register(dlg, events, Some(on_dialog), ctx.duplicate())?;
    dialogs.set_context(dlg, ctx.duplicate());
    if dialogs.context(dlg).is_none_or(|c| !c.same(ctx)) {
        proof::stop("dialogs of this server do not keep what is put into them");
    }
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
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { DialogEvent::of(params) }) else { return };
        let (Some((server, api, instance)), Some(ctx)) = (ready(), event.context()) else { return };
        let at = Current { server, api, raw: event.req };
        match kind as u32 {
            OS_DLGCB_REQ_WITHIN => script::join(at, &ctx),
            OS_DLGCB_WRITE_VP => persist(dlg, &ctx),
            OS_DLGCB_PROCESS_VARS => take_over(dlg, &ctx),
            OS_DLGCB_DESTROY => gone(server, instance, &ctx),
            kind => ended(at, instance, &event, &ctx, kind == OS_DLGCB_EXPIRED),
        }
    });
}

/// The dialog has ended. A BYE from the wire completes the call with its reply, so that values set
/// meanwhile are in the CDR; any other end completes it at once.
fn ended(at: Current, instance: &'static Instance, event: &DialogEvent, ctx: &SharedContext, expired: bool) {
    if !event.is_active && event.direction == OS_DLG_DIR_NONE {
        // If the lifetime is over on a node that does not own the call, the owner decides and writes the CDR. A BYE
        // is seen by only one node, whether it owns the call or not.
        return;
    }
    let (server, api, msg) = (at.server, at.api, at.raw);
    let (cause, from_wire) = match event.direction {
        OS_DLG_DIR_DOWNSTREAM => (EndCause::Caller, true),
        OS_DLG_DIR_UPSTREAM => (EndCause::Callee, true),
        // If BYEs are sent on timeout, the dialog ends as if the server had been told to end it.
        _ if expired || message(msg).zip(api.end_reason.as_ref()).is_some_and(|(m, reason)| m.get(reason) == LIFETIME_OVER) => (EndCause::Timeout, false),
        _ => (EndCause::Proxy, false),
    };
    let now = Moment::now();
    let by_flag = ctx.facts().map_or(Types(0), |c| if c.ended.is_none() { c.marks.cdr_by_flag() } else { Types(0) });
    // Values of the BYE, which is private here and has just been matched with its dialog.
    let of_bye = (from_wire && !by_flag.is_empty()).then(|| values::of_bye(server, api, instance, by_flag, msg));
    let reason = message(msg).filter(|_| from_wire).map(|m| m.cause()).unwrap_or_default();
    let noted = match of_bye {
        None => outcome::end(ctx, cause, &reason, now),
        Some(taken) => ctx.happen(|c| {
            if let Some(clipped) = taken.keep(&instance.config.rules.fields.flags, c, full::context_max()) {
                full::say_clipped(clipped.as_bytes(), &CallId(c.core.callid.clone()));
            }
            decide::on_bye(c, cause, &reason, full::context_max(), now);
        }),
    };
    say("the end of a call could not be noted", noted);
    if !from_wire {
        write_cdr(ctx);
        return;
    }
    script::join(at, ctx);
    let has_transaction = api.tm.current().is_some();
    let registered = api.tm.register_until(msg, OS_TMCB_RESPONSE_OUT, Some(on_bye_reply), ctx.duplicate(), on_bye_gone);
    let waits = registered.is_ok() && server.symbols.has_processing_context();
    if !waits {
        write_cdr(ctx);
        return;
    }
    if let Some(call) = key(ctx) {
        cluster::ends(call);
    }
    if !has_transaction {
        let raw = server.symbols.processing_get(api.here) as usize;
        BYE.set(Some((raw, false)));
    }
}

/// The dialog is removed, and the end of its call was not seen here: the node of the cluster that saw it has
/// written the CDR. Without a cluster the call stays open in the journal.
fn gone(server: &Server, instance: &Instance, ctx: &SharedContext) {
    if cluster::is_joined() {
        // That node tells us itself; if it could not, the next start asks.
        return;
    }
    let p = ctx.progress();
    let is_open = p.answered && !p.ended && !p.closed;
    if is_open && ctx.was_in_journal() && server.symbols.export(c"load_clusterer").is_some() {
        say("a call that ended on another node could not be closed", ctx.happen(decide::close).map(|end| worker::forget(instance, End::seen(end.call))));
    }
}

/// Number of our journal; 0 = there is none.
fn our_journal() -> u64 {
    worker::instance().and_then(|m| m.journal.as_ref()).map_or(0, Dir::id)
}

/// Puts the state into the dialog's values, which the host saves and replicates: the number of the
/// journal that has the call, 0 = none, and the context. A state that is not newer is not put there, because the
/// host would replicate it to nodes that have a newer one.
fn persist(dlg: *mut os_dlg_cell, ctx: &SharedContext) {
    persist_newer(dlg, ctx, |kept, ours| ours > kept);
}

/// [`persist`] if `worth` says so about the revisions of the dialog's state and ours.
fn persist_newer(dlg: *mut os_dlg_cell, ctx: &SharedContext, worth: impl FnOnce(u64, u64) -> bool) {
    let Some(dialogs) = DIALOGS.get() else { return };
    let kept = dialogs.fetch(dlg, STATE).and_then(|v| Context::revision_of(v.get(size_of::<u64>()..)?));
    if kept.is_some_and(|kept| ctx.revision().is_ok_and(|ours| !worth(kept, ours))) {
        return;
    }
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

/// The dialog's values may have been changed on another node: newer ones are taken over, but not those of another
/// call. Two nodes may give two dialogs the same name, by which the host finds a dialog.
fn take_over(dlg: *mut os_dlg_cell, ctx: &SharedContext) {
    let Some(dialogs) = DIALOGS.get() else { return };
    let Some((_, remote)) = dialogs.fetch(dlg, STATE).and_then(|v| persisted(&v)) else { return };
    let taken = ctx.take_over(|c| {
        let is_same = (&remote.core.callid, &remote.core.from_tag) == (&c.core.callid, &c.core.from_tag);
        if is_same && remote.revision > c.revision && c.ended.is_none() {
            let closed = c.closed;
            *c = remote;
            c.closed = closed;
        }
    });
    say("values set on another node could not be taken over", taken);
    adopt(ctx);
}

/// Another node has the call. It is put into this journal as well, in case both nodes are lost. Its end may have
/// been reported before the dialog came.
fn adopt(ctx: &SharedContext) {
    if !cluster::is_joined() || ctx.was_in_journal() {
        return;
    }
    say("a call of another node could not be kept in the journal", ctx.adopt());
    // After that, so that a later report of the end finds the call.
    let Some(instance) = worker::instance().filter(|_| ctx.read(|c| c.is_open_call() && cluster::known(c.call_key()) == Some(Known::Settled)).unwrap_or(false))
    else {
        return;
    };
    say("a call that another node has ended could not be closed", ctx.happen(decide::close).map(|end| worker::forget(instance, End::seen(end.call))));
}

/// The script changed a value. If the call goes on, the other nodes must know, and the host may already have
/// told them about this message: see [`tell_cluster`].
pub fn changed(at: Current) {
    let Some(ctx) = script::find(at) else { return };
    let p = ctx.progress();
    if p.answered && !p.ended {
        CHANGED.with_borrow_mut(|calls| {
            if !calls.iter().any(|c| c.same(&ctx)) {
                calls.push(ctx.duplicate());
            }
        });
        // The end of the message is only reported to us if it holds something of ours.
        at.server.symbols.processing_put(at.api.here_changed, contexts::YES);
        if !at.server.symbols.has_processing_context() {
            tell_cluster();
        }
    }
}

/// The current message is done: what it changed goes into the dialogs, once, and so to the other nodes.
pub fn tell_cluster() {
    for ctx in CHANGED.take() {
        let name = ctx.read_head(|c| c.ended.is_none().then(|| c.dialog.clone()));
        if let (Ok(Some(dialog)), Some(dialogs)) = (name, DIALOGS.get()) {
            // If two dialogs have the same name, this may be the other one.
            let is_ours = |dlg| dialogs.context(dlg).is_some_and(|c| c.same(&ctx));
            dialogs.with(&dialog, |dlg| is_ours(dlg).then(|| persist(dlg, &ctx)));
            if let Some(call) = key(&ctx) {
                cluster::changed(&Named { call, dialog });
            }
        }
    }
}

/// Sends the values of a call again, for nodes that could not be reached when they were set: the host sends such a node the
/// dialogs that it lacks, but nothing about those that it has.
pub fn tell_again(named: &Named) {
    let Some(dialogs) = DIALOGS.get() else { return };
    let goes_on = |ctx: &SharedContext| ctx.read(|c| c.is_open_call() && c.ended.is_none() && c.call_key() == named.call).unwrap_or(false);
    dialogs.with(&named.dialog, |dlg| {
        if let Some(ctx) = dialogs.context(dlg).filter(goes_on) {
            // Unless another node has sent later ones.
            persist_newer(dlg, &ctx, |kept, ours| ours >= kept);
        }
    });
}

/// From here on, only dialogs from other nodes of the cluster are restored.
pub fn own_are_restored() {
    RESTORED.store(true, Ordering::Relaxed);
}

/// The host restored a dialog: our state, or that of the original module, becomes a context again.
pub unsafe extern "C" fn on_loaded(dlg: *mut os_dlg_cell, _kind: c_int, _params: *mut os_dlg_cb_params) {
    guard::entry("restored dialog", (), || {
        let (Some((_, _, instance)), Some(dialogs)) = (ready(), DIALOGS.get()) else { return };
        if dialogs.context(dlg).is_some() {
            return;
        }
        let name = dialogs.name(dlg);
        let kept = dialogs.fetch(dlg, STATE);
        let state = kept.as_deref().and_then(persisted);
        // Every change of ours went into the journal; another node may have gone on from there.
        match revival::claim(&name, state.as_ref().map(|(_, ctx)| ctx)) {
            Some(Claim::Open(ctx)) => {
                take_over(dlg, &ctx);
                return follow_restored(dlg, &ctx);
            }
            Some(Claim::Over) => return,
            None => {}
        }
        let state = match kept {
            Some(_) => {
                if state.is_none() {
                    log::error!("the accounting state of a restored dialog cannot be read: no CDR can be written for this call");
                }
                state
            }
            None => stock::import(&instance.config.rules.fields, |name| dialogs.fetch(dlg, name)).map(|ctx| (0, ctx)),
        };
        let Some((journal, mut ctx)) = state else { return };
        if ctx.closed {
            return;
        }
        // A call that our journal used to have and no longer has is over: the server was killed before the
        // dialog module removed the dialog from its database. After a power cut the journal may know less. A call
        // that another node still has goes on.
        let since_boot = ctx.answered.is_some_and(|m| m.boot == Moment::now().boot);
        if journal != 0 && journal == our_journal() && since_boot && !RESTORED.load(Ordering::Relaxed) {
            log::info!("a restored dialog belongs to a call that has ended according to the journal: nothing more is accounted");
            return;
        }
        // The original's state has no name; under this one the journal will find the call again.
        ctx.dialog = name;
        let followed = SharedContext::new(&ctx).map(|shared| {
            follow_restored(dlg, &shared);
            if RESTORED.load(Ordering::Relaxed) {
                adopt(&shared);
            }
        });
        say("a restored call cannot be followed", followed);
    });
}
