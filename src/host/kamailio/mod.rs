//! The Kamailio family, 5.6.2 to 6.1 (docs/ARCHITECTURE.md, "Host families").

mod abi;
mod api;
mod arguments;
mod at_hand;
mod attached;
mod bind;
mod cdrs;
mod companion;
mod contexts;
mod dialogs;
mod events;
mod exports;
mod flags;
mod functions;
mod kemi;
mod load;
mod message;
mod prepared;
mod present;
mod rpc;
mod state;
mod symbols;
mod transactions;
mod variables;
pub mod versions;

/// Functions and variables of the server that the module does not work without.
pub const SYMBOLS: &[&str] = symbols::Symbols::NAMES;

pub use exports::fill;
pub use load::Export;
