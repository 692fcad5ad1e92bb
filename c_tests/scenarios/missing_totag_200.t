title a 200 without a To tag makes no call: no CDR, no record
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
start
recv 1 invite
reply 2 invite 200
expect no log "ACC: *"
reap
