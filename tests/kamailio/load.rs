//! Many calls at a time through four workers: each record has the values of its own call. What is
//! due is what SIPp lists, call by call: a call that it gave up on a busy machine is not judged by
//! its being there, but by its values if it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::phones::Sipp;
use super::server::{Row, Server, get, port, skipped};

/// Two streams of calls at the same time.
struct Load {
    answered: Stream,
    refused: Stream,
    /// Length of an answered call.
    hold: Duration,
}

struct Stream {
    calls: usize,
    per_second: usize,
}

/// Plays the load, and checks every record of it; `meanwhile` runs every second.
fn play(server: &Server, name: &str, load: &Load, mut meanwhile: impl FnMut()) {
    // Messages of one call may overtake each other between the workers: a phone that gets one it
    // did not wait for waits on.
    let patient = ["-default_behaviors", "all,-abortunexp"];
    let (answering, refusing) = (port(), port());
    let _answering = Sipp::start(server, "callee", answering, &patient);
    let _refusing = Sipp::start(server, "callee_486", refusing, &patient);
    std::thread::sleep(Duration::from_millis(300));
    let target = format!("127.0.0.1:{}", server.port);
    let (calls, per_second, hold) = (|s: &Stream| s.calls.to_string(), |s: &Stream| s.per_second.to_string(), load.hold.as_millis().to_string());
    let start = |scenario, stream: &Stream, kind: &str, callee: u16| {
        let (user, id, list) = (format!("a{callee}"), format!("{name}{kind}-%u-%p@%s"), format!("{name}{kind}.list"));
        let arguments =
            [&target, "-s", &user, "-m", &calls(stream), "-r", &per_second(stream), "-d", &hold, "-cid_str", &id, "-trace_logs", "-log_file", &list];
        Sipp::start(server, scenario, port(), &[&arguments[..], &patient].concat())
    };
    let mut callers = [start("caller", &load.answered, "yes", answering), start("caller_refused", &load.refused, "no", refusing)];
    let longest = load.answered.calls / load.answered.per_second.max(1) * 3 + 300;
    let mut ended = [None; 2];
    for _ in 0..longest {
        for (caller, end) in callers.iter_mut().zip(&mut ended) {
            *end = end.or_else(|| caller.ended());
        }
        if ended.iter().all(Option::is_some) {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
        meanwhile();
    }
    if ended != [Some(true); 2] {
        eprintln!("SIPp gave up calls ({ended:?}): this machine is busy");
    }

    let list = |kind: &str| std::fs::read_to_string(server.dir.path().join(format!("{name}{kind}.list"))).unwrap_or_default();
    let listed = |kind: &str, what: &str| list(kind).lines().filter_map(|l| l.split_once(what)).map(|(_, id)| id.trim().to_string()).collect::<BTreeSet<_>>();
    let (answered, refused) = (listed("yes", "answered "), listed("no", "refused "));
    assert!(!answered.is_empty() && !refused.is_empty(), "SIPp made no call");
    if ended == [Some(true); 2] {
        assert_eq!((answered.len(), refused.len()), (load.answered.calls, load.refused.calls), "its lists are complete");
    }
    for (table, kind, code, due) in [("acc", "yes", "200", &answered), ("acc", "no", "486", &refused), ("missed_calls", "no", "486", &refused)] {
        // A call given up after its answer ends with the lifetime of its dialog.
        let rows = || server.rows(table, &format!("{name}{kind}-"));
        server.wait("the records", || rows().len() >= due.len());
        server.settle();
        let mut missing = due.clone();
        let mut seen = BTreeSet::new();
        for row in rows() {
            is_of_its_call(&row, code);
            missing.remove(&row["callid"]);
            assert!(seen.insert(row["callid"].clone()), "twice: {row:?}");
        }
        assert!(missing.is_empty(), "without their record in {table}: {missing:?}");
    }
    // The log says the same of every call.
    let lines: BTreeMap<String, _> = server.lines("call ended", &format!("{name}yes-")).into_iter().map(|l| (get(&l, "call_id").to_string(), l)).collect();
    for id in &answered {
        let line = lines.get(id).unwrap_or_else(|| panic!("{id} is not in the log"));
        is_of_its_call(
            &["callid", "caller", "callee", "agent", "from_tag"].map(|c| (c, get(line, if c == "callid" { "call_id" } else { c }).into())).into(),
            "",
        );
    }
    assert_eq!((server.status("panics"), server.status("db_dead")), (Some(0), Some(0)));
}

/// SIPp's n-th call: name-n-pid@..., caller n, a callee that ends with n, tag fpid-n, agent ua-pid-n.
fn is_of_its_call(row: &Row, code: &str) {
    let mut parts = row["callid"].split(['-', '@']);
    let (n, pid) = (parts.nth(1).unwrap(), parts.next().unwrap());
    assert_eq!(
        (row["caller"].as_str(), row["agent"].as_str(), row["from_tag"].as_str()),
        (format!("caller{n}").as_str(), format!("ua-{pid}-{n}").as_str(), format!("f{pid}-{n}").as_str()),
        "{row:?}"
    );
    assert!(row["callee"].ends_with(&format!("-{n}")), "{row:?}");
    assert!(code.is_empty() || row["sip_code"] == code, "{row:?}");
}

#[test]
fn four_workers_never_mix_calls() {
    if skipped() {
        return;
    }
    let server = Server::start(4, &[]);
    let idle = server.status("contexts_bytes").unwrap();
    let stream = || Stream { calls: 600, per_second: 40 };
    play(&server, "many", &Load { answered: stream(), refused: stream(), hold: Duration::from_millis(500) }, || {});
    server.wait("the end of all transactions", || server.status("contexts_bytes").unwrap() <= idle + 4096);
}

/// Bytes in use: shared memory of the server, private memory of its processes as the server counts
/// it and as the kernel does, contexts of the module.
#[derive(Debug)]
struct Memory {
    shared: u64,
    private: u64,
    contexts: u64,
    /// Of each process, by its number and description.
    anonymous: BTreeMap<String, u64>,
}

fn memory(server: &Server) -> Memory {
    let values = |text: &str, field: &str| text.lines().filter_map(|l| l.trim().strip_prefix(field).map(|v| v.trim().to_string())).collect::<Vec<_>>();
    let sum = |text: &str| values(text, "used:").iter().map(|v| v.parse::<u64>().unwrap()).sum();
    let private = server.rpc(&["pkg.stats"]);
    let of_kernel = |pid: &String| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        values(&status, "RssAnon:").first().and_then(|v| v.strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) << 10
    };
    let names = values(&private, "entry:").into_iter().zip(values(&private, "desc:")).map(|(n, what)| format!("{n} {what}"));
    // The server does not list what its processes fork themselves.
    let delivery = ("delivery process".to_string(), of_kernel(&server.delivery_process().unwrap().to_string()));
    Memory {
        shared: sum(&server.rpc(&["core.shmmem"])),
        private: sum(&private),
        contexts: server.status("contexts_bytes").unwrap(),
        anonymous: names.zip(values(&private, "pid:").iter().map(of_kernel)).chain([delivery]).collect(),
    }
}

#[test]
#[ignore = "takes a quarter of an hour: see CONTRIBUTING.md"]
fn a_hundred_thousand_calls() {
    assert!(!skipped(), "this test was asked for");
    let server = Server::start(4, &[]);
    let load = |answered, refused| Load {
        answered: Stream { calls: answered, per_second: 150 },
        refused: Stream { calls: refused, per_second: 35 },
        hold: Duration::from_secs(14),
    };
    let count = |what: &str| server.rpc(&["dlg.stats_active"]).lines().find_map(|l| l.trim().strip_prefix(what)?.parse::<u64>().ok()).unwrap_or(0);
    let at_rest = || {
        server.wait("the end of all dialogs", || count("all: ") == 0);
        // Transactions of the last calls wait for repeated messages.
        std::thread::sleep(Duration::from_secs(30));
        memory(&server)
    };
    let fresh = memory(&server);
    // The first calls fill the pools that server and module keep.
    play(&server, "first", &load(4500, 500), || {});
    let early = at_rest();
    let mut most = 0;
    play(&server, "second", &load(38_000, 9500), || most = most.max(count("ongoing: ")));
    let half = at_rest();
    play(&server, "third", &load(38_000, 9500), || most = most.max(count("ongoing: ")));
    let end = at_rest();
    eprintln!("most calls at a time: {most}");
    for (calls, memory) in [(0, &fresh), (5000, &early), (52_500, &half), (100_000, &end)] {
        eprintln!("after {calls} calls: {memory:?}");
    }
    assert!(most >= 2000, "{most}");
    let flat = |then: u64, now: u64, most: u64, what: &str| assert!(now <= then + most, "{what}: {then}, then {now}");
    flat(early.shared, end.shared, 64 << 10, "shared memory");
    flat(early.private, end.private, 64 << 10, "private memory");
    flat(early.contexts, end.contexts, 4 << 10, "contexts");
    // Pages of a pool that were in use once stay; what is held for each call would double here. The
    // delivery also counts the calls of the segments that are there, and SQLite fills its page cache.
    for (process, now) in &end.anonymous {
        flat(half.anonymous[process], *now, if process == "delivery process" { 4 << 20 } else { 1 << 20 }, process);
    }
}
