//! What the Kamailio family keeps: the server itself (from load on) and its modules' functions
//! (from initialisation on).

use std::cell::RefCell;

use once_cell::sync::OnceCell;

use super::abi::*;
use super::api::{Dialogs, Queues, Rr, Tm};
use super::message::{Message, Specs};
use super::prepared::ByFlags;
use super::symbols::Symbols;
use crate::accounting::context::CallEnd;
use crate::backend::event::{Event, EventValue};
use crate::host::server::state::state;
use crate::host::{cluster, pid};
use crate::worker::port::{Host, LogSettings};

/// The server that loaded us.
pub struct Server {
    pub symbols: Symbols,
    /// What to log if the version is not among the tested ones.
    pub untested: Option<String>,
    /// tm was loaded before us, and so is initialised before us.
    pub tm_is_first: bool,
}

state!(km_sip_msg);

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
    /// Accounting by message flags, and variables in CDRs of dialogs, if a parameter asks for them.
    pub flags: Option<ByFlags>,
    /// In the order of [`Event`].
    pub routes: [Option<EventRoute>; Event::ALL.len()],
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
            || LogSettings { stderr: Some(3), syslog: Some(3), name: "kamailio".into(), facility: 3 << 3, ..LogSettings::default() },
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

    fn restores_dialogs(&self) -> bool {
        DIALOGS.get().is_some_and(|dialogs| dialogs.restored)
    }

    fn settled(&self, end: &CallEnd) {
        cluster::settled(end);
    }
}
