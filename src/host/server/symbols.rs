//! Functions and variables of the server, each declared once: name, type and look-up in one place.

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;

use crate::host::proof;

/// Declares a structure of functions and variables that are found by their names, and the function
/// `find` that fills it. `fn name = "symbol"(…)` is a function whose name differs from its field.
///
/// `find` asks its argument for each address; the second one is the size of a variable, 0 for a
/// function. It answers `None` when one was not found, but asks for all of them.
macro_rules! symbols {
    ($(#[$doc:meta])* $vis:vis struct $Name:ident {
        $(var $var:ident: $type:ty;)*
        $(fn $f:ident $(= $symbol:literal)? ($($argument:ty),* $(,)?) $(-> $result:ty)?;)*
    }) => {
        $(#[$doc])*
        $vis struct $Name {
            $(pub(super) $var: &'static $type,)*
            $(pub(super) $f: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl $Name {
            /// All names.
            #[allow(dead_code, reason = "only the program's own are looked for in its file")]
            pub const NAMES: &[&str] = &[$(stringify!($var),)* $([$($symbol,)? stringify!($f)][0],)*];

            /// # Safety
            /// What `find` answers has the declared type and stays for the life of the process.
            unsafe fn find(mut find: impl FnMut(&std::ffi::CStr, usize) -> Option<std::ptr::NonNull<std::ffi::c_void>>) -> Option<$Name> {
                use $crate::host::server::symbols::name;
                $(let $var = find(&name([stringify!($var)]), size_of::<$type>());)*
                $(let $f = find(&name([$($symbol,)? stringify!($f)]), 0);)*
                // SAFETY: the caller's promise.
                unsafe {
                    Some($Name {
                        $($var: $var?.cast().as_ref(),)*
                        $($f: std::mem::transmute::<*mut std::ffi::c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>($f?.as_ptr()),)*
                    })
                }
            }
        }
    };
}
pub(in crate::host) use symbols;

/// The symbol's own name, else that of its field.
pub fn name<const N: usize>(names: [&str; N]) -> CString {
    CString::new(names[0]).unwrap_or_default()
}

/// A symbol of the program; null if there is none.
pub fn address(name: &CStr) -> *mut c_void {
    // SAFETY: dlsym with a terminated name; RTLD_DEFAULT searches the program first.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// Looks up symbols of the program, and notes what is missing.
#[derive(Default)]
pub struct Program {
    missing: Vec<String>,
}

impl Program {
    /// The address of a symbol. A variable has at least this size, as far as the program tells.
    pub fn find(&mut self, name: &CStr, size: usize) -> Option<NonNull<c_void>> {
        let found = NonNull::new(address(name));
        let is_too_small = size > 0 && found.and_then(|p| proof::size_of_variable(p.as_ptr())).is_some_and(|n| n < size);
        match found {
            Some(_) if is_too_small => self.missing.push(format!("{} of {size} bytes", name.to_string_lossy())),
            Some(p) => return Some(p),
            None => self.missing.push(name.to_string_lossy().into_owned()),
        }
        None
    }

    /// One line that names all that is missing.
    pub fn refusal(&self, server: &str) -> String {
        format!("this server does not offer {}, which this acc module needs: it is not one of the supported {server} versions", self.missing.join(", "))
    }
}

/// Fills a structure with what `look_up` finds; the error is that of the first missing one.
pub fn all_of<T>(
    look_up: impl Fn(&CStr) -> Result<*mut c_void, String>,
    fill: impl FnOnce(&mut dyn FnMut(&CStr, usize) -> Option<NonNull<c_void>>) -> Option<T>,
) -> Result<T, String> {
    let mut missing = None;
    let found = fill(&mut |name, _| match look_up(name) {
        Ok(p) => NonNull::new(p),
        Err(e) => {
            missing.get_or_insert(e);
            None
        }
    });
    found.ok_or_else(|| missing.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::ffi::c_int;
    use std::sync::atomic::AtomicPtr;

    use super::*;

    symbols! {
        /// Of the C library.
        struct Library {
            var environ: AtomicPtr<c_void>;
            fn absolute = "abs"(c_int) -> c_int;
            fn getpid() -> c_int;
        }
    }

    symbols! {
        /// Symbols that no program has.
        struct Nowhere {
            fn no_such_function(c_int);
            fn nor = "this_one"();
        }
    }

    #[test]
    fn what_is_declared_is_found_by_its_name() {
        let mut program = Program::default();
        // SAFETY: functions and a variable of the C library with these types.
        let library = unsafe { Library::find(|name, size| program.find(name, size)) }.unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { (library.absolute)(-7) }, 7);
        // SAFETY: as above.
        assert_eq!(unsafe { (library.getpid)() } as u32, std::process::id());
        assert!(!library.environ.load(std::sync::atomic::Ordering::Relaxed).is_null());
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let mut program = Program::default();
        // SAFETY: nothing is found.
        let found = unsafe { Nowhere::find(|name, size| program.find(name, size)) };
        assert!(found.is_none_or(|n| n.no_such_function as usize == n.nor as usize));
        assert!(program.refusal("test").contains("no_such_function, this_one, which"), "{}", program.refusal("test"));
    }
}
