//! What the delivery process has seen of its directory.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::journal::{Segment, SegmentName};

/// What is in the directory, and whether this is the last look.
#[derive(Clone, Default)]
pub struct View {
    pub segments: Arc<Vec<Segment>>,
    /// Deliver what is there, then end; do not wait for a failing sink.
    pub closing: bool,
    /// Segments that are removed although not every sink is past them.
    pub dropping: Arc<BTreeSet<SegmentName>>,
    /// How often immediate delivery was requested.
    pub flushes: u64,
    /// Segments that every sink has passed, and that a database may need again.
    pub kept: Arc<Vec<Segment>>,
}

impl View {
    /// All segments, including kept ones, in order.
    pub fn with_kept(&self) -> Arc<Vec<Segment>> {
        if self.kept.is_empty() {
            return self.segments.clone();
        }
        let mut all: Vec<_> = self.segments.iter().chain(self.kept.iter()).copied().collect();
        all.sort_by_key(|s| s.name);
        all.dedup_by_key(|s| s.name);
        Arc::new(all)
    }
}
