-- ClickHouse reads the stream ACC of NATS JetStream (nats.sh). A record that is delivered twice has the same acc_id:
-- ReplacingMergeTree keeps one row of it. SELECT ... FROM acc FINAL sees one at any time.
CREATE TABLE acc_nats (
    v UInt8, kind LowCardinality(String), acc_id String, call_id Nullable(String), node LowCardinality(String),
    method LowCardinality(Nullable(String)), callid String, sip_code Nullable(UInt16), sip_reason String,
    time_ms Int64, created_ms Nullable(Int64), end_ms Nullable(Int64), setup_ms Nullable(Int64), duration_ms Nullable(Int64),
    end_cause LowCardinality(Nullable(String)), end_side LowCardinality(Nullable(String)),
    extra Map(String, Nullable(String)), legs Array(Map(String, Nullable(String)))
) ENGINE = NATS
SETTINGS nats_url = 'nats1.example.org:4222', nats_subjects = 'acc.>', nats_stream = 'ACC', nats_consumer_name = 'clickhouse',
    nats_format = 'JSONEachRow', input_format_skip_unknown_fields = 1;

CREATE TABLE acc (
    kind LowCardinality(String), acc_id String, call_id Nullable(String), node LowCardinality(String),
    method LowCardinality(Nullable(String)), callid String, sip_code Nullable(UInt16), sip_reason String,
    time DateTime64(3, 'UTC'), created Nullable(DateTime64(3, 'UTC')), ended Nullable(DateTime64(3, 'UTC')),
    setup_ms Nullable(Int64), duration_ms Nullable(Int64),
    end_cause LowCardinality(Nullable(String)), end_side LowCardinality(Nullable(String)),
    extra Map(String, Nullable(String)), legs Array(Map(String, Nullable(String)))
) ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(time) ORDER BY (callid, acc_id);

CREATE MATERIALIZED VIEW acc_from_nats TO acc AS
SELECT kind, acc_id, call_id, node, method, callid, sip_code, sip_reason,
    fromUnixTimestamp64Milli(time_ms, 'UTC') AS time, fromUnixTimestamp64Milli(created_ms, 'UTC') AS created,
    fromUnixTimestamp64Milli(end_ms, 'UTC') AS ended,
    setup_ms, duration_ms, end_cause, end_side, extra, legs
FROM acc_nats;
