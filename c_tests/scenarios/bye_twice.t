title the BYE comes twice more, in other processes, before and after its answer
include base.inc
include up.inc
recv 1 bye inside
recv 2 bye inside
reply 3 bye 200
recv 3 bye inside
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_CDR {$ECORE} {$EX} {$EL} {$EDUR}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
reap
expect live 0
