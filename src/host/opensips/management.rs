//! Management commands: the table that the host reads, in the layout of its version, and answers
//! as the host's own objects.

use std::ffi::{CString, c_char, c_int};

use super::abi::*;
use super::state::server;
use super::symbols::Symbols;
use super::versions::Row;
use crate::host::guard;
use crate::host::management::{ALL, Answer, Fields, Value};
use crate::module::COMMANDS;
use crate::worker;

type Entry = unsafe extern "C" fn(*const os_mi_params, *mut os_mi_handler) -> *mut os_mi_response;

/// Entry points in the order of [`COMMANDS`].
const ENTRIES: [Entry; COMMANDS.len()] = [command::<0>, command::<1>, command::<2>];

/// Makes the table, which lives for ever: a command of each, with one recipe without parameters,
/// and an end mark.
pub fn table(row: &Row) -> *const os_mi_export {
    let size = row.mi_export();
    let mut bytes = vec![0usize; size / size_of::<usize>() * (COMMANDS.len() + 1)].leak().as_mut_ptr().cast::<u8>();
    let table = bytes.cast_const().cast::<os_mi_export>();
    for (c, entry) in COMMANDS.iter().zip(ENTRIES) {
        let text = |t: &str| CString::new(t).map_or(std::ptr::null(), |c| c.into_raw().cast_const());
        // SAFETY: the offsets lie inside one element of this version (promise 2), which is aligned
        // to pointers; the next element begins behind it.
        unsafe {
            bytes.add(OS_MI_EXPORT_NAME as usize).cast::<*const c_char>().write(text(c.name));
            bytes.add(OS_MI_EXPORT_HELP as usize).cast::<*const c_char>().write(text(c.help));
            bytes.add(OS_MI_EXPORT_RECIPES as usize).cast::<Entry>().write(entry);
            bytes = bytes.add(size);
        }
    }
    table
}

/// The host runs `COMMANDS[I]`; a null pointer tells its caller that the command failed.
unsafe extern "C" fn command<const I: usize>(_params: *const os_mi_params, _handler: *mut os_mi_handler) -> *mut os_mi_response {
    guard::entry(COMMANDS[I].name, std::ptr::null_mut(), || {
        let (Some(server), Some(module)) = (server(), worker::module()) else { return std::ptr::null_mut() };
        match ALL[I](module) {
            Ok(answer) => server.symbols.answer(&answer),
            Err(e) => {
                log::error!("{}: {e}", COMMANDS[I].name);
                std::ptr::null_mut()
            }
        }
    })
}

impl Symbols {
    /// The answer as the host's object; null when it has no memory.
    fn answer(&self, answer: &Answer) -> *mut os_mi_response {
        let mut object = std::ptr::null_mut();
        // SAFETY: the host makes the response and its object, and copies every name and value that
        // is added (promise 10).
        unsafe {
            let response = (self.init_mi_result_object)(&raw mut object);
            if response.is_null() {
                return response;
            }
            self.add(object, &answer.fields);
            if let Some((name, rows)) = &answer.list {
                let array = (self.add_mi_array)(object, name.as_ptr().cast_mut().cast(), name.len() as c_int);
                for row in rows {
                    let item = if array.is_null() { array } else { (self.add_mi_object)(array, std::ptr::null_mut(), 0) };
                    if item.is_null() {
                        break;
                    }
                    self.add(item, row);
                }
            }
            response
        }
    }

    /// # Safety
    /// `object` is one of the host's.
    unsafe fn add(&self, object: *mut os_mi_item, fields: &Fields) {
        for (name, value) in fields {
            let (s, len) = (name.as_ptr().cast_mut().cast(), name.len() as c_int);
            // SAFETY: the caller's promise; the host copies names and values (promise 10).
            unsafe {
                match value {
                    Value::Number(n) => (self.add_mi_number)(object, s, len, *n as f64),
                    Value::Text(t) => (self.add_mi_string)(object, s, len, t.as_ptr().cast(), t.len() as c_int),
                };
            }
        }
    }
}
