//! Certificates, and TLS in front of servers that have none of their own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::common::servers::quiet;

/// Two authorities, and certificates of the first one for a server at 127.0.0.1 and for a client.
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    /// Makes them.
    pub fn make() -> Certificates {
        let made = Certificates(tempfile::tempdir().unwrap());
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        for name in ["ca", "other"] {
            made.openssl(&format!("req -x509 {key} -keyout {name}.key -out {name}.pem -days 3650 -subj /CN={name}"));
        }
        std::fs::write(made.dir().join("ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
        for name in ["server", "client"] {
            made.openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
            made.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile ext -out {name}.pem"));
        }
        made
    }

    fn openssl(&self, args: &str) {
        assert!(quiet(Command::new("openssl").args(args.split(' '))).current_dir(self.dir()).status().unwrap().success(), "openssl {args}");
    }

    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Of a URL: servers are verified, and the client shows its certificate.
    pub fn options(&self) -> String {
        let file = |name: &str| self.file(name).display().to_string();
        format!("tls=verify&ca={}&cert={}&key={}", file("ca.pem"), file("client.pem"), file("client.key"))
    }

    /// The same, from the wrong authority.
    pub fn wrong_options(&self) -> String {
        self.options().replace("/ca.pem", "/other.pem")
    }

    /// The same, without a certificate of the client.
    pub fn options_of_nobody(&self) -> String {
        self.options().split("&cert=").next().unwrap().to_owned()
    }

    fn server(&self) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let chain = vec![CertificateDer::from_pem_file(self.file("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.file("server.key")).unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        builder.with_client_cert_verifier(clients).with_single_cert(chain, key).unwrap()
    }

    /// Takes TLS on this socket from clients with a certificate, and hands on what is in it to a port of this machine.
    pub fn guard(&self, listener: TcpListener, port: u16) {
        let acceptor = TlsAcceptor::from(Arc::new(self.server()));
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((tcp, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        let Ok(mut client) = acceptor.accept(tcp).await else { return };
                        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                        let Ok(mut server) = tokio::net::TcpStream::connect(server).await else { return };
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    });
                }
            });
        });
    }
}
