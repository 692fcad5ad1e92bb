//! From dlopen to the delivery process: what runs at load, before the fork, and after it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::offset_of;

use super::abi::*;
use super::api::{Dialogs, Rr, Tm};
use super::message;
use super::prepared::{ByFlags, Variables};
use super::state::{API, Api, DIALOGS, OpenSips, SERVER, Server, publish_events, server};
use super::symbols::{self, Symbols};
use super::{dialogs, management, processes, raised, transactions, versions};
use crate::accounting::extras::Family;
use crate::backend::sql;
use crate::declaration::Hosts;
use crate::host::database::{Places, abi::os_db_func};
use crate::host::guard;
use crate::host::process::{self, FAILED, OK};
use crate::host::proof::{self, Object};
use crate::host::shared::release;
use crate::params::{ConfigError, RawValue};
use crate::worker;

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
    process::log_to(&OpenSips);
    let symbols = match Symbols::resolve() {
        Ok(s) => s,
        Err(e) => {
            // The host's own check follows and only says "unknown", so log the reason now.
            log::error!("{e}");
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
    let server = versions::judge(&version, &flags).and_then(|untested| {
        if untested.is_some() && !symbols.last_module().is_none_or(has_known_tables) {
            return Err(format!("this server is \"{version}\", and its modules have other tables than in the known versions: {}", proof::CURE));
        }
        Ok(Server { symbols, untested })
    });
    let _ = SERVER.set(server);
    identity
}

/// A module that is loaded already has passed the host's check: its strings are the host's.
fn from_loaded_module(symbols: &Symbols) -> Option<Identity> {
    let v = &symbols.last_module()?.ver_info;
    Some(Identity { version: v.version, compile_flags: v.compile_flags, scm: v.scm })
}

/// Can the tables of a module be read as ours will be?
fn has_known_tables(e: &os_module_exports) -> bool {
    let tables: [(*const c_void, usize); 5] = [
        (e.cmds.cast(), size_of::<os_cmd_export>()),
        (e.params.cast(), size_of::<os_param_export>()),
        (e.stats.cast(), size_of::<os_stat_export>()),
        (e.items.cast(), size_of::<os_pv_export>()),
        (e.procs.cast(), size_of::<os_proc_export>()),
    ];
    const NAME: usize = 0;
    tables.into_iter().all(|(table, size)| table.is_null() || Object::of(table).is_some_and(|o| o.length(table, size, NAME).is_some()))
}

/// If we are the first module, the strings are taken from the program file.
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
        Some(Ok(_)) => OK,
        Some(Err(e)) => {
            log::error!("{e}");
            FAILED
        }
        None => FAILED,
    })
}

/// `modparam("acc", PARAMS[i].name, ...)`.
///
/// # Safety
/// `value` is the host's, of the kind it says.
#[inline(never)]
pub unsafe fn set_param(i: usize, kind: os_modparam, value: *mut c_void) -> c_int {
    process::set_param(i, |param| match param.hosts {
        Hosts::Kamailio(instead) => Err(ConfigError::Value { name: param.name, reason: instead.into() }),
        // SAFETY: a string parameter comes as a terminated string (promise 2).
        _ if kind & OS_STR_PARAM != 0 => Ok(unsafe { process::text_of(value) }),
        _ => Ok(RawValue::Int(value as usize as i32)),
    })
}

/// Before any module is initialised: the place in dialogs must exist before they are restored.
pub unsafe extern "C" fn preinit() -> c_int {
    guard::entry("preinit", FAILED, || {
        let Some(server) = server() else { return FAILED };
        process::told(Dialogs::load(&server.symbols, release).map(|found| {
            if let Some(dialogs) = found {
                let _ = DIALOGS.set(dialogs);
            }
        }))
    })
}

/// Initialisation, once, before the fork.
pub unsafe extern "C" fn init() -> c_int {
    process::init(initialise)
}

fn initialise() -> Result<(), String> {
    let server = server().ok_or("the server is not supported")?;
    let symbols = &server.symbols;
    message::prove_variables(symbols)?;
    raised::prove_params(symbols)?;
    management::offer(symbols);
    let places = Places {
        use_table: offset_of!(os_db_func, use_table),
        init: offset_of!(os_db_func, init),
        close: offset_of!(os_db_func, close),
        insert: offset_of!(os_db_func, insert),
    };
    let mut config = process::configure(Family::OpenSips, symbols.default_db_url().as_deref(), symbols::db_bind_mod(), &places)?;
    if config.db().is_some_and(|db| sql::is_foreign(&db.url)) {
        processes::use_modules();
    }

    let tm = Tm::load(symbols)?;
    let rr = if config.detect_direction { Some(Rr::load(symbols)?) } else { None };
    let api = Api {
        rr,
        specs: message::specs(symbols)?,
        end_reason: if DIALOGS.get().is_some() { Some(message::needed(symbols, "$DLG_end_reason")?) } else { None },
        events: publish_events(symbols)?,
        here: symbols.register_processing_slot(Some(transactions::message_done)),
        here_own: symbols.register_processing_slot(Some(release)),
        here_loaded: symbols.register_processing_slot(None),
        here_replaced: symbols.register_processing_slot(Some(release)),
        here_changed: symbols.register_processing_slot(Some(transactions::changes_done)),
        here_arrival: symbols.register_processing_slot(None),
        there: tm.register_slot(Some(release)),
        there_own: tm.register_slot(Some(release)),
        there_arrival: tm.register_slot(None),
        variables: Variables::new(symbols, &config.rules.fields.flags)?,
        flags: ByFlags::new(symbols, &config, DIALOGS.get().is_some(), || tm.register_slot(Some(release)))?,
        tm,
    };
    let here = [api.here, api.here_own, api.here_loaded, api.here_replaced, api.here_changed, api.here_arrival];
    let there = [api.there, api.there_own, api.there_arrival];
    if here.iter().chain(&there).any(|s| *s < 0) {
        return Err("the host has no room for accounting contexts: raise its private memory (-M)".into());
    }
    symbols.prove_processing_slots(api.here_arrival)?;
    api.tm.register_global(Some(transactions::on_request_in))?;
    if !symbols.before_routes(Some(transactions::on_request), Some(transactions::on_reply)) {
        return Err("the host refused the script callback".into());
    }

    config.cluster_id = super::clusterer::join(symbols, config.cluster_id)?;
    let journal = process::open_journal(&config, symbols.later_user(), |seconds, timer| symbols.every(c"acc-orphans", seconds, Some(timer)))?;
    if config.backlog_threshold > 0 && !symbols.every(c"acc-backlog", 1, Some(process::watch_backlog)) {
        return Err("the host refused the timer for backlog_threshold".into());
    }
    if config.interim_interval > 0 && !symbols.every(c"acc-interims", 1, Some(process::raise_interims)) {
        return Err("the host refused the timer for interim_interval".into());
    }
    processes::set_number(u32::from(journal.is_some()));
    process::take_records(config, &OpenSips, journal)?;
    let _ = API.set(api);
    if let Some(dialogs) = DIALOGS.get()
        && !dialogs.register_loaded(Some(dialogs::on_loaded))
    {
        return Err("the dialog module refused the callback for restored dialogs".into());
    }
    dialogs::own_are_restored();
    if let Some(what) = &server.untested {
        log::warn!("{what}");
    }
    Ok(())
}

/// The delivery process.
pub unsafe extern "C" fn delivery_main(_no: c_int) {
    guard::entry("delivery process", (), || {
        if let Some(instance) = worker::instance() {
            process::deliver(instance);
        }
    });
}
