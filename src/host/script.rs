//! What scripts call and read, the same in every host family. The family gets arguments and values from the
//! host, and says where it keeps contexts ([`AtHand`]).
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::c_int;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use super::full::{context_max, say_clipped};
use super::shared::{CallId, FULL, SharedContext, SharedError};
use super::values::{Named, NoLeg};
use super::{full, guard, proof, tables};
use crate::accounting::clock::Moment;
use crate::accounting::context::{Context, Head, leg_index};
use crate::accounting::fields::FieldSet;
use crate::accounting::flags::Taken;
use crate::accounting::limited::Lines;
use crate::accounting::marks::{Flag, Flags, Marks, Types};
use crate::accounting::record::{Backend, Core};
use crate::accounting::{decide, flags};
use crate::backend::sql::is_foreign;
use crate::backend::sql::schema::is_table_name;
use crate::config::Config;
use crate::declaration::{Argument, By, FUNCTIONS, MOST_ARGUMENTS, SinkId, functions};
use crate::stats::{self, Counter};
use crate::worker::{self, Instance};

/// What the script reads as true, and as false.
const TRUE: c_int = 1;
const FALSE: c_int = -1;
/// What a variable's entry points return.
const OK: c_int = 0;
const FAILED: c_int = -1;

/// Runs a script function; an error is one log line and "false". After accounting was stopped (which was
/// logged), it is "false" without a log line.
pub fn function(name: &'static str, f: impl FnOnce() -> Result<(), String>) -> c_int {
    if proof::stopped() {
        return FALSE;
    }
    guard::entry(name, FALSE, || match f() {
        Ok(()) => TRUE,
        Err(e) => {
            complain(format_args!("{name}(): {e}"), &e);
            FALSE
        }
    })
}

/// Assigns a variable; an error is one log line. After accounting was stopped, nothing happens: the server
/// would complain about every assignment.
pub fn assign(entry: &'static str, name: &str, f: impl FnOnce() -> Result<(), String>) -> c_int {
    if proof::stopped() { OK } else { variable(entry, name, f) }
}

/// Runs an entry point of a variable; an error is one log line. After accounting was stopped, there are no
/// values.
pub fn variable(entry: &'static str, name: &str, f: impl FnOnce() -> Result<(), String>) -> c_int {
    if proof::stopped() {
        return FAILED;
    }
    guard::entry(entry, FAILED, || match f() {
        Ok(()) => OK,
        Err(e) => {
            complain(format_args!("${name}: {e}"), &e);
            FAILED
        }
    })
}

/// Logs an error of the script. That memory or the journal is full is logged once a second, however many requests come.
fn complain(line: impl Display, error: &str) {
    static REFUSED: Lines = Lines::none();
    if error.contains(FULL) {
        full::FULL.error(line);
    } else if error.ends_with(worker::REFUSED) {
        REFUSED.error(line);
    } else {
        log::error!("{line}");
    }
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Backends.
    Types(Types),
    /// Flags.
    Flags(Flags),
    /// A comment, or the name of a table.
    Text(Cow<'a, [u8]>),
}

/// The arguments of a function, in the order of its row; `None` if left out.
pub struct Arguments<'a>(pub [Option<Value<'a>>; MOST_ARGUMENTS]);

impl Arguments<'_> {
    fn types(&self, i: usize) -> Option<Types> {
        if let Some(Value::Types(t)) = self.0[i] { Some(t) } else { None }
    }

    fn flags(&self, i: usize) -> Option<Flags> {
        if let Some(Value::Flags(f)) = self.0[i] { Some(f) } else { None }
    }

    fn text(&self, i: usize) -> &[u8] {
        if let Some(Value::Text(t)) = &self.0[i] { t } else { b"" }
    }
}

/// The body of a function.
pub type Body<A> = fn(A, &'static Instance, &Arguments<'_>) -> Result<(), String>;

/// The body of every function, as [`crate::declaration::FUNCTIONS`] has them.
pub const fn bodies<A: AtHand>() -> [Body<A>; FUNCTIONS.len()] {
    macro_rules! bodies {
        ($($name:ident($($needed:expr),*; $($more:expr),*) $routes:ident,)+) => { [$($name as Body<A>,)+] };
    }
    functions!(bodies)
}

/// What an argument is called in error lines.
pub const fn what(argument: Argument) -> &'static str {
    match argument {
        Argument::Types => "accounting backends",
        Argument::Flags => "accounting flags",
        Argument::Table => "accounting table",
        Argument::Comment(_) => "accounting comment",
    }
}

/// Checks an argument that is the same in every call; returns its value if that is not the text itself.
pub fn check(argument: Argument, text: &[u8]) -> Result<Option<Value<'static>>, String> {
    match argument {
        Argument::Types => types_of(text).map(|t| Some(Value::Types(t))),
        Argument::Flags => flags_of(text).map(|f| Some(Value::Flags(f))),
        Argument::Table => check_table(text).map(|()| None),
        Argument::Comment(backend) => {
            warn_of_manual(backend);
            Ok(None)
        }
    }
}

/// The value of an argument, after its variables were evaluated for this call.
pub fn read(argument: Argument, text: Vec<u8>) -> Result<Value<'static>, String> {
    match argument {
        Argument::Types => types_of(&text).map(Value::Types),
        Argument::Flags if text.is_empty() => Ok(Value::Flags(Flags(0))),
        Argument::Flags => flags_of(&text).map(Value::Flags),
        Argument::Table | Argument::Comment(_) => Ok(Value::Text(Cow::Owned(text))),
    }
}

/// Where a context may be kept for the current message (docs/ARCHITECTURE.md, "Look-up order").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With the message: the current context.
    Here,
    /// With the message: the marks of an in-dialog request of its own (D13).
    HereOwn,
    /// With its transaction.
    There,
    /// With its transaction, as `HereOwn`.
    ThereOwn,
}

/// The current message, as a host family sees it.
pub trait AtHand: Copy {
    /// The context that a place holds.
    fn get(self, place: Place) -> Option<SharedContext>;

    /// Replaces what a place holds. Without a transaction, its places hold nothing.
    fn put(self, place: Place, ctx: &SharedContext);

    /// Gives the transaction `ctx`, unless it has one, which is then returned. A reply route of another branch
    /// may be doing the same at this moment.
    fn offer(self, ctx: &SharedContext) -> Option<SharedContext>;

    /// The context of the message's dialog.
    fn of_dialog(self) -> Option<SharedContext>;

    /// Is there a message or a transaction, which a new context can belong to?
    fn is_there(self) -> bool;

    /// Core values of the request; `None` if there is no SIP message.
    fn core(self) -> Option<Core>;

    /// When the request came.
    fn arrival(self) -> Moment;

    /// Did the callee send it? Only asked with `detect_direction`.
    fn is_upstream(self) -> bool;

    /// Can calls be followed to their end?
    fn has_dialogs(self) -> bool;

    /// Does the server send the request itself? Nobody reports the end of a call that begins so.
    fn is_of_server(self) -> bool {
        false
    }

    /// Ties a call to its dialog, which is made if necessary. Unless `ctx` gets the events of its transaction already
    /// (`is_watched`), returns whether [`AtHand::watch`] must also watch for the answer.
    fn follow(self, ctx: &SharedContext, is_watched: bool) -> Result<bool, String>;

    /// The values of `log_extra` and the like for the current message.
    fn taken(self, config: &Config, backend: Backend) -> Taken;

    /// Makes `ctx` get the events of the message's transaction; with `answers`, also when an answer is about to be
    /// sent.
    fn watch(self, ctx: SharedContext, answers: bool) -> Result<(), String>;

    /// `acc_load_ctx_from_dlg()`: makes the context of the message's dialog the current one.
    fn load(self) -> Result<(), String>;

    /// `acc_unload_ctx_from_dlg()`: restores the one that it replaced.
    fn unload(self) -> Result<(), String>;

    /// The script changed a value: others who keep the state of the call may have to know.
    fn changed(self) {}
}

/// The current context.
pub fn find(at: impl AtHand) -> Option<SharedContext> {
    at.get(Place::Here).or_else(|| at.get(Place::There)).or_else(|| at.of_dialog())
}

/// Changes the context that was found, or a new one for the message and its transaction, which is stored
/// together with the change.
fn change<R>(at: impl AtHand, found: Option<SharedContext>, has_leg_fields: bool, f: impl Fn(&mut Context) -> R) -> Result<(SharedContext, R), String> {
    change_by(at, found, has_leg_fields, &f, |ctx| ctx.update(&f))
}

/// [`change`], where `of_shared` changes a context that is already shared, and `f` a new one.
fn change_by<R>(
    at: impl AtHand,
    found: Option<SharedContext>,
    has_leg_fields: bool,
    f: impl Fn(&mut Context) -> R,
    of_shared: impl Fn(&SharedContext) -> Result<R, SharedError>,
) -> Result<(SharedContext, R), String> {
    let update = |ctx: SharedContext| of_shared(&ctx).map(|r| (ctx, r)).map_err(|e| refused(at, e));
    if let Some(ctx) = found {
        return update(ctx);
    }
    if !at.is_there() {
        return Err("no message is being processed here, so there is nothing to account".into());
    }
    let mut ctx = Context::new(at.arrival(), has_leg_fields);
    let r = f(&mut ctx);
    let new = SharedContext::new(&ctx).map_err(|e| refused(at, e))?;
    let (ctx, r) = match at.offer(&new) {
        Some(other) => update(other)?,
        None => (new, r),
    };
    at.put(Place::Here, &ctx);
    Ok((ctx, r))
}

/// The message's call is now known: values that the script has set on the message go into it (D22), and
/// earlier marks stay with the request alone (D13).
pub fn join(at: impl AtHand, call: &SharedContext) {
    let before = at.get(Place::Here);
    if before.as_ref().is_some_and(|c| c.same(call)) {
        return;
    }
    if let Some(own) = before {
        let joined = own.copy().and_then(|values| {
            // If there is no room for the values, the request still keeps its own marks.
            let (marks, clipped) = call.happen(|c| {
                let clipped = c.merge_values(&values, context_max());
                (c.marks, clipped)
            })?;
            if let Some(tag) = clipped {
                say_clipped(&tag, &call_id(at));
            }
            if values.marked {
                own.set_call(call);
                own.update_head(|c| c.marks = c.marks.without_cdr().outside_cdr_of(marks))?;
                at.put(Place::HereOwn, &own);
            }
            Ok(())
        });
        full::say("values set before the dialog was matched are lost", joined);
        if at.get(Place::There).is_some_and(|c| c.same(&own)) {
            at.put(Place::There, call);
        }
    }
    at.put(Place::Here, call);
}

fn text(e: impl Display) -> String {
    e.to_string()
}

/// Why a change was refused, naming the request if its context does not have its Call-ID yet.
fn refused(at: impl AtHand, e: SharedError) -> String {
    match e {
        SharedError::Full(CallId(id)) if id.is_empty() => text(SharedError::Full(call_id(at))),
        e => text(e),
    }
}

fn call_id(at: impl AtHand) -> CallId {
    CallId(at.core().map(|c| c.callid).unwrap_or_default())
}

/// Backends of an argument, all of them with the parameter they need.
pub fn types_of(argument: &[u8]) -> Result<Types, String> {
    let types = Types::parse(argument).map_err(text)?;
    configured(types).map(|()| types)
}

/// Flags of an argument.
pub fn flags_of(argument: &[u8]) -> Result<Flags, String> {
    Flags::parse(argument).map_err(text)
}

/// Fails for a backend without its parameter: nothing can be accounted to it.
pub fn configured(types: Types) -> Result<(), String> {
    let config = &worker::instance().ok_or("the module is not initialised")?.config;
    if let Some(sink) = types.iter().filter_map(SinkId::of).find(|sink| !config.destinations.is_on(sink.backend())) {
        return Err(format!("accounting to {} needs the parameter {}: set it", sink.name(), sink.parameter()));
    }
    Ok(())
}

/// A manual function for a backend without its parameter returns false when it is called, as in the original. Message
/// flags are silent without that parameter, and so is this if there are any.
fn warn_of_manual(backend: Backend) {
    let has_flags = worker::instance().is_some_and(|m| !m.config.flags.shaped.is_empty());
    if !has_flags && let Err(e) = configured(Types::one(backend)) {
        log::warn!("{e}; without it, functions that write a record there at once do nothing and return false");
    }
}

/// Checks that a statement can contain this name of a table.
pub fn check_table(table: &[u8]) -> Result<(), String> {
    let name = String::from_utf8_lossy(table);
    if is_table_name(&name) {
        Ok(())
    } else {
        Err(format!("\"{}\" is not a valid table name: use letters, digits and '_', not beginning with a digit", name.escape_debug()))
    }
}

/// The table that a script names for rows; empty is the default one. It also stands in for a name that no statement could
/// contain: a row in another place is better than a request that is not accounted.
fn usable_table(at: impl AtHand, table: &[u8]) -> &[u8] {
    static UNUSABLE: Lines = Lines::none();
    if table.is_empty() {
        return table;
    }
    match check_table(table) {
        Ok(()) => table,
        Err(e) => {
            UNUSABLE.error(format_args!("do_accounting(), third argument: {e}; the rows go to the table of db_table_acc ({})", call_id(at)));
            b""
        }
    }
}

fn is_upstream(at: impl AtHand, instance: &Instance) -> bool {
    instance.config.detect_direction && at.is_upstream()
}

/// `do_accounting()`.
fn mark(at: impl AtHand, instance: &Instance, types: Types, flags: Flags, table: &[u8]) -> Result<(), String> {
    let core = at.core().ok_or("there is no SIP message here")?;
    let is_cancel = core.method == b"CANCEL";
    if is_cancel && !instance.config.report_cancels {
        log::warn!("do_accounting() on a CANCEL does nothing: set the parameter report_cancels to 1 to account them");
        return Ok(());
    }
    if core.method == b"ACK" {
        // An ACK has no reply, so it makes no record.
        return Ok(());
    }
    let table = if types.has(Backend::Db) { usable_table(at, table) } else { b"" };
    if flags.report() {
        may_report(instance, types, flags)?;
        stats::expect_reports();
    }
    let flags = if flags.has(Flag::Cdr) && !at.has_dialogs() {
        log::error!("do_accounting(): the flag cdr needs the dialog module: load dialog.so; this request is accounted without it");
        flags.without(Flag::Cdr)
    } else {
        flags
    };
    let flags = if flags.has(Flag::Cdr) && core.to_tag.is_empty() && at.is_of_server() {
        say_no_end();
        flags.without(Flag::Cdr)
    } else {
        flags
    };
    // A CANCEL is a transaction of its own: never the call's.
    let found = if is_cancel { at.get(Place::Here) } else { find(at) };
    // The script may have loaded the dialog of another call.
    let is_of_another = |c: &Head| c.marked && core.to_tag.is_empty() && c.core.callid != core.callid;
    let found = found.map(|ctx| ctx.read_head(is_of_another).map(|other| (!other).then_some(ctx))).transpose().map_err(text)?.flatten();
    worker::admit(instance, types, || Some(found.as_ref()?.facts().ok()?.marks))?;
    // The server is asked before the context is locked.
    let request = Request { core, arrived: at.arrival(), upstream: is_upstream(at, instance), types, flags, table };
    if request.is_in_dialog()
        && let Some(call) = &found
        && let Some(of_call) = call.facts().map(|c| (c.marked && !c.in_dialog).then_some(c.marks)).map_err(text)?
    {
        return mark_inside(at, &request, call, of_call);
    }
    mark_found(at, instance, &request, found)
}

/// Said once: such a call gets a record of its answer.
fn say_no_end() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        log::warn!(
            "do_accounting(): the flag cdr for a request that the server itself sends (b2b_init_request() and the like): its end is not known here, so such calls get a record of their answer instead of a CDR"
        );
    }
}

/// A request that is being marked.
struct Request<'a> {
    core: Core,
    arrived: Moment,
    upstream: bool,
    types: Types,
    flags: Flags,
    table: &'a [u8],
}

impl Request<'_> {
    fn is_in_dialog(&self) -> bool {
        !self.core.to_tag.is_empty()
    }

    fn snapshot(&self, c: &mut Head) {
        c.marked = true;
        c.in_dialog = self.is_in_dialog();
        c.core.copy(&self.core);
        c.arrived = self.arrived;
        c.upstream = self.upstream;
    }

    fn name_table(&self, c: &mut Head) {
        if self.types.has(Backend::Db) && !self.table.is_empty() {
            c.table = self.table.to_vec();
        }
    }
}

/// D13: a request inside a call that is already accounted gets a record of its own only for backends without a CDR of
/// this call; the marks of the call never change.
fn mark_inside(at: impl AtHand, request: &Request<'_>, call: &SharedContext, of_call: Marks) -> Result<(), String> {
    let marks = Marks::default().add(request.types, request.flags).outside_cdr_of(of_call);
    if request.flags.has(Flag::Cdr) || marks.is_empty() {
        return Ok(());
    }
    let add = |c: &mut Head| {
        c.marks = c.marks.union(marks);
        request.name_table(c);
    };
    if let Some(own) = own(at) {
        return own.update_head(add).map_err(text);
    }
    let mut ctx = Context::default();
    request.snapshot(&mut ctx);
    add(&mut ctx);
    let own = SharedContext::new(&ctx).map_err(|e| refused(at, e))?;
    own.set_call(call);
    at.put(Place::HereOwn, &own);
    at.put(Place::ThereOwn, &own);
    at.watch(own, false)
}

/// Marks the context that was found, or a new one, and follows its request.
fn mark_found(at: impl AtHand, instance: &Instance, request: &Request<'_>, found: Option<SharedContext>) -> Result<(), String> {
    let own_len = request.core.values().map(<[u8]>::len).iter().sum::<usize>();
    if own_len > instance.config.context_max {
        stats::add(Counter::Clipped, 1);
        return Err(format!("Call-ID and tags of this request are {own_len} bytes long: one context may not take that much (parameter context_max)"));
    }
    let mark = |c: &mut Head| {
        // A context that only flags marked has its values, but no callbacks yet.
        let is_new = std::mem::take(&mut c.by_flags) || !c.marked;
        if !c.marked {
            request.snapshot(c);
        }
        c.marks = c.marks.add(request.types, request.flags);
        request.name_table(c);
        (is_new, decide::is_cdr_call(c))
    };
    let (ctx, (is_new, is_cdr_call)) = change_by(at, found, has_leg_fields(instance), |c| mark(c), |ctx| ctx.update_head(mark))?;
    let followed = if is_cdr_call { at.follow(&ctx, !is_new) } else { Ok(false) };
    if followed.is_err() {
        // If the script ignores the error, there is at least a record of the answer.
        ctx.update_head(|c| c.marks = c.marks.without(Flag::Cdr)).map_err(text)?;
    }
    if is_new {
        at.watch(ctx, followed == Ok(true))?;
    }
    followed.map(drop).map_err(|e| format!("the flag cdr: {e}; this request is accounted without it"))
}

/// Start and interim records are for calls with a CDR, and not for log lines, which belong to no call.
fn may_report(instance: &Instance, types: Types, flags: Flags) -> Result<(), String> {
    if !flags.has(Flag::Cdr) {
        return Err("the flags start and interim need the flag cdr as well".into());
    }
    match types.iter().find(|b| b.by() == By::Worker && *b != Backend::Evi) {
        Some(b) => Err(format!("{} has no start and interim records: leave it out, and call do_accounting() for it without these flags", b.name())),
        None if types.has(Backend::Db) && instance.config.db().is_some_and(|db| is_foreign(&db.url)) => {
            Err("start and interim records of db need a db_url that this module serves itself (sqlite:, mysql:, postgres:): leave db out, and call do_accounting() for it without these flags".into())
        }
        None => Ok(()),
    }
}

fn own(at: impl AtHand) -> Option<SharedContext> {
    at.get(Place::HereOwn).or_else(|| at.get(Place::ThereOwn))
}

fn has_leg_fields(instance: &Instance) -> bool {
    !instance.config.rules.fields.leg.tags.is_empty()
}

/// `drop_accounting()`.
fn drop_marks(at: impl AtHand, instance: &Instance, types: Option<Types>, flags: Option<Flags>) -> Result<(), String> {
    let contexts: Vec<_> = find(at).into_iter().chain(own(at)).collect();
    if contexts.is_empty() {
        return Err("nothing to drop: do_accounting() was not called for this request".into());
    }
    for ctx in contexts {
        let now = Moment::now();
        let withdrawn = ctx.update(|c| {
            let before = c.marks;
            let drop = if c.answered.is_some() { Marks::remove_answered } else { Marks::remove };
            c.marks = drop(before, types, flags, instance.config.drop_mode);
            // The table is dropped with the marks that it was named with; only a call with a CDR keeps it, as in the original.
            if !c.marks.on(Backend::Db) && !before.any_cdr() {
                c.table.clear();
            }
            decide::withdraw(&instance.config.rules, c, before, now)
        });
        worker::emit(instance, &withdrawn.map_err(text)?);
    }
    Ok(())
}

/// Is the current request inside a dialog and accounted on its own? The original determines the direction of no other.
fn is_marked_inside(at: impl AtHand) -> bool {
    let found = own(at).or_else(|| find(at));
    found.is_some_and(|ctx| ctx.facts().is_ok_and(|c| c.marked && c.in_dialog))
}

/// The manual functions: make a record at once.
pub fn manual(at: impl AtHand, instance: &Instance, backend: Backend, comment: &[u8], table: &[u8]) -> Result<(), String> {
    may_record(instance, backend, table)?;
    let core = at.core().ok_or("there is no SIP message here")?;
    let upstream = is_marked_inside(at) && is_upstream(at, instance);
    let request = decide::Request { in_dialog: !core.to_tag.is_empty(), core, arrived: at.arrival(), upstream };
    let values = find(at).map(|c| c.copy()).transpose().map_err(text)?;
    let config = &instance.config;
    let mut record = decide::manual(&config.rules, backend, values.as_ref(), &request, comment, table, Moment::now());
    if config.flags.shaped.has(backend) {
        let taken = at.taken(config, backend);
        if by_script(at).has(backend) {
            taken.join(&config.rules.fields.flags, &mut record);
        } else {
            record = flags::shaped(&config.rules, record, &taken);
        }
    }
    worker::emit(instance, &[record]);
    Ok(())
}

/// Checks that this backend, and this table, can take a manual record.
pub fn may_record(instance: &Instance, backend: Backend, table: &[u8]) -> Result<(), String> {
    configured(Types::one(backend))?;
    worker::admit(instance, Types::one(backend), || None)?;
    if backend == Backend::Db {
        check_table(table)?;
        let name = String::from_utf8_lossy(table);
        if !tables::may_exist(&name) {
            return Err(format!("the database has no table \"{name}\": create it, or name another"));
        }
    }
    Ok(())
}

/// Backends for which the script has called `do_accounting()` for the current message.
fn by_script(at: impl AtHand) -> Types {
    let places = [Place::Here, Place::There, Place::HereOwn, Place::ThereOwn];
    let marks = places.into_iter().filter_map(|place| Some(at.get(place)?.facts().ok()?.marks));
    marks.fold(Types::default(), |types, marks| types.or(marks.types()))
}

/// `acc_new_leg()`.
fn new_leg(at: impl AtHand, instance: &Instance) -> Result<(), String> {
    let found = find(at);
    // An initial request has its first leg from the beginning. What a request sets before its call is
    // known goes into the call's legs, starting with the first (D22).
    let has_first = found.is_none() && has_leg_fields(instance) && at.core().is_some_and(|c| c.to_tag.is_empty());
    let most = instance.config.context_max;
    match change(at, found, has_first, |c| c.add_leg(most))? {
        (_, true) => Ok(()),
        (_, false) => {
            stats::add(Counter::Clipped, 1);
            Err(format!("no room for one more leg: one context may not take more (parameter context_max; {})", call_id(at)))
        }
    }
}

/// `do_accounting(types, flags, table)`.
fn do_accounting(at: impl AtHand, instance: &'static Instance, a: &Arguments<'_>) -> Result<(), String> {
    mark(at, instance, a.types(0).unwrap_or_default(), a.flags(1).unwrap_or_default(), a.text(2)).inspect(|()| at.changed())
}

/// `drop_accounting(types, flags)`.
fn drop_accounting(at: impl AtHand, instance: &'static Instance, a: &Arguments<'_>) -> Result<(), String> {
    drop_marks(at, instance, a.types(0), a.flags(1)).inspect(|()| at.changed())
}

fn acc_log_request(at: impl AtHand, instance: &'static Instance, a: &Arguments<'_>) -> Result<(), String> {
    manual(at, instance, Backend::Log, a.text(0), b"")
}

fn acc_db_request(at: impl AtHand, instance: &'static Instance, a: &Arguments<'_>) -> Result<(), String> {
    manual(at, instance, Backend::Db, a.text(0), a.text(1))
}

fn acc_aaa_request(at: impl AtHand, instance: &'static Instance, a: &Arguments<'_>) -> Result<(), String> {
    manual(at, instance, Backend::Aaa, a.text(0), b"")
}

fn acc_diam_request(at: impl AtHand, instance: &'static Instance, a: &Arguments<'_>) -> Result<(), String> {
    manual(at, instance, Backend::Diameter, a.text(0), b"")
}

fn acc_evi_request(at: impl AtHand, instance: &'static Instance, a: &Arguments<'_>) -> Result<(), String> {
    manual(at, instance, Backend::Evi, a.text(0), b"")
}

fn acc_stream_request(at: impl AtHand, instance: &'static Instance, a: &Arguments<'_>) -> Result<(), String> {
    manual(at, instance, Backend::Stream, a.text(0), b"")
}

fn acc_new_leg(at: impl AtHand, instance: &'static Instance, _: &Arguments<'_>) -> Result<(), String> {
    new_leg(at, instance).inspect(|()| at.changed())
}

fn acc_load_ctx_from_dlg(at: impl AtHand, _: &'static Instance, _: &Arguments<'_>) -> Result<(), String> {
    at.load()
}

fn acc_unload_ctx_from_dlg(at: impl AtHand, _: &'static Instance, _: &Arguments<'_>) -> Result<(), String> {
    at.unload()
}

/// Number of a tag in a variable's name.
pub fn number_of_tag(set: &FieldSet, tag: &[u8], parameter: &str) -> Result<usize, String> {
    let tag = String::from_utf8_lossy(tag);
    let tag = tag.trim();
    set.tag(tag).ok_or_else(|| format!("the tag \"{}\" is not declared: add it to the parameter {parameter}, above the routes", tag.escape_debug()))
}

/// The tag with that number; a variable without a name has none.
fn tag(set: &FieldSet, number: usize) -> Result<&[u8], String> {
    set.tags.get(number).map(|t| t.as_bytes()).ok_or_else(|| "no declared tag is named: write $acc_extra(tag) or $acc_leg(tag)".into())
}

/// The index of a leg, as written in the script.
pub enum Index<V> {
    /// A number.
    Number(i32),
    /// A variable.
    Variable(V),
}

/// Reads an index; `variable` looks a variable up.
pub fn parse_index<V>(index: &[u8], variable: impl FnOnce(&[u8]) -> Option<V>) -> Result<Index<V>, String> {
    let index = index.trim_ascii();
    let shown = || String::from_utf8_lossy(index).escape_debug().to_string();
    if index.first() == Some(&b'$') {
        return variable(index).map(Index::Variable).ok_or_else(|| format!("\"{}\" is not a variable that can be an index", shown()));
    }
    let number = std::str::from_utf8(index).ok().and_then(|t| t.parse().ok());
    number.map(Index::Number).ok_or_else(|| format!("\"{}\" is not an index: use a number (negative from the last leg) or a variable", shown()))
}

/// The index that a variable holds.
pub fn index_value(value: Option<Vec<u8>>) -> Result<i64, String> {
    let text = value.and_then(|v| String::from_utf8(v).ok());
    text.and_then(|t| t.trim().parse().ok()).ok_or_else(|| "the index variable does not contain a number".into())
}

/// `$acc_extra(tag)`, for the tag with this number: appended to `out`; false if it has no value.
pub fn extra(at: impl AtHand, number: usize, out: &mut Vec<u8>) -> Result<bool, String> {
    find(at).map_or(Ok(false), |ctx| get(&ctx, Named::Extra(number), out))
}

/// `$(acc_leg(tag)[index])`, like [`extra`]; without an index, of the current leg.
pub fn leg(at: impl AtHand, number: usize, index: Option<i64>, out: &mut Vec<u8>) -> Result<bool, String> {
    match find(at) {
        Some(ctx) => get(&ctx, Named::Leg(number, index), out),
        // A new context has its first leg.
        None => leg_index(1, index).map(|_| false).ok_or_else(|| no_leg(index, NoLeg { legs: 1 })),
    }
}

fn get(ctx: &SharedContext, named: Named, out: &mut Vec<u8>) -> Result<bool, String> {
    ctx.get(named, out).map_err(text)?.map_err(|e| no_leg(index_of(named), e))
}

fn index_of(named: Named) -> Option<i64> {
    match named {
        Named::Leg(_, index) => index,
        Named::Extra(_) => None,
    }
}

fn no_leg(index: Option<i64>, e: NoLeg) -> String {
    match index {
        Some(i) if e.legs == 1 => format!("there is no leg {i}: this request has one, number 0"),
        Some(i) => format!("there is no leg {i}: this request has {}, numbered from 0", e.legs),
        None => "this request has no leg: call acc_new_leg() first".into(),
    }
}

/// `$acc_current_leg`: counted from 0.
pub fn current_leg(at: impl AtHand, instance: &Instance) -> Result<i32, String> {
    let legs = match find(at) {
        Some(ctx) => ctx.legs().map_err(text)?,
        None => usize::from(has_leg_fields(instance)),
    };
    match legs {
        0 => Err("there is no leg: declare leg_fields, or call acc_new_leg()".into()),
        n => Ok(n as i32 - 1),
    }
}

/// Assigns `$acc_extra(tag)`, for the tag with this number; no value = `$null`.
pub fn set_extra(at: impl AtHand, instance: &Instance, number: usize, value: Option<&[u8]>) -> Result<(), String> {
    set(at, instance, Named::Extra(number), tag(&instance.config.rules.fields.extra, number)?, value)
}

/// Assigns `$(acc_leg(tag)[index])`.
pub fn set_leg(at: impl AtHand, instance: &Instance, number: usize, index: Option<i64>, value: Option<&[u8]>) -> Result<(), String> {
    set(at, instance, Named::Leg(number, index), tag(&instance.config.rules.fields.leg, number)?, value)
}

fn set(at: impl AtHand, instance: &Instance, named: Named, tag: &[u8], value: Option<&[u8]>) -> Result<(), String> {
    let most = instance.config.context_max;
    let set = |c: &mut Context| match named {
        Named::Extra(_) => Ok(c.set_extra(tag, value, most)),
        Named::Leg(_, index) => {
            let leg = c.leg_index(index).ok_or(NoLeg { legs: c.legs.len() })?;
            Ok(c.set_leg(leg, tag, value, most))
        }
    };
    let (_, done) = change_by(at, find(at), has_leg_fields(instance), set, |ctx| ctx.set(named, value, most))?;
    if !done.map_err(|e| no_leg(index_of(named), e))? {
        say_clipped(tag, &call_id(at));
    }
    at.changed();
    Ok(())
}

/// A value handed to the host stays valid until this many further ones have been read: a script line
/// compares or prints several at once.
const VALUES_KEPT: usize = 16;

/// Capacity of a place that is kept for the next value.
const CAPACITY_KEPT: usize = 4096;

struct Kept {
    last: usize,
    values: [Vec<u8>; VALUES_KEPT],
}

impl Kept {
    /// Takes the next place for what `read` appends.
    fn fill<E>(&mut self, read: impl FnOnce(&mut Vec<u8>) -> Result<bool, E>) -> Result<Option<&[u8]>, E> {
        let next = (self.last + 1) % VALUES_KEPT;
        let place = &mut self.values[next];
        place.clear();
        place.shrink_to(CAPACITY_KEPT);
        if !read(place)? {
            return Ok(None);
        }
        place.push(0);
        self.last = next;
        Ok(Some(&place[..place.len() - 1]))
    }
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { last: 0, values: [const { Vec::new() }; VALUES_KEPT] }) };
}

/// Keeps a value for the host; `string` makes the host's kind of string from the kept bytes. They are followed
/// by a zero byte, as Kamailio prefers.
pub fn keep<S>(value: &[u8], string: impl FnOnce(&[u8]) -> S) -> S {
    let whole = |out: &mut Vec<u8>| {
        out.extend_from_slice(value);
        Ok(true)
    };
    KEPT.with(|k| k.borrow_mut().fill(whole).map(|value| string(value.unwrap_or_default())).unwrap_or_else(|e: std::convert::Infallible| match e {}))
}

/// [`keep`] for what `read` appends; `None` if `read` says that there is no value. A value that fits in the place of an
/// earlier one needs no new memory.
pub fn keep_read<S, E>(read: impl FnOnce(&mut Vec<u8>) -> Result<bool, E>, string: impl FnOnce(&[u8]) -> S) -> Result<Option<S>, E> {
    KEPT.with(|k| Ok(k.borrow_mut().fill(read)?.map(string)))
}
