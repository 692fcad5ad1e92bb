//! The tables that the host reads, made from the declaration in [`crate::declaration`].

use std::ffi::{c_int, c_ulong, c_void};
use std::ptr;

use super::abi::*;
use super::{functions, load, processes, variables};
use crate::declaration::{CURRENT_LEG, EXTRA, LEG, PARAMS, ParamType};
use crate::host::exported::{name, table};
use crate::host::server::numbered::numbered;
use crate::stats::{self, COUNTERS, Counter};

/// Makes the tables; called inside dlopen.
pub fn fill() -> os_module_exports {
    let identity = load::learn();
    let mut e = os_module_exports {
        name: c"acc".as_ptr(),
        type_: OS_MOD_TYPE_DEFAULT,
        load_f: Some(load::load),
        deps: Box::leak(Box::new(dependencies())),
        cmds: table(functions::exports()),
        params: table(parameters()),
        items: table(pseudo_variables()),
        stats: table(statistics()),
        procs: processes::table(load::delivery_main),
        preinit_f: Some(load::preinit),
        init_f: Some(load::init),
        ..Default::default()
    };
    e.ver_info.version = identity.version;
    e.ver_info.compile_flags = identity.compile_flags;
    e.ver_info.scm = identity.scm;
    e
}

/// tm is needed; dialog, rr, clusterer and all database modules are initialised before us if they are
/// loaded. So the order of the loadmodule lines does not matter.
fn dependencies() -> os_dep_export {
    let named = |module, kind| os_module_dependency { mod_type: OS_MOD_TYPE_DEFAULT, mod_name: name(module).cast_mut(), type_: kind };
    let mut d = os_dep_export::default();
    d.md[0] = named("tm", OS_DEP_ABORT);
    d.md[1] = named("dialog", OS_DEP_SILENT);
    d.md[2] = named("rr", OS_DEP_SILENT);
    d.md[3] = named("clusterer", OS_DEP_SILENT);
    d.md[4] = os_module_dependency { mod_type: OS_MOD_TYPE_SQLDB, mod_name: ptr::null_mut(), type_: OS_DEP_SILENT };
    d
}

/// Each parameter is listed twice, with its own type and with the other one, so that we refuse a value of the
/// wrong type ourselves, with a message that names the parameter and says what to do.
fn parameters() -> impl Iterator<Item = os_param_export> {
    PARAMS.iter().zip(numbered!(set_param as Setter, PARAMS.len())).flat_map(|(p, setter)| {
        let kinds = match p.kind {
            ParamType::Int(..) | ParamType::Flag => [OS_INT_PARAM, OS_STR_PARAM],
            ParamType::Str | ParamType::Word(_) | ParamType::Either(..) => [OS_STR_PARAM, OS_INT_PARAM],
        };
        kinds.map(|kind| os_param_export { name: name(p.name), type_: kind | OS_USE_FUNC_PARAM, param_pointer: setter as *mut c_void })
    })
}

type Setter = unsafe extern "C" fn(os_modparam, *mut c_void) -> c_int;

/// `modparam("acc", PARAMS[I].name, ...)`.
unsafe extern "C" fn set_param<const I: usize>(kind: os_modparam, value: *mut c_void) -> c_int {
    // SAFETY: the host's value, of the kind it says.
    unsafe { load::set_param(I, kind, value) }
}

type Statistic = unsafe extern "C" fn(*mut c_void) -> c_ulong;

/// The host calls this for the counter in slot `I`.
unsafe extern "C" fn statistic<const I: usize>(_context: *mut c_void) -> c_ulong {
    count(I)
}

#[inline(never)]
fn count(i: usize) -> c_ulong {
    crate::host::guard::entry("statistic", 0, || Counter::ALL.get(i).map_or(0, |c| stats::answer(*c) as c_ulong))
}

/// Every counter, under its own name in the group "acc".
fn statistics() -> impl Iterator<Item = os_stat_export> {
    Counter::ALL.iter().zip(numbered!(statistic as Statistic, COUNTERS)).map(|(c, function)| os_stat_export {
        name: name(c.name()).cast_mut(),
        flags: (OS_STAT_IS_FUNC | OS_STAT_NO_RESET) as u16,
        stat_pointer: function as *mut *mut os_stat_var,
    })
}

/// Numbers of the variables' types: free for modules from 1000 on; these are the original's.
const FIRST_TYPE: os_pv_type = 2001;

fn pseudo_variables() -> impl Iterator<Item = os_pv_export> {
    let with =
        |n: &str, kind: os_pv_type| os_pv_export { name: os_str_const { s: name(n), len: n.len() as i32 }, type_: FIRST_TYPE + kind, ..Default::default() };
    [
        os_pv_export { getf: Some(variables::get_extra), setf: Some(variables::set_extra), parse_name: Some(variables::parse_extra_name), ..with(EXTRA, 0) },
        os_pv_export {
            getf: Some(variables::get_leg),
            setf: Some(variables::set_leg),
            parse_name: Some(variables::parse_leg_name),
            parse_index: Some(variables::parse_leg_index),
            ..with(LEG, 1)
        },
        os_pv_export { getf: Some(variables::get_current_leg), ..with(CURRENT_LEG, 2) },
    ]
    .into_iter()
}
