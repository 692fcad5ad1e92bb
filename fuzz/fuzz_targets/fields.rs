//! The grammar of extra_fields and leg_fields: one definition for each line.
#![no_main]

use std::collections::{HashMap, HashSet};

use acc::accounting::fields::FieldSet;
use acc::accounting::names::is_identifier;
use acc::accounting::record::Backend;
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::{bounded, text};

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let (mut set, mut accepted) = (FieldSet::default(), FieldSet::default());
    for definition in text(input).split('|') {
        if let Ok(warnings) = set.add(definition) {
            assert_eq!(accepted.add(definition), Ok(warnings));
        }
    }
    assert_eq!(set, accepted, "what was refused leaves nothing behind");
    let places: HashMap<_, _> = set.tags.iter().enumerate().map(|(place, tag)| (tag, place)).collect();
    assert_eq!(places.len(), set.tags.len(), "one place for a tag");
    for (tag, place) in places {
        assert_eq!(set.tag(tag), Some(place));
    }
    // What was understood, written out, is understood as the same.
    let mut again = FieldSet::default();
    for backend in Backend::ALL {
        let mut tags = HashSet::new();
        for decl in set.of(backend) {
            assert!(tags.insert(decl.tag), "one field for a tag");
            assert!(backend != Backend::Db || is_identifier(&decl.name));
            assert_eq!(again.add(&format!("{}:{}->{}", backend.name(), set.tags[decl.tag], decl.name)), Ok(vec![]));
        }
    }
    for backend in Backend::ALL {
        let named = |set: &FieldSet| set.of(backend).iter().map(|d| (set.tags[d.tag].clone(), d.name.clone())).collect::<Vec<_>>();
        assert_eq!(named(&set), named(&again));
    }
}));
