//! The file with Diameter peers, and one that it may include behind a line of '='.
#![no_main]

use acc::backend::diameter::conf::Conf;
use acc::stats::MAX_PEERS;
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::{bounded, directory, text};

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let text = text(input);
    let (conf, included) = text.split_once("\n=\n").unwrap_or((&text, ""));
    let file = directory().join("peers.conf");
    std::fs::write(&file, conf).expect("a file");
    std::fs::write(directory().join("more"), included).expect("a file");
    match Conf::read(&file) {
        Ok(conf) => {
            assert!((1..=MAX_PEERS).contains(&conf.peers.len()));
            for name in [&conf.identity, &conf.realm].into_iter().chain(conf.peers.iter().map(|p| &p.id)) {
                assert!(!name.is_empty() && name.len() <= 255 && !name.contains([';', ' ', '\n']));
            }
            assert!(conf.peers.iter().all(|p| p.port != 0 && p.tw.as_secs() >= 6 && p.tc.as_secs() >= 1 && p.id != conf.identity));
        }
        Err(reason) => {
            assert!(!reason.contains('\n'), "{reason:?}");
            // It names a file. One that is included may be anywhere.
            assert!(reason.starts_with('/'), "{reason}");
        }
    }
}));
