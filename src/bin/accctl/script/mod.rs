//! Reads a server's configuration: its tokens, and what its routes do.
#![forbid(unsafe_code)]

pub mod lexer;
pub mod parser;
