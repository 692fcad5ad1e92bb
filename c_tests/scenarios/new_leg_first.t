title acc_new_leg() before anything else adds the second leg; drop_accounting() before do_accounting() finds what values made
include base.inc
route request main {
  drop_accounting() -> -1
  acc_new_leg() -> 1
  drop_accounting() -> 1
  check $acc_current_leg 1
  $acc_leg(leg_dst) = "second"
  do_accounting("log", "failed") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-1
expect log "{$TRAN};*;x_leg_src=;leg_dst=;x_leg_src=;leg_dst=second"
reap
expect live 0
