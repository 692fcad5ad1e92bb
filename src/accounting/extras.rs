//! Grammar of `log_extra` and the like, `multi_leg_info` and `db_table_avp`: names in a backend, and the
//! server's variables whose values are recorded under them.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::names::is_identifier;
use super::record::Backend;
use super::visible::is_control;

/// The server whose variables these are. Some names mean different things in the two servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// OpenSIPS.
    #[default]
    OpenSips,
    /// Kamailio.
    Kamailio,
}

/// Where the value of a variable comes from. No variable is read on a request that several processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The request: read when it comes, while it is private.
    Message,
    /// No message: read when the record is made.
    Moment,
    /// The branch whose reply is reported.
    Branch,
    /// The code of that reply.
    Code,
}

/// Variables that need no message; a name that ends with `*` stands for all that begin like it.
const MOMENT_OPENSIPS: &[&str] = &["avp", "dlg_val", "DLG_*", "shv", "stat", "time", "Ts", "Tsm", "TS", "Tf", "TF", "acc_extra", "acc_leg", "acc_current_leg"];
const MOMENT_KAMAILIO: &[&str] = &[
    "avp", "xavp", "xavu", "xavi", "dlg", "dlg_var", "dlg_ctx", "shv", "sht", "shtex", "shtinc", "stat", "def", "defn", "time", "utime", "timef", "utimef",
    "TV", "Ts", "Tf", "TF", "TS",
];
/// Variables that differ from branch to branch.
const BRANCH_OPENSIPS: &[&str] =
    &["ru", "ruri", "rU", "ruri.user", "rd", "ruri.domain", "rp", "rP", "ru_q", "du", "duri", "dd", "dp", "dP", "fs", "socket_out"];
const BRANCH_KAMAILIO: &[&str] = &["ru", "rU", "rd", "rp", "rP", "rz", "nh"];
/// Text around other variables.
const AROUND: &str = "_s";

impl Class {
    /// The class of a variable, by its text. Variables nested in one text are read together, at a moment when all of them
    /// belong to this request; AVPs then have the values of that moment.
    fn of(text: &str, family: Family) -> Class {
        if names_of(text).eq(["T_reply_code"]) {
            return Class::Code;
        }
        // A code inside another variable has no class of its own: it is read with the request.
        let classes: Vec<Class> = names_of(text).filter(|name| *name != AROUND).map(|name| Class::of_name(name, family)).collect();
        let has = |class| classes.contains(&class);
        if has(Class::Branch) {
            Class::Branch
        } else if has(Class::Message) || classes.is_empty() {
            Class::Message
        } else {
            Class::Moment
        }
    }

    fn of_name(name: &str, family: Family) -> Class {
        let (moment, branch) = match family {
            Family::OpenSips => (MOMENT_OPENSIPS, BRANCH_OPENSIPS),
            Family::Kamailio => (MOMENT_KAMAILIO, BRANCH_KAMAILIO),
        };
        let is_in = |names: &[&str]| {
            names.iter().any(|n| match n.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => *n == name,
            })
        };
        if is_in(moment) {
            Class::Moment
        } else if is_in(branch) {
            Class::Branch
        } else {
            Class::Message
        }
    }
}

/// The names in a variable's text, which may contain other variables: `sht` and `ci` of `$(sht(a=>$ci))`.
fn names_of(text: &str) -> impl Iterator<Item = &str> {
    text.split('$').skip(1).map(|variable| {
        let inner = variable.trim_start_matches('(');
        let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.')).unwrap_or(inner.len());
        &inner[..end]
    })
}

/// A variable that an extra is made of. Each is listed once, however many backends use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// As the server reads it.
    pub text: Arc<str>,
    /// Where its value comes from.
    pub class: Class,
    /// It is read on the reply: marked `/reply`.
    pub of_reply: bool,
    /// What its value is kept under.
    pub key: Arc<str>,
}

impl Variable {
    /// It belongs to the script: until a route of this request has run, it has what another request left in it.
    pub fn is_of_script(&self) -> bool {
        names_of(&self.text).any(|name| name == "var")
    }
}

/// A name in a backend, and the value recorded under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Column, attribute, pair or parameter.
    pub name: Arc<str>,
    /// Index of the variable, or of the AVP of a leg.
    pub value: usize,
}

/// Everything that the parameters declare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Variables of all lists.
    pub variables: Vec<Variable>,
    /// By backend: `log_extra`, `aaa_extra`, ...
    pub extra: [Vec<Named>; Backend::ALL.len()],
    /// By backend: `log_extra_bye`, ...: read on the BYE of a call with a CDR.
    pub bye: [Vec<Named>; Backend::ALL.len()],
    /// AVPs of legs, as written between the parentheses of `$avp()`.
    pub avps: Vec<Arc<str>>,
    /// `multi_leg_info`, for all backends.
    pub legs: Vec<Named>,
    /// `multi_leg_bye_info`.
    pub bye_legs: Vec<Named>,
    /// `db_table_avp`: the variable that names the table.
    pub table: Option<usize>,
}

/// Why a definition cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtraError {
    /// No name, no `=`, no variable.
    #[error("\"{0}\" is not an extra: write name=$variable, several joined by ';', with none after the last")]
    NoExtra(String),
    /// Parentheses that are not closed.
    #[error("\"{0}\" is not a variable: close its parentheses")]
    Open(String),
    /// Something after the variable.
    #[error("\"{0}\" follows a variable: only /reply may, which reads it on the reply")]
    Marker(String),
    /// `/reply` where there is none.
    #[error("\"{0}\" is marked /reply, but there is no reply when it is read: remove the mark")]
    NoReply(String),
    /// An SQL column that would have to be quoted.
    #[error("\"{0}\" is not a column name: use letters, digits and '_', not beginning with a digit")]
    BadColumn(String),
    /// A leg or table that is not an AVP.
    #[error("\"{0}\" is not an AVP: write $avp(name)")]
    NoAvp(String),
}

/// One extra as it is written.
#[derive(Debug, PartialEq, Eq)]
struct Item<'a> {
    name: &'a str,
    variable: &'a str,
    of_reply: bool,
}

/// Reads `name = $variable [/reply] (; ...)*`. Blanks and line ends are allowed around all parts.
fn parse(list: &str) -> Result<Vec<Item<'_>>, ExtraError> {
    let mut items = Vec::new();
    let mut rest = list.trim();
    loop {
        let none = || ExtraError::NoExtra(rest.into());
        let (name, behind) = rest.split_once('=').ok_or_else(none)?;
        let (name, behind) = (name.trim(), behind.trim_start());
        if name.is_empty() || name.contains([';', '$']) || name.contains(is_control) || !behind.starts_with('$') {
            return Err(none());
        }
        let (variable, mut behind) = behind.split_at(length(behind)?);
        if variable.len() < 2 {
            return Err(none());
        }
        behind = behind.trim_start();
        let (marker, next) = behind.split_once(';').map_or((behind, None), |(m, n)| (m, Some(n)));
        let marker = marker.trim();
        let of_reply = match marker.strip_prefix('/').map(str::trim_start) {
            Some(word) if word.eq_ignore_ascii_case("reply") => true,
            None if marker.is_empty() => false,
            _ => return Err(ExtraError::Marker(marker.into())),
        };
        items.push(Item { name, variable, of_reply });
        match next {
            None => return Ok(items),
            Some(next) => rest = next.trim_start(),
        }
    }
}

/// Length of the variable that a text begins with: a name, and what is in parentheses.
fn length(text: &str) -> Result<usize, ExtraError> {
    let name = text[1..].find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.' | ':')).map_or(text.len(), |n| n + 1);
    if text.as_bytes().get(name) != Some(&b'(') {
        return Ok(name);
    }
    let mut depth = 0usize;
    for (at, c) in text.char_indices().skip(name) {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return Ok(at + 1),
            ')' => depth -= 1,
            _ => {}
        }
    }
    Err(ExtraError::Open(text.into()))
}

/// The name of an AVP: `x` of `$avp(x)` and of `$(avp(x))`.
fn avp_of(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("$(").and_then(|t| t.strip_suffix(')')).or_else(|| text.strip_prefix('$'))?;
    let name = inner.strip_prefix("avp(")?.strip_suffix(')')?;
    (!name.is_empty() && !name.contains(['(', ')', '[', '{'])).then_some(name)
}

impl Extras {
    /// Nothing is declared.
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty() && self.avps.is_empty()
    }

    /// Reads the extras of a backend.
    ///
    /// # Errors
    /// What is wrong, and the cure.
    pub fn set(&mut self, backend: Backend, list: &str, family: Family) -> Result<(), ExtraError> {
        self.extra[backend.index()] = self.named(backend, list, family, true)?;
        Ok(())
    }

    /// Reads the extras of a backend that are read on the BYE.
    ///
    /// # Errors
    /// As [`Extras::set`].
    pub fn set_bye(&mut self, backend: Backend, list: &str, family: Family) -> Result<(), ExtraError> {
        self.bye[backend.index()] = self.named(backend, list, family, false)?;
        Ok(())
    }

    /// Reads the values of legs.
    ///
    /// # Errors
    /// As [`Extras::set`].
    pub fn set_legs(&mut self, list: &str) -> Result<(), ExtraError> {
        self.legs = self.avps_of(list)?;
        Ok(())
    }

    /// Reads the values of legs that are read on the BYE.
    ///
    /// # Errors
    /// As [`Extras::set`].
    pub fn set_bye_legs(&mut self, list: &str) -> Result<(), ExtraError> {
        self.bye_legs = self.avps_of(list)?;
        Ok(())
    }

    /// Reads the AVP that names a table.
    ///
    /// # Errors
    /// As [`Extras::set`].
    pub fn set_table(&mut self, text: &str, family: Family) -> Result<(), ExtraError> {
        let text = text.trim();
        if avp_of(text).is_none() {
            return Err(ExtraError::NoAvp(text.into()));
        }
        self.table = Some(self.variable(text, false, family));
        Ok(())
    }

    /// A list of names and variables.
    ///
    /// # Errors
    /// As [`Extras::set`].
    fn named(&mut self, backend: Backend, list: &str, family: Family, has_reply: bool) -> Result<Vec<Named>, ExtraError> {
        let mut named = Vec::new();
        for item in parse(list)? {
            if backend == Backend::Db && !is_identifier(item.name) {
                return Err(ExtraError::BadColumn(item.name.into()));
            }
            if item.of_reply && !has_reply {
                return Err(ExtraError::NoReply(item.variable.into()));
            }
            named.push(Named { name: item.name.into(), value: self.variable(item.variable, item.of_reply, family) });
        }
        Ok(named)
    }

    /// Reads a list that belongs to no single backend; names may have to be columns.
    ///
    /// # Errors
    /// As [`Extras::set`].
    pub fn list(&mut self, list: &str, of_columns: bool, family: Family) -> Result<Vec<Named>, ExtraError> {
        self.named(if of_columns { Backend::Db } else { Backend::Log }, list, family, true)
    }

    /// Takes the variable that a text begins with; what follows is left.
    ///
    /// # Errors
    /// As [`Extras::set`].
    pub fn split_variable<'a>(&mut self, text: &'a str, family: Family) -> Result<(usize, &'a str), ExtraError> {
        let (variable, rest) = text.split_at(length(text)?);
        if variable.len() < 2 {
            return Err(ExtraError::NoExtra(text.into()));
        }
        Ok((self.variable(variable, false, family), rest))
    }

    fn avps_of(&mut self, list: &str) -> Result<Vec<Named>, ExtraError> {
        let mut named = Vec::new();
        for item in parse(list)? {
            let avp = avp_of(item.variable).ok_or_else(|| ExtraError::NoAvp(item.variable.into()))?;
            if item.of_reply {
                return Err(ExtraError::NoReply(item.variable.into()));
            }
            let value = self.avps.iter().position(|a| **a == *avp).unwrap_or_else(|| {
                self.avps.push(avp.into());
                self.avps.len() - 1
            });
            named.push(Named { name: item.name.into(), value });
        }
        Ok(named)
    }

    fn variable(&mut self, text: &str, of_reply: bool, family: Family) -> usize {
        let key = if of_reply { format!("{text}/reply") } else { text.to_owned() };
        self.variables.iter().position(|v| *v.key == key).unwrap_or_else(|| {
            self.variables.push(Variable { text: text.into(), class: Class::of(text, family), of_reply, key: key.into() });
            self.variables.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log(list: &str) -> Result<Extras, ExtraError> {
        let mut extras = Extras::default();
        extras.set(Backend::Log, list, Family::OpenSips).map(|()| extras)
    }

    #[test]
    fn blanks_ends_of_lines_and_nested_parentheses() {
        let e = log("\n a =\t$fu ;\r\n b=$(avp(x){s.substr,1,3}) ; c=$hdr(Server) / Reply;d=$(hdr(X-M)[*]);a=$fu").unwrap();
        let shown: Vec<_> = e.extra[Backend::Log.index()].iter().map(|n| format!("{}={}", n.name, e.variables[n.value].key)).collect();
        assert_eq!(shown, ["a=$fu", "b=$(avp(x){s.substr,1,3})", "c=$hdr(Server)/reply", "d=$(hdr(X-M)[*])", "a=$fu"]);
        assert_eq!(e.variables.len(), 4, "a variable is read once");
    }

    #[test]
    fn classes() {
        for (text, opensips, kamailio) in [
            ("$fu", Class::Message, Class::Message),
            ("$hdr(X)", Class::Message, Class::Message),
            ("$var(x)", Class::Message, Class::Message),
            ("$rs", Class::Message, Class::Message),
            ("$avp(x)", Class::Moment, Class::Moment),
            ("$(avp(x)[*])", Class::Moment, Class::Moment),
            ("$xavp(a=>b)", Class::Message, Class::Moment),
            ("$dlg_var(x)", Class::Message, Class::Moment),
            ("$DLG_lifetime", Class::Moment, Class::Message),
            ("$(ru{uri.host})", Class::Branch, Class::Branch),
            ("$ruri.user", Class::Branch, Class::Message),
            ("$du", Class::Branch, Class::Message),
            ("$rUx", Class::Message, Class::Message),
            ("$T_reply_code", Class::Code, Class::Code),
            ("$(T_reply_code{s.substr,0,1})", Class::Code, Class::Code),
            ("$sht(a=>$ci)", Class::Message, Class::Message),
            ("$sht(a=>b)", Class::Message, Class::Moment),
            ("$(avp(x){s.replace,x,$rU})", Class::Branch, Class::Branch),
            ("$_s(c$T_reply_code)", Class::Message, Class::Message),
            ("$_s($avp(x)-$fU)", Class::Message, Class::Message),
            ("$_s($rU)", Class::Branch, Class::Branch),
            ("$_s(x)", Class::Message, Class::Message),
        ] {
            assert_eq!((Class::of(text, Family::OpenSips), Class::of(text, Family::Kamailio)), (opensips, kamailio), "{text}");
        }
    }

    #[test]
    fn errors_name_the_cure() {
        for (list, part) in [
            ("", "\"\" is not an extra: write name=$variable"),
            ("a", "\"a\" is not an extra"),
            ("=$fu", "is not an extra"),
            ("a=", "is not an extra"),
            ("a=fu", "is not an extra"),
            ("a=$", "is not an extra"),
            ("a=$fu;", "none after the last"),
            ("a=$fu;;b=$tu", "is not an extra"),
            ("a=$avp(x", "close its parentheses"),
            ("a=$fu/request", "\"/request\" follows a variable"),
            ("a=$fu x", "\"x\" follows a variable"),
        ] {
            let e = log(list).unwrap_err().to_string();
            assert!(e.contains(part), "{list}: {e}");
        }
        let mut e = Extras::default();
        assert_eq!(e.set(Backend::Db, "a-b=$fu", Family::OpenSips), Err(ExtraError::BadColumn("a-b".into())));
        assert_eq!(e.set_bye(Backend::Log, "a=$fu/reply", Family::OpenSips), Err(ExtraError::NoReply("$fu".into())));
        for list in ["a=$fu", "a=$(avp(x)[0])", "a=$(avp(x){s.len})", "a=$avp()"] {
            assert!(matches!(e.set_legs(list), Err(ExtraError::NoAvp(_))), "{list}");
        }
        assert_eq!(e.set_legs("a=$avp(x);b=$(avp(y));c=$avp(x)"), Ok(()));
        assert_eq!((e.avps.len(), e.legs.len()), (2, 3));
        assert_eq!(e.set_table("avp(x)", Family::OpenSips), Err(ExtraError::NoAvp("avp(x)".into())));
    }

    proptest! {
        #[test]
        fn no_input_panics(list in "[a$=;/()\\[ {}é*.reply]{0,40}") {
            let _ = log(&list);
        }
    }
}
