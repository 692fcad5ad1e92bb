//! What the parameters say about Diameter.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use super::{Counters, Diameter, DiameterClient, Records, Service};
use crate::accounting::fields::Fields;
use crate::accounting::record::Backend;
use crate::backend::one_by_one::OneByOne;
use crate::backend::{Settings, Sink};
use crate::declaration::SinkId;
use crate::params::{ConfigError, Draft, bad};
use crate::stats::Counter;

/// How a configuration names its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `FILE[;extra-avps-file:FILE]`.
    Url(String),
    /// One peer without TLS.
    Host(String, u16),
}

/// Diameter accounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiameterSettings {
    /// Whose records go there: those of `diameter`, or of `aaa` if `aaa_url` says so.
    pub backend: Backend,
    /// Where the peers are.
    pub place: Place,
    /// Their names, once the settings are checked.
    pub peers: Vec<String>,
    /// `diameter_realm`, the Destination-Realm; `None`: that of the first peer, otherwise this node's own.
    pub realm: Option<String>,
    /// `diameter_records`.
    pub records: Records,
    /// `diameter_service`.
    pub service: Service,
    /// `diameter_mandatory`: the AVPs of OpenSIPS have the M bit.
    pub mandatory: bool,
    /// `diameter_timeout`: how long an answer is waited for while its peer answers watchdogs.
    pub timeout: Duration,
    /// `service_type`.
    pub service_type: Option<u32>,
    /// `aaa_retry` of `aaa`: how often a record is offered without an answer before it is given up; `None` = for ever.
    pub retry: Option<u32>,
}

impl DiameterSettings {
    /// For these peers; the parameters give the rest.
    ///
    /// # Errors
    /// A parameter that cannot be used.
    pub fn of(draft: &Draft, backend: Backend, place: Place) -> Result<DiameterSettings, ConfigError> {
        let (records, service) = words(draft)?;
        Ok(DiameterSettings {
            backend,
            place,
            peers: Vec::new(),
            realm: draft.text("diameter_realm").map(str::to_owned),
            records,
            service,
            mandatory: draft.number("diameter_mandatory") != 0,
            timeout: Duration::from_secs(draft.number("diameter_timeout").unsigned_abs().into()),
            service_type: draft.int("service_type").and_then(|n| n.try_into().ok()),
            retry: None,
        })
    }

    /// The parameter that names the peers.
    pub const fn parameter(&self) -> &'static str {
        match (self.backend, &self.place) {
            (Backend::Aaa, _) => "aaa_url",
            (_, Place::Url(_)) => "diameter_url",
            (_, Place::Host(..)) => "diameter_client_host",
        }
    }

    /// What is counted where.
    pub const fn counters(&self) -> Counters {
        match self.backend {
            Backend::Aaa => Counters { retransmits: Counter::AaaRetransmits, ignored: Counter::AaaIgnored, omitted: Counter::AaaOmitted, sink: SinkId::Aaa },
            _ => Counters {
                retransmits: Counter::DiameterRetransmits,
                ignored: Counter::DiameterIgnored,
                omitted: Counter::DiameterOmitted,
                sink: SinkId::Diameter,
            },
        }
    }

    fn open(&self, fields: &Fields) -> Result<Diameter, String> {
        let names: Vec<&str> = fields.names(self.backend, true).map(|name| &**name).collect();
        Diameter::open(self, &names)
    }

    /// These settings, if they can be used.
    ///
    /// # Errors
    /// What is wrong with the files or the names of fields.
    pub fn checked(self, draft: &Draft) -> Result<Option<Arc<dyn Settings>>, ConfigError> {
        let diameter = self.open(&draft.fields).map_err(|e| bad(self.parameter(), e))?;
        let peers = diameter.conf.peers.into_iter().map(|peer| peer.id).collect();
        Ok(Some(Arc::new(DiameterSettings { peers, ..self })))
    }
}

impl Settings for DiameterSettings {
    fn sink(&self, fields: &Fields) -> Result<Box<dyn Sink>, String> {
        let diameter = self.open(fields).map_err(|e| format!("{} cannot be used: {e}", self.parameter()))?;
        Ok(Box::new(OneByOne(Box::new(DiameterClient::new(diameter)))))
    }

    fn peers(&self) -> &[String] {
        &self.peers
    }
}

fn words(draft: &Draft) -> Result<(Records, Service), ConfigError> {
    Ok((
        draft.choice("diameter_records", &[("event", Records::Event), ("session", Records::Session)])?,
        draft.choice("diameter_service", &[("none", Service::None), ("rf", Service::Rf)])?,
    ))
}

/// The destination `diameter`, when `diameter_url` or `diameter_client_host` is set.
pub fn read(draft: &Draft) -> Result<Option<Arc<dyn Settings>>, ConfigError> {
    words(draft)?;
    let place = match (draft.text("diameter_url"), draft.text("diameter_client_host")) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(bad("diameter_client_host", "diameter_url names the peers already: remove one of the two".into())),
        (Some(url), None) => Place::Url(url.strip_prefix("diameter:").unwrap_or(url).to_owned()),
        (None, Some(host)) => Place::Host(host.to_owned(), draft.number("diameter_client_port") as u16),
    };
    if let (Some(aaa), Place::Url(url)) = (draft.text("aaa_url").and_then(|aaa| aaa.strip_prefix("diameter:")), &place)
        && aaa.split(';').next() == url.split(';').next()
    {
        return Err(bad(
            "diameter_url",
            "aaa_url names the same file, and a peer takes one connection of one Identity: give it another file, or use one of the two".into(),
        ));
    }
    DiameterSettings::of(draft, Backend::Diameter, place)?.checked(draft)
}
