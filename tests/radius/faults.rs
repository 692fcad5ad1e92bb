//! A responder in this process that drops, delays, repeats and forges.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use md5::{Digest, Md5};
use tokio::net::UdpSocket;

use super::*;
use acc::backend::radius::client::PATIENCE;
use acc::stats::{Counter, get};

const SECRET: &str = "testing123";

/// A request as it came in.
#[derive(Clone)]
pub(super) struct Seen {
    from: SocketAddr,
    packet: Vec<u8>,
}

impl Seen {
    fn value(&self, code: u8) -> Option<&[u8]> {
        let mut rest = &self.packet[20..];
        while let [c, n, ..] = *rest {
            if c == code {
                return Some(&rest[2..usize::from(n)]);
            }
            rest = &rest[usize::from(n)..];
        }
        None
    }

    pub(super) fn callid(&self) -> String {
        String::from_utf8(self.value(44).unwrap().to_vec()).unwrap()
    }

    fn delay(&self) -> u32 {
        u32::from_be_bytes(self.value(41).unwrap().try_into().unwrap())
    }

    fn identity(&self) -> (u16, u8, &[u8]) {
        (self.from.port(), self.packet[1], &self.packet[4..20])
    }
}

/// One answer to a request.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Good,
    WrongSecret,
    WrongIdentifier,
    WrongCode,
    OtherPort,
    Garbage,
    Late(u64),
    /// With a Message-Authenticator, which is right or not.
    Signed(bool),
}

/// What to do with the n-th transmission (from 0) of a Call-ID.
pub(super) type Plan = dyn Fn(&Seen, usize) -> Vec<Answer> + Send + Sync;

pub(super) struct Responder {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    plan: Arc<Mutex<Arc<Plan>>>,
    /// Requests not yet answered: now, and the most at any time.
    open: Arc<Mutex<(usize, usize)>>,
}

fn reply(seen: &Seen, code: u8, identifier: u8, secret: &str, signed: Option<bool>) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    let length = 20 + if signed.is_some() { 18 } else { 0 };
    let mut out = vec![code, identifier, 0, length];
    out.extend(&seen.packet[4..20]);
    if let Some(right) = signed {
        out.extend([80, 18]);
        out.extend([0; 16]);
        let mut mac = Hmac::<Md5>::new_from_slice(if right { secret.as_bytes() } else { b"other" }).unwrap();
        mac.update(&out);
        let sum = mac.finalize().into_bytes();
        out[22..].copy_from_slice(&sum);
    }
    let digest = Md5::digest([out.as_slice(), secret.as_bytes()].concat());
    out[4..20].copy_from_slice(&digest);
    out
}

impl Responder {
    pub(super) async fn start(address: &str, plan: impl Fn(&Seen, usize) -> Vec<Answer> + Send + Sync + 'static) -> Responder {
        let socket = Arc::new(UdpSocket::bind((address, 0)).await.unwrap());
        let other = UdpSocket::bind((address, 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        let plan: Arc<Plan> = Arc::new(plan);
        let r = Responder { addr, seen: Arc::default(), plan: Arc::new(Mutex::new(plan)), open: Arc::default() };
        let (seen, plan, open) = (r.seen.clone(), r.plan.clone(), r.open.clone());
        tokio::spawn(async move {
            let mut times: HashMap<String, usize> = HashMap::new();
            let mut buffer = vec![0; 8192];
            loop {
                let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
                let request = Seen { from, packet: buffer[..n].to_vec() };
                assert_eq!(usize::from(u16::from_be_bytes([buffer[2], buffer[3]])), n);
                assert!(radius::core::packet::Packet::is_authentic_request(&request.packet, SECRET.as_bytes()), "request authenticator");
                let count = times.entry(request.callid()).or_default();
                let now = plan.lock().unwrap().clone();
                let answers = now(&request, *count);
                *count += 1;
                seen.lock().unwrap().push(request.clone());
                for answer in answers {
                    let id = request.packet[1];
                    let good = reply(&request, 5, id, SECRET, None);
                    match answer {
                        Answer::Good => drop(socket.send_to(&good, from).await),
                        Answer::WrongSecret => drop(socket.send_to(&reply(&request, 5, id, "other", None), from).await),
                        Answer::WrongIdentifier => drop(socket.send_to(&reply(&request, 5, id.wrapping_add(100), SECRET, None), from).await),
                        Answer::WrongCode => drop(socket.send_to(&reply(&request, 2, id, SECRET, None), from).await),
                        Answer::OtherPort => drop(other.send_to(&good, from).await),
                        Answer::Garbage => {
                            for bytes in [&b""[..], b"\x05", &[5, id, 0, 20], &[0xff; 5000]] {
                                drop(socket.send_to(bytes, from).await);
                            }
                        }
                        Answer::Signed(right) => drop(socket.send_to(&reply(&request, 5, id, SECRET, Some(right)), from).await),
                        Answer::Late(ms) => {
                            {
                                let mut open = open.lock().unwrap();
                                open.0 += 1;
                                open.1 = open.1.max(open.0);
                            }
                            let (socket, open) = (socket.clone(), open.clone());
                            tokio::spawn(async move {
                                tokio::time::sleep(Duration::from_millis(ms)).await;
                                open.lock().unwrap().0 -= 1;
                                drop(socket.send_to(&good, from).await);
                            });
                        }
                    }
                }
            }
        });
        r
    }

    pub(super) fn line(&self) -> String {
        match self.addr {
            SocketAddr::V4(a) => format!("acctserver {a}:{SECRET}\n"),
            SocketAddr::V6(a) => format!("acctserver [{}]:{}:{SECRET}\n", a.ip(), a.port()),
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn plan(&self, plan: impl Fn(&Seen, usize) -> Vec<Answer> + Send + Sync + 'static) {
        *self.plan.lock().unwrap() = Arc::new(plan);
    }
}

fn delivered(fates: &[Fate]) -> usize {
    fates.iter().filter(|f| **f == Fate::Delivered).count()
}

#[tokio::test]
async fn many_records_in_flight_are_all_acknowledged() {
    // Answers that take a while, as over a distance: the client must not wait for each.
    let server = Responder::start("127.0.0.1", |_, _| vec![Answer::Late(20)]).await;
    let mut c = client(&server.line(), |c| c.timeout = Duration::from_secs(2), None);
    let records: Vec<_> = (0..3000).map(record).collect();
    assert_eq!(delivered(&send(&mut c, &records).await), 3000);
    let seen = server.seen();
    let calls: std::collections::HashSet<_> = seen.iter().map(Seen::callid).collect();
    assert_eq!(calls.len(), 3000);
    let most = server.open.lock().unwrap().1;
    assert!(most >= 64, "{most} in flight at once");
    assert!(seen.iter().map(|s| s.from.port()).collect::<std::collections::HashSet<_>>().len() > 1, "more than one source port");
    assert_eq!(seen[0].value(5), Some(&5060u32.to_be_bytes()[..]));
    assert_eq!((seen[0].delay(), seen[0].value(4)), (0, Some(&[127, 0, 0, 1][..])));
}

#[tokio::test]
async fn a_retransmission_is_the_same_packet_until_its_delay_changes() {
    // The first four transmissions are lost: over a second passes.
    let server = Responder::start("127.0.0.1", |_, n| if n < 4 { vec![] } else { vec![Answer::Good] }).await;
    let before = get(Counter::AaaRetransmits);
    let mut c = client(&server.line(), |c| (c.timeout, c.retries) = (Duration::from_millis(150), 5), None);
    let records: Vec<_> = (0..20).map(record).collect();
    assert_eq!(delivered(&send(&mut c, &records).await), 20);
    assert!(get(Counter::AaaRetransmits) >= before + 80);
    let mut by_call: HashMap<String, Vec<Seen>> = HashMap::new();
    for s in server.seen() {
        by_call.entry(s.callid()).or_default().push(s);
    }
    for (call, sent) in by_call {
        assert_eq!(sent.len(), 5, "{call}");
        for pair in sent.windows(2) {
            assert!(pair[1].delay() >= pair[0].delay());
            if pair[0].delay() == pair[1].delay() {
                assert_eq!((pair[0].from, &pair[0].packet), (pair[1].from, &pair[1].packet), "{call}: unchanged packet");
            } else {
                assert_ne!(pair[0].packet[4..20], pair[1].packet[4..20], "{call}: new authenticator");
                assert_ne!((pair[0].from.port(), pair[0].packet[1]), (pair[1].from.port(), pair[1].packet[1]), "{call}: new identifier");
            }
        }
        // 150 + 300 + 600 + 1200 ms, less the jitter
        assert!(sent[4].delay() >= 1, "{call}: {}", sent[4].delay());
    }
}

#[tokio::test]
async fn acct_delay_time_counts_from_the_making_of_the_record() {
    let server = Responder::start("127.0.0.1", |_, _| vec![Answer::Good]).await;
    let mut c = client(&server.line(), |_| {}, None);
    let r = record(1);
    assert_eq!(offer(&mut c, &[r], Wall(Moment::wall_now().0 - 3_600_500_000), false).await, [Fate::Delivered]);
    assert!((3600..3700).contains(&server.seen()[0].delay()));
}

#[tokio::test]
async fn an_answer_to_the_attempt_before_counts() {
    // Each answer comes after the next transmission, which has another identifier.
    let server = Responder::start("127.0.0.1", |_, n| if n == 0 { vec![Answer::Late(1300)] } else { vec![] }).await;
    let mut c = client(&server.line(), |c| (c.timeout, c.retries) = (Duration::from_millis(1150), 1), None);
    assert_eq!(send(&mut c, &[record(1)]).await, [Fate::Delivered]);
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].identity(), seen[1].identity());
}

#[tokio::test]
async fn forged_and_malformed_answers_are_ignored_and_counted() {
    for (what, bad, counted) in [
        ("wrong secret", Answer::WrongSecret, 1),
        ("wrong identifier", Answer::WrongIdentifier, 1),
        ("wrong code", Answer::WrongCode, 1),
        ("other port", Answer::OtherPort, 1),
        ("garbage", Answer::Garbage, 4),
        ("wrong Message-Authenticator", Answer::Signed(false), 1),
    ] {
        // Alone they are no acknowledgement …
        let server = Responder::start("127.0.0.1", move |_, _| vec![bad]).await;
        let before = get(Counter::AaaIgnored);
        let mut c = client(&server.line(), |c| c.retries = 1, None);
        let fates = send(&mut c, &[record(1)]).await;
        assert!(retry_reason(&fates[0]).contains(&server.addr.to_string()), "{what}: {fates:?}");
        assert_eq!(server.seen().len(), 2, "{what}");
        assert!(get(Counter::AaaIgnored) >= before + 2 * counted, "{what} is counted");
        // … and they do not stand in the way of a right one.
        server.plan(move |_, _| vec![bad, Answer::Good]);
        assert_eq!(send(&mut c, &[record(2)]).await, [Fate::Delivered], "{what}");
    }
}

#[tokio::test]
async fn a_right_message_authenticator_is_accepted() {
    let server = Responder::start("127.0.0.1", |_, _| vec![Answer::Signed(true)]).await;
    let mut c = client(&server.line(), |_| {}, None);
    assert_eq!(send(&mut c, &[record(1)]).await, [Fate::Delivered]);
}

#[tokio::test]
async fn repeated_answers_acknowledge_one_record_only() {
    let server = Responder::start("127.0.0.1", |_, n| if n == 0 { vec![Answer::Good, Answer::Good, Answer::Good] } else { vec![] }).await;
    let before = get(Counter::AaaIgnored);
    let mut c = client(&server.line(), |c| (c.retries, c.timeout) = (0, Duration::from_millis(700)), None);
    let records: Vec<_> = (0..200).map(record).collect();
    assert_eq!(delivered(&send(&mut c, &records).await), 200);
    // The repetitions meet free identifiers, or those of the next records, which they do not open.
    server.plan(|s, _| if s.callid() == "call-999" { vec![] } else { vec![Answer::Good] });
    let fates = send(&mut c, &[record(999), record(201)]).await;
    assert_eq!(fates[1], Fate::Delivered);
    refused_reason(&fates[0]);
    assert!(get(Counter::AaaIgnored) >= before + 300);
}

#[tokio::test]
async fn an_answer_after_its_call_is_ignored() {
    let server = Responder::start("127.0.0.1", |_, _| vec![Answer::Late(150)]).await;
    let mut c = client(&server.line(), |c| (c.retries, c.timeout) = (0, Duration::from_millis(50)), None);
    retry_reason(&send(&mut c, &[record(1)]).await[0]);
    server.plan(|s, _| if s.callid() == "call-3" { vec![Answer::Late(400), Answer::Good] } else { vec![] });
    let before = get(Counter::AaaIgnored);
    c = client(&server.line(), |c| (c.retries, c.timeout) = (0, Duration::from_millis(200)), None);
    assert_eq!(send(&mut c, &[record(3)]).await, [Fate::Delivered]);
    // The late answer to call-3 arrives while call-4 waits in vain.
    tokio::time::sleep(Duration::from_millis(450)).await;
    retry_reason(&send(&mut c, &[record(4)]).await[0]);
    assert!(get(Counter::AaaIgnored) > before);
}

#[tokio::test]
async fn a_silent_server_is_passed_over_until_its_time_is_over() {
    let silent = Responder::start("127.0.0.1", |_, _| vec![]).await;
    let good = Responder::start("127.0.0.1", |_, _| vec![Answer::Good]).await;
    let mut c = client(&(silent.line() + &good.line()), |_| {}, None);
    let records: Vec<_> = (0..300).map(record).collect();
    assert_eq!(delivered(&send(&mut c, &records).await), 300);
    let at_silent = silent.seen().len();
    // One window at most, each of it sent 1 + radius_retries times.
    assert!(at_silent <= 3 * 128, "{at_silent}");
    assert_eq!(delivered(&send(&mut c, &records).await), 300);
    assert_eq!(silent.seen().len(), at_silent, "passed over while it is down");
}

#[tokio::test]
async fn a_server_that_is_due_again_gets_one_record_to_prove_itself() {
    let first = Responder::start("127.0.0.1", |_, _| vec![]).await;
    let second = Responder::start("127.0.0.1", |_, _| vec![Answer::Good]).await;
    let mut c = client(&(first.line() + &second.line()), |c| c.deadtime = Duration::ZERO, None);
    let records: Vec<_> = (0..50).map(record).collect();
    assert_eq!(delivered(&send(&mut c, &records).await), 50);
    let (before, after) = (first.seen().len(), second.seen().len());
    assert_eq!(delivered(&send(&mut c, &records).await), 50);
    let probes: std::collections::HashSet<_> = first.seen()[before..].iter().map(Seen::callid).collect();
    assert_eq!(probes.len(), 1);
    assert_eq!(second.seen().len(), after + 50);
    // Once it answers, it is the first again.
    first.plan(|_, _| vec![Answer::Good]);
    assert_eq!(delivered(&send(&mut c, &records).await), 50);
    let after = second.seen().len();
    assert_eq!(delivered(&send(&mut c, &records).await), 50);
    assert_eq!(second.seen().len(), after, "the second one rests");
}

#[tokio::test]
async fn all_servers_silent_gives_retry_and_recovery_needs_no_dead_time() {
    let a = Responder::start("127.0.0.1", |_, _| vec![]).await;
    let b = Responder::start("127.0.0.1", |_, _| vec![]).await;
    let mut c = client(&(a.line() + &b.line()), |c| c.deadtime = Duration::from_secs(3600), None);
    let records: Vec<_> = (0..1000).map(record).collect();
    let fates = send(&mut c, &records).await;
    for fate in &fates {
        retry_reason(fate);
    }
    assert!(retry_reason(&fates[0]).contains(&a.addr.to_string()) && retry_reason(&fates[0]).contains(&b.addr.to_string()), "{fates:?}");
    // The next call asks one server with one record instead of flooding both.
    let (at_a, at_b) = (a.seen().len(), b.seen().len());
    assert_eq!(delivered(&send(&mut c, &records).await), 0);
    assert_eq!(a.seen().len() + b.seen().len() - at_a - at_b, 3);
    a.plan(|_, _| vec![Answer::Good]);
    b.plan(|_, _| vec![Answer::Good]);
    assert_eq!(delivered(&send(&mut c, &records).await), 1000);
}

#[tokio::test]
async fn a_record_that_one_server_does_not_take_goes_to_the_next() {
    let picky = Responder::start("127.0.0.1", |s, _| if s.callid() == "call-7" { vec![] } else { vec![Answer::Late(40)] }).await;
    let good = Responder::start("127.0.0.1", |_, _| vec![Answer::Good]).await;
    let mut c = client(&(picky.line() + &good.line()), |c| (c.timeout, c.retries) = (Duration::from_millis(300), 1), None);
    let records: Vec<_> = (0..5000).map(record).collect();
    assert_eq!(delivered(&send(&mut c, &records).await), 5000);
    assert!(good.seen().iter().any(|s| s.callid() == "call-7"));
}

#[tokio::test]
async fn a_record_dies_after_so_many_offers() {
    let server = Responder::start("127.0.0.1", |s, _| if s.callid() == "call-7" { vec![] } else { vec![Answer::Good] }).await;
    let mut c = client(&server.line(), |c| c.retries = 1, Some(2));
    let records: Vec<_> = (0..20).map(record).collect();
    let made = Moment::wall_now();
    let fates = offer(&mut c, &records, made, false).await;
    assert_eq!(delivered(&fates), 19);
    refused_reason(&fates[7]);
    let fates = offer(&mut c, &records[7..9], made, false).await;
    assert!(matches!(&fates[0], Fate::Dead(why) if why.contains("offered 2 times (aaa_retry)")), "{fates:?}");
    assert_eq!(fates[1], Fate::Delivered);
    // An acknowledged record's offers are forgotten.
    server.plan(|_, _| vec![Answer::Good]);
    assert_eq!(send(&mut c, &records[7..8]).await, [Fate::Delivered]);
}

#[tokio::test]
async fn a_dropped_call_leaves_the_client_usable() {
    let server = Responder::start("127.0.0.1", |_, _| vec![]).await;
    let mut c = client(&server.line(), |c| c.timeout = Duration::from_secs(5), None);
    let records: Vec<_> = (0..200).map(record).collect();
    assert!(tokio::time::timeout(Duration::from_millis(50), send(&mut c, &records)).await.is_err());
    server.plan(|_, _| vec![Answer::Good]);
    for _ in 0..10 {
        assert_eq!(delivered(&send(&mut c, &records).await), 200);
    }
}

#[tokio::test]
async fn addresses_and_identifier_of_the_client() {
    let server = Responder::start("127.0.0.1", |_, _| vec![Answer::Good]).await;
    let mut c = client(&format!("{}bindaddr 127.0.0.2\nnas-identifier proxy-1\n", server.line()), |_| {}, None);
    assert_eq!(send(&mut c, &[record(1)]).await, [Fate::Delivered]);
    let s = &server.seen()[0];
    assert_eq!((s.from.ip().to_string().as_str(), s.value(4), s.value(32)), ("127.0.0.2", Some(&[127, 0, 0, 2][..]), Some(&b"proxy-1"[..])));

    let mut c = client(&format!("{}nas-ip 192.0.2.7\n", server.line()), |_| {}, None);
    assert_eq!(send(&mut c, &[record(2)]).await, [Fate::Delivered]);
    assert_eq!(server.seen()[1].value(4), Some(&[192, 0, 2, 7][..]));

    let mut radius = open(&server.line());
    radius.conf.bind = Some("192.0.2.1".parse().unwrap());
    let e = RadiusClient::new(radius, Options::default()).err().unwrap();
    assert!(e.contains("client.conf: no UDP socket on 192.0.2.1") && e.contains("bindaddr"), "{e}");
}

#[tokio::test]
async fn ipv6_servers_and_ipv4_servers_in_one_list() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("skipped: no IPv6 loopback");
        return;
    }
    let six = Responder::start("::1", |s, n| if s.callid() == "call-2" && n < 9 { vec![] } else { vec![Answer::Good] }).await;
    let four = Responder::start("127.0.0.1", |_, _| vec![Answer::Good]).await;
    let mut c = client(&(six.line() + &four.line()), |_| {}, None);
    assert_eq!(send(&mut c, &[record(1)]).await, [Fate::Delivered]);
    let s = &six.seen()[0];
    assert_eq!((s.value(4), s.value(95).map(|v| v[15])), (None, Some(1)));
    assert_eq!(send(&mut c, &[record(2)]).await, [Fate::Delivered]);
    assert_eq!(four.seen()[0].callid(), "call-2");
}

#[tokio::test]
async fn the_longest_record_is_one_packet() {
    let server = Responder::start("127.0.0.1", |_, _| vec![Answer::Good]).await;
    let mut c = client(&format!("{}nas-identifier {}\n", server.line(), "n".repeat(253)), |_| {}, None);
    let mut r = record(1);
    r.legs = (0..200).map(|_| vec![field("Acc-Leg-Src", &"x".repeat(300)), field("Cisco-AVPair", &"y".repeat(300))]).collect();
    assert_eq!(send(&mut c, &[r]).await, [Fate::Delivered]);
    let n = server.seen()[0].packet.len();
    assert!(n <= 4096 && n > 3900, "{n}");
}

#[tokio::test]
async fn a_record_that_no_server_takes_passes_over_none() {
    let server = Responder::start("127.0.0.1", |s, _| if s.callid() == "call-7" { vec![] } else { vec![Answer::Good] }).await;
    let mut c = client(&server.line(), |c| (c.retries, c.deadtime) = (1, Duration::from_secs(3600)), None);
    let (bad, made) = (record(7), Moment::wall_now());
    // Alone it cannot be told from a server that is down.
    retry_reason(&offer(&mut c, std::slice::from_ref(&bad), made, false).await[0]);
    // The next one proves that the server is not, and then it is.
    let fates = offer(&mut c, &[bad.clone(), record(8)], made, false).await;
    assert_eq!(fates[1], Fate::Delivered);
    refused_reason(&fates[0]);
    // Apart from the others it says nothing of the server, and alone nothing of itself.
    for _ in 0..3 {
        assert!(matches!(&offer(&mut c, std::slice::from_ref(&bad), made, true).await[..], [Fate::Held(_)]));
    }
    assert_eq!(send(&mut c, &[record(9)]).await, [Fate::Delivered]);
    // Beside others it is refused.
    let offers = [Offer { record: &bad, made, parked: true }];
    let begun = c.send_all(&offers);
    assert!(tokio::time::timeout(Duration::from_millis(10), begun).await.is_err());
    let other = record(10);
    let both = [offers[0], Offer { record: &other, made, parked: false }];
    let fates = c.send_all(&both).await;
    assert_eq!(fates[1], Fate::Delivered);
    let fate = if fates[0] == Fate::UnderWay { c.send_all(&offers).await.remove(0) } else { fates[0].clone() };
    refused_reason(&fate);
}

#[tokio::test]
async fn the_others_wait_for_no_record_without_an_answer() {
    let server = Responder::start("127.0.0.1", |s, _| if s.callid() == "call-7" { vec![] } else { vec![Answer::Good] }).await;
    let mut c = client(&server.line(), |c| c.timeout = Duration::from_secs(600), None);
    let records: Vec<_> = (0..20).map(record).collect();
    let made = Moment::wall_now();
    let offers: Vec<_> = records.iter().map(|record| Offer { record, made, parked: false }).collect();
    let fates = c.send_all(&offers).await;
    assert_eq!(delivered(&fates), 19);
    assert_eq!(fates[7], Fate::UnderWay);
    // It stays in flight while others come, and its answer counts whenever it comes.
    let later = record(30);
    let next = [offers[7], Offer { record: &later, made, parked: false }];
    assert_eq!(c.send_all(&next).await, [Fate::UnderWay, Fate::Delivered]);
    assert_eq!(server.seen().iter().filter(|s| s.callid() == "call-7").count(), 1);
}

#[tokio::test]
async fn a_record_without_an_answer_narrows_no_window() {
    // One that was lost is answered when it comes again.
    for lost in [false, true] {
        let silent = move |s: &Seen, n: usize| s.callid() == "call-7" && (n == 0 || !lost);
        let server = Responder::start("127.0.0.1", move |s, n| if silent(s, n) { vec![] } else { vec![Answer::Good] }).await;
        let mut c = client(&server.line(), |c| (c.retries, c.timeout) = (1000, Duration::from_millis(400)), None);
        let (records, made) = ((0..20).map(record).collect::<Vec<_>>(), Moment::wall_now());
        let offers: Vec<_> = records.iter().map(|record| Offer { record, made, parked: false }).collect();
        let fates = c.send_all(&offers).await;
        assert_eq!((delivered(&fates), &fates[7]), (19, &Fate::UnderWay));
        let sent = || server.seen().iter().filter(|s| s.callid() == "call-7").count();
        let mut fate = Fate::UnderWay;
        while sent() < 2 || lost && fate == Fate::UnderWay {
            if let Ok(fates) = tokio::time::timeout(Duration::from_millis(20), c.send_all(&offers[7..8])).await {
                fate = fates[0].clone();
            }
        }
        server.plan(|s, _| if s.callid() == "call-7" { vec![] } else { vec![Answer::Late(200)] });
        let more: Vec<_> = (100..200).map(record).collect();
        let more: Vec<_> = more.iter().map(|record| Offer { record, made, parked: false }).collect();
        c.send_all(&more).await;
        let most = server.open.lock().unwrap().1;
        assert_eq!(most > 64, !lost, "{most}");
    }
}

/// The process does not run for longer than a record has for its answer, which is there in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_came_while_nothing_ran_count() {
    // The other one is answered first, as if this one were refused.
    let server = Responder::start("127.0.0.1", |s, _| if s.callid() == "call-7" { vec![Answer::Late(300)] } else { vec![Answer::Good] }).await;
    let lines = server.line();
    let stalled = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut c = client(&lines, |c| c.timeout = Duration::from_secs(1), None);
            let (records, made) = ([record(7), record(8)], Moment::wall_now());
            let offers = [&records[0], &records[1]].map(|record| Offer { record, made, parked: false });
            assert_eq!(c.send_all(&offers).await, [Fate::UnderWay, Fate::Delivered]);
            std::thread::sleep(PATIENCE + Duration::from_millis(200));
            c.send_all(&offers[..1]).await
        })
    });
    let fates = tokio::task::spawn_blocking(|| stalled.join().unwrap()).await.unwrap();
    assert_eq!(fates, [Fate::Delivered]);
    assert_eq!(server.seen().len(), 2, "nothing is sent again");
}
