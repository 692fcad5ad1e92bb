//! Stand-ins for sinks that are not configured.
#![forbid(unsafe_code)]

use crate::backend::{Commit, Fate, LocalFuture, Sink, Trouble};
use crate::declaration::SinkId;
use crate::journal::{Entry, Positions};

/// Not configured, or no longer: entries of an earlier configuration go to the dead letters, where they can be seen and put
/// back, instead of holding their segments for ever.
pub struct Off(pub SinkId);

/// Not served by this process; its entries stay.
pub struct Held(pub SinkId);

impl Sink for Off {
    fn open(&mut self, _journal: u64) -> LocalFuture<'_, Result<Option<Positions>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn deliver<'a>(&'a mut self, batch: &'a [Entry], _commit: &'a mut Commit<'_>) -> LocalFuture<'a, Result<Vec<Fate>, Trouble>> {
        let fate = Fate::Dead(format!("{} is no longer set", self.0.parameter()));
        Box::pin(std::future::ready(Ok(vec![fate; batch.len()])))
    }

    fn is_off(&self) -> bool {
        true
    }
}

impl Sink for Held {
    fn open(&mut self, _journal: u64) -> LocalFuture<'_, Result<Option<Positions>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn deliver<'a>(&'a mut self, _batch: &'a [Entry], _commit: &'a mut Commit<'_>) -> LocalFuture<'a, Result<Vec<Fate>, Trouble>> {
        Box::pin(std::future::ready(Err(Trouble::Outage(format!("{} is not set here", self.0.parameter())))))
    }
}
