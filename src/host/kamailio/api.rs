//! What the host's modules tm, dialog and rr offer.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::transmute;

use super::abi::*;
use super::attached::{self, Request, Which};
use super::symbols::Symbols;
use crate::accounting::record::Core;
use crate::host::proof::{self, Object, Table};
use crate::host::server::Text;
use crate::host::server::symbols::{all_of, symbols};
use crate::host::shared::{SharedContext, release};

/// The table of a module, which it fills through the function that it exports as `load`; `None` if it is not loaded.
fn table(symbols: &Symbols, module: &'static str, load: &CStr, arguments: c_int) -> Option<Table> {
    let load = symbols.export(load, arguments, 0)?;
    // SAFETY: these functions take one pointer to their table (promise 4).
    unsafe { Table::filled(module, transmute::<unsafe extern "C" fn(), unsafe extern "C" fn(*mut c_void) -> c_int>(load)) }
}

type TransactionCb = unsafe extern "C" fn(*mut km_cell, c_int, *mut km_tmcb_params);
type DialogCb = unsafe extern "C" fn(*mut km_dlg_cell, c_int, *mut km_dlg_cb_params);

/// Is tm loaded, so that it will be initialised before us?
pub fn tm_is_loaded(symbols: &Symbols) -> bool {
    symbols.export(c"load_tm", KM_NO_SCRIPT, 0).is_some()
}

/// The compile flags of tm, if it is loaded.
pub fn flags_of_tm(symbols: &Symbols) -> Option<&'static CStr> {
    let tm = Object::of(symbols.export(c"load_tm", KM_NO_SCRIPT, 0)? as *const c_void)?;
    let place = tm.symbol(c"module_flags").filter(|p| proof::size_of_variable(p.as_ptr()) == Some(size_of::<usize>()))?;
    // SAFETY: the host reads this variable of every module as a pointer to a text, when it loads it;
    // the module stays (promise 1).
    unsafe {
        let text = place.cast::<*const c_char>().read();
        tm.has(text.cast()).then(|| CStr::from_ptr(text))
    }
}

/// Can the tables that tm exports be read like ours will be? Also true if it is not loaded.
pub fn has_known_tables(symbols: &Symbols) -> bool {
    let Some(load) = symbols.export(c"load_tm", KM_NO_SCRIPT, 0) else { return true };
    let Some((object, exports)) = Object::of(load as *const c_void).and_then(|o| o.symbol(c"exports").map(|e| (o, e))) else { return true };
    let last_word = exports.as_ptr().cast::<u8>().wrapping_add(size_of::<km_module_exports>() - size_of::<usize>());
    if !proof::is_readable(exports.as_ptr()) || !proof::is_readable(last_word.cast()) {
        return false;
    }
    // SAFETY: its words can be read, and any words are addresses.
    let e = unsafe { exports.cast::<km_module_exports>().as_ref() };
    let tables: [(*const c_void, usize); 4] = [
        (e.cmds.cast_const().cast(), size_of::<km_cmd_export>()),
        (e.params.cast_const().cast(), size_of::<km_param_export>()),
        (e.rpc_methods.cast_const().cast(), size_of::<km_rpc_export>()),
        (e.pv_items.cast_const().cast(), size_of::<km_pv_export>()),
    ];
    const NAME: usize = 0;
    !e.cmds.is_null() && tables.into_iter().all(|(table, size)| table.is_null() || object.length(table, size, NAME).is_some())
}

symbols! {
    /// What the transaction module offers.
    pub struct TmFunctions {
        fn register_tmcb(*mut km_sip_msg, *mut km_cell, c_int, TransactionCb, *mut c_void, Option<unsafe extern "C" fn(*mut c_void)>) -> c_int;
        fn get_t() -> *mut km_cell;
        fn t_get_reply_totag(*mut km_sip_msg, *mut Text) -> c_int;
        fn t_get_picked_branch() -> c_int;
    }
}

/// The transaction module.
pub struct Tm {
    functions: TmFunctions,
    /// Gets the replies and the end of every transaction for which we have an entry.
    on_any: TransactionCb,
}

impl Tm {
    /// Loads the table. `on_any` gets replies and ends of transactions, see [`Tm::begin`].
    pub fn load(symbols: &Symbols, on_any: TransactionCb) -> Result<Tm, String> {
        let table = table(symbols, "tm", c"load_tm", KM_NO_SCRIPT).ok_or("the module tm does not offer its functions: load tm.so, before acc.so")?;
        // SAFETY: functions of these names have these types, which scripts/check-abi-kamailio compares (promise 4).
        let functions = all_of(|name| table.function(name), |find| unsafe { TmFunctions::find(find) })?;
        let tm = Tm { functions, on_any };
        if tm.current().is_some() {
            return Err(format!("the module tm of this server reports a transaction before there is any: {}", proof::CURE));
        }
        Ok(tm)
    }

    /// The transaction being processed here.
    pub fn current(&self) -> Option<*mut km_cell> {
        // SAFETY: plain look-up in process memory (promise 4).
        let t = unsafe { (self.functions.get_t)() };
        (!t.is_null() && t != T_UNDEFINED).then_some(t)
    }

    /// The To tag that the server's own reply to this private request will have.
    pub fn reply_tag(&self, request: *mut km_sip_msg) -> Option<Vec<u8>> {
        let mut tag = Text::default();
        // SAFETY: the request of the callback; the answer is in a buffer of the host's, and copied at once (promise 5).
        unsafe { ((self.functions.t_get_reply_totag)(request, &raw mut tag) > 0).then(|| tag.bytes().to_vec()) }
    }

    /// The branch whose failure is reported, as determined in this process.
    pub fn picked_branch(&self) -> Option<usize> {
        // SAFETY: returns a number of this process (promise 4).
        usize::try_from(unsafe { (self.functions.t_get_picked_branch)() }).ok()
    }

    /// Begins our entry for a transaction: the callback given to [`Tm::load`] gets its replies and its end, which
    /// removes the entry.
    pub fn begin(&self, t: *mut km_cell, request: Request) {
        let Some(table) = attached::table() else { return };
        if !table.add(t.cast(), request) {
            return;
        }
        if self.watch(t, KM_TMCB_RESPONSE_IN | KM_TMCB_DESTROY, self.on_any).is_err() {
            // Its address may be used again for another transaction.
            table.forget(t.cast());
        }
    }

    /// Gives a transaction a context.
    pub fn put(&self, t: *mut km_cell, which: Which, ctx: SharedContext) {
        self.begin(t, Request::default());
        if let Some(table) = attached::table() {
            table.put(t.cast(), which, Some(ctx));
        }
    }

    /// Gives it a current context unless it has one, which is then returned.
    pub fn offer(&self, t: *mut km_cell, ctx: &SharedContext) -> Option<SharedContext> {
        self.begin(t, Request::default());
        attached::table()?.offer(t.cast(), ctx)
    }

    /// Calls `callback` for the transaction of `msg` (the one to be made, if there is none yet). The
    /// reference goes to the host, which gives it back with the transaction.
    pub fn register(&self, msg: *mut km_sip_msg, types: u32, callback: TransactionCb, ctx: SharedContext) -> Result<(), String> {
        self.register_for(msg, std::ptr::null_mut(), types, callback, ctx)
    }

    fn register_for(&self, msg: *mut km_sip_msg, t: *mut km_cell, types: u32, callback: TransactionCb, ctx: SharedContext) -> Result<(), String> {
        let raw = ctx.into_raw();
        // SAFETY: msg is the message being processed, or t the callback's transaction (promise 5).
        let rc = unsafe { (self.functions.register_tmcb)(msg, t, types as c_int, callback, raw, Some(release)) };
        if rc > 0 {
            return Ok(());
        }
        // SAFETY: on failure the host kept nothing.
        drop(unsafe { SharedContext::from_raw(raw) });
        Err(format!("tm refused the accounting callbacks (error {rc}): the host is out of shared memory, see its option -m"))
    }

    /// The same for a transaction that is being made.
    pub fn register_on(&self, t: *mut km_cell, types: u32, callback: TransactionCb, ctx: SharedContext) -> Result<(), String> {
        self.register_for(std::ptr::null_mut(), t, types, callback, ctx)
    }

    /// Calls `callback` for events of a transaction, without a context.
    pub fn watch(&self, t: *mut km_cell, types: u32, callback: TransactionCb) -> Result<(), String> {
        // SAFETY: `t` is the current or the callback's transaction, or that of the message being processed (promise 5).
        let rc = unsafe { (self.functions.register_tmcb)(std::ptr::null_mut(), t, types as c_int, callback, proof::witness(), None) };
        if rc > 0 { Ok(()) } else { Err(format!("tm refused the accounting callbacks (error {rc}): the host is out of shared memory, see its option -m")) }
    }

    /// Calls `callback` for every new transaction.
    pub fn register_global(&self, callback: TransactionCb) -> Result<(), String> {
        // SAFETY: called in mod_init, after tm's own, as such callbacks demand (promise 2).
        let rc = unsafe {
            (self.functions.register_tmcb)(std::ptr::null_mut(), std::ptr::null_mut(), KM_TMCB_REQUEST_IN as c_int, callback, proof::witness(), None)
        };
        if rc > 0 { Ok(()) } else { Err(format!("tm refused the callback for new transactions (error {rc})")) }
    }
}

/// Longest text that the host may hand out from its buffer; only protects against a wrong layout.
const CALL_NAME: usize = 4096;

/// Seconds that a dialog lives in all versions unless the dialog module says otherwise.
const LIFETIME: u32 = 43_200;

symbols! {
    /// What the dialog module offers.
    pub struct DialogFunctions {
        fn register_dlgcb(*mut km_dlg_cell, c_int, DialogCb, *mut c_void, Option<unsafe extern "C" fn(*mut c_void)>) -> c_int;
        fn set_dlg_variable(*mut km_dlg_cell, *mut Text, *mut Text) -> c_int;
        fn get_dlg_varval(*mut km_dlg_cell, *mut Text, *mut Text) -> c_int;
        fn dlg_get_msg_dialog(*mut km_sip_msg) -> *mut km_dlg_cell;
        fn dlg_release(*mut km_dlg_cell);
        fn dlg_manage(*mut km_sip_msg, *mut c_char, *mut c_char) -> c_int;
    }
}

symbols! {
    /// Functions of the dialog module that are not in its table.
    pub struct DialogsBeside {
        fn get_dlg(*mut Text, *mut Text, *mut Text, *mut c_uint) -> *mut km_dlg_cell;
        fn dlg_get_ctx_dialog() -> *mut km_dlg_cell;
        fn dlg_set_ctx_iuid(*mut km_dlg_cell);
        fn dlg_reset_ctx_iuid();
    }
}

/// The dialog module, and its parameters.
pub struct Dialogs {
    dialog: DialogFunctions,
    beside: DialogsBeside,
    /// Seconds that a dialog lives, unless the script says otherwise: its parameter default_timeout.
    pub lifetime: u32,
    /// Do other servers say what happens to dialogs: its parameter enable_dmq?
    pub replicated: bool,
    /// Are dialogs in a database, from which a start restores them: its parameter db_mode?
    pub restored: bool,
}

/// A dialog with the host's reference to it.
pub struct Dialog<'a> {
    pub raw: *mut km_dlg_cell,
    dialogs: &'a Dialogs,
}

impl Drop for Dialog<'_> {
    fn drop(&mut self) {
        // SAFETY: the reference that get_dlg gave us (promise 6).
        unsafe { (self.dialogs.dialog.dlg_release)(self.raw) }
    }
}

impl Dialogs {
    /// Loads the table; `None` when the dialog module is not loaded.
    pub fn load(symbols: &Symbols) -> Result<Option<Dialogs>, String> {
        let Some(table) = table(symbols, "dialog", c"load_dlg", 0) else { return Ok(None) };
        let Some(manage) = symbols.export(c"dlg_manage", 0, KM_REQUEST_ROUTE) else { return Ok(None) };
        let function = |name: &CStr| if name == c"dlg_manage" { Ok(manage as *mut c_void) } else { table.function(name) };
        // SAFETY: functions of these names have these types, which scripts/check-abi-kamailio
        // compares; dlg_manage is a script function (promise 4).
        let dialog = all_of(function, |find| unsafe { DialogFunctions::find(find) })?;
        // SAFETY: as above.
        let beside = all_of(|name| table.beside(name), |find| unsafe { DialogsBeside::find(find) })?;
        let lifetime = symbols.number(c"dialog", c"default_timeout").and_then(|n| u32::try_from(n).ok()).unwrap_or(LIFETIME);
        let replicated = symbols.number(c"dialog", c"enable_dmq").is_some_and(|n| n > 0);
        let restored = symbols.number(c"dialog", c"db_mode").is_some_and(|n| n > 0);
        Ok(Some(Dialogs { dialog, beside, lifetime, replicated, restored }))
    }

    /// The dialog of a request, by its Call-ID and tags.
    pub fn find(&self, request: &Core) -> Option<Dialog<'_>> {
        let [mut callid, mut from_tag, mut to_tag] = [&request.callid, &request.from_tag, &request.to_tag].map(|v| Text::borrow(v));
        let mut direction = 0;
        // SAFETY: the function only reads the texts (promise 6).
        let raw = unsafe { (self.beside.get_dlg)(&raw mut callid, &raw mut from_tag, &raw mut to_tag, &raw mut direction) };
        (!raw.is_null()).then_some(Dialog { raw, dialogs: self })
    }

    /// Runs `f` with this dialog as the current one, so that dialog variables are those of this dialog.
    pub fn inside<R>(&self, dialog: *mut km_dlg_cell, f: impl FnOnce() -> R) -> R {
        // SAFETY: numbers of this process; the dialog is alive, and so is the one before, of which the host
        // gives a reference (promise 6).
        unsafe {
            let before = (self.beside.dlg_get_ctx_dialog)();
            (self.beside.dlg_set_ctx_iuid)(dialog);
            let result = f();
            if before.is_null() {
                (self.beside.dlg_reset_ctx_iuid)();
            } else {
                (self.beside.dlg_set_ctx_iuid)(before);
                (self.dialog.dlg_release)(before);
            }
            result
        }
    }

    /// The dialog of a message.
    pub fn of(&self, msg: *mut km_sip_msg) -> Option<Dialog<'_>> {
        if msg.is_null() {
            return None;
        }
        // SAFETY: msg is the message being processed, private to this process (promise 5).
        let raw = unsafe { (self.dialog.dlg_get_msg_dialog)(msg) };
        (!raw.is_null()).then_some(Dialog { raw, dialogs: self })
    }

    /// Has a dialog made for an initial INVITE. If the host has a dialog with the same Call-ID and From tag, it takes
    /// that one and makes none, even if another INVITE made it.
    pub fn create(&self, msg: *mut km_sip_msg) {
        // SAFETY: msg is the request being processed (promise 5).
        unsafe { (self.dialog.dlg_manage)(msg, std::ptr::null_mut(), std::ptr::null_mut()) };
    }

    /// The context of a dialog.
    pub fn context(&self, dlg: *mut km_dlg_cell) -> Option<SharedContext> {
        attached::table()?.get(dlg.cast(), Which::InForce)
    }

    /// Calls `callback` for events of a dialog; its end must be among them.
    pub fn register(&self, dlg: *mut km_dlg_cell, types: u32, callback: DialogCb, ctx: SharedContext) -> Result<(), String> {
        let table = attached::table().ok_or("the module is not initialised")?;
        table.add(dlg.cast(), Request::default());
        if !table.put(dlg.cast(), Which::InForce, Some(ctx.duplicate())) {
            return Err("shared memory for calls in progress is full: raise the parameter arena_size".into());
        }
        self.watch(dlg, types, callback, ctx).inspect_err(|_| table.forget(dlg.cast()))
    }

    /// As [`Dialogs::register`], for a context that only the callback gets.
    pub fn watch(&self, dlg: *mut km_dlg_cell, types: u32, callback: DialogCb, ctx: SharedContext) -> Result<(), String> {
        let raw = ctx.into_raw();
        // SAFETY: the dialog is alive (promise 6).
        if unsafe { (self.dialog.register_dlgcb)(dlg, types as c_int, callback, raw, Some(release)) } == 0 {
            return Ok(());
        }
        // SAFETY: on failure the host kept nothing.
        drop(unsafe { SharedContext::from_raw(raw) });
        Err("the dialog module refused the accounting callbacks: no CDR can be written for this call".into())
    }

    /// Calls `callback` for every dialog that is made or restored, now or later.
    pub fn register_global(&self, types: u32, callback: DialogCb) -> bool {
        // SAFETY: called in mod_init (promise 2).
        unsafe { (self.dialog.register_dlgcb)(std::ptr::null_mut(), types as c_int, callback, proof::witness(), None) == 0 }
    }

    /// Keeps a value in the dialog.
    pub fn store(&self, dlg: *mut km_dlg_cell, name: &str, value: &[u8]) -> bool {
        let (mut name, mut value) = (Text::borrow(name.as_bytes()), Text::borrow(value));
        // SAFETY: the host copies name and value (promise 6).
        unsafe { (self.dialog.set_dlg_variable)(dlg, &raw mut name, &raw mut value) == 0 }
    }

    /// Removes a value from the dialog, which needs no memory.
    pub fn remove(&self, dlg: *mut km_dlg_cell, name: &str) {
        let mut name = Text::borrow(name.as_bytes());
        // SAFETY: the host only compares the name, and removes the value where it is to put none in its place (promise 6).
        unsafe { (self.dialog.set_dlg_variable)(dlg, &raw mut name, std::ptr::null_mut()) };
    }

    /// A value kept in the dialog.
    pub fn fetch(&self, dlg: *mut km_dlg_cell, name: &str) -> Option<Vec<u8>> {
        let mut name = Text::borrow(name.as_bytes());
        let mut out = Text::default();
        // SAFETY: the host answers with a copy in a buffer of its own, good until the next call (promise 6).
        unsafe { ((self.dialog.get_dlg_varval)(dlg, &raw mut name, &raw mut out) == 0).then(|| out.bytes().to_vec()).filter(|v| v.len() <= CALL_NAME) }
    }
}

/// The module mqueue: queues that scripts read.
pub struct Queues {
    add: unsafe extern "C" fn(*mut Text, *mut Text, *mut Text) -> c_int,
}

impl Queues {
    /// Loads its function.
    pub fn load(symbols: &Symbols) -> Result<Queues, String> {
        let missing = || "the module mqueue is not loaded: load mqueue.so, above acc.so, or remove json_output_mqueue".to_string();
        let bind = symbols.export(c"bind_mq", 1, 0).ok_or_else(missing)?;
        let mut table = km_mq_api { add: None };
        // SAFETY: the function fills a table of this type, which scripts/check-abi-kamailio compares (promise 4).
        let rc = unsafe { transmute::<unsafe extern "C" fn(), unsafe extern "C" fn(*mut km_mq_api) -> c_int>(bind)(&raw mut table) };
        let add = table.add.filter(|_| rc >= 0).ok_or_else(missing)?;
        Ok(Queues { add })
    }

    /// Puts a text into a queue; false if there is none of this name, or no memory.
    pub fn add(&self, queue: &str, key: &str, text: &str) -> bool {
        let [mut queue, mut key, mut text] = [queue, key, text].map(|t| Text::borrow(t.as_bytes()));
        // SAFETY: the host copies all three (promise 4).
        unsafe { (self.add)(&raw mut queue, &raw mut key, &raw mut text) >= 0 }
    }
}

symbols! {
    /// The Record-Route module.
    pub struct Rr {
        fn is_direction(*mut km_sip_msg, c_int) -> c_int;
    }
}

/// A request follows its routes: message, parameters of the route, and ours.
type RoutedCb = unsafe extern "C" fn(*mut km_sip_msg, *mut Text, *mut c_void);

symbols! {
    /// The Record-Route module, in as far as it announces requests that follow their routes.
    pub struct Routed {
        fn register_rrcb(RoutedCb, *mut c_void) -> c_int;
    }
}

impl Routed {
    /// Registers for these announcements; there are none if the module is not loaded.
    pub fn register(symbols: &Symbols, f: RoutedCb) -> Result<(), String> {
        let Some(table) = table(symbols, "rr", c"load_rr", 0) else { return Ok(()) };
        // SAFETY: as in `Rr::load`.
        let routed: Routed = all_of(|name| table.function(name), |find| unsafe { Routed::find(find) })?;
        // SAFETY: the host keeps the function and a parameter that it does not read (promise 4).
        let rc = unsafe { (routed.register_rrcb)(f, proof::witness()) };
        if rc < 0 { Err("the module rr refused the callback for requests that follow their routes".into()) } else { Ok(()) }
    }
}

impl Rr {
    /// Loads the table for `detect_direction`.
    pub fn load(symbols: &Symbols) -> Result<Rr, String> {
        let missing = || "parameter detect_direction: the module rr is not loaded: load rr.so or set detect_direction to 0".to_string();
        let table = table(symbols, "rr", c"load_rr", 0).ok_or_else(missing)?;
        if table.number(c"append_fromtag")? == 0 {
            return Err("parameter detect_direction: rr does not put the From tag into its routes: set modparam(\"rr\", \"append_fromtag\", 1)".into());
        }
        // SAFETY: the function of this name has this type, which scripts/check-abi-kamailio compares (promise 4).
        all_of(|name| table.function(name), |find| unsafe { Rr::find(find) })
    }

    /// Was the request sent by the callee?
    pub fn is_upstream(&self, msg: *mut km_sip_msg) -> bool {
        // SAFETY: msg is the request being processed (promise 5).
        unsafe { (self.is_direction)(msg, KM_RR_FLOW_UPSTREAM as c_int) == 0 }
    }
}
