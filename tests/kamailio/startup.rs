//! What the server says when it starts, or does not.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::common::servers::is_root;
use super::phones::{call, play};
use super::server::{Database, Server, define, kamailio, port, root, skipped, summary};

/// Reads a configuration without starting, or starts it in the hope that it fails.
fn check(config: &str, dir: &Path, only_read: bool) -> (bool, String) {
    let file = dir.join("config");
    fs::write(&file, config).unwrap();
    let mut command = Command::new("timeout");
    let server = kamailio(&file, dir, port(), 2, &[define("DB_URL", format_args!("sqlite:///{}", dir.join("acc.sqlite").display()))]);
    command.env("PATH", "/usr/sbin:/usr/bin:/bin").args(["-k", "10", "10"]).arg(server.get_program()).args(server.get_args());
    if only_read {
        command.arg("-c");
    }
    let out = command.output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout))
}

#[test]
fn the_example_loads() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (ok, said) = check(&fs::read_to_string(root().join("examples/kamailio.cfg")).unwrap(), dir.path(), true);
    assert!(ok, "{said}");
}

/// Kamailio relays such a request, but no dialog can be made for it, and so no CDR.
#[test]
fn the_example_lets_no_call_through_without_its_record() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (server, callee) = (port(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let more = [
        define("DB_URL", format_args!("sqlite:///{}", dir.path().join("acc.sqlite").display())),
        define("CALLEE", format_args!("sip:{}", callee.local_addr().unwrap())),
    ];
    let mut kamailio = kamailio(&root().join("examples/kamailio.cfg"), dir.path(), server, 2, &more).stderr(Stdio::null()).spawn().unwrap();
    let phone = UdpSocket::bind("127.0.0.1:0").unwrap();
    phone.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let here = phone.local_addr().unwrap();
    let answer = |call: &str, tag: &str| {
        let request = format!(
            "INVITE sip:b@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{call}\r\nFrom: <sip:a@127.0.0.1>{tag}\r\nTo: <sip:b@127.0.0.1>\r\n\
             Call-ID: {call}\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContact: <sip:a@{here}>\r\nContent-Length: 0\r\n\r\n"
        );
        let mut buffer = [0; 4096];
        // It may not listen yet.
        for _ in 0..40 {
            phone.send_to(request.as_bytes(), ("127.0.0.1", server)).unwrap();
            if let Ok(n) = phone.recv(&mut buffer) {
                return String::from_utf8_lossy(&buffer[..n]).lines().next().unwrap_or_default().to_string();
            }
        }
        "no answer".into()
    };
    let (without, with) = (answer("without", ""), answer("with", ";tag=1"));
    callee.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut relayed = [0; 4096];
    let n = callee.recv(&mut relayed).unwrap_or(0);
    let _ = Command::new("kill").arg(kamailio.id().to_string()).status();
    let _ = kamailio.wait();
    assert_eq!((without.as_str(), with.starts_with("SIP/2.0 100")), ("SIP/2.0 503 Accounting unavailable", true), "{with}");
    assert!(String::from_utf8_lossy(&relayed[..n]).contains("Call-ID: with\r\n"));
}

#[test]
fn mistakes_are_named_at_startup() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read_to_string(root().join("tests/kamailio/kamailio.cfg")).unwrap();
    assert!(check(&good, dir.path(), true).0);
    // As of Kamailio's own module, in any route.
    for route in ["reply_route", "onsend_route", "event_route[tm:local-response]"] {
        let (ok, out) = check(&format!("{good}\n{route} {{\n acc_log_request(\"404 Not here\");\n}}\n"), dir.path(), true);
        assert!(ok, "{route}: {out}");
    }
    let param = |line: &str| good.replace("modparam(\"rr\",", &format!("{line}\nmodparam(\"rr\","));
    for (config, said) in [
        (param("modparam(\"acc\", \"early_media\", \"yes\")"), "parameter early_media: expected a number, got a string"),
        (param("modparam(\"acc\", \"early_media\", 7)"), "parameter early_media: 7 is outside 0 to 1: use a number in that range"),
        (param("modparam(\"acc\", \"service_type\", -2)"), "parameter service_type: -2 is outside -1 to 2147483647: use a number in that range"),
        (param("modparam(\"acc\", \"log_level\", 4)"), "parameter log_level: 4 is outside -5 to 3: use a number in that range"),
        (param("modparam(\"acc\", \"arena_size\", 8)"), "parameter arena_size: 8 is outside 16 to 65536: use a number in that range"),
        (
            param("modparam(\"acc\", \"detect_direction\", 1)").replace("\"append_fromtag\", 1", "\"append_fromtag\", 0"),
            "parameter detect_direction: rr does not put the From tag into its routes: set modparam(\"rr\", \"append_fromtag\", 1)",
        ),
        (good.replace("do_accounting(\"log|db|evi\"", "do_accounting(\"log|dbx\""), "\"dbx\" is not an accounting backend"),
        (good.replace("\"cdr|missed|failed\"", "\"cdr|mist\""), "\"mist\" is not an accounting flag"),
        (good.replace("\"main.acc\"", "\"main.acc.x\""), "\"main.acc.x\" is not a valid table name"),
        (good.replace("\"log|db|evi\"", "\"aaa\""), "needs the parameter aaa_url: set it"),
        (good.replace("\"db_url\", DB_URL", "\"db_url\", \"text:///x\""), "parameter db_url: the server has no database module for text: load db_text.so"),
        (good.replace("onreply_route[INSIDE] {", "onreply_route[INSIDE] {\n do_accounting(\"log\");"), "Command cannot be used in the block"),
        (good.replace("$acc_extra(agent)", "$acc_extra(nobody)"), "the tag \"nobody\" is not declared"),
        (
            "loadmodule \"pv.so\"\nloadmodule ACC_MODULE\nloadmodule \"tm.so\"\nmodparam(\"acc\", \"journal_dir\", JOURNAL)\nrequest_route { exit; }\n".into(),
            "put loadmodule \"tm.so\" above loadmodule \"acc.so\"",
        ),
    ] {
        let (ok, out) = check(&config, dir.path(), false);
        assert!(!ok && out.contains(said), "expected \"{said}\", got {ok}: {out}");
    }
}

/// Every parameter of Kamailio's acc, acc_radius and acc_diameter modules, from 5.6 to 6.1, with its default or what it often is.
const OF_KAMAILIO: &str = r#"
modparam("acc", "early_media", 0)
modparam("acc", "failed_transaction_flag", 3)
modparam("acc", "failed_filter", "404,486")
modparam("acc", "report_ack", 0)
modparam("acc", "report_cancels", 0)
modparam("acc", "multi_leg_info", "src=$avp(src);dst=$avp(dst)")
modparam("acc", "detect_direction", 0)
modparam("acc", "acc_prepare_flag", 5)
modparam("acc", "acc_prepare_always", 0)
modparam("acc", "reason_from_hf", 0)
modparam("acc", "acc_extra_nullable", 0)
modparam("acc", "clone_msg", 1)
modparam("acc", "acc_extra_size", 64)
modparam("acc", "cdr_extra_size", 64)
modparam("acc", "time_mode", 4)
modparam("acc", "time_attr", "time_attr")
modparam("acc", "time_exten", "time_exten")
modparam("acc", "time_format", "%d.%m.%Y")
modparam("acc", "log_flag", 1)
modparam("acc", "log_missed_flag", 2)
modparam("acc", "log_level", 1)
modparam("acc", "log_facility", "LOG_DAEMON")
modparam("acc", "log_extra", "ua=$hdr(User-Agent); uuid = $avp(i:123)")
modparam("acc", "db_flag", 1)
modparam("acc", "db_missed_flag", 2)
modparam("acc", "db_table_acc", "$avp(t)_calls")
modparam("acc", "db_table_missed_calls", "missed_calls")
modparam("acc", "db_extra", "ct=$hdr(Content-type); email=$avp(s:email)")
modparam("acc", "db_insert_mode", 1)
modparam("acc", "db_version_check", 1)
modparam("acc", "acc_time_column", "time")
modparam("acc", "acc_sip_code_column", "sip_code")
modparam("acc", "cdr_enable", 1)
modparam("acc", "cdr_log_enable", 1)
modparam("acc", "cdrs_table", "acc_cdrs")
modparam("acc", "cdr_extra", "ci=$dlg_var(call_id);ft=$dlg_var(from_tag)")
modparam("acc", "cdr_extra_nullable", 1)
modparam("acc", "cdr_start_on_confirmed", 1)
modparam("acc", "cdr_facility", "LOG_DAEMON")
modparam("acc", "cdr_start_id", "start_time")
modparam("acc", "cdr_end_id", "end_time")
modparam("acc", "cdr_duration_id", "duration")
modparam("acc", "cdr_duration_mode", 1)
modparam("acc", "cdr_expired_dlg_enable", 0)
modparam("acc", "cdr_on_failed", 1)
modparam("acc", "cdr_skip", "nocdr")
modparam("acc", "service_type", -1)
modparam("acc", "rad_time_mode", 0)
modparam("acc", "diameter_flag", -1)
modparam("acc", "diameter_missed_flag", -1)
modparam("acc", "diameter_client_port", 3868)
modparam("acc", "diameter_extra", "7846=$fU")
"#;

/// A server that is asked only to read, does not initialise modules: this one is started.
fn refusal(lines: &str, dir: &Path) -> String {
    let modules =
        "loadmodule \"tm.so\"\nloadmodule \"rr.so\"\nloadmodule \"pv.so\"\nloadmodule \"textops.so\"\nloadmodule \"dialog.so\"\nloadmodule ACC_MODULE\n";
    let config = format!("{modules}modparam(\"acc\", \"journal_dir\", JOURNAL)\nmodparam(\"acc\", \"db_url\", DB_URL)\n{lines}\nrequest_route {{ exit; }}\n");
    let (ok, out) = check(&config, dir, false);
    assert!(!ok, "it is ended after a while: {out}");
    out.lines().filter(|l| l.contains("ERROR")).map(|l| format!("{l}\n")).collect()
}

#[test]
fn every_parameter_of_kamailios_own_modules_is_taken() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(refusal(OF_KAMAILIO, dir.path()), "");
}

#[test]
fn mistakes_in_kamailios_parameters_are_named() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (line, said) in [
        ("modparam(\"acc\", \"log_flag\", 32)", "parameter log_flag: 32 is outside -1 to 31"),
        ("modparam(\"acc\", \"log_flag\", \"CALL\")", "\"CALL\" is not a message flag"),
        ("modparam(\"acc\", \"failed_filter\", \"200\")", "parameter failed_filter: \"200\" is not a failure code"),
        ("modparam(\"acc\", \"log_extra\", \"a=$fU;\")", "parameter log_extra: "),
        ("modparam(\"acc\", \"log_extra\", \"a=$nosuch\")", "the variable $nosuch of an extra is not known"),
        ("modparam(\"acc\", \"multi_leg_info\", \"a=$fU\")", "parameter multi_leg_info: \"$fU\" is not an AVP"),
        ("modparam(\"acc\", \"cdr_enable\", 2)", "parameter cdr_enable: 2 is outside 0 to 1"),
        ("modparam(\"acc\", \"cdr_facility\", \"LOG_X\")\nmodparam(\"acc\", \"cdr_enable\", 1)", "parameter cdr_facility: "),
        ("modparam(\"acc\", \"radius_flag\", 1)\nmodparam(\"acc\", \"aaa_flag\", 2)", "parameter radius_flag: this is another name of the parameter aaa_flag"),
    ] {
        let e = refusal(line, dir.path());
        assert!(e.contains(said), "{line}: {e}");
    }
}

#[test]
fn the_journal_belongs_to_the_user_that_the_server_turns_into() {
    if skipped() || !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // That user is to make the database there, but could not make the journal's directory.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let server = Server::start_in(dir, Database::Sqlite, port(), 2, &["-unobody".into(), "-gnogroup".into()]);
    play(&server, vec![call("answered", "a", "caller", &["callee"])]);
    assert_eq!(summary(&server, "answered"), "call ended 200, acc 200 cdr");
    let nobody = fs::metadata(server.dir.path().join("acc.sqlite")).unwrap();
    assert_ne!(nobody.uid(), 0, "the delivery process gave up its rights");
    let journal = server.dir.path().join("journal");
    let files = fs::read_dir(&journal).unwrap().map(|f| f.unwrap().path());
    for file in files.chain([journal.clone()]) {
        let owner = fs::metadata(&file).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (nobody.uid(), nobody.gid()), "{}", file.display());
    }
}
