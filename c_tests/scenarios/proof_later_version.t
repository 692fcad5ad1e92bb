title a later release whose tables moved is accounted for as ever, and named once
include base.inc
host version 3.6.9
host odd tm_table
start
expect log "*this server is \"opensips 3.6.9 (x86_64/linux)\", which is not among the tested versions*"
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 1 ack inside
recv 3 bye inside
reply 2 bye 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
expect event "E_ACC_CDR {$ECORE} *"
reap
expect live 0
expect no log "*not among*"
stop
