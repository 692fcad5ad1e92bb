//! The same object under the file name of one of Kamailio's companion modules: it has the parameters of that
//! module and hands them to the object that is loaded as `acc.so`, which does everything. For the loader these
//! are two objects, each with its own memory, so only plain texts and numbers pass between them.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::mem::transmute;
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use once_cell::sync::OnceCell;

use super::abi::*;
use super::load::{self, Export};
use super::state::server;
use crate::declaration::PARAMS;
use crate::host::exported::{name, table};
use crate::host::guard;
use crate::host::process::{self, FAILED, OK};
use crate::host::server::numbered::numbered;
use crate::params::RawValue;

/// A companion module.
pub struct Companion {
    module: &'static str,
    /// Its parameters, each with its name in `acc`.
    params: &'static [(&'static str, &'static str)],
}

const COMPANIONS: [Companion; 3] = [
    Companion {
        module: "acc_radius",
        params: &[
            ("radius_config", "radius_config"),
            ("radius_flag", "radius_flag"),
            ("radius_missed_flag", "radius_missed_flag"),
            ("service_type", "service_type"),
            ("radius_extra", "radius_extra"),
            ("rad_time_mode", "rad_time_mode"),
        ],
    },
    Companion {
        module: "acc_diameter",
        params: &[
            ("diameter_flag", "diameter_flag"),
            ("diameter_missed_flag", "diameter_missed_flag"),
            ("diameter_client_host", "diameter_client_host"),
            ("diameter_client_port", "diameter_client_port"),
            ("diameter_extra", "diameter_extra"),
        ],
    },
    Companion {
        module: "acc_json",
        params: &[
            ("acc_flag", "json_flag"),
            ("acc_missed_flag", "json_missed_flag"),
            ("acc_extra", "json_extra"),
            ("acc_pre_encoded_prefix", "json_pre_encoded_prefix"),
            ("acc_time_mode", "json_time_mode"),
            ("acc_time_format", "json_time_format"),
            ("acc_log_level", "json_log_level"),
            ("acc_log_facility", "json_log_facility"),
            ("acc_output_mqueue", "json_output_mqueue"),
            ("acc_output_syslog", "json_output_syslog"),
            ("cdr_enable", "json_cdr_enable"),
            ("cdr_extra", "json_cdr_extra"),
            ("cdr_pre_encoded_prefix", "json_cdr_pre_encoded_prefix"),
            ("cdr_expired_dlg_enable", "json_cdr_expired_dlg_enable"),
            ("cdr_log_level", "json_cdr_log_level"),
            ("cdr_log_facility", "json_cdr_log_facility"),
            ("cdr_output_mqueue", "json_cdr_output_mqueue"),
            ("cdr_output_syslog", "json_cdr_output_syslog"),
            ("cdr_skip", "json_cdr_skip"),
        ],
    },
];

/// More parameters than any companion has.
const MOST: usize = 19;

/// The one that this object is.
static THIS: OnceCell<&'static Companion> = OnceCell::new();

/// Parameters that wait because `acc.so` is not loaded yet.
static WAITING: Mutex<Vec<(usize, RawValue)>> = Mutex::new(Vec::new());

/// The companion that this object is, by its file name.
pub fn of_file() -> Option<&'static Companion> {
    let mut info = libc::Dl_info { dli_fname: ptr::null(), dli_fbase: ptr::null_mut(), dli_sname: ptr::null(), dli_saddr: ptr::null_mut() };
    // SAFETY: looks up an address of ours; the name is a terminated text.
    let file = unsafe {
        if libc::dladdr(take as *const c_void, &raw mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        CStr::from_ptr(info.dli_fname).to_string_lossy()
    };
    let stem = Path::new(&*file).file_stem()?.to_str()?;
    COMPANIONS.iter().find(|c| c.module == stem)
}

/// Makes the tables of a companion; called inside dlopen.
pub fn fill(companion: &'static Companion) -> Export {
    let identity = load::learn();
    let _ = THIS.set(companion);
    let params = companion.params.iter().zip(numbered!(set as Setter, MOST)).flat_map(|((n, _), setter)| {
        [KM_PARAM_INT, KM_PARAM_STRING].map(|kind| km_param_export { name: name(n), type_: kind | KM_PARAM_USE_FUNC, param_pointer: setter as *mut c_void })
    });
    let exports = km_module_exports {
        name: name(companion.module),
        dlflags: 0,
        cmds: table(std::iter::empty()),
        params: table(params),
        rpc_methods: ptr::null_mut(),
        pv_items: ptr::null_mut(),
        response_f: None,
        init_mod_f: Some(init),
        init_child_f: None,
        destroy_mod_f: None,
    };
    Export { exports, version: identity.version, flags: identity.flags }
}

type Setter = unsafe extern "C" fn(c_uint, *mut c_void) -> c_int;
type Take = unsafe extern "C" fn(*const c_char, *const c_char, c_int) -> c_int;

/// `modparam("acc_radius", ...)`.
unsafe extern "C" fn set<const I: usize>(kind: c_uint, value: *mut c_void) -> c_int {
    // SAFETY: the host's value, of the kind it says.
    unsafe { keep(I, kind, value) }
}

/// # Safety
/// `value` is what the host passes, of the kind it says.
#[inline(never)]
unsafe fn keep(i: usize, kind: c_uint, value: *mut c_void) -> c_int {
    guard::entry("modparam", FAILED, || {
        // SAFETY: a string parameter comes as a terminated string (promise 2).
        let value = if kind & KM_PARAM_STRING != 0 { unsafe { process::text_of(value) } } else { RawValue::Int(value as usize as i32) };
        WAITING.lock().unwrap_or_else(PoisonError::into_inner).push((i, value));
        if is_over().is_some() { hand_over() } else { OK }
    })
}

/// The function of `acc.so` that takes parameters.
fn is_over() -> Option<Take> {
    let function = server()?.symbols.export(NAME, KM_NO_SCRIPT, 0)?;
    // SAFETY: what is exported by this name has this type: see `export`.
    Some(unsafe { transmute::<unsafe extern "C" fn(), Take>(function) })
}

/// Gives the waiting parameters to `acc.so`.
fn hand_over() -> c_int {
    let (Some(take), Some(companion)) = (is_over(), THIS.get()) else {
        log::error!("this module works only with an acc.so of the same build: load that as well");
        return FAILED;
    };
    for (i, value) in WAITING.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let Some((_, ours)) = companion.params.get(i) else { return FAILED };
        let (text, number) = match value {
            RawValue::Str(text) => (Some(CString::new(text).unwrap_or_default()), 0),
            RawValue::Int(n) => (None, n),
        };
        let Ok(ours) = CString::new(*ours) else { return FAILED };
        // SAFETY: terminated texts, which the function only reads.
        if unsafe { take(ours.as_ptr(), text.as_ref().map_or(ptr::null(), |t| t.as_ptr()), number) } != OK {
            return FAILED;
        }
    }
    OK
}

unsafe extern "C" fn init() -> c_int {
    guard::entry("init", FAILED, hand_over)
}

const NAME: &CStr = c"acc_companion";

/// What `acc.so` exports for companions.
pub fn export() -> km_cmd_export {
    // SAFETY: never called as what it is said to be: only `is_over` looks for it, and gives it its type back.
    let function = unsafe { transmute::<Take, unsafe extern "C" fn(*mut km_sip_msg, *mut c_char, *mut c_char, *mut c_char) -> c_int>(take) };
    km_cmd_export { name: NAME.as_ptr(), function: Some(function), param_no: KM_NO_SCRIPT, fixup: None, free_fixup: None, flags: 0 }
}

/// A parameter from a companion.
unsafe extern "C" fn take(parameter: *const c_char, text: *const c_char, number: c_int) -> c_int {
    // SAFETY: terminated texts of the companion, the second one only when there is one.
    let (parameter, text) =
        unsafe { (CStr::from_ptr(parameter).to_string_lossy(), (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())) };
    let Some(i) = PARAMS.iter().position(|p| p.name == parameter) else { return FAILED };
    process::set_param(i, |_| Ok(text.map_or(RawValue::Int(number), RawValue::Str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_of_a_companion_is_one_here() {
        for c in &COMPANIONS {
            assert!(c.params.len() <= MOST);
            for (_, ours) in c.params {
                assert!(PARAMS.iter().any(|p| p.name == *ours), "{ours}");
            }
        }
        assert!(of_file().is_none(), "the test is not a companion");
    }
}
