//! TLS to MariaDB and PostgreSQL, with an authority of our own.
#![forbid(unsafe_code)]

mod common;

use std::path::Path;
use std::process::Command;

use common::servers::{PASSWORD, Server, mariadb_with, postgres_with, quiet};
use common::*;

fn openssl(dir: &Path, args: &str) {
    assert!(quiet(Command::new("openssl").args(args.split(' '))).current_dir(dir).status().unwrap().success(), "openssl {args}");
}

/// An authority and the certificate of a server on 127.0.0.1, and another authority.
fn authorities() -> tempfile::TempDir {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, key) = (tmp.path(), "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes");
    for name in ["ca", "other"] {
        openssl(dir, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -days 3650 -subj /CN={name}"));
    }
    openssl(dir, &format!("req {key} -keyout server.key -out server.csr -subj /CN=db"));
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    openssl(dir, "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile ext -out server.pem");
    // The servers run as other users.
    for (path, mode) in [(".", "755"), ("server.key", "600")] {
        assert!(Command::new("chmod").arg(mode).arg(dir.join(path)).status().unwrap().success());
    }
    tmp
}

fn refused(url: &str) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).args(["schema", "--url", url]).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stderr).unwrap()
}

/// `mode` and `ca` are the names of the options, `modes` the values without and with TLS, and verifying.
fn exercise(server: &Server, url: &str, authorities: &Path, mode: &str, ca: &str, modes: [&str; 4]) {
    let [off, required, verify_ca, verify_host] = modes;
    let file = |name: &str| format!("{ca}={}", authorities.join(name).display());
    accctl_in_zone(&["schema", "--apply", "--extra", "a->caller_uri; b->x_note", "--url", &format!("{url}?{mode}={verify_host}&{}", file("ca.pem"))]);
    let good = [format!("{mode}={required}"), format!("{mode}={verify_ca}&{}", file("ca.pem")), format!("{mode}={verify_host}&{}", file("ca.pem"))];
    for options in &good {
        deliver_in_zone(&format!("{url}?{options}"), "acc", &[]);
    }
    // Without a word the server's offer is taken.
    deliver_in_zone(url, "acc", &[]);
    assert_eq!(server.count("acc"), 4);

    for options in [format!("{mode}={verify_ca}&{}", file("other.pem")), format!("{mode}={verify_host}&{}", file("other.pem")), format!("{mode}={verify_ca}")] {
        let said = refused(&format!("{url}?{options}"));
        assert!(said.to_lowercase().contains("certificate") && !said.contains(PASSWORD), "{options}: {said}");
    }
    // The certificate names the address only.
    let by_name = url.replace("@127.0.0.1:", "@localhost:");
    let said = refused(&format!("{by_name}?{mode}={verify_host}&{}", file("ca.pem")));
    assert!(said.to_lowercase().contains("certificate"), "{said}");
    // The server wants TLS.
    refused(&format!("{url}?{mode}={off}"));
}

#[test]
fn mariadb_is_verified() {
    let tmp = authorities();
    let file = |option: &str, name: &str| format!("--{option}={}", tmp.path().join(name).display());
    let options = vec![file("ssl-ca", "ca.pem"), file("ssl-cert", "server.pem"), file("ssl-key", "server.key")];
    let Some(server) = mariadb_with(options) else { return skip("MariaDB") };
    server.sql("ALTER USER acc@'127.0.0.1' REQUIRE SSL");
    let url = format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", server.port);
    exercise(&server, &url, tmp.path(), "ssl-mode", "ssl-ca", ["disabled", "required", "verify_ca", "verify_identity"]);
}

#[test]
fn postgresql_is_verified() {
    let tmp = authorities();
    if rustix::process::geteuid().is_root() {
        assert!(Command::new("chown").arg("postgres").arg(tmp.path().join("server.key")).status().is_ok_and(|s| s.success()));
    }
    let setting = |option: &str, name: &str| format!("{option}={}", tmp.path().join(name).display());
    let files = [setting("ssl_cert_file", "server.pem"), setting("ssl_key_file", "server.key"), "ssl=on".into()];
    let Some(server) = postgres_with(files.into_iter().flat_map(|f| ["-c".into(), f]).collect()) else { return skip("PostgreSQL") };
    let hba = server.dir().join("data/pg_hba.conf");
    std::fs::write(&hba, "hostssl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    server.sql("SELECT pg_reload_conf()");
    let url = format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/postgres", server.port);
    exercise(&server, &url, tmp.path(), "sslmode", "sslrootcert", ["disable", "require", "verify-ca", "verify-full"]);
}
