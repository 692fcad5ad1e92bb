//! What accounting by message flags, and variables in CDRs of dialogs, need of the server: looked up in initialisation.

use super::abi::km_sip_msg;
use super::message::{Spec, bytes_of};
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
    via: Spec,
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

    /// The branch that a reply, which is private, belongs to.
    pub fn branch_of(&self, symbols: &Symbols, reply: *mut km_sip_msg) -> Option<usize> {
        bytes_of(self.via.value(symbols, reply)).as_deref().and_then(branch_of)
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

/// The branch that a reply belongs to: the hexadecimal number after the last dot of the branch parameter in its first Via.
fn branch_of(via: &[u8]) -> Option<usize> {
    let first = via.split(|b| *b == b',').next()?;
    let at = first.windows(BRANCH.len()).position(|w| w.eq_ignore_ascii_case(BRANCH))? + BRANCH.len();
    let branch = first[at..].split(|b| *b == b';' || b.is_ascii_whitespace()).next()?;
    let number = branch.rsplit(|b| *b == b'.').next().filter(|n| n.len() < branch.len())?;
    usize::from_str_radix(std::str::from_utf8(number).ok()?, 16).ok()
}

const BRANCH: &[u8] = b";branch=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_the_last_number_of_the_first_via() {
        for (via, n) in [
            ("SIP/2.0/UDP 1.2.3.4:5060;rport=1;branch=z9hG4bKa1b2.9f.0", Some(0)),
            ("SIP/2.0/UDP h;Branch=z9hG4bKx.1f;i=2, SIP/2.0/UDP h;branch=z9hG4bKy.2", Some(31)),
            ("SIP/2.0/UDP h;branch=z9hG4bKx", None),
            ("SIP/2.0/UDP h;branch=z9hG4bKx.zz", None),
            ("SIP/2.0/UDP h", None),
            ("", None),
        ] {
            assert_eq!(branch_of(via.as_bytes()), n, "{via}");
        }
    }
}
