//! Two streams of a real server: each gets every record.

use std::fs;

use serde_json::Value;

use super::phones::{call, play};
use super::server::{Server, define, skipped};

#[test]
fn every_stream_has_the_records_of_calls() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let url = |name: &str| format!("file://{}", file(name).display());
    let more = [define("TYPES", "log|stream"), define("STREAM", url("one.jsonl")), define("STREAM_TOO", url("two.jsonl"))];
    let mut server = Server::start(2, &more);
    play(&server, vec![call("answered", "a", "caller", &["callee"]), call("busy", "a", "caller_refused", &["callee_486"])]);
    server.wait("the streams have all", || ["stream", "stream2"].iter().all(|s| server.status(&format!("{s}_delivered")) == Some(3)));
    server.stop();
    let lines = |name: &str| {
        let text = fs::read_to_string(file(name)).unwrap();
        let mut all: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        all.sort_by_key(|r| r["acc_id"].as_str().unwrap().to_owned());
        all
    };
    let all = lines("one.jsonl");
    assert_eq!(all, lines("two.jsonl"));
    let of = |kind: &str, call: &str| {
        let found: Vec<_> = all.iter().filter(|r| r["kind"] == kind && r["callid"].as_str().unwrap().starts_with(call)).collect();
        assert_eq!(found.len(), 1, "{kind} of {call}: {all:?}");
        found[0]
    };
    let cdr = of("cdr", "answered");
    assert_eq!((&cdr["node"], &cdr["sip_code"], &cdr["end_cause"], &cdr["end_side"]), (&"proxy1".into(), &200.into(), &"bye".into(), &"caller".into()));
    assert!((1000..6000).contains(&cdr["duration_ms"].as_i64().unwrap()) && cdr["extra"]["caller"] == "caller1", "{cdr}");
    for kind in ["missed", "transaction"] {
        assert_eq!((&of(kind, "busy")["sip_code"], &of(kind, "busy")["sip_reason"]), (&486.into(), &"Busy Here".into()));
    }
}
