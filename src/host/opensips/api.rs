//! What the host's modules tm, dialog and rr offer, and the places that we reserve in their contexts.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::mem::transmute;

use super::abi::*;
use super::symbols::Symbols;
use crate::host::proof::{self, Table};
use crate::host::server::Text;
use crate::host::server::symbols::{all_of, symbols};
use crate::host::shared::{SharedContext, release};

/// The table of a module, which it fills through the function that it exports as `load`.
fn table(symbols: &Symbols, module: &'static str, load: &CStr) -> Option<Table> {
    let load = symbols.export(load)?;
    // SAFETY: these functions take one pointer to their table (promise 4).
    unsafe {
        let load = transmute::<
            unsafe extern "C" fn(
                *mut os_sip_msg,
                *mut c_void,
                *mut c_void,
                *mut c_void,
                *mut c_void,
                *mut c_void,
                *mut c_void,
                *mut c_void,
                *mut c_void,
            ) -> c_int,
            unsafe extern "C" fn(*mut c_void) -> c_int,
        >(load);
        Table::filled(module, load)
    }
}

type ContextDestroy = unsafe extern "C" fn(*mut c_void);

symbols! {
    /// The transaction module.
    pub struct Tm {
        fn register_tmcb(*mut os_sip_msg, *mut os_cell, c_int, os_transaction_cb, *mut c_void, os_release_tmcb_param) -> c_int;
        fn get_t() -> *mut os_cell;
        fn t_ctx_register_ptr(os_context_destroy_fn) -> c_int;
        fn t_ctx_put_ptr(*mut os_cell, c_int, *mut c_void);
        fn t_ctx_get_ptr(*mut os_cell, c_int) -> *mut c_void;
    }
}

impl Tm {
    /// Loads the table; tm is initialised before us, because we declare the dependency.
    pub fn load(symbols: &Symbols) -> Result<Tm, String> {
        let table = table(symbols, "tm", c"load_tm").ok_or("the module tm does not offer its functions: load tm.so, of the same version as the server")?;
        // SAFETY: functions of these names have these types, which scripts/check-abi compares (promise 4).
        let tm = all_of(|name| table.function(name), |find| unsafe { Tm::find(find) })?;
        if tm.current().is_some() {
            return Err(format!("the module tm of this server reports a transaction before there is any: {}", proof::CURE));
        }
        Ok(tm)
    }

    /// Reserves a place in every transaction.
    pub fn register_slot(&self, destroy: Option<ContextDestroy>) -> i32 {
        // SAFETY: called in mod_init, before any transaction (promise 2).
        unsafe { (self.t_ctx_register_ptr)(destroy) }
    }

    /// The transaction being processed here.
    pub fn current(&self) -> Option<*mut os_cell> {
        // SAFETY: plain look-up in process memory (promise 4).
        let t = unsafe { (self.get_t)() };
        (!t.is_null() && t != T_UNDEFINED).then_some(t)
    }

    /// Our pointer in a transaction.
    pub fn get(&self, t: *mut os_cell, slot: i32) -> *mut c_void {
        // SAFETY: `t` is the current or the callback's transaction, alive meanwhile (promise 5).
        unsafe { (self.t_ctx_get_ptr)(t, slot) }
    }

    /// Notes when a transaction began, before anything else is put into it. False if the note cannot be read back.
    pub fn begin(&self, t: *mut os_cell, slot: i32, mono: *mut c_void) -> bool {
        self.put(t, slot, mono);
        self.get(t, slot) == mono
    }

    /// Sets our pointer in a transaction.
    pub fn put(&self, t: *mut os_cell, slot: i32, value: *mut c_void) {
        // SAFETY: as in `get`.
        unsafe { (self.t_ctx_put_ptr)(t, slot, value) }
    }

    /// Calls `callback` for the transaction of `msg` (the one to be made, if there is none yet). The
    /// reference goes to the host, which gives it back with the transaction.
    pub fn register(&self, msg: *mut os_sip_msg, types: u32, callback: os_transaction_cb, ctx: SharedContext) -> Result<(), String> {
        self.register_for(msg, std::ptr::null_mut(), types, callback, ctx, release)
    }

    /// As [`Tm::register`]; when the transaction is freed, `gone` gets the reference.
    pub fn register_until(
        &self,
        msg: *mut os_sip_msg,
        types: u32,
        callback: os_transaction_cb,
        ctx: SharedContext,
        gone: ContextDestroy,
    ) -> Result<(), String> {
        self.register_for(msg, std::ptr::null_mut(), types, callback, ctx, gone)
    }

    /// As [`Tm::register`], for an existing transaction.
    pub fn register_on(&self, t: *mut os_cell, types: u32, callback: os_transaction_cb, ctx: SharedContext) -> Result<(), String> {
        self.register_for(std::ptr::null_mut(), t, types, callback, ctx, release)
    }

    fn register_for(
        &self,
        msg: *mut os_sip_msg,
        t: *mut os_cell,
        types: u32,
        callback: os_transaction_cb,
        ctx: SharedContext,
        gone: ContextDestroy,
    ) -> Result<(), String> {
        let raw = ctx.into_raw();
        // SAFETY: msg is the message being processed, or t the callback's transaction (promise 5).
        let rc = unsafe { (self.register_tmcb)(msg, t, types as c_int, callback, raw, Some(gone)) };
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
        let rc = unsafe { (self.register_tmcb)(std::ptr::null_mut(), t, OS_TMCB_MSG_MATCHED_IN as c_int, callback, proof::witness(), None) };
        if rc > 0 { Ok(()) } else { Err(format!("tm refused the callback for replies (error {rc}): the host is out of shared memory, see its option -m")) }
    }

    /// Calls `callback` for every new transaction.
    pub fn register_global(&self, callback: os_transaction_cb) -> Result<(), String> {
        // SAFETY: called in mod_init, before the fork, as such callbacks demand (promise 2).
        let rc = unsafe { (self.register_tmcb)(std::ptr::null_mut(), std::ptr::null_mut(), OS_TMCB_REQUEST_IN as c_int, callback, proof::witness(), None) };
        if rc > 0 { Ok(()) } else { Err(format!("tm refused the callback for new transactions (error {rc})")) }
    }
}

symbols! {
    /// What the transaction module says about branches.
    pub struct Branches {
        fn get_branch_index() -> c_int;
        fn t_get_picked_branch() -> c_int;
    }
}

impl Branches {
    /// Loads the table again; only message flags need these functions.
    pub fn load(symbols: &Symbols) -> Result<Branches, String> {
        let table = table(symbols, "tm", c"load_tm").ok_or("the module tm does not offer its functions: load tm.so, of the same version as the server")?;
        // SAFETY: functions of these names have these types, which scripts/check-abi compares (promise 4).
        all_of(|name| table.function(name), |find| unsafe { Branches::find(find) })
    }

    /// The branch that the request is forwarded to, or that the current reply came from.
    pub fn at_hand(&self) -> Option<u32> {
        // SAFETY: reads a number of this process (promise 4).
        u32::try_from(unsafe { (self.get_branch_index)() }).ok()
    }

    /// The failed branch whose reply is reported.
    pub fn picked(&self) -> Option<u32> {
        // SAFETY: as above.
        u32::try_from(unsafe { (self.t_get_picked_branch)() }).ok()
    }
}

symbols! {
    /// What the dialog module offers.
    pub struct DialogFunctions {
        fn register_dlgcb(*mut os_dlg_cell, c_int, os_dialog_cb, *mut c_void, os_param_free_cb) -> c_int;
        fn create_dlg(*mut os_sip_msg, c_int) -> c_int;
        fn get_current_dialog() -> *mut os_dlg_cell;
        fn store_dlg_value(*mut os_dlg_cell, *mut Text, *mut os_int_str, c_int) -> c_int;
        fn fetch_dlg_value(*mut os_dlg_cell, *const Text, *mut c_int, *mut os_int_str, c_int) -> c_int;
        fn dlg_ctx_register_ptr(os_context_destroy_fn) -> c_int;
        fn dlg_ctx_put_ptr(*mut os_dlg_cell, c_int, *mut c_void);
        fn dlg_ctx_get_ptr(*mut os_dlg_cell, c_int) -> *mut c_void;
        fn dlg_get_did(*mut os_dlg_cell) -> *mut Text;
        fn get_dlg_by_did(*mut Text, c_int) -> *mut os_dlg_cell;
        fn dlg_unref(*mut os_dlg_cell, c_uint);
    }
}

/// The dialog module, and our place in every dialog.
pub struct Dialogs {
    dialog: DialogFunctions,
    slot: i32,
}

impl Dialogs {
    /// Loads the table and reserves a place in every dialog; `None` if the dialog module is not
    /// loaded. Called in preinit, before any dialog is restored.
    pub fn load(symbols: &Symbols, destroy: ContextDestroy) -> Result<Option<Dialogs>, String> {
        let Some(table) = table(symbols, "dialog", c"load_dlg") else { return Ok(None) };
        // Two functions have no exported names.
        let function = |name: &CStr| match name.to_bytes() {
            b"create_dlg" => table.between(c"register_dlgcb", c"get_current_dialog", c"create_dlg"),
            b"dlg_unref" => table.between(c"_ref_dlg", c"get_dlg_direction", c"dlg_unref"),
            _ => table.function(name),
        };
        // SAFETY: functions of these names have these types, which scripts/check-abi compares (promise 4).
        let dialog = all_of(function, |find| unsafe { DialogFunctions::find(find) })?;
        // SAFETY: preinit is the phase for it (promise 2).
        let slot = unsafe { (dialog.dlg_ctx_register_ptr)(Some(destroy)) };
        if slot < 0 {
            return Err("the dialog module has no room for accounting contexts: raise its private memory (-M)".into());
        }
        Ok(Some(Dialogs { dialog, slot }))
    }

    /// The dialog being processed here.
    pub fn current(&self) -> Option<*mut os_dlg_cell> {
        // SAFETY: plain look-up in process memory (promise 4).
        let d = unsafe { (self.dialog.get_current_dialog)() };
        (!d.is_null()).then_some(d)
    }

    /// Makes a dialog for the initial INVITE, if it has none yet.
    pub fn create(&self, msg: *mut os_sip_msg) -> Result<*mut os_dlg_cell, String> {
        if let Some(d) = self.current() {
            return Ok(d);
        }
        // SAFETY: msg is the request being processed (promise 5).
        let rc = unsafe { (self.dialog.create_dlg)(msg, 0) };
        self.current()
            .filter(|_| rc >= 0)
            .ok_or_else(|| "the dialog module made no dialog for this call (see its own message above): no CDR can be written".into())
    }

    /// The host's name of a dialog, which stays the same if the dialog is restored from the database.
    pub fn name(&self, dlg: *mut os_dlg_cell) -> Vec<u8> {
        // SAFETY: the dialog is alive; the host answers with a buffer of its own, good until the
        // next call (promise 6).
        unsafe { (self.dialog.dlg_get_did)(dlg).as_ref().map_or_else(Vec::new, |s| s.bytes().to_vec()) }
    }

    /// Runs `f` with the dialog of this name, if it is not over. Not for callbacks of dialogs, because the host
    /// locks the neighbours of the dialog meanwhile.
    pub fn with<R>(&self, name: &[u8], f: impl FnOnce(*mut os_dlg_cell) -> R) -> Option<R> {
        let mut name = Text::borrow(name);
        // SAFETY: the host only reads the name, and answers with a dialog that has one reference more,
        // which is given back after its use (promise 6).
        unsafe {
            let dlg = (self.dialog.get_dlg_by_did)(&raw mut name, 1);
            if dlg.is_null() {
                return None;
            }
            let r = f(dlg);
            (self.dialog.dlg_unref)(dlg, 1);
            Some(r)
        }
    }

    /// The context that a dialog holds.
    pub fn context(&self, dlg: *mut os_dlg_cell) -> Option<SharedContext> {
        // SAFETY: the dialog is the current or the callback's one, alive meanwhile, and only we put
        // pointers into this place (promise 6).
        unsafe { SharedContext::borrow_raw((self.dialog.dlg_ctx_get_ptr)(dlg, self.slot)) }
    }

    /// Gives a dialog its context.
    pub fn set_context(&self, dlg: *mut os_dlg_cell, ctx: SharedContext) {
        let new = ctx.into_raw();
        // SAFETY: as in `context`; the reference in the place is taken over by `destroy`.
        unsafe {
            let old = SharedContext::from_raw((self.dialog.dlg_ctx_get_ptr)(dlg, self.slot));
            (self.dialog.dlg_ctx_put_ptr)(dlg, self.slot, new);
            drop(old);
        }
    }

    /// Calls `callback` for events of a dialog.
    pub fn register(&self, dlg: *mut os_dlg_cell, types: u32, callback: os_dialog_cb, ctx: SharedContext) -> Result<(), String> {
        let raw = ctx.into_raw();
        // SAFETY: the dialog is alive (promise 6).
        if unsafe { (self.dialog.register_dlgcb)(dlg, types as c_int, callback, raw, Some(release)) } == 0 {
            return Ok(());
        }
        // SAFETY: on failure the host kept nothing.
        drop(unsafe { SharedContext::from_raw(raw) });
        Err("the dialog module refused the accounting callbacks: no CDR can be written for this call".into())
    }

    /// Calls `callback` for every dialog that is restored, now or later.
    pub fn register_loaded(&self, callback: os_dialog_cb) -> bool {
        // SAFETY: called in mod_init (promise 2).
        unsafe { (self.dialog.register_dlgcb)(std::ptr::null_mut(), OS_DLGCB_LOADED as c_int, callback, std::ptr::null_mut(), None) == 0 }
    }

    /// Keeps a value in the dialog.
    pub fn store(&self, dlg: *mut os_dlg_cell, name: &str, value: &[u8]) -> bool {
        let mut name = Text::borrow(name.as_bytes());
        let mut value = os_int_str { s: Text::borrow(value) };
        // SAFETY: the host copies name and value (promise 6).
        unsafe { (self.dialog.store_dlg_value)(dlg, &raw mut name, &raw mut value, OS_DLG_VAL_TYPE_STR as c_int) == 0 }
    }

    /// A value kept in the dialog.
    pub fn fetch(&self, dlg: *mut os_dlg_cell, name: &str) -> Option<Vec<u8>> {
        let name = Text::borrow(name.as_bytes());
        let mut kind = OS_DLG_VAL_TYPE_NONE as c_int;
        let mut out = os_int_str { s: Text::default() };
        // SAFETY: the host answers with a copy in a buffer of its own, good until the next call (promise 6).
        unsafe {
            let rc = (self.dialog.fetch_dlg_value)(dlg, &raw const name, &raw mut kind, &raw mut out, 0);
            (rc == 0 && kind == OS_DLG_VAL_TYPE_STR as c_int).then(|| out.s.bytes().to_vec())
        }
    }
}

symbols! {
    /// The Record-Route module.
    pub struct Rr {
        fn is_direction(*mut os_sip_msg, c_int) -> c_int;
    }
}

impl Rr {
    /// Loads the table for `detect_direction`.
    pub fn load(symbols: &Symbols) -> Result<Rr, String> {
        let missing = || "parameter detect_direction: the module rr is not loaded: load rr.so or set detect_direction to 0".to_string();
        let table = table(symbols, "rr", c"load_rr").ok_or_else(missing)?;
        if table.number(c"append_fromtag")? == 0 {
            return Err("parameter detect_direction: rr does not put the From tag into its routes: set modparam(\"rr\", \"append_fromtag\", 1)".into());
        }
        // SAFETY: the function of this name has this type, which scripts/check-abi compares (promise 4).
        all_of(|name| table.function(name), |find| unsafe { Rr::find(find) })
    }

    /// Was the request sent by the callee?
    pub fn is_upstream(&self, msg: *mut os_sip_msg) -> bool {
        // SAFETY: msg is the request being processed (promise 5).
        unsafe { (self.is_direction)(msg, OS_RR_FLOW_UPSTREAM as c_int) == 0 }
    }
}
