//! From dlopen to the delivery process: what runs at load, before the fork, and after it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use once_cell::sync::{Lazy, OnceCell};

use super::abi::*;
use super::api::{Dialogs, Rr, Tm};
use super::message::Specs;
use super::state::{API, Api, DIALOGS, DRAFT, OpenSips, SERVER, Server, publish_events, server};
use super::symbols::Symbols;
use super::versions;
use super::{calls, contexts};
use crate::backend::RecordSender;
use crate::backend::radius::{Radius, RadiusClient, client::Options};
use crate::backend::syslog::DEV_LOG;
use crate::config::{ConfigError, Draft, RawValue, aaa_names};
use crate::delivery::{self, Delivery, MakeSender};
use crate::host::{Host, arena, guard, revival, shared, tables};
use crate::journal::Dir;
use crate::module::PARAMS;
use crate::stats::{self, Counter};
use crate::worker::{self, Module};

const OK: c_int = 0;
const FAILED: c_int = -1;

/// Sends the crate's log messages the host's way.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, m: &log::Metadata<'_>) -> bool {
        host_level(m.level()) <= OpenSips.log_settings().level
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = format!("acc: {}", crate::backend::log::visible(&record.args().to_string()));
        let level = host_level(record.level());
        match worker::module() {
            Some(m) => worker::print(m, level, None, text.as_bytes()),
            None => before_init(level, text.as_bytes()),
        }
    }

    fn flush(&self) {}
}

fn host_level(level: log::Level) -> i32 {
    match level {
        log::Level::Error => OS_L_ERR,
        log::Level::Warn => OS_L_WARN as i32,
        log::Level::Info => OS_L_INFO as i32,
        log::Level::Debug | log::Level::Trace => OS_L_DBG as i32,
    }
}

/// Before the module is initialised there is no journal yet: lines go to stderr and, as far as
/// its socket takes them, to syslog.
fn before_init(level: i32, text: &[u8]) {
    let settings = OpenSips.log_settings();
    if settings.stderr || !settings.syslog {
        worker::print_stderr(level, &settings, text);
    }
    if settings.syslog {
        let message = [settings.prefix.as_bytes(), crate::backend::log::level_name(level).as_bytes(), b":", text].concat();
        let datagram = crate::backend::log::datagram(level, settings.facility, &settings.name, std::process::id(), &message);
        crate::backend::syslog::SyslogSocket::new(crate::backend::syslog::DEV_LOG.as_ref()).try_send(&datagram);
    }
}

static LOGGER: Logger = Logger;

/// What the host compares with its own strings after dlopen.
pub struct Identity {
    pub version: *const c_char,
    pub compile_flags: *const c_char,
    pub scm: os_scm_version,
}

// SAFETY: strings of the host or leaked ones, never changed.
unsafe impl Send for Identity {}
// SAFETY: as above.
unsafe impl Sync for Identity {}

static UNKNOWN: &CStr = c"unknown";

/// Runs inside dlopen: finds out which server this is, and prepares logging. A server that we do
/// not know is refused by `load`, after the host's own check, with one sentence.
pub fn learn() -> Identity {
    guard::install_hook();
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(log::LevelFilter::Debug);
    let symbols = match Symbols::resolve() {
        Ok(s) => s,
        Err(e) => {
            let _ = SERVER.set(Err(e));
            return Identity { version: UNKNOWN.as_ptr(), compile_flags: UNKNOWN.as_ptr(), scm: os_scm_version { type_: UNKNOWN.as_ptr(), rev: c"".as_ptr() } };
        }
    };
    let identity = from_loaded_module(&symbols).or_else(|| from_program(&symbols)).unwrap_or(Identity {
        version: UNKNOWN.as_ptr(),
        compile_flags: UNKNOWN.as_ptr(),
        scm: os_scm_version { type_: symbols.core_scm_ver.type_, rev: symbols.core_scm_ver.rev },
    });
    // SAFETY: both strings are terminated: the host's own, leaked, or constants.
    let (version, flags) = unsafe { (CStr::from_ptr(identity.version).to_string_lossy(), CStr::from_ptr(identity.compile_flags).to_string_lossy()) };
    let _ = SERVER.set(versions::row_of(&version, &flags).map(|row| Server { symbols, row }));
    identity
}

/// A module that is loaded already has passed the host's check: its strings are the host's.
fn from_loaded_module(symbols: &Symbols) -> Option<Identity> {
    // SAFETY: the list's head is null or a loaded module, whose exports stay (promise 1).
    unsafe {
        let exports = symbols.modules.load(Ordering::Relaxed).as_ref()?.exports.as_ref()?;
        let v = &exports.ver_info;
        (!v.version.is_null() && !v.compile_flags.is_null()).then_some(Identity { version: v.version, compile_flags: v.compile_flags, scm: v.scm })
    }
}

/// When we are the first module, the strings are found in the program file.
fn from_program(symbols: &Symbols) -> Option<Identity> {
    let program = std::fs::read("/proc/self/exe").ok()?;
    let find = |beginning: &[u8], part: &[u8]| {
        program
            .split(|b| *b == 0)
            .filter(|s| s.starts_with(beginning) && s.windows(part.len()).any(|w| w == part) && s.iter().all(|b| (0x20..0x7f).contains(b)))
            .find_map(|s| std::ffi::CString::new(s).ok())
    };
    let version = find(b"opensips ", b"/linux)")?;
    let flags = find(b"STATS: ", b", ")?;
    Some(Identity {
        version: version.into_raw(),
        compile_flags: flags.into_raw(),
        scm: os_scm_version { type_: symbols.core_scm_ver.type_, rev: symbols.core_scm_ver.rev },
    })
}

/// The host's load function: refuses a server we do not know.
pub unsafe extern "C" fn load() -> c_int {
    guard::entry("load", FAILED, || match SERVER.get() {
        Some(Ok(_)) => {
            *DRAFT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Draft::default());
            OK
        }
        Some(Err(e)) => {
            log::error!("{e}");
            FAILED
        }
        None => FAILED,
    })
}

/// `modparam("acc", PARAMS[I].name, ...)`.
pub unsafe extern "C" fn set_param<const I: usize>(kind: os_modparam, value: *mut c_void) -> c_int {
    guard::entry("modparam", FAILED, || {
        let Some(param) = PARAMS.get(I) else { return FAILED };
        let raw = if kind & OS_STR_PARAM != 0 {
            // SAFETY: a string parameter comes as a terminated string (promise 2).
            RawValue::Str(unsafe { value.cast::<c_char>().as_ref().map_or_else(String::new, |c| CStr::from_ptr(c).to_string_lossy().into_owned()) })
        } else {
            RawValue::Int(value as usize as i32)
        };
        let mut draft = DRAFT.lock().unwrap_or_else(PoisonError::into_inner);
        match draft.get_or_insert_default().set(param.name, raw) {
            Ok(()) => OK,
            Err(e) => {
                log::error!("{e}");
                FAILED
            }
        }
    })
}

/// Before any module is initialised: the place in dialogs must exist before they are restored.
pub unsafe extern "C" fn preinit() -> c_int {
    guard::entry("preinit", FAILED, || {
        let Some(server) = server() else { return FAILED };
        if let Some(dialogs) = Dialogs::load(&server.symbols, contexts::release) {
            let _ = DIALOGS.set(dialogs);
        }
        OK
    })
}

/// Initialisation, once, before the fork.
pub unsafe extern "C" fn init() -> c_int {
    guard::entry("init", FAILED, || match initialise() {
        Ok(()) => OK,
        Err(e) => {
            log::error!("{e}");
            FAILED
        }
    })
}

fn initialise() -> Result<(), String> {
    let server = server().ok_or("the server is not supported")?;
    let symbols = &server.symbols;
    let draft = DRAFT.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
    for w in &draft.warnings {
        log::warn!("{w}");
    }
    let config = draft.finish(symbols.default_db_url().as_deref()).map_err(|e: ConfigError| e.to_string())?;
    arena::install(config.arena_mib).map_err(|e| format!("parameter arena_size: {} MiB of address space cannot be had: {e}", config.arena_mib))?;

    let tm = Tm::load(symbols, server.row)?;
    let rr = if config.detect_direction { Some(Rr::load(symbols)?) } else { None };
    let api = Api {
        rr,
        specs: Specs::new(symbols)?,
        events: publish_events(symbols)?,
        here: symbols.register_processing_slot(contexts::message_done),
        here_own: symbols.register_processing_slot(contexts::release),
        there: tm.register_slot(Some(contexts::release)),
        there_own: tm.register_slot(Some(contexts::release)),
        there_arrival: tm.register_slot(None),
        tm,
    };
    if [api.here, api.here_own, api.there, api.there_own, api.there_arrival].iter().any(|s| *s < 0) {
        return Err("the host has no room for accounting contexts: raise its private memory (-M)".into());
    }
    api.tm.register_global(Some(calls::on_request_in))?;

    let needed = config.db.is_some() || config.aaa.is_some();
    let journal = match Dir::open(&config.journal_dir) {
        Ok(dir) => Some(dir),
        Err(e) if needed => return Err(e.to_string()),
        Err(e) => {
            log::warn!("{e}; log lines that syslog does not take at once will be lost");
            None
        }
    };
    let waiting = match &journal {
        Some(dir) => revival::prepare(crate::journal::calls::scan(dir).map_err(|e| format!("journal_dir {} cannot be read: {e}", dir.path().display()))?),
        None => 0,
    };
    if waiting > 0 {
        log::info!("{waiting} calls were in progress when the server last ended");
        if !symbols.every(c"acc-orphans", config.orphan_timeout, Some(end_orphans)) {
            return Err("the host refused the timer for calls that come back with no dialog".into());
        }
    }
    shared::on_change(worker::call_changed);
    let wake =
        rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK | rustix::event::EventfdFlags::CLOEXEC).map_err(|e| format!("no eventfd: {e}"))?;
    super::exports::set_delivery_processes(u32::from(journal.is_some()));
    worker::install(Module { config, host: &OpenSips, journal, wake });
    let _ = API.set(api);
    if let Some(dialogs) = DIALOGS.get()
        && !dialogs.register_loaded(Some(calls::on_loaded))
    {
        return Err("the dialog module refused the callback for restored dialogs".into());
    }
    Ok(())
}

/// `orphan_timeout` is over, or over once more: calls claimed or ended meanwhile are left alone.
unsafe extern "C" fn end_orphans(_ticks: std::ffi::c_uint, _param: *mut c_void) {
    guard::entry("orphan timer", (), revival::end_orphans);
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

/// The delivery process.
pub unsafe extern "C" fn delivery_main(_no: c_int) {
    guard::entry("delivery process", (), || {
        let Some(module) = worker::module() else { return };
        let Some(dir) = &module.journal else { return };
        use std::os::fd::AsRawFd;
        // The handler must not be the first to touch them.
        STOP.store(false, Ordering::Relaxed);
        let _ = WAKE_FD.set(module.wake.as_raw_fd());
        // SAFETY: this process runs nothing of the host any more, so its signals are ours; the
        // handler only stores and writes.
        unsafe {
            libc::signal(libc::SIGTERM, on_terminate as extern "C" fn(c_int) as libc::sighandler_t);
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            // When the server dies without a word, nobody would stop us.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
        }
        delivery_run(module, dir);
    });
}

/// Longest pause before delivery is tried again after it could not even begin.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Delivers until the server ends; whatever stops delivery before is said, and it begins anew.
fn delivery_run(module: &'static Module, dir: &Dir) {
    let mut pause = Duration::from_secs(1);
    loop {
        let delivery = Delivery {
            config: Arc::new(module.config.clone()),
            dir: dir.clone(),
            wake: module.wake.try_clone().ok(),
            stop: Arc::clone(&STOP),
            log_socket: DEV_LOG.into(),
            aaa: radius(module),
            tables: Some(tables::publish),
            only_what_is_there: None,
        };
        let result = guard::entry("delivery", Ok(()), || delivery::run(delivery));
        if STOP.load(Ordering::Relaxed) {
            return;
        }
        if let Err(e) = result {
            log::error!("{e}; delivery begins again in {} s, until then records wait in the journal", pause.as_secs());
        }
        stats::add(Counter::DeliveryRestarts, 1);
        let again = Instant::now() + pause;
        while Instant::now() < again && !STOP.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

/// How the delivery process makes its RADIUS client, when there is RADIUS.
fn radius(module: &'static Module) -> Option<MakeSender> {
    let aaa = module.config.aaa.as_ref()?;
    Some(Box::new(move || {
        let radius = Radius::open(aaa, &aaa_names(&module.config.fields))?;
        Ok(Box::new(RadiusClient::new(radius, Options { nas_port: None, retry: aaa.retry })?) as Box<dyn RecordSender>)
    }))
}
