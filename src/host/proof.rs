//! Proofs. What the module uses of the server could change with any release, so the version alone is not
//! trusted: functions are found by their names, tables and values are measured at the start, and parameters
//! of callbacks at the first call. What cannot be proved at the start stops the start, with one log line;
//! what turns out to be wrong later stops accounting, with one log line, and the server goes on.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use super::arena;
use super::opensips::abi::OS_BINDS_ROOM;

/// Room for a table of another module of either family.
const ROOM: usize = OS_BINDS_ROOM as usize;
/// A pattern that no server writes by itself: shows how much of a place was written.
const UNTOUCHED: u8 = 0xa5;

/// The end of a refusal: what its reader can do.
pub const CURE: &str = "this acc module cannot work with it: use a tested version, or an acc module made for yours";

/// The program or the shared object that an address belongs to.
pub struct Object {
    base: *mut c_void,
    handle: NonNull<c_void>,
}

impl Object {
    /// The object that contains `address`. A module that is part of the program has no object of its own.
    pub fn of(address: *const c_void) -> Option<Object> {
        let mut map: *mut LinkMap = ptr::null_mut();
        let mut info = no_info();
        // SAFETY: looks an address up and changes nothing; the map of an object that is loaded is
        // valid, and begins as <link.h> says.
        unsafe {
            if libc::dladdr1(address, &raw mut info, (&raw mut map).cast(), RTLD_DL_LINKMAP) == 0 || map.is_null() {
                return None;
            }
            let name = (*map).name;
            let handle = match name.is_null() || *name == 0 {
                true => libc::dlopen(ptr::null(), libc::RTLD_LAZY),
                false => libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD),
            };
            Some(Object { base: info.dli_fbase, handle: NonNull::new(handle)? })
        }
    }

    /// The object's own symbol of that name.
    pub fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: an open handle and a terminated name.
        let found = unsafe { libc::dlsym(self.handle.as_ptr(), name.as_ptr()) };
        NonNull::new(found).filter(|p| self.has(p.as_ptr()))
    }

    /// Is the address in this object?
    pub fn has(&self, address: *const c_void) -> bool {
        look_up(address).is_some_and(|info| info.dli_fbase == self.base)
    }

    /// A short name in this object's memory, as modules give their functions, parameters, commands.
    fn has_name(&self, at: *const c_char) -> bool {
        for i in 0..MAX_NAME {
            let p = at.wrapping_add(i);
            if !self.has(p.cast()) {
                return false;
            }
            // SAFETY: the object has the byte in its memory.
            match unsafe { *p } as u8 {
                0 => return i > 0,
                b if b.is_ascii_graphic() => {}
                _ => return false,
            }
        }
        false
    }

    /// Length of a table of this object, assuming that its elements have `size` bytes: each begins with a
    /// name, and has an address in this object at `function`; the table ends with an element
    /// without a name. `None` if the table is not like that.
    pub fn length(&self, table: *const c_void, size: usize, function: usize) -> Option<usize> {
        let word = |at: *const u8| {
            let last_byte = at.wrapping_add(size_of::<usize>() - 1);
            let is_there = (at as usize).is_multiple_of(align_of::<usize>()) && self.has(at.cast()) && self.has(last_byte.cast());
            // SAFETY: the object has the word in its memory.
            is_there.then(|| unsafe { at.cast::<*const c_void>().read() })
        };
        for n in 0..MAX_TABLE {
            let element = table.cast::<u8>().wrapping_add(n * size);
            let name = word(element)?;
            if name.is_null() {
                return Some(n);
            }
            if !self.has_name(name.cast()) || !self.has(word(element.wrapping_add(function))?) {
                return None;
            }
        }
        None
    }
}

/// Longest name, and longest table: limits the search if it is not one.
const MAX_NAME: usize = 100;
const MAX_TABLE: usize = 1000;

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the handle that `of` opened; the object stays loaded by who loaded it.
        unsafe { libc::dlclose(self.handle.as_ptr()) };
    }
}

/// The head of the C library's `struct link_map`.
#[repr(C)]
struct LinkMap {
    address: usize,
    name: *const c_char,
}

const RTLD_DL_SYMENT: c_int = 1;
const RTLD_DL_LINKMAP: c_int = 2;

fn no_info() -> libc::Dl_info {
    libc::Dl_info { dli_fname: ptr::null(), dli_fbase: ptr::null_mut(), dli_sname: ptr::null(), dli_saddr: ptr::null_mut() }
}

fn look_up(address: *const c_void) -> Option<libc::Dl_info> {
    let mut info = no_info();
    // SAFETY: looks an address up and changes nothing.
    (unsafe { libc::dladdr(address, &raw mut info) } != 0).then_some(info)
}

/// Does the address lie in the program or in one of its shared objects?
pub fn is_in_an_object(address: *const c_void) -> bool {
    look_up(address).is_some()
}

/// Size of the variable that begins at `address`; `None` if its program does not tell.
pub fn size_of_variable(address: *const c_void) -> Option<usize> {
    let mut symbol: *const libc::Elf64_Sym = ptr::null();
    let mut info = no_info();
    // SAFETY: looks an address up and changes nothing; the symbol lies in the object's own table.
    unsafe {
        let found = libc::dladdr1(address, &raw mut info, (&raw mut symbol).cast(), RTLD_DL_SYMENT) != 0;
        (found && !symbol.is_null() && info.dli_saddr.cast_const() == address).then(|| (*symbol).st_size as usize)
    }
}

/// Can a word be read at this address? The kernel is asked, which returns an error where reading would
/// end the process: it is told to wait, for no time at all, until a word with this value changes, so it
/// reads the word first.
pub fn is_readable(word: *const c_void) -> bool {
    const UNLIKELY: u32 = 0x5acc_5acc;
    if word.is_null() || !(word as usize).is_multiple_of(align_of::<usize>()) {
        return false;
    }
    let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: changes nothing, whatever the address.
    let rc = unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, UNLIKELY, &raw const no_time) };
    rc != -1 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT)
}

/// The table that a module of the server fills for other modules.
pub struct Table {
    module: &'static str,
    room: Box<[usize; ROOM / size_of::<usize>()]>,
    object: Object,
}

impl Table {
    /// Lets the module fill its table through the function `load`; `None` if it does not.
    ///
    /// # Safety
    /// `load` is the function that the module exports to other modules for this.
    pub unsafe fn filled(module: &'static str, load: unsafe extern "C" fn(*mut c_void) -> c_int) -> Option<Table> {
        let object = Object::of(load as *const c_void)?;
        let mut room = Box::new([0; ROOM / size_of::<usize>()]);
        // SAFETY: such functions take one pointer to their table, which the room is larger than (promise 4).
        (unsafe { load(room.as_mut_ptr().cast()) } != -1).then_some(Table { module, room, object })
    }

    fn refused(&self, name: &CStr) -> String {
        format!("the module {} of this server does not offer {} as it does in the versions that are known: {CURE}", self.module, name.to_string_lossy())
    }

    fn place(&self, name: &CStr) -> Result<usize, String> {
        let address = self.object.symbol(name).ok_or_else(|| self.refused(name))?.as_ptr() as usize;
        self.room.iter().position(|p| *p == address).ok_or_else(|| self.refused(name))
    }

    /// The function of this name, which must be somewhere in the module's table.
    pub fn function(&self, name: &CStr) -> Result<*mut c_void, String> {
        self.place(name).map(|i| self.room[i] as *mut c_void)
    }

    /// A function of the module that has this name and is not in its table.
    pub fn beside(&self, name: &CStr) -> Result<*mut c_void, String> {
        self.object.symbol(name).map(NonNull::as_ptr).ok_or_else(|| self.refused(name))
    }

    /// The function in the table between two that have names; it has none itself.
    pub fn between(&self, before: &CStr, after: &CStr, what: &CStr) -> Result<*mut c_void, String> {
        let (b, a) = (self.place(before)?, self.place(after)?);
        let found = self.room.get(b + 1).filter(|_| a == b + 2).map(|p| *p as *mut c_void);
        found.filter(|p| self.object.has(*p)).ok_or_else(|| self.refused(what))
    }

    /// A number that the module has as a variable of that name.
    pub fn number(&self, name: &CStr) -> Result<c_int, String> {
        let p = self.object.symbol(name).filter(|p| size_of_variable(p.as_ptr()) == Some(size_of::<c_int>())).ok_or_else(|| self.refused(name))?;
        // SAFETY: a variable of this size, which only the parameters of the script set.
        Ok(unsafe { p.cast::<c_int>().read() })
    }
}

/// A place that shows how much of it was written.
#[repr(C, align(16))]
pub struct Probe<const N: usize>([u8; N]);

impl<const N: usize> Probe<N> {
    /// Nothing is written.
    pub const fn new() -> Self {
        Probe([UNTOUCHED; N])
    }

    /// Where to write.
    pub fn place(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    /// How many bytes were written from the beginning on.
    pub fn written(&self) -> usize {
        self.0.iter().rposition(|b| *b != UNTOUCHED).map_or(0, |last| last + 1)
    }
}

/// Parameter of callbacks that have no context: an address to recognise.
static WITNESS: u8 = 0;

/// See [`WITNESS`].
pub fn witness() -> *mut c_void {
    (&raw const WITNESS).cast_mut().cast()
}

/// Whether this was proved in this process.
pub struct Once(AtomicBool);

impl Once {
    /// Not yet.
    pub const fn new() -> Self {
        Once(AtomicBool::new(false))
    }

    /// Runs the proof until it has succeeded once; if it fails, accounting stops. `false` = stopped.
    pub fn proved(&self, what: &str, proof: impl FnOnce() -> bool) -> bool {
        if stopped() {
            return false;
        }
        if self.0.load(Ordering::Relaxed) {
            return true;
        }
        if !proof() {
            stop(what);
            return false;
        }
        self.0.store(true, Ordering::Relaxed);
        true
    }
}

/// Does the place of a callback's parameter hold one of our pointers: the witness or a context?
pub fn is_ours(param: *mut *mut c_void) -> bool {
    if !is_readable(param.cast()) {
        return false;
    }
    // SAFETY: the word can be read.
    let value = unsafe { *param };
    value == witness() || arena::get().is_some_and(|a| a.is_object(value))
}

/// Can this be the address of a message? `faked` is the server's mark for a reply without one.
pub fn is_message(msg: *mut c_void, faked: *mut c_void) -> bool {
    msg.is_null() || msg == faked || is_readable(msg)
}

/// SIP codes have three digits, whatever a reply contains.
pub fn is_code(code: c_int) -> bool {
    (0..=999).contains(&code)
}

/// Was accounting stopped, here or in another process of this server?
pub fn stopped() -> bool {
    arena::get().is_some_and(|a| a.head().stopped.load(Ordering::Relaxed) != 0)
}

/// Stops accounting in all processes, with one log line.
pub fn stop(what: &str) {
    let Some(arena) = arena::get() else { return };
    if arena.head().stopped.swap(1, Ordering::Relaxed) == 0 {
        log::error!("{what}: {CURE}. Nothing more is accounted; the server goes on without");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_mapped_can_be_read() {
        let word = 7usize;
        assert!(is_readable((&raw const word).cast()));
        assert!(!is_readable(ptr::null()));
        assert!(!is_readable((&raw const word).cast::<u8>().wrapping_add(1).cast()), "not aligned");
        for nowhere in [8usize, 480, 0xdead_0000, usize::MAX - 7, 1 << 46] {
            assert!(!is_readable(nowhere as *const c_void), "{nowhere:x}");
        }
    }

    #[test]
    fn a_probe_tells_how_much_was_written() {
        let mut probe = Probe::<64>::new();
        assert_eq!(probe.written(), 0);
        // SAFETY: the probe has room for it.
        unsafe { probe.place().cast::<[u8; 24]>().write([0; 24]) };
        assert_eq!(probe.written(), 24);
    }

    unsafe extern "C" fn fills_nothing(_table: *mut c_void) -> c_int {
        1
    }

    unsafe extern "C" fn fills_malloc(table: *mut c_void) -> c_int {
        // SAFETY: the table of `Table::filled`.
        unsafe { table.cast::<usize>().add(3).write(libc::malloc as *const () as usize) };
        1
    }

    #[test]
    fn functions_are_found_by_name_and_only_in_the_table() {
        // SAFETY: functions of the right type.
        let table = unsafe { Table::filled("test", fills_nothing) }.unwrap();
        let e = table.function(c"get_t").unwrap_err();
        assert!(e.contains("module test") && e.contains("get_t"), "{e}");
        let c_library = Object::of(libc::malloc as *const c_void).unwrap();
        assert_eq!(c_library.symbol(c"malloc").map(NonNull::as_ptr), Some(libc::malloc as *mut c_void));
        assert!(c_library.symbol(c"no_such_function").is_none());
        // SAFETY: as above.
        let mut table = unsafe { Table::filled("test", fills_malloc) }.unwrap();
        table.object = c_library;
        assert_eq!(table.function(c"malloc"), Ok(libc::malloc as *mut c_void));
        assert!(table.function(c"free").is_err(), "it is not in the table");
        assert!(table.number(c"malloc").is_err(), "it is not a number");
    }
}
