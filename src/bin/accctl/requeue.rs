//! `accctl requeue`: puts dead entries back for delivery.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use acc::journal::limit::Limits;
use acc::journal::{DeadLetters, JournalSync, Letter, REQUEUE_RANK, SinkId, Writer};
use clap::builder::PossibleValuesParser;

use crate::Outcome;
use crate::place::{PlaceOnly, lines};
use crate::progress::Bar;

#[derive(clap::Args)]
pub struct Requeue {
    /// The destination whose dead letters are put back
    #[arg(long, value_parser = PossibleValuesParser::new(SinkId::ALL.map(SinkId::name)))]
    sink: String,
    #[command(flatten)]
    place: PlaceOnly,
}

pub fn run(o: &Requeue) -> Outcome {
    let sink = SinkId::ALL.into_iter().find(|s| s.name() == o.sink).ok_or("--sink is not a destination")?;
    let dir = o.place.open_to_write()?;
    let failed = |e: std::io::Error| format!("{}: {e}", dir.path().display());
    let file = DeadLetters::file_name(sink);
    // Taken away first: the server begins a new file for what dies meanwhile.
    let taken = format!("requeued-{}-{:016x}.jsonl", sink.name(), dir.boot());
    match dir.rename(&file, &taken) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(("0 entries put back\n".into(), ExitCode::SUCCESS)),
        other => other.map_err(failed)?,
    }
    let mut writer = Writer::new(&dir, REQUEUE_RANK, std::process::id(), JournalSync::Always, Limits::default().segment_max());
    let mut seen = HashSet::new();
    let (mut back, mut unreadable) = (0, 0);
    // A second run would find nothing to put back: say where the rest is.
    let stopped = |e, back: u64| format!("{}: {back} entries were put back, the others are still in {taken}", failed(e));
    let content = DeadLetters::taken_away(&dir, &taken).map_err(|e| stopped(e, 0))?;
    let bar = Bar::bytes(content.len() as u64);
    let mut done = 0;
    for line in lines(&content) {
        done += line.len() as u64 + 1;
        bar.set(done);
        let Some(letter) = Letter::read(line) else {
            unreadable += 1;
            continue;
        };
        if seen.insert(letter.key()) {
            writer.append(sink, &letter.payload).map_err(|e| stopped(e, back))?;
            back += 1;
        }
    }
    drop(bar);
    let mut out = format!("{back} entries put back; their dead letters are kept in {taken}\n");
    if let Some(e) = writer.unsynced() {
        let _ = writeln!(out, "they could not be synced ({e}) and may be lost in a power cut: check the disk");
    }
    if unreadable > 0 {
        let _ = writeln!(out, "{unreadable} lines could not be read and remain only there");
    }
    Ok((out, if unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}
