//! What may have happened, and what must have happened, wherever a function is called.
//!
//! Every path through the routes is followed, starting with the main route, separately for each kind of request (its
//! method, and whether it has a To tag). Conditions on these are understood; all others may go both ways. Where paths
//! meet, what one of them did may have happened, and what all of them did must have happened.

use std::collections::HashMap;
use std::rc::Rc;

use crate::script::lexer::{At, Kind, Token};
use crate::script::parser::{Call, End, Expr, Item, Route, RouteKind, Script, Seen, Statement, expressions};

use super::effect::{Effect, fact, is_relay};
use super::model::Model;

/// Methods that are distinguished.
pub const METHODS: [&str; 7] = ["INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS", ""];
/// Kinds of requests: a method outside a call, or inside one.
const CLASSES: usize = METHODS.len() * 2;

/// A set of kinds of requests.
pub type Classes = u16;

/// INVITE outside a call.
pub const INITIAL_INVITE: Classes = 1;
/// Every request outside a call, and inside one.
pub const INITIAL: Classes = (1 << METHODS.len()) - 1;
/// Every request inside a call.
pub const INSIDE: Classes = INITIAL << METHODS.len();
/// Every request.
pub const ANY: Classes = INITIAL | INSIDE;

/// Both kinds of a method.
pub fn method(name: &str) -> Classes {
    let index = METHODS.iter().position(|m| m.eq_ignore_ascii_case(name)).unwrap_or(METHODS.len() - 1);
    1 << index | 1 << (index + METHODS.len())
}

/// What has happened to one kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    /// On some path.
    pub may: u64,
    /// On every path.
    pub must: u64,
    /// Routes that may be called later, by index.
    armed: u128,
}

impl Facts {
    const NONE: Facts = Facts { may: 0, must: 0, armed: 0 };
    /// For places whose past is unknown.
    const UNKNOWN: Facts = Facts { may: u64::MAX, must: 0, armed: 0 };

    fn join(self, other: Facts) -> Facts {
        Facts { may: self.may | other.may, must: self.must & other.must, armed: self.armed | other.armed }
    }
}

/// What has happened to each kind of request that comes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State([Option<Facts>; CLASSES]);

impl State {
    const NOWHERE: State = State([None; CLASSES]);

    fn all(facts: Facts) -> State {
        State([Some(facts); CLASSES])
    }

    /// The kinds of requests that come here.
    pub fn classes(&self) -> Classes {
        self.0.iter().enumerate().filter(|(_, facts)| facts.is_some()).fold(0, |all, (i, _)| all | 1 << i)
    }

    /// Only these kinds.
    pub fn only(&self, classes: Classes) -> State {
        let mut out = *self;
        for (i, facts) in out.0.iter_mut().enumerate() {
            if classes >> i & 1 == 0 {
                *facts = None;
            }
        }
        out
    }

    /// What may have happened to one of them.
    pub fn may(&self) -> u64 {
        self.0.iter().flatten().fold(0, |all, facts| all | facts.may)
    }

    /// What must have happened to all of them; nothing if none comes here.
    pub fn must(&self) -> u64 {
        if *self == State::NOWHERE { 0 } else { self.0.iter().flatten().fold(u64::MAX, |all, facts| all & facts.must) }
    }

    fn join(mut self, other: State) -> State {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = match (*mine, theirs) {
                (Some(a), Some(b)) => Some(a.join(b)),
                (a, b) => a.or(b),
            };
        }
        self
    }

    fn each(mut self, change: impl Fn(&mut Facts)) -> State {
        self.0.iter_mut().flatten().for_each(change);
        self
    }

    fn set(self, facts: u64, surely: bool) -> State {
        self.each(|f| {
            f.may |= facts;
            if surely {
                f.must |= facts;
            }
        })
    }

    fn clear(self, facts: u64) -> State {
        self.each(|f| {
            f.may &= !facts;
            f.must &= !facts;
        })
    }

    /// This state, but what must have happened is only what must have happened before.
    fn unsure(mut self, before: State) -> State {
        for (mine, before) in self.0.iter_mut().zip(before.0) {
            if let (Some(mine), Some(before)) = (mine, before) {
                mine.must &= before.must;
            }
        }
        self
    }
}

/// The beginnings of the routes that the server calls, and everything that was seen.
pub struct Flow<'a> {
    script: &'a Script,
    model: &'a Model,
    /// Indices of routes by kind and name.
    by_name: HashMap<(bool, Rc<str>), Vec<usize>>,
    /// What is known at the beginning of routes that others do not call directly.
    entries: Vec<State>,
    /// Routes that are being followed.
    open: Vec<usize>,
    /// Results of routes, for this round.
    done: HashMap<(usize, State, RouteKind), State>,
    /// By call and kind of route: the state before it.
    sites: HashMap<(usize, u8), State>,
    /// Every call that was reached.
    calls: HashMap<usize, &'a Call>,
    /// A route was called whose name only the running server knows.
    pub dynamic: bool,
}

/// A call, with the kind of route and the state before it.
pub struct Site<'a> {
    /// The call.
    pub call: &'a Call,
    /// In which kind of route.
    pub kind: RouteKind,
    /// What has happened before.
    pub state: State,
}

/// The ends of a piece of a script.
#[derive(Clone, Copy)]
struct Ends {
    /// Where it goes on.
    on: State,
    /// Where the route has returned.
    returned: State,
    /// Where the loop has been left.
    left: State,
}

impl Ends {
    fn on(state: State) -> Ends {
        Ends { on: state, returned: State::NOWHERE, left: State::NOWHERE }
    }
}

/// Follows a script until nothing new comes up.
pub fn follow<'a>(script: &'a Script, model: &'a Model) -> Flow<'a> {
    let mut by_name: HashMap<(bool, Rc<str>), Vec<usize>> = HashMap::new();
    for (i, route) in script.routes.iter().enumerate() {
        by_name.entry((route.kind == RouteKind::Request, route.name.clone())).or_default().push(i);
    }
    let begin = |route: &Route| match route.kind {
        RouteKind::Request if route.name.is_empty() => State::all(Facts::NONE),
        RouteKind::Local => State::all(Facts::NONE),
        RouteKind::Event => State::all(Facts::UNKNOWN),
        RouteKind::Reply if route.name.is_empty() => State::all(Facts::UNKNOWN),
        _ => State::NOWHERE,
    };
    let mut flow = Flow {
        script,
        model,
        by_name,
        entries: script.routes.iter().map(begin).collect(),
        open: Vec::new(),
        done: HashMap::new(),
        sites: HashMap::new(),
        calls: HashMap::new(),
        dynamic: false,
    };
    loop {
        let before = flow.entries.clone();
        flow.done.clear();
        flow.sites.clear();
        for (i, route) in script.routes.iter().enumerate() {
            let entry = flow.entries[i];
            if entry != State::NOWHERE {
                flow.route(i, entry, route.kind);
            }
        }
        if flow.entries == before {
            return flow;
        }
    }
}

impl<'a> Flow<'a> {
    /// Every call of these functions that is reached, in the order in which they stand.
    pub fn sites(&self, names: &[&str]) -> Vec<Site<'a>> {
        let mut all: Vec<_> = self
            .sites
            .iter()
            .filter(|((id, _), _)| names.contains(&&*self.calls[id].name))
            .map(|((id, kind), state)| Site { call: self.calls[id], kind: KINDS[usize::from(*kind)], state: *state })
            .collect();
        all.sort_by_key(|site| (site.call.at, number(site.kind)));
        all
    }

    /// Whether one of these functions is called for one of these kinds of requests.
    pub fn reaches(&self, names: &[&str], classes: Classes) -> bool {
        self.sites.iter().any(|((id, _), state)| names.contains(&&*self.calls[id].name) && state.classes() & classes != 0)
    }

    fn route(&mut self, index: usize, state: State, kind: RouteKind) -> State {
        if state == State::NOWHERE || self.open.contains(&index) {
            return state;
        }
        if let Some(out) = self.done.get(&(index, state, kind)) {
            return *out;
        }
        self.open.push(index);
        let script = self.script;
        let ends = self.block(&script.routes[index].body, state, kind);
        self.open.pop();
        let out = ends.on.join(ends.returned).join(ends.left);
        self.done.insert((index, state, kind), out);
        out
    }

    fn block(&mut self, statements: &'a [Statement], state: State, kind: RouteKind) -> Ends {
        let mut ends = Ends::on(state);
        for statement in statements {
            if ends.on == State::NOWHERE {
                break;
            }
            let step = self.statement(statement, ends.on, kind);
            ends = Ends { on: step.on, returned: ends.returned.join(step.returned), left: ends.left.join(step.left) };
        }
        ends
    }

    fn statement(&mut self, statement: &'a Statement, state: State, kind: RouteKind) -> Ends {
        match statement {
            Statement::Expr(Expr::Call(call)) => Ends::on(self.call(call, state, kind)),
            Statement::Expr(expr) => {
                let (yes, no) = self.test(expr, state, kind);
                Ends::on(yes.join(no))
            }
            Statement::If(branches, otherwise) => {
                let mut ends = Ends::on(State::NOWHERE);
                let mut rest = state;
                let was = |s: State| s.may() & fact::MAYBE != 0;
                for (test, body) in branches {
                    let (mut yes, no) = self.test(test, rest, kind);
                    let maybe = !understood(test);
                    if maybe {
                        yes = yes.set(fact::MAYBE, false);
                    }
                    let step = self.block(body, yes, kind);
                    ends = Ends { on: ends.on.join(step.on), returned: ends.returned.join(step.returned), left: ends.left.join(step.left) };
                    rest = if maybe { no.set(fact::MAYBE, false) } else { no };
                }
                let step = self.block(otherwise, rest, kind);
                ends = Ends { on: ends.on.join(step.on), returned: ends.returned.join(step.returned), left: ends.left.join(step.left) };
                if !was(state) {
                    ends.on = ends.on.clear(fact::MAYBE);
                }
                ends
            }
            Statement::While(test, body) => {
                let mut begin = state;
                let mut out = Ends::on(State::NOWHERE);
                // The second round has all that the first one left behind.
                for _ in 0..2 {
                    let (yes, no) = self.test(test, begin, kind);
                    let step = self.block(body, yes, kind);
                    out = Ends { on: out.on.join(no).join(step.left).join(step.on), returned: out.returned.join(step.returned), left: State::NOWHERE };
                    begin = begin.join(step.on).join(step.left);
                }
                out
            }
            Statement::Switch(of, arms) => self.switch(of, arms, state, kind),
            Statement::End(_, true) => Ends::on(state),
            Statement::End(End::Script, false) => Ends::on(State::NOWHERE),
            Statement::End(End::Route, false) => Ends { returned: state, ..Ends::on(State::NOWHERE) },
            Statement::End(End::Loop, false) => Ends { left: state, ..Ends::on(State::NOWHERE) },
        }
    }

    fn switch(&mut self, of: &'a Expr, arms: &'a [(Option<Token>, Vec<Statement>)], state: State, kind: RouteKind) -> Ends {
        let (yes, no) = self.test(of, state, kind);
        let by_method = only_variable(of).is_some_and(|v| v == "rm");
        let state = yes.join(no);
        let mut left = state;
        let mut out = Ends::on(State::NOWHERE);
        let mut through = State::NOWHERE;
        let mut default = false;
        for (value, body) in arms {
            let mut here = match (value, by_method) {
                (Some(Token { kind: Kind::Text(name), .. }), true) => {
                    let classes = method(name);
                    let here = left.only(classes);
                    // There are other methods of the kind without a name.
                    if METHODS.contains(&&**name) {
                        left = left.only(!classes);
                    }
                    here
                }
                (None, _) => {
                    default = true;
                    left
                }
                _ => state,
            };
            if !by_method {
                here = here.set(fact::MAYBE, false);
            }
            let step = self.block(body, here.join(through), kind);
            through = step.on;
            out.on = out.on.join(step.left);
            out.returned = out.returned.join(step.returned);
        }
        out.on = out.on.join(through);
        if !default {
            out.on = out.on.join(left);
        }
        if state.may() & fact::MAYBE == 0 {
            out.on = out.on.clear(fact::MAYBE);
        }
        out
    }

    /// The states where an expression is true, and where it is false.
    fn test(&mut self, expr: &'a Expr, state: State, kind: RouteKind) -> (State, State) {
        match expr {
            Expr::Not(inner) => {
                let (yes, no) = self.test(inner, state, kind);
                (no, yes)
            }
            Expr::And(all) => {
                let (mut yes, mut no) = (state, State::NOWHERE);
                for part in all {
                    let (y, n) = self.test(part, yes, kind);
                    yes = y;
                    no = no.join(n);
                }
                (yes, no)
            }
            Expr::Or(all) => {
                let (mut yes, mut no) = (State::NOWHERE, state);
                for part in all {
                    let (y, n) = self.test(part, no, kind);
                    no = n;
                    yes = yes.join(y);
                }
                (yes, no)
            }
            Expr::Call(call) => {
                let after = self.call(call, state, kind);
                match classes_of(call) {
                    Some((yes, no)) => (after.only(yes), after.only(no)),
                    None => (after, after.unsure(state)),
                }
            }
            Expr::Items(items) => {
                let mut state = state;
                let count = items.len();
                for item in items {
                    if let Item::Expr(inner) = item {
                        let (yes, no) = self.test(inner, state, kind);
                        if count == 1 {
                            return (yes, no);
                        }
                        state = yes.join(no);
                    }
                }
                if let Some((target, _)) = expr.assignment()
                    && let Kind::Variable(name) = &target.kind
                    && (name.starts_with("acc_extra(") || name.starts_with("acc_leg("))
                {
                    state = state.set(fact::VALUE, target.doubt.is_none());
                }
                match comparison(items) {
                    Some((yes, no)) => (state.only(yes), state.only(no)),
                    None => (state, state),
                }
            }
        }
    }

    /// Does what a call does, if it succeeds.
    fn call(&mut self, call: &'a Call, state: State, kind: RouteKind) -> State {
        let mut state = state;
        for inner in &call.inner {
            let (yes, no) = self.test(inner, state, kind);
            state = yes.join(no);
        }
        self.calls.insert(call.id, call);
        let site = self.sites.entry((call.id, number(kind))).or_insert(State::NOWHERE);
        *site = site.join(state);
        let sure = !call.doubt;
        match &*call.name {
            "route" => return self.called(call, state, kind),
            "t_on_failure" | "t_on_branch" | "t_on_reply" | "t_on_branch_failure" => {
                let routes = call.constant(0).map(|name| self.named(false, &name));
                match routes {
                    Some(routes) => {
                        let bits = routes.iter().fold(0u128, |bits, i| bits | 1u128.checked_shl(u32::try_from(*i).unwrap_or(u32::MAX)).unwrap_or(0));
                        state = state.each(|f| f.armed |= bits);
                        // The set has no room for more.
                        routes.iter().filter(|i| **i >= 128).for_each(|i| self.enter(*i, state.set(fact::TRANSACTION | fact::RELAYED, false)));
                    }
                    None => self.enter_all(false, state),
                }
            }
            _ => {
                // Routes that others call: t_continue, async, task workers.
                for name in (0..call.arguments.len()).filter_map(|i| call.constant(i)).filter(|name| !name.is_empty()) {
                    for index in self.named(true, &name) {
                        self.enter(index, state);
                    }
                }
            }
        }
        state = self.model.effect(call).apply(state, sure);
        if is_relay(&call.name) {
            let relayed = state.set(fact::RELAYED | fact::TRANSACTION, true);
            let missed = |f: &mut Facts| {
                f.may |= if f.may & fact::MISSED != 0 { fact::WAS_MISSED } else { 0 };
                f.must |= if f.must & fact::MISSED != 0 { fact::WAS_MISSED } else { 0 };
            };
            for (i, route) in self.script.routes.iter().enumerate().take(128) {
                let bit = 1u128 << i;
                let mut here = relayed;
                for facts in &mut here.0 {
                    *facts = facts.filter(|f| f.armed & bit != 0);
                }
                if here == State::NOWHERE {
                    continue;
                }
                if route.kind == RouteKind::Failure {
                    here = here.each(missed).clear(fact::MISSED);
                }
                self.enter(i, here.each(|f| f.armed &= !bit));
            }
        }
        state
    }

    /// `route(NAME)`
    fn called(&mut self, call: &'a Call, state: State, kind: RouteKind) -> State {
        let Some(name) = call.constant(0) else {
            self.dynamic = true;
            self.enter_all(true, state);
            return state;
        };
        let name = if name == "0" { String::new() } else { name };
        let routes = self.named(true, &name);
        if routes.is_empty() {
            return state;
        }
        routes.into_iter().fold(State::NOWHERE, |out, index| {
            let one = self.route(index, state, kind);
            out.join(one)
        })
    }

    fn named(&self, request: bool, name: &str) -> Vec<usize> {
        self.by_name.get(&(request, Rc::from(name))).cloned().unwrap_or_default()
    }

    fn enter(&mut self, index: usize, state: State) {
        self.entries[index] = self.entries[index].join(state);
    }

    fn enter_all(&mut self, request: bool, state: State) {
        for (i, route) in self.script.routes.iter().enumerate() {
            if (route.kind == RouteKind::Request) == request && !route.name.is_empty() {
                self.entries[i] = self.entries[i].join(state);
            }
        }
    }
}

impl Effect {
    fn apply(self, state: State, sure: bool) -> State {
        let state = if sure { state.clear(self.clears) } else { state.each(|f| f.must &= !self.clears) };
        let state = state.each(|f| f.must &= !self.may_clear);
        state.set(self.adds, sure).set(self.may_add, false)
    }
}

const KINDS: [RouteKind; 6] = [RouteKind::Request, RouteKind::Failure, RouteKind::Branch, RouteKind::Reply, RouteKind::Local, RouteKind::Event];

fn number(kind: RouteKind) -> u8 {
    KINDS.iter().position(|k| *k == kind).map_or(0, |i| i as u8)
}

/// Whether a condition is about methods and To tags only.
fn understood(expr: &Expr) -> bool {
    match expr {
        Expr::Not(inner) => understood(inner),
        Expr::And(all) | Expr::Or(all) => all.iter().all(understood),
        Expr::Call(call) => classes_of(call).is_some(),
        Expr::Items(items) => match items.as_slice() {
            [Item::Expr(inner)] => understood(inner),
            _ => comparison(items).is_some(),
        },
    }
}

/// For which requests a call is true, and for which it is false.
fn classes_of(call: &Call) -> Option<(Classes, Classes)> {
    match &*call.name {
        "is_method" => {
            let names = call.constant(0)?;
            Some(of_methods(names.split('|').map(str::trim)))
        }
        "has_totag" => Some((INSIDE, INITIAL)),
        _ => None,
    }
}

fn of_methods<'n>(names: impl Iterator<Item = &'n str>) -> (Classes, Classes) {
    let (mut yes, mut some) = (0, 0);
    for name in names.filter(|name| !name.is_empty()) {
        let classes = method(name);
        if METHODS.iter().any(|m| m.eq_ignore_ascii_case(name)) { yes |= classes } else { some |= classes }
    }
    // Of the methods that are not distinguished, some are named here and others are not.
    (yes | some, ANY & !yes)
}

/// The base name of the only variable, or word, that an expression consists of.
fn only_variable(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Items(items) => match items.as_slice() {
            [Item::Token(token)] => operand(token),
            [Item::Expr(inner)] => only_variable(inner),
            _ => None,
        },
        _ => None,
    }
}

/// `rm` and `method`, and `tt` and `rU`.
fn operand(token: &Token) -> Option<String> {
    match &token.kind {
        Kind::Variable(name) => Some(name.trim_start_matches('(').trim_end_matches(')').to_string()),
        Kind::Word(word) if &**word == "method" => Some("rm".into()),
        _ => None,
    }
}

/// For which requests a comparison is true, and for which it is false.
fn comparison(items: &[Item]) -> Option<(Classes, Classes)> {
    let tokens: Vec<&Token> = items.iter().map(|item| if let Item::Token(token) = item { Some(token) } else { None }).collect::<Option<_>>()?;
    let (left, rest) = tokens.split_first()?;
    let name = operand(left)?;
    let signs: String = rest.iter().map_while(|t| if let Kind::Sign(c) = t.kind { Some(c) } else { None }).take_while(|c| "=!~".contains(*c)).collect();
    let right = &rest[signs.len()..];
    let swap = |(yes, no): (Classes, Classes), swap| if swap { (no, yes) } else { (yes, no) };
    let text = |token: &Token| match &token.kind {
        Kind::Text(text) | Kind::Word(text) => Some(text.to_string()),
        _ => None,
    };
    match (&*name, &*signs, right) {
        ("rm", "==" | "!=", [value]) => Some(swap(of_methods([&*text(value)?].into_iter()), signs == "!=")),
        ("rm", "=~" | "!~", [value]) => {
            let value = text(value)?;
            let plain = value.trim_start_matches('^').trim_end_matches('$').trim_start_matches('(').trim_end_matches(')');
            if !plain.split('|').all(|name| name.chars().all(|c| c.is_ascii_alphabetic())) {
                return None;
            }
            Some(swap(of_methods(plain.split('|')), signs == "!~"))
        }
        // With null, NULL or an empty text.
        ("tt", "==" | "!=", [value]) if is_null(value) => Some(swap((INITIAL, INSIDE), signs == "!=")),
        // Only the URI of a REGISTER has no user.
        ("rU", "==" | "!=", [value]) if is_null(value) => {
            let register = method("REGISTER");
            Some(swap((ANY, ANY & !register), signs == "!="))
        }
        _ => None,
    }
}

fn is_null(token: &Token) -> bool {
    match &token.kind {
        Kind::Variable(name) => &**name == "null",
        Kind::Word(word) => word.eq_ignore_ascii_case("null"),
        Kind::Text(text) => text.is_empty(),
        _ => false,
    }
}

/// Every assignment, with the kind of route it stands in and its place.
pub fn assignments(script: &Script) -> Vec<(RouteKind, &Token, &[Item])> {
    let mut all = Vec::new();
    for route in &script.routes {
        expressions(&route.body, &mut |expr| {
            if let Some((target, value)) = expr.assignment() {
                all.push((route.kind, target, value));
            }
        });
    }
    all
}

/// Every variable of a script that is read, and where: those that are only assigned to are not.
pub fn reads(script: &Script) -> Vec<(RouteKind, At, Rc<str>)> {
    let mut all = Vec::new();
    for route in &script.routes {
        expressions(&route.body, &mut |expr| {
            let target = expr.assignment().map(|(target, _)| target.at);
            expr.walk(&mut |seen| match seen {
                Seen::Token(Token { at, kind: Kind::Variable(name), .. }) if Some(*at) != target => all.push((route.kind, *at, name.clone())),
                // A text may hold variables.
                Seen::Token(Token { at, kind: Kind::Text(text), .. }) => {
                    for part in text.split('$').skip(1) {
                        all.push((route.kind, *at, part.into()));
                    }
                }
                _ => {}
            });
        });
    }
    all
}
