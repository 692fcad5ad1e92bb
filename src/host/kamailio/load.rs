//! From dlopen to the delivery process: what runs at load, before the fork, and after it.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use super::abi::*;
use super::api::{self, Dialogs, Rr, Tm};
use super::message::Specs;
use super::state::{API, Api, DIALOGS, DRAFT, EventRoute, Kamailio, ROUTES, SERVER, Server, server};
use super::symbols::{self, Symbols};
use super::{arguments, attached, calls, versions};
use crate::config::RawValue;
use crate::host::database::Places;
use crate::host::guard;
use crate::host::process::{self, FAILED, OK};
use crate::module::DELIVERY_SUPERVISOR;
use crate::stats::Counter;
use crate::worker;

/// What the host compares with its own strings after dlopen.
pub struct Identity {
    pub version: *const c_char,
    pub flags: *const c_char,
}

/// Runs inside dlopen: finds out which server this is, and prepares logging. A server that we do
/// not know is refused by `init`, after the host's own check, with one sentence.
pub fn learn() -> Identity {
    guard::install_hook();
    process::log_to(&Kamailio);
    let text = |name| symbols::text(name).to_string_lossy();
    let (name, version, arch, os) = (text(c"ver_name"), text(c"ver_version"), text(c"ver_arch"), text(c"ver_os"));
    let server = versions::row_of(&name, &version, &arch, &os).and_then(|row| {
        let symbols = Symbols::resolve()?;
        let tm_is_first = api::tm_is_loaded(&symbols);
        Ok(Server { symbols, row, tm_is_first })
    });
    let _ = SERVER.set(server);
    let full = CString::new(format!("{name} {version} ({arch}/{os})")).unwrap_or_default();
    Identity { version: full.into_raw(), flags: symbols::text(c"ver_flags").as_ptr() }
}

/// `modparam("acc", PARAMS[I].name, ...)`.
pub unsafe extern "C" fn set_param<const I: usize>(kind: c_uint, value: *mut c_void) -> c_int {
    process::set_param(&DRAFT, I, |param| {
        if kind & KM_PARAM_STRING != 0 {
            // SAFETY: a string parameter comes as a terminated string (promise 2).
            return unsafe { process::text_of(value) };
        }
        let n = value as usize as i32;
        RawValue::Int(if param.name == "log_level" { symbols::level_from_host(n) } else { n })
    })
}

const BY_FUNCTION: &str = "call do_accounting() in the routes instead";
const EXTRA: &str = "use the parameter extra_fields, and set the values with $acc_extra(tag) in the routes";
const CDR: &str = "call do_accounting(\"...\", \"cdr\") in the routes instead";
const NEEDLESS: &str = "leave it out: values of any size and number are kept, and times are always written as the documentation says";

/// Parameters of Kamailio's own accounting module that have no meaning here, and what to use.
pub const FOREIGN: [(&str, &str); 35] = [
    ("failed_transaction_flag", "call do_accounting(\"...\", \"failed\") in the routes instead"),
    ("failed_filter", "call drop_accounting() in the failure route instead"),
    ("report_ack", "an ACK has no reply and makes no record: leave it out"),
    ("multi_leg_info", "use the parameter leg_fields, and acc_new_leg() and $acc_leg(tag) in the routes"),
    ("acc_prepare_flag", BY_FUNCTION),
    ("acc_prepare_always", BY_FUNCTION),
    ("reason_from_hf", "set $acc_extra(tag) from the header in the reply route instead"),
    ("acc_extra_nullable", "leave it out: a value that is not set is always NULL"),
    ("log_flag", "call do_accounting(\"log\") in the routes instead"),
    ("log_missed_flag", "call do_accounting(\"log\", \"missed\") in the routes instead"),
    ("log_extra", EXTRA),
    ("cdr_enable", CDR),
    ("cdr_skip", "call drop_accounting(\"...\", \"cdr\") in the routes instead"),
    ("cdr_log_enable", "call do_accounting(\"log\", \"cdr\") in the routes instead"),
    ("cdr_start_on_confirmed", "leave it out: a call starts with its 200"),
    ("cdr_facility", "use the parameter log_facility"),
    ("cdr_extra", EXTRA),
    ("cdr_extra_nullable", "leave it out: a value that is not set is always NULL"),
    ("cdr_start_id", "leave it out: the names in a CDR are fixed"),
    ("cdr_end_id", "leave it out: the names in a CDR are fixed"),
    ("cdr_duration_id", "leave it out: the names in a CDR are fixed"),
    ("cdr_expired_dlg_enable", "leave it out: a call whose lifetime ran out always has its CDR"),
    ("db_flag", "call do_accounting(\"db\") in the routes instead"),
    ("db_missed_flag", "call do_accounting(\"db\", \"missed\") in the routes instead"),
    ("db_extra", EXTRA),
    ("db_insert_mode", "leave it out: rows are always written in the background"),
    ("time_mode", NEEDLESS),
    ("time_attr", NEEDLESS),
    ("time_exten", NEEDLESS),
    ("cdrs_table", "name the table in do_accounting(\"db\", \"cdr\", \"table\") instead"),
    ("time_format", NEEDLESS),
    ("clone_msg", NEEDLESS),
    ("cdr_on_failed", "call do_accounting(\"...\", \"failed\") in the routes instead"),
    ("acc_extra_size", NEEDLESS),
    ("cdr_extra_size", NEEDLESS),
];

/// `modparam("acc", FOREIGN[I], ...)`: an error that names the cure.
pub unsafe extern "C" fn refuse_param<const I: usize>(_kind: c_uint, _value: *mut c_void) -> c_int {
    guard::entry("modparam", FAILED, || {
        let Some((name, instead)) = FOREIGN.get(I) else { return FAILED };
        log::error!("parameter {name} belongs to Kamailio's own acc module: {instead}");
        FAILED
    })
}

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
    let [use_table, init, close, insert] = [KM_DB_FUNC_USE_TABLE, KM_DB_FUNC_INIT, KM_DB_FUNC_CLOSE, KM_DB_FUNC_INSERT].map(|n| n as usize);
    let config = process::configure(&DRAFT, None, symbols::db_bind_mod(), &Places { use_table, init, close, insert })?;
    attached::install()?;

    if !server.tm_is_first {
        return Err("the module tm must be loaded before this one: put loadmodule \"tm.so\" above loadmodule \"acc.so\"".into());
    }
    let tm = Tm::load(symbols)?;
    let rr = if config.detect_direction { Some(Rr::load(symbols)?) } else { None };
    let routes = ROUTES.map(|name| symbols.event_route(name).map(EventRoute));
    let api = Api { rr, specs: Specs::new(server)?, routes, tm };
    api.tm.register_global(calls::on_request_in)?;
    for route in [KM_REQUEST_CB, KM_FAILURE_CB, KM_ONREPLY_CB, KM_BRANCH_FAILURE_CB] {
        if ![KM_PRE_SCRIPT_CB, KM_POST_SCRIPT_CB].iter().all(|when| symbols.register_script(calls::on_script, when | route)) {
            return Err("the host refused the script callbacks".into());
        }
    }

    let journal = process::open_journal(&config, symbols.later_user(), |seconds| symbols.every(seconds, process::end_orphans))?;
    if config.backlog_threshold > 0 && !symbols.every(1, process::watch_backlog) {
        return Err("the host refused the timer for backlog_threshold".into());
    }
    if !Counter::ALL.iter().all(|c| symbols.register_counter(*c)) {
        return Err("the host refused the counters of the group acc".into());
    }
    if journal.is_some() && !symbols.announce_process() {
        return Err("the host has no room for the delivery process".into());
    }
    process::take_records(config, &Kamailio, journal)?;
    let _ = API.set(api);
    if let Some(dialogs) = Dialogs::load(symbols)
        && !DIALOGS.get_or_init(|| dialogs).register_loaded(calls::on_loaded)
    {
        return Err("the dialog module refused the callback for restored dialogs".into());
    }
    Ok(())
}

/// In every process of the host, and in the main one before and after the fork.
pub unsafe extern "C" fn init_child(rank: c_int) -> c_int {
    guard::entry("child init", FAILED, || {
        if rank == KM_PROC_INIT {
            arguments::running();
        }
        if rank != KM_PROC_MAIN as c_int {
            return OK;
        }
        let (Some(server), Some(module)) = (server(), worker::module()) else { return FAILED };
        if module.journal.is_none() {
            return OK;
        }
        match server.symbols.fork(DELIVERY_SUPERVISOR) {
            Ok(false) => OK,
            Ok(true) => {
                process::deliver(module);
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
