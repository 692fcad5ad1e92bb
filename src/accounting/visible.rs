//! Text for people and for line-based tools: control characters are made visible, and long text is
//! cut between characters and between escapes (D9).
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

/// Characters that end a line, move the cursor of a terminal, or make text appear in another order than
/// it has: C0, DEL, C1, the separators of lines and paragraphs, and Unicode's Bidi_Control.
pub const fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends a byte as `\xNN`.
pub fn put_escape(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(&[b'\\', b'x', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// Appends text with the bytes of its control characters as `\xNN`. Of bytes that are not UTF-8, those that
/// are C1 characters in 8-bit sets are also escaped.
pub fn put_visible(out: &mut Vec<u8>, text: &[u8]) {
    if text.iter().all(|b| (0x20..0x7f).contains(b)) {
        out.extend_from_slice(text);
        return;
    }
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut utf8 = [0; 4];
            let utf8 = c.encode_utf8(&mut utf8).as_bytes();
            if is_control(c) { utf8.iter().for_each(|b| put_escape(out, *b)) } else { out.extend_from_slice(utf8) }
        }
        for b in chunk.invalid() {
            if matches!(b, 0x80..=0x9f) { put_escape(out, *b) } else { out.push(*b) }
        }
    }
}

/// Text with its control characters visible.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() + 16);
    put_visible(&mut out, text.as_bytes());
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The greatest length up to `most` that does not cut text inside a UTF-8 character or an escape.
pub fn whole(text: &[u8], most: usize) -> usize {
    if most >= text.len() {
        return text.len();
    }
    let cut = (most.saturating_sub(3)..=most).rev().find(|n| text[*n] & 0xc0 != 0x80).unwrap_or(most);
    (cut.saturating_sub(3)..cut).rev().find(|n| is_escape(&text[*n..])).unwrap_or(cut)
}

fn is_escape(text: &[u8]) -> bool {
    matches!(text, [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

/// The Call-ID of a request, for a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallId(pub Vec<u8>);

/// How many bytes of it a message shows.
const SHOWN: usize = 256;

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..self.0.len().min(SHOWN)] {
            [] => f.write_str("of a request that is not marked yet"),
            id => write!(f, "Call-ID {}", id.escape_ascii()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_visible(&mut out, text);
        out
    }

    #[test]
    fn characters_that_forge_a_line_are_escaped() {
        for (text, want) in [
            ("a\r\n\x1b[31m\x7f", "a\\x0d\\x0a\\x1b[31m\\x7f"),
            ("\u{85}x\u{9b}31m", "\\xc2\\x85x\\xc2\\x9b31m"),
            ("gpj\u{202e}txt\u{2066}\u{200f}\u{61c}", "gpj\\xe2\\x80\\xaetxt\\xe2\\x81\\xa6\\xe2\\x80\\x8f\\xd8\\x9c"),
            ("a\u{2028}b\u{2029}", "a\\xe2\\x80\\xa8b\\xe2\\x80\\xa9"),
            ("Zoë 北京 👩\u{200d}🚒 \\ \"", "Zoë 北京 👩\u{200d}🚒 \\ \""),
        ] {
            assert_eq!(String::from_utf8(shown(text.as_bytes())).unwrap(), want);
            assert_eq!(visible(text), want);
        }
        assert_eq!(shown(b"Zo\xeb\x9b1m\x85"), b"Zo\xeb\\x9b1m\\x85");
    }

    #[test]
    fn text_is_cut_between_characters_and_escapes() {
        let text = "aé\\xe9b".as_bytes();
        assert_eq!((0..=text.len() + 1).map(|n| whole(text, n)).collect::<Vec<_>>(), [0, 1, 1, 3, 3, 3, 3, 7, 8, 8]);
        assert_eq!(whole(b"\\xg0", 2), 2);
    }

    proptest! {
        #[test]
        fn nothing_that_is_shown_has_a_control_character(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let out = shown(&text);
            for chunk in out.utf8_chunks() {
                prop_assert!(!chunk.valid().chars().any(is_control));
                prop_assert!(!chunk.invalid().iter().any(|b| matches!(b, 0x80..=0x9f)));
            }
        }

        #[test]
        fn a_cut_keeps_a_beginning(text in "[ \\\\xé0-9a-f]{0,20}", most in 0usize..30) {
            let cut = whole(text.as_bytes(), most);
            prop_assert!(cut <= most && text.is_char_boundary(cut) && most.min(text.len()) - cut <= 6);
        }
    }
}
