title drop of failed: the missed call stays
include base.inc
route request main {
  do_accounting("log|db|evi", "missed|failed") -> 1
  drop_accounting("log|db|evi", "failed") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-1
expect log "ACC: call missed: *;code=486;*"
expect event "E_ACC_MISSED_EVENT *"
expect row "SELECT count(*) FROM acc" "0"
expect row "SELECT sip_code FROM missed_calls" "486"
expect no log "ACC: *"
expect no event "E_ACC*"
reap
expect live 0
