//! Module parameters as a validated configuration.
//!
//! `declaration.rs` declares the parameters, and each room reads its own. Here they become one [`Config`], and are
//! checked against each other.
#![forbid(unsafe_code)]

pub mod stock;

use std::path::PathBuf;
use std::time::Duration;

use self::stock::StockParams;
use crate::accounting::extras::{ExtraError, Extras};
use crate::accounting::fields::Fields;
use crate::accounting::flags::{FlagName, FlagRules, Flags};
use crate::accounting::marks::{DropMode, Types};
use crate::accounting::names::is_identifier;
use crate::accounting::record::Backend;
use crate::accounting::rules::{Rules, Tables};
use crate::backend::Destinations;
use crate::backend::log::LogLines;
use crate::backend::sql::Db;
use crate::declaration::{By, SinkId};
use crate::journal::JournalSync;
use crate::journal::limit::Limits;
use crate::params::{ConfigError, Draft, bad};

/// Default port of the DISC client of OpenSIPS 1.x and Kamailio.
const DISC_PORT: i32 = 3000;

/// What happens to a call that the server has lost track of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// Its CDR is written.
    Write,
    /// Its CDR goes to the dead letters, so that a person can decide.
    Hold,
}

/// Accounting by message flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByFlags {
    /// The flags of the backends that are on.
    pub names: Flags<FlagName>,
    /// What the flags do, without the flags themselves, whose numbers only the server knows.
    pub rules: FlagRules,
    /// Backends with a flag, extras or legs: their manual records have the shape of message flags.
    pub shaped: Types,
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// See [`ByFlags`].
    pub flags: ByFlags,
    /// What records contain.
    pub rules: Rules,
    /// What parameters of Kamailio's own modules ask for.
    pub stock: StockParams,
    /// CANCEL requests are accounted.
    pub report_cancels: bool,
    /// From and To swap in records of requests sent by the callee.
    pub detect_direction: bool,
    /// Format of record lines.
    pub log: LogLines,
    /// Settings of every destination that the delivery process serves.
    pub destinations: Destinations,
    /// Directory of the journal.
    pub journal_dir: PathBuf,
    /// Durability of appends.
    pub journal_sync: JournalSync,
    /// How large the journal may get, and what happens when it is full.
    pub limits: Limits,
    /// How long delivered segments are kept (parameter `journal_keep`).
    pub journal_keep: Duration,
    /// See [`DropMode`].
    pub drop_mode: DropMode,
    /// `E_ACC_BACKLOG` is raised when more records than this wait for a sink; 0 = never (parameter `backlog_threshold`).
    pub backlog_threshold: u32,
    /// Most records in one SQL transaction (parameter `delivery_batch`).
    pub delivery_batch: usize,
    /// Longest pause between two attempts at a failing sink, in seconds (parameter `delivery_retry_max`).
    pub delivery_retry_max: u32,
    /// An entry is given up after being refused this often while others were accepted (parameter `delivery_give_up`); `None`: never.
    pub delivery_give_up: Option<u32>,
    /// Seconds after a start in which restored dialogs may claim their calls (parameter `orphan_timeout`).
    pub orphan_timeout: u32,
    /// Seconds between two interim records of a call (parameter `interim_interval`); 0 = none.
    pub interim_interval: u32,
    /// Maximum size of one context, in bytes (parameter `context_max`).
    pub context_max: usize,
    /// What happens to a call that no dialog claims (parameter `orphan_cdr`).
    pub orphans: Orphans,
    /// The cluster whose nodes tell each other which calls have a CDR (parameter `cluster_id`); 0 = the cluster of the
    /// dialogs, if any; -1 = none.
    pub cluster_id: i32,
    /// Maximum memory for contexts of calls in progress, in MiB (parameter `arena_size`).
    pub arena_mib: u32,
}

impl Config {
    /// SQL, when it is on.
    pub fn db(&self) -> Option<&Db> {
        self.destinations.of()
    }
}

impl Draft {
    /// Accounting by message flags; the flags of a backend that is off are ignored.
    fn by_flags(&self, is_on: impl Fn(Backend) -> bool) -> Result<(ByFlags, Extras), ConfigError> {
        let mut names = Flags::default();
        let mut extras = Extras::default();
        let mut shaped = 0;
        let value = |name, e: ExtraError| bad(name, e.to_string());
        for (backend, [accounting, missed, extra, bye]) in [
            (Backend::Log, ["log_flag", "log_missed_flag", "log_extra", "log_extra_bye"]),
            (Backend::Db, ["db_flag", "db_missed_flag", "db_extra", "db_extra_bye"]),
            (Backend::Aaa, ["aaa_flag", "aaa_missed_flag", "aaa_extra", "aaa_extra_bye"]),
            (Backend::Evi, ["evi_flag", "evi_missed_flag", "evi_extra", "evi_extra_bye"]),
            (Backend::Diameter, ["diameter_flag", "diameter_missed_flag", "diameter_extra", ""]),
            (Backend::Stream, ["stream_flag", "stream_missed_flag", "stream_extra", ""]),
            (Backend::Json, ["json_flag", "json_missed_flag", "json_extra", ""]),
        ] {
            let (accounting, missed) = (self.flag(accounting), self.flag(missed));
            let mut is_shaped = accounting.is_some() || missed.is_some();
            if let Some(list) = self.text(extra) {
                extras.set(backend, list, self.family).map_err(|e| value(extra, e))?;
                is_shaped = true;
            }
            if let Some(list) = self.text(bye) {
                extras.set_bye(backend, list, self.family).map_err(|e| value(bye, e))?;
                is_shaped = true;
            }
            if is_on(backend) {
                (names.accounting[backend.index()], names.missed[backend.index()]) = (accounting, missed);
            }
            shaped |= u16::from(is_shaped) << backend as u8;
        }
        if let Some(list) = self.text("multi_leg_info") {
            extras.set_legs(list).map_err(|e| value("multi_leg_info", e))?;
            shaped = Types::ALL.0;
        }
        if let Some(list) = self.text("multi_leg_bye_info") {
            extras.set_bye_legs(list).map_err(|e| value("multi_leg_bye_info", e))?;
        }
        for (parameter, legs) in [("multi_leg_info", &extras.legs), ("multi_leg_bye_info", &extras.bye_legs)] {
            if let Some(leg) = legs.iter().find(|leg| is_on(Backend::Db) && !is_identifier(&leg.name)) {
                return Err(value(parameter, ExtraError::BadColumn(leg.name.to_string())));
            }
        }
        if let Some(avp) = self.text("db_table_avp")
            && let Err(e) = extras.set_table(avp, self.family)
        {
            // The server's own module accepts any text here, and ignores it.
            log::warn!("parameter db_table_avp is not used: {e}");
        }
        (names.failed, names.cdr, names.prepare) = (self.flag("failed_transaction_flag"), self.flag("cdr_flag"), self.flag("acc_prepare_flag"));
        let rules = FlagRules {
            prepare_always: self.number("acc_prepare_always") != 0,
            failed_filter: self.failed_filter()?,
            report_ack: self.number("report_ack") != 0,
            report_cancels: self.number("report_cancels") != 0,
            early_media: self.number("early_media") != 0,
            ..FlagRules::default()
        };
        Ok((ByFlags { names, rules, shaped: Types(shaped) }, extras))
    }

    /// Parameters of the DISC client, which only old configurations have: this module speaks another protocol.
    fn warn_of_disc(&self) {
        let has_peer = self.text("diameter_url").or(self.text("diameter_client_host")).is_some();
        if !has_peer && ["diameter_flag", "diameter_missed_flag", "diameter_extra"].iter().any(|name| self.raw(name).is_some()) {
            log::warn!(
                "nothing is sent over Diameter: diameter_flag, diameter_missed_flag or diameter_extra is set, but no peer is; set diameter_url or diameter_client_host"
            );
        } else if has_peer && self.number("diameter_client_port") == DISC_PORT {
            log::warn!(
                "parameter diameter_client_port: {DISC_PORT} was the port of the DISC client; this module speaks Diameter (RFC 6733), whose servers listen on 3868 by default"
            );
        }
    }

    /// RFC 2869 §5.16: never less than a minute, and preferably not less than ten.
    fn interim_interval(&self) -> Result<u32, ConfigError> {
        const NAME: &str = "interim_interval";
        match self.number(NAME) as u32 {
            n @ 1..60 => Err(bad(NAME, format!("{n} seconds is too short: use 60 to 86400, or 0 for no interim records"))),
            n => {
                if (1..600).contains(&n) {
                    log::warn!("parameter {NAME}: an interval of {n} seconds makes many records; RFC 2869 advises 600 or more");
                }
                Ok(n)
            }
        }
    }

    /// Three-digit codes, separated by commas.
    fn failed_filter(&self) -> Result<Vec<u16>, ConfigError> {
        const NAME: &str = "failed_filter";
        let code = |text: &str| {
            let code = text.parse().ok().filter(|n| text.len() == 3 && (300..700).contains(n));
            code.ok_or_else(|| bad(NAME, format!("\"{text}\" is not a failure code: write codes from 300 to 699, separated by commas without spaces: 404,486")))
        };
        self.text(NAME).map_or(Ok(Vec::new()), |list| list.split(',').map(code).collect())
    }

    /// The whole configuration, checked. `default_db_url` is the host's own default database.
    pub fn finish(&self, default_db_url: Option<&str>) -> Result<Config, ConfigError> {
        let mut draft = self.without_synonyms()?;
        draft.default_db_url = default_db_url.map(str::to_owned);
        let is_on = |backend: Backend| match SinkId::of(backend).filter(|_| backend.by() == By::Delivery) {
            None => true,
            Some(sink) => {
                let otherwise = match sink {
                    SinkId::Db => draft.default_db_url.as_deref(),
                    SinkId::Diameter => draft.text("diameter_client_host"),
                    _ => None,
                };
                draft.text(sink.parameter()).or(otherwise).is_some_and(|text| !text.is_empty())
            }
        };
        let (flags, mut extras) = draft.by_flags(is_on)?;
        let (stock, dialog_cdrs) = draft.stock_params(&mut extras)?;
        draft.fields.flags = extras;
        draft.warn_of_disc();
        let destinations = Destinations::read(&draft)?;
        for id in SinkId::ALL.into_iter().filter(|id| !destinations.is_on(id.backend())) {
            let (backend, parameter) = (id.backend(), id.parameter());
            if !self.fields.extra.of(backend).is_empty() || !self.fields.leg.of(backend).is_empty() {
                return Err(bad(parameter, format!("extra_fields or leg_fields name {}, which is off: set {parameter} or remove them", backend.name())));
            }
        }
        let tables = destinations.of::<Db>().map(|db| Tables { acc: db.table_acc.clone(), missed: db.table_missed.clone(), calls: db.table_calls.clone() });
        Ok(Config {
            flags,
            rules: Rules { fields: draft.fields, early_media: self.number("early_media") != 0, tables, dialog_cdrs },
            stock,
            report_cancels: self.number("report_cancels") != 0,
            detect_direction: self.number("detect_direction") != 0,
            log: LogLines::of(self)?,
            destinations,
            journal_dir: PathBuf::from(self.word("journal_dir")),
            journal_sync: self.choice("journal_sync", &JournalSync::NAMES)?,
            limits: Limits::of(self)?,
            journal_keep: Duration::from_secs(3600 * self.number("journal_keep") as u64),
            drop_mode: self.choice("drop_accounting_mode", &DropMode::NAMES)?,
            backlog_threshold: self.number("backlog_threshold") as u32,
            delivery_batch: self.number("delivery_batch") as usize,
            delivery_retry_max: self.number("delivery_retry_max") as u32,
            delivery_give_up: Some(self.number("delivery_give_up") as u32).filter(|n| *n > 0),
            orphan_timeout: self.number("orphan_timeout") as u32,
            interim_interval: self.interim_interval()?,
            orphans: self.choice("orphan_cdr", &[("write", Orphans::Write), ("hold", Orphans::Hold)])?,
            cluster_id: self.number("cluster_id"),
            arena_mib: self.number("arena_size") as u32,
            context_max: (self.number("context_max") as usize) << 10,
        })
    }

    /// Extra and leg fields of all parameters.
    pub fn all_fields(&self) -> Result<Fields, ConfigError> {
        Ok(Fields { flags: self.by_flags(|_| true)?.1, ..self.fields.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sql::Columns;
    use crate::declaration::{PARAMS, ParamType, default_of};
    use crate::params::RawValue;

    fn draft(lines: &[(&str, RawValue)]) -> Result<Config, ConfigError> {
        let mut d = Draft::default();
        for (name, value) in lines {
            d.set(name, value.clone())?;
        }
        d.finish(None)
    }

    fn s(v: &str) -> RawValue {
        RawValue::Str(v.into())
    }

    #[test]
    fn defaults_need_no_line() {
        let c = draft(&[]).unwrap();
        assert_eq!((c.log.level, c.log.facility), (2, 24));
        assert!(c.db().is_none() && !c.destinations.need_journal() && !c.rules.early_media);
        assert_eq!(c.journal_sync, JournalSync::Batch);
        let elsewhere = draft(&[("db_url", s("postgres://h/d")), ("db_table_acc", s("billing.acc"))]).unwrap().db().unwrap().clone();
        assert_eq!(&*elsewhere.table_acc, "billing.acc");
        let db = Draft::default().finish(Some("sqlite:x")).unwrap().db().unwrap().clone();
        assert_eq!((&*db.table_acc, &*db.table_missed, db.columns), ("acc", "missed_calls", Columns::default()));
    }

    /// The documented default must be the value used without a line.
    #[test]
    fn a_default_set_explicitly_changes_nothing() {
        let text = |d: &Draft| {
            let config = d.finish(Some("sqlite:x")).unwrap();
            format!("{config:?} {:?}", config.db().map(|db| (&db.table_missed, &db.columns, db.time)))
        };
        let mut all = Draft::default();
        let without = text(&all);
        // These have no default: their value without a line depends on other parameters.
        let none = ["extra_fields", "leg_fields", "aaa_url", "service_type", "db_url", "stream_url", "stream_node"];
        for p in PARAMS.iter().filter(|p| !none.contains(&p.name) && p.default != "none") {
            let value = default_of(p.name);
            let value = match p.kind {
                ParamType::Int(..) | ParamType::Flag => RawValue::Int(value.parse().unwrap_or_else(|_| panic!("{}: {value}", p.name))),
                ParamType::Str | ParamType::Word(_) | ParamType::Either(..) => RawValue::Str(value.into()),
            };
            all.set(p.name, value).unwrap();
        }
        assert_eq!(text(&all), without);
    }

    #[test]
    fn the_default_service_type_set_explicitly_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.conf");
        std::fs::write(&file, "acctserver 127.0.0.1:1813:secret\ndictionary dictionary\n").unwrap();
        std::fs::write(dir.path().join("dictionary"), "VALUE Service-Type Sip-Session 16\n").unwrap();
        let url = s(&format!("radius:{}", file.display()));
        let text = |service_type: Option<i32>| {
            let value = service_type.map(|n| ("service_type", RawValue::Int(n)));
            let given: Vec<_> = [("aaa_url", url.clone())].into_iter().chain(value).collect();
            format!("{:?}", draft(&given).unwrap())
        };
        assert_eq!(text(Some(-1)), text(None));
        assert_ne!(text(Some(0)), text(None));
    }

    /// The words in a row must be the ones that its parser accepts.
    #[test]
    fn every_word_of_a_parameter_is_taken_and_no_other() {
        for (name, words) in PARAMS.iter().filter_map(|p| if let ParamType::Word(words) = p.kind { Some((p.name, words)) } else { None }) {
            for word in words {
                draft(&[("db_url", s("sqlite:x")), (name, s(word))]).unwrap_or_else(|e| panic!("{e}"));
            }
            let e = draft(&[("db_url", s("sqlite:x")), (name, s("none of them"))]).err().unwrap().to_string();
            let mut said: Vec<_> = e.rsplit_once("not one of ").unwrap().1.split(", ").collect();
            let mut words = words.to_vec();
            said.sort_unstable();
            words.sort_unstable();
            assert_eq!(said, words, "{name}");
        }
    }

    #[test]
    fn a_number_where_text_is_taken_too_means_its_digits() {
        let aaa = |value: RawValue| {
            let mut d = Draft::default();
            d.set("aaa_retry", value).map(|()| d.text("aaa_retry").map(str::to_owned))
        };
        assert_eq!(aaa(RawValue::Int(20)).unwrap(), aaa(s("20")).unwrap());
        assert!(aaa(RawValue::Int(0)).unwrap_err().to_string().contains("1 to "));
    }

    #[test]
    fn a_further_line_adds_only_where_the_row_says_so() {
        for p in PARAMS.iter().filter(|p| p.kind == ParamType::Str && !p.listed) {
            let mut d = Draft::default();
            d.set(p.name, s("log: a")).unwrap();
            d.set(p.name, s("log: b")).unwrap();
            let kept = d.fields.extra.tags.len() + d.fields.leg.tags.len();
            assert_eq!(kept == 2, p.adds, "{}", p.name);
            assert_eq!(d.text(p.name), (!p.adds).then_some("log: b"), "{}", p.name);
        }
    }

    #[test]
    fn the_hosts_default_database_is_used() {
        let c = Draft::default().finish(Some("sqlite:///tmp/x.sqlite")).unwrap();
        assert_eq!(c.db().unwrap().url, "sqlite:///tmp/x.sqlite");
    }

    #[test]
    fn errors_name_the_parameter_and_the_cure() {
        for (lines, parts) in [
            (vec![("early_media", s("yes"))], ["parameter early_media", "expected a number"]),
            (vec![("db_url", RawValue::Int(1))], ["parameter db_url", "expected a string"]),
            (vec![("no_such", RawValue::Int(1))], ["no parameter", "no_such"]),
            (vec![("log_facility", s("LOG_NOWHERE"))], ["parameter log_facility", "LOG_LOCAL0"]),
            (vec![("extra_fields", s("foo:bar"))], ["parameter extra_fields", "db, aaa, diameter, log, evi, stream or json"]),
            (vec![("leg_fields", s("log"))], ["parameter leg_fields", "backend and a colon"]),
            (vec![("extra_fields", s("db:a"))], ["parameter db_url", "set db_url"]),
            (vec![("extra_fields", s("aaa:a"))], ["parameter aaa_url", "set aaa_url"]),
            (vec![("journal_sync", s("sometimes"))], ["parameter journal_sync", "os, batch, always"]),
            (vec![("journal_full", s("burst"))], ["parameter journal_full", "drop-oldest, drop-new, refuse"]),
            (vec![("journal_max_size", RawValue::Int(-1))], ["parameter journal_max_size", "0 to 1048576"]),
            (vec![("journal_min_free", RawValue::Int(-1))], ["parameter journal_min_free", "0 to 1048576"]),
            (vec![("delivery_batch", RawValue::Int(0))], ["parameter delivery_batch", "1 to 5000"]),
            (vec![("db_url", s("sqlite:x")), ("db_table_acc", s("a;b"))], ["parameter db_table_acc", "not a valid table name"]),
            (vec![("db_url", s("sqlite:x")), ("acc_time_column", s("1t"))], ["parameter acc_time_column", "not a valid column name"]),
            (vec![("db_url", s("mysql://h/d")), ("db_table_acc", s("a.b.c"))], ["parameter db_table_acc", "not a valid table name"]),
            (vec![("db_url", s("sqlite:x")), ("db_table_acc", s("billing.acc"))], ["parameter db_table_acc", "no database billing, write acc"]),
            (vec![("db_url", s("sqlite:x")), ("db_time", s("Mars"))], ["parameter db_time", "local, utc"]),
            (vec![("db_url", s("text:/x")), ("db_time", s("utc"))], ["parameter db_time", "local time"]),
            (vec![("db_url", s("text:/x")), ("db_time_digits", RawValue::Int(3))], ["parameter db_time_digits", "whole seconds"]),
            (vec![("db_url", s("nonsense"))], ["parameter db_url", "sqlite:"]),
        ] {
            let e = draft(&lines).unwrap_err().to_string();
            for p in parts {
                assert!(e.contains(p), "{lines:?}: {e}");
            }
        }
    }
}
