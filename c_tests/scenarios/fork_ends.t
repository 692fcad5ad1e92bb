title the end of a process: a worker dies, the delivery process dies
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
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
signal 2 9
expect within 10 down
expect log "*exited by a signal 9"
start
signal p1 9
expect within 10 down
start
signal attendant 15
expect within 10 down 0
