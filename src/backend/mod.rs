//! Where records go. `log` and `event` are used by the workers, `sql`, `radius` and `stream` by the
//! delivery process through [`Sink`].
#![forbid(unsafe_code)]

mod destinations;
pub mod event;
pub mod json;
mod one_by_one;
mod verifier;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::declaration::{SinkId, destinations};
use crate::journal::{DeadLetters, Entry, Parking, Positions, SegmentName, Stamp};

pub use destinations::{Destinations, Maker, Read, Settings};
pub use one_by_one::{Offer, OneByOne, RecordSender, SENDER_BATCH, one_by_one};

macro_rules! folders {
    ($($(#[doc = $doc:literal])+ $id:ident = $number:literal, $name:literal, names $names:ident, by $by:ident
       $(, sink $folder:ident $parameter:literal $(then $($further:ident = $its_number:literal $its_name:literal),+)?)?;)+) => {
        $($(#[doc = concat!("The folder of `", $name, "`.")] pub mod $folder;)?)+

        /// The function that reads the settings of each sink.
        const READERS: [(SinkId, Read); SinkId::COUNT] = [$($(
            (SinkId::$id, $folder::read),
            $($((SinkId::$further, |draft| $folder::read_further(draft, SinkId::$further)),)+)?
        )?)+];
    };
}
destinations!(folders);

/// Why a destination of records cannot accept an entry that is a log line.
pub const NOT_A_RECORD: &str = "found a log line where a record was expected";

/// After this many refusals in a row the server is considered to be at fault, not the records.
pub const REFUSED_IN_A_ROW: u32 = 16;

/// Result of delivering one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is stored or acknowledged.
    Delivered,
    /// It can never be delivered: it goes to the dead letters, with this reason.
    Dead(String),
    /// Only this entry was refused, for this reason, while the sink accepts others.
    Refused(String),
    /// Its table accepts no rows until something is repaired (or it could not be compared with others): it
    /// waits, however long that takes.
    Held(Hold),
    /// It is an interim record that was refused or held up, for this reason: it is left out, since the next one says more.
    Superseded(String),
    /// The sink does not know yet: it wants to be given the entry again with the next ones.
    UnderWay,
    /// The sink accepts nothing at the moment, for this reason: try again later.
    Retry(String),
}

/// Why an entry waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The table that has to be repaired; empty if only this entry waits.
    pub queue: Arc<str>,
    /// What is wrong, and what to do.
    pub reason: String,
    /// No entry that waits for the table can be delivered.
    pub all: bool,
}

/// What must become durable together with a batch.
pub struct Commit<'a> {
    /// New positions of the cursor.
    pub positions: &'a Positions,
    /// Removed segments whose positions are no longer needed.
    pub retired: &'a [SegmentName],
    /// Where entries go that the cursor passes although they were not delivered.
    pub aside: &'a mut Aside,
    /// Set by a sink that has stored the positions itself, after setting aside what was not delivered. Otherwise
    /// the caller does both.
    pub stored: bool,
}

/// Where entries go that the cursor passes although they were not delivered.
pub struct Aside {
    /// Those that never will be.
    pub dead: DeadLetters,
    /// Those that wait.
    pub parking: Parking,
    /// An entry is given up after being refused this often (parameter `delivery_give_up`); `None`: never.
    pub give_up: Option<u32>,
}

impl Aside {
    /// Takes an entry if its fate requires that. An entry that has been refused too often becomes a dead letter.
    /// Call [`Aside::sync`] before the cursor passes it.
    ///
    /// # Errors
    /// What cannot be written, and what to do.
    pub fn take(&mut self, entry: &Entry, fate: &mut Fate) -> Result<(), String> {
        if let Fate::Refused(reason) | Fate::Held(Hold { reason, .. }) = fate
            && entry.is_interim()
        {
            // The caller counts it, because a transaction may be repeated.
            *fate = Fate::Superseded(std::mem::take(reason));
            return Ok(());
        }
        let offers = entry.parked.as_ref().map_or(0, |p| p.offers);
        if let Fate::Refused(reason) = fate
            && self.give_up.is_some_and(|most| offers + 1 >= most)
        {
            *fate = Fate::Dead(format!("{reason}; refused {} times while others were accepted (delivery_give_up)", offers + 1));
        }
        let copied = match fate {
            Fate::Dead(reason) => return self.bury(entry, reason),
            Fate::Refused(reason) => self.parking.put(entry, &"".into(), offers + 1, reason),
            Fate::Held(hold) => self.parking.put(entry, &hold.queue, offers, &hold.reason),
            Fate::Delivered | Fate::Superseded(_) | Fate::UnderWay | Fate::Retry(_) => return Ok(()),
        };
        // The journal's largest entry leaves no room for the head of a copy.
        if copied.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::InvalidInput)
            && let Fate::Refused(reason) | Fate::Held(Hold { reason, .. }) = fate
        {
            let reason = format!("{reason}; it is too long to be retried separately");
            self.bury(entry, &reason)?;
            *fate = Fate::Dead(reason);
            return Ok(());
        }
        copied.map_err(not_copied)
    }

    /// Makes accepted entries survive a power failure.
    ///
    /// # Errors
    /// As [`Aside::take`].
    pub fn sync(&mut self) -> Result<(), String> {
        self.dead.sync().map_err(|e| self.dead.trouble(&e))?;
        self.parking.sync().map_err(not_copied)
    }

    fn bury(&mut self, entry: &Entry, reason: &str) -> Result<(), String> {
        self.dead.add(entry, reason).map_err(|e| self.dead.trouble(&e))
    }
}

fn not_copied(e: std::io::Error) -> String {
    format!("a record to be retried separately cannot be copied in journal_dir ({e}): check its free space and permissions")
}

/// Why nothing of a batch was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The sink does not accept entries now, for this reason: the same batch is tried again later.
    Outage(String),
    /// The stored cursor is not where this process left it: it has to be read again.
    Stale,
}

/// A destination, as the delivery process sees it. One task owns it, so it needs no lock.
pub trait Sink {
    /// Connects, and returns the stored cursor for the journal of this number; `None`: the sink
    /// keeps none, the caller keeps it in a file.
    fn open(&mut self, journal: u64) -> LocalFuture<'_, Result<Option<Positions>, String>>;

    /// Delivers a batch: one fate for each entry, in order, or nothing at all.
    fn deliver<'a>(&'a mut self, batch: &'a [Entry], commit: &'a mut Commit<'_>) -> LocalFuture<'a, Result<Vec<Fate>, Trouble>>;

    /// Does it go on with entries that are under way, even if the future of [`Sink::deliver`] is dropped?
    fn goes_on(&self) -> bool {
        false
    }

    /// The most entries that it wants at once, if less than `delivery_batch`.
    fn batch_max(&self) -> usize {
        usize::MAX
    }

    /// Does it store its cursor itself, in the transaction that delivers the entries?
    fn stores_cursor(&self) -> bool {
        false
    }

    /// Does it stand in for a destination that is not configured?
    fn is_off(&self) -> bool {
        false
    }

    /// Longest pause before it is tried again, if different from the parameter.
    fn pause_max(&self) -> Option<Duration> {
        None
    }

    /// The state it reports, if it stores one.
    fn stamp(&self) -> Option<Stamp> {
        None
    }

    /// Calls for which its server has asked for another interval of interim records (in seconds), since the last call of this.
    fn intervals(&mut self) -> Vec<(u128, u32)> {
        Vec::new()
    }

    /// Closes its connection in an orderly way.
    fn close(&mut self) -> LocalFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A future of this crate's single-threaded runtime.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A value for a row of a [`HostDatabase`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostValue {
    /// No value.
    Null,
    /// Bytes of text.
    Text(Vec<u8>),
    /// A moment, in seconds since 1970.
    Time(i64),
    /// A number.
    Int(i32),
}

/// A database that one of the host's own database modules serves. Its functions block.
pub trait HostDatabase: Send {
    /// Connects, after giving up an earlier connection.
    fn connect(&mut self) -> Result<(), String>;

    /// Stores one row; false when it is refused, for whatever reason.
    fn insert(&mut self, table: &str, columns: &[Arc<str>], values: &[HostValue]) -> bool;
}
