//! What a SIP worker does with records: lines and events at once, the rest into the journal.
//! Nothing here waits for a backend.
#![forbid(unsafe_code)]

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use once_cell::sync::OnceCell;

use crate::acc::decide::CallEnd;
use crate::acc::marks::{Marks, Types};
use crate::acc::record::{Backend, Record};
use crate::backend::event::Event;
use crate::backend::syslog::{DEV_LOG, Sent, SyslogSocket};
use crate::backend::{SinkId, event, log as line};
use crate::config::Config;
use crate::host::shared::Change;
use crate::host::{Host, LogSettings, process};
use crate::journal::limit::Append;
use crate::journal::{Dir, Writer};
use crate::stats::{self, Counter, Snapshot};

/// What is made once, before the fork, and then shared by every process.
pub struct Module {
    /// The validated parameters.
    pub config: Config,
    /// The server.
    pub host: &'static dyn Host,
    /// The journal; `None` when nothing needs one.
    pub journal: Option<Dir>,
    /// Wakes the delivery process.
    pub wake: OwnedFd,
}

static MODULE: OnceCell<Module> = OnceCell::new();

/// Publishes the module; once, at the end of initialisation.
pub fn install(module: Module) -> &'static Module {
    MODULE.get_or_init(|| module)
}

/// The module, once initialised.
pub fn module() -> Option<&'static Module> {
    MODULE.get()
}

/// What belongs to one process.
struct Process {
    pid: u32,
    journal: Option<Writer>,
    syslog: SyslogSocket,
}

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

/// Runs `f` with the parts of this process, made anew after a fork.
fn with_process<R>(module: &Module, f: impl FnOnce(&mut Process) -> R) -> R {
    let mut guard = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = process::id();
    let fresh = || Process {
        pid,
        journal: module
            .journal
            .as_ref()
            .map(|dir| Writer::new(dir, module.host.process_number(), pid, module.config.journal_sync, module.config.limits.segment_max())),
        syslog: SyslogSocket::new(Path::new(DEV_LOG)),
    };
    match &mut *guard {
        Some(p) if p.pid == pid => f(p),
        other => f(other.insert(fresh())),
    }
}

/// Lets the writer of this process append; `None` when there is no journal.
fn append<R>(module: &Module, f: impl FnOnce(&mut Writer) -> R) -> Option<R> {
    let (result, unsynced) = with_process(module, |p| p.journal.as_mut().map(|j| (f(j), j.unsynced())))?;
    if let Some(e) = unsynced {
        log::error!(
            "the journal in {} cannot be synced ({e}): what was just written to it may be lost in a power cut; check the disk",
            module.config.journal_dir.display()
        );
    }
    Some(result)
}

/// Hands the records of an event to their backends, each independent of the others (D8): lines and
/// events at once, then what goes to the journal in one write.
pub fn emit(module: &Module, records: &[Record]) {
    emit_all(module, records, None);
}

/// [`emit`] for the end of a call, which goes into the journal with its entries, so that a crash
/// neither loses nor repeats a row.
pub fn emit_end(module: &Module, end: &CallEnd) {
    emit_all(module, &end.records, Some(end));
}

fn emit_all(module: &Module, records: &[Record], end: Option<&CallEnd>) {
    for record in records {
        match record.backend {
            Backend::Log => print(module, module.config.log_level, Some(module.config.log_facility), &line::line(record)),
            Backend::Evi => raise(module, record),
            Backend::Db | Backend::Aaa => {}
        }
    }
    let limits = &module.config.limits;
    if limits.admits(Append::Record) {
        keep(module, records, end);
    } else {
        for_journal(records).for_each(|_| no_room(module));
        keep(module, &[], end.filter(|e| limits.admits(Append::End(e.answered))));
    }
}

/// The records that go into the journal.
fn for_journal(records: &[Record]) -> impl Iterator<Item = (SinkId, &Record)> + Clone {
    records.iter().filter_map(|r| Some((SinkId::of(r.backend)?, r)))
}

/// Puts records, and the end of a call if they are its last, into the journal.
fn keep(module: &Module, records: &[Record], end: Option<&CallEnd>) {
    let later = for_journal(records);
    let n = later.clone().count();
    if n == 0 && end.is_none() {
        return;
    }
    match append(module, |j| j.append_all(later.clone(), end.map(|e| e.call))) {
        Some(Ok(())) if n == 0 => {}
        Some(Ok(())) => wake(module),
        Some(Err(e)) => {
            if e.kept > 0 {
                wake(module);
            }
            let rest = later.skip(e.kept);
            if n > 1 && end.is_none() {
                // One may be too large, or there is room for some only.
                rest.for_each(|(_, one)| keep(module, std::slice::from_ref(one), None));
            } else {
                rest.for_each(|(sink, _)| lost(module, sink, &e.to_string()));
            }
        }
        None => later.for_each(|(sink, _)| lost(module, sink, "there is no journal")),
    }
}

/// Keeps the state of a call in progress in the journal, so that it survives a crash. Called for
/// every change of a context, under its lock: states stand in the journal in their order. Whether
/// the journal now has the call as one in progress.
pub fn call_changed(change: &Change<'_>) -> bool {
    let Some(module) = module() else { return false };
    let limits = &module.config.limits;
    let now = change.now;
    let is_open = now.is_open_call();
    let result = if is_open {
        if !limits.admits(Append::State) {
            return false;
        }
        append(module, |j| j.append_call(now.call_key(), change.encoded))
    } else if change.was_open && !now.closed {
        // Its CDR was dropped: nothing is owed any more.
        if !limits.admits(Append::End(now.answered)) {
            return false;
        }
        append(module, |j| j.append_end(now.call_key(), &[]))
    } else {
        return false;
    };
    if let Some(Err(e)) = &result {
        stats::add(Counter::JournalLost, 1);
        log::error!("the state of a call could not be written to the journal in {}: a crash now would lose its CDR: {e}", module.config.journal_dir.display());
    }
    is_open && matches!(result, Some(Ok(_)))
}

fn raise(module: &Module, record: &Record) {
    let event = event::event_of(record);
    if !module.host.has_listeners(event) {
        return;
    }
    for params in event::params(record) {
        let counter = if module.host.raise(event, &params) { Counter::EviRaised } else { Counter::EviFailed };
        stats::add(counter, 1);
    }
}

/// The journal is full and the record is dropped: counted, and said once by each process until
/// there was room.
fn no_room(module: &Module) {
    static SAID: AtomicI64 = AtomicI64::new(0);
    stats::add(Counter::JournalLost, 1);
    let since = stats::full_since().unwrap_or(0);
    if SAID.swap(since, Ordering::Relaxed) != since {
        log::error!(
            "records are lost: the journal in {} is full (parameters journal_max_size, journal_min_free, journal_full)",
            module.config.journal_dir.display()
        );
    }
}

/// May a request be accounted to these backends, when it (or its call) has `marks` already, which are
/// asked for last? Not while a full journal refuses new ones.
pub fn admit(module: &Module, types: Types, marks: impl FnOnce() -> Option<Marks>) -> Result<(), String> {
    let through_journal = [Backend::Db, Backend::Aaa];
    if !through_journal.iter().any(|b| types.has(*b)) || !module.config.limits.refuses() {
        return Ok(());
    }
    if marks().is_some_and(|m| through_journal.iter().any(|b| m.on(*b))) {
        return Ok(());
    }
    stats::add(Counter::JournalRefused, 1);
    Err(format!(
        "the journal in {} is full (parameters journal_max_size and journal_min_free): the request is not accounted",
        module.config.journal_dir.display()
    ))
}

/// The record cannot be kept: said and counted.
fn lost(module: &Module, sink: SinkId, why: &str) {
    stats::add(Counter::JournalLost, 1);
    log::error!("a {} record could not be written to the journal in {} and is lost: {why}", sink.name(), module.config.journal_dir.display());
}

/// Tells the delivery process that there is something for it, and wakes it if it waits; a full
/// counter means that it is awake already.
fn wake(module: &Module) {
    if stats::bell().ring() {
        let _ = rustix::io::write(module.wake.as_fd(), &1u64.to_ne_bytes());
    }
}

/// Delivery begins at once, whatever it is waiting for.
pub fn flush(module: &Module) {
    stats::flush();
    wake(module);
}

/// Tells who listens that more records wait for a sink than `backlog_threshold`, once, and once when
/// there are at most half as many. Called every second by one process of the host.
pub fn watch_backlog() {
    let Some(module) = module() else { return };
    let counters = Snapshot::take();
    for sink in SinkId::ALL {
        let pending = counters.get(sink.counters().pending);
        let Some(begins) = sink.state().backlog_changes(pending, module.config.backlog_threshold.into()) else { continue };
        if module.host.has_listeners(Event::Backlog) {
            let raised = module.host.raise(Event::Backlog, &event::backlog_params(sink, &counters, begins));
            stats::add(if raised { Counter::EviRaised } else { Counter::EviFailed }, 1);
        }
    }
}

/// Prints a line as the host would: level filter, stderr, syslog. What the syslog socket does not
/// take now goes through the journal and is sent later.
pub fn print(module: &Module, level: i32, facility: Option<i32>, text: &[u8]) {
    let settings = module.host.log_settings();
    if level > settings.level {
        return;
    }
    let facility = facility.unwrap_or(settings.facility);
    if settings.stderr {
        print_stderr(level, &settings, text);
        if !settings.syslog {
            stats::add(Counter::LogWritten, 1);
        }
    }
    if settings.syslog {
        let mut message = settings.prefix.clone().into_bytes();
        message.extend_from_slice(line::level_name(level).as_bytes());
        message.push(b':');
        message.extend_from_slice(text);
        let datagram = line::datagram(level, facility, &settings.name, process::id(), &message);
        let clipped = with_process(module, |p| {
            let sent = p.syslog.try_send(&datagram);
            match sent {
                Sent::Taken | Sent::Clipped => stats::add(Counter::LogWritten, 1),
                Sent::TooLong => stats::add(Counter::JournalLost, 1),
                Sent::NotTaken if !module.config.limits.admits(Append::Line) => stats::add(Counter::JournalLost, 1),
                // An error would be one more line: should the sync fail, the next record tells.
                Sent::NotTaken => match p.journal.as_mut().map(|j| j.append_line(SinkId::Log, &datagram)) {
                    Some(Ok(())) => wake(module),
                    _ => stats::add(Counter::JournalLost, 1),
                },
            }
            sent == Sent::Clipped
        });
        if clipped && !CLIPPED_SAID.swap(true, Ordering::Relaxed) {
            log::warn!("a line of {} bytes was clipped to what the syslog socket takes; further ones are counted, not logged", datagram.len());
        }
    }
}

/// A line clipped for syslog was logged by this process.
static CLIPPED_SAID: AtomicBool = AtomicBool::new(false);

/// Prints a line on stderr in the host's format.
pub fn print_stderr(level: i32, settings: &LogSettings, text: &[u8]) {
    // One write, so that lines of several processes do not mix; nobody to tell when it fails.
    let _ = std::io::stderr().write_all(&line::stderr_line(level, &settings.prefix, process::id(), text));
}
