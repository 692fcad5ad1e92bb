title the reason is that of the reply
include base.inc
route request main {
  do_accounting("log|db|evi") -> 1
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
reply 2 invite 200 "Fine; with me" totag=bob-1
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=200;reason=Fine; with me;{$X};{$L}"
expect row "SELECT sip_reason FROM acc" "Fine; with me"
reap
expect live 0
