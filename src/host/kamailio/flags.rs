//! Accounting by message flags (`setflag()`), as Kamailio's own acc module has it: which transactions are
//! watched, what their events make due, and where the values of the records come from.
//!
//! The request of a transaction is shared by all processes, so callbacks read only its flags, which are one word.
//! What records show of it is read when the transaction is made; [`crate::accounting::extras`] says where other
//! values come from.

use std::cell::Cell;
use std::ffi::{CString, c_int};
use std::sync::Arc;

use super::abi::*;
use super::contexts::{self, Current};
use super::events::{self, leaving, local_reply};
use super::message::{Message, Spec, bytes_of};
use super::prepared::{ByFlags, is_of_dialog};
use super::present;
use super::state::{Api, DIALOGS, message, ready};
use super::symbols::Symbols;
use crate::accounting::clock::{Moment, Wall};
use crate::accounting::context::{Context, Reply};
use crate::accounting::extras::{Class, Extras, Variable};
use crate::accounting::flags::{self, Bit, Event, Source, Taken, Watched};
use crate::accounting::marks::Types;
use crate::accounting::record::{Backend, Core, Field, Kind, Record, Shape, Signalling};
use crate::accounting::{decide, reason};
use crate::config::Config;
use crate::config::stock::{Part, TimeText};
use crate::host::full::{say, say_clipped};
use crate::host::shared::{SharedContext, SharedError};
use crate::host::tally::{self, Once};
use crate::host::{guard, outcome, script};
use crate::worker::{self, Instance};

/// A key that is not a variable: backends that get a record of the ACK, and the code of the answer.
const ACKED: &[u8] = b"#acked";

/// Events of a watched transaction.
const EVENTS: u32 = KM_TMCB_RESPONSE_OUT | KM_TMCB_RESPONSE_IN;

thread_local! {
    /// Transaction and branch of the last reply that came. Its record is made in this process, before the next
    /// reply.
    static CAME: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    /// The failure route that is running, if there is one: its transaction, and the copy of the request that it works on.
    static FAILED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// A new transaction, whose request is still private.
pub fn on_request_in(api: &'static Api, instance: &'static Instance, t: *mut km_cell, request: &Message<'_>) {
    let Some(by_flags) = &api.flags else { return };
    let symbols = request.symbols;
    let is_set = |bit| symbols.has_flag(request.raw, bit);
    let Some(raised) = by_flags.rules.raised(is_set) else { return };
    let core = request.core();
    let Some(watched) = by_flags.rules.watch(&core, raised, false, is_set) else { return };
    let mut ctx = Context::new(present::arrived(request.raw).unwrap_or_else(Moment::now), false);
    ctx.marked = true;
    ctx.in_dialog = !core.to_tag.is_empty();
    ctx.upstream = instance.config.detect_direction && api.rr.as_ref().is_some_and(|rr| rr.is_upstream(request.raw));
    let most = instance.config.context_max;
    let mut clipped = None;
    for (variable, spec) in instance.config.rules.fields.flags.variables.iter().zip(&by_flags.specs) {
        if variable.of_reply || !matches!(variable.class, Class::Message | Class::Branch) {
            continue;
        }
        let value = bytes_of(spec.value(symbols, request.raw));
        if !ctx.put_extra(variable.key.as_bytes(), value.as_deref(), most) {
            clipped = Some(variable.key.clone());
        }
    }
    if let Some(key) = clipped {
        say_clipped(key.as_bytes(), &crate::host::shared::CallId(core.callid.clone()));
    }
    let is_invite = core.method == b"INVITE";
    watched.keep(&mut ctx);
    ctx.core = core;
    let mut types = EVENTS;
    if is_invite {
        types |= KM_TMCB_ON_FAILURE;
    }
    if is_invite && by_flags.rules.report_ack && !raised.accounted.is_empty() {
        types |= KM_TMCB_E2EACK_IN | KM_TMCB_RESPONSE_READY;
    }
    if is_invite || by_flags.has_branches {
        types |= KM_TMCB_REQUEST_FWDED;
    }
    match SharedContext::new(&ctx) {
        Ok(ctx) => {
            if let Err(e) = api.tm.register_on(t, types, on_event, ctx) {
                log::error!("a request cannot be accounted by its flags: {e}");
            }
        }
        Err(e) => say("a request cannot be accounted by its flags", Err(e)),
    }
}

/// What a callback of tm is about; see [`events::Event`].
struct At<'a> {
    symbols: &'static Symbols,
    api: &'static Api,
    by_flags: &'static ByFlags,
    instance: &'static Instance,
    t: *mut km_cell,
    event: &'a events::Event,
}

/// Events of a watched transaction.
unsafe extern "C" fn on_event(t: *mut km_cell, kind: c_int, params: *mut km_tmcb_params) {
    guard::entry("flags callback", (), || {
        // SAFETY: the host's parameters.
        let Some(event) = (unsafe { events::Event::of(params) }) else { return };
        let (Some((server, api, instance)), Some(ctx)) = (ready(), event.context()) else { return };
        let Some(by_flags) = &api.flags else { return };
        let at = At { symbols: &server.symbols, api, by_flags, instance, t, event: &event };
        let result = match kind as u32 {
            KM_TMCB_REQUEST_FWDED => at.forwarded(&ctx),
            KM_TMCB_RESPONSE_IN => at.reply_came(&ctx),
            KM_TMCB_ON_FAILURE => at.failed(&ctx),
            KM_TMCB_RESPONSE_READY => at.reply_leaves(&ctx),
            KM_TMCB_E2EACK_IN => at.acked(&ctx),
            _ => at.reply_went(&ctx),
        };
        say("a transaction could not be accounted by its flags", result);
    });
}

impl At<'_> {
    fn config(&self) -> &'static Config {
        &self.instance.config
    }

    fn extras(&self) -> &'static Extras {
        &self.config().rules.fields.flags
    }

    /// The request goes to one more target, and is private: its URI is that of the branch.
    fn forwarded(&self, ctx: &SharedContext) -> Result<(), SharedError> {
        ctx.count_attempt();
        if !self.by_flags.has_branches {
            return Ok(());
        }
        let named = self.by_flags.branch.filter(|_| self.symbols.runs(KM_BRANCH_ROUTE)).and_then(|spec| number(self.symbols, spec, self.event.req));
        let read = |variable: &Variable, spec: &Spec| match (variable.class, variable.of_reply) {
            (Class::Branch, false) => Some((variable.key.clone(), bytes_of(spec.value(self.symbols, self.event.req)))),
            _ => None,
        };
        let values: Vec<_> = self.extras().variables.iter().zip(&self.by_flags.specs).filter_map(|(v, s)| read(v, s)).collect();
        let most = self.config().context_max;
        ctx.update(|c| {
            let index = named.unwrap_or(c.legs.len());
            for (key, value) in &values {
                put(c, index, key, value.as_deref(), most);
            }
        })
    }

    /// A reply came, and is private: what the records of its branch show of it is taken.
    fn reply_came(&self, ctx: &SharedContext) -> Result<(), SharedError> {
        let (by_flags, reply) = (self.by_flags, self.event.rpl);
        if message(reply).is_none() {
            return Ok(());
        }
        // Processes that go on with a copy of it read what is parsed now.
        if let Some(spec) = by_flags.reason {
            spec.value(self.symbols, reply);
        }
        if by_flags.has_dialogs && (200..300).contains(&self.event.code) {
            self.keep_dialog(ctx)?;
        }
        if !by_flags.has_branches && !by_flags.has_replies {
            return Ok(());
        }
        let Some(branch) = by_flags.branch_of(self.symbols, reply) else { return Ok(()) };
        CAME.set((self.t as usize, branch));
        if !by_flags.has_replies {
            return Ok(());
        }
        let read = |(v, spec): (&Variable, &Spec)| v.of_reply.then(|| (v.key.clone(), bytes_of(spec.value(self.symbols, reply))));
        let values: Vec<_> = self.extras().variables.iter().zip(&by_flags.specs).filter_map(read).collect();
        let most = self.config().context_max;
        ctx.update(|c| {
            for (key, value) in &values {
                put(c, branch, key, value.as_deref(), most);
            }
        })
    }

    /// An answer came. Its call, and with it the dialog, may be over before the record is made: so the present values of the
    /// dialog are kept.
    fn keep_dialog(&self, ctx: &SharedContext) -> Result<(), SharedError> {
        let Some(invite) = ctx.read_head(|head| (head.core.method == b"INVITE").then(|| head.core.clone()))? else { return Ok(()) };
        let variables = self.extras().variables.iter().zip(&self.by_flags.specs).filter(|(v, _)| is_of_dialog(v));
        let values: Vec<_> = variables.filter_map(|(v, spec)| Some((&v.key, in_dialog(self.symbols, *spec, &invite)?))).collect();
        if values.is_empty() {
            return Ok(());
        }
        let most = self.config().context_max;
        ctx.update(|c| {
            for (key, value) in &values {
                c.put_extra(key.as_bytes(), value.as_deref(), most);
            }
        })
    }

    /// All branches of an attempt failed; the failure route runs next, on the private copy that is the current message.
    fn failed(&self, ctx: &SharedContext) -> Result<(), SharedError> {
        let request = self.event.req;
        FAILED.set((self.t as usize, request as usize));
        let rules = &self.by_flags.rules;
        // This event is of INVITEs alone.
        let missed = rules.missed(b"INVITE", |bit| self.symbols.has_flag(request, bit));
        if missed.is_empty() {
            return Ok(());
        }
        let of = ctx.copy()?;
        if !Watched::kept(&of).on_failure {
            return Ok(());
        }
        let mut reply = self.reply(false, self.event.code);
        // A request inside a dialog has it from the other side already.
        if reply.to_tag.is_empty() && of.core.to_tag.is_empty() && message(self.event.rpl).is_none() {
            reply.to_tag = self.api.tm.reply_tag(request).unwrap_or_default();
        }
        let past = Past::new(self, &of, &reply);
        let taken = Taken::read(self.extras(), missed, &past);
        self.emit(&past, Kind::Missed, missed, &reply, &taken, Moment::now());
        for bit in rules.used_up(missed) {
            self.symbols.reset_flag(request, bit);
        }
        Ok(())
    }

    /// The copy of the request that its failure route works on, while that is running.
    fn in_failure_route(&self) -> Option<*mut km_sip_msg> {
        let (t, copy) = FAILED.get();
        (t == self.t as usize && self.symbols.runs(KM_FAILURE_ROUTE)).then_some(copy as *mut km_sip_msg)
    }

    /// Is a flag of the request set? As with Kamailio's own module, what a failure route does to flags counts only after it, not
    /// for a reply that it sends itself: the flags of the transaction count. But a missed flag that has made its record is
    /// cleared only in the copy of the route, so it must also be set there.
    fn is_set(&self, bit: Bit) -> bool {
        let copy = if self.by_flags.rules.is_missed_flag(bit) { self.in_failure_route() } else { None };
        self.symbols.has_flag(self.event.req, bit) && copy.is_none_or(|copy| self.symbols.has_flag(copy, bit))
    }

    /// An answer is about to be sent: its ACK may come before [`At::reply_went`] is called.
    fn reply_leaves(&self, ctx: &SharedContext) -> Result<(), SharedError> {
        let code = leaving(self.event.rpl, self.event.code);
        if !(200..300).contains(&code) {
            return Ok(());
        }
        let acked = self.by_flags.rules.accounted(|bit| self.is_set(bit));
        let kept = [acked.0.to_le_bytes(), code.to_le_bytes()].concat();
        ctx.update(|c| c.put_extra(ACKED, Some(&kept), usize::MAX)).map(drop)
    }

    /// A reply went upstream.
    fn reply_went(&self, ctx: &SharedContext) -> Result<(), SharedError> {
        let code = self.event.code;
        outcome::note_ringing(ctx, code)?;
        if code < 200 && !self.config().rules.early_media {
            return Ok(());
        }
        let rules = &self.by_flags.rules;
        let is_set = |bit: Bit| self.is_set(bit);
        let (is_call, reply, due) = ctx.read_head(|head| {
            let reply = self.reply(head.core.method == b"CANCEL", code);
            let due = rules.on_reply(&head.core, false, &reply, is_set);
            (decide::is_initial_invite(head), reply, due)
        })?;
        if is_call {
            let was_missed = || contexts::was_counted(self.t, Once::Missed);
            tally::flagged(rules, !rules.accounted(is_set).is_empty(), code, was_missed, |what| contexts::is_first(self.t, what));
        }
        if due.is_empty() {
            return Ok(());
        }
        let of = ctx.copy()?;
        let both = Types(due.missed.0 | due.transaction.0);
        let past = Past::new(self, &of, &reply);
        let taken = Taken::read(self.extras(), both, &past);
        let now = Moment::now();
        self.emit(&past, Kind::Missed, due.missed, &reply, &taken, now);
        self.emit(&past, Kind::Transaction, due.transaction, &reply, &taken, now);
        if let Some(request) = self.in_failure_route() {
            for bit in rules.used_up(due.missed) {
                self.symbols.reset_flag(request, bit);
            }
        }
        Ok(())
    }

    /// The answer was acknowledged, by an ACK that is private.
    fn acked(&self, ctx: &SharedContext) -> Result<(), SharedError> {
        let Some(ack) = message(self.event.req) else { return Ok(()) };
        let of = ctx.copy()?;
        let Some(&[a, b, c, d]) = of.extra.get(ACKED) else { return Ok(()) };
        let (types, code) = (Types(u16::from_le_bytes([a, b])), u16::from_le_bytes([c, d]));
        if types.0 == 0 {
            return Ok(());
        }
        let mut core = ack.core();
        core.code = format!("{code:03}").into_bytes();
        core.reason = self.symbols.phrase(code).into();
        let present = Present { request: Some(&of), code: Some(code), ..Present::new(&ack, self.by_flags) };
        let taken = Taken::read(self.extras(), types, &present);
        let table = table(self.config(), Kind::Ack, types, &present);
        let types = nameable(Kind::Ack, &table, types);
        let event = Event {
            kind: Kind::Ack,
            core: &core,
            upstream: false,
            in_dialog: !core.to_tag.is_empty(),
            created: Moment::now(),
            time: Moment::now(),
            timed: false,
            duration_ms: None,
            end: None,
            signalling: Signalling::default(),
            table: &table,
        };
        send_to(self.instance, flags::records(&self.config().rules, types, &event, &taken), &table);
        Ok(())
    }

    /// The reply of the event. It may be a copy that all processes share: only what was parsed when it came is
    /// read from it.
    fn reply(&self, is_cancel: bool, code: u16) -> Reply {
        let Some(rpl) = message(self.event.rpl) else {
            let mut reply = local_reply(code);
            // A CANCEL is part of its INVITE's dialog: the tag of its reply says nothing.
            reply.to_tag = self.event.sent().filter(|_| !is_cancel).and_then(to_tag_of).unwrap_or_default().to_vec();
            return reply;
        };
        let mut reply = rpl.reply(code);
        if let Some(reason) = self.by_flags.reason.and_then(|spec| bytes_of(spec.value(self.symbols, rpl.raw))) {
            reply.reason = reason;
        }
        reply
    }

    /// The branch that the reply with this code belongs to (D26); the last one for the server's own reply.
    fn branch(&self, of: &Context, code: u16) -> Option<usize> {
        let last = of.legs.len().checked_sub(1)?;
        let (t, branch) = CAME.get();
        let found = match code {
            300.. => self.api.tm.picked_branch(),
            _ => (t == self.t as usize && message(self.event.rpl).is_some()).then_some(branch),
        };
        Some(found.filter(|n| *n <= last).unwrap_or(last))
    }

    fn emit(&self, past: &Past<'_>, kind: Kind, due: Types, reply: &Reply, taken: &Taken, now: Moment) {
        if due.0 == 0 {
            return;
        }
        let of = past.of;
        let table = table(self.config(), kind, due, past);
        let due = nameable(kind, &table, due);
        let core = decide::core_with(of, reply);
        let event = Event {
            kind,
            core: &core,
            upstream: of.upstream,
            in_dialog: of.in_dialog,
            created: of.arrived,
            time: now,
            timed: false,
            duration_ms: None,
            end: None,
            signalling: decide::signalling(of, reply),
            table: &table,
        };
        let records = flags::records(&self.config().rules, due, &event, taken);
        tally::records(&records, |what| contexts::is_first(self.t, what));
        send_to(self.instance, records, &table);
    }
}

/// As [`send`]; records for SQL go to this table, unless its name is empty.
fn send_to(instance: &Instance, mut records: Vec<Record>, table: &[u8]) {
    if !table.is_empty() {
        let table = Arc::from(String::from_utf8_lossy(table));
        records.iter_mut().filter(|r| r.backend == Backend::Db).for_each(|r| r.table = Arc::clone(&table));
    }
    send(instance, records);
}

/// Sets a value of a branch, which need not exist yet.
pub fn put(c: &mut Context, branch: usize, key: &str, value: Option<&[u8]>, most: usize) {
    // The server never makes more branches than this.
    while c.legs.len() <= branch && branch < MOST_BRANCHES {
        if !c.add_leg(most) {
            return;
        }
    }
    if branch < c.legs.len() {
        c.set_leg(branch, key.as_bytes(), value, most);
    }
}

/// More than the server's own limit (31 at most).
const MOST_BRANCHES: usize = 64;

/// The value of a variable as a number from 0 on.
fn number(symbols: &Symbols, spec: Spec, msg: *mut km_sip_msg) -> Option<usize> {
    std::str::from_utf8(&bytes_of(spec.value(symbols, msg))?).ok()?.parse().ok()
}

/// The To tag in a reply as it was sent.
fn to_tag_of(reply: &[u8]) -> Option<&[u8]> {
    let head = reply.windows(4).position(|w| w == b"\r\n\r\n").map_or(reply, |n| &reply[..n]);
    let to = head.split(|b| *b == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|b| *b == b':')?)?;
        let name = name.trim_ascii_end();
        (name.eq_ignore_ascii_case(b"To") || name.eq_ignore_ascii_case(b"t")).then_some(value)
    })?;
    // Parameters of the header follow the brackets around the URI, if there are any.
    let params = to.iter().rposition(|b| *b == b'>').map_or(to, |n| &to[n..]);
    let at = params.windows(TAG.len()).position(|w| w.eq_ignore_ascii_case(TAG))? + TAG.len();
    params[at..].split(|b| *b == b';' || b.is_ascii_whitespace()).next()
}

const TAG: &[u8] = b";tag=";

/// Hands records to their backends, in the form that this server's parameters ask for.
fn send(instance: &Instance, mut records: Vec<Record>) {
    let stock = &instance.config.stock;
    for record in &mut records {
        if record.backend == Backend::Db && !stock.nullable {
            let fields = record.extras.iter_mut().chain(record.legs.iter_mut().flatten());
            fields.for_each(|f| _ = f.value.get_or_insert_default());
        }
        if let Some(field) = &stock.time
            && matches!(record.backend, Backend::Log | Backend::Db)
        {
            // In SQL, the whole second has a column next to the microseconds.
            if record.backend == Backend::Db
                && let Some(seconds) = &stock.time_seconds
            {
                record.extras.insert(0, Field { name: Arc::clone(seconds), value: Some(record.time.seconds().to_string().into_bytes()) });
            }
            record.shape = Shape::Stamped;
            record.extras.insert(0, Field { name: Arc::clone(&field.name), value: Some(time_text(&field.what, record.time)) });
        }
        if let Some(what) = stock.json_time.as_ref().filter(|_| record.backend == Backend::Json) {
            record.shape = Shape::Stamped;
            record.extras.insert(0, Field { name: "time".into(), value: Some(time_text(what, record.time)) });
        }
        if matches!(record.backend, Backend::Aaa | Backend::Diameter) {
            record.shape = Shape::Kamailio;
        }
    }
    worker::emit(instance, &records);
}

/// A moment, in the form of a time field.
fn time_text(what: &TimeText, time: Wall) -> Vec<u8> {
    let (seconds, micros) = (time.seconds(), time.0.rem_euclid(1_000_000));
    match what {
        TimeText::Micros => micros.to_string().into_bytes(),
        TimeText::Seconds => format!("{seconds}.{:03}", micros / 1000).into_bytes(),
        TimeText::Format { utc, format } => strftime(format, seconds, *utc),
    }
}

/// Longest text of a time, as in the original; a longer one becomes empty.
const LONGEST_TIME: usize = 128;

fn strftime(format: &str, seconds: i64, utc: bool) -> Vec<u8> {
    let Ok(format) = CString::new(format) else { return Vec::new() };
    let mut room = [0u8; LONGEST_TIME];
    // SAFETY: all three write into what they are given; the format is terminated.
    let len = unsafe {
        let mut tm = std::mem::zeroed::<libc::tm>();
        let done = if utc { libc::gmtime_r(&raw const seconds, &raw mut tm) } else { libc::localtime_r(&raw const seconds, &raw mut tm) };
        if done.is_null() { 0 } else { libc::strftime(room.as_mut_ptr().cast(), room.len(), format.as_ptr(), &raw const tm) }
    };
    room[..len].to_vec()
}

/// The table of a record, if the parameter that names it contains variables.
fn table(config: &Config, kind: Kind, due: Types, source: &impl Source) -> Vec<u8> {
    let parts = config.stock.tables[usize::from(kind == Kind::Missed)].as_deref().filter(|_| due.has(Backend::Db));
    let variables = &config.rules.fields.flags.variables;
    let text = |part: &Part| match part {
        Part::Text(text) => text.as_bytes().to_vec(),
        Part::Variable(i) => source.value(*i, &variables[*i]).unwrap_or_default(),
    };
    parts.unwrap_or_default().iter().flat_map(text).collect()
}

/// If no statement can contain the name of the table, it gets no rows: logged, and the other backends go on.
fn nameable(kind: Kind, table: &[u8], due: Types) -> Types {
    match script::check_table(table) {
        Err(e) if !table.is_empty() => {
            let parameter = if kind == Kind::Missed { "db_table_missed_calls" } else { "db_table_acc" };
            log::error!("parameter {parameter}: {e}; the record for db is not written");
            Types(due.0 & !(Types::one(Backend::Db).0))
        }
        _ => due,
    }
}

/// Values of a watched transaction; those of the request are as they were when it came.
struct Past<'a> {
    at: &'a At<'a>,
    of: &'a Context,
    branch: Option<usize>,
    /// Values by which its dialog is found.
    dialog: Core,
}

impl<'a> Past<'a> {
    fn new(at: &'a At<'a>, of: &'a Context, reply: &Reply) -> Past<'a> {
        let mut dialog = of.core.clone();
        // The answer has given its dialog a To tag. Without that, the dialog of an earlier refused INVITE might be found, which has
        // the same Call-ID and From tag and stays for a while.
        if dialog.to_tag.is_empty() && (200..300).contains(&reply.code) {
            dialog.to_tag.clone_from(&reply.to_tag);
        }
        Past { at, of, branch: at.branch(of, reply.code), dialog }
    }

    fn of_branch(&self, key: &str) -> Option<Vec<u8>> {
        self.of.legs.get(self.branch?)?.get(key.as_bytes()).map(<[u8]>::to_vec)
    }
}

impl Source for Past<'_> {
    fn value(&self, index: usize, variable: &Variable) -> Option<Vec<u8>> {
        let kept = || self.of.extra.get(variable.key.as_bytes()).map(<[u8]>::to_vec);
        match variable.class {
            _ if variable.of_reply => message(self.at.event.rpl).and_then(|_| self.of_branch(&variable.key)),
            Class::Message => kept(),
            Class::Branch => self.of_branch(&variable.key).or_else(kept),
            Class::Code => Some(self.at.event.code.to_string().into_bytes()),
            Class::Moment if is_of_dialog(variable) => in_dialog(self.at.symbols, self.at.by_flags.specs[index], &self.dialog).unwrap_or_else(kept),
            Class::Moment => bytes_of(self.at.by_flags.specs[index].value(self.at.symbols, dummy(self.at.symbols)?)),
        }
    }

    fn avp(&self, index: usize, n: usize) -> Option<Vec<u8>> {
        avp(self.at.symbols, dummy(self.at.symbols)?, &self.at.extras().avps[index], n)
    }
}

/// Values of the current message, which is private.
struct Present<'a> {
    symbols: &'a Symbols,
    by_flags: &'a ByFlags,
    msg: *mut km_sip_msg,
    /// The code of the reply, if known.
    code: Option<u16>,
    is_reply: bool,
    /// The request before it, if script variables of that one count.
    request: Option<&'a Context>,
}

impl<'a> Present<'a> {
    fn new(msg: &Message<'a>, by_flags: &'a ByFlags) -> Present<'a> {
        Present { symbols: msg.symbols, by_flags, msg: msg.raw, code: None, is_reply: msg.status() != 0, request: None }
    }
}

impl Source for Present<'_> {
    fn value(&self, index: usize, variable: &Variable) -> Option<Vec<u8>> {
        match (variable.class, self.code) {
            _ if variable.of_reply && !self.is_reply => None,
            (Class::Code, Some(code)) => Some(code.to_string().into_bytes()),
            _ if let Some(of) = self.request
                && variable.is_of_script() =>
            {
                of.extra.get(variable.key.as_bytes()).map(<[u8]>::to_vec)
            }
            _ => bytes_of(self.by_flags.specs[index].value(self.symbols, self.msg)),
        }
    }

    fn avp(&self, index: usize, n: usize) -> Option<Vec<u8>> {
        let extras = &worker::instance()?.config.rules.fields.flags;
        avp(self.symbols, self.msg, &extras.avps[index], n)
    }
}

/// A message that belongs to no call, for variables that do not look at a message.
fn dummy(symbols: &Symbols) -> Option<*mut km_sip_msg> {
    Some(symbols.dummy()).filter(|p| !p.is_null())
}

/// The value that a variable of the request's dialog has now; `None` if there is no such dialog.
fn in_dialog(symbols: &Symbols, spec: Spec, request: &Core) -> Option<Option<Vec<u8>>> {
    let dialogs = DIALOGS.get()?;
    let dialog = dialogs.find(request)?;
    let dummy = dummy(symbols)?;
    Some(dialogs.inside(dialog.raw, || bytes_of(spec.value(symbols, dummy))))
}

/// The `n`-th value of an AVP, counted from the one set last.
fn avp(symbols: &Symbols, msg: *mut km_sip_msg, name: &str, n: usize) -> Option<Vec<u8>> {
    bytes_of(Spec::parse(symbols, format!("$(avp({name})[{n}])").as_bytes())?.value(symbols, msg))
}

/// The values of `log_extra` and the like for the current message.
pub fn of_message(at: Current, config: &Config, types: Types) -> Taken {
    let Some((by_flags, msg)) = at.api.flags.as_ref().zip(message(at.raw)) else { return Taken::default() };
    Taken::read(&config.rules.fields.flags, types, &Present::new(&msg, by_flags))
}

/// `acc_*_request()`: makes a record at once, in the shape of message flags.
pub fn manual(at: Current, instance: &'static Instance, backend: Backend, comment: &[u8], table: &[u8]) -> Result<(), String> {
    let msg = message(at.raw).ok_or("there is no SIP message here")?;
    let types = Types::one(backend);
    script::may_record(instance, backend, table)?;
    let mut core = msg.core();
    (core.code, core.reason) = reason::parts_of_comment(comment);
    let taken = of_message(at, &instance.config, types);
    let now = Moment::now();
    let event = Event {
        kind: Kind::Manual,
        core: &core,
        // As in the original, which swaps the tags of transactions only.
        upstream: false,
        in_dialog: !core.to_tag.is_empty(),
        created: now,
        time: now,
        timed: false,
        duration_ms: None,
        end: None,
        signalling: Signalling::default(),
        table,
    };
    send(instance, flags::records(&instance.config.rules, types, &event, &taken));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_to_tag_of_a_sent_reply_is_found() {
        let reply = |to: &str| format!("SIP/2.0 404 Not Found\r\nVia: x;tag=no\r\nFrom: <sip:a@h>;tag=f\r\n{to}\r\nCall-ID: c\r\n\r\nTo: <b>;tag=body");
        for (to, tag) in [
            ("To: <sip:b@h;tag=uri>;tag=abc.1", Some("abc.1")),
            ("t :sip:b@h;x=1;TAG=abc;y", Some("abc")),
            ("TO: \"<a>\" <sip:b@h>;tag=abc \t", Some("abc")),
            ("To: <sip:b@h>", None),
            ("X: none", None),
        ] {
            assert_eq!(to_tag_of(reply(to).as_bytes()), tag.map(str::as_bytes), "{to}");
        }
        assert_eq!(to_tag_of(b""), None);
    }
}
