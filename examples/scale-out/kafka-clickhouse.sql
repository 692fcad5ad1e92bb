-- ClickHouse reads the topic acc.cdr of Kafka. Tables acc and acc_from_nats are those of nats-clickhouse.sql: this replaces
-- acc_nats. A record that Kafka has twice has the same acc_id, and becomes one row.
-- kafka-topics.sh --create --topic acc.cdr --partitions 6 --replication-factor 3 --config min.insync.replicas=2
CREATE TABLE acc_kafka AS acc_nats ENGINE = Kafka
SETTINGS kafka_broker_list = 'kafka1.example.org:9092,kafka2.example.org:9092', kafka_topic_list = 'acc.cdr',
    kafka_group_name = 'clickhouse', kafka_format = 'JSONEachRow', input_format_skip_unknown_fields = 1;

CREATE MATERIALIZED VIEW acc_from_kafka TO acc AS
SELECT kind, acc_id, call_id, node, method, callid, sip_code, sip_reason,
    fromUnixTimestamp64Milli(time_ms, 'UTC') AS time, fromUnixTimestamp64Milli(created_ms, 'UTC') AS created,
    fromUnixTimestamp64Milli(end_ms, 'UTC') AS ended,
    setup_ms, duration_ms, end_cause, end_side, extra, legs
FROM acc_kafka;
