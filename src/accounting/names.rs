//! What tags, fields, columns and attributes may be called.
#![forbid(unsafe_code)]

use crate::declaration::Names;

/// Is this usable as the name of a field, where names are of this kind?
pub fn may_be(names: Names, s: &str) -> bool {
    match names {
        Names::Text => is_text(s),
        Names::Attributes => is_attribute(s),
        Names::Words => is_word(s),
    }
}

/// Is this usable as a name in a log line or event? The original accepts the same names.
fn is_text(s: &str) -> bool {
    !s.is_empty() && !s.contains(char::is_control)
}

/// The same; a number may be followed by `@` and the vendor's number.
fn is_attribute(s: &str) -> bool {
    is_word(s.split_once('@').filter(|(_, vendor)| is_word(vendor)).map_or(s, |(code, _)| code))
}

/// Is this usable as a tag in a script and as a name in a backend?
pub fn is_word(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// An SQL identifier that needs no quoting tricks: letters, digits, '_', no leading digit, at most
/// 63 bytes (the shortest limit of the three databases, PostgreSQL's).
pub fn is_identifier(s: &str) -> bool {
    s.len() <= 63 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && s.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}
