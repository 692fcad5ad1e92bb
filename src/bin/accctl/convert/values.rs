//! Extras and legs as tags, and the statements that set them.

use acc::accounting::extras::{Class, Extras, Family, Variable};
use acc::accounting::record::Backend;

/// A value of a request.
struct Value {
    tag: String,
    variable: Variable,
}

/// What the parameters declare.
pub struct Values {
    family: Family,
    all: Vec<Value>,
    /// Tag and AVP.
    legs: Vec<(String, String)>,
    /// Tag and variable of values that are read on the BYE.
    pub bye: Vec<(String, String)>,
}

/// Variables that functions of other modules may also set.
const KEPT: [&str; 8] = ["avp(", "xavp(", "xavu(", "xavi(", "dlg_var(", "dlg_val(", "sht(", "shv("];

/// Variables that other requests and processes change.
const SHARED: [&str; 2] = ["sht(", "shv("];

/// Variables of a request that change until it is sent on, although the request has only one of each.
const OF_TARGET: [&str; 6] = ["du", "duri", "dd", "dp", "dP", "fs"];

/// Names of AVPs in today's OpenSIPS: 1.x had `$avp(s:name)`. In Kamailio `$avp(i:5)` is not `$avp(5)`.
pub fn of_today(text: &str, family: Family) -> String {
    match family {
        Family::OpenSips => text.replace("avp(s:", "avp(").replace("avp(i:", "avp("),
        Family::Kamailio => text.to_string(),
    }
}

/// The name of a variable: `ru` of `$(ru{uri.user})`.
pub fn name_of(text: &str) -> &str {
    let inner = text.trim_start_matches(['$', '(']);
    &inner[..inner.find(|c: char| !c.is_ascii_alphanumeric() && !"_.".contains(c)).unwrap_or(inner.len())]
}

impl Values {
    /// `avp(x` of `$(avp(x)[0])` and of `avp(s:x)`, `xavp(x` of `xavp(x[0]=>y)`.
    fn base(&self, text: &str) -> String {
        let text = of_today(text.trim_start_matches(['$', '(']), self.family).replace("avp(s:", "avp(");
        let end = text.find([')', '[', '=']).unwrap_or(text.len());
        text[..end].to_string()
    }

    pub fn new(family: Family) -> Values {
        Values { family, all: Vec::new(), legs: Vec::new(), bye: Vec::new() }
    }

    /// Is no value known at the place where a request is marked?
    pub fn is_empty(&self) -> bool {
        self.now().next().is_none()
    }

    /// The variable that a tag already stands for.
    fn taken(&self, tag: &str) -> Option<String> {
        let bye = self.bye.iter().map(|(t, v)| (t, v.clone()));
        self.all.iter().map(|v| (&v.tag, v.variable.key.to_string())).chain(bye).find(|(t, _)| *t == tag).map(|(_, v)| v)
    }

    /// A tag for a name: the name itself, unless it stands for another variable elsewhere.
    fn tag(&self, of: Backend, name: &str, key: &str) -> String {
        let word: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' }).collect();
        match self.taken(&word) {
            Some(other) if other != key => format!("{}_{word}", of.name()),
            _ => word,
        }
    }

    /// Fields of a backend, as `extra_fields` has them.
    pub fn extras(&mut self, of: Backend, list: &str) -> Result<String, String> {
        let mut parsed = Extras::default();
        parsed.set(of, list, self.family).map_err(|e| e.to_string())?;
        let mut fields = Vec::new();
        for named in &parsed.extra[of.index()] {
            let mut variable = parsed.variables[named.value].clone();
            variable.text = of_today(&variable.text, self.family).into();
            let tag = self.tag(of, &named.name, &variable.key);
            fields.push(if *tag == *named.name { tag.clone() } else { format!("{tag}->{}", named.name) });
            if !self.all.iter().any(|v| v.tag == tag) {
                self.all.push(Value { tag, variable });
            }
        }
        Ok(fields.join("; "))
    }

    /// Fields of a backend that are set on the BYE.
    pub fn of_bye(&mut self, of: Backend, list: &str) -> Result<String, String> {
        let mut parsed = Extras::default();
        parsed.set_bye(of, list, self.family).map_err(|e| e.to_string())?;
        let mut fields = Vec::new();
        for named in &parsed.bye[of.index()] {
            let text = of_today(&parsed.variables[named.value].text, self.family);
            let tag = self.tag(of, &named.name, &text);
            fields.push(if *tag == *named.name { tag.clone() } else { format!("{tag}->{}", named.name) });
            if !self.bye.iter().any(|(t, _)| *t == tag) {
                self.bye.push((tag, text));
            }
        }
        Ok(fields.join("; "))
    }

    /// Fields of legs, as `leg_fields` has them.
    pub fn legs(&mut self, list: &str) -> Result<String, String> {
        let mut parsed = Extras::default();
        parsed.set_legs(list).map_err(|e| e.to_string())?;
        for named in &parsed.legs {
            self.legs.push((named.name.to_string(), of_today(&format!("avp({})", parsed.avps[named.value]), self.family)));
        }
        Ok(self.legs.iter().map(|(tag, _)| tag.as_str()).collect::<Vec<_>>().join("; "))
    }

    fn set(value: &Value) -> String {
        format!("$acc_extra({}) = {};", value.tag, value.variable.text)
    }

    /// Known where the request is marked.
    fn now(&self) -> impl Iterator<Item = &Value> {
        self.all.iter().filter(|v| !is_later(&v.variable))
    }

    /// The statements for values of the request, for the place where it is marked.
    pub fn statements(&self) -> Vec<String> {
        self.now().map(Values::set).collect()
    }

    /// The statements for values that may change until the request is sent on.
    pub fn of_branch(&self) -> Vec<String> {
        self.now().filter(|v| v.variable.class == Class::Branch || OF_TARGET.contains(&name_of(&v.variable.text))).map(Values::set).collect()
    }

    /// The statements after an assignment to a variable.
    pub fn assigned(&self, name: &str) -> Vec<String> {
        let target = self.base(name);
        let follows = |v: &&Value| self.base(&v.variable.text) == target && (v.variable.class == Class::Moment || target.starts_with("var("));
        self.now().filter(follows).map(Values::set).collect()
    }

    /// Tag and statement of a leg's AVP that is assigned to.
    pub fn leg(&self, name: &str) -> Option<(String, String)> {
        let target = self.base(name);
        self.legs.iter().find(|(_, avp)| self.base(avp) == target).map(|(tag, avp)| (tag.clone(), format!("$acc_leg({tag}) = ${avp};")))
    }

    /// The variables whose values are those of the branch whose reply is reported.
    pub fn each_branch(&self) -> Vec<&str> {
        self.now().filter(|v| v.variable.class == Class::Branch).map(|v| &*v.variable.text).collect()
    }

    /// Those that functions, and for some other requests, may set after the request is marked: tag, variable, the name
    /// in its parentheses, and whether others may.
    pub fn kept(&self) -> impl Iterator<Item = (&str, &str, String, bool)> {
        let is_kept = |text: &str| KEPT.iter().any(|name| text.starts_with(name)) || text.starts_with("var(");
        self.now().filter_map(move |v| {
            let base = self.base(&v.variable.text);
            let name = base.split_once('(')?.1.to_string();
            is_kept(&base).then(|| (&*v.tag, &*v.variable.text, name, SHARED.iter().any(|name| base.starts_with(name))))
        })
    }

    /// Whether an assignment to `target` changes a variable.
    pub fn is_of(&self, variable: &str, target: &str) -> bool {
        self.base(variable) == self.base(target)
    }

    /// The values that are not known yet where the request is marked.
    pub fn later(&self) -> Vec<String> {
        let all = self.all.iter().filter(|v| is_later(&v.variable));
        all.map(|v| {
            let name = &v.variable.text;
            if v.variable.of_reply || v.variable.class == Class::Code {
                format!("{name} is known with the reply only: put $acc_extra({}) = {name}; into the reply route", v.tag)
            } else {
                format!("{name} is of the moment when the record is written: put $acc_extra({}) = {name}; where its value is the right one", v.tag)
            }
        })
        .collect()
    }
}

/// Whether the value is of the reply, or of the moment when the record is written.
fn is_later(variable: &Variable) -> bool {
    let inner = variable.text.trim_start_matches(['$', '(']);
    match variable.class {
        Class::Code => true,
        Class::Moment => variable.of_reply || !(KEPT.iter().any(|name| inner.starts_with(name)) || inner.starts_with("def")),
        Class::Message | Class::Branch => variable.of_reply,
    }
}
