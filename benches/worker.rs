//! What a SIP worker pays: contexts in the arena, decisions, and the append to the journal.
//! Everything but the server's own work (reading the message, calling back).

use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use acc::accounting::clock::Moment;
use acc::accounting::context::{Context, Reply};
use acc::accounting::decide;
use acc::accounting::fields::Fields;
use acc::accounting::marks::{Flags, Types};
use acc::accounting::record::{Backend, Core, EndCause};
use acc::config::Config;
use acc::host::shared::{self, SharedContext};
use acc::host::values::{self, Named};
use acc::host::{arena, outcome, script};
use acc::journal::{Dir, JournalSync};
use acc::worker::{self, Instance};

use super::common::host::NoServer;
use super::{common, median, row, table};

/// Operations of each kind; the journal grows by some 700 bytes with most.
const N: usize = 20_000;
/// Rounds, in turn, so that a neighbour's burst does not hit one kind alone.
const ROUNDS: usize = 5;

const SERVER: &NoServer = &NoServer { stderr: None };

const EXTRAS: [&str; 5] = ["caller", "callee", "account", "carrier", "country"];

fn config(journal: &Path) -> Config {
    let mut config = common::config(Some("sqlite:///nowhere"), journal);
    config.rules.fields = Fields::default();
    config.rules.fields.extra.add("db: caller->caller_uri; callee->callee_uri; account; carrier; country").unwrap();
    config.rules.fields.leg.add("db: src->leg_src; dst->leg_dst").unwrap();
    assert_eq!(config.journal_sync, JournalSync::Batch);
    config
}

/// As `context_max`.
const MOST: usize = 65_536;

/// The module as a worker has it.
fn module(journal: &Path) -> &'static Instance {
    let config = config(journal);
    values::declare(&config.rules.fields);
    arena::install(64).unwrap();
    let wake: OwnedFd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let instance = worker::install(Instance { config, host: SERVER, journal: Some(Dir::open(journal).unwrap()), wake });
    shared::on_change(worker::call_changed);
    instance
}

fn core() -> Core {
    Core {
        method: b"INVITE".to_vec(),
        from_tag: b"gK0c9d8f2a".to_vec(),
        to_tag: b"as58f4d0e1".to_vec(),
        callid: b"1c5ddb8e4f0a4f6d9f7b@192.0.2.17".to_vec(),
        code: b"200".to_vec(),
        reason: b"OK".to_vec(),
    }
}

fn ok() -> Reply {
    Reply { code: 200, reason: b"OK".to_vec(), to_tag: b"as58f4d0e1".to_vec(), has_body: true, ..Reply::default() }
}

fn set_values(ctx: &mut Context) {
    for tag in EXTRAS {
        ctx.extra.set(tag.as_bytes(), Some(b"sip:+4930123456789@example.com"));
    }
    for leg in &mut ctx.legs {
        leg.set(b"src", Some(b"sip:+4930123456789@example.com"));
        leg.set(b"dst", Some(b"sip:+4930987654321@example.com"));
    }
}

/// A call with CDR to the database: five extras, two legs, answered and ended.
fn call() -> Context {
    let mut ctx = Context::new(Moment::now(), true);
    ctx.legs.push(Default::default());
    ctx.marked = true;
    ctx.core = core();
    set_values(&mut ctx);
    ctx.marks = ctx.marks.add(Types::parse(b"db").unwrap(), Flags::parse(b"cdr").unwrap());
    assert!(decide::on_answer(&mut ctx, &ok(), Moment::now()));
    decide::on_end(&mut ctx, EndCause::Caller, Moment::now());
    ctx
}

/// The CDR of an ended call: decision, record, append, waking the delivery process.
#[inline(never)]
fn bench_cdr(instance: &Instance, ctx: &mut Context) {
    ctx.closed = false;
    if let Some(end) = decide::cdr(&instance.config.rules, ctx) {
        worker::emit_end(instance, &end);
    }
}

/// The row of an answered transaction.
#[inline(never)]
fn bench_transaction(instance: &Instance, ctx: &mut Context, reply: &Reply, now: Moment) {
    let records = decide::on_reply(&instance.config.rules, ctx, None, reply, now, None);
    worker::emit(instance, &records);
}

/// `acc_db_request()`.
#[inline(never)]
fn bench_manual(instance: &Instance, request: &decide::Request, now: Moment) {
    let record = decide::manual(&instance.config.rules, Backend::Db, None, request, b"487 cancelled by billing", b"", now);
    worker::emit(instance, &[record]);
}

/// `$acc_extra(caller) = ...`.
#[inline(never)]
fn bench_update(ctx: &SharedContext, value: &[u8]) {
    assert_eq!(ctx.set(Named::Extra(0), Some(value), MOST), Ok(Ok(true)));
}

/// Reading one value, `$acc_extra(caller)`.
#[inline(never)]
fn bench_read(ctx: &SharedContext) {
    let read = script::keep_read(|out| ctx.get(Named::Extra(0), out).unwrap(), <[u8]>::len);
    assert!(black_box(read).unwrap().is_some());
}

/// What `do_accounting("db", "cdr")` does to a request without context, and the end of that
/// request: a new context, references for transaction and dialog, the snapshot and the marks.
#[inline(never)]
fn bench_do_accounting(types: Types, flags: Flags) {
    let ctx = SharedContext::new(&Context::new(Moment::now(), true)).unwrap();
    let held = [ctx.duplicate(), ctx.duplicate()];
    ctx.update_head(|c| {
        c.marked = true;
        c.core = core();
        c.arrived = Moment::now();
        c.marks = c.marks.add(types, flags);
    })
    .unwrap();
    drop(held);
}

/// A whole call: `do_accounting("db", "cdr")`, five extras, one leg, answer, end, CDR. The state of
/// the call goes into the journal with each change after the answer.
#[inline(never)]
fn bench_call(types: Types, flags: Flags, reply: &Reply) {
    let ctx = SharedContext::new(&Context::new(Moment::now(), true)).unwrap();
    ctx.update_head(|c| {
        c.marked = true;
        c.core = core();
        c.arrived = Moment::now();
        c.marks = c.marks.add(types, flags);
    })
    .unwrap();
    for n in 0..EXTRAS.len() {
        assert_eq!(ctx.set(Named::Extra(n), Some(b"sip:+4930123456789@example.com"), MOST), Ok(Ok(true)));
    }
    for n in 0..2 {
        assert_eq!(ctx.set(Named::Leg(n, None), Some(b"sip:+4930987654321@example.com"), MOST), Ok(Ok(true)));
    }
    outcome::reply_leaves(&ctx, 200, || reply.clone()).unwrap();
    ctx.end(EndCause::Caller, Moment::now()).unwrap();
    outcome::write_cdr(&ctx);
}

/// What is measured; the names are those of `--count`, and part of the functions' names.
const KINDS: [(&str, &str); 7] = [
    ("cdr", "a CDR: decision, record, append"),
    ("transaction", "a transaction record"),
    ("manual", "`acc_db_request()`"),
    ("update", "a change of a context in the arena"),
    ("read", "reading a value of a context in the arena"),
    ("do_accounting", "`do_accounting()`: a new context, marked"),
    ("call", "a whole call with CDR: 11 changes, 2 states and a CDR in the journal"),
];

/// One kind, `n` times; gives each duration to `took`.
fn repeat(instance: &Instance, kind: &str, n: usize, mut took: impl FnMut(f64)) {
    let (types, flags) = (Types::parse(b"db").unwrap(), Flags::parse(b"cdr").unwrap());
    let (reply, now) = (ok(), Moment::now());
    let mut ctx = call();
    let mut transaction = call();
    transaction.marks = Default::default();
    transaction.marks = transaction.marks.add(types, Flags::default());
    let mut open = call();
    // Not answered yet: the state is kept in the arena alone.
    (open.answered, open.ended) = (None, None);
    let open = SharedContext::new(&open).unwrap();
    let request = decide::Request { core: core(), in_dialog: false, arrived: now, upstream: false };
    let values: [&[u8]; 2] = [b"sip:+4930123456789@example.com", b"sip:+4930987654321@example.com"];
    for i in 0..n {
        let begin = Instant::now();
        match kind {
            "cdr" => bench_cdr(instance, &mut ctx),
            "transaction" => bench_transaction(instance, &mut transaction, &reply, now),
            "manual" => bench_manual(instance, &request, now),
            "update" => bench_update(&open, values[i % 2]),
            "read" => bench_read(&open),
            "do_accounting" => bench_do_accounting(types, flags),
            "call" => bench_call(types, flags, &reply),
            _ => panic!("{kind} is not measured"),
        }
        took(begin.elapsed().as_secs_f64() * 1e6);
    }
}

/// For callgrind: only that, so often.
pub fn count(kind: &str, n: usize) {
    let tmp = tempfile::tempdir().unwrap();
    repeat(module(tmp.path()), kind, n, |_| {});
}

pub fn run() {
    let tmp = tempfile::tempdir().unwrap();
    let instance = module(tmp.path());
    let mut all = KINDS.map(|_| Vec::with_capacity(N * ROUNDS));
    for _ in 0..ROUNDS {
        for ((kind, _), times) in KINDS.iter().zip(&mut all) {
            repeat(instance, kind, N, |t| times.push(t));
        }
    }
    table("Worker, one at a time, `journal_sync=batch`", &["what", "median µs", "99 % below µs", "a second, at the median"]);
    for ((_, what), mut times) in KINDS.iter().zip(all) {
        times.sort_by(f64::total_cmp);
        let high = times[times.len() * 99 / 100];
        let middle = median(times);
        row(&[what.to_string(), format!("{middle:.2}"), format!("{high:.2}"), format!("{:.0}", 1e6 / middle)]);
    }
}
