//! Man pages and shell completions, generated from the options.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

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
