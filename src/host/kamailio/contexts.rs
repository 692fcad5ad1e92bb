//! Which accounting context is in force: the message's, else the transaction's, else the dialog's
//! (docs/ARCHITECTURE.md, "Look-up order").

use super::abi::{km_cell, km_sip_msg};
use super::attached::{self, Which};
use super::present;
use super::state::{Api, DIALOGS};
use crate::acc::clock::Moment;
use crate::acc::context::Context;
use crate::host::shared::{SharedContext, SharedError};

/// The context attached to a transaction.
pub fn there(t: *mut km_cell, which: Which) -> Option<SharedContext> {
    attached::table()?.get(t.cast(), which)
}

/// The context in force.
pub fn find(api: &Api, msg: *mut km_sip_msg) -> Option<SharedContext> {
    present::get(msg, Which::InForce).or_else(|| api.tm.current().and_then(|t| there(t, Which::InForce))).or_else(|| {
        let dialogs = DIALOGS.get()?;
        let dialog = dialogs.of(msg)?;
        dialogs.context(dialog.raw)
    })
}

/// Arrival of the request whose transaction is being processed, else of the message at hand.
pub fn arrival(api: &Api, msg: *mut km_sip_msg) -> Moment {
    let of_transaction = || attached::table()?.arrival(api.tm.current()?.cast());
    of_transaction().or_else(|| present::arrived(msg)).unwrap_or_else(Moment::now)
}

/// Attaches a new context to the message and its transaction.
pub fn make(api: &Api, msg: *mut km_sip_msg, has_leg_fields: bool) -> Result<SharedContext, SharedError> {
    let ctx = SharedContext::new(&Context::new(arrival(api, msg), has_leg_fields))?;
    present::put(msg, Which::InForce, Some(ctx.duplicate()));
    if let Some(t) = api.tm.current()
        && there(t, Which::InForce).is_none()
    {
        api.tm.put(t, Which::InForce, ctx.duplicate());
    }
    Ok(ctx)
}

/// The call `call` is known now: what the script set on this message before goes into it (D22),
/// and marks made before stay with the request alone (D13).
pub fn join(api: &Api, msg: *mut km_sip_msg, call: &SharedContext) {
    let before = present::get(msg, Which::InForce);
    if before.as_ref().is_some_and(|c| c.same(call)) {
        return;
    }
    let t = api.tm.current();
    if let Some(own) = before {
        let joined = own.read(Context::clone).and_then(|values| {
            let marks = call.update(|c| {
                c.merge_values(&values);
                c.marks
            })?;
            if values.marked {
                own.set_call(call);
                own.update(|c| c.marks = c.marks.without_cdr().outside_cdr_of(marks))?;
                present::put(msg, Which::Own, Some(own.duplicate()));
            }
            Ok(())
        });
        if let Err(e) = joined {
            log::error!("values set before the dialog was matched are lost: {e}");
        }
        if let Some(t) = t
            && there(t, Which::InForce).is_some_and(|c| c.same(&own))
        {
            api.tm.put(t, Which::InForce, call.duplicate());
        }
    }
    present::put(msg, Which::InForce, Some(call.duplicate()));
}
