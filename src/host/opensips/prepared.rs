//! What accounting by message flags, and extras made of variables, need of the server: looked up in initialisation.

use super::api::Branches;
use super::message::{Message, Spec};
use super::symbols::{FlagSymbols, Symbols};
use crate::accounting::extras::Extras;
use crate::accounting::flags::{FlagName, FlagRules};
use crate::config::Config;
use crate::host::{acks, guard, watched};

/// How many legs have their specifications from the start; those of further legs are parsed when a request has them.
const LEGS: usize = 8;

/// The variables of extras and legs.
#[expect(clippy::vec_box, reason = "a specification stays where the server made it")]
pub struct Variables {
    pub specs: Vec<Box<Spec>>,
    /// The code of a reply, which no request has.
    pub code: Box<Spec>,
    /// For each AVP, its values, counted from the one that was set last.
    pub avps: Vec<Vec<Box<Spec>>>,
}

/// An AVP with an index.
pub fn avp(symbols: &Symbols, name: &str, n: usize) -> Option<Box<Spec>> {
    Spec::parse_whole(symbols, format!("$(avp({name})[{n}])").as_bytes())
}

impl Variables {
    /// Parses them once.
    pub fn new(symbols: &Symbols, extras: &Extras) -> Result<Option<Variables>, String> {
        if extras.is_empty() {
            return Ok(None);
        }
        let unknown = |text: &str| format!("an extra is made of {text}, which is not a variable of this server: correct it, or load its module first");
        let spec = |text: &str| Spec::parse_whole(symbols, text.as_bytes()).ok_or_else(|| unknown(text));
        let specs = extras.variables.iter().map(|v| spec(&v.text)).collect::<Result<_, _>>()?;
        let legs = |name: &str| (0..LEGS).map(|n| avp(symbols, name, n).ok_or_else(|| unknown(&format!("$avp({name})")))).collect::<Result<_, _>>();
        let avps = extras.avps.iter().map(|name| legs(name)).collect::<Result<_, _>>()?;
        Ok(Some(Variables { specs, code: spec("$rs")?, avps }))
    }
}

/// What accounting by message flags needs of the server.
pub struct ByFlags {
    pub symbols: FlagSymbols,
    pub branches: Option<Branches>,
    pub rules: FlagRules,
    /// Place in a transaction for the context of its watched request.
    pub there: i32,
    pub needs_replies: bool,
    /// Number of a request, for `report_ack`.
    cseq: Option<Box<Spec>>,
}

impl ByFlags {
    /// `None` when no parameter names a flag.
    pub fn new(symbols: &Symbols, config: &Config, has_dialogs: bool, there: impl FnOnce() -> i32) -> Result<Option<ByFlags>, String> {
        if !config.flags.names.is_used() {
            return Ok(None);
        }
        let own = FlagSymbols::resolve()?;
        let bit = |flag: &FlagName| {
            let name = match flag {
                FlagName::Number(n) => n.to_string(),
                FlagName::Name(name) => name.clone(),
            };
            own.flag(&name).ok_or_else(|| format!("the server has no message flag left for \"{name}\": it has 32, including those of the script"))
        };
        let rules = FlagRules { flags: config.flags.names.resolve(bit)?, ..config.flags.rules.clone() };
        if rules.flags.cdr.is_some() && !has_dialogs {
            log::warn!("parameter cdr_flag does nothing without the dialog module: load dialog.so; calls have records of their answers instead");
        }
        let extras = &config.rules.fields.flags;
        let needs_replies = watched::needs_replies(extras);
        let branches = if needs_replies { Some(Branches::load(symbols)?) } else { None };
        if rules.report_ack && !symbols.every(c"acc-acks", acks::LOOK, Some(forget_acks)) {
            return Err("the host refused the timer for report_ack".into());
        }
        let cseq = if rules.report_ack {
            Some(Spec::parse_whole(symbols, b"$cs").ok_or("the host does not know the variable $cs, which report_ack needs")?)
        } else {
            None
        };
        Ok(Some(ByFlags { symbols: own, branches, rules, there: there(), needs_replies, cseq }))
    }

    /// The number of a request, if ACKs are accounted.
    pub fn cseq(&self, msg: &Message<'_>) -> Option<Vec<u8>> {
        Some(self.cseq.as_ref()?.bytes(msg.symbols, msg.raw).unwrap_or_default())
    }
}

/// Timer: answers that nobody acknowledged are forgotten.
extern "C" fn forget_acks(_ticks: std::ffi::c_uint, _param: *mut std::ffi::c_void) {
    guard::entry("ACK timer", (), acks::forget);
}
