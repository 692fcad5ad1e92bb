//! Events: the list of parameters that an event is raised with.

use std::ptr;

use super::abi::*;
use super::symbols::Symbols;
use crate::backend::event::EventValue;
use crate::host::proof;
use crate::host::server::Text;

/// The parameters of one event, as the host reads them. A list of the host's own would be an allocation from its
/// memory for each parameter: 146 000 instructions for one CDR, a twelfth of what the worker takes for the whole call.
struct Params {
    list: Box<[os_evi_param]>,
    /// Their texts, into which the host may write.
    _texts: Vec<u8>,
}

impl Params {
    /// Names must live until the event is raised.
    fn new(params: &[(&str, EventValue<'_>)]) -> Params {
        let all = params.iter().filter_map(|(_, value)| if let EventValue::Text(Some(text)) = value { Some(*text) } else { None });
        let mut texts = all.collect::<Vec<_>>().concat();
        let mut at = texts.as_mut_ptr();
        let mut copy = |text: &[u8]| {
            let copy = Text { s: at.cast(), len: text.len() as i32 };
            at = at.wrapping_add(text.len());
            copy
        };
        let param = |(name, value): &(&str, EventValue<'_>)| {
            let (flags, val) = match value {
                EventValue::Int(n) => (OS_EVI_INT_VAL, os_int_str { n: *n }),
                EventValue::Text(text) => (OS_EVI_STR_VAL, os_int_str { s: text.map_or_else(Text::default, &mut copy) }),
            };
            os_evi_param { flags: flags as i32, val, name: Text::borrow(name.as_bytes()), next: ptr::null_mut() }
        };
        let mut list: Box<[_]> = params.iter().map(param).collect();
        let first = list.as_mut_ptr();
        for i in 1..list.len() {
            list[i - 1].next = first.wrapping_add(i);
        }
        Params { list, _texts: texts }
    }

    /// The list for the host, which frees nothing of it without a flag.
    fn head(&mut self) -> os_evi_params {
        let n = self.list.len();
        let first = if n == 0 { ptr::null_mut() } else { self.list.as_mut_ptr() };
        os_evi_params { flags: 0, first, last: first.wrapping_add(n.saturating_sub(1)) }
    }
}

/// Raises an event.
pub fn raise(symbols: &Symbols, event: os_event_id, params: &[(&str, EventValue<'_>)]) -> bool {
    let mut params = Params::new(params);
    let mut head = params.head();
    // SAFETY: the list is as the host's own, and lives, with names and values, until the event is raised (promise 8).
    unsafe { (symbols.evi_raise_event)(event, &raw mut head) == 0 }
}

/// Compares a list of parameters that the host makes with what is known of it.
pub fn prove_params(symbols: &Symbols) -> Result<(), String> {
    let texts = [Text::borrow(b"Acc-Proof"), Text::borrow(b"Acc-Value"), Text::borrow(b"Acc-Number")];
    let number = 0x5acc;
    // SAFETY: the host's own list, which it frees again; names and values live until then (promise 8). What is in
    // it is only looked at where it can be read.
    let known = unsafe {
        let list = (symbols.evi_get_params)();
        if list.is_null() {
            return Err("the host has no room for the parameters of an event: raise its private memory (-M)".into());
        }
        let added = (symbols.evi_param_add)(list, &raw const texts[0], (&raw const texts[1]).cast(), OS_EVI_STR_VAL as i32) >= 0
            && (symbols.evi_param_add)(list, &raw const texts[2], (&raw const number).cast(), OS_EVI_INT_VAL as i32) >= 0;
        let known = added && is_known(list, &texts, number);
        (symbols.evi_free_params)(list);
        known
    };
    if known { Ok(()) } else { Err(format!("parameters of events in this server are not those of the known versions: {}", proof::CURE)) }
}

/// Does this list contain a text and then a number?
///
/// # Safety
/// `list` is what the host made.
unsafe fn is_known(list: *const os_evi_params, texts: &[Text; 3], number: i32) -> bool {
    let same = |a: &Text, b: &Text| a.s == b.s && a.len == b.len;
    // SAFETY: each part is read only when all its words can be, and any bytes are numbers and addresses.
    unsafe {
        let Some(list) = readable(list) else { return false };
        let (Some(first), Some(last)) = (readable(list.first), readable(list.last)) else { return false };
        let is_text = first.flags == OS_EVI_STR_VAL as i32 && same(&first.name, &texts[0]) && same(&first.val.s, &texts[1]);
        let is_number = last.flags == OS_EVI_INT_VAL as i32 && same(&last.name, &texts[2]) && last.val.n == number;
        is_text && is_number && ptr::eq(first.next, last) && last.next.is_null()
    }
}

/// What is at this address, if all of it can be read.
///
/// # Safety
/// Any bytes make a `T`, and nobody writes them meanwhile.
unsafe fn readable<'a, T>(at: *const T) -> Option<&'a T> {
    let mut words = (0..size_of::<T>() / size_of::<usize>()).map(|i| at.cast::<usize>().wrapping_add(i));
    // SAFETY: as above.
    words.all(|word| proof::is_readable(word.cast())).then(|| unsafe { &*at })
}
