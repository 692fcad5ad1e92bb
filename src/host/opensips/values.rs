//! Reads values of extras and legs.

use super::abi::*;
use super::contexts::Current;
use super::message::Spec;
use super::prepared::{Variables, avp};
use super::state::{Api, Server};
use super::symbols::{FlagSymbols, Symbols};
use crate::accounting::extras::Extras;
use crate::accounting::flags::Taken;
use crate::accounting::marks::Types;
use crate::config::Config;
use crate::host::watched::{OfMessage, Reading};
use crate::worker::Instance;

/// Reads variables of a private message; without a message, only those that need none.
pub struct Values<'a> {
    symbols: &'a Symbols,
    dummy: Option<&'a FlagSymbols>,
    variables: Option<&'a Variables>,
    extras: &'a Extras,
    msg: *mut os_sip_msg,
}

impl<'a> Values<'a> {
    /// For `msg`, which may be null.
    pub fn new(server: &'a Server, api: &'a Api, config: &'a Config, msg: *mut os_sip_msg) -> Values<'a> {
        let dummy = api.flags.as_ref().map(|f| &f.symbols);
        Values { symbols: &server.symbols, dummy, variables: api.variables.as_ref(), extras: &config.rules.fields.flags, msg }
    }

    fn read(&self, spec: &Spec) -> Option<Vec<u8>> {
        match self.dummy {
            _ if !self.msg.is_null() => spec.bytes(self.symbols, self.msg),
            Some(flags) => flags.with_dummy(|dummy| spec.bytes(self.symbols, dummy)),
            None => None,
        }
    }
}

impl Reading for Values<'_> {
    fn of_message(&self, index: usize) -> Option<Vec<u8>> {
        self.variables?.specs.get(index)?.bytes(self.symbols, self.msg)
    }

    fn of_moment(&self, index: usize) -> Option<Vec<u8>> {
        self.read(self.variables?.specs.get(index)?)
    }

    fn avp(&self, index: usize, n: usize) -> Option<Vec<u8>> {
        match self.variables?.avps.get(index)?.get(n) {
            Some(spec) => self.read(spec),
            None => self.read(&*avp(self.symbols, self.extras.avps.get(index)?, n)?),
        }
    }
}

/// The records that a function of the script asks for, for the current message.
pub fn of_message(at: Current, config: &Config, due: Types) -> Taken {
    let is_reply = at.api.variables.as_ref().is_some_and(|v| v.code.bytes(&at.server.symbols, at.raw).is_some());
    let source = OfMessage { read: Values::new(at.server, at.api, config, at.raw), is_reply };
    Taken::read(&config.rules.fields.flags, due, &source)
}

/// The values that the BYE of a call with a CDR has for the CDR.
pub fn of_bye(server: &'static Server, api: &'static Api, instance: &Instance, marks: Types, bye: *mut os_sip_msg) -> Taken {
    let source = OfMessage { read: Values::new(server, api, &instance.config, bye), is_reply: false };
    Taken::read_bye(&instance.config.rules.fields.flags, marks, &source)
}
