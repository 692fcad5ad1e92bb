title do_accounting on the BYE for a backend without a CDR: the BYE has its own record, the call's marking stays
include base.inc
route request main {
  do_accounting("db", "cdr") -> 1
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
  do_accounting("log") -> 1
  do_accounting("db") -> 1
  t_relay()
}
include up.inc
recv 3 bye end
reply 2 bye 200
expect log "ACC: transaction answered: *;method=BYE;*;code=200;*"
expect no log "ACC: *"
expect no event "E_ACC*"
expect row "SELECT method, sip_code FROM acc" "INVITE|200"
