//! Flags by name.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use crate::script::lexer::{Kind, Token, Tokens};
use crate::script::parser::plain;

/// Functions of flags.
pub const OF_FLAGS: [&str; 3] = ["setflag", "resetflag", "isflagset"];

/// Replaces the names that `flags NAME:NUMBER` gives to flags by numbers.
pub fn name_flags(tokens: &mut Tokens) {
    let mut numbers = HashMap::new();
    let mut depth = 0;
    for (i, token) in tokens.all.iter().enumerate() {
        match token.kind {
            Kind::Sign('{') => depth += 1,
            Kind::Sign('}') => depth -= 1,
            _ => {}
        }
        if depth != 0 || token.word() != Some("flags") {
            continue;
        }
        let mut rest = &tokens.all[i + 1..];
        while let Some((name, after)) = rest.split_first() {
            rest = after;
            if let [colon, Token { kind: Kind::Number(number), .. }, behind @ ..] = after
                && colon.is(':')
            {
                numbers.insert(plain(name), *number);
                rest = behind;
            }
            match rest.split_first() {
                Some((comma, next)) if comma.is(',') => rest = next,
                _ => break,
            }
        }
    }
    for all in [&mut tokens.all, &mut tokens.left_out] {
        for i in 2..all.len() {
            if all[i - 2].word().is_some_and(|word| OF_FLAGS.contains(&word))
                && all[i - 1].is('(')
                && matches!(all[i].kind, Kind::Word(_) | Kind::Text(_))
                && let Some(number) = numbers.get(&plain(&all[i]))
            {
                all[i].kind = Kind::Number(*number);
            }
        }
    }
}
