title nobody answers: 408 in the timer process, no To tag
include base.inc
route request main {
  do_accounting("log|db|evi", "missed|failed") -> 1
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
timeout invite
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=;call_id=call-1@test;code=408;reason=Request Timeout;{$X};{$L}"
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=;call_id=call-1@test;code=408;reason=Request Timeout;{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_MISSED_EVENT method=\"INVITE\" from_tag=\"alice-1\" to_tag=null * sip_code=\"408\" sip_reason=\"Request Timeout\" *"
expect event "E_ACC_EVENT method=\"INVITE\" from_tag=\"alice-1\" to_tag=null * sip_code=\"408\" *"
expect row "SELECT to_tag, sip_code, sip_reason FROM acc UNION ALL SELECT to_tag, sip_code, sip_reason FROM missed_calls" "|408|Request Timeout\n|408|Request Timeout"
reap
expect live 0
