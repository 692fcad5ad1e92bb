//! Callbacks of transactions and dialogs. They run in any process of the host, on messages that
//! may be shared: only the reply (while it is private), the code and the context are used.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::*;
use super::contexts::{self, Current, Slot};
use super::flags;
use super::message::keep_memory_apart;
use super::state::{Api, BYE, DIALOGS, Server, message, ready};
use crate::accounting::clock::Moment;
use crate::accounting::context::{Context, Reply};
use crate::accounting::marks::{Flag, Types};
use crate::accounting::record::EndCause;
use crate::accounting::{decide, stock};
use crate::host::full::say;
use crate::host::outcome::write_cdr;
use crate::host::proof::{self, Once};
use crate::host::revival::{self, Claim};
use crate::host::script::{AtHand, Place};
use crate::host::shared::{CallId, SharedContext, SharedError, release};
use crate::host::{cluster, full, guard, outcome, script};
use crate::journal::Dir;
use crate::worker::{self, Instance};

/// The dialog module's end reason of a dialog whose lifetime ran out.
const LIFETIME_OVER: &[u8] = b"Lifetime Timeout";
/// Dialog value that holds our state.
const STATE: &str = "acc_state";

/// The dialogs of the server's own database are all restored: another node brings the later ones.
static RESTORED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The calls whose values the message at hand has changed. One thread per process runs SIP.
    static CHANGED: RefCell<Vec<SharedContext>> = const { RefCell::new(Vec::new()) };
}

/// Events of a transaction that a marked request follows.
pub const TRANSACTION_EVENTS: u32 = OS_TMCB_RESPONSE_OUT | OS_TMCB_LOCAL_COMPLETED | OS_TMCB_ON_FAILURE | OS_TMCB_REQUEST_FWDED;

/// A reply is about to leave, which may be the answer of a call.
pub const ANSWER: u32 = OS_TMCB_RESPONSE_PRE_OUT;

/// What a callback of tm is about.
pub struct Event {
    pub req: *mut os_sip_msg,
    pub rpl: *mut os_sip_msg,
    pub code: u16,
    param: *mut c_void,
}

impl Event {
    /// Reads the parameters of a callback, in the first call only after a proof that they are what
    /// they were in the known versions.
    ///
    /// # Safety
    /// `params` comes from the host.
    pub unsafe fn of(params: *mut os_tmcb_params) -> Option<Event> {
        static PROOF: Once = Once::new();
        // SAFETY: the host passes its parameters and keeps them through the call, our pointer in the
        // place of the parameter (promise 5).
        unsafe {
            let p = params.as_ref()?;
            let is_known = || proof::is_ours(p.param) && proof::is_message(p.rpl.cast(), FAKED_REPLY.cast()) && (p.rpl.is_null() || proof::is_code(p.code));
            PROOF.proved("callbacks of tm in this server have other parameters than in the known versions", is_known).then(|| Event {
                req: p.req,
                rpl: p.rpl,
                code: p.code as u16,
                param: *p.param,
            })
        }
    }

    /// The context that the callback was registered with.
    pub fn context(&self) -> Option<SharedContext> {
        // SAFETY: the host holds our reference while the callback is registered (promise 5).
        unsafe { SharedContext::borrow_raw(self.param) }
    }
}

/// A request came: note when. Its route may wait for something before it makes a transaction.
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

/// A reply came, which is private still: the host may copy it and have any process go on with the copy, so what records
/// read of it is parsed now.
pub unsafe extern "C" fn on_reply(msg: *mut os_sip_msg, _param: *mut c_void) -> c_int {
    const GO_ON: c_int = OS_SCB_RUN_ALL as c_int;
    guard::entry("script callback of replies", GO_ON, || {
        if let (Some((_, _, instance)), Some(reply)) = (ready(), message(msg)) {
            reply.parse_reply(|code| outcome::matters(instance, code));
        }
        GO_ON
    })
}

/// Do replies have to be seen once their transactions are known? Message flags may read them, and a global reply route
/// may have set values if there are any.
fn needs_matched(api: &Api, instance: &Instance) -> bool {
    let fields = &instance.config.rules.fields;
    !fields.extra.tags.is_empty() || !fields.leg.tags.is_empty() || flags::need_replies(api)
}

/// Has the replies of a transaction come to [`on_any_reply`], if need be.
pub fn see_replies(api: &Api, instance: &Instance, t: *mut os_cell) -> Result<(), String> {
    if needs_matched(api, instance) { api.tm.register_replies(t, Some(on_any_reply)) } else { Ok(()) }
}

/// A new transaction: note its arrival, give it the contexts of its message.
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
        flags::begin(server, api, instance, t, event.req);
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

/// The reply that a transaction callback is about. It may be a copy that all processes share, so
/// nothing is read of it but what `on_reply` had parsed.
pub fn reply_of(rpl: *mut os_sip_msg, code: u16) -> Reply {
    message(rpl).map_or_else(|| decide::local_reply(code), |msg| msg.reply(code))
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

/// Did another module answer this INVITE for somebody else, as a back-to-back user agent does? It was never forwarded, and what is
/// at hand is another transaction: that of its own call, whose reply has come. The BYE will come to that module alone, and
/// nobody says here that the call has ended.
pub fn is_answered_by_module(api: &Api, t: *mut os_cell, event: &Event, ctx: &SharedContext) -> bool {
    let is_own = message(event.rpl).is_none() && (200..300).contains(&event.code);
    is_own && api.tm.current().is_some_and(|current| current != t) && ctx.facts().is_ok_and(|facts| facts.attempts == 0)
}

/// Such a call gets the record of its answer, as it does with the original module, and no CDR, which would last until the
/// lifetime of the dialog is over.
pub fn say_answered_by_module() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        log::warn!(
            "another module answers a call with the flag cdr (b2b_init_request() and the like), and its end is not known here: such calls get the record of their answer instead of a CDR"
        );
    }
}

/// The 2xx of a call with CDR is about to leave: the call starts, before anybody can hang up.
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

/// The reply of a BYE that ended a call.
unsafe extern "C" fn on_bye_reply(_t: *mut os_cell, _kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("reply of a BYE", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        if let (200.., Some(ctx)) = (event.code, event.context()) {
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
/// come here from now on, so that no end of the call can be missed. As [`AtHand::follow`].
pub fn follow(msg: *mut os_sip_msg, api: &Api, ctx: &SharedContext, is_watched: bool) -> Result<bool, String> {
    let is_new = hold(msg, ctx)?;
    if is_new && is_watched {
        api.tm.register(msg, ANSWER, Some(on_answer), ctx.duplicate(), Some(release))?;
    }
    Ok(is_new && !is_watched)
}

/// The dialog of a call, made if need be, holds the context from now on; false if it does so already.
pub fn hold(msg: *mut os_sip_msg, ctx: &SharedContext) -> Result<bool, String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    let dlg = dialogs.create(msg)?;
    if dialogs.context(dlg).is_some_and(|c| c.same(ctx)) {
        return Ok(false);
    }
    let name = dialogs.name(dlg);
    ctx.update_head(|c| c.dialog = name).map_err(|e| e.to_string())?;
    attach(dlg, ctx)?;
    Ok(true)
}

fn attach(dlg: *mut os_dlg_cell, ctx: &SharedContext) -> Result<(), String> {
    let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded")?;
    let events = OS_DLGCB_REQ_WITHIN | OS_DLGCB_TERMINATED | OS_DLGCB_EXPIRED | OS_DLGCB_WRITE_VP | OS_DLGCB_PROCESS_VARS | OS_DLGCB_DESTROY;
    dialogs.register(dlg, events, Some(on_dialog), ctx.duplicate(), Some(release))?;
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
        static PROOF: Once = Once::new();
        // SAFETY: the host passes its parameters and keeps them through the call, and our reference
        // while the callback is registered (promise 6).
        let (p, ctx) = unsafe {
            let p = &*params;
            let is_known =
                || proof::is_ours(p.param) && p.direction <= OS_DLG_DIR_UPSTREAM && p.is_active <= 1 && proof::is_message(p.msg.cast(), FAKED_REPLY.cast());
            if !PROOF.proved("callbacks of dialogs in this server have other parameters than in the known versions", is_known) {
                return;
            }
            (p, SharedContext::borrow_raw(*p.param))
        };
        let (Some((server, api, instance)), Some(ctx)) = (ready(), ctx) else { return };
        match kind as u32 {
            OS_DLGCB_REQ_WITHIN => script::join(Current { server, api, raw: p.msg }, &ctx),
            OS_DLGCB_WRITE_VP => persist(dlg, &ctx),
            OS_DLGCB_PROCESS_VARS => take_over(dlg, &ctx),
            OS_DLGCB_DESTROY => gone(server, instance, &ctx),
            kind => ended((server, api, instance), &ctx, p, kind == OS_DLGCB_EXPIRED),
        }
    });
}

/// The dialog is over. A BYE from the wire completes the call with its reply, so that values set
/// meanwhile are in the CDR; any other end completes it at once.
fn ended((server, api, instance): (&'static Server, &'static Api, &'static Instance), ctx: &SharedContext, p: &os_dlg_cb_params, expired: bool) {
    if p.is_active == 0 && p.direction == OS_DLG_DIR_NONE {
        // Its lifetime is over on a node that does not own the call: the owner decides, and writes the CDR.
        // A BYE is seen by one node only, whether it owns the call or not.
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
    let by_flag = ctx.facts().map_or(Types(0), |c| if c.ended.is_none() { c.marks.cdr_by_flag() } else { Types(0) });
    // Values of the BYE, which is private here, and matched with its dialog just now.
    let of_bye = (from_wire && !by_flag.is_empty()).then(|| flags::of_bye(server, api, instance, by_flag, p.msg));
    let reason = message(p.msg).filter(|_| from_wire).map(|m| m.cause()).unwrap_or_default();
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

/// The dialog goes, and the end of its call was not seen here: the node of the cluster where it was has
/// written the CDR, and nothing is owed. Without a cluster the call stays open in the journal.
fn gone(server: &Server, instance: &Instance, ctx: &SharedContext) {
    if cluster::is_joined() {
        // That node says so itself; when it could not, the next start asks.
        return;
    }
    let p = ctx.progress();
    let is_open = p.answered && !p.ended && !p.closed;
    if is_open && ctx.was_in_journal() && server.symbols.export(c"load_clusterer").is_some() {
        say("a call that ended on another node could not be closed", ctx.happen(decide::close).map(|end| worker::forget(instance, end.call)));
    }
}

/// Number of our journal; 0 = there is none.
fn our_journal() -> u64 {
    worker::instance().and_then(|m| m.journal.as_ref()).map_or(0, Dir::id)
}

/// Puts the state into the dialog's values, which the host saves and replicates: the number of the
/// journal that has the call, 0 = none, and the context. A state that is not newer stays away: the
/// host would replicate it to where a newer one is.
fn persist(dlg: *mut os_dlg_cell, ctx: &SharedContext) {
    let Some(dialogs) = DIALOGS.get() else { return };
    let kept = dialogs.fetch(dlg, STATE).and_then(|v| Context::revision_of(v.get(size_of::<u64>()..)?));
    if kept.is_some_and(|kept| ctx.revision().is_ok_and(|ours| ours <= kept)) {
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

/// The dialog's values may have been changed on another node: what is newer is taken over. Two nodes may
/// name two dialogs alike, and the host finds a dialog by that name: what is of another call is not.
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

/// Another node has the call: should both be lost, this one's journal knows it. Its end may have been
/// heard of before the dialog came.
fn adopt(ctx: &SharedContext) {
    if !cluster::is_joined() || ctx.was_in_journal() {
        return;
    }
    say("a call of another node could not be kept in the journal", ctx.adopt());
    // Behind that: whoever hears of the end later finds the call.
    let Some(instance) = worker::instance().filter(|_| ctx.read(|c| c.is_open_call() && cluster::is_settled(c.call_key())).unwrap_or(false)) else {
        return;
    };
    say("a call that another node has ended could not be closed", ctx.happen(decide::close).map(|end| worker::forget(instance, end.call)));
}

/// The script changed a value. In a call that goes on the other nodes are to know it, and the host may
/// have told them of this message already: see [`tell_cluster`].
pub fn changed(at: Current) {
    let Some(ctx) = script::find(at) else { return };
    let p = ctx.progress();
    if p.answered && !p.ended {
        CHANGED.with_borrow_mut(|calls| {
            if !calls.iter().any(|c| c.same(&ctx)) {
                calls.push(ctx.duplicate());
            }
        });
        // The end of the message is heard of only when it holds a context.
        if at.get(Place::Here).is_none() {
            at.put(Place::Here, &ctx);
        }
        if !at.server.symbols.has_processing_context() {
            tell_cluster();
        }
    }
}

/// The message at hand is done: what it changed goes into the dialogs, once, and with that to the
/// other nodes.
pub fn tell_cluster() {
    for ctx in CHANGED.take() {
        let name = ctx.read_head(|c| c.ended.is_none().then(|| c.dialog.clone()));
        if let (Ok(Some(name)), Some(dialogs)) = (name, DIALOGS.get()) {
            // Of two dialogs with one name this may be the other.
            let is_ours = |dlg| dialogs.context(dlg).is_some_and(|c| c.same(&ctx));
            dialogs.with(&name, |dlg| is_ours(dlg).then(|| persist(dlg, &ctx)));
        }
    }
}

/// From here on dialogs are restored by other nodes of the cluster only.
pub fn own_are_restored() {
    RESTORED.store(true, Ordering::Relaxed);
}

/// The host restored a dialog: ours or the original module's state becomes a context again.
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
        // What our journal had and has no more is over: the server was killed before the dialog
        // module removed the dialog from its database. After a power cut the journal may know less. A
        // call that another node still has goes on.
        let since_boot = ctx.answered.is_some_and(|m| m.boot == Moment::now().boot);
        if journal != 0 && journal == our_journal() && since_boot && !RESTORED.load(Ordering::Relaxed) {
            log::info!("a restored dialog is of a call that is over for the journal: nothing more is accounted");
            return;
        }
        // The original's state has no name: the journal is to find the call again under this one.
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
