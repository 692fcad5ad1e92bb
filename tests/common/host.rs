//! A host with no server behind it.

use acc::accounting::context::CallEnd;
use acc::backend::event::{Event, EventValue};
use acc::host;
use acc::worker::port::{Host, LogSettings};

/// Nobody asks it anything. `stderr`: the highest level of the lines that it prints there.
pub struct NoServer {
    pub stderr: Option<i32>,
}

impl Host for NoServer {
    fn log_settings(&self) -> LogSettings {
        LogSettings { stderr: self.stderr, ..LogSettings::default() }
    }

    fn has_listeners(&self, _: Event) -> bool {
        false
    }

    fn raise(&self, _: Event, _: &[(&str, EventValue<'_>)]) -> bool {
        false
    }

    fn process_number(&self) -> i32 {
        1
    }

    fn process_id(&self) -> u32 {
        host::pid::id()
    }

    fn settled(&self, end: &CallEnd) {
        host::cluster::settled(end);
    }
}
