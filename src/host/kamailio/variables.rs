//! The pseudo-variables `$acc_extra(tag)`, `$(acc_leg(tag)[index])`, `$acc_current_leg` and, in
//! event routes, `$acc_event(name)`.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};

use super::abi::*;
use super::contexts;
use super::message::{self, Spec, bytes_of, content};
use super::state::{DRAFT, EVENT, Server, ready, server};
use crate::acc::clock::Moment;
use crate::acc::context::Context;
use crate::acc::fields::FieldSet;
use crate::host::guard;
use crate::module::VARIABLES;

const OK: c_int = 0;
const FAILED: c_int = -1;

/// The variable of event routes.
pub const EVENT_VARIABLE: &str = "acc_event";

/// Values handed to the host stay valid while this many further ones are read: a script line
/// compares and prints a few at once.
const VALUES_KEPT: usize = 16;

thread_local! {
    static KEPT: RefCell<(usize, [Vec<u8>; VALUES_KEPT])> = const { RefCell::new((0, [const { Vec::new() }; VALUES_KEPT])) };
}

/// Keeps a value for the host, which likes its strings terminated.
fn keep(mut value: Vec<u8>) -> km_str {
    let len = value.len();
    value.push(0);
    KEPT.with(|k| {
        let (next, kept) = &mut *k.borrow_mut();
        *next = (*next + 1) % VALUES_KEPT;
        kept[*next] = value;
        km_str::borrow(&kept[*next][..len])
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

fn parse_tag(
    name: &'static str,
    sp: *mut km_pv_spec,
    text: *const km_str,
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
        unsafe { name_by_number(sp, index) };
        OK
    })
}

pub unsafe extern "C" fn parse_extra_name(sp: *mut km_pv_spec, text: *mut km_str) -> c_int {
    parse_tag(VARIABLES[0], sp, text, |f| &f.extra, "extra_fields")
}

pub unsafe extern "C" fn parse_leg_name(sp: *mut km_pv_spec, text: *mut km_str) -> c_int {
    parse_tag(VARIABLES[1], sp, text, |f| &f.leg, "leg_fields")
}

/// Any name: which ones an event has is known when it is raised.
pub unsafe extern "C" fn parse_event_name(sp: *mut km_pv_spec, text: *mut km_str) -> c_int {
    guard::entry("variable name", FAILED, || {
        // SAFETY: the host passes the text between the parentheses (promise 7); the copy lives as
        // long as the script, which is never unloaded.
        unsafe {
            let name: &'static mut String = Box::leak(Box::new(String::from_utf8_lossy(text.as_ref().map_or(&[][..], |t| t.bytes())).trim().to_owned()));
            name_by_number(sp, (&raw const *name) as usize);
        }
        OK
    })
}

pub unsafe extern "C" fn parse_leg_index(sp: *mut km_pv_spec, text: *mut km_str) -> c_int {
    guard::entry("variable index", FAILED, || {
        // SAFETY: the host passes the text between the brackets (promise 7).
        let index = unsafe { text.as_ref().map_or(&[][..], |t| t.bytes()) }.trim_ascii();
        // SAFETY: `sp` is the specification being made (promise 7).
        let p = unsafe { parameter(sp) };
        if index.first() == Some(&b'$') {
            let Some(spec) = server().and_then(|s| Spec::parse(s, index)) else {
                return fail(VARIABLES[1], format_args!("\"{}\" is no variable that could be an index", String::from_utf8_lossy(index).escape_debug()));
            };
            p.pvi.type_ = KM_PV_IDX_PVAR as i32;
            // It lives as long as the script, which is never unloaded.
            p.pvi.u.dval = Box::into_raw(Box::new(spec)).cast();
            return OK;
        }
        match std::str::from_utf8(index).ok().and_then(|t| t.parse().ok()) {
            Some(n) => {
                p.pvi.type_ = KM_PV_IDX_INT as i32;
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

fn number_of(p: &km_pv_param) -> usize {
    // SAFETY: name_by_number stored a number there.
    (unsafe { p.pvn.isname.name.n }) as usize
}

fn tag_of(p: &km_pv_param, set: &FieldSet) -> Option<Vec<u8>> {
    set.tags.get(number_of(p)).map(|t| t.as_bytes().to_vec())
}

/// The index given with `$acc_leg`: `Ok(None)` when none is given.
fn index_of(server: &Server, msg: *mut km_sip_msg, p: &km_pv_param) -> Result<Option<i64>, String> {
    match p.pvi.type_ as u32 {
        // SAFETY: parse_leg_index stored a number.
        KM_PV_IDX_INT => Ok(Some(i64::from(unsafe { p.pvi.u.ival }))),
        KM_PV_IDX_PVAR => {
            // SAFETY: parse_leg_index stored a specification that lives for ever.
            let spec = unsafe { *p.pvi.u.dval.cast::<Spec>() };
            let text = bytes_of(spec.value(server, msg)).and_then(|v| String::from_utf8(v).ok());
            text.and_then(|t| t.trim().parse().ok()).map(Some).ok_or_else(|| "the index variable holds no number".to_string())
        }
        _ => Ok(None),
    }
}

/// Hands a value to the host.
///
/// # Safety
/// `out` is the host's place for it.
unsafe fn answer(server: &Server, out: *mut c_void, value: Option<Vec<u8>>) -> c_int {
    let null = value.is_none();
    // SAFETY: the caller's promise.
    unsafe { message::answer(server.row.long_numbers, out, keep(value.unwrap_or_default()), None, null) };
    OK
}

pub unsafe extern "C" fn get_extra(msg: *mut km_sip_msg, param: *mut km_pv_param, out: *mut c_void) -> c_int {
    guard::entry("get $acc_extra", FAILED, || {
        let Some((server, api, module)) = ready() else { return FAILED };
        // SAFETY: the host passes the specification's parameter (promise 7).
        let Some(tag) = tag_of(unsafe { &*param }, &module.config.fields.extra) else { return FAILED };
        match contexts::find(api, msg).map(|c| c.read(|c| c.extra.get(&tag).map(<[u8]>::to_vec))).transpose() {
            // SAFETY: the host's own place (promise 7).
            Ok(value) => unsafe { answer(server, out, value.flatten()) },
            Err(e) => fail(VARIABLES[0], e),
        }
    })
}

pub unsafe extern "C" fn get_leg(msg: *mut km_sip_msg, param: *mut km_pv_param, out: *mut c_void) -> c_int {
    guard::entry("get $acc_leg", FAILED, || {
        let Some((server, api, module)) = ready() else { return FAILED };
        // SAFETY: the host passes the specification's parameter (promise 7).
        let p = unsafe { &*param };
        let Some(tag) = tag_of(p, &module.config.fields.leg) else { return FAILED };
        let index = match index_of(server, msg, p) {
            Ok(i) => i,
            Err(e) => return fail(VARIABLES[1], e),
        };
        let look = |c: &Context| c.leg_index(index).map(|i| c.legs[i].get(&tag).map(<[u8]>::to_vec)).ok_or(c.legs.len());
        let found = match contexts::find(api, msg) {
            Some(ctx) => ctx.read(look),
            None => Ok(look(&Context::new(Moment::default(), true))),
        };
        match found {
            // SAFETY: the host's own place (promise 7).
            Ok(Ok(value)) => unsafe { answer(server, out, value) },
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

pub unsafe extern "C" fn get_current_leg(msg: *mut km_sip_msg, _param: *mut km_pv_param, out: *mut c_void) -> c_int {
    guard::entry("get $acc_current_leg", FAILED, || {
        let Some((server, api, module)) = ready() else { return FAILED };
        let legs = match contexts::find(api, msg) {
            Some(ctx) => ctx.read(|c| c.legs.len()),
            None => Ok(usize::from(!module.config.fields.leg.tags.is_empty())),
        };
        match legs {
            Ok(0) => fail(VARIABLES[2], "there is no leg: declare leg_fields, or call acc_new_leg()"),
            Ok(n) => {
                let n = n as i64 - 1;
                // SAFETY: the host's own place (promise 7).
                unsafe { message::answer(server.row.long_numbers, out, keep(n.to_string().into_bytes()), Some(n), false) };
                OK
            }
            Err(e) => fail(VARIABLES[2], e),
        }
    })
}

pub unsafe extern "C" fn get_event(_msg: *mut km_sip_msg, param: *mut km_pv_param, out: *mut c_void) -> c_int {
    guard::entry("get $acc_event", FAILED, || {
        let Some(server) = server() else { return FAILED };
        // SAFETY: parse_event_name stored the address of a string that lives for ever.
        let name = unsafe { &*(number_of(&*param) as *const String) };
        let value = EVENT.with(|e| e.borrow().last().and_then(|params| params.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone())));
        // SAFETY: the host's own place (promise 7).
        unsafe { answer(server, out, value) }
    })
}

/// Changes the context in force, made if need be.
fn change(name: &str, msg: *mut km_sip_msg, f: impl FnOnce(&mut Context) -> Result<(), String>) -> c_int {
    let Some((_, api, module)) = ready() else { return FAILED };
    let ctx = match contexts::find(api, msg) {
        Some(ctx) => ctx,
        None => match contexts::make(api, msg, !module.config.fields.leg.tags.is_empty()) {
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

pub unsafe extern "C" fn set_extra(msg: *mut km_sip_msg, param: *mut km_pv_param, _op: c_int, value: *mut c_void) -> c_int {
    guard::entry("set $acc_extra", FAILED, || {
        let Some((server, _, module)) = ready() else { return FAILED };
        // SAFETY: the host passes the specification's parameter and the value (promise 7).
        let (Some(tag), value) = (unsafe { (tag_of(&*param, &module.config.fields.extra), bytes_of(content(server.row.long_numbers, value))) }) else {
            return FAILED;
        };
        change(VARIABLES[0], msg, |c| {
            c.extra.set(&tag, value.as_deref());
            Ok(())
        })
    })
}

pub unsafe extern "C" fn set_leg(msg: *mut km_sip_msg, param: *mut km_pv_param, _op: c_int, value: *mut c_void) -> c_int {
    guard::entry("set $acc_leg", FAILED, || {
        let Some((server, _, module)) = ready() else { return FAILED };
        // SAFETY: the host passes the specification's parameter and the value (promise 7).
        let (p, value) = unsafe { (&*param, bytes_of(content(server.row.long_numbers, value))) };
        let Some(tag) = tag_of(p, &module.config.fields.leg) else { return FAILED };
        let index = match index_of(server, msg, p) {
            Ok(i) => i,
            Err(e) => return fail(VARIABLES[1], e),
        };
        change(VARIABLES[1], msg, |c| {
            let i = c.leg_index(index).ok_or_else(|| out_of_range(index, c.legs.len()))?;
            c.legs[i].set(&tag, value.as_deref());
            Ok(())
        })
    })
}
