#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use rustix::process::geteuid;

use super::*;
use crate::accounting::clock::Wall;
use crate::accounting::record::{Backend, Core, Kind, Record, Shape, Signalling};
use crate::journal::{JournalSync, Payload, SinkId};

fn record(n: usize) -> Record {
    Record {
        kind: Kind::Transaction,
        shape: Shape::Context,
        backend: Backend::Db,
        table: "acc".into(),
        core: Core { method: b"INVITE".to_vec(), callid: format!("call-{n}").into_bytes(), ..Core::default() },
        time: Wall(n as i64),
        times: None,
        duration_ms: None,
        end: None,
        signalling: Signalling::default(),
        reported: false,
        in_dialog: false,
        extras: vec![],
        legs: vec![],
        id: n as u128,
    }
}

fn writer(dir: &Dir) -> Writer {
    Writer::new(dir, 1, std::process::id(), JournalSync::Os, 1 << 20)
}

fn line(text: &[u8]) -> Payload {
    Payload::LogLine(text.to_vec())
}

/// All entries that can be read, and how many damaged places were met.
fn read_all(dir: &Dir, name: SegmentName) -> (Vec<Payload>, usize) {
    let mut reader = dir.read(name, 0).unwrap();
    let (mut out, mut damaged) = (Vec::new(), 0);
    loop {
        let item = match reader.read() {
            // The digit of the version is damaged: nothing of it is read, either.
            Err(e) if e.kind() == ErrorKind::Unsupported => return (out, damaged + 1),
            item => item.unwrap(),
        };
        match item {
            Item::Frame(f) => out.extend(f.decode().map(|p| p.unwrap())),
            Item::Corrupt { .. } => damaged += 1,
            Item::Torn { offset, end } => return (out, damaged + usize::from(reader.hides_frames(offset, end).unwrap())),
            Item::End => return (out, damaged),
        }
    }
}

#[test]
fn an_appended_record_is_read_back() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(&tmp.path().join("a/b")).unwrap();
    let mut w = writer(&dir);
    assert!(dir.segments().unwrap().is_empty(), "no file before the first append");
    w.append_record(SinkId::Db, &record(1)).unwrap();
    w.append(SinkId::Log, &line(b"<29>ACC: x")).unwrap();
    w.append(SinkId::Aaa, &Payload::Record(Box::new(record(2)))).unwrap();
    let segment = dir.segments().unwrap()[0];
    assert_eq!((segment.name.boot, segment.name.rank, segment.name.pid), (dir.boot(), 1, std::process::id()));
    let mut reader = dir.read(segment.name, 0).unwrap();
    let mut seen = Vec::new();
    while let Item::Frame(f) = reader.read().unwrap() {
        assert!(f.wall.0 > 1_500_000_000_000_000);
        seen.push((f.sink_id().unwrap(), f.decode().unwrap().unwrap()));
    }
    assert_eq!(
        seen,
        [(SinkId::Db, Payload::Record(Box::new(record(1)))), (SinkId::Log, line(b"<29>ACC: x")), (SinkId::Aaa, Payload::Record(Box::new(record(2)))),]
    );
    assert_eq!(reader.position(), segment.size);
}

#[test]
fn reading_goes_on_where_it_stopped_and_sees_later_appends() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir);
    w.append(SinkId::Log, &line(b"one")).unwrap();
    let name = dir.segments().unwrap()[0].name;
    let mut reader = dir.read(name, 0).unwrap();
    assert!(matches!(reader.read().unwrap(), Item::Frame(_)));
    assert_eq!(reader.read().unwrap(), Item::End);
    w.append(SinkId::Log, &line(b"two")).unwrap();
    assert!(matches!(reader.read().unwrap(), Item::Frame(f) if f.payload == b"two"));
    let mut second = dir.read(name, reader.position()).unwrap();
    assert_eq!(second.read().unwrap(), Item::End);
}

#[test]
fn a_segment_is_sealed_when_its_writer_is_gone_or_has_a_new_one() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = Writer::new(&dir, -2, 77, JournalSync::Always, 100);
    for _ in 0..3 {
        w.append(SinkId::Log, &line(&[b'x'; 60])).unwrap();
    }
    let sealed: Vec<_> = dir.segments().unwrap().iter().map(|s| (s.name.rank, s.name.seq, s.sealed)).collect();
    assert_eq!(sealed, [(-2, 0, true), (-2, 1, true), (-2, 2, false)]);
    drop(w);
    assert!(dir.segments().unwrap().iter().all(|s| s.sealed));
}

#[test]
fn files_are_private_and_links_are_not_followed() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("journal");
    let dir = Dir::open(&path).unwrap();
    writer(&dir).append(SinkId::Log, &line(b"x")).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
    symlink(&path, tmp.path().join("link")).unwrap();
    let e = Dir::open(&tmp.path().join("link")).unwrap_err().to_string();
    assert!(e.contains("journal_dir") && e.contains("symbolic link"), "{e}");
    let other = tmp.path().join("other");
    std::fs::create_dir(&other).unwrap();
    symlink(tmp.path().join("victim"), other.join("lock")).unwrap();
    let e = Dir::open(&other).unwrap_err().to_string();
    assert!(e.contains("journal_dir") && e.contains("not writable"), "{e}");
    assert!(!tmp.path().join("victim").exists());
}

/// A server started as root writes to the journal before it becomes another user.
#[test]
fn a_segment_belongs_to_whom_the_server_will_run_as() {
    use std::os::unix::fs::MetadataExt;
    const NOBODY: u32 = 65_534;
    const NOGROUP: u32 = 65_533;
    if !geteuid().is_root() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut before = writer(&dir);
    before.append(SinkId::Log, &line(b"before")).unwrap();
    dir.give_to(NOBODY, NOGROUP).unwrap();
    let mut w = Writer::new(&dir, 2, 1, JournalSync::Os, 1);
    for text in [b"one", b"two"] {
        w.append(SinkId::Log, &line(text)).unwrap();
    }
    for segment in dir.segments().unwrap() {
        let file = std::fs::metadata(tmp.path().join(segment.name.to_string())).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (NOBODY, NOGROUP, 0o600), "{}", segment.name);
    }
    assert_eq!(dir.segments().unwrap().len(), 3);
}

#[test]
fn a_second_server_is_refused_and_a_file_in_the_way_named() {
    let tmp = tempfile::tempdir().unwrap();
    let first = Dir::open(tmp.path()).unwrap();
    let e = Dir::open(tmp.path()).unwrap_err().to_string();
    assert!(e.starts_with("another server uses journal_dir"), "{e}");
    let (boot, id) = (first.boot(), first.id());
    drop(first);
    let second = Dir::open(tmp.path()).unwrap();
    assert!(second.boot() > boot);
    assert_eq!(second.id(), id);
    std::fs::write(tmp.path().join("file"), b"").unwrap();
    let e = Dir::open(&tmp.path().join("file")).unwrap_err().to_string();
    assert!(e.contains("journal_dir"), "{e}");
}

#[test]
fn a_journal_without_its_number_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let id = Dir::open(tmp.path()).unwrap().id();
    let path = tmp.path().join("id");
    let kept = std::fs::read(&path).unwrap();
    for damaged in ["0123\n", "no number at all", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "\n"] {
        std::fs::write(&path, damaged).unwrap();
        let e = Dir::open(tmp.path()).unwrap_err().to_string();
        assert!(e.contains("the file id in journal_dir") && e.contains("it is damaged") && e.contains("table acc_delivery"), "{e}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let e = Dir::open(tmp.path()).unwrap_err().to_string();
    assert!(e.contains("the file id in journal_dir") && e.contains("Is a directory"), "{e}");
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, kept).unwrap();
    assert_eq!(Dir::open(tmp.path()).unwrap().id(), id);
    // A first start that was cut off.
    for nothing in [true, false] {
        if nothing { std::fs::remove_file(&path) } else { std::fs::write(&path, "") }.unwrap();
        let new = Dir::open(tmp.path()).unwrap().id();
        assert!(new != id && Dir::open(tmp.path()).unwrap().id() == new);
    }
    // Somebody removed it.
    writer(&Dir::open(tmp.path()).unwrap()).append(SinkId::Log, &line(b"a")).unwrap();
    let kept = std::fs::read(&path).unwrap();
    for nothing in [true, false] {
        if nothing { std::fs::remove_file(&path) } else { std::fs::write(&path, "") }.unwrap();
        let e = Dir::open(tmp.path()).unwrap_err().to_string();
        assert!(e.contains("the file id in journal_dir") && e.contains("it is missing, and there are segments") && e.contains("table acc_delivery"), "{e}");
    }
    std::fs::write(&path, kept).unwrap();
    assert_eq!(Dir::open(tmp.path()).unwrap().segments().unwrap().len(), 1);
}

#[test]
fn an_entry_over_the_limit_is_refused_and_leaves_no_trace() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir);
    w.append(SinkId::Log, &line(b"a")).unwrap();
    assert!(w.append(SinkId::Log, &line(&vec![0; FRAME_MAX + 1])).is_err());
    w.append(SinkId::Log, &line(b"b")).unwrap();
    let name = dir.segments().unwrap()[0].name;
    assert_eq!(read_all(&dir, name), (vec![line(b"a"), line(b"b")], 0));
}

#[test]
fn an_append_behind_a_torn_one_is_found_again() {
    // What a reader sees of a writer that ran out of space in the middle of a frame, took it back
    // and went on.
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir);
    w.append(SinkId::Log, &line(b"first")).unwrap();
    let segment = dir.segments().unwrap()[0];
    let file = OpenOptions::new().write(true).open(tmp.path().join(segment.name.to_string())).unwrap();
    file.write_all_at(&[40, 0, 0, 0, 1, 2, 3, 4, 2, 2, 9, 9], segment.size).unwrap();
    let mut reader = dir.read(segment.name, 0).unwrap();
    assert!(matches!(reader.read().unwrap(), Item::Frame(_)));
    assert!(matches!(reader.read().unwrap(), Item::Torn { offset, .. } if offset == segment.size));
    file.set_len(segment.size).unwrap();
    w.append(SinkId::Log, &line(b"second, longer than what was there")).unwrap();
    assert!(matches!(reader.read().unwrap(), Item::Frame(f) if f.payload.starts_with(b"second")));
}

#[test]
fn unknown_kinds_and_sinks_are_told_apart_from_damage() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir);
    w.append(SinkId::Log, &line(b"a")).unwrap();
    let segment = dir.segments().unwrap()[0];
    let mut body = vec![15u8, 200];
    body.extend_from_slice(&[0; 8]);
    body.extend_from_slice(b"from the future");
    let length = (body.len() as u32).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend_from_slice(&frame::crc(length, &body).to_le_bytes());
    bytes.extend_from_slice(&body);
    let file = OpenOptions::new().append(true).open(tmp.path().join(segment.name.to_string())).unwrap();
    io::Write::write_all(&mut &file, &bytes).unwrap();
    w.append(SinkId::Log, &line(b"b")).unwrap();
    let mut reader = dir.read(segment.name, segment.size).unwrap();
    assert!(matches!(reader.read().unwrap(), Item::Frame(f) if f.sink_id().is_none() && f.decode().is_none()));
    assert_eq!(read_all(&dir, segment.name), (vec![line(b"a"), line(b"b")], 0));
}

#[test]
fn zeros_left_by_a_power_cut_are_a_torn_tail() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    writer(&dir).append(SinkId::Log, &line(b"a")).unwrap();
    let segment = dir.segments().unwrap()[0];
    let file = OpenOptions::new().write(true).open(tmp.path().join(segment.name.to_string())).unwrap();
    file.set_len(segment.size + 5000).unwrap();
    assert_eq!(read_all(&dir, segment.name), (vec![line(b"a")], 0));
}

/// Runs a test of this file in a process that can write no more than `blocks` of 512 bytes to a file.
fn under_a_limit(test: &str, blocks: u32, journal: &Path) {
    let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" --exact journal::tests::{test}");
    let out = Command::new("sh").args(["-c", &limited]).arg(std::env::current_exe().unwrap()).env(LIMITED, journal).output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"));
}

/// Set in such a process: the journal.
const LIMITED: &str = "ACC_TEST_LIMITED";

/// Not a test: what the next one runs under a limit.
#[test]
fn appends_without_room_for_a_header() {
    let Some(path) = std::env::var_os(LIMITED) else { return };
    let dir = Dir::open(Path::new(&path)).unwrap();
    let mut w = writer(&dir);
    for _ in 0..3 {
        assert!(w.append(SinkId::Log, &line(b"x")).is_err());
    }
    assert_eq!(dir.segments().unwrap(), []);
}

#[test]
fn a_segment_that_cannot_begin_leaves_no_file() {
    let tmp = tempfile::tempdir().unwrap();
    drop(Dir::open(tmp.path()).unwrap());
    under_a_limit("appends_without_room_for_a_header", 0, tmp.path());
}

const DAMAGED: SegmentName = SegmentName { boot: 1, rank: 1, pid: 1, seq: 0 };

/// Not a test: what the next one runs under a limit.
#[test]
fn keeping_damage_aside_without_room() {
    let Some(path) = std::env::var_os(LIMITED) else { return };
    let dir = Dir::open_to_read(Path::new(&path)).unwrap();
    for _ in 0..2 {
        assert!(dir.keep_aside(DAMAGED, 8, |file| file.write_all(&[b'x'; 1000])).is_err());
    }
}

#[test]
fn damage_is_kept_as_a_whole_or_tried_again() {
    let tmp = tempfile::tempdir().unwrap();
    under_a_limit("keeping_damage_aside_without_room", 1, tmp.path());
    let dir = Dir::open_to_read(tmp.path()).unwrap();
    assert!(dir.keep_aside(DAMAGED, 8, |file| file.write_all(&[b'x'; 1000])).unwrap());
    assert!(!dir.keep_aside(DAMAGED, 8, |file| file.write_all(&[b'x'; 1000])).unwrap());
    let files: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files, [tmp.path().join("0000000000000001-1-1-00000000-8.bad")]);
    assert_eq!(std::fs::read(&files[0]).unwrap(), [b'x'; 1000]);
}

/// The file is not synced: a power cut may leave a part of it.
#[test]
fn a_cursor_cut_off_anywhere_leads_to_no_place_of_its_own() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let name = |seq| SegmentName { boot: dir.boot(), rank: 1, pid: 1, seq };
    let positions = crate::journal::Positions::from([(name(0), 40960), (name(1), 12345)]);
    dir.set_cursor(SinkId::Aaa, &positions).unwrap();
    assert_eq!(dir.cursor(SinkId::Aaa).unwrap(), positions);
    let path = tmp.path().join("cursor-aaa");
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        for (segment, position) in dir.cursor(SinkId::Aaa).unwrap() {
            assert_eq!(positions.get(&segment), Some(&position), "cut at {cut}");
        }
    }
}

#[test]
fn segment_names_have_one_spelling() {
    let name = SegmentName { boot: 0xabc, rank: -1, pid: 12, seq: 3 };
    assert_eq!(name.to_string(), "0000000000000abc--1-12-00000003.seg");
    assert_eq!(name.to_string().parse(), Ok(name));
    for bad in ["", ".seg", "0000000000000abc-1-12-3.seg", "0000000000000ABC-1-12-00000003.seg", "x.seg", "lock", "é23456789012345-1-2-00000003.seg"] {
        assert_eq!(bad.parse::<SegmentName>(), Err(()), "{bad}");
    }
}

/// A segment of the given entries, as bytes, and where each frame ends.
fn segment_bytes(entries: &[Vec<u8>]) -> (tempfile::TempDir, Dir, SegmentName, Vec<u8>) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = writer(&dir);
    for e in entries {
        w.append(SinkId::Log, &line(e)).unwrap();
    }
    let name = dir.segments().unwrap()[0].name;
    let bytes = std::fs::read(tmp.path().join(name.to_string())).unwrap();
    (tmp, dir, name, bytes)
}

#[test]
fn any_flipped_bit_costs_its_entry_and_none_before_it() {
    let entries: Vec<Vec<u8>> = (0..4u8).map(|n| vec![b'a' + n; 5 + usize::from(n)]).collect();
    let (tmp, dir, name, bytes) = segment_bytes(&entries);
    // Which entry each byte belongs to, and whether it is one of its length; the header belongs to none.
    let mut places = vec![None; frame::HEADER.len()];
    for (n, entry) in entries.iter().enumerate() {
        places.extend((0..frame::PREFIX + frame::BODY_MIN + entry.len()).map(|at| Some((n, at < 4))));
    }
    assert_eq!(places.len(), bytes.len());
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(tmp.path().join(name.to_string()), &damaged).unwrap();
        let want: Vec<_> = match places[bit / 8] {
            None => vec![],
            // The way to what follows is lost as well.
            Some((hit, true)) => entries[..hit].iter().map(|e| line(e)).collect(),
            Some((hit, false)) => entries.iter().enumerate().filter(|(n, _)| *n != hit).map(|(_, e)| line(e)).collect(),
        };
        let (got, places_damaged) = read_all(&dir, name);
        assert_eq!(got, want, "bit {bit}");
        // A length that leads beyond the end is that of an entry that was never written completely, if none follows.
        let is_last = |hit: usize| hit + 1 == entries.len();
        assert!(places_damaged == 1 || matches!(places[bit / 8], Some((hit, true)) if is_last(hit)), "bit {bit}");
    }
}

#[test]
fn a_missing_segment_costs_its_own_entries_and_a_copy_none() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    let mut w = Writer::new(&dir, 1, std::process::id(), JournalSync::Os, 1);
    for entry in [b"one", b"two", b"six"] {
        w.append(SinkId::Log, &line(entry)).unwrap();
        w.append_call(u128::from(entry[0]), entry).unwrap();
    }
    drop(w);
    let names: Vec<_> = dir.segments().unwrap().iter().map(|s| s.name).collect();
    assert_eq!(names.len(), 6, "an entry each");
    for name in &names[2..4] {
        dir.remove(*name).unwrap();
    }
    for name in &names[4..] {
        let copy = SegmentName { seq: name.seq + 9, ..*name };
        std::fs::copy(tmp.path().join(name.to_string()), tmp.path().join(copy.to_string())).unwrap();
    }
    let all: Vec<_> = dir.segments().unwrap().iter().flat_map(|s| read_all(&dir, s.name).0).collect();
    assert_eq!(all, [line(b"one"), line(b"six"), line(b"six")]);
    let mut calls: Vec<_> = calls::scan(&dir).unwrap().calls.into_values().map(|call| call.state).collect();
    calls.sort();
    assert_eq!(calls, [b"one", b"six"]);
}

#[test]
fn a_read_only_disk_refuses_the_start_with_the_cure() {
    struct Mounted(tempfile::TempDir);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0.path()).output();
        }
    }
    let at = Mounted(tempfile::tempdir().unwrap());
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs"]).arg(at.0.path()).output();
    if !mount.is_ok_and(|out| out.status.success()) {
        let _ = io::Write::write_all(&mut io::stderr(), b"skipped: no disk can be mounted here\n");
        return;
    }
    for (path, part) in [(at.0.path().to_owned(), "is not writable"), (at.0.path().join("journal"), "cannot be created")] {
        let refused = Dir::open(&path).unwrap_err().to_string();
        assert!(refused.contains("journal_dir") && refused.contains(part) && refused.contains("0700"), "{refused}");
    }
}

fn entries() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_segment_cut_anywhere_yields_a_prefix(entries in entries()) {
        let (tmp, dir, name, bytes) = segment_bytes(&entries);
        for cut in 0..bytes.len() {
            std::fs::write(tmp.path().join(name.to_string()), &bytes[..cut]).unwrap();
            let (got, damaged) = read_all(&dir, name);
            prop_assert_eq!(damaged, 0);
            prop_assert!(got.len() < entries.len());
            for (g, e) in got.iter().zip(&entries) {
                prop_assert_eq!(g, &line(e));
            }
        }
    }

    #[test]
    fn flipped_bits_never_make_an_entry(entries in entries(), flips in proptest::collection::vec(any::<prop::sample::Index>(), 1..4)) {
        let (tmp, dir, name, mut bytes) = segment_bytes(&entries);
        for flip in flips {
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        std::fs::write(tmp.path().join(name.to_string()), &bytes).unwrap();
        let mut rest = entries.iter();
        for got in read_all(&dir, name).0 {
            // What is read is a subsequence of what was written.
            prop_assert!(rest.any(|e| line(e) == got));
        }
    }

    #[test]
    fn hostile_segments_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), with_header in any::<bool>()) {
        let (tmp, dir, name, _) = segment_bytes(&[vec![]]);
        let mut all = if with_header { frame::HEADER.to_vec() } else { vec![] };
        all.extend(bytes);
        std::fs::write(tmp.path().join(name.to_string()), &all).unwrap();
        let _ = read_all(&dir, name);
    }
}
