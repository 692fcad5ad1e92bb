//! Statistics of calls in the journal directory, for `accctl metrics` when the server cannot be asked.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io;

use super::Dir;
use crate::stats::{Counter, Snapshot};

/// Name of the file: a counter and its value in each line.
const FILE: &str = "calls";

/// Counters of calls, except those that follow from the journal itself.
pub const KEPT: [Counter; 9] = [
    Counter::CallsAnswered,
    Counter::CallsFailed3xx,
    Counter::CallsFailed4xx,
    Counter::CallsFailed5xx,
    Counter::CallsFailed6xx,
    Counter::CallsFailedUser,
    Counter::CallsMissed,
    Counter::CallsEnded,
    Counter::CallsSeconds,
];

/// What the file contains.
#[derive(Default)]
pub struct CallCounts {
    text: String,
}

impl CallCounts {
    /// Writes the current values if they have changed.
    pub(crate) fn keep(&mut self, dir: &Dir) -> io::Result<()> {
        let now = Snapshot::take();
        let mut text = String::new();
        for counter in KEPT {
            let _ = writeln!(text, "{} {}", counter.name(), now.get(counter));
        }
        if text != self.text {
            dir.replace(FILE, &text)?;
            self.text = text;
        }
        Ok(())
    }
}

/// The values of [`KEPT`] as a server last wrote them; `None` for those that it did not write.
pub fn read(dir: &Dir) -> io::Result<[Option<u64>; KEPT.len()]> {
    let content = dir.content(FILE)?;
    let text = String::from_utf8_lossy(&content);
    let value = |counter: Counter| text.lines().find_map(|line| line.strip_prefix(counter.name())?.strip_prefix(' ')?.parse().ok());
    Ok(KEPT.map(value))
}
