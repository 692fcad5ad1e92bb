//! Decisions: an event and a context in, the records to write out.
//!
//! Nothing here writes anything; the host layer calls these functions under the context's lock
//! and hands the records to the backends after releasing it.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::sync::Arc;

use super::clock::Moment;
use super::context::{CallEnd, Context, Facts, Head, Progress, Reply, Values};
use super::dialog_cdr;
use super::fields::FieldSet;
use super::flags::{self, Due, Taken};
use super::marks::{Flag, Marks, Types};
use super::order::{CDR_ORDER, EVENT_ORDER};
use super::reason;
use super::record::{Backend, Core, EndCause, Field, Kind, Record, Shape, Signalling, Times, begin_event, of_event};
use super::rules::Rules;

/// The input from which a record is made.
struct Source<'a> {
    rules: &'a Rules,
    /// Source of extras and legs; `None` = a record without a context. The last record takes them, if they are its own.
    values: Option<Cow<'a, Context>>,
    kind: Kind,
    core: Cow<'a, Core>,
    upstream: bool,
    in_dialog: bool,
    created: Moment,
    /// Completion, or the answer of a call.
    time: Moment,
    duration_ms: Option<i64>,
    end: Option<EndCause>,
    signalling: Signalling,
    /// The shape of the first record, and so of all.
    id: Option<u128>,
}

impl Source<'_> {
    /// Makes the record of one backend. `is_last`: no other record follows, so it may take the values instead of
    /// copying them.
    fn record(&mut self, backend: Backend, table: Arc<str>, is_last: bool) -> Record {
        let mut core = match &mut self.core {
            Cow::Owned(core) if is_last => std::mem::take(core),
            core => Core::clone(core),
        };
        if self.upstream {
            std::mem::swap(&mut core.from_tag, &mut core.to_tag);
        }
        // Lines and rows of a request without a context keep the original's short shape; all others always
        // carry both times (D2).
        let timed = self.values.is_some() || !matches!(backend, Backend::Log | Backend::Db);
        let times = timed.then(|| Times { created: self.created.wall, setup_ms: self.time.millis_since(self.created) });
        let fields = &self.rules.fields;
        let (extras, legs) = match &mut self.values {
            Some(Cow::Owned(Context { extra, legs, .. })) if is_last => (
                fields_of(&fields.extra, backend, |n, tag| extra.take(n, tag)),
                legs_of(&fields.leg, backend, legs.len(), |leg, n, tag| legs[leg].take(n, tag)),
            ),
            Some(ctx) => (
                fields_of(&fields.extra, backend, |n, tag| copy(&ctx.extra, n, tag)),
                legs_of(&fields.leg, backend, ctx.legs.len(), |leg, n, tag| copy(&ctx.legs[leg], n, tag)),
            ),
            // An event has all its parameters, even if nothing was ever set.
            None if backend == Backend::Evi => (fields_of(&fields.extra, backend, |_, _| None), legs_of(&fields.leg, backend, 0, |_, _, _| None)),
            None => (Vec::new(), Vec::new()),
        };
        let id = *self.id.get_or_insert_with(|| of_event(self.kind, &core, self.created, self.time));
        let mut record = Record {
            kind: self.kind,
            shape: Shape::Context,
            backend,
            table,
            core,
            time: self.time.wall,
            times,
            duration_ms: self.duration_ms,
            end: self.end,
            signalling: self.signalling.clone(),
            reported: false,
            in_dialog: self.in_dialog,
            extras,
            legs,
            id,
        };
        let declared = fields.extra.of(backend).iter().map(|d| &*fields.extra.tags[d.tag]);
        for (i, tag) in declared.enumerate() {
            if record.extras.get(i).is_some_and(|f| f.value.is_none()) {
                record.extras[i].value = record.own_value(tag);
            }
        }
        record
    }
}

fn copy(values: &Values, number: usize, tag: &[u8]) -> Option<Vec<u8>> {
    values.declared(number, tag).map(<[u8]>::to_vec)
}

/// `value` is asked by number and name of a tag.
fn fields_of(set: &FieldSet, backend: Backend, mut value: impl FnMut(usize, &[u8]) -> Option<Vec<u8>>) -> Vec<Field> {
    set.of(backend).iter().map(|d| Field { name: Arc::clone(&d.name), value: value(d.tag, set.tags[d.tag].as_bytes()) }).collect()
}

/// One list per leg; none if the backend declares no leg field (D16), or if the context
/// was created before any was declared. An event always has its leg parameters, unset if there is no leg.
fn legs_of(set: &FieldSet, backend: Backend, legs: usize, mut value: impl FnMut(usize, usize, &[u8]) -> Option<Vec<u8>>) -> Vec<Vec<Field>> {
    if set.of(backend).is_empty() {
        return Vec::new();
    }
    if legs == 0 && backend == Backend::Evi {
        return vec![fields_of(set, backend, |_, _| None)];
    }
    (0..legs).map(|leg| fields_of(set, backend, |n, tag| value(leg, n, tag))).collect()
}

/// The core values of a request, combined with those of its reply.
pub fn core_with(ctx: &Head, reply: &Reply) -> Core {
    let mut core = ctx.core.clone();
    add_reply(&mut core, reply);
    core
}

fn add_reply(core: &mut Core, reply: &Reply) {
    if !reply.to_tag.is_empty() {
        core.to_tag.clone_from(&reply.to_tag);
    }
    put_code(&mut core.code, reply.code);
    core.reason.clone_from(&reply.reason);
}

/// Replaces `out` by a reply code as records have it. Every answer needs this, and formatting would cost ten times as
/// much.
fn put_code(out: &mut Vec<u8>, code: u16) {
    out.clear();
    match code {
        0..1000 => out.extend_from_slice(&[code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8)),
        _ => out.extend_from_slice(code.to_string().as_bytes()),
    }
}

/// A reply made by the server itself: standard phrase, no To tag, no body.
pub fn local_reply(code: u16) -> Reply {
    Reply { code, reason: reason::phrase(code).as_bytes().to_vec(), to_tag: Vec::new(), has_body: false, received: false, cause: Vec::new() }
}

fn is_invite(ctx: &Head) -> bool {
    ctx.core.method == b"INVITE"
}

/// The initial INVITE of a call that gets a CDR somewhere.
pub fn is_cdr_call(ctx: &Head) -> bool {
    is_invite(ctx) && !ctx.in_dialog && ctx.marks.any_cdr()
}

/// An attempt at a call that is accounted: what statistics count.
pub fn is_attempt(ctx: &Head) -> bool {
    is_initial_invite(ctx) && !ctx.marks.is_empty()
}

/// A request that asks for a call.
pub fn is_initial_invite(ctx: &Head) -> bool {
    is_invite(ctx) && !ctx.in_dialog
}

/// What is seen of a request's signalling until it gets a reply. A request inside a call is not an attempt at one.
pub fn signalling(ctx: &Context, reply: &Reply) -> Signalling {
    let of_call = if is_invite(ctx) && !ctx.in_dialog { ctx.signalling() } else { Signalling::default() };
    Signalling { end_reason: Signalling::clipped(&reply.cause).to_vec(), ..of_call }
}

fn transaction_source<'a>(rules: &'a Rules, ctx: &Context, values: &'a Context, (kind, core): (Kind, Core), signalling: Signalling, now: Moment) -> Source<'a> {
    Source {
        rules,
        values: Some(Cow::Borrowed(values)),
        kind,
        core: Cow::Owned(core),
        upstream: ctx.upstream,
        in_dialog: ctx.in_dialog,
        created: ctx.arrived,
        time: now,
        duration_ms: None,
        end: None,
        signalling,
        id: None,
    }
}

/// The records of the backends that are `due`; `record` is told which of them is the last.
fn records_of(order: [Backend; Backend::COUNT], due: Types, mut record: impl FnMut(Backend, bool) -> Record) -> Vec<Record> {
    let n = due.0.count_ones() as usize;
    // Most events make one record; growing from empty would allocate room for four.
    let mut records = Vec::with_capacity(n);
    records.extend(order.into_iter().filter(|b| due.has(*b)).enumerate().map(|(i, b)| record(b, i + 1 == n)));
    records
}

/// What message flags add to the records of a request that `do_accounting()` has also marked.
#[derive(Debug, Default)]
pub struct Joined {
    /// Backends whose accounting or missed flag is set: their extras come after the others.
    pub flagged: Types,
    /// Backends that would get a record of the event from the flags alone.
    pub due: Due,
    /// The values of the extras.
    pub taken: Taken,
}

impl Joined {
    fn join(&self, rules: &Rules, records: &mut [Record]) {
        for record in records.iter_mut().filter(|r| self.flagged.has(r.backend)) {
            self.taken.join(&rules.fields.flags, record);
        }
    }
}

/// An attempt failed: makes the missed records and clears the flag of each backend.
///
/// `call` is the context whose values are written if the request only has its own marks (D13).
pub fn on_failure(rules: &Rules, ctx: &mut Context, call: Option<&Context>, reply: &Reply, now: Moment, joined: Option<&Joined>) -> Vec<Record> {
    let core = core_with(ctx, reply);
    let mut records = {
        let mut source = transaction_source(rules, ctx, call.unwrap_or(ctx), (Kind::Missed, core), signalling(ctx, reply), now);
        let by_flags = joined.map_or(Types::default(), |j| j.due.missed);
        let due = ctx.marks.types().and(ctx.marks.having(Flag::Missed).or(by_flags));
        records_of(EVENT_ORDER, due, |b, is_last| source.record(b, rules.table_of(b, Kind::Missed, b""), is_last))
    };
    if let Some(joined) = joined {
        joined.join(rules, &mut records);
    }
    for r in &records {
        ctx.marks = ctx.marks.used_missed(r.backend);
    }
    records
}

/// A reply went upstream: missed records of a failed INVITE first, then the transaction's.
///
/// With `early_media`, a provisional reply with a body counts as the answer. The answer of a call
/// with a CDR writes nothing for the backends that get the CDR.
pub fn on_reply(rules: &Rules, ctx: &mut Context, call: Option<&Context>, reply: &Reply, now: Moment, joined: Option<&Joined>) -> Vec<Record> {
    let mut records = Vec::new();
    if is_invite(ctx) && reply.code >= 300 {
        records = on_failure(rules, ctx, call, reply, now, joined);
    }
    if reply.code < 200 && !(rules.early_media && reply.has_body) {
        return records;
    }
    let answers_call = is_invite(ctx) && !ctx.in_dialog && (200..300).contains(&reply.code);
    let by_flags = joined.map_or(Types::default(), |j| j.due.transaction);
    let mut due = ctx.marks.types();
    if reply.code >= 300 {
        due = due.and(ctx.marks.having(Flag::Failed).or(by_flags));
    }
    if answers_call {
        due = due.without(ctx.marks.having(Flag::Cdr));
    }
    let core = core_with(ctx, reply);
    let mut source = transaction_source(rules, ctx, call.unwrap_or(ctx), (Kind::Transaction, core), signalling(ctx, reply), now);
    let mut of_transaction = records_of(EVENT_ORDER, due, |b, is_last| source.record(b, rules.table_of(b, Kind::Transaction, &ctx.table), is_last));
    if let Some(joined) = joined {
        joined.join(rules, &mut of_transaction);
    }
    if records.is_empty() {
        return of_transaction;
    }
    records.append(&mut of_transaction);
    records
}

/// Can a reply with this code make a record, answer a call, or complete one, if message flags add nothing to the request?
/// False for an answer in a call that is up and accounted by its CDR alone, and for a failure that no backend records.
pub const fn may_record(facts: &Facts, code: u16) -> bool {
    let marks = facts.marks;
    match code {
        200..300 => {
            let is_known = facts.answered.is_some() && facts.ended.is_none() && !facts.in_dialog;
            !is_known || !marks.types().without(marks.cdr_by_script()).is_empty()
        }
        300.. => may_miss(facts) || !marks.types().and(marks.having(Flag::Failed)).is_empty() || Progress::of(facts.flags()).is_due(),
        _ => true,
    }
}

/// Can the failure of an attempt make a record, if message flags add nothing to the request?
pub const fn may_miss(facts: &Facts) -> bool {
    !facts.marks.types().and(facts.marks.having(Flag::Missed)).is_empty()
}

/// The 2xx of a call with a CDR is about to be sent: the call starts now (D5). Further 2xx of
/// forked branches change nothing. Returns whether this answered the call.
///
/// A 2xx without To tag makes no dialog (RFC 3261, 12.1): nobody could end such a call.
pub fn on_answer(ctx: &mut Head, reply: &Reply, now: Moment) -> bool {
    let is_untagged = reply.received && reply.to_tag.is_empty();
    if ctx.answered.is_some() || !is_cdr_call(ctx) || !(200..300).contains(&reply.code) || is_untagged {
        return false;
    }
    add_reply(&mut ctx.core, reply);
    ctx.answered = Some(now);
    true
}

/// The dialog ended; the first end counts.
pub fn on_end(ctx: &mut Facts, cause: EndCause, now: Moment) {
    if ctx.ended.is_none() {
        ctx.ended = Some((now, cause));
    }
}

/// [`on_end`] by a BYE with this Reason header, which is kept if it fits in a context of `most` bytes.
pub fn on_bye(ctx: &mut Context, cause: EndCause, reason: &[u8], most: usize, now: Moment) {
    if ctx.ended.is_none() {
        ctx.set_end_reason(reason, most);
        on_end(ctx, cause, now);
    }
}

/// Records of a call that is up, for the backends with this flag.
fn report(rules: &Rules, ctx: &Context, kind: Kind, due: Types, now: Moment, end: Option<EndCause>) -> Vec<Record> {
    let Some(answered) = ctx.answered.filter(|_| !due.is_empty()) else { return Vec::new() };
    let duration_ms = now.millis_since(answered);
    let mut id = begin_event(kind, &ctx.core, ctx.arrived, answered);
    if kind == Kind::Interim {
        id.eat(&duration_ms.to_le_bytes());
    }
    let mut source = Source {
        rules,
        values: Some(Cow::Borrowed(ctx)),
        kind,
        core: Cow::Borrowed(&ctx.core),
        upstream: false,
        in_dialog: ctx.in_dialog,
        created: ctx.arrived,
        time: answered,
        duration_ms: Some(duration_ms),
        end,
        signalling: ctx.signalling(),
        id: Some(id.finish()),
    };
    let record = |b, is_last| {
        let record = source.record(b, rules.table_of(b, kind, b""), is_last);
        // The table of calls has one row for each.
        let legs = if b == Backend::Db { Vec::new() } else { record.legs };
        Record { reported: true, legs, ..record }
    };
    records_of(CDR_ORDER, due, record)
}

/// The call was just answered: its start records.
pub fn start(rules: &Rules, ctx: &Context) -> Vec<Record> {
    report(rules, ctx, Kind::Start, ctx.marks.reported(Flag::Start), ctx.answered.unwrap_or_default(), None)
}

/// The call is up at this moment: its interim records for those of the `wanted` backends that take them.
pub fn interim(rules: &Rules, ctx: &Context, wanted: Types, now: Moment) -> Vec<Record> {
    report(rules, ctx, Kind::Interim, ctx.marks.reported(Flag::Interim).and(wanted), now, None)
}

/// The call is no longer accounted to SQL, where a row says that it is up: the record that removes this row.
pub fn withdraw(rules: &Rules, ctx: &Context, before: Marks, now: Moment) -> Vec<Record> {
    let db = Types::one(Backend::Db);
    let had = before.reported(Flag::Start).and(db);
    let due = if ctx.marks.reported(Flag::Start).has(Backend::Db) || ctx.closed { Types::default() } else { had };
    report(rules, ctx, Kind::Interim, due, now, Some(EndCause::Proxy))
}

/// A CDR that is kept for a person to decide about: the record that removes its call from the SQL table of calls that
/// are up.
pub fn withheld(rules: &Rules, cdr: &Record) -> Option<Record> {
    let is_up = cdr.reported && cdr.backend == Backend::Db;
    is_up.then(|| Record { kind: Kind::Interim, table: rules.table_of(Backend::Db, Kind::Interim, b""), extras: Vec::new(), legs: Vec::new(), ..cdr.clone() })
}

/// Another server writes the CDR: only the end is recorded.
pub fn close(ctx: &mut Context) -> CallEnd {
    ctx.closed = true;
    CallEnd { call: ctx.call_key(), dialog: ctx.dialog.clone(), answered: ctx.answered, duration_ms: None, records: Vec::new() }
}

/// The CDR of an answered and ended call, exactly once: only the first caller gets it.
pub fn cdr(rules: &Rules, ctx: &mut Context) -> Option<CallEnd> {
    let end = cdr_due(rules, Cow::Borrowed(ctx), None)?;
    ctx.closed = true;
    Some(end)
}

/// The CDR of an answered and ended call that is not closed; whoever writes it closes the context in the
/// same step. `call` is the key of its call, if that is known.
pub fn cdr_due(rules: &Rules, mut ctx: Cow<'_, Context>, call: Option<u128>) -> Option<CallEnd> {
    if ctx.is_of_dialog() {
        return dialog_cdr::end(rules, &ctx);
    }
    let Facts { marks, in_dialog, .. } = ctx.facts;
    let (Some(answered), Some((ended, cause)), false) = (ctx.answered, ctx.ended, ctx.closed) else {
        return None;
    };
    let duration_ms = Some(ended.millis_since(answered));
    let call = call.unwrap_or_else(|| ctx.call_key());
    let (dialog, table, core) = match &mut ctx {
        Cow::Borrowed(ctx) => (ctx.dialog.clone(), ctx.table.clone(), Cow::Borrowed(&ctx.head.core)),
        Cow::Owned(ctx) => (std::mem::take(&mut ctx.dialog), std::mem::take(&mut ctx.table), Cow::Owned(std::mem::take(&mut ctx.core))),
    };
    let created = ctx.arrived;
    let (by_script, by_flag) = (marks.cdr_by_script(), marks.cdr_by_flag());
    let taken = if by_flag.is_empty() { Taken::default() } else { Taken::kept(&rules.fields.flags, &ctx.extra) };
    let named = taken.table(&rules.fields.flags).unwrap_or_default();
    let mut source = Source {
        rules,
        kind: Kind::Cdr,
        upstream: false,
        in_dialog,
        created,
        time: answered,
        duration_ms,
        end: Some(cause),
        signalling: ctx.signalling(),
        core,
        values: Some(ctx),
        id: None,
    };
    let record = |b, is_last| {
        if by_script.has(b) {
            let mut record = source.record(b, rules.table_of(b, Kind::Cdr, &table), is_last);
            if by_flag.has(b) {
                taken.join(&rules.fields.flags, &mut record);
            }
            record.reported = marks.has(b, Flag::Start);
            return record;
        }
        let event = flags::Event {
            kind: Kind::Cdr,
            core: &source.core,
            upstream: false,
            in_dialog,
            created,
            time: answered,
            timed: true,
            duration_ms,
            end: Some(cause),
            signalling: source.signalling.clone(),
            table: named,
        };
        flags::record(rules, b, &event, &taken)
    };
    let records = records_of(CDR_ORDER, by_script.or(by_flag), record);
    Some(CallEnd { call, dialog, answered: Some(answered), duration_ms, records })
}

/// What a manual record needs of a request.
pub struct Request {
    /// Core values; code and reason are not used.
    pub core: Core,
    /// It has a To tag.
    pub in_dialog: bool,
    /// Its arrival.
    pub arrived: Moment,
    /// From and To swap.
    pub upstream: bool,
}

/// `acc_*_request(comment)`: makes a record at once. `values` is the current context, if any.
pub fn manual(rules: &Rules, backend: Backend, values: Option<&Context>, request: &Request, comment: &[u8], table: &[u8], now: Moment) -> Record {
    let (code, reason) = reason::split_comment(comment);
    let mut core = request.core.clone();
    core.code.clear();
    if let Some(code) = code {
        put_code(&mut core.code, code);
    }
    core.reason = reason;
    let mut source = Source {
        rules,
        values: values.map(Cow::Borrowed),
        kind: Kind::Manual,
        core: Cow::Owned(core),
        upstream: request.upstream,
        in_dialog: request.in_dialog,
        created: request.arrived,
        time: now,
        duration_ms: None,
        end: None,
        signalling: Signalling::default(),
        id: None,
    };
    source.record(backend, rules.table_of(backend, Kind::Manual, table), true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::marks::Flags;

    /// The server puts its tag into its own answers when they are sent.
    #[test]
    fn an_answer_from_elsewhere_has_a_tag() {
        let call = || {
            let mut ctx = Context::new(Moment::now(), false);
            ctx.core.method = b"INVITE".to_vec();
            ctx.marks = ctx.marks.add(Types::one(Backend::Log), Flags(Flag::Cdr.only().0));
            ctx
        };
        let answers = |reply: &Reply| on_answer(&mut call(), reply, Moment::now());
        let received = |to_tag: &str| Reply { received: true, to_tag: to_tag.into(), ..local_reply(200) };
        assert_eq!([&received(""), &received("x"), &local_reply(200)].map(answers), [false, true, true]);
    }

    /// For every request: where nothing may be recorded, nothing is.
    #[test]
    fn what_may_not_be_recorded_is_not() {
        let (rules, now) = (Rules::default(), Moment::now());
        let (mut quiet, types) = (0, Types::one(Backend::Log));
        for n in 0..1u16 << 9 {
            let on = |bit: u16| n >> bit & 1 != 0;
            let mut ctx = Context::new(now, false);
            ctx.core.method = if on(0) { b"INVITE".to_vec() } else { b"BYE".to_vec() };
            let flags = [Flag::Cdr, Flag::Missed, Flag::Failed].into_iter().enumerate().filter(|(i, _)| on(1 + *i as u16));
            let flags = Flags(flags.fold(0, |all, (_, flag)| all | flag.only().0));
            if on(4) {
                ctx.marks = ctx.marks.add(types, flags);
            }
            ctx.in_dialog = on(5);
            // Only the call of an initial INVITE is ever answered.
            ctx.answered = Some(now).filter(|_| on(6) && is_cdr_call(&ctx));
            ctx.ended = Some((now, EndCause::Caller)).filter(|_| on(7));
            ctx.closed = on(8) && ctx.answered.is_some();
            for code in [200, 302, 486] {
                let before = ctx.clone();
                if !may_miss(&ctx) {
                    assert_eq!(on_failure(&rules, &mut ctx, None, &local_reply(code), now, None), []);
                }
                if !may_record(&ctx, code) {
                    quiet += 1;
                    assert!(!on_answer(&mut ctx, &local_reply(code), now));
                    assert_eq!(on_reply(&rules, &mut ctx, None, &local_reply(code), now, None), []);
                    assert!(cdr(&rules, &mut ctx).is_none());
                }
                assert_eq!(ctx, before);
            }
        }
        assert!(quiet > 0);
    }
}
