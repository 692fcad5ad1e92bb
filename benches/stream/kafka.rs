//! Kafka, of which the mock cluster of librdkafka stands in: it keeps records in memory.

use std::collections::BTreeMap;

use rskafka::chrono::Utc;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;
use tokio::runtime::Runtime;

use super::super::common::brokers::MockKafka;
use super::super::say;
use super::super::sql::BATCH;
use super::{Body, Engine, measure};

/// Of the mock cluster's topic.
const PARTITIONS: i32 = 4;

struct Topic {
    cluster: MockKafka,
    runtime: Runtime,
    /// Where the partitions ended when it was cleared.
    before: i64,
}

impl Topic {
    /// The ends of all partitions together.
    fn end(&self) -> i64 {
        self.runtime.block_on(async {
            let mut end = 0;
            for partition in self.client().await {
                end += partition.get_offset(OffsetAt::Latest).await.unwrap();
            }
            end
        })
    }
}

impl Engine for Topic {
    type Client = Vec<PartitionClient>;

    fn name(&self) -> String {
        "Kafka (mock cluster of librdkafka)".into()
    }

    fn url(&self) -> String {
        format!("kafka://{}/acc", self.cluster.brokers)
    }

    fn clear(&mut self) {
        self.before = self.end();
    }

    fn stored(&self) -> usize {
        (self.end() - self.before) as usize
    }

    async fn client(&self) -> Vec<PartitionClient> {
        let client = ClientBuilder::new(vec![self.cluster.brokers.clone()]).build().await.unwrap();
        let mut partitions = Vec::new();
        for number in 0..PARTITIONS {
            partitions.push(client.partition_client("acc", number, UnknownTopicHandling::Retry).await.unwrap());
        }
        partitions
    }

    async fn publish(&self, partitions: &Vec<PartitionClient>, bodies: &[Body], at_once: usize) {
        let record =
            |body: &Body| Record { key: Some(body.id.clone().into_bytes()), value: Some(body.json.clone()), headers: BTreeMap::new(), timestamp: Utc::now() };
        for (some, partition) in bodies.chunks(at_once).zip(partitions.iter().cycle()) {
            partition.produce(some.iter().map(record).collect(), Compression::NoCompression).await.unwrap();
        }
    }

    fn window(&self) -> usize {
        BATCH
    }
}

pub fn run() {
    match MockKafka::start() {
        Some(cluster) => measure(Topic { cluster, runtime: Runtime::new().unwrap(), before: 0 }),
        None => say("librdkafka is not installed"),
    }
}
