//! Decisions: an event and a context in, the records to write out.
//!
//! Nothing here writes anything; the host layer calls these functions under the context's lock
//! and hands the records to the backends after releasing it.
#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::sync::Arc;

use super::clock::Moment;
use super::context::{Context, EndCause, Reply, Values};
use super::fields::FieldSet;
use super::identity::Identity;
use super::marks::Flag;
use super::reason;
use super::record::{Backend, Core, Field, Kind, Record, Times};
use crate::config::Config;

/// Order of the backends within a transaction or missed event.
const EVENT_ORDER: [Backend; 4] = [Backend::Evi, Backend::Log, Backend::Aaa, Backend::Db];
/// Order of the backends at the end of a call.
const CDR_ORDER: [Backend; 4] = [Backend::Log, Backend::Db, Backend::Aaa, Backend::Evi];

/// What a record takes from where it is made.
struct Source<'a> {
    config: &'a Config,
    /// Where extras and legs come from; `None` = a record without context.
    values: Option<&'a Context>,
    kind: Kind,
    core: &'a Core,
    upstream: bool,
    in_dialog: bool,
    created: Moment,
    /// Completion, or the answer of a call.
    time: Moment,
    duration_ms: Option<i64>,
    end: Option<EndCause>,
    /// Of the first record, and so of all.
    id: OnceCell<u128>,
}

impl Source<'_> {
    fn record(&self, backend: Backend, table: Arc<str>) -> Record {
        let mut core = self.core.clone();
        if self.upstream {
            std::mem::swap(&mut core.from_tag, &mut core.to_tag);
        }
        // Lines and rows of a request without context keep the original's short shape; events and
        // RADIUS packets always carry both times (D2).
        let timed = self.values.is_some() || matches!(backend, Backend::Evi | Backend::Aaa);
        let times = timed.then(|| Times { created: self.created.wall, setup_ms: self.time.millis_since(self.created) });
        let fields = &self.config.fields;
        let (extras, legs) = match (self.values, backend) {
            (Some(ctx), _) => (fields_of(&fields.extra, backend, &ctx.extra), legs_of(&fields.leg, backend, &ctx.legs)),
            // An event names its parameters even when nothing was ever set.
            (None, Backend::Evi) => (fields_of(&fields.extra, backend, &Values::default()), legs_of(&fields.leg, backend, &[])),
            (None, _) => (Vec::new(), Vec::new()),
        };
        let id = *self.id.get_or_init(|| identity(self.kind, &core, self.created, self.time));
        let mut record = Record {
            kind: self.kind,
            backend,
            table,
            core,
            time: self.time.wall,
            times,
            duration_ms: self.duration_ms,
            end: self.end,
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

fn fields_of(set: &FieldSet, backend: Backend, values: &Values) -> Vec<Field> {
    set.of(backend).iter().map(|d| Field { name: Arc::clone(&d.name), value: values.get(set.tags[d.tag].as_bytes()).map(<[u8]>::to_vec) }).collect()
}

/// One list for each leg; none when the backend declares no leg field (D16), or when the context
/// was made before any was declared. An event always names its leg parameters, once unset.
fn legs_of(set: &FieldSet, backend: Backend, legs: &[Values]) -> Vec<Vec<Field>> {
    if set.of(backend).is_empty() {
        return Vec::new();
    }
    if legs.is_empty() && backend == Backend::Evi {
        return vec![fields_of(set, backend, &Values::default())];
    }
    legs.iter().map(|leg| fields_of(set, backend, leg)).collect()
}

/// The same event always has the same identity, whichever process, restart or copy names it.
fn identity(kind: Kind, core: &Core, created: Moment, time: Moment) -> u128 {
    let mut id = Identity::new();
    id.eat(&[kind as u8]);
    for part in [&core.method, &core.from_tag, &core.to_tag, &core.callid] {
        id.eat(part);
    }
    id.eat(&created.wall.0.to_le_bytes());
    id.eat(&time.wall.0.to_le_bytes());
    id.finish()
}

/// The table of a backend's records; only SQL has one.
fn table_of(config: &Config, backend: Backend, kind: Kind, named: &[u8]) -> Arc<str> {
    match (backend, &config.db) {
        (Backend::Db, Some(db)) if kind == Kind::Missed => Arc::clone(&db.table_missed),
        (Backend::Db, Some(db)) if named.is_empty() => Arc::clone(&db.table_acc),
        (Backend::Db, Some(_)) => Arc::from(String::from_utf8_lossy(named)),
        _ => Arc::from(""),
    }
}

fn core_with(ctx: &Context, reply: &Reply) -> Core {
    let mut core = ctx.core.clone();
    if !reply.to_tag.is_empty() {
        core.to_tag.clone_from(&reply.to_tag);
    }
    core.code = format!("{:03}", reply.code).into_bytes();
    core.reason.clone_from(&reply.reason);
    core
}

/// A reply made by the server itself: standard phrase, no To tag, no body.
pub fn local_reply(code: u16) -> Reply {
    Reply { code, reason: reason::phrase(code).as_bytes().to_vec(), to_tag: Vec::new(), has_body: false }
}

fn is_invite(ctx: &Context) -> bool {
    ctx.core.method == b"INVITE"
}

/// The initial INVITE of a call that gets a CDR somewhere.
pub fn is_cdr_call(ctx: &Context) -> bool {
    is_invite(ctx) && !ctx.in_dialog && ctx.marks.any_cdr()
}

fn transaction_source<'a>(config: &'a Config, ctx: &Context, values: &'a Context, kind: Kind, core: &'a Core, now: Moment) -> Source<'a> {
    Source {
        config,
        values: Some(values),
        kind,
        core,
        upstream: ctx.upstream,
        in_dialog: ctx.in_dialog,
        created: ctx.arrived,
        time: now,
        duration_ms: None,
        end: None,
        id: OnceCell::new(),
    }
}

/// Adds the records of the backends that are `due`.
fn add(records: &mut Vec<Record>, order: [Backend; 4], due: impl Fn(Backend) -> bool, record: impl Fn(Backend) -> Record) {
    let due = order.into_iter().filter(|b| due(*b));
    // Most events have one; room for four is more than an allocator has at hand.
    records.reserve_exact(due.clone().count());
    records.extend(due.map(record));
}

/// An attempt failed: the missed records, each backend's flag used up.
///
/// `call` is the context whose values are written when the request has only marks of its own (D13).
pub fn on_failure(config: &Config, ctx: &mut Context, call: Option<&Context>, reply: &Reply, now: Moment) -> Vec<Record> {
    let core = core_with(ctx, reply);
    let mut records = Vec::new();
    {
        let source = transaction_source(config, ctx, call.unwrap_or(ctx), Kind::Missed, &core, now);
        let due = |b| ctx.marks.on(b) && ctx.marks.has(b, Flag::Missed);
        add(&mut records, EVENT_ORDER, due, |b| source.record(b, table_of(config, b, Kind::Missed, b"")));
    }
    for r in &records {
        ctx.marks = ctx.marks.used_missed(r.backend);
    }
    records
}

/// A reply went upstream: missed records of a failed INVITE first, then the transaction's.
///
/// A provisional reply counts with `early_media` when it carries a body. The answer of a call
/// with CDR writes nothing for the backends that get one.
pub fn on_reply(config: &Config, ctx: &mut Context, call: Option<&Context>, reply: &Reply, now: Moment) -> Vec<Record> {
    let mut records = Vec::new();
    if is_invite(ctx) && reply.code >= 300 {
        records = on_failure(config, ctx, call, reply, now);
    }
    if reply.code < 200 && !(config.early_media && reply.has_body) {
        return records;
    }
    let answers_call = is_invite(ctx) && !ctx.in_dialog && (200..300).contains(&reply.code);
    let due = |b| ctx.marks.on(b) && (reply.code < 300 || ctx.marks.has(b, Flag::Failed)) && !(answers_call && ctx.marks.has(b, Flag::Cdr));
    let core = core_with(ctx, reply);
    let source = transaction_source(config, ctx, call.unwrap_or(ctx), Kind::Transaction, &core, now);
    add(&mut records, EVENT_ORDER, due, |b| source.record(b, table_of(config, b, Kind::Transaction, &ctx.table)));
    records
}

/// The 2xx of a call with CDR is about to be sent: the call starts now (D5). Further 2xx of
/// forked branches change nothing. Returns whether the call was answered by this.
pub fn on_answer(ctx: &mut Context, reply: &Reply, now: Moment) -> bool {
    if ctx.answered.is_some() || !is_cdr_call(ctx) || !(200..300).contains(&reply.code) {
        return false;
    }
    ctx.core = core_with(ctx, reply);
    ctx.answered = Some(now);
    true
}

/// The dialog ended; the first end counts.
pub fn on_end(ctx: &mut Context, cause: EndCause, now: Moment) {
    if ctx.ended.is_none() {
        ctx.ended = Some((now, cause));
    }
}

/// What the end of a call makes: its records, and its name in the journal.
pub struct CallEnd {
    /// See [`Context::call_key`].
    pub call: u128,
    /// When it was answered.
    pub answered: Option<Moment>,
    /// The CDRs; none when accounting was dropped meanwhile.
    pub records: Vec<Record>,
}

/// Somebody else writes the CDR: only the end is left.
pub fn close(ctx: &mut Context) -> CallEnd {
    ctx.closed = true;
    CallEnd { call: ctx.call_key(), answered: ctx.answered, records: Vec::new() }
}

/// The CDR of an answered and ended call, once: whoever asks first gets it.
pub fn cdr(config: &Config, ctx: &mut Context) -> Option<CallEnd> {
    let (Some(answered), Some((ended, cause)), false) = (ctx.answered, ctx.ended, ctx.closed) else {
        return None;
    };
    ctx.closed = true;
    let source = Source {
        config,
        values: Some(ctx),
        kind: Kind::Cdr,
        core: &ctx.core,
        upstream: false,
        in_dialog: ctx.in_dialog,
        created: ctx.arrived,
        time: answered,
        duration_ms: Some(ended.millis_since(answered)),
        end: Some(cause),
        id: OnceCell::new(),
    };
    let due = |b| ctx.marks.on(b) && ctx.marks.has(b, Flag::Cdr);
    let mut records = Vec::new();
    add(&mut records, CDR_ORDER, due, |b| source.record(b, table_of(config, b, Kind::Cdr, &ctx.table)));
    Some(CallEnd { call: ctx.call_key(), answered: Some(answered), records })
}

/// A request as a manual record needs it.
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

/// `acc_*_request(comment)`: a record at once. `values` is the context in force, if any.
pub fn manual(config: &Config, backend: Backend, values: Option<&Context>, request: &Request, comment: &[u8], table: &[u8], now: Moment) -> Record {
    let (code, reason) = reason::split_comment(comment);
    let mut core = request.core.clone();
    core.code = code.map(|c| format!("{c:03}").into_bytes()).unwrap_or_default();
    core.reason = reason;
    let source = Source {
        config,
        values,
        kind: Kind::Manual,
        core: &core,
        upstream: request.upstream,
        in_dialog: request.in_dialog,
        created: request.arrived,
        time: now,
        duration_ms: None,
        end: None,
        id: OnceCell::new(),
    };
    source.record(backend, table_of(config, backend, Kind::Manual, table))
}
