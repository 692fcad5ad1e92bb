//! Every symbol of the host, resolved once at load, so that what is missing is named in one line
//! and `cargo test` links without a host.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::abi::*;
use super::rpc;
use crate::host::LogSettings;
use crate::host::database::BindMod;
use crate::stats::Counter;

type AnyFn = unsafe extern "C" fn();
/// A callback of the host's script: before or after a route.
pub type ScriptCb = unsafe extern "C" fn(*mut km_sip_msg, c_uint, *mut c_void) -> c_int;
type CounterCb = unsafe extern "C" fn(km_counter_handle, *mut c_void) -> c_long;
type TimerCb = unsafe extern "C" fn(c_uint, *mut c_void);

/// The host's functions and variables.
pub struct Symbols {
    log_stderr: &'static AtomicI32,
    log_name: &'static AtomicPtr<c_char>,
    log_prefix_val: &'static AtomicPtr<km_str>,
    process_no: &'static AtomicI32,
    route_type: &'static AtomicI32,
    uid: &'static AtomicI32,
    gid: &'static AtomicI32,
    event_rt: *mut km_route_list,
    find_export: unsafe extern "C" fn(*const c_char, c_int, c_int) -> Option<AnyFn>,
    pv_cache_get: unsafe extern "C" fn(*mut km_str) -> *mut km_pv_spec,
    pv_get_spec_value: unsafe extern "C" fn(*mut km_sip_msg, *mut km_pv_spec, *mut c_void) -> c_int,
    pv_parse_format: unsafe extern "C" fn(*mut km_str, *mut *mut km_pv_elem) -> c_int,
    pv_printf_s: unsafe extern "C" fn(*mut km_sip_msg, *mut km_pv_elem, *mut km_str) -> c_int,
    register_script_cb: unsafe extern "C" fn(ScriptCb, c_uint, *mut c_void) -> c_int,
    get_debug_level: unsafe extern "C" fn(*const c_char, c_int) -> c_int,
    get_debug_facility: unsafe extern "C" fn(*const c_char, c_int) -> c_int,
    register_procs: unsafe extern "C" fn(c_int) -> c_int,
    fork_process: unsafe extern "C" fn(c_int, *const c_char, c_int) -> c_int,
    cfg_register_child: unsafe extern "C" fn(c_int),
    cfg_child_init: unsafe extern "C" fn() -> c_int,
    faked_msg: unsafe extern "C" fn() -> *mut km_sip_msg,
    route_lookup: unsafe extern "C" fn(*mut km_route_list, *const c_char) -> c_int,
    run_top_route: unsafe extern "C" fn(*mut km_action, *mut km_sip_msg, *mut km_run_ctx) -> c_int,
    counter_register: unsafe extern "C" fn(*mut km_counter_handle, *const c_char, *const c_char, c_int, CounterCb, *mut c_void, *const c_char, c_int) -> c_int,
    register_timer: unsafe extern "C" fn(TimerCb, *mut c_void, c_uint) -> c_int,
}

// SAFETY: addresses of the host's own functions and variables, valid in every thread and for the
// life of the process (promise 1).
unsafe impl Send for Symbols {}
// SAFETY: as above; the variables are read as atomics.
unsafe impl Sync for Symbols {}

fn address(name: &CStr) -> *mut c_void {
    // SAFETY: dlsym with a terminated name; RTLD_DEFAULT searches the program first.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// What binds database modules. It stands in a library of theirs: not there, none is loaded.
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
        let mut missing = Vec::new();
        macro_rules! find {
            ($name:literal) => {{
                let p = address($name);
                if p.is_null() {
                    missing.push($name.to_string_lossy().into_owned());
                }
                p
            }};
        }
        let variables = [
            find!(c"log_stderr"),
            find!(c"log_name"),
            find!(c"log_prefix_val"),
            find!(c"process_no"),
            find!(c"route_type"),
            find!(c"event_rt"),
            find!(c"uid"),
            find!(c"gid"),
        ];
        let functions = [
            find!(c"find_export"),
            find!(c"pv_cache_get"),
            find!(c"pv_get_spec_value"),
            find!(c"pv_parse_format"),
            find!(c"pv_printf_s"),
            find!(c"register_script_cb"),
            find!(c"get_debug_level"),
            find!(c"get_debug_facility"),
            find!(c"register_procs"),
            find!(c"fork_process"),
            find!(c"cfg_register_child"),
            find!(c"cfg_child_init"),
            find!(c"faked_msg_get_next"),
            find!(c"route_lookup"),
            find!(c"run_top_route"),
            find!(c"register_timer"),
            find!(c"counter_register"),
        ];
        if !missing.is_empty() {
            return Err(format!(
                "this server does not offer {}, which this acc module needs: it is not one of the supported Kamailio versions",
                missing.join(", ")
            ));
        }
        // SAFETY: none is null, and each symbol has the type that include/kamailio_abi.h declares
        // for it (promise 1).
        unsafe {
            Ok(Symbols {
                log_stderr: &*variables[0].cast(),
                log_name: &*variables[1].cast(),
                log_prefix_val: &*variables[2].cast(),
                process_no: &*variables[3].cast(),
                route_type: &*variables[4].cast(),
                event_rt: variables[5].cast(),
                uid: &*variables[6].cast(),
                gid: &*variables[7].cast(),
                find_export: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, c_int, c_int) -> Option<AnyFn>>(functions[0]),
                pv_cache_get: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut km_str) -> *mut km_pv_spec>(functions[1]),
                pv_get_spec_value: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut km_sip_msg, *mut km_pv_spec, *mut c_void) -> c_int>(
                    functions[2],
                ),
                pv_parse_format: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut km_str, *mut *mut km_pv_elem) -> c_int>(functions[3]),
                pv_printf_s: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut km_sip_msg, *mut km_pv_elem, *mut km_str) -> c_int>(functions[4]),
                register_script_cb: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(ScriptCb, c_uint, *mut c_void) -> c_int>(functions[5]),
                get_debug_level: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, c_int) -> c_int>(functions[6]),
                get_debug_facility: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, c_int) -> c_int>(functions[7]),
                register_procs: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> c_int>(functions[8]),
                fork_process: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int, *const c_char, c_int) -> c_int>(functions[9]),
                cfg_register_child: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int)>(functions[10]),
                cfg_child_init: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(functions[11]),
                faked_msg: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *mut km_sip_msg>(functions[12]),
                route_lookup: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut km_route_list, *const c_char) -> c_int>(functions[13]),
                run_top_route: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut km_action, *mut km_sip_msg, *mut km_run_ctx) -> c_int>(
                    functions[14],
                ),
                counter_register: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*mut km_counter_handle, *const c_char, *const c_char, c_int, CounterCb, *mut c_void, *const c_char, c_int) -> c_int,
                >(functions[16]),
                register_timer: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(TimerCb, *mut c_void, c_uint) -> c_int>(functions[15]),
            })
        }
    }

    /// A function that another module exports, with so many arguments.
    pub fn export(&self, name: &CStr, arguments: c_int, flags: u32) -> Option<AnyFn> {
        // SAFETY: find_export only reads the name (promise 1).
        unsafe { (self.find_export)(name.as_ptr(), arguments, flags as c_int) }
    }

    /// How the host logs now. Its levels are turned into those of [`LogSettings`].
    pub fn log_settings(&self) -> LogSettings {
        let stderr = self.log_stderr.load(Ordering::Relaxed) != 0;
        let name = self.log_name.load(Ordering::Relaxed);
        let prefix = self.log_prefix_val.load(Ordering::Relaxed);
        // SAFETY: both functions take a name and its length; the two variables are null or point
        // to strings of the host, which change only in this process (promise 1).
        unsafe {
            LogSettings {
                level: level_from_host((self.get_debug_level)(c"acc".as_ptr(), 3)),
                stderr,
                syslog: !stderr,
                name: if name.is_null() { "kamailio".into() } else { CStr::from_ptr(name).to_string_lossy().into_owned() },
                prefix: prefix.as_ref().map_or_else(String::new, |p| String::from_utf8_lossy(p.bytes()).into_owned()),
                facility: (self.get_debug_facility)(c"acc".as_ptr(), 3),
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
        let mut text = km_str::borrow(name);
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
        let mut text = km_str::borrow(text);
        let mut out = std::ptr::null_mut();
        // SAFETY: the text lives for ever (promise 7).
        let rc = unsafe { (self.pv_parse_format)(&raw mut text, &raw mut out) };
        (rc >= 0 && !out.is_null()).then_some(out)
    }

    /// The present value of such a text.
    pub fn print(&self, msg: *mut km_sip_msg, format: *mut km_pv_elem) -> Option<Vec<u8>> {
        let mut out = km_str::default();
        // SAFETY: msg is the message at hand (promise 5), the format comes from `parse_format`; the
        // host answers with a buffer of its own, which is copied at once.
        unsafe { ((self.pv_printf_s)(msg, format, &raw mut out) >= 0).then(|| out.bytes().to_vec()) }
    }

    /// Calls `callback` before and after the routes named in `flags`.
    pub fn register_script(&self, callback: ScriptCb, flags: u32) -> bool {
        // SAFETY: called in mod_init (promise 2).
        unsafe { (self.register_script_cb)(callback, flags, std::ptr::null_mut()) >= 0 }
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
            let i = usize::try_from((self.route_lookup)(self.event_rt, name.as_ptr())).ok()?;
            let routes = &*self.event_rt;
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
            let msg = (self.faked_msg)();
            if msg.is_null() { -1 } else { (self.run_top_route)(route, msg, std::ptr::null_mut()) }
        };
        self.route_type.store(before, Ordering::Relaxed);
        rc >= 0
    }

    /// Announces a counter of ours.
    pub fn register_counter(&self, counter: Counter) -> bool {
        let Ok(name) = CString::new(counter.name()) else { return false };
        let mut handle = km_counter_handle::default();
        // SAFETY: called in mod_init; the name lives for ever, the rest is constant (promise 2).
        let rc = unsafe {
            (self.counter_register)(
                &raw mut handle,
                rpc::GROUP,
                name.into_raw(),
                KM_CNT_F_NO_RESET as c_int,
                rpc::counter,
                counter as usize as *mut c_void,
                c"see README.md, Counters".as_ptr(),
                0,
            )
        };
        rc >= 0
    }

    /// Runs `callback` every `seconds` in one of the host's processes.
    pub fn every(&self, seconds: u32, callback: TimerCb) -> bool {
        // SAFETY: called in mod_init (promise 2).
        unsafe { (self.register_timer)(callback, std::ptr::null_mut(), seconds) >= 0 }
    }
}

/// Level of the crate (which counts as OpenSIPS does) for one of Kamailio's.
pub const fn level_from_host(level: i32) -> i32 {
    if level >= KM_L_WARN as i32 { level + 1 } else { level }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_keep_their_names() {
        use crate::backend::log::level_name;
        let names = [(KM_L_ERR, "ERROR"), (KM_L_WARN as i32, "WARNING"), (KM_L_NOTICE as i32, "NOTICE"), (KM_L_INFO as i32, "INFO"), (KM_L_DBG as i32, "DBG")];
        for (host, name) in names {
            assert_eq!(level_name(level_from_host(host)), name);
        }
    }
}
