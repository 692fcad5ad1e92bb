//! The Diameter client against a peer that misbehaves on purpose, freeDiameter, and Erlang/OTP.
#![allow(clippy::print_stderr, reason = "a test that cannot run here says 'skipped'")]

#[path = "../common/mod.rs"]
mod common;
mod fake;
mod faults;
mod servers;

use common::offer;
use std::sync::Arc;
use std::time::Duration;

use acc::accounting::clock::{Moment, Wall};
use acc::accounting::record::{Backend, Field, Kind, Record};
use acc::backend::diameter::conf::Conf;
use acc::backend::diameter::{Diameter, DiameterClient, DiameterSettings, Place};
use acc::backend::{Fate, Offer};
use acc::params::Draft;
use acc::stats::Counter;

/// A client for the lines of a file, with tuned timers.
fn client(lines: &str, change: impl FnOnce(&mut DiameterSettings), tune: impl FnOnce(&mut Conf)) -> DiameterClient {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("peers.conf");
    std::fs::write(&file, format!("Identity = \"sip1.acc.test\"; Realm = \"acc.test\";\n{lines}")).unwrap();
    let mut settings = DiameterSettings::of(&Draft::default(), Backend::Aaa, Place::Url(file.display().to_string())).unwrap();
    change(&mut settings);
    let mut diameter = Diameter::open(&settings, &[]).unwrap();
    tune(&mut diameter.conf);
    DiameterClient::new(diameter)
}

/// An answered call, with an identity of 16 bytes.
fn record(n: usize) -> Record {
    Record { id: n as u128 | 7 << 96, ..common::answered_call(n) }
}

fn records(n: usize) -> Vec<Record> {
    (0..n).map(record).collect()
}

fn field(name: &str, value: &str) -> Field {
    Field { name: Arc::from(name), value: Some(value.into()) }
}

/// A little later than now, so that no record seems to be of an earlier process.
fn soon() -> Wall {
    Wall(Moment::wall_now().0 + 1_000_000)
}

/// Sends new records, as the delivery does, until the fate of each is known.
async fn send(client: &mut DiameterClient, records: &[Record]) -> Vec<Fate> {
    offer(client, records, soon(), false).await
}

/// The same, and what comes back is offered again until all is delivered.
async fn deliver(client: &mut DiameterClient, records: &[Record]) {
    let made = soon();
    let mut left: Vec<&Record> = records.iter().collect();
    while !left.is_empty() {
        let offers: Vec<_> = left.iter().map(|record| Offer { record, made, parked: false }).collect();
        let fates = client.send_all(&offers).await;
        if fates.iter().any(|f| matches!(f, Fate::Retry(_))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        left = left.iter().zip(fates).filter(|(_, fate)| *fate != Fate::Delivered).map(|(record, _)| *record).collect();
    }
}
