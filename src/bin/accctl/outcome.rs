//! What a command says in the end.

use std::process::ExitCode;

/// What a command prints, and its exit status: 0 all is well, 1 it found a problem, 2 (an error) it could not run.
pub type Outcome = Result<(String, ExitCode), String>;
