//! What the parameters say about streams.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

#[cfg(any(feature = "amqp", feature = "http", feature = "kafka", feature = "nats"))]
use super::EngineSink;
use super::body::{Columns, Format};
use super::file::{self, Name};
use super::url::Options;
use super::{FileSink, Stream, Target};
use crate::accounting::fields::Fields;
use crate::accounting::record::Backend;
use crate::accounting::visible::is_control;
use crate::backend::{Settings, Sink};
use crate::declaration::SinkId;
use crate::params::{ConfigError, Draft, bad};

/// What `stream_url` looks like, for messages.
const EXAMPLE: &str = "file:///var/spool/acc/cdr-%Y%m%d-%H.jsonl";

/// Schemes of this build.
const SCHEMES: &[&str] = &[
    "file:",
    #[cfg(feature = "nats")]
    "nats:",
    #[cfg(feature = "http")]
    "http:",
    #[cfg(feature = "http")]
    "https:",
    #[cfg(feature = "amqp")]
    "amqp:",
    #[cfg(feature = "amqp")]
    "amqps:",
    #[cfg(feature = "kafka")]
    "kafka:",
];

/// Where the kernel tells the name of this machine.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

impl Settings for Stream {
    fn sink(&self, _fields: &Fields) -> Result<Box<dyn Sink>, String> {
        let node = || self.node.clone();
        Ok(match &self.target {
            Target::File(target) => Box::new(FileSink::new(target.clone(), node())),
            #[cfg(feature = "amqp")]
            Target::Amqp(target) => Box::new(EngineSink::new(Box::new(super::amqp::Amqp::new(target.clone(), node())), node())),
            #[cfg(feature = "http")]
            Target::Http(target) => Box::new(EngineSink::new(Box::new(super::http::Http::new(target.clone(), node())), node())),
            #[cfg(feature = "kafka")]
            Target::Kafka(target) => Box::new(EngineSink::new(Box::new(super::kafka::Kafka::new(target.clone(), node())), node())),
            #[cfg(feature = "nats")]
            Target::Nats(target) => Box::new(EngineSink::new(Box::new(super::nats::Nats::new(target.clone(), node())), node())),
        })
    }
}

/// The stream whose lines have no name, or the first of them.
pub fn read(draft: &Draft) -> Result<Option<Arc<dyn Settings>>, ConfigError> {
    read_further(draft, SinkId::Stream)
}

/// The stream of this sink.
pub fn read_further(draft: &Draft, id: SinkId) -> Result<Option<Arc<dyn Settings>>, ConfigError> {
    let urls: Vec<_> = draft.texts("stream_url").collect();
    let places = places(&urls).map_err(|e| bad("stream_url", e))?;
    let Some(at) = places.iter().position(|place| *place == id) else { return Ok(None) };
    let target = target(urls[at]).map_err(|e| bad("stream_url", if at == 0 { e } else { format!("line {}: {e}", at + 1) }))?;
    Ok(Some(Arc::new(Stream { target, node: node(draft)?.into() })))
}

/// What this server calls itself in records: `stream_node`.
pub fn node(draft: &Draft) -> Result<String, ConfigError> {
    let node = draft.text("stream_node").map_or_else(host_name, str::to_owned);
    if node.chars().any(is_control) {
        return Err(bad("stream_node", "it contains control characters: write a plain name".into()));
    }
    Ok(node)
}

/// Which sink each line is: the one it names, otherwise the first free one.
fn places(urls: &[&str]) -> Result<Vec<SinkId>, String> {
    let all: Vec<_> = SinkId::all_of(Backend::Stream).collect();
    let names = all.iter().map(|id| id.name()).collect::<Vec<_>>().join(", ");
    if urls.len() > all.len() {
        return Err(format!("there are {} lines, but at most {} streams: remove some", urls.len(), all.len()));
    }
    let mut places = vec![None; urls.len()];
    for (place, url) in places.iter_mut().zip(urls) {
        let Some(name) = Options::read(options_of(url)).map_err(|e| e.clone())?.take("name") else { continue };
        let id = all.iter().find(|id| id.name() == name).ok_or_else(|| format!("name= must be one of {names}"))?;
        *place = Some(*id);
    }
    for id in &all {
        if places.iter().filter(|place| **place == Some(*id)).count() > 1 {
            return Err(format!("two lines have name={}: give each a different one of {names}", id.name()));
        }
    }
    let mut free = all.into_iter().filter(|id| !places.contains(&Some(*id))).collect::<Vec<_>>().into_iter();
    Ok(places.into_iter().filter_map(|place| place.or_else(|| free.next())).collect())
}

/// The options of a URL: after `?`, or after `#` if `?` is for the web server.
fn options_of(url: &str) -> &str {
    let web = url.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"));
    url.split_once(if web { '#' } else { '?' }).map_or("", |(_, options)| options)
}

fn host_name() -> String {
    std::fs::read_to_string(HOST_NAME).map_or_else(|_| "localhost".into(), |name| name.trim().to_owned())
}

/// Reads a URL. What is not understood may be a URL with a password: it is not quoted.
fn target(url: &str) -> Result<Target, String> {
    let (scheme, rest) = url.split_once(':').ok_or_else(|| format!("it has no scheme: write {EXAMPLE}"))?;
    let mut options = Options::read(options_of(url))?;
    options.take("name");
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    match scheme.to_ascii_lowercase().as_str() {
        "file" => Ok(Target::File(Arc::new(files(rest, options)?))),
        #[cfg(feature = "http")]
        "http" | "https" => Ok(Target::Http(super::http::Target::read(url, options)?)),
        #[cfg(feature = "amqp")]
        scheme @ ("amqp" | "amqps") => Ok(Target::Amqp(super::amqp::Target::read(rest, scheme == "amqps", options)?)),
        #[cfg(feature = "kafka")]
        "kafka" => Ok(Target::Kafka(super::kafka::Target::read(rest, options)?)),
        #[cfg(feature = "nats")]
        "nats" => Ok(Target::Nats(super::nats::Target::read(rest, options)?)),
        _ => {
            let scheme = if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+') { format!("the scheme {scheme}:") } else { "its scheme".into() };
            Err(format!("{scheme} is not built in: use {}, as in {EXAMPLE}", SCHEMES.join(", ")))
        }
    }
}

fn files(path: &str, mut options: Options<'_>) -> Result<file::Target, String> {
    let path = match path.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err(format!("the file is on this machine: write three slashes, as in {EXAMPLE}")),
        None => path,
    };
    let (directory, name) =
        path.rsplit_once('/').filter(|_| path.starts_with('/')).ok_or_else(|| format!("the path has to begin with a slash: write {EXAMPLE}"))?;
    if directory.contains('%') {
        return Err("a time may be used in the name of the file only: name one directory, which has to exist".into());
    }
    let name = Name::read(name)?;
    let max_size = options.take("max_size").map(size).transpose()?;
    let sync = match options.take("sync") {
        None | Some("batch") => true,
        Some("os") => false,
        Some(_) => return Err("sync must be os or batch".into()),
    };
    let columns = options.take("columns").map(Columns::read).transpose()?;
    options.end("max_size, sync, name and, for .csv, columns")?;
    let format = match (name.is_csv(), columns) {
        (true, Some(columns)) => Format::Csv(columns),
        (true, None) => return Err("a .csv needs its columns: add ?columns=acc_id,callid,time,duration and so on".into()),
        (false, None) => Format::Json,
        (false, Some(_)) => return Err("columns are for .csv: end the name with .csv, or leave them out".into()),
    };
    let directory = PathBuf::from(if directory.is_empty() { "/" } else { directory });
    Ok(file::Target { directory, name, format, max_size, sync })
}

/// A number of bytes, optionally followed by K, M or G.
fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    let bytes = number.and_then(|n: u64| n.checked_mul(1 << shift)).filter(|n| (1 << 10..=1 << 40).contains(n));
    bytes.ok_or_else(|| "max_size must be a number of bytes from 1K to 1024G, such as 100M".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::RawValue;

    fn of(url: &str) -> Result<Option<Arc<dyn Settings>>, ConfigError> {
        let mut draft = Draft::default();
        draft.set("stream_url", RawValue::Str(url.into()))?;
        read(&draft)
    }

    #[test]
    fn a_url_names_the_file_and_how_it_is_written() {
        let file = |url: &str| match target(url) {
            Ok(Target::File(target)) => target,
            other => panic!("{other:?}"),
        };
        let t = file("file:///var/spool/acc/cdr-%Y%m%d-%H.jsonl?max_size=100M&sync=os&name=stream2");
        assert_eq!((t.directory.to_str(), t.max_size, t.sync, &t.format), (Some("/var/spool/acc"), Some(100 << 20), false, &Format::Json));
        let t = file("FILE:/cdr.csv?columns=acc_id,extra.account");
        assert_eq!((t.directory.to_str(), t.max_size, t.sync), (Some("/"), None, true));
        assert!(matches!(t.format, Format::Csv(_)));
    }

    #[test]
    fn errors_name_the_cure_and_no_password() {
        for (url, part) in [
            ("mqtt://user:secret@h/acc", "mqtt: is not built in: use file:"),
            ("amqp+tls://user:secret@h/acc", "amqp+tls: is not built in"),
            #[cfg(feature = "nats")]
            ("nats://user:secret@h/acc?secret=1", "an option is unknown"),
            #[cfg(feature = "http")]
            ("https://user:secret@h/acc#secret=1", "an option is unknown"),
            ("user secret:x", "its scheme is not built in"),
            ("/secret.jsonl", "no scheme"),
            ("file://secret/x.jsonl", "three slashes"),
            ("file:secret.jsonl", "begin with a slash"),
            ("file:///var/%Y/secret.jsonl", "in the name of the file only"),
            ("file:///var/secret.txt", "end with .jsonl or .csv"),
            ("file:///var/secret-%I.jsonl", "followed by Y, m, d, j, H, M, S or %"),
            ("file:///var/.jsonl", "no name before"),
            ("file:///var/secret.jsonl?password=x", "an option is unknown"),
            ("file:///var/secret.jsonl?max_size=1", "from 1K to 1024G"),
            ("file:///var/secret.jsonl?max_size=+9K", "from 1K to 1024G"),
            ("file:///var/secret.jsonl?max_size=99999999999G", "from 1K to 1024G"),
            ("file:///var/secret.jsonl?sync=always", "must be os or batch"),
            ("file:///var/secret.jsonl?sync=os&sync=os", "sync is given twice"),
            ("file:///var/secret.jsonl?columns=acc_id", "columns are for .csv"),
            ("file:///var/secret.csv", "needs its columns"),
            ("file:///var/secret.csv?columns=callid", "acc_id has to be among the columns"),
            ("file:///var/secret.csv?columns=acc_id,nosuch", "is not a column"),
        ] {
            let e = of(url).unwrap_err().to_string();
            assert!(e.starts_with("parameter stream_url: ") && e.contains(part) && !e.contains("secret"), "{url}: {e}");
        }
    }

    #[test]
    fn each_line_is_a_stream() {
        let set = |urls: &[&str]| {
            let mut draft = Draft::default();
            urls.iter().for_each(|url| draft.set("stream_url", RawValue::Str((*url).into())).unwrap());
            let found = SinkId::all_of(Backend::Stream).map(|id| read_further(&draft, id).map(|s| s.map(|s| format!("{s:?}"))));
            found.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())
        };
        let [a, b, c] = ["file:///a.jsonl", "file:///b.jsonl?name=stream", "file:///c.jsonl?name=stream4"];
        let has = |found: &Option<String>, stem: &str| found.as_ref().is_some_and(|text| text.contains(&format!("stem: \"{stem}\"")));
        let all = set(&[a, "file:///d.jsonl"]).unwrap();
        assert!(has(&all[0], "a") && has(&all[1], "d") && all[2].is_none() && all[3].is_none());
        // A named line keeps its sink, whatever precedes and follows it.
        let all = set(&[a, b, c, "file:///d.jsonl"]).unwrap();
        assert!(has(&all[0], "b") && has(&all[1], "a") && has(&all[2], "d") && has(&all[3], "c"), "{all:?}");
        for (urls, part) in [
            (&[a, a, a, a, a][..], "there are 5 lines, but at most 4 streams"),
            (&[b, b], "two lines have name=stream: give each a different one of stream, stream2, stream3, stream4"),
            (&["file:///a.jsonl?name=x"], "name= must be one of stream, stream2"),
            (&[a, "file:///b.txt"], "line 2: the name of the file"),
        ] {
            assert!(set(urls).unwrap_err().contains(part), "{part}");
        }
    }

    #[test]
    fn without_a_line_the_node_is_this_machine() {
        assert!(!host_name().is_empty() && !host_name().contains('\n'));
        let mut draft = Draft::default();
        draft.set("stream_url", RawValue::Str("file:///a.jsonl".into())).unwrap();
        draft.set("stream_node", RawValue::Str("a\nb".into())).unwrap();
        assert!(read(&draft).unwrap_err().to_string().contains("parameter stream_node"));
    }
}
