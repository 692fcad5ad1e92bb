//! What the nodes of a cluster tell each other about their calls, so that none writes a CDR that another
//! one has written.
//!
//! The node that writes a CDR tells all others, and they close the call in their journals. An end that is
//! not known for sure (of an orphan, or of a call whose lifetime is over for a node that heard nothing of
//! it) closes no call that goes on elsewhere: the real end also makes a CDR, which replaces the other one
//! in SQL. A node that starts asks the others about the calls that were in progress when it stopped: are
//! they settled, or do they go on elsewhere? Answers are not repeated: a node that hears nothing asks
//! again, and after `orphan_timeout` writes what it knows. A node that could not be reached is told later
//! what was settled meanwhile.

mod answers;
mod message;
mod nodes;
mod remembered;

pub use answers::{ask, heard};
pub use message::Named;
pub use nodes::{MOST, Nodes, changed, ended, ends, found, is_joined, join, lost, may_end_orphans, settled, tell_returned};
pub use remembered::{Known, install, known, remember};
