//! Links between the documents, and the table of contents of the book that docs/ is.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::made::anchor;
use crate::{documents, read, root};

/// Where the links of a document lead: file and heading, each perhaps empty.
fn links(text: &str) -> Vec<(String, String)> {
    let mut code = false;
    let mut prose = String::new();
    for line in text.lines() {
        code ^= line.starts_with("```");
        if !code && !line.starts_with("    ") {
            // Code inside a line is none, either.
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://"));
    targets
        .map(|link| {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            (file.to_string(), anchor.to_string())
        })
        .collect()
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir { assert!(out.pop(), "{}", path.display()) } else { out.push(part) }
    }
    out
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for document in documents() {
        let text = read(&document);
        for (file, wanted) in links(&text) {
            let target = if file.is_empty() { PathBuf::from(&document) } else { plain(&Path::new(&document).parent().unwrap().join(&file)) };
            assert!(root().join(&target).exists(), "{document}: there is no {}", target.display());
            assert!(!document.starts_with("docs/") || target.starts_with("docs"), "{document}: {} is not in the book", target.display());
            if !wanted.is_empty() {
                let mut code = false;
                let there = read(target.to_str().unwrap());
                let mut headings = there.lines().filter(|line| {
                    code ^= line.starts_with("```");
                    !code && line.starts_with('#')
                });
                assert!(headings.any(|line| anchor(line.trim_start_matches('#').trim()) == wanted), "{document}: {file}#{wanted}");
            }
            count += 1;
        }
    }
    assert!(count > 100, "{count} links");
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let listed: Vec<_> = links(&read("docs/SUMMARY.md")).into_iter().map(|(file, _)| format!("docs/{file}")).collect();
    let once: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), once.len(), "a page stands twice in docs/SUMMARY.md");
    let pages: BTreeSet<_> = documents().into_iter().filter(|path| path.starts_with("docs/") && path != "docs/SUMMARY.md").collect();
    assert_eq!(once, pages);
    // mdBook finds the pages by its own file.
    assert!(read("book.toml").contains("src = \"docs\""));
}
