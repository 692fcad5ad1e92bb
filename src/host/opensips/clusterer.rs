//! The module clusterer: our messages to the other nodes, and theirs to us, as the capability
//! `acc-calls`.
//!
//! Its functions are found by their names in the file that offers `load_clusterer`, because their places in its
//! table differ between versions.

use std::ffi::{CStr, c_int, c_short, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

use once_cell::sync::OnceCell;

use super::abi::*;
use super::dialogs;
use super::state::DIALOGS;
use super::symbols::Symbols;
use crate::accounting::decide;
use crate::host::cluster::{self, Named, Nodes};
use crate::host::proof::Object;
use crate::host::server::symbols::{address, all_of, symbols};
use crate::host::server::{Room, Text};
use crate::host::{full, guard};
use crate::worker;

/// Our capability, for what the nodes send each other.
const CAPABILITY: &str = "acc-calls";
/// The only type of packet in it; the kind of a message is part of the message.
const PACKET: c_int = 1;
/// Version of the packet; the message has its own.
const PACKET_VERSION: c_short = 1;

/// Storage for a packet of the host, larger than in any version.
type Packet = Room<{ OS_BIN_PACKET_ROOM as usize }>;

type PacketCallback = unsafe extern "C" fn(*mut c_void);
type EventCallback = unsafe extern "C" fn(c_int, c_int);

symbols! {
    /// Functions of the module, and of the core, which makes the packets.
    struct Functions {
        fn cl_get_my_id() -> c_int;
        fn cl_register_cap(*mut Text, Option<PacketCallback>, Option<EventCallback>, c_int, c_int, c_int) -> c_int;
        fn cl_send_all(*mut Packet, c_int) -> c_int;
        fn cl_send_to(*mut Packet, c_int, c_int) -> c_int;
        fn bin_init = "_bin_init"(*mut Packet, *mut Text, c_int, c_short, c_int, c_int) -> c_int;
        fn bin_push_str(*mut Packet, *const Text) -> c_int;
        fn bin_pop_str(*mut c_void, *mut Text) -> c_int;
        fn bin_free_packet(*mut Packet);
    }
}

struct Clusterer {
    cluster: c_int,
    node: c_int,
    functions: Functions,
}

static CLUSTERER: OnceCell<Clusterer> = OnceCell::new();

/// The name of our capability; the host keeps the pointer.
fn capability() -> Text {
    Text::borrow(CAPABILITY.as_bytes())
}

/// Joins the cluster that the parameter names; called in initialisation. Returns its number, 0 = none.
pub fn join(symbols: &Symbols, cluster_id: i32) -> Result<i32, String> {
    if cluster_id > 0 {
        return take_part(symbols, cluster_id).map(|()| cluster_id);
    }
    let Some(cluster) = cluster_of_dialogs(symbols).filter(|_| cluster_id == 0) else { return Ok(0) };
    Ok(match take_part(symbols, cluster) {
        Ok(()) => cluster,
        Err(e) => {
            log::warn!("the nodes of cluster {cluster}, which have each other's dialogs, cannot tell which calls have their CDRs: {e}");
            0
        }
    })
}

/// The cluster to which the module dialog replicates its dialogs.
fn cluster_of_dialogs(symbols: &Symbols) -> Option<i32> {
    let instance = Object::of(symbols.export(c"load_dlg")? as *const c_void)?;
    let cluster = instance.symbol(c"dialog_repl_cluster")?.cast::<AtomicI32>();
    // SAFETY: the module's own variable of this name, an int, is loaded as long as the module (promise 12).
    let cluster = unsafe { cluster.as_ref() }.load(Ordering::Relaxed);
    (cluster > 0).then_some(cluster)
}

/// Registers with the host as a member of the cluster.
fn take_part(symbols: &Symbols, cluster: i32) -> Result<(), String> {
    let loaded =
        symbols.export(c"load_clusterer").ok_or("parameter cluster_id: the module clusterer is not loaded: load clusterer.so, or leave the line out")?;
    let missing = |name: &CStr| format!("parameter cluster_id: this server does not offer {}: leave the line out", name.to_string_lossy());
    let instance = Object::of(loaded as *const c_void).ok_or_else(|| missing(c"load_clusterer"))?;
    let look_up = |name: &CStr| {
        let of_module = name.to_bytes().starts_with(b"cl_");
        let found = if of_module { instance.symbol(name).map_or(std::ptr::null_mut(), NonNull::as_ptr) } else { address(name) };
        if found.is_null() { Err(missing(name)) } else { Ok(found) }
    };
    // SAFETY: the functions have these types in every supported version (promise 12).
    let functions = all_of(look_up, |find| unsafe { Functions::find(find) })?;
    // SAFETY: as above.
    let node = unsafe { (functions.cl_get_my_id)() };
    let mut name = capability();
    // SAFETY: the host keeps the text of the name, which is a constant (promise 12).
    if unsafe { (functions.cl_register_cap)(&raw mut name, Some(on_packet), Some(on_event), cluster, 0, 0) } != 0 {
        return Err(format!("parameter cluster_id: the module clusterer has no cluster {cluster} (see its own message above)"));
    }
    let clusterer = Clusterer { cluster, node, functions };
    cluster::join(CLUSTERER.get_or_init(|| clusterer));
    Ok(())
}

/// A packet of another node; called in any process.
unsafe extern "C" fn on_packet(packet: *mut c_void) {
    guard::entry("message of another node", (), || {
        let (Some(clusterer), Some(instance)) = (CLUSTERER.get(), worker::instance()) else { return };
        let mut text = Text::default();
        // SAFETY: the host's packet; the text lies in it (promise 12).
        unsafe {
            if (clusterer.functions.bin_pop_str)(packet, &raw mut text) == 0 {
                cluster::heard(instance, text.bytes());
            }
        }
    });
}

/// A node has come or gone.
unsafe extern "C" fn on_event(event: c_int, node: c_int) {
    guard::entry("event of the cluster", (), || match event as u32 {
        OS_CLUSTER_NODE_UP => cluster::found(node),
        OS_CLUSTER_NODE_DOWN => cluster::lost(node),
        _ => {}
    });
}

impl Nodes for Clusterer {
    fn node(&self) -> i32 {
        self.node
    }

    fn send(&self, to: Option<i32>, message: &[u8]) -> bool {
        // The main process ends calls only when the server stops. Then its connections are gone, but the host would
        // look for them nevertheless.
        if worker::instance().is_some_and(|instance| instance.host.process_number() == 0) {
            return false;
        }
        let mut packet = Packet::default();
        let (mut name, text) = (capability(), Text::borrow(message));
        let host = &self.functions;
        // SAFETY: a packet of ours, made and given up by the host, which copies the text (promise 12).
        unsafe {
            if (host.bin_init)(&raw mut packet, &raw mut name, PACKET, PACKET_VERSION, 0, 0) < 0 {
                return false;
            }
            let sent = (host.bin_push_str)(&raw mut packet, &raw const text) >= 0
                && 0 == match to {
                    Some(node) => (host.cl_send_to)(&raw mut packet, self.cluster, node),
                    None => (host.cl_send_all)(&raw mut packet, self.cluster),
                };
            (host.bin_free_packet)(&raw mut packet);
            sent
        }
    }

    fn goes_on(&self, named: &Named) -> bool {
        let open = |c: &crate::accounting::context::Context| c.is_open_call() && c.call_key() == named.call;
        let Some(dialogs) = DIALOGS.get() else { return false };
        dialogs.with(&named.dialog, |dlg| dialogs.context(dlg)).flatten().is_some_and(|ctx| ctx.read(open).unwrap_or(false))
    }

    fn close(&self, named: &Named) {
        let Some(dialogs) = DIALOGS.get() else { return };
        if let Some(ctx) = dialogs.with(&named.dialog, |dlg| dialogs.context(dlg)).flatten()
            && ctx.read(|c| c.is_open_call() && c.call_key() == named.call).unwrap_or(false)
        {
            full::say("a call that another node has ended could not be closed", ctx.happen(decide::close).map(drop));
        }
    }

    fn tell_again(&self, named: &Named) {
        dialogs::tell_again(named);
    }
}
