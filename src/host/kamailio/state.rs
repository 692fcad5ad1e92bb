//! What the Kamailio family keeps: the server itself (from load on) and its modules' functions
//! (from initialisation on).

use std::cell::RefCell;
use std::sync::Mutex;

use once_cell::sync::OnceCell;

use super::abi::*;
use super::api::{Dialogs, Queues, Rr, Tm};
use super::message::{Message, Specs};
use super::prepared::Prepared;
use super::symbols::Symbols;
use crate::accounting::context::{CallEnd, Reply};
use crate::accounting::decide;
use crate::backend::event::{Event, EventValue};
use crate::host::{cluster, pid, proof};
use crate::params::Draft;
use crate::worker::port::{Host, LogSettings};

/// The server that loaded us.
pub struct Server {
    pub symbols: Symbols,
    /// What to say of a version that is none of the tested ones.
    pub untested: Option<String>,
    /// tm was loaded before us, and so is initialised before us.
    pub tm_is_first: bool,
}

/// Set by the constructor: the server, or why we refuse it.
pub static SERVER: OnceCell<Result<Server, String>> = OnceCell::new();

/// Parameters while the configuration is read.
pub static DRAFT: Mutex<Option<Draft>> = Mutex::new(None);

/// The dialog module, set in initialisation when it is loaded.
pub static DIALOGS: OnceCell<Dialogs> = OnceCell::new();

/// A route of the script that takes an event.
#[derive(Clone, Copy)]
pub struct EventRoute(pub *mut km_action);

// SAFETY: routes are compiled before the fork, live for ever and are only read.
unsafe impl Send for EventRoute {}
// SAFETY: as above.
unsafe impl Sync for EventRoute {}

/// Everything that initialisation prepares.
pub struct Api {
    pub tm: Tm,
    pub rr: Option<Rr>,
    pub specs: Specs,
    /// Queues for JSON objects.
    pub queues: Option<Queues>,
    /// What accounting by flags needs.
    pub flags: Option<Prepared>,
    /// In the order of [`Event`].
    pub routes: [Option<EventRoute>; Event::ALL.len()],
}

/// Set at the end of initialisation.
pub static API: OnceCell<Api> = OnceCell::new();

/// The server, when it is a supported one.
pub fn server() -> Option<&'static Server> {
    SERVER.get()?.as_ref().ok()
}

/// Server and functions; `None` before initialisation, and once accounting was stopped.
pub fn ready() -> Option<(&'static Server, &'static Api, &'static crate::worker::Instance)> {
    if proof::stopped() {
        return None;
    }
    Some((server()?, API.get()?, crate::worker::instance()?))
}

/// The message at hand.
pub fn message(raw: *mut km_sip_msg) -> Option<Message<'static>> {
    let (server, api, _) = ready()?;
    (!raw.is_null() && raw != FAKED_REPLY).then_some(Message { raw, symbols: &server.symbols, specs: &api.specs })
}

/// The code of a reply that is about to leave. Of a 2xx that comes after a refusal has gone, the host
/// names the code of the refusal.
pub fn leaving(rpl: *mut km_sip_msg, code: u16) -> u16 {
    if code < 300 {
        return code;
    }
    message(rpl).map(|m| m.status()).filter(|own| (200..300).contains(own)).unwrap_or(code)
}

/// A reply of the host's own, with its phrase.
pub fn local_reply(code: u16) -> Reply {
    let mut reply = decide::local_reply(code);
    if let Some(server) = server() {
        reply.reason = server.symbols.phrase(code).to_vec();
    }
    reply
}

/// A parameter of the event whose route is running.
pub type EventParam = (String, Option<Vec<u8>>);

thread_local! {
    /// The event whose route is running; an event raised inside it waits for its own end.
    pub static EVENT: RefCell<Vec<Vec<EventParam>>> = const { RefCell::new(Vec::new()) };
}

/// The host as the safe side sees it.
pub struct Kamailio;

impl Host for Kamailio {
    fn log_settings(&self) -> LogSettings {
        server().map_or_else(
            || LogSettings { level: 3, stderr: true, syslog: true, name: "kamailio".into(), prefix: String::new(), facility: 3 << 3 },
            |s| s.symbols.log_settings(),
        )
    }

    fn has_listeners(&self, event: Event) -> bool {
        API.get().is_some_and(|api| api.routes[event as usize].is_some())
    }

    fn raise(&self, event: Event, params: &[(&str, EventValue<'_>)]) -> bool {
        let (Some(server), Some(api)) = (server(), API.get()) else { return false };
        let Some(route) = api.routes[event as usize] else { return false };
        let value = |v: &EventValue<'_>| match v {
            EventValue::Text(t) => t.map(<[u8]>::to_vec),
            EventValue::Int(n) => Some(n.to_string().into_bytes()),
        };
        EVENT.with(|e| e.borrow_mut().push(params.iter().map(|(n, v)| ((*n).to_string(), value(v))).collect()));
        let done = server.symbols.run_route(route.0);
        EVENT.with(|e| e.borrow_mut().pop());
        done
    }

    fn enqueue(&self, queue: &str, key: &str, text: &str) -> bool {
        API.get().and_then(|api| api.queues.as_ref()).is_some_and(|q| q.add(queue, key, text))
    }

    fn process_number(&self) -> i32 {
        server().map_or(0, |s| s.symbols.process_number())
    }

    fn process_id(&self) -> u32 {
        pid::id()
    }

    fn settled(&self, end: &CallEnd) {
        cluster::settled(end);
    }
}
