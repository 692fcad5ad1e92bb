//! A defect in one sink must be seen, and cost nothing.
#![forbid(unsafe_code)]

mod common;

use acc::acc::record::{Kind, Record, Wall};
use acc::backend::{Fate, LocalFuture, RecordSender, SinkId};
use acc::config::Aaa;
use acc::journal::Dir;
use common::*;

/// Panics, as no client should.
struct Broken;

impl RecordSender for Broken {
    fn send_all<'a>(&'a mut self, _records: &'a [(&'a Record, Wall)]) -> LocalFuture<'a, Vec<Fate>> {
        panic!("a defect in the client")
    }
}

#[test]
fn a_panic_ends_the_delivery_and_loses_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut config = config(None, tmp.path());
    config.aaa = Some(Aaa { url: "radius:/x".into(), service_type: None, retry: None });
    let delivery = acc::delivery::Delivery {
        log_socket: tmp.path().join("log"),
        aaa: Some(Box::new(|| Ok(Box::new(Broken) as Box<dyn RecordSender>))),
        ..acc::delivery::Delivery::new(config, dir.clone())
    };
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Aaa, &record(Kind::Cdr, "kept")).unwrap();
    assert!(acc::delivery::run(delivery).unwrap_err().to_string().contains("the delivery to aaa ended unexpectedly"));
    assert_eq!(segments(tmp.path()), 1);
}
