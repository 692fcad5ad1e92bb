//! Comments of the functions acc_*_request().
#![no_main]

use acc::accounting::reason::{phrase, split_comment};
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::bounded;

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let (code, reason) = split_comment(input);
    assert!(code.is_none_or(|c| c <= 999));
    assert_eq!(code.is_some(), input.len() >= 3 && input[..3].iter().all(u8::is_ascii_digit));
    // The reason is the end of the comment as it came, or the standard phrase.
    if reason != phrase(code.unwrap_or(0)).as_bytes() {
        assert!(input.ends_with(&reason));
    }
    assert!(!reason.is_empty());
    // What was split is split again into the same.
    if let Some(code) = code {
        let mut again = format!("{code:03} ").into_bytes();
        again.extend_from_slice(&reason);
        assert_eq!(split_comment(&again), (Some(code), reason));
    }
}));
