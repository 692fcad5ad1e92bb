//! `kafka:`, records in a topic of Kafka, acknowledged by all in-sync replicas. The key is the Call-ID, so that the records of
//! a call stay in order in one partition.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rskafka::BackoffConfig;
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder, Credentials as Login, SaslConfig};
use rskafka::record::Record;
use tokio::time::timeout;

use super::address::{Address, Credentials};
use super::message::{Engine, Message};
use super::tls::{Mode, Tls};
use super::url::Options;
use crate::backend::{Fate, LocalFuture};

/// What the URL looks like, for messages.
pub const EXAMPLE: &str = "kafka://host1:9092,host2:9092/TOPIC";
/// Port of Kafka.
const PORT: u16 = 9092;
/// Longest for a connection, and for the library's own attempts.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest for an answer, with the library's own attempts at another broker.
const ANSWER: Duration = Duration::from_secs(15);
/// Pauses of the library between its attempts.
const PAUSES: BackoffConfig =
    BackoffConfig { init_backoff: Duration::from_millis(50), max_backoff: Duration::from_secs(1), base: 2., deadline: Some(Duration::from_secs(8)) };
/// Most bytes of records in one request: by default, brokers accept 1 MiB including the overhead.
const BYTES_MAX: usize = 900_000;
/// Overhead of a record: headers, key, lengths.
const AROUND: usize = 16 << 10;

/// How to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sasl {
    Plain,
    Sha256,
    Sha512,
}

/// What the URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    address: Address,
    topic: String,
    sasl: Option<Sasl>,
    tls: Tls,
}

impl Target {
    /// Reads what follows the scheme.
    ///
    /// # Errors
    /// What is wrong, and what to write; nothing of the URL is quoted.
    pub fn read(rest: &str, mut options: Options<'_>) -> Result<Target, String> {
        let mut address = Address::read(rest, EXAMPLE)?;
        address.login.options(&mut options)?;
        let topic = address.path.clone();
        if topic.is_empty() || topic.len() > 249 || !topic.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(format!("after the hosts, write a slash and the topic (letters, digits, '.', '_', '-'): {EXAMPLE}"));
        }
        let sasl = match options.take("sasl") {
            None => None,
            Some("plain") => Some(Sasl::Plain),
            Some("scram-sha-256") => Some(Sasl::Sha256),
            Some("scram-sha-512") => Some(Sasl::Sha512),
            Some(_) => return Err("sasl must be plain, scram-sha-256 or scram-sha-512".into()),
        };
        let tls = Tls::read(&mut options)?;
        options.end("sasl, user, password-file, tls, ca, cert, key and name")?;
        if sasl.is_none() && address.login.is_given() {
            return Err("a login needs its mechanism: add sasl=scram-sha-512, scram-sha-256 or plain".into());
        }
        if sasl.is_some() && !address.login.is_given() {
            return Err("sasl= needs a login: add user= and password-file=".into());
        }
        Ok(Target { address, topic, sasl, tls })
    }
}

/// Produces into a topic.
pub struct Kafka {
    target: Target,
    node: Arc<str>,
    connection: Option<Connection>,
}

struct Connection {
    _client: Client,
    /// By the number of the partition.
    partitions: Vec<Arc<PartitionClient>>,
}

impl Kafka {
    /// Connects nothing yet.
    pub fn new(target: Target, node: Arc<str>) -> Kafka {
        Kafka { target, node, connection: None }
    }

    fn hosts(&self) -> String {
        self.target.address.with_port(PORT).join(", ")
    }

    async fn partitions(&mut self) -> Result<Vec<Arc<PartitionClient>>, String> {
        if self.connection.is_none() {
            let connected = timeout(CONNECT, self.connected()).await;
            self.connection = Some(connected.unwrap_or_else(|_| Err(self.unreachable("no answer in time")))?);
        }
        Ok(self.connection.as_ref().map(|c| c.partitions.clone()).unwrap_or_default())
    }

    async fn connected(&self) -> Result<Connection, String> {
        let t = &self.target;
        let mut builder = ClientBuilder::new(t.address.with_port(PORT)).client_id(format!("opensips-acc {}", self.node)).backoff_config(PAUSES);
        if matches!(t.tls.mode, Some(Mode::Require | Mode::Verify)) {
            builder = builder.tls_config(Arc::new(t.tls.config()?));
        }
        if let (Some(sasl), Credentials::Password(user, password)) = (t.sasl, t.address.login.credentials()?) {
            let login = Login::new(user, password);
            builder = builder.sasl_config(match sasl {
                Sasl::Plain => SaslConfig::Plain(login),
                Sasl::Sha256 => SaslConfig::ScramSha256(login),
                Sasl::Sha512 => SaslConfig::ScramSha512(login),
            });
        }
        let client = builder.build().await.map_err(|e| self.failure(&e))?;
        let topics = client.list_topics().await.map_err(|e| self.failure(&e))?;
        let topic = topics.into_iter().find(|topic| topic.name == t.topic).ok_or_else(|| self.no_topic())?;
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for number in topic.partitions {
            let partition = client.partition_client(&t.topic, number, UnknownTopicHandling::Error).await.map_err(|e| self.failure(&e))?;
            partitions.push(Arc::new(partition));
        }
        if partitions.is_empty() { Err(self.no_topic()) } else { Ok(Connection { _client: client, partitions }) }
    }

    fn no_topic(&self) -> String {
        format!(
            "stream_url: there is no topic {0}, or the user may not see it: kafka-topics.sh --create --topic {0} --partitions 6 --replication-factor 3",
            self.target.topic
        )
    }

    fn unreachable(&self, why: &str) -> String {
        format!("stream_url: Kafka at {} cannot be used ({why}): check the brokers, tls= and sasl=", self.hosts())
    }

    /// What an error means, and what to do.
    fn failure(&self, e: &Error) -> String {
        match code(e) {
            Some(ProtocolError::UnknownTopicOrPartition) => self.no_topic(),
            Some(ProtocolError::NotEnoughReplicas | ProtocolError::NotEnoughReplicasAfterAppend) => {
                format!("stream_url: topic {} has too few replicas in step: start the other brokers, or lower min.insync.replicas", self.target.topic)
            }
            Some(ProtocolError::TopicAuthorizationFailed | ProtocolError::ClusterAuthorizationFailed) => {
                format!("stream_url: the user may not write to topic {0}: kafka-acls.sh --add --producer --topic {0}", self.target.topic)
            }
            Some(code) => format!("stream_url: Kafka at {} says {code:?}", self.hosts()),
            None => self.unreachable(&e.to_string()),
        }
    }

    fn record(&self, message: &Message) -> Record {
        let mut headers: BTreeMap<String, Vec<u8>> = message.attributes(&self.node).map(|(name, value)| (format!("ce_{name}"), value.into_owned())).collect();
        headers.insert("content-type".into(), b"application/json".to_vec());
        let made = message.time.as_deref().and_then(|t| DateTime::parse_from_rfc3339(t).ok());
        Record {
            key: Some(message.callid.clone()).filter(|key| !key.is_empty()),
            value: Some(message.body.clone()),
            headers,
            timestamp: made.map_or_else(Utc::now, |t| t.with_timezone(&Utc)),
        }
    }

    async fn publish_all(&mut self, messages: &[Message]) -> Result<Vec<Fate>, String> {
        let partitions = self.partitions().await?;
        let mut of: Vec<Vec<usize>> = vec![Vec::new(); partitions.len()];
        for (i, message) in messages.iter().enumerate() {
            // Without a Call-ID any partition will do, but a copy goes where the first one went.
            let key = if message.callid.is_empty() { message.id.as_bytes() } else { &message.callid };
            of[partition(key, partitions.len())].push(i);
        }
        let mut fates = vec![Fate::Retry(String::new()); messages.len()];
        let mut failed = None;
        for (client, places) in partitions.iter().zip(of) {
            for (place, fate) in self.produce(client, messages, places, &mut failed).await {
                fates[place] = fate;
            }
        }
        if failed.is_some() {
            self.connection = None;
        }
        Ok(fates)
    }

    /// Messages of one partition, in order. What is too large for the broker is halved until a single message is left.
    async fn produce(&self, client: &PartitionClient, messages: &[Message], places: Vec<usize>, failed: &mut Option<String>) -> Vec<(usize, Fate)> {
        let mut fates = Vec::with_capacity(places.len());
        let mut todo = groups(messages, places);
        todo.reverse();
        while let Some(group) = todo.pop() {
            if let Some(reason) = failed.as_ref() {
                fates.extend(group.into_iter().map(|place| (place, Fate::Retry(reason.clone()))));
                continue;
            }
            let records = group.iter().map(|place| self.record(&messages[*place])).collect();
            let said = timeout(ANSWER, client.produce(records, Compression::NoCompression)).await;
            match said {
                Ok(Ok(_)) => fates.extend(group.into_iter().map(|place| (place, Fate::Delivered))),
                Ok(Err(e)) if matches!(code(&e), Some(ProtocolError::MessageTooLarge | ProtocolError::RecordListTooLarge | ProtocolError::InvalidRecord)) => {
                    if let [place] = group[..] {
                        fates.push((
                            place,
                            Fate::Dead(format!(
                                "the broker refuses it: {:?} (max.message.bytes of the topic)",
                                code(&e).unwrap_or(ProtocolError::MessageTooLarge)
                            )),
                        ));
                    } else {
                        let (first, second) = group.split_at(group.len() / 2);
                        todo.push(second.to_vec());
                        todo.push(first.to_vec());
                    }
                }
                Ok(Err(e)) => {
                    let reason = failed.insert(self.failure(&e)).clone();
                    fates.extend(group.into_iter().map(|place| (place, Fate::Retry(reason.clone()))));
                }
                Err(_) => {
                    let reason = failed.insert(self.unreachable("no acknowledgement in time")).clone();
                    fates.extend(group.into_iter().map(|place| (place, Fate::Retry(reason.clone()))));
                }
            }
        }
        fates
    }
}

/// The broker's code.
fn code(e: &Error) -> Option<ProtocolError> {
    match e {
        Error::ServerError { protocol_error, .. } => Some(*protocol_error),
        _ => None,
    }
}

/// Parts of limited size in bytes.
fn groups(messages: &[Message], places: Vec<usize>) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for place in places {
        let size = messages[place].body.len() + messages[place].callid.len() + 512;
        bytes += size;
        match groups.last_mut() {
            Some(group) if bytes <= BYTES_MAX => group.push(place),
            _ => {
                bytes = size;
                groups.push(vec![place]);
            }
        }
    }
    groups
}

/// The partition of a key, as Java's client chooses it.
fn partition(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions.max(1)
}

/// MurmurHash2 as in org.apache.kafka.common.utils.Utils.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

impl Engine for Kafka {
    fn open(&mut self) -> LocalFuture<'_, Result<(), String>> {
        Box::pin(async move { self.partitions().await.map(drop) })
    }

    fn max_body(&self) -> Option<usize> {
        Some(BYTES_MAX - AROUND)
    }

    fn publish<'a>(&'a mut self, messages: &'a [Message]) -> LocalFuture<'a, Result<Vec<Fate>, String>> {
        Box::pin(self.publish_all(messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Target, String> {
        let (rest, options) = url.split_once('?').unwrap_or((url, ""));
        Target::read(rest, Options::read(options)?)
    }

    #[test]
    fn a_url_names_brokers_and_the_topic() {
        let t = of("//a,b:9/acc.cdr?sasl=scram-sha-512&user=u&password-file=/f&tls=verify").unwrap();
        assert_eq!((t.address.with_port(PORT), &*t.topic, t.sasl), (vec!["a:9092".to_owned(), "b:9".into()], "acc.cdr", Some(Sasl::Sha512)));
        for (url, part) in [
            ("//h", "the topic"),
            ("//h/a b", "the topic"),
            ("//h/t?sasl=gssapi", "sasl must be plain"),
            ("//u:p@h/t", "needs its mechanism"),
            ("//h/t?sasl=plain", "needs a login"),
            ("//h/t?x=1", "an option is unknown"),
        ] {
            assert!(of(url).unwrap_err().contains(part), "{url}");
        }
    }

    /// From the tests of Kafka's own client (UtilsTest.testMurmur2).
    #[test]
    fn keys_are_hashed_as_in_java() {
        for (key, hash) in [("21", -973_932_308_i32), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536), ("abc", 479_470_107)] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
