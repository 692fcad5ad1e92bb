//! The Kamailio family, 5.6.2 to 6.1 (docs/ARCHITECTURE.md, "Host families").

mod abi;
mod api;
mod arguments;
mod attached;
mod calls;
mod cdrs;
mod companion;
mod contexts;
mod exports;
mod flags;
mod functions;
mod kemi;
mod load;
mod message;
mod present;
mod rpc;
mod state;
mod symbols;
mod variables;
pub mod versions;

/// Functions and variables of the server that the module does not work without.
pub const SYMBOLS: &[&str] = symbols::Symbols::NAMES;

pub use exports::{Export, fill};
