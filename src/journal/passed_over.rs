//! Files that are named like segments but are not, and segments that cannot be read. Each is logged once
//! in a process, with what to do; the others are delivered.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::segment::SegmentName;

/// Maximum number of files that are named: if the disk is broken, some are enough.
const NAMED: usize = 32;

/// The names of all of them.
#[derive(Default)]
pub(super) struct PassedOver(Mutex<HashSet<SegmentName>>);

impl PassedOver {
    /// What to do about an unreadable segment is logged once in a process.
    pub(super) fn add(&self, path: &Path, name: SegmentName, why: &io::Error) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.insert(name) || names.len() > NAMED {
            return;
        }
        let path = path.display();
        let more = if names.len() == NAMED { " (any others are not named)" } else { "" };
        match why.kind() {
            io::ErrorKind::InvalidData => {
                log::error!("{path}/{name} is {why}, not a journal segment, and is skipped: find out who put it there, and remove it{more}");
            }
            io::ErrorKind::PermissionDenied => {
                log::error!(
                    "journal segment {path}/{name} cannot be read ({why}) and is skipped: give it to the user the server runs as, and its entries will be delivered{more}"
                );
            }
            io::ErrorKind::Unsupported => log::error!("journal segment {path}/{name} is left alone: {why}{more}"),
            _ => log::error!("journal segment {path}/{name} cannot be read ({why}) and is skipped for now; the others are delivered: check the disk{more}"),
        }
    }

    /// The segment can be read again.
    pub(super) fn remove(&self, name: SegmentName) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&name) {
            log::warn!("journal segment {name} can be read again");
        }
    }

    /// Was it passed over when it was last tried?
    pub(super) fn contains(&self, name: SegmentName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&name)
    }

    /// How many were passed over.
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
