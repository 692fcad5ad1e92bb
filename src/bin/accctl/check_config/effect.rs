//! What calls of functions do to a request.

/// Things that happen.
pub mod fact {
    /// The request gets a Record-Route header, or something with its effect.
    pub const RECORD_ROUTE: u64 = 1;
    /// It has been sent on.
    pub const RELAYED: u64 = 1 << 1;
    /// It has a transaction.
    pub const TRANSACTION: u64 = 1 << 2;
    /// Its call has been looked for.
    pub const MATCHED: u64 = 1 << 3;
    /// It has a dialog.
    pub const DIALOG: u64 = 1 << 4;
    /// It is accounted.
    pub const MARKED: u64 = 1 << 5;
    /// Also if it fails.
    pub const FAILED: u64 = 1 << 6;
    /// Missed calls, too.
    pub const MISSED: u64 = 1 << 7;
    /// With a CDR.
    pub const CDR: u64 = 1 << 8;
    /// It was marked for missed calls when it was sent on.
    pub const WAS_MISSED: u64 = 1 << 9;
    /// A condition that is not understood led here.
    pub const MAYBE: u64 = 1 << 10;
    /// An accounting variable has a value.
    pub const VALUE: u64 = 1 << 11;
    /// It becomes a call of the B2B modules.
    pub const B2B: u64 = 1 << 12;
    /// Retransmissions have been looked for.
    pub const CHECKED: u64 = 1 << 13;
    /// All marks.
    pub const MARKS: u64 = MARKED | FAILED | MISSED | CDR;
}

/// What a call changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effect {
    /// Facts that it adds.
    pub adds: u64,
    /// Facts that it may add.
    pub may_add: u64,
    /// Facts that it takes away.
    pub clears: u64,
    /// Facts that it may take away.
    pub may_clear: u64,
}

/// Whether a function sends a request on.
pub fn is_relay(name: &str) -> bool {
    name == "t_relay" || name.starts_with("t_relay_to") || name.starts_with("t_forward_nonack")
}
