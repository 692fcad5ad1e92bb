//! What a delivery process is given.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::accounting::clock::Moment;
use crate::backend::Maker;
use crate::config::Config;
use crate::journal::{Dir, SinkId};

/// Input of the delivery process.
pub struct Delivery {
    /// Parameters.
    pub config: Config,
    /// The journal, opened before the fork.
    pub dir: Dir,
    /// An eventfd made before the fork. A worker adds to it if its ring of the bell says so, and delivery starts
    /// at once; otherwise, and without an eventfd, it starts within 200 ms.
    pub wake: Option<OwnedFd>,
    /// Set by the handler of SIGTERM: deliver what can be delivered in 2 s, then return.
    pub stop: Arc<AtomicBool>,
    /// Sinks that are made in another way than by their settings.
    pub makers: Vec<(SinkId, Maker)>,
    /// Returns how many bytes the records of requests and calls already accepted may still take.
    pub owed: Option<fn() -> u64>,
    /// Deliver what is there, for at most this long, then return (for `accctl deliver`). Entries
    /// of sinks that are not configured then stay in the journal.
    pub only_what_is_there: Option<Duration>,
    /// The clock for interim records.
    pub clock: fn() -> Moment,
}

impl Delivery {
    /// Delivers this journal until told to stop, to SQL databases that this module serves itself and to the
    /// machine's syslog.
    pub fn new(config: Config, dir: Dir) -> Delivery {
        Delivery { config, dir, wake: None, stop: Arc::default(), makers: Vec::new(), owed: None, only_what_is_there: None, clock: Moment::now }
    }
}
