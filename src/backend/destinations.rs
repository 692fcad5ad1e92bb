//! The settings of all destinations, read by the folder of each.
#![forbid(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::{READERS, Sink};
use crate::accounting::fields::Fields;
use crate::declaration::{Backend, By, SinkId};
use crate::params::{ConfigError, Draft};

/// Settings of a destination that is on.
pub trait Settings: Any + fmt::Debug + Send + Sync {
    /// Makes the sink, in the delivery process and inside its runtime.
    ///
    /// # Errors
    /// One line that names the parameter and says what to do.
    fn sink(&self, fields: &Fields) -> Result<Box<dyn Sink>, String>;

    /// Names of its servers, in order of preference; their states are noted by its delivery.
    fn peers(&self) -> &[String] {
        &[]
    }
}

/// Reads the settings, and checks them as far as possible before the fork; `None` if the destination is off.
pub type Read = fn(&Draft) -> Result<Option<Arc<dyn Settings>>, ConfigError>;

/// Makes a sink; called in the delivery process, inside its runtime.
pub type Maker = Box<dyn FnOnce() -> Result<Box<dyn Sink>, String>>;

/// Settings of every sink, by index; `None` = off.
#[derive(Clone, Debug)]
pub struct Destinations {
    settings: [Option<Arc<dyn Settings>>; SinkId::COUNT],
    /// See [`Destinations::sinks_of`]; asked for every record.
    sinks: [Vec<SinkId>; Backend::COUNT],
}

impl Destinations {
    /// Reads the settings of all destinations.
    ///
    /// # Errors
    /// The first parameter that cannot be used.
    pub fn read(draft: &Draft) -> Result<Destinations, ConfigError> {
        let mut all = Destinations { settings: [const { None }; _], sinks: [const { Vec::new() }; _] };
        for (id, read) in READERS {
            all.settings[id.index()] = read(draft)?;
        }
        all.find_sinks();
        Ok(all)
    }

    /// The settings of one destination.
    pub fn get(&self, id: SinkId) -> Option<&dyn Settings> {
        self.settings[id.index()].as_deref()
    }

    /// The sinks that get a backend's records from the journal. A backend that is off still has one, for calls from before.
    pub fn sinks_of(&self, backend: Backend) -> impl Iterator<Item = SinkId> + Clone + '_ {
        self.sinks[backend.index()].iter().copied()
    }

    fn find_sinks(&mut self) {
        for backend in Backend::ALL {
            let first = SinkId::of(backend);
            let is_on = self.is_on(backend);
            let has = |id: &SinkId| first.is_some() && if is_on { self.get(*id).is_some() } else { Some(*id) == first };
            self.sinks[backend.index()] = SinkId::all_of(backend).filter(has).collect();
        }
    }

    /// Has a backend a sink?
    pub fn is_on(&self, backend: Backend) -> bool {
        SinkId::all_of(backend).any(|id| self.get(id).is_some())
    }

    /// The settings that have this type.
    pub fn of<S: Settings>(&self) -> Option<&S> {
        self.settings.iter().flatten().find_map(|s| (&**s as &dyn Any).downcast_ref())
    }

    /// Turns a destination on.
    pub fn set(&mut self, id: SinkId, settings: impl Settings) {
        self.settings[id.index()] = Some(Arc::new(settings));
        self.find_sinks();
    }

    /// Turns a destination off.
    pub fn remove(&mut self, id: SinkId) {
        self.settings[id.index()] = None;
        self.find_sinks();
    }

    /// Does any destination get its records from the journal?
    pub fn need_journal(&self) -> bool {
        SinkId::ALL.into_iter().any(|id| id.backend().by() == By::Delivery && self.get(id).is_some())
    }
}
