//! One sink's queue: batches, back-off, dead letters, cursor.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::interim::Calls;
use super::rewind::{Rewind, dead_places, rewind};
use super::tail::{AGAIN, Batch, Tail, Unreadable};
use super::view::View;
use crate::accounting::clock::Moment;
use crate::accounting::limited::{BETWEEN, Lines};
use crate::backend::{Aside, Commit, Fate, Sink, Trouble};
use crate::config::Config;
use crate::journal::{Committed, DeadLetters, Dir, Entry, Parking, Positions, Segment, SegmentName, SinkId, merge, parking};
use crate::stats::{self, Counter};

/// First pause after a failed attempt; each further one doubles up to `delivery_retry_max`.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How many removed segments lose their cursor rows in one transaction; keeps it short after a long outage.
const RETIRED_AT_ONCE: usize = 200;

/// How many entries are read at once while a sink works: some 100 µs, a fraction of the time of an INSERT.
const READ_AT_ONCE: usize = 32;

/// How often in a row the cursor may be in an unexpected place. A transaction whose result was not seen explains only one.
const STALE_IN_A_ROW: u32 = 10;

/// Pause before a database that seems to be older than it was is asked again.
const BEHIND: Duration = Duration::from_secs(1);
/// While the stream has a backlog, parked entries get a twentieth of the time.
const REST: u32 = 19;

/// How many entries of the stream may be under way at once. One in a hundred may wait 3 s for an answer that never
/// comes, while 20 000 per second are answered at once.
const UNDER_WAY: usize = 800;
/// How many parked entries may be under way at once: they take room that others need.
const APART_UNDER_WAY: usize = 64;

/// How long a sink is waited for before parked entries are looked at again.
const LOOK_UP: Duration = Duration::from_secs(1);

/// Refused entries are logged at most once in this time.
const TOLD: Duration = Duration::from_secs(60);

/// Attempts to count the entries of a journal while workers append to it.
const RECOUNTS: u32 = 20;

/// Which sinks (one bit each) are past the end of a segment.
pub type Finished = Rc<RefCell<HashMap<SegmentName, u16>>>;

/// Kept segments that the database may not have passed, so they must stay.
pub type Needed = Rc<RefCell<BTreeSet<SegmentName>>>;

/// The queue of one sink.
pub struct Runner {
    pub id: SinkId,
    pub sink: Box<dyn Sink>,
    pub dir: Dir,
    pub view: watch::Receiver<View>,
    pub finished: Finished,
    pub needed: Needed,
    /// Calls that are up.
    calls: Calls,
    pub batch_max: usize,
    pub retry_max: Duration,
    /// Deliver what is there, once, and return.
    pub once: bool,
    outage: Outage,
    aside: Aside,
    /// Entries before the cursor whose fate the sink does not know yet. The cursor in the file does not pass
    /// them.
    under_way: Vec<Entry>,
    /// Segments that are otherwise done.
    almost_ended: Vec<SegmentName>,
    /// The cursor as last written to its file.
    written: Option<Positions>,
    /// Tables that accept nothing, and why.
    tables: HashMap<Arc<str>, String>,
    refused: Refused,
    /// Lines about dead letters.
    buried: Lines,
    /// Positions in the file that are ahead of those that the sink stores itself. The sink stores them with
    /// the next batch, and then the file is outdated.
    of_file: Option<Positions>,
    /// Set if the database turned out to be older than it was.
    rewind: Option<Rewind>,
    /// How often in a row the cursor was in an unexpected place.
    stale: u32,
    /// What last cut a pause short.
    woken_by: (Arc<BTreeSet<SegmentName>>, u64),
}

/// State of the circuit: closed (`since` is `None`) or open.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    pause: Duration,
    /// Reasons already logged; each is logged once per outage.
    said: HashSet<String>,
}

/// Refused entries not logged yet.
#[derive(Default)]
struct Refused {
    count: u64,
    reason: String,
    told: Option<Instant>,
}

/// The process is ending.
struct Ended;

/// Entries of a sink that were read, and whose turn it is.
struct Turns {
    /// The next batch of the stream, if it was read already.
    ahead: Option<Batch>,
    /// It is the turn of parked entries, which alternate with the stream.
    apart: bool,
    /// Until then, parked entries are offered only if the stream is empty.
    rest: Instant,
}

/// Whether there was something to deliver; if not, when to look again.
enum Did {
    Something,
    Nothing(Option<Instant>),
}

/// A batch that is being settled.
struct InHand {
    /// Without its entries.
    batch: Batch,
    /// Removed segments whose positions are deleted with it.
    retired: Vec<SegmentName>,
    /// Entries whose fate is open.
    pending: Vec<Entry>,
    /// The next batch is to be read during the first attempt.
    reads_ahead: bool,
    /// The next batch.
    ahead: Option<Batch>,
    /// The sink has stored the cursor itself.
    stored: bool,
    /// Something was delivered, or is a dead letter.
    progress: bool,
}

/// What became of entries that were given to a sink.
struct Fates {
    delivered: u64,
    dead: u64,
    /// Those that have to be tried again.
    left: Vec<Entry>,
    /// Why the first of these has to be tried again.
    why: Option<String>,
}

impl Runner {
    pub fn new(
        id: SinkId,
        sink: Box<dyn Sink>,
        dir: &Dir,
        view: watch::Receiver<View>,
        (finished, needed, calls): (Finished, Needed, Calls),
        batch_max: usize,
        config: &Config,
    ) -> Runner {
        // Nothing more will arrive.
        let once = view.borrow().closing;
        let retry_max = Duration::from_secs(u64::from(config.delivery_retry_max)).min(sink.pause_max().unwrap_or(Duration::MAX));
        let parking = Parking::new(dir, id, config.limits.segment_max());
        Runner {
            id,
            sink,
            dir: dir.clone(),
            view,
            finished,
            needed,
            calls,
            batch_max,
            retry_max,
            once,
            outage: Outage::default(),
            aside: Aside { dead: DeadLetters::new(dir, id), parking, give_up: config.delivery_give_up },
            under_way: Vec::new(),
            almost_ended: Vec::new(),
            written: None,
            tables: HashMap::new(),
            refused: Refused::default(),
            buried: Lines::none(),
            of_file: None,
            rewind: None,
            stale: 0,
            woken_by: Default::default(),
        }
    }

    /// Delivers until the process ends.
    pub async fn run(mut self) {
        let _ = self.deliver_all().await;
        self.say_buried(Some(self.buried.rest()).filter(|n| *n > 0));
        self.sink.close().await;
    }

    async fn deliver_all(&mut self) -> Result<(), Ended> {
        let mut tail = self.begin().await?;
        let mut turns = Turns { ahead: None, apart: true, rest: Instant::now() };
        // At the end, each parked entry is offered once.
        let mut last = self.once;
        let mut flushes = self.view.borrow().flushes;
        loop {
            let view = self.look();
            if std::mem::replace(&mut flushes, view.flushes) != view.flushes {
                tail.wait_no_more();
            }
            self.let_go(&mut tail, &mut turns, &view);
            self.say_buried(self.buried.sum(0));

            let (apart, mut next_look) = (std::mem::replace(&mut turns.apart, true), None);
            if apart && self.has_time_for_parked(&turns, &view) {
                match self.deliver_parked(&mut tail, &mut turns, &view).await? {
                    Did::Something => continue,
                    Did::Nothing(next) => next_look = next,
                }
            }
            if let Did::Something = self.deliver_stream(&mut tail, &mut turns, &view).await? {
                continue;
            }
            if !apart {
                continue;
            }
            if view.closing {
                if !std::mem::take(&mut last) {
                    return Ok(());
                }
                tail.wait_no_more();
                continue;
            }
            self.wait(&tail, next_look).await;
        }
    }

    /// Gives up what it must: segments that the journal has no room for. Closes full segments of parked entries.
    fn let_go(&mut self, tail: &mut Tail, turns: &mut Turns, view: &View) {
        if !view.dropping.is_empty() && turns.ahead.take().is_some() {
            // Entries read ahead may be from segments about to be removed.
            tail.unread(&Batch::default());
        }
        self.give_up(tail, &Batch::default(), &mut Vec::new());
        self.aside.parking.close(|name, end| tail.is_settled_to(name, end));
    }

    /// How many parked entries are under way.
    fn apart_under_way(&self) -> usize {
        self.under_way.iter().filter(|e| e.parked.is_some()).count()
    }

    /// May parked entries be offered now?
    fn has_time_for_parked(&self, turns: &Turns, view: &View) -> bool {
        let stream_waits = turns.ahead.as_ref().is_some_and(|batch| !batch.is_empty());
        let has_time = !stream_waits || turns.rest <= Instant::now();
        has_time && self.apart_under_way() < APART_UNDER_WAY && (self.once || !view.closing)
    }

    /// Delivers a batch of parked entries. If there is none, says when there will be one.
    async fn deliver_parked(&mut self, tail: &mut Tail, turns: &mut Turns, view: &View) -> Result<Did, Ended> {
        match tail.parked_batch(&view.segments, self.batch_max.min(APART_UNDER_WAY)) {
            // Entries read ahead stay valid: they are from other segments.
            Ok((batch, next)) if batch.is_empty() => {
                self.done(tail, &batch);
                return Ok(Did::Nothing(next));
            }
            Ok((batch, _)) => {
                if turns.ahead.take().is_some() {
                    tail.unread(&batch);
                }
                let begun = Instant::now();
                turns.ahead = self.settle(tail, batch, &view.segments).await?;
                turns.rest = Instant::now() + begun.elapsed() * REST;
                turns.apart = false;
            }
            Err(e) => self.unreadable(tail, &view.segments, &e).await?,
        }
        Ok(Did::Something)
    }

    /// Delivers the next batch of the stream.
    async fn deliver_stream(&mut self, tail: &mut Tail, turns: &mut Turns, view: &View) -> Result<Did, Ended> {
        let batch = match self.next_of_stream(tail, turns.ahead.take(), view) {
            Ok(batch) => batch,
            Err(e) => {
                self.unreadable(tail, &view.segments, &e).await?;
                return Ok(Did::Something);
            }
        };
        let oldest = self.under_way.iter().filter(|e| e.parked.is_none()).map(|e| e.wall).chain(batch.oldest()).min();
        self.id.state().set_oldest(oldest);
        if batch.is_empty() && self.under_way.is_empty() {
            self.done(tail, &batch);
            return Ok(Did::Nothing(None));
        }
        turns.ahead = self.settle(tail, batch, &view.segments).await?;
        Ok(Did::Something)
    }

    /// The batch that was read ahead, otherwise what can be read now.
    fn next_of_stream(&mut self, tail: &mut Tail, ahead: Option<Batch>, view: &View) -> std::io::Result<Batch> {
        match ahead {
            Some(batch) if !batch.is_empty() => Ok(batch),
            // Nothing was left after the last batch; more may have arrived since.
            nothing => {
                nothing.iter().for_each(|batch| self.done(tail, batch));
                let room = UNDER_WAY.saturating_sub(self.under_way.len() - self.apart_under_way());
                tail.next_batch(&view.segments, if self.under_way.is_empty() { self.batch_max } else { self.batch_max.min(room) })
            }
        }
    }

    /// Waits until the coordinator sees something new, or the time has come to look again.
    async fn wait(&mut self, tail: &Tail, mut next_look: Option<Instant>) {
        let mut look_in = |pause| {
            let again = Instant::now() + pause;
            next_look = Some(next_look.map_or(again, |next| next.min(again)));
        };
        if tail.passes_over() {
            look_in(AGAIN);
        }
        // A batch after this one may never come.
        if self.buried.is_behind() {
            look_in(BETWEEN);
        }
        // The sender lives as long as the runners.
        match next_look {
            Some(next) => drop(tokio::time::timeout_at(next.into(), self.view.changed()).await),
            None => drop(self.view.changed().await),
        }
    }

    /// Places whose entries are parked by now.
    pub fn moved(&self) -> Vec<(SegmentName, u64)> {
        self.aside.parking.moved().borrow().iter().copied().collect()
    }

    /// The current segments; for a database, including kept ones that it may need again.
    fn look(&mut self) -> View {
        let view = self.view.borrow_and_update().clone();
        if self.id == SinkId::Db { View { segments: view.with_kept(), ..view } } else { view }
    }

    /// Reads everything again from the settled positions.
    async fn unreadable(&mut self, tail: &mut Tail, segments: &[Segment], e: &std::io::Error) -> Result<(), Ended> {
        tail.restart(tail.settled().clone(), segments);
        self.trouble(format!("journal_dir {} cannot be read ({e}): check the disk and its permissions", self.dir.path().display())).await
    }

    fn done(&mut self, tail: &mut Tail, batch: &Batch) {
        tail.settle(batch);
        self.almost_ended.extend(&batch.ended);
        let under_way = &self.under_way;
        let mut finished = self.finished.borrow_mut();
        let kept = self.view.borrow().kept.clone();
        let needed = &self.needed;
        self.almost_ended.retain(|name| {
            let waits = under_way.iter().any(|e| e.segment == *name);
            if !waits && kept.binary_search_by_key(name, |s| s.name).is_ok() {
                needed.borrow_mut().remove(name);
            } else if !waits {
                *finished.entry(*name).or_default() |= 1 << self.id.index();
            }
            waits
        });
    }

    /// The cursor may turn out to be before segments that this sink was past: they must stay until it
    /// has seen their end again.
    fn reads_again(&self, tail: &Tail) {
        for (_, sinks) in self.finished.borrow_mut().iter_mut().filter(|(name, _)| !tail.is_given_up(**name)) {
            *sinks &= !(1 << self.id.index());
        }
    }

    /// Finds the cursor. Entries of earlier starts are counted as accepted, but only once: not again if only
    /// this process was restarted.
    async fn begin(&mut self) -> Result<Tail, Ended> {
        let state = self.id.state();
        state.set_outage(None);
        let first = state.begins(self.dir.boot());
        // If the sink does not tell how far it is, only its file does: then entries that were delivered
        // already may be counted.
        let mut counted = None;
        let segments = self.view.borrow().segments.clone();
        let moved = self.aside.parking.moved();
        moved.borrow_mut().extend(parking::moved(&self.dir, self.id, &segments));
        let mut tail = Tail::new(&self.dir, self.id, self.dir.cursor(self.id).unwrap_or_default(), &segments, moved);
        let settled = loop {
            let reason = match self.try_open().await {
                Ok(positions) => break positions,
                Err(reason) => reason,
            };
            let view = self.view.borrow_and_update().clone();
            if first {
                if counted.is_none() {
                    let parked = self.parked(&tail, &view.segments);
                    let count = self.left_over(&tail, &view.segments) + parked;
                    stats::add(self.id.accepted(), count);
                    stats::set(self.id.counters().parked, parked);
                    counted = Some(count);
                }
                let dropped = self.give_up(&mut tail, &Batch::default(), &mut Vec::new());
                counted = counted.map(|n| n.saturating_sub(dropped));
            }
            if !state.has_oldest() && stats::get(self.id.counters().pending) > 0 {
                state.set_oldest(tail.oldest(&view.segments));
            }
            self.trouble(reason).await?;
        };
        let view = self.look();
        let segments = view.segments.clone();
        self.aside.parking.avoid(settled.keys().chain(segments.iter().map(|s| &s.name)));
        let rewound = self.rewind.is_some();
        self.restart(&mut tail, settled, &view);
        if first {
            let parked = self.parked(&tail, &segments);
            let (count, counted) = (self.left_over(&tail, &segments) + parked, counted.unwrap_or(0));
            stats::add(self.id.accepted(), count.saturating_sub(counted));
            stats::set(self.id.counters().parked, parked);
            stats::add(self.id.delivered(), counted.saturating_sub(count));
        } else {
            if !rewound {
                stats::add(self.id.dead(), tail.dead_ahead(&segments));
            }
            self.recount_or_say(&tail);
        }
        Ok(tail)
    }

    fn recount_or_say(&self, tail: &Tail) {
        if let Err(e) = self.recount(tail) {
            log::error!("journal_dir {}: {e}: its records are delivered, but the counters do not include them", self.dir.path().display());
        }
    }

    /// Starts again at the positions that the sink has just reported.
    fn restart(&mut self, tail: &mut Tail, positions: Positions, view: &View) {
        if self.id == SinkId::Db && !view.kept.is_empty() {
            self.needed.borrow_mut().extend(view.kept.iter().map(|s| s.name));
        }
        if self.rewind.is_some() || !view.kept.is_empty() {
            self.aside.parking.moved().borrow_mut().extend(parking::moved(&self.dir, self.id, &view.segments));
        }
        // The transaction of a dead letter may not have been completed.
        if self.id == SinkId::Db {
            match dead_places(&self.dir, self.id, &view.segments) {
                Ok(dead) => tail.pass(dead),
                Err(e) => log::error!("the dead letters in journal_dir cannot be read ({e}): some may be delivered; check their permissions"),
            }
        }
        tail.restart(positions, &view.segments);
        if let Some(rewind) = self.rewind.take() {
            rewind.told(&self.dir, self.id, self.moved(), tail, view);
        }
    }

    /// Counts what a killed delivery process had delivered but not counted. What it had counted before its
    /// cursor was stored is counted again.
    fn recount(&self, tail: &Tail) -> std::io::Result<()> {
        let (accepted, boot) = (self.id.accepted(), self.dir.boot());
        for _ in 0..RECOUNTS {
            let before = stats::get(accepted);
            let now = View { segments: Arc::new(self.dir.segments()?), ..self.view.borrow().clone() };
            let all = if self.id == SinkId::Db { now.with_kept() } else { now.segments };
            let parked = self.parked(tail, &all);
            let pending = tail.count(all.iter().filter(|s| s.name.parks_for().is_none() && s.name.boot <= boot));
            // Nothing arrived in the meantime, so both numbers are from the same moment.
            if stats::get(accepted) == before {
                let left = parked + pending + stats::get(self.id.dead());
                stats::set(self.id.counters().parked, parked);
                stats::set(self.id.delivered(), before.saturating_sub(left));
                stats::add(accepted, left.saturating_sub(before));
                break;
            }
        }
        Ok(())
    }

    /// Entries of earlier starts in the stream.
    fn left_over(&self, tail: &Tail, segments: &[Segment]) -> u64 {
        tail.count(segments.iter().filter(|s| s.name.parks_for().is_none() && s.name.boot < self.dir.boot()))
    }

    /// Parked entries.
    fn parked(&self, tail: &Tail, segments: &[Segment]) -> u64 {
        tail.count(segments.iter().filter(|s| s.name.parks_for() == Some(self.id)))
    }

    async fn open(&mut self) -> Result<Positions, Ended> {
        loop {
            match self.try_open().await {
                Ok(positions) => return Ok(positions),
                Err(reason) => self.trouble(reason).await?,
            }
        }
    }

    async fn try_open(&mut self) -> Result<Positions, String> {
        let mut stored = self.sink.open(self.dir.id()).await?;
        if self.is_older(stored.as_ref())?.is_some() {
            // A node of a cluster may be behind for a moment.
            tokio::time::sleep(BEHIND).await;
            stored = self.sink.open(self.dir.id()).await?;
            self.rewind = self.is_older(stored.as_ref())?;
        }
        if let (Some(stored), true) = (&stored, self.rewind.is_some()) {
            // If the file has a state, it is a later one.
            self.of_file = None;
            self.dir.set_cursor(self.id, &Positions::new()).map_err(|e| cursor_file_trouble(&self.dir, self.id, &e))?;
            return Ok(stored.clone());
        }
        let mut positions = self.dir.cursor(self.id).map_err(|e| format!("{} cannot be read ({e}): check its permissions", self.dir.cursor_path(self.id)))?;
        self.of_file = None;
        if let Some(stored) = stored {
            // The file also counts for a sink that stores its own cursor now, but did not do so all the time.
            let ahead = |(name, position): &(SegmentName, u64)| stored.get(name).is_none_or(|own| own < position);
            self.of_file = (!positions.is_empty()).then(|| positions.iter().map(|(n, p)| (*n, *p)).filter(ahead).collect());
            merge(&mut positions, stored);
        }
        if self.id == SinkId::Db && self.sink.is_off() {
            self.add_committed(&mut positions)?;
        }
        Ok(positions)
    }

    /// What the database has committed, now that `db_url` was taken out: it keeps its own cursor. Kept segments were delivered
    /// entirely.
    fn add_committed(&self, positions: &mut Positions) -> Result<(), String> {
        merge(positions, self.committed()?.into_iter().flat_map(|known| known.positions));
        merge(positions, self.view.borrow().kept.iter().map(|kept| (kept.name, kept.size)));
        Ok(())
    }

    fn committed(&self) -> Result<Option<Committed>, String> {
        self.dir.committed().map_err(|e| format!("committed-db in journal_dir cannot be read ({e}): check its permissions"))
    }

    /// Is the database older than in its last known state?
    fn is_older(&self, stored: Option<&Positions>) -> Result<Option<Rewind>, String> {
        let (Some(stored), true) = (stored, self.sink.stores_cursor()) else { return Ok(None) };
        Ok(rewind(self.sink.stamp(), stored, self.committed()?))
    }

    /// Notes what the database has committed.
    fn note_committed(&self, tail: &Tail) {
        let Some(stamp) = self.sink.stamp() else { return };
        let segments = self.view.borrow().segments.clone();
        let there = |(name, _): &(&SegmentName, &u64)| segments.binary_search_by_key(*name, |s| s.name).is_ok();
        let positions = tail.settled().iter().filter(there).map(|(name, position)| (*name, *position)).collect();
        // A note that is too old never makes a database look older.
        let _ = self.dir.set_committed(Some(&Committed { stamp, positions }));
    }

    /// Tries until no entry of the batch has to be tried again: each is delivered, set aside, or under way
    /// with a sink that goes on with it. Returns the next batch if it was read meanwhile.
    async fn settle(&mut self, tail: &mut Tail, batch: Batch, segments: &[Segment]) -> Result<Option<Batch>, Ended> {
        let mut hand = self.take_in_hand(tail, batch, segments).await?;
        loop {
            if let Err(reason) = self.sort_out(tail, &mut hand) {
                self.pause(reason, tail, &hand).await?;
                continue;
            }
            let (fates, stored) = self.offer(tail, &mut hand, segments).await;
            let mut fates = match fates {
                Ok(fates) => fates,
                Err(Trouble::Outage(reason)) => {
                    self.pause(reason, tail, &hand).await?;
                    continue;
                }
                Err(Trouble::Stale) => {
                    self.catch_up(tail, &hand.batch, &hand.pending).await?;
                    return Ok(None);
                }
            };
            self.stale = 0;
            hand.stored |= stored;
            fates.resize(hand.pending.len(), Fate::Retry("no answer".into()));
            if let Some(table) = &hand.batch.queue
                && !hand.stored
                && self.stays_held(table, &fates)
            {
                tail.wait_for_table(table, self.retry_max);
                tail.put_back(&hand.batch);
                return Ok(None);
            }
            // Before the cursor passes them. A sink that stored the cursor has done this itself.
            let aside_trouble = if stored { None } else { self.set_aside(&hand.pending, &mut fates) };
            let Fates { delivered, dead, left, why } = self.take_fates(std::mem::take(&mut hand.pending), fates);
            hand.progress |= delivered + dead > 0;
            if delivered > 0
                && let Some(table) = &hand.batch.queue
            {
                self.table_works(tail, table);
            }
            if left.is_empty() {
                break;
            }
            hand.pending = left;
            hand.pending.append(&mut self.under_way);
            if delivered > 0 {
                self.recovered();
            }
            self.pause(aside_trouble.or(why).unwrap_or_default(), tail, &hand).await?;
        }
        // Entries may have been under way for a long time.
        if hand.progress || self.under_way.is_empty() {
            self.recovered();
        }
        // Each was refused on its own, and has a new copy after the others: they must not be tried again at once.
        if let (Some(table), false) = (&hand.batch.queue, hand.progress) {
            tail.wait_for_table(table, self.retry_max);
        }
        self.pass(tail, &hand.batch, &hand.retired, hand.stored).await?;
        Ok(hand.ahead)
    }

    /// Begins to settle a batch, together with entries that are already under way. What cannot be decoded becomes a dead letter at once.
    async fn take_in_hand(&mut self, tail: &Tail, mut batch: Batch, segments: &[Segment]) -> Result<InHand, Ended> {
        let retired = tail.retired(segments, RETIRED_AT_ONCE);
        while let Err(e) = self.bury_unreadable(&batch.unreadable) {
            let reason = self.aside.dead.trouble(&e);
            self.trouble(reason).await?;
        }
        // There is more after a full batch: it is read while the sink works on this one.
        let room = self.under_way.is_empty() || self.under_way.len() + 2 * self.batch_max <= UNDER_WAY;
        let reads_ahead = batch.is_full(self.batch_max) && batch.of_stream() && room;
        for (name, position) in self.of_file.iter().flatten() {
            batch.positions.entry(*name).or_insert(*position);
        }
        let mut pending = std::mem::take(&mut self.under_way);
        pending.append(&mut batch.entries);
        Ok(InHand { batch, retired, pending, reads_ahead, ahead: None, stored: false, progress: false })
    }

    /// Makes these entries dead letters, which the cursor may then pass.
    fn bury_unreadable(&mut self, unreadable: &[Unreadable]) -> std::io::Result<()> {
        for u in unreadable {
            self.aside.dead.add_unreadable(u.segment, u.offset, u.wall, u.kind, &u.bytes)?;
        }
        self.aside.dead.sync()
    }

    /// Before each attempt: removes from the batch what need not be offered any more. `Err` if it cannot be tried now.
    fn sort_out(&mut self, tail: &mut Tail, hand: &mut InHand) -> Result<(), String> {
        if hand.ahead.take().is_some() {
            tail.unread(&hand.batch);
        }
        self.give_up(tail, &hand.batch, &mut hand.pending);
        // A transaction that failed may have copied some of them: the cursor now passes these.
        self.aside.sync()?;
        hand.pending.retain(|entry| !self.aside.parking.holds(entry));
        self.supersede(&mut hand.pending);
        Ok(())
    }

    /// Gives the sink what is to be delivered, and reads the next batch meanwhile. Also returns whether the sink
    /// stored the cursor.
    async fn offer(&mut self, tail: &mut Tail, hand: &mut InHand, segments: &[Segment]) -> (Result<Vec<Fate>, Trouble>, bool) {
        let mut commit = Commit { positions: &hand.batch.positions, retired: &hand.retired, aside: &mut self.aside, stored: false };
        let (goes_on, mut more) = (self.sink.goes_on(), self.view.clone());
        let (sink, entries) = (&mut self.sink, &hand.pending);
        let delivery = async {
            let delivery = sink.deliver(entries, &mut commit);
            if !goes_on {
                return delivery.await;
            }
            // New entries need not wait for an answer that may never come.
            tokio::select! {
                biased;
                fates = delivery => fates,
                () = interrupted(&mut more) => Ok(vec![Fate::UnderWay; entries.len()]),
            }
        };
        let fates = if std::mem::take(&mut hand.reads_ahead) {
            let (fates, next) = tokio::join!(biased; delivery, read_ahead(tail, segments, self.batch_max));
            match next {
                Ok(next) => hand.ahead = Some(next),
                // The error will come up again when it is this batch's turn.
                Err(_) => tail.unread(&hand.batch),
            }
            fates
        } else {
            delivery.await
        };
        (fates, commit.stored)
    }

    /// Pauses after a failed attempt. When the process is ending, the cursor passes what is settled.
    async fn pause(&mut self, reason: String, tail: &Tail, hand: &InHand) -> Result<(), Ended> {
        self.trouble(reason).await.inspect_err(|_| self.keep_partial(tail, &hand.batch, &hand.pending))
    }

    /// A table that accepted nothing accepts rows again.
    fn table_works(&mut self, tail: &mut Tail, table: &Arc<str>) {
        tail.table_works(table);
        if self.tables.remove(table).is_some() {
            log::warn!("{}: table {table} accepts records again", self.id.name());
        }
    }

    /// The sink's cursor is not where this process expects it: what it has passed is settled, and the rest is read again.
    async fn catch_up(&mut self, tail: &mut Tail, batch: &Batch, pending: &[Entry]) -> Result<(), Ended> {
        self.reads_again(tail);
        // A transaction whose result this process did not see was committed after all.
        let positions = self.open().await?;
        for entry in pending.iter().filter(|e| positions.get(&e.segment).is_some_and(|p| *p >= e.end)) {
            if !self.aside.parking.holds(entry) {
                self.leaves(entry);
                stats::add(if self.aside.dead.holds(entry) { self.id.dead() } else { self.id.delivered() }, 1);
            }
        }
        let passed = batch.unreadable.iter().filter(|u| positions.get(&u.segment).is_some_and(|p| *p > u.offset));
        self.unreadable_are_dead(passed);
        // Do not spin if another process keeps moving the cursor.
        self.stale += 1;
        if self.stale < STALE_IN_A_ROW {
            tokio::time::sleep(FIRST_PAUSE).await;
        } else {
            self.trouble(
                "db_url: the cursor in table acc_delivery is never where this server left it: another server with a copy of this journal_dir, or somebody else, changes its rows. Stop that, and start the other server with an empty journal_dir"
                    .into(),
            )
            .await?;
        }
        let view = self.look();
        self.restart(tail, positions, &view);
        // Obsolete entries are read, and counted, again.
        self.recount_or_say(tail);
        Ok(())
    }

    /// Takes note of what became of entries.
    fn take_fates(&mut self, entries: Vec<Entry>, fates: Vec<Fate>) -> Fates {
        let mut left = Vec::new();
        let mut why = None;
        let (mut delivered, mut dead, mut superseded) = (0, 0, 0);
        for (entry, fate) in entries.into_iter().zip(fates) {
            match fate {
                Fate::Delivered => {
                    self.leaves(&entry);
                    delivered += 1;
                }
                Fate::Dead(_) => {
                    self.leaves(&entry);
                    dead += 1;
                }
                Fate::Refused(reason) => {
                    self.refused.count += 1;
                    self.refused.reason = reason;
                }
                Fate::Held(hold) => self.is_held(hold.queue, hold.reason),
                Fate::Superseded(reason) => {
                    self.leaves(&entry);
                    delivered += 1;
                    superseded += 1;
                    self.refused.count += 1;
                    self.refused.reason = reason;
                }
                Fate::UnderWay => self.under_way.push(entry),
                Fate::Retry(reason) => {
                    why.get_or_insert(reason);
                    left.push(entry);
                }
            }
        }
        for (call, seconds) in self.sink.intervals() {
            self.calls.borrow_mut().set_interval(call, seconds);
        }
        stats::add(self.id.delivered(), delivered);
        stats::add(self.id.dead(), dead);
        stats::add(Counter::InterimSuperseded, superseded);
        self.say_buried(self.buried.sum(dead));
        self.tell_refused();
        Fates { delivered, dead, left, why }
    }

    /// Says how many entries became dead letters, if that is due.
    fn say_buried(&self, number: Option<u64>) {
        if let Some(number) = number {
            log::error!("{number} entries for {} can never be delivered: see {} in journal_dir", self.id.name(), DeadLetters::file_name(self.id));
        }
    }

    /// No entry of the batch has to be tried again, so the cursor passes it.
    async fn pass(&mut self, tail: &mut Tail, batch: &Batch, retired: &[SegmentName], stored: bool) -> Result<(), Ended> {
        // Entries that could not be decoded were accepted as well.
        self.unreadable_are_dead(batch.unreadable.iter());
        self.done(tail, batch);
        tail.forget(retired);
        let outdated = self.of_file.take().is_some();
        // Otherwise it would count again if the sink came back with an older cursor.
        let of_file = if stored { outdated.then(Positions::new) } else { Some(self.of_file(tail.settled(), &Positions::new(), &[])) };
        if let Some(of_file) = of_file.filter(|positions| self.written.as_ref() != Some(positions)) {
            while let Err(e) = self.dir.set_cursor(self.id, &of_file) {
                self.trouble(cursor_file_trouble(&self.dir, self.id, &e)).await?;
            }
            self.written = Some(of_file);
        }
        if stored {
            self.note_committed(tail);
        }
        self.aside.dead.committed();
        Ok(())
    }

    /// Removes obsolete entries: their call has ended, or has a later record.
    fn supersede(&self, pending: &mut Vec<Entry>) {
        let segments = self.view.borrow().segments.clone();
        let over = self.calls.borrow_mut().superseded(pending, &segments, self.id == SinkId::Db);
        if over.is_empty() {
            return;
        }
        over.iter().for_each(|entry| self.leaves(entry));
        stats::add(self.id.delivered(), over.len() as u64);
        stats::add(Counter::InterimSuperseded, over.iter().filter(|entry| entry.is_interim()).count() as u64);
    }

    /// The entry is settled; if it was parked, it no longer is.
    fn leaves(&self, entry: &Entry) {
        self.calls.borrow_mut().left(self.id, entry);
        if entry.parked.is_some() {
            stats::sub(self.id.counters().parked, 1);
        }
    }

    fn unreadable_are_dead<'a>(&self, unreadable: impl Iterator<Item = &'a Unreadable>) {
        for u in unreadable {
            if u.segment.parks_for().is_some() {
                stats::sub(self.id.counters().parked, 1);
            }
            stats::add(self.id.dead(), 1);
        }
    }

    /// Keeps entries that the cursor is about to pass although they were not delivered. Those that cannot be
    /// kept have to be tried again; returns why.
    fn set_aside(&mut self, entries: &[Entry], fates: &mut [Fate]) -> Option<String> {
        let mut trouble = None;
        for (entry, fate) in entries.iter().zip(&mut *fates) {
            if let Err(reason) = self.aside.take(entry, fate) {
                *fate = Fate::Retry(trouble.insert(reason).clone());
            }
        }
        if let Err(reason) = self.aside.sync() {
            for (entry, fate) in entries.iter().zip(fates) {
                // A dead letter that is on the disk must not be offered again.
                if matches!(fate, Fate::Refused(_) | Fate::Held(_)) || matches!(fate, Fate::Dead(_)) && !self.aside.dead.holds(entry) {
                    *fate = Fate::Retry(reason.clone());
                }
            }
            trouble = Some(reason);
        }
        trouble
    }

    /// Does the table accept none of the entries that wait for it?
    fn stays_held(&mut self, table: &Arc<str>, fates: &[Fate]) -> bool {
        let Some(Fate::Held(first)) = fates.first() else { return false };
        let reason = first.reason.clone();
        let all = fates.iter().all(|f| matches!(f, Fate::Held(hold) if hold.all && hold.queue == *table));
        if all {
            self.is_held(table.clone(), reason);
        }
        all
    }

    /// Entries wait for a table: logged once for each reason.
    fn is_held(&mut self, table: Arc<str>, reason: String) {
        if !table.is_empty() && self.tables.get(&table).is_none_or(|said| *said != reason) {
            log::error!("{}: {reason}. Its records wait in the journal; other tables are not affected", self.id.name());
            self.tables.insert(table, reason);
        }
    }

    /// Logs from time to time that entries are refused.
    fn tell_refused(&mut self) {
        let refused = &mut self.refused;
        if refused.count > 0 && refused.told.is_none_or(|told| told.elapsed() > TOLD) {
            log::error!(
                "{} entries for {} were refused while others were accepted; they are retried separately ({}), see delivery_give_up",
                refused.count,
                self.id.name(),
                refused.reason
            );
            *refused = Refused { told: Some(Instant::now()), ..Refused::default() };
        }
    }

    /// The cursor for its file: it passes no entry that is not settled.
    fn of_file(&self, settled: &Positions, batch: &Positions, pending: &[Entry]) -> Positions {
        let mut positions = settled.clone();
        positions.extend(batch);
        for entry in pending.iter().chain(&self.under_way) {
            let position = positions.entry(entry.segment).or_insert(entry.offset);
            *position = entry.offset.min(*position);
        }
        positions
    }

    /// Gives up what segments that must be removed hold for this sink: the entries in hand, and those not read
    /// yet. Returns how many of them were from earlier starts.
    fn give_up(&mut self, tail: &mut Tail, batch: &Batch, pending: &mut Vec<Entry>) -> u64 {
        let view = self.view.borrow().clone();
        let mut of_earlier_starts = 0;
        let concerns = |name: &SegmentName| name.parks_for().is_none_or(|sink| sink == self.id) && !tail.is_given_up(*name) && !tail.has_ended(*name);
        for name in view.dropping.iter().copied().filter(concerns).collect::<Vec<_>>() {
            let in_hand = batch.positions.get(&name).copied();
            // Copied entries are safe in their new place.
            let held = pending.iter().chain(&self.under_way).filter(|e| e.segment == name && self.aside.parking.holds(e)).count();
            let behind = match tail.give_up(name, in_hand) {
                Ok(n) => n,
                Err(e) => {
                    // It stays although the journal is full.
                    self.dir.pass_over(name, &e);
                    continue;
                }
            };
            let in_hand = pending.len() + self.under_way.len();
            pending.retain(|e| e.segment != name);
            self.under_way.retain(|e| e.segment != name);
            let dropped = behind + (in_hand - pending.len() - self.under_way.len() - held) as u64;
            if name.parks_for().is_some() {
                stats::sub(self.id.counters().parked, dropped);
            }
            stats::add(self.id.dead(), dropped);
            stats::add(Counter::JournalDropped, dropped);
            if dropped > 0 {
                log::error!(
                    "{dropped} records for {} in journal segment {name} are dropped undelivered: the journal is full (journal_full=drop-oldest)",
                    self.id.name()
                );
                let left = pending.iter().map(|e| e.wall).min();
                self.id.state().set_oldest(left.or_else(|| tail.oldest(&view.segments)));
            }
            if name.boot < self.dir.boot() {
                of_earlier_starts += dropped;
            }
            *self.finished.borrow_mut().entry(name).or_default() |= 1 << self.id.index();
        }
        of_earlier_starts
    }

    /// At the end, makes sure that only the undelivered part of the batch is repeated next time.
    fn keep_partial(&self, tail: &Tail, batch: &Batch, pending: &[Entry]) {
        if self.sink.stores_cursor() {
            return;
        }
        let positions = self.of_file(tail.settled(), &batch.positions, pending);
        if let Err(e) = self.dir.set_cursor(self.id, &positions) {
            log::error!("{} cannot be written ({e}): some entries will be sent twice", self.dir.cursor_path(self.id));
        }
    }

    /// An attempt failed: logs it once, and waits. `Err`: the process is ending, and this was the last
    /// attempt.
    async fn trouble(&mut self, reason: String) -> Result<(), Ended> {
        if self.outage.since.is_none() {
            self.outage.since = Some(Instant::now());
            self.id.state().set_outage(Some(Moment::now()));
            self.outage.pause = FIRST_PAUSE;
            stats::add(self.id.counters().outages, 1);
        }
        if self.outage.said.len() < 16 && self.outage.said.insert(reason.clone()) {
            log::error!("{}: {reason}. Its records wait in the journal and are retried", self.id.name());
        }
        if self.view.borrow().closing {
            return Err(Ended);
        }
        // Between half and all of the pause, so that many servers do not come back in step.
        let micros = self.outage.pause.as_micros() as u64;
        let pause = Duration::from_micros(micros / 2 + crate::journal::random() % (micros / 2 + 1));
        self.outage.pause = (self.outage.pause * 2).min(self.retry_max.max(FIRST_PAUSE));
        let sleep = tokio::time::sleep(pause);
        tokio::pin!(sleep);
        let mut view = self.view.clone();
        loop {
            tokio::select! {
                () = &mut sleep => return Ok(()),
                // When the process is ending, one more attempt is made at once.
                changed = view.changed() => if changed.is_err() || view.borrow().closing || self.is_woken() { return Ok(()) },
            }
        }
    }

    /// Must a pause end early, because segments must be removed or somebody asked for immediate delivery?
    fn is_woken(&mut self) -> bool {
        let (dropping, flushes) = {
            let view = self.view.borrow();
            (view.dropping.clone(), view.flushes)
        };
        let flushed = self.woken_by.1 != flushes;
        if flushed {
            self.outage.pause = FIRST_PAUSE;
        }
        let woken = flushed || !Arc::ptr_eq(&self.woken_by.0, &dropping);
        self.woken_by = (dropping, flushes);
        woken
    }

    fn recovered(&mut self) {
        if let Some(since) = self.outage.since.take() {
            self.id.state().set_outage(None);
            log::warn!("{}: delivers again after {} s", self.id.name(), since.elapsed().as_secs());
            self.outage.said.clear();
        }
    }
}

/// Reads the next batch, some entries at a time, so that an answer to the sink does not wait for it.
async fn read_ahead(tail: &mut Tail, segments: &[Segment], max: usize) -> std::io::Result<Batch> {
    let mut batch = tail.new_batch(segments);
    let mut end = READ_AT_ONCE.min(max);
    while tail.read_into(&mut batch, segments, end)? && !batch.is_full(max) {
        end = (end + READ_AT_ONCE).min(max);
        tokio::task::yield_now().await;
    }
    Ok(batch)
}

fn cursor_file_trouble(dir: &Dir, id: SinkId, e: &std::io::Error) -> String {
    format!("{} cannot be written ({e}): check the free space and permissions of journal_dir", dir.cursor_path(id))
}

/// Waits until there is more to do than to wait for the sink.
async fn interrupted(view: &mut watch::Receiver<View>) {
    let _ = tokio::time::timeout(LOOK_UP, view.changed()).await;
}
