title two calls in the same processes: no value of one in the other
include base.inc
msg first <<END
INVITE sip:carol@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK-f
From: <sip:fay@example.com>;tag=fay-1
To: <sip:carol@example.com>
Call-ID: call-2@test
CSeq: 1 INVITE
END
route request other {
  do_accounting("log|db|evi", "missed") -> 1
  t_relay()
}
start
recv 1 invite
recv 1 first other
reply 2 first 486 totag=carol-1
expect log "ACC: call missed: *;from_tag=fay-1;to_tag=carol-1;call_id=call-2@test;code=486;reason=Busy Here;{$X0};{$L0}"
expect event "E_ACC_MISSED_EVENT * callid=\"call-2@test\" *"
reply 2 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_CDR {$ECORE} {$EX} {$EL} {$EDUR}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
reap
expect live 0
