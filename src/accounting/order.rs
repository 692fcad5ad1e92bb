//! The order of the backends in which the records of one event are made.
#![forbid(unsafe_code)]

use super::record::Backend;

/// Order of the backends within a transaction or missed event.
pub const EVENT_ORDER: [Backend; Backend::COUNT] = after([Backend::Evi, Backend::Log, Backend::Aaa, Backend::Db]);
/// Order of the backends at the end of a call.
pub const CDR_ORDER: [Backend; Backend::COUNT] = after([Backend::Log, Backend::Db, Backend::Aaa, Backend::Evi]);

/// The backends of the original in its order, then all others.
const fn after(first: [Backend; 4]) -> [Backend; Backend::COUNT] {
    let mut order = Backend::ALL;
    let (mut n, mut seen, mut i) = (0, 0u16, 0);
    while i < first.len() + Backend::COUNT {
        let backend = if i < first.len() { first[i] } else { Backend::ALL[i - first.len()] };
        if seen >> backend as u8 & 1 == 0 {
            seen |= 1 << backend as u8;
            order[n] = backend;
            n += 1;
        }
        i += 1;
    }
    order
}
