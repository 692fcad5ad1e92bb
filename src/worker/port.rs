//! What the safe side needs from the server that loaded the module.
#![forbid(unsafe_code)]

use crate::accounting::context::CallEnd;
use crate::backend::event::{Event, EventValue};
use crate::backend::log::{Form, Writer};

/// How the host logs at the moment; read each time, because it can change at run time.
#[derive(Clone, Debug, Default)]
pub struct LogSettings {
    /// Highest level that goes to stderr; `None`: no line does.
    pub stderr: Option<i32>,
    /// The same for syslog.
    pub syslog: Option<i32>,
    /// What lines on stderr look like.
    pub stderr_form: Form,
    /// What messages to syslog look like.
    pub syslog_form: Form,
    /// Program name in syslog lines.
    pub name: String,
    /// The host's own prefix of every line.
    pub prefix: String,
    /// Facility of the host's own lines.
    pub facility: i32,
}

impl LogSettings {
    /// Lines of this level go to stderr.
    pub fn on_stderr(&self, level: i32) -> bool {
        self.stderr.is_some_and(|most| level <= most)
    }

    /// Lines of this level go to syslog.
    pub fn on_syslog(&self, level: i32) -> bool {
        self.syslog.is_some_and(|most| level <= most)
    }

    /// What is printed around lines of this process.
    pub fn writer(&self, pid: u32) -> Writer<'_> {
        Writer { prefix: &self.prefix, name: &self.name, pid }
    }
}

/// What the safe side needs from the host.
pub trait Host: Send + Sync {
    /// The current log settings.
    fn log_settings(&self) -> LogSettings;

    /// Does this event have a listener?
    fn has_listeners(&self, event: Event) -> bool;

    /// Raises an event with its parameters in order; false if the host refused it.
    fn raise(&self, event: Event, params: &[(&str, EventValue<'_>)]) -> bool;

    /// Puts a text into a queue of the script; false if the host has no queue of this name.
    fn enqueue(&self, queue: &str, key: &str, text: &str) -> bool {
        let _ = (queue, key, text);
        false
    }

    /// Index of this process in the host, for journal file names.
    fn process_number(&self) -> i32;

    /// Id of this process. The journal needs it at every append, so it must not make a system call.
    fn process_id(&self) -> u32;

    /// Does the host keep dialogs in a database? Then a dialog may be there again at the next start although its call is over.
    fn restores_dialogs(&self) -> bool {
        false
    }

    /// The end of a call is in the journal with all its records: other nodes need not write the CDR.
    fn settled(&self, end: &CallEnd);

    /// The end of a call is not in the journal: the next start writes the CDR, and until then no other node may.
    fn unsettled(&self, end: &CallEnd) {
        let _ = end;
    }
}
