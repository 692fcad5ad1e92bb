title two branches refuse in two workers: the missed record has the URI of the one that is reported; one use of the flag
include base.inc
include flags.inc
route request main {
  setflag("ACC")
  setflag("MISSED")
  setflag("FAILED")
  t_on_failure("again")
  append_branch()
  t_relay() -> 1
}
route failure again {
  setflag("MISSED")
  t_relay() -> 1
}
start
recv 1 invite
reply 2 invite.1 404 totag=second
reply 3 invite.0 486 totag=first
expect log "ACC: call missed: timestamp={t};method=INVITE;from_tag=alice-1;to_tag=second;call_id=call-1@test;code=404;reason=Not Found;from=sip:alice@example.com;uri=sip:branch1@127.0.0.1;ua=;code=404;note="
timeout invite.2
expect log "ACC: call missed: timestamp={t};method=INVITE;from_tag=alice-1;to_tag=*;code=404;*;uri=sip:branch1@127.0.0.1;*"
expect log "ACC: transaction answered: timestamp={t};*;code=404;*;uri=sip:branch1@127.0.0.1;*"
expect no log "ACC: *"
reap
expect live 0
