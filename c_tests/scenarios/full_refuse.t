title a full journal refuses new requests and keeps the records of those it accepted
modparam journal_full "refuse"
route request refused {
  do_accounting("log") -> 1
  do_accounting("db", "cdr") -> -1
  acc_db_request("404", "acc") -> -1
  t_relay()
}
include full.inc
expect log "*the journal in {dir}/journal is full: *do_accounting() refuses new requests"
recv 3 message refused
reply 1 message 200
expect log "*do_accounting(): the journal in {dir}/journal is full *: the request is not accounted"
# refusals are one line a second
expect no log "*acc_db_request(): the journal in {dir}/journal is full *"
expect log "ACC: transaction answered: *;method=MESSAGE;*"
expect stat journal_refused 2
recv 3 bye inside
reply 1 bye 200
expect stat db_accepted-db_pending 0
expect stat journal_lost 0
shell "mkdir {dir}/later"
expect within 20 stat db_pending 0
expect within 10 stat journal_full 0
expect log "*the journal in {dir}/journal has room again after *"
expect shell "test $(sqlite3 {dir}/later/acc.db \"SELECT count(*) FROM acc WHERE method='INVITE' AND sip_code=200\") = 1"
recv 2 options main
reply 3 options 200
expect within 10 stat db_pending 0
expect shell "test $(sqlite3 {dir}/later/acc.db \"SELECT count(*) FROM acc WHERE method='OPTIONS'\") = 1"
