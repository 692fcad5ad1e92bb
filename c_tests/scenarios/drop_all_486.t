title drop without arguments: nothing is left
include base.inc
route request main {
  do_accounting("log|db|evi", "missed|failed") -> 1
  drop_accounting() -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 486 totag=bob-1
expect row "SELECT (SELECT count(*) FROM acc) + (SELECT count(*) FROM missed_calls)" "0"
expect no log "ACC: *"
expect no event "E_ACC*"
reap
expect live 0
