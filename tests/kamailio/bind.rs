//! What other modules find through `bind_acc`: `uac_redirect` accounts redirects with it, and accounting engines are refused.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::common::sqlite;
use super::server::{define, kamailio, port, root, skipped};
use super::wire::{Phone, Transport, header, reply};

fn has(modules: &[&str]) -> bool {
    let missing = modules.iter().find(|m| !Path::new("/usr/lib/x86_64-linux-gnu/kamailio/modules").join(m).is_file());
    if let Some(m) = missing {
        eprintln!("skipped: {m} is not installed");
    }
    missing.is_none()
}

/// As Debian's Kamailio has them, with the column of `db_extra`. Its own module has NULL where a tag or a code is missing.
fn tables(file: &Path) {
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} (id INTEGER PRIMARY KEY NOT NULL, method VARCHAR(16) DEFAULT '' NOT NULL, from_tag VARCHAR(128) DEFAULT '' NOT NULL,
             to_tag VARCHAR(128), callid VARCHAR(255) DEFAULT '' NOT NULL, sip_code VARCHAR(3),
             sip_reason VARCHAR(128) DEFAULT '' NOT NULL, time TIMESTAMP NOT NULL, target VARCHAR(64));"
        )
    };
    let version = "CREATE TABLE version (table_name VARCHAR(32) NOT NULL, table_version INTEGER DEFAULT 0 NOT NULL);
        INSERT INTO version VALUES ('acc', 5), ('missed_calls', 4), ('redirects', 5);";
    let all = ["acc", "missed_calls", "redirects"].map(table).concat();
    assert!(Command::new("sqlite3").arg(file).arg(all + version).status().unwrap().success());
}

/// A call is redirected to two others, of whom the second answers: its records, as lines without their times, and as rows.
fn records(function: Option<&str>, with: &str) -> (Vec<String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("acc.sqlite");
    tables(&database);
    let server = port();
    let [mut caller, mut first, mut one, mut two] = std::array::from_fn(|_| Phone::new(Transport::Udp, server));
    let mut more = vec![define("DB_URL", format_args!("sqlite:///{}", database.display())), define(with, "")];
    more.extend(function.map(|f| define("ACC_FUNCTION", f)));
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let mut command = kamailio(&root().join("tests/kamailio/redirects.cfg"), dir.path(), server, 1, &more);
    let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let read = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let begin = Instant::now();
        while !done() {
            assert!(begin.elapsed() < Duration::from_secs(60), "{what} took too long: {}", read());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let socket = format!("unix:{}", dir.path().join("ctl").display());
    let answers = || Command::new("kamcmd").args(["-s", &socket, "core.version"]).output().is_ok_and(|o| o.status.success());
    wait("the start", &answers);

    let say = |phone: &mut Phone, method: &str, cseq: u32, uri: &str, tag: &str| {
        let port = phone.port;
        phone.send(&format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{method}\r\nFrom: <sip:alice@127.0.0.1>;tag=from\r\n\
             To: <sip:bob@127.0.0.1>{tag}\r\nCall-ID: redirected\r\nCSeq: {cseq} {method}\r\nContact: <sip:alice@127.0.0.1:{port}>\r\nMax-Forwards: 70\r\n\
             Content-Length: 0\r\n\r\n"
        ));
    };
    say(&mut caller, "INVITE", 1, &format!("sip:a{}@127.0.0.1", first.port), "");
    let invite = first.wait(&["INVITE"], "INVITE");
    let contacts = format!("<sip:one@127.0.0.1:{}>;q=0.5, <sip:two@127.0.0.1:{}>;q=0.9", one.port, two.port);
    first.send(&reply(&invite, "302 Moved Temporarily", "t-first", "here").replace("<here>", &contacts));
    first.wait(&["ACK"], "ACK");
    let (to_one, to_two) = (one.wait(&["INVITE"], "INVITE"), two.wait(&["INVITE"], "INVITE"));
    one.send(&reply(&to_one, "486 Busy Here", "t-one", "sip:one@127.0.0.1"));
    one.wait(&["ACK"], "ACK");
    let there = format!("sip:two@127.0.0.1:{}", two.port);
    two.send(&reply(&to_two, "200 OK", "t-two", &there));
    let answer = caller.wait(&["SIP/2.0 200"], "INVITE");
    assert_eq!(header(&answer, "Contact"), format!("<{there}>"), "the call is with the new contact");
    say(&mut caller, "ACK", 1, &there, ";tag=t-two");
    two.wait(&["ACK"], "ACK");
    say(&mut caller, "BYE", 2, &there, ";tag=t-two");
    let bye = two.wait(&["BYE"], "BYE");
    two.send(&reply(&bye, "200 OK", "t-two", &there));
    caller.wait(&["SIP/2.0 200"], "BYE");
    // Records are made behind the answer, by the one process that there is.
    say(&mut caller, "OPTIONS", 3, "sip:127.0.0.1", "");
    caller.wait(&["SIP/2.0 200"], "OPTIONS");
    // An orderly end delivers what is in the journal.
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    assert!(child.wait().unwrap().success(), "{}", read());

    let named = |text: &str| {
        let phones = [(&first, "FIRST"), (&one, "ONE"), (&two, "TWO")];
        phones.iter().fold(text.to_string(), |t, (phone, name)| t.replace(&phone.port.to_string(), name))
    };
    let lines = read();
    let lines = lines.lines().filter_map(|l| l.split_once("ACC: ")).map(|(_, l)| {
        let stable: Vec<_> = l.split(';').filter(|pair| !pair.contains("timestamp=")).collect();
        format!("{}: {}", l.split(':').next().unwrap_or_default(), named(&stable.join(";")))
    });
    let columns = "method, from_tag, coalesce(to_tag, ''), callid, coalesce(sip_code, ''), sip_reason, target, time > '2020'";
    let rows = ["acc", "redirects"].map(|t| format!("SELECT '{t}', {columns} FROM (SELECT * FROM {t} ORDER BY id)")).join(" UNION ALL ");
    let rows = sqlite(&database, &rows).unwrap();
    (lines.collect(), rows.lines().map(|r| named(&r.replace('\t', " "))).collect())
}

#[test]
fn redirects_are_accounted_as_by_kamailios_own_module() {
    if skipped() || !has(&["uac_redirect.so", "acc.so", "db_sqlite.so"]) {
        return;
    }
    // As `uac_redirect` hands them over: `$ru` is the contact's, `$rU` that of the first one.
    let redirected = |user: &str, name: &str| {
        format!(
            "request accounted: method=INVITE;from_tag=from;to_tag=;call_id=redirected;code=;reason=Redirected;who=alice;target=sip:{user}@127.0.0.1:{name};user=one"
        )
    };
    let answered = |method: &str| {
        format!(
            "transaction answered: method={method};from_tag=from;to_tag=t-two;call_id=redirected;code=200;reason=OK;who=alice;target=sip:two@127.0.0.1:TWO;user=two"
        )
    };
    let missed = "call missed: method=INVITE;from_tag=from;to_tag=t-first;call_id=redirected;code=302;reason=Moved Temporarily;who=alice;\
                  target=sip:aFIRST@127.0.0.1:FIRST;user=aFIRST";
    let redirects = [redirected("one", "ONE"), redirected("two", "TWO")];
    let around = ([missed.to_string()], [answered("INVITE"), answered("BYE")]);
    let rows = ["INVITE", "BYE"].map(|method| format!("acc {method} from t-two redirected 200 OK sip:two@127.0.0.1:TWO 1"));
    let more_rows = [("one", "ONE"), ("two", "TWO")].map(|(user, name)| format!("redirects INVITE from  redirected  Redirected sip:{user}@127.0.0.1:{name} 1"));
    for function in [None, Some("acc_log_request"), Some("acc_request"), Some("acc_db_request")] {
        let expected = if function == Some("acc_db_request") {
            ([&around.0[..], &around.1].concat(), [&rows[..], &more_rows].concat())
        } else {
            ([&around.0[..], &redirects, &around.1].concat(), rows.to_vec())
        };
        assert_eq!(records(function, "OURS"), expected, "{function:?}");
        assert_eq!(records(function, "OF_KAMAILIO"), expected, "{function:?}, Kamailio's own module");
    }
}

/// They end the start, with a line that says what to do.
#[test]
fn accounting_engines_of_other_modules_are_refused() {
    if skipped() || !has(&["acc_radius.so", "acc_diameter.so"]) {
        return;
    }
    let lines = r#"
debug=2
log_stderror=yes
listen=LISTEN
children=CHILDREN
disable_tcp=yes
loadmodule "tm.so"
loadmodule "pv.so"
loadmodule ACC_MODULE
modparam("acc", "journal_dir", JOURNAL)
request_route { exit; }
"#;
    let dir = tempfile::tempdir().unwrap();
    for (engine, function) in [
        ("loadmodule \"acc_radius.so\"\nmodparam(\"acc_radius\", \"radius_config\", \"/etc/hosts\")\n", "register_engine"),
        (
            "loadmodule \"acc_radius.so\"\nmodparam(\"acc_radius\", \"radius_config\", \"/etc/hosts\")\nmodparam(\"acc_radius\", \"radius_extra\", \"A=$fU\")\n",
            "parse_extra",
        ),
        ("loadmodule \"acc_diameter.so\"\n", "register_engine"),
        ("loadmodule \"acc_diameter.so\"\nmodparam(\"acc_diameter\", \"diameter_extra\", \"7846=$fU\")\n", "parse_extra"),
    ] {
        let file = dir.path().join("config");
        fs::write(&file, lines.replace("request_route", &format!("{engine}request_route"))).unwrap();
        let server = kamailio(&file, dir.path(), port(), 1, &[]);
        let mut command = Command::new("timeout");
        command.env("PATH", "/usr/sbin:/usr/bin:/bin").args(["-k", "10", "20"]).arg(server.get_program()).args(server.get_args());
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        // Neither ended by a signal, nor by timeout.
        assert!(out.status.code().is_some_and(|c| ![0, 124, 134, 137, 139].contains(&c)), "{engine}: {:?}: {said}", out.status);
        let cure = format!("{function}(): a module asks to account through this acc.so, which does not allow that: instead of acc_radius.so");
        assert_eq!(said.matches(&cure).count(), 1, "{engine}: {said}");
    }
}
