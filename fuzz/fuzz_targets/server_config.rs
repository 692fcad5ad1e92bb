//! The configuration of a server, with Kamailio's preprocessor, and a file that it may include behind a line of '='.
#![no_main]

// Of the tool, not of the library.
#[allow(dead_code)]
#[path = "../../src/bin/accctl/script/mod.rs"]
mod script;

use libfuzzer_sys::fuzz_target;
use opensips_acc_fuzz::{bounded, directory, text};
use script::{lexer, parser};

fuzz_target!(|input: &[u8]| bounded(input.len(), || {
    let text = text(input);
    let (main, included) = text.split_once("\n=\n").unwrap_or((&text, ""));
    let file = directory().join("server.cfg");
    std::fs::write(&file, main).expect("a file");
    std::fs::write(directory().join("more"), included).expect("a file");
    let read = lexer::read(&file, &["GIVEN=1".to_string()]);
    let parsed = read.as_ref().map_err(Clone::clone).and_then(parser::parse);
    match (read, parsed) {
        (Ok(tokens), parsed) => {
            assert!(tokens.all.iter().all(|token| token.at.line > 0 && (token.at.file as usize) < tokens.files.len()));
            let mut calls = std::collections::HashSet::new();
            for route in parsed.iter().flat_map(|script| &script.routes) {
                parser::expressions(&route.body, &mut |expr| {
                    expr.walk(&mut |seen| {
                        if let parser::Seen::Call(call) = seen {
                            assert!(calls.insert(call.id), "a call is there twice");
                        }
                    });
                });
            }
        }
        (Err(reason), _) => assert!(!reason.is_empty()),
    }
}));
