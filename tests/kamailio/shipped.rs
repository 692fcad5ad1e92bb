//! Debian's own kamailio.cfg as it stands, with accounting in MySQL: a call leaves the same rows with Kamailio's own
//! module and with this one.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use super::common::servers::{self, PASSWORD};
use super::convert::convert;
use super::flags::{Callee, play};
use super::server::{module, port, skipped};

const CONFIG: &str = "/etc/kamailio/kamailio.cfg";
const MODULES: &str = "/usr/lib/x86_64-linux-gnu/kamailio/modules";
const SQL: &str = "/usr/share/kamailio/mysql";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Makes a phone known to the server, once that answers.
fn register(user: &str, server: u16, callee: u16) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let here = socket.local_addr().unwrap();
    let request = format!(
        "REGISTER sip:127.0.0.1:{server} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bKreg{user}\r\nMax-Forwards: 70\r\n\
         From: <sip:{user}@127.0.0.1>;tag=reg\r\nTo: <sip:{user}@127.0.0.1>\r\nCall-ID: reg-{user}\r\nCSeq: 1 REGISTER\r\n\
         Contact: <sip:{user}@127.0.0.1:{callee}>\r\nExpires: 600\r\nContent-Length: 0\r\n\r\n"
    );
    let mut buffer = [0; 4096];
    (0..60).any(|_| {
        socket.send_to(request.as_bytes(), ("127.0.0.1", server)).unwrap();
        socket.recv(&mut buffer).is_ok_and(|n| buffer[..n].starts_with(b"SIP/2.0 200"))
    })
}

/// Plays the calls through a configuration with this file as acc.so; the rows that are there in the end.
fn rows(acc: &Path, database: &servers::Server, main: &Path) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let modules = dir.path().join("modules");
    fs::create_dir(&modules).unwrap();
    for entry in fs::read_dir(MODULES).unwrap().map(Result::unwrap) {
        if entry.file_name() != "acc.so" {
            symlink(entry.path(), modules.join(entry.file_name())).unwrap();
        }
    }
    symlink(acc, modules.join("acc.so")).unwrap();
    database.sql("DROP TABLE IF EXISTS version, acc, missed_calls, acc_cdrs;");
    for file in ["standard-create.sql", "acc-create.sql"] {
        database.sql(&fs::read_to_string(Path::new(SQL).join(file)).unwrap());
    }
    // What the configuration itself says that its extras need.
    let config = fs::read_to_string(CONFIG).unwrap();
    database.sql(&config.lines().filter(|l| l.trim_start().starts_with("ALTER TABLE")).collect::<Vec<_>>().join("\n"));

    if main != Path::new(CONFIG) {
        let url = format!("mysql://acc:{PASSWORD}@127.0.0.1:{}/acc", database.port);
        let added = Command::new(env!("CARGO_BIN_EXE_accctl")).args(["schema", "--apply", "--url", &url]).output().unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    }

    let (server, callee) = (port(), Callee::start());
    let log = fs::File::create(dir.path().join("log")).unwrap();
    // The line that docs/move/from-kamailio.md asks for, with a directory of this test.
    let more = if acc == module() { format!("modparam(\"acc\", \"journal_dir\", \"{}\")\n", dir.path().join("journal").display()) } else { String::new() };
    let file = dir.path().join("config");
    fs::write(&file, format!("#!KAMAILIO\ninclude_file \"{}\"\n{more}", main.display())).unwrap();
    let mut command = Command::new("kamailio");
    command.env("PATH", "/usr/sbin:/usr/bin:/bin").arg("-f").arg(&file).args(["-DD", "-E", "-m", "64", "-A", "WITH_MYSQL", "-A", "WITH_ACCDB"]);
    command.arg("-L").arg(&modules).arg("-w").arg(dir.path()).arg("-Y").arg(dir.path()).args(["-l", &format!("udp:127.0.0.1:{server}")]);
    command.arg(format!("-ADBURL=\"mysql://acc:{PASSWORD}@127.0.0.1:{}/acc\"", database.port));
    let running = Running(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    let said = || fs::read_to_string(dir.path().join("log")).unwrap();
    for user in ["a1", "b2"] {
        assert!(register(user, server, callee.port), "{user} is not registered: {}", said());
    }
    play(server, &["a1".to_string(), "b2".into(), "l3".into()], 1);
    let ask = || {
        let core = "method, sip_code, sip_reason, from_tag, callid, src_user, src_domain, src_ip, dst_ouser, dst_user, dst_domain, to_tag = 'callee'";
        let sql = ["acc", "missed_calls"].map(|t| format!("SELECT '{t}', {core} FROM {t}"));
        database.sql(&format!("{} UNION ALL {} ORDER BY 1, 2, 3;", sql[0], sql[1])).lines().map(str::to_string).collect::<Vec<_>>()
    };
    // An orderly end delivers what is in the journal.
    drop(running);
    let rows = ask();
    assert_eq!(rows.len(), 3, "{rows:?}\n{}", said());
    rows
}

#[test]
fn the_shipped_configuration_has_the_same_rows() {
    let needed = [CONFIG, SQL, &format!("{MODULES}/db_mysql.so")];
    if skipped() || needed.iter().any(|path| !Path::new(path).exists()) {
        eprintln!("skipped: Debian's Kamailio with its configuration and its MySQL module is not installed");
        return;
    }
    let Some(database) = servers::mariadb() else { return };
    let own = rows(&Path::new(MODULES).join("acc.so"), &database, Path::new(CONFIG));
    let ours = rows(&module(), &database, Path::new(CONFIG));
    assert_eq!(ours, own);
    // The same with do_accounting(). Its records have columns that flags do not fill.
    let dir = tempfile::tempdir().unwrap();
    let converted = dir.path().join("kamailio.cfg");
    fs::copy(CONFIG, &converted).unwrap();
    let left = convert(&converted, &["-D", "WITH_MYSQL", "-D", "WITH_ACCDB", "--module", "acc.so"]);
    // Tables, lookup() with its branches, and the missed flag of a request that has been sent on.
    let listed = ["accctl schema", "with several branches at once", "the first missed flag may be set here"];
    assert!(left.lines().count() == listed.len() && listed.iter().all(|part| left.contains(part)), "{left}");
    assert!(!fs::read_to_string(&converted).unwrap().contains("setflag(FLT_ACC"));
    assert_eq!(rows(&module(), &database, &converted), own);
    let sorts: BTreeSet<_> = ours.iter().map(|r| r.split('\t').take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(sorts.into_iter().collect::<Vec<_>>(), ["acc BYE 200", "acc INVITE 200", "missed_calls INVITE 486"]);
}
