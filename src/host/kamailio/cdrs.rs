//! CDRs of every dialog (`cdr_enable`). Their contexts are separate from those of `do_accounting()`, and live as
//! long as the dialog. Scripts may read start, end and duration as dialog variables, where Kamailio's own module
//! keeps them.

use std::cell::Cell;
use std::ffi::c_int;

use super::abi::*;
use super::api::Dialogs;
use super::contexts;
use super::events::{DialogEvent, Event};
use super::flags;
use super::message::{Message, bytes_of};
use super::prepared::ByFlags;
use super::present;
use super::state::{Api, DIALOGS, message, ready};
use super::symbols::Symbols;
use crate::accounting::clock::Moment;
use crate::accounting::context::Context;
use crate::accounting::dialog_cdr::Span;
use crate::accounting::extras::{Class, Variable};
use crate::accounting::record::EndCause;
use crate::accounting::rules::DialogCdrs;
use crate::accounting::{decide, dialog_cdr};
use crate::host::full::say;
use crate::host::outcome::{write_cdr, write_cdr_without_reply};
use crate::host::revival::{self, Claim};
use crate::host::shared::{SharedContext, SharedError};
use crate::host::{guard, tally};
use crate::worker::{self, Instance};

/// Dialog variable with the name of the dialog in the journal.
const NAME: &str = "acc_cdr";

const EVENTS: u32 =
    KM_DLGCB_CONFIRMED_NA | KM_DLGCB_CONFIRMED | KM_DLGCB_FAILED | KM_DLGCB_TERMINATED | KM_DLGCB_TERMINATED_CONFIRMED | KM_DLGCB_EXPIRED | KM_DLGCB_DESTROY;

thread_local! {
    /// The last reply that came, with its number: it is private while this process works on it.
    static CAME: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
}

/// A reply came.
pub fn reply_came(rpl: *mut km_sip_msg) {
    // SAFETY: the reply of the callback, which begins with its number (promise 5).
    CAME.set((rpl as usize, unsafe { (*rpl).id }));
}

fn is_private(rpl: *mut km_sip_msg) -> bool {
    let (came, id) = CAME.get();
    // SAFETY: as above.
    rpl as usize == came && unsafe { (*rpl).id } == id
}

/// Everything that a callback needs, and its dialog.
struct At {
    symbols: &'static Symbols,
    api: &'static Api,
    by_flags: &'static ByFlags,
    instance: &'static Instance,
    cdrs: &'static DialogCdrs,
    dialogs: &'static Dialogs,
    /// Null if it is not known.
    dlg: *mut km_dlg_cell,
}

impl At {
    fn new(dlg: *mut km_dlg_cell) -> Option<At> {
        let (server, api, instance) = ready()?;
        let cdrs = instance.config.rules.dialog_cdrs.as_ref()?;
        Some(At { symbols: &server.symbols, api, by_flags: api.flags.as_ref()?, instance, cdrs, dialogs: DIALOGS.get()?, dlg })
    }

    /// The variables that CDRs show.
    fn variables(&self) -> impl Iterator<Item = (usize, &'static Variable)> {
        let variables = &self.instance.config.rules.fields.flags.variables;
        self.cdrs.variables().map(|i| (i, &variables[i]))
    }

    fn read(&self, i: usize, msg: *mut km_sip_msg) -> Option<Vec<u8>> {
        let value = || bytes_of(self.by_flags.spec(i).value(self.symbols, msg));
        if self.dlg.is_null() { value() } else { self.dialogs.inside(self.dlg, value) }
    }

    /// Reads those variables that `is_read` accepts: on a private message, or, if they need no message, on any.
    fn values(&self, msg: *mut km_sip_msg, is_read: impl Fn(&Variable) -> bool) -> Vec<(&'static str, Option<Vec<u8>>)> {
        self.variables().filter(|(_, v)| is_read(v)).map(|(i, v)| (&*v.key, self.read(i, msg))).collect()
    }

    /// Those of a request itself.
    fn of_request(&self, msg: &Message<'_>) -> Vec<(&'static str, Option<Vec<u8>>)> {
        self.values(msg.raw, |v| !v.of_reply && matches!(v.class, Class::Message | Class::Branch))
    }

    /// Those of a reply, which is private.
    fn of_reply(&self, reply: *mut km_sip_msg) -> Vec<(&'static str, Option<Vec<u8>>)> {
        self.values(reply, is_of_message)
    }

    fn moments(&self) -> Vec<(&'static str, Option<Vec<u8>>)> {
        self.values(self.symbols.dummy(), |v| v.class == Class::Moment)
    }

    /// The code of the reply, for variables of this kind. The host must not be asked for it with another message: it would
    /// look for the transaction of that message, and lose the current one.
    fn codes(&self, reply: Option<&Message<'_>>) -> Vec<(&'static str, Option<Vec<u8>>)> {
        let code = reply.map(|r| r.status().to_string().into_bytes());
        self.variables().filter(|(_, v)| v.class == Class::Code).map(|(_, v)| (&*v.key, code.clone())).collect()
    }

    /// Reads the values of the request again, as they are now.
    fn renew(&self, ctx: &SharedContext, request: &Message<'_>) {
        let values = self.of_request(request);
        if !values.is_empty() {
            say("the CDR of a dialog could not be made", ctx.update(|c| self.keep(c, &values)).map(drop));
        }
    }

    fn keep(&self, c: &mut Context, values: &[(&'static str, Option<Vec<u8>>)]) {
        for (key, value) in values {
            c.put_extra(key.as_bytes(), value.as_deref(), self.instance.config.context_max);
        }
    }

    fn set(&self, name: &str, value: &[u8]) {
        if !self.dialogs.store(self.dlg, name, value) {
            log::error!("the dialog variable {name} could not be set: the host has no room for it");
            // Its old value, such as a duration of 0 at the end of the call, would be taken for one that the script has set.
            self.dialogs.remove(self.dlg, name);
        }
    }

    /// The call begins now, as far as we know.
    fn set_start(&self, now: Moment) {
        let [start, end, duration] = &self.cdrs.names;
        let text = self.cdrs.precision.text(now.wall.0);
        self.set(start, &text);
        self.set(end, &text);
        self.set(duration, b"0");
    }

    /// It ended.
    fn set_end(&self, ctx: &SharedContext) -> Result<(), SharedError> {
        let c = ctx.copy()?;
        let Some((ended, _)) = c.ended else { return Ok(()) };
        let start = dialog_cdr::start(self.cdrs, &c);
        let precision = self.cdrs.precision;
        let span = Span::new(precision, start, ended.micros_since(start));
        let [_, end, duration] = &self.cdrs.names;
        self.set(end, &precision.text(span.end));
        self.set(duration, &precision.text(span.duration));
        Ok(())
    }

    /// Determines what a CDR shows, and whether there is to be one. `is_over`: the dialog variables contain its end.
    fn take(&self, c: &mut Context, values: &[(&'static str, Option<Vec<u8>>)], is_over: bool) {
        self.keep(c, values);
        self.skip(c);
        dialog_cdr::change(self.cdrs, c, is_over, |name| self.dialogs.fetch(self.dlg, name));
    }

    fn skip(&self, c: &mut Context) {
        dialog_cdr::skip(self.cdrs, c, |name| self.dialogs.fetch(self.dlg, name).is_some());
    }

    /// If this dialog also has a call of `do_accounting()` with the flag `cdr`, that one is counted.
    fn count(&self, ctx: &SharedContext) {
        let is_accounted = |other: &SharedContext| other.facts().is_ok_and(|facts| facts.marks.any_cdr());
        if self.dialogs.context(self.dlg).is_some_and(|other| is_accounted(&other)) {
            ctx.set_uncounted();
        }
    }

    fn watch(&self, ctx: &SharedContext) {
        match self.dialogs.watch(self.dlg, EVENTS, on_dialog, ctx.duplicate()) {
            Ok(()) => ctx.claim(),
            Err(e) => log::error!("{e}"),
        }
    }
}

/// Is the variable read on a message?
fn is_of_message(v: &Variable) -> bool {
    v.class != Class::Moment && v.class != Class::Code
}

/// A dialog was made for this INVITE, which is private.
pub fn on_created(dlg: *mut km_dlg_cell, msg: &Message<'_>) {
    let Some(at) = At::new(dlg) else { return };
    let now = Moment::now();
    let mut ctx = dialog_cdr::begin(at.cdrs, msg.core(), now);
    at.keep(&mut ctx, &at.of_request(msg));
    let made = SharedContext::new(&ctx).and_then(|shared| {
        let name = format!("{:032x}{:x}", ctx.call_key(), shared.address()).into_bytes();
        shared.update_head(|c| c.dialog.clone_from(&name))?;
        at.set_start(now);
        at.set(NAME, &name);
        at.watch(&shared);
        Ok(shared)
    });
    let made = made.map(|shared| match present::transaction(msg.raw) {
        Some(t) => follow(&at, t, &shared),
        None => present::made_cdr(msg.raw, &shared),
    });
    say("the CDR of a dialog cannot be made", made);
}

/// The INVITE of a dialog, which is still private, has got its transaction `t`. If the server itself refuses the call, the CDR
/// shows what the script has changed since it made the dialog, above all the target.
pub fn on_transaction(dlg: *mut km_dlg_cell, t: *mut km_cell, msg: &Message<'_>) {
    let (Some(ctx), Some(at)) = (present::take_cdr(msg.raw), At::new(dlg)) else { return };
    at.renew(&ctx, msg);
    follow(&at, t, &ctx);
}

/// The BYE that ended a call, which is still private, has got its transaction. The host announced the end inside
/// `loose_route()`; the CDR shows what that function and the script have changed since, above all the next hop.
pub fn on_transaction_of_bye((ctx, dialog): &present::Ended, bye: &Message<'_>) {
    let Some(at) = At::new(*dialog as *mut km_dlg_cell).filter(|at| !at.dlg.is_null() && ctx.progress().is_due()) else { return };
    at.renew(ctx, bye);
}

/// The call of a dialog is counted when its transaction `t` ends. What the CDR shows of a refusal is taken when that comes.
fn follow(at: &At, t: *mut km_cell, ctx: &SharedContext) {
    let shows_replies = at.cdrs.failed && at.variables().any(|(_, v)| is_of_message(v));
    let types = if shows_replies { KM_TMCB_RESPONSE_OUT | KM_TMCB_RESPONSE_IN } else { KM_TMCB_RESPONSE_OUT };
    if let Err(e) = at.api.tm.register_on(t, types, on_reply, ctx.duplicate()) {
        log::warn!("the call of a dialog is missing in the statistics: {e}");
    }
}

/// A reply of a dialog's INVITE came, or went out.
unsafe extern "C" fn on_reply(t: *mut km_cell, kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("reply of a dialog", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        if kind as u32 == KM_TMCB_RESPONSE_OUT {
            return tally::outcome(event.code, |what| contexts::is_first(t, what));
        }
        if event.code >= 300
            && let Some(ctx) = event.context()
        {
            say("the CDR of a dialog could not be made", refused(&ctx, t, event.rpl));
        }
    });
}

/// A branch was refused. If another branch is refused later and this refusal is the one that is sent, [`failed`] gets a copy that
/// several processes share.
fn refused(ctx: &SharedContext, t: *mut km_cell, rpl: *mut km_sip_msg) -> Result<(), SharedError> {
    let progress = ctx.progress();
    // Branches that are cancelled because another one answered are refused, too.
    if progress.answered || progress.closed {
        return Ok(());
    }
    let invite = ctx.read_head(|c| c.core.clone())?;
    // An earlier INVITE with the same Call-ID and From tag may have a dialog for some seconds more.
    let is_own = |dlg: *mut km_dlg_cell| contexts::request_of(t).is_some_and(|request| request.dialog == dlg as usize);
    let dialog = DIALOGS.get().and_then(|dialogs| dialogs.find(&invite)).filter(|found| is_own(found.raw));
    let Some(at) = At::new(dialog.as_ref().map_or(std::ptr::null_mut(), |found| found.raw)) else { return Ok(()) };
    let Some(branch) = message(rpl).and_then(|reply| at.by_flags.branch_of(at.symbols, reply.raw)) else { return Ok(()) };
    let values = at.of_reply(rpl);
    let most = at.instance.config.context_max;
    ctx.update(|c| {
        for (key, value) in &values {
            flags::put(c, branch, key, value.as_deref(), most);
        }
    })
}

/// The host restored a dialog.
pub fn on_loaded(dlg: *mut km_dlg_cell) {
    let Some(at) = At::new(dlg) else { return };
    let claimed = at.dialogs.fetch(dlg, NAME).and_then(|name| revival::claim(&name, None));
    match claimed {
        Some(Claim::Open(ctx)) => at.watch(&ctx),
        Some(Claim::Over) => {}
        // From before this module, or not answered then: its beginning is in a dialog variable.
        None => {
            let Some(start) = at.dialogs.fetch(dlg, &at.cdrs.names[0]).as_deref().and_then(dialog_cdr::instant) else { return };
            let mut ctx = dialog_cdr::begin(at.cdrs, Default::default(), start);
            ctx.core.method = b"INVITE".to_vec();
            ctx.answered = Some(start);
            match SharedContext::new(&ctx) {
                Ok(shared) => at.watch(&shared),
                Err(e) => say("the CDR of a dialog cannot be made", Err(e)),
            }
        }
    }
}

/// Events of a dialog.
unsafe extern "C" fn on_dialog(dlg: *mut km_dlg_cell, kind: c_int, params: *mut km_dlg_cb_params) {
    guard::entry("dialog CDR", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { DialogEvent::of(params) }) else { return };
        let (Some(at), Some(ctx)) = (At::new(dlg), event.context()) else { return };
        let msg = message(event.req);
        if kind as u32 & (KM_DLGCB_TERMINATED | KM_DLGCB_EXPIRED) != 0 {
            // After a restart, the two calls find the dialog one after the other.
            at.count(&ctx);
        }
        let result = match kind as u32 {
            // The second event is for answers that came before a restart.
            KM_DLGCB_CONFIRMED_NA | KM_DLGCB_CONFIRMED => answered(&at, &ctx),
            KM_DLGCB_FAILED => failed(&at, &ctx, event.rpl),
            // Announced before the server's own BYE, which it does not send while the call is ringing.
            KM_DLGCB_TERMINATED if msg.is_none() && !ctx.progress().answered => Ok(()),
            KM_DLGCB_TERMINATED => terminated(&at, &ctx, msg.as_ref(), event.direction),
            KM_DLGCB_TERMINATED_CONFIRMED => confirmed(&at, &ctx, event.rpl),
            KM_DLGCB_EXPIRED => expired(&at, &ctx),
            _ => {
                let result = removed(&at, &ctx);
                write_cdr_without_reply(&ctx);
                ctx.give_back();
                result
            }
        };
        say("the CDR of a dialog could not be made", result);
    });
}

fn answered(at: &At, ctx: &SharedContext) -> Result<(), SharedError> {
    if ctx.progress().answered {
        return Ok(());
    }
    at.count(ctx);
    let now = Moment::now();
    ctx.happen_head(|c| decide::on_answer(c, &decide::local_reply(200), now))?;
    if at.cdrs.from_answer {
        at.set_start(now);
    }
    Ok(())
}

fn failed(at: &At, ctx: &SharedContext, rpl: *mut km_sip_msg) -> Result<(), SharedError> {
    let reply = message(rpl);
    let mut values = at.moments();
    values.extend(at.codes(reply.as_ref()));
    let mut kept = None;
    match reply {
        Some(reply) if is_private(reply.raw) => values.extend(at.of_reply(reply.raw)),
        Some(_) => kept = at.api.tm.picked_branch(),
        None => {}
    }
    let records = ctx.happen(|c| {
        if let Some(leg) = kept.and_then(|branch| c.legs.get(branch)) {
            let of_branch = at.variables().filter(|(_, v)| leg.has(v.key.as_bytes()));
            values.extend(of_branch.map(|(_, v)| (&*v.key, leg.get(v.key.as_bytes()).map(<[u8]>::to_vec))));
        }
        at.take(c, &values, true);
        dialog_cdr::failed(&at.instance.config.rules, c)
    })?;
    worker::emit(at.instance, &records);
    Ok(())
}

/// The call ends. If the server's own BYE could not be sent, the dialog went on, and the later end counts.
fn ends(c: &mut Context, cause: EndCause, now: Moment) {
    if !c.closed && matches!(c.ended, Some((_, EndCause::Proxy))) {
        c.ended = None;
    }
    decide::on_end(c, cause, now);
}

/// A BYE: one from a phone, which is private, or the server's own.
fn terminated(at: &At, ctx: &SharedContext, bye: Option<&Message<'_>>, direction: u32) -> Result<(), SharedError> {
    let cause = match direction {
        KM_DLG_DIR_DOWNSTREAM => EndCause::Caller,
        KM_DLG_DIR_UPSTREAM => EndCause::Callee,
        _ => EndCause::Proxy,
    };
    let values = match bye {
        Some(bye) => at.values(bye.raw, |v| !v.of_reply && v.class != Class::Code),
        None => of_dialog_only(at),
    };
    let now = Moment::now();
    ctx.happen(|c| {
        ends(c, cause, now);
        at.take(c, &values, false);
    })?;
    at.set_end(ctx)?;
    // Its reply completes the CDR; if a phone's BYE gets no transaction, the end of the message does. The reply to the server's
    // own BYE comes after `event_route[dialog:end]`; if that BYE cannot be sent, the dialog goes on.
    if let Some(bye) = bye {
        present::ends_call(bye.raw, ctx, at.dlg as usize, at.api.tm.current().is_some());
    }
    Ok(())
}

/// The BYE has its reply: values that were set meanwhile are in the CDR.
fn confirmed(at: &At, ctx: &SharedContext, rpl: *mut km_sip_msg) -> Result<(), SharedError> {
    let progress = ctx.progress();
    if progress.answered && !progress.ended && !progress.closed {
        // The server's own BYE went to only one of the phones: this is all that the host reports.
        let now = Moment::now();
        ctx.happen_head(|c| decide::on_end(c, EndCause::Proxy, now))?;
        at.set_end(ctx)?;
    }
    if ctx.progress().is_due() {
        let is_own = ctx.facts()?.ended.is_some_and(|(_, cause)| cause == EndCause::Proxy);
        let values = if is_own {
            of_dialog_only(at)
        } else {
            let mut values = at.moments();
            values.extend(at.codes(message(rpl).filter(|m| is_private(m.raw)).as_ref()));
            values
        };
        ctx.happen(|c| at.take(c, &values, true))?;
        write_cdr(ctx);
    }
    Ok(())
}

/// The dialog is removed while the BYE that ended it is still being routed, or has no reply. The host no longer finds its
/// variables: those that were read before count.
fn removed(at: &At, ctx: &SharedContext) -> Result<(), SharedError> {
    if ctx.progress().is_due() {
        let mut values = if present::has_ended(ctx) { at.moments() } else { Vec::new() };
        values.retain(|(_, value)| value.is_some());
        ctx.happen(|c| at.take(c, &values, true))?;
    }
    Ok(())
}

/// The BYE was routed and got no transaction. As long as the CDR is due, the dialog exists.
pub fn ended_without_transaction((ctx, dialog): &present::Ended) {
    match At::new(*dialog as *mut km_dlg_cell).filter(|at| !at.dlg.is_null() && ctx.progress().is_due()) {
        Some(at) => say("the CDR of a dialog could not be made", confirmed(&at, ctx, std::ptr::null_mut())),
        None => write_cdr(ctx),
    }
}

fn expired(at: &At, ctx: &SharedContext) -> Result<(), SharedError> {
    let values = of_dialog_only(at);
    let now = Moment::now();
    ctx.happen(|c| {
        ends(c, EndCause::Timeout, now);
        at.take(c, &values, false);
    })?;
    if ctx.progress().answered {
        at.set_end(ctx)?;
    }
    write_cdr(ctx);
    Ok(())
}

/// There is no request: dialog variables have their values, all others none.
fn of_dialog_only(at: &At) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let dummy = at.symbols.dummy();
    let is_of_dialog = |v: &Variable| v.text.trim_start_matches(['$', '(']).starts_with("dlg_var(");
    at.variables().map(|(i, v)| (&*v.key, if is_of_dialog(v) { at.read(i, dummy) } else { None })).collect()
}
