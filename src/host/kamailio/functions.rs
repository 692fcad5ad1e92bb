//! The script functions.

use std::ffi::{c_char, c_int, c_void};

use super::abi::*;
use super::attached::Which;
use super::state::{Api, DIALOGS, Server, message, ready, server};
use super::{arguments, calls, contexts, present};
use crate::acc::clock::Moment;
use crate::acc::context::{Context, Values};
use crate::acc::decide;
use crate::acc::fields::is_identifier;
use crate::acc::marks::{Flag, Flags, Marks, Types};
use crate::acc::record::Backend;
use crate::host::guard;
use crate::host::shared::SharedContext;
use crate::worker::{self, Module};

/// What the script reads as true, and as false.
const TRUE: c_int = 1;
const FALSE: c_int = -1;

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

fn types_of(module: &Module, text: &[u8]) -> Result<Types, String> {
    let types = Types::parse(text).map_err(|e| e.to_string())?;
    configured(module, types)?;
    Ok(types)
}

fn flags_of(text: &[u8]) -> Result<Flags, String> {
    Flags::parse(text).map_err(|e| e.to_string())
}

fn check_table(table: &[u8]) -> Result<(), String> {
    let name = String::from_utf8_lossy(table);
    if is_identifier(&name) {
        Ok(())
    } else {
        Err(format!("\"{}\" is no table name: use letters, digits and '_', not beginning with a digit", name.escape_debug()))
    }
}

/// Arguments of do_accounting and drop_accounting.
pub unsafe extern "C" fn fixup_marks(param: *mut *mut c_void, n: c_int) -> c_int {
    // SAFETY: the host passes the place of an argument's text (promise 9).
    unsafe {
        match n {
            1 => arguments::fixup(server(), "accounting backends", param, |text| {
                types_of(worker::module().ok_or("the module is not initialised")?, text).map(drop)
            }),
            2 => arguments::fixup(server(), "accounting flags", param, |text| flags_of(text).map(drop)),
            _ => arguments::fixup(server(), "accounting table", param, check_table),
        }
    }
}

/// Arguments of a manual function, whose backend must be configured.
pub unsafe extern "C" fn fixup_manual<const BACKEND: u8>(param: *mut *mut c_void, n: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        match n {
            1 => arguments::fixup(server(), "accounting comment", param, |_| {
                configured(worker::module().ok_or("the module is not initialised")?, Types(1 << BACKEND))
            }),
            _ => arguments::fixup(server(), "accounting table", param, check_table),
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
    call("do_accounting", |server, api, module| {
        let types = types_of(module, &arguments::value(server, msg, types)?.unwrap_or_default())?;
        let flags = arguments::value(server, msg, flags)?.filter(|f| !f.is_empty()).map_or(Ok(Flags(0)), |f| flags_of(&f))?;
        let table = arguments::value(server, msg, table)?.unwrap_or_default();
        mark(api, module, msg, types, flags, &table)
    })
}

fn is_upstream(api: &Api, module: &Module, msg: *mut km_sip_msg) -> bool {
    module.config.detect_direction && api.rr.as_ref().is_some_and(|rr| rr.is_upstream(msg))
}

fn mark(api: &'static Api, module: &Module, raw: *mut km_sip_msg, types: Types, flags: Flags, table: &[u8]) -> Result<(), String> {
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
    let in_dialog = !msg.to_tag().is_empty();
    // A CANCEL is a transaction of its own: never the call's.
    let found = if method == b"CANCEL" { present::get(raw, Which::InForce) } else { contexts::find(api, raw) };
    let snapshot = |c: &mut Context, in_dialog: bool| {
        c.marked = true;
        c.in_dialog = in_dialog;
        c.core = msg.core();
        c.arrived = contexts::arrival(api, raw);
        c.upstream = is_upstream(api, module, raw);
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
        let t = api.tm.current();
        let known = present::get(raw, Which::Own).or_else(|| contexts::there(t?, Which::Own));
        let is_new = known.is_none();
        let own = match known {
            Some(own) => own,
            None => {
                let own = SharedContext::new(&Context::default()).map_err(error)?;
                own.update(|c| snapshot(c, true)).map_err(error)?;
                own.set_call(call);
                present::put(raw, Which::Own, Some(own.duplicate()));
                if let Some(t) = t {
                    api.tm.put(t, Which::Own, own.duplicate());
                }
                own
            }
        };
        own.update(|c| {
            c.marks = c.marks.union(marks);
            name_table(c, types, table);
        })
        .map_err(error)?;
        return if is_new { api.tm.register(raw, calls::TRANSACTION_EVENTS, calls::on_transaction, own) } else { Ok(()) };
    }

    let ctx = match found {
        Some(ctx) => ctx,
        None => contexts::make(api, raw, !module.config.fields.leg.tags.is_empty()).map_err(error)?,
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
        calls::follow(raw, &ctx)?;
    }
    if is_new {
        api.tm.register(raw, calls::TRANSACTION_EVENTS, calls::on_transaction, ctx)?;
    }
    Ok(())
}

fn name_table(c: &mut Context, types: Types, table: &[u8]) {
    if types.has(Backend::Db) && !table.is_empty() {
        c.table = table.to_vec();
    }
}

pub unsafe extern "C" fn drop_accounting(msg: *mut km_sip_msg, types: *mut c_char, flags: *mut c_char, _: *mut c_char) -> c_int {
    call("drop_accounting", |server, api, module| {
        let types = arguments::value(server, msg, types)?.map(|t| Types::parse(&t).map_err(|e| e.to_string())).transpose()?;
        let flags = arguments::value(server, msg, flags)?.map(|f| flags_of(&f)).transpose()?;
        let own = present::get(msg, Which::Own).or_else(|| contexts::there(api.tm.current()?, Which::Own));
        let dropped: Vec<_> = contexts::find(api, msg).into_iter().chain(own).collect();
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
fn manual(name: &'static str, backend: Backend, raw: *mut km_sip_msg, comment: *mut c_char, table: *mut c_char) -> c_int {
    call(name, |server, api, module| {
        configured(module, Types(1 << backend as u8))?;
        let comment = arguments::value(server, raw, comment)?.unwrap_or_default();
        let table = arguments::value(server, raw, table)?.unwrap_or_default();
        if backend == Backend::Db {
            check_table(&table)?;
            if !crate::host::tables::may_exist(&String::from_utf8_lossy(&table)) {
                return Err(format!("the database has no table \"{}\": create it, or name another", String::from_utf8_lossy(&table)));
            }
        }
        let msg = message(raw).ok_or("there is no SIP message here")?;
        let core = msg.core();
        let request =
            decide::Request { in_dialog: !core.to_tag.is_empty(), core, arrived: contexts::arrival(api, raw), upstream: is_upstream(api, module, raw) };
        let values = contexts::find(api, raw).map(|c| c.read(Context::clone)).transpose().map_err(|e| e.to_string())?;
        let record = decide::manual(&module.config, backend, values.as_ref(), &request, &comment, &table, Moment::now());
        worker::emit(module, vec![record]);
        Ok(())
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
    call("acc_new_leg", |_, api, _| {
        let ctx = match contexts::find(api, msg) {
            Some(ctx) => ctx,
            // The leg asked for is the new context's first (D22).
            None => contexts::make(api, msg, false).map_err(|e| e.to_string())?,
        };
        ctx.update(|c| c.legs.push(Values::default())).map_err(|e| e.to_string())
    })
}

pub unsafe extern "C" fn acc_load_ctx_from_dlg(msg: *mut km_sip_msg, _: *mut c_char, _: *mut c_char, _: *mut c_char) -> c_int {
    call("acc_load_ctx_from_dlg", |_, _, _| {
        let dialogs = DIALOGS.get().ok_or("the dialog module is not loaded: load dialog.so")?;
        let dialog = dialogs.of(msg).ok_or("there is no dialog here: match it first, with loose_route() or dlg_manage()")?;
        let ctx = dialogs.context(dialog.raw).ok_or("this dialog is not accounted")?;
        if present::load(msg, ctx) { Ok(()) } else { Err("a context is loaded already: call acc_unload_ctx_from_dlg() first".into()) }
    })
}

pub unsafe extern "C" fn acc_unload_ctx_from_dlg(msg: *mut km_sip_msg, _: *mut c_char, _: *mut c_char, _: *mut c_char) -> c_int {
    call(
        "acc_unload_ctx_from_dlg",
        |_, _, _| if present::unload(msg) { Ok(()) } else { Err("no context is loaded: call acc_load_ctx_from_dlg() first".into()) },
    )
}
