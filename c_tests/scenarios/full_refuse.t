title a full journal refuses new requests and keeps the records of those it accepted
include base.inc
modparam db_url "sqlite://{dir}/later/acc.db"
modparam delivery_retry_max 1
modparam journal_max_size 1
modparam journal_full "refuse"
msg n_message <<END
MESSAGE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-big-%n
From: <sip:alice@example.com>;tag=alice-%n
To: <sip:bob@example.com>
Call-ID: big-%n@test
CSeq: 1 MESSAGE
END
route request main {
  do_accounting("db", "cdr") -> 1
  t_relay()
}
route request big {
  do_accounting("db")
  $acc_extra(note) = "{x*60000}"
  t_relay()
}
route request refused {
  do_accounting("log") -> 1
  do_accounting("db", "cdr") -> -1
  acc_db_request("404", "acc") -> -1
  t_relay()
}
start
recv 1 invite
reply 2 invite 200 totag=bob-1
reap
loop 18
recv 1 n_message big
reply 2 n_message 200
reap
end
expect stat journal_full 1
expect log "*the journal in {dir}/journal is full: *do_accounting() refuses new requests"
recv 3 message refused
reply 1 message 200
expect log "*do_accounting(): the journal in {dir}/journal is full *: the request is not accounted"
expect log "*acc_db_request(): the journal in {dir}/journal is full *"
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
