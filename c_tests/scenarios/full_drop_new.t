title a full journal drops new records and keeps the old; a call in progress of which it knows ends in it
include base.inc
modparam db_url "sqlite://{dir}/later/acc.db"
modparam delivery_retry_max 1
modparam journal_max_size 1
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
recv 3 bye inside
reply 1 bye 200
recv 3 options main
reply 1 options 200
expect stat journal_lost 2
expect stat db_accepted 18
expect count 1 log "*records are lost: the journal in {dir}/journal is full *"
kill9
expect stat db_pending 18
shell "mkdir {dir}/later"
expect within 20 stat db_pending 0
expect stat journal_full 0
# the call has ended: it is no orphan
sleep 1500
expect shell "test $(sqlite3 {dir}/later/acc.db 'SELECT count(*) FROM acc') = 18"
