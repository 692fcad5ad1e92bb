//! Standard reason phrases, for local replies and for comments without a reason. These are the
//! phrases the host sends for the code, so that records match what is on the wire.
#![forbid(unsafe_code)]

/// Codes of calls that a person refused or gave up, or that nobody picked up: the network did its part (NER of E.425).
pub const USER_CODES: [u16; 6] = [408, 480, 486, 487, 600, 603];

/// The phrase of a code; a code without one gets the name of its class.
pub const fn phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method not Allowed",
        406 | 606 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        417 => "Unknown Resource-Priority",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        428 => "Use Identity Header",
        429 => "Provide Referrer Identity",
        436 => "Bad Identity-Info",
        437 => "Unsupported Certificate",
        438 => "Invalid Identity Header",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        494 => "Security Agreement Required",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        555 => "Push Notification Service Not Supported",
        580 => "Precondition Failure",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does not Exist Anywhere",
        _ => class(code),
    }
}

const fn class(code: u16) -> &'static str {
    match code {
        0..=99 => "Unspecified",
        100..=199 => "Provisional",
        200..=299 => "Successful",
        300..=399 => "Redirection",
        400..=499 => "Request Failure",
        500..=599 => "Server Failure",
        600.. => "Global Failure",
    }
}

/// Code and reason of a script's comment: "NNN reason", "NNN", or only a reason.
pub fn split_comment(comment: &[u8]) -> (Option<u16>, Vec<u8>) {
    let (code, rest) = match comment {
        [a, b, c, rest @ ..] if a.is_ascii_digit() && b.is_ascii_digit() && c.is_ascii_digit() => {
            let n = |d: &u8| u16::from(d - b'0');
            (Some(n(a) * 100 + n(b) * 10 + n(c)), rest.trim_ascii_start())
        }
        whole => (None, whole),
    };
    let reason = if rest.is_empty() { phrase(code.unwrap_or(0)).as_bytes().to_vec() } else { rest.to_vec() };
    (code, reason)
}

/// Code and reason as they are in a comment; either may be missing.
pub fn parts_of_comment(comment: &[u8]) -> (Vec<u8>, Vec<u8>) {
    match comment.split_at_checked(3) {
        Some((code, rest)) if code.iter().all(u8::is_ascii_digit) => (code.to_vec(), rest.trim_ascii_start().to_vec()),
        _ => (Vec::new(), comment.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_split_into_code_and_reason() {
        for (comment, code, reason) in [
            ("403 Destination not allowed", Some(403), "Destination not allowed"),
            ("404", Some(404), "Not Found"),
            ("404   ", Some(404), "Not Found"),
            ("486Busy", Some(486), "Busy"),
            ("no code here", None, "no code here"),
            ("40", None, "40"),
            ("", None, "Unspecified"),
            ("4x4 odd", None, "4x4 odd"),
            ("476", Some(476), "Request Failure"),
        ] {
            assert_eq!(split_comment(comment.as_bytes()), (code, reason.as_bytes().to_vec()), "{comment:?}");
        }
    }
}
