//! The script functions: their arguments, and what differs from other families.

use std::ffi::{c_char, c_int, c_void};

use super::abi::*;
use super::contexts::Current;
use super::state::{DIALOGS, Server, ready, server};
use super::{arguments, present};
use crate::acc::marks::{Flags, Types};
use crate::acc::record::Backend;
use crate::host::script;
use crate::worker::Module;

/// Runs a function for a message.
fn call(name: &'static str, raw: *mut km_sip_msg, f: impl FnOnce(&'static Server, Current, &'static Module) -> Result<(), String>) -> c_int {
    script::function(name, || {
        let (server, api, module) = ready().ok_or("the module is not initialised")?;
        f(server, Current { api, raw }, module)
    })
}

/// Arguments of do_accounting and drop_accounting.
pub unsafe extern "C" fn fixup_marks(param: *mut *mut c_void, n: c_int) -> c_int {
    // SAFETY: the host passes the place of an argument's text (promise 9).
    unsafe {
        match n {
            1 => arguments::fixup(server(), "accounting backends", param, |text| script::types_of(text).map(drop)),
            2 => arguments::fixup(server(), "accounting flags", param, |text| script::flags_of(text).map(drop)),
            _ => arguments::fixup(server(), "accounting table", param, script::check_table),
        }
    }
}

/// Arguments of a manual function, whose backend must be configured.
pub unsafe extern "C" fn fixup_manual<const BACKEND: u8>(param: *mut *mut c_void, n: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        match n {
            1 => arguments::fixup(server(), "accounting comment", param, |_| script::configured(Types(1 << BACKEND))),
            _ => arguments::fixup(server(), "accounting table", param, script::check_table),
        }
    }
}

pub unsafe extern "C" fn do_accounting_2(msg: *mut km_sip_msg, types: *mut c_char, flags: *mut c_char, _: *mut c_char) -> c_int {
    do_accounting(msg, types, flags, std::ptr::null_mut())
}

pub unsafe extern "C" fn do_accounting_3(msg: *mut km_sip_msg, types: *mut c_char, flags: *mut c_char, table: *mut c_char) -> c_int {
    do_accounting(msg, types, flags, table)
}

fn do_accounting(msg: *mut km_sip_msg, types: *mut c_char, flags: *mut c_char, table: *mut c_char) -> c_int {
    call("do_accounting", msg, |server, at, module| {
        let types = script::types_of(&arguments::value(server, msg, types)?.unwrap_or_default())?;
        let flags = arguments::value(server, msg, flags)?.filter(|f| !f.is_empty()).map_or(Ok(Flags(0)), |f| script::flags_of(&f))?;
        let table = arguments::value(server, msg, table)?.unwrap_or_default();
        script::mark(at, module, types, flags, &table)
    })
}

pub unsafe extern "C" fn drop_accounting(msg: *mut km_sip_msg, types: *mut c_char, flags: *mut c_char, _: *mut c_char) -> c_int {
    call("drop_accounting", msg, |server, at, module| {
        let types = arguments::value(server, msg, types)?.map(|t| Types::parse(&t).map_err(|e| e.to_string())).transpose()?;
        let flags = arguments::value(server, msg, flags)?.map(|f| script::flags_of(&f)).transpose()?;
        script::drop_marks(at, module, types, flags)
    })
}

/// The four manual functions: a record at once.
fn manual(name: &'static str, backend: Backend, msg: *mut km_sip_msg, comment: *mut c_char, table: *mut c_char) -> c_int {
    call(name, msg, |server, at, module| {
        let comment = arguments::value(server, msg, comment)?.unwrap_or_default();
        let table = arguments::value(server, msg, table)?.unwrap_or_default();
        script::manual(at, module, backend, &comment, &table)
    })
}

pub unsafe extern "C" fn acc_log_request(msg: *mut km_sip_msg, comment: *mut c_char, _: *mut c_char, _: *mut c_char) -> c_int {
    manual("acc_log_request", Backend::Log, msg, comment, std::ptr::null_mut())
}

pub unsafe extern "C" fn acc_db_request(msg: *mut km_sip_msg, comment: *mut c_char, table: *mut c_char, _: *mut c_char) -> c_int {
    manual("acc_db_request", Backend::Db, msg, comment, table)
}

pub unsafe extern "C" fn acc_aaa_request(msg: *mut km_sip_msg, comment: *mut c_char, _: *mut c_char, _: *mut c_char) -> c_int {
    manual("acc_aaa_request", Backend::Aaa, msg, comment, std::ptr::null_mut())
}

pub unsafe extern "C" fn acc_evi_request(msg: *mut km_sip_msg, comment: *mut c_char, _: *mut c_char, _: *mut c_char) -> c_int {
    manual("acc_evi_request", Backend::Evi, msg, comment, std::ptr::null_mut())
}

pub unsafe extern "C" fn acc_new_leg(msg: *mut km_sip_msg, _: *mut c_char, _: *mut c_char, _: *mut c_char) -> c_int {
    call("acc_new_leg", msg, |_, at, module| script::new_leg(at, module))
}

pub unsafe extern "C" fn acc_load_ctx_from_dlg(msg: *mut km_sip_msg, _: *mut c_char, _: *mut c_char, _: *mut c_char) -> c_int {
    script::function("acc_load_ctx_from_dlg", || {
        let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded: load dialog.so")?;
        let dialog = dialogs.of(msg).ok_or("there is no dialog here: match it first, with loose_route() or dlg_manage()")?;
        let ctx = dialogs.context(dialog.raw).ok_or("this dialog is not accounted")?;
        if present::load(msg, ctx) { Ok(()) } else { Err("a context is loaded already: call acc_unload_ctx_from_dlg() first".into()) }
    })
}

pub unsafe extern "C" fn acc_unload_ctx_from_dlg(msg: *mut km_sip_msg, _: *mut c_char, _: *mut c_char, _: *mut c_char) -> c_int {
    script::function("acc_unload_ctx_from_dlg", || {
        if present::unload(msg) { Ok(()) } else { Err("no context is loaded: call acc_load_ctx_from_dlg() first".into()) }
    })
}
