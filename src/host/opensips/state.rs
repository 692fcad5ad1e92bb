//! What the OpenSIPS family keeps: the server itself (from load on), its modules' functions (from
//! initialisation on), and what one process is in the middle of.

use std::cell::Cell;
use std::sync::Mutex;

use once_cell::sync::OnceCell;

use super::abi::*;
use super::api::{Dialogs, Rr, Tm};
use super::message::{Message, Specs};
use super::symbols::Symbols;
use super::versions::Row;
use crate::backend::event::{self, Event};
use crate::config::Draft;
use crate::host::{EventValue, Host, LogSettings};
use crate::module;

/// The server that loaded us.
pub struct Server {
    pub symbols: Symbols,
    pub row: Row,
}

/// Set by the constructor: the server, or why we refuse it.
pub static SERVER: OnceCell<Result<Server, String>> = OnceCell::new();

/// Parameters while the configuration is read.
pub static DRAFT: Mutex<Option<Draft>> = Mutex::new(None);

/// The dialog module, set in preinit when it is loaded.
pub static DIALOGS: OnceCell<Dialogs> = OnceCell::new();

/// Everything that initialisation prepares.
pub struct Api {
    pub tm: Tm,
    pub rr: Option<Rr>,
    pub specs: Specs,
    pub events: [os_event_id; Event::ALL.len()],
    /// Processing context: the accounting context in force.
    pub here: i32,
    /// Processing context: the marks of an in-dialog request of its own (D13).
    pub here_own: i32,
    /// Processing context: not null while `acc_load_ctx_from_dlg` has put another context in force.
    pub here_loaded: i32,
    /// Processing context: the one it replaced.
    pub here_replaced: i32,
    /// Processing context: monotonic time in microseconds when the request came, as a number in the
    /// pointer.
    pub here_arrival: i32,
    /// In a transaction: contexts and arrival.
    pub there: i32,
    pub there_own: i32,
    pub there_arrival: i32,
}

/// Set at the end of initialisation.
pub static API: OnceCell<Api> = OnceCell::new();

/// The server, when it is a supported one.
pub fn server() -> Option<&'static Server> {
    SERVER.get()?.as_ref().ok()
}

/// Server and functions; `None` before initialisation.
pub fn ready() -> Option<(&'static Server, &'static Api, &'static crate::worker::Module)> {
    Some((server()?, API.get()?, crate::worker::module()?))
}

/// The message at hand.
pub fn message(raw: *mut os_sip_msg) -> Option<Message<'static>> {
    let (server, api, _) = ready()?;
    (!raw.is_null() && raw != FAKED_REPLY).then_some(Message { raw, symbols: &server.symbols, specs: &api.specs })
}

thread_local! {
    /// A BYE ended the call of this context and its message is still being processed; whether it
    /// has got a transaction, whose reply will then write the CDR. One thread per process runs SIP.
    pub static BYE: Cell<Option<(usize, bool)>> = const { Cell::new(None) };
}

/// The host as the safe side sees it.
pub struct OpenSips;

impl Host for OpenSips {
    fn log_settings(&self) -> LogSettings {
        server().map_or_else(
            || LogSettings { level: 3, stderr: true, syslog: false, name: "opensips".into(), prefix: String::new(), facility: 3 << 3 },
            |s| s.symbols.log_settings(),
        )
    }

    fn has_listeners(&self, event: Event) -> bool {
        let (Some(server), Some(api)) = (server(), API.get()) else { return false };
        // SAFETY: the id came from evi_publish_event (promise 8).
        unsafe { (server.symbols.evi_probe_event)(api.events[event as usize]) != 0 }
    }

    fn raise(&self, event: Event, params: &[(&str, EventValue<'_>)]) -> bool {
        let (Some(server), Some(api)) = (server(), API.get()) else { return false };
        let mut nodes: Vec<os_evi_param> = params.iter().map(|(name, value)| node(name, value)).collect();
        for i in 1..nodes.len() {
            let next = &raw mut nodes[i];
            nodes[i - 1].next = next;
        }
        let mut list = os_evi_params { flags: 0, first: std::ptr::null_mut(), last: std::ptr::null_mut() };
        if let Some(last) = nodes.len().checked_sub(1) {
            list.first = &raw mut nodes[0];
            list.last = &raw mut nodes[last];
        }
        // SAFETY: the list lives through the call and the host copies what it keeps, because the
        // flag that gives it the list is not set (promise 8).
        unsafe { (server.symbols.evi_raise_event)(api.events[event as usize], &raw mut list) == 0 }
    }

    fn process_number(&self) -> i32 {
        server().map_or(0, |s| s.symbols.process_number())
    }
}

fn node(name: &str, value: &EventValue<'_>) -> os_evi_param {
    let mut p = os_evi_param { name: os_str::borrow(name.as_bytes()), ..Default::default() };
    match value {
        EventValue::Int(n) => {
            p.flags = OS_EVI_INT_VAL as i32;
            p.val.n = *n;
        }
        EventValue::Text(text) => {
            p.flags = OS_EVI_STR_VAL as i32;
            p.val.s = text.map_or_else(os_str::default, os_str::borrow);
        }
    }
    p
}

/// Announces the events to the host; called in initialisation.
pub fn publish_events(symbols: &Symbols) -> Result<[os_event_id; Event::ALL.len()], String> {
    let mut ids = [0; Event::ALL.len()];
    for e in event::Event::ALL {
        let name = module::EVENTS[e as usize];
        // SAFETY: the host copies the name (promise 8).
        let id = unsafe { (symbols.evi_publish_event)(os_str::borrow(name.as_bytes())) };
        if id == OS_EVI_ERROR {
            return Err(format!("the host refused to publish the event {name}"));
        }
        ids[e as usize] = id;
    }
    Ok(ids)
}
