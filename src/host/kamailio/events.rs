//! Parameters of callbacks of transactions and dialogs. These run in any process of the host, on messages that may be
//! shared: only the reply (while it is private), the code and the context are used.

use std::ffi::c_void;

use super::abi::*;
use super::state::{message, server};
use crate::accounting::context::Reply;
use crate::accounting::decide;
use crate::host::proof::{self, Once};
use crate::host::server::Text;
use crate::host::shared::SharedContext;

/// What a callback of tm is about.
pub struct Event {
    /// The request, which may be shared.
    pub req: *mut km_sip_msg,
    /// The reply, if the event is about one.
    pub rpl: *mut km_sip_msg,
    /// Its code.
    pub code: u16,
    param: *mut c_void,
    sent: Text,
}

impl Event {
    /// Reads the parameters of a callback; in the first call only after proving that they are as in the
    /// known versions.
    ///
    /// # Safety
    /// `params` comes from the host.
    pub unsafe fn of(params: *mut km_tmcb_params) -> Option<Event> {
        static PROOF: Once = Once::new();
        // SAFETY: the host passes its parameters and keeps them through the call, our pointer in the
        // place of the parameter (promise 5).
        unsafe {
            let p = params.as_ref()?;
            let is_known = || {
                proof::is_ours(p.param)
                    && proof::is_message(p.req.cast(), FAKED_REPLY.cast())
                    && proof::is_message(p.rpl.cast(), FAKED_REPLY.cast())
                    && (p.rpl.is_null() || proof::is_code(p.code))
            };
            PROOF.proved("callbacks of tm in this server have other parameters than in the known versions", is_known).then(|| Event {
                req: p.req,
                rpl: p.rpl,
                code: u16::try_from(p.code).unwrap_or_default(),
                param: *p.param,
                sent: p.send_buf,
            })
        }
    }

    /// The context that the callback was registered with.
    pub fn context(&self) -> Option<SharedContext> {
        // SAFETY: the host holds our reference while the callback is registered (promise 5).
        unsafe { SharedContext::borrow_raw(self.param) }
    }
}

impl Event {
    /// The message that was sent, if the event is about one.
    pub fn sent(&self) -> Option<&[u8]> {
        let can_be_read =
            usize::try_from(self.sent.len).is_ok_and(|n| (1..=LONGEST).contains(&n)) && proof::is_readable((self.sent.s as usize & !7) as *const c_void);
        // SAFETY: the host keeps the buffer through the call (promise 5).
        can_be_read.then(|| unsafe { self.sent.bytes() })
    }
}

/// Longest message that the host takes or makes.
const LONGEST: usize = 1 << 20;

/// What a callback of dialogs is about.
pub struct DialogEvent {
    /// The request, if there is one.
    pub req: *mut km_sip_msg,
    /// The reply, if the event is about one.
    pub rpl: *mut km_sip_msg,
    /// Who sent the request.
    pub direction: u32,
    param: *mut c_void,
}

impl DialogEvent {
    /// Reads the parameters of a callback, as [`Event::of`] does.
    ///
    /// # Safety
    /// `params` comes from the host.
    pub unsafe fn of(params: *mut km_dlg_cb_params) -> Option<DialogEvent> {
        static PROOF: Once = Once::new();
        // SAFETY: the host passes its parameters, which are good until its next callback (promise 6).
        unsafe {
            let p = params.as_ref()?;
            let is_known = || {
                proof::is_ours(p.param) && p.direction <= KM_DLG_DIR_UPSTREAM && [p.req, p.rpl].iter().all(|m| proof::is_message(m.cast(), FAKED_REPLY.cast()))
            };
            let what = "callbacks of dialogs in this server have other parameters than in the known versions";
            PROOF.proved(what, is_known).then(|| DialogEvent { req: p.req, rpl: p.rpl, direction: p.direction, param: *p.param })
        }
    }

    /// The context that the callback was registered with.
    pub fn context(&self) -> Option<SharedContext> {
        // SAFETY: the host holds our reference while the callback is registered (promise 6).
        unsafe { SharedContext::borrow_raw(self.param) }
    }
}

/// The reply that a transaction callback is about. It may be a copy that all processes share, so only
/// what `transactions::on_any_transaction` has had parsed is read from it.
pub fn reply_of(rpl: *mut km_sip_msg, code: u16) -> Reply {
    message(rpl).map_or_else(|| local_reply(code), |msg| msg.reply(code))
}

/// The code of a reply that is about to be sent. For a 2xx that comes after a refusal was sent, the host
/// gives the code of the refusal.
pub fn leaving(rpl: *mut km_sip_msg, code: u16) -> u16 {
    if code < 300 {
        return code;
    }
    message(rpl).map(|m| m.status()).filter(|own| (200..300).contains(own)).unwrap_or(code)
}

/// The host's own reply, with its phrase.
pub fn local_reply(code: u16) -> Reply {
    let mut reply = decide::local_reply(code);
    if let Some(server) = server() {
        reply.reason = server.symbols.phrase(code).to_vec();
    }
    reply
}
