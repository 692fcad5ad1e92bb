//! Segments that every destination has passed and that are kept for a while (parameter `journal_keep`): a
//! database that is restored from a backup needs them again.
//!
//! They are in the directory `kept`, where nothing else looks at them: their calls in progress were carried
//! over as if they had been removed. The file time of a segment there is when the database last passed it.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use super::dir::{Dir, free_removed, open_at};
use super::reader::Reader;
use super::segment::{Segment, SegmentName, why_not_a_segment};
use crate::accounting::clock::Wall;

/// Name of the directory.
pub(super) const DIRECTORY: &str = "kept";
/// Name of the file that says up to which time segments are gone.
const GONE: &str = "gone";
/// Name of a file that is moved as a test.
const TRIAL: &str = "trial";

/// A segment that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The segment.
    pub segment: Segment,
    /// When the database had passed it.
    pub passed: Wall,
}

fn changed(stat: &Stat) -> Wall {
    Wall(stat.st_mtime * 1_000_000 + stat.st_mtime_nsec / 1000)
}

const NOW: Timestamps = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }, last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW } };

impl Dir {
    /// The directory of kept segments; `None` if it does not exist yet.
    pub(super) fn kept_directory(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0.fd, DIRECTORY, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(e @ (Errno::NOTDIR | Errno::LOOP)) => Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{e}: remove whatever has that name"))),
            Err(e) => Err(e.into()),
        }
    }

    /// The segments that are kept, oldest server start first.
    pub fn kept(&self) -> io::Result<Vec<Kept>> {
        let mut found = Vec::new();
        let Some(directory) = self.kept_directory()? else { return Ok(found) };
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().ok().and_then(|s| s.parse::<SegmentName>().ok()) else { continue };
            let stat = match rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            if let Some(e) = why_not_a_segment(&stat) {
                self.pass_over(name, &e);
                continue;
            }
            found.push(Kept { segment: Segment { name, size: stat.st_size as u64, sealed: true }, passed: changed(&stat) });
        }
        found.sort_by_key(|kept| kept.segment.name);
        Ok(found)
    }

    fn make_kept_directory(&self) -> io::Result<OwnedFd> {
        if let Some(directory) = self.kept_directory()? {
            return Ok(directory);
        }
        rustix::fs::mkdirat(&self.0.fd, DIRECTORY, Mode::from_raw_mode(0o700))?;
        Ok(self.kept_directory()?.ok_or(io::ErrorKind::NotFound)?)
    }

    /// Can segments be moved there? Tries it with an empty file: that reveals a mount point.
    pub(crate) fn try_to_keep(&self) -> io::Result<()> {
        let directory = self.make_kept_directory()?;
        open_at(&self.0.fd, TRIAL, OFlags::WRONLY | OFlags::CREATE)?;
        let moved = rustix::fs::renameat(&self.0.fd, TRIAL, &directory, TRIAL);
        let at = if moved.is_ok() { directory.as_fd() } else { self.0.fd.as_fd() };
        rustix::fs::unlinkat(at, TRIAL, AtFlags::empty())?;
        Ok(moved?)
    }

    /// Moves a segment that every sink has passed to the kept ones.
    pub(crate) fn keep(&self, name: SegmentName) -> io::Result<Kept> {
        let directory = self.make_kept_directory()?;
        let file = name.to_string();
        rustix::fs::utimensat(&self.0.fd, &file, &NOW, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::renameat(&self.0.fd, &file, &directory, &file)?;
        let stat = rustix::fs::statat(&directory, &file, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Kept { segment: Segment { name, size: stat.st_size as u64, sealed: true }, passed: changed(&stat) })
    }

    /// The database has passed entries of a kept segment again.
    pub(crate) fn keep_longer(&self, name: SegmentName) -> io::Result<()> {
        match self.kept_directory()? {
            Some(directory) => Ok(rustix::fs::utimensat(&directory, name.to_string(), &NOW, AtFlags::SYMLINK_NOFOLLOW)?),
            None => Ok(()),
        }
    }

    /// Sets the time of a file to now.
    pub(super) fn touch(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.0.fd, name, &NOW, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Removes a kept segment for good.
    pub(crate) fn remove_kept(&self, name: SegmentName) -> io::Result<()> {
        let Some(directory) = self.kept_directory()? else { return Ok(()) };
        // Its writer may still have it open, if the delivery process has closed it.
        let file = (name.boot == self.boot()).then(|| open_at(&directory, &name.to_string(), OFlags::WRONLY).ok()).flatten();
        match rustix::fs::unlinkat(&directory, name.to_string(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {
                file.iter().for_each(free_removed);
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Makes moves and removals survive a crash of the machine.
    pub(crate) fn sync_kept(&self) -> io::Result<()> {
        match self.kept_directory()? {
            Some(directory) => Ok(rustix::fs::fsync(directory)?),
            None => Ok(()),
        }
    }

    /// Starts reading a segment at a byte offset; it may be a kept one.
    pub fn read_also_kept(&self, name: SegmentName, offset: u64) -> io::Result<Reader> {
        match self.read(name, offset) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let directory = self.kept_directory().ok().flatten().ok_or(e)?;
                let file: File = open_at(&directory, &name.to_string(), OFlags::RDONLY)?;
                match why_not_a_segment(&rustix::fs::fstat(&file)?) {
                    None => Ok(Reader::new(file, offset)),
                    Some(why) => Err(why),
                }
            }
            other => other,
        }
    }

    /// Segments that the database had passed by this time are gone: a database older than that cannot be
    /// filled up. `None`: nothing has been removed.
    pub fn gone_until(&self) -> io::Result<Option<Wall>> {
        Ok(String::from_utf8_lossy(&self.content(GONE)?).trim().parse().ok().map(Wall))
    }

    /// A segment that the database had passed at this time is removed.
    pub(crate) fn set_gone_until(&self, passed: Wall) -> io::Result<()> {
        self.replace(GONE, &format!("{}\n", passed.0))
    }
}
