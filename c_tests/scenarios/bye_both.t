title both sides hang up at once
include base.inc
include up.inc
recv 1 bye inside
recv 2 bye_bob inside
reply 3 bye_bob 481
reply 1 bye 481
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_CDR {$ECORE} {$EX} {$EL} {$EDUR}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
reap
expect live 0
