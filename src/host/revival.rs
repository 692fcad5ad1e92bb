//! Calls that were in progress when the server last ended: they wait here for their dialogs, and
//! those that no dialog claims in time end with a record that says so.

use std::collections::{HashMap, HashSet};

use once_cell::sync::OnceCell;

use super::shared::SharedContext;
use crate::acc::clock::Moment;
use crate::acc::context::{Context, EndCause};
use crate::acc::decide;
use crate::acc::record::Wall;
use crate::journal::calls::OpenCalls;
use crate::worker;

struct Revived {
    /// Address of each waiting context, by the host's name of its dialog. Filled before the fork:
    /// the addresses are the same in every process, and the references are never given up.
    by_dialog: HashMap<Vec<u8>, SharedContext>,
    /// Of these, the calls that had ended, but for their CDR.
    ended: HashSet<Vec<u8>>,
    /// The server was alive then.
    last_seen: Moment,
}

static REVIVED: OnceCell<Revived> = OnceCell::new();

// SAFETY: see SharedContext: atomics and locks only.
unsafe impl Sync for SharedContext {}

/// Puts open calls back into shared memory; once, before the fork. Returns how many wait.
pub fn prepare(open: OpenCalls) -> usize {
    let last_seen = Moment { wall: open.last_seen.unwrap_or(Wall(0)), mono: 0, boot: 0 };
    let (mut by_dialog, mut ended) = (HashMap::new(), HashSet::new());
    for state in open.calls.into_values() {
        let Some(ctx) = Context::decode(&state) else {
            log::error!("the journal holds a call in progress that cannot be read: its CDR is lost");
            continue;
        };
        match SharedContext::new(&ctx) {
            Ok(shared) => {
                if ctx.ended.is_some() {
                    ended.insert(ctx.dialog.clone());
                }
                by_dialog.insert(ctx.dialog, shared);
            }
            Err(e) => log::error!("a call in progress at the last end of the server cannot be restored: {e}"),
        }
    }
    let waiting = by_dialog.len();
    let _ = REVIVED.set(Revived { by_dialog, ended, last_seen });
    waiting
}

/// A restored dialog asks for its call.
pub fn claim(dialog: &[u8]) -> Option<SharedContext> {
    let ctx = REVIVED.get()?.by_dialog.get(dialog)?;
    ctx.claim();
    Some(ctx.duplicate())
}

/// The time to claim is over: what nobody claimed ends, at the last moment the server was seen
/// alive unless its end is known.
pub fn end_orphans() {
    let (Some(revived), Some(module)) = (REVIVED.get(), worker::module()) else { return };
    for ctx in revived.by_dialog.values() {
        let claimed = ctx.is_claimed();
        let end = ctx.update(|c| {
            if claimed {
                // Its BYE came before the crash, and the dialog does not know it: no other will come.
                return if revived.ended.contains(&c.dialog) { decide::cdr(&module.config, c) } else { None };
            }
            let answered = c.answered.unwrap_or_default();
            let last = Moment { wall: revived.last_seen.wall.max(answered.wall), ..revived.last_seen };
            decide::on_end(c, EndCause::Orphan, last);
            decide::cdr(&module.config, c)
        });
        match end {
            Ok(Some(end)) if claimed => worker::emit_end(module, end),
            Ok(Some(end)) => {
                log::warn!("a call in progress at the last end of the server came back with no dialog: its CDR ends when the server was last seen alive");
                worker::emit_end(module, end);
            }
            Ok(None) => {}
            Err(e) => log::error!("a call in progress at the last end of the server could not be accounted: {e}"),
        }
    }
}
