title two branches fail with the same code: the records are of the first branch's reply, which goes upstream, though it came first
include base.inc
route request main {
  do_accounting("log", "missed|failed") -> 1
  append_branch()
  t_relay()
}
start
recv 1 invite
reply 2 invite.0 486 totag=bob-1
expect no log "ACC: *"
reply 3 invite.1 486 totag=bob-2
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=486;reason=Busy Here*"
expect log "{$TRAN};method=INVITE;from_tag=alice-1;to_tag=bob-1;call_id=call-1@test;code=486;reason=Busy Here*"
expect no log "ACC: *"
reap
expect live 0
