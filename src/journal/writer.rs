//! Appending.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::said::{End, NO_SINK, Order, put_changed, put_closed, put_open};
use super::segment::SEGMENT_LARGEST;
use super::{Dir, FRAME_MAX, KIND_CALL, KIND_LOG_LINE, KIND_PARKED, KIND_RECORD, SegmentName, frame};
use crate::accounting::clock::Moment;
use crate::accounting::context::Base;
use crate::accounting::record::Record;
use crate::interprocess::Pen;
use crate::journal::{Payload, SinkId};
use crate::stats;

/// Initial capacity of the buffer: a common record takes some 600 bytes, a log line 400.
const BUFFER: usize = 4096;
/// Capacity that the buffer is cut back to after a giant entry, so that no process keeps a giant buffer.
const BUFFER_KEPT: usize = 1 << 20;

/// Not all entries of an append are in the journal.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct AppendError {
    /// How many are, counted from the first one.
    pub kept: usize,
    /// Why the others are not.
    pub source: io::Error,
}

impl From<io::Error> for AppendError {
    fn from(source: io::Error) -> AppendError {
        AppendError { kept: 0, source }
    }
}

impl From<AppendError> for io::Error {
    fn from(e: AppendError) -> io::Error {
        e.source
    }
}

/// The segment being written.
struct Open {
    name: SegmentName,
    fd: OwnedFd,
    /// Bytes of whole frames and the header; the file is never longer between two appends.
    len: u64,
    /// Lets the delivery process close the segment between two appends. After the file: its lock must be gone before.
    pen: Option<Held>,
}

/// The pen of a segment, for its writer.
struct Held {
    pen: &'static Pen,
    mark: u64,
}

impl Held {
    fn of(name: SegmentName) -> Option<Held> {
        let mark = name.mark();
        stats::begin_writing(mark).map(|pen| Held { pen, mark })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pen.give_back(self.mark);
    }
}

/// When a journal append counts as safe (parameter `journal_sync`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalSync {
    /// Written to the kernel: survives the death of every process, not of the machine.
    Os,
    /// As `Os`, and fdatasync by the delivery process at most every 200 ms.
    Batch,
    /// fdatasync before the append returns.
    Always,
}

impl JournalSync {
    /// Values of the parameter.
    pub const NAMES: [(&str, JournalSync); 3] = [("os", JournalSync::Os), ("batch", JournalSync::Batch), ("always", JournalSync::Always)];
}

/// The writer of a process. Made after the fork; its file is opened at the first append.
pub struct Writer {
    dir: Dir,
    name: SegmentName,
    sync: JournalSync,
    segment_max: u64,
    sync_at_end: bool,
    /// What is being appended is also elsewhere in the journal.
    is_again: bool,
    open: Option<Open>,
    /// Why appended entries could not be synced; kept until somebody asks.
    unsynced: Option<io::Error>,
    buffer: Vec<u8>,
}

impl Writer {
    /// A writer for the process `pid`, which the host calls `rank`. A segment is closed for a new
    /// one before it grows over `segment_max` bytes (a single larger entry is still written).
    pub fn new(dir: &Dir, rank: i32, pid: u32, sync: JournalSync, segment_max: u64) -> Writer {
        Writer {
            dir: dir.clone(),
            name: SegmentName { boot: dir.boot(), rank, pid, seq: 0 },
            sync,
            segment_max,
            sync_at_end: false,
            is_again: false,
            open: None,
            unsynced: None,
            buffer: Vec::with_capacity(BUFFER),
        }
    }

    /// Syncs a segment before it is closed for a new one, so that [`Writer::sync`] is enough for
    /// all that was appended.
    pub fn syncing_at_end(self) -> Writer {
        Writer { sync_at_end: true, ..self }
    }

    /// A writer whose first segment has this number.
    pub(super) fn beginning_at(mut self, seq: u32) -> Writer {
        self.name.seq = seq;
        self
    }

    /// Appends an entry and counts it as accepted. On `Err` the entry is not in the journal, and
    /// the journal is as if it had never been tried. An entry that was written, but could not be
    /// synced, is in the journal, see [`Writer::unsynced`].
    pub fn append(&mut self, sink: SinkId, payload: &Payload) -> io::Result<()> {
        match payload {
            Payload::Record(record) => self.append_record(sink, record),
            Payload::LogLine(line) => self.append_line(sink, line),
        }
    }

    /// [`Writer::append`] of a record that need not be boxed.
    pub fn append_record(&mut self, sink: SinkId, record: &Record) -> io::Result<()> {
        self.buffer.clear();
        self.frame(sink as u8, KIND_RECORD, |out| record.encode(out))?;
        Ok(self.write([sink], true)?)
    }

    /// [`Writer::append`] of a finished syslog datagram.
    pub fn append_line(&mut self, sink: SinkId, line: &[u8]) -> io::Result<()> {
        self.buffer.clear();
        self.frame(sink as u8, KIND_LOG_LINE, |out| out.extend_from_slice(line))?;
        Ok(self.write([sink], true)?)
    }

    /// Appends the whole state of a call in progress, see [`super::calls`]; returns the time by which
    /// changes refer to it.
    pub fn append_call(&mut self, call: u128, state: &[u8]) -> io::Result<u64> {
        self.append_state(call, |out| out.extend_from_slice(state))
    }

    /// [`Writer::append_call`] of the state that a function appends.
    pub fn append_state(&mut self, call: u128, state: impl FnOnce(&mut Vec<u8>)) -> io::Result<u64> {
        let order = Order::now(self.dir.boot());
        self.about_call(|out| {
            put_open(out, call, order);
            state(out);
        })?;
        Ok(order.monotonic)
    }

    /// [`Writer::append_state`] for a state that the journal has from an earlier start. It is not synced: a power failure would
    /// only destroy the knowledge that the call is followed in this start. So no change may refer to it.
    pub fn append_again(&mut self, call: u128, state: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.is_again = true;
        let appended = self.append_state(call, state);
        self.is_again = false;
        appended.map(drop)
    }

    /// Appends a change to such a state: a new head, and new bytes in its middle.
    pub fn append_change(&mut self, call: u128, base: Base, head: &[u8], middle: &[u8]) -> io::Result<()> {
        let order = Order::now(self.dir.boot());
        self.about_call(|out| put_changed(out, call, order, base, head, middle))
    }

    /// Appends what another segment says about a call.
    pub(super) fn append_about_call(&mut self, payload: &[u8]) -> io::Result<()> {
        self.about_call(|out| out.extend_from_slice(payload))
    }

    fn about_call(&mut self, payload: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.buffer.clear();
        self.frame(NO_SINK, KIND_CALL, payload)?;
        Ok(self.write([], true)?)
    }

    /// Appends an entry that left its stream, see [`super::parking`]; it was counted when it came.
    pub(super) fn append_parked(&mut self, sink: SinkId, payload: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.buffer.clear();
        self.frame(sink as u8, KIND_PARKED, payload)?;
        Ok(self.write([], true)?)
    }

    /// Appends the end of a call.
    pub fn append_closed(&mut self, end: End) -> io::Result<()> {
        let boot = self.dir.boot();
        self.about_call(|out| put_closed(out, end, || Order::now(boot)))
    }

    /// Appends the records of a call's end that somebody saw, and the end itself, all or nothing.
    pub fn append_end(&mut self, call: u128, records: &[(SinkId, Record)]) -> io::Result<()> {
        Ok(self.append_all(records.iter().map(|(sink, record)| (*sink, record)), Some(End::seen(call)))?)
    }

    /// Appends that the call of a dialog that the host has restored is over. This is known until the next start.
    pub fn append_restored_over(&mut self, dialog: u128) -> io::Result<()> {
        let boot = self.dir.boot();
        self.about_call(|out| put_closed(out, End { dialog: Some(dialog), ..End::seen(dialog) }, || Order::throughout(boot)))
    }

    /// Appends records in one write; together with the end of a call, if they are its last, all or nothing.
    /// Some of them stay only if the disk does not even let them be taken back.
    pub fn append_all<'a>(&mut self, records: impl Iterator<Item = (SinkId, &'a Record)> + Clone, end: Option<End>) -> Result<(), AppendError> {
        self.buffer.clear();
        for (sink, record) in records.clone() {
            self.frame(sink as u8, KIND_RECORD, |out| record.encode(out))?;
        }
        if let Some(end) = end {
            let boot = self.dir.boot();
            self.frame(NO_SINK, KIND_CALL, |out| put_closed(out, end, || Order::now(boot)))?;
        }
        self.write(records.map(|(sink, _)| sink), end.is_some())
    }

    /// Appends a record that no sink delivers: a worker raises it as an event.
    pub fn append_event(&mut self, record: &Record) -> io::Result<()> {
        self.buffer.clear();
        self.frame(NO_SINK, KIND_RECORD, |out| record.encode(out))?;
        Ok(self.write([], true)?)
    }

    /// Why appended entries could not be synced, as `journal_sync=always` promises: they are in the journal,
    /// but a power failure may destroy them. Returned once.
    pub fn unsynced(&mut self) -> Option<io::Error> {
        self.unsynced.take()
    }

    /// Makes appended entries survive a power failure, whatever the policy.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if let Some(e) = self.unsynced() {
            return Err(e);
        }
        if let Some(open) = &self.open {
            rustix::fs::fdatasync(&open.fd)?;
            self.dir.sync()?;
        }
        Ok(())
    }

    /// The segment being written.
    pub(crate) fn segment(&self) -> Option<SegmentName> {
        self.open.as_ref().map(|o| o.name)
    }

    /// Its length.
    pub(super) fn length(&self) -> u64 {
        self.open.as_ref().map_or(0, |o| o.len)
    }

    /// [`Writer::sync`], given the length at the last sync (0: none yet). Returns the present length.
    pub(super) fn sync_from(&mut self, synced: u64) -> io::Result<u64> {
        if let Some(open) = &self.open {
            rustix::fs::fdatasync(&open.fd)?;
        }
        if synced == 0 {
            self.dir.sync()?;
        }
        Ok(self.length())
    }

    /// Ends the segment, cut off at `length` bytes.
    pub(super) fn cut(&mut self, length: u64) {
        let Some(open) = self.open.take() else { return };
        let cut = if length == 0 { self.dir.remove(open.name) } else { rustix::fs::ftruncate(&open.fd, length).map_err(io::Error::from) };
        if let Err(e) = cut {
            log::error!("journal segment {} cannot be truncated ({e}): some of its entries may be delivered twice; check the disk", open.name);
        }
    }

    /// Adds a frame to the buffer.
    fn frame(&mut self, sink: u8, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; frame::PREFIX]);
        self.buffer.extend_from_slice(&[sink, kind]);
        self.buffer.extend_from_slice(&Moment::wall_now().0.to_le_bytes());
        payload(&mut self.buffer);
        let body = self.buffer.len() - start - frame::PREFIX;
        if body > FRAME_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("an entry of {body} bytes exceeds the journal's limit of {FRAME_MAX}")));
        }
        let length = (body as u32).to_le_bytes();
        let crc = frame::crc(length, &self.buffer[start + frame::PREFIX..]);
        self.buffer[start..start + 4].copy_from_slice(&length);
        self.buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        Ok(())
    }

    /// Writes the buffer, whose frames are for these sinks; with `together`, all of them or none.
    fn write(&mut self, sinks: impl IntoIterator<Item = SinkId> + Clone, together: bool) -> Result<(), AppendError> {
        // Counted before a reader can see it, so that delivered never runs ahead of accepted.
        for sink in sinks.clone() {
            stats::add(sink.accepted(), 1);
        }
        let result = self.write_buffer(together);
        if let Err(e) = &result {
            for sink in sinks.into_iter().skip(e.kept) {
                stats::sub(sink.accepted(), 1);
            }
        }
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer = Vec::with_capacity(BUFFER);
        }
        result
    }

    fn write_buffer(&mut self, together: bool) -> Result<(), AppendError> {
        let size = self.buffer.len() as u64;
        if size + frame::HEADER.len() as u64 > SEGMENT_LARGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a write of {size} bytes exceeds the journal's limit")).into());
        }
        // The delivery process has closed it meanwhile: it needed the room.
        if self.open.as_ref().is_some_and(|o| o.pen.as_ref().is_some_and(|held| !held.pen.hold(held.mark))) {
            self.open = None;
        }
        if self.open.as_ref().is_some_and(|o| o.len + size > self.segment_max && o.len > frame::HEADER.len() as u64) {
            if self.sync_at_end
                && let Err(e) = self.sync()
            {
                self.rest();
                return Err(e.into());
            }
            self.open = None;
        }
        if self.open.is_none() {
            self.open = Some(self.create()?);
        }
        let Some(open) = &mut self.open else { return Err(io::Error::from(io::ErrorKind::NotFound).into()) };
        if let Err((written, source)) = write_all(&open.fd, &self.buffer) {
            let kept = self.take_back(written, together);
            self.rest();
            return Err(AppendError { kept, source });
        }
        open.len += size;
        if self.sync == JournalSync::Always
            && !self.is_again
            && let Err(e) = rustix::fs::fdatasync(&open.fd)
        {
            // Readers saw the entry while the disk tried: taken back and written again, it would be
            // delivered twice. The kernel reports a file's failure once, so nothing more goes to this one.
            self.open = None;
            self.unsynced = Some(e.into());
        }
        self.rest();
        Ok(())
    }

    /// The append is over: the segment may be closed by the delivery process.
    fn rest(&self) {
        if let Some(held) = self.open.as_ref().and_then(|o| o.pen.as_ref()) {
            held.pen.rest(held.mark);
        }
    }

    /// Closes the segment, which is synced; the next append begins a new one.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Ends the segment if only a part of the buffer was written, and cuts that part off. Its whole frames
    /// stay unless they must stay `together`: they may be delivered already. Returns how many frames stay.
    fn take_back(&mut self, written: usize, together: bool) -> usize {
        // A reader may have seen more than what stays, and would look for later entries after that.
        let Some(open) = self.open.take_if(|_| written > 0) else { return 0 };
        let (whole, bytes) = whole_frames(&self.buffer[..written]);
        let (left, len) = if together { (0, open.len) } else { (whole, open.len + bytes as u64) };
        if len == frame::HEADER.len() as u64 && self.dir.remove(open.name).is_ok() {
            return 0;
        }
        // If it cannot be cut off, readers see a torn tail.
        let left = if rustix::fs::ftruncate(&open.fd, len).is_ok() { left } else { whole };
        if (self.sync == JournalSync::Always || self.sync_at_end)
            && let Err(e) = rustix::fs::fdatasync(&open.fd)
        {
            self.unsynced = Some(e.into());
        }
        left
    }

    fn create(&mut self) -> io::Result<Open> {
        loop {
            let name = self.name;
            self.name.seq = self.name.seq.wrapping_add(1);
            match self.dir.open_file(&name.to_string(), OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL) {
                Ok(file) => {
                    let fd = OwnedFd::from(file);
                    if let Err(e) = self.begin(&fd) {
                        // On a full disk, many attempts fail. The name is not used again: a reader may
                        // have this file open under it.
                        let _ = self.dir.remove(name);
                        return Err(e);
                    }
                    return Ok(Open { name, fd, len: frame::HEADER.len() as u64, pen: Held::of(name) });
                }
                // A file with this name belongs to another writer: try the next number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Turns an empty file into a segment of this writer.
    fn begin(&self, fd: &OwnedFd) -> io::Result<()> {
        self.dir.hand_over(fd)?;
        // Readers treat a segment that nobody has locked as finished. The header is written after
        // locking, so that they never see a header without a lock.
        rustix::io::retry_on_intr(|| rustix::fs::flock(fd, FlockOperation::LockExclusive))?;
        write_all(fd, frame::HEADER).map_err(|(_, e)| e)?;
        if self.sync == JournalSync::Always {
            self.dir.sync()?;
        }
        Ok(())
    }
}

/// One `write`, unless it fails: the kernel takes the whole buffer or runs out of space. An error comes
/// with the number of bytes written before it.
fn write_all(fd: &OwnedFd, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(fd, &bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err((written, e.into())),
        }
    }
    Ok(())
}

/// How many whole frames these bytes begin with, and their total length.
fn whole_frames(bytes: &[u8]) -> (usize, usize) {
    let (mut count, mut end) = (0, 0);
    while let Some(length) = bytes[end..].first_chunk::<4>() {
        let next = end + frame::PREFIX + u32::from_le_bytes(*length) as usize;
        if next > bytes.len() {
            break;
        }
        (count, end) = (count + 1, next);
    }
    (count, end)
}
