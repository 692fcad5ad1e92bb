title ended by management, the BYEs go through the local route
include base.inc
route local {
  $var(x) = $rm
}
include up.inc
dlg_end invite in 3
reply 2 invite.bye1 200
reply 3 invite.bye2 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_CDR {$ECORE} {$EX} {$EL} {$EDUR}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
reap
expect live 0
