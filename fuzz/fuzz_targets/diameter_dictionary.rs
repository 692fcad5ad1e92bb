//! The extra-avps-file, and behind a line of '=' a name and a value for it.
#![no_main]

use acc::backend::diameter::dictionary::{Dictionary, Type};
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::{bounded, directory, text};

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let text = text(input);
    let (lines, field) = text.split_once("\n=\n").unwrap_or((&text, ""));
    let file = directory().join("avps");
    std::fs::write(&file, lines).expect("a file");
    match Dictionary::built_in(false).read(&file) {
        Ok(dictionary) => {
            let (name, value) = field.split_once('\n').unwrap_or((field, ""));
            if let Some(definition) = dictionary.find(name) {
                assert!(definition.attribute.code != 0 && definition.attribute.vendor != Some(0));
                let written = dictionary.write(&definition, value.as_bytes());
                let fixed = match definition.kind {
                    Type::Unsigned(n) | Type::Integer(n) => Some(usize::from(n)),
                    Type::Time | Type::Float32 => Some(4),
                    Type::Float64 => Some(8),
                    Type::Grouped => {
                        assert_eq!(written, None);
                        None
                    }
                    Type::Text | Type::Octets | Type::Hex | Type::Address => None,
                };
                assert!(written.is_none() || fixed.is_none_or(|n| written.as_ref().is_some_and(|w| w.len() == n)));
            }
        }
        Err(reason) => {
            assert!(!reason.contains('\n'), "{reason:?}");
            assert!(reason.starts_with(&*directory().to_string_lossy()), "{reason}");
        }
    }
}));
