title requests that are no calls: MESSAGE, OPTIONS answered here, failures
include base.inc
route request relayed {
  do_accounting("log|db|evi", "cdr|missed|failed") -> 1
  t_relay()
}
route request own {
  do_accounting("log|db|evi") -> 1
  t_newtran()
  t_reply(200, "OK")
}
route request stateless {
  do_accounting("log|db|evi", "failed") -> 1
  sl_send_reply(404, "No")
}
start
recv 1 message relayed
reply 2 message 200 totag=bob-1
expect log "{$TRAN};method=MESSAGE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=200;reason=OK;{$X0};{$L0}"
reap
recv 1 message relayed
reply 3 message 404 totag=bob-1
expect log "ACC: call missed: *;method=MESSAGE;*;code=404;*"
expect log "ACC: transaction answered: *;method=MESSAGE;*;code=404;*"
reap
recv 3 options own
expect log "{$TRAN};method=OPTIONS;from_tag=alice-1;to_tag=;call_id=call-1@test;code=200;reason=OK;{$X0};{$L0}"
expect no log "ACC: *"
reap
recv 2 options stateless
expect no log "ACC: *"
expect live 0
