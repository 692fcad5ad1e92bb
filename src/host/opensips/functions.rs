//! The script functions.

use std::ffi::{c_int, c_void};

use super::abi::*;
use super::calls;
use super::contexts::{self, Place};
use super::state::{Api, DIALOGS, DOING, Server, message, ready};
use crate::acc::clock::Moment;
use crate::acc::context::{Context, Values};
use crate::acc::decide;
use crate::acc::marks::{Flag, Flags, Marks, Types};
use crate::acc::record::Backend;
use crate::backend::sql::schema::is_table_name;
use crate::host::guard;
use crate::host::shared::SharedContext;
use crate::worker::{self, Module};

/// What the script reads as true, and as false.
const TRUE: c_int = 1;
const FALSE: c_int = -1;
/// Marks a fixed-up argument, so that an empty set is not taken for an omitted argument.
const FIXED: usize = 1 << 16;

/// Runs a function; an error is one log line and "false".
fn call(name: &'static str, f: impl FnOnce(&'static Server, &'static Api, &'static Module) -> Result<(), String>) -> c_int {
    guard::entry(name, FALSE, || {
        let Some((server, api, module)) = ready() else { return FALSE };
        match f(server, api, module) {
            Ok(()) => TRUE,
            Err(e) => {
                log::error!("{name}(): {e}");
                FALSE
            }
        }
    })
}

/// Checks and replaces an argument once, when it is constant, or at each call.
fn fixup(name: &'static str, param: *mut *mut c_void, check: impl FnOnce(&[u8]) -> Result<Option<u8>, String>) -> c_int {
    guard::entry(name, FALSE, || {
        // SAFETY: the host passes the place of a str pointer (promise 9).
        let text = unsafe { (*param).cast::<os_str>().as_ref().map_or(&[][..], |s| s.bytes()) };
        match check(text) {
            Ok(None) => 0,
            Ok(Some(set)) => {
                // SAFETY: as above; the host keeps what we put there and hands it back.
                unsafe { *param = (FIXED | usize::from(set)) as *mut c_void };
                0
            }
            Err(e) => {
                log::error!("{name}: {e}");
                FALSE
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

/// A backend without its parameter cannot be accounted to.
fn configured(module: &Module, types: Types) -> Result<(), String> {
    if types.has(Backend::Db) && module.config.db.is_none() {
        return Err("accounting to db needs a database: set the parameter db_url".into());
    }
    if types.has(Backend::Aaa) && module.config.aaa.is_none() {
        return Err("accounting to aaa needs a RADIUS configuration: set the parameter aaa_url".into());
    }
    Ok(())
}

pub unsafe extern "C" fn fixup_types(param: *mut *mut c_void) -> c_int {
    fixup("accounting backends", param, |text| {
        let types = Types::parse(text).map_err(|e| e.to_string())?;
        let module = worker::module().ok_or("the module is not initialised")?;
        configured(module, types)?;
        Ok(Some(types.0))
    })
}

pub unsafe extern "C" fn fixup_flags(param: *mut *mut c_void) -> c_int {
    fixup("accounting flags", param, |text| Flags::parse(text).map(|f| Some(f.0)).map_err(|e| e.to_string()))
}

pub unsafe extern "C" fn fixup_table(param: *mut *mut c_void) -> c_int {
    fixup("accounting table", param, |text| check_table(text).map(|()| None))
}

fn fixup_comment(backend: Backend, param: *mut *mut c_void) -> c_int {
    fixup("accounting comment", param, |_| {
        let module = worker::module().ok_or("the module is not initialised")?;
        configured(module, Types(1 << backend as u8)).map(|()| None)
    })
}

pub unsafe extern "C" fn fixup_db_comment(param: *mut *mut c_void) -> c_int {
    fixup_comment(Backend::Db, param)
}

pub unsafe extern "C" fn fixup_aaa_comment(param: *mut *mut c_void) -> c_int {
    fixup_comment(Backend::Aaa, param)
}

fn check_table(table: &[u8]) -> Result<(), String> {
    let name = String::from_utf8_lossy(table);
    if is_table_name(&name) {
        Ok(())
    } else {
        Err(format!("\"{}\" is no table name: use letters, digits and '_', not beginning with a digit", name.escape_debug()))
    }
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
    call("do_accounting", |server, api, module| {
        let types = Types(fixed(types).unwrap_or_default());
        let flags = Flags(fixed(flags).unwrap_or_default());
        mark(server, api, module, msg, types, flags, text(table))
    })
}

fn mark(server: &'static Server, api: &'static Api, module: &Module, raw: *mut os_sip_msg, types: Types, flags: Flags, table: &[u8]) -> Result<(), String> {
    let msg = message(raw).ok_or("there is no SIP message here")?;
    let method = msg.method();
    if method == b"CANCEL" && !module.config.report_cancels {
        log::warn!("do_accounting() on a CANCEL does nothing: set the parameter report_cancels to 1 to account them");
        return Ok(());
    }
    if method == b"ACK" {
        // An ACK has no reply, so no record can come of it.
        return Ok(());
    }
    if types.has(Backend::Db) && !table.is_empty() {
        check_table(table)?;
    }
    let flags = if flags.has(Flag::Cdr) && DIALOGS.get().is_none() {
        log::error!("do_accounting(): the flag cdr needs the dialog module: load dialog.so; this request is accounted without it");
        flags.without(Flag::Cdr)
    } else {
        flags
    };
    let to_tag = msg.to_tag();
    let in_dialog = !to_tag.is_empty();
    // A CANCEL is a transaction of its own: never the call's.
    let found = if method == b"CANCEL" { contexts::get(server, api, Place::Here(api.here)) } else { contexts::find(server, api) };
    let snapshot = |c: &mut Context, in_dialog: bool| {
        c.marked = true;
        c.in_dialog = in_dialog;
        c.core = msg.core();
        c.arrived = contexts::arrival(api);
        c.upstream = module.config.detect_direction && api.rr.as_ref().is_some_and(|rr| rr.is_upstream(raw));
    };
    let error = |e: crate::host::shared::SharedError| e.to_string();

    if in_dialog
        && let Some(call) = &found
        && let Some(of_call) = call.read(|c| (c.marked && !c.in_dialog).then_some(c.marks)).map_err(error)?
    {
        // D13: a request inside a call that is accounted already gets a record of its own only for
        // backends without CDR on this call; the call's marks never change by it.
        let marks = Marks::default().add(types, flags).outside_cdr_of(of_call);
        if flags.has(Flag::Cdr) || marks.is_empty() {
            return Ok(());
        }
        let place = Place::Here(api.here_own);
        let t = api.tm.current();
        let known = contexts::get(server, api, place).or_else(|| contexts::get(server, api, Place::There(t?, api.there_own)));
        let is_new = known.is_none();
        let own = match known {
            Some(own) => own,
            None => {
                let own = SharedContext::new(&Context::default()).map_err(error)?;
                own.update(|c| snapshot(c, true)).map_err(error)?;
                own.set_call(call);
                contexts::put(server, api, place, Some(own.duplicate()));
                if let Some(t) = t {
                    contexts::put(server, api, Place::There(t, api.there_own), Some(own.duplicate()));
                }
                own
            }
        };
        own.update(|c| {
            c.marks = c.marks.union(marks);
            name_table(c, types, table);
        })
        .map_err(error)?;
        return if is_new { api.tm.register(raw, calls::TRANSACTION_EVENTS, Some(calls::on_transaction), own, Some(contexts::release)) } else { Ok(()) };
    }

    let ctx = match found {
        Some(ctx) => ctx,
        None => contexts::make(server, api, !module.config.fields.leg.tags.is_empty()).map_err(|e| e.to_string())?,
    };
    let (is_new, is_cdr_call) = ctx
        .update(|c| {
            let is_new = !c.marked;
            if is_new {
                snapshot(c, in_dialog);
            }
            c.marks = c.marks.add(types, flags);
            name_table(c, types, table);
            (is_new, decide::is_cdr_call(c))
        })
        .map_err(error)?;
    if is_cdr_call {
        calls::follow(raw, api, &ctx)?;
    }
    if is_new {
        api.tm.register(raw, calls::TRANSACTION_EVENTS, Some(calls::on_transaction), ctx, Some(contexts::release))?;
    }
    Ok(())
}

fn name_table(c: &mut Context, types: Types, table: &[u8]) {
    if types.has(Backend::Db) && !table.is_empty() {
        c.table = table.to_vec();
    }
}

pub unsafe extern "C" fn drop_accounting(
    _msg: *mut os_sip_msg,
    types: *mut c_void,
    flags: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    call("drop_accounting", |server, api, module| {
        let (types, flags) = (fixed(types).map(Types), fixed(flags).map(Flags));
        let own = contexts::get(server, api, Place::Here(api.here_own)).or_else(|| contexts::get(server, api, Place::There(api.tm.current()?, api.there_own)));
        let dropped: Vec<_> = contexts::find(server, api).into_iter().chain(own).collect();
        let mut was_marked = false;
        for ctx in dropped {
            was_marked |= ctx
                .update(|c| {
                    c.marks = c.marks.remove(types, flags, module.config.drop_mode);
                    c.marked
                })
                .map_err(|e| e.to_string())?;
        }
        if was_marked { Ok(()) } else { Err("nothing to drop: do_accounting() was not called for this request".into()) }
    })
}

/// The four manual functions: a record at once.
fn manual(name: &'static str, backend: Backend, raw: *mut os_sip_msg, comment: *mut c_void, table: &[u8]) -> c_int {
    call(name, |server, api, module| {
        configured(module, Types(1 << backend as u8))?;
        if backend == Backend::Db {
            check_table(table)?;
            if !crate::host::tables::may_exist(&String::from_utf8_lossy(table)) {
                return Err(format!("the database has no table \"{}\": create it, or name another", String::from_utf8_lossy(table)));
            }
        }
        let msg = message(raw).ok_or("there is no SIP message here")?;
        let core = msg.core();
        let request = decide::Request {
            in_dialog: !core.to_tag.is_empty(),
            core,
            arrived: contexts::arrival(api),
            upstream: module.config.detect_direction && api.rr.as_ref().is_some_and(|rr| rr.is_upstream(raw)),
        };
        let values = contexts::find(server, api).map(|c| c.read(Context::clone)).transpose().map_err(|e| e.to_string())?;
        let record = decide::manual(&module.config, backend, values.as_ref(), &request, text(comment), table, Moment::now());
        worker::emit(module, vec![record]);
        Ok(())
    })
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
    _msg: *mut os_sip_msg,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    call("acc_new_leg", |server, api, _| {
        let ctx = match contexts::find(server, api) {
            Some(ctx) => ctx,
            // The leg asked for is the new context's first (D22).
            None => contexts::make(server, api, false).map_err(|e| e.to_string())?,
        };
        ctx.update(|c| c.legs.push(Values::default())).map_err(|e| e.to_string())
    })
}

pub unsafe extern "C" fn acc_load_ctx_from_dlg(
    _msg: *mut os_sip_msg,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    call("acc_load_ctx_from_dlg", |server, api, _| {
        if DOING.with(|d| d.borrow().loaded.is_some()) {
            return Err("a context is loaded already: call acc_unload_ctx_from_dlg() first".into());
        }
        let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded: load dialog.so")?;
        let dlg = dialogs.current().ok_or("there is no dialog here: match it first, with loose_route() or match_dialog()")?;
        let ctx = dialogs.context(dlg).ok_or("this dialog is not accounted")?;
        let raw = ctx.into_raw();
        let replaced = server.symbols.processing_get(api.here);
        if !server.symbols.processing_put(api.here, raw) {
            // SAFETY: the reference just made found no place.
            drop(unsafe { SharedContext::from_raw(raw) });
            return Err("no message is being processed here".into());
        }
        DOING.with(|d| d.borrow_mut().loaded = Some((raw as usize, replaced as usize)));
        Ok(())
    })
}

pub unsafe extern "C" fn acc_unload_ctx_from_dlg(
    _msg: *mut os_sip_msg,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    call("acc_unload_ctx_from_dlg", |server, api, _| {
        let (_, replaced) = DOING.with(|d| d.borrow_mut().loaded.take()).ok_or("no context is loaded: call acc_load_ctx_from_dlg() first")?;
        // SAFETY: the reference that acc_load_ctx_from_dlg took out of this place goes back.
        let replaced = unsafe { SharedContext::from_raw(replaced as *mut c_void) };
        contexts::put(server, api, Place::Here(api.here), replaced);
        Ok(())
    })
}
