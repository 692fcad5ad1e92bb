//! The design of destinations, tried: one more is a folder and a row. A copy of the project gets both, is built, and its
//! own test delivers to it.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// The row in `destinations!`, and that of its parameter.
const ROWS: [(&str, &str); 2] = [
    (
        "            /// Rows in a SQL table.\n",
        "            /// A file with a line for each record.\n            Toy = 15, \"toy\", names Words, by Delivery, sink toy \"toy_file\";\n",
    ),
    ("    text(\"stream_node\", ", "    text(\"toy_file\", \"none (toy off)\", \"/var/log/calls.toy\"),\n"),
];

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

#[test]
fn a_destination_is_one_folder_and_one_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The same place each time: what cargo keeps of the copy is replaced, and does not pile up.
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let project = tmp.join("toy");
    let _ = fs::remove_dir_all(&project);
    fs::create_dir_all(&project).unwrap();
    for name in ["Cargo.toml", "Cargo.lock", "build.rs", "src", "include", "benches", "docs", "scripts", "README.md"] {
        copy(&root.join(name), &project.join(name));
    }
    copy(&root.join("tests/common"), &project.join("tests/common"));
    copy(&root.join("tests/toy/delivers.rs"), &project.join("tests/delivers.rs"));
    // The folder.
    fs::create_dir(project.join("src/backend/toy")).unwrap();
    copy(&root.join("tests/toy/destination.rs"), &project.join("src/backend/toy/mod.rs"));
    // The rows: the only file outside it that changes.
    let declaration = project.join("src/declaration.rs");
    let mut text = fs::read_to_string(&declaration).unwrap();
    for (before, row) in ROWS {
        let at = text.find(before).unwrap_or_else(|| panic!("src/declaration.rs has no line {before}"));
        text.insert_str(at, row);
    }
    fs::write(&declaration, text).unwrap();

    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--offline", "--quiet", "--test", "delivers", "--target-dir"]).arg(tmp.join("toy-target"));
    // What cargo says of this test to it is not true of the copy, and would have ring built again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|begin| name.to_string_lossy().starts_with(begin)) {
            cargo.env_remove(name);
        }
    }
    // The dependencies are those that this test was built with; what is made of the copy stays apart.
    cargo.env("CARGO_BUILD_BUILD_DIR", tmp.parent().unwrap()).current_dir(&project);
    let out = cargo.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}
