//! RADIUS accounting (RFC 2866): `aaa_url` "radius:FILE", where FILE is the client configuration
//! of radcli, radiusclient-ng or freeradius-client.
//!
//! ```text
//!  host process, before the fork          delivery process
//!  validate: conf ─ dictionary ─ names    Radius::open ─ RadiusClient ═ UDP ═ servers
//!            errors stop the start                  packet: Record -> attributes, reply check
//! ```
//! Workers never come here. [`validate`] opens no socket that it keeps and needs no runtime;
//! [`client::RadiusClient`] is made by the delivery process, inside its runtime.
#![forbid(unsafe_code)]

pub mod client;
pub mod conf;
pub mod dictionary;
pub mod packet;
mod settings;

use std::path::Path;

use crate::accounting::fields::Fields;
use crate::backend::RecordSender;
use conf::Conf;
use dictionary::Dictionary;
use packet::Encoder;

pub use client::RadiusClient;
pub use settings::{Aaa, aaa_names, read};

/// Everything that the client needs, read and resolved.
pub struct Radius {
    /// Servers and timers.
    pub conf: Conf,
    /// Attribute names resolved.
    pub encoder: Encoder,
}

impl Radius {
    /// Reads the configuration and the dictionary that `aaa.url` leads to, and resolves `names`,
    /// the attributes of the extra and leg fields of backend aaa.
    ///
    /// Blocks for name resolution; needs no runtime and keeps no socket.
    ///
    /// # Errors
    /// One line naming the parameter, or the file and its line, and the cure.
    pub fn open(aaa: &Aaa, names: &[&str]) -> Result<Radius, String> {
        let file = aaa.url.strip_prefix("radius:").map(str::trim).filter(|f| !f.is_empty());
        // A URL of another kind may hold a password: it is not quoted.
        let file = file.ok_or_else(|| {
            "aaa_url: write radius:FILE with the path of a radcli client configuration, or diameter:FILE with that of a freeDiameter configuration".to_owned()
        })?;
        let conf = Conf::read(Path::new(file))?;
        let dictionary = match &conf.dictionary {
            Some(file) => Dictionary::read(file)?,
            None => Dictionary::built_in()?,
        };
        Ok(Radius { encoder: Encoder::new(dictionary, aaa.service_type, names)?, conf })
    }
}

/// NAS-Port of every packet: the port of SIP, as in the original, whatever port the server listens
/// on.
const SIP_PORT: u16 = 5060;

/// Makes the client, in the runtime that will use it.
///
/// # Errors
/// As [`Radius::open`], or no socket can be opened.
pub fn sender(aaa: &Aaa, fields: &Fields) -> Result<Box<dyn RecordSender>, String> {
    let radius = Radius::open(aaa, &aaa_names(fields))?;
    Ok(Box::new(RadiusClient::new(radius, client::Options { nas_port: Some(SIP_PORT), retry: aaa.retry })?))
}

/// Checks the files that [`Radius::open`] will read, for the host process before it forks.
///
/// # Errors
/// As [`Radius::open`].
pub fn validate(aaa: &Aaa, names: &[&str]) -> Result<(), String> {
    Radius::open(aaa, names).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validation_reports_the_first_fault_it_meets() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("good"), "acctserver 127.0.0.1:1813:hidden\ndictionary dict\n").unwrap();
        std::fs::write(at("bare"), "acctserver 127.0.0.1:1813:hidden\n").unwrap();
        std::fs::write(at("dict"), "ATTRIBUTE Acc-Note 243 string\n").unwrap();
        std::fs::write(at("bad"), "acctserver 127.0.0.1:1813:hidden\ndictionary baddict\n").unwrap();
        std::fs::write(at("baddict"), "\nATTRIBUTE\n").unwrap();
        let check =
            |url: &str, names: &[&str]| validate(&Aaa { url: url.to_owned(), service_type: None, retry: None }, names).map_err(|e| e.replace(&at(""), ""));
        assert_eq!(check(&format!("radius:{}", at("good")), &["Acc-Note", "Sip-Method"]), Ok(()));
        assert_eq!(check(&format!("radius:{}", at("bare")), &["Calling-Station-Id"]), Ok(()));
        for (url, names, want) in [
            ("", &[][..], "aaa_url: write radius:FILE with"),
            ("radius:", &[], "aaa_url: write radius:FILE with"),
            ("diameter:hidden", &[], "aaa_url: write radius:FILE with"),
            (&format!("radius:{}", at("gone")), &[], "gone: aaa_url names this file, which cannot be read"),
            (&format!("radius:{}", at("good")), &["Acc-Nope"], "dict: no attribute 'Acc-Nope'"),
            (&format!("radius:{}", at("bare")), &["Acc-Nope"], "the built-in dictionary: no attribute 'Acc-Nope'"),
            (&format!("radius:{}", at("bad")), &[], "baddict:2: ATTRIBUTE: too few words"),
        ] {
            let e = check(url, names).unwrap_err();
            assert!(e.starts_with(want) && !e.contains("hidden"), "wanted {want:?}, got {e:?}");
        }
    }
}
