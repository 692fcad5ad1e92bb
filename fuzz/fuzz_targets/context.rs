//! The codecs of contexts (shared memory, dialogs, journal) and of records (journal).
#![no_main]

use acc::accounting::context::Context;
use acc::accounting::record::Record;
use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::bounded;

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    if let Some(context) = Context::decode(input) {
        let mut again = Vec::new();
        context.encode(&mut again);
        assert_eq!(Context::decode(&again).as_ref(), Some(&context));
        assert_eq!(again.len(), input.len());
        assert_eq!(Context::decode(&again[..again.len() - 1]), None);
        // Values and legs of another context change nothing that is not a value.
        let mut merged = context.clone();
        merged.merge_values(&context, input.len());
        assert_eq!(merged.core, context.core);
        for index in [None, Some(0), Some(-1), Some(i64::MIN), Some(i64::MAX)] {
            assert!(context.leg_index(index).is_none_or(|i| i < context.legs.len()));
        }
    }
    if let Some(record) = Record::decode(input) {
        let mut again = Vec::new();
        record.encode(&mut again);
        assert_eq!(Record::decode(&again).as_ref(), Some(&record));
        assert_eq!(again.len(), input.len());
        // Everything that formats a record takes any.
        let line = acc::backend::log::line(&record);
        // Names come from the configuration, which takes no others.
        let mut names = record.extras.iter().chain(record.legs.iter().flatten()).map(|f| f.name.as_bytes());
        if names.all(|name| name.iter().all(u8::is_ascii_graphic)) {
            assert!(!line.contains(&b'\n') && !line.contains(&0));
        }
        let json = acc::journal::json::record(&record).to_string();
        assert!(!json.contains('\n'));
        for params in acc::backend::event::params(&record) {
            assert!(!params.is_empty());
        }
    }
}));
