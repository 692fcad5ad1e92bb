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
        (
            "modparam(\"acc\", \"log_flag\", 1)\nrequest_route {\n\tsetflag(1);\n}\nonreply_route[x] {\n\tsetflag(1);\n}",
            9,
            "do_accounting() marks requests in their own routes",
        ),
        (
            "modparam(\"acc\", \"log_flag\", 1)\nrequest_route {\n\tif ($rU == 1) setflag(1);\n\tif (setflag(1)) exit;\n}",
            7,
            "setflag(\"1\") is part of an expression",
        ),
        (
            "modparam(\"acc\", \"log_flag\", 1)\nmodparam(\"acc\", \"log_missed_flag\", 2)\nrequest_route {\n\tsetflag(2);\n\tif ($rU == 1) setflag(1);\n}",
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

const HEAD: &str = "modparam(\"acc\", \"db_url\", \"sqlite:///a\")\n";
const LOG: &str = "modparam(\"acc\", \"log_flag\", 1)\n";
const FAILED: &str = "modparam(\"acc\", \"failed_transaction_flag\", 3)\n";
const MISSED: &str = "modparam(\"acc\", \"log_missed_flag\", 2)\n";

/// The list without what is said of tables.
fn left(found: &Converted) -> Vec<&str> {
    found.left.iter().filter(|line| !line.ends_with(COLUMNS)).map(String::as_str).collect()
}

fn assert_left(found: &Converted, lines: &[&str]) {
    let left = left(found);
    let same = left.len() == lines.len() && left.iter().zip(lines).all(|(found, begin)| found.starts_with(begin));
    assert!(same, "{left:#?}\n{}", found.text);
}

/// Everything that the diff has of the routes.
fn routes(found: &Converted) -> &str {
    &found.text[found.text.find("route").unwrap()..]
}

#[test]
fn a_bye_does_not_change_the_values_of_its_call() {
    let head = "modparam(\"acc\", \"db_flag\", 1)\nmodparam(\"acc\", \"cdr_flag\", 5)\nmodparam(\"acc\", \"db_extra\", \"src=$si;who=$avp(who)\")\n";
    let found = convert(
        &opensips(&format!(
            "{head}route {{
\tif (loose_route()) {{
\t\troute(RELAY);
\t\texit;
\t}}
\tif (is_method(\"INVITE\")) setflag(5);
\troute(RELAY);
}}
route[RELAY] {{
\tif (is_method(\"INVITE|BYE\")) setflag(1);
\t$avp(who) = $fU;
\tacc_log_request(\"now\");
\tt_relay();
}}
"
        )),
        &[],
    );
    let inside = "inside a call that has a CDR";
    assert_left(&found, &[&format!("16: {inside}"), "16: the flag of cdr may be set", &format!("18: {inside}")]);
    assert!(
        routes(&found).contains(
            "if (is_method(\"INVITE|BYE\")) { if (!has_totag()) { route(acc_values); } do_accounting(\"db\"); }
\t$avp(who) = $fU;
\tif (!has_totag()) { $acc_extra(who) = $avp(who); }
\tif (!has_totag()) { route(acc_values); }
\tacc_log_request"
        ),
        "{}",
        found.text
    );
    // The same where the script calls the function itself.
    let text = "modparam(\"acc\", \"db_extra\", \"src=$si\")\nroute {\n\tdo_accounting(\"db\", \"cdr\");\n\tt_relay();\n}\n";
    let found = convert(&opensips(text), &[]);
    assert_left(&found, &[&format!("6: {inside}")]);
    assert!(routes(&found).contains("\tif (!has_totag()) { route(acc_values); }\n\tdo_accounting"), "{}", found.text);
}

#[test]
fn parts_that_are_left_out_are_listed() {
    let found = convert(
        &kamailio(&format!(
            "{LOG}{MISSED}modparam(\"acc\", \"log_extra\", \"to=$rU;who=$avp(who)\")
#!define FLT_MISSED 2
#!define FLT_NAT 7
request_route {{
\tsetflag(1);
#!ifdef WITH_MISSED
\tsetflag(FLT_MISSED); # setflag(1)
\tsetflag(FLT_NAT);
\t/* setflag(1) */ $avp(who) = \"setflag(1)\";
\tt_relay();
#!endif
#!ifndef WITHOUT
\tsetflag(2);
#!endif
\t$avp(who) = $fU;
\tt_relay();
}}
"
        )),
        &[],
    );
    let part = "the line stands in a part";
    assert_left(&found, &[&format!("12: {part}"), &format!("14: {part}"), &format!("15: {part}")]);
    // A run ends where a directive stands.
    assert!(routes(&found).contains("do_accounting(\"log\");\n#!ifdef WITH_MISSED"), "{}", found.text);
    assert!(routes(&found).contains("#!ifndef WITHOUT\n\tif (is_method(\"INVITE\")) { do_accounting(\"log\", \"missed\"); }\n#!endif"), "{}", found.text);
}

#[test]
fn flags_may_have_names_in_kamailio() {
    let text = "flags ACC:1, OTHER:4;\nmodparam(\"acc\", \"log_flag\", 1)\nrequest_route {\n\tsetflag(ACC);\n\tsetflag(OTHER);\n}\n";
    let found = convert(&kamailio(text), &[]);
    assert_left(&found, &[]);
    assert!(routes(&found).contains("\tdo_accounting(\"log\");\n\tsetflag(OTHER);\n"), "{}", found.text);
}

#[test]
fn a_flag_that_nothing_sets_stays() {
    let found = convert(
        &kamailio(
            "modparam(\"acc\", \"acc_prepare_flag\", 4)
modparam(\"acc\", \"log_flag\", 1)
modparam(\"acc\", \"log_extra\", \"ua=$ua\")
modparam(\"acc_json\", \"acc_flag\", 2)
modparam(\"acc_json\", \"acc_extra\", \"ua=$ua\")
request_route {
\tsetflag(4);
\tlua_run(\"account\");
}
",
        ),
        &[],
    );
    assert_left(&found, &["5: log_flag stays, with its extras", "7: acc_flag stays, with its extras"]);
    assert_eq!(
        body(&found),
        "modparam(\"acc\", \"acc_prepare_flag\", 4)
modparam(\"acc\", \"log_flag\", 1)
modparam(\"acc\", \"log_extra\", \"ua=$ua\")
modparam(\"acc\", \"json_flag\", 2)
modparam(\"acc\", \"json_extra\", \"ua=$ua\")
request_route {
\tsetflag(4);
\tlua_run(\"account\");
}
"
    );
}

#[test]
fn what_would_be_other_records_is_listed() {
    let db = format!("{HEAD}modparam(\"acc\", \"db_flag\", 6)\n");
    let extra = |value: &str| format!("{LOG}modparam(\"acc\", \"log_extra\", \"x={value}\")\n");
    let is = |body: &str| format!("request_route {{\n{body}\n}}\n");
    let marked = is("\tsetflag(1);\n\tt_relay();");
    for (text, lines) in [
        // Numbers that are the same.
        (
            format!("{LOG}modparam(\"acc\", \"log_missed_flag\", 1)\nrequest_route {{\n\tif (is_method(\"INVITE\")) setflag(1);\n}}\n"),
            vec!["5: log_missed_flag and log_flag are both flag 1"],
        ),
        (
            format!(
                "{LOG}{FAILED}modparam(\"acc\", \"log_missed_flag\", 3)\nrequest_route {{\n\tif (is_method(\"INVITE\")) {{ setflag(1); setflag(3); }}\n}}\n"
            ),
            vec!["6: log_missed_flag and failed_transaction_flag are both flag 3"],
        ),
        // Backends that the request may not be marked for.
        (format!("{LOG}{db}{FAILED}{}", is("\tif ($rU == 1) setflag(6);\n\tsetflag(1);\n\t$avp(x) = 1;\n\tsetflag(3);")), vec!["12: only those of log|db"]),
        // Flags that nobody looked at.
        (format!("{LOG}failure_route[F] {{\n\tsetflag(1);\n}}\n{}", is("\tt_on_failure(\"F\");\n\tt_relay();")), vec!["6: a request that has a transaction"]),
        (format!("{LOG}branch_route[B] {{\n\tsetflag(1);\n}}\n{}", is("\tt_on_branch(\"B\");\n\tt_relay();")), vec!["6: a request that has a transaction"]),
        (format!("{LOG}{}", is("\tt_newtran();\n\tsetflag(1);\n\tt_relay();")), vec!["7: a request that has a transaction"]),
        (format!("{LOG}event_route[tm:local-request] {{\n\tsetflag(1);\n}}\n{marked}"), vec!["6: do_accounting() marks requests in their own routes"]),
        (
            format!("{LOG}{MISSED}failure_route[F] {{\n\tsetflag(2);\n}}\n{}", is("\tsetflag(1);\n\tt_on_failure(\"F\");\n\tt_relay();")),
            vec!["7: the first missed flag may be set here"],
        ),
        (
            format!(
                "{LOG}modparam(\"acc\", \"acc_prepare_always\", 1)\nfailure_route[F] {{\n\tsetflag(1);\n}}\n{}",
                is("\tt_on_failure(\"F\");\n\tt_relay();")
            ),
            vec![],
        ),
        (
            format!("{LOG}route[M] {{\n\tsetflag(1);\n}}\nonreply_route[R] {{\n\troute(M);\n}}\n{}", is("\troute(M);\n\tt_on_reply(\"R\");\n\tt_relay();")),
            vec!["6: do_accounting() marks requests in their own routes"],
        ),
        // Values that functions set.
        (format!("{}{}", extra("$avp(x)"), is("\tsetflag(1);\n\t$avp(x) = 1;\n\tt_relay();")), vec![]),
        (
            format!("{}{}", extra("$avp(x)"), is("\tsetflag(1);\n\t$avp(x) = 1;\n\tavp_db_load(\"$ru\", \"$avp(x)\");\n\tt_relay();")),
            vec!["5: $avp(x) was read when the record was written"],
        ),
        (format!("{}{marked}", extra("$xavp(ra=>x)")), vec!["5: $xavp(ra=>x) was read when"]),
        (format!("{}modparam(\"uac\", \"x\", \"$avp(x)\")\n{}", extra("$avp(x)"), is("\tsetflag(1);\n\t$avp(x) = 1;")), vec!["5: $avp(x) was read when"]),
        (format!("{}{}", extra("$shv(x)"), is("\tsetflag(1);\n\t$shv(x) = 1;")), vec!["5: $shv(x) was read when"]),
        // Targets of branches.
        (
            format!("{}branch_route[B] {{\n\t$rU = 1;\n}}\n{}", extra("$rU"), is("\tsetflag(1);\n\tt_on_branch(\"B\");\n\tt_relay();")),
            vec!["7: the target of a branch is changed here, behind the place where $rU"],
        ),
        (
            format!(
                "{}route[P] {{\n\tprefix(\"1\");\n}}\nbranch_route[B] {{\n\troute(P);\n}}\n{}",
                extra("$ru"),
                is("\tsetflag(1);\n\tt_on_branch(\"B\");\n\tt_relay();")
            ),
            vec!["7: the target of a branch is changed here"],
        ),
        (format!("{}{}", extra("$ru"), is("\tsetflag(1);\n\tlookup(\"location\");\n\tt_relay();")), vec!["8: with several branches at once $ru"]),
        // Other eyes on the flags.
        (format!("{LOG}{}", is("\tsetflag(1);\n\tif ($mf == 2) exit;")), vec!["7: $mf has flags"]),
        (format!("{LOG}{}", is("\tsetflag(1);\n\t$mf = 2;")), vec!["7: $mf sets or takes away flags"]),
        (format!("{LOG}{}", is("\tsetflag(1);\n\txlog(\"flags $(mf{s.len})\");")), vec!["7: $mf has flags"]),
        // Marked once more.
        (format!("{LOG}{FAILED}{}", is("\tif ($rU == 1) {\n\t\tsetflag(1);\n\t\tsetflag(3);\n\t}\n\tsetflag(1);")), vec!["11: the flag of failed may be set"]),
    ] {
        assert_left(&convert(&kamailio(&text), &[]), &lines);
    }
    let found = convert(
        &opensips(
            "modparam(\"acc\", \"db_flag\", \"ACC\")\nroute {\n\tsetflag(\"ACC\");\n\tif ($msg.flag(ACC)) exit;\n\t$msg.flag(ACC) = 0;\n}\nlocal_route {\n\tsetflag(\"ACC\");\n}\n",
        ),
        &[],
    );
    assert_left(&found, &["7: $msg.flag has flags", "8: $msg.flag sets or takes away flags", "11: flags of requests that the server sends itself"]);
    assert!(found.text.contains("setflag(\"ACC\");\n\tdo_accounting(\"db\");"), "{}", found.text);
}

#[test]
fn targets_and_failures_are_as_they_were_when_the_request_was_sent() {
    // $du of Kamailio is that of the request, which is set behind the mark.
    let found = convert(
        &kamailio(&format!(
            "{LOG}{FAILED}modparam(\"acc\", \"log_extra\", \"x=$du\")\nrequest_route {{\n\tsetflag(1);\n\tsetflag(3);\n\tresetflag(1);\n\tif (is_method(\"BYE\"))\n\t\texit;\n\tsetflag(1);\n\t$du = \"sip:a\";\n\tt_relay();\n}}\n"
        )),
        &[],
    );
    assert_left(&found, &[]);
    // The flag of failed transactions is still set.
    assert!(
        routes(&found).contains("drop_accounting(\"log\");\n\tif (is_method(\"BYE\"))\n\t\texit;\n\troute(acc_values);\n\tdo_accounting(\"log\", \"failed\");\n\t$du = \"sip:a\";\n\t$acc_extra(x) = $du;\n\tt_relay();"),
        "{}",
        found.text
    );
    // One that is set before the request is marked counts where it is.
    let found = convert(&kamailio(&format!("{LOG}{FAILED}request_route {{\n\tsetflag(3);\n\t$avp(x) = 1;\n\tsetflag(1);\n}}\n")), &[]);
    assert_left(&found, &[]);
    assert_eq!(routes(&found), "route {\n\t$avp(x) = 1;\n\tdo_accounting(\"log\", \"failed\");\n}\n");
}

#[test]
fn missed_calls_are_those_of_invites() {
    let found = convert(
        &kamailio(&format!(
            "{HEAD}{LOG}{MISSED}modparam(\"acc\", \"db_flag\", 1)\nrequest_route {{\n\tif ($rU == 1) setflag(1);\n\telse {{ setflag(1); setflag(2); }}\n}}\n"
        )),
        &[],
    );
    assert_left(&found, &[]);
    assert!(
        routes(&found)
            .contains("else { if (is_method(\"INVITE\")) { do_accounting(\"log\", \"missed\"); } else { do_accounting(\"log\"); } do_accounting(\"db\"); }"),
        "{}",
        found.text
    );
    // Where no INVITE comes by there are none.
    let text = format!("{LOG}{MISSED}request_route {{\n\tif (is_method(\"BYE\")) {{ setflag(1); setflag(2); t_relay(); setflag(2); }}\n}}\n");
    let found = convert(&kamailio(&text), &[]);
    assert!(routes(&found).contains("{ do_accounting(\"log\"); t_relay(); }"), "{}", found.text);
    // An else keeps its if.
    let text = format!("{LOG}modparam(\"acc\", \"log_missed_flag\", 1)\nrequest_route {{\n\tif ($rU == 1) setflag(1);\n\telse exit;\n}}\n");
    let found = convert(&kamailio(&text), &[]);
    assert!(
        routes(&found).contains("{ if (is_method(\"INVITE\")) { do_accounting(\"log\", \"missed\"); } else { do_accounting(\"log\"); } }\n\telse exit;"),
        "{}",
        found.text
    );
}

#[test]
fn the_last_line_of_a_parameter_counts() {
    let found = convert(
        &kamailio(
            "modparam(\"acc\", \"log_flag\", 7)
modparam(\"acc\", \"log_extra\", \"a=$fU;b=$ua\")
modparam(\"acc\", \"log_flag\", 1)
modparam(\"acc\", \"log_extra\", \"a=$tU\")
request_route {
\tsetflag(7);
\tsetflag(1);
}
",
        ),
        &[],
    );
    assert_left(&found, &[]);
    assert_eq!(
        body(&found),
        "modparam(\"acc\", \"extra_fields\", \"log: a\")
request_route {
\tsetflag(7);
\troute(acc_values);
\tdo_accounting(\"log\");
}

# The values of a request that is accounted.
route[acc_values] {
\t$acc_extra(a) = $tU;
}
"
    );
}

#[test]
fn numbered_avps_of_kamailio_stay_what_they_are() {
    let text = format!(
        "{LOG}modparam(\"acc\", \"log_extra\", \"x=$avp(i:5);y=$avp(s:y)\")\nrequest_route {{\n\tsetflag(1);\n\t$avp(i:5) = 1;\n\t$avp(y) = 1;\n\t$avp(5) = 2;\n}}\n"
    );
    let found = convert(&kamailio(&text), &[]);
    assert_left(&found, &[]);
    assert!(
        routes(&found).contains("\t$avp(i:5) = 1;\n\t$acc_extra(x) = $avp(i:5);\n\t$avp(y) = 1;\n\t$acc_extra(y) = $avp(s:y);\n\t$avp(5) = 2;\n}"),
        "{}",
        found.text
    );
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
