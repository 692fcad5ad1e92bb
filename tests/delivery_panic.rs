//! A defect in one sink must be seen, and cost nothing.
#![forbid(unsafe_code)]

mod common;

use acc::accounting::record::Kind;
use acc::backend::log::syslog;
use acc::backend::{Fate, LocalFuture, Offer, RecordSender, one_by_one};
use acc::journal::{Dir, SinkId};
use common::*;

/// Panics, as no client should.
struct Broken;

impl RecordSender for Broken {
    fn send_all<'a>(&'a mut self, _records: &'a [Offer<'a>]) -> LocalFuture<'a, Vec<Fate>> {
        panic!("a defect in the client")
    }
}

#[test]
fn a_panic_ends_the_delivery_and_loses_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let config = config(None, tmp.path());
    let delivery = acc::delivery::Delivery {
        makers: vec![syslog::at(tmp.path().join("log")), one_by_one(SinkId::Aaa, || Ok(Box::new(Broken)))],
        ..acc::delivery::Delivery::new(config, dir.clone())
    };
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Aaa, &record(Kind::Cdr, "kept")).unwrap();
    assert!(acc::delivery::run(delivery).unwrap_err().to_string().contains("the delivery to aaa ended unexpectedly"));
    assert_eq!(segments(tmp.path()), 1);
}
