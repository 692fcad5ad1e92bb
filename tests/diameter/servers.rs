//! Real servers: freeDiameter with an extension that answers, and the one of Erlang/OTP.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};

use acc::backend::diameter::codec::RETRANSMITTED;
use acc::declaration::SinkId;
use acc::journal::Dir;

use super::common::diameter::{EXTENSIONS, Noted, Server, Taken, freediameter, of_freediameter, of_otp, otp};
use super::common::{accctl_command, wait_until, writer};
use super::*;

/// Integers were all 0 with the original.
#[tokio::test]
async fn freediameter_gets_values() {
    let Some(server) = freediameter("", &[], None) else { return };
    let mut client = client(&server.line(), |_| {}, |_| {});
    let mut one = record(1);
    one.extras = vec![field("User-Name", "alice"), field("7846", "gw")];
    deliver(&mut client, &[one]).await;
    client.leave().await;
    let lines = server.lines();
    let noted = Noted::of(&lines[0]).unwrap();
    let numbers: Vec<_> = [480, 485, 40, 6, 205, 204, 227, 228, 229, 230].into_iter().map(|c| noted.number(c).unwrap()).collect();
    assert_eq!(numbers, [1, 0, 2, 15, 200, 1, 2, 1, 1_700_000_000, 1204]);
    assert_eq!(noted.number(55), Some((1_700_000_001u64 + 2_208_988_800) as u32));
    assert_eq!([206, 207, 44, 1, 7846].map(|c| noted.text(c)), ["alice-1", "bob-1", "call-1", "alice", "gw"]);
    assert_eq!((lines.len(), noted.flags & RETRANSMITTED), (1, 0));
}

/// With the dictionary of 3GPP that freeDiameter has: every AVP is known there, and of that type.
#[tokio::test]
async fn freediameter_understands_rf() {
    let dictionaries = ["dict_nasreq", "dict_dcca", "dict_dcca_3gpp"].map(|d| format!("LoadExtension = \"{EXTENSIONS}/{d}.fdx\";")).concat();
    let Some(server) = freediameter(&dictionaries, &[], None) else { return };
    let mut client = client(
        &server.line(),
        |settings| {
            settings.service = acc::backend::diameter::Service::Rf;
            settings.records = acc::backend::diameter::Records::Session;
        },
        |_| {},
    );
    let mut one = record(1);
    let names = ["Calling-Party-Address", "Called-Party-Address", "Requested-Party-Address", "Subscription-Id-Data", "Originating-IOI", "Terminating-IOI"];
    one.extras =
        names.iter().chain(&["IMS-Charging-Identifier", "Incoming-Trunk-Group-Id", "Outgoing-Trunk-Group-Id"]).map(|n| field(n, "sip:a@acc.test")).collect();
    let mut failed = record(2);
    (failed.kind, failed.core.code, failed.duration_ms) = (Kind::Missed, "486".into(), None);
    assert_eq!(send(&mut client, &[one, failed]).await, [Fate::Delivered, Fate::Delivered]);
    client.leave().await;
    let noted: Vec<_> = server.lines().iter().map(|l| Noted::of(l).unwrap()).collect();
    // Several threads take them there.
    let shapes: HashSet<_> = noted.iter().map(|n| (n.number(480), n.number(485))).collect();
    assert_eq!((noted.len(), shapes), (2, HashSet::from([(Some(4), Some(3)), (Some(1), Some(0))])));
    assert!(noted.iter().all(|n| n.avps.contains_key(&873)));
}

/// A journal with so many records for this destination, and the file with peers beside it.
fn journal(server: &Server, sink: SinkId, n: usize, change: impl Fn(usize, &mut Record)) -> tempfile::TempDir {
    let tmp = tempfile::tempdir().unwrap();
    let conf = format!("Identity = \"sip1.acc.test\"; Realm = \"acc.test\";\n{}", server.line());
    std::fs::write(tmp.path().join("peers.conf"), conf).unwrap();
    std::fs::write(tmp.path().join("avps"), "ATTRIBUTE Acc-Note 7846 string\n").unwrap();
    std::fs::create_dir(tmp.path().join("journal")).unwrap();
    let dir = Dir::open(&tmp.path().join("journal")).unwrap();
    let mut writer = writer(&dir, 1);
    for i in 0..n {
        let mut one = record(i);
        change(i, &mut one);
        one.backend = sink.backend();
        writer.append_record(sink, &one).unwrap();
    }
    tmp
}

/// A delivery process of its own.
fn delivery(tmp: &Path, sink: SinkId) -> Command {
    let mut command = accctl_command();
    let files = format!("{};extra-avps-file:{}", tmp.join("peers.conf").display(), tmp.join("avps").display());
    command.args(["deliver", "--seconds", "120"]);
    if sink == SinkId::Aaa {
        command.args(["--aaa-url", &format!("diameter:{files}"), "--aaa-extra", "note->Acc-Note"]);
    } else {
        command.args(["--diameter-url", &files, "--set", "extra_fields=diameter: note->Acc-Note; other->77@9"]);
    }
    command.arg(tmp.join("journal"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Who is killed when so many requests have been taken.
const KILLS: [(usize, bool, bool); 6] = [(100, true, false), (250, false, true), (400, true, true), (550, true, false), (700, false, true), (850, true, true)];

/// Kills server and delivery while records are delivered, then lets them finish; every record is there, and what is there
/// twice says so.
fn everything_arrives(mut server: Server, copies: impl Fn(&Server) -> Vec<Taken>) {
    const RECORDS: usize = 1000;
    let tmp = journal(&server, SinkId::Aaa, RECORDS, |_, _| {});
    let mut said = String::new();
    for (goal, kills_server, kills_delivery) in KILLS {
        let mut child = delivery(tmp.path(), SinkId::Aaa).spawn().unwrap();
        wait_until("some records are taken", || {
            // It gives up for this time when the server still has the connection of the one that was killed.
            if child.try_wait().unwrap().is_some() {
                let last = std::mem::replace(&mut child, delivery(tmp.path(), SinkId::Aaa).spawn().unwrap());
                said += &String::from_utf8_lossy(&last.wait_with_output().unwrap().stderr);
            }
            copies(&server).len() >= goal
        });
        if kills_server {
            server.kill();
        }
        if kills_delivery {
            child.kill().unwrap();
        }
        // Without its server it gives up for this time.
        said += &String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr);
        if !server.runs() {
            server.run();
        }
    }
    // A server that still has the connection of a killed one takes no other until its watchdog finds out.
    wait_until("all records are taken", || {
        let out = delivery(tmp.path(), SinkId::Aaa).output().unwrap();
        said += &String::from_utf8_lossy(&out.stderr);
        out.status.success()
    });
    let mut seen = HashSet::new();
    let all = copies(&server);
    let mut doubled = 0;
    for copy in &all {
        if !seen.insert(copy.name.clone()) {
            doubled += 1;
            assert!(copy.repeats, "{copy:?} came again without T");
        }
    }
    let due: HashSet<_> = (0..RECORDS).map(|n| (format!("{:032x}", record(n).id), 0)).collect();
    let there: HashSet<_> = seen.iter().map(|(session, number)| (session.rsplit(';').next().unwrap_or_default().to_owned(), *number)).collect();
    assert_eq!((there == due, seen.len()), (true, RECORDS), "{said}");
    assert!(doubled > 0, "nothing was in hand when something was killed");
}

#[test]
fn freediameter_loses_nothing_when_it_and_the_delivery_are_killed() {
    // Slow, so that it is killed with requests in hand.
    if let Some(server) = freediameter("AppServThreads = 1;", &[("ACCT_DELAY_US", "5000")], None) {
        everything_arrives(server, of_freediameter);
    }
}

#[test]
fn otp_loses_nothing_when_it_and_the_delivery_are_killed() {
    if let Some(server) = otp() {
        everything_arrives(server, of_otp);
    }
}

/// An AVP with the M bit that the server does not know.
#[test]
fn one_refused_record_is_dead_and_names_its_avp() {
    let servers = [freediameter("", &[], None), otp()];
    for (server, sink) in servers.into_iter().zip([SinkId::Aaa, SinkId::Diameter]) {
        let Some(server) = server else { continue };
        let tmp = journal(&server, sink, 50, |i, r| {
            if i == 20 {
                r.extras = vec![field("Acc-Note", "x")];
            }
        });
        // It waits apart after the first time, and is dead after the second, once it is known that others are taken.
        for (want, another) in [("49 delivered, 0 dead", false), ("0 delivered, 0 dead", false), ("1 delivered, 1 dead", true)] {
            if another {
                let dir = Dir::open(&tmp.path().join("journal")).unwrap();
                writer(&dir, 2).append_record(sink, &Record { backend: sink.backend(), ..record(50) }).unwrap();
            }
            let out = delivery(tmp.path(), sink).output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(text.contains(&format!("{}: {want}", sink.name())), "{text}{}", String::from_utf8_lossy(&out.stderr));
        }
        let dead = std::fs::read_to_string(tmp.path().join(format!("journal/dead-{}.jsonl", sink.name()))).unwrap();
        assert!(dead.contains("call-20") && dead.contains("Result-Code 5001 (AVP_UNSUPPORTED), Failed-AVP 7846"), "{dead}");
        assert_eq!(dead.lines().count(), 1);
    }
}

/// A certificate of `ca` for a name, in the form that the server and this module read.
fn certificate(dir: &Path, ca: Option<&str>, name: &str, subject: &str) {
    let at = |file: &str| dir.join(file).display().to_string();
    let (key, pem) = (at(&format!("{name}.key")), at(&format!("{name}.pem")));
    let subject = format!("/CN={subject}");
    let alt = format!("subjectAltName=DNS:{}", &subject[4..]);
    let mut args = vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", &subject, "-keyout", &key, "-out", &pem];
    let (ca_pem, ca_key);
    match ca {
        Some(ca) => {
            (ca_pem, ca_key) = (at(&format!("{ca}.pem")), at(&format!("{ca}.key")));
            args.extend(["-addext", &alt, "-addext", "basicConstraints=critical,CA:FALSE", "-CA", &ca_pem, "-CAkey", &ca_key]);
        }
        None => args.extend(["-addext", "keyUsage=keyCertSign"]),
    }
    let out = Command::new("openssl").args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test]
async fn freediameter_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    for (ca, name, subject) in [(None, "ca", "ca"), (Some("ca"), "srv", "srv.acc.test"), (Some("ca"), "sip1", "sip1.acc.test"), (None, "other", "other")] {
        certificate(dir.path(), ca, name, subject);
    }
    let Some(server) = freediameter("", &[], Some(dir.path())) else { return };
    let d = dir.path().display();
    let lines = |ca: &str| format!("{} TLS_Cred = \"{d}/sip1.pem\", \"{d}/sip1.key\"; TLS_CA = \"{d}/{ca}.pem\";", server.line().replace("No_TLS;", ""));
    let mut good = client(&lines("ca"), |_| {}, |_| {});
    deliver(&mut good, &records(20)).await;
    good.leave().await;
    assert_eq!(server.lines().len(), 20);
    let fates = send(&mut client(&lines("other"), |_| {}, |_| {}), &records(1)).await;
    assert!(matches!(&fates[0], Fate::Retry(r) if r.contains("invalid peer certificate")), "{fates:?}");
}
