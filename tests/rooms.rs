//! The order of the rooms of `src`, and of the files in them: a room uses only what stands below it, and no files use each
//! other in a circle. Unit tests may use everything. [`imports`] says what counts as a use.
#![forbid(unsafe_code)]

#[path = "rooms/imports.rs"]
mod imports;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use imports::{Modules, Uses, circles, shown};

/// From below. docs/ARCHITECTURE.md shows the same list.
const ORDER: [&str; 11] = ["declaration", "accounting", "interprocess", "stats", "params", "journal", "backend", "config", "delivery", "worker", "host"];

/// Folders whose `mod.rs` is more than a list of modules: it declares what files of the folder use, and uses them. There, what
/// a file uses of the `mod.rs` of its own folder is not counted.
const MORE_THAN_LISTS: [&str; 5] = ["src/backend", "src/backend/diameter", "src/backend/radius", "src/backend/sql", "src/backend/stream"];

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

/// The files of a crate, by their places in its folder.
fn texts(folder: &Path) -> BTreeMap<String, String> {
    let mut all = Vec::new();
    files(folder, &mut all);
    all.into_iter().map(|path| (path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap())).collect()
}

/// Which file of `src` uses which. The tool is a crate of its own.
static USES: LazyLock<Uses> = LazyLock::new(|| {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut library = texts(&src);
    library.retain(|file, _| !file.starts_with("bin/"));
    let mut modules = Modules::default();
    modules.add("acc", "src/", &library);
    modules.add("accctl", "src/bin/accctl/", &texts(&src.join("bin/accctl")));
    modules.uses()
});

/// The room of a file; the crate's root and the tool are none.
fn room(file: &str) -> Option<&str> {
    let name = file.strip_prefix("src/")?.split('/').next()?.trim_end_matches(".rs");
    (!matches!(name, "lib" | "bin")).then_some(name)
}

fn height(room: &str) -> usize {
    ORDER.iter().position(|r| *r == room).unwrap_or_else(|| panic!("the room {room} has no place in the order"))
}

#[test]
fn no_file_uses_a_room_above_its_own() {
    let mut upward = Vec::new();
    for (file, used) in &*USES {
        let Some(own) = room(file) else { continue };
        let above = |other: &&String| room(other).is_some_and(|other| height(other) > height(own));
        upward
            .extend(used.keys().filter(above).map(|other| format!("{file} uses {other}: {}", used[other].iter().map(|p| &**p).collect::<Vec<_>>().join(", "))));
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

/// Leaves out what the files of a folder use of its `mod.rs`.
fn without_the_list_of(folder: &str, uses: &mut Uses) {
    let list = format!("{folder}/mod.rs");
    for (file, used) in uses.iter_mut() {
        if file.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).is_some_and(|name| !name.contains('/')) {
            used.remove(&list);
        }
    }
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    assert!(USES.len() > 150, "{} files were read", USES.len());
    let but = |folders: &[&str]| {
        let mut uses = USES.clone();
        folders.iter().for_each(|folder| without_the_list_of(folder, &mut uses));
        uses
    };
    let counted = but(&MORE_THAN_LISTS);
    assert!(circles(&counted).is_empty(), "{}", shown(&counted));
    for folder in MORE_THAN_LISTS {
        let others: Vec<_> = MORE_THAN_LISTS.into_iter().filter(|other| *other != folder).collect();
        assert!(!circles(&but(&others)).is_empty(), "{folder}/mod.rs is a list of modules by now: take it out of MORE_THAN_LISTS");
    }
}

#[test]
fn a_circle_is_seen_however_it_is_named() {
    let circles_of = |files: &[(&str, &str)]| {
        let mut modules = Modules::default();
        modules.add("acc", "src/", &files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect());
        shown(&modules.uses())
    };
    let lib = ("lib.rs", "pub mod a; pub mod b; pub mod room;");
    let room = ("room/mod.rs", "pub mod c; mod d; pub use d::Thing; pub use c::{self as other, call};");
    let rest = [("room/c.rs", "pub fn call() {}"), ("room/d.rs", "pub struct Thing;")];
    let of = |a: &str, b: &str| circles_of(&[lib, ("a.rs", a), ("b.rs", b), room, rest[0], rest[1]]);
    // A use, a path, a module and a macro; two names in one use; another name; what a list of modules hands on.
    for a in [
        "use crate::b::B;",
        "fn f() { super::b::g() }",
        "use super::b; fn f() -> b::B { b::B }",
        "fn f() { print(format_args!(\"{}\", crate::b::g())) }",
        "macro_rules! m { () => { $crate::b::g() } }",
        "use crate::{room::Thing, b::{B as C, g}};",
        "mod inner { use super::super::b::g; }",
        "pub use crate::b::*;",
    ] {
        assert_eq!(of(a, "use crate::a::A;").lines().next(), Some("src/a.rs, src/b.rs use each other:"), "{a}");
    }
    // No use: tests, comments, texts, a module that is only named, a name of another crate, one's own.
    for a in [
        "#[cfg(test)] mod tests { use crate::b::B; }",
        "#[cfg(test)] use crate::b::B;\n/// See [`crate::b::B`].\nstruct A;",
        "//! As `crate::b::B`.\n// crate::b::g()\nconst A: &str = \"crate::b::B\";",
        "use crate::b;",
        "use std::b::B; fn f() { b::g() }",
        "mod b { pub fn g() {} } fn f() { self::b::g(); b::g() }",
        "use super::room::Thing;",
    ] {
        assert_eq!(of(a, "use crate::a::A;"), "", "{a}");
    }
    // Over more files, and over a list of modules: it is the file behind it that counts.
    let over = circles_of(&[
        lib,
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "use crate::room::other;\nfn f() { other::call() }"),
        room,
        ("room/c.rs", "use crate::a::A;"),
        rest[1],
    ]);
    assert_eq!(over.lines().next(), Some("src/a.rs, src/b.rs, src/room/c.rs use each other:"));
    assert!(over.contains("    src/b.rs uses src/room/c.rs: other::call\n"), "{over}");
    // A file of a folder uses what its mod.rs declares.
    let declares = ("room/mod.rs", "mod c; mod d; pub use d::Thing; pub struct Own;");
    assert!(
        circles_of(&[lib, ("a.rs", ""), ("b.rs", ""), declares, rest[0], ("room/d.rs", "use super::Own; pub struct Thing;")])
            .starts_with("src/room/d.rs, src/room/mod.rs use")
    );
    assert_eq!(circles_of(&[lib, ("a.rs", ""), ("b.rs", ""), declares, rest[0], ("room/d.rs", "use super::c::call; pub struct Thing;")]), "");
}

#[test]
fn the_documents_show_the_same_order() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter_map(|l| l.strip_prefix("| `src/")?.split('`').next());
    let shown: Vec<_> = rows.map(|r| r.trim_end_matches('/').trim_end_matches(".rs")).filter(|r| ORDER.contains(r)).collect();
    assert_eq!(shown, ORDER.into_iter().rev().collect::<Vec<_>>());
}
