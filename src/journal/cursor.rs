//! How far a sink has come, if it does not store that itself: `cursor-SINK`, a line for each segment.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io;

use super::Dir;
use crate::journal::{Positions, SinkId};

fn file_name(sink: SinkId) -> String {
    format!("cursor-{}", sink.name())
}

impl Dir {
    /// Where the cursor of `sink` is kept, for messages.
    pub(crate) fn cursor_path(&self, sink: SinkId) -> String {
        self.path().join(file_name(sink)).display().to_string()
    }

    /// The cursor of `sink`; empty if there is none.
    pub fn cursor(&self, sink: SinkId) -> io::Result<Positions> {
        let content = self.content(&file_name(sink))?;
        let text = String::from_utf8_lossy(&content);
        // A line that cannot be read causes a repetition, not a loss. One without a line end may have been cut off
        // within a number, and would then point into the middle of an entry.
        let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        Ok(whole.filter_map(|line| line.split_once(' ')).filter_map(|(n, p)| Some((n.parse().ok()?, p.parse().ok()?))).collect())
    }

    /// Stores it.
    pub(crate) fn set_cursor(&self, sink: SinkId, positions: &Positions) -> io::Result<()> {
        let mut text = String::new();
        for (name, position) in positions {
            let _ = writeln!(text, "{name} {position}");
        }
        self.replace(&file_name(sink), &text)
    }
}
