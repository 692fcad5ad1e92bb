title two INVITEs with one Call-ID and From tag, as of a proxy before us that forks, or of a stranger: each has its own records
include base.inc
modparam extra_fields "log: end_cause"
route request forked {
  do_accounting("log|db|evi", "cdr|missed|failed")
  $acc_extra(caller) = $fU
  $acc_extra(callee) = $rU
  t_relay()
}
route request marked {
  do_accounting("log|db|evi", "cdr|missed|failed")
  $acc_extra(caller) = $rm
  t_relay()
}
msg first <<END
INVITE sip:expensive@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-first-%n
From: "Alice" <sip:alice@example.com>;tag=alice-1
To: <sip:expensive@example.com>
Call-ID: call-1@test
CSeq: 1 INVITE
END
msg second <<END
INVITE sip:free@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-second-%n
From: <sip:mallory@example.com>;tag=alice-1
To: <sip:free@example.com>
Call-ID: call-1@test
CSeq: 1 INVITE
END
msg bye2 <<END
BYE sip:free@127.0.0.1 SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-bye2-%n
From: <sip:mallory@example.com>;tag=alice-1
To: <sip:free@example.com>;tag=bob-2
Call-ID: call-1@test
CSeq: 9 BYE
Route: <sip:127.0.0.1;lr;ftag=alice-1>
END
let ONE = method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=200;reason=OK;x_caller=alice;callee=expensive
let TWO = method=INVITE;from_tag=alice-1;to_tag=bob-2;call_id=call-1@test
start
# the stranger's is refused, the MESSAGE and the OPTIONS are answered, then the first is
recv 1 first forked
reply 1 first 180 totag=bob-1
recv 2 second forked
reply 2 second 486 "Busy Here" totag=bob-2
recv 3 message marked
reply 1 message 200 totag=bob-3
recv 2 options marked
reply 3 options 200 totag=bob-4
expect log "ACC: call missed: *{$TWO};code=486;reason=Busy Here;x_caller=mallory;callee=free;*"
expect log "ACC: transaction answered: *{$TWO};code=486;reason=Busy Here;x_caller=mallory;callee=free;*"
expect log "ACC: transaction answered: *method=MESSAGE;*x_caller=MESSAGE;callee=;*"
expect log "ACC: transaction answered: *method=OPTIONS;*x_caller=OPTIONS;callee=;*"
reply 3 first 200 totag=bob-1 body
recv 1 ack inside
recv 2 bye inside
reply 3 bye 200
expect log "ACC: call ended: *{$ONE};*;end_cause=bye;*"
expect no log "ACC: *"
reap
# both are answered, the second first
recv 1 first forked
recv 2 second forked
reply 2 second 180 totag=bob-2
reply 1 first 180 totag=bob-1
reply 3 second 200 totag=bob-2 body
reply 3 first 200 totag=bob-1 body
recv 1 bye inside
reply 2 bye 200
expect log "ACC: call ended: *{$ONE};*;end_cause=bye;*"
expect no log "ACC: *"
recv 3 bye2 inside
reply 1 bye2 200
expect log "ACC: call ended: *{$TWO};code=200;reason=OK;x_caller=mallory;callee=free;*;end_cause=bye;*"
expect no log "ACC: *"
reap
expect live 0
