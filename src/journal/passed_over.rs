//! Files that bear the name of a segment and are none, and segments that cannot be read: each is named
//! once, with the cure, and the others are delivered.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Stat};

use super::{Dir, SEGMENT_LARGEST, SegmentName};

/// Most of them that are named: of a broken disk some are enough.
const NAMED: usize = 32;

/// The names of all of them.
#[derive(Default)]
pub(super) struct PassedOver(Mutex<HashSet<SegmentName>>);

/// Is a file no segment, and why?
pub(super) fn no_segment(stat: &Stat) -> Option<io::Error> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_size as u64 <= SEGMENT_LARGEST => return None,
        FileType::RegularFile => format!("a file of {} MiB", stat.st_size >> 20),
        FileType::Symlink => "a symbolic link".into(),
        FileType::Directory => "a directory".into(),
        FileType::Fifo => "a named pipe".into(),
        FileType::Socket => "a socket".into(),
        FileType::CharacterDevice | FileType::BlockDevice => "a device".into(),
        FileType::Unknown => "of an unknown type".into(),
    };
    Some(io::Error::new(io::ErrorKind::InvalidData, what))
}

impl Dir {
    /// What to do about an unreadable segment is logged once, across all processes forked later.
    pub fn pass_over(&self, name: SegmentName, why: &io::Error) {
        let mut names = self.0.passed_over.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.insert(name) || names.len() > NAMED {
            return;
        }
        let path = self.path().display();
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
            _ => log::error!("journal segment {path}/{name} cannot be read ({why}) and is skipped for now; the others are delivered: check the disk{more}"),
        }
    }

    /// The segment can be read again.
    pub(crate) fn is_read_again(&self, name: SegmentName) {
        if self.0.passed_over.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&name) {
            log::warn!("journal segment {name} can be read again");
        }
    }

    /// Was it passed over when it was last tried?
    pub(crate) fn is_passed_over(&self, name: SegmentName) -> bool {
        self.0.passed_over.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&name)
    }

    /// How many were passed over.
    pub fn passed_over(&self) -> usize {
        self.0.passed_over.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What the directory says about a file, if it is a segment.
    pub(super) fn stat_segment(&self, name: SegmentName) -> io::Result<Stat> {
        let stat = rustix::fs::statat(&self.0.fd, name.to_string(), AtFlags::SYMLINK_NOFOLLOW)?;
        match no_segment(&stat) {
            None => Ok(stat),
            Some(why) => Err(why),
        }
    }
}
