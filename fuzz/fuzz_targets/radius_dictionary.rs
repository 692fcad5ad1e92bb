//! A RADIUS dictionary, and one that it may include behind a line of '='.
#![no_main]

use std::sync::LazyLock;

use acc::backend::radius::dictionary::Dictionary;
use acc::backend::radius::packet::Encoder;
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::{bounded, directory, text};

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let text = text(input);
    let (first, other) = text.split_once("\n=\n").unwrap_or((&text, ""));
    let file = directory().join("dictionary");
    std::fs::write(&file, first).expect("a file");
    std::fs::write(directory().join("other"), other).expect("a file");
    // Reading it with every input would take most of the time, and hide what the input reaches.
    static BUILT_IN: LazyLock<Dictionary> = LazyLock::new(|| Dictionary::built_in().expect("it is right"));
    match BUILT_IN.clone().and(&file) {
        Ok(dictionary) => {
            // What is built in stays what it is unless the file says otherwise.
            assert!(dictionary.attribute("Acct-Session-Id").is_some());
            let names: Vec<&str> = first.split_whitespace().take(64).collect();
            for name in &names {
                assert_eq!(dictionary.attribute(name).is_some(), dictionary.attribute(&name.to_ascii_uppercase()).is_some());
            }
            if let Err(reason) = Encoder::new(dictionary, None, &names) {
                assert!(!reason.contains('\n'), "{reason:?}");
            }
        }
        Err(reason) => {
            assert!(!reason.contains('\n'), "{reason:?}");
            assert!(reason.starts_with(&*directory().to_string_lossy()), "{reason}");
        }
    }
}));
