//! The log-in of MySQL 8 over plain TCP, `caching_sha2_password`. Debian has no MySQL 8, so a door stands before
//! MariaDB that greets and checks passwords as MySQL 8 does; behind it everything goes to MariaDB and back.
#![forbid(unsafe_code)]

mod common;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::servers::{PASSWORD, mariadb, quiet};
use common::*;

/// Capabilities, <https://dev.mysql.com/doc/dev/mysql-server/latest/group__group__mysql__capabilities__flags.html>.
const CONNECT_WITH_DB: u32 = 1 << 3;
const SSL: u32 = 1 << 11;
const CONNECT_ATTRS: u32 = 1 << 20;
const PLUGIN_AUTH_LENENC: u32 = 1 << 21;

/// First bytes of packets while somebody logs in.
const OK: u8 = 0x00;
const MORE: u8 = 0x01;
const WANTS_KEY: u8 = 0x02;
const IN_CACHE: u8 = 0x03;
const NOT_IN_CACHE: u8 = 0x04;

/// What the server salts scrambles with.
const NONCE: &[u8; 20] = b"01234567abcdefghIJKL";

fn read_packet(from: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let mut body = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
    from.read_exact(&mut body)?;
    Ok((head[3], body))
}

fn write_packet(to: &mut TcpStream, number: u8, body: &[u8]) -> io::Result<()> {
    let mut packet = (body.len() as u32).to_le_bytes()[..3].to_vec();
    packet.push(number);
    packet.extend_from_slice(body);
    to.write_all(&packet)
}

/// Bytes up to a zero, which is taken as well.
fn text<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.iter().position(|b| *b == 0).unwrap();
    let found = &rest[..end];
    *rest = &rest[end + 1..];
    found
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b.iter().cycle()).map(|(a, b)| a ^ b).collect()
}

fn openssl(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "openssl {args:?}");
    out.stdout
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    openssl(&["dgst", "-sha256", "-binary"], bytes)
}

/// The door: who came in, and how.
struct Door {
    key: PathBuf,
    behind: u16,
    /// A server knows the hash of a password only after one full log-in.
    cached: Mutex<bool>,
    log: Mutex<Vec<&'static str>>,
}

impl Door {
    /// A MySQL 8 with its key in `dir`, before the server that listens on `behind`.
    fn open(dir: &Path, behind: u16) -> (Arc<Door>, u16) {
        let key = dir.join("door.pem");
        assert!(quiet(Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048")).status().unwrap().success());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let door = Arc::new(Door { key, behind, cached: Mutex::new(false), log: Mutex::default() });
        let shared = door.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let door = shared.clone();
                std::thread::spawn(move || door.serve(client.unwrap()));
            }
        });
        (door, port)
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut server = TcpStream::connect(("127.0.0.1", self.behind))?;
        let (_, greeting) = read_packet(&mut server)?;
        write_packet(&mut client, 0, &greeting_of_mysql_8(&greeting))?;

        let (number, answer) = read_packet(&mut client)?;
        let capabilities = u32::from_le_bytes(answer[..4].try_into().unwrap());
        assert_eq!(capabilities & SSL, 0);
        let mut rest = &answer[32..];
        let _user = text(&mut rest);
        // One byte of length in both ways to write it, as long as it is short.
        let (scramble, mut rest) = rest[1..].split_at(rest[0].into());
        let database = if capabilities & CONNECT_WITH_DB != 0 { text(&mut rest) } else { b"" };
        assert_eq!(text(&mut rest), b"caching_sha2_password");

        let known = *self.cached.lock().unwrap();
        let (number, how) = if known {
            let hash = sha256(PASSWORD.as_bytes());
            let salted = sha256(&[&sha256(&hash)[..], NONCE].concat());
            let right = scramble == xor(&hash, &salted);
            if right {
                write_packet(&mut client, number + 1, &[MORE, IN_CACHE])?;
            }
            (number + 1, right.then_some("from the cache"))
        } else {
            let (number, right) = self.full(&mut client, number + 1)?;
            (number, right.then_some("in full"))
        };
        let Some(how) = how else {
            self.log.lock().unwrap().push("denied");
            return write_packet(&mut client, number, &[&[0xff, 0x15, 0x04][..], b"#28000Access denied for user 'acc'"].concat());
        };
        self.log.lock().unwrap().push(how);
        *self.cached.lock().unwrap() = true;

        // Behind the door the same client comes without a password.
        let mut inside = (capabilities & !(CONNECT_ATTRS | PLUGIN_AUTH_LENENC)).to_le_bytes().to_vec();
        inside.extend_from_slice(&answer[4..32]);
        inside.extend_from_slice(b"door\0\0");
        if capabilities & CONNECT_WITH_DB != 0 {
            inside.extend_from_slice(&[database, b"\0"].concat());
        }
        inside.extend_from_slice(b"mysql_native_password\0");
        write_packet(&mut server, 1, &inside)?;
        let (_, welcome) = read_packet(&mut server)?;
        assert_eq!(welcome[0], OK, "{}", String::from_utf8_lossy(&welcome));
        write_packet(&mut client, number + 1, &welcome)?;

        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || io::copy(&mut from, &mut to));
        io::copy(&mut server, &mut client).map(drop)
    }

    /// The whole password, encrypted for the server's key.
    fn full(&self, client: &mut TcpStream, number: u8) -> io::Result<(u8, bool)> {
        write_packet(client, number, &[MORE, NOT_IN_CACHE])?;
        let (number, asked) = read_packet(client)?;
        assert_eq!(asked, [WANTS_KEY]);
        let key = self.key.to_str().unwrap();
        let public = openssl(&["pkey", "-in", key, "-pubout"], b"");
        write_packet(client, number + 1, &[&[MORE][..], &public].concat())?;
        let (number, encrypted) = read_packet(client)?;
        let salted = openssl(&["pkeyutl", "-decrypt", "-inkey", key, "-pkeyopt", "rsa_padding_mode:oaep"], &encrypted);
        let password = xor(&salted, NONCE);
        Ok((number, password == [PASSWORD.as_bytes(), b"\0"].concat()))
    }
}

/// MariaDB's greeting as MySQL 8 would say it, without TLS.
fn greeting_of_mysql_8(greeting: &[u8]) -> Vec<u8> {
    let mut rest = &greeting[1..];
    text(&mut rest);
    let mut out = [&[10][..], b"8.0.40\0", &rest[..4], &NONCE[..8], &[0]].concat();
    let rest = &rest[13..];
    let capabilities = u32::from_le_bytes([rest[0], rest[1], rest[5], rest[6]]) & !SSL;
    let [low, high, upper, top] = capabilities.to_le_bytes();
    out.extend_from_slice(&[low, high, rest[2], rest[3], rest[4], upper, top, 21]);
    out.extend_from_slice(&[0; 10]);
    out.extend_from_slice(&[&NONCE[8..], b"\0caching_sha2_password\0"].concat());
    out
}

#[test]
fn a_password_of_mysql_8_goes_over_plain_tcp() {
    let Some(server) = mariadb() else { return skip("MariaDB") };
    server.sql("CREATE USER door@'127.0.0.1' IDENTIFIED BY ''; GRANT ALL ON acc.* TO door@'127.0.0.1'");
    let (door, port) = Door::open(server.dir(), server.port);
    let url = |password: &str| format!("mysql://acc:{password}@127.0.0.1:{port}/acc");
    accctl_in_zone(&["schema", "--apply", "--extra", "a->caller_uri; b->x_note", "--url", &url(PASSWORD)]);
    for _ in 0..2 {
        deliver_in_zone(&url(PASSWORD), "acc", &[]);
    }
    assert_eq!(server.count("acc"), 2);

    let wrong = Command::new(env!("CARGO_BIN_EXE_accctl")).args(["schema", "--url", &url("guessed")]).output().unwrap();
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(wrong.status.code() == Some(2) && said.contains("Access denied") && !said.contains("guessed"), "{said}");
    assert_eq!(door.log.lock().unwrap()[..], ["in full", "from the cache", "from the cache", "denied"]);
}
