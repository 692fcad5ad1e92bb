title two branches fail: one missed record of the reply that wins, though another process kept it
include base.inc
route request main {
  do_accounting("log|db|evi", "cdr|missed|failed") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  append_branch()
  t_relay()
}
start
recv 1 invite
reply 2 invite.1 404 totag=bob-2
expect no log "ACC: *"
reply 3 invite.0 486 totag=bob-1
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=bob-2;call_id=call-1@test;code=404;reason=Not Found;{$X};{$L}"
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=bob-2;call_id=call-1@test;code=404;reason=Not Found;{$X};{$L}"
expect no log "ACC: *"
expect row "SELECT sip_code, to_tag FROM missed_calls UNION ALL SELECT sip_code, to_tag FROM acc" "404|bob-2\n404|bob-2"
reap
expect live 0
