//! From dlopen to the delivery process: what runs at load, before the fork, and after it.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use super::abi::*;
use super::api::{self, Dialogs, Queues, Routed, Rr, Tm};
use super::message;
use super::prepared::ByFlags;
use super::state::{API, Api, DIALOGS, EventRoute, Kamailio, SERVER, Server, server};
use super::symbols::{self, Symbols};
use super::{arguments, attached, dialogs, transactions, versions};
use crate::accounting::extras::Family;
use crate::backend::event::Event;
use crate::backend::json::Json;
use crate::declaration::{DELIVERY_SUPERVISOR, Hosts};
use crate::host::database::Places;
use crate::host::process::{self, FAILED, OK};
use crate::host::{guard, proof};
use crate::params::{ConfigError, RawValue, in_range};
use crate::stats::Counter;
use crate::worker;

/// What the host compares with its own strings after dlopen.
pub struct Identity {
    pub version: *const c_char,
    pub flags: *const c_char,
}

/// What the host finds as `exports`, and the texts it compares with its own.
pub struct Export {
    /// The table.
    pub exports: km_module_exports,
    /// `module_version`.
    pub version: *const c_char,
    /// `module_flags`.
    pub flags: *const c_char,
}

/// Runs inside dlopen: finds out which server this is, and prepares logging. A server that we do
/// not know is refused by `init`, after the host's own check, with one sentence.
pub fn learn() -> Identity {
    guard::install_hook();
    process::log_to(&Kamailio);
    let text = |name| symbols::text(name).to_string_lossy();
    let (name, version, arch, os) = (text(c"ver_name"), text(c"ver_version"), text(c"ver_arch"), text(c"ver_os"));
    let server = versions::judge(&name, &version, &arch, &os).and_then(|untested| {
        let symbols = Symbols::resolve()?;
        if untested.is_some() && !api::has_known_tables(&symbols) {
            return Err(format!("this server is \"{name} {version}\", and its modules have other tables than in the known versions: {}", proof::CURE));
        }
        let tm_is_first = api::tm_is_loaded(&symbols);
        Ok(Server { symbols, untested, tm_is_first })
    });
    // From 6.2 on, the program's own text has flags that it does not compare; the text of tm has passed
    // its check.
    let flags = server.as_ref().ok().and_then(|s| api::flags_of_tm(&s.symbols)).unwrap_or(symbols::text(c"ver_flags"));
    let _ = SERVER.set(server);
    let full = CString::new(format!("{name} {version} ({arch}/{os})")).unwrap_or_default();
    Identity { version: full.into_raw(), flags: flags.as_ptr() }
}

/// `modparam("acc", PARAMS[i].name, ...)`.
///
/// # Safety
/// `value` is the host's, of the kind it says.
#[inline(never)]
pub unsafe fn set_param(i: usize, kind: c_uint, value: *mut c_void) -> c_int {
    process::set_param(i, |param| match param.hosts {
        Hosts::OpenSips(instead) => Err(ConfigError::Value { name: param.name, reason: instead.into() }),
        // SAFETY: a string parameter comes as a terminated string (promise 2).
        _ if kind & KM_PARAM_STRING != 0 => Ok(unsafe { process::text_of(value) }),
        _ if param.name == "log_level" => {
            let n = value as usize as i32;
            in_range(param.name, n, symbols::LEVELS)?;
            Ok(RawValue::Int(symbols::level_from_host(n)))
        }
        _ => Ok(RawValue::Int(value as usize as i32)),
    })
}

/// Seconds between two searches for calls whose lifetime is over.
const LOOK: u32 = 1;

/// Initialisation, once, before the fork.
pub unsafe extern "C" fn init() -> c_int {
    process::init(initialise)
}

fn initialise() -> Result<(), String> {
    let server = match SERVER.get() {
        Some(Ok(s)) => s,
        Some(Err(e)) => return Err(e.clone()),
        None => return Err("the constructor did not run".into()),
    };
    let symbols = &server.symbols;
    message::prove_variables(symbols)?;
    let [use_table, init, close, insert] = [KM_DB_FUNC_USE_TABLE, KM_DB_FUNC_INIT, KM_DB_FUNC_CLOSE, KM_DB_FUNC_INSERT].map(|n| n as usize);
    let config = process::configure(Family::Kamailio, None, symbols::db_bind_mod(), &Places { use_table, init, close, insert })?;
    attached::install()?;

    if !server.tm_is_first {
        return Err("the module tm must be loaded before this one: put loadmodule \"tm.so\" above loadmodule \"acc.so\"".into());
    }
    let tm = Tm::load(symbols, transactions::on_any_transaction)?;
    let rr = if config.detect_direction { Some(Rr::load(symbols)?) } else { None };
    let routes = Event::ALL.map(|e| symbols.event_route(e.route()).map(EventRoute));
    let flags = if config.flags.names.is_used() || !config.rules.fields.flags.is_empty() || config.rules.dialog_cdrs.is_some() {
        Some(ByFlags::new(symbols, &config.flags, &config.rules.fields.flags, config.stock.reason_from_hf)?)
    } else {
        None
    };
    let has_queue = |json: &Json| json.records.queue.is_some() || json.cdrs.queue.is_some();
    let queues = if config.stock.json.as_ref().is_some_and(has_queue) { Some(Queues::load(symbols)?) } else { None };
    let has_cdrs = config.rules.dialog_cdrs.is_some();
    let api = Api { rr, specs: message::specs(symbols)?, flags, queues, routes, tm };
    api.tm.register_global(transactions::on_request_in)?;
    for route in [KM_REQUEST_CB, KM_FAILURE_CB, KM_ONREPLY_CB, KM_BRANCH_FAILURE_CB] {
        if ![KM_PRE_SCRIPT_CB, KM_POST_SCRIPT_CB].iter().all(|when| symbols.register_script(transactions::on_script, when | route)) {
            return Err("the host refused the script callbacks".into());
        }
    }

    let journal = process::open_journal(&config, symbols.later_user(), |seconds, timer| symbols.every(seconds, timer))?;
    if config.backlog_threshold > 0 && !symbols.every(1, process::watch_backlog) {
        return Err("the host refused the timer for backlog_threshold".into());
    }
    if config.interim_interval > 0 && !symbols.every(1, process::raise_interims) {
        return Err("the host refused the timer for interim_interval".into());
    }
    if !Counter::ALL.iter().all(|c| symbols.register_counter(*c)) {
        return Err("the host refused the counters of the group acc".into());
    }
    if journal.is_some() && !symbols.announce_process() {
        return Err("the host has no room for the delivery process".into());
    }
    process::take_records(config, &Kamailio, journal)?;
    let _ = API.set(api);
    if let Some(dialogs) = Dialogs::load(symbols)? {
        let dialogs = DIALOGS.get_or_init(|| dialogs);
        if !dialogs.register_global(KM_DLGCB_CREATED, dialogs::on_created) || !dialogs.register_global(KM_DLGCB_LOADED, dialogs::on_loaded) {
            return Err("the dialog module refused the callbacks for new and restored dialogs".into());
        }
        Routed::register(symbols, transactions::on_routed)?;
        if !symbols.every(LOOK, transactions::end_lost) {
            return Err("the host refused the timer for calls without a dialog".into());
        }
    }
    if has_cdrs && DIALOGS.get().is_none() {
        return Err("parameter cdr_enable: its CDRs need dialogs: load dialog.so, above acc.so, or set it to 0".into());
    }
    if let Some(what) = &server.untested {
        log::warn!("{what}");
    }
    Ok(())
}

/// Called in every process of the host, and in the main process before and after the fork.
pub unsafe extern "C" fn init_child(rank: c_int) -> c_int {
    guard::entry("child init", FAILED, || {
        if rank == KM_PROC_INIT {
            arguments::running();
        }
        if rank != KM_PROC_MAIN as c_int {
            return OK;
        }
        let (Some(server), Some(instance)) = (server(), worker::instance()) else { return FAILED };
        if instance.journal.is_none() {
            return OK;
        }
        match server.symbols.fork(DELIVERY_SUPERVISOR) {
            Ok(false) => OK,
            Ok(true) => {
                process::deliver(instance);
                // SAFETY: nothing of the host is to run in this process, not even its exit handlers.
                unsafe { libc::_exit(0) }
            }
            Err(e) => {
                log::error!("{e}");
                FAILED
            }
        }
    })
}
