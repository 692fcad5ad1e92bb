//! Which file of a crate uses which, as its source says.
//!
//! A file uses another one when code outside of unit tests names something declared there, in a `use` or in a path such as
//! `super::stats::get`. A name counts for the file that declares it: `use` and `pub use` on the way are followed. Naming a
//! module is no use, only what is named in it. Macros count as the tokens they are written with. Not seen are methods, for
//! which a type does not have to be named.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

type Names = Vec<String>;

/// By file, the files it uses, with the paths that name them.
pub type Uses = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

#[derive(Default)]
struct Module {
    file: String,
    /// What `use` brings in, by name.
    imported: BTreeMap<String, Vec<Names>>,
    /// Paths that its code names.
    named: BTreeSet<Names>,
}

/// The modules of some crates, by crate and path.
#[derive(Default)]
pub struct Modules {
    modules: BTreeMap<Names, Module>,
    /// Those of unit tests.
    tests: BTreeSet<Names>,
}

fn child(module: &[String], name: &str) -> Names {
    [module, &[name.to_owned()]].concat()
}

fn is_punct(token: Option<&TokenTree>, c: char) -> bool {
    matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == c)
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<&Group> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group),
        _ => None,
    }
}

fn is_separator(tokens: &[TokenTree]) -> bool {
    is_punct(tokens.first(), ':') && is_punct(tokens.get(1), ':')
}

/// How many tokens the attribute takes that they begin with, and whether it is `cfg(test)` or the like.
fn attribute(tokens: &[TokenTree]) -> Option<(usize, bool)> {
    if !is_punct(tokens.first(), '#') {
        return None;
    }
    let at = 1 + usize::from(is_punct(tokens.get(1), '!'));
    let inside = group(tokens.get(at), Delimiter::Bracket)?.stream().to_string().replace(' ', "");
    Some((at + 1, ["cfg(test)", "cfg(any(test,", "cfg(all(test,", "test"].iter().any(|t| inside == *t || t.ends_with(',') && inside.starts_with(t))))
}

/// How many tokens the item takes that they begin with, to its `;` or its body.
fn item(tokens: &[TokenTree]) -> usize {
    let mut at = 0;
    while let Some((taken, _)) = attribute(&tokens[at..]) {
        at += taken;
    }
    let is_use = tokens[at..].iter().take(3).any(|t| ident(Some(t)).as_deref() == Some("use"));
    let ends = |t: &TokenTree| is_punct(Some(t), ';') || !is_use && group(Some(t), Delimiter::Brace).is_some();
    tokens[at..].iter().position(ends).map_or(tokens.len(), |end| at + end + 1)
}

/// Path and name of everything that a tree of `use` brings in.
fn imports(tokens: &[TokenTree], before: &Names, found: &mut Vec<(String, Names)>) {
    let (mut path, mut name, mut at) = (before.clone(), None, 0);
    while at < tokens.len() {
        if is_separator(&tokens[at..]) {
            at += 2;
        } else if let Some(branches) = group(tokens.get(at), Delimiter::Brace) {
            let inside: Vec<_> = branches.stream().into_iter().collect();
            return inside.split(|t| is_punct(Some(t), ',')).filter(|branch| !branch.is_empty()).for_each(|branch| imports(branch, &path, found));
        } else if let Some(word) = ident(tokens.get(at)) {
            match (&*word, ident(tokens.get(at + 1))) {
                ("as", Some(other)) => {
                    name = Some(other);
                    at += 1;
                }
                ("self", _) if !path.is_empty() => {}
                _ => path.push(word),
            }
            at += 1;
        } else {
            // Of a glob nobody knows the names: the module stands for them.
            name = Some("*".into());
            path.push("*".into());
            at += 1;
        }
    }
    if let Some(last) = path.last().cloned() {
        found.push((name.unwrap_or(last), path));
    }
}

impl Modules {
    /// Adds a crate, of its files by their places in its folder.
    pub fn add(&mut self, name: &str, folder: &str, files: &BTreeMap<String, String>) {
        for (file, text) in files {
            let tokens: TokenStream = text.parse().unwrap_or_else(|e| panic!("{folder}{file}: {e}"));
            let inside = file.trim_end_matches(".rs").split('/').filter(|part| !["lib", "main", "mod"].contains(part));
            let module = std::iter::once(name).chain(inside).map(str::to_owned).collect();
            self.add_module(module, &format!("{folder}{file}"), tokens);
        }
        let tests = std::mem::take(&mut self.tests);
        self.modules.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
    }

    fn add_module(&mut self, module: Names, file: &str, tokens: TokenStream) {
        self.modules.insert(module.clone(), Module { file: file.into(), ..Module::default() });
        self.read(&module, tokens);
    }

    fn read(&mut self, module: &Names, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let rest = &tokens[at..];
            if let Some((taken, is_test)) = attribute(rest) {
                at += taken;
                if is_test {
                    let skipped = item(&rest[taken..]);
                    self.skip(module, &rest[taken..taken + skipped]);
                    at += skipped;
                }
                continue;
            }
            if let TokenTree::Group(group) = &rest[0] {
                self.read(module, group.stream());
            }
            let next = rest.get(1);
            at += match (ident(rest.first()).as_deref(), ident(next)) {
                (Some("use"), _) if !is_punct(next, '<') => self.read_use(module, rest),
                (Some("mod"), Some(name)) => match group(rest.get(2), Delimiter::Brace) {
                    Some(body) => {
                        let file = self.module(module).file.clone();
                        self.add_module(child(module, &name), &file, body.stream());
                        3
                    }
                    None => 2,
                },
                (Some(_), _) => self.read_path(module, &tokens, at),
                (None, _) => 1,
            };
        }
    }

    /// Unit tests may be a file of their own.
    fn skip(&mut self, module: &Names, tokens: &[TokenTree]) {
        let name = tokens.iter().position(|t| ident(Some(t)).as_deref() == Some("mod")).and_then(|at| ident(tokens.get(at + 1)));
        self.tests.extend(name.map(|name| child(module, &name)));
    }

    fn module(&mut self, module: &Names) -> &mut Module {
        self.modules.get_mut(module).unwrap()
    }

    fn read_use(&mut self, module: &Names, tokens: &[TokenTree]) -> usize {
        let end = tokens.iter().position(|t| is_punct(Some(t), ';')).unwrap_or(tokens.len());
        let mut found = Vec::new();
        imports(&tokens[1..end], &Vec::new(), &mut found);
        let module = self.module(module);
        for (name, path) in found {
            module.named.insert(path.clone());
            module.imported.entry(name).or_default().push(path);
        }
        end
    }

    /// Keeps the path that begins at a token, if it has more than one name.
    fn read_path(&mut self, module: &Names, tokens: &[TokenTree], begin: usize) -> usize {
        let mut path = Vec::from_iter(ident(tokens.get(begin)));
        let mut end = begin + 1;
        while is_separator(&tokens[end.min(tokens.len())..]) {
            let Some(name) = ident(tokens.get(end + 2)) else { break };
            path.push(name);
            end += 3;
        }
        let before = begin.checked_sub(1).and_then(|b| tokens.get(b));
        // `$crate` is the crate; another `$name`, a lifetime or what stands behind a type is none of ours.
        let is_head = path[0] == "crate"
            || !['$', '\'', ':', '.'].iter().any(|c| is_punct(before, *c))
            || (is_punct(before, ':') && !is_punct(begin.checked_sub(2).and_then(|b| tokens.get(b)), ':'));
        if is_head && path.len() > 1 {
            self.module(module).named.insert(path);
        }
        end - begin
    }

    /// The files that declare what a path names, seen from a module.
    fn declared_in(&self, module: &Names, path: &[String], seen: &mut BTreeSet<(Names, String)>) -> BTreeSet<&str> {
        let (head, rest) = path.split_first().unwrap();
        match &**head {
            "crate" => self.inside(&module[..1].to_vec(), rest, seen),
            "self" => self.inside(module, rest, seen),
            "super" => self.inside(&module[..module.len() - 1].to_vec(), rest, seen),
            _ if self.modules[module].imported.contains_key(head) || self.modules.contains_key(&child(module, head)) => self.inside(module, path, seen),
            _ if self.modules.contains_key(std::slice::from_ref(head)) && module[0] != *head => self.inside(&vec![head.clone()], rest, seen),
            _ => BTreeSet::new(),
        }
    }

    fn inside(&self, module: &Names, path: &[String], seen: &mut BTreeSet<(Names, String)>) -> BTreeSet<&str> {
        let Some((head, rest)) = path.split_first() else { return BTreeSet::new() };
        if head == "super" {
            return self.inside(&module[..module.len() - 1].to_vec(), rest, seen);
        }
        let mut files = BTreeSet::new();
        let child = child(module, head);
        let imported = self.modules[module].imported.get(head);
        for target in imported.into_iter().flatten() {
            if seen.insert((module.clone(), target.join("::"))) {
                files.extend(self.declared_in(module, &[&target[..], rest].concat(), seen));
            }
        }
        if self.modules.contains_key(&child) {
            files.extend(self.inside(&child, rest, seen));
        } else if imported.is_none() {
            files.insert(&*self.modules[module].file);
        }
        files
    }

    /// Which file uses which.
    pub fn uses(&self) -> Uses {
        let mut uses = Uses::new();
        for (name, module) in &self.modules {
            let used = uses.entry(module.file.clone()).or_default();
            for path in &module.named {
                for file in self.declared_in(name, path, &mut BTreeSet::new()) {
                    if file != module.file {
                        used.entry(file.into()).or_default().insert(path.join("::"));
                    }
                }
            }
        }
        uses
    }
}

/// Every set of more than one file of which each uses each, if over others.
pub fn circles(uses: &Uses) -> Vec<BTreeSet<&str>> {
    let reached = |from: &str| {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(file) = open.pop() {
            open.extend(uses.get(&file).into_iter().flatten().filter(|(used, _)| reached.insert(used.to_string())).map(|(used, _)| used.clone()));
        }
        reached
    };
    let reached: BTreeMap<&str, _> = uses.keys().map(|file| (&**file, reached(file))).collect();
    let circle = |file: &str| reached.iter().filter(|(other, back)| reached[file].contains(**other) && back.contains(file)).map(|(other, _)| *other).collect();
    let all: BTreeSet<BTreeSet<&str>> = uses.keys().map(|file| circle(file)).collect();
    all.into_iter().filter(|circle| circle.len() > 1).collect()
}

/// All circles, with the paths that make them; empty if there are none.
pub fn shown(uses: &Uses) -> String {
    let mut text = String::new();
    for circle in circles(uses) {
        text += &format!("{} use each other:\n", Vec::from_iter(circle.iter().copied()).join(", "));
        for (from, used) in uses.iter().filter(|(from, _)| circle.contains(&***from)) {
            for (to, paths) in used.iter().filter(|(to, _)| circle.contains(&***to)) {
                text += &format!("    {from} uses {to}: {}\n", Vec::from_iter(paths.iter().map(|p| &**p)).join(", "));
            }
        }
    }
    text
}
