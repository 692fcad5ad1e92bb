title drop on the BYE of a call with a CDR: no CDR
include base.inc
route request main {
  do_accounting("log|db|evi", "cdr") -> 1
  $acc_extra(caller) = $fu
  $acc_extra(callee) = $ru
  $acc_extra(num) = 42
  $acc_extra(note) = "init"
  $acc_leg(leg_src) = $fu
  $acc_leg(leg_dst) = $ru
  t_relay()
}
route request end {
  loose_route()
  drop_accounting() -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
reap
recv 1 bye end
reply 3 bye 200
expect no log "ACC: *"
expect no event "E_ACC*"
expect row "SELECT count(*) FROM acc" "0"
reap
expect live 0
