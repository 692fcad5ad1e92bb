//! `accctl check-config`: finds what would make records wrong or missing, without running the server.
#![forbid(unsafe_code)]

mod database;
pub mod effect;
mod fields;
mod finding;
pub mod flow;
pub mod model;
mod rules;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::Outcome;
use crate::script::lexer::{self, At, Tokens};
use crate::script::parser;
use finding::{Finding, Severity};
use model::Host;

#[derive(clap::Args)]
pub struct CheckConfig {
    /// The configuration of a server; of several instances on one machine, one for each
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The server that it is for, where the file does not tell
    #[arg(long, value_enum)]
    host: Option<Host>,
    /// Judge it for the server's own module acc, not for this one
    #[arg(long)]
    stock: bool,
    /// Compare it with the tables of this database (a db_url), too
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print findings as an array of JSON objects
    #[arg(long)]
    json: bool,
    /// Show notes, too: what may be meant, but often is not
    #[arg(long)]
    strict: bool,
    /// A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated
    #[arg(short = 'D', long, value_name = "NAME[=VALUE]")]
    define: Vec<String>,
}

pub fn run(o: &CheckConfig) -> Outcome {
    let mut out = String::new();
    let mut objects = Vec::new();
    let mut journals: Vec<(String, String)> = Vec::new();
    for path in &o.files {
        let tokens = lexer::read(path, &o.define)?;
        for note in &tokens.notes {
            log::warn!("{note}");
        }
        let Some((mut findings, journal)) = check(o, &tokens)? else {
            log::warn!("{} does not load the module acc: there is nothing to check", path.display());
            continue;
        };
        if let Some((dir, at)) = journal {
            let place = tokens.at(at);
            match journals.iter().find(|(other, _)| *other == dir) {
                Some((_, other)) => findings.push(Finding {
                    code: 29,
                    severity: Severity::Warning,
                    at,
                    text: format!("journal_dir {dir} is also that of the instance in {other}: only one of the two will start"),
                    help: "give each instance a directory of its own".into(),
                }),
                None => journals.push((dir, place)),
            }
        }
        findings.retain(|f| (o.strict || f.severity == Severity::Warning) && !allowed(&tokens, f));
        findings.sort_by_key(|f| (f.at, f.code));
        for f in &findings {
            let file = &tokens.files[f.at.file as usize];
            let At { line, column, .. } = f.at;
            objects.push(json!({
                "file": file, "line": line, "column": column, "severity": f.severity.name(), "code": f.name(), "message": f.text, "help": f.help
            }));
            let _ = writeln!(out, "{file}:{line}:{column}: {}[{}]: {}\n  help: {}", f.severity.name(), f.name(), f.text, f.help);
        }
    }
    let code = if objects.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if o.json {
        out = format!("{}\n", serde_json::Value::from(objects));
    }
    Ok((out, code))
}

/// What a text without options would show.
#[cfg(test)]
pub fn findings(tokens: &Tokens) -> Option<Checked> {
    let o = CheckConfig { files: Vec::new(), host: None, stock: true, url: None, json: false, strict: true, define: Vec::new() };
    check(&o, tokens).ok().flatten()
}

/// What was found, and the directory of the journal with its line.
pub type Checked = (Vec<Finding>, Option<(String, At)>);

/// `None` if it has nothing to do with accounting.
fn check(o: &CheckConfig, tokens: &Tokens) -> Result<Option<Checked>, String> {
    let script = parser::parse(tokens)?;
    let host = o.host.or_else(|| model::host_of(tokens)).unwrap_or(Host::Opensips);
    let model = model::read(tokens, host, o.stock);
    let Some(module) = model.module("acc") else { return Ok(None) };
    let mut findings = rules::all(&model, &script);
    if let Some(url) = &o.url {
        findings.extend(database::compare(&model, url, module.at)?);
    }
    let journal = model.line("acc", "journal_dir").filter(|_| !o.stock).and_then(|line| Some((line.text()?.to_string(), line.at)));
    Ok(Some((findings, journal)))
}

/// Whether a comment silences it: one in its line or in the line above, or one that stands before everything else in the
/// first file.
fn allowed(tokens: &Tokens, finding: &Finding) -> bool {
    let first = tokens.all.first().map(|token| token.at);
    tokens.allowed.iter().filter(|a| a.codes.iter().any(|code| *code == finding.name())).any(|a| {
        let near = a.at.file == finding.at.file && (a.at.line == finding.at.line || a.at.line + 1 == finding.at.line);
        near || first.is_some_and(|first| a.at.file == 0 && a.at.line < first.line)
    })
}
