//! Every symbol of the host, resolved once at load, so that what is missing is named in one line
//! and `cargo test` links without a host.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::abi::*;
use crate::host::database::BindMod;

/// The host's functions and variables.
pub struct Symbols {
    pub modules: &'static AtomicPtr<os_sr_module>,
    log_level: &'static AtomicPtr<AtomicI32>,
    log_facility: &'static AtomicI32,
    log_name: &'static AtomicPtr<c_char>,
    log_prefix: &'static AtomicPtr<c_char>,
    stderr_enabled: &'static AtomicI32,
    syslog_enabled: &'static AtomicI32,
    process_no: &'static AtomicI32,
    db_default_url: &'static AtomicPtr<c_char>,
    current_processing_ctx: &'static AtomicPtr<c_void>,
    type_offsets: *const [[c_uint; OS_CONTEXT_COUNT_TYPE as usize]; OS_CONTEXT_COUNT as usize],
    pub core_scm_ver: &'static os_scm_version,
    user: &'static AtomicPtr<c_char>,
    group: &'static AtomicPtr<c_char>,
    user2uid: unsafe extern "C" fn(*mut c_int, *mut c_int, *mut c_char) -> c_int,
    group2gid: unsafe extern "C" fn(*mut c_int, *mut c_char) -> c_int,
    find_export: unsafe extern "C" fn(*const c_char, c_int) -> os_cmd_fn,
    pub pv_parse_spec: unsafe extern "C" fn(*const os_str, *mut os_pv_spec) -> *mut c_char,
    pub pv_get_spec_value: unsafe extern "C" fn(*mut os_sip_msg, *mut os_pv_spec, *mut os_pv_value) -> c_int,
    context_register_ptr: unsafe extern "C" fn(os_context, os_context_destroy_fn) -> c_int,
    pub evi_publish_event: unsafe extern "C" fn(os_str) -> os_event_id,
    pub evi_probe_event: unsafe extern "C" fn(os_event_id) -> c_int,
    pub evi_raise_event: unsafe extern "C" fn(os_event_id, *mut os_evi_params) -> c_int,
    pub(super) init_mi_result_object: unsafe extern "C" fn(*mut *mut os_mi_item) -> *mut os_mi_response,
    pub(super) add_mi_array: unsafe extern "C" fn(*mut os_mi_item, *mut c_char, c_int) -> *mut os_mi_item,
    pub(super) add_mi_object: unsafe extern "C" fn(*mut os_mi_item, *mut c_char, c_int) -> *mut os_mi_item,
    pub(super) add_mi_string: unsafe extern "C" fn(*mut os_mi_item, *mut c_char, c_int, *const c_char, c_int) -> c_int,
    pub(super) add_mi_number: unsafe extern "C" fn(*mut os_mi_item, *mut c_char, c_int, f64) -> c_int,
    register_timer: unsafe extern "C" fn(*mut c_char, os_timer_fn, *mut c_void, c_uint, std::ffi::c_ushort) -> c_int,
    register_script_cb: unsafe extern "C" fn(os_script_cb_fn, c_int, *mut c_void, c_int) -> c_int,
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

/// What binds database modules; only needed when `db_url` is left to one of them.
pub fn db_bind_mod() -> Option<BindMod> {
    let p = address(c"db_bind_mod");
    // SAFETY: the symbol has this type (promise 11).
    if p.is_null() { None } else { Some(unsafe { std::mem::transmute::<*mut c_void, BindMod>(p) }) }
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
        let found = (
            find!(c"modules"),
            find!(c"log_level"),
            find!(c"log_facility"),
            find!(c"log_name"),
            find!(c"log_prefix"),
            find!(c"stderr_enabled"),
            find!(c"syslog_enabled"),
            find!(c"process_no"),
            find!(c"db_default_url"),
            find!(c"current_processing_ctx"),
            find!(c"type_offsets"),
            find!(c"core_scm_ver"),
            find!(c"user"),
            find!(c"group"),
        );
        let functions = (
            find!(c"find_export"),
            find!(c"pv_parse_spec"),
            find!(c"pv_get_spec_value"),
            find!(c"context_register_ptr"),
            find!(c"evi_publish_event"),
            find!(c"evi_probe_event"),
            find!(c"evi_raise_event"),
            find!(c"register_timer"),
            find!(c"user2uid"),
            find!(c"group2gid"),
            find!(c"__register_script_cb"),
        );
        let answers = (find!(c"init_mi_result_object"), find!(c"add_mi_array"), find!(c"add_mi_object"), find!(c"add_mi_string"), find!(c"add_mi_number"));
        if !missing.is_empty() {
            return Err(format!(
                "this server does not offer {}, which this acc module needs: it is not one of the supported OpenSIPS versions",
                missing.join(", ")
            ));
        }
        // SAFETY: none is null, and each symbol has the type that include/opensips_abi.h declares
        // for it, which scripts/check-abi compares with the host's headers (promise 1).
        unsafe {
            Ok(Symbols {
                modules: &*found.0.cast(),
                log_level: &*found.1.cast(),
                log_facility: &*found.2.cast(),
                log_name: &*found.3.cast(),
                log_prefix: &*found.4.cast(),
                stderr_enabled: &*found.5.cast(),
                syslog_enabled: &*found.6.cast(),
                process_no: &*found.7.cast(),
                db_default_url: &*found.8.cast(),
                current_processing_ctx: &*found.9.cast(),
                type_offsets: found.10.cast_const().cast(),
                core_scm_ver: &*found.11.cast(),
                user: &*found.12.cast(),
                group: &*found.13.cast(),
                find_export: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, c_int) -> os_cmd_fn>(functions.0),
                pv_parse_spec: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const os_str, *mut os_pv_spec) -> *mut c_char>(functions.1),
                pv_get_spec_value: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut os_sip_msg, *mut os_pv_spec, *mut os_pv_value) -> c_int>(
                    functions.2,
                ),
                context_register_ptr: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(os_context, os_context_destroy_fn) -> c_int>(functions.3),
                evi_publish_event: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(os_str) -> os_event_id>(functions.4),
                evi_probe_event: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(os_event_id) -> c_int>(functions.5),
                evi_raise_event: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(os_event_id, *mut os_evi_params) -> c_int>(functions.6),
                init_mi_result_object: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut *mut os_mi_item) -> *mut os_mi_response>(answers.0),
                add_mi_array: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut os_mi_item, *mut c_char, c_int) -> *mut os_mi_item>(answers.1),
                add_mi_object: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut os_mi_item, *mut c_char, c_int) -> *mut os_mi_item>(answers.2),
                add_mi_string: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut os_mi_item, *mut c_char, c_int, *const c_char, c_int) -> c_int>(
                    answers.3,
                ),
                add_mi_number: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut os_mi_item, *mut c_char, c_int, f64) -> c_int>(answers.4),
                register_timer: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*mut c_char, os_timer_fn, *mut c_void, c_uint, std::ffi::c_ushort) -> c_int,
                >(functions.7),
                user2uid: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_int, *mut c_int, *mut c_char) -> c_int>(functions.8),
                group2gid: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_int, *mut c_char) -> c_int>(functions.9),
                register_script_cb: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(os_script_cb_fn, c_int, *mut c_void, c_int) -> c_int>(functions.10),
            })
        }
    }

    /// A function that another module exports for modules ("load_tm", ...).
    pub fn export(&self, name: &CStr) -> os_cmd_fn {
        // SAFETY: find_export only reads the name (promise 1).
        unsafe { (self.find_export)(name.as_ptr(), 0) }
    }

    fn text(p: &AtomicPtr<c_char>) -> String {
        let p = p.load(Ordering::Relaxed);
        if p.is_null() {
            return String::new();
        }
        // SAFETY: the host's string variables are terminated and never freed while it runs (promise 1).
        unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
    }

    /// How the host logs now.
    pub fn log_settings(&self) -> crate::host::LogSettings {
        let level = self.log_level.load(Ordering::Relaxed);
        crate::host::LogSettings {
            // SAFETY: the pointer is the host's own, to an int that outlives every use (promise 1).
            level: if level.is_null() { OS_L_NOTICE as i32 } else { unsafe { &*level }.load(Ordering::Relaxed) },
            stderr: self.stderr_enabled.load(Ordering::Relaxed) != 0,
            syslog: self.syslog_enabled.load(Ordering::Relaxed) != 0,
            name: Some(Self::text(self.log_name)).filter(|n| !n.is_empty()).unwrap_or_else(|| "opensips".into()),
            prefix: Self::text(self.log_prefix),
            facility: self.log_facility.load(Ordering::Relaxed),
        }
    }

    /// The host's default database URL, if set.
    pub fn default_db_url(&self) -> Option<String> {
        Some(Self::text(self.db_default_url)).filter(|u| !u.is_empty())
    }

    /// The user and group that the host turns into after initialisation (0 = stays).
    pub fn later_user(&self) -> (u32, u32) {
        let (mut uid, mut gid) = (0, 0);
        let (user, group) = (self.user.load(Ordering::Relaxed), self.group.load(Ordering::Relaxed));
        // SAFETY: the host's own names, null or terminated, and functions that only read them; it has
        // called them with the same names before (promise 1).
        unsafe {
            if !user.is_null() {
                (self.user2uid)(&raw mut uid, &raw mut gid, user);
            }
            if !group.is_null() {
                (self.group2gid)(&raw mut gid, group);
            }
        }
        (uid.max(0) as u32, gid.max(0) as u32)
    }

    /// Number of this process in the host's table.
    pub fn process_number(&self) -> i32 {
        self.process_no.load(Ordering::Relaxed)
    }

    /// Runs `callback` every `seconds` in one of the host's processes.
    pub fn every(&self, label: &'static CStr, seconds: u32, callback: os_timer_fn) -> bool {
        // SAFETY: called in mod_init; the label lives for ever (promise 2).
        unsafe {
            (self.register_timer)(label.as_ptr().cast_mut(), callback, std::ptr::null_mut(), seconds, OS_TIMER_FLAG_SKIP_ON_DELAY as std::ffi::c_ushort) >= 0
        }
    }

    /// Calls `callback` for every request, before its route.
    pub fn before_requests(&self, callback: os_script_cb_fn) -> bool {
        // SAFETY: called in mod_init (promise 2).
        unsafe { (self.register_script_cb)(callback, (OS_PRE_SCRIPT_CB | OS_REQ_TYPE_CB) as c_int, std::ptr::null_mut(), 0) >= 0 }
    }

    /// Reserves a place for a pointer in every processing context.
    pub fn register_processing_slot(&self, destroy: Option<unsafe extern "C" fn(*mut c_void)>) -> i32 {
        // SAFETY: called in mod_init, the phase the host asks for (promise 2).
        unsafe { (self.context_register_ptr)(OS_CONTEXT_GLOBAL as os_context, destroy) }
    }

    /// The place of our pointer in the present processing context; null when there is none. It need
    /// not be aligned: numbers and strings of other modules stand before it.
    fn processing_place(&self, slot: i32) -> *mut *mut c_void {
        let ctx = self.current_processing_ctx.load(Ordering::Relaxed);
        if ctx.is_null() {
            return std::ptr::null_mut();
        }
        // SAFETY: the host lays pointers out at type_offsets[global][ptr] of the context, and the
        // slot was registered by us (promise 3).
        unsafe {
            let offset = (*self.type_offsets)[OS_CONTEXT_GLOBAL as usize][OS_CONTEXT_PTR_TYPE as usize];
            ctx.cast::<u8>().add(offset as usize).cast::<*mut c_void>().add(slot as usize)
        }
    }

    /// Is a message (or anything else with a context) being processed?
    pub fn has_processing_context(&self) -> bool {
        !self.current_processing_ctx.load(Ordering::Relaxed).is_null()
    }

    /// Our pointer in the present processing context.
    pub fn processing_get(&self, slot: i32) -> *mut c_void {
        let place = self.processing_place(slot);
        // SAFETY: as above; the context is private to this process.
        if place.is_null() { std::ptr::null_mut() } else { unsafe { place.read_unaligned() } }
    }

    /// Replaces our pointer in the present processing context; false when there is no context.
    pub fn processing_put(&self, slot: i32, value: *mut c_void) -> bool {
        let place = self.processing_place(slot);
        if place.is_null() {
            return false;
        }
        // SAFETY: as above.
        unsafe { place.write_unaligned(value) };
        true
    }
}
