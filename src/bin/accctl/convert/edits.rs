//! Changes the texts of a configuration and of the files that it includes, at the places of their tokens.

use std::ops::Range;
use std::path::Path;

use similar::TextDiff;

use crate::script::lexer::{At, Kind, Token, Tokens};
use crate::script::parser::Call;

/// A call, or an assignment, in the text.
#[derive(Clone, Debug)]
pub struct Span {
    /// Index of its file.
    file: usize,
    /// From its first byte to its semicolon.
    bytes: Range<usize>,
    /// Index of its first token.
    first: usize,
    /// Index of the token after it, which is the semicolon of a whole statement.
    end: usize,
    /// Whether it is a statement, not part of one.
    pub whole: bool,
    /// Whether it is in a block, not alone after `if (..)`.
    in_block: bool,
}

/// The texts, and what is to be changed in them.
pub struct Edits<'t> {
    tokens: &'t Tokens,
    texts: Vec<String>,
    changes: Vec<(usize, Range<usize>, String)>,
}

impl<'t> Edits<'t> {
    /// Reads the files that these tokens are from again.
    pub fn of(tokens: &'t Tokens) -> Result<Edits<'t>, String> {
        let read = |name: &String| {
            let bytes = std::fs::read(Path::new(name)).map_err(|e| format!("{name} cannot be read: {e}"))?;
            String::from_utf8(bytes).map_err(|_| format!("{name} is not UTF-8: rewrite it first, with \"iconv -f latin1 -t utf-8\" for instance"))
        };
        Ok(Edits { tokens, texts: tokens.files.iter().map(read).collect::<Result<_, _>>()?, changes: Vec::new() })
    }

    /// Whether `second` is the next statement, with no directive of the preprocessor between both.
    pub fn is_next(&self, first: &Span, second: &Span) -> bool {
        let statements = first.whole && second.whole && first.file == second.file && second.first == first.end + 1 && first.in_block && second.in_block;
        statements && !["#!", "!!"].iter().any(|sign| self.texts[first.file][first.bytes.end..second.bytes.start].contains(sign))
    }

    /// Byte of a place in its file.
    fn offset(&self, at: At) -> usize {
        let text = &self.texts[at.file as usize];
        let line: usize = text.split_inclusive('\n').take(at.line as usize - 1).map(str::len).sum();
        line + text[line..].chars().take(at.column as usize - 1).map(char::len_utf8).sum::<usize>()
    }

    fn index(&self, at: At) -> Option<usize> {
        self.tokens.all.iter().position(|token| token.at == at)
    }

    fn token(&self, index: usize) -> Option<&'t Token> {
        self.tokens.all.get(index)
    }

    /// Index of the closing parenthesis for the opening one at `index`.
    fn closing(&self, index: usize) -> Option<usize> {
        let mut depth = 0;
        for (i, token) in self.tokens.all.iter().enumerate().skip(index) {
            if token.is('(') {
                depth += 1;
            } else if token.is(')') {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
        }
        None
    }

    /// The tokens `first` to `last`, and the semicolon after them.
    fn span(&self, first: usize, last: usize) -> Option<Span> {
        let (begin, end) = (self.token(first)?, self.token(last)?);
        let before = first.checked_sub(1).and_then(|i| self.token(i));
        let semicolon = self.token(last + 1).filter(|t| t.is(';') && t.at.file == begin.at.file);
        let in_block = before.is_none_or(|t| [';', '{', '}', ':'].iter().any(|sign| t.is(*sign)));
        let begins = in_block || before.is_some_and(|t| t.is(')') || t.word() == Some("else"));
        let close = semicolon.unwrap_or(end);
        let bytes = self.offset(begin.at)..self.offset(close.at) + 1;
        Some(Span { file: begin.at.file as usize, bytes, first, end: last + 1, whole: begins && semicolon.is_some(), in_block })
    }

    /// Where a call is; `None` if a defined name stands for it.
    pub fn call(&self, call: &Call) -> Option<Span> {
        let first = self.index(call.at)?;
        if self.token(first)?.name.is_some() {
            return None;
        }
        self.span(first, self.closing(first + 1)?)
    }

    /// The statement that begins at a token and ends with a semicolon.
    pub fn statement(&self, at: At) -> Option<Span> {
        let first = self.index(at)?;
        let length = self.tokens.all[first..].iter().position(|t| t.is(';') || t.is('{') || t.is('}'))?;
        self.span(first, (first + length).checked_sub(1)?).filter(|span| span.whole)
    }

    /// The statement that a call is part of, if one may stand before it.
    pub fn around(&self, call: &Call) -> Option<Span> {
        let own = self.call(call)?;
        if own.whole {
            return Some(own);
        }
        let mut first = own.first;
        while let Some(before) = first.checked_sub(1).and_then(|i| self.token(i))
            && ![';', '{', '}'].iter().any(|sign| before.is(*sign))
        {
            first -= 1;
        }
        let begin = self.token(first)?;
        if begin.at.file as usize != own.file || begin.name.is_some() || matches!(begin.word(), Some("else" | "case" | "default")) {
            return None;
        }
        let at = self.offset(begin.at);
        Some(Span { bytes: at..at, first, in_block: true, whole: false, ..own })
    }

    /// The place after the brace that opens the block of the condition that consists of a call, or ends with it.
    pub fn opened_by(&self, call: &Call) -> Option<Span> {
        let own = self.call(call)?;
        let mut index = own.end;
        while self.token(index)?.is(')') {
            index += 1;
        }
        let brace = self.token(index).filter(|t| t.is('{') && t.at.file as usize == own.file)?;
        let at = self.offset(brace.at) + 1;
        Some(Span { bytes: at..at, first: index, end: index, in_block: true, whole: true, ..own })
    }

    /// The blanks at the beginning of a line that has nothing else before this byte.
    fn indent(&self, file: usize, byte: usize) -> Option<&str> {
        let text = &self.texts[file];
        let line = text[..byte].rfind('\n').map_or(0, |at| at + 1);
        Some(&text[line..byte]).filter(|blanks| blanks.chars().all(|c| c == ' ' || c == '\t'))
    }

    fn joined(&self, span: &Span, statements: &[String]) -> String {
        match self.indent(span.file, span.bytes.start) {
            Some(indent) if span.in_block => statements.join(&format!("\n{indent}")),
            _ => statements.join(" "),
        }
    }

    /// Replaces a statement by others; without any, removes it.
    pub fn replace(&mut self, span: &Span, statements: &[String]) {
        let text = match statements {
            [] if span.in_block => return self.remove(span.file, span.bytes.clone()),
            [] => "{ }".into(),
            // An `else` after it belongs to the `if` before it.
            [one] if span.in_block || !one.starts_with("if") => one.clone(),
            _ if !span.in_block => format!("{{ {} }}", self.joined(span, statements)),
            _ => self.joined(span, statements),
        };
        self.changes.push((span.file, span.bytes.clone(), text));
    }

    /// Inserts statements before one.
    pub fn before(&mut self, span: &Span, statements: &[String]) {
        let text = self.joined(span, statements);
        let blank = if self.indent(span.file, span.bytes.start).is_some() && span.in_block {
            format!("\n{}", self.indent(span.file, span.bytes.start).unwrap_or_default())
        } else {
            " ".into()
        };
        let start = span.bytes.start;
        if span.in_block {
            self.changes.push((span.file, start..start, format!("{text}{blank}")));
        } else {
            self.changes.push((span.file, start..start, format!("{{ {text} ")));
            self.changes.push((span.file, span.bytes.end..span.bytes.end, " }".into()));
        }
    }

    /// Inserts statements after one.
    pub fn behind(&mut self, span: &Span, statements: &[String]) {
        if statements.is_empty() {
            return;
        }
        let end = span.bytes.end;
        let text = self.joined(span, statements);
        let blank = match self.indent(span.file, span.bytes.start) {
            Some(indent) if span.in_block => format!("\n{indent}"),
            _ => " ".into(),
        };
        if span.in_block {
            self.changes.push((span.file, end..end, format!("{blank}{text}")));
        } else {
            self.changes.push((span.file, span.bytes.start..span.bytes.start, "{ ".into()));
            self.changes.push((span.file, end..end, format!(" {text} }}")));
        }
    }

    /// Inserts a statement at the beginning of a block.
    pub fn first(&mut self, span: &Span, statement: &str) {
        let text = &self.texts[span.file];
        let next = text[span.bytes.end..].split('\n').nth(1).filter(|line| !line.trim().is_empty());
        let blank = next.map_or(" ".into(), |line| format!("\n{}", &line[..line.len() - line.trim_start().len()]));
        self.changes.push((span.file, span.bytes.clone(), format!("{blank}{statement}")));
    }

    /// A line `word(...)` as those of modparam, of which this is the first token.
    fn line(&self, at: At) -> Option<Range<usize>> {
        let first = self.index(at)?;
        let last = self.closing(first + 1)?;
        let end = self.token(last).filter(|t| t.at.file == at.file)?;
        Some(self.offset(at)..self.offset(end.at) + 1)
    }

    /// Replaces a `modparam` line by others; without any, removes it.
    pub fn replace_line(&mut self, at: At, lines: &[String]) -> bool {
        let Some(bytes) = self.line(at) else { return false };
        match lines {
            [] => self.remove(at.file as usize, bytes),
            _ => self.changes.push((at.file as usize, bytes, lines.join("\n"))),
        }
        true
    }

    /// Removes bytes with the blanks beside them, and their line if it has nothing else.
    fn remove(&mut self, file: usize, mut bytes: Range<usize>) {
        let text = &self.texts[file];
        let blanks = text[bytes.end..].len() - text[bytes.end..].trim_start_matches([' ', '\t']).len();
        let rest = &text[bytes.end + blanks..];
        match self.indent(file, bytes.start) {
            Some(indent) if rest.starts_with('\n') => bytes = bytes.start - indent.len()..bytes.end + blanks + 1,
            Some(_) => bytes.end += blanks,
            None => bytes.start = text[..bytes.start].trim_end_matches([' ', '\t']).len(),
        }
        self.changes.push((file, bytes, String::new()));
    }

    /// Puts the name of another file into the string after `loadmodule`.
    pub fn rename(&mut self, at: At, path: &str) -> bool {
        let quoted = |t: &Token| matches!(t.kind, Kind::Text(_)) && t.name.is_none();
        let Some(token) = self.index(at).and_then(|i| self.token(i + 1)).filter(|t| quoted(t)) else { return false };
        let (file, start) = (token.at.file as usize, self.offset(token.at));
        let text = &self.texts[file][start..];
        let Some(quote) = text.chars().next() else { return false };
        let Some(length) = text[1..].find(quote) else { return false };
        self.changes.push((file, start..start + length + 2, format!("\"{path}\"")));
        true
    }

    /// Removes the line `loadmodule "..."` that begins here.
    pub fn unload(&mut self, at: At) -> bool {
        let Some(token) = self.index(at).and_then(|i| self.token(i + 1)).filter(|t| matches!(t.kind, Kind::Text(_)) && t.at.line == at.line) else {
            return false;
        };
        let (start, path) = (self.offset(at), self.offset(token.at));
        let text = &self.texts[at.file as usize][path..];
        let Some(length) = text.chars().next().and_then(|quote| text[1..].find(quote)) else { return false };
        self.remove(at.file as usize, start..path + length + 2);
        true
    }

    /// Adds lines at the end of a file.
    pub fn append(&mut self, file: usize, text: &str) {
        let end = self.texts[file].len();
        let begin = if self.texts[file].ends_with('\n') { "" } else { "\n" };
        self.changes.push((file, end..end, format!("{begin}{text}")));
    }

    /// What the changes make of the texts, as a unified diff.
    pub fn diff(mut self) -> String {
        // Changes at the same place stay in the order in which they were made.
        self.changes.sort_by_key(|(file, bytes, _)| (*file, bytes.start, bytes.end));
        let mut out = String::new();
        for (file, old) in self.texts.iter().enumerate() {
            let mut new = String::with_capacity(old.len());
            let mut done = 0;
            for (_, bytes, text) in self.changes.iter().filter(|(of, ..)| *of == file) {
                new.push_str(&old[done..bytes.start.max(done)]);
                new.push_str(text);
                done = bytes.end.max(done);
            }
            new.push_str(&old[done..]);
            if new != *old {
                let name = &self.tokens.files[file];
                out.push_str(&TextDiff::from_lines(old.as_str(), new.as_str()).unified_diff().header(name, name).to_string());
            }
        }
        out
    }
}
