title cancelled with missed and failed, CANCELs not reported
include base.inc
route request main {
  do_accounting("log|db|evi", "missed|failed") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_relay()
}
route request cancel {
  t_check_trans() -> 1
  do_accounting("log|db|evi", "missed|failed") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 180 totag=bob-1
recv 3 cancel cancel
reply 2 invite 487 totag=bob-1
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=487;reason=Request Terminated;{$X};{$L}"
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=487;reason=Request Terminated;{$X};{$L}"
expect no log "ACC: *"
expect log "*report_cancels*"
expect row "SELECT method, sip_code FROM acc UNION ALL SELECT method, sip_code FROM missed_calls" "INVITE|487\nINVITE|487"
reap
expect live 0
