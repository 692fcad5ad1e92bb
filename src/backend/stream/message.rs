//! Messages of a stream, and the sink that hands them to an engine.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::body::{self, Format};
use crate::backend::{Commit, Fate, LocalFuture, NOT_A_RECORD, Sink, Trouble};
use crate::journal::{Entry, Payload, Positions};

/// Version of CloudEvents.
const SPEC_VERSION: &str = "1.0";

/// One record, ready to be sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// Identity of the record, 32 hexadecimal digits: the same in every copy.
    pub id: String,
    /// What happened, as in the object.
    pub kind: &'static str,
    /// Call-ID, as it came.
    pub callid: Vec<u8>,
    /// Time of the record, RFC 3339.
    pub time: Option<String>,
    /// The object, without an end of line.
    pub body: Vec<u8>,
    /// How often it was refused on its own before.
    pub offers: u32,
}

impl Message {
    /// Attributes of CloudEvents 1.0, without the prefix that each binding gives them.
    pub fn attributes<'a>(&'a self, node: &str) -> impl Iterator<Item = (&'static str, std::borrow::Cow<'a, [u8]>)> {
        let all = [
            ("specversion", Some(SPEC_VERSION.as_bytes().into())),
            ("id", Some(self.id.as_bytes().into())),
            ("source", Some(format!("/opensips-acc/{}", super::url::encoded(node.as_bytes(), |b| b.is_ascii_graphic())).into_bytes().into())),
            ("type", Some(format!("opensips.acc.{}.v1", self.kind).into_bytes().into())),
            ("subject", Some(&*self.callid).filter(|c| !c.is_empty()).map(Into::into)),
            ("time", self.time.as_deref().map(|t| t.as_bytes().into())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// What publishes messages. It connects when it first has to, and reconnects by itself.
pub trait Engine {
    /// Connects, or finds out why that is impossible.
    ///
    /// # Errors
    /// One line that names `stream_url` and says what to do.
    fn open(&mut self) -> LocalFuture<'_, Result<(), String>>;

    /// Largest body that the broker accepts, if it tells.
    fn max_body(&self) -> Option<usize> {
        None
    }

    /// Publishes messages in their order, and waits for the broker's word on each: one fate for each.
    ///
    /// # Errors
    /// Nothing was published, as [`Engine::open`].
    fn publish<'a>(&'a mut self, messages: &'a [Message]) -> LocalFuture<'a, Result<Vec<Fate>, String>>;

    /// Closes its connections in an orderly way.
    fn close(&mut self) -> LocalFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The sink that hands its records to an engine.
pub struct EngineSink {
    engine: Box<dyn Engine>,
    node: Arc<str>,
}

impl EngineSink {
    /// Connects nothing yet.
    pub fn new(engine: Box<dyn Engine>, node: Arc<str>) -> EngineSink {
        EngineSink { engine, node }
    }

    fn message(&self, entry: &Entry) -> Result<Message, String> {
        let Payload::Record(record) = &entry.payload else { return Err(NOT_A_RECORD.into()) };
        let mut body = Vec::new();
        Format::Json.write(record, &self.node, &mut body);
        if let Some(max) = self.engine.max_body()
            && body.len() > max
        {
            body = body::clipped(record, &self.node, max).ok_or_else(|| format!("it has {} bytes, and the broker takes {max}", body.len()))?;
        }
        body.pop();
        Ok(Message {
            id: format!("{:032x}", record.id),
            kind: body::kind(record.kind),
            callid: record.core.callid.clone(),
            time: body::shown(record.time),
            body,
            offers: entry.parked.as_ref().map_or(0, |p| p.offers),
        })
    }
}

impl Sink for EngineSink {
    fn open(&mut self, _journal: u64) -> LocalFuture<'_, Result<Option<Positions>, String>> {
        Box::pin(async move { self.engine.open().await.map(|()| None) })
    }

    fn deliver<'a>(&'a mut self, batch: &'a [Entry], _commit: &'a mut Commit<'_>) -> LocalFuture<'a, Result<Vec<Fate>, Trouble>> {
        Box::pin(async move {
            let (mut messages, mut fates) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
            for entry in batch {
                match self.message(entry) {
                    Ok(message) => {
                        messages.push(message);
                        fates.push(None);
                    }
                    Err(reason) => fates.push(Some(Fate::Dead(reason))),
                }
            }
            let said = if messages.is_empty() { Vec::new() } else { self.engine.publish(&messages).await.map_err(Trouble::Outage)? };
            let mut said = said.into_iter();
            Ok(fates.into_iter().map(|fate| fate.or_else(|| said.next()).unwrap_or_else(|| Fate::Retry("the broker said nothing".into()))).collect())
        })
    }

    fn close(&mut self) -> LocalFuture<'_, ()> {
        self.engine.close()
    }
}
