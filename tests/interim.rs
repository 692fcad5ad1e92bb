//! Records of calls that are up, from the workers' appends to SQL and RADIUS: a row for each call that is up, in any order
//! in which its records are read, whenever the delivery is killed; interim records by a clock of the test's own.
#![forbid(unsafe_code)]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use acc::accounting::clock::{Moment, Wall};
use acc::accounting::context::Context;
use acc::accounting::decide;
use acc::accounting::marks::{DropMode, Flags, Marks, Types};
use acc::accounting::record::{Backend, Core, EndCause, Record};
use acc::accounting::rules::Rules;
use acc::backend::sql::Db;
use acc::config::Config;
use acc::delivery::Delivery;
use acc::journal::calls::INTERIM_RANK;
use acc::journal::{Dir, Item, JournalSync, KIND_RECORD, SinkId, Writer};
use acc::params::{Draft, RawValue};
use acc::stats::{self, Counter};
use common::freeradius::{self, FreeRadius, SECRET};
use common::servers::{self, PASSWORD};
use common::*;

/// The counters and the clock belong to the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    stats::expect_reports();
    guard
}

/// What the test's clock is ahead of the machine's, in µs.
static AHEAD: AtomicI64 = AtomicI64::new(0);

fn clock() -> Moment {
    let (now, ahead) = (Moment::now(), AHEAD.load(Ordering::Relaxed));
    Moment { wall: Wall(now.wall.0 + ahead), mono: now.mono + ahead, boot: now.boot }
}

fn pass(seconds: i64) {
    AHEAD.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
}

const ALL: &[u8] = b"cdr|interim";

/// A call that is answered now.
fn answered(n: usize, backends: &str) -> Context {
    let now = clock();
    let mut ctx = Context::new(now, false);
    ctx.marks = Marks::default().add(Types::parse(backends.as_bytes()).unwrap(), Flags::parse(ALL).unwrap());
    ctx.marked = true;
    ctx.core = Core {
        method: b"INVITE".into(),
        from_tag: format!("f{n}").into(),
        to_tag: format!("t{n}").into(),
        callid: format!("call-{n}").into(),
        code: b"200".into(),
        reason: b"OK".into(),
    };
    ctx.answered = Some(now);
    ctx.set_extra(b"caller", Some(format!("sip:{n}@example.com").as_bytes()), usize::MAX);
    ctx
}

fn state(ctx: &Context) -> Vec<u8> {
    let mut state = Vec::new();
    ctx.encode(&mut state);
    state
}

fn append(w: &mut Writer, records: &[Record]) {
    for record in records {
        w.append_record(SinkId::of(record.backend).unwrap(), record).unwrap();
    }
}

/// What a worker writes at the answer: the state first.
fn begin(w: &mut Writer, rules: &Rules, ctx: &Context) {
    w.append_call(ctx.call_key(), &state(ctx)).unwrap();
    append(w, &decide::start(rules, ctx));
}

/// What a worker writes at the end.
fn end(w: &mut Writer, rules: &Rules, ctx: &mut Context) {
    decide::on_end(ctx, EndCause::Caller, clock());
    let end = decide::cdr(rules, ctx).unwrap();
    let records: Vec<_> = end.records.into_iter().map(|r| (SinkId::of(r.backend).unwrap(), r)).collect();
    w.append_end(end.call, &records).unwrap();
}

fn configured(config: Config) -> Config {
    Config { interim_interval: 60, ..config }
}

fn run(config: Config, dir: &Dir) -> Running {
    Running::start_with(dir, move |d: &mut Delivery| {
        d.config = config;
        d.owed = Some(|| 0);
        d.clock = clock;
    })
}

/// The delivery looks at the journal five times a second: what it is to know of calls it knows after two looks.
fn two_looks() {
    std::thread::sleep(Duration::from_millis(500));
}

/// The interim records in the journal, whatever became of them.
fn interims(dir: &Dir) -> usize {
    let of_segment = |name| {
        let mut reader = dir.read(name, 0).unwrap();
        let mut n = 0;
        while let Ok(Item::Frame(f)) = reader.read() {
            n += usize::from(f.kind == KIND_RECORD);
        }
        n
    };
    dir.segments().unwrap().iter().filter(|s| s.name.rank == INTERIM_RANK).map(|s| of_segment(s.name)).sum()
}

#[test]
fn a_call_that_is_up_has_a_row_until_it_ends() {
    let _alone = alone();
    let tmp = tempfile::tempdir().unwrap();
    let (journal, database) = (tmp.path().join("journal"), tmp.path().join("acc.sqlite"));
    let dir = Dir::open(&journal).unwrap();
    let config = configured(config(Some(&format!("sqlite://{}", database.display())), &journal));
    let rules = config.rules.clone();
    let running = run(config, &dir);
    let ask = |sql: &str| sqlite(&database, sql).unwrap_or_default();
    let mut w = writer(&dir, 1);
    let mut calls: Vec<_> = (0..3).map(|n| answered(n, "db")).collect();
    calls.iter().for_each(|ctx| begin(&mut w, &rules, ctx));
    let up = "SELECT callid, from_tag, to_tag, node, duration, caller_uri, x_note, length(call_id), updated = time FROM acc_calls ORDER BY callid";
    wait_until("rows of the start", || {
        ask(up)
            == "call-0\tf0\tt0\tproxy1\t0\tsip:0@example.com\tNULL\t32\t1\ncall-1\tf1\tt1\tproxy1\t0\tsip:1@example.com\tNULL\t32\t1\ncall-2\tf2\tt2\tproxy1\t0\tsip:2@example.com\tNULL\t32\t1\n"
    });
    assert_eq!(ask("SELECT count(*) FROM acc").trim(), "0");
    two_looks();
    // Each has its phase: within the tenth of a minute around the first one.
    pass(67);
    wait_until("rows of the first minute", || ask("SELECT count(*) FROM acc_calls WHERE duration >= 67 AND updated > time").trim() == "3");
    end(&mut w, &rules, &mut calls[0]);
    wait_until("the CDR", || ask("SELECT callid, duration FROM acc").starts_with("call-0\t6"));
    assert_eq!(ask("SELECT group_concat(callid) FROM acc_calls").trim(), "call-1,call-2");
    // One is not accounted any more.
    let before = calls[1].marks;
    calls[1].marks = before.remove(None, None, DropMode::Documented);
    w.append_end(calls[1].call_key(), &[]).unwrap();
    append(&mut w, &decide::withdraw(&rules, &calls[1], before, clock()));
    wait_until("the row is taken out", || ask("SELECT callid FROM acc_calls").trim() == "call-2");
    end(&mut w, &rules, &mut calls[2]);
    wait_until("the end", || ask("SELECT count(*) FROM acc").trim() == "2");
    assert_eq!(ask("SELECT count(*) FROM acc_calls").trim(), "0");
    let made = interims(&dir);
    pass(600);
    two_looks();
    assert_eq!((interims(&dir), ask("SELECT count(*) FROM acc_calls").trim()), (made, "0"), "nothing comes after the end");
    running.stop();
}

/// A directory that is not there yet is the outage.
#[test]
fn an_hour_of_outage_adds_one_record_to_a_call() {
    let _alone = alone();
    let tmp = tempfile::tempdir().unwrap();
    let (journal, away) = (tmp.path().join("journal"), tmp.path().join("away"));
    let database = away.join("acc.sqlite");
    let dir = Dir::open(&journal).unwrap();
    let config = configured(config(Some(&format!("sqlite://{}", database.display())), &journal));
    let rules = config.rules.clone();
    let superseded = stats::get(Counter::InterimSuperseded);
    let running = run(config, &dir);
    let mut w = writer(&dir, 1);
    let mut calls: Vec<_> = (0..20).map(|n| answered(n, "db")).collect();
    calls.iter().for_each(|ctx| begin(&mut w, &rules, ctx));
    wait_until("the outage", || SinkId::Db.state().outage_seconds().is_some());
    for _ in 0..60 {
        pass(60);
        std::thread::sleep(Duration::from_millis(60));
    }
    let made = interims(&dir);
    assert!(made <= calls.len(), "{made} records in an outage");
    calls[..5].iter_mut().for_each(|ctx| end(&mut w, &rules, ctx));
    std::fs::create_dir(&away).unwrap();
    wait_until("the rows", || sqlite(&database, "SELECT count(*) FROM acc").unwrap_or_default().trim() == "5");
    wait_until("calls that are up", || sqlite(&database, "SELECT count(*) FROM acc_calls").unwrap_or_default().trim() == "15");
    assert!(stats::get(Counter::InterimSuperseded) - superseded <= made as u64);
    // They are reported again.
    wait_until("its end", || SinkId::Db.state().outage_seconds().is_none());
    two_looks();
    pass(67);
    wait_until("records", || sqlite(&database, "SELECT count(*) FROM acc_calls WHERE duration >= 3600").unwrap_or_default().trim() == "15");
    running.stop();
}

/// FreeRADIUS with its own schema: ten minutes of a call are one row, brought up to date and closed.
#[test]
fn freeradius_has_one_row_of_a_call() {
    let _alone = alone();
    let Some(database) = servers::mariadb() else { return };
    let Some((schema, module)) = freeradius::mysql(database.port, "acc", PASSWORD) else { return };
    database.sql(&schema);
    let accounting = "update request {\n &Acct-Unique-Session-Id := \"%{md5:%{Acct-Session-Id}}\"\n}\nsql";
    let Some(server) = FreeRadius::start_with("", &format!("expr {{ }}\n{module}"), accounting) else { return };
    wait_until("FreeRADIUS runs", || server.log().contains("Ready to process requests"));
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let client = tmp.path().join("radiusclient.conf");
    std::fs::write(&client, format!("{}radius_timeout 1\nradius_retries 3\n", server.line(SECRET))).unwrap();
    let mut draft = Draft::default();
    draft.set("aaa_url", RawValue::Str(format!("radius:{}", client.display()))).unwrap();
    let radius = draft.finish(None).unwrap();
    let config = configured(Config { destinations: radius.destinations, ..config(None, &journal) });
    let rules = config.rules.clone();
    let dir = Dir::open(&journal).unwrap();
    let running = run(config, &dir);
    let mut w = writer(&dir, 1);
    let mut call = answered(1, "aaa");
    let rows = || database.sql("SELECT acctsessionid, IFNULL(acctsessiontime, 0), acctstoptime IS NULL FROM radacct;");
    begin(&mut w, &rules, &call);
    wait_until("the row", || rows().starts_with("call-1\t0\t1"));
    two_looks();
    for minute in 1..=10i64 {
        pass(if minute == 1 { 67 } else { 60 });
        let up = |line: &str| line.split('\t').nth(1).and_then(|s| s.parse::<i64>().ok()).is_some_and(|s| s >= minute * 60);
        wait_until("its time", || rows().lines().count() == 1 && up(&rows()));
    }
    end(&mut w, &rules, &mut call);
    wait_until("its end", || rows().trim_end().ends_with("\t0"));
    let row = rows();
    let seconds: i64 = row.split('\t').nth(1).unwrap().parse().unwrap();
    assert!(row.lines().count() == 1 && (607..700).contains(&seconds), "{row}");
    running.stop();
    let entries = server.entries();
    let of = |status: &str| entries.iter().filter(|e| e.iter().any(|l| l == &format!("Acct-Status-Type = {status}"))).collect::<Vec<_>>();
    let alive = of("Interim-Update").len() + of("Alive").len();
    assert!(of("Start").len() == 1 && alive == 10 && of("Stop").len() == 1, "{entries:?}");
    for stop in of("Stop") {
        assert!(
            stop.iter().any(|l| l == &format!("Acct-Session-Time = {seconds}")) && stop.iter().any(|l| l == &format!("Sip-Call-Duration = {seconds}")),
            "{stop:?}"
        );
    }
}

/// What a run with kills knows.
struct Place {
    journal: PathBuf,
    url: String,
    rules: Rules,
}

impl Place {
    fn deliver(&self, batch: u32) -> Command {
        let mut command = accctl_command();
        command.args(["deliver", "--set", &format!("db_url={}", self.url), "--set", &format!("delivery_batch={batch}"), "--log-socket", "/nonexistent"]);
        command.args(["--set", "extra_fields=db: caller->caller_uri; note->x_note", "--set", "leg_fields=db: src->leg_src; dst->leg_dst"]);
        command.arg(&self.journal).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// States of calls may stay in the journal, records do not.
    fn deliver_all(&self) {
        assert!(self.deliver(500).status().unwrap().success());
    }

    /// Calls begin, are up and end in any of four workers, and in the process that writes interim records.
    fn traffic(&self, calls: &mut Vec<Context>, up: &mut BTreeSet<usize>, new: usize, dice: &mut fastrand::Rng) {
        let dir = Dir::open(&self.journal).unwrap();
        let writer = |rank| Writer::new(&dir, rank, std::process::id(), JournalSync::Os, 16 << 10);
        let (mut workers, mut reports): (Vec<_>, _) = ((1..=4).map(writer).collect(), writer(INTERIM_RANK));
        for _ in 0..new {
            let n = calls.len();
            calls.push(answered(n, "db"));
            begin(&mut workers[dice.usize(0..4)], &self.rules, &calls[n]);
            up.insert(n);
            pass(1);
            for _ in 0..2 {
                let any = *up.iter().nth(dice.usize(0..up.len())).unwrap();
                append(&mut reports, &decide::interim(&self.rules, &calls[any], Types::ALL, clock()));
            }
            while up.len() > 60 || !up.is_empty() && dice.u8(0..3) == 0 {
                let any = *up.iter().nth(dice.usize(0..up.len())).unwrap();
                end(&mut workers[dice.usize(0..4)], &self.rules, &mut calls[any]);
                up.remove(&any);
            }
        }
    }
}

/// 2000 calls, and the delivery killed 40 times: whenever all is delivered, the table has just the calls that are up.
fn killed(url: &str, journal: &Path, ask: &dyn Fn(&str) -> String) {
    let place = Place { journal: journal.into(), url: url.into(), rules: config(Some(url), journal).rules };
    let (mut calls, mut up, mut dice) = (Vec::new(), BTreeSet::new(), fastrand::Rng::with_seed(11));
    let mut in_the_middle = 0;
    for _ in 0..40 {
        place.traffic(&mut calls, &mut up, 50, &mut dice);
        let mut child = place.deliver(7).spawn().unwrap();
        let rows = || ask("SELECT count(*) FROM acc").trim().parse::<usize>().unwrap_or(0);
        let before = rows();
        wait_until("it writes", || rows() > before || child.try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_micros(dice.u64(0..20_000)));
        child.kill().unwrap();
        in_the_middle += usize::from(!child.wait().unwrap().success());
        if dice.u8(0..4) == 0 {
            place.deliver_all();
            are_up(ask, &up);
        }
    }
    assert!(in_the_middle > 10, "only {in_the_middle} of 40 were killed in the middle");
    place.deliver_all();
    are_up(ask, &up);
    {
        let dir = Dir::open(journal).unwrap();
        let mut w = Writer::new(&dir, 1, std::process::id(), JournalSync::Os, 16 << 10);
        up.iter().for_each(|n| end(&mut w, &place.rules, &mut calls[*n]));
    }
    place.deliver_all();
    are_up(ask, &BTreeSet::new());
    assert_eq!(ask("SELECT count(*) FROM acc").trim(), "2000");
    assert_eq!(ask("SELECT count(DISTINCT callid) FROM acc").trim(), "2000");
}

fn are_up(ask: &dyn Fn(&str) -> String, up: &BTreeSet<usize>) {
    let there: BTreeSet<usize> = ask("SELECT callid FROM acc_calls").lines().filter_map(|l| l.trim().strip_prefix("call-")?.parse().ok()).collect();
    assert_eq!(&there, up);
}

#[test]
fn the_table_has_just_the_calls_that_are_up_in_sqlite() {
    let _alone = alone();
    let tmp = tempfile::tempdir().unwrap();
    let database = tmp.path().join("both.sqlite");
    elsewhere(&format!("sqlite://{}", database.display()), &|sql| sqlite(&database, sql).unwrap_or_default());
    let database = tmp.path().join("acc.sqlite");
    killed(&format!("sqlite://{}", database.display()), &tmp.path().join("journal"), &|sql| sqlite(&database, sql).unwrap_or_default());
}

#[test]
fn the_table_has_just_the_calls_that_are_up_in_mariadb() {
    let _alone = alone();
    let Some(server) = servers::mariadb() else { return };
    on_a_server(&format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", server.port), &server);
}

#[test]
fn the_table_has_just_the_calls_that_are_up_in_postgresql() {
    let _alone = alone();
    let Some(server) = servers::postgres() else { return };
    on_a_server(&format!("postgres://acc:{PASSWORD}@127.0.0.1:{}/postgres", server.port), &server);
}

/// Another server has written the CDRs of calls that this one has start and interim records of: it was down meanwhile, or
/// nobody could tell it. The table has none of these calls; but it has those that another server took for lost, whether it
/// has written their CDRs or kept them for a person to decide.
fn elsewhere(url: &str, ask: &dyn Fn(&str) -> String) {
    let journals = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let dirs = journals.each_ref().map(|tmp| Dir::open(tmp.path()).unwrap());
    let rules = config(Some(url), journals[0].path()).rules;
    let mut rank = 0;
    let mut deliver = |server: usize, records: &[Record]| {
        rank += 1;
        let dir = &dirs[server];
        append(&mut writer(dir, rank), records);
        let mut config = configured(config(Some(url), dir.path()));
        let db = config.db().unwrap().clone();
        config.destinations.set(SinkId::Db, Db { node: format!("proxy{server}").into(), ..db });
        let running = run(config, dir);
        wait_until("the end of the delivery", || segments(dir.path()) == 0);
        running.stop();
        ask("SELECT callid FROM acc_calls ORDER BY callid").split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    let calls: Vec<_> = (5000..5008).map(|n| answered(n, "db")).collect();
    assert_eq!(deliver(0, &decide::start(&rules, &calls[0])), ["call-5000"]);
    let cdrs = calls.iter().enumerate().flat_map(|(n, ctx)| {
        let mut ctx = ctx.clone();
        decide::on_end(&mut ctx, if n < 6 { EndCause::Caller } else { EndCause::Orphan }, clock());
        decide::cdr(&rules, &mut ctx).unwrap().records
    });
    let cdrs: Vec<_> = cdrs.collect();
    assert!(deliver(1, &cdrs).is_empty());
    let later = Moment { mono: clock().mono + 60_000_000, ..clock() };
    let up = |(n, ctx)| if n % 2 == 0 { decide::start(&rules, ctx) } else { decide::interim(&rules, ctx, Types::ALL, later) };
    assert_eq!(deliver(0, &calls.iter().enumerate().flat_map(up).collect::<Vec<_>>()), ["call-5006", "call-5007"]);
    // Kept back by the server that reports the call no more, and by the one that does.
    let withheld: Vec<_> = cdrs[6..].iter().filter_map(|cdr| decide::withheld(&rules, cdr)).collect();
    assert_eq!(deliver(1, &withheld), ["call-5006", "call-5007"]);
    assert_eq!(deliver(0, &withheld[..1]), ["call-5007"]);
    ask("DELETE FROM acc_calls");
    ask("DELETE FROM acc");
}

fn on_a_server(url: &str, server: &servers::Server) {
    let fields = ["--extra", "caller->caller_uri; note->x_note", "--leg", "src->leg_src; dst->leg_dst"];
    let made = accctl_command().args(["schema", "--apply", "--url", url]).args(fields).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    elsewhere(url, &|sql| server.sql(&format!("{sql};")));
    let tmp = tempfile::tempdir().unwrap();
    killed(url, &tmp.path().join("journal"), &|sql| server.sql(&format!("{sql};")));
}

/// The wrong backend of a record would be another sink's.
#[test]
fn every_record_is_for_the_backend_that_was_asked_for() {
    let rules = config(Some("sqlite:x"), Path::new("/nonexistent")).rules;
    let call = answered(1, "db|aaa|stream|diameter");
    let backends = |records: &[Record]| records.iter().map(|r| r.backend).collect::<BTreeSet<_>>();
    let want = BTreeSet::from([Backend::Db, Backend::Aaa, Backend::Stream, Backend::Diameter]);
    assert_eq!(backends(&decide::start(&rules, &call)), want);
    assert_eq!(backends(&decide::interim(&rules, &call, Types::one(Backend::Db).or(Types::one(Backend::Log)), clock())), BTreeSet::from([Backend::Db]));
    let ids: BTreeSet<_> = [60, 120].map(|s| decide::interim(&rules, &call, Types::ALL, Moment { mono: clock().mono + s * 1_000_000, ..clock() })[0].id).into();
    assert_eq!(ids.len(), 2);
}
