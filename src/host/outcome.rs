//! What every host family does when there is a result of a transaction or a call: decide under the context's
//! lock, write after releasing it.

use std::borrow::Cow;

use super::full::{context_max, say_clipped};
use super::shared::{CallId, SharedContext, SharedError};
use super::tally::{self, Once};
use crate::accounting::clock::Moment;
use crate::accounting::context::{CallEnd, Context, Facts, Reply};
use crate::accounting::decide::{self, Joined};
use crate::accounting::marks::Flag;
use crate::accounting::record::{Backend, EndCause};
use crate::journal::limit::Append;
use crate::worker::{self, Instance};

/// All branches failed; the script may try others. `joined` is what message flags add; `is_first` says whether the
/// transaction is counted for something for the first time.
pub fn attempt_failed(
    instance: &Instance,
    ctx: &SharedContext,
    reply: &Reply,
    joined: Option<&Joined>,
    is_first: impl FnOnce(Once) -> bool,
) -> Result<(), SharedError> {
    if joined.is_none() && !decide::may_miss(&ctx.facts()?) {
        return Ok(());
    }
    let call = call_values(ctx)?;
    let now = Moment::now();
    let records = ctx.happen(|c| decide::on_failure(&instance.config.rules, c, call.as_ref(), reply, now, joined))?;
    tally::records(&records, is_first);
    worker::emit(instance, &records);
    Ok(())
}

/// Can a reply with this code make a record or start a call? A provisional reply can only with
/// `early_media`.
pub fn matters(instance: &Instance, code: u16) -> bool {
    code >= 200 || instance.config.rules.early_media
}

/// A reply came in. What a global reply route set before the transaction was known (`set_before`) goes into
/// the context of the request or of its call, which becomes the current one for the reply.
pub fn take_values(ctx: &SharedContext, set_before: &SharedContext, put: impl FnOnce(SharedContext)) -> Result<(), SharedError> {
    let values = ctx.call().unwrap_or_else(|| ctx.duplicate());
    if set_before.same(&values) {
        return Ok(());
    }
    let other = set_before.copy()?;
    // If it is marked, it belongs to another message of this process.
    if !other.marked {
        let clipped = values.update(|c| c.merge_values(&other, context_max()))?;
        if let Some(tag) = clipped {
            say_clipped(&tag, &CallId(values.read_head(|c| c.core.callid.clone())?));
        }
        put(values);
    }
    Ok(())
}

/// A reply with this code went out: the first 18x is when the request began to ring.
pub fn note_ringing(ctx: &SharedContext, code: u16) -> Result<(), SharedError> {
    if (180..190).contains(&code) && !ctx.has_rung() {
        let now = Moment::now();
        ctx.ring(ctx.read_head(|c| now.millis_since(c.arrived))?);
    }
    Ok(())
}

/// A reply with this code went out. `joined` is what message flags add; `is_first` says whether the transaction is
/// counted for something for the first time.
pub fn reply_went(
    instance: &Instance,
    ctx: &SharedContext,
    code: u16,
    reply: impl FnOnce() -> Reply,
    joined: Option<&Joined>,
    is_first: impl Fn(Once) -> bool,
) -> Result<(), SharedError> {
    note_ringing(ctx, code)?;
    if !matters(instance, code) {
        return Ok(());
    }
    let facts = ctx.facts()?;
    let recorded = record_reply(instance, ctx, &facts, code, reply, joined, is_first);
    // Only a call that is up has more to come.
    if code >= 300 || code >= 200 && !facts.marks.any_cdr() {
        ctx.owes_no_more();
    }
    recorded
}

/// What [`reply_went`] does for a reply that can make a record.
fn record_reply(
    instance: &Instance,
    ctx: &SharedContext,
    facts: &Facts,
    code: u16,
    reply: impl FnOnce() -> Reply,
    joined: Option<&Joined>,
    is_first: impl Fn(Once) -> bool,
) -> Result<(), SharedError> {
    if joined.is_none() && !decide::may_record(facts, code) {
        // Then an answer is the answer of a call.
        if !facts.marks.is_empty() && (code < 300 || ctx.read_head(decide::is_attempt)?) {
            tally::outcome(code, is_first);
        }
        return Ok(());
    }
    let call = call_values(ctx)?;
    let (reply, now) = (reply(), Moment::now());
    let (is_attempt, records, end) = ctx.happen(|c| {
        let is_attempt = decide::is_attempt(c);
        let mut records = if decide::on_answer(c, &reply, now) { decide::start(&instance.config.rules, c) } else { Vec::new() };
        records.extend(decide::on_reply(&instance.config.rules, c, call.as_ref(), &reply, now, joined));
        (is_attempt, records, decide::cdr(&instance.config.rules, c))
    })?;
    if is_attempt {
        tally::outcome(code, &is_first);
    }
    tally::records(&records, is_first);
    worker::emit(instance, &records);
    finish(instance, end);
    Ok(())
}

/// A reply with this code is about to be sent. The 2xx of a call with a CDR starts the call, before
/// anybody can hang up.
pub fn reply_leaves(ctx: &SharedContext, code: u16, reply: impl FnOnce() -> Reply) -> Result<(), SharedError> {
    if !(200..300).contains(&code) || ctx.progress().answered {
        return Ok(());
    }
    let (reply, now) = (reply(), Moment::now());
    match worker::instance().filter(|_| ctx.marks().is_ok_and(|marks| !marks.reported(Flag::Start).is_empty())) {
        None => ctx.happen_head(|c| decide::on_answer(c, &reply, now)).map(drop)?,
        Some(instance) => {
            let records = ctx.happen(|c| if decide::on_answer(c, &reply, now) { decide::start(&instance.config.rules, c) } else { Vec::new() })?;
            worker::emit(instance, &records);
        }
    }
    // The BYE may have been faster.
    write_cdr(ctx);
    Ok(())
}

/// A call ended; `reason` is the Reason header of the BYE, empty if it had none.
pub fn end(ctx: &SharedContext, cause: EndCause, reason: &[u8], now: Moment) -> Result<(), SharedError> {
    if reason.is_empty() { ctx.end(cause, now) } else { ctx.happen(|c| decide::on_bye(c, cause, reason, context_max(), now)) }
}

/// Writes the CDR of a call that was answered and ended, unless it is written already.
pub fn write_cdr(ctx: &SharedContext) {
    let Some(instance) = worker::instance() else { return };
    if !ctx.progress().is_due() {
        return;
    }
    match ctx.conclude(|c, call| decide::cdr_due(&instance.config.rules, Cow::Owned(c), call)) {
        Ok(end) => finish_call(instance, ctx, end),
        Err(e) => log::error!("a call's end could not be accounted: {e}"),
    }
}

/// Writes the CDR of a call whose BYE got no reply before its transaction was freed. When the server stops, this runs in its
/// main process, and nobody receives events or queued objects any more: a call with either is left to the next start, as after a crash.
pub fn write_cdr_without_reply(ctx: &SharedContext) {
    let Some(instance) = worker::instance() else { return };
    let has_queue = instance.config.stock.json.as_ref().is_some_and(|json| json.cdrs.queue.is_some());
    let is_taken_here = |b| b == Backend::Evi || b == Backend::Json && has_queue;
    let has_event = || ctx.facts().is_ok_and(|c| c.marks.cdr().any(is_taken_here));
    let is_in_journal = || ctx.was_in_journal() && instance.config.limits.admits(Append::State);
    if instance.host.process_number() == 0 && is_in_journal() && has_event() {
        return;
    }
    write_cdr(ctx);
}

fn call_values(ctx: &SharedContext) -> Result<Option<Context>, SharedError> {
    ctx.call().map(|call| call.copy()).transpose()
}

/// Writes what the end of this call made, and counts the call if it is to be counted.
pub fn finish_call(instance: &Instance, ctx: &SharedContext, end: Option<CallEnd>) {
    match end {
        Some(end) if !ctx.is_counted() => worker::emit_end(instance, &end),
        end => finish(instance, end),
    }
}

/// Counts and writes what the end of a call made.
pub fn finish(instance: &Instance, end: Option<CallEnd>) {
    if let Some(end) = end {
        tally::end(&end);
        worker::emit_end(instance, &end);
    }
}
