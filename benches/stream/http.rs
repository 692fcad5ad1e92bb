//! A web server that says yes to everything.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Client;
use tokio::task::JoinSet;

use super::{Body, Engine, measure};

/// Counts the objects of a request, and answers it; `None` when the connection ends.
fn answer(reader: &mut BufReader<&TcpStream>, objects: &AtomicUsize) -> Option<()> {
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok()?,
            _ if line == "\r\n" => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    // A line ends with each, but for a single one.
    objects.fetch_add(body.iter().filter(|b| **b == b'\n').count().max(1), Ordering::Relaxed);
    let mut stream = *reader.get_ref();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()
}

struct Web {
    port: u16,
    objects: Arc<AtomicUsize>,
    /// Objects in a request.
    batch: usize,
}

impl Web {
    fn start(batch: usize) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, objects) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
        let shared = objects.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let objects = shared.clone();
                stream.set_nodelay(true).unwrap();
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(&stream);
                    while answer(&mut reader, &objects).is_some() {}
                });
            }
        });
        Web { port, objects, batch }
    }
}

impl Engine for Web {
    type Client = Client;

    fn name(&self) -> String {
        match self.batch {
            1 => "HTTP, one object a request".into(),
            n => format!("HTTP, {n} objects a request"),
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/#batch={}", self.port, self.batch)
    }

    fn clear(&mut self) {
        self.objects.store(0, Ordering::Relaxed);
    }

    fn stored(&self) -> usize {
        self.objects.load(Ordering::Relaxed)
    }

    async fn client(&self) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder().no_proxy().build().unwrap()
    }

    /// Of single objects, so many requests are under way; of several, one after the other.
    async fn publish(&self, client: &Client, bodies: &[Body], at_once: usize) {
        let mut under_way = JoinSet::new();
        let (objects, requests) = if self.batch == 1 { (1, at_once) } else { (at_once, 1) };
        for some in bodies.chunks(objects) {
            if under_way.len() == requests {
                under_way.join_next().await.unwrap().unwrap();
            }
            let mut body = some.iter().map(|b| &*b.json).collect::<Vec<_>>().join(&b'\n');
            if some.len() > 1 {
                body.push(b'\n');
            }
            let request = client.post(format!("http://127.0.0.1:{}/", self.port)).body(body);
            under_way.spawn(async move { assert!(request.send().await.unwrap().status().is_success()) });
        }
        while let Some(ended) = under_way.join_next().await {
            ended.unwrap();
        }
    }

    fn window(&self) -> usize {
        if self.batch == 1 { 16 } else { self.batch }
    }
}

pub fn run() {
    measure(Web::start(1));
    measure(Web::start(100));
}
