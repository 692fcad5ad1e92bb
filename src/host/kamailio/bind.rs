//! What other modules find through `bind_acc`: the functions that make a record at once, which `uac_redirect` calls.
//! Accounting engines of other modules join Kamailio's own `acc` through the same table. Here they cannot: each function
//! for them fails, so that such a module ends the start with a message instead of a crash.

use std::ffi::{c_char, c_int, c_void};
use std::mem::transmute;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::*;
use super::kemi;
use crate::host::exported::name;
use crate::host::guard;
use crate::host::process::{self, FAILED, OK};
use crate::host::server::Text;

type Bind = unsafe extern "C" fn(*mut km_acc_api) -> c_int;
type Script = unsafe extern "C" fn(*mut km_sip_msg, *mut c_char, *mut c_char, *mut c_char) -> c_int;

/// What modules look for: no script can call it.
pub fn export() -> km_cmd_export {
    // SAFETY: never called as what it is said to be: who finds it by this name gives it its type back.
    let function = unsafe { transmute::<Bind, Script>(bind_acc) };
    km_cmd_export { name: name("bind_acc"), function: Some(function), param_no: 0, fixup: None, free_fixup: None, flags: 0 }
}

/// Called while modules are initialised, which may be before this one is.
unsafe extern "C" fn bind_acc(api: *mut km_acc_api) -> c_int {
    guard::entry("bind_acc", FAILED, || {
        if api.is_null() {
            return FAILED;
        }
        // SAFETY: the caller's table, not null, for us to fill (promise 13).
        unsafe { api.write(functions(process::number("cdr_enable").is_some_and(|n| n != 0))) };
        OK
    })
}

/// The table. Its last four are for CDRs: null without them, as modules expect it.
fn functions(has_cdrs: bool) -> km_acc_api {
    let mut api = km_acc_api {
        acc_log_request: Some(acc_log_request),
        acc_db_request: Some(acc_db_request),
        acc_request: Some(acc_request),
        get_leg_info: Some(get_leg_info),
        get_core_attrs: Some(get_core_attrs),
        get_extra_attrs: Some(get_extra_attrs),
        get_leg_attrs: Some(get_leg_attrs),
        parse_extra: Some(parse_extra),
        register_engine: Some(register_engine),
        exec: Some(exec),
        ..Default::default()
    };
    if has_cdrs {
        api.get_core_cdr_attrs = Some(get_core_cdr_attrs);
        api.get_extra_dlg_attrs = Some(get_extra_dlg_attrs);
        api.register_cdr_engine = Some(register_cdr_engine);
        api.exec_cdr = Some(exec_cdr);
    }
    api
}

unsafe extern "C" fn acc_log_request(msg: *mut km_sip_msg, comment: *mut Text) -> c_int {
    // SAFETY: the caller's text, which it keeps through the call (promise 13).
    unsafe { kemi::of_acc_by_name("acc_log_request", msg, [comment, ptr::null_mut()]) }
}

unsafe extern "C" fn acc_db_request(msg: *mut km_sip_msg, comment: *mut Text, table: *mut Text) -> c_int {
    // SAFETY: as above, two texts.
    unsafe { kemi::of_acc_by_name("acc_db_request", msg, [comment, table]) }
}

unsafe extern "C" fn acc_request(msg: *mut km_sip_msg, comment: *mut Text, table: *mut Text) -> c_int {
    // SAFETY: as above, two texts.
    unsafe { kemi::of_acc_by_name("acc_request", msg, [comment, table]) }
}

/// Says why no engine can join. A module that goes on nevertheless calls this for each request: logged at its start, then once.
fn refuse<R>(function: &'static str, is_start: bool, failure: impl Fn() -> R) -> R {
    static SAID: AtomicBool = AtomicBool::new(false);
    guard::entry(function, failure(), || {
        if !SAID.swap(true, Ordering::Relaxed) || is_start {
            log::error!(
                "{function}(): a module asks to account through this acc.so, which does not allow that: instead of acc_radius.so, acc_json.so \
                 and acc_diameter.so load copies of this file with their names; leave out any other"
            );
        }
        failure()
    })
}

unsafe extern "C" fn register_engine(_: *mut c_void) -> c_int {
    refuse("register_engine", true, || FAILED)
}

unsafe extern "C" fn register_cdr_engine(_: *mut c_void) -> c_int {
    refuse("register_cdr_engine", true, || FAILED)
}

unsafe extern "C" fn parse_extra(_: *mut c_char) -> *mut c_void {
    refuse("parse_extra", true, ptr::null_mut)
}

unsafe extern "C" fn get_leg_info() -> *mut c_void {
    refuse("get_leg_info", false, ptr::null_mut)
}

unsafe extern "C" fn exec(_: *mut km_sip_msg, _: *mut c_void, _: *mut c_void) -> c_int {
    refuse("exec", false, || FAILED)
}

unsafe extern "C" fn exec_cdr(_: *mut km_dlg_cell, _: *mut km_sip_msg, _: *mut c_void, _: *mut c_void) -> c_int {
    refuse("exec_cdr", false, || FAILED)
}

// These return how many values they wrote.

unsafe extern "C" fn get_core_attrs(_: *mut km_sip_msg, _: *mut Text, _: *mut c_int, _: *mut c_char) -> c_int {
    refuse("get_core_attrs", false, || 0)
}

unsafe extern "C" fn get_extra_attrs(_: *mut c_void, _: *mut km_sip_msg, _: *mut Text, _: *mut c_int, _: *mut c_char) -> c_int {
    refuse("get_extra_attrs", false, || 0)
}

unsafe extern "C" fn get_leg_attrs(_: *mut c_void, _: *mut km_sip_msg, _: *mut Text, _: *mut c_int, _: *mut c_char, _: c_int) -> c_int {
    refuse("get_leg_attrs", false, || 0)
}

unsafe extern "C" fn get_core_cdr_attrs(_: *mut km_dlg_cell, _: *mut Text, _: *mut c_int, _: *mut c_char) -> c_int {
    refuse("get_core_cdr_attrs", false, || 0)
}

unsafe extern "C" fn get_extra_dlg_attrs(_: *mut c_void, _: *mut km_dlg_cell, _: *mut Text, _: *mut c_int, _: *mut c_char, _: *const c_void) -> c_int {
    refuse("get_extra_dlg_attrs", false, || 0)
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut as null;

    use super::*;

    #[test]
    fn a_module_finds_every_function_and_engines_are_refused() {
        let mut api = km_acc_api::default();
        // SAFETY: a table of ours, and null.
        assert_eq!(unsafe { (bind_acc(&raw mut api), bind_acc(ptr::null_mut())) }, (OK, FAILED));
        // SAFETY: the functions look at none of their arguments.
        unsafe {
            assert_eq!(api.register_engine.map(|f| f(null())), Some(FAILED));
            assert_eq!(api.parse_extra.map(|f| f(null()).is_null()), Some(true));
            assert_eq!(api.get_leg_info.map(|f| f().is_null()), Some(true));
            assert_eq!(api.exec.map(|f| f(null(), null(), null())), Some(FAILED));
            assert_eq!(api.get_core_attrs.map(|f| f(null(), null(), null(), null())), Some(0));
            assert_eq!(api.get_extra_attrs.map(|f| f(null(), null(), null(), null(), null())), Some(0));
            assert_eq!(api.get_leg_attrs.map(|f| f(null(), null(), null(), null(), null(), 0)), Some(0));
            assert!(api.register_cdr_engine.is_none() && api.exec_cdr.is_none() && api.get_core_cdr_attrs.is_none() && api.get_extra_dlg_attrs.is_none());
            let api = functions(true);
            assert_eq!(api.register_cdr_engine.map(|f| f(null())), Some(FAILED));
            assert_eq!(api.exec_cdr.map(|f| f(null(), null(), null(), null())), Some(FAILED));
            assert_eq!(api.get_core_cdr_attrs.map(|f| f(null(), null(), null(), null())), Some(0));
            assert_eq!(api.get_extra_dlg_attrs.map(|f| f(null(), null(), null(), null(), null(), ptr::null())), Some(0));
        }
        // Before the module is initialised there is nothing to record with.
        let mut comment = Text { s: name("Redirected").cast_mut(), len: 10 };
        // SAFETY: a text of ours, and no message, which is looked at last.
        assert_eq!(unsafe { acc_log_request(null(), &raw mut comment) }, -1);
    }
}
