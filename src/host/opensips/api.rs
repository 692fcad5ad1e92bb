//! What the host's modules tm, dialog and rr offer, and the places reserved in their contexts.

use std::ffi::{c_int, c_void};

use super::abi::*;
use super::symbols::Symbols;
use super::versions::Row;
use crate::host::shared::SharedContext;

/// A table of another module, read into more room than any version fills.
#[repr(C, align(16))]
struct Room([u8; OS_TM_BINDS_ROOM as usize]);

impl Room {
    fn new() -> Room {
        Room([0; OS_TM_BINDS_ROOM as usize])
    }

    fn pointer_at(&self, offset: usize) -> *mut c_void {
        let mut raw = [0u8; size_of::<usize>()];
        raw.copy_from_slice(&self.0[offset..offset + size_of::<usize>()]);
        usize::from_ne_bytes(raw) as *mut c_void
    }
}

type ContextDestroy = unsafe extern "C" fn(*mut c_void);

/// The transaction module.
pub struct Tm {
    register_tmcb: unsafe extern "C" fn(*mut os_sip_msg, *mut os_cell, c_int, os_transaction_cb, *mut c_void, os_release_tmcb_param) -> c_int,
    t_gett: unsafe extern "C" fn() -> *mut os_cell,
    register_ptr: unsafe extern "C" fn(os_context_destroy_fn) -> c_int,
    put_ptr: unsafe extern "C" fn(*mut os_cell, c_int, *mut c_void),
    get_ptr: unsafe extern "C" fn(*mut os_cell, c_int) -> *mut c_void,
}

impl Tm {
    /// Loads the table; tm is initialised before us, as our dependency says.
    pub fn load(symbols: &Symbols, row: Row) -> Result<Tm, String> {
        let missing = || "the module tm does not offer its functions: load tm.so, of the same version as the server".to_string();
        let load = symbols.export(c"load_tm").ok_or_else(missing)?;
        let mut room = Room::new();
        // SAFETY: load_tm takes one pointer to its table, which the room is larger than (promise 4).
        let rc = unsafe {
            let load: unsafe extern "C" fn(*mut os_tm_binds) -> c_int = std::mem::transmute(load);
            load((&raw mut room).cast())
        };
        // SAFETY: the head of the table has the layout of os_tm_binds in every supported version.
        let head = unsafe { &*(&raw const room).cast::<os_tm_binds>() };
        let at = |n: usize| room.pointer_at(row.t_ctx_register_ptr + n);
        let (put, get) = (at(OS_TM_T_CTX_PUT_PTR as usize), at(OS_TM_T_CTX_GET_PTR as usize));
        if rc == -1 || at(0).is_null() || put.is_null() || get.is_null() {
            return Err(missing());
        }
        // SAFETY: the row says where these three functions stand; their types are checked by
        // scripts/check-abi (promise 4).
        unsafe {
            Ok(Tm {
                register_tmcb: head.register_tmcb.ok_or_else(missing)?,
                t_gett: head.t_gett.ok_or_else(missing)?,
                register_ptr: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(os_context_destroy_fn) -> c_int>(at(0)),
                put_ptr: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut os_cell, c_int, *mut c_void)>(put),
                get_ptr: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut os_cell, c_int) -> *mut c_void>(get),
            })
        }
    }

    /// Reserves a place in every transaction.
    pub fn register_slot(&self, destroy: Option<ContextDestroy>) -> i32 {
        // SAFETY: called in mod_init, before any transaction (promise 2).
        unsafe { (self.register_ptr)(destroy) }
    }

    /// The transaction being processed here.
    pub fn current(&self) -> Option<*mut os_cell> {
        // SAFETY: plain look-up in process memory (promise 4).
        let t = unsafe { (self.t_gett)() };
        (!t.is_null() && t != T_UNDEFINED).then_some(t)
    }

    /// Our pointer in a transaction.
    pub fn get(&self, t: *mut os_cell, slot: i32) -> *mut c_void {
        // SAFETY: `t` is the current or the callback's transaction, alive meanwhile (promise 5).
        unsafe { (self.get_ptr)(t, slot) }
    }

    /// Sets our pointer in a transaction.
    pub fn put(&self, t: *mut os_cell, slot: i32, value: *mut c_void) {
        // SAFETY: as in `get`.
        unsafe { (self.put_ptr)(t, slot, value) }
    }

    /// Calls `callback` for the transaction of `msg` (the one to be made, if there is none yet).
    /// The reference goes to the host, which gives it back through `release`.
    pub fn register(
        &self,
        msg: *mut os_sip_msg,
        types: u32,
        callback: os_transaction_cb,
        ctx: SharedContext,
        release: os_release_tmcb_param,
    ) -> Result<(), String> {
        let raw = ctx.into_raw();
        // SAFETY: msg is the message being processed (promise 5).
        let rc = unsafe { (self.register_tmcb)(msg, std::ptr::null_mut(), types as c_int, callback, raw, release) };
        if rc > 0 {
            return Ok(());
        }
        // SAFETY: on failure the host kept nothing.
        drop(unsafe { SharedContext::from_raw(raw) });
        Err(format!("tm refused the accounting callbacks (error {rc}): the host is out of shared memory, see its option -m"))
    }

    /// Calls `callback` for every message of a transaction that is being made.
    pub fn register_replies(&self, t: *mut os_cell, callback: os_transaction_cb) -> Result<(), String> {
        // SAFETY: `t` is the callback's transaction (promise 5).
        let rc = unsafe { (self.register_tmcb)(std::ptr::null_mut(), t, OS_TMCB_MSG_MATCHED_IN as c_int, callback, std::ptr::null_mut(), None) };
        if rc > 0 { Ok(()) } else { Err(format!("tm refused the callback for replies (error {rc}): the host is out of shared memory, see its option -m")) }
    }

    /// Calls `callback` for every new transaction.
    pub fn register_global(&self, callback: os_transaction_cb) -> Result<(), String> {
        // SAFETY: called in mod_init, before the fork, as such callbacks demand (promise 2).
        let rc = unsafe { (self.register_tmcb)(std::ptr::null_mut(), std::ptr::null_mut(), OS_TMCB_REQUEST_IN as c_int, callback, std::ptr::null_mut(), None) };
        if rc > 0 { Ok(()) } else { Err(format!("tm refused the callback for new transactions (error {rc})")) }
    }
}

/// The dialog module.
pub struct Dialogs {
    register_dlgcb: unsafe extern "C" fn(*mut os_dlg_cell, c_int, os_dialog_cb, *mut c_void, os_param_free_cb) -> c_int,
    create_dlg: unsafe extern "C" fn(*mut os_sip_msg, c_int) -> c_int,
    get_dlg: unsafe extern "C" fn() -> *mut os_dlg_cell,
    store_value: unsafe extern "C" fn(*mut os_dlg_cell, *mut os_str, *mut os_int_str, c_int) -> c_int,
    fetch_value: unsafe extern "C" fn(*mut os_dlg_cell, *const os_str, *mut c_int, *mut os_int_str, c_int) -> c_int,
    put_ptr: unsafe extern "C" fn(*mut os_dlg_cell, c_int, *mut c_void),
    get_ptr: unsafe extern "C" fn(*mut os_dlg_cell, c_int) -> *mut c_void,
    get_did: unsafe extern "C" fn(*mut os_dlg_cell) -> *mut os_str,
    slot: i32,
}

impl Dialogs {
    /// Loads the table and reserves a place in every dialog; `None` when the dialog module is not
    /// loaded. Called in preinit, before any dialog is restored.
    pub fn load(symbols: &Symbols, destroy: ContextDestroy) -> Option<Dialogs> {
        let load = symbols.export(c"load_dlg")?;
        let mut room = Room::new();
        // SAFETY: load_dlg takes one pointer to its table, which the room is larger than (promise 4).
        let rc = unsafe {
            let load: unsafe extern "C" fn(*mut os_dlg_binds) -> c_int = std::mem::transmute(load);
            load((&raw mut room).cast())
        };
        if rc == -1 {
            return None;
        }
        // SAFETY: os_dlg_binds is the head of the table in every supported version.
        let b = unsafe { &*(&raw const room).cast::<os_dlg_binds>() };
        let register_ptr = b.dlg_ctx_register_ptr?;
        // SAFETY: preinit is the phase for it (promise 2).
        let slot = unsafe { register_ptr(Some(destroy)) };
        Some(Dialogs {
            register_dlgcb: b.register_dlgcb?,
            create_dlg: b.create_dlg?,
            get_dlg: b.get_dlg?,
            store_value: b.store_dlg_value?,
            fetch_value: b.fetch_dlg_value?,
            put_ptr: b.dlg_ctx_put_ptr?,
            get_ptr: b.dlg_ctx_get_ptr?,
            get_did: b.get_dlg_did?,
            slot,
        })
    }

    /// The dialog being processed here.
    pub fn current(&self) -> Option<*mut os_dlg_cell> {
        // SAFETY: plain look-up in process memory (promise 4).
        let d = unsafe { (self.get_dlg)() };
        (!d.is_null()).then_some(d)
    }

    /// Makes a dialog for the initial INVITE, if it has none yet.
    pub fn create(&self, msg: *mut os_sip_msg) -> Result<*mut os_dlg_cell, String> {
        if let Some(d) = self.current() {
            return Ok(d);
        }
        // SAFETY: msg is the request being processed (promise 5).
        let rc = unsafe { (self.create_dlg)(msg, 0) };
        self.current()
            .filter(|_| rc >= 0)
            .ok_or_else(|| "the dialog module made no dialog for this call (see its own message above): no CDR can be written".into())
    }

    /// The host's name of a dialog: the same after it is restored from the database.
    pub fn name(&self, dlg: *mut os_dlg_cell) -> Vec<u8> {
        // SAFETY: the dialog is alive; the host answers with a buffer of its own, good until the
        // next call (promise 6).
        unsafe { (self.get_did)(dlg).as_ref().map_or_else(Vec::new, |s| s.bytes().to_vec()) }
    }

    /// The context that a dialog holds.
    pub fn context(&self, dlg: *mut os_dlg_cell) -> Option<SharedContext> {
        // SAFETY: the dialog is the current or the callback's one, alive meanwhile, and only we put
        // pointers into this place (promise 6).
        unsafe { SharedContext::borrow_raw((self.get_ptr)(dlg, self.slot)) }
    }

    /// Gives a dialog its context.
    pub fn set_context(&self, dlg: *mut os_dlg_cell, ctx: SharedContext) {
        // SAFETY: as in `context`; the reference in the place is taken over by `destroy`.
        unsafe {
            let old = SharedContext::from_raw((self.get_ptr)(dlg, self.slot));
            (self.put_ptr)(dlg, self.slot, ctx.into_raw());
            drop(old);
        }
    }

    /// Calls `callback` for events of a dialog. The reference goes to the host.
    pub fn register(&self, dlg: *mut os_dlg_cell, types: u32, callback: os_dialog_cb, ctx: SharedContext, release: os_param_free_cb) -> Result<(), String> {
        let raw = ctx.into_raw();
        // SAFETY: the dialog is alive (promise 6).
        if unsafe { (self.register_dlgcb)(dlg, types as c_int, callback, raw, release) } == 0 {
            return Ok(());
        }
        // SAFETY: on failure the host kept nothing.
        drop(unsafe { SharedContext::from_raw(raw) });
        Err("the dialog module refused the accounting callbacks: no CDR can be written for this call".into())
    }

    /// Calls `callback` for every dialog that is restored, now or later.
    pub fn register_loaded(&self, callback: os_dialog_cb) -> bool {
        // SAFETY: called in mod_init (promise 2).
        unsafe { (self.register_dlgcb)(std::ptr::null_mut(), OS_DLGCB_LOADED as c_int, callback, std::ptr::null_mut(), None) == 0 }
    }

    /// Keeps a value in the dialog.
    pub fn store(&self, dlg: *mut os_dlg_cell, name: &str, value: &[u8]) -> bool {
        let mut name = os_str::borrow(name.as_bytes());
        let mut value = os_int_str { s: os_str::borrow(value) };
        // SAFETY: the host copies name and value (promise 6).
        unsafe { (self.store_value)(dlg, &raw mut name, &raw mut value, OS_DLG_VAL_TYPE_STR as c_int) == 0 }
    }

    /// A value kept in the dialog.
    pub fn fetch(&self, dlg: *mut os_dlg_cell, name: &str) -> Option<Vec<u8>> {
        let name = os_str::borrow(name.as_bytes());
        let mut kind = OS_DLG_VAL_TYPE_NONE as c_int;
        let mut out = os_int_str { s: os_str::default() };
        // SAFETY: the host answers with a copy in a buffer of its own, good until the next call (promise 6).
        unsafe {
            let rc = (self.fetch_value)(dlg, &raw const name, &raw mut kind, &raw mut out, 0);
            (rc == 0 && kind == OS_DLG_VAL_TYPE_STR as c_int).then(|| out.s.bytes().to_vec())
        }
    }
}

/// The Record-Route module.
pub struct Rr {
    is_direction: unsafe extern "C" fn(*mut os_sip_msg, c_int) -> c_int,
}

impl Rr {
    /// Loads the table for `detect_direction`.
    pub fn load(symbols: &Symbols) -> Result<Rr, String> {
        let missing = || "parameter detect_direction: the module rr is not loaded: load rr.so or set detect_direction to 0".to_string();
        let load = symbols.export(c"load_rr").ok_or_else(missing)?;
        let mut room = Room::new();
        // SAFETY: load_rr takes one pointer to its table, which the room is larger than (promise 4).
        unsafe {
            let load: unsafe extern "C" fn(*mut os_rr_binds) -> c_int = std::mem::transmute(load);
            load((&raw mut room).cast());
        }
        // SAFETY: os_rr_binds is the table in every supported version.
        let b = unsafe { &*(&raw const room).cast::<os_rr_binds>() };
        if b.append_fromtag == 0 {
            return Err("parameter detect_direction: rr does not put the From tag into its routes: set modparam(\"rr\", \"append_fromtag\", 1)".into());
        }
        Ok(Rr { is_direction: b.is_direction.ok_or_else(missing)? })
    }

    /// Was the request sent by the callee?
    pub fn is_upstream(&self, msg: *mut os_sip_msg) -> bool {
        // SAFETY: msg is the request being processed (promise 5).
        unsafe { (self.is_direction)(msg, OS_RR_FLOW_UPSTREAM as c_int) == 0 }
    }
}
