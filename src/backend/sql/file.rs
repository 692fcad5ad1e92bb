//! The file of an SQLite database: who may read it, and how it is written.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// For the owner alone.
const OWNER: u32 = 0o600;
/// For its group as well.
const GROUP: u32 = 0o640;
/// A directory with this bit gives its group to what is made in it.
const SET_GROUP_ID: u32 = 0o2000;

/// Where the header of a file says how it is written, and what says "by write-ahead logging"
/// (<https://www.sqlite.org/fileformat2.html>).
const WRITTEN: (u64, [u8; 2]) = (18, [2, 2]);

/// Does the file say that a write-ahead log belongs to it?
pub fn has_write_ahead_log(path: &Path) -> bool {
    let mut how = [0; 2];
    File::open(path).and_then(|file| file.read_exact_at(&mut how, WRITTEN.0)).is_ok() && how == WRITTEN.1
}

/// Is that log there? It is as long as anybody has the file open, and after a crash.
pub fn is_write_ahead_log_there(path: &Path) -> bool {
    let mut log = path.as_os_str().to_os_string();
    log.push("-wal");
    Path::new(&log).exists()
}

/// Creates a missing file for its owner alone, before SQLite creates it for everybody; in a directory that
/// passes on its group, also for that group. SQLite gives the files beside it the same mode. Errors are
/// left to SQLite to report.
pub fn make(path: &Path) {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = if directory.metadata().is_ok_and(|d| d.mode() & SET_GROUP_ID != 0) { GROUP } else { OWNER };
    if let Ok(file) = OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        // Regardless of the umask.
        let _ = file.set_permissions(Permissions::from_mode(mode));
    }
}
