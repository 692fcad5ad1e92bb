//! The pseudo-variables `$acc_extra(tag)`, `$(acc_leg(tag)[index])` and `$acc_current_leg`.

use std::ffi::{c_int, c_void};

use super::abi::*;
use super::contexts::Current;
use super::message::{Spec, bytes_of};
use super::state::server;
use crate::accounting::fields::{FieldSet, Fields};
use crate::declaration::{CURRENT_LEG, EXTRA, LEG};
use crate::host::script::{self, Index};
use crate::host::server::Text;
use crate::host::{process, proof};
use crate::worker::Instance;

/// Reads a variable for a message.
fn get(entry: &'static str, name: &str, raw: *mut os_sip_msg, f: impl FnOnce(Current, &'static Instance) -> Result<(), String>) -> c_int {
    script::variable(entry, name, || Current::at(raw).and_then(|(at, instance)| f(at, instance)))
}

/// Assigns a variable for a message.
fn set(entry: &'static str, name: &str, raw: *mut os_sip_msg, f: impl FnOnce(Current, &'static Instance) -> Result<(), String>) -> c_int {
    script::assign(entry, name, || Current::at(raw).and_then(|(at, instance)| f(at, instance)))
}

/// The parameter part of a specification.
///
/// # Safety
/// `sp` is a specification of the host.
unsafe fn parameter<'a>(sp: *mut os_pv_spec) -> Result<&'a mut os_pv_param, String> {
    // SAFETY: the host has put the functions of one of our variables there already, and its
    // parameter follows them (promise 7).
    unsafe {
        let word = |offset: u32| sp.cast::<u8>().add(offset as usize).cast::<*const c_void>().read();
        let functions = (word(OS_PV_SPEC_GETF), word(OS_PV_SPEC_SETF));
        let extra = (get_extra as *const c_void, set_extra as *const c_void);
        let leg = (get_leg as *const c_void, set_leg as *const c_void);
        if functions != extra && functions != leg {
            return Err(format!("specifications of variables in this server are not those of the known versions: {}", proof::CURE));
        }
        Ok(&mut *sp.cast::<u8>().add(OS_PV_SPEC_PVP as usize).cast::<os_pv_param>())
    }
}

/// Marks the number of a tag.
const NUMBER: u32 = 0x5acc_0000;

fn parse_tag(name: &str, sp: *mut os_pv_spec, text: *const Text, fields: fn(&Fields) -> &FieldSet, parameter_name: &str) -> c_int {
    script::variable("variable name", name, || {
        // SAFETY: the host passes the specification being made and the text between the parentheses (promise 7).
        let (p, tag) = unsafe { (parameter(sp)?, Text::bytes_at(text)) };
        let number = process::number_of_tag(tag, fields, parameter_name)?;
        p.pvn.type_ = OS_PV_NAME_INTSTR as i32;
        p.pvn.u.isname.type_ = 0;
        p.pvn.u.isname.name.n = (NUMBER | number as u32) as i32;
        Ok(())
    })
}

pub unsafe extern "C" fn parse_extra_name(sp: *mut os_pv_spec, text: *const Text) -> c_int {
    parse_tag(EXTRA, sp, text, |f| &f.extra, "extra_fields")
}

pub unsafe extern "C" fn parse_leg_name(sp: *mut os_pv_spec, text: *const Text) -> c_int {
    parse_tag(LEG, sp, text, |f| &f.leg, "leg_fields")
}

pub unsafe extern "C" fn parse_leg_index(sp: *mut os_pv_spec, text: *const Text) -> c_int {
    script::variable("variable index", LEG, || {
        // SAFETY: the host passes the specification being made and the text between the brackets (promise 7).
        let (p, index) = unsafe { (parameter(sp)?, Text::bytes_at(text)) };
        match script::parse_index(index, |name| Spec::parse(&server()?.symbols, name))? {
            Index::Number(n) => {
                p.pvi.type_ = OS_PV_IDX_INT as i32;
                p.pvi.u.ival = n;
            }
            Index::Variable(spec) => {
                p.pvi.type_ = OS_PV_IDX_PVAR as i32;
                // It lives as long as the script, which is never unloaded.
                p.pvi.u.dval = Box::into_raw(spec).cast();
            }
        }
        Ok(())
    })
}

fn number_of(p: &os_pv_param) -> usize {
    // SAFETY: any bytes are a number; no value has one that is not of `parse_tag`.
    (unsafe { p.pvn.u.isname.name.n } as u32 ^ NUMBER) as usize
}

/// The index given with `$acc_leg`: `Ok(None)` if none is given.
fn index_of(at: Current, p: &os_pv_param) -> Result<Option<i64>, String> {
    match p.pvi.type_ as u32 {
        // SAFETY: parse_leg_index stored a number.
        OS_PV_IDX_INT => Ok(Some(i64::from(unsafe { p.pvi.u.ival }))),
        OS_PV_IDX_PVAR => {
            // SAFETY: parse_leg_index stored a specification that lives for ever.
            let spec = unsafe { &*p.pvi.u.dval.cast::<Spec>() };
            script::index_value(spec.bytes(&at.server.symbols, at.raw)).map(Some)
        }
        _ => Ok(None),
    }
}

/// Hands the value that `read` appends to the host.
///
/// # Safety
/// `out` is the host's place for it.
unsafe fn answer(out: *mut os_pv_value, read: impl FnOnce(&mut Vec<u8>) -> Result<bool, String>) -> Result<(), String> {
    let value = script::keep_read(read, Text::borrow)?;
    // SAFETY: the caller's promise.
    let out = unsafe { &mut *out };
    *out = os_pv_value::default();
    match value {
        None => out.flags = OS_PV_VAL_NULL as i32,
        Some(v) => {
            out.rs = v;
            out.flags = OS_PV_VAL_STR as i32;
        }
    }
    Ok(())
}

pub unsafe extern "C" fn get_extra(msg: *mut os_sip_msg, param: *mut os_pv_param, out: *mut os_pv_value) -> c_int {
    get("get $acc_extra", EXTRA, msg, |at, _| {
        // SAFETY: the host passes the specification's parameter and a place for the value (promise 7).
        unsafe {
            let number = number_of(&*param);
            answer(out, |value| script::extra(at, number, value))
        }
    })
}

pub unsafe extern "C" fn get_leg(msg: *mut os_sip_msg, param: *mut os_pv_param, out: *mut os_pv_value) -> c_int {
    get("get $acc_leg", LEG, msg, |at, _| {
        // SAFETY: the host passes the specification's parameter and a place for the value (promise 7).
        unsafe {
            let (number, index) = (number_of(&*param), index_of(at, &*param)?);
            answer(out, |value| script::leg(at, number, index, value))
        }
    })
}

pub unsafe extern "C" fn get_current_leg(msg: *mut os_sip_msg, _param: *mut os_pv_param, out: *mut os_pv_value) -> c_int {
    get("get $acc_current_leg", CURRENT_LEG, msg, |at, instance| {
        let n = script::current_leg(at, instance)?;
        // SAFETY: the host's own place (promise 7).
        let out = unsafe { &mut *out };
        *out = os_pv_value::default();
        out.ri = n;
        out.rs = script::keep(n.to_string().as_bytes(), Text::borrow);
        out.flags = (OS_PV_VAL_INT | OS_PV_VAL_STR | OS_PV_TYPE_INT) as i32;
        Ok(())
    })
}

/// What the host assigns; no value = `$null`.
///
/// # Safety
/// `value` is null or the host's value, valid through the call.
unsafe fn assigned(value: *mut os_pv_value) -> Option<Vec<u8>> {
    // SAFETY: the caller's promise (promise 7).
    unsafe { value.as_ref().and_then(|v| bytes_of(v)) }
}

pub unsafe extern "C" fn set_extra(msg: *mut os_sip_msg, param: *mut os_pv_param, _op: c_int, value: *mut os_pv_value) -> c_int {
    set("set $acc_extra", EXTRA, msg, |at, instance| {
        // SAFETY: the host passes the specification's parameter and the value (promise 7).
        let (p, value) = unsafe { (&*param, assigned(value)) };
        script::set_extra(at, instance, number_of(p), value.as_deref())
    })
}

pub unsafe extern "C" fn set_leg(msg: *mut os_sip_msg, param: *mut os_pv_param, _op: c_int, value: *mut os_pv_value) -> c_int {
    set("set $acc_leg", LEG, msg, |at, instance| {
        // SAFETY: the host passes the specification's parameter and the value (promise 7).
        let (p, value) = unsafe { (&*param, assigned(value)) };
        script::set_leg(at, instance, number_of(p), index_of(at, p)?, value.as_deref())
    })
}
