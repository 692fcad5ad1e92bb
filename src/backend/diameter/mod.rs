//! Diameter accounting (RFC 6733): records as Accounting-Requests to the peers of a file.
//!
//! ```text
//!  host process, before the fork        delivery process
//!  settings: conf ─ dictionary ─ names  DiameterClient: Record -> message, answer -> fate
//!            errors stop the start           │ orders, events
//!                                       one task a peer: connection, watchdog ═ TCP, TLS ═ servers
//! ```
//! Workers never come here. [`Diameter::open`] opens no socket and needs no runtime;
//! [`DiameterClient`] is made by the delivery process, inside its runtime.
#![forbid(unsafe_code)]

pub mod client;
pub mod codec;
pub mod conf;
pub mod dictionary;
pub mod message;
pub mod peer;
mod prompt;
mod settings;
mod watchdog;

use std::path::Path;
use std::time::Duration;

pub use client::DiameterClient;
pub use message::{Records, Service};
pub use settings::{DiameterSettings, Place, read};

use crate::declaration::SinkId;
use crate::stats::Counter;
use conf::Conf;
use dictionary::Dictionary;
use message::{Encoder, Node, Options};
use peer::Connector;

/// What is counted of one destination.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Requests sent with the T flag.
    pub retransmits: Counter,
    /// Answers to no request.
    pub ignored: Counter,
    /// Values left out.
    pub omitted: Counter,
    /// Where the states of its peers are noted.
    pub sink: SinkId,
}

/// Everything that the client needs, read and resolved.
pub struct Diameter {
    /// Peers and timers.
    pub conf: Conf,
    /// Names of AVPs resolved.
    pub encoder: Encoder,
    /// How connections are made.
    pub connector: Connector,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// See [`DiameterSettings::retry`].
    pub retry: Option<u32>,
    /// What is counted where.
    pub counters: Counters,
}

impl Diameter {
    /// Reads the files that the settings lead to, and resolves `names`, the AVPs of extra and leg fields.
    ///
    /// Needs no runtime, resolves no host and opens no socket.
    ///
    /// # Errors
    /// One line naming the parameter, or the file and its line, and the cure.
    pub fn open(settings: &DiameterSettings, names: &[&str]) -> Result<Diameter, String> {
        let mut dictionary = Dictionary::built_in(settings.mandatory);
        let conf = match &settings.place {
            Place::Url(url) => {
                let (file, extra) = files(settings.parameter(), url)?;
                if let Some(extra) = extra {
                    dictionary = dictionary.read(Path::new(extra))?;
                }
                Conf::read(Path::new(file))?
            }
            Place::Host(host, port) => Conf::of_host(host, *port)?,
        };
        let options = Options {
            identity: conf.identity.clone(),
            realm: conf.realm.clone(),
            destination: settings.realm.clone().unwrap_or_else(|| conf.destination_realm().to_owned()),
            records: settings.records,
            service: settings.service,
            mandatory: settings.mandatory,
            service_type: settings.service_type,
        };
        let node = Node { identity: conf.identity.clone(), realm: conf.realm.clone(), tgpp: settings.service == Service::Rf };
        let counters = settings.counters();
        Ok(Diameter {
            encoder: Encoder::new(options, dictionary, counters, names)?,
            connector: Connector::new(&conf, node)?,
            conf,
            timeout: settings.timeout,
            retry: settings.retry,
            counters,
        })
    }
}

/// The files of `FILE[;extra-avps-file:FILE]`.
fn files<'a>(parameter: &str, url: &'a str) -> Result<(&'a str, Option<&'a str>), String> {
    let mut parts = url.split(';').map(str::trim);
    let file = parts.next().filter(|f| !f.is_empty()).ok_or_else(|| format!("{parameter}: no file is named; write FILE[;extra-avps-file:FILE]"))?;
    let mut extra = None;
    for part in parts.filter(|p| !p.is_empty()) {
        match part.split_once([':', '=']).map(|(k, v)| (k.trim(), v.trim())) {
            Some((key, value)) if key.eq_ignore_ascii_case("extra-avps-file") && !value.is_empty() => extra = Some(value),
            _ => return Err(format!("{parameter}: '{part}' after the file is not extra-avps-file:FILE")),
        }
    }
    Ok((file, extra))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::record::Backend;
    use crate::params::Draft;

    #[test]
    fn the_url_is_that_of_opensips() {
        assert_eq!(files("aaa_url", "a.conf;extra-avps-file:d"), Ok(("a.conf", Some("d"))));
        assert_eq!(files("aaa_url", " a.conf ;"), Ok(("a.conf", None)));
        assert!(files("aaa_url", ";x").unwrap_err().starts_with("aaa_url: no file is named"));
        assert!(files("diameter_url", "a;b:c").unwrap_err().starts_with("diameter_url: 'b:c' after the file"));
    }

    #[test]
    fn opening_reports_the_first_fault_it_meets() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("good"), "Identity = \"a.b\"; ConnectPeer = \"p\" { No_TLS; };").unwrap();
        std::fs::write(at("dict"), "ATTRIBUTE Acc-Note 7846 string\n").unwrap();
        std::fs::write(at("bad"), "\nATTRIBUTE\n").unwrap();
        let open = |url: String, names: &[&str]| {
            let settings = DiameterSettings::of(&Draft::default(), Backend::Aaa, Place::Url(url)).unwrap();
            Diameter::open(&settings, names).map(|d| d.conf.peers.len()).map_err(|e| e.replace(&at(""), ""))
        };
        assert_eq!(open(format!("{};extra-avps-file:{}", at("good"), at("dict")), &["Acc-Note", "Sip-Method"]), Ok(1));
        for (url, names, want) in [
            (at("gone"), &[][..], "gone: the parameter names this file, which cannot be read"),
            (at("good"), &["Acc-Note"], "the built-in AVPs: no AVP 'Acc-Note'"),
            (format!("{};extra-avps-file:{}", at("good"), at("bad")), &[], "bad:2: ATTRIBUTE needs"),
        ] {
            let e = open(url, names).unwrap_err();
            assert!(e.starts_with(want), "wanted {want:?}, got {e:?}");
        }
    }
}
