#!/bin/sh
# Exchange and queue for the records of all proxies (stream_url "amqp://.../?exchange=acc"). A record that no queue gets is
# not delivered: it waits in the journal of its proxy.
set -eu
rabbitmqadmin declare exchange name=acc type=topic durable=true
rabbitmqadmin declare queue name=cdr durable=true arguments='{"x-queue-type": "quorum"}'
rabbitmqadmin declare binding source=acc destination=cdr routing_key='cdr.*'
