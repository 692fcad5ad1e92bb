title the clock was an hour ahead, was put right, and the server was killed: the calls end when it was last seen
include base.inc
host persist off
modparam orphan_timeout 1
modparam extra_fields "log: end_cause"
msg invite0 <<END
INVITE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-zero
From: "Alice" <sip:alice@example.com>;tag=alice-0
To: "Bob" <sip:bob@example.com>
Call-ID: call-0@test
CSeq: 1 INVITE
END
msg bye0 <<END
BYE sip:bob@127.0.0.1 SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-byezero
From: "Alice" <sip:alice@example.com>;tag=alice-0
To: "Bob" <sip:bob@example.com>;tag=bob-0
Call-ID: call-0@test
CSeq: 2 BYE
Route: <sip:127.0.0.1;lr;ftag=alice-0>
END
start
clock 3600
recv 1 invite0
reply 2 invite0 200 totag=bob-0 body
recv 3 bye0 inside
reply 1 bye0 200
expect log "ACC: call ended: *call_id=call-0@test;*"
clock -3600
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
reap
sleep 2500
kill9
expect within 10 log "ACC: call ended: *;ms_duration={n:1500..9000};*;{$CORE};*;end_cause=orphan;*"
expect no log "ACC: *"
expect within 10 stat acc_live_blocks 0
