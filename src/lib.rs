//! Accounting module for OpenSIPS-style SIP servers.
//!
//! A C SIP server loads this crate as `acc.so` and forks its workers. The path of a record:
//!
//! ```text
//!  SIP worker                                                   delivery process
//!  request ── host: snapshot ── accounting: decide ─┬─ log, evi: now
//!  reply, BYE, expiry (callbacks)            └─ db, aaa: journal ═══ delivery: tail ── backend ── SQL, RADIUS
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`declaration`] | the declaration: parameters, functions, variables, events |
//! | [`config`] | parameters to a validated configuration |
//! | [`accounting`] | the core without host types: marks, fields, contexts, decisions |
//! | [`host`] | the only `unsafe`: the server's entry points, shared memory, panic guard |
//! | [`worker`] | records to backends: lines and events at once, the rest into the journal |
//! | [`journal`] | append-only segments, one writer per process |
//! | [`delivery`] | the process that brings the journal's entries to their sinks |
//! | [`backend`] | log lines, events, SQL, RADIUS, syslog |
//! | [`stats`] | counters in shared memory |

pub mod accounting;
pub mod backend;
pub mod config;
pub mod declaration;
pub mod delivery;
pub mod host;
pub mod interprocess;
pub mod journal;
pub mod params;
pub mod stats;
pub mod worker;
