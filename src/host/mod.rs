//! The boundary to the SIP server, and the only place with `unsafe`.
//!
//! [`Host`] is what the safe side may ask of whichever server loaded the module. The families
//! (`opensips`, `kamailio`) hold entry points, layouts by version row and callbacks. Common to them
//! is what they do alike (`entry`, `script`, `outcome`, `process`, `management`, `database`), what
//! processes share (`arena`, `shared`, `interprocess`, `revival`, `tables`), and `supervisor`,
//! `guard` and `capi`. docs/SAFETY.md lists the promises that the SAFETY notes lean on, by number.
#![allow(unsafe_code)]

pub mod arena;
pub mod capi;
pub mod database;
pub mod entry;
pub mod guard;
pub mod interprocess;
pub mod kamailio;
pub mod management;
pub mod opensips;
pub mod outcome;
pub mod process;
pub mod revival;
pub mod script;
pub mod shared;
pub mod supervisor;
pub mod tables;

use crate::backend::event::Event;

/// How the host logs at this moment; read each time, the host changes it at run time.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Highest level that is printed.
    pub level: i32,
    /// Lines go to stderr.
    pub stderr: bool,
    /// Lines go to syslog.
    pub syslog: bool,
    /// Program name in syslog lines.
    pub name: String,
    /// The host's own prefix of every line.
    pub prefix: String,
    /// Facility of the host's own lines.
    pub facility: i32,
}

/// Value of an event's parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventValue<'a> {
    /// A string; `None` is null.
    Text(Option<&'a [u8]>),
    /// A number.
    Int(i32),
}

/// What the safe side asks of the host.
pub trait Host: Send + Sync {
    /// How to log now.
    fn log_settings(&self) -> LogSettings;

    /// Does anybody listen to this event?
    fn has_listeners(&self, event: Event) -> bool;

    /// Raises an event with its parameters in order; false when the host refused it.
    fn raise(&self, event: Event, params: &[(&str, EventValue<'_>)]) -> bool;

    /// Index of this process in the host, for journal file names.
    fn process_number(&self) -> i32;
}
