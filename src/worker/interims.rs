//! Interim records that are events: the delivery process makes them, and one of the server's processes raises each of them.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::accounting::record::Record;
use crate::backend::event::Event;
use crate::journal::calls::INTERIM_RANK;
use crate::journal::{Item, KIND_RECORD, SegmentName};
use crate::stats;

/// How far each segment was read.
static READ: Mutex<Option<HashMap<SegmentName, u64>>> = Mutex::new(None);

/// Raises what has been added since the last time. Called every second; in OpenSIPS by whichever process is free.
pub fn raise() {
    let Some(instance) = super::instance().filter(|_| stats::has_reports()) else { return };
    let Some(dir) = instance.journal.as_ref() else { return };
    // Events without a listener are not raised later.
    let is_heard = instance.host.has_listeners(Event::Interim);
    let Ok(segments) = dir.segments() else { return };
    let mut guard = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let read = guard.get_or_insert_default();
    let ours = |name: &SegmentName| name.rank == INTERIM_RANK && name.boot == dir.boot();
    read.retain(|name, _| segments.binary_search_by_key(name, |s| s.name).is_ok());
    for segment in segments.iter().filter(|s| ours(&s.name)) {
        let position = read.entry(segment.name).or_default();
        if *position >= segment.size {
            continue;
        }
        let Ok(mut reader) = dir.read(segment.name, *position) else { continue };
        while let Ok(Item::Frame(frame)) = reader.read() {
            if frame.kind == KIND_RECORD
                && frame.sink_id().is_none()
                && let Some(record) = Record::report_of(frame.payload)
                && stats::claim_interim(segment.name.pid, segment.name.seq, frame.end)
                && is_heard
            {
                super::raise(instance, &record);
            }
        }
        *position = reader.position();
    }
}
