//! `accctl verify`: looks for damage, duplicates and gaps.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use acc::journal::{Item, Payload, REQUEUE_RANK, SegmentName};

use crate::Outcome;
use crate::place::{PlaceOnly, walk};

pub fn run(place: &PlaceOnly) -> Outcome {
    let dir = place.open()?;
    let mut out = String::new();
    let (mut entries, mut bad, mut doubles) = (0u64, 0u64, 0u64);
    // Where each record is, by destination and id.
    let mut seen: HashMap<(u8, u128), (SegmentName, u64)> = HashMap::new();
    walk(&dir, |name, item| match item {
        Item::Frame(f) => {
            entries += 1;
            match f.entry(name).map(|e| e.map(|e| e.payload)) {
                Some(Err(())) => {
                    bad += 1;
                    let _ = writeln!(out, "{name}: the entry at {} cannot be decoded", f.offset);
                }
                // Records that were put back or parked are in their first segment as well.
                Some(Ok(Payload::Record(record))) if name.rank != REQUEUE_RANK && name.parks_for().is_none() => {
                    if let Some((other, offset)) = seen.insert((f.sink, record.id), (name, f.offset)) {
                        doubles += 1;
                        let _ = writeln!(out, "{name}: the record at {} is also in {other} at {offset}", f.offset);
                    }
                }
                _ => {}
            }
        }
        Item::Corrupt { offset, end } => {
            bad += 1;
            let _ = writeln!(out, "{name}: damaged from {offset} to {end}");
        }
        Item::Torn { offset, end } => {
            let _ = writeln!(out, "{name}: the last entry, from {offset} to {end}, is not complete");
        }
        Item::End => {}
    })?;
    let segments = dir.segments().map_err(|e| e.to_string())?;
    for pair in segments.windows(2) {
        let (a, b) = (pair[0].name, pair[1].name);
        // A writer numbers its segments; they are removed when they are delivered, not always in order.
        if (a.boot, a.rank, a.pid) == (b.boot, b.rank, b.pid) && b.seq > a.seq + 1 {
            let _ = writeln!(out, "{} segments between {a} and {b} are missing: delivered earlier, or removed", b.seq - a.seq - 1);
        }
    }
    let passed_over = dir.passed_over();
    let _ = writeln!(out, "{entries} entries, {bad} damaged, {doubles} duplicates, {passed_over} files skipped");
    Ok((out, if bad + doubles == 0 && passed_over == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}
