title a table of its own survives the restart; so does each backend's kind of record
include base.inc
route request main {
  do_accounting("db", "cdr", "acc") -> 1
  do_accounting("log") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
expect log "ACC: transaction answered: *"
reap
restart
recv 2 bye inside
reply 1 bye 200
expect no log "ACC: *"
expect row "SELECT count(*), max(sip_code) FROM acc" "1|200"
