title busy, armed again, answered by the next: a missed record and a CDR
include base.inc
route failure fail {
  do_accounting("log|db|evi", "missed") -> 1
  append_branch()
  t_relay() -> 1
}
route request main {
  do_accounting("log|db|evi", "cdr|missed|failed") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_on_failure("fail")
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-0
expect log "{$MISSED};method=INVITE;from_tag=alice-1;to_tag=bob-0;call_id=call-1@test;code=486;reason=Busy Here;{$X};{$L}"
expect no log "ACC: *"
reply 3 invite.1 404 totag=bob-2
expect no log "ACC: *"
reply 3 invite.2 200 totag=bob-1
recv 1 ack inside
recv 2 bye inside
reply 1 bye 200
expect log "{$CDR};{$CORE};{$X};{$L}"
expect no log "ACC: *"
expect event "E_ACC_MISSED_EVENT *"
expect event "E_ACC_CDR *"
expect no event "E_ACC*"
expect row "SELECT sip_code, to_tag FROM missed_calls" "486|bob-0"
expect row "SELECT sip_code, to_tag FROM acc" "200|bob-1"
reap
expect live 0
