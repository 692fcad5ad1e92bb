//! The grammar of extra_fields and leg_fields: one definition for each line.
#![no_main]

use acc::acc::fields::{FieldSet, is_identifier};
use acc::acc::record::Backend;
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::{bounded, text};

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let mut set = FieldSet::default();
    for definition in text(input).split('|') {
        let before = set.clone();
        if set.add(definition).is_err() {
            assert_eq!(set, before);
        }
    }
    // What was understood, written out, is understood as the same.
    let mut again = FieldSet::default();
    for backend in Backend::ALL {
        let mut tags = Vec::new();
        for decl in set.of(backend) {
            assert!(!tags.contains(&decl.tag), "one field for a tag");
            tags.push(decl.tag);
            assert!(backend != Backend::Db || is_identifier(&decl.name));
            assert_eq!(set.tag(&set.tags[decl.tag]), Some(decl.tag));
            assert_eq!(again.add(&format!("{}:{}->{}", backend.name(), set.tags[decl.tag], decl.name)), Ok(vec![]));
        }
    }
    for backend in Backend::ALL {
        let named = |set: &FieldSet| set.of(backend).iter().map(|d| (set.tags[d.tag].clone(), d.name.clone())).collect::<Vec<_>>();
        assert_eq!(named(&set), named(&again));
    }
}));
