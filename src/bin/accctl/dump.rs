//! `accctl dump`: every entry.
#![forbid(unsafe_code)]

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use acc::accounting::visible::visible;
use acc::journal::{Item, Payload, json};

use crate::Outcome;
use crate::place::{PlaceOnly, walk};
use crate::progress;

#[derive(clap::Args)]
pub struct Dump {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceOnly,
}

pub fn run(o: &Dump) -> Outcome {
    let dir = o.place.open()?;
    // A bar among the lines would make both unreadable.
    if std::io::stdout().is_terminal() {
        progress::allow(false);
    }
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let mut failed = None;
    walk(&dir, |name, item| {
        let Item::Frame(f) = item else { return };
        let sink = f.sink_id().map_or_else(|| f.sink.to_string(), |s| s.name().to_string());
        let entry = f.entry(name);
        let parked = entry.as_ref().and_then(|e| e.as_ref().ok()?.parked.clone());
        let wall = entry.as_ref().and_then(|e| Some(e.as_ref().ok()?.wall)).unwrap_or(f.wall);
        let payload = entry.map(|e| e.map(|e| e.payload));
        let text = if o.json {
            let mut line = match &payload {
                Some(Ok(payload)) => json::payload(payload),
                _ => serde_json::json!({ "kind_number": f.kind, "payload": json::hex(f.payload) }),
            };
            line["sink"] = sink.into();
            line["segment"] = name.to_string().into();
            line["offset"] = f.offset.into();
            line["wall"] = wall.0.into();
            if let Some(parked) = parked {
                line["parked"] = serde_json::json!({
                    "since": parked.since.0, "offers": parked.offers, "table": &*parked.queue, "reason": parked.reason,
                    "from": parked.from.0.to_string(), "from_offset": parked.from.1,
                });
            }
            json::line(&line)
        } else {
            let body = match payload {
                Some(Ok(Payload::LogLine(l))) => visible(&String::from_utf8_lossy(&l)).into_owned(),
                Some(Ok(Payload::Record(r))) => {
                    let core: Vec<_> = r.core.values().iter().map(|v| visible(&String::from_utf8_lossy(v)).into_owned()).collect();
                    core.join(" ")
                }
                _ => format!("kind {} of {} bytes", f.kind, f.payload.len()),
            };
            let parked = parked.map_or_else(String::new, |p| format!(" (parked, refused {} times: {})", p.offers, visible(&p.reason)));
            format!("{} {sink} {body}{parked}", wall.0)
        };
        if failed.is_none()
            && let Err(e) = writeln!(out, "{text}")
        {
            failed = Some(e);
        }
    })?;
    let _ = out.flush();
    match failed {
        Some(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.to_string()),
        _ => Ok((String::new(), ExitCode::SUCCESS)),
    }
}
