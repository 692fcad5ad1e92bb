title a full journal drops new records and keeps the old; a call in progress of which it knows ends in it
include full.inc
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
