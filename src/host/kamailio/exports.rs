//! The tables that the host reads, made from the declaration in [`crate::declaration`].

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use super::abi::*;
use super::load::Export;
use super::state::server;
use super::{bind, companion, functions, kemi, load, rpc, variables};
use crate::declaration::{COMMANDS, CURRENT_LEG, EXTRA, LEG, PARAMS, ParamType};
use crate::host::exported::{name, table};
use crate::host::server::numbered::numbered;

/// Makes the tables; called inside dlopen.
pub fn fill() -> Export {
    if let Some(companion) = companion::of_file() {
        return companion::fill(companion);
    }
    let identity = load::learn();
    if let Some(server) = server()
        && !kemi::offer(&server.symbols)
    {
        log::error!("the host refused the functions for scripts in other languages (KEMI): they cannot call those of acc");
    }
    let exports = km_module_exports {
        name: c"acc".as_ptr(),
        dlflags: 0,
        cmds: table(functions::exports().chain([companion::export(), bind::export()])),
        params: table(parameters()),
        rpc_methods: table(COMMANDS.iter().zip(rpc::entries()).map(|(c, function)| km_rpc_export {
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

/// Each parameter is listed twice, with its own type and with the other one, so that we refuse a value of the
/// wrong type ourselves, with a message that names the parameter and says what to do.
fn parameters() -> impl Iterator<Item = km_param_export> {
    PARAMS.iter().zip(numbered!(set_param as Setter, PARAMS.len())).flat_map(|(p, setter)| {
        let (n, kind) = (p.name, p.kind);
        let kinds = match kind {
            ParamType::Int(..) | ParamType::Flag => [KM_PARAM_INT, KM_PARAM_STRING],
            ParamType::Str | ParamType::Word(_) | ParamType::Either(..) => [KM_PARAM_STRING, KM_PARAM_INT],
        };
        kinds.map(|kind| km_param_export { name: name(n), type_: kind | KM_PARAM_USE_FUNC, param_pointer: setter as *mut c_void })
    })
}

type Setter = unsafe extern "C" fn(c_uint, *mut c_void) -> c_int;

/// `modparam("acc", PARAMS[I].name, ...)`.
unsafe extern "C" fn set_param<const I: usize>(kind: c_uint, value: *mut c_void) -> c_int {
    // SAFETY: the host's value, of the kind it says.
    unsafe { load::set_param(I, kind, value) }
}

fn pseudo_variables() -> impl Iterator<Item = km_pv_export> {
    let with = |n: &str| {
        let mut e = km_pv_export { type_: KM_PVT_OTHER as c_int, ..Default::default() };
        e.name.s = name(n);
        e.name.len = n.len() as c_int;
        e
    };
    [
        km_pv_export { getf: Some(variables::get_extra), setf: Some(variables::set_extra), parse_name: Some(variables::parse_extra_name), ..with(EXTRA) },
        km_pv_export {
            getf: Some(variables::get_leg),
            setf: Some(variables::set_leg),
            parse_name: Some(variables::parse_leg_name),
            parse_index: Some(variables::parse_leg_index),
            ..with(LEG)
        },
        km_pv_export { getf: Some(variables::get_current_leg), ..with(CURRENT_LEG) },
        km_pv_export { getf: Some(variables::get_event), parse_name: Some(variables::parse_event_name), ..with(variables::EVENT_VARIABLE) },
    ]
    .into_iter()
}
