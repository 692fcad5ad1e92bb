title manual records with a context: its values, created of this request
include base.inc
route request main {
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  acc_log_request("403 No") -> 1
  acc_db_request("403 No", "acc") -> 1
  acc_evi_request("403 No") -> 1
  sl_send_reply(403, "No")
}
start
recv 1 invite
expect log "{$MANUAL};method=INVITE;from_tag=alice-1;to_tag=;call_id=call-1@test;code=403;reason=No;{$X};{$L}"
expect event "E_ACC_MISSED_EVENT * sip_code=\"403\" sip_reason=\"No\" time={t} {$EX} {$EL} setuptime={n:0..1} created={t}"
expect row "{$ROWS}" "INVITE|alice-1||call-1@test|403|No|{$RX}|{$RL}"
expect no log "ACC: *"
expect no event "E_ACC*"
expect live 0
