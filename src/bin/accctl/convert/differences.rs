//! Lists where records of `do_accounting()` would differ from those of the flags.

use super::names::OF_FLAGS;
use super::values::name_of;
use super::{Backend, Conversion, Marking, Marks, Use, is_at_once, is_replaced, module_of};
use crate::check_config::effect::{fact, is_relay};
use crate::check_config::flow::{assignments, method, reads};
use crate::check_config::model::{COMPANIONS, Host};
use crate::script::lexer::{Kind, Token};
use crate::script::parser::{RouteKind, plain};
use crate::server_config::is_of;

/// Functions that set no variable that an extra may have.
const SETS_NOTHING: [&str; 77] = [
    "setflag",
    "resetflag",
    "isflagset",
    "setbflag",
    "resetbflag",
    "isbflagset",
    "route",
    "exit",
    "return",
    "drop",
    "log",
    "xlog",
    "xdbg",
    "xinfo",
    "xnotice",
    "xwarn",
    "xerr",
    "do_accounting",
    "drop_accounting",
    "acc_log_request",
    "acc_db_request",
    "acc_aaa_request",
    "acc_rad_request",
    "acc_evi_request",
    "acc_diam_request",
    "acc_request",
    "acc_new_leg",
    "t_newtran",
    "t_relay",
    "t_reply",
    "t_release",
    "t_check_trans",
    "t_precheck_trans",
    "t_lookup_request",
    "t_check_status",
    "t_check",
    "t_on_failure",
    "t_on_branch",
    "t_on_reply",
    "t_is_canceled",
    "t_was_cancelled",
    "t_any_timeout",
    "t_branch_timeout",
    "t_set_fr",
    "sl_send_reply",
    "sl_reply_error",
    "send_reply",
    "send_reply_error",
    "sip_trace",
    "record_route",
    "loose_route",
    "is_direction",
    "is_method",
    "has_totag",
    "has_body",
    "is_present_hf",
    "is_myself",
    "mf_process_maxfwd_header",
    "sanity_check",
    "append_hf",
    "remove_hf",
    "append_to_reply",
    "search",
    "create_dialog",
    "match_dialog",
    "validate_dialog",
    "dlg_manage",
    "save",
    "allow_trusted",
    "check_address",
    "fix_nated_contact",
    "fix_nated_register",
    "nat_uac_test",
    "force_rport",
    "add_rcv_param",
    "options_reply",
    "absorb_options",
];

/// Functions that add branches, or may.
const ADDS_BRANCHES: [&str; 13] = [
    "append_branch",
    "append_branches",
    "lookup",
    "lookup_branches",
    "lookup_to_dset",
    "reg_fetch_contacts",
    "registered_branches",
    "t_load_contacts",
    "t_next_contacts",
    "next_branches",
    "load_contacts",
    "get_redirects",
    "enum_query",
];

/// Functions that change where a request goes.
const CHANGES_TARGET: [&str; 22] = [
    "seturi",
    "rewriteuri",
    "sethost",
    "rewritehost",
    "sethostport",
    "rewritehostport",
    "sethostporttrans",
    "rewritehostporttrans",
    "setuser",
    "rewriteuser",
    "setuserpass",
    "rewriteuserpass",
    "setport",
    "rewriteport",
    "prefix",
    "strip",
    "strip_tail",
    "revert_uri",
    "subst_uri",
    "subst_user",
    "setdsturi",
    "resetdsturi",
];

/// Whether a variable contains all message flags, or one of them; in that case also its name.
fn of_flags(variable: &str) -> Option<Option<&str>> {
    match name_of(variable) {
        "mf" | "mF" | "mfs" => Some(None),
        "msg.flag" => Some(variable.split_once("flag(")?.1.split(')').next()),
        _ => None,
    }
}

fn is_variable(token: &Token, name: &str) -> bool {
    matches!(&token.kind, Kind::Variable(variable) if &**variable == name)
}

impl<'a> Conversion<'a> {
    pub(super) fn differences(&mut self) {
        self.equal_numbers();
        self.set_by_functions();
        self.branches();
    }

    /// Variables that contain flags.
    pub(super) fn variables_of_flags(&mut self) {
        let script = self.script;
        let set = assignments(script)
            .into_iter()
            .filter_map(|(_, target, _)| if let Kind::Variable(name) = &target.kind { Some((target.at, name.clone(), true)) } else { None });
        let read = reads(script).into_iter().map(|(_, at, name)| (at, name, false));
        // `$msg.flag(x)` is several tokens.
        let single = self.tokens.all.windows(8).filter_map(|all| match all {
            [msg, dot, flag, open, id, close, sign, next]
                if is_variable(msg, "msg") && dot.is('.') && flag.word() == Some("flag") && open.is('(') && close.is(')') =>
            {
                let is_set = sign.is('=') && !next.is('=') && !next.is('~');
                Some((msg.at, format!("msg.flag({})", plain(id)).into(), is_set))
            }
            _ => None,
        });
        let mut found: Vec<_> = set.chain(read).chain(single).filter(|(_, name, _)| of_flags(name).is_some()).collect();
        found.sort();
        for (at, name, is_set) in found {
            let ids: Vec<String> = match of_flags(&name).flatten() {
                Some(id) => self.flags.keys().filter(|known| *known == id).cloned().collect(),
                None => self.flags.keys().cloned().collect(),
            };
            if ids.is_empty() {
                continue;
            }
            let name = name_of(&name);
            if is_set {
                self.list(at, format!("${name} sets or takes away flags of accounting here: write do_accounting() or drop_accounting() for that"));
            } else {
                self.list(at, format!("${name} has flags of accounting: setflag() stays for that"));
            }
            self.kept.extend(ids);
        }
    }

    /// Whether backends are accounted by different flags.
    pub(super) fn is_of_several_flags(&self) -> bool {
        let works = |of: Option<Backend>| of.is_some_and(|of| self.works(of));
        self.flags.values().filter(|uses| uses.iter().any(|m| m.what == Use::Records && works(m.backend))).count() > 1
    }

    /// Flags of all backends that were set before the request is marked, or marked again, also count for it.
    pub(super) fn set_before(&mut self, first: &Marking<'a>, marks: &mut Marks) {
        if marks.records.is_empty() {
            return;
        }
        let (may, must) = (first.before.may(), first.before.must());
        for (what, fact, name) in [(Use::Failed, fact::FAILED, "failed"), (Use::Cdr, fact::CDR, "cdr")] {
            let by_flag = self.flags.values().flatten().any(|m| m.what == what);
            let by_function = self.calls.iter().any(|(_, call)| &*call.name == "do_accounting" && self.model.effect(call).adds & fact != 0);
            let flag = if what == Use::Failed { &mut marks.failed } else { &mut marks.cdr };
            if !by_flag || *flag {
                continue;
            }
            if must & fact != 0 && !by_function {
                *flag = true;
            } else if may & fact != 0 {
                self.list(first.call.at, format!("the flag of {name} may be set when a request comes here: then do_accounting() needs \"{name}\", too"));
            }
        }
    }

    /// Flags that nothing looks at after they are set.
    pub(super) fn too_late(&mut self, first: &Marking<'a>, marks: &Marks) {
        let prepared = self.model.on("acc", "acc_prepare_always") || self.flags.values().flatten().any(|m| m.what == Use::Prepare);
        let newtran = self.calls.iter().any(|(_, call)| matches!(&*call.name, "t_newtran" | "t_suspend"));
        let (mut late, mut late_missed) = (false, false);
        for (kind, state) in &first.before.0 {
            if *kind == RouteKind::Local {
                self.list(first.call.at, "flags of requests that the server sends itself did nothing, do_accounting() accounts them: leave it out");
            }
            for class in (0..u16::BITS).map(|i| 1 << i).filter(|class| state.classes() & class != 0) {
                let (may, must) = (state.only(class).may(), state.only(class).must());
                let has_transaction =
                    matches!(kind, RouteKind::Failure | RouteKind::Branch) || must & fact::TRANSACTION != 0 || newtran && may & fact::TRANSACTION != 0;
                let missed = must & (fact::MISSED | fact::WAS_MISSED) != 0;
                late |= has_transaction && !missed && must & fact::MARKED == 0;
                late_missed |= has_transaction && !missed && class & method("INVITE") != 0;
            }
        }
        let marks_any = !(marks.records.is_empty() && marks.missed.is_empty());
        if late && marks_any && !prepared {
            let text = "a request that has a transaction and no flag of accounting yet may come here: flags set now did nothing, do_accounting() accounts it; leave it out if that is not meant";
            self.list(first.call.at, text);
        } else if late_missed && !marks.missed.is_empty() && !prepared {
            let text = "the first missed flag may be set here for a request that has a transaction: it counted at the final code alone then, \"missed\" counts at once";
            self.list(first.call.at, text);
        }
    }

    /// A missed record uses up its flag.
    fn equal_numbers(&mut self) {
        let model = self.model;
        for flag in model.flags.iter().filter(|flag| flag.what == Use::Missed) {
            let replaced = |at| model.lines.iter().find(|line| line.at == at).is_some_and(|line| is_replaced(model, line));
            let other = model.uses(&flag.id).find(|other| matches!(other.what, Use::Records | Use::Failed | Use::Cdr) && !replaced(other.at));
            if let Some(other) = other.filter(|_| !replaced(flag.at) && !self.unset.contains(&flag.id)) {
                let text = format!(
                    "{} and {} are both flag {}: a missed record used it up for both, so there was no further record of the request; with do_accounting() there is",
                    flag.parameter, other.parameter, flag.id
                );
                self.list(flag.at, text);
            }
        }
    }

    /// Values that may change after the request is marked, other than by assignments in the script.
    fn set_by_functions(&mut self) {
        let script = self.script;
        let assigned: Vec<String> = assignments(script)
            .into_iter()
            .filter_map(|(_, target, _)| if let Kind::Variable(name) = &target.kind { Some(name.to_string()) } else { None })
            .collect();
        let any_function = self.calls.iter().any(|(_, call)| !(SETS_NOTHING.contains(&&*call.name) || is_relay(&call.name)));
        let mut found = Vec::new();
        for (tag, variable, name, shared) in self.values.kept() {
            let other_module =
                self.model.lines.iter().any(|line| module_of(line).is_none() && line.text().is_some_and(|text| words(text).any(|word| word == name)));
            let by_script = assigned.iter().any(|target| self.values.is_of(variable, target));
            if shared || any_function || other_module || !by_script {
                found.push(format!(
                    "{variable} was read when the record was written, now it is where the request is marked and behind each assignment: where a function or another module sets it later, put $acc_extra({tag}) = {variable}; behind that"
                ));
            }
        }
        for text in found {
            let line = self.line_of_extras();
            self.list(line, text);
        }
    }

    /// Targets that differ from those that the request had when it was sent on.
    fn branches(&mut self) {
        let variables = self.values.each_branch().join(", ");
        if variables.is_empty() {
            return;
        }
        let mut found = Vec::new();
        for (kind, call) in self.calls.clone().iter().copied() {
            let name = &*call.name;
            if ADDS_BRANCHES.contains(&name) || name.starts_with("ds_select") && call.has(2) {
                found.push((
                    call.at,
                    format!(
                        "with several branches at once {variables} were of the one whose reply is reported: the values set before t_relay() are of the first"
                    ),
                ));
            }
            let in_branch = || kind == RouteKind::Branch || self.before(call).0.iter().any(|(kind, _)| *kind == RouteKind::Branch);
            if CHANGES_TARGET.contains(&name) && in_branch() {
                found.push((call.at, changed(&variables)));
            }
        }
        let targets = assignments(self.script).into_iter().filter_map(|(kind, target, _)| {
            let Kind::Variable(name) = &target.kind else { return None };
            let is_target =
                matches!(name_of(name), "ru" | "ruri" | "rU" | "ruri.user" | "rd" | "ruri.domain" | "rp" | "rP" | "du" | "duri" | "fs" | "branch" | "br");
            // A route that others call may be called for a branch.
            let in_branch = kind == RouteKind::Branch || kind == RouteKind::Request && self.is_called_for_branches(target);
            (is_target && (in_branch || name_of(name).starts_with("br"))).then(|| (target.at, changed(&variables)))
        });
        found.extend(targets);
        for (at, text) in found {
            self.list(at, text);
        }
    }

    /// Whether the route that has this token is called in a branch route.
    fn is_called_for_branches(&self, token: &Token) -> bool {
        let Some(route) = self.script.routes.iter().filter(|route| !route.name.is_empty()).find(|route| {
            let mut has = false;
            crate::script::parser::expressions(&route.body, &mut |expr| has |= expr.assignment().is_some_and(|(target, _)| target.at == token.at));
            has
        }) else {
            return false;
        };
        self.flow.sites(&["route"]).iter().any(|site| site.kind == RouteKind::Branch && site.call.constant(0).is_none_or(|name| name == *route.name))
    }

    /// What is in a part of the file that does not count here.
    pub(super) fn unread(&mut self, file: &std::path::Path) {
        let all = &self.tokens.left_out;
        let mut lost = Vec::new();
        for (i, token) in all.iter().enumerate() {
            let argument = all.get(i + 1).filter(|t| t.is('(')).and_then(|_| all.get(i + 2));
            let counts = match (&token.kind, argument) {
                (Kind::Word(word), _) if matches!(&**word, "include_file" | "import_file") => true,
                (Kind::Word(word), Some(Token { kind: Kind::Text(module), .. })) if matches!(&**word, "modparam" | "modparamx") => {
                    ["acc"].iter().chain(&COMPANIONS).any(|name| is_of(module, name))
                }
                (Kind::Word(word), Some(argument)) if OF_FLAGS.contains(&&**word) => {
                    !self.flags.is_empty() && self.id_of(argument).is_none_or(|id| self.flags.contains_key(&id))
                }
                (Kind::Word(word), Some(_)) => {
                    !self.values.is_empty() && (&**word == "do_accounting" || is_at_once(word)) || is_relay(word) && !self.values.of_branch().is_empty()
                }
                (Kind::Variable(name), _) => {
                    let is_set = all.get(i + 1).is_some_and(|t| t.is('=')) && !all.get(i + 2).is_some_and(|t| t.is('=') || t.is('~'));
                    of_flags(name).is_some() && !self.flags.is_empty() || is_set && (!self.values.assigned(name).is_empty() || self.values.leg(name).is_some())
                }
                _ => false,
            };
            if counts {
                lost.push(token.at);
            }
        }
        for at in lost {
            let text = format!(
                "the line stands in a part of {} that is left out here: give --define as the server gets it with -A, or change it by hand",
                file.display()
            );
            self.list(at, text);
        }
    }

    /// The flag that an argument in such a part is.
    fn id_of(&self, argument: &Token) -> Option<String> {
        match &argument.kind {
            Kind::Word(name) => match self.tokens.defined.get(name) {
                Some(text) => Some(text.trim().trim_matches(['"', '\'']).to_string()),
                // In OpenSIPS, the name of a flag need not be quoted.
                None => (self.model.host == Host::Opensips || self.flags.contains_key(&**name)).then(|| name.to_string()),
            },
            Kind::Number(_) | Kind::Text(_) => Some(plain(argument)),
            _ => None,
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

fn changed(variables: &str) -> String {
    format!("the target of a branch is changed here, behind the place where {variables} are kept: a record had those of the branch whose reply is reported")
}
