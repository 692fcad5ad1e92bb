title with too little space on its disk the journal is full before it cannot be written
include base.inc
modparam journal_min_free 1048576
modparam journal_full "refuse"
route request main {
  do_accounting("db") -> -1
  do_accounting("evi") -> 1
  t_relay()
}
start
expect stat journal_full 1
recv 1 message main
reply 2 message 200
expect event "E_ACC_EVENT *"
expect stat db_accepted 0
expect stat journal_refused 1
