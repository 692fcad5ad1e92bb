//! The RADIUS client against a responder that misbehaves on purpose, and against FreeRADIUS.
#![allow(clippy::print_stderr, reason = "a test that cannot run here says 'skipped'")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod freeradius;
mod parking;

use common::{answered_call as record, offer};
use std::sync::Arc;
use std::time::Duration;

use acc::accounting::clock::{Moment, Wall};
use acc::accounting::record::{Field, Kind, Record};
use acc::backend::radius::client::{Options, RadiusClient};
use acc::backend::radius::{Aaa, Radius, conf};
use acc::backend::{Fate, Offer};

/// Attributes that the tests' fields name, besides the built-in ones.
const DICTIONARY: &str = "ATTRIBUTE Acc-Caller 240 string\nATTRIBUTE Acc-Note 243 string\nATTRIBUTE Acc-Leg-Src 245 string\nATTRIBUTE Acc-Leg-Dst 246 string\n\
    ATTRIBUTE Acc-Int 247 integer\n";

/// A vendor's attribute, which the dictionaries of FreeRADIUS have already.
const VENDOR: &str = "VENDOR Cisco 9\nBEGIN-VENDOR Cisco\nATTRIBUTE Cisco-AVPair 1 string\nEND-VENDOR Cisco\n";

/// A configuration as an operator writes it, with `lines` added, read and opened.
fn open(lines: &str) -> Radius {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("client.conf");
    std::fs::write(&file, format!("{lines}dictionary dictionary\nradius_timeout 1\nradius_retries 2\n")).unwrap();
    std::fs::write(dir.path().join("dictionary"), format!("{DICTIONARY}{VENDOR}")).unwrap();
    let aaa = Aaa { url: format!("radius:{}", file.display()), service_type: None, retry: None };
    let mut radius = Radius::open(&aaa, &["Acc-Caller", "Acc-Note", "Acc-Leg-Src", "Acc-Leg-Dst", "Acc-Int", "Cisco-AVPair"]).unwrap();
    // Faults are many here and each costs a pause.
    radius.conf.timeout = Duration::from_millis(60);
    radius
}

/// A client with tuned timers.
fn client(lines: &str, tune: impl FnOnce(&mut conf::Conf), retry: Option<u32>) -> RadiusClient {
    let mut radius = open(lines);
    tune(&mut radius.conf);
    RadiusClient::new(radius, Options { nas_port: Some(5060), retry }).unwrap()
}

fn field(name: &str, value: &str) -> Field {
    Field { name: Arc::from(name), value: Some(value.into()) }
}

/// Sends records made now, as the delivery does, until the fate of each is known.
async fn send(client: &mut RadiusClient, records: &[Record]) -> Vec<Fate> {
    offer(client, records, Moment::wall_now(), false).await
}

fn retry_reason(fate: &Fate) -> &str {
    match fate {
        Fate::Retry(reason) => reason,
        other => panic!("not a retry: {other:?}"),
    }
}

fn refused_reason(fate: &Fate) -> &str {
    match fate {
        Fate::Refused(reason) => reason,
        other => panic!("not refused: {other:?}"),
    }
}
