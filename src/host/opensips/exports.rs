//! The tables that the host reads, made from the declaration in [`crate::module`].

use std::ffi::{c_int, c_ulong, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::abi::*;
use super::{functions, load, variables};
use crate::acc::record::Backend;
use crate::host::entry::{name, table};
use crate::module::{Argument, DELIVERY_SUPERVISOR, FUNCTIONS, PARAMS, ParamType, Routes, VARIABLES};
use crate::stats::{self, COUNTERS, Counter};

const fn unsafe_zeroed() -> os_module_exports {
    // SAFETY: null pointers, zero numbers and `None` functions are values of every field.
    unsafe { std::mem::zeroed() }
}

/// The table of our extra process, to switch it off when there is nothing to deliver.
static PROCESSES: AtomicPtr<os_proc_export> = AtomicPtr::new(ptr::null_mut());

/// How many delivery processes the host is to fork; called in initialisation, before it counts.
pub fn set_delivery_processes(n: u32) {
    let p = PROCESSES.load(Ordering::Relaxed);
    if !p.is_null() {
        // SAFETY: our own leaked table; the host reads it later, in this same process (promise 2).
        unsafe { (*p).no = n };
    }
}

/// The modules' child_init is to run in the delivery process: it will use one of them.
pub fn set_delivery_uses_modules() {
    let p = PROCESSES.load(Ordering::Relaxed);
    if !p.is_null() {
        // SAFETY: as above.
        unsafe { (*p).flags |= OS_PROC_FLAG_INITCHILD };
    }
}

/// Makes the tables; called inside dlopen.
pub fn fill() -> os_module_exports {
    let identity = load::learn();
    let processes = table([os_proc_export { name: DELIVERY_SUPERVISOR.as_ptr(), function: Some(load::delivery_main), no: 1, ..Default::default() }]);
    PROCESSES.store(processes, Ordering::Relaxed);
    let mut e = unsafe_zeroed();
    e.name = c"acc".as_ptr();
    e.type_ = OS_MOD_TYPE_DEFAULT;
    e.ver_info.version = identity.version;
    e.ver_info.compile_flags = identity.compile_flags;
    e.ver_info.scm = identity.scm;
    e.load_f = Some(load::load);
    e.deps = Box::leak(Box::new(dependencies()));
    e.cmds = table(commands());
    e.params = table(parameters());
    e.items = table(pseudo_variables());
    e.stats = table(statistics());
    if let Some(server) = super::state::server() {
        e.mi_cmds = super::management::table(&server.row);
    }
    e.procs = processes;
    e.preinit_f = Some(load::preinit);
    e.init_f = Some(load::init);
    e
}

/// tm is needed; dialog, rr and all database modules, when they are there, are initialised before
/// us. So the order of the loadmodule lines does not matter.
fn dependencies() -> os_dep_export {
    let named = |module, kind| os_module_dependency { mod_type: OS_MOD_TYPE_DEFAULT, mod_name: name(module).cast_mut(), type_: kind };
    let mut d = os_dep_export::default();
    d.md[0] = named("tm", OS_DEP_ABORT);
    d.md[1] = named("dialog", OS_DEP_SILENT);
    d.md[2] = named("rr", OS_DEP_SILENT);
    d.md[3] = os_module_dependency { mod_type: OS_MOD_TYPE_SQLDB, mod_name: ptr::null_mut(), type_: OS_DEP_SILENT };
    d
}

/// Entry points in the order of [`FUNCTIONS`].
const ENTRIES: [os_cmd_fn; FUNCTIONS.len()] = [
    Some(functions::do_accounting),
    Some(functions::drop_accounting),
    Some(functions::acc_log_request),
    Some(functions::acc_db_request),
    Some(functions::acc_aaa_request),
    Some(functions::acc_evi_request),
    Some(functions::acc_new_leg),
    Some(functions::acc_load_ctx_from_dlg),
    Some(functions::acc_unload_ctx_from_dlg),
];

fn commands() -> impl Iterator<Item = os_cmd_export> {
    FUNCTIONS.iter().zip(ENTRIES).map(|(f, function)| {
        let mut c = os_cmd_export { name: name(f.name), function, ..Default::default() };
        c.flags = match f.routes {
            Routes::Requests | Routes::Transactions => OS_REQUEST_ROUTE | OS_FAILURE_ROUTE | OS_BRANCH_ROUTE | OS_LOCAL_ROUTE,
            Routes::All => OS_ALL_ROUTES,
        } as c_int;
        for (place, (argument, optional)) in c.params.iter_mut().zip(f.arguments) {
            place.flags = (OS_CMD_PARAM_STR | if *optional { OS_CMD_PARAM_OPT } else { 0 }) as c_int;
            place.fixup = match argument {
                Argument::Types => Some(functions::fixup_types),
                Argument::Flags => Some(functions::fixup_flags),
                Argument::Table => Some(functions::fixup_table),
                Argument::Comment(Backend::Db) => Some(functions::fixup_db_comment),
                Argument::Comment(Backend::Aaa) => Some(functions::fixup_aaa_comment),
                Argument::Comment(_) => None,
            };
        }
        c
    })
}

/// One setter for each parameter of [`PARAMS`].
macro_rules! setters {
    ($($i:literal)+) => { [$(load::set_param::<$i> as unsafe extern "C" fn(os_modparam, *mut c_void) -> c_int,)+] };
}

/// Each parameter stands there twice, with its own type and with the other one, so that a value of
/// the wrong type is answered by us, with a sentence that names parameter and cure.
fn parameters() -> impl Iterator<Item = os_param_export> {
    let setters = setters!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32);
    const { assert!(PARAMS.len() == 33, "one setter for each parameter") };
    PARAMS.iter().zip(setters).flat_map(|(p, setter)| {
        let kinds = match p.kind {
            ParamType::Int => [OS_INT_PARAM, OS_STR_PARAM],
            ParamType::Str => [OS_STR_PARAM, OS_INT_PARAM],
        };
        kinds.map(|kind| os_param_export { name: name(p.name), type_: kind | OS_USE_FUNC_PARAM, param_pointer: setter as *mut c_void })
    })
}

/// The host calls this for the counter in slot `I`.
unsafe extern "C" fn statistic<const I: usize>(_context: *mut c_void) -> c_ulong {
    crate::host::guard::entry("statistic", 0, || Counter::ALL.get(I).map_or(0, |c| stats::answer(*c) as c_ulong))
}

macro_rules! statistics_of {
    ($($i:literal)+) => { [$(statistic::<$i> as unsafe extern "C" fn(*mut c_void) -> c_ulong,)+] };
}

/// Every counter, under its own name in the group "acc".
fn statistics() -> impl Iterator<Item = os_stat_export> {
    let functions = statistics_of!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
    const { assert!(COUNTERS <= 40, "one function for each counter") };
    Counter::ALL.iter().zip(functions).map(|(c, function)| os_stat_export {
        name: name(c.name()).cast_mut(),
        flags: (OS_STAT_IS_FUNC | OS_STAT_NO_RESET) as u16,
        stat_pointer: function as *mut *mut os_stat_var,
    })
}

/// Numbers of the variables' types: free for modules from 1000 on; these are the original's.
const FIRST_TYPE: os_pv_type = 2001;

fn pseudo_variables() -> impl Iterator<Item = os_pv_export> {
    let with = |i: usize| os_pv_export {
        name: os_str_const { s: name(VARIABLES[i]), len: VARIABLES[i].len() as i32 },
        type_: FIRST_TYPE + i as os_pv_type,
        ..Default::default()
    };
    [
        os_pv_export { getf: Some(variables::get_extra), setf: Some(variables::set_extra), parse_name: Some(variables::parse_extra_name), ..with(0) },
        os_pv_export {
            getf: Some(variables::get_leg),
            setf: Some(variables::set_leg),
            parse_name: Some(variables::parse_leg_name),
            parse_index: Some(variables::parse_leg_index),
            ..with(1)
        },
        os_pv_export { getf: Some(variables::get_current_leg), ..with(2) },
    ]
    .into_iter()
}
