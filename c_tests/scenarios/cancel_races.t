title CANCEL and 200 cross: the call is answered, one CDR; a CANCEL before any reply ends it here
include base.inc
route request main {
  do_accounting("log|db|evi", "cdr|missed|failed") -> 1
  t_relay()
}
route request cancel {
  t_check_trans() -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 180 totag=bob-1
recv 3 cancel cancel
reply 2 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
expect log "{$CDR};{$CORE};{$X0};{$L0}"
expect no log "ACC: *"
reap
recv 1 invite as again
recv 2 cancel cancel
expect log "ACC: call missed: *;to_tag=;*;code=487;reason=Request Terminated;*"
expect log "ACC: transaction answered: *;to_tag=;*;code=487;*"
expect no log "ACC: *"
reap
expect live 0
