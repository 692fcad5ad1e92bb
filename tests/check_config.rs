//! `accctl check-config`: each finding in the file that has it, and silence about everything the repository ships.
//!
//! tests/check_config/ACCnnn.cfg has that finding and no other. Its line "# accctl check-config ..." has the options; the
//! finding is at the line that ends in "# here". ACCnnn.sql makes the database for --url.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Exit status and findings.
fn check(args: &[&str], files: &[&Path]) -> (i32, Vec<Value>) {
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).args(["check-config", "--json"]).args(args).args(files).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let found: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{files:?}: {e}: {said}"));
    (out.status.code().unwrap(), found.as_array().unwrap().clone())
}

/// The codes found in a text.
fn codes(text: &str, args: &[&str]) -> Vec<String> {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("a.cfg");
    fs::write(&file, text).unwrap();
    check(args, &[&file]).1.iter().map(|f| f["code"].as_str().unwrap().to_string()).collect()
}

fn fixture(code: &str) -> String {
    fs::read_to_string(root().join(format!("tests/check_config/{code}.cfg"))).unwrap()
}

#[test]
fn each_finding_is_in_its_file_and_no_other_is() {
    let all: Vec<_> = (1..=32).map(|n| format!("ACC{n:03}")).collect();
    for code in &all {
        let path = root().join(format!("tests/check_config/{code}.cfg"));
        let text = fixture(code);
        let options = text.lines().find_map(|line| line.strip_prefix("# accctl check-config")).unwrap();
        let mut args: Vec<String> = options.split_whitespace().map(String::from).collect();
        let tmp = tempfile::tempdir().unwrap();
        if let Some(url) = args.iter().position(|arg| arg == "--url") {
            let database = tmp.path().join("acc.sqlite");
            let sql = fs::File::open(path.with_extension("sql")).unwrap();
            assert!(Command::new("sqlite3").arg("-bail").arg(&database).stdin(sql).status().unwrap().success());
            args.insert(url + 1, format!("sqlite://{}", database.display()));
        }
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let (status, found) = check(&args, &[&path]);
        assert_eq!(status, 1, "{code}");
        assert!(!found.is_empty() && found.iter().all(|f| f["code"] == code.as_str()), "{code}: {found:?}");
        let here = text.lines().position(|line| line.ends_with("# here")).unwrap() + 1;
        assert_eq!(found[0]["line"], here, "{code}: {found:?}");
        assert!(found.iter().all(|f| f["message"].as_str().is_some_and(|m| m.len() > 20) && f["help"].as_str().is_some_and(|h| !h.is_empty())), "{code}");
        // The comment silences it, at its place and for the whole file.
        let codes_with = |text: &str| {
            let file = tmp.path().join("allowed.cfg");
            fs::write(&file, text).unwrap();
            check(&args, &[&file]).0
        };
        assert_eq!(
            codes_with(&text.replace("# here", &format!("# accctl: allow(ACC999, {code})"))),
            i32::from(found.iter().any(|f| f["line"] != here)),
            "{code}"
        );
        assert_eq!(codes_with(&text.replacen("# accctl check-config", &format!("# accctl: allow({code})\n#"), 1)), 0, "{code}");
    }
    let page = fs::read_to_string(root().join("docs/reference/check-config.md")).unwrap();
    let rows: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("| ACC").and_then(|rest| rest.split(' ').next())).map(|n| format!("ACC{n}")).collect();
    assert_eq!(rows, all);
    let files = fs::read_dir(root().join("tests/check_config")).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "cfg"));
    assert_eq!(files.count(), all.len());
}

/// Files and folders of a folder, down to the last.
fn tree(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { tree(&path, out) } else { out.push(path) }
    }
}

#[test]
fn what_the_repository_ships_is_silent() {
    let mut files = Vec::new();
    tree(&root().join("examples"), &mut files);
    files.retain(|path| path.extension().is_some_and(|e| e == "cfg"));
    let tmp = tempfile::tempdir().unwrap();
    // Blocks of the documents that load the module are complete.
    let mut documents = vec![root().join("README.md")];
    tree(&root().join("docs"), &mut documents);
    for document in documents.iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(document).unwrap();
        for (i, block) in text.split("\n```").enumerate() {
            let Some((mark, body)) = block.split_once('\n') else { continue };
            if ["opensips", "kamailio"].contains(&mark) && body.matches("loadmodule").count() > 2 {
                let name = document.strip_prefix(root()).unwrap().display().to_string().replace('/', "_");
                let file = tmp.path().join(format!("{name}.{i}.{mark}.cfg"));
                fs::write(&file, body).unwrap();
                files.push(file);
            }
        }
    }
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        let host = if file.to_string_lossy().contains("kamailio") { "kamailio" } else { "opensips" };
        let (status, found) = check(&["--host", host], &[&file]);
        assert_eq!((status, found.as_slice()), (0, [].as_slice()), "{}", file.display());
    }
}

#[test]
fn a_path_that_does_right_is_enough() {
    // Each pair: a file with a finding, and what makes it right.
    for (code, from, to) in [
        ("ACC001", "\tt_relay(); # here", "\troute(relay);\n}\nroute[relay] {\n\tif (is_method(\"INVITE|SUBSCRIBE\")) record_route();\n\tt_relay();"),
        ("ACC001", "\tt_relay(); # here", "\troute($var(next));"),
        ("ACC001", "loadmodule \"rr.so\"", "loadmodule \"rr.so\"\nloadmodule \"script_helper.so\""),
        ("ACC002", "loadmodule \"rr.so\"", "loadmodule \"rr.so\"\nloadmodule \"script_helper.so\""),
        ("ACC002", "if (has_totag()) {", "if (has_totag()) {\n\t\tif (!match_dialog()) exit;"),
        ("ACC005", "is_method(\"BYE\")", "is_method(\"BYE\") || $rm == \"INVITE\") if (!has_totag()"),
        ("ACC006", "\trecord_route();", "\tif ($rm != \"INVITE\") exit;\n\trecord_route();"),
        ("ACC006", "\trecord_route();", "\tswitch ($rm) {\n\tcase \"REGISTER\":\n\t\texit;\n\t}\n\trecord_route();"),
        (
            "ACC008",
            "\t\tt_relay(); # here",
            "\t\troute(again);\n\t\tt_relay();\n\t}\n}\nroute[again] {\n\tif ($rU != \"x\") {\n\t\tdo_accounting(\"log\", \"missed\");",
        ),
        ("ACC010", "sl_send_reply(484, \"Address Incomplete\"); # here", "t_newtran(); send_reply(484, \"Address Incomplete\");"),
        ("ACC010", "\"failed\"", "$var(flags)"),
        ("ACC011", "acc_log_request", "t_newtran();\n\t\t\tacc_log_request"),
        ("ACC016", "log: caller", "log: caller; callee"),
        ("ACC018", "\t\tsetflag(1); # here", "\t\tsetflag(1);\n\t\tt_flush_flags();"),
        ("ACC024", "do_accounting(\"log\", \"cdr\");", "fix_nated_contact();\n\t\tdo_accounting(\"log\", \"cdr\");\n\t\texit;"),
        ("ACC026", "if ($rU =~ \"^0800\")", "do_accounting(\"log\");\n\t\tif ($rU =~ \"^0800\")"),
    ] {
        let text = fixture(code);
        assert!(text.contains(from), "{code}: {from}");
        let options = text.lines().find_map(|line| line.strip_prefix("# accctl check-config")).unwrap();
        let args: Vec<_> = options.split_whitespace().collect();
        assert_eq!(codes(&text.replacen(from, to, 1), &args), [] as [&str; 0], "{code}: {to}");
    }
}

#[test]
fn both_branches_of_what_only_the_server_knows_may_count() {
    let with = |part: &str| fixture("ACC001").replace("\tt_relay(); # here", part);
    assert_eq!(codes(&with("#!ifexp 1 > 2\n\trecord_route();\n#!endif\n\tt_relay();"), &[]), [] as [&str; 0]);
    assert_eq!(codes(&with("#!ifdef SOMETHING\n\trecord_route();\n#!endif\n\tt_relay();"), &[]), ["ACC001"]);
    assert_eq!(codes(&with("#!ifdef SOMETHING\n\trecord_route();\n#!endif\n\tt_relay();"), &["-D", "SOMETHING"]), [] as [&str; 0]);
}

/// As in the server's own samples, which keep the address of who answered.
#[test]
fn the_source_of_a_reply_may_be_meant() {
    let with = |from: &str| {
        let text = fixture("ACC001").replace("\tt_relay(); # here", "\trecord_route();\n\tt_on_reply(\"told\");\n\tt_relay();");
        let text = text.replace("\nroute {", "\nmodparam(\"acc\", \"extra_fields\", \"log: dst\")\nmodparam(\"dialog\", \"db_mode\", 1)\nroute {");
        format!("{text}\nonreply_route[told] {{\n\t$acc_extra(dst) = {from};\n}}\n")
    };
    assert_eq!(codes(&with("$si"), &[]), [] as [&str; 0]);
    assert!(codes(&with("$si"), &["--strict"]).contains(&"ACC017".to_string()));
    assert_eq!(codes(&with("$ru"), &[]), ["ACC017"]);
}

#[test]
fn two_instances_with_one_journal_are_found() {
    let tmp = tempfile::tempdir().unwrap();
    let text = fixture("ACC029").replace("/run/opensips-acc", "/var/lib/opensips-acc/one");
    let (a, b) = (tmp.path().join("a.cfg"), tmp.path().join("b.cfg"));
    fs::write(&a, &text).unwrap();
    fs::write(&b, &text).unwrap();
    let (status, found) = check(&[], &[&a, &b]);
    assert_eq!((status, found.len()), (1, 1), "{found:?}");
    assert!(found[0]["code"] == "ACC029" && found[0]["file"] == b.to_str().unwrap() && found[0]["message"].as_str().unwrap().contains("a.cfg:"), "{found:?}");
}

#[test]
fn the_text_names_place_code_and_cure() {
    let path = root().join("tests/check_config/ACC001.cfg");
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).arg("check-config").arg(&path).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let place = format!("{}:20:2: warning[ACC001]: ", path.display());
    assert!(text.starts_with(&place) && text.contains("\n  help: call record_route()"), "{text}");
    // What is no configuration of this module, and what cannot be read.
    let other = Command::new(env!("CARGO_BIN_EXE_accctl")).args(["check-config", "/dev/null"]).output().unwrap();
    assert!(other.status.success() && String::from_utf8_lossy(&other.stderr).contains("does not load the module acc"), "{other:?}");
    let gone = Command::new(env!("CARGO_BIN_EXE_accctl")).args(["check-config", "/nowhere.cfg"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(2), "{gone:?}");
}
