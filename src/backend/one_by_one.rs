//! Sinks for destinations that accept records one by one and acknowledge each, such as a RADIUS server.
#![forbid(unsafe_code)]

use super::{Commit, Fate, LocalFuture, Maker, NOT_A_RECORD, Sink, Trouble};
use crate::accounting::clock::Wall;
use crate::accounting::record::Record;
use crate::declaration::SinkId;
use crate::journal::{Entry, Payload, Positions};

/// The most new records given to a [`RecordSender`] at once: an identifier has one byte, and what was under way
/// in a crash is sent again. A smaller batch means that nothing else is waiting.
pub const SENDER_BATCH: usize = 100;

/// A record for a [`RecordSender`].
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// The record.
    pub record: &'a Record,
    /// When it was made; together with its id, this identifies it.
    pub made: Wall,
    /// It is parked because it was not acknowledged before: its failure says nothing about the server.
    pub parked: bool,
}

/// Sends records one by one and gets an acknowledgement for each, such as a RADIUS client. It keeps no
/// cursor: after a crash, what was under way is sent again.
pub trait RecordSender {
    /// Sends records; returns one fate for each, in order. Those with [`Fate::UnderWay`] have to be given again in
    /// the next call; sending goes on meanwhile. If the future is dropped, all have to be given again.
    fn send_all<'a>(&'a mut self, offers: &'a [Offer<'a>]) -> LocalFuture<'a, Vec<Fate>>;

    /// See [`Sink::intervals`].
    fn intervals(&mut self) -> Vec<(u128, u32)> {
        Vec::new()
    }

    /// Closes its connections in an orderly way.
    fn close(&mut self) -> LocalFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The sink that hands its records to a sender.
pub struct OneByOne(pub Box<dyn RecordSender>);

/// A maker of such a sink, from the maker of its sender.
pub fn one_by_one(id: SinkId, sender: impl FnOnce() -> Result<Box<dyn RecordSender>, String> + 'static) -> (SinkId, Maker) {
    (id, Box::new(move || Ok(Box::new(OneByOne(sender()?)))))
}

impl Sink for OneByOne {
    fn open(&mut self, _journal: u64) -> LocalFuture<'_, Result<Option<Positions>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn deliver<'a>(&'a mut self, batch: &'a [Entry], _commit: &'a mut Commit<'_>) -> LocalFuture<'a, Result<Vec<Fate>, Trouble>> {
        Box::pin(async move {
            let records: Vec<_> = batch
                .iter()
                .filter_map(|e| match &e.payload {
                    Payload::Record(r) => Some(Offer { record: r, made: e.wall, parked: e.parked.is_some() }),
                    Payload::LogLine(_) => None,
                })
                .collect();
            let mut fates = self.0.send_all(&records).await.into_iter();
            Ok(batch
                .iter()
                .map(|e| match &e.payload {
                    Payload::Record(_) => fates.next().unwrap_or_else(|| Fate::Retry("no answer for the record".into())),
                    Payload::LogLine(_) => Fate::Dead(NOT_A_RECORD.into()),
                })
                .collect())
        })
    }

    fn goes_on(&self) -> bool {
        true
    }

    fn intervals(&mut self) -> Vec<(u128, u32)> {
        self.0.intervals()
    }

    fn close(&mut self) -> LocalFuture<'_, ()> {
        self.0.close()
    }

    fn batch_max(&self) -> usize {
        SENDER_BATCH
    }
}
