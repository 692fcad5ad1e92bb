//! Every symbol of the host, resolved once at load, so that what is missing is named in one line
//! and `cargo test` links without a host.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::abi::*;
use super::rpc;
use crate::host::database::BindMod;
use crate::host::proof;
use crate::host::server::Text;
use crate::host::server::symbols::{Program, address, symbols};
use crate::stats::Counter;
use crate::worker::port::LogSettings;

type AnyFn = unsafe extern "C" fn();
/// A callback of the host's script: before or after a route.
pub type ScriptCb = unsafe extern "C" fn(*mut km_sip_msg, c_uint, *mut c_void) -> c_int;
type CounterCb = unsafe extern "C" fn(km_counter_handle, *mut c_void) -> c_long;
type TimerCb = unsafe extern "C" fn(c_uint, *mut c_void);

symbols! {
    /// The host's functions and variables.
    pub struct Symbols {
        var log_stderr: AtomicI32;
        var log_name: AtomicPtr<c_char>;
        var log_prefix_val: AtomicPtr<Text>;
        var process_no: AtomicI32;
        var route_type: AtomicI32;
        var uid: AtomicI32;
        var gid: AtomicI32;
        var event_rt: UnsafeCell<km_route_list>;
        fn find_export(*const c_char, c_int, c_int) -> Option<AnyFn>;
        fn find_module_by_name(*const c_char) -> *mut km_sr_module;
        fn find_param_export(*mut km_sr_module, *const c_char, c_uint, *mut c_uint) -> *mut c_void;
        fn pv_cache_get(*mut Text) -> *mut km_pv_spec;
        fn pv_get_spec_value(*mut km_sip_msg, *mut km_pv_spec, *mut c_void) -> c_int;
        fn pv_parse_format(*mut Text, *mut *mut km_pv_elem) -> c_int;
        fn pv_printf_s(*mut km_sip_msg, *mut km_pv_elem, *mut Text) -> c_int;
        fn register_script_cb(ScriptCb, c_uint, *mut c_void) -> c_int;
        fn get_debug_level(*const c_char, c_int) -> c_int;
        fn get_debug_facility(*const c_char, c_int) -> c_int;
        fn register_procs(c_int) -> c_int;
        fn fork_process(c_int, *const c_char, c_int) -> c_int;
        fn cfg_register_child(c_int);
        fn cfg_child_init() -> c_int;
        fn faked_msg_get_next() -> *mut km_sip_msg;
        fn route_lookup(*mut km_route_list, *const c_char) -> c_int;
        fn run_top_route(*mut km_action, *mut km_sip_msg, *mut km_run_ctx) -> c_int;
        fn counter_register(*mut km_counter_handle, *const c_char, *const c_char, c_int, CounterCb, *mut c_void, *const c_char, c_int) -> c_int;
        fn error_text(c_int) -> *mut c_char;
        fn isflagset(*mut km_sip_msg, c_uint) -> c_int;
        fn resetflag(*mut km_sip_msg, c_uint) -> c_int;
        fn sr_kemi_modules_add(*mut km_kemi) -> c_int;
        fn register_timer(TimerCb, *mut c_void, c_uint) -> c_int;
    }
}

// SAFETY: addresses of the host's own functions and variables, valid in every thread and for the
// life of the process (promise 1).
unsafe impl Send for Symbols {}
// SAFETY: as above; the variables are read as atomics.
unsafe impl Sync for Symbols {}

/// The function that binds database modules. It is in a library of theirs; without that, none is loaded.
pub fn db_bind_mod() -> Option<BindMod> {
    // SAFETY: terminated names; a library that is not loaded is not loaded now. The symbol has this
    // type (promise 11), and stays as long as the modules that brought it.
    unsafe {
        let library = libc::dlopen(c"libsrdb1.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        let p = if library.is_null() { address(c"db_bind_mod") } else { libc::dlsym(library, c"db_bind_mod".as_ptr()) };
        if p.is_null() { None } else { Some(std::mem::transmute::<*mut c_void, BindMod>(p)) }
    }
}

/// A constant text of the host; empty when it has none of that name.
pub fn text(name: &CStr) -> &'static CStr {
    let p = address(name).cast::<c_char>().cast_const();
    // SAFETY: the ver_... symbols are terminated character arrays (promise 1).
    if p.is_null() { c"" } else { unsafe { CStr::from_ptr(p) } }
}

impl Symbols {
    /// Resolves everything; the error lists all that is missing.
    pub fn resolve() -> Result<Symbols, String> {
        let mut program = Program::default();
        // SAFETY: each symbol has the type that include/kamailio_abi.h declares for it, which
        // scripts/check-abi-kamailio compares with the host's headers (promise 1).
        unsafe { Symbols::find(|name, size| program.find(name, size)) }.ok_or_else(|| program.refusal("Kamailio"))
    }

    /// A function that another module exports with this many arguments.
    pub fn export(&self, name: &CStr, arguments: c_int, flags: u32) -> Option<AnyFn> {
        // SAFETY: find_export only reads the name (promise 1).
        unsafe { (self.find_export)(name.as_ptr(), arguments, flags as c_int) }
    }

    /// Is a module of that name loaded?
    pub fn has_module(&self, name: &CStr) -> bool {
        // SAFETY: the function only reads the name (promise 1).
        !unsafe { (self.find_module_by_name)(name.as_ptr()) }.is_null()
    }

    /// A parameter of another module that is a number, as it is now.
    pub fn number(&self, module: &CStr, parameter: &CStr) -> Option<c_int> {
        let mut kind = 0;
        // SAFETY: both only read their arguments, and take null for a module that is not loaded; the answer
        // is null or the place of an int, which stays (promise 1).
        unsafe {
            let place = (self.find_param_export)((self.find_module_by_name)(module.as_ptr()), parameter.as_ptr(), KM_PARAM_INT, &raw mut kind);
            (kind == KM_PARAM_INT).then(|| place.cast::<c_int>().as_ref().copied())?
        }
    }

    /// How the host logs now. Its levels are turned into those of [`LogSettings`].
    pub fn log_settings(&self) -> LogSettings {
        let stderr = self.log_stderr.load(Ordering::Relaxed) != 0;
        let name = self.log_name.load(Ordering::Relaxed);
        let prefix = self.log_prefix_val.load(Ordering::Relaxed);
        // SAFETY: both functions take a name and its length; the two variables are null or point
        // to strings of the host, which change only in this process (promise 1).
        unsafe {
            let level = level_from_host((self.get_debug_level)(c"acc".as_ptr(), 3));
            LogSettings {
                stderr: stderr.then_some(level),
                syslog: (!stderr).then_some(level),
                name: if name.is_null() { "kamailio".into() } else { CStr::from_ptr(name).to_string_lossy().into_owned() },
                prefix: prefix.as_ref().map_or_else(String::new, |p| String::from_utf8_lossy(p.bytes()).into_owned()),
                facility: (self.get_debug_facility)(c"acc".as_ptr(), 3),
                ..LogSettings::default()
            }
        }
    }

    /// Number of this process in the host's table.
    pub fn process_number(&self) -> i32 {
        self.process_no.load(Ordering::Relaxed)
    }

    /// The user and group that the host turns into after initialisation (0 = stays).
    pub fn later_user(&self) -> (u32, u32) {
        (self.uid.load(Ordering::Relaxed).max(0) as u32, self.gid.load(Ordering::Relaxed).max(0) as u32)
    }

    /// A variable's specification, kept by the host for ever.
    pub fn variable(&self, name: &[u8]) -> Option<*mut km_pv_spec> {
        let mut text = Text::borrow(name);
        // SAFETY: the host copies what it keeps of the name (promise 7).
        let spec = unsafe { (self.pv_cache_get)(&raw mut text) };
        (!spec.is_null()).then_some(spec)
    }

    /// Reads a variable into `room`; false when it has no value.
    pub fn read(&self, msg: *mut km_sip_msg, spec: *mut km_pv_spec, room: *mut c_void) -> bool {
        // SAFETY: msg is private to this process (promise 5), the specification comes from
        // `variable`, and the room is larger than a value of any version (promise 7).
        unsafe { (self.pv_get_spec_value)(msg, spec, room) == 0 }
    }

    /// Parses a text with variables in it; the host keeps pointers into the text.
    pub fn parse_format(&self, text: &'static [u8]) -> Option<*mut km_pv_elem> {
        let mut text = Text::borrow(text);
        let mut out = std::ptr::null_mut();
        // SAFETY: the text lives for ever (promise 7).
        let rc = unsafe { (self.pv_parse_format)(&raw mut text, &raw mut out) };
        (rc >= 0 && !out.is_null()).then_some(out)
    }

    /// The present value of such a text.
    pub fn print(&self, msg: *mut km_sip_msg, format: *mut km_pv_elem) -> Option<Vec<u8>> {
        let mut out = Text::default();
        // SAFETY: msg is the message at hand (promise 5), the format comes from `parse_format`; the
        // host answers with a buffer of its own, which is copied at once.
        unsafe { ((self.pv_printf_s)(msg, format, &raw mut out) >= 0).then(|| out.bytes().to_vec()) }
    }

    /// Calls `callback` before and after the routes named in `flags`.
    pub fn register_script(&self, callback: ScriptCb, flags: u32) -> bool {
        // SAFETY: called in mod_init (promise 2).
        unsafe { (self.register_script_cb)(callback, flags, proof::witness()) >= 0 }
    }

    /// Announces one more process; in mod_init.
    pub fn announce_process(&self) -> bool {
        // SAFETY: called in mod_init (promise 2).
        unsafe {
            (self.cfg_register_child)(1);
            (self.register_procs)(1) >= 0
        }
    }

    /// Forks that process; true in the child.
    pub fn fork(&self, description: &'static CStr) -> Result<bool, String> {
        // SAFETY: called in child_init of the main process (promise 2).
        match unsafe { (self.fork_process)(KM_PROC_NOCHLDINIT, description.as_ptr(), 0) } {
            0 => {
                // SAFETY: the first thing the announced process does.
                unsafe { (self.cfg_child_init)() };
                Ok(true)
            }
            1.. => Ok(false),
            _ => Err("the host could not fork the delivery process (see its own message above)".into()),
        }
    }

    /// The event route of that name.
    pub fn event_route(&self, name: &CStr) -> Option<*mut km_action> {
        // SAFETY: the table of event routes is complete when modules are initialised; it is only
        // read (promise 8).
        unsafe {
            let i = usize::try_from((self.route_lookup)(self.event_rt.get(), name.as_ptr())).ok()?;
            let routes = &*self.event_rt.get();
            let count = usize::try_from(routes.entries).ok()?;
            (i < count).then(|| *routes.rlist.add(i)).filter(|r| !r.is_null())
        }
    }

    /// Runs an event route on the host's own empty message.
    pub fn run_route(&self, route: *mut km_action) -> bool {
        let before = self.route_type.swap(KM_EVENT_ROUTE as i32, Ordering::Relaxed);
        // SAFETY: the route comes from `event_route`; the host makes the message and, given none,
        // the route's state (promise 8).
        let rc = unsafe {
            let msg = (self.faked_msg_get_next)();
            if msg.is_null() { -1 } else { (self.run_top_route)(route, msg, std::ptr::null_mut()) }
        };
        self.route_type.store(before, Ordering::Relaxed);
        rc >= 0
    }

    /// Announces a counter of ours.
    pub fn register_counter(&self, counter: Counter) -> bool {
        let (Ok(name), Ok(help)) = (CString::new(counter.name()), CString::new(counter.help())) else { return false };
        let mut handle = km_counter_handle::default();
        // SAFETY: called in mod_init; name and description live for ever, the rest is constant (promise 2).
        let rc = unsafe {
            (self.counter_register)(
                &raw mut handle,
                rpc::GROUP,
                name.into_raw(),
                KM_CNT_F_NO_RESET as c_int,
                rpc::counter,
                usize::from(counter.slot()) as *mut c_void,
                help.into_raw(),
                0,
            )
        };
        rc >= 0
    }

    /// Is a flag of the message set? Reads one word, so the message may be shared.
    pub fn has_flag(&self, msg: *mut km_sip_msg, flag: u32) -> bool {
        // SAFETY: msg is a request of the callback or its private copy (promise 5).
        !msg.is_null() && unsafe { (self.isflagset)(msg, flag) } == 1
    }

    /// The phrase that the host sends with this code.
    pub fn phrase(&self, code: u16) -> &'static [u8] {
        // SAFETY: a terminated constant of the host for every number (promise 1).
        unsafe {
            let text = (self.error_text)(code.into());
            if text.is_null() { b"" } else { CStr::from_ptr(text).to_bytes() }
        }
    }

    /// Resets a flag of a private message.
    pub fn reset_flag(&self, msg: *mut km_sip_msg, flag: u32) {
        // SAFETY: as above.
        unsafe { (self.resetflag)(msg, flag) };
    }

    /// Is a route of this kind running?
    pub fn runs(&self, route: u32) -> bool {
        self.route_type.load(Ordering::Relaxed) == route as i32
    }

    /// The host's own message, with nothing of a call in it.
    pub fn dummy(&self) -> *mut km_sip_msg {
        // SAFETY: it belongs to this process (promise 8).
        unsafe { (self.faked_msg_get_next)() }
    }

    /// Offers functions to scripts in other languages; while the module is loaded.
    pub fn offer(&self, list: *mut km_kemi) -> bool {
        // SAFETY: the list ends with an empty element and lives for ever (promise 9).
        unsafe { (self.sr_kemi_modules_add)(list) == 0 }
    }

    /// Runs `callback` every `seconds` in one of the host's processes.
    pub fn every(&self, seconds: u32, callback: TimerCb) -> bool {
        // SAFETY: called in mod_init (promise 2).
        unsafe { (self.register_timer)(callback, std::ptr::null_mut(), seconds) >= 0 }
    }
}

/// Levels of Kamailio.
pub const LEVELS: std::ops::RangeInclusive<i32> = KM_L_ALERT..=KM_L_DBG as i32;

/// Level of the crate (which counts as OpenSIPS does) for one of Kamailio's.
pub const fn level_from_host(level: i32) -> i32 {
    if level >= KM_L_WARN as i32 {
        level + 1
    } else if level < -3 {
        // Both of Kamailio's levels below critical are alerts.
        -3
    } else {
        level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_keep_their_names() {
        use crate::backend::log::level_name;
        use crate::params::in_range;
        let names = [(KM_L_ERR, "ERROR"), (KM_L_WARN as i32, "WARNING"), (KM_L_NOTICE as i32, "NOTICE"), (KM_L_INFO as i32, "INFO"), (KM_L_DBG as i32, "DBG")];
        for (host, name) in names {
            assert_eq!(level_name(level_from_host(host)), name);
        }
        for level in LEVELS {
            assert!(in_range("log_level", level_from_host(level), -3..=4).is_ok(), "{level}");
        }
    }
}
