title a panic in an entry point: one line with the place, the process lives on, other calls are accounted
include ../scenarios/base.inc
route onreply global {
  $acc_extra(note) = "reply"
}
route request main {
  do_accounting("log|db|evi", "missed")
  do_accounting("log|db|evi", "cdr")
  $acc_extra(caller) = $fu
  $acc_leg(leg_src) = $(acc_leg(leg_dst)[0])
  $var(n) = $acc_current_leg
  $var(n) = $acc_extra(note)
  acc_log_request("200 x")
  t_relay()
}
host env ACC_FAULT_PANIC=modparam
start fails
expect log "*panic in modparam at *"
host env ACC_FAULT_PANIC=preinit
start fails
expect log "*panic in preinit at *"
host env ACC_FAULT_PANIC=init
start fails
expect log "*panic in init at *"
host env ACC_FAULT_PANIC=load
start fails
expect log "*panic in load at *"
host env ACC_FAULT_PANIC=variable name
start fails
expect log "*panic in variable name at *"
host env ACC_FAULT_PANIC=variable index
start fails
expect log "*panic in variable index at *"
host env ACC_FAULT_PANIC=get $acc_extra
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in get $acc_extra at *"
expect up
stop
host env ACC_FAULT_PANIC=set $acc_extra
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in set $acc_extra at *"
expect up
stop
host env ACC_FAULT_PANIC=get $acc_leg
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in get $acc_leg at *"
expect up
stop
host env ACC_FAULT_PANIC=set $acc_leg
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in set $acc_leg at *"
expect up
stop
host env ACC_FAULT_PANIC=get $acc_current_leg
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in get $acc_current_leg at *"
expect up
stop
host env ACC_FAULT_PANIC=new transaction
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in new transaction at *"
expect up
stop
host env ACC_FAULT_PANIC=transaction callback
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in transaction callback at *"
expect up
stop
host env ACC_FAULT_PANIC=dialog callback
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in dialog callback at *"
expect up
stop
host env ACC_FAULT_PANIC=end of a message
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in end of a message at *"
expect up
stop
host env ACC_FAULT_PANIC=answer
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in answer at *"
expect up
stop
host env ACC_FAULT_PANIC=script callback of replies
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in script callback of replies at *"
expect up
stop
host env ACC_FAULT_PANIC=release of a context
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in release of a context at *"
expect up
stop
host env ACC_FAULT_PANIC=end of a BYE
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in end of a BYE at *"
expect up
stop
host env ACC_FAULT_PANIC=reply of a BYE
start
recv 1 invite
reply 2 invite 180 totag=bob-1
reply 3 invite 200 totag=bob-1
recv 1 ack inside
recv 1 bye inside
reply 2 bye 200
reap
expect log "*panic in reply of a BYE at *"
expect up
stop
host env ACC_FAULT_PANIC=restored dialog
start
recv 1 invite
reply 3 invite 200 totag=bob-1
reap
restart
expect log "*panic in restored dialog at *"
expect up
