//! Who may read an SQLite file.
#![forbid(unsafe_code)]

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// For the owner alone.
const OWNER: u32 = 0o600;
/// And for its group.
const GROUP: u32 = 0o640;
/// A directory with this bit gives its group to what is made in it.
const SET_GROUP_ID: u32 = 0o2000;

/// Makes a file that is not there for its owner alone, before SQLite makes it for everybody; in a
/// directory that hands on its group, for that group, too. SQLite gives the files beside it the mode of
/// this one. What is wrong SQLite says.
pub fn make(path: &Path) {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = if directory.metadata().is_ok_and(|d| d.mode() & SET_GROUP_ID != 0) { GROUP } else { OWNER };
    if let Ok(file) = OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        // Whatever the umask says.
        let _ = file.set_permissions(Permissions::from_mode(mode));
    }
}
