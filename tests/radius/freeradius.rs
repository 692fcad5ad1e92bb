//! Against the real server: what it writes to its detail file is what was sent.

use super::common::freeradius::{FreeRadius, SECRET};
use super::*;

/// Sends what is not delivered again, as the delivery process does, until all of it is.
async fn until_delivered(client: &mut RadiusClient, records: &[Record], server: &mut FreeRadius) {
    let mut left: Vec<Record> = records.to_vec();
    for _ in 0..30 {
        let fates = send(client, &left).await;
        left = left.into_iter().zip(fates).filter(|(_, f)| *f != Fate::Delivered).map(|(r, _)| r).collect();
        if left.is_empty() {
            return;
        }
        if server.has_ended() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{} records not acknowledged; the server says:\n{}", left.len(), server.log());
}

#[tokio::test]
async fn the_detail_file_holds_every_attribute() {
    let Some(mut server) = FreeRadius::start(DICTIONARY, "") else { return };
    let mut call = record(1);
    call.extras = vec![
        field("Acc-Caller", "sip:alice@example.com"),
        field("Acc-Int", "42"),
        field("Cisco-AVPair", "sip=1"),
        Field { name: "Acc-Note".into(), value: None },
        field("Acc-Note", "é中;b"),
    ];
    call.legs = vec![vec![field("Acc-Leg-Src", "l1src"), field("Acc-Leg-Dst", "l1dst")], vec![field("Acc-Leg-Src", "l2src"), field("Acc-Leg-Dst", "")]];
    let mut bye = record(2);
    (bye.kind, bye.duration_ms, bye.in_dialog, bye.core.method) = (Kind::Transaction, None, true, "BYE".into());
    let mut missed = record(3);
    (missed.kind, missed.duration_ms, missed.core.code, missed.core.to_tag) = (Kind::Missed, None, "486".into(), vec![]);
    let mut invite = record(4);
    (invite.kind, invite.duration_ms) = (Kind::Transaction, None);
    let mut c = client(&format!("{}nas-identifier proxy\n", server.line(SECRET)), |c| c.timeout = Duration::from_millis(500), None);
    for r in [call, bye, missed, invite] {
        until_delivered(&mut c, &[r], &mut server).await;
    }
    let common = |status: &str, code: &str, method: &str| {
        vec![
            format!("Acct-Status-Type = {status}"),
            "Service-Type = Sip-Session".to_owned(),
            format!("Sip-Response-Code = {code}"),
            format!("Sip-Method = {method}"),
            "Event-Timestamp = \"Nov 14 2023 22:13:21 UTC\"".to_owned(),
            "Sip-From-Tag = \"alice-1\"".to_owned(),
        ]
    };
    let session = |n: u32| format!("Acct-Session-Id = \"call-{n}\"");
    let list = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    let own = list(&["NAS-Port = 5060", "Acct-Delay-Time = 0", "NAS-IP-Address = 127.0.0.1", "NAS-Identifier = \"proxy\""]);
    let times = list(&["Sip-Call-Setuptime = 1", "Sip-Call-Created = 1700000000"]);
    let tag = list(&["Sip-To-Tag = \"bob-1\""]);
    let want = [
        [
            common("Stop", "200", "INVITE"),
            tag.clone(),
            vec![session(1)],
            list(&["Sip-Call-Duration = 2"]),
            times.clone(),
            list(&[
                "Sip-Call-MSDuration = 1204",
                "Acc-Caller = \"sip:alice@example.com\"",
                "Acc-Int = 42",
                "Cisco-AVPair = \"sip=1\"",
                "Acc-Note = \"é中;b\"",
                "Acc-Leg-Src = \"l1src\"",
                "Acc-Leg-Dst = \"l1dst\"",
                "Acc-Leg-Src = \"l2src\"",
            ]),
            own.clone(),
        ]
        .concat(),
        [common("Stop", "200", "BYE"), tag.clone(), vec![session(2)], times.clone(), own.clone()].concat(),
        [common("Failed", "486", "INVITE"), vec![session(3)], times.clone(), own.clone()].concat(),
        [common("Start", "200", "INVITE"), tag, vec![session(4)], times, own].concat(),
    ];
    // A slow start of the server may have let the first records wait: their delay is then not 0.
    let plain = |entry: &[String]| -> Vec<String> {
        entry.iter().map(|l| if l.starts_with("Acct-Delay-Time") { "Acct-Delay-Time = 0".to_owned() } else { l.clone() }).collect()
    };
    let mut got: Vec<_> = server.entries().iter().map(|e| plain(e)).collect();
    got.dedup();
    assert_eq!(got, want);
}

#[tokio::test]
async fn a_signed_answer_of_the_server_is_accepted() {
    let Some(mut server) = FreeRadius::start(DICTIONARY, "update reply {\n Message-Authenticator := 0x00\n}") else { return };
    let mut c = client(&server.line(SECRET), |c| c.timeout = Duration::from_millis(500), None);
    until_delivered(&mut c, &[record(1)], &mut server).await;
}

#[tokio::test]
async fn a_wrong_secret_is_never_acknowledged() {
    let Some(mut server) = FreeRadius::start(DICTIONARY, "") else { return };
    let mut right = client(&server.line(SECRET), |c| c.timeout = Duration::from_millis(500), None);
    until_delivered(&mut right, &[record(1)], &mut server).await;
    let mut wrong = client(&server.line("wrong-one"), |_| {}, None);
    let fates = send(&mut wrong, &[record(2)]).await;
    assert!(!retry_reason(&fates[0]).contains("wrong-one"));
    assert!(server.entries().iter().flatten().all(|l| !l.contains("call-2")));
}

#[tokio::test]
async fn nothing_is_lost_when_the_server_restarts_under_load() {
    let Some(mut server) = FreeRadius::start(DICTIONARY, "") else { return };
    let mut c = client(&server.line(SECRET), |c| (c.timeout, c.deadtime) = (Duration::from_millis(300), Duration::ZERO), None);
    until_delivered(&mut c, &[record(0)], &mut server).await;
    let records: Vec<_> = (1..=5000).map(record).collect();
    let made = Moment::wall_now();
    let (fates, ()) = tokio::join!(offer(&mut c, &records, made, false), async {
        // In the middle: some records are stored, the rest is not.
        while std::fs::metadata(server.detail()).map_or(0, |m| m.len()) < 100_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.run();
    });
    let left: Vec<_> = records.iter().zip(&fates).filter(|(_, f)| **f != Fate::Delivered).map(|(r, _)| r.clone()).collect();
    assert!(left.iter().zip(&fates).all(|(_, f)| !matches!(f, Fate::Dead(_))));
    until_delivered(&mut c, &left, &mut server).await;
    let text = std::fs::read_to_string(server.detail()).unwrap();
    let stored: std::collections::HashSet<&str> = text.lines().filter_map(|l| l.strip_prefix("\tAcct-Session-Id = ")).collect();
    for n in 0..=5000 {
        assert!(stored.contains(format!("\"call-{n}\"").as_str()), "call-{n}");
    }
}
