//! What the documents say that the code knows: facts of parameters, functions, events, commands, counters and versions,
//! and the sample record. In a document it stands between the lines `<!-- made: NAME -->` and `<!-- end -->`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use acc::accounting::clock::Wall;
use acc::accounting::record::{Backend, Core, EndCause, Kind, Record, Shape, Signalling, Times};
use acc::backend::event::{self, Event, EventValue};
use acc::backend::log;
use acc::backend::radius::dictionary::{Dictionary, Type};
use acc::backend::radius::packet::{Encoder, MAX_PACKET};
use acc::backend::sql::{Db, DbTime};
use acc::config::Config;
use acc::declaration::{COMMANDS, FUNCTIONS, Hosts, PARAMS, Param, ParamType, Routes};
use acc::journal::{Dir, SinkId};
use acc::stats::{Counter, Snapshot};

use crate::common::{Running, field, sqlite, wait_until, writer};
use crate::{PARAMETERS, heading, read};

/// Every block, by its name.
pub fn blocks() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, text: String| assert!(all.insert(name.to_string(), text).is_none(), "{name} twice");
    add("parameters", parameters());
    for p in PARAMS {
        add(p.name, facts(p));
    }
    add("functions", functions());
    for f in FUNCTIONS {
        add(f.name, format!("**Routes**: {}\n", routes(f.routes)));
    }
    add("events", events());
    for e in Event::ALL {
        let parameters = wrapped(&format!("**Parameters**: {}", event_parameters(e)), " ");
        add(e.name(), format!("{parameters}\n**In Kamailio**: {}\n", route(e)));
    }
    add("commands", commands());
    add("counters", counters());
    let (opensips, kamailio) = (series("opensips"), series("kamailio"));
    let mut text = String::from("| server | tested releases |\n|---|---|\n");
    for (server, series) in [("OpenSIPS", &opensips), ("Kamailio", &kamailio)] {
        let spans: Vec<_> = series.iter().map(|s| format!("{} to {}", s.first, s.last)).collect();
        let _ = writeln!(text, "| {server} | {} |", spans.join(", "));
    }
    add("versions", text);
    for (name, series) in [("versions of OpenSIPS", opensips), ("versions of Kamailio", kamailio)] {
        let lines: String = series.iter().map(|s| format!("| {} | {} to {} |\n", s.name, s.first, s.last)).collect();
        add(name, format!("| series | tested releases |\n|---|---|\n{lines}"));
    }
    add("record", record_in_four_forms());
    add("stream of a call", stream_of_a_call());
    let readme = read("README.md");
    for (server, mark) in [("OpenSIPS", "opensips"), ("Kamailio", "kamailio")] {
        let fence = format!("```{mark}\n");
        let text = readme.split_once(&fence).and_then(|(_, rest)| rest.split_once("```\n")).unwrap().0;
        add(&format!("quick start of {server}"), format!("{fence}{text}```\n"));
    }
    all
}

/// A document with its blocks as they ought to be, and the names of these.
pub fn filled(document: &str, text: &str, blocks: &BTreeMap<String, String>) -> (String, Vec<String>) {
    let mut out = String::new();
    let mut names = Vec::new();
    let mut lines = text.split_inclusive('\n');
    while let Some(line) = lines.next() {
        out.push_str(line);
        let Some(name) = line.strip_prefix("<!-- made: ").and_then(|rest| rest.strip_suffix(" -->\n")) else { continue };
        out.push_str(blocks.get(name).unwrap_or_else(|| panic!("{document}: nothing is made for \"{name}\"")));
        out.push_str("\n<!-- end -->\n");
        assert!(lines.any(|line| line == "<!-- end -->\n"), "{document}: \"{name}\" has no end");
        names.push(name.to_string());
    }
    (out, names)
}

/// Words of a line, in lines of at most 118 characters; `between` stands between the words.
fn wrapped(text: &str, between: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split(between) {
        let more = word.chars().count() + between.len();
        if width > 0 && width + more > 118 {
            out.push_str(between.trim_end());
            out.push('\n');
            width = 0;
        } else if width > 0 {
            out.push_str(between);
        }
        out.push_str(word);
        width += more;
    }
    out.push('\n');
    out
}

/// Word for the type of a parameter.
pub fn kind(kind: ParamType) -> &'static str {
    match kind {
        ParamType::Int(..) => "integer",
        ParamType::Str | ParamType::Word(_) => "string",
        ParamType::Either(..) | ParamType::Flag => "string or integer",
    }
}

/// What a parameter takes, as far as its row says.
fn values(kind: ParamType) -> Option<String> {
    match kind {
        ParamType::Int(0, 1) => Some("0 or 1".into()),
        ParamType::Int(min, max) => Some(format!("{min} to {max}")),
        ParamType::Str => None,
        ParamType::Word(words) => {
            let (last, others) = words.split_last().unwrap();
            Some(format!("`{}` or `{last}`", others.join("`, `")))
        }
        ParamType::Either(min, i32::MAX) => Some(format!("a number from {min} on, or a word")),
        ParamType::Either(min, max) => Some(format!("a number from {min} to {max}, or a word")),
        ParamType::Flag => Some("a flag's name, or -1 to 31".into()),
    }
}

fn hosts(hosts: Hosts) -> &'static str {
    match hosts {
        Hosts::Both => "both",
        Hosts::OpenSips(_) => "OpenSIPS",
        Hosts::Kamailio(_) => "Kamailio",
    }
}

fn facts(p: &Param) -> String {
    let values = values(p.kind);
    let all = [
        ("type", Some(kind(p.kind))),
        ("values", values.as_deref()),
        ("default", Some(p.default)),
        ("servers", Some(hosts(p.hosts))),
        ("since", Some(p.since)),
    ];
    let (names, cells): (Vec<_>, Vec<_>) = all.into_iter().filter_map(|(name, cell)| Some((name, cell?))).unzip();
    let mut text = format!("| {} |\n|{}\n| {} |\n", names.join(" | "), "---|".repeat(names.len()), cells.join(" | "));
    if p.adds {
        text.push_str("\nA further line adds to the ones before.\n");
    }
    if let Some(syntax) = p.syntax {
        let _ = write!(text, "\n{}", wrapped(&format!("**Syntax**: {syntax}"), " "));
    }
    let _ = write!(text, "\n**Example**: `{}`\n", p.example_line());
    text
}

fn parameters() -> String {
    let mut text = String::from("| parameter | type | values | default | servers | since |\n|---|---|---|---|---|---|\n");
    let pages = PARAMETERS.map(|page| (page, read(page)));
    for p in PARAMS {
        let heading = format!("{} ({})", p.name, kind(p.kind));
        let page = pages.iter().skip(1).find(|(_, text)| text.contains(&format!("\n#### {heading}\n")));
        let page = page.map_or("", |(page, _)| page.rsplit('/').next().unwrap());
        let values = values(p.kind).unwrap_or_default();
        let _ =
            writeln!(text, "| [`{}`]({page}#{}) | {} | {values} | {} | {} | {} |", p.name, anchor(&heading), kind(p.kind), p.default, hosts(p.hosts), p.since);
    }
    text
}

fn routes(routes: Routes) -> &'static str {
    match routes {
        Routes::Requests => "request, failure, branch, local; in Kamailio also branch failure",
        Routes::Transactions => "request, failure, branch, local; in Kamailio also branch failure and reply",
        Routes::Manual => "request, failure, branch, local; in Kamailio all",
        Routes::All => "all",
    }
}

/// As the headings of documents are linked to.
pub fn anchor(heading: &str) -> String {
    let words = heading.to_lowercase();
    words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn functions() -> String {
    let mut text = String::from("| function | routes |\n|---|---|\n");
    for f in FUNCTIONS {
        let heading = heading(f);
        let _ = writeln!(text, "| [`{heading}`](#{}) | {} |", anchor(&heading), routes(f.routes));
    }
    text
}

fn route(e: Event) -> String {
    format!("`event_route[{}]`", e.route().to_str().unwrap())
}

fn events() -> String {
    let mut text = String::from("| OpenSIPS | Kamailio |\n|---|---|\n");
    for e in Event::ALL {
        let name = e.name();
        let _ = writeln!(text, "| [`{name}`](#{}) | {} |", anchor(name), route(e));
    }
    text
}

fn event_parameters(e: Event) -> String {
    let record;
    let parameters = if e == Event::Backlog {
        event::backlog_params(SinkId::Db, &Snapshot::take(), true).into()
    } else {
        record = Record {
            kind: match e {
                Event::Acc => Kind::Transaction,
                Event::Missed => Kind::Missed,
                Event::Cdr => Kind::Cdr,
                Event::Start => Kind::Start,
                Event::Interim => Kind::Interim,
                Event::Backlog => unreachable!("it reports no record"),
            },
            backend: Backend::Evi,
            extras: vec![field("extras", None)],
            legs: vec![vec![field("legs", None)]],
            ..sample()
        };
        event::params(&record).remove(0)
    };
    let words = parameters.into_iter().map(|(name, value)| match (name, value) {
        ("extras" | "legs", _) => format!("*{name}*"),
        (name, EventValue::Int(_)) => format!("`{name}` (int)"),
        (name, EventValue::Text(_)) => format!("`{name}`"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn commands() -> String {
    let mut text = String::from("| OpenSIPS (MI) | Kamailio (RPC) | |\n|---|---|---|\n");
    for c in COMMANDS {
        let _ = writeln!(text, "| [`{0}`](#{0}) | `{1}` | {2} |", c.name, c.rpc, c.help);
    }
    text
}

fn counters() -> String {
    let mut text = String::from("| counter | meaning |\n|---|---|\n");
    for c in Counter::ALL {
        let _ = writeln!(text, "| `{}` | {} |", c.name(), c.help().trim_end_matches('.'));
    }
    text
}

/// Tested releases of a series.
struct Series {
    name: String,
    first: String,
    last: String,
}

fn series(family: &str) -> Vec<Series> {
    let versions = read(&format!("src/host/{family}/versions.rs"));
    let lines = versions.lines().filter_map(|l| l.trim().strip_prefix("Series { from: (")?.strip_suffix(" },"));
    let all: Vec<_> = lines
        .map(|line| {
            let (from, last) = line.split_once("), tested: ").unwrap();
            let numbers: Vec<_> = from.split(", ").collect();
            let [major, minor, patch] = numbers[..] else { panic!("{line}") };
            let name = format!("{major}.{minor}");
            Series { first: format!("{name}.{patch}"), last: format!("{name}.{last}"), name }
        })
        .collect();
    assert!(!all.is_empty());
    all
}

/// The CDR of the README.
fn sample() -> Record {
    Record {
        kind: Kind::Cdr,
        shape: Shape::Context,
        backend: Backend::Db,
        table: "".into(),
        core: Core {
            method: b"INVITE".to_vec(),
            from_tag: b"a1".to_vec(),
            to_tag: b"b1".to_vec(),
            callid: b"1-1866@192.0.2.1".to_vec(),
            code: b"200".to_vec(),
            reason: b"OK".to_vec(),
        },
        time: Wall(1_795_305_877_260_000),
        times: Some(Times { created: Wall(1_795_305_874_110_000), setup_ms: 3150 }),
        duration_ms: Some(61_506),
        end: Some(EndCause::Caller),
        signalling: Signalling::default(),
        reported: false,
        in_dialog: false,
        extras: vec![],
        legs: vec![],
        id: 0x3f1c_9a52_07de_4b68_8d10_55aa_61c4_e2f7,
    }
}

/// What the golden file of a CDR holds, in lines for people.
fn stream_of_a_call() -> String {
    let value: serde_json::Value = serde_json::from_str(&read("tests/stream/golden/cdr.jsonl")).unwrap();
    format!("```json\n{}\n```\n", serde_json::to_string_pretty(&value).unwrap())
}

/// The sample for a destination that calls its two values so.
fn sample_with(caller: &str, callee: &str) -> Record {
    Record { extras: vec![field(caller, Some(b"sip:alice@example.org")), field(callee, Some(b"sip:1001@example.org"))], ..sample() }
}

fn record_in_four_forms() -> String {
    let line = String::from_utf8(log::line(&sample_with("caller", "callee"))).unwrap();
    let forms = [
        ("log", wrapped(&line, ";")),
        ("SQL", wrapped(&sql_row(&sample_with("caller", "callee")), " | ")),
        ("RADIUS, an Accounting-Request", wrapped(&radius_packet(&sample_with("Calling-Station-Id", "Called-Station-Id")), ", ")),
        ("event", wrapped(&event_json(&sample_with("caller", "callee")), ",")),
    ];
    let text: String = forms.iter().map(|(name, form)| format!("# {name}\n{form}")).collect();
    format!("```text\n{text}```\n")
}

/// As SQLite has it: `column=value` for each column.
fn sql_row(record: &Record) -> String {
    let tmp = tempfile::tempdir().unwrap();
    let database = tmp.path().join("acc.sqlite");
    let mut config: Config = crate::common::config(Some(&format!("sqlite://{}", database.display())), &tmp.path().join("journal"));
    config.rules.fields = acc::accounting::fields::Fields::default();
    config.rules.fields.extra.add("db: caller; callee").unwrap();
    let db = Db { time: DbTime::Utc, ..config.db().unwrap().clone() };
    config.destinations.set(SinkId::Db, db);
    let dir = Dir::open(&config.journal_dir).unwrap();
    writer(&dir, 1).append_record(SinkId::Db, record).unwrap();
    let running = Running::start(config, &dir);
    let count = || sqlite(&database, "SELECT count(*) FROM acc").is_ok_and(|n| n.trim() == "1");
    wait_until("the row is there", count);
    running.stop();
    let names = sqlite(&database, "SELECT group_concat(name, char(9)) FROM pragma_table_info('acc') WHERE name != 'id'").unwrap();
    let names: Vec<_> = names.trim_end().split('\t').collect();
    let row = sqlite(&database, &format!("SELECT {} FROM acc", names.join(", "))).unwrap();
    names.iter().zip(row.trim_end().split('\t')).map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" | ")
}

fn radius_packet(record: &Record) -> String {
    let dictionary = Dictionary::built_in().unwrap();
    let names = [
        "Acct-Status-Type",
        "Service-Type",
        "Sip-Response-Code",
        "Sip-Method",
        "Event-Timestamp",
        "Sip-From-Tag",
        "Sip-To-Tag",
        "Acct-Session-Id",
        "Sip-Call-Duration",
        "Sip-Call-Setuptime",
        "Sip-Call-Created",
        "Sip-Call-MSDuration",
        "Calling-Station-Id",
        "Called-Station-Id",
    ];
    let attributes = names.map(|name| dictionary.attribute(name).unwrap().clone());
    let mut encoder = Encoder::new(dictionary.clone(), None, &["Calling-Station-Id", "Called-Station-Id"]).unwrap();
    let pairs = encoder.attributes(record, MAX_PACKET).into_iter().map(|avp| {
        let attribute = attributes.iter().find(|a| a.code == u32::from(avp.code)).unwrap();
        let value = match attribute.kind {
            Type::Text => String::from_utf8(avp.value).unwrap(),
            _ => {
                let number = u32::from_be_bytes(avp.value.try_into().unwrap());
                let word = ["Stop", "Sip-Session", "INVITE"].into_iter().find(|word| dictionary.value(&attribute.name, word) == Some(number.into()));
                word.map_or(number.to_string(), String::from)
            }
        };
        format!("{} = {value}", attribute.name)
    });
    pairs.collect::<Vec<_>>().join(", ")
}

fn event_json(record: &Record) -> String {
    let parameters = event::params(record).remove(0).into_iter().map(|(name, value)| match value {
        EventValue::Text(None) => format!("\"{name}\":null"),
        EventValue::Text(Some(text)) => format!("\"{name}\":\"{}\"", String::from_utf8_lossy(text)),
        EventValue::Int(n) => format!("\"{name}\":{n}"),
    });
    format!("{{\"method\":\"{}\",\"params\":{{{}}}}}", event::event_of(record).name(), parameters.collect::<Vec<_>>().join(","))
}
