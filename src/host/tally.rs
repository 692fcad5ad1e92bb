//! Counts calls for statistics: each once, even if it is accounted in several ways or has several branches.
#![forbid(unsafe_code)]

use crate::accounting::context::CallEnd;
use crate::accounting::flags::FlagRules;
use crate::accounting::reason;
use crate::accounting::record::{Kind, Record};
use crate::stats::{self, Counter};

/// What a transaction is counted for, at most once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once {
    /// Its final reply.
    Outcome = 1,
    /// A record of a missed call.
    Missed = 2,
}

impl Once {
    /// The bit that stands for it, for families that keep bits.
    pub const fn bit(self) -> u64 {
        self as u64
    }
}

/// A final reply of an accounted call went out; `is_first` says whether it is the first of its transaction.
pub fn outcome(code: u16, is_first: impl FnOnce(Once) -> bool) {
    let counter = match code {
        200..300 => Counter::CallsAnswered,
        300..400 => Counter::CallsFailed3xx,
        400..500 => Counter::CallsFailed4xx,
        500..600 => Counter::CallsFailed5xx,
        600..700 => Counter::CallsFailed6xx,
        _ => return,
    };
    if is_first(Once::Outcome) {
        stats::add(counter, 1);
        if reason::USER_CODES.contains(&code) {
            stats::add(Counter::CallsFailedUser, 1);
        }
    }
}

/// [`outcome`] of a call with message flags, which is accounted if an accounting flag is set now, or was used up by the
/// record of a missed call (`was_missed`).
pub fn flagged(rules: &FlagRules, is_accounted: bool, code: u16, was_missed: impl FnOnce() -> bool, is_first: impl FnOnce(Once) -> bool) {
    if is_accounted || code >= 300 && rules.shares_flags() && was_missed() {
        outcome(code, is_first);
    }
}

/// These records of a transaction are made.
pub fn records(records: &[Record], is_first: impl FnOnce(Once) -> bool) {
    if records.iter().any(|r| r.kind == Kind::Missed && !r.in_dialog && r.core.method == b"INVITE") && is_first(Once::Missed) {
        stats::add(Counter::CallsMissed, 1);
    }
}

/// A call ended here. One whose accounting was dropped has no CDR, and does not count.
pub fn end(end: &CallEnd) {
    if let Some(ms) = end.duration_ms.filter(|_| !end.records.is_empty()) {
        stats::add_ended(u64::try_from(ms).unwrap_or(0));
    }
}
