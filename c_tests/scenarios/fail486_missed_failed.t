title busy with missed and failed: the whole missed set, then the transaction
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
reply 2 invite 180 totag=bob-1
reply 3 invite 486 totag=bob-1
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=486;reason=Busy Here;{$X};{$L}"
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=486;reason=Busy Here;{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_MISSED_EVENT * sip_code=\"486\" sip_reason=\"Busy Here\" time={t} {$EX} {$EL} setuptime={n:0..1} created={t}"
expect event "E_ACC_EVENT * sip_code=\"486\" sip_reason=\"Busy Here\" time={t} {$EX} {$EL}"
expect no event "E_ACC*"
expect row "{$ROWS}" "INVITE|alice-1|bob-1|call-1@test|486|Busy Here|{$RX}|{$RL}"
expect row "{$MROWS}" "INVITE|alice-1|bob-1|call-1@test|486|Busy Here|{$RX}|{$RL}"
reap
expect live 0
