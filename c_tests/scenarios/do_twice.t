title do_accounting twice adds up; a table of its own
include base.inc
route request main {
  do_accounting("log") -> 1
  do_accounting("db", "failed", "acc") -> 1
  do_accounting("log", "missed") -> 1
  do_accounting("db", , "other_table") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-1
expect log "ACC: call missed: *;code=486;*"
expect no log "ACC: *"
expect row "SELECT sip_code FROM other_table" "486"
expect row "SELECT count(*) FROM acc" "0"
