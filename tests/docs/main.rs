//! The documents against the declaration, and examples against themselves: what the documentation says
//! is what the code does. `cargo test --test docs -- --ignored` writes the parts that are made from the code.
#![forbid(unsafe_code)]

#[path = "../common/mod.rs"]
mod common;
mod links;
mod made;

use std::collections::BTreeSet;
use std::path::PathBuf;

use acc::accounting::fields::FieldSet;
use acc::declaration::{Argument, COMMANDS, Event, FUNCTIONS, Function, PARAMS, VARIABLES};
use acc::params::{Draft, RawValue};

/// Where the sections of parameters stand, in the order of their declaration.
const PARAMETERS: [&str; 3] = ["docs/reference/parameters.md", "docs/reference/flags.md", "docs/reference/kamailio.md"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Every document, by its path in the tree.
fn documents() -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = vec![String::new(), "docs".into()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap().map(|e| e.unwrap()) {
            let name = entry.file_name().into_string().unwrap();
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if entry.path().is_dir() && !folder.is_empty() {
                todo.push(path);
            } else if path.ends_with(".md") {
                all.push(path);
            }
        }
    }
    all.sort();
    assert!(all.len() > 30, "{all:?}");
    all
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
fn what_is_made_from_the_code_is_in_step() {
    let blocks = made::blocks();
    let mut seen = BTreeSet::new();
    for document in documents() {
        let text = read(&document);
        let (filled, names) = made::filled(&document, &text, &blocks);
        assert!(filled == text, "{document}: run cargo test --test docs -- --ignored");
        seen.extend(names);
    }
    let unused: Vec<_> = blocks.keys().filter(|name| !seen.contains(*name)).collect();
    assert!(unused.is_empty(), "in no document, between <!-- made: NAME --> and <!-- end -->: {unused:?}");
}

#[test]
#[ignore = "writes the documents"]
fn write_what_is_made_from_the_code() {
    let blocks = made::blocks();
    for document in documents() {
        let text = read(&document);
        let (filled, _) = made::filled(&document, &text, &blocks);
        if filled != text {
            std::fs::write(root().join(document), filled).unwrap();
        }
    }
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 200, "{lines} lines");
}

/// The sections of all parameters.
fn parameters() -> Vec<(String, Vec<String>)> {
    PARAMETERS.iter().flat_map(|page| sections(&read(page), "####")).collect()
}

#[test]
fn every_parameter_has_its_section_in_order() {
    let found = parameters();
    let headings = PARAMS.iter().map(|p| format!("{} ({})", p.name, made::kind(p.kind)));
    assert_eq!(found.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>(), headings.collect::<Vec<_>>());
    for (p, (_, lines)) in PARAMS.iter().zip(&found) {
        let name = p.name;
        assert!(lines.contains(&format!("<!-- made: {name} -->")), "{name}: no facts");
        Draft::default().set(name, modparam_value(&p.example_line(), name)).unwrap_or_else(|e| panic!("{name}: the example is refused: {e}"));
        assert!(!lines[1].is_empty() && !lines[1].starts_with("**"), "{name}: no word about what it is for");
    }
}

#[test]
fn the_examples_of_parameters_make_a_configuration() {
    let mut draft = Draft::default();
    for p in PARAMS {
        let name = p.name;
        // The files that they name are the operator's, and so is the name of the machine; other names of the same must
        // say the same.
        if !["aaa_url", "diameter_url", "diameter_client_host"].contains(&name) && !name.starts_with("radius_") {
            draft.set(name, modparam_value(&p.example_line(), name)).unwrap();
        }
    }
    let config = draft.finish(None).unwrap();
    let db = config.db().unwrap();
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
    let all = sections(&read("docs/reference/functions.md"), "####");
    for f in FUNCTIONS {
        let lines = part(&all, &heading(f));
        assert!(lines.contains(&format!("<!-- made: {} -->", f.name)), "{}: no facts", f.name);
        labelled(lines, "Returns", f.name);
        assert!(labelled(lines, "Example", f.name).contains(&format!("{}(", f.name)), "{}", f.name);
    }
}

#[test]
fn every_variable_has_its_section() {
    let all = sections(&read("docs/reference/variables.md"), "####");
    for (name, heading) in VARIABLES.iter().zip(["$acc_extra(tag)", "$(acc_leg(tag)[index])", "$acc_current_leg"]) {
        assert!(heading.contains(name), "{name}");
        assert!(part(&all, heading).len() > 1, "{name}");
    }
}

#[test]
fn every_event_has_its_section() {
    let all = sections(&read("docs/reference/events.md"), "####");
    for name in Event::ALL.map(Event::name) {
        assert!(part(&all, name).contains(&format!("<!-- made: {name} -->")), "{name}: no parameters");
    }
}

#[test]
fn every_management_command_has_its_section() {
    let all = sections(&read("docs/reference/commands.md"), "####");
    for c in COMMANDS {
        labelled(part(&all, c.name), "Answer", c.name);
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

/// What Kamailio cannot do is said in the scenarios, and listed with the same words.
#[test]
fn every_scenario_that_kamailio_cannot_play_is_listed_with_its_reason() {
    let listed = read("docs/KAMAILIO.md");
    let mut reasons = 0;
    for entry in std::fs::read_dir(root().join("tests/opensips/scenarios")).unwrap().map(|e| e.unwrap()) {
        let file = entry.path().file_stem().unwrap().to_str().unwrap().to_string();
        let (text, mut name) = (std::fs::read_to_string(entry.path()).unwrap(), String::new());
        for line in text.lines() {
            if let Some(table) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                name = table.to_string();
            } else if let Some(reason) = line.strip_prefix("kamailio = \"").and_then(|l| l.strip_suffix('"')) {
                reasons += 1;
                let row = listed.lines().find(|l| l.ends_with(&format!("| {reason} |"))).unwrap_or_else(|| panic!("docs/KAMAILIO.md does not list: {reason}"));
                assert!(row.contains(&format!("`{file}/{name}`")), "{row} lacks {file}/{name}");
            }
        }
    }
    assert!(reasons > 10, "{reasons}");
}
