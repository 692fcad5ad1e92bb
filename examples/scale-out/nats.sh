#!/bin/sh
# The stream that takes the records of all proxies, on a cluster of three servers. A copy of a record that comes within the
# window of duplicates is not stored: make it longer than the longest outage.
set -eu
nats stream add ACC --subjects 'acc.>' --storage file --replicas 3 --dupe-window 1h --retention limits --discard new --max-age 30d --defaults
# What ClickHouse reads, see nats-clickhouse.sql: what it has not acknowledged comes again.
nats consumer add ACC clickhouse --pull --deliver all --ack explicit --replay instant --max-deliver=-1 --defaults
# The same for nats-to-sql.py.
nats consumer add ACC sql --pull --deliver all --ack explicit --replay instant --max-deliver=-1 --max-pending 1000 --defaults
