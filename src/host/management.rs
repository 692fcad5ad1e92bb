//! What management commands answer, for either family: `acc_status`, `acc_flush`, `acc_open_calls`
//! (in Kamailio `acc.status` and so on).

use super::arena;
use crate::accounting::clock::Moment;
use crate::accounting::context::Context;
use crate::declaration::commands;
use crate::journal::{SinkId, calls, json};
use crate::stats::{Counter, PeerState, Snapshot};
use crate::worker::{self, Instance};

/// Most calls that [`acc_open_calls`] lists; a longer answer helps nobody and holds up the process that
/// gives it.
const CALLS_SHOWN: usize = 1000;

/// A value of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(u64),
    /// A text, printable.
    Text(String),
}

/// Names and values, in order.
pub type Fields = Vec<(&'static str, Value)>;

/// What a command answers.
#[derive(Debug, Default)]
pub struct Answer {
    /// The answer itself.
    pub fields: Fields,
    /// A list that belongs to it, under this name.
    pub list: Option<(&'static str, Vec<Fields>)>,
}

/// The body of a command.
pub type Body = fn(&Instance) -> Result<Answer, String>;

macro_rules! bodies {
    ($($name:ident $rpc:literal $help:literal,)+) => { &[$($name as Body,)+] };
}

/// The body of every command, as [`crate::declaration::COMMANDS`] has them.
pub const BODIES: &[Body] = commands!(bodies);

/// Version, all counters, memory of contexts, and the state of each sink and each Diameter peer.
fn acc_status(instance: &Instance) -> Result<Answer, String> {
    let counters = Snapshot::take();
    let mut fields = vec![("version", Value::Text(env!("CARGO_PKG_VERSION").into()))];
    fields.extend(Counter::ALL.iter().map(|c| (c.name(), Value::Number(counters.get(*c)))));
    let arena = arena::get();
    fields.push(("contexts_blocks", Value::Number(arena.map_or(0, arena::Arena::live_blocks))));
    fields.push(("contexts_bytes", Value::Number(arena.map_or(0, arena::Arena::live_bytes))));
    for sink in SinkId::ALL {
        let used = instance.config.destinations.get(sink).is_some();
        let outage = sink.state().outage_seconds();
        let word = match (used, outage) {
            (false, _) => "off",
            (true, None) => "ok",
            (true, Some(_)) => "outage",
        };
        fields.push((sink.state_name(), Value::Text(word.into())));
        fields.push((sink.outage_name(), Value::Number(outage.unwrap_or(0))));
    }
    let peers: Vec<Fields> = SinkId::ALL.into_iter().flat_map(|sink| peers(instance, sink)).collect();
    Ok(Answer { fields, list: (!peers.is_empty()).then_some(("peers", peers)) })
}

/// The peers of a sink, in order of preference. New records go to the active one, the first one that accepts them.
fn peers(instance: &Instance, sink: SinkId) -> Vec<Fields> {
    let names = instance.config.destinations.get(sink).map_or(&[][..], |settings| settings.peers());
    let all: Vec<_> = names.iter().filter_map(|name| Some((name, sink.state().peer(name)?))).collect();
    let active = all.iter().position(|(_, peer)| peer.state == PeerState::Okay);
    let fields = all.iter().enumerate().map(|(i, (name, peer))| {
        vec![
            ("destination", Value::Text(sink.name().into())),
            ("peer", Value::Text((*name).clone())),
            ("state", Value::Text(peer.state.name().into())),
            ("seconds", Value::Number(peer.seconds)),
            ("active", Value::Number(u64::from(active == Some(i)))),
            ("failovers", Value::Number(peer.failovers)),
        ]
    });
    fields.collect()
}

/// Starts delivery at once, ending pauses after failures. The answer comes at once, with what is pending at
/// that moment.
fn acc_flush(instance: &Instance) -> Result<Answer, String> {
    if instance.journal.is_none() {
        return Err("there is no journal".into());
    }
    worker::flush(instance);
    let counters = Snapshot::take();
    Ok(Answer { fields: SinkId::ALL.map(|s| s.counters().pending).map(|c| (c.name(), Value::Number(counters.get(c)))).into(), list: None })
}

/// The calls in progress that the journal keeps; the longest come first.
fn acc_open_calls(instance: &Instance) -> Result<Answer, String> {
    let dir = instance.journal.as_ref().ok_or("there is no journal")?;
    let open = calls::scan(dir).map_err(|e| format!("journal_dir {} cannot be read: {e}", dir.path().display()))?.calls;
    let now = Moment::now();
    let mut known: Vec<_> = open.into_iter().filter_map(|(key, call)| Some((key, Context::decode(&call.state)?))).collect();
    known.sort_by_key(|(_, c)| c.answered.unwrap_or_default().wall);
    let count = known.len() as u64;
    let shown = known.into_iter().take(CALLS_SHOWN).map(|(key, c)| {
        let answered = c.answered.unwrap_or_default();
        vec![
            ("key", Value::Text(json::hex(&key.to_be_bytes()))),
            ("callid", Value::Text(crate::accounting::visible::visible(&String::from_utf8_lossy(&c.core.callid)).to_string())),
            ("start", Value::Number(answered.wall.seconds().max(0) as u64)),
            ("age", Value::Number((now.millis_since(answered) / 1000).max(0) as u64)),
        ]
    });
    Ok(Answer { fields: vec![("count", Value::Number(count))], list: Some(("calls", shown.collect())) })
}
