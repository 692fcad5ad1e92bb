//! The delivery process: brings the journal's entries to their sinks.
//!
//! One task per sink follows all segments at its own pace, so that a dead SQL server delays
//! neither syslog nor RADIUS. The coordinator looks at the directory (five times a second, and when
//! woken by the first record after a pause), syncs what `journal_sync=batch` promises, and removes segments that every sink is past.
//! This is the only place that runs tokio, and it starts it after the fork.
#![forbid(unsafe_code)]

mod runner;
mod sinks;
mod tail;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet};

use crate::acc::clock::Moment;
use crate::backend::sql::{ForeignSink, SqlSink};
use crate::backend::syslog::{DEV_LOG, SyslogSink};
use crate::backend::{HostDatabase, RecordSender, SENDER_BATCH, SinkId};
use crate::config::{Config, JournalSync};
use crate::journal::calls::{CARRY_RANK, Tracker};
use crate::journal::limit::{self, Found, Limits};
use crate::journal::{Dir, Segment, SegmentName, Writer};
use crate::stats::{self, Counter};
use runner::{Finished, Runner, View};
use sinks::AnySink;

/// Longest time between two looks at the directory. It is also the loss window of
/// `journal_sync=batch` after a power cut, which its documentation gives as 200 ms. While records
/// come it is the shortest time as well: they go in batches, and workers need not wake anybody.
const LOOK: Duration = Duration::from_millis(200);
/// How long a database that does not answer may keep the process that is ending.
const LET_GO: Duration = Duration::from_millis(50);
/// How often the free space of the disk is asked for, and a sign of life left: the disk of a busy
/// server does not fill much in that time, and a call that a crash cuts off is billed this exactly.
const SECOND: Duration = Duration::from_secs(1);
/// How long [`run`] goes on delivering after it was told to stop. Hosts kill children that take
/// much longer; what is left waits in the journal for the next start.
const DRAIN: Duration = Duration::from_secs(2);
/// Size of such a segment: they hold only calls in progress.
const CARRY_SEGMENT: u64 = 4 << 20;
/// Every sink has seen the end of a segment.
const ALL_SINKS: u8 = (1 << SinkId::ALL.len()) - 1;

/// Makes the RADIUS client; called in the delivery process, inside its runtime.
pub type MakeSender = Box<dyn FnOnce() -> Result<Box<dyn RecordSender>, String>>;

/// What the delivery process needs.
pub struct Delivery {
    /// Parameters.
    pub config: Config,
    /// The journal, opened before the fork.
    pub dir: Dir,
    /// An eventfd made before the fork; workers whose ring of the bell says so add to it, so that
    /// delivery starts at once. Without it (or without their adding) it starts within 200 ms.
    pub wake: Option<OwnedFd>,
    /// Set by the handler of SIGTERM: deliver what can be delivered in 2 s, then return.
    pub stop: Arc<AtomicBool>,
    /// The syslog socket, see [`crate::backend::syslog::DEV_LOG`].
    pub log_socket: PathBuf,
    /// The RADIUS client; needed when `aaa_url` is set.
    pub aaa: Option<MakeSender>,
    /// The server's own database module, when `db_url` is left to one.
    pub database: Option<Box<dyn HostDatabase>>,
    /// Told which tables the SQL database has.
    pub tables: Option<fn(&[String])>,
    /// Asked how many bytes the records of requests and calls accepted already may take yet.
    pub owed: Option<fn() -> u64>,
    /// Deliver what is there, for at most this long, then return (for `accctl deliver`). Entries
    /// of sinks that are not configured then stay in the journal.
    pub only_what_is_there: Option<Duration>,
}

impl Delivery {
    /// Of this journal until told to stop, to SQL databases that this module serves itself and to
    /// the machine's syslog.
    pub fn new(config: Config, dir: Dir) -> Delivery {
        Delivery {
            config,
            dir,
            wake: None,
            stop: Arc::default(),
            log_socket: DEV_LOG.into(),
            aaa: None,
            database: None,
            tables: None,
            owed: None,
            only_what_is_there: None,
        }
    }
}

/// Why the delivery process cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// No runtime, no eventfd.
    #[error("the delivery process cannot start: {0}")]
    System(#[from] io::Error),
    /// `db_url` cannot be used.
    #[error("{0}")]
    Db(String),
    /// A task panicked; the journal and every cursor are as they should be, so [`run`] may be called again.
    #[error("the delivery to {0} ended unexpectedly; its records wait in the journal")]
    Task(&'static str),
    /// The RADIUS client cannot be made.
    #[error("aaa_url cannot be used: {0}")]
    Aaa(String),
}

/// Delivers until told to stop. Call it in a process of its own, after the fork.
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
    let sync = delivery.config.journal_sync;
    let mut directory = Directory {
        dir: delivery.dir.clone(),
        finished: Finished::default(),
        synced: Arc::default(),
        syncing: None,
        tracker: Tracker::new(&delivery.dir),
        carry: Writer::new(&delivery.dir, CARRY_RANK, std::process::id(), sync, CARRY_SEGMENT).syncing_at_end(),
        limits: delivery.config.limits,
        owed: delivery.owed,
        free: None,
        second: None,
        full: stats::full_since(),
        dropping: Arc::default(),
        look_failed: false,
        remove_failed: false,
    };
    let closing = delivery.only_what_is_there.is_some();
    // What is not there now is gone for good: the runners forget its cursors.
    let (publish, view) = watch::channel(View { segments: Arc::new(delivery.dir.segments()?), closing, ..View::default() });

    let (mut aaa, mut database) = (delivery.aaa.take(), delivery.database.take());
    let mut runners = Vec::new();
    for id in SinkId::ALL {
        let (sink, max) = make_sink(id, &delivery, &mut aaa, &mut database)?;
        let retry_max = Duration::from_secs(u64::from(delivery.config.delivery_retry_max));
        let runner = Runner::new(id, sink, &delivery.dir, view.clone(), directory.finished.clone(), max, retry_max);
        runners.push((id, tokio::task::spawn_local(runner.run())));
    }
    drop(view);

    let end = match delivery.only_what_is_there {
        Some(limit) => Instant::now() + limit,
        None => {
            let mut records_come = false;
            while !delivery.stop.load(Ordering::Relaxed) {
                if records_come {
                    tokio::time::sleep(LOOK).await;
                } else {
                    wait(wake.as_ref()).await;
                }
                records_come = stats::bell().hear();
                if let Some((id, _)) = runners.iter().find(|(_, runner)| runner.is_finished()) {
                    return Err(DeliveryError::Task(id.name()));
                }
                directory.every_second();
                directory.publish(&publish, false);
                if sync == JournalSync::Batch {
                    let segments = publish.borrow().segments.clone();
                    directory.sync_appended(&segments);
                }
            }
            directory.publish(&publish, true);
            Instant::now() + DRAIN
        }
    };
    let _ = tokio::time::timeout_at(end.into(), async {
        for (id, runner) in runners {
            if runner.await.is_err() {
                log::error!("{}", DeliveryError::Task(id.name()));
            }
        }
    })
    .await;
    directory.publish(&publish, true);
    Ok(())
}

#[expect(deprecated, reason = "unsound only for types that may close the descriptor while it is registered; an OwnedFd cannot, and the other way needs unsafe")]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Until woken, but not longer than [`LOOK`].
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

fn make_sink(
    id: SinkId,
    delivery: &Delivery,
    aaa: &mut Option<MakeSender>,
    database: &mut Option<Box<dyn HostDatabase>>,
) -> Result<(AnySink, usize), DeliveryError> {
    let batch = delivery.config.delivery_batch.max(1);
    // A server without the parameter will never deliver them; a tool that was not given it may.
    let off = |parameter| if delivery.only_what_is_there.is_some() { AnySink::Held(parameter) } else { AnySink::Off(parameter) };
    let sender = if id == SinkId::Aaa { aaa.take() } else { None };
    Ok(match id {
        SinkId::Db => match (&delivery.config.db, database.take()) {
            (Some(db), Some(database)) => (AnySink::Foreign(Box::new(ForeignSink::new(db, database))), batch),
            (Some(db), None) => {
                (AnySink::Sql(Box::new(SqlSink::new(db, &delivery.config.fields).map_err(DeliveryError::Db)?.announcing(delivery.tables))), batch)
            }
            (None, _) => (off("db_url"), batch),
        },
        SinkId::Aaa => match (&delivery.config.aaa, sender) {
            (None, _) => (off("aaa_url"), batch),
            (Some(_), Some(make)) => (AnySink::Records(make().map_err(DeliveryError::Aaa)?), batch.min(SENDER_BATCH)),
            (Some(_), None) => return Err(DeliveryError::Aaa("no RADIUS client was given to the delivery process".into())),
        },
        SinkId::Log => (AnySink::Syslog(SyslogSink::new(&delivery.log_socket)), batch),
    })
}

/// The coordinator's side of the journal directory.
struct Directory {
    dir: Dir,
    finished: Finished,
    /// Bytes of each segment of this start that are known to be on the disk.
    synced: Arc<Mutex<HashMap<SegmentName, u64>>>,
    syncing: Option<JoinHandle<()>>,
    /// Calls in progress, whose states must not go with their segments.
    tracker: Tracker,
    /// Where such states go instead.
    carry: Writer,
    /// How much there may be, and what becomes of more.
    limits: Limits,
    owed: Option<fn() -> u64>,
    /// Free bytes of the disk, as of the last second.
    free: Option<u64>,
    /// When the last second began.
    second: Option<Instant>,
    /// The journal is full since then, by the monotonic clock in µs.
    full: Option<i64>,
    /// Segments that go before every sink is past them.
    dropping: Arc<BTreeSet<SegmentName>>,
    /// These failures are logged once, until they are over.
    look_failed: bool,
    remove_failed: bool,
}

impl Directory {
    fn publish(&mut self, to: &watch::Sender<View>, closing: bool) {
        self.remove_finished();
        let before = to.borrow().segments.clone();
        let segments = match self.dir.segments_after(&before) {
            Ok(segments) => {
                self.look_failed = false;
                self.judge(&segments);
                Some(segments)
            }
            Err(e) => {
                if !std::mem::replace(&mut self.look_failed, true) {
                    log::error!("journal_dir {} cannot be read ({e}): check the disk and its permissions", self.dir.path().display());
                }
                // The last look stays valid: an empty one would say that all segments are gone.
                None
            }
        };
        to.send_if_modified(|view| {
            let flushes = stats::flushes();
            let mut changed = view.closing != closing || view.flushes != flushes || !Arc::ptr_eq(&view.dropping, &self.dropping);
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

    /// Once a second: looks at the disk, and leaves a sign of life.
    fn every_second(&mut self) {
        if self.second.is_some_and(|s| s.elapsed() < SECOND) {
            return;
        }
        self.second = Some(Instant::now());
        self.free = self.dir.free_bytes().ok();
        // Should the directory be gone, the look at it says so.
        let _ = self.dir.still_alive();
    }

    /// Is the journal full? Workers and runners are told.
    fn judge(&mut self, segments: &[Segment]) {
        let found = Found { bytes: segments.iter().map(|s| s.size).sum(), free: self.free, owed: self.owed.map_or(0, |owed| owed()) };
        stats::set(Counter::JournalBytes, found.bytes);
        let verdict = self.limits.judge(found, self.full.is_some());
        let path = self.dir.path().display();
        match (self.full, verdict.full) {
            (None, true) => {
                let now = Moment::now();
                self.full = Some(now.mono);
                stats::set_full_since(Some(now));
                log::error!(
                    "the journal in {path} is full: it has {} MiB, and its disk {} MiB free (parameters journal_max_size, journal_min_free); {}",
                    found.bytes >> 20,
                    found.free.map_or_else(|| "?".into(), |free| (free >> 20).to_string()),
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

    /// Adds the oldest segments to those that go, until they have `excess` bytes.
    fn choose_dropped(&mut self, segments: &[Segment], excess: u64) {
        let there = |name: &SegmentName| segments.binary_search_by_key(name, |s| s.name).is_ok();
        let mut dropping: BTreeSet<_> = self.dropping.iter().copied().filter(there).collect();
        let going: u64 = segments.iter().filter(|s| dropping.contains(&s.name)).map(|s| s.size).sum();
        if excess > going {
            // Calls in progress that were carried over have no records to give up.
            let sealed = segments.iter().filter(|s| s.sealed && s.name.rank != CARRY_RANK && !dropping.contains(&s.name));
            let dated = sealed.filter_map(|s| Some((self.dir.modified(s.name).ok()?, s.name, s.size))).collect();
            dropping.extend(limit::oldest(dated, excess - going));
        }
        if dropping != *self.dropping {
            self.dropping = Arc::new(dropping);
        }
    }

    fn remove_finished(&mut self) {
        let mut finished = self.finished.borrow_mut();
        let mut complete: Vec<_> = finished.iter().filter(|(_, sinks)| **sinks == ALL_SINKS).map(|(name, _)| *name).collect();
        // Calls carried over are carried on only when most of them have ended: else they would be
        // copied again with every look.
        complete.retain(|name| name.rank != CARRY_RANK || self.tracker.needed(*name) < CARRY_SEGMENT / 2);
        if complete.is_empty() {
            return;
        }
        let mut followed = false;
        for name in complete {
            // Once for all that go, but again behind one that did not, for what its states and ends mean
            // for the others is forgotten by now, and behind one whose ends were carried over: states
            // that go after them need not be.
            let known = if followed { Ok(()) } else { self.dir.segments().and_then(|segments| self.tracker.follow(&segments)) };
            let released = known.and_then(|()| self.tracker.release(name, &mut self.carry));
            let removed = released.and_then(|carried| self.dir.remove(name).map(|()| carried));
            followed = matches!(removed, Ok(false));
            match removed {
                Ok(_) => {
                    finished.remove(&name);
                    self.remove_failed = false;
                }
                Err(e) if !self.remove_failed => {
                    self.remove_failed = true;
                    log::error!("journal segment {name} is delivered, but cannot be removed ({e}): give journal_dir back its permissions");
                }
                Err(_) => {}
            }
        }
        // A removed segment must not come back after its cursor is forgotten.
        if let Err(e) = self.dir.sync() {
            log::warn!("journal_dir {} cannot be synced ({e}): check the disk", self.dir.path().display());
        }
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
                match dir.open_segment(segment.name).and_then(|file| file.sync_data()) {
                    Ok(()) => drop(synced.lock().unwrap_or_else(PoisonError::into_inner).insert(segment.name, segment.size)),
                    // Delivered and removed meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
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
