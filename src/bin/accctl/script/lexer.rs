//! The tokens of a configuration of OpenSIPS or Kamailio, as far as they count.
//!
//! Both share their lexical rules: comments (`#`, `//`, nested `/* */`), strings in double quotes (with escapes) and in
//! single quotes (without), `include_file` and `import_file`. Kamailio's preprocessor is followed; a token between
//! directives that only the running server can evaluate carries that doubt.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Maximum depth of nested files, as in OpenSIPS.
const MAX_DEPTH: usize = 50;
/// Most files in all.
const MAX_FILES: usize = 10_000;
/// Most tokens that names may stand for, beyond one for each byte read.
const MAX_EXPANDED: usize = 10_000;
/// Most bytes that replacements put into strings.
const MAX_GROWN: usize = 1 << 20;

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At {
    /// Index in [`Tokens::files`].
    pub file: u32,
    /// Line, from 1.
    pub line: u32,
    /// Character in the line, from 1.
    pub column: u32,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A name, or anything else that begins with a letter or digit.
    Word(Rc<str>),
    /// A whole number.
    Number(i64),
    /// A string, without its quotes.
    Text(Rc<str>),
    /// A variable, without its `$`: `fU`, `avp(x)`, `(ru{uri.user})`.
    Variable(Rc<str>),
    /// A name whose value is not known; why.
    Unknown(Rc<str>),
    /// Any other character.
    Sign(char),
}

/// One token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Where it begins.
    pub at: At,
    /// What it is.
    pub kind: Kind,
    /// The name that it was defined as.
    pub name: Option<Rc<str>>,
    /// Why it may not count.
    pub doubt: Option<Rc<str>>,
}

impl Token {
    /// Whether it is this sign.
    pub fn is(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }

    /// Its word, if it is one.
    pub fn word(&self) -> Option<&str> {
        if let Kind::Word(word) = &self.kind { Some(word) } else { None }
    }
}

/// `# accctl: allow(CODE, ...)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowed {
    /// Where the comment stands.
    pub at: At,
    /// The codes.
    pub codes: Vec<String>,
}

/// A whole configuration.
#[derive(Debug, Default)]
pub struct Tokens {
    /// What counts, in order.
    pub all: Vec<Token>,
    /// The files, the first of which is the configuration.
    pub files: Vec<String>,
    /// Comments addressed to accctl.
    pub allowed: Vec<Allowed>,
    /// What could not be followed and may not matter.
    pub notes: Vec<String>,
    /// The first line of the configuration.
    pub first_line: String,
    /// The tokens of parts that do not count; names in them are not replaced.
    pub left_out: Vec<Token>,
    /// The names that are defined at the end, with their texts.
    pub defined: HashMap<Rc<str>, Rc<str>>,
}

impl Tokens {
    /// File and line of a place.
    pub fn at(&self, at: At) -> String {
        format!("{}:{}", self.files.get(at.file as usize).map_or("", |name| name), at.line)
    }
}

/// Reads `path` and what it includes. `defines` are `NAME` or `NAME=VALUE`, as for `kamailio -A`.
pub fn read(path: &Path, defines: &[String]) -> Result<Tokens, String> {
    let mut reader = Reader::default();
    for define in defines {
        let (name, value) = define.split_once('=').unwrap_or((define, ""));
        reader.defines.insert(name.into(), Define::Text(value.into()));
        reader.given.insert(name.into());
    }
    reader.file(path, 0)?;
    if let Some(open) = reader.blocks.last() {
        return Err(format!("{}: {} has no #!endif", open.at, open.directive));
    }
    let known = |(name, define)| if let Define::Text(text) = define { Some((name, text)) } else { None };
    reader.out.defined = std::mem::take(&mut reader.defines).into_iter().filter_map(known).collect();
    Ok(reader.out)
}

enum Define {
    /// The text that replaces the name.
    Text(Rc<str>),
    /// It is unknown whether there is a text, or which one; with the reason.
    Unknown(Rc<str>),
}

/// A part between `#!ifdef` and `#!endif`.
struct Block {
    at: String,
    directive: String,
    /// Whether it counts; `None`: only the running server knows.
    counts: Option<bool>,
}

/// A replacement in every string (`#!subst`).
struct Subst {
    from: String,
    to: String,
    all: bool,
}

struct Source<'a> {
    rest: &'a str,
    at: At,
    name: &'a str,
}

impl<'a> Source<'a> {
    fn place(&self) -> String {
        format!("{}:{}", self.name, self.at.line)
    }

    fn skip(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        for c in taken.chars() {
            if c == '\n' {
                self.at.line += 1;
                self.at.column = 1;
            } else {
                self.at.column += 1;
            }
        }
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        self.skip(self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len()))
    }

    fn next_char(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.skip(c.len_utf8());
        Some(c)
    }

    /// The rest of the line, and of those that a backslash at its end adds.
    fn line_with_continuation(&mut self) -> String {
        let mut out = String::new();
        loop {
            let line = self.take_while(|c| c != '\n');
            match line.strip_suffix('\\') {
                Some(part) if !self.rest.is_empty() => {
                    out.push_str(part);
                    self.skip(1);
                }
                _ => return out + line,
            }
        }
    }

    /// After `/*`.
    fn comment(&mut self) -> Result<(), String> {
        let begin = self.place();
        let mut depth = 1;
        while depth > 0 {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
            } else if self.next_char().is_none() {
                return Err(format!("{begin}: the comment that begins here is not closed"));
            }
        }
        Ok(())
    }

    /// After the opening quote.
    fn string(&mut self, quote: char) -> Result<String, String> {
        let begin = self.place();
        let mut out = String::new();
        loop {
            match self.next_char() {
                None => return Err(format!("{begin}: the string that begins here is not closed")),
                Some(c) if c == quote => return Ok(out),
                Some('\\') if quote == '"' => self.escape(&mut out),
                Some(c) => out.push(c),
            }
        }
    }

    /// After a backslash in double quotes. One that begins no escape stands for itself.
    fn escape(&mut self, out: &mut String) {
        let digits = |text: &str, radix, most| text.chars().take(most).take_while(|c| c.is_digit(radix)).count();
        let simple = |c| {
            Some(match c {
                'n' => '\n',
                'r' => '\r',
                'a' => '\x07',
                't' => '\t',
                '"' => '"',
                '\\' => '\\',
                _ => return None,
            })
        };
        let number = |text: &str, radix| u8::from_str_radix(text, radix).map_or('\u{fffd}', char::from);
        match self.rest.chars().next() {
            Some('\n') => drop(self.skip(1)),
            Some('x') if digits(&self.rest[1..], 16, 2) > 0 => {
                let length = digits(&self.rest[1..], 16, 2);
                self.skip(1);
                out.push(number(self.skip(length), 16));
            }
            Some('0'..='7') if digits(self.rest, 8, 3) > 1 => {
                let length = digits(self.rest, 8, 3);
                out.push(number(self.skip(length), 8));
            }
            Some(c) => match simple(c) {
                Some(meant) => {
                    self.skip(1);
                    out.push(meant);
                }
                None => out.push('\\'),
            },
            None => out.push('\\'),
        }
    }

    /// After `$`: a variable of the script, in which quotes and `#` mean nothing.
    fn variable(&mut self) -> &'a str {
        let whole = self.rest;
        self.take_while(is_word);
        if self.rest.starts_with('(') {
            let mut depth = 0;
            while let Some(c) = self.rest.chars().next().filter(|c| *c != '\n') {
                self.skip(c.len_utf8());
                match c {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
        }
        &whole[..whole.len() - self.rest.len()]
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[derive(Default)]
struct Reader {
    out: Tokens,
    defines: HashMap<Rc<str>, Define>,
    /// Names whose values the caller gives; they override the configuration.
    given: HashSet<Rc<str>>,
    substs: Vec<Subst>,
    blocks: Vec<Block>,
    /// Why what is here may not count.
    doubt: Option<Rc<str>>,
    /// Bytes read, tokens that names were replaced by, and bytes by which replacements made strings longer.
    read: usize,
    expanded: usize,
    grown: usize,
}

impl Reader {
    fn file(&mut self, path: &Path, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("{}: more than {MAX_DEPTH} files include each other", path.display()));
        }
        let name = path.display().to_string();
        if self.out.files.len() == MAX_FILES {
            return Err(format!("{name}: more than {MAX_FILES} files are included"));
        }
        let bytes = std::fs::read(path).map_err(|e| format!("{name} cannot be read: {e}"))?;
        let text = String::from_utf8_lossy(&bytes);
        if self.out.files.is_empty() {
            self.out.first_line = text.lines().next().unwrap_or_default().to_string();
        }
        self.read += text.len();
        let file = u32::try_from(self.out.files.len()).unwrap_or(u32::MAX);
        self.out.files.push(name.clone());
        let mut source = Source { rest: &text, at: At { file, line: 1, column: 1 }, name: &name };
        while let Some(word) = self.tokens(&mut source, 0)? {
            self.include(&mut source, path, depth, &word)?;
        }
        Ok(())
    }

    /// After a change of `blocks`: determines whether what is here may not count, and why.
    fn judge(&mut self) {
        let block = self.blocks.iter().find(|b| b.counts.is_none());
        self.doubt = block.map(|b| format!("it depends on {} in {}, which accctl cannot evaluate", b.directive, b.at).into());
    }

    fn skips(&self) -> bool {
        self.blocks.iter().any(|b| b.counts == Some(false))
    }

    fn push(&mut self, at: At, kind: Kind) {
        let doubt = self.doubt.clone();
        // Kamailio defines a name for each module.
        if let Kind::Text(path) = &kind
            && self.out.all.last().is_some_and(|last| last.word() == Some("loadmodule"))
        {
            let file = path.rsplit('/').next().unwrap_or_default();
            self.define(&format!("MOD_{}", file.trim_end_matches(".so")), Define::Text("".into()), false);
        }
        self.out.all.push(Token { at, kind, name: None, doubt });
    }

    /// Reads tokens up to the end, or to the name of a file to include: then which word precedes it. `depth` is the
    /// number of names that have been replaced on the way here.
    fn tokens(&mut self, source: &mut Source<'_>, depth: usize) -> Result<Option<String>, String> {
        loop {
            if self.skips() {
                self.skip_block(source)?;
                if let Some(word) = self.included() {
                    return Ok(Some(word));
                }
                continue;
            }
            source.take_while(char::is_whitespace);
            let Some(c) = source.rest.chars().next() else { return Ok(None) };
            if let Some(directive) = directive(source.rest) {
                self.directive(source, directive)?;
                if let Some(word) = self.included() {
                    return Ok(Some(word));
                }
                continue;
            }
            let at = source.at;
            match c {
                '#' => self.line_comment(source),
                '/' if source.rest.starts_with("//") => self.line_comment(source),
                '/' if source.rest.starts_with("/*") => {
                    source.skip(2);
                    source.comment()?;
                }
                '"' | '\'' => {
                    source.skip(1);
                    let text = source.string(c)?;
                    let text = self.substituted(text);
                    self.push(at, Kind::Text(text.into()));
                }
                '$' => {
                    source.skip(1);
                    let variable = source.variable();
                    self.push(at, Kind::Variable(variable.into()));
                }
                '0'..='9' => {
                    let number = number(source.take_while(is_word));
                    self.push(at, number);
                }
                c if is_word(c) => {
                    let word = source.take_while(is_word);
                    if matches!(word, "include_file" | "import_file") {
                        return Ok(Some(word.into()));
                    }
                    self.word(source, at, word, depth)?;
                }
                c => {
                    source.skip(c.len_utf8());
                    self.push(at, Kind::Sign(c));
                }
            }
        }
    }

    /// A word, or what it is defined as.
    fn word(&mut self, source: &Source<'_>, at: At, word: &str, depth: usize) -> Result<(), String> {
        let text = match self.defines.get(word) {
            None => {
                self.push(at, Kind::Word(word.into()));
                return Ok(());
            }
            Some(Define::Unknown(why)) => {
                let why = format!("{word} {why}: give --define {word}=VALUE");
                self.push(at, Kind::Unknown(why.into()));
                return Ok(());
            }
            Some(Define::Text(_)) if depth == MAX_DEPTH => return Err(format!("{}: {word} is defined as itself", source.place())),
            Some(Define::Text(text)) => text.clone(),
        };
        let first = self.out.all.len();
        let mut meant = Source { rest: &text, at, name: source.name };
        while self.tokens(&mut meant, depth + 1)?.is_some() {}
        self.expanded += self.out.all.len() - first;
        if self.expanded > MAX_EXPANDED + self.read {
            return Err(format!("{}: the defined names stand for more than {MAX_EXPANDED} tokens", source.place()));
        }
        let name: Rc<str> = word.into();
        for token in &mut self.out.all[first..] {
            token.at = at;
            token.name = Some(name.clone());
        }
        Ok(())
    }

    /// To the end of the line.
    fn line_comment(&mut self, source: &mut Source<'_>) {
        let at = source.at;
        let text = source.take_while(|c| c != '\n');
        let Some((_, rest)) = text.split_once("accctl: allow(") else { return };
        let codes = rest.split(')').next().unwrap_or_default().split(',').map(|code| code.trim().to_string()).collect();
        self.out.allowed.push(Allowed { at, codes });
    }

    /// The word of a directive that includes a file; `directive` leaves it as the last token.
    fn included(&mut self) -> Option<String> {
        let word = self.out.all.last()?.word().filter(|word| matches!(*word, "include_file" | "import_file"))?.to_string();
        self.out.all.pop();
        Some(word)
    }

    /// In a part that does not count, to the next directive.
    fn skip_block(&mut self, source: &mut Source<'_>) -> Result<(), String> {
        let (begin, text) = (source.at, source.rest);
        loop {
            let Some(at) = source.rest.find(['#', '!']) else {
                source.skip(source.rest.len());
                let open = &self.blocks[self.blocks.len() - 1];
                return Err(format!("{}: {} has no #!endif in its file", open.at, open.directive));
            };
            source.skip(at);
            match directive(source.rest) {
                Some(word @ ("ifdef" | "ifndef" | "ifexp" | "else" | "endif")) => {
                    self.leave_out(&text[..text.len() - source.rest.len()], begin, source.name);
                    return self.directive(source, word);
                }
                _ => drop(source.next_char()),
            }
        }
    }

    /// Reads a part that does not count by itself, as far as it can be read.
    fn leave_out(&mut self, text: &str, at: At, name: &str) {
        let mut apart = Reader::default();
        // What is defined in it is not known, so names do not stand for anything.
        apart.blocks.push(Block { at: String::new(), directive: String::new(), counts: None });
        apart.judge();
        let mut source = Source { rest: text, at, name };
        while let Ok(Some(word)) = apart.tokens(&mut source, 0) {
            apart.push(source.at, Kind::Word(word.into()));
        }
        self.out.left_out.append(&mut apart.out.all);
    }

    fn directive(&mut self, source: &mut Source<'_>, word: &str) -> Result<(), String> {
        let (begin, at) = (source.at, source.place());
        source.skip(2 + word.len());
        if word == "include_file" || word == "import_file" {
            self.push(begin, Kind::Word(word.into()));
            return Ok(());
        }
        let line = source.line_with_continuation();
        let line = line.trim();
        let split = line.find(|c| !is_word(c)).unwrap_or(line.len());
        let (name, value) = (&line[..split], line[split..].trim());
        match word {
            "ifdef" | "ifndef" | "ifexp" => {
                let counts = match word {
                    "ifdef" => self.exists(name),
                    "ifndef" => self.exists(name).map(|exists| !exists),
                    _ => None,
                };
                self.blocks.push(Block { at, directive: format!("#!{word} {line}"), counts });
            }
            "else" => match self.blocks.last_mut() {
                Some(block) => block.counts = block.counts.map(|counts| !counts),
                None => return Err(format!("{at}: #!else without #!ifdef")),
            },
            "endif" => {
                self.blocks.pop().ok_or_else(|| format!("{at}: #!endif without #!ifdef"))?;
            }
            "subst" | "substdef" | "substdefs" => self.subst(&at, word, line)?,
            "defenv" | "defenvs" | "trydefenv" | "trydefenvs" => {
                self.define(name, Define::Unknown(format!("comes from the environment of the server ({at})").into()), word.starts_with("try"));
            }
            "defexp" | "defexps" => self.define(name, Define::Unknown(format!("is the value of an expression ({at})").into()), false),
            _ => self.define(name, Define::Text(value.into()), word.starts_with("try")),
        }
        self.judge();
        Ok(())
    }

    fn define(&mut self, name: &str, define: Define, only_new: bool) {
        if only_new && self.defines.contains_key(name) {
            return;
        }
        let define = match &self.doubt {
            Some(why) => Define::Unknown(format!("is not known: {why}").into()),
            None => define,
        };
        if matches!(define, Define::Unknown(_)) && self.given.contains(name) {
            return;
        }
        self.defines.insert(name.into(), define);
    }

    fn exists(&self, name: &str) -> Option<bool> {
        match self.defines.get(name) {
            Some(Define::Text(_)) => Some(true),
            Some(Define::Unknown(_)) => None,
            // Made by the server itself: of its version and of the system.
            None if name.starts_with("KAMAILIO_") || name == "OS_NAME" => None,
            None => Some(false),
        }
    }

    /// `"/from/to/g"`, with any delimiter. Only a plain text can be followed, not a regular expression.
    fn subst(&mut self, at: &str, word: &str, line: &str) -> Result<(), String> {
        let mut source = Source { rest: line, at: At { line: 1, ..At::default() }, name: at };
        let text = match source.next_char() {
            Some(quote @ ('"' | '\'')) => source.string(quote)?,
            _ => return Err(format!("{at}: #!{word} needs a string")),
        };
        let delimiter = text.chars().next().unwrap_or('/');
        let parts: Vec<_> = text.split(delimiter).collect();
        let &[_, from, to, flags] = parts.as_slice() else {
            return Err(format!("{at}: #!{word} needs a pattern and its replacement, as in \"/from/to/\""));
        };
        let plain = !from.is_empty() && from.chars().all(|c| is_word(c) || "-: %@/".contains(c)) && !to.contains(['\\', '$']);
        let doubt = self.doubt.clone();
        if plain && doubt.is_none() && ["", "g"].contains(&flags) {
            self.substs.push(Subst { from: from.into(), to: to.into(), all: flags == "g" });
        } else {
            let why = doubt.as_deref().unwrap_or("only plain text can be replaced");
            self.out.notes.push(format!("{at}: #!{word} is not followed: {why}"));
        }
        match word {
            "substdef" => self.define(from, Define::Text(to.into()), false),
            "substdefs" => self.define(from, Define::Text(format!("\"{to}\"").into()), false),
            _ => {}
        }
        Ok(())
    }

    /// A text after the replacements of `#!subst`, whose growth is limited.
    fn substituted(&mut self, mut text: String) -> String {
        for s in &self.substs {
            let most = if s.all { usize::MAX } else { 1 };
            let grows = text.matches(&s.from).take(most).count() * s.to.len();
            if self.grown + grows <= MAX_GROWN {
                self.grown += grows;
                text = text.replacen(&s.from, &s.to, most);
            }
        }
        text
    }

    /// After `include_file` or `import_file`; in Kamailio the latter may name a file that is not there.
    fn include(&mut self, source: &mut Source<'_>, from: &Path, depth: usize, word: &str) -> Result<(), String> {
        let place = source.place();
        source.take_while(char::is_whitespace);
        let quote = source.rest.chars().next();
        let name = match quote {
            Some(quote @ ('"' | '\'')) => {
                source.skip(1);
                let text = source.string(quote)?;
                self.substituted(text)
            }
            // A name that is defined as the file name.
            Some(c) if is_word(c) => match self.defines.get(source.take_while(is_word)) {
                Some(Define::Text(text)) => text.trim_matches(['"', '\'']).to_string(),
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        let path: PathBuf = from.parent().unwrap_or(Path::new("")).join(name);
        if word == "import_file" && matches!(path.try_exists(), Ok(false)) {
            return Ok(());
        }
        self.file(&path, depth + 1).map_err(|e| format!("{place}: {e}"))
    }
}

/// The word of a preprocessor directive that the text begins with.
fn directive(text: &str) -> Option<&str> {
    const ALL: [&str; 22] = [
        "define",
        "def",
        "trydefine",
        "trydef",
        "redefine",
        "redef",
        "ifdef",
        "ifndef",
        "ifexp",
        "else",
        "endif",
        "subst",
        "substdef",
        "substdefs",
        "defenv",
        "defenvs",
        "trydefenv",
        "trydefenvs",
        "defexp",
        "defexps",
        "include_file",
        "import_file",
    ];
    let rest = text.strip_prefix("#!").or_else(|| text.strip_prefix("!!"))?;
    let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
    ALL.contains(&word).then_some(word)
}

/// As C reads it, and `101b`; a word that only begins with a digit (an address, a size) is none.
fn number(text: &str) -> Kind {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16),
        None => match text.strip_suffix('b') {
            Some(binary) => i64::from_str_radix(binary, 2),
            None if text.len() > 1 && text.starts_with('0') => i64::from_str_radix(text, 8),
            None => text.parse(),
        },
    };
    parsed.map_or_else(|_| Kind::Word(text.into()), Kind::Number)
}
