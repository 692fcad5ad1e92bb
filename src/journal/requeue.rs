//! Puts dead letters back for delivery: each once, even if a run is stopped at any point.
//!
//! The file with the letters gets the name `requeueing-SINK-BOOT.jsonl`. Its entries are written to segments in a directory
//! `requeueing-SINK-BOOT`, where nobody else looks. When all of them are on the disk, the file gets the name
//! `requeued-SINK-BOOT.jsonl`. That is the moment at which they are put back; the segments then move into the journal. The next
//! run completes one that was stopped: if the file still has the first name, it fills the directory again from the beginning,
//! otherwise it moves what is left in the directory.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock};
use rustix::io::retry_on_intr;

use super::dead::{DeadLetters, Letter, LetterKey, prefixes};
use super::segment::{REQUEUE_RANK, SegmentName};
use super::writer::{JournalSync, Writer};
use super::{Dir, SinkId};

/// A file of dead letters that were put back.
pub struct PutBack {
    /// Its name by now.
    pub file: String,
    /// How many entries went into the journal; `None`: an earlier run was stopped while its segments moved into the journal.
    pub entries: Option<u64>,
    /// Letters of entries that had been put back before, and are not put back again.
    pub again: u64,
    /// Lines that cannot be read, and remain only in the file.
    pub unreadable: u64,
}

/// A file of letters, by the part of its name that does not change.
struct Run {
    before: String,
    after: String,
    directory: String,
}

impl Run {
    fn of(sink: SinkId, number: &str) -> Run {
        let [directory, after] = prefixes(sink).map(|prefix| prefix + number);
        Run { before: format!("{directory}.jsonl"), after: format!("{after}.jsonl"), directory }
    }
}

impl Dir {
    /// Puts the dead letters of a sink back, after completing runs that were stopped. `progress` is told how many bytes have been
    /// read, and how many there are.
    ///
    /// # Errors
    /// What was not put back is still there, as a whole file.
    pub fn put_back(&self, sink: SinkId, segment_max: u64, mut progress: impl FnMut(u64, u64)) -> io::Result<Vec<PutBack>> {
        // Held until this process ends: another run would take what is under way here for a stopped run.
        retry_on_intr(|| flock(&self.0.fd, FlockOperation::LockExclusive))?;
        let mut next = SegmentName { boot: self.boot(), rank: REQUEUE_RANK, pid: std::process::id(), seq: 0 };
        let mut done = Vec::new();
        for number in self.stopped(sink)? {
            let run = Run::of(sink, &number);
            if self.names()?.contains(&run.before) {
                done.push(self.put_back_file(sink, run, segment_max, &mut next, &mut progress)?);
            } else {
                self.move_in(&run.directory, &mut next)?;
                done.push(PutBack { file: run.after, entries: None, again: 0, unreadable: 0 });
            }
        }
        let run = Run::of(sink, &format!("{:016x}", self.boot()));
        // Renamed first: the server begins a new file for entries that die meanwhile.
        match self.rename(&DeadLetters::file_name(sink), &run.before) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            renamed => {
                // The segments of a directory without this file would be moved into the journal.
                renamed.and_then(|()| self.sync())?;
                done.push(self.put_back_file(sink, run, segment_max, &mut next, &mut progress)?);
            }
        }
        Ok(done)
    }

    /// Numbers of runs that were stopped, oldest first.
    fn stopped(&self, sink: SinkId) -> io::Result<BTreeSet<String>> {
        let [before, _] = prefixes(sink);
        let number = |name: &String| {
            let rest = name.strip_prefix(&before)?;
            let number = rest.strip_suffix(".jsonl").unwrap_or(rest);
            // Ignores a copy that somebody made.
            (number.len() == 16 && number.bytes().all(|b| b.is_ascii_hexdigit())).then(|| number.to_owned())
        };
        Ok(self.names()?.iter().filter_map(number).collect())
    }

    fn put_back_file(&self, sink: SinkId, run: Run, segment_max: u64, next: &mut SegmentName, mut progress: impl FnMut(u64, u64)) -> io::Result<PutBack> {
        self.discard(&run.directory)?;
        let letters = self.taken_away(&run.before)?;
        rustix::fs::mkdirat(&self.0.fd, &run.directory, Mode::from_raw_mode(0o700))?;
        let staging = self.directory(&run.directory)?;
        let mut writer = Writer::new(&staging, REQUEUE_RANK, std::process::id(), JournalSync::Os, segment_max).syncing_at_end();
        let (mut entries, mut again, mut unreadable, mut read) = (0, 0, 0, 0);
        let before = self.were_put_back(sink)?;
        let mut seen = HashSet::new();
        let total = letters.metadata()?.len();
        let mut letters = BufReader::new(letters);
        let mut line = Vec::new();
        while letters.read_until(b'\n', &mut line)? > 0 {
            read += line.len() as u64;
            progress(read, total);
            match Letter::read(&line) {
                Some(letter) if before.contains(&letter.key()) => again += 1,
                Some(letter) if seen.insert(letter.key()) => {
                    writer.append(sink, &letter.payload)?;
                    entries += 1;
                }
                Some(_) => {}
                None => unreadable += u64::from(!line.trim_ascii().is_empty()),
            }
            line.clear();
        }
        writer.sync()?;
        drop(writer);
        // `accctl prune` counts from this time on.
        self.touch(&run.before)?;
        self.sync()?;
        self.rename(&run.before, &run.after)?;
        self.sync()?;
        self.move_in(&run.directory, next)?;
        Ok(PutBack { file: run.after, entries: Some(entries), again, unreadable })
    }

    /// Letters that earlier runs put back. A server that was killed before it had noted that an entry was dead, or a call over,
    /// may have written the letter once more since.
    fn were_put_back(&self, sink: SinkId) -> io::Result<HashSet<LetterKey>> {
        let [_, after] = prefixes(sink);
        let mut keys = HashSet::new();
        self.taken_letters(&[after], &mut |line| keys.extend(Letter::read(line).map(|letter| letter.key())))?;
        Ok(keys)
    }

    /// A file of letters that was renamed to this name, including a letter that was being written to it meanwhile.
    fn taken_away(&self, name: &str) -> io::Result<File> {
        let file = self.open_file(name, OFlags::RDONLY)?;
        retry_on_intr(|| flock(&file, FlockOperation::LockShared))?;
        // Whoever gets the lock now finds that the file was renamed, and need not wait for its reader.
        flock(&file, FlockOperation::Unlock)?;
        // Its letters say what must not be delivered from the old places, so they must last as long as the new entries.
        file.sync_data()?;
        Ok(file)
    }

    /// Removes a directory of segments that do not count yet.
    fn discard(&self, directory: &str) -> io::Result<()> {
        let staging = match self.directory(directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            staging => staging?,
        };
        for name in staging.names()? {
            rustix::fs::unlinkat(&staging.0.fd, name, AtFlags::empty())?;
        }
        Ok(rustix::fs::unlinkat(&self.0.fd, directory, AtFlags::REMOVEDIR)?)
    }

    /// Moves the segments of a directory into the journal, under the next names.
    fn move_in(&self, directory: &str, next: &mut SegmentName) -> io::Result<()> {
        let staging = self.directory(directory)?;
        for segment in staging.segments()? {
            rustix::fs::renameat(&staging.0.fd, segment.name.to_string(), &self.0.fd, next.to_string())?;
            next.seq += 1;
        }
        self.sync()?;
        Ok(rustix::fs::unlinkat(&self.0.fd, directory, AtFlags::REMOVEDIR)?)
    }

    /// Why a file of letters that were put back is still needed, if it is; `there` are all segments, including kept ones.
    pub fn is_needed(&self, letters: &str, there: &HashSet<SegmentName>) -> io::Result<Option<String>> {
        let mut file = BufReader::new(self.open_file(letters, OFlags::RDONLY)?);
        let mut line = Vec::new();
        let mut unreadable = 0;
        while file.read_until(b'\n', &mut line)? > 0 {
            match Letter::read(&line) {
                // A restored database would get the entry from there as well.
                Some(Letter { place: Some((segment, _)), .. }) if there.contains(&segment) => {
                    return Ok(Some(format!("its entries are still in segment {segment} as well")));
                }
                Some(_) => {}
                None => unreadable += u64::from(!line.trim_ascii().is_empty()),
            }
            line.clear();
        }
        Ok((unreadable > 0).then(|| format!("{unreadable} lines of it cannot be read, and were not put back: look at them, and remove it yourself")))
    }

    /// Names of the files and directories in it. A name that is not UTF-8 is not ours.
    pub(super) fn names(&self) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in rustix::fs::Dir::read_from(&self.0.fd)? {
            let entry = entry?;
            names.extend(entry.file_name().to_str().ok().filter(|name| !matches!(*name, "." | "..")).map(String::from));
        }
        Ok(names)
    }
}
