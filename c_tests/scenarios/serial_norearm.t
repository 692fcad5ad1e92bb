title three attempts fail, missed is armed once: one missed record, one failed transaction
include base.inc
route failure fail {
  t_on_failure("fail2")
  t_relay() -> 1
}
route failure fail2 {
  t_relay() -> 1
}
route request main {
  do_accounting("log|db|evi", "missed|failed") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_on_failure("fail")
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-0
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=bob-0;call_id=call-1@test;code=486;reason=Busy Here;{$X};{$L}"
reply 3 invite.1 480 totag=bob-2
expect no log "ACC: *"
reply 1 invite.2 404 totag=bob-3
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=bob-3;call_id=call-1@test;code=404;reason=Not Found;{$X};{$L}"
expect no log "ACC: *"
expect row "SELECT sip_code FROM missed_calls" "486"
expect row "SELECT sip_code FROM acc" "404"
reap
expect live 0
