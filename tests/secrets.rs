//! Passwords and shared secrets stand in no line of the log, no error, no output and no `Debug`
//! form, whatever goes wrong with what they are for. The journal's files are its owner's alone.
#![forbid(unsafe_code)]

mod common;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use acc::accounting::record::{Kind, Record};
use acc::backend::log::syslog;
use acc::backend::radius::client::{Options, RadiusClient};
use acc::backend::radius::{Aaa, Radius};
use acc::backend::sql::{SqlSink, validate_url};
use acc::backend::{Fate, Offer};
use acc::journal::{DeadLetters, Dir, Payload, SinkId};
use acc::params::{Draft, RawValue};
use common::servers::{mariadb, postgres};
use common::*;

/// No word of ours, and no part of any path.
const HIDDEN: &str = "zw1Tschern-Geheim77";

/// Everything that the library has to say, at every level.
fn said() -> &'static Mutex<String> {
    struct Listening;

    impl log::Log for Listening {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            let _ = writeln!(said().lock().unwrap(), "{} {}", record.target(), record.args());
        }

        fn flush(&self) {}
    }

    static SAID: OnceLock<Mutex<String>> = OnceLock::new();
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Listening).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
    SAID.get_or_init(Mutex::default)
}

#[track_caller]
fn hidden(text: &str) {
    assert!(!text.contains(HIDDEN), "{text}");
}

/// Lets the delivery try, and returns when it has said why it cannot.
fn try_url(url: &str) {
    let tmp = tempfile::tempdir().unwrap();
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    writer(&dir, 1).append_record(SinkId::Db, &record(Kind::Cdr, "one")).unwrap();
    let before = said().lock().unwrap().len();
    let running = Running::start(config(Some(url), &journal), &dir);
    wait_until("a reason", || said().lock().unwrap()[before..].contains("db: db_url"));
    running.stop();
    for file in std::fs::read_dir(&journal).unwrap() {
        hidden(&String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap()));
    }
    let accctl = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_accctl")).args(args).output().unwrap();
        hidden(&format!("{out:?}"));
        hidden(&String::from_utf8_lossy(&[out.stdout, out.stderr].concat()));
    };
    accctl(&["schema", "--url", url]);
    drop(dir);
    accctl(&["deliver", "--url", url, "--seconds", "1", journal.to_str().unwrap()]);
}

#[test]
fn the_database_password_is_told_to_nobody() {
    said();
    // Nobody listens; somebody listens who is no database; there is no such host.
    let closed = common::servers::free_port();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    std::thread::spawn({
        let deaf = deaf.try_clone().unwrap();
        move || {
            while let Ok((mut peer, _)) = deaf.accept() {
                let _ = std::io::Write::write_all(&mut peer, b"220 smtp ready\r\n");
            }
        }
    });
    let deaf = deaf.local_addr().unwrap().port();
    let mut places = vec![format!("127.0.0.1:{closed}"), format!("127.0.0.1:{deaf}"), "no-such-host.invalid".into()];
    let servers = (mariadb(), postgres());
    // The password is wrong.
    places.extend([&servers.0, &servers.1].into_iter().flatten().map(|s| format!("127.0.0.1:{}", s.port)));
    for scheme in ["mysql", "postgres"] {
        for place in &places {
            try_url(&format!("{scheme}://acc:{HIDDEN}@{place}/acc"));
        }
    }
    hidden(&said().lock().unwrap());
}

fn refused_by_accctl(url: &str) {
    let out = Command::new(env!("CARGO_BIN_EXE_accctl")).args(["schema", "--url", url]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    hidden(&format!("{out:?}"));
}

#[test]
fn a_url_that_cannot_be_used_is_not_quoted() {
    said();
    for url in [
        format!("mysql:acc:{HIDDEN}@host/acc"),
        format!("mysql://acc:{HIDDEN}@host"),
        format!("mysql://acc:{HIDDEN}@host/"),
        format!("mysql://acc:{HIDDEN}@host:port/acc"),
        format!("mysql://acc:{HIDDEN}@host:99999/acc"),
        format!("mysql://acc:{HIDDEN}@[::1/acc"),
        format!("postgres://acc:{HIDDEN}@host/acc?sslmode=off"),
        format!("postgres://acc@host/acc?password={HIDDEN}"),
        format!("acc {HIDDEN} host"),
        format!("//acc:{HIDDEN}@host/acc"),
    ] {
        let refused = validate_url(&url).unwrap_err();
        hidden(&refused);
        let mut draft = Draft::default();
        let set = draft.set("db_url", RawValue::Str(url.clone()));
        hidden(&format!("{draft:?} {set:?}"));
        if let Err(e) = draft.finish(None) {
            hidden(&format!("{e} {e:?}"));
        }
        // The original's URL for RADIUS may be met in the wrong parameter.
        let aaa = Aaa { url: url.clone(), service_type: None, retry: None };
        hidden(&Radius::open(&aaa, &[]).err().unwrap());
        refused_by_accctl(&url);
    }
    // Only a running server can use it.
    refused_by_accctl(&format!("oracle://acc:{HIDDEN}@host/acc"));
    let good = format!("mysql://acc:{HIDDEN}@host/acc");
    let config = config(Some(&good), Path::new("/nowhere"));
    hidden(&format!("{config:?}"));
    assert!(SqlSink::new(config.db().unwrap(), &config.rules.fields).is_ok());
    hidden(&said().lock().unwrap());
}

#[test]
fn the_radius_secret_is_told_to_nobody() {
    said();
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("client.conf");
    let open = |conf: &str, servers: &str, dictionary: &str| {
        std::fs::write(&file, conf).unwrap();
        std::fs::write(tmp.path().join("servers"), servers).unwrap();
        std::fs::write(tmp.path().join("dictionary"), dictionary).unwrap();
        Radius::open(&Aaa { url: format!("radius:{}", file.display()), service_type: None, retry: None }, &["Acc-X"])
    };
    let x = "ATTRIBUTE Acc-X 240 string\n";
    let own = format!("acctserver 127.0.0.1:1:{HIDDEN}\ndictionary dictionary\n");
    let named = "acctserver 127.0.0.1:1\nservers servers\ndictionary dictionary\n";
    for (conf, servers, dictionary) in [
        (format!("acctserver 127.0.0.1:port:{HIDDEN}\n"), String::new(), x),
        (format!("acctserver [::1:1:{HIDDEN}\n"), String::new(), x),
        (format!("acctserver [::1]x:1:{HIDDEN}\n"), String::new(), x),
        (format!("acctserver no-such-host.invalid:1:{HIDDEN}\n"), String::new(), x),
        (format!("{own}bindaddr ::1\n"), String::new(), x),
        (format!("{own}radius_timeout never\n"), String::new(), x),
        (own.clone(), String::new(), "ATTRIBUTE Acc-X broken string\n"),
        (own.clone(), String::new(), "ATTRIBUTE Other 240 string\n"),
        (named.to_owned(), format!("192.0.2.1 {HIDDEN}\n"), x),
        (named.to_owned(), format!("{HIDDEN}\n"), x),
        (named.to_owned(), format!("127.0.0.1 {HIDDEN} and more\n"), "ATTRIBUTE Acc-X broken string\n"),
    ] {
        if let Err(reason) = open(&conf, &servers, dictionary) {
            hidden(&reason);
        } else {
            assert!(servers.contains("and more"), "{conf} was taken");
        }
    }

    // Nobody answers, then somebody who has another secret.
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut radius = open(&format!("acctserver 127.0.0.1:{port}:{HIDDEN}\ndictionary dictionary\n"), "", x).unwrap();
    hidden(&format!("{:?}", radius.conf));
    radius.conf.timeout = Duration::from_millis(50);
    radius.conf.retries = 1;
    std::thread::spawn(move || {
        let mut packet = [0; 4096];
        while let Ok((_, from)) = server.recv_from(&mut packet) {
            let _ = server.send_to(&[5, packet[1], 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], from);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fates = runtime.block_on(async {
        let r: Record = record(Kind::Cdr, "one");
        let mut client = RadiusClient::new(radius, Options { nas_port: None, retry: Some(1) }).unwrap();
        client.send_all(&[Offer { record: &r, made: r.time, parked: false }]).await
    });
    assert_ne!(fates, [Fate::Delivered]);
    hidden(&format!("{fates:?}"));
    hidden(&said().lock().unwrap());
}

#[test]
fn journal_files_are_the_owners_and_no_links() {
    let tmp = tempfile::tempdir().unwrap();
    let outside = tmp.path().join("outside");
    std::fs::write(&outside, "untouched").unwrap();
    let untouched = || assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");

    // Everything that a journal makes, made.
    let journal = tmp.path().join("journal");
    let dir = Dir::open(&journal).unwrap();
    let mut w = writer(&dir, 1);
    let mut lost = record(Kind::Manual, "lost");
    lost.table = "no_such_table".into();
    w.append_record(SinkId::Db, &lost).unwrap();
    w.append(SinkId::Log, &Payload::LogLine(b"<29>x".to_vec())).unwrap();
    let socket = tmp.path().join("log");
    let _daemon = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let url = format!("sqlite://{}", tmp.path().join("acc.sqlite").display());
    let (url, place) = (url.clone(), journal.clone());
    let running = Running::start_with(&dir, move |delivery| {
        delivery.config = config(Some(&url), &place);
        delivery.makers = vec![syslog::at(socket)];
    });
    let dead = DeadLetters::file_name(SinkId::Db);
    wait_until("a dead letter and a cursor", || journal.join(&dead).exists() && journal.join("cursor-log").exists());
    running.stop();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&journal).unwrap() {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        assert_eq!(about.permissions().mode() & 0o7777, 0o600, "{:?}", entry.file_name());
        assert_eq!(about.uid(), rustix::process::geteuid().as_raw(), "{:?}", entry.file_name());
        names.push(entry.file_name().into_string().unwrap());
    }
    for name in ["lock", "id", "cursor-log", &dead] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
    assert_eq!(std::fs::metadata(&journal).unwrap().permissions().mode() & 0o7777, 0o700);
    drop((w, dir));

    // A link in the place of each of them leads nowhere.
    let plant = |name: &str| {
        let place = journal.join(name);
        let _ = std::fs::remove_file(&place);
        symlink(&outside, &place).unwrap();
        place
    };
    let link = plant("lock");
    assert!(Dir::open(&journal).unwrap_err().to_string().contains("is not writable"));
    std::fs::remove_file(link).unwrap();
    let id = std::fs::read(journal.join("id")).unwrap();
    let link = plant("id");
    assert!(Dir::open(&journal).is_err());
    std::fs::remove_file(&link).unwrap();
    std::fs::write(link, id).unwrap();
    untouched();

    let dir = Dir::open(&journal).unwrap();
    let link = plant(&dead);
    plant("cursor-log.new");
    let mut w = writer(&dir, 1);
    lost.core.callid = b"second".to_vec();
    w.append_record(SinkId::Db, &lost).unwrap();
    let url = format!("sqlite://{}", tmp.path().join("acc.sqlite").display());
    let running = Running::start(config(Some(&url), &journal), &dir);
    wait_until("the refusal", || said().lock().unwrap().contains("dead-db.jsonl in journal_dir cannot be written"));
    untouched();
    // Without the link it goes on.
    std::fs::remove_file(link).unwrap();
    wait_until("the dead letter", || std::fs::read_to_string(journal.join(&dead)).is_ok_and(|t| t.contains("second")));
    running.stop();

    // The name of the writer's next segment is known to whoever can look into the directory.
    let first = dir.segments().unwrap().iter().map(|s| s.name).find(|n| n.rank == 1 && n.boot == dir.boot());
    let mut next = first.unwrap_or(acc::journal::SegmentName { boot: dir.boot(), rank: 2, pid: std::process::id(), seq: 0 });
    (next.rank, next.seq) = (2, 0);
    plant(&next.to_string());
    let mut other = writer(&dir, 2);
    other.append_record(SinkId::Db, &record(Kind::Cdr, "third")).unwrap();
    untouched();
    assert!(std::fs::symlink_metadata(journal.join(next.to_string())).unwrap().is_symlink());
    next.seq = 1;
    assert!(journal.join(next.to_string()).is_file(), "the next number was free");
}
