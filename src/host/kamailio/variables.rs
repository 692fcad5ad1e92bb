//! The pseudo-variables `$acc_extra(tag)`, `$(acc_leg(tag)[index])`, `$acc_current_leg` and, in
//! event routes, `$acc_event(name)`.

use std::ffi::{c_int, c_void};

use super::abi::*;
use super::contexts::Current;
use super::message::{self, Spec, bytes_of, content};
use super::state::{DRAFT, EVENT, Server, ready, server};
use crate::acc::fields::{FieldSet, Fields};
use crate::host::script::{self, CURRENT_LEG, EXTRA, Index, LEG};
use crate::worker::Module;

/// The variable of event routes.
pub const EVENT_VARIABLE: &str = "acc_event";

/// Runs an entry point of a variable for a message.
fn call(entry: &'static str, name: &str, raw: *mut km_sip_msg, f: impl FnOnce(&'static Server, Current, &'static Module) -> Result<(), String>) -> c_int {
    script::variable(entry, name, || {
        let (server, api, module) = ready().ok_or("the module is not initialised")?;
        f(server, Current { api, raw }, module)
    })
}

/// The parameter part of a specification.
///
/// # Safety
/// `sp` is a specification of the host.
unsafe fn parameter<'a>(sp: *mut km_pv_spec) -> &'a mut km_pv_param {
    // SAFETY: its parameter stands at this offset in every supported version (promise 7).
    unsafe { &mut *sp.cast::<u8>().add(KM_PV_SPEC_PVP as usize).cast::<km_pv_param>() }
}

/// Puts our number in the place of a variable's name.
///
/// # Safety
/// `sp` is the specification being made.
unsafe fn name_by_number(sp: *mut km_pv_spec, n: usize) {
    // SAFETY: the caller's promise.
    let p = unsafe { parameter(sp) };
    p.pvn.type_ = 0;
    p.pvn.isname.type_ = 0;
    p.pvn.isname.name.n = n as i64;
}

fn parse_tag(name: &str, sp: *mut km_pv_spec, text: *const km_str, fields: fn(&Fields) -> &FieldSet, parameter_name: &str) -> c_int {
    script::variable("variable name", name, || {
        let draft = DRAFT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: the host passes the specification being made and the text between the parentheses (promise 7).
        unsafe {
            let tag = text.as_ref().map_or(&[][..], |t| t.bytes());
            name_by_number(sp, script::number_of_tag(draft.as_ref().map(|d| fields(&d.fields)), tag, parameter_name)?);
        }
        Ok(())
    })
}

pub unsafe extern "C" fn parse_extra_name(sp: *mut km_pv_spec, text: *mut km_str) -> c_int {
    parse_tag(EXTRA, sp, text, |f| &f.extra, "extra_fields")
}

pub unsafe extern "C" fn parse_leg_name(sp: *mut km_pv_spec, text: *mut km_str) -> c_int {
    parse_tag(LEG, sp, text, |f| &f.leg, "leg_fields")
}

/// Any name: which ones an event has is known when it is raised.
pub unsafe extern "C" fn parse_event_name(sp: *mut km_pv_spec, text: *mut km_str) -> c_int {
    script::variable("variable name", EVENT_VARIABLE, || {
        // SAFETY: the host passes the text between the parentheses (promise 7); the copy lives as
        // long as the script, which is never unloaded.
        unsafe {
            let name: &'static mut String = Box::leak(Box::new(String::from_utf8_lossy(text.as_ref().map_or(&[][..], |t| t.bytes())).trim().to_owned()));
            name_by_number(sp, (&raw const *name) as usize);
        }
        Ok(())
    })
}

pub unsafe extern "C" fn parse_leg_index(sp: *mut km_pv_spec, text: *mut km_str) -> c_int {
    script::variable("variable index", LEG, || {
        // SAFETY: the host passes the specification being made and the text between the brackets (promise 7).
        let (p, index) = unsafe { (parameter(sp), text.as_ref().map_or(&[][..], |t| t.bytes())) };
        match script::parse_index(index, |name| Spec::parse(server()?, name))? {
            Index::Number(n) => {
                p.pvi.type_ = KM_PV_IDX_INT as i32;
                p.pvi.u.ival = n;
            }
            Index::Variable(spec) => {
                p.pvi.type_ = KM_PV_IDX_PVAR as i32;
                // It lives as long as the script, which is never unloaded.
                p.pvi.u.dval = Box::into_raw(Box::new(spec)).cast();
            }
        }
        Ok(())
    })
}

fn number_of(p: &km_pv_param) -> usize {
    // SAFETY: name_by_number stored a number there.
    (unsafe { p.pvn.isname.name.n }) as usize
}

/// The index given with `$acc_leg`: `Ok(None)` when none is given.
fn index_of(server: &Server, msg: *mut km_sip_msg, p: &km_pv_param) -> Result<Option<i64>, String> {
    match p.pvi.type_ as u32 {
        // SAFETY: parse_leg_index stored a number.
        KM_PV_IDX_INT => Ok(Some(i64::from(unsafe { p.pvi.u.ival }))),
        KM_PV_IDX_PVAR => {
            // SAFETY: parse_leg_index stored a specification that lives for ever.
            let spec = unsafe { *p.pvi.u.dval.cast::<Spec>() };
            script::index_value(bytes_of(spec.value(server, msg))).map(Some)
        }
        _ => Ok(None),
    }
}

/// Hands a value to the host.
///
/// # Safety
/// `out` is the host's place for it.
unsafe fn answer(server: &Server, out: *mut c_void, value: Option<Vec<u8>>, number: Option<i64>) {
    let null = value.is_none();
    // SAFETY: the caller's promise.
    unsafe { message::answer(server.row.long_numbers, out, script::keep(value.unwrap_or_default(), km_str::borrow), number, null) };
}

pub unsafe extern "C" fn get_extra(msg: *mut km_sip_msg, param: *mut km_pv_param, out: *mut c_void) -> c_int {
    call("get $acc_extra", EXTRA, msg, |server, at, module| {
        // SAFETY: the host passes the specification's parameter and a place for the value (promise 7).
        unsafe { answer(server, out, script::extra(at, script::tag(&module.config.fields.extra, number_of(&*param))?)?, None) };
        Ok(())
    })
}

pub unsafe extern "C" fn get_leg(msg: *mut km_sip_msg, param: *mut km_pv_param, out: *mut c_void) -> c_int {
    call("get $acc_leg", LEG, msg, |server, at, module| {
        // SAFETY: the host passes the specification's parameter and a place for the value (promise 7).
        unsafe {
            let p = &*param;
            answer(server, out, script::leg(at, script::tag(&module.config.fields.leg, number_of(p))?, index_of(server, msg, p)?)?, None);
        }
        Ok(())
    })
}

pub unsafe extern "C" fn get_current_leg(msg: *mut km_sip_msg, _param: *mut km_pv_param, out: *mut c_void) -> c_int {
    call("get $acc_current_leg", CURRENT_LEG, msg, |server, at, module| {
        let n = script::current_leg(at, module)?;
        // SAFETY: the host's own place (promise 7).
        unsafe { answer(server, out, Some(n.to_string().into_bytes()), Some(n.into())) };
        Ok(())
    })
}

pub unsafe extern "C" fn get_event(_msg: *mut km_sip_msg, param: *mut km_pv_param, out: *mut c_void) -> c_int {
    script::variable("get $acc_event", EVENT_VARIABLE, || {
        let server = server().ok_or("the module is not initialised")?;
        // SAFETY: parse_event_name stored the address of a string that lives for ever.
        let name = unsafe { &*(number_of(&*param) as *const String) };
        let value = EVENT.with(|e| e.borrow().last().and_then(|params| params.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone())));
        // SAFETY: the host's own place (promise 7).
        unsafe { answer(server, out, value, None) };
        Ok(())
    })
}

pub unsafe extern "C" fn set_extra(msg: *mut km_sip_msg, param: *mut km_pv_param, _op: c_int, value: *mut c_void) -> c_int {
    call("set $acc_extra", EXTRA, msg, |server, at, module| {
        // SAFETY: the host passes the specification's parameter and the value (promise 7).
        let (n, value) = unsafe { (number_of(&*param), bytes_of(content(server.row.long_numbers, value))) };
        script::set_extra(at, module, script::tag(&module.config.fields.extra, n)?, value.as_deref())
    })
}

pub unsafe extern "C" fn set_leg(msg: *mut km_sip_msg, param: *mut km_pv_param, _op: c_int, value: *mut c_void) -> c_int {
    call("set $acc_leg", LEG, msg, |server, at, module| {
        // SAFETY: the host passes the specification's parameter and the value (promise 7).
        let (p, value) = unsafe { (&*param, bytes_of(content(server.row.long_numbers, value))) };
        script::set_leg(at, module, script::tag(&module.config.fields.leg, number_of(p))?, index_of(server, msg, p)?, value.as_deref())
    })
}
