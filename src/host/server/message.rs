//! What records show of a message, read through the server's own variables.

use crate::accounting::context::Reply;
use crate::accounting::record::Core;

/// A variable of the server, by its specification.
pub trait Readable {
    /// Functions of the server.
    type Symbols;
    /// A message.
    type Raw;

    /// Its value for a message: text unchanged, numbers in decimal with their sign (D17), null as `None`.
    fn bytes(&self, symbols: &Self::Symbols, raw: *mut Self::Raw) -> Option<Vec<u8>>;
}

/// The variables that snapshots are made of.
pub struct Specs<S> {
    pub(in crate::host) method: S,
    pub(in crate::host) from_tag: S,
    pub(in crate::host) to_tag: S,
    pub(in crate::host) callid: S,
    pub(in crate::host) status: S,
    pub(in crate::host) reason: S,
    pub(in crate::host) content_length: S,
    pub(in crate::host) cause: S,
}

impl<S> Specs<S> {
    /// Parses them once.
    pub fn new(parse: impl Fn(&str) -> Result<S, String>) -> Result<Specs<S>, String> {
        Ok(Specs {
            method: parse("$rm")?,
            from_tag: parse("$ft")?,
            to_tag: parse("$tt")?,
            callid: parse("$ci")?,
            status: parse("$rs")?,
            reason: parse("$rr")?,
            content_length: parse("$cl")?,
            cause: parse("$hdr(Reason)")?,
        })
    }
}

/// A message that is private to this process, or a reply that was read while it was private, before it was
/// copied: what was parsed then is not parsed again.
pub struct Message<'a, S: Readable> {
    /// The server's.
    pub raw: *mut S::Raw,
    /// Functions of the server.
    pub symbols: &'a S::Symbols,
    /// What is read.
    pub specs: &'a Specs<S>,
}

impl<S: Readable> Message<'_, S> {
    /// The value of a variable.
    pub fn get(&self, spec: &S) -> Vec<u8> {
        spec.bytes(self.symbols, self.raw).unwrap_or_default()
    }

    /// SIP method.
    pub fn method(&self) -> Vec<u8> {
        self.get(&self.specs.method)
    }

    /// Tag of the To header.
    pub fn to_tag(&self) -> Vec<u8> {
        self.get(&self.specs.to_tag)
    }

    /// Core values of a request.
    pub fn core(&self) -> Core {
        Core {
            method: self.method(),
            from_tag: self.get(&self.specs.from_tag),
            to_tag: self.to_tag(),
            callid: self.get(&self.specs.callid),
            ..Default::default()
        }
    }

    /// Status of a reply; 0 if it is not a reply.
    pub fn status(&self) -> u16 {
        std::str::from_utf8(&self.get(&self.specs.status)).ok().and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    /// Its Reason header (RFC 3326).
    pub fn cause(&self) -> Vec<u8> {
        self.get(&self.specs.cause)
    }

    /// What a record needs from a reply with this code. Whether it has a body only matters for provisional
    /// ones, and its Reason header only for failures.
    pub fn reply(&self, code: u16) -> Reply {
        let has_body = code < 200 && self.get(&self.specs.content_length).iter().any(|b| *b != b'0');
        let cause = if code >= 300 { self.cause() } else { Vec::new() };
        Reply { code, reason: self.get(&self.specs.reason), to_tag: self.to_tag(), has_body, received: true, cause }
    }
}
