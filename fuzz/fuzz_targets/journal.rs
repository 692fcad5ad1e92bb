//! Segments of the journal. An input is a row of pieces: whole frames, and bytes as they are.
#![no_main]

use std::sync::OnceLock;

use acc::journal::{Dir, Item, SegmentName, calls};
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::{Pieces, bounded, directory};

const NAME: SegmentName = SegmentName { boot: 1, rank: 1, pid: 1, seq: 0 };

fn frame(out: &mut Vec<u8>, sink: u8, kind: u8, payload: &[u8]) {
    let mut body = vec![sink, kind];
    body.extend_from_slice(&1_700_000_000_000_000i64.to_le_bytes());
    body.extend_from_slice(payload);
    let length = (body.len() as u32).to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(&body);
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&body);
}

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    static DIR: OnceLock<Dir> = OnceLock::new();
    let dir = DIR.get_or_init(|| Dir::open_to_read(directory()).expect("a directory"));

    let mut pieces = Pieces(input);
    let mut bytes = if pieces.byte() == 0 { Vec::new() } else { b"ACCSEG2\n".to_vec() };
    let mut whole = Vec::new();
    let mut sound = !bytes.is_empty();
    while !pieces.is_empty() {
        match pieces.byte() {
            0 => {
                sound = false;
                bytes.extend_from_slice(pieces.bytes());
            }
            kind => {
                let (sink, payload) = (pieces.byte(), pieces.bytes());
                let offset = bytes.len() as u64;
                frame(&mut bytes, sink, kind, payload);
                if sound {
                    whole.push((offset, sink, kind, payload));
                }
            }
        }
    }
    std::fs::write(directory().join(NAME.to_string()), &bytes).expect("a segment");

    let mut reader = dir.read(NAME, 0).expect("the segment");
    let mut expected = whole.iter();
    let mut at = 0;
    loop {
        let item = match reader.read() {
            // The header of another version.
            Err(e) if e.kind() == std::io::ErrorKind::Unsupported && bytes.starts_with(b"ACCSEG") => break,
            item => item.expect("a readable file"),
        };
        match item {
            Item::Frame(f) => {
                assert!(f.offset >= at && f.end > f.offset && f.end <= bytes.len() as u64);
                at = f.end;
                if let Some((offset, sink, kind, payload)) = expected.next() {
                    assert_eq!((f.offset, f.sink, f.kind, f.payload), (*offset, *sink, *kind, *payload));
                }
                let _ = f.entry(NAME);
                if let Some(Ok(decoded)) = f.decode() {
                    acc::journal::json::payload(&decoded);
                }
            }
            Item::Corrupt { offset, end } => {
                assert!(offset >= at && end > offset && end <= bytes.len() as u64);
                at = end;
                let mut damaged = Vec::new();
                reader.copy(offset, end, &mut damaged).expect("these bytes");
                assert_eq!(damaged, bytes[offset as usize..end as usize]);
            }
            Item::Torn { offset, end } => {
                assert!(offset >= at && end == bytes.len() as u64);
                break;
            }
            Item::End => {
                assert_eq!(reader.position(), bytes.len() as u64);
                break;
            }
        }
        assert_eq!(reader.position(), at);
    }
    assert!(expected.next().is_none(), "a whole frame in front of any damage is read");
    calls::scan(dir).expect("a readable directory");
}));
