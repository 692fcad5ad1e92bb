//! `amqp:` and `amqps:`, messages to an exchange of RabbitMQ (AMQP 0-9-1): routing key `KIND.NODE`, confirmed by the broker.
//!
//! Nothing is declared. A message that reaches no queue is returned, and counts as not delivered.
#![forbid(unsafe_code)]

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::uri::{AMQPAuthority, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Error, ErrorKind, PublisherConfirm};
use tokio::time::timeout;

use super::address::{Address, Credentials};
use super::message::{Engine, Message};
use super::tls::{Mode, Pem, Tls};
use super::url::{Options, encoded};
use crate::backend::{Fate, LocalFuture};

/// What the URL looks like, for messages.
pub const EXAMPLE: &str = "amqp://user:password@host/vhost?exchange=acc";
/// Ports of AMQP, without and with TLS.
const PORTS: [u16; 2] = [5672, 5671];
/// Most messages that wait for their confirmation.
const WINDOW: usize = 256;
/// Longest for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest for a confirmation.
const CONFIRM: Duration = Duration::from_secs(10);
/// How long an orderly end may take.
const LEAVE: Duration = Duration::from_millis(100);
/// The broker writes it to disk.
const PERSISTENT: u8 = 2;

/// What the URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    address: Address,
    secure: bool,
    vhost: String,
    exchange: String,
    tls: Tls,
}

impl Target {
    /// Reads what follows the scheme, which is `amqps` if `secure`.
    ///
    /// # Errors
    /// What is wrong, and what to write; nothing of the URL is quoted.
    pub fn read(rest: &str, secure: bool, mut options: Options<'_>) -> Result<Target, String> {
        let mut address = Address::read(rest, EXAMPLE)?;
        address.login.options(&mut options)?;
        let vhost = if address.path.is_empty() { "/".to_owned() } else { address.path.clone() };
        let exchange = options.take("exchange").map(super::address::decoded).transpose()?.filter(|e| !e.is_empty() && e.len() < 256);
        let exchange = exchange.ok_or_else(|| format!("exchange= is missing: write {EXAMPLE}"))?;
        let tls = Tls::read(&mut options)?;
        let secure = match (secure, tls.mode) {
            (_, Some(Mode::Require)) => return Err("with AMQP servers are always verified: write amqps: or tls=verify, and the authority as ca=".into()),
            (true, Some(Mode::Disable)) => return Err("amqps: is TLS: write amqp:, or leave tls=disable out".into()),
            (secure, mode) => secure || mode == Some(Mode::Verify),
        };
        options.end("exchange, user, password-file, tls, ca, cert, key and name")?;
        Ok(Target { address, secure, vhost, exchange, tls })
    }
}

/// Publishes to an exchange.
pub struct Amqp {
    target: Target,
    node: Arc<str>,
    connection: Option<(Connection, Channel)>,
}

/// A message of the window.
enum Slot {
    Waits(PublisherConfirm),
    Known(Fate),
}

/// What has gone wrong among the messages of a batch.
#[derive(Default)]
struct Trouble {
    /// The first reason that is known.
    reason: Option<String>,
    /// The reason says only that the channel is gone. Messages that are waiting get the real reason.
    is_consequence: bool,
    /// Ids of messages that reached no queue. The library attaches each of them to the next confirmation, whichever message
    /// that belongs to.
    returned: HashSet<String>,
    /// A confirmation was not waited for: the return of another message may have been attached to it.
    gave_up: bool,
}

impl Trouble {
    fn is(&mut self, reason: String) -> Fate {
        if std::mem::take(&mut self.is_consequence) {
            self.reason = None;
        }
        Fate::Retry(self.reason.get_or_insert(reason).clone())
    }

    /// A message could not be handed over.
    fn not_sent(&mut self, error: &Error, reason: String) -> Fate {
        let is_state = matches!(error.kind(), ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidConnectionState(_));
        self.is_consequence = is_state && self.reason.is_none();
        Fate::Retry(self.reason.get_or_insert(reason).clone())
    }

    fn returned(&mut self, message: &BasicReturnMessage) {
        self.returned.extend(message.delivery.properties.message_id().as_ref().map(|id| id.as_str().to_owned()));
    }
}

impl Amqp {
    /// Connects nothing yet.
    pub fn new(target: Target, node: Arc<str>) -> Amqp {
        Amqp { target, node, connection: None }
    }

    fn hosts(&self) -> String {
        self.target.address.with_port(PORTS[usize::from(self.target.secure)]).join(", ")
    }

    async fn channel(&mut self) -> Result<Channel, String> {
        if let Some((connection, channel)) = &self.connection
            && connection.status().connected()
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        self.connection = None;
        let mut why = String::new();
        for host in self.target.address.with_port(PORTS[usize::from(self.target.secure)]) {
            match timeout(CONNECT, self.connected(&host)).await {
                Ok(Ok(made)) => {
                    let channel = made.1.clone();
                    self.connection = Some(made);
                    return Ok(channel);
                }
                Ok(Err(e)) => why = e,
                Err(_) => why = format!("stream_url: the broker at {host} does not answer within {} s", CONNECT.as_secs()),
            }
        }
        Err(why)
    }

    async fn connected(&self, host: &str) -> Result<(Connection, Channel), String> {
        let t = &self.target;
        let (name, port) = host.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?))).ok_or("stream_url: a host has no port")?;
        let (username, password) = match t.address.login.credentials()? {
            // As the clients of RabbitMQ do.
            Credentials::None => ("guest".to_owned(), "guest".to_owned()),
            Credentials::Token(token) => (String::new(), token),
            Credentials::Password(user, password) => (user, password),
        };
        let uri = AMQPUri {
            scheme: if t.secure { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
            authority: AMQPAuthority { userinfo: AMQPUserInfo { username, password }, host: name.trim_matches(['[', ']']).to_owned(), port },
            vhost: t.vhost.clone(),
            ..AMQPUri::default()
        };
        let properties = ConnectionProperties::default().with_connection_name(format!("opensips-acc {}", self.node).into());
        let runtime = lapin::runtime::default_runtime().map_err(|e| self.failure(&e))?;
        let connection = Connection::connect_uri_with_config(uri, properties, t.tls_files()?, runtime).await.map_err(|e| self.failure(&e))?;
        let channel = connection.create_channel().await.map_err(|e| self.failure(&e))?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|e| self.failure(&e))?;
        Ok((connection, channel))
    }

    /// What an error means, and what to do.
    fn failure(&self, e: &Error) -> String {
        let (hosts, t) = (self.hosts(), &self.target);
        match e.kind() {
            ErrorKind::ProtocolError(said) => match said.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => {
                    format!(
                        "stream_url: there is no exchange {0}: rabbitmqadmin --vhost='{1}' declare exchange name={0} type=topic durable=true",
                        t.exchange, t.vhost
                    )
                }
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                    format!(
                        "stream_url: RabbitMQ at {hosts} refuses the login, or the user may not write to {}: correct user and password, or rabbitmqctl set_permissions",
                        t.exchange
                    )
                }
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                    format!("stream_url: RabbitMQ at {hosts} has no vhost {0}, or the user may not use it: rabbitmqctl add_vhost '{0}'", t.vhost)
                }
                _ => format!("stream_url: RabbitMQ at {hosts} says: {}", said.get_message()),
            },
            ErrorKind::IOError(io) if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                format!("stream_url: no TLS with RabbitMQ at {hosts} ({io}): check ca=, cert= and key=")
            }
            ErrorKind::IOError(io) => format!("stream_url: RabbitMQ at {hosts} cannot be reached, or the connection broke ({io}): check host and port"),
            _ => format!("stream_url: RabbitMQ at {hosts}: {e}"),
        }
    }

    fn properties(&self, message: &Message) -> BasicProperties {
        let mut headers = FieldTable::default();
        for (name, value) in message.attributes(&self.node) {
            headers.insert(format!("cloudEvents:{name}").into(), AMQPValue::LongString(LongString::from(value.into_owned())));
        }
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_message_id(message.id.as_str().into())
            .with_delivery_mode(PERSISTENT)
            .with_headers(headers)
    }

    fn routing_key(&self, message: &Message) -> ShortString {
        let node = encoded(self.node.as_bytes(), |b| b.is_ascii_graphic()).replace(['.', ' ', '*', '#'], "_");
        let key: String = format!("{}.{node}", message.kind).chars().take(255).collect();
        key.into()
    }

    async fn publish_all(&mut self, messages: &[Message]) -> Result<Vec<Fate>, String> {
        let channel = self.channel().await?;
        let exchange = ShortString::from(self.target.exchange.as_str());
        let (mut fates, mut window) = (Vec::with_capacity(messages.len()), VecDeque::with_capacity(WINDOW));
        let mut trouble = Trouble::default();
        for message in messages {
            if window.len() == WINDOW
                && let Some(first) = window.pop_front()
            {
                fates.push(self.settled(first, &mut trouble).await);
            }
            if let Some(reason) = &trouble.reason {
                window.push_back(Slot::Known(Fate::Retry(reason.clone())));
                continue;
            }
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let (key, properties) = (self.routing_key(message), self.properties(message));
            let sent = timeout(CONFIRM, channel.basic_publish(exchange.clone(), key, options, &message.body, properties)).await;
            window.push_back(match sent {
                Ok(Ok(confirm)) => Slot::Waits(confirm),
                Ok(Err(e)) => Slot::Known(trouble.not_sent(&e, self.failure(&e))),
                Err(_) => Slot::Known(trouble.is(self.silent())),
            });
        }
        for slot in window {
            fates.push(self.settled(slot, &mut trouble).await);
        }
        for (fate, message) in fates.iter_mut().zip(messages) {
            if *fate == Fate::Delivered && (trouble.gave_up || trouble.returned.contains(&message.id)) {
                *fate = trouble.is(self.silent());
            }
        }
        if trouble.reason.is_some() {
            // A channel that the broker closed, or a connection that is silent, is opened again.
            self.connection = None;
        }
        Ok(fates)
    }

    fn silent(&self) -> String {
        format!("stream_url: RabbitMQ at {} confirms nothing within {} s: see its alarms, rabbitmq-diagnostics alarms", self.hosts(), CONFIRM.as_secs())
    }

    /// What became of a message, except that its return may have been attached to another one. Once one is not confirmed,
    /// the others are not waited for long.
    async fn settled(&self, slot: Slot, trouble: &mut Trouble) -> Fate {
        let confirm = match slot {
            Slot::Known(fate) => return fate,
            Slot::Waits(confirm) => confirm,
        };
        let patience = if trouble.reason.is_some() { LEAVE } else { CONFIRM };
        match timeout(patience, confirm).await {
            Ok(Ok(Confirmation::Ack(None))) => Fate::Delivered,
            Ok(Ok(Confirmation::Ack(Some(returned)))) => {
                trouble.returned(&returned);
                trouble.is(self.no_queue(&returned));
                Fate::Delivered
            }
            Ok(Ok(Confirmation::Nack(Some(returned)))) => {
                trouble.returned(&returned);
                trouble.is(self.no_queue(&returned))
            }
            Ok(Ok(_)) => {
                trouble.is(format!("stream_url: RabbitMQ at {} accepts nothing: a queue (x-overflow=reject-publish) or its disk is full", self.hosts()))
            }
            Ok(Err(e)) => trouble.is(self.failure(&e)),
            Err(_) => {
                trouble.gave_up = true;
                trouble.is(self.silent())
            }
        }
    }

    fn no_queue(&self, returned: &BasicReturnMessage) -> String {
        format!(
            "stream_url: no queue receives {0} from exchange {1}: rabbitmqadmin --vhost='{2}' declare binding source={1} destination=QUEUE routing_key='#'",
            returned.delivery.routing_key, self.target.exchange, self.target.vhost
        )
    }
}

impl Target {
    fn tls_files(&self) -> Result<OwnedTLSConfig, String> {
        let Pem { ca, pair } = self.tls.pem()?;
        Ok(OwnedTLSConfig { identity: pair.map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key }), cert_chain: ca })
    }
}

impl Engine for Amqp {
    fn open(&mut self) -> LocalFuture<'_, Result<(), String>> {
        Box::pin(async move { self.channel().await.map(drop) })
    }

    fn publish<'a>(&'a mut self, messages: &'a [Message]) -> LocalFuture<'a, Result<Vec<Fate>, String>> {
        Box::pin(self.publish_all(messages))
    }

    fn close(&mut self) -> LocalFuture<'_, ()> {
        Box::pin(async move {
            if let Some((connection, _)) = self.connection.take() {
                let _ = timeout(LEAVE, connection.close(200, "bye".into())).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Target, String> {
        let (scheme, rest) = url.split_once(':').unwrap();
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        Target::read(rest, scheme == "amqps", Options::read(options)?)
    }

    #[test]
    fn a_url_names_the_exchange() {
        let t = of("amqp://u:p@a,b:5/%2Fx?exchange=acc").unwrap();
        assert_eq!((&*t.vhost, &*t.exchange, t.secure, t.address.with_port(5672)), ("/x", "acc", false, vec!["a:5672".to_owned(), "b:5".into()]));
        assert_eq!(of("amqps://h?exchange=acc").map(|t| (t.vhost, t.secure)), Ok(("/".into(), true)));
        assert!(of("amqp://h?exchange=acc&tls=verify").unwrap().secure);
        for (url, part) in [
            ("amqp://h", "exchange= is missing"),
            ("amqp://h?exchange=a&tls=require", "always verified"),
            ("amqps://h?exchange=a&tls=disable", "amqps: is TLS"),
            ("amqp://h?exchange=a&x=1", "an option is unknown"),
        ] {
            assert!(of(url).unwrap_err().contains(part), "{url}");
        }
    }
}
