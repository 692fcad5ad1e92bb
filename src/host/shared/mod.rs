//! Contexts in the arena: reference counted, one lock each. Marks, flags and instants are changed in
//! place; each value of the script has a content of its own ([`super::values`]); the rest is in two
//! contents ([`crate::accounting::context::Part`]), each replaced as a whole.
//!
//! The host keeps raw pointers to them in its transactions, dialogs and processing contexts; each
//! such pointer owns one reference.

mod change;
mod error;
mod parts;
mod read;
mod reference;
mod slot;
#[cfg(test)]
mod tests;
mod told;

pub use error::{CallId, FULL, SharedError};
pub use reference::{SharedContext, release};
pub use told::on_change;
