//! The order of the rooms of `src`: a room uses only what stands below it. Unit tests may use everything.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// From below. docs/ARCHITECTURE.md shows the same list.
const ORDER: [&str; 11] = ["declaration", "accounting", "interprocess", "stats", "params", "journal", "backend", "config", "delivery", "worker", "host"];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a file names as `crate::ROOM`, without its unit tests and its comments.
fn used(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let name = |after: &str| after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    code.split("crate::").skip(1).map(name).filter(|n| ORDER.contains(&&**n)).collect()
}

fn height(room: &str) -> usize {
    ORDER.iter().position(|r| *r == room).unwrap_or_else(|| panic!("the room {room} has no place in the order"))
}

#[test]
fn no_file_uses_a_room_above_its_own() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let mut upward = Vec::new();
    for path in all {
        let inside = path.strip_prefix(&src).unwrap();
        let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        // The crate's root lists the rooms; the tools are crates of their own; some unit tests are a file.
        if matches!(room, "lib" | "bin") || inside.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        upward.extend(used(&text).into_iter().filter(|other| height(other) > height(room)).map(|other| format!("{} uses {other}", inside.display())));
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn the_documents_show_the_same_order() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter_map(|l| l.strip_prefix("| `src/")?.split('`').next());
    let shown: Vec<_> = rows.map(|r| r.trim_end_matches('/').trim_end_matches(".rs")).filter(|r| ORDER.contains(r)).collect();
    assert_eq!(shown, ORDER.into_iter().rev().collect::<Vec<_>>());
}
