title the dialog module makes no dialog: false, and transaction records instead of the CDR
include base.inc
host dialog full
route request main {
  do_accounting("log|db|evi", "cdr") -> -1
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
expect log "*the dialog module made no dialog for this call*; this request is accounted without it"
reply 2 invite 200 totag=bob-1 body
expect log "{$TRAN};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_EVENT {$ECORE} {$EX} {$EL}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
reap
expect live 0
