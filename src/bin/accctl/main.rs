//! accctl: works on a journal without a SIP server. One file per command.
#![forbid(unsafe_code)]

mod audit;
mod check_config;
mod convert;
mod deliver;
mod dump;
mod find;
mod help;
mod host;
mod metrics;
mod outcome;
#[cfg(test)]
mod pages;
mod params;
mod place;
mod progress;
mod prune;
mod reached;
mod report;
mod requeue;
mod rows;
mod schema;
mod script;
mod server_config;
mod sql;
mod status;
mod times;
mod verify;
mod waiting;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use outcome::Outcome;

/// Inspects, repairs and delivers the journal of the accounting module acc, without a SIP server
///
/// Run it as the user the server runs as. Exit status: 0 all is well; 1 something is damaged, waiting or unreadable, as
/// the command describes; 2 wrong usage, or an error.
#[derive(Parser)]
#[command(name = "accctl", version, subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// No warnings and no progress bar, only results and errors
    #[arg(long, global = true)]
    quiet: bool,
    /// No progress bar; none is shown either if standard error is not a terminal
    #[arg(long, global = true)]
    no_progress: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Show how much is waiting, dead or damaged
    Status(place::PlaceOnly),
    /// Print every entry of the segments, one per line
    Dump(dump::Dump),
    /// Look for damage, duplicates and gaps; exit status 1 for damage, duplicates and unreadable files
    Verify(place::PlaceOnly),
    /// Compare what the journals of all nodes have accepted with what SQL, or the files of a stream, hold
    ///
    /// Records count as long as their journal keeps them (journal_keep). For each hour: accepted, stored, still waiting, dead
    /// letters, missing, and there more often than they should be. Exit status 1 if anything is missing.
    Audit(audit::Audit),
    /// Deliver what a stopped server left: SQL and RADIUS records, log lines; exit status 1 if records remain
    ///
    /// SQL records need a db_url, RADIUS records an aaa_url; everything else, and calls in progress, stays. The parameters
    /// must be those of the server: --config reads them from its configuration.
    Deliver(deliver::Deliver),
    /// Put dead entries back for delivery
    Requeue(requeue::Requeue),
    /// Remove what is old: files of entries that were put back, damaged bytes that were set aside, and rows with a database
    ///
    /// Records that wait, dead letters and segments stay, however old they are. Rows go with --url or a configuration that has a
    /// db_url, unless --only-files is given.
    Prune(prune::Prune),
    /// Print the SQL for missing tables and columns
    Schema(schema::Schema),
    /// Say whether the module works with this server, without starting it
    ///
    /// It reads the version and the symbols in the program file; exit status 1 if the module would refuse it. For use before
    /// the upgrade of a server, and where images are built.
    Host(host::Host),
    /// Print what is waiting as metrics for Prometheus
    ///
    /// From the journal alone, for a server that is down or has no module for Prometheus. It reads all segments, so once a
    /// minute is often enough.
    Metrics(metrics::Metrics),
    /// Show where the records of a call are: waiting, delivered or given up, and why
    ///
    /// In the journal, in the tables of the database, in files of a stream; also calls in progress. Exit status 1 if nothing
    /// was found. Run it as the user of the server.
    Find(find::Find),
    /// Show what a span of calls looks like: attempts, ASR, NER, minutes, durations, codes
    ///
    /// From the tables of a database, or from files of a stream. It counts records of INVITEs: CDRs, and those of calls that
    /// failed. Run it as the user of the server where the database is an SQLite file.
    Report(report::ReportOptions),
    /// Look in a server's configuration for what would make records wrong or missing
    ///
    /// It reads the file only; no server is needed or started. Exit status: 0 nothing was found, 1 something was, 2 the file
    /// cannot be read. A comment "# accctl: allow(ACC004)" silences a finding: in its line or in the line above, or for the
    /// whole configuration before everything else in it.
    CheckConfig(check_config::CheckConfig),
    /// Print what a configuration with message flags and extra parameters is with do_accounting(), as a unified diff
    ///
    /// It reads the file only; patch(1) applies what it prints. Before the diff stands, in lines that begin with #, what is left
    /// to you. Exit status: 0 all was converted, 1 something is left, 2 the file cannot be read.
    Convert(convert::Convert),
    /// Explain a command, or a parameter, function, variable, event or management command of the module
    Help(help::Help),
}

/// Log lines of the library go to standard error.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("acc")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let _ = writeln!(std::io::stderr(), "accctl: {}", record.args());
        }
    }

    fn flush(&self) {}
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(if cli.quiet { log::LevelFilter::Error } else { log::LevelFilter::Warn });
    }
    progress::allow(!cli.quiet && !cli.no_progress);
    let outcome = match cli.command {
        Command::Status(place) => status::run(&place),
        Command::Dump(o) => dump::run(&o),
        Command::Verify(place) => verify::run(&place),
        Command::Audit(o) => audit::run(&o),
        Command::Deliver(o) => deliver::run(o),
        Command::Requeue(o) => requeue::run(&o),
        Command::Prune(o) => prune::run(&o),
        Command::Schema(o) => schema::run(&o),
        Command::Host(o) => host::run(&o),
        Command::Metrics(o) => metrics::run(&o),
        Command::Find(o) => find::run(&o),
        Command::Report(o) => report::run(&o),
        Command::CheckConfig(o) => check_config::run(&o),
        Command::Convert(o) => convert::run(&o),
        Command::Help(o) => help::run(&o, Cli::command()),
    };
    match outcome {
        Ok((text, code)) => {
            // The reader has closed the pipe, which is not a failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            code
        }
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "accctl: {text}");
            ExitCode::from(2)
        }
    }
}
