//! Values of a message, read through the host's own pseudo-variables while it is private.

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::abi::*;
use super::symbols::Symbols;
use crate::host::proof::{self, Probe};
use crate::host::server::message::{self, Readable};
use crate::host::server::{Room, Text};

/// Storage for a variable's specification, larger than in any version.
pub struct Spec(Room<{ OS_PV_SPEC_ROOM as usize }>);

/// Storage for a value, larger than in any version.
const VALUE_ROOM: usize = 3 * size_of::<os_pv_value>();

impl Spec {
    /// Parses a variable's name.
    pub fn parse(symbols: &Symbols, name: &[u8]) -> Option<Box<Spec>> {
        let mut spec = Box::new(Spec(Room::default()));
        let text = Text::borrow(name);
        // SAFETY: the room is larger than a specification of any supported version (promise 7).
        let end = unsafe { (symbols.pv_parse_spec)(&raw const text, spec.0.place().cast()) };
        (!end.is_null()).then_some(spec)
    }

    /// Parses a variable that must be the whole text.
    pub fn parse_whole(symbols: &Symbols, text: &[u8]) -> Option<Box<Spec>> {
        let mut spec = Box::new(Spec(Room::default()));
        let borrowed = Text::borrow(text);
        // SAFETY: as in `parse`.
        let end = unsafe { (symbols.pv_parse_spec)(&raw const borrowed, spec.0.place().cast()) };
        (end.cast_const().cast() == text.as_ptr_range().end).then_some(spec)
    }

    /// The value as bytes.
    pub fn bytes(&self, symbols: &Symbols, msg: *mut os_sip_msg) -> Option<Vec<u8>> {
        // SAFETY: the value was just read, and is copied before the next reading.
        self.value(symbols, msg).and_then(|v| unsafe { bytes_of(&v) })
    }

    /// The raw value; the host's buffer is good until the next reading.
    pub fn value(&self, symbols: &Symbols, msg: *mut os_sip_msg) -> Option<os_pv_value> {
        let mut room = Room::<VALUE_ROOM>::default();
        // SAFETY: msg is private to this process (promise 5); the host does not change the
        // specification, and the room is larger than a value (promise 7).
        let rc = unsafe { (symbols.pv_get_spec_value)(msg, self.0.written().cast(), room.place().cast()) };
        // SAFETY: the room begins with a value, zeroed or as the host wrote it.
        (rc == 0).then(|| unsafe { room.place().cast::<os_pv_value>().read() })
    }
}

/// The name in the specification that was used for the proof. The host never frees names, like those in a
/// script; here a memory checker finds it.
static PROVED: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Compares a specification and a value that the host makes with what is expected: a header's variable with
/// its name and index, and `$$`, whose value is known.
pub fn prove_variables(symbols: &Symbols) -> Result<(), String> {
    const NAME: &[u8] = b"Acc-Proof";
    const INDEX: i32 = 2;
    let refused = |what: &str| format!("{what} of variables in this server are not those of the known versions: {}", proof::CURE);
    let parse = |text: &[u8], room: *mut os_pv_spec| {
        let text = Text::borrow(text);
        // SAFETY: the text lives as long as the host looks at it; the room is far larger than any
        // specification (promise 7).
        !unsafe { (symbols.pv_parse_spec)(&raw const text, room) }.is_null()
    };

    let text = [b"$(hdr(", NAME, b")[", INDEX.to_string().as_bytes(), b"])"].concat();
    let mut probe = Probe::<4096>::new();
    let known = parse(&text, probe.place().cast());
    let size = probe.written();
    let param = probe.place().cast::<u8>().wrapping_add(OS_PV_SPEC_PVP as usize).cast::<os_pv_param>();
    if !known || size > OS_PV_SPEC_ROOM as usize || size < OS_PV_SPEC_PVP as usize + size_of::<os_pv_param>() {
        return Err(refused("specifications"));
    }
    // SAFETY: the probe has these bytes, and any bytes are numbers and addresses.
    let (name, index_type, index) = unsafe { ((*param).pvn.u.isname.name.s, (*param).pvi.type_, (*param).pvi.u.ival) };
    PROVED.store(name.s.cast(), Ordering::Relaxed);
    let is_name = usize::try_from(name.len) == Ok(NAME.len())
        && proof::is_readable((name.s as usize & !(align_of::<usize>() - 1)) as *const _)
        // SAFETY: the host's copy of the name, or our text.
        && unsafe { name.bytes() } == NAME;
    if !is_name || index_type != OS_PV_IDX_INT as i32 || index != INDEX {
        return Err(refused("names and indices"));
    }

    let mut spec = Probe::<4096>::new();
    let mut value = Probe::<256>::new();
    // SAFETY: this variable has its value without a message, but the host wants an address; it gets
    // one with nothing in it. The room is far larger than any value (promise 7).
    let got = parse(b"$$", spec.place().cast())
        && unsafe { (symbols.pv_get_spec_value)([0usize; 4096].as_mut_ptr().cast(), spec.place().cast(), value.place().cast()) } == 0;
    let size = value.written();
    // SAFETY: the probe has these bytes, and any bytes are numbers and addresses.
    let v = unsafe { value.place().cast::<os_pv_value>().read() };
    let has = (OS_PV_VAL_STR | OS_PV_VAL_INT) as i32;
    let is_marker = got
        && (offset_of!(os_pv_value, flags) + size_of::<i32>()..=VALUE_ROOM).contains(&size)
        && v.ri == i32::from(b'$')
        && v.flags & has == has
        && v.rs.len == 1
        && proof::is_readable((v.rs.s as usize & !(align_of::<usize>() - 1)) as *const _)
        // SAFETY: one byte of a word that can be read.
        && unsafe { v.rs.bytes() } == b"$";
    if is_marker { Ok(()) } else { Err(refused("values")) }
}

/// Once in each process, while a message is processed: separates the memory that messages take from the host's private pool
/// from the rest of it, by one small allocation after it that stays.
///
/// The host looks for free memory in lists by size, from the wanted size upwards, and joins free neighbours. After each
/// message its pool would be one large piece again, and every allocation for the next message would first pass some two
/// thousand empty lists. With a piece of the size of a message's memory it passes far fewer.
pub fn keep_memory_apart(symbols: &Symbols) {
    static DONE: AtomicBool = AtomicBool::new(false);
    // Where a memory checker finds it.
    static STAYS: AtomicPtr<Spec> = AtomicPtr::new(ptr::null_mut());
    if !DONE.swap(true, Ordering::Relaxed) {
        // The host copies the format of a time, and never frees it.
        let spec = Spec::parse(symbols, b"$time(AccMemory)").map_or(ptr::null_mut(), Box::into_raw);
        STAYS.store(spec, Ordering::Relaxed);
    }
}

/// A variable's value as bytes: text unchanged, numbers in decimal with their sign (D17), null as `None`.
///
/// # Safety
/// The string of the value, if it has one, is valid.
pub unsafe fn bytes_of(value: &os_pv_value) -> Option<Vec<u8>> {
    let has = |flag: u32| value.flags & flag as i32 != 0;
    if has(OS_PV_VAL_NULL) {
        None
    } else if has(OS_PV_VAL_INT) && (has(OS_PV_TYPE_INT) || !has(OS_PV_VAL_STR)) {
        Some(value.ri.to_string().into_bytes())
    } else if has(OS_PV_VAL_STR) {
        // SAFETY: the caller's promise.
        Some(unsafe { value.rs.bytes() }.to_vec())
    } else {
        None
    }
}

/// The variables that snapshots are made of.
pub type Specs = message::Specs<Box<Spec>>;

/// Parses them once.
pub fn specs(symbols: &Symbols) -> Result<Specs, String> {
    Specs::new(|name| needed(symbols, name))
}

/// A variable that accounting cannot do without.
pub fn needed(symbols: &Symbols, name: &str) -> Result<Box<Spec>, String> {
    Spec::parse(symbols, name.as_bytes()).ok_or_else(|| format!("the host does not know the variable {name}, which this acc module needs"))
}

impl Readable for Box<Spec> {
    type Symbols = Symbols;
    type Raw = os_sip_msg;

    fn bytes(&self, symbols: &Symbols, raw: *mut os_sip_msg) -> Option<Vec<u8>> {
        Spec::bytes(self, symbols, raw)
    }
}

/// A message of this server.
pub type Message<'a> = message::Message<'a, Box<Spec>>;

impl Message<'_> {
    /// Makes the host parse what [`Message::reply`] reads from a reply whose code `matters`, while the message is
    /// private.
    pub fn parse_reply(&self, matters: impl FnOnce(u16) -> bool) {
        let code = self.specs.status.value(self.symbols, self.raw).map_or(0, |v| v.ri as u16);
        if !matters(code) {
            return;
        }
        let more = match code {
            ..200 => Some(&self.specs.content_length),
            200..300 => None,
            300.. => Some(&self.specs.cause),
        };
        for spec in [Some(&self.specs.to_tag), more].into_iter().flatten() {
            // The value itself is not needed.
            let _ = spec.value(self.symbols, self.raw);
        }
    }
}
