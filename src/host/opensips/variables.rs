//! The pseudo-variables `$acc_extra(tag)`, `$(acc_leg(tag)[index])` and `$acc_current_leg`.

use std::cell::RefCell;
use std::ffi::c_int;

use super::abi::*;
use super::contexts;
use super::message::{Spec, bytes_of};
use super::state::{DRAFT, ready, server};
use crate::acc::clock::Moment;
use crate::acc::context::Context;
use crate::acc::fields::FieldSet;
use crate::host::guard;
use crate::module::VARIABLES;

const OK: c_int = 0;
const FAILED: c_int = -1;

/// Values handed to the host stay valid while this many further ones are read: a script line
/// compares and prints a few at once.
const VALUES_KEPT: usize = 16;

thread_local! {
    static KEPT: RefCell<(usize, [Vec<u8>; VALUES_KEPT])> = const { RefCell::new((0, [const { Vec::new() }; VALUES_KEPT])) };
}

fn keep(value: Vec<u8>) -> os_str {
    KEPT.with(|k| {
        let (next, kept) = &mut *k.borrow_mut();
        *next = (*next + 1) % VALUES_KEPT;
        kept[*next] = value;
        os_str::borrow(&kept[*next])
    })
}

fn fail(name: &str, why: impl std::fmt::Display) -> c_int {
    log::error!("${name}: {why}");
    FAILED
}

/// The parameter part of a specification.
///
/// # Safety
/// `sp` is a specification of the host.
unsafe fn parameter<'a>(sp: *mut os_pv_spec) -> &'a mut os_pv_param {
    // SAFETY: its parameter stands at this offset in every supported version (promise 7).
    unsafe { &mut *sp.cast::<u8>().add(OS_PV_SPEC_PVP as usize).cast::<os_pv_param>() }
}

fn parse_tag(
    name: &'static str,
    sp: *mut os_pv_spec,
    text: *const os_str,
    fields: fn(&crate::acc::fields::Fields) -> &FieldSet,
    parameter_name: &str,
) -> c_int {
    guard::entry("variable name", FAILED, || {
        // SAFETY: the host passes the text between the parentheses (promise 7).
        let tag = unsafe { text.as_ref().map_or(&[][..], |t| t.bytes()) };
        let tag = String::from_utf8_lossy(tag);
        let draft = DRAFT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let index = draft.as_ref().and_then(|d| fields(&d.fields).tag(tag.trim()));
        let Some(index) = index else {
            return fail(
                name,
                format_args!("the tag \"{}\" is not declared: add it to the parameter {parameter_name}, above the routes", tag.trim().escape_debug()),
            );
        };
        // SAFETY: `sp` is the specification being made (promise 7).
        let p = unsafe { parameter(sp) };
        p.pvn.type_ = OS_PV_NAME_INTSTR as i32;
        p.pvn.u.isname.type_ = 0;
        p.pvn.u.isname.name.n = index as i32;
        OK
    })
}

pub unsafe extern "C" fn parse_extra_name(sp: *mut os_pv_spec, text: *const os_str) -> c_int {
    parse_tag(VARIABLES[0], sp, text, |f| &f.extra, "extra_fields")
}

pub unsafe extern "C" fn parse_leg_name(sp: *mut os_pv_spec, text: *const os_str) -> c_int {
    parse_tag(VARIABLES[1], sp, text, |f| &f.leg, "leg_fields")
}

pub unsafe extern "C" fn parse_leg_index(sp: *mut os_pv_spec, text: *const os_str) -> c_int {
    guard::entry("variable index", FAILED, || {
        // SAFETY: the host passes the text between the brackets (promise 7).
        let index = unsafe { text.as_ref().map_or(&[][..], |t| t.bytes()) }.trim_ascii();
        // SAFETY: `sp` is the specification being made (promise 7).
        let p = unsafe { parameter(sp) };
        if index.first() == Some(&b'$') {
            let Some(spec) = server().and_then(|s| Spec::parse(&s.symbols, index)) else {
                return fail(VARIABLES[1], format_args!("\"{}\" is no variable that could be an index", String::from_utf8_lossy(index).escape_debug()));
            };
            p.pvi.type_ = OS_PV_IDX_PVAR as i32;
            // It lives as long as the script, which is never unloaded.
            p.pvi.u.dval = Box::into_raw(spec).cast();
            return OK;
        }
        match std::str::from_utf8(index).ok().and_then(|t| t.parse().ok()) {
            Some(n) => {
                p.pvi.type_ = OS_PV_IDX_INT as i32;
                p.pvi.u.ival = n;
                OK
            }
            None => fail(
                VARIABLES[1],
                format_args!("\"{}\" is no index: use a number (negative from the last leg) or a variable", String::from_utf8_lossy(index).escape_debug()),
            ),
        }
    })
}

fn tag_of(p: &os_pv_param, set: &FieldSet) -> Option<Vec<u8>> {
    // SAFETY: parse_tag stored a number there.
    let n = unsafe { p.pvn.u.isname.name.n };
    set.tags.get(usize::try_from(n).ok()?).map(|t| t.as_bytes().to_vec())
}

/// The index given with `$acc_leg`: `Ok(None)` when none is given.
fn index_of(msg: *mut os_sip_msg, p: &os_pv_param) -> Result<Option<i64>, String> {
    match p.pvi.type_ as u32 {
        // SAFETY: parse_leg_index stored a number.
        OS_PV_IDX_INT => Ok(Some(i64::from(unsafe { p.pvi.u.ival }))),
        OS_PV_IDX_PVAR => {
            // SAFETY: parse_leg_index stored a specification that lives for ever.
            let spec = unsafe { &*p.pvi.u.dval.cast::<Spec>() };
            let server = server().ok_or("the module is not initialised")?;
            // SAFETY: the value was just read and is used before the next reading.
            let value = spec.value(&server.symbols, msg).and_then(|v| unsafe { bytes_of(&v) });
            let text = value.and_then(|v| String::from_utf8(v).ok());
            text.and_then(|t| t.trim().parse().ok()).map(Some).ok_or_else(|| "the index variable holds no number".to_string())
        }
        _ => Ok(None),
    }
}

/// Hands a value to the host.
///
/// # Safety
/// `out` is the host's place for it.
unsafe fn answer(out: *mut os_pv_value, value: Option<Vec<u8>>) -> c_int {
    // SAFETY: the caller's promise.
    let out = unsafe { &mut *out };
    *out = os_pv_value::default();
    match value {
        None => out.flags = OS_PV_VAL_NULL as i32,
        Some(v) => {
            out.rs = keep(v);
            out.flags = OS_PV_VAL_STR as i32;
        }
    }
    OK
}

pub unsafe extern "C" fn get_extra(_msg: *mut os_sip_msg, param: *mut os_pv_param, out: *mut os_pv_value) -> c_int {
    guard::entry("get $acc_extra", FAILED, || {
        let Some((server, api, module)) = ready() else { return FAILED };
        // SAFETY: the host passes the specification's parameter (promise 7).
        let Some(tag) = tag_of(unsafe { &*param }, &module.config.fields.extra) else { return FAILED };
        match contexts::find(server, api).map(|c| c.read(|c| c.extra.get(&tag).map(<[u8]>::to_vec))).transpose() {
            // SAFETY: the host's own place (promise 7).
            Ok(value) => unsafe { answer(out, value.flatten()) },
            Err(e) => fail(VARIABLES[0], e),
        }
    })
}

pub unsafe extern "C" fn get_leg(msg: *mut os_sip_msg, param: *mut os_pv_param, out: *mut os_pv_value) -> c_int {
    guard::entry("get $acc_leg", FAILED, || {
        let Some((server, api, module)) = ready() else { return FAILED };
        // SAFETY: the host passes the specification's parameter (promise 7).
        let p = unsafe { &*param };
        let Some(tag) = tag_of(p, &module.config.fields.leg) else { return FAILED };
        let index = match index_of(msg, p) {
            Ok(i) => i,
            Err(e) => return fail(VARIABLES[1], e),
        };
        let look = |c: &Context| c.leg_index(index).map(|i| c.legs[i].get(&tag).map(<[u8]>::to_vec)).ok_or(c.legs.len());
        let found = match contexts::find(server, api) {
            Some(ctx) => ctx.read(look),
            None => Ok(look(&Context::new(Moment::default(), true))),
        };
        match found {
            // SAFETY: the host's own place (promise 7).
            Ok(Ok(value)) => unsafe { answer(out, value) },
            Ok(Err(n)) => fail(VARIABLES[1], out_of_range(index, n)),
            Err(e) => fail(VARIABLES[1], e),
        }
    })
}

fn out_of_range(index: Option<i64>, legs: usize) -> String {
    match index {
        Some(i) => format!("there is no leg {i}: this request has {legs}"),
        None => "this request has no leg: call acc_new_leg() first".into(),
    }
}

pub unsafe extern "C" fn get_current_leg(_msg: *mut os_sip_msg, _param: *mut os_pv_param, out: *mut os_pv_value) -> c_int {
    guard::entry("get $acc_current_leg", FAILED, || {
        let Some((server, api, module)) = ready() else { return FAILED };
        let legs = match contexts::find(server, api) {
            Some(ctx) => ctx.read(|c| c.legs.len()),
            None => Ok(usize::from(!module.config.fields.leg.tags.is_empty())),
        };
        match legs {
            Ok(0) => fail(VARIABLES[2], "there is no leg: declare leg_fields, or call acc_new_leg()"),
            Ok(n) => {
                // SAFETY: the host's own place (promise 7).
                let out = unsafe { &mut *out };
                *out = os_pv_value::default();
                out.ri = n as i32 - 1;
                out.rs = keep(out.ri.to_string().into_bytes());
                out.flags = (OS_PV_VAL_INT | OS_PV_VAL_STR | OS_PV_TYPE_INT) as i32;
                OK
            }
            Err(e) => fail(VARIABLES[2], e),
        }
    })
}

/// Changes the context in force, made if need be.
fn change(name: &str, f: impl FnOnce(&mut Context) -> Result<(), String>) -> c_int {
    let Some((server, api, module)) = ready() else { return FAILED };
    let ctx = match contexts::find(server, api) {
        Some(ctx) => ctx,
        None => match contexts::make(server, api, !module.config.fields.leg.tags.is_empty()) {
            Ok(ctx) => ctx,
            Err(e) => return fail(name, e),
        },
    };
    match ctx.update(f) {
        Ok(Ok(())) => OK,
        Ok(Err(e)) => fail(name, e),
        Err(e) => fail(name, e),
    }
}

/// What the host assigns; no value = `$null`.
///
/// # Safety
/// `value` is null or the host's value, valid through the call.
unsafe fn assigned(value: *mut os_pv_value) -> Option<Vec<u8>> {
    // SAFETY: the caller's promise (promise 7).
    unsafe { value.as_ref().and_then(|v| bytes_of(v)) }
}

pub unsafe extern "C" fn set_extra(_msg: *mut os_sip_msg, param: *mut os_pv_param, _op: c_int, value: *mut os_pv_value) -> c_int {
    guard::entry("set $acc_extra", FAILED, || {
        let Some((_, _, module)) = ready() else { return FAILED };
        // SAFETY: the host passes the specification's parameter and the value (promise 7).
        let (Some(tag), value) = (unsafe { (tag_of(&*param, &module.config.fields.extra), assigned(value)) }) else { return FAILED };
        change(VARIABLES[0], |c| {
            c.extra.set(&tag, value.as_deref());
            Ok(())
        })
    })
}

pub unsafe extern "C" fn set_leg(msg: *mut os_sip_msg, param: *mut os_pv_param, _op: c_int, value: *mut os_pv_value) -> c_int {
    guard::entry("set $acc_leg", FAILED, || {
        let Some((_, _, module)) = ready() else { return FAILED };
        // SAFETY: the host passes the specification's parameter and the value (promise 7).
        let (p, value) = unsafe { (&*param, assigned(value)) };
        let Some(tag) = tag_of(p, &module.config.fields.leg) else { return FAILED };
        let index = match index_of(msg, p) {
            Ok(i) => i,
            Err(e) => return fail(VARIABLES[1], e),
        };
        change(VARIABLES[1], |c| {
            let i = c.leg_index(index).ok_or_else(|| out_of_range(index, c.legs.len()))?;
            c.legs[i].set(&tag, value.as_deref());
            Ok(())
        })
    })
}
