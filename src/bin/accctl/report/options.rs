//! What is asked for.

use std::path::PathBuf;

use acc::accounting::reason::USER_CODES;

use crate::params::Params;
use crate::rows::Span;
use crate::sql::Sql;

#[derive(clap::Args)]
pub struct ReportOptions {
    /// Read files of a stream (JSONL) instead of a database; may be repeated
    #[arg(long, value_name = "FILE")]
    pub stream: Vec<PathBuf>,
    #[command(flatten)]
    pub span: Span,
    /// Also for each value of this column or field
    #[arg(long, value_name = "FIELD")]
    pub by: Option<String>,
    /// How many values of --by are shown, those with most calls
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub top: usize,
    /// Codes of calls that fail by the will of a person, for NER
    #[arg(long, value_name = "CODE,...", value_delimiter = ',', default_values_t = USER_CODES)]
    pub user_codes: Vec<u16>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Print a line for each value of --by, and one for all, as CSV
    #[arg(long)]
    pub csv: bool,
    /// Also write it into this file, as one page with plots, without scripts and without anything from the network
    #[cfg(feature = "html")]
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub sql: Sql,
    #[command(flatten)]
    pub params: Params,
}
