//! What is logged and counted if there is no room for a value or a context.
#![forbid(unsafe_code)]

use super::shared::{CallId, SharedError};
use crate::accounting::limited::Lines;
use crate::stats::{self, Counter};
use crate::worker;

/// Log lines that say that the arena is full.
pub static FULL: Lines = Lines::none();

/// Logs what went wrong, if anything did.
pub fn say(what: &str, result: Result<(), SharedError>) {
    match result {
        Ok(()) => {}
        Err(e @ SharedError::Full(_)) => FULL.error(format_args!("{what}: {e}")),
        Err(e) => log::error!("{what}: {e}"),
    }
}

/// Most bytes that values of one context may take.
pub fn context_max() -> usize {
    worker::instance().map_or(usize::MAX, |m| m.config.context_max)
}

/// There was not enough room for a value in its context: logs it once a second, and counts it.
pub fn say_clipped(tag: &[u8], call: &CallId) {
    static CLIPPED: Lines = Lines::none();
    stats::add(Counter::Clipped, 1);
    CLIPPED.warn(format_args!("the value of \"{}\" is clipped: one context may not take more (parameter context_max; {call})", tag.escape_ascii()));
}
