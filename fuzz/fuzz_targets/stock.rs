//! State that the original module left in a dialog: an input has a value for each of its names.
#![no_main]

use acc::accounting::context::Context;
use acc::accounting::fields::Fields;
use acc::accounting::stock;
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::{Pieces, bounded};

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let mut fields = Fields::default();
    fields.extra.add("db:a;b;c").expect("fields");
    fields.leg.add("log:x;y").expect("fields");
    let mut pieces = Pieces(input);
    let given = pieces.byte();
    // The fixed ones have their length, so that most inputs come to the others.
    let value = |name: &str, pieces: &mut Pieces<'_>| match name {
        stock::FLAGS | stock::CREATED => Some((0..8).map(|_| pieces.byte()).collect::<Vec<u8>>()),
        _ => Some(pieces.bytes().to_vec()),
    };
    let mut asked = 0;
    let imported = stock::import(&fields, |name| {
        asked += 1;
        (given >> (asked % 8) & 1 == 0).then(|| value(name, &mut pieces)).flatten()
    });
    let Some(context) = imported else { return };
    assert!(context.marked && context.answered.is_some() && !context.closed);
    assert!(context.extra.get(b"no such tag").is_none());
    let mut bytes = Vec::new();
    context.encode(&mut bytes);
    assert_eq!(Context::decode(&bytes).as_ref(), Some(&context));
}));
