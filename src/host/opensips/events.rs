//! Parameters of callbacks of transactions and dialogs. These run in any process of the host, on messages that may be shared:
//! only the reply (while it is private), the code and the context are used.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::*;
use super::message::Message;
use super::state::{Api, message};
use crate::accounting::context::Reply;
use crate::accounting::decide;
use crate::host::proof::{self, Once};
use crate::host::shared::SharedContext;

/// What a callback of tm is about.
pub struct Event {
    pub req: *mut os_sip_msg,
    pub rpl: *mut os_sip_msg,
    pub code: u16,
    param: *mut c_void,
}

impl Event {
    /// Reads the parameters of a callback; in the first call only after proving that they are as in the
    /// known versions.
    ///
    /// # Safety
    /// `params` comes from the host.
    pub unsafe fn of(params: *mut os_tmcb_params) -> Option<Event> {
        static PROOF: Once = Once::new();
        // SAFETY: the host passes its parameters and keeps them through the call, our pointer in the
        // place of the parameter (promise 5).
        unsafe {
            let p = params.as_ref()?;
            let is_known = || proof::is_ours(p.param) && proof::is_message(p.rpl.cast(), FAKED_REPLY.cast()) && (p.rpl.is_null() || proof::is_code(p.code));
            PROOF.proved("callbacks of tm in this server have other parameters than in the known versions", is_known).then(|| Event {
                req: p.req,
                rpl: p.rpl,
                code: p.code as u16,
                param: *p.param,
            })
        }
    }

    /// The context that the callback was registered with.
    pub fn context(&self) -> Option<SharedContext> {
        // SAFETY: the host holds our reference while the callback is registered (promise 5).
        unsafe { SharedContext::borrow_raw(self.param) }
    }
}

/// What a callback of dialogs is about.
pub struct DialogEvent {
    /// The request, if there is one.
    pub req: *mut os_sip_msg,
    /// Who sent it.
    pub direction: u32,
    /// Whether this node owns the dialog.
    pub is_active: bool,
    param: *mut c_void,
}

impl DialogEvent {
    /// Reads the parameters of a callback, as [`Event::of`] does.
    ///
    /// # Safety
    /// `params` comes from the host.
    pub unsafe fn of(params: *mut os_dlg_cb_params) -> Option<DialogEvent> {
        static PROOF: Once = Once::new();
        // SAFETY: the host passes its parameters and keeps them through the call, our pointer in the
        // place of the parameter (promise 6).
        unsafe {
            let p = params.as_ref()?;
            let is_known =
                || proof::is_ours(p.param) && p.direction <= OS_DLG_DIR_UPSTREAM && p.is_active <= 1 && proof::is_message(p.msg.cast(), FAKED_REPLY.cast());
            PROOF.proved("callbacks of dialogs in this server have other parameters than in the known versions", is_known).then(|| DialogEvent {
                req: p.msg,
                direction: p.direction,
                is_active: p.is_active != 0,
                param: *p.param,
            })
        }
    }

    /// The context that the callback was registered with.
    pub fn context(&self) -> Option<SharedContext> {
        // SAFETY: the host holds our reference while the callback is registered (promise 6).
        unsafe { SharedContext::borrow_raw(self.param) }
    }
}

/// The reply that a transaction callback is about. It may be a copy that all processes share, so only
/// what `transactions::on_reply` has had parsed is read from it.
pub fn reply_of(rpl: *mut os_sip_msg, code: u16) -> Reply {
    // If all branches failed, tm gives the code that came; the code of the reply is what a reply route has made of it.
    let code_of = |msg: &Message<'_>| if code < 300 { code } else { Some(msg.status()).filter(|status| *status >= 300).unwrap_or(code) };
    message(rpl).map_or_else(|| decide::local_reply(code), |msg| msg.reply(code_of(&msg)))
}

/// Did another module answer this INVITE on behalf of somebody else, like a back-to-back user agent? Then it was never forwarded,
/// and the current transaction is another one: that of the module's own call, whose reply has come. The BYE will only reach that
/// module, and nobody will report the end of the call here.
pub fn is_answered_by_module(api: &Api, t: *mut os_cell, event: &Event, ctx: &SharedContext) -> bool {
    let is_own = message(event.rpl).is_none() && (200..300).contains(&event.code);
    is_own && api.tm.current().is_some_and(|current| current != t) && ctx.facts().is_ok_and(|facts| facts.attempts == 0)
}

/// Such a call gets a record of its answer, as with the original module, and no CDR, which would last until the lifetime of
/// the dialog is over.
pub fn say_answered_by_module() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        log::warn!(
            "another module answers a call with the flag cdr (b2b_init_request() and the like), so its end is not known here: such calls get a record of their answer instead of a CDR"
        );
    }
}
