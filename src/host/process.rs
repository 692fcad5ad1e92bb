//! What every host family does for its processes: log messages of the crate go to the host's log, and the
//! delivery process delivers until it is told to stop.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Display;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use once_cell::sync::{Lazy, OnceCell};

use super::database::{self, BindMod, Places};
use super::pid::id;
use super::{acks, arena, cluster, guard, revival, script, shared, supervisor, tables, values};
use crate::accounting::extras::Family;
use crate::accounting::fields::{FieldSet, Fields};
use crate::backend::Maker;
use crate::backend::log::syslog::{DEV_LOG, SyslogSocket};
use crate::backend::sql::{self, ForeignSink, SqlSink};
use crate::config::Config;
use crate::declaration::{PARAMS, Param, SinkId};
use crate::delivery::{self, Delivery};
use crate::journal::{self, Dir};
use crate::params::{ConfigError, Draft, RawValue};
use crate::worker::port::Host;
use crate::worker::{self, Instance};

/// What hosts read as success and as failure.
pub const OK: c_int = 0;
/// See [`OK`].
pub const FAILED: c_int = -1;

/// Log levels in OpenSIPS' numbers, which the crate uses everywhere.
const fn level_of(level: log::Level) -> i32 {
    match level {
        log::Level::Error => -1,
        log::Level::Warn => 1,
        log::Level::Info => 3,
        log::Level::Debug | log::Level::Trace => 4,
    }
}

struct Logger(&'static dyn Host);

impl log::Log for Logger {
    fn enabled(&self, m: &log::Metadata<'_>) -> bool {
        // Not the messages of libraries, such as notices that triggers of a database raise.
        m.target().starts_with("acc") && {
            let (settings, level) = (self.0.log_settings(), level_of(m.level()));
            settings.on_stderr(level) || settings.on_syslog(level)
        }
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = format!("acc: {}", crate::accounting::visible::visible(&record.args().to_string()));
        let level = level_of(record.level());
        match worker::instance() {
            Some(m) => worker::print(m, level, None, text.as_bytes()),
            None => self.before_init(level, text.as_bytes()),
        }
    }

    fn flush(&self) {}
}

impl Logger {
    /// Before the module is initialised there is no journal: lines go to stderr and, as far as its socket
    /// accepts them, to syslog.
    fn before_init(&self, level: i32, text: &[u8]) {
        let settings = self.0.log_settings();
        if settings.on_stderr(level) {
            worker::print_stderr(id(), level, &settings, text);
        }
        if settings.on_syslog(level) {
            let datagram = crate::backend::log::host_datagram(settings.syslog_form, level, settings.facility, settings.writer(id()), text);
            SyslogSocket::new(DEV_LOG.as_ref()).try_send(&datagram);
        }
    }
}

/// Sends log messages of the crate to the host's log; once, at load.
pub fn log_to(host: &'static dyn Host) {
    let _ = log::set_boxed_logger(Box::new(Logger(host)));
    log::set_max_level(log::LevelFilter::Debug);
}

/// A timer of the host.
pub type TimerFn = extern "C" fn(c_uint, *mut c_void);

/// Opens the journal, once, before the fork: for the user and group that the server will run as (0 = no
/// change), and with the calls that were in progress when it last stopped. `every` registers a timer with
/// its interval in seconds: one that calls `revival::end_orphans` and, with `cluster_id`, one that asks the
/// other nodes meanwhile. A server that has no destination needing one also runs without a journal.
pub fn open_journal(config: &Config, (uid, gid): (u32, u32), every: impl Fn(u32, TimerFn) -> bool) -> Result<Option<Dir>, String> {
    let dir = match Dir::open(&config.journal_dir) {
        Ok(dir) => dir,
        Err(e) if config.destinations.need_journal() => return Err(e.to_string()),
        Err(e) => {
            log::warn!("{e}; log lines that syslog does not take at once will be lost");
            return Ok(None);
        }
    };
    if (uid, gid) != (0, 0) {
        dir.give_to(uid, gid)
            .map_err(|e| format!("journal_dir \"{}\" cannot be given to user {uid}, group {gid}, as whom the server will run: {e}", dir.path().display()))?;
    }
    if config.cluster_id > 0 {
        cluster::install().map_err(|e| format!("parameter cluster_id: no memory: {e}"))?;
        if !every(1, tell_returned) {
            return Err("the host refused the timer for returning nodes of the cluster".into());
        }
    }
    let open = journal::calls::scan(&dir).map_err(|e| format!("journal_dir {} cannot be read: {e}", dir.path().display()))?;
    if let Err(e) = dir.keep_ends(&open.ends()) {
        log::warn!(
            "the file \"ends\" in journal_dir \"{}\" cannot be written ({e}): if the server stops again within orphan_timeout, calls that wait for their dialogs end only at that time",
            dir.path().display()
        );
    }
    let waiting = revival::prepare(open);
    if waiting > 0 {
        log::info!("{waiting} calls were in progress when the server last stopped");
        // Several times before the calls are ended.
        let asks = config.cluster_id <= 0 || every((config.orphan_timeout / 4).max(1), ask_cluster);
        if !asks || !every(config.orphan_timeout, end_orphans) {
            return Err("the host refused the timer for calls that come back without a dialog".into());
        }
    }
    Ok(Some(dir))
}

/// From here on records are accepted, in this process and those forked from it.
pub fn take_records(config: Config, host: &'static dyn Host, journal: Option<Dir>) -> Result<(), String> {
    use rustix::event::{EventfdFlags, eventfd};
    shared::on_change(worker::call_changed);
    let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|e| format!("no eventfd: {e}"))?;
    worker::install(Instance { config, host, journal, wake });
    Ok(())
}

/// Parameters while the configuration is read.
static DRAFT: Mutex<Option<Draft>> = Mutex::new(None);

/// The number of the tag in a variable's name, among the fields declared so far.
pub fn number_of_tag(tag: &[u8], fields: impl FnOnce(&Fields) -> &FieldSet, parameter: &str) -> Result<usize, String> {
    let mut draft = DRAFT.lock().unwrap_or_else(PoisonError::into_inner);
    script::number_of_tag(fields(&draft.get_or_insert_default().fields), tag, parameter)
}

/// Handles a `modparam` line for the `i`th parameter, whose value `read` gets from the host.
pub fn set_param(i: usize, read: impl FnOnce(&Param) -> Result<RawValue, ConfigError>) -> c_int {
    guard::entry("modparam", FAILED, || {
        let Some(param) = PARAMS.get(i) else { return FAILED };
        told(read(param).and_then(|value| DRAFT.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().set(param.name, value)))
    })
}

/// The value of a numeric parameter, as set by the lines so far.
pub fn number(name: &'static str) -> Option<i32> {
    DRAFT.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.int(name)
}

/// The text of a parameter.
///
/// # Safety
/// `value` is null or a terminated string.
pub unsafe fn text_of(value: *mut c_void) -> RawValue {
    // SAFETY: the caller's promise.
    RawValue::Str(unsafe { value.cast::<c_char>().as_ref().map_or_else(String::new, |c| CStr::from_ptr(c).to_string_lossy().into_owned()) })
}

/// Initialisation, once, before the fork.
pub fn init(initialise: impl FnOnce() -> Result<(), String>) -> c_int {
    guard::entry("init", FAILED, || told(initialise()))
}

/// The return value for the host; an error is logged in one line.
pub fn told<E: Display>(result: Result<(), E>) -> c_int {
    match result {
        Ok(()) => OK,
        Err(e) => {
            log::error!("{e}");
            FAILED
        }
    }
}

/// The first part of initialisation: the parameters, the server's database module if a parameter asks for it
/// (`bind_mod` and `places` are the host's), and the arena.
pub fn configure(family: Family, default_url: Option<&str>, bind_mod: Option<BindMod>, places: &Places) -> Result<Config, String> {
    let mut draft = DRAFT.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().clone();
    draft.family = family;
    for w in &draft.warnings {
        log::warn!("{w}");
    }
    let config = draft.finish(default_url).map_err(|e| e.to_string())?;
    if let Some(db) = config.db().filter(|db| sql::is_foreign(&db.url)) {
        database::bind(&db.url, bind_mod, places)?;
    }
    values::declare(&config.rules.fields);
    let arena = arena::install(config.arena_mib).map_err(|e| format!("parameter arena_size: {} MiB of address space cannot be had: {e}", config.arena_mib))?;
    (acks::install(arena) && tables::install(arena)).then_some(()).ok_or("parameter arena_size: too small for the lists that processes share")?;
    Ok(config)
}

/// Timer, while calls wait for their dialogs: asks the other nodes.
pub extern "C" fn ask_cluster(_ticks: c_uint, _param: *mut c_void) {
    guard::entry("cluster timer", (), cluster::ask);
}

/// Timer, every second in a cluster: tells nodes that have returned.
pub extern "C" fn tell_returned(_ticks: c_uint, _param: *mut c_void) {
    guard::entry("returned nodes timer", (), cluster::tell_returned);
}

/// Timer, every `orphan_timeout`: ends calls that no dialog has claimed.
pub extern "C" fn end_orphans(_ticks: c_uint, _param: *mut c_void) {
    guard::entry("orphan timer", (), revival::end_orphans);
}

/// Timer, every second with `interim_interval`: raises interim records that are events.
pub extern "C" fn raise_interims(_ticks: c_uint, _param: *mut c_void) {
    guard::entry("interim timer", (), worker::interims::raise);
}

/// Timer, every second with `backlog_threshold`: watches the backlog.
pub extern "C" fn watch_backlog(_ticks: c_uint, _param: *mut c_void) {
    guard::entry("backlog timer", (), worker::watch_backlog);
}

static STOP: Lazy<Arc<AtomicBool>> = Lazy::new(Arc::default);
static WAKE_FD: OnceCell<i32> = OnceCell::new();

extern "C" fn on_terminate(_signal: c_int) {
    STOP.store(true, Ordering::Relaxed);
    if let Some(fd) = WAKE_FD.get() {
        let one = 1u64.to_ne_bytes();
        // SAFETY: write is allowed in a signal handler; the eventfd stays open.
        unsafe { libc::write(*fd, one.as_ptr().cast(), one.len()) };
    }
}

/// The body of the process that the host forks for us: keeps a delivery process running, and returns after
/// SIGTERM, when the delivery process has ended.
pub fn deliver(instance: &'static Instance) {
    if let Some(dir) = &instance.journal {
        supervisor::keep_running(|| deliver_once(instance, dir));
    }
}

/// The delivery process: returns after SIGTERM, when everything that could be delivered at once has been
/// delivered, or when it cannot go on.
fn deliver_once(instance: &'static Instance, dir: &Dir) {
    // The handler must not be the first to use them.
    STOP.store(false, Ordering::Relaxed);
    let _ = WAKE_FD.set(instance.wake.as_raw_fd());
    supervisor::on_terminate(on_terminate);
    for threshold in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: sets a number of the C library's allocator, in a process of our own that has one thread so far.
        unsafe { libc::mallopt(threshold, delivery::HEAP_THRESHOLD) };
    }
    let delivery = Delivery {
        wake: instance.wake.try_clone().ok(),
        stop: Arc::clone(&STOP),
        makers: database_sink(instance).into_iter().collect(),
        owed: Some(owed),
        ..Delivery::new(instance.config.clone(), dir.clone())
    };
    if let Err(e) = guard::entry("delivery", Ok(()), || delivery::run(delivery)) {
        log::error!("{e}");
    }
}

/// How much accounted requests and calls in progress may still write to the journal: a state, and a record for each destination,
/// each of about the size that they have in shared memory.
fn owed() -> u64 {
    let destinations = worker::instance().map(|m| &m.config.destinations);
    let records = SinkId::ALL.into_iter().filter(|id| destinations.is_some_and(|d| d.get(*id).is_some())).count() as u64;
    arena::get().map_or(0, |a| a.owing_bytes() * (1 + records.max(3)))
}

/// How the delivery process makes its SQL sink: the server's own database module may serve it, and scripts are checked
/// against the tables that it finds.
fn database_sink(instance: &'static Instance) -> Option<(SinkId, Maker)> {
    let (db, database) = (instance.config.db()?, database::open());
    Some((
        SinkId::Db,
        Box::new(move || {
            Ok(match database {
                Some(database) => Box::new(ForeignSink::new(db, database)),
                None => {
                    let sink = SqlSink::new(db, &instance.config.rules.fields)?.announcing(Some(tables::publish));
                    Box::new(sink.in_cluster(instance.config.cluster_id > 0))
                }
            })
        }),
    ))
}
