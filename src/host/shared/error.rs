//! Why a context could not be used, and what is logged then.

use std::fmt;

use crate::host::limited::Lines;

/// The Call-ID of a request, for a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallId(pub Vec<u8>);

/// How many bytes of it a message shows.
const SHOWN: usize = 256;

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..self.0.len().min(SHOWN)] {
            [] => f.write_str("of a request that is not marked yet"),
            id => write!(f, "Call-ID {}", id.escape_ascii()),
        }
    }
}

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
