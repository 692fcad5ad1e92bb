//! The configuration of an operator of trunks, with Kamailio's own module and with this one: the same lines and the
//! same CDRs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::common::servers::{self, PASSWORD};
use super::flags::{Callee, play};
use super::server::{define, module, port, root, skipped};

const MYSQL: &str = "/usr/lib/x86_64-linux-gnu/kamailio/modules/db_mysql.so";

/// 24 calls are answered and 24 more have no CDR, each with an INVITE, an ACK and a BYE; 12 are refused by the callee, 12 by the server,
/// and 12 are hung up by the server.
const CALLS: usize = 84;
const ANSWERED: usize = 60;
const TRANSACTIONS: usize = 48 * 2 + 12 + 24;
const CDRS_DUE: usize = 60;
const LINES_DUE: usize = TRANSACTIONS + ANSWERED + 12 + CDRS_DUE;

const CDRS: &str = "DROP TABLE IF EXISTS version, acc, missed_calls, acc_cdrs, trunk_cdrs;
CREATE TABLE version (table_name VARCHAR(32) NOT NULL UNIQUE, table_version INT UNSIGNED DEFAULT 0 NOT NULL);
INSERT INTO version VALUES ('acc', 5), ('missed_calls', 4), ('trunk_cdrs', 2);
CREATE TABLE trunk_cdrs (id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY NOT NULL, start_time DATETIME NOT NULL, end_time DATETIME NOT NULL,
    duration DOUBLE NOT NULL DEFAULT 0, customer INT UNSIGNED, carrier INT UNSIGNED, caller VARCHAR(64), hash VARCHAR(64), answer INT UNSIGNED,
    target VARCHAR(64));";

/// A pair of a line without what differs from run to run: times, and the To tag of a reply that the server made itself,
/// which Kamailio's own module leaves out.
fn stable(line: &str, is_own_reply: bool) -> String {
    let separator = if line.starts_with("start_time=") { "; " } else { ";" };
    let pairs = line.split(separator).map(|pair| match pair.split_once('=') {
        Some((name, value)) if name.ends_with("timestamp") || ["at", "start_time", "end_time"].contains(&name) => {
            format!("{name}={}", value.replace(|c: char| c.is_ascii_digit(), "0"))
        }
        Some((name @ "duration", value)) if value.parse().is_ok_and(|d: f64| d > 0.0) => format!("{name}=some"),
        Some((name @ "to_tag", _)) if is_own_reply => format!("{name}=own"),
        _ => pair.to_string(),
    });
    pairs.collect::<Vec<_>>().join(separator)
}

/// Plays the calls with this file as acc.so: the lines of the log, sorted, and the CDRs, when there are so many.
fn records(acc: &str, more: &[String], calls: &[String], database: &servers::Server, due: (usize, usize)) -> (Vec<String>, Vec<String>) {
    database.sql(CDRS);
    let dir = tempfile::tempdir().unwrap();
    let (server, callee) = (port(), Callee::start());
    let read = || String::from_utf8_lossy(&std::fs::read(dir.path().join("log")).unwrap_or_default()).into_owned();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let mut command = Command::new("kamailio");
    command.env("PATH", "/usr/sbin:/usr/bin:/bin").arg("-f").arg(root().join("tests/kamailio/trunk.cfg"));
    command.args(["-DD", "-E", "-m", "64", "-w"]).arg(dir.path()).arg("-Y").arg(dir.path());
    command.arg(format!("-ALISTEN=udp:127.0.0.1:{server}")).arg(define("ACC_MODULE", acc)).arg(define("PHONE", format_args!("127.0.0.1:{}", callee.port)));
    command.arg(define("DB_URL", format_args!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", database.port))).args(more);
    let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    play(server, calls, 4);
    // Kamailio's own module gives its CDRs to other processes, and an ACK may come after the call for the phones.
    let begin = Instant::now();
    let (lines, rows) = loop {
        let log = read();
        let all = log.lines().filter_map(|l| l.find("ACC: ").or_else(|| l.find("start_time=")).map(|at| &l[at..]));
        let mut lines: Vec<_> = all.map(|l| stable(l, l.contains("code=404"))).collect();
        lines.sort();
        let rows = database
            .sql("SELECT duration > 0, duration < 60, end_time >= start_time, customer, carrier, caller, hash, answer, target FROM trunk_cdrs ORDER BY hash;");
        let rows: Vec<_> = rows.lines().map(str::to_string).collect();
        if lines.len() >= due.0 && rows.len() >= due.1 || begin.elapsed() > Duration::from_secs(30) {
            break (lines, rows);
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(child.try_wait().unwrap().is_none(), "the server ended: {}", read());
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
    (lines, rows)
}

/// The database, where everything is installed.
fn database() -> Option<servers::Server> {
    if skipped() || !Path::new(MYSQL).exists() {
        eprintln!("skipped: Kamailio's MySQL module is not installed");
        return None;
    }
    servers::mariadb()
}

/// [`records`] with this module.
fn our_records(calls: &[String], database: &servers::Server, due: (usize, usize)) -> (Vec<String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let journal = define("JOURNAL", dir.path().join("journal").display());
    records(&module().display().to_string(), &[journal], calls, database, due)
}

#[test]
fn a_trunk_has_the_same_records_as_before() {
    let Some(database) = database() else { return };
    let calls: Vec<_> = (0..CALLS).map(|n| format!("{}{n}x", ["a", "b", "a", "l", "n", "e", "d"][n % 7])).collect();
    let own = records("acc.so", &[], &calls, &database, (LINES_DUE, CDRS_DUE));
    let ours = our_records(&calls, &database, (LINES_DUE, CDRS_DUE));
    let differ = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>();
    assert_eq!((differ(&own.0, &ours.0), differ(&ours.0, &own.0)), (Vec::new(), Vec::new()));
    assert_eq!((own.0.len(), &own.1), (ours.0.len(), &ours.1));
    let count = |what: &str| ours.0.iter().filter(|l| l.contains(what)).count();
    assert_eq!(
        [count("transaction answered"), count("request acknowledged"), count("call missed"), count("start_time="), ours.1.len()],
        [TRANSACTIONS, ANSWERED, 12, CDRS_DUE, CDRS_DUE]
    );
}

/// Kamailio says no more of such an end than that a BYE has its reply. Its own module writes a CDR without a duration.
#[test]
fn a_call_that_the_server_ends_at_one_phone_has_its_cdr() {
    let Some(database) = database() else { return };
    let calls: Vec<_> = (0..4).map(|n| format!("o{n}x")).collect();
    let (lines, rows) = our_records(&calls, &database, (12, 4));
    assert_eq!((lines.len(), rows.len()), (12, 4), "{lines:?}");
    assert!(rows.iter().all(|row| row.starts_with("1\t1\t1\t7\t12\tcaller\t")), "{rows:?}");
}
