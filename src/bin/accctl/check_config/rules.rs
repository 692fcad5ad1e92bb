//! What is looked for. A warning is given only where no path through the script does the right thing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use acc::accounting::record::{ACC_ID, END_CAUSE, END_SIDE};
use acc::backend::sql::{Target, parse};
use acc::declaration::{Hosts, PARAMS};

use crate::script::lexer::{At, Kind, Token};
use crate::script::parser::{Item, RouteKind, Script, Seen, expressions};

use super::effect::{fact, is_relay};
use super::fields::{Fault, of_list, of_pairs};
use super::finding::{Finding, Severity};
use super::flow::{ANY, Flow, INITIAL, INITIAL_INVITE, INSIDE, Site, assignments, follow, method, reads};
use super::model::{COMPANIONS, Host, Line, MATCHES, Model, Use, words};

/// Functions that write a record at once.
const AT_ONCE: [&str; 7] =
    ["acc_log_request", "acc_db_request", "acc_aaa_request", "acc_rad_request", "acc_diam_request", "acc_evi_request", "acc_stream_request"];

/// Everything that is wrong with a configuration.
pub fn all(model: &Model, script: &Script) -> Vec<Finding> {
    let flow = follow(script, model);
    let mut rules = Rules { model, script, flow: &flow, out: Vec::new() };
    rules.modules();
    rules.parameters();
    rules.names();
    rules.destinations();
    rules.dialogs();
    rules.journal();
    match model.engine {
        Some(at) => rules.warn(
            31,
            at,
            "the routes are in another language: only the modparam lines were checked",
            "compare the script with docs/KAMAILIO.md, \"Other languages\"; # accctl: allow(ACC031) says that you have",
        ),
        None => {
            rules.calls();
            rules.marks();
            rules.flags();
            rules.replies();
            rules.values();
        }
    }
    rules.out
}

struct Rules<'a> {
    model: &'a Model,
    script: &'a Script,
    flow: &'a Flow<'a>,
    out: Vec<Finding>,
}

/// What the routes do with message flags.
#[derive(Default)]
struct FlagsInRoutes {
    /// By number: the place where a flag is first set.
    set: BTreeMap<String, At>,
    /// Flags that something tests.
    asked: BTreeSet<String>,
    /// By number: the names of a flag.
    names: BTreeMap<String, BTreeSet<String>>,
    /// Only the running server knows which flags some routes set.
    dynamic: bool,
}

impl<'a> Rules<'a> {
    fn warn(&mut self, code: u8, at: At, text: impl Into<String>, help: impl Into<String>) {
        self.out.push(Finding { code, severity: Severity::Warning, at, text: text.into(), help: help.into() });
    }

    fn note(&mut self, code: u8, at: At, text: impl Into<String>, help: impl Into<String>) {
        self.out.push(Finding { code, severity: Severity::Note, at, text: text.into(), help: help.into() });
    }

    fn kamailio(&self) -> bool {
        self.model.host == Host::Kamailio
    }

    /// Calls that mark a request, with what they add.
    fn marking(&self) -> Vec<(Site<'a>, u64)> {
        let sites = self.flow.sites(&["do_accounting", "setflag"]);
        sites
            .into_iter()
            .map(|site| (self.model.effect(site.call).adds, site))
            .filter(|(adds, _)| adds & fact::MARKS != 0)
            .map(|(adds, site)| (site, adds))
            .collect()
    }

    /// Where CDRs are asked for.
    fn cdr(&self) -> Option<At> {
        let marked = self.marking().into_iter().find(|(_, adds)| adds & fact::CDR != 0).map(|(site, _)| site.call.at);
        self.model.cdr_enable().map(|line| line.at).or(marked)
    }

    /// Whether a function is called anywhere, even where nothing leads to.
    fn mentions(&self, names: &[&str]) -> bool {
        let mut found = false;
        for route in &self.script.routes {
            expressions(&route.body, &mut |expr| {
                expr.walk(&mut |seen| found |= matches!(seen, Seen::Call(call) if names.contains(&&*call.name)));
            });
        }
        found
    }

    /// Whether a text occurs in a variable, or in an argument.
    fn has_text(&self, part: &str) -> bool {
        let mut found = false;
        for route in &self.script.routes {
            expressions(&route.body, &mut |expr| {
                expr.walk(&mut |seen| {
                    found |= matches!(seen, Seen::Token(Token { kind: Kind::Text(text) | Kind::Variable(text), .. }) if text.contains(part));
                });
            });
        }
        found
    }

    /// 003, 027
    fn modules(&mut self) {
        let all: Vec<_> = self.model.modules.iter().filter(|m| m.name == "acc").collect();
        if let [first, second, ..] = all.as_slice() {
            let text = format!("two modules acc are loaded, {} and {}: the parameters go to both, and each call has two records", first.path, second.path);
            self.warn(27, second.at, text, "keep one of the two lines");
        }
        if let Some(own) = all.first().filter(|_| !self.model.stock) {
            let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_string());
            for name in COMPANIONS {
                let Some(module) = self.model.module(name) else { continue };
                let copy = name != "acc_diameter" && folder(&module.path) == folder(&own.path);
                if !copy {
                    let text = format!("{name} needs Kamailio's own acc, which is not loaded: the server does not start");
                    let help = "leave it out: this module writes these records itself, see docs/move/from-kamailio.md";
                    self.warn(27, module.at, text, help);
                }
            }
        }
        if let Some(at) = self.cdr()
            && !self.model.loads("dialog")
        {
            self.warn(3, at, "a CDR needs the module dialog, which is not loaded: no CDR is written", "loadmodule \"dialog.so\"");
        }
    }

    /// 012, 015, and for Kamailio's own module 004, 021 and 022
    fn parameters(&mut self) {
        if let Some(line) = self.model.line("acc", "detect_direction").filter(|line| line.number().is_some_and(|n| n != 0)) {
            let off = self.model.number("rr", "append_fromtag") == Some(Some(0));
            if off || !self.model.loads("rr") {
                let why = if off { "append_fromtag of rr is 0" } else { "the module rr is not loaded" };
                let text = format!("detect_direction has no effect: {why}, so requests of the callee look like the caller's");
                self.warn(12, line.at, text, "loadmodule \"rr.so\" and modparam(\"rr\", \"append_fromtag\", 1)");
            }
        }
        let mut faults = Vec::new();
        for line in self.model.lines.iter().filter(|line| crate::server_config::is_of(&line.module, "acc")) {
            let Some(text) = line.text() else { continue };
            let found: Vec<Fault> = match &*line.name {
                "extra_fields" | "leg_fields" => of_list(text),
                "multi_leg_info" | "multi_leg_bye_info" => of_pairs(text),
                name if name.ends_with("_extra") || name.ends_with("_extra_bye") => of_pairs(text),
                _ => continue,
            };
            faults.extend(found.into_iter().map(|fault| (line.at, format!("{}: {}", line.name, fault.text), fault.help)));
        }
        for (at, text, help) in faults {
            self.warn(15, at, text, help);
        }
        if !(self.model.stock && self.kamailio()) {
            return;
        }
        let Some(line) = self.model.cdr_enable() else { return };
        let at = line.at;
        if self.model.engine.is_none() && !self.mentions(&["dlg_manage"]) && self.model.line("dialog", "dlg_flag").is_none() {
            self.warn(4, at, "cdr_enable is on and no dialog is ever made: no CDR is written", "call dlg_manage() for the initial INVITE");
        }
        if !self.model.on("acc", "cdr_expired_dlg_enable") {
            let text = "calls that end by the dialog's timeout have no CDR, because cdr_expired_dlg_enable is 0";
            self.warn(21, at, text, "modparam(\"acc\", \"cdr_expired_dlg_enable\", 1)");
        }
        if !self.model.on("acc", "cdr_start_on_confirmed") {
            let text = "the duration of a CDR counts the ringing, because cdr_start_on_confirmed is 0";
            self.warn(22, at, text, "modparam(\"acc\", \"cdr_start_on_confirmed\", 1)");
        }
    }

    /// 032
    fn names(&mut self) {
        // Of Kamailio's and the original's own parameters, only the server knows all.
        if self.model.stock {
            return;
        }
        for line in self.model.lines.iter().filter(|line| crate::server_config::is_of(&line.module, "acc")) {
            let other = match PARAMS.iter().find(|param| param.name == line.name).map(|param| param.hosts) {
                Some(Hosts::OpenSips(instead)) if self.kamailio() => Some(("OpenSIPS", instead)),
                Some(Hosts::Kamailio(instead)) if !self.kamailio() => Some(("Kamailio", instead)),
                Some(_) => continue,
                None => None,
            };
            let (text, help) = match other {
                Some((server, instead)) => (format!("the parameter {} is for {server} alone: the server does not start", line.name), instead),
                None => (format!("acc has no parameter {}: the server does not start", line.name), "docs/reference/parameters.md lists them all"),
            };
            self.warn(32, line.at, text, help);
        }
    }

    /// Places where records for this destination are asked for.
    fn asked(&self, destination: &str, flags: &[&str]) -> Option<At> {
        let call = self
            .flow
            .sites(&["do_accounting"])
            .into_iter()
            .find(|site| site.call.constant(0).is_some_and(|types| words(&types).any(|word| word == destination)));
        let flag = || self.model.flags.iter().find(|flag| flags.contains(&&*flag.parameter)).map(|flag| flag.at);
        call.map(|site| site.call.at).or_else(flag)
    }

    /// 019
    fn destinations(&mut self) {
        let (model, stock) = (self.model, self.model.stock);
        let url = model.line("acc", "db_url");
        if let Some(at) = self.asked("db", &["db_flag", "db_missed_flag"])
            && url.is_none()
            && !model.default_url
            && !(stock && self.kamailio())
        {
            self.warn(19, at, "records go to a database, and there is no db_url", "modparam(\"acc\", \"db_url\", \"...\")");
        }
        if !self.kamailio() || !stock {
            let known =
                ["aaa_url", "radius_config"].iter().any(|name| model.line("acc", name).is_some()) || model.line("acc_radius", "radius_config").is_some();
            if let Some(at) = self.asked("aaa", &["aaa_flag", "aaa_missed_flag"])
                && !known
            {
                self.warn(19, at, "records go to RADIUS, and there is no aaa_url", "modparam(\"acc\", \"aaa_url\", \"radius:/etc/radcli/radiusclient.conf\")");
            }
        }
        let Some((line, url)) = url.and_then(|line| Some((line, line.text()?))) else { return };
        let scheme = url.split(':').next().unwrap_or_default();
        let plain = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let own = !stock && ["sqlite", "mysql", "postgres", "postgresql"].contains(&scheme);
        if plain && !own && url.contains(':') && !model.loads(&format!("db_{scheme}")) {
            let text = format!("db_url needs the module db_{scheme}, which is not loaded");
            self.warn(19, line.at, text, format!("loadmodule \"db_{scheme}.so\""));
        }
        if let Ok(Target::Sqlite(path)) = parse(url)
            && !path.is_absolute()
            && !stock
        {
            let text = format!("the SQLite file {} is looked for in the server's working directory, wherever that is", path.display());
            self.warn(19, line.at, text, "give its whole path: sqlite:///var/lib/opensips-acc/acc.sqlite");
        }
    }

    /// 020, 023, 030
    fn dialogs(&mut self) {
        let Some(at) = self.cdr() else { return };
        let model = self.model;
        if !model.loads("dialog") {
            return;
        }
        let pings = || {
            let asked = |site: &Site<'_>| site.call.constant(0).is_none_or(|flags| flags.contains(['P', 'p', 'R', 'r']));
            self.flow.sites(&["create_dialog"]).iter().any(|site| site.call.has(0) && asked(site))
        };
        let timed = ["default_timeout", "timeout_avp", "ka_timer"].iter().any(|name| model.line("dialog", name).is_some());
        let set = self.has_text("DLG_timeout")
            || self.has_text("dlg_timeout")
            || self.has_text("dlg_ctx(timeout")
            || self.mentions(&["dlg_set_timeout", "dlg_set_timeout_by_profile"]);
        if !timed && !set && !pings() && model.engine.is_none() {
            let text = "a call whose BYE is lost ends after default_timeout of dialog, 43200 s: a CDR of 12 hours";
            self.note(20, at, text, "modparam(\"dialog\", \"default_timeout\", 7200), or let the dialog module ping both sides");
        }
        let replicated = model.line("dialog", "dialog_replication_cluster");
        if replicated.is_none() && model.number("dialog", "db_mode").is_none_or(|n| n == Some(0)) {
            let comes = if model.stock { "calls in progress at a restart have no CDR" } else { "calls in progress at a restart end with it" };
            let text = format!("dialogs are kept in memory only (db_mode of dialog is 0): {comes}");
            self.note(23, at, text, "modparam(\"dialog\", \"db_mode\", 1), with a db_url");
        }
        if let Some(line) = replicated.filter(|line| !self.kamailio() && line.number() != Some(0))
            && !self.mentions(&["set_dlg_sharing_tag"])
        {
            let text = "dialogs are replicated, and none has a sharing tag: every node ends a call whose lifetime is over, so it has several CDRs";
            self.warn(30, line.at, text, "set_dlg_sharing_tag(\"...\") for each call, with one active node for each tag");
        }
    }

    /// 029
    fn journal(&mut self) {
        if self.model.stock {
            return;
        }
        let Some((line, dir)) = self.model.line("acc", "journal_dir").and_then(|line| Some((line, line.text()?))) else { return };
        let path = Path::new(dir);
        if ["/tmp", "/run", "/var/run", "/dev/shm"].iter().any(|top| path.starts_with(top)) || on_tmpfs(path) {
            let text = format!("journal_dir {dir} does not survive a restart of the machine: records that wait are lost with it");
            self.warn(29, line.at, text, "use a directory on a disk: /var/lib/opensips-acc/journal");
        }
        if let Some((at, Ok(Target::Sqlite(file)))) = self.model.line("acc", "db_url").and_then(|line| Some((line.at, parse(line.text()?))))
            && file.parent() == Some(path)
        {
            let text = format!("the SQLite file is in journal_dir, {dir}, which is for the journal alone");
            self.note(29, at, text, "give journal_dir a directory of its own: /var/lib/opensips-acc/journal");
        }
    }

    /// 001, 002, 024, 025
    fn calls(&mut self) {
        let Some(at) = self.cdr() else { return };
        // That module records routes and finds the calls of requests by itself, before the script.
        if !self.flow.dynamic && self.model.module("script_helper").is_none() {
            let relays: Vec<_> = self.relays(&[RouteKind::Request]).into_iter().map(|site| (site.call.at, site.state.only(INITIAL_INVITE))).collect();
            let with_cdr = |may: u64| may & fact::CDR != 0 && may & fact::B2B == 0;
            let mut bad = relays.iter().filter(|(_, state)| with_cdr(state.may()));
            if let Some((at, _)) = bad.next()
                && relays.iter().all(|(_, state)| state.may() & fact::RECORD_ROUTE == 0)
            {
                let text = "the INVITE is relayed without record_route(): the BYE will not pass here, and the call ends only with the dialog's timeout";
                self.warn(1, *at, text, "call record_route() or topology_hiding() before t_relay()");
            }
            let finds: Vec<&str> = MATCHES.into_iter().chain(["dlg_manage"]).collect();
            if !self.flow.reaches(&finds, method("BYE") & INSIDE) && self.script.routes.iter().any(|route| route.kind == RouteKind::Request) {
                let cure = if self.kamailio() { "loose_route() or dlg_manage()" } else { "loose_route(), match_dialog() or topology_hiding_match()" };
                let text = format!("requests inside a call never reach {cure}: the BYE ends no call, and no CDR is written");
                self.warn(2, at, text, "if (has_totag()) { if (loose_route()) t_relay(); exit; }");
            }
        }
        for site in self.flow.sites(&["fix_nated_contact", "fix_contact"]) {
            let state = site.state.only(INITIAL_INVITE);
            if site.kind == RouteKind::Request && state.must() & fact::DIALOG != 0 {
                let text = format!("{}() comes after the dialog was made: the server's own BYE goes to the address from before", site.call.name);
                self.warn(24, site.call.at, text, "call it before the function that makes the dialog, do_accounting() with cdr among them");
            }
        }
        if self.kamailio() {
            return;
        }
        for site in self.flow.sites(&["b2b_init_request", "do_accounting"]) {
            let state = site.state.only(INITIAL_INVITE);
            let cdr = site.call.name.starts_with("do_") && self.model.effect(site.call).adds & fact::CDR != 0;
            let other = if cdr { fact::B2B } else { fact::CDR };
            if (cdr || site.call.name.starts_with("b2b")) && state.must() & other != 0 {
                let text = "calls of the B2B modules have no dialog of the module dialog: cdr has no effect, and no CDR is written";
                self.warn(25, site.call.at, text, "account them by events or logic of the B2B modules, or without cdr");
            }
        }
    }

    fn relays(&self, kinds: &[RouteKind]) -> Vec<Site<'a>> {
        let mut names = BTreeSet::new();
        for route in &self.script.routes {
            expressions(&route.body, &mut |expr| {
                expr.walk(&mut |seen| {
                    if let Seen::Call(call) = seen
                        && is_relay(&call.name)
                    {
                        names.insert(call.name.to_string());
                    }
                });
            });
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.flow.sites(&names).into_iter().filter(|site| kinds.contains(&site.kind)).collect()
    }

    /// 005, 006, 008, 009, 026
    fn marks(&mut self) {
        let marking = self.marking();
        for (site, adds) in &marking {
            let classes = site.state.classes();
            if adds & fact::CDR != 0 && classes != 0 && classes & INITIAL_INVITE == 0 {
                let text = "cdr changes nothing here, where no initial INVITE comes: a CDR begins with it";
                self.warn(5, site.call.at, text, "ask for cdr where the initial INVITE is handled; leave it out here");
            }
            let everything = (method("REGISTER") | method("OPTIONS")) & INITIAL;
            if adds & fact::MARKED != 0 && site.kind == RouteKind::Request && classes & everything == everything && site.state.may() & fact::MAYBE == 0 {
                let stored = ["db", "aaa", "diameter"];
                let by_flag = |id: String| self.model.uses(&id).any(|flag| ["db_flag", "aaa_flag", "radius_flag"].contains(&&*flag.parameter));
                let named = if &*site.call.name == "setflag" {
                    site.call.constant(0).is_some_and(by_flag)
                } else {
                    site.call.constant(0).is_some_and(|types| words(&types).any(|word| stored.contains(&&*word)))
                };
                let help = "if (is_method(\"INVITE\")) around it";
                if named {
                    self.warn(6, site.call.at, "every request is marked: OPTIONS and REGISTER will fill the table", help);
                } else {
                    self.note(6, site.call.at, "every request is marked: OPTIONS and REGISTER are accounted, too", help);
                }
            }
        }
        let relays = self.relays(&[RouteKind::Failure]);
        let invites: Vec<_> = relays.iter().map(|site| (site.call.at, site.state.only(method("INVITE")))).collect();
        let lacks = |state: &super::flow::State| state.must() & fact::WAS_MISSED != 0 && state.may() & fact::MISSED == 0;
        if let Some((at, _)) = invites.iter().find(|(_, state)| lacks(state))
            && invites.iter().all(|(_, state)| lacks(state) || state.must() & fact::WAS_MISSED == 0)
        {
            let text = "missed is used up by the first attempt: if this one is not answered either, there is no record of it";
            self.warn(8, *at, text, "ask for missed again before t_relay() in the failure route");
        }
        let first = marking.iter().find(|(site, adds)| adds & fact::MARKED != 0 && site.state.classes() & INITIAL_INVITE != 0).map(|(site, _)| site.call.at);
        if let Some(at) = first
            && !marking.iter().any(|(_, adds)| adds & fact::FAILED != 0)
            && !self.has_dynamic_marks()
        {
            let text = "calls that fail leave no record: busy, cancelled and refused ones are missing, and no ASR can be computed";
            let help = if self.model.flags.is_empty() { "do_accounting(\"...\", \"failed\")" } else { "failed_transaction_flag, and setflag() with it" };
            self.note(9, at, text, help);
        }
        for site in self.flow.sites(&["drop_accounting"]) {
            let may = site.state.may();
            if may & (fact::MARKS | fact::VALUE | fact::MATCHED) == 0 && !self.flow.dynamic && site.state.classes() != 0 {
                self.warn(26, site.call.at, "drop_accounting() where nothing is marked: it does nothing", "call it after do_accounting(), on the same path");
            } else if site.call.has(1) && self.model.line("acc", "drop_accounting_mode").is_none() {
                let text = if self.model.stock {
                    "drop_accounting() with flags: the server's own module takes away more than these flags"
                } else {
                    "drop_accounting() with flags takes away these flags alone; the server's own module takes away more"
                };
                self.note(26, site.call.at, text, "see drop_accounting_mode");
            }
        }
    }

    /// Whether something is marked by names that only the running server knows.
    fn has_dynamic_marks(&self) -> bool {
        self.model.unknown_flags
            || self.flow.sites(&["do_accounting", "setflag"]).iter().any(|site| (0..2).any(|i| site.call.has(i) && site.call.constant(i).is_none()))
    }

    /// 007, and for Kamailio's own module 018
    fn flags(&mut self) {
        if self.model.flags.is_empty() && !self.model.unknown_flags {
            return;
        }
        let used = self.flags_in_routes();
        self.flags_never_set(&used);
        self.flags_not_declared(&used);
        self.flags_with_two_meanings(used.names);
        if self.model.stock && self.kamailio() {
            self.flags_set_too_late();
        }
    }

    /// What the routes do with flags.
    fn flags_in_routes(&self) -> FlagsInRoutes {
        let mut flags =
            FlagsInRoutes { dynamic: self.has_text("mf") && self.script.routes.iter().any(|_| self.assigns(&["mf", "mfs"])), ..FlagsInRoutes::default() };
        for route in &self.script.routes {
            expressions(&route.body, &mut |expr| {
                expr.walk(&mut |seen| {
                    let Seen::Call(call) = seen else { return };
                    if !["setflag", "isflagset", "resetflag"].contains(&&*call.name) {
                        return;
                    }
                    let Some(id) = call.constant(0) else {
                        flags.dynamic = true;
                        return;
                    };
                    if &*call.name == "setflag" {
                        flags.set.entry(id.clone()).or_insert(call.at);
                    } else {
                        flags.asked.insert(id.clone());
                    }
                    let name = call.arguments[0].first().and_then(|token| token.name.as_deref());
                    flags.names.entry(id).or_default().extend(name.map(str::to_string));
                });
            });
        }
        let lines = || self.model.lines.iter().filter(|line| crate::server_config::is_of(&line.module, "acc"));
        for flag in &self.model.flags {
            let define = lines().find(|line| line.at == flag.at).and_then(|line: &Line| line.define.clone());
            flags.names.entry(flag.id.clone()).or_default().extend(define);
        }
        flags
    }

    /// Declared, but no route sets it.
    fn flags_never_set(&mut self, used: &FlagsInRoutes) {
        if used.dynamic {
            return;
        }
        let model = self.model;
        let of = |what: Use| model.flags.iter().filter(move |flag| flag.what == what);
        let unset = |flag: &&super::model::Flag| !used.set.contains_key(&flag.id);
        if let Some(flag) = of(Use::Records).next()
            && of(Use::Records).all(|flag| unset(&flag))
        {
            let text = format!("{} is flag {}, which no route sets: nothing is accounted", flag.parameter, flag.id);
            self.warn(7, flag.at, text, format!("setflag({}) for the requests to account", flag.id));
        } else {
            for flag in model.flags.iter().filter(|flag| flag.what != Use::Prepare).filter(unset) {
                let text = format!("{} is flag {}, which no route sets: it has no effect", flag.parameter, flag.id);
                self.note(7, flag.at, text, format!("setflag({}), or leave the parameter out", flag.id));
            }
        }
    }

    /// Set under a name that speaks of accounting, and no parameter declares it.
    fn flags_not_declared(&mut self, used: &FlagsInRoutes) {
        let model = self.model;
        let speaks = |name: &str| ["acc", "cdr", "missed"].iter().any(|word| name.to_ascii_lowercase().contains(word));
        for (id, at) in &used.set {
            let names = used.names.get(id);
            let named = names.is_some_and(|names| names.iter().any(|name| speaks(name))) || speaks(id);
            let has_use =
                used.asked.contains(id) || model.lines.iter().any(|line| line.number().is_some_and(|n| n.to_string() == *id) || line.text() == Some(id));
            if named && !has_use && !model.unknown_flags {
                let name = names.and_then(|names| names.iter().next()).unwrap_or(id);
                let text = format!("flag {name} is set, and no parameter declares it: it has no effect");
                self.warn(7, *at, text, format!("modparam(\"acc\", \"..._flag\", {name})"));
            }
        }
    }

    /// One number for two purposes.
    fn flags_with_two_meanings(&mut self, mut names: BTreeMap<String, BTreeSet<String>>) {
        let model = self.model;
        for flag in model.flags.iter().filter(|flag| flag.what == Use::Missed) {
            if model.uses(&flag.id).any(|other| other.what == Use::Failed) {
                let text = format!("{} and failed_transaction_flag are both flag {}: one cannot be set without the other", flag.parameter, flag.id);
                self.warn(7, flag.at, text, "give each a number of its own");
            }
        }
        for flag in &model.flags {
            if let Some(names) = names.remove(&flag.id).filter(|names| names.len() > 1) {
                let text = format!("{} are all flag {}, which is that of {}", names.into_iter().collect::<Vec<_>>().join(", "), flag.id, flag.parameter);
                self.warn(7, flag.at, text, "give each a number of its own");
            }
        }
    }

    /// Kamailio's own module does not see a flag that only a failure route sets.
    fn flags_set_too_late(&mut self) {
        let model = self.model;
        if model.on("acc", "acc_prepare_always") || model.line("acc", "acc_prepare_flag").is_some() || self.mentions(&["t_flush_flags"]) {
            return;
        }
        for (site, adds) in self.marking() {
            let before = site.state.only(method("INVITE")).may();
            if site.kind == RouteKind::Failure && adds & fact::MARKED != 0 && before & fact::MARKED == 0 {
                let text = "a flag that is set only in a failure route is not seen when the record is made";
                self.warn(18, site.call.at, text, "acc_prepare_flag (5.6 and later), or t_flush_flags() after setflag()");
            }
        }
    }

    fn assigns(&self, names: &[&str]) -> bool {
        assignments(self.script).iter().any(|(_, target, _)| matches!(&target.kind, Kind::Variable(name) if names.contains(&&**name)))
    }

    /// 010, 011
    fn replies(&mut self) {
        for site in self.flow.sites(&["sl_send_reply", "send_reply"]) {
            let state = site.state.only(ANY & !method("ACK"));
            let refused = site.call.constant(0).and_then(|code| code.parse().ok()).is_some_and(|code: u16| code >= 300);
            let marked = fact::MARKED | fact::FAILED;
            if site.kind == RouteKind::Request && refused && state.must() & marked == marked && state.may() & fact::TRANSACTION == 0 {
                let text = format!("{}() without a transaction after the request was marked with failed: it leaves no record", site.call.name);
                self.warn(10, site.call.at, text, "t_newtran() and t_reply() instead");
            }
        }
        for site in self.flow.sites(&AT_ONCE) {
            let state = site.state.only(INITIAL_INVITE);
            if site.kind == RouteKind::Request && state.classes() != 0 && state.may() & fact::TRANSACTION == 0 {
                let text = format!("{}() before the request has a transaction: each retransmission has a record of its own", site.call.name);
                self.warn(11, site.call.at, text, "t_newtran() before it");
            }
        }
    }

    /// 016, 017, and for OpenSIPS' own module 018
    fn values(&mut self) {
        let model = self.model;
        let used = variables(self.script);
        if !(model.stock && self.kamailio()) {
            for (parameter, variable) in [("extra_fields", "acc_extra"), ("leg_fields", "acc_leg")] {
                self.tags(parameter, variable, &used);
            }
        }
        if model.stock
            && self.kamailio()
            && let Some(line) = model.line("acc", "cdr_extra")
            && let Some(text) = line.text()
        {
            const OF_A_MESSAGE: [&str; 7] = ["avp(", "xavp(", "si", "sp", "hdr(", "rs", "rr"];
            let mut names = text.split('$').skip(1).map(|part| part.trim_start_matches('('));
            // A whole name, or one that is followed by an argument.
            let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            let is = |name: &str, of: &str| name.strip_prefix(of).is_some_and(|rest| of.ends_with('(') || ends(rest));
            let bad = names.find(|name| OF_A_MESSAGE.iter().any(|of| is(name, of)));
            if let Some(name) = bad {
                let name = name.split([';', ' ']).next().unwrap_or_default();
                let text = format!("cdr_extra reads ${name}, which a CDR takes from the last message of the call, or from none");
                self.warn(17, line.at, text, "keep the value in $dlg_var(...) when the call begins, and name that");
            }
        }
        for (kind, target, value) in assignments(self.script) {
            let Kind::Variable(name) = &target.kind else { continue };
            if kind != RouteKind::Reply || !(name.starts_with("acc_extra(") || name.starts_with("acc_leg(")) {
                continue;
            }
            if let [Item::Token(Token { kind: Kind::Variable(from), .. })] = value
                && ["si", "sp", "ru", "rU", "rd", "du"].contains(&&**from)
            {
                let text = format!("${from} in a reply route is that of the reply, or of the last branch, not of the request");
                let help = "set the value where the request is handled";
                // Who sent the answer may be what is wanted.
                if from.starts_with('s') { self.note(17, target.at, text, help) } else { self.warn(17, target.at, text, help) }
            }
        }
        if model.stock && !self.kamailio() {
            let marking = self.marking();
            let only_cdr = !marking.is_empty()
                && marking.iter().filter(|(_, adds)| adds & fact::MARKED != 0).all(|(_, adds)| adds & (fact::CDR | fact::MISSED | fact::FAILED) == fact::CDR);
            let read = reads(self.script).into_iter().find(|(kind, _, name)| *kind == RouteKind::Failure && name.starts_with("acc_extra("));
            if let Some((_, at, _)) = read.filter(|_| only_cdr) {
                let text = "with cdr alone, accounting variables are empty in a failure route";
                self.warn(18, at, text, "keep the value in an $avp, too, or ask for failed as well");
            }
        }
    }

    /// 016
    fn tags(&mut self, parameter: &str, variable: &str, used: &[(At, String)]) {
        let prefix = format!("{variable}(");
        let tag = |name: &str| name.trim_start_matches('(').strip_prefix(&prefix).map(|rest| rest.split(')').next().unwrap_or_default().to_string());
        let lines: Vec<&Line> = self.model.lines.iter().filter(|line| crate::server_config::is_of(&line.module, "acc") && line.name == parameter).collect();
        // The value of one of them is unknown.
        if lines.iter().any(|line| line.text().is_none()) {
            return;
        }
        let mut declared: BTreeMap<String, At> = BTreeMap::new();
        for line in &lines {
            let list = line.text().unwrap_or_default();
            for field in list.split_once(':').map_or(list, |(_, fields)| fields).split(';') {
                let tag = field.split("->").next().unwrap_or_default().trim();
                if !tag.is_empty() {
                    declared.entry(tag.to_string()).or_insert(line.at);
                }
            }
        }
        let mut seen = BTreeSet::new();
        let mut dynamic = false;
        for (at, name) in used {
            let Some(tag) = tag(name) else { continue };
            dynamic |= tag.contains('$');
            if !tag.contains('$') && seen.insert(tag.clone()) && !declared.contains_key(&tag) {
                let text = format!("${variable}({tag}) is not declared in {parameter}: the server does not start");
                self.warn(16, *at, text, format!("modparam(\"acc\", \"{parameter}\", \"db: {tag}\"), with the destinations that it is for"));
            }
        }
        if dynamic || self.model.engine.is_some() {
            return;
        }
        for (tag, at) in declared {
            if !seen.contains(&tag) && ![ACC_ID, END_CAUSE, END_SIDE].contains(&&*tag) {
                let text = format!("{parameter} declares {tag}, and no route sets it: its column is always empty");
                self.warn(16, at, text, format!("${variable}({tag}) = ...; in a route, or leave it out"));
            }
        }
    }
}

/// Every variable of a script, also in texts, with its place.
fn variables(script: &Script) -> Vec<(At, String)> {
    let mut all = Vec::new();
    for route in &script.routes {
        expressions(&route.body, &mut |expr| {
            expr.walk(&mut |seen| match seen {
                Seen::Token(Token { at, kind: Kind::Variable(name), .. }) => all.push((*at, name.to_string())),
                Seen::Token(Token { at, kind: Kind::Text(text), .. }) => all.extend(text.split('$').skip(1).map(|name| (*at, name.to_string()))),
                _ => {}
            });
        });
    }
    all
}

/// Whether a directory that exists is in memory.
fn on_tmpfs(path: &Path) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == TMPFS)
}
