//! What the host's modules tm, dialog and rr offer.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::abi::*;
use super::attached::{self, Which};
use super::symbols::Symbols;
use crate::acc::clock::Moment;
use crate::host::shared::{SharedContext, release};

/// A table of another module, read into more room than any version fills.
#[repr(C, align(16))]
struct Room([u8; KM_BINDS_ROOM as usize]);

impl Room {
    /// Lets a module fill its table; `None` when it is not loaded.
    fn filled(symbols: &Symbols, name: &CStr, arguments: c_int) -> Option<Box<Room>> {
        let load = symbols.export(name, arguments, 0)?;
        let mut room = Box::new(Room([0; KM_BINDS_ROOM as usize]));
        // SAFETY: load functions take one pointer to their table, which the room is larger than
        // (promise 4).
        let rc = unsafe {
            let load: unsafe extern "C" fn(*mut c_void) -> c_int = std::mem::transmute(load);
            load((&raw mut *room).cast())
        };
        (rc != -1).then_some(room)
    }

    fn pointer_at(&self, offset: usize) -> *mut c_void {
        let mut raw = [0u8; size_of::<usize>()];
        raw.copy_from_slice(&self.0[offset..offset + size_of::<usize>()]);
        usize::from_ne_bytes(raw) as *mut c_void
    }
}

type TransactionCb = unsafe extern "C" fn(*mut km_cell, c_int, *mut km_tmcb_params);
type DialogCb = unsafe extern "C" fn(*mut km_dlg_cell, c_int, *mut km_dlg_cb_params);

/// Is tm loaded, so that it will be initialised before us?
pub fn tm_is_loaded(symbols: &Symbols) -> bool {
    symbols.export(c"load_tm", KM_NO_SCRIPT, 0).is_some()
}

/// The transaction module.
pub struct Tm {
    register_tmcb: unsafe extern "C" fn(*mut km_sip_msg, *mut km_cell, c_int, TransactionCb, *mut c_void, Option<unsafe extern "C" fn(*mut c_void)>) -> c_int,
    t_gett: unsafe extern "C" fn() -> *mut km_cell,
}

impl Tm {
    /// Loads the table.
    pub fn load(symbols: &Symbols) -> Result<Tm, String> {
        let room = Room::filled(symbols, c"load_tm", KM_NO_SCRIPT).ok_or("the module tm does not offer its functions: load tm.so, before acc.so")?;
        let (register, gett) = (room.pointer_at(KM_TM_REGISTER_TMCB as usize), room.pointer_at(KM_TM_T_GETT as usize));
        if register.is_null() || gett.is_null() {
            return Err("the module tm does not offer its functions".into());
        }
        // SAFETY: these two functions stand there in every supported version (promise 4).
        unsafe {
            Ok(Tm {
                register_tmcb: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*mut km_sip_msg, *mut km_cell, c_int, TransactionCb, *mut c_void, Option<unsafe extern "C" fn(*mut c_void)>) -> c_int,
                >(register),
                t_gett: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *mut km_cell>(gett),
            })
        }
    }

    /// The transaction being processed here.
    pub fn current(&self) -> Option<*mut km_cell> {
        // SAFETY: plain look-up in process memory (promise 4).
        let t = unsafe { (self.t_gett)() };
        (!t.is_null() && t != T_UNDEFINED).then_some(t)
    }

    /// Begins our entry of a transaction: `calls::on_any_transaction` gets its replies, and its end,
    /// which removes the entry.
    pub fn attach(&self, t: *mut km_cell, arrived: Option<Moment>) {
        let Some(table) = attached::table() else { return };
        if !table.add(t.cast(), arrived) {
            return;
        }
        // SAFETY: `t` is the current or the callback's transaction (promise 5).
        let rc = unsafe {
            (self.register_tmcb)(
                std::ptr::null_mut(),
                t,
                (KM_TMCB_RESPONSE_IN | KM_TMCB_DESTROY) as c_int,
                super::calls::on_any_transaction,
                std::ptr::null_mut(),
                None,
            )
        };
        if rc <= 0 {
            // Its address could come back as another transaction's.
            table.forget(t.cast());
        }
    }

    /// Attaches a context to a transaction.
    pub fn put(&self, t: *mut km_cell, which: Which, ctx: SharedContext) {
        self.attach(t, None);
        if let Some(table) = attached::table() {
            table.put(t.cast(), which, Some(ctx));
        }
    }

    /// Attaches a context in force unless there is one, which is then the answer.
    pub fn offer(&self, t: *mut km_cell, ctx: &SharedContext) -> Option<SharedContext> {
        self.attach(t, None);
        attached::table()?.offer(t.cast(), ctx)
    }

    /// Calls `callback` for the transaction of `msg` (the one to be made, if there is none yet).
    pub fn register(&self, msg: *mut km_sip_msg, types: u32, callback: TransactionCb, ctx: SharedContext) -> Result<(), String> {
        self.register_for(msg, std::ptr::null_mut(), types, callback, ctx)
    }

    fn register_for(&self, msg: *mut km_sip_msg, t: *mut km_cell, types: u32, callback: TransactionCb, ctx: SharedContext) -> Result<(), String> {
        let raw = ctx.into_raw();
        // SAFETY: msg is the message being processed, or t the callback's transaction (promise 5).
        let rc = unsafe { (self.register_tmcb)(msg, t, types as c_int, callback, raw, Some(release)) };
        if rc > 0 {
            return Ok(());
        }
        // SAFETY: on failure the host kept nothing.
        drop(unsafe { SharedContext::from_raw(raw) });
        Err(format!("tm refused the accounting callbacks (error {rc}): the host is out of shared memory, see its option -m"))
    }

    /// The same for a transaction that is being made.
    pub fn register_to(&self, t: *mut km_cell, types: u32, callback: TransactionCb, ctx: SharedContext) -> Result<(), String> {
        self.register_for(std::ptr::null_mut(), t, types, callback, ctx)
    }

    /// Calls `callback` for every new transaction.
    pub fn register_global(&self, callback: TransactionCb) -> Result<(), String> {
        // SAFETY: called in mod_init, after tm's own, as such callbacks demand (promise 2).
        let rc = unsafe { (self.register_tmcb)(std::ptr::null_mut(), std::ptr::null_mut(), KM_TMCB_REQUEST_IN as c_int, callback, std::ptr::null_mut(), None) };
        if rc > 0 { Ok(()) } else { Err(format!("tm refused the callback for new transactions (error {rc})")) }
    }
}

/// Longest text that the host may hand out from its buffer: protects from a wrong layout only.
const CALL_NAME: usize = 4096;

/// The dialog module.
pub struct Dialogs {
    register_dlgcb: unsafe extern "C" fn(*mut km_dlg_cell, c_int, DialogCb, *mut c_void, Option<unsafe extern "C" fn(*mut c_void)>) -> c_int,
    set_dlg_var: unsafe extern "C" fn(*mut km_dlg_cell, *mut km_str, *mut km_str) -> c_int,
    get_dlg_varval: unsafe extern "C" fn(*mut km_dlg_cell, *mut km_str, *mut km_str) -> c_int,
    get_dlg: unsafe extern "C" fn(*mut km_sip_msg) -> *mut km_dlg_cell,
    release_dlg: unsafe extern "C" fn(*mut km_dlg_cell),
    dlg_manage: unsafe extern "C" fn(*mut km_sip_msg, *mut c_char, *mut c_char) -> c_int,
}

/// A dialog with the host's reference to it.
pub struct Dialog<'a> {
    pub raw: *mut km_dlg_cell,
    dialogs: &'a Dialogs,
}

impl Drop for Dialog<'_> {
    fn drop(&mut self) {
        // SAFETY: the reference that get_dlg gave us (promise 6).
        unsafe { (self.dialogs.release_dlg)(self.raw) }
    }
}

impl Dialogs {
    /// Loads the table; `None` when the dialog module is not loaded.
    pub fn load(symbols: &Symbols) -> Option<Dialogs> {
        let room = Room::filled(symbols, c"load_dlg", 0)?;
        let manage = symbols.export(c"dlg_manage", 0, KM_REQUEST_ROUTE)?;
        // SAFETY: km_dlg_binds is the table in every supported version; dlg_manage is a script
        // function (promise 4).
        unsafe {
            let b = &*(&raw const *room).cast::<km_dlg_binds>();
            Some(Dialogs {
                register_dlgcb: std::mem::transmute::<
                    unsafe extern "C" fn(*mut km_dlg_cell, c_int, km_dialog_cb, *mut c_void, km_release_fn) -> c_int,
                    unsafe extern "C" fn(*mut km_dlg_cell, c_int, DialogCb, *mut c_void, Option<unsafe extern "C" fn(*mut c_void)>) -> c_int,
                >(b.register_dlgcb?),
                set_dlg_var: b.set_dlg_var?,
                get_dlg_varval: b.get_dlg_varval?,
                get_dlg: b.get_dlg?,
                release_dlg: b.release_dlg?,
                dlg_manage: std::mem::transmute::<unsafe extern "C" fn(), unsafe extern "C" fn(*mut km_sip_msg, *mut c_char, *mut c_char) -> c_int>(manage),
            })
        }
    }

    /// The dialog of a message.
    pub fn of(&self, msg: *mut km_sip_msg) -> Option<Dialog<'_>> {
        if msg.is_null() {
            return None;
        }
        // SAFETY: msg is the message being processed, private to this process (promise 5).
        let raw = unsafe { (self.get_dlg)(msg) };
        (!raw.is_null()).then_some(Dialog { raw, dialogs: self })
    }

    /// The dialog of the initial INVITE, made unless the script did it, or the request is a spiral of
    /// one that has it. A dialog without context may be that of an INVITE that was refused.
    pub fn create(&self, msg: *mut km_sip_msg) -> Result<Dialog<'_>, String> {
        if let Some(d) = self.of(msg).filter(|d| self.context(d.raw).is_some()) {
            return Ok(d);
        }
        // SAFETY: msg is the request being processed (promise 5).
        unsafe { (self.dlg_manage)(msg, std::ptr::null_mut(), std::ptr::null_mut()) };
        self.of(msg).ok_or_else(|| "the dialog module made no dialog for this call (see its own message above): no CDR can be written".into())
    }

    /// The context of a dialog.
    pub fn context(&self, dlg: *mut km_dlg_cell) -> Option<SharedContext> {
        attached::table()?.get(dlg.cast(), Which::InForce)
    }

    /// Calls `callback` for events of a dialog; its end must be among them.
    pub fn register(&self, dlg: *mut km_dlg_cell, types: u32, callback: DialogCb, ctx: SharedContext) -> Result<(), String> {
        let table = attached::table().ok_or("the module is not initialised")?;
        table.add(dlg.cast(), None);
        if !table.put(dlg.cast(), Which::InForce, Some(ctx.duplicate())) {
            return Err("shared memory for calls in progress is full: raise the parameter arena_size".into());
        }
        let raw = ctx.into_raw();
        // SAFETY: the dialog is alive (promise 6).
        if unsafe { (self.register_dlgcb)(dlg, types as c_int, callback, raw, Some(release)) } == 0 {
            return Ok(());
        }
        table.forget(dlg.cast());
        // SAFETY: on failure the host kept nothing.
        drop(unsafe { SharedContext::from_raw(raw) });
        Err("the dialog module refused the accounting callbacks: no CDR can be written for this call".into())
    }

    /// Calls `callback` for every dialog that is restored, now or later.
    pub fn register_loaded(&self, callback: DialogCb) -> bool {
        // SAFETY: called in mod_init (promise 2).
        unsafe { (self.register_dlgcb)(std::ptr::null_mut(), KM_DLGCB_LOADED as c_int, callback, std::ptr::null_mut(), None) == 0 }
    }

    /// Keeps a value in the dialog.
    pub fn store(&self, dlg: *mut km_dlg_cell, name: &str, value: &[u8]) -> bool {
        let (mut name, mut value) = (km_str::borrow(name.as_bytes()), km_str::borrow(value));
        // SAFETY: the host copies name and value (promise 6).
        unsafe { (self.set_dlg_var)(dlg, &raw mut name, &raw mut value) == 0 }
    }

    /// A value kept in the dialog.
    pub fn fetch(&self, dlg: *mut km_dlg_cell, name: &str) -> Option<Vec<u8>> {
        let mut name = km_str::borrow(name.as_bytes());
        let mut out = km_str::default();
        // SAFETY: the host answers with a copy in a buffer of its own, good until the next call (promise 6).
        unsafe { ((self.get_dlg_varval)(dlg, &raw mut name, &raw mut out) == 0).then(|| out.bytes().to_vec()).filter(|v| v.len() <= CALL_NAME) }
    }
}

/// The Record-Route module.
pub struct Rr {
    is_direction: unsafe extern "C" fn(*mut km_sip_msg, c_int) -> c_int,
}

impl Rr {
    /// Loads the table for `detect_direction`.
    pub fn load(symbols: &Symbols) -> Result<Rr, String> {
        let missing = || "parameter detect_direction: the module rr is not loaded: load rr.so or set detect_direction to 0".to_string();
        let room = Room::filled(symbols, c"load_rr", 0).ok_or_else(missing)?;
        // SAFETY: km_rr_binds is the table in every supported version.
        let b = unsafe { &*(&raw const *room).cast::<km_rr_binds>() };
        if b.append_fromtag == 0 {
            return Err("parameter detect_direction: rr does not put the From tag into its routes: set modparam(\"rr\", \"append_fromtag\", 1)".into());
        }
        Ok(Rr { is_direction: b.is_direction.ok_or_else(missing)? })
    }

    /// Was the request sent by the callee?
    pub fn is_upstream(&self, msg: *mut km_sip_msg) -> bool {
        // SAFETY: msg is the request being processed (promise 5).
        unsafe { (self.is_direction)(msg, KM_RR_FLOW_UPSTREAM as c_int) == 0 }
    }
}
