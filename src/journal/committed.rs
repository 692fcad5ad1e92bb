//! What a database is known to have committed: the file `committed-db`. A database that has less was
//! restored from a backup.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io;

use super::{Dir, Positions};
use crate::accounting::clock::Wall;

const FILE: &str = "committed-db";

/// The state that a database reports, written in the transaction of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// When the last transaction was made; each is later than the one before, whatever the clock says.
    pub at: Wall,
    /// How many records of this journal it has accepted.
    pub records: u64,
}

/// The state of the database after a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// What it reports about itself.
    pub stamp: Stamp,
    /// How far it was in segments that were not kept yet.
    pub positions: Positions,
}

impl Dir {
    /// The last known state; `None` if unknown.
    pub fn committed(&self) -> io::Result<Option<Committed>> {
        let content = self.content(FILE)?;
        let text = String::from_utf8_lossy(&content);
        let mut found = Committed::default();
        let (mut at, mut records) = (None, None);
        // A line without a line end may have been cut off within a number.
        for (name, value) in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.split_once(' ')) {
            match name {
                "at" => at = value.parse().ok(),
                "records" => records = value.parse().ok(),
                _ => {
                    if let (Ok(name), Ok(position)) = (name.parse(), value.parse()) {
                        found.positions.insert(name, position);
                    }
                }
            }
        }
        let (Some(at), Some(records)) = (at, records) else { return Ok(None) };
        found.stamp = Stamp { at: Wall(at), records };
        Ok(Some(found))
    }

    /// Stores it; `None` forgets it. Not synced: a database that knows more than this file is believed.
    pub(crate) fn set_committed(&self, committed: Option<&Committed>) -> io::Result<()> {
        let mut text = String::new();
        if let Some(Committed { stamp, positions }) = committed {
            let _ = write!(text, "at {}\nrecords {}\n", stamp.at.0, stamp.records);
            for (name, position) in positions {
                let _ = writeln!(text, "{name} {position}");
            }
        }
        self.replace(FILE, &text)
    }
}
