//! `accctl convert`: rewrites a configuration with message flags and extra parameters for `do_accounting()`.
//!
//! It changes only what it understands, and lists the rest with its place.
#![forbid(unsafe_code)]

mod differences;
mod edits;
mod names;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use acc::accounting::extras::Family;
use acc::accounting::record::Backend;
use clap::ValueEnum;

use crate::Outcome;
use crate::check_config::effect::{fact, is_relay};
use crate::check_config::flow::{Classes, Flow, INITIAL, INSIDE, State, follow, method};
use crate::check_config::model::{self, COMPANIONS, Host, Line, Model, Use};
use crate::script::lexer::{self, At, Kind, Tokens};
use crate::script::parser::{self, Call, RouteKind, Script, Seen, expressions};
use crate::server_config::is_of;
use edits::{Edits, Span};
use values::Values;

#[derive(clap::Args)]
pub struct Convert {
    /// The configuration of a server
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What it is written for, where the file does not tell
    #[arg(long, value_enum)]
    from: Option<From>,
    /// Where the module is installed
    #[arg(long, value_name = "PATH", default_value = "/usr/lib/opensips-acc/acc.so")]
    module: String,
    /// A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated
    #[arg(short = 'D', long, value_name = "NAME[=VALUE]")]
    define: Vec<String>,
}

/// The server whose own module it was written for.
#[derive(Clone, Copy, ValueEnum)]
enum From {
    /// OpenSIPS to 2.1: message flags
    #[value(name = "opensips-2.1")]
    OpensipsFlags,
    /// OpenSIPS 2.2: do_accounting() with extra parameters
    #[value(name = "opensips-2.2")]
    OpensipsExtras,
    /// Kamailio
    Kamailio,
}

pub fn run(o: &Convert) -> Outcome {
    let mut tokens = lexer::read(&o.file, &o.define)?;
    names::name_flags(&mut tokens);
    let tokens = tokens;
    for note in &tokens.notes {
        log::warn!("{note}");
    }
    let script = parser::parse(&tokens)?;
    let host = match o.from {
        Some(From::Kamailio) => Host::Kamailio,
        Some(_) => Host::Opensips,
        None => model::host_of(&tokens).unwrap_or(Host::Opensips),
    };
    let model = model::read(&tokens, host, false);
    if !model.loads("acc") {
        log::warn!("{} does not load the module acc: there is nothing to convert", o.file.display());
        return Ok((String::new(), ExitCode::SUCCESS));
    }
    if let Some(at) = model.engine {
        return Err(format!("{}: the routes are in another language, which accctl does not read: see docs/KAMAILIO.md, \"Other languages\"", tokens.at(at)));
    }
    let flow = follow(&script, &model);
    let mut all = Conversion::of(&tokens, &script, &model, &flow)?;
    let markings = all.markings();
    all.modules(&o.module);
    all.parameters();
    all.marks(&markings);
    all.values();
    all.unread(&o.file);
    all.differences();
    let code = if all.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let mut out = String::new();
    for (at, text) in &all.left {
        let _ = writeln!(out, "# {}:{}:{}: {text}", tokens.files[at.file as usize], at.line, at.column);
    }
    out.push_str(&all.edits.diff());
    Ok((out, code))
}

/// What a flag does, and for which backend.
struct Meaning {
    what: Use,
    /// `None` for flags of all backends.
    backend: Option<Backend>,
}

/// The marks that flags stand for, by type.
#[derive(Default)]
struct Marks {
    records: BTreeSet<&'static str>,
    missed: BTreeSet<&'static str>,
    failed: bool,
    cdr: bool,
}

/// What has happened before a call, by the kinds of routes in which it is reached; empty if nothing leads to it.
#[derive(Clone, Default)]
struct Before(Vec<(RouteKind, State)>);

impl Before {
    /// The kinds of requests.
    fn classes(&self) -> Classes {
        self.0.iter().fold(0, |all, (_, state)| all | state.classes())
    }

    fn may(&self) -> u64 {
        self.0.iter().fold(0, |all, (_, state)| all | state.may())
    }

    fn must(&self) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.iter().fold(u64::MAX, |all, (_, state)| all & state.must()) }
    }
}

/// A call of `setflag()` or `resetflag()` for a flag of accounting.
struct Marking<'a> {
    call: &'a Call,
    kind: RouteKind,
    before: Before,
    id: String,
    span: Span,
}

struct Conversion<'a> {
    tokens: &'a Tokens,
    script: &'a Script,
    model: &'a Model,
    flow: &'a Flow<'a>,
    /// Every call in the routes, with the kind of its route.
    calls: Rc<[(RouteKind, &'a Call)]>,
    /// By call.
    befores: HashMap<usize, Before>,
    edits: Edits<'a>,
    /// What each flag does.
    flags: BTreeMap<String, Vec<Meaning>>,
    /// Flags that something else tests.
    kept: BTreeSet<String>,
    /// Flags for which no `setflag()` can be converted.
    unset: BTreeSet<String>,
    values: Values,
    /// Third argument of `do_accounting()`.
    table: Option<String>,
    /// Calls of `do_accounting()`, and statements that will be.
    marked: Vec<(Span, Before, At)>,
    /// Name of the route that sets values.
    route: String,
    /// What is left for a person to do.
    left: BTreeSet<(At, String)>,
}

/// The backend of a flag's or extra's parameter, without its end.
fn backend(module: &str, name: &str) -> Option<Backend> {
    let name = match (module, name) {
        ("acc_radius", "radius") | ("acc", "radius") => "aaa",
        ("acc_json", "acc") => "json",
        ("acc_diameter", "diameter") => "diameter",
        ("acc", name) => name,
        _ => return None,
    };
    Backend::ALL.into_iter().find(|b| b.name() == name)
}

/// Backend and end of the name of a parameter that every backend has, whatever the backend is called there.
fn of_backend(line: &Line) -> Option<(Backend, &'static str)> {
    let module = module_of(line)?;
    ["_missed_flag", "_flag", "_extra_bye", "_extra"].into_iter().find_map(|end| Some((backend(module, line.name.strip_suffix(end)?)?, end)))
}

/// Whether a later line has another value for the same parameter: the last one counts.
fn is_replaced(model: &Model, line: &Line) -> bool {
    let same = |other: &&Line| match of_backend(line) {
        Some(of) => of_backend(other) == Some(of),
        None => module_of(other) == module_of(line) && other.name == line.name,
    };
    model.lines.iter().rev().take_while(|other| other.at != line.at).any(|other| same(&other) && other.value.is_some())
}

/// No line replaces the old one.
const GONE: Option<Vec<String>> = Some(Vec::new());

fn extra_fields(of: Backend, fields: &str) -> String {
    format!("modparam(\"acc\", \"extra_fields\", \"{}: {fields}\")", of.name())
}

fn module_of(line: &Line) -> Option<&'static str> {
    ["acc"].into_iter().chain(COMPANIONS).find(|name| is_of(&line.module, name))
}

/// Every call in the routes, with the kind of its route.
fn calls(script: &Script) -> Vec<(RouteKind, &Call)> {
    let mut all = Vec::new();
    for route in &script.routes {
        expressions(&route.body, &mut |expr| {
            expr.walk(&mut |seen| {
                if let Seen::Call(call) = seen {
                    all.push((route.kind, call));
                }
            });
        });
    }
    all
}

impl<'a> Conversion<'a> {
    fn of(tokens: &'a Tokens, script: &'a Script, model: &'a Model, flow: &'a Flow<'a>) -> Result<Conversion<'a>, String> {
        let mut flags: BTreeMap<String, Vec<Meaning>> = BTreeMap::new();
        for flag in &model.flags {
            let line = model.lines.iter().find(|line| line.at == flag.at);
            if line.is_some_and(|line| is_replaced(model, line)) {
                continue;
            }
            let name = flag.parameter.trim_end_matches("_flag").trim_end_matches("_missed");
            let of = line.and_then(module_of).and_then(|module| backend(module, name));
            flags.entry(flag.id.clone()).or_default().push(Meaning { what: flag.what, backend: of });
        }
        let family = if model.host == Host::Kamailio { Family::Kamailio } else { Family::OpenSips };
        let names: Vec<_> = script.routes.iter().map(|route| &*route.name).collect();
        let route = ["acc_values".to_string()].into_iter().chain((2..).map(|n| format!("acc_values_{n}"))).find(|name| !names.contains(&name.as_str()));
        let calls = calls(script);
        let known: BTreeSet<&str> = calls.iter().map(|(_, call)| &*call.name).collect();
        let mut befores: HashMap<usize, Before> = HashMap::new();
        for site in flow.sites(&known.into_iter().collect::<Vec<_>>()) {
            befores.entry(site.call.id).or_default().0.push((site.kind, site.state));
        }
        let mut all = Conversion {
            tokens,
            script,
            model,
            flow,
            calls: calls.into(),
            befores,
            edits: Edits::of(tokens)?,
            flags,
            kept: BTreeSet::new(),
            unset: BTreeSet::new(),
            values: Values::new(family),
            table: None,
            marked: Vec::new(),
            route: route.unwrap_or_default(),
            left: BTreeSet::new(),
        };
        all.who_else_asks();
        Ok(all)
    }

    fn list(&mut self, at: At, text: impl Into<String>) {
        self.left.insert((at, text.into()));
    }

    /// Flags that the script or another module reads stay set.
    fn who_else_asks(&mut self) {
        for (_, call) in self.calls.clone().iter().copied() {
            if let Some(id) = call.constant(0).filter(|id| &*call.name == "isflagset" && self.flags.contains_key(id)) {
                self.list(call.at, format!("the script asks for flag {id}: setflag() stays for that"));
                self.kept.insert(id);
            }
        }
        self.variables_of_flags();
        for line in self.model.lines.iter().filter(|line| line.name.ends_with("_flag") && module_of(line).is_none()) {
            let id = line.number().map(|n| n.to_string()).or_else(|| line.text().map(str::to_string));
            if let Some(id) = id.filter(|id| self.flags.contains_key(id)) {
                self.list(line.at, format!("flag {id} is also the {} of {}: setflag() stays for that", line.name, line.module));
                self.kept.insert(id);
            }
        }
    }

    /// What has happened before a call.
    fn before(&self, call: &Call) -> Before {
        self.befores.get(&call.id).cloned().unwrap_or_default()
    }

    /// Whether a backend has the parameter that it needs; without that, its flag did nothing.
    fn works(&self, backend: Backend) -> bool {
        let any = |names: &[&str]| names.iter().any(|name| self.model.lines.iter().any(|line| module_of(line).is_some() && line.name == *name));
        match backend {
            Backend::Db => self.model.default_url || any(&["db_url"]),
            Backend::Aaa => any(&["aaa_url", "radius_config"]),
            Backend::Diameter => any(&["diameter_url", "diameter_client_host"]),
            Backend::Stream => any(&["stream_url"]),
            // Every other destination works without a parameter.
            _ => true,
        }
    }

    /// `loadmodule`
    fn modules(&mut self, path: &str) {
        for module in &self.model.modules {
            if module.name == "acc" && module.path != path && !self.edits.rename(module.at, path) {
                self.list(module.at, format!("the module is loaded by a defined name: let that be \"{path}\""));
            }
            if COMPANIONS.contains(&&*module.name) && !self.edits.unload(module.at) {
                self.list(module.at, format!("{} is part of this module: leave the line out", module.name));
            }
        }
    }

    fn parameters(&mut self) {
        let model = self.model;
        for line in &model.lines {
            let Some(module) = module_of(line) else { continue };
            if let Some(lines) = self.parameter(module, line)
                && !self.edits.replace_line(line.at, &lines)
            {
                self.list(line.at, format!("the line of {} begins or ends in another file: change it by hand to: {}", line.name, lines.join(" ")));
            }
        }
        if self.types().contains(Backend::Db.name())
            && let Some(line) = model.lines.iter().find(|line| module_of(line).is_some() && matches!(line.name.as_str(), "db_flag" | "db_missed_flag"))
        {
            self.list(
                line.at,
                "do_accounting() fills columns that tables of flags may lack: accctl schema --config FILE prints what adds them, with --apply it does so",
            );
        }
        if let Some(line) = model.cdr_enable() {
            let text = "CDRs of cdr_enable stay as they are, beside do_accounting(). With its flag cdr a call has one record in acc instead, with acc_id and the way it ended; docs/move/viewers.md has a view with the columns of acc_cdrs for reports";
            self.list(line.at, text);
        }
    }

    /// The lines that replace one; `None` if it stays.
    fn parameter(&mut self, module: &str, line: &Line) -> Option<Vec<String>> {
        let name = line.name.as_str();
        let of_values = name.contains("_extra") || name.starts_with("multi_leg_") || name.ends_with("_flag");
        if of_values && is_replaced(self.model, line) {
            return GONE;
        }
        if let Some(flag) = self.model.flags.iter().find(|flag| flag.at == line.at) {
            return self.flag(module, line, flag);
        }
        if name.ends_with("_flag") && line.value.is_none() {
            return self.unknown(line);
        }
        // Flags that are switched off, with -1 or an empty text.
        if name.ends_with("_flag") && (module != "acc" || backend(module, name.trim_end_matches("_flag").trim_end_matches("_missed")).is_some()) {
            return GONE;
        }
        if let Some(of) = name.strip_suffix("_extra").and_then(|name| backend(module, name)) {
            if self.is_unset(of) {
                return self.here(module, line);
            }
            return self.fields(line, |values, list| values.extras(of, list)).map(|fields| vec![extra_fields(of, &fields)]);
        }
        if let Some(of) = name.strip_suffix("_extra_bye").and_then(|name| backend(module, name)) {
            return self.fields(line, |values, list| values.of_bye(of, list)).map(|fields| vec![extra_fields(of, &fields)]);
        }
        if name == "multi_leg_info" {
            return self.leg_fields(line);
        }
        if name == "acc_prepare_always" && self.unset.is_empty() {
            return GONE;
        }
        if let Some(why) = self.without_successor(line) {
            self.list(line.at, why);
            return GONE;
        }
        if let Some(why) = self.of_flags_only(line) {
            self.list(line.at, why);
            return None;
        }
        self.here(module, line)
    }

    /// The parameter of a flag: it is removed, unless something still needs the flag.
    fn flag(&mut self, module: &str, line: &Line, flag: &model::Flag) -> Option<Vec<String>> {
        if flag.what == Use::Prepare {
            return if self.unset.is_empty() { GONE } else { None };
        }
        if !self.unset.contains(&flag.id) {
            return GONE;
        }
        self.list(
            line.at,
            format!(
                "{} stays, with its extras: no setflag() of flag {} can be converted; where it is set in another way, write do_accounting()",
                line.name, flag.id
            ),
        );
        self.here(module, line)
    }

    /// The line stays: its value cannot be read.
    fn unknown(&mut self, line: &Line) -> Option<Vec<String>> {
        self.list(line.at, format!("only the server knows the value of {}: give --define, or change it by hand", line.name));
        None
    }

    /// The fields that replace a list of values; `None` if the line stays, and then the reason is listed.
    fn fields(&mut self, line: &Line, read: impl FnOnce(&mut Values, &str) -> Result<String, String>) -> Option<String> {
        let Some(list) = line.text() else {
            self.unknown(line);
            return None;
        };
        let read = read(&mut self.values, list);
        read.map_err(|e| self.list(line.at, format!("{}: {e}", line.name))).ok()
    }

    /// `multi_leg_info`, which is for every backend.
    fn leg_fields(&mut self, line: &Line) -> Option<Vec<String>> {
        let fields = self.fields(line, Values::legs)?;
        let backends: BTreeSet<_> = self.flags.values().flatten().filter_map(|m| m.backend).filter(|b| self.works(*b)).map(Backend::name).collect();
        Some(backends.into_iter().map(|of| format!("modparam(\"acc\", \"leg_fields\", \"{of}: {fields}\")")).collect())
    }

    /// What a person should know about a parameter that was removed.
    fn without_successor(&mut self, line: &Line) -> Option<&'static str> {
        match line.name.as_str() {
            "db_table_avp" => {
                self.table = line.text().map(|text| values::of_today(text.trim(), Family::OpenSips));
                Some("the table is now an argument of do_accounting(), which needs a name: the AVP must have one wherever a request is marked")
            }
            "db_table_acc" if line.text().is_some_and(|text| text.contains('$')) => {
                self.table = line.text().map(str::to_string);
                Some("the table is now an argument of do_accounting(), evaluated where a request is marked, not when its record is written")
            }
            "acc_created_avp_name" => Some("acc_created_avp_name is gone: each record has its own created"),
            "report_ack" if line.number() != Some(0) => Some("report_ack is gone: an ACK has no reply, and do_accounting() writes no record for it"),
            _ => None,
        }
    }

    /// What a person should know about a parameter that stays, but means nothing to `do_accounting()`.
    fn of_flags_only(&self, line: &Line) -> Option<String> {
        match line.name.as_str() {
            "multi_leg_bye_info" => Some(
                "multi_leg_bye_info stays, but is of CDRs by flag only: set $acc_leg(tag) in the branch for BYE, behind loose_route()".into(),
            ),
            "failed_filter" => Some("do_accounting() has no failed_filter: its flag failed writes records of these codes, too; drop_accounting() in the failure route takes it away".into()),
            name @ ("reason_from_hf" | "time_mode") if line.number() != Some(0) => {
                Some(format!("{name} is of records by flags only: declare a value in extra_fields instead"))
            }
            _ => None,
        }
    }

    /// A line that stays, as one of acc.
    fn here(&self, module: &str, line: &Line) -> Option<Vec<String>> {
        let name = line.name.as_str();
        match module {
            "acc_radius" | "acc_diameter" => Some(vec![self.moved(line, name)]),
            "acc_json" => {
                let name = if let Some(rest) = name.strip_prefix("acc_") { format!("json_{rest}") } else { format!("json_{name}") };
                Some(vec![self.moved(line, &name)])
            }
            _ => None,
        }
    }

    /// Whether a backend is still accounted by its flag.
    fn is_unset(&self, of: Backend) -> bool {
        let mut flags = self.flags.iter().filter(|(_, uses)| uses.iter().any(|m| m.what == Use::Records && m.backend == Some(of))).peekable();
        flags.peek().is_some() && flags.all(|(id, _)| self.unset.contains(id))
    }

    /// The line as one of acc.
    fn moved(&self, line: &Line, name: &str) -> String {
        let value = match (&line.define, line.number(), line.text()) {
            (Some(define), ..) => define.clone(),
            (None, _, Some(text)) => format!("\"{text}\""),
            (None, Some(n), None) => n.to_string(),
            (None, None, None) => "\"\"".into(),
        };
        format!("modparam(\"acc\", \"{name}\", {value})")
    }

    /// `setflag()` and `resetflag()` that can be converted.
    fn markings(&mut self) -> Vec<Marking<'a>> {
        let mut markings = Vec::new();
        for (kind, call) in self.calls.clone().iter().copied() {
            if !matches!(&*call.name, "setflag" | "resetflag" | "do_accounting") {
                continue;
            }
            let before = self.before(call);
            if &*call.name == "do_accounting"
                && let Some(span) = self.edits.around(call)
            {
                self.marked.push((span, before.clone(), call.at));
            }
            if &*call.name == "do_accounting" {
                continue;
            }
            let Some(id) = call.constant(0) else {
                if !self.flags.is_empty() {
                    self.list(call.at, format!("only the server knows this flag: if it is one of accounting, write {}", instead(&call.name)));
                }
                continue;
            };
            if !self.flags.contains_key(&id) {
                continue;
            }
            let name = call.name.to_string();
            let in_reply = |kind| matches!(kind, RouteKind::Reply | RouteKind::Event);
            if name == "setflag" && (in_reply(kind) || before.0.iter().any(|(kind, _)| in_reply(*kind))) {
                self.list(call.at, "do_accounting() marks requests in their own routes, not here: mark them before");
                if in_reply(kind) {
                    continue;
                }
            }
            let Some(span) = self.edits.call(call).filter(|span| span.whole) else {
                self.list(call.at, format!("{name}(\"{id}\") is part of an expression or a defined name: write {} in its place", instead(&name)));
                continue;
            };
            markings.push(Marking { call, kind, before, id, span });
        }
        let of_all = |m: &Meaning| matches!(m.what, Use::Failed | Use::Cdr);
        for (id, uses) in &self.flags {
            let works = uses.iter().any(|m| of_all(m) || m.what != Use::Prepare && m.backend.is_some_and(|of| self.works(of)));
            if works && !markings.iter().any(|m| m.id == *id && &*m.call.name == "setflag") {
                self.unset.insert(id.clone());
            }
        }
        // What is still accounted by flags may need acc_prepare_flag.
        if !self.unset.is_empty() {
            self.kept.extend(self.flags.iter().filter(|(_, uses)| uses.iter().any(|m| m.what == Use::Prepare)).map(|(id, _)| id.clone()));
        }
        markings
    }

    fn marks(&mut self, markings: &[Marking<'a>]) {
        let (set, reset): (Vec<_>, Vec<_>) = markings.iter().partition(|m| &*m.call.name == "setflag");
        for one in reset {
            self.unmark(one);
        }
        // Consecutive statements are one mark.
        let mut rest = set.as_slice();
        while let Some(first) = rest.first() {
            let run = 1 + rest.windows(2).take_while(|two| self.edits.is_next(&two[0].span, &two[1].span)).count();
            self.mark(first, &rest[..run]);
            rest = &rest[run..];
        }
    }

    /// What these flags mark.
    fn meaning(&self, ids: &[&str]) -> Marks {
        let mut marks = Marks::default();
        for meaning in ids.iter().filter_map(|id| self.flags.get(*id)).flatten() {
            let works = meaning.backend.filter(|b| self.works(*b)).map(Backend::name);
            match meaning.what {
                Use::Records => marks.records.extend(works),
                Use::Missed => marks.missed.extend(works),
                Use::Failed => marks.failed = true,
                Use::Cdr => marks.cdr = true,
                Use::Prepare => {}
            }
        }
        marks
    }

    /// All types that some flag accounts.
    fn types(&self) -> BTreeSet<&'static str> {
        self.flags.values().flatten().filter(|m| m.what == Use::Records).filter_map(|m| m.backend).filter(|b| self.works(*b)).map(Backend::name).collect()
    }

    fn do_accounting(&self, types: &BTreeSet<&str>, flags: &[&str]) -> String {
        let types = joined(types);
        match (&self.table, flags) {
            (Some(table), _) if types.split('|').any(|t| t == "db") => format!("do_accounting(\"{types}\", \"{}\", \"{table}\");", flags.join("|")),
            (_, []) => format!("do_accounting(\"{types}\");"),
            _ => format!("do_accounting(\"{types}\", \"{}\");", flags.join("|")),
        }
    }

    /// One or more calls of `setflag()` that follow each other.
    fn mark(&mut self, first: &Marking<'a>, run: &[&Marking<'a>]) {
        let ids: Vec<_> = run.iter().map(|m| m.id.as_str()).collect();
        let mut marks = self.meaning(&ids);
        let before = &first.before;
        self.set_before(first, &mut marks);
        self.too_late(first, &marks);
        let mut statements = Vec::new();
        let common: Vec<_> = marks.failed.then_some("failed").into_iter().chain(marks.cdr.then_some("cdr")).collect();
        let missed: Vec<_> = ["missed"].into_iter().chain(common.iter().copied()).collect();
        let (both, only) = marks.records.iter().partition::<BTreeSet<&str>, _>(|of| marks.missed.contains(**of));
        let later: BTreeSet<&str> = marks.missed.difference(&marks.records).copied().collect();
        // Missed calls are those of INVITE. An ACK is not accounted at all.
        let invite = method("INVITE");
        let others = before.classes() & !(invite | method("ACK")) != 0;
        let of_invite = |marked: String, other: &str| match other {
            _ if !others => marked,
            other if before.classes() & invite == 0 => other.to_string(),
            "" => format!("if (is_method(\"INVITE\")) {{ {marked} }}"),
            other => format!("if (is_method(\"INVITE\")) {{ {marked} }} else {{ {other} }}"),
        };
        if !both.is_empty() {
            statements.push(of_invite(self.do_accounting(&both, &missed), &self.do_accounting(&both, &common)));
        }
        if !only.is_empty() {
            statements.push(self.do_accounting(&only, &common));
        }
        if !later.is_empty() {
            statements.extend(Some(of_invite(self.do_accounting(&later, &["missed"]), "")).filter(|s| !s.is_empty()));
        }
        let reached = !before.0.is_empty();
        let sure = before.must() & fact::MARKED != 0;
        // Before the request is marked, these do nothing yet: where it is, they are repeated.
        if marks.records.is_empty() && !common.is_empty() && (!reached || before.may() & fact::MARKED != 0) {
            let types = self.types();
            if !types.is_empty() {
                statements.push(self.do_accounting(&types, &common));
            }
            if sure && self.is_of_several_flags() {
                let text =
                    format!("only those of {} that the request is marked for have to be named here: do_accounting() accounts all it names", joined(&types));
                self.list(first.call.at, text);
            }
        }
        if !statements.is_empty() && !sure && (marks.records.is_empty() || !later.is_empty()) {
            let text = "the request may not be accounted yet when it comes here, and do_accounting() accounts its answer, too: mark it before, or ask for its code in the failure route";
            self.list(first.call.at, text);
        }
        if !marks.records.is_empty() {
            if self.may_be_inside(before) {
                let text = "inside a call that has a CDR, do_accounting() writes no record of this request where that CDR goes, flags do; and its values are those of the call";
                self.list(first.call.at, text);
            }
            statements.splice(0..0, self.set_values(before));
        }
        let mut kept: Vec<_> = run.iter().filter(|m| self.kept.contains(&m.id)).map(|m| (m.span.clone(), m.call.at)).collect();
        if kept.first().is_some_and(|(_, at)| *at == first.call.at) {
            kept.remove(0);
            self.edits.behind(&first.span, &statements);
        } else {
            self.edits.replace(&first.span, &statements);
        }
        for other in run.iter().skip(1).filter(|m| !self.kept.contains(&m.id)) {
            self.edits.replace(&other.span, &[]);
        }
    }

    /// Whether requests of a call that has a CDR may come here: their values are those of the call.
    fn may_be_inside(&self, before: &Before) -> bool {
        before.classes() & INSIDE != 0 && self.has_cdr()
    }

    /// The call of the route that sets values, for the requests that have values of their own.
    fn set_values(&self, before: &Before) -> Option<String> {
        let call = format!("route({});", self.route);
        match (self.may_be_inside(before), before.classes() & INITIAL != 0) {
            _ if self.values.is_empty() => None,
            (false, _) => Some(call),
            (true, true) => Some(outside(&call)),
            (true, false) => None,
        }
    }

    fn has_cdr(&self) -> bool {
        let by_flag = self.flags.values().flatten().any(|m| m.what == Use::Cdr);
        by_flag || self.calls.iter().any(|(_, call)| &*call.name == "do_accounting" && self.model.effect(call).adds & fact::CDR != 0)
    }

    /// `resetflag()`
    fn unmark(&mut self, one: &Marking<'a>) {
        let marks = self.meaning(&[&one.id]);
        let mut statements = Vec::new();
        if !marks.records.is_empty() {
            statements.push(format!("drop_accounting(\"{}\");", joined(&marks.records)));
            let others = self.flags.values().flatten().any(|m| m.what == Use::Missed && m.backend.is_some_and(|b| marks.records.contains(b.name())));
            if others {
                self.list(one.call.at, "drop_accounting() takes missed calls away with the rest, resetflag() did not");
            }
        }
        if !marks.missed.is_empty() {
            statements.push(format!("drop_accounting(\"{}\", \"missed\");", joined(&marks.missed)));
        }
        for (is, flag) in [(marks.failed, "failed"), (marks.cdr, "cdr")] {
            if is {
                statements.push(format!("drop_accounting(\"{}\", \"{flag}\");", joined(&self.types())));
            }
        }
        if one.kind == RouteKind::Reply && self.model.host == Host::Opensips {
            self.list(
                one.call.at,
                format!("drop_accounting() cannot be called in a reply route of OpenSIPS: {} belongs into another route", statements.join(" ")),
            );
            return;
        }
        if self.kept.contains(&one.id) {
            self.edits.behind(&one.span, &statements);
        } else {
            self.edits.replace(&one.span, &statements);
        }
    }

    /// Where `$acc_extra` and `$acc_leg` are set.
    fn values(&mut self) {
        for (span, before, at) in std::mem::take(&mut self.marked) {
            self.set_values_before(&span, &before, at);
        }
        self.at_once();
        self.relays();
        self.assigned();
        self.bye();
        let line = self.line_of_extras();
        for text in self.values.later() {
            self.list(line, text);
        }
        if !self.values.is_empty() {
            let lines: String = self.values.statements().iter().map(|s| format!("\t{s}\n")).collect();
            let text = format!("\n# The values of a request that is accounted.\nroute[{}] {{\n{lines}}}\n", self.route);
            self.edits.append(0, &text);
        }
    }

    /// Where extras are declared.
    fn line_of_extras(&self) -> At {
        let line = self.model.lines.iter().find(|line| module_of(line).is_some() && line.name.ends_with("_extra"));
        line.map_or(At { line: 1, column: 1, file: 0 }, |line| line.at)
    }

    /// Sets values before a statement, and lists where they are not those of the request.
    fn set_values_before(&mut self, span: &Span, before: &Before, at: At) {
        if let Some(call) = self.set_values(before) {
            self.edits.before(span, &[call]);
        }
        if !self.values.is_empty() && self.may_be_inside(before) {
            self.list(at, "inside a call that has a CDR the values are those of the call: none are set for such a request here, as that would change them");
        }
    }

    /// Functions that write a record at once need its values at that moment.
    fn at_once(&mut self) {
        for (_, call) in self.calls.clone().iter().copied() {
            if !is_at_once(&call.name) || self.values.is_empty() {
                continue;
            }
            match self.edits.around(call) {
                Some(span) => self.set_values_before(&span, &self.before(call), call.at),
                None => self.list(call.at, format!("put route({}); before it: the record has the values that are set", self.route)),
            }
        }
    }

    /// Values of a branch are those with which it is sent.
    fn relays(&mut self) {
        let statements = self.values.of_branch();
        if statements.is_empty() {
            return;
        }
        let has_cdr = self.has_cdr();
        for (_, call) in self.calls.clone().iter().copied().filter(|(_, call)| is_relay(&call.name)) {
            let before = self.before(call);
            let marked = |classes| before.0.iter().any(|(_, state)| state.only(classes).may() & fact::MARKED != 0);
            let (initial, inside) = (marked(INITIAL), marked(INSIDE));
            if !(initial || inside && !has_cdr) {
                continue;
            }
            let all = if self.may_be_inside(&before) { vec![outside(&statements.join(" "))] } else { statements.clone() };
            match self.edits.around(call) {
                Some(span) => self.edits.before(&span, &all),
                None => self.list(call.at, format!("put before it: {}", all.join(" "))),
            }
        }
    }

    /// Variables that the script sets itself are copied after each assignment.
    fn assigned(&mut self) {
        let mut begun = BTreeSet::new();
        let has_cdr = self.has_cdr();
        let onreply = self.model.host == Host::Kamailio || self.model.on("tm", "onreply_avp_mode");
        for route in &self.script.routes {
            let kind = route.kind;
            let mut targets = Vec::new();
            expressions(&route.body, &mut |expr| {
                if let Some((target, _)) = expr.assignment() {
                    targets.push(target);
                }
            });
            for target in targets {
                let Kind::Variable(name) = &target.kind else { continue };
                let in_request = matches!(kind, RouteKind::Request | RouteKind::Local);
                let counts = match kind {
                    RouteKind::Event => false,
                    RouteKind::Reply => onreply,
                    _ => in_request || !name.starts_with("var("),
                };
                let mut statements = if counts { self.values.assigned(name) } else { Vec::new() };
                // A value that is changed by a later request of the call is not for its CDR. A reply always has a To tag.
                if !statements.is_empty() && kind != RouteKind::Reply && has_cdr {
                    statements = vec![outside(&statements.join(" "))];
                }
                if let Some((tag, copy)) = self.values.leg(name).filter(|_| counts) {
                    if !begun.insert(tag.clone()) {
                        self.list(
                            target.at,
                            format!("where {tag} had a value before, a further leg begins here: put acc_new_leg(); before the first value of that leg"),
                        );
                    }
                    statements.push(copy);
                }
                if statements.is_empty() {
                    continue;
                }
                match self.edits.statement(target.at) {
                    Some(span) => self.edits.behind(&span, &statements),
                    None => self.list(target.at, format!("put behind it: {}", statements.join(" "))),
                }
            }
        }
    }

    /// `*_extra_bye`: the branch for BYE.
    fn bye(&mut self) {
        let statements: Vec<_> = self.values.bye.iter().map(|(tag, variable)| format!("$acc_extra({tag}) = {variable};")).collect();
        if statements.is_empty() {
            return;
        }
        let branch = format!("if (is_method(\"BYE\")) {{ {} }}", statements.join(" "));
        let mut there = false;
        for (_, call) in self.calls.clone().iter().copied().filter(|(_, call)| &*call.name == "loose_route") {
            if let Some(span) = self.edits.opened_by(call) {
                self.edits.first(&span, &branch);
                there = true;
            }
        }
        if !there {
            self.list(At { line: 1, column: 1, file: 0 }, format!("no block behind loose_route() was found: put there: {branch}"));
        }
    }
}

/// For requests outside calls.
fn outside(statements: &str) -> String {
    format!("if (!has_totag()) {{ {statements} }}")
}

/// Whether a function writes a record now.
fn is_at_once(name: &str) -> bool {
    name.starts_with("acc_") && name.ends_with("_request") || name == "acc_request"
}

/// The argument for these types, in the usual order.
fn joined(types: &BTreeSet<&str>) -> String {
    let usual = ["log", "db"].into_iter().filter(|t| types.contains(t));
    usual.chain(types.iter().copied().filter(|t| !["log", "db"].contains(t))).collect::<Vec<_>>().join("|")
}

fn instead(name: &str) -> &'static str {
    if name == "setflag" { "do_accounting()" } else { "drop_accounting()" }
}
