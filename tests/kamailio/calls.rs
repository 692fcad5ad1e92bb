//! What is recorded of each kind of call, and where.

use super::common::freeradius::{FreeRadius, SECRET};
use super::phones::{Call, begin, call, play};
use super::server::{Database, Server, define, get, row_of, skipped, summary};

#[test]
fn every_kind_of_call_has_its_records() {
    if skipped() {
        return;
    }
    let server = Server::start(4, &[]);
    let ports = play(
        &server,
        vec![
            call("answered", "a", "caller", &["callee"]),
            call("calleebye", "a", "caller_waits", &["callee_hangs_up"]),
            call("busy", "a", "caller_refused", &["callee_486"]),
            call("notfound", "a", "caller_refused", &["callee_404"]),
            call("cancelled", "c", "caller_cancels", &["callee_rings"]),
            call("timeout", "t", "caller_refused", &[""]),
            call("serial", "s", "caller", &["callee_486", "callee"]),
            call("serialbusy", "s", "caller_refused", &["callee_486", "callee_404"]),
            call("parallel", "f", "caller", &["callee_486", "callee"]),
            call("reinvite", "a", "caller_reinvites", &["callee_reinvited"]),
            call("message", "a", "caller_message", &["callee_message"]),
            call("events", "e", "caller", &["callee"]),
            call("eventbusy", "e", "caller_refused", &["callee_486"]),
            call("early", "w", "caller", &["callee_early"]),
            call("asis", "w", "caller_waits", &["callee_hangs_up"]),
            call("ownbye", "d", "caller", &["callee"]),
            call("noted", "a", "caller_notes", &["callee"]),
            call("overtaken", "h", "caller", &["callee"]),
            call("otherleg", "a", "caller_drops_leg", &["callee_twice"]),
            call("again", "a", "caller_again", &["callee_407"]),
            call("ringing", "k", "caller", &["callee"]),
        ],
    );

    for (call, expected) in [
        ("answered", "call ended 200, acc 200 cdr"),
        ("calleebye", "call ended 200, acc 200 cdr"),
        ("busy", "call missed 486, transaction answered 486, missed_calls 486, acc 486"),
        ("notfound", "call missed 404, transaction answered 404, missed_calls 404, acc 404"),
        ("cancelled", "call missed 487, transaction answered 487, missed_calls 487, acc 487"),
        ("timeout", "call missed 408, transaction answered 408, missed_calls 408, acc 408"),
        ("serial-", "call missed 486, call ended 200, missed_calls 486, acc 200 cdr, acc 200 cdr"),
        ("serialbusy", "call missed 486, call missed 404, transaction answered 404, missed_calls 404, missed_calls 404, missed_calls 486, acc 404, acc 404"),
        ("parallel", "call ended 200, acc 200 cdr"),
        ("reinvite", "call ended 200, acc 200 cdr"),
        ("message", "request accounted 100, transaction answered 200, acc 200"),
        ("early", "transaction answered 200, transaction answered 200, acc 200, acc 200"),
        // D13: the log has the call's CDR, so only SQL gets a record of the BYE.
        ("ownbye", "call ended 200, acc 200"),
        ("noted", "call ended 200, acc 200 cdr"),
        ("overtaken", "call ended 200, acc 200 cdr"),
        ("otherleg", "call ended 200, acc 200 cdr"),
        ("again", "call missed 407, transaction answered 407, call ended 200, missed_calls 407, acc 200 cdr, acc 407"),
        ("ringing", "call ended 200, acc 200 cdr"),
    ] {
        assert_eq!(summary(&server, call), expected, "{call}");
    }

    // Field by field: the log line and the rows say the same, and what the call was.
    for (call, ended_by, end_side) in [
        ("answered", "caller1", "caller"),
        ("calleebye", "called user", "callee"),
        ("serial-", "caller1", "caller"),
        ("parallel", "caller1", "caller"),
        ("reinvite", "caller1", "caller"),
        ("overtaken", "caller1", "caller"),
        ("otherleg", "caller1", "caller"),
        ("ringing", "caller1", "caller"),
    ] {
        let line = &server.lines("call ended", call)[0];
        let targets = &ports[call.trim_end_matches('-')];
        let user = targets.iter().fold(
            if call == "serial-" {
                "s"
            } else if call == "parallel" {
                "f"
            } else if call == "overtaken" {
                "h"
            } else if call == "ringing" {
                "k"
            } else {
                "a"
            }
            .to_string(),
            |u, p| u + &p.to_string(),
        );
        assert_eq!(get(line, "method"), "INVITE");
        assert!(get(line, "from_tag").starts_with('f') && get(line, "to_tag").starts_with('t'), "{line:?}");
        assert_eq!((get(line, "reason"), get(line, "caller"), get(line, "answered_by")), ("OK", "caller1", "200"), "{call}");
        assert_eq!(get(line, "callee"), format!("{user}-1"), "{call}");
        assert_eq!(get(line, "agent"), get(line, "from_tag").replacen('f', "ua-", 1), "{call}");
        assert_eq!(get(line, "ended_by"), if ended_by == "called user" { &user } else { ended_by }, "{call}: set on the BYE");
        assert_eq!((get(line, "end_cause"), get(line, "end_side")), ("bye", end_side), "{call}");
        let attempts = if ["serial-", "parallel"].contains(&call) { "2" } else { "1" };
        assert_eq!(get(line, "attempts"), attempts, "{call}");
        // The callee rings for a tenth of a second.
        let ms = |name| get(line, name).parse::<i64>().unwrap_or_else(|_| panic!("{call}: {name} of {line:?}"));
        assert!((0..5000).contains(&ms("pdd_ms")) && (50..5000).contains(&ms("ring_ms")), "{call}: {line:?}");
        assert!((ms("pdd_ms") + ms("ring_ms")) / 1000 == ms("setuptime"), "{call}: {line:?}");
        let duration: i64 = get(line, "ms_duration").parse().unwrap();
        assert!((1000..6000).contains(&duration), "{call}: {duration}");
        assert_eq!(get(line, "duration"), ((duration + 999) / 1000).to_string(), "{call}");
        let legs: Vec<_> = line.iter().filter(|(k, _)| k == "target").map(|(_, v)| v.clone()).collect();
        let due = if call == "serial-" { &targets[..] } else { &targets[..1] };
        assert_eq!(legs, due.iter().map(u16::to_string).collect::<Vec<_>>(), "{call}");
        let rows: Vec<_> = (0..legs.len()).map(|leg| row_of(line, leg, false)).collect();
        assert_eq!(server.rows("acc", call), rows, "{call}: one row for each leg");
    }
    // Why: as the BYE, or the reply that was passed on, says.
    let why = |table: &str, call: &str| server.ask(&format!("SELECT DISTINCT end_reason FROM {table} WHERE callid LIKE '{call}-%'")).trim().to_string();
    assert_eq!(why("acc", "answered"), "Q.850;cause=16");
    for table in ["acc", "missed_calls"] {
        assert_eq!((why(table, "busy"), why(table, "notfound")), ("Q.850;cause=17;text=\"User busy\"".into(), "NULL".into()));
    }
    for call in ["busy", "notfound", "cancelled", "timeout"] {
        assert_eq!(server.rows("missed_calls", call), [row_of(&server.lines("call missed", call)[0], 0, true)], "{call}");
        assert_eq!(server.rows("acc", call), [row_of(&server.lines("transaction answered", call)[0], 0, false)], "{call}");
    }
    let busy = &server.lines("call missed", "busy")[0];
    assert_eq!((get(busy, "reason"), get(busy, "answered_by")), ("Busy Here", ""));
    assert!(get(busy, "to_tag").starts_with('t'), "the reply's: {busy:?}");
    let timeout = &server.lines("call missed", "timeout")[0];
    assert_eq!((get(timeout, "reason"), get(timeout, "to_tag")), ("Request Timeout", ""), "made by the server itself");
    assert_eq!(get(&server.lines("request accounted", "message")[0], "reason"), "MESSAGE of caller1");

    // Without detect_direction the tags stand as in the request.
    let bye = &server.lines("transaction answered", "asis")[1];
    assert_eq!(get(bye, "method"), "BYE");
    assert!(get(bye, "from_tag").starts_with('t') && get(bye, "to_tag").starts_with('f'), "{bye:?}");
    // The BYE's own record has its own core values, and the call's extra values.
    let (cdr, bye) = (&server.lines("call ended", "ownbye")[0], &server.rows("acc", "ownbye")[0]);
    assert_eq!((bye["method"].as_str(), bye["caller"].as_str(), bye["ended_by"].as_str()), ("BYE", "caller1", "caller1"));
    assert_eq!((bye["from_tag"].as_str(), bye["to_tag"].as_str()), (get(cdr, "from_tag"), get(cdr, "to_tag")));
    assert_eq!((get(cdr, "method"), get(cdr, "ended_by")), ("INVITE", "caller1"));
    // What the script did with the call's context is in the CDR, and the message has its own again.
    let (cdr, note) = (&server.lines("call ended", "noted")[0], &server.lines("request accounted", "note")[0]);
    assert_eq!((get(cdr, "caller"), get(cdr, "answered_by")), ("caller1", "noted"));
    assert!(get(note, "call_id").ends_with(get(cdr, "call_id")), "{note:?}");
    assert_eq!((get(note, "method"), get(note, "reason")), ("MESSAGE", "caller1"), "read while the call's was loaded");
    assert_eq!((get(note, "caller"), get(note, "answered_by")), ("note", ""));

    let log = server.log();
    let event = log.lines().find(|l| l.contains("EVENT cdr callid=events-")).unwrap_or_else(|| panic!("no event"));
    assert!(event.contains(";caller=caller1;agent=ua-") && event.contains(";none=<null>") && !event.contains("duration=<null>"), "{event}");
    assert!(log.lines().any(|l| l.contains("EVENT missed callid=eventbusy-") && l.contains("code=486")));
    assert_eq!(server.status("panics"), Some(0));
    assert_eq!(server.status("evi_raised"), Some(2));
    // The two calls in vain of the message's route are the only errors of ours. dlg_bye() had no call to end.
    let is_error = |l: &&str| l.contains("CRITICAL") || l.contains("ERROR:");
    let (errors, of_dialog): (Vec<_>, Vec<_>) = log.lines().filter(is_error).partition(|l| !l.contains("ERROR: dialog "));
    assert!(of_dialog.len() == 2 && of_dialog.iter().all(|l| l.contains("terminating non-confirmed dialogs not supported")), "{of_dialog:?}");
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("no context is loaded") && errors[1].contains("a context is loaded already"), "{errors:?}");
    assert!(log.contains("set the parameter report_cancels to 1"), "a CANCEL was marked");
}

/// The dialog module runs its route with a message of its own.
#[test]
fn the_route_of_a_lifetime_has_the_call() {
    if skipped() {
        return;
    }
    let server = Server::start(2, &[define("SHORT_LIVES", "")]);
    let (_callee, _caller) = begin(&server, "expired");
    server.wait("the CDR", || server.rows("acc", "expired").len() == 1);
    let line = &server.lines("call ended", "expired")[0];
    assert_eq!((get(line, "end_cause"), get(line, "end_side"), get(line, "ended_by")), ("timeout", "proxy", "the lifetime, after 200"));
}

#[test]
fn options_change_what_is_recorded() {
    if skipped() {
        return;
    }
    let server = Server::start(4, &[define("OPTIONS", "")]);
    play(
        &server,
        vec![
            call("early", "w", "caller", &["callee_early"]),
            call("turned", "w", "caller_waits", &["callee_hangs_up"]),
            call("cancelled", "c", "caller_cancels", &["callee_rings"]),
        ],
    );
    for (call, expected) in [
        ("early", "transaction answered 183, transaction answered 200, transaction answered 200, acc 183, acc 200, acc 200"),
        ("turned", "transaction answered 200, transaction answered 200, acc 200, acc 200"),
        ("cancelled", "call missed 487, transaction answered 200, transaction answered 487, missed_calls 487, acc 200, acc 487"),
    ] {
        // CANCEL and INVITE are answered by two processes, in either order.
        let sorted = |text: &str| {
            let mut records: Vec<_> = text.split(", ").map(str::to_owned).collect();
            records.sort();
            records
        };
        assert_eq!(sorted(&summary(&server, call)), sorted(expected), "{call}");
    }
    let early = &server.lines("transaction answered", "early")[0];
    assert_eq!((get(early, "method"), get(early, "reason")), ("INVITE", "Session Progress"));
    for record in server.lines("transaction answered", "turned") {
        assert!(get(&record, "from_tag").starts_with('f') && get(&record, "to_tag").starts_with('t'), "as in the initial request: {record:?}");
    }
    assert_eq!(get(&server.lines("transaction answered", "turned")[1], "method"), "BYE");
    let answered = server.lines("transaction answered", "cancelled");
    let cancel = answered.iter().find(|l| get(l, "method") == "CANCEL").expect("a transaction of its own");
    assert_eq!((get(cancel, "to_tag"), get(cancel, "caller")), ("", ""));
    for call in ["early", "turned", "cancelled"] {
        let mut rows: Vec<_> = server.lines("transaction answered", call).iter().map(|l| row_of(l, 0, false)).collect();
        rows.sort_by_key(|r| r["sip_code"].clone());
        let mut stored = server.rows("acc", call);
        // A record without legs has no target.
        for r in rows.iter_mut().chain(&mut stored).filter(|r| r["method"] == "CANCEL") {
            r.remove("target");
        }
        assert_eq!(stored, rows, "{call}");
    }
    assert!(!server.log().contains(" ERROR:"), "{}", server.log());
}

/// Calls of every kind of record.
fn some_calls() -> Vec<Call> {
    vec![
        call("answered", "a", "caller", &["callee"]),
        call("serial", "s", "caller", &["callee_486", "callee"]),
        call("busy", "a", "caller_refused", &["callee_486"]),
    ]
}

/// The rows of a private database, each like its log line.
fn rows_are_like_lines(server: &Server) {
    play(server, some_calls());
    assert_eq!(summary(server, "answered"), "call ended 200, acc 200 cdr");
    assert_eq!(summary(server, "serial"), "call missed 486, call ended 200, missed_calls 486, acc 200 cdr, acc 200 cdr");
    assert_eq!(summary(server, "busy"), "call missed 486, transaction answered 486, missed_calls 486, acc 486");
    let (cdr, busy) = (&server.lines("call ended", "answered")[0], "busy");
    assert_eq!((get(cdr, "caller"), get(cdr, "end_cause"), get(cdr, "end_side")), ("caller1", "bye", "caller"));
    assert_eq!(server.rows("acc", "answered"), [row_of(cdr, 0, false)]);
    let serial = &server.lines("call ended", "serial")[0];
    assert_eq!(server.rows("acc", "serial"), [row_of(serial, 0, false), row_of(serial, 1, false)]);
    assert_eq!(server.rows("missed_calls", "serial"), [row_of(&server.lines("call missed", "serial")[0], 0, true)]);
    assert_eq!(server.rows("acc", busy), [row_of(&server.lines("transaction answered", busy)[0], 0, false)]);
    assert_eq!(server.rows("missed_calls", busy), [row_of(&server.lines("call missed", busy)[0], 0, true)]);
    assert_eq!((server.status("db_dead"), server.status("panics")), (Some(0), Some(0)));
}

#[test]
fn mariadb_has_every_record() {
    if skipped() {
        return;
    }
    let Some(database) = Database::mariadb() else { return eprintln!("skipped: MariaDB is not installed") };
    rows_are_like_lines(&Server::start_with(database, 4, &[]));
}

#[test]
fn postgresql_has_every_record() {
    if skipped() {
        return;
    }
    let Some(database) = Database::postgres() else { return eprintln!("skipped: PostgreSQL is not installed") };
    rows_are_like_lines(&Server::start_with(database, 4, &[]));
}

/// Attributes of the fields that the configuration declares for RADIUS.
const DICTIONARY: &str = "ATTRIBUTE Acc-Caller 240 string\nATTRIBUTE Acc-Callee 241 string\nATTRIBUTE Acc-Agent 242 string\n\
    ATTRIBUTE Acc-Ended-By 243 string\nATTRIBUTE Acc-Target 244 string\n";

/// The attributes that belong to a log line.
fn attributes_of(line: &[(String, String)], status: &str) -> Vec<String> {
    let is_cdr = get(line, "call_start_time") != "(absent)";
    let time = chrono::DateTime::from_timestamp(get(line, if is_cdr { "call_start_time" } else { "timestamp" }).parse().unwrap(), 0).unwrap();
    let text = |name: &str, pair: &str| Some(get(line, pair)).filter(|v| !v.is_empty()).map(|v| format!("{name} = \"{v}\""));
    let number = |name: &str, pair: &str| Some(format!("{name} = {}", get(line, pair)));
    let of_call = |a| if is_cdr { a } else { None };
    let own = ["NAS-Port = 5060".into(), "Acct-Delay-Time = 0".into(), "NAS-IP-Address = 127.0.0.1".into()];
    [
        Some(format!("Acct-Status-Type = {status}")),
        Some("Service-Type = Sip-Session".into()),
        number("Sip-Response-Code", "code"),
        number("Sip-Method", "method"),
        Some(format!("Event-Timestamp = \"{}\"", time.format("%b %e %Y %H:%M:%S UTC"))),
        text("Sip-From-Tag", "from_tag"),
        text("Sip-To-Tag", "to_tag"),
        text("Acct-Session-Id", "call_id"),
        of_call(number("Sip-Call-Duration", "duration")),
        number("Sip-Call-Setuptime", "setuptime"),
        number("Sip-Call-Created", "created"),
        of_call(number("Sip-Call-MSDuration", "ms_duration")),
        text("Acc-Caller", "caller"),
        text("Acc-Callee", "callee"),
        text("Acc-Agent", "agent"),
        text("Acc-Ended-By", "ended_by"),
    ]
    .into_iter()
    .flatten()
    .chain(line.iter().filter(|(k, _)| k == "target").map(|(_, v)| format!("Acc-Target = \"{v}\"")))
    .chain(own)
    .collect()
}

#[test]
fn freeradius_has_every_record() {
    if skipped() {
        return;
    }
    let Some(radius) = FreeRadius::start(DICTIONARY, "") else { return };
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("client.conf");
    std::fs::write(dir.path().join("dictionary"), DICTIONARY).unwrap();
    std::fs::write(&conf, format!("{}dictionary dictionary\nradius_timeout 1\nradius_retries 2\n", radius.line(SECRET))).unwrap();
    let more = [define("AAA_URL", format_args!("radius:{}", conf.display())), define("TYPES", "log|db|aaa")];
    let server = Server::start(4, &more);
    play(&server, some_calls());

    let mut due = Vec::new();
    for (call, kind, status) in [
        ("answered", "call ended", "Stop"),
        ("serial", "call missed", "Failed"),
        ("serial", "call ended", "Stop"),
        ("busy", "call missed", "Failed"),
        ("busy", "transaction answered", "Failed"),
    ] {
        let lines = server.lines(kind, call);
        assert_eq!(lines.len(), 1, "{call} {kind}");
        due.push(attributes_of(&lines[0], status));
    }
    let mut stored = radius.entries();
    // A server that began slowly may have let the first record wait.
    for line in stored.iter_mut().flatten().filter(|l| l.starts_with("Acct-Delay-Time = ")) {
        *line = "Acct-Delay-Time = 0".into();
    }
    due.sort();
    stored.sort();
    // A missed call and its failed transaction look alike, and a packet whose answer was late is stored once more.
    assert!(stored.len() >= due.len(), "{} of {}", stored.len(), due.len());
    due.dedup();
    stored.dedup();
    assert_eq!(stored, due);
    assert_eq!((server.status("aaa_dead"), server.status("panics")), (Some(0), Some(0)));
}

#[test]
fn a_database_of_the_servers_own_modules_gets_the_rows() {
    if skipped() {
        return;
    }
    if !std::fs::read_dir("/usr/lib").unwrap().flatten().any(|d| d.path().join("kamailio/modules/db_text.so").is_file()) {
        eprintln!("skipped: Kamailio's db_text is not installed");
        return;
    }
    let text = tempfile::tempdir().unwrap();
    let core = ["method", "from_tag", "to_tag", "callid", "sip_code", "sip_reason"].map(|c| format!("{c}(string)")).join(" ");
    let fields = ["caller", "callee", "agent", "answered_by", "ended_by", "end_cause", "end_side", "attempts", "pdd_ms", "ring_ms", "end_reason", "target"]
        .map(|c| format!("{c}(string)"))
        .join(" ");
    let head = format!("id(int,auto) {core} time(int) {fields} setuptime(int) created(int)");
    std::fs::write(text.path().join("acc"), format!("{head} duration(int) ms_duration(int)\n")).unwrap();
    std::fs::write(text.path().join("missed_calls"), format!("{head}\n")).unwrap();
    let mut server = Server::start(2, &[define("TEXT_DB", format_args!("text://{}", text.path().display()))]);
    play(&server, vec![call("answered", "a", "caller", &["callee"]), call("busy", "a", "caller_refused", &["callee_486"])]);
    // Only then the module writes its files.
    server.stop();
    let rows = |table: &str| -> Vec<Vec<String>> {
        let file = std::fs::read_to_string(text.path().join(table)).unwrap();
        file.lines().skip(1).map(|l| l.replace("\\:", " ").split(':').map(str::to_string).collect()).collect()
    };
    let (acc, missed) = (rows("acc"), rows("missed_calls"));
    assert_eq!((acc.len(), missed.len()), (2, 1), "{acc:?} {missed:?}");
    let cdr = acc.iter().find(|r| r[5] == "200").unwrap();
    assert!(cdr[4].starts_with("answered-") && cdr[6] == "OK" && cdr[8] == "caller1" && cdr[13] == "bye", "{cdr:?}");
    let line = &server.lines("call ended", "answered")[0];
    assert_eq!((cdr[7].as_str(), cdr[21].as_str(), cdr[23].as_str()), (get(line, "call_start_time"), get(line, "created"), get(line, "ms_duration")));
    assert!(missed[0][4].starts_with("busy-") && missed[0][5] == "486", "{missed:?}");
}
