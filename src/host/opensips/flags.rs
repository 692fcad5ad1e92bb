//! Accounting by message flags: which transactions are watched, and what happens to them.

use std::cell::Cell;
use std::ffi::c_int;

use super::abi::*;
use super::api::Branches;
use super::contexts::{self, Current, Slot};
use super::dialogs;
use super::events::{Event, is_answered_by_module, reply_of, say_answered_by_module};
use super::message::Message;
use super::prepared::ByFlags;
use super::state::{Api, DIALOGS, Server, message, ready};
use super::values::Values;
use crate::accounting::clock::Moment;
use crate::accounting::context::{Context, Head, Reply};
use crate::accounting::decide::{self, Joined};
use crate::accounting::extras::Extras;
use crate::accounting::flags::{self, Due, Taken, Watched};
use crate::accounting::marks::Types;
use crate::accounting::record::{Core, Kind, Signalling};
use crate::host::full::{context_max, say, say_clipped};
use crate::host::outcome::{finish, matters};
use crate::host::script::{AtHand, Place};
use crate::host::shared::{CallId, SharedContext, SharedError};
use crate::host::tally::{self, Once};
use crate::host::watched::{self, AtEvent, Keeper, OfAck};
use crate::host::{acks, guard, outcome};
use crate::worker::{self, Instance};

/// The context of a watched transaction.
fn watched_of(by_flags: &ByFlags, server: &Server, api: &Api, t: *mut os_cell) -> Option<SharedContext> {
    contexts::get(server, api, Slot::There(t, by_flags.there))
}

fn clipped(key: Option<Vec<u8>>, core: &Core) {
    if let Some(key) = key {
        say_clipped(&key, &CallId(core.callid.clone()));
    }
}

/// A request got its transaction: is it watched?
pub fn on_request_in(server: &'static Server, api: &'static Api, instance: &'static Instance, t: *mut os_cell, req: *mut os_sip_msg) {
    let Some(by_flags) = &api.flags else { return };
    let is_set = |bit| by_flags.symbols.is_set(req, bit);
    let (Some(raised), Some(msg)) = (by_flags.rules.raised(is_set), message(req)) else { return };
    let core = msg.core();
    let Some(watched) = by_flags.rules.watch(&core, raised, DIALOGS.get().is_some(), is_set) else { return };
    if let Err(e) = watch(server, api, instance, by_flags, t, &msg, core, (watched, raised.accounted)) {
        crate::host::full::FULL.error(format_args!("a request with accounting flags is not accounted: {e}"));
    }
}

#[expect(clippy::too_many_arguments, reason = "called once")]
fn watch(
    server: &'static Server,
    api: &'static Api,
    instance: &'static Instance,
    by_flags: &ByFlags,
    t: *mut os_cell,
    msg: &Message<'_>,
    core: Core,
    (watched, accounted): (Watched, Types),
) -> Result<(), String> {
    let at = Current { server, api, raw: msg.raw };
    let extras = &instance.config.rules.fields.flags;
    let mut ctx = Context::new(at.arrival(), false);
    ctx.in_dialog = !core.to_tag.is_empty();
    ctx.upstream = instance.config.detect_direction && at.is_upstream();
    ctx.core = core;
    let is_invite = ctx.core.method == b"INVITE";
    let cseq = by_flags.cseq(msg).filter(|_| is_invite);
    let mut keeper = Keeper { ctx: &mut ctx, most: instance.config.context_max, clipped: None };
    keeper.request(extras, watched, cseq.as_deref(), &Values::new(server, api, &instance.config, msg.raw));
    let key = keeper.clipped.take();
    clipped(key, &ctx.core);
    let ctx = SharedContext::new(&ctx).map_err(|e| e.to_string())?;
    contexts::put(server, api, Slot::There(t, by_flags.there), Some(ctx.duplicate()));
    let mut events = OS_TMCB_RESPONSE_OUT;
    if watched.on_failure || by_flags.needs_replies {
        events |= OS_TMCB_ON_FAILURE;
    }
    if watched.cdr || cseq.is_some() {
        events |= OS_TMCB_RESPONSE_PRE_OUT;
    }
    if is_invite || watched::needs_branches(extras) {
        events |= OS_TMCB_REQUEST_FWDED;
    }
    if watched.cdr
        && let Err(e) = begin_call(at, &ctx, accounted)
    {
        log::error!("the flag of cdr_flag: {e}; this request is accounted without it");
        ctx.update(|c| {
            Watched { cdr: false, ..watched }.keep(c);
            (c.marked, c.marks) = (false, c.marks.with_cdr_by_flag(Types(0)));
        })
        .map_err(|e| e.to_string())?;
    }
    api.tm.register_on(t, events, Some(on_event), ctx)
}

/// An INVITE that is to have a CDR by flags gets its dialog. A dialog has one context: if there were two, each would take the
/// other for that of a request inside the call, which has no CDR. If the script has a context, that one is used, whatever the
/// script has marked or will mark; what the flags need goes there at the answer.
fn begin_call(at: Current, ctx: &SharedContext, accounted: Types) -> Result<(), String> {
    let of_script = at.get(Place::Here);
    let call = dialogs::call_of(at, of_script.as_ref().unwrap_or(ctx))?;
    let is_own = call.same(ctx);
    let (core, arrived, upstream) = ctx.read_head(|c| (c.core.clone(), c.arrived, c.upstream)).map_err(|e| e.to_string())?;
    let mark = |c: &mut Head| {
        if !c.marked {
            (c.marked, c.by_flags) = (true, true);
            c.core.copy(&core);
            (c.arrived, c.upstream) = (arrived, upstream);
        }
        if is_own {
            c.marks = c.marks.with_cdr_by_flag(accounted);
        }
    };
    call.update_head(mark).map_err(|e| e.to_string())?;
    if !is_own {
        ctx.set_call(&call);
    }
    Ok(())
}

/// What only this process knows.
#[derive(Clone, Copy, Default)]
struct Failure {
    /// The transaction whose branches all failed last.
    transaction: usize,
    /// The code that is reported.
    code: u16,
    /// The branch it came from.
    branch: Option<u32>,
    /// Backends whose missed flags this failure has used up.
    missed: Types,
}

thread_local! {
    /// One thread per process runs SIP.
    static FAILED: Cell<Failure> = const { Cell::new(Failure { transaction: 0, code: 0, branch: None, missed: Types(0) }) };
}

/// The failure that this process was last told about.
fn failure(t: *mut os_cell, code: u16) -> Option<Failure> {
    Some(FAILED.get()).filter(|f| f.transaction == t as usize && f.code == code)
}

/// An event of a watched transaction.
unsafe extern "C" fn on_event(t: *mut os_cell, kind: c_int, params: *mut os_tmcb_params) {
    guard::entry("watched transaction", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { Event::of(params) }) else { return };
        let (Some((server, api, instance)), Some(ctx)) = (ready(), event.context()) else { return };
        let Some(by_flags) = &api.flags else { return };
        let watched = At { server, api, instance, by_flags, t, event: &event };
        let result = match kind as u32 {
            OS_TMCB_REQUEST_FWDED => watched.forwarded(&ctx),
            OS_TMCB_RESPONSE_PRE_OUT => watched.reply_leaves(&ctx),
            kind => watched.records(&ctx, kind),
        };
        say("a watched request could not be accounted", result);
    });
}

/// A callback for a watched transaction.
struct At<'a> {
    server: &'static Server,
    api: &'static Api,
    instance: &'static Instance,
    by_flags: &'a ByFlags,
    t: *mut os_cell,
    event: &'a Event,
}

impl At<'_> {
    fn extras(&self) -> &'static Extras {
        &self.instance.config.rules.fields.flags
    }

    fn is_set(&self, bit: u32) -> bool {
        self.by_flags.symbols.is_set(self.event.req, bit)
    }

    /// The reply, unless the server made it.
    fn received(&self) -> bool {
        message(self.event.rpl).is_some()
    }

    /// The request is forwarded to a branch.
    fn forwarded(&self, ctx: &SharedContext) -> Result<(), SharedError> {
        ctx.count_attempt();
        let Some(branch) = self.by_flags.branches.as_ref().and_then(Branches::at_hand) else { return Ok(()) };
        let read = Values::new(self.server, self.api, &self.instance.config, self.event.req);
        ctx.happen(|c| {
            let mut keeper = Keeper { ctx: c, most: context_max(), clipped: None };
            keeper.branch(self.extras(), branch, &read);
            let key = keeper.clipped.take();
            clipped(key, &c.core);
        })
    }

    /// Values at this moment, for the branch whose reply this is.
    fn source<'c>(&self, ctx: &'c Context, reply: &Reply) -> AtEvent<'c, Values<'static>> {
        let received = self.received();
        let picked = match self.by_flags.branches.as_ref() {
            _ if reply.code >= 300 => failure(self.t, reply.code).and_then(|f| f.branch),
            Some(branches) if received => branches.at_hand(),
            _ => None,
        };
        AtEvent {
            ctx,
            branch: watched::branch_of(ctx, received.then_some(reply), picked),
            received,
            code: reply.code,
            read: Values::new(self.server, self.api, &self.instance.config, std::ptr::null_mut()),
        }
    }

    /// Backends for which the script called `do_accounting()` for this request.
    fn by_script(&self, ctx: &Context) -> Types {
        let api = self.api;
        let of = |slot, is_own: bool| {
            let marks = contexts::get(self.server, api, Slot::There(self.t, slot))?
                .facts()
                .map(|c| (is_own || c.in_dialog == ctx.in_dialog && !c.by_flags).then_some(c.marks));
            marks.ok().flatten()
        };
        // What the script has found may be the call of the flags.
        let marks = [of(api.there, false), of(api.there_own, true), Some(ctx.marks)];
        marks.into_iter().flatten().fold(Types(0), |types, marks| types.or(marks.types()))
    }

    /// What this event makes due. If the message is private, the missed flags that it uses up are cleared, by
    /// whichever callback of this event asks first.
    fn due(&self, kind: u32, ctx: &Context, reply: &Reply) -> Due {
        let rules = &self.by_flags.rules;
        let watched = Watched::kept(ctx);
        if kind != OS_TMCB_ON_FAILURE {
            return rules.on_reply(&ctx.core, watched.cdr, reply, |bit| self.is_set(bit));
        }
        let again = failure(self.t, reply.code);
        let missed = match again {
            Some(failure) if !failure.missed.is_empty() => {
                FAILED.set(Failure { missed: Types(0), ..failure });
                return Due { missed: failure.missed, transaction: Types(0) };
            }
            _ if watched.on_failure => rules.missed(&ctx.core.method, |bit| self.is_set(bit)),
            _ => Types(0),
        };
        rules.used_up(missed).for_each(|bit| self.by_flags.symbols.clear(self.event.req, bit));
        let branch = self.by_flags.branches.as_ref().and_then(Branches::picked);
        FAILED.set(Failure { transaction: self.t as usize, code: reply.code, branch, missed: Types(0) });
        Due { missed, transaction: Types(0) }
    }

    /// Tells the other callback of this failure (of `do_accounting()` or of flags) what was used up.
    fn leave(&self, missed: Types) {
        FAILED.set(Failure { missed, ..FAILED.get() });
    }

    /// A reply went out, or all branches failed.
    fn records(&self, ctx: &SharedContext, kind: u32) -> Result<(), SharedError> {
        let is_first = |what| contexts::is_first(self.api, self.t, what);
        if kind == OS_TMCB_RESPONSE_OUT {
            outcome::note_ringing(ctx, self.event.code)?;
            if !matters(self.instance, self.event.code) {
                return Ok(());
            }
        }
        let reply = reply_of(self.event.rpl, self.event.code);
        if kind == OS_TMCB_RESPONSE_OUT {
            let rules = &self.by_flags.rules;
            // With a CDR less is due, but only the values tell whether there is one.
            let most = |head: &Head| rules.on_reply(&head.core, false, &reply, |bit| self.is_set(bit));
            let (is_call, most) = ctx.read_head(|head| (decide::is_initial_invite(head), most(head)))?;
            if is_call {
                let was_missed = || contexts::was_counted(self.api, self.t, Once::Missed);
                tally::flagged(rules, !rules.accounted(|bit| self.is_set(bit)).is_empty(), reply.code, was_missed, is_first);
            }
            if most.is_empty() {
                return Ok(());
            }
        }
        let ctx = ctx.copy()?;
        let all = self.due(kind, &ctx, &reply);
        if all.is_empty() {
            return Ok(());
        }
        let by_script = self.by_script(&ctx);
        if kind == OS_TMCB_ON_FAILURE {
            self.leave(all.missed.and(by_script));
        }
        let due = Due { missed: all.missed.without(by_script), transaction: all.transaction.without(by_script) };
        if due.is_empty() {
            return Ok(());
        }
        let extras = self.extras();
        let taken = Taken::read(extras, due.missed.or(due.transaction), &self.source(&ctx, &reply));
        let core = decide::core_with(&ctx, &reply);
        let now = Moment::now();
        let table = table(&taken, extras, &core);
        let event = |kind| flags::Event {
            kind,
            core: &core,
            upstream: ctx.upstream,
            in_dialog: ctx.in_dialog,
            created: ctx.arrived,
            time: now,
            timed: kind == Kind::Missed && Watched::kept(&ctx).cdr,
            duration_ms: None,
            end: None,
            signalling: decide::signalling(&ctx, &reply),
            table,
        };
        let mut records = flags::records(&self.instance.config.rules, due.missed, &event(Kind::Missed), &taken);
        records.extend(flags::records(&self.instance.config.rules, due.transaction, &event(Kind::Transaction), &taken));
        tally::records(&records, is_first);
        worker::emit(self.instance, &records);
        Ok(())
    }

    /// A final reply is about to be sent: an answer begins the call with its CDR, before anybody can hang up, and
    /// waits for its ACK.
    fn reply_leaves(&self, shared: &SharedContext) -> Result<(), SharedError> {
        if !(200..300).contains(&self.event.code) {
            return Ok(());
        }
        if is_answered_by_module(self.api, self.t, self.event, shared) && Watched::kept(&shared.copy()?).cdr {
            say_answered_by_module();
            shared.update(|c| Watched { cdr: false, ..Watched::kept(c) }.keep(c))?;
        }
        let ctx = shared.copy()?;
        let reply = reply_of(self.event.rpl, self.event.code);
        let extras = self.extras();
        let accounted = self.by_flags.rules.accounted(|bit| self.is_set(bit));
        let is_call = Watched::kept(&ctx).cdr && ctx.answered.is_none();
        let waits = self.by_flags.rules.report_ack && !accounted.is_empty();
        if !is_call && !waits {
            return Ok(());
        }
        let taken = Taken::read(extras, accounted, &self.source(&ctx, &reply));
        if waits && let Some(cseq) = watched::cseq(&ctx) {
            self.wait_for_ack(&ctx, accounted, cseq, &reply, &taken);
        }
        if !is_call {
            return Ok(());
        }
        let now = Moment::now();
        // Logged here, because it is no longer known where the CDR is written.
        table(&taken, extras, &ctx.core);
        let by_script = self.by_script(&ctx);
        let call = shared.call();
        let (records, end) = call.as_ref().unwrap_or(shared).happen(|c| {
            if c.answered.is_some() {
                return (Vec::new(), None);
            }
            // If the script accounts the call without a CDR, there is a record of the answer.
            c.marks = c.marks.with_cdr_by_flag(accounted.without(by_script.without(c.marks.cdr_by_script())));
            let key = taken.keep(extras, c, context_max());
            clipped(key.map(String::into_bytes), &c.core);
            let rules = &self.instance.config.rules;
            let records = if decide::on_answer(c, &reply, now) { decide::start(rules, c) } else { Vec::new() };
            (records, decide::cdr(rules, c))
        })?;
        worker::emit(self.instance, &records);
        if call.is_some() {
            // From here on it is about the script's call.
            shared.happen(|c| c.answered = Some(now))?;
        }
        finish(self.instance, end);
        Ok(())
    }

    /// What the record of the ACK needs from its INVITE.
    fn wait_for_ack(&self, ctx: &Context, accounted: Types, cseq: &[u8], reply: &Reply, taken: &Taken) {
        let mut core = decide::core_with(ctx, reply);
        // The server's own tag is not known.
        let to_tag = if self.received() { core.to_tag.clone() } else { Vec::new() };
        core.to_tag = to_tag;
        let mut answer = Context::default();
        (answer.core, answer.upstream, answer.in_dialog) = (core, ctx.upstream, true);
        answer.marks = answer.marks.with_cdr_by_flag(accounted);
        taken.keep(self.extras(), &mut answer, context_max());
        let key = acks::key(&answer.core, cseq);
        match SharedContext::new(&answer) {
            Ok(answer) => {
                acks::put(key, answer);
            }
            Err(e) => crate::host::full::FULL.error(format_args!("the ACK of an answer will not be accounted: {e}")),
        }
    }
}

/// The table that the script named, if it can be one.
fn table<'a>(taken: &'a Taken, extras: &Extras, core: &Core) -> &'a [u8] {
    let named = match taken.table(extras) {
        Ok(named) => return named,
        Err(named) => named,
    };
    static UNUSABLE: crate::accounting::limited::Lines = crate::accounting::limited::Lines::none();
    UNUSABLE.warn(format_args!(
        "the AVP of db_table_avp contains \"{}\", which is not the name of a table: the record goes to the table of db_table_acc ({})",
        named.escape_ascii(),
        CallId(core.callid.clone())
    ));
    b""
}

/// Do message flags read replies?
pub fn need_replies(api: &Api) -> bool {
    api.flags.as_ref().is_some_and(|f| f.needs_replies)
}

/// A reply came to a branch of a watched transaction; it is still private.
pub fn reply_came(
    server: &'static Server,
    api: &'static Api,
    instance: &Instance,
    t: *mut os_cell,
    rpl: *mut os_sip_msg,
    reply: &Reply,
) -> Result<(), SharedError> {
    let Some(by_flags) = api.flags.as_ref().filter(|f| f.needs_replies) else { return Ok(()) };
    let (Some(ctx), Some(branch)) = (watched_of(by_flags, server, api, t), by_flags.branches.as_ref().and_then(Branches::at_hand)) else { return Ok(()) };
    // The reply to a CANCEL is matched with the INVITE, but belongs to no branch.
    if message(rpl).is_none_or(|m| m.method() == b"CANCEL") {
        return Ok(());
    }
    let read = Values::new(server, api, &instance.config, rpl);
    ctx.happen(|c| {
        let mut keeper = Keeper { ctx: c, most: context_max(), clipped: None };
        keeper.reply(&instance.config.rules.fields.flags, branch, reply, &read);
        let key = keeper.clipped.take();
        clipped(key, &c.core);
    })
}

/// Is this the context of message flags, whose own callbacks follow it?
pub fn is_watched(t: *mut os_cell, ctx: &SharedContext) -> bool {
    let Some((server, api, _)) = ready() else { return false };
    api.flags.as_ref().and_then(|by_flags| watched_of(by_flags, server, api, t)).is_some_and(|of_flags| of_flags.same(ctx))
}

/// What flags add to the records of a request that the script has also marked.
pub fn joined(t: *mut os_cell, kind: u32, event: &Event) -> Option<Joined> {
    let (server, api, instance) = ready()?;
    let by_flags = api.flags.as_ref()?;
    // It makes no record.
    if kind != OS_TMCB_ON_FAILURE && !matters(instance, event.code) {
        return None;
    }
    let ctx = watched_of(by_flags, server, api, t)?.copy().ok()?;
    let at = At { server, api, instance, by_flags, t, event };
    let reply = reply_of(event.rpl, event.code);
    let by_script = at.by_script(&ctx);
    let all = at.due(kind, &ctx, &reply);
    if kind == OS_TMCB_ON_FAILURE {
        at.leave(all.missed.without(by_script));
    }
    let flagged = by_flags.rules.accounted(|bit| at.is_set(bit)).or(all.missed);
    let taken = Taken::read(at.extras(), flagged, &at.source(&ctx, &reply));
    Some(Joined { flagged, due: Due { missed: all.missed.and(by_script), transaction: all.transaction.and(by_script) }, taken })
}

/// A request came that may be the ACK of a watched INVITE.
pub fn request_came(server: &'static Server, api: &'static Api, instance: &'static Instance, raw: *mut os_sip_msg) {
    let Some((by_flags, msg)) = api.flags.as_ref().filter(|f| f.rules.report_ack).zip(message(raw)) else { return };
    if msg.method() != b"ACK" {
        return;
    }
    let (core, cseq) = (msg.core(), by_flags.cseq(&msg).unwrap_or_default());
    let local = Core { to_tag: Vec::new(), ..core.clone() };
    let Some(answer) = acks::take(acks::key(&core, &cseq)).or_else(|| acks::take(acks::key(&local, &cseq))) else { return };
    let Ok(answer) = answer.copy() else { return };
    let extras = &instance.config.rules.fields.flags;
    let due = answer.marks.cdr_by_flag();
    let source = OfAck { answer: &answer, read: Values::new(server, api, &instance.config, raw) };
    let taken = Taken::read(extras, due, &source).with_legs_of(Taken::kept(extras, &answer.extra));
    let core = Core { code: answer.core.code.clone(), reason: answer.core.reason.clone(), ..core };
    let now = Moment::now();
    let event = flags::Event {
        kind: Kind::Ack,
        core: &core,
        upstream: answer.upstream,
        in_dialog: true,
        created: now,
        time: now,
        timed: false,
        duration_ms: None,
        end: None,
        signalling: Signalling::default(),
        table: table(&taken, extras, &core),
    };
    worker::emit(instance, &flags::records(&instance.config.rules, due, &event, &taken));
}
