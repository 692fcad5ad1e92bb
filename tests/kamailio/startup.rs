//! What the server says when it starts, or does not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

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

#[test]
fn mistakes_are_named_at_startup() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read_to_string(root().join("tests/kamailio/kamailio.cfg")).unwrap();
    assert!(check(&good, dir.path(), true).0);
    let param = |line: &str| good.replace("modparam(\"rr\",", &format!("{line}\nmodparam(\"rr\","));
    for (config, said) in [
        (param("modparam(\"acc\", \"early_media\", \"yes\")"), "parameter early_media: a number expected"),
        (
            param("modparam(\"acc\", \"detect_direction\", 1)").replace("\"append_fromtag\", 1", "\"append_fromtag\", 0"),
            "parameter detect_direction: rr does not put the From tag into its routes: set modparam(\"rr\", \"append_fromtag\", 1)",
        ),
        (good.replace("do_accounting(\"log|db|evi\"", "do_accounting(\"log|dbx\""), "\"dbx\" is no accounting backend"),
        (good.replace("\"cdr|missed|failed\"", "\"cdr|mist\""), "\"mist\" is no accounting flag"),
        (good.replace("\"main.acc\"", "\"main.acc.x\""), "\"main.acc.x\" is no table name"),
        (good.replace("\"log|db|evi\"", "\"aaa\""), "set the parameter aaa_url"),
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

/// Every parameter of Kamailio's own accounting module that means nothing here, and what its error
/// must name. `log_facility`, `log_level`, `early_media`, `report_cancels`, `detect_direction`, `db_url`
/// and the names of tables and columns are parameters here too.
const FOREIGN: [(&str, &str); 35] = [
    ("log_flag", "do_accounting(\"log\")"),
    ("log_missed_flag", "do_accounting(\"log\", \"missed\")"),
    ("log_extra", "extra_fields"),
    ("db_flag", "do_accounting(\"db\")"),
    ("db_missed_flag", "do_accounting(\"db\", \"missed\")"),
    ("db_extra", "extra_fields"),
    ("db_insert_mode", "in the background"),
    ("failed_transaction_flag", "do_accounting(\"...\", \"failed\")"),
    ("failed_filter", "drop_accounting()"),
    ("report_ack", "an ACK has no reply"),
    ("multi_leg_info", "leg_fields"),
    ("acc_prepare_flag", "do_accounting()"),
    ("acc_prepare_always", "do_accounting()"),
    ("reason_from_hf", "$acc_extra(tag)"),
    ("acc_extra_nullable", "always NULL"),
    ("acc_extra_size", "leave it out"),
    ("cdr_enable", "do_accounting(\"...\", \"cdr\")"),
    ("cdr_skip", "drop_accounting(\"...\", \"cdr\")"),
    ("cdr_log_enable", "do_accounting(\"log\", \"cdr\")"),
    ("cdr_start_on_confirmed", "a call starts with its 200"),
    ("cdr_facility", "log_facility"),
    ("cdr_extra", "extra_fields"),
    ("cdr_extra_nullable", "always NULL"),
    ("cdr_extra_size", "leave it out"),
    ("cdr_start_id", "leave it out"),
    ("cdr_end_id", "leave it out"),
    ("cdr_duration_id", "leave it out"),
    ("cdr_expired_dlg_enable", "always has its CDR"),
    ("cdr_on_failed", "do_accounting(\"...\", \"failed\")"),
    ("cdrs_table", "do_accounting(\"db\", \"cdr\", \"table\")"),
    ("time_mode", "leave it out"),
    ("time_attr", "leave it out"),
    ("time_exten", "leave it out"),
    ("time_format", "leave it out"),
    ("clone_msg", "leave it out"),
];

#[test]
fn parameters_of_kamailios_own_module_name_what_to_use() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for value in ["1", "\"some text\""] {
        let lines: String = FOREIGN.map(|(name, _)| format!("modparam(\"acc\", \"{name}\", {value})\n")).concat();
        let config = format!("loadmodule \"tm.so\"\nloadmodule ACC_MODULE\n{lines}request_route {{ exit; }}\n");
        let (ok, out) = check(&config, dir.path(), true);
        assert!(!ok, "{out}");
        for (name, cure) in FOREIGN {
            let beginning = format!("parameter {name} belongs to Kamailio's own acc module: ");
            let said: Vec<_> = out.lines().filter_map(|l| l.split_once(&beginning)).map(|(_, cure)| cure).collect();
            assert!(said.len() == 1 && said[0].contains(cure), "{name}: {said:?}\n{out}");
        }
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
