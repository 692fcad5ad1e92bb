//! A database that is older than it was: restored from a backup, or a new one. Its state counts: what it
//! lacks is delivered again, as far as it is kept.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::io;

use chrono::{DateTime, Local};

use super::tail::Tail;
use super::view::View;
use crate::accounting::clock::Wall;
use crate::journal::{Committed, Dir, Item, Positions, Segment, SegmentName, SinkId, Stamp};

/// A database that is older than it was.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewind {
    /// The state it reports; `None`: it has nothing from this journal.
    to: Option<Stamp>,
    /// The state it reported last.
    from: Committed,
}

/// Is the database older than its last known state?
pub fn rewind(stamp: Option<Stamp>, stored: &Positions, known: Option<Committed>) -> Option<Rewind> {
    let from = known?;
    match stamp {
        Some(stamp) if stamp.at < from.stamp.at => Some(Rewind { to: Some(stamp), from }),
        // If only the stamp is missing, there are rows of the cursor.
        None if stored.is_empty() => Some(Rewind { to: None, from }),
        _ => None,
    }
}

/// The instant, for people.
pub fn shown(at: Wall) -> String {
    DateTime::from_timestamp_micros(at.0).unwrap_or_default().with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Places in these segments whose entries are dead letters, including those that have been put back since.
pub fn dead_places(dir: &Dir, sink: SinkId, segments: &[Segment]) -> io::Result<HashSet<(SegmentName, u64)>> {
    let mut places = HashSet::new();
    dir.dead_places(sink, |place| {
        if segments.binary_search_by_key(&place.0, |s| s.name).is_ok() {
            places.insert(place);
        }
    })?;
    Ok(places)
}

/// Counts the entries of a sink between two places of a segment, except those that are `passed` over.
fn count(dir: &Dir, sink: SinkId, name: SegmentName, from: u64, to: u64, passed: &HashSet<(SegmentName, u64)>) -> io::Result<u64> {
    let mut reader = match dir.read_also_kept(name, from) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut count = 0;
    loop {
        match reader.read()? {
            Item::Frame(f) if f.end > to => return Ok(count),
            Item::Frame(f) => count += u64::from(f.sink_id() == Some(sink) && !passed.contains(&(name, f.offset)) && matches!(f.entry(name), Some(Ok(_)))),
            Item::Corrupt { .. } => {}
            Item::Torn { .. } | Item::End => return Ok(count),
        }
    }
}

impl Rewind {
    /// Logs what a sink sends again and what it cannot, and trusts the database from now on. Entries that were
    /// `moved` are in the parking segments.
    pub fn told(&self, dir: &Dir, id: SinkId, moved: Vec<(SegmentName, u64)>, tail: &Tail, view: &View) {
        let segments = view.with_kept();
        let mut passed = dead_places(dir, id, &segments).unwrap_or_default();
        // Their copies are counted.
        passed.extend(moved);
        let is_kept = |name: &SegmentName| view.kept.binary_search_by_key(name, |s| s.name).is_ok();
        let mut again = 0;
        for segment in segments.iter() {
            let name = segment.name;
            let from = tail.settled().get(&name).copied().unwrap_or(0);
            let to = if is_kept(&name) { u64::MAX } else { self.from.positions.get(&name).copied().unwrap_or(0) };
            if from < to {
                match count(dir, id, name, from, to, &passed) {
                    Ok(n) => again += n,
                    Err(e) => dir.pass_over(name, &e),
                }
            }
            // It is needed as long as a segment that the database has only just passed.
            if is_kept(&name)
                && let Err(e) = dir.keep_longer(name)
            {
                dir.pass_over(name, &e);
            }
        }
        let had = self.to.map_or(0, |stamp| stamp.records);
        let missing = self.from.stamp.records.saturating_sub(had).saturating_sub(again);
        let sink = id.name();
        let until = shown(dir.gone_until().ok().flatten().unwrap_or(self.from.stamp.at));
        match self.to {
            Some(stamp) => {
                log::warn!(
                    "{sink}: the database is as it was at {}, perhaps restored from a backup: the {again} records it accepted since then that are still in the journal are sent again",
                    shown(stamp.at)
                );
                if missing > 0 {
                    log::error!(
                        "{sink}: {missing} records that the database accepted from {} to {until} are no longer in it or in the journal: restore them from a later backup; to keep them for longer, raise journal_keep",
                        shown(stamp.at)
                    );
                }
            }
            None => log::warn!(
                "{sink}: the database has nothing from this journal, as if it were new: the {again} records still in the journal are sent again; {missing} earlier ones, accepted until {until}, are not (see journal_keep)"
            ),
        }
        // If the process ends now, the positions in the database say the rest.
        let believed = self.to.map(|stamp| Committed { stamp, positions: tail.settled().clone() });
        if let Err(e) = dir.set_committed(believed.as_ref()) {
            log::warn!("committed-db in journal_dir cannot be written ({e}): check its free space and permissions");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::DeadLetters;

    /// Wherever the letters are by now; only those whose segments still exist.
    #[test]
    fn letters_that_are_put_back_still_say_what_is_dead() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let segments = [1, 2].map(|seq| Segment { name: SegmentName { boot: 1, rank: 1, pid: 1, seq }, size: 100, sealed: true });
        let wanted = HashSet::from([(segments[0].name, 8), (segments[0].name, 20), (segments[1].name, 8)]);
        for (name, place) in ["requeued-db-1.jsonl", "requeueing-db-2.jsonl", "dead-db.jsonl"].iter().zip(&wanted) {
            let mut dead = DeadLetters::new(&dir, SinkId::Db);
            dead.add_unreadable(place.0, place.1, Wall(0), 9, b"?").unwrap();
            dead.add_unreadable(SegmentName { seq: 3, ..place.0 }, 8, Wall(0), 9, b"?").unwrap();
            dir.rename("dead-db.jsonl", name).unwrap();
        }
        std::fs::write(tmp.path().join("requeued-db-3.jsonl"), "{\"segment\":\"").unwrap();
        assert_eq!(dead_places(&dir, SinkId::Db, &segments).unwrap(), wanted);
    }

    #[test]
    fn only_an_older_database_is_one() {
        let stamp = |at| Stamp { at: Wall(at), records: at as u64 };
        let known = || Some(Committed { stamp: stamp(5), positions: Positions::new() });
        let some = Positions::from([(SegmentName { boot: 1, rank: 1, pid: 1, seq: 0 }, 8)]);
        // The result of the commit was never received, or the file is older.
        assert_eq!(rewind(Some(stamp(6)), &some, known()), None);
        assert_eq!(rewind(Some(stamp(5)), &some, known()), None);
        // Nothing is known about it.
        assert_eq!(rewind(Some(stamp(4)), &some, None), None);
        assert_eq!(rewind(None, &Positions::new(), None), None);
        assert_eq!(rewind(None, &some, known()), None);
        assert_eq!(rewind(Some(stamp(4)), &some, known()).unwrap().to, Some(stamp(4)));
        assert_eq!(rewind(None, &Positions::new(), known()).unwrap().to, None);
    }
}
