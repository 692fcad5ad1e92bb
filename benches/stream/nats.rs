//! A stream of NATS JetStream, in files.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, stream};
use tokio::runtime::Runtime;

use super::super::common::brokers::Nats;
use super::super::say;
use super::{Body, Engine, measure};

pub struct JetStream {
    pub server: Nats,
    runtime: Runtime,
}

impl JetStream {
    /// Without the stream, which [`Engine::clear`] makes.
    pub fn of(server: Nats) -> JetStream {
        JetStream { server, runtime: Runtime::new().unwrap() }
    }
}

impl Engine for JetStream {
    type Client = Context;

    fn name(&self) -> String {
        "NATS JetStream".into()
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}/acc?stream=ACC", self.server.port)
    }

    fn clear(&mut self) {
        self.runtime.block_on(async {
            let jetstream = self.client().await;
            let _ = jetstream.delete_stream("ACC").await;
            let config =
                stream::Config { name: "ACC".into(), subjects: vec!["acc.>".into()], duplicate_window: Duration::from_secs(3600), ..Default::default() };
            jetstream.create_stream(config).await.unwrap();
        });
    }

    fn stored(&self) -> usize {
        self.runtime.block_on(async { self.client().await.get_stream("ACC").await.unwrap().cached_info().state.messages as usize })
    }

    async fn client(&self) -> Context {
        jetstream::new(async_nats::connect(format!("127.0.0.1:{}", self.server.port)).await.unwrap())
    }

    async fn publish(&self, client: &Context, bodies: &[Body], at_once: usize) {
        let mut window: VecDeque<PublishAckFuture> = VecDeque::with_capacity(at_once);
        for body in bodies {
            if window.len() == at_once {
                window.pop_front().unwrap().await.unwrap();
            }
            let message = PublishMessage::build().payload(body.json.clone().into()).message_id(&body.id);
            window.push_back(client.send_publish("acc.cdr.proxy1", message).await.unwrap());
        }
        for ack in window {
            ack.await.unwrap();
        }
    }

    fn window(&self) -> usize {
        256
    }
}

pub fn run() {
    match Nats::start(&["-js"]) {
        Some(server) => measure(JetStream::of(server)),
        None => say("nats-server is not installed"),
    }
}
