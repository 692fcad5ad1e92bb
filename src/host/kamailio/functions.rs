//! The script functions: entry points, and arguments as the host hands them over.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::*;
use super::contexts::Current;
use super::state::server;
use super::{arguments, flags};
use crate::accounting::record::Backend;
use crate::declaration::{Argument, FUNCTIONS, MOST_ARGUMENTS, Routes};
use crate::host::exported::name;
use crate::host::script::{self, Arguments, Body};
use crate::host::server::numbered::numbered;
use crate::worker::Instance;

const BODIES: [Body<Current>; FUNCTIONS.len()] = script::bodies();

const OF_REQUESTS: u32 = KM_REQUEST_ROUTE | KM_FAILURE_ROUTE | KM_BRANCH_ROUTE | KM_LOCAL_ROUTE | KM_BRANCH_FAILURE_ROUTE;

type Entry = unsafe extern "C" fn(*mut km_sip_msg, *mut c_char, *mut c_char, *mut c_char) -> c_int;
type Fixup = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;

/// One export for each number of arguments a function may be called with.
pub fn exports() -> impl Iterator<Item = km_cmd_export> {
    let of_kamailio = OF_KAMAILIO.map(|(n, count, function)| km_cmd_export {
        name: name(n),
        function: Some(function),
        param_no: count,
        fixup: Some(fixup_manual),
        free_fixup: Some(arguments::free),
        flags: KM_ANY_ROUTE,
    });
    of_both().chain(of_kamailio)
}

/// Functions of Kamailio's own modules that OpenSIPS does not have.
const OF_KAMAILIO: [(&str, c_int, Entry); 2] = [("acc_request", 2, acc_request), ("acc_rad_request", 1, acc_rad_request)];

fn of_both() -> impl Iterator<Item = km_cmd_export> {
    let entries = numbered!(entry as Entry, FUNCTIONS.len()).zip(numbered!(entry_3 as Entry, FUNCTIONS.len()));
    FUNCTIONS.iter().zip(entries).zip(numbered!(fixup as Fixup, FUNCTIONS.len())).flat_map(|((f, (two, three)), fixup)| {
        let least = f.arguments.iter().filter(|(_, optional)| !optional).count();
        (least..=f.arguments.len()).map(move |n| km_cmd_export {
            name: name(f.name),
            function: Some(if n > 2 { three } else { two }),
            param_no: n as c_int,
            fixup: (n > 0).then_some(fixup),
            free_fixup: (n > 0).then_some(arguments::free as Fixup),
            flags: match f.routes {
                Routes::Requests => OF_REQUESTS,
                Routes::Transactions => OF_REQUESTS | KM_TM_ONREPLY_ROUTE,
                Routes::Manual | Routes::All => KM_ANY_ROUTE,
            },
        })
    })
}

/// The script calls `FUNCTIONS[I]` with up to two arguments: then the host passes only two.
unsafe extern "C" fn entry<const I: usize>(msg: *mut km_sip_msg, a: *mut c_char, b: *mut c_char, _: *mut c_char) -> c_int {
    call(I, msg, [a, b, std::ptr::null_mut()])
}

/// As `entry`, with three.
unsafe extern "C" fn entry_3<const I: usize>(msg: *mut km_sip_msg, a: *mut c_char, b: *mut c_char, c: *mut c_char) -> c_int {
    call(I, msg, [a, b, c])
}

#[inline(never)]
fn call(i: usize, raw: *mut km_sip_msg, arguments: [*mut c_char; MOST_ARGUMENTS]) -> c_int {
    script::function(FUNCTIONS[i].name, || {
        let (at, instance) = Current::at(raw)?;
        let mut texts = [const { None }; MOST_ARGUMENTS];
        for (text, p) in texts.iter_mut().zip(arguments) {
            *text = arguments::value(at.server, raw, p)?;
        }
        run(i, at, instance, texts)
    })
}

/// Runs `FUNCTIONS[i]` with the texts of its arguments; `None` for those that were left out.
pub fn run(i: usize, at: Current, instance: &'static Instance, texts: [Option<Vec<u8>>; MOST_ARGUMENTS]) -> Result<(), String> {
    if let Some((Argument::Comment(backend), _)) = FUNCTIONS[i].arguments.first() {
        let [comment, table, _] = texts.map(Option::unwrap_or_default);
        return record(at, instance, *backend, &comment, &table);
    }
    let mut values = [const { None }; MOST_ARGUMENTS];
    for ((value, text), (argument, _)) in values.iter_mut().zip(texts).zip(FUNCTIONS[i].arguments) {
        *value = text.map(|t| script::read(*argument, t)).transpose()?;
    }
    BODIES[i](at, instance, &Arguments(values))
}

/// Argument `n` of `FUNCTIONS[I]`.
unsafe extern "C" fn fixup<const I: usize>(param: *mut *mut c_void, n: c_int) -> c_int {
    // SAFETY: the host passes the place of an argument's text (promise 9).
    unsafe { fix(I, param, n) }
}

/// # Safety
/// `param` is the place of an argument's text.
#[inline(never)]
unsafe fn fix(i: usize, param: *mut *mut c_void, n: c_int) -> c_int {
    let argument = usize::try_from(n - 1).ok().and_then(|n| FUNCTIONS[i].arguments.get(n));
    let Some((argument, _)) = argument else { return arguments::REFUSED };
    let check = |text: &[u8]| match argument {
        Argument::Comment(_) if text.is_empty() => Err("it must not be empty".into()),
        // SQL may be off: then the call is an error, not the start, as in Kamailio's own module.
        Argument::Comment(Backend::Db) => Ok(()),
        _ => script::check(*argument, text).map(drop),
    };
    // SAFETY: the caller's promise.
    unsafe { arguments::fixup(server(), script::what(*argument), param, check) }
}

/// Makes a record at once. It has the shape of message flags if there is no current context of `do_accounting()` or
/// `$acc_extra()`, and if the backend has a message flag or extras for flags, or no other fields are declared.
pub fn record(at: Current, instance: &'static Instance, backend: Backend, comment: &[u8], table: &[u8]) -> Result<(), String> {
    let config = &instance.config;
    let by_flags = config.flags.shaped.has(backend) || config.rules.fields.has_no_tags();
    if by_flags && script::find(at).is_none() {
        return flags::manual(at, instance, backend, comment, table);
    }
    script::manual(at, instance, backend, comment, table)
}

/// `acc_request()`: writes to the log only, whatever table is named. Kamailio documents a row as well, but its own module
/// loses the name of the table on the way; scripts that want a row also call `acc_db_request()`, and must not get two rows.
pub fn record_to_log(at: Current, instance: &'static Instance, comment: &[u8]) -> Result<(), String> {
    static SAID: AtomicBool = AtomicBool::new(false);
    if instance.config.db().is_some() && !SAID.swap(true, Ordering::Relaxed) {
        log::warn!("acc_request() writes to the log only, as Kamailio's own module does: call acc_db_request() for a row");
    }
    record(at, instance, Backend::Log, comment, b"")
}

/// A record with a comment, and a table for SQL.
type Manual = fn(Current, &'static Instance, &[u8], &[u8]) -> Result<(), String>;

/// Runs one of [`OF_KAMAILIO`].
fn of_kamailio(name: &'static str, raw: *mut km_sip_msg, [comment, table]: [*mut c_char; 2], body: Manual) -> c_int {
    script::function(name, || {
        let (at, instance) = Current::at(raw)?;
        let text = |p| arguments::value(at.server, raw, p).map(Option::unwrap_or_default);
        body(at, instance, &text(comment)?, &text(table)?)
    })
}

unsafe extern "C" fn acc_request(msg: *mut km_sip_msg, comment: *mut c_char, table: *mut c_char, _: *mut c_char) -> c_int {
    of_kamailio("acc_request", msg, [comment, table], |at, instance, comment, _| record_to_log(at, instance, comment))
}

unsafe extern "C" fn acc_rad_request(msg: *mut km_sip_msg, comment: *mut c_char, _: *mut c_char, _: *mut c_char) -> c_int {
    of_kamailio("acc_rad_request", msg, [comment, std::ptr::null_mut()], |at, instance, comment, _| record(at, instance, Backend::Aaa, comment, b""))
}

unsafe extern "C" fn fixup_manual(param: *mut *mut c_void, n: c_int) -> c_int {
    // No table is used: see `record_to_log`.
    let check = |text: &[u8]| if n == 1 && text.is_empty() { Err("it must not be empty".into()) } else { Ok(()) };
    // SAFETY: the host passes the place of an argument's text (promise 9).
    unsafe { arguments::fixup(server(), if n == 1 { "accounting comment" } else { "accounting table" }, param, check) }
}
