//! What accounting by message flags, and variables in CDRs of dialogs, need of the server: looked up in initialisation.

use super::message::Spec;
use super::symbols::Symbols;
use crate::accounting::extras::{Class, Extras, Variable};
use crate::accounting::flags::{FlagName, FlagRules};
use crate::config;

/// What initialisation prepares.
pub struct ByFlags {
    pub rules: FlagRules,
    /// By variable.
    pub specs: Vec<Spec>,
    /// Some extra is of the branch, or of the reply.
    pub has_branches: bool,
    pub has_replies: bool,
    /// Some extra is of the dialog.
    pub has_dialogs: bool,
    /// `$hdr(Via)`: its branch parameter tells which of our branches a reply belongs to.
    pub via: Spec,
    /// `$hdr(Reason)`, with `reason_from_hf`.
    pub reason: Option<Spec>,
    /// `$T_branch_idx`, if tmx is loaded.
    pub branch: Option<Spec>,
}

impl ByFlags {
    /// The variable with this index.
    pub fn spec(&self, index: usize) -> Spec {
        self.specs[index]
    }

    /// Looks up everything; `None` if nothing is accounted by flags.
    pub fn new(symbols: &Symbols, by_flags: &config::ByFlags, extras: &Extras, reason_from_hf: bool) -> Result<ByFlags, String> {
        let number = |name: &FlagName| match name {
            FlagName::Number(n) => Ok(*n),
            FlagName::Name(name) => Err(format!("\"{}\" is not a message flag: in Kamailio flags have numbers from 0 to 31", name.escape_debug())),
        };
        let flags = by_flags.names.resolve(number)?;
        let rules = FlagRules { flags, ..by_flags.rules.clone() };
        let parse = |text: &str| {
            Spec::parse(symbols, text.as_bytes())
                .ok_or_else(|| format!("the variable {} of an extra is not known: load the module that has it, above acc.so", text.escape_debug()))
        };
        Ok(ByFlags {
            rules,
            specs: extras.variables.iter().map(|v| parse(&v.text)).collect::<Result<_, _>>()?,
            has_branches: extras.variables.iter().any(|v| v.class == Class::Branch && !v.of_reply),
            has_replies: extras.variables.iter().any(|v| v.of_reply),
            has_dialogs: extras.variables.iter().any(is_of_dialog),
            via: parse("$hdr(Via)")?,
            reason: if reason_from_hf { Some(parse("$hdr(Reason)")?) } else { None },
            // The host would complain about an unknown variable.
            branch: if symbols.has_module(c"tmx") { Spec::parse(symbols, b"$T_branch_idx") } else { None },
        })
    }
}

/// Does the variable read the dialog?
pub fn is_of_dialog(variable: &Variable) -> bool {
    variable.class == Class::Moment && variable.text.trim_start_matches(['$', '(']).starts_with("dlg")
}
