title a re-INVITE and an INFO inside of the call write nothing
include base.inc
include up.inc
recv 3 reinvite inside
reply 1 reinvite 200
recv 2 info inside
reply 2 info 200
reap
recv 1 bye inside
reply 2 bye 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_CDR {$ECORE} {$EX} {$EL} {$EDUR}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
reap
expect live 0
