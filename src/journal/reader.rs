//! Reading a segment from any frame boundary, through whatever damage.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::said::NO_SINK;
use super::{FRAME_MAX, KIND_CALL, KIND_LOG_LINE, KIND_PARKED, KIND_RECORD, Parked, SegmentName, frame};
use crate::accounting::clock::Wall;
use crate::accounting::record::Record;
use crate::journal::{Entry, Payload, SinkId};

/// Bytes read at a time: some hundred entries for one system call, and bearable for each of a
/// hundred segments at once.
const CHUNK: usize = 64 << 10;

/// How many bytes are searched for frames behind a frame that claims more than there is: a full segment.
const SEARCHED: u64 = 16 << 20;
/// How many bytes that search checks: crafted bytes could make it check the same ones again and again.
const CHECKED: usize = 64 << 20;

/// One whole, checked frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Number of the sink.
    pub sink: u8,
    /// Kind of the payload.
    pub kind: u8,
    /// Time of the append.
    pub wall: Wall,
    /// The payload.
    pub payload: &'a [u8],
    /// Where the frame begins in the segment.
    pub offset: u64,
    /// Where the next one begins.
    pub end: u64,
}

impl Frame<'_> {
    /// The sink, unless it is one that this build does not know.
    pub fn sink_id(&self) -> Option<SinkId> {
        SinkId::from_number(self.sink)
    }

    /// The entry: `None` for a kind that this build does not know, `Some(Err)` when a payload
    /// of a known kind cannot be decoded.
    pub fn decode(&self) -> Option<Result<Payload, ()>> {
        decode(self.kind, self.payload)
    }

    /// The entry in this frame of the segment of this name, unpacked if it is a copy of a parked entry. The result is
    /// as for [`Frame::decode`].
    pub fn entry(&self, segment: SegmentName) -> Option<Result<Entry, ()>> {
        let (parked, kind, wall, payload) = match self.kind {
            super::KIND_PARKED => match Parked::decode(self.payload, self.wall) {
                Some((parked, kind, wall, payload)) => (Some(parked), kind, wall, payload),
                None => return Some(Err(())),
            },
            kind => (None, kind, self.wall, self.payload),
        };
        let decoded = match decode(kind, payload) {
            // Only entries are copied.
            None if parked.is_some() => Err(()),
            decoded => decoded?,
        };
        Some(decoded.map(|payload| Entry { segment, offset: self.offset, end: self.end, wall, payload, parked }))
    }
}

/// Does this build write frames of this sink and kind?
fn is_known(sink: u8, kind: u8) -> bool {
    (sink == NO_SINK || SinkId::from_number(sink).is_some()) && matches!(kind, KIND_RECORD | KIND_LOG_LINE | KIND_CALL | KIND_PARKED)
}

fn decode(kind: u8, payload: &[u8]) -> Option<Result<Payload, ()>> {
    match kind {
        super::KIND_RECORD => Some(Record::decode(payload).map(|r| Payload::Record(Box::new(r))).ok_or(())),
        super::KIND_LOG_LINE => Some(Ok(Payload::LogLine(payload.to_vec()))),
        _ => None,
    }
}

/// The next item in a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// Bytes from `offset` to `end` are damaged; reading continues after them.
    Corrupt {
        /// First damaged byte.
        offset: u64,
        /// First byte after the damage.
        end: u64,
    },
    /// Bytes from `offset` to the present end (`end`) are the beginning of a frame: one that is
    /// being written, or, in a sealed segment, one that never was written completely.
    Torn {
        /// Where that frame begins.
        offset: u64,
        /// The present end of the segment.
        end: u64,
    },
    /// Nothing more, for now.
    End,
}

/// What is at a place, judging only by the numbers.
enum Found {
    Whole(usize),
    Damaged(usize),
    Torn,
    End,
}

/// Reads one segment. The position only moves over frames, damage and the header.
pub struct Reader {
    file: File,
    position: u64,
    /// The header was looked at. A cursor may be behind it that another version has left.
    is_ours: bool,
    buffer: Vec<u8>,
    /// Offset of the first byte of `buffer`.
    base: u64,
}

impl Reader {
    pub(super) fn new(file: File, offset: u64) -> Reader {
        Reader { file, position: offset, is_ours: false, buffer: Vec::new(), base: offset }
    }

    /// Reads to the present end, and passes on every frame.
    pub(super) fn each_frame(&mut self, mut f: impl FnMut(&Frame<'_>)) -> io::Result<()> {
        loop {
            match self.read()? {
                Item::Frame(frame) => f(&frame),
                Item::Corrupt { .. } => {}
                Item::Torn { .. } | Item::End => return Ok(()),
            }
        }
    }

    /// Where the next item begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes the bytes between two offsets to `out`, as they are.
    pub fn copy(&self, from: u64, to: u64, out: &mut impl Write) -> io::Result<()> {
        self.pieces(from, to, |piece| out.write_all(piece).map(|()| true))
    }

    /// Are there only zeros between two offsets?
    pub(crate) fn is_blank(&self, from: u64, to: u64) -> io::Result<bool> {
        let mut blank = true;
        self.pieces(from, to, |piece| {
            blank = piece.iter().all(|b| *b == 0);
            Ok(blank)
        })?;
        Ok(blank)
    }

    /// Are there whole frames between these offsets, behind the beginning of a frame that claims more bytes than there are? Then
    /// it is not the last one of its writer, and its length is damaged. Only a sealed segment can tell: what is
    /// being written may contain a caller's text that looks like a frame. The frames found are not read for the same reason.
    pub fn hides_frames(&self, from: u64, to: u64) -> io::Result<bool> {
        let mut bytes = Vec::new();
        self.pieces(from, to.min(from + SEARCHED), |piece| {
            bytes.extend_from_slice(piece);
            Ok(true)
        })?;
        let mut left = CHECKED;
        for at in 1..bytes.len() {
            let Some((prefix, rest)) = bytes[at..].split_first_chunk::<{ frame::PREFIX }>() else { break };
            let [a, b, c, d, crc @ ..] = *prefix;
            let length = [a, b, c, d];
            let size = u32::from_le_bytes(length) as usize;
            let Some(body) = rest.get(..size).filter(|body| (frame::BODY_MIN..=FRAME_MAX).contains(&body.len())) else { continue };
            if !is_known(body[0], body[1]) {
                continue;
            }
            let Some(less) = left.checked_sub(size) else { break };
            left = less;
            if frame::crc(length, body).to_le_bytes() == crc {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Passes on the bytes between two offsets piece by piece, until `each` returns false.
    fn pieces(&self, from: u64, to: u64, mut each: impl FnMut(&[u8]) -> io::Result<bool>) -> io::Result<()> {
        let mut piece = vec![0; CHUNK];
        let mut at = from;
        while at < to {
            let length = CHUNK.min((to - at) as usize);
            self.file.read_exact_at(&mut piece[..length], at)?;
            if !each(&piece[..length])? {
                break;
            }
            at += length as u64;
        }
        Ok(())
    }

    /// A segment of another version is an error of the kind `Unsupported`: whatever is in it, it is not damaged.
    fn check_version(&mut self) -> io::Result<()> {
        let mut header = [0; frame::HEADER.len()];
        if self.is_ours || self.file.read_at(&mut header, 0)? < header.len() {
            return Ok(());
        }
        if frame::is_of_another_version(header) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "another version of this module wrote it; run accctl deliver of that version"));
        }
        self.is_ours = true;
        Ok(())
    }

    /// The next item. `End` and `Torn` may become something else while the segment is written.
    pub fn read(&mut self) -> io::Result<Item<'_>> {
        self.check_version()?;
        if self.position < frame::HEADER.len() as u64 {
            let header = frame::HEADER.len();
            self.position = 0;
            if self.fill(header)? < header {
                let end = self.file.metadata()?.len();
                return Ok(if end == 0 { Item::End } else { Item::Torn { offset: 0, end } });
            }
            if &self.window()[..header] != frame::HEADER {
                // Nothing in here can be trusted to be a frame of this version.
                let end = self.file.metadata()?.len();
                self.position = end;
                return Ok(Item::Corrupt { offset: 0, end });
            }
            self.position = header as u64;
        }
        let offset = self.position;
        let mut found = self.look(0)?;
        if matches!(found, Found::Damaged(_)) {
            // A writer takes back what it could not write completely, and bytes read meanwhile are not
            // damage. Reading once more tells.
            self.forget();
            found = self.look(0)?;
        }
        match found {
            Found::Whole(size) => {
                self.position += size as u64;
                let start = (offset - self.base) as usize;
                let body = &self.buffer[start + frame::PREFIX..start + size];
                let mut wall = [0; 8];
                wall.copy_from_slice(&body[2..frame::BODY_MIN]);
                Ok(Item::Frame(Frame {
                    sink: body[0],
                    kind: body[1],
                    wall: Wall(i64::from_le_bytes(wall)),
                    payload: &body[frame::BODY_MIN..],
                    offset,
                    end: offset + size as u64,
                }))
            }
            Found::Damaged(size) => {
                // The damaged length is believed only if it leads to a whole frame or exactly to the end.
                // A search for a frame at any byte could mistake a caller's text for one.
                let end = self.file.metadata()?.len();
                let next = offset + size as u64;
                let leads_on = size > 0 && (next == end || matches!(self.look(size)?, Found::Whole(_)));
                self.position = if leads_on { next } else { end };
                Ok(Item::Corrupt { offset, end: self.position })
            }
            Found::Torn => {
                self.forget();
                Ok(Item::Torn { offset, end: self.file.metadata()?.len() })
            }
            Found::End => {
                // Nothing may come for hours.
                self.buffer = Vec::new();
                self.base = offset;
                Ok(Item::End)
            }
        }
    }

    /// What is `ahead` bytes after the position. `Damaged(0)`: not even the length is plausible.
    fn look(&mut self, ahead: usize) -> io::Result<Found> {
        let have = self.fill(ahead + frame::PREFIX)?.saturating_sub(ahead);
        if have == 0 {
            return Ok(Found::End);
        }
        if have < frame::PREFIX {
            return Ok(Found::Torn);
        }
        let at = &self.window()[ahead..];
        let length = [at[0], at[1], at[2], at[3]];
        let crc = u32::from_le_bytes([at[4], at[5], at[6], at[7]]);
        let body = u32::from_le_bytes(length) as usize;
        if !(frame::BODY_MIN..=FRAME_MAX).contains(&body) {
            // A power failure may leave zeros where a frame was about to be written.
            return Ok(if body == 0 && crc == 0 && self.is_blank(self.position + ahead as u64, self.file.metadata()?.len())? {
                Found::Torn
            } else {
                Found::Damaged(0)
            });
        }
        let size = frame::PREFIX + body;
        if self.fill(ahead + size)? < ahead + size {
            return Ok(Found::Torn);
        }
        let at = &self.window()[ahead..ahead + size];
        if at[..4] != length || at[4..frame::PREFIX] != crc.to_le_bytes() {
            return Ok(Found::Damaged(0));
        }
        Ok(if frame::crc(length, &at[frame::PREFIX..]) == crc { Found::Whole(size) } else { Found::Damaged(size) })
    }

    /// Drops the buffer, so that its bytes are read again.
    fn forget(&mut self) {
        self.buffer.clear();
        self.base = self.position;
    }

    fn window(&self) -> &[u8] {
        &self.buffer[(self.position - self.base) as usize..]
    }

    /// Makes the buffer hold at least `wanted` bytes from the position, or all there are. Returns how many.
    fn fill(&mut self, wanted: usize) -> io::Result<usize> {
        if self.position < self.base || self.position > self.base + self.buffer.len() as u64 {
            self.buffer.clear();
            self.base = self.position;
        }
        let mut have = self.window().len();
        if have >= wanted {
            return Ok(have);
        }
        let used = (self.position - self.base) as usize;
        self.buffer.drain(..used);
        self.base = self.position;
        // The tail may have been read while its writer was taking it back: read it again.
        self.buffer.clear();
        have = 0;
        // A damaged length may claim far more than there is.
        let goal = if wanted > CHUNK { wanted.min(self.file.metadata()?.len().saturating_sub(self.base) as usize).max(CHUNK) } else { CHUNK };
        self.buffer.reserve(goal);
        while have < wanted {
            match rustix::io::pread(&self.file, spare_capacity(&mut self.buffer), self.base + have as u64) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if self.buffer.capacity() > 4 * CHUNK && goal <= CHUNK {
            self.buffer.shrink_to(CHUNK);
        }
        Ok(have)
    }
}
