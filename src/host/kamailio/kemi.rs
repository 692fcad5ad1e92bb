//! The functions as scripts in other languages call them (KEMI): `KSR.acc.do_accounting("log")`. Such a
//! function has one number of parameters, and they are values: no variable is looked for in them.

use std::ffi::c_int;
use std::ptr;

use super::abi::*;
use super::contexts::Current;
use super::functions;
use super::symbols::Symbols;
use crate::accounting::record::Backend;
use crate::declaration::{self, Argument, MOST_ARGUMENTS};
use crate::host::exported::{name, table};
use crate::host::process::FAILED;
use crate::host::script;
use crate::host::server::Text;
use crate::host::server::numbered::numbered;

/// What a function does.
enum Does {
    /// As the function of the native script with this name.
    Same(&'static str),
    /// As `acc_request()`.
    RecordToLog,
    /// As `acc_rad_request()`.
    RecordRadius,
}

struct Function {
    module: &'static str,
    name: &'static str,
    texts: usize,
    does: Does,
}

impl Function {
    /// The first text is the comment of a record. In the native script the server refuses an empty one at its start.
    fn has_comment(&self) -> bool {
        match self.does {
            Does::Same(name) => declaration::FUNCTIONS.iter().any(|f| f.name == name && matches!(f.arguments.first(), Some((Argument::Comment(_), _)))),
            Does::RecordToLog | Does::RecordRadius => true,
        }
    }
}

const fn of_acc(name: &'static str, texts: usize, does: Does) -> Function {
    Function { module: "acc", name, texts, does }
}

const FUNCTIONS: [Function; 18] = [
    of_acc("do_accounting", 1, Does::Same("do_accounting")),
    of_acc("do_accounting_flags", 2, Does::Same("do_accounting")),
    of_acc("do_accounting_table", 3, Does::Same("do_accounting")),
    of_acc("drop_accounting", 0, Does::Same("drop_accounting")),
    of_acc("drop_accounting_types", 1, Does::Same("drop_accounting")),
    of_acc("drop_accounting_flags", 2, Does::Same("drop_accounting")),
    of_acc("acc_log_request", 1, Does::Same("acc_log_request")),
    of_acc("acc_db_request", 2, Does::Same("acc_db_request")),
    of_acc("acc_aaa_request", 1, Does::Same("acc_aaa_request")),
    of_acc("acc_evi_request", 1, Does::Same("acc_evi_request")),
    of_acc("acc_diam_request", 1, Does::Same("acc_diam_request")),
    of_acc("acc_stream_request", 1, Does::Same("acc_stream_request")),
    of_acc("acc_request", 2, Does::RecordToLog),
    of_acc("acc_rad_request", 1, Does::RecordRadius),
    of_acc("acc_new_leg", 0, Does::Same("acc_new_leg")),
    of_acc("acc_load_ctx_from_dlg", 0, Does::Same("acc_load_ctx_from_dlg")),
    of_acc("acc_unload_ctx_from_dlg", 0, Does::Same("acc_unload_ctx_from_dlg")),
    Function { module: "acc_radius", name: "request", texts: 1, does: Does::RecordRadius },
];

/// What the host calls: it passes as many texts as the function has.
type Entry = unsafe extern "C" fn(*mut km_sip_msg, *const Text, *const Text, *const Text) -> c_int;

unsafe extern "C" fn entry<const I: usize>(msg: *mut km_sip_msg, a: *const Text, b: *const Text, c: *const Text) -> c_int {
    // SAFETY: the host's arguments.
    unsafe { call(&FUNCTIONS[I], msg, [a, b, c]) }
}

/// The function of `acc` with this name, for other modules.
///
/// # Safety
/// The first arguments are the texts of the function, or null, through the call.
pub unsafe fn of_acc_by_name(name: &'static str, msg: *mut km_sip_msg, [a, b]: [*mut Text; 2]) -> c_int {
    match FUNCTIONS.iter().find(|f| f.module == "acc" && f.name == name) {
        // SAFETY: the caller's promise.
        Some(f) => unsafe { call(f, msg, [a.cast_const(), b.cast_const(), ptr::null()]) },
        None => FAILED,
    }
}

/// # Safety
/// The first arguments are the texts that the host passes to the function.
#[inline(never)]
unsafe fn call(f: &'static Function, msg: *mut km_sip_msg, arguments: [*const Text; MOST_ARGUMENTS]) -> c_int {
    let mut texts = [const { None }; MOST_ARGUMENTS];
    for (text, p) in texts.iter_mut().zip(arguments).take(f.texts) {
        // SAFETY: the host passed so many texts, which it keeps through the call (promise 9).
        *text = unsafe { p.as_ref().map(|t| t.bytes().to_vec()) };
    }
    script::function(f.name, || {
        let (at, instance) = Current::at(msg)?;
        if f.has_comment() && texts[0].as_ref().is_none_or(|comment| comment.is_empty()) {
            return Err("the comment must not be empty".into());
        }
        match f.does {
            Does::Same(name) => {
                let i = declaration::FUNCTIONS.iter().position(|f| f.name == name).ok_or("there is no such function")?;
                functions::run(i, at, instance, texts)
            }
            Does::RecordToLog => functions::record_to_log(at, instance, &texts[0].take().unwrap_or_default()),
            Does::RecordRadius => functions::record(at, instance, Backend::Aaa, &texts[0].take().unwrap_or_default(), b""),
        }
    })
}

/// Offers them to the host, module by module; while this one is loaded.
pub fn offer(symbols: &Symbols) -> bool {
    let text = |s: &str| Text { s: name(s).cast_mut(), len: s.len() as c_int };
    let entries: Vec<_> = numbered!(entry as Entry, FUNCTIONS.len()).collect();
    let list = |module: &'static str| {
        FUNCTIONS.iter().zip(&entries).filter(move |(f, _)| f.module == module).map(move |(f, entry)| km_kemi {
            mname: text(f.module),
            fname: text(f.name),
            rtype: KM_KEMI_INT as c_int,
            func: *entry as *mut _,
            ptypes: std::array::from_fn(|i| if i < f.texts { KM_KEMI_STR as c_int } else { 0 }),
        })
    };
    ["acc", "acc_radius"].into_iter().all(|module| symbols.offer(table(list(module))))
}
