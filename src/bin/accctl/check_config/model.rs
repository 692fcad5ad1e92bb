//! What a configuration loads and sets, and what its functions mean for accounting.

use acc::declaration::{PARAMS, ParamType};
use acc::params::RawValue;
use clap::ValueEnum;

use crate::script::lexer::{At, Kind, Token, Tokens};
use crate::script::parser::Call;
use crate::server_config::{is_of, text, value};

use super::effect::{Effect, fact, is_relay};

/// The server that a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Host {
    /// OpenSIPS
    Opensips,
    /// Kamailio
    Kamailio,
}

/// What a message flag is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Accounting to a destination.
    Records,
    /// Missed calls to a destination.
    Missed,
    /// Failed transactions.
    Failed,
    /// A CDR.
    Cdr,
    /// Asks Kamailio to keep what a record needs until a failure route.
    Prepare,
}

/// A message flag that a parameter declares.
#[derive(Debug)]
pub struct Flag {
    /// Its number or name.
    pub id: String,
    /// What it is for.
    pub what: Use,
    /// The parameter.
    pub parameter: String,
    /// Where.
    pub at: At,
}

/// A `modparam` line.
#[derive(Debug)]
pub struct Line {
    /// Where it stands.
    pub at: At,
    /// Its first argument.
    pub module: String,
    /// Name of the parameter.
    pub name: String,
    /// Its value; `None`: only the running server knows.
    pub value: Option<RawValue>,
    /// The name that stands for the value.
    pub define: Option<String>,
}

impl Line {
    /// Its value as a text.
    pub fn text(&self) -> Option<&str> {
        if let Some(RawValue::Str(text)) = &self.value { Some(text) } else { None }
    }

    /// Its value as a number.
    pub fn number(&self) -> Option<i32> {
        match &self.value {
            Some(RawValue::Int(n)) => Some(*n),
            Some(RawValue::Str(text)) => text.trim().parse().ok(),
            None => None,
        }
    }
}

/// A module that is loaded.
#[derive(Debug)]
pub struct Module {
    /// Its name, without path and `.so`.
    pub name: String,
    /// As it is written.
    pub path: String,
    /// Where.
    pub at: At,
}

/// A configuration as far as accounting depends on it.
#[derive(Debug)]
pub struct Model {
    /// The server.
    pub host: Host,
    /// It is judged for the server's own module.
    pub stock: bool,
    /// The modules.
    pub modules: Vec<Module>,
    /// The parameters.
    pub lines: Vec<Line>,
    /// Message flags of accounting.
    pub flags: Vec<Flag>,
    /// A flag of accounting has a value that is not known.
    pub unknown_flags: bool,
    /// `db_default_url`.
    pub default_url: bool,
    /// `cfgengine` names another language than the native one.
    pub engine: Option<At>,
}

/// Modules that write records of their own with Kamailio's acc.
pub const COMPANIONS: [&str; 3] = ["acc_radius", "acc_json", "acc_diameter"];

/// For which server a configuration is, by what only one of them has.
pub fn host_of(tokens: &Tokens) -> Option<Host> {
    let first = tokens.first_line.trim();
    if ["#!KAMAILIO", "#!SER", "#!MAXCOMPAT", "#!OPENSER", "#!ALL"].iter().any(|mark| first.starts_with(mark)) {
        return Some(Host::Kamailio);
    }
    if first.starts_with("#!OPENSIPS") {
        return Some(Host::Opensips);
    }
    const OPENSIPS: [&str; 12] = [
        "socket",
        "udp_workers",
        "log_level",
        "stderror_enabled",
        "syslog_enabled",
        "xlog_level",
        "mpath_opensips",
        "db_default_url",
        "tcp_workers",
        "auto_scaling_profile",
        "abort_on_assert",
        "log_stdout",
    ];
    const KAMAILIO: [&str; 9] = ["request_route", "reply_route", "children", "log_stderror", "enable_sctp", "tcp_children", "cfgengine", "modparamx", "debug"];
    let next = |i: usize| tokens.all.get(i + 1);
    for (i, token) in tokens.all.iter().enumerate() {
        let Some(word) = token.word() else { continue };
        match word {
            "loadmodule" => {
                let Some(Token { kind: Kind::Text(path), .. }) = next(i) else { continue };
                match module_name(path) {
                    "proto_udp" | "proto_tcp" | "sipmsgops" | "signaling" | "mi_http" => return Some(Host::Opensips),
                    "pv" | "kex" | "corex" | "siputils" | "xlog" | "mi_rpc" | "jsonrpcs" => return Some(Host::Kamailio),
                    _ => {}
                }
            }
            _ if OPENSIPS.contains(&word) && next(i).is_some_and(|t| t.is('=')) => return Some(Host::Opensips),
            _ if KAMAILIO.contains(&word) && next(i).is_some_and(|t| t.is('=') || t.is('{') || matches!(t.kind, Kind::Text(_))) => return Some(Host::Kamailio),
            _ => {}
        }
    }
    None
}

/// `/usr/lib/x/acc.so`: `acc`
fn module_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default().trim_end_matches(".so")
}

/// Reads modules and parameters.
pub fn read(tokens: &Tokens, host: Host, stock: bool) -> Model {
    let mut model = Model { host, stock, modules: Vec::new(), lines: Vec::new(), flags: Vec::new(), unknown_flags: false, default_url: false, engine: None };
    let mut rest = tokens.all.as_slice();
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        match token.word() {
            Some("loadmodule" | "loadmodulex") => {
                if let Some(path) = text(&mut { after }) {
                    model.modules.push(Module { name: module_name(&path).into(), path, at: token.at });
                }
            }
            Some("modparam" | "modparamx") => model.lines.extend(line(token, after)),
            Some("db_default_url") => model.default_url |= after.first().is_some_and(|t| t.is('=')),
            Some("cfgengine") => {
                let after = if after.first().is_some_and(|t| t.is('=')) { &after[1..] } else { after };
                if let Some(Token { kind: Kind::Text(name), .. }) = after.first()
                    && !["native", "default"].contains(&&**name)
                {
                    model.engine = Some(token.at);
                }
            }
            _ => {}
        }
    }
    for line in &model.lines {
        let own = is_of(&line.module, "acc");
        let companion = COMPANIONS.iter().any(|name| is_of(&line.module, name));
        // Functions of older servers are no longer known.
        let known = PARAMS.iter().any(|p| p.kind == ParamType::Flag && p.name == line.name);
        if !(companion || own && known) {
            continue;
        }
        let what = match &*line.name {
            "acc_prepare_flag" => Use::Prepare,
            "failed_transaction_flag" => Use::Failed,
            "cdr_flag" => Use::Cdr,
            name if name.ends_with("missed_flag") => Use::Missed,
            name if name.ends_with("_flag") => Use::Records,
            _ => continue,
        };
        let id = match &line.value {
            Some(RawValue::Int(n)) if *n < 0 => continue,
            Some(RawValue::Int(n)) => n.to_string(),
            Some(RawValue::Str(text)) if text.is_empty() => continue,
            Some(RawValue::Str(text)) => text.clone(),
            None => {
                model.unknown_flags = true;
                continue;
            }
        };
        model.flags.push(Flag { id, what, parameter: line.name.clone(), at: line.at });
    }
    model
}

/// After `modparam`.
fn line(word: &Token, rest: &[Token]) -> Option<Line> {
    let (sign, mut rest) = rest.split_first()?;
    if !sign.is('(') {
        return None;
    }
    let module = text(&mut rest)?;
    rest = rest.strip_prefix_comma();
    let name = text(&mut rest)?;
    rest = rest.strip_prefix_comma();
    let define = rest.first().and_then(|token| token.name.as_deref()).map(str::to_string);
    let value = if word.doubt.is_some() || word.word() == Some("modparamx") { None } else { value(&mut rest).ok() };
    Some(Line { at: word.at, module, name, value, define })
}

trait StripComma {
    fn strip_prefix_comma(&self) -> &Self;
}

impl StripComma for [Token] {
    fn strip_prefix_comma(&self) -> &[Token] {
        match self.split_first() {
            Some((token, rest)) if token.is(',') => rest,
            _ => self,
        }
    }
}

impl Model {
    /// Whether a module is loaded.
    pub fn loads(&self, name: &str) -> bool {
        self.module(name).is_some()
    }

    /// The first line that loads a module.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.iter().find(|m| m.name == name)
    }

    /// The last line for a parameter of a module.
    pub fn line(&self, module: &str, name: &str) -> Option<&Line> {
        self.lines.iter().rev().find(|line| is_of(&line.module, module) && line.name == name)
    }

    /// The number that a parameter of a module is set to; `None` if it is not set, `Some(None)` if the value is unknown
    /// and may be any number.
    pub fn number(&self, module: &str, name: &str) -> Option<Option<i32>> {
        self.line(module, name).map(Line::number)
    }

    /// Whether a switch is on; an unknown one may be.
    pub fn on(&self, module: &str, name: &str) -> bool {
        self.number(module, name).is_some_and(|n| n != Some(0))
    }

    /// Kamailio's `cdr_enable`, of acc or acc_json.
    pub fn cdr_enable(&self) -> Option<&Line> {
        let on = |line: &&Line| line.number().is_none_or(|n| n != 0);
        self.line("acc", "cdr_enable").filter(on).or_else(|| self.line("acc", "json_cdr_enable").filter(on))
    }

    /// The uses of a flag.
    pub fn uses<'m>(&'m self, id: &'m str) -> impl Iterator<Item = &'m Flag> {
        self.flags.iter().filter(move |flag| flag.id == id)
    }

    /// What a function does to the request.
    pub fn effect(&self, call: &Call) -> Effect {
        let adds = |adds| Effect { adds, ..Effect::default() };
        let cdr = if self.cdr_enable().is_some() { fact::CDR } else { 0 };
        match &*call.name {
            "do_accounting" => marks(call),
            "drop_accounting" if call.has(0) || call.has(1) => Effect { may_clear: fact::MARKS, ..Effect::default() },
            "drop_accounting" => Effect { clears: fact::MARKS, ..Effect::default() },
            "setflag" => match call.constant(0) {
                Some(id) => {
                    let mut all = self.uses(&id).fold(0, |all, flag| all | of_use(flag.what));
                    if self.line("dialog", "dlg_flag").and_then(Line::number).is_some_and(|n| n.to_string() == id) {
                        all |= fact::DIALOG | cdr;
                    }
                    let may = if self.unknown_flags { fact::MARKS } else { 0 };
                    Effect { adds: all, may_add: may, ..Effect::default() }
                }
                None => Effect { may_add: fact::MARKS, ..Effect::default() },
            },
            "resetflag" => match call.constant(0) {
                Some(id) => Effect { clears: self.uses(&id).fold(0, |all, flag| all | of_use(flag.what)), ..Effect::default() },
                None => Effect { may_clear: fact::MARKS, ..Effect::default() },
            },
            "record_route" | "record_route_preset" | "record_route_advertised_address" => adds(fact::RECORD_ROUTE),
            "topology_hiding" => adds(fact::RECORD_ROUTE | fact::DIALOG),
            "create_dialog" => adds(fact::DIALOG),
            "dlg_manage" => adds(fact::DIALOG | fact::MATCHED | cdr),
            "b2b_init_request" => adds(fact::B2B),
            "t_newtran" | "t_reply" | "t_suspend" | "t_replicate" => adds(fact::TRANSACTION),
            "t_check_trans" | "t_precheck_trans" | "t_lookup_request" => adds(fact::CHECKED),
            "acc_new_leg" => adds(fact::VALUE),
            name if MATCHES.contains(&name) => adds(fact::MATCHED),
            name if is_relay(name) => adds(fact::TRANSACTION | fact::RELAYED),
            name if name.starts_with("t_") || name.contains("async") || name == "launch" => Effect { may_add: fact::TRANSACTION, ..Effect::default() },
            _ => Effect::default(),
        }
    }
}

/// Functions that find the call of a request.
pub const MATCHES: [&str; 9] = [
    "loose_route",
    "loose_route_mode",
    "loose_route_preloaded",
    "match_dialog",
    "topology_hiding_match",
    "validate_dialog",
    "fix_route_dialog",
    "acc_load_ctx_from_dlg",
    "dlg_get",
];

fn of_use(what: Use) -> u64 {
    match what {
        Use::Records => fact::MARKED,
        Use::Missed => fact::MISSED,
        Use::Failed => fact::FAILED,
        Use::Cdr => fact::CDR,
        Use::Prepare => 0,
    }
}

/// Words of an argument of `do_accounting`.
pub fn words(argument: &str) -> impl Iterator<Item = String> {
    argument.split('|').map(|word| word.trim().to_ascii_lowercase())
}

/// What `do_accounting` does.
fn marks(call: &Call) -> Effect {
    let mut effect = Effect { adds: fact::MARKED, ..Effect::default() };
    match call.constant(1) {
        Some(flags) => {
            for word in words(&flags) {
                effect.adds |= match &*word {
                    "failed" => fact::FAILED,
                    "missed" => fact::MISSED,
                    "cdr" => fact::CDR | fact::DIALOG,
                    _ => 0,
                };
            }
        }
        None if call.has(1) => effect.may_add = fact::MARKS | fact::DIALOG,
        None => {}
    }
    effect
}
