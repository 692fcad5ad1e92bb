use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::read::arena;
use super::told::{COMPARED, same};
use super::*;
use crate::accounting::clock::Moment;
use crate::accounting::context::{Context, Head, Reply, Taken};
use crate::accounting::decide;
use crate::accounting::fields::Fields;
use crate::accounting::marks::{Flags as ByCall, Marks, Types};
use crate::accounting::record::{Core, EndCause};
use crate::host::acks;
use crate::host::arena::{self, Room};
use crate::host::pid::locked;
use crate::host::values::{self, Named, NoLeg};
use crate::interprocess::Lock;
use crate::stats::{self, Counter};

fn call(extras: usize, legs: usize) -> Context {
    let mut c = Context::new(Moment::now(), true);
    c.core.callid = vec![b'c'; 40];
    c.core.from_tag = vec![b'f'; 20];
    c.core.to_tag = vec![b't'; 20];
    c.core.method = b"INVITE".to_vec();
    for i in 0..extras {
        c.extra.set(format!("extra_tag_{i}").as_bytes(), Some(&[b'v'; 32]));
    }
    c.legs.resize(legs, Default::default());
    for leg in &mut c.legs {
        leg.set(b"leg_source", Some(&[b's'; 32]));
        leg.set(b"leg_destination", Some(&[b'd'; 32]));
    }
    c
}

#[test]
fn equal_bytes_are_counted_from_both_ends() {
    let count = |a: &[u8], b: &[u8]| {
        let first = same(a.chunks(COMPARED).zip(b.chunks(COMPARED)), a.iter().zip(b));
        (first, same(a.rchunks(COMPARED).zip(b.rchunks(COMPARED)), a.iter().rev().zip(b.iter().rev())))
    };
    let mut b = vec![b'a'; 1000];
    assert_eq!(count(&b, &b), (1000, 1000));
    b[600] = b'b';
    assert_eq!(count(&[b'a'; 1000], &b), (600, 399));
    assert_eq!(count(&[b'a'; 300], &b), (300, 300));
    assert_eq!(count(b"", &b), (0, 0));
}

// One test for everything that counts live blocks: they share the process-wide arena.
#[test]
fn contexts_are_small_shared_and_freed() {
    let mut fields = Fields::default();
    fields.extra.add("log: extra_tag_0; extra_tag_1; extra_tag_2; extra_tag_3; extra_tag_4").unwrap();
    fields.leg.add("log: leg_source; leg_destination").unwrap();
    values::declare(&fields);
    let arena = arena::install(64).unwrap();
    assert!(acks::install(arena));
    let (blocks, bytes) = (arena.live_blocks(), arena.live_bytes());
    let a = SharedContext::new(&call(5, 2)).unwrap();
    let used = arena.live_bytes() - bytes;
    assert!(used <= 1536, "5 extras and 2 legs of 32 bytes take {used} bytes");

    let b = a.duplicate();
    a.update(|c| c.extra.set(b"k", Some(b"v"))).unwrap();
    assert_eq!(b.read(|c| c.extra.get(b"k").map(<[u8]>::to_vec)), Ok(Some(b"v".to_vec())));

    let request = SharedContext::new(&call(0, 1)).unwrap();
    request.set_call(&a);
    assert!(request.call().unwrap().same(&b));

    // SAFETY: the raw pointer is the one just made.
    let back = unsafe { SharedContext::from_raw(a.into_raw()) };
    drop((back, b));
    assert!(request.call().is_some(), "the request keeps the call alive");
    drop(request);
    assert_eq!(arena.live_blocks(), blocks);

    // Nothing of a new request is assigned yet, and each value has its place.
    let unset = Context::new(Moment::default(), true);
    let new = SharedContext::new(&unset).unwrap();
    assert_eq!((new.copy(), new.legs()), (Ok(unset.clone()), Ok(1)));
    // One value takes 23 bytes with its tag, and the other tag alone 21.
    let most = unset.encoded_len() + 40;
    assert_eq!(new.set(Named::Leg(0, None), Some(b"sip:a@b"), most), Ok(Ok(true)));
    assert_eq!(new.set(Named::Leg(0, None), Some(b"sip:c@d"), most), Ok(Ok(true)), "one in the place of the other");
    assert_eq!(new.set(Named::Leg(1, None), Some(b"sip:a@b"), most), Ok(Ok(false)), "its tag does not fit");
    assert_eq!(new.read(|c| (c.legs[0].get(b"leg_source") == Some(b"sip:c@d"), c.legs[0].has(b"leg_destination"))), Ok((true, false)));
    drop(new);
    assert_eq!(arena.live_blocks(), blocks);

    // Room in the journal is reserved for what will make records there, not for a request that was refused, or whose records are made.
    let db = |flags: ByCall| Marks::default().add(Types::parse(b"db").unwrap(), flags);
    let owing = || arena.owing_bytes().div_ceil((arena.live_bytes() / 3).max(1));
    let all: Vec<_> = (0..3).map(|_| SharedContext::new(&call(1, 0)).unwrap()).collect();
    assert_eq!(owing(), 0);
    all[0].update_head(|c| (c.marked, c.marks) = (true, Marks::default().add(Types::parse(b"log").unwrap(), ByCall::default()))).unwrap();
    assert_eq!(owing(), 0, "nothing of it goes through the journal");
    all[1].update_head(|c| (c.marked, c.marks) = (true, db(ByCall::parse(b"cdr").unwrap()))).unwrap();
    assert_eq!(owing(), 1);
    all[2].update_head(|c| c.marked = true).unwrap();
    assert_eq!(owing(), 2, "message flags may ask for one");
    all[2].owes_no_more();
    all[2].set(Named::Extra(0), Some(b"later"), 4096).unwrap().unwrap();
    assert_eq!(owing(), 1);
    all[1].conclude(|_, _| Some(())).unwrap();
    assert_eq!(owing(), 0, "its CDR is written");
    all[0].update_head(|c| c.marks = db(ByCall::default())).unwrap();
    assert_eq!(owing(), 1);
    drop(all);
    assert_eq!((owing(), arena.live_blocks()), (0, blocks));

    // What another server did with its call is not told and keeps its revision; what this one does
    // is told and gets a new one; from then on this server's journal hears of both.
    static TOLD: AtomicU32 = AtomicU32::new(0);
    on_change(|change| {
        TOLD.fetch_add(1, Ordering::Relaxed);
        *LAST.lock().unwrap() = Context::of_parts(*change.facts, change.parts).map(|ctx| (change.call, ctx));
        Taken::Whole(1)
    });
    let mut up = call(1, 1);
    up.marks = up.marks.add(Types::parse(b"log").unwrap(), ByCall::parse(b"cdr").unwrap());
    up.answered = Some(Moment::now());
    let a = SharedContext::new(&up).unwrap();
    a.take_over(|c| c.extra.set(b"k", Some(b"theirs"))).unwrap();
    assert_eq!((a.read(|c| c.extra.get(b"k").map(<[u8]>::to_vec)), TOLD.load(Ordering::Relaxed)), (Ok(Some(b"theirs".to_vec())), 0));
    assert!(!a.was_in_journal());
    a.update(|c| c.extra.set(b"k", Some(b"ours"))).unwrap();
    assert!(TOLD.load(Ordering::Relaxed) == 1 && a.was_in_journal());
    assert_eq!(a.revision(), Ok(1));
    a.update(|c| c.extra.set(b"k", Some(b"ours"))).unwrap();
    assert_eq!((a.revision(), TOLD.load(Ordering::Relaxed)), (Ok(1), 1), "nothing was changed");
    a.take_over(|c| (c.revision, c.table) = (7, b"theirs".to_vec())).unwrap();
    assert_eq!((a.revision(), TOLD.load(Ordering::Relaxed)), (Ok(7), 2));
    a.take_over(|c| (c.revision, c.closed) = (8, true)).unwrap();
    assert_eq!((a.revision(), TOLD.load(Ordering::Relaxed)), (Ok(8), 2), "who closes a call writes its end");
    drop(a);

    // An answer waits for one ACK, and no more than its own entry is left of a forgotten one.
    let waiting = |tag: &str| {
        let ctx = call(1, 0);
        let core = Core { to_tag: tag.into(), ..ctx.core.clone() };
        let key = acks::key(&core, b"1");
        assert!(acks::put(key, SharedContext::new(&ctx).unwrap()));
        key
    };
    let keys = [waiting("a"), waiting("b"), waiting("a")];
    assert!(keys[0] == keys[2] && keys[0] != keys[1]);
    acks::forget();
    assert!(keys.map(|key| acks::take(key).is_some()) == [true, true, false]);
    assert_eq!(arena.live_blocks(), blocks);

    // A context too large for what is left is refused and the old state stays.
    let c = SharedContext::new(&call(1, 1)).unwrap();
    let r = c.update(|c| c.extra.set(b"big", Some(&vec![b'x'; 100 << 20])));
    assert_eq!(r, Err(SharedError::Full(CallId(vec![b'c'; 40]))));
    assert_eq!(c.read(|c| c.extra.get(b"big").is_some()), Ok(false));
    // A lock whose holder is gone is taken over: no process has the largest number there is.
    c.slot().lock.lock(i32::MAX as u32, |_| true).killed();
    assert_eq!(c.read(|c| c.legs.len()), Ok(1));
    // So is that of a process which was killed and is still to be waited for.
    // SAFETY: the child takes one lock, without memory of its own, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        locked(&c.slot().lock).killed();
        // SAFETY: ends the child at once, without anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    assert!(child > 0);
    let held = Instant::now();
    while c.slot().lock.holder() == 0 && held.elapsed() < Duration::from_secs(30) {
        std::thread::yield_now();
    }
    assert_eq!(c.slot().lock.holder(), child as u32);
    assert_eq!(c.read(|c| c.legs.len()), Ok(1));
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
    drop(c);
    assert_eq!(arena.live_blocks(), blocks);

    a_full_arena_loses_no_end();
    assert_eq!(arena.live_blocks(), blocks);
    every_way_to_change_a_context_gives_the_same();
    assert_eq!(arena.live_blocks(), blocks);
    a_killed_writer_leaves_the_old_value_or_the_new_one();
}

/// What the journal was told last.
static LAST: Mutex<Option<(u128, Context)>> = Mutex::new(None);

/// Values changed in place, or with the whole context, of declared tags and of others: what is read, what goes into
/// a dialog and what the journal is told is what a context in the memory of one process has.
fn every_way_to_change_a_context_gives_the_same() {
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let mut model = call(round % 6, round % 4);
        model.ended = None;
        if round % 3 == 0 {
            model.marks = model.marks.add(Types::parse(b"log").unwrap(), ByCall::parse(b"cdr").unwrap());
            model.answered = Some(Moment::now());
        }
        let shared = SharedContext::new(&model).unwrap();
        *LAST.lock().unwrap() = None;
        let most = if round % 2 == 0 { usize::MAX } else { 1500 };
        for _ in 0..60 {
            let len = random.usize(..[3, 60, 200, 2000][round % 4]);
            let value: Vec<u8> = std::iter::repeat_with(|| random.alphanumeric() as u8).take(len).collect();
            let value = Some(&*value).filter(|_| random.u8(..4) > 0);
            let (tag, index) = (random.usize(..5), random.i64(-3..3));
            let name = format!("extra_tag_{tag}");
            match random.u8(..8) {
                0..=2 => assert_eq!(shared.set(Named::Extra(tag), value, most), Ok(Ok(model.set_extra(name.as_bytes(), value, most)))),
                3 | 4 => {
                    let field: &[u8] = [&b"leg_source"[..], b"leg_destination"][tag % 2];
                    let legs = model.legs.len();
                    let want = model.leg_index(Some(index)).map(|i| model.set_leg(i, field, value, most)).ok_or(NoLeg { legs });
                    assert_eq!(shared.set(Named::Leg(tag % 2, Some(index)), value, most), Ok(want));
                }
                5 => {
                    let change = |c: &mut Context| (c.set_extra(b"undeclared", value, most), c.set_extra(name.as_bytes(), value, most));
                    assert_eq!(shared.update(change), Ok(change(&mut model)));
                }
                6 => {
                    let change = |c: &mut Context| if c.legs.len() < 4 { c.add_leg(most) } else { c.legs.pop().is_some() };
                    assert_eq!(shared.update(change), Ok(change(&mut model)));
                }
                _ => {
                    let change = |c: &mut Head| c.table = value.unwrap_or_default().iter().take(9).copied().collect();
                    shared.update_head(change).unwrap();
                    change(&mut model);
                }
            }
            let mut now = shared.copy().unwrap();
            values::arrange(&mut model);
            model.revision = now.revision;
            assert_eq!(now, model);
            let mut read = Vec::new();
            assert_eq!(shared.get(Named::Extra(tag), &mut read), Ok(Ok(model.extra.get(name.as_bytes()).is_some())));
            assert_eq!(model.extra.get(name.as_bytes()).unwrap_or_default(), read);
            assert_eq!((shared.legs(), shared.facts(), shared.read_head(Head::clone)), (Ok(model.legs.len()), Ok(model.facts), Ok(model.head.clone())));
            if let Some((call, told)) = LAST.lock().unwrap().take() {
                assert_eq!((call, told), (now.call_key(), now.clone()));
            }
            values::arrange(&mut now);
            assert_eq!(now, model, "the order is that of the arena already");
        }
        let ended = Moment::now();
        shared.end(EndCause::Caller, ended).unwrap();
        let told = LAST.lock().unwrap().take().map(|(_, told)| told);
        assert_eq!(told, model.is_open_call().then(|| shared.copy().unwrap()));
        assert_eq!(shared.conclude(|c, _| (c.ended == Some((ended, EndCause::Caller))).then_some(1)), Ok(Some(1)));
        assert_eq!((shared.conclude(|_, _| None::<u8>), shared.progress().closed), (Ok(None), true));
    }
}

fn a_killed_writer_leaves_the_old_value_or_the_new_one() {
    let shared = SharedContext::new(&call(5, 2)).unwrap();
    let values = [[b'a'; 40].to_vec(), [b'b'; 200].to_vec()];
    for round in 0..40 {
        // SAFETY: the child changes the value, without memory of its own, and never returns.
        let child = unsafe { libc::fork() };
        if child == 0 {
            loop {
                for value in &values {
                    let _ = shared.set(Named::Extra(2), Some(value), usize::MAX);
                }
            }
        }
        assert!(child > 0);
        std::thread::sleep(Duration::from_micros(round * 50));
        // SAFETY: ends the child just made, and waits for it.
        unsafe {
            assert_eq!(libc::kill(child, libc::SIGKILL), 0);
            assert_eq!(libc::waitpid(child, std::ptr::null_mut(), 0), child);
        }
        let mut read = Vec::new();
        assert_eq!(shared.get(Named::Extra(2), &mut read), Ok(Ok(true)));
        assert!(read == [b'v'; 32] || values.contains(&read), "{read:?}");
        assert_eq!(shared.read(|c| (c.extra.get(b"extra_tag_2") == Some(&read), c.legs.len())), Ok((true, 2)));
    }
}

fn config() -> crate::config::Config {
    crate::params::Draft::default().finish(None).unwrap()
}

/// A call that rings and one that is up, and then a full arena: both are answered, end, and are
/// written once.
fn a_full_arena_loses_no_end() {
    let mark = |c: &mut Context| {
        c.marked = true;
        c.marks = c.marks.add(Types::parse(b"log").unwrap(), ByCall::parse(b"cdr").unwrap());
    };
    let answer = |to_tag: &str| Reply { code: 200, reason: b"OK then".to_vec(), to_tag: to_tag.into(), has_body: true, ..Reply::default() };
    let (config, mut ctx) = (config(), call(1, 1));
    ctx.core.to_tag.clear();
    let calls: Vec<_> = (0..3).map(|_| SharedContext::new(&ctx).unwrap()).collect();
    calls.iter().for_each(|c| c.update(mark).unwrap());
    assert!(calls[0].happen(|c| decide::on_answer(c, &answer("up"), Moment::now())).unwrap());

    // New ones are refused first. Calls that are up have room left.
    let big = vec![b'x'; 50_000];
    let full = |n: usize| {
        let mut ctx = call(1, 0);
        ctx.extra.set(b"big", Some(&big[..n]));
        std::iter::from_fn(move || SharedContext::new(&ctx).ok()).collect::<Vec<_>>()
    };
    let burst = [full(50_000), full(1)];
    assert!(burst[0].len() > 48 << 20 >> 16, "{}", burst[0].len());
    assert_eq!(calls[1].update(|c| c.extra.set(b"k", Some(&big))), Err(SharedError::Full(CallId(vec![b'c'; 40]))));
    calls[0].update(|c| c.extra.set(b"k", Some(&big))).unwrap();
    // And then there is no room at all.
    let arena = arena().unwrap();
    let rest: Vec<_> = std::iter::from_fn(|| arena.objects::<1>(Room::CallUp)).collect();
    let refused = stats::get(Counter::ArenaFull);
    assert!(calls[0].update(|c| c.extra.set(b"more", Some(&big))).is_err());
    assert_eq!(stats::get(Counter::ArenaFull), refused + 1);

    let long = "t".repeat(1000);
    for (i, to_tag) in [(1, "rang"), (2, &long)] {
        // What came with the answer goes into the record, kept or not.
        let happened = calls[i].happen(|c| {
            c.extra.set(b"lost", Some(&big));
            (decide::on_answer(c, &answer(to_tag), Moment::now()), c.extra.get(b"lost").is_some(), c.call_key())
        });
        // The journal gets all of the To tag: the end must close the call that it knows.
        assert_eq!(happened, Ok((true, true, calls[i].read(Context::call_key).unwrap())));
        let core = calls[i].read(|c| c.core.clone()).unwrap();
        assert!(to_tag.as_bytes().starts_with(&core.to_tag) && core.to_tag.len() >= to_tag.len().min(220), "{core:?}");
        assert_eq!((core.code, core.reason.len()), (b"200".to_vec(), if i == 1 { 7 } else { 0 }));
        assert_eq!(calls[i].read(|c| c.extra.get(b"lost").is_some()), Ok(false));
    }
    assert_eq!(stats::get(Counter::ArenaFull), refused + 3);
    for call in &calls {
        let ended = Moment::now();
        call.happen(|c| decide::on_end(c, EndCause::Callee, ended)).unwrap();
        assert!(call.progress().is_due());
        assert_eq!(call.read(|c| c.ended), Ok(Some((ended, EndCause::Callee))));
        let end = || call.happen(|c| decide::cdr(&config.rules, c)).unwrap();
        assert_eq!((end().map(|e| e.records.len()), end().is_none()), (Some(1), true));
    }
    drop((burst, calls));
    // SAFETY: each was made above, and is used no more.
    rest.into_iter().for_each(|[p]| unsafe { arena.release_objects(p) });
    // All of it serves other sizes again.
    let small = full(1);
    assert!(small.len() > 64 << 20 >> 10, "{}", small.len());
}

/// Who waits for a lock that is held long sleeps meanwhile.
#[test]
fn a_lock_that_is_held_long_costs_nothing() {
    let lock = Lock::free();
    let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    std::thread::scope(|s| {
        let held = locked(&lock);
        let waiter = s.spawn(|| {
            let before = cpu();
            drop(locked(&lock));
            let after = cpu();
            (after.tv_sec - before.tv_sec) * 1_000_000_000 + after.tv_nsec - before.tv_nsec
        });
        while !lock.is_waited_for() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(500));
        drop(held);
        let burnt = waiter.join().unwrap();
        assert!(burnt < 250_000_000, "{burnt} ns of CPU in 500 ms of waiting");
    });
}
