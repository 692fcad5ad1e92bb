//! The journal directory that a command works on.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use acc::declaration::default_of;
use acc::journal::{Dir, Item, SegmentName};
use clap::Args;
use rustix::process::geteuid;

use crate::params::{Given, Params};
use crate::progress::Bar;

/// Which journal.
#[derive(Args)]
pub struct Place {
    /// The journal_dir of the server; not needed with --config or --set journal_dir=DIR
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Which journal, for commands that need no other parameter.
#[derive(Args)]
pub struct PlaceOnly {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    params: Params,
}

impl Place {
    /// Its path. The default is used only with a configuration: otherwise nobody may have meant that journal.
    pub fn path(&self, given: &Given) -> Result<PathBuf, String> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        let path = given.draft.journal_dir().or_else(|| given.of_a_server.then(|| default_of("journal_dir").into()));
        let path: PathBuf = path.ok_or("no journal directory given: name the server's journal_dir, or give --config FILE")?;
        given.absolute("journal_dir", &path)?;
        Ok(path)
    }
}

impl PlaceOnly {
    fn path(&self) -> Result<PathBuf, String> {
        self.place.path(&self.params.read([])?)
    }

    /// Opens the directory for reading.
    pub fn open(&self) -> Result<Dir, String> {
        Dir::open_to_read(&self.path()?).map_err(|e| e.to_string())
    }

    /// Opens the directory for a command that creates files in it.
    pub fn open_to_write(&self) -> Result<Dir, String> {
        open_to_write(&self.path()?)
    }
}

/// Opens the directory for a command that creates files in it, which the server must be able to read.
pub fn open_to_write(path: &std::path::Path) -> Result<Dir, String> {
    let dir = Dir::open_to_read(path).map_err(|e| e.to_string())?;
    let path = dir.path().display();
    match dir.owner().map_err(|e| format!("{path}: {e}"))? {
        Some(owner) if owner != geteuid().as_raw() => Err(match user_name(owner) {
            Some(name) => format!("the files in {path} belong to the user {name}: run accctl as that user, as in: runuser -u {name} -- accctl ..."),
            None => format!("the files in {path} belong to the user ID {owner}: run accctl as that user"),
        }),
        _ => Ok(dir),
    }
}

/// Name of a user on this machine.
fn user_name(number: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut users = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    users.find(|user| user.get(2).is_some_and(|n| *n == number.to_string())).map(|user| user[0].to_string())
}

/// Calls `each` for every item of every segment. An incomplete entry that others follow is damage.
pub fn walk(dir: &Dir, mut each: impl FnMut(SegmentName, &Item<'_>)) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.path().display());
    let segments = dir.segments().map_err(failed)?;
    let bar = Bar::bytes(segments.iter().map(|s| s.size).sum());
    let mut before = 0;
    for segment in segments {
        let mut reader = match dir.read(segment.name, 0) {
            // It was delivered and removed meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                dir.pass_over(segment.name, &e);
                continue;
            }
            Ok(reader) => reader,
        };
        loop {
            match reader.read() {
                Ok(Item::Torn { offset, end }) => {
                    let is_damaged = segment.sealed && reader.hides_frames(offset, end).unwrap_or(false);
                    each(segment.name, &if is_damaged { Item::Corrupt { offset, end } } else { Item::Torn { offset, end } });
                    break;
                }
                Ok(item) => {
                    if let Item::Frame(frame) = &item {
                        bar.set(before + frame.end);
                    }
                    each(segment.name, &item);
                    if matches!(item, Item::End) {
                        break;
                    }
                }
                Err(e) => {
                    dir.pass_over(segment.name, &e);
                    break;
                }
            }
        }
        before += segment.size;
    }
    Ok(())
}
