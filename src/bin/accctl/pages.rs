//! Man pages and shell completions, generated from the options.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use acc::declaration::{COMMANDS, FUNCTIONS, Hosts, PARAMS};
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::roff::{Inline, Roff, bold, roman};

/// Pages of the reference with a section for each thing that is declared.
const REFERENCE: [&str; 5] = ["parameters", "flags", "kamailio", "functions", "commands"];

/// The first paragraph below a heading with this beginning, without Markdown.
fn summary(heading: &str) -> Vec<Inline> {
    let pages = REFERENCE.map(|page| std::fs::read_to_string(root().join(format!("docs/reference/{page}.md"))).unwrap());
    let section = pages.iter().find_map(|page| page.split_once(&format!("\n#### {heading}"))).unwrap_or_else(|| panic!("no section for {heading}")).1;
    let paragraph = section.split("\n\n").nth(1).unwrap().replace('\n', " ");
    // [text](address)
    let text: String = paragraph
        .split('[')
        .enumerate()
        .map(|(i, part)| match part.split_once("](") {
            Some((text, rest)) if i > 0 => format!("{text}{}", rest.split_once(')').unwrap().1),
            _ if i > 0 => format!("[{part}"),
            _ => part.to_string(),
        })
        .collect();
    text.split('`').enumerate().filter(|(_, part)| !part.is_empty()).map(|(i, part)| if i % 2 == 1 { bold(part) } else { roman(part) }).collect()
}

/// opensips-acc(7): what a configuration may contain, from the same sources as the documents.
fn module_page() -> Vec<u8> {
    let mut page = Roff::new();
    let version = format!("opensips-acc {}", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["opensips-acc", "7", "", version.as_str(), "SIP servers"]);
    let heading = |page: &mut Roff, text: &str| {
        page.control("SH", [text]);
    };
    heading(&mut page, "NAME");
    page.text([roman("opensips-acc - accounting module for OpenSIPS and Kamailio")]);
    heading(&mut page, "SYNOPSIS");
    page.text([bold("loadmodule"), roman(" \"/usr/lib/opensips-acc/acc.so\"")]);
    page.control("br", []);
    page.text([bold("modparam"), roman("(\"acc\", \"NAME\", VALUE)")]);
    heading(&mut page, "PARAMETERS");
    for p in PARAMS {
        page.control("TP", []);
        page.text([bold(p.name)]);
        let mut text = summary(&format!("{} (", p.name));
        text.push(roman(format!(" Default: {}.", p.default)));
        match p.hosts {
            Hosts::Both => {}
            Hosts::OpenSips(_) => text.push(roman(" OpenSIPS only.")),
            Hosts::Kamailio(_) => text.push(roman(" Kamailio only.")),
        }
        page.text(text);
    }
    heading(&mut page, "FUNCTIONS");
    for f in FUNCTIONS {
        page.control("TP", []);
        page.text([bold(format!("{}()", f.name))]);
        page.text(summary(&format!("{}(", f.name)));
    }
    heading(&mut page, "MANAGEMENT COMMANDS");
    for c in COMMANDS {
        page.control("TP", []);
        page.text([bold(c.name), roman(", in Kamailio "), bold(c.rpc)]);
        page.text([roman(c.help)]);
    }
    heading(&mut page, "FILES");
    for (path, what) in [
        ("/var/lib/opensips-acc", "the journal, unless journal_dir names another directory"),
        ("/usr/share/opensips-acc", "examples, tables, dictionaries, alerts and a dashboard"),
        ("/usr/share/doc/opensips-acc", "README, licences, and the libraries that are in the module"),
    ] {
        page.control("TP", []);
        page.text([bold(path)]);
        page.text([roman(what)]);
    }
    heading(&mut page, "SEE ALSO");
    page.text([bold("accctl"), roman("(1), "), bold("kamailio"), roman("(8), "), bold("opensips"), roman("(8)")]);
    page.render().into_bytes()
}

/// Every file, by its path in the tree.
fn made() -> BTreeMap<PathBuf, Vec<u8>> {
    let tmp = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(crate::Cli::command(), tmp.path()).unwrap();
    let pages = std::fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap());
    let mut all: BTreeMap<_, _> = pages.map(|e| (Path::new("man").join(e.file_name()), std::fs::read(e.path()).unwrap())).collect();
    for (shell, file) in [(Shell::Bash, "accctl"), (Shell::Zsh, "_accctl"), (Shell::Fish, "accctl.fish")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut crate::Cli::command(), "accctl", &mut text);
        all.insert(Path::new("completions").join(file), text);
    }
    all.insert(Path::new("man/opensips-acc.7").into(), module_page());
    all
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_committed_pages_are_in_step() {
    let all = made();
    for (path, content) in &all {
        assert!(std::fs::read(root().join(path)).is_ok_and(|there| there == *content), "{}: run cargo test --bin accctl -- --ignored", path.display());
    }
    for folder in ["man", "completions"] {
        for there in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = Path::new(folder).join(there.unwrap().file_name());
            assert!(all.contains_key(&path), "{} belongs to no command", path.display());
        }
    }
}

#[test]
#[ignore = "writes man and completions"]
fn write_the_pages() {
    for (path, content) in made() {
        std::fs::create_dir_all(root().join(&path).parent().unwrap()).unwrap();
        std::fs::write(root().join(path), content).unwrap();
    }
}

#[test]
fn the_reference_has_every_command_and_option() {
    let section = std::fs::read_to_string(root().join("docs/reference/accctl.md")).unwrap();
    for command in crate::Cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(section.contains(&format!("`accctl {name} ")), "accctl {name}");
        for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(section.contains(&format!("--{option}")), "accctl {name} --{option}");
        }
    }
}

#[test]
fn the_options_hold_together() {
    crate::Cli::command().debug_assert();
}
