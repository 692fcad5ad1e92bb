//! What the fuzz targets share.
#![forbid(unsafe_code)]

use std::alloc::System;
use std::path::{Path, PathBuf};

use cap::Cap;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// What any input may take, in bytes: buffers of fixed size, tables that are built in.
const ROOM: usize = 4 << 20;
/// Bytes in memory for a byte of input: the decoded forms are vectors of vectors.
const FACTOR: usize = 256;

/// Runs a target on an input of `length` bytes. Memory beyond what its length accounts for ends the
/// process: no input may ask for more than it brings.
pub fn bounded(length: usize, target: impl FnOnce()) {
    let limit = MEMORY.allocated() + ROOM + FACTOR * length;
    MEMORY.set_limit(limit).expect("more than what is allocated");
    target();
    MEMORY.set_limit(usize::MAX).expect("no limit");
}

/// The text of an input; bytes that are no UTF-8 as the server's configuration would pass them.
pub fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

/// A directory of this process, in memory where there is one.
pub fn directory() -> &'static Path {
    static DIRECTORY: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = parent.join(format!("acc-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        directory
    })
}

/// Takes pieces from the front of an input.
pub struct Pieces<'a>(pub &'a [u8]);

impl<'a> Pieces<'a> {
    /// One byte; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// As many bytes as the next two say, or what is left.
    pub fn bytes(&mut self) -> &'a [u8] {
        let n = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        let (piece, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        piece
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
