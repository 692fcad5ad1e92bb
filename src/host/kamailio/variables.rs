//! The pseudo-variables `$acc_extra(tag)`, `$(acc_leg(tag)[index])`, `$acc_current_leg` and, in
//! event routes, `$acc_event(name)`.

use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

use super::abi::*;
use super::contexts::Current;
use super::message::{self, Spec, bytes_of, content};
use super::state::{EVENT, server};
use crate::accounting::fields::{FieldSet, Fields};
use crate::declaration::{CURRENT_LEG, EXTRA, LEG};
use crate::host::script::{self, Index};
use crate::host::server::Text;
use crate::host::{process, proof};
use crate::worker::Instance;

/// The variable of event routes.
pub const EVENT_VARIABLE: &str = "acc_event";

/// Reads a variable for a message.
fn get(entry: &'static str, name: &str, raw: *mut km_sip_msg, f: impl FnOnce(Current, &'static Instance) -> Result<(), String>) -> c_int {
    script::variable(entry, name, || Current::at(raw).and_then(|(at, instance)| f(at, instance)))
}

/// Assigns a variable for a message.
fn set(entry: &'static str, name: &str, raw: *mut km_sip_msg, f: impl FnOnce(Current, &'static Instance) -> Result<(), String>) -> c_int {
    script::assign(entry, name, || Current::at(raw).and_then(|(at, instance)| f(at, instance)))
}

/// The parameter part of a specification.
///
/// # Safety
/// `sp` is a specification of the host.
unsafe fn parameter<'a>(sp: *mut km_pv_spec) -> Result<&'a mut km_pv_param, String> {
    // SAFETY: the host has put the functions of one of our variables there already, and its
    // parameter follows them (promise 7).
    unsafe {
        let word = |offset: u32| sp.cast::<u8>().add(offset as usize).cast::<*const c_void>().read();
        let functions = (word(KM_PV_SPEC_GETF), word(KM_PV_SPEC_SETF));
        let ours = [
            (get_extra as *const c_void, set_extra as *const c_void),
            (get_leg as *const c_void, set_leg as *const c_void),
            (get_event as *const c_void, std::ptr::null()),
        ];
        if !ours.contains(&functions) {
            return Err(format!("specifications of variables in this server are not those of the known versions: {}", proof::CURE));
        }
        Ok(&mut *sp.cast::<u8>().add(KM_PV_SPEC_PVP as usize).cast::<km_pv_param>())
    }
}

/// Marks our number, which is stored in place of a name.
const NUMBER: i64 = 0x5acc_0000;

/// Names of event parameters that the script reads, by their number.
static EVENT_NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Replaces a variable's name by our number.
///
/// # Safety
/// `sp` is the specification being made.
unsafe fn name_by_number(sp: *mut km_pv_spec, n: usize) -> Result<(), String> {
    // SAFETY: the caller's promise.
    let p = unsafe { parameter(sp) }?;
    p.pvn.type_ = 0;
    p.pvn.isname.type_ = 0;
    p.pvn.isname.name.n = NUMBER | n as i64;
    Ok(())
}

fn parse_tag(name: &str, sp: *mut km_pv_spec, text: *const Text, fields: fn(&Fields) -> &FieldSet, parameter_name: &str) -> c_int {
    script::variable("variable name", name, || {
        // SAFETY: the host passes the specification being made and the text between the parentheses (promise 7).
        unsafe {
            let tag = Text::bytes_at(text);
            name_by_number(sp, process::number_of_tag(tag, fields, parameter_name)?)
        }
    })
}

pub unsafe extern "C" fn parse_extra_name(sp: *mut km_pv_spec, text: *mut Text) -> c_int {
    parse_tag(EXTRA, sp, text, |f| &f.extra, "extra_fields")
}

pub unsafe extern "C" fn parse_leg_name(sp: *mut km_pv_spec, text: *mut Text) -> c_int {
    parse_tag(LEG, sp, text, |f| &f.leg, "leg_fields")
}

/// Accepts any name: which parameters an event has is only known when it is raised.
pub unsafe extern "C" fn parse_event_name(sp: *mut km_pv_spec, text: *mut Text) -> c_int {
    script::variable("variable name", EVENT_VARIABLE, || {
        let mut names = EVENT_NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the host passes the specification being made and the text between the parentheses (promise 7).
        unsafe {
            let name = String::from_utf8_lossy(Text::bytes_at(text)).trim().to_owned();
            let n = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            });
            name_by_number(sp, n)
        }
    })
}

pub unsafe extern "C" fn parse_leg_index(sp: *mut km_pv_spec, text: *mut Text) -> c_int {
    script::variable("variable index", LEG, || {
        // SAFETY: the host passes the specification being made and the text between the brackets (promise 7).
        let (p, index) = unsafe { (parameter(sp)?, Text::bytes_at(text)) };
        match script::parse_index(index, |name| Spec::parse(&server()?.symbols, name))? {
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
    // SAFETY: any bytes are a number; who looks it up refuses one that is not of `name_by_number`.
    (unsafe { p.pvn.isname.name.n } ^ NUMBER) as usize
}

/// The index given with `$acc_leg`: `Ok(None)` if none is given.
fn index_of(at: Current, p: &km_pv_param) -> Result<Option<i64>, String> {
    match p.pvi.type_ as u32 {
        // SAFETY: parse_leg_index stored a number.
        KM_PV_IDX_INT => Ok(Some(i64::from(unsafe { p.pvi.u.ival }))),
        KM_PV_IDX_PVAR => {
            // SAFETY: parse_leg_index stored a specification that lives for ever.
            let spec = unsafe { *p.pvi.u.dval.cast::<Spec>() };
            script::index_value(bytes_of(spec.value(&at.server.symbols, at.raw))).map(Some)
        }
        _ => Ok(None),
    }
}

/// Hands a value to the host.
///
/// # Safety
/// `out` is the host's place for it.
unsafe fn answer(out: *mut c_void, value: Option<&[u8]>, number: Option<i64>) {
    let null = value.is_none();
    // SAFETY: the caller's promise.
    unsafe { message::answer(out, script::keep(value.unwrap_or_default(), Text::borrow), number, null) };
}

/// Hands the value that `read` appends to the host.
///
/// # Safety
/// `out` is the host's place for it.
unsafe fn answer_read(out: *mut c_void, read: impl FnOnce(&mut Vec<u8>) -> Result<bool, String>) -> Result<(), String> {
    match script::keep_read(read, Text::borrow)? {
        // SAFETY: the caller's promise.
        Some(value) => unsafe { message::answer(out, value, None, false) },
        // SAFETY: as above.
        None => unsafe { answer(out, None, None) },
    }
    Ok(())
}

pub unsafe extern "C" fn get_extra(msg: *mut km_sip_msg, param: *mut km_pv_param, out: *mut c_void) -> c_int {
    get("get $acc_extra", EXTRA, msg, |at, _| {
        // SAFETY: the host passes the specification's parameter and a place for the value (promise 7).
        unsafe {
            let number = number_of(&*param);
            answer_read(out, |value| script::extra(at, number, value))
        }
    })
}

pub unsafe extern "C" fn get_leg(msg: *mut km_sip_msg, param: *mut km_pv_param, out: *mut c_void) -> c_int {
    get("get $acc_leg", LEG, msg, |at, _| {
        // SAFETY: the host passes the specification's parameter and a place for the value (promise 7).
        unsafe {
            let (number, index) = (number_of(&*param), index_of(at, &*param)?);
            answer_read(out, |value| script::leg(at, number, index, value))
        }
    })
}

pub unsafe extern "C" fn get_current_leg(msg: *mut km_sip_msg, _param: *mut km_pv_param, out: *mut c_void) -> c_int {
    get("get $acc_current_leg", CURRENT_LEG, msg, |at, instance| {
        let n = script::current_leg(at, instance)?;
        // SAFETY: the host's own place (promise 7).
        unsafe { answer(out, Some(n.to_string().as_bytes()), Some(n.into())) };
        Ok(())
    })
}

pub unsafe extern "C" fn get_event(_msg: *mut km_sip_msg, param: *mut km_pv_param, out: *mut c_void) -> c_int {
    script::variable("get $acc_event", EVENT_VARIABLE, || {
        let names = EVENT_NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the host passes the specification's parameter (promise 7).
        let name = names.get(number_of(unsafe { &*param })).ok_or("the module is not initialised")?;
        let value = EVENT.with(|e| e.borrow().last().and_then(|params| params.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone())));
        // SAFETY: the host's own place (promise 7).
        unsafe { answer(out, value.as_deref(), None) };
        Ok(())
    })
}

pub unsafe extern "C" fn set_extra(msg: *mut km_sip_msg, param: *mut km_pv_param, _op: c_int, value: *mut c_void) -> c_int {
    set("set $acc_extra", EXTRA, msg, |at, instance| {
        // SAFETY: the host passes the specification's parameter and the value (promise 7).
        let (n, value) = unsafe { (number_of(&*param), bytes_of(content(value))) };
        script::set_extra(at, instance, n, value.as_deref())
    })
}

pub unsafe extern "C" fn set_leg(msg: *mut km_sip_msg, param: *mut km_pv_param, _op: c_int, value: *mut c_void) -> c_int {
    set("set $acc_leg", LEG, msg, |at, instance| {
        // SAFETY: the host passes the specification's parameter and the value (promise 7).
        let (p, value) = unsafe { (&*param, bytes_of(content(value))) };
        script::set_leg(at, instance, number_of(p), index_of(at, p)?, value.as_deref())
    })
}
