#!/usr/bin/env python3
"""Writes the records of the stream ACC (nats.sh) into a table of MariaDB or MySQL.

    python3 -m venv /opt/nats-to-sql && /opt/nats-to-sql/bin/pip install nats-py pymysql

A command line is no place for passwords, so the environment says where it reads and writes:

    ACC_NATS=nats://nats1.example.org,nats://nats2.example.org
    ACC_DATABASE=mysql://acc:secret@db.example.org/cdr

A batch is acknowledged once it is committed; what was not acknowledged comes again, and is the same row, because acc_id is
the key. So it may be killed at any time, and several may run at once. A message that cannot be a row, because it is no record
or the table refuses it, goes into cdr_refused as it came, and holds up no other. Whatever else fails ends it: systemd starts
it again for as long as it takes with StartLimitIntervalSec=0 in [Unit], Restart=always and RestartSec=5 in [Service], and
EnvironmentFile= with a file that only root reads.
"""
import asyncio
import hashlib
import json
import os
import re
from datetime import datetime
from urllib.parse import unquote, urlsplit

import nats
import pymysql

TABLES = ["""CREATE TABLE IF NOT EXISTS cdr (
    acc_id CHAR(32) CHARACTER SET ascii NOT NULL PRIMARY KEY, kind VARCHAR(16) NOT NULL, node VARCHAR(255) NOT NULL,
    callid TEXT, sip_code SMALLINT, time DATETIME(6) NOT NULL, created DATETIME(6), end_time DATETIME(6),
    duration_ms BIGINT, end_cause VARCHAR(32), extra LONGTEXT NOT NULL, KEY (callid(64)), KEY (time)
) CHARACTER SET utf8mb4""", """CREATE TABLE IF NOT EXISTS cdr_refused (
    hash CHAR(64) CHARACTER SET ascii NOT NULL PRIMARY KEY, acc_id CHAR(32) CHARACTER SET ascii, reason VARCHAR(255) NOT NULL,
    message LONGBLOB NOT NULL
) CHARACTER SET utf8mb4"""]
COLUMNS = ["acc_id", "kind", "node", "callid", "sip_code", "time", "created", "end_time", "duration_ms", "end_cause", "extra"]
INSERT = "INSERT INTO cdr ({}) VALUES ({}) ON DUPLICATE KEY UPDATE acc_id = acc_id".format(
    ", ".join(COLUMNS), ", ".join(["%s"] * len(COLUMNS)))
# The same message may come twice here, too.
REFUSE = "INSERT INTO cdr_refused VALUES (%s, %s, %s, %s) ON DUPLICATE KEY UPDATE hash = hash"
REFUSED = (pymysql.DataError, pymysql.IntegrityError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def row(data):
    record, values = json.loads(data), []
    for name, value in ((name, record[name]) for name in COLUMNS):
        if name == "extra":
            value = json.dumps(value)
        elif name in ("time", "created", "end_time") and value is not None:
            value = datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%fZ")
        elif value is not None and not isinstance(value, int):
            # A list is no text, nor is half a character.
            value.encode()
        values.append(value)
    return values


def store(table, messages):
    with table.cursor() as cursor:
        try:
            cursor.executemany(INSERT, [row(data) for data in messages])
        except REFUSED:
            # Somebody in this batch is at fault: one by one shows who.
            table.rollback()
            for data in messages:
                try:
                    cursor.execute(INSERT, row(data))
                except REFUSED as error:
                    print("refused:", reason := ascii(error)[:255], flush=True)
                    acc_id = re.search(b'"acc_id": ?"([0-9a-f]{32})"', data)
                    cursor.execute(REFUSE, (hashlib.sha256(data).hexdigest(), acc_id and acc_id[1], reason, data))
    table.commit()


async def main(servers, database):
    url = urlsplit(database)
    table = pymysql.connect(host=url.hostname, port=url.port or 3306, user=unquote(url.username or ""),
                            password=unquote(url.password or ""), database=url.path[1:], charset="utf8mb4",
                            sql_mode="STRICT_ALL_TABLES", connect_timeout=10, read_timeout=20, write_timeout=20)
    for statement in TABLES:
        table.cursor().execute(statement)
    # The client would wait for lost servers by itself, in silence.
    client = await nats.connect(servers.split(","), allow_reconnect=False, max_reconnect_attempts=1, ping_interval=10)
    consumer = await client.jetstream().pull_subscribe_bind(durable="sql", stream="ACC")
    while True:
        try:
            # It waits that long for the batch to be full.
            messages = await consumer.fetch(200, timeout=1)
        except asyncio.TimeoutError:
            messages = []
        if not messages:
            # Nothing to do, or nobody there?
            await consumer.consumer_info()
            table.ping(reconnect=False)
            continue
        store(table, [message.data for message in messages])
        for message in messages:
            await message.ack()


asyncio.run(main(os.environ["ACC_NATS"], os.environ["ACC_DATABASE"]))
