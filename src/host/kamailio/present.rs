//! The messages that this process is routing (nested, if a route raises an event), each with what belongs
//! to it alone.

use std::cell::RefCell;

use super::abi::{km_cell, km_sip_msg};
use super::attached::Which;
use crate::accounting::clock::Moment;
use crate::host::shared::SharedContext;

/// How many nested messages are told apart; if there are more, the oldest one is forgotten.
const DEEPEST: usize = 8;

/// Address of a message, its number, and the process that received it and numbered it.
type Name = (usize, u32, i32);

struct Entry {
    msg: Name,
    arrived: Moment,
    contexts: [Option<SharedContext>; 2],
    /// Address of the dialog that was made for it, 0 = none.
    dialog: usize,
    /// The CDR of this dialog, until the message has a transaction.
    cdr: Option<SharedContext>,
    /// `acc_load_ctx_from_dlg`: the context that the loaded one replaced.
    replaced: Option<Option<SharedContext>>,
    /// If it is a BYE: the calls that it ended, and whether it has a transaction, whose reply will write
    /// the CDRs.
    bye: Vec<(Ended, bool)>,
    /// It is a BYE that follows its routes.
    routed_bye: bool,
    /// Address of its transaction, 0 = none.
    transaction: usize,
}

thread_local! {
    /// One thread per process runs SIP.
    static MESSAGES: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
}

fn name(msg: *mut km_sip_msg) -> Name {
    // SAFETY: the caller passes the message at hand, which begins with these two (promise 5).
    let (id, pid) = unsafe { ((*msg).id, (*msg).pid) };
    (msg as usize, id, pid)
}

/// A call, and the address of the dialog whose own CDR it has, 0 = none.
pub type Ended = (SharedContext, usize);

/// What is left to do when a message is done.
#[derive(Default)]
pub struct Left {
    /// Calls that ended with a BYE that has no transaction: their CDRs are due.
    pub calls: Vec<Ended>,
    /// A context loaded from the dialog was not unloaded.
    pub loaded: bool,
}

/// A message is about to be routed.
pub fn begin(msg: *mut km_sip_msg) {
    MESSAGES.with_borrow_mut(|messages| {
        begin_in(messages, name(msg));
    });
}

fn begin_in(messages: &mut Vec<Entry>, msg: Name) -> &mut Entry {
    // The same address with another number belongs to a message that is gone.
    messages.retain(|e| e.msg.0 != msg.0);
    if messages.len() == DEEPEST {
        messages.remove(0);
    }
    messages.push(Entry {
        msg,
        arrived: Moment::now(),
        contexts: [None, None],
        dialog: 0,
        cdr: None,
        replaced: None,
        bye: Vec::new(),
        routed_bye: false,
        transaction: 0,
    });
    let last = messages.len() - 1;
    &mut messages[last]
}

/// A message was routed.
pub fn end(msg: *mut km_sip_msg) -> Left {
    let entry = MESSAGES.with_borrow_mut(|messages| messages.iter().position(|e| e.msg == name(msg)).map(|i| messages.remove(i)));
    entry.map_or_else(Left::default, |e| Left {
        calls: e.bye.into_iter().filter(|(_, has_transaction)| !has_transaction).map(|(c, _)| c).collect(),
        loaded: e.replaced.is_some(),
    })
}

fn look<R>(msg: *mut km_sip_msg, f: impl FnOnce(&mut Entry) -> R) -> Option<R> {
    if msg.is_null() {
        return None;
    }
    MESSAGES.with_borrow_mut(|messages| messages.iter_mut().find(|e| e.msg == name(msg)).map(f))
}

/// As `look`, with a new entry if the host runs a route without announcing it.
fn change<R>(msg: *mut km_sip_msg, f: impl FnOnce(&mut Entry) -> R) -> R {
    MESSAGES.with_borrow_mut(|messages| match messages.iter().position(|e| e.msg == name(msg)) {
        Some(i) => f(&mut messages[i]),
        None => f(begin_in(messages, name(msg))),
    })
}

/// When the current message came.
pub fn arrived(msg: *mut km_sip_msg) -> Option<Moment> {
    look(msg, |e| e.arrived)
}

/// The host made this dialog for the message.
pub fn made_dialog(msg: *mut km_sip_msg, dialog: usize) {
    change(msg, |e| e.dialog = dialog);
}

/// The dialog made for the message has this CDR.
pub fn made_cdr(msg: *mut km_sip_msg, cdr: &SharedContext) {
    change(msg, |e| e.cdr = Some(cdr.duplicate()));
}

/// The CDR that was made for the message before its transaction; returned once.
pub fn take_cdr(msg: *mut km_sip_msg) -> Option<SharedContext> {
    look(msg, |e| e.cdr.take()).flatten()
}

/// The transaction that the message has got. The host keeps it at least until the message is done.
pub fn transaction(msg: *mut km_sip_msg) -> Option<*mut km_cell> {
    look(msg, |e| e.transaction).filter(|t| *t != 0).map(|t| t as *mut km_cell)
}

/// The dialog that was made for the message, 0 = none.
pub fn dialog(msg: *mut km_sip_msg) -> usize {
    look(msg, |e| e.dialog).unwrap_or(0)
}

/// A context of the current message.
pub fn get(msg: *mut km_sip_msg, which: Which) -> Option<SharedContext> {
    look(msg, |e| e.contexts[which as usize].as_ref().map(SharedContext::duplicate)).flatten()
}

/// Replaces a context of the current message.
pub fn put(msg: *mut km_sip_msg, which: Which, ctx: Option<SharedContext>) {
    drop(change(msg, |e| std::mem::replace(&mut e.contexts[which as usize], ctx)));
}

/// `acc_load_ctx_from_dlg`; false if a context is loaded already.
pub fn load(msg: *mut km_sip_msg, ctx: SharedContext) -> bool {
    change(msg, |e| {
        if e.replaced.is_some() {
            return false;
        }
        e.replaced = Some(e.contexts[Which::InForce as usize].replace(ctx));
        true
    })
}

/// `acc_unload_ctx_from_dlg`; false if no context is loaded.
pub fn unload(msg: *mut km_sip_msg) -> bool {
    look(msg, |e| {
        let replaced = e.replaced.take()?;
        e.contexts[Which::InForce as usize] = replaced;
        Some(())
    })
    .flatten()
    .is_some()
}

/// The message is a BYE that ended `call`.
pub fn ends_call(msg: *mut km_sip_msg, call: &SharedContext, dialog: usize, has_transaction: bool) {
    change(msg, |e| e.bye.push(((call.duplicate(), dialog), has_transaction)));
}

/// Is one of the messages a BYE that ended `call`?
pub fn has_ended(call: &SharedContext) -> bool {
    MESSAGES.with_borrow(|messages| messages.iter().flat_map(|e| &e.bye).any(|((ended, _), _)| ended.same(call)))
}

/// The message is a BYE that follows its routes.
pub fn routed_bye(msg: *mut km_sip_msg) {
    change(msg, |e| e.routed_bye = true);
}

/// Is it a BYE that follows its routes without a transaction?
pub fn is_stateless_bye(msg: *mut km_sip_msg) -> bool {
    look(msg, |e| e.routed_bye && e.transaction == 0).unwrap_or(false)
}

/// The message has got a transaction, with this address. Returns the calls that the message ended.
pub fn got_transaction(msg: *mut km_sip_msg, t: *mut km_cell) -> Vec<Ended> {
    let ended = look(msg, |e| {
        e.transaction = t as usize;
        let has_one = |(ended, has_transaction): &mut (Ended, bool)| {
            *has_transaction = true;
            (ended.0.duplicate(), ended.1)
        };
        e.bye.iter_mut().map(has_one).collect()
    });
    ended.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_inside_each_other_keep_their_own() {
        let mut outer = km_sip_msg { id: 1, pid: 0 };
        let mut inner = km_sip_msg { id: 2, pid: 0 };
        let (o, i) = (&raw mut outer, &raw mut inner);
        begin(o);
        let came = arrived(o).unwrap();
        begin(i);
        assert!(arrived(i).is_some());
        end(i);
        assert!(arrived(i).is_none());
        assert_eq!(arrived(o), Some(came));
        inner.id = 3;
        assert!(arrived(&raw mut inner).is_none(), "the same address, another message");
        assert!(!unload(o));
        end(o);
        assert!(arrived(o).is_none());
    }
}
