title a manual record in the failure route, with the values of the call
include base.inc
route failure fail {
  acc_log_request("503 gave up") -> 1
  acc_db_request("503 gave up", "missed_calls") -> 1
}
route request main {
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_on_failure("fail")
  do_accounting("log") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 503 totag=bob-1
expect log "{$MANUAL};method=INVITE;from_tag=alice-1;to_tag=;call_id=call-1@test;code=503;reason=gave up;{$X};{$L}"
expect no log "ACC: *"
expect row "SELECT sip_code, sip_reason, x_note FROM missed_calls" "503|gave up|init"
reap
expect live 0
