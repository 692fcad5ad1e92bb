//! Lists of fields, as parameters have them.

use std::collections::BTreeSet;

/// Something wrong with a list.
pub struct Fault {
    /// What.
    pub text: String,
    /// What to do.
    pub help: String,
}

fn fault(text: String, help: &str) -> Fault {
    Fault { text, help: help.into() }
}

/// `db: tag->column; ...`
pub fn of_list(list: &str) -> Vec<Fault> {
    let fields = list.split_once(':').map_or(list, |(_, fields)| fields);
    let mut faults = separators(fields);
    let mut seen = BTreeSet::new();
    for field in fields.split(';').map(str::trim).filter(|field| !field.is_empty()) {
        let tag = field.split("->").next().unwrap_or_default().trim();
        if !seen.insert(tag) {
            faults.push(fault(format!("{tag} is given twice: the second one is ignored"), "remove one, or give it another tag"));
        }
        if tag.contains(char::is_whitespace) || tag.contains(',') {
            faults.push(fault(format!("\"{field}\" is taken for one field"), "separate fields by semicolons"));
        }
    }
    faults
}

/// `name=$variable; ...`
pub fn of_pairs(list: &str) -> Vec<Fault> {
    let mut faults = separators(list);
    let mut seen = BTreeSet::new();
    for pair in list.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            faults.push(fault(format!("\"{pair}\" has no \"=\""), "name=$variable; name=$variable"));
            continue;
        };
        let name = name.trim();
        if !seen.insert(name) {
            faults.push(fault(format!("{name} is given twice"), "remove one, or give it another name"));
        }
        if let Some(swallowed) = swallowed(value) {
            faults.push(fault(format!("the value of {name} swallows the pair \"{swallowed}\" behind it"), "separate pairs by semicolons"));
        }
    }
    faults
}

fn separators(list: &str) -> Vec<Fault> {
    let list = list.trim();
    let mut faults = Vec::new();
    if list.starts_with(';') {
        faults.push(fault("it begins with a semicolon: the server does not start, or ignores what follows".into(), "leave the semicolon out"));
    }
    faults
}

/// Finds ` name=$` in a value, which was meant to be the next pair.
fn swallowed(value: &str) -> Option<&str> {
    let mut depth = 0usize;
    for (i, c) in value.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '=' if depth == 0 && value[i + 1..].trim_start().starts_with('$') => {
                let before = value[..i].trim_end();
                let name = before.rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
                if name > 0 && name < before.len() && before[..name].ends_with([' ', ',', '\t', '\n']) {
                    return Some(value[name..].trim());
                }
            }
            _ => {}
        }
    }
    None
}
