title drop of missed: the failed transaction stays
include base.inc
route request main {
  do_accounting("log|db|evi", "missed|failed") -> 1
  drop_accounting("log|db|evi", "missed") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-1
expect log "ACC: transaction answered: *;code=486;*"
expect event "E_ACC_EVENT * sip_code=\"486\" *"
expect row "SELECT sip_code FROM acc" "486"
expect row "SELECT count(*) FROM missed_calls" "0"
expect no log "ACC: *"
expect no event "E_ACC*"
reap
expect live 0
