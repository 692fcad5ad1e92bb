//! Grammar of `extra_fields` and `leg_fields` and the declared fields.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::extras::{Extras, Named};
use super::names::{is_identifier, is_word, may_be};
use super::record::Backend;

/// One declared field of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decl {
    /// Index of its tag in [`FieldSet::tags`].
    pub tag: usize,
    /// Name in the backend.
    pub name: Arc<str>,
}

/// Fields of one kind (extra or leg): the shared tags, and the fields of each backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Tags in order of first declaration.
    pub tags: Vec<Arc<str>>,
    by_backend: [Vec<Decl>; Backend::COUNT],
}

/// All declared fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// From `extra_fields`.
    pub extra: FieldSet,
    /// From `leg_fields`.
    pub leg: FieldSet,
    /// From `log_extra` and the other `*_extra` parameters, `multi_leg_info` and `multi_leg_bye_info`.
    pub flags: Extras,
}

impl Fields {
    /// Neither `extra_fields` nor `leg_fields` declares any.
    pub fn has_no_tags(&self) -> bool {
        self.extra.tags.is_empty() && self.leg.tags.is_empty()
    }

    /// All names under which a backend may get a value, in record order; those of the BYE only in CDRs.
    pub fn names(&self, backend: Backend, of_cdrs: bool) -> impl Iterator<Item = &Arc<str>> {
        let [bye, bye_legs]: [&[Named]; 2] = if of_cdrs { [&self.flags.bye[backend.index()], &self.flags.bye_legs] } else { [&[], &[]] };
        let of_flags = [&self.flags.extra[backend.index()], bye, &self.flags.legs, bye_legs];
        let declared = self.extra.of(backend).iter().chain(self.leg.of(backend)).map(|d| &d.name);
        declared.chain(of_flags.into_iter().flatten().map(|n| &n.name))
    }
}

/// Why a definition cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Nothing before the colon, or no colon.
    #[error("\"{0}\" does not begin with a backend and a colon: write \"log: tag->name; tag2\"")]
    NoBackend(String),
    /// Not one of the backends.
    #[error("unknown backend \"{0}\": use {names}", names = Backend::names())]
    UnknownBackend(String),
    /// No field after the colon.
    #[error("no field after \"{0}:\": write \"{0}: tag->name; tag2\"")]
    Empty(String),
    /// A tag or name is missing or has a character that no script could use.
    #[error(
        "\"{0}\" is not a valid field: write tag->name; tags are made of letters, digits, '_', '-' or '.', and so are names, except those of log, evi and stream, which may have any printable characters"
    )]
    BadField(String),
    /// An SQL column that would have to be quoted.
    #[error("\"{0}\" is not a valid column name: use letters, digits and '_', not beginning with a digit")]
    BadColumn(String),
}

impl FieldSet {
    /// The fields of a backend, in declaration order.
    pub fn of(&self, backend: Backend) -> &[Decl] {
        &self.by_backend[backend.index()]
    }

    /// Index of a tag.
    pub fn tag(&self, tag: &str) -> Option<usize> {
        self.tags.iter().position(|t| &**t == tag)
    }

    /// Adds one parameter value. Returns the warnings (D20: a repeated tag is ignored with a warning).
    pub fn add(&mut self, definition: &str) -> Result<Vec<String>, FieldError> {
        let (backend, list) = definition.split_once(':').ok_or_else(|| FieldError::NoBackend(definition.trim().into()))?;
        let backend = backend.trim();
        if backend.is_empty() {
            return Err(FieldError::NoBackend(definition.trim().into()));
        }
        let backend = Backend::ALL.into_iter().find(|b| b.name().eq_ignore_ascii_case(backend)).ok_or_else(|| FieldError::UnknownBackend(backend.into()))?;
        let mut parsed = Vec::new();
        for item in list.split(';') {
            let item = item.trim();
            if item.is_empty() {
                continue;
            }
            let (tag, name) = item.split_once("->").map_or((item, item), |(t, n)| (t.trim(), n.trim()));
            if !is_word(tag) || !may_be(backend.names_are(), name) {
                return Err(FieldError::BadField(item.into()));
            }
            if backend == Backend::Db && !is_identifier(name) {
                return Err(FieldError::BadColumn(name.into()));
            }
            parsed.push((tag, name));
        }
        if parsed.is_empty() {
            return Err(FieldError::Empty(backend.name().into()));
        }
        let mut warnings = Vec::new();
        for (tag, name) in parsed {
            let tag_index = self.tag(tag).unwrap_or_else(|| {
                self.tags.push(Arc::from(tag));
                self.tags.len() - 1
            });
            let decls = &mut self.by_backend[backend.index()];
            match decls.iter().find(|d| d.tag == tag_index) {
                Some(first) => warnings.push(format!(
                    "tag \"{tag}\" is defined twice for {}: the first definition (->{}) is used, \"->{name}\" is ignored",
                    backend.name(),
                    first.name
                )),
                None => decls.push(Decl { tag: tag_index, name: Arc::from(name) }),
            }
        }
        Ok(warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blanks_newlines_and_a_trailing_semicolon_are_free() {
        let mut set = FieldSet::default();
        assert_eq!(set.add("log:\n  caller ->  a ;\n\tcallee->b; num ;note;unset; ").unwrap(), Vec::<String>::new());
        assert_eq!(set.tags.iter().map(|t| &**t).collect::<Vec<_>>(), ["caller", "callee", "num", "note", "unset"]);
        let names: Vec<_> = set.of(Backend::Log).iter().map(|d| &*d.name).collect();
        assert_eq!(names, ["a", "b", "num", "note", "unset"]);
        assert_eq!(set.of(Backend::Db), []);
    }

    #[test]
    fn names_in_the_log_and_of_events_are_free() {
        let mut set = FieldSet::default();
        for backend in [Backend::Log, Backend::Evi] {
            set.add(&format!("{}: a -> Caller's URI:1 ;b->x>y", backend.name())).unwrap();
            assert_eq!(set.of(backend).iter().map(|d| &*d.name).collect::<Vec<_>>(), ["Caller's URI:1", "x>y"]);
        }
    }

    #[test]
    fn backends_share_tags() {
        let mut set = FieldSet::default();
        set.add("log:a;b").unwrap();
        set.add("DB: b->col_b").unwrap();
        assert_eq!(set.tags.len(), 2);
        assert_eq!(set.of(Backend::Db), [Decl { tag: 1, name: "col_b".into() }]);
    }

    #[test]
    fn a_repeated_tag_is_a_warning_and_the_first_counts() {
        let mut set = FieldSet::default();
        let w = set.add("log:a->x;a->y").unwrap();
        assert_eq!(w, ["tag \"a\" is defined twice for log: the first definition (->x) is used, \"->y\" is ignored"]);
        assert_eq!(set.of(Backend::Log), [Decl { tag: 0, name: "x".into() }]);
    }

    #[test]
    fn bad_definitions_name_the_cure() {
        for (definition, part) in [
            ("caller->x", "does not begin with a backend"),
            (":a", "does not begin with a backend"),
            ("foo:bar", "unknown backend \"foo\""),
            ("log:", "no field after \"log:\""),
            ("log: ; ;", "no field after \"log:\""),
            ("log:->x", "is not a valid field"),
            ("log:a->", "is not a valid field"),
            ("log:a b", "is not a valid field"),
            ("log:a->b\u{7}", "is not a valid field"),
            ("aaa:a->b c", "is not a valid field"),
            ("db:a->x-y", "is not a valid column name"),
            ("db:a->1x", "is not a valid column name"),
        ] {
            let e = FieldSet::default().add(definition).unwrap_err().to_string();
            assert!(e.contains(part), "{definition}: {e}");
        }
    }

    proptest! {
        #[test]
        fn parse_reverses_print(items in proptest::collection::vec(("[a-z][a-z0-9_]{0,8}", "[a-z][a-z0-9_]{0,8}"), 1..8), backend in 0u8..4) {
            let backend = Backend::from_number(backend).unwrap();
            let mut seen = Vec::new();
            let text = items.iter().map(|(t, n)| format!("{t}->{n}")).collect::<Vec<_>>().join("; ");
            let mut set = FieldSet::default();
            set.add(&format!("{}: {text}", backend.name())).unwrap();
            for (t, n) in &items {
                if !seen.iter().any(|(s, _)| s == t) { seen.push((t.clone(), n.clone())); }
            }
            let got: Vec<_> = set.of(backend).iter().map(|d| (set.tags[d.tag].to_string(), d.name.to_string())).collect();
            prop_assert_eq!(got, seen);
        }

        #[test]
        fn no_input_panics(s in "\\PC{0,80}") {
            let _ = FieldSet::default().add(&s);
        }
    }
}
