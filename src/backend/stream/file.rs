//! Lines in files that are rotated by time and size; no line is ever torn or written twice.
//!
//! Whatever goes wrong, even if the process dies, a new [`Writer`] looks at the end of the files: it cuts off an
//! incomplete line, and reads which records are there.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Local;
use rustix::fs::FlockOperation;

use super::body::Format;

/// How much of the end of the files is read: more than a batch can take, whose payload in the journal has at most 8 MiB
/// plus one entry, each byte of which takes at most six in JSON.
const LOOK_BACK: u64 = 160 << 20;

/// How many records at the end of the files are remembered at most; a batch has 5000.
const KNOWN_MAX: usize = 200_000;

/// Bytes read at once when looking for a line end.
const BLOCK: u64 = 64 << 10;

/// Mode of the files: for the server's user; its group may read.
const MODE: u32 = 0o640;

/// What may follow `%`, with the number of digits that it makes.
const TIMES: [(char, usize); 7] = [('Y', 4), ('m', 2), ('d', 2), ('j', 3), ('H', 2), ('M', 2), ('S', 2)];

/// Where lines go, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The directory.
    pub directory: PathBuf,
    /// Names of the files.
    pub name: Name,
    /// Format of a line.
    pub format: Format,
    /// A larger file gets no more lines.
    pub max_size: Option<u64>,
    /// Lines survive a power failure.
    pub sync: bool,
}

/// Names of files: they may contain a time, and from the second file of one time on, a number before the ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// In the format of strftime(3), without the ending.
    stem: String,
    /// With its dot.
    ending: &'static str,
}

/// A file of a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    /// When it was last written, in ns, and what tells files of one moment apart.
    modified: (i64, i64),
    stem: String,
    number: u64,
}

impl Name {
    /// Reads the last part of a path.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn read(name: &str) -> Result<Name, String> {
        let ending = [".jsonl", ".csv"].into_iter().find(|e| name.ends_with(e)).ok_or("the name of the file has to end with .jsonl or .csv")?;
        let stem = &name[..name.len() - ending.len()];
        if stem.is_empty() {
            return Err(format!("there is no name before {ending}: write cdr{ending}"));
        }
        let mut rest = stem.chars();
        while let Some(c) = rest.next() {
            if c == '%' && !rest.next().is_some_and(|c| c == '%' || TIMES.iter().any(|(t, _)| *t == c)) {
                return Err("% may only be followed by Y, m, d, j, H, M, S or %".into());
            }
        }
        Ok(Name { stem: stem.into(), ending })
    }

    /// Are its lines CSV?
    pub fn is_csv(&self) -> bool {
        self.ending == ".csv"
    }

    fn now(&self) -> String {
        Local::now().format(&self.stem).to_string()
    }

    fn file(&self, stem: &str, number: u64) -> String {
        if number == 0 { format!("{stem}{}", self.ending) } else { format!("{stem}.{number}{}", self.ending) }
    }

    /// The stem and number of a file's name, if it is one of these.
    fn parse<'a>(&self, file: &'a str) -> Option<(&'a str, u64)> {
        let name = file.strip_suffix(self.ending)?;
        let mut rest = name;
        let mut pattern = self.stem.chars();
        while let Some(c) = pattern.next() {
            let digits = if c == '%' { pattern.next().and_then(|t| TIMES.iter().find(|(of, _)| *of == t)).map(|(_, n)| *n) } else { None };
            rest = match digits {
                Some(n) => rest.split_at_checked(n).filter(|(d, _)| d.bytes().all(|b| b.is_ascii_digit()))?.1,
                None => rest.strip_prefix(c)?,
            };
        }
        let stem = &name[..name.len() - rest.len()];
        if rest.is_empty() {
            return Some((stem, 0));
        }
        let digits = rest.strip_prefix('.')?;
        let number = digits.parse().ok().filter(|n: &u64| *n > 0 && n.to_string() == digits)?;
        Some((stem, number))
    }
}

impl Target {
    fn path(&self, stem: &str, number: u64) -> PathBuf {
        self.directory.join(self.name.file(stem, number))
    }

    /// Existing files; the one that was written last is at the end.
    fn files(&self) -> io::Result<Vec<Found>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((stem, number)) = name.to_str().and_then(|n| self.name.parse(n)) else { continue };
            match entry.metadata() {
                Ok(m) if m.is_file() => all.push(Found { modified: (m.mtime(), m.mtime_nsec()), stem: stem.into(), number }),
                Ok(_) => {}
                // A collector may be removing it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        all.sort_unstable();
        Ok(all)
    }
}

/// Lines to be written, one after the other.
#[derive(Default)]
pub struct Lines {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Lines {
    /// Adds the line that `write` appends.
    pub fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }
}

/// Writes lines. Once it has failed, it must not be used again.
pub struct Writer {
    target: Arc<Target>,
    /// Records at the end of the files.
    known: HashSet<u128>,
    current: Option<Current>,
}

/// The file that lines go to.
struct Current {
    path: PathBuf,
    stem: String,
    number: u64,
    file: File,
}

impl Writer {
    /// Looks at the end of the files: cuts off a torn line, and reads what is there.
    ///
    /// # Errors
    /// One line with the cure.
    pub fn open(target: Arc<Target>) -> Result<Writer, String> {
        let mut writer = Writer { known: HashSet::new(), current: None, target };
        let files = writer.target.files().map_err(|e| said(&writer.target.directory, &e))?;
        let mut left = LOOK_BACK;
        for (i, found) in files.into_iter().rev().enumerate() {
            let path = writer.target.path(&found.stem, found.number);
            let looked = if i == 0 { writer.repair(&path) } else { File::open(&path) }.and_then(|file| writer.look_back(&file, left));
            let read = match looked {
                Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
                read => read.map_err(|e| said(&path, &e))?,
            };
            left = left.saturating_sub(read);
            if left == 0 || writer.known.len() >= KNOWN_MAX {
                break;
            }
        }
        Ok(writer)
    }

    /// Opens the file that was written last. No other file can have a torn line: a file is left only when all its lines are whole.
    fn repair(&self, path: &Path) -> io::Result<File> {
        let file = open(path, false)?;
        cut_torn(&file)?;
        if self.target.sync {
            // What an earlier process wrote may be in the page cache only.
            file.sync_data()?;
        }
        Ok(file)
    }

    /// Reads the end of a file; returns how much that was.
    fn look_back(&mut self, file: &File, most: u64) -> io::Result<u64> {
        let length = file.metadata()?.len();
        let begin = length.saturating_sub(most);
        let mut reader = BufReader::with_capacity(BLOCK as usize, file);
        reader.seek(SeekFrom::Start(begin))?;
        let mut reader = reader.take(length - begin);
        let mut line = Vec::new();
        // The first line may be cut: then it has no identity, unless it is whole.
        while reader.read_until(b'\n', &mut line)? > 0 {
            self.known.extend(self.target.format.id_of(&line));
            line.clear();
        }
        Ok(length - begin)
    }

    /// Is there a line of this record at the end of the files?
    pub fn has(&self, id: u128) -> bool {
        self.known.contains(&id)
    }

    /// Writes all lines, and syncs them when that is asked for.
    ///
    /// # Errors
    /// One line with the cure. Some lines may be there.
    pub fn write(&mut self, lines: &Lines) -> Result<(), String> {
        let mut begin = 0;
        let mut ends = lines.ends.as_slice();
        while !ends.is_empty() {
            let current = self.current()?;
            let path = current.path.clone();
            let length = current.file.metadata().map_err(|e| said(&path, &e))?.len();
            let header = self.target.format.header();
            let empty = header.len() as u64;
            let used = length.max(empty);
            let room = self.target.max_size.map_or(u64::MAX, |max| max.saturating_sub(used));
            let mut count = ends.partition_point(|end| (end - begin) as u64 <= room);
            if count == 0 && length > empty {
                self.rotate()?;
                continue;
            }
            // A line that is too long for any file gets a file of its own.
            count = count.max(1);
            let end = ends[count - 1];
            let header = if length == 0 { &header[..] } else { &[] };
            self.append(length, header, &lines.bytes, begin..end).map_err(|e| said(&path, &e))?;
            begin = end;
            ends = &ends[count..];
        }
        match &self.current {
            Some(current) if self.target.sync => current.file.sync_data().map_err(|e| said(&current.path, &e)),
            _ => Ok(()),
        }
    }

    fn append(&self, length: u64, header: &[u8], bytes: &[u8], range: Range<usize>) -> io::Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let mut file = &current.file;
        let written = if header.is_empty() { file.write_all(&bytes[range]) } else { file.write_all(&[header, &bytes[range]].concat()) };
        if written.is_err() {
            // Nobody should see half a line for long. If this fails as well, the next writer does it.
            let _ = file.set_len(length);
        }
        written
    }

    /// The file that is due now.
    fn current(&mut self) -> Result<&Current, String> {
        let stem = self.target.name.now();
        // Somebody may have moved or removed it.
        let stays = self.current.as_ref().is_some_and(|c| c.stem == stem && is_there(&c.path, &c.file));
        if !stays {
            if let Some(old) = self.current.take()
                && self.target.sync
            {
                old.file.sync_data().map_err(|e| said(&old.path, &e))?;
            }
            let files = self.target.files().map_err(|e| said(&self.target.directory, &e))?;
            let number = files.iter().filter(|f| f.stem == stem).map(|f| f.number).max().unwrap_or(0);
            return self.begin(stem, number);
        }
        self.current.as_ref().ok_or_else(String::new)
    }

    /// The next file of this time.
    fn rotate(&mut self) -> Result<(), String> {
        let Some(full) = self.current.take() else { return Ok(()) };
        if self.target.sync {
            full.file.sync_data().map_err(|e| said(&full.path, &e))?;
        }
        self.begin(full.stem, full.number + 1).map(drop)
    }

    fn begin(&mut self, stem: String, number: u64) -> Result<&Current, String> {
        let path = self.target.path(&stem, number);
        let opened = open(&path, true).and_then(|file| {
            cut_torn(&file)?;
            if self.target.sync {
                // Its name has to survive a power failure as well.
                File::open(&self.target.directory)?.sync_all()?;
            }
            Ok(file)
        });
        let file = opened.map_err(|e| said(&path, &e))?;
        Ok(self.current.insert(Current { path, stem, number, file }))
    }
}

/// Opens a file to append lines, and locks it against other writers.
fn open(path: &Path, make: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Opening a named pipe must not make the thread wait for a reader.
    options.read(true).append(true).mode(MODE).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    let file = match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && make => {
            let file = options.create_new(true).open(path)?;
            // Its group may read, regardless of the server's umask.
            file.set_permissions(Permissions::from_mode(MODE))?;
            file
        }
        opened => opened?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process writes it: give each server a file of its own")),
        locked => Ok(locked.map(|()| file)?),
    }
}

/// Cuts off what follows the last line end.
fn cut_torn(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut block = vec![0; BLOCK as usize];
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        let block = &mut block[..(end - begin) as usize];
        file.read_exact_at(block, begin)?;
        if let Some(at) = block.iter().rposition(|b| *b == b'\n') {
            end = begin + at as u64 + 1;
            break;
        }
        end = begin;
    }
    if end < length { file.set_len(end) } else { Ok(()) }
}

fn is_there(path: &Path, file: &File) -> bool {
    let same = std::fs::metadata(path).and_then(|there| file.metadata().map(|own| (there.dev(), there.ino()) == (own.dev(), own.ino())));
    same.unwrap_or(false)
}

fn said(path: &Path, e: &io::Error) -> String {
    format!("stream_url: {} cannot be written ({e}): it needs its directory, space, and permissions for the server's user", path.display())
}
