//! Entries that can never be delivered, kept for a person: `dead-SINK.jsonl`.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::retry_on_intr;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::entry::Place;
use super::{Dir, KIND_LOG_LINE, KIND_RECORD, SegmentName, json as to_json};
use crate::accounting::clock::{Moment, Wall};
use crate::accounting::record::Record;
use crate::journal::{Entry, Payload, SinkId};

/// What two lines about the same entry have in common.
pub type LetterKey = (Option<Place>, u128);

/// A line of such a file.
pub struct Letter {
    /// The exact entry.
    pub payload: Payload,
    /// Where it was; `None` for a record that was held.
    pub place: Option<Place>,
}

impl Letter {
    /// Reads a line; `None` if it is not a complete dead letter.
    pub fn read(line: &[u8]) -> Option<Letter> {
        let line: Value = serde_json::from_slice(line).ok()?;
        let bytes = to_json::unhex(line["payload"].as_str()?.as_bytes())?;
        let payload = match u8::try_from(line["kind_number"].as_u64()?).ok()? {
            KIND_RECORD => Payload::Record(Box::new(Record::decode(&bytes)?)),
            KIND_LOG_LINE => Payload::LogLine(bytes),
            _ => return None,
        };
        let place = line["segment"].as_str().zip(line["offset"].as_u64()).and_then(|(segment, offset)| is_place(segment, offset));
        Some(Letter { payload, place })
    }

    /// The same for two lines about one entry: a crash may cause it to be written twice. A call that was held twice may have
    /// a different end the second time; a destination has one record of each identity.
    pub fn key(&self) -> LetterKey {
        match (self.place, &self.payload) {
            (None, Payload::Record(record)) => (None, record.id),
            (place, _) => (place, 0),
        }
    }
}

/// The place of an entry. Offset 0 is the header of a segment.
fn is_place(segment: &str, offset: u64) -> Option<Place> {
    Some((segment.parse().ok()?, offset)).filter(|(_, offset)| *offset > 0)
}

/// How the names of files begin whose letters are being put back, and of those whose letters were.
pub(super) fn prefixes(sink: SinkId) -> [String; 2] {
    ["requeueing", "requeued"].map(|what| format!("{what}-{}-", sink.name()))
}

/// The dead-letter file of one sink; made when first needed.
pub struct DeadLetters {
    dir: Dir,
    sink: SinkId,
    /// Written, but the cursor has not passed them yet: a transaction that is repeated must not
    /// write them again.
    uncommitted: HashSet<Place>,
    /// Those among them that were written since the last sync, and the file they are in.
    unsynced: Vec<Place>,
    file: Option<File>,
}

impl DeadLetters {
    /// The dead letters of `sink`.
    pub fn new(dir: &Dir, sink: SinkId) -> DeadLetters {
        DeadLetters { dir: dir.clone(), sink, uncommitted: HashSet::new(), unsynced: Vec::new(), file: None }
    }

    /// Name of the file.
    pub fn file_name(sink: SinkId) -> String {
        format!("dead-{}.jsonl", sink.name())
    }

    /// Place of the entry that such a line is about, if it is from a segment.
    pub fn place(line: &[u8]) -> Option<Place> {
        // Only these values are built.
        let line: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(line).ok()?;
        let segment: String = serde_json::from_str(line.get("segment")?.get()).ok()?;
        is_place(&segment, line.get("offset")?.get().parse().ok()?)
    }

    /// The message for a file that cannot be written.
    pub fn trouble(&self, e: &io::Error) -> String {
        format!("{} in journal_dir cannot be written ({e}): check its free space and permissions", Self::file_name(self.sink))
    }

    /// Adds an entry. It counts once it is synced: [`DeadLetters::sync`] comes before the cursor passes it.
    pub fn add(&mut self, entry: &Entry, reason: &str) -> io::Result<()> {
        let (kind, bytes) = entry.payload.encode();
        self.write(Some((entry.segment, entry.offset)), entry.wall, kind, &bytes, reason, to_json::payload(&entry.payload))
    }

    /// Adds a record that is in no segment, durably: its call is closed next.
    pub fn hold(&mut self, record: &Record, reason: &str) -> io::Result<()> {
        let payload = Payload::Record(Box::new(record.clone()));
        let (kind, bytes) = payload.encode();
        self.write(None, Moment::wall_now(), kind, &bytes, reason, to_json::payload(&payload))?;
        self.sync()
    }

    /// [`DeadLetters::add`] of an entry whose payload this build cannot read.
    pub fn add_unreadable(&mut self, segment: SegmentName, offset: u64, wall: Wall, kind: u8, bytes: &[u8]) -> io::Result<()> {
        self.write(Some((segment, offset)), wall, kind, bytes, "this build cannot decode the entry", json!({}))
    }

    fn write(&mut self, place: Option<Place>, wall: Wall, kind: u8, bytes: &[u8], reason: &str, mut line: Value) -> io::Result<()> {
        if place.is_some_and(|place| self.uncommitted.contains(&place)) {
            return Ok(());
        }
        line["sink"] = Value::from(self.sink.name());
        line["reason"] = Value::from(reason);
        if let Some((segment, offset)) = place {
            line["segment"] = Value::from(segment.to_string());
            line["offset"] = Value::from(offset);
        }
        line["wall"] = Value::from(wall.0);
        // The exact entry, for `accctl requeue`.
        line["kind_number"] = Value::from(kind);
        line["payload"] = Value::from(to_json::hex(bytes));
        let mut text = to_json::line(&line).into_bytes();
        text.push(b'\n');
        let mut file = self.open()?;
        let written = ends_a_line(&file).and_then(|ends| {
            if !ends {
                text.insert(0, b'\n');
            }
            file.write_all(&text)
        });
        // Whoever renames the file need not wait until it is synced.
        let unlocked = flock(&file, FlockOperation::Unlock);
        self.file = Some(file);
        written?;
        unlocked?;
        self.unsynced.extend(place);
        self.uncommitted.extend(place);
        Ok(())
    }

    /// Makes what was added survive a power failure. On `Err`, what was added since the last call does not count.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let synced = file.sync_data();
        for place in self.unsynced.drain(..) {
            if synced.is_err() {
                self.uncommitted.remove(&place);
            }
        }
        synced
    }

    /// The file that currently has this name, locked.
    fn open(&mut self) -> io::Result<File> {
        let name = Self::file_name(self.sink);
        loop {
            let file = match self.file.take() {
                Some(file) => file,
                None => self.dir.open_file(&name, OFlags::RDWR | OFlags::CREATE | OFlags::APPEND)?,
            };
            retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
            if !self.dir.is_named(&name, &file)? {
                // Renamed since it was opened: the process that did so may have read it already.
                self.file = Some(file);
                self.sync()?;
                continue;
            }
            if file.metadata()?.len() == 0 {
                self.dir.sync()?;
            }
            return Ok(file);
        }
    }

    /// Was the entry added, and is the cursor not known to have passed it?
    pub fn holds(&self, entry: &Entry) -> bool {
        self.uncommitted.contains(&(entry.segment, entry.offset))
    }

    /// The cursor has passed everything that was added.
    pub fn committed(&mut self) {
        self.uncommitted.clear();
    }
}

impl Dir {
    /// Passes the dead letters of a sink that were not put back to `each`, line by line; including those of a run of
    /// `accctl requeue` that was stopped.
    pub fn dead_letters(&self, sink: SinkId, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let [before, _] = prefixes(sink);
        self.new_letters(sink, &mut each)?;
        self.taken_letters(&[before], &mut each)
    }

    /// Passes the places of the dead letters of a sink to `each`, including those that are being or were put back.
    pub(crate) fn dead_places(&self, sink: SinkId, mut each: impl FnMut(Place)) -> io::Result<()> {
        let mut place = |line: &[u8]| DeadLetters::place(line).into_iter().for_each(&mut each);
        self.new_letters(sink, &mut place)?;
        self.taken_letters(&prefixes(sink), &mut place)
    }

    fn new_letters(&self, sink: SinkId, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        match self.open_file(&DeadLetters::file_name(sink), OFlags::RDONLY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            file => lines_of(file?, each),
        }
    }

    /// Those in files whose names begin like this.
    pub(super) fn taken_letters(&self, prefixes: &[String], each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let rest = |name: &str| prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).map(String::from);
        let rests: BTreeSet<String> = self.names()?.iter().filter(|name| name.ends_with(".jsonl")).filter_map(|name| rest(name)).collect();
        for rest in rests {
            // The file may be renamed meanwhile.
            for prefix in prefixes {
                match self.open_file(&format!("{prefix}{rest}"), OFlags::RDONLY) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    file => lines_of(file?, each)?,
                }
            }
        }
        Ok(())
    }
}

/// There may be millions of letters, each with a whole record, so only one line at a time is in memory.
fn lines_of(file: File, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        if !line.trim_ascii().is_empty() {
            each(&line);
        }
        line.clear();
    }
    Ok(())
}

/// A full disk or a power cut may have left a part of a line, which must not spoil the next one.
fn ends_a_line(file: &File) -> io::Result<bool> {
    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}
