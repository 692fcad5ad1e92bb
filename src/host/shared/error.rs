//! Why a context could not be used, and what is logged then.

use crate::accounting::limited::Lines;
pub use crate::accounting::visible::CallId;

/// What the messages about a full arena begin with.
pub const FULL: &str = "shared memory for calls in progress is full: raise the parameter arena_size";

/// Why a context could not be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharedError {
    /// No room for the content.
    #[error("{FULL} ({0})")]
    Full(CallId),
    /// The content cannot be read.
    #[error("the accounting context is damaged")]
    Damaged,
}

/// Lines about things that happened to a call and could not be kept.
static NOT_KEPT: Lines = Lines::none();

pub(super) fn not_kept(e: &SharedError) {
    NOT_KEPT.error(format_args!("a call goes on, but values that came with what happened to it are lost for its later records: {e}"));
}
