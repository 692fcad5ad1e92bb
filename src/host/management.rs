//! What management commands answer, for either family: `acc_status`, `acc_flush`, `acc_open_calls`
//! (in Kamailio `acc.status` and so on).

use super::arena;
use crate::acc::clock::Moment;
use crate::acc::context::Context;
use crate::backend::SinkId;
use crate::journal::{calls, json};
use crate::module::COMMANDS;
use crate::stats::{Counter, Snapshot};
use crate::worker::{self, Module};

/// Most calls that [`open_calls`] tells of; a longer answer helps nobody and holds up the process
/// that gives it.
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

/// A command, in the order of [`COMMANDS`].
pub type Command = fn(&Module) -> Result<Answer, String>;

/// Every command.
pub const ALL: [Command; COMMANDS.len()] = [status, flush, open_calls];

/// Version, every counter, memory of contexts, and how each sink is.
fn status(module: &Module) -> Result<Answer, String> {
    let counters = Snapshot::take();
    let mut fields = vec![("version", Value::Text(env!("CARGO_PKG_VERSION").into()))];
    fields.extend(Counter::ALL.iter().map(|c| (c.name(), Value::Number(counters.get(*c)))));
    let arena = arena::get();
    fields.push(("contexts_blocks", Value::Number(arena.map_or(0, arena::Arena::live_blocks))));
    fields.push(("contexts_bytes", Value::Number(arena.map_or(0, arena::Arena::live_bytes))));
    for (sink, [state, since]) in SinkId::ALL.into_iter().zip([["db_state", "db_outage"], ["aaa_state", "aaa_outage"], ["log_state", "log_outage"]]) {
        let used = match sink {
            SinkId::Db => module.config.db.is_some(),
            SinkId::Aaa => module.config.aaa.is_some(),
            SinkId::Log => true,
        };
        let outage = sink.state().outage_seconds();
        let word = match (used, outage) {
            (false, _) => "off",
            (true, None) => "ok",
            (true, Some(_)) => "outage",
        };
        fields.push((state, Value::Text(word.into())));
        fields.push((since, Value::Number(outage.unwrap_or(0))));
    }
    Ok(Answer { fields, list: None })
}

/// Delivery begins at once, and pauses after failures are over. It answers at once, with what is
/// pending at that moment.
fn flush(module: &Module) -> Result<Answer, String> {
    if module.journal.is_none() {
        return Err("there is no journal".into());
    }
    worker::flush(module);
    let counters = Snapshot::take();
    Ok(Answer { fields: SinkId::ALL.map(|s| s.counters().pending).map(|c| (c.name(), Value::Number(counters.get(c)))).into(), list: None })
}

/// The calls in progress that the journal keeps, the longest first.
fn open_calls(module: &Module) -> Result<Answer, String> {
    let dir = module.journal.as_ref().ok_or("there is no journal")?;
    let open = calls::scan(dir).map_err(|e| format!("journal_dir {} cannot be read: {e}", dir.path().display()))?.calls;
    let now = Moment::now();
    let mut known: Vec<_> = open.into_iter().filter_map(|(key, state)| Some((key, Context::decode(&state)?))).collect();
    known.sort_by_key(|(_, c)| c.answered.unwrap_or_default().wall);
    let count = known.len() as u64;
    let shown = known.into_iter().take(CALLS_SHOWN).map(|(key, c)| {
        let answered = c.answered.unwrap_or_default();
        vec![
            ("key", Value::Text(json::hex(&key.to_be_bytes()))),
            ("callid", Value::Text(crate::backend::log::visible(&String::from_utf8_lossy(&c.core.callid)).to_string())),
            ("start", Value::Number(answered.wall.seconds().max(0) as u64)),
            ("age", Value::Number((now.millis_since(answered) / 1000).max(0) as u64)),
        ]
    });
    Ok(Answer { fields: vec![("count", Value::Number(count))], list: Some(("calls", shown.collect())) })
}
