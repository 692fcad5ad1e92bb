//! The report as one page: no script, nothing from the network, light or dark as the reader has it.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::prelude::*;

use super::figures::{Report, clock, most, percent};
use super::options::ReportOptions;

/// Width and height of a plot, in pixels.
const SIZE: (u32, u32) = (860, 240);
/// Points of a line.
const POINTS: usize = 200;
/// Readable on white, and, turned round, on black.
const BLUE_: RGBColor = RGBColor(31, 111, 181);

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.1em; margin-top: 2em; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5em, 1fr)); gap: .8em; margin: 1.5em 0; }
dl div { border: 1px solid #8886; border-radius: 6px; padding: .5em .8em; }
dt { font-size: .8em; opacity: .75; } dd { margin: 0; font-size: 1.35em; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25em .6em; border-bottom: 1px solid #8884; } th:first-child, td:first-child { text-align: left; }
td.bar { width: 30%; } td.bar span { display: block; height: .8em; background: #1f6fb5; border-radius: 2px; }
svg { max-width: 100%; height: auto; } p.note { opacity: .75; }
@media (prefers-color-scheme: dark) { svg { filter: invert(1) hue-rotate(180deg); } td.bar span { background: #58a6e8; } }
";

/// The whole page.
pub fn page(report: &Report, o: &ReportOptions) -> Result<String, String> {
    let all = &report.all;
    let rates = all.rates(&o.user_codes);
    let setup = |share| all.setup(share).map_or("-".into(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
    let mut tiles = vec![("attempts", all.attempts.to_string()), ("answered", all.answered.to_string())];
    if let Some((asr, ner)) = rates {
        tiles.extend([("ASR", percent(Some(asr))), ("NER", percent(Some(ner)))]);
    }
    tiles.extend([
        ("minutes", format!("{:.0}", all.duration_ms as f64 / 60_000.0)),
        ("mean duration", all.mean_ms().map_or("-".into(), clock)),
        ("shorter than 6 s", all.short.to_string()),
        ("setup p50", setup(0.5)),
        ("setup p95", setup(0.95)),
        ("at once, at most", report.concurrent().to_string()),
    ]);
    let span = match report.span {
        (Some(first), Some(last)) => format!("{first} to {last}"),
        _ => "no calls".into(),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Calls, " (span) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Calls" }
                p { (span) }
                dl { @for (name, value) in &tiles { div { dt { (name) } dd { (value) } } } }
                @if rates.is_none() && all.attempts > 0 {
                    p.note { "No ASR and NER: they need records of failed calls, which are written with the flag failed (ACC009 of accctl check-config)." }
                }
                @if all.attempts > 0 {
                    h2 { "Calls at the same time" }
                    (PreEscaped(concurrency(report)?))
                    h2 { "Attempts by hour of the day" }
                    (PreEscaped(hours(report)?))
                    @if o.by.is_some() { (groups(report, o)) }
                    (counts("Codes", &most(&all.codes, 12)))
                    (counts("How calls ended", &most(&all.causes, 12)))
                }
            }
        }
    };
    Ok(page.into_string())
}

fn groups(report: &Report, o: &ReportOptions) -> Markup {
    let groups = report.groups(o.top);
    let longest = groups.iter().map(|(_, f)| f.attempts).max().unwrap_or(1).max(1);
    html! {
        h2 { "By " (o.by.as_deref().unwrap_or_default()) }
        table {
            tr { th { (o.by.as_deref().unwrap_or_default()) } th { "attempts" } th {} th { "answered" } th { "ASR" } th { "NER" } th { "minutes" } th { "ACD" } }
            @for (name, f) in &groups {
                @let rates = if report.all.has_failed() { f.rates_of_a_part(&o.user_codes) } else { None };
                tr {
                    td { (name) } td { (f.attempts) } (bar(f.attempts, longest)) td { (f.answered) }
                    td { (percent(rates.map(|r| r.0))) } td { (percent(rates.map(|r| r.1))) }
                    td { (format!("{:.1}", f.duration_ms as f64 / 60_000.0)) } td { (f.mean_ms().map_or("-".into(), clock)) }
                }
            }
        }
    }
}

fn bar(n: u64, of: u64) -> Markup {
    html! { td.bar { span style={ "width:" (n * 100 / of.max(1)) "%" } {} } }
}

fn counts(title: &str, counts: &[(&str, u64)]) -> Markup {
    let longest = counts.iter().map(|(_, n)| *n).max().unwrap_or(1);
    html! {
        @if !counts.is_empty() {
            h2 { (title) }
            table { @for (name, n) in counts { tr { td { (name) } td { (n) } (bar(*n, longest)) } } }
        }
    }
}

fn concurrency(report: &Report) -> Result<String, String> {
    let points = report.concurrency(POINTS);
    let most = points.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1);
    let time = |x: usize| points.get(x).map_or(String::new(), |(time, _)| time.format("%d.%m. %H:%M").to_string());
    let mut out = String::new();
    let mut draw = || -> Result<(), Box<dyn std::error::Error + '_>> {
        let area = SVGBackend::with_string(&mut out, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(52)
            .build_cartesian_2d(0..points.len().max(2) - 1, 0..most + most.div_ceil(10))?;
        chart.configure_mesh().disable_x_mesh().x_labels(8).y_labels(6).x_label_formatter(&|x| time(*x)).draw()?;
        let line = points.iter().enumerate().map(|(x, (_, n))| (x, *n));
        chart.draw_series(AreaSeries::new(line, 0, BLUE_.mix(0.25)).border_style(BLUE_))?;
        area.present()?;
        Ok(())
    };
    draw().map_err(|e| e.to_string())?;
    Ok(out)
}

fn hours(report: &Report) -> Result<String, String> {
    let most = report.hours.iter().max().copied().unwrap_or(0).max(1);
    let mut out = String::new();
    let mut draw = || -> Result<(), Box<dyn std::error::Error + '_>> {
        let area = SVGBackend::with_string(&mut out, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(52)
            .build_cartesian_2d((0u32..23).into_segmented(), 0..most + most.div_ceil(10))?;
        let hour = |x: &SegmentValue<u32>| match x {
            SegmentValue::Exact(hour) | SegmentValue::CenterOf(hour) => hour.to_string(),
            SegmentValue::Last => String::new(),
        };
        chart.configure_mesh().disable_x_mesh().x_labels(24).y_labels(6).x_label_formatter(&hour).draw()?;
        let bars = report.hours.iter().zip(0u32..).map(|(n, hour)| (hour, *n));
        chart.draw_series(Histogram::vertical(&chart).style(BLUE_.filled()).margin(3).data(bars))?;
        area.present()?;
        Ok(())
    };
    draw().map_err(|e| e.to_string())?;
    Ok(out)
}
