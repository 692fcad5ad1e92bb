title both sides hang up at once
include base.inc
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
reap
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
