//! The OpenSIPS family, 3.4 to 4.0 (docs/ARCHITECTURE.md, "Host families").

pub mod abi;
mod api;
mod at_hand;
mod clusterer;
mod contexts;
mod dialogs;
mod events;
mod exports;
mod flags;
mod functions;
mod load;
mod management;
mod message;
mod prepared;
mod processes;
mod raised;
mod state;
mod symbols;
mod transactions;
mod values;
mod variables;
pub mod versions;

/// Functions and variables of the server that the module does not work without.
pub const SYMBOLS: &[&str] = symbols::Symbols::NAMES;

pub use exports::fill;
