//! The tool, on real journals.
#![forbid(unsafe_code)]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use acc::accounting::clock::Wall;
use acc::accounting::record::Kind;
use acc::backend::sql::Dialect;
use acc::config::Config;
use acc::journal::{DeadLetters, Dir, Entry, JournalSync, Payload, SinkId, Writer};
use acc::params::{Draft, RawValue};
use common::*;

fn accctl(args: &[&str], dir: Option<&Path>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_accctl")).args(args).args(dir).output().unwrap()
}

fn text(out: &Output) -> String {
    String::from_utf8(out.stdout.clone()).unwrap() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn a_journal_is_shown_verified_delivered_and_put_back() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let url = format!("sqlite://{}", tmp.path().join("acc.sqlite").display());
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "one")).unwrap();
    let mut lost = record(Kind::Manual, "two");
    lost.table = "later".into();
    w.append_record(SinkId::Db, &lost).unwrap();
    w.append(SinkId::Aaa, &Payload::Record(Box::new(record(Kind::Cdr, "three")))).unwrap();
    drop((w, dir));

    let out = text(&accctl(&["status"], Some(&journal)));
    assert!(out.contains("db: at most 2 waiting, at most 0 parked, 0 dead") && out.contains("aaa: 1 waiting"), "{out}");
    let out = accctl(&["dump", "--json"], Some(&journal));
    let lines: Vec<serde_json::Value> = String::from_utf8(out.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        lines.iter().map(|l| (&l["sink"], &l["record"]["callid"])).map(|(s, c)| format!("{s}{c}")).collect::<Vec<_>>(),
        ["\"db\"\"one\"", "\"db\"\"two\"", "\"aaa\"\"three\""]
    );
    let out = accctl(&["verify"], Some(&journal));
    assert!(out.status.success() && text(&out).contains("3 entries, 0 damaged, 0 duplicates"), "{}", text(&out));

    // The RADIUS record stays: no --aaa-url is given.
    let fields = ["--extra", "caller->caller_uri; note->x_note"];
    let out = accctl(&[&["deliver", "--url", &url], &fields[..]].concat(), Some(&journal));
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    assert!(text(&out).contains("db: 1 delivered, 1 dead") && text(&out).contains("still waiting: 1"), "{}", text(&out));

    let out = accctl(&["requeue", "--sink", "db"], Some(&journal));
    assert!(out.status.success() && text(&out).contains("1 entries put back"), "{}", text(&out));
    assert!(!journal.join("dead-db.jsonl").exists());
    let out = accctl(&[&["schema", "--url", &url, "--apply", "--table-acc", "later"], &fields[..]].concat(), None);
    assert!(out.status.success() && text(&out).contains("CREATE TABLE \"later\""), "{}", text(&out));
    let out = accctl(&["schema", "--url", &url, "--extra", "a->one_more"], None);
    assert_eq!(
        text(&out),
        "ALTER TABLE \"acc\" ADD COLUMN \"one_more\" VARCHAR(255) DEFAULT NULL;\nALTER TABLE \"missed_calls\" ADD COLUMN \"one_more\" VARCHAR(255) DEFAULT NULL;\nALTER TABLE \"acc_calls\" ADD COLUMN \"one_more\" VARCHAR(255) DEFAULT NULL;\n"
    );
    let out = accctl(&[&["deliver", "--url", &url], &fields[..]].concat(), Some(&journal));
    assert!(text(&out).contains("db: 1 delivered, 0 dead"), "{}", text(&out));

    let name = acc::journal::Dir::open_to_read(&journal).unwrap().segments().unwrap()[0].name;
    let path = journal.join(name.to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let out = accctl(&["verify"], Some(&journal));
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("damaged from 8 to"), "{}", text(&out));
}

/// The table of missed calls has no duration: it holds no call that lasted so long.
#[test]
fn find_looks_in_the_tables_that_have_the_column() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let url = format!("sqlite://{}", tmp.path().join("acc.sqlite").display());
    let fields = ["--extra", "caller->caller_uri; note->x_note"];
    accctl(&[&["schema", "--url", &url, "--apply"], &fields[..]].concat(), None);
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    for (kind, call, table) in [(Kind::Cdr, "one", "acc"), (Kind::Missed, "two", "missed_calls")] {
        let mut record = record(kind, call);
        record.table = table.into();
        w.append_record(SinkId::Db, &record).unwrap();
    }
    drop((w, dir));
    let out = text(&accctl(&[&["deliver", "--url", &url], &fields[..]].concat(), Some(&journal)));
    assert!(out.contains("db: 2 delivered, 0 dead"), "{out}");
    let find = |condition: &str| accctl(&["find", "--where", condition, "--url", &url], None);
    let all = text(&find("method=INVITE"));
    let of_call = |out: &str, call: &str| out.lines().filter(|l| l.contains(&format!("callid={call}"))).count();
    assert_eq!((of_call(&all, "one"), of_call(&all, "two")), (1, 1), "{all}");
    let duration = all.split_once(" duration=").unwrap().1.split_whitespace().next().unwrap();
    let lasted = text(&find(&format!("duration={duration}")));
    assert_eq!((of_call(&lasted, "one"), of_call(&lasted, "two")), (1, 0), "{lasted}");
    assert!(lasted.contains(" sip_reason=") && lasted.contains(" caller_uri="), "all columns with a value are shown: {lasted}");
    let nowhere = find("colour=red");
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(text(&nowhere).contains("table acc has no column colour; table missed_calls has no column colour"), "{}", text(&nowhere));
}

/// What is left of calls, up or over, is not a record that waits.
#[test]
fn states_of_calls_are_not_undelivered() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let url = format!("sqlite://{}", tmp.path().join("acc.sqlite").display());
    let dir = Dir::open(&journal).unwrap();
    let (mut w, mut other) = (writer(&dir, 1), writer(&dir, 2));
    w.append_call(1, b"up").unwrap();
    w.append_call(2, b"over").unwrap();
    other.append_end(2, &[(SinkId::Db, record(Kind::Cdr, "two"))]).unwrap();
    drop((w, other, dir));
    let fields = ["--extra", "caller->caller_uri; note->x_note"];
    for delivered in [1, 0] {
        let out = accctl(&[&["deliver", "--url", &url], &fields[..]].concat(), Some(&journal));
        assert!(out.status.success(), "{}", text(&out));
        assert!(text(&out).contains(&format!("db: {delivered} delivered, 0 dead")) && text(&out).contains("still waiting: 0"), "{}", text(&out));
    }
    let dir = Dir::open_to_read(&journal).unwrap();
    let open: Vec<_> = acc::journal::calls::scan(&dir).unwrap().calls.into_keys().collect();
    assert_eq!(open, [1]);
}

/// Two nodes, one database and one file; `accctl audit` finds what is taken away, doubled, waiting and dead.
#[test]
fn an_audit_finds_what_is_missing() {
    let tmp = tempfile::tempdir().unwrap();
    let path = |name: &str| tmp.path().join(name);
    let database = path("acc.sqlite");
    let url = format!("sqlite://{}", database.display());
    let nodes = [path("node1"), path("node2")];
    let record_of = |node: u32, n: u32, sink: SinkId| {
        let mut r = record(if n.is_multiple_of(5) { Kind::Missed } else { Kind::Cdr }, &format!("call-{node}-{n}"));
        (r.id, r.backend) = (u128::from(node * 1000 + n), sink.backend());
        r
    };
    for (node, dir) in (1..).zip(&nodes) {
        let dir = Dir::open(dir).unwrap();
        let mut w = Writer::new(&dir, 1, std::process::id(), JournalSync::Os, 64 << 10);
        for n in 0..10 {
            w.append_record(SinkId::Db, &record_of(node, n, SinkId::Db)).unwrap();
            w.append_record(SinkId::Stream, &record_of(node, n, SinkId::Stream)).unwrap();
        }
        // Segments that are delivered stay for an hour.
        let mut draft = Draft::default();
        let stream = format!("file://{}", path(&format!("cdr{node}.jsonl")).display());
        for (name, value) in [("db_url", &url), ("stream_url", &stream), ("extra_fields", &"db: caller->caller_uri; note->x_note; acc_id".to_owned())] {
            draft.set(name, RawValue::Str(value.clone())).unwrap();
        }
        let config = Config { journal_dir: dir.path().into(), journal_keep: std::time::Duration::from_secs(3600), ..draft.finish(None).unwrap() };
        let before = [SinkId::Db, SinkId::Stream].map(|sink| acc::stats::get(sink.delivered()));
        let running = Running::start(config, &dir);
        wait_until("both are delivered", || [SinkId::Db, SinkId::Stream].map(|sink| acc::stats::get(sink.delivered())) == before.map(|n| n + 10));
        running.stop();
    }
    let dirs = nodes.each_ref().map(|n| n.to_str().unwrap());
    let sql = ["audit", "--url", &url];
    let (one, two) = (path("cdr1.jsonl"), path("cdr2.jsonl"));
    let files = ["audit", "--file", one.to_str().unwrap(), "--file", two.to_str().unwrap()];
    let audit = |args: &[&str]| {
        let out = accctl(&[args, &dirs[..]].concat(), None);
        (out.status.code(), text(&out))
    };
    let all =
        |text: &str| text.lines().find(|l| l.starts_with("all ")).unwrap_or_else(|| panic!("{text}")).split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
    for args in [&sql[..], &files] {
        let (code, text) = audit(args);
        assert_eq!((code, &*all(&text)), (Some(0), "20 20 0 0 0 0"), "{text}");
    }
    // Some times are numbers of days, as Kamailio writes them.
    let change = |sql: &str| assert!(Command::new("sqlite3").arg(&database).arg(sql).status().unwrap().success());
    change("UPDATE acc SET time = julianday(time) - 0.5 / 86400 WHERE id % 2 = 0; UPDATE missed_calls SET time = julianday(time) - 0.5 / 86400");
    assert_eq!(all(&audit(&sql).1), "20 20 0 0 0 0");

    // Somebody deletes a row and a line, and doubles others.
    let id = |n: u32| format!("{n:032x}");
    change(&format!("DELETE FROM acc WHERE acc_id = '{}'", id(1003)));
    change(&format!("INSERT INTO missed_calls (callid, time, acc_id) SELECT callid, time, acc_id FROM missed_calls WHERE acc_id = '{}'", id(2005)));
    let lines = std::fs::read_to_string(&two).unwrap();
    std::fs::write(&two, lines.lines().filter(|l| !l.contains(&id(2007))).chain(lines.lines().take(1)).map(|l| format!("{l}\n")).collect::<String>()).unwrap();
    for (args, gone) in [(&sql[..], 1003), (&files, 2007)] {
        let (code, text) = audit(args);
        assert_eq!((code, &*all(&text)), (Some(1), "20 19 0 0 1 1"), "{text}");
        assert!(
            text.contains(&format!("missing: {}, Cdr accepted", id(gone))) && text.contains(&format!("callid call-{}-{}", gone / 1000, gone % 1000)),
            "{text}"
        );
    }

    // What waits, and what is dead, is not missing.
    let dir = Dir::open(&nodes[0]).unwrap();
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Stream, &record_of(1, 11, SinkId::Stream)).unwrap();
    let dead = record_of(1, 3, SinkId::Db);
    let segment = dir.segments().unwrap()[0].name;
    let entry = Entry { segment, offset: 8, end: 9, wall: Wall(0), payload: Payload::Record(Box::new(dead)), parked: None };
    DeadLetters::new(&dir, SinkId::Db).add(&entry, "tried").unwrap();
    drop((w, dir));
    let (code, text) = audit(&sql);
    assert_eq!((code, &*all(&text)), (Some(0), "20 19 0 1 0 1"), "{text}");
    assert_eq!(all(&audit(&files).1), "21 19 1 0 1 1");
    // Nor is what a stopped accctl requeue has not put back.
    std::fs::rename(nodes[0].join("dead-db.jsonl"), nodes[0].join("requeueing-db-0000000000000001.jsonl")).unwrap();
    let (code, text) = audit(&sql);
    assert_eq!((code, &*all(&text)), (Some(0), "20 19 0 1 0 1"), "{text}");
    let (code, text) = audit(&["audit"]);
    assert!(code == Some(2) && text.contains("--url is missing"), "{text}");
}

/// The n-th entry of a segment.
fn entry(n: u64) -> Entry {
    let payload = Payload::Record(Box::new(record(Kind::Cdr, &n.to_string())));
    Entry { segment: "0000000000000001-1-1-00000001.seg".parse().unwrap(), offset: n, end: n + 1, wall: Wall(0), payload, parked: None }
}

/// A part of a line was written when the disk was full, or power was lost, in the middle of a character.
#[test]
fn a_dead_letter_cut_off_costs_no_other_one() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let file = tmp.path().join("dead-db.jsonl");
    let mut dead = DeadLetters::new(&dir, SinkId::Db);
    dead.add(&entry(1), "refused: \u{fc}").unwrap();
    let whole = std::fs::read(&file).unwrap();
    let cut = whole.iter().position(|byte| *byte == 0xc3).unwrap() + 1;
    std::fs::write(&file, [&whole[..], &whole[..cut]].concat()).unwrap();
    // The same process goes on, and one after it.
    dead.add(&entry(2), "refused").unwrap();
    let all = std::fs::read(&file).unwrap();
    std::fs::write(&file, &all[..all.len() - 1]).unwrap();
    DeadLetters::new(&dir, SinkId::Db).add(&entry(3), "refused").unwrap();
    drop((dead, dir));

    let out = accctl(&["status"], Some(tmp.path()));
    assert!(out.status.success() && text(&out).contains("db: at most 0 waiting, at most 0 parked, 4 dead"), "{}", text(&out));
    let out = accctl(&["requeue", "--sink", "db"], Some(tmp.path()));
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("3 entries put back") && text(&out).contains("1 lines could not be read"), "{}", text(&out));
    let out = text(&accctl(&["dump", "--json"], Some(tmp.path())));
    let calls: Vec<_> = out.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["record"]["callid"].clone()).collect();
    assert_eq!(calls, ["1", "2", "3"]);
}

/// Of one batch, so that no cursor has passed any of them, while dead letters are put back.
#[test]
fn letters_that_die_while_others_are_put_back_are_kept() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut dead = DeadLetters::new(&dir, SinkId::Db);
    dead.add(&entry(1), "refused").unwrap();
    let out = accctl(&["requeue", "--sink", "db"], Some(tmp.path()));
    assert!(text(&out).contains("1 entries put back"), "{}", text(&out));
    dead.add(&entry(1), "refused").unwrap();
    dead.add(&entry(2), "refused").unwrap();

    // The second one is under way to the file when that is taken away: written, but not yet as a whole.
    let file = tmp.path().join("dead-db.jsonl");
    let letter = std::fs::read(&file).unwrap();
    let under_way = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    under_way.lock().unwrap();
    under_way.set_len(0).unwrap();
    let journal = tmp.path().to_owned();
    let requeue = std::thread::spawn(move || accctl(&["requeue", "--sink", "db"], Some(&journal)));
    wait_until("the file is taken away", || !file.exists());
    (&under_way).write_all(&letter).unwrap();
    drop(under_way);
    let out = requeue.join().unwrap();
    assert!(text(&out).contains("1 entries put back"), "{}", text(&out));
    assert_eq!(text(&accctl(&["dump"], Some(tmp.path()))).lines().count(), 2);
}

/// Between its opening and its writing: whoever took it has read it.
#[test]
fn a_letter_does_not_go_to_a_file_that_was_taken_away() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let (file, taken) = (tmp.path().join("dead-db.jsonl"), tmp.path().join("taken"));
    DeadLetters::new(&dir, SinkId::Db).add(&entry(1), "refused").unwrap();
    let reader = std::fs::File::open(&file).unwrap();
    reader.lock_shared().unwrap();
    let writing = std::thread::spawn(move || DeadLetters::new(&dir, SinkId::Db).add(&entry(2), "refused"));
    let waits = format!(":{} ", std::os::unix::fs::MetadataExt::ino(&reader.metadata().unwrap()));
    wait_until("the letter waits", || std::fs::read_to_string("/proc/locks").unwrap().lines().any(|l| l.contains("-> FLOCK") && l.contains(&waits)));
    std::fs::rename(&file, &taken).unwrap();
    drop(reader);
    writing.join().unwrap().unwrap();
    let offsets = [taken, file].map(|path| serde_json::from_str::<serde_json::Value>(&std::fs::read_to_string(path).unwrap()).unwrap()["offset"].clone());
    assert_eq!(offsets, [1, 2]);
}

/// A file may have 512 bytes, then writing fails: the third record does not fit.
#[test]
fn an_interrupted_requeue_is_completed_by_the_next() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut dead = DeadLetters::new(&dir, SinkId::Db);
    for n in 1..=3 {
        dead.add(&entry(n), "refused").unwrap();
    }
    let limited = "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"";
    let out = Command::new("sh").args(["-c", limited, env!("CARGO_BIN_EXE_accctl"), "requeue", "--sink", "db"]).arg(tmp.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out).contains("what was not put back is still there: repair that, and run accctl requeue again"), "{}", text(&out));
    let entries = || text(&accctl(&["dump"], Some(tmp.path()))).lines().count();
    assert_eq!(entries(), 0, "all of them or none");
    // Meanwhile another one dies.
    dead.add(&entry(4), "refused").unwrap();
    let out = text(&accctl(&["status"], Some(tmp.path())));
    assert!(out.contains("db: at most 0 waiting, at most 0 parked, 4 dead"), "{out}");
    for n in ["1", "4"] {
        let out = text(&accctl(&["find", n, "--journal", tmp.path().to_str().unwrap()], None));
        assert!(out.starts_with("given up for db: refused: "), "{out}");
    }
    // A copy that somebody made is not what is under way.
    std::fs::write(tmp.path().join("requeueing-db-0000000000000001.jsonl.gz"), "").unwrap();
    let out = accctl(&["requeue", "--sink", "db"], Some(tmp.path()));
    assert!(out.status.success() && text(&out).starts_with("3 entries put back") && text(&out).contains("\n1 entries put back"), "{}", text(&out));
    assert_eq!(entries(), 4);
    let names: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(["requeued-db-", "requeueing", "dead"].map(|part| names.iter().filter(|n| n.starts_with(part)).count()), [2, 1, 0], "{names:?}");
}

#[test]
fn doubles_and_gaps_are_found() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = acc::journal::Writer::new(&dir, 1, 7, acc::journal::JournalSync::Os, 1);
    for call in ["one", "two", "three", "four"] {
        // One for each destination is none too many.
        w.append_end(call.len() as u128, &[(SinkId::Db, record(Kind::Cdr, call)), (SinkId::Aaa, record(Kind::Cdr, call))]).unwrap();
    }
    drop((w, dir));
    let out = accctl(&["verify"], Some(tmp.path()));
    assert!(out.status.success() && text(&out).contains("12 entries, 0 damaged, 0 duplicates"), "{}", text(&out));

    let names: Vec<_> = Dir::open_to_read(tmp.path()).unwrap().segments().unwrap().iter().map(|s| s.name.to_string()).collect();
    std::fs::copy(tmp.path().join(&names[3]), tmp.path().join(names[3].replace("-7-00000003", "-8-00000000"))).unwrap();
    for name in &names[1..3] {
        std::fs::remove_file(tmp.path().join(name)).unwrap();
    }
    let out = accctl(&["verify"], Some(tmp.path()));
    assert_eq!(out.status.code(), Some(1));
    let text = text(&out);
    assert!(text.contains(&format!("2 segments between {} and {} are missing", names[0], names[3])), "{text}");
    assert!(text.contains(&format!("is also in {} at 8", names[3])) && text.contains("9 entries, 0 damaged, 2 duplicates"), "{text}");
}

/// The server could not read what root makes.
#[test]
fn nothing_is_written_for_a_server_of_another_user() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    DeadLetters::new(&dir, SinkId::Db).add(&entry(1), "refused").unwrap();
    drop(dir);
    let files = || std::fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>();
    let before = files();
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let nobody = users.lines().find(|l| l.starts_with("nobody:")).unwrap().split(':').nth(2).unwrap().parse().unwrap();
    for (owner, part) in [(nobody, "the user nobody: run accctl as that user, as in: runuser -u nobody -- accctl"), (987_654_321, "the user ID 987654321")] {
        if std::os::unix::fs::chown(tmp.path().join("lock"), Some(owner), None).is_err() {
            let _ = writeln!(std::io::stderr(), "skipped: files cannot be given to another user here");
            return;
        }
        for command in [&["requeue", "--sink", "db"][..], &["deliver"]] {
            let out = accctl(command, Some(tmp.path()));
            assert_eq!(out.status.code(), Some(2), "{}", text(&out));
            assert!(text(&out).contains(part), "{}", text(&out));
        }
        assert_eq!(files(), before);
        assert!(accctl(&["status"], Some(tmp.path())).status.success());
    }
}

/// The tables of Kamailio's own module, with the columns that its parameters name; they serve as Debian makes them.
#[test]
fn tables_of_kamailio_have_its_columns_alone() {
    let config = tempfile::NamedTempFile::new().unwrap();
    let lines = [("db_extra", "src=$fU"), ("cdrs_table", "acc_cdrs"), ("cdr_extra", "who=$dlg_var(who)"), ("cdr_end_id", "ended")];
    let mut text_of = String::from("#!KAMAILIO\nmodparam(\"acc\", \"cdr_enable\", 1)\n");
    for (name, value) in lines {
        text_of.push_str(&format!("modparam(\"acc\", \"{name}\", \"{value}\")\n"));
    }
    std::fs::write(config.path(), text_of).unwrap();
    let path = config.path().to_str().unwrap();
    let out = text(&accctl(&["schema", "--for", "kamailio", "--dialect", "mysql", "--config", path], None));
    for part in [
        "INSERT INTO version (table_name, table_version) VALUES ('acc', 5);",
        "VALUES ('missed_calls', 4);",
        "VALUES ('acc_cdrs', 2);",
        "`callid` VARCHAR(255) DEFAULT '' NOT NULL",
        "`start_time` DATETIME DEFAULT '2000-01-01 00:00:00' NOT NULL,\n    `ended` DATETIME DEFAULT '2000-01-01 00:00:00' NOT NULL,\n    `duration` DOUBLE DEFAULT 0 NOT NULL,\n    `who` VARCHAR(255) DEFAULT NULL\n",
        "`time` DATETIME NOT NULL,\n    `src` VARCHAR(255) DEFAULT NULL\n",
        "CREATE INDEX `acc_cdrs_start_idx` ON `acc_cdrs` (`start_time`);",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("setuptime") && !out.contains("created"), "{out}");

    // Debian's lack only what the parameters name.
    let tmp = tempfile::tempdir().unwrap();
    let (database, debian) = (tmp.path().join("k.sqlite"), Path::new("/usr/share/kamailio/db_sqlite"));
    if !debian.exists() {
        return skip("Kamailio's db_sqlite");
    }
    for file in ["standard-create.sql", "acc-create.sql"] {
        let made = Command::new("sqlite3").arg(&database).arg(format!(".read {}", debian.join(file).display())).status();
        if made.is_err() {
            return skip("sqlite3");
        }
    }
    let url = format!("sqlite://{}", database.display());
    let schema = || text(&accctl(&["schema", "--for", "kamailio", "--url", &url, "--config", path, "--set", "cdr_end_id=end_time", "--apply"], None));
    let made = schema();
    let altered: Vec<_> = made.lines().filter(|l| l.starts_with("ALTER")).collect();
    assert_eq!(
        altered,
        ["acc\" ADD COLUMN \"src\"", "missed_calls\" ADD COLUMN \"src\"", "acc_cdrs\" ADD COLUMN \"who\""]
            .map(|t| format!("ALTER TABLE \"{t} VARCHAR(255) DEFAULT NULL;")),
        "{made}"
    );
    assert!(!made.contains("CREATE TABLE \"acc\""), "{made}");
    assert_eq!(schema(), "");
}

#[test]
fn mistakes_are_explained() {
    for (args, part) in [
        (&[][..], "Usage: accctl"),
        (&["fly"], "unrecognized subcommand 'fly'"),
        (&["statsu"], "similar subcommand exists: 'status'"),
        (&["status"], "no journal directory given: name the server's journal_dir, or give --config FILE"),
        (&["status", "/nonexistent/journal"], "journal_dir \"/nonexistent/journal\" cannot be opened"),
        (&["status", "--config", "/nonexistent/kamailio.cfg"], "/nonexistent/kamailio.cfg cannot be read"),
        (&["status", "--define", "A"], "--config <FILE>"),
        (&["schema"], "--url is missing"),
        (&["schema", "--url", "text:secret"], "db_url begins with text:"),
        (&["schema", "--set", "db_url=text:secret"], "db_url begins with text:"),
        (&["schema", "--dialect", "oracle"], "invalid value 'oracle' for '--dialect <DIALECT>'\n  [possible values: sqlite, mysql, postgres]"),
        (&["schema", "--dialect", "mysql", "--apply"], "'--dialect <DIALECT>' cannot be used with '--apply'"),
        (&["requeue"], "--sink <SINK>"),
        (&["requeue", "--sink", "x"], "[possible values: db, aaa, diameter, log, stream, stream2, stream3, stream4]"),
        (&["schema", "--url", "sqlite:x", "--extra", "a->b c"], "--extra: parameter extra_fields: "),
        (&["schema", "--set", "db_table_acc"], "--set: write --set NAME=VALUE"),
        (&["schema", "--set", "mysql://acc:secret@host/acc?ssl-mode=disabled"], "--set: write --set NAME=VALUE"),
        (&["schema", "--set", "db_tabel_acc=a"], "--set db_tabel_acc: there is no parameter \"db_tabel_acc\""),
        (&["schema", "--set", "early_media=yes"], "--set early_media: \"yes\" is not a number"),
        (&["schema", "--dialect", "mysql", "--set", "db_table_acc=a;b"], "parameter db_table_acc: "),
    ] {
        let out = accctl(args, None);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(text(&out).contains(part) && !text(&out).contains("secret"), "{args:?}: {}", text(&out));
    }
}

#[test]
fn every_command_has_its_help() {
    for command in ["status", "dump", "verify", "deliver", "requeue", "schema"] {
        let out = accctl(&[command, "--help"], None);
        assert!(out.status.success() && text(&out).contains(&format!("Usage: accctl {command} ")) && text(&out).contains("--config <FILE>"), "{}", text(&out));
    }
}

/// A file of the same name may be where accctl is run.
#[test]
fn what_is_relative_to_the_server_is_asked_for() {
    let tmp = tempfile::tempdir().unwrap();
    let config = tmp.path().join("opensips.cfg");
    let with = |lines: &str, args: &[&str]| {
        std::fs::write(&config, lines).unwrap();
        let out = accctl(&[args, &["--config", config.to_str().unwrap()]].concat(), None);
        assert_eq!(out.status.code(), Some(2), "{}", text(&out));
        text(&out)
    };
    let database = "modparam(\"acc\", \"db_url\", \"sqlite:acc.sqlite\")\n";
    let said = "parameter db_url: acc.sqlite is relative to the server's working directory: give the absolute path, with --set db_url=...";
    assert!(with(database, &["schema", "--apply"]).contains(said));
    assert!(with(database, &["deliver", tmp.path().to_str().unwrap()]).contains(said));
    assert!(with("modparam(\"acc\", \"journal_dir\", \"journal\")\n", &["status"]).contains("parameter journal_dir: journal is relative"));
    // The default is the server's own then.
    let out = with("db_default_url = \"sqlite:default.sqlite\"\n", &["schema"]);
    assert!(out.contains("has no line modparam(\"acc\", ...)") && out.contains("parameter db_url: default.sqlite is relative"), "{out}");
}

/// Nothing is called as it is by default, and only the configuration says so.
#[test]
fn delivery_takes_the_parameters_of_the_server() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let database = tmp.path().join("acc.sqlite");
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "one")).unwrap();
    w.append_record(SinkId::Db, &record(Kind::Missed, "two")).unwrap();
    drop((w, dir));
    let config = tmp.path().join("kamailio.cfg");
    std::fs::write(tmp.path().join("names.cfg"), "modparam(\"acc\", \"acc_callid_column\", 'call_id')\nmodparam('acc', 'acc_time_column', 'at')\n").unwrap();
    let text_of = format!(
        "#!KAMAILIO\n#!define DBURL \"sqlite://{}\"\n#!ifdef WITH_OLD_TABLES\nmodparam(\"acc\", \"db_table_acc\", \"old\")\n#!else\n\
         modparam(\"acc\", \"db_table_acc\", \"cdrs\")\n#!endif\n/* modparam(\"acc\", \"db_table_acc\", \"none\") */\ninclude_file \"names.cfg\"\n\
         modparam(\"acc\", \"db_url\", DBURL)\nmodparam(\"acc\", \"db_table_missed_calls\", \"missed\")\nmodparam(\"acc\", \"extra_fields\",\n  \
         \"db: caller->caller_uri;\" \"note->x_note\")\nmodparam(\"tm|acc\", \"journal_dir\", \"{}\")\nrequest_route {{ xlog(\"$(hdr(X)[#]) it's\"); }}\n",
        database.display(),
        journal.display()
    );
    std::fs::write(&config, text_of).unwrap();
    let config = config.to_str().unwrap();
    let out = accctl(&["status", "--config", config], None);
    assert!(text(&out).contains("db: at most 2 waiting"), "{}", text(&out));
    let out = accctl(&["schema", "--apply", "--config", config], None);
    assert!(out.status.success() && text(&out).contains("\"call_id\"") && text(&out).contains("CREATE TABLE \"missed\""), "{}", text(&out));
    let out = accctl(&["deliver", "--config", config], None);
    assert!(out.status.success() && text(&out).contains("db: 2 delivered, 0 dead"), "{}", text(&out));
    let rows = sqlite(&database, "SELECT call_id, at IS NOT NULL FROM cdrs UNION ALL SELECT call_id, at IS NOT NULL FROM missed");
    assert_eq!(rows.unwrap(), "one\t1\ntwo\t1\n");
}

fn schema(dialect: Dialect) -> String {
    text(&accctl(&["schema", "--dialect", dialect.name()], None))
}

#[test]
fn the_committed_schemas_are_in_step() {
    for dialect in Dialect::ALL {
        assert_eq!(std::fs::read_to_string(schema_file(dialect.name())).unwrap(), schema(dialect), "run: cargo test --test accctl -- --ignored");
    }
}

#[test]
#[ignore = "writes scripts/schema"]
fn write_the_schemas() {
    for dialect in Dialect::ALL {
        std::fs::write(schema_file(dialect.name()), schema(dialect)).unwrap();
    }
}

/// A RADIUS server that takes everything, and tells what it took.
fn radius_server() -> (std::net::SocketAddr, std::sync::mpsc::Receiver<Vec<u8>>) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (send, taken) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let request = radius::core::packet::Packet::decode(&buffer[..length], b"secret").unwrap();
            let answer = request.make_response_packet(radius::core::code::Code::AccountingResponse).encode().unwrap();
            let _ = socket.send_to(&answer, from);
            if send.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    (address, taken)
}

#[test]
fn everything_a_stopped_server_left_is_delivered() {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let url = format!("sqlite://{}", tmp.path().join("acc.sqlite").display());
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "one")).unwrap();
    let mut aaa = record(Kind::Cdr, "two");
    aaa.backend = acc::accounting::record::Backend::Aaa;
    aaa.extras = vec![field("Acc-Caller", Some(b"sip:a@example.com"))];
    w.append_record(SinkId::Aaa, &aaa).unwrap();
    w.append(SinkId::Log, &Payload::LogLine(b"<29>a line".to_vec())).unwrap();
    drop((w, dir));
    let log = tmp.path().join("log");
    let daemon = std::os::unix::net::UnixDatagram::bind(&log).unwrap();
    daemon.set_read_timeout(Some(PATIENCE)).unwrap();
    let (address, taken) = radius_server();
    let client = tmp.path().join("client.conf");
    std::fs::write(&client, format!("acctserver {address}:secret\ndictionary dictionary\n")).unwrap();
    std::fs::write(tmp.path().join("dictionary"), "ATTRIBUTE Acc-Caller 243 string\n").unwrap();
    let aaa_url = format!("radius:{}", client.display());

    let wrong = accctl(&["deliver", "--aaa-url", &aaa_url, "--aaa-extra", "caller->Acc-Nobody"], Some(&journal));
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong).contains("no attribute 'Acc-Nobody'"), "{}", text(&wrong));

    let log = log.display().to_string();
    let args = [
        "deliver",
        "--set",
        "service_type=-1",
        "--url",
        &url,
        "--extra",
        "caller->caller_uri; note->x_note",
        "--aaa-url",
        &aaa_url,
        "--aaa-extra",
        "caller->Acc-Caller",
        "--log-socket",
        &log,
    ];
    let out = accctl(&args, Some(&journal));
    assert!(out.status.success(), "{}", text(&out));
    for sink in ["db", "aaa", "log"] {
        assert!(text(&out).contains(&format!("{sink}: 1 delivered, 0 dead")), "{}", text(&out));
    }
    assert_eq!(segments(&journal), 0);
    let packet = taken.recv_timeout(PATIENCE).unwrap();
    // Acct-Session-Id, the field, NAS-Port, and the default of Service-Type.
    for part in [&b"\x2c\x05two"[..], b"\xf3\x13sip:a@example.com", b"\x05\x06\x00\x00\x13\xc4", b"\x06\x06\x00\x00\x00\x0f"] {
        assert!(packet.windows(part.len()).any(|w| w == part), "{packet:?}");
    }
    let mut buffer = [0; 100];
    let length = daemon.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"<29>a line");
    assert_eq!(sqlite(&tmp.path().join("acc.sqlite"), "SELECT callid FROM acc").unwrap(), "one\n");
}
