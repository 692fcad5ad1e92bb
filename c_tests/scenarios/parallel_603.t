title a 6xx ends all branches at once; a late reply of another branch changes nothing
include base.inc
route request main {
  do_accounting("log|db|evi", "missed|failed") -> 1
  append_branch()
  t_relay()
}
start
recv 1 invite
reply 2 invite.0 180 totag=bob-1
reply 3 invite.1 603 totag=bob-2
expect log "ACC: call missed: *;to_tag=bob-2;*;code=603;reason=Decline;*"
expect log "ACC: transaction answered: *;to_tag=bob-2;*;code=603;*"
reply 2 invite.0 487 totag=bob-1
expect no log "ACC: *"
reap
expect live 0
