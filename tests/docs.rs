//! README.md against the declaration, and examples against themselves: what the documentation says
//! is what the code does.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use acc::acc::fields::FieldSet;
use acc::acc::record::{Backend, Core, Field, Kind, Record, Times, Wall};
use acc::backend::SinkId;
use acc::backend::event::{self, Event};
use acc::config::{Draft, RawValue};
use acc::host::EventValue;
use acc::module::{Argument, COMMANDS, EVENTS, FUNCTIONS, Function, PARAMS, ParamType, Routes, VARIABLES};
use acc::stats::{Counter, Snapshot};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Headings of one level with the lines up to the next heading of that level or a higher one.
fn sections(text: &str, level: &str) -> Vec<(String, Vec<String>)> {
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    let mut open = false;
    let mut code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            code = !code;
        }
        let hashes = if code { 0 } else { line.bytes().take_while(|b| *b == b'#').count() };
        if hashes == level.len() && line.as_bytes().get(hashes) == Some(&b' ') {
            out.push((line[hashes + 1..].to_string(), Vec::new()));
            open = true;
        } else if hashes > 0 && hashes < level.len() {
            open = false;
        } else if open && let Some((_, lines)) = out.last_mut() {
            lines.push(line.to_string());
        }
    }
    out
}

/// The text after `**LABEL**: `, with the lines that continue it; it must stand there once.
fn labelled(lines: &[String], label: &str, place: &str) -> String {
    let begin = format!("**{label}**: ");
    let at: Vec<_> = lines.iter().enumerate().filter(|(_, l)| l.starts_with(&begin)).map(|(i, _)| i).collect();
    assert_eq!(at.len(), 1, "{place}: {} lines begin with \"{begin}\"", at.len());
    let rest = lines[at[0]..].iter().take_while(|l| !l.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ");
    rest[begin.len()..].to_string()
}

/// The value in `modparam("acc", "NAME", VALUE)`.
fn modparam_value(example: &str, name: &str) -> RawValue {
    let value = example.trim_matches('`').strip_prefix(&format!("modparam(\"acc\", \"{name}\", ")).and_then(|v| v.strip_suffix(')'));
    let value = value.unwrap_or_else(|| panic!("{name}: the example is no modparam line: {example}"));
    match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        Some(text) => RawValue::Str(text.into()),
        None => RawValue::Int(value.parse().unwrap_or_else(|_| panic!("{name}: {value} is neither a number nor quoted"))),
    }
}

#[test]
fn every_parameter_has_its_section_in_order() {
    let readme = read("README.md");
    let found = sections(&readme, "####");
    assert_eq!(found.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), PARAMS.iter().map(|p| p.name).collect::<Vec<_>>());
    for (p, (name, lines)) in PARAMS.iter().zip(&found) {
        assert_eq!(labelled(lines, "Default", name), p.default, "{name}");
        assert_eq!(labelled(lines, "Since", name), p.since, "{name}");
        let kind = match p.kind {
            ParamType::Int => "integer",
            ParamType::Str => "string",
        };
        assert!(labelled(lines, "Syntax", name).starts_with(kind), "{name}: the syntax does not begin with {kind}");
        let value = modparam_value(&labelled(lines, "Example", name), name);
        Draft::default().set(name, value).unwrap_or_else(|e| panic!("{name}: the example is refused: {e}"));
        assert!(!lines[1].is_empty() && !lines[1].starts_with("**"), "{name}: no word about what it is for");
    }
}

#[test]
fn the_examples_of_parameters_make_a_configuration() {
    let readme = read("README.md");
    let mut draft = Draft::default();
    for (name, lines) in sections(&readme, "####") {
        // The file it names is the operator's.
        if name != "aaa_url" {
            draft.set(&name, modparam_value(&labelled(&lines, "Example", &name), &name)).unwrap();
        }
    }
    let config = draft.finish(None).unwrap();
    let db = config.db.unwrap();
    assert_eq!((&*db.table_acc, &*db.columns.core[3], config.delivery_batch), ("cdrs", "call_id", 2000));
}

/// The heading of a function's section.
fn heading(f: &Function) -> String {
    let arguments: Vec<_> = f
        .arguments
        .iter()
        .map(|(argument, optional)| {
            let name = match argument {
                Argument::Types => "types",
                Argument::Flags => "flags",
                Argument::Table => "table",
                Argument::Comment(_) => "comment",
            };
            if *optional { format!("[{name}]") } else { name.to_string() }
        })
        .collect();
    format!("{}({})", f.name, arguments.join(", "))
}

fn part<'a>(all: &'a [(String, Vec<String>)], begins: &str) -> &'a [String] {
    let found: Vec<_> = all.iter().filter(|(h, _)| h == begins).collect();
    assert_eq!(found.len(), 1, "sections \"{begins}\"");
    &found[0].1
}

#[test]
fn every_function_has_its_section() {
    let all = sections(&read("README.md"), "###");
    for f in &FUNCTIONS {
        let lines = part(&all, &heading(f));
        let routes = match f.routes {
            Routes::Requests | Routes::Transactions => "request, failure, branch, local",
            Routes::All => "all",
        };
        assert_eq!(labelled(lines, "Routes", f.name), routes, "{}", f.name);
        labelled(lines, "Returns", f.name);
        assert!(labelled(lines, "Example", f.name).contains(&format!("{}(", f.name)), "{}", f.name);
    }
}

#[test]
fn every_variable_has_its_section() {
    let all = sections(&read("README.md"), "###");
    for (name, heading) in VARIABLES.iter().zip(["$acc_extra(tag)", "$(acc_leg(tag)[index])", "$acc_current_leg"]) {
        assert!(heading.contains(name), "{name}");
        assert!(part(&all, heading).len() > 2, "{name}");
    }
}

/// A record of the kind that makes this event, with one extra and one leg field.
fn record_of(event: Event) -> Record {
    let field = |name: &str| vec![Field { name: name.into(), value: None }];
    Record {
        kind: match event {
            Event::Acc => Kind::Transaction,
            Event::Missed => Kind::Missed,
            Event::Cdr => Kind::Cdr,
            Event::Backlog => unreachable!("it reports no record"),
        },
        backend: Backend::Evi,
        table: "".into(),
        core: Core::default(),
        time: Wall(0),
        times: Some(Times { created: Wall(0), setup_ms: 0 }),
        duration_ms: Some(0),
        end: None,
        in_dialog: false,
        extras: field("extras"),
        legs: vec![field("legs")],
        id: 0,
    }
}

#[test]
fn every_event_has_its_section_with_its_parameters_in_order() {
    let all = sections(&read("README.md"), "###");
    for e in Event::ALL {
        let name = EVENTS[e as usize];
        let record;
        let all_parameters = if e == Event::Backlog {
            event::backlog_params(SinkId::Db, &Snapshot::take(), true).into()
        } else {
            record = record_of(e);
            event::params(&record).remove(0)
        };
        let parameters: Vec<_> = all_parameters
            .into_iter()
            .map(|(name, value)| match (name, value) {
                ("extras" | "legs", _) => format!("*{name}*"),
                (name, EventValue::Int(_)) => format!("`{name}` (int)"),
                (name, EventValue::Text(_)) => format!("`{name}`"),
            })
            .collect();
        assert_eq!(labelled(part(&all, name), "Parameters", name), parameters.join(", "), "{name}");
    }
}

#[test]
fn every_management_command_has_its_section() {
    let all = sections(&read("README.md"), "###");
    let kamailio = read("docs/KAMAILIO.md");
    for c in COMMANDS {
        labelled(part(&all, c.name), "Answer", c.name);
        assert!(kamailio.contains(&format!("`{}`", c.rpc)), "{}", c.rpc);
    }
}

#[test]
fn every_counter_and_supported_version_has_its_line() {
    let readme = read("README.md");
    let counters: Vec<_> = sections(&readme, "##").into_iter().filter(|(h, _)| h == "Counters").flat_map(|(_, lines)| lines).collect();
    let named: Vec<_> = counters.iter().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(named, Counter::ALL.iter().map(|c| c.name()).collect::<Vec<_>>());

    let rows = read("src/host/opensips/versions.rs");
    let names: Vec<_> = rows.lines().filter_map(|l| l.trim().strip_prefix("Row { name: \"")?.split('"').next()).collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(readme.contains(&format!("| {name} |")), "{name}");
    }
}

#[test]
fn the_promises_that_safety_notes_cite_are_listed() {
    let listed: Vec<_> = sections(&read("docs/SAFETY.md"), "###").into_iter().filter_map(|(h, _)| h.split('.').next()?.parse::<u32>().ok()).collect();
    let mut cited = 0;
    let mut todo = vec![root().join("src/host")];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for after in text.split("(promise ").skip(1) {
            let numbers = after.split(')').next().unwrap_or_default();
            for number in numbers.split(", ") {
                let n: u32 = number.parse().unwrap_or_else(|_| panic!("{}: promise \"{numbers}\"", path.display()));
                assert!(listed.contains(&n), "{}: promise {n} is not listed", path.display());
                cited += 1;
            }
        }
    }
    assert!(cited > 0);
    assert_eq!(listed, (1..=listed.len() as u32).collect::<Vec<_>>());
}

/// Every relative link of a document leads to a file, and to a heading of it.
#[test]
fn links_lead_somewhere() {
    for document in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/ARCHITECTURE.md", "docs/SAFETY.md", "docs/PERFORMANCE.md", "docs/KAMAILIO.md"] {
        let text = read(document);
        let folder = root().join(document).parent().map(Path::to_path_buf).unwrap();
        for link in text.split("](").skip(1).filter_map(|t| t.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { text.clone() } else { std::fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{document}: {link}: {e}")) };
            let headings = target.lines().filter(|l| l.starts_with('#')).map(|l| {
                let words = l.trim_start_matches('#').trim().to_lowercase();
                words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
            });
            assert!(anchor.is_empty() || headings.into_iter().any(|h| h == anchor), "{document}: {link}");
        }
    }
}

/// The parameters of the example are accepted, and its variables are declared.
#[test]
fn the_example_is_a_configuration_of_this_module() {
    let text = read("examples/opensips.cfg");
    let mut draft = Draft::default();
    let mut lines = 0;
    for line in text.lines().filter(|l| l.starts_with("modparam(\"acc\", ")) {
        let name = line.split('"').nth(3).unwrap();
        draft.set(name, modparam_value(line, name)).unwrap_or_else(|e| panic!("{line}: {e}"));
        lines += 1;
    }
    assert!(lines > 0);
    draft.finish(None).unwrap();
    let declared = |set: &FieldSet, after: &str| set.tag(after.split(')').next().unwrap()).is_some();
    for after in text.split("$acc_extra(").skip(1) {
        assert!(declared(&draft.fields.extra, after), "{after:.20}");
    }
    for after in text.split("$acc_leg(").skip(1) {
        assert!(declared(&draft.fields.leg, after), "{after:.20}");
    }
}
