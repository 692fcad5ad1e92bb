//! Who may read an SQLite file.
#![forbid(unsafe_code)]

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// For the owner alone.
const OWNER: u32 = 0o600;
/// For its group as well.
const GROUP: u32 = 0o640;
/// A directory with this bit gives its group to what is made in it.
const SET_GROUP_ID: u32 = 0o2000;

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
