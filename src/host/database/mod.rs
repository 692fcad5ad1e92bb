//! The server's own database modules, for values of `db_url` that this module does not serve itself. Both
//! families have the same interface; only the places in a module's table differ.

pub mod abi;

use std::ffi::{CStr, c_int};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use once_cell::sync::OnceCell;

use self::abi::*;
use super::server::symbols::symbols;
use super::server::{Room, Text};
use crate::backend::{HostDatabase, HostValue};

/// Where the functions are in a module's table.
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
pub type BindMod = unsafe extern "C" fn(*const Text, *mut os_db_func) -> c_int;

symbols! {
    /// The functions of a database module.
    struct Functions {
        fn use_table(*mut os_db_con, *const Text) -> c_int;
        fn init(*const Text) -> *mut os_db_con;
        fn close(*mut os_db_con);
        fn insert(*const os_db_con, *const *mut Text, *const os_db_val, c_int) -> c_int;
    }
}

/// A database module, bound before the fork, and the URL to give it.
struct Bound {
    functions: Functions,
    /// Terminated, like the server's own parameter.
    url: Vec<u8>,
}

static BOUND: OnceCell<Bound> = OnceCell::new();

/// Binds the module that serves `url`; called in initialisation. Without `bind_mod` the server has none.
pub fn bind(url: &str, bind_mod: Option<BindMod>, places: &Places) -> Result<(), String> {
    let scheme = crate::backend::sql::scheme(url);
    let refused =
        || format!("parameter db_url: the server has no database module for {scheme}: load db_{scheme}.so, or use a URL with sqlite:, mysql: or postgres:");
    let bind_mod = bind_mod.ok_or_else(refused)?;
    let mut table = Room::<{ OS_DB_FUNC_ROOM as usize }>::default();
    let url: Vec<u8> = [url.as_bytes(), b"\0"].concat();
    let name = Text::borrow(&url[..url.len() - 1]);
    // SAFETY: the function reads the URL and fills its table, which the room is larger than (promise 11).
    let rc = unsafe { bind_mod(&raw const name, table.place().cast()) };
    let at = |name: &CStr| match name.to_bytes() {
        b"use_table" => places.use_table,
        b"init" => places.init,
        b"close" => places.close,
        _ => places.insert,
    };
    // SAFETY: the functions stand at these places with these types, which scripts/check-abi and
    // scripts/check-abi-kamailio compare with the servers' headers (promise 11).
    let functions = unsafe { Functions::find(|name, _| NonNull::new(table.address_at(at(name)))) };
    let functions = functions.filter(|_| rc >= 0).ok_or_else(refused)?;
    let _ = BOUND.set(Bound { functions, url });
    Ok(())
}

/// A connection of this process through the bound module; `None` if none was bound.
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

fn text(bytes: &[u8]) -> Text {
    // Modules may look at the first byte of an empty text.
    Text::borrow(if bytes.is_empty() { &b"\0"[..0] } else { bytes })
}

/// Names of tables and columns. Like the server's own they are terminated, because modules such as Kamailio's db_flatstore
/// ignore the length.
struct Names(Vec<u8>);

impl Names {
    fn new<'a>(names: impl Iterator<Item = &'a str>) -> Names {
        Names(names.flat_map(|name| name.bytes().chain([0])).collect())
    }

    fn texts(&self) -> Vec<Text> {
        self.0.split_inclusive(|b| *b == 0).map(|name| Text::borrow(&name[..name.len() - 1])).collect()
    }
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
        let url = Text::borrow(&self.module.url[..self.module.url.len() - 1]);
        // SAFETY: after the fork, one call at a time; the module copies the URL (promise 11).
        self.handle = unsafe { (self.module.functions.init)(&raw const url) };
        if self.handle.is_null() { Err("db_url: the server's database module cannot connect: see its own message in the server's log".into()) } else { Ok(()) }
    }

    fn insert(&mut self, table: &str, columns: &[Arc<str>], values: &[HostValue]) -> bool {
        if self.handle.is_null() || columns.len() != values.len() {
            return false;
        }
        let names = Names::new(columns.iter().map(|c| &**c).chain([table]));
        let mut texts = names.texts();
        let Some(table) = texts.pop().filter(|_| texts.len() == columns.len()) else { return false };
        let keys: Vec<*mut Text> = texts.iter_mut().map(|n| &raw mut *n).collect();
        let values: Vec<os_db_val> = values.iter().map(value).collect();
        // SAFETY: the connection is open; the module reads names, which are terminated, and values during the
        // call, and looks at the table's name only until it is given another one, which every insert does
        // first (promise 11).
        unsafe {
            (self.module.functions.use_table)(self.handle, &raw const table) >= 0
                && (self.module.functions.insert)(self.handle, keys.as_ptr(), values.as_ptr(), values.len() as c_int) >= 0
        }
    }
}

impl Connection {
    fn disconnect(&mut self) {
        if self.handle.is_null() {
            return;
        }
        // SAFETY: the connection is open, and nobody has it any more (promise 11).
        unsafe { (self.module.functions.close)(std::mem::replace(&mut self.handle, ptr::null_mut())) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.disconnect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_terminated() {
        let names = Names::new(["acc", "missed_calls"].into_iter());
        let texts = names.texts();
        assert_eq!(texts.iter().map(|t| t.len).collect::<Vec<_>>(), [3, 12]);
        // SAFETY: the bytes are those of `names`, which is alive.
        let read = |t: &Text| unsafe { CStr::from_ptr(t.s.cast()).to_bytes().to_vec() };
        assert_eq!(texts.iter().map(read).collect::<Vec<_>>(), [&b"acc"[..], b"missed_calls"]);
    }
}
