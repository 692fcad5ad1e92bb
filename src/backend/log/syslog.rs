//! The syslog socket: used by the workers for an attempt that never blocks, and by the delivery process
//! for the lines that it did not accept then.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::accounting::visible::whole;
use crate::backend::{Commit, Fate, LocalFuture, Maker, Sink, Trouble};
use crate::declaration::SinkId;
use crate::journal::{Entry, Payload, Positions};
use crate::stats::{self, Counter};

/// Where syslog daemons listen.
pub const DEV_LOG: &str = "/dev/log";

/// The shortest piece that is tried when a line is too long: no syslog daemon is known to accept less.
const SHORTEST: usize = 480;

/// Result of sending a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The daemon's socket has accepted it.
    Taken,
    /// The daemon's socket has accepted as much of it as a datagram may hold; counted as `clipped`.
    Clipped,
    /// Not now: no daemon, or its queue is full. Keep the line.
    NotTaken,
    /// Not even a short piece of it fits in a datagram.
    TooLong,
}

/// A connection to the syslog socket. Made after the fork; connects at the first line, and again
/// after the daemon has been restarted.
pub struct SyslogSocket {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl SyslogSocket {
    /// Uses the socket at `path`; connects later.
    pub fn new(path: &Path) -> SyslogSocket {
        SyslogSocket { path: path.into(), socket: None }
    }

    /// Sends a finished datagram without ever waiting.
    pub fn try_send(&mut self, datagram: &[u8]) -> Sent {
        match self.send(datagram) {
            Ok(()) => Sent::Taken,
            Err(e) if too_long(&e) => self.send_clipped(datagram),
            Err(_) => Sent::NotTaken,
        }
    }

    fn send_clipped(&mut self, datagram: &[u8]) -> Sent {
        let mut length = datagram.len() / 4 * 3;
        while length >= SHORTEST {
            match self.send(&datagram[..whole(datagram, length)]) {
                Ok(()) => {
                    stats::add(Counter::Clipped, 1);
                    return Sent::Clipped;
                }
                Err(e) if too_long(&e) => length = length / 4 * 3,
                Err(_) => return Sent::NotTaken,
            }
        }
        Sent::TooLong
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(datagram) {
                Ok(_) => return Ok(()),
                // The daemon lives and is slow, or the line is too long: the connection is good.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock || too_long(&e) => return Err(e),
                // ECONNREFUSED, ENOTCONN, ECONNRESET: that daemon is gone; a new one may listen.
                Err(_) => self.socket = None,
            }
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        let result = socket.send(datagram).map(drop);
        self.socket = Some(socket);
        result
    }
}

fn too_long(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::EMSGSIZE)
}

/// Sends the lines of the journal.
pub struct SyslogSink {
    socket: SyslogSocket,
}

impl SyslogSink {
    /// Uses the socket at `path`; connects later.
    pub fn new(path: &Path) -> SyslogSink {
        SyslogSink { socket: SyslogSocket::new(path) }
    }
}

/// A maker of the sink for the socket at `path`.
pub fn at(path: PathBuf) -> (SinkId, Maker) {
    (SinkId::Log, Box::new(move || Ok(Box::new(SyslogSink::new(&path)))))
}

impl Sink for SyslogSink {
    fn open(&mut self, _journal: u64) -> LocalFuture<'_, Result<Option<Positions>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn deliver<'a>(&'a mut self, batch: &'a [Entry], _commit: &'a mut Commit<'_>) -> LocalFuture<'a, Result<Vec<Fate>, Trouble>> {
        Box::pin(std::future::ready(Ok(self.send(batch))))
    }
}

impl SyslogSink {
    fn send(&mut self, batch: &[Entry]) -> Vec<Fate> {
        let mut fates = Vec::with_capacity(batch.len());
        let mut taking = true;
        let reason = format!("nothing accepts lines at {}: start the syslog daemon", self.socket.path.display());
        for entry in batch {
            fates.push(match &entry.payload {
                // Lines keep their order: if one is not accepted, later ones wait.
                _ if !taking => Fate::Retry(reason.clone()),
                Payload::LogLine(line) => match self.socket.try_send(line) {
                    Sent::Taken | Sent::Clipped => Fate::Delivered,
                    Sent::NotTaken => {
                        taking = false;
                        Fate::Retry(reason.clone())
                    }
                    Sent::TooLong => Fate::Dead("the line does not fit in a datagram".into()),
                },
                Payload::Record(_) => Fate::Dead("found a record where a log line was expected".into()),
            });
        }
        fates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 20];
        let n = socket.recv(&mut buffer).unwrap();
        buffer.truncate(n);
        buffer
    }

    #[test]
    fn lines_arrive_and_a_restarted_daemon_gets_the_next() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log");
        let mut socket = SyslogSocket::new(&path);
        assert_eq!(socket.try_send(b"<29>one"), Sent::NotTaken);
        let daemon = UnixDatagram::bind(&path).unwrap();
        assert_eq!(socket.try_send(b"<29>two"), Sent::Taken);
        assert_eq!(receive(&daemon), b"<29>two");
        drop(daemon);
        assert_eq!(socket.try_send(b"<29>three"), Sent::NotTaken);
        std::fs::remove_file(&path).unwrap();
        let daemon = UnixDatagram::bind(&path).unwrap();
        assert_eq!(socket.try_send(b"<29>four"), Sent::Taken);
        assert_eq!(receive(&daemon), b"<29>four");
    }

    #[test]
    fn a_full_queue_does_not_block_and_loses_nothing_it_took() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut socket = SyslogSocket::new(&path);
        let taken = (0..100_000).take_while(|_| socket.try_send(b"<29>x") == Sent::Taken).count();
        assert!((1..100_000).contains(&taken));
        for _ in 0..taken {
            assert_eq!(receive(&daemon), b"<29>x");
        }
        assert_eq!(socket.try_send(b"<29>again"), Sent::Taken);
    }

    #[test]
    fn a_line_over_the_datagram_limit_is_clipped_between_characters() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut socket = SyslogSocket::new(&path);
        let line = "é".repeat(1 << 20);
        assert_eq!(socket.try_send(line.as_bytes()), Sent::Clipped);
        let got = String::from_utf8(receive(&daemon)).unwrap();
        assert!(line.starts_with(&got) && got.len() > SHORTEST);
    }
}
