title a 503, the next destination answers: a missed record and a CDR with the second answer
include base.inc
route failure fail {
  check $acc_extra(note) "init"
  $acc_extra(note) = "second"
  t_relay() -> 1
}
route request main {
  do_accounting("log|db|evi", "cdr|missed") -> 1
  $acc_extra(note) = "init"
  t_on_failure("fail")
  t_relay()
}
start
recv 1 invite
reply 2 invite 503 totag=bob-0
expect log "ACC: call missed: *;to_tag=bob-0;*;code=503;reason=Service Unavailable;*x_note=init;*"
reply 3 invite.1 183 totag=bob-1 body
reply 1 invite.1 200 totag=bob-1 body
recv 2 ack inside
reap
recv 3 bye_bob inside
reply 2 bye_bob 200
expect log "{$CDR};{$CORE};x_caller=;callee=;x_num=;x_note=second;x_unset=;{$L0}"
expect no log "ACC: *"
expect row "SELECT sip_code, x_note FROM missed_calls UNION ALL SELECT sip_code, x_note FROM acc" "503|init\n200|second"
reap
expect live 0
