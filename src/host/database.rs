//! The server's own database modules, for the values of `db_url` that this module does not serve
//! itself. Both families have the same interface; only the places in a module's table differ.

use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::ptr;
use std::sync::Arc;

use once_cell::sync::OnceCell;

use super::opensips::abi::*;
use crate::backend::{HostDatabase, HostValue};

/// A module's table, read into more room than any version fills.
#[repr(C, align(16))]
struct Room([u8; OS_DB_FUNC_ROOM as usize]);

/// Where the functions stand in a module's table.
pub struct Places {
    /// Offset of `use_table`.
    pub use_table: usize,
    /// Offset of `init`.
    pub init: usize,
    /// Offset of `close`.
    pub close: usize,
    /// Offset of `insert`.
    pub insert: usize,
}

/// The server's function that fills the table of the module for a URL.
pub type BindMod = unsafe extern "C" fn(*const os_str, *mut os_db_func) -> c_int;

/// A database module, bound before the fork, and the URL to give it.
struct Bound {
    use_table: unsafe extern "C" fn(*mut os_db_con, *const os_str) -> c_int,
    init: unsafe extern "C" fn(*const os_str) -> *mut os_db_con,
    close: unsafe extern "C" fn(*mut os_db_con),
    insert: unsafe extern "C" fn(*const os_db_con, *const *mut os_str, *const os_db_val, c_int) -> c_int,
    /// Terminated, as in the server's own parameter.
    url: Vec<u8>,
}

static BOUND: OnceCell<Bound> = OnceCell::new();

/// Binds the module that serves `url`; in initialisation. Without `bind_mod` the server has none.
pub fn bind(url: &str, bind_mod: Option<BindMod>, places: &Places) -> Result<(), String> {
    let scheme = crate::backend::sql::scheme(url);
    let refused =
        || format!("parameter db_url: the server has no database module for {scheme}: load db_{scheme}.so, or use a URL with sqlite:, mysql: or postgres:");
    let bind_mod = bind_mod.ok_or_else(refused)?;
    let mut room = Room([0; OS_DB_FUNC_ROOM as usize]);
    let url: Vec<u8> = [url.as_bytes(), b"\0"].concat();
    let name = os_str::borrow(&url[..url.len() - 1]);
    // SAFETY: the function reads the URL and fills its table, which the room is larger than (promise 11).
    let rc = unsafe { bind_mod(&raw const name, (&raw mut room).cast()) };
    let at = |offset: usize| {
        let mut raw = [0u8; size_of::<usize>()];
        raw.copy_from_slice(&room.0[offset..offset + size_of::<usize>()]);
        usize::from_ne_bytes(raw) as *mut c_void
    };
    let found = [places.use_table, places.init, places.close, places.insert].map(at);
    if rc < 0 || found.iter().any(|f| f.is_null()) {
        return Err(refused());
    }
    // SAFETY: the functions stand at these places with these types, which scripts/check-abi and
    // scripts/check-abi-kamailio compare with the servers' headers (promise 11).
    let bound = unsafe {
        Bound {
            use_table: transmute::<*mut c_void, unsafe extern "C" fn(*mut os_db_con, *const os_str) -> c_int>(found[0]),
            init: transmute::<*mut c_void, unsafe extern "C" fn(*const os_str) -> *mut os_db_con>(found[1]),
            close: transmute::<*mut c_void, unsafe extern "C" fn(*mut os_db_con)>(found[2]),
            insert: transmute::<*mut c_void, unsafe extern "C" fn(*const os_db_con, *const *mut os_str, *const os_db_val, c_int) -> c_int>(found[3]),
            url,
        }
    };
    let _ = BOUND.set(bound);
    Ok(())
}

/// A connection of this process through the bound module; `None` when none was bound.
pub fn open() -> Option<Box<dyn HostDatabase>> {
    Some(Box::new(Connection { module: BOUND.get()?, handle: ptr::null_mut() }))
}

struct Connection {
    module: &'static Bound,
    handle: *mut os_db_con,
}

// SAFETY: the handle belongs to this process, not to a thread. `process::deliver_once` opens the only
// connection, and every call has it mutably, so that there is one at a time (promise 11).
unsafe impl Send for Connection {}

fn text(bytes: &[u8]) -> os_str {
    // Modules may look at the first byte of an empty text.
    os_str::borrow(if bytes.is_empty() { &b"\0"[..0] } else { bytes })
}

fn value(v: &HostValue) -> os_db_val {
    let mut out = os_db_val { type_: OS_DB_STR, ..Default::default() };
    match v {
        HostValue::Null => out.nul = 1,
        HostValue::Text(bytes) => out.val.str_val = text(bytes),
        HostValue::Time(seconds) => {
            out.type_ = OS_DB_DATETIME;
            out.val.time_val = *seconds;
        }
        HostValue::Int(n) => {
            out.type_ = OS_DB_INT;
            out.val.int_val = *n;
        }
    }
    out
}

impl HostDatabase for Connection {
    fn connect(&mut self) -> Result<(), String> {
        self.disconnect();
        let url = os_str::borrow(&self.module.url[..self.module.url.len() - 1]);
        // SAFETY: after the fork, one call at a time; the module copies the URL (promise 11).
        self.handle = unsafe { (self.module.init)(&raw const url) };
        if self.handle.is_null() { Err("db_url: the server's database module cannot connect: see its own message in the server's log".into()) } else { Ok(()) }
    }

    fn insert(&mut self, table: &str, columns: &[Arc<str>], values: &[HostValue]) -> bool {
        if self.handle.is_null() || columns.len() != values.len() {
            return false;
        }
        let table = os_str::borrow(table.as_bytes());
        let mut names: Vec<os_str> = columns.iter().map(|c| os_str::borrow(c.as_bytes())).collect();
        let keys: Vec<*mut os_str> = names.iter_mut().map(|n| &raw mut *n).collect();
        let values: Vec<os_db_val> = values.iter().map(value).collect();
        // SAFETY: the connection is open; the module reads names and values during the call, and
        // looks at the table's name only until it is given another one, which every insert does
        // first (promise 11).
        unsafe {
            (self.module.use_table)(self.handle, &raw const table) >= 0
                && (self.module.insert)(self.handle, keys.as_ptr(), values.as_ptr(), values.len() as c_int) >= 0
        }
    }
}

impl Connection {
    fn disconnect(&mut self) {
        if self.handle.is_null() {
            return;
        }
        // SAFETY: the connection is open, and nobody has it any more (promise 11).
        unsafe { (self.module.close)(std::mem::replace(&mut self.handle, ptr::null_mut())) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.disconnect();
    }
}
