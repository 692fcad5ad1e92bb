//! The delivery process: brings the journal's entries to their sinks.
//!
//! One task per sink follows all segments at its own pace, so that a dead SQL server delays
//! neither syslog nor RADIUS. The coordinator looks at the directory (five times a second, and when
//! woken by the first record after a pause), syncs what `journal_sync=batch` promises, and removes segments that every sink is past.
//! This is the only place that runs tokio, and it starts it after the fork.
#![forbid(unsafe_code)]

mod input;
mod interim;
mod kept;
mod rewind;
mod runner;
mod sinks;
mod tail;
mod view;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet};

use crate::accounting::clock::Moment;
use crate::backend::Sink;
use crate::journal::calls::CARRY_RANK;
use crate::journal::counts::CallCounts;
use crate::journal::limit::{self, Found, Limits, WhenFull};
use crate::journal::{Dir, HEADER_LENGTH, JournalSync, Segment, SegmentName, SinkId, Writer, free_removed};
use crate::stats::{self, Counter};
pub use input::Delivery;
use interim::{Calls, Interims};
use kept::KeptSegments;
pub use rewind::shown;
use runner::{Finished, Runner};
use sinks::{Held, Off};
use view::View;

/// Longest time between two looks at the directory. It is also the loss window of
/// `journal_sync=batch` after a power cut, which its documentation gives as 200 ms. While records keep
/// coming it is also the shortest time: they are delivered in batches, and workers need not wake anybody.
const LOOK: Duration = Duration::from_millis(200);
/// How long a database that does not answer may keep the process that is ending.
const LET_GO: Duration = Duration::from_millis(50);
/// How often the free disk space is checked, and a sign of life left: even a busy server does not fill much
/// of the disk in this time, and calls that a crash cuts off are billed this precisely.
const SECOND: Duration = Duration::from_secs(1);
/// How long a segment that cannot be removed waits for the next attempt.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How long [`run`] goes on delivering after it was told to stop. Hosts kill children that take
/// much longer; the rest waits in the journal for the next start.
const DRAIN: Duration = Duration::from_secs(2);
/// From how many bytes on an allocation of the delivery process is a mapping of its own, and how many free bytes go back to
/// the system. These are the C library's own initial values, which would otherwise grow with what is freed: with 100 000 calls
/// up, and interim records in SQLite, the process kept 29.6 MB instead of 21.5.
pub const HEAP_THRESHOLD: i32 = 128 << 10;
/// Largest size of segments that hold only calls in progress.
const CARRY_SEGMENT: u64 = 4 << 20;
/// Every sink has seen the end of a segment.
const ALL_SINKS: u16 = ((1 << SinkId::COUNT) - 1) as u16;

/// Why the delivery process cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// No runtime, no eventfd.
    #[error("the delivery process cannot start: {0}")]
    System(#[from] io::Error),
    /// A destination cannot be used.
    #[error("{0}")]
    Sink(String),
    /// A task panicked. The journal and all cursors are consistent, so [`run`] may be called again.
    #[error("the delivery to {0} ended unexpectedly; its records wait in the journal")]
    Task(&'static str),
}

/// Delivers until told to stop. Call it in a separate process, after the fork.
pub fn run(delivery: Delivery) -> Result<(), DeliveryError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, coordinate(delivery));
    runtime.shutdown_timeout(LET_GO);
    result
}

async fn coordinate(mut delivery: Delivery) -> Result<(), DeliveryError> {
    let wake = match delivery.wake.take() {
        Some(fd) => Some(register(fd)?),
        None => None,
    };
    let mut directory = Directory::new(&delivery);
    let closing = delivery.only_what_is_there.is_some();
    // Segments that are missing now are gone for good, so the runners forget their cursors.
    let (publish, view) = watch::channel(View { segments: Arc::new(delivery.dir.segments()?), closing, kept: directory.kept.segments(), ..View::default() });
    let runners = start_runners(&mut delivery, &directory, &view)?;
    drop(view);

    let time = match delivery.only_what_is_there {
        Some(limit) => limit,
        None => {
            follow(&delivery, &mut directory, &publish, &runners, wake.as_ref()).await?;
            directory.publish(&publish, true);
            DRAIN
        }
    };
    let _ = tokio::time::timeout(time, drain(runners)).await;
    directory.publish(&publish, true);
    if directory.owed.is_some() {
        let _ = directory.counts.keep(&directory.dir);
    }
    Ok(())
}

/// One task for each sink.
type Runners = Vec<(SinkId, JoinHandle<()>)>;

fn start_runners(delivery: &mut Delivery, directory: &Directory, view: &watch::Receiver<View>) -> Result<Runners, DeliveryError> {
    let mut runners = Vec::new();
    for id in SinkId::ALL {
        let sink = make_sink(id, delivery).map_err(DeliveryError::Sink)?;
        let max = delivery.config.delivery_batch.max(1).min(sink.batch_max());
        let of_all = (directory.finished.clone(), directory.kept.needed.clone(), directory.calls.clone());
        let runner = Runner::new(id, sink, &delivery.dir, view.clone(), of_all, max, &delivery.config);
        runners.push((id, tokio::task::spawn_local(runner.run())));
    }
    Ok(runners)
}

/// Keeps looking at the directory until told to stop.
async fn follow(
    delivery: &Delivery,
    directory: &mut Directory,
    publish: &watch::Sender<View>,
    runners: &Runners,
    wake: Option<&AsyncFd<OwnedFd>>,
) -> Result<(), DeliveryError> {
    let mut records_come = false;
    while !delivery.stop.load(Ordering::Relaxed) {
        if records_come {
            tokio::time::sleep(LOOK).await;
        } else {
            wait(wake).await;
        }
        records_come = stats::bell().hear();
        if let Some((id, _)) = runners.iter().find(|(_, runner)| runner.is_finished()) {
            return Err(DeliveryError::Task(id.name()));
        }
        directory.every_second();
        directory.publish(publish, false);
        directory.report(publish);
        if delivery.config.journal_sync == JournalSync::Batch {
            let segments = publish.borrow().segments.clone();
            directory.sync_appended(&segments);
        }
    }
    Ok(())
}

/// Waits until every runner has delivered what it can.
async fn drain(runners: Runners) {
    for (id, runner) in runners {
        if runner.await.is_err() {
            log::error!("{}", DeliveryError::Task(id.name()));
        }
    }
}

#[expect(deprecated, reason = "unsound only for types that may close the descriptor while it is registered; an OwnedFd cannot, and the other way needs unsafe")]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Waits until woken, but not longer than [`LOOK`].
async fn wait(wake: Option<&AsyncFd<OwnedFd>>) {
    let Some(fd) = wake else {
        tokio::time::sleep(LOOK).await;
        return;
    };
    if !stats::bell().wait() {
        return;
    }
    if let Ok(Ok(mut ready)) = tokio::time::timeout(LOOK, fd.readable()).await {
        let mut count = [0; 8];
        let _ = rustix::io::read(fd.get_ref(), &mut count);
        ready.clear_ready();
    }
}

fn make_sink(id: SinkId, delivery: &mut Delivery) -> Result<Box<dyn Sink>, String> {
    if let Some(i) = delivery.makers.iter().position(|(of, _)| *of == id) {
        return delivery.makers.swap_remove(i).1();
    }
    match delivery.config.destinations.get(id) {
        Some(settings) => settings.sink(&delivery.config.rules.fields),
        // A server without the parameter will never deliver them; a tool that lacks it may be given it later.
        None if delivery.only_what_is_there.is_some() => Ok(Box::new(Held(id))),
        None => Ok(Box::new(Off(id))),
    }
}

/// Can the delivery process close this segment, which a worker or this process has open? Parked entries have a writer of their
/// own, which closes what is done.
fn is_closable(dir: &Dir, segment: &Segment) -> bool {
    let name = segment.name;
    !segment.sealed && name.boot == dir.boot() && name.rank != CARRY_RANK && name.parks_for().is_none() && segment.size > HEADER_LENGTH
}

/// A number of bytes, for the log.
fn amount(bytes: u64) -> String {
    if bytes < 10 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

/// What else counts as taken, for the log.
fn reserved(limits: Limits, owed: u64) -> String {
    let is_promised = limits.when_full == WhenFull::Refuse && owed > 0;
    if is_promised { format!(", {} are reserved for what is already accepted", amount(owed)) } else { String::new() }
}

/// The coordinator's side of the journal directory.
struct Directory {
    dir: Dir,
    finished: Finished,
    /// Segments that every sink has passed, not yet removed.
    kept: KeptSegments,
    /// How many bytes of each segment of this start are known to be on the disk.
    synced: Arc<Mutex<HashMap<SegmentName, u64>>>,
    syncing: Option<JoinHandle<()>>,
    /// Calls in progress, whose states must not be lost with their segments, and which may have records while they are up.
    calls: Calls,
    /// Where these states are copied to.
    carry: Writer,
    /// Size at which a segment of such copies is closed.
    carry_max: u64,
    /// How large the journal may get, and what happens then.
    limits: Limits,
    owed: Option<fn() -> u64>,
    /// Free bytes of the disk, updated once a second.
    free: Option<u64>,
    /// The statistics of calls that are kept in the directory.
    counts: CallCounts,
    /// When the last second began.
    second: Option<Instant>,
    /// Since when the journal has been full, by the monotonic clock in µs.
    full: Option<i64>,
    /// Segments that are removed before every sink is past them.
    dropping: Arc<BTreeSet<SegmentName>>,
    /// Segments that were closed here while their writers have them open; `None` before the first look, when an earlier delivery
    /// process may have closed some.
    closed: Option<BTreeSet<SegmentName>>,
    /// Failures that have been logged; each is logged once, until it is over.
    look_failed: bool,
    stuck: Option<Stuck>,
}

/// A segment that every sink is past and that could not be removed.
struct Stuck {
    name: SegmentName,
    /// When it was last tried.
    since: Instant,
}

impl Directory {
    fn new(delivery: &Delivery) -> Directory {
        // In a small journal, a large one would fill it long after its calls have ended.
        let carry_max = delivery.config.limits.segment_max().min(CARRY_SEGMENT);
        let carry = Writer::new(&delivery.dir, CARRY_RANK, std::process::id(), delivery.config.journal_sync, carry_max);
        Directory {
            dir: delivery.dir.clone(),
            finished: Finished::default(),
            kept: KeptSegments::new(delivery),
            synced: Arc::default(),
            syncing: None,
            calls: Rc::new(RefCell::new(Interims::new(&delivery.dir, &delivery.config, delivery.clock))),
            carry: carry.syncing_at_end(),
            carry_max,
            limits: delivery.config.limits,
            owed: delivery.owed,
            free: None,
            counts: CallCounts::default(),
            second: None,
            full: stats::full_since(),
            dropping: Arc::default(),
            closed: None,
            look_failed: false,
            stuck: None,
        }
    }

    fn publish(&mut self, to: &watch::Sender<View>, closing: bool) {
        self.remove_finished();
        let before = to.borrow().segments.clone();
        let segments = match self.dir.segments_after(&before) {
            Ok(mut segments) => {
                self.look_failed = false;
                self.note_closed(&mut segments);
                self.judge(&mut segments);
                Some(segments)
            }
            Err(e) => {
                if !std::mem::replace(&mut self.look_failed, true) {
                    log::error!("journal_dir {} cannot be read ({e}): check the disk and its permissions", self.dir.path().display());
                }
                // The last result stays valid: an empty one would mean that all segments are gone.
                None
            }
        };
        let kept = self.kept.segments();
        to.send_if_modified(|view| {
            let flushes = stats::flushes();
            let mut changed = view.closing != closing || view.flushes != flushes || !Arc::ptr_eq(&view.dropping, &self.dropping);
            changed |= !Arc::ptr_eq(&view.kept, &kept);
            view.kept = kept;
            view.closing = closing;
            view.flushes = flushes;
            view.dropping = self.dropping.clone();
            if let Some(segments) = segments
                && *view.segments != segments
            {
                view.segments = Arc::new(segments);
                changed = true;
            }
            changed
        });
    }

    /// Makes the interim records that are due.
    fn report(&mut self, view: &watch::Sender<View>) {
        // With an old list of segments, some would be counted twice.
        if self.owed.is_none() || self.look_failed || !stats::has_reports() {
            return;
        }
        let segments = view.borrow().segments.clone();
        let mut calls = self.calls.borrow_mut();
        calls.follow(&segments);
        calls.tick();
    }

    /// Once a second: looks at the disk, and leaves a sign of life.
    fn every_second(&mut self) {
        if self.second.is_some_and(|s| s.elapsed() < SECOND) {
            return;
        }
        self.second = Some(Instant::now());
        self.free = self.dir.free_bytes().ok();
        // accctl owes no calls and is not a server. If the directory is gone, looking at it reports that.
        if self.owed.is_some() {
            let _ = self.dir.still_alive();
            let _ = self.counts.keep(&self.dir);
        }
    }

    /// Checks whether the journal is full, and tells workers and runners.
    fn judge(&mut self, segments: &mut [Segment]) {
        let owed = self.owed.map_or(0, |owed| owed());
        let bytes = segments.iter().map(|s| s.size).sum::<u64>();
        // Kept segments are removed before anything is lost.
        if self.kept.leave_room(self.limits, bytes + owed, self.free) {
            self.free = self.dir.free_bytes().ok();
        }
        let found = Found { bytes: bytes + self.kept.bytes(), free: self.free, owed };
        stats::set(Counter::JournalBytes, found.bytes);
        self.close_open(segments, found, bytes);
        let verdict = self.limits.judge(found, self.full.is_some());
        let path = self.dir.path().display();
        match (self.full, verdict.full) {
            (None, true) => {
                let now = Moment::now();
                self.full = Some(now.mono);
                stats::set_full_since(Some(now));
                log::error!(
                    "the journal in {path} is full: it takes {}{}, and its disk has {} free (parameters journal_max_size, journal_min_free); {}",
                    amount(found.bytes),
                    reserved(self.limits, owed),
                    found.free.map_or_else(|| "? MiB".into(), amount),
                    self.limits.when_full.told()
                );
            }
            (Some(since), false) => {
                self.full = None;
                stats::set_full_since(None);
                log::warn!("the journal in {path} has room again after {} s", (Moment::now().mono - since) / 1_000_000);
            }
            _ => {}
        }
        self.choose_dropped(segments, verdict.excess);
    }

    /// Closes what is being written, if that makes room: a writer that appends nothing more would keep what is long delivered.
    fn close_open(&mut self, segments: &mut [Segment], found: Found, all: u64) {
        // Most of the time even all of it is too little.
        if !self.limits.wants_closed(found, all, all) {
            return;
        }
        let idle_carry = self.idle_carry();
        let may_close = |dir: &Dir, s: &Segment| is_closable(dir, s) || !s.sealed && Some(s.name) == idle_carry;
        let open = segments.iter().filter(|s| may_close(&self.dir, s)).map(|s| s.size).sum();
        if !self.limits.wants_closed(found, all, open) {
            return;
        }
        for segment in segments {
            if Some(segment.name) == idle_carry {
                self.carry.close();
                segment.sealed = true;
            } else if is_closable(&self.dir, segment) {
                self.close(segment);
            }
        }
    }

    /// The segment that states are carried over to, if most of what is in it is not needed any more.
    fn idle_carry(&self) -> Option<SegmentName> {
        let name = self.carry.segment()?;
        (self.calls.borrow_mut().tracker().needed(name) < self.dir.size(name).ok()? / 2).then_some(name)
    }

    /// Closes a segment that its writer has open, unless that is just appending. False if it stays open.
    fn close(&mut self, segment: &mut Segment) -> bool {
        let mark = segment.name.mark();
        if !stats::pen_of(mark).is_some_and(|pen| pen.close(mark)) {
            return false;
        }
        self.closed.get_or_insert_default().insert(segment.name);
        // Its writer may have appended since the directory was read.
        let Ok(size) = self.dir.size(segment.name) else { return false };
        (segment.size, segment.sealed) = (size, true);
        true
    }

    /// Marks segments as sealed that were closed here, or by an earlier delivery process, while their writers have them open.
    fn note_closed(&mut self, segments: &mut [Segment]) {
        let known = self.closed.take();
        let is_closed = |name: SegmentName| {
            let mark = name.mark();
            known.as_ref().map_or_else(|| stats::pen_of(mark).is_some_and(|pen| pen.is_closed(mark)), |known| known.contains(&name))
        };
        let mut closed = BTreeSet::new();
        for segment in segments.iter_mut().filter(|s| s.name.boot == self.dir.boot() && is_closed(s.name)) {
            closed.insert(segment.name);
            if !segment.sealed
                && let Ok(size) = self.dir.size(segment.name)
            {
                (segment.size, segment.sealed) = (size, true);
            }
        }
        self.closed = Some(closed);
    }

    /// Marks the oldest segments for removal, until they add up to `excess` bytes.
    fn choose_dropped(&mut self, segments: &mut [Segment], excess: u64) {
        // A segment that cannot be read cannot be removed either.
        let dir = self.dir.clone();
        let names: BTreeSet<_> = segments.iter().map(|s| s.name).filter(|name| !dir.is_passed_over(*name)).collect();
        let there = |name: &SegmentName| names.contains(name);
        let mut dropping: BTreeSet<_> = self.dropping.iter().copied().filter(there).collect();
        let going: u64 = segments.iter().filter(|s| dropping.contains(&s.name)).map(|s| s.size).sum();
        if excess > going {
            // Segments of carried-over calls contain no records to give up.
            let may_go = |s: &Segment| (s.sealed || is_closable(&self.dir, s)) && s.name.rank != CARRY_RANK;
            let rest = segments.iter().filter(|s| may_go(s) && there(&s.name) && !dropping.contains(&s.name));
            let dated = rest.filter_map(|s| Some((self.dir.modified(s.name).ok()?, s.name, s.size))).collect();
            for name in limit::oldest(dated, excess - going) {
                let Ok(at) = segments.binary_search_by_key(&name, |s| s.name) else { continue };
                // While its writer appends, it is not among the oldest any more.
                if segments[at].sealed || self.close(&mut segments[at]) {
                    dropping.insert(name);
                }
            }
        }
        if dropping != *self.dropping {
            self.dropping = Arc::new(dropping);
        }
    }

    /// Removes segments that every sink is past, or keeps them. One that cannot be removed is tried again after a pause.
    fn remove_finished(&mut self) {
        if self.stuck.as_ref().is_some_and(|stuck| stuck.since.elapsed() < TRY_AGAIN) {
            return;
        }
        let complete = self.complete();
        let mut going = false;
        let mut followed = false;
        for name in complete {
            match self.let_go(name, followed) {
                Ok(appended) => {
                    (followed, going) = (!appended, true);
                    self.finished.borrow_mut().remove(&name);
                    if self.stuck.as_ref().is_some_and(|stuck| stuck.name == name) {
                        self.stuck = None;
                    }
                }
                Err(why) => {
                    if self.stuck.is_none() {
                        log::error!("{why}");
                    }
                    // What stops one usually stops the others as well; the next attempt begins with another one.
                    self.stuck = Some(Stuck { name, since: Instant::now() });
                    break;
                }
            }
        }
        // A removed segment must not come back after its cursor is forgotten.
        if going && let Err(e) = self.dir.sync() {
            log::warn!("journal_dir {} cannot be synced ({e}): check the disk", self.dir.path().display());
        }
    }

    /// Segments that every sink is past. The one that could not be removed comes last.
    fn complete(&self) -> Vec<SegmentName> {
        let finished = self.finished.borrow();
        let mut complete: Vec<_> = finished
            .iter()
            .filter(|(name, sinks)| {
                // Parked entries concern one sink.
                let all = name.parks_for().map_or(ALL_SINKS, |sink| 1 << sink.index());
                **sinks & all == all
            })
            .map(|(name, _)| *name)
            .collect();
        // Segments of carried-over calls are removed only when most of their calls have ended: otherwise
        // the rest would be copied again with every look.
        let mut calls = self.calls.borrow_mut();
        complete.retain(|name| name.rank != CARRY_RANK || calls.tracker().needed(*name) < self.carry_max / 2);
        complete.sort_unstable();
        if let Some(stuck) = &self.stuck {
            let behind = complete.partition_point(|name| *name <= stuck.name);
            complete.rotate_left(behind);
        }
        complete
    }

    /// Carries over what is needed of a segment, and removes or keeps it. Returns whether anything was carried over. `Err`: why it stays.
    fn let_go(&mut self, name: SegmentName, followed: bool) -> Result<bool, String> {
        let mut calls = self.calls.borrow_mut();
        // Once for all segments to be removed, but again after one whose ends were carried over: states in
        // later ones need not be carried over then.
        let known = if followed { Ok(()) } else { self.dir.segments().map(|segments| calls.follow(&segments)) };
        let released = known.and_then(|()| calls.tracker().release(name, &mut self.carry)).map_err(|e| {
            format!("journal segment {name} is delivered, but cannot be removed: its calls in progress cannot be copied ({e}): check the free space and permissions of journal_dir")
        })?;
        let appended = released.has_appended();
        let still_open = self.closed.as_ref().is_some_and(|closed| closed.contains(&name));
        let file = still_open.then(|| self.dir.open_file(&name.to_string(), OFlags::WRONLY).ok()).flatten();
        self.kept.take(name)?;
        file.iter().for_each(free_removed);
        if let Some(pen) = stats::pen_of(name.mark()) {
            pen.give_back(name.mark());
        }
        calls.tracker().forget(released);
        calls.gone(name);
        Ok(appended)
    }

    /// Starts a sync of what was appended, unless one is still under way. A thread does it: a slow
    /// disk must not hold up the sinks.
    fn sync_appended(&mut self, segments: &[Segment]) {
        if self.syncing.as_ref().is_some_and(|s| !s.is_finished()) {
            return;
        }
        let (dir, synced) = (self.dir.clone(), self.synced.clone());
        let mut behind = Vec::new();
        let mut new_names = false;
        {
            let mut synced = synced.lock().unwrap_or_else(PoisonError::into_inner);
            synced.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
            for segment in segments.iter().filter(|s| s.name.boot == dir.boot()) {
                let known = synced.get(&segment.name).copied();
                new_names |= known.is_none();
                if known.unwrap_or(0) < segment.size {
                    behind.push(*segment);
                }
            }
        }
        if behind.is_empty() {
            return;
        }
        self.syncing = Some(tokio::task::spawn_blocking(move || {
            for segment in behind {
                let file = match dir.open_segment(segment.name) {
                    Ok(file) => file,
                    // Delivered and removed in the meantime.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => {
                        dir.pass_over(segment.name, &e);
                        continue;
                    }
                };
                match file.sync_data() {
                    Ok(()) => drop(synced.lock().unwrap_or_else(PoisonError::into_inner).insert(segment.name, segment.size)),
                    Err(e) => {
                        log::error!("journal segment {} cannot be synced ({e}): what was appended may be lost in a power cut; check the disk", segment.name)
                    }
                }
            }
            if new_names && let Err(e) = dir.sync() {
                log::error!("journal_dir {} cannot be synced ({e}): check the disk", dir.path().display());
            }
        }));
    }
}
