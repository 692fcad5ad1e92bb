//! What the OpenSIPS family keeps: the server itself (from load on), its modules' functions (from
//! initialisation on), and what one process is in the middle of.

use std::cell::Cell;

use once_cell::sync::OnceCell;

use super::abi::*;
use super::api::{Dialogs, Rr, Tm};
use super::message::{Message, Spec, Specs};
use super::prepared::{ByFlags, Variables};
use super::raised;
use super::symbols::Symbols;
use crate::accounting::context::CallEnd;
use crate::backend::event::{Event, EventValue};
use crate::host::server::Text;
use crate::host::server::state::state;
use crate::host::{cluster, pid};
use crate::worker::port::{Host, LogSettings};

/// The server that loaded us.
pub struct Server {
    pub symbols: Symbols,
    /// What to log if the version is not among the tested ones.
    pub untested: Option<String>,
}

state!(os_sip_msg);

/// Everything that initialisation prepares.
pub struct Api {
    pub tm: Tm,
    pub rr: Option<Rr>,
    pub specs: Specs,
    /// `$DLG_end_reason`: why the current dialog ended, in the words of the dialog module, if that is loaded.
    pub end_reason: Option<Box<Spec>>,
    pub events: [os_event_id; Event::ALL.len()],
    /// Processing context: the current accounting context.
    pub here: i32,
    /// Processing context: the marks of an in-dialog request of its own (D13).
    pub here_own: i32,
    /// Processing context: not null while `acc_load_ctx_from_dlg` has replaced the current context.
    pub here_loaded: i32,
    /// Processing context: the context that it replaced.
    pub here_replaced: i32,
    /// Processing context: not null when the script has changed a call, of which the nodes of the cluster hear at the end of
    /// the message.
    pub here_changed: i32,
    /// Processing context: monotonic time in microseconds when the request came, as a number in the
    /// pointer.
    pub here_arrival: i32,
    /// In a transaction: contexts and arrival.
    pub there: i32,
    pub there_own: i32,
    pub there_arrival: i32,
    /// Variables of extras and legs.
    pub variables: Option<Variables>,
    /// Accounting by message flags, if a parameter names one.
    pub flags: Option<ByFlags>,
}

thread_local! {
    /// A BYE ended the call of this context, and its message is still being processed; with whether it has got a
    /// transaction, whose reply will then write the CDR. One thread per process runs SIP.
    pub static BYE: Cell<Option<(usize, bool)>> = const { Cell::new(None) };
}

/// The host as the safe side sees it.
pub struct OpenSips;

impl Host for OpenSips {
    fn log_settings(&self) -> LogSettings {
        server()
            .map_or_else(|| LogSettings { stderr: Some(3), name: "opensips".into(), facility: 3 << 3, ..LogSettings::default() }, |s| s.symbols.log_settings())
    }

    fn has_listeners(&self, event: Event) -> bool {
        let (Some(server), Some(api)) = (server(), API.get()) else { return false };
        // SAFETY: the id came from evi_publish_event (promise 8).
        unsafe { (server.symbols.evi_probe_event)(api.events[event as usize]) != 0 }
    }

    fn raise(&self, event: Event, params: &[(&str, EventValue<'_>)]) -> bool {
        let (Some(server), Some(api)) = (server(), API.get()) else { return false };
        raised::raise(&server.symbols, api.events[event as usize], params)
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

    fn unsettled(&self, end: &CallEnd) {
        cluster::ends(end.call);
    }
}

/// Announces the events to the host; called in initialisation.
pub fn publish_events(symbols: &Symbols) -> Result<[os_event_id; Event::ALL.len()], String> {
    let mut ids = [0; Event::ALL.len()];
    for e in Event::ALL {
        let name = e.name();
        // SAFETY: the host copies the name (promise 8).
        let id = unsafe { (symbols.evi_publish_event)(Text::borrow(name.as_bytes())) };
        if id == OS_EVI_ERROR {
            return Err(format!("the host refused to publish the event {name}"));
        }
        ids[e as usize] = id;
    }
    Ok(ids)
}
