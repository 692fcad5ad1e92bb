//! What every host family does when a transaction or a call comes to something: decide under the
//! context's lock, write after it.

use super::shared::{SharedContext, SharedError};
use crate::acc::clock::Moment;
use crate::acc::context::{Context, Reply};
use crate::acc::decide::{self, CallEnd};
use crate::worker::{self, Module};

/// Logs what went wrong, if anything did.
pub fn say(what: &str, result: Result<(), SharedError>) {
    if let Err(e) = result {
        log::error!("{what}: {e}");
    }
}

/// All branches failed; the script may try others.
pub fn attempt_failed(module: &Module, ctx: &SharedContext, reply: &Reply) -> Result<(), SharedError> {
    let call = call_values(ctx)?;
    let now = Moment::now();
    let records = ctx.update(|c| decide::on_failure(&module.config, c, call.as_ref(), reply, now))?;
    worker::emit(module, &records);
    Ok(())
}

/// Can a reply with this code make a record or start a call? A provisional one only with
/// `early_media`.
pub fn matters(module: &Module, code: u16) -> bool {
    code >= 200 || module.config.early_media
}

/// A reply came in. What a global reply route `set_before` its transaction was known goes into the
/// request's context, or that of its call, which is put in force for the reply.
pub fn take_values(ctx: &SharedContext, set_before: &SharedContext, put: impl FnOnce(SharedContext)) -> Result<(), SharedError> {
    let values = ctx.call().unwrap_or_else(|| ctx.duplicate());
    if set_before.same(&values) {
        return Ok(());
    }
    let other = set_before.copy()?;
    // A marked one belongs to another message of this process.
    if !other.marked {
        values.update(|c| c.merge_values(&other))?;
        put(values);
    }
    Ok(())
}

/// A reply with this code went out.
pub fn reply_went(module: &Module, ctx: &SharedContext, code: u16, reply: impl FnOnce() -> Reply) -> Result<(), SharedError> {
    if !matters(module, code) {
        return Ok(());
    }
    let call = call_values(ctx)?;
    let (reply, now) = (reply(), Moment::now());
    let (records, end) = ctx.update(|c| {
        decide::on_answer(c, &reply, now);
        let records = decide::on_reply(&module.config, c, call.as_ref(), &reply, now);
        (records, decide::cdr(&module.config, c))
    })?;
    worker::emit(module, &records);
    finish(module, end);
    Ok(())
}

/// A reply with this code is about to leave. The 2xx of a call with CDR starts the call, before
/// anybody can hang up.
pub fn reply_leaves(module: &Module, ctx: &SharedContext, code: u16, reply: impl FnOnce() -> Reply) -> Result<(), SharedError> {
    if !(200..300).contains(&code) {
        return Ok(());
    }
    let (reply, now) = (reply(), Moment::now());
    let end = ctx.update(|c| {
        decide::on_answer(c, &reply, now);
        decide::cdr(&module.config, c)
    })?;
    finish(module, end);
    Ok(())
}

/// Writes the CDR of a call that was answered and ended, unless it is written already.
pub fn write_cdr(ctx: &SharedContext) {
    let Some(module) = worker::module() else { return };
    let written = ctx.progress().and_then(|p| if p.is_due() { ctx.update(|c| decide::cdr(&module.config, c)) } else { Ok(None) });
    match written {
        Ok(end) => finish(module, end),
        Err(e) => log::error!("a call's end could not be accounted: {e}"),
    }
}

fn call_values(ctx: &SharedContext) -> Result<Option<Context>, SharedError> {
    ctx.call().map(|call| call.copy()).transpose()
}

fn finish(module: &Module, end: Option<CallEnd>) {
    if let Some(end) = end {
        worker::emit_end(module, &end);
    }
}
