title two restarts in the middle of the call
include base.inc
route request main {
  do_accounting("log|db|evi", "cdr") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
reap
restart
restart
recv 2 bye_bob inside
reply 1 bye_bob 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_CDR {$ECORE} {$EX} {$EL} {$EDUR}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
reap
expect live 0
