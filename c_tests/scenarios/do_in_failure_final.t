title accounting asked for in the failure route, which then lets the failure go on: the reply of that attempt is reported
include base.inc
route failure fail {
  do_accounting("log|db|evi", "failed|missed") -> 1
}
route request main {
  t_on_failure("fail")
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-1
expect log "ACC: call missed: *;to_tag=bob-1;*;code=486;*"
expect log "ACC: transaction answered: *;to_tag=bob-1;*;code=486;*"
expect no log "ACC: *"
reap
expect live 0
