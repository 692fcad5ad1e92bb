//! The functions as scripts in other languages call them (KEMI): `KSR.acc.do_accounting("log")`. Such a
//! function has a fixed number of parameters, which are plain values: variables in them are not evaluated.

use std::ffi::c_int;
use std::ptr;
use std::sync::LazyLock;

use super::abi::*;
use super::contexts::Current;
use super::functions;
use super::symbols::Symbols;
use crate::accounting::record::Backend;
use crate::declaration::{Argument, FUNCTIONS, MOST_ARGUMENTS};
use crate::host::exported::{name, table};
use crate::host::process::FAILED;
use crate::host::script;
use crate::host::server::Text;
use crate::host::server::numbered::numbered;

/// What a function does.
#[derive(Clone, Copy)]
enum Does {
    /// As the declared function with this number.
    Declared(usize),
    /// As `acc_request()`.
    RecordToLog,
    /// As `acc_rad_request()`.
    RecordRadius,
}

#[derive(Clone, Copy)]
struct Function {
    module: &'static str,
    name: &'static str,
    texts: usize,
    does: Does,
}

impl Function {
    /// Is the first text the comment of a record? In the native script the server refuses an empty one at its start.
    fn has_comment(&self) -> bool {
        match self.does {
            Does::Declared(i) => matches!(FUNCTIONS[i].arguments.first(), Some((Argument::Comment(_), _))),
            Does::RecordToLog | Does::RecordRadius => true,
        }
    }
}

/// Functions of Kamailio's own modules that OpenSIPS does not have.
const OF_KAMAILIO: [Function; 3] = [
    Function { module: "acc", name: "acc_request", texts: 2, does: Does::RecordToLog },
    Function { module: "acc", name: "acc_rad_request", texts: 1, does: Does::RecordRadius },
    Function { module: "acc_radius", name: "request", texts: 1, does: Does::RecordRadius },
];

/// How many there are: one for each number of arguments that a declared function may have, and [`OF_KAMAILIO`].
const COUNT: usize = {
    let (mut count, mut i) = (OF_KAMAILIO.len(), 0);
    while i < FUNCTIONS.len() {
        let (arguments, mut n) = (FUNCTIONS[i].arguments, 0);
        count += 1;
        while n < arguments.len() {
            count += arguments[n].1 as usize;
            n += 1;
        }
        i += 1;
    }
    count
};

/// The end of a function's name that says which optional argument is the last one.
const fn end(argument: Argument) -> &'static str {
    match argument {
        Argument::Types => "types",
        Argument::Flags => "flags",
        Argument::Table => "table",
        Argument::Comment(_) => "comment",
    }
}

/// Every function; made while the module is loaded. Of a declared one with optional arguments there is one for each number of
/// arguments: `do_accounting`, `do_accounting_flags`, `do_accounting_table`.
static ALL: LazyLock<Vec<Function>> = LazyLock::new(|| {
    let declared = FUNCTIONS.iter().enumerate().flat_map(|(i, f)| {
        let least = f.arguments.iter().filter(|(_, optional)| !optional).count();
        (least..=f.arguments.len()).map(move |texts| {
            let name = match f.arguments[..texts].last() {
                Some((argument, true)) => format!("{}_{}", f.name, end(*argument)).leak(),
                _ => f.name,
            };
            Function { module: "acc", name, texts, does: Does::Declared(i) }
        })
    });
    declared.chain(OF_KAMAILIO).collect()
});

/// What the host calls: it passes as many texts as the function has.
type Entry = unsafe extern "C" fn(*mut km_sip_msg, *const Text, *const Text, *const Text) -> c_int;

unsafe extern "C" fn entry<const I: usize>(msg: *mut km_sip_msg, a: *const Text, b: *const Text, c: *const Text) -> c_int {
    match ALL.get(I) {
        // SAFETY: the host's arguments.
        Some(f) => unsafe { call(f, msg, [a, b, c]) },
        None => FAILED,
    }
}

/// The function of `acc` with this name, for other modules.
///
/// # Safety
/// The first arguments are the texts of the function, or null, through the call.
pub unsafe fn of_acc_by_name(name: &'static str, msg: *mut km_sip_msg, [a, b]: [*mut Text; 2]) -> c_int {
    match ALL.iter().find(|f| f.module == "acc" && f.name == name) {
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
        // SAFETY: the host passed this many texts, which it keeps through the call (promise 9).
        *text = unsafe { p.as_ref().map(|t| t.bytes().to_vec()) };
    }
    script::function(f.name, || {
        let (at, instance) = Current::at(msg)?;
        if f.has_comment() && texts[0].as_ref().is_none_or(|comment| comment.is_empty()) {
            return Err("the comment must not be empty".into());
        }
        match f.does {
            Does::Declared(i) => functions::run(i, at, instance, texts),
            Does::RecordToLog => functions::record_to_log(at, instance, &texts[0].take().unwrap_or_default()),
            Does::RecordRadius => functions::record(at, instance, Backend::Aaa, &texts[0].take().unwrap_or_default(), b""),
        }
    })
}

/// Offers the functions to the host, module by module; called while this module is loaded.
pub fn offer(symbols: &Symbols) -> bool {
    let text = |s: &str| Text { s: name(s).cast_mut(), len: s.len() as c_int };
    let entries: Vec<_> = numbered!(entry as Entry, COUNT).collect();
    let list = |module: &'static str| {
        ALL.iter().zip(&entries).filter(move |(f, _)| f.module == module).map(move |(f, entry)| km_kemi {
            mname: text(f.module),
            fname: text(f.name),
            rtype: KM_KEMI_INT as c_int,
            func: *entry as *mut _,
            ptypes: std::array::from_fn(|i| if i < f.texts { KM_KEMI_STR as c_int } else { 0 }),
        })
    };
    ["acc", "acc_radius"].into_iter().all(|module| symbols.offer(table(list(module))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_arguments_has_a_name() {
        let names: Vec<_> = ALL.iter().filter(|f| f.name.contains("_accounting")).map(|f| (f.name, f.texts)).collect();
        let dropping = [("drop_accounting", 0), ("drop_accounting_types", 1), ("drop_accounting_flags", 2)];
        assert_eq!(names, [&[("do_accounting", 1), ("do_accounting_flags", 2), ("do_accounting_table", 3)][..], &dropping].concat());
        assert!(ALL.iter().any(|f| f.name == "acc_db_request" && f.texts == 2 && f.has_comment()));
        assert_eq!(ALL.len(), COUNT);
    }
}
