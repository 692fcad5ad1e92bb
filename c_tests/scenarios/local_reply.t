title local replies: t_reply 403, a relay that fails
include base.inc
route request refused {
  do_accounting("log|db|evi", "missed|failed") -> 1
  $acc_extra(caller) = $fu
  t_newtran()
  t_reply(403, "Forbidden")
}
route request broken {
  do_accounting("log", "missed|failed") -> 1
  t_relay_error(500)
}
start
recv 1 invite refused
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=;call_id=call-1@test;code=403;reason=Forbidden;x_caller=sip:alice@example.com;*"
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=;call_id=call-1@test;code=403;reason=Forbidden;x_caller=sip:alice@example.com;*"
expect no log "ACC: *"
reap
recv 2 invite broken
expect log "ACC: call missed: *;code=500;*"
expect log "ACC: transaction answered: *;code=500;*"
expect no log "ACC: *"
reap
expect live 0
