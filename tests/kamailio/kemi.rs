//! The functions as scripts in Lua and Python call them.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::server::{define, kamailio, port, skipped};

const MODULES: &str = r#"
debug=2
log_stderror=yes
children=CHILDREN
listen=LISTEN
disable_tcp=yes
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "ctl.so"
loadmodule ACC_MODULE
modparam("ctl", "binrpc", CTL)
modparam("acc", "journal_dir", JOURNAL)
modparam("acc", "db_url", DB_URL)
modparam("acc", "log_flag", 1)
modparam("acc", "failed_transaction_flag", 3)
modparam("acc", "log_extra", "who=$fU")
modparam("acc", "extra_fields", "log: note")
"#;

const LUA: &str = r#"
function ksr_request_route()
    KSR.acc.acc_log_request("403 by Lua")
    KSR.acc.acc_db_request("403 by Lua", "acc")
    KSR.acc.acc_request("405 log only", "acc")
    local refused = KSR.acc.acc_log_request("") + KSR.acc.acc_db_request("", "acc") + KSR.acc.acc_request("", "acc") + KSR.acc_radius.request("")
    KSR.acc.acc_log_request("406 " .. refused)
    KSR.pv.sets("$acc_extra(note)", "set in Lua")
    KSR.acc.do_accounting_flags("log", "failed")
    KSR.setflag(1)
    KSR.setflag(3)
    KSR.tm.t_newtran()
    KSR.tm.t_reply(404, "Nobody")
end
"#;

const PYTHON: &str = r#"
import KSR as KSR

class kamailio:
    def __init__(self):
        pass

    def child_init(self, rank):
        return 0

    def ksr_request_route(self, msg):
        KSR.acc.acc_log_request("403 by Python")
        KSR.acc.acc_db_request("403 by Python", "acc")
        KSR.acc.acc_request("405 log only", "acc")
        refused = KSR.acc.acc_log_request("") + KSR.acc.acc_db_request("", "acc") + KSR.acc.acc_request("", "acc") + KSR.acc_radius.request("")
        KSR.acc.acc_log_request("406 " + str(refused))
        KSR.pv.sets("$acc_extra(note)", "set in Python")
        KSR.acc.do_accounting_flags("log", "failed")
        KSR.setflag(1)
        KSR.setflag(3)
        KSR.tm.t_newtran()
        KSR.tm.t_reply(404, "Nobody")
        return 1

def mod_init():
    return kamailio()
"#;

fn has(module: &str) -> bool {
    let found = Path::new("/usr/lib/x86_64-linux-gnu/kamailio/modules").join(module).is_file();
    if !found {
        eprintln!("skipped: {module} is not installed");
    }
    found
}

/// Sends one request to a server with this engine and script; its log lines of the request.
fn run(module: &str, engine: &str, file: &str, script: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let script_file = dir.path().join(file);
    fs::write(&script_file, script).unwrap();
    let config = dir.path().join("kamailio.cfg");
    let name = module.trim_end_matches(".so");
    // All later modules see the symbols of an engine, `exports` among them.
    let load = format!("loadmodule \"{module}\"\n");
    let engine = format!("modparam(\"{name}\", \"load\", \"{}\")\ncfgengine \"{engine}\"\n", script_file.display());
    fs::write(&config, format!("#!KAMAILIO\n{load}{MODULES}{engine}")).unwrap();
    let (server, log) = (port(), dir.path().join("log"));
    let out = fs::File::create(&log).unwrap();
    let db = define("DB_URL", format_args!("sqlite:///{}", dir.path().join("acc.sqlite").display()));
    let mut child = kamailio(&config, dir.path(), server, 2, &[db]).stdout(Stdio::null()).stderr(out).spawn().unwrap();
    let phone = UdpSocket::bind("127.0.0.1:0").unwrap();
    phone.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let here = phone.local_addr().unwrap();
    let request = format!(
        "MESSAGE sip:bob@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bKkemi\r\nFrom: <sip:alice@127.0.0.1>;tag=1\r\n\
         To: <sip:bob@127.0.0.1>\r\nCall-ID: kemi\r\nCSeq: 1 MESSAGE\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    );
    let mut buffer = [0; 4096];
    // It may not listen yet.
    let answered = (0..240).any(|_| {
        phone.send_to(request.as_bytes(), ("127.0.0.1", server)).unwrap();
        phone.recv(&mut buffer).is_ok()
    });
    // The records of the answer are made behind it.
    let recorded = (0..240).any(|_| {
        let is_complete = fs::read_to_string(&log).unwrap().matches("transaction answered").count() == 2;
        if !is_complete {
            std::thread::sleep(Duration::from_millis(50));
        }
        is_complete
    });
    // An orderly end delivers what is in the journal.
    let _ = std::process::Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
    let said = fs::read_to_string(&log).unwrap();
    assert!(answered && recorded, "{said}");
    let rows = super::common::sqlite(&dir.path().join("acc.sqlite"), "SELECT sip_code, sip_reason FROM acc ORDER BY id").unwrap();
    let lines = said.lines().filter_map(|l| l.split_once("ACC: ")).map(|(_, l)| {
        let fields: Vec<_> = l.split(';').filter(|f| ["code=", "reason=", "note=", "who="].iter().any(|n| f.starts_with(n))).collect();
        format!("{}: {}", l.split(':').next().unwrap_or_default(), fields.join(";"))
    });
    lines.chain(rows.lines().map(|r| format!("row: {}", r.replace('\t', " ")))).collect()
}

/// Both surfaces account the answer; each has its own shape and values.
fn expected(language: &str) -> Vec<String> {
    let lines = [
        "request accounted: code=403;reason=by LANG;who=alice".to_string(),
        "request accounted: code=405;reason=log only;who=alice".to_string(),
        // Of those without a comment none is made, and each says so.
        "request accounted: code=406;reason=-4;who=alice".to_string(),
        "transaction answered: code=404;reason=Not Found;note=set in LANG".to_string(),
        "transaction answered: code=404;reason=Not Found;who=alice".to_string(),
        "row: 403 by LANG".to_string(),
    ];
    lines.map(|l| l.replace("LANG", language)).to_vec()
}

fn check(language: &str, mut found: Vec<String>) {
    let mut expected = expected(language);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn lua_scripts_call_the_functions() {
    if !skipped() && has("app_lua.so") {
        check("Lua", run("app_lua.so", "lua", "script.lua", LUA));
    }
}

#[test]
fn python_scripts_call_the_functions() {
    if !skipped() && has("app_python3.so") {
        check("Python", run("app_python3.so", "python", "script.py", PYTHON));
    }
}
