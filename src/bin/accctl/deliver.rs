//! `accctl deliver`: delivers what a stopped server left.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use acc::backend::log::syslog::{self, DEV_LOG};
use acc::backend::sql::DbTime;
use acc::backend::sql::is_foreign;
use acc::config::Config;
use acc::delivery::{self, Delivery};
use acc::journal::calls::CARRY_RANK;
use acc::journal::limit::Limits;
use acc::journal::{Dir, JournalSync, SinkId};
use acc::params::RawValue;
use acc::stats::Counter;
use clap::builder::PossibleValuesParser;

use crate::Outcome;
use crate::params::{Alias, Params};
use crate::place::{Place, open_to_write};
use crate::progress::Bar;
use crate::sql::{Sql, fields};

#[derive(clap::Args)]
pub struct Deliver {
    #[command(flatten)]
    place: Place,
    /// Stop after this many seconds; allow enough for a large backlog
    #[arg(long, value_name = "N", default_value_t = 600)]
    seconds: u64,
    /// The syslog socket, for log lines
    #[arg(long, value_name = "PATH", default_value = DEV_LOG)]
    log_socket: PathBuf,
    #[command(flatten)]
    sql: Sql,
    /// The same as --set db_time=...
    #[arg(long, value_parser = PossibleValuesParser::new(DbTime::NAMES.map(|(name, _)| name)), help_heading = "SQL")]
    db_time: Option<String>,
    /// The RADIUS servers or Diameter peers; the same as --set aaa_url=...
    #[arg(long, value_name = "radius:FILE|diameter:FILE", help_heading = "RADIUS")]
    aaa_url: Option<String>,
    /// Extra fields with their attributes; the same as --set 'extra_fields=aaa: ...'
    #[arg(long, value_name = "tag->attribute; ...", help_heading = "RADIUS")]
    aaa_extra: Vec<String>,
    /// Leg fields with their attributes; the same as --set 'leg_fields=aaa: ...'
    #[arg(long, value_name = "tag->attribute; ...", help_heading = "RADIUS")]
    aaa_leg: Vec<String>,
    /// The same as --set service_type=N
    #[arg(long, value_name = "N", help_heading = "RADIUS")]
    service_type: Option<i32>,
    /// The same as --set aaa_retry=N
    #[arg(long, value_name = "N", help_heading = "RADIUS")]
    aaa_retry: Option<String>,
    /// The peers of the destination diameter; the same as --set diameter_url=...
    #[arg(long, value_name = "FILE", help_heading = "Diameter")]
    diameter_url: Option<String>,
    #[command(flatten)]
    params: Params,
}

impl Deliver {
    fn aliases(&self) -> impl Iterator<Item = Alias> {
        let single = [
            Alias::text("--db-time", "db_time", self.db_time.as_deref()),
            Alias::text("--aaa-url", "aaa_url", self.aaa_url.as_deref()),
            Alias::text("--diameter-url", "diameter_url", self.diameter_url.as_deref()),
            Alias::text("--aaa-retry", "aaa_retry", self.aaa_retry.as_deref()),
            self.service_type.map(|n| Alias { option: "--service-type", parameter: "service_type", value: RawValue::Int(n) }),
        ];
        let single = self.sql.aliases().chain(single.into_iter().flatten());
        single.chain(fields("--aaa-extra", "extra_fields", "aaa", &self.aaa_extra)).chain(fields("--aaa-leg", "leg_fields", "aaa", &self.aaa_leg))
    }

    fn config(&self) -> Result<Config, String> {
        let given = self.params.read(self.aliases())?;
        let path = self.place.path(&given)?;
        if !path.is_dir() {
            return Err(format!("{} is not a directory", path.display()));
        }
        let mut config = given.config()?;
        if self.sql.url.is_none() && config.db().is_some_and(|db| is_foreign(&db.url)) {
            log::warn!("db: db_url leaves these records to a database module of the server: they stay in the journal until it runs");
            config.destinations.remove(SinkId::Db);
        }
        // It tries only for a short time, and there must be room for what it writes itself.
        Ok(Config { journal_dir: path, journal_sync: JournalSync::Os, limits: Limits::default(), delivery_retry_max: 1, ..config })
    }
}

/// A bar that follows the counters, in a thread of its own, until it is dropped.
struct Shown {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Shown {
    /// How often it looks.
    const EVERY: Duration = Duration::from_millis(200);

    fn start() -> Shown {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let follow = move || {
            let bar = Bar::of(0);
            while !stopped.load(Ordering::Relaxed) {
                let sum = |counter: fn(SinkId) -> Counter| SinkId::ALL.into_iter().map(|sink| acc::stats::get(counter(sink))).sum::<u64>();
                bar.set_total(sum(SinkId::accepted));
                bar.set(sum(SinkId::delivered) + sum(SinkId::dead));
                std::thread::park_timeout(Shown::EVERY);
            }
        };
        Shown { stop, thread: std::thread::Builder::new().spawn(follow).ok() }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

pub fn run(o: Deliver) -> Outcome {
    let config = o.config()?;
    open_to_write(&config.journal_dir)?;
    let dir = Dir::open(&config.journal_dir).map_err(|e| e.to_string())?;
    let journal = dir.clone();
    let shown = Shown::start();
    delivery::run(Delivery { makers: vec![syslog::at(o.log_socket)], only_what_is_there: Some(Duration::from_secs(o.seconds)), ..Delivery::new(config, dir) })
        .map_err(|e| e.to_string())?;
    drop(shown);
    let mut out = String::new();
    for sink in SinkId::ALL {
        let [delivered, dead] = [sink.delivered(), sink.dead()].map(acc::stats::get);
        let _ = writeln!(out, "{}: {delivered} delivered, {dead} dead", sink.name());
    }
    // Segments of carried-over calls contain no records.
    let left = journal.segments().map_err(|e| e.to_string())?.iter().filter(|s| s.name.rank != CARRY_RANK).count();
    let _ = writeln!(out, "segments with entries still waiting: {left}");
    Ok((out, if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}
