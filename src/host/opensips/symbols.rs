//! Every symbol of the host, resolved once at load, so that what is missing is named in one line
//! and `cargo test` links without a host.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ushort, c_void};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

use super::abi::*;
use crate::backend::log::Form;
use crate::host::database::BindMod;
use crate::host::proof;
use crate::host::server::Text;
use crate::host::server::symbols::{Program, address, symbols};
use crate::worker::port::LogSettings;

symbols! {
    /// The host's functions and variables.
    pub struct Symbols {
        var modules: AtomicPtr<os_sr_module>;
        var log_level: AtomicPtr<AtomicI32>;
        var log_facility: AtomicI32;
        var log_name: AtomicPtr<c_char>;
        var log_prefix: AtomicPtr<c_char>;
        var stderr_log_format: AtomicU32;
        var syslog_log_format: AtomicU32;
        var process_no: AtomicI32;
        var db_default_url: AtomicPtr<c_char>;
        var current_processing_ctx: AtomicPtr<c_void>;
        var type_offsets: Kinds;
        var type_sizes: Kinds;
        var context_sizes: AtomicU32;
        var core_scm_ver: os_scm_version;
        var user: AtomicPtr<c_char>;
        var group: AtomicPtr<c_char>;
        fn get_log_consumer_mute_state(*mut Text, *mut c_int) -> c_int;
        fn get_log_consumer_level_filter(*mut Text, *mut c_int) -> c_int;
        fn user2uid(*mut c_int, *mut c_int, *mut c_char) -> c_int;
        fn group2gid(*mut c_int, *mut c_char) -> c_int;
        fn find_export(*const c_char, c_int) -> os_cmd_fn;
        fn pv_parse_spec(*const Text, *mut os_pv_spec) -> *mut c_char;
        fn pv_get_spec_value(*mut os_sip_msg, *mut os_pv_spec, *mut os_pv_value) -> c_int;
        fn context_register_ptr(os_context, os_context_destroy_fn) -> c_int;
        fn evi_publish_event(Text) -> os_event_id;
        fn evi_probe_event(os_event_id) -> c_int;
        fn evi_raise_event(os_event_id, *mut os_evi_params) -> c_int;
        fn evi_get_params() -> *mut os_evi_params;
        fn evi_param_add(*mut os_evi_params, *const Text, *const c_void, c_int) -> c_int;
        fn evi_free_params(*mut os_evi_params);
        fn init_mi_result_object(*mut *mut os_mi_item) -> *mut os_mi_response;
        fn add_mi_array(*mut os_mi_item, *mut c_char, c_int) -> *mut os_mi_item;
        fn add_mi_object(*mut os_mi_item, *mut c_char, c_int) -> *mut os_mi_item;
        fn add_mi_string(*mut os_mi_item, *mut c_char, c_int, *const c_char, c_int) -> c_int;
        fn add_mi_number(*mut os_mi_item, *mut c_char, c_int, f64) -> c_int;
        fn register_timer(*mut c_char, os_timer_fn, *mut c_void, c_uint, c_ushort) -> c_int;
        fn is_dummy_sip_msg(*mut os_sip_msg) -> c_int;
        fn register_script_cb = "__register_script_cb"(os_script_cb_fn, c_int, *mut c_void, c_int) -> c_int;
    }
}

symbols! {
    /// What message flags need.
    pub struct FlagSymbols {
        fn isflagset(*mut os_sip_msg, c_uint) -> c_int;
        fn resetflag(*mut os_sip_msg, c_uint) -> c_int;
        fn get_flag_id_by_name(c_int, *mut c_char, c_int) -> c_int;
        fn get_dummy_sip_msg() -> *mut os_sip_msg;
        fn release_dummy_sip_msg(*mut os_sip_msg);
    }
}

impl FlagSymbols {
    /// Resolves everything; the error lists all that is missing.
    pub fn resolve() -> Result<FlagSymbols, String> {
        let mut program = Program::default();
        // SAFETY: as in [`Symbols::resolve`].
        unsafe { FlagSymbols::find(|name, size| program.find(name, size)) }.ok_or_else(|| program.refusal("OpenSIPS"))
    }

    /// Number of the message flag of this name. The server adds an unknown name, so this is only for initialisation.
    pub fn flag(&self, name: &str) -> Option<u32> {
        // SAFETY: the host copies the name (promise 1).
        let bit = unsafe { (self.get_flag_id_by_name)(OS_FLAG_TYPE_MSG as c_int, name.as_ptr().cast_mut().cast(), name.len() as c_int) };
        u32::try_from(bit).ok()
    }

    /// Is the flag set? Only a word of the message is looked at, which may be shared.
    pub fn is_set(&self, msg: *mut os_sip_msg, bit: u32) -> bool {
        // SAFETY: a message that lives through the callback (promise 5).
        !msg.is_null() && unsafe { (self.isflagset)(msg, bit) } == 1
    }

    /// Clears a flag of a private message.
    pub fn clear(&self, msg: *mut os_sip_msg, bit: u32) {
        // SAFETY: as above.
        unsafe { (self.resetflag)(msg, bit) };
    }

    /// Reads something with a dummy message, for variables that need none.
    pub fn with_dummy<R>(&self, f: impl FnOnce(*mut os_sip_msg) -> Option<R>) -> Option<R> {
        // SAFETY: the host makes the message, private to this process, and takes it back (promise 1).
        unsafe {
            let msg = (self.get_dummy_sip_msg)();
            if msg.is_null() {
                return None;
            }
            let r = f(msg);
            (self.release_dummy_sip_msg)(msg);
            r
        }
    }
}

/// Numbers of the kinds of values in a context. Only the first kind of contexts is used.
type Kinds = [AtomicU32; OS_CONTEXT_COUNT_TYPE as usize];

// SAFETY: addresses of the host's own functions and variables, valid in every thread and for the
// life of the process (promise 1).
unsafe impl Send for Symbols {}
// SAFETY: as above; the variables are read as atomics.
unsafe impl Sync for Symbols {}

/// Where the link to the next module may be, and how many modules there may be.
const LINK: std::ops::RangeInclusive<usize> = size_of::<os_sr_module>()..=128;
const MODULES: usize = 1000;

/// The exports of a module; `None` if they do not have the known form. The module has passed the host's check.
fn exports_of(module: *const os_sr_module) -> Option<&'static os_module_exports> {
    let exports = module.cast::<u8>().wrapping_add(std::mem::offset_of!(os_sr_module, exports)).cast::<*const os_module_exports>();
    // SAFETY: every word is looked at only when it can be read, every text when it lies in a loaded
    // object; exports of a loaded module stay (promise 1).
    unsafe {
        let e = if proof::is_readable(exports.cast()) { *exports } else { return None };
        let last_word = e.cast::<u8>().wrapping_add(size_of::<os_module_exports>() - size_of::<usize>());
        if !proof::is_readable(e.cast()) || !proof::is_readable(last_word.cast()) {
            return None;
        }
        let v = &(*e).ver_info;
        let known = [(*e).name, v.version, v.compile_flags].iter().all(|text| proof::is_in_an_object((*text).cast()))
            && CStr::from_ptr(v.version).to_bytes().starts_with(b"opensips ");
        known.then_some(&*e)
    }
}

/// The function that binds database modules; only needed if one of them serves `db_url`.
pub fn db_bind_mod() -> Option<BindMod> {
    let p = address(c"db_bind_mod");
    // SAFETY: the symbol has this type (promise 11).
    if p.is_null() { None } else { Some(unsafe { std::mem::transmute::<*mut c_void, BindMod>(p) }) }
}

impl Symbols {
    /// Resolves everything; the error lists all that is missing.
    pub fn resolve() -> Result<Symbols, String> {
        let mut program = Program::default();
        // SAFETY: each symbol has the type that include/opensips_abi.h declares for it, which
        // scripts/check-abi compares with the host's headers (promise 1).
        unsafe { Symbols::find(|name, size| program.find(name, size)) }.ok_or_else(|| program.refusal("OpenSIPS"))
    }

    /// Is it a request of nobody, with which the host runs routes that no message came for?
    pub fn is_dummy(&self, msg: *mut os_sip_msg) -> bool {
        // SAFETY: only the address of a text is compared, in a message that lives through the callback (promise 5); null is allowed.
        unsafe { (self.is_dummy_sip_msg)(msg) == 0 }
    }

    /// The exports of the module that was loaded last, if they look as in the known versions.
    pub fn last_module(&self) -> Option<&'static os_module_exports> {
        exports_of(self.modules.load(Ordering::Relaxed))
    }

    /// The exports of all modules. The link to the next module is not always at the same place: it is the one that
    /// leads to all of them, including tm.
    pub fn all_modules(&self) -> Vec<&'static os_module_exports> {
        let first = self.modules.load(Ordering::Relaxed);
        let follow = |link: usize| {
            let (mut at, mut found) = (first, Vec::new());
            while !at.is_null() {
                found.push(exports_of(at)?);
                let next = at.cast::<u8>().wrapping_add(link).cast::<*mut os_sr_module>();
                // SAFETY: the word can be read.
                at = proof::is_readable(next.cast()).then(|| unsafe { *next })?;
                if found.len() > MODULES {
                    return None;
                }
            }
            // SAFETY: `exports_of` has looked at the name.
            found.iter().any(|e| unsafe { CStr::from_ptr(e.name) } == c"tm").then_some(found)
        };
        LINK.step_by(size_of::<usize>()).find_map(follow).unwrap_or_default()
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
    pub fn log_settings(&self) -> LogSettings {
        let form = |format: &AtomicU32| match format.load(Ordering::Relaxed) {
            OS_LOG_FORMAT_JSON => Form::Json,
            OS_LOG_FORMAT_JSON_CEE => Form::Cee,
            _ => Form::Plain,
        };
        LogSettings {
            stderr: self.highest_level(b"stderror"),
            syslog: self.highest_level(b"syslog"),
            stderr_form: form(self.stderr_log_format),
            syslog_form: form(self.syslog_log_format),
            name: Some(Self::text(self.log_name)).filter(|n| !n.is_empty()).unwrap_or_else(|| program().into()),
            prefix: Self::text(self.log_prefix),
            facility: self.log_facility.load(Ordering::Relaxed),
        }
    }

    /// Highest level that goes there, `None` if none does: management commands change its state and filter.
    fn highest_level(&self, consumer: &[u8]) -> Option<i32> {
        let level = self.log_level.load(Ordering::Relaxed);
        // SAFETY: the pointer is the host's own, to an int that outlives every use (promise 1).
        let level = if level.is_null() { OS_L_NOTICE as i32 } else { unsafe { &*level }.load(Ordering::Relaxed) };
        let mut name = Text::borrow(consumer);
        let (mut muted, mut filter) = (0, 0);
        // SAFETY: both read the name and write an int (promise 1).
        let known = unsafe {
            (self.get_log_consumer_mute_state)(&raw mut name, &raw mut muted) >= 0 && (self.get_log_consumer_level_filter)(&raw mut name, &raw mut filter) >= 0
        };
        (known && muted == 0).then(|| if filter == 0 { level } else { level.min(filter) })
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
        unsafe { (self.register_timer)(label.as_ptr().cast_mut(), callback, std::ptr::null_mut(), seconds, OS_TIMER_FLAG_SKIP_ON_DELAY as c_ushort) >= 0 }
    }

    /// Calls `request` before the route of every request, and `reply` before the route of every reply.
    pub fn before_routes(&self, request: os_script_cb_fn, reply: os_script_cb_fn) -> bool {
        [(request, OS_REQ_TYPE_CB), (reply, OS_RPL_TYPE_CB)].into_iter().all(|(callback, kind)| {
            // SAFETY: called in mod_init (promise 2).
            unsafe { (self.register_script_cb)(callback, (OS_PRE_SCRIPT_CB | kind) as c_int, std::ptr::null_mut(), 0) >= 0 }
        })
    }

    /// Reserves a place for a pointer in every processing context.
    pub fn register_processing_slot(&self, destroy: Option<unsafe extern "C" fn(*mut c_void)>) -> i32 {
        // SAFETY: called in mod_init, the phase the host asks for (promise 2).
        unsafe { (self.context_register_ptr)(OS_CONTEXT_GLOBAL as os_context, destroy) }
    }

    /// Does the host count its places as in the known versions? `slot` is the last one that was reserved: pointers
    /// are at the end of a context, and this is the last of them.
    pub fn prove_processing_slots(&self, slot: i32) -> Result<(), String> {
        const POINTERS: usize = OS_CONTEXT_PTR_TYPE as usize;
        let number = |n: &AtomicU32| i64::from(n.load(Ordering::Relaxed));
        let slots = i64::from(slot) + 1;
        let end = number(&self.type_offsets[POINTERS]) + slots * size_of::<usize>() as i64;
        if number(&self.type_sizes[POINTERS]) == slots && end == number(self.context_sizes) {
            Ok(())
        } else {
            Err(format!("this server keeps values of the current message in another way than the known versions: {}", proof::CURE))
        }
    }

    /// The place of our pointer in the present processing context; null if there is none. It need not be
    /// aligned, because numbers and strings of other modules precede it.
    fn processing_place(&self, slot: i32) -> *mut *mut c_void {
        let ctx = self.current_processing_ctx.load(Ordering::Relaxed);
        if ctx.is_null() {
            return std::ptr::null_mut();
        }
        // SAFETY: the host lays pointers out at type_offsets[global][ptr] of the context, and the
        // slot was registered by us (promise 3).
        unsafe {
            let offset = self.type_offsets[OS_CONTEXT_PTR_TYPE as usize].load(Ordering::Relaxed);
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

    /// Replaces our pointer in the present processing context; false if there is no context.
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

/// The name of the host's own lines in syslog without `syslog_name`: that of its program, as it was called.
fn program() -> &'static str {
    static PROGRAM: LazyLock<String> =
        LazyLock::new(|| std::env::args_os().next().map_or_else(|| "opensips".into(), |name| name.to_string_lossy().into_owned()));
    &PROGRAM
}
