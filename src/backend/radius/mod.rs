//! RADIUS accounting (RFC 2866): configuration, dictionary, packets and the client.
#![forbid(unsafe_code)]

pub mod conf;
pub mod dictionary;
