title a call that is up has a row and an event; its CDR takes the row out
include base.inc
route request main {
  do_accounting("db|evi", "cdr|start") -> 1
  do_accounting("log", "cdr|start") -> -1
  do_accounting("db", "interim") -> -1
  $acc_extra(caller) = $fu
  t_relay() -> 1
}
start
recv 1 invite
reply 3 invite 180
reply 3 invite 200 totag=bob-1 body
expect log "*do_accounting(): log has no start and interim records: *"
expect log "*do_accounting(): the flags start and interim need the flag cdr as well"
expect event "E_ACC_START {$ECORE} x_caller=\"sip:alice@example.com\" *setuptime={n:0..1} created={t}"
expect row "SELECT length(call_id), callid, from_tag, to_tag, duration, x_caller FROM acc_calls" "32|call-1@test|alice-1|bob-1|0|sip:alice@example.com"
expect row "SELECT count(*) FROM acc" "0"
recv 2 ack inside
recv 2 bye inside
reply 1 bye 200
expect event "E_ACC_CDR *"
expect row "SELECT callid FROM acc" "call-1@test"
expect row "SELECT count(*) FROM acc_calls" "0"
reap
expect live 0
