title the BYE is answered by the proxy itself, without a transaction
include base.inc
route request end {
  loose_route()
  sl_send_reply(200, "OK")
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
reap
recv 1 bye end
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_CDR {$ECORE} {$EX} {$EL} {$EDUR}"
expect no event "E_ACC*"
expect row "{$ROWS}" "{$RCORE}|{$RX}|{$RL}"
reap
expect live 0
