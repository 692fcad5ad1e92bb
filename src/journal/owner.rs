//! The user who owns the files of a journal.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Gid, Uid};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::dir::{Dir, LOCK};
use super::kept::Kept;

impl Dir {
    /// Gives the directory and all its files to the user and group (0 = leave) that the server will
    /// run as: it is opened before the server drops its privileges.
    pub fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        let (user, group) = *self.0.later.get_or_init(|| ((uid != 0).then(|| Uid::from_raw(uid)), (gid != 0).then(|| Gid::from_raw(gid))));
        rustix::fs::fchown(&self.0.fd, user, group)?;
        for entry in rustix::fs::Dir::read_from(&self.0.fd)? {
            let entry = entry?;
            if entry.file_type() == rustix::fs::FileType::RegularFile {
                rustix::fs::chownat(&self.0.fd, entry.file_name(), user, group, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        if let Some(kept) = self.kept_directory()? {
            rustix::fs::fchown(&kept, user, group)?;
            for Kept { segment, .. } in self.kept()? {
                rustix::fs::chownat(&kept, segment.name.to_string(), user, group, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(())
    }

    /// Gives a new file to the user that the server will run as: it may be created before the server drops its privileges.
    pub(crate) fn hand_over(&self, file: &OwnedFd) -> io::Result<()> {
        match self.0.later.get() {
            Some((user, group)) if geteuid().is_root() => Ok(rustix::fs::fchown(file, *user, *group)?),
            _ => Ok(()),
        }
    }

    /// ID of the user who owns these files, who is also the server's user; `None` if no server has used the
    /// directory yet.
    pub fn owner(&self) -> io::Result<Option<u32>> {
        match rustix::fs::statat(&self.0.fd, LOCK, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_uid)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
