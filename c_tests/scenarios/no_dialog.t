title cdr without the dialog module; transaction records without it
include base.inc
host dialog off
route request main {
  do_accounting("log|db|evi", "missed|failed") -> 1
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
reply 2 invite 200 totag=bob-1
expect log "{$TRAN};{$CORE};{$X};{$L}"
reap
expect live 0
