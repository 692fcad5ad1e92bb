//! Real calls through a real Kamailio: SIPp plays both ends, the module writes log lines, rows in SQLite,
//! MariaDB and PostgreSQL, and RADIUS packets, and each record is compared field by field. Skipped with a word
//! where kamailio, sipp or sqlite3 is not installed.
#![allow(clippy::print_stderr, reason = "a test that cannot run here says 'skipped'")]

mod bind;
mod burst;
mod calls;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod convert;
mod diameter;
#[path = "../diameter/fake.rs"]
#[allow(dead_code, reason = "some of it is for other tests")]
mod fake;
mod flags;
mod forks;
mod interim;
mod kemi;
mod load;
mod management;
mod phones;
mod plain;
mod restarts;
mod server;
mod shipped;
mod startup;
mod statistics;
mod streams;
mod swap;
mod wire;
