//! `accctl requeue`: puts dead entries back for delivery.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::process::ExitCode;

use acc::journal::SinkId;
use acc::journal::limit::Limits;
use clap::builder::PossibleValuesParser;

use crate::Outcome;
use crate::place::PlaceOnly;
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
    let bar = Bar::bytes(0);
    let done = dir.put_back(sink, Limits::default().segment_max(), |read, total| {
        bar.set_total(total);
        bar.set(read);
    });
    drop(bar);
    let done = done.map_err(|e| format!("{}: {e}; what was not put back is still there: repair that, and run accctl requeue again", dir.path().display()))?;
    let mut out = String::new();
    for one in &done {
        let _ = match one.entries {
            Some(entries) => writeln!(out, "{entries} entries put back; their dead letters are kept in {}", one.file),
            None => writeln!(out, "an earlier run was stopped: the rest of {} is put back", one.file),
        };
        if one.again > 0 {
            let _ = writeln!(out, "{} entries of it had been put back before, and were not put back again", one.again);
        }
        if one.unreadable > 0 {
            let _ = writeln!(out, "{} lines could not be read and remain only there", one.unreadable);
        }
    }
    if done.is_empty() {
        out = "0 entries put back\n".into();
    }
    Ok((out, if done.iter().all(|one| one.unreadable == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}
