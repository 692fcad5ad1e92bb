//! What URLs of streams have in common: `SCHEME:REST?OPTIONS`.
#![forbid(unsafe_code)]

use std::borrow::Cow;

/// The options of a URL; each is taken once, by the code that knows it.
#[derive(Default)]
pub struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    /// Reads what follows `?`.
    ///
    /// # Errors
    /// An option that is given twice.
    pub fn read(text: &'a str) -> Result<Options<'a>, String> {
        let mut options = Options::default();
        for option in text.split('&').filter(|o| !o.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            if options.0.iter().any(|(k, _)| *k == key) {
                // A known option is not secret; anything else may be a part of a secret.
                let key = if KNOWN.contains(&key) { format!("the option {key}") } else { "an option".into() };
                return Err(format!("{key} is given twice: remove one"));
            }
            options.0.push((key, value));
        }
        Ok(options)
    }

    /// Takes an option out.
    pub fn take(&mut self, key: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|(k, _)| *k == key)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Checks that no options are left.
    ///
    /// # Errors
    /// An option is not among `known`.
    pub fn end(self, known: &str) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("an option is unknown: use {known}, joined by '&'")) }
    }
}

/// Options of all schemes, for messages.
const KNOWN: [&str; 16] =
    ["name", "max_size", "sync", "columns", "stream", "creds", "tls", "ca", "cert", "key", "user", "password-file", "sasl", "exchange", "batch", "format"];

/// For a header or a subject: writes every byte except these as `%NN`.
pub fn encoded(text: &[u8], plain: impl Fn(u8) -> bool) -> Cow<'_, str> {
    match std::str::from_utf8(text) {
        Ok(text) if text.bytes().all(&plain) => Cow::Borrowed(text),
        _ => {
            let mut out = String::with_capacity(text.len() + 16);
            for byte in text {
                if plain(*byte) && byte.is_ascii() {
                    out.push(char::from(*byte));
                } else {
                    out.push('%');
                    out.extend([byte >> 4, byte & 15].map(|d| char::from(b"0123456789ABCDEF"[usize::from(d)])));
                }
            }
            Cow::Owned(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_encoded_where_they_have_to_be() {
        assert_eq!(encoded("a@b\n\u{e4}".as_bytes(), |b| b.is_ascii_graphic()), "a@b%0A%C3%A4");
        assert_eq!(encoded(b"\xff", |_| true), "%FF");
    }
}
