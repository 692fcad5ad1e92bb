title a CDR in a table of its own
include base.inc
route request main {
  do_accounting("db", "cdr", "my_cdrs") -> 1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1 body
recv 3 ack inside
recv 3 bye inside
reply 2 bye 200
expect row "SELECT method, sip_code FROM my_cdrs" "INVITE|200"
expect row "SELECT count(*) FROM acc" "0"
