//! `http:` and `https:`, a web server that accepts records by POST: one object per request, or lines of objects.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::address::{Credentials, Login};
use super::message::{Engine, Message};
use super::tls::{Mode, Tls};
use super::url::{Options, encoded};
use crate::accounting::visible::visible;
use crate::backend::{Fate, Hold, LocalFuture, REFUSED_IN_A_ROW};

/// What the URL looks like, for messages.
pub const EXAMPLE: &str = "https://host/path#batch=100";
/// Most records in one request.
const BATCH_MAX: usize = 1000;
/// Most bytes of records in one request, unless a single record has more.
const BYTES_MAX: usize = 1 << 20;
/// Most requests under way at once, when each has one record.
const WINDOW: usize = 16;
/// Longest for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest for an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Most redirections of one request.
const REDIRECTS: usize = 5;
/// How much of an answer is read, in bytes.
const BODY_MAX: usize = 64 << 10;
/// How much of its first line is logged, in characters.
const TOLD: usize = 200;

/// What the URL says.
#[derive(Clone)]
pub struct Target {
    /// The URL without the login.
    url: Url,
    login: Login,
    /// Most records in one request; if more than one, they are lines.
    batch: usize,
    tls: Tls,
}

/// The URL may hold a key in its query.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("host", &self.url.host_str()).field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl Target {
    /// Reads a URL; its options follow `#`.
    ///
    /// # Errors
    /// What is wrong, and what to write; nothing of the URL is quoted.
    pub fn read(url: &str, mut options: Options<'_>) -> Result<Target, String> {
        let place = url.split_once('#').map_or(url, |(place, _)| place);
        let mut url = Url::parse(place)
            .ok()
            .filter(|url| url.has_host() && place.contains("://"))
            .ok_or_else(|| format!("it is not the URL of a web server: write {EXAMPLE}"))?;
        let mut login = match (url.username(), url.password()) {
            ("", None) => Login::default(),
            (user, None) => Login::read(user)?,
            (user, Some(password)) => Login::read(&format!("{user}:{password}"))?,
        };
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return Err(format!("it is not the URL of a web server: write {EXAMPLE}"));
        }
        login.options(&mut options)?;
        let batch = match options.take("batch").map(str::parse) {
            None => 1,
            Some(Ok(n)) if (1..=BATCH_MAX).contains(&n) => n,
            Some(_) => return Err(format!("batch must be a number from 1 to {BATCH_MAX}")),
        };
        let tls = Tls::read(&mut options)?;
        if (url.scheme() == "https") == (tls.mode == Some(Mode::Disable)) && (url.scheme() == "https" || tls.mode.is_some()) {
            return Err("https: uses TLS and http: does not: change the scheme, or remove tls=".into());
        }
        options.end("batch, user, password-file, tls, ca, cert, key and name after '#'")?;
        Ok(Target { url, login, batch, tls })
    }

    /// For messages: without path and query, which may hold a key.
    fn place(&self) -> String {
        format!("{}://{}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }
}

/// Posts to a web server.
pub struct Http {
    target: Target,
    node: Arc<str>,
    client: Option<(Client, Arc<Credentials>)>,
    /// Have records been accepted since the last trouble? Then a refused record is itself at fault.
    accepts: bool,
    /// How many have been refused since one was accepted.
    refused: u32,
}

/// The result of a request.
enum Said {
    Taken,
    /// These records are at fault.
    Refused(String),
    /// The server is.
    Trouble(String),
}

impl Http {
    /// Connects nothing yet.
    pub fn new(target: Target, node: Arc<str>) -> Http {
        Http { target, node, client: None, accepts: false, refused: 0 }
    }

    fn client(&mut self) -> Result<(Client, Arc<Credentials>), String> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        // Only these keep method and body.
        let policy = Policy::custom(|attempt| {
            let keeps = matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
            if keeps && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
        });
        let client = Client::builder()
            .tls_backend_preconfigured(self.target.tls.config()?)
            .user_agent(concat!("opensips-acc/", env!("CARGO_PKG_VERSION")))
            .redirect(policy)
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .build()
            .map_err(|e| format!("stream_url: no client for {} ({e})", self.target.place()))?;
        let made = (client, Arc::new(self.target.login.credentials()?));
        self.client = Some(made.clone());
        Ok(made)
    }

    /// The request for these messages.
    fn request(&self, client: &Client, credentials: &Credentials, messages: &[Message]) -> reqwest::RequestBuilder {
        let mut headers = HeaderMap::new();
        let mut body = Vec::with_capacity(messages.iter().map(|m| m.body.len() + 1).sum());
        let (first, last) = (messages.first().map_or("", |m| &*m.id), messages.last().map_or("", |m| &*m.id));
        let key = if messages.len() == 1 { first.to_owned() } else { format!("{first}-{last}-{}", messages.len()) };
        if self.target.batch == 1 {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            for message in messages {
                for (name, value) in message.attributes(&self.node) {
                    let value = encoded(&value, |b| b.is_ascii_graphic() && !matches!(b, b'"' | b'%'));
                    if let (Ok(name), Ok(value)) = (HeaderName::try_from(format!("ce-{name}")), HeaderValue::from_str(&value)) {
                        headers.insert(name, value);
                    }
                }
                body.extend_from_slice(&message.body);
            }
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
            for message in messages {
                body.extend_from_slice(&message.body);
                body.push(b'\n');
            }
        }
        let request = client.request(Method::POST, self.target.url.clone()).headers(headers).header("idempotency-key", key).body(Bytes::from(body));
        match credentials {
            Credentials::None => request,
            Credentials::Token(token) => request.bearer_auth(token),
            Credentials::Password(user, password) => request.basic_auth(user, Some(password)),
        }
    }

    fn fate(&mut self, said: &Said, message: &Message) -> Fate {
        self.refused = if matches!(said, Said::Refused(_)) { self.refused + 1 } else { 0 };
        match said {
            Said::Taken => Fate::Delivered,
            Said::Trouble(reason) => Fate::Retry(reason.clone()),
            Said::Refused(reason) if message.offers > 0 && self.accepts && self.refused <= REFUSED_IN_A_ROW => Fate::Dead(reason.clone()),
            // Nothing is accepted, which says nothing about this record.
            Said::Refused(reason) if message.offers > 0 => Fate::Held(Hold { queue: "".into(), reason: reason.clone(), all: false }),
            Said::Refused(reason) => Fate::Refused(reason.clone()),
        }
    }

    /// One object per request, several requests under way.
    async fn one_by_one(&mut self, messages: &[Message]) -> Result<Vec<Said>, String> {
        let (client, credentials) = self.client()?;
        let place = self.target.place();
        let mut window = VecDeque::with_capacity(WINDOW);
        let mut all = Vec::with_capacity(messages.len());
        let mut trouble: Option<String> = None;
        for message in messages {
            if window.len() == WINDOW
                && let Some(first) = window.pop_front()
            {
                all.push(ended(first, &mut trouble).await);
            }
            if trouble.is_some() {
                break;
            }
            let request = self.request(&client, &credentials, std::slice::from_ref(message));
            window.push_back(tokio::spawn(sent(request, place.clone())));
        }
        for task in window {
            all.push(ended(task, &mut trouble).await);
        }
        let reason = trouble.unwrap_or_default();
        all.extend((all.len()..messages.len()).map(|_| Said::Trouble(reason.clone())));
        Ok(all)
    }

    /// Lines, one request after the other. A refused request is halved until the refused record is alone.
    async fn in_lines(&mut self, messages: &[Message]) -> Result<Vec<Said>, String> {
        let (client, credentials) = self.client()?;
        let place = self.target.place();
        let mut all: Vec<Said> = Vec::with_capacity(messages.len());
        let mut todo: Vec<Range<usize>> = groups(messages, self.target.batch);
        todo.reverse();
        while let Some(group) = todo.pop() {
            let said = sent(self.request(&client, &credentials, &messages[group.clone()]), place.clone()).await;
            match said {
                Said::Taken => all.extend(group.map(|_| Said::Taken)),
                Said::Refused(_) if group.len() > 1 => {
                    let middle = group.start + group.len() / 2;
                    todo.push(middle..group.end);
                    todo.push(group.start..middle);
                }
                Said::Refused(reason) => all.push(Said::Refused(reason)),
                Said::Trouble(reason) => {
                    all.extend((all.len()..messages.len()).map(|_| Said::Trouble(reason.clone())));
                    break;
                }
            }
        }
        Ok(all)
    }

    async fn publish_all(&mut self, messages: &[Message]) -> Result<Vec<Fate>, String> {
        let all = if self.target.batch == 1 { self.one_by_one(messages).await? } else { self.in_lines(messages).await? };
        if all.iter().any(|said| matches!(said, Said::Taken)) {
            self.accepts = true;
        }
        if all.iter().any(|said| matches!(said, Said::Trouble(_))) {
            self.accepts = false;
            // The login or a certificate may have changed since.
            self.client = None;
        }
        // If everything is refused, the server or the URL is at fault.
        if let (Some(Said::Refused(reason)), true) = (all.first(), all.len() > 1 && !self.accepts)
            && messages.iter().all(|m| m.offers == 0)
            && all.iter().all(|said| matches!(said, Said::Refused(_)))
        {
            return Err(format!("stream_url: every record is refused: {reason}"));
        }
        Ok(all.iter().zip(messages).map(|(said, message)| self.fate(said, message)).collect())
    }
}

/// Parts of at most this many messages, limited in bytes.
fn groups(messages: &[Message], most: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (i, message) in messages.iter().enumerate() {
        bytes += message.body.len();
        match groups.last_mut() {
            Some(group) if group.len() < most && bytes <= BYTES_MAX => group.end = i + 1,
            _ => {
                bytes = message.body.len();
                groups.push(i..i + 1);
            }
        }
    }
    groups
}

async fn ended(task: tokio::task::JoinHandle<Said>, trouble: &mut Option<String>) -> Said {
    let said = task.await.unwrap_or_else(|_| Said::Trouble("stream_url: a request ended unexpectedly".into()));
    if let Said::Trouble(reason) = &said {
        trouble.get_or_insert_with(|| reason.clone());
    }
    said
}

/// Sends a request, and judges the answer.
async fn sent(request: reqwest::RequestBuilder, place: String) -> Said {
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(e) => return Said::Trouble(format!("stream_url: {place} {}", failure(&e))),
    };
    let status = answer.status();
    if status.is_success() {
        // Read to the end, so that the connection can be used again.
        let _ = first_line(answer).await;
        return Said::Taken;
    }
    let code = status.as_u16();
    let line = first_line(answer).await;
    let line = if line.is_empty() { String::new() } else { format!(": {line}") };
    let answers = format!("stream_url: {place} answers {code}{line}");
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Said::Trouble(format!("{answers}; correct user and password, or the token"))
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Said::Trouble(answers),
        _ if status.is_client_error() => Said::Refused(format!("{code}{line}")),
        _ if status.is_redirection() => Said::Trouble(format!("{answers}; only 307 and 308 are followed: write the URL that it leads to")),
        _ => Said::Trouble(answers),
    }
}

/// Why there is no answer, without the URL.
fn failure(e: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = e;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let why = if e.is_timeout() { "no answer in time".into() } else { innermost.to_string() };
    if e.is_connect() {
        format!("cannot be reached ({why}): check host and port, and with https: its certificate (ca=)")
    } else {
        format!("gave no answer ({why})")
    }
}

/// The first line of a body, cut where it is long.
async fn first_line(mut answer: Response) -> String {
    let mut body = Vec::new();
    while body.len() < BODY_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&body);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    visible(&line.chars().take(TOLD).collect::<String>()).into_owned()
}

impl Engine for Http {
    fn open(&mut self) -> LocalFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(self.client().map(drop)))
    }

    fn publish<'a>(&'a mut self, messages: &'a [Message]) -> LocalFuture<'a, Result<Vec<Fate>, String>> {
        Box::pin(self.publish_all(messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Target, String> {
        Target::read(url, Options::read(url.split_once('#').map_or("", |(_, o)| o))?)
    }

    #[test]
    fn options_stand_behind_the_fragment() {
        let t = of("https://u:s%40cret@h:8443/cdr?key=secret#batch=50&tls=require").unwrap();
        assert_eq!((t.url.as_str(), t.batch, t.place().as_str()), ("https://h:8443/cdr?key=secret", 50, "https://h"));
        assert!(t.login.credentials().unwrap() == Credentials::Password("u".into(), "s@cret".into()));
        assert!(!format!("{t:?}").contains("secret"));
        assert!(of("http://t0ken@h/").unwrap().login.credentials().unwrap() == Credentials::Token("t0ken".into()));
        for (url, part) in [
            ("https:secret", "not the URL of a web server"),
            ("http://h/#batch=0", "from 1 to 1000"),
            ("http://h/#nosuch=1", "an option is unknown"),
            ("http://h/#tls=verify", "change the scheme"),
            ("https://h/#tls=disable", "change the scheme"),
        ] {
            let e = of(url).unwrap_err();
            assert!(e.contains(part) && !e.contains("secret"), "{url}: {e}");
        }
    }

    #[test]
    fn what_is_refused_again_dies_only_while_others_are_accepted() {
        let mut http = Http::new(of("http://h/").unwrap(), "node".into());
        let message = Message { id: String::new(), kind: "cdr", callid: vec![], time: None, body: vec![], offers: 1 };
        let mut dead = |accepts: bool, all: usize| {
            http.accepts = accepts;
            (0..all).filter(|_| matches!(http.fate(&Said::Refused("400".into()), &message), Fate::Dead(_))).count()
        };
        assert_eq!(dead(false, 3), 0, "after a restart nothing is known");
        assert_eq!(dead(true, 3), 3);
        assert_eq!(dead(true, 40), REFUSED_IN_A_ROW as usize - 6, "the server accepts nothing any more");
        assert_eq!(http.fate(&Said::Taken, &message), Fate::Delivered);
        assert!(matches!(http.fate(&Said::Refused("400".into()), &message), Fate::Dead(_)));
    }

    #[test]
    fn a_request_has_few_records_and_few_bytes() {
        let message = |n: usize| Message { id: String::new(), kind: "cdr", callid: vec![], time: None, body: vec![0; n], offers: 0 };
        let all: Vec<_> = [10, 10, 10, BYTES_MAX, BYTES_MAX + 1, 10, 10].map(message).into();
        assert_eq!(groups(&all, 2), [0..2, 2..3, 3..4, 4..5, 5..7]);
    }
}
