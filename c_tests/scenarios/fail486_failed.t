title busy with failed only
include base.inc
route request main {
  do_accounting("log|db|evi", "failed") -> 1
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
reply 2 invite 486 totag=bob-1
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=486;reason=Busy Here;{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_EVENT * sip_code=\"486\" *"
expect no event "E_ACC*"
expect row "SELECT sip_code FROM acc" "486"
expect row "SELECT count(*) FROM missed_calls" "0"
reap
expect live 0
