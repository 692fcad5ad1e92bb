//! The client configuration that aaa_url names, and its file of secrets behind a line of '='.
#![no_main]

use acc::backend::radius::conf::Conf;
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::{bounded, directory, text};

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let text = text(input);
    let (conf, secrets) = text.split_once("\n=\n").unwrap_or((&text, ""));
    let file = directory().join("radiusclient.conf");
    std::fs::write(&file, conf).expect("a file");
    std::fs::write(directory().join("servers"), secrets).expect("a file");
    match Conf::read(&file) {
        Ok(conf) => {
            assert!(!conf.servers.is_empty());
            for server in &conf.servers {
                assert!(!server.secret.bytes().is_empty() && server.addr.port() != 0);
                // Nothing that prints the configuration prints a secret.
                let secret = String::from_utf8_lossy(server.secret.bytes());
                let elsewhere = conf.nas_identifier.as_ref().is_some_and(|n| n.contains(&*secret))
                    || conf.dictionary.iter().any(|d| d.to_string_lossy().contains(&*secret));
                assert!(secret.len() < 16 || elsewhere || !format!("{conf:?}").contains(&*secret));
            }
        }
        Err(reason) => {
            assert!(!reason.contains('\n'), "{reason:?}");
            assert!(reason.starts_with(&*directory().to_string_lossy()), "{reason}");
        }
    }
}));
