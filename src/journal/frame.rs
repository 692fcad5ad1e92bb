//! The bytes of a segment.
//!
//! A segment is [`HEADER`], then frames: `length u32 | crc u32 | sink u8 | kind u8 | wall i64 |
//! payload`, little-endian. `length` counts what follows the crc; the crc is CRC-32 over the length
//! and what follows the crc, so that no flipped bit of a length makes a wrong entry. `wall` is the
//! time of the append in µs since 1970.
#![forbid(unsafe_code)]

/// First bytes of every segment; the digit is the version of the frame layout.
pub const HEADER: &[u8; 8] = b"ACCSEG2\n";
/// Their number: a segment of this length has no entries.
pub const HEADER_LENGTH: u64 = HEADER.len() as u64;

/// Is this the header of a segment of another version?
pub fn is_of_another_version(header: [u8; 8]) -> bool {
    header.strip_prefix(b"ACCSEG").is_some_and(|version| version[0].is_ascii_digit()) && header != *HEADER
}

/// Bytes before the sink: length and crc.
pub const PREFIX: usize = 8;
/// Least length: sink, kind and wall.
pub const BODY_MIN: usize = 10;
/// Greatest length in bytes. A record with everything that fits in a SIP message (64 KiB), in some
/// hundred legs, stays far below; a greater length is damage.
pub const FRAME_MAX: usize = 16 << 20;

/// Kind of a frame whose payload is an encoded record. Readers skip kinds they do not know, so
/// that new ones can be added.
pub const KIND_RECORD: u8 = 1;
/// Kind of a frame whose payload is a finished syslog datagram.
pub const KIND_LOG_LINE: u8 = 2;
/// Kind of a frame about a call in progress, see [`super::calls`]. It has no sink.
pub const KIND_CALL: u8 = 3;
/// Kind of a frame with an entry that has left the stream, see [`super::parking`].
pub const KIND_PARKED: u8 = 4;

/// CRC-32 of a frame.
pub fn crc(length: [u8; 4], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}
