title transaction records of the INVITE and of the BYE of the callee
include base.inc
route request main {
  do_accounting("log|db|evi") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_relay()
}
route request end {
  loose_route()
  do_accounting("log|db|evi") -> 1
  $acc_extra(note) = "bye"
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 2 ack inside
expect log "{$TRAN};{$CORE};{$X};{$L}"
expect event "E_ACC_EVENT {$ECORE} {$EX} {$EL}"
reap
expect live 0
recv 3 bye_bob end
reply 1 bye_bob 200
expect log "{$TRAN};method=BYE;from_tag=bob-1;to_tag=alice-1;call_id=call-1@test;code=200;reason=OK;x_caller=;callee=;x_num=;x_note=bye;x_unset=;{$L0}"
expect no log "ACC: *"
expect event "E_ACC_EVENT method=\"BYE\" * x_note=\"bye\" x_unset=null {$EL0}"
expect no event "E_ACC*"
expect row "SELECT method,sip_code,x_caller,x_note,coalesce(duration,0),coalesce(ms_duration,0) FROM acc ORDER BY method" "BYE|200|NULL|bye|0|0\nINVITE|200|sip:alice@example.com|init|0|0"
