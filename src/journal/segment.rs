//! Names of segments, and which files with such a name are not segments.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::str::FromStr;

use rustix::fs::{FileType, Stat};

use super::frame::FRAME_MAX;
use crate::accounting::identity::Identity;
use crate::declaration::SinkId;
use crate::interprocess::Pen;

/// Maximum size of a segment in bytes: the largest write into an empty one. A larger file is not a segment.
pub(crate) const SEGMENT_LARGEST: u64 = 8 * FRAME_MAX as u64;

/// Used in place of the host's process number in the names of segments that `accctl requeue` writes.
pub const REQUEUE_RANK: i32 = -1;

/// Used in place of the host's process number in the names of segments of parked entries: this minus the
/// number of the destination.
pub const PARKED_RANK: i32 = -16;

/// Name of a segment. Names sort by start of the server, so that older entries come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentName {
    /// Start of the server, see [`Dir::boot`].
    pub boot: u64,
    /// The host's number of the process.
    pub rank: i32,
    /// Process id.
    pub pid: u32,
    /// Counts the segments of one writer.
    pub seq: u32,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}-{}-{:08}.seg", self.boot, self.rank, self.pid, self.seq)
    }
}

impl SegmentName {
    /// The sink whose parked entries it holds, if it is such a segment.
    pub fn parks_for(&self) -> Option<SinkId> {
        let number = PARKED_RANK.checked_sub(self.rank)?;
        SinkId::from_number(u8::try_from(number).ok()?)
    }
}

impl SegmentName {
    /// Stands for it in a [`Pen`]: a hash, which two segments of a server do not share in practice.
    pub(crate) fn mark(self) -> u64 {
        let mut identity = Identity::new();
        for part in [self.boot, self.rank as u64, self.pid.into(), self.seq.into()] {
            identity.eat(&part.to_le_bytes());
        }
        (identity.finish() as u64 & !Pen::STATE).max(Pen::STATE + 1)
    }
}

impl FromStr for SegmentName {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let stem = s.strip_suffix(".seg").ok_or(())?;
        let (boot, rest) = stem.split_at_checked(16).ok_or(())?;
        let rest = rest.strip_prefix('-').ok_or(())?;
        // From the right, because a rank may be negative.
        let mut parts = rest.rsplitn(3, '-');
        let (seq, pid, rank) = (parts.next().ok_or(())?, parts.next().ok_or(())?, parts.next().ok_or(())?);
        let name = SegmentName {
            boot: u64::from_str_radix(boot, 16).map_err(drop)?,
            rank: rank.parse().map_err(drop)?,
            pid: pid.parse().map_err(drop)?,
            seq: seq.parse().map_err(drop)?,
        };
        // Only the spelling that Display makes: one file, one name.
        if name.to_string() == s { Ok(name) } else { Err(()) }
    }
}

/// A segment found in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub name: SegmentName,
    /// Bytes at the time of the scan.
    pub size: u64,
    /// Nothing more will be appended: a reader that reaches the end now has read all of it.
    pub sealed: bool,
}

/// Why a file cannot be a segment; `None` if it can.
pub(super) fn why_not_a_segment(stat: &Stat) -> Option<io::Error> {
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
