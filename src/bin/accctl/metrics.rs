//! `accctl metrics`: what Prometheus can be told about a journal whose server is down, or has no module for Prometheus.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acc::accounting::clock::{Moment, Wall};
use acc::journal::counts::{self, KEPT};
use acc::journal::{Dir, SinkId, calls};

use crate::Outcome;
use crate::place::PlaceOnly;
use crate::waiting::{OfSink, count};

#[derive(clap::Args)]
pub struct Metrics {
    /// Write them into this file, for the textfile collector of node_exporter; the name must end in .prom
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceOnly,
}

pub fn run(o: &Metrics) -> Outcome {
    let text = text(&o.place.open()?)?;
    let Some(file) = &o.textfile else { return Ok((text, ExitCode::SUCCESS)) };
    if file.extension().is_none_or(|end| end != "prom") {
        return Err(format!("--textfile: {} must end in .prom: the collector reads no others", file.display()));
    }
    replace(file, &text).map_err(|e| format!("--textfile: {}: {e}", file.display()))?;
    Ok((String::new(), ExitCode::SUCCESS))
}

/// Seconds between a time and now.
fn age(then: Wall, now: Wall) -> f64 {
    (now.0.saturating_sub(then.0).max(0) / 1000) as f64 / 1000.0
}

fn text(dir: &Dir) -> Result<String, String> {
    let found = count(dir)?;
    let now = Moment::now().wall;
    let open = calls::scan(dir).map_err(|e| e.to_string())?;
    let mut out = String::new();
    let head = |out: &mut String, name: &str, help: &str| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
    };
    type Value = fn(&OfSink, Wall) -> f64;
    let by_sink: [(&str, &str, Value); 4] = [
        ("acc_sink_pending", "Records that the destination has not accepted; for db the most that it can be.", |of, _| (of.waiting + of.parked) as f64),
        ("acc_sink_parked", "Those among them that were refused and wait apart.", |of, _| of.parked as f64),
        ("acc_sink_dead_letters", "Records that were given up.", |of, _| of.dead as f64),
        ("acc_sink_oldest_age_seconds", "How long the oldest record has been waiting; 0 if none is.", |of, now| of.oldest.map_or(0.0, |t| age(t, now))),
    ];
    for (name, help, value) in by_sink {
        head(&mut out, name, help);
        for sink in SinkId::ALL {
            let _ = writeln!(out, "{name}{{sink=\"{}\"}} {}", sink.name(), value(&found.sinks[sink.index()], now));
        }
    }
    let alive = open.last_seen.map(|moment| age(moment.wall, now));
    let single = [
        ("acc_journal_bytes", "Bytes in segments.", Some(found.segments.1 as f64)),
        ("acc_journal_damaged", "Damaged places in segments.", Some(found.damaged as f64)),
        ("acc_open_calls", "Calls in progress that the journal keeps.", Some(open.calls.len() as f64)),
        ("acc_server_last_alive_seconds", "Time since the last sign of life of the server.", alive),
    ];
    for (name, help, value) in single {
        if let Some(value) = value {
            head(&mut out, name, help);
            let _ = writeln!(out, "{name} {value}");
        }
    }
    counted(dir, &mut out)?;
    Ok(out)
}

/// Counters of calls, as the server left them within its last second.
fn counted(dir: &Dir, out: &mut String) -> Result<(), String> {
    let values = counts::read(dir).map_err(|e| e.to_string())?;
    let mut last = "";
    for (counter, value) in KEPT.into_iter().zip(values) {
        let Some(value) = value else { continue };
        let (name, class) = match counter.name().strip_prefix("calls_failed_").filter(|end| end.ends_with("xx")) {
            Some(class) => ("calls_failed", format!("{{class=\"{class}\"}}")),
            None => (counter.name(), String::new()),
        };
        if name != last {
            let help = if class.is_empty() { counter.help() } else { "Calls that are accounted and failed, by the class of the final reply." };
            let _ = writeln!(out, "# HELP acc_{name}_total {help}\n# TYPE acc_{name}_total counter");
            last = name;
        }
        let _ = writeln!(out, "acc_{name}_total{class} {value}");
    }
    Ok(())
}

/// Nobody sees a half-written file.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension(format!("prom.{}", std::process::id()));
    let written = File::create(&new).and_then(|mut f| f.write_all(text.as_bytes())).and_then(|()| std::fs::rename(&new, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}
