//! TLS of brokers and web servers: `tls=`, `ca=`, `cert=`, `key=`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::url::Options;
use crate::backend::verifier::Verifier;

/// Is TLS used, and how is the other end checked?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No TLS.
    Disable,
    /// TLS with any server.
    Require,
    /// TLS with a server whose certificate comes from a trusted authority and has its name.
    Verify,
}

/// What a URL says about TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `tls=`, if it is there.
    pub mode: Option<Mode>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// The contents of the files.
pub struct Pem {
    /// Authorities.
    pub ca: Option<String>,
    /// A certificate, and its key.
    pub pair: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Takes the options.
    ///
    /// # Errors
    /// An option is invalid, or does not go with another.
    pub fn read(options: &mut Options<'_>) -> Result<Tls, String> {
        let mode = match options.take("tls") {
            None => None,
            Some("disable") => Some(Mode::Disable),
            Some("require") => Some(Mode::Require),
            Some("verify") => Some(Mode::Verify),
            Some(_) => return Err("tls must be disable, require or verify".into()),
        };
        let mut file = |name: &str| match options.take(name) {
            Some(path) if !path.starts_with('/') => Err(format!("{name} must be the absolute path of a PEM file")),
            path => Ok(path.map(PathBuf::from)),
        };
        let (ca, cert, key) = (file("ca")?, file("cert")?, file("key")?);
        if cert.is_some() != key.is_some() {
            return Err("cert and key go together: name both files, or none".into());
        }
        if ca.is_some() && matches!(mode, Some(Mode::Disable | Mode::Require)) {
            return Err("ca is for tls=verify: otherwise nobody is verified".into());
        }
        if cert.is_some() && mode == Some(Mode::Disable) {
            return Err("cert and key are for TLS: leave tls=disable out".into());
        }
        Ok(Tls { mode, ca, cert, key })
    }

    /// For the client library. Without `tls=`, servers are verified.
    ///
    /// # Errors
    /// A file cannot be read or used; names the option and the file.
    pub fn config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let builder = if self.mode == Some(Mode::Require) {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { verifier: None, any_name: true, provider }))
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), provider).build();
            builder.with_webpki_verifier(verifier.map_err(|e| format!("stream_url: there is no authority to verify servers with ({e}): name a file with ca="))?)
        };
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else { return Ok(builder.with_no_client_auth()) };
        let failed = |option: &str, path: &PathBuf, e: &dyn std::fmt::Display| format!("stream_url: {option}={} cannot be used ({e})", path.display());
        let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|e| failed("cert", cert, &e))?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| failed("key", key, &e))?;
        builder.with_client_auth_cert(chain, secret).map_err(|e| failed("cert", cert, &e))
    }

    /// The files' contents, for a library that reads them itself: authorities, and certificate with key.
    ///
    /// # Errors
    /// As [`Tls::config`].
    pub fn pem(&self) -> Result<Pem, String> {
        let failed = |option: &str, path: &PathBuf, e: std::io::Error| format!("stream_url: {option}={} cannot be used ({e})", path.display());
        let ca = self.ca.as_ref().map(|path| std::fs::read_to_string(path).map_err(|e| failed("ca", path, e))).transpose()?;
        let read = |option: &'static str, path: &PathBuf| std::fs::read(path).map_err(|e| failed(option, path, e));
        let pair = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((read("cert", cert)?, read("key", key)?)),
            _ => None,
        };
        Ok(Pem { ca, pair })
    }

    /// The authorities in the file, or else those of the system.
    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        let Some(file) = &self.ca else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        let failed = |e: &dyn std::fmt::Display| format!("stream_url: ca={} cannot be used ({e})", file.display());
        for certificate in CertificateDer::pem_file_iter(file).map_err(|e| failed(&e))? {
            roots.add(certificate.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
        }
        if roots.is_empty() { Err(failed(&"there is no certificate in it")) } else { Ok(roots) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_together() {
        let read = |text: &str| Tls::read(&mut Options::read(text).unwrap());
        assert_eq!(read("tls=verify&ca=/a&cert=/b&key=/c").map(|t| (t.mode, t.ca)), Ok((Some(Mode::Verify), Some("/a".into()))));
        for (text, part) in [
            ("tls=yes", "disable, require or verify"),
            ("ca=x", "absolute path"),
            ("cert=/x", "go together"),
            ("tls=require&ca=/x", "tls=verify"),
            ("tls=disable&cert=/x&key=/y", "leave tls=disable out"),
        ] {
            assert!(read(text).unwrap_err().contains(part), "{text}");
        }
        assert!(read("ca=/nonexistent").unwrap().config().unwrap_err().contains("stream_url: ca=/nonexistent cannot be used"));
        assert!(read("tls=require").unwrap().config().is_ok());
    }
}
