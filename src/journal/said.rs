//! What frames say about calls in progress, see [`super::calls`].
//!
//! A frame of kind [`super::KIND_CALL`] has the payload `op u8 | call u128`, and for a state also
//! `start u64 | monotonic u64`, then a whole state or a change, see [`put_changed`]. The end of a call whose
//! dialog the host may still restore has `start u64 | monotonic u64 | dialog u128`. An end that nobody saw is
//! followed by one more byte, which is 1.
#![forbid(unsafe_code)]

use rustix::time::{ClockId, clock_gettime};

use crate::accounting::clock::Moment;
use crate::accounting::context::Base;

/// Used in place of a sink number: no sink reads such frames.
pub(super) const NO_SINK: u8 = u8::MAX;

/// How long after its end the dialog of a call may remain in the host's database, in microseconds. Kamailio removes the row
/// when the transaction of the BYE is freed, which is 35 s after an unanswered BYE. It removes what is left of a dialog 300 s
/// after its end (its parameter `end_timeout`), at its next check; it checks every 90 s.
pub(super) const REMEMBERED: u64 = 600_000_000;

const OP_OPEN: u8 = 1;
const OP_CLOSED: u8 = 2;
const OP_CHANGED: u8 = 3;

/// When a state was first written, independent of changes of the machine's clock: states of one call are
/// written under its lock, so a later one is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    /// Start of the server, see [`Dir::boot`].
    pub start: u64,
    /// Nanoseconds of the monotonic clock. It starts again only with the machine, and then the server starts
    /// again as well.
    pub monotonic: u64,
}

impl Order {
    /// Until the server is started again.
    pub(super) const fn throughout(start: u64) -> Order {
        Order { start, monotonic: u64::MAX }
    }

    /// Must an end of this time still be known at the next start, judging by the last sign of life of a server? If that
    /// is unknown, it must.
    pub(super) fn is_remembered(self, alive: Option<(u64, Moment)>) -> bool {
        // A server was started later and has given no sign of life yet.
        alive.is_none_or(|(start, last)| {
            start < self.start || start == self.start && (self.monotonic / 1000).saturating_add(REMEMBERED) >= last.mono.max(0) as u64
        })
    }

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

    /// Applies the change to a whole state; `None` if the change belongs to another one.
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
    /// Key of the call.
    pub call: u128,
    /// Nobody saw it, see [`CallEnd::is_guess`](crate::accounting::context::CallEnd::is_guess).
    pub guessed: bool,
    /// [`dialog_key`](crate::accounting::call_key::dialog_key) of a dialog that the host may restore although its call is over,
    /// so that the next start knows.
    pub dialog: Option<u128>,
}

impl End {
    /// An end that somebody saw, of a call whose dialog is gone.
    pub const fn seen(call: u128) -> End {
        End { call, guessed: false, dialog: None }
    }
}

/// `order` is asked for if there is a dialog.
pub(super) fn put_closed(out: &mut Vec<u8>, end: End, order: impl FnOnce() -> Order) {
    match end.dialog {
        None => {
            out.push(OP_CLOSED);
            out.extend_from_slice(&end.call.to_le_bytes());
        }
        Some(dialog) => {
            put_order(out, OP_CLOSED, end.call, order());
            out.extend_from_slice(&dialog.to_le_bytes());
        }
    }
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
    /// The end, with its time if its dialog has to be remembered for a while.
    Closed(End, Option<Order>),
}

impl Said<'_> {
    pub const fn call(&self) -> u128 {
        match self {
            Said::Open(call, ..) | Said::Changed(call, ..) | Said::Closed(End { call, .. }, _) => *call,
        }
    }

    /// When a state was first written.
    pub const fn order(&self) -> Option<Order> {
        match self {
            Said::Open(_, order, _) | Said::Changed(_, order, _) => Some(*order),
            Said::Closed(..) => None,
        }
    }
}

pub(super) fn read_payload(payload: &[u8]) -> Option<Said<'_>> {
    let (op, rest) = payload.split_first()?;
    let (call, rest) = rest.split_first_chunk::<16>()?;
    let call = u128::from_le_bytes(*call);
    match *op {
        OP_OPEN | OP_CHANGED => {
            let (order, state) = read_order(rest)?;
            Some(if *op == OP_OPEN { Said::Open(call, order, state) } else { Said::Changed(call, order, state) })
        }
        OP_CLOSED => {
            let of_dialog = read_order(rest).and_then(|(order, rest)| Some((order, rest.split_first_chunk()?)));
            let (order, dialog, rest) = match of_dialog {
                Some((order, (dialog, rest))) => (Some(order), Some(u128::from_le_bytes(*dialog)), rest),
                None => (None, None, rest),
            };
            Some(Said::Closed(End { call, guessed: rest.first() == Some(&1), dialog }, order))
        }
        _ => None,
    }
}

fn read_order(bytes: &[u8]) -> Option<(Order, &[u8])> {
    let (start, rest) = bytes.split_first_chunk::<8>()?;
    let (monotonic, rest) = rest.split_first_chunk::<8>()?;
    Some((Order { start: u64::from_le_bytes(*start), monotonic: u64::from_le_bytes(*monotonic) }, rest))
}
