//! The tables that the host reads, made from the declaration in [`crate::module`].

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use super::abi::*;
use super::{arguments, functions, load, rpc, variables};
use crate::acc::record::Backend;
use crate::host::entry::{name, table};
use crate::module::{COMMANDS, FUNCTIONS, PARAMS, ParamType, Routes, VARIABLES};

/// What the host finds as `exports`, and the texts it compares with its own.
pub struct Export {
    /// The table.
    pub exports: km_module_exports,
    /// `module_version`.
    pub version: *const c_char,
    /// `module_flags`.
    pub flags: *const c_char,
}

/// Makes the tables; called inside dlopen.
pub fn fill() -> Export {
    let identity = load::learn();
    let exports = km_module_exports {
        name: c"acc".as_ptr(),
        dlflags: 0,
        cmds: table(commands()),
        params: table(parameters()),
        rpc_methods: table(COMMANDS.iter().zip(rpc::ENTRIES).map(|(c, function)| km_rpc_export {
            name: name(c.rpc),
            function: Some(function),
            doc_str: Box::leak(Box::new([name(c.help), ptr::null()])).as_mut_ptr(),
            flags: 0,
        })),
        pv_items: table(pseudo_variables()),
        response_f: None,
        init_mod_f: Some(load::init),
        init_child_f: Some(load::init_child),
        destroy_mod_f: None,
    };
    Export { exports, version: identity.version, flags: identity.flags }
}

type Entry = unsafe extern "C" fn(*mut km_sip_msg, *mut c_char, *mut c_char, *mut c_char) -> c_int;
type Fixup = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;

/// Entry points in the order of [`FUNCTIONS`]: for up to two arguments, for three, and the fixup.
/// The host passes exactly the arguments the script gives (at least two places).
const ENTRIES: [(Entry, Option<Entry>, Option<Fixup>); FUNCTIONS.len()] = [
    (functions::do_accounting_2, Some(functions::do_accounting_3), Some(functions::fixup_marks)),
    (functions::drop_accounting, None, Some(functions::fixup_marks)),
    (functions::acc_log_request, None, Some(functions::fixup_manual::<{ Backend::Log as u8 }>)),
    (functions::acc_db_request, None, Some(functions::fixup_manual::<{ Backend::Db as u8 }>)),
    (functions::acc_aaa_request, None, Some(functions::fixup_manual::<{ Backend::Aaa as u8 }>)),
    (functions::acc_evi_request, None, Some(functions::fixup_manual::<{ Backend::Evi as u8 }>)),
    (functions::acc_new_leg, None, None),
    (functions::acc_load_ctx_from_dlg, None, None),
    (functions::acc_unload_ctx_from_dlg, None, None),
];

const OF_REQUESTS: u32 = KM_REQUEST_ROUTE | KM_FAILURE_ROUTE | KM_BRANCH_ROUTE | KM_LOCAL_ROUTE | KM_BRANCH_FAILURE_ROUTE;

/// One export for each number of arguments a function may be called with.
fn commands() -> impl Iterator<Item = km_cmd_export> {
    FUNCTIONS.iter().zip(ENTRIES).flat_map(|(f, (two, three, fixup))| {
        let least = f.arguments.iter().filter(|(_, optional)| !optional).count();
        (least..=f.arguments.len()).map(move |n| km_cmd_export {
            name: name(f.name),
            function: Some(if n > 2 { three.unwrap_or(two) } else { two }),
            param_no: n as c_int,
            fixup: fixup.filter(|_| n > 0),
            free_fixup: fixup.filter(|_| n > 0).map(|_| arguments::free as Fixup),
            flags: match f.routes {
                Routes::Requests => OF_REQUESTS,
                Routes::Transactions => OF_REQUESTS | KM_TM_ONREPLY_ROUTE,
                Routes::All => KM_ANY_ROUTE,
            },
        })
    })
}

/// One setter for each parameter of [`PARAMS`].
macro_rules! setters {
    ($f:ident $($i:literal)+) => { [$(load::$f::<$i> as unsafe extern "C" fn(u32, *mut c_void) -> c_int,)+] };
}

/// Each parameter stands there twice, with its own type and with the other one, so that a value of
/// the wrong type is answered by us, with a sentence that names parameter and cure. So are the
/// parameters of Kamailio's own accounting module, which have no meaning here.
fn parameters() -> impl Iterator<Item = km_param_export> {
    let setters = setters!(set_param 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32);
    const { assert!(PARAMS.len() == 33, "one setter for each parameter") };
    let refusals = setters!(refuse_param 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34);
    const { assert!(load::FOREIGN.len() == 35, "one refusal for each foreign parameter") };
    let ours = PARAMS.iter().zip(setters).map(|(p, setter)| (p.name, p.kind, setter));
    let foreign = load::FOREIGN.iter().zip(refusals).map(|((n, _), setter)| (*n, ParamType::Int, setter));
    ours.chain(foreign).flat_map(|(n, kind, setter)| {
        let kinds = match kind {
            ParamType::Int => [KM_PARAM_INT, KM_PARAM_STRING],
            ParamType::Str => [KM_PARAM_STRING, KM_PARAM_INT],
        };
        kinds.map(|kind| km_param_export { name: name(n), type_: kind | KM_PARAM_USE_FUNC, param_pointer: setter as *mut c_void })
    })
}

fn pseudo_variables() -> impl Iterator<Item = km_pv_export> {
    let with = |n: &str| {
        let mut e = km_pv_export { type_: KM_PVT_OTHER as c_int, ..Default::default() };
        e.name.s = name(n);
        e.name.len = n.len() as c_int;
        e
    };
    [
        km_pv_export {
            getf: Some(variables::get_extra),
            setf: Some(variables::set_extra),
            parse_name: Some(variables::parse_extra_name),
            ..with(VARIABLES[0])
        },
        km_pv_export {
            getf: Some(variables::get_leg),
            setf: Some(variables::set_leg),
            parse_name: Some(variables::parse_leg_name),
            parse_index: Some(variables::parse_leg_index),
            ..with(VARIABLES[1])
        },
        km_pv_export { getf: Some(variables::get_current_leg), ..with(VARIABLES[2]) },
        km_pv_export { getf: Some(variables::get_event), parse_name: Some(variables::parse_event_name), ..with(variables::EVENT_VARIABLE) },
    ]
    .into_iter()
}
