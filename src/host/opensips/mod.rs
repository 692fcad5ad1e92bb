//! The OpenSIPS family, 3.4 to 4.0 (docs/ARCHITECTURE.md, "Host families").

pub mod abi;
mod api;
mod calls;
mod contexts;
mod exports;
mod functions;
mod load;
mod management;
mod message;
mod state;
mod symbols;
mod variables;
mod versions;

pub use exports::fill;
