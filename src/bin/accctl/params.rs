//! The module's parameters, from the command line and from a server's configuration, in the server's own [`Draft`].
#![forbid(unsafe_code)]

use std::any::Any;
use std::path::{Path, PathBuf};

use acc::accounting::names::is_identifier;
use acc::backend::diameter::{DiameterSettings, Place};
use acc::backend::radius::Aaa;
use acc::backend::sql::{Db, Target, parse};
use acc::config::Config;
use acc::declaration::{PARAMS, ParamType, SinkId};
use acc::params::{Draft, RawValue};
use clap::Args;

use crate::server_config;

/// Where parameters come from.
#[derive(Args)]
pub struct Params {
    /// Read the parameters from the modparam("acc", ...) lines of this server configuration
    ///
    /// Of OpenSIPS or Kamailio. Included files are searched for beside the file that includes them. Of Kamailio's
    /// preprocessor, define, ifdef, ifndef, else, endif and subst with plain text are supported; a parameter whose value
    /// only the server can know must be given with --set.
    #[arg(long, value_name = "FILE", help_heading = "Parameters of the server")]
    config: Option<PathBuf>,
    /// A parameter of the module, as in modparam("acc", "NAME", VALUE); may be repeated
    ///
    /// It works like a line after those of --config: extra_fields and leg_fields are added to, others are replaced.
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Parameters of the server")]
    set: Vec<String>,
    /// A name that the server gets with -A, for #!ifdef in a Kamailio configuration; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]", requires = "config", help_heading = "Parameters of the server")]
    define: Vec<String>,
}

/// A parameter given by its own option.
pub struct Alias {
    /// The option, for error messages.
    pub option: &'static str,
    /// The parameter.
    pub parameter: &'static str,
    /// Its value.
    pub value: RawValue,
}

impl Alias {
    /// From an option that may be absent.
    pub fn text(option: &'static str, parameter: &'static str, value: Option<&str>) -> Option<Alias> {
        Some(Alias { option, parameter, value: RawValue::Str(value?.into()) })
    }
}

/// What was given, later ones overriding earlier ones: --config, --set, the parameters' own options.
pub struct Given {
    /// Parameters, not yet checked as a whole.
    pub draft: Draft,
    /// The server's default database.
    pub default_url: Option<String>,
    /// A configuration was given: defaults apply to what it leaves out, and relative paths are relative to the server's
    /// working directory.
    pub of_a_server: bool,
}

impl Params {
    /// Reads all of them. Logs what the server would warn about.
    pub fn read(&self, aliases: impl IntoIterator<Item = Alias>) -> Result<Given, String> {
        let set = self.set.iter().map(|text| assignment(text)).collect::<Result<Vec<_>, _>>()?;
        let aliases: Vec<_> = aliases.into_iter().collect();
        let mut given = Given { draft: Draft::default(), default_url: None, of_a_server: self.config.is_some() };
        if let Some(path) = &self.config {
            let found = server_config::read(path, &self.define)?;
            for note in found.notes {
                log::warn!("{note}");
            }
            if found.lines.is_empty() {
                log::warn!("{} has no line modparam(\"acc\", ...): is it the server's configuration?", path.display());
            }
            given.default_url = found.default_url;
            // Kamailio numbers levels differently, and lines that wait have their level already.
            for line in found.lines.into_iter().filter(|line| line.name != "log_level") {
                match line.value {
                    Ok(value) => given.draft.set(&line.name, value).map_err(|e| format!("{}: {e}", line.at))?,
                    Err(_) if set.iter().any(|(name, _)| *name == line.name) || aliases.iter().any(|a| a.parameter == line.name) => {}
                    Err(why) => return Err(format!("{}: parameter {}: {why}; or give --set {}=VALUE", line.at, line.name, line.name)),
                }
            }
        }
        // What is given here replaces the lines of the configuration, even for parameters with several lines.
        set.iter().map(|(name, _)| *name).chain(aliases.iter().map(|a| a.parameter)).for_each(|name| given.draft.forget(name));
        for (name, value) in set {
            given.draft.set(name, value).map_err(|e| format!("--set {name}: {e}"))?;
        }
        for alias in aliases {
            given.draft.set(alias.parameter, alias.value).map_err(|e| format!("{}: {e}", alias.option))?;
        }
        for warning in std::mem::take(&mut given.draft.warnings) {
            log::warn!("{warning}");
        }
        Ok(given)
    }
}

impl Given {
    /// The whole configuration, checked as the server does.
    pub fn config(&self) -> Result<Config, String> {
        let config = self.draft.finish(self.default_url.as_deref()).map_err(|e| e.to_string())?;
        if let Some(db) = config.db() {
            self.checked(db)?;
        }
        if let Some(file) = config.destinations.of::<Aaa>().and_then(|aaa| aaa.url.strip_prefix("radius:")) {
            self.absolute("aaa_url", file.as_ref())?;
        }
        for settings in SinkId::ALL.into_iter().filter_map(|id| config.destinations.get(id)) {
            if let Some(diameter) = (settings as &dyn Any).downcast_ref::<DiameterSettings>()
                && let Place::Url(files) = &diameter.place
            {
                self.absolute(diameter.parameter(), files.split(';').next().unwrap_or_default().trim().as_ref())?;
            }
        }
        Ok(config)
    }

    /// The database alone.
    pub fn database(&self) -> Result<Option<Db>, String> {
        let mut draft = self.draft.clone();
        draft.default_db_url.clone_from(&self.default_url);
        let db = Db::of(&draft).map_err(|e| e.to_string())?;
        db.as_ref().map_or(Ok(()), |db| self.checked(db))?;
        Ok(db)
    }

    fn checked(&self, db: &Db) -> Result<(), String> {
        match parse(&db.url) {
            Ok(Target::Sqlite(path)) => self.absolute("db_url", &path),
            _ => Ok(()),
        }
    }

    /// A file with that name may exist here: records would go where nobody looks for them.
    pub fn absolute(&self, name: &str, path: &Path) -> Result<(), String> {
        if path.is_absolute() || !self.of_a_server {
            return Ok(());
        }
        Err(format!("parameter {name}: {} is relative to the server's working directory: give the absolute path, with --set {name}=...", path.display()))
    }
}

/// `NAME=VALUE`, with the type of the parameter.
fn assignment(text: &str) -> Result<(&str, RawValue), String> {
    // What is not a name may be a URL with a password.
    let (name, value) = text.split_once('=').filter(|(name, _)| is_identifier(name)).ok_or("--set: write --set NAME=VALUE")?;
    let kind = PARAMS.iter().find(|p| p.name == name).map(|p| p.kind).ok_or_else(|| format!("--set {name}: there is no parameter \"{name}\""))?;
    Ok((
        name,
        match kind {
            ParamType::Str | ParamType::Word(_) | ParamType::Either(..) => RawValue::Str(value.into()),
            ParamType::Flag => value.parse().map_or_else(|_| RawValue::Str(value.into()), RawValue::Int),
            ParamType::Int(..) => RawValue::Int(value.parse().map_err(|_| format!("--set {name}: \"{value}\" is not a number"))?),
        },
    ))
}
