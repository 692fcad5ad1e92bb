//! Rows through a database module of the server: here one that remembers what it is given.
#![forbid(unsafe_code)]

mod common;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use acc::accounting::record::Kind;
use acc::backend::sql::ForeignSink;
use acc::backend::{HostDatabase, HostValue};
use acc::journal::{Dir, SinkId};
use common::*;

/// What the module was given and what it does.
#[derive(Default)]
struct State {
    down: bool,
    /// Rows whose Call-ID is one of these are refused.
    refused: HashSet<&'static str>,
    /// The column x_note takes no NULL.
    strict: bool,
    connections: usize,
    rows: Vec<String>,
    attempts: usize,
}

struct Database(Arc<Mutex<State>>);

impl HostDatabase for Database {
    fn connect(&mut self) -> Result<(), String> {
        let mut state = self.0.lock().unwrap();
        state.connections += 1;
        if state.down { Err("no route to the database".into()) } else { Ok(()) }
    }

    fn insert(&mut self, table: &str, columns: &[Arc<str>], values: &[HostValue]) -> bool {
        let mut state = self.0.lock().unwrap();
        state.attempts += 1;
        let text = |v: &HostValue| match v {
            HostValue::Null => "NULL".to_string(),
            HostValue::Text(t) => format!("'{}'", String::from_utf8_lossy(t)),
            HostValue::Time(at) => format!("@{at}"),
            HostValue::Int(n) => n.to_string(),
        };
        let row: Vec<_> = columns.iter().zip(values).map(|(c, v)| format!("{c}={}", text(v))).collect();
        let row = format!("{table}: {}", row.join(" "));
        let no = state.down || state.refused.iter().any(|c| row.contains(&format!("callid='{c}'"))) || (state.strict && row.contains("x_note=NULL"));
        if !no {
            state.rows.push(row);
        }
        !no
    }
}

fn start(dir: &Dir, state: &Arc<Mutex<State>>) -> Running {
    let (state, journal) = (state.clone(), dir.path().to_path_buf());
    Running::start_with(dir, move |delivery| {
        delivery.config = config(Some("text:///somewhere"), &journal);
        delivery.config.delivery_give_up = Some(2);
        let db = delivery.config.db().unwrap().clone();
        delivery.makers.push((SinkId::Db, Box::new(move || Ok(Box::new(ForeignSink::new(&db, Box::new(Database(state))))))));
    })
}

fn callids(state: &Mutex<State>) -> Vec<String> {
    state.lock().unwrap().rows.iter().map(|r| r.split("callid='").nth(1).unwrap().split('\'').next().unwrap().to_string()).collect()
}

#[test]
fn every_value_has_its_column_and_type() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, state) = (Dir::open(tmp.path()).unwrap(), Arc::default());
    let mut w = writer(&dir, 1);
    let mut cdr = record(Kind::Cdr, "cdr");
    cdr.legs = vec![vec![field("leg_src", Some(b"a"))], vec![field("leg_src", Some(b"c"))]];
    let mut manual = record(Kind::Manual, "manual");
    manual.times = None;
    manual.table = "refused".into();
    for r in [&cdr, &record(Kind::Missed, "missed"), &manual, &record(Kind::Transaction, "transaction")] {
        w.append_record(SinkId::Db, r).unwrap();
    }
    let running = start(&dir, &state);
    wait_until("the rows", || callids(&state).len() == 5);
    running.stop();
    let core = |callid: &str| format!("method='INVITE' from_tag='ft' to_tag='tt' callid='{callid}' sip_code='200' sip_reason='OK' time=@1700000003");
    let more = "caller_uri='sip:a@example.com' x_note=NULL";
    let times = "setuptime=2 created=@1700000000";
    assert_eq!(
        state.lock().unwrap().rows,
        [
            format!("acc: {} {more} leg_src='a' {times} duration=2 ms_duration=1203", core("cdr")),
            format!("acc: {} {more} leg_src='c' {times} duration=2 ms_duration=1203", core("cdr")),
            format!("missed_calls: {} {more} {times}", core("missed")),
            format!("refused: {}", core("manual")),
            format!("acc: {} {more} {times} duration=0 ms_duration=0", core("transaction")),
        ]
    );
    // The position is in a file: nothing comes again.
    start(&dir, &state).stop();
    assert_eq!(callids(&state).len(), 5);
}

#[test]
fn a_database_that_is_down_gets_everything_later() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let state = Arc::new(Mutex::new(State { down: true, ..State::default() }));
    let mut w = writer(&dir, 1);
    for n in 0..120 {
        w.append_record(SinkId::Db, &record(Kind::Cdr, &n.to_string())).unwrap();
    }
    let running = start(&dir, &state);
    wait_until("attempts", || state.lock().unwrap().connections > 2);
    assert_eq!(state.lock().unwrap().attempts, 0, "no insert without a connection");
    state.lock().unwrap().down = false;
    wait_until("half of the rows", || callids(&state).len() >= 50);
    // Connected, and refusing all: the records wait.
    state.lock().unwrap().down = true;
    for n in 120..200 {
        w.append_record(SinkId::Db, &record(Kind::Cdr, &n.to_string())).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    state.lock().unwrap().down = false;
    wait_until("the rows", || callids(&state).len() == 200);
    running.stop();
    let mut got: Vec<usize> = callids(&state).iter().map(|c| c.parse().unwrap()).collect();
    got.sort_unstable();
    assert_eq!(got, (0..200).collect::<Vec<_>>());
    assert!(!tmp.path().join("dead-db.jsonl").exists());
}

#[test]
fn a_refused_row_is_dead_and_the_others_go_on() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let state = Arc::new(Mutex::new(State { refused: ["1", "17"].into(), strict: true, ..State::default() }));
    let mut w = writer(&dir, 1);
    for n in 0..20 {
        w.append_record(SinkId::Db, &record(Kind::Cdr, &n.to_string())).unwrap();
    }
    let running = start(&dir, &state);
    let dead = || std::fs::read_to_string(tmp.path().join("dead-db.jsonl")).unwrap_or_default();
    wait_until("the others", || callids(&state).len() == 18);
    // What is refused again while others are taken is given up.
    let mut more = 0;
    wait_until("two dead letters", || {
        w.append_record(SinkId::Db, &record(Kind::Cdr, "more")).unwrap();
        more += 1;
        dead().lines().count() == 2
    });
    wait_until("those as well", || callids(&state).len() == 18 + more);
    running.stop();
    let dead = dead();
    assert!(dead.contains("\"callid\":\"1\"") && dead.contains("\"callid\":\"17\"") && dead.contains("refuses it"), "{dead}");
    // Where NULL is refused, the value is empty text.
    assert!(state.lock().unwrap().rows.iter().all(|r| r.contains("x_note='' ")));
}
