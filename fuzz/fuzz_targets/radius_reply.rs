//! Datagrams that come where an Accounting-Response is expected.
#![no_main]

use acc::backend::radius::conf::Secret;
use acc::backend::radius::packet::{Refused, verify};
use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};
use opensips_acc_fuzz::bounded;

const REQUEST: [u8; 16] = [7; 16];
const SECRET: &[u8] = b"testing123";

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let secret = Secret::new(SECRET);
    assert!(verify(input, &REQUEST, &secret).is_err(), "nobody knows the secret");
    if input.len() < 20 {
        return;
    }
    // The same from somebody who knows it.
    let mut signed = input.to_vec();
    let length = usize::from(u16::from_be_bytes([signed[2], signed[3]])).clamp(20, signed.len());
    signed[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    let authenticator = Md5::new().chain_update(&signed[..4]).chain_update(REQUEST).chain_update(&signed[20..length]).chain_update(SECRET).finalize();
    signed[4..20].copy_from_slice(&authenticator);
    match verify(&signed, &REQUEST, &secret) {
        Ok(()) => {
            assert_eq!(signed[0], 5);
            // Padding is none of the packet's, every other byte is.
            assert_eq!(verify(&signed[..length], &REQUEST, &secret), Ok(()));
            let at = usize::from(signed[1]) % length;
            signed[at] ^= 1;
            assert!(verify(&signed, &REQUEST, &secret).is_err());
        }
        // It is well-formed, and only its Message-Authenticator is wrong.
        Err(Refused::Forged) => assert!(signed[20..length].contains(&80)),
        Err(Refused::Malformed) => {}
    }
}));
