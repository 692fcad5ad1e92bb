//! What a Diameter peer sends: messages one behind the other, as they are taken from a connection.
#![no_main]

use acc::backend::diameter::codec::{Avps, HEADER, Writer, decode, length};
use acc::backend::diameter::message::{Node, Verdict, disconnect_cause};
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::bounded;

/// Bytes of all values, groups read as groups to this depth.
fn read(avps: Avps<'_>, depth: u32, into: &mut Writer) -> usize {
    let mut sum = 0;
    for avp in avps.flatten() {
        sum += 8 + avp.value.len();
        into.put(&avp.attribute, avp.value);
        if depth > 0 {
            let inner = read(avp.members(), depth - 1, into);
            assert!(inner <= avp.value.len());
        }
    }
    sum
}

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let node = Node { identity: "a.b".into(), realm: "b".into(), tgpp: false };
    let mut rest = input;
    while let Ok(Some(n)) = length(rest) {
        let Some((message, behind)) = rest.split_at_checked(n) else { break };
        rest = behind;
        let (header, avps) = decode(message).expect("of this length");
        let verdict = Verdict::of(avps.clone());
        assert!(!verdict.describe("p").contains('\n'));
        let cause = disconnect_cause(avps.clone());
        assert!(cause == 0 || message.len() > HEADER);
        // An answer has the identifiers of its request, and can be read.
        let answer = node.answer(&header, avps.clone());
        let (answered, mut own) = decode(&answer).expect("a message");
        assert_eq!((answered.hop_by_hop, answered.end_to_end, answered.command), (header.hop_by_hop, header.end_to_end, header.command));
        assert!(!answered.is_request() && own.all(|a| a.is_ok()));
        // What was read is written the same way.
        let mut copy = Writer::new(&header);
        assert!(read(avps.clone(), 0, &mut copy) + HEADER <= message.len());
        let copy = copy.finish().expect("not longer than it was");
        let (again, copied) = decode(&copy).expect("a message");
        assert_eq!(again, header);
        assert!(copied.flatten().eq(avps.clone().flatten()));
        read(avps, 3, &mut Writer::part());
    }
}));
