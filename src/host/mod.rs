//! The boundary to the SIP server, and the only place with `unsafe`.
//!
//! [`crate::worker::port::Host`] is what the safe side may ask of whichever server loaded the module. The families
//! (`opensips`, `kamailio`) hold entry points, layouts by version row and callbacks. Common to them
//! is what they do alike (`server`, `entry`, `exported`, `script`, `outcome`, `tally`, `process`, `management`, `database`), what
//! processes share (`arena`, `pid`, `shared`, `revival`, `tables`), what is proved of the
//! server (`proof`), and `supervisor`, `guard` and `capi`. docs/SAFETY.md lists the promises that the SAFETY notes lean on, by number.
#![allow(unsafe_code)]

mod acks;
pub mod arena;
pub mod capi;
pub mod cluster;
pub mod database;
pub mod entry;
mod exported;
pub mod full;
pub mod guard;
pub mod kamailio;
pub mod management;
pub mod opensips;
pub mod outcome;
pub mod pid;
pub mod process;
mod proof;
pub mod revival;
pub mod script;
pub mod server;
pub mod shared;
pub mod supervisor;
pub mod tables;
pub mod tally;
pub mod values;
mod watched;
