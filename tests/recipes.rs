//! The recipes of CONTRIBUTING.md, walked for everything that is declared: each step is done, and each
//! file that a step names is there.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use acc::declaration::{COMMANDS, Event, FUNCTIONS, MOST_ARGUMENTS, PARAMS};
use acc::stats::Counter;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The text of every file with this ending in a folder, with its path.
fn files(folder: &Path, ending: &str, out: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, out);
        } else if path.extension().is_some_and(|e| e == ending) {
            out.push((path.strip_prefix(root()).unwrap().display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Every line of the documents for users.
fn documents() -> Vec<String> {
    let mut all = vec![(String::new(), read("README.md"))];
    files(&root().join("docs"), "md", &mut all);
    all.iter().flat_map(|(_, text)| text.lines().map(str::to_owned)).collect()
}

fn has_heading(documents: &[String], begins: &str) -> bool {
    documents.iter().any(|l| l.starts_with('#') && l.trim_start_matches('#').trim_start().starts_with(begins))
}

#[test]
fn the_files_of_every_step_are_there() {
    let contributing = read("CONTRIBUTING.md");
    let recipes = contributing.split("\n## Recipes\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let names: Vec<_> = recipes.lines().filter_map(|l| l.strip_prefix("### ")).collect();
    assert_eq!(names, ["Add a parameter", "Add a destination", "Add a function", "Add a counter", "Add an event", "Add a management command"]);
    let mut paths = 0;
    for word in recipes.split('`').skip(1).step_by(2).filter(|w| w.contains('/') || w.ends_with(".md")) {
        assert!(root().join(word).exists(), "CONTRIBUTING.md: {word} is not there");
        paths += 1;
    }
    assert!(paths > 8);
    // What the macros of the steps are called.
    for (file, macros) in [("src/declaration.rs", &["destinations", "functions", "events", "commands"][..]), ("src/stats.rs", &["counters"])] {
        let text = read(file);
        for name in macros {
            assert!(recipes.contains(&format!("`{name}!`")) && text.contains(&format!("macro_rules! {name} {{")), "{file}: {name}!");
        }
    }
}

#[test]
fn every_parameter_means_something_and_is_documented() {
    let mut code = Vec::new();
    files(&root().join("src"), "rs", &mut code);
    // Where a name is declared, or refused, it means nothing yet; a tool only passes it on.
    code.retain(|(path, _)| path != "src/declaration.rs" && path != "src/host/kamailio/load.rs" && !path.starts_with("src/bin"));
    let documents = documents();
    for p in PARAMS {
        let read = code.iter().any(|(_, text)| text.contains(&format!("\"{}\"", p.name)));
        let heading = documents.iter().position(|l| l.starts_with("#### ") && l.contains(&format!(" {} (", p.name)));
        // What Kamailio's own modules have and nothing here depends on.
        let says_so = heading.and_then(|i| documents.get(i + 2)).is_some_and(|l| l.starts_with("Accepted, without effect: "));
        assert!(read || says_so, "{}: no file under src reads it, and its section does not say that it has no effect", p.name);
        assert!(has_heading(&documents, p.name), "{}: no section", p.name);
    }
}

#[test]
fn every_function_has_its_body_and_its_section() {
    let bodies = read("src/host/script.rs");
    let documents = documents();
    for f in FUNCTIONS {
        assert!(bodies.contains(&format!("fn {}(", f.name)), "{}: no body", f.name);
        assert!(has_heading(&documents, &format!("{}(", f.name)), "{}: no section", f.name);
        assert!(f.arguments.len() <= MOST_ARGUMENTS, "{}", f.name);
        // Arguments are told apart by their places only.
        assert!(f.arguments.is_sorted_by_key(|(_, optional)| *optional), "{}: an argument behind one that may be left out", f.name);
    }
}

#[test]
fn every_counter_event_and_command_is_documented() {
    let documents = documents();
    for c in Counter::ALL {
        assert!(documents.iter().any(|l| l.starts_with(&format!("| `{}`", c.name()))), "{}: no line", c.name());
    }
    let kamailio = read("docs/KAMAILIO.md");
    for e in Event::ALL {
        assert!(has_heading(&documents, e.name()), "{}: no section", e.name());
        let route = e.route().to_str().unwrap();
        assert!(kamailio.contains(route), "{route}: not in docs/KAMAILIO.md");
    }
    let bodies = read("src/host/management.rs");
    for c in COMMANDS {
        assert!(bodies.contains(&format!("fn {}(", c.name)), "{}: no body", c.name);
        assert!(has_heading(&documents, c.name), "{}: no section", c.name);
        assert!(kamailio.contains(c.rpc), "{}: not in docs/KAMAILIO.md", c.rpc);
    }
}
