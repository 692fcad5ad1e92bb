title drop on the BYE of a call with a CDR: no CDR
include base.inc
route request end {
  loose_route()
  drop_accounting() -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
reap
recv 1 bye end
reply 3 bye 200
expect no log "ACC: *"
expect no event "E_ACC*"
expect row "SELECT count(*) FROM acc" "0"
reap
expect live 0
