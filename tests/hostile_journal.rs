//! A journal into which somebody else put files, and segments that cannot be read: the rest is delivered,
//! nothing waits for ever, and memory stays small.
#![forbid(unsafe_code)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acc::accounting::record::Kind;
use acc::journal::{Dir, SinkId, calls};
use acc::stats::{self, Counter};
use common::{Running, accctl_command, config, field, record, segments, sqlite, wait_until, writer};

/// Nobody, on Debian.
const NOBODY: u32 = 65_534;

struct Place {
    _tmp: tempfile::TempDir,
    journal: PathBuf,
    database: PathBuf,
}

impl Place {
    fn new() -> Place {
        let tmp = tempfile::tempdir().unwrap();
        let (journal, database) = (tmp.path().join("journal"), tmp.path().join("acc.sqlite"));
        Place { _tmp: tmp, journal, database }
    }

    fn url(&self) -> String {
        format!("sqlite:///{}", self.database.display())
    }

    fn callids(&self) -> Vec<String> {
        let answer = sqlite(&self.database, "SELECT callid FROM acc ORDER BY callid").unwrap_or_default();
        answer.lines().map(str::to_string).collect()
    }

    fn accctl(&self, args: &[&str]) -> Output {
        accctl_command().args(args).arg(&self.journal).output().unwrap()
    }
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Puts one of everything that is no segment into a directory, under the names of segments.
fn plant(journal: &Path, boot: u64) -> Vec<PathBuf> {
    let path = |seq: u32| journal.join(format!("{boot:016x}-1-12-{seq:08}.seg"));
    assert!(Command::new("mkfifo").arg(path(1)).status().unwrap().success());
    symlink("/etc/hostname", path(2)).unwrap();
    drop(UnixDatagram::bind(path(3)).unwrap());
    fs::create_dir(path(4)).unwrap();
    File::create(path(5)).unwrap().set_len(1 << 40).unwrap();
    (1..=5).map(path).collect()
}

#[test]
fn what_bears_the_name_of_a_segment_and_is_none_is_passed_over() {
    let p = Place::new();
    let dir = Dir::open(&p.journal).unwrap();
    // Of an earlier start, of this one, and of one to come.
    let mut planted = plant(&p.journal, 1);
    planted.extend(plant(&p.journal, dir.boot()));
    // Nor is this a directory.
    fs::write(p.journal.join("kept"), "").unwrap();
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "first")).unwrap();
    let running = Running::start(config(Some(&p.url()), &p.journal), &dir);
    wait_until("the first row", || p.callids() == ["first"]);
    planted.extend(plant(&p.journal, u64::MAX));
    w.append_record(SinkId::Db, &record(Kind::Cdr, "second")).unwrap();
    wait_until("the next row", || p.callids() == ["first", "second"]);
    assert!(calls::scan(&dir).unwrap().calls.is_empty());
    for command in [&["status"][..], &["dump"], &["dump", "--json"]] {
        let out = p.accctl(command);
        assert!(out.status.success(), "{}", text(&out));
        for what in ["a named pipe", "a symbolic link", "a socket", "a directory", "a file of 1048576 MiB"] {
            assert!(text(&out).contains(&format!(" is {what}, not a journal segment, and is skipped")), "{}", text(&out));
        }
    }
    let out = p.accctl(&["verify"]);
    assert!(!out.status.success() && text(&out).contains("0 damaged, 0 duplicates, 15 files skipped"), "{}", text(&out));
    drop(w);
    wait_until("the segment goes", || segments(&p.journal) == planted.len());
    running.stop();
    drop(dir);
    // The next start, with a new segment, by the tool.
    let dir = Dir::open(&p.journal).unwrap();
    writer(&dir, 1).append_record(SinkId::Db, &record(Kind::Cdr, "third")).unwrap();
    drop(dir);
    let out = p.accctl(&["deliver", "--url", &p.url(), "--extra", "caller->caller_uri; note->x_note"]);
    assert!(out.status.success() && text(&out).contains("segments with entries still waiting: 0"), "{}", text(&out));
    assert_eq!(p.callids(), ["first", "second", "third"]);
    assert!(planted.iter().all(|path| fs::symlink_metadata(path).is_ok()), "nothing of others is removed");
}

#[test]
fn a_segment_that_cannot_be_read_holds_nothing_else_up() {
    let p = Place::new();
    let dir = Dir::open(&p.journal).unwrap();
    for rank in [1, 2] {
        writer(&dir, rank).append_record(SinkId::Db, &record(Kind::Cdr, &format!("of {rank}"))).unwrap();
    }
    // What a read of it fails with, as one of a broken disk does: a loop of links.
    let name = dir.segments().unwrap()[0].name.to_string();
    let aside = p.journal.join("aside");
    fs::rename(p.journal.join(&name), &aside).unwrap();
    symlink(&name, p.journal.join(&name)).unwrap();
    let running = Running::start(config(Some(&p.url()), &p.journal), &dir);
    wait_until("the row of the other", || p.callids() == ["of 2"]);
    assert!(SinkId::Db.state().outage_seconds().is_none());
    fs::rename(&aside, p.journal.join(&name)).unwrap();
    wait_until("both rows", || p.callids() == ["of 1", "of 2"]);
    wait_until("the segments go", || segments(&p.journal) == 0);
    running.stop();
}

/// accctl, where another user can run it.
fn as_nobody(tmp: &Path) -> impl Fn(&[&str]) -> Output + use<> {
    let program = tmp.join("accctl");
    fs::copy(env!("CARGO_BIN_EXE_accctl"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    move |args| Command::new(&program).args(args).uid(NOBODY).gid(NOBODY).output().unwrap()
}

#[test]
fn a_segment_of_another_user_waits_until_it_is_given_back() {
    if !rustix::process::geteuid().is_root() {
        return common::skip("root, who can give files to others,");
    }
    let p = Place::new();
    let home = p.journal.parent().unwrap();
    chown(home, Some(NOBODY), None).unwrap();
    let accctl = as_nobody(home);
    let dir = Dir::open(&p.journal).unwrap();
    let mut of_root = writer(&dir, 0);
    of_root.append_record(SinkId::Db, &record(Kind::Cdr, "of root")).unwrap();
    for n in 0..100 {
        writer(&dir, 1).append_record(SinkId::Db, &record(Kind::Cdr, &format!("{n:02}"))).unwrap();
    }
    let name = dir.segments().unwrap()[0].name;
    assert_eq!(name.rank, 0);
    drop((of_root, dir));
    for entry in fs::read_dir(&p.journal).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != *name.to_string() {
            chown(entry.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    chown(&p.journal, Some(NOBODY), Some(NOBODY)).unwrap();
    chown(p.journal.join("id"), Some(0), Some(0)).unwrap();
    let (url, journal) = (p.url(), p.journal.display().to_string());
    let deliver = || accctl(&["deliver", "--url", &url, "--extra", "caller->caller_uri; note->x_note", "--seconds", "20", &journal]);
    let out = deliver();
    assert!(!out.status.success() && text(&out).contains("the file id in journal_dir") && text(&out).contains("Permission denied"), "{}", text(&out));
    chown(p.journal.join("id"), Some(NOBODY), Some(NOBODY)).unwrap();
    for _ in 0..2 {
        let out = deliver();
        let cure = "cannot be read (Permission denied (os error 13)) and is skipped: give it to the user the server runs as";
        assert_eq!(text(&out).matches(cure).count(), 1, "{}", text(&out));
        assert!(text(&out).contains("segments with entries still waiting: 1"), "{}", text(&out));
        assert_eq!(p.callids().len(), 100);
    }
    chown(p.journal.join(name.to_string()), Some(NOBODY), Some(NOBODY)).unwrap();
    let out = deliver();
    assert!(out.status.success(), "{}", text(&out));
    let callids = p.callids();
    assert_eq!((callids.len(), callids.last().unwrap().as_str()), (101, "of root"));
}

/// Appends a frame for SQL to a file.
fn append_frame(file: &mut File, payload: &[u8]) {
    let body = [&[SinkId::Db as u8, 1][..], &1_700_000_000_000_000i64.to_le_bytes(), payload].concat();
    let length = (body.len() as u32).to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(&body);
    file.write_all(&[&length[..], &crc.finalize().to_le_bytes(), &body].concat()).unwrap();
}

#[test]
fn crafted_segments_take_little_memory() {
    /// Address space in KiB: the program, its libraries, and some copies of the greatest entry.
    const LIMIT: u32 = 320_000;
    const LEGS: usize = 35_000;
    let p = Place::new();
    let dir = Dir::open(&p.journal).unwrap();
    let mut w = writer(&dir, 1);
    w.append_record(SinkId::Db, &record(Kind::Cdr, "before")).unwrap();
    let path = |seq: u32| p.journal.join(format!("0000000000000001-1-12-{seq:08}.seg"));
    // Bytes that are no segment: more than one may have, and as many.
    File::create(path(1)).unwrap().set_len(3 << 40).unwrap();
    let mut file = File::create(path(2)).unwrap();
    file.write_all(b"no header of a segment").unwrap();
    file.set_len(100 << 20).unwrap();
    // An entry with as many legs without values as it has room for, one with many that have one, and one in good order.
    let mut file = OpenOptions::new().create_new(true).append(true).open(path(3)).unwrap();
    file.write_all(b"ACCSEG2\n").unwrap();
    let mut payload = Vec::new();
    record(Kind::Cdr, "empty legs").encode(&mut payload);
    let legs = payload.len() - 4;
    payload.truncate(legs);
    payload.extend_from_slice(&3_900_000u32.to_le_bytes());
    payload.resize(legs + 4 + 4 * 3_900_000, 0);
    append_frame(&mut file, &payload);
    let mut many = record(Kind::Cdr, "many legs");
    many.core.method = vec![b'm'; 10_000];
    many.legs = vec![vec![field("leg_src", None)]; LEGS];
    payload.clear();
    many.encode(&mut payload);
    append_frame(&mut file, &payload);
    payload.clear();
    record(Kind::Cdr, "behind").encode(&mut payload);
    append_frame(&mut file, &payload);
    drop((w, dir));
    let limited = format!("ulimit -v {LIMIT}; exec \"$0\" \"$@\"");
    let args = ["deliver", "--url", &p.url(), "--extra", "caller->caller_uri; note->x_note", "--leg", "src->leg_src"];
    let deliver = || Command::new("sh").args(["-c", &limited, env!("CARGO_BIN_EXE_accctl")]).args(args).arg(&p.journal).output().unwrap();
    // On a busy machine it may not come to the database in time.
    let out = (0..10).map(|_| deliver()).find(|out| !text(out).contains("no connection within")).expect("a connection");
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    let rows = sqlite(&p.database, "SELECT callid, count(*), min(length(method)) FROM acc GROUP BY callid ORDER BY 1").unwrap();
    assert_eq!(rows, format!("before\t1\t6\nbehind\t1\t6\nmany legs\t{LEGS}\t10000\n"));
    assert_eq!(fs::metadata(p.journal.join("0000000000000001-1-12-00000002-0.bad")).unwrap().len(), 100 << 20);
    assert!(fs::read_to_string(p.journal.join("dead-db.jsonl")).unwrap().contains("this build cannot decode the entry"));
}

/// As after a rollback: what a later version wrote waits for that version.
#[test]
fn a_segment_of_another_version_is_left_alone() {
    let p = Place::new();
    let dir = Dir::open(&p.journal).unwrap();
    writer(&dir, 1).append_record(SinkId::Db, &record(Kind::Cdr, "ours")).unwrap();
    let theirs = [1, 2].map(|seq| format!("0000000000000001-1-12-{seq:08}.seg"));
    let content = |n: u8| [b"ACCSEG3\n", &[n; 500][..]].concat();
    for (n, name) in theirs.iter().enumerate() {
        fs::write(p.journal.join(name), content(n as u8)).unwrap();
    }
    // That version had delivered a part of it.
    fs::write(p.journal.join("cursor-db"), format!("{} 108\n", theirs[1])).unwrap();
    drop(dir);
    let left_alone = "is left alone: another version of this module wrote it; run accctl deliver of that version";
    for command in ["status", "verify", "dump"] {
        let out = p.accctl(&[command]);
        assert_eq!(text(&out).matches(left_alone).count(), 2, "{command}: {}", text(&out));
    }
    let out = p.accctl(&["verify"]);
    assert!(!out.status.success() && text(&out).contains("1 entries, 0 damaged, 0 duplicates, 2 files skipped"), "{}", text(&out));
    for run in 0..2 {
        let out = p.accctl(&["deliver", "--url", &p.url(), "--extra", "caller->caller_uri; note->x_note", "--seconds", "20"]);
        assert_eq!(text(&out).matches(left_alone).count(), 2, "{run}: {}", text(&out));
        assert!(out.status.code() == Some(1) && text(&out).contains("segments with entries still waiting: 2"), "{run}: {}", text(&out));
        assert_eq!(p.callids(), ["ours"]);
    }
    for (n, name) in theirs.iter().enumerate() {
        assert!(fs::read(p.journal.join(name)).unwrap() == content(n as u8), "{name}");
    }
    assert!(!fs::read_dir(&p.journal).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".bad")));
}

/// A length that points past the end of the file looks like the last entry of a writer that was stopped.
#[test]
fn a_damaged_length_is_no_torn_end_if_entries_follow() {
    let p = Place::new();
    let dir = Dir::open(&p.journal).unwrap();
    let mut w = writer(&dir, 1);
    let mut ends = Vec::new();
    for callid in ["first", "second", "third"] {
        w.append_record(SinkId::Db, &record(Kind::Cdr, callid)).unwrap();
        ends.push(dir.segments().unwrap()[0].size);
    }
    drop((w, dir));
    let name = Dir::open_to_read(&p.journal).unwrap().segments().unwrap()[0].name.to_string();
    let path = p.journal.join(&name);
    let whole = fs::read(&path).unwrap();
    // Stopped in the middle of the last entry: no damage.
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let out = p.accctl(&["verify"]);
    assert!(out.status.success() && text(&out).contains("2 entries, 0 damaged") && text(&out).contains("is not complete"), "{}", text(&out));
    for byte in [1, 2] {
        let mut damaged = whole.clone();
        damaged[ends[0] as usize + byte] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        let out = p.accctl(&["verify"]);
        let place = format!("damaged from {} to {}", ends[0], ends[2]);
        assert!(out.status.code() == Some(1) && text(&out).contains(&place) && text(&out).contains("1 entries, 1 damaged"), "{}", text(&out));
        assert!(text(&p.accctl(&["status"])).contains("damaged places in segments: 1"));
    }
    common::listen();
    let before = stats::get(Counter::JournalCorrupt);
    let dir = Dir::open(&p.journal).unwrap();
    let running = Running::start(config(Some(&p.url()), &p.journal), &dir);
    wait_until("the segment goes", || segments(&p.journal) == 0);
    running.stop();
    assert_eq!((p.callids(), stats::get(Counter::JournalCorrupt) - before), (vec!["first".to_string()], 1));
    assert_eq!((common::said(&[&name, "is damaged from byte"]).len(), common::said(&[&name, "its writer was stopped"]).len()), (1, 0));
    let kept = fs::metadata(p.journal.join(name.replace(".seg", &format!("-{}.bad", ends[0])))).unwrap().len();
    assert_eq!(kept, ends[2] - ends[0]);
}
