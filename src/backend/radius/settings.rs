//! Settings of RADIUS.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::accounting::fields::Fields;
use crate::accounting::record::Backend;
use crate::backend::diameter::{DiameterSettings, Place};
use crate::backend::one_by_one::OneByOne;
use crate::backend::{Settings, Sink};
use crate::params::{ConfigError, Draft, bad};

/// RADIUS accounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aaa {
    /// `aaa_url`.
    pub url: String,
    /// `service_type`; `None` = the dictionary's `Sip-Session`, else 15.
    pub service_type: Option<u32>,
    /// `aaa_retry`: how often a record is offered before it is given up; `None` = for ever.
    pub retry: Option<u32>,
}

/// Attribute names of the extras and legs of RADIUS.
pub fn aaa_names(fields: &Fields) -> Vec<&str> {
    fields.names(Backend::Aaa, true).map(|name| &**name).collect()
}

impl Settings for Aaa {
    fn sink(&self, fields: &Fields) -> Result<Box<dyn Sink>, String> {
        let sender = super::sender(self, fields).map_err(|e| format!("aaa_url cannot be used: {e}"))?;
        Ok(Box::new(OneByOne(sender)))
    }
}

/// RADIUS accounting, or Diameter instead, if `aaa_url` is set.
pub fn read(draft: &Draft) -> Result<Option<Arc<dyn Settings>>, ConfigError> {
    let Some(url) = draft.text("aaa_url") else { return Ok(None) };
    let retry = match draft.word("aaa_retry") {
        "forever" => None,
        n => Some(n.parse().ok().filter(|n| *n > 0).ok_or_else(|| bad("aaa_retry", format!("\"{n}\" is neither \"forever\" nor a number greater than 0")))?),
    };
    if let Some(files) = url.strip_prefix("diameter:") {
        let peers = DiameterSettings::of(draft, Backend::Aaa, Place::Url(files.to_owned()))?;
        return DiameterSettings { retry, ..peers }.checked(draft);
    }
    let aaa = Aaa { url: url.into(), service_type: draft.int("service_type").and_then(|n| n.try_into().ok()), retry };
    super::validate(&aaa, &aaa_names(&draft.fields)).map_err(|e| bad("aaa_url", e))?;
    Ok(Some(Arc::new(aaa)))
}
