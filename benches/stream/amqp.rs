//! RabbitMQ with a quorum queue, as examples/scale-out/rabbitmq.sh declares it.

use std::collections::VecDeque;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use tokio::runtime::Runtime;

use super::super::common::brokers::RabbitMq;
use super::super::say;
use super::{Body, Engine, measure};

struct Quorum {
    broker: RabbitMq,
    runtime: Runtime,
}

impl Engine for Quorum {
    type Client = (Connection, Channel);

    fn name(&self) -> String {
        "RabbitMQ, quorum queue".into()
    }

    fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}/?exchange=acc", self.broker.port)
    }

    fn clear(&mut self) {
        self.runtime.block_on(async {
            let (_connection, channel) = self.client().await;
            let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
            channel.exchange_declare("acc".into(), ExchangeKind::Topic, durable, FieldTable::default()).await.unwrap();
            channel.queue_delete("cdr".into(), QueueDeleteOptions::default()).await.unwrap();
            let mut quorum = FieldTable::default();
            quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            channel.queue_declare("cdr".into(), QueueDeclareOptions { durable: true, ..Default::default() }, quorum).await.unwrap();
            channel.queue_bind("cdr".into(), "acc".into(), "#".into(), QueueBindOptions::default(), FieldTable::default()).await.unwrap();
        });
    }

    fn stored(&self) -> usize {
        self.runtime.block_on(async {
            let (_connection, channel) = self.client().await;
            let passive = QueueDeclareOptions { passive: true, ..Default::default() };
            channel.queue_declare("cdr".into(), passive, FieldTable::default()).await.unwrap().message_count() as usize
        })
    }

    async fn client(&self) -> (Connection, Channel) {
        let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.broker.port);
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        (connection, channel)
    }

    async fn publish(&self, (_, channel): &(Connection, Channel), bodies: &[Body], at_once: usize) {
        let confirmed = |said| assert!(matches!(said, Ok(Confirmation::Ack(None))), "{said:?}");
        let mut window = VecDeque::with_capacity(at_once);
        for body in bodies {
            if window.len() == at_once {
                confirmed(window.pop_front().unwrap().await);
            }
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let properties = BasicProperties::default().with_message_id(body.id.as_str().into()).with_delivery_mode(2);
            window.push_back(channel.basic_publish("acc".into(), "cdr.proxy1".into(), options, &body.json, properties).await.unwrap());
        }
        for confirm in window {
            confirmed(confirm.await);
        }
    }

    fn window(&self) -> usize {
        256
    }
}

pub fn run() {
    match RabbitMq::start("") {
        Some(broker) => measure(Quorum { broker, runtime: Runtime::new().unwrap() }),
        None => say("rabbitmq-server is not installed"),
    }
}
