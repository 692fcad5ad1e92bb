//! The Kamailio family, 5.6.2 to 6.1 (docs/ARCHITECTURE.md, "Host families").

mod abi;
mod api;
mod arguments;
mod attached;
mod calls;
mod contexts;
mod exports;
mod functions;
mod load;
mod message;
mod present;
mod rpc;
mod state;
mod symbols;
mod variables;
mod versions;

pub use exports::{Export, fill};
