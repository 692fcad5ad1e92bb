title drop on the BYE of a call with a CDR: no CDR
include base.inc
route request end {
  loose_route()
  drop_accounting() -> 1
  t_relay()
}
include up.inc
recv 1 bye end
reply 3 bye 200
expect no log "ACC: *"
expect no event "E_ACC*"
expect row "SELECT count(*) FROM acc" "0"
reap
expect live 0
