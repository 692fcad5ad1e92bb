//! Management commands: the table that the host reads, in the layout of its version, and answers
//! as the host's own objects.

use std::ffi::{CString, c_char, c_int};

use super::abi::*;
use super::state::server;
use super::symbols::Symbols;
use crate::declaration::COMMANDS;
use crate::host::exported::exports;
use crate::host::guard;
use crate::host::management::{Answer, BODIES, Fields, Value};
use crate::host::proof::Object;
use crate::host::server::numbered::numbered;
use crate::worker;

type Entry = unsafe extern "C" fn(*const os_mi_params, *mut os_mi_handler) -> *mut os_mi_response;

/// Sizes that an element of such a table has had in different versions.
const SIZES: [usize; 2] = [OS_MI_EXPORT_SIZE_3_4_7 as usize, OS_MI_EXPORT_SIZE_4_0_0 as usize];

/// Size of an element in this server: the one with which the tables of its own modules can be read. With
/// a wrong size, reading never gets further than the first element.
fn element_size(symbols: &Symbols) -> Option<usize> {
    let modules = symbols.all_modules();
    let tables = || modules.iter().filter_map(|e| Some((Object::of(e.mi_cmds.cast())?, e.mi_cmds)));
    SIZES.into_iter().find(|size| tables().any(|(object, table)| object.length(table.cast(), *size, OS_MI_EXPORT_RECIPES as usize).is_some_and(|n| n > 1)))
}

/// Offers the management commands, which the host reads after initialisation. By then, the table of another
/// module shows how large an element is.
pub fn offer(symbols: &Symbols) {
    match element_size(symbols) {
        Some(size) => {
            let table = table(size);
            // SAFETY: our own table, filled in the constructor; the host reads this field later, in
            // this same process (promise 2).
            unsafe { (*(&raw mut exports).cast::<os_module_exports>()).mi_cmds = table };
        }
        None => log::warn!("the management commands of this server have a form that is not known: those of acc are not offered; use accctl instead"),
    }
}

/// Makes the table, which lives for ever: each command with one recipe without parameters, and an end
/// mark.
fn table(size: usize) -> *const os_mi_export {
    let mut bytes = vec![0usize; size / size_of::<usize>() * (COMMANDS.len() + 1)].leak().as_mut_ptr().cast::<u8>();
    let table = bytes.cast_const().cast::<os_mi_export>();
    for (c, entry) in COMMANDS.iter().zip(numbered!(command as Entry, COMMANDS.len())) {
        let text = |t: &str| CString::new(t).map_or(std::ptr::null(), |c| c.into_raw().cast_const());
        // SAFETY: the offsets lie inside one element of this version (promise 2), which is aligned
        // to pointers; the next element begins after it.
        unsafe {
            bytes.add(OS_MI_EXPORT_NAME as usize).cast::<*const c_char>().write(text(c.name));
            bytes.add(OS_MI_EXPORT_HELP as usize).cast::<*const c_char>().write(text(c.help));
            bytes.add(OS_MI_EXPORT_RECIPES as usize).cast::<Entry>().write(entry);
            bytes = bytes.add(size);
        }
    }
    table
}

/// The host runs `COMMANDS[I]`.
unsafe extern "C" fn command<const I: usize>(_params: *const os_mi_params, _handler: *mut os_mi_handler) -> *mut os_mi_response {
    run(I)
}

/// The answer of a command; a null pointer tells the host's caller that it failed.
#[inline(never)]
fn run(i: usize) -> *mut os_mi_response {
    guard::entry(COMMANDS[i].name, std::ptr::null_mut(), || {
        let (Some(server), Some(instance)) = (server(), worker::instance()) else { return std::ptr::null_mut() };
        match BODIES[i](instance) {
            Ok(answer) => server.symbols.answer(&answer),
            Err(e) => {
                log::error!("{}: {e}", COMMANDS[i].name);
                std::ptr::null_mut()
            }
        }
    })
}

impl Symbols {
    /// The answer as the host's object; null if the host has no memory.
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
