//! What `accctl convert` makes of a configuration with message flags leaves the same records on the real server.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::flags::{Callee, play};
use super::server::{Database, Server, define, get, port, root, skipped};

/// Converts a configuration in its place; what accctl leaves to a person.
pub fn convert(file: &Path, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).arg("convert").args(args).arg(file).output().unwrap();
    assert!(out.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&out.stderr));
    let diff = String::from_utf8(out.stdout).unwrap();
    let mut patch = Command::new("patch").arg("--quiet").arg(file).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut patch.stdin.take().unwrap(), diff.as_bytes()).unwrap();
    assert!(patch.wait().unwrap().success(), "{diff}");
    diff.lines().filter(|line| line.starts_with("# ")).collect::<Vec<_>>().join("\n")
}

const EXTRAS: &str = "src_user; dst_user; src_ip";
const CDRS: &str = "CREATE TABLE acc_cdrs (id INTEGER PRIMARY KEY NOT NULL, start_time TIMESTAMP NOT NULL, end_time TIMESTAMP NOT NULL, duration REAL NOT NULL, \
                    caller VARCHAR(64), callee VARCHAR(64));";

/// What a call that is answered and one that is refused leave: lines, rows and CDRs.
fn records(config: &Path) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("acc.sqlite");
    let url = format!("sqlite:///{}", database.display());
    let made = Command::new(env!("CARGO_BIN_EXE_accctl")).args(["schema", "--apply", "--url", &url, "--extra", EXTRAS]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(Command::new("sqlite3").arg(&database).arg(CDRS).status().unwrap().success());
    let callee = Callee::start();
    let more = [define("CALLEE", format_args!("sip:127.0.0.1:{}", callee.port))];
    let mut server = Server::start_config(config.to_str().unwrap(), dir, Database::Sqlite, port(), 2, &more);
    play(server.port, &["a1".to_string(), "b2".into()], 1);
    server.settle();
    let mut all = Vec::new();
    for kind in ["transaction answered", "call missed", "request accounted"] {
        for call in ["a1", "b2"] {
            for line in server.lines(kind, call) {
                let names = ["method", "from_tag", "to_tag", "call_id", "code", "reason", "src_user", "dst_user", "src_ip", "agent"];
                all.push(format!("{kind}: {}", names.map(|name| get(&line, name)).join(" ")));
            }
        }
    }
    for table in ["acc", "missed_calls"] {
        let core = "method, from_tag, to_tag, callid, sip_code, sip_reason, src_user, dst_user, src_ip";
        all.extend(server.ask(&format!("SELECT '{table}', {core} FROM {table} ORDER BY callid, method")).lines().map(str::to_string));
    }
    // A refused call has a CDR without a duration.
    server.wait("CDRs", || server.ask("SELECT count(*) FROM acc_cdrs").trim() == "2");
    all.extend(server.ask("SELECT 'acc_cdrs', caller, callee, duration > 0 FROM acc_cdrs ORDER BY callee").lines().map(str::to_string));
    server.stop();
    all
}

#[test]
fn flags_and_what_they_are_converted_to_have_the_same_records() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("kamailio.cfg");
    // The callee of these tests says who it is in another header.
    let text = fs::read_to_string(root().join("examples/kamailio-flags.cfg")).unwrap().replace("$hdr(User-Agent)", "$hdr(Server)");
    let text = text.replace("children=CHILDREN", "debug=2\nlog_stderror=yes\nchildren=CHILDREN");
    fs::write(&config, text).unwrap();
    let by_flags = records(&config);
    let left = convert(&config, &["-D", "ACC_MODULE=\"/usr/lib/opensips-acc/acc.so\""]);
    assert_eq!(left.lines().count(), 2, "{left}");
    let text = fs::read_to_string(&config).unwrap();
    assert!(!text.contains("setflag") && !text.contains("log_extra"), "{text}");
    assert_eq!(records(&config), by_flags);
    assert_eq!(
        by_flags,
        [
            "transaction answered: INVITE from-a1 callee a1 200 OK caller a1 127.0.0.1 a1",
            "transaction answered: BYE from-a1 callee a1 200 OK caller callee 127.0.0.1 ",
            "call missed: INVITE from-b2 callee b2 486 Busy Here caller b2 127.0.0.1 b2",
            "acc\tBYE\tfrom-a1\tcallee\ta1\t200\tOK\tcaller\tcallee\t127.0.0.1",
            "acc\tINVITE\tfrom-a1\tcallee\ta1\t200\tOK\tcaller\ta1\t127.0.0.1",
            "missed_calls\tINVITE\tfrom-b2\tcallee\tb2\t486\tBusy Here\tcaller\tb2\t127.0.0.1",
            "acc_cdrs\tcaller\ta1\t1",
            "acc_cdrs\tcaller\tb2\t0",
        ]
    );
}
