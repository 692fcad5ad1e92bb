#!/usr/bin/env python3
"""Writes the records of the stream ACC (nats.sh) into a table of MariaDB or MySQL.

    pip install nats-py pymysql
    nats-to-sql.py nats://nats1.example.org,nats://nats2.example.org mysql://acc:secret@db.example.org/cdr

A batch is acknowledged once it is committed; what was not acknowledged comes again, and is the same row, because acc_id is
the key. So it may be killed at any time, and several may run at once. Whatever fails ends it: let systemd start it again
(Restart=always).
"""
import asyncio
import json
import sys
from urllib.parse import unquote, urlsplit

import nats
import pymysql

TABLE = """CREATE TABLE IF NOT EXISTS cdr (
    acc_id CHAR(32) CHARACTER SET ascii NOT NULL PRIMARY KEY, kind VARCHAR(16) NOT NULL, node VARCHAR(255) NOT NULL,
    callid VARCHAR(255) NOT NULL, sip_code SMALLINT, time DATETIME(6) NOT NULL, created DATETIME(6), end_time DATETIME(6),
    duration_ms BIGINT, end_cause VARCHAR(32), extra LONGTEXT NOT NULL, KEY (callid), KEY (time)
) CHARACTER SET utf8mb4"""
COLUMNS = ["acc_id", "kind", "node", "callid", "sip_code", "time", "created", "end_time", "duration_ms", "end_cause", "extra"]
INSERT = "INSERT INTO cdr ({}) VALUES ({}) ON DUPLICATE KEY UPDATE acc_id = acc_id".format(
    ", ".join(COLUMNS), ", ".join(["%s"] * len(COLUMNS)))
BATCH = 200


def row(record):
    values = []
    for name in COLUMNS:
        value = record[name]
        if name in ("time", "created", "end_time") and value:
            value = value.removesuffix("Z")
        values.append(json.dumps(value) if name == "extra" else value)
    return values


async def main(servers, database):
    url = urlsplit(database)
    table = pymysql.connect(host=url.hostname, port=url.port or 3306, user=unquote(url.username), password=unquote(url.password),
                            database=url.path[1:], charset="utf8mb4")
    with table.cursor() as cursor:
        cursor.execute(TABLE)
    client = await nats.connect(servers.split(","), max_reconnect_attempts=-1)
    consumer = await client.jetstream().pull_subscribe_bind(durable="sql", stream="ACC")
    while True:
        try:
            # It waits that long for the batch to be full.
            messages = await consumer.fetch(BATCH, timeout=1)
        except nats.errors.TimeoutError:
            table.ping()
            continue
        with table.cursor() as cursor:
            cursor.executemany(INSERT, [row(json.loads(m.data)) for m in messages])
        table.commit()
        for message in messages:
            await message.ack()


asyncio.run(main(sys.argv[1], sys.argv[2]))
