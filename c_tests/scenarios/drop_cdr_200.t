title drop of cdr on the INVITE: a transaction record instead; documented and stock mode
include base.inc
route request main {
  do_accounting("log", "cdr") -> 1
  drop_accounting("log", "cdr") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
expect log "{$TRAN};{$CORE};{$X0};{$L0}"
recv 1 bye inside
reply 3 bye 200
expect no log "ACC: *"
stop
modparam drop_accounting_mode "stock"
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
recv 1 bye inside
reply 3 bye 200
expect no log "ACC: *"
