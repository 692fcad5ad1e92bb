//! Calls that were in progress when the server last ended: they wait here for their dialogs, and
//! those that no dialog claims in time end with a record that says so.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

use once_cell::sync::OnceCell;

use super::arena::{self, Head};
use super::shared::{SharedContext, SharedError, locked};
use crate::acc::clock::Moment;
use crate::acc::context::{Context, EndCause};
use crate::acc::decide::{self, CallEnd};
use crate::acc::record::Wall;
use crate::journal::calls::OpenCalls;
use crate::worker::{self, Module};

/// A call that waits for its dialog.
struct Waiting {
    /// Raw reference to its context, the same in every process; see [`Waiting::context`].
    raw: usize,
    /// It had ended, but for its CDR.
    ended: bool,
}

struct Revived {
    /// By the host's name of the dialog; filled before the fork.
    by_dialog: HashMap<Vec<u8>, Waiting>,
    /// The server was alive then.
    last_seen: Moment,
}

static REVIVED: OnceCell<Revived> = OnceCell::new();

fn head() -> Option<&'static Head> {
    arena::get().map(|a| a.head())
}

impl Waiting {
    /// Its context; `None` once the references are given up.
    fn context(&self) -> Option<SharedContext> {
        let head = head()?;
        let _locked = locked(&head.revival);
        if head.revival_over.load(Ordering::Relaxed) != 0 {
            return None;
        }
        // SAFETY: the reference that `prepare` made stays until `give_up`, in whichever process,
        // says under the lock that it goes.
        unsafe { SharedContext::borrow_raw(self.raw as *mut c_void) }
    }
}

/// Puts open calls back into shared memory; once, before the fork. Returns how many wait.
pub fn prepare(open: OpenCalls) -> usize {
    let last_seen = Moment { wall: open.last_seen.unwrap_or(Wall(0)), mono: 0, boot: 0 };
    let mut calls = HashMap::new();
    for state in open.calls.into_values() {
        let Some(ctx) = Context::decode(&state) else {
            log::error!("the journal holds a call in progress that cannot be read: its CDR is lost");
            continue;
        };
        match SharedContext::new(&ctx) {
            Ok(shared) => {
                shared.set_in_journal();
                calls.insert(ctx.dialog, (shared, ctx.ended.is_some()));
            }
            Err(e) => log::error!("a call in progress at the last end of the server cannot be restored: {e}"),
        }
    }
    let waiting = calls.len();
    let by_dialog = calls.into_iter().map(|(name, (ctx, ended))| (name, Waiting { raw: ctx.into_raw() as usize, ended })).collect();
    let _ = REVIVED.set(Revived { by_dialog, last_seen });
    waiting
}

/// What a restored dialog finds.
pub enum Claim {
    /// Its call goes on.
    Open(SharedContext),
    /// Its call is over: there is nothing to follow.
    Over,
}

/// A restored dialog asks for its call; `None` when it is not known.
pub fn claim(dialog: &[u8]) -> Option<Claim> {
    let Some(ctx) = REVIVED.get()?.by_dialog.get(dialog)?.context() else { return Some(Claim::Over) };
    ctx.claim();
    Some(if ctx.progress().is_ok_and(|p| !p.closed) { Claim::Open(ctx) } else { Claim::Over })
}

/// The time to claim is over: what nobody claimed ends, at the last moment the server was seen
/// alive unless its end is known. When all could be ended there is nothing to do the next times.
pub fn end_orphans() {
    let (Some(revived), Some(module), Some(head)) = (REVIVED.get(), worker::module(), head()) else { return };
    if head.revival_over.load(Ordering::Acquire) != 0 {
        return;
    }
    let mut all = true;
    for waiting in revived.by_dialog.values() {
        let Some(ctx) = waiting.context() else { return };
        let claimed = ctx.is_claimed();
        match end_orphan(module, revived, waiting, &ctx, claimed) {
            Ok(Some(end)) => {
                if !claimed {
                    log::warn!("a call in progress at the last end of the server came back with no dialog: its CDR ends when the server was last seen alive");
                }
                worker::emit_end(module, &end);
            }
            Ok(None) => {}
            Err(e) => {
                all = false;
                log::error!("a call in progress at the last end of the server could not be accounted: {e}");
            }
        }
    }
    if all {
        give_up(revived, head);
    }
}

fn end_orphan(module: &Module, revived: &Revived, waiting: &Waiting, ctx: &SharedContext, claimed: bool) -> Result<Option<CallEnd>, SharedError> {
    if claimed && !waiting.ended {
        return Ok(None);
    }
    // Claimed and ended: its BYE came before the crash, and the dialog does not know it: no other
    // will come.
    ctx.update(|c| {
        if !claimed {
            let answered = c.answered.unwrap_or_default();
            let last = Moment { wall: revived.last_seen.wall.max(answered.wall), ..revived.last_seen };
            decide::on_end(c, EndCause::Orphan, last);
        }
        decide::cdr(&module.config, c)
    })
}

/// The contexts belong to their dialogs alone from now on; the names stay, so that a dialog restored
/// later does not begin its call anew.
fn give_up(revived: &Revived, head: &Head) {
    let is_first = {
        let _locked = locked(&head.revival);
        head.revival_over.swap(1, Ordering::AcqRel) == 0
    };
    if is_first {
        for waiting in revived.by_dialog.values() {
            // SAFETY: the reference that `prepare` made; nobody borrows it any more, and no other
            // process comes here.
            drop(unsafe { SharedContext::from_raw(waiting.raw as *mut c_void) });
        }
    }
}
