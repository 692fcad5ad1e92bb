//! Accounting module for OpenSIPS-style SIP servers.

pub mod acc;
pub mod backend;
pub mod config;
pub mod delivery;
pub mod journal;
pub mod stats;
