//! The routes of a configuration as statements. What the servers would refuse may pass, and what is not understood is
//! kept unchanged: what matters is which functions are called, in which order, and under which conditions.

use std::rc::Rc;

use super::lexer::{At, Kind, Token, Tokens};

/// Deepest nesting of blocks and parentheses.
const MAX_DEPTH: usize = 60;

/// Which route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// The main route, or one that others call.
    Request,
    /// After a final negative reply.
    Failure,
    /// Before each branch is sent.
    Branch,
    /// When a reply comes.
    Reply,
    /// Requests of the server itself.
    Local,
    /// Everything else that the server calls itself: events, timers, its start.
    Event,
}

/// A route.
#[derive(Debug)]
pub struct Route {
    /// Which.
    pub kind: RouteKind,
    /// Its name; empty for the main route.
    pub name: Rc<str>,
    /// What it does.
    pub body: Vec<Statement>,
}

/// A call of a function.
#[derive(Debug)]
pub struct Call {
    /// Its index among all calls.
    pub id: usize,
    /// Where it stands.
    pub at: At,
    /// Name of the function.
    pub name: Rc<str>,
    /// The tokens of each argument.
    pub arguments: Vec<Vec<Token>>,
    /// Calls in the arguments.
    pub inner: Vec<Expr>,
    /// Whether it may not count.
    pub doubt: bool,
}

/// An expression.
#[derive(Debug)]
pub enum Expr {
    /// A call.
    Call(Call),
    /// `!x`
    Not(Box<Expr>),
    /// `x && y`
    And(Vec<Expr>),
    /// `x || y`
    Or(Vec<Expr>),
    /// Anything else, in order: comparisons, assignments, arithmetic.
    Items(Vec<Item>),
}

/// Part of an expression.
#[derive(Debug)]
pub enum Item {
    /// A token.
    Token(Token),
    /// A call, or an expression in parentheses.
    Expr(Expr),
}

/// How a route, a loop or a branch of `switch` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `exit`, `drop`: the script.
    Script,
    /// `return`: the route.
    Route,
    /// `break`, `continue`: the loop, or the branch of `switch`.
    Loop,
}

/// A statement.
#[derive(Debug)]
pub enum Statement {
    /// An expression.
    Expr(Expr),
    /// `if`, each `else if`, and `else`.
    If(Vec<(Expr, Vec<Statement>)>, Vec<Statement>),
    /// `while`, and `for`.
    While(Expr, Vec<Statement>),
    /// `switch`: each `case` with its value, `default` without.
    Switch(Expr, Vec<(Option<Token>, Vec<Statement>)>),
    /// `exit` and so on, with whether it may not count.
    End(End, bool),
}

/// The routes of a configuration.
#[derive(Debug, Default)]
pub struct Script {
    /// In the order in which they stand.
    pub routes: Vec<Route>,
}

/// Reads all routes.
pub fn parse(tokens: &Tokens) -> Result<Script, String> {
    let mut parser = Parser { tokens, rest: &tokens.all, calls: 0, depth: 0 };
    let mut routes = Vec::new();
    while let Some((token, after)) = parser.rest.split_first() {
        parser.rest = after;
        let Some(kind) = token.word().and_then(route_kind) else { continue };
        let name = if parser.sign('[') { Some(parser.route_name()) } else { None };
        if !parser.sign('{') {
            continue;
        }
        let body = parser.block(token.at)?;
        let name = name.filter(|name| !(kind == RouteKind::Request && name == "0")).unwrap_or_default();
        routes.push(Route { kind, name: name.into(), body });
    }
    Ok(Script { routes })
}

fn route_kind(word: &str) -> Option<RouteKind> {
    Some(match word {
        "route" | "request_route" | "main_route" => RouteKind::Request,
        "failure_route" | "branch_failure_route" => RouteKind::Failure,
        "branch_route" => RouteKind::Branch,
        "onreply_route" | "reply_route" => RouteKind::Reply,
        "local_route" => RouteKind::Local,
        "error_route" | "startup_route" | "timer_route" | "event_route" | "onsend_route" => RouteKind::Event,
        _ => return None,
    })
}

struct Parser<'a> {
    tokens: &'a Tokens,
    rest: &'a [Token],
    calls: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.rest.first()
    }

    fn next(&mut self) -> Option<&'a Token> {
        let (token, after) = self.rest.split_first()?;
        self.rest = after;
        Some(token)
    }

    fn is(&self, sign: char) -> bool {
        self.peek().is_some_and(|token| token.is(sign))
    }

    fn sign(&mut self, sign: char) -> bool {
        let is = self.is(sign);
        if is {
            self.next();
        }
        is
    }

    fn word(&mut self, word: &str) -> bool {
        let is = self.peek().and_then(Token::word) == Some(word);
        if is {
            self.next();
        }
        is
    }

    /// Two signs, one directly after the other.
    fn pair(&self, first: char, second: char) -> bool {
        matches!(self.rest, [a, b, ..] if a.is(first) && b.is(second))
    }

    fn deeper<T>(&mut self, at: At, then: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        if self.depth == MAX_DEPTH {
            return Err(format!("{}: nested more than {MAX_DEPTH} levels deep", self.tokens.at(at)));
        }
        self.depth += 1;
        let out = then(self);
        self.depth -= 1;
        out
    }

    /// After `[`: the name, of a timer without its interval.
    fn route_name(&mut self) -> String {
        let mut name = String::new();
        let mut whole = false;
        while let Some(token) = self.next() {
            if token.is(']') {
                break;
            }
            whole |= token.is(',');
            if !whole {
                name.push_str(&plain(token));
            }
        }
        name
    }

    /// After `{`.
    fn block(&mut self, begin: At) -> Result<Vec<Statement>, String> {
        let mut out = Vec::new();
        while !self.sign('}') {
            if self.peek().is_none() {
                return Err(format!("{}: the block that begins here is not closed", self.tokens.at(begin)));
            }
            self.statement(&mut out)?;
        }
        Ok(out)
    }

    fn statement(&mut self, out: &mut Vec<Statement>) -> Result<(), String> {
        let Some(token) = self.peek() else { return Ok(()) };
        let at = token.at;
        self.deeper(at, |p| {
            if p.sign(';') {
                return Ok(());
            }
            if p.sign('{') {
                out.extend(p.block(at)?);
                return Ok(());
            }
            let doubt = token.doubt.is_some();
            let end = match token.word() {
                Some("if") => return p.branches(out),
                Some("while" | "for") => {
                    p.next();
                    let test = p.test()?;
                    let mut body = Vec::new();
                    p.statement(&mut body)?;
                    out.push(Statement::While(test, body));
                    return Ok(());
                }
                Some("switch") => return p.switch(out),
                Some("exit" | "drop") => End::Script,
                Some("return") => End::Route,
                Some("break" | "continue") => End::Loop,
                _ => {
                    let expr = p.expr(false)?;
                    // A sign that begins nothing.
                    if p.rest.first().is_some_and(|now| std::ptr::eq(now, token)) && !token.is('}') {
                        p.next();
                    }
                    out.push(Statement::Expr(expr));
                    return Ok(());
                }
            };
            p.next();
            let value = p.expr(false)?;
            if !matches!(&value, Expr::Items(items) if items.is_empty()) {
                out.push(Statement::Expr(value));
            }
            out.push(Statement::End(end, doubt));
            Ok(())
        })
    }

    /// At `if`.
    fn branches(&mut self, out: &mut Vec<Statement>) -> Result<(), String> {
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        while self.word("if") {
            let test = self.test()?;
            let mut body = Vec::new();
            self.statement(&mut body)?;
            branches.push((test, body));
            // A semicolon after the block does not end the statement.
            if matches!(self.rest, [a, b, ..] if a.is(';') && b.word() == Some("else")) {
                self.next();
            }
            if !self.word("else") {
                break;
            }
            if self.peek().and_then(Token::word) != Some("if") {
                self.statement(&mut otherwise)?;
                break;
            }
        }
        out.push(Statement::If(branches, otherwise));
        Ok(())
    }

    /// The condition of `if`, `while` or `switch`.
    fn test(&mut self) -> Result<Expr, String> {
        self.expr(true)
    }

    /// At `switch`.
    fn switch(&mut self, out: &mut Vec<Statement>) -> Result<(), String> {
        let begin = self.next().map(|t| t.at).unwrap_or_default();
        let of = self.test()?;
        let mut arms: Vec<(Option<Token>, Vec<Statement>)> = Vec::new();
        if !self.sign('{') {
            return Ok(());
        }
        while !self.sign('}') {
            let Some(token) = self.peek() else {
                return Err(format!("{}: the block that begins here is not closed", self.tokens.at(begin)));
            };
            match token.word() {
                Some("case" | "default") => {
                    let mut value = None;
                    self.next();
                    while let Some(token) = self.peek().filter(|t| !t.is(':') && !t.is('{') && !t.is('}')) {
                        value = Some(token.clone());
                        self.next();
                    }
                    self.sign(':');
                    arms.push((value, Vec::new()));
                }
                _ => match arms.last_mut() {
                    Some((_, body)) => self.statement(body)?,
                    None => drop(self.next()),
                },
            }
        }
        out.push(Statement::Switch(of, arms));
        Ok(())
    }

    /// An expression. With `test`, one that begins with a parenthesis continues after it only with an operator.
    fn expr(&mut self, test: bool) -> Result<Expr, String> {
        let at = self.peek().map(|t| t.at).unwrap_or_default();
        self.deeper(at, |p| {
            let mut or = Vec::new();
            loop {
                let mut and = vec![p.unary(test)?];
                while p.operator('&', "and") {
                    and.push(p.unary(test)?);
                }
                or.push(if and.len() == 1 { and.swap_remove(0) } else { Expr::And(and) });
                if !p.operator('|', "or") {
                    break;
                }
            }
            Ok(if or.len() == 1 { or.swap_remove(0) } else { Expr::Or(or) })
        })
    }

    /// `&&`, or what it is in words.
    fn operator(&mut self, sign: char, word: &str) -> bool {
        if self.pair(sign, sign) {
            self.next();
            self.next();
            return true;
        }
        self.word(word)
    }

    fn unary(&mut self, test: bool) -> Result<Expr, String> {
        let at = self.peek().map(|t| t.at).unwrap_or_default();
        if (self.is('!') && !self.pair('!', '=') && !self.pair('!', '~')) || self.peek().and_then(Token::word) == Some("not") {
            self.next();
            let inner = self.deeper(at, |p| p.unary(test))?;
            return Ok(Expr::Not(Box::new(inner)));
        }
        let mut items = Vec::new();
        while let Some(token) = self.peek() {
            let ends = [';', '{', '}', ')', ','].iter().any(|sign| token.is(*sign));
            if ends || self.pair('&', '&') || self.pair('|', '|') || matches!(token.word(), Some("and" | "or")) {
                break;
            }
            // if (x) y();
            if test && matches!(items.last(), Some(Item::Expr(_))) && !matches!(token.kind, Kind::Sign(_)) && !is_operator(token) {
                break;
            }
            if self.sign('(') {
                let inner = self.expr(false)?;
                // Lists in parentheses.
                let mut all = vec![Item::Expr(inner)];
                while self.sign(',') {
                    all.push(Item::Expr(self.expr(false)?));
                }
                self.sign(')');
                let one = if all.len() == 1 { all.swap_remove(0) } else { Item::Expr(Expr::Items(all)) };
                items.push(one);
            } else if token.word().is_some() && matches!(self.rest, [_, after, ..] if after.is('(')) && !is_operator(token) {
                let call = self.deeper(token.at, Self::call)?;
                items.push(Item::Expr(Expr::Call(call)));
            } else {
                self.next();
                items.push(Item::Token(token.clone()));
            }
        }
        match items.as_slice() {
            [Item::Expr(_)] => match items.swap_remove(0) {
                Item::Expr(expr) => Ok(expr),
                token => Ok(Expr::Items(vec![token])),
            },
            _ => Ok(Expr::Items(items)),
        }
    }

    /// At the name of a function.
    fn call(&mut self) -> Result<Call, String> {
        let Some(Token { at, kind: Kind::Word(name), doubt, .. }) = self.next() else { return Err("no call".into()) };
        self.sign('(');
        let id = self.calls;
        self.calls += 1;
        let mut call = Call { id, at: *at, name: name.clone(), arguments: Vec::new(), inner: Vec::new(), doubt: doubt.is_some() };
        let mut argument = Vec::new();
        let mut depth = 0;
        while let Some(token) = self.peek() {
            if depth == 0 && token.word().is_some() && matches!(self.rest, [_, after, ..] if after.is('(')) {
                argument.push(token.clone());
                let inner = self.deeper(token.at, Self::call)?;
                call.inner.push(Expr::Call(inner));
                continue;
            }
            match &token.kind {
                // A parenthesis is missing.
                Kind::Sign(';' | '{' | '}') => break,
                Kind::Sign(')') if depth == 0 => {
                    self.next();
                    break;
                }
                Kind::Sign(',') if depth == 0 => {
                    self.next();
                    call.arguments.push(std::mem::take(&mut argument));
                    continue;
                }
                Kind::Sign('(') => depth += 1,
                Kind::Sign(')') => depth -= 1,
                _ => {}
            }
            argument.push(token.clone());
            self.next();
        }
        if !argument.is_empty() || !call.arguments.is_empty() {
            call.arguments.push(argument);
        }
        Ok(call)
    }
}

/// Words between two values.
fn is_operator(token: &Token) -> bool {
    matches!(token.word(), Some("eq" | "ne" | "mod" | "in"))
}

/// A token, as it occurs in a name.
pub fn plain(token: &Token) -> String {
    match &token.kind {
        Kind::Word(text) | Kind::Text(text) | Kind::Unknown(text) => text.to_string(),
        Kind::Variable(text) => format!("${text}"),
        Kind::Number(n) => n.to_string(),
        Kind::Sign(c) => c.to_string(),
    }
}

impl Call {
    /// The value of a constant argument; `None` if it is missing or contains variables.
    pub fn constant(&self, index: usize) -> Option<String> {
        let argument = self.arguments.get(index).filter(|tokens| !tokens.is_empty())?;
        if argument.iter().any(|token| matches!(token.kind, Kind::Variable(_) | Kind::Unknown(_))) {
            return None;
        }
        let text: String = argument.iter().map(plain).collect();
        (!text.contains('$')).then_some(text)
    }

    /// Whether there is such an argument.
    pub fn has(&self, index: usize) -> bool {
        self.arguments.get(index).is_some_and(|tokens| !tokens.is_empty())
    }
}

impl Expr {
    /// Passes every call and every other token to `each`, in order.
    pub fn walk<'a>(&'a self, each: &mut dyn FnMut(Seen<'a>)) {
        match self {
            Expr::Call(call) => {
                each(Seen::Call(call));
                call.inner.iter().for_each(|expr| expr.walk(each));
                call.arguments.iter().flatten().for_each(|token| each(Seen::Token(token)));
            }
            Expr::Not(inner) => inner.walk(each),
            Expr::And(all) | Expr::Or(all) => all.iter().for_each(|expr| expr.walk(each)),
            Expr::Items(items) => items.iter().for_each(|item| match item {
                Item::Token(token) => each(Seen::Token(token)),
                Item::Expr(expr) => expr.walk(each),
            }),
        }
    }

    /// The variable that it assigns to, and the rest after `=`.
    pub fn assignment(&self) -> Option<(&Token, &[Item])> {
        let Expr::Items(items) = self else { return None };
        let (Item::Token(first @ Token { kind: Kind::Variable(_), .. }), rest) = items.split_first()? else { return None };
        // Up to the operator: `[index]`, `:`, `+`.
        let at = rest.iter().take(5).position(|item| matches!(item, Item::Token(t) if t.is('=')))?;
        let after = &rest[at + 1..];
        let compares = matches!(after.first(), Some(Item::Token(t)) if t.is('=') || t.is('~'))
            || matches!(at.checked_sub(1).map(|i| &rest[i]), Some(Item::Token(t)) if t.is('!') || t.is('<') || t.is('>'));
        (!compares).then_some((first, after))
    }
}

/// What [`Expr::walk`] passes on.
pub enum Seen<'a> {
    /// A call.
    Call(&'a Call),
    /// A token that is not a call.
    Token(&'a Token),
}

/// Passes on every expression of these statements.
pub fn expressions<'a>(statements: &'a [Statement], each: &mut dyn FnMut(&'a Expr)) {
    for statement in statements {
        match statement {
            Statement::Expr(expr) => each(expr),
            Statement::If(branches, otherwise) => {
                for (test, body) in branches {
                    each(test);
                    expressions(body, each);
                }
                expressions(otherwise, each);
            }
            Statement::While(test, body) => {
                each(test);
                expressions(body, each);
            }
            Statement::Switch(of, arms) => {
                each(of);
                arms.iter().for_each(|(_, body)| expressions(body, each));
            }
            Statement::End(..) => {}
        }
    }
}
