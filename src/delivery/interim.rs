//! Calls that are up: when their interim records are due, and which start and interim records are obsolete.
//!
//! The journal has the states of calls, and says when calls begin and end. For each call, this file keeps only where
//! its state is, and when its next record is due. Record `k` of a call is due `k` intervals after its answer, plus a
//! phase that depends on the call alone (RFC 6733 §9.8.2), so the times are the same after a restart. What could not be
//! sent in time is not sent later: the next record says more.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use crate::accounting::clock::Moment;
use crate::accounting::decide;
use crate::accounting::marks::{Flag, Types};
use crate::accounting::record::{Backend, Kind, Record};
use crate::accounting::rules::Rules;
use crate::backend::Destinations;
use crate::config::Config;
use crate::declaration::By;
use crate::journal::calls::{Heard, INTERIM_RANK, Latest, Tracker};
use crate::journal::limit::Limits;
use crate::journal::{Dir, Entry, Payload, Segment, SegmentName, SinkId, Writer};
use crate::stats::{self, Counter};

/// Shortest and longest interval that a server may ask for, in seconds (RFC 2869 §5.16, and a day).
const INTERVALS: (u32, u32) = (60, 86_400);
/// For how many calls records are made in one pass, so that sinks do not wait for them.
const AT_ONCE: usize = 2000;

/// What the tasks of the delivery process know about calls, shared by all of them.
pub type Calls = Rc<RefCell<Interims>>;

/// Half of a call's key, which is a hash: two calls of one server do not share it in practice.
type Key = u64;

/// A call that is up. There may be a hundred thousand: 72 bytes.
struct Up {
    latest: Latest,
    /// Backends with interim records.
    types: Types,
    /// Microseconds of the monotonic clock of this boot at which it was answered.
    answered: i64,
    /// Seconds between two records; 0 = none.
    interval: u32,
    /// When the next one is due, by the same clock; 0 = never.
    next: i64,
}

/// See the beginning of this file.
pub struct Interims {
    dir: Dir,
    rules: Rules,
    limits: Limits,
    destinations: Destinations,
    /// Parameter `interim_interval`.
    interval: u32,
    clock: fn() -> Moment,
    tracker: Tracker,
    writer: Writer,
    up: HashMap<Key, Up>,
    due: BTreeSet<(i64, Key)>,
    /// Interim records that are not delivered yet, by place.
    waiting: HashMap<(Key, SinkId), SegmentName>,
    /// The journal could not be written; logged once.
    failed: bool,
}

/// When the first record after `now` is due: `interval` and the result in µs.
fn next_tick(call: Key, answered: i64, interval: i64, now: i64) -> i64 {
    // At most a tenth of the interval, and never before the call.
    let phase = (call % (interval as u64 / 5).max(1)) as i64 - interval / 10;
    let first = answered + interval + phase;
    if first > now { first } else { first + ((now - first) / interval + 1) * interval }
}

impl Interims {
    /// Knows no calls yet. `clock` is asked for the time.
    pub fn new(dir: &Dir, config: &Config, clock: fn() -> Moment) -> Interims {
        let limits = config.limits;
        Interims {
            dir: dir.clone(),
            rules: config.rules.clone(),
            limits,
            destinations: config.destinations.clone(),
            interval: config.interim_interval,
            clock,
            tracker: Tracker::new(dir),
            writer: Writer::new(dir, INTERIM_RANK, std::process::id(), config.journal_sync, limits.segment_max()),
            up: HashMap::new(),
            due: BTreeSet::new(),
            waiting: HashMap::new(),
            failed: false,
        }
    }

    /// Which states and ends of calls the journal has.
    pub fn tracker(&mut self) -> &mut Tracker {
        &mut self.tracker
    }

    /// Reads what has been appended to the journal since the last time.
    pub fn follow(&mut self, segments: &[Segment]) {
        let (now, interval) = ((self.clock)(), self.interval);
        let (up, due) = (&mut self.up, &mut self.due);
        let mut fresh = Vec::new();
        self.tracker.follow(segments, |heard| match heard {
            Heard::Over(call) => over(call as Key, up, due),
            Heard::Up { call, at, is_change, facts } => {
                let (key, types) = (call as Key, facts.marks.reported(Flag::Interim));
                let Some(answered) = facts.answered.filter(|_| !types.is_empty() || up.contains_key(&key)) else { return };
                let known = up.entry(key).or_insert_with(|| {
                    fresh.push(call);
                    Up { latest: Latest::default(), types, answered: now.mono - now.micros_since(answered), interval, next: 0 }
                });
                if known.latest.hear(at, is_change) {
                    known.types = types;
                }
                schedule(key, known, due, now.mono);
            }
        });
        // The end of a call may be read before its state.
        for call in fresh.into_iter().filter(|call| self.tracker.has_ended(*call)) {
            over(call as Key, &mut self.up, &mut self.due);
        }
    }

    /// The segment was removed: every sink is past it.
    pub fn gone(&mut self, segment: SegmentName) {
        if segment.rank == INTERIM_RANK {
            self.waiting.retain(|_, at| *at != segment);
        }
    }

    /// A server wants this many seconds between the records of this call.
    pub fn set_interval(&mut self, call: u128, seconds: u32) {
        let key = call as Key;
        let Some(known) = self.up.get_mut(&key) else { return };
        let seconds = seconds.clamp(INTERVALS.0, INTERVALS.1);
        if known.interval == seconds {
            return;
        }
        known.interval = seconds;
        self.due.remove(&(std::mem::take(&mut known.next), key));
        schedule(key, known, &mut self.due, (self.clock)().mono);
    }

    /// Makes the interim records that are due.
    pub fn tick(&mut self) {
        for _ in 0..AT_ONCE {
            let now = (self.clock)();
            let Some(&(at, call)) = self.due.first().filter(|(at, _)| *at <= now.mono) else { return };
            self.due.remove(&(at, call));
            let Some(known) = self.up.get_mut(&call) else { continue };
            known.next = 0;
            schedule(call, known, &mut self.due, now.mono);
            let (latest, types) = (known.latest, known.types);
            let wanted = types.iter().filter(|b| self.takers(call, *b).next().is_some()).fold(Types::default(), |t, b| t.or(Types::one(b)));
            if wanted.is_empty() || self.is_filling() {
                continue;
            }
            let Some(ctx) = latest.read(&self.dir).filter(|c| c.is_open_call() && c.ended.is_none()) else { continue };
            // If the server is killed now, the call ends no earlier than this record says.
            let _ = self.dir.still_alive();
            for record in decide::interim(&self.rules, &ctx, wanted, now) {
                self.append(call, &record);
            }
        }
    }

    /// Is the journal filling up, because a destination is unavailable? Then the remaining room is for the ends of calls.
    fn is_filling(&self) -> bool {
        let half = self.limits.max_bytes / 2;
        stats::full_since().is_some() || half > 0 && stats::get(Counter::JournalBytes) > half
    }

    /// The sinks that get a record of this call; a record without a sink is for the server. A sink that accepts nothing at
    /// the moment, or has not accepted the last record of this call, gets no further one.
    fn takers(&self, call: Key, backend: Backend) -> impl Iterator<Item = Option<SinkId>> {
        let is_free = move |sink: &SinkId| sink.state().outage_seconds().is_none() && !self.waiting.contains_key(&(call, *sink));
        let of_server = (backend.by() == By::Worker && SinkId::of(backend).is_none()).then_some(None);
        self.destinations.sinks_of(backend).filter(is_free).map(Some).chain(of_server)
    }

    fn append(&mut self, call: Key, record: &Record) {
        for sink in self.takers(call, record.backend).collect::<Vec<_>>() {
            let appended = match sink {
                Some(sink) => self.writer.append_record(sink, record),
                None => self.writer.append_event(record),
            };
            match appended {
                Ok(()) => {
                    if let (Some(sink), Some(segment)) = (sink, self.writer.segment()) {
                        self.waiting.insert((call, sink), segment);
                    }
                    self.failed = false;
                }
                Err(e) if !std::mem::replace(&mut self.failed, true) => {
                    log::error!("interim records cannot be written to the journal in {}: {e}; the next ones say more", self.dir.path().display());
                }
                Err(_) => {}
            }
        }
    }

    /// Removes obsolete records from `entries`, and returns them: interim records whose call has ended or has a later one,
    /// and with `starts` also start records of calls that have ended.
    pub fn superseded(&mut self, entries: &mut Vec<Entry>, before: &[Segment], starts: bool) -> Vec<Entry> {
        let is_asked = |e: &Entry| matches!(&e.payload, Payload::Record(r) if r.is_interim() || starts && r.kind == Kind::Start);
        if !entries.iter().any(is_asked) {
            return Vec::new();
        }
        // A sink may have read further than this.
        if let Ok(segments) = self.dir.segments_after(before) {
            self.follow(&segments);
        }
        let mut last: HashMap<u128, i64> = HashMap::new();
        for entry in &*entries {
            if let Payload::Record(record) = &entry.payload
                && record.is_interim()
            {
                let longest = last.entry(record.call_key()).or_default();
                *longest = record.duration_ms.unwrap_or(0).max(*longest);
            }
        }
        let tracker = &self.tracker;
        let is_over = |entry: &mut Entry| match &entry.payload {
            Payload::Record(record) if record.is_interim() => {
                let call = record.call_key();
                tracker.has_ended(call) || last.get(&call).is_some_and(|longest| record.duration_ms.unwrap_or(0) < *longest)
            }
            Payload::Record(record) => starts && record.kind == Kind::Start && tracker.has_ended(record.call_key()),
            Payload::LogLine(_) => false,
        };
        entries.extract_if(.., is_over).collect()
    }

    /// An entry has left its sink, delivered or not: the sink may get the next interim record of its call.
    pub fn left(&mut self, sink: SinkId, entry: &Entry) {
        if let Payload::Record(record) = &entry.payload
            && record.kind == Kind::Interim
        {
            self.waiting.remove(&(record.call_key() as Key, sink));
        }
    }
}

/// The call has ended.
fn over(key: Key, up: &mut HashMap<Key, Up>, due: &mut BTreeSet<(i64, Key)>) {
    if let Some(known) = up.remove(&key) {
        due.remove(&(known.next, key));
    }
}

fn schedule(key: Key, known: &mut Up, due: &mut BTreeSet<(i64, Key)>, now: i64) {
    if known.interval == 0 || known.next != 0 {
        return;
    }
    known.next = next_tick(key, known.answered, i64::from(known.interval) * 1_000_000, now);
    due.insert((known.next, key));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::accounting::clock::Wall;
    use crate::accounting::context::Context;
    use crate::accounting::marks::{Flags, Marks};
    use crate::accounting::record::{Core, EndCause};
    use crate::accounting::rules::Tables;
    use crate::journal::{Item, JournalSync};
    use crate::params::{Draft, RawValue};

    thread_local! {
        /// Seconds since the test began.
        static NOW: Cell<i64> = const { Cell::new(0) };
    }

    fn clock() -> Moment {
        let micros = (1_000_000 + NOW.get()) * 1_000_000;
        Moment { wall: Wall(1_700_000_000_000_000 + micros), mono: micros, boot: 7 }
    }

    const MINUTE: i64 = 60;

    struct Place {
        _tmp: tempfile::TempDir,
        dir: Dir,
        config: Config,
        worker: Writer,
    }

    fn place(interval: u32) -> Place {
        NOW.set(0);
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let mut draft = Draft::default();
        draft.set("interim_interval", RawValue::Int(interval as i32)).unwrap();
        let mut config = draft.finish(None).unwrap();
        config.rules.tables = Some(Tables { acc: "acc".into(), missed: "missed_calls".into(), calls: "acc_calls".into() });
        let worker = Writer::new(&dir, 1, 1, JournalSync::Os, 1 << 20);
        Place { _tmp: tmp, dir, config, worker }
    }

    fn answered(callid: &str, backends: Types) -> Context {
        let mut ctx = Context::new(clock(), false);
        ctx.marks = Marks::default().add(backends, Flags::parse(b"cdr|interim").unwrap());
        (ctx.marked, ctx.answered) = (true, Some(clock()));
        ctx.core = Core { method: b"INVITE".into(), callid: callid.into(), from_tag: b"f".into(), to_tag: b"t".into(), code: b"200".into(), ..Core::default() };
        ctx
    }

    fn state(ctx: &Context) -> Vec<u8> {
        let mut state = Vec::new();
        ctx.encode(&mut state);
        state
    }

    impl Place {
        fn interims(&self) -> Interims {
            Interims::new(&self.dir, &self.config, clock)
        }

        fn up(&mut self, ctx: &Context) {
            self.worker.append_call(ctx.call_key(), &state(ctx)).unwrap();
        }

        fn look(&self, interims: &mut Interims) {
            interims.follow(&self.dir.segments().unwrap());
            interims.tick();
        }

        /// Backend, Call-ID and seconds of the interim records in the journal.
        fn made(&self) -> Vec<(Backend, String, i64)> {
            let mut made = Vec::new();
            for segment in self.dir.segments().unwrap().iter().filter(|s| s.name.rank == INTERIM_RANK) {
                let mut reader = self.dir.read(segment.name, 0).unwrap();
                while let Item::Frame(f) = reader.read().unwrap() {
                    let r = Record::report_of(f.payload).unwrap();
                    assert!(r.is_interim() && r.reported && r.time == Wall(r.times.unwrap().created.0));
                    made.push((r.backend, String::from_utf8(r.core.callid.clone()).unwrap(), r.duration_ms.unwrap() / 1000));
                }
            }
            made
        }
    }

    proptest! {
        /// Independent of when it is asked, and of restarts of the process.
        #[test]
        fn ticks_of_a_call_are_the_same_for_ever(call in any::<Key>(), answered in 0i64..1 << 40, interval in 60i64..86_400, later in 0i64..1 << 40) {
            let interval = interval * 1_000_000;
            let first = next_tick(call, answered, interval, answered);
            prop_assert!((answered + interval * 9 / 10..=answered + interval * 11 / 10).contains(&first));
            let now = answered + later;
            let next = next_tick(call, answered, interval, now);
            prop_assert!(next > now && next - now <= interval.max(first - answered) && (next - first) % interval == 0);
        }
    }

    #[test]
    fn a_call_has_records_at_its_ticks_until_it_ends() {
        let mut p = place(60);
        let db = Types::one(Backend::Db);
        let (a, b) = (answered("a", db.or(Types::one(Backend::Evi))), answered("b", Types::default()));
        p.up(&a);
        p.up(&b);
        let mut interims = p.interims();
        p.look(&mut interims);
        assert_eq!(interims.up.len(), 1, "a call without the flag needs nothing");
        for _ in 0..4 * MINUTE {
            NOW.set(NOW.get() + 1);
            p.look(&mut interims);
            // Every record is delivered at once.
            interims.waiting.clear();
        }
        let made = p.made();
        let ticks: Vec<_> = made.iter().filter(|(b, ..)| *b == Backend::Db).map(|(.., s)| *s).collect();
        assert!((3..=4).contains(&ticks.len()) && (54..=66).contains(&ticks[0]) && ticks.windows(2).all(|w| w[1] - w[0] == 60), "{made:?}");
        assert_eq!(made.iter().filter(|(b, ..)| *b == Backend::Evi).count(), ticks.len());
        // The next record shows a change of the call's state; without the flag there is no record.
        p.worker.append_end(a.call_key(), &[]).unwrap();
        NOW.set(NOW.get() + 5 * MINUTE);
        p.look(&mut interims);
        assert_eq!((p.made(), interims.up.len(), interims.due.len()), (made, 0, 0));
    }

    #[test]
    fn what_was_missed_is_not_made_later() {
        let mut p = place(60);
        let a = answered("a", Types::one(Backend::Db));
        p.up(&a);
        let mut interims = p.interims();
        p.look(&mut interims);
        NOW.set(10 * MINUTE);
        p.look(&mut interims);
        p.look(&mut interims);
        assert_eq!(p.made(), [(Backend::Db, "a".into(), 600)]);
        // Until it is delivered there is no further one.
        NOW.set(20 * MINUTE);
        p.look(&mut interims);
        assert_eq!(p.made().len(), 1);
        let entry = |record: Record| Entry {
            segment: SegmentName { boot: 1, rank: 1, pid: 1, seq: 1 },
            offset: 0,
            end: 1,
            wall: Wall(0),
            payload: Payload::Record(Box::new(record)),
            parked: None,
        };
        let interim = |seconds: i64| {
            entry(decide::interim(&p.config.rules, &a, Types::ALL, Moment { mono: a.arrived.mono + seconds * 1_000_000, ..a.arrived }).remove(0))
        };
        interims.left(SinkId::Db, &interim(600));
        NOW.set(30 * MINUTE);
        p.look(&mut interims);
        assert_eq!(p.made().len(), 2);
        // Another process begins with the next time that is due.
        let mut again = p.interims();
        p.look(&mut again);
        assert_eq!(p.made().len(), 2);
        NOW.set(NOW.get() + 67);
        p.look(&mut again);
        assert_eq!(p.made().len(), 3);

        // Of the records that a sink has not got yet, the last counts; once the call has ended, none does.
        let mut entries = vec![interim(60), interim(180), interim(120), entry(decide::start(&p.config.rules, &a).remove(0))];
        let seconds = |entries: &[Entry]| -> Vec<_> {
            entries.iter().map(|e| if let Payload::Record(r) = &e.payload { r.duration_ms.unwrap() / 1000 } else { 0 }).collect()
        };
        let over = again.superseded(&mut entries, &[], true);
        assert_eq!((seconds(&over), seconds(&entries)), (vec![60, 120], vec![180, 0]));
        p.worker.append_end(a.call_key(), &[]).unwrap();
        assert_eq!(seconds(&again.superseded(&mut entries.clone(), &[], false)), [180]);
        assert_eq!(seconds(&again.superseded(&mut entries, &[], true)), [180, 0]);
        assert!(entries.is_empty());
    }

    #[test]
    fn a_server_may_want_them_at_other_times() {
        let mut p = place(0);
        let a = answered("a", Types::one(Backend::Diameter));
        p.up(&a);
        let mut interims = p.interims();
        p.look(&mut interims);
        NOW.set(24 * 60 * MINUTE);
        p.look(&mut interims);
        assert!(p.made().is_empty(), "interim_interval is 0");
        interims.set_interval(a.call_key(), 5);
        interims.set_interval(1, 100);
        for _ in 0..3 * MINUTE {
            NOW.set(NOW.get() + 1);
            p.look(&mut interims);
            interims.waiting.clear();
        }
        assert_eq!(p.made().len(), 3, "one a minute, which is the shortest");
    }

    #[test]
    fn states_of_an_earlier_start_make_none() {
        let mut p = place(60);
        let a = answered("a", Types::one(Backend::Db));
        p.up(&a);
        // The next start of the server: the lock is released with its last holder.
        let Place { _tmp: tmp, dir, config, worker } = p;
        drop((dir, worker));
        let dir = Dir::open(tmp.path()).unwrap();
        let mut p = Place { worker: Writer::new(&dir, 1, 1, JournalSync::Os, 1 << 20), _tmp: tmp, dir, config };
        let mut interims = p.interims();
        p.look(&mut interims);
        NOW.set(10 * MINUTE);
        p.look(&mut interims);
        assert!(p.made().is_empty());
        // Its dialog came back.
        p.up(&a);
        p.look(&mut interims);
        NOW.set(12 * MINUTE);
        p.look(&mut interims);
        assert_eq!(p.made().iter().map(|(.., s)| *s).collect::<Vec<_>>(), [720]);
    }

    #[test]
    fn a_changed_state_is_read_from_where_it_stands() {
        let mut p = place(60);
        let mut a = answered("a", Types::one(Backend::Db));
        p.up(&a);
        let mut interims = p.interims();
        p.look(&mut interims);
        // The flag is dropped, and the segment with the first state is gone.
        a.marks = Marks::default().add(Types::one(Backend::Db), Flags::parse(b"cdr").unwrap());
        p.up(&a);
        p.look(&mut interims);
        NOW.set(5 * MINUTE);
        p.look(&mut interims);
        assert!(p.made().is_empty());
        a.ended = Some((clock(), EndCause::Caller));
        a.marks = a.marks.add(Types::one(Backend::Db), Flags::parse(b"cdr|interim").unwrap());
        p.up(&a);
        NOW.set(10 * MINUTE);
        p.look(&mut interims);
        assert!(p.made().is_empty(), "its end is known, although its CDR is not written yet");
    }

    /// docs/PERFORMANCE.md: what a call takes in the delivery process.
    #[test]
    fn a_call_takes_little_memory() {
        assert!(size_of::<(Key, Up)>() <= 80 && size_of::<(i64, Key)>() == 16, "{}", size_of::<(Key, Up)>());
    }
}
