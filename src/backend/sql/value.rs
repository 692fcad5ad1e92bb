//! Values of a row, and the text that a server accepts.
#![forbid(unsafe_code)]

use std::borrow::Cow;

/// A value to bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// NULL in a text column.
    Null,
    /// Bytes of text.
    Text(Vec<u8>),
    /// A number.
    Int(i64),
}

/// Text that the server accepts: bytes that are not UTF-8 are written as `\xNN` (for PostgreSQL also NUL).
pub fn escape_invalid(bytes: &[u8], escape_nul: bool) -> Cow<'_, str> {
    let escaped = |b: &u8| format!("\\x{b:02x}");
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => bytes.utf8_chunks().flat_map(|chunk| std::iter::once(chunk.valid().to_string()).chain(chunk.invalid().iter().map(escaped))).collect(),
    };
    if escape_nul && text.contains('\0') { Cow::Owned(text.replace('\0', "\\x00")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_not_utf8_is_escaped_visibly() {
        assert_eq!(escape_invalid(b"a\xffb\xc3\xa9\xc3", false), "a\\xffbé\\xc3");
        assert_eq!(escape_invalid(b"a\0b", true), "a\\x00b");
        assert_eq!(escape_invalid(b"a\0b", false), "a\0b");
    }
}
