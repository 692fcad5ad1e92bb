title values set in the global onreply route of a call that is not accounted hurt nobody
include base.inc
route onreply global {
  $acc_extra(note) = "nobody"
}
route request main {
  t_relay()
}
route request accounted {
  do_accounting("log") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1
reap
recv 2 message accounted
reply 2 message 200 totag=bob-1
expect log "ACC: transaction answered: *;x_note=nobody;*"
expect no log "ACC: *"
reap
expect live 0
