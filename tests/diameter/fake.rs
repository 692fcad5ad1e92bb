//! A server in this process that does what a test wants.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use acc::backend::diameter::codec::{self, Attribute, ERROR, Header, PROXIABLE, REQUEST, RETRANSMITTED, Writer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub connection: usize,
    pub header: Header,
    /// Number of the AVP, and its value.
    pub avps: Vec<(u32, Vec<u8>)>,
}

impl Seen {
    pub fn value(&self, code: u32) -> Option<&[u8]> {
        self.avps.iter().find(|a| a.0 == code).map(|a| a.1.as_slice())
    }

    pub fn number(&self, code: u32) -> Option<u32> {
        self.value(code).map(|v| u32::from_be_bytes(v.try_into().unwrap()))
    }

    pub fn callid(&self) -> String {
        String::from_utf8(self.value(44).unwrap_or_default().to_vec()).unwrap()
    }

    pub fn repeats(&self) -> bool {
        self.header.flags & RETRANSMITTED != 0
    }
}

/// What follows a request.
#[derive(Clone, Debug)]
pub enum Reply {
    Code(u32),
    /// A code with the number of the AVP that it is about.
    Failed(u32, u32),
    /// Success, with an Acct-Interim-Interval of so many seconds.
    Interval(u32),
    Silence,
    /// The connection breaks.
    Cut,
    /// A farewell with this cause, and no answer.
    Farewell(u32),
    /// These bytes.
    Raw(Vec<u8>),
}

type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;

pub struct State {
    /// What it calls itself, and says of the capabilities.
    pub name: &'static str,
    pub capabilities: u32,
    /// It sends so many watchdogs of its own after the capabilities, each when the last one was answered.
    pub watchdogs: usize,
    /// It answers watchdogs.
    pub answers_watchdogs: bool,
    pub script: Script,
    /// Every request but that of the capabilities, in order.
    pub seen: Vec<Seen>,
    /// Own requests that were answered.
    pub answered: Vec<u32>,
    connections: usize,
}

pub struct Fake {
    pub port: u16,
    state: Arc<Mutex<State>>,
    cut: Arc<Notify>,
}

impl Fake {
    /// Answers as the script wants.
    pub async fn start(name: &'static str, script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            name,
            capabilities: 2001,
            watchdogs: 0,
            answers_watchdogs: true,
            script: Box::new(script),
            seen: Vec::new(),
            answered: Vec::new(),
            connections: 0,
        };
        let fake = Fake { port, state: Arc::new(Mutex::new(state)), cut: Arc::default() };
        let (state, cut) = (fake.state.clone(), fake.cut.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, cut) = (state.clone(), cut.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(stream, state) => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        fake
    }

    /// Of a file with peers.
    pub fn line(&self) -> String {
        let name = self.with(|s| s.name);
        format!("ConnectPeer = \"{name}\" {{ ConnectTo = \"127.0.0.1\"; Port = {}; No_TLS; }};\n", self.port)
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Accounting requests seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.with(|s| s.seen.iter().filter(|r| r.header.command == 271).cloned().collect())
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }

    pub async fn until(&self, what: &str, mut condition: impl FnMut(&State) -> bool) {
        for _ in 0..600 {
            if self.with(|s| condition(s)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never: {what}");
    }
}

fn origin(w: &mut Writer, name: &str) {
    w.put(&Attribute::base(264), name.as_bytes());
    w.put(&Attribute::base(296), b"acc.test");
}

fn answer(header: &Header, name: &str, code: u32, failed: Option<u32>) -> Vec<u8> {
    answer_with(header, name, code, failed, None)
}

fn answer_with(header: &Header, name: &str, code: u32, failed: Option<u32>, interval: Option<u32>) -> Vec<u8> {
    let error = if (3000..4000).contains(&code) { ERROR } else { 0 };
    let mut w = Writer::new(&Header { flags: header.flags & PROXIABLE | error, ..*header });
    w.number(&Attribute::base(268), code);
    origin(&mut w, name);
    w.number(&Attribute::base(258), 3);
    if let Some(interval) = interval {
        w.number(&Attribute::base(85), interval);
    }
    if let Some(failed) = failed {
        w.nest(&Attribute::base(279), |w| w.put(&Attribute::base(failed), b"x"));
    }
    w.finish().unwrap()
}

/// A request of its own.
fn request(command: u32, name: &str, cause: Option<u32>) -> Vec<u8> {
    let mut w = Writer::new(&Header { flags: REQUEST, command, application: 0, hop_by_hop: 77, end_to_end: 78 });
    origin(&mut w, name);
    if let Some(cause) = cause {
        w.number(&Attribute::base(273), cause);
    }
    w.finish().unwrap()
}

async fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; codec::HEADER];
    stream.read_exact(&mut bytes).await.ok()?;
    let length = codec::length(&bytes).unwrap().unwrap();
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[codec::HEADER..]).await.ok()?;
    Some(bytes)
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let (mut connection, mut watchdogs) = (0, 0);
    while let Some(bytes) = message(&mut stream).await {
        let (header, avps) = codec::decode(&bytes).unwrap();
        let avps = avps.map(|a| a.unwrap()).map(|a| (a.attribute.code, a.value.to_vec())).collect();
        let mut out = Vec::new();
        let mut cut = false;
        {
            let mut s = state.lock().unwrap();
            let name = s.name;
            if !header.is_request() {
                s.answered.push(header.command);
                if header.command == 280 && watchdogs > 0 {
                    watchdogs -= 1;
                    if watchdogs > 0 {
                        out = request(280, name, None);
                    }
                }
                if header.command == 282 {
                    cut = true;
                }
            } else if header.command == 257 {
                s.connections += 1;
                (connection, watchdogs) = (s.connections, s.watchdogs);
                out = answer(&header, name, s.capabilities, None);
                if watchdogs > 0 {
                    out.extend(request(280, name, None));
                }
            } else {
                let seen = Seen { connection, header, avps };
                s.seen.push(seen.clone());
                let reply = match header.command {
                    280 if s.answers_watchdogs => Reply::Code(2001),
                    280 => Reply::Silence,
                    282 => Reply::Code(2001),
                    // As freeDiameter and OTP: stored, and never answered.
                    _ if watchdogs > 0 => Reply::Silence,
                    _ => (s.script)(&seen),
                };
                match reply {
                    Reply::Code(code) => out = answer(&header, name, code, None),
                    Reply::Failed(code, avp) => out = answer(&header, name, code, Some(avp)),
                    Reply::Interval(seconds) => out = answer_with(&header, name, 2001, None, Some(seconds)),
                    Reply::Silence => {}
                    Reply::Cut => cut = true,
                    Reply::Farewell(cause) => out = request(282, name, Some(cause)),
                    Reply::Raw(bytes) => out = bytes,
                }
            }
        }
        if cut || stream.write_all(&out).await.is_err() {
            return;
        }
    }
}
