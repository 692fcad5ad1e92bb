//! Options for the SQL tables, each an alias for a parameter.
#![forbid(unsafe_code)]

use acc::params::RawValue;
use clap::Args;

use crate::params::Alias;

/// Options shared by `deliver` and `schema`.
#[derive(Args)]
pub struct Sql {
    /// The database; the same as --set db_url=URL
    #[arg(long, value_name = "URL", help_heading = "SQL")]
    pub url: Option<String>,
    /// Extra fields with their columns; the same as --set 'extra_fields=db: ...'
    #[arg(long, value_name = "tag->column; ...", help_heading = "SQL")]
    extra: Vec<String>,
    /// Leg fields with their columns; the same as --set 'leg_fields=db: ...'
    #[arg(long, value_name = "tag->column; ...", help_heading = "SQL")]
    leg: Vec<String>,
    /// The same as --set db_table_acc=NAME
    #[arg(long, value_name = "NAME", help_heading = "SQL")]
    table_acc: Option<String>,
    /// The same as --set db_table_missed_calls=NAME
    #[arg(long, value_name = "NAME", help_heading = "SQL")]
    table_missed: Option<String>,
}

impl Sql {
    /// The parameters they stand for.
    pub fn aliases(&self) -> impl Iterator<Item = Alias> {
        let single = [
            Alias::text("--url", "db_url", self.url.as_deref()),
            Alias::text("--table-acc", "db_table_acc", self.table_acc.as_deref()),
            Alias::text("--table-missed", "db_table_missed_calls", self.table_missed.as_deref()),
        ];
        single.into_iter().flatten().chain(fields("--extra", "extra_fields", "db", &self.extra)).chain(fields("--leg", "leg_fields", "db", &self.leg))
    }
}

/// Field lists of one backend.
pub fn fields(option: &'static str, parameter: &'static str, backend: &str, lists: &[String]) -> Vec<Alias> {
    lists.iter().map(|list| Alias { option, parameter, value: RawValue::Str(format!("{backend}:{list}")) }).collect()
}
