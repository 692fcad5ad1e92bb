//! The script functions: their arguments, and what differs from other families.

use std::ffi::{c_int, c_void};

use super::abi::*;
use super::contexts::{self, Current, Slot};
use super::state::{DIALOGS, ready};
use crate::acc::marks::{Flags, Types};
use crate::acc::record::Backend;
use crate::host::{guard, script};
use crate::worker::Module;

/// What the host reads of a fixup.
const ACCEPTED: c_int = 0;
const REFUSED: c_int = -1;
/// Marks a fixed-up argument, so that an empty set is not taken for an omitted argument.
const FIXED: usize = 1 << 16;

/// Stands in `here_loaded`: anything but null.
const LOADED: usize = 1;

/// Runs a function for a message.
fn call(name: &'static str, raw: *mut os_sip_msg, f: impl FnOnce(Current, &'static Module) -> Result<(), String>) -> c_int {
    script::function(name, || {
        let (server, api, module) = ready().ok_or("the module is not initialised")?;
        f(Current { server, api, raw }, module)
    })
}

/// Checks and replaces an argument once, when it is constant, or at each call.
fn fixup(name: &'static str, param: *mut *mut c_void, check: impl FnOnce(&[u8]) -> Result<Option<u8>, String>) -> c_int {
    guard::entry(name, REFUSED, || {
        // SAFETY: the host passes the place of a str pointer (promise 9).
        let text = unsafe { (*param).cast::<os_str>().as_ref().map_or(&[][..], |s| s.bytes()) };
        match check(text) {
            Ok(None) => ACCEPTED,
            Ok(Some(set)) => {
                // SAFETY: as above; the host keeps what we put there and hands it back.
                unsafe { *param = (FIXED | usize::from(set)) as *mut c_void };
                ACCEPTED
            }
            Err(e) => {
                log::error!("{name}: {e}");
                REFUSED
            }
        }
    })
}

fn fixed(p: *mut c_void) -> Option<u8> {
    (!p.is_null()).then_some(p as usize as u8)
}

fn text<'a>(p: *mut c_void) -> &'a [u8] {
    // SAFETY: string arguments are str pointers, valid through the call (promise 9).
    unsafe { p.cast::<os_str>().as_ref().map_or(&[], |s| s.bytes()) }
}

pub unsafe extern "C" fn fixup_types(param: *mut *mut c_void) -> c_int {
    fixup("accounting backends", param, |text| script::types_of(text).map(|t| Some(t.0)))
}

pub unsafe extern "C" fn fixup_flags(param: *mut *mut c_void) -> c_int {
    fixup("accounting flags", param, |text| script::flags_of(text).map(|f| Some(f.0)))
}

pub unsafe extern "C" fn fixup_table(param: *mut *mut c_void) -> c_int {
    fixup("accounting table", param, |text| script::check_table(text).map(|()| None))
}

fn fixup_comment(backend: Backend, param: *mut *mut c_void) -> c_int {
    fixup("accounting comment", param, |_| script::configured(Types(1 << backend as u8)).map(|()| None))
}

pub unsafe extern "C" fn fixup_db_comment(param: *mut *mut c_void) -> c_int {
    fixup_comment(Backend::Db, param)
}

pub unsafe extern "C" fn fixup_aaa_comment(param: *mut *mut c_void) -> c_int {
    fixup_comment(Backend::Aaa, param)
}

pub unsafe extern "C" fn do_accounting(
    msg: *mut os_sip_msg,
    types: *mut c_void,
    flags: *mut c_void,
    table: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    call("do_accounting", msg, |at, module| {
        let (types, flags) = (Types(fixed(types).unwrap_or_default()), Flags(fixed(flags).unwrap_or_default()));
        script::mark(at, module, types, flags, text(table))
    })
}

pub unsafe extern "C" fn drop_accounting(
    msg: *mut os_sip_msg,
    types: *mut c_void,
    flags: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    call("drop_accounting", msg, |at, module| script::drop_marks(at, module, fixed(types).map(Types), fixed(flags).map(Flags)))
}

/// The four manual functions: a record at once.
fn manual(name: &'static str, backend: Backend, msg: *mut os_sip_msg, comment: *mut c_void, table: &[u8]) -> c_int {
    call(name, msg, |at, module| script::manual(at, module, backend, text(comment), table))
}

pub unsafe extern "C" fn acc_log_request(
    msg: *mut os_sip_msg,
    comment: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    manual("acc_log_request", Backend::Log, msg, comment, b"")
}

pub unsafe extern "C" fn acc_db_request(
    msg: *mut os_sip_msg,
    comment: *mut c_void,
    table: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    manual("acc_db_request", Backend::Db, msg, comment, text(table))
}

pub unsafe extern "C" fn acc_aaa_request(
    msg: *mut os_sip_msg,
    comment: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    manual("acc_aaa_request", Backend::Aaa, msg, comment, b"")
}

pub unsafe extern "C" fn acc_evi_request(
    msg: *mut os_sip_msg,
    comment: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    manual("acc_evi_request", Backend::Evi, msg, comment, b"")
}

pub unsafe extern "C" fn acc_new_leg(
    msg: *mut os_sip_msg,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    call("acc_new_leg", msg, script::new_leg)
}

pub unsafe extern "C" fn acc_load_ctx_from_dlg(
    msg: *mut os_sip_msg,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    call("acc_load_ctx_from_dlg", msg, |at, _| {
        let symbols = &at.server.symbols;
        if !symbols.processing_get(at.api.here_loaded).is_null() {
            return Err("a context is loaded already: call acc_unload_ctx_from_dlg() first".into());
        }
        let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded: load dialog.so")?;
        let dlg = dialogs.current().ok_or("there is no dialog here: match it first, with loose_route() or match_dialog()")?;
        let ctx = dialogs.context(dlg).ok_or("this dialog is not accounted")?;
        if !symbols.processing_put(at.api.here_loaded, LOADED as *mut c_void) {
            return Err("no message is being processed here".into());
        }
        let here = Slot::Here(at.api.here);
        contexts::put(at.server, at.api, Slot::Here(at.api.here_replaced), contexts::get(at.server, at.api, here));
        contexts::put(at.server, at.api, here, Some(ctx));
        Ok(())
    })
}

pub unsafe extern "C" fn acc_unload_ctx_from_dlg(
    msg: *mut os_sip_msg,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    call("acc_unload_ctx_from_dlg", msg, |at, _| {
        let (server, api) = (at.server, at.api);
        if server.symbols.processing_get(api.here_loaded).is_null() {
            return Err("no context is loaded: call acc_load_ctx_from_dlg() first".into());
        }
        server.symbols.processing_put(api.here_loaded, std::ptr::null_mut());
        let replaced = Slot::Here(api.here_replaced);
        contexts::put(server, api, Slot::Here(api.here), contexts::get(server, api, replaced));
        contexts::put(server, api, replaced, None);
        Ok(())
    })
}
