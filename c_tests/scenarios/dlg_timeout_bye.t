title the lifetime ends and the proxy sends the BYEs
include base.inc
route request main {
  create_dialog("B") -> 1
  do_accounting("log|db|evi", "cdr") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_relay()
}
include up.inc
dlg_timeout invite
reply 2 invite.bye1 200
reply 3 invite.bye2 481
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_CDR {$ECORE} {$EX} {$EL} {$EDUR}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
reap
expect live 0
