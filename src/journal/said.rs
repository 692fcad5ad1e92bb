//! What frames say about calls in progress, see [`super::calls`].
//!
//! A frame of kind [`super::KIND_CALL`] has the payload `op u8 | call u128`, and for a state also
//! `start u64 | monotonic u64`, then a whole state or a change, see [`put_changed`]. Behind an end that nobody saw stands one
//! byte more, which is 1.
#![forbid(unsafe_code)]

use rustix::time::{ClockId, clock_gettime};

use crate::accounting::context::Base;

/// Used in place of a sink number: no sink reads such frames.
pub(super) const NO_SINK: u8 = u8::MAX;

const OP_OPEN: u8 = 1;
const OP_CLOSED: u8 = 2;
const OP_CHANGED: u8 = 3;

/// When a state was first written, by what no change of the machine's time touches: states of one
/// call are written under its lock, so that a later one is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    /// Start of the server, see [`Dir::boot`].
    pub start: u64,
    /// Nanoseconds of the monotonic clock: it begins again only when the machine does, and then the
    /// server does too.
    pub monotonic: u64,
}

impl Order {
    /// Now, in the server that was started at `start`.
    pub(super) fn now(start: u64) -> Order {
        let t = clock_gettime(ClockId::Monotonic);
        Order { start, monotonic: t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64 }
    }
}

/// A whole state, which follows.
pub(super) fn put_open(out: &mut Vec<u8>, call: u128, order: Order) {
    put_order(out, OP_OPEN, call, order);
}

/// `base.monotonic u64 | rest u32 | prefix u32 | suffix u32 | length of head u32 | head | middle`.
pub(super) fn put_changed(out: &mut Vec<u8>, call: u128, order: Order, base: Base, head: &[u8], middle: &[u8]) {
    put_order(out, OP_CHANGED, call, order);
    out.extend_from_slice(&base.monotonic.to_le_bytes());
    for n in [base.rest, base.prefix, base.suffix, head.len() as u32] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.extend_from_slice(head);
    out.extend_from_slice(middle);
}

/// A change as stored in the journal.
pub(super) struct Changed<'a> {
    pub base: Base,
    pub head: &'a [u8],
    middle: &'a [u8],
}

impl Changed<'_> {
    pub fn read(mut bytes: &[u8]) -> Option<Changed<'_>> {
        let (monotonic, rest) = bytes.split_first_chunk::<8>()?;
        bytes = rest;
        let mut number = || {
            let (n, rest) = bytes.split_first_chunk::<4>()?;
            bytes = rest;
            Some(u32::from_le_bytes(*n))
        };
        let base = Base { monotonic: u64::from_le_bytes(*monotonic), rest: number()?, prefix: number()?, suffix: number()? };
        let (head, middle) = number().and_then(|n| bytes.split_at_checked(n as usize))?;
        Some(Changed { base, head, middle })
    }

    /// The state that a whole one has become; `None` when it is not that one.
    pub fn of(&self, whole: &[u8]) -> Option<Vec<u8>> {
        let rest = &whole[whole.len().checked_sub(self.base.rest as usize)?..];
        let (first, _) = rest.split_at_checked(self.base.prefix as usize)?;
        let last = &rest[rest.len().checked_sub(self.base.suffix as usize).filter(|at| *at >= first.len())?..];
        Some([self.head, first, self.middle, last].concat())
    }
}

fn put_order(out: &mut Vec<u8>, op: u8, call: u128, order: Order) {
    out.push(op);
    out.extend_from_slice(&call.to_le_bytes());
    out.extend_from_slice(&order.start.to_le_bytes());
    out.extend_from_slice(&order.monotonic.to_le_bytes());
}

/// The end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its key.
    pub call: u128,
    /// Nobody saw it, see [`CallEnd::is_guess`](crate::accounting::context::CallEnd::is_guess).
    pub guessed: bool,
}

impl End {
    /// One that somebody saw.
    pub const fn seen(call: u128) -> End {
        End { call, guessed: false }
    }
}

pub(super) fn put_closed(out: &mut Vec<u8>, end: End) {
    out.push(OP_CLOSED);
    out.extend_from_slice(&end.call.to_le_bytes());
    if end.guessed {
        out.push(1);
    }
}

/// What a frame says about a call.
pub(super) enum Said<'a> {
    /// A whole state.
    Open(u128, Order, &'a [u8]),
    /// A change, to be read by [`Changed::read`].
    Changed(u128, Order, &'a [u8]),
    Closed(End),
}

impl Said<'_> {
    pub const fn call(&self) -> u128 {
        match self {
            Said::Open(call, ..) | Said::Changed(call, ..) | Said::Closed(End { call, .. }) => *call,
        }
    }

    /// When a state was first written.
    pub const fn order(&self) -> Option<Order> {
        match self {
            Said::Open(_, order, _) | Said::Changed(_, order, _) => Some(*order),
            Said::Closed(_) => None,
        }
    }
}

pub(super) fn read_payload(payload: &[u8]) -> Option<Said<'_>> {
    let (op, rest) = payload.split_first()?;
    let (call, rest) = rest.split_first_chunk::<16>()?;
    let call = u128::from_le_bytes(*call);
    match *op {
        OP_OPEN | OP_CHANGED => {
            let (start, rest) = rest.split_first_chunk::<8>()?;
            let (monotonic, state) = rest.split_first_chunk::<8>()?;
            let order = Order { start: u64::from_le_bytes(*start), monotonic: u64::from_le_bytes(*monotonic) };
            Some(if *op == OP_OPEN { Said::Open(call, order, state) } else { Said::Changed(call, order, state) })
        }
        OP_CLOSED => Some(Said::Closed(End { call, guessed: rest.first() == Some(&1) })),
        _ => None,
    }
}
