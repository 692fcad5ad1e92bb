//! What peers do wrong, and what becomes of records then.

use std::collections::HashSet;

use acc::journal::SinkId;

use super::fake::{Fake, Reply, Seen};
use super::*;

/// Takes everything.
fn good(_: &Seen) -> Reply {
    Reply::Code(2001)
}

fn plain(lines: &str) -> DiameterClient {
    client(lines, |_| {}, |_| {})
}

fn short(settings: &mut DiameterSettings) {
    settings.timeout = Duration::from_millis(300);
}

/// Timers of tests: a watchdog's and the pause before a connection is tried again.
fn brisk(conf: &mut Conf) {
    for peer in &mut conf.peers {
        (peer.tw, peer.tc) = (Duration::from_millis(600), Duration::from_millis(100));
    }
}

fn reason(fate: &Fate) -> &str {
    match fate {
        Fate::Retry(reason) | Fate::Refused(reason) | Fate::Dead(reason) => reason,
        other => panic!("no reason: {other:?}"),
    }
}

#[tokio::test]
async fn records_are_sent_once_on_one_connection() {
    let server = Fake::start("srv.acc.test", good).await;
    let mut client = plain(&server.line());
    assert!(send(&mut client, &records(500)).await.iter().all(|f| *f == Fate::Delivered));
    let seen = server.seen();
    assert_eq!(seen.len(), 500);
    assert!(seen.iter().all(|s| !s.repeats() && s.connection == 1));
    for ids in [seen.iter().map(|s| s.header.hop_by_hop).collect::<HashSet<_>>(), seen.iter().map(|s| s.header.end_to_end).collect()] {
        assert_eq!(ids.len(), 500);
    }
    assert_eq!((seen[0].number(205), seen[0].number(230), seen[0].number(480)), (Some(200), Some(1204), Some(1)));
    assert_eq!(seen[0].value(283), Some(&b"acc.test"[..]));
    client.leave().await;
    assert_eq!(server.with(|s| s.seen.last().map(|r| (r.header.command, r.number(273)))), Some((282, Some(0))));
}

/// The server has stored five, and has answered two of them.
#[tokio::test]
async fn a_broken_connection_repeats_with_the_same_end_to_end_identifier() {
    let mut n = 0;
    let server = Fake::start("srv.acc.test", move |_| {
        n += 1;
        match n {
            3 | 4 => Reply::Silence,
            5 => Reply::Cut,
            _ => Reply::Code(2001),
        }
    })
    .await;
    let mut client = plain(&server.line());
    deliver(&mut client, &records(5)).await;
    let seen = server.seen();
    assert_eq!(seen.len(), 8);
    let (first, again): (Vec<_>, Vec<_>) = seen.iter().partition(|s| s.connection == 1);
    assert!(first.iter().all(|s| !s.repeats()) && again.iter().all(|s| s.repeats()));
    let ids = |s: &[&Seen]| s.iter().map(|s| (s.callid(), s.header.end_to_end)).collect::<Vec<_>>();
    assert_eq!(ids(&first[2..]), ids(&again));
    let hops = |s: &[&Seen]| s.iter().map(|s| s.header.hop_by_hop).collect::<HashSet<_>>();
    assert!(hops(&first).is_disjoint(&hops(&again)));
    // A connection after one that broke proves itself first (RFC 3539 §3.4.1).
    assert!(server.with(|s| s.seen.iter().filter(|r| r.header.command == 280 && r.connection == 2).count()) >= 3);
}

#[tokio::test]
async fn a_server_that_wants_its_watchdogs_answered_gets_no_record_before() {
    let server = Fake::start("srv.acc.test", good).await;
    server.with(|s| s.watchdogs = 3);
    let mut client = plain(&server.line());
    deliver(&mut client, &records(20)).await;
    assert_eq!(server.with(|s| s.answered.clone()), [280, 280, 280]);
    assert_eq!(server.seen().len(), 20);
    assert!(server.seen().iter().all(|s| !s.repeats()));
}

#[tokio::test]
async fn silence_of_the_watchdog_fails_over_and_back() {
    let first = Fake::start("one.acc.test", |s| if s.callid() == "call-0" { Reply::Code(2001) } else { Reply::Silence }).await;
    let second = Fake::start("two.acc.test", good).await;
    // The states of peers of `aaa` are those of other tests, too.
    let mut client = client(&(first.line() + &second.line()), |settings| settings.backend = Backend::Diameter, brisk);
    let states = || ["one.acc.test", "two.acc.test"].map(|name| SinkId::Diameter.state().peer(name).map(|peer| (peer.state.name(), peer.failovers)));
    deliver(&mut client, &records(1)).await;
    // The other one is there when it is needed.
    while states()[1] != Some(("okay", 0)) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    first.with(|s| s.answers_watchdogs = false);
    deliver(&mut client, &records(4)[1..]).await;
    let (one, two) = (first.seen(), second.seen());
    assert_eq!((one.len(), two.len()), (4, 3));
    assert!(two.iter().all(Seen::repeats));
    assert_eq!(one[1..].iter().map(|s| s.header.end_to_end).collect::<Vec<_>>(), two.iter().map(|s| s.header.end_to_end).collect::<Vec<_>>());
    // Once it is back, new records go to the first of the list again.
    first.with(|s| {
        s.answers_watchdogs = true;
        s.script = Box::new(good);
    });
    first.until("three watchdogs on a new connection", |s| s.seen.iter().filter(|r| r.connection > 1 && r.header.command == 280).count() >= 3).await;
    for n in 10.. {
        deliver(&mut client, &[record(n)]).await;
        if first.seen().len() > 4 {
            break;
        }
    }
    assert!(!first.seen()[4].repeats());
    assert_eq!(states(), [Some(("okay", 1)), Some(("okay", 0))]);
}

#[tokio::test]
async fn a_farewell_is_answered_and_what_was_under_way_goes_on() {
    let first = Fake::start("one.acc.test", |_| Reply::Farewell(0)).await;
    let second = Fake::start("two.acc.test", good).await;
    let mut client = plain(&(first.line() + &second.line()));
    deliver(&mut client, &records(1)).await;
    assert_eq!(first.with(|s| s.answered.clone()), [282]);
    assert!(second.seen()[0].repeats());
    deliver(&mut client, &[record(1)]).await;
    assert_eq!((first.seen().len(), second.seen().len()), (1, 2));
    assert!(!second.seen()[1].repeats());
}

#[tokio::test]
async fn a_server_that_does_not_want_us_says_what_to_do() {
    for (name, code, want) in [
        ("srv.acc.test", 5010, "5010 (NO_COMMON_APPLICATION): make the server take base accounting"),
        ("srv.acc.test", 3010, "3010 (UNKNOWN_PEER): make the server accept this node's Identity"),
        ("else.acc.test", 2001, "it calls itself else.acc.test: correct the name in ConnectPeer"),
    ] {
        let server = Fake::start(name, good).await;
        server.with(|s| s.capabilities = code);
        let line = server.line().replace(name, "srv.acc.test");
        let fates = send(&mut plain(&line), &records(2)).await;
        assert!(reason(&fates[0]).starts_with("no Diameter peer takes records (srv.acc.test: ") && reason(&fates[1]).contains(want), "{fates:?}");
        assert!(server.seen().is_empty());
    }
    let gone = super::common::servers::free_port();
    let fates = send(&mut plain(&format!("ConnectPeer = \"srv.acc.test\" {{ ConnectTo = \"127.0.0.1\"; Port = {gone}; No_TLS; }};")), &records(1)).await;
    assert!(reason(&fates[0]).contains("no connection to 127.0.0.1 port"), "{fates:?}");
}

#[tokio::test]
async fn one_record_that_is_refused_keeps_no_other() {
    let server = Fake::start("srv.acc.test", |s| if s.callid() == "call-7" { Reply::Failed(5001, 7846) } else { Reply::Code(2001) }).await;
    let mut client = plain(&server.line());
    let all = records(40);
    let fates = send(&mut client, &all).await;
    for (n, fate) in fates.iter().enumerate().filter(|(n, _)| *n != 7) {
        assert_eq!(*fate, Fate::Delivered, "{n}");
    }
    assert!(matches!(&fates[7], Fate::Refused(r) if r.contains("Result-Code 5001 (AVP_UNSUPPORTED), Failed-AVP 7846")), "{:?}", fates[7]);
    let again = offer(&mut client, &all[7..8], soon(), true).await;
    assert!(matches!(&again[0], Fate::Dead(r) if r.contains("Failed-AVP 7846")), "{again:?}");
    // It was answered each time.
    let copies: Vec<_> = server.seen().into_iter().filter(|s| s.callid() == "call-7").collect();
    assert_eq!(copies.len(), 2);
    assert!(!copies[0].repeats());
    assert_ne!(copies[0].header.end_to_end, copies[1].header.end_to_end);
}

#[tokio::test]
async fn when_all_are_refused_it_is_the_servers_trouble() {
    let server = Fake::start("srv.acc.test", |_| Reply::Failed(5001, 204)).await;
    let mut client = plain(&server.line());
    for n in [1, 30] {
        let fates = send(&mut client, &records(n)).await;
        assert!(fates.iter().all(|f| matches!(f, Fate::Retry(r) if r.contains("Failed-AVP 204") && r.contains("does the server know"))), "{fates:?}");
    }
    let parked = offer(&mut client, &records(1), soon(), true).await;
    assert!(matches!(&parked[0], Fate::Held(h) if h.queue.is_empty() && !h.all), "{parked:?}");
    server.with(|s| s.script = Box::new(good));
    assert!(send(&mut client, &records(30)).await.iter().all(|f| *f == Fate::Delivered));
    // They had an answer: these are no repetitions.
    assert_eq!(server.seen().iter().filter(|s| s.repeats()).count(), 1);
}

/// Those that wait apart come first after a restart.
#[tokio::test]
async fn nothing_dies_while_it_is_not_known_that_anything_is_taken() {
    let server = Fake::start("srv.acc.test", |_| Reply::Failed(5001, 204)).await;
    let mut client = plain(&server.line());
    for _ in 0..2 {
        let parked = offer(&mut client, &records(40), soon(), true).await;
        assert!(parked.iter().all(|f| matches!(f, Fate::Held(h) if h.reason.contains("Failed-AVP 204"))), "{parked:?}");
    }
    server.with(|s| s.script = Box::new(good));
    deliver(&mut client, &[record(100)]).await;
    // It takes nothing any more, and nothing else comes that would tell.
    server.with(|s| s.script = Box::new(|_| Reply::Failed(5001, 204)));
    let parked = offer(&mut client, &records(40), soon(), true).await;
    let dead = parked.iter().filter(|f| matches!(f, Fate::Dead(_))).count();
    assert_eq!((dead, parked.iter().filter(|f| matches!(f, Fate::Held(_))).count()), (16, 24), "{parked:?}");
}

#[tokio::test]
async fn a_server_that_takes_no_repetition_gets_a_new_request() {
    let server = Fake::start("srv.acc.test", |s| if s.repeats() { Reply::Code(5012) } else { Reply::Code(2001) }).await;
    let mut client = plain(&server.line());
    let long_ago = Wall(1_700_000_000_000_000);
    assert_eq!(offer(&mut client, &records(1), long_ago, false).await, [Fate::Delivered]);
    let seen = server.seen();
    assert_eq!(seen.iter().map(Seen::repeats).collect::<Vec<_>>(), [true, false]);
    assert_ne!(seen[0].header.end_to_end, seen[1].header.end_to_end);
    assert_eq!(seen[0].value(263), seen[1].value(263));
}

#[tokio::test]
async fn a_peer_in_trouble_sends_records_to_the_next() {
    for code in [4002, 3004, 3002] {
        let first = Fake::start("one.acc.test", move |_| Reply::Code(code)).await;
        let second = Fake::start("two.acc.test", good).await;
        let mut both = plain(&(first.line() + &second.line()));
        both.send_all(&[]).await;
        second.until("a connection", |s| s.seen.is_empty()).await;
        deliver(&mut both, &records(3)).await;
        assert!(second.seen().iter().all(|s| !s.repeats()), "an error answer makes no repetition");
        let mut alone = plain(&first.line().replace("sip1", "sip2"));
        let fates = send(&mut alone, &records(2)).await;
        assert!(fates.iter().all(|f| matches!(f, Fate::Retry(r) if r.contains(&format!("Result-Code {code}")))), "{fates:?}");
    }
}

/// The same peer once more, then the next one; the others do not wait.
#[tokio::test]
async fn a_request_without_an_answer_is_repeated_and_then_waits_apart() {
    let silent = |s: &Seen| if s.callid() == "call-3" { Reply::Silence } else { Reply::Code(2001) };
    let first = Fake::start("one.acc.test", silent).await;
    let second = Fake::start("two.acc.test", silent).await;
    let mut client = client(&(first.line() + &second.line()), short, |_| {});
    let made = soon();
    let (all, mut fates) = (records(10), vec![Fate::UnderWay; 10]);
    while fates[3] == Fate::UnderWay {
        let open: Vec<usize> = (0..10).filter(|i| fates[*i] == Fate::UnderWay).collect();
        let offers: Vec<_> = open.iter().map(|i| Offer { record: &all[*i], made, parked: false }).collect();
        let done = client.send_all(&offers).await;
        open.into_iter().zip(done).for_each(|(i, fate)| fates[i] = fate);
    }
    assert!(matches!(&fates[3], Fate::Refused(r) if r == "no answer from Diameter peer one.acc.test, two.acc.test"), "{fates:?}");
    assert_eq!(fates.iter().filter(|f| **f == Fate::Delivered).count(), 9);
    let copies: Vec<_> = first.seen().into_iter().chain(second.seen()).filter(|s| s.callid() == "call-3").collect();
    assert_eq!(copies.iter().map(Seen::repeats).collect::<Vec<_>>(), [false, true, true, true]);
    assert_eq!(copies.iter().map(|s| s.header.end_to_end).collect::<HashSet<_>>().len(), 1);
    // Apart from the others it is offered again, and still a repetition.
    first.with(|s| s.script = Box::new(good));
    assert_eq!(offer(&mut client, &all[3..4], made, true).await, [Fate::Delivered]);
    assert!(first.seen().last().unwrap().repeats());
}

#[tokio::test]
async fn what_is_not_diameter_ends_the_connection_and_strangers_answers_do_not_count() {
    for junk in [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![1, 0, 0, 8, 0, 0, 0, 0], vec![1, 255, 255, 252]] {
        let mut n = 0;
        let server = Fake::start("srv.acc.test", move |_| {
            n += 1;
            if n == 1 { Reply::Raw(junk.clone()) } else { Reply::Code(2001) }
        })
        .await;
        deliver(&mut plain(&server.line()), &records(3)).await;
        assert!(server.seen().iter().any(|s| s.connection == 2));
    }
    let ignored = acc::stats::get(Counter::AaaIgnored);
    let server = Fake::start("srv.acc.test", |s| {
        if s.repeats() {
            return Reply::Code(2001);
        }
        // To somebody else's request.
        let mut other =
            acc::backend::diameter::codec::Writer::new(&acc::backend::diameter::codec::Header { flags: 0, hop_by_hop: !s.header.hop_by_hop, ..s.header });
        other.number(&acc::backend::diameter::codec::Attribute::base(268), 2001);
        Reply::Raw(other.finish().unwrap())
    })
    .await;
    assert_eq!(send(&mut client(&server.line(), short, |_| {}), &records(1)).await, [Fate::Delivered]);
    assert!(acc::stats::get(Counter::AaaIgnored) > ignored);
    assert_eq!(server.seen().len(), 2);
}

/// Nobody waits for anybody when the client is dropped.
#[tokio::test]
async fn a_server_that_is_cut_off_is_found_again() {
    let server = Fake::start("srv.acc.test", good).await;
    let mut client = plain(&server.line());
    for round in 0..3 {
        deliver(&mut client, &[record(round)]).await;
        server.cut();
    }
    deliver(&mut client, &[record(9)]).await;
    assert!(server.seen().iter().map(|s| s.connection).max() >= Some(3));
    assert_eq!(server.seen().iter().map(Seen::callid).collect::<HashSet<_>>().len(), 4);
}

#[tokio::test]
async fn fields_go_to_the_avps_that_they_name() {
    let server = Fake::start("srv.acc.test", good).await;
    let mut client = plain(&server.line());
    let mut one = record(1);
    one.extras = vec![field("User-Name", "alice"), field("7846", "gw")];
    one.legs = vec![vec![field("Sip-Uri-User", "bob")], vec![field("Sip-Uri-User", "eve")]];
    deliver(&mut client, &[one]).await;
    let seen = server.seen();
    let tail: Vec<_> = seen[0].avps.iter().rev().take(4).rev().map(|(c, v)| (*c, v.as_slice())).collect();
    assert_eq!(tail, [(1, &b"alice"[..]), (7846, b"gw"), (208, b"bob"), (208, b"eve")]);
}

/// Start, interim records and stop are one session; the server says how often it wants to hear of it.
#[tokio::test]
async fn a_call_that_is_up_is_a_session_at_the_servers_own_interval() {
    use acc::accounting::record::Kind;
    use acc::backend::RecordSender as _;

    let server = Fake::start("srv.acc.test", |seen| if seen.number(480) == Some(2) { Reply::Interval(900) } else { Reply::Code(2001) }).await;
    let mut client = client(&server.line(), |s| s.records = acc::backend::diameter::Records::Session, |_| {});
    let of = |n: usize, kind: Kind, ms: i64| Record { kind, duration_ms: Some(ms), reported: true, id: n as u128, ..record(1) };
    let call = of(0, Kind::Start, 0);
    for (n, r) in [call.clone(), of(1, Kind::Interim, 60_000), of(2, Kind::Interim, 120_000), of(3, Kind::Cdr, 130_000)].iter().enumerate() {
        assert_eq!(send(&mut client, std::slice::from_ref(r)).await, [Fate::Delivered]);
        assert_eq!(client.intervals(), if n == 0 { vec![(call.call_key(), 900)] } else { vec![] });
    }
    let seen = server.seen();
    let types: Vec<_> = seen.iter().map(|s| (s.number(480).unwrap(), s.number(485).unwrap())).collect();
    assert_eq!(types, [(2, 0), (3, 60), (3, 120), (4, 131)]);
    assert!(seen.iter().all(|s| s.value(263) == seen[0].value(263)));
}
