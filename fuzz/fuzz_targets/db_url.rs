//! The database URL.
#![no_main]

use acc::backend::sql::{Target, parse};
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::{bounded, text};

/// A part that stands in the URL as it is.
fn plain(s: &str) -> bool {
    s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let url = text(input);
    match parse(&url) {
        Ok(Target::Sqlite(path)) => assert!(!path.as_os_str().is_empty()),
        Ok(Target::MySql(server) | Target::Postgres(server)) => {
            assert!(!server.database.is_empty());
            assert!(server.port != Some(0));
            let host = server.host.clone().unwrap_or_default();
            if plain(&server.user) && plain(&host) && plain(&server.database) && server.socket.is_none() {
                let password = server.password.as_ref().map_or(String::new(), |p| format!(":{p}"));
                let port = server.port.map_or(String::new(), |p| format!(":{p}"));
                let again = format!("mysql://{}{password}@{host}{port}/{}", server.user, server.database);
                assert!(parse(&again) == Ok(Target::MySql(server)), "{again}");
            }
        }
        // The reason is a sentence of ours: of the URL it has at most the scheme (tests/secrets.rs looks for the password).
        Err(reason) => {
            assert!(!reason.contains('\n'));
            assert!(reason.len() < 200, "{reason}");
        }
    }
}));
