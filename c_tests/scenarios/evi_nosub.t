title nobody subscribed: no events, no harm; then only one of them
include base.inc
host subscribe none
route request main {
  do_accounting("evi", "missed|failed") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-1
expect no event "*"
stop
host subscribe E_ACC_MISSED_EVENT
start
recv 1 invite
reply 2 invite 486 totag=bob-1
expect event "E_ACC_MISSED_EVENT *"
expect no event "*"
