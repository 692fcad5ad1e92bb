//! What the module costs, as Markdown tables on standard output.
//!
//! ```text
//! cargo bench                     everything
//! cargo bench -- worker sql       some of: worker, sql, refused, radius, diameter, stream, memory, up
//! ```
//!
//! `scripts/bench` adds instruction counts, for which it runs `--count WHAT N` under callgrind.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "a program")]

#[path = "../tests/common/mod.rs"]
mod common;
mod diameter;
mod memory;
mod radius;
mod sql;
mod stream;
mod worker;

use std::io::Write as _;
use std::time::Duration;

use acc::accounting::clock::Moment;
use acc::accounting::record::Record;
use acc::backend::{Fate, RecordSender, SENDER_BATCH};

/// Rounds of those whose medians are shown.
pub const ROUNDS: usize = 3;

/// Tells it, also when nobody listens.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Begins a table.
pub fn table(title: &str, columns: &[&str]) {
    say(&format!("\n### {title}\n"));
    row(columns);
    row(&vec!["---"; columns.len()]);
}

/// A line of a table.
pub fn row<T: AsRef<str>>(cells: &[T]) {
    say(&format!("| {} |", cells.iter().map(T::as_ref).collect::<Vec<_>>().join(" | ")));
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// So many in so long, per second.
pub fn rate(n: usize, took: Duration) -> f64 {
    n as f64 / took.as_secs_f64()
}

/// Sends records and waits until each is acknowledged.
pub async fn send_all(client: &mut dyn RecordSender, records: &[Record]) {
    let fates = common::offer(client, records, Moment::wall_now(), false).await;
    assert!(fates.iter().all(|f| *f == Fate::Delivered), "{fates:?}");
}

/// A line of the table for one way to a server: records a second pipelined, from the journal, and one at a time. `send`
/// takes how many records, and how many of them at once.
pub fn way(name: &str, many: usize, few: usize, send: impl Fn(usize, usize) -> f64, deliver: impl Fn(usize) -> f64) {
    let [mut pipelined, mut delivered, mut alone] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        pipelined.push(send(many, SENDER_BATCH));
        delivered.push(deliver(many));
        alone.push(send(few, 1));
    }
    let ratios = |of: &[f64]| median(of.iter().zip(&alone).map(|(a, b)| a / b).collect());
    let (pipelined_ratio, delivered_ratio) = (ratios(&pipelined), ratios(&delivered));
    row(&[
        name.to_owned(),
        format!("{:.0}", median(alone.clone())),
        format!("{:.0}", median(pipelined)),
        format!("{pipelined_ratio:.1}"),
        format!("{:.0}", median(delivered)),
        format!("{delivered_ratio:.1}"),
    ]);
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--count", what, n] => return worker::count(what, n.parse().unwrap()),
        ["--deliver", journal, url] => return memory::deliver(journal.as_ref(), url),
        ["--up", journal, url, flags] => return memory::deliver_up(journal.as_ref(), url, flags),
        _ => {}
    }
    let all: [(&str, fn()); 8] = [
        ("worker", worker::run),
        ("sql", sql::run),
        ("refused", sql::run_refused),
        ("radius", radius::run),
        ("diameter", diameter::run),
        ("stream", stream::run),
        ("memory", memory::run),
        ("up", memory::run_up),
    ];
    for (name, run) in all {
        if words.is_empty() || words.contains(&name) {
            run();
        }
    }
}
