//! The directory of a journal: its lock, its numbers, and its files.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use once_cell::sync::OnceCell;
use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::frame;
use super::passed_over::PassedOver;
use super::reader::Reader;
use super::segment::{Segment, SegmentName, why_not_a_segment};
use crate::accounting::clock::{Moment, Wall};

/// How long [`Dir::open`] waits for the previous server to release the directory: it drains for up to 2 s
/// after SIGTERM, and a restart must not fail because of that.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Pause between two tries for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Why a journal directory cannot be used. The text names the parameter and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It is missing and cannot be made.
    #[error("journal_dir \"{path}\" cannot be created ({source}): create it, owned by the user the server runs as, mode 0700")]
    Create {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It cannot be opened, or is a symbolic link.
    #[error("journal_dir \"{path}\" cannot be opened ({source}): it must be a directory itself, not a symbolic link")]
    Open {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file cannot be made in it.
    #[error("journal_dir \"{path}\" is not writable ({source}): give it to the user the server runs as, mode 0700")]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Its file `id` cannot be used.
    #[error(
        "the file {ID} in journal_dir \"{path}\" cannot be used ({source}): without it the database would get records of this journal a second time. \
         Give it back to the user the server runs as, or write it again from the column journal of the table acc_delivery; \
         remove it only when no segments are left in the directory"
    )]
    Id {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Another running server holds it.
    #[error("another server uses journal_dir \"{path}\": stop it, or give each server a directory of its own")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

pub(super) struct Inner {
    path: PathBuf,
    pub(super) fd: OwnedFd,
    /// Held open, and so locked, as long as the server or one of its children lives.
    lock: Option<OwnedFd>,
    boot: u64,
    id: u64,
    passed_over: PassedOver,
    /// The user and group that the server will run as.
    pub(super) later: OnceCell<(Option<Uid>, Option<Gid>)>,
}

/// An open journal directory. Clones share it; forked children inherit it.
#[derive(Clone)]
pub struct Dir(pub(super) Arc<Inner>);

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dir").field("path", &self.0.path).field("boot", &self.0.boot).finish()
    }
}

impl Dir {
    /// Opens the directory for this server, before the fork: creates it (mode 0700) if it is missing,
    /// and takes its lock for all processes forked later, waiting up to 5 s for a server that is
    /// just ending.
    pub fn open(path: &Path) -> Result<Dir, JournalError> {
        let not_writable = |source: io::Error| JournalError::NotWritable { path: path.into(), source };
        let fd = match open_dir(path) {
            Err(e) if e == Errno::NOENT => {
                DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| JournalError::Create { path: path.into(), source })?;
                open_dir(path)
            }
            other => other,
        }
        .map_err(|e| JournalError::Open { path: path.into(), source: e.into() })?;
        let lock: OwnedFd = open_at(&fd, LOCK, OFlags::RDWR | OFlags::CREATE).map_err(|e| not_writable(e.into()))?.into();
        let give_up = Instant::now() + LOCK_WAIT;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < give_up => std::thread::sleep(LOCK_RETRY),
                Err(Errno::WOULDBLOCK) => return Err(JournalError::InUse { path: path.into() }),
                Err(e) => return Err(not_writable(e.into())),
            }
        }
        let mode = rustix::fs::fstat(&fd).map_err(|e| not_writable(e.into()))?.st_mode;
        if mode & 0o022 != 0 {
            log::warn!("journal_dir \"{}\" can be written by others (mode {:03o}): make it 0700", path.display(), mode & 0o777);
        }
        let unusable = |source| JournalError::Id { path: path.into(), source };
        let id = match stored_id(&fd).map_err(unusable)? {
            Some(id) => id,
            None if newest_segment(&fd).map_err(not_writable)?.is_some() => {
                return Err(unusable(io::Error::new(io::ErrorKind::NotFound, "it is missing, and there are segments")));
            }
            None => new_id(&fd).map_err(not_writable)?,
        };
        let boot = boot_id(last_start(&fd).map_err(not_writable)?);
        let start = open_at(&fd, START, OFlags::WRONLY | OFlags::CREATE).map_err(|e| not_writable(e.into()))?;
        // In place, which works on a full disk. Without this file the segments still tell; only a clock that is set back while there are none goes unnoticed.
        if let Err(e) = rustix::io::pwrite(&start, format!("{boot:016x}\n").as_bytes(), 0) {
            log::warn!("the file {START} in journal_dir \"{}\" cannot be written: {e}", path.display());
        }
        Ok(Dir(Arc::new(Inner { path: path.into(), fd, lock: Some(lock), boot, id, passed_over: PassedOver::default(), later: OnceCell::new() })))
    }

    /// Opens the directory for reading only, while a server may be using it: takes no lock, creates nothing.
    pub fn open_to_read(path: &Path) -> Result<Dir, JournalError> {
        let fd = open_dir(path).map_err(|e| JournalError::Open { path: path.into(), source: e.into() })?;
        let id = stored_id(&fd).ok().flatten().unwrap_or(0);
        let last = last_start(&fd).map_err(|source| JournalError::Open { path: path.into(), source })?;
        Ok(Dir(Arc::new(Inner { path: path.into(), fd, lock: None, boot: boot_id(last), id, passed_over: PassedOver::default(), later: OnceCell::new() })))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Number of this start of the server: unique, and larger than earlier ones even if the machine's clock
    /// was set back.
    pub fn boot(&self) -> u64 {
        self.0.boot
    }

    /// Number of this journal, made at random when the directory is first used.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The segments, oldest server start first.
    pub fn segments(&self) -> io::Result<Vec<Segment>> {
        self.segments_after(&[])
    }

    /// [`Dir::segments`], given an earlier result: what was sealed then has not changed.
    pub fn segments_after(&self, before: &[Segment]) -> io::Result<Vec<Segment>> {
        let known = |name| before.binary_search_by_key(&name, |s| s.name).ok().map(|at| before[at]).filter(|s| s.sealed);
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0.fd)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().ok().and_then(|s| s.parse::<SegmentName>().ok()) else { continue };
            match known(name).map_or_else(|| self.look_at(name), Ok) {
                Ok(segment) => found.push(segment),
                // Removed since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    self.pass_over(name, &e);
                    // A file that may be a segment still exists: how far it was delivered must not be forgotten.
                    if e.kind() != io::ErrorKind::InvalidData {
                        found.push(Segment { name, size: self.stat_segment(name).map_or(0, |stat| stat.st_size as u64), sealed: false });
                    }
                }
            }
        }
        found.sort_by_key(|s| s.name);
        Ok(found)
    }

    /// Leaves a sign of life of the server: without traffic, the last entry may be old when it ends. It is written
    /// to the lock file, which is this server's, in place, which works on a full disk.
    pub(crate) fn still_alive(&self) -> io::Result<()> {
        let Some(lock) = &self.0.lock else { return Ok(()) };
        rustix::io::pwrite(lock, sign_of_life(self.0.boot, Moment::now()).as_bytes(), 0).map(drop).map_err(Into::into)
    }

    /// The last sign of life of a server, and its start.
    pub(crate) fn last_alive(&self) -> Option<(u64, Moment)> {
        read_sign_of_life(&read_small(&self.0.fd, LOCK).ok()?)
    }

    /// The last signs of life of earlier servers, by their starts, as far as [`Dir::keep_ends`] kept them.
    pub(super) fn ends(&self) -> BTreeMap<u64, Moment> {
        let content = self.content(ENDS).unwrap_or_default();
        String::from_utf8_lossy(&content).lines().filter_map(read_sign_of_life).collect()
    }

    /// Keeps the last signs of life of earlier servers whose calls are still open. The one in the lock file is lost with the first
    /// sign of life of this server; yet a call that is still unclaimed when this server stops has ended with its own server.
    pub(crate) fn keep_ends(&self, ends: &BTreeMap<u64, Moment>) -> io::Result<()> {
        if *ends == self.ends() {
            return Ok(());
        }
        let text: String = ends.iter().map(|(start, last)| sign_of_life(*start, *last)).collect();
        let (temporary, file) = self.temporary(ENDS, &text)?;
        file.sync_all()?;
        self.hand_over(&file.into())?;
        self.rename(&temporary, ENDS)?;
        self.sync()
    }

    /// Bytes that may still be written to the disk of the directory by its user.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.0.fd)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// When a segment was last appended to, in ns since 1970.
    pub(crate) fn modified(&self, name: SegmentName) -> io::Result<i64> {
        let stat = rustix::fs::statat(&self.0.fd, name.to_string(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec as i64)
    }

    fn look_at(&self, name: SegmentName) -> io::Result<Segment> {
        if self.0.lock.is_some() && name.boot < self.0.boot {
            // From an earlier start: we have that server's lock, so its writers are gone.
            return Ok(Segment { name, size: self.stat_segment(name)?.st_size as u64, sealed: true });
        }
        let file = self.open_segment(name)?;
        // A writer locks its segment before it writes the header, and releases the lock only by
        // closing it or dying. So a segment that has its header and can be locked has no writer.
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err();
        let size = file.metadata()?.len();
        Ok(Segment { name, size, sealed: !locked && size >= frame::HEADER.len() as u64 })
    }

    /// What to do about an unreadable segment is logged once in a process.
    pub fn pass_over(&self, name: SegmentName, why: &io::Error) {
        self.0.passed_over.add(self.path(), name, why);
    }

    /// The segment can be read again.
    pub(crate) fn is_read_again(&self, name: SegmentName) {
        self.0.passed_over.remove(name);
    }

    /// Was it passed over when it was last tried?
    pub(crate) fn is_passed_over(&self, name: SegmentName) -> bool {
        self.0.passed_over.contains(name)
    }

    /// How many were passed over.
    pub fn passed_over(&self) -> usize {
        self.0.passed_over.len()
    }

    /// The directory's data about a file, if it is a segment.
    pub(super) fn stat_segment(&self, name: SegmentName) -> io::Result<Stat> {
        let stat = rustix::fs::statat(&self.0.fd, name.to_string(), AtFlags::SYMLINK_NOFOLLOW)?;
        match why_not_a_segment(&stat) {
            None => Ok(stat),
            Some(why) => Err(why),
        }
    }

    /// Opens a segment. Anything else with such a name is an error of the kind `InvalidData`.
    pub(crate) fn open_segment(&self, name: SegmentName) -> io::Result<File> {
        match open_at(&self.0.fd, &name.to_string(), OFlags::RDONLY) {
            Ok(file) => match why_not_a_segment(&rustix::fs::fstat(&file)?) {
                None => Ok(file),
                Some(why) => Err(why),
            },
            // A link and a socket cannot be opened at all.
            Err(e) => Err(self.stat_segment(name).err().unwrap_or_else(|| e.into())),
        }
    }

    /// Opens a regular file of the directory; never through a symbolic link.
    pub(crate) fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let file = open_at(&self.0.fd, name, flags)?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is not a regular file: remove it"))) }
    }

    /// Is `name` the name of this open file?
    pub(crate) fn is_named(&self, name: &str, file: &File) -> io::Result<bool> {
        let of_file = rustix::fs::fstat(file)?;
        match rustix::fs::statat(&self.0.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(of_name) => Ok((of_name.st_dev, of_name.st_ino) == (of_file.st_dev, of_file.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Starts reading a segment at a byte offset (0 = its beginning).
    pub fn read(&self, name: SegmentName, offset: u64) -> io::Result<Reader> {
        Ok(Reader::new(self.open_segment(name)?, offset))
    }

    /// Keeps bytes of a segment that are not an entry in a `.bad` file, into which `copy` writes them. Returns
    /// whether this is new: every sink meets the same damage.
    pub(crate) fn keep_aside(&self, name: SegmentName, offset: u64, copy: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<bool> {
        let file_name = name.to_string().replace(".seg", &format!("-{offset}.bad"));
        match rustix::fs::statat(&self.0.fd, &file_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(false),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        // It gets its name only when it is complete: the disk may be full, or the process may die.
        let temporary = format!("{file_name}.new");
        let mut file = self.open_file(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        copy(&mut file)?;
        file.sync_data()?;
        self.rename(&temporary, &file_name)?;
        Ok(true)
    }

    /// Removes a segment for good.
    pub(crate) fn remove(&self, name: SegmentName) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0.fd, name.to_string(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The size of a segment.
    pub(crate) fn size(&self, name: SegmentName) -> io::Result<u64> {
        Ok(self.stat_segment(name)?.st_size as u64)
    }

    /// Makes the creations, removals and renames so far survive a crash of the machine.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0.fd)?)
    }

    /// A directory in it.
    pub(super) fn directory(&self, name: &str) -> io::Result<Dir> {
        let fd = rustix::fs::openat(&self.0.fd, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let inner = Inner {
            path: self.0.path.join(name),
            fd,
            lock: None,
            boot: self.0.boot,
            id: self.0.id,
            passed_over: PassedOver::default(),
            later: OnceCell::new(),
        };
        Ok(Dir(Arc::new(inner)))
    }

    /// Renames a file, replacing any file with the new name.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0.fd, from, &self.0.fd, to)?)
    }

    /// Replaces a small file as a whole.
    ///
    /// Not synced: such files say what need not be repeated; if one is lost, something is repeated and nothing is lost.
    pub(crate) fn replace(&self, name: &str, content: &str) -> io::Result<()> {
        let (temporary, _) = self.temporary(name, content)?;
        self.rename(&temporary, name)
    }

    /// Writes a file with this content that is to get this name; returns it with its temporary name.
    fn temporary(&self, name: &str, content: &str) -> io::Result<(String, File)> {
        let temporary = format!("{name}.new");
        let mut file = self.open_file(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        file.write_all(content.as_bytes())?;
        Ok((temporary, file))
    }

    /// Content of a small file; empty when it does not exist.
    pub fn content(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        match self.open_file(name, OFlags::RDONLY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            file => drop(file?.read_to_end(&mut content)?),
        }
        Ok(content)
    }
}

/// Frees the room of a file that was removed, also if its writer still has it open: it may never come back to notice.
/// A file that has another name stays as it is.
pub(crate) fn free_removed(file: &File) {
    if rustix::fs::fstat(file).is_ok_and(|stat| stat.st_nlink == 0) {
        // At worst, the room is free when the writer ends.
        let _ = file.set_len(0);
    }
}

/// Name of the file with the number of the journal.
const ID: &str = "id";
/// Name of the lock file.
pub(super) const LOCK: &str = "lock";
/// Name of the file with the number of the last start.
const START: &str = "start";
/// Name of the file with the last signs of life of earlier servers.
const ENDS: &str = "ends";
/// Accounting data is for the server alone.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);

/// Opens a file of a directory: never through a symbolic link, and without waiting for the other end of a
/// named pipe.
pub(super) fn open_at(dir: &OwnedFd, name: &str, flags: OFlags) -> Result<File, Errno> {
    Ok(rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, FILE_MODE)?.into())
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn read_small(dir: &OwnedFd, name: &str) -> io::Result<String> {
    let mut file = open_at(dir, name, OFlags::RDONLY)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// A sign of life of the server with this start, as a line.
fn sign_of_life(start: u64, at: Moment) -> String {
    format!("{start:016x} {:016x} {:016x} {:016x}\n", at.mono, at.wall.0, at.boot)
}

fn read_sign_of_life(line: &str) -> Option<(u64, Moment)> {
    let mut numbers = line.split_whitespace().map(|n| u64::from_str_radix(n, 16).ok());
    let mut next = || numbers.next().flatten();
    let (start, mono, wall, boot) = (next()?, next()?, next()?, next()?);
    Some((start, Moment { wall: Wall(wall as i64), mono: mono as i64, boot }))
}

/// Microseconds since 1970, but at least one more than in `last`, above 12 bits of the process id: it grows
/// from start to start, and two servers started in the same microsecond still differ.
fn boot_id(last: u64) -> u64 {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
    micros.max((last >> 12) + 1).min(u64::MAX >> 12) << 12 | u64::from(std::process::id() & 0xfff)
}

/// The largest number of any earlier start, according to its file and the segments.
fn last_start(dir: &OwnedFd) -> io::Result<u64> {
    let last = read_small(dir, START).ok().and_then(|s| u64::from_str_radix(s.trim(), 16).ok()).unwrap_or(0);
    Ok(last.max(newest_segment(dir)?.unwrap_or(0)))
}

/// The largest number of a start that a segment is from; `None` if there is no segment.
fn newest_segment(dir: &OwnedFd) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in rustix::fs::Dir::read_from(dir)? {
        if let Some(name) = entry?.file_name().to_str().ok().and_then(|s| s.parse::<SegmentName>().ok()) {
            newest = newest.max(Some(name.boot));
        }
    }
    Ok(newest)
}

/// The number of the journal; `None` if it has none yet.
fn stored_id(dir: &OwnedFd) -> io::Result<Option<u64>> {
    let text = match read_small(dir, ID) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if text.is_empty() {
        return Ok(None);
    }
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    if text.trim().len() == 16 { u64::from_str_radix(text.trim(), 16).map(Some).map_err(|_| damaged()) } else { Err(damaged()) }
}

/// Gives the journal a number. The file never contains a part of one.
fn new_id(dir: &OwnedFd) -> io::Result<u64> {
    let id = random();
    let temporary = format!("{ID}.new");
    let mut file = open_at(dir, &temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
    writeln!(file, "{id:016x}")?;
    file.sync_all()?;
    rustix::fs::renameat(dir, &temporary, dir, ID)?;
    // With another id the database would treat the records it already has as new.
    rustix::fs::fsync(dir)?;
    Ok(id)
}

/// An unpredictable number, from the random keys of the standard library's maps.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u64(boot_id(0));
    hasher.finish()
}
