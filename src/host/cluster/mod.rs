//! What the nodes of a cluster tell each other of their calls, so that none writes a CDR that another
//! one has written.
//!
//! The node that writes a CDR tells all others: they close the call in their journals. An end that is not
//! known for sure (an orphan's, or a lifetime's of which a node heard nothing) closes no call that goes on elsewhere: the
//! real end has a CDR, too, which SQL puts in the place of the other. A node that
//! starts asks the others for the calls that were in progress when it ended: settled, or going on
//! elsewhere. Nothing is answered twice to be sure: who hears nothing asks again, and after
//! `orphan_timeout` writes what it knows. A node that could not be reached is told of what was settled
//! meanwhile when it can be.

mod answers;
mod message;
mod nodes;
mod remembered;

pub use answers::{ask, heard};
pub use message::Named;
pub use nodes::{MOST, Nodes, changed, ended, ends, found, is_joined, join, lost, may_end_orphans, settled, tell_returned};
pub use remembered::{Known, install, known, remember};
