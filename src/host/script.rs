//! What scripts call and read, alike in every host family. The family takes its arguments and
//! values from the host, and says where it keeps contexts ([`AtHand`]).
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::ffi::c_int;
use std::fmt::Display;

use super::guard;
use super::shared::SharedContext;
use super::tables;
use crate::acc::clock::Moment;
use crate::acc::context::{Context, Values};
use crate::acc::decide;
use crate::acc::fields::FieldSet;
use crate::acc::marks::{Flag, Flags, Marks, Types};
use crate::acc::record::{Backend, Core};
use crate::backend::sql::schema::is_table_name;
use crate::module::VARIABLES;
use crate::worker::{self, Module};

/// What the script reads as true, and as false.
const TRUE: c_int = 1;
const FALSE: c_int = -1;
/// What a variable's entry points return.
const OK: c_int = 0;
const FAILED: c_int = -1;

/// Runs a script function; an error is one log line and "false".
pub fn function(name: &'static str, f: impl FnOnce() -> Result<(), String>) -> c_int {
    guard::entry(name, FALSE, || match f() {
        Ok(()) => TRUE,
        Err(e) => {
            log::error!("{name}(): {e}");
            FALSE
        }
    })
}

/// Runs an entry point of a variable; an error is one log line.
pub fn variable(entry: &'static str, name: &str, f: impl FnOnce() -> Result<(), String>) -> c_int {
    guard::entry(entry, FAILED, || match f() {
        Ok(()) => OK,
        Err(e) => {
            log::error!("${name}: {e}");
            FAILED
        }
    })
}

/// Where a context may be kept for the message at hand (docs/ARCHITECTURE.md, "Look-up order").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With the message: the context in force.
    Here,
    /// With the message: the marks of an in-dialog request of its own (D13).
    HereOwn,
    /// With its transaction.
    There,
    /// With its transaction, as `HereOwn`.
    ThereOwn,
}

/// The message at hand, as a host family sees it.
pub trait AtHand: Copy {
    /// The context that a place holds.
    fn get(self, place: Place) -> Option<SharedContext>;

    /// Replaces what a place holds. Without a transaction there is none to hold it.
    fn put(self, place: Place, ctx: &SharedContext);

    /// Gives the transaction `ctx` unless it has one, which is then the answer. A reply route of
    /// another branch may be doing the same at this moment.
    fn offer(self, ctx: &SharedContext) -> Option<SharedContext>;

    /// The context of the message's dialog.
    fn of_dialog(self) -> Option<SharedContext>;

    /// There is a message or a transaction, which a new context can belong to.
    fn is_there(self) -> bool;

    /// Core values of the request; `None` when there is no SIP message.
    fn core(self) -> Option<Core>;

    /// When the request came.
    fn arrival(self) -> Moment;

    /// The callee sent it; asked with `detect_direction` only.
    fn is_upstream(self) -> bool;

    /// Calls can be followed to their end.
    fn has_dialogs(self) -> bool;

    /// Ties a call to its dialog, made if need be.
    fn follow(self, ctx: &SharedContext) -> Result<(), String>;

    /// Has the events of the message's transaction come to `ctx`.
    fn watch(self, ctx: SharedContext) -> Result<(), String>;
}

/// The context in force.
pub fn find(at: impl AtHand) -> Option<SharedContext> {
    at.get(Place::Here).or_else(|| at.get(Place::There)).or_else(|| at.of_dialog())
}

/// Changes a context that was found, else a new one for the message and its transaction, which is
/// stored once, with the change in it.
fn change<R>(at: impl AtHand, found: Option<SharedContext>, has_leg_fields: bool, f: impl Fn(&mut Context) -> R) -> Result<(SharedContext, R), String> {
    let update = |ctx: SharedContext| ctx.update(&f).map(|r| (ctx, r)).map_err(text);
    if let Some(ctx) = found {
        return update(ctx);
    }
    if !at.is_there() {
        return Err("no message is being processed here, so there is nothing to account".into());
    }
    let mut ctx = Context::new(at.arrival(), has_leg_fields);
    let r = f(&mut ctx);
    let new = SharedContext::new(&ctx).map_err(text)?;
    let (ctx, r) = match at.offer(&new) {
        Some(other) => update(other)?,
        None => (new, r),
    };
    at.put(Place::Here, &ctx);
    Ok((ctx, r))
}

/// The call `call` is known now: what the script set on this message before goes into it (D22),
/// and marks made before stay with the request alone (D13).
pub fn join(at: impl AtHand, call: &SharedContext) {
    let before = at.get(Place::Here);
    if before.as_ref().is_some_and(|c| c.same(call)) {
        return;
    }
    if let Some(own) = before {
        let joined = own.copy().and_then(|values| {
            let marks = call.update(|c| {
                c.merge_values(&values);
                c.marks
            })?;
            if values.marked {
                own.set_call(call);
                own.update(|c| c.marks = c.marks.without_cdr().outside_cdr_of(marks))?;
                at.put(Place::HereOwn, &own);
            }
            Ok(())
        });
        if let Err(e) = joined {
            log::error!("values set before the dialog was matched are lost: {e}");
        }
        if at.get(Place::There).is_some_and(|c| c.same(&own)) {
            at.put(Place::There, call);
        }
    }
    at.put(Place::Here, call);
}

fn text(e: impl Display) -> String {
    e.to_string()
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

/// A backend without its parameter cannot be accounted to.
pub fn configured(types: Types) -> Result<(), String> {
    let config = &worker::module().ok_or("the module is not initialised")?.config;
    if types.has(Backend::Db) && config.db.is_none() {
        return Err("accounting to db needs a database: set the parameter db_url".into());
    }
    if types.has(Backend::Aaa) && config.aaa.is_none() {
        return Err("accounting to aaa needs a RADIUS configuration: set the parameter aaa_url".into());
    }
    Ok(())
}

/// A table that a statement can name.
pub fn check_table(table: &[u8]) -> Result<(), String> {
    let name = String::from_utf8_lossy(table);
    if is_table_name(&name) {
        Ok(())
    } else {
        Err(format!("\"{}\" is no table name: use letters, digits and '_', not beginning with a digit", name.escape_debug()))
    }
}

fn is_upstream(at: impl AtHand, module: &Module) -> bool {
    module.config.detect_direction && at.is_upstream()
}

/// `do_accounting()`.
pub fn mark(at: impl AtHand, module: &Module, types: Types, flags: Flags, table: &[u8]) -> Result<(), String> {
    let core = at.core().ok_or("there is no SIP message here")?;
    let is_cancel = core.method == b"CANCEL";
    if is_cancel && !module.config.report_cancels {
        log::warn!("do_accounting() on a CANCEL does nothing: set the parameter report_cancels to 1 to account them");
        return Ok(());
    }
    if core.method == b"ACK" {
        // An ACK has no reply, so no record can come of it.
        return Ok(());
    }
    if types.has(Backend::Db) && !table.is_empty() {
        check_table(table)?;
    }
    let flags = if flags.has(Flag::Cdr) && !at.has_dialogs() {
        log::error!("do_accounting(): the flag cdr needs the dialog module: load dialog.so; this request is accounted without it");
        flags.without(Flag::Cdr)
    } else {
        flags
    };
    let in_dialog = !core.to_tag.is_empty();
    // A CANCEL is a transaction of its own: never the call's.
    let found = if is_cancel { at.get(Place::Here) } else { find(at) };
    worker::admit(module, types, || found.as_ref()?.read(|c| c.marks).ok())?;
    // The server is asked before the context is locked.
    let (arrived, upstream) = (at.arrival(), is_upstream(at, module));
    let snapshot = |c: &mut Context| {
        c.marked = true;
        c.in_dialog = in_dialog;
        c.core = core.clone();
        c.arrived = arrived;
        c.upstream = upstream;
    };
    let name_table = |c: &mut Context| {
        if types.has(Backend::Db) && !table.is_empty() {
            c.table = table.to_vec();
        }
    };

    if in_dialog
        && let Some(call) = &found
        && let Some(of_call) = call.read(|c| (c.marked && !c.in_dialog).then_some(c.marks)).map_err(text)?
    {
        // D13: a request inside a call that is accounted already gets a record of its own only for
        // backends without CDR on this call; the call's marks never change by it.
        let marks = Marks::default().add(types, flags).outside_cdr_of(of_call);
        if flags.has(Flag::Cdr) || marks.is_empty() {
            return Ok(());
        }
        let add = |c: &mut Context| {
            c.marks = c.marks.union(marks);
            name_table(c);
        };
        if let Some(own) = own(at) {
            return own.update(add).map_err(text);
        }
        let mut ctx = Context::default();
        snapshot(&mut ctx);
        add(&mut ctx);
        let own = SharedContext::new(&ctx).map_err(text)?;
        own.set_call(call);
        at.put(Place::HereOwn, &own);
        at.put(Place::ThereOwn, &own);
        return at.watch(own);
    }

    // A repeated INVITE may overtake the first copy, which has made the dialog, but no transaction yet:
    // whichever comes first to its transaction, it must be watched.
    let is_repeated = !in_dialog && found.is_some() && at.get(Place::Here).or_else(|| at.get(Place::There)).is_none();
    let (ctx, (is_new, is_cdr_call)) = change(at, found, has_leg_fields(module), |c| {
        let is_new = !c.marked;
        if is_new {
            snapshot(c);
        }
        c.marks = c.marks.add(types, flags);
        name_table(c);
        (is_new, decide::is_cdr_call(c))
    })?;
    if is_cdr_call && let Err(e) = at.follow(&ctx) {
        log::error!("do_accounting(): the flag cdr: {e}; this request is accounted without it");
        ctx.update(|c| c.marks = c.marks.without(Flag::Cdr)).map_err(text)?;
    }
    if is_repeated {
        at.put(Place::Here, &ctx);
    }
    if is_new || is_repeated { at.watch(ctx) } else { Ok(()) }
}

fn own(at: impl AtHand) -> Option<SharedContext> {
    at.get(Place::HereOwn).or_else(|| at.get(Place::ThereOwn))
}

fn has_leg_fields(module: &Module) -> bool {
    !module.config.fields.leg.tags.is_empty()
}

/// `drop_accounting()`.
pub fn drop_marks(at: impl AtHand, module: &Module, types: Option<Types>, flags: Option<Flags>) -> Result<(), String> {
    let contexts: Vec<_> = find(at).into_iter().chain(own(at)).collect();
    if contexts.is_empty() {
        return Err("nothing to drop: do_accounting() was not called for this request".into());
    }
    for ctx in contexts {
        ctx.update(|c| c.marks = c.marks.remove(types, flags, module.config.drop_mode)).map_err(text)?;
    }
    Ok(())
}

/// The four manual functions: a record at once.
pub fn manual(at: impl AtHand, module: &Module, backend: Backend, comment: &[u8], table: &[u8]) -> Result<(), String> {
    configured(Types(1 << backend as u8))?;
    worker::admit(module, Types(1 << backend as u8), || None)?;
    if backend == Backend::Db {
        check_table(table)?;
        let name = String::from_utf8_lossy(table);
        if !tables::may_exist(&name) {
            return Err(format!("the database has no table \"{name}\": create it, or name another"));
        }
    }
    let core = at.core().ok_or("there is no SIP message here")?;
    let request = decide::Request { in_dialog: !core.to_tag.is_empty(), core, arrived: at.arrival(), upstream: is_upstream(at, module) };
    let values = find(at).map(|c| c.copy()).transpose().map_err(text)?;
    let record = decide::manual(&module.config, backend, values.as_ref(), &request, comment, table, Moment::now());
    worker::emit(module, &[record]);
    Ok(())
}

/// `acc_new_leg()`.
pub fn new_leg(at: impl AtHand, module: &Module) -> Result<(), String> {
    let found = find(at);
    // An initial request has its first leg from the beginning. What a request sets before its call is
    // known goes to the call's legs, from the first on (D22).
    let has_first = found.is_none() && has_leg_fields(module) && at.core().is_some_and(|c| c.to_tag.is_empty());
    change(at, found, has_first, |c| c.legs.push(Values::default())).map(drop)
}

/// Number of a tag in a variable's name.
pub fn number_of_tag(set: Option<&FieldSet>, tag: &[u8], parameter: &str) -> Result<usize, String> {
    let tag = String::from_utf8_lossy(tag);
    let tag = tag.trim();
    set.and_then(|s| s.tag(tag))
        .ok_or_else(|| format!("the tag \"{}\" is not declared: add it to the parameter {parameter}, above the routes", tag.escape_debug()))
}

/// The tag with that number.
pub fn tag(set: &FieldSet, number: usize) -> Result<&[u8], String> {
    set.tags.get(number).map(|t| t.as_bytes()).ok_or_else(|| "the module is not initialised".into())
}

/// The index of a leg, as the script gives it.
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
        return variable(index).map(Index::Variable).ok_or_else(|| format!("\"{}\" is no variable that could be an index", shown()));
    }
    let number = std::str::from_utf8(index).ok().and_then(|t| t.parse().ok());
    number.map(Index::Number).ok_or_else(|| format!("\"{}\" is no index: use a number (negative from the last leg) or a variable", shown()))
}

/// The index that a variable holds.
pub fn index_value(value: Option<Vec<u8>>) -> Result<i64, String> {
    let text = value.and_then(|v| String::from_utf8(v).ok());
    text.and_then(|t| t.trim().parse().ok()).ok_or_else(|| "the index variable holds no number".into())
}

/// `$acc_extra(tag)`.
pub fn extra(at: impl AtHand, tag: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let value = find(at).map(|c| c.read(|c| c.extra.get(tag).map(<[u8]>::to_vec))).transpose();
    value.map(Option::flatten).map_err(text)
}

/// `$(acc_leg(tag)[index])`; without index of the current leg.
pub fn leg(at: impl AtHand, tag: &[u8], index: Option<i64>) -> Result<Option<Vec<u8>>, String> {
    let look = |c: &Context| Ok(c.legs[position(c, index)?].get(tag).map(<[u8]>::to_vec));
    match find(at) {
        Some(ctx) => ctx.read(look).map_err(text)?,
        None => look(&Context::new(Moment::default(), true)),
    }
}

fn position(c: &Context, index: Option<i64>) -> Result<usize, String> {
    c.leg_index(index).ok_or_else(|| match index {
        Some(i) => format!("there is no leg {i}: this request has {}", c.legs.len()),
        None => "this request has no leg: call acc_new_leg() first".into(),
    })
}

/// `$acc_current_leg`: from 0 on.
pub fn current_leg(at: impl AtHand, module: &Module) -> Result<i32, String> {
    let legs = match find(at) {
        Some(ctx) => ctx.read(|c| c.legs.len()).map_err(text)?,
        None => usize::from(has_leg_fields(module)),
    };
    match legs {
        0 => Err("there is no leg: declare leg_fields, or call acc_new_leg()".into()),
        n => Ok(n as i32 - 1),
    }
}

/// Assigns `$acc_extra(tag)`; no value = `$null`.
pub fn set_extra(at: impl AtHand, module: &Module, tag: &[u8], value: Option<&[u8]>) -> Result<(), String> {
    change(at, find(at), has_leg_fields(module), |c| c.extra.set(tag, value)).map(drop)
}

/// Assigns `$(acc_leg(tag)[index])`.
pub fn set_leg(at: impl AtHand, module: &Module, tag: &[u8], index: Option<i64>, value: Option<&[u8]>) -> Result<(), String> {
    let set = |c: &mut Context| {
        let i = position(c, index)?;
        c.legs[i].set(tag, value);
        Ok(())
    };
    change(at, find(at), has_leg_fields(module), set)?.1
}

/// Names of the variables, for their error lines.
pub const EXTRA: &str = VARIABLES[0];
/// As above.
pub const LEG: &str = VARIABLES[1];
/// As above.
pub const CURRENT_LEG: &str = VARIABLES[2];

/// Values handed to the host stay valid while this many further ones are read: a script line
/// compares and prints a few at once.
const VALUES_KEPT: usize = 16;

thread_local! {
    static KEPT: RefCell<(usize, [Vec<u8>; VALUES_KEPT])> = const { RefCell::new((0, [const { Vec::new() }; VALUES_KEPT])) };
}

/// Keeps a value for the host, and has its place and length made into the host's own kind of string. A
/// zero follows it, as Kamailio likes its strings.
pub fn keep<S>(mut value: Vec<u8>, string: impl FnOnce(&[u8]) -> S) -> S {
    let len = value.len();
    value.push(0);
    KEPT.with(|k| {
        let (next, kept) = &mut *k.borrow_mut();
        *next = (*next + 1) % VALUES_KEPT;
        kept[*next] = value;
        string(&kept[*next][..len])
    })
}
