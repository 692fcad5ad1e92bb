//! Parameters of Kamailio's own accounting modules that OpenSIPS does not have.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::accounting::extras::{Extras, Family};
use crate::accounting::names::is_identifier;
use crate::accounting::rules::{DialogCdrs, JsonCdrs, Precision};
use crate::backend::json::{Json, Output};
use crate::backend::log::facility;
use crate::declaration::TIME_FORMAT;
use crate::params::{ConfigError, Draft, RawValue, bad};

/// Another field next to the time of a record, in lines and rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeField {
    /// Name of the field, and column.
    pub name: Arc<str>,
    /// What it contains.
    pub what: TimeText,
}

/// What a [`TimeField`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeText {
    /// Microseconds in the second.
    Micros,
    /// Seconds since 1970, with milliseconds.
    Seconds,
    /// A text of strftime(3).
    Format {
        /// In UTC instead of local time.
        utc: bool,
        /// The format.
        format: Arc<str>,
    },
}

/// A part of the name of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text, unchanged.
    Text(Arc<str>),
    /// The value of a variable of [`Extras::variables`].
    Variable(usize),
}

/// All of these parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StockParams {
    /// `acc_extra_nullable`: extras and legs without a value are NULL in SQL, not ''.
    pub nullable: bool,
    /// `reason_from_hf`.
    pub reason_from_hf: bool,
    /// `time_mode`.
    pub time: Option<TimeField>,
    /// Column of the whole second, with `time_mode` 1.
    pub time_seconds: Option<Arc<str>>,
    /// JSON objects, if they go anywhere.
    pub json: Option<Json>,
    /// The format of the time in them, with `json_time_mode` 3 and 4.
    pub json_time: Option<TimeText>,
    /// `db_table_acc` and `db_table_missed_calls`, if they contain variables.
    pub tables: [Option<Vec<Part>>; 2],
}

/// Two names of one parameter, and how a value of the first is converted.
type Synonym = (&'static str, &'static str, fn(&str) -> String);

/// All synonyms.
const SYNONYMS: [Synonym; 4] = [
    ("radius_config", "aaa_url", |file| format!("radius:{file}")),
    ("radius_flag", "aaa_flag", str::to_owned),
    ("radius_missed_flag", "aaa_missed_flag", str::to_owned),
    ("radius_extra", "aaa_extra", str::to_owned),
];

impl Draft {
    /// Copies the parameters of Kamailio's companion modules to the names that they have here.
    ///
    /// # Errors
    /// Two names of one parameter have different values.
    pub fn without_synonyms(&self) -> Result<Draft, ConfigError> {
        let mut draft = self.clone();
        for (name, ours, make) in SYNONYMS {
            let Some(value) = self.raw(name) else { continue };
            let value = match value {
                RawValue::Str(text) => RawValue::Str(make(text)),
                RawValue::Int(n) => RawValue::Int(*n),
            };
            if draft.raw(ours).is_some_and(|other| *other != value) {
                return Err(bad(name, format!("this is another name of the parameter {ours}, which has a different value: remove one of the two lines")));
            }
            draft.set(ours, value)?;
        }
        Ok(draft)
    }

    /// What Kamailio's parameters ask for; their variables join the others.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn stock_params(&self, extras: &mut Extras) -> Result<(StockParams, Option<DialogCdrs>), ConfigError> {
        if self.family != Family::Kamailio {
            return Ok((StockParams::default(), None));
        }
        let is_on = |name| self.number(name) != 0;
        let params = StockParams {
            nullable: is_on("acc_extra_nullable"),
            reason_from_hf: is_on("reason_from_hf"),
            time: self.time_field()?,
            time_seconds: if self.number("time_mode") == 1 { Some(self.identifier("time_attr")?) } else { None },
            json: self.json()?,
            json_time: self.json_time(),
            tables: [self.parts("db_table_acc", extras)?, self.parts("db_table_missed_calls", extras)?],
        };
        let cdrs = if is_on("cdr_enable") { Some(self.dialog_cdrs(extras)?) } else { None };
        Ok((params, cdrs))
    }

    /// Where JSON objects go; nowhere if there is no flag, extra or CDR for them.
    fn json(&self) -> Result<Option<Json>, ConfigError> {
        if ["json_flag", "json_missed_flag", "json_extra", "json_cdr_enable"].iter().all(|name| self.raw(name).is_none()) {
            return Ok(None);
        }
        let output = |syslog, level, facility_of, queue, prefix| {
            let name = self.word(facility_of);
            let facility = facility(name)
                .ok_or_else(|| bad(facility_of, format!("\"{name}\" is not a syslog facility: use LOG_DAEMON, LOG_LOCAL0 to LOG_LOCAL7, ...")))?;
            Ok(Output {
                syslog: self.number(syslog) != 0,
                severity: self.number(level),
                facility,
                queue: self.text(queue).map(Into::into),
                encoded_prefix: self.text(prefix).map(Into::into),
            })
        };
        Ok(Some(Json {
            records: output("json_output_syslog", "json_log_level", "json_log_facility", "json_output_mqueue", "json_pre_encoded_prefix")?,
            cdrs: output("json_cdr_output_syslog", "json_cdr_log_level", "json_cdr_log_facility", "json_cdr_output_mqueue", "json_cdr_pre_encoded_prefix")?,
            fraction: self.number("json_time_mode") == 2,
        }))
    }

    fn json_time(&self) -> Option<TimeText> {
        let format = |utc| TimeText::Format { utc, format: self.text("json_time_format").unwrap_or(TIME_FORMAT).into() };
        match self.number("json_time_mode") {
            3 => Some(format(false)),
            4 => Some(format(true)),
            _ => None,
        }
    }

    fn time_field(&self) -> Result<Option<TimeField>, ConfigError> {
        let format = |utc| TimeText::Format { utc, format: self.text("time_format").unwrap_or(TIME_FORMAT).into() };
        let (name, what) = match self.number("time_mode") {
            1 => ("time_exten", TimeText::Micros),
            2 => ("time_attr", TimeText::Seconds),
            3 => ("time_attr", format(false)),
            4 => ("time_attr", format(true)),
            _ => return Ok(None),
        };
        Ok(Some(TimeField { name: self.identifier(name)?, what }))
    }

    /// The name of a table with variables in it.
    fn parts(&self, name: &'static str, extras: &mut Extras) -> Result<Option<Vec<Part>>, ConfigError> {
        let text = self.word(name);
        if !text.contains('$') {
            return Ok(None);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            if at > 0 {
                parts.push(Part::Text(rest[..at].into()));
            }
            let (variable, behind) = extras.split_variable(&rest[at..], self.family).map_err(|e| bad(name, e.to_string()))?;
            parts.push(Part::Variable(variable));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Some(parts))
    }

    fn dialog_cdrs(&self, extras: &mut Extras) -> Result<DialogCdrs, ConfigError> {
        let is_on = |name| self.number(name) != 0;
        let name = |name: &'static str| match self.raw(name) {
            Some(RawValue::Str(text)) if text.is_empty() => Err(bad(name, "expected the name of a dialog variable, got an empty string".into())),
            _ => Ok(Arc::from(self.word(name))),
        };
        let names = [name("cdr_start_id")?, name("cdr_end_id")?, name("cdr_duration_id")?];
        let table = self.text("cdrs_table").map(Arc::from);
        if table.is_some() {
            for (parameter, name) in ["cdr_start_id", "cdr_end_id", "cdr_duration_id"].into_iter().zip(&names) {
                if !is_identifier(name) {
                    return Err(bad(parameter, format!("\"{name}\" is not a valid column name: use letters, digits and '_', not beginning with a digit")));
                }
            }
        }
        let facility_name = self.word("cdr_facility");
        let cdr_facility = facility(facility_name)
            .ok_or_else(|| bad("cdr_facility", format!("\"{facility_name}\" is not a syslog facility: use LOG_DAEMON, LOG_LOCAL0 to LOG_LOCAL7, ...")))?;
        let extra = self.text("cdr_extra").map(|list| extras.list(list, table.is_some(), self.family)).transpose();
        let json = if is_on("json_cdr_enable") {
            let extra = self.text("json_cdr_extra").map(|list| extras.list(list, false, self.family)).transpose();
            Some(JsonCdrs {
                extra: extra.map_err(|e| bad("json_cdr_extra", e.to_string()))?.unwrap_or_default(),
                expired: is_on("json_cdr_expired_dlg_enable"),
                skip: self.text("json_cdr_skip").map(Arc::from),
            })
        } else {
            None
        };
        Ok(DialogCdrs {
            json,
            log: is_on("cdr_log_enable"),
            facility: cdr_facility,
            table,
            names,
            from_answer: is_on("cdr_start_on_confirmed"),
            expired: is_on("cdr_expired_dlg_enable"),
            failed: is_on("cdr_on_failed"),
            skip: self.text("cdr_skip").map(Arc::from),
            extra: extra.map_err(|e| bad("cdr_extra", e.to_string()))?.unwrap_or_default(),
            nullable: is_on("cdr_extra_nullable"),
            utc: self.number("time_mode") == 4,
            precision: match self.number("cdr_duration_mode") {
                0 => Precision::Seconds,
                1 => Precision::Millis,
                _ => Precision::Micros,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(lines: &[(&str, RawValue)]) -> Result<Config, ConfigError> {
        let mut draft = Draft::default();
        draft.family = Family::Kamailio;
        for (name, value) in lines {
            draft.set(name, value.clone())?;
        }
        draft.finish(None)
    }

    fn s(v: &str) -> RawValue {
        RawValue::Str(v.into())
    }

    #[test]
    fn two_names_of_one_parameter_must_agree() {
        let flags = |a, b| config(&[("radius_flag", RawValue::Int(a)), ("aaa_flag", RawValue::Int(b))]);
        assert!(flags(3, 3).is_ok());
        let e = flags(3, 4).unwrap_err().to_string();
        assert!(e.contains("radius_flag") && e.contains("aaa_flag"), "{e}");
    }

    #[test]
    fn names_of_tables_may_have_variables() {
        let tables = |text: &str| config(&[("db_url", s("sqlite:x")), ("db_table_acc", s(text))]).map(|c| c.stock.tables[0].clone());
        let text = |t: &str| Part::Text(t.into());
        assert_eq!(tables("calls"), Ok(None));
        assert_eq!(tables("$avp(t)_x$(fU{s.len})"), Ok(Some(vec![Part::Variable(0), text("_x"), Part::Variable(1)])));
        assert!(tables("$avp(t").is_err());
    }

    #[test]
    fn extra_time_fields_have_the_name_of_their_mode() {
        let time = |mode| config(&[("time_mode", RawValue::Int(mode)), ("time_exten", s("usec")), ("time_attr", s("t"))]).unwrap().stock.time;
        assert_eq!(time(0), None);
        assert_eq!(time(1), Some(TimeField { name: "usec".into(), what: TimeText::Micros }));
        assert_eq!(time(2), Some(TimeField { name: "t".into(), what: TimeText::Seconds }));
        for (mode, utc) in [(3, false), (4, true)] {
            assert_eq!(time(mode), Some(TimeField { name: "t".into(), what: TimeText::Format { utc, format: "%Y-%m-%d %H:%M:%S".into() } }));
        }
    }

    #[test]
    fn errors_name_the_parameter() {
        for (lines, part) in [
            (vec![("log_flag", RawValue::Int(32))], "log_flag"),
            (vec![("cdr_enable", RawValue::Int(2))], "cdr_enable"),
            (vec![("cdr_enable", RawValue::Int(1)), ("cdr_start_id", s(""))], "cdr_start_id"),
            (vec![("cdr_enable", RawValue::Int(1)), ("cdr_facility", s("LOG_NOWHERE"))], "cdr_facility"),
            (vec![("cdr_enable", RawValue::Int(1)), ("cdr_extra", s("a=$fU;"))], "cdr_extra"),
            (vec![("failed_filter", s("404, 486"))], "failed_filter"),
            (vec![("log_extra", s("a=$fU;"))], "log_extra"),
            (vec![("multi_leg_info", s("a=$fU"))], "multi_leg_info"),
            (vec![("time_mode", RawValue::Int(2)), ("time_attr", s("a b"))], "time_attr"),
        ] {
            let e = config(&lines).unwrap_err().to_string();
            assert!(e.contains(part), "{lines:?}: {e}");
        }
    }
}
