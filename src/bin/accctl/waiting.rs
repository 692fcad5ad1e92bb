//! What a journal holds, for `status` and `metrics`.
#![forbid(unsafe_code)]

use acc::accounting::clock::Wall;
use acc::journal::{Dir, Item, SinkId, parking};

use crate::place::walk;

/// What is there for one destination.
#[derive(Clone, Copy, Default)]
pub struct OfSink {
    /// Entries that it has not accepted; for SQL the most that it can be.
    pub waiting: u64,
    /// Those of them that are parked; `accctl dump` shows the reasons.
    pub parked: u64,
    /// Lines of its dead letters.
    pub dead: u64,
    /// When the oldest one that waits was written.
    pub oldest: Option<Wall>,
    /// It has a cursor: what it accepted is known from the journal.
    pub has_cursor: bool,
}

/// What is in a journal.
pub struct Waiting {
    /// By destination, in the order of [`SinkId::ALL`].
    pub sinks: [OfSink; SinkId::ALL.len()],
    /// Number of segments, and their bytes.
    pub segments: (usize, u64),
    /// Damaged places.
    pub damaged: u64,
}

/// Reads all segments.
pub fn count(dir: &Dir) -> Result<Waiting, String> {
    let segments = dir.segments().map_err(|e| e.to_string())?;
    let cursors = SinkId::ALL.map(|s| dir.cursor(s).unwrap_or_default());
    // Entries that were copied from there.
    let moved = SinkId::ALL.map(|sink| parking::moved(dir, sink, &segments));
    let mut sinks = [OfSink::default(); SinkId::ALL.len()];
    let mut damaged = 0;
    walk(dir, |name, item| match item {
        Item::Frame(f) => {
            if let Some(sink) = f.sink_id()
                && f.offset >= cursors[sink.index()].get(&name).copied().unwrap_or(0)
                && !moved[sink.index()].contains(&(name, f.offset))
            {
                let of = &mut sinks[sink.index()];
                let count = if name.parks_for().is_some() { &mut of.parked } else { &mut of.waiting };
                *count += 1;
                of.oldest = Some(of.oldest.map_or(f.wall, |oldest| oldest.min(f.wall)));
            }
        }
        Item::Corrupt { .. } => damaged += 1,
        Item::Torn { .. } | Item::End => {}
    })?;
    for sink in SinkId::ALL {
        let of = &mut sinks[sink.index()];
        dir.dead_letters(sink, |_| of.dead += 1).map_err(|e| e.to_string())?;
        of.has_cursor = !cursors[sink.index()].is_empty();
    }
    Ok(Waiting { sinks, segments: (segments.len(), segments.iter().map(|s| s.size).sum()), damaged })
}
