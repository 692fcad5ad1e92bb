title report_ack: the ACK comes to another worker, after the transaction is gone, and has one record
include base.inc
include flags.inc
modparam report_ack 1
route request main {
  setflag("ACC")
  t_relay() -> 1
}
route request within {
  t_relay() -> 1
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1
expect log "ACC: transaction answered: timestamp={t};{$CORE};*"
reap
recv 3 ack within
expect log "ACC: request acknowledged: timestamp={t};method=ACK;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=200;reason=OK;from=sip:alice@example.com;uri=sip:bob@127.0.0.1;ua=;code=200;note="
recv 4 ack within
expect no log "ACC: *"
expect live 0
