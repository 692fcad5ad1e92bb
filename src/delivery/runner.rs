//! One sink's queue: batches, back-off, dead letters, cursor.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::sinks::AnySink;
use super::tail::{Batch, Tail};
use crate::acc::clock::Moment;
use crate::backend::{Commit, Entry, Fate, Positions, Sink, SinkId, Trouble};
use crate::journal::{DeadLetters, Dir, Segment, SegmentName};
use crate::stats::{self, Counter};

/// First pause after a failed attempt; each further one doubles up to `delivery_retry_max`.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Removed segments whose cursor rows go in one transaction; keeps it short after a long outage.
const RETIRED_AT_ONCE: usize = 200;

/// Entries read at once while a sink works: some 100 us, a part of what a database takes for an INSERT.
const READ_AT_ONCE: usize = 32;

/// Looks at a journal that workers append to before its entries are taken as uncountable.
const RECOUNTS: u32 = 20;

/// What the directory looks like, and whether this is the last look.
#[derive(Clone, Default)]
pub struct View {
    pub segments: Arc<Vec<Segment>>,
    /// Deliver what is there, then end; do not wait for a sink in trouble.
    pub closing: bool,
    /// Segments that go although not every sink is past them.
    pub dropping: Arc<BTreeSet<SegmentName>>,
    /// How often delivery at once was asked for.
    pub flushes: u64,
}

/// Which sinks (a bit each) are past the end of a segment.
pub type Finished = Rc<RefCell<HashMap<SegmentName, u8>>>;

/// The queue of one sink.
pub struct Runner {
    pub id: SinkId,
    pub sink: AnySink,
    pub dir: Dir,
    pub view: watch::Receiver<View>,
    pub finished: Finished,
    pub batch_max: usize,
    pub retry_max: Duration,
    outage: Outage,
    dead: DeadLetters,
    /// Positions of the file that are ahead of those the sink keeps itself: they go into its own with
    /// the next batch, and then the file is outdated.
    of_file: Option<Positions>,
    /// What last cut a pause short.
    woken_by: (Arc<BTreeSet<SegmentName>>, u64),
}

/// State of the circuit: closed (`since` is `None`) or open.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    pause: Duration,
    /// Reasons already logged; each is said once per outage.
    said: HashSet<String>,
}

/// The process is ending.
struct Ended;

impl Runner {
    pub fn new(id: SinkId, sink: AnySink, dir: &Dir, view: watch::Receiver<View>, finished: Finished, batch_max: usize, retry_max: Duration) -> Runner {
        Runner {
            id,
            sink,
            dir: dir.clone(),
            view,
            finished,
            batch_max,
            retry_max,
            outage: Outage::default(),
            dead: DeadLetters::new(dir, id),
            of_file: None,
            woken_by: Default::default(),
        }
    }

    /// Delivers until the process ends.
    pub async fn run(mut self) {
        let _ = self.deliver_all().await;
    }

    async fn deliver_all(&mut self) -> Result<(), Ended> {
        let mut tail = self.begin().await?;
        let mut ahead: Option<Batch> = None;
        loop {
            let view = self.view.borrow_and_update().clone();
            if !view.dropping.is_empty() && ahead.take().is_some() {
                // What was read ahead may be of segments that go.
                tail.unread(&Batch::default());
            }
            self.give_up(&mut tail, &Batch::default(), &mut Vec::new());
            let next = match ahead.take() {
                Some(batch) if !batch.is_empty() => Ok(batch),
                // There was nothing behind the last batch; more may have come since that look.
                nothing => {
                    nothing.iter().for_each(|batch| self.done(&mut tail, batch));
                    tail.next_batch(&view.segments, self.batch_max)
                }
            };
            let batch = match next {
                Ok(batch) => batch,
                Err(e) => {
                    // What was read so far is read again from the settled positions.
                    tail.restart(tail.settled().clone(), &view.segments);
                    let reason = format!("journal_dir {} cannot be read ({e}): check the disk and its permissions", self.dir.path().display());
                    self.trouble(reason).await?;
                    continue;
                }
            };
            self.id.state().set_oldest(batch.oldest());
            if batch.is_empty() {
                self.done(&mut tail, &batch);
                if view.closing {
                    return Ok(());
                }
                // The sender lives as long as the runners.
                let _ = self.view.changed().await;
                continue;
            }
            ahead = self.settle(&mut tail, batch, &view.segments).await?;
        }
    }

    fn done(&self, tail: &mut Tail, batch: &Batch) {
        tail.settle(batch);
        let mut finished = self.finished.borrow_mut();
        for name in &batch.ended {
            *finished.entry(*name).or_default() |= 1 << self.id as u8;
        }
    }

    /// The cursor may turn out to be behind segments that this sink was past: they must stay until it
    /// has seen their end again.
    fn reads_again(&self, tail: &Tail) {
        for (_, sinks) in self.finished.borrow_mut().iter_mut().filter(|(name, _)| !tail.is_given_up(**name)) {
            *sinks &= !(1 << self.id as u8);
        }
    }

    /// Finds the cursor. Entries of earlier starts count as accepted, once: not again when only
    /// this process was started anew.
    async fn begin(&mut self) -> Result<Tail, Ended> {
        let state = self.id.state();
        state.set_outage(None);
        let first = state.begins(self.dir.boot());
        // While the sink does not tell how far it is, its file does: entries delivered already may
        // be among those counted.
        let mut counted = None;
        let segments = self.view.borrow().segments.clone();
        let mut tail = Tail::new(&self.dir, self.id, self.dir.cursor(self.id).unwrap_or_default(), &segments);
        let settled = loop {
            let reason = match self.try_open().await {
                Ok(positions) => break positions,
                Err(reason) => reason,
            };
            let view = self.view.borrow_and_update().clone();
            if first {
                if counted.is_none() {
                    let count = self.left_over(&tail, &view.segments);
                    stats::add(self.id.accepted(), count);
                    counted = Some(count);
                }
                let dropped = self.give_up(&mut tail, &Batch::default(), &mut Vec::new());
                counted = counted.map(|n| n.saturating_sub(dropped));
            }
            if !state.has_oldest() && stats::get(self.id.counters().pending) > 0 {
                state.set_oldest(tail.oldest(&view.segments).unwrap_or(None));
            }
            self.trouble(reason).await?;
        };
        let segments = self.view.borrow().segments.clone();
        tail.restart(settled, &segments);
        if first {
            let (count, counted) = (self.left_over(&tail, &segments), counted.unwrap_or(0));
            stats::add(self.id.accepted(), count.saturating_sub(counted));
            stats::add(self.id.delivered(), counted.saturating_sub(count));
        } else if let Err(e) = self.recount(&tail) {
            log::error!("journal_dir {}: {e}: what is in it is delivered, but the counters do not say so", self.dir.path().display());
        }
        Ok(tail)
    }

    /// What a delivery process delivered and could not count, because it was killed, counts; what
    /// it counted before its cursor was stored is counted again.
    fn recount(&self, tail: &Tail) -> std::io::Result<()> {
        let (accepted, boot) = (self.id.accepted(), self.dir.boot());
        for _ in 0..RECOUNTS {
            let before = stats::get(accepted);
            let pending = tail.count(self.dir.segments()?.iter().filter(|s| s.name.boot <= boot))?;
            // Nothing came meanwhile, so that both numbers are of one moment.
            if stats::get(accepted) == before {
                let left = pending + stats::get(self.id.dead());
                stats::set(self.id.delivered(), before.saturating_sub(left));
                stats::add(accepted, left.saturating_sub(before));
                break;
            }
        }
        Ok(())
    }

    fn left_over(&self, tail: &Tail, segments: &[Segment]) -> u64 {
        tail.count(segments.iter().filter(|s| s.name.boot < self.dir.boot())).unwrap_or_else(|e| {
            log::error!("journal_dir {}: {e}: entries of earlier starts are delivered, but not counted", self.dir.path().display());
            0
        })
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
        let stored = self.sink.open(self.dir.id()).await?;
        let mut positions = self.dir.cursor(self.id).map_err(|e| format!("{} cannot be read ({e}): check its permissions", self.dir.cursor_path(self.id)))?;
        self.of_file = None;
        if let Some(stored) = stored {
            // The file also counts for a sink that keeps its own cursor now, but did not all the time.
            let ahead = |(name, position): &(SegmentName, u64)| stored.get(name).is_none_or(|own| own < position);
            self.of_file = (!positions.is_empty()).then(|| positions.iter().map(|(n, p)| (*n, *p)).filter(ahead).collect());
            for (name, own) in stored {
                let position = positions.entry(name).or_insert(own);
                *position = own.max(*position);
            }
        }
        Ok(positions)
    }

    /// Tries until every entry of the batch is delivered or dead. Returns the next batch if it was
    /// read meanwhile.
    async fn settle(&mut self, tail: &mut Tail, mut batch: Batch, segments: &[Segment]) -> Result<Option<Batch>, Ended> {
        let retired = tail.retired(segments, RETIRED_AT_ONCE);
        for u in &batch.unreadable {
            while let Err(e) = self.dead.add_unreadable(u.segment, u.offset, u.wall, u.kind, &u.bytes) {
                self.trouble(dead_letter_trouble(self.id, &e)).await?;
            }
        }
        // More waits behind a full batch: it is read while the sink works on this one.
        let mut reads_ahead = batch.is_full(self.batch_max);
        for (name, position) in self.of_file.iter().flatten() {
            batch.positions.entry(*name).or_insert(*position);
        }
        let mut pending = std::mem::take(&mut batch.entries);
        let mut stored = false;
        let mut ahead = None;
        loop {
            if ahead.take().is_some() {
                tail.unread(&batch);
            }
            self.give_up(tail, &batch, &mut pending);
            let mut commit = Commit { positions: &batch.positions, retired: &retired, dead: &mut self.dead, stored: false };
            let delivery = self.sink.deliver(&pending, &mut commit);
            let fates = if std::mem::take(&mut reads_ahead) {
                let (fates, next) = tokio::join!(biased; delivery, read_ahead(tail, segments, self.batch_max));
                match next {
                    Ok(next) => ahead = Some(next),
                    // The error shows again when its turn comes.
                    Err(_) => tail.unread(&batch),
                }
                fates
            } else {
                delivery.await
            };
            let fates = match fates {
                Ok(fates) => fates,
                Err(Trouble::Outage(reason)) => {
                    self.trouble(reason).await.inspect_err(|_| self.keep_partial(tail, &batch, &pending))?;
                    continue;
                }
                Err(Trouble::Stale) => {
                    self.reads_again(tail);
                    // A transaction whose end this process did not see was committed after all.
                    let positions = self.open().await?;
                    for entry in pending.iter().filter(|e| positions.get(&e.segment).is_some_and(|p| *p >= e.end)) {
                        stats::add(if self.dead.holds(entry) { self.id.dead() } else { self.id.delivered() }, 1);
                    }
                    let passed = batch.unreadable.iter().filter(|u| positions.get(&u.segment).is_some_and(|p| *p > u.offset));
                    stats::add(self.id.dead(), passed.count() as u64);
                    // Should somebody else move the cursor all the time, do not spin.
                    tokio::time::sleep(FIRST_PAUSE).await;
                    tail.restart(positions, segments);
                    return Ok(None);
                }
            };
            stored |= commit.stored;
            let mut left = Vec::new();
            let mut why = None;
            let mut dead_trouble = None;
            let (mut delivered, mut dead) = (0, 0);
            for (entry, fate) in std::mem::take(&mut pending).into_iter().zip(fates.into_iter().chain(std::iter::repeat(Fate::Retry("no answer".into())))) {
                match fate {
                    Fate::Delivered => delivered += 1,
                    Fate::Dead(reason) => {
                        let added = if stored { Ok(()) } else { self.dead.add(&entry, &reason) };
                        match added {
                            Ok(()) => dead += 1,
                            Err(e) => {
                                dead_trouble = Some(dead_letter_trouble(self.id, &e));
                                left.push(entry);
                            }
                        }
                    }
                    Fate::Retry(reason) => {
                        why.get_or_insert(reason);
                        left.push(entry);
                    }
                }
            }
            stats::add(self.id.delivered(), delivered);
            stats::add(self.id.dead(), dead);
            if dead > 0 {
                log::error!("{dead} entries for {} can never be delivered: see {} in journal_dir", self.id.name(), DeadLetters::file_name(self.id));
            }
            if left.is_empty() {
                break;
            }
            pending = left;
            if delivered > 0 {
                self.recovered();
            }
            let reason = dead_trouble.or(why).unwrap_or_default();
            self.trouble(reason).await.inspect_err(|_| self.keep_partial(tail, &batch, &pending))?;
        }
        self.recovered();
        // Entries that could not be decoded were accepted as well.
        stats::add(self.id.dead(), batch.unreadable.len() as u64);
        self.done(tail, &batch);
        tail.forget(&retired);
        let outdated = self.of_file.take().is_some();
        // Left as it is, it would count again should the sink come back with an older cursor.
        let of_file = if stored { outdated.then(Positions::new) } else { Some(tail.settled().clone()) };
        if let Some(of_file) = of_file {
            while let Err(e) = self.dir.set_cursor(self.id, &of_file) {
                self.trouble(format!("{} cannot be written ({e}): give journal_dir space and permissions", self.dir.cursor_path(self.id))).await?;
            }
        }
        self.dead.committed();
        Ok(ahead)
    }

    /// Gives up what the segments that have to go hold for this sink: the entries in hand, and what
    /// was not read yet. Returns how many of them were of earlier starts.
    fn give_up(&self, tail: &mut Tail, batch: &Batch, pending: &mut Vec<Entry>) -> u64 {
        let view = self.view.borrow().clone();
        let mut of_earlier_starts = 0;
        for name in view.dropping.iter().copied().filter(|name| !tail.is_given_up(*name) && !tail.has_ended(*name)).collect::<Vec<_>>() {
            let in_hand = batch.positions.get(&name).copied();
            let behind = match tail.give_up(name, in_hand) {
                Ok(n) => n,
                Err(e) => {
                    log::error!("journal segment {name} cannot be read ({e}): it stays although the journal is full");
                    continue;
                }
            };
            let before = pending.len();
            pending.retain(|e| e.segment != name);
            let dropped = behind + (before - pending.len()) as u64;
            stats::add(self.id.dead(), dropped);
            stats::add(Counter::JournalDropped, dropped);
            if dropped > 0 {
                log::error!(
                    "{dropped} records for {} in journal segment {name} are dropped undelivered: the journal is full (journal_full=drop-oldest)",
                    self.id.name()
                );
                let left = pending.iter().map(|e| e.wall).min();
                self.id.state().set_oldest(left.or_else(|| tail.oldest(&view.segments).unwrap_or(None)));
            }
            if name.boot < self.dir.boot() {
                of_earlier_starts += dropped;
            }
            *self.finished.borrow_mut().entry(name).or_default() |= 1 << self.id as u8;
        }
        of_earlier_starts
    }

    /// At the end: what is still to be delivered of the batch is all that is repeated next time.
    fn keep_partial(&self, tail: &Tail, batch: &Batch, pending: &[Entry]) {
        if self.sink.stores_cursor() {
            return;
        }
        let mut positions = tail.settled().clone();
        positions.extend(&batch.positions);
        let mut first = BTreeMap::new();
        for entry in pending {
            first.entry(entry.segment).or_insert(entry.offset);
        }
        positions.extend(first);
        if let Err(e) = self.dir.set_cursor(self.id, &positions) {
            log::error!("{} cannot be written ({e}): some entries will be sent twice", self.dir.cursor_path(self.id));
        }
    }

    /// An attempt failed: says so once, and waits. `Err`: the process is ending, and this was the
    /// last attempt.
    async fn trouble(&mut self, reason: String) -> Result<(), Ended> {
        if self.outage.since.is_none() {
            self.outage.since = Some(Instant::now());
            self.id.state().set_outage(Some(Moment::now()));
            self.outage.pause = FIRST_PAUSE;
            stats::add(self.id.counters().outages, 1);
        }
        if self.outage.said.len() < 16 && self.outage.said.insert(reason.clone()) {
            log::error!("{}: {reason}. Its records wait in the journal; the attempts go on", self.id.name());
        }
        if self.view.borrow().closing {
            return Err(Ended);
        }
        // Half to all of the pause, so that many servers do not come back in step.
        let micros = self.outage.pause.as_micros() as u64;
        let pause = Duration::from_micros(micros / 2 + crate::journal::random() % (micros / 2 + 1));
        self.outage.pause = (self.outage.pause * 2).min(self.retry_max.max(FIRST_PAUSE));
        let sleep = tokio::time::sleep(pause);
        tokio::pin!(sleep);
        let mut view = self.view.clone();
        loop {
            tokio::select! {
                () = &mut sleep => return Ok(()),
                // At the end of the process one more attempt is made at once.
                changed = view.changed() => if changed.is_err() || view.borrow().closing || self.is_woken() { return Ok(()) },
            }
        }
    }

    /// Must a pause end early? Segments may have to go, or somebody asked for delivery at once.
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

fn dead_letter_trouble(id: SinkId, e: &std::io::Error) -> String {
    format!("{} in journal_dir cannot be written ({e}): give it space and permissions", DeadLetters::file_name(id))
}
