//! The report as one page: no script, nothing from the network, light or dark as the reader prefers.

use std::io;

use acc::accounting::reason::phrase;
use chrono::{DateTime, NaiveDateTime};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordu64;
use plotters::prelude::*;

use super::figures::{Report, clock, most, percent, seconds};
use super::options::ReportOptions;

/// Width and height of a plot, in pixels.
const SIZE: (u32, u32) = (860, 240);
/// Points of a line.
const POINTS: usize = 200;
/// Readable on white and, inverted, on black.
const BLUE_: RGBColor = RGBColor(31, 111, 181);

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.1em; margin-top: 2em; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5em, 1fr)); gap: .8em; margin: 1.5em 0; }
dl div { border: 1px solid #8886; border-radius: 6px; padding: .5em .8em; }
dt { font-size: .8em; opacity: .75; } dd { margin: 0; font-size: 1.35em; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25em .6em; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 6em; }
td.bar { width: 30%; } table.counts td.bar { width: 60%; } td.bar span { display: block; height: .8em; min-width: 2px; background: #1f6fb5; border-radius: 2px; }
div.wide { overflow-x: auto; } svg { width: 100%; min-width: 640px; height: auto; } p.note { opacity: .75; }
@media (max-width: 640px) { table:not(.counts) .bar { display: none; } table.counts td.bar { width: 40%; } }
@media (prefers-color-scheme: dark) { svg { filter: invert(1) hue-rotate(180deg); } td.bar span { background: #58a6e8; } }
";

/// The whole page.
pub fn page(report: &Report, o: &ReportOptions) -> Result<String, String> {
    let all = &report.all;
    let rates = all.rates(&o.user_codes);
    let mut tiles = vec![("attempts", grouped(all.attempts)), ("answered", grouped(all.answered))];
    if let Some((asr, ner)) = rates {
        tiles.extend([("ASR", percent(Some(asr))), ("NER", percent(Some(ner)))]);
    }
    tiles.extend([
        ("minutes", grouped((u64::try_from(all.duration_ms).unwrap_or(0) + 30_000) / 60_000)),
        ("mean duration", all.mean_ms().map_or("-".into(), clock)),
        ("shorter than 6 s", grouped(all.short)),
        ("setup p50", seconds(all.setups.below(0.5))),
        ("setup p95", seconds(all.setups.below(0.95))),
        ("at once, at most", grouped(report.concurrent() as u64)),
    ]);
    if all.pdds.below(0.5).is_some() {
        tiles.extend([("PDD p50", seconds(all.pdds.below(0.5))), ("PDD p95", seconds(all.pdds.below(0.95)))]);
    }
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
                    p.note { "No ASR and NER: there is no failed call here. Those have records only with the flag failed (ACC009 of accctl check-config)." }
                }
                @if all.attempts > 0 {
                    h2 { "Calls at the same time" }
                    div.wide { (PreEscaped(concurrency(report)?)) }
                    h2 { "Attempts by hour of the day" }
                    div.wide { (PreEscaped(hours(report)?)) }
                    @if o.by.is_some() { (groups(report, o)) }
                    (counts("Codes", &most(&all.codes, 12), |code| format!("{code} {}", phrase(*code))))
                    (counts("How calls ended", &most(&all.causes, 12), String::clone))
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
        div.wide { table {
            tr { th { (o.by.as_deref().unwrap_or_default()) } th { "attempts" } th.bar {} th { "answered" } th { "ASR" } th { "NER" } th { "minutes" } th { "ACD" } }
            @for (name, f) in &groups {
                @let rates = if report.all.has_failed() { f.rates_of_a_part(&o.user_codes) } else { None };
                tr {
                    td { (name) } td { (grouped(f.attempts)) } (bar(f.attempts, longest)) td { (grouped(f.answered)) }
                    td { (percent(rates.map(|r| r.0))) } td { (percent(rates.map(|r| r.1))) }
                    td { (minutes(f.duration_ms)) } td { (f.mean_ms().map_or("-".into(), clock)) }
                }
            }
        } }
    }
}

fn bar(n: u64, of: u64) -> Markup {
    html! { td.bar { span style={ "width:" (format!("{:.1}", n as f64 * 100.0 / of.max(1) as f64)) "%" } {} } }
}

/// A number with a narrow space between thousands.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Minutes with one decimal.
fn minutes(ms: i64) -> String {
    let tenths = (u64::try_from(ms).unwrap_or(0) + 3000) / 6000;
    format!("{}.{}", grouped(tenths / 10), tenths % 10)
}

fn counts<T>(title: &str, counts: &[(T, u64)], name: impl Fn(&T) -> String) -> Markup {
    let longest = counts.iter().map(|(_, n)| *n).max().unwrap_or(1);
    html! {
        @if !counts.is_empty() {
            h2 { (title) }
            table.counts { @for (what, n) in counts { tr { td { (name(what)) } td { (grouped(*n)) } (bar(*n, longest)) } } }
        }
    }
}

fn concurrency(report: &Report) -> Result<String, String> {
    let points = report.concurrency(POINTS);
    let line = points.iter().enumerate().map(|(x, (_, n))| (x, *n as u64));
    let most = line.clone().map(|(_, n)| n).max().unwrap_or(0);
    let ticks = ticks(&points.iter().map(|(time, _)| *time).collect::<Vec<_>>());
    let x = (0..points.len().max(2) - 1).with_key_points(ticks.iter().map(|(x, _)| *x).collect());
    let time = |x: &usize| ticks.iter().find(|(at, _)| at == x).map_or(String::new(), |(_, time)| time.clone());
    plot(x, most, ticks.len(), &time, |chart| chart.draw_series(AreaSeries::new(line, 0, BLUE_.mix(0.25)).border_style(BLUE_)).map(drop))
}

/// Minutes between two ticks of a time axis.
const STEPS: [i64; 11] = [1, 5, 15, 60, 180, 360, 720, 1440, 2880, 10_080, 43_200];
/// Most ticks that have room for their times.
const MOST_TICKS: i64 = 8;

/// Round times, and the points next to them.
fn ticks(times: &[NaiveDateTime]) -> Vec<(usize, String)> {
    let minute = |time: &NaiveDateTime| time.and_utc().timestamp().div_euclid(60);
    let (Some(first), Some(last)) = (times.first().map(minute), times.last().map(minute)) else { return Vec::new() };
    let step = STEPS.into_iter().find(|step| (last - first) / step < MOST_TICKS).unwrap_or((last - first) / MOST_TICKS);
    let format = if step < 1440 { "%m-%d %H:%M" } else { "%Y-%m-%d" };
    let mut out: Vec<(usize, String)> = Vec::new();
    for (x, time) in times.iter().enumerate().filter(|(x, _)| *x > 0) {
        let round = minute(time).div_euclid(step) * step;
        if minute(&times[x - 1]) < round {
            let round = DateTime::from_timestamp(round * 60, 0).unwrap_or_default();
            out.push((x, round.format(format).to_string()));
        }
    }
    out
}

fn hours(report: &Report) -> Result<String, String> {
    let most = report.hours.iter().max().copied().unwrap_or(0);
    let hour = |x: &SegmentValue<u32>| match x {
        SegmentValue::Exact(hour) | SegmentValue::CenterOf(hour) => hour.to_string(),
        SegmentValue::Last => String::new(),
    };
    let bars = report.hours.iter().zip(0u32..).map(|(n, hour)| (hour, *n));
    plot((0u32..23).into_segmented(), most, 24, &hour, |chart| {
        let bars = Histogram::vertical(chart).style(BLUE_.filled()).margin(3).data(bars);
        chart.draw_series(bars).map(drop)
    })
}

/// A chart of numbers up to `most`, in the frame that both have, as SVG.
fn plot<X: AsRangedCoord>(
    x: X,
    most: u64,
    labels: usize,
    label: &dyn Fn(&X::Value) -> String,
    draw: impl for<'a> FnOnce(&mut Chart<'a, X::CoordDescType>) -> Result<(), DrawingAreaErrorKind<io::Error>>,
) -> Result<String, String>
where
    X::CoordDescType: ValueFormatter<X::Value>,
{
    let most = most.max(1);
    let mut out = String::new();
    let drawn = || -> Result<(), DrawingAreaErrorKind<io::Error>> {
        let area = SVGBackend::with_string(&mut out, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area).margin(8).x_label_area_size(24).y_label_area_size(52).build_cartesian_2d(x, 0..most + most.div_ceil(10))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(1)
            .x_labels(labels)
            .y_labels(6)
            .x_label_formatter(label)
            .y_label_formatter(&|n| grouped(*n))
            .draw()?;
        draw(&mut chart)?;
        area.present()
    };
    drawn().map_err(|e| e.to_string())?;
    Ok(out)
}

/// What a plot is drawn in.
type Chart<'a, X> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, RangedCoordu64>>;
