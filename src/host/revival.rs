//! Calls that were in progress when the server last ended: they wait here for their dialogs, and
//! those that no dialog claims in time end with a record that says so.

use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::sync::atomic::Ordering;

use once_cell::sync::OnceCell;

use super::arena::{self, Head};
use super::cluster::{self, Known, Named};
use super::outcome;
use super::pid::locked;
use super::shared::{SharedContext, SharedError};
use crate::accounting::call_key::dialog_key;
use crate::accounting::clock::Moment;
use crate::accounting::context::CallEnd;
use crate::accounting::context::Context;
use crate::accounting::decide;
use crate::accounting::marks::Flag;
use crate::accounting::record::EndCause;
use crate::config::Orphans;
use crate::journal::calls::OpenCalls;
use crate::stats;
use crate::worker::{self, Instance};

/// A call that waits for its dialog.
struct Waiting {
    /// See [`Context::call_key`].
    call: u128,
    /// Raw reference to its context, the same in every process; see [`Waiting::context`].
    raw: usize,
    /// It had ended; only its CDR was missing.
    ended: bool,
    /// When the server that followed it was last alive.
    last_seen: Moment,
}

struct Revived {
    /// By the host's name of the dialog; two nodes of a cluster may give the same name to different dialogs.
    /// Filled before the fork.
    by_dialog: HashMap<Vec<u8>, Vec<Waiting>>,
    /// Keys of the names of dialogs that the host may restore although their calls were over before this start.
    over: HashSet<u128>,
}

static REVIVED: OnceCell<Revived> = OnceCell::new();

impl Revived {
    fn of_dialog(&self, dialog: &[u8]) -> &[Waiting] {
        self.by_dialog.get(dialog).map_or(&[], Vec::as_slice)
    }

    fn get(&self, named: &Named) -> Option<&Waiting> {
        self.of_dialog(&named.dialog).iter().find(|w| w.call == named.call)
    }

    fn all(&self) -> impl Iterator<Item = &Waiting> {
        self.by_dialog.values().flatten()
    }
}

fn head() -> Option<&'static Head> {
    arena::get().map(|a| a.head())
}

impl Waiting {
    /// Can this be the call of a dialog of this name? Two nodes of a cluster may give the same name to different
    /// dialogs. A state from before the answer has no key yet.
    fn may_be(&self, state: Option<&Context>) -> bool {
        state.is_none_or(|c| c.answered.is_none() || c.call_key() == self.call)
    }

    /// Its context; `None` once the references have been given up.
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

/// The values that a call has from its INVITE on: a dialog's own CDR has no To tag.
fn begins(ctx: &Context) -> (Vec<u8>, Vec<u8>) {
    (ctx.core.callid.clone(), ctx.core.from_tag.clone())
}

/// Puts open calls back into shared memory; once, before the fork. Returns how many wait.
pub fn prepare(open: OpenCalls) -> usize {
    for (call, guessed) in open.ended {
        cluster::remember(call, Known::of(guessed));
    }
    let mut by_dialog: HashMap<Vec<u8>, Vec<Waiting>> = HashMap::new();
    let mut calls = Vec::with_capacity(open.calls.len());
    for call in open.calls.into_values() {
        match Context::decode(&call.state) {
            Some(ctx) => calls.push((ctx, call.last_seen.unwrap_or_default())),
            None => log::error!("the journal holds a call in progress that cannot be read: its CDR is lost"),
        }
    }
    // A dialog's own CDR and a call of `do_accounting()` in the same dialog are one call.
    let counted: HashSet<_> = calls.iter().map(|(c, _)| c).filter(|c| !c.is_of_dialog()).map(begins).collect();
    let twice: Vec<_> = calls.iter().map(|(c, _)| c.is_of_dialog() && counted.contains(&begins(c))).collect();
    for ((ctx, last_seen), twice) in calls.into_iter().zip(twice) {
        match SharedContext::new(&ctx) {
            Ok(shared) => {
                shared.set_in_journal();
                if twice {
                    shared.set_uncounted();
                }
                if !ctx.marks.reported(Flag::Start).is_empty() {
                    stats::expect_reports();
                }
                let (call, ended) = (ctx.call_key(), ctx.ended.is_some());
                by_dialog.entry(ctx.head.dialog).or_default().push(Waiting { call, raw: shared.into_raw() as usize, ended, last_seen });
            }
            Err(e) => log::error!("a call that was in progress when the server last stopped cannot be restored: {e}"),
        }
    }
    let waiting = by_dialog.values().map(Vec::len).sum();
    let _ = REVIVED.set(Revived { by_dialog, over: open.dialogs });
    waiting
}

/// What a restored dialog finds.
pub enum Claim {
    /// Its call goes on.
    Open(SharedContext),
    /// Its call is over: there is nothing to follow.
    Over,
}

/// A restored dialog, which may have a `state` of its call, claims its call; `None` if that is not known.
pub fn claim(dialog: &[u8], state: Option<&Context>) -> Option<Claim> {
    let claim = known(dialog, state)?;
    if matches!(claim, Claim::Over) {
        stays_over(dialog);
    }
    Some(claim)
}

/// The host has a dialog whose call is over. Nothing ends it but its lifetime: the next start may find it again.
fn stays_over(dialog: &[u8]) {
    if let Some(instance) = worker::instance().filter(|i| i.host.restores_dialogs()) {
        worker::restored_over(instance, dialog);
    }
}

fn known(dialog: &[u8], state: Option<&Context>) -> Option<Claim> {
    let revived = REVIVED.get()?;
    let Some(waiting) = revived.of_dialog(dialog).iter().find(|w| w.may_be(state)) else {
        return revived.over.contains(&dialog_key(dialog)).then_some(Claim::Over);
    };
    let Some(ctx) = waiting.context() else { return Some(Claim::Over) };
    ctx.claim();
    if ctx.progress().closed {
        return Some(Claim::Over);
    }
    // Only with a state from this start will there be interim records again, and it is known that the call was followed in this start.
    if let Err(e) = ctx.restate() {
        log::error!(
            "a call that was in progress when the server last stopped gets no interim records, and after a crash it would end when that server stopped: {e}"
        );
    }
    Some(Claim::Open(ctx))
}

/// A call that still waits, with its context.
fn find(named: &Named) -> Option<(&'static Waiting, SharedContext)> {
    let waiting = REVIVED.get()?.get(named)?;
    waiting.context().filter(|ctx| !ctx.is_claimed() && !ctx.progress().closed).map(|ctx| (waiting, ctx))
}

/// Calls that no dialog has claimed yet.
pub fn waiting() -> Vec<Named> {
    let all = REVIVED.get().into_iter().flat_map(|r| &r.by_dialog);
    let named = all.flat_map(|(dialog, calls)| calls.iter().map(|w| Named { call: w.call, dialog: dialog.clone() }));
    named.filter(|named| find(named).is_some()).collect()
}

/// Another node has written the CDR.
pub fn settled(named: &Named) {
    let known = REVIVED.get().and_then(|r| r.get(named));
    if let Some(ctx) = known.and_then(Waiting::context)
        && let Err(e) = ctx.happen(decide::close)
    {
        log::error!("a call that another node has ended could not be closed: {e}");
    }
}

/// Another node has the call, for now. That does not apply to a call whose end is known here.
pub fn is_elsewhere(named: &Named) {
    if let Some((_, ctx)) = find(named).filter(|(w, _)| !w.ended) {
        ctx.set_elsewhere();
    }
}

/// Does this call wait here, and will this node write it although another one asks for it, too? If it ended
/// here, yes; otherwise only with `if_both`.
pub fn answers_for(named: &Named, if_both: bool) -> bool {
    find(named).is_some_and(|(w, _)| w.ended || if_both)
}

/// The time to claim calls is over: those that nobody claimed end, at the last moment when the server that followed
/// them was seen alive, unless their end is known. Once all have been ended, later calls of this do nothing.
pub fn end_orphans() {
    let (Some(revived), Some(instance), Some(head)) = (REVIVED.get(), worker::instance(), head()) else { return };
    if head.revival_over.load(Ordering::Acquire) != 0 || !cluster::may_end_orphans() {
        return;
    }
    let (mut all, mut without_dialog) = (true, 0u64);
    for (dialog, waiting) in revived.by_dialog.iter().flat_map(|(dialog, calls)| calls.iter().map(move |w| (dialog, w))) {
        let Some(ctx) = waiting.context() else {
            all = false;
            break;
        };
        let claimed = ctx.is_claimed();
        if !claimed && ctx.take_elsewhere() {
            // Until the node that has it no longer says so.
            all = false;
            continue;
        }
        match end_orphan(instance, waiting, &ctx, claimed) {
            Ok(Some(end)) if !claimed && !waiting.ended && instance.config.orphans == Orphans::Hold => worker::hold(instance, &end),
            Ok(Some(end)) => {
                without_dialog += u64::from(!claimed);
                outcome::finish_call(instance, &ctx, Some(end));
                if claimed {
                    stays_over(dialog);
                }
            }
            Ok(None) => {}
            Err(e) => {
                all = false;
                log::error!("a call that was in progress when the server last stopped could not be accounted: {e}");
            }
        }
    }
    if without_dialog > 0 {
        log::warn!(
            "calls that were in progress when the server last stopped came back without a dialog: the CDRs of these {without_dialog} end when the server was last seen alive"
        );
    }
    if all {
        give_up(revived, head);
    }
}

fn end_orphan(instance: &Instance, waiting: &Waiting, ctx: &SharedContext, claimed: bool) -> Result<Option<CallEnd>, SharedError> {
    if claimed && !waiting.ended {
        return Ok(None);
    }
    // Claimed and ended: its BYE came before the crash, but the dialog does not know, and there will be
    // no other BYE.
    ctx.happen(|c| {
        if !claimed {
            let answered = c.answered.unwrap_or_default();
            let last = Moment { wall: waiting.last_seen.wall.max(answered.wall), ..waiting.last_seen };
            decide::on_end(c, EndCause::Orphan, last);
        }
        decide::cdr(&instance.config.rules, c)
    })
}

/// From now on the contexts belong to their dialogs alone. The names stay, so that a dialog that is restored
/// later does not begin its call again.
fn give_up(revived: &Revived, head: &Head) {
    let is_first = {
        let _locked = locked(&head.revival);
        head.revival_over.swap(1, Ordering::AcqRel) == 0
    };
    if is_first {
        for waiting in revived.all() {
            // SAFETY: the reference that `prepare` made; nobody borrows it any more, and no other
            // process comes here.
            drop(unsafe { SharedContext::from_raw(waiting.raw as *mut c_void) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialog_claims_no_call_of_another_with_its_name() {
        let mut ours = Context::new(Moment::now(), false);
        ours.core.callid = b"ours".to_vec();
        let mut other = ours.clone();
        other.answered = Some(Moment::now());
        other.core.callid = b"other".to_vec();
        let of = |c: &Context| Waiting { call: c.call_key(), raw: 0, ended: false, last_seen: Moment::default() };
        let waiting = of(&ours);
        assert!(waiting.may_be(None) && waiting.may_be(Some(&ours)));
        ours.answered = other.answered;
        assert!(waiting.may_be(Some(&ours)) && !waiting.may_be(Some(&other)));

        let dialog = b"1a2b.3c4d".to_vec();
        let revived = Revived { by_dialog: HashMap::from([(dialog.clone(), vec![of(&ours), of(&other)])]), over: HashSet::new() };
        for call in [ours.call_key(), other.call_key()] {
            assert_eq!(revived.get(&Named { call, dialog: dialog.clone() }).map(|w| w.call), Some(call));
        }
        assert_eq!(revived.of_dialog(&dialog).iter().find(|w| w.may_be(Some(&other))).map(|w| w.call), Some(other.call_key()));
        assert_eq!((revived.all().count(), revived.of_dialog(b"other").len()), (2, 0));
    }
}
