title do_accounting() beside a flag: one record of an event, in its shape; the other backend has that of flags
include base.inc
include flags.inc
route request main {
  setflag("ACC")
  setflag("MISSED")
  setflag("FAILED")
  do_accounting("log", "missed") -> 1
  $acc_extra(caller) = "me"
  t_relay() -> 1
}
start
recv 1 invite
reply 2 invite 486 totag=bob-1
expect log "{$MISSED};*;code=486;*;x_caller=me;*;from=sip:alice@example.com;*;code=486;note=;*"
expect log "{$TRAN};*;code=486;*;x_caller=me;*;from=sip:alice@example.com;*;code=486;note=;*"
expect no log "ACC: *"
expect row "SELECT sip_code,created FROM acc UNION ALL SELECT sip_code,created FROM missed_calls" "486|NULL\n486|NULL"
reap
expect live 0
