//! `accctl convert`: the diff makes the configuration that it should, and what is left stands in the list.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

struct Converted {
    status: i32,
    /// Lines of the list, without their place.
    left: Vec<String>,
    /// What patch(1) makes of the file.
    text: String,
}

fn accctl(args: &[&str], file: &Path) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).arg("convert").args(args).arg(file).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

fn patch(file: &Path, diff: &str) {
    let mut child = Command::new("patch").args(["--quiet", "--fuzz=0"]).arg(file).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), diff.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{diff}");
}

fn convert(text: &str, args: &[&str]) -> Converted {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("a.cfg");
    fs::write(&file, text).unwrap();
    let (status, out, said) = accctl(args, &file);
    assert!(status < 2, "{said}");
    let list: Vec<_> = out.lines().filter(|line| line.starts_with("# ")).collect();
    // # FILE:LINE:COLUMN: TEXT
    let parts = list.iter().map(|line| line.splitn(4, ':').skip(1).collect::<Vec<_>>());
    let left = parts.map(|parts| format!("{}:{}", parts[0], parts[2])).collect();
    if out.lines().count() > list.len() {
        patch(&file, &out);
    }
    assert_eq!(status, i32::from(!list.is_empty()));
    let text = fs::read_to_string(&file).unwrap();
    // Nothing is left to convert.
    let (_, again, _) = accctl(args, &file);
    assert!(!again.contains("\n+"), "{again}");
    Converted { status, left, text }
}

const COLUMNS: &str = "do_accounting() fills columns that tables of flags may lack: accctl schema --config FILE prints what adds them, with --apply it does so";

/// The text with a head that loads what is needed.
fn kamailio(text: &str) -> String {
    format!("#!KAMAILIO\nloadmodule \"tm.so\"\nloadmodule \"acc.so\"\n{text}")
}

fn opensips(text: &str) -> String {
    format!("loadmodule \"tm.so\"\nloadmodule \"acc.so\"\nmodparam(\"acc\", \"db_url\", \"sqlite:///a\")\n{text}")
}

/// What came of it, without the head.
fn body(converted: &Converted) -> &str {
    let head = "loadmodule \"/usr/lib/opensips-acc/acc.so\"\n";
    let body = converted.text.split_once(head).unwrap_or_else(|| panic!("{}", converted.text)).1;
    body.strip_prefix("modparam(\"acc\", \"db_url\", \"sqlite:///a\")\n").unwrap_or(body)
}

#[test]
fn flags_become_marks_and_extras_become_values() {
    let found = convert(
        &kamailio(
            "#!define FLT_ACC 1
modparam(\"acc\", \"db_url\", \"sqlite:///a\")
modparam(\"acc\", \"log_flag\", FLT_ACC)
modparam(\"acc\", \"log_missed_flag\", 2)
modparam(\"acc\", \"log_extra\",
\t\"caller=$fU;\"
\t\"callee=$rU;agent=$avp(agent)\")
modparam(\"acc\", \"db_flag\", 1)
modparam(\"acc\", \"db_extra\", \"caller=$fU; callee=$tU\")
modparam(\"acc\", \"failed_transaction_flag\", 3)
modparam(\"acc\", \"acc_prepare_flag\", 4)

request_route {
\tif (has_totag()) {
\t\tif (is_method(\"BYE\")) setflag(FLT_ACC);
\t\tt_relay();
\t\texit;
\t}
\tif (is_method(\"INVITE\")) {
\t\tsetflag(FLT_ACC); # do accounting ...
\t\tsetflag(3); # ... also of what fails
\t\tsetflag(4);
\t\troute(MISSED);
\t}
\t$avp(agent) = $ua;
\tif (!t_relay())
\t\tsl_reply_error();
}
route[MISSED] {
\tsetflag(2);
}
failure_route[again] {
\tresetflag(3);
\tt_relay();
}
",
        ),
        &[],
    );
    assert_eq!(found.left, [format!("11: {COLUMNS}")]);
    assert_eq!(
        body(&found),
        "#!define FLT_ACC 1
modparam(\"acc\", \"db_url\", \"sqlite:///a\")
modparam(\"acc\", \"extra_fields\", \"log: caller; callee; agent\")
modparam(\"acc\", \"extra_fields\", \"db: caller; db_callee->callee\")

request_route {
\tif (has_totag()) {
\t\tif (is_method(\"BYE\")) { route(acc_values); do_accounting(\"log|db\"); }
\t\t$acc_extra(callee) = $rU;
\t\tt_relay();
\t\texit;
\t}
\tif (is_method(\"INVITE\")) {
\t\troute(acc_values);
\t\tdo_accounting(\"log|db\", \"failed\"); # do accounting ...
\t\t# ... also of what fails
\t\troute(MISSED);
\t}
\t$avp(agent) = $ua;
\t$acc_extra(agent) = $avp(agent);
\t$acc_extra(callee) = $rU;
\tif (!t_relay())
\t\tsl_reply_error();
}
route[MISSED] {
\tdo_accounting(\"log\", \"missed\");
}
failure_route[again] {
\tdrop_accounting(\"log|db\", \"failed\");
\tt_relay();
}

# The values of a request that is accounted.
route[acc_values] {
\t$acc_extra(caller) = $fU;
\t$acc_extra(callee) = $rU;
\t$acc_extra(agent) = $avp(agent);
\t$acc_extra(db_callee) = $tU;
}
"
    );
}

#[test]
fn calls_of_opensips_1_have_their_cdr_table_and_legs() {
    let found = convert(
        &opensips(
            "modparam(\"acc\", \"db_flag\", 1)
modparam(\"acc\", \"db_missed_flag\", \"MISSED\")
modparam(\"acc\", \"cdr_flag\", 5)
modparam(\"acc\", \"db_table_avp\", \"$avp(s:table)\")
modparam(\"acc\", \"db_extra\", \"src=$fu\")
modparam(\"acc\", \"db_extra_bye\", \"why=$hdr(Reason)\")
modparam(\"acc\", \"multi_leg_info\", \"leg=$avp(s:leg)\")
route {
\tif (has_totag()) {
\t\tif (loose_route()) {
\t\t\tt_relay();
\t\t}
\t\texit;
\t}
\tif (is_method(\"INVITE\")) {
\t\tsetflag(1); setflag(MISSED); setflag(5);
\t\t$avp(s:leg) = $fu;
\t}
\tt_relay();
}
",
        ),
        &[],
    );
    assert_eq!(
        found.left,
        [
            format!("4: {COLUMNS}"),
            "7: the table is now an argument of do_accounting(), which needs a name: the AVP must have one wherever a request is marked".into()
        ]
    );
    assert_eq!(
        body(&found),
        "modparam(\"acc\", \"extra_fields\", \"db: src\")
modparam(\"acc\", \"extra_fields\", \"db: why\")
modparam(\"acc\", \"leg_fields\", \"db: leg\")
route {
\tif (has_totag()) {
\t\tif (loose_route()) {
\t\t\tif (is_method(\"BYE\")) { $acc_extra(why) = $hdr(Reason); }
\t\t\tt_relay();
\t\t}
\t\texit;
\t}
\tif (is_method(\"INVITE\")) {
\t\troute(acc_values);
\t\tdo_accounting(\"db\", \"missed|cdr\", \"$avp(table)\");
\t\t$avp(s:leg) = $fu;
\t\t$acc_leg(leg) = $avp(leg);
\t}
\tt_relay();
}

# The values of a request that is accounted.
route[acc_values] {
\t$acc_extra(src) = $fu;
}
"
    );
}

#[test]
fn extras_of_opensips_2_2_are_set_before_do_accounting() {
    let found = convert(
        &opensips("modparam(\"acc\", \"log_extra\", \"ua=$ua\")\nroute {\n\tif (!do_accounting(\"log\", \"failed\"))\n\t\texit;\n\tt_relay();\n}\n"),
        &["--from", "opensips-2.2"],
    );
    assert_eq!(found.left, [] as [&str; 0]);
    assert_eq!(
        body(&found),
        "modparam(\"acc\", \"extra_fields\", \"log: ua\")\nroute {\n\troute(acc_values);\n\tif (!do_accounting(\"log\", \"failed\"))\n\t\texit;\n\tt_relay();\n}\n\n\
         # The values of a request that is accounted.\nroute[acc_values] {\n\t$acc_extra(ua) = $ua;\n}\n"
    );
}

#[test]
fn modules_beside_acc_become_parameters_of_it() {
    let found = convert(
        &kamailio(
            "loadmodule \"acc_radius.so\"
modparam(\"acc_radius\", \"radius_config\", \"/etc/radcli/radiusclient.conf\")
modparam(\"acc_radius\", \"radius_flag\", 1)
modparam(\"acc_radius\", \"radius_extra\", \"Calling-Station-Id=$fU\")
modparam(\"acc_json\", \"acc_flag\", 2)
modparam(\"acc_json\", \"acc_time_mode\", 2)
modparam(\"acc_json\", \"cdr_enable\", 0)
request_route {
\tsetflag(1);
\tsetflag(2);
\tt_relay();
}
",
        ),
        &[],
    );
    assert_eq!(found.left, [] as [&str; 0]);
    let (lines, _) = body(&found).split_once("request_route").unwrap();
    assert_eq!(
        lines,
        "modparam(\"acc\", \"radius_config\", \"/etc/radcli/radiusclient.conf\")
modparam(\"acc\", \"extra_fields\", \"aaa: Calling-Station-Id\")
modparam(\"acc\", \"json_time_mode\", 2)
modparam(\"acc\", \"json_cdr_enable\", 0)
"
    );
    assert!(found.text.contains("\troute(acc_values);\n\tdo_accounting(\"aaa|json\");\n\tt_relay();\n"), "{}", found.text);
}

#[test]
fn what_cannot_be_converted_is_listed() {
    // Each: what stands there, with the line that is listed, and how that begins.
    for (text, line, listed) in [
        ("modparam(\"acc\", \"log_flag\", 1)\nrequest_route {\n\tsetflag(1);\n\tif (isflagset(1)) exit;\n}", 7, "the script asks for flag 1"),
        (
            "modparam(\"acc\", \"log_flag\", 1)\nmodparam(\"siptrace\", \"trace_flag\", 1)\nrequest_route {\n\tsetflag(1);\n}",
            5,
            "flag 1 is also the trace_flag",
        ),
        ("modparam(\"acc\", \"log_flag\", 1)\nonreply_route[x] {\n\tsetflag(1);\n}", 6, "do_accounting() marks requests in their own routes"),
        ("modparam(\"acc\", \"log_flag\", 1)\nrequest_route {\n\tif (setflag(1)) exit;\n}", 6, "setflag(\"1\") is part of an expression"),
        (
            "modparam(\"acc\", \"log_flag\", 1)\nmodparam(\"acc\", \"log_missed_flag\", 2)\nrequest_route {\n\tsetflag(2);\n}",
            7,
            "the request may not be accounted yet",
        ),
        (
            "modparam(\"acc\", \"log_flag\", 1)\nmodparam(\"acc\", \"log_extra\", \"code=$T_reply_code\")\nrequest_route {\n\tsetflag(1);\n}",
            5,
            "$T_reply_code is known with the reply only",
        ),
        (
            "modparam(\"acc\", \"log_flag\", 1)\nmodparam(\"acc\", \"log_extra\", \"ua=$ua/reply\")\nrequest_route {\n\tsetflag(1);\n}",
            5,
            "$ua is known with the reply only",
        ),
        ("modparam(\"acc\", \"log_flag\", 1)\nmodparam(\"acc\", \"log_extra\", \"at=$Ts\")\nrequest_route {\n\tsetflag(1);\n}", 5, "$Ts is of the moment"),
        (
            "modparam(\"acc\", \"log_flag\", 1)\nrequest_route {\n\tif (has_totag()) {\n\t\tsetflag(1);\n\t\texit;\n\t}\n\tdo_accounting(\"log\", \"cdr\");\n}",
            7,
            "inside a call that has a CDR",
        ),
        ("modparam(\"acc\", \"report_ack\", 1)", 4, "report_ack is gone"),
        ("modparam(\"acc\", \"failed_filter\", \"404\")", 4, "do_accounting() has no failed_filter"),
        ("modparam(\"acc\", \"log_extra\", \"ua\")", 4, "log_extra: \"ua\" is not an extra"),
        ("modparam(\"acc\", \"cdr_enable\", 1)", 4, "CDRs of cdr_enable stay"),
        ("#!ifdef WITH_ACCDB\nmodparam(\"acc\", \"db_flag\", 1)\n#!endif", 5, "the line stands in a part"),
        ("#!defenv FLAG\nmodparam(\"acc\", \"db_flag\", FLAG)", 5, "only the server knows the value of db_flag"),
        (
            "modparam(\"acc\", \"multi_leg_info\", \"leg=$avp(leg)\")\nmodparam(\"acc\", \"log_flag\", 1)\nrequest_route {\n\tsetflag(1);\n\t$avp(leg) = 1;\n}\nfailure_route[f] {\n\t$avp(leg) = 2;\n}",
            11,
            "where leg had a value before",
        ),
    ] {
        let found = convert(&kamailio(&format!("{text}\n")), &[]);
        assert_eq!(found.status, 1, "{text}");
        assert_eq!(found.left.len(), 1, "{text}: {:?}", found.left);
        assert!(found.left[0].starts_with(&format!("{line}: {listed}")), "{text}: {:?}", found.left);
    }
    // What is asked for stays set.
    let found = convert(&kamailio("modparam(\"acc\", \"log_flag\", 1)\nrequest_route {\n\tsetflag(1);\n\tif (isflagset(1)) exit;\n}\n"), &[]);
    assert!(found.text.contains("\tsetflag(1);\n\tdo_accounting(\"log\");\n"), "{}", found.text);
}

#[test]
fn included_files_are_changed_in_their_place() {
    let tmp = tempfile::tempdir().unwrap();
    let (main, part) = (tmp.path().join("main.cfg"), tmp.path().join("part.cfg"));
    fs::write(&main, kamailio("include_file \"part.cfg\"\nrequest_route {\n\tsetflag(1);\n\tt_relay();\n}\n")).unwrap();
    fs::write(&part, "modparam(\"acc\", \"log_flag\", 1)\n").unwrap();
    let (status, out, _) = accctl(&[], &main);
    assert_eq!(status, 0);
    let headers: Vec<_> = out.lines().filter_map(|line| line.strip_prefix("+++ ")).collect();
    assert_eq!(headers, [main.to_str().unwrap(), part.to_str().unwrap()]);
    assert!(out.contains("\n-modparam(\"acc\", \"log_flag\", 1)\n") && out.contains("\n+\tdo_accounting(\"log\");\n"), "{out}");
}

#[test]
fn what_it_does_not_read_is_said() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("a.cfg");
    for (text, status, said) in [
        (b"loadmodule \"tm.so\"\n".as_slice(), 0, "does not load the module acc"),
        (b"loadmodule \"acc.so\"\n# caf\xe9\n", 2, "is not UTF-8"),
        (b"#!KAMAILIO\nloadmodule \"acc.so\"\ncfgengine \"lua\"\n", 2, "the routes are in another language"),
    ] {
        fs::write(&file, text).unwrap();
        let (code, out, err) = accctl(&[], &file);
        assert_eq!((code, out.as_str()), (status, ""), "{said}");
        assert!(err.contains(said), "{err}");
    }
}

#[test]
fn the_result_has_no_findings() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kamailio-flags.cfg")).unwrap();
    let found = convert(&text, &[]);
    // cdr_enable stays, and the tables need columns.
    assert_eq!(found.left.len(), 2, "{:?}", found.left);
    assert!(!found.text.contains("setflag") && found.text.contains("do_accounting("), "{}", found.text);
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("a.cfg");
    fs::write(&file, &found.text).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).arg("check-config").arg(&file).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}
