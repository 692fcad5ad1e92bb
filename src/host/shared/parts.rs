//! The parts of a context, as bytes.

use std::cell::Cell;

use crate::accounting::context::{Context, Head, Part};

/// Room for the parts of a common call.
const PARTS: usize = 768;
/// A larger buffer is not kept for the next context.
const KEPT: usize = 65_536;

thread_local! {
    /// Buffers for parts: a process handles one context after the other. A change has two sets of parts, before and after it.
    static FREE: [Cell<Vec<u8>>; 2] = const { [const { Cell::new(Vec::new()) }; 2] };
}

/// The first parts of a context, encoded, or all three.
#[derive(Default)]
pub(super) struct Parts {
    pub bytes: Vec<u8>,
    /// Where each ends.
    pub ends: [usize; 3],
}

impl Parts {
    pub(super) fn none() -> Parts {
        let free = FREE.try_with(|free| free.iter().map(Cell::take).find(|buffer| buffer.capacity() > 0)).ok().flatten();
        Parts { bytes: free.unwrap_or_else(|| Vec::with_capacity(PARTS)), ends: [0; 3] }
    }

    /// The parts of a head; the values do not follow yet.
    pub(super) fn of_head(head: &Head) -> Parts {
        let mut parts = Parts::none();
        head.encode_request(&mut parts.bytes);
        parts.ends[Part::Request as usize] = parts.bytes.len();
        head.encode_reply(&mut parts.bytes);
        parts.end_here();
        parts
    }

    pub(super) fn of(ctx: &Context) -> Parts {
        let mut parts = Parts::of_head(ctx);
        ctx.encode_part(Part::Values, &mut parts.bytes);
        parts.ends[Part::Values as usize] = parts.bytes.len();
        parts
    }

    /// The reply ends here, and with it the head.
    pub(super) fn end_here(&mut self) {
        self.ends[Part::Reply as usize] = self.bytes.len();
        self.ends[Part::Values as usize] = self.bytes.len();
    }

    pub(super) fn get(&self, part: Part) -> &[u8] {
        let i = part as usize;
        let begin = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[begin..self.ends[i]]
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if !(PARTS..=KEPT).contains(&self.bytes.capacity()) {
            return;
        }
        // A thread that is ending keeps no buffers.
        let _ = FREE.try_with(|free| {
            self.bytes.clear();
            for room in free {
                let other = room.replace(std::mem::take(&mut self.bytes));
                if other.capacity() == 0 {
                    return;
                }
                self.bytes = other;
            }
        });
    }
}
