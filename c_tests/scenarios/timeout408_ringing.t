title it rings and rings: 408 in the timer process
include base.inc
route request main {
  do_accounting("log|db|evi", "cdr|missed|failed") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_relay() -> 1
}
start
recv 1 invite
reply 2 invite 180 totag=bob-1
timeout invite
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=;call_id=call-1@test;code=408;reason=Request Timeout;{$X};{$L}"
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=;call_id=call-1@test;code=408;reason=Request Timeout;{$X};{$L}"
expect no log "ACC: *"
reap
expect live 0
