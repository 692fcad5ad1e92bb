//! What a SIP worker does with records: it writes lines and events at once, and the rest to the journal.
//! Nothing here waits for a backend.
#![forbid(unsafe_code)]

pub mod interims;
pub mod port;

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use once_cell::sync::OnceCell;

use crate::accounting::call_key::dialog_key;
use crate::accounting::context::{CallEnd, Change, Context, Taken};
use crate::accounting::decide;
use crate::accounting::limited::Lines;
use crate::accounting::marks::{Marks, Types};
use crate::accounting::record::{ACC_ID, Backend, Record, Shape};
use crate::accounting::visible::CallId;
use crate::backend::event::Event;
use crate::backend::log::syslog::{DEV_LOG, Sent, SyslogSocket};
use crate::backend::log::{LineFormat, object};
use crate::backend::{event, json, log as line};
use crate::config::Config;
use crate::declaration::By;
use crate::journal::limit::Append;
use crate::journal::{DeadLetters, Dir, End, SinkId, Writer};
use crate::stats::{self, Counter, Snapshot};
use crate::worker::port::{Host, LogSettings};

/// Created once, before the fork, and then shared by every process.
pub struct Instance {
    /// The validated parameters.
    pub config: Config,
    /// The server.
    pub host: &'static dyn Host,
    /// The journal; `None` when nothing needs one.
    pub journal: Option<Dir>,
    /// Wakes the delivery process.
    pub wake: OwnedFd,
}

static INSTANCE: OnceCell<Instance> = OnceCell::new();

/// Publishes the instance, once, at the end of initialisation.
pub fn install(instance: Instance) -> &'static Instance {
    INSTANCE.get_or_init(|| instance)
}

/// The instance, once initialised.
pub fn instance() -> Option<&'static Instance> {
    INSTANCE.get()
}

/// State of one process.
struct Process {
    pid: u32,
    journal: Option<Writer>,
    syslog: SyslogSocket,
}

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

/// Runs `f` with the state of this process, which is created again after a fork.
fn with_process<R>(instance: &Instance, f: impl FnOnce(&mut Process) -> R) -> R {
    let mut guard = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = instance.host.process_id();
    let fresh = || Process {
        pid,
        journal: instance
            .journal
            .as_ref()
            .map(|dir| Writer::new(dir, instance.host.process_number(), pid, instance.config.journal_sync, instance.config.limits.segment_max())),
        syslog: SyslogSocket::new(Path::new(DEV_LOG)),
    };
    match &mut *guard {
        Some(p) if p.pid == pid => f(p),
        other => f(other.insert(fresh())),
    }
}

/// Lets the writer of this process append; `None` when there is no journal.
fn append<R>(instance: &Instance, f: impl FnOnce(&mut Writer) -> R) -> Option<R> {
    let (result, unsynced) = with_process(instance, |p| p.journal.as_mut().map(|j| (f(j), j.unsynced())))?;
    if let Some(e) = unsynced {
        log::error!(
            "the journal in {} cannot be synced ({e}): what was just written to it may be lost in a power cut; check the disk",
            instance.config.journal_dir.display()
        );
    }
    Some(result)
}

/// Hands the records of an event to their backends, each independent of the others (D8): lines and
/// events at once, then what goes to the journal in one write.
pub fn emit(instance: &Instance, records: &[Record]) {
    emit_all(instance, records, None);
}

/// [`emit`] for the end of a call, which goes into the journal with its entries, so that a crash
/// neither loses nor repeats a row. If the journal could not write the rows, the call is not reported to other
/// nodes as settled: this server's next start writes them, and no node must tell it that they are written.
pub fn emit_end(instance: &Instance, end: &CallEnd) {
    if emit_all(instance, &end.records, Some(end)) {
        instance.host.settled(end);
    } else {
        instance.host.unsettled(end);
    }
}

/// The end of a call whose CDR another server has written: only the end is written here.
pub fn forget(instance: &Instance, end: End) {
    static LOST: Lines = Lines::none();
    if let Some(Err(e)) = append(instance, |j| j.append_closed(end)) {
        LOST.error(format_args!(
            "the end of a call could not be written to the journal in {}: the next start will treat the call as cut off: {e}",
            instance.config.journal_dir.display()
        ));
    }
}

/// A dialog of this name was restored although its call is over. As it may be restored again, the next start has to know.
pub fn restored_over(instance: &Instance, dialog: &[u8]) {
    static LOST: Lines = Lines::none();
    if let Some(Err(e)) = append(instance, |j| j.append_restored_over(dialog_key(dialog))) {
        LOST.error(format_args!(
            "the end of a restored call could not be written to the journal in {}: if its dialog is restored once more, the next start may write a second CDR: {e}",
            instance.config.journal_dir.display()
        ));
    }
}

/// What the journal gets of the end of a call.
fn over(instance: &Instance, end: &CallEnd) -> End {
    let may_return = !end.dialog.is_empty() && instance.host.restores_dialogs();
    End { call: end.call, guessed: end.is_guess(), dialog: may_return.then(|| dialog_key(&end.dialog)) }
}

/// The end of a call whose end is unknown, with `orphan_cdr` hold: its CDR goes to the dead letters. If it cannot, the call stays
/// open in the journal, so that the next start tries again.
pub fn hold(instance: &Instance, end: &CallEnd) {
    let Some(dir) = &instance.journal else { return };
    let id = end.records.first().and_then(|r| r.own_value(ACC_ID)).unwrap_or_default();
    let id = String::from_utf8_lossy(&id);
    let mut held = true;
    for (sink, record) in for_journal(instance, &end.records) {
        let mut dead = DeadLetters::new(dir, sink);
        match dead.hold(record, "nothing is known about the end of the call (orphan_cdr=hold)") {
            Ok(()) => {
                stats::add(sink.accepted(), 1);
                stats::add(sink.dead(), 1);
            }
            Err(e) => {
                held = false;
                log::error!(
                    "the CDR {id} of a call that came back without a dialog is not kept (orphan_cdr=hold): {}; the next start tries again",
                    dead.trouble(&e)
                );
            }
        }
    }
    if !held {
        return;
    }
    log::warn!(
        "a call that was in progress when the server last stopped came back without a dialog: its CDR {id} is not written, but kept in the dead letters in journal_dir (orphan_cdr=hold)"
    );
    stats::add(Counter::OrphansHeld, 1);
    let over: Vec<_> = end.records.iter().filter_map(|cdr| decide::withheld(&instance.config.rules, cdr)).collect();
    keep(instance, for_journal(instance, &over), Some(end));
}

/// False if the journal could not write a record.
fn emit_all(instance: &Instance, records: &[Record], end: Option<&CallEnd>) -> bool {
    for record in records {
        match record.backend {
            Backend::Log => {
                let of_dialog = instance.config.rules.dialog_cdrs.as_ref().filter(|_| record.shape == Shape::Dialog);
                let facility = of_dialog.map_or(instance.config.log.facility, |cdrs| cdrs.facility);
                let (level, facility) = (instance.config.log.level, Some(facility));
                match instance.config.log.format {
                    LineFormat::Text => print(instance, level, facility, &line::line(record)),
                    LineFormat::Json => print_bare(instance, level, facility, object::line(record).as_bytes(), true),
                }
            }
            Backend::Evi => raise(instance, record),
            Backend::Json => write_json(instance, record),
            _ => {}
        }
    }
    let limits = &instance.config.limits;
    let later = for_journal(instance, records);
    if limits.admits(Append::Record) {
        keep(instance, later, end)
    } else {
        let refused = later.inspect(|_| no_room(instance)).count();
        // In a cluster, the call stays open in this journal; the other nodes have it in theirs.
        let is_left = refused > 0 && instance.config.cluster_id > 0;
        keep(instance, [].into_iter(), end.filter(|e| !is_left && limits.admits(Append::End(e.answered)))) && refused == 0
    }
}

/// The records for the journal, once for each of their sinks.
fn for_journal<'a>(instance: &'a Instance, records: &'a [Record]) -> impl Iterator<Item = (SinkId, &'a Record)> + Clone {
    records.iter().flat_map(|r| instance.config.destinations.sinks_of(r.backend).map(move |sink| (sink, r)))
}

/// Writes records to the journal, with the end of a call if they are its last. False if one is lost.
fn keep<'a>(instance: &Instance, later: impl Iterator<Item = (SinkId, &'a Record)> + Clone, end: Option<&CallEnd>) -> bool {
    let is_none = later.clone().next().is_none();
    if is_none && end.is_none() {
        return true;
    }
    match append(instance, |j| j.append_all(later.clone(), end.map(|e| over(instance, e)))) {
        Some(Ok(())) => {
            if !is_none {
                wake(instance);
            }
            true
        }
        Some(Err(e)) => {
            if e.kept > 0 {
                wake(instance);
            }
            let is_one = later.clone().nth(1).is_none();
            let rest = later.skip(e.kept);
            if !is_one && end.is_none() {
                // One may be too large, or only some may fit.
                rest.filter(|one| !keep(instance, std::iter::once(*one), None)).count() == 0
            } else {
                let lost = rest.inspect(|(sink, record)| lost(instance, *sink, record, &e.to_string())).count();
                if let Some(end) = end.filter(|_| is_none) {
                    end_lost(instance, end, &e.to_string());
                }
                lost == 0
            }
        }
        None => later.inspect(|(sink, record)| lost(instance, *sink, record, "there is no journal")).count() == 0,
    }
}

/// Room for the encoded facts of a context, in bytes.
const FACTS: usize = 80;

/// From this size in bytes on, only changes to a state are written: for smaller ones the write call costs more than
/// its bytes.
pub const LARGE: usize = 4096;
/// A change may take at most this fraction of the state; otherwise a new whole state is a better base for later
/// changes.
const PART: usize = 4;

/// Keeps the state of a call in progress in the journal, so that it survives a crash. Called for
/// every change of a context, under its lock, so that states are in the journal in order.
pub fn call_changed(change: &Change<'_>) -> Taken {
    let Some(instance) = instance() else { return Taken::Nothing };
    let limits = &instance.config.limits;
    let now = change.facts;
    let result = if now.is_open_call() {
        if !limits.admits(Append::State) {
            return Taken::Nothing;
        }
        append(instance, |j| keep_state(j, change))
    } else if change.was_open && !now.closed {
        // Its CDR was dropped: there is nothing left to write.
        if !limits.admits(Append::End(now.answered)) {
            return Taken::Nothing;
        }
        append(instance, |j| j.append_closed(End::seen(change.call)).map(|()| Taken::Nothing))
    } else {
        return Taken::Nothing;
    };
    if let Some(Err(e)) = &result {
        let risk = if change.is_claim { "end the call at the time the previous server stopped" } else { "lose its CDR" };
        stats::add(Counter::JournalLost, 1);
        static LOST: Lines = Lines::none();
        LOST.error(format_args!(
            "the state of a call could not be written to the journal in {}: a crash now would {risk}: {e} ({})",
            instance.config.journal_dir.display(),
            Changed(change)
        ));
    }
    result.and_then(Result::ok).unwrap_or(Taken::Nothing)
}

/// Names the call that has changed. Its Call-ID is only looked for when the line is written.
struct Changed<'a>(&'a Change<'a>);

impl Display for Changed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut state = Vec::with_capacity(FACTS + self.0.parts.len());
        self.0.facts.encode(&mut state);
        state.extend_from_slice(self.0.parts);
        match Context::decode(&state) {
            Some(context) => CallId(context.head.core.callid).fmt(f),
            None => write!(f, "key {:032x}", self.0.call),
        }
    }
}

/// Appends a state, or what has changed in it.
fn keep_state(j: &mut Writer, change: &Change<'_>) -> io::Result<Taken> {
    let (call, parts) = (change.call, change.parts);
    if let Some(base) = change.base.filter(|_| parts.len() >= LARGE) {
        let middle = &parts[base.prefix as usize..parts.len() - base.suffix as usize];
        if middle.len() <= parts.len() / PART {
            let mut head = Vec::with_capacity(FACTS);
            change.facts.encode(&mut head);
            return j.append_change(call, base, &head, middle).map(|()| Taken::Change);
        }
    }
    let state = |out: &mut Vec<u8>| {
        change.facts.encode(out);
        out.extend_from_slice(parts);
    };
    if change.is_claim { j.append_again(call, state).map(|()| Taken::Whole(0)) } else { j.append_state(call, state).map(Taken::Whole) }
}

fn raise(instance: &Instance, record: &Record) {
    let event = event::event_of(record);
    if !instance.host.has_listeners(event) {
        return;
    }
    for params in event::params(record) {
        let counter = if instance.host.raise(event, &params) { Counter::EviRaised } else { Counter::EviFailed };
        stats::add(counter, 1);
    }
}

/// The journal is full and the record is dropped: counted, and logged once by each process until
/// there is room again.
fn no_room(instance: &Instance) {
    static SAID: AtomicI64 = AtomicI64::new(0);
    stats::add(Counter::JournalLost, 1);
    let since = stats::full_since().unwrap_or(0);
    if SAID.swap(since, Ordering::Relaxed) != since {
        log::error!(
            "records are lost: the journal in {} is full (parameters journal_max_size, journal_min_free, journal_full)",
            instance.config.journal_dir.display()
        );
    }
}

/// What the reason of [`admit`] ends with.
pub const REFUSED: &str = "the request is not accounted";

/// May a request be accounted to these backends? Its (or its call's) `marks` are only
/// computed if needed. False while a full journal refuses new requests.
pub fn admit(instance: &Instance, types: Types, marks: impl FnOnce() -> Option<Marks>) -> Result<(), String> {
    let mut through_journal = Backend::ALL.into_iter().filter(|b| b.by() == By::Delivery);
    if !through_journal.clone().any(|b| types.has(b)) || !instance.config.limits.refuses() {
        return Ok(());
    }
    if marks().is_some_and(|m| through_journal.any(|b| m.on(b))) {
        return Ok(());
    }
    stats::add(Counter::JournalRefused, 1);
    Err(format!("the journal in {} is full (parameters journal_max_size and journal_min_free): {REFUSED}", instance.config.journal_dir.display()))
}

/// A record is lost: counts it, and logs it once a second for each destination.
fn lost(instance: &Instance, sink: SinkId, record: &Record, why: &str) {
    static LOST: [Lines; SinkId::ALL.len()] = [const { Lines::none() }; SinkId::ALL.len()];
    stats::add(Counter::JournalLost, 1);
    LOST[sink.index()].error(format_args!(
        "a {} record could not be written to the journal in {} and is lost: {why} ({})",
        sink.name(),
        instance.config.journal_dir.display(),
        CallId(record.core.callid.clone())
    ));
}

/// The end of a call without records for the journal is lost: after a restart the call is treated as cut off.
fn end_lost(instance: &Instance, end: &CallEnd, why: &str) {
    static LOST: Lines = Lines::none();
    stats::add(Counter::JournalLost, 1);
    let callid = end.records.first().map(|record| CallId(record.core.callid.clone()));
    LOST.error(format_args!(
        "the end of a call could not be written to the journal in {}: {why} ({})",
        instance.config.journal_dir.display(),
        callid.map_or_else(|| format!("key {:032x}", end.call), |callid| callid.to_string())
    ));
}

/// Tells the delivery process that there is work, and wakes it if it waits; a full
/// counter means that it is awake already.
fn wake(instance: &Instance) {
    if stats::bell().ring() {
        let _ = rustix::io::write(instance.wake.as_fd(), &1u64.to_ne_bytes());
    }
}

/// Starts delivery at once, whatever it is waiting for.
pub fn flush(instance: &Instance) {
    stats::flush();
    wake(instance);
}

/// Raises an event once when more records wait for a sink than `backlog_threshold`, and once when
/// at most half as many wait. Called every second by one process of the host.
pub fn watch_backlog() {
    let Some(instance) = instance() else { return };
    let counters = Snapshot::take();
    for sink in SinkId::ALL {
        let pending = counters.get(sink.counters().pending) + counters.get(sink.counters().parked);
        let Some(begins) = sink.state().backlog_changes(pending, instance.config.backlog_threshold.into()) else { continue };
        if instance.host.has_listeners(Event::Backlog) {
            let raised = instance.host.raise(Event::Backlog, &event::backlog_params(sink, &counters, begins));
            stats::add(if raised { Counter::EviRaised } else { Counter::EviFailed }, 1);
        }
    }
}

/// Hands the JSON object of a record to syslog and to its queue, as the parameters say.
fn write_json(instance: &Instance, record: &Record) {
    let Some(settings) = &instance.config.stock.json else { return };
    let (output, object) = (settings.output(record), json::object(record, settings));
    if let Some(queue) = &output.queue
        && !instance.host.enqueue(queue, json::key(record), &object)
    {
        stats::add(Counter::JournalLost, 1);
        log::error!("the queue {queue} of the module mqueue did not accept a record");
    }
    if output.syslog {
        let pid = instance.host.process_id();
        send(instance, &json::datagram(output, pid, &object));
    }
}

/// Prints a line as the host would: level filter, stderr, syslog. A line that the syslog socket does not accept now
/// goes through the journal and is sent later.
pub fn print(instance: &Instance, level: i32, facility: Option<i32>, text: &[u8]) {
    print_bare(instance, level, facility, text, false);
}

/// As [`print`]; nothing of the host's precedes a bare line.
fn print_bare(instance: &Instance, level: i32, facility: Option<i32>, text: &[u8], bare: bool) {
    let settings = instance.host.log_settings();
    let pid = instance.host.process_id();
    let (on_stderr, on_syslog) = (settings.on_stderr(level), settings.on_syslog(level));
    if on_stderr {
        if bare {
            write_stderr(&[text, b"\n"].concat());
        } else {
            print_stderr(pid, level, &settings, text);
        }
        if !on_syslog {
            stats::add(Counter::LogWritten, 1);
        }
    }
    if on_syslog {
        let facility = facility.unwrap_or(settings.facility);
        let datagram = if bare {
            line::datagram(level, facility, &settings.name, pid, &[text])
        } else {
            line::host_datagram(settings.syslog_form, level, facility, settings.writer(pid), text)
        };
        send(instance, &datagram);
    }
}

/// Hands a datagram to syslog. What its socket does not accept now goes through the journal and is sent later.
fn send(instance: &Instance, datagram: &[u8]) {
    let clipped = with_process(instance, |p| {
        let sent = p.syslog.try_send(datagram);
        match sent {
            Sent::Taken | Sent::Clipped => stats::add(Counter::LogWritten, 1),
            Sent::TooLong => stats::add(Counter::JournalLost, 1),
            Sent::NotTaken if !instance.config.limits.admits(Append::Line) => stats::add(Counter::JournalLost, 1),
            // Logging an error here would add another line. If the sync fails, the next record reports it.
            Sent::NotTaken => match p.journal.as_mut().map(|j| j.append_line(SinkId::Log, datagram)) {
                Some(Ok(())) => wake(instance),
                _ => stats::add(Counter::JournalLost, 1),
            },
        }
        sent == Sent::Clipped
    });
    if clipped && !CLIPPED_SAID.swap(true, Ordering::Relaxed) {
        log::warn!("a line of {} bytes was clipped to what the syslog socket takes; further ones are counted, not logged", datagram.len());
    }
}

/// This process has already logged that a line was clipped for syslog.
static CLIPPED_SAID: AtomicBool = AtomicBool::new(false);

/// Prints a line on stderr in the host's format.
pub fn print_stderr(pid: u32, level: i32, settings: &LogSettings, text: &[u8]) {
    write_stderr(&settings.stderr_form.stderr_line(level, settings.writer(pid), text));
}

/// One write, so that lines of several processes do not mix. A failure cannot be reported anywhere.
fn write_stderr(line: &[u8]) {
    let _ = std::io::stderr().write_all(line);
}
