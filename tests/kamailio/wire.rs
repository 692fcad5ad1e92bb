//! Phones that say message by message what a test wants, over UDP or TCP. They keep no state of their
//! own, so they can do what SIPp's cannot: two calls with one Call-ID and From tag, in any order.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::server::port;

/// How long a message is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a read waits before it looks at the time.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

enum Link {
    Udp(UdpSocket),
    /// Where it is called, and the connection once there is one, with what came and is not looked at yet.
    Tcp(TcpListener, Option<TcpStream>, Vec<u8>),
}

pub struct Phone {
    link: Link,
    pub port: u16,
    /// Where its requests go.
    pub server: u16,
}

impl Phone {
    pub fn new(transport: Transport, server: u16) -> Phone {
        loop {
            let port = port();
            let link = match transport {
                Transport::Udp => UdpSocket::bind(("127.0.0.1", port)).map(|s| s.set_read_timeout(Some(LOOK)).map(|()| Link::Udp(s))),
                Transport::Tcp => TcpListener::bind(("127.0.0.1", port)).map(|l| l.set_nonblocking(true).map(|()| Link::Tcp(l, None, Vec::new()))),
            };
            if let Ok(link) = link {
                return Phone { link: link.unwrap(), port, server };
            }
        }
    }

    /// As the top Via and a Contact say it.
    pub fn transport(&self) -> &'static str {
        match self.link {
            Link::Udp(_) => "UDP",
            Link::Tcp(..) => "TCP",
        }
    }

    pub fn send(&mut self, message: &str) {
        match &mut self.link {
            Link::Udp(socket) => drop(socket.send_to(message.as_bytes(), ("127.0.0.1", self.server)).unwrap()),
            Link::Tcp(_, stream, _) => {
                let stream = stream.get_or_insert_with(|| {
                    let stream = TcpStream::connect(("127.0.0.1", self.server)).unwrap();
                    stream.set_read_timeout(Some(LOOK)).unwrap();
                    stream
                });
                stream.write_all(message.as_bytes()).unwrap();
            }
        }
    }

    /// The next message that begins with one of these and has this method in its CSeq; others are passed over.
    pub fn wait(&mut self, beginnings: &[&str], method: &str) -> String {
        let begin = Instant::now();
        let mut seen = Vec::new();
        loop {
            assert!(begin.elapsed() < PATIENCE, "{beginnings:?} {method} did not come; seen: {seen:?}");
            let Some(message) = self.next() else { continue };
            if beginnings.iter().any(|b| message.starts_with(b)) && header(&message, "CSeq").ends_with(method) {
                return message;
            }
            seen.extend(message.lines().next().map(str::to_string));
        }
    }

    fn next(&mut self) -> Option<String> {
        match &mut self.link {
            Link::Udp(socket) => {
                let mut room = [0; 64 << 10];
                let n = socket.recv(&mut room).ok()?;
                Some(String::from_utf8_lossy(&room[..n]).into_owned())
            }
            Link::Tcp(listener, stream, rest) => {
                if stream.is_none()
                    && let Ok((accepted, _)) = listener.accept()
                {
                    accepted.set_nonblocking(false).unwrap();
                    accepted.set_read_timeout(Some(LOOK)).unwrap();
                    *stream = Some(accepted);
                }
                let Some(stream) = stream else {
                    std::thread::sleep(Duration::from_millis(10));
                    return None;
                };
                // No message has a body.
                let end = |rest: &[u8]| rest.windows(4).position(|w| w == b"\r\n\r\n").map(|i| i + 4);
                if end(rest).is_none() {
                    let mut room = [0; 16 << 10];
                    let n = stream.read(&mut room).ok()?;
                    rest.extend_from_slice(&room[..n]);
                }
                let message: Vec<u8> = rest.drain(..end(rest)?).collect();
                Some(String::from_utf8_lossy(&message).trim_start().to_string())
            }
        }
    }
}

/// The first value of a header.
pub fn header<'a>(message: &'a str, name: &str) -> &'a str {
    headers(message, name).next().unwrap_or_default()
}

/// All lines of a header, their values.
pub fn headers<'a>(message: &'a str, name: &str) -> impl DoubleEndedIterator<Item = &'a str> {
    message.lines().filter_map(move |l| l.strip_prefix(name)?.strip_prefix(": "))
}

/// A reply to a request, with this tag in its To.
pub fn reply(request: &str, status: &str, to_tag: &str, contact: &str) -> String {
    let mut out = format!("SIP/2.0 {status}\r\n");
    for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
        for value in headers(request, name) {
            let tag = if name == "To" && !value.contains(";tag=") { format!(";tag={to_tag}") } else { String::new() };
            out += &format!("{name}: {value}{tag}\r\n");
        }
    }
    out + &format!("Contact: <{contact}>\r\nContent-Length: 0\r\n\r\n")
}
