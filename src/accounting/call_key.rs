//! What names a call in the journal and in all its records.
#![forbid(unsafe_code)]

use super::clock::Wall;
use super::identity::Identity;

/// Bytes of the To tag in the key of a call. A longer one may have been clipped if the arena was full at
/// the answer, while the journal has all of it: both must give the same key.
pub const TAG_IN_KEY: usize = 200;

/// What names a call, whichever of its CDRs is meant.
pub(crate) fn begun(callid: &[u8], from_tag: &[u8], to_tag: &[u8], arrived: Wall) -> Identity {
    let mut id = Identity::new();
    id.eat(callid);
    id.eat(from_tag);
    id.eat(&to_tag[..to_tag.len().min(TAG_IN_KEY)]);
    id.eat(&arrived.0.to_le_bytes());
    id
}

/// Key of the call with these values, the same in all its records.
pub fn call_key(callid: &[u8], from_tag: &[u8], to_tag: &[u8], arrived: Wall) -> u128 {
    begun(callid, from_tag, to_tag, arrived).finish()
}

/// Stands for a dialog's name in the journal once its call is over.
pub fn dialog_key(name: &[u8]) -> u128 {
    let mut id = Identity::new();
    id.eat(name);
    id.finish()
}

/// A call may have a CDR of its own and one of its dialog.
pub(crate) fn finished(mut id: Identity, is_of_dialog: bool) -> u128 {
    if is_of_dialog {
        id.eat(b"dialog");
    }
    id.finish()
}
