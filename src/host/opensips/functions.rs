//! The script functions: entry points, and arguments as the host hands them over.

use std::array;
use std::borrow::Cow;
use std::ffi::{c_int, c_void};

use super::abi::*;
use super::contexts::Current;
use super::state::server;
use crate::accounting::marks::{Flags, Types};
use crate::declaration::{Argument, FUNCTIONS, MOST_ARGUMENTS, Routes};
use crate::host::exported::name;
use crate::host::guard;
use crate::host::script::{self, Arguments, Body, Value};
use crate::host::server::Text;
use crate::host::server::numbered::numbered;

/// What a fixup returns to the host.
const ACCEPTED: c_int = 0;
const REFUSED: c_int = -1;
/// Marks a fixed-up argument, so that an empty set is not taken for an omitted argument.
const FIXED: usize = 1 << 16;

const BODIES: [Body<Current>; FUNCTIONS.len()] = script::bodies();

type Entry =
    unsafe extern "C" fn(*mut os_sip_msg, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void) -> c_int;
type Fixup = unsafe extern "C" fn(*mut *mut c_void) -> c_int;

/// What the host is told of every function.
pub fn exports() -> impl Iterator<Item = os_cmd_export> {
    let fixups: Vec<_> = numbered!(fixup as Fixup, FUNCTIONS.len() * MOST_ARGUMENTS).collect();
    FUNCTIONS.iter().zip(numbered!(entry as Entry, FUNCTIONS.len())).enumerate().map(move |(i, (f, function))| {
        let mut c = os_cmd_export { name: name(f.name), function: Some(function), ..Default::default() };
        c.flags = match f.routes {
            Routes::Requests | Routes::Transactions | Routes::Manual => OS_REQUEST_ROUTE | OS_FAILURE_ROUTE | OS_BRANCH_ROUTE | OS_LOCAL_ROUTE,
            Routes::All => OS_ALL_ROUTES,
        } as c_int;
        for (n, (place, (_, optional))) in c.params.iter_mut().zip(f.arguments).enumerate() {
            place.flags = (OS_CMD_PARAM_STR | if *optional { OS_CMD_PARAM_OPT } else { 0 }) as c_int;
            place.fixup = Some(fixups[i * MOST_ARGUMENTS + n]);
        }
        c
    })
}

/// The script calls `FUNCTIONS[I]`; no function has more than three arguments.
unsafe extern "C" fn entry<const I: usize>(
    msg: *mut os_sip_msg,
    a: *mut c_void,
    b: *mut c_void,
    c: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    // SAFETY: the host's arguments.
    unsafe { call(I, msg, [a, b, c]) }
}

/// # Safety
/// The arguments are those that the host passes.
#[inline(never)]
unsafe fn call(i: usize, raw: *mut os_sip_msg, arguments: [*mut c_void; MOST_ARGUMENTS]) -> c_int {
    let f = &FUNCTIONS[i];
    script::function(f.name, || {
        let (at, instance) = Current::at(raw)?;
        // SAFETY: the caller's promise.
        let values = array::from_fn(|n| f.arguments.get(n).and_then(|(argument, _)| unsafe { value(*argument, arguments[n]) }));
        BODIES[i](at, instance, &Arguments(values))
    })
}

/// The value of an argument; `None` if it was left out.
///
/// # Safety
/// `p` is what the host passes for this argument.
unsafe fn value<'a>(argument: Argument, p: *mut c_void) -> Option<Value<'a>> {
    (!p.is_null()).then(|| match argument {
        Argument::Types => Value::Types(Types(p as usize as u16)),
        Argument::Flags => Value::Flags(Flags(p as usize as u8)),
        // SAFETY: string arguments are str pointers, valid through the call (promise 9).
        Argument::Table | Argument::Comment(_) => Value::Text(Cow::Borrowed(unsafe { Text::bytes_at(p.cast()) })),
    })
}

/// Argument `I` of all functions, `MOST_ARGUMENTS` for each: checked and replaced once if it is constant,
/// otherwise in each call.
unsafe extern "C" fn fixup<const I: usize>(param: *mut *mut c_void) -> c_int {
    // SAFETY: the host's argument.
    unsafe { fix(I, param) }
}

/// # Safety
/// `param` is the place of a `str` pointer, as the host passes it.
#[inline(never)]
unsafe fn fix(i: usize, param: *mut *mut c_void) -> c_int {
    let Some((argument, _)) = FUNCTIONS[i / MOST_ARGUMENTS].arguments.get(i % MOST_ARGUMENTS) else { return REFUSED };
    let what = script::what(*argument);
    guard::entry(what, REFUSED, || {
        if matches!(argument, Argument::Table) && server().is_some_and(|s| s.symbols.process_number() != 0) {
            // In a worker the name comes from variables. If it were refused here, the host would not call the function, which
            // can still account the request.
            return ACCEPTED;
        }
        // SAFETY: the caller's promise (promise 9).
        let set = match script::check(*argument, unsafe { Text::bytes_at((*param).cast()) }) {
            Ok(Some(Value::Types(Types(set)))) => set,
            Ok(Some(Value::Flags(Flags(set)))) => set.into(),
            Ok(_) => return ACCEPTED,
            Err(e) => {
                log::error!("{what}: {e}");
                return REFUSED;
            }
        };
        // SAFETY: as above; the host keeps what we put there and hands it back.
        unsafe { *param = (FIXED | usize::from(set)) as *mut c_void };
        ACCEPTED
    })
}
