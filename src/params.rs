//! Raw parameter values and typed getters. Each room reads its own parameters here, so that every error names the
//! parameter and what to do.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use crate::accounting::extras::Family;
use crate::accounting::fields::Fields;
use crate::accounting::flags::FlagName;
use crate::accounting::names::is_identifier;
use crate::declaration::{PARAMS, ParamType, default_of};

/// Highest message flag in both servers.
const FLAG_MAX: i32 = 31;

/// Value of one `modparam` line.
#[derive(Clone, PartialEq, Eq)]
pub enum RawValue {
    /// A number.
    Int(i32),
    /// A string.
    Str(String),
}

/// Hides strings, because a URL may contain a password.
impl fmt::Debug for RawValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RawValue::Int(n) => write!(f, "Int({n})"),
            RawValue::Str(_) => f.write_str("Str(..)"),
        }
    }
}

/// Why the parameters cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such parameter.
    #[error("there is no parameter \"{0}\"")]
    Unknown(String),
    /// A string instead of a number, or vice versa.
    #[error("parameter {name}: expected {expected}, got {got}; for example: {example}")]
    Type {
        /// Which parameter.
        name: &'static str,
        /// The expected type.
        expected: &'static str,
        /// The type it got.
        got: &'static str,
        /// A line with a value of the right type.
        example: String,
    },
    /// The value cannot be used.
    #[error("parameter {name}: {reason}")]
    Value {
        /// Which parameter.
        name: &'static str,
        /// What is wrong and what to write instead.
        reason: String,
    },
}

/// Parameters collected line by line.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    values: Vec<(&'static str, RawValue)>,
    /// The server that reads the parameters.
    pub family: Family,
    /// Fields declared so far: variables in the script are checked against them while the script is read.
    pub fields: Fields,
    /// The server's own default database.
    pub default_db_url: Option<String>,
    /// Warnings to log once logging works.
    pub warnings: Vec<String>,
}

/// An error for a value that cannot be used.
pub const fn bad(name: &'static str, reason: String) -> ConfigError {
    ConfigError::Value { name, reason }
}

/// Checks that a number is in the range of its parameter.
pub fn in_range(name: &'static str, n: i32, range: RangeInclusive<i32>) -> Result<(), ConfigError> {
    if range.contains(&n) {
        return Ok(());
    }
    let default = PARAMS.iter().find(|p| p.name == name).map_or("", |p| p.default);
    let (min, max) = range.into_inner();
    Err(bad(name, format!("{n} is outside {min} to {max}: use a number in that range, or remove the line for the default: {default}")))
}

impl Draft {
    /// Takes one `modparam` line.
    pub fn set(&mut self, name: &str, value: RawValue) -> Result<(), ConfigError> {
        let param = PARAMS.iter().find(|p| p.name == name).ok_or_else(|| ConfigError::Unknown(name.into()))?;
        let other_type = |expected, got| Err(ConfigError::Type { name: param.name, expected, got, example: param.example_line() });
        match (param.kind, &value) {
            (ParamType::Int(..), RawValue::Str(_)) => return other_type("a number", "a string"),
            (ParamType::Str | ParamType::Word(_), RawValue::Int(_)) => return other_type("a string", "a number"),
            (ParamType::Int(min, max) | ParamType::Either(min, max), RawValue::Int(n)) => in_range(param.name, *n, min..=max)?,
            (ParamType::Flag, RawValue::Int(n)) => in_range(param.name, *n, -1..=FLAG_MAX)?,
            _ => {}
        }
        let value = match (param.kind, value) {
            (ParamType::Either(..), RawValue::Int(n)) => RawValue::Str(n.to_string()),
            (_, value) => value,
        };
        match (param.name, &value) {
            ("extra_fields" | "leg_fields", RawValue::Str(s)) => {
                let set = if param.name == "extra_fields" { &mut self.fields.extra } else { &mut self.fields.leg };
                let said = set.add(s).map_err(|e| bad(param.name, e.to_string()))?;
                self.warnings.extend(said.into_iter().map(|w| format!("parameter {}: {w}", param.name)));
            }
            _ => {
                if !param.listed {
                    self.forget(param.name);
                }
                self.values.push((param.name, value));
            }
        }
        Ok(())
    }

    /// The value set by a line, if there is one.
    pub fn raw(&self, name: &str) -> Option<&RawValue> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Forgets the lines of a parameter, unless its lines add to each other.
    pub fn forget(&mut self, name: &str) {
        self.values.retain(|(n, _)| *n != name);
    }

    /// A number, if a line sets it.
    pub fn int(&self, name: &'static str) -> Option<i32> {
        self.values.iter().find_map(|(n, v)| match v {
            RawValue::Int(i) if *n == name => Some(*i),
            _ => None,
        })
    }

    /// A string, if a line sets it and it is not empty.
    pub fn text(&self, name: &'static str) -> Option<&str> {
        self.texts(name).next()
    }

    /// The strings of all lines of a parameter that is a list, without empty ones.
    pub fn texts(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.values.iter().filter_map(move |(n, v)| match v {
            RawValue::Str(s) if *n == name && !s.is_empty() => Some(s.as_str()),
            _ => None,
        })
    }

    /// A flag by number or name. A string with a valid number counts as that number.
    pub fn flag(&self, name: &'static str) -> Option<FlagName> {
        let flag = match self.values.iter().find(|(n, _)| *n == name) {
            None => return None,
            Some((_, RawValue::Int(n))) => return u32::try_from(*n).ok().map(FlagName::Number),
            Some((_, RawValue::Str(text))) => text.trim(),
        };
        match flag.parse::<i32>() {
            Ok(n) if (-1..=FLAG_MAX).contains(&n) => u32::try_from(n).ok().map(FlagName::Number),
            _ if flag.is_empty() => None,
            _ => Some(FlagName::Name(flag.into())),
        }
    }

    /// The value that was set, already checked against its range, or else the default, which must be a number.
    pub fn number(&self, name: &'static str) -> i32 {
        self.int(name).unwrap_or_else(|| default_of(name).parse().unwrap_or_default())
    }

    /// The value that was set, or else the default.
    pub fn word(&self, name: &'static str) -> &str {
        self.text(name).unwrap_or(default_of(name))
    }

    /// A size in bytes, from a parameter in MiB.
    pub fn mib(&self, name: &'static str) -> u64 {
        (self.number(name) as u64) << 20
    }

    /// A column name that needs no quotes in SQL.
    pub fn identifier(&self, name: &'static str) -> Result<Arc<str>, ConfigError> {
        let v = self.word(name);
        if is_identifier(v) {
            return Ok(Arc::from(v));
        }
        Err(bad(name, format!("\"{v}\" is not a valid column name: use letters, digits and '_', not beginning with a digit")))
    }

    /// The meaning of a word, which must be one of `choices`.
    pub fn choice<T: Copy>(&self, name: &'static str, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let v = self.word(name);
        choices.iter().find(|(n, _)| n.eq_ignore_ascii_case(v)).map(|(_, c)| *c).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(n, _)| *n).collect();
            bad(name, format!("\"{v}\" is not one of {}", names.join(", ")))
        })
    }

    /// The journal's directory, if a line sets it.
    pub fn journal_dir(&self) -> Option<PathBuf> {
        self.text("journal_dir").map(PathBuf::from)
    }
}
