//! `accctl status`: shows what is waiting.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::process::ExitCode;

use acc::delivery::shown;
use acc::journal::SinkId;

use crate::Outcome;
use crate::place::PlaceOnly;
use crate::waiting::count;

pub fn run(place: &PlaceOnly) -> Outcome {
    let dir = place.open()?;
    let found = count(&dir)?;
    let mut out = format!("segments {} bytes {}\n", found.segments.0, found.segments.1);
    for sink in SinkId::ALL {
        let of = &found.sinks[sink.index()];
        // Only the database knows which records it has.
        let most = if sink == SinkId::Db && !of.has_cursor { "at most " } else { "" };
        let _ = writeln!(out, "{}: {most}{} waiting, {most}{} parked, {} dead", sink.name(), of.waiting, of.parked, of.dead);
    }
    let since = dir.gone_until().map_err(|e| e.to_string())?.map_or_else(|| "the beginning".into(), shown);
    let _ = match dir.kept() {
        Ok(kept) => writeln!(
            out,
            "kept: {} segments, {} bytes; a restored database gets back what it accepted since {since}",
            kept.len(),
            kept.iter().map(|k| k.segment.size).sum::<u64>()
        ),
        Err(e) => writeln!(out, "kept: cannot be read ({e})"),
    };
    let _ = writeln!(out, "damaged places in segments: {}", found.damaged);
    Ok((out, ExitCode::SUCCESS))
}
