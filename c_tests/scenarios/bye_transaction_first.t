title a transaction is made for the BYE before the dialog is matched
include base.inc
route request end {
  t_newtran()
  loose_route()
  t_relay()
}
include up.inc
recv 1 bye end
reply 2 bye 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_CDR {$ECORE} {$EX} {$EL} {$EDUR}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
reap
expect live 0
