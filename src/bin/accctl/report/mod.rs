//! `accctl report`: what a span of calls looks like.
#![forbid(unsafe_code)]

mod figures;
#[cfg(feature = "html")]
mod html;
mod options;

use std::fmt::Write as _;
use std::process::ExitCode;

use acc::backend::sql::{Access, Conn, parse};
use serde_json::{Value, json};

use crate::Outcome;
use crate::rows::{Row, Source, Wanted, each, is_utc};
use figures::{Figures, Report, Spread, clock, percent, seconds};
pub use options::ReportOptions;

pub fn run(o: &ReportOptions) -> Outcome {
    let mut report = Report::new();
    let by: Vec<String> = o.by.iter().cloned().collect();
    let mut add = |row: Row<'_>| report.add(&row);
    let wanted = |between| Wanted { missed: false, between, wheres: &[], fields: &by };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    if o.stream.is_empty() {
        let given = o.params.read(o.sql.aliases())?;
        let db = given.database()?.ok_or("give the database with --url, the server's configuration with --config, or files with --stream")?;
        let target = parse(&db.url)?;
        let wanted = wanted(o.span.read(is_utc(&db))?);
        runtime.block_on(async {
            let mut conn = Conn::open_for(Access::Read, &target).await.map_err(|e| e.text)?;
            let done = each(Source::Sql(&mut conn, &db), wanted, &mut add).await;
            conn.close().await;
            done
        })?;
    } else {
        runtime.block_on(each(Source::Files(&o.stream), wanted(o.span.read(true)?), &mut add))?;
    }
    #[cfg(feature = "html")]
    if let Some(file) = &o.html {
        std::fs::write(file, html::page(&report, o)?).map_err(|e| format!("--html {}: {e}", file.display()))?;
    }
    let text = if o.json {
        format!("{}\n", as_json(&report, o))
    } else if o.csv {
        as_csv(&report, o)
    } else {
        as_text(&report, o)
    };
    Ok((text, ExitCode::SUCCESS))
}

fn as_text(report: &Report, o: &ReportOptions) -> String {
    let all = &report.all;
    let mut out = String::new();
    let (Some(first), Some(last)) = report.span else { return "no calls\n".into() };
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<22}{value}");
    };
    line("from, to", format!("{first}, {last}"));
    line("attempts", all.attempts.to_string());
    line("answered", all.answered.to_string());
    match all.rates(&o.user_codes) {
        Some((asr, ner)) => {
            line("ASR", percent(Some(asr)));
            line("NER", percent(Some(ner)));
        }
        None => line("ASR, NER", "there is no failed call; those have records only with the flag failed (ACC009 of check-config)".into()),
    }
    line("minutes", format!("{:.1}", all.duration_ms as f64 / 60_000.0));
    line("mean duration (ACD)", all.mean_ms().map_or("-".into(), clock));
    line("shorter than 6 s", all.short.to_string());
    let both = |of: &Spread| format!("{}, {}", seconds(of.below(0.5)), seconds(of.below(0.95)));
    line("setup p50, p95", both(&all.setups));
    // Only tables with a column pdd_ms have it.
    if all.pdds.below(0.5).is_some() {
        line("PDD p50, p95", both(&all.pdds));
    }
    line("at once, at most", report.concurrent().to_string());
    if !all.codes.is_empty() {
        line("codes", named(&figures::most(&all.codes, 8)));
    }
    if !all.causes.is_empty() {
        line("ends", named(&figures::most(&all.causes, 8)));
    }
    let busiest = report.hours.iter().max().copied().unwrap_or(0).max(1);
    let _ = writeln!(out, "\nattempts by hour of the day");
    for (hour, n) in report.hours.iter().enumerate() {
        let _ = writeln!(out, "{hour:02} {n:>8} {}", "#".repeat((n * 50).div_ceil(busiest) as usize));
    }
    if let Some(by) = &o.by {
        let _ = writeln!(out, "\n{:<30} {:>9} {:>9} {:>8} {:>8} {:>10} {:>9}", by, "attempts", "answered", "ASR", "NER", "minutes", "ACD");
        for (name, f) in report.groups(o.top) {
            let rates = if report.all.has_failed() { f.rates_of_a_part(&o.user_codes) } else { None };
            let _ = writeln!(
                out,
                "{:<30} {:>9} {:>9} {:>8} {:>8} {:>10.1} {:>9}",
                name,
                f.attempts,
                f.answered,
                percent(rates.map(|r| r.0)),
                percent(rates.map(|r| r.1)),
                f.duration_ms as f64 / 60_000.0,
                f.mean_ms().map_or("-".into(), clock)
            );
        }
    }
    out
}

fn named<T: std::fmt::Display>(counts: &[(T, u64)]) -> String {
    counts.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}

fn figures_json(f: &Figures, o: &ReportOptions, has_failed: bool) -> Value {
    let rates = if has_failed { f.rates_of_a_part(&o.user_codes) } else { None };
    json!({
        "attempts": f.attempts, "answered": f.answered, "failed": f.failed,
        "asr": rates.map(|r| r.0), "ner": rates.map(|r| r.1),
        "minutes": f.duration_ms as f64 / 60_000.0, "acd_ms": f.mean_ms(), "short": f.short,
        "setup_p50_ms": f.setups.below(0.5), "setup_p95_ms": f.setups.below(0.95), "pdd_p50_ms": f.pdds.below(0.5), "pdd_p95_ms": f.pdds.below(0.95),
        "codes": f.codes, "end_causes": f.causes,
    })
}

fn as_json(report: &Report, o: &ReportOptions) -> Value {
    let has_failed = report.all.has_failed();
    let mut out = figures_json(&report.all, o, has_failed);
    out["from"] = report.span.0.map(|t| t.to_string()).into();
    out["to"] = report.span.1.map(|t| t.to_string()).into();
    out["concurrent_max"] = report.concurrent().into();
    out["hours"] = report.hours.to_vec().into();
    if let Some(by) = &o.by {
        out["by"] = by.as_str().into();
        let groups = report.groups(o.top).into_iter().map(|(name, f)| {
            let mut one = figures_json(f, o, has_failed);
            one["value"] = name.into();
            one
        });
        out["groups"] = groups.collect();
    }
    out
}

/// A value of CSV (RFC 4180), escaped so that no spreadsheet takes it for a formula.
fn cell(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_string() };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn as_csv(report: &Report, o: &ReportOptions) -> String {
    let name = o.by.as_deref().unwrap_or("value");
    let mut out = format!("{},attempts,answered,failed,asr,ner,minutes,acd_seconds,short,setup_p50_ms,setup_p95_ms,pdd_p50_ms,pdd_p95_ms\n", cell(name));
    let has_failed = report.all.has_failed();
    let groups = if o.by.is_some() { report.groups(o.top) } else { Vec::new() };
    let all = [("", &report.all)];
    for (name, f) in groups.iter().map(|(name, f)| (name.as_str(), *f)).chain(all) {
        let rates = if has_failed { f.rates_of_a_part(&o.user_codes) } else { None };
        let share = |share: Option<f64>| share.map_or(String::new(), |share| format!("{share:.4}"));
        let number = |n: Option<i64>| n.map_or(String::new(), |n| n.to_string());
        let _ = writeln!(
            out,
            "{},{},{},{},{},{},{:.1},{},{},{},{},{},{}",
            cell(name),
            f.attempts,
            f.answered,
            f.failed,
            share(rates.map(|r| r.0)),
            share(rates.map(|r| r.1)),
            f.duration_ms as f64 / 60_000.0,
            f.mean_ms().map_or(String::new(), |ms| format!("{:.1}", ms as f64 / 1000.0)),
            f.short,
            number(f.setups.below(0.5)),
            number(f.setups.below(0.95)),
            number(f.pdds.below(0.5)),
            number(f.pdds.below(0.95)),
        );
    }
    out
}
